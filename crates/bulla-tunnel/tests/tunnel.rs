//! A gateway's door and real agents over loopback: what they do for each other, and what a hostile
//! one of either kind cannot do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bed;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bed::{Bed, Echo, SOON, until};
use bulla_core::Digest;
use bulla_tunnel::{Authority, Enrolment, JoinToken, Old, OpenError, Pin, Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const BIG: usize = 8 << 20;

async fn echo(stream: &mut bulla_tunnel::TunnelStream, words: &[u8]) -> Vec<u8> {
    stream.write_all(words).await.unwrap();
    let mut out = vec![0; words.len()];
    stream.read_exact(&mut out).await.unwrap();
    out
}

#[tokio::test]
async fn an_agent_enrols_serves_and_is_on_record() {
    let bed = Bed::start().await;
    let agent = bed.agent("eu-1", &["orders"], Echo::default()).await;
    let mut joined = bed.open("orders").await.unwrap();
    assert_eq!(joined.hello.account, "agent's account");
    assert_eq!(echo(&mut joined.stream, b"hello").await, b"hello");
    let big: Vec<u8> = (0..BIG).map(|i| (i * 31 % 251) as u8).collect();
    let (mut read, mut write) = tokio::io::split(joined.stream);
    let expected = big.clone();
    let writer = tokio::spawn(async move { write.write_all(&big).await.map(|()| write) });
    let mut got = vec![0; BIG];
    read.read_exact(&mut got).await.unwrap();
    assert!(got == expected);
    assert_eq!(bed.door.fleet.list()[0].streams, 1);
    drop((read, writer.await.unwrap().unwrap()));
    until(|| bed.door.fleet.list()[0].streams == 0).await;
    drop(agent);
    until(|| bed.door.fleet.list().is_empty()).await;
    until(|| bed.notes.has("disconnects")).await;
    let notes = bed.notes.all();
    for (at, words) in ["enrols from 127.0.0.1, for orders", "connects from", "disconnects: "]
        .into_iter()
        .enumerate()
    {
        assert!(notes[at].contains(words), "{words} in {notes:#?}");
    }
    assert!(notes[0].starts_with("join token of local:root: agent `eu-1`"), "{notes:#?}");
}

#[tokio::test]
async fn nothing_happens_without_its_entry() {
    let bed = Bed::start().await;
    bed.notes.fail(true);
    let agent = bed.try_agent("eu-1", &["orders"], Echo::default());
    until(|| agent.error().is_some_and(|error| error.contains("refuses"))).await;
    assert!(bed.door.fleet.list().is_empty());
    drop(agent);
    // Enrolled while it could be recorded; its tunnel cannot be.
    bed.notes.fail(false);
    let agent = bed.agent("eu-2", &["orders"], Echo::default()).await;
    bed.notes.fail(true);
    bed.door.fleet.end("eu-2", None, "test");
    until(|| bed.door.fleet.list().is_empty()).await;
    until(|| agent.error().is_some()).await;
    assert!(bed.door.fleet.list().is_empty());
    bed.notes.fail(false);
    until(|| bed.door.fleet.list().len() == 1).await;
}

#[tokio::test]
async fn a_stalled_stream_slows_no_other() {
    let bed = Bed::start().await;
    let _agent = bed.agent("eu-1", &["orders", "hung"], Echo::default()).await;
    // Sixty-four streams whose targets read nothing, each full to its brim.
    let mut stalled = Vec::new();
    for _ in 0..64 {
        let mut joined = bed.open("hung").await.unwrap();
        let chunk = vec![0; 256 * 1024];
        let (mut sent, since) = (0, Instant::now());
        // Its whole window, less the request that opened it; a busy machine may stop before.
        let mut is_full = false;
        while !is_full {
            let write = joined.stream.write(&chunk);
            match tokio::time::timeout(Duration::from_millis(30), write).await {
                Ok(wrote) => sent += wrote.unwrap(),
                Err(_) => is_full = sent > 1_000_000,
            }
            assert!(sent < 64 << 20, "nothing stops it");
            assert!(since.elapsed() < SOON, "stopped after {sent} bytes");
        }
        stalled.push(joined);
    }
    let mut live = bed.open("orders").await.unwrap();
    let words = vec![7; 3 << 20];
    let (mut read, mut write) = tokio::io::split(&mut live.stream);
    let (wrote, got) = tokio::time::timeout(SOON, async {
        let mut got = vec![0; words.len()];
        tokio::join!(write.write_all(&words), async {
            read.read_exact(&mut got).await.unwrap();
            got
        })
    })
    .await
    .expect("the stalled streams hold the live one up");
    wrote.unwrap();
    assert!(got == words);
}

#[tokio::test]
async fn sessions_fail_over_and_take_turns() {
    let bed = Bed::start().await;
    let (one, two) = (Echo::default(), Echo::default());
    let first = bed.agent("eu-1", &["orders"], one.clone()).await;
    let _second = bed.agent("eu-2", &["orders"], two.clone()).await;
    let mut open = Vec::new();
    for _ in 0..10 {
        open.push(bed.open("orders").await.unwrap());
    }
    assert_eq!((one.opened(), two.opened()), (5, 5));
    // One agent's network cannot reach the target: the other takes all.
    one.break_targets(true);
    for _ in 0..4 {
        open.push(bed.open("orders").await.unwrap());
    }
    assert_eq!(two.opened(), 9);
    one.break_targets(false);
    // One agent dies: its streams are lost at once, new ones go on.
    drop(first);
    let (mut lost, since) = (0, Instant::now());
    while lost < 5 {
        assert!(since.elapsed() < SOON, "{lost} lost");
        let mut left = Vec::new();
        for mut joined in open {
            let mut byte = [0];
            let read = joined.stream.read(&mut byte);
            match tokio::time::timeout(Duration::from_millis(20), read).await {
                Ok(Err(error)) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
                    lost += 1;
                }
                Ok(Ok(n)) => panic!("{n} bytes out of nowhere"),
                Err(_) => left.push(joined),
            }
        }
        open = left;
    }
    assert_eq!(open.len(), 9, "as many as were on the other");
    for joined in &mut open {
        assert_eq!(echo(&mut joined.stream, b"still here").await, b"still here");
    }
    bed.open("orders").await.unwrap();
}

