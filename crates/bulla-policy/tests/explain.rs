//! Explanations for people, and tables of expected decisions.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod support;

use bulla_core::{Command, Fact, Policies, Timestamp};
use bulla_policy::{Bundle, Explanation, PolicyNote};
use support::{Case, action_name, command, load, origin, resource, touch, unknown, who};

fn house() -> Bundle {
    load(include_str!("golden/house.cedar"))
}

fn ids(list: &[PolicyNote]) -> Vec<&str> {
    list.iter().map(|note| note.id.as_str()).collect()
}

fn explain(bundle: &Bundle, change: impl FnOnce(&mut Case)) -> Explanation {
    let case = Case::changed(change);
    let explanation = bundle.explain(&case.request());
    let decision = bundle.decide_uncached(&case.request());
    assert_eq!(explanation.decision, decision.as_str());
    let named: Vec<String> = decision.because().policies.iter().map(|id| id.to_string()).collect();
    assert_eq!(explanation.policies, named);
    assert_eq!(explanation.bundle, decision.because().bundle.to_string());
    explanation
}

#[test]
fn an_allow_names_who_permits() {
    let found = explain(&house(), |_| {});
    assert_eq!(found.decision, "allow");
    assert_eq!((found.principal.as_str(), found.kind), ("k8s|billing/api", "workload"));
    assert_eq!((found.resource.as_str(), found.action.as_str()), ("orders", "postgres:select"));
    let [question] = found.questions.as_slice() else { panic!("{found:?}") };
    assert_eq!(question.answer, "permit");
    assert_eq!(question.resource, "Bulla::Table::\"orders.public.payments\"");
    assert_eq!(ids(&question.policies), ["billing-reads"]);
    let note = question.policies.first().unwrap();
    assert_eq!((note.file.as_str(), note.line, note.effect), ("test.cedar", 3, "permit"));
}

#[test]
fn a_hold_shows_its_terms() {
    let found = explain(&house(), |case| {
        let touches = ["postgres:update public.payments(x)", "postgres:select public.payments(x)"];
        case.command = command("postgres:update", &touches);
    });
    assert_eq!(found.decision, "hold");
    let hold = found.hold.as_ref().unwrap();
    assert_eq!((hold.groups.join(","), hold.quorum, hold.expires_ms), ("dba".into(), 1, 900_000));
    let answers: Vec<&str> = found.questions.iter().map(|question| question.answer).collect();
    assert_eq!(answers, ["hold", "permit"]);
    assert!(found.to_string().contains("hold       dba; 1 to approve within 900 s"), "{found}");
}

#[test]
fn a_deny_shows_who_nearly_permits() {
    let found = explain(&house(), |case| {
        case.command = command("postgres:update", &["postgres:update public.orders(x)"]);
    });
    assert_eq!(found.reason, "no policy permits `postgres:update` on `orders.public.orders`");
    let question = found.questions.first().unwrap();
    assert_eq!((question.answer, question.policies.len()), ("none", 0));
    let near: Vec<String> = question.nearest.iter().map(ToString::to_string).collect();
    assert_eq!(
        near,
        [
            "permit billing-reads (test.cedar:3): only action in [Bulla::Action::\"postgres:select\"]",
            "permit payments-need-a-human (test.cedar:7): only resource == \
         Bulla::Table::\"orders.public.payments\"",
            "permit sessions-of-billing (test.cedar:15): only action in \
         [Bulla::Action::\"postgres:begin\", Bulla::Action::\"postgres:set\"]",
            "permit dba-owns-orders (test.cedar:20): only principal in Bulla::Group::\"team:dba\"",
        ]
    );
}

