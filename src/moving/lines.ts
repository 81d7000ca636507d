import { ExitError } from '../errors.ts'
import { verifyForeign } from '../foreign/hashes.ts'
import { foldEmail } from '../users/rules.ts'
import { readTraveller, type Reading } from './form.ts'
import { importAll, type Import } from './store.ts'

/** Longer lines are not read: everything that is allowed takes less. */
const maxLineBytes = 65_536
const decoder = new TextDecoder('utf-8', { fatal: true })

/** Reads a user from each line, null from an empty one, with little memory whatever the file. */
async function* readLines(chunks: AsyncIterable<string>) {
  let rest = ''
  for await (const chunk of chunks) {
    const lines = `${rest}${chunk}`.split('\n')
    // Of a line that is too long the beginning is enough.
    rest = lines.pop()!.slice(0, maxLineBytes + 1)
    yield* lines.map(readLine)
  }
  yield readLine(rest)
}

function readLine(bytes: string): Reading | null {
  try {
    if (bytes.length > maxLineBytes) throw new Error('too long')
    const line = decoder.decode(Buffer.from(bytes, 'latin1')).trim()
    return line === '' ? null : readTraveller(JSON.parse(line))
  } catch {
    // The error's message shows a part of the line.
    return { user: { email: '' }, faults: ['must be JSON in UTF-8, of at most 64 KiB'] }
  }
}

/** Imports NDJSON, whose bytes come as characters of latin1. */
export const importFile = (target: Import, chunks: AsyncIterable<string>) =>
  importAll(target, {
    readings: readLines(chunks),
    perTransaction: 1000,
    nameOf: (number) => `line ${number}`,
  })

/**
 * Whether the password is that of the user of that address in the file. Throws an ExitError where
 * the file has no such user, or one whose password cannot be checked.
 */
export async function tryPassword(chunks: AsyncIterable<string>, address: string, typed: string) {
  for await (const reading of readLines(chunks)) {
    if (reading === null || foldEmail(reading.user.email ?? '') !== foldEmail(address)) continue
    const { user, faults } = reading
    if (faults.length > 0) throw new ExitError(faults.join('; '))
    if (!user.passwordHash) throw new ExitError(`${address} has no passwordHash`)
    return verifyForeign(user.passwordHash, typed)
  }
  throw new ExitError(`no line has the address ${address}`)
}
