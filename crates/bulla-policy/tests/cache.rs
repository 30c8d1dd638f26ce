//! A kept decision is a decision on equal values, and never one that the time could change.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod support;

use std::{net::IpAddr, sync::Arc};

use bulla_core::{
    Attribute, Columns, CredentialKind, Decision, Digest, Effects, Expiry, Fact, Mode, Parameter,
    ParameterValue, Policies, PrincipalId, PrincipalKind, Purity, ResourceName, Timestamp, Touches,
};
use support::{Case, action_name, load, shown, touch};

/// One policy per field of a request, so that a change of any field changes the decision.
const TELLTALE: &str = r#"
@id("base") permit (principal, action, resource);
@id("id") @rows_max("1") permit (principal == Bulla::Workload::"k8s|other",
  action in Bulla::Action::"postgres:known", resource);
@id("kind") @rows_max("2") permit (principal is Bulla::Human,
  action in Bulla::Action::"postgres:known", resource);
@id("group") @rows_max("3") permit (principal in Bulla::Group::"extra",
  action in Bulla::Action::"postgres:known", resource);
@id("attribute") @rows_max("4") permit (principal,
  action in Bulla::Action::"postgres:known", resource)
  when { principal has env && principal.env == "prod" };
@id("bound") @rows_max("5") permit (principal, action in Bulla::Action::"postgres:known", resource)
  when { principal.bound };
@id("cred") @rows_max("6") permit (principal, action in Bulla::Action::"postgres:known", resource)
  when { principal.cred == "mtls" };
@id("stale") @rows_max("7") permit (principal, action in Bulla::Action::"postgres:known", resource)
  when { context.jwks_stale };
@id("resource") @rows_max("8") permit (principal, action in Bulla::Action::"postgres:known",
  resource in Bulla::Resource::"crm");
@id("labels") @rows_max("9") permit (principal, action in Bulla::Action::"postgres:known",
  resource in Bulla::ResourceGroup::"env:prod");
@id("part") @rows_max("10") permit (principal, action in Bulla::Action::"postgres:known", resource)
  when { context has part };
@id("source") @rows_max("11") permit (principal, action in Bulla::Action::"postgres:known",
  resource) when { context.source == ip("192.0.2.1") };
@id("action") @rows_max("12") permit (principal, action == Bulla::Action::"postgres:explain",
  resource);
@id("effects") @rows_max("13") permit (principal, action in Bulla::Action::"postgres:known",
  resource) when { context.effects.contains("lock") };
@id("unknown") @rows_max("14") permit (principal, action in Bulla::Action::"postgres:known",
  resource) when { context.unknown };
@id("path") @rows_max("15") permit (principal, action in Bulla::Action::"postgres:known",
  resource == Bulla::Table::"orders.public.other");
@id("touched") @rows_max("16") permit (principal, action == Bulla::Action::"postgres:update",
  resource);
@id("function") @rows_max("17") permit (principal, action in Bulla::Action::"postgres:known",
  resource is Bulla::Function);
@id("columns") @rows_max("18") permit (principal, action in Bulla::Action::"postgres:known",
  resource) when { context.columns.contains("ssn") };
@id("all") @rows_max("19") permit (principal, action in Bulla::Action::"postgres:known", resource)
  when { !context.columns_known };
@id("text") @rows_max("20") permit (principal, action in Bulla::Action::"postgres:known", resource)
  when { context.statement == "TABLE" };
@id("flag") @rows_max("21") permit (principal, action in Bulla::Action::"postgres:known", resource)
  when { context.in_transaction };
@id("number") @rows_max("22") permit (principal, action in Bulla::Action::"postgres:known",
  resource) when { context has statements };
@id("set") @rows_max("23") permit (principal, action in Bulla::Action::"postgres:known", resource)
  when { context has roles && context.roles.contains("x") };
@id("approved") @rows_max("24") permit (principal, action in Bulla::Action::"postgres:known",
  resource) when { context.approved };
"#;

type Change = Box<dyn Fn(&mut Case)>;

fn change(change: impl Fn(&mut Case) + 'static) -> Change {
    Box::new(change)
}

