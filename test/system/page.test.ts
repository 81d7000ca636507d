// The page of the document in Chromium: what people click, type and read there.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type AddressInfo } from 'node:net'
import { test } from 'node:test'

import { startBrowser, type Page } from '../support/browser.ts'
import { hashCheaply, password, startTestApp, undo } from '../support/helpers.ts'
import { run, until } from '../support/process.ts'

hashCheaply()
const app = await startTestApp({ SIGNUP: 'open' })
const browser = await startBrowser()
const admin = await app.admin()
const docs = `${app.base}/docs`
const api: any = JSON.parse((await app.request('GET', '/openapi.json')).text)

/** Opens the page, and waits until it has made of the document what it shows. */
async function open(hash = '', options: { width?: number } = {}) {
  const page = await browser.open(docs + hash, options)
  await page.sees(`document.querySelector('#contents').childElementCount > 0`)
  return page
}

/** Unfolds the form of an operation. */
const tryOut = (page: Page, id: string) => page.click(`#${id} > details > summary`)

/** Sends the form of an operation, and waits for the answer; returns its title and its body. */
async function send(page: Page, id: string) {
  await page.click(`#${id} form > button`, 'Send')
  await page.sees(`document.querySelector('#${id} output h4, #${id} output pre')`)
  return {
    title: await page.textOf(`#${id} output h4`),
    text: await page.evaluate<string>(`document.querySelector('#${id} output pre').textContent`),
  }
}

/** Fails if the page broke its policy, complained, asked elsewhere or kept a key. */
async function checkQuiet(page: Page, ...keys: string[]) {
  assert.deepEqual({ messages: page.messages, violations: page.violations }, quiet)
  const elsewhere = page.requests.filter(({ url }) => !url.startsWith(`${app.url}/`))
  assert.deepEqual(elsewhere, [])
  const kept = await page.evaluate<string>(`(async () => JSON.stringify([
    localStorage.length, sessionStorage.length, document.cookie, history.state, name,
    location.href, await indexedDB.databases(), await caches.keys(),
  ]))()`)
  const [local, session, cookie, state, name, address, ...stores] = JSON.parse(kept)
  assert.deepEqual([local, session, cookie, state, name, ...stores], [0, 0, '', null, '', [], []])
  for (const key of keys) {
    assert.ok(!address.includes(key))
    assert.ok(!page.requests.some(({ url }) => url.includes(key)))
  }
}
const quiet = { messages: [], violations: [] }

test('it shows every operation, whom each is for, its version and its document', async () => {
  const page = await open()
  const shown = await page.evaluate(`Object.fromEntries(
    [...document.querySelectorAll('article')].map((each) => [
      each.id, each.querySelector(':scope > span').textContent,
    ]))`)
  const callers: Record<string, string> = {
    anyone: 'anyone',
    optional: 'anyone, or with a key',
    key: 'any key',
    self: 'the user itself or an admin',
    admin: 'admins only',
  }
  const operations = Object.values<any>(api.paths).flatMap((item) => Object.values<any>(item))
  const expected = operations.map((each) => [each.operationId, callers[each['x-access']]])
  assert.deepEqual(shown, Object.fromEntries(expected))
  assert.equal(shown.listUsers, 'admins only')
  assert.equal(await page.textOf('#version'), api.info.version)

  await page.click('header a', 'openapi.json')
  await page.sees(`location.pathname === '/v1/openapi.json'`)
  assert.deepEqual(JSON.parse(await page.textOf('body')), api)
})

test('an address with an operation in it leads there, and the contents do', async () => {
  const isAtTop = (id: string) => `Math.abs(${id}.getBoundingClientRect().top) < 5`
  const page = await open('#rotateKey')
  await page.sees(isAtTop('rotateKey'))
  await page.click('#contents a', api.paths['/users'].post.summary)
  await page.sees(isAtTop('createUser'))
  assert.equal(await page.evaluate('location.hash'), '#createUser')
  await page.click('#createUser h3 a')
  assert.equal(await page.evaluate('location.hash'), '#createUser')
  await checkQuiet(page)
})

test('on a phone the contents are folded until they are asked for', async () => {
  const page = await open('', { width: 390 })
  assert.equal(await page.evaluate(`byId('folded').open`), false)
  await page.click('#folded summary')
  await page.click('#contents a', api.paths['/users'].post.summary)
  assert.equal(await page.evaluate('location.hash'), '#createUser')
  assert.equal(await page.evaluate('document.documentElement.scrollWidth <= 390'), true)
})

