//! A target that lies: a real server behind a passage that says something else where it is told to.
//!
//! It stands where a compromised agent, or a compromised target, would: everything that a session
//! hears of its target comes through here, without TLS.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::thread;

use anyhow::{Context, Result};

use crate::postgres::Postgres;

/// What is said, and when.
#[derive(Clone, Debug)]
pub struct Lie {
    /// Said where these bytes are asked.
    pub cue: String,
    pub bytes: Vec<u8>,
    pub then: Then,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then {
    /// The server is asked, too, and answers.
    Ask,
    /// The server never hears it.
    Keep,
    /// The line ends.
    Hang,
}

/// A message of a server.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [&[kind], &length.to_be_bytes()[..], body].concat()
}

/// A running one. Its threads end with their connections, and the last with the process.
#[derive(Debug)]
pub struct Liar {
    port: u16,
}

impl Liar {
    /// In front of `server`.
    ///
    /// # Errors
    /// No port is free.
    pub fn start(server: &Postgres, lies: Vec<Lie>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen")?;
        let (port, target) = (listener.local_addr()?.port(), server.port());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let lies = lies.clone();
                thread::spawn(move || {
                    // An end of either side is an end of both.
                    let _ = serve(client, target, &lies);
                });
            }
        });
        Ok(Self { port })
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

fn serve(mut client: TcpStream, target: u16, lies: &[Lie]) -> Result<()> {
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, target))?;
    let (mut from, mut to) = (server.try_clone()?, client.try_clone()?);
    let down = thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = client.read(&mut buffer).unwrap_or(0);
        let asked = buffer.get(..read).unwrap_or_default();
        if asked.is_empty() {
            break;
        }
        let has = |cue: &str| asked.windows(cue.len()).any(|part| part == cue.as_bytes());
        let lie = lies.iter().find(|lie| has(&lie.cue));
        if let Some(lie) = lie {
            client.write_all(&lie.bytes)?;
        }
        match lie.map(|lie| lie.then) {
            None | Some(Then::Ask) => server.write_all(asked)?,
            Some(Then::Keep) => {}
            Some(Then::Hang) => break,
        }
    }
    let _ = server.shutdown(Shutdown::Both);
    let _ = client.shutdown(Shutdown::Both);
    let _ = down.join();
    Ok(())
}
