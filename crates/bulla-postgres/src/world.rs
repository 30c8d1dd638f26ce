//! What of a session decides where names lead: the search path, and temporary relations.
//!
//! Followed statement by statement as the server confirms them. Where following would need a guess
//! (a function that nobody read, a rolled back savepoint) it becomes unknown, and the machine asks
//! the server. Source: PostgreSQL's `guc.c`, "stack" of SET LOCAL and transactions.

use std::{collections::BTreeSet, sync::Arc};

use bulla_sql::SearchPath;

/// Temporary relations of one session that are kept by name.
pub const TEMPORARY_MAX: usize = 10_000;

/// What a statement does to the world once it has succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// `SET search_path`; `None` where the value is not known.
    Path {
        to: Option<Arc<SearchPath>>,
        local: bool,
    },
    /// Temporary relations may have come or gone.
    Temporary,
    /// Code ran that nobody read.
    Opaque,
    /// Objects were made, changed or dropped.
    Schema,
    /// `COMMIT`, or the end of what needs none.
    Commit,
    Rollback,
    /// `ROLLBACK TO`.
    Back,
}

impl Turn {
    /// What it is in a transaction of which it is known whether it has failed.
    pub fn in_transaction(&self, failed: &mut bool) -> &Self {
        match self {
            Self::Commit if std::mem::take(failed) => &Self::Rollback,
            Self::Rollback | Self::Back => {
                *failed = false;
                self
            }
            _ => self,
        }
    }
}

/// The world as it is, or as it will be when what is in flight succeeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct World {
    /// The path when the transaction began; after it commits; and now. `None`: not known.
    start: Option<Arc<SearchPath>>,
    session: Option<Arc<SearchPath>>,
    now: Option<Arc<SearchPath>>,
    temporary: Option<Arc<BTreeSet<String>>>,
    /// Of the transaction: the path, even if it came back; temporary relations; other objects.
    path_changed: bool,
    temporary_changed: bool,
    schema_changed: bool,
    /// `now` with `temporary` in front.
    reading: Arc<SearchPath>,
}

impl World {
    pub fn new(path: SearchPath) -> Self {
        let path = path.schemas().is_some().then(|| Arc::new(path));
        let mut world = Self {
            start: path.clone(),
            session: path.clone(),
            now: path,
            temporary: Some(Arc::default()),
            path_changed: false,
            temporary_changed: false,
            schema_changed: false,
            reading: Arc::new(SearchPath::unknown()),
        };
        world.join();
        world
    }

    fn join(&mut self) {
        let path = self.now.as_deref().cloned().unwrap_or_else(SearchPath::unknown);
        self.reading = Arc::new(match &self.temporary {
            Some(names) if path.schemas().is_some() => path.with_temp(names.iter().cloned()),
            _ => path.with_temp_unknown(),
        });
    }

    /// Where names are looked for.
    pub fn reading(&self) -> &Arc<SearchPath> {
        &self.reading
    }

    /// Whether the server would have to be asked.
    pub fn is_sure(&self) -> bool {
        self.now.is_some() && self.temporary.is_some()
    }

    /// The end of the transaction will, or may, change something.
    pub fn is_changed(&self) -> bool {
        self.path_changed || self.temporary_changed || self.schema_changed
    }

    /// Objects were changed that others see once the transaction commits.
    pub fn is_schema_changed(&self) -> bool {
        self.schema_changed
    }

    pub fn apply(&mut self, turn: &Turn) {
        match turn {
            Turn::Path { to, local } => {
                self.path_changed = true;
                self.now = to.clone();
                if !local {
                    self.session = to.clone();
                }
            }
            Turn::Temporary => {
                self.temporary = None;
                self.temporary_changed = true;
            }
            Turn::Opaque => {
                (self.now, self.session, self.temporary) = (None, None, None);
                (self.path_changed, self.temporary_changed) = (true, true);
            }
            Turn::Schema => self.schema_changed = true,
            Turn::Commit => {
                (self.now, self.start) = (self.session.clone(), self.session.clone());
                self.end();
            }
            Turn::Rollback => {
                (self.now, self.session) = (self.start.clone(), self.start.clone());
                self.end();
            }
            // Which changes came behind the savepoint is not followed.
            Turn::Back => {
                if self.path_changed {
                    (self.now, self.session) = (None, None);
                }
                if self.temporary_changed {
                    self.temporary = None;
                }
            }
        }
        self.join();
    }

