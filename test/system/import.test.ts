// A large file comes in beside a service that answers; what is not kept of it is measured.
import assert from 'node:assert/strict'
import { createWriteStream, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { pipeline } from 'node:stream/promises'

import { passwordHash, startTestApp } from '../support/helpers.ts'
import { makeFolder, startCommand } from '../support/process.ts'

const count = Number(process.env['IMPORT_LINES'] ?? 100_000)
const perChunk = 1000

function* linesOf() {
  for (let first = 0; first < count; first += perChunk) {
    const users = Array.from({ length: perChunk }, (_, index) => ({
      email: `user${first + index}@example.org`,
      id: `01900000-0000-4000-8000-${String(first + index).padStart(12, '0')}`,
      passwordHash,
      metadata: { plan: 'free' },
      createdAt: '2020-01-02T03:04:05.678Z',
    }))
    yield `${users.map((user) => JSON.stringify(user)).join('\n')}\n`
  }
}

/** The most memory that a process had, in MB; 0 of one that has ended. */
function readPeak(pid: number) {
  try {
    const [, kilobytes] = /VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? []
    return Number(kilobytes ?? 0) / 1024
  } catch {
    return 0
  }
}

test(`${count} lines come in, in under 200 MB, while the service answers`, async () => {
  const path = join(makeFolder('import'), 'users.ndjson')
  await pipeline(linesOf, createWriteStream(path))
  const app = await startTestApp()
  const { key } = await app.user()
  const start = performance.now()
  const { child, ended } = startCommand('import', [path], app.database.env)
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
    peak = Math.max(peak, readPeak(child.pid!))
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
