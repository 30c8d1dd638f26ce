//! Annotations: what a permit demands of the commands that it lets through.
//!
//! | annotation | value | means |
//! |---|---|---|
//! | `@id("x")` | a name, unique in the bundle | required on every policy |
//! | `@about("…")` | any text | for people |
//! | `@hold("dba")` | groups, comma between | every command waits for all these groups |
//! | `@expires("15m")` | whole number and `ms`, `s`, `m`, `h` or `d` | how long it waits; default 15 m |
//! | `@quorum("2")` | 1 to 100 | how many approvers; default 1 |
//! | `@rows_max("1000")` | whole number | more rows end the response |
//! | `@bytes_max("10MB")` | whole number and a unit | more bytes end the response |
//! | `@notify("x")` | channels, comma between | told of each command |
//!
//! Units of bytes: none or `B`; `kB`, `MB`, `GB` (1000); `KiB`, `MiB`, `GiB` (1024).

use std::sync::Arc;

use bulla_core::{HoldTerms, Obligations};

use crate::problem::nearest;

/// How long a command waits when `@hold` stands without `@expires`.
pub const HOLD_EXPIRES_MS_DEFAULT: u64 = 15 * 60 * 1_000;
/// The longest that `@expires` may say.
pub const HOLD_EXPIRES_MS_MAX: u64 = 7 * 86_400 * 1_000;
/// The most that `@quorum` may ask.
pub const QUORUM_MAX: u32 = 100;
/// Longest name of an approving group or a channel, in bytes.
pub const NAME_BYTES_MAX: usize = 200;
/// Most names in one `@hold` or `@notify`.
pub const NAMES_MAX: usize = 32;

/// Every annotation there is.
pub const ANNOTATIONS: [&str; 8] =
    ["id", "about", "hold", "expires", "quorum", "rows_max", "bytes_max", "notify"];

/// What one policy demands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Duties {
    pub hold: Option<HoldTerms>,
    pub owe: Obligations,
}

/// Which policy the annotations stand on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    Permit,
    Forbid,
}

/// A mistake in one annotation: its name, what is wrong, and help.
pub(crate) struct Mistake {
    pub annotation: String,
    pub message: String,
    pub help: Option<String>,
}

impl Mistake {
    fn new(annotation: &str, message: String, help: Option<String>) -> Self {
        Self { annotation: annotation.to_owned(), message, help }
    }
}

impl Duties {
    /// Reads all annotations of a policy; every mistake is reported.
    pub(crate) fn read<'a>(
        on: On,
        annotations: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, Vec<Mistake>> {
        let mut duties = Self::default();
        let mut mistakes = Vec::new();
        let (mut groups, mut quorum, mut expires_ms) = (None, None, None);
        for (name, value) in annotations {
            if on == On::Forbid && ANNOTATIONS.contains(&name) && !matches!(name, "id" | "about") {
                let message = format!("@{name} stands on a forbid, which lets nothing through");
                mistakes.push(Mistake::new(name, message, None));
                continue;
            }
            let read = match name {
                "id" | "about" => Ok(()),
                "hold" => names(value).map(|list| groups = Some(list)),
                "quorum" => number(value)
                    .and_then(|n| u32::try_from(n).ok())
                    .filter(|n| (1..=QUORUM_MAX).contains(n))
                    .map(|n| quorum = Some(n))
                    .ok_or(format!("a whole number from 1 to {QUORUM_MAX}")),
                "expires" => duration_ms(value)
                    .filter(|ms| (1..=HOLD_EXPIRES_MS_MAX).contains(ms))
                    .map(|ms| expires_ms = Some(ms))
                    .ok_or("a time up to 7d, such as 90s, 15m or 2h".to_owned()),
                "rows_max" => number(value)
                    .map(|n| duties.owe.rows_max = Some(n))
                    .ok_or("a whole number, such as 1000".to_owned()),
                "bytes_max" => bytes(value)
                    .map(|n| duties.owe.bytes_max = Some(n))
                    .ok_or("a size, such as 500, 64KiB or 10MB".to_owned()),
                "notify" => names(value).map(|list| duties.owe.notify = list),
                other => {
                    let guess = nearest(other, ANNOTATIONS)
                        .map(|near| format!("did you mean @{near}? "))
                        .unwrap_or_default();
                    let known = ANNOTATIONS.map(|name| format!("@{name}")).join(", ");
                    let help = format!("{guess}known: {known}");
                    let message = format!("unknown annotation @{other}");
                    mistakes.push(Mistake::new(other, message, Some(help)));
                    continue;
                }
            };
            if let Err(expected) = read {
                let message = format!("@{name}(\"{value}\") is not understood");
                mistakes.push(Mistake::new(name, message, Some(format!("expected {expected}"))));
            }
        }
        // A mistake inside @hold itself must not make its companions look lonely.
        let tried = groups.is_some() || mistakes.iter().any(|m| m.annotation == "hold");
        for (name, alone) in [("quorum", quorum.is_some()), ("expires", expires_ms.is_some())] {
            if alone && !tried {
                let message = format!("@{name} stands without @hold");
                mistakes.push(Mistake::new(name, message, None));
            }
        }
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        duties.hold = groups.map(|groups| HoldTerms {
            groups,
            quorum: quorum.unwrap_or(1),
            expires_ms: expires_ms.unwrap_or(HOLD_EXPIRES_MS_DEFAULT),
        });
        Ok(duties)
    }
}

