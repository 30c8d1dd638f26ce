//! Masks as the server makes them: the expression that stands for a column, of functions and
//! operators that are named with their schema. Which masks of which types it cannot make, and the
//! gateway can.
//!
//! Arrays, composites and ranges are masked part by part; of a domain the type below it is given.

use bulla_mask::{Classes, Mask, date};
use bulla_sql::{
    Catalog,
    catalog::{Type, TypeKind},
    null_of, quoted, type_name,
};

/// Types inside each other that are masked part by part.
const DEPTH_MAX: usize = 8;

/// What a type is to a mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Text,
    /// With the bounds of the type.
    Int(i64, i64),
    Numeric,
    Float,
    Date,
    Timestamp,
    TimestampTz,
    Jsonb,
    Json,
    Uuid,
    Bytea,
    Other,
}

/// The type below a domain.
fn base(catalog: &Catalog, mut oid: u32) -> u32 {
    for _ in 0..32 {
        match catalog.type_of(oid) {
            Some(of) if of.base != 0 => oid = of.base,
            _ => break,
        }
    }
    oid
}

/// The element type of an array, or of a domain over one. Types with elements that are no arrays
/// (`point`, `oidvector`, `name`) have none here.
pub fn element(catalog: &Catalog, oid: u32) -> Option<u32> {
    let of = catalog.type_of(base(catalog, oid))?;
    (of.element != 0 && of.name.starts_with('_')).then_some(of.element)
}

pub fn family(catalog: &Catalog, oid: u32) -> Family {
    let oid = base(catalog, oid);
    match oid {
        25 | 1043 | 1042 | 19 => Family::Text,
        20 => Family::Int(i64::MIN, i64::MAX),
        21 => Family::Int(i64::from(i16::MIN), i64::from(i16::MAX)),
        23 => Family::Int(i64::from(i32::MIN), i64::from(i32::MAX)),
        1700 => Family::Numeric,
        700 | 701 => Family::Float,
        1082 => Family::Date,
        1114 => Family::Timestamp,
        1184 => Family::TimestampTz,
        114 => Family::Json,
        3802 => Family::Jsonb,
        2950 => Family::Uuid,
        17 => Family::Bytea,
        _ => match catalog.type_of(oid) {
            Some(of) if of.extension.as_deref() == Some("citext") && &*of.name == "citext" => {
                Family::Text
            }
            _ => Family::Other,
        },
    }
}

/// A text constant.
fn literal(text: &str) -> String {
    format!("'{}'::pg_catalog.text", text.replace('\'', "''"))
}

const FILL: &str = "'***'::pg_catalog.text";

/// The expression of a class's mask for a column of a type, `{}` the column. Operators are named
/// with their schema: a search path can lead to others of the same name.
pub fn form(classes: &Classes, class: &str, catalog: &Catalog, type_oid: u32) -> String {
    let null = null_of(catalog, type_oid);
    let Some(of) = classes.class(class) else { return null };
    let Some(masked) = part(&of.mask, catalog, type_oid, 0) else { return null };
    let masked = match is_of_domains(catalog, type_oid) {
        // Elements are of the type below the domain, whose checks a mask need not pass.
        true => masked,
        false => format!("({masked})::{}", type_name(catalog, type_oid)),
    };
    if of.keeps_null && masked.contains("{}") {
        return format!("CASE WHEN {{}} IS NULL THEN NULL ELSE {masked} END");
    }
    masked
}

/// Whether a type is an array of a domain.
fn is_of_domains(catalog: &Catalog, oid: u32) -> bool {
    let element = element(catalog, oid).and_then(|oid| catalog.type_of(oid));
    element.is_some_and(|of| of.base != 0)
}

/// Whether the gateway masks values of a type where they are output columns: with masks that need
/// a key, which must not stand in a statement that the target could log, and with those of JSON
/// that the server's functions cannot make.
pub fn is_late(mask: &Mask, catalog: &Catalog, type_oid: u32) -> bool {
    if mask.needs_key() {
        return true;
    }
    let json = matches!(family(catalog, type_oid), Family::Json | Family::Jsonb);
    let Mask::Json(paths) = mask else { return false };
    json && (family(catalog, type_oid) == Family::Json
        || paths.iter().any(|(path, mask)| {
            path.keys().is_none() || !matches!(mask, Mask::Null | Mask::Constant(_))
        }))
}

