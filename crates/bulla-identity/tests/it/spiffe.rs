//! Client certificates: what a leaf may be, and whose authority stands behind it.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use bulla_core::{Credential, CredentialKind, Identity, Principal, PrincipalKind, Timestamp};
use bulla_identity::{Bundle, Config, PathConfig, Problem, TrustDomainConfig, Verifier};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use crate::support::*;

type Authority = CertifiedIssuer<'static, KeyPair>;

const DAY: u64 = 86_400;

/// Validity in seconds around [`NOW`], or around another time.
fn valid(params: &mut CertificateParams, from: u64, to: u64) {
    params.not_before = date_time_ymd(1970, 1, 1) + Duration::from_secs(from);
    params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(to);
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid(&mut params, NOW - 30 * DAY, NOW + 30 * DAY);
    params
}

fn authority(name: &str) -> Authority {
    CertifiedIssuer::self_signed(authority_params(name), KeyPair::generate().unwrap()).unwrap()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// A leaf as SPIRE would issue it.
fn leaf_params(id: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![uri(id)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    valid(&mut params, NOW - 10, NOW + 3_600);
    params
}

fn sign(params: &CertificateParams, by: &Authority) -> CertificateDer<'static> {
    params.signed_by(&KeyPair::generate().unwrap(), by).unwrap().der().clone()
}

fn der(authority: &Authority) -> Bundle {
    Bundle::Der(vec![authority.der().to_vec().into()])
}

fn domain(alias: &str, trust_domain: &str, authority: &Authority) -> TrustDomainConfig {
    TrustDomainConfig::new(alias, trust_domain, der(authority))
}

fn build(domains: Vec<TrustDomainConfig>) -> Result<Verifier, Vec<Problem>> {
    Verifier::new(&Config { issuers: Vec::new(), trust_domains: domains }, TestClock::new())
}

fn unix(secs: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(secs))
}

