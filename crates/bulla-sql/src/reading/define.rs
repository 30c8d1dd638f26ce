//! Definitions: the relations, columns, constraints and objects that they make, change or drop.

use std::sync::Arc;

use pg_query::NodeEnum;
use pg_query::protobuf::{
    AlterTableCmd, AlterTableStmt, AlterTableType, ColumnDef, Constraint, CreateForeignTableStmt,
    CreateFunctionStmt, CreateStmt, CreateTableAsStmt, DropBehavior, DropStmt, Node, ObjectType,
    PartitionBoundSpec, RangeVar, TruncateStmt,
};

use super::names::known;
use super::objects::is_relation;
use super::scope::{Item, Scope, Source};
use super::tags::alter_tag;
use super::utility::{Named, def_text};
use super::{FoundRelation, R, RELATIONS_MAX, Reader, inner, string, strings};
use crate::catalog::{Fate, Object, Relation, is_system_schema};
use crate::facts::{Access, Created, CreatedKind, Effects, Kind, RelationKind, Resolved};
use crate::functions::builtin;

fn cascades(behavior: i32) -> bool {
    behavior == DropBehavior::DropCascade as i32
}

impl<'a> Reader<'a> {
    pub(super) fn one(&mut self, var: &RangeVar, access: Access) {
        self.one_if(var, access, false);
    }

    pub(super) fn one_if(&mut self, var: &RangeVar, access: Access, missing_ok: bool) {
        let found = if missing_ok { self.lookup(var) } else { self.relation(var) };
        if matches!(found.resolved, Resolved::Unresolved)
            && (self.cx.path.schemas().is_none() || self.cx.path.temp().is_none())
        {
            self.unknown(format!("`{}`: the search path is not known", var.relname));
        }
        let at = self.use_of(&found, access, false);
        self.touch_all(at);
    }

    pub(super) fn relations(&mut self, nodes: &[Node], access: Access) {
        for node in nodes {
            match inner(node) {
                Some(NodeEnum::RangeVar(var)) => self.one(var, access),
                _ => self.unknown("a relation of an unknown form"),
            }
        }
    }

    pub(super) fn scope_relations(&mut self, nodes: &[Node], otherwise: &str) {
        if nodes.is_empty() {
            return self.unknown(otherwise);
        }
        for node in nodes {
            match inner(node) {
                Some(NodeEnum::VacuumRelation(relation)) => match &relation.relation {
                    Some(var) => self.one(var, Access::Maintain),
                    None => self.unknown(otherwise),
                },
                _ => self.unknown("a relation of an unknown form"),
            }
        }
    }

    pub(super) fn cascade(&mut self, behavior: i32) {
        if cascades(behavior) {
            self.unknown(super::CASCADE);
        }
    }

    /// Relations that were named from `before` on, by OID. None: one of them is there, and not in
    /// the snapshot.
    fn named_since(&self, before: usize) -> Option<Vec<u32>> {
        let since = self.out.relations.iter().zip(&self.notes).skip(before);
        let mut oids = Vec::new();
        for (relation, note) in since {
            match (&relation.resolved, note.relation) {
                (Resolved::Known(_), Some(known)) => oids.push(known.oid),
                // Nothing depends on what is not there.
                (Resolved::Unresolved, _) => {}
                _ => return None,
            }
        }
        Some(oids)
    }

    /// What falls, or loses a part, with `starts`: as if the text had named it. `named` it did.
    fn fall(&mut self, starts: &[Object], named: &[&Relation]) {
        match self.cx.catalog.falls(starts) {
            Err(doubt) => self.unknown(doubt),
            Ok(fates) => {
                for (oid, fate) in fates {
                    if named.iter().any(|relation| relation.oid == oid) {
                        continue;
                    }
                    let access = if fate == Fate::Falls { Access::Drop } else { Access::Alter };
                    self.also(oid, access);
                }
            }
        }
    }

