// The page for admins in Chromium: what people click, type and read there. Needs npm and network,
// for axe-core.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'

import {
  checkQuiet,
  closePanel,
  enterKey,
  find,
  front,
  isClosed,
  logInOver,
  press,
  rows,
  says,
  visits,
} from '../support/admin.ts'
import { startBrowser } from '../support/browser.ts'
import { hashCheaply, password, startTestApp } from '../support/helpers.ts'
import { startPlainGateway } from '../support/plain-gateway.ts'
import { makeFolder, succeed, until } from '../support/process.ts'

hashCheaply()
const app = await startTestApp({ SIGNUP: 'open' })
const browser = await startBrowser()
const admin = await app.user({ role: 'admin', email: 'grace@example.org' })

const tools = makeFolder('axe')
const axeCore = ['install', '--prefix', tools, '--ignore-scripts', '--no-audit', 'axe-core@4.14.1']
await succeed('npm', axeCore)
const axe = readFileSync(join(tools, 'node_modules/axe-core/axe.min.js'), 'utf8')

const { open, logIn, enter } = visits(browser, { base: app.base, email: admin.email })

/** The keys of the sessions that a page started cannot be seen; how many live can. */
const countSessions = async (id: string) => {
  const path = `/users/${id}/keys?kind=session`
  return (await app.request('GET', path, { key: admin.key })).details.length as number
}

const userOf = async (id: string) =>
  (await app.request('GET', `/users/${id}`, { key: admin.key })).details

test('an admin logs in by keyboard, sees users at one request, and logs out', async () => {
  const visitor = await app.user({ role: 'admin' })
  const page = await open()
  assert.equal(await page.evaluate('document.activeElement.name'), 'email')
  await logIn(page, visitor)
  await page.sees(isClosed)
  const asked = page.requests.map(({ method, url }) => `${method} ${url.slice(app.base.length)}`)
  assert.deepEqual(asked, ['GET /admin', 'POST /users/sessions', 'GET /users?view=full&limit=50'])
  assert.equal(await countSessions(visitor.id), 1)
  await page.click('#out')
  await page.sees(`${front}.className === 'must'`)
  await until('the session ends', async () => (await countSessions(visitor.id)) === 0)
  const text = await page.evaluate<string>(`{
    const rest = document.documentElement.cloneNode(true)
    for (const each of rest.querySelectorAll('script, style')) each.remove()
    rest.outerHTML
  }`)
  assert.ok(!text.includes('@'), text)
  assert.equal(await page.evaluate('location.href'), `${app.base}/admin`)
  await checkQuiet(page)
})

test('leaving the page ends the session that it made, and no other', async () => {
  const visitor = await app.user({ role: 'admin' })
  const page = await enter(visitor)
  assert.equal(await countSessions(visitor.id), 1)
  await page.goTo('about:blank')
  await until('the session ends', async () => (await countSessions(visitor.id)) === 0)

  const body = { email: visitor.email, password }
  const session = await app.request('POST', '/users/sessions', { body })
  await page.goTo(`${app.base}/admin`)
  await page.click('summary')
  await page.type('[name=key]', session.details.key)
  await enterKey(page)
  await page.sees(isClosed)
  await checkQuiet(page, session.details.key)
  await page.click('#out')
  await page.sees(front)
  assert.equal(await countSessions(visitor.id), 1)
})

test('a wrong password, a wrong key and somebody who is no admin are told so', async () => {
  const page = await open()
  await logIn(page, { secret: 'wrong password' })
  await says(page, 'Invalid credentials')
  assert.equal(await page.evaluate(`document.querySelector('[name=email]').value`), admin.email)
  await page.click('summary')
  await page.type('[name=key]', 'usk_nonsense')
  await press(page, 'Log in')
  await says(page, 'Invalid API key')
  await page.type('[name=key]', '“usk_nonsense”')
  await press(page, 'Log in')
  await says(page, 'ISO-8859-1')
  await page.type('[name=key]', '')

  const user = await app.user()
  await logIn(page, user)
  await says(page, 'Not allowed')
  await until('the session ends', async () => (await countSessions(user.id)) === 0)
  assert.equal(await page.evaluate(`document.querySelector('[name=email]').value`), user.email)
  assert.equal(await page.evaluate(`document.querySelector('#view').textContent`), '')
  assert.equal(await page.evaluate(`document.querySelector('#bar').hidden`), true)
  await logIn(page)
  await page.sees(isClosed)
  await checkQuiet(page)
})

