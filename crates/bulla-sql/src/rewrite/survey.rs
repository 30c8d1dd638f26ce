//! What the facts of a statement say alone: whether something of it has to be rewritten, and what is
//! refused because nobody could follow it to the columns that may not be seen.

use std::sync::Arc;

use super::{Fault, Hidden, refused};
use crate::catalog::{Catalog, SearchPath};
use crate::facts::{
    Access, Columns, Effects, Facts, FunctionClass, FunctionUse, Kind, Known, RelationKind,
    RelationUse, Resolved, Statement, Via,
};
use crate::reading;

/// Built-in functions with an effect, or that nobody reviewed, which read no rows.
const BLIND: [&str; 39] = [
    "nextval",
    "setval",
    "currval",
    "lastval",
    "pg_notify",
    "set_config",
    "pg_advisory_lock",
    "pg_advisory_lock_shared",
    "pg_advisory_unlock",
    "pg_advisory_unlock_all",
    "pg_advisory_unlock_shared",
    "pg_advisory_xact_lock",
    "pg_advisory_xact_lock_shared",
    "pg_try_advisory_lock",
    "pg_try_advisory_lock_shared",
    "pg_try_advisory_xact_lock",
    "pg_try_advisory_xact_lock_shared",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "txid_current",
    "txid_current_if_assigned",
    "txid_current_snapshot",
    "pg_current_xact_id",
    "pg_current_xact_id_if_assigned",
    "pg_current_snapshot",
    "pg_export_snapshot",
    "setseed",
    "random",
    "random_normal",
    "gen_random_uuid",
    "uuidv4",
    "uuidv7",
    "clock_timestamp",
    "timeofday",
    "pg_is_in_recovery",
    "pg_postmaster_start_time",
    "pg_relation_size",
    "pg_total_relation_size",
];

/// Built-in functions that policy has to judge, and that tell nothing of any row.
const DEAF: [&str; 3] = ["set_config", "pg_cancel_backend", "pg_terminate_backend"];

/// Relations of the server that hold values of others, or what other sessions run.
const CLOSED: [&str; 17] = [
    "pg_statistic",
    "pg_statistic_ext_data",
    "pg_stats",
    "pg_stats_ext",
    "pg_stats_ext_exprs",
    "pg_stat_statements",
    "pg_largeobject",
    "pg_stat_replication",
    "pg_stat_progress_copy",
    "pg_stat_ssl",
    "pg_stat_gssapi",
    "pg_authid",
    "pg_shadow",
    "pg_file_settings",
    "pg_hba_file_rules",
    "pg_replication_slots",
    "pg_stat_subscription",
];

/// The column of `pg_attribute` with the value that rows have which are older than the column.
const KEPT_ASIDE: &str = "attmissingval";

/// Columns of the server's own relations that hold its secrets, or what others run; the rest of
/// them tells of none.
const CLOSED_COLUMNS: [(&str, &str); 8] = [
    ("pg_stat_activity", "query"),
    // Of advisory locks they are numbers that somebody chose.
    ("pg_locks", "classid"),
    ("pg_locks", "objid"),
    ("pg_locks", "objsubid"),
    ("pg_attribute", KEPT_ASIDE),
    ("pg_subscription", "subconninfo"),
    ("pg_user_mapping", "umoptions"),
    ("pg_user_mappings", "umoptions"),
];

/// Parts of the names of statements that make, change or rename code.
const CODE: [&str; 13] = [
    "FUNCTION",
    "PROCEDURE",
    "ROUTINE",
    "TRIGGER",
    "RULE",
    "OPERATOR",
    "CAST",
    "AGGREGATE",
    "EXTENSION",
    "LANGUAGE",
    "TRANSFORM",
    "CONVERSION",
    "ACCESS METHOD",
];

/// Parts of the names of statements that send rows elsewhere, or fetch what comes from there.
const AWAY: [&str; 7] = [
    "PUBLICATION",
    "SUBSCRIPTION",
    "FOREIGN DATA WRAPPER",
    "FOREIGN TABLE",
    "FOREIGN SCHEMA",
    "SERVER",
    "USER MAPPING",
];

/// What the facts alone say. True: something of it has to be rewritten.
pub(crate) fn survey(
    facts: &Facts,
    catalog: &Catalog,
    path: &SearchPath,
    hidden: &Hidden,
) -> Result<bool, Fault> {
    let mut needed = false;
    for statement in &facts.statements {
        needed |= survey_one(statement, catalog, hidden)?;
        for relation in &statement.relations {
            not_shadowed(relation, (catalog, path), hidden)?;
            not_divided(relation, statement, catalog, hidden)?;
            needed |= speaks(relation, catalog, hidden);
        }
    }
    Ok(needed)
}