    /// A relation that the text means without naming it.
    fn also(&mut self, oid: u32, access: Access) {
        let Some(relation) = self.cx.catalog.relation(oid) else {
            return self.unknown(super::CASCADE);
        };
        let found = FoundRelation {
            schema: Some(Arc::clone(&relation.schema)),
            name: Arc::clone(&relation.name),
            resolved: Resolved::Known(known(relation)),
            relation: Some(relation),
            children: true,
        };
        let at = self.use_of(&found, access, false);
        self.touch_all(at);
    }

    pub(super) fn truncate(&mut self, truncate: &TruncateStmt) {
        self.effect(Effects::WRITE);
        if truncate.restart_seqs {
            self.effect(Effects::SEQUENCE);
        }
        let before = self.out.relations.len();
        self.relations(&truncate.relations, Access::Truncate);
        if !cascades(truncate.behavior) {
            return;
        }
        let Some(starts) = self.named_since(before) else { return self.cascade(truncate.behavior) };
        match self.cx.catalog.empties(&starts) {
            Err(doubt) => self.unknown(doubt),
            Ok(found) => found.into_iter().for_each(|oid| self.also(oid, Access::Truncate)),
        }
    }

    /// What a part of `var` takes with it when it is dropped with `CASCADE`.
    fn part_falls(&mut self, var: &RangeVar, command: &AlterTableCmd) {
        let catalog = self.cx.catalog;
        let found = self.lookup(var);
        let Some(relation) = found.relation else {
            if !matches!(found.resolved, Resolved::Unresolved) {
                self.cascade(command.behavior);
            }
            return;
        };
        let mut all = vec![relation];
        let mut at = 0;
        while let Some(parent) = all.get(at) {
            let children = parent.children.iter().filter_map(|oid| catalog.relation(*oid));
            let new: Vec<_> = children.filter(|c| all.iter().all(|a| a.oid != c.oid)).collect();
            all.extend(new);
            at += 1;
        }
        let starts: Vec<Object> = match AlterTableType::try_from(command.subtype) {
            Ok(AlterTableType::AtDropColumn) => {
                let column = |relation: &&Relation| {
                    let column = relation.column(&command.name)?;
                    catalog.depends().object("pg_class", relation.oid, column.attnum.into())
                };
                all.iter().filter_map(column).collect()
            }
            // Which one a name means is not known, so that it counts for all of them.
            Ok(AlterTableType::AtDropConstraint) => {
                all.iter().flat_map(|relation| catalog.constraints(relation.oid)).collect()
            }
            _ => return self.cascade(command.behavior),
        };
        self.fall(&starts, &all);
    }

    /// The relation that a statement makes, and that it made it.
    pub(super) fn create(&mut self, var: &RangeVar, kind: CreatedKind) {
        let first = self.creation_schema().is_some_and(|s| s == "pg_temp");
        let temporary = var.relpersistence == "t"
            || var.schemaname == "pg_temp"
            || (var.schemaname.is_empty() && first);
        let mut found = self.lookup(var);
        if temporary {
            found.resolved = Resolved::Temp;
            found.relation = None;
        } else if var.schemaname.is_empty() {
            // It goes to the first usable schema, wherever a relation of that name may be.
            let place = self.creation_schema();
            let there =
                place.as_deref().and_then(|s| self.cx.catalog.relation_named(s, &var.relname));
            found.relation = there;
            found.resolved =
                there.map_or(Resolved::Unresolved, |r| Resolved::Known(super::names::known(r)));
            if place.is_none() {
                self.unknown(format!("`{}`: no schema to create it in", var.relname));
            }
        }
        let at = self.use_of(&found, Access::Create, false);
        self.touch_all(at);
        let schema = (!var.schemaname.is_empty()).then(|| var.schemaname.clone());
        self.created(schema, &var.relname, kind, temporary);
    }

