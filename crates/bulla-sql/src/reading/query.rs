//! `SELECT`, `VALUES`, `WITH`, and what stands in their clauses.

use std::sync::Arc;

use pg_query::NodeEnum;
use pg_query::protobuf::{
    Alias, CommonTableExpr, JoinExpr, JsonTable, LockingClause, Node, RangeFunction,
    RangeTableFunc, RangeTableSample, RangeVar, SelectStmt, SetOperation, WithClause,
};

use super::expr::{Literal, literal};
use super::marks;
use super::names::Arity;
use super::scope::{Cte, Item, Scope, Shape, Source, alias_names};
use super::{FoundRelation, R, Reader, inner, string, strings};
use crate::facts::{Access, Effects};

/// Whether a query is the statement itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It runs exactly once, at once.
    Top,
    Inside,
}

impl<'a> Reader<'a> {
    /// A query in parentheses, behind a CTE, or inside another statement.
    pub(super) fn sub_query(&mut self, node: &Node) -> R<Shape> {
        self.deeper(|r| match inner(node) {
            Some(NodeEnum::SelectStmt(select)) => r.select(select, Place::Inside),
            Some(NodeEnum::InsertStmt(insert)) => r.insert(insert),
            Some(NodeEnum::UpdateStmt(update)) => r.update(update),
            Some(NodeEnum::DeleteStmt(delete)) => r.delete(delete),
            Some(NodeEnum::MergeStmt(merge)) => r.merge(merge),
            _ => {
                r.unknown("a query of an unknown kind");
                Ok(Shape::open())
            }
        })
    }

    pub(super) fn select(&mut self, select: &SelectStmt, place: Place) -> R<Shape> {
        self.deeper(|r| {
            r.with_ctes(select.with_clause.as_ref(), |r| {
                if select.op != SetOperation::SetopNone as i32
                    && select.op != SetOperation::Undefined as i32
                {
                    r.set_operation(select)
                } else if !select.values_lists.is_empty() {
                    r.values(select)
                } else {
                    r.plain_select(select, place)
                }
            })
        })
    }

    fn set_operation(&mut self, select: &SelectStmt) -> R<Shape> {
        let mut shape = Shape::open();
        if let Some(left) = select.larg.as_deref() {
            shape = self.select(left, Place::Inside)?;
        }
        if let Some(right) = select.rarg.as_deref() {
            self.select(right, Place::Inside)?;
        }
        let scope = Scope::of(derived("", shape.clone()));
        self.with_scope(scope, |r| r.tail(select, &shape))?;
        Ok(shape)
    }

    fn values(&mut self, select: &SelectStmt) -> R<Shape> {
        let mut shape = Shape::default();
        for (row, list) in select.values_lists.iter().enumerate() {
            if let Some(NodeEnum::List(list)) = inner(list) {
                self.exprs(&list.items)?;
                if row == 0 {
                    let names = 1..=list.items.len();
                    shape.names = names.map(|n| Some(format!("column{n}").into())).collect();
                }
            }
        }
        let scope = Scope::of(derived("", shape.clone()));
        self.with_scope(scope, |r| r.tail(select, &shape))?;
        Ok(shape)
    }

    fn plain_select(&mut self, select: &SelectStmt, place: Place) -> R<Shape> {
        let row = settings_row(select);
        let before = std::mem::replace(&mut self.settings_row, row);
        let outside = self.enter_level();
        let always = place == Place::Top
            && select.from_clause.is_empty()
            && select.where_clause.is_none()
            && select.having_clause.is_none()
            && select.limit_count.is_none()
            && select.limit_offset.is_none()
            && select.group_clause.is_empty()
            // Beside a set of no rows it might not run at all.
            && select.target_list.iter().all(is_set_config);
        let scope = self.list_from(&select.from_clause)?;
        let (shape, _) = self.with_scope(scope, |r| {
            let shape = r.targets(&select.target_list, always)?;
            r.expr_of(select.where_clause.as_deref())?;
            r.mark_equals(select.where_clause.as_deref());
            r.mark_group(select);
            for node in &select.group_clause {
                r.by_name(node, &shape)?;
            }
            r.expr_of(select.having_clause.as_deref())?;
            r.exprs(&select.window_clause)?;
            for node in &select.distinct_clause {
                r.by_name(node, &shape)?;
            }
            r.tail(select, &shape)?;
            Ok(shape)
        })?;
        self.settings_row = before;
        self.leave_level(outside);
        Ok(shape)
    }

