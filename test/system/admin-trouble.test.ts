// The page for admins in Chromium when something is wrong: rights and sessions that are gone,
// gateways and throttles in between, hands that are too quick or nowhere.
import assert from 'node:assert/strict'
import { test } from 'node:test'

import {
  checkQuiet,
  closePanel,
  enterKey,
  find,
  front,
  isClosed,
  isLocked,
  logInOver,
  notice,
  press,
  rows,
  says,
  visits,
} from '../support/admin.ts'
import { startBrowser, type Page } from '../support/browser.ts'
import { hashCheaply, password, startTestApp } from '../support/helpers.ts'
import { startPlainGateway } from '../support/plain-gateway.ts'
import { until } from '../support/process.ts'
import { startService } from '../support/service.ts'

hashCheaply()
const app = await startTestApp()
const browser = await startBrowser()
const admin = await app.user({ role: 'admin', email: 'grace@example.org' })
const { open, enter } = visits(browser, { base: app.base, email: admin.email })

const rest = (page: Page, ms: number) =>
  page.evaluate(`new Promise((done) => setTimeout(done, ${ms}))`)

/** Has the page believe that so many minutes have passed. */
const skipMinutes = (page: Page, minutes: number) =>
  page.evaluate(`{ const { now } = Date; Date.now = () => now() + ${minutes} * 60_000 }`)

const countSessions = async (id: string) => {
  const path = `/users/${id}/keys?kind=session`
  return (await app.request('GET', path, { key: admin.key })).details.length as number
}

/** Answers what the page asks by an expression of `path`, `init` and `pass`, which asks on. */
const answer = (page: Page, expression: string) =>
  page.evaluate(`{
    const { fetch } = window
    window.fetch = (path, init) => {
      const pass = () => fetch(path, init)
      return ${expression}
    }
  }`)

/** How often the page has asked for this. */
const countAsked = (page: Page, method: string, end: string) =>
  page.requests.filter((each) => each.method === method && each.url.endsWith(end)).length

/** Whether nothing but the log-in is left. */
async function checkEmpty(page: Page) {
  await page.sees(isLocked)
  const left = await page.evaluate<string>(`{
    const rest = document.documentElement.cloneNode(true)
    for (const each of rest.querySelectorAll('script, style')) each.remove()
    rest.outerHTML
  }`)
  assert.ok(!left.includes('@'), left)
  assert.equal(await page.evaluate(`document.querySelector('#bar').hidden`), true)
}

test('a later search ends an earlier one that waits for the throttle', async () => {
  await app.user({ email: 'late@example.org' })
  const page = await enter()
  await page.evaluate('window.early = 0')
  await answer(
    page,
    `!path.includes('search=e') ? pass() : Promise.resolve(new Response('', {
      status: 429, headers: { 'Retry-After': String(++window.early > 1 ? 1 : 2) } }))`,
  )
  await page.type('[name=search]', 'e')
  await says(page, 'Too many requests: waiting 2 s')
  await page.type('[name=search]', 'late@')
  await page.sees(`${rows} === 1`)
  assert.equal(await page.evaluate(notice), '')
  const asked = await page.evaluate('early')
  await rest(page, 2500)
  assert.equal(await page.evaluate('early'), asked)
  assert.equal(await page.textOf('td a'), 'late@example.org')
})

test('an admin who is one no more sees nothing of what was shown', async () => {
  const seen = await app.user({ email: 'seen@example.org' })
  const works: Record<string, (page: Page) => Promise<void>> = {
    search: (page) => page.type('[name=search]', 'seen'),
    panel: (page) => page.click(`td a[title="${seen.id}"]`),
    follow: async (page) => {
      await page.click('nav a', 'Audit')
      await page.sees(`document.querySelector('[name=follow]')`)
      await page.click('[name=follow]')
    },
    live: (page) => page.click('nav a', 'Live'),
  }
  for (const work of Object.values(works)) {
    const visitor = await app.user({ role: 'admin' })
    const page = await enter(visitor)
    await app.db.query(`update users set role = 'user' where id = '${visitor.id}'`)
    await work(page)
    await checkEmpty(page)
    await until('the session ends', async () => (await countSessions(visitor.id)) === 0)
    await checkQuiet(page)
  }
})