    pub(super) fn created(
        &mut self,
        schema: Option<String>,
        name: &str,
        what: CreatedKind,
        temporary: bool,
    ) {
        let schema = match (schema, temporary) {
            (_, true) => Some("pg_temp".to_owned()),
            (Some(schema), false) => Some(schema),
            (None, false) if what == CreatedKind::Schema => None,
            (None, false) => self.creation_schema(),
        };
        let temporary = temporary || schema.as_deref() == Some("pg_temp");
        // A name of the server's own is what it is reviewed to be only while nobody else makes it.
        if schema.as_deref().is_some_and(is_system_schema)
            || (what == CreatedKind::Schema && is_system_schema(name))
        {
            self.effect(Effects::SERVER);
        }
        self.out.creates.push(Created { what, schema, name: name.to_owned(), temporary });
    }

    /// Something in the schema of a relation that exists.
    pub(super) fn created_beside(&mut self, var: &RangeVar, name: &str, what: CreatedKind) {
        let (schema, temporary) = match self.lookup(var).resolved {
            Resolved::Known(known) => (Some(known.schema.to_string()), false),
            Resolved::Made(schema) => (Some(schema.to_string()), false),
            Resolved::Temp => (None, true),
            Resolved::Unresolved => (None, false),
        };
        self.created(schema, name, what, temporary);
    }

    pub(super) fn created_list(&mut self, name: &[Node], what: CreatedKind) {
        match strings(name).as_slice() {
            [name] => self.created(None, name, what, false),
            [schema, name] | [_, schema, name] => {
                let temporary = *schema == "pg_temp";
                self.created(Some((*schema).to_owned()), name, what, temporary);
            }
            _ => self.unknown("a name of an unknown form"),
        }
    }

    pub(super) fn create_table(&mut self, create: &CreateStmt, kind: CreatedKind) -> R {
        let Some(var) = &create.relation else { return Ok(()) };
        self.create(var, kind);
        // A new child adds its rows to its parents.
        self.relations(&create.inh_relations, Access::Alter);
        self.cast_of(create.of_typename.as_ref());
        self.lenient = true;
        for node in &create.table_elts {
            match inner(node) {
                Some(NodeEnum::ColumnDef(column)) => self.column_def(column)?,
                Some(NodeEnum::Constraint(constraint)) => self.constraint(constraint)?,
                Some(NodeEnum::TableLikeClause(like)) => {
                    if let Some(var) = &like.relation {
                        let found = self.relation(var);
                        self.use_of(&found, Access::Select, false);
                    }
                }
                _ => self.unknown("a part of a table of an unknown form"),
            }
        }
        if let Some(bound) = &create.partbound {
            self.partition_bound(bound)?;
        }
        if let Some(by) = &create.partspec {
            for node in &by.part_params {
                if let Some(NodeEnum::PartitionElem(element)) = inner(node) {
                    self.expr_of(element.expr.as_deref())?;
                }
            }
        }
        self.constraints(&create.constraints)
    }

    /// The server works its expressions out at once.
    fn partition_bound(&mut self, bound: &PartitionBoundSpec) -> R {
        self.exprs(&bound.listdatums)?;
        self.exprs(&bound.lowerdatums)?;
        self.exprs(&bound.upperdatums)
    }

    pub(super) fn create_foreign_table(&mut self, create: &CreateForeignTableStmt) -> R<Named> {
        if let Some(base) = &create.base_stmt {
            self.create_table(base, CreatedKind::ForeignTable)?;
        }
        Ok(self.server_schema("CREATE FOREIGN TABLE"))
    }

    pub(super) fn create_table_as(&mut self, create: &CreateTableAsStmt) -> R<Named> {
        let view = create.objtype == ObjectType::ObjectMatview as i32;
        let kind = if view { CreatedKind::MatView } else { CreatedKind::Table };
        if let Some(var) = create.into.as_deref().and_then(|i| i.rel.as_ref()) {
            self.create(var, kind);
        }
        if let Some(query) = create.query.as_deref() {
            self.any_statement(query)?;
        }
        self.effect(Effects::SCHEMA | Effects::WRITE);
        Ok((Kind::Ddl, if view { "CREATE MATERIALIZED VIEW" } else { "CREATE TABLE AS" }))
    }

