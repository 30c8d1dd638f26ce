//! What is known about the server's own functions, by name.
//!
//! An overload cannot be told from the text without the types of its arguments, so a name is as bad
//! as its worst overload. A name in none of the lists is unresolved: a function of a newer server
//! is doubt until somebody reviews it.

use std::collections::HashSet;
use std::sync::OnceLock;

use crate::catalog::{Function, Volatility};
use crate::facts::{Effects, FunctionClass};

use FunctionClass::{Dangerous, Harmless, Volatile};

const NONE: Effects = Effects::NONE;
const OPAQUE: Effects = Effects::OPAQUE;
const SERVER: Effects = Effects::SERVER;
const SEQUENCE: Effects = Effects::SEQUENCE;
const LOCK: Effects = Effects::LOCK;
const NOTIFY: Effects = Effects::NOTIFY;
const SETTINGS: Effects = Effects::SETTINGS;
const TRANSACTION: Effects = Effects::TRANSACTION;
const WRITE: Effects = Effects::WRITE;

const FILES: &str = "reads or writes files of the server";
const LARGE: &str = "reads or writes large objects, which no relation names";
const TEXT: &str = "takes the name of a table, a type or a whole query as data";
const OTHERS: &str = "sees or disturbs other sessions";
const SERVER_STATE: &str = "changes or shows the state of the server";
const REPL: &str = "reads or changes the replication of the server";
const REMOTE: &str = "opens a connection past the gateway";

/// The server's own function of that name: its class and its effects. `None`: not in any list.
#[must_use]
pub fn builtin(name: &str) -> Option<(FunctionClass, Effects)> {
    if reviewed().contains(name) {
        return Some((FunctionClass::Reviewed, NONE));
    }
    let at = LISTED.binary_search_by(|(n, _, _)| (*n).cmp(name)).ok()?;
    LISTED.get(at).map(|(_, class, effects)| (*class, *effects))
}

fn reviewed() -> &'static HashSet<&'static str> {
    static NAMES: OnceLock<HashSet<&'static str>> = OnceLock::new();
    NAMES.get_or_init(|| {
        include_str!("functions/reviewed.txt").lines().filter(|l| !l.starts_with('#')).collect()
    })
}

/// Extensions whose immutable and stable functions were reviewed like built-ins: they compute.
/// A superuser could add functions of his own to an extension; that is the database owner's word
/// against himself, not a way in for a client.
const REVIEWED_EXTENSIONS: [&str; 16] = [
    "btree_gin",
    "btree_gist",
    "citext",
    "cube",
    "earthdistance",
    "fuzzystrmatch",
    "hstore",
    "intarray",
    "isn",
    "ltree",
    "pg_trgm",
    "pgcrypto",
    "seg",
    "unaccent",
    "uuid-ossp",
    "vector",
];

/// Volatile functions of those extensions that change nothing.
const HARMLESS_OF_EXTENSIONS: [&str; 9] = [
    "gen_random_bytes",
    "gen_random_uuid",
    "gen_salt",
    "pgp_pub_encrypt",
    "pgp_sym_encrypt",
    "uuid_generate_v1",
    "uuid_generate_v1mc",
    "uuid_generate_v4",
    "show_limit",
];

/// Extensions that reach files, other servers, or take queries as text.
fn dangerous_extension(name: &str) -> Option<(&'static str, Effects)> {
    Some(match name {
        "dblink" | "postgres_fdw" | "file_fdw" | "http" | "pg_net" | "plproxy" => (REMOTE, SERVER),
        "adminpack" | "pageinspect" | "pg_surgery" | "pg_walinspect" | "pg_buffercache"
        | "pg_prewarm" | "pg_visibility" | "pgstattuple" => (FILES, SERVER),
        "lo" => (LARGE, SERVER),
        "tablefunc" | "xml2" => (TEXT, OPAQUE),
        "pg_cron" | "pg_background" | "pg_repack" => (SERVER_STATE, SERVER),
        _ => return None,
    })
}