test('a key that reads alone is told what it may not, and sees the rest', async () => {
  const body = { name: 'reader', scope: 'read' }
  const path = `/users/${admin.id}/keys`
  const made = await app.request('POST', path, { key: admin.key, body })
  const page = await open()
  await page.click('summary')
  await page.type('[name=key]', made.details.key)
  await enterKey(page)
  await page.sees(isClosed)
  await find(page, admin.email)
  await page.type('.panel [name=permissions]', 'typed')
  await page.click('.panel form button', 'Save')
  await says(page, 'Not allowed')
  const typed = `document.querySelector('.panel [name=permissions]').value`
  assert.equal(await page.evaluate(typed), 'typed')
})

test('a log-out that the service does not hear of says so, where there is a session', async () => {
  const visitor = await app.user({ role: 'admin' })
  const page = await enter(visitor)
  await answer(page, `init.method === 'DELETE' ? Promise.reject(new TypeError('cut')) : pass()`)
  await page.click('#out')
  await checkEmpty(page)
  await says(page, 'The session could not be ended')
  assert.equal(await countSessions(visitor.id), 1)

  const other = await enter(visitor)
  await app.request('DELETE', `/users/sessions/${visitor.id}`, { key: admin.key })
  await other.click('#out')
  await checkEmpty(other)
  await until('it has asked', () => countAsked(other, 'DELETE', '/users/sessions') === 1)
  await rest(other, 200)
  assert.equal(await other.evaluate(notice), '')
})

test('Escape does not close what is shown once, nor the log-in', async () => {
  const page = await enter()
  await page.click('.tools button', 'New user')
  await page.type('dialog [name=email]', 'once@example.org')
  await page.type('dialog [name=password]', password)
  await press(page, 'Make the user')
  await says(page, 'Shown this once')
  await page.press('Escape')
  await page.press('Escape')
  await press(page, 'Close')
  await page.sees(isClosed)
  await page.click('#out')
  await page.sees(isLocked)
  await page.evaluate(`${front}.mark = true`)
  await page.press('Escape')
  await page.press('Escape')
  assert.equal(await page.evaluate(`${front}.mark && ${front}.open`), true)
})

test('fifteen idle minutes forget the key, whatever is open', async () => {
  const visitor = await app.user({ role: 'admin', email: 'gone.away@example.org' })
  const user = await app.user({ email: 'left.open@example.org' })
  const page = await enter(visitor)
  await find(page, user.email)
  await app.db.query(`update api_keys set authenticated_at = now() - interval '1 hour'
    where user_id = '${visitor.id}' and kind = 'session'`)
  await page.click('.panel button', 'New key')
  await page.type('dialog [name=name]', 'kept')
  await press(page, 'Make the key')
  await says(page, 'this needs a fresh log-in')
  await skipMinutes(page, 16)
  await page.sees(isLocked)
  await until('the session ends', async () => (await countSessions(visitor.id)) === 0)
  await page.press('Escape')
  assert.equal(await page.evaluate(isLocked), true)
  assert.equal(await page.evaluate(`document.querySelector('.fresh')`), null)
  await logInOver(page, visitor)
  assert.equal(await page.evaluate(`${front}.querySelector('[name=name]').value`), 'kept')
  await press(page, 'Make the key')
  await says(page, 'Shown this once')
  await skipMinutes(page, 16)
  await page.sees(isLocked)
  await until('the session ends', async () => (await countSessions(visitor.id)) === 0)
})

