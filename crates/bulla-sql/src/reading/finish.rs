//! What a statement reaches beyond its own text: views, children, parents, operators, casts,
//! row security. Done once, when the columns that each relation gives are known.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::names::{Depth, is_view, known};
use super::{Context, Note, R, RELATIONS_MAX, Reader, VIEWS_MAX, inner, statement};
use crate::catalog::{Relation, Temporary, Type};
use crate::facts::{Access, Columns, Effects, RelationKind, RelationUse, Resolved, Statement, Via};
use crate::functions::{made, reviewed_extension};
use crate::parse;
use crate::view::Body;

/// `pg_type.oid` of `json`.
const JSON_OID: u32 = 114;

/// The server's own relations that hold its files' content, its secrets, or rows and statements of
/// others: large objects, samples of every table's values, what other sessions run.
const SERVER_RELATIONS: [&str; 15] = [
    "pg_authid",
    "pg_config",
    "pg_file_settings",
    "pg_hba_file_rules",
    "pg_ident_file_mappings",
    "pg_largeobject",
    "pg_shadow",
    "pg_statistic",
    "pg_statistic_ext_data",
    "pg_stats",
    "pg_stats_ext",
    "pg_stats_ext_exprs",
    "pg_user_mapping",
    "user_mapping_options",
    "user_mappings",
];

impl<'a> Reader<'a> {
    pub(super) fn finish(mut self) -> R<Statement> {
        self.drop_implied();
        for at in 0..self.out.relations.len() {
            self.reach(at)?;
        }
        self.operators_and_casts();
        if self.out.relations.iter().any(|r| r.access.reads()) {
            self.effect(Effects::READ);
        }
        self.out.functions = std::mem::take(&mut self.functions).into_iter().collect();
        Ok(self.out)
    }

    /// Reads of a write's target that never happened.
    fn drop_implied(&mut self) {
        let mut notes = std::mem::take(&mut self.notes).into_iter();
        let mut kept = Vec::new();
        self.out.relations.retain(|relation| {
            let note = notes.next();
            let keep = !note.is_some_and(|n| n.implied && relation.columns.is_empty());
            if let (true, Some(note)) = (keep, note) {
                kept.push(note);
            }
            keep
        });
        self.notes = kept;
        self.index.clear();
    }

    fn reach(&mut self, at: usize) -> R {
        self.through_temporary(at)?;
        let Some(Note { relation: Some(relation), children, .. }) = self.notes.get(at).copied()
        else {
            return Ok(());
        };
        let Some(RelationUse { access, columns, .. }) = self.out.relations.get(at) else {
            return Ok(());
        };
        let (access, columns) = (*access, columns.clone());
        if access == Access::Grant || (access == Access::Create && !relation.is_system()) {
            return Ok(());
        }
        let rows = moves_rows(access);
        if rows {
            self.column_types(relation, &columns);
            self.kinds(relation, access, &columns);
        } else if relation.is_system() {
            // What everybody's statements mean rests on it.
            self.effect(Effects::SERVER);
        }
        if is_view(relation.kind) && rows {
            self.through_view(relation, access)?;
        }
        // Inside its own policies they are not read again.
        if rows && relation.row_security && !self.views.contains(&relation.oid) {
            self.row_security(relation)?;
        }
        if children {
            self.children(relation, access, &columns);
        }
        self.parents(relation, access, &columns);
        Ok(())
    }

    /// User-made types of the columns that are touched.
    fn column_types(&mut self, relation: &Relation, columns: &Columns) {
        let catalog = self.cx.catalog;
        let touched = |name: &str| match columns {
            Columns::Known(set) => set.contains(name),
            Columns::All | Columns::Unknown => true,
        };
        let live = relation.columns.iter().filter(|c| !c.dropped && touched(&c.name));
        let types: BTreeSet<u32> = live.map(|c| c.type_oid).collect();
        for found in types.into_iter().filter_map(|oid| catalog.type_of(oid)) {
            self.value_of(found, Depth::Value, 0);
        }
    }

