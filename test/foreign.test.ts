// Passwords that other systems hashed. The vectors are those that were published with each hash:
// crypt_blowfish's wrapper.c, py-bcrypt's test.py, RFC 6070, RFC 7914, the reference argon2's
// test.c, Firebase's README.
import assert from 'node:assert/strict'
import * as crypto from 'node:crypto'
import { test } from 'node:test'

import { bcrypt, bcryptBase64 } from '../src/foreign/bcrypt.ts'
import { findHashFault, verifyForeign } from '../src/foreign/hashes.ts'
import { atCost, brief, hashCheaply, password, startTestApp } from './support/helpers.ts'

hashCheaply()
const app = await startTestApp({ TRUSTED_PROXIES: '127.0.0.0/8' })
const hasArgon2 = 'argon2Sync' in crypto

const base64 = (hex: string) => Buffer.from(hex, 'hex').toString('base64').replaceAll('=', '')

/** PBKDF2 with few rounds, as cheap as a foreign hash can be. */
function cheapHash(typed: string) {
  const salt = Buffer.from('a salt')
  const hash = crypto.pbkdf2Sync(typed, salt, 10, 32, 'sha256')
  return `$pbkdf2-sha256$i=10$${salt.toString('base64')}$${hash.toString('base64')}`
}

/** Of bytes, each as the character with its number. */
const ofBytes: [bytes: string, stored: string][] = [
  ['U*U', '$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW'],
  ['U*U*', '$2a$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK'],
  ['U*U*U', `$2a$05$${'X'.repeat(21)}OAcXxm9kjPGEMsLznoKqmqw7tc8WCx4a`],
  ['', '$2a$05$CCCCCCCCCCCCCCCCCCCCC.7uG0VCzI2bS7j6ymqJi9CdcdxiRTWNy'],
  ['\xff\xff\xa3', '$2y$05$/OK.fbVrR/bpIqNJ5ianF.CE5elHaaO4EbggVDjb8P19RukzXSM3e'],
  ['\xff\xff\xa3', '$2b$05$/OK.fbVrR/bpIqNJ5ianF.CE5elHaaO4EbggVDjb8P19RukzXSM3e'],
  ['\xa3', '$2y$05$/OK.fbVrR/bpIqNJ5ianF.Sa7shbm4.OzKpvFnX1pQLmQW96oUlCq'],
  ['\xa3', '$2a$05$/OK.fbVrR/bpIqNJ5ianF.Sa7shbm4.OzKpvFnX1pQLmQW96oUlCq'],
  ['\xa3', '$2b$05$/OK.fbVrR/bpIqNJ5ianF.Sa7shbm4.OzKpvFnX1pQLmQW96oUlCq'],
  ['\xff\xa334\xff\xff\xff\xa3345', '$2y$05$/OK.fbVrR/bpIqNJ5ianF.o./n25XVfn6oAPaUvHe.Csk4zRfsYPi'],
  ['\xff\xa3345', '$2y$05$/OK.fbVrR/bpIqNJ5ianF.nRht2l/HRhr6zmCp9vYUvvsqynflf9e'],
  ['\xff\xa3345', '$2a$05$/OK.fbVrR/bpIqNJ5ianF.nRht2l/HRhr6zmCp9vYUvvsqynflf9e'],
  ['\xa3ab', '$2a$05$/OK.fbVrR/bpIqNJ5ianF.6IflQkJytoRVc1yuaNtHfiuq.FRlSIS'],
  ['\xa3ab', '$2y$05$/OK.fbVrR/bpIqNJ5ianF.6IflQkJytoRVc1yuaNtHfiuq.FRlSIS'],
  [
    '\xaa'.repeat(72) + 'chars after 72 are ignored as usual',
    '$2a$05$/OK.fbVrR/bpIqNJ5ianF.swQOIzjOiJ9GHEPuhEkvqrUyvWhEMx6',
  ],
  ['\xaa\x55'.repeat(36), '$2a$05$/OK.fbVrR/bpIqNJ5ianF.R9xrDjiycxMbQE2bp.vgqlYpW5wx2yy'],
  ['\x55\xaa\xff'.repeat(24), '$2a$05$/OK.fbVrR/bpIqNJ5ianF.9tQZzcJfm3uj2NvJ/n5xkhpqLrMpWCe'],
]

