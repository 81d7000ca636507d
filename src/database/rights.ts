// What the service's role may do with each table: `create` grants it, the start checks it. A
// migration that makes a table grants the same.
import { ExitError } from '../errors.ts'
import type { Db } from './pool.ts'

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
  isSuperuser: boolean
  /** Whether the role may use the schema; null: there is none. */
  mayUse: boolean | null
}

interface TableFacts {
  name: string
  /** Whether a statement that names no schema means it. */
  isFound: boolean
  /** Whether row-level security hides rows from the role. */
  isFiltered: boolean
  isOwner: boolean
  may: string[]
}

const mend = 'Run: node bin/database.js create'

/**
 * Throws, with the command that mends it, unless the role can do all that the service needs.
 * Returns what is no hindrance but should be otherwise, a sentence for each.
 */
export async function checkRights(db: Db, hosts: string[]): Promise<string[]> {
  const facts = await readFacts(db)
  const tables = await readTables(db)
  if (facts.encoding !== 'UTF8')
    throw new ExitError(
      `The database is encoded in ${facts.encoding}; it has to be UTF8. Dump it, and ${mend}`,
    )
  if (facts.mayUse === false)
    throw new ExitError(`${facts.role} may not use the schema user_service_schema. ${mend}`)
  for (const table of tables) checkTable(table, facts.role)
  return findWarnings(facts, tables, hosts)
}

function checkTable({ name, isFound, isFiltered, may }: TableFacts, role: string): void {
  const lacking = rights[name]!.filter((privilege) => !may.includes(privilege))
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

function findWarnings(facts: Facts, tables: TableFacts[], hosts: string[]): string[] {
  const { role, isSuperuser, isReadOnly } = facts
  const warnings: string[] = []
  const audit = tables.find(({ name }) => name === 'audit_events')
  const mayChangeAudit = ['update', 'delete', 'truncate'].some((each) => audit?.may.includes(each))
  if (isSuperuser || audit?.isOwner || mayChangeAudit)
    warnings.push(`${role} may change the audit: connect as user_service_manager`)
  if (isReadOnly && hosts.length === 1)
    warnings.push('the database is read-only: every change will fail')
  return warnings
}

async function readFacts(db: Db): Promise<Facts> {
  const [facts] = await db.query<Facts>(`
    select current_user::text as role,
      current_setting('server_encoding') as encoding,
      current_setting('transaction_read_only') = 'on' as "isReadOnly",
      current_setting('is_superuser') = 'on' as "isSuperuser",
      (select has_schema_privilege(oid, 'usage') from pg_namespace
        where nspname = 'user_service_schema') as "mayUse"`)
  return facts!
}

/** Looks into the catalogue alone, for which no privilege is needed. */
const readTables = (db: Db): Promise<TableFacts[]> =>
  db.query(
    `select relname::text as name, pg_table_is_visible(oid) as "isFound",
       row_security_active(oid) as "isFiltered", pg_has_role(relowner, 'usage') as "isOwner",
       array(select privilege from unnest($2::text[]) as privilege
         where has_table_privilege(pg_class.oid, privilege)) as may
     from pg_class
     where relnamespace = (select oid from pg_namespace where nspname = 'user_service_schema')
       and relkind in ('r', 'p') and relname = any($1::text[])
     order by relname`,
    [Object.keys(rights), [...all, 'truncate']],
  )
