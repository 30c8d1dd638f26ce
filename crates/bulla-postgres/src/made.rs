//! The command of a prepared statement, made once for all of its executions.
//!
//! What a command says depends on the statement's facts, on where names are looked for, on the
//! protocol's step and on the transaction: while those stay, only the bound values are new. What
//! hides something, or runs something by name, is made anew each time.

use std::sync::{Arc, Mutex, PoisonError};

use bulla_core::{Command, Parameter};
use bulla_sql::{Facts, SearchPath};
use bulla_wire::Violation;

use crate::{
    judge::Read,
    machine::Machine,
    mask::Veil,
    named::Survey,
    names::Prepared,
    reading::{Phase, Transaction},
};

/// A command of more touches than this is not kept, so that a prepared statement stays small.
const TOUCHES_MAX: usize = 64;

/// What a command was made from, but the bound values. The two that are shared are compared by
/// place: they never change, and being held here they cannot give their place to another.
#[derive(Debug, Clone)]
pub struct Basis {
    pub facts: Arc<Facts>,
    pub path: Arc<SearchPath>,
    pub phase: Phase,
    pub transaction: Transaction,
    pub parameters_known: bool,
}

impl Basis {
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.facts, &other.facts)
            && Arc::ptr_eq(&self.path, &other.path)
            && self.phase == other.phase
            && self.transaction == other.transaction
            && self.parameters_known == other.parameters_known
    }
}

/// The last command that was made of a prepared statement.
#[derive(Debug, Default)]
pub struct Made(Mutex<Option<Box<(Basis, Command)>>>);

impl Made {
    /// The command made from the same, with other values.
    pub fn again(&self, basis: &Basis, parameters: &Arc<[Parameter]>) -> Option<Command> {
        // It is replaced whole, so one left by a panic is still consistent.
        let made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, command) = made.as_deref().filter(|(known, _)| known.is(basis))?;
        Some(Command { parameters: parameters.clone(), ..command.clone() })
    }

    pub fn keep(&self, basis: Basis, command: &Command) {
        if command.touches.seen().len() + command.beneath.len() > TOUCHES_MAX {
            return;
        }
        let command = Command { parameters: Arc::default(), ..command.clone() };
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *made = Some(Box::new((basis, command)));
    }
}

impl Machine {
    /// [`Machine::command`] of a prepared statement: made once where nothing but its values is new.
    pub fn command_of(
        &self,
        statement: &Prepared,
        read: &Read,
        survey: &Survey,
        phase: Phase,
        parameters: (Arc<[Parameter]>, bool),
        veil: Option<&Arc<Veil>>,
    ) -> Result<Command, Violation> {
        let plain = veil.is_none()
            && survey.missing.is_none()
            && survey.deferred.is_empty()
            && survey.remembered.is_empty()
            && self.shared.masking.of(&self.place.resource).is_none();
        if !plain {
            return self.command(&statement.text, read, survey, phase, parameters, veil);
        }
        let basis = Basis {
            facts: read.facts.clone(),
            path: self.here().reading().clone(),
            phase,
            transaction: self.transaction(),
            parameters_known: parameters.1,
        };
        if let Some(command) = statement.made.again(&basis, &parameters.0) {
            return Ok(command);
        }
        let command = self.command(&statement.text, read, survey, phase, parameters, veil)?;
        statement.made.keep(basis, &command);
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use bulla_core::ParameterValue;

    use super::*;
    use crate::reading;

    fn command(basis: &Basis, parameters: Arc<[Parameter]>) -> Command {
        reading::command(reading::Seen {
            phase: basis.phase,
            shown: "select 1".into(),
            facts: &basis.facts,
            deferred: &[],
            missing: None,
            parameters,
            parameters_known: basis.parameters_known,
            transaction: basis.transaction,
            settings: format!("{:?}", basis.path.schemas()).into(),
        })
        .unwrap()
    }

    /// The second time with other values it is what it would be if it were made anew; made from
    /// anything else it is not found.
    #[test]
    fn a_command_is_kept_for_what_it_was_made_from() {
        let basis = Basis {
            facts: Arc::default(),
            path: Arc::new(SearchPath::new(["public"])),
            phase: Phase::Execute,
            transaction: Transaction::Idle,
            parameters_known: true,
        };
        let value = |text: &str| -> Arc<[Parameter]> {
            let value = ParameterValue::Text(text.into());
            [Parameter { name: "$1".into(), kind: "25".into(), value }].into()
        };
        let made = Made::default();
        assert!(made.again(&basis, &value("a")).is_none());
        made.keep(basis.clone(), &command(&basis, value("a")));
        assert_eq!(made.again(&basis, &value("b")), Some(command(&basis, value("b"))));
        let others = [
            Basis { facts: Arc::default(), ..basis.clone() },
            Basis { path: Arc::new(SearchPath::new(["public"])), ..basis.clone() },
            Basis { phase: Phase::Bind, ..basis.clone() },
            Basis { transaction: Transaction::Open, ..basis.clone() },
            Basis { parameters_known: false, ..basis.clone() },
        ];
        for other in &others {
            assert!(made.again(other, &value("b")).is_none(), "{other:?}");
        }
    }
}