const alphabet = 'abcdefghijklmnopqrstuvwxyz'
const signs = '~!@#$%^&*()      ~!@#$%^&*()PNBFRD'
const long =
  '0123456789' + alphabet + alphabet.toUpperCase() + '0123456789chars after 72 are ignored'
const firebaseKey =
  'jxspr8Ki0RYycVU8zykbdLGjFQ3McFUH0uiiTvC8pVMXAn210wjLNmdZJzxUECKbm0QsEmYUSDzZvpjeJ9WmXA=='
const ofText: [typed: string, stored: string][] = [
  [long, '$2a$05$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui'],
  ['', '$2a$06$DCq7YPn5Rq63x1Lad4cll.TV4S6ytwfsfvkgY8jIucDrjc8deX1s.'],
  ['', '$2a$08$HqWuK6/Ng6sg9gQzbLrgb.Tl.ZHfXLhvt/SgVyWhQqgqcZ7ZuUtye'],
  ['a', '$2a$06$m0CrhHm10qJ3lXRY.5zDGO3rS2KdeeWLuGmsfGlMfOxih58VYVfxe'],
  ['a', '$2a$08$cfcvVd2aQ8CMvoMpP2EBfeodLEkkFJ9umNEfPD18.hUF62qqlC/V.'],
  ['abc', '$2a$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i'],
  ['abc', '$2a$08$Ro0CUfOqk6cXEKf3dyaM7OhSCvnwM9s4wIX9JeLapehKK5YdLxKcm'],
  [alphabet, '$2a$06$.rCVZVOThsIa97pEDOxvGuRRgzG64bvtJ0938xuqzv18d3ZpQhstC'],
  [alphabet, '$2a$08$aTsUwsyowQuzRrDqFflhgekJ8d9/7Z3GV3UcgvzQW3J5zMyrTvlz.'],
  [alphabet, '$2a$10$fVH8e28OQRj9tqiDXs1e1uxpsjN0c7II7YPKXua2NAKYvM6iQk7dq'],
  [signs, '$2a$06$fPIsBO8qRqkjj273rfaOI.HtSV9jLDpTbZn782DC6/t7qT67P6FfO'],
  [signs, '$2a$08$Eq2r4G/76Wv39MzSX262huzPz612MZiYHVUJe/OcOql2jo4.9UxTW'],
  // RFC 6070.
  [
    'password',
    `$pbkdf2-sha1$i=1$${base64('73616c74')}$${base64('0c60c80f961f0e71f3a9b524af6012062fe037a6')}`,
  ],
  [
    'password',
    `$pbkdf2-sha1$i=2$${base64('73616c74')}$${base64('ea6c014dc72d6f8ccd1ed92ace1d41f0d8de8957')}`,
  ],
  ['password', '$pbkdf2-sha1$i=4096$c2FsdA$' + base64('4b007901b765489abead49d926f721d065a429c1')],
  [
    'passwordPASSWORDpassword',
    '$pbkdf2-sha1$i=4096$c2FsdFNBTFRzYWx0U0FMVHNhbHRTQUxUc2FsdFNBTFRzYWx0$' +
      base64('3d2eec4fe41c849b80c8d83662c0e44a8b291a964cf2f07038'),
  ],
  ['pass\0word', `$pbkdf2-sha1$i=4096$c2EAbHQ$${base64('56fa6aa75548099dcc37d7f03425e0c3')}`],
  // RFC 7914, and PBKDF2 with SHA-256 there.
  [
    'passwd',
    '$pbkdf2-sha256$i=1$c2FsdA$' +
      base64(
        '55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc' +
          '49ca9cccf179b645991664b39d77ef317c71b845b1e30bd509112041d3a19783',
      ),
  ],
  [
    'password',
    '$scrypt$ln=10,r=8,p=16$TmFDbA$' +
      base64(
        'fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162' +
          '2eaf30d92e22a3886ff109279d9830dac727afb94a83ee6d8360cbdfa2cc0640',
      ),
  ],
  [
    'pleaseletmein',
    '$scrypt$ln=14,r=8,p=1$U29kaXVtQ2hsb3JpZGU$' +
      base64(
        '7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2' +
          'd5432955613f0fcf62d49705242a9af9e61e85dc0d651e40dfcf017b45575887',
      ),
  ],
  [
    'password',
    '$pbkdf2-sha512$i=1$c2FsdA==$' +
      base64(
        '867f70cf1ade02cff3752599a3a53dc4af34c7a669815ae5d513554e1c8cf252' +
          'c02d470a285a0501bad999bfe943c08f050235d7d68b1da55e63f73b60a57fce',
      ),
  ],
  // Firebase, with which GoTrue's form agrees.
  [
    'user1password',
    `$fbscrypt$v=1,n=14,r=8,p=1,ss=Bw==,sk=${firebaseKey}$42xEC+ixf3L2lw==$` +
      'lSrfV15cpx95/sZS2W9c9Kp6i/LVgQNDNC/qzrCnh1SAyZvqmZqAjTdn3aoItz+VHjoZilo78198JAdRuid5lQ==',
  ],
  // Made by better-auth 1.7.25.
  [
    'user1password',
    '54e3a12372afef5eac55981d2fc84ad4:' +
      '50eb22d8f308ad1eb55ba67e69a530be370f6f0d5c0bd9be1cecf2c836495e34' +
      'e6c8818905745db892a5ac0017a0bdd05189a0f1d5932ae3a514964a4e03114d',
  ],
]

