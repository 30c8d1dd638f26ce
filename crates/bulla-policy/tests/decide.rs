//! What one command is asked, and how answers are put together.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod support;

use std::collections::BTreeMap;

use bulla_core::{
    Attribute, Command, CredentialKind, Effects, Fact, Policies, PrincipalKind, Timestamp, Touches,
};
use bulla_policy::Bundle;
use support::{
    Case, action_name, check, command, decide, load, origin, request, resource, shown, unknown,
    who, with,
};

const BLANKET: &str =
    "@id(\"all\") permit (principal, action, resource in Bulla::Resource::\"orders\");\n";

fn api() -> bulla_core::Principal {
    who("k8s|billing/api", &["team:billing"])
}

fn select() -> Command {
    command("postgres:select", &["postgres:select public.payments(id,state)"])
}

/// `condition` on one permit for everything on `orders`: does it let the request through?
fn holds(condition: &str, change: &dyn Fn(&mut Case)) -> String {
    let bundle = load(&format!(
        "@id(\"a\") permit (principal, action in Bulla::Action::\"postgres:known\", \
         resource in Bulla::Resource::\"orders\") when {{ {condition} }};"
    ));
    let case = Case::changed(change);
    decide(&bundle, &case.request())
}

fn truths(expect: bool, conditions: &[&str]) {
    for condition in conditions {
        let found = holds(condition, &|_| {});
        let expect = if expect { "allow a" } else { "deny nopermit orders.public.payments" };
        assert_eq!(found, expect, "{condition}");
    }
}

#[test]
fn nothing_is_permitted_by_nothing() {
    let bundle = load("");
    check(&bundle, &api(), "orders", &select(), "deny nopermit orders.public.payments");
    check(&bundle, &api(), "orders", &command("postgres:begin", &[]), "deny nopermit orders");
    let forbids = load("@id(\"y\") forbid (principal is Bulla::Human, action, resource);");
    check(&forbids, &api(), "orders", &select(), "deny nopermit orders.public.payments");
    let mut human = api();
    human.kind = PrincipalKind::Human;
    let expect = "deny forbidden orders.public.payments y";
    check(&forbids, &human, "orders", &select(), expect);
}

#[test]
fn context_says_what_is_so() {
    // Wednesday, 2026-11-25T14:00:00Z.
    truths(
        true,
        &[
            "context.now == datetime(\"2026-11-25T14:00:00Z\")",
            "context.hour == 14 && context.weekday == 3",
            "context.source == ip(\"10.1.2.3\") && context.source.isIpv4()",
            "context.source.isInRange(ip(\"10.0.0.0/8\"))",
            "context.why.tier == 0 && !(context.why has ticket) && !(context.why has reason)",
            "!context.approved && !context.jwks_stale && !context.unknown",
            "context.effects == [\"read\"] && context.effects.contains(\"read\")",
            "!(context has part)",
            "context.statement == \"SELECT\" && !context.in_transaction",
            "!(context has statements) && !(context has roles)",
            "principal.issuer == \"k8s\" && principal.sub == \"billing/api\"",
            "!principal.bound && principal.cred == \"jwt\" && !(principal has env)",
            "principal in Bulla::Group::\"team:billing\" && principal is Bulla::Workload",
            "resource in Bulla::Resource::\"orders\" && resource in Bulla::ResourceGroup::\"env:prod\"",
            "action in Bulla::Action::\"postgres:read\" && !(action in Bulla::Action::\"postgres:write\")",
            "resource == Bulla::Table::\"orders.public.payments\"",
            "resource is Bulla::Table && resource.schema == \"public\" && resource.name == \"payments\"",
            "resource is Bulla::Table && resource.path == \"public.payments\"",
            "context.columns == [\"id\", \"state\"] && context.columns_known",
            "context.columns.containsAll([\"id\"]) && !context.columns.contains(\"ssn\")",
        ],
    );
    truths(
        false,
        &[
            "context.hour == 13",
            "context.source.isInRange(ip(\"192.168.0.0/16\"))",
            "principal in Bulla::Group::\"team:other\"",
            "resource in Bulla::Resource::\"crm\"",
            "context.unknown",
        ],
    );
}

