//! Bundles that are refused, and what is said about them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod support;

use std::collections::BTreeMap;

use bulla_core::{ActionSpec, Descriptor, FactKind, FactSpec, ResourceName, TouchSpec};
use bulla_policy::{AttributeKind, Bundle, ResourceInput, SchemaInput};
use support::{PLAIN, PROTOCOL, input, load, problems};

/// Each expected problem is one line, in order; the text is one file.
fn check(text: &str, expect: &[&str]) {
    assert_eq!(problems(&[("a.cedar", text)]), expect, "{text}");
}

const ANNOTATIONS: &str =
    "known: @id, @about, @hold, @expires, @quorum, @rows_max, @bytes_max, @notify";

#[test]
fn ids_are_required_and_unique() {
    check(
        "\n  permit (principal, action, resource);",
        &["a.cedar:2:3: this policy has no @id (write @id(\"a-name\") before it)"],
    );
    check(
        "@id permit (principal, action, resource);",
        &["a.cedar:1:1: bad @id: a name may not be empty"],
    );
    check(
        "@id(\"a b\") permit (principal, action, resource);",
        &["a.cedar:1:1: bad @id: `a b` holds a character that a name may not: use a-z, A-Z, 0-9, \
           `_`, `-`, `.`"],
    );
    let one = "@id(\"a\") permit (principal, action, resource);";
    assert_eq!(
        problems(&[("b.cedar", one), ("a.cedar", &format!("// first\n{one}\n{one}"))]),
        [
            "a.cedar:3:1: this @id is taken by a.cedar:2, in policy `a`",
            "b.cedar:1:1: this @id is taken by a.cedar:2, in policy `a`",
        ]
    );
}

#[test]
fn annotations_are_known_and_understood() {
    check(
        "@id(\"a\")\n@hodl(\"dba\") permit (principal, action, resource);",
        &[&format!(
            "a.cedar:2:1: unknown annotation @hodl, in policy `a` (did you mean @hold? \
             {ANNOTATIONS})"
        )],
    );
    check(
        "@id(\"a\") @mask(\"x\") permit (principal, action, resource);",
        &[&format!("a.cedar:1:10: unknown annotation @mask, in policy `a` ({ANNOTATIONS})")],
    );
    check(
        "@id(\"a\") @hold(\"dba\") @expires(\"15 m\") @rows_max(\"1k\")\n\
         permit (principal, action, resource);",
        &[
            "a.cedar:1:23: @expires(\"15 m\") is not understood, in policy `a` (expected a time up \
             to 7d, such as 90s, 15m or 2h)",
            "a.cedar:1:40: @rows_max(\"1k\") is not understood, in policy `a` (expected a whole \
             number, such as 1000)",
        ],
    );
    check(
        "@id(\"a\") @hold(\"dba\") forbid (principal, action, resource);",
        &["a.cedar:1:10: @hold stands on a forbid, which lets nothing through, in policy `a`"],
    );
    check(
        "@id(\"a\") @quorum(\"2\") permit (principal, action, resource);",
        &["a.cedar:1:10: @quorum stands without @hold, in policy `a`"],
    );
    check(
        "@id(\"a\") @hold(\"dba\") permit (principal, action == Bulla::Action::\"connect\", resource);",
        &["a.cedar:1:1: `connect` cannot be held: only commands can, in policy `a`"],
    );
}

#[test]
fn policies_are_parsed_and_validated() {
    let found = |text: &str| {
        let problems = problems(&[("a.cedar", text)]);
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems.into_iter().next().unwrap()
    };
    let starts = |text: &str, start: &str| {
        let found = found(text);
        assert!(found.starts_with(start), "{found}");
    };
    let when = |condition: &str| {
        format!("@id(\"a\") permit (principal, action, resource)\nwhen {{ {condition} }};")
    };
    starts("@id(\"a\") permit (principal, action resource);", "a.cedar:1:36: unexpected token");
    starts("@id(\"a\") permit (principal, action, resource)", "a.cedar:1:");
    starts("@id(\"a\") allow (principal, action, resource);", "a.cedar:1:10: ");
    starts("\"never closed", "a.cedar:1:1");
    starts("@id(\"a\") @id(\"b\") permit (principal, action, resource);", "a.cedar:1:10: ");
    assert_eq!(
        found("\n@id(\"a\") permit (principal == ?principal, action, resource);"),
        "a.cedar:2:1: templates are not taken (write out one policy instead of `?principal` or \
         `?resource`)"
    );
    // Attributes and context that nothing declares, one whose presence is not checked.
    starts(&when("principal.color == \"red\""), "a.cedar:2:8: attribute `color` ");
    starts(&when("principal.env == \"prod\""), "a.cedar:2:8: unable to guarantee safety of access");
    starts(&when("context.colour == \"red\""), "a.cedar:2:8: attribute `colour` ");
    starts(&when("context.hour == \"9\""), "a.cedar:2:8: the types Long and String");
    starts(&when("context.hour"), "a.cedar:2:8: unexpected type");
    starts(&when("false"), "a.cedar:1:1: policy is impossible");
    starts(
        "@id(\"a\") permit (principal, action == Bulla::Action::\"postgres:selekt\", resource);",
        "a.cedar:1:",
    );
    starts("@id(\"a\") forbid (principal is Bulla::Wrkload, action, resource);", "a.cedar:1:");
    // A forbid that can never apply protects nothing.
    starts(
        "@id(\"a\") forbid (principal, action == Bulla::Action::\"connect\", \
         resource == Bulla::Table::\"orders.a.b\");",
        "a.cedar:1:",
    );
    // A letter that looks like another.
    starts(
        "@id(\"a\") forbid (principal in Bulla::Group::\"te\u{430}m\", action, resource);",
        "a.cedar:1:",
    );
}

