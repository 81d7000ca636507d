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

interface Facts {
  role: string
  encoding: string
  isReadOnly: boolean
  /** Whether the role may use the schema; null: there is none. */
  mayUse: boolean | null
  mayChangeAudit: boolean | null
}

interface TableFacts {
  name: string
  /** What the role is not allowed to do in it. */
  lacking: string[]
  /** Whether a statement that names no schema means it. */
  isFound: boolean
  /** Whether row-level security hides rows from the role. */
  isFiltered: boolean
}

const mend = 'Run: node bin/database.js create'

/**
 * Throws, with the command that mends it, unless the role can do all that the service needs.
 * Returns what is no hindrance but should be otherwise, a sentence for each.
 */
export async function checkRights(db: Db, hosts: string[]): Promise<string[]> {
  const { role, encoding, mayUse, mayChangeAudit, isReadOnly } = await readFacts(db)
  if (encoding !== 'UTF8')
    throw new ExitError(
      `The database is encoded in ${encoding}; it has to be UTF8. Dump it, and ${mend}`,
    )
  if (mayUse === false)
    throw new ExitError(`${role} may not use the schema user_service_schema. ${mend}`)
  for (const table of await readTables(db)) checkTable(table, role)
  const warnings: string[] = []
  if (mayChangeAudit) warnings.push(`${role} may change the audit: connect as user_service_manager`)
  if (isReadOnly && hosts.length === 1)
    warnings.push('the database is read-only: every change will fail')
  return warnings
}

function checkTable({ name, lacking, isFound, isFiltered }: TableFacts, role: string): void {
  if (lacking.length > 0)
    throw new ExitError(
      `${role} may not ${lacking.join(', ')} in the table ${name}. ` +
        `Connect as user_service_manager, or grant that again. ${mend}`,
    )
  if (!isFound)
    throw new ExitError(`The table ${name} is not found: search_path is another one. ${mend}`)
  if (isFiltered)
    throw new ExitError(
      `Row-level security hides rows of the table ${name} from ${role}. ` +
        `Run: alter table user_service_schema.${name} disable row level security`,
    )
}

/** From the catalogue alone, for which no privilege is needed; so are the facts of tables. */
const readFacts = (db: Db): Promise<Facts> =>
  one(db, {
    text: `
      select current_user::text as role,
        current_setting('server_encoding') as encoding,
        current_setting('transaction_read_only') = 'on' as "isReadOnly",
        has_schema_privilege(pg_namespace.oid, 'usage') as "mayUse",
        has_table_privilege(pg_class.oid, 'update, delete, truncate') as "mayChangeAudit"
      from (values ('user_service_schema')) as wanted (name)
      left join pg_namespace on nspname = name
      left join pg_class on relnamespace = pg_namespace.oid and relname = 'audit_events'`,
  })

const readTables = (db: Db): Promise<TableFacts[]> =>
  db.query(
    `select name, pg_table_is_visible(pg_class.oid) as "isFound",
       row_security_active(pg_class.oid) as "isFiltered",
       array(select privilege from json_array_elements_text(privileges) as privilege
         where not has_table_privilege(pg_class.oid, privilege)) as lacking
     from json_each($1) as wanted (name, privileges)
     join pg_class on relname = name
     join pg_namespace on pg_namespace.oid = relnamespace and nspname = 'user_service_schema'
     order by name`,
    [JSON.stringify(rights)],
  )
