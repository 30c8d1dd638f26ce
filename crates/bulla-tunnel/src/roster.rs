//! Who may serve what: enrolments, join tokens that wait, revocations.
//!
//! One JSON file in the data folder, mode 0600, replaced whole at each change; a change that cannot
//! be written has not happened. Trusted: who can write it can let an agent in. It holds no secret:
//! of a join token it has the SHA-256.

use std::{collections::BTreeMap, fmt, io, path::PathBuf, sync::Arc, time::Duration};

use bulla_core::{Digest, ResourceName, Timestamp};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{TOKEN_TTL_MAX, private, token::random};

/// Longest file.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Tokens that wait, and instances that are known.
const TOKENS_MAX: usize = 1_000;
const INSTANCES_MAX: usize = 10_000;
/// An instance whose certificate ended is forgotten after this time.
const FORGET: Duration = Duration::from_secs(7 * 86_400);

/// One enrolled agent process: 8 random bytes in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceId(Arc<str>);

impl InstanceId {
    fn new() -> Option<Self> {
        let bytes = random::<8>()?;
        Some(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()))
    }
    pub fn parse(text: &str) -> Option<Self> {
        let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        (text.len() == 16 && text.chars().all(hex)).then(|| Self(text.into()))
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An agent, as its certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub name: Arc<str>,
    pub instance: InstanceId,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ({})", self.name, self.instance)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RosterError {
    #[error("the roster of agents in `{0}`: {1}")]
    File(String, io::Error),
    #[error("`{0}` does not hold a roster of agents: {1}")]
    Malformed(String, String),
    #[error("`{0}` is no name for an agent: use a-z, A-Z, 0-9, `_`, `-`, `.`")]
    Name(String),
    #[error("a join token lives one second to one hour")]
    Life,
    #[error("too many {0}")]
    Full(&'static str),
    #[error(
        "the join token is unknown, used up or expired; make another with `bulla agent join-token`"
    )]
    Token,
    #[error("the enrolment is unknown, revoked or expired; enrol again")]
    Instance,
    #[error("there is no enrolled agent `{0}`")]
    Absent(String),
    #[error("the system has no randomness")]
    NoRandomness,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Token {
    name: Arc<str>,
    resources: Vec<Arc<str>>,
    expires: u64,
    by: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Instance {
    name: Arc<str>,
    resources: Vec<Arc<str>>,
    /// How it came in: a join token and who made it, or a principal.
    how: Arc<str>,
    enrolled: u64,
    /// When its newest certificate ends.
    expires: u64,
    #[serde(default)]
    revoked: Option<Revoked>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Revoked {
    at: u64,
    by: Arc<str>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    version: u32,
    /// By the SHA-256 of their secrets.
    tokens: BTreeMap<String, Token>,
    instances: BTreeMap<InstanceId, Instance>,
}

/// An enrolled instance, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceView {
    pub name: Arc<str>,
    pub instance: InstanceId,
    pub resources: Vec<Arc<str>>,
    pub how: Arc<str>,
    pub enrolled: Timestamp,
    pub expires: Timestamp,
    pub revoked_by: Option<Arc<str>>,
}

/// What an enrolment gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    pub member: Member,
    pub resources: Vec<Arc<str>>,
    pub how: Arc<str>,
}

/// See the module's documentation. Every call that changes something blocks on the file.
pub struct Roster {
    path: PathBuf,
    state: Mutex<State>,
}

impl Roster {
    /// Reads the file, or starts without one.
    pub fn open(path: PathBuf) -> Result<Self, RosterError> {
        let shown = path.display().to_string();
        let found = private::read(&path, FILE_BYTES_MAX);
        let state = match found.map_err(|error| RosterError::File(shown.clone(), error))? {
            None => State { version: 1, ..State::default() },
            Some(json) => {
                let state: State = serde_json::from_slice(&json)
                    .map_err(|error| RosterError::Malformed(shown.clone(), error.to_string()))?;
                if state.version != 1 {
                    let words = format!("version {} is not known", state.version);
                    return Err(RosterError::Malformed(shown, words));
                }
                state
            }
        };
        Ok(Self { path, state: Mutex::new(state) })
    }

    /// Changes the state: on disk first, in memory after.
    fn change<R>(
        &self,
        now: Timestamp,
        change: impl FnOnce(&mut State) -> Result<R, RosterError>,
    ) -> Result<R, RosterError> {
        let mut state = self.state.lock();
        let mut next = state.clone();
        next.tokens.retain(|_, token| token.expires > now.secs());
        next.instances.retain(|_, one| one.expires + FORGET.as_secs() > now.secs());
        let result = change(&mut next)?;
        let shown = || self.path.display().to_string();
        let json = serde_json::to_vec_pretty(&next)
            .map_err(|error| RosterError::Malformed(shown(), error.to_string()))?;
        let written = crate::private::write(&self.path, &json);
        written.map_err(|error| RosterError::File(shown(), error))?;
        *state = next;
        Ok(result)
    }

