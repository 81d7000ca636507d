// A second factor as real authenticators see it: qrencode draws the URI, zbarimg reads it back, and
// oathtool shows codes that a service takes whose own clock is a day ahead.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'

import { makeClock } from '../support/faketime.ts'
import { createTestDatabase, makeKeyFile, password } from '../support/helpers.ts'
import { makeFolder, root, succeed } from '../support/process.ts'
import { startService } from '../support/service.ts'

const clock = makeClock()
clock.leap(1)
const { env } = await createTestDatabase()
const service = await startService({ ...env, ...clock.env, SECRETS_KEY_FILE: makeKeyFile() })
const email = 'zoë:a&b+c@example.org'

async function post(path: string, body: object, key?: string) {
  const response = await fetch(service.url + path, {
    method: 'POST',
    body: JSON.stringify(body),
    headers: { 'content-type': 'application/json', ...(key && { 'x-api-key': key }) },
  })
  const { details } = (await response.json()) as { details: any }
  return { status: response.status, details }
}

test('a drawn URI is read back, and its codes log in', async () => {
  assert.equal((await post('/users', { email, password })).status, 201)
  const { key } = (await post('/users/sessions', { email, password })).details
  const { secret, uri } = (await post('/users/me/factor', {}, key)).details

  const picture = join(makeFolder('picture'), 'factor.png')
  await succeed('qrencode', ['--output', picture, uri])
  const read = await succeed('zbarimg', ['--quiet', '--raw', picture])
  assert.equal(read, uri)
  const { protocol, host, pathname, searchParams } = new URL(read)
  assert.deepEqual(
    [protocol, host, decodeURIComponent(pathname), Object.fromEntries(searchParams)],
    [
      'otpauth:',
      'totp',
      `/user-service:${email}`,
      { secret, issuer: 'user-service', algorithm: 'SHA1', digits: '6', period: '30' },
    ],
  )
  // What separates the issuer from the address is the one colon that is not escaped.
  assert.equal(pathname.split(':').length, 2)

  const show = (now: string) => succeed('oathtool', ['--totp', '--base32', `--now=${now}`, secret])
  const confirmed = await post('/users/me/factor/confirm', { code: await show('now') }, key)
  assert.equal(confirmed.status, 200)
  const { token } = (await post('/users/sessions', { email, password })).details
  const early = await post('/users/sessions', { token, code: await show('now + 1 day') })
  assert.equal(early.status, 401)
  const whole = await post('/users/sessions', { token, code: await show('now + 30 seconds') })
  assert.equal(whole.status, 201)
})

for (const shell of ['bash', 'zsh']) {
  test(`the lines of the README, in ${shell}, set a factor up and log in with it`, async () => {
    const page = readFileSync(join(root, 'src/users/README.md'), 'utf8')
    const functions = page.match(/^(post|field)\(\) .*$/gm)!
    const lines = /\n## Second factor\n[^]*?```sh\n([^]*?)```/.exec(page)![1]!
    const mine = lines.replace('edith', shell)
    const printed = await succeed(shell, [
      '-c',
      [`U=${service.url}`, ...functions, mine].join('\n'),
    ])
    assert.match(printed, /^.*"recoveryCodes":\[("[A-Z2-7-]{27}",?){10}\].*\n.*"key":"usk_.*$/)
  })
}