test('keys and clicks are use; one that comes too late is not', async () => {
  const visitor = await app.user({ role: 'admin' })
  const page = await enter(visitor)
  await skipMinutes(page, 10)
  await page.press('Tab')
  await skipMinutes(page, 10)
  await rest(page, 5500)
  assert.equal(await page.evaluate(isLocked), false)
  await page.click('h2')
  await skipMinutes(page, 10)
  await rest(page, 5500)
  assert.equal(await page.evaluate(isLocked), false)
  for (const use of [() => page.press('Tab'), () => page.click('h2')]) {
    await skipMinutes(page, 20)
    await use()
    assert.equal(await page.evaluate(isLocked), true)
    await logInOver(page, visitor)
  }
})

test('a page that comes back from the history of the browser is loaded again', async () => {
  const page = await enter()
  await page.evaluate(`dispatchEvent(new PageTransitionEvent('pageshow', { persisted: false }))`)
  assert.equal(countAsked(page, 'GET', '/admin'), 1)
  await page.evaluate(`dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))`)
  await until('it is loaded again', () => countAsked(page, 'GET', '/admin') === 2)
  await page.sees(isLocked)
})

test('leaving the page with something typed asks first', async () => {
  const user = await app.user({ email: 'half@example.org' })
  const page = await enter()
  await find(page, user.email)
  await page.type('.panel [name=permissions]', 'half')
  page.says = false
  await page.evaluate(`location.href = 'about:blank'`)
  await until('it asks', () => page.questions.length === 1)
  assert.equal(await page.evaluate(`document.querySelector('.panel form').className`), 'dirty')
  page.says = true
  await page.evaluate(`location.href = 'about:blank'`)
  await page.sees(`location.href === 'about:blank'`)
})

test('two clicks do the work once', async () => {
  const user = await app.user({ email: 'twice@example.org' })
  const page = await enter()
  await find(page, user.email)
  await page.click('[aria-label="Switch off test"]')
  await page.sees(`document.querySelector('[aria-label="Switch on test"]')`)
  // In its place by now.
  await page.click('[aria-label="Switch on test"]', '', 2)
  await rest(page, 300)
  assert.equal(countAsked(page, 'PATCH', user.keyId), 1)

  await page.evaluate('void (window.answered = new Promise((done) => { window.go = done }))')
  await answer(page, `path.endsWith('/tokens') ? window.answered.then(pass) : pass()`)
  await page.evaluate('window.asked = 0')
  await answer(page, `path.endsWith('/tokens') && window.asked++, pass()`)
  await page.click('.panel button', 'Make a token')
  await page.click('.panel button', 'Make a token')
  assert.equal(await page.evaluate(`document.querySelectorAll('[aria-busy=true]').length`), 1)
  await page.evaluate('go()')
  await says(page, 'Shown this once')
  assert.equal(await page.evaluate('asked'), 1)
  await press(page, 'Close')
  await page.sees(`document.querySelectorAll('dialog').length === 1`)
  await closePanel(page)
})

test('following the audit moves nothing, and keeps the pages that were opened', async () => {
  const user = await app.user({ email: 'followed@example.org' })
  const signIn = () =>
    app.request('POST', '/users/sessions', { body: { email: user.email, password } })
  for (let count = 0; count < 60; count++) assert.equal((await signIn()).status, 201)
  const page = await enter()
  await find(page, user.email)
  await page.click('.panel a', 'What happened to this user')
  await page.sees(`${rows} === 50`)
  await page.click('article > button', 'Next page')
  await page.sees(`${rows} === 60`)
  await page.click('[name=follow]')
  await page.evaluate(`{
    window.mark = document.querySelectorAll('tbody tr')[55].querySelector('a')
    mark.focus()
    window.changes = 0
    new MutationObserver((records) => { window.changes += records.length })
      .observe(document.querySelector('article'), { childList: true, subtree: true })
  }`)
  const polls = () => page.requests.filter(({ url }) => url.includes('/audit?')).length
  const before = polls()
  await until('it has asked', () => polls() > before, 30)
  await signIn()
  await page.sees(`${rows} === 61`)
  assert.equal(await page.evaluate('window.changes'), 1)
  assert.equal(await page.evaluate('document.activeElement === mark && mark.isConnected'), true)

  // What is typed is not asked for until it is sent.
  await page.type('[name=user]', 'nobody@')
  await signIn()
  await page.sees(`${rows} === 62`)
  assert.equal(await page.evaluate('window.changes'), 2)
  await checkQuiet(page)
})