#[test]
fn what_a_request_brings_reaches_the_context() {
    let allowed = |condition: &str, change: &dyn Fn(&mut Case)| {
        assert_eq!(holds(condition, change), "allow a", "{condition}");
    };
    // The client of a dual-stack listener.
    let mapped = origin("::ffff:192.0.2.7");
    allowed("context.source == ip(\"192.0.2.7\")", &|r| r.origin = mapped.clone());
    let six = origin("2001:db8::7");
    allowed("context.source.isInRange(ip(\"2001:db8::/32\"))", &|r| r.origin = six.clone());
    let compatible = origin("::192.0.2.7");
    allowed("context.source.isIpv6()", &|r| r.origin = compatible.clone());
    let sunday = Timestamp::from_secs(1_795_615_200 + 4 * 86_400 + 9 * 3_600);
    allowed("context.weekday == 7 && context.hour == 23", &|r| r.now = sunday);
    allowed("context.weekday == 4 && context.hour == 0", &|r| r.now = Timestamp::default());
    allowed("context.now > datetime(\"2500-01-01\")", &|r| r.now = Timestamp(u64::MAX));
    allowed("context.approved", &|r| r.approved = true);
    let mut principal = api();
    principal.proof.bound = true;
    principal.proof.jwks_stale = true;
    principal.proof.kind = CredentialKind::ClientCertificate;
    for (name, value) in [
        ("env", Attribute::Text("prod".into())),
        ("mfa", Attribute::Flag(true)),
        ("level", Attribute::Number(-3)),
        ("teams", Attribute::Set(vec!["a".into(), "b".into()])),
    ] {
        principal = with(principal, name, value);
    }
    allowed(
        "principal.bound && context.jwks_stale && principal.cred == \"mtls\" && \
         principal has env && principal.env == \"prod\" && principal has mfa && principal.mfa && \
         principal has level && principal.level == -3 && \
         principal has teams && principal.teams == [\"b\", \"a\"]",
        &|r| r.principal = principal.clone(),
    );
    let mut human = api();
    human.kind = PrincipalKind::Human;
    allowed("principal == Bulla::Human::\"k8s|billing/api\"", &|r| r.principal = human.clone());
    let mut full = select();
    full.effects = Effects::READ.with(Effects::LOCK);
    full.facts.insert("in_transaction", Fact::Flag(true));
    full.facts.insert("statements", Fact::Number(2));
    full.facts.insert("roles", Fact::Set(vec!["x".into()]));
    allowed(
        "context.effects.containsAll([\"read\", \"lock\"]) && context.in_transaction && \
         context has statements && context.statements == 2 && \
         context has roles && context.roles == [\"x\"]",
        &|r| r.command = full.clone(),
    );
    for (columns, condition) in [
        ("(*)", "!context.columns_known && context.columns == [\"*\"]"),
        ("(?)", "!context.columns_known && !context.columns.contains(\"*\")"),
        ("", "context.columns_known && !context.columns.contains(\"*\")"),
    ] {
        let command = command("postgres:select", &[&format!("postgres:select public.x{columns}")]);
        allowed(condition, &|r| r.command = command.clone());
    }
    let setting = command("postgres:set", &["postgres:set search_path"]);
    allowed(
        "resource is Bulla::Setting && resource.schema == \"\" && resource.name == \"search_path\"",
        &|r| r.command = setting.clone(),
    );
}

#[test]
fn a_part_is_a_resource_within_the_resource() {
    let bundle = load(
        "@id(\"reports\") permit (principal, action, resource in \
         Bulla::Resource::\"orders/reports\");\n\
         @id(\"public\") permit (principal is Bulla::Human, action, \
         resource == Bulla::Table::\"orders/reports.public.x\");\n\
         @id(\"weekly\") permit (principal in Bulla::Group::\"weekly\", action in \
         Bulla::Action::\"postgres:known\", resource in Bulla::Resource::\"orders\") \
         when { context has part && context.part == \"w.1\" };",
    );
    let check = |groups: &[&str], part: Option<&str>, expect: &str| {
        let (principal, resource, origin) =
            (who("k8s|a", groups), resource("orders"), origin("10.1.2.3"));
        let command = command("postgres:select", &["postgres:select public.x"]);
        let mut request = request(&principal, &resource, &origin, &command);
        request.part = part;
        assert_eq!(decide(&bundle, &request), expect, "{part:?}");
    };
    check(&[], None, "deny nopermit orders.public.x");
    check(&[], Some("reports"), "allow reports");
    check(&[], Some("other"), "deny nopermit orders/other.public.x");
    check(&["weekly"], Some("w.1"), "allow weekly");
    check(&["weekly"], Some("w"), "deny nopermit orders/w.public.x");
    check(&[], Some("reports.public"), "deny nopermit orders/\"reports.public\".public.x");
    let all = load(BLANKET);
    let (principal, resource, origin) = (api(), resource("orders"), origin("10.1.2.3"));
    let command = select();
    let mut request = request(&principal, &resource, &origin, &command);
    request.part = Some("any");
    assert_eq!(decide(&all, &request), "allow all");
}

