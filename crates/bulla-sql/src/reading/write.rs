//! `INSERT`, `UPDATE`, `DELETE`, `MERGE`: what is written, and what is read on the way.

use std::sync::Arc;

use pg_query::NodeEnum;
use pg_query::protobuf::{
    Alias, CmdType, DeleteStmt, InsertStmt, MergeStmt, MergeWhenClause, Node, OnConflictAction,
    OnConflictClause, ReturningClause, UpdateStmt,
};

use super::marks::Region;
use super::query::{item_of, setting_named};
use super::scope::{Item, Scope, Shape, Source};
use super::{FoundRelation, R, Reader, inner, string};
use crate::facts::{Access, Effects};
use crate::settings::{SettingAction, SettingScope, SettingUse, SettingValue};

impl<'a> Reader<'a> {
    /// The entry for the target of a write: reads of it are a use of their own.
    fn target_item(&mut self, found: &FoundRelation<'a>, alias: Option<&Alias>) -> Item<'a> {
        let at = self.use_of(found, Access::Select, true);
        item_of(found, alias, at)
    }

    pub(super) fn insert(&mut self, insert: &InsertStmt) -> R<Shape> {
        self.effect(Effects::WRITE);
        self.with_ctes(insert.with_clause.as_ref(), |r| {
            let Some(var) = insert.relation.as_ref() else {
                r.unknown("an INSERT without a table");
                return Ok(Shape::open());
            };
            let found = r.relation(var);
            r.mark_target(var, &found, false);
            let at = r.use_of(&found, Access::Insert, false);
            if insert.cols.is_empty() {
                r.touch_all(at);
            }
            for node in &insert.cols {
                r.set_column(at, node)?;
            }
            if let Some(query) = insert.select_stmt.as_deref() {
                r.sub_query(query)?;
            }
            let item = r.target_item(&found, var.alias.as_ref());
            let scope = Scope::of(item);
            let (shape, _) = r.with_scope(scope, |r| {
                if let Some(conflict) = insert.on_conflict_clause.as_deref() {
                    r.within(Region::Conflict, |r| r.on_conflict(conflict, &found))?;
                }
                r.returning(insert.returning_clause.as_ref())
            })?;
            Ok(shape)
        })
    }

    /// One column of an `INSERT` list or a `SET`; subscripts are read.
    fn set_column(&mut self, at: usize, node: &Node) -> R {
        match inner(node) {
            Some(NodeEnum::ResTarget(target)) => {
                self.touch(at, target.name.as_str().into());
                for step in &target.indirection {
                    if string(step).is_none() {
                        self.expr(step)?;
                    }
                }
                Ok(())
            }
            _ => {
                self.unknown("a target column of an unknown form");
                Ok(())
            }
        }
    }

    fn on_conflict(&mut self, conflict: &OnConflictClause, found: &FoundRelation<'a>) -> R {
        if let Some(infer) = conflict.infer.as_deref() {
            for node in &infer.index_elems {
                if let Some(NodeEnum::IndexElem(element)) = inner(node) {
                    if !element.name.is_empty() {
                        self.within(Region::Infer, |r| r.qualify_target(&element.name));
                    }
                    self.expr_of(element.expr.as_deref())?;
                }
            }
            self.expr_of(infer.where_clause.as_deref())?;
        }
        if conflict.action != OnConflictAction::OnconflictUpdate as i32 {
            return Ok(());
        }
        let at = self.use_of(found, Access::Update, false);
        let read = self.use_of(found, Access::Select, true);
        let mut excluded = item_of(found, None, read);
        excluded.alias = "excluded".into();
        excluded.unaliased = false;
        // `excluded` holds what was to be inserted, not what the table holds; its columns are
        // written down as read all the same.
        self.push(excluded);
        self.assignments(at, &conflict.target_list)?;
        self.expr_of(conflict.where_clause.as_deref())?;
        if let Some(scope) = self.scopes.last_mut() {
            scope.items.pop();
        }
        Ok(())
    }

    fn qualify_target(&mut self, column: &str) {
        let place = self.scopes.last().and_then(|s| s.items.first()).and_then(|i| match i.source {
            Source::Relation { at, .. } => Some(at),
            Source::Derived(_) => None,
        });
        if let Some(at) = place {
            self.touch(at, column.into());
        }
    }

    fn assignments(&mut self, at: usize, nodes: &[Node]) -> R {
        for node in nodes {
            self.set_column(at, node)?;
            if let Some(NodeEnum::ResTarget(target)) = inner(node) {
                self.expr_of(target.val.as_deref())?;
            }
        }
        Ok(())
    }

    pub(super) fn update(&mut self, update: &UpdateStmt) -> R<Shape> {
        self.effect(Effects::WRITE);
        self.with_ctes(update.with_clause.as_ref(), |r| {
            let Some(var) = update.relation.as_ref() else {
                r.unknown("an UPDATE without a table");
                return Ok(Shape::open());
            };
            let found = r.relation(var);
            r.mark_target(var, &found, !update.from_clause.is_empty());
            let at = r.use_of(&found, Access::Update, false);
            let mut scope = r.list_from(&update.from_clause)?;
            let item = r.target_item(&found, var.alias.as_ref());
            scope.items.insert(0, item);
            let (shape, _) = r.with_scope(scope, |r| {
                r.assignments(at, &update.target_list)?;
                r.expr_of(update.where_clause.as_deref())?;
                r.returning(update.returning_clause.as_ref())
            })?;
            r.update_settings(update, &found);
            Ok(shape)
        })
    }

    pub(super) fn delete(&mut self, delete: &DeleteStmt) -> R<Shape> {
        self.effect(Effects::WRITE);
        self.with_ctes(delete.with_clause.as_ref(), |r| {
            let Some(var) = delete.relation.as_ref() else {
                r.unknown("a DELETE without a table");
                return Ok(Shape::open());
            };
            let found = r.relation(var);
            r.mark_target(var, &found, !delete.using_clause.is_empty());
            let at = r.use_of(&found, Access::Delete, false);
            r.touch_all(at);
            let mut scope = r.list_from(&delete.using_clause)?;
            let item = r.target_item(&found, var.alias.as_ref());
            scope.items.insert(0, item);
            let (shape, _) = r.with_scope(scope, |r| {
                r.expr_of(delete.where_clause.as_deref())?;
                r.returning(delete.returning_clause.as_ref())
            })?;
            Ok(shape)
        })
    }

    pub(super) fn merge(&mut self, merge: &MergeStmt) -> R<Shape> {
        self.effect(Effects::WRITE);
        self.with_ctes(merge.with_clause.as_ref(), |r| {
            let Some(var) = merge.relation.as_ref() else {
                r.unknown("a MERGE without a table");
                return Ok(Shape::open());
            };
            let found = r.relation(var);
            r.mark_target(var, &found, true);
            r.use_of(&found, Access::Merge, false);
            let mut scope = match merge.source_relation.as_deref() {
                Some(source) => r.list_from(std::slice::from_ref(source))?,
                None => Scope::default(),
            };
            let item = r.target_item(&found, var.alias.as_ref());
            scope.items.insert(0, item);
            let (shape, _) = r.with_scope(scope, |r| {
                r.expr_of(merge.join_condition.as_deref())?;
                for node in &merge.merge_when_clauses {
                    match inner(node) {
                        Some(NodeEnum::MergeWhenClause(when)) => r.merge_when(when, &found)?,
                        _ => r.unknown("a WHEN of an unknown form"),
                    }
                }
                r.returning(merge.returning_clause.as_ref())
            })?;
            Ok(shape)
        })
    }

    fn merge_when(&mut self, when: &MergeWhenClause, found: &FoundRelation<'a>) -> R {
        self.expr_of(when.condition.as_deref())?;
        match CmdType::try_from(when.command_type) {
            Ok(CmdType::CmdInsert) => {
                let at = self.use_of(found, Access::Insert, false);
                if when.target_list.is_empty() {
                    self.touch_all(at);
                }
                for node in &when.target_list {
                    self.set_column(at, node)?;
                }
                self.exprs(&when.values)
            }
            Ok(CmdType::CmdUpdate) => {
                let at = self.use_of(found, Access::Update, false);
                self.assignments(at, &when.target_list)
            }
            Ok(CmdType::CmdDelete) => {
                let at = self.use_of(found, Access::Delete, false);
                self.touch_all(at);
                Ok(())
            }
            Ok(CmdType::CmdNothing) => Ok(()),
            _ => {
                self.unknown("a WHEN of an unknown form");
                Ok(())
            }
        }
    }

    fn returning(&mut self, returning: Option<&ReturningClause>) -> R<Shape> {
        let Some(returning) = returning else { return Ok(Shape::default()) };
        // `old` and `new`, or the names that the clause gives them, are the target's rows.
        let mut names = vec![Arc::<str>::from("old"), Arc::from("new")];
        for node in &returning.options {
            if let Some(NodeEnum::ReturningOption(option)) = inner(node) {
                names.push(option.value.as_str().into());
            }
        }
        let target =
            self.scopes.last().and_then(|s| s.items.first()).and_then(|i| {
                if let Source::Relation { at, .. } = i.source { Some(at) } else { None }
            });
        let mut scope = Scope::default();
        if let Some(found) = target.and_then(|at| self.found_at(at).map(|f| (at, f))) {
            for name in names {
                let mut item = item_of(&found.1, None, found.0);
                item.alias = name;
                item.unaliased = false;
                // Reached by its alias only.
                scope.items.push(item);
            }
        }
        // Below the statement's own entries, so that a table named `old` comes first.
        let own = self.scopes.pop().unwrap_or_default();
        self.scopes.push(scope);
        self.scopes.push(own);
        let shape = self.within(Region::Returning, |r| r.targets(&returning.exprs, false));
        let own = self.scopes.pop().unwrap_or_default();
        self.scopes.pop();
        self.scopes.push(own);
        shape
    }

    /// `UPDATE pg_settings SET setting = … WHERE name = …` is `SET` by another road.
    fn update_settings(&mut self, update: &UpdateStmt, found: &FoundRelation<'a>) {
        let is_settings =
            found.relation.is_some_and(|r| r.is_system() && &*r.name == "pg_settings");
        if !is_settings {
            return;
        }
        self.effect(Effects::SETTINGS);
        let name = update.where_clause.as_deref().and_then(setting_named);
        if name.is_none() {
            self.unknown("an UPDATE of `pg_settings` whose rows cannot be told");
        }
        self.out.settings.push(SettingUse::new(
            name.as_deref(),
            SettingAction::Set,
            SettingScope::Session,
            SettingValue::Unknown,
        ));
    }
}
