//! Settings (GUCs) that a statement shows or changes, and what may be done with each.
//!
//! The table is an allow-list: a setting that is not in it is [`SettingRule::Unlisted`], which a
//! caller refuses. Names are compared without case, as the server compares them.

/// A setting that a statement shows or changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingUse {
    /// Lower case. `None`: could not tell which (always with `Effects::UNKNOWN`).
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
            (_, SettingAction::Show) => SettingRule::Harmless,
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

    /// Whether the rule lets this use pass on its own. `Tracked` passes: the caller follows it.
    /// A change that lasts beyond the session never passes.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        if self.is_show() {
            return true;
        }
        match self.scope {
            SettingScope::Session | SettingScope::Transaction | SettingScope::Local => {}
            SettingScope::Role | SettingScope::Database | SettingScope::System => return false,
        }
        match (&self.rule, &self.value) {
            (SettingRule::Harmless, _) => true,
            (SettingRule::Tracked, SettingValue::Literal(_) | SettingValue::Default) => true,
            (SettingRule::Tracked, SettingValue::Unknown | SettingValue::Current) => false,
            (SettingRule::Pinned(allowed), SettingValue::Literal(value)) => {
                allowed.iter().any(|a| a.eq_ignore_ascii_case(value.trim()))
            }
            // The default is what the gateway asked for at startup.
            (SettingRule::Pinned(_), SettingValue::Default) => true,
            (SettingRule::Pinned(_), SettingValue::Unknown | SettingValue::Current) => false,
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
    /// `RESET ALL`, `DISCARD ALL`: every setting of the session; the name is `None`, the rule
    /// `Harmless`, because defaults are what the gateway asked for.
    ResetAll,
    Show,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SettingScope {
    /// Until the session ends, or the transaction rolls back.
    Session,
    /// `SET LOCAL`, `set_config(…, true)`.
    Local,
    /// `SET TRANSACTION …`: settings of this transaction only.
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
    /// What the server will read; list items are joined by `, `, identifiers quoted where needed.
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
    /// Any value: changes formats, limits or plans of this session, nothing that decides access,
    /// and nothing that changes how the text of a statement is read.
    Harmless,
    /// `search_path`: any literal value, followed exactly.
    Tracked,
    /// Changes how text is read: only these values.
    Pinned(&'static [&'static str]),
    /// Changes who acts, what is checked, what is logged, or what code runs; with the reason.
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
        return SettingRule::Forbidden(LOG);
    }
    if PLANNER_PREFIXES.iter().any(|p| name.starts_with(p)) {
        return SettingRule::Harmless;
    }
    SettingRule::Unlisted
}

const LOG: &str = "changes what the server logs";
const WHO: &str = "changes who acts";
const CHECK: &str = "changes what the server checks";
const CODE: &str = "loads or runs code";
const PATH: &str = "changes how names or text are read";

/// Planner switches and costs: they change the plan, never the rows.
const PLANNER_PREFIXES: [&str; 6] = ["enable_", "geqo", "jit_above_", "jit_inline_", "cpu_", "parallel_"];

use SettingRule::{Forbidden, Harmless, Pinned, Tracked};

/// Sorted by name.
const RULES: [(&str, SettingRule); 119] = [
];
