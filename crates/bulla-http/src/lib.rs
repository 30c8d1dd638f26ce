//! HTTP through Bulla: HTTP/1.1 and HTTP/2 with gRPC, WebSocket and streams.
//!
//! HTTP/1.1 is read and written here, in the task of its connection; hyper moves the bytes of
//! HTTP/2. What they mean is read strictly and once: a head is checked, normalised, judged,
//! recorded and sent in one and the same form. This crate is *not* a cache, a load balancer or a
//! place where anything is decided: that is the gate, behind the door.
//!
//! Invariants:
//! - **No byte of HTTP/1.1 is acted on that was not read strictly**, on either side; what is
//!   ambiguous is refused, and the connection with it.
//! - **What a client of HTTP/1.1 gets of an answer is what the record holds**, byte for byte, but
//!   for what is of its connection (`connection`, an upgrade).
//! - **No request is sent but out of a `Cleared`, no piece of its body but out of a `Released`.**
//! - **No caller's credential goes further, and no target's credential is recorded.**
//! - **No connection to a target serves two principals.**
//! - **What nobody took of a message is of no other one**, in either direction.
//! - **An answer ends with its session**, read or not.
//! - **No request is sent twice**, but one that was never written.
//! - **No 202 that was not asked for.**
//!
//! | file | holds |
//! |---|---|
//! | `wire`, `fields`, `fault` | HTTP/1.1 messages, strictly, their header fields, what is wrong with them; pure |
//! | `head`, `names` | the one form of a request's head; what is done with headers by name; pure |
//! | `route`, `json`, `graphql`, `multipart`, `members`, `overrides`, `reading` | what a request does; pure |
//! | `openapi`, `document`, `yaml` | an API's description, in JSON or YAML; pure |
//! | `api` | an API as it is configured; the descriptor |
//! | `ws` | frames of WebSocket; pure |
//! | `answer` | answers of the target and of the gateway |
//! | `coding`, `veil` | compressed bodies; what of an answer may not be seen, and masking it; pure |
//! | `needles` | texts that no answer may hold; pure |
//! | `render`, `har` | the record, read back |
//! | `pipe` | the bytes of a connection of HTTP/1.1, in through `wire` and out in order |
//! | `near`, `serve` | one connection of a client: HTTP/1.1; HTTP/2, identity, sessions |
//! | `watch`, `alarm` | what is known of it, and how long it may take |
//! | `guard` | the stream for a library that reads a target, of only what `wire` has read |
//! | `exchange`, `flow`, `websocket` | one request: judged, sent, answered; bodies; messages |
//! | `hold` | requests that wait for an approval |
//! | `target`, `line`, `sigv4` | connections to a target, one of HTTP/1.1, the credential |

mod alarm;
mod answer;
mod api;
mod coding;
mod document;
mod exchange;
mod fault;
mod fields;
mod flow;
mod graphql;
mod guard;
mod har;
mod head;
mod hold;
mod json;
mod line;
mod members;
mod multipart;
mod names;
mod near;
mod needles;
mod openapi;
mod overrides;
mod pipe;
mod reading;
mod render;
mod route;
mod serve;
mod sigv4;
mod target;
mod veil;
mod watch;
mod websocket;
mod wire;
mod ws;
mod yaml;

use std::sync::Arc;

use bulla_core::{Boxed, Command, Descriptor};
use bulla_host::{Arrival, Door, Hosted, Transport};

pub use api::{Api, DESCRIPTOR, FactFrom, FactRule, LoginKind, Version, descriptor};
pub use document::DOCUMENT_BYTES_MAX;
pub use har::{Recorded, har};
pub use openapi::openapi;
pub use render::render;
pub use route::{Route, Routes};
pub use sigv4::Scope;
pub use veil::Masks;
pub use watch::Deadlines;

/// The protocol, with every API that is configured.
pub struct Http {
    apis: Vec<Arc<Api>>,
    descriptor: &'static Descriptor,
    /// Issuers' URLs, for clients that look for one.
    issuers: Vec<String>,
    deadlines: Deadlines,
    holds: Arc<hold::Holds>,
}

impl Http {
    fn api(&self, resource: &str) -> Result<&Api, String> {
        let api = self.apis.iter().find(|api| *api.resource == *resource);
        api.map(|api| &**api).ok_or_else(|| format!("`{resource}` is no API"))
    }

    /// An error names the API and what does not hold.
    pub fn new(apis: Vec<Api>, issuers: Vec<String>, deadlines: Deadlines) -> Result<Self, String> {
        let descriptor = descriptor(&apis)?;
        let apis = apis.into_iter().map(Arc::new).collect();
        Ok(Self { apis, descriptor, issuers, deadlines, holds: Arc::default() })
    }
}

impl Hosted for Http {
    fn descriptor(&self) -> &'static Descriptor {
        self.descriptor
    }
    fn transport(&self) -> Transport {
        Transport::Tls { alpn: &["h2", "http/1.1"] }
    }
    fn serve(self: Arc<Self>, arrival: Arrival, door: Door) -> Boxed<'static, ()> {
        Box::pin(serve::serve(self, arrival, door))
    }
    fn read(&self, resource: &str, text: &str) -> Result<Command, String> {
        render::read(self.api(resource)?, text, self.descriptor.facts)
    }
    fn mask(
        &self,
        resource: &str,
        text: &str,
        command: &mut Command,
        reveals: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<String>, String> {
        render::mask(self.api(resource)?, text, command, reveals)
    }
}
