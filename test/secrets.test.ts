import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setImmediate as nextTurn } from 'node:timers/promises'

import { createKey, digestKey, isSecret } from '../src/keys/format.ts'
import { createHasher } from '../src/passwords/hasher.ts'
import { formatHash, isWeaker, parseHash } from '../src/passwords/hash.ts'
import { atCost, undo } from './support/helpers.ts'

test('a key has its form and its checksum', () => {
  for (let i = 0; i < 200; i++) {
    const key = createKey()
    assert.match(key, /^usk_[0-9A-Za-z]{49}$/)
    assert.ok(isSecret(key, 'usk'))
  }
  // CRC-32 of 43 zeros, as zlib has it, in base62.
  assert.ok(isSecret(`usk_${'0'.repeat(43)}2CZclj`, 'usk'))
})

test('a key with any one character changed is no key', () => {
  const key = createKey()
  for (let i = 0; i < key.length; i++) {
    const other = key[i] === 'A' ? 'B' : 'A'
    assert.ok(!isSecret(key.slice(0, i) + other + key.slice(i + 1), 'usk'))
  }
  for (const wrong of [
    '',
    'usk_',
    `${key} `,
    `${key}0`,
    key.slice(0, -1),
    key.replace('usk', 'usc'),
  ])
    assert.ok(!isSecret(wrong, 'usk'))
})

test('keys are 32 random bytes, all of them', () => {
  const keys = Array.from({ length: 2000 }, createKey)
  assert.equal(new Set(keys).size, keys.length)
  for (let at = 5; at < 47; at++)
    assert.equal(new Set(keys.map((key) => key[at])).size, 62, `position ${at}`)
})

test('of a key SHA-256 is kept', () => {
  assert.equal(
    digestKey('abc').toString('hex'),
    'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad',
  )
})

const phc =
  '$scrypt$ln=14,r=8,p=5$AAECAwQFBgcICQoLDA0ODw$D7lSJtJDGLLVcrxL7dWjkoRxbs+pMvcVYIJ+gbuyltk'

test('a stored password is read and written in PHC string format', () => {
  const parsed = parseHash(phc)!
  assert.deepEqual(
    [parsed.ln, parsed.r, parsed.p, parsed.salt.length, parsed.hash.length],
    [14, 8, 5, 16, 32],
  )
  assert.equal(formatHash(parsed), phc)
})

test('what is no stored password, or asks for too much, is not read', () => {
  for (const stored of [
    '',
    'x',
    '$2b$10$abc',
    phc.replace('ln=14', 'ln=18'),
    phc.replace('ln=14', 'ln=99'),
    phc.replace('r=8', 'r=0'),
    phc.replace('r=8', 'r=99'),
    phc.replace('p=5', 'p=17'),
    phc.replace('p=5', 'p=0'),
    `${phc}$`,
  ]) {
    assert.equal(parseHash(stored), null, stored)
  }
})

test('less work than today’s is weaker, other parameters of the same work are not', () => {
  const parsed = parseHash(phc)!
  assert.deepEqual(
    [{}, { ln: 15, p: 3 }, { ln: 17, p: 1 }, { p: 4 }, { ln: 13, p: 16 }, { r: 4 }].map((other) =>
      isWeaker({ ...parsed, ...other }),
    ),
    [false, false, false, true, true, true],
  )
})

const verifier = new URL('../src/foreign/thread.js', import.meta.url)
const hasher = createHasher(2, verifier)
undo.push(() => hasher.stop())

const verify = (text: string, stored: string | null) =>
  hasher.verify(text, async () => ({ passwordHash: stored }), 'c')

async function judge(text: string, stored: string | null) {
  const { isRight, renew } = await verify(text, stored)
  return { isRight, renew }
}

test('a password fits what was stored of it, and no other does', async () => {
  const stored = await hasher.hash('a password', 'c')
  assert.deepEqual(await judge('a password', stored), { isRight: true, renew: false })
  assert.deepEqual(await judge('another', stored), { isRight: false, renew: false })
  assert.deepEqual(await judge('', null), { isRight: false, renew: false })
  assert.notEqual(await hasher.hash('a password', 'c'), stored)
})

test('who is still looked up holds up nobody, and is refused at once when that fails', async () => {
  const alone = createHasher(1, verifier)
  undo.push(() => alone.stop())
  let found!: (stored: { passwordHash: string }) => void
  const slow = alone.verify(
    'x',
    () =>
      new Promise<{ passwordHash: string }>((resolve) => {
        found = resolve
      }),
    'a',
  )
  const failing = alone.verify('x', () => Promise.reject(new Error('down')), 'a')
  await assert.rejects(failing, /down/)
  assert.equal(
    (await alone.verify('a password', async () => ({ passwordHash: phc }), 'b')).renew,
    false,
  )
  assert.deepEqual(alone.load(), { inFlight: 0, queued: 1 })
  found({ passwordHash: phc })
  assert.equal((await slow).isRight, false)
  assert.deepEqual(alone.load(), { inFlight: 0, queued: 0 })
})

test('clients take turns, and no few of them can shut another out', () => atCost(8, takeTurns))

async function takeTurns() {
  // On one thread they are answered in the order of their turns.
  const alone = createHasher(1, verifier)
  undo.push(() => alone.stop())
  const order: string[] = []
  const cheap = phc.replace('ln=14', 'ln=8')
  const ask = (client: string) =>
    alone
      .verify('x', async () => ({ passwordHash: cheap }), client)
      .then(
        () => order.push(client),
        () => order.push(`no ${client}`),
      )
  const asked = ['a', 'b'].flatMap((client) => Array.from({ length: 20 }, () => ask(client)))
  const refused = () => order.filter((client) => client.startsWith('no ')).length
  while (refused() < 40 - 32) await nextTurn()
  const before = order.length - refused()
  while (alone.load().queued < 32) asked.push(ask('a'), ask('b'))
  asked.push(ask('late'))
  assert.equal(alone.load().queued, 32)
  await Promise.all(asked)
  const answered = order.filter((client) => !client.startsWith('no '))
  const turns = answered.indexOf('late') - before
  assert.ok(turns <= 4, `late waited ${turns} turns`)
  assert.ok(refused() > 40 - 32 && !order.includes('no late'), order.join())
}