/// The mask of a value that may be made of parts.
fn part(mask: &Mask, catalog: &Catalog, oid: u32, depth: usize) -> Option<String> {
    if depth >= DEPTH_MAX || *mask == Mask::Null {
        return None;
    }
    if let Some(one) = masked(mask, family(catalog, oid)) {
        return Some(one);
    }
    let of = catalog.type_of(base(catalog, oid))?;
    if let Some(element) = element(catalog, oid) {
        return array(mask, catalog, element, depth);
    }
    match of.kind {
        TypeKind::Composite => composite(mask, catalog, of, depth),
        TypeKind::Range => range(mask, of),
        _ => None,
    }
}

/// Each element for itself; of an array with more dimensions than one, NULL.
fn array(mask: &Mask, catalog: &Catalog, element: u32, depth: usize) -> Option<String> {
    let each = part(mask, catalog, element, depth + 1)?;
    let cast = type_name(catalog, element);
    let (value, place) = (format!("bulla_e{depth}"), format!("bulla_n{depth}"));
    let row = catalog.type_of(base(catalog, element));
    // In a `FROM`, `unnest` of rows has their attributes for columns.
    let (each, from) = if row.is_some_and(|of| of.kind == TypeKind::Composite) {
        let each = each.replace("{}", &format!("({{}})[{place}]"));
        let from = format!("pg_catalog.generate_subscripts({{}}, 1) AS bulla_a{depth}({place})");
        (each, from)
    } else {
        let from =
            format!("pg_catalog.unnest({{}}) WITH ORDINALITY AS bulla_a{depth}({value}, {place})");
        (each.replace("{}", &value), from)
    };
    Some(format!(
        "CASE WHEN pg_catalog.array_ndims({{}}) OPERATOR(pg_catalog.=) 1 OR \
         pg_catalog.cardinality({{}}) OPERATOR(pg_catalog.=) 0 THEN \
         ARRAY(SELECT ({each})::{cast} FROM {from} ORDER BY {place}) ELSE NULL END"
    ))
}

/// Each attribute for itself, where all of them are known.
fn composite(mask: &Mask, catalog: &Catalog, of: &Type, depth: usize) -> Option<String> {
    let relation = catalog.relation_named(&of.schema, &of.name)?;
    let live: Vec<_> = relation.columns.iter().filter(|column| !column.dropped).collect();
    // A domain may refuse what a mask is.
    let strict = |oid: u32| {
        catalog.type_of(oid).is_none_or(|of| of.base != 0) || is_of_domains(catalog, oid)
    };
    if live.is_empty() || live.len() > 64 || live.iter().any(|c| strict(c.type_oid)) {
        return None;
    }
    let mut some = false;
    let parts: Vec<String> = live
        .iter()
        .map(|column| match part(mask, catalog, column.type_oid, depth + 1) {
            Some(each) => {
                some = true;
                let value = format!("({{}}).{}", quoted(&column.name));
                format!("({})::{}", each.replace("{}", &value), type_name(catalog, column.type_oid))
            }
            None => null_of(catalog, column.type_oid),
        })
        .collect();
    let name = format!("{}.{}", quoted(&of.schema), quoted(&of.name));
    let row = format!("ROW({})::{name}", parts.join(", "));
    some.then(|| format!("CASE WHEN {{}} IS NULL THEN NULL ELSE {row} END"))
}