/// Handshake and login: both must agree to let somebody in.
async fn login(
    verifier: &Verifier,
    chain: &[CertificateDer<'_>],
    now: u64,
) -> (bool, Result<Principal, &'static str>) {
    let shaken =
        verifier.client_verifier().verify_client_cert(&chain[0], &chain[1..], unix(now)).is_ok();
    let origin = origin(Some(&chain[0]));
    let found = verifier.verify(Credential::Certificate, &origin, Timestamp::from_secs(now)).await;
    (shaken, found.map_err(|error| error.word))
}

#[tokio::test]
async fn a_workload_is_what_its_certificate_says() {
    let prod = authority("prod");
    let verifier = build(vec![domain("mesh", "prod.example.com", &prod)]).unwrap();
    let leaf = sign(&leaf_params("spiffe://prod.example.com/ns/billing/sa/api"), &prod);
    let (shaken, found) = login(&verifier, std::slice::from_ref(&leaf), NOW).await;
    assert!(shaken);
    let principal = found.unwrap();
    assert_eq!(principal.id.as_str(), "mesh|ns/billing/sa/api");
    assert_eq!(&*principal.issuer, "prod.example.com");
    assert_eq!(principal.kind, PrincipalKind::Workload);
    let proof = principal.proof;
    assert_eq!(proof.kind, CredentialKind::ClientCertificate);
    assert_eq!(proof.hash.0.to_vec(), digest(&SHA256, &leaf).as_ref());
    assert_eq!((proof.jti, proof.kid_tail), (None, None));
    assert_eq!(proof.issued_at, Timestamp::from_secs(NOW - 10));
    assert_eq!(proof.expires_at, Timestamp::from_secs(NOW + 3_600));
    assert!(proof.bound && !proof.jwks_stale);
    let origin = origin(None);
    let none = verifier.verify(Credential::Certificate, &origin, Timestamp::default());
    assert_eq!(none.await.unwrap_err().word, "no_certificate");
}

#[tokio::test]
async fn a_leaf_must_be_an_svid() {
    let prod = authority("prod");
    let mut record = domain("mesh", "prod.example.com", &prod);
    record.max_ttl_secs = 2 * 3_600;
    let verifier = build(vec![record]).unwrap();
    const ID: &str = "spiffe://prod.example.com/ns/billing/sa/api";
    type Change = Box<dyn Fn(&mut CertificateParams)>;
    let names = |names: &[&str]| -> Change {
        let names: Vec<_> = names.iter().map(|name| uri(name)).collect();
        Box::new(move |params| params.subject_alt_names = names.clone())
    };
    let usages = |usages: &[KeyUsagePurpose]| -> Change {
        let usages = usages.to_vec();
        Box::new(move |params| params.key_usages = usages.clone())
    };
    let purposes = |purposes: &[ExtendedKeyUsagePurpose]| -> Change {
        let purposes = purposes.to_vec();
        Box::new(move |params| params.extended_key_usages = purposes.clone())
    };
    let between =
        |from: u64, to: u64| -> Change { Box::new(move |params| valid(params, from, to)) };
    let constraints = |is_ca: IsCa| -> Change { Box::new(move |params| params.is_ca = is_ca) };
    let extension = |critical: bool, oid: &'static [u64]| -> Change {
        Box::new(move |params| {
            let mut extension = CustomExtension::from_oid_content(oid, vec![4, 0]);
            extension.set_criticality(critical);
            params.custom_extensions = vec![extension];
        })
    };
    let dns: Change = Box::new(|params| {
        params.subject_alt_names.push(SanType::DnsName("api.example.com".try_into().unwrap()));
    });
    use KeyUsagePurpose::{CrlSign, DigitalSignature, KeyCertSign, KeyEncipherment};
    let bad = "bad_certificate";
    // What is checked, the change, whether the handshake succeeds, and what the login says.
    let cases: Vec<(&str, Change, bool, &str)> = vec![
        ("control", names(&[ID]), true, "ok"),
        ("two URI names", names(&[ID, "spiffe://prod.example.com/other"]), false, bad),
        ("the same twice", names(&[ID, ID]), false, bad),
        ("another URI beside", names(&[ID, "https://example.com/"]), false, bad),
        ("a URI before", names(&["https://example.com/", ID]), false, bad),
        ("a DNS name beside", dns, true, "ok"),
        ("no name", names(&[]), false, bad),
        ("no SPIFFE id", names(&["https://prod.example.com/ns"]), false, bad),
        ("upper-case domain", names(&["spiffe://PROD.example.com/ns"]), false, bad),
        ("upper-case scheme", names(&["SPIFFE://prod.example.com/ns"]), false, bad),
        ("no path", names(&["spiffe://prod.example.com"]), false, bad),
        ("an empty path", names(&["spiffe://prod.example.com/"]), false, bad),
        ("an empty segment", names(&["spiffe://prod.example.com/ns//sa"]), false, bad),
        ("a slash at the end", names(&["spiffe://prod.example.com/ns/"]), false, bad),
        ("a way up", names(&["spiffe://prod.example.com/ns/../root"]), false, bad),
        ("a way nowhere", names(&["spiffe://prod.example.com/./ns"]), false, bad),
        ("an escape", names(&["spiffe://prod.example.com/%6es"]), false, bad),
        ("a query", names(&["spiffe://prod.example.com/ns?x"]), false, bad),
        ("a port", names(&["spiffe://prod.example.com:443/ns"]), false, bad),
        ("a user", names(&["spiffe://x@prod.example.com/ns"]), false, bad),
        ("another domain", names(&["spiffe://dev.example.com/ns"]), false, "unknown_trust_domain"),
        (
            "a longer domain",
            names(&["spiffe://prod.example.com.x/n"]),
            false,
            "unknown_trust_domain",
        ),
        (
            "below the domain",
            names(&["spiffe://a.prod.example.com/n"]),
            false,
            "unknown_trust_domain",
        ),
        ("an authority", constraints(IsCa::Ca(BasicConstraints::Unconstrained)), false, bad),
        ("explicitly none", constraints(IsCa::ExplicitNoCa), true, "ok"),
        ("may certify", usages(&[DigitalSignature, KeyCertSign]), false, bad),
        ("may revoke", usages(&[DigitalSignature, CrlSign]), false, bad),
        ("may not sign", usages(&[KeyEncipherment]), false, bad),
        ("no usage", usages(&[]), false, bad),
        ("more usage", usages(&[DigitalSignature, KeyEncipherment]), true, "ok"),
        ("no purpose", purposes(&[]), true, "ok"),
        ("for clients", purposes(&[ExtendedKeyUsagePurpose::ClientAuth]), true, "ok"),
        ("for servers", purposes(&[ExtendedKeyUsagePurpose::ServerAuth]), false, bad),
        ("for code", purposes(&[ExtendedKeyUsagePurpose::CodeSigning]), false, bad),
        ("unknown, critical", extension(true, &[1, 3, 6, 1, 4, 1, 99_999, 1]), false, bad),
        ("unknown, not critical", extension(false, &[1, 3, 6, 1, 4, 1, 99_999, 1]), true, "ok"),
        ("expires now", between(NOW - 60, NOW), true, "ok"),
        ("has expired", between(NOW - 60, NOW - 1), false, "expired"),
        ("begins now", between(NOW, NOW + 60), true, "ok"),
        ("begins later", between(NOW + 1, NOW + 60), false, "not_yet_valid"),
        ("two hours", between(NOW - 3_600, NOW + 3_600), true, "ok"),
        // The handshake does not know how long a certificate may live; the login does.
        ("longer", between(NOW - 3_600, NOW + 3_601), true, "bad_lifetime"),
        ("a year", between(NOW - 60, NOW + 365 * DAY), true, "bad_lifetime"),
    ];
    for (what, change, shakes, expect) in cases {
        let mut params = leaf_params(ID);
        change(&mut params);
        let (shaken, found) = login(&verifier, &[sign(&params, &prod)], NOW).await;
        let found = found.as_ref().map_or_else(|word| *word, |_| "ok");
        assert_eq!((shaken, found), (shakes, expect), "{what}");
    }
}