test('a search leaves the operations that have every word, and their contents', async () => {
  const page = await open()
  const listShown = `[...document.querySelectorAll('article')]
    .filter((each) => each.checkVisibility()).map(({ id }) => id)`
  const listLinks = `[...document.querySelectorAll('#contents .article')]
    .map((each) => each.getAttribute('href').slice(1))`
  const all = await page.evaluate<string[]>(listShown)
  await page.type('#search', 'Rotate KEYID')
  assert.deepEqual(await page.evaluate(listShown), ['rotateKey'])
  assert.deepEqual(await page.evaluate(listLinks), ['rotateKey'])
  assert.equal(await page.textOf('#found'), '')
  await page.type('#search', 'last_admin')
  assert.deepEqual(await page.evaluate(listShown), ['updateUser', 'deleteUser'])
  await page.type('#search', 'no such words')
  assert.deepEqual(await page.evaluate(listShown), [])
  assert.equal(await page.textOf('#found'), 'No operation has these words.')
  await page.type('#search', '')
  assert.deepEqual(await page.evaluate(listShown), all)
  await checkQuiet(page)
})

test('the key of a sign-up is taken over when that is asked for, and is kept nowhere', async () => {
  const page = await open('#createUser')
  await tryOut(page, 'createUser')
  const body = JSON.stringify({ email: 'taken-over@example.org', password })
  await page.type('#createUser textarea', body)
  const signUp = await send(page, 'createUser')
  assert.equal(signUp.title, '201 Created')
  const user = JSON.parse(signUp.text).details
  const [key] = user.apiKeys
  assert.equal(await page.evaluate('key.value'), '')

  await tryOut(page, 'getUser')
  assert.equal((await send(page, 'getUser')).title, '401 Unauthorized')
  await page.click('#createUser output button', 'Call with this key from now on')
  assert.equal(await page.evaluate('key.value'), key)
  assert.match(await page.textOf('#createUser output'), /This page calls with that key now\.$/)
  const own = await send(page, 'getUser')
  assert.equal(own.title, '200 OK')
  assert.equal(JSON.parse(own.text).details.id, user.id)
  assert.equal(await page.evaluate('key.type'), 'password')
  await checkQuiet(page, key)

  await page.goTo('about:blank')
  await page.goTo(docs)
  assert.equal(await page.evaluate('key.value'), '')
})

test('a DELETE is sent only after a question, and of an id that was typed', async () => {
  const page = await open('#deleteUser')
  const user = await app.user()
  await page.type('#key', user.key)
  await tryOut(page, 'deleteUser')
  const field = '#deleteUser form [name=id]'
  assert.equal(await page.evaluate(`document.querySelector('${field}').value`), '')
  await page.click('#deleteUser form > button', 'Send')
  assert.equal(await page.evaluate(`document.querySelector('${field}').matches(':invalid')`), true)
  await page.type(field, user.id)
  const sent = () => page.requests.filter(({ method }) => method === 'DELETE').map(({ url }) => url)
  page.says = false
  await page.click('#deleteUser form > button', 'Send')
  const question = `DELETE ${app.base}/users/${user.id}\n\nThis cannot be undone. Send it?`
  assert.deepEqual(page.questions, [question])
  assert.deepEqual(sent(), [])
  page.says = true
  const { title } = await send(page, 'deleteUser')
  assert.equal(title, '204 No Content')
  assert.deepEqual(page.questions, [question, question])
  assert.deepEqual(sent(), [`${app.base}/users/${user.id}`])
  await checkQuiet(page, user.key)
})

test('a list takes several values, one a line', async () => {
  const page = await open('#authorize')
  const user = await app.user({ permissions: ['read', 'write'] })
  await page.type('#key', user.key)
  await tryOut(page, 'authorize')
  await page.type('#authorize [name=require-permission]', 'read\nwrite')
  assert.equal((await send(page, 'authorize')).title, '200 OK')
  await page.type('#authorize [name=require-permission]', 'read\npay')
  assert.equal((await send(page, 'authorize')).title, '403 Forbidden')
  const queries = page.requests.filter(({ url }) => url.includes('require-'))
  assert.deepEqual(
    queries.map(({ url }) => new URL(url).search),
    ['write', 'pay'].map((last) => `?require-permission=read&require-permission=${last}`),
  )
  await checkQuiet(page, user.key)
})