fn touched(text: &'static str) -> Change {
    change(move |case| case.command.touches = Touches::Known(vec![touch(text)]))
}

fn fact(name: &'static str, value: Fact) -> Change {
    change(move |case| {
        case.command.facts.insert(name, value.clone());
    })
}

/// What policy sees of a request, each changed alone; the name is the policy that tells.
fn visible() -> Vec<(&'static str, Change)> {
    let roles: Vec<Arc<str>> = vec!["x".into()];
    vec![
        ("id", change(|c| c.principal.id = PrincipalId::new("k8s", "other").unwrap())),
        ("kind", change(|c| c.principal.kind = PrincipalKind::Human)),
        ("group", change(|c| c.principal.groups.push("extra".into()))),
        (
            "attribute",
            change(|c| {
                c.principal.attributes.insert("env".into(), Attribute::Text("prod".into()));
            }),
        ),
        ("bound", change(|c| c.principal.proof.bound = true)),
        ("cred", change(|c| c.principal.proof.kind = CredentialKind::ClientCertificate)),
        ("stale", change(|c| c.principal.proof.jwks_stale = true)),
        ("resource", change(|c| c.resource.name = ResourceName::new("crm").unwrap())),
        ("labels", change(|c| c.resource.groups.clear())),
        ("part", change(|c| c.part = Some("x".to_owned()))),
        ("part", change(|c| c.part = Some(String::new()))),
        ("source", change(|c| c.origin.address = IpAddr::from([192, 0, 2, 1]))),
        ("action", change(|c| c.command.action = action_name("postgres:explain"))),
        ("effects", change(|c| c.command.effects = Effects::READ.with(Effects::LOCK))),
        (
            "unknown",
            change(|c| {
                let seen = c.command.touches.seen().to_vec();
                c.command.touches = Touches::Unknown { why: "x".into(), seen };
            }),
        ),
        ("path", touched("postgres:select public.other(id,state)")),
        ("touched", touched("postgres:update public.payments(id,state)")),
        (
            "function",
            change(|c| {
                let mut touch = c.command.touches.seen().first().unwrap().clone();
                touch.kind = "function";
                c.command.touches = Touches::Known(vec![touch]);
            }),
        ),
        ("columns", touched("postgres:select public.payments(id,ssn)")),
        ("all", touched("postgres:select public.payments(?)")),
        (
            "columns",
            change(|c| {
                let mut touches = c.command.touches.seen().to_vec();
                touches.push(touch("postgres:select public.payments(ssn)"));
                c.command.touches = Touches::Known(touches);
            }),
        ),
        ("text", fact("statement", Fact::Text("TABLE".into()))),
        ("flag", fact("in_transaction", Fact::Flag(true))),
        ("number", fact("statements", Fact::Number(0))),
        ("set", fact("roles", Fact::Set(roles))),
        ("approved", change(|c| c.approved = true)),
    ]
}

/// What policy does not see: a kept decision may answer for it.
fn invisible() -> Vec<Change> {
    vec![
        change(|c| c.now = Timestamp::from_secs(5)),
        change(|c| c.principal.issuer = "https://elsewhere.test".into()),
        change(|c| c.principal.proof.hash = Digest([9; 32])),
        change(|c| c.principal.proof.jti = Some(Digest([9; 32]))),
        change(|c| c.principal.proof.kid_tail = Some("abcd".into())),
        change(|c| c.principal.proof.issued_at = Timestamp(9)),
        change(|c| c.principal.proof.expires_at = Timestamp(9)),
        change(|c| c.principal.proof.verified_at = Timestamp(9)),
        change(|c| c.resource.mode = Mode::Bounded),
        change(|c| c.resource.expiry = Expiry::Strict),
        change(|c| c.resource.session_ms_max = 9),
        change(|c| c.resource.hold_in_transaction_ms = 9),
        change(|c| c.origin.port = 9),
        change(|c| c.origin.tls = "TLSv1.2".into()),
        change(|c| c.origin.certificate = Some(Arc::from([1, 2]))),
        change(|c| c.command.purity = Purity::Read),
        change(|c| c.command.shown = "other".into()),
        change(|c| c.command.settings = "other".into()),
        change(|c| {
            let value = ParameterValue::Null;
            c.command.parameters =
                Arc::from([Parameter { name: "$1".into(), kind: "".into(), value }]);
        }),
    ]
}