#[test]
fn names_exist() {
    let scope = |resource: &str| format!("@id(\"a\") forbid (principal, action,\n  {resource});");
    check(
        &scope("resource in Bulla::Resource::\"ordres\""),
        &["a.cedar:2:32: no resource `ordres` is configured, in policy `a` (did you mean \
           `orders`?)"],
    );
    check(
        &scope("resource in Bulla::ResourceGroup::\"env:prd\""),
        &["a.cedar:2:37: no resource is in a group `env:prd`, in policy `a` (did you mean \
           `env:prod`?)"],
    );
    check(
        &scope("resource == Bulla::Table::\"ordrs.public.x\""),
        &["a.cedar:2:29: `ordrs.public.x` is in no configured resource, in policy `a` (did you \
           mean `orders`?)"],
    );
    check(
        &scope("resource == Bulla::Table::\"public.x\""),
        &["a.cedar:2:29: `public.x` is in no configured resource, in policy `a` (an id is \
           `resource.path`)"],
    );
    check(
        &scope("resource == Bulla::Table::\"store.x\""),
        &["a.cedar:2:29: resource `store` (plain) has no Bulla::Table, in policy `a`"],
    );
    check(
        "@id(\"a\") permit (principal == Bulla::Workload::\"k8|x\", action, resource);",
        &["a.cedar:1:48: no issuer `k8` is configured for principal `k8|x`, in policy `a` (did \
           you mean `k8s`?)"],
    );
    check(
        "@id(\"a\") permit (principal, action, resource)\nwhen { principal == \
         Bulla::Human::\"ada\" };",
        &["a.cedar:2:35: no issuer `` is configured for principal `ada`, in policy `a` (an id is \
           `issuer|subject`)"],
    );
    check(&scope("resource in Bulla::Resource::\"orders/any part\""), &[]);
    check(&scope("resource == Bulla::Table::\"orders/x.public.y\""), &[]);
    check(
        "@id(\"a\") forbid (principal, action == Bulla::Action::\"connect\", \
         resource == Bulla::Resource::\"orders/x\");",
        &["a.cedar:1:1: `connect` is decided on the whole resource, not on a part of it, in \
           policy `a`"],
    );
}

#[test]
fn all_mistakes_of_all_files_are_reported_at_once() {
    let first = "// a comment with a ; in it\n\
                 permit (principal, action, resource);\n\
                 @id(\"good\") permit (principal, action, resource in Bulla::Resource::\"crm\");\n\
                 @id(\"broken\") permit (principal, action, );\n\
                 @hodl(\"dba\") permit (principal, action, resource) when { principal.x };\n";
    let second = "@id(\"good\") permit (principal, action, resource) when { context.nope };";
    let found = problems(&[("b.cedar", second), ("a.cedar", first)]);
    let starts = [
        "a.cedar:2:1: this policy has no @id",
        "a.cedar:4:40: this policy is missing the `resource` variable",
        "a.cedar:5:1: this policy has no @id",
        "a.cedar:5:1: unknown annotation @hodl (did you mean @hold?",
        "a.cedar:5:58: attribute `x`",
        "b.cedar:1:1: this @id is taken by a.cedar:3, in policy `good`",
        "b.cedar:1:57: attribute `nope`",
    ];
    assert_eq!(found.len(), starts.len(), "{found:#?}");
    for (found, start) in found.iter().zip(starts) {
        assert!(found.starts_with(start), "{found}\n{start}");
    }
}

#[test]
fn files_are_given_once_and_within_limits() {
    let one = "@id(\"a\") permit (principal, action, resource);";
    assert_eq!(
        problems(&[("a.cedar", one), ("a.cedar", one)]),
        ["a.cedar: this file is given twice"]
    );
    let large = " ".repeat(bulla_policy::FILE_BYTES_MAX + 1);
    assert_eq!(
        problems(&[("a.cedar", &large)]),
        ["a.cedar: this file is larger than 4194304 bytes"]
    );
    let many: Vec<(String, String)> =
        (0..=bulla_policy::FILES_MAX).map(|n| (n.to_string(), String::new())).collect();
    let found = Bundle::load(&many, &input()).unwrap_err();
    assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), ["more than 1000 files"]);
}

