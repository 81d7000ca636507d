// The lines that READMEs give to paste: the first session runs in each shell, in CI without
// exception, and no block has a comment that an interactive zsh, which knows none, would take for a
// command.
import assert from 'node:assert/strict'
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

import { failures } from '../src/errors.ts'
import { post } from '../src/webhooks/post.ts'
import { createTestDatabase, hashCheaply, password, startTestApp, undo } from './support/helpers.ts'
import { freePort, until } from './support/process.ts'
import { startReceiver } from './support/receiver.ts'

hashCheaply()
const receiver = await startReceiver()
const app = await startTestApp(receiver.env)
const admin = await app.admin()

const top = fileURLToPath(new URL('..', import.meta.url))
const read = (path: string) => readFileSync(join(top, path), 'utf8')
const listed = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard'], {
  cwd: top,
  encoding: 'utf8',
})
const files = listed.trim().split('\n')
const readmes = files.filter((path) => path.endsWith('.md'))

interface Block {
  language: string
  /** The number of the line before its first one. */
  line: number
  lines: string[]
}

/** The fenced blocks of a text. */
function findBlocks(text: string): Block[] {
  const blocks: Block[] = []
  let open: Block | null = null
  for (const [index, line] of text.split('\n').entries()) {
    const fence = /^ *```(.*)$/.exec(line)
    if (fence === null) {
      open?.lines.push(line)
    } else if (open === null) {
      open = { language: fence[1]!, line: index + 1, lines: [] }
    } else {
      blocks.push(open)
      open = null
    }
  }
  return blocks
}

/** What is wrong with the comments of a block, by the quotes of a shell. */
function findCommentFaults({ line, lines }: Block): string[] {
  const faults: string[] = []
  let quote = ''
  for (const [index, text] of lines.entries()) {
    for (let at = 0; at < text.length; at++) {
      const char = text[at]!
      const before = text.slice(0, at)
      if (quote !== '') {
        if (char === quote) quote = ''
      } else if (char === "'" || char === '"') {
        quote = char
      } else if (char === '#' && /(^|\s)$/.test(before)) {
        const isBehind = before.trim() !== ''
        const isRead = /[^\w\s.,:/-]/.test(text.slice(at + 1))
        if (isBehind || isRead) faults.push(`line ${line + index + 1}: ${text.trim()}`)
        break
      }
    }
  }
  return faults
}

test('no block has a comment behind a command, or one that a shell would read', () => {
  const findFaults = (text: string) => findBlocks(text).flatMap(findCommentFaults)
  const faulty = ['ls # all', '# list, as an admin; rm', '# who?', '  # $HOME', '# `ls`', "# 'a"]
  for (const line of faulty) {
    assert.deepEqual(findFaults(`\`\`\`sh\n${line}\n\`\`\``), [`line 2: ${line.trim()}`])
  }
  assert.deepEqual(findFaults('```sh\n# plain\na="#" b=c#d\n```\n'), [])
  assert.deepEqual(
    readmes.flatMap((path) => findFaults(read(path)).map((fault) => `${path}, ${fault}`)),
    [],
  )
})

test('every block is fenced and says what it is', () => {
  const findFaults = (text: string) => {
    const languages = findBlocks(text).map(({ language }) => language)
    const outside = text.replace(/^ *```[^]*?^ *```/gm, '')
    const indented = [...outside.matchAll(/\n\n( {4,}\S.*)/g)].map(([, line]) => line!)
    return [...languages.filter((language) => language === ''), ...indented]
  }
  assert.deepEqual(findFaults('```\na\n```\n\n    npm test\n'), ['', '    npm test'])
  assert.deepEqual(
    readmes.flatMap((path) => findFaults(read(path)).map((fault) => `${path}: ${fault}`)),
    [],
  )
})

test('every test that the catalogue names is there', () => {
  const tests = files
    .filter((path) => path.endsWith('.test.ts'))
    .map(read)
    .join('\n')
  const findGone = (text: string) =>
    [...text.matchAll(/(?<!\*)\*([^*\n]+)\*(?!\*)/g)]
      .flatMap(([, name]) => name!.split('…'))
      .filter((part) => !tests.includes(part.trim()))
  const gone = ['never', 'written'].join(' ')
  assert.deepEqual(findGone(`*every test that … there* and *${gone}*`), [gone])
  assert.deepEqual(findGone(read('test/CATALOGUE.md')), [])
})

