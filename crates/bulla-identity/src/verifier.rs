//! The `Identity` port: a credential in, a principal or a refusal out.

use std::{collections::HashMap, sync::Arc};

use aws_lc_rs::digest::{SHA256, digest};
use bulla_core::{
    Boxed, Clock, Credential, CredentialKind, Digest, Identity, IdentityError, Origin, Principal,
    PrincipalId, PrincipalKind, Proof, Secret, Timestamp,
};
use rustls::server::danger::ClientCertVerifier;
use tokio::{runtime::Handle, task::JoinHandle};

use crate::{
    compile::{Domain, Issuer, compile},
    config::{Config, IssuerConfig, Problem},
    dpop,
    error::{Refused, Word},
    fetch::{FetchLimits, Source},
    json::{Json, Object},
    jwt::{Unverified, base64url, typ_matches},
    keys::{IssuerStatus, Keys, REFRESH_AGE_MS},
    mapping::Mapped,
    spiffe::Leaf,
    trust::Trust,
};

/// Verifies credentials against one configuration. Immutable: a reload makes another.
pub struct Verifier {
    /// By the exact `iss`.
    issuers: HashMap<Arc<str>, (Issuer, Arc<Keys>)>,
    /// By trust domain.
    domains: HashMap<String, Domain>,
    trust: Arc<Trust>,
    clock: Arc<dyn Clock>,
    limits: FetchLimits,
    /// Taken over by a reload, so that it forgets none.
    proofs: Arc<dpop::Seen>,
    watch_bundles: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    watch_abort: Option<tokio::task::AbortHandle>,
}

