//! Names of statements, by the kind of what they make, change or drop.

use pg_query::protobuf::ObjectType;

pub(super) fn drop_tag(kind: i32) -> &'static str {
    match ObjectType::try_from(kind) {
        Ok(ObjectType::ObjectTable) => "DROP TABLE",
        Ok(ObjectType::ObjectView) => "DROP VIEW",
        Ok(ObjectType::ObjectMatview) => "DROP MATERIALIZED VIEW",
        Ok(ObjectType::ObjectForeignTable) => "DROP FOREIGN TABLE",
        Ok(ObjectType::ObjectSequence) => "DROP SEQUENCE",
        Ok(ObjectType::ObjectIndex) => "DROP INDEX",
        Ok(ObjectType::ObjectFunction) => "DROP FUNCTION",
        Ok(ObjectType::ObjectProcedure) => "DROP PROCEDURE",
        Ok(ObjectType::ObjectSchema) => "DROP SCHEMA",
        Ok(ObjectType::ObjectType | ObjectType::ObjectDomain) => "DROP TYPE",
        Ok(ObjectType::ObjectTrigger) => "DROP TRIGGER",
        Ok(ObjectType::ObjectPolicy) => "DROP POLICY",
        Ok(ObjectType::ObjectExtension) => "DROP EXTENSION",
        Ok(ObjectType::ObjectForeignServer) => "DROP SERVER",
        Ok(ObjectType::ObjectPublication) => "DROP PUBLICATION",
        Ok(other) => made_of_code(other).map_or("DROP", |(_, _, drop)| drop),
        Err(_) => "DROP",
    }
}

pub(super) fn alter_tag(kind: i32) -> &'static str {
    match ObjectType::try_from(kind) {
        Ok(ObjectType::ObjectView) => "ALTER VIEW",
        Ok(ObjectType::ObjectMatview) => "ALTER MATERIALIZED VIEW",
        Ok(ObjectType::ObjectIndex) => "ALTER INDEX",
        Ok(ObjectType::ObjectSequence) => "ALTER SEQUENCE",
        Ok(ObjectType::ObjectForeignTable) => "ALTER FOREIGN TABLE",
        Ok(ObjectType::ObjectType) => "ALTER TYPE",
        _ => "ALTER TABLE",
    }
}

/// `CREATE`, `ALTER` and `DROP` of what runs as code, or decides which code runs.
fn made_of_code(kind: ObjectType) -> Option<(&'static str, &'static str, &'static str)> {
    Some(match kind {
        ObjectType::ObjectFunction => ("CREATE FUNCTION", "ALTER FUNCTION", "DROP FUNCTION"),
        ObjectType::ObjectProcedure => ("CREATE PROCEDURE", "ALTER PROCEDURE", "DROP PROCEDURE"),
        ObjectType::ObjectRoutine => ("CREATE ROUTINE", "ALTER ROUTINE", "DROP ROUTINE"),
        ObjectType::ObjectAggregate => ("CREATE AGGREGATE", "ALTER AGGREGATE", "DROP AGGREGATE"),
        ObjectType::ObjectOperator => ("CREATE OPERATOR", "ALTER OPERATOR", "DROP OPERATOR"),
        ObjectType::ObjectOpclass => {
            ("CREATE OPERATOR CLASS", "ALTER OPERATOR CLASS", "DROP OPERATOR CLASS")
        }
        ObjectType::ObjectOpfamily => {
            ("CREATE OPERATOR FAMILY", "ALTER OPERATOR FAMILY", "DROP OPERATOR FAMILY")
        }
        ObjectType::ObjectCast => ("CREATE CAST", "ALTER CAST", "DROP CAST"),
        ObjectType::ObjectTransform => ("CREATE TRANSFORM", "ALTER TRANSFORM", "DROP TRANSFORM"),
        ObjectType::ObjectConversion => {
            ("CREATE CONVERSION", "ALTER CONVERSION", "DROP CONVERSION")
        }
        ObjectType::ObjectAccessMethod => {
            ("CREATE ACCESS METHOD", "ALTER ACCESS METHOD", "DROP ACCESS METHOD")
        }
        ObjectType::ObjectTrigger => ("CREATE TRIGGER", "ALTER TRIGGER", "DROP TRIGGER"),
        ObjectType::ObjectEventTrigger => {
            ("CREATE EVENT TRIGGER", "ALTER EVENT TRIGGER", "DROP EVENT TRIGGER")
        }
        ObjectType::ObjectRule => ("CREATE RULE", "ALTER RULE", "DROP RULE"),
        ObjectType::ObjectExtension => ("CREATE EXTENSION", "ALTER EXTENSION", "DROP EXTENSION"),
        ObjectType::ObjectLanguage => ("CREATE LANGUAGE", "ALTER LANGUAGE", "DROP LANGUAGE"),
        ObjectType::ObjectForeignServer => ("CREATE SERVER", "ALTER SERVER", "DROP SERVER"),
        ObjectType::ObjectFdw => (
            "CREATE FOREIGN DATA WRAPPER",
            "ALTER FOREIGN DATA WRAPPER",
            "DROP FOREIGN DATA WRAPPER",
        ),
        ObjectType::ObjectPublication => {
            ("CREATE PUBLICATION", "ALTER PUBLICATION", "DROP PUBLICATION")
        }
        ObjectType::ObjectSubscription => {
            ("CREATE SUBSCRIPTION", "ALTER SUBSCRIPTION", "DROP SUBSCRIPTION")
        }
        _ => return None,
    })
}

/// What a definition by options (`CREATE AGGREGATE`, `CREATE OPERATOR`, …) is called.
pub(super) fn define_tag(kind: i32) -> &'static str {
    let code = ObjectType::try_from(kind).ok().and_then(made_of_code);
    code.map_or("CREATE … (definition)", |(create, _, _)| create)
}

/// What a change of a name, a schema or an owner is called; `otherwise` where it is no code's.
pub(super) fn change_tag(kind: i32, otherwise: &'static str) -> &'static str {
    let code = ObjectType::try_from(kind).ok().and_then(made_of_code);
    code.map_or(otherwise, |(_, alter, _)| alter)
}