#[test]
fn a_change_of_any_field_is_another_decision() {
    let changes = visible();
    let fresh = load(TELLTALE);
    let base = Case::new();
    let expect = fresh.decide_uncached(&base.request());
    // First alone: every change is seen by its policy, or the test would prove nothing.
    for (policy, change) in &changes {
        let case = Case::changed(change);
        let found = fresh.decide_uncached(&case.request());
        assert_ne!(found, expect, "{policy}");
        let because = &found.because().policies;
        let told = because.iter().any(|id| **id == **policy) || *policy == "labels";
        assert!(told, "{policy}: {}", shown(&found));
    }
    // Then through one cache, in both orders, every pair of changes as well.
    let bundle = load(TELLTALE);
    assert_eq!(bundle.decide(&base.request()), expect);
    for (first, one) in &changes {
        for (second, two) in &changes {
            let case = Case::changed(|case| {
                one(case);
                two(case);
            });
            let found = bundle.decide(&case.request());
            assert_eq!(found, bundle.decide_uncached(&case.request()), "{first} {second}");
        }
    }
    for (name, change) in changes.iter().rev() {
        let case = Case::changed(change);
        let found = bundle.decide(&case.request());
        assert_eq!(found, fresh.decide_uncached(&case.request()), "{name}");
        assert_eq!(bundle.decide(&base.request()), expect);
    }
}

#[test]
fn what_policy_does_not_see_changes_nothing() {
    let fresh = load(TELLTALE);
    let expect = fresh.decide_uncached(&Case::new().request());
    for (number, change) in invisible().iter().enumerate() {
        let case = Case::changed(change);
        assert_eq!(fresh.decide_uncached(&case.request()), expect, "{number}");
        assert_eq!(fresh.decide(&case.request()), expect, "{number}");
    }
}

#[test]
fn order_and_case_of_texts_count() {
    let bundle = load(
        "@id(\"a\") permit (principal in Bulla::Group::\"A\", action, resource)\n\
         unless { context has roles };",
    );
    let decide = |groups: &[&str]| {
        let case = Case::changed(|case| {
            case.principal.groups = groups.iter().map(|group| (*group).into()).collect();
        });
        let found = bundle.decide(&case.request());
        assert_eq!(found, bundle.decide_uncached(&case.request()));
        found.as_str()
    };
    // `unless { context has roles }` does not hold for `connect`, whose context has none.
    assert_eq!(decide(&["a"]), "deny");
    assert_eq!(decide(&["A"]), "allow");
    assert_eq!(decide(&["b", "A"]), "allow");
    assert_eq!(decide(&["A", "b"]), "allow");
    assert_eq!(decide(&["Ab"]), "deny");
}

#[test]
fn the_time_is_never_kept() {
    let until = |name: &str, condition: &str| {
        let bundle = load(&format!(
            "@id(\"a\") permit (principal, action in Bulla::Action::\"postgres:known\", \
             resource in Bulla::Resource::\"orders\") when {{ {condition} }};"
        ));
        // 14:00 on a Wednesday, then the same hour a day later, then an hour later.
        let at = |secs: u64| {
            let case = Case::changed(|case| case.now = Timestamp::from_secs(1_795_615_200 + secs));
            bundle.decide(&case.request()).as_str()
        };
        let found = [at(0), at(0), at(86_400), at(3_600), at(0)];
        (name.to_owned(), found)
    };
    assert_eq!(
        until("now", "context.now <= datetime(\"2026-11-25T14:00:00Z\")").1,
        ["allow", "allow", "deny", "deny", "allow"]
    );
    assert_eq!(until("hour", "context.hour == 14").1, ["allow", "allow", "allow", "deny", "allow"]);
    assert_eq!(
        until("weekday", "context[\"weekday\"] == 3").1,
        ["allow", "allow", "deny", "allow", "allow"]
    );
    assert_eq!(
        until("if", "if context.in_transaction then true else context.hour < 15").1,
        ["allow", "allow", "allow", "deny", "allow"]
    );
}

