import { createWriteStream } from 'node:fs'
import { pipeline } from 'node:stream/promises'

const perChunk = 1000

/** Writes a file of so many users, a line each, with this hash of a password. */
export const writeUsers = (path: string, count: number, passwordHash: string) =>
  pipeline(linesOf(count, passwordHash), createWriteStream(path))

function* linesOf(count: number, passwordHash: string) {
  for (let first = 0; first < count; first += perChunk) {
    const users = Array.from({ length: perChunk }, (_, index) => ({
      email: `mover${first + index}@example.org`,
      id: `01900000-0000-4000-8000-${String(first + index).padStart(12, '0')}`,
      passwordHash,
      metadata: { plan: 'free' },
      createdAt: '2020-01-02T03:04:05.678Z',
    }))
    yield `${users.map((user) => JSON.stringify(user)).join('\n')}\n`
  }
}