    /// `ORDER BY`, `LIMIT`, `FOR UPDATE`.
    fn tail(&mut self, select: &SelectStmt, shape: &Shape) -> R {
        for node in &select.sort_clause {
            if let Some(NodeEnum::SortBy(sort)) = inner(node) {
                if !sort.use_op.is_empty() {
                    self.operator(&sort.use_op);
                }
                if let Some(node) = sort.node.as_deref() {
                    self.by_name(node, shape)?;
                }
            } else {
                self.expr(node)?;
            }
        }
        self.expr_of(select.limit_offset.as_deref())?;
        self.expr_of(select.limit_count.as_deref())?;
        for node in &select.locking_clause {
            if let Some(NodeEnum::LockingClause(lock)) = inner(node) {
                self.locking(lock);
            }
        }
        Ok(())
    }

    /// `GROUP BY`, `ORDER BY` and `DISTINCT ON` may name an output column.
    fn by_name(&mut self, node: &Node, shape: &Shape) -> R {
        if let Some(NodeEnum::ColumnRef(column)) = inner(node)
            && let [field] = column.fields.as_slice()
            && let Some(name) = string(field)
            && shape.names.iter().flatten().any(|n| &**n == name)
        {
            // An input column of that name, if there is one, is touched too.
            let known = self.out.unknown.len();
            let effects = self.out.effects;
            self.column(column)?;
            self.out.unknown.truncate(known);
            self.out.effects = effects;
            return Ok(());
        }
        self.expr(node)
    }

    fn locking(&mut self, lock: &LockingClause) {
        self.effect(Effects::LOCK);
        let wanted: Vec<&str> = lock
            .locked_rels
            .iter()
            .filter_map(|n| match inner(n) {
                Some(NodeEnum::RangeVar(var)) => Some(var.relname.as_str()),
                _ => None,
            })
            .collect();
        let mut places = Vec::new();
        if let Some(scope) = self.scopes.last() {
            for item in &scope.items {
                if let Source::Relation { at, .. } = item.source
                    && (wanted.is_empty() || wanted.contains(&&*item.alias))
                {
                    places.push(at);
                }
            }
        }
        for at in places {
            if let Some(found) = self.found_at(at) {
                self.use_of(&found, Access::Lock, false);
            }
        }
    }