test('users come 50 a page; a search finds beginnings and domains as they are typed', async () => {
  for (let count = 0; count < 60; count++) {
    await app.user({ email: `many.${count}@${count < 10 ? 'few' : 'many'}.example` })
  }
  const page = await enter()
  assert.equal(await page.evaluate(rows), 50)
  await page.click('article > button', 'Next page')
  await page.sees(`${rows} > 60`)
  assert.match(await page.evaluate('document.activeElement.hash'), /^#users\//)

  await page.type('[name=search]', '@few.example')
  await page.sees(`${rows} === 10`)
  await page.type('[name=search]', 'MANY.1')
  await page.sees(`${rows} === 11`)
  await page.type('[name=search]', 'nobody.at.all')
  await says(page, 'No such address')
  const searches = page.requests.filter(({ url }) => url.includes('search='))
  assert.ok(searches.length < 32, `${searches.length} requests for 32 characters`)
  await checkQuiet(page)
})

test('an answer that comes after that to a later search is dropped', async () => {
  await app.user({ email: 'early@example.org' })
  await app.user({ email: 'late@example.org' })
  const page = await enter()
  await page.evaluate(`{
    const { fetch } = window
    window.fetch = async (...given) => {
      const reply = await fetch(...given)
      if (given[0].includes('search=early')) await new Promise((done) => { window.answer = done })
      return reply
    }
  }`)
  await page.type('[name=search]', 'early')
  await page.sees('window.answer')
  await page.type('[name=search]', 'late@')
  await page.sees(`${rows} === 1`)
  await page.evaluate('answer()')
  await page.evaluate('new Promise((done) => setTimeout(done, 50))')
  assert.equal(await page.textOf('td a'), 'late@example.org')
})

test('a user is changed, and only with the version that was seen', async () => {
  const user = await app.user({ email: 'changed@example.org', metadata: { a: 1 } })
  const page = await enter()
  await find(page, user.email)
  await page.type('.panel [name=permissions]', 'orders:read b:*')
  await page.type('.panel [name=metadata]', '{"plan": ["x", 1]}')
  await page.click('.panel [name=emailVerified]')
  await page.click('.panel form button', 'Save')
  await says(page, 'Saved')
  const changed = await userOf(user.id)
  assert.deepEqual(
    [changed.permissions, changed.metadata, changed.emailVerified, changed.version],
    [['orders:read', 'b:*'], { plan: ['x', 1] }, true, 2],
  )
  await page.type('.panel [name=metadata]', '{"plan": ')
  await page.type('.panel [name=permissions]', 'not,allowed ö')
  await page.click('.panel form button', 'Save')
  await says(page, 'must be a JSON object of at most 4 KiB')
  await says(page, 'must have 1 to 64 letters')
  assert.equal(await page.evaluate('document.activeElement.name'), 'permissions')
  assert.equal(await page.evaluate(`document.querySelector('[name=metadata]').value`), '{"plan": ')
  await page.click('.panel > header button')
  assert.deepEqual(page.questions, ['Discard what you typed?'])
  await page.sees(isClosed)
  assert.equal((await userOf(user.id)).version, 2)
  await page.sees(`document.activeElement.title === '${user.id}'`)
  await checkQuiet(page)
})

test('of two admins at once the second sees what both wrote, and loses nothing', async () => {
  const user = await app.user({ email: 'both@example.org' })
  const one = await enter()
  const other = await enter()
  await find(one, user.email)
  await find(other, user.email)
  await one.type('.panel [name=permissions]', 'theirs')
  await one.click('.panel [name=emailVerified]')
  await one.click('.panel form button', 'Save')
  await says(one, 'Saved')

  await other.type('.panel [name=permissions]', 'mine')
  await other.click('.panel form button', 'Save')
  await says(other, 'Changed meanwhile')
  await says(other, 'Stored now: ["theirs"]')
  const typed = `document.querySelector('.panel [name=permissions]').value`
  assert.equal(await other.evaluate(typed), 'mine')
  const box = `document.querySelector('.panel [name=emailVerified]').checked`
  assert.equal(await other.evaluate(box), true)
  assert.deepEqual((await userOf(user.id)).permissions, ['theirs'])
  await other.click('.panel form button', 'Save')
  await says(other, 'Saved')
  const { permissions, emailVerified } = await userOf(user.id)
  assert.deepEqual([permissions, emailVerified], [['mine'], true])
})

test('a user is made with a password, another invited, a third refused', async () => {
  const page = await enter()
  await page.click('.tools button', 'New user')
  await page.type('dialog [name=email]', 'made@example.org')
  await page.type('dialog [name=password]', 'a good password, too')
  await press(page, 'Make the user')
  await says(page, 'Shown this once')
  const shown = await page.textOf('dialog:last-of-type')
  const key = /usk_\w{49}/.exec(shown)![0]
  assert.doesNotMatch(shown, /ust_/)
  const me = await app.request('GET', '/users/me', { key })
  assert.equal(me.details.email, 'made@example.org')
  await press(page, 'Copy')
  await says(page, 'Copied')
  assert.equal(await page.evaluate('navigator.clipboard.readText()'), key)
  await press(page, 'Close')
  await page.sees(isClosed)
  await checkQuiet(page, key, 'a good password, too')

  await page.click('.tools button', 'New user')
  await page.type('dialog [name=email]', 'invited@example.org')
  await page.click('dialog [name=role]')
  await press(page, 'Make the user')
  await says(page, 'Token that sets a password')
  const token = /ust_\w{49}/.exec(await page.textOf('dialog:last-of-type'))![0]
  const body = { token, password: 'set by the invited' }
  assert.equal((await app.request('POST', '/users/passwords', { body })).status, 204)
  await press(page, 'Close')

  await page.click('.tools button', 'New user')
  await page.type('dialog [name=email]', 'invited@example.org')
  await press(page, 'Make the user')
  await says(page, 'Email already in use')
  await page.type('dialog [name=email]', 'no address')
  await page.type('dialog [name=password]', 'short')
  await press(page, 'Make the user')
  await says(page, 'must have one @')
  await says(page, 'must have 8 to 128')
  await press(page, 'Close')
  await page.sees(isClosed)
  await checkQuiet(page, token)
})

test('keys are made, rotated, switched and ended; so are sessions and tokens', async () => {
  const user = await app.user({ email: 'keys@example.org', permissions: ['a', 'b'] })
  const body = { email: user.email, password }
  await app.request('POST', '/users/sessions', { body, headers: { 'user-agent': 'Laptop' } })
  const page = await enter()
  await find(page, user.email)
  const keys = async () =>
    (await app.request('GET', `/users/${user.id}/keys`, { key: admin.key })).details as any[]
  await page.click('.panel button', 'New key')
  await page.type('dialog [name=name]', 'export')
  await page.type('dialog:last-of-type [name=permissions]', 'a')
  await press(page, 'Make the key')
  await says(page, 'Shown this once')
  const made = /usk_\w{49}/.exec(await page.textOf('dialog:last-of-type'))![0]
  assert.equal((await app.request('GET', '/users/auth', { key: made })).status, 200)
  await press(page, 'Close')
  await page.sees(`document.querySelectorAll('.panel li').length === 3`)
  const { name, scope, permissions } = (await keys())[2]
  assert.deepEqual(
    { name, scope, permissions },
    { name: 'export', scope: 'all', permissions: ['a'] },
  )

  await page.click('[aria-label="Switch off export"]')
  await page.sees(`document.querySelector('[aria-label="Switch on export"]')`)
  assert.equal((await app.request('GET', '/users/auth', { key: made })).status, 401)
  await page.click('[aria-label="Switch on export"]')
  await page.sees(`document.querySelector('[aria-label="Switch off export"]')`)

  await page.click('[aria-label="Rotate export"]')
  await page.type('[name=overlapSeconds]', '60')
  await press(page, 'Rotate export')
  await says(page, 'Shown this once')
  const rotated = /usk_\w{49}/.exec(await page.textOf('dialog:last-of-type'))![0]
  await press(page, 'Close')
  for (const key of [made, rotated]) {
    assert.equal((await app.request('GET', '/users/auth', { key })).status, 200)
  }
  await page.click('[aria-label="End test"]')
  await press(page, 'End test')
  await page.sees(`!document.querySelector('[aria-label="End test"]')`)
  assert.equal((await app.request('GET', '/users/auth', { key: user.key })).status, 401)

  await says(page, '127.0.0.1 Laptop')
  await page.click('.panel button', 'End all sessions')
  await press(page, 'End all sessions')
  await page.sees(`!document.body.innerText.includes('Laptop')`)
  await page.click('.panel button', 'Make a token')
  await says(page, 'Shown this once')
  const token = /ust_\w{49}/.exec(await page.textOf('dialog:last-of-type'))![0]
  await press(page, 'Close')
  await page.click('.panel button', 'End all tokens')
  await press(page, 'End all tokens')
  await page.sees(`document.querySelectorAll('dialog').length === 1`)
  const late = { token, password: 'another good one' }
  assert.equal((await app.request('POST', '/users/passwords', { body: late })).status, 401)
  await closePanel(page)
  await checkQuiet(page, made, rotated, token)
})

test('a user is deleted only when its address was typed', async () => {
  const user = await app.user({ email: 'gone@example.org' })
  const page = await enter()
  await find(page, user.email)
  await page.click('.panel button', 'Delete the user')
  await page.type('[name=typed]', 'gone@example.com')
  await press(page, `Delete ${user.email}`)
  await says(page, 'That is not the address')
  assert.equal((await userOf(user.id)).id, user.id)
  await page.type('[name=typed]', user.email)
  await enterKey(page)
  await page.sees(isClosed)
  const gone = await app.request('GET', `/users/${user.id}`, { key: admin.key })
  assert.equal(gone.status, 404)
  await says(page, 'No such address')
  await checkQuiet(page)
})

test('the log-in lies over the view, and what was typed is saved after it', async () => {
  const visitor = await app.user({ role: 'admin', email: 'idle@example.org' })
  const user = await app.user({ email: 'over@example.org' })
  const page = await enter(visitor)
  await find(page, user.email)
  await page.type('.panel [name=permissions]', 'typed')
  await app.request('DELETE', `/users/sessions/${visitor.id}`, { key: admin.key })
  await page.click('.panel form button', 'Save')
  await page.sees(`document.querySelector('.must')`)
  await page.press('Escape')
  assert.equal(await page.evaluate(`document.querySelector('.must') !== null`), true)
  await logInOver(page, visitor)
  await says(page, 'Saved')
  assert.deepEqual((await userOf(user.id)).permissions, ['typed'])

  await page.type('.panel [name=permissions]', 'after idling')
  await page.evaluate(`{ const { now } = Date; Date.now = () => now() + 16 * 60_000 }`)
  await page.sees(`document.querySelector('.must')`)
  await until('the session ends', async () => (await countSessions(visitor.id)) === 0)
  await says(page, 'You were inactive for fifteen minutes')
  await logInOver(page, visitor)
  const typed = `document.querySelector('.panel [name=permissions]').value`
  assert.equal(await page.evaluate(typed), 'after idling')
  await page.click('.panel form button', 'Save')
  await says(page, 'Saved')
  await checkQuiet(page)
})

test('who logs in over the view of another sees nothing of it', async () => {
  const visitor = await app.user({ role: 'admin', email: 'first@example.org' })
  const secret = await app.user({ email: 'secret@example.org' })
  const page = await enter(visitor)
  await find(page, secret.email)
  await app.request('DELETE', `/users/sessions/${visitor.id}`, { key: admin.key })
  await page.type('.panel [name=permissions]', 'never')
  await page.click('.panel form button', 'Save')
  await page.sees(`document.querySelector('.must')`)
  const stranger = await app.user({ email: 'stranger@example.org' })
  await page.type('.must [name=email]', stranger.email)
  await page.type('.must [name=password]', password)
  await enterKey(page)
  await says(page, 'Not allowed')
  await page.sees(`!document.documentElement.outerHTML.includes('secret@example.org')`)
  assert.equal((await userOf(secret.id)).version, 1)
  await checkQuiet(page)
})

test('what needs a fresh log-in asks for the password, and is done then', async () => {
  const visitor = await app.user({ role: 'admin', email: 'stale@example.org' })
  const user = await app.user({ email: 'fresh@example.org' })
  const page = await enter(visitor)
  await app.db.query(`update api_keys set authenticated_at = now() - interval '1 hour'
    where user_id = '${visitor.id}' and kind = 'session'`)
  await find(page, user.email)
  await page.click('.panel button', 'New key')
  await page.type('dialog [name=name]', 'wanted')
  await press(page, 'Make the key')
  await says(page, 'this needs a fresh log-in')
  await press(page, 'Close')
  await says(page, 'Not done')
  assert.equal(await page.evaluate(`document.querySelector('[name=name]').value`), 'wanted')
  await press(page, 'Make the key')
  await says(page, 'this needs a fresh log-in')
  assert.equal(await page.evaluate(`document.querySelector('[readonly]').value`), visitor.email)
  await page.type('dialog:last-of-type [name=password]', password)
  await enterKey(page)
  await says(page, 'Shown this once')
  assert.equal(await countSessions(visitor.id), 1)
  await checkQuiet(page)
})

test('an admin changes their own password, which takes the present one', async () => {
  const visitor = await app.user({ role: 'admin', email: 'own@example.org' })
  const page = await enter(visitor)
  await page.click('#who')
  await page.sees(`document.querySelector('.panel [name=currentPassword]')`)
  await page.type('[name=currentPassword]', 'not the present one')
  await page.type('.panel [name=password]', 'a new password of mine')
  await press(page, 'Change the password')
  await says(page, 'Invalid credentials')
  await page.type('[name=currentPassword]', password)
  await press(page, 'Change the password')
  await says(page, 'Saved')
  await page.sees(`document.querySelector('.panel [name=password]').value === ''`)
  const body = { email: visitor.email, password: 'a new password of mine' }
  assert.equal((await app.request('POST', '/users/sessions', { body })).status, 201)
  await checkQuiet(page, 'a new password of mine')
})

test('the audit shows who did what to whom, by user and by action, and follows', async () => {
  const user = await app.user({ email: 'audited@example.org' })
  const page = await enter()
  await find(page, user.email)
  await page.type('.panel [name=permissions]', 'x')
  await page.click('.panel form button', 'Save')
  await says(page, 'Saved')
  await page.click('.panel a', 'What happened to this user')
  await page.sees(`document.querySelector('h2').textContent === 'Audit' && ${rows} === 1`)
  const text = await page.textOf('tbody tr')
  for (const word of ['user.changed', 'permissions', admin.email, user.email, '127.0.0.1']) {
    assert.ok(text.includes(word), text)
  }
  const instant = await page.evaluate(`document.querySelector('time').title`)
  assert.match(instant, /^20\d\d-\d\d-\d\dT.*Z$/)
  await page.click('[name=follow]')
  await app.request('POST', '/users/sessions', { body: { email: user.email, password } })
  await page.sees(`${rows} === 2`)
  await page.type('[name=user]', user.email)
  await page.type('[name=action]', 'session.started')
  await enterKey(page)
  await page.sees(`${rows} === 1`)
  await page.type('[name=user]', 'nobody@example.org')
  await page.click('.tools button', 'Show')
  await says(page, 'Nobody has this address')
  await checkQuiet(page)
})

test('the live view draws what the service did, and nothing while it is hidden', async () => {
  const page = await enter({ hash: '#live' })
  const polls = () => page.requests.filter(({ url }) => url.endsWith('/metrics')).length
  await page.sees(`document.querySelector('polyline')`)
  const before = polls()
  await page.evaluate(`{
    const { fetch } = window
    let count = 0
    window.fetch = async (...given) => {
      const reply = await fetch(...given)
      count++
      if (!given[0].endsWith('/metrics') || count % 2 === 0) return reply
      const other = (await reply.text()).replace(/^(process_start_time_seconds) .*/m, '$1 1')
      return new Response(other)
    }
  }`)
  for (let count = 0; count < 100; count++) await app.request('GET', '/livez')
  await fetch(`${app.url}/nothing`)
  await until('four more readings', () => polls() >= before + 4, 30)
  await says(page, 'Instances that answered: 2')
  assert.equal(await page.evaluate(`document.querySelector('svg').childElementCount`), 2)
  const shown = await page.evaluate<string[]>(
    `[...document.querySelectorAll('article h3')].map((each) => each.firstChild.data)`,
  )
  assert.deepEqual(shown, [
    'Requests a second',
    'Errors a second',
    'Latency, at most ms',
    'Log-ins a second',
    'Passwords being hashed',
    'Database connections',
    'Event loop delay, at most ms',
    'Memory, MB',
  ])
  const most = Number(/up to ([\d.]+)/.exec(await page.textOf('article'))![1])
  assert.ok(most > 8 && most < 60, `${most} requests a second, of 10 to 20`)
  const errors = await page.textOf('article:nth-child(2)')
  assert.ok(Number(/up to ([\d.]+)/.exec(errors)![1]) > 0, errors)
  await page.evaluate(`Object.defineProperty(document, 'hidden', { value: true })`)
  const last = polls()
  await page.evaluate('new Promise((done) => setTimeout(done, 6000))')
  assert.equal(polls(), last)
  await checkQuiet(page)
})

test('429 is waited for, 503 is told, and neither loses anything', async () => {
  const slow = await startTestApp({ RATE_LIMIT: '1', RATE_LIMIT_BURST: '4' }, app.database)
  const page = await enter({ base: slow.base })
  for (let count = 0; count < 6; count++) {
    await page.click('nav a', count % 2 ? 'Users' : 'Audit')
  }
  await says(page, 'Too many requests: waiting')
  await page.sees(`${rows} > 1 && document.querySelector('h2').textContent === 'Users'`)
  await page.sees(`document.querySelector('output').textContent === ''`)
  await checkQuiet(page)

  const closing = await startTestApp({}, app.database)
  const other = await enter({ base: closing.base })
  await other.click('.tools button', 'New user')
  await other.type('dialog [name=email]', 'kept@example.org')
  await other.evaluate(`window.fetch = async () => new Response(
    '{"status":"ERROR","code":"overloaded","details":"Service overloaded","requestId":"r-1"}',
    { status: 503, headers: { 'Retry-After': '1' } })`)
  await press(other, 'Make the user')
  await says(other, 'Service overloaded (503, request r-1)')
  assert.equal(
    await other.evaluate(`document.querySelector('dialog [name=email]').value`),
    'kept@example.org',
  )
  await closing.stop()
})

test('failed log-ins are waited for as long as the service says', async () => {
  const victim = await app.user({ role: 'admin' })
  const page = await open()
  const fail = async () => {
    const body = { email: victim.email, password: 'wrong password' }
    return (await app.request('POST', '/users/sessions', { body })).status
  }
  await until('it is throttled', async () => (await fail()) === 429)
  await app.db.query(`update login_failures set wait_until = now() + interval '5 seconds'`)
  await logIn(page, { email: victim.email })
  await says(page, 'Too many failed logins: wait ')
  await page.sees(`${front}.querySelector('form').ariaBusy === 'false'`)
  await enterKey(page)
  await page.sees(isClosed)
  await checkQuiet(page)
})

const hostile = `"><img src=x onerror=alert(1)><script>alert(2)</script>`

test('what users and keys hold is shown as text, whatever it is', async () => {
  const email = `"><img/src=x/onerror=alert(3)>@x.org`
  const user = await app.user({ email, metadata: { [hostile]: hostile } })
  const path = `/users/${user.id}/keys`
  const body = { name: hostile, permissions: [] }
  const made = await app.request('POST', path, { key: admin.key, body })
  assert.equal(made.status, 201)
  const headers = { 'user-agent': hostile, 'x-request-id': 'r' }
  await app.request('POST', '/users/sessions', { body: { email, password }, headers })
  const page = await enter()
  const before = await page.evaluate('document.scripts.length')
  await page.type('[name=search]', '"><img')
  await page.sees(`${rows} === 1`)
  await page.click('td a')
  await page.sees(`document.querySelectorAll('.panel li').length === 3`)
  const text = await page.textOf('.panel')
  assert.ok(text.includes(hostile) && text.includes(email))
  assert.match(text, /permissions none, made/)
  await page.click(`[aria-label=${JSON.stringify(`End ${hostile}`)}]`)
  await page.sees(`document.querySelectorAll('dialog').length === 2`)
  await press(page, 'Close')
  await page.click('.panel button', 'Delete the user')
  await press(page, 'Close')
  await page.click('.panel a', 'What happened')
  await page.sees(`${rows} === 2`)
  const counts = await page.evaluate('[document.images.length, document.scripts.length]')
  assert.deepEqual(counts, [0, before])
  assert.deepEqual(page.questions, [])
  await checkQuiet(page)
})

test('its policy stops markup that is made of text, and frames', async () => {
  const page = await open()
  const breaking = page.evaluate(`document.body.innerHTML = '<b>b</b>'`)
  await assert.rejects(breaking, /TrustedHTML/)
  await assert.rejects(page.evaluate(`fetch('http://127.0.0.1:1/')`), /Failed to fetch/)
  await until('both are told', () => new Set(page.violations).size === 2)
  const framing = await browser.open(`${app.base}/docs`)
  await framing.evaluate(`document.body.append(
    Object.assign(document.createElement('iframe'), { src: '${app.base}/admin' }))`)
  await until('the frame is refused', () => framing.violations.length > 0)
})

test('it works below another base path, and behind a gateway that strips a prefix', async () => {
  const bare = await startTestApp({ SERVER_BASE_PATH: '/' }, app.database)
  const deep = await startTestApp({ SERVER_BASE_PATH: '/api/v2' }, app.database)
  const behind = await startPlainGateway([deep.url], { prefix: '/tools/users' })
  for (const base of [bare.url, deep.base, `${behind}/api/v2`]) {
    const page = await enter({ base })
    await page.click('article > button', 'Next page')
    await page.sees(`${rows} > 50`)
    await checkQuiet(page)
  }
})

test('axe finds nothing, and nothing scrolls sideways at 360 pixels, light and dark', async () => {
  const visitor = await app.user({ role: 'admin', email: 'axe@example.org' })
  const user = await app.user({ email: `${'long'.repeat(15)}@example.org`, permissions: ['a'] })
  await app.request('POST', '/users/sessions', { body: { email: user.email, password } })
  for (const scheme of ['light', 'dark']) {
    const page = await open({ width: 360 })
    const features = [{ name: 'prefers-color-scheme', value: scheme }]
    await page.send('Emulation.setEmulatedMedia', { features })
    const check = async (view: string) => {
      await page.evaluate(`window.axe ?? (() => { ${axe} })(), 0`)
      const found = await page.evaluate<string>(`axe.run().then(({ violations }) =>
        violations.map(({ id, nodes }) => id + ': ' + nodes.map(({ html }) => html).join(' ')))`)
      assert.deepEqual(found, [], `${view}, ${scheme}`)
      const wide = await page.evaluate<string[]>(`[document.documentElement,
        ...document.querySelectorAll('dialog')].filter((each) =>
        each.scrollWidth > each.clientWidth).map((each) => each.localName + each.scrollWidth)`)
      assert.deepEqual(wide, [], `${view}, ${scheme}`)
    }
    await check('log-in')
    await logIn(page, visitor)
    await page.sees(isClosed)
    await check('users')
    await page.click('.tools button', 'New user')
    await press(page, 'Make the user')
    await says(page, 'must have one @')
    await check('new user')
    await press(page, 'Close')
    await page.sees(isClosed)
    await find(page, user.email)
    await check('user')
    await page.click('.panel button', 'New key')
    await check('new key')
    await press(page, 'Close')
    await page.click('.panel button', 'Make a token')
    await says(page, 'Shown this once')
    await check('token')
    await press(page, 'Close')
    await page.click('.panel button', 'Delete the user')
    await check('delete')
    await press(page, 'Close')
    await closePanel(page)
    await page.click('#who')
    await page.sees(`document.querySelector('[name=currentPassword]')`)
    await check('own account')
    await closePanel(page)
    await page.click('nav a', 'Audit')
    await page.sees(`document.querySelector('[name=action]')`)
    await check('audit')
    await page.click('nav a', 'Live')
    await page.sees(`document.querySelector('polyline')`)
    await check('live')
    await checkQuiet(page)
  }
})

test('everything can be reached by keyboard alone', async () => {
  const user = await app.user({ email: 'keyboard@example.org' })
  const page = await enter()
  await page.type('[name=search]', user.email)
  await page.sees(`${rows} === 1`)
  const tabTo = async (selector: string) => {
    for (let count = 0; count < 60; count++) {
      await page.press('Tab')
      if (await page.evaluate(`document.activeElement.matches(${JSON.stringify(selector)})`)) return
    }
    assert.fail(`${selector} cannot be reached`)
  }
  await tabTo('td a')
  await enterKey(page)
  await page.sees(`document.querySelector('.panel li')`)
  await tabTo('.panel [name=emailVerified]')
  await page.press(' ', { text: ' ' })
  await tabTo('.panel form .primary')
  await enterKey(page)
  await says(page, 'Saved')
  await tabTo('[aria-label="End test"]')
  await enterKey(page)
  await page.sees(`document.querySelectorAll('dialog').length === 2`)
  await page.press('Escape')
  await page.sees(`document.querySelectorAll('dialog').length === 1`)
  assert.equal(await page.evaluate('document.activeElement.ariaLabel'), 'End test')
  await page.press('Escape')
  await page.sees(isClosed)
  await page.sees(`document.activeElement.title === '${user.id}'`)
})