#[tokio::test]
async fn bytes_that_are_no_certificate() {
    let prod = authority("prod");
    let verifier = build(vec![domain("mesh", "prod.example.com", &prod)]).unwrap();
    let leaf = sign(&leaf_params("spiffe://prod.example.com/a"), &prod);
    let more = [leaf.as_ref(), &[0]].concat();
    for (what, bytes, expect) in [
        ("control", leaf.to_vec(), Ok(())),
        ("one byte more", more, Err("bad_certificate")),
        ("one byte less", leaf[..leaf.len() - 1].to_vec(), Err("bad_certificate")),
        ("nothing", Vec::new(), Err("bad_certificate")),
        ("zeros", vec![0; 100], Err("bad_certificate")),
        ("huge", vec![0x30; 1_000_000], Err("bad_certificate")),
    ] {
        let chain = [CertificateDer::from(bytes)];
        let (shaken, found) = login(&verifier, &chain, NOW).await;
        assert_eq!((shaken, found.map(|_| ())), (expect.is_ok(), expect), "{what}");
    }
    // Whatever is cut or changed, nothing panics, and nothing changed passes the handshake.
    for at in 0..leaf.len() {
        let mut bytes = leaf.to_vec();
        bytes[at] ^= 0x55;
        assert!(!login(&verifier, &[bytes.into()], NOW).await.0, "byte {at}");
        assert!(!login(&verifier, &[leaf[..at].to_vec().into()], NOW).await.0, "cut at {at}");
    }
}

