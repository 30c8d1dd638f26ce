//! Roles and privileges.

use pg_query::NodeEnum;
use pg_query::protobuf::{GrantStmt, GrantTargetType, Node, ObjectType, RoleSpec, RoleSpecType};

use super::utility::{Named, SCHEMA};
use super::{R, Reader, inner, string};
use crate::facts::{Access, Effects, Kind};
use crate::settings::SettingScope;

impl Reader<'_> {
    pub(super) fn role_statement(&mut self, node: &NodeEnum) -> R<Named> {
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
}
