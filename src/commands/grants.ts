// The grants in a dump. Those to our roles are restored; a role of somebody else may not exist on
// the new server, which would fail the whole restore.
import { writeFileSync } from 'node:fs'

import type { Env } from '../config.ts'
import { roles } from '../database/setup.ts'
import { runProgram } from './programs.ts'

/** Statements, one a line. */
export interface Grants {
  ours: string[]
  others: string[]
}

/** Reads the grants of a dump; throws when pg_restore cannot. */
export async function readGrants(file: string, env: Env): Promise<Grants> {
  const what = 'the dump cannot be read'
  const pgRestore = async (args: string[]) => {
    const { stdout } = await runProgram({ what, program: 'pg_restore', args, env })
    return stdout.split('\n')
  }
  const contents = await pgRestore(['--list', file])
  const list = contents.filter((line) => /^\d+; \d+ \d+ (DEFAULT )?ACL /.test(line))
  if (list.length === 0) return { ours: [], others: [] }
  writeFileSync(`${file}.list`, list.join('\n'))
  const lines = await pgRestore(['--file=-', '--no-owner', `--use-list=${file}.list`, file])
  return sortGrants(lines)
}

const role = '("(?:[^"]|"")+"|\\w+)'
const pattern = new RegExp(
  `^(?:ALTER DEFAULT PRIVILEGES FOR ROLE ${role} IN SCHEMA user_service_schema )?` +
    `(?:GRANT|REVOKE) [^;:'\\\\]+ (?:TO|FROM) ${role}(?: WITH GRANT OPTION)?;$`,
)
const known: string[] = ['PUBLIC', ...roles]

/** Sorts the lines of SQL that pg_restore makes of grants by whose they are. */
export function sortGrants(lines: string[]): Grants {
  const grants: Grants = { ours: [], others: [] }
  // Between these two lines another role grants what it may.
  let isOthers = false
  for (const line of lines) {
    if (/^(SET|RESET) SESSION AUTHORIZATION/.test(line)) isOthers = line.startsWith('SET')
    if (!/^(GRANT|REVOKE|ALTER DEFAULT PRIVILEGES) /.test(line)) continue
    const named = pattern.exec(line)?.slice(1)
    const isOurs = named?.every((each) => each === undefined || known.includes(each)) ?? false
    grants[isOurs && !isOthers ? 'ours' : 'others'].push(line)
  }
  return grants
}
