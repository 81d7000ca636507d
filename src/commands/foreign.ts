// What others put into our schema, or built upon it: no dump holds it, and a restore drops it.
import type { Db } from '../database/pool.ts'

/**
 * Names what `drop schema cascade` would take besides the objects of user_service_admin in it, as
 * `table user_service_schema.notes`: extensions, what depends on ours, entries of publications.
 */
export async function findForeign(db: Db) {
  const rows = await db.query<{ name: string }>(`
    with recursive edges as (
      select *, deptype in ('a', 'i', 'e') as part from pg_depend
      union all
      -- With a part (the rule of a view, a function of an extension) its whole is dropped.
      select refclassid, refobjid, refobjsubid, classid, objid, objsubid, 'n', false
        from pg_depend where deptype in ('i', 'e')
    ), dropped as (
      select 'pg_namespace'::regclass::oid as classid, oid as objid, 0 as objsubid, true as part
        from pg_namespace where nspname = 'user_service_schema'
      union
      select edges.classid, edges.objid, edges.objsubid, edges.part
        from dropped join edges
          on (refclassid, refobjid) = (dropped.classid, dropped.objid)
            and dropped.objsubid in (0, refobjsubid)
    ), objects as (
      select classid, objid, objsubid, bool_or(part) as part from dropped group by 1, 2, 3
    ), admins as (
      select classid, objid from pg_shdepend
        where deptype = 'o' and refobjid = to_regrole('user_service_admin')
          and dbid = (select oid from pg_database where datname = current_database())
    )
    select type || ' ' || identity as name
      from objects, pg_identify_object(classid, objid, objsubid)
      where type like 'publication %' or not part and (
        coalesce(schema, '') <> 'user_service_schema'
          or (classid, objid) not in (select * from admins))
      order by 1`)
  return rows.map(({ name }) => name)
}