    fn end(&mut self) {
        if self.temporary_changed {
            self.temporary = None;
        }
        (self.path_changed, self.temporary_changed, self.schema_changed) = (false, false, false);
    }

    /// The server says what the path is. Outside of a transaction that is all there is to know.
    pub fn told_path(&mut self, path: &Arc<SearchPath>, in_transaction: bool) {
        let path = path.schemas().is_some().then_some(path);
        if self.now.as_ref() != path {
            self.now = path.cloned();
            self.join();
        }
        if !in_transaction && (self.start != self.now || self.session != self.now) {
            (self.start, self.session) = (self.now.clone(), self.now.clone());
        }
    }

    /// The server says which temporary relations there are.
    pub fn told_temporary(&mut self, names: BTreeSet<String>) {
        self.temporary = (names.len() <= TEMPORARY_MAX).then(|| Arc::new(names));
        self.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(names: &str) -> Option<Arc<SearchPath>> {
        Some(Arc::new(SearchPath::parse(names, "u")))
    }
    fn set(names: &str) -> Turn {
        Turn::Path { to: path(names), local: false }
    }
    fn local(names: &str) -> Turn {
        Turn::Path { to: path(names), local: true }
    }

    fn check(turns: &[Turn], expect: &str) {
        let mut world = World::new(SearchPath::parse("public", "u"));
        turns.iter().for_each(|turn| world.apply(turn));
        let path = world.reading().schemas().map_or("?".into(), |s| s.join(","));
        let temporary = if world.reading().temp().is_some() { "" } else { " temp?" };
        assert_eq!(format!("{path}{temporary}"), expect, "{turns:?}");
    }

    #[test]
    fn paths_follow_transactions() {
        use Turn::{Back, Commit, Rollback};
        check(&[set("a")], "a");
        check(&[set("a"), Commit], "a");
        check(&[set("a"), Rollback], "public");
        check(&[local("a")], "a");
        check(&[local("a"), Commit], "public");
        check(&[local("a"), Rollback], "public");
        check(&[set("a"), local("b"), Commit], "a");
        check(&[local("b"), set("a"), Commit], "a");
        check(&[set("a"), Commit, local("b"), Rollback], "a");
        check(&[set("a"), Back], "? temp?");
        check(&[set("a"), Back, Rollback], "public");
        check(&[set("a"), Back, Commit], "? temp?");
        check(&[Back], "public");
        check(&[set("a"), set("public"), Back], "? temp?");
        check(&[set("a"), Commit, Back], "a");
    }

    #[test]
    fn what_nobody_followed_is_unknown() {
        use Turn::{Commit, Opaque, Rollback, Temporary};
        check(&[Temporary], "public temp?");
        check(&[Temporary, Commit], "public temp?");
        check(&[Opaque], "? temp?");
        check(&[Opaque, Rollback], "public temp?");
        check(&[Turn::Path { to: None, local: true }, Commit], "public");
    }

    #[test]
    fn the_server_knows_best() {
        let mut world = World::new(SearchPath::parse("public", "u"));
        world.apply(&Turn::Opaque);
        assert!(!world.is_sure());
        world.told_path(&path("a").unwrap(), true);
        world.told_temporary(["t".to_string()].into());
        assert!(world.is_sure() && world.is_changed());
        assert_eq!(world.reading().temp().map(BTreeSet::len), Some(1));
        // Within the transaction only the present was told.
        world.apply(&Turn::Commit);
        assert!(!world.is_sure());
        world.told_path(&path("a").unwrap(), false);
        world.told_temporary(BTreeSet::new());
        assert!(world.is_sure() && !world.is_changed());
        world.told_path(&Arc::new(SearchPath::unknown()), false);
        assert!(!world.is_sure());
    }
}