#[test]
fn a_policy_whose_conditions_fail_is_a_near_miss() {
    let found = explain(&house(), |case| {
        case.principal = who("k8s|reporting/job", &[]);
        case.command = command("postgres:select", &["postgres:select public.people(ssn)"]);
    });
    assert_eq!(ids(&found.questions.first().unwrap().missed), ["reporting-reads"]);
    let limits = explain(&house(), |case| case.principal = who("k8s|reporting/job", &[]));
    assert_eq!((limits.rows_max, limits.bytes_max), (Some(1_000), Some(10_000_000)));
}

#[test]
fn forbids_errors_and_doubt_are_shown() {
    let found = explain(&house(), |case| {
        case.principal = who("k8s|ops/dba", &["team:dba"]);
        case.command = command("postgres:select", &["postgres:select hr.salaries(x)"]);
    });
    assert_eq!(found.reason, "a policy forbids it on `orders.hr.salaries`");
    let question = found.questions.first().unwrap();
    assert_eq!((question.answer, ids(&question.policies)), ("forbid", vec!["dba-not-salaries"]));

    let bad = load(
        "@id(\"bad\") permit (principal, action == Bulla::Action::\"postgres:select\", resource) \
         when { context has statements && context.statements + 9223372036854775807 > 0 };",
    );
    let found = explain(&bad, |case| {
        case.command.facts.insert("statements", Fact::Number(1));
    });
    let question = found.questions.first().unwrap();
    assert_eq!((question.answer, ids(&question.errors)), ("error", vec!["bad"]));
    let note = question.errors.first().and_then(|note| note.note.clone()).unwrap();
    assert!(note.contains("overflow"), "{note}");

    let found = explain(&house(), |case| case.command = unknown(case.command.clone()));
    let asked: Vec<(&str, bool)> = found
        .questions
        .iter()
        .map(|question| (question.action.as_str(), question.needs_permit))
        .collect();
    assert_eq!(asked, [("postgres:select", true), ("postgres:unknown", true)]);
    let found = explain(&house(), |case| case.command.action = action_name("postgres:explain"));
    let last = found.questions.last().unwrap();
    assert_eq!((last.action.as_str(), last.needs_permit), ("postgres:explain", false));

    let found = explain(&house(), |case| {
        case.command.facts.remove("in_transaction");
    });
    assert_eq!(found.reason, "policy cannot be asked: fact `in_transaction` is missing");
}

#[test]
fn openings_are_explained() {
    let bundle = house();
    let open = |id: &str, groups: &[&str], from: &str| {
        let (principal, resource, origin) = (who(id, groups), resource("orders"), origin(from));
        let now = Timestamp::default();
        let found = bundle.explain_open(&principal, &resource, &origin, now);
        let decision = bundle.decide_open(&principal, &resource, &origin, now);
        assert_eq!(found.decision, decision.as_str());
        found
    };
    let found = open("k8s|b", &["team:billing"], "10.1.2.3");
    assert_eq!((found.decision, found.action.as_str()), ("allow", "connect"));
    let reached = ["billing-reads", "payments-need-a-human", "sessions-of-billing"];
    assert_eq!(ids(&found.reached_by), reached);
    let found = open("k8s|d", &["team:dba"], "10.1.2.3");
    assert_eq!((found.decision, found.reached_by.len()), ("allow", 0));
    let found = open("k8s|d", &["team:dba"], "192.0.2.1");
    assert_eq!(found.reason, "a policy forbids it on `orders`");
    assert_eq!(found.policies, ["dba-not-from-outside"]);
    let found = open("k8s|x", &[], "10.1.2.3");
    assert_eq!(found.reason, "no policy permits `connect` on `orders`");
}