    fn kinds(&mut self, relation: &Relation, access: Access, columns: &Columns) {
        // The long values of some table, which the name does not tell.
        if matches!(relation.kind, RelationKind::Foreign | RelationKind::Toast) {
            self.effect(Effects::SERVER);
        }
        if relation.has_rules && !access.reads() && access != Access::Lock {
            self.effect(Effects::OPAQUE);
        }
        if relation.is_system() {
            if SERVER_RELATIONS.contains(&&*relation.name) || is_secret(relation, columns) {
                self.effect(Effects::SERVER);
            }
            let writes = !access.reads() && !matches!(access, Access::Lock | Access::Maintain);
            // `pg_settings` is no catalogue: to write it is to set, which is told apart.
            if writes && &*relation.schema == "pg_catalog" && &*relation.name != "pg_settings" {
                self.effect(Effects::SCHEMA | Effects::SERVER);
            }
        }
    }

    /// Adds a relation that the text does not name, or more columns of it.
    fn add(&mut self, relation: RelationUse) {
        if let (Resolved::Known(known), Some(via)) = (&relation.resolved, &relation.via) {
            let key = (relation.access, known.oid, via.clone());
            let before = self.reached.get(&key).and_then(|at| self.out.relations.get_mut(*at));
            if let Some(before) = before {
                before.columns.join(relation.columns);
                return;
            }
            self.reached.insert(key, self.out.relations.len());
        }
        if self.out.relations.len() >= RELATIONS_MAX {
            return self.unknown("more relations than can be listed");
        }
        self.out.relations.push(relation);
    }

    /// A temporary view is the session's own words: what it shows counts as if they stood here.
    fn through_temporary(&mut self, at: usize) -> R {
        let Some(RelationUse { access, resolved: Resolved::Temp, name, .. }) =
            self.out.relations.get(at)
        else {
            return Ok(());
        };
        let (access, name) = (*access, Arc::clone(name));
        let temporary = self.cx.path.temp().and_then(|temp| temp.get(&*name));
        let Some(Temporary::View(shows)) = temporary else { return Ok(()) };
        if !moves_rows(access) {
            return Ok(());
        }
        for oid in shows.clone() {
            let Some(base) = self.cx.catalog.relation(oid) else {
                self.unknown(format!("what the temporary view `{name}` shows is not known"));
                continue;
            };
            let mut uses = vec![(Access::Select, Columns::All)];
            if !access.reads() {
                uses.push((access, Columns::Unknown));
            }
            for (access, columns) in uses {
                let mut used = reached(base, access, &columns, Via::View(base.qualified()));
                used.via = None;
                self.add(used);
                self.kinds(base, access, &columns);
                if is_view(base.kind) {
                    self.through_view(base, access)?;
                }
            }
        }
        Ok(())
    }

    fn through_view(&mut self, view: &'a Relation, access: Access) -> R {
        if view.is_system() {
            return Ok(());
        }
        let body = self.body(view)?;
        let via = Via::View(view.qualified());
        for base in &body.relations {
            let mut reached = base.clone();
            reached.via = Some(via.clone());
            self.add(reached);
            // A write through a view lands in what the view reads.
            let lands = !matches!(access, Access::Select | Access::CopyTo | Access::Maintain);
            if lands && base.access == Access::Select {
                let mut written = base.clone();
                written.access = access;
                written.columns = Columns::Unknown;
                written.via = Some(via.clone());
                self.add(written);
            }
        }
        let runs = view.kind == RelationKind::View || access == Access::Maintain;
        if runs {
            self.effect(body.effects.without(Effects::UNKNOWN));
            for function in &body.functions {
                self.function(function.clone(), Effects::NONE);
            }
        }
        for reason in &body.unknown {
            self.unknown(reason.clone());
        }
        Ok(())
    }

