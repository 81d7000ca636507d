// The tables that the service needs and its rights in each, which `create`, a restore and each
// migration grant. The start and health check both.
import { ExitError } from '../errors.ts'
import { one, type Db } from './pool.ts'

const all = 'select, insert, update, delete'

/**
 * The privileges of the service's role, by table. The audit is append-only, and the database alone
 * sets the id and the time of an event.
 */
export const rights: Record<string, string> = {
  users: all,
  api_keys: all,
  login_failures: all,
  tokens: 'select, insert, delete',
  audit_events: 'select, insert (action, actor, subject, key_id, changes, address, request_id)',
  webhook: 'select, update',
  outbox: all,
  signing_keys: all,
  schema_migrations: 'select',
}

const tableGrants = Object.entries(rights).map(([name, privileges]) => {
  const table = `user_service_schema.${name}`
  return `
      if to_regclass('${table}') is not null then
        revoke all on ${table} from public, user_service_manager;
        grant select on ${table} to user_service_user;
        grant ${privileges} on ${table} to user_service_manager;
      end if;`
})

/** Grants the service and the backup what they need, on each table that is in the schema. */
export const grantStatements = `
    grant usage on schema user_service_schema to user_service_manager, user_service_user;
    revoke create on schema user_service_schema from public, user_service_manager;
    grant execute on all functions in schema user_service_schema to user_service_manager;
    alter default privileges for role user_service_admin in schema user_service_schema
      revoke all on tables from public, user_service_manager;
    alter default privileges for role user_service_admin in schema user_service_schema
      grant select on tables to user_service_user;
    do $$ begin ${tableGrants.join('')} end $$;`

const fix = 'Run: node bin/database.js create'
const remedy =
  'have the service connect as user_service_manager, which owns nothing, is no superuser and in ' +
  'no other role. ' +
  fix

/**
 * Throws, with what fixes it, unless the database, whose schema is up to date, has all that the
 * service needs. Returns a sentence for each thing that hinders nothing but should be otherwise.
 */
export async function checkRights(db: Db, hosts: string[]) {
  const { encoding, makesIds, makesTables, replication, isReadOnly } = await one<{
    encoding: string
    makesIds: boolean
    makesTables: boolean
    replication: string
    isReadOnly: boolean
  }>(db, {
    text: `
      select current_setting('server_encoding') as encoding,
        has_function_privilege(to_regprocedure('user_service_schema.uuid_v7()'), 'execute')
          as "makesIds",
        has_schema_privilege(to_regnamespace('user_service_schema'), 'create') as "makesTables",
        current_setting('session_replication_role') as replication,
        current_setting('transaction_read_only') = 'on' as "isReadOnly"`,
  })
  if (encoding !== 'UTF8')
    throw new ExitError(
      `The database is encoded in ${encoding}; it has to be UTF8. Dump it, and ${fix}`,
    )
  if (replication !== 'origin')
    throw new ExitError(
      `session_replication_role is ${replication}: keys would outlive their users. ` +
        'As a superuser, reset it for the database and the role',
    )
  if (!makesIds) throw new ExitError(`The role may not execute uuid_v7. ${fix}`)
  const warnings = await checkTables(db)
  // An owner has been told enough.
  if (makesTables && warnings.length === 0)
    warnings.push(`the role may create tables in user_service_schema. ${fix}`)
  if (isReadOnly && hosts.length === 1)
    warnings.push('the database is read-only: every change will fail')
  return warnings
}

/**
 * As `checkRights`, of the tables alone, by the catalogue, column by column. Of what the role may
 * do and should not the first is named: one command takes all of it away.
 */
export async function checkTables(db: Db) {
  const tables = await db.query<{
    role: string
    name: string
    isWhole: boolean
    isFiltered: boolean
    needed: boolean
    wrong: string | null
  }>(
    `select current_user::text as role, name,
       (select count(*) from pg_constraint
         where conrelid = pg_class.oid and contype in ('p', 'u'))
         >= 1 + (name in ('users', 'api_keys'))::int as "isWhole",
       row_security_active(pg_class.oid) as "isFiltered",
       needed, string_agg(distinct privilege, ', ') filter (where needed <> held) as wrong
     from json_each_text($1) as wanted (name, given)
     left join pg_class on oid = to_regclass('user_service_schema.' || name)
     left join pg_attribute on attrelid = oid and attnum > 0 and attname ~ '^\\w+$'
     cross join string_to_table('select insert update delete', ' ') as privilege
     cross join lateral (select
       -- in all columns, or in this one
       given ~ (privilege || '(,|$| \\(.*\\m' || attname || '\\M)') as needed,
       case privilege
         when 'delete' then has_table_privilege(attrelid, 'delete, truncate')
         else has_column_privilege(attrelid, attnum, privilege) end as held) as each
     group by name, oid, needed
     order by needed desc, name`,
    [JSON.stringify(rights)],
  )
  for (const { role, name, isWhole, isFiltered, needed, wrong } of tables) {
    if (!isWhole)
      throw new ExitError(
        `The table ${name} or a key of it is missing, though its migrations were applied. ` +
          'Add it as its file in sql has it, or restore a dump: node bin/restore.js',
      )
    if (needed && wrong !== null)
      throw new ExitError(
        `${role} may not ${wrong} in the table ${name}. ` +
          `Connect as user_service_manager, or grant that again. ${fix}`,
      )
    if (isFiltered)
      throw new ExitError(
        `Row-level security hides rows of the table ${name} from ${role}. ` +
          `Run: alter table user_service_schema.${name} disable row level security`,
      )
    const what = name === 'audit_events' ? 'change the audit' : `${wrong} in the table ${name}`
    if (wrong !== null) return [`${role} may ${what}: ${remedy}`]
  }
  return []
}