#[test]
fn an_explanation_is_lines_and_json() {
    let found = explain(&house(), |case| {
        case.principal.groups.push("line\nbreak".into());
        case.command = command("postgres:update", &["postgres:update public.orders(x)"]);
    });
    let text = found.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines.get(..6).unwrap(),
        [
            "deny: no policy permits `postgres:update` on `orders.public.orders`",
            "principal  k8s|billing/api (workload)",
            "groups     team:billing, line\\nbreak",
            "resource   orders",
            "action     postgres:update",
            "effects    read",
        ]
    );
    assert!(lines.contains(&"postgres:update on Bulla::Table::\"orders.public.orders\""), "{text}");
    let json = serde_json::to_value(&found).unwrap();
    assert_eq!(json.pointer("/decision").unwrap(), "deny");
    assert_eq!(json.pointer("/questions/0/nearest/0/id").unwrap(), "billing-reads");
    assert!(json.get("hold").is_none());
}

/// Reads `verb schema.table` as a person would write it in a test.
fn read(on: &str, statement: &str) -> Result<Command, String> {
    if on != "orders" {
        return Err(format!("{on} is not read here"));
    }
    let (verb, rest) = statement.split_once(' ').ok_or("no verb")?;
    let action = format!("postgres:{}", verb.to_lowercase());
    let mut command = command(&action, &[]);
    let touch = touch(&format!("{action} {rest}"));
    command.touches = bulla_core::Touches::Known(vec![touch]);
    Ok(command)
}

#[test]
fn a_table_passes_and_fails() {
    let table = r#"
[[case]]
name = "billing reads"
principal = { id = "k8s|billing/api", groups = ["team:billing"] }
resource = "orders"
statement = "SELECT public.payments"
expect = "allow"
policy = "billing-reads"

[[case]]
principal = { id = "k8s|billing/api", groups = ["team:billing"] }
resource = "orders"
statement = "UPDATE public.payments"
expect = "hold"

[[case]]
name = "approved"
principal = { id = "k8s|billing/api", groups = ["team:billing"] }
resource = "orders"
statement = "UPDATE public.payments"
approved = true
expect = "allow"
policy = "payments-need-a-human"

[[case]]
name = "a dba from outside"
principal = { id = "k8s|ops/dba", groups = ["team:dba"] }
resource = "orders"
source = "192.0.2.1"
expect = "deny"
policy = "dba-not-from-outside"

[[case]]
name = "wrong decision"
principal = { id = "k8s|x/y" }
resource = "orders"
statement = "SELECT public.payments"
expect = "allow"

[[case]]
name = "wrong policy"
principal = { id = "k8s|billing/api", groups = ["team:billing"] }
resource = "orders"
statement = "SELECT public.payments"
expect = "allow"
policy = "people-see-crm"

[[case]]
name = "not read"
principal = { id = "k8s|billing/api", groups = ["team:billing"] }
resource = "crm"
statement = "SELECT public.payments"
expect = "deny"
"#;
    let report = house().test("cases.toml", table, &read).unwrap();
    assert_eq!((report.passed, report.failed), (4, 3));
    let lines: Vec<String> = report.cases.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "✓ billing reads (cases.toml:2): allow by billing-reads",
            "✓ case 2 (cases.toml:10): hold by payments-need-a-human",
            "✓ approved (cases.toml:16): allow by payments-need-a-human",
            "✓ a dba from outside (cases.toml:25): deny by dba-not-from-outside",
            "✗ wrong decision (cases.toml:33): deny, expected allow",
            "✗ wrong policy (cases.toml:40): allow by billing-reads, expected allow by people-see-crm",
            "✗ not read (cases.toml:48): the statement cannot be read: crm is not read here, expected \
         deny",
        ]
    );
    let explained: Vec<bool> = report.cases.iter().map(|case| case.explanation.is_some()).collect();
    assert_eq!(explained, [false, false, false, false, true, true, false]);
    assert_eq!(
        report.untested,
        [
            "no-pii-without-ticket",
            "sessions-of-billing",
            "dba-owns-orders",
            "dba-not-salaries",
            "reporting-reads",
            "people-see-crm",
        ]
    );
    assert!(report.to_string().ends_with("4 passed, 3 failed\n"), "{report}");
    assert!(serde_json::to_string(&report).unwrap().contains("\"failed\":3"));
}