#[tokio::test]
async fn an_agent_drains_without_a_drop() {
    let bed = Bed::start().await;
    let agent = bed.agent("eu-1", &["orders"], Echo::default()).await;
    let mut joined = bed.open("orders").await.unwrap();
    let stopped = agent.stop();
    until(|| bed.door.fleet.list().iter().all(|tunnel| tunnel.draining)).await;
    let refused = bed.open("orders").await.err().unwrap();
    assert_eq!(refused, OpenError::Offline("`eu-1`".into()));
    assert_eq!(refused.public().as_deref(), Some("agent `eu-1` is offline"));
    // What is open goes on, and the agent waits for it.
    assert_eq!(echo(&mut joined.stream, b"still here").await, b"still here");
    assert!(!stopped.is_finished());
    drop(joined);
    tokio::time::timeout(SOON, stopped).await.unwrap().unwrap();
    until(|| bed.door.fleet.list().is_empty()).await;
}

#[tokio::test]
async fn an_agent_that_is_to_stop_does_so_at_its_deadline() {
    let bed = Bed::start().await;
    let drain = Duration::from_millis(300);
    let agent = bed.agent_by("eu-1", |config| config.drain = drain).await;
    let mut joined = bed.open("orders").await.unwrap();
    // Nobody ends the stream.
    tokio::time::timeout(SOON, agent.stop()).await.unwrap().unwrap();
    assert!(joined.stream.read_u8().await.is_err());
    until(|| bed.notes.has("1 streams were open")).await;
}

