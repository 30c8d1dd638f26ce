//! What of a session decides where names lead: the role in effect, the search path, temporary
//! relations, and objects that the session itself made, changed or dropped.
//!
//! Followed statement by statement as the server confirms them. Where following would need a guess
//! (a function that nobody read, a rolled back savepoint) it becomes unknown, and the machine asks
//! the server. Objects are not followed but looked at: what a transaction changed is in no snapshot
//! that others can take, so the session's own connection is asked for the catalogue as it sees it.
//! Source: PostgreSQL's `guc.c`, "stack" of SET LOCAL and transactions.

use std::{collections::BTreeMap, sync::Arc};

use bulla_sql::{Catalog, SearchPath, catalog::Temporary};

/// What a statement does to the world once it has succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// `SET search_path`; `None` where the value is not known.
    Path {
        to: Option<Arc<str>>,
        local: bool,
    },
    /// Another role may be in effect.
    Role,
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

/// Whether the catalogue that is at hand is the one that the session sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stale {
    No,
    /// Code ran that nobody read.
    Maybe,
    /// The transaction changed objects.
    Yes,
}

/// The world as it is, or as it will be when what is in flight succeeds.
#[derive(Debug, Clone)]
pub struct World {
    /// The role in effect. `None`: not known, here and below.
    user: Option<Arc<str>>,
    /// The path as set: when the transaction began; after it commits; and now.
    start: Option<Arc<str>>,
    session: Option<Arc<str>>,
    now: Option<Arc<str>>,
    temporary: Option<Arc<BTreeMap<String, Temporary>>>,
    /// Of the transaction: the role or the path, even if it came back; temporary relations; other
    /// objects.
    user_changed: bool,
    path_changed: bool,
    temporary_changed: bool,
    schema_changed: bool,
    stale: Stale,
    /// The catalogue as this transaction alone sees it.
    own: Option<Arc<Catalog>>,
    /// `now` under `user`, with `temporary` in front.
    reading: Arc<SearchPath>,
}

impl World {
    /// Nothing is known.
    pub fn unknown() -> Self {
        Self {
            user: None,
            start: None,
            session: None,
            now: None,
            temporary: None,
            user_changed: false,
            path_changed: false,
            temporary_changed: false,
            schema_changed: false,
            stale: Stale::No,
            own: None,
            reading: Arc::new(SearchPath::unknown()),
        }
    }

    fn join(&mut self) {
        let path = match (&self.now, &self.user) {
            (Some(path), Some(user)) => SearchPath::parse(path, user),
            _ => SearchPath::unknown(),
        };
        let reading = match &self.temporary {
            Some(names) if path.schemas().is_some() => path.with_temporary((**names).clone()),
            _ => path.with_temp_unknown(),
        };
        if *self.reading != reading {
            self.reading = Arc::new(reading);
        }
    }

    /// Where names are looked for.
    pub fn reading(&self) -> &Arc<SearchPath> {
        &self.reading
    }

    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Whether the server would have to be asked where names are looked for.
    pub fn is_sure(&self) -> bool {
        self.reading.schemas().is_some() && self.temporary.is_some()
    }

    pub fn stale(&self) -> Stale {
        self.stale
    }

    pub fn own(&self) -> Option<&Arc<Catalog>> {
        self.own.as_ref()
    }