/// Both bounds for themselves, with masks that keep their order; what has no bound has none.
fn range(mask: &Mask, of: &Type) -> Option<String> {
    if !matches!(mask, Mask::Bucket { .. } | Mask::DateTrunc(_)) || &*of.schema != "pg_catalog" {
        return None;
    }
    let (family, bound) = match &*of.name {
        "int4range" => (Family::Int(i32::MIN.into(), i32::MAX.into()), "int4"),
        "int8range" => (Family::Int(i64::MIN, i64::MAX), "int8"),
        "numrange" => (Family::Numeric, "numeric"),
        "daterange" => (Family::Date, "date"),
        "tsrange" => (Family::Timestamp, "timestamp"),
        "tstzrange" => (Family::TimestampTz, "timestamptz"),
        _ => return None,
    };
    let each = masked(mask, family)?;
    let end = |which: &str| {
        let value = format!("pg_catalog.{which}({{}})");
        format!("({})::pg_catalog.{bound}", each.replace("{}", &value))
    };
    // A bucket of what is not there is the lowest number there is: said apart.
    let side = |which: &str| {
        format!("CASE WHEN pg_catalog.{which}({{}}) IS NULL THEN NULL ELSE {} END", end(which))
    };
    Some(format!(
        "CASE WHEN {{}} IS NULL THEN NULL WHEN pg_catalog.isempty({{}}) THEN {{}} ELSE \
         pg_catalog.{}({}, {}, '[)') END",
        of.name,
        side("lower"),
        side("upper")
    ))
}

fn masked(mask: &Mask, family: Family) -> Option<String> {
    let long = |least: usize| {
        format!("pg_catalog.char_length({{}}::pg_catalog.text) OPERATOR(pg_catalog.>=) {least}")
    };
    Some(match (mask, family) {
        (Mask::Constant(text), Family::Text) => literal(text),
        (Mask::Constant(text), Family::Int(min, max)) => {
            let n = text.parse::<i64>().ok().filter(|n| (min..=max).contains(n))?;
            format!("{}::pg_catalog.numeric", n)
        }
        (Mask::Constant(text), Family::Numeric | Family::Float) => {
            let digits = text.bytes().all(|b| b.is_ascii_digit() || b == b'.' || b == b'-');
            text.parse::<f64>().ok().filter(|_| digits)?;
            format!("'{text}'::pg_catalog.numeric")
        }
        (Mask::Constant(text), Family::Json) => format!("pg_catalog.to_json({})", literal(text)),
        (Mask::Constant(text), Family::Jsonb) => format!("pg_catalog.to_jsonb({})", literal(text)),
        (Mask::Partial { first, last }, Family::Text) => format!(
            "CASE WHEN {} THEN pg_catalog.concat(pg_catalog.left({{}}::pg_catalog.text, {first}), \
             {FILL}, pg_catalog.right({{}}::pg_catalog.text, {last})) ELSE {FILL} END",
            long(first + last + bulla_mask::function::HIDDEN_MIN)
        ),
        (Mask::CardLast4, Family::Text) => {
            let digits = "pg_catalog.regexp_replace({}::pg_catalog.text, '[^0-9]', '', 'g')";
            let count = format!("pg_catalog.char_length({digits})");
            format!(
                "CASE WHEN pg_catalog.textregexeq({{}}::pg_catalog.text, '^[0-9 -]+$') AND \
                 {count} OPERATOR(pg_catalog.>=) 12 AND {count} OPERATOR(pg_catalog.<=) 19 THEN \
                 pg_catalog.concat('****'::pg_catalog.text, pg_catalog.right({digits}, 4)) ELSE \
                 '****'::pg_catalog.text END"
            )
        }
        (Mask::EmailDomain, Family::Text) => format!(
            "CASE WHEN pg_catalog.textregexeq({{}}::pg_catalog.text, '^[^@]+@[^@]+$') THEN \
             pg_catalog.concat('***@'::pg_catalog.text, \
             pg_catalog.split_part({{}}::pg_catalog.text, '@', 2)) ELSE {FILL} END"
        ),
        (Mask::Zip3, Family::Text) => format!(
            "CASE WHEN {} THEN pg_catalog.concat(pg_catalog.left({{}}::pg_catalog.text, 3), \
             '**'::pg_catalog.text) ELSE {FILL} END",
            long(5)
        ),
        // Always in UTC: a client could move the borders of units with its time zone.
        (Mask::DateTrunc(unit), Family::Date) => {
            format!("pg_catalog.date_trunc('{}', {{}}::pg_catalog.timestamp)", unit_name(*unit))
        }
        (Mask::DateTrunc(unit), Family::Timestamp) => {
            format!("pg_catalog.date_trunc('{}', {{}})", unit_name(*unit))
        }
        (Mask::DateTrunc(unit), Family::TimestampTz) => {
            format!("pg_catalog.date_trunc('{}', {{}}, 'UTC')", unit_name(*unit))
        }
        (Mask::Bucket { width }, Family::Int(min, max)) => format!(
            "GREATEST({min}::pg_catalog.numeric, LEAST({max}::pg_catalog.numeric, \
             pg_catalog.floor({{}}::pg_catalog.numeric OPERATOR(pg_catalog./) \
             {width}::pg_catalog.numeric) OPERATOR(pg_catalog.*) {width}::pg_catalog.numeric))"
        ),
        (Mask::Bucket { width }, Family::Numeric) => format!(
            "pg_catalog.floor({{}} OPERATOR(pg_catalog./) {width}::pg_catalog.numeric) \
             OPERATOR(pg_catalog.*) {width}::pg_catalog.numeric"
        ),
        (Mask::Json(paths), Family::Jsonb) => jsonb(paths)?,
        // NULL; types that cannot carry the mask; and masks that need a key, which must not stand
        // in a statement that the target logs.
        _ => return None,
    })
}