#[test]
fn a_policy_that_cannot_be_evaluated_denies() {
    let overflow = "context has statements && context.statements + 9223372036854775807 > 0";
    let mut command = select();
    command.facts.insert("statements", Fact::Number(1));
    // Cedar would skip the failing forbid and let this through.
    let forbid = load(&format!(
        "{BLANKET}@id(\"bad\") forbid (principal, action in Bulla::Action::\"postgres:known\", \
         resource) when {{ {overflow} }};"
    ));
    check(&forbid, &api(), "orders", &command, "deny error bad");
    check(&forbid, &api(), "orders", &select(), "allow all");
    // Nor does another permit or another forbid make up for it.
    let permit = load(&format!(
        "{BLANKET}@id(\"bad\") permit (principal, action in Bulla::Action::\"postgres:known\", \
         resource) when {{ {overflow} }};\n\
         @id(\"no\") forbid (principal, action, resource in Bulla::Resource::\"orders\");"
    ));
    check(&permit, &api(), "orders", &command, "deny error bad");
    check(&permit, &api(), "orders", &select(), "deny forbidden orders.public.payments no");
    // One touch is enough.
    let one = load(&format!(
        "{BLANKET}@id(\"bad\") permit (principal, action == Bulla::Action::\"postgres:insert\", \
         resource == Bulla::Table::\"orders.a.b\") when {{ {overflow} }};"
    ));
    let touches = ["postgres:select a.a(id)", "postgres:insert a.b(id)"];
    let mut both = self::command("postgres:insert", &touches);
    both.facts.insert("statements", Fact::Number(1));
    check(&one, &api(), "orders", &both, "deny error bad");
    // Out of its scope it is not evaluated.
    check(&one, &api(), "orders", &command, "allow all");
}

#[test]
fn a_missing_attribute_does_not_satisfy() {
    let bundle = load(
        "@id(\"prod\") permit (principal, action, resource in Bulla::Resource::\"orders\") \
         when { principal has env && principal.env == \"prod\" };\n\
         @id(\"must\") forbid (principal, action == Bulla::Action::\"postgres:update\", resource) \
         unless { principal has level && principal.level > 3 };",
    );
    let update = command("postgres:update", &["postgres:update public.payments(id)"]);
    let prod = with(api(), "env", Attribute::Text("prod".into()));
    let high = with(prod.clone(), "level", Attribute::Number(4));
    check(&bundle, &api(), "orders", &select(), "deny nopermit orders.public.payments");
    check(&bundle, &prod, "orders", &select(), "allow prod");
    check(&bundle, &prod, "orders", &update, "deny forbidden orders.public.payments must");
    check(&bundle, &high, "orders", &update, "allow prod");
    // Of another kind than the issuer's record says: nothing is asked at all.
    let wrong = with(prod.clone(), "level", Attribute::Text("9".into()));
    check(&bundle, &wrong, "orders", &select(), "deny error");
    // What this issuer's record does not map is not there, whoever else maps it.
    let mut other = who("corp|x", &[]);
    other = with(other, "env", Attribute::Text("prod".into()));
    check(&bundle, &other, "orders", &select(), "deny nopermit orders.public.payments");
    let stray = with(prod, "color", Attribute::Text("red".into()));
    check(&bundle, &stray, "orders", &select(), "allow prod");
}