    pub(super) fn found_at(&self, at: usize) -> Option<FoundRelation<'a>> {
        let (used, note) = (self.out.relations.get(at)?, self.notes.get(at)?);
        Some(FoundRelation {
            schema: used.schema.clone(),
            name: Arc::clone(&used.name),
            resolved: used.resolved.clone(),
            relation: note.relation,
            children: note.children,
        })
    }

    /// Runs `step` with the CTEs of a `WITH` in sight.
    pub(super) fn with_ctes<T>(
        &mut self,
        with: Option<&WithClause>,
        step: impl FnOnce(&mut Self) -> R<T>,
    ) -> R<T> {
        let before = self.ctes.len();
        if let Some(with) = with {
            self.ctes(with)?;
        }
        let result = step(self);
        self.ctes.truncate(before);
        result
    }

    fn ctes(&mut self, with: &WithClause) -> R {
        let before = self.ctes.len();
        let ctes: Vec<&CommonTableExpr> = with
            .ctes
            .iter()
            .filter_map(|n| match inner(n) {
                Some(NodeEnum::CommonTableExpr(cte)) => Some(&**cte),
                _ => None,
            })
            .collect();
        if ctes.len() != with.ctes.len() {
            self.unknown("a WITH of an unknown form");
        }
        if with.recursive {
            // Every name is in sight of every member.
            for cte in &ctes {
                let names: Vec<Arc<str>> = aliases(&cte.aliascolnames);
                let shape = Shape::open().renamed(&names);
                self.ctes.push(Cte { name: cte.ctename.as_str().into(), shape });
            }
        }
        for (at, cte) in ctes.iter().enumerate() {
            let mut shape = match cte.ctequery.as_deref() {
                Some(query) => self.sub_query(query)?,
                None => Shape::open(),
            };
            shape = shape.renamed(&aliases(&cte.aliascolnames));
            if let Some(search) = &cte.search_clause {
                shape.names.push(Some(search.search_seq_column.as_str().into()));
            }
            if let Some(cycle) = cte.cycle_clause.as_deref() {
                self.expr_of(cycle.cycle_mark_value.as_deref())?;
                self.expr_of(cycle.cycle_mark_default.as_deref())?;
                shape.names.push(Some(cycle.cycle_mark_column.as_str().into()));
                shape.names.push(Some(cycle.cycle_path_column.as_str().into()));
            }
            if with.recursive {
                if let Some(own) = self.ctes.get_mut(before + at) {
                    own.shape = shape;
                }
            } else {
                self.ctes.push(Cte { name: cte.ctename.as_str().into(), shape });
            }
        }
        Ok(())
    }

    /// The entries of a `FROM` list.
    pub(super) fn list_from(&mut self, nodes: &[Node]) -> R<Scope<'a>> {
        let scope = Scope { items: Vec::new(), building: true };
        let ((), mut scope) =
            self.with_scope(scope, |r| nodes.iter().try_for_each(|node| r.item_from(node)))?;
        scope.building = false;
        Ok(scope)
    }

    /// Runs `step` where the entries of the innermost `FROM` so far are in sight.
    fn lateral<T>(&mut self, step: impl FnOnce(&mut Self) -> R<T>) -> R<T> {
        let level = self.scopes.len();
        let mut before = false;
        if let Some(scope) = self.scopes.last_mut() {
            before = std::mem::replace(&mut scope.building, false);
        }
        let result = step(self);
        if let Some(scope) = level.checked_sub(1).and_then(|at| self.scopes.get_mut(at)) {
            scope.building = before;
        }
        result
    }

    /// Adds an entry to the innermost scope.
    fn item_from(&mut self, node: &Node) -> R {
        self.deeper(|r| match inner(node) {
            Some(NodeEnum::RangeVar(var)) => {
                r.relation_from(var);
                Ok(())
            }
            Some(NodeEnum::RangeSubselect(sub)) => {
                let shape = match sub.subquery.as_deref() {
                    Some(query) if sub.lateral => r.lateral(|r| r.sub_query(query))?,
                    Some(query) => r.sub_query(query)?,
                    None => Shape::open(),
                };
                r.push(aliased(sub.alias.as_ref(), shape));
                Ok(())
            }
            Some(NodeEnum::JoinExpr(join)) => r.join(join),
            // These see their neighbours without the word.
            Some(NodeEnum::RangeFunction(function)) => r.lateral(|r| r.function_from(function)),
            Some(NodeEnum::RangeTableFunc(table)) => r.lateral(|r| r.xml_table(table)),
            Some(NodeEnum::JsonTable(table)) => r.lateral(|r| r.json_table(table)),
            Some(NodeEnum::RangeTableSample(sample)) => r.sample(sample),
            _ => {
                r.unknown("an entry in FROM of an unknown kind");
                r.push(derived("", Shape::open()));
                Ok(())
            }
        })
    }

    pub(super) fn push(&mut self, item: Item<'a>) {
        if let Some(marks) = &mut self.marks {
            marks.aliases.push(item.alias.clone());
        }
        match self.scopes.last_mut() {
            Some(scope) => scope.items.push(item),
            None => self.unknown("a FROM outside a query"),
        }
    }

    fn relation_from(&mut self, var: &RangeVar) {
        let alias = var.alias.as_ref();
        if var.schemaname.is_empty()
            && let Some(cte) = self.ctes.iter().rev().find(|c| *c.name == *var.relname)
        {
            let shape = cte.shape.clone().renamed(&alias_names(alias));
            let name = alias.map_or(&var.relname, |a| &a.aliasname);
            let item = derived(name, shape);
            self.push(item);
            return;
        }
        let found = self.relation(var);
        self.mark_scan(var, &found);
        let at = self.use_of(&found, Access::Select, false);
        let item = item_of(&found, alias, at);
        self.push(item);
    }

    fn join(&mut self, join: &JoinExpr) -> R {
        let start = self.scopes.last().map_or(0, |s| s.items.len());
        let (left_may, right_may) = marks::may_be_empty(join.jointype);
        if let Some(left) = join.larg.as_deref() {
            self.beside(left_may, |r| r.item_from(left))?;
        }
        if let Some(right) = join.rarg.as_deref() {
            self.beside(right_may, |r| r.item_from(right))?;
        }
        if join.is_natural {
            // The common columns decide; without types and renames all of them might.
            self.operator_named(None, "=");
            self.touch_items(start, None);
            if let Some(marks) = &mut self.marks {
                marks.natural = true;
            }
        }
        for name in join.using_clause.iter().filter_map(string) {
            self.operator_named(None, "=");
            self.touch_items(start, Some(name));
        }
        if let Some(quals) = join.quals.as_deref() {
            self.join_quals(start, quals)?;
        }
        if let Some(alias) = &join.join_using_alias {
            let names = join.using_clause.iter().filter_map(string);
            let names = names.map(|n| Some(Arc::from(n))).collect();
            self.push(derived(&alias.aliasname, Shape { names, open: false }));
        }
        if let Some(alias) = &join.alias {
            self.touch_items(start, None);
            if let Some(scope) = self.scopes.last_mut() {
                for item in scope.items.iter_mut().skip(start) {
                    item.hidden = true;
                }
            }
            let shape = Shape::open().renamed(&alias_names(Some(alias)));
            self.push(derived(&alias.aliasname, shape));
        }
        Ok(())
    }

    /// `ON` sees the two sides of its own join and nothing else of its level.
    fn join_quals(&mut self, start: usize, quals: &Node) -> R {
        let Some(mut scope) = self.scopes.pop() else { return Ok(()) };
        let sides = scope.items.split_off(start.min(scope.items.len()));
        let (result, sides) =
            match self.with_scope(Scope { items: sides, building: false }, |r| r.expr(quals)) {
                Ok(((), sides)) => (Ok(()), sides),
                Err(error) => (Err(error), Scope::default()),
            };
        scope.items.extend(sides.items);
        self.scopes.push(scope);
        result
    }

    /// Touches a column, or all, of the relations in the innermost scope from `start` on.
    fn touch_items(&mut self, start: usize, column: Option<&str>) {
        let mut touched = Vec::new();
        if let Some(scope) = self.scopes.last() {
            for item in scope.items.iter().skip(start) {
                if let Source::Relation { at, .. } = item.source {
                    let real = match column.map(|c| (c, item.has(c))) {
                        Some((_, super::scope::Has::Yes(Some(real)))) => Some(real),
                        Some((_, super::scope::Has::No)) => continue,
                        Some((c, _)) => Some(c.into()),
                        None => None,
                    };
                    touched.push((at, real));
                }
            }
        }
        for (at, real) in touched {
            match real {
                Some(column) => self.touch(at, column),
                None => self.touch_all(at),
            }
        }
    }

    fn function_from(&mut self, function: &RangeFunction) -> R {
        let mut own = None;
        for node in &function.functions {
            let Some(NodeEnum::List(pair)) = inner(node) else {
                self.unknown("a function in FROM of an unknown form");
                continue;
            };
            for (at, part) in pair.items.iter().enumerate() {
                match inner(part) {
                    Some(NodeEnum::List(columns)) if at > 0 => {
                        self.column_definitions(&columns.items)?;
                    }
                    Some(NodeEnum::FuncCall(call)) if at == 0 => {
                        own = strings(&call.funcname).last().map(|n| Arc::<str>::from(*n));
                        self.func_call(call, false)?;
                    }
                    _ => self.expr(part)?,
                }
            }
        }
        self.column_definitions(&function.coldeflist)?;
        let mut shape = Shape::open().renamed(&alias_names(function.alias.as_ref()));
        let definitions = function.coldeflist.iter().filter_map(|n| match inner(n) {
            Some(NodeEnum::ColumnDef(column)) => Some(Some(column.colname.as_str().into())),
            _ => None,
        });
        shape.names.extend(definitions);
        let alias = function.alias.as_ref().map(|a| Arc::<str>::from(&*a.aliasname)).or(own);
        self.push(derived(alias.as_deref().unwrap_or(""), shape));
        Ok(())
    }

    fn column_definitions(&mut self, nodes: &[Node]) -> R {
        for node in nodes {
            if let Some(NodeEnum::ColumnDef(column)) = inner(node) {
                self.cast_of(column.type_name.as_ref());
            }
        }
        Ok(())
    }

    fn xml_table(&mut self, table: &RangeTableFunc) -> R {
        self.expr_of(table.docexpr.as_deref())?;
        self.expr_of(table.rowexpr.as_deref())?;
        self.exprs(&table.namespaces)?;
        let mut shape = Shape::default();
        for node in &table.columns {
            if let Some(NodeEnum::RangeTableFuncCol(column)) = inner(node) {
                self.cast_of(column.type_name.as_ref());
                self.expr_of(column.colexpr.as_deref())?;
                self.expr_of(column.coldefexpr.as_deref())?;
                shape.names.push(Some(column.colname.as_str().into()));
            } else {
                shape.open = true;
            }
        }
        self.push(aliased(table.alias.as_ref(), shape));
        Ok(())
    }

    fn json_table(&mut self, table: &JsonTable) -> R {
        self.json_value(table.context_item.as_deref())?;
        self.exprs(&table.passing)?;
        self.json_behavior(table.on_error.as_deref())?;
        let mut shape = Shape::default();
        self.json_columns(&table.columns, &mut shape)?;
        self.push(aliased(table.alias.as_ref(), shape));
        Ok(())
    }

    fn json_columns(&mut self, nodes: &[Node], shape: &mut Shape) -> R {
        self.deeper(|r| {
            for node in nodes {
                let Some(NodeEnum::JsonTableColumn(column)) = inner(node) else {
                    shape.open = true;
                    continue;
                };
                r.cast_of(column.type_name.as_ref());
                r.json_behavior(column.on_empty.as_deref())?;
                r.json_behavior(column.on_error.as_deref())?;
                if !column.name.is_empty() {
                    shape.names.push(Some(column.name.as_str().into()));
                }
                r.json_columns(&column.columns, shape)?;
            }
            Ok(())
        })
    }

    fn sample(&mut self, sample: &RangeTableSample) -> R {
        if let Some(relation) = sample.relation.as_deref() {
            let before = std::mem::replace(&mut self.sampling, true);
            self.item_from(relation)?;
            self.sampling = before;
        }
        let method = strings(&sample.method);
        let own = matches!(
            method.as_slice(),
            ["bernoulli" | "system"] | ["pg_catalog", "bernoulli" | "system"]
        );
        match method.as_slice() {
            [name] if own => self.call_made(name, 1),
            _ if own => {}
            _ => self.call(&method, Arity::Any),
        }
        self.exprs(&sample.args)?;
        self.expr_of(sample.repeatable.as_deref())
    }

    /// A select list or `RETURNING`.
    pub(super) fn targets(&mut self, nodes: &[Node], always: bool) -> R<Shape> {
        let mut shape = Shape::default();
        for node in nodes {
            let Some(NodeEnum::ResTarget(target)) = inner(node) else {
                self.unknown("an output column of an unknown form");
                shape.open = true;
                continue;
            };
            let Some(value) = target.val.as_deref() else { continue };
            match inner(value) {
                Some(NodeEnum::ColumnRef(column))
                    if column
                        .fields
                        .iter()
                        .any(|f| matches!(inner(f), Some(NodeEnum::AStar(_)))) =>
                {
                    self.column(column)?;
                    self.star_shape(&column.fields, &mut shape);
                    continue;
                }
                Some(NodeEnum::FuncCall(call)) if always => self.func_call(call, true)?,
                _ => self.expr(value)?,
            }
            // `(x).*` has as many columns as its type.
            if let Some(NodeEnum::AIndirection(e)) = inner(value)
                && e.indirection.iter().any(|s| matches!(inner(s), Some(NodeEnum::AStar(_))))
            {
                shape.open = true;
                continue;
            }
            shape.names.push(if target.name.is_empty() {
                output_name(value)
            } else {
                Some(target.name.as_str().into())
            });
        }
        Ok(shape)
    }
}

