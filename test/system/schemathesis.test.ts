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
]

/** What Schemathesis reports, less what it cannot know. */
function findingsOf(output: string): string[] {
  const blocks = output.split(/^\d+\. Test Case ID: /m).slice(1)
  return blocks.filter((block) => {
    const body = /"errors":(\[.*\])\}/.exec(block)?.[1]
    if (!block.includes('Schema-valid request rejected') || body === undefined) return true
    const messages = (JSON.parse(body) as { message: string }[]).map(({ message }) => message)
    return !messages.every((message) => beyondSchema.some((form) => form.test(message)))
  })
}

for (const caller of ['an admin', 'nobody'] as const) {
  test(`Schemathesis finds nothing as ${caller}`, async () => {
    const app = await startTestApp({ RATE_LIMIT: '0', KEYS_PER_USER: '0' })
    const { key } = await app.admin()
    // Against another admin it may do what it likes.
    await app.admin()
    const options = ['--max-examples', '15', '--output-sanitize', 'false', '--no-color']
    const header = caller === 'an admin' ? ['--header', `X-Api-Key: ${key}`] : []
    const { stdout, stderr } = await run(program, [
      'run',
      `${app.base}/openapi.json`,
      '--output-truncate',
      'false',
      ...options,
      ...header,
    ])
    const document = JSON.parse((await app.request('GET', '/openapi.json')).text)
    const operations = Object.values<object>(document.paths).flatMap(Object.keys).length
    assert.match(stdout, new RegExp(`Tested: ${operations}\\b`), stdout + stderr)
    for (const phase of ['Examples', 'Coverage', 'Fuzzing', 'Stateful']) {
      assert.match(stdout, new RegExp(`${phase} \\(in `))
    }
    assert.deepEqual(findingsOf(stdout), [])
  })
}