#[test]
fn what_the_protocol_does_not_declare_is_denied() {
    let bundle = load(BLANKET);
    let denied = |change: &dyn Fn(&mut Command)| {
        let mut command = select();
        change(&mut command);
        check(&bundle, &api(), "orders", &command, "deny error");
    };
    denied(&|c| c.action = action_name("postgres:truncate"));
    denied(&|c| c.action = action_name("plain:get"));
    denied(&|c| c.action = action_name("connect"));
    denied(&|c| c.action = action_name("postgres:read"));
    denied(&|c| c.touches = bulla_core::Touches::Known(vec![touch_with("reveal", "table")]));
    denied(&|c| c.touches = bulla_core::Touches::Known(vec![touch_with("postgres:select", "key")]));
    denied(&|c| {
        c.facts.insert("colour", Fact::Flag(true));
    });
    denied(&|c| {
        c.facts.insert("statements", Fact::Text("1".into()));
    });
    denied(&|c| {
        c.facts.remove("in_transaction");
    });
    denied(&|c| c.facts = BTreeMap::new());
    let (principal, origin, command) = (api(), origin("10.1.2.3"), select());
    let mut strange = resource("orders");
    strange.protocol = "mongo".into();
    let found = decide(&bundle, &request(&principal, &strange, &origin, &command));
    assert_eq!(found, "deny error");
    let opened = bundle.decide_open(&principal, &strange, &origin, Timestamp::default());
    assert_eq!(shown(&opened), "deny error");
}

fn touch_with(action: &str, kind: &'static str) -> bulla_core::Touch {
    bulla_core::Touch {
        action: action_name(action),
        kind,
        path: "a.b".into(),
        columns: bulla_core::Columns::All,
    }
}

#[test]
fn every_touch_needs_its_own_permit() {
    let bundle = load(
        "@id(\"r\") permit (principal, action == Bulla::Action::\"postgres:select\", \
         resource == Bulla::Table::\"orders.a.r\");\n\
         @id(\"w\") permit (principal, action == Bulla::Action::\"postgres:insert\", \
         resource == Bulla::Table::\"orders.a.w\");\n\
         @id(\"f\") permit (principal, action == Bulla::Action::\"postgres:call\", \
         resource == Bulla::Function::\"orders.a.r\");",
    );
    let insert = |touches: &[&str], expect: &str| {
        check(&bundle, &api(), "orders", &command("postgres:insert", touches), expect);
    };
    let (read, write, call) =
        ("postgres:select a.r(x)", "postgres:insert a.w(x)", "postgres:call a.r");
    insert(&[read, write], "allow r,w");
    insert(&[write, read, write, call], "allow w,r,f");
    insert(&["postgres:insert a.r(x)"], "deny nopermit orders.a.r");
    insert(&[write, "postgres:select a.w(x)"], "deny nopermit orders.a.w");
    insert(&[read, write, "postgres:select b.r(x)"], "deny nopermit orders.b.r");
    // Same path, another kind.
    insert(&["postgres:call a.w"], "deny nopermit orders.a.w");
    // A command without touches is asked about itself; permits on tables say nothing of it.
    insert(&[], "deny nopermit orders");
}

#[test]
fn a_command_whose_action_no_touch_names_can_be_forbidden() {
    let policies = "@id(\"reads\") permit (principal, action == Bulla::Action::\"postgres:select\", \
                    resource in Bulla::Resource::\"orders\");\n";
    let explain = command("postgres:explain", &["postgres:select public.payments(id)"]);
    check(&load(policies), &api(), "orders", &explain, "allow reads");
    let forbid = format!(
        "{policies}@id(\"no-explain\") forbid (principal, \
         action == Bulla::Action::\"postgres:explain\", resource in Bulla::Resource::\"orders\");"
    );
    check(&load(&forbid), &api(), "orders", &explain, "deny forbidden orders no-explain");
    check(&load(&forbid), &api(), "orders", &select(), "allow reads");
    let hold = format!(
        "{policies}@id(\"ask\") @hold(\"dba\") permit (principal, \
         action == Bulla::Action::\"postgres:explain\", resource in Bulla::Resource::\"orders\");"
    );
    check(&load(&hold), &api(), "orders", &explain, "hold ask,reads [dba 1/900000]");
    // A forbid on everything but tables of one schema leaves a select of that schema alone.
    let schema = format!(
        "{policies}@id(\"public-only\") forbid (principal, \
         action == Bulla::Action::\"postgres:select\", resource in Bulla::Resource::\"orders\") \
         unless {{ resource is Bulla::Table && resource.schema == \"public\" }};"
    );
    check(&load(&schema), &api(), "orders", &select(), "allow reads");
    let other = command("postgres:select", &["postgres:select hr.x(id)"]);
    check(&load(&schema), &api(), "orders", &other, "deny forbidden orders.hr.x public-only");
}