#[tokio::test]
async fn an_authority_vouches_for_its_own_domain_only() {
    let (prod, dev, rogue) = (authority("prod"), authority("dev"), authority("prod"));
    let verifier = build(vec![
        domain("prod", "prod.example.com", &prod),
        domain("dev", "dev.example.com", &dev),
    ])
    .unwrap();
    let in_prod = leaf_params("spiffe://prod.example.com/db-admin");
    let in_dev = leaf_params("spiffe://dev.example.com/db-admin");
    for (what, params, by, shakes) in [
        ("prod by prod", &in_prod, &prod, true),
        ("dev by dev", &in_dev, &dev, true),
        ("prod by dev", &in_prod, &dev, false),
        ("dev by prod", &in_dev, &prod, false),
        ("prod by a stranger of the same name", &in_prod, &rogue, false),
    ] {
        let leaf = sign(params, by);
        assert_eq!(login(&verifier, std::slice::from_ref(&leaf), NOW).await.0, shakes, "{what}");
        // The foreign authority in the chain helps nobody.
        let chain = [leaf, by.der().clone()];
        assert_eq!(login(&verifier, &chain, NOW).await.0, shakes, "{what}, with the authority");
    }
    let myself = KeyPair::generate().unwrap();
    let alone = in_prod.self_signed(&myself).unwrap().der().clone();
    assert!(!login(&verifier, &[alone], NOW).await.0, "signed by itself");
}

#[tokio::test]
async fn chains_may_have_intermediates() {
    let (prod, dev) = (authority("prod"), authority("dev"));
    let verifier = build(vec![
        domain("prod", "prod.example.com", &prod),
        domain("dev", "dev.example.com", &dev),
    ])
    .unwrap();
    let key = || KeyPair::generate().unwrap();
    let middle = CertifiedIssuer::signed_by(authority_params("middle"), key(), &prod).unwrap();
    let cross = CertifiedIssuer::signed_by(authority_params("middle"), key(), &dev).unwrap();
    let mut powerless = authority_params("powerless");
    powerless.is_ca = IsCa::NoCa;
    let powerless = CertifiedIssuer::signed_by(powerless, key(), &prod).unwrap();
    let mut old = authority_params("old");
    valid(&mut old, NOW - 20 * DAY, NOW - DAY);
    let old = CertifiedIssuer::signed_by(old, key(), &prod).unwrap();
    let params = leaf_params("spiffe://prod.example.com/a");
    for (what, by, chained, shakes) in [
        ("through an intermediate", &middle, true, true),
        ("without it", &middle, false, false),
        ("through another domain's", &cross, true, false),
        ("through a leaf", &powerless, true, false),
        ("through an expired one", &old, true, false),
    ] {
        let mut chain = vec![sign(&params, by)];
        if chained {
            chain.push(by.der().clone());
        }
        assert_eq!(login(&verifier, &chain, NOW).await.0, shakes, "{what}");
    }
    let mut chain = vec![sign(&params, &middle)];
    chain.extend(vec![middle.der().clone(); 8]);
    assert!(login(&verifier, &chain, NOW).await.0, "as many as allowed");
    chain.push(middle.der().clone());
    assert!(!login(&verifier, &chain, NOW).await.0, "one too many");
}

#[tokio::test]
async fn a_shared_authority_is_a_problem() {
    let (prod, dev) = (authority("prod"), authority("dev"));
    let both = Bundle::Der(vec![dev.der().to_vec().into(), prod.der().to_vec().into()]);
    let problems = build(vec![
        domain("prod", "prod.example.com", &prod),
        TrustDomainConfig::new("dev", "dev.example.com", both),
    ])
    .err()
    .unwrap();
    let paths: Vec<_> = problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(paths, ["trust_domains.dev.bundle"]);
    // Two authorities of one domain, as during a rotation, are none.
    let next = authority("prod next");
    let both = Bundle::Der(vec![next.der().to_vec().into(), prod.der().to_vec().into()]);
    let verifier = build(vec![TrustDomainConfig::new("prod", "prod.example.com", both)]).unwrap();
    for by in [&prod, &next] {
        let leaf = sign(&leaf_params("spiffe://prod.example.com/a"), by);
        assert!(login(&verifier, &[leaf], NOW).await.0);
    }
}

