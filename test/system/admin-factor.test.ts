// The page for admins in Chromium where second factors can be had, and where admins must have one.
import assert from 'node:assert/strict'
import { test } from 'node:test'

import { showCode } from '../support/authenticator.ts'
import { enterKey, isClosed, press, says } from '../support/admin.ts'
import { startBrowser, type Page } from '../support/browser.ts'
import { hashCheaply, makeKeyFile, password, startTestApp } from '../support/helpers.ts'

hashCheaply()
const env = { SECRETS_KEY_FILE: makeKeyFile() }
const app = await startTestApp(env)
const strict = await startTestApp({ ...env, REQUIRE_FACTOR: 'admins' }, app.database)
const browser = await startBrowser()

async function logIn(page: Page, email: string) {
  await page.sees(`document.querySelector('.must')`)
  await page.type('dialog [name=email]', email)
  await page.type('dialog [name=password]', password)
  await enterKey(page)
}

/** Types what the authenticator shows, which must not be a code that was used. */
async function typeCode(page: Page, secret: string, steps: number) {
  await page.type('dialog:last-of-type [name=code]', await showCode(app.db, secret, steps))
  await enterKey(page)
}

async function readSecret(page: Page) {
  await says(page, 'Enter this secret into an authenticator')
  const secret = await page.textOf('dialog:last-of-type pre')
  const link = await page.evaluate<string>(`document.querySelector('dialog:last-of-type a').href`)
  assert.match(link, /^otpauth:\/\/totp\//)
  assert.ok(link.includes(secret))
  return secret
}

async function readCodes(page: Page) {
  await says(page, 'Shown this once')
  const codes = (await page.textOf('dialog:last-of-type pre')).trim().split('\n')
  assert.equal(codes.length, 10)
  await press(page, 'Close')
  return codes
}

test('an admin sets up a second factor, uses it, renews its codes and removes it', async () => {
  const admin = await app.user({ role: 'admin', email: 'two@example.org' })
  const page = await browser.open(`${app.base}/admin`)
  await logIn(page, admin.email)
  await page.sees(isClosed)
  await page.click('#who')
  await page.sees(`document.querySelector('.panel li')`)
  await page.click('.panel button', 'Set up a second factor')
  const secret = await readSecret(page)
  await page.type('dialog:last-of-type [name=code]', '000000')
  await press(page, 'Set up a second factor')
  await says(page, 'Invalid credentials')
  await typeCode(page, secret, -1)
  await readCodes(page)
  await page.click('.panel > header button')
  await page.sees(isClosed)

  await page.click('#out')
  await logIn(page, admin.email)
  await page.sees(`document.activeElement.name === 'code'`)
  await page.type('[name=code]', '123456')
  await enterKey(page)
  await says(page, 'Invalid credentials')
  await typeCode(page, secret, 0)
  await page.sees(isClosed)
  await page.click('#who')
  await page.sees(`document.querySelector('.panel li')`)
  await page.click('.panel button', 'New recovery codes')
  const [code = ''] = await readCodes(page)
  await page.click('.panel button', 'Remove the second factor')
  await press(page, 'Remove the second factor')
  await page.sees(`document.querySelector('.must')`)
  assert.doesNotMatch(await page.evaluate('location.href'), /two|usk_/)
  assert.deepEqual([page.messages, page.violations], [[], []])
  const shown = await app.request('GET', `/users/${admin.id}`, { key: admin.key })
  assert.equal(shown.details.secondFactor, false)
  assert.ok(code.length > 20)
})

test('an admin of whom a second factor is wanted is led to it, and then let in', async () => {
  const admin = await app.user({ role: 'admin', email: 'led@example.org' })
  const page = await browser.open(`${strict.base}/admin`)
  await logIn(page, admin.email)
  const secret = await readSecret(page)
  await typeCode(page, secret, -1)
  const codes = await readCodes(page)
  await page.sees(`${isClosed} && document.querySelector('tbody tr')`)
  await page.click('#out')
  await logIn(page, admin.email)
  await page.sees(`document.activeElement.name === 'code'`)
  await page.type('[name=code]', codes[0]!.toLowerCase())
  await enterKey(page)
  await page.sees(`${isClosed} && document.querySelector('tbody tr')`)

  await app.db.query(`update api_keys set authenticated_at = now() - interval '1 hour'
    where user_id = '${admin.id}' and kind = 'session'`)
  await page.click('.tools button', 'New user')
  await page.type('dialog [name=email]', 'by-two@example.org')
  await press(page, 'Make the user')
  await says(page, 'this needs a fresh log-in')
  await page.type('dialog:last-of-type [name=password]', password)
  await enterKey(page)
  await page.sees(`document.activeElement.name === 'code'`)
  await typeCode(page, secret, 0)
  await says(page, 'Shown this once')
  assert.deepEqual([page.messages, page.violations], [[], []])
})

test('an API key of one factor is told that it lacks one, and a password leads on', async () => {
  const admin = await app.user({ role: 'admin', email: 'keyed@example.org' })
  const page = await browser.open(`${strict.base}/admin`)
  await page.sees(`document.querySelector('.must')`)
  await page.click('dialog summary')
  await page.type('dialog [name=key]', admin.key)
  await enterKey(page)
  await page.sees(isClosed)
  await says(page, 'Authenticate again')
  await page.click('nav a', 'Audit')
  await says(page, 'this needs a fresh log-in')
  assert.ok(page.requests.length < 20, `${page.requests.length} requests`)
  await page.type('dialog:last-of-type [name=password]', password)
  await enterKey(page)
  await typeCode(page, await readSecret(page), 0)
  await readCodes(page)
  await page.sees(`${isClosed} && document.querySelector('tbody tr')`)
})