/// `FROM pg_settings WHERE name = 'x'`: the name.
fn settings_row(select: &SelectStmt) -> Option<String> {
    let [from] = select.from_clause.as_slice() else { return None };
    let Some(NodeEnum::RangeVar(var)) = inner(from) else { return None };
    let own = matches!(&*var.schemaname, "" | "pg_catalog") && var.relname == "pg_settings";
    if !own {
        return None;
    }
    setting_named(select.where_clause.as_deref()?)
}

fn is_set_config(target: &Node) -> bool {
    let Some(NodeEnum::ResTarget(target)) = inner(target) else { return false };
    let Some(NodeEnum::FuncCall(call)) = target.val.as_deref().and_then(inner) else {
        return false;
    };
    matches!(strings(&call.funcname).as_slice(), ["set_config"] | ["pg_catalog", "set_config"])
}

pub(super) fn setting_named(node: &Node) -> Option<String> {
    let Some(NodeEnum::AExpr(e)) = inner(node) else { return None };
    if strings(&e.name) != ["="] {
        return None;
    }
    let Some(NodeEnum::ColumnRef(column)) = e.lexpr.as_deref().and_then(inner) else {
        return None;
    };
    if strings(&column.fields).last() != Some(&"name") {
        return None;
    }
    match literal(e.rexpr.as_deref()?)? {
        Literal::Text(name) => Some(name),
        _ => None,
    }
}