#[tokio::test]
async fn bundles_are_read_again() {
    let (old, new) = (authority("old"), authority("new"));
    let path = file(old.pem());
    let record = TrustDomainConfig::new("prod", "prod.example.com", Bundle::File(path.clone()));
    let verifier = build(vec![record]).unwrap();
    let params = leaf_params("spiffe://prod.example.com/a");
    let (by_old, by_new) = (sign(&params, &old), sign(&params, &new));
    let shakes = async |leaf: &CertificateDer<'static>| {
        login(&verifier, std::slice::from_ref(leaf), NOW).await.0
    };
    assert!(shakes(&by_old).await && !shakes(&by_new).await);
    assert_eq!(verifier.trust().reload(), Ok(false));
    std::fs::write(&path, format!("{}{}", old.pem(), new.pem())).unwrap();
    assert_eq!(verifier.trust().reload(), Ok(true));
    assert!(shakes(&by_old).await && shakes(&by_new).await);
    std::fs::write(&path, new.pem()).unwrap();
    assert_eq!(verifier.trust().reload(), Ok(true));
    assert!(!shakes(&by_old).await && shakes(&by_new).await);
    // What is no bundle changes nothing.
    for bad in ["", "no certificate", &new.pem()[..200]] {
        std::fs::write(&path, bad).unwrap();
        assert!(verifier.trust().reload().is_err());
        assert!(shakes(&by_new).await);
    }
    std::fs::remove_file(&path).unwrap();
    assert!(verifier.trust().reload().is_err());
    let record = TrustDomainConfig::new("prod", "prod.example.com", Bundle::File(path));
    assert!(build(vec![record]).is_err());
    let record = TrustDomainConfig::new("prod", "prod.example.com", Bundle::Der(Vec::new()));
    assert!(build(vec![record]).is_err());
}

#[tokio::test]
async fn paths_become_subjects_and_groups() {
    let prod = authority("prod");
    let path = |pattern: &str, subject: &str, groups: &[&str]| PathConfig {
        pattern: pattern.into(),
        subject: subject.into(),
        groups: groups.iter().map(ToString::to_string).collect(),
    };
    let mut record = domain("mesh", "prod.example.com", &prod);
    record.kind = PrincipalKind::Human;
    record.paths = vec![
        path("/ns/{ns}/sa/{sa}", "{ns}/{sa}", &["team:{ns}", "{trust_domain}"]),
        path("/ns/{ns}/sa/root", "never", &[]),
        path("/vm/{name}", "{path}", &[]),
    ];
    // A template without a name is refused; the second pattern is shadowed by the first.
    let problems = build(vec![record.clone()]).err().unwrap();
    assert_eq!(problems[0].path, "trust_domains.mesh.paths[1].subject");
    record.paths[1].subject = "never-{ns}".into();
    let verifier = build(vec![record]).unwrap();
    for (id, expect) in [
        ("ns/billing/sa/api", Ok(("mesh|billing/api", &["team:billing", "prod.example.com"][..]))),
        ("ns/billing/sa/root", Ok(("mesh|billing/root", &["team:billing", "prod.example.com"]))),
        ("vm/web-1", Ok(("mesh|vm/web-1", &[]))),
        ("ns/billing/sa/api/x", Err("claim_not_allowed")),
        ("ns/billing", Err("claim_not_allowed")),
        ("NS/billing/SA/api", Err("claim_not_allowed")),
        ("other", Err("claim_not_allowed")),
    ] {
        let leaf = sign(&leaf_params(&format!("spiffe://prod.example.com/{id}")), &prod);
        let (shaken, found) = login(&verifier, &[leaf], NOW).await;
        assert!(shaken);
        let found = found.map(|principal| {
            assert_eq!(principal.kind, PrincipalKind::Human);
            (principal.id.as_str().to_owned(), principal.groups)
        });
        let expect = expect.map(|(id, groups)| {
            (id.to_owned(), groups.iter().map(|group| (*group).into()).collect::<Vec<_>>())
        });
        assert_eq!(found, expect, "{id}");
    }
}

