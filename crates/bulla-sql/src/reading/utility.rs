//! Statements by their family, and those that are neither a definition nor a matter of the session.

use pg_query::NodeEnum;
use pg_query::protobuf::{CopyStmt, DefElem, ExplainStmt, Node, SelectStmt};

use super::expr::{Literal, boolean, literal};
use super::query::Place;
use super::{R, Reader, inner, string, strings};
use crate::facts::{
    Access, CopyDirection, CopyFormat, CopyTarget, CopyUse, CreatedKind, Effects, Kind, NameUse,
};

/// The family of a statement and its name in the manual.
pub(super) type Named = (Kind, &'static str);

pub(super) const SCHEMA: Effects = Effects::SCHEMA;
pub(super) const SERVER: Effects = Effects::SERVER;

impl Reader<'_> {
    /// A statement of the text, or one inside `EXPLAIN`, `PREPARE`, `CREATE SCHEMA`.
    pub(super) fn any_statement(&mut self, node: &Node) -> R<Named> {
        self.deeper(|r| {
            let Some(node) = inner(node) else {
                r.unknown("an empty statement");
                return Ok((Kind::Unknown, ""));
            };
            r.query_statement(node)
        })
    }

    fn query_statement(&mut self, node: &NodeEnum) -> R<Named> {
        Ok(match node {
            NodeEnum::SelectStmt(select) => self.select_statement(select)?,
            NodeEnum::InsertStmt(insert) => {
                self.insert(insert)?;
                (Kind::Insert, "INSERT")
            }
            NodeEnum::UpdateStmt(update) => {
                self.update(update)?;
                (Kind::Update, "UPDATE")
            }
            NodeEnum::DeleteStmt(delete) => {
                self.delete(delete)?;
                (Kind::Delete, "DELETE")
            }
            NodeEnum::MergeStmt(merge) => {
                self.merge(merge)?;
                (Kind::Merge, "MERGE")
            }
            NodeEnum::CopyStmt(copy) => self.copy(copy)?,
            NodeEnum::ExplainStmt(explain) => self.explain(explain)?,
            NodeEnum::TruncateStmt(truncate) => {
                self.truncate(truncate);
                (Kind::Truncate, "TRUNCATE TABLE")
            }
            NodeEnum::LockStmt(lock) => {
                self.effect(Effects::LOCK);
                self.relations(&lock.relations, Access::Lock);
                (Kind::Lock, "LOCK TABLE")
            }
            other => self.session_statement(other)?,
        })
    }

    pub(super) fn maintenance_statement(&mut self, node: &NodeEnum) -> R<Named> {
        Ok(match node {
            NodeEnum::VacuumStmt(vacuum) => {
                self.effect(Effects::WRITE);
                self.scope_relations(&vacuum.rels, "every relation of the database");
                (Kind::Maintenance, if vacuum.is_vacuumcmd { "VACUUM" } else { "ANALYZE" })
            }
            NodeEnum::ReindexStmt(reindex) => {
                self.effect(Effects::WRITE);
                match &reindex.relation {
                    Some(var) => self.one(var, Access::Maintain),
                    None => self.unknown("every index of a schema or database"),
                }
                (Kind::Maintenance, "REINDEX")
            }
            NodeEnum::ClusterStmt(cluster) => {
                self.effect(Effects::WRITE);
                match &cluster.relation {
                    Some(var) => self.one(var, Access::Maintain),
                    None => self.unknown("every clustered table of the database"),
                }
                (Kind::Maintenance, "CLUSTER")
            }
            NodeEnum::RefreshMatViewStmt(refresh) => {
                self.effect(Effects::WRITE);
                if let Some(var) = &refresh.relation {
                    self.one(var, Access::Maintain);
                }
                (Kind::Maintenance, "REFRESH MATERIALIZED VIEW")
            }
            NodeEnum::CheckPointStmt(_) => {
                self.effect(SERVER);
                (Kind::Maintenance, "CHECKPOINT")
            }
            other => self.server_statement(other)?,
        })
    }

    fn select_statement(&mut self, select: &SelectStmt) -> R<Named> {
        // `INTO` stands in the leftmost arm of a UNION.
        let mut leftmost = Some(select);
        let mut into = None;
        while let Some(arm) = leftmost {
            into = into.or(arm.into_clause.as_deref());
            leftmost = arm.larg.as_deref();
        }
        let top = self.depth == 1 && self.views.is_empty() && into.is_none();
        let place = if top { Place::Top } else { Place::Inside };
        self.effect(Effects::READ);
        self.select(select, place)?;
        let Some(into) = into else { return Ok((Kind::Select, "SELECT")) };
        if let Some(var) = &into.rel {
            self.create(var, CreatedKind::Table);
        }
        self.effect(SCHEMA | Effects::WRITE);
        Ok((Kind::Ddl, "SELECT INTO"))
    }

    fn explain(&mut self, explain: &ExplainStmt) -> R<Named> {
        // One truthy value is enough, though the server lets the last one decide.
        let analyze = explain.options.iter().any(|node| match inner(node) {
            Some(NodeEnum::DefElem(option)) => {
                option.defname.eq_ignore_ascii_case("analyze") && truthy(option)
            }
            _ => true,
        });
        let before = self.out.effects;
        let Some(query) = explain.query.as_deref() else {
            self.unknown("an EXPLAIN of nothing");
            return Ok((Kind::Explain { analyze: true }, "EXPLAIN"));
        };
        // A definition or EXECUTE inside does its work only with ANALYZE.
        self.any_statement(query)?;
        if !analyze {
            let runs = Effects::WRITE | SCHEMA | Effects::LOCK | Effects::SEQUENCE;
            let runs = runs | Effects::NOTIFY | Effects::TRANSACTION;
            self.out.effects = before | self.out.effects.without(runs) | Effects::READ;
            self.out.creates.clear();
        }
        // `EXPLAIN DECLARE` opens no cursor.
        self.out.names.retain(|n| !matches!(n, NameUse::Declare { .. }));
        Ok((Kind::Explain { analyze }, "EXPLAIN"))
    }

    fn copy(&mut self, copy: &CopyStmt) -> R<Named> {
        let access = if copy.is_from { Access::CopyFrom } else { Access::CopyTo };
        self.effect(if copy.is_from { Effects::WRITE } else { Effects::READ });
        if let Some(var) = &copy.relation {
            let found = self.relation(var);
            self.mark_copy(copy, var, &found);
            let at = self.use_of(&found, access, false);
            if copy.attlist.is_empty() {
                self.touch_all(at);
            }
            for name in copy.attlist.iter().filter_map(string) {
                self.touch(at, name.into());
            }
            self.defined(var, |r| r.expr_of(copy.where_clause.as_deref()))?;
        }
        if let Some(query) = copy.query.as_deref() {
            self.sub_query(query)?;
        }
        let target = match (copy.is_program, copy.filename.is_empty()) {
            (true, _) => CopyTarget::Program(copy.filename.clone()),
            (false, false) => CopyTarget::File(copy.filename.clone()),
            (false, true) => CopyTarget::Connection,
        };
        if target != CopyTarget::Connection {
            self.effect(SERVER);
        }
        let mut format = CopyFormat::Text;
        let mut options = Vec::new();
        for node in &copy.options {
            let Some(NodeEnum::DefElem(option)) = inner(node) else {
                self.unknown("a COPY option of an unknown form");
                continue;
            };
            let value = option.arg.as_deref().and_then(def_text);
            match (option.defname.to_ascii_lowercase().as_str(), value.as_deref()) {
                ("format", Some("text")) => format = CopyFormat::Text,
                ("format", Some("csv")) => format = CopyFormat::Csv,
                ("format", Some("binary")) => format = CopyFormat::Binary,
                ("format", _) => format = CopyFormat::Unknown,
                ("encoding", Some(name)) if is_utf8(name) => {}
                ("encoding", _) => self.unknown("COPY in another encoding than UTF8"),
                _ => {}
            }
            options.push((option.defname.clone(), value));
        }
        let direction = if copy.is_from { CopyDirection::In } else { CopyDirection::Out };
        let query = copy.query.is_some();
        self.out.copy = Some(CopyUse { direction, target, format, query, options });
        let kind = if copy.is_from { Kind::CopyIn } else { Kind::CopyOut };
        Ok((kind, "COPY"))
    }
}