test('the way back from a user leads to the audit as it was asked for', async () => {
  const user = await app.user({ email: 'asked@example.org' })
  await app.request('POST', '/users/sessions', { body: { email: user.email, password } })
  const page = await enter({ hash: '#audit' })
  await page.type('[name=user]', user.email)
  await page.type('[name=action]', 'session.started')
  await page.click('.tools button', 'Show')
  await page.sees(`${rows} === 1`)
  await page.click('td:nth-child(3) a')
  await page.sees(`document.querySelector('.panel li')`)
  await page.evaluate('history.back()')
  await page.sees(`document.querySelector('[name=action]') && ${rows} === 1`)
  const shown = `[...document.querySelectorAll('.tools input')].map(({ value }) => value)`
  assert.deepEqual(await page.evaluate(shown), [user.email, 'session.started', 'on'])
  assert.ok(!(await page.evaluate<string>('location.href')).includes('@'))

  await page.type('[name=action]', 'No such thing')
  await enterKey(page)
  await says(page, 'must be text of 1 to 32')
  assert.equal(await page.evaluate('document.activeElement.name'), 'action')
  assert.deepEqual(page.questions, [])
})

test('the audit of all, and of one user with all that happened, is found again, too', async () => {
  const { id, email } = await app.user()
  const page = await enter({ hash: '#audit' })
  for (const [user, hash] of [
    [id, `#audit/${id}/`],
    ['', '#audit//'],
  ] as const) {
    await page.type('[name=user]', user)
    await enterKey(page)
    await page.sees(`location.hash === '${hash}'`)
    await page.evaluate(`location.hash = '#users'`)
    await page.sees(`document.querySelector('[name=search]')`)
    await page.evaluate('history.back()')
    await page.sees(`document.querySelector('[name=action]')`)
    const shown = await page.evaluate<string>(`document.querySelector('[name=user]').value`)
    // The list of users may have told its address.
    assert.equal(shown === email ? id : shown, user)
  }
})

test('what is followed is what was answered, and not a question that was refused', async () => {
  const user = await app.user()
  const page = await enter({ hash: '#audit' })
  await page.click('[name=follow]')
  await page.type('[name=action]', 'No such thing')
  await enterKey(page)
  await says(page, 'must be text of 1 to 32')
  await app.request('POST', '/users/sessions', { body: { email: user.email, password } })
  await page.sees(`document.querySelector('tbody a[title="${user.id}"]')`)
  assert.equal(await page.evaluate(notice), '')
})

test('the audit that answers when another view is shown changes nothing there', async () => {
  const page = await enter()
  await page.evaluate('void (window.answered = new Promise((done) => { window.go = done }))')
  await answer(page, `path.startsWith('./audit') ? window.answered.then(pass) : pass()`)
  await page.click('nav a', 'Audit')
  await page.type('[name=action]', 'session.started')
  await enterKey(page)
  await page.click('nav a', 'Live')
  await until('a reading', () => countAsked(page, 'GET', '/metrics') === 1)
  await page.evaluate('go()')
  await until('another', () => countAsked(page, 'GET', '/metrics') === 2, 15)
  assert.equal(await page.evaluate('location.hash'), '#live')
})

async function openPanel(page: Page, id: string) {
  await page.evaluate(`location.hash = '#users/${id}'`)
  await page.sees(`document.querySelector('.panel li')`)
}

/** Stores an address that no new user could have. */
async function giveAddress(id: string, address: string) {
  const text = 'update users set email = $2, email_lower = $2 where id = $1'
  await app.db.query(text, [id, address])
}

