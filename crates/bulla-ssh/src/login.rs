//! The client's side of `certify`: a token and a public key become a certificate.

use std::sync::Arc;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use bulla_core::{Secret, Timestamp};
use bytes::BytesMut;
use parking_lot::Mutex;
use russh::{
    ChannelMsg, client,
    client::AuthResult,
    keys::{PrivateKey, PublicKey, ssh_key::LineEnding, ssh_key::private::Ed25519Keypair},
};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    host::HostKeys,
    name::CERTIFY,
    pump::STDERR,
    target::{Checker, preferred},
};

/// Longest answer.
const ANSWER_BYTES_MAX: usize = 256 << 10;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error("who answers is not the gateway: {0} is certified by no authority that was given")]
    NotTheGateway(String),
    #[error("the gateway does not take the token")]
    Token,
    #[error("the connection failed: {0}")]
    Lost(#[from] russh::Error),
    #[error("the gateway says: {0}")]
    Refused(String),
    #[error("make a key: {0}")]
    Key(#[from] russh::keys::ssh_key::Error),
    #[error("there is no randomness")]
    Random,
}

/// A fresh key: the private one as OpenSSH keeps it, and the public one.
pub fn fresh_key(comment: &str) -> Result<(Secret, String), LoginError> {
    let mut seed = [0; 32];
    SystemRandom::new().fill(&mut seed).map_err(|_| LoginError::Random)?;
    let key = PrivateKey::new(Ed25519Keypair::from_seed(&seed).into(), comment)?;
    let private = key.to_openssh(LineEnding::LF)?;
    Ok((Secret::new(private.as_bytes().to_vec()), key.public_key().to_openssh()?))
}

/// Asks the gateway at the other end of `stream`, which must be certified as `name` by one of the
/// authorities, for a certificate for `public`.
pub async fn login<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: S,
    name: &str,
    authorities: Vec<PublicKey>,
    token: &Secret,
    public: &str,
    now: Timestamp,
) -> Result<String, LoginError> {
    let keys = HostKeys { pinned: Vec::new(), authorities, name: name.to_owned() };
    let mut preferred = preferred();
    preferred.host_key_certificates = preferred.key.clone();
    let config = client::Config { preferred, ..client::Config::default() };
    let refused: Arc<Mutex<Option<String>>> = Arc::default();
    let checker = Checker::new(keys, now, refused.clone());
    let connected = client::connect_stream(Arc::new(config), stream, checker).await;
    let mut handle = match (connected, refused.lock().take()) {
        (Ok(handle), _) => handle,
        (Err(_), Some(print)) => return Err(LoginError::NotTheGateway(print)),
        (Err(error), None) => return Err(error.into()),
    };
    let text = std::str::from_utf8(token.reveal()).map_err(|_| LoginError::Token)?;
    match handle.authenticate_password(CERTIFY, text.trim()).await? {
        AuthResult::Success => {}
        AuthResult::Failure { .. } => return Err(LoginError::Token),
    }
    let mut channel = handle.channel_open_session().await?;
    channel.exec(true, "certify").await?;
    channel.data_bytes(public.as_bytes().to_vec()).await?;
    channel.eof().await?;
    let (mut answer, mut words, mut good) = (BytesMut::new(), BytesMut::new(), false);
    while let Some(message) = channel.wait().await {
        match message {
            ChannelMsg::Data { data } => answer.extend_from_slice(&data),
            ChannelMsg::ExtendedData { data, ext: STDERR } => words.extend_from_slice(&data),
            ChannelMsg::ExitStatus { exit_status } => good = exit_status == 0,
            _ => {}
        }
        if answer.len() + words.len() > ANSWER_BYTES_MAX {
            break;
        }
    }
    let text = |bytes: &BytesMut| String::from_utf8_lossy(bytes).trim().to_owned();
    if good && !answer.is_empty() {
        Ok(text(&answer))
    } else {
        Err(LoginError::Refused(text(&words)))
    }
}
