use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::*;

const GET: &str = "GET /1 HTTP/1.1\r\nhost: a\r\n\r\n";

/// Two deadlines that are told apart, and one that is never met.
const SHORT: Duration = Duration::from_millis(80);
const LONG: Duration = Duration::from_millis(240);
const NEVER: Duration = Duration::from_secs(600);

fn near(deadlines: Deadlines, room: usize) -> (Shared, DuplexStream) {
    let (own, client) = tokio::io::duplex(room);
    (Near::new(Box::new(own), Arc::default(), deadlines), client)
}

fn patient() -> Deadlines {
    Deadlines { idle: NEVER, head: NEVER, body: NEVER }
}

async fn head(near: &Shared) -> Option<Result<RequestHead, Fault>> {
    poll_fn(|cx| near.lock().poll_head(cx, false)).await
}

async fn body(near: &Shared) -> Result<Vec<u8>, LineError> {
    let (mut reader, mut all) = (NearBody(near.clone()), Vec::new());
    while let Some(bytes) = poll_fn(|cx| reader.poll_bytes(cx)).await {
        all.extend_from_slice(&bytes?);
    }
    Ok(all)
}

fn is_gone(near: &Shared) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    near.lock().poll_gone(&mut cx).is_ready()
}

#[tokio::test]
async fn requests_come_one_at_a_time_however_they_are_sent() {
    let post = "POST /2 HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc";
    let chunked = "POST /3 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
                   3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let all = [GET, post, chunked, "GET /4 HTTP/1.1\nhost: a\r\n\r\n"].concat();
    for size in [1, 5, 1 << 16] {
        let (near, mut client) = near(patient(), 1 << 16);
        let sent = all.clone();
        let sending = tokio::spawn(async move {
            for piece in sent.as_bytes().chunks(size) {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            client
        });
        for (target, expect) in [("/1", ""), ("/2", "abc"), ("/3", "abcde")] {
            let read = head(&near).await.unwrap().unwrap();
            assert_eq!(read.target, target);
            assert_eq!(body(&near).await.unwrap(), expect.as_bytes(), "{target} in {size}");
            assert!(near.lock().pipe.came.over && !is_gone(&near));
            near.lock().next();
        }
        assert_eq!(head(&near).await.unwrap().unwrap_err().status, 400);
        assert_eq!(near.lock().watch.fault().map(|fault| fault.status), Some(400));
        drop(sending.await.unwrap());
    }
}

#[tokio::test]
async fn who_takes_too_long_is_not_waited_for() {
    let deadlines = Deadlines { idle: LONG, head: SHORT, body: LONG };
    // A stranger has the time for one request, and so has a head, however its bytes come.
    let (own, client) = near(deadlines, 1 << 10);
    let since = Instant::now();
    assert!(head(&own).await.is_none() && since.elapsed() >= SHORT);
    drop(client);
    let (own, client) = near(deadlines, 1 << 10);
    own.lock().watch.known();
    let since = Instant::now();
    assert!(head(&own).await.is_none() && since.elapsed() >= LONG, "known, and idle");
    drop(client);
    let (own, mut client) = near(deadlines, 1 << 10);
    own.lock().watch.known();
    let dripping = tokio::spawn(async move {
        for byte in GET.bytes().cycle() {
            let byte = if byte == b'\r' { b'x' } else { byte };
            if client.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(SHORT / 8).await;
        }
    });
    let since = Instant::now();
    let fault = head(&own).await.unwrap().unwrap_err();
    assert!(since.elapsed() >= SHORT);
    // A loaded machine may have held the bytes back until they were a bad line.
    assert!([400, 408].contains(&fault.status), "{fault:?}");
    dripping.abort();
    // A body that stops.
    let (own, mut client) = near(deadlines, 1 << 10);
    let begun = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc";
    client.write_all(begun.as_bytes()).await.unwrap();
    head(&own).await.unwrap().unwrap();
    let since = Instant::now();
    let error = body(&own).await.unwrap_err();
    assert!(matches!(error, LineError::Fault(fault) if fault.status == 408), "{error}");
    assert!(since.elapsed() >= LONG);
    // An answer that is not taken.
    let (own, client) = near(deadlines, 16);
    own.lock().pipe.out.push(Bytes::from(vec![b'x'; 100]));
    let since = Instant::now();
    let error = poll_fn(|cx| own.lock().poll_out(cx)).await.unwrap_err();
    assert!(error.kind() == io::ErrorKind::TimedOut && since.elapsed() >= LONG, "{error}");
    drop(client);
}

#[tokio::test]
async fn leave_to_send_a_body_is_given_once_and_only_where_it_is_waited_for() {
    let begin = "POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n";
    let (own, mut client) = near(patient(), 1 << 10);
    client.write_all(begin.as_bytes()).await.unwrap();
    head(&own).await.unwrap().unwrap();
    let reading = tokio::spawn({
        let own = own.clone();
        async move { body(&own).await }
    });
    let mut leave = vec![0; CONTINUE.len()];
    client.read_exact(&mut leave).await.unwrap();
    assert_eq!(leave, CONTINUE);
    client.write_all(b"abc").await.unwrap();
    assert_eq!(reading.await.unwrap().unwrap(), b"abc");
    assert!(own.lock().pipe.is_flushed());
    // Who has sent it already waits for nothing; neither does who speaks HTTP/1.0.
    let sent = format!("{begin}abc");
    for sent in [sent.clone(), sent.replace("P/1.1", "P/1.0")] {
        let (own, mut client) = near(patient(), 1 << 10);
        client.write_all(sent.as_bytes()).await.unwrap();
        head(&own).await.unwrap().unwrap();
        assert_eq!(body(&own).await.unwrap(), b"abc");
        assert!(own.lock().pipe.is_flushed());
        drop(own);
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
    }
}

#[tokio::test]
async fn who_leaves_is_heard_and_who_sends_ahead_is_not_read_without_end() {
    let (own, mut client) = near(patient(), 1 << 20);
    client.write_all(GET.as_bytes()).await.unwrap();
    head(&own).await.unwrap().unwrap();
    assert!(!is_gone(&own));
    drop(client);
    assert!(is_gone(&own));
    let (own, mut client) = near(patient(), 1 << 20);
    client.write_all(GET.repeat(20_000).as_bytes()).await.unwrap();
    head(&own).await.unwrap().unwrap();
    for _ in 0..100 {
        assert!(!is_gone(&own));
    }
    let unread = own.lock().pipe.filter.unread();
    assert!((AHEAD_BYTES_MAX..AHEAD_BYTES_MAX * 3).contains(&unread), "{unread}");
    // Whoever looks is told when the body is over, whoever has read it.
    let (own, mut client) = near(patient(), 1 << 10);
    let begun = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\n";
    client.write_all(begun.as_bytes()).await.unwrap();
    head(&own).await.unwrap().unwrap();
    let looking = tokio::spawn({
        let own = own.clone();
        async move { poll_fn(|cx| own.lock().poll_gone(cx)).await }
    });
    tokio::task::yield_now().await;
    client.write_all(b"abc").await.unwrap();
    assert_eq!(body(&own).await.unwrap(), b"abc");
    drop(client);
    looking.await.unwrap();
}

#[tokio::test]
async fn what_nobody_took_of_a_body_is_of_no_other_request() {
    let chunks = "transfer-encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n";
    for framed in ["content-length: 4\r\n\r\nevil", chunks] {
        for (next, expect) in [("content-length: 3\r\n\r\nown", &b"own"[..]), ("\r\n", b"")] {
            let (own, mut client) = near(patient(), 1 << 16);
            let both = ["1", "2"].map(|path| format!("POST /{path} HTTP/1.1\r\nhost: a\r\n"));
            let sent = format!("{}{framed}{}{next}", both[0], both[1]);
            client.write_all(sent.as_bytes()).await.unwrap();
            assert_eq!(head(&own).await.unwrap().unwrap().target, "/1");
            assert!(own.lock().pipe.came.over && !own.lock().is_over());
            own.lock().next();
            assert_eq!(head(&own).await.unwrap().unwrap().target, "/2");
            assert_eq!(own.lock().is_over(), expect.is_empty());
            assert_eq!(body(&own).await.unwrap(), expect, "{framed}");
        }
    }
}

#[tokio::test]
async fn the_time_for_a_head_begins_with_it() {
    let deadlines = Deadlines { idle: NEVER, head: SHORT, body: NEVER };
    let (own, mut client) = near(deadlines, 1 << 10);
    let mut cx = Context::from_waker(Waker::noop());
    let (begin, end) = GET.split_at(20);
    client.write_all(begin.as_bytes()).await.unwrap();
    assert!(own.lock().poll_head(&mut cx, false).is_pending());
    client.write_all([end, begin].concat().as_bytes()).await.unwrap();
    head(&own).await.unwrap().unwrap();
    // The answer takes longer than a head may, while the beginning of the next one is there.
    tokio::time::sleep(SHORT * 2).await;
    own.lock().next();
    assert!(own.lock().poll_head(&mut cx, false).is_pending(), "the time of another one");
    let fault = head(&own).await.unwrap().unwrap_err();
    assert_eq!(fault.status, 408);
}
