import type { Database } from '../database/pool.ts'
import type { Fault } from '../errors.ts'
import type { Schema } from '../schema.ts'
import { emailSchema, foldEmail, reservedDefaults } from '../users/rules.ts'
import type { Reading } from './form.ts'
import { createNotes } from './notes.ts'
import { findObstacles, insertMovers, type Mover } from './queries.ts'

/** Where users go, and what is said and counted of them. */
export interface Import {
  db: Database
  isDryRun: boolean
  say(line: string): void
  counts: {
    users: number
    keys: number
    /** Users left alone, since their id or address is there. */
    there: number
    behind: number
    /** Of those imported: what no new user could have. */
    email: number
    password: number
  }
}

/** Where users come from. */
export interface Source {
  /** Null is nobody. */
  readings: AsyncIterable<Reading | null> | Reading[]
  perTransaction: number
  /** What the reading of a number, from 1, is called. */
  nameOf(number: number): string
  /** Whose this address or id is, where that is known. */
  ownerOf?(text: string): string
  /** Adds what is known besides of those who are not there. */
  complete?(users: Mover[]): Promise<Mover[]>
}

/**
 * Imports users, some in a transaction, so that it can be stopped at any time and run again. Says
 * who stays behind and why: with faults, or with the id or address of an earlier one.
 */
export async function importAll(target: Import, source: Source) {
  const isNew = createNotes()
  let movers: Mover[] = []
  let number = 0
  for await (const reading of source.readings) {
    number++
    if (reading === null) continue
    const { user, faults } = reading
    const address = foldEmail(user.email ?? '')
    for (const [member, text] of Object.entries({ email: address, id: user.id })) {
      if (text && !isNew(`${member} ${text}`))
        faults.push(`${member} is that of ${source.ownerOf?.(text) ?? 'an earlier user'}`)
    }
    if (faults.length > 0) leave(target, source.nameOf(number), faults)
    else movers.push({ ...reservedDefaults, ...user, number, address, keys: [] })
    if (movers.length === source.perTransaction) {
      await importSome(target, source, movers)
      movers = []
    }
  }
  await importSome(target, source, movers)
}

function leave({ say, counts }: Import, name: string, faults: string[]) {
  counts.behind++
  say(`${name} stays behind: ${faults.join('; ')}`)
}

async function importSome(target: Import, source: Source, movers: Mover[]) {
  const { db, isDryRun, counts } = target
  const obstacles = await findObstacles(db, movers)
  for (const { number, isThere, isOther } of obstacles) {
    const name = source.nameOf(number)
    if (isThere) counts.there++
    else leave(target, name, ['metadata is too long'])
    if (isOther) target.say(`${name} is left alone: its address is that of another user`)
  }
  const taken = new Set(obstacles.map(({ number }) => number))
  const free = movers.filter(({ number }) => !taken.has(number))
  const whole = (await source.complete?.(free)) ?? free
  for (const { email } of whole) counts.email += countBreach(emailSchema, email)
  const made = isDryRun ? whole : await db.transaction((tx) => insertMovers(tx, whole))
  counts.users += made.length
  counts.there += whole.length - made.length
  const stored = countKeys(made)
  counts.keys += stored
  const lost = countKeys(whole) - stored
  if (lost > 0) target.say(`${lost} keys stay behind: they are there already`)
}

const countKeys = (users: { keys: unknown[] }[]) => users.flatMap(({ keys }) => keys).length

/** 1 if a value breaks the rules of a schema, else 0. */
export function countBreach<T>(schema: Schema<T>, value: T) {
  const faults: Fault[] = []
  schema.check(value, '', faults)
  return Math.min(1, faults.length)
}
