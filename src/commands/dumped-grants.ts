// The grants in a dump. Those to our roles are restored; a role of somebody else may not exist on
// the new server, which would fail the whole restore.
import { roles } from '../database/setup.ts'

/** Statements, one a line. */
export interface Grants {
  ours: string[]
  others: string[]
}

const role = '("(?:[^"]|"")+"|\\w+)'
const pattern = new RegExp(
  `^(?:ALTER DEFAULT PRIVILEGES FOR ROLE ${role} IN SCHEMA user_service_schema )?` +
    `(?:GRANT|REVOKE) [^;:'\\\\]+ (?:TO|FROM) ${role}(?: WITH GRANT OPTION)?;$`,
)
const known: (string | undefined)[] = [undefined, 'PUBLIC', ...roles]

/** Sorts the grants in the SQL that pg_restore makes of a schema by whose they are. */
export function sortGrants(sql: string): Grants {
  const grants: Grants = { ours: [], others: [] }
  // Between these two lines another role grants what it may.
  let isOthers = false
  for (const line of sql.split('\n')) {
    if (/^(SET|RESET) SESSION AUTHORIZATION/.test(line)) isOthers = line.startsWith('SET')
    if (!/^(GRANT|REVOKE|ALTER DEFAULT PRIVILEGES) /.test(line)) continue
    const [, ...named] = pattern.exec(line) ?? [line, line]
    const isOurs = !isOthers && named.every((each) => known.includes(each))
    grants[isOurs ? 'ours' : 'others'].push(line)
  }
  return grants
}
