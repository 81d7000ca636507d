// Schemathesis, of PyPI: every operation with what the document allows and forbids, in all of its
// phases, with an admin's key and without. It finds nothing but what JSON Schema cannot say.
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { before, test } from 'node:test'

import { hashCheaply, startTestApp, undo } from '../support/helpers.ts'
import { run, succeed } from '../support/process.ts'

hashCheaply()
const folder = mkdtempSync(join(tmpdir(), 'user-service-schemathesis-'))
undo.push(() => rmSync(folder, { recursive: true, force: true }))
const program = join(folder, 'bin/schemathesis')

before(async () => {
  await succeed('python3', ['-m', 'venv', folder])
  await succeed(join(folder, 'bin/pip'), ['install', '--quiet', 'schemathesis==4.32.5'])
})

/** Why a request is refused that fits its schema: no keyword tells of these. */
const beyondSchema = [
  /^must not be one of the most common passwords$/,
  /^must not be the email$/,
  // Counted after NFKC, and after NFC.
  /^must have \d+ to 128 characters$/,
  /^must have at most 254 characters$/,
  // Of Unicode's format characters, the pattern has those of the first plane.
  /^must not have white space or control characters$/,
  /^must be in the future$/,
  /^cannot be combined with /,
  /^is for the purpose /,
  /4 KiB/,
  // A password, which admins alone may leave out.
  /^is missing$/,
]

/** What Schemathesis reports, less what it cannot know. */
function findingsOf(output: string): string[] {
  const blocks = output.split(/^\d+\. Test Case ID: /m).slice(1)
  return blocks.filter((block) => {
    // If-Match has no pattern, which some clients would hold against the ETag that they got.
    if (block.includes(`-H 'If-Match`) && block.includes('"code":"invalid_request"')) return false
    const body = /"errors":(\[.*\])\}/.exec(block)?.[1]
    if (!block.includes('Schema-valid request rejected') || body === undefined) return true
    const messages = (JSON.parse(body) as { message: string }[]).map(({ message }) => message)
    return !messages.every((message) => beyondSchema.some((form) => form.test(message)))
  })
}

/** Of the caller itself, these two end its key. */
const ending = ['deleteUser', 'updateUser']

async function hold(options: string[], withKey: boolean) {
  const app = await startTestApp({ RATE_LIMIT: '0', KEYS_PER_USER: '0' })
  const { key } = await app.admin()
  // It keeps what it found where it runs.
  const { stdout, stderr } = await run('sh', [
    ...['-c', 'cd "$0" && exec "$@"', folder, program],
    'run',
    `${app.base}/openapi.json`,
    '--no-color',
    ...['--max-examples', '10'],
    ...['--output-sanitize', 'false', '--output-truncate', 'false'],
    ...(withKey ? ['--header', `X-Api-Key: ${key}`] : []),
    ...options,
  ])
  const [, selected] = /Selected: (\d+)\//.exec(stdout) ?? []
  assert.match(stdout, new RegExp(`Tested: ${selected}\\b`), stdout + stderr)
  for (const phase of ['Examples', 'Coverage', 'Fuzzing', 'Stateful']) {
    assert.match(stdout, new RegExp(`${phase} \\(in `))
  }
  assert.deepEqual(findingsOf(stdout), [])
}

test('Schemathesis finds nothing without a key', () => hold([], false))

test('Schemathesis finds nothing with a key of an admin', () =>
  hold(
    ending.flatMap((id) => ['--exclude-operation-id', id]),
    true,
  ))

test('Schemathesis finds nothing where it may end its own key', () =>
  hold(
    ending.flatMap((id) => ['--include-operation-id', id]),
    true,
  ))
