//! The SQL that loads a snapshot: PostgreSQL 13 to 18, simple protocol, every cell as text.

/// Run once on the loading connection. An empty path makes `pg_get_viewdef` and `pg_get_expr`
/// qualify every name outside `pg_catalog`.
pub const SETUP: &str = "SET search_path TO ''";

/// What brackets the queries, so that they see one state: run the first, [`QUERIES`], the second.
pub const SESSION: (&str, &str) = ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "COMMIT");

/// One result each, in the order that `Catalog::from_rows` expects.
pub const QUERIES: [&str; 11] = [
    INFO, SCHEMAS, RELATIONS, COLUMNS, INHERITS, POLICIES, FUNCTIONS, TYPES, OPERATORS, CASTS,
    DEPENDS,
];

/// One row, one text: it changes whenever anything that [`QUERIES`] load changes. Sums of `xmin`
/// and not their maximum, because transaction numbers wrap; temporary relations are left out,
/// because the session that makes them is followed instead. Of roles counts what they decide:
/// which one is in effect, and which schemas it may use (by membership, by inheritance, as
/// superuser), however that came about. Of dependencies those are counted that no row of another
/// catalogue which is counted here stands for.
pub const FINGERPRINT: &str = "\
SELECT pg_catalog.concat_ws('/',
 pg_catalog.current_setting('server_version_num'), pg_catalog.current_database(), current_user,
 (SELECT pg_catalog.md5(pg_catalog.string_agg(oid::text, ',' ORDER BY oid))
    FROM pg_catalog.pg_namespace
   WHERE nspname !~ '^pg_(toast_)?temp_' AND pg_catalog.has_schema_privilege(oid, 'USAGE')),
 (SELECT pg_catalog.concat(count(*), ':', sum(xmin::text::bigint)) FROM pg_catalog.pg_language),
 (SELECT pg_catalog.concat(count(*), ':', sum(objid::bigint), ':', sum(refobjid::bigint))
    FROM pg_catalog.pg_depend WHERE deptype = 'e'),
 (SELECT pg_catalog.concat(count(*), ':', sum(xmin::text::bigint), ':', sum(oid::bigint))
    FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'),
 (SELECT pg_catalog.concat(count(*), ':', sum(xmin::text::bigint), ':', sum(oid::bigint))
    FROM pg_catalog.pg_class WHERE relpersistence <> 't'),
 (SELECT pg_catalog.concat(count(*), ':', sum(a.xmin::text::bigint))
    FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
   WHERE c.relpersistence <> 't' AND a.attnum > 0),
 (SELECT pg_catalog.concat(count(*), ':', sum(xmin::text::bigint), ':', sum(oid::bigint))
    FROM pg_catalog.pg_rewrite),
 (SELECT pg_catalog.concat(count(*), ':', sum(xmin::text::bigint), ':', sum(oid::bigint))
    FROM pg_catalog.pg_proc),
 (SELECT pg_catalog.concat(count(*), ':', sum(xmin::text::bigint)) FROM pg_catalog.pg_inherits),
 (SELECT pg_catalog.concat(count(*), ':', sum(t.xmin::text::bigint), ':', sum(t.oid::bigint))
    FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_class c ON c.reltype = t.oid
   WHERE c.relpersistence IS DISTINCT FROM 't' AND t.typelem = 0),
 (SELECT pg_catalog.concat(count(*), ':', sum(xmin::text::bigint)) FROM pg_catalog.pg_operator),
 (SELECT pg_catalog.concat(count(*), ':', sum(xmin::text::bigint)) FROM pg_catalog.pg_cast),
 (SELECT pg_catalog.concat(count(*), ':', sum(xmin::text::bigint)) FROM pg_catalog.pg_policy),
 (SELECT pg_catalog.concat(count(*), ':', sum(xmin::text::bigint)) FROM pg_catalog.pg_trigger
   WHERE NOT tgisinternal),
 (SELECT pg_catalog.concat(count(*), ':', sum(k.xmin::text::bigint), ':', sum(k.oid::bigint))
    FROM pg_catalog.pg_constraint k LEFT JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
   WHERE c.relpersistence IS DISTINCT FROM 't'),
 (SELECT pg_catalog.concat(count(*), ':', sum(d.objid::bigint), ':', sum(d.refobjid::bigint), ':',
                           sum(d.refobjsubid))
    FROM pg_catalog.pg_depend d LEFT JOIN pg_catalog.pg_class c
         ON c.oid = d.objid AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
   WHERE c.relpersistence IS DISTINCT FROM 't'
     AND d.classid NOT IN ('pg_catalog.pg_type'::pg_catalog.regclass,
                           'pg_catalog.pg_constraint'::pg_catalog.regclass,
                           'pg_catalog.pg_attrdef'::pg_catalog.regclass)),
 (SELECT pg_catalog.concat(count(*), ':', sum(xmin::text::bigint)) FROM pg_catalog.pg_extension))";

const INFO: &str = "\
SELECT pg_catalog.current_setting('server_version_num'), pg_catalog.current_database(), current_user";

const SCHEMAS: &str = "\
SELECT oid, nspname, pg_catalog.has_schema_privilege(oid, 'USAGE') FROM pg_catalog.pg_namespace";