impl Verifier {
    /// Starts a key cache for each issuer; does not wait for keys. MUST be called within a tokio
    /// runtime; blocks on the files of trust bundles.
    pub fn new(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, Vec<Problem>> {
        Self::with_limits(config, clock, FetchLimits::default())
    }

    /// As [`Self::new`], with other limits for fetching.
    pub fn with_limits(
        config: &Config,
        clock: Arc<dyn Clock>,
        limits: FetchLimits,
    ) -> Result<Self, Vec<Problem>> {
        Self::build(config, clock, limits, None)
    }

    /// A verifier for a new configuration. The caches of issuers whose keys come from the same
    /// place are taken over with their keys, so that a reload while an issuer is down locks nobody
    /// out. Then drop the old one; do not shut it down.
    pub fn reload(&self, config: &Config) -> Result<Self, Vec<Problem>> {
        Self::build(config, self.clock.clone(), self.limits.clone(), Some(self))
    }

    fn build(
        config: &Config,
        clock: Arc<dyn Clock>,
        limits: FetchLimits,
        before: Option<&Self>,
    ) -> Result<Self, Vec<Problem>> {
        let (compiled, trust) = match (compile(config), Trust::load(&config.trust_domains)) {
            (Ok(compiled), Ok(trust)) => (compiled, Arc::new(trust)),
            (compiled, trust) => {
                let mut problems = compiled.err().unwrap_or_default();
                problems.extend(trust.err().unwrap_or_default());
                return Err(problems);
            }
        };
        let runtime = Handle::try_current().map_err(|_| {
            let what = "identity needs an asynchronous runtime".to_owned();
            vec![Problem { path: "identity".into(), what }]
        })?;
        let mut issuers = HashMap::new();
        for (issuer, record) in compiled.issuers.into_iter().zip(&config.issuers) {
            let keys = start_keys(record, &clock, &limits, &runtime, before);
            issuers.insert(issuer.issuer.clone(), (issuer, keys));
        }
        let watch =
            (!config.trust_domains.is_empty()).then(|| runtime.spawn(watch_bundles(trust.clone())));
        let watch_abort = watch.as_ref().map(JoinHandle::abort_handle);
        Ok(Self {
            issuers,
            domains: compiled.domains,
            trust,
            clock,
            limits,
            proofs: before.map(|before| before.proofs.clone()).unwrap_or_default(),
            watch_bundles: tokio::sync::Mutex::new(watch),
            watch_abort,
        })
    }

    /// How each issuer's keys are, by alias.
    pub fn status(&self) -> Vec<IssuerStatus> {
        let mut all: Vec<_> = self.issuers.values().map(|(_, keys)| keys.status()).collect();
        all.sort_by(|a, b| a.alias.cmp(&b.alias));
        all
    }

    /// Whether who vouched for a principal may still do so: what was verified under an earlier
    /// configuration is worth no more than its issuer is now.
    pub fn vouches(&self, principal: &Principal) -> bool {
        let issuer = &*principal.issuer;
        let token = self.issuers.get(issuer).map(|(issuer, _)| &issuer.alias);
        let alias = token.or_else(|| self.domains.get(issuer).map(|domain| &domain.alias));
        let named = principal.id.as_str().split_once('|').map(|(alias, _)| alias);
        alias.is_some_and(|alias| named == Some(&**alias))
    }

    /// Waits until every issuer's keys were fetched, or could not be: for `doctor` and start-up.
    pub async fn attempted(&self) {
        for (_, keys) in self.issuers.values() {
            keys.attempted().await;
        }
    }

    /// The trust bundles; see [`Self::client_verifier`].
    pub fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// For `rustls::ServerConfig`: asks for a client certificate, does not demand one, and checks
    /// it against the authorities of its own trust domain. Only a certificate that went through it
    /// may stand in [`Origin::certificate`].
    ///
    /// A resumed TLS session is not checked again: MUST be used with `send_tls13_tickets = 0` and
    /// `NoServerSessionStorage`, so that a removed authority has no effect any more. A verifier
    /// that was reloaded has another one: the listener's configuration is swapped with it.
    pub fn client_verifier(&self) -> Arc<dyn ClientCertVerifier> {
        self.trust.clone()
    }

    /// Ends all background tasks and waits for them. What is cached still serves, and ages.
    pub async fn shutdown(&self) {
        for (_, keys) in self.issuers.values() {
            keys.shutdown().await;
        }
        if let Some(task) = self.watch_bundles.lock().await.take() {
            task.abort();
            let _ = task.await;
        }
    }

    /// `key`: thumbprint of the key that the client proved to hold.
    async fn verify_token(
        &self,
        token: &Secret,
        key: Option<&str>,
        origin: &Origin,
        now: Timestamp,
    ) -> Result<Principal, IdentityError> {
        let token = token.reveal();
        let unverified = Unverified::parse(token).map_err(|refused| refused.at(None))?;
        let found = unverified.issuer().map(|iss| self.issuers.get(iss));
        let Some((issuer, keys)) = found.map_err(|refused| refused.at(None))? else {
            let why = "no issuer of this name is configured";
            return Err(Refused::new(Word::UnknownIssuer, why).at(None));
        };
        self.verify_for(issuer, keys, token, unverified, key, origin, now)
            .await
            .map_err(|refused| refused.at(Some(&issuer.alias)))
    }

    #[allow(clippy::too_many_arguments)]
    async fn verify_for(
        &self,
        issuer: &Issuer,
        keys: &Keys,
        token: &[u8],
        unverified: Unverified<'_>,
        key: Option<&str>,
        origin: &Origin,
        now: Timestamp,
    ) -> Result<Principal, Refused> {
        let algorithm = unverified.algorithm;
        if !issuer.algorithms.contains(&algorithm) {
            let why = "the algorithm is not allowed for this issuer";
            return Err(Refused::new(Word::AlgorithmNotAllowed, why));
        }
        if !typ_matches(&issuer.typ, unverified.typ.as_deref()) {
            return Err(Refused::new(Word::WrongType, "the typ is not allowed for this issuer"));
        }
        let found = keys.find(&unverified.kid).await?;
        let Unverified { ref kid, signed, ref signature, .. } = unverified;
        found.set.verify(kid, algorithm, signed, signature)?;
        let kid_tail = tail(kid);
        let claims = unverified.into_claims();
        let lifetime = issuer.rules.check(&claims, now)?;
        let bound = check_bound(&claims, key, origin)?;
        let mapped = issuer.mapping.apply(&claims)?;
        let proof = Proof {
            kind: CredentialKind::Jwt,
            hash: sha256(token),
            jti: claims.get("jti").and_then(Json::text).map(|jti| sha256(jti.as_bytes())),
            kid_tail: Some(kid_tail),
            issued_at: lifetime.issued_at,
            expires_at: lifetime.expires_at,
            verified_at: now,
            bound,
            jwks_stale: found.stale,
        };
        principal(&issuer.alias, issuer.issuer.clone(), issuer.kind, mapped, proof)
    }

    fn verify_certificate(
        &self,
        origin: &Origin,
        now: Timestamp,
    ) -> Result<Principal, IdentityError> {
        let der = origin.certificate.as_deref().ok_or_else(|| {
            Refused::new(Word::NoCertificate, "the client presented no certificate").at(None)
        })?;
        let leaf = Leaf::parse(der).map_err(|refused| refused.at(None))?;
        let Some(domain) = self.domains.get(&leaf.id.trust_domain) else {
            let why = "the certificate's trust domain is not configured";
            return Err(Refused::new(Word::UnknownTrustDomain, why).at(None));
        };
        let verify = || {
            leaf.check_time(now, domain.max_ttl_secs)?;
            let mapped = domain.map(&leaf.id)?;
            let proof = Proof {
                kind: CredentialKind::ClientCertificate,
                hash: sha256(der),
                jti: None,
                kid_tail: None,
                issued_at: leaf.not_before,
                expires_at: leaf.not_after,
                verified_at: now,
                bound: true,
                jwks_stale: false,
            };
            principal(&domain.alias, domain.trust_domain.clone(), domain.kind, mapped, proof)
        };
        verify().map_err(|refused: Refused| refused.at(Some(&domain.alias)))
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch_abort {
            watch.abort();
        }
    }
}

impl Identity for Verifier {
    fn verify<'a>(
        &'a self,
        credential: Credential,
        origin: &'a Origin,
        now: Timestamp,
    ) -> Boxed<'a, Result<Principal, IdentityError>> {
        Box::pin(async move {
            match credential {
                Credential::Token(token) => self.verify_token(&token, None, origin, now).await,
                Credential::Proven { token, proof, method, url } => {
                    let what = dpop::Use { method: &method, url: &url, token: &token };
                    let key = dpop::check(&proof, &what, &self.proofs, now);
                    let key = key.map_err(|refused| refused.at(None))?;
                    self.verify_token(&token, Some(&key), origin, now).await
                }
                Credential::Certificate => self.verify_certificate(origin, now),
                // Whoever minted it verifies it.
                Credential::Minted(_) => Err(IdentityError {
                    word: "malformed",
                    detail: "a certificate that the gateway mints is not for this door".into(),
                }),
            }
        })
    }
}