/// A name without a schema that means another relation once the one that it means is gone: whoever
/// drops or renames that one meanwhile would make it mean one with hidden columns.
fn not_shadowed(
    relation: &RelationUse,
    (catalog, path): (&Catalog, &SearchPath),
    hidden: &Hidden,
) -> Result<(), Fault> {
    let (Resolved::Known(known), None, None) =
        (&relation.resolved, &relation.schema, &relation.via)
    else {
        return Ok(());
    };
    if hidden.relations.contains_key(&known.oid)
        || matches!(relation.access, Access::Create | Access::Drop)
    {
        return Ok(());
    }
    let Some(schemas) = path.schemas() else { return Ok(()) };
    for schema in schemas {
        let Some(other) = catalog.relation_named(schema, &known.name) else { continue };
        let is_hidden = |oid| hidden.relations.contains_key(&oid);
        if other.oid != known.oid && catalog.stands_on(other.oid, &is_hidden) {
            return refused(
                format!(
                    "names `{}` without its schema, which could come to mean `{}`, where columns \
                     are masked for you",
                    known.name,
                    other.qualified()
                ),
                format!("name it `{}.{}`", known.schema, known.name),
            );
        }
    }
    Ok(())
}

/// Which rows are in a partition tells of the values that they are divided by.
fn not_divided(
    relation: &RelationUse,
    statement: &Statement,
    catalog: &Catalog,
    hidden: &Hidden,
) -> Result<(), Fault> {
    let Resolved::Known(known) = &relation.resolved else { return Ok(()) };
    if hidden.divided.is_empty() {
        return Ok(());
    }
    let explains = matches!(statement.kind, Kind::Explain { .. });
    if explains && hidden.divided.contains(&known.oid) {
        return refused(
            format!("explains `{}`, which is divided by a masked column", known.name),
            "leave EXPLAIN out",
        );
    }
    let shows = |used: &RelationUse| match &used.resolved {
        Resolved::Known(known) => {
            let part = catalog
                .relation(known.oid)
                .is_some_and(|r| r.parents.iter().any(|parent| hidden.divided.contains(parent)));
            let tells = !matches!(
                used.access,
                Access::Insert | Access::CopyFrom | Access::Maintain | Access::Lock
            );
            (used.via.is_none() && part && tells).then(|| known.name.clone())
        }
        Resolved::Temp | Resolved::Made(_) | Resolved::Unresolved => None,
    };
    let within = catalog.relation(known.oid).and_then(|view| view.body.get());
    let behind = within.into_iter().flat_map(|body| &body.relations);
    match std::iter::once(relation).chain(behind).find_map(shows) {
        Some(name) => refused(
            format!("reads `{name}`, a partition by a masked column, by itself"),
            "name the table that it is a partition of",
        ),
        None => Ok(()),
    }
}

/// Whether code that nobody reads may speak of hidden values because of this access, or rows that
/// hold some follow.
fn speaks(relation: &RelationUse, catalog: &Catalog, hidden: &Hidden) -> bool {
    let Resolved::Known(known) = &relation.resolved else { return false };
    let set_off = catalog.set_off(known.oid, relation.access, &relation.columns);
    set_off.iter().any(|oid| {
        let runs = catalog.relation(*oid).is_none_or(|relation| relation.acts.runs);
        runs || *oid != known.oid && hidden.relations.contains_key(oid)
    })
}

/// Whether what is read of it may hold values of any column, or the server's own secrets.
fn is_closed(relation: &RelationUse, known: &Known, hidden: &Hidden) -> bool {
    if &*known.schema == "pg_toast" || &*known.name == "pg_stat_statements" {
        return true;
    }
    if &*known.schema != "pg_catalog" {
        return false;
    }
    if CLOSED.contains(&&*known.name) {
        return true;
    }
    // What a view of the server's own gives of it is judged at the view.
    let through = matches!(&relation.via, Some(Via::View(view)) if view.starts_with("pg_catalog."));
    !through
        && CLOSED_COLUMNS.iter().any(|(name, column)| {
            *name == &*known.name
                && (*column != KEPT_ASIDE || hidden.kept_aside)
                && match &relation.columns {
                    Columns::Known(set) => set.contains(*column),
                    Columns::All | Columns::Unknown => true,
                }
        })
}