    /// Lets one enrolment in, by whoever shows the secret with this hash.
    pub fn add_token(
        &self,
        hash: Digest,
        name: &str,
        resources: &[String],
        ttl: Duration,
        by: &str,
        now: Timestamp,
    ) -> Result<(), RosterError> {
        ResourceName::new(name).map_err(|_| RosterError::Name(name.escape_debug().to_string()))?;
        if ttl.is_zero() || ttl > TOKEN_TTL_MAX {
            return Err(RosterError::Life);
        }
        self.change(now, |state| {
            if state.tokens.len() >= TOKENS_MAX {
                return Err(RosterError::Full("join tokens wait"));
            }
            let resources = resources.iter().map(|name| name.as_str().into()).collect();
            let expires = now.secs() + ttl.as_secs();
            let token = Token { name: name.into(), resources, expires, by: by.into() };
            state.tokens.insert(hash.to_string(), token);
            Ok(())
        })
    }

    /// Spends a join token on a new instance. The token is gone whatever happens afterwards.
    pub fn join(
        &self,
        hash: Digest,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<Enrolled, RosterError> {
        self.change(now, |state| {
            let token = state.tokens.remove(&hash.to_string()).ok_or(RosterError::Token)?;
            let how = format!("join token of {}", token.by);
            add(state, token.name, token.resources, how.into(), now, ttl)
        })
    }

    /// Enrols an instance that has shown an identity of its own.
    pub fn admit(
        &self,
        name: &str,
        resources: &[Arc<str>],
        how: &str,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<Enrolled, RosterError> {
        ResourceName::new(name).map_err(|_| RosterError::Name(name.escape_debug().to_string()))?;
        let resources = resources.to_vec();
        self.change(now, |state| add(state, name.into(), resources, how.into(), now, ttl))
    }

    /// What the instance may serve, if it is enrolled under this name, alive and not revoked.
    pub fn check(&self, member: &Member, now: Timestamp) -> Option<Vec<Arc<str>>> {
        let state = self.state.lock();
        let found = state.instances.get(&member.instance)?;
        let good =
            found.name == member.name && found.revoked.is_none() && found.expires > now.secs();
        good.then(|| found.resources.clone())
    }

    /// Extends the life of an instance by a further certificate.
    pub fn renew(
        &self,
        member: &Member,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<Enrolled, RosterError> {
        if self.check(member, now).is_none() {
            return Err(RosterError::Instance);
        }
        self.change(now, |state| {
            let found = state.instances.get_mut(&member.instance);
            let found = found.filter(|one| one.revoked.is_none()).ok_or(RosterError::Instance)?;
            found.expires = found.expires.max(now.secs() + ttl.as_secs());
            let (resources, how) = (found.resources.clone(), found.how.clone());
            Ok(Enrolled { member: member.clone(), resources, how })
        })
    }

    /// Revokes every instance of an agent, or one of them, and forgets tokens that wait for it.
    /// Returns how many instances that were good are no longer.
    pub fn revoke(
        &self,
        name: &str,
        instance: Option<&InstanceId>,
        by: &str,
        now: Timestamp,
    ) -> Result<usize, RosterError> {
        self.change(now, |state| {
            let (mut known, mut revoked) = (false, 0);
            for (id, one) in &mut state.instances {
                if *one.name != *name || instance.is_some_and(|wanted| wanted != id) {
                    continue;
                }
                known = true;
                if one.revoked.is_none() {
                    one.revoked = Some(Revoked { at: now.secs(), by: by.into() });
                    revoked += 1;
                }
            }
            let before = state.tokens.len();
            if instance.is_none() {
                state.tokens.retain(|_, token| *token.name != *name);
            }
            if known || state.tokens.len() < before {
                Ok(revoked)
            } else {
                Err(RosterError::Absent(name.escape_debug().to_string()))
            }
        })
    }

    pub fn list(&self) -> Vec<InstanceView> {
        let state = self.state.lock();
        let view = |(id, one): (&InstanceId, &Instance)| InstanceView {
            name: one.name.clone(),
            instance: id.clone(),
            resources: one.resources.clone(),
            how: one.how.clone(),
            enrolled: Timestamp::from_secs(one.enrolled),
            expires: Timestamp::from_secs(one.expires),
            revoked_by: one.revoked.as_ref().map(|revoked| revoked.by.clone()),
        };
        state.instances.iter().map(view).collect()
    }
}

fn add(
    state: &mut State,
    name: Arc<str>,
    resources: Vec<Arc<str>>,
    how: Arc<str>,
    now: Timestamp,
    ttl: Duration,
) -> Result<Enrolled, RosterError> {
    if state.instances.len() >= INSTANCES_MAX {
        return Err(RosterError::Full("agents are enrolled"));
    }
    let id = InstanceId::new().ok_or(RosterError::NoRandomness)?;
    let member = Member { name: name.clone(), instance: id.clone() };
    let (enrolled, expires) = (now.secs(), now.secs() + ttl.as_secs());
    let (kept, kept_how) = (resources.clone(), how.clone());
    let one = Instance { name, resources: kept, how: kept_how, enrolled, expires, revoked: None };
    state.instances.insert(id, one);
    Ok(Enrolled { member, resources, how })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const DAY: Duration = Duration::from_secs(86_400);

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(1_800_000_000 + secs)
    }

    fn roster(name: &str) -> (Roster, PathBuf) {
        let dir = std::env::temp_dir().join(format!("bulla-roster-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        private::folder(&dir).unwrap();
        let path = dir.join("roster.json");
        (Roster::open(path.clone()).unwrap(), path)
    }

    fn token(roster: &Roster, byte: u8, ttl: Duration) -> Result<Digest, RosterError> {
        let hash = Digest([byte; 32]);
        roster.add_token(hash, "eu-1", &["orders".into()], ttl, "local:root", at(0))?;
        Ok(hash)
    }

    #[test]
    fn a_token_is_good_once_and_for_minutes() {
        let (roster, path) = roster("token");
        let hash = token(&roster, 1, HOUR).unwrap();
        // It survives a restart.
        let roster = {
            drop(roster);
            Roster::open(path).unwrap()
        };
        let enrolled = roster.join(hash, at(10), DAY).unwrap();
        assert_eq!((&*enrolled.member.name, &*enrolled.how), ("eu-1", "join token of local:root"));
        assert!(matches!(roster.join(hash, at(11), DAY), Err(RosterError::Token)));
        let late = token(&roster, 2, HOUR).unwrap();
        assert!(matches!(roster.join(late, at(3_600), DAY), Err(RosterError::Token)));
        for ttl in [Duration::ZERO, HOUR + Duration::from_secs(1)] {
            assert!(matches!(token(&roster, 3, ttl), Err(RosterError::Life)));
        }
    }

    #[test]
    fn an_instance_ends_renews_and_is_revoked() {
        let (roster, path) = roster("instance");
        let join = |byte| roster.join(token(&roster, byte, HOUR).unwrap(), at(1), DAY).unwrap();
        let (one, two) = (join(1).member, join(2).member);
        assert_eq!(roster.check(&one, at(2)).unwrap(), ["orders".into()]);
        let other = Member { name: "eu-2".into(), instance: one.instance.clone() };
        assert_eq!(roster.check(&other, at(2)), None);
        assert_eq!(roster.check(&one, at(86_401)), None);
        roster.renew(&one, at(50_000), DAY).unwrap();
        assert!(roster.check(&one, at(86_401)).is_some());
        assert!(matches!(roster.renew(&two, at(86_401), DAY), Err(RosterError::Instance)));
        let late = at(86_500);
        assert_eq!(roster.revoke("eu-1", Some(&one.instance), "local:root", late).unwrap(), 1);
        assert_eq!(roster.check(&one, late), None);
        assert!(matches!(roster.renew(&one, late, DAY), Err(RosterError::Instance)));
        assert!(matches!(roster.revoke("nobody", None, "x", late), Err(RosterError::Absent(_))));
        let again = Roster::open(path).unwrap();
        assert_eq!(again.list(), roster.list());
        assert_eq!(again.check(&one, late), None);
    }

    #[test]
    fn a_revoked_agent_loses_the_tokens_that_wait_for_it() {
        let (roster, _) = roster("waiting");
        let hash = token(&roster, 1, HOUR).unwrap();
        assert_eq!(roster.revoke("eu-1", None, "local:root", at(1)).unwrap(), 0);
        assert!(matches!(roster.join(hash, at(2), DAY), Err(RosterError::Token)));
    }

    #[test]
    fn what_cannot_be_written_has_not_happened() {
        let (roster, path) = roster("full");
        let hash = token(&roster, 1, HOUR).unwrap();
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
        assert!(matches!(roster.join(hash, at(1), DAY), Err(RosterError::File(..))));
        assert_eq!(roster.list(), []);
    }
}