fn aliases(nodes: &[Node]) -> Vec<Arc<str>> {
    nodes.iter().filter_map(string).map(Arc::from).collect()
}

fn derived<'a>(alias: &str, shape: Shape) -> Item<'a> {
    Item { alias: alias.into(), unaliased: false, hidden: false, source: Source::Derived(shape) }
}

fn aliased<'a>(alias: Option<&Alias>, shape: Shape) -> Item<'a> {
    let name = alias.map_or("", |a| &a.aliasname);
    derived(name, shape.renamed(&alias_names(alias)))
}

pub(super) fn item_of<'a>(found: &FoundRelation<'a>, alias: Option<&Alias>, at: usize) -> Item<'a> {
    Item {
        alias: alias.map_or_else(|| Arc::clone(&found.name), |a| a.aliasname.as_str().into()),
        unaliased: alias.is_none(),
        hidden: false,
        source: Source::Relation {
            at,
            relation: found.relation,
            schema: found.schema.clone(),
            name: Arc::clone(&found.name),
            renamed: alias_names(alias),
        },
    }
}

/// The name that the server gives an output column without one. `None`: not certain.
fn output_name(node: &Node) -> Option<Arc<str>> {
    match inner(node)? {
        NodeEnum::ColumnRef(column) => column.fields.last().and_then(string).map(Arc::from),
        NodeEnum::FuncCall(call) => call.funcname.last().and_then(string).map(Arc::from),
        _ => None,
    }
}