/// Names that mean danger wherever they live, even when the catalogue does not know them.
pub(crate) fn dangerous_name(name: &str) -> Option<(FunctionClass, Effects)> {
    if name == "dblink" || name.starts_with("dblink_") || name.starts_with("postgres_fdw_") {
        return Some((Dangerous(REMOTE), SERVER));
    }
    if name == "connectby" || name == "xpath_table" || name.starts_with("crosstab") {
        return Some((Dangerous(TEXT), OPAQUE));
    }
    match builtin(name) {
        Some(listed @ (Dangerous(_), _)) => Some(listed),
        _ => None,
    }
}

/// The class and the effects of a function that somebody made in this database.
pub(crate) fn made(function: &Function) -> (FunctionClass, Effects) {
    if let Some(extension) = function.extension.as_deref() {
        if let Some((why, effects)) = dangerous_extension(extension) {
            return (Dangerous(why), effects);
        }
        if REVIEWED_EXTENSIONS.contains(&extension)
            && matches!(&*function.language, "c" | "internal" | "sql")
        {
            if function.volatility != Volatility::Volatile {
                return (FunctionClass::Reviewed, NONE);
            }
            if HARMLESS_OF_EXTENSIONS.contains(&&*function.name) {
                return (Harmless, NONE);
            }
        }
    }
    if let Some(listed) = dangerous_name(&function.name) {
        return listed;
    }
    if function.is_system() && function.volatility != Volatility::Volatile {
        return (FunctionClass::Reviewed, NONE);
    }
    (FunctionClass::User, OPAQUE)
}

/// Whether everything about a type's own functions was reviewed with its extension.
pub(crate) fn reviewed_extension(name: &str) -> bool {
    REVIEWED_EXTENSIONS.contains(&name)
}