fn unit_name(unit: date::Unit) -> &'static str {
    unit.as_str()
}

/// Values at plain paths become null, or the constant; any other mask makes them null.
fn jsonb(paths: &[(bulla_mask::json::Path, Mask)]) -> Option<String> {
    let mut out = "{}".to_owned();
    for (path, mask) in paths {
        let keys: Vec<String> =
            path.keys()?.map(|key| format!("'{}'", key.replace('\'', "''"))).collect();
        let value = match mask {
            Mask::Constant(text) => format!("pg_catalog.to_jsonb({})", literal(text)),
            _ => "'null'::pg_catalog.jsonb".to_owned(),
        };
        out = format!(
            "pg_catalog.jsonb_set({out}, ARRAY[{}]::pg_catalog.text[], {value}, false)",
            keys.join(", ")
        );
    }
    // A document whose paths lead elsewhere than to objects is not told apart: a scalar stays out.
    Some(format!(
        "CASE WHEN pg_catalog.jsonb_typeof({{}}) OPERATOR(pg_catalog.=) 'object'::pg_catalog.text \
         THEN {out} ELSE 'null'::pg_catalog.jsonb END"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the search path, a mask calls the server's own functions and operators.
    #[test]
    fn masks_name_their_schema() {
        let masks = [
            "constant(it's)",
            "constant(5)",
            "partial(2,2)",
            "card-last4",
            "email-domain",
            "zip3",
            "date-trunc(year)",
            "bucket(10)",
            "json($.a.b=null; $.c=constant(x))",
        ];
        let families = [
            Family::Text,
            Family::Int(-9, 9),
            Family::Numeric,
            Family::Float,
            Family::Date,
            Family::Timestamp,
            Family::TimestampTz,
            Family::Jsonb,
            Family::Json,
        ];
        let mut some = 0;
        for mask in masks.map(|mask| Mask::parse(mask).unwrap()) {
            for form in families.iter().filter_map(|family| masked(&mask, *family)) {
                some += 1;
                let words = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
                for (at, _) in form.match_indices('(') {
                    let start = form[..at].rfind(|c| !words(c)).map_or(0, |at| at + 1);
                    let name = &form[start..at];
                    let own = name.starts_with("pg_catalog.")
                        || matches!(name, "" | "GREATEST" | "LEAST" | "OPERATOR");
                    assert!(own, "`{name}` in {form}");
                }
                let bare = form.replace("OPERATOR(pg_catalog.", "");
                assert!(!bare.contains(" = ") && !bare.contains("||"), "{form}");
            }
        }
        assert!(some > 15, "{some}");
    }

    #[test]
    fn what_cannot_be_carried_is_null() {
        for (mask, family) in [
            ("partial(1,1)", Family::Date),
            ("token", Family::Text),
            ("fpe", Family::Int(0, 9)),
            ("constant(99)", Family::Int(0, 9)),
            ("constant(1e9)", Family::Numeric),
            ("bucket(10)", Family::Text),
            ("json($.a[*]=null)", Family::Jsonb),
            ("null", Family::Text),
        ] {
            assert_eq!(masked(&Mask::parse(mask).unwrap(), family), None, "{mask}");
        }
    }
}
