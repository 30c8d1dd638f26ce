//! What reaches beyond the database: servers, databases, extensions, replication.

use pg_query::NodeEnum;
use pg_query::protobuf::Node;

use super::utility::{Named, SCHEMA, SERVER};
use super::{R, Reader, inner};
use crate::facts::{Access, Effects, Kind};
use crate::settings::SettingScope;

impl Reader<'_> {
    /// What reaches beyond the database, roles, privileges, replication.
    pub(super) fn server_statement(&mut self, node: &NodeEnum) -> R<Named> {
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
}
