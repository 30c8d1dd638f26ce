//! What systemd is told of a service of `Type=notify`: `sd_notify(3)`.
//!
//! One datagram of `KEY=value` lines to the socket that `$NOTIFY_SOCKET` names; a leading `@` is an
//! abstract address. Where the variable is not set nobody listens, and nothing is said.

use std::{
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    time::Duration,
};

fn say(words: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(path.as_encoded_bytes(), words) {
        tracing::warn!(%error, "tell the service manager");
    }
}

fn send(path: &[u8], words: &str) -> std::io::Result<()> {
    let address = match path.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => {
            use std::os::unix::ffi::OsStrExt;
            SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?
        }
    };
    UnixDatagram::unbound()?.send_to_addr(words.as_bytes(), &address).map(drop)
}

/// It serves; from here on it says that it is alive as often as the manager wants to hear it.
pub fn ready(status: &str) {
    say(&format!("READY=1\nSTATUS={status}"));
    let every = std::env::var("WATCHDOG_USEC").ok().and_then(|us| us.parse::<u64>().ok());
    let ours = std::env::var("WATCHDOG_PID").ok();
    if ours.is_some_and(|pid| pid != std::process::id().to_string()) {
        return;
    }
    if let Some(us) = every.filter(|us| *us > 0) {
        // From the runtime, so that a runtime that is stuck is noticed.
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_micros(us / 2)).await;
                say("WATCHDOG=1");
            }
        });
    }
}

/// It drains.
pub fn stopping() {
    say("STOPPING=1\nSTATUS=draining");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_socket() {
        let name = format!("bulla-notify-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let _ = std::fs::remove_file(&path);
        let listener = UnixDatagram::bind(&path).unwrap();
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let hidden = UnixDatagram::bind_addr(&address).unwrap();
        for (socket, to) in
            [(listener, path.to_string_lossy().into_owned()), (hidden, format!("@{name}"))]
        {
            send(to.as_bytes(), "READY=1\nSTATUS=x").unwrap();
            let mut buf = [0; 100];
            let n = socket.recv(&mut buf).unwrap();
            assert_eq!(&buf[..n], b"READY=1\nSTATUS=x");
        }
        std::fs::remove_file(path).unwrap();
        assert!(send(b"/nonexistent/socket", "READY=1").is_err());
    }
}
