//! SSH through Bulla: commands, shells, SFTP and forwarded connections, hosted on russh.
//!
//! russh moves the bytes, on both sides: a client's connection ends here, and another one begins.
//! What a client asks for is read here, judged, recorded and only then asked of the target. This
//! crate is *not* a place where anything is decided: that is the gate, behind the door.
//!
//! Invariants:
//! - **No request reaches a target but out of a `Cleared`, no input but out of a `Released`.**
//! - **No static key opens the gateway**: a token does, or a certificate that the gateway minted.
//! - **No target is trusted on first use.**
//! - **No connection to a target serves two sessions, and none two channels at once.**
//! - **Nothing that a target opens is answered**, and no agent, display or socket is forwarded.
//! - **A shell is judged when it opens.** What is typed in it is recorded, and bounds nothing.
//!
//! | file | holds |
//! |---|---|
//! | `name` | login names; pure |
//! | `argv` | a command line as every shell reads it, or none; pure |
//! | `reading` | what a request does; pure |
//! | `host` | a host as it is configured; the descriptor |
//! | `authority` | the gateway's own keys, and the certificates that it mints |
//! | `stream` | a byte stream that can be cut |
//! | `serve` | one connection of a client: identity, channels |
//! | `line` | one channel: judged, run, answered |
//! | `backlog` | what a client sent and its target has not taken |
//! | `pump` | the bytes of a channel, both ways, evidence first |
//! | `sftp` | packets of SFTP; pure |
//! | `files` | the `sftp` subsystem: each operation judged |
//! | `typed`, `cast` | what is typed at a terminal; its record as asciicast; pure |
//! | `wait` | bytes that wait for the record |
//! | `target` | connections to a target, its host key, its login |
//! | `vouch` | the same by way of an agent |
//! | `beside` | the agent's side of that: it certifies, or signs |
//! | `seen` | what a target says in clear; pure |
//! | `certify`, `login` | certificates for whoever is identified, and how a client asks for one |

mod argv;
mod authority;
mod backlog;
mod beside;
mod cast;
mod certify;
mod files;
mod host;
mod line;
mod login;
mod name;
mod pump;
mod reading;
mod seen;
mod serve;
mod sftp;
mod stream;
mod target;
mod typed;
mod vouch;
mod wait;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use bulla_core::{Boxed, Command, Credential, Descriptor, Identity, IdentityError, Origin};
use bulla_core::{Principal, Timestamp};
use bulla_host::{Arrival, Door, Hosted, Transport};
use parking_lot::Mutex;

pub use authority::{Authority, AuthorityError, CLIENT_TTL_SECS_MAX};
pub use beside::{Beside, authority_line};
pub use cast::{Piece, cast};
pub use host::{DESCRIPTOR, Host, HostKeys, Masked, TargetLogin};
pub use login::{LoginError, fresh_key, login};
pub use russh::keys::PublicKey;
pub use typed::lines as typed_lines;

/// The protocol, with every host that is configured.
pub struct Ssh {
    hosts: Vec<Arc<Host>>,
    /// Names by which clients reach the gateway.
    names: Vec<String>,
    /// Ports of the targets of other protocols: a forwarded connection is no way around them.
    guarded_ports: Vec<u16>,
    keys: Arc<Keys>,
    /// What waits for targets.
    house: Arc<backlog::House>,
    /// What is shown to clients, and when it was signed.
    shown: Mutex<Option<(Timestamp, Arc<russh::server::Config>)>>,
}

/// The gateway's keys, read or made when they are first needed.
pub struct Keys {
    dir: PathBuf,
    opened: OnceLock<Arc<Authority>>,
}

impl Keys {
    pub fn new(dir: &Path) -> Arc<Self> {
        Arc::new(Self { dir: dir.to_owned(), opened: OnceLock::new() })
    }
    pub fn open(&self) -> Result<Arc<Authority>, AuthorityError> {
        if let Some(authority) = self.opened.get() {
            return Ok(authority.clone());
        }
        let authority = Arc::new(Authority::open(&self.dir)?);
        Ok(self.opened.get_or_init(|| authority).clone())
    }
}

impl Identity for Keys {
    fn verify<'a>(
        &'a self,
        credential: Credential,
        origin: &'a Origin,
        now: Timestamp,
    ) -> Boxed<'a, Result<Principal, IdentityError>> {
        Box::pin(async move {
            let failed = |error: AuthorityError| IdentityError {
                word: "keys_unavailable",
                detail: error.to_string().into(),
            };
            self.open().map_err(failed)?.verify(credential, origin, now).await
        })
    }
}

impl Ssh {
    pub fn new(
        hosts: Vec<Host>,
        names: Vec<String>,
        guarded_ports: Vec<u16>,
        keys: Arc<Keys>,
    ) -> Self {
        let hosts = hosts.into_iter().map(Arc::new).collect();
        Self { hosts, names, guarded_ports, keys, house: Arc::default(), shown: Mutex::default() }
    }
    pub(crate) fn host(&self, resource: &str) -> Option<&Arc<Host>> {
        self.hosts.iter().find(|host| *host.resource == *resource)
    }
    pub(crate) fn guards(&self, port: u32) -> bool {
        self.guarded_ports.iter().any(|own| u32::from(*own) == port)
    }
    pub(crate) fn authority(&self) -> Result<Arc<Authority>, AuthorityError> {
        self.keys.open()
    }
}

/// What went to a client, as a person reads it, line by line. Not escaped.
pub fn render(action: &str, to_client: &[u8]) -> Vec<String> {
    let files = !matches!(action, "ssh:exec" | "ssh:shell" | "ssh:forward" | "");
    files.then(|| sftp::render(to_client)).flatten().unwrap_or_else(|| cast::render(to_client))
}

impl Hosted for Ssh {
    fn descriptor(&self) -> &'static Descriptor {
        &DESCRIPTOR
    }
    fn transport(&self) -> Transport {
        Transport::Bare
    }
    fn prepare(&self) -> Result<(), String> {
        self.keys.open().map(drop).map_err(|error| error.to_string())
    }
    fn serve(self: Arc<Self>, arrival: Arrival, door: Door) -> Boxed<'static, ()> {
        Box::pin(serve::serve(self, arrival, door))
    }
    fn read(&self, resource: &str, text: &str) -> Result<Command, String> {
        let host = self.host(resource).ok_or_else(|| format!("`{resource}` is no host"))?;
        let account = host.accounts.first().map_or("", String::as_str);
        let words = "write `exec LINE`, `shell`, `subsystem NAME` or `forward HOST:PORT`";
        reading::read(text, account).ok_or_else(|| words.to_owned())
    }
}