const RELATIONS: &str = "\
SELECT c.oid, c.relnamespace, c.relname, c.relkind, c.relispartition, c.relpersistence,
       EXISTS (SELECT FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type <> '1')
       OR EXISTS (SELECT FROM pg_catalog.pg_trigger g WHERE g.tgrelid = c.oid AND g.tgtype & 64 <> 0),
       c.relrowsecurity,
       CASE WHEN c.relkind IN ('v', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
            THEN pg_catalog.pg_get_viewdef(c.oid) END,
       CASE WHEN c.relkind = 'p' THEN (
         SELECT pg_catalog.array_to_string(p.partattrs::pg_catalog.int2[], ',')
           FROM pg_catalog.pg_partitioned_table p WHERE p.partrelid = c.oid) END,
       c.oid IN (
         SELECT g.tgrelid FROM pg_catalog.pg_trigger g
          WHERE NOT g.tgisinternal AND g.tgfoid >= 16384 AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_depend e
             WHERE e.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
               AND e.objid = g.tgfoid AND e.deptype = 'e'))
       OR c.oid IN (
         SELECT COALESCE(f.adrelid, a.attrelid, k.conrelid, i.indrelid, 0)
           FROM pg_catalog.pg_depend d
           LEFT JOIN pg_catalog.pg_attrdef f ON f.oid = d.objid
                AND d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
           LEFT JOIN pg_catalog.pg_constraint k ON k.oid = d.objid
                AND d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass
           LEFT JOIN pg_catalog.pg_attribute a ON k.contypid <> 0 AND a.atttypid = k.contypid
           LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = d.objid
                AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
          WHERE d.refobjid >= 16384
            AND d.refclassid IN ('pg_catalog.pg_proc'::pg_catalog.regclass,
                                 'pg_catalog.pg_operator'::pg_catalog.regclass)
            AND NOT EXISTS (
              SELECT FROM pg_catalog.pg_depend e
               WHERE e.classid = d.refclassid AND e.objid = d.refobjid AND e.deptype = 'e')),
       (SELECT pg_catalog.string_agg(k.conrelid::text, ',') FROM pg_catalog.pg_constraint k
         WHERE k.confrelid = c.oid AND k.contype = 'f' AND k.confdeltype IN ('c', 'n', 'd')),
       (SELECT pg_catalog.string_agg(k.conrelid::text, ',') FROM pg_catalog.pg_constraint k
         WHERE k.confrelid = c.oid AND k.contype = 'f' AND k.confupdtype IN ('c', 'n', 'd')),
       (SELECT pg_catalog.string_agg(
                 pg_catalog.array_to_string(k.confkey::pg_catalog.int2[], ','), ',')
          FROM pg_catalog.pg_constraint k
         WHERE k.confrelid = c.oid AND k.contype = 'f' AND k.confupdtype IN ('c', 'n', 'd'))
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname !~ '^pg_(toast_)?temp_'";

const COLUMNS: &str = "\
SELECT a.attrelid, a.attnum, a.attname, a.atttypid, a.attisdropped,
       CASE WHEN a.attgenerated <> '' THEN (
         SELECT pg_catalog.string_agg(DISTINCT d.refobjsubid::text, ',')
           FROM pg_catalog.pg_depend d
          WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
            AND d.refobjid = a.attrelid AND d.refobjsubid > 0 AND d.refobjsubid <> a.attnum
            AND (d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                 AND d.objid = a.attrelid AND d.objsubid = a.attnum
                 OR d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
                 AND d.objid IN (SELECT f.oid FROM pg_catalog.pg_attrdef f
                                  WHERE f.adrelid = a.attrelid AND f.adnum = a.attnum))) END,
       a.atthasmissing
  FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
 WHERE a.attnum > 0 AND c.relkind NOT IN ('i', 'I', 't') AND c.relpersistence <> 't'";

const INHERITS: &str = "SELECT inhrelid, inhparent FROM pg_catalog.pg_inherits";

const POLICIES: &str = "\
SELECT polrelid, pg_catalog.pg_get_expr(polqual, polrelid),
       pg_catalog.pg_get_expr(polwithcheck, polrelid)
  FROM pg_catalog.pg_policy";

const FUNCTIONS: &str = "\
SELECT p.oid, p.pronamespace, p.proname, p.prokind, p.provolatile, l.lanname, p.prosecdef,
       p.pronargdefaults, p.provariadic <> 0, p.proargtypes, p.prorettype, e.extname
  FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_language l ON l.oid = p.prolang
  LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
       AND d.objid = p.oid AND d.deptype = 'e'
  LEFT JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
 WHERE p.oid >= 16384 OR p.pronamespace <> 'pg_catalog'::pg_catalog.regnamespace";

const TYPES: &str = "\
SELECT t.oid, t.typnamespace, t.typname, t.typtype, t.typelem, t.typbasetype,
       t.typtype = 'd' AND EXISTS (SELECT FROM pg_catalog.pg_constraint k
                                    WHERE k.contypid = t.oid AND k.contype = 'c'),
       e.extname
  FROM pg_catalog.pg_type t
  LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass
       AND d.objid = t.oid AND d.deptype = 'e'
  LEFT JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid";

const OPERATORS: &str = "\
SELECT oprnamespace, oprname, oprleft, oprright, oprcode::oid
  FROM pg_catalog.pg_operator WHERE oid >= 16384";

const CASTS: &str = "\
SELECT castsource, casttarget, castfunc, castcontext FROM pg_catalog.pg_cast WHERE oid >= 16384";

/// What depends on what somebody made, or stands in the schema that everybody has.
const DEPENDS: &str = "\
SELECT o.relname, d.objid, d.objsubid, r.relname, d.refobjid, d.refobjsubid, d.deptype
  FROM pg_catalog.pg_depend d
  JOIN pg_catalog.pg_class o ON o.oid = d.classid
  JOIN pg_catalog.pg_class r ON r.oid = d.refclassid
 WHERE d.refobjid >= 16384
    OR d.refobjid = 2200 AND d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass";