const ofArgon2: [typed: string, stored: string][] = [
  [
    'password',
    '$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4',
  ],
  [
    'password',
    '$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc',
  ],
  [
    'password',
    '$argon2i$v=19$m=256,t=2,p=1$c29tZXNhbHQ$iekCn0Y3spW+sCcFanM2xBT63UP2sghkUoHLIUpWRS8',
  ],
  [
    'password',
    '$argon2i$v=19$p=2,m=256,t=2$c29tZXNhbHQ=$T/XOJ2mh1/TIpJHfCdQan76Q5esCFVoT5MAeIM1Oq2E=',
  ],
  [
    'password',
    '$argon2id$v=19$t=2,p=1,m=65536$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc',
  ],
  [
    'password',
    '$argon2d$v=19$m=65536,t=2,p=1$YzI5dFpYTmhiSFFBQUFBQUFBQUFBQQ$' +
      'Jxy74cswY2mq9y+u+iJcJy8EqOp4t/C7DWDzGwGB3IM',
  ],
]

test('a hash that differs in a byte of its middle is another', () => {
  for (const [typed, stored] of ofText) {
    const start = stored.startsWith('$2')
      ? 29
      : Math.max(...['$', ':'].map((each) => stored.lastIndexOf(each))) + 1
    const at = start + 18
    const other = `${stored.slice(0, at)}${stored[at] === 'a' ? 'b' : 'a'}${stored.slice(at + 1)}`
    assert.equal(verifyForeign(stored, typed), true, stored)
    assert.equal(verifyForeign(other, typed), false, other)
  }
})

test('bcrypt is that of others, with characters of eight bits and 72 bytes', () => {
  for (const [bytes, stored] of ofBytes) {
    assert.equal(findHashFault(stored), null)
    const cost = Number(stored.slice(4, 6))
    const computed = bcrypt(Buffer.from(bytes, 'latin1'), bcryptBase64(stored.slice(7, 29)), cost)
    assert.deepEqual(computed, bcryptBase64(stored.slice(29)), stored)
  }
})

test('of bcrypt the first 72 bytes count, up to a NUL, and no character less', () => {
  const [, stored] = ofText.find(([typed]) => typed === long)!
  assert.ok(verifyForeign(stored, long.slice(0, 72)))
  assert.ok(!verifyForeign(stored, long.slice(0, 71)))
  assert.ok(verifyForeign(stored, `${long.slice(0, 72)}other`))
  const [, ofA] = ofText.find(([typed]) => typed === 'a')!
  assert.ok(verifyForeign(ofA, 'a\0b'))
  assert.ok(!verifyForeign(ofA, '\0a'))
})

