//! Tables of expected decisions, so that a change of policy shows what it changes.
//!
//! ```toml
//! [[case]]
//! name      = "billing reads"                    # optional
//! principal = { id = "k8s|billing/api", groups = ["team:billing"] }
//! resource  = "orders"                           # or "orders/reports"
//! statement = "SELECT * FROM payments"           # absent: the opening of a session
//! expect    = "allow"                            # allow, hold or deny
//! policy    = "billing-reads"                    # optional: the decision must name it
//! ```
//!
//! A principal may also have `kind` (`workload`, the default, or `human`), `attributes`, `bound`,
//! `credential` (`jwt`, the default, or `mtls`) and `jwks_stale`; a case may also have `source` (an
//! address, default `127.0.0.1`), `at` (a TOML date-time with offset, default 2026-01-01T00:00:00Z)
//! and `approved`. Unknown keys are mistakes.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use bulla_core::{
    Attribute, Command, CredentialKind, Decision, Digest, Expiry, Mode, Origin, Policies,
    Principal, PrincipalId, PrincipalKind, Proof, Request, Resource, Timestamp,
};
use serde::{Deserialize, Serialize};
use toml::{Spanned, Value, value::Datetime};

use crate::{
    bundle::Bundle,
    explain::Explanation,
    problem::{Lines, PolicyProblem, nearest, one_line},
    schema::AttributeKind,
};

/// Most cases of one table.
pub const CASES_MAX: usize = 100_000;
/// `at`, where a case does not say: 2026-01-01T00:00:00Z.
pub const AT_DEFAULT: Timestamp = Timestamp::from_secs(1_767_225_600);

/// Reads a statement for a resource, as the gateway would.
pub type Read<'a> = dyn Fn(&str, &str) -> Result<Command, String> + 'a;

/// The result of one case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CaseResult {
    pub name: String,
    pub file: String,
    pub line: u32,
    pub passed: bool,
    pub expected: String,
    /// What was decided, or why it could not be.
    pub found: String,
    /// Why, for a case that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation: Option<Explanation>,
}

/// The results of one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TestReport {
    pub passed: usize,
    pub failed: usize,
    pub cases: Vec<CaseResult>,
    /// Policies that decided no case: what the table does not test.
    pub untested: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default)]
    case: Vec<Spanned<Case>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: Option<String>,
    principal: Who,
    resource: String,
    statement: Option<String>,
    expect: Expect,
    policy: Option<String>,
    source: Option<IpAddr>,
    at: Option<Datetime>,
    #[serde(default)]
    approved: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Expect {
    Allow,
    Hold,
    Deny,
}