#[test]
fn doubt_needs_a_permit_of_its_own() {
    let known = "@id(\"known\") permit (principal, action in Bulla::Action::\"postgres:known\", \
                 resource in Bulla::Resource::\"orders\");\n";
    let doubt = "@id(\"doubt\") permit (principal, action == Bulla::Action::\"postgres:unknown\", \
                 resource in Bulla::Resource::\"orders\");\n";
    let both = format!("{known}{doubt}");
    let blind = unknown(command("postgres:select", &[]));
    let half = unknown(select());
    let mut effect = select();
    effect.effects = Effects::READ.with(Effects::UNKNOWN);
    for command in [&blind, &half, &effect] {
        check(&load(known), &api(), "orders", command, "deny nopermit orders");
        check(&load(BLANKET), &api(), "orders", command, "allow all");
    }
    // What was seen is asked all the same.
    check(&load(doubt), &api(), "orders", &half, "deny nopermit orders.public.payments");
    check(&load(doubt), &api(), "orders", &blind, "allow doubt");
    check(&load(&both), &api(), "orders", &half, "allow known,doubt");
    check(&load(&both), &api(), "orders", &effect, "allow known,doubt");
    let guarded = format!(
        "{both}@id(\"not-payments\") forbid (principal, action, \
         resource == Bulla::Table::\"orders.public.payments\");"
    );
    check(
        &load(&guarded),
        &api(),
        "orders",
        &half,
        "deny forbidden orders.public.payments not-payments",
    );
    // A forbid on the command's own action is heard, though nothing names it.
    let no_select = format!(
        "{both}@id(\"no-select\") forbid (principal, \
         action == Bulla::Action::\"postgres:select\", resource in Bulla::Resource::\"orders\");"
    );
    check(&load(&no_select), &api(), "orders", &blind, "deny forbidden orders no-select");
    // The action may itself be the doubtful one.
    let opaque = command("postgres:unknown", &[]);
    check(&load(doubt), &api(), "orders", &opaque, "allow doubt");
    check(&load(doubt), &api(), "orders", &unknown(opaque.clone()), "allow doubt");
    check(&load(known), &api(), "orders", &opaque, "deny nopermit orders");
    // And context says so.
    let told = "@id(\"told\") permit (principal, action in [Bulla::Action::\"postgres:known\", \
                Bulla::Action::\"postgres:unknown\"], resource in Bulla::Resource::\"orders\") \
                when { context.unknown };";
    check(&load(told), &api(), "orders", &effect, "allow told");
    check(&load(told), &api(), "orders", &select(), "deny nopermit orders.public.payments");
}