fn start_keys(
    record: &IssuerConfig,
    clock: &Arc<dyn Clock>,
    limits: &FetchLimits,
    runtime: &Handle,
    before: Option<&Verifier>,
) -> Arc<Keys> {
    let ca_file = record.ca_file.as_deref();
    let source =
        Source::new(&record.issuer, &record.keys, ca_file, record.allow_http, limits.clone());
    let kept = before
        .and_then(|before| before.issuers.get(record.issuer.as_str()))
        .filter(|(_, keys)| keys.serves(&record.alias, &source));
    match kept {
        Some((_, keys)) => keys.clone(),
        None => Arc::new(Keys::start(&record.alias, source, clock.clone(), runtime)),
    }
}

/// Reads the bundles again from time to time. A bundle that is not good leaves the last good one.
async fn watch_bundles(trust: Arc<Trust>) {
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(REFRESH_AGE_MS));
    tick.tick().await;
    loop {
        tick.tick().await;
        let trust = trust.clone();
        match tokio::task::spawn_blocking(move || trust.reload()).await {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) => tracing::info!("trust bundles changed and were loaded"),
            Ok(Err(problems)) => {
                for problem in problems {
                    tracing::warn!(%problem, "trust bundle not loaded");
                }
            }
            Err(_) => tracing::warn!("trust bundles not loaded: the task ended early"),
        }
    }
}

/// RFC 8705 3.1, RFC 9449 6.1: a token that names a certificate or a key is good with that one only.
/// A proof beside a token that names no key proves nothing, and is refused.
fn check_bound(claims: &Object, key: Option<&str>, origin: &Origin) -> Result<bool, Refused> {
    let refuse = |why| Err(Refused::new(Word::NotBound, why));
    let confirmation = match (claims.get("cnf"), key) {
        (None, None) => return Ok(false),
        (None, Some(_)) => return refuse("the token is bound to no key, and came with a proof"),
        (Some(Json::Object(confirmation)), _) => confirmation,
        (Some(_), _) => return refuse("the token's `cnf` is no object"),
    };
    let unknown = "the token is bound to a key of a kind that cannot be proven here";
    if confirmation.len() != 1 {
        return refuse(unknown);
    }
    if let Some(Json::Text(named)) = confirmation.get("jkt") {
        return match key {
            Some(key) if key == named => Ok(true),
            Some(_) => refuse("the token is bound to another key"),
            None => refuse("the token is bound to a key, and came without a proof"),
        };
    }
    let (Some(Json::Text(thumbprint)), None) = (confirmation.get("x5t#S256"), key) else {
        return refuse(unknown);
    };
    let Some(thumbprint) = base64url(thumbprint.as_bytes()) else {
        return refuse("the token's thumbprint is not strict base64url");
    };
    match origin.certificate.as_deref() {
        None => refuse("the token is bound to a certificate and the client presented none"),
        Some(der) if sha256(der).0[..] == thumbprint[..] => Ok(true),
        Some(_) => refuse("the token is bound to another certificate"),
    }
}

fn principal(
    alias: &str,
    issuer: Arc<str>,
    kind: PrincipalKind,
    mapped: Mapped,
    proof: Proof,
) -> Result<Principal, Refused> {
    let id = PrincipalId::new(alias, &mapped.subject)
        .map_err(|_| Refused::new(Word::ClaimNotAllowed, "the subject cannot be an id"))?;
    Ok(Principal { id, kind, issuer, groups: mapped.groups, attributes: mapped.attributes, proof })
}

fn sha256(bytes: &[u8]) -> Digest {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    Digest(out)
}

/// The last 4 characters of a key id, printable ones only: whoever wrote the id, an entry shows it.
fn tail(kid: &str) -> Arc<str> {
    let mut last: Vec<char> = kid.chars().rev().take(4).collect();
    last.reverse();
    last.into_iter().map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect::<String>().into()
}
