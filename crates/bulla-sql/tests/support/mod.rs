//! What the tests share: the snapshot of `fixtures/schema.sql` and facts as one readable line.
#![allow(dead_code, clippy::unwrap_used)]

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

use bulla_sql::catalog::Row;
use bulla_sql::facts::{
    Columns, CopyTarget, FunctionClass, NameUse, RelationUse, Resolved, Statement, Tx, Via,
};
use bulla_sql::settings::{SettingAction, SettingScope, SettingUse, SettingValue};
use bulla_sql::{Analyzer, Catalog, Facts, Limits, ReadError, SearchPath};

/// The results of `QUERIES`, from COPY text.
pub fn rows(text: &str) -> Vec<Vec<Row>> {
    let mut results = Vec::new();
    for line in text.lines().filter(|l| !l.starts_with("# ")) {
        if line == "===" {
            results.push(Vec::new());
        } else {
            results.last_mut().unwrap().push(line.split('\t').map(cell).collect());
        }
    }
    results
}

fn cell(text: &str) -> Option<String> {
    if text == "\\N" {
        return None;
    }
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('r') => out.push('\r'),
                Some(other) => out.push(other),
                None => {}
            },
            (c, false) => out.push(c),
        }
    }
    Some(out)
}

/// The fixture.
pub fn results() -> Vec<Vec<Row>> {
    rows(include_str!("../fixtures/catalogue.txt"))
}

pub fn catalog() -> Arc<Catalog> {
    static CATALOG: OnceLock<Arc<Catalog>> = OnceLock::new();
    Arc::clone(CATALOG.get_or_init(|| Arc::new(Catalog::from_rows(&results()).unwrap())))
}

pub fn analyzer() -> &'static Analyzer {
    static ANALYZER: OnceLock<Analyzer> = OnceLock::new();
    ANALYZER.get_or_init(|| Analyzer::new(Limits::default()).unwrap())
}

pub fn public() -> SearchPath {
    SearchPath::parse("\"$user\", public", "postgres")
}

pub fn read(sql: &str, path: &SearchPath) -> Result<Arc<Facts>, ReadError> {
    analyzer().read(sql, &catalog(), path, &|wait| wait())
}

/// One line for each statement.
pub fn lines(result: &Result<Arc<Facts>, ReadError>) -> Vec<String> {
    match result {
        Err(ReadError::Syntax { message, position }) => {
            let at = position.map_or("?".to_owned(), |p| p.to_string());
            vec![format!("SYNTAX at {at}: {message}")]
        }
        Err(error) => vec![format!("REFUSED: {error}")],
        Ok(facts) if facts.statements.is_empty() => vec!["nothing".to_owned()],
        Ok(facts) => facts.statements.iter().map(line).collect(),
    }
}

pub fn line(s: &Statement) -> String {
    let mut out = s.kind.to_string();
    if s.is_pure_read() {
        out.push_str(" PURE");
    }
    let effects: Vec<_> = s.effects.words().collect();
    let effects = if effects.is_empty() { "nothing".to_owned() } else { effects.join("+") };
    let _ = write!(out, " {effects}");
    let mut parts: Vec<String> = Vec::new();
    parts.extend(s.relations.iter().map(relation));
    for f in &s.functions {
        let name = match &f.schema {
            Some(schema) if &**schema != "pg_catalog" => format!("{schema}.{}", f.name),
            _ => f.name.to_string(),
        };
        if f.class != FunctionClass::Reviewed {
            parts.push(format!("{}:{name}", f.class.as_str()));
        }
    }
    parts.extend(s.settings.iter().map(setting));
    parts.extend(s.names.iter().map(name));
    for c in &s.creates {
        let temporary = if c.temporary { "temp " } else { "" };
        let schema = c.schema.as_deref().unwrap_or("?");
        parts.push(format!("makes:{temporary}{:?} {schema}.{}", c.what, c.name));
    }
    if let Some(copy) = &s.copy {
        let target = match &copy.target {
            CopyTarget::Connection => "connection".to_owned(),
            CopyTarget::File(f) => format!("file {f}"),
            CopyTarget::Program(p) => format!("program {p}"),
        };
        parts.push(format!("copy:{:?} {:?} {target}", copy.direction, copy.format));
    }
    if let Some(tx) = &s.transaction {
        parts.push(transaction(tx));
    }
    parts.extend(s.roles.iter().map(|r| format!("role:{r}")));
    parts.extend(s.channels.iter().map(|c| format!("channel:{c}")));
    if s.params > 0 {
        parts.push(format!("${}", s.params));
    }
    parts.extend(s.unknown.iter().map(|u| format!("?{u}")));
    for part in parts {
        let _ = write!(out, " | {part}");
    }
    out
}

fn relation(r: &RelationUse) -> String {
    let name = match &r.resolved {
        Resolved::Known(k) => format!("{}.{}", k.schema, k.name),
        Resolved::Temp => format!("temp.{}", r.name),
        Resolved::Made(schema) => format!("made.{schema}.{}", r.name),
        Resolved::Unresolved => format!("?{}", r.name),
    };
    let columns = match &r.columns {
        Columns::Known(set) => set.iter().map(|c| &**c).collect::<Vec<_>>().join(","),
        Columns::All => "*".to_owned(),
        Columns::Unknown => "?".to_owned(),
    };
    let via = match &r.via {
        None => String::new(),
        Some(Via::View(v)) => format!(" via view {v}"),
        Some(Via::Parent(v)) => format!(" via parent {v}"),
        Some(Via::Child(v)) => format!(" via child {v}"),
    };
    format!("{}:{name}({columns}){via}", r.access.as_str())
}

fn setting(s: &SettingUse) -> String {
    let scope = match s.scope {
        SettingScope::Session => "",
        SettingScope::Local => "local ",
        SettingScope::Transaction => "tx ",
        SettingScope::Role => "role ",
        SettingScope::Database => "database ",
        SettingScope::System => "system ",
    };
    let name = s.name.as_deref().unwrap_or("*");
    let verdict = if s.is_allowed() { "" } else { " REFUSED" };
    match (&s.action, &s.value) {
        (SettingAction::Show, _) => format!("show:{name}"),
        (SettingAction::Reset | SettingAction::ResetAll, _) => {
            format!("reset:{scope}{name}{verdict}")
        }
        (SettingAction::Set, SettingValue::Literal(v)) => format!("set:{scope}{name}={v}{verdict}"),
        (SettingAction::Set, value) => format!("set:{scope}{name}={value:?}{verdict}"),
    }
}

fn name(n: &NameUse) -> String {
    match n {
        NameUse::Prepare { name, inner } => format!("prepares:{name} {inner:?}"),
        NameUse::Execute { name } => format!("executes:{name}"),
        NameUse::Deallocate { name } => format!("deallocates:{}", name.as_deref().unwrap_or("*")),
        NameUse::Declare { name, hold, inner } => format!("declares:{name} hold={hold} {inner:?}"),
        NameUse::Fetch { name, moves } => format!("fetches:{name} moves={moves}"),
        NameUse::Close { name } => format!("closes:{}", name.as_deref().unwrap_or("*")),
        NameUse::CurrentOf { name } => format!("current_of:{name}"),
    }
}

fn transaction(tx: &Tx) -> String {
    format!("tx:{tx:?}")
}