    pub(super) fn alter_table(&mut self, alter: &AlterTableStmt) -> R<Named> {
        self.effect(Effects::SCHEMA);
        let Some(var) = &alter.relation else { return Ok((Kind::Ddl, "ALTER TABLE")) };
        self.one_if(var, Access::Alter, alter.missing_ok);
        self.lenient = true;
        for node in &alter.cmds {
            let Some(NodeEnum::AlterTableCmd(command)) = inner(node) else {
                self.unknown("an ALTER TABLE of an unknown form");
                continue;
            };
            self.role(command.newowner.as_ref());
            if AlterTableType::try_from(command.subtype).is_err() {
                self.unknown("an ALTER TABLE of an unknown kind");
            }
            if cascades(command.behavior) {
                self.part_falls(var, command);
            }
            let Some(definition) = command.def.as_deref().and_then(inner) else { continue };
            match definition {
                NodeEnum::ColumnDef(column) => {
                    self.defined(var, |r| r.column_def(column))?;
                }
                NodeEnum::Constraint(constraint) => {
                    self.defined(var, |r| r.constraint(constraint))?;
                }
                // ATTACH, DETACH, INHERIT: rows move between relations.
                NodeEnum::PartitionCmd(partition) => {
                    if let Some(var) = &partition.name {
                        self.one(var, Access::Alter);
                    }
                    if let Some(bound) = &partition.bound {
                        self.partition_bound(bound)?;
                    }
                }
                NodeEnum::RangeVar(var) => self.one(var, Access::Alter),
                NodeEnum::List(_)
                | NodeEnum::String(_)
                | NodeEnum::Integer(_)
                | NodeEnum::DefElem(_)
                | NodeEnum::TypeName(_)
                | NodeEnum::ReplicaIdentityStmt(_)
                | NodeEnum::AtalterConstraint(_)
                | NodeEnum::CollateClause(_) => {}
                // A default or a USING: an expression over the table.
                _ => {
                    if let Some(node) = command.def.as_deref() {
                        self.defined(var, |r| r.expr(node))?;
                    }
                }
            }
        }
        Ok((Kind::Ddl, alter_tag(alter.objtype)))
    }

    /// Runs `step` with the columns of a relation in sight; its reads are not counted apart.
    pub(super) fn defined(&mut self, var: &RangeVar, step: impl FnOnce(&mut Self) -> R) -> R {
        let found = self.lookup(var);
        let at = self.use_of(&found, Access::Select, true);
        let item = Item {
            alias: Arc::clone(&found.name),
            unaliased: true,
            hidden: false,
            source: Source::Relation {
                at,
                relation: found.relation,
                schema: found.schema.clone(),
                name: Arc::clone(&found.name),
                renamed: Vec::new(),
            },
        };
        self.with_scope(Scope::of(item), step).map(|_| ())
    }

    pub(super) fn column_def(&mut self, column: &ColumnDef) -> R {
        let serial = column.type_name.as_ref().is_some_and(|name| {
            let name = strings(&name.names);
            matches!(
                name.as_slice(),
                ["serial" | "serial2" | "serial4" | "serial8" | "smallserial" | "bigserial"]
            )
        });
        if !serial {
            self.cast_of(column.type_name.as_ref());
        }
        self.expr_of(column.raw_default.as_deref())?;
        self.constraints(&column.constraints)
    }

    pub(super) fn constraints(&mut self, nodes: &[Node]) -> R {
        for node in nodes {
            if let Some(NodeEnum::Constraint(constraint)) = inner(node) {
                self.constraint(constraint)?;
            }
        }
        Ok(())
    }