test('what a field cannot show is not changed where nothing was typed', async () => {
  const { id } = await app.user()
  await giveAddress(id, 'two\nlines@example.org')
  const page = await enter()
  await openPanel(page, id)
  await page.type('.panel [name=permissions]', 'orders:read')
  await page.click('.panel form button', 'Save')
  await page.sees(`${notice} === 'Saved'`)
  const { details } = await app.request('GET', `/users/${id}`, { key: admin.key })
  assert.deepEqual(
    [details.email, details.permissions],
    ['two\nlines@example.org', ['orders:read']],
  )
})

test('the audit of a user is found by an address of any form', async () => {
  const { id } = await app.user()
  await giveAddress(id, 'user1')
  const page = await enter({ hash: '#audit' })
  await page.type('[name=user]', 'user1')
  await enterKey(page)
  await page.sees(`location.hash === '#audit/${id}/'`)
})

test('whoever deletes what was changed meanwhile sees the change, and can go on', async () => {
  const user = await app.user({ email: 'doomed@example.org' })
  const page = await enter()
  await find(page, user.email)
  await page.type('.panel [name=metadata]', '{"mine": ')
  const body = { permissions: ['theirs'] }
  await app.request('PATCH', `/users/${user.id}`, { key: admin.key, body })
  await page.click('.panel button', 'Delete the user')
  await page.type('[name=typed]', user.email)
  await press(page, 'Delete')
  await says(page, 'User is not up to date')
  const shown = `['permissions', 'metadata'].map((name) =>
    document.querySelector('.panel [name=' + name + ']').value)`
  assert.deepEqual(await page.evaluate(shown), ['theirs', '{"mine": '])
  await press(page, 'Delete')
  await page.sees(isClosed)
  const { status } = await app.request('GET', `/users/${user.id}`, { key: admin.key })
  assert.equal(status, 404)
})

test('a password is not said to be saved where none was typed', async () => {
  const own = await app.user({ role: 'admin' })
  const page = await enter({ email: own.email })
  await openPanel(page, own.id)
  await page.type('.panel [name=currentPassword]', password)
  await page.click('.panel button', 'Change the password')
  await says(page, 'must have 8 to 128 characters')
  assert.equal(await page.evaluate(`${notice} === 'Saved'`), false)
})

test('whoever was changed meanwhile can still change their password', async () => {
  const own = await app.user({ role: 'admin', email: 'own@example.org' })
  const page = await enter({ email: own.email })
  await openPanel(page, own.id)
  await app.request('PATCH', '/users/me', { key: own.key, body: { metadata: { a: 1 } } })
  await page.type('.panel [name=currentPassword]', password)
  await page.type('.panel [name=password]', 'a password of mine')
  await page.click('.panel button', 'Change the password')
  await says(page, 'User is not up to date')
  await page.click('.panel button', 'Change the password')
  await page.sees(`${notice} === 'Saved'`)
})

test('a list that is read once more after a panel was closed keeps the focus', async () => {
  const user = await app.user()
  const page = await enter()
  await find(page, user.email)
  await page.evaluate('void (window.answered = new Promise((done) => { window.go = done }))')
  await answer(page, `path.startsWith('./users?') ? window.answered.then(pass) : pass()`)
  await page.click('.panel [name=emailVerified]')
  await page.click('.panel form button', 'Save')
  await page.sees(`${notice} === 'Saved'`)
  await closePanel(page)
  await page.evaluate(`window.before = document.querySelector('td a')`)
  const isFocused = `document.activeElement.title === '${user.id}'`
  await page.sees(isFocused)
  await page.evaluate('go()')
  await page.sees('!before.isConnected')
  assert.equal(await page.evaluate(isFocused), true)
})

