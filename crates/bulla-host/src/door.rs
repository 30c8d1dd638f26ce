//! From a credential to a principal, from a principal to a session.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use bulla_core::{
    AdminRecord, Because, Clock, Credential, Decision, Descriptor, Directory, Identity, OpenRecord,
    Origin, PolicySource, Principal, RecordError, Recorder, Resource, SessionId, Timestamp,
    TurnedAwayRecord,
};
use bulla_gate::{Gate, Session};
use tokio::sync::watch;

use crate::{Connector, Entrant, Live, Roll};

/// What a door stands on: the same parts as every other road.
pub struct Parts {
    pub gate: Arc<Gate>,
    pub recorder: Arc<dyn Recorder>,
    pub identity: Arc<dyn Identity>,
    pub directory: Arc<dyn Directory>,
    pub policies: Arc<dyn PolicySource>,
    pub clock: Arc<dyn Clock>,
    pub connector: Arc<dyn Connector>,
    pub roll: Arc<dyn Roll>,
    /// Longest time for one verification of a credential.
    pub identify_ms_max: u64,
    /// Longest time to reach a target.
    pub connect_ms_max: u64,
    /// How long what is under way may go on after its identity has expired.
    pub expiry_grace_ms: u64,
}

/// Why somebody is not let in, as far as it may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// Unknown or wrong credential: same words for both.
    Credential,
    /// Absent or forbidden resource: same words for both.
    Resource,
    /// The gateway cannot take it now: full, stopping, without policies or unable to record.
    Unavailable(&'static str),
}

/// The way in, of one protocol.
#[derive(Clone)]
pub struct Door {
    parts: Arc<Parts>,
    protocol: &'static Descriptor,
}

impl Door {
    pub fn new(parts: Arc<Parts>, protocol: &'static Descriptor) -> Self {
        Self { parts, protocol }
    }
    pub fn now(&self) -> Timestamp {
        self.parts.clock.now()
    }
    pub fn clock(&self) -> Arc<dyn Clock> {
        self.parts.clock.clone()
    }
    pub fn connector(&self) -> &Arc<dyn Connector> {
        &self.parts.connector
    }
    pub fn connect_max(&self) -> Duration {
        Duration::from_millis(self.parts.connect_ms_max)
    }
    /// True once the gateway is stopping.
    pub fn draining(&self) -> watch::Receiver<bool> {
        self.parts.roll.draining()
    }

    /// Verifies a credential. Whoever fails is on record; the caller only says no.
    pub async fn identify(
        &self,
        credential: Credential,
        origin: &Origin,
        asked: Option<&str>,
    ) -> Result<Arc<Principal>, Rejection> {
        let wait = Duration::from_millis(self.parts.identify_ms_max);
        let verify = self.parts.identity.verify(credential, origin, self.now());
        match tokio::time::timeout(wait, verify).await {
            Ok(Ok(principal)) => {
                self.parts.roll.extend(&principal.id, principal.proof.expires_at);
                Ok(Arc::new(principal))
            }
            Ok(Err(error)) => {
                self.turn_away(origin, error.word, &error.detail, None, asked, None);
                Err(Rejection::Credential)
            }
            Err(_) => {
                self.turn_away(origin, "identity_timeout", "", None, asked, None);
                Err(Rejection::Credential)
            }
        }
    }

    /// Opens a session: directory, policy, room, durable open entry, in this order.
    pub async fn open(
        &self,
        principal: &Arc<Principal>,
        asked: &str,
        part: Option<Arc<str>>,
        origin: &Origin,
        claims: Vec<(Arc<str>, Arc<str>)>,
    ) -> Result<Arc<Live>, Rejection> {
        let now = self.now();
        let away = |why, because: Option<&Because>| {
            self.turn_away(origin, why, "", Some(principal), Some(asked), because);
        };
        let found = self.parts.directory.find(asked);
        let found = found.filter(|resource| *resource.protocol == *self.protocol.protocol);
        let Some(resource) = found else {
            away("unknown_resource", None);
            return Err(Rejection::Resource);
        };
        let Some(policies) = self.parts.policies.current() else {
            away("no_policy", None);
            return Err(Rejection::Unavailable("there are no current policies"));
        };
        let because = match policies.decide_open(principal, &resource, origin, now) {
            Decision::Allow { because, .. } => because,
            Decision::Deny { because, .. } | Decision::Hold { because, .. } => {
                away("not_permitted", Some(&because));
                return Err(Rejection::Resource);
            }
        };
        let mut random = [0u8; 10];
        if SystemRandom::new().fill(&mut random).is_err() {
            return Err(Rejection::Unavailable("there is no randomness"));
        }
        let id = SessionId::new(now, random);
        let presence = self.parts.roll.enter(Entrant {
            id,
            principal: principal.id.clone(),
            resource: resource.name.as_str().into(),
            opened: now,
            source: origin.address.to_string().into(),
        });
        let Some(presence) = presence else {
            away("full", None);
            return Err(Rejection::Unavailable("the gateway is full or stopping"));
        };
        let session = self.record(id, principal, &resource, part, origin, because, claims).await?;
        Ok(Live::start(session, &self.parts, presence))
    }

    #[allow(clippy::too_many_arguments)]
    async fn record(
        &self,
        id: SessionId,
        principal: &Arc<Principal>,
        resource: &Arc<Resource>,
        part: Option<Arc<str>>,
        origin: &Origin,
        because: Because,
        claims: Vec<(Arc<str>, Arc<str>)>,
    ) -> Result<Session, Rejection> {
        let unrecorded = Rejection::Unavailable("the record cannot be written");
        let opened = self.parts.recorder.open(&OpenRecord {
            session: id,
            at: self.now(),
            principal: principal.clone(),
            resource: resource.name.clone(),
            part: part.clone(),
            protocol: self.protocol.protocol,
            origin: origin.clone(),
            mode: resource.mode,
            because,
            claims,
        });
        let (journal, pending) = opened.map_err(|error| {
            tracing::error!(%error, "record the opening of a session");
            unrecorded
        })?;
        pending.await.map_err(|error| {
            tracing::error!(%error, "record the opening of a session");
            unrecorded
        })?;
        let (principal, resource) = (principal.clone(), resource.clone());
        let honours = self.protocol.honours;
        Ok(Session::new(id, principal, resource, part, origin.clone(), honours, journal))
    }

    /// An act of the gateway itself, as an entry. Returns once it is durable.
    pub async fn note(
        &self,
        kind: &'static str,
        by: &str,
        detail: &str,
    ) -> Result<(), RecordError> {
        let record = AdminRecord {
            at: self.now(),
            kind,
            by: by.into(),
            detail: detail.into(),
            digest: self.parts.policies.current().map(|policies| policies.digest()),
        };
        self.parts.recorder.admin(&record)?.await.map(drop)
    }

    /// Records somebody who is turned away. A record that fails stops nothing here: nobody gets in.
    pub fn turn_away(
        &self,
        origin: &Origin,
        why: &'static str,
        detail: &str,
        principal: Option<&Arc<Principal>>,
        asked: Option<&str>,
        because: Option<&Because>,
    ) {
        metrics::counter!("bulla_turned_away_total", "why" => why).increment(1);
        let written = self.parts.recorder.turned_away(&TurnedAwayRecord {
            at: self.now(),
            protocol: self.protocol.protocol,
            origin: origin.clone(),
            principal: principal.cloned(),
            resource: asked.map(Into::into),
            why,
            detail: detail.into(),
            because: because.cloned(),
        });
        if let Err(error) = written {
            tracing::error!(%error, "record a refusal at the door");
        }
    }
}