test('published passwords fit what was stored of them, and no others do', () => {
  for (const [typed, stored] of ofText) {
    assert.equal(findHashFault(stored), null, stored)
    assert.ok(verifyForeign(stored, typed), stored)
    assert.ok(!verifyForeign(stored, `x${typed}`), stored)
  }
})

test('argon2 is verified where Node has it, elsewhere refused with the reason', () => {
  for (const [typed, stored] of ofArgon2) {
    const fault = hasArgon2 ? null : 'must not be of argon2 before Node 24.7'
    assert.equal(findHashFault(stored), fault, stored)
    assert.equal(verifyForeign(stored, typed), hasArgon2, stored)
    assert.ok(!verifyForeign(stored, `x${typed}`), stored)
  }
})

test('base64 may have padding, and be that of URLs', () => {
  const hash = crypto.pbkdf2Sync('x', 'salt', 1, 32, 'sha256')
  for (const text of [
    hash.toString('base64'),
    hash.toString('base64').replaceAll('=', ''),
    hash.toString('base64url'),
  ])
    assert.ok(verifyForeign(`$pbkdf2-sha256$i=1$c2FsdA==$${text}`, 'x'))
})

const b22 = 'A'.repeat(22)
const b31 = 'A'.repeat(31)
const b43 = 'A'.repeat(43)
const b86 = 'A'.repeat(86)
const form = 'must be a hash of a form that src/foreign/README.md lists'
const memory = 'must need at most 128 MiB'
const cost = 'must have a cost of 4 to 14'
const rounds = 'must have 1 to 2000000 rounds'
const blocks = 'must have r · p of at most 1024'
const scrypt = 'must have parameters that scrypt allows'
const argon2 = 'must have a salt and parameters that argon2 allows'
const hashLength = 'must have a hash of 16 to 128 bytes'
const faulty: [stored: string, fault: string][] = [
  ['', form],
  ['correct horse battery staple', form],
  ['$1$abc$def', form],
  [`$2x$10$${b22}${b31}`, form],
  [`$2a$10$${b22}${b31}A`, form],
  [`$2a$10$${b22}${b31}\n`, form],
  [`$2b$15$${b22}${b31}`, cost],
  [`$2b$31$${b22}${b31}`, cost],
  [`$2b$03$${b22}${b31}`, cost],
  [`$scrypt$ln=18,r=8,p=1$${b22}$${b43}`, memory],
  [`$scrypt$ln=14,r=65,p=1$${b22}$${b43}`, memory],
  [`$scrypt$ln=17,r=8,p=3$${b22}$${b43}`, 'must have N · r · p of at most 2097152'],
  [`$scrypt$ln=14,r=8,p=99999999999$${b22}$${b43}`, 'must have N · r · p of at most 2097152'],
  [`$scrypt$ln=${'9'.repeat(400)},r=8,p=1$${b22}$${b43}`, scrypt],
  [`$scrypt$ln=0,r=8,p=1$${b22}$${b43}`, scrypt],
  [`$scrypt$ln=14,r=0,p=1$${b22}$${b43}`, scrypt],
  [`$scrypt$ln=14,r=8,p=0$${b22}$${b43}`, scrypt],
  [`$scrypt$ln=16,r=1,p=1$${b22}$${b43}`, scrypt],
  // Of these, PBKDF2 before and after takes most of the time and memory.
  [`$scrypt$ln=1,r=4,p=262144$${b22}$${b43}`, blocks],
  [`$scrypt$ln=1,r=524288,p=1$${b22}$${b43}`, blocks],
  [`$fbscrypt$v=1,n=1,r=1,p=1048576,ss=Bw==,sk=${b86}$${b22}$${b86}`, blocks],
  [`$scrypt$ln=14,r=8,p=1$${b22}$${'A'.repeat(20)}`, hashLength],
  [`$scrypt$ln=14,r=8,p=1$${b22}$${'A'.repeat(180)}`, hashLength],
  [`$scrypt$ln=14,r=8,p=1$${b22}$${'A'.repeat(41)}`, 'must not have base64 that is cut off'],
  [`$scrypt$ln=14,r=8,p=1$${b22}$${b43}*`, form],
  [`$scrypt$ln=14,r=8,p=1$${'A'.repeat(1024)}$${b43}`, 'must have at most 1024 characters'],
  [`$pbkdf2-sha256$i=0$${b22}$${b43}`, rounds],
  [`$pbkdf2-sha256$i=2000001$${b22}$${b43}`, rounds],
  [`$pbkdf2-sha256$i=${'9'.repeat(400)}$${b22}$${b43}`, rounds],
  [`$pbkdf2-md5$i=1$${b22}$${b43}`, form],
  [`$fbscrypt$v=1,n=18,r=8,p=1,ss=Bw==,sk=${b86}$${b22}$${b86}`, memory],
  [`$fbscrypt$v=1,n=14,r=8,p=1,ss=Bw==,sk=${b43}$${b22}$${b86}`, 'must have a hash as long as sk'],
  [`$fbscrypt$v=2,n=14,r=8,p=1,ss=Bw==,sk=${b86}$${b22}$${b86}`, form],
  [`${'a'.repeat(32)}:${'b'.repeat(64)}`, form],
  [`$argon2id$m=65536,t=2,p=1$${b22}$${b43}`, form],
  [`$argon2id$v=16$m=65536,t=2,p=1$${b22}$${b43}`, form],
  [`$argon2id$v=19$m=65536,t=2$${b22}$${b43}`, form],
  [`$argon2id$v=19$m=65536,t=2,t=2$${b22}$${b43}`, form],
  [`$argon2id$v=19$m=131073,t=1,p=1$${b22}$${b43}`, memory],
  [`$argon2id$v=19$m=65536,t=17,p=1$${b22}$${b43}`, 'must have m · t of at most 1048576'],
  // With lanes, most of the time is taken by starting threads.
  [`$argon2id$v=19$m=128,t=8192,p=16$${b22}$${b43}`, 'must have t · p of at most 1024'],
  [`$argon2id$v=19$m=131072,t=1,p=16384$${b22}$${b43}`, 'must have t · p of at most 1024'],
  [`$argon2id$v=19$m=256,t=0,p=1$${b22}$${b43}`, argon2],
  [`$argon2id$v=19$m=256,t=1,p=0$${b22}$${b43}`, argon2],
  [`$argon2id$v=19$m=15,t=1,p=2$${b22}$${b43}`, argon2],
  [`$argon2id$v=19$m=256,t=1,p=1$AAAA$${b43}`, argon2],
]

