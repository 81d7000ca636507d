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
  // From the catalogue alone, for which no privilege is needed; null where there is no schema.
  const { role, encoding, mayUse, isReadOnly } = await one<{
    role: string
    encoding: string
    isReadOnly: boolean
    mayUse: boolean | null
  }>(db, {
    text: `
      select current_user::text as role,
        current_setting('server_encoding') as encoding,
        current_setting('transaction_read_only') = 'on' as "isReadOnly",
        has_schema_privilege(to_regnamespace('user_service_schema'), 'usage') as "mayUse"`,
  })
  if (encoding !== 'UTF8')
    throw new ExitError(
      `The database is encoded in ${encoding}; it has to be UTF8. Dump it, and ${fix}`,
    )
  if (mayUse === false)
    throw new ExitError(`${role} may not use the schema user_service_schema. ${fix}`)
  const warnings = await checkTables(db, role)
  if (isReadOnly && hosts.length === 1)
    warnings.push('the database is read-only: every change will fail')
  return warnings
}

async function checkTables(db: Db, role: string) {
  const tables = await db.query<{
    name: string
    lacking: string[]
    isFiltered: boolean
    mayRewrite: boolean
  }>(
    `select name, row_security_active(pg_class.oid) as "isFiltered",
       has_table_privilege(pg_class.oid, 'update, delete, truncate') as "mayRewrite",
       array(select privilege from json_array_elements_text(privileges) as privilege
         where not has_table_privilege(pg_class.oid, privilege)) as lacking
     from json_each($1) as wanted (name, privileges)
     join pg_class on relname = name and relnamespace = to_regnamespace('user_service_schema')
     order by name`,
    [JSON.stringify(rights)],
  )
  const warnings: string[] = []
  for (const { name, lacking, isFiltered, mayRewrite } of tables) {
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
    if (name === 'audit_events' && mayRewrite)
      warnings.push(`${role} may change the audit: connect as user_service_manager`)
  }
  return warnings
}