impl Expect {
    fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Hold => "hold",
            Self::Deny => "deny",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Who {
    id: String,
    #[serde(default)]
    kind: Kind,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    attributes: BTreeMap<String, Value>,
    #[serde(default)]
    bound: bool,
    #[serde(default)]
    credential: Credential,
    #[serde(default)]
    jwks_stale: bool,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    #[default]
    Workload,
    Human,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Credential {
    #[default]
    Jwt,
    Mtls,
}

/// One case, with everything in it checked.
struct Ready {
    name: String,
    line: u32,
    principal: Principal,
    resource: Resource,
    part: Option<String>,
    statement: Option<String>,
    expect: Expect,
    policy: Option<String>,
    origin: Origin,
    now: Timestamp,
    approved: bool,
}

impl Bundle {
    /// Runs a table. `read` is given the resource's name and the statement.
    ///
    /// Errors: the table itself is wrong, every mistake with its place. A statement that cannot be
    /// read is a failed case, not an error.
    pub fn test(
        &self,
        file: &str,
        text: &str,
        read: &Read<'_>,
    ) -> Result<TestReport, Vec<PolicyProblem>> {
        let cases = self.read_table(file, text)?;
        let mut used = vec![false; self.policies.len()];
        let mut results = Vec::with_capacity(cases.len());
        for case in cases {
            results.push(self.run(file, &case, read, &mut used));
        }
        let failed = results.iter().filter(|case| !case.passed).count();
        let untested = self
            .policies
            .iter()
            .zip(&used)
            .filter(|(_, used)| !**used)
            .map(|(policy, _)| policy.id.to_string())
            .collect();
        Ok(TestReport { passed: results.len() - failed, failed, cases: results, untested })
    }

    fn run(&self, file: &str, case: &Ready, read: &Read<'_>, used: &mut [bool]) -> CaseResult {
        let mut expected = case.expect.as_str().to_owned();
        if let Some(policy) = &case.policy {
            expected.push_str(&format!(" by {policy}"));
        }
        let done = |passed, found: String, explanation| CaseResult {
            name: case.name.clone(),
            file: file.to_owned(),
            line: case.line,
            passed,
            expected: expected.clone(),
            found,
            explanation,
        };
        let command = match &case.statement {
            None => None,
            Some(statement) => match read(case.resource.name.as_str(), statement) {
                Ok(command) => Some(command),
                Err(error) => {
                    let found = format!("the statement cannot be read: {}", one_line(&error));
                    return done(false, found, None);
                }
            },
        };
        let request = command.as_ref().map(|command| Request {
            principal: &case.principal,
            resource: &case.resource,
            part: case.part.as_deref(),
            origin: &case.origin,
            command,
            now: case.now,
            approved: case.approved,
        });
        let open = || (&case.principal, &case.resource, &case.origin, case.now);
        let decision = match &request {
            Some(request) => self.decide_uncached(request),
            None => {
                let (principal, resource, origin, now) = open();
                self.decide_open(principal, resource, origin, now)
            }
        };
        let because = &decision.because().policies;
        for (policy, used) in self.policies.iter().zip(used) {
            *used |= because.contains(&policy.id);
        }
        let named = case.policy.as_ref().is_none_or(|id| because.iter().any(|b| **b == **id));
        if decision.as_str() == case.expect.as_str() && named {
            return done(true, found(&decision), None);
        }
        let explanation = match &request {
            Some(request) => self.explain(request),
            None => {
                let (principal, resource, origin, now) = open();
                self.explain_open(principal, resource, origin, now)
            }
        };
        done(false, found(&decision), Some(explanation))
    }

    fn read_table(&self, file: &str, text: &str) -> Result<Vec<Ready>, Vec<PolicyProblem>> {
        let name: Arc<str> = file.into();
        let lines = Lines::new(text);
        let table: Table = toml::from_str(text).map_err(|error| {
            let at = lines.place(error.span().map_or(0, |span| span.start));
            vec![PolicyProblem::at(&name, at, error.message())]
        })?;
        let mut problems = Vec::new();
        let mut cases = Vec::new();
        if table.case.len() > CASES_MAX {
            let message = format!("more than {CASES_MAX} cases");
            return Err(vec![PolicyProblem::at(&name, (1, 1), message)]);
        }
        for (number, case) in table.case.into_iter().enumerate() {
            let at = lines.place(case.span().start);
            match self.ready(number, at.0, case.into_inner()) {
                Ok(case) => cases.push(case),
                Err(mistakes) => problems
                    .extend(mistakes.into_iter().map(|text| PolicyProblem::at(&name, at, text))),
            }
        }
        if problems.is_empty() { Ok(cases) } else { Err(problems) }
    }

    fn ready(&self, number: usize, line: u32, case: Case) -> Result<Ready, Vec<String>> {
        let mut mistakes = Vec::new();
        let mut keep = |mistake: String| mistakes.push(mistake);
        if let Some(policy) = &case.policy
            && !self.policies.iter().any(|known| *known.id == **policy)
        {
            let near = nearest(policy, self.policies.iter().map(|known| &*known.id));
            let guess = near.map(|near| format!(", did you mean `{near}`?")).unwrap_or_default();
            keep(format!("there is no policy `{policy}`{guess}"));
        }
        let (resource, part) = match case.resource.split_once('/') {
            Some((resource, part)) => (resource, Some(part.to_owned())),
            None => (case.resource.as_str(), None),
        };
        let known = self.model.resources.iter().find(|known| known.name.as_str() == resource);
        if known.is_none() {
            keep(format!("no resource `{resource}` is configured"));
        }
        let now = match case.at.map(timestamp) {
            None => Some(AT_DEFAULT),
            Some(None) => {
                keep("`at` must be a date and time with an offset, since 1970".to_owned());
                None
            }
            Some(now) => now,
        };
        let principal = match self.principal(&case.principal) {
            Ok(principal) => Some(principal),
            Err(mistake) => {
                keep(mistake);
                None
            }
        };
        let (Some(known), Some(now), Some(principal)) = (known, now, principal) else {
            return Err(mistakes);
        };
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let address = case.source.unwrap_or(IpAddr::from([127, 0, 0, 1]));
        Ok(Ready {
            name: case.name.unwrap_or_else(|| format!("case {}", number + 1)),
            line,
            principal,
            resource: Resource {
                name: known.name.clone(),
                protocol: known.protocol.clone(),
                groups: known.groups.clone(),
                mode: Mode::default(),
                expiry: Expiry::default(),
                session_ms_max: 0,
                hold_in_transaction_ms: 0,
            },
            part,
            statement: case.statement,
            expect: case.expect,
            policy: case.policy,
            origin: Origin { address, port: 0, tls: "".into(), certificate: None },
            now,
            approved: case.approved,
        })
    }

    fn principal(&self, who: &Who) -> Result<Principal, String> {
        let (issuer, subject) = who
            .id
            .split_once('|')
            .ok_or_else(|| format!("id `{}` is not `issuer|subject`", one_line(&who.id)))?;
        let id = PrincipalId::new(issuer, subject).map_err(|error| error.to_string())?;
        let mapped = self
            .model
            .issuers
            .get(issuer)
            .ok_or_else(|| format!("no issuer `{issuer}` is configured"))?;
        let mut attributes = BTreeMap::new();
        for (name, value) in &who.attributes {
            let kind = mapped
                .get(name)
                .ok_or_else(|| format!("issuer `{issuer}` maps no attribute `{name}`"))?;
            let value = attribute(*kind, value)
                .ok_or_else(|| format!("attribute `{name}` is of another kind"))?;
            attributes.insert(Arc::from(name.as_str()), value);
        }
        Ok(Principal {
            id,
            kind: match who.kind {
                Kind::Workload => PrincipalKind::Workload,
                Kind::Human => PrincipalKind::Human,
            },
            issuer: issuer.into(),
            groups: who.groups.iter().map(|group| group.as_str().into()).collect(),
            attributes,
            proof: Proof {
                kind: match who.credential {
                    Credential::Jwt => CredentialKind::Jwt,
                    Credential::Mtls => CredentialKind::ClientCertificate,
                },
                hash: Digest::ZERO,
                jti: None,
                kid_tail: None,
                issued_at: Timestamp::default(),
                expires_at: Timestamp(u64::MAX),
                verified_at: Timestamp::default(),
                bound: who.bound,
                jwks_stale: who.jwks_stale,
            },
        })
    }
}

fn attribute(kind: AttributeKind, value: &Value) -> Option<Attribute> {
    match (kind, value) {
        (AttributeKind::Text, Value::String(text)) => Some(Attribute::Text(text.as_str().into())),
        (AttributeKind::Flag, Value::Boolean(flag)) => Some(Attribute::Flag(*flag)),
        (AttributeKind::Number, Value::Integer(number)) => Some(Attribute::Number(*number)),
        (AttributeKind::Set, Value::Array(items)) => items
            .iter()
            .map(|item| item.as_str().map(Arc::from))
            .collect::<Option<Vec<_>>>()
            .map(Attribute::Set),
        (
            AttributeKind::Text | AttributeKind::Flag | AttributeKind::Number | AttributeKind::Set,
            _,
        ) => None,
    }
}

/// A date-time with offset; none for anything else or before 1970.
fn timestamp(at: Datetime) -> Option<Timestamp> {
    let (date, time, offset) = (at.date?, at.time?, at.offset?);
    let minutes = match offset {
        toml::value::Offset::Z => 0,
        toml::value::Offset::Custom { minutes } => i64::from(minutes),
    };
    // A civil date to days: H. Hinnant, "chrono-compatible low-level date algorithms".
    let (month, day) = (i64::from(date.month), i64::from(date.day));
    let year = i64::from(date.year) - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let yoe = year.rem_euclid(400);
    let doy = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    let days = era * 146_097 + doe - 719_468;
    let of_day = i64::from(time.hour) * 3_600
        + i64::from(time.minute) * 60
        + i64::from(time.second.unwrap_or(0));
    let secs = days * 86_400 + of_day - minutes * 60;
    let nanos = u64::from(time.nanosecond.unwrap_or(0));
    let whole = u64::try_from(secs).ok()?.checked_mul(1_000_000_000)?;
    whole.checked_add(nanos).map(Timestamp)
}

fn found(decision: &Decision) -> String {
    let because = &decision.because().policies;
    if because.is_empty() {
        decision.as_str().to_owned()
    } else {
        format!("{} by {}", decision.as_str(), because.join(", "))
    }
}

impl fmt::Display for CaseResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.passed { "✓" } else { "✗" };
        let name = one_line(&self.name);
        write!(f, "{mark} {name} ({}:{}): {}", self.file, self.line, self.found)?;
        if !self.passed {
            write!(f, ", expected {}", self.expected)?;
        }
        Ok(())
    }
}