#[test]
fn holds_join() {
    let bundle = load(
        "@id(\"free\") permit (principal, action == Bulla::Action::\"postgres:select\", \
         resource in Bulla::Resource::\"orders\");\n\
         @id(\"a\") @hold(\"dba\") @expires(\"10m\") @quorum(\"2\") @rows_max(\"5\") \
         permit (principal, action == Bulla::Action::\"postgres:select\", \
         resource == Bulla::Table::\"orders.s.a\");\n\
         @id(\"b\") @hold(\"owner, dba\") @expires(\"2m\") \
         permit (principal, action == Bulla::Action::\"postgres:select\", \
         resource == Bulla::Table::\"orders.s.b\");",
    );
    let select = |touches: &[&str]| command("postgres:select", touches);
    let (a, b, c) = ("postgres:select s.a", "postgres:select s.b", "postgres:select s.c");
    // The stricter permit wins over the free one that applies too.
    check(&bundle, &api(), "orders", &select(&[a]), "hold a,free [dba 2/600000] rows<=5");
    check(&bundle, &api(), "orders", &select(&[b]), "hold b,free [owner,dba 1/120000]");
    check(&bundle, &api(), "orders", &select(&[c]), "allow free");
    let all = "hold a,b,free [dba,owner 2/120000] rows<=5";
    check(&bundle, &api(), "orders", &select(&[c, a, b]), all);
    // A deny is stricter than any hold.
    let denied = command("postgres:select", &[a, "postgres:insert s.b"]);
    check(&bundle, &api(), "orders", &denied, "deny nopermit orders.s.b");
    // Approved, it is allowed, and still owes what it owes.
    let (principal, resource, origin) = (api(), resource("orders"), origin("10.1.2.3"));
    let command = select(&[a, b]);
    let mut approved = request(&principal, &resource, &origin, &command);
    approved.approved = true;
    assert_eq!(decide(&bundle, &approved), "allow free,a,b rows<=5");
    approved.command = &denied;
    assert_eq!(decide(&bundle, &approved), "deny nopermit orders.s.b");
}

#[test]
fn approval_opens_no_forbid() {
    let bundle = load(
        "@id(\"a\") @hold(\"dba\") permit (principal, action in Bulla::Action::\"postgres:known\", \
         resource in Bulla::Resource::\"orders\");\n\
         @id(\"no\") forbid (principal, action in Bulla::Action::\"postgres:known\", resource) \
         when { context.approved && context.in_transaction };",
    );
    let (principal, resource, origin) = (api(), resource("orders"), origin("10.1.2.3"));
    let mut command = select();
    command.facts.insert("in_transaction", Fact::Flag(true));
    let mut request = request(&principal, &resource, &origin, &command);
    assert_eq!(decide(&bundle, &request), "hold a [dba 1/900000]");
    request.approved = true;
    assert_eq!(decide(&bundle, &request), "deny forbidden orders.public.payments no");
}

#[test]
fn obligations_are_the_strictest_of_all_that_apply() {
    let bundle = load(
        "@id(\"a\") @rows_max(\"100\") @bytes_max(\"1MB\") @notify(\"x\") permit (principal, \
         action == Bulla::Action::\"postgres:select\", resource in Bulla::Resource::\"orders\");\n\
         @id(\"b\") @rows_max(\"10\") @bytes_max(\"1MiB\") @notify(\"y, x\") permit (principal, \
         action == Bulla::Action::\"postgres:select\", resource == Bulla::Table::\"orders.s.b\");\n\
         @id(\"c\") @bytes_max(\"7\") permit (principal in Bulla::Group::\"small\", \
         action == Bulla::Action::\"postgres:select\", resource);",
    );
    let select = |touches: &[&str]| command("postgres:select", touches);
    let one = select(&["postgres:select s.a"]);
    let two = select(&["postgres:select s.a", "postgres:select s.b"]);
    check(&bundle, &api(), "orders", &one, "allow a rows<=100 bytes<=1000000 tell:x");
    check(&bundle, &api(), "orders", &two, "allow a,b rows<=10 bytes<=1000000 tell:x,y");
    let small = who("k8s|s", &["small"]);
    check(&bundle, &small, "orders", &two, "allow a,c,b rows<=10 bytes<=7 tell:x,y");
}

#[test]
fn what_a_protocol_cannot_honour_is_denied() {
    let bundle = load(
        "@id(\"a\") @rows_max(\"9\") permit (principal, action, \
         resource in Bulla::ResourceGroup::\"env:prod\");",
    );
    let get = command("plain:get", &["plain:get k"]);
    check(&bundle, &api(), "store", &get, "deny cannothonour rows_max a");
    check(&bundle, &api(), "orders", &select(), "allow a rows<=9");
}

#[test]
fn forbids_name_their_ids_only_in_because() {
    let bundle = load(&format!(
        "{BLANKET}@id(\"f1\") forbid (principal, action == Bulla::Action::\"postgres:select\", \
         resource == Bulla::Table::\"orders.s.a\");\n\
         @id(\"f2\") forbid (principal, action, resource in Bulla::Resource::\"orders\") \
         when {{ resource is Bulla::Table && resource.schema == \"s\" }};"
    ));
    let touches = ["postgres:select s.a", "postgres:select s.b"];
    let both = command("postgres:select", &touches);
    check(&bundle, &api(), "orders", &both, "deny forbidden orders.s.a f1,f2");
}