/// `defGetBoolean`; a value that the server would refuse counts as true.
fn truthy(option: &DefElem) -> bool {
    match option.arg.as_deref().map(inner) {
        None | Some(None) => true,
        Some(Some(NodeEnum::Integer(n))) => n.ival != 0,
        Some(Some(NodeEnum::Boolean(b))) => b.boolval,
        Some(Some(NodeEnum::String(s))) => boolean(&s.sval) != Some(false),
        Some(Some(_)) => true,
    }
}

/// The text of an option's value.
pub(super) fn def_text(node: &Node) -> Option<String> {
    match inner(node)? {
        NodeEnum::String(s) => Some(s.sval.clone()),
        NodeEnum::Integer(n) => Some(n.ival.to_string()),
        NodeEnum::Float(f) => Some(f.fval.clone()),
        NodeEnum::Boolean(b) => Some(b.boolval.to_string()),
        NodeEnum::TypeName(name) => Some(strings(&name.names).join(".")),
        NodeEnum::AConst(_) => match literal(node)? {
            Literal::Text(text) | Literal::Number(text) => Some(text),
            Literal::Bool(b) => Some(b.to_string()),
            Literal::Null => None,
        },
        _ => None,
    }
}

fn is_utf8(name: &str) -> bool {
    matches!(name.to_ascii_lowercase().as_str(), "utf8" | "utf-8" | "unicode")
}
