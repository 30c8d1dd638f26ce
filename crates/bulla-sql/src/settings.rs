//! Settings (GUCs) that a statement shows or changes, and what may be done with each.
//!
//! The table is an allow-list: a setting that is not in it is [`SettingRule::Unlisted`], which a
//! caller refuses. Names are compared without case, as the server compares them.

/// A setting that a statement shows or changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingUse {
    /// Lower case. `None` with `ResetAll` means all; otherwise: could not tell which (then always
    /// with `Effects::UNKNOWN`).
    pub name: Option<String>,
    pub action: SettingAction,
    pub scope: SettingScope,
    pub value: SettingValue,
    pub rule: SettingRule,
}

impl SettingUse {
    pub(crate) fn new(
        name: Option<&str>,
        action: SettingAction,
        scope: SettingScope,
        value: SettingValue,
    ) -> Self {
        let name = name.map(str::to_ascii_lowercase);
        let rule = match (&name, action) {
            (_, SettingAction::Show | SettingAction::ResetAll) => SettingRule::Harmless,
            (None, _) => SettingRule::Unlisted,
            (Some(name), _) => rule(name),
        };
        Self { name, action, scope, value, rule }
    }

    /// Only shows.
    #[must_use]
    pub fn is_show(&self) -> bool {
        self.action == SettingAction::Show
    }