#[test]
fn names_of_things_are_shown_safely() {
    let command = command("postgres:select", &["postgres:select public.\"a\n\u{202e}b\""]);
    let expect = "deny nopermit orders.public.\"a\\n\\u{202e}b\"";
    check(&load(""), &api(), "orders", &command, expect);
}

fn open(bundle: &Bundle, groups: &[&str], on: &str, from: &str) -> String {
    let principal = who("k8s|a", groups);
    let now = Timestamp::from_secs(1_795_615_200);
    shown(&bundle.decide_open(&principal, &resource(on), &origin(from), now))
}

#[test]
fn a_session_opens_for_whom_some_permit_could_reach() {
    let bundle = load(
        "@id(\"table\") permit (principal in Bulla::Group::\"t\", \
         action == Bulla::Action::\"postgres:select\", resource == Bulla::Table::\"orders.s.a\") \
         when { context.columns_known };\n\
         @id(\"part\") permit (principal in Bulla::Group::\"p\", \
         action in Bulla::Action::\"postgres:read\", \
         resource in Bulla::Resource::\"orders/reports\");\n\
         @id(\"kind\") permit (principal in Bulla::Group::\"k\", \
         action == Bulla::Action::\"postgres:call\", resource is Bulla::Function);\n\
         @id(\"group\") permit (principal in Bulla::Group::\"g\", action, \
         resource is Bulla::Table in Bulla::ResourceGroup::\"env:prod\");\n\
         @id(\"key\") permit (principal in Bulla::Group::\"y\", action, resource is Bulla::Key);\n\
         @id(\"held\") @hold(\"dba\") @rows_max(\"5\") @notify(\"n\") permit \
         (principal in Bulla::Group::\"h\", action, resource in Bulla::Resource::\"orders\");",
    );
    let check = |group: &str, on: &str, expect: &str| {
        assert_eq!(open(&bundle, &[group], on, "10.1.2.3"), expect, "{group} {on}");
    };
    check("t", "orders", "allow table");
    check("t", "crm", "deny nopermit crm");
    check("p", "orders", "allow part");
    check("p", "crm", "deny nopermit crm");
    check("k", "orders", "allow kind");
    check("k", "crm", "allow kind");
    check("k", "store", "deny nopermit store");
    check("g", "orders", "allow group");
    check("g", "crm", "deny nopermit crm");
    check("g", "store", "deny nopermit store");
    check("y", "store", "allow key");
    check("y", "orders", "deny nopermit orders");
    // A session is not held and owes no limits; its commands do.
    check("h", "orders", "allow held");
    check("other", "orders", "deny nopermit orders");
}

#[test]
fn connect_itself_can_be_permitted_and_forbidden() {
    let bundle = load(
        "@id(\"all\") permit (principal in Bulla::Group::\"a\", action, \
         resource in Bulla::Resource::\"orders\");\n\
         @id(\"in\") @notify(\"door\") permit (principal in Bulla::Group::\"c\", \
         action == Bulla::Action::\"connect\", resource == Bulla::Resource::\"orders\") \
         when { context.source.isInRange(ip(\"10.0.0.0/8\")) };\n\
         @id(\"no\") forbid (principal, action == Bulla::Action::\"connect\", resource) \
         when { context.source.isLoopback() };",
    );
    let check = |groups: &[&str], from: &str, expect: &str| {
        assert_eq!(open(&bundle, groups, "orders", from), expect, "{groups:?} {from}");
    };
    check(&["a"], "10.1.2.3", "allow all");
    check(&["a"], "127.0.0.1", "deny forbidden orders no");
    check(&["c"], "10.1.2.3", "allow in tell:door");
    check(&["c"], "192.0.2.1", "deny nopermit orders");
    check(&["c"], "127.0.0.1", "deny forbidden orders no");
    // The forbid does not touch commands.
    let (principal, resource, origin, command) =
        (who("k8s|a", &["a"]), resource("orders"), origin("127.0.0.1"), select());
    let request = request(&principal, &resource, &origin, &command);
    assert_eq!(decide(&bundle, &request), "allow all");
    // A failing policy denies here too.
    let bad = load(&format!(
        "{BLANKET}@id(\"bad\") forbid (principal, action == Bulla::Action::\"connect\", resource) \
         when {{ context.why.tier * 2 + 9223372036854775807 > 0 && context.hour + \
         9223372036854775807 > 0 }};"
    ));
    assert_eq!(open(&bad, &[], "orders", "10.1.2.3"), "deny error bad");
}

