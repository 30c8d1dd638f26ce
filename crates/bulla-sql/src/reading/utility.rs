//! Statements, and everything that is neither a query nor a definition.

use pg_query::NodeEnum;
use pg_query::protobuf::{
    CopyStmt, DefElem, DiscardMode, ExplainStmt, GrantStmt, GrantTargetType, Node, ObjectType,
    RoleSpec, RoleSpecType, SelectStmt, Token, TransactionStmt, TransactionStmtKind,
    VariableSetKind, VariableSetStmt,
};

use super::expr::{Literal, boolean, literal};
use super::names::Arity;
use super::query::Place;
use super::tags::{change_tag, define_tag, drop_tag};
use super::{R, Reader, inner, string, strings};
use crate::facts::{
    Access, CopyDirection, CopyFormat, CopyTarget, CopyUse, CreatedKind, Effects, Kind, NameUse, Tx,
};
use crate::settings::{SettingAction, SettingScope, SettingUse, SettingValue};

/// The family of a statement and its name in the manual.
pub(super) type Named = (Kind, &'static str);

const SCHEMA: Effects = Effects::SCHEMA;
const SERVER: Effects = Effects::SERVER;
const OPTION_HOLD: i32 = 0x0020;

impl<'a> Reader<'a> {
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

    /// Settings, transactions, prepared statements, cursors, notifications.
    fn session_statement(&mut self, node: &NodeEnum) -> R<Named> {
        Ok(match node {
            NodeEnum::VariableSetStmt(set) => {
                self.effect(Effects::SETTINGS);
                self.set(set, None);
                let reset = matches!(
                    VariableSetKind::try_from(set.kind),
                    Ok(VariableSetKind::VarReset | VariableSetKind::VarResetAll)
                );
                (Kind::Set, if reset { "RESET" } else { "SET" })
            }
            NodeEnum::VariableShowStmt(show) => {
                self.effect(Effects::READ);
                self.out.settings.push(SettingUse::new(
                    Some(&show.name),
                    SettingAction::Show,
                    SettingScope::Session,
                    SettingValue::Unknown,
                ));
                (Kind::Show, "SHOW")
            }
            NodeEnum::DiscardStmt(discard) => {
                (Kind::Discard, self.discard(DiscardMode::try_from(discard.target).ok()))
            }
            NodeEnum::ConstraintsSetStmt(_) => {
                self.effect(Effects::TRANSACTION);
                (Kind::Set, "SET CONSTRAINTS")
            }
            NodeEnum::TransactionStmt(transaction) => self.transaction(transaction),
            NodeEnum::PrepareStmt(prepare) => {
                if let Some(query) = prepare.query.as_deref() {
                    self.any_statement(query)?;
                }
                for argument in &prepare.argtypes {
                    if let Some(NodeEnum::TypeName(name)) = inner(argument) {
                        self.cast_to(name);
                    }
                }
                // The `$n` are the prepared statement's own.
                self.out.params = 0;
                let inner = self.after(Token::As);
                self.name_use(NameUse::Prepare { name: prepare.name.clone(), inner });
                (Kind::Prepare, "PREPARE")
            }
            NodeEnum::ExecuteStmt(execute) => {
                self.exprs(&execute.params)?;
                self.effect(Effects::DEFERRED);
                self.name_use(NameUse::Execute { name: execute.name.clone() });
                (Kind::Execute, "EXECUTE")
            }
            NodeEnum::DeallocateStmt(deallocate) => {
                let all = deallocate.isall || deallocate.name.is_empty();
                let name = (!all).then(|| deallocate.name.clone());
                self.name_use(NameUse::Deallocate { name });
                (Kind::Deallocate, "DEALLOCATE")
            }
            NodeEnum::DeclareCursorStmt(declare) => {
                if let Some(query) = declare.query.as_deref() {
                    self.any_statement(query)?;
                }
                self.name_use(NameUse::Declare {
                    name: declare.portalname.clone(),
                    hold: declare.options & OPTION_HOLD != 0,
                    inner: self.after(Token::For),
                });
                (Kind::Declare, "DECLARE CURSOR")
            }
            NodeEnum::FetchStmt(fetch) => {
                self.effect(Effects::DEFERRED);
                let name = fetch.portalname.clone();
                self.name_use(NameUse::Fetch { name, moves: fetch.ismove });
                (Kind::Fetch, if fetch.ismove { "MOVE" } else { "FETCH" })
            }
            NodeEnum::ClosePortalStmt(close) => {
                let name = (!close.portalname.is_empty()).then(|| close.portalname.clone());
                self.name_use(NameUse::Close { name });
                (Kind::Close, "CLOSE CURSOR")
            }
            NodeEnum::ListenStmt(listen) => {
                self.effect(Effects::NOTIFY);
                self.out.channels.push(listen.conditionname.clone());
                (Kind::Listen, "LISTEN")
            }
            NodeEnum::UnlistenStmt(unlisten) => {
                self.effect(Effects::NOTIFY);
                let name = &unlisten.conditionname;
                self.out.channels.push(if name.is_empty() { "*".into() } else { name.clone() });
                (Kind::Listen, "UNLISTEN")
            }
            NodeEnum::NotifyStmt(notify) => {
                self.effect(Effects::NOTIFY);
                self.out.channels.push(notify.conditionname.clone());
                (Kind::Notify, "NOTIFY")
            }
            NodeEnum::DoStmt(_) => {
                self.effect(Effects::OPAQUE);
                (Kind::Do, "DO")
            }
            NodeEnum::CallStmt(call) => {
                self.effect(Effects::OPAQUE);
                if let Some(function) = call.funccall.as_deref() {
                    self.func_call(function, false)?;
                }
                (Kind::Call, "CALL")
            }
            other => self.maintenance_statement(other)?,
        })
    }

    fn maintenance_statement(&mut self, node: &NodeEnum) -> R<Named> {
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

    /// What reaches beyond the database, roles, privileges, replication.
    fn server_statement(&mut self, node: &NodeEnum) -> R<Named> {
        Ok(match node {
            NodeEnum::LoadStmt(_) => self.server("LOAD"),
            NodeEnum::AlterSystemStmt(alter) => {
                self.effect(Effects::SETTINGS);
                if let Some(set) = &alter.setstmt {
                    self.set(set, Some(SettingScope::System));
                }
                self.server("ALTER SYSTEM")
            }
            NodeEnum::CreateExtensionStmt(_) => self.server_schema("CREATE EXTENSION"),
            NodeEnum::AlterExtensionStmt(_) | NodeEnum::AlterExtensionContentsStmt(_) => {
                self.server_schema("ALTER EXTENSION")
            }
            NodeEnum::CreateFdwStmt(_) => self.server_schema("CREATE FOREIGN DATA WRAPPER"),
            NodeEnum::AlterFdwStmt(_) => self.server_schema("ALTER FOREIGN DATA WRAPPER"),
            NodeEnum::CreateForeignServerStmt(_) => self.server_schema("CREATE SERVER"),
            NodeEnum::AlterForeignServerStmt(_) => self.server_schema("ALTER SERVER"),
            NodeEnum::CreateUserMappingStmt(mapping) => {
                self.role(mapping.user.as_ref());
                self.server_schema("CREATE USER MAPPING")
            }
            NodeEnum::AlterUserMappingStmt(mapping) => {
                self.role(mapping.user.as_ref());
                self.server_schema("ALTER USER MAPPING")
            }
            NodeEnum::DropUserMappingStmt(mapping) => {
                self.role(mapping.user.as_ref());
                self.server_schema("DROP USER MAPPING")
            }
            NodeEnum::ImportForeignSchemaStmt(_) => {
                self.unknown("the tables of another server");
                self.server_schema("IMPORT FOREIGN SCHEMA")
            }
            NodeEnum::CreatePlangStmt(_) => self.server_schema("CREATE LANGUAGE"),
            NodeEnum::CreatedbStmt(_) => self.server_schema("CREATE DATABASE"),
            NodeEnum::AlterDatabaseStmt(_) | NodeEnum::AlterDatabaseRefreshCollStmt(_) => {
                self.server_schema("ALTER DATABASE")
            }
            NodeEnum::AlterDatabaseSetStmt(alter) => {
                self.effect(Effects::SETTINGS);
                if let Some(set) = &alter.setstmt {
                    self.set(set, Some(SettingScope::Database));
                }
                self.server_schema("ALTER DATABASE")
            }
            NodeEnum::DropdbStmt(_) => self.server_schema("DROP DATABASE"),
            NodeEnum::CreateTableSpaceStmt(_) => self.server_schema("CREATE TABLESPACE"),
            NodeEnum::DropTableSpaceStmt(_) => self.server_schema("DROP TABLESPACE"),
            NodeEnum::AlterTableSpaceOptionsStmt(_) => self.server_schema("ALTER TABLESPACE"),
            NodeEnum::AlterTableMoveAllStmt(_) => {
                self.unknown("every relation of a tablespace");
                self.server_schema("ALTER TABLE ALL IN TABLESPACE")
            }
            NodeEnum::CreateSubscriptionStmt(_) => self.replication("CREATE SUBSCRIPTION", SERVER),
            NodeEnum::AlterSubscriptionStmt(_) => self.replication("ALTER SUBSCRIPTION", SERVER),
            NodeEnum::DropSubscriptionStmt(_) => self.replication("DROP SUBSCRIPTION", SERVER),
            NodeEnum::CreatePublicationStmt(publication) => {
                self.publication(&publication.pubobjects, publication.for_all_tables);
                self.replication("CREATE PUBLICATION", Effects::NONE)
            }
            NodeEnum::AlterPublicationStmt(publication) => {
                self.publication(&publication.pubobjects, publication.for_all_tables);
                self.replication("ALTER PUBLICATION", Effects::NONE)
            }
            other => self.role_statement(other)?,
        })
    }

    fn role_statement(&mut self, node: &NodeEnum) -> R<Named> {
        Ok(match node {
            NodeEnum::CreateRoleStmt(create) => {
                self.out.roles.push(create.role.clone());
                self.role_options(&create.options);
                self.effect(SCHEMA);
                (Kind::Role, "CREATE ROLE")
            }
            NodeEnum::AlterRoleStmt(alter) => {
                self.role(alter.role.as_ref());
                self.role_options(&alter.options);
                self.effect(SCHEMA);
                (Kind::Role, "ALTER ROLE")
            }
            NodeEnum::AlterRoleSetStmt(alter) => {
                match &alter.role {
                    Some(role) => self.role(Some(role)),
                    None => self.out.roles.push("all".to_owned()),
                }
                if let Some(set) = &alter.setstmt {
                    self.set(set, Some(SettingScope::Role));
                }
                self.effect(SCHEMA | Effects::SETTINGS);
                (Kind::Role, "ALTER ROLE")
            }
            NodeEnum::DropRoleStmt(drop) => {
                self.roles(&drop.roles);
                self.effect(SCHEMA);
                (Kind::Role, "DROP ROLE")
            }
            NodeEnum::DropOwnedStmt(drop) => {
                self.roles(&drop.roles);
                self.effect(SCHEMA | Effects::WRITE);
                self.unknown("everything that a role owns");
                (Kind::Role, "DROP OWNED")
            }
            NodeEnum::ReassignOwnedStmt(reassign) => {
                self.roles(&reassign.roles);
                self.role(reassign.newrole.as_ref());
                self.effect(SCHEMA);
                self.unknown("everything that a role owns");
                (Kind::Grant, "REASSIGN OWNED")
            }
            NodeEnum::GrantStmt(grant) => {
                self.grant(grant);
                (Kind::Grant, if grant.is_grant { "GRANT" } else { "REVOKE" })
            }
            NodeEnum::GrantRoleStmt(grant) => {
                for node in &grant.granted_roles {
                    if let Some(NodeEnum::AccessPriv(privilege)) = inner(node) {
                        self.out.roles.push(privilege.priv_name.clone());
                    }
                }
                self.roles(&grant.grantee_roles);
                self.effect(SCHEMA);
                (Kind::Grant, if grant.is_grant { "GRANT ROLE" } else { "REVOKE ROLE" })
            }
            NodeEnum::AlterDefaultPrivilegesStmt(alter) => {
                if let Some(action) = &alter.action {
                    self.roles(&action.grantees);
                }
                self.effect(SCHEMA);
                (Kind::Grant, "ALTER DEFAULT PRIVILEGES")
            }
            other => self.table_statement(other)?,
        })
    }

    /// Definitions of relations.
    fn table_statement(&mut self, node: &NodeEnum) -> R<Named> {
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

    pub(super) fn server(&mut self, tag: &'static str) -> Named {
        self.effect(SERVER);
        (Kind::Server, tag)
    }

    pub(super) fn server_schema(&mut self, tag: &'static str) -> Named {
        self.effect(SERVER | SCHEMA);
        (Kind::Server, tag)
    }

    fn replication(&mut self, tag: &'static str, effects: Effects) -> Named {
        self.effect(SCHEMA | effects);
        (Kind::Replication, tag)
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

    fn transaction(&mut self, transaction: &TransactionStmt) -> Named {
        use TransactionStmtKind as T;
        self.effect(Effects::TRANSACTION);
        let chain = transaction.chain;
        let name = transaction.savepoint_name.clone();
        let gid = transaction.gid.clone();
        let (tx, tag) = match T::try_from(transaction.kind) {
            Ok(T::TransStmtBegin) => {
                (Tx::Begin { read_only: self.modes(&transaction.options) }, "BEGIN")
            }
            Ok(T::TransStmtStart) => {
                (Tx::Begin { read_only: self.modes(&transaction.options) }, "START TRANSACTION")
            }
            Ok(T::TransStmtCommit) => (Tx::Commit { chain }, "COMMIT"),
            Ok(T::TransStmtRollback) => (Tx::Rollback { chain }, "ROLLBACK"),
            Ok(T::TransStmtSavepoint) => (Tx::Savepoint(name), "SAVEPOINT"),
            Ok(T::TransStmtRelease) => (Tx::Release(name), "RELEASE"),
            Ok(T::TransStmtRollbackTo) => (Tx::RollbackTo(name), "ROLLBACK TO SAVEPOINT"),
            Ok(T::TransStmtPrepare) => (Tx::Prepare(gid), "PREPARE TRANSACTION"),
            Ok(T::TransStmtCommitPrepared) => (Tx::CommitPrepared(gid), "COMMIT PREPARED"),
            Ok(T::TransStmtRollbackPrepared) => (Tx::RollbackPrepared(gid), "ROLLBACK PREPARED"),
            Ok(T::Undefined) | Err(_) => {
                self.unknown("a transaction command of an unknown kind");
                return (Kind::Transaction, "");
            }
        };
        let outlives =
            matches!(tx, Tx::Prepare(_) | Tx::CommitPrepared(_) | Tx::RollbackPrepared(_));
        if matches!(tx, Tx::CommitPrepared(_)) {
            // Of what was prepared, whatever it was.
            self.effect(Effects::WRITE | SCHEMA);
        }
        self.out.transaction = Some(tx);
        (if outlives { Kind::TwoPhase } else { Kind::Transaction }, tag)
    }

    /// `READ ONLY` or `READ WRITE` among the modes of a transaction; the last one counts.
    fn modes(&self, options: &[Node]) -> Option<bool> {
        options.iter().rev().find_map(|node| match inner(node)? {
            NodeEnum::DefElem(option) if option.defname == "transaction_read_only" => {
                match literal(option.arg.as_deref()?)? {
                    Literal::Number(n) => Some(n != "0"),
                    Literal::Bool(b) => Some(b),
                    Literal::Text(text) => boolean(&text),
                    Literal::Null => None,
                }
            }
            _ => None,
        })
    }

    fn discard(&mut self, mode: Option<DiscardMode>) -> &'static str {
        match mode {
            Some(DiscardMode::DiscardAll) => {
                self.effect(Effects::SETTINGS | Effects::SEQUENCE | Effects::NOTIFY);
                self.reset_all();
                self.name_use(NameUse::Deallocate { name: None });
                self.name_use(NameUse::Close { name: None });
                self.out.channels.push("*".to_owned());
                "DISCARD ALL"
            }
            Some(DiscardMode::DiscardSequences) => {
                self.effect(Effects::SEQUENCE);
                "DISCARD SEQUENCES"
            }
            Some(DiscardMode::DiscardPlans) => "DISCARD PLANS",
            Some(DiscardMode::DiscardTemp) => "DISCARD TEMP",
            Some(DiscardMode::Undefined) | None => {
                self.unknown("a DISCARD of an unknown kind");
                "DISCARD"
            }
        }
    }

    fn reset_all(&mut self) {
        self.out.settings.push(SettingUse::new(
            None,
            SettingAction::ResetAll,
            SettingScope::Session,
            SettingValue::Default,
        ));
    }

    fn set(&mut self, set: &VariableSetStmt, scope: Option<SettingScope>) {
        let scope =
            scope.unwrap_or(if set.is_local { SettingScope::Local } else { SettingScope::Session });
        let list = set.name.eq_ignore_ascii_case("search_path");
        let (action, value) = match VariableSetKind::try_from(set.kind) {
            Ok(VariableSetKind::VarSetValue) => {
                let items: Option<Vec<String>> =
                    set.args.iter().map(|n| set_value(n, list)).collect();
                let value = items
                    .map_or(SettingValue::Unknown, |items| SettingValue::Literal(items.join(", ")));
                (SettingAction::Set, value)
            }
            Ok(VariableSetKind::VarSetDefault | VariableSetKind::VarReset) => {
                (SettingAction::Reset, SettingValue::Default)
            }
            Ok(VariableSetKind::VarSetCurrent) => (SettingAction::Set, SettingValue::Current),
            Ok(VariableSetKind::VarResetAll) => {
                self.out.settings.push(SettingUse::new(
                    None,
                    SettingAction::ResetAll,
                    scope,
                    SettingValue::Default,
                ));
                return;
            }
            Ok(VariableSetKind::VarSetMulti) => return self.set_transaction(set),
            Ok(VariableSetKind::Undefined) | Err(_) => {
                self.unknown("a SET of an unknown kind");
                return;
            }
        };
        // The role that the session began with.
        let none = value == SettingValue::Literal("none".to_owned()) && set.name == "role";
        let (action, value) =
            if none { (SettingAction::Reset, SettingValue::Default) } else { (action, value) };
        self.out.settings.push(SettingUse::new(Some(&set.name), action, scope, value));
    }

    /// `SET TRANSACTION`, `SET SESSION CHARACTERISTICS`, `SET TRANSACTION SNAPSHOT`.
    fn set_transaction(&mut self, set: &VariableSetStmt) {
        let scope = SettingScope::Transaction;
        match set.name.to_ascii_uppercase().as_str() {
            "TRANSACTION" | "SESSION CHARACTERISTICS" => {
                self.effect(Effects::TRANSACTION);
                for node in &set.args {
                    let Some(NodeEnum::DefElem(option)) = inner(node) else {
                        self.unknown("a transaction mode of an unknown form");
                        continue;
                    };
                    let value = option.arg.as_deref().and_then(def_text);
                    let value = value.map_or(SettingValue::Unknown, SettingValue::Literal);
                    let name = Some(option.defname.as_str());
                    self.out.settings.push(SettingUse::new(name, SettingAction::Set, scope, value));
                }
            }
            _ => {
                // No name is in doubt here, so that nobody asks the server about names before it:
                // the statement must come before any query.
                self.effect(Effects::TRANSACTION);
                let (name, value) = (Some("transaction_snapshot"), SettingValue::Unknown);
                self.out.settings.push(SettingUse::new(name, SettingAction::Set, scope, value));
            }
        }
    }

    pub(super) fn role(&mut self, role: Option<&RoleSpec>) {
        let Some(role) = role else { return };
        let name = match RoleSpecType::try_from(role.roletype) {
            Ok(RoleSpecType::RolespecCstring) => role.rolename.clone(),
            Ok(RoleSpecType::RolespecCurrentRole | RoleSpecType::RolespecCurrentUser) => {
                "current_user".to_owned()
            }
            Ok(RoleSpecType::RolespecSessionUser) => "session_user".to_owned(),
            Ok(RoleSpecType::RolespecPublic) => "public".to_owned(),
            Ok(RoleSpecType::Undefined) | Err(_) => {
                return self.unknown("a role of an unknown form");
            }
        };
        if !self.out.roles.contains(&name) {
            self.out.roles.push(name);
        }
    }

    pub(super) fn roles(&mut self, nodes: &[Node]) {
        for node in nodes {
            match inner(node) {
                Some(NodeEnum::RoleSpec(role)) => self.role(Some(role)),
                _ => self.unknown("a role of an unknown form"),
            }
        }
    }

    /// `IN ROLE`, `ROLE`, `ADMIN`.
    fn role_options(&mut self, nodes: &[Node]) {
        for node in nodes {
            if let Some(NodeEnum::DefElem(option)) = inner(node)
                && let Some(NodeEnum::List(list)) = option.arg.as_deref().and_then(inner)
            {
                self.roles(&list.items);
            }
        }
    }

    fn grant(&mut self, grant: &GrantStmt) {
        self.effect(SCHEMA);
        self.roles(&grant.grantees);
        let on_tables = matches!(
            ObjectType::try_from(grant.objtype),
            Ok(ObjectType::ObjectTable | ObjectType::ObjectSequence)
        );
        match GrantTargetType::try_from(grant.targtype) {
            Ok(GrantTargetType::AclTargetObject) if on_tables => {
                self.relations(&grant.objects, Access::Grant);
            }
            Ok(GrantTargetType::AclTargetObject) => {}
            Ok(GrantTargetType::AclTargetAllInSchema) => {
                for schema in grant.objects.iter().filter_map(string) {
                    if on_tables {
                        self.all_in(schema, Access::Grant);
                    }
                }
            }
            _ => self.unknown("every object of a schema"),
        }
    }

    fn publication(&mut self, objects: &[Node], all: bool) {
        if all {
            self.unknown("every table of the database");
        }
        for node in objects {
            let Some(NodeEnum::PublicationObjSpec(object)) = inner(node) else { continue };
            match object.pubtable.as_deref().and_then(|t| t.relation.as_ref()) {
                Some(var) => self.one(var, Access::CopyTo),
                None => self.unknown("every table of a schema"),
            }
        }
    }

    /// The range behind the first `token` outside parentheses: what `PREPARE … AS` and
    /// `DECLARE … FOR` hold.
    fn after(&self, token: Token) -> Option<std::ops::Range<usize>> {
        let range = self.out.text.clone();
        let mut depth = 0_usize;
        let mut found = false;
        for scanned in self.cx.tokens {
            let start = usize::try_from(scanned.start).ok()?;
            if start < range.start {
                continue;
            }
            if start >= range.end {
                break;
            }
            let comment = [Token::SqlComment as i32, Token::CComment as i32];
            if comment.contains(&scanned.token) {
                continue;
            }
            if found {
                return Some(start..range.end);
            }
            if scanned.token == Token::Ascii40 as i32 {
                depth += 1;
            } else if scanned.token == Token::Ascii41 as i32 {
                depth = depth.saturating_sub(1);
            } else if depth == 0 && scanned.token == token as i32 {
                found = true;
            }
        }
        None
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

/// One value of a `SET`.
fn set_value(node: &Node, list: bool) -> Option<String> {
    match literal(node)? {
        Literal::Text(text) if list => Some(format!("\"{}\"", text.replace('"', "\"\""))),
        Literal::Text(text) | Literal::Number(text) => Some(text),
        Literal::Bool(b) => Some(b.to_string()),
        Literal::Null => None,
    }
}

fn is_utf8(name: &str) -> bool {
    matches!(name.to_ascii_lowercase().as_str(), "utf8" | "utf-8" | "unicode")
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
