// A large file comes in beside a service that answers; what is not kept of it is measured.
import assert from 'node:assert/strict'
import { getPriority } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'

import { passwordHash, startTestApp } from '../support/helpers.ts'
import { writeUsers } from '../support/lines.ts'
import { makeFolder, peakMb, startCommand, until } from '../support/process.ts'

const count = Number(process.env['IMPORT_LINES'] ?? 100_000)

test(`${count} lines come in, in under 200 MB, while the service answers`, async () => {
  const path = join(makeFolder('import'), 'users.ndjson')
  await writeUsers(path, count, passwordHash)
  const app = await startTestApp()
  const { key } = await app.user()
  const start = performance.now()
  const { child, ended } = startCommand('import', [path], app.database.env)
  const nice = await until('it has its priority', () => getPriority(child.pid))
  assert.equal(nice, 10)
  let isOver = false
  void ended.finally(() => {
    isOver = true
  })
  let peak = 0
  let slowest = 0
  let asked = 0
  while (!isOver) {
    const before = performance.now()
    const { status } = await app.request('GET', '/users/auth', { key })
    assert.equal(status, 200)
    slowest = Math.max(slowest, performance.now() - before)
    asked++
    peak = Math.max(peak, peakMb(child.pid!))
  }
  const { status, stdout, stderr } = await ended
  const seconds = (performance.now() - start) / 1000
  console.log(
    `${seconds.toFixed(1)} s, ${peak | 0} MB, ${asked} requests, ${slowest | 0} ms at most`,
  )
  assert.deepEqual([status, stderr], [0, ''])
  assert.match(stdout, new RegExp(`^Users imported: ${count}\n`))
  assert.ok(peak > 0 && peak < 200, `${peak} MB`)
  assert.ok(slowest < 1800, `${slowest} ms`)
})