#[tokio::test]
async fn a_proxy_carries_the_tunnel() {
    let bed = Bed::start().await;
    let (proxy, asked) = bed.proxy().await;
    let by = Proxy { address: proxy, credentials: None };
    // A name that only the proxy knows: there is no other way.
    let agent = bed.agent_by("eu-1", |config| {
        config.gateways[0].address = "gw.invalid:7443".into();
        config.gateways[0].proxy = Some(by);
    });
    let _agent = agent.await;
    let mut joined = bed.open("orders").await.unwrap();
    let words = vec![7; 1 << 20];
    let (mut read, mut write) = tokio::io::split(&mut joined.stream);
    let mut got = vec![0; words.len()];
    let (wrote, read) = tokio::join!(write.write_all(&words), read.read_exact(&mut got));
    assert!(wrote.is_ok() && read.is_ok() && got == words);
    // To enrol, and for the tunnel.
    let asked = asked.lock().unwrap();
    assert!(
        asked.len() >= 2 && asked.iter().all(|head| head == "CONNECT gw.invalid:7443 HTTP/1.1")
    );
}

#[tokio::test]
async fn an_agent_is_with_all_of_its_gateways_at_once() {
    let (one, two) = (Bed::start().await, Bed::start().await);
    let other = bed::link(&two, "other", "eu-1");
    let agent = one.agent_by("eu-1", |config| config.gateways.push(other)).await;
    until(|| two.door.fleet.list().len() == 1).await;
    let (mut first, mut second) =
        (one.open("orders").await.unwrap(), two.open("orders").await.unwrap());
    // One of them goes: the other does not notice.
    one.door.stop().await;
    assert!(one.notes.has("disconnects"), "whoever stops it waits for the record");
    assert!(first.stream.read_u8().await.is_err());
    assert_eq!(echo(&mut second.stream, b"still here").await, b"still here");
    two.open("orders").await.unwrap();
    until(|| agent.error().is_some()).await;
    assert_ne!(one.door.authority().pin(), two.door.authority().pin());
}

/// It stops while one is being met: that one does not begin, since nobody would wait for its end.
#[tokio::test]
async fn no_tunnel_begins_once_its_gateway_stops() {
    let bed = Bed::start().await;
    let tls = bed.evil_dial("eu-1", &["orders"]).await;
    let notes = bed.notes.all();
    bed.door.stop().await;
    tokio::time::timeout(SOON, bed::serve(tls, b"{}")).await.expect("the tunnel stays");
    assert!(bed.door.fleet.list().is_empty());
    assert_eq!(bed.notes.all(), notes);
}

#[tokio::test]
async fn a_certificate_is_renewed_before_it_ends() {
    let bed = Bed::start_with(|config| config.certificate_ttl = Duration::from_secs(6)).await;
    let _agent = bed.agent("eu-1", &["orders"], Echo::default()).await;
    let mut joined = bed.open("orders").await.unwrap();
    let first = bed.door.roster.list()[0].expires;
    until(|| bed.door.roster.list()[0].expires > first).await;
    until(|| bed.notes.has("renews from")).await;
    until(|| bed.now() > first).await;
    // The tunnel outlives the certificate that it was opened with.
    assert_eq!(echo(&mut joined.stream, b"x").await, b"x");
    assert_eq!(bed.door.roster.list().len(), 1);
}

#[tokio::test]
async fn a_revoked_agent_is_out_at_once() {
    let bed = Bed::start().await;
    let agent = bed.agent("eu-1", &["orders"], Echo::default()).await;
    let mut joined = bed.open("orders").await.unwrap();
    let now = bed.now();
    bed.door.roster.revoke("eu-1", None, "local:root", now).unwrap();
    bed.door.fleet.end("eu-1", None, "revoked");
    assert!(joined.stream.read_u8().await.is_err());
    // It comes again and again, with its certificate, and is turned away.
    until(|| bed.notes.has("revoked or expired")).await;
    assert!(bed.door.fleet.list().is_empty() && agent.error().is_some());
}

