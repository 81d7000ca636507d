import type { Filled, Postgres } from './database.ts'

/** What every case is given. */
export interface Bench {
  directory: string
  postgres: Postgres
  /** The large database. */
  database: Filled
  /** Fills a further database. */
  fill(users: number, known: number): Promise<Filled>
  users: number
  rounds: number
  /** How long one measurement lasts. */
  seconds: number
  quick: boolean
  memorySeconds: number
  /** Another checkout, measured beside this one. */
  against: string | undefined
}