/// Names with a class of their own, sorted by byte.
#[rustfmt::skip]
const LISTED: &[(&str, FunctionClass, Effects)] = &[
    ("array_sample", Harmless, NONE),
    ("array_shuffle", Harmless, NONE),
    ("binary_upgrade_add_sub_rel_state", Dangerous(SERVER_STATE), SERVER),
    ("binary_upgrade_create_empty_extension", Dangerous(SERVER_STATE), SERVER),
    ("binary_upgrade_logical_slot_has_caught_up", Dangerous(SERVER_STATE), SERVER),
    ("binary_upgrade_replorigin_advance", Dangerous(SERVER_STATE), SERVER),
    ("binary_upgrade_set_missing_value", Dangerous(SERVER_STATE), SERVER),
    ("binary_upgrade_set_next_array_pg_type_oid", Dangerous(SERVER_STATE), SERVER),
    ("binary_upgrade_set_next_heap_pg_class_oid", Dangerous(SERVER_STATE), SERVER),
    ("binary_upgrade_set_next_heap_relfilenode", Dangerous(SERVER_STATE), SERVER),
    ("binary_upgrade_set_next_index_pg_class_oid", Dangerous(SERVER_STATE), SERVER),
    ("binary_upgrade_set_next_index_relfilenode", Dangerous(SERVER_STATE), SERVER),
    ("binary_upgrade_set_next_multirange_array_pg_type_oid", Dangerous(SERVER_STATE), SERVER),
    ("binary_upgrade_set_next_multirange_pg_type_oid", Dangerous(SERVER_STATE), SERVER),
    ("binary_upgrade_set_next_pg_authid_oid", Dangerous(SERVER_STATE), SERVER),
    ("binary_upgrade_set_next_pg_enum_oid", Dangerous(SERVER_STATE), SERVER),
    ("binary_upgrade_set_next_pg_tablespace_oid", Dangerous(SERVER_STATE), SERVER),
    ("binary_upgrade_set_next_pg_type_oid", Dangerous(SERVER_STATE), SERVER),
    ("binary_upgrade_set_next_toast_pg_class_oid", Dangerous(SERVER_STATE), SERVER),
    ("binary_upgrade_set_next_toast_relfilenode", Dangerous(SERVER_STATE), SERVER),
    ("binary_upgrade_set_record_init_privs", Dangerous(SERVER_STATE), SERVER),
    ("brin_desummarize_range", Volatile, WRITE),
    ("brin_summarize_new_values", Volatile, WRITE),
    ("brin_summarize_range", Volatile, WRITE),
    ("clock_timestamp", Harmless, NONE),
    ("current_query", Harmless, NONE),
    ("currtid2", Dangerous(TEXT), OPAQUE),
    ("currval", Volatile, SEQUENCE),
    ("cursor_to_xml", Dangerous(TEXT), OPAQUE),
    ("cursor_to_xmlschema", Dangerous(TEXT), OPAQUE),
    ("database_to_xml", Dangerous(TEXT), OPAQUE),
    ("database_to_xml_and_xmlschema", Dangerous(TEXT), OPAQUE),
    ("database_to_xmlschema", Dangerous(TEXT), OPAQUE),
    ("gen_random_uuid", Harmless, NONE),
    ("gin_clean_pending_list", Volatile, WRITE),
    ("lastval", Volatile, SEQUENCE),
    ("lo_close", Dangerous(LARGE), SERVER),
    ("lo_creat", Dangerous(LARGE), SERVER),
    ("lo_create", Dangerous(LARGE), SERVER),
    ("lo_export", Dangerous(LARGE), SERVER),
    ("lo_from_bytea", Dangerous(LARGE), SERVER),
    ("lo_get", Dangerous(LARGE), SERVER),
    ("lo_import", Dangerous(LARGE), SERVER),
    ("lo_lseek", Dangerous(LARGE), SERVER),
    ("lo_lseek64", Dangerous(LARGE), SERVER),
    ("lo_open", Dangerous(LARGE), SERVER),
    ("lo_put", Dangerous(LARGE), SERVER),
    ("lo_tell", Dangerous(LARGE), SERVER),
    ("lo_tell64", Dangerous(LARGE), SERVER),
    ("lo_truncate", Dangerous(LARGE), SERVER),
    ("lo_truncate64", Dangerous(LARGE), SERVER),
    ("lo_unlink", Dangerous(LARGE), SERVER),
    ("loread", Dangerous(LARGE), SERVER),
    ("lowrite", Dangerous(LARGE), SERVER),
    ("nextval", Volatile, SEQUENCE),
    ("pg_advisory_lock", Volatile, LOCK),
    ("pg_advisory_lock_shared", Volatile, LOCK),
    ("pg_advisory_unlock", Volatile, LOCK),
    ("pg_advisory_unlock_all", Volatile, LOCK),
    ("pg_advisory_unlock_shared", Volatile, LOCK),
    ("pg_advisory_xact_lock", Volatile, LOCK),
    ("pg_advisory_xact_lock_shared", Volatile, LOCK),
    ("pg_available_extension_versions", Dangerous(FILES), SERVER),
    ("pg_available_extensions", Dangerous(FILES), SERVER),
    ("pg_available_wal_summaries", Dangerous(FILES), SERVER),
    ("pg_backup_start", Dangerous(SERVER_STATE), SERVER),
    ("pg_backup_stop", Dangerous(SERVER_STATE), SERVER),
    ("pg_blocking_pids", Harmless, NONE),
    ("pg_cancel_backend", Dangerous(OTHERS), SERVER),
    ("pg_clear_attribute_stats", Dangerous(SERVER_STATE), SERVER),
    ("pg_clear_relation_stats", Dangerous(SERVER_STATE), SERVER),
    ("pg_collation_actual_version", Harmless, NONE),
    ("pg_config", Dangerous(FILES), SERVER),
    ("pg_control_checkpoint", Dangerous(SERVER_STATE), SERVER),
    ("pg_control_init", Dangerous(SERVER_STATE), SERVER),
    ("pg_control_recovery", Dangerous(SERVER_STATE), SERVER),
    ("pg_control_system", Dangerous(SERVER_STATE), SERVER),
    ("pg_copy_logical_replication_slot", Dangerous(REPL), SERVER),
    ("pg_copy_physical_replication_slot", Dangerous(REPL), SERVER),
    ("pg_create_logical_replication_slot", Dangerous(REPL), SERVER),
    ("pg_create_physical_replication_slot", Dangerous(REPL), SERVER),
    ("pg_create_restore_point", Dangerous(SERVER_STATE), SERVER),
    ("pg_current_logfile", Dangerous(FILES), SERVER),
    ("pg_current_wal_flush_lsn", Harmless, NONE),
    ("pg_current_wal_insert_lsn", Harmless, NONE),
    ("pg_current_wal_lsn", Harmless, NONE),
    ("pg_current_xact_id", Volatile, TRANSACTION),
    ("pg_cursor", Volatile, NONE),
    ("pg_database_collation_actual_version", Harmless, NONE),
    ("pg_database_size", Harmless, NONE),
    ("pg_drop_replication_slot", Dangerous(REPL), SERVER),
    ("pg_export_snapshot", Volatile, TRANSACTION),
    ("pg_extension_config_dump", Dangerous(SERVER_STATE), SERVER),
    ("pg_extension_update_paths", Dangerous(FILES), SERVER),
    ("pg_file_rename", Dangerous(FILES), SERVER),
    ("pg_file_sync", Dangerous(FILES), SERVER),
    ("pg_file_unlink", Dangerous(FILES), SERVER),
    ("pg_file_write", Dangerous(FILES), SERVER),
    ("pg_get_aios", Dangerous(OTHERS), SERVER),
    ("pg_get_backend_memory_contexts", Dangerous(SERVER_STATE), SERVER),
    ("pg_get_loaded_modules", Dangerous(FILES), SERVER),
    ("pg_get_multixact_members", Volatile, NONE),
    ("pg_get_replication_slots", Dangerous(REPL), SERVER),
    ("pg_get_sequence_data", Harmless, NONE),
    ("pg_get_shmem_allocations", Dangerous(SERVER_STATE), SERVER),
    ("pg_get_shmem_allocations_numa", Dangerous(SERVER_STATE), SERVER),
    ("pg_get_wait_events", Harmless, NONE),
    ("pg_get_wal_replay_pause_state", Harmless, NONE),
    ("pg_get_wal_resource_managers", Harmless, NONE),
    ("pg_get_wal_summarizer_state", Dangerous(REPL), SERVER),
    ("pg_hba_file_rules", Dangerous(FILES), SERVER),
    ("pg_ident_file_mappings", Dangerous(FILES), SERVER),
    ("pg_import_system_collations", Dangerous(SERVER_STATE), SERVER),
    ("pg_indexes_size", Harmless, NONE),
    ("pg_input_error_info", Dangerous(TEXT), OPAQUE),
    ("pg_input_is_valid", Dangerous(TEXT), OPAQUE),
    ("pg_is_in_recovery", Harmless, NONE),
    ("pg_is_wal_replay_paused", Harmless, NONE),
    ("pg_isolation_test_session_is_blocked", Dangerous(SERVER_STATE), SERVER),
    ("pg_jit_available", Harmless, NONE),
    ("pg_last_committed_xact", Harmless, NONE),
    ("pg_last_wal_receive_lsn", Harmless, NONE),
    ("pg_last_wal_replay_lsn", Harmless, NONE),
    ("pg_last_xact_replay_timestamp", Harmless, NONE),
    ("pg_listening_channels", Volatile, NONE),
    ("pg_lock_status", Dangerous(OTHERS), SERVER),
    ("pg_log_backend_memory_contexts", Dangerous(OTHERS), SERVER),
    ("pg_log_standby_snapshot", Dangerous(SERVER_STATE), SERVER),
    ("pg_logdir_ls", Dangerous(FILES), SERVER),
    ("pg_logical_emit_message", Dangerous(REPL), SERVER),
    ("pg_logical_slot_get_binary_changes", Dangerous(REPL), SERVER),
    ("pg_logical_slot_get_changes", Dangerous(REPL), SERVER),
    ("pg_logical_slot_peek_binary_changes", Dangerous(REPL), SERVER),
    ("pg_logical_slot_peek_changes", Dangerous(REPL), SERVER),
    ("pg_ls_archive_statusdir", Dangerous(FILES), SERVER),
    ("pg_ls_dir", Dangerous(FILES), SERVER),
    ("pg_ls_logdir", Dangerous(FILES), SERVER),
    ("pg_ls_logicalmapdir", Dangerous(FILES), SERVER),
    ("pg_ls_logicalsnapdir", Dangerous(FILES), SERVER),
    ("pg_ls_replslotdir", Dangerous(FILES), SERVER),
    ("pg_ls_summariesdir", Dangerous(FILES), SERVER),
    ("pg_ls_tmpdir", Dangerous(FILES), SERVER),
    ("pg_ls_waldir", Dangerous(FILES), SERVER),
    ("pg_nextoid", Dangerous(SERVER_STATE), SERVER),
    ("pg_notification_queue_usage", Harmless, NONE),
    ("pg_notify", Volatile, NOTIFY),
    ("pg_partition_ancestors", Harmless, NONE),
    ("pg_partition_tree", Harmless, NONE),
    ("pg_prepared_statement", Volatile, NONE),
    ("pg_prepared_xact", Dangerous(OTHERS), SERVER),
    ("pg_promote", Dangerous(SERVER_STATE), SERVER),
    ("pg_read_binary_file", Dangerous(FILES), SERVER),
    ("pg_read_file", Dangerous(FILES), SERVER),
    ("pg_read_file_old", Dangerous(FILES), SERVER),
    ("pg_relation_size", Harmless, NONE),
    ("pg_reload_conf", Dangerous(SERVER_STATE), SERVER),
    ("pg_replication_origin_advance", Dangerous(REPL), SERVER),
    ("pg_replication_origin_create", Dangerous(REPL), SERVER),
    ("pg_replication_origin_drop", Dangerous(REPL), SERVER),
    ("pg_replication_origin_progress", Dangerous(REPL), SERVER),
    ("pg_replication_origin_session_is_setup", Dangerous(REPL), SERVER),
    ("pg_replication_origin_session_progress", Dangerous(REPL), SERVER),
    ("pg_replication_origin_session_reset", Dangerous(REPL), SERVER),
    ("pg_replication_origin_session_setup", Dangerous(REPL), SERVER),
    ("pg_replication_origin_xact_reset", Dangerous(REPL), SERVER),
    ("pg_replication_origin_xact_setup", Dangerous(REPL), SERVER),
    ("pg_replication_slot_advance", Dangerous(REPL), SERVER),
    ("pg_restore_attribute_stats", Dangerous(SERVER_STATE), SERVER),
    ("pg_restore_relation_stats", Dangerous(SERVER_STATE), SERVER),
    ("pg_rotate_logfile", Dangerous(SERVER_STATE), SERVER),
    ("pg_rotate_logfile_old", Dangerous(SERVER_STATE), SERVER),
    ("pg_safe_snapshot_blocking_pids", Harmless, NONE),
    ("pg_sequence_last_value", Harmless, NONE),
    ("pg_show_all_file_settings", Dangerous(FILES), SERVER),
    ("pg_show_all_settings", Volatile, NONE),
    ("pg_show_replication_origin_status", Dangerous(REPL), SERVER),
    ("pg_sleep", Volatile, NONE),
    ("pg_sleep_for", Volatile, NONE),
    ("pg_sleep_until", Volatile, NONE),
    ("pg_start_backup", Dangerous(SERVER_STATE), SERVER),
    ("pg_stat_clear_snapshot", Volatile, NONE),
    ("pg_stat_file", Dangerous(FILES), SERVER),
    ("pg_stat_force_next_flush", Dangerous(SERVER_STATE), SERVER),
    ("pg_stat_get_activity", Dangerous(OTHERS), SERVER),
    ("pg_stat_get_backend_activity", Dangerous(OTHERS), SERVER),
    ("pg_stat_get_backend_activity_start", Dangerous(OTHERS), SERVER),
    ("pg_stat_get_backend_client_addr", Dangerous(OTHERS), SERVER),
    ("pg_stat_get_backend_client_port", Dangerous(OTHERS), SERVER),
    ("pg_stat_get_backend_dbid", Dangerous(OTHERS), SERVER),
    ("pg_stat_get_backend_idset", Dangerous(OTHERS), SERVER),
    ("pg_stat_get_backend_io", Dangerous(OTHERS), SERVER),
    ("pg_stat_get_backend_pid", Dangerous(OTHERS), SERVER),
    ("pg_stat_get_backend_start", Dangerous(OTHERS), SERVER),
    ("pg_stat_get_backend_subxact", Dangerous(OTHERS), SERVER),
    ("pg_stat_get_backend_userid", Dangerous(OTHERS), SERVER),
    ("pg_stat_get_backend_wait_event", Dangerous(OTHERS), SERVER),
    ("pg_stat_get_backend_wait_event_type", Dangerous(OTHERS), SERVER),
    ("pg_stat_get_backend_wal", Dangerous(OTHERS), SERVER),
    ("pg_stat_get_backend_xact_start", Dangerous(OTHERS), SERVER),
    ("pg_stat_get_io", Dangerous(SERVER_STATE), SERVER),
    ("pg_stat_get_progress_info", Dangerous(OTHERS), SERVER),
    ("pg_stat_get_recovery_prefetch", Volatile, NONE),
    ("pg_stat_get_replication_slot", Dangerous(OTHERS), SERVER),
    ("pg_stat_get_subscription", Dangerous(OTHERS), SERVER),
    ("pg_stat_get_wal_receiver", Dangerous(OTHERS), SERVER),
    ("pg_stat_get_wal_senders", Dangerous(OTHERS), SERVER),
    ("pg_stat_get_xact_blocks_fetched", Volatile, NONE),
    ("pg_stat_get_xact_blocks_hit", Volatile, NONE),
    ("pg_stat_get_xact_function_calls", Volatile, NONE),
    ("pg_stat_get_xact_function_self_time", Volatile, NONE),
    ("pg_stat_get_xact_function_total_time", Volatile, NONE),
    ("pg_stat_get_xact_numscans", Volatile, NONE),
    ("pg_stat_get_xact_tuples_deleted", Volatile, NONE),
    ("pg_stat_get_xact_tuples_fetched", Volatile, NONE),
    ("pg_stat_get_xact_tuples_hot_updated", Volatile, NONE),
    ("pg_stat_get_xact_tuples_inserted", Volatile, NONE),
    ("pg_stat_get_xact_tuples_newpage_updated", Volatile, NONE),
    ("pg_stat_get_xact_tuples_returned", Volatile, NONE),
    ("pg_stat_get_xact_tuples_updated", Volatile, NONE),
    ("pg_stat_have_stats", Harmless, NONE),
    ("pg_stat_reset", Dangerous(SERVER_STATE), SERVER),
    ("pg_stat_reset_backend_stats", Dangerous(SERVER_STATE), SERVER),
    ("pg_stat_reset_replication_slot", Dangerous(SERVER_STATE), SERVER),
    ("pg_stat_reset_shared", Dangerous(SERVER_STATE), SERVER),
    ("pg_stat_reset_single_function_counters", Dangerous(SERVER_STATE), SERVER),
    ("pg_stat_reset_single_table_counters", Dangerous(SERVER_STATE), SERVER),
    ("pg_stat_reset_slru", Dangerous(SERVER_STATE), SERVER),
    ("pg_stat_reset_subscription_stats", Dangerous(SERVER_STATE), SERVER),
    ("pg_stop_backup", Dangerous(SERVER_STATE), SERVER),
    ("pg_stop_making_pinned_objects", Dangerous(SERVER_STATE), SERVER),
    ("pg_switch_wal", Dangerous(SERVER_STATE), SERVER),
    ("pg_sync_replication_slots", Dangerous(REPL), SERVER),
    ("pg_table_size", Harmless, NONE),
    ("pg_tablespace_databases", Dangerous(FILES), SERVER),
    ("pg_tablespace_size", Harmless, NONE),
    ("pg_terminate_backend", Dangerous(OTHERS), SERVER),
    ("pg_timezone_abbrevs", Volatile, NONE),
    ("pg_timezone_abbrevs_abbrevs", Volatile, NONE),
    ("pg_timezone_abbrevs_zone", Volatile, NONE),
    ("pg_timezone_names", Volatile, NONE),
    ("pg_total_relation_size", Harmless, NONE),
    ("pg_try_advisory_lock", Volatile, LOCK),
    ("pg_try_advisory_lock_shared", Volatile, LOCK),
    ("pg_try_advisory_xact_lock", Volatile, LOCK),
    ("pg_try_advisory_xact_lock_shared", Volatile, LOCK),
    ("pg_wal_replay_pause", Dangerous(SERVER_STATE), SERVER),
    ("pg_wal_replay_resume", Dangerous(SERVER_STATE), SERVER),
    ("pg_wal_summary_contents", Dangerous(FILES), SERVER),
    ("pg_xact_commit_timestamp", Harmless, NONE),
    ("pg_xact_commit_timestamp_origin", Harmless, NONE),
    ("pg_xact_status", Harmless, NONE),
    ("query_to_xml", Dangerous(TEXT), OPAQUE),
    ("query_to_xml_and_xmlschema", Dangerous(TEXT), OPAQUE),
    ("query_to_xmlschema", Dangerous(TEXT), OPAQUE),
    ("random", Harmless, NONE),
    ("random_normal", Harmless, NONE),
    ("schema_to_xml", Dangerous(TEXT), OPAQUE),
    ("schema_to_xml_and_xmlschema", Dangerous(TEXT), OPAQUE),
    ("schema_to_xmlschema", Dangerous(TEXT), OPAQUE),
    ("set_config", Volatile, SETTINGS),
    ("setseed", Volatile, NONE),
    ("setval", Volatile, SEQUENCE),
    ("suppress_redundant_updates_trigger", Harmless, NONE),
    ("table_to_xml", Dangerous(TEXT), OPAQUE),
    ("table_to_xml_and_xmlschema", Dangerous(TEXT), OPAQUE),
    ("table_to_xmlschema", Dangerous(TEXT), OPAQUE),
    ("timeofday", Harmless, NONE),
    ("ts_rewrite", Dangerous(TEXT), OPAQUE),
    ("ts_stat", Dangerous(TEXT), OPAQUE),
    ("tsvector_update_trigger", Dangerous(TEXT), OPAQUE),
    ("tsvector_update_trigger_column", Dangerous(TEXT), OPAQUE),
    ("txid_current", Volatile, TRANSACTION),
    ("txid_status", Harmless, NONE),
    ("uuidv4", Harmless, NONE),
    ("uuidv7", Harmless, NONE),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_sorted_and_disjoint() {
        assert!(LISTED.windows(2).all(|w| matches!(w, [a, b] if a.0 < b.0)));
        let text = include_str!("functions/reviewed.txt");
        let names: Vec<_> = text.lines().filter(|l| !l.starts_with('#')).collect();
        assert!(names.windows(2).all(|w| matches!(w, [a, b] if a < b)));
        assert!(names.len() > 2_000);
        assert!(LISTED.iter().all(|(n, _, _)| !reviewed().contains(n)));
        // A listed class other than harmless never passes as pure.
        assert!(LISTED.iter().all(|(_, c, _)| !matches!(c, FunctionClass::Reviewed)));
    }

    #[test]
    fn nobody_reviewed_these() {
        for name in [
            "pg_read_file",
            "pg_ls_dir",
            "lo_import",
            "lo_export",
            "loread",
            "query_to_xml",
            "table_to_xml",
            "database_to_xmlschema",
            "cursor_to_xml",
            "ts_stat",
            "ts_rewrite",
            "pg_terminate_backend",
            "pg_cancel_backend",
            "pg_reload_conf",
            "pg_switch_wal",
            "pg_logical_slot_get_changes",
            "pg_create_logical_replication_slot",
            "pg_promote",
            "pg_file_write",
            "pg_stat_get_activity",
            "pg_hba_file_rules",
            "binary_upgrade_set_next_pg_authid_oid",
        ] {
            assert!(matches!(builtin(name), Some((Dangerous(_), _))), "{name}");
        }
        for (name, effects) in [
            ("nextval", SEQUENCE),
            ("setval", SEQUENCE),
            ("pg_notify", NOTIFY),
            ("pg_advisory_lock", LOCK),
            ("pg_try_advisory_xact_lock_shared", LOCK),
            ("set_config", SETTINGS),
            ("txid_current", TRANSACTION),
            ("pg_sleep", NONE),
        ] {
            assert_eq!(builtin(name), Some((Volatile, effects)), "{name}");
        }
        for name in ["record_in", "domain_in", "pg_input_is_valid", "pg_cursor"] {
            assert!(!matches!(builtin(name), Some((FunctionClass::Reviewed, _))), "{name}");
        }
        for name in
            ["lower", "now", "count", "row_number", "version", "pg_get_viewdef", "any_value"]
        {
            assert_eq!(builtin(name), Some((FunctionClass::Reviewed, NONE)), "{name}");
        }
        for name in ["random", "gen_random_uuid", "clock_timestamp", "uuidv7"] {
            assert_eq!(builtin(name), Some((Harmless, NONE)), "{name}");
        }
        assert_eq!(builtin("no_such_function"), None);
    }
}