test('every setting is in a README', () => {
  const reading =
    /\b(?:text|read|integer|file|choice|pair|secret)\(\s*'([A-Z]\w+)'(?:, '([A-Z]\w+)')?/g
  const names = files
    .filter((path) => /^src\/.*\.ts$/.test(path))
    .flatMap((path) => [...read(path).matchAll(reading)])
    .flatMap(([, name, other]) => [name, other])
    .filter((name) => name !== undefined)
  const text = readmes.map(read).join('\n')
  assert.ok(names.includes('RATE_LIMIT') && names.includes('S3_BUCKET'))
  assert.deepEqual(
    names.filter((name) => !text.includes(`\`${name}`)),
    [],
  )
})

test('every path of the API is in the table of README.md', async () => {
  const document = await (await fetch(`${app.base}/openapi.json`)).json()
  const readme = read('README.md')
  const paths = Object.keys((document as { paths: object }).paths)
  assert.ok(paths.includes('/users/{id}'))
  assert.deepEqual(
    paths.filter((path) => !readme.includes(`${path}\``)),
    [],
  )
})

test('test/README.md lists every script and every test with real programs', () => {
  const text = read('test/README.md')
  const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> }
  const suites = Object.keys(scripts).filter((name) => /test\//.test(scripts[name]!))
  const system = files.filter((path) => /^test\/system\/[^/]+\.test\.ts$/.test(path))
  const named = [
    ...suites.filter((name) => name !== 'test'),
    ...system.map((path) => basename(path)),
  ]
  assert.ok(named.includes('bench') && named.includes('tls.test.ts'))
  assert.deepEqual(
    named.filter((name) => !text.includes(`\`npm run ${name}`) && !text.includes(`\`${name}\``)),
    [],
  )
})

test('every metric is in a README', async () => {
  const { text } = await app.request('GET', '/metrics', { key: admin.key })
  const names = [...text.matchAll(/^# TYPE (\w+)/gm)].map(([, name]) => name!)
  const readme = read('bin/README.md')
  assert.ok(names.includes('http_requests_total'))
  assert.deepEqual(
    names.filter((name) => !readme.includes(`\`${name}\``)),
    [],
  )
})

test('the SQL that is shown runs, and ids of version 4 are in order', async () => {
  const { db } = await createTestDatabase()
  const blocks = readmes.flatMap((path) => findBlocks(read(path)))
  const shown = blocks.filter(({ language }) => language === 'sql')
  assert.equal(shown.length, 6)
  for (const { lines } of shown) {
    // One by one: an index cannot be made concurrently beside another statement.
    for (const statement of lines.join('\n').split(/;$/m)) await db.query(statement)
  }
  const made = []
  for (let i = 0; i < 10; i++) {
    const [row] = await db.query<{ id: string }>('select user_service_schema.uuid_v7() as id')
    made.push(row!.id)
  }
  for (const id of made) assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab]/)
  assert.deepEqual(made, [...made].sort())
})

test('every code is listed with its status, and no other', () => {
  const shown = [...read('src/users/README.md').matchAll(/^\| `(\w+)` \| (\d+) \|/gm)]
  assert.deepEqual(
    shown.map(([, code, status]) => `${code} ${status}`).sort(),
    Object.entries(failures)
      .map(([code, { status }]) => `${code} ${status}`)
      .sort(),
  )
})

test('the objects shown as JSON have the members of real ones', async () => {
  const blocks = findBlocks(read('src/users/README.md')).filter(
    ({ language }) => language === 'json',
  )
  const shown = blocks.map(({ lines }) => Object.keys(JSON.parse(lines.join('\n'))))
  const credentials = { email: 'ada@example.org', password }
  const created = await app.request('POST', '/users', { body: credentials })
  const [key] = created.details.apiKeys
  const user = await app.request('GET', '/users/me', { key })
  const keys = await app.request('GET', `/users/${user.details.id}/keys`, { key })
  const session = await app.request('POST', '/users/sessions', { body: credentials })
  const events = await app.request('GET', '/audit', { key: admin.key })
  const real = [user.details, keys.details[0], session.details, events.details[0]]
  assert.deepEqual(shown, real.map(Object.keys))
  await app.request('DELETE', `/users/${user.details.id}`, { key })
})

test('the receiver that is shown prints the mail of a signed request, once', async () => {
  const [code] = findBlocks(read('src/webhooks/README.md')).filter(
    ({ language }) => language === 'js',
  )
  const directory = mkdtempSync(join(tmpdir(), 'user-service-receiver-'))
  undo.push(() => rmSync(directory, { recursive: true }))
  const file = join(directory, 'receiver.mjs')
  const port = await freePort()
  writeFileSync(file, code!.lines.join('\n').replace('8025', String(port)))
  const { WEBHOOK_SECRET_FILE = '' } = receiver.env
  const child = spawn(process.execPath, [file], { env: { WEBHOOK_SECRET_FILE } })
  undo.push(() => child.kill('SIGKILL'))
  let printed = ''
  child.stdout.on('data', (chunk: Buffer) => {
    printed += String(chunk)
  })
  const url = `http://127.0.0.1:${port}/`
  const tell = async (secrets: Buffer[]) => {
    const body = {
      type: 'password.reset_requested',
      data: { email: 'ada@example.org', token: 'ust_x' },
    }
    const sent = { id: 'one', timeOrigin: performance.timeOrigin }
    const failure = await post({ url, secrets, events: [] }, sent, body)
    return failure?.reason
  }
  const secrets = receiver.secrets.map((secret) => Buffer.from(secret.slice(6), 'base64'))
  await until('it listens', async () => (await tell([Buffer.alloc(32)])) === 'status 401')
  assert.equal(await tell([Buffer.alloc(32), ...secrets]), undefined)
  assert.equal(await tell(secrets), undefined)
  const mail = 'To: ada@example.org\n\nSet a new password: https://app.example.org/reset#ust_x\n\n'
  await until('the mail is printed', () => printed.includes(mail))
  assert.equal(printed.split('To: ').length, 2)
})

interface Shell {
  shell: string
  flags: string[]
}
const interactive: Shell[] = [
  { shell: 'sh', flags: ['-i'] },
  { shell: 'bash', flags: ['--norc', '--noprofile', '-i'] },
  { shell: 'zsh', flags: ['-f', '-i'] },
]

/** Why a shell is not tried; never in CI, which installs all of them. */
function reasonToSkip({ shell }: Shell) {
  const isHere = spawnSync('sh', ['-c', `command -v ${shell}`]).status === 0
  return isHere || process.env['CI'] !== undefined ? false : `there is no ${shell} here`
}

/** Pastes lines into an interactive shell in `directory`; returns its output. */
async function paste({ shell, flags }: Shell, directory: string, lines: string) {
  const child = spawn(shell, flags, {
    cwd: directory,
    env: { PATH: process.env['PATH'], HOME: dirname(directory) },
    // Without a terminal, which an interactive shell would take from the run of the tests.
    detached: true,
  })
  undo.push(() => child.kill('SIGKILL'))
  let printed = ''
  let complaints = ''
  child.stdout.on('data', (chunk: Buffer) => {
    printed += String(chunk)
  })
  child.stderr.on('data', (chunk: Buffer) => {
    complaints += String(chunk)
  })
  child.stdin.end(lines)
  await once(child, 'close')
  return { printed, complaints }
}

/** What the answers of the session hold, in their order. */
const sessionAnswers = [
  /"email":"ada-\d+@example.org".*"apiKeys":\["usk_/,
  /"email":"ada-\d+@example.org".*"apiKeys":\[\]/,
  /"details":\[\{"id":.*"email":"ada-\d+@example.org"/,
  /"email":"new-ada-\d+@example.org".*"version":2/,
  /"key":"usk_/,
]

for (const shell of interactive) {
  const skip = reasonToSkip(shell)
  test(
    `an account's life, pasted into ${shell.shell}, does what each part says`,
    { skip },
    async () => {
      const page = /\n## An account's life\n([^]*?)\n## /.exec(read('src/users/README.md'))![1]!
      const lines = findBlocks(page).flatMap((block) => block.lines)
      const text = [`U=${app.base}`, `ADMIN=${admin.key}`, ...lines, ''].join('\n')

      const { printed, complaints } = await paste(shell, tmpdir(), text)

      const answers = printed.split('{"requestId":').slice(1)
      const lifeAnswers = [
        /"email":"grace-\d+@example.org","emailVerified":true/,
        /"kind":"session".*"agent":"curl/,
        /"action":"user.changed"/,
      ]
      assert.equal(answers.length, lifeAnswers.length, `${printed}\n${complaints}`)
      for (const [index, answer] of answers.entries()) assert.match(answer, lifeAnswers[index]!)
      const users = await app.request('GET', '/users', { key: admin.key })
      assert.deepEqual(users.details, [admin.id])
    },
  )

  test(
    `the first session, pasted twice into ${shell.shell}, leaves nothing`,
    { skip },
    async () => {
      const directory = mkdtempSync(join(tmpdir(), 'user-service-readme-'))
      undo.push(() => rmSync(directory, { recursive: true, force: true }))
      const checkout = join(directory, 'checkout')
      mkdirSync(join(checkout, '.local'), { recursive: true })
      writeFileSync(join(checkout, '.local/admin-key'), `${admin.key}\n`)
      const session = /\n## A first session\n([^]*?)\n## /.exec(read('README.md'))![1]!
      const lines = findBlocks(session).flatMap((block) => block.lines)
      const text = lines.join('\n').replace('http://127.0.0.1:60001/v1', app.base)

      const { printed, complaints } = await paste(shell, checkout, `${text}\n${text}\n`)

      const answers = printed.split('{"requestId":').slice(1)
      assert.equal(answers.length, 2 * sessionAnswers.length, `${printed}\n${complaints}`)
      for (const [index, answer] of answers.entries()) {
        assert.match(answer, sessionAnswers[index % sessionAnswers.length]!)
      }
      assert.equal(printed.match(/HTTP\/1.1 200 OK\r\n/g)?.length, 2)
      assert.equal(printed.match(/\nX-Auth-User-Email: new-ada-\d+@example.org\r\n/g)?.length, 2)
      assert.doesNotMatch(complaints, /not found|no matches|error/i)
      const users = await app.request('GET', '/users', { key: admin.key })
      assert.deepEqual(users.details, [admin.id])
      assert.deepEqual(readdirSync(checkout), ['.local'])
    },
  )
}