    /// The facts of a view's definition, read once per snapshot.
    fn body(&mut self, view: &'a Relation) -> R<Arc<Body>> {
        if let Some(body) = view.body.get() {
            return Ok(Arc::clone(body));
        }
        let name = view.qualified();
        let Some(definition) = &view.definition else {
            return Ok(Arc::new(doubt(format!("the definition of `{name}` is not known"))));
        };
        if self.views.contains(&view.oid) || self.views.len() >= VIEWS_MAX {
            return Ok(Arc::new(doubt(format!("`{name}` is too deep"))));
        }
        let mut views = self.views.clone();
        views.push(view.oid);
        let body = match self.read_text(definition, &views)? {
            Some(facts) => Body {
                effects: facts.effects,
                relations: facts.relations,
                functions: facts.functions,
                unknown: facts.unknown.iter().map(|u| format!("in `{name}`: {u}")).collect(),
            },
            None => doubt(format!("the definition of `{name}` cannot be read")),
        };
        let body = Arc::new(body);
        // Another thread may have been faster; the readings are equal.
        let _ = view.body.set(Arc::clone(&body));
        Ok(body)
    }

    /// Reads a text that the server wrote. `None`: not one statement.
    fn read_text(&self, text: &str, views: &[u32]) -> R<Option<Statement>> {
        let Ok(tree) = parse::parse(text, self.cx.limits) else { return Ok(None) };
        let [raw] = tree.parsed.stmts.as_slice() else { return Ok(None) };
        let Some(node) = raw.stmt.as_deref() else { return Ok(None) };
        if !matches!(inner(node), Some(pg_query::NodeEnum::SelectStmt(_))) {
            return Ok(None);
        }
        let path = self.cx.catalog.definitions_path();
        let cx = Context { tokens: &tree.tokens, path, ..self.cx };
        statement(cx, node, 0..text.len(), views).map(Some)
    }

    /// The policies of a table run when its rows are read or written.
    fn row_security(&mut self, relation: &'a Relation) -> R {
        let body = match relation.guard.get() {
            Some(body) => Arc::clone(body),
            None => {
                let body = Arc::new(self.policies(relation)?);
                let _ = relation.guard.set(Arc::clone(&body));
                body
            }
        };
        self.effect(body.effects.without(Effects::UNKNOWN | Effects::READ));
        for function in &body.functions {
            self.function(function.clone(), Effects::NONE);
        }
        for reason in &body.unknown {
            self.unknown(reason.clone());
        }
        Ok(())
    }

    fn policies(&mut self, relation: &Relation) -> R<Body> {
        let name = relation.qualified();
        if self.views.len() >= VIEWS_MAX {
            return Ok(doubt(format!("the row security of `{name}` is too deep")));
        }
        let mut views = self.views.clone();
        views.push(relation.oid);
        let mut all = Body::default();
        for policy in &relation.policies {
            let text = format!(
                "SELECT FROM {}.{} WHERE {policy}",
                quoted(&relation.schema),
                quoted(&relation.name)
            );
            match self.read_text(&text, &views)? {
                Some(facts) => {
                    all.effects |= facts.effects;
                    all.functions.extend(facts.functions);
                    let reasons =
                        facts.unknown.iter().map(|u| format!("a policy of `{name}`: {u}"));
                    all.unknown.extend(reasons);
                }
                None => {
                    all.effects |= Effects::UNKNOWN;
                    all.unknown.push(format!("a policy of `{name}` cannot be read"));
                }
            }
        }
        Ok(all)
    }

    /// Rows of a parent are the rows of its children.
    fn children(&mut self, parent: &'a Relation, access: Access, columns: &Columns) {
        let via = Via::Parent(parent.qualified());
        let mut seen = BTreeSet::from([parent.oid]);
        let mut next = parent.children.clone();
        while let Some(oid) = next.pop() {
            if !seen.insert(oid) {
                continue;
            }
            if seen.len() > RELATIONS_MAX {
                return self.unknown("more relations than can be listed");
            }
            let Some(child) = self.cx.catalog.relation(oid) else {
                self.unknown(format!("a child of `{}` is not in the snapshot", parent.name));
                continue;
            };
            next.extend(&child.children);
            if child.kind == RelationKind::Index {
                continue;
            }
            if child.kind == RelationKind::Foreign {
                self.effect(Effects::SERVER);
            }
            self.add(reached(child, access, columns, via.clone()));
        }
    }