/// Over real TLS, with the system's clock, as a listener would use it.
#[tokio::test]
async fn a_handshake_asks_for_a_certificate_and_needs_none() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let authority = |name: &str| {
        let mut params = authority_params(name);
        valid(&mut params, now - DAY, now + DAY);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    };
    let (prod, dev) = (authority("prod"), authority("dev"));
    let verifier = build(vec![
        domain("prod", "prod.example.com", &prod),
        domain("dev", "dev.example.com", &dev),
    ])
    .unwrap();
    let client_verifier: Arc<dyn ClientCertVerifier> = verifier.client_verifier();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["gateway.example.com".to_owned()]).unwrap();
    valid(&mut params, now - DAY, now + DAY);
    let certificate = params.signed_by(&key, &dev).unwrap();
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(client_verifier)
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let server = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(dev.der().clone()).unwrap();
    let leaf = |id: &str, by: &Authority| {
        let mut params = leaf_params(id);
        valid(&mut params, now - 10, now + 3_600);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, by).unwrap().der().clone();
        Some((certificate, PrivateKeyDer::try_from(key.serialize_der()).unwrap()))
    };
    let (id, wrong_key) = ("spiffe://prod.example.com/a", KeyPair::generate().unwrap());
    let stolen = leaf(id, &prod).map(|(certificate, _)| {
        (certificate, PrivateKeyDer::try_from(wrong_key.serialize_der()).unwrap())
    });
    for (what, identity, expect) in [
        ("none", None, Some(false)),
        ("its own authority's", leaf(id, &prod), Some(true)),
        ("another authority's", leaf(id, &dev), None),
        ("no SPIFFE id", leaf("https://prod.example.com/a", &prod), None),
        ("a certificate without its key", stolen, None),
    ] {
        let client = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots.clone());
        let client = match identity {
            None => client.with_no_client_auth(),
            Some((certificate, key)) => {
                // Without the check that a client would make of its own key.
                let key = provider.key_provider.load_private_key(key).unwrap();
                let certified = rustls::sign::CertifiedKey::new(vec![certificate], key);
                client.with_client_cert_resolver(Arc::new(Always(Arc::new(certified))))
            }
        };
        let client = tokio_rustls::TlsConnector::from(Arc::new(client));
        let (near, far) = tokio::io::duplex(64 * 1024);
        let name = "gateway.example.com".try_into().unwrap();
        let (accepted, _connected) = tokio::join!(server.accept(near), client.connect(name, far));
        let presented = accepted.ok().map(|stream| {
            let (_, connection) = stream.get_ref();
            connection.peer_certificates().map(|chain| chain[0].to_vec())
        });
        assert_eq!(presented.as_ref().map(Option::is_some), expect, "{what}");
        if let Some(Some(certificate)) = presented {
            let origin = origin(Some(&certificate));
            let now = Timestamp::from_secs(now);
            let found = verifier.verify(Credential::Certificate, &origin, now).await;
            assert_eq!(found.unwrap().id.as_str(), "prod|a");
        }
    }
}

#[derive(Debug)]
struct Always(Arc<rustls::sign::CertifiedKey>);

impl rustls::client::ResolvesClientCert for Always {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.clone())
    }
    fn has_certs(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn without_trust_domains_no_certificate_is_asked_for() {
    let verifier = build(Vec::new()).unwrap();
    assert!(!verifier.client_verifier().offer_client_auth());
    let prod = authority("prod");
    let leaf = sign(&leaf_params("spiffe://prod.example.com/a"), &prod);
    let (shaken, found) = login(&verifier, &[leaf], NOW).await;
    assert_eq!((shaken, found.unwrap_err()), (false, "unknown_trust_domain"));
    let verifier = build(vec![domain("prod", "prod.example.com", &prod)]).unwrap();
    assert!(verifier.client_verifier().offer_client_auth());
    assert!(!verifier.client_verifier().client_auth_mandatory());
}