#[tokio::test]
async fn an_authority_is_replaced_in_place() {
    let bed = Bed::start_with(|config| config.certificate_ttl = Duration::from_secs(12)).await;
    let data = bed.data();
    let agent = bed.agent_in(&data, "eu-1", &["orders"]).await;
    let mut joined = bed.open("orders").await.unwrap();
    let root = || bed::chain(&data)[1].clone();
    let first = root();
    // A token that was made before, and a pin that was handed out.
    let waiting = bed.token("eu-2", &["orders"]).reveal();
    bed.replace(Old::Runs).unwrap();
    assert_eq!(echo(&mut joined.stream, b"still here").await, b"still here");
    // One whose certificate is the old authority's comes again: each believes the other.
    assert_eq!(root(), first);
    bed.door.fleet.end("eu-1", None, "test");
    until(|| bed.door.fleet.list().is_empty()).await;
    until(|| bed.door.fleet.list().len() == 1).await;
    let _late = bed.agent_with(Enrolment::JoinFile(bed.file(&waiting)), "eu-2", None);
    until(|| bed.door.fleet.list().len() == 2).await;
    // It renews toward the new one, by itself.
    until(|| root() != first).await;
    bed.open_by("orders", &["eu-1".into()]).await.unwrap();
    // Both again after a restart, and twice is not once too often.
    let path = bed.authority_path();
    let again = Authority::open(&path, "gw", bed.now()).unwrap();
    assert_eq!(again.pin(), bed.door.authority().pin());
    assert!(again.changes(bed.now()).is_some());
    bed.replace(Old::Runs).unwrap();
    until(|| bed.door.fleet.list().len() == 2).await;
    // At once: nobody of before is believed, and nobody of before believes.
    let stolen = std::fs::read_to_string(data.join("gw.pem")).unwrap();
    bed.replace(Old::Ends).unwrap();
    until(|| bed.door.fleet.list().is_empty()).await;
    until(|| agent.error().is_some()).await;
    // Nor is one of before that would believe the new one.
    let (own, _) = stolen.rsplit_once("-----BEGIN CERTIFICATE-----").unwrap();
    let forged = format!("{own}{}", bed.door.authority().pem());
    assert!(bed.try_dial(forged.as_bytes()).await.is_err());
    assert!(bed.door.authority().changes(bed.now()).is_none());
    let _fresh = bed.agent("eu-3", &["orders"], Echo::default()).await;
}

#[tokio::test]
async fn hostile_agents_get_nothing() {
    let bed = Bed::start().await;
    // It offers a target that it was not enrolled for, and one of another agent's.
    let liar = Echo::default();
    let _agent = bed.agent("eu-1", &["orders"], liar.clone()).await;
    assert!(bed.door.fleet.list()[0].targets.contains(&"payments".to_owned()));
    assert_eq!(bed.open("payments").await.err(), Some(OpenError::Offline("`eu-1`".into())));
    let other: Arc<str> = "eu-2".into();
    assert!(matches!(bed.open_by("orders", &[other]).await, Err(OpenError::Offline(_))));
    assert_eq!(liar.opened(), 0);
    // A join token that was used, one that was made up, and one for another gateway.
    let used = bed.token("eu-3", &["orders"]);
    let text = used.reveal();
    let first = bed.agent_with(Enrolment::JoinFile(bed.file(&text)), "eu-3", None);
    until(|| bed.door.fleet.list().len() == 2).await;
    drop(first);
    let made_up = JoinToken::new(used.pin).unwrap().reveal();
    for text in [text, made_up] {
        let agent = bed.agent_with(Enrolment::JoinFile(bed.file(&text)), "eu-3", None);
        until(|| agent.error().is_some_and(|error| error.contains("refuses"))).await;
    }
    let elsewhere = JoinToken::new(Digest([1; 32])).unwrap().reveal();
    let agent = bed.agent_with(Enrolment::JoinFile(bed.file(&elsewhere)), "eu-3", None);
    until(|| agent.error().is_some_and(|error| error.contains("UnknownIssuer"))).await;
    // A token for one agent does not make another.
    let token = bed.token("eu-4", &["orders"]).reveal();
    let agent = bed.agent_with(Enrolment::JoinFile(bed.file(&token)), "eu-5", None);
    until(|| agent.error().is_some_and(|error| error.contains("not `eu-5`"))).await;
}