test('the curl line that is copied does in a shell what the button does', async () => {
  const page = await open('#createUser')
  await page.type('#key', admin.key)
  const copied = async (id: string) => {
    await page.click(`#${id} form > button`, 'Copy the curl line')
    await page.sees(`document.querySelector('#${id} form').textContent.includes('Copied')`)
    return page.evaluate<string>('navigator.clipboard.readText()')
  }
  await tryOut(page, 'createUser')
  const metadata = { said: `it's "$HOME" \`id\` \\ !! @x\né` }
  const wanted = { email: `o'hara&co@example.org`, password, metadata }
  await page.type('#createUser textarea', JSON.stringify(wanted, null, 2))
  const making = await copied('createUser')
  assert.ok(!making.includes(admin.key))
  const { stdout } = await run('sh', ['-c', `${making} -s`], { KEY: admin.key })
  const { details } = JSON.parse(stdout)
  assert.deepEqual([details.email, details.metadata], [wanted.email, metadata])

  await tryOut(page, 'updateUser')
  await page.type('#updateUser [name=id]', details.id)
  await page.type('#updateUser [name=If-Match]', '"1"')
  await page.type('#updateUser textarea', '{"permissions":["a"]}')
  const changing = await copied('updateUser')
  const changed = await run('bash', ['-c', `${changing} -s`], { KEY: admin.key })
  assert.deepEqual(JSON.parse(changed.stdout).details.permissions, ['a'])
  const again = await run('bash', ['-c', `${changing} -s`], { KEY: admin.key })
  assert.equal(JSON.parse(again.stdout).code, 'stale_version')

  await tryOut(page, 'listUsers')
  await page.type('#listUsers [name=email]', wanted.email)
  const finding = await copied('listUsers')
  const found = await run('sh', ['-c', `${finding} -s`], { KEY: admin.key })
  assert.deepEqual(JSON.parse(found.stdout).details, [details.id])
  assert.deepEqual(JSON.parse((await send(page, 'listUsers')).text).details, [details.id])
  await checkQuiet(page, admin.key)
})

test('what an answer says is shown as text, whatever it is', async () => {
  const hostile = `<img src=x onerror="alert(1)"><script>alert(2)</script></pre><b id=own>b</b>`
  const user = await app.user({ metadata: { hostile, [hostile]: 1 } })
  const page = await open('#getUser')
  await page.type('#key', user.key)
  await tryOut(page, 'getUser')
  const before = await page.evaluate('document.images.length + document.scripts.length')
  const { text } = await send(page, 'getUser')
  assert.deepEqual(JSON.parse(text).details.metadata, { hostile, [hostile]: 1 })
  assert.equal(await page.evaluate('document.images.length + document.scripts.length'), before)
  assert.equal(await page.evaluate(`document.querySelector('#getUser output b')`), null)
  assert.deepEqual(page.questions, [])
  await checkQuiet(page, user.key)
})

test('its policy stops what an injection could do', async () => {
  const page = await open()
  let reached = 0
  const other = createServer(() => reached++).listen(0, '127.0.0.1')
  await once(other, 'listening')
  undo.push(() => other.close())
  const address = `http://127.0.0.1:${(other.address() as AddressInfo).port}/`
  const add = (name: string, props: string) =>
    page.evaluate(`document.body.append(
      Object.assign(document.createElement('${name}'), ${props}))`)
  await add('img', `{ src: '${address}' }`)
  await add('style', `{ textContent: 'body { color: red }' }`)
  await assert.rejects(add('script', `{ text: 'alert(1)' }`), /TrustedScript/)
  await assert.rejects(page.evaluate(`document.body.innerHTML = '<b>b</b>'`), /TrustedHTML/)
  await assert.rejects(page.evaluate(`fetch('${address}')`), /Failed to fetch/)
  await until('all is told', () => new Set(page.violations).size === 4)
  assert.deepEqual([...new Set(page.violations)].sort(), [
    'connect-src',
    'img-src',
    'require-trusted-types-for',
    'style-src-elem',
  ])
  assert.equal(reached, 0)
})

test('without JavaScript it says how to call, and where the document is', async () => {
  const page = await browser.open(docs, { hasScripts: false })
  const text = await page.textOf('main')
  assert.match(text, /^Without JavaScript\n/)
  assert.match(text, /\ncurl -H "X-Api-Key: \$KEY" HERE\/users\/me\n/)
  assert.equal(await page.evaluate('tools.checkVisibility()'), false)
  await page.click('main a', 'openapi.json')
  await page.sees(`location.pathname === '/v1/openapi.json'`)
  const withScripts = await open()
  assert.doesNotMatch(await withScripts.textOf('main'), /Without JavaScript/)
})