#[test]
fn a_command_may_touch_many_things_but_not_any_number() {
    let bundle = load(
        "@id(\"t\") permit (principal, action == Bulla::Action::\"postgres:select\", resource) \
         unless { context.columns.contains(\"ssn\") };",
    );
    let many = |count: usize, last: &str| {
        let mut touches: Vec<_> = (0..count - 1)
            .map(|n| support::touch(&format!("postgres:select s.t{n}(id)")))
            .collect();
        touches.push(support::touch(last));
        let mut command = select();
        command.touches = bulla_core::Touches::Known(touches);
        command
    };
    let good = "postgres:select s.last(id)";
    check(&bundle, &api(), "orders", &many(500, good), "allow t");
    let bad = "postgres:select s.last(ssn)";
    check(&bundle, &api(), "orders", &many(500, bad), "deny nopermit orders.s.last");
    let too_many = many(bulla_policy::TOUCHES_MAX + 1, good);
    check(&bundle, &api(), "orders", &too_many, "deny error");
}

#[test]
fn what_a_command_does_besides_needs_a_permit_of_its_own() {
    let reads = "@id(\"reads\") permit (principal, action == Bulla::Action::\"postgres:select\", \
                 resource in Bulla::Resource::\"orders\");\n";
    let locks = "@id(\"begins\") permit (principal, action == Bulla::Action::\"postgres:begin\", \
                 resource == Bulla::Resource::\"orders\");\n";
    let mut hidden = select();
    hidden.also.push(action_name("postgres:begin"));
    check(&load(reads), &api(), "orders", &select(), "allow reads");
    check(&load(reads), &api(), "orders", &hidden, "deny nopermit orders");
    check(&load(&format!("{reads}{locks}")), &api(), "orders", &hidden, "allow reads,begins");
    let forbids = format!(
        "{BLANKET}@id(\"no\") forbid (principal, action == Bulla::Action::\"postgres:begin\", \
         resource);"
    );
    check(&load(&forbids), &api(), "orders", &hidden, "deny forbidden orders no");
    // A batch that touches nothing is what its statements are, and they are all asked.
    let mut batch = select();
    batch.action = action_name("postgres:explain");
    batch.touches = Touches::Known(Vec::new());
    batch.also = vec![action_name("postgres:select"), action_name("postgres:begin")];
    check(&load(reads), &api(), "orders", &batch, "deny nopermit orders");
    check(&load(locks), &api(), "orders", &batch, "deny nopermit orders");
    check(&load(&format!("{reads}{locks}")), &api(), "orders", &batch, "allow reads,begins");
    let forbids = format!(
        "{reads}{locks}@id(\"no\") forbid (principal, action == \
         Bulla::Action::\"postgres:explain\", resource);"
    );
    check(&load(&forbids), &api(), "orders", &batch, "deny forbidden orders no");
    batch.also.clear();
    check(&load(&format!("{reads}{locks}")), &api(), "orders", &batch, "deny nopermit orders");
}

#[test]
fn what_lies_beneath_a_touch_must_not_be_forbidden() {
    let view = "@id(\"view\") permit (principal, action == Bulla::Action::\"postgres:select\", \
                resource == Bulla::Table::\"orders.public.payments\");\n";
    let mut through = select();
    through.beneath.push(support::touch("postgres:select hr.salaries(amount)"));
    check(&load(view), &api(), "orders", &through, "allow view");
    let forbids = format!(
        "{view}@id(\"no\") forbid (principal, action, \
         resource == Bulla::Table::\"orders.hr.salaries\");"
    );
    let expect = "deny forbidden orders.hr.salaries no";
    check(&load(&forbids), &api(), "orders", &through, expect);
    check(&load(&forbids), &api(), "orders", &select(), "allow view");
}