#[tokio::test]
async fn an_agent_that_comes_again_and_again_does_not_fill_the_record() {
    let bed = Bed::start().await;
    let data = bed.data();
    drop(bed.agent_in(&data, "eu-1", &["orders"]).await);
    until(|| bed.door.fleet.list().is_empty()).await;
    let pem = std::fs::read(data.join("gw.pem")).unwrap();
    let mut served = 0;
    for _ in 0..100 {
        // It is greeted, and leaves.
        served += u32::from(bed.try_dial(&pem).await.is_ok());
    }
    assert!((50..=60).contains(&served), "{served}");
    assert!(bed.notes.all().len() < 70, "{:#?}", bed.notes.all());
}

#[tokio::test]
async fn an_identity_of_its_own_enrols_the_agent_that_it_may_be() {
    let bed = Bed::start().await;
    let pin = Some(Pin(bed.door.authority().pin()));
    let jwt = |words: &str| Enrolment::Jwt(bed.file(words));
    let agent = bed.agent_with(jwt("infra/agent"), "eu-1", pin);
    until(|| bed.door.fleet.list().len() == 1).await;
    assert!(bed.notes.has("k8s|infra/agent: agent `eu-1`"));
    bed.open("orders").await.unwrap();
    drop(agent);
    for (words, name) in [("infra/agent", "eu-2"), ("infra/other", "eu-1"), ("bad", "eu-1")] {
        let agent = bed.agent_with(jwt(words), name, pin);
        until(|| agent.error().is_some_and(|error| error.contains("refuses"))).await;
    }
}

#[tokio::test]
async fn hostile_gateways_reach_what_the_agent_names_and_nothing_else() {
    let echo = Echo::default();
    let mut evil = bed::EvilGateway::meet(echo.clone()).await;
    for (target, protocol, part) in [
        ("169.254.169.254:80", "echo", "main"),
        ("localhost", "echo", "main"),
        ("orders/../payments", "echo", "main"),
        ("orders", "http", "main"),
        ("orders", "echo", "other"),
        ("", "echo", "main"),
    ] {
        let answer = evil.open(target, protocol, part).await;
        assert!(answer.contains("failed"), "{target}: {answer}");
    }
    assert_eq!(echo.opened(), 0);
    // Paths, versions and messages that are not in the book.
    assert_eq!(evil.status("/dial").await, 404);
    assert_eq!(evil.status("/open/x").await, 404);
    assert!(evil.raw("/open", b"\xff\xff\xff\xff").await.contains("malformed"));
    assert!(evil.raw("/open", b"\0\0\0\x02{}").await.contains("malformed"));
    // Nothing is signed that no stream waits for.
    let sign = br#"{"target":"orders","protocol":"echo","key":"AAAA","data":"AAAA"}"#;
    let framed = [&[0, 0, 0, sign.len() as u8][..], sign].concat();
    assert!(evil.raw("/sign", &framed).await.contains("failed"));
    assert!(evil.open("orders", "echo", "main").await.contains("ok"));
    assert_eq!(echo.opened(), 1);
}

#[tokio::test]
async fn hostile_answers_end_in_an_error() {
    let answers: [&[u8]; 5] = [
        b"\xff\xff\xff\xff",
        b"\0\0\0\x02{}",
        br#"{"ok":{"account":"a","parameters":[],"cancel_key":"not base64"}}"#,
        b"",
        b"\0\0\0\x09{\"ok\":1}}",
    ];
    for answer in answers {
        let bed = Bed::start().await;
        let _evil = bed.evil_agent("eu-1", &["orders"], answer).await;
        until(|| bed.door.fleet.list().len() == 1).await;
        let error = bed.open("orders").await.err().unwrap();
        assert!(matches!(error, OpenError::Failed { .. }), "{error}");
    }
}
