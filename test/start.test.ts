import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type AddressInfo, type Socket } from 'node:net'
import { after, test } from 'node:test'

import { startService, type Service } from './support/service.ts'
import { undo, undoAll } from './support/undo.ts'

after(undoAll)
const server = {
  DATABASE_HOST: process.env['TEST_DATABASE_SOCKET'],
  DATABASE_PORT: process.env['TEST_DATABASE_PORT'],
  DATABASE_NAME: 'template1',
}

/** A server that answers what each connection sends with the next of `answers`, and keeps it open. */
async function startFakePostgres(...answers: Buffer[]) {
  const sockets: Socket[] = []
  const fake = createServer((socket) => {
    sockets.push(socket)
    socket.on('error', () => {})
    const left = [...answers]
    socket.on('data', () => socket.write(left.shift() ?? ''))
  })
  fake.listen(0, '127.0.0.1')
  await once(fake, 'listening')
  undo.push(() => {
    for (const socket of sockets) socket.destroy()
    fake.close()
  })
  const { port } = fake.address() as AddressInfo
  return { DATABASE_HOST: '127.0.0.1', DATABASE_PORT: String(port) }
}

function message(type: string, body: string) {
  const head = Buffer.from(`${type}0000`)
  head.writeInt32BE(4 + body.length, 1)
  return Buffer.concat([head, Buffer.from(body)])
}

/** What an operator sees of a start that does not come to listen. */
async function outcome(service: Service) {
  const status = await service.ended
  const waited = service.log.map((line) => JSON.parse(line).message)
  return { status, waited, stderr: service.said() }
}

const refused = message('E', 'SFATAL\0VFATAL\0C28P01\0Mno entry for "me"\0\0')
const wantsPassword = [
  message('R', '\0\0\0\x0aSCRAM-SHA-256\0\0'),
  message('R', '\0\0\0\x0br=nonce,s=c2FsdA==,i=4096'),
]
const hopeless = [
  {
    name: 'a wrong password',
    env: async () => startFakePostgres(refused),
    stderr: 'no entry for "me": see DATABASE_PASSWORD, DATABASE_PASSWORD_FILE or DATABASE_URL',
  },
  {
    name: 'no password',
    env: async () => startFakePostgres(...wantsPassword),
    stderr: 'there is no DATABASE_PASSWORD, nor one in ~/.pgpass',
  },
  {
    name: 'a role that is not there',
    env: async () => ({ ...server, DATABASE_USER: 'me' }),
    stderr: 'role "me" does not exist: see DATABASE_USER and DATABASE_SSL',
  },
  {
    name: 'a database that is not there',
    env: async () => ({ ...server, DATABASE_NAME: 'none' }),
    stderr:
      'database "none" does not exist: see DATABASE_NAME; node bin/database.js create makes one',
  },
]
for (const { name, env, stderr } of hopeless) {
  test(`with ${name} it fails at once and names what to set`, async () => {
    assert.deepEqual(await outcome(await startService(await env())), {
      status: 1,
      waited: [],
      stderr: `user-service: ${stderr}\n`,
    })
  })
}

test('a start that waits says why, and SIGTERM ends it with 0', async () => {
  const env = { DATABASE_HOST: 'localhost', DATABASE_PORT: '1' }
  const service = await startService(env, { until: 'waiting for the database' })
  const waiting = JSON.parse(service.log[0]!)
  assert.match(
    waiting.reason,
    /^Database unavailable: connect ECONNREFUSED \S+:1(, connect \S+ \S+)?$/,
  )
  assert.deepEqual([waiting.try, waiting.of], [1, 10])
  assert.equal(await service.kill(), 0)
  assert.equal(service.said(), '')
})