    /// Rows of a child are rows of its parents.
    fn parents(&mut self, child: &'a Relation, access: Access, columns: &Columns) {
        let via = Via::Child(child.qualified());
        let mut seen = BTreeSet::from([child.oid]);
        let mut next = child.parents.clone();
        while let Some(oid) = next.pop() {
            if !seen.insert(oid) || seen.len() > RELATIONS_MAX {
                continue;
            }
            let Some(parent) = self.cx.catalog.relation(oid) else {
                self.unknown(format!("a parent of `{}` is not in the snapshot", child.name));
                continue;
            };
            next.extend(&parent.parents);
            if parent.kind != RelationKind::Index {
                let mut parent = (parent, reached(parent, access, columns, via.clone()));
                if let Columns::Known(set) = &mut parent.1.columns {
                    // What only the child has is no column of the parent.
                    set.retain(|c| parent.0.column(c).is_some());
                }
                self.add(parent.1);
            }
        }
    }

    /// Operators and casts that need a user-made type, now that the types are known.
    fn operators_and_casts(&mut self) {
        let catalog = self.cx.catalog;
        for (name, at) in std::mem::take(&mut self.operators) {
            let Some(operator) = catalog.operators_named(&name).get(at) else { continue };
            let mut operands = [operator.left, operator.right].into_iter();
            if operands.any(|t| self.types.contains(&t)) {
                self.operator_runs(operator);
            }
        }
        for cast in catalog.casts().iter().filter(|c| c.function != 0) {
            let made_type = |oid| catalog.type_of(oid).is_some_and(Type::is_user);
            let source_occurs = if made_type(cast.source) {
                self.types.contains(&cast.source)
            } else {
                // A value of a built-in type may occur anywhere.
                true
            };
            let target_asked = if made_type(cast.target) {
                self.types.contains(&cast.target)
            } else {
                // `to_json` and its kin ask for the cast to `json` without a word.
                cast.target == JSON_OID || self.cast_targets.contains(&cast.target)
            };
            if !source_occurs || !(cast.implicit || target_asked) {
                continue;
            }
            // Reading and writing the type is reviewed with its extension; so are its casts.
            let reviewed = match catalog.function(cast.function) {
                Some(function) => made(function).0.keeps_purity(),
                None => [cast.source, cast.target].iter().any(|oid| {
                    catalog
                        .type_of(*oid)
                        .and_then(|t| t.extension.as_deref())
                        .is_some_and(reviewed_extension)
                }),
            };
            if !reviewed {
                self.effect(Effects::OPAQUE);
            }
        }
    }
}

/// How this server logs in at others, and what other sessions say.
fn is_secret(relation: &Relation, columns: &Columns) -> bool {
    let secret = match &*relation.name {
        "pg_subscription" => "subconninfo",
        "pg_user_mappings" => "umoptions",
        "pg_stat_activity" => "query",
        _ => return false,
    };
    match columns {
        Columns::Known(names) => names.contains(secret),
        Columns::All | Columns::Unknown => true,
    }
}

fn moves_rows(access: Access) -> bool {
    match access {
        Access::Select
        | Access::Insert
        | Access::Update
        | Access::Delete
        | Access::Merge
        | Access::Truncate
        | Access::Lock
        | Access::CopyFrom
        | Access::CopyTo
        | Access::Maintain => true,
        Access::Create | Access::Alter | Access::Drop | Access::Grant => false,
    }
}

fn reached(relation: &Relation, access: Access, columns: &Columns, via: Via) -> RelationUse {
    RelationUse {
        schema: Some(Arc::clone(&relation.schema)),
        name: Arc::clone(&relation.name),
        resolved: Resolved::Known(known(relation)),
        access,
        columns: columns.clone(),
        via: Some(via),
    }
}

fn doubt(reason: String) -> Body {
    Body { effects: Effects::UNKNOWN, unknown: vec![reason], ..Body::default() }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