#[test]
fn the_configuration_is_checked() {
    let check = |input: &SchemaInput<'_>, expect: &[&str]| {
        let found = Bundle::load(&[], input).map(|_| ()).unwrap_err();
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, expect);
    };
    let resource = |name: &str, protocol: &str| ResourceInput {
        name: ResourceName::new(name).unwrap(),
        protocol: protocol.into(),
        groups: vec![],
    };
    let resources = vec![
        resource("a", "postgres"),
        resource("a.b", "postgres"),
        resource("c", "mongo"),
        resource("c", "plain"),
        resource("ab", "plain"),
    ];
    check(
        &SchemaInput { resources, ..input() },
        &[
            "resource `a.b` reads like a part of resource `a`: rename one",
            "resource `c` has the unknown protocol `mongo`",
            "resource `c` is declared twice",
        ],
    );
    let issuer = |list: &[(&str, AttributeKind)]| -> BTreeMap<String, AttributeKind> {
        list.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect()
    };
    let issuers = BTreeMap::from([
        ("a".to_owned(), issuer(&[("env", AttributeKind::Text), ("sub", AttributeKind::Text)])),
        ("b".to_owned(), issuer(&[("env", AttributeKind::Set), ("a\"b", AttributeKind::Flag)])),
    ]);
    check(
        &SchemaInput { issuers, ..input() },
        &[
            "issuer `a` maps `sub`, which every principal already has",
            "issuer `b` maps an attribute with the odd name `a\\\"b`",
            "attribute `env` is String for issuer `a` but Set<String> for `b`",
        ],
    );
    let bad = Descriptor {
        protocol: "bad",
        default_port: 1,
        actions: &[
            ActionSpec { verb: "x", groups: &["known"], about: "" },
            ActionSpec { verb: "x", groups: &["unknown"], about: "" },
        ],
        touches: &[
            TouchSpec { kind: "t", entity: "Resource" },
            TouchSpec { kind: "t", entity: "T" },
        ],
        facts: &[
            FactSpec { name: "now", kind: FactKind::Flag, required: true, about: "" },
            FactSpec { name: "f", kind: FactKind::Flag, required: true, about: "" },
            FactSpec { name: "f", kind: FactKind::Text, required: true, about: "" },
        ],
        honours: &[],
    };
    let protocols = [&bad, &PROTOCOL, &PROTOCOL, &PLAIN];
    check(
        &SchemaInput { protocols: &protocols, ..input() },
        &[
            "`bad:known` is the gateway's own group of actions",
            "action `bad:x` is declared twice",
            "`bad:unknown` is an action, not a group",
            "entity `Resource` of `bad` is the gateway's own",
            "kind `t` of `bad` is declared twice",
            "fact `now` of `bad` is the gateway's own",
            "fact `f` of `bad` is declared twice",
            "protocol `postgres` is registered twice",
        ],
    );
}

#[test]
fn the_schema_is_text_that_cedar_reads() {
    let bundle = load("");
    let text = bundle.schema_text();
    let (_, warnings) = cedar_policy::Schema::from_cedarschema_str(text).unwrap();
    assert_eq!(warnings.count(), 0);
    for line in [
        "entity Table in [Resource] = { schema: String, name: String, path: String };",
        "action \"postgres:select\" in [\"postgres:read\", \"postgres:known\"] appliesTo {",
        "action \"postgres:unknown\" appliesTo {",
        "action \"postgres:read\";",
        "    \"in_transaction\": Bool,",
        "    \"roles\"?: Set<String>",
        "type Why = { tier: Long, ticket?: String, reason?: String };",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(text.contains("\"env\"?: String, \"level\"?: Long, \"mfa\"?: Bool, \"teams\"?: Set"));
}

#[test]
fn a_verb_may_be_a_group_of_other_verbs() {
    let nested = Descriptor {
        protocol: "nested",
        default_port: 1,
        actions: &[
            ActionSpec { verb: "a", groups: &["b"], about: "in b, so in c" },
            ActionSpec { verb: "b", groups: &["b", "c"], about: "in c" },
        ],
        touches: &[],
        facts: &[],
        honours: &[],
    };
    let protocols = [&nested];
    let input = SchemaInput { protocols: &protocols, ..SchemaInput::default() };
    let bundle = Bundle::load(&[], &input).unwrap();
    let expect =
        "action \"nested:a\" in [\"nested:b\", \"nested:known\", \"nested:c\"] appliesTo {";
    assert!(bundle.schema_text().lines().any(|line| line == expect), "{}", bundle.schema_text());
}
