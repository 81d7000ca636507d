// Users that move: from the Go service and from other systems to this one, and away. This room owns
// the form in which they travel, what is wrong with one, and how those without a fault are stored.
import type { Fault } from '../errors.ts'
import { findHashFault } from '../foreign/hashes.ts'
import * as schema from '../schema.ts'
import { anyEmailSchema, reservedMembers } from '../users/rules.ts'

/** The rules for new addresses do not apply. */
const emailSchema = schema.refined(anyEmailSchema, (address, wrong) => {
  if (address === '' || address.includes('\0') || !address.isWellFormed())
    wrong('must be well-formed text, not empty')
  return address
})

/** Lists begin after the nil UUID: its user would be in none. */
const idSchema = schema.refined(schema.uuidSchema, (id, wrong) => {
  if (id === schema.nilUuid) wrong('must not be the nil UUID')
  return id
})

const hashSchema = schema.refined(schema.text({ max: 1024 }), (stored, wrong) => {
  const fault = findHashFault(stored)
  if (fault !== null) wrong(fault)
  return stored
})

const travellerSchema = schema.object(
  { email: emailSchema },
  {
    id: schema.omittable(idSchema),
    passwordHash: schema.nullable(hashSchema),
    ...reservedMembers,
    createdAt: schema.nullable(schema.instantSchema),
  },
)

/** A user as it travels. */
export type Traveller = ReturnType<typeof travellerSchema.check>

/** A user; if there are faults, what of it can be read. */
export interface Reading {
  user: Traveller
  faults: string[]
}

/** Reads a user; the faults tell no value. */
export function readTraveller(value: unknown): Reading {
  const faults: Fault[] = []
  const user = travellerSchema.check(value, '', faults)
  const said = faults.map(({ field, message }) => `${field} ${message}`.trim())
  // The name of an unknown member may hold what moves a terminal's cursor.
  return { user, faults: said.map((fault) => fault.replace(/[\p{Cc}\p{Cf}]/gu, '?')) }
}