test('an answer that is not of the service is told with its status', async () => {
  const page = await enter()
  const answers = [
    [`'<h1>Bad gateway</h1>', { status: 502, statusText: 'Bad Gateway' }`, '502 Bad Gateway'],
    [`'{upstream: 504}', { status: 504 }`, '504'],
    [`'null', { status: 500 }`, '500'],
    [`'<h1>Log in to the network</h1>', { status: 200 }`, '200'],
    [`'{oops', { status: 200 }`, '200'],
  ]
  for (const [number, [given, told]] of answers.entries()) {
    await answer(page, `Promise.resolve(new Response(${given}))`)
    await page.type('[name=search]', String(number))
    await page.sees(`${notice}.includes(${JSON.stringify(told)})`)
    assert.match(await page.evaluate<string>(notice), /gateway/)
  }
  await checkQuiet(page)
})

test('a gateway that has answers kept shows no old ones', async () => {
  const base = `${await startPlainGateway([app.url], {
    headers: { 'cache-control': 'public, max-age=600' },
  })}/v1`
  const user = await app.user({ email: 'stored@example.org' })
  const page = await enter({ base })
  await find(page, user.email)
  await closePanel(page)
  const body = { permissions: ['newer'] }
  await app.request('PATCH', `/users/${user.id}`, { key: admin.key, body })
  await page.click('td a')
  await page.sees(`document.querySelector('.panel li')`)
  const shown = `document.querySelector('.panel [name=permissions]').value`
  assert.equal(await page.evaluate(shown), 'newer')
})

test('a page that opened this one has no hold of it', async () => {
  const page = await browser.open(`${app.base}/docs`)
  await page.goTo('about:blank')
  const expression = `window.opened = window.open('${app.base}/admin')`
  await page.send('Runtime.evaluate', { expression, userGesture: true })
  await page.sees('opened.closed')
})

test('two instances behind a balancer have lines of their own', async () => {
  const other = await startService(app.database.env)
  const balancer = await startPlainGateway([app.url, new URL(other.url).origin])
  const page = await enter({ base: `${balancer}/v1`, hash: '#live' })
  await says(page, 'Instances that answered: 2')
  await page.sees(`document.querySelector('svg').childElementCount === 2`)
  const dashes = await page.evaluate<string[]>(
    `[...document.querySelectorAll('svg')[2].children].map((each) =>
      getComputedStyle(each).strokeDasharray)`,
  )
  assert.deepEqual(dashes, ['none', '4px', 'none', '4px', 'none', '4px'])
  await other.kill()
  await checkQuiet(page)
})

test('what takes longer than the last bound is drawn there, and told as more', async () => {
  const page = await enter({ hash: '#live' })
  await page.evaluate('window.readings = 0')
  await answer(
    page,
    `!path.endsWith('/metrics') ? pass() : pass().then((reply) => reply.text()).then((text) => {
      window.readings++
      const slow = '"GET",route="/v1/slow"'
      const line = (le) => 'http_request_duration_seconds_bucket{method=' + slow + ',le="' + le
      return new Response(text + line('5') + '"} 0\\n' + line('+Inf') + '"} '
        + 1000 * window.readings + '\\n')
    })`,
  )
  await page.sees('window.readings > 2')
  const latency = await page.evaluate<string>(
    `[...document.querySelectorAll('article')]
      .find((each) => each.textContent.startsWith('Latency')).innerText`,
  )
  assert.match(latency, /up to 5,000/)
  assert.match(latency, /p50 > 5,000/)
})

test('an instance that was not heard of for ten minutes is forgotten', async () => {
  const page = await enter({ hash: '#live' })
  await page.evaluate('window.start = 1')
  await answer(
    page,
    `!path.endsWith('/metrics') ? pass() : pass().then((reply) => reply.text()).then((text) =>
      new Response(text.replace(/^(process_start_time_seconds) .*/m, '$1 ' + window.start)))`,
  )
  await says(page, 'Instances that answered: 2')
  await page.evaluate('window.start = 2')
  await skipMinutes(page, 11)
  await says(page, 'Instances that answered: 1')
  await page.sees(`document.querySelector('svg').childElementCount === 1`)
})