impl fmt::Display for TestReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for case in &self.cases {
            writeln!(f, "{case}")?;
            for line in case
                .explanation
                .iter()
                .flat_map(|e| e.to_string().lines().map(str::to_owned).collect::<Vec<_>>())
            {
                writeln!(f, "    {line}")?;
            }
        }
        if !self.untested.is_empty() {
            writeln!(f, "no case is decided by: {}", self.untested.join(", "))?;
        }
        writeln!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    #[test]
    fn times_with_an_offset_only() {
        let check = |text: &str, expect: Option<&str>| {
            let at = timestamp(Datetime::from_str(text).unwrap());
            assert_eq!(at.map(|at| at.to_string()).as_deref(), expect, "{text}");
        };
        check("2026-11-25T14:13:05Z", Some("2026-11-25T14:13:05.000Z"));
        check("2026-11-25T14:13:05.5+02:00", Some("2026-11-25T12:13:05.500Z"));
        check("2000-02-29T00:00:00-00:30", Some("2000-02-29T00:30:00.000Z"));
        check("2026-11-25T14:13:05", None);
        check("2026-11-25", None);
        check("14:13:05", None);
        check("1969-12-31T23:59:59Z", None);
        check("9999-01-01T00:00:00Z", None);
        assert_eq!(AT_DEFAULT.to_string(), "2026-01-01T00:00:00.000Z");
    }
}