test('what cannot be verified here within the bounds is named, and costs nothing', () => {
  const start = performance.now()
  for (const [stored, fault] of faulty) {
    assert.equal(findHashFault(stored), fault, stored)
    assert.equal(verifyForeign(stored, 'x'), false, stored)
  }
  const took = performance.now() - start
  assert.ok(took < 500, `${took} ms`)
})

test('a stored hash with any one character changed never throws', () => {
  for (const stored of [cheapHash('x'), '$2a$04$CCCCCCCCCCCCCCCCCCCCC.' + b31]) {
    for (let at = 0; at < stored.length; at++) {
      for (const other of ['$', '1', '=', 'é']) {
        const changed = stored.slice(0, at) + other + stored.slice(at + 1)
        // The fourth to the last bits of bcrypt's salt and hash, and unused ones of base64.
        if (findHashFault(changed) === null && /i=[1-9]?\d\$|^\$2.\$04/.test(changed))
          assert.equal(typeof verifyForeign(changed, 'x'), 'boolean')
      }
    }
  }
})

test('both what was typed and its NFKC are tried', () => {
  const typed = 'µ² ﬁne'
  assert.ok(verifyForeign(cheapHash(typed), typed))
  assert.ok(verifyForeign(cheapHash(typed.normalize('NFKC')), typed))
  assert.ok(!verifyForeign(cheapHash(typed), typed.normalize('NFKC')))
})