#[test]
fn a_forbid_that_reads_the_time_keeps_permits_from_being_kept() {
    let bundle = load(
        "@id(\"all\") permit (principal, action, resource);\n\
         @id(\"night\") forbid (principal, action in Bulla::Action::\"postgres:known\", \
         resource == Bulla::Table::\"orders.public.payments\") when { context.hour >= 22 };",
    );
    let at = |hour: u64, table: &'static str| {
        let case = Case::changed(|case| {
            case.now = Timestamp::from_secs(1_795_564_800 + hour * 3_600);
            case.command.touches =
                Touches::Known(vec![touch("postgres:select public.first(id)"), touch(table)]);
        });
        shown(&bundle.decide(&case.request()))
    };
    let payments = "postgres:select public.payments(id)";
    assert_eq!(at(9, payments), "allow all");
    assert_eq!(at(23, payments), "deny forbidden orders.public.payments night");
    assert_eq!(at(9, payments), "allow all");
    // Out of its scope there is nothing that the time could change.
    assert_eq!(at(9, "postgres:select public.other(id)"), "allow all");
    assert_eq!(at(23, "postgres:select public.other(id)"), "allow all");
}

#[test]
fn a_bundle_keeps_nothing_of_another() {
    let case = Case::new();
    let first = load("@id(\"a\") permit (principal, action, resource);");
    assert_eq!(shown(&first.decide(&case.request())), "allow a");
    let second = load("@id(\"b\") forbid (principal, action, resource);");
    let found = second.decide(&case.request());
    assert_eq!(shown(&found), "deny forbidden orders.public.payments b");
    assert_ne!(first.digest(), second.digest());
    assert_eq!(found.because().bundle, second.digest());
}

#[test]
fn more_requests_than_the_cache_holds_are_still_decided_right() {
    let bundle = load(
        "@id(\"a\") permit (principal, action in Bulla::Action::\"postgres:known\", \
         resource in Bulla::Resource::\"orders\") \
         when { context has statements && context.statements < 2500 };",
    );
    // Forth over all, then back over the newest and the oldest.
    for number in (0..5_000).chain((4_900..5_000).rev()).chain(0..100) {
        let case = Case::changed(|case| {
            case.command.facts.insert("statements", Fact::Number(number));
        });
        let expect = if number < 2_500 { "allow" } else { "deny" };
        assert_eq!(bundle.decide(&case.request()).as_str(), expect, "{number}");
    }
}

#[test]
fn what_is_too_large_is_decided_anew() {
    let bundle = load(
        "@id(\"a\") permit (principal, action, resource);\n\
         @id(\"b\") forbid (principal, action == Bulla::Action::\"postgres:select\", resource) \
         when { context.columns.contains(\"c299\") };",
    );
    let wide = |columns: usize| {
        let case = Case::changed(|case| {
            let mut touch = touch("postgres:select public.wide(x)");
            touch.columns =
                Columns::Known((0..columns).map(|n| Arc::from(format!("c{n}"))).collect());
            case.command.touches = Touches::Known(vec![touch; 20]);
        });
        let found = bundle.decide(&case.request());
        assert_eq!(found, bundle.decide(&case.request()));
        matches!(found, Decision::Allow { .. })
    };
    assert!(wide(299));
    assert!(!wide(300));
}

#[test]
fn threads_share_one_cache() {
    let bundle = load(TELLTALE);
    let changes = visible();
    let cases: Vec<Case> = changes.iter().map(|(_, change)| Case::changed(change)).collect();
    let fresh = load(TELLTALE);
    let expect: Vec<Decision> =
        cases.iter().map(|case| fresh.decide_uncached(&case.request())).collect();
    std::thread::scope(|scope| {
        for start in 0..4 {
            let (bundle, cases, expect) = (&bundle, &cases, &expect);
            scope.spawn(move || {
                for number in 0..cases.len() * 20 {
                    let at = (number + start * 7) % cases.len();
                    let case = cases.get(at).unwrap();
                    assert_eq!(Some(&bundle.decide(&case.request())), expect.get(at));
                }
            });
        }
    });
}
