//! What stays in a session: settings, transactions, prepared statements, cursors, notifications.

use std::ops::Range;

use pg_query::NodeEnum;
use pg_query::protobuf::{
    DiscardMode, Node, Token, TransactionStmt, TransactionStmtKind, VariableSetKind,
    VariableSetStmt,
};

use super::expr::{Literal, boolean, literal};
use super::utility::{Named, SCHEMA, def_text};
use super::{R, Reader, inner};
use crate::facts::{Effects, Kind, NameUse, Tx};
use crate::settings::{SettingAction, SettingScope, SettingUse, SettingValue};

const OPTION_HOLD: i32 = 0x0020;

impl Reader<'_> {
    /// Settings, transactions, prepared statements, cursors, notifications.
    pub(super) fn session_statement(&mut self, node: &NodeEnum) -> R<Named> {
        Ok(match node {
            NodeEnum::VariableSetStmt(set) => {
                self.effect(Effects::SETTINGS);
                self.set(set, None);
                let reset = matches!(
                    VariableSetKind::try_from(set.kind),
                    Ok(VariableSetKind::VarReset | VariableSetKind::VarResetAll)
                );
                (Kind::Set, if reset { "RESET" } else { "SET" })
            }
            NodeEnum::VariableShowStmt(show) => {
                self.effect(Effects::READ);
                self.out.settings.push(SettingUse::new(
                    Some(&show.name),
                    SettingAction::Show,
                    SettingScope::Session,
                    SettingValue::Unknown,
                ));
                (Kind::Show, "SHOW")
            }
            NodeEnum::DiscardStmt(discard) => {
                (Kind::Discard, self.discard(DiscardMode::try_from(discard.target).ok()))
            }
            NodeEnum::ConstraintsSetStmt(_) => {
                self.effect(Effects::TRANSACTION);
                (Kind::Set, "SET CONSTRAINTS")
            }
            NodeEnum::TransactionStmt(transaction) => self.transaction(transaction),
            NodeEnum::PrepareStmt(prepare) => {
                if let Some(query) = prepare.query.as_deref() {
                    self.any_statement(query)?;
                }
                for argument in &prepare.argtypes {
                    if let Some(NodeEnum::TypeName(name)) = inner(argument) {
                        self.cast_to(name);
                    }
                }
                // The `$n` are the prepared statement's own.
                self.out.params = 0;
                let inner = self.after(Token::As);
                self.name_use(NameUse::Prepare { name: prepare.name.clone(), inner });
                (Kind::Prepare, "PREPARE")
            }
            NodeEnum::ExecuteStmt(execute) => {
                self.exprs(&execute.params)?;
                self.effect(Effects::DEFERRED);
                self.name_use(NameUse::Execute { name: execute.name.clone() });
                (Kind::Execute, "EXECUTE")
            }
            NodeEnum::DeallocateStmt(deallocate) => {
                let all = deallocate.isall || deallocate.name.is_empty();
                let name = (!all).then(|| deallocate.name.clone());
                self.name_use(NameUse::Deallocate { name });
                (Kind::Deallocate, "DEALLOCATE")
            }
            NodeEnum::DeclareCursorStmt(declare) => {
                if let Some(query) = declare.query.as_deref() {
                    self.any_statement(query)?;
                }
                self.name_use(NameUse::Declare {
                    name: declare.portalname.clone(),
                    hold: declare.options & OPTION_HOLD != 0,
                    inner: self.after(Token::For),
                });
                (Kind::Declare, "DECLARE CURSOR")
            }
            NodeEnum::FetchStmt(fetch) => {
                self.effect(Effects::DEFERRED);
                let name = fetch.portalname.clone();
                self.name_use(NameUse::Fetch { name, moves: fetch.ismove });
                (Kind::Fetch, if fetch.ismove { "MOVE" } else { "FETCH" })
            }
            NodeEnum::ClosePortalStmt(close) => {
                let name = (!close.portalname.is_empty()).then(|| close.portalname.clone());
                self.name_use(NameUse::Close { name });
                (Kind::Close, "CLOSE CURSOR")
            }
            NodeEnum::ListenStmt(listen) => {
                self.effect(Effects::NOTIFY);
                self.out.channels.push(listen.conditionname.clone());
                (Kind::Listen, "LISTEN")
            }
            NodeEnum::UnlistenStmt(unlisten) => {
                self.effect(Effects::NOTIFY);
                let name = &unlisten.conditionname;
                self.out.channels.push(if name.is_empty() { "*".into() } else { name.clone() });
                (Kind::Listen, "UNLISTEN")
            }
            NodeEnum::NotifyStmt(notify) => {
                self.effect(Effects::NOTIFY);
                self.out.channels.push(notify.conditionname.clone());
                (Kind::Notify, "NOTIFY")
            }
            NodeEnum::DoStmt(_) => {
                self.effect(Effects::OPAQUE);
                (Kind::Do, "DO")
            }
            NodeEnum::CallStmt(call) => {
                self.effect(Effects::OPAQUE);
                if let Some(function) = call.funccall.as_deref() {
                    self.func_call(function, false)?;
                }
                (Kind::Call, "CALL")
            }
            other => self.maintenance_statement(other)?,
        })
    }

    /// The range behind the first `token` outside parentheses: what `PREPARE … AS` and
    /// `DECLARE … FOR` hold.
    fn after(&self, token: Token) -> Option<Range<usize>> {
        let range = self.out.text.clone();
        let mut depth = 0_usize;
        let mut found = false;
        for scanned in self.cx.tokens {
            let start = usize::try_from(scanned.start).ok()?;
            if start < range.start {
                continue;
            }
            if start >= range.end {
                break;
            }
            let comment = [Token::SqlComment as i32, Token::CComment as i32];
            if comment.contains(&scanned.token) {
                continue;
            }
            if found {
                return Some(start..range.end);
            }
            if scanned.token == Token::Ascii40 as i32 {
                depth += 1;
            } else if scanned.token == Token::Ascii41 as i32 {
                depth = depth.saturating_sub(1);
            } else if depth == 0 && scanned.token == token as i32 {
                found = true;
            }
        }
        None
    }

    fn transaction(&mut self, transaction: &TransactionStmt) -> Named {
        use TransactionStmtKind as T;
        self.effect(Effects::TRANSACTION);
        let chain = transaction.chain;
        let name = transaction.savepoint_name.clone();
        let gid = transaction.gid.clone();
        let (tx, tag) = match T::try_from(transaction.kind) {
            Ok(T::TransStmtBegin) => {
                (Tx::Begin { read_only: self.modes(&transaction.options) }, "BEGIN")
            }
            Ok(T::TransStmtStart) => {
                (Tx::Begin { read_only: self.modes(&transaction.options) }, "START TRANSACTION")
            }
            Ok(T::TransStmtCommit) => (Tx::Commit { chain }, "COMMIT"),
            Ok(T::TransStmtRollback) => (Tx::Rollback { chain }, "ROLLBACK"),
            Ok(T::TransStmtSavepoint) => (Tx::Savepoint(name), "SAVEPOINT"),
            Ok(T::TransStmtRelease) => (Tx::Release(name), "RELEASE"),
            Ok(T::TransStmtRollbackTo) => (Tx::RollbackTo(name), "ROLLBACK TO SAVEPOINT"),
            Ok(T::TransStmtPrepare) => (Tx::Prepare(gid), "PREPARE TRANSACTION"),
            Ok(T::TransStmtCommitPrepared) => (Tx::CommitPrepared(gid), "COMMIT PREPARED"),
            Ok(T::TransStmtRollbackPrepared) => (Tx::RollbackPrepared(gid), "ROLLBACK PREPARED"),
            Ok(T::Undefined) | Err(_) => {
                self.unknown("a transaction command of an unknown kind");
                return (Kind::Transaction, "");
            }
        };
        let outlives =
            matches!(tx, Tx::Prepare(_) | Tx::CommitPrepared(_) | Tx::RollbackPrepared(_));
        if matches!(tx, Tx::CommitPrepared(_)) {
            // Of what was prepared, whatever it was.
            self.effect(Effects::WRITE | SCHEMA);
        }
        self.out.transaction = Some(tx);
        (if outlives { Kind::TwoPhase } else { Kind::Transaction }, tag)
    }

    /// `READ ONLY` or `READ WRITE` among the modes of a transaction; the last one counts.
    fn modes(&self, options: &[Node]) -> Option<bool> {
        options.iter().rev().find_map(|node| match inner(node)? {
            NodeEnum::DefElem(option) if option.defname == "transaction_read_only" => {
                match literal(option.arg.as_deref()?)? {
                    Literal::Number(n) => Some(n != "0"),
                    Literal::Bool(b) => Some(b),
                    Literal::Text(text) => boolean(&text),
                    Literal::Null => None,
                }
            }
            _ => None,
        })
    }

    fn discard(&mut self, mode: Option<DiscardMode>) -> &'static str {
        match mode {
            Some(DiscardMode::DiscardAll) => {
                self.effect(Effects::SETTINGS | Effects::SEQUENCE | Effects::NOTIFY);
                self.reset_all();
                self.name_use(NameUse::Deallocate { name: None });
                self.name_use(NameUse::Close { name: None });
                self.out.channels.push("*".to_owned());
                "DISCARD ALL"
            }
            Some(DiscardMode::DiscardSequences) => {
                self.effect(Effects::SEQUENCE);
                "DISCARD SEQUENCES"
            }
            Some(DiscardMode::DiscardPlans) => "DISCARD PLANS",
            Some(DiscardMode::DiscardTemp) => "DISCARD TEMP",
            Some(DiscardMode::Undefined) | None => {
                self.unknown("a DISCARD of an unknown kind");
                "DISCARD"
            }
        }
    }

    fn reset_all(&mut self) {
        self.out.settings.push(SettingUse::new(
            None,
            SettingAction::ResetAll,
            SettingScope::Session,
            SettingValue::Default,
        ));
    }

    pub(super) fn set(&mut self, set: &VariableSetStmt, scope: Option<SettingScope>) {
        let scope =
            scope.unwrap_or(if set.is_local { SettingScope::Local } else { SettingScope::Session });
        let list = set.name.eq_ignore_ascii_case("search_path");
        let (action, value) = match VariableSetKind::try_from(set.kind) {
            Ok(VariableSetKind::VarSetValue) => {
                let items: Option<Vec<String>> =
                    set.args.iter().map(|n| set_value(n, list)).collect();
                let value = items
                    .map_or(SettingValue::Unknown, |items| SettingValue::Literal(items.join(", ")));
                (SettingAction::Set, value)
            }
            Ok(VariableSetKind::VarSetDefault | VariableSetKind::VarReset) => {
                (SettingAction::Reset, SettingValue::Default)
            }
            Ok(VariableSetKind::VarSetCurrent) => (SettingAction::Set, SettingValue::Current),
            Ok(VariableSetKind::VarResetAll) => {
                self.out.settings.push(SettingUse::new(
                    None,
                    SettingAction::ResetAll,
                    scope,
                    SettingValue::Default,
                ));
                return;
            }
            Ok(VariableSetKind::VarSetMulti) => return self.set_transaction(set),
            Ok(VariableSetKind::Undefined) | Err(_) => {
                self.unknown("a SET of an unknown kind");
                return;
            }
        };
        // The role that the session began with.
        let none = value == SettingValue::Literal("none".to_owned()) && set.name == "role";
        let (action, value) =
            if none { (SettingAction::Reset, SettingValue::Default) } else { (action, value) };
        self.out.settings.push(SettingUse::new(Some(&set.name), action, scope, value));
    }

    /// `SET TRANSACTION`, `SET SESSION CHARACTERISTICS`, `SET TRANSACTION SNAPSHOT`.
    fn set_transaction(&mut self, set: &VariableSetStmt) {
        let scope = SettingScope::Transaction;
        match set.name.to_ascii_uppercase().as_str() {
            "TRANSACTION" | "SESSION CHARACTERISTICS" => {
                self.effect(Effects::TRANSACTION);
                for node in &set.args {
                    let Some(NodeEnum::DefElem(option)) = inner(node) else {
                        self.unknown("a transaction mode of an unknown form");
                        continue;
                    };
                    let value = option.arg.as_deref().and_then(def_text);
                    let value = value.map_or(SettingValue::Unknown, SettingValue::Literal);
                    let name = Some(option.defname.as_str());
                    self.out.settings.push(SettingUse::new(name, SettingAction::Set, scope, value));
                }
            }
            _ => {
                // No name is in doubt here, so that nobody asks the server about names before it:
                // the statement must come before any query.
                self.effect(Effects::TRANSACTION);
                let (name, value) = (Some("transaction_snapshot"), SettingValue::Unknown);
                self.out.settings.push(SettingUse::new(name, SettingAction::Set, scope, value));
            }
        }
    }
}

/// One value of a `SET`.
fn set_value(node: &Node, list: bool) -> Option<String> {
    match literal(node)? {
        Literal::Text(text) if list => Some(format!("\"{}\"", text.replace('"', "\"\""))),
        Literal::Text(text) | Literal::Number(text) => Some(text),
        Literal::Bool(b) => Some(b.to_string()),
        Literal::Null => None,
    }
}