test('of a hash that takes more than half of the bounds only what was typed is tried', () => {
  const typed = 'µ² ﬁne'
  const normal = typed.normalize('NFKC')
  const salt = Buffer.from('sixteen bytes it')
  const store = (start: string, hash: Buffer) =>
    `${start}$${salt.toString('base64')}$${hash.toString('base64')}`
  function scryptOf(given: string, r: number) {
    const hash = crypto.scryptSync(given, salt, 32, { N: 2, r, p: 1 })
    return store(`$scrypt$ln=1,r=${r},p=1`, hash)
  }
  function pbkdf2Of(given: string, rounds: number) {
    const hash = crypto.pbkdf2Sync(given, salt, rounds, 20, 'sha1')
    return store(`$pbkdf2-sha1$i=${rounds}`, hash)
  }
  const ofNormal: [half: string, more: string][] = [
    [scryptOf(normal, 512), scryptOf(normal, 513)],
    [pbkdf2Of(normal, 1_000_000), pbkdf2Of(normal, 1_000_001)],
    [
      '$2b$13$a0j2bETjZg/gcVPjaw/nb.0/KYZOXFL1rM4ecsYYQYu9f3vPEWzwm',
      '$2b$14$a0j2bETjZg/gcVPjaw/nb.jIcAI4bVVTNuf.e.RgEl4yHJ9esURHG',
    ],
  ]
  if (hasArgon2) {
    const { argon2Sync } = crypto as unknown as { argon2Sync(kind: string, of: object): Buffer }
    const parameters = { message: normal, nonce: salt, memory: 8, parallelism: 1, tagLength: 32 }
    const argon2Of = (passes: number) =>
      store(`$argon2id$v=19$m=8,t=${passes},p=1`, argon2Sync('argon2id', { ...parameters, passes }))
    ofNormal.push([argon2Of(512), argon2Of(513)])
  }
  for (const [half, more] of ofNormal) {
    assert.ok(verifyForeign(half, typed), half)
    assert.equal(findHashFault(more), null)
    assert.ok(!verifyForeign(more, typed), more)
  }
  assert.ok(verifyForeign(scryptOf(typed, 513), typed))
  assert.ok(verifyForeign(pbkdf2Of(typed, 1_000_001), typed))
})

let clients = 0
/** Headers as of a client that has never called. */
function asAnother() {
  clients++
  return { 'x-forwarded-for': `192.0.2.${clients}` }
}

const logIn = (email: string, given: string) =>
  app.request('POST', '/users/sessions', {
    body: { email, password: given },
    headers: asAnother(),
  })

async function readHash({ id }: { id: string }) {
  const [row] = await app.db.query<{ hash: string }>(
    'select password_hash as hash from users where id = $1',
    [id],
  )
  return row!.hash
}

const ours = /^\$scrypt\$ln=4,r=8,p=5\$[\w+/]{22}\$[\w+/]{43}$/

test('an imported password logs in, and is stored as ours from then on', async () => {
  const starts = ['$2a$06$If6', '$pbkdf2-sha1$i=4096', '$fbscrypt', '54e3a', '$argon2id$v=19$m=256']
  const all = [...ofText, ...(hasArgon2 ? ofArgon2 : [])]
  const chosen = all.filter(([, stored]) => starts.some((start) => stored.startsWith(start)))
  for (const [typed, passwordHash] of chosen) {
    const user = await app.user({ passwordHash })
    assert.deepEqual(brief(await logIn(user.email, `x${typed}`)), {
      status: 401,
      code: 'invalid_credentials',
    })
    assert.equal(await readHash(user), passwordHash)
    assert.equal((await logIn(user.email, typed)).status, 201, passwordHash)
    const stored = await readHash(user)
    assert.match(stored, ours)
    assert.equal((await logIn(user.email, typed)).status, 201)
    assert.equal(await readHash(user), stored)
    assert.equal((await logIn(user.email, `x${typed}`)).status, 401)
  }
})

test('the first log-in stores all of a long password, not the 72 bytes of bcrypt', async () => {
  const [, passwordHash] = ofText.find(([typed]) => typed === long)!
  const user = await app.user({ passwordHash })
  assert.equal((await logIn(user.email, long)).status, 201)
  assert.equal((await logIn(user.email, long.slice(0, 72))).status, 401)
  assert.equal((await logIn(user.email, long)).status, 201)
})

