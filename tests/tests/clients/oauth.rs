//! OAUTHBEARER, which the gateway does not offer yet, is refused in the protocol's own words, and
//! a token that was sent all the same is in no log.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use bulla_e2e::client::Dial;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};

use crate::world::World;

/// libpq 18 with `require_auth=oauth` and a token at hand.
const INSISTS: &str = r#"
import psycopg
try:
    psycopg.connect("require_auth=oauth oauth_issuer=https://issuer.example oauth_client_id=x")
    print("connected")
except psycopg.OperationalError as e:
    print(e)
"#;

#[test]
fn oauthbearer_is_refused_cleanly() {
    let world = World::start("oauth");
    let dial = world.side(0).dial.clone();
    let said = dial.python(INSISTS).unwrap();
    let words = "authentication method requirement \"oauth\" failed: server requested a cleartext";
    assert!(said.out().contains(words), "{said}");

    let sent = "n,,\x01auth=Bearer TOKENTOKENTOKEN\x01\x01";
    let mut initial = b"OAUTHBEARER\0".to_vec();
    initial.extend(u32::try_from(sent.len()).unwrap().to_be_bytes());
    initial.extend(sent.as_bytes());
    let answer = unasked(&dial, &initial);
    assert!(answer.starts_with(b"E"), "{answer:?}");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.contains("SFATAL\0"), "{answer:?}");
    assert!(answer.contains("C08P01\0") || answer.contains("C28P01\0"), "{answer:?}");
    assert!(!answer.contains("TOKENTOKEN") && !world.log().contains("TOKENTOKEN"));
    world.verified();
}

/// Sends a SASL response to a gateway that asked for a password; what it says then, to the end.
fn unasked(dial: &Dial, initial: &[u8]) -> Vec<u8> {
    bulla_e2e::crypto();
    let mut tcp = TcpStream::connect((dial.host.as_str(), dial.port)).unwrap();
    tcp.set_read_timeout(Some(crate::PATIENCE)).unwrap();
    tcp.write_all(&[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f]).unwrap();
    let mut yes = [0];
    tcp.read_exact(&mut yes).unwrap();
    assert_eq!(&yes, b"S");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dial.root.as_ref().unwrap()).unwrap()).unwrap();
    let config =
        rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let session = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut tls = rustls::StreamOwned::new(session, tcp);
    let startup = format!("\0\x03\0\0user\0app\0database\0{}\0\0", dial.database);
    tls.write_all(&u32::try_from(startup.len() + 4).unwrap().to_be_bytes()).unwrap();
    tls.write_all(startup.as_bytes()).unwrap();
    let mut asks = [0; 9];
    tls.read_exact(&mut asks).unwrap();
    assert_eq!(asks, [b'R', 0, 0, 0, 8, 0, 0, 0, 3], "AuthenticationCleartextPassword");
    tls.write_all(b"p").unwrap();
    tls.write_all(&u32::try_from(initial.len() + 4).unwrap().to_be_bytes()).unwrap();
    tls.write_all(initial).unwrap();
    let mut answer = Vec::new();
    // A server that has said FATAL may close without TLS's own goodbye.
    let _ = tls.read_to_end(&mut answer);
    answer
}
