//! Who sees values of a class in the clear.

#![allow(clippy::unwrap_used)]

mod support;

use bulla_core::{Attribute, Decision, Policies, RevealRequest, Touch};
use support::{Case, action_name, load, who, with};

const ALL: &str =
    "@id(\"all\") permit (principal, action, resource in Bulla::Resource::\"orders\");\n";

fn sees(more: &str, class: &str) -> bool {
    let bundle = load(&format!("{ALL}{more}"));
    let case = Case::changed(|case| {
        case.principal = with(who("k8s|a", &["g1"]), "level", Attribute::Number(5));
    });
    let asked = RevealRequest {
        principal: &case.principal,
        resource: &case.resource,
        part: None,
        origin: &case.origin,
        now: case.now,
        class,
    };
    // Twice: the second answer is a kept one.
    let first = bundle.reveals(&asked);
    assert_eq!(first, bundle.reveals(&asked));
    // A command that shows the class is decided in the same way.
    let command = Case::changed(|shown| {
        shown.principal = case.principal.clone();
        let touch = Touch {
            action: action_name("reveal"),
            kind: "class",
            path: class.into(),
            columns: bulla_core::Columns::NotApplicable,
        };
        if let bulla_core::Touches::Known(touches) = &mut shown.command.touches {
            touches.push(touch);
        }
    });
    let allowed = matches!(bundle.decide(&command.request()), Decision::Allow { .. });
    assert_eq!(first, allowed, "{more} {class}");
    first
}

#[test]
fn values_are_shown_by_a_permit_for_them_alone() {
    let permit = |scope: &str| format!("@id(\"r\") permit ({scope});\n");
    let on =
        |class: &str| format!("principal, action == Bulla::Action::\"reveal\", resource{class}");
    assert!(!sees("", "pii.ssn"));
    assert!(sees(&permit(&on(" in Bulla::Class::\"pii\"")), "pii.ssn"));
    assert!(sees(&permit(&on(" in Bulla::Class::\"pii\"")), "pii"));
    assert!(sees(&permit(&on(" in Bulla::Class::\"pii\"")), "pii.card.number"));
    assert!(sees(&permit(&on("")), "pay"));
    assert!(!sees(&permit(&on(" in Bulla::Class::\"pii\"")), "pay"));
    assert!(!sees(&permit(&on(" in Bulla::Class::\"pii\"")), "pi"));
    assert!(!sees(&permit(&on(" == Bulla::Class::\"pii\"")), "pii.ssn"));
    let group = "principal in Bulla::Group::\"g2\", action == Bulla::Action::\"reveal\", resource";
    assert!(!sees(&permit(group), "pii.ssn"));
    let forbid = format!("@id(\"f\") forbid ({});\n", on(" == Bulla::Class::\"pii.ssn\""));
    assert!(!sees(&format!("{}{forbid}", permit(&on(""))), "pii.ssn"));
    assert!(sees(&format!("{}{forbid}", permit(&on(""))), "pii.email"));
    let fails = "when { principal has level && principal.level + 9223372036854775807 > 0 }";
    assert!(!sees(&format!("@id(\"r\") permit ({}) {fails};\n", on("")), "pii.ssn"));
}

/// What waits for a person cannot be seen meanwhile.
#[test]
fn a_hold_does_not_show() {
    let text = "@id(\"r\") @hold(\"dba\") permit (principal, action == Bulla::Action::\"reveal\", resource);";
    assert!(!sees(text, "pii.ssn"));
}
