//! The protocols that are built in: the only file of this crate that names one.

use std::{collections::BTreeMap, io, sync::Arc};

use bulla_wire::Protocol;

/// Every protocol, by the word that `protocol = "…"` takes.
pub type Protocols = BTreeMap<&'static str, Arc<dyn Protocol>>;

/// The words that `protocol = "…"` takes.
pub const KNOWN: &[&str] = &[bulla_postgres::DESCRIPTOR.protocol];

/// Makes every protocol, with its threads.
pub fn protocols() -> io::Result<Protocols> {
    let postgres: Arc<dyn Protocol> = Arc::new(bulla_postgres::Postgres::new(Default::default())?);
    Ok(BTreeMap::from([(postgres.descriptor().protocol, postgres)]))
}

/// The ALPN names that a listener of the protocol accepts.
pub fn alpn(protocol: &str) -> Vec<Vec<u8>> {
    match protocol {
        "postgres" => vec![b"postgresql".to_vec()],
        _ => Vec::new(),
    }
}

/// What went to a client, as a person reads it, line by line. Not escaped.
pub fn render(protocol: &str, to_client: &[u8]) -> Vec<String> {
    match protocol {
        "postgres" => bulla_postgres::render(to_client),
        _ => vec![format!("{} bytes", to_client.len())],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_what_is_made() {
        let made: Vec<_> = protocols().unwrap().into_keys().collect();
        assert_eq!(made, KNOWN);
    }
}
