// What others put into our schema, or built upon it: no dump holds it, and a restore drops it.
import type { Db } from '../database/pool.ts'

/** An object of the database that is not ours. */
export interface ForeignObject {
  /** Its kind and name, as in `table user_service_schema.notes`. */
  name: string
  /** It lies in our schema, rather than depending on it from elsewhere. */
  inside: boolean
}

/**
 * Finds what `drop schema … cascade` would drop besides our own objects: those of another owner
 * than schema_migrations has, extensions, and objects of other schemas that depend on ours.
 */
export async function findForeign(db: Db): Promise<ForeignObject[]> {
  return db.query<ForeignObject>(`
    with recursive schema as (
      select 'pg_namespace'::regclass::oid as classid, oid as objid, nspowner
        from pg_namespace where nspname = 'user_service_schema'
    ), ours as (
      select coalesce(max(relowner::bigint), max(nspowner::bigint))::oid as owner
        from schema left join pg_class
          on pg_class.oid = to_regclass('user_service_schema.schema_migrations')
    ), depends as (
      select classid, objid, objsubid, refclassid, refobjid, refobjsubid from pg_depend
      union all
      -- With a part (the rule of a view, a function of an extension) its whole is dropped.
      select refclassid, refobjid, refobjsubid, classid, objid, objsubid
        from pg_depend where deptype in ('i', 'e')
    ), dropped as (
      select classid, objid, 0 as objsubid from schema
      union
      select depends.classid, depends.objid, depends.objsubid
        from dropped join depends
          on (refclassid, refobjid) = (dropped.classid, dropped.objid)
            and dropped.objsubid in (0, refobjsubid)
    ), named as (
      select *, exists (
          select from pg_depend join schema on (refclassid, refobjid) = (schema.classid, schema.objid)
          where (pg_depend.classid, pg_depend.objid) = (dropped.classid, dropped.objid)
        ) as inside, coalesce((
          select refobjid from pg_shdepend as owned
            where (owned.classid, owned.objid) = (dropped.classid, dropped.objid)
              and owned.deptype = 'o'
              and dbid = (select oid from pg_database where datname = current_database())
        ), 10) as owner -- The bootstrap superuser, of whom PostgreSQL keeps no dependencies.
      from dropped
      where not exists (
        select from pg_depend join dropped as whole
          on (refclassid, refobjid) = (whole.classid, whole.objid)
            and whole.objsubid in (0, refobjsubid)
        where (pg_depend.classid, pg_depend.objid) = (dropped.classid, dropped.objid)
          and deptype in ('a', 'i', 'e')
      ) and not exists (
        select from dropped as whole
        where (whole.classid, whole.objid) = (dropped.classid, dropped.objid)
          and whole.objsubid < dropped.objsubid
      ) and not exists (
        select from schema where (schema.classid, schema.objid) = (dropped.classid, dropped.objid)
      )
    )
    select type || ' ' || identity as name, inside
      from named, ours, pg_identify_object(classid, objid, objsubid)
      where not inside or named.owner <> ours.owner or classid = 'pg_extension'::regclass
      order by 1`)
}

/** The tables and the like of our schema that another role owns, which no dump holds. */
export async function findForeignTables(db: Db): Promise<string[]> {
  const rows = await db.query<{ name: string }>(`
    select relname as name from pg_class
      where relnamespace = to_regnamespace('user_service_schema')
        and relkind in ('r', 'p', 'v', 'm', 'S', 'f')
        and relowner <> (select relowner from pg_class
          where oid = to_regclass('user_service_schema.schema_migrations'))
      order by 1`)
  return rows.map(({ name }) => name)
}

/** The publications that name our tables; a restore takes the tables out of them. */
export async function findPublications(db: Db): Promise<string[]> {
  const rows = await db.query<{ name: string }>(`
    select distinct pubname::text as name
      from pg_publication_tables join pg_publication using (pubname)
      where schemaname = 'user_service_schema' and not puballtables
      order by 1`)
  return rows.map(({ name }) => name)
}