fn survey_one(statement: &Statement, catalog: &Catalog, hidden: &Hidden) -> Result<bool, Fault> {
    // What is dropped shows nothing.
    let only_drops = matches!(statement.unknown.as_slice(), [why] if why == reading::CASCADE);
    if statement.effects.contains(Effects::UNKNOWN) && !only_drops {
        let why = statement.unknown.first().map_or("it cannot be read with certainty", |w| w);
        return refused(
            format!("could reach masked columns: {why}"),
            "name relations with their schema, and columns as they are",
        );
    }
    if statement.kind == Kind::Do {
        return refused(
            "runs code whose body cannot be followed to masked columns",
            "send the statements themselves",
        );
    }
    let makes = CODE.iter().any(|word| statement.tag.contains(word));
    if makes && matches!(statement.kind, Kind::Ddl | Kind::Server) {
        return refused(
            format!("`{}` could make code that reads masked columns", statement.tag),
            "have it done by a principal who may see them",
        );
    }
    if AWAY.iter().any(|word| statement.tag.contains(word)) {
        return refused(
            format!("`{}` could send masked columns elsewhere as they are", statement.tag),
            "have it done by a principal who may see them",
        );
    }
    for function in &statement.functions {
        survey_function(function, hidden)?;
    }
    let untold = statement.effects.contains(Effects::OPAQUE)
        && !statement
            .functions
            .iter()
            .any(|f| matches!(f.class, FunctionClass::User | FunctionClass::Volatile));
    if untold {
        return refused(
            "runs code that cannot be followed to masked columns",
            "read or write the tables themselves",
        );
    }
    let mut touches = false;
    for relation in &statement.relations {
        let Resolved::Known(known) = &relation.resolved else { continue };
        if relation.access.reads() && is_closed(relation, known, hidden) {
            return refused(
                format!("`{}` holds values of columns that are masked for you", known.name),
                "leave it out",
            );
        }
        let is_hidden = hidden.relations.contains_key(&known.oid);
        touches |= is_hidden;
        let rules = catalog.relation(known.oid).is_some_and(|r| r.has_rules);
        if rules
            && !relation.access.reads()
            && relation.access != Access::Lock
            && !hidden.is_empty()
        {
            return refused(
                format!("`{}` has rules or triggers instead of writes", known.name),
                "write to the table behind it",
            );
        }
        let reached = relation.access == Access::Alter
            && matches!(known.kind, RelationKind::View | RelationKind::MatView)
            && catalog.stands_on(known.oid, &|oid| hidden.relations.contains_key(&oid));
        if reached && !is_hidden {
            return refused(
                format!("changes `{}`, behind which are masked columns", known.name),
                "have it done by a principal who may see them",
            );
        }
        if is_hidden
            && matches!(
                relation.access,
                Access::Alter | Access::Drop | Access::Create | Access::Grant
            )
        {
            return refused(
                format!("changes `{}`, which has columns that are masked for you", known.name),
                "have it done by a principal who may see them",
            );
        }
    }
    if touches && statement.kind == Kind::Ddl && !leaves_out(statement, hidden) {
        return refused(
            "would keep what it reads from masked columns under another name",
            "have it done by a principal who may see them",
        );
    }
    Ok(touches)
}

/// Whether a definition names no hidden column of what it reads: a table with a foreign key to
/// another column, or made of other columns.
fn leaves_out(statement: &Statement, hidden: &Hidden) -> bool {
    let plain = ["CREATE TABLE", "CREATE TABLE AS", "SELECT INTO", "ALTER TABLE"];
    plain.contains(&statement.tag)
        && statement.relations.iter().all(|relation| {
            let Resolved::Known(known) = &relation.resolved else { return true };
            let Some(covers) = hidden.relations.get(&known.oid) else { return true };
            match &relation.columns {
                Columns::Known(names) => names.iter().all(|name| !covers.contains_key(name)),
                Columns::All | Columns::Unknown => false,
            }
        })
}

fn survey_function(function: &FunctionUse, hidden: &Hidden) -> Result<(), Fault> {
    let name = &function.name;
    let trusted = |schema: &Option<Arc<str>>| {
        schema.as_ref().is_some_and(|s| hidden.trusted.contains(&(s.clone(), name.clone())))
    };
    let fits = match function.class {
        FunctionClass::Reviewed | FunctionClass::Harmless => {
            !(name.starts_with("pg_stat_get_") || name.starts_with("pg_stat_statements"))
        }
        FunctionClass::Volatile => {
            function.schema.as_deref() == Some("pg_catalog") && BLIND.contains(&&**name)
                || trusted(&function.schema)
        }
        FunctionClass::User => trusted(&function.schema),
        // A setting can be given a mask, as any other value (one whose name is not known is in
        // doubt already), and who ends another session learns nothing from it.
        FunctionClass::Dangerous(_) if DEAF.contains(&&**name) => {
            function.schema.as_deref() == Some("pg_catalog")
        }
        FunctionClass::Dangerous(_) | FunctionClass::Unresolved => false,
    };
    if fits {
        return Ok(());
    }
    refused(
        format!("calls `{name}`, which could read columns that are masked for you"),
        "leave the function out, or have its owner listed among the trusted functions",
    )
}