    pub(super) fn constraint(&mut self, constraint: &Constraint) -> R {
        self.expr_of(constraint.raw_expr.as_deref())?;
        self.expr_of(constraint.where_clause.as_deref())?;
        for node in &constraint.exclusions {
            let Some(NodeEnum::List(pair)) = inner(node) else { continue };
            for part in &pair.items {
                match inner(part) {
                    Some(NodeEnum::IndexElem(element)) => self.expr_of(element.expr.as_deref())?,
                    Some(NodeEnum::List(operator)) => self.operator(&operator.items),
                    _ => self.unknown("an EXCLUDE of an unknown form"),
                }
            }
        }
        if let Some(var) = &constraint.pktable {
            // A foreign key tells which keys exist.
            let found = self.relation(var);
            let at = self.use_of(&found, Access::Select, false);
            for name in constraint.pk_attrs.iter().filter_map(string) {
                self.touch(at, name.into());
            }
            // Its primary key, whatever that is.
            if constraint.pk_attrs.is_empty() {
                self.touch_all(at);
            }
        }
        Ok(())
    }

    pub(super) fn create_function(&mut self, create: &CreateFunctionStmt) -> R<Named> {
        self.created_list(&create.funcname, CreatedKind::Function);
        if create.replace {
            self.replaces_reviewed(&strings(&create.funcname));
        }
        for node in &create.options {
            let Some(NodeEnum::DefElem(option)) = inner(node) else { continue };
            if option.defname == "language" {
                let language = option.arg.as_deref().and_then(def_text).unwrap_or_default();
                if !matches!(language.as_str(), "sql" | "plpgsql") {
                    self.effect(Effects::SERVER);
                }
            }
        }
        self.effect(Effects::SCHEMA);
        Ok((Kind::Ddl, if create.is_procedure { "CREATE PROCEDURE" } else { "CREATE FUNCTION" }))
    }

    /// Whoever calls a function of an extension means the extension's code.
    fn replaces_reviewed(&mut self, name: &[&str]) {
        let (schema, name) = match name {
            [name] => (None, *name),
            [.., schema, name] => (Some(*schema), *name),
            [] => return,
        };
        let mut same = self.cx.catalog.functions_named(name).iter();
        let schema_is = |of: &str| schema.is_none_or(|schema| schema == of);
        if same.any(|known| known.extension.is_some() && schema_is(&known.schema)) {
            self.effect(Effects::SERVER);
        }
    }

    /// `ALTER` of something that is no relation, by its name: one of the server's own is altered for
    /// all, and with `to` it may become one.
    pub(super) fn altered(&mut self, object: Option<&Node>, to: Option<&str>) {
        let name = match object.and_then(inner) {
            Some(NodeEnum::ObjectWithArgs(object)) => strings(&object.objname),
            Some(NodeEnum::List(list)) => strings(&list.items),
            Some(NodeEnum::TypeName(name)) => strings(&name.names),
            _ => Vec::new(),
        };
        self.altered_name(&name, to);
    }

    pub(super) fn altered_name(&mut self, name: &[&str], to: Option<&str>) {
        let own = match name {
            [] => false,
            [name] => builtin(name).is_some() && self.cx.catalog.functions_named(name).is_empty(),
            [.., schema, _] => is_system_schema(schema),
        };
        if own || to.is_some_and(is_system_schema) {
            self.effect(Effects::SERVER);
        }
    }

    /// Everything in a schema gets another name.
    pub(super) fn renamed_schema(&mut self, schema: &str) {
        if is_system_schema(schema) {
            self.effect(Effects::SERVER);
        }
        self.all_in(schema, Access::Alter);
    }