#[test]
fn a_case_can_say_everything_about_its_principal() {
    let bundle = load(
        "@id(\"a\") permit (principal is Bulla::Human, \
         action in Bulla::Action::\"postgres:known\", \
         resource in Bulla::Resource::\"orders/reports\")\n\
         when { principal.bound && principal.cred == \"mtls\" && context.jwks_stale }\n\
         when { principal has env && principal.env == \"prod\" && principal has mfa }\n\
         when { principal has level && principal.level == 3 }\n\
         when { principal has teams && principal.teams.contains(\"x\") }\n\
         when { context.hour == 22 && context.source == ip(\"2001:db8::1\") };",
    );
    let table = r#"
[[case]]
resource = "orders/reports"
statement = "SELECT public.payments"
expect = "allow"
source = "2001:db8::1"
at = 2026-11-25T23:30:00+01:00

[case.principal]
id = "k8s|ada"
kind = "human"
bound = true
credential = "mtls"
jwks_stale = true
attributes = { env = "prod", mfa = false, level = 3, teams = ["x", "y"] }
"#;
    let report = bundle.test("cases.toml", table, &read).unwrap();
    assert_eq!((report.passed, report.failed), (1, 0), "{report}");
    assert!(report.untested.is_empty());
}

#[test]
fn mistakes_of_a_table_are_all_named() {
    let bundle = house();
    let check = |text: &str, expect: &[&str]| {
        let found = bundle.test("cases.toml", text, &read).unwrap_err();
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, expect, "{text}");
    };
    check(
        "[[case]]\nprincipal = { id = \"k8s\" }\nresource = \"ordres\"\nexpect = \"deny\"\n\
         policy = \"billing-read\"\nat = 2026-11-25\n\
         [[case]]\nprincipal = { id = \"nope|x\" }\nresource = \"orders\"\nexpect = \"deny\"\n\
         [[case]]\nprincipal = { id = \"k8s|x\", attributes = { env = 1 } }\n\
         resource = \"orders\"\nexpect = \"deny\"\n\
         [[case]]\nprincipal = { id = \"k8s|x\", attributes = { color = 1 } }\n\
         resource = \"orders\"\nexpect = \"deny\"\n",
        &[
            "cases.toml:1:1: there is no policy `billing-read`, did you mean `billing-reads`?",
            "cases.toml:1:1: no resource `ordres` is configured",
            "cases.toml:1:1: `at` must be a date and time with an offset, since 1970",
            "cases.toml:1:1: id `k8s` is not `issuer|subject`",
            "cases.toml:7:1: no issuer `nope` is configured",
            "cases.toml:11:1: attribute `env` is of another kind",
            "cases.toml:15:1: issuer `k8s` maps no attribute `color`",
        ],
    );
    let one = |text: &str| {
        let found = bundle.test("cases.toml", text, &read).unwrap_err();
        assert_eq!(found.len(), 1);
        found.first().map(ToString::to_string).unwrap()
    };
    let found = one("[[case]]\nprincipal = { id = \"k8s|x\" }\nresource = \"orders\"\nexpct = 1\n");
    assert!(found.starts_with("cases.toml:4:1: unknown field `expct`"), "{found}");
    let found = one("[[case]]\nexpect = \"perhaps\"\n");
    assert!(found.starts_with("cases.toml:2:10: "), "{found}");
    let found = one("[[cases]]\n");
    assert!(found.starts_with("cases.toml:1:3: unknown field `cases`"), "{found}");
    assert!(one("= 1").starts_with("cases.toml:1:1: "));
}

#[test]
fn an_empty_table_tests_nothing_and_says_so() {
    let report = house().test("cases.toml", "", &read).unwrap();
    assert_eq!((report.passed, report.failed, report.untested.len()), (0, 0, 9));
    let line = report.to_string();
    assert!(line.starts_with("no case is decided by: billing-reads, "), "{line}");
}
