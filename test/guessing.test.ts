// What guessing costs a client over many accounts, and that a wait tells nobody who has an account.
import assert from 'node:assert/strict'
import { test } from 'node:test'

import { brief, hashCheaply, password, startTestApp } from './support/helpers.ts'

hashCheaply()
const app = await startTestApp({ TRUSTED_PROXIES: '127.0.0.0/8' })
const admin = await app.admin()
const throttled = { status: 429, code: 'login_throttled' }
const wrong = { status: 401, code: 'invalid_credentials' }
const passed = { status: 201 }

async function logIn(client: string, email: string, given = password) {
  const body = { email, password: given }
  const headers = { 'x-forwarded-for': client }
  return brief(await app.request('POST', '/users/sessions', { body, headers }))
}

/** Has a client fail so often, each time at another address, ten at a time. */
async function failElsewhere(client: string, count: number) {
  for (let done = 0; done < count; done += 10) {
    const some = Array.from({ length: Math.min(10, count - done) }, (_, i) =>
      logIn(client, `${client}-${done + i}@nobody.example`, 'wrong'),
    )
    for (const answer of await Promise.all(some)) assert.deepEqual(answer, wrong)
  }
}

/** Has a client fail at one address until it has to wait. */
async function failUntilWaiting(client: string, email: string) {
  for (let i = 0; i < 5; i++) assert.deepEqual(await logIn(client, email, 'wrong'), wrong)
  assert.deepEqual(await logIn(client, email, 'wrong'), throttled)
}

test('after fifty failures over whatever accounts a client has to wait, and no other', async () => {
  const user = await app.user()
  await failElsewhere('198.51.100.1', 50)
  assert.deepEqual(await logIn('198.51.100.1', user.email), throttled)
  assert.deepEqual(await logIn('198.51.100.2', user.email), passed)
})

test('a log-in to an own account between tries at others’ does not help a client', async () => {
  const own = await app.user()
  await failElsewhere('198.51.100.3', 25)
  assert.deepEqual(await logIn('198.51.100.3', own.email), passed)
  await failElsewhere('198.51.100.3', 25)
  assert.deepEqual(await logIn('198.51.100.3', own.email), throttled)
})

test('people behind one address who each mistype once do not have to wait', async () => {
  const people = await Promise.all(Array.from({ length: 51 }, () => app.user()))
  for (const { email } of people) {
    assert.deepEqual(await logIn('198.51.100.4', email, 'mistyped'), wrong)
    assert.deepEqual(await logIn('198.51.100.4', email), passed)
  }
})

test('a wait stays with an address that gets a user', async () => {
  const email = 'soon@example.org'
  await failUntilWaiting('198.51.100.5', email)
  await app.user({ email })
  assert.deepEqual(await logIn('198.51.100.5', email), throttled)

  const moved = 'moves-here@example.org'
  await failUntilWaiting('198.51.100.6', moved)
  const user = await app.user()
  const change = { key: user.key, body: { email: moved } }
  assert.equal((await app.request('PATCH', `/users/${user.id}`, change)).status, 200)
  assert.deepEqual(await logIn('198.51.100.6', moved), throttled)
})

test('a wait stays with an address that loses its user', async () => {
  const deleted = await app.user()
  await failUntilWaiting('198.51.100.7', deleted.email)
  await app.request('DELETE', `/users/${deleted.id}`, { key: admin.key })
  assert.deepEqual(await logIn('198.51.100.7', deleted.email), throttled)

  const user = await app.user()
  await failUntilWaiting('198.51.100.8', user.email)
  const change = { key: user.key, body: { email: 'moved-away@example.org' } }
  assert.equal((await app.request('PATCH', `/users/${user.id}`, change)).status, 200)
  assert.deepEqual(await logIn('198.51.100.8', user.email), throttled)
  assert.deepEqual(await logIn('198.51.100.8', 'moved-away@example.org'), throttled)
})

test('the id of a user tells nothing of the address that it waits with', async () => {
  const user = await app.user()
  await failUntilWaiting('198.51.100.9', user.email)
  assert.deepEqual(await logIn('198.51.100.9', user.id, 'wrong'), wrong)
})
