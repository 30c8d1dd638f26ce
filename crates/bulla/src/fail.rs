//! How a command fails: which words, and which exit code.

use std::{fmt, process::ExitCode};

use bulla_identity as identity;
use bulla_policy::PolicyProblem;

use crate::config::Problem;

/// A configuration or policies that do not hold: exit 3.
#[derive(Debug)]
pub struct Invalid {
    pub lines: Vec<String>,
    pub json: serde_json::Value,
}

impl Invalid {
    pub fn config(problems: Vec<Problem>) -> Self {
        Self::new(&problems)
    }
    pub fn policies(problems: Vec<PolicyProblem>) -> Self {
        Self::new(&problems)
    }
    pub fn identity(problems: Vec<identity::Problem>) -> Self {
        let json = problems.iter().map(|p| serde_json::json!({ "key": p.path, "message": p.what }));
        let lines = problems.iter().map(ToString::to_string).collect();
        Self { json: json.collect(), lines }
    }
    fn new<P: fmt::Display + serde::Serialize>(problems: &[P]) -> Self {
        let lines = problems.iter().map(ToString::to_string).collect();
        Self { lines, json: serde_json::to_value(problems).unwrap_or_default() }
    }
    /// Both at once.
    pub fn and(mut self, other: Self) -> Self {
        self.lines.extend(other.lines);
        if let (Some(all), serde_json::Value::Array(more)) = (self.json.as_array_mut(), other.json)
        {
            all.extend(more);
        }
        self
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}

impl std::error::Error for Invalid {}

/// Denied, by policy or by an operator's rights: exit 4.
#[derive(Debug)]
pub struct Denied(pub String);

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Denied {}

/// Exit codes, as `bulla help` lists them.
pub mod code {
    pub const ERROR: u8 = 1;
    pub const INVALID: u8 = 3;
    pub const DENIED: u8 = 4;
    pub const TAMPERED: u8 = 10;
    pub const GAP: u8 = 11;
}

/// The exit code of a failure.
pub fn code_of(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(if error.is::<Invalid>() {
        code::INVALID
    } else if error.is::<Denied>() {
        code::DENIED
    } else {
        code::ERROR
    })
}