test('an imported password works as it was typed where it came from', async () => {
  const typed = 'µ² ﬁne'
  const salt = Buffer.alloc(16)
  const hash = crypto.scryptSync(typed, salt, 32, { N: 2 ** 5, r: 8, p: 5 })
  // It looks like one of ours, which are of NFKC.
  const scryptHash = `$scrypt$ln=5,r=8,p=5$${b22}$${hash.toString('base64').replace('=', '')}`
  for (const passwordHash of [cheapHash(typed), scryptHash]) {
    const user = await app.user({ passwordHash })
    assert.equal((await logIn(user.email, typed.normalize('NFKC'))).status, 401)
    assert.equal((await logIn(user.email, typed)).status, 201)
    assert.match(await readHash(user), ours)
    assert.equal((await logIn(user.email, typed.normalize('NFKC'))).status, 201)
  }
})

test('of a PBKDF2 hash of several blocks the first is enough', async () => {
  // Keycloak's default: 64 bytes of SHA-1, 1,300,000 rounds.
  const hash = crypto.pbkdf2Sync('x', 'salt', 10, 64, 'sha1')
  const stored = `$pbkdf2-sha1$i=10$c2FsdA$${hash.toString('base64')}`
  assert.equal(verifyForeign(stored, 'x'), true)
  assert.equal(verifyForeign(stored, 'y'), false)
  assert.equal(findHashFault(stored.replace('i=10$', 'i=1300000$')), null)
})

test('a hash beyond the bounds that SQL stored opens nothing, fast', async () => {
  const before = process.cpuUsage()
  for (const [passwordHash] of faulty) {
    const user = await app.user({ passwordHash })
    const answer = await logIn(user.email, password)
    assert.deepEqual(brief(answer), { status: 401, code: 'invalid_credentials' }, passwordHash)
    assert.equal(await readHash(user), passwordHash)
  }
  // Of all threads: what else the machine does counts for nothing.
  const { user, system } = process.cpuUsage(before)
  assert.ok(user + system < 20_000_000, `${user + system} µs`)
})

test('a disabled user learns nothing from the right imported password', async () => {
  const passwordHash = cheapHash(password)
  const user = await app.user({ passwordHash, enabled: false })
  assert.deepEqual(brief(await logIn(user.email, password)), {
    status: 401,
    code: 'invalid_credentials',
  })
  assert.equal(await readHash(user), passwordHash)
})

test('an owner proves an imported password to change it', async () => {
  const user = await app.user({ passwordHash: cheapHash('what it was there') })
  const change = (currentPassword: string) =>
    app.request('PATCH', `/users/${user.id}`, {
      key: user.key,
      headers: asAnother(),
      body: { password: 'what it is here', currentPassword },
    })
  assert.deepEqual(brief(await change('what it is here')), {
    status: 401,
    code: 'invalid_credentials',
  })
  assert.equal((await change('what it was there')).status, 200)
  assert.match(await readHash(user), ours)
  assert.equal((await logIn(user.email, 'what it was there')).status, 401)
  assert.equal((await logIn(user.email, 'what it is here')).status, 201)
})

test('a failed log-in of an imported password takes no less work than that of ours', async () => {
  await atCost(13, async () => {
    const users = {
      local: await app.user(),
      imported: await app.user({ passwordHash: cheapHash('x') }),
      refused: await app.user({ passwordHash: '$argon2id$v=16$m=8' }),
      weaker: await app.user({ passwordHash: `$scrypt$ln=4,r=8,p=1$${b22}$${b43}` }),
    }
    const least: Record<string, number> = {}
    for (let round = 0; round < 3; round++) {
      for (const [name, { email }] of Object.entries(users)) {
        const before = process.cpuUsage()
        assert.equal((await logIn(email, 'wrong')).status, 401)
        least[name] = Math.min(least[name] ?? Infinity, process.cpuUsage(before).user)
      }
    }
    for (const spent of Object.values(least))
      assert.ok(spent > least['local']! / 2, JSON.stringify(least))
  })
})

test('other requests are answered while a costly hash is verified', async () => {
  const passwordHash = `$2a$12$${b22}${b31}`
  const user = await app.user({ passwordHash })
  let isDone = false
  const done = logIn(user.email, password).then(({ status }) => {
    isDone = true
    return status
  })
  for (let i = 0; i < 10; i++) assert.equal((await app.request('GET', '/livez')).status, 200)
  assert.equal(isDone, false)
  assert.equal(await done, 401)
})