fn number(text: &str) -> Option<u64> {
    // `parse` alone would take a sign.
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// A whole number and its unit.
fn with_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at_checked(end)?;
    Some((number(digits)?, unit))
}

fn duration_ms(text: &str) -> Option<u64> {
    let (n, unit) = with_unit(text)?;
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    n.checked_mul(factor)
}

fn bytes(text: &str) -> Option<u64> {
    let (n, unit) = with_unit(text)?;
    let factor = match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    n.checked_mul(factor)
}

fn names(text: &str) -> Result<Vec<Arc<str>>, String> {
    let expected = || "one or more different names with a comma between".to_owned();
    let mut out: Vec<Arc<str>> = Vec::new();
    for name in text.split(',').map(str::trim) {
        let known = out.iter().any(|other| **other == *name);
        let odd = |c: char| c.is_control() || matches!(c, '"' | '`' | '\\');
        if name.is_empty() || name.len() > NAME_BYTES_MAX || known || name.contains(odd) {
            return Err(expected());
        }
        out.push(name.into());
        if out.len() > NAMES_MAX {
            return Err(format!("at most {NAMES_MAX} names"));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(on: On, annotations: &[(&str, &str)], expect: Result<Duties, &[&str]>) {
        let read = Duties::read(on, annotations.iter().copied())
            .map_err(|all| all.into_iter().map(|m| m.message).collect::<Vec<_>>());
        let expect = expect.map_err(|all| all.iter().map(|m| (*m).to_owned()).collect::<Vec<_>>());
        assert_eq!(read, expect, "{annotations:?}");
    }

    fn held(groups: &[&str], quorum: u32, expires_ms: u64) -> Duties {
        let groups = groups.iter().map(|group| (*group).into()).collect();
        Duties { hold: Some(HoldTerms { groups, quorum, expires_ms }), ..Duties::default() }
    }

    fn owes(rows_max: Option<u64>, bytes_max: Option<u64>, notify: &[&str]) -> Duties {
        let notify = notify.iter().map(|name| (*name).into()).collect();
        Duties { hold: None, owe: Obligations { rows_max, bytes_max, notify, unknown: Vec::new() } }
    }

    #[test]
    fn what_is_understood() {
        let permit = |annotations: &[(&str, &str)], expect| {
            check(On::Permit, annotations, Ok(expect));
        };
        permit(&[], Duties::default());
        permit(&[("id", "x"), ("about", "any \n text")], Duties::default());
        permit(&[("hold", "dba")], held(&["dba"], 1, 900_000));
        permit(
            &[("expires", "90s"), ("hold", "dba, owners"), ("quorum", "2")],
            held(&["dba", "owners"], 2, 90_000),
        );
        permit(&[("hold", "dba"), ("expires", "7d")], held(&["dba"], 1, 604_800_000));
        permit(&[("rows_max", "0")], owes(Some(0), None, &[]));
        permit(&[("rows_max", "1000")], owes(Some(1_000), None, &[]));
        for (text, expect) in [
            ("500", 500),
            ("500B", 500),
            ("10MB", 10_000_000),
            ("10MiB", 10 << 20),
            ("3kB", 3_000),
            ("3KiB", 3_072),
            ("2GB", 2_000_000_000),
            ("2GiB", 2 << 30),
        ] {
            permit(&[("bytes_max", text)], owes(None, Some(expect), &[]));
        }
        permit(&[("notify", "sec, ops")], owes(None, None, &["sec", "ops"]));
    }

    #[test]
    fn what_is_refused() {
        let bad = |name: &str, value: &str| {
            let message = format!("@{name}(\"{value}\") is not understood");
            let mut all = vec![(name, value)];
            if matches!(name, "expires" | "quorum") {
                all.push(("hold", "dba"));
            }
            check(On::Permit, &all, Err(&[message.as_str()]));
        };
        for value in ["", " ", "a,", "a,a", "a,,b", "a\nb", "a`b", &"x".repeat(201)] {
            bad("hold", value);
            bad("notify", value);
        }
        for value in ["", "0", "101", "-1", "+1", "1.5", "two", "99999999999999999999"] {
            bad("quorum", value);
        }
        for value in ["", "0m", "8d", "15", "15 m", "m", "1h30m", "-5m", "1e3s"] {
            bad("expires", value);
        }
        for value in ["", "-1", "1k", "1 000", "1_000", "18446744073709551616"] {
            bad("rows_max", value);
        }
        for value in ["", "MB", "10mb", "10 MB", "1.5MB", "18446744073709551615GB"] {
            bad("bytes_max", value);
        }
        check(On::Permit, &[("quorum", "2")], Err(&["@quorum stands without @hold"]));
        check(On::Permit, &[("expires", "2m")], Err(&["@expires stands without @hold"]));
        check(
            On::Permit,
            &[("hodl", "dba"), ("rows_max", "x")],
            Err(&["unknown annotation @hodl", "@rows_max(\"x\") is not understood"]),
        );
        check(
            On::Forbid,
            &[("id", "a"), ("hold", "dba")],
            Err(&["@hold stands on a forbid, which lets nothing through"]),
        );
    }

    #[test]
    fn an_unknown_annotation_lists_the_known_ones() {
        let mistakes = Duties::read(On::Permit, [("row_max", "5")].into_iter()).unwrap_err();
        let help = mistakes.first().and_then(|m| m.help.clone()).unwrap();
        assert!(help.starts_with("did you mean @rows_max? known: @id, @about, @hold"), "{help}");
    }
}
