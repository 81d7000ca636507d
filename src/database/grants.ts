// What the service's role may do with each table: `create` grants it, the start checks it. A
// migration that makes a table grants the same.
import { ExitError } from '../errors.ts'
import { one, type Db } from './pool.ts'

const all = ['select', 'insert', 'update', 'delete']

/** The privileges of the service's role, by table; the audit is append-only. */
export const rights: Record<string, string[]> = {
  users: all,
  api_keys: all,
  login_failures: all,
  tokens: ['select', 'insert', 'delete'],
  audit_events: ['select', 'insert'],
  schema_migrations: ['select'],
}

const fix = 'Run: node bin/database.js create'

/**
 * Throws, with the command that fixes it, unless the role can do all that the service needs.
 * Returns a sentence for each thing that hinders nothing but should be otherwise.
 */
export async function checkRights(db: Db, hosts: string[]): Promise<string[]> {
  // From the catalogue alone, for which no privilege is needed; what is not there is null.
  const { role, encoding, mayUse, mayChangeAudit, isReadOnly } = await one<{
    role: string
    encoding: string
    isReadOnly: boolean
    mayUse: boolean | null
    mayChangeAudit: boolean | null
  }>(db, {
    text: `
      select current_user::text as role,
        current_setting('server_encoding') as encoding,
        current_setting('transaction_read_only') = 'on' as "isReadOnly",
        has_schema_privilege(ours.oid, 'usage') as "mayUse",
        has_table_privilege(pg_class.oid, 'update, delete, truncate') as "mayChangeAudit"
      from to_regnamespace('user_service_schema') as ours (oid)
      left join pg_class on relnamespace = ours.oid and relname = 'audit_events'`,
  })
  if (encoding !== 'UTF8')
    throw new ExitError(
      `The database is encoded in ${encoding}; it has to be UTF8. Dump it, and ${fix}`,
    )
  if (mayUse === false)
    throw new ExitError(`${role} may not use the schema user_service_schema. ${fix}`)
  await checkTables(db, role)
  const warnings: string[] = []
  if (mayChangeAudit) warnings.push(`${role} may change the audit: connect as user_service_manager`)
  if (isReadOnly && hosts.length === 1)
    warnings.push('the database is read-only: every change will fail')
  return warnings
}

async function checkTables(db: Db, role: string): Promise<void> {
  const tables = await db.query<{ name: string; lacking: string[]; isFiltered: boolean }>(
    `select name, row_security_active(pg_class.oid) as "isFiltered",
       array(select privilege from json_array_elements_text(privileges) as privilege
         where not has_table_privilege(pg_class.oid, privilege)) as lacking
     from json_each($1) as wanted (name, privileges)
     join pg_class on relname = name and relnamespace = to_regnamespace('user_service_schema')
     order by name`,
    [JSON.stringify(rights)],
  )
  for (const { name, lacking, isFiltered } of tables) {
    if (lacking.length > 0)
      throw new ExitError(
        `${role} may not ${lacking.join(', ')} in the table ${name}. ` +
          `Connect as user_service_manager, or grant that again. ${fix}`,
      )
    if (isFiltered)
      throw new ExitError(
        `Row-level security hides rows of the table ${name} from ${role}. ` +
          `Run: alter table user_service_schema.${name} disable row level security`,
      )
  }
}