    /// Every relation of a schema.
    pub(super) fn all_in(&mut self, schema: &str, access: Access) {
        let catalog = self.cx.catalog;
        if catalog.schema(schema).is_none() {
            self.unknown(format!("no schema `{schema}` in the catalogue snapshot"));
        }
        let inside = catalog.relations().iter().filter(|relation| {
            let index = matches!(relation.kind, RelationKind::Index | RelationKind::Toast);
            &*relation.schema == schema && !index
        });
        let mut names: Vec<Arc<str>> = inside.map(|relation| Arc::clone(&relation.name)).collect();
        if names.len() >= RELATIONS_MAX {
            return self.unknown("more relations than can be listed");
        }
        names.sort();
        for name in names {
            self.named(&[schema, &name], access, false);
        }
    }

    pub(super) fn drop_objects(&mut self, drop: &DropStmt) {
        if !is_relation(drop.remove_type) {
            if cascades(drop.behavior) {
                self.object_falls(drop);
            }
            let on_relation = matches!(
                ObjectType::try_from(drop.remove_type),
                Ok(ObjectType::ObjectTrigger | ObjectType::ObjectRule | ObjectType::ObjectPolicy)
            );
            if on_relation {
                for node in &drop.objects {
                    if let Some(NodeEnum::List(list)) = inner(node)
                        && let Some((_, table)) = strings(&list.items).split_last()
                    {
                        self.named(table, Access::Alter, drop.missing_ok);
                    }
                }
            }
            return;
        }
        let before = self.out.relations.len();
        for node in &drop.objects {
            match inner(node) {
                Some(NodeEnum::List(list)) => {
                    self.named(&strings(&list.items), Access::Drop, drop.missing_ok);
                }
                _ => self.unknown("a relation of an unknown form"),
            }
        }
        if cascades(drop.behavior) {
            let Some(oids) = self.named_since(before) else { return self.cascade(drop.behavior) };
            let depends = self.cx.catalog.depends();
            let starts = oids.into_iter().filter_map(|oid| depends.object("pg_class", oid, 0));
            self.fall(&starts.collect::<Vec<_>>(), &[]);
        }
    }

    /// Of what is no relation, what a schema takes with it is followed.
    fn object_falls(&mut self, drop: &DropStmt) {
        if ObjectType::try_from(drop.remove_type) != Ok(ObjectType::ObjectSchema) {
            return self.cascade(drop.behavior);
        }
        let catalog = self.cx.catalog;
        let mut starts = Vec::new();
        for node in &drop.objects {
            match string(node).map(|name| (is_system_schema(name), catalog.schema(name))) {
                Some((false, Some(schema))) => {
                    starts.extend(catalog.depends().object("pg_namespace", schema.oid, 0));
                }
                Some((false, None)) if drop.missing_ok => {}
                _ => return self.cascade(drop.behavior),
            }
        }
        self.fall(&starts, &[]);
    }

    /// A relation by a dotted name.
    pub(super) fn named(&mut self, name: &[&str], access: Access, missing_ok: bool) {
        let (database, schema, relation) = match name {
            [relation] => ("", "", *relation),
            [schema, relation] => ("", *schema, *relation),
            [database, schema, relation] => (*database, *schema, *relation),
            _ => return self.unknown("a relation of an unknown form"),
        };
        let var = RangeVar {
            catalogname: database.to_owned(),
            schemaname: schema.to_owned(),
            relname: relation.to_owned(),
            inh: true,
            ..RangeVar::default()
        };
        self.one_if(&var, access, missing_ok);
    }

    pub(super) fn commented(&mut self, kind: i32, object: Option<&Node>) {
        let Some(NodeEnum::List(list)) = object.and_then(inner) else { return };
        let name = strings(&list.items);
        match ObjectType::try_from(kind) {
            Ok(
                ObjectType::ObjectColumn
                | ObjectType::ObjectTabconstraint
                | ObjectType::ObjectTrigger
                | ObjectType::ObjectRule
                | ObjectType::ObjectPolicy,
            ) => {
                if let Some((_, table)) = name.split_last() {
                    self.named(table, Access::Alter, false);
                }
            }
            _ if is_relation(kind) => self.named(&name, Access::Alter, false),
            _ => {}
        }
    }
}