    /// The end of the transaction will, or may, change something.
    pub fn is_changed(&self) -> bool {
        self.user_changed || self.path_changed || self.temporary_changed || self.schema_changed
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
            Turn::Role => (self.user, self.user_changed) = (None, true),
            Turn::Temporary => {
                self.temporary = None;
                self.temporary_changed = true;
            }
            Turn::Opaque => {
                (self.user, self.now, self.session, self.temporary) = (None, None, None, None);
                (self.user_changed, self.path_changed) = (true, true);
                self.temporary_changed = true;
                self.stale = self.stale.max(Stale::Maybe);
            }
            Turn::Schema => (self.schema_changed, self.stale) = (true, Stale::Yes),
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
                if self.user_changed {
                    self.user = None;
                }
                if self.path_changed {
                    (self.now, self.session) = (None, None);
                }
                if self.temporary_changed {
                    self.temporary = None;
                }
                if self.schema_changed {
                    self.stale = Stale::Yes;
                }
            }
        }
        self.join();
    }

    fn end(&mut self) {
        if self.user_changed {
            self.user = None;
        }
        if self.temporary_changed {
            self.temporary = None;
        }
        // What was changed is in the next snapshot that anybody takes, or nowhere.
        if self.stale == Stale::Yes {
            self.stale = Stale::No;
        }
        self.own = None;
        (self.user_changed, self.path_changed) = (false, false);
        (self.temporary_changed, self.schema_changed) = (false, false);
    }

    /// The server says what the path is. Outside of a transaction that is all there is to know.
    pub fn told_path(&mut self, path: &Arc<str>, in_transaction: bool) {
        if self.now.as_ref() != Some(path) {
            self.now = Some(path.clone());
            self.join();
        }
        if !in_transaction && (self.start != self.now || self.session != self.now) {
            (self.start, self.session) = (self.now.clone(), self.now.clone());
        }
    }

    /// The server says which role is in effect, and which temporary relations there are.
    pub fn told(&mut self, user: &str, temporary: BTreeMap<String, Temporary>) {
        if self.user.as_deref() != Some(user) {
            self.user = Some(user.into());
        }
        self.temporary = (temporary.len() <= crate::ask::TEMPORARY_MAX).then(|| temporary.into());
        self.join();
    }

    /// The server says that the transaction changed relations. Of what the session did itself that
    /// is known; code that nobody read may have done it as well.
    pub fn told_changed(&mut self) {
        if self.stale == Stale::Maybe {
            (self.stale, self.schema_changed) = (Stale::Yes, true);
        }
    }

    /// The temporary relations, as far as they are known.
    pub fn temporary(&self) -> Option<Arc<BTreeMap<String, Temporary>>> {
        self.temporary.clone()
    }

    /// There are these, and a table of that name.
    pub fn with_temporary(&mut self, before: &BTreeMap<String, Temporary>, name: String) {
        let mut now = before.clone();
        now.insert(name, Temporary::Own);
        self.temporary = Some(now.into());
        self.join();
    }

    /// The catalogue as the session sees it now. Of a transaction: of nobody else.
    pub fn looked(&mut self, catalog: Arc<Catalog>) {
        (self.own, self.stale) = (Some(catalog), Stale::No);
    }

    /// The catalogue that everybody sees was looked at after whatever ran here.
    pub fn refreshed(&mut self) {
        if self.stale == Stale::Maybe {
            self.stale = Stale::No;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(names: &str) -> Option<Arc<str>> {
        Some(names.into())
    }
    fn world() -> World {
        let mut world = World::unknown();
        world.told_path(&"public".into(), false);
        world.told("u", BTreeMap::new());
        world
    }
    fn set(names: &str) -> Turn {
        Turn::Path { to: path(names), local: false }
    }
    fn local(names: &str) -> Turn {
        Turn::Path { to: path(names), local: true }
    }

    fn check(turns: &[Turn], expect: &str) {
        let mut world = world();
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
        check(&[Opaque, Rollback], "? temp?");
        check(&[Turn::Path { to: None, local: true }, Commit], "public");
        check(&[Turn::Role], "? temp?");
        check(&[Turn::Role, Commit], "? temp?");
        check(&[Turn::Role, Rollback], "? temp?");
        check(&[Turn::Role, Turn::Back], "? temp?");
    }

    #[test]
    fn the_server_knows_best() {
        let mut world = world();
        world.apply(&Turn::Opaque);
        assert!(!world.is_sure());
        world.told_path(&"\"$user\"".into(), true);
        world.told("boss", [("t".to_string(), Temporary::Own)].into());
        assert!(world.is_sure() && world.is_changed());
        assert_eq!(world.reading().temp().map(BTreeMap::len), Some(1));
        // The role that is in effect, not the one that logged in.
        assert_eq!(world.reading().schemas(), Some(&["boss".to_string()][..]));
        // Within the transaction only the present was told.
        world.apply(&Turn::Commit);
        assert!(!world.is_sure());
        world.told_path(&"a".into(), false);
        world.told("u", BTreeMap::new());
        assert!(world.is_sure() && !world.is_changed());
        world.told_path(&"no, such \" path".into(), false);
        assert!(!world.is_sure());
    }

    #[test]
    fn objects_are_looked_at_again_where_they_may_have_moved() {
        use Turn::{Back, Commit, Opaque, Rollback, Schema};
        let catalog = crate::transcript::shared().knowledge.get(&crate::transcript::place());
        let check = |turns: &[Turn], stale: Stale, own: bool| {
            let mut world = world();
            world.apply(&Schema);
            world.looked(catalog.clone().unwrap());
            turns.iter().for_each(|turn| world.apply(turn));
            assert_eq!((world.stale(), world.own().is_some()), (stale, own), "{turns:?}");
        };
        check(&[], Stale::No, true);
        check(&[Schema], Stale::Yes, true);
        check(&[Opaque], Stale::Maybe, true);
        check(&[Back], Stale::Yes, true);
        check(&[Commit], Stale::No, false);
        check(&[Rollback], Stale::No, false);
        check(&[Opaque, Commit], Stale::Maybe, false);
        check(&[Schema, Opaque, Rollback], Stale::No, false);
    }
}