    /// Whether the rule lets this use pass by itself. `Tracked` passes: the caller follows it.
    /// A change that outlasts the session never passes.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        if self.is_show() {
            return true;
        }
        match self.scope {
            SettingScope::Session | SettingScope::Transaction | SettingScope::Local => {}
            SettingScope::Role | SettingScope::Database | SettingScope::System => return false,
        }
        // Back to what the session began with, which the gateway itself asked for.
        if matches!(self.action, SettingAction::Reset | SettingAction::ResetAll)
            || self.value == SettingValue::Default
        {
            return true;
        }
        match (&self.rule, &self.value) {
            (SettingRule::Harmless, _) => true,
            (SettingRule::Tracked, SettingValue::Literal(_)) => true,
            (SettingRule::Tracked, _) => false,
            (SettingRule::Pinned(allowed), SettingValue::Literal(value)) => {
                allowed.iter().any(|a| a.eq_ignore_ascii_case(value.trim()))
            }
            (SettingRule::Pinned(_), _) => false,
            (SettingRule::Forbidden(_) | SettingRule::Unlisted, _) => false,
        }
    }

    pub(crate) fn weight(&self) -> usize {
        size_of::<Self>()
            + self.name.as_ref().map_or(0, String::len)
            + match &self.value {
                SettingValue::Literal(v) => v.len(),
                SettingValue::Default | SettingValue::Current | SettingValue::Unknown => 0,
            }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SettingAction {
    Set,
    /// `RESET name`, `SET name TO DEFAULT`.
    Reset,
    /// `RESET ALL`, `DISCARD ALL`: every setting back to the session's default, which is what the
    /// gateway asked for; hence `Harmless`.
    ResetAll,
    Show,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SettingScope {
    /// Until the session ends, or the transaction rolls back.
    Session,
    /// `SET LOCAL`, `set_config(…, true)`: until the transaction ends.
    Local,
    /// `SET TRANSACTION …`, `SET SESSION CHARACTERISTICS …`.
    Transaction,
    /// `ALTER ROLE … SET`
    Role,
    /// `ALTER DATABASE … SET`
    Database,
    /// `ALTER SYSTEM`
    System,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingValue {
    /// What the server will read; for a list setting identifiers are quoted and joined by `, `.
    Literal(String),
    Default,
    /// `SET … FROM CURRENT`
    Current,
    /// Computed, a parameter, or a form that is not recognised.
    Unknown,
}

/// What may be done with a setting from a client's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SettingRule {
    /// Any value: changes formats, limits or plans of this session; nothing that decides access or
    /// how the text of a statement is read.
    Harmless,
    /// `search_path`: any literal value, followed exactly by the caller.
    Tracked,
    /// Changes how text is read: only these values.
    Pinned(&'static [&'static str]),
    /// Changes who acts, what is checked, what is logged or what code runs; the reason is for people.
    Forbidden(&'static str),
    /// Not in the table.
    Unlisted,
}

/// The rule of a setting; `name` in any case.
#[must_use]
pub fn rule(name: &str) -> SettingRule {
    let name = name.to_ascii_lowercase();
    let name = name.as_str();
    if let Ok(at) = RULES.binary_search_by(|(n, _)| (*n).cmp(name)) {
        return RULES.get(at).map_or(SettingRule::Unlisted, |(_, rule)| *rule);
    }
    if name.starts_with("log_") {
        return Forbidden(LOG);
    }
    if PLANNER_PREFIXES.iter().any(|p| name.starts_with(p)) {
        return Harmless;
    }
    SettingRule::Unlisted
}

use SettingRule::{Forbidden, Harmless, Pinned, Tracked};

const LOG: &str = "changes what the server logs or counts";
const WHO: &str = "changes who acts";
const CHECK: &str = "changes what the server checks or keeps";
const CODE: &str = "loads or runs code";
const PLACE: &str = "changes where the server writes";
const REPORT: &str = "changes what the server reports";

const ON: &[&str] = &["on", "true", "yes", "1", "t"];
const OFF: &[&str] = &["off", "false", "no", "0", "f"];
const UTF8: &[&str] = &["UTF8", "UTF-8", "unicode"];

/// Planner switches and costs: they change the plan, never the rows.
const PLANNER_PREFIXES: [&str; 6] =
    ["cpu_", "enable_", "geqo", "jit_above_", "jit_inline_", "parallel_"];

/// Sorted by name.
#[rustfmt::skip]
const RULES: &[(&str, SettingRule)] = &[
    ("allow_in_place_tablespaces", Forbidden(CHECK)),
    ("allow_system_table_mods", Forbidden(CHECK)),
    ("application_name", Harmless),
    ("archive_command", Forbidden(CODE)),
    ("archive_library", Forbidden(CODE)),
    ("array_nulls", Harmless),
    ("backend_flush_after", Harmless),
    ("backslash_quote", Pinned(&["safe_encoding", "off", "false", "no", "0"])),
    ("backtrace_functions", Forbidden(REPORT)),
    ("bytea_output", Harmless),
    ("check_function_bodies", Harmless),
    ("client_connection_check_interval", Harmless),
    ("client_encoding", Pinned(UTF8)),
    ("client_min_messages", Harmless),
    ("commit_delay", Forbidden(CHECK)),
    ("commit_siblings", Forbidden(CHECK)),
    ("compute_query_id", Forbidden(LOG)),
    ("constraint_exclusion", Harmless),
    ("createrole_self_grant", Forbidden(WHO)),
    ("cursor_tuple_fraction", Harmless),
    ("datestyle", Harmless),
    ("debug_assertions", Forbidden(REPORT)),
    ("debug_discard_caches", Forbidden(REPORT)),
    ("debug_parallel_query", Harmless),
    ("debug_pretty_print", Forbidden(LOG)),
    ("debug_print_parse", Forbidden(LOG)),
    ("debug_print_plan", Forbidden(LOG)),
    ("debug_print_rewritten", Forbidden(LOG)),
    ("default_statistics_target", Harmless),
    ("default_table_access_method", Forbidden(PLACE)),
    ("default_tablespace", Forbidden(PLACE)),
    ("default_text_search_config", Harmless),
    ("default_toast_compression", Harmless),
    ("default_transaction_deferrable", Harmless),
    ("default_transaction_isolation", Harmless),
    ("default_transaction_read_only", Harmless),
    ("dynamic_library_path", Forbidden(CODE)),
    ("effective_cache_size", Harmless),
    ("effective_io_concurrency", Harmless),
    ("escape_string_warning", Harmless),
    ("event_source", Forbidden(LOG)),
    ("event_triggers", Forbidden(CHECK)),
    ("exit_on_error", Forbidden(REPORT)),
    ("extension_control_path", Forbidden(CODE)),
    ("extra_float_digits", Harmless),
    ("force_parallel_mode", Harmless),
    ("from_collapse_limit", Harmless),
    ("fsync", Forbidden(CHECK)),
    ("full_page_writes", Forbidden(CHECK)),
    ("gin_fuzzy_search_limit", Harmless),
    ("gin_pending_list_limit", Harmless),
    ("hash_mem_multiplier", Harmless),
    ("icu_validation_level", Harmless),
    ("idle_in_transaction_session_timeout", Harmless),
    ("idle_session_timeout", Harmless),
    ("ignore_checksum_failure", Forbidden(CHECK)),
    ("ignore_invalid_pages", Forbidden(CHECK)),
    ("ignore_system_indexes", Forbidden(CHECK)),
    ("intervalstyle", Harmless),
    ("io_combine_limit", Harmless),
    ("is_superuser", Forbidden(WHO)),
    ("jit", Harmless),
    ("jit_provider", Forbidden(CODE)),
    ("join_collapse_limit", Harmless),
    ("lc_messages", Forbidden(REPORT)),
    ("lc_monetary", Harmless),
    ("lc_numeric", Harmless),
    ("lc_time", Harmless),
    ("lo_compat_privileges", Forbidden(CHECK)),
    ("local_preload_libraries", Forbidden(CODE)),
    ("lock_timeout", Harmless),
    ("maintenance_io_concurrency", Harmless),
    ("maintenance_work_mem", Harmless),
    ("max_parallel_maintenance_workers", Harmless),
    ("max_parallel_workers", Harmless),
    ("max_parallel_workers_per_gather", Harmless),
    ("min_parallel_index_scan_size", Harmless),
    ("min_parallel_table_scan_size", Harmless),
    ("names", Pinned(UTF8)),
    ("parallel_leader_participation", Harmless),
    ("password_encryption", Forbidden(CHECK)),
    ("plan_cache_mode", Harmless),
    ("quote_all_identifiers", Harmless),
    ("random_page_cost", Harmless),
    ("recursive_worktable_factor", Harmless),
    ("restore_command", Forbidden(CODE)),
    ("restrict_nonsystem_relation_kind", Harmless),
    ("role", Forbidden(WHO)),
    ("row_security", Forbidden(CHECK)),
    ("search_path", Tracked),
    ("seed", Harmless),
    ("seq_page_cost", Harmless),
    ("session_authorization", Forbidden(WHO)),
    ("session_preload_libraries", Forbidden(CODE)),
    ("session_replication_role", Forbidden(CHECK)),
    ("shared_preload_libraries", Forbidden(CODE)),
    ("ssl_passphrase_command", Forbidden(CODE)),
    ("standard_conforming_strings", Pinned(ON)),
    ("statement_timeout", Harmless),
    ("stats_fetch_consistency", Harmless),
    ("synchronize_seqscans", Harmless),
    ("synchronous_commit", Forbidden(CHECK)),
    ("syslog_ident", Forbidden(LOG)),
    ("tcp_keepalives_count", Harmless),
    ("tcp_keepalives_idle", Harmless),
    ("tcp_keepalives_interval", Harmless),
    ("tcp_user_timeout", Harmless),
    ("temp_buffers", Harmless),
    ("temp_tablespaces", Forbidden(PLACE)),
    ("timezone", Harmless),
    ("timezone_abbreviations", Harmless),
    ("trace_locks", Forbidden(LOG)),
    ("trace_notify", Forbidden(LOG)),
    ("trace_sort", Forbidden(LOG)),
    ("track_activities", Forbidden(LOG)),
    ("track_activity_query_size", Forbidden(LOG)),
    ("track_counts", Forbidden(LOG)),
    ("track_functions", Forbidden(LOG)),
    ("track_io_timing", Harmless),
    ("transaction_deferrable", Harmless),
    ("transaction_isolation", Harmless),
    ("transaction_read_only", Harmless),
    // Not a setting of the server's: how `SET TRANSACTION SNAPSHOT` is told.
    ("transaction_snapshot", Forbidden("sees the database as another session does")),
    ("transaction_timeout", Harmless),
    ("transform_null_equals", Pinned(OFF)),
    ("update_process_title", Forbidden(LOG)),
    ("vacuum_buffer_usage_limit", Harmless),
    ("vacuum_cost_delay", Harmless),
    ("vacuum_cost_limit", Harmless),
    ("wal_compression", Forbidden(CHECK)),
    ("wal_consistency_checking", Forbidden(CHECK)),
    ("work_mem", Harmless),
    ("xmlbinary", Harmless),
    ("xmloption", Harmless),
    ("zero_damaged_pages", Forbidden(CHECK)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted() {
        assert!(RULES.windows(2).all(|w| matches!(w, [(a, _), (b, _)] if a < b)));
    }

    #[test]
    fn rules() {
        for (name, want) in [
            ("Application_Name", Harmless),
            ("DateStyle", Harmless),
            ("enable_seqscan", Harmless),
            ("search_path", Tracked),
            ("client_encoding", Pinned(UTF8)),
            ("standard_conforming_strings", Pinned(ON)),
            ("role", Forbidden(WHO)),
            ("session_replication_role", Forbidden(CHECK)),
            ("row_security", Forbidden(CHECK)),
            ("log_statement", Forbidden(LOG)),
            ("session_preload_libraries", Forbidden(CODE)),
            ("app.tenant", SettingRule::Unlisted),
            ("plpgsql.extra_errors", SettingRule::Unlisted),
        ] {
            assert_eq!(rule(name), want, "{name}");
        }
    }

    #[test]
    fn allowed() {
        use SettingScope::{Role, Session, System};
        let set = |name, scope, value: &str| {
            let value = SettingValue::Literal(value.to_owned());
            SettingUse::new(Some(name), SettingAction::Set, scope, value).is_allowed()
        };
        assert!(set("client_encoding", Session, "utf8"));
        assert!(!set("client_encoding", Session, "SJIS"));
        assert!(!set("standard_conforming_strings", Session, "off"));
        assert!(set("standard_conforming_strings", Session, "ON"));
        assert!(!set("timezone", Role, "UTC"));
        assert!(!set("timezone", System, "UTC"));
        assert!(set("timezone", Session, "UTC"));
        assert!(!set("role", Session, "postgres"));
        let unknown = |name| {
            SettingUse::new(Some(name), SettingAction::Set, Session, SettingValue::Unknown)
                .is_allowed()
        };
        assert!(!unknown("search_path") && unknown("timezone"));
    }
}
