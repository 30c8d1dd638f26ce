//! Definitions, by the kind of what they make or change.

use pg_query::NodeEnum;
use pg_query::protobuf::{Node, ObjectType};

use super::names::Arity;
use super::tags::{change_tag, define_tag, drop_tag};
use super::utility::{Named, SCHEMA, SERVER};
use super::{R, Reader, inner, strings};
use crate::facts::{Access, CreatedKind, Effects, Kind};

impl Reader<'_> {
    /// Definitions of relations.
    pub(super) fn table_statement(&mut self, node: &NodeEnum) -> R<Named> {
        let tag = match node {
            NodeEnum::CreateStmt(create) => {
                self.create_table(create, CreatedKind::Table)?;
                "CREATE TABLE"
            }
            NodeEnum::CreateForeignTableStmt(create) => return self.create_foreign_table(create),
            NodeEnum::CreateTableAsStmt(create) => return self.create_table_as(create),
            NodeEnum::AlterTableStmt(alter) => return self.alter_table(alter),
            NodeEnum::ViewStmt(view) => {
                if let Some(var) = &view.view {
                    self.create(var, CreatedKind::View);
                }
                if let Some(query) = view.query.as_deref() {
                    self.sub_query(query)?;
                }
                "CREATE VIEW"
            }
            NodeEnum::IndexStmt(index) => {
                if let Some(var) = &index.relation {
                    self.one(var, Access::Alter);
                    if !index.idxname.is_empty() {
                        self.created_beside(var, &index.idxname, CreatedKind::Index);
                    }
                    self.defined(var, |r| {
                        for node in index.index_params.iter() {
                            if let Some(NodeEnum::IndexElem(element)) = inner(node) {
                                r.expr_of(element.expr.as_deref())?;
                            }
                        }
                        r.expr_of(index.where_clause.as_deref())
                    })?;
                }
                "CREATE INDEX"
            }
            NodeEnum::CreateSeqStmt(create) => {
                if let Some(var) = &create.sequence {
                    self.create(var, CreatedKind::Sequence);
                }
                "CREATE SEQUENCE"
            }
            NodeEnum::AlterSeqStmt(alter) => {
                self.effect(Effects::SEQUENCE);
                if let Some(var) = &alter.sequence {
                    self.one_if(var, Access::Alter, alter.missing_ok);
                }
                "ALTER SEQUENCE"
            }
            NodeEnum::CompositeTypeStmt(create) => {
                if let Some(var) = &create.typevar {
                    self.create(var, CreatedKind::Type);
                }
                for node in &create.coldeflist {
                    if let Some(NodeEnum::ColumnDef(column)) = inner(node) {
                        self.column_def(column)?;
                    }
                }
                "CREATE TYPE"
            }
            NodeEnum::CreateTrigStmt(create) => {
                if let Some(var) = &create.relation {
                    self.one(var, Access::Alter);
                }
                if let Some(var) = &create.constrrel {
                    self.one(var, Access::Alter);
                }
                self.lenient = true;
                if let Some(var) = &create.relation {
                    self.defined(var, |r| r.expr_of(create.when_clause.as_deref()))?;
                }
                self.call(&strings(&create.funcname), Arity::Any);
                "CREATE TRIGGER"
            }
            NodeEnum::RuleStmt(rule) => {
                if let Some(var) = &rule.relation {
                    self.one(var, Access::Alter);
                }
                // `OLD` and `NEW` are not in sight here; relations and functions are.
                self.lenient = true;
                self.expr_of(rule.where_clause.as_deref())?;
                // They run later, inside of statements that do not show them.
                if !rule.actions.is_empty() {
                    self.effect(Effects::OPAQUE);
                    for action in &rule.actions {
                        self.rule_action(action)?;
                    }
                }
                "CREATE RULE"
            }
            NodeEnum::CreatePolicyStmt(policy) => {
                if let Some(var) = &policy.table {
                    self.one(var, Access::Alter);
                    self.defined(var, |r| {
                        r.expr_of(policy.qual.as_deref())?;
                        r.expr_of(policy.with_check.as_deref())
                    })?;
                }
                self.roles(&policy.roles);
                "CREATE POLICY"
            }
            NodeEnum::AlterPolicyStmt(policy) => {
                if let Some(var) = &policy.table {
                    self.one(var, Access::Alter);
                    self.defined(var, |r| {
                        r.expr_of(policy.qual.as_deref())?;
                        r.expr_of(policy.with_check.as_deref())
                    })?;
                }
                self.roles(&policy.roles);
                "ALTER POLICY"
            }
            NodeEnum::CreateStatsStmt(stats) => {
                self.relations(&stats.relations, Access::Alter);
                if let [one] = stats.relations.as_slice()
                    && let Some(NodeEnum::RangeVar(var)) = inner(one)
                {
                    self.defined(var, |r| {
                        for node in &stats.exprs {
                            if let Some(NodeEnum::StatsElem(element)) = inner(node) {
                                r.expr_of(element.expr.as_deref())?;
                            }
                        }
                        Ok(())
                    })?;
                }
                "CREATE STATISTICS"
            }
            other => return self.object_statement(other),
        };
        self.effect(SCHEMA);
        Ok((Kind::Ddl, tag))
    }

    /// Definitions of everything else.
    fn object_statement(&mut self, node: &NodeEnum) -> R<Named> {
        let tag = match node {
            NodeEnum::DropStmt(drop) => {
                self.drop_objects(drop);
                let kind = match ObjectType::try_from(drop.remove_type) {
                    Ok(ObjectType::ObjectForeignServer | ObjectType::ObjectFdw) => Kind::Server,
                    Ok(ObjectType::ObjectExtension | ObjectType::ObjectLanguage) => Kind::Server,
                    Ok(ObjectType::ObjectPublication) => Kind::Replication,
                    _ => Kind::Ddl,
                };
                if kind == Kind::Server {
                    self.effect(SERVER);
                }
                self.effect(SCHEMA);
                return Ok((kind, drop_tag(drop.remove_type)));
            }
            NodeEnum::RenameStmt(rename) => {
                if let Some(var) = &rename.relation {
                    self.one_if(var, Access::Alter, rename.missing_ok);
                    if is_relation(rename.rename_type) {
                        self.created_beside(var, &rename.newname, CreatedKind::Other);
                    }
                }
                if is_role(rename.rename_type) {
                    self.out.roles.extend([rename.subname.clone(), rename.newname.clone()]);
                    self.effect(SCHEMA);
                    return Ok((Kind::Role, "ALTER ROLE"));
                }
                if ObjectType::try_from(rename.rename_type) == Ok(ObjectType::ObjectSchema) {
                    self.renamed_schema(&rename.subname);
                    self.created(None, &rename.newname, CreatedKind::Schema, false);
                }
                self.altered(rename.object.as_deref(), None);
                change_tag(rename.rename_type, "ALTER … RENAME")
            }
            NodeEnum::AlterObjectSchemaStmt(alter) => {
                if let Some(var) = &alter.relation {
                    self.one_if(var, Access::Alter, alter.missing_ok);
                    let schema = Some(alter.newschema.clone());
                    self.created(schema, &var.relname, CreatedKind::Other, false);
                }
                self.altered(alter.object.as_deref(), Some(&alter.newschema));
                change_tag(alter.object_type, "ALTER … SET SCHEMA")
            }
            NodeEnum::AlterObjectDependsStmt(alter) => {
                if let Some(var) = &alter.relation {
                    self.one(var, Access::Alter);
                }
                "ALTER … DEPENDS ON EXTENSION"
            }
            NodeEnum::AlterOwnerStmt(alter) => {
                if let Some(var) = &alter.relation {
                    self.one(var, Access::Alter);
                }
                self.role(alter.newowner.as_ref());
                self.altered(alter.object.as_deref(), None);
                change_tag(alter.object_type, "ALTER … OWNER")
            }
            NodeEnum::CommentStmt(comment) => {
                self.commented(comment.objtype, comment.object.as_deref());
                "COMMENT"
            }
            NodeEnum::SecLabelStmt(label) => {
                self.commented(label.objtype, label.object.as_deref());
                "SECURITY LABEL"
            }
            NodeEnum::CreateFunctionStmt(create) => return self.create_function(create),
            NodeEnum::CreateSchemaStmt(create) => {
                self.role(create.authrole.as_ref());
                let name = match (&create.schemaname, &create.authrole) {
                    (name, Some(role)) if name.is_empty() => &role.rolename,
                    (name, _) => name,
                };
                self.created(None, name, CreatedKind::Schema, false);
                self.lenient = true;
                for element in &create.schema_elts {
                    // Inside, the new schema stands before the path.
                    self.unknown("names inside a CREATE SCHEMA");
                    self.any_statement(element)?;
                }
                "CREATE SCHEMA"
            }
            NodeEnum::CreateDomainStmt(create) => {
                self.cast_of(create.type_name.as_ref());
                self.created_list(&create.domainname, CreatedKind::Type);
                self.lenient = true;
                self.constraints(&create.constraints)?;
                "CREATE DOMAIN"
            }
            NodeEnum::AlterDomainStmt(alter) => {
                self.lenient = true;
                if let Some(NodeEnum::Constraint(constraint)) = alter.def.as_deref().and_then(inner)
                {
                    self.constraint(constraint)?;
                } else {
                    self.expr_of(alter.def.as_deref())?;
                }
                "ALTER DOMAIN"
            }
            NodeEnum::CreateEnumStmt(create) => {
                self.created_list(&create.type_name, CreatedKind::Type);
                "CREATE TYPE"
            }
            NodeEnum::CreateRangeStmt(create) => {
                self.created_list(&create.type_name, CreatedKind::Type);
                "CREATE TYPE"
            }
            NodeEnum::DefineStmt(define) => {
                let kind = match ObjectType::try_from(define.kind) {
                    Ok(ObjectType::ObjectType) => CreatedKind::Type,
                    Ok(ObjectType::ObjectAggregate) => CreatedKind::Function,
                    _ => CreatedKind::Other,
                };
                self.created_list(&define.defnames, kind);
                define_tag(define.kind)
            }
            NodeEnum::AlterFunctionStmt(alter) => {
                if let Some(function) = &alter.func {
                    self.altered_name(&strings(&function.objname), None);
                }
                "ALTER FUNCTION"
            }
            NodeEnum::AlterEnumStmt(_) | NodeEnum::AlterTypeStmt(_) => "ALTER TYPE",
            NodeEnum::AlterCollationStmt(_) => "ALTER COLLATION",
            NodeEnum::AlterOperatorStmt(_) => "ALTER OPERATOR",
            NodeEnum::AlterOpFamilyStmt(alter) => {
                self.class_items(&alter.items);
                "ALTER OPERATOR FAMILY"
            }
            NodeEnum::AlterStatsStmt(_) => "ALTER STATISTICS",
            NodeEnum::AlterTsdictionaryStmt(_) => "ALTER TEXT SEARCH DICTIONARY",
            NodeEnum::AlterTsconfigurationStmt(_) => "ALTER TEXT SEARCH CONFIGURATION",
            NodeEnum::CreateAmStmt(_) => "CREATE ACCESS METHOD",
            NodeEnum::CreateCastStmt(_) => "CREATE CAST",
            NodeEnum::CreateConversionStmt(_) => "CREATE CONVERSION",
            NodeEnum::CreateOpClassStmt(create) => {
                self.class_items(&create.items);
                "CREATE OPERATOR CLASS"
            }
            NodeEnum::CreateOpFamilyStmt(_) => "CREATE OPERATOR FAMILY",
            NodeEnum::CreateTransformStmt(_) => "CREATE TRANSFORM",
            NodeEnum::CreateEventTrigStmt(_) => {
                self.effect(SERVER);
                "CREATE EVENT TRIGGER"
            }
            NodeEnum::AlterEventTrigStmt(_) => {
                self.effect(SERVER);
                "ALTER EVENT TRIGGER"
            }
            _ => {
                self.unknown("a statement of an unknown kind");
                return Ok((Kind::Unknown, ""));
            }
        };
        self.effect(SCHEMA);
        Ok((Kind::Ddl, tag))
    }

    /// Sorting and grouping run the functions of a class without a word.
    fn class_items(&mut self, items: &[Node]) {
        /// `OPCLASS_ITEM_FUNCTION` of `parsenodes.h`; the others are operators and types.
        const FUNCTION: i32 = 2;
        for node in items {
            if let Some(NodeEnum::CreateOpClassItem(item)) = inner(node)
                && item.itemtype == FUNCTION
                && let Some(function) = &item.name
            {
                self.call(&strings(&function.objname), Arity::Any);
            }
        }
    }

    /// What a rule will do, as far as its text tells.
    fn rule_action(&mut self, action: &Node) -> R {
        match inner(action) {
            Some(NodeEnum::NotifyStmt(notify)) => {
                self.out.channels.push(notify.conditionname.clone());
                Ok(())
            }
            _ => self.sub_query(action).map(|_| ()),
        }
    }
}

fn is_role(kind: i32) -> bool {
    ObjectType::try_from(kind) == Ok(ObjectType::ObjectRole)
}

pub(super) fn is_relation(kind: i32) -> bool {
    matches!(
        ObjectType::try_from(kind),
        Ok(ObjectType::ObjectTable
            | ObjectType::ObjectView
            | ObjectType::ObjectMatview
            | ObjectType::ObjectForeignTable
            | ObjectType::ObjectSequence
            | ObjectType::ObjectIndex)
    )
}
