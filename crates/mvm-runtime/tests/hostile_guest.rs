//! The host's end of the agent channel against peers that no honest guest would be.

use std::time::Duration;

use futures_util::io::{AsyncReadExt as _, AsyncWriteExt as _};
use mvm_runtime::ErrorCode;
use mvm_runtime::connect;
use mvm_runtime::export::receive;
use mvm_runtime::layers::Limits;
use mvm_runtime::progress::Silent;
use mvm_runtime::vmm::guest::Guest;
use mvm_wire::files::{Entry, FileKind, FileReply, Write};
use mvm_wire::frame::{self, Kind};
use mvm_wire::guest::{Exec, Failure, Reply, Request, Step};
use mvm_wire::hello::{HELLO_LEN, Hello, MAGIC, Scanner};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_util::compat::TokioAsyncReadCompatExt;

/// Long enough for anything but a hang.
const BOUND: Duration = Duration::from_secs(20);

async fn read_hello(peer: &mut UnixStream) -> Hello {
    let mut bytes = [0; HELLO_LEN];
    peer.read_exact(&mut bytes).await.unwrap();
    let mut scanner = Scanner::default();
    bytes.iter().find_map(|byte| scanner.push(*byte)).unwrap()
}

/// Greets a peer that behaves as `peer` does.
async fn greet<F: Future<Output = ()> + Send + 'static>(
    peer: impl FnOnce(UnixStream) -> F,
) -> mvm_runtime::Result<Guest> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    tokio::spawn(peer(theirs));
    tokio::time::timeout(BOUND, Guest::connect(ours)).await.expect("no hang")
}

#[tokio::test]
async fn endless_garbage_is_given_up() {
    let error =
        greet(|mut peer| async move { while peer.write_all(&[0x5a; 65536]).await.is_ok() {} }).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::TransportError);
}

#[tokio::test]
async fn an_early_end_is_an_error() {
    let error = greet(|peer| async move { drop(peer) }).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::TransportError);
}

#[tokio::test]
async fn answers_to_another_greeting_are_passed_over() {
    let guest = greet(|mut peer| async move {
        let hello = read_hello(&mut peer).await;
        let stale = Hello { nonce: [1; 16], ..hello.answer() };
        peer.write_all(b"rest of an old session").await.unwrap();
        peer.write_all(&MAGIC).await.unwrap();
        peer.write_all(&stale.encode()).await.unwrap();
        peer.write_all(&hello.answer().encode()).await.unwrap();
        tokio::time::sleep(BOUND).await;
    })
    .await;
    assert!(guest.is_ok());
}

#[tokio::test]
async fn a_guest_of_another_age_is_incompatible() {
    let error = greet(|mut peer| async move {
        let hello = read_hello(&mut peer).await;
        let answer = Hello { min: 0, max: 0, nonce: hello.nonce };
        peer.write_all(&answer.encode()).await.unwrap();
        tokio::time::sleep(BOUND).await;
    })
    .await
    .unwrap_err();
    assert_eq!(error.code, ErrorCode::Incompatible);
}

/// A guest that greets well and then answers the first request with these bytes on its stream.
async fn answering(bytes: Vec<u8>) -> Guest {
    greet(|mut peer| async move {
        let hello = read_hello(&mut peer).await;
        peer.write_all(&hello.answer().encode()).await.unwrap();
        let mut session = yamux::Connection::new(peer.compat(), yamux::Config::default(), yamux::Mode::Server);
        let mut bytes = Some(bytes);
        while let Some(Ok(mut stream)) = std::future::poll_fn(|cx| session.poll_next_inbound(cx)).await {
            let bytes = bytes.take().unwrap_or_default();
            tokio::spawn(async move {
                let mut request = [0; 16];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(&bytes).await;
                let _ = stream.close().await;
            });
        }
    })
    .await
    .unwrap()
}

async fn answered_with(bytes: Vec<u8>) -> mvm_runtime::Result<Reply> {
    let guest = answering(bytes).await;
    tokio::time::timeout(BOUND, guest.call(&Request::Exec(Exec::default()))).await.expect("no hang")
}

#[tokio::test]
async fn frames_that_break_the_rules_are_refused() {
    let oversized = [&[Kind::Reply as u8][..], &u32::MAX.to_le_bytes()].concat();
    let unknown = vec![99, 0, 0, 0, 0];
    let uninvited = frame::message(Kind::Request, &Request::Halt).unwrap();
    let malformed = [&frame::header(Kind::Reply, 3)[..], &[0xff; 3]].concat();
    let cut_short = frame::header(Kind::Reply, 100).to_vec();
    for bytes in [oversized, unknown, uninvited, malformed, cut_short] {
        let error = answered_with(bytes.clone()).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::TransportError, "{bytes:?}");
    }
    let honest = frame::message(Kind::Reply, &Reply::Done).unwrap();
    assert_eq!(answered_with(honest).await.unwrap(), Reply::Done, "the test itself can succeed");
}

async fn packed(bytes: Vec<u8>) -> mvm_runtime::Result<Vec<u8>> {
    let limits = Limits { bytes: 1000, ..Limits::default() };
    let into = tempfile::tempfile().unwrap();
    let region = receive(&answering(bytes).await, into, &limits, &Silent).await?;
    let mut kept = Vec::new();
    std::io::Read::read_to_end(&mut region.reader(), &mut kept).unwrap();
    Ok(kept)
}

#[tokio::test]
async fn what_a_machine_sends_of_its_disk_is_bounded_and_has_an_end() {
    let piece = |length| [frame::header(Kind::Stdout, length).to_vec(), vec![7; length]].concat();
    let reply = |reply: &Reply| frame::message(Kind::Reply, reply).unwrap();
    assert_eq!(packed([piece(600), piece(400), reply(&Reply::Done)].concat()).await.unwrap().len(), 1000);
    let failed = Failure { step: Step::Other, errno: 5, detail: "\x1b[2J".to_owned() };
    for (bytes, code) in [
        ([piece(600), piece(401)].concat(), ErrorCode::ResourceExhausted),
        (piece(600), ErrorCode::TransportError),
        ([piece(0), reply(&Reply::Done)].concat(), ErrorCode::TransportError),
        ([piece(1), reply(&Reply::Suspended)].concat(), ErrorCode::TransportError),
        (reply(&Reply::Failed(failed)), ErrorCode::TransportError),
    ] {
        let error = packed(bytes).await.unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert!(!error.to_string().contains('\x1b'));
    }
}

/// A client's end of a connection that was carried to such a guest, and what became of carrying it.
async fn carried(bytes: Vec<u8>) -> (TcpStream, mvm_runtime::Result<()>) {
    let channel = answering(bytes).await.connect_to(80).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    connect::prepare(&accepted).unwrap();
    let carried = tokio::time::timeout(BOUND, connect::carry(accepted, channel)).await.expect("no hang");
    (client, carried)
}

#[tokio::test]
async fn connections_that_break_the_rules_are_reset() {
    let done = || frame::message(Kind::Reply, &Reply::Done).unwrap();
    let stderr = [&frame::header(Kind::Stderr, 1)[..], b"x"].concat();
    let oversized = [&[Kind::Stdout as u8][..], &u32::MAX.to_le_bytes()].concat();
    let cut_short = [&output(b"a part")[..], &frame::header(Kind::Stdout, 100)].concat();
    let without_end = output(b"a part");
    let wrong_end = [output(b""), output(b"more")].concat();
    for broken in [done(), stderr, vec![99; 4096], oversized, cut_short, without_end, wrong_end] {
        let (mut client, carried) = carried([done(), broken.clone()].concat()).await;
        assert_eq!(carried.unwrap_err().code, ErrorCode::TransportError, "{broken:?}");
        let mut read = Vec::new();
        let end = tokio::time::timeout(BOUND, client.read_to_end(&mut read)).await.expect("no hang");
        let unwritable = client.write_all(b"x").await.is_err() || client.write_all(b"x").await.is_err();
        assert!(end.is_err() || unwritable, "{broken:?}: {read:?}");
    }
}

#[tokio::test]
async fn answers_to_a_connection_are_one_of_two() {
    let reply = |reply: &Reply| frame::message(Kind::Reply, reply).unwrap();
    let refused = Failure { step: Step::Connect, errno: libc::ECONNREFUSED, detail: "\x1b[2J".into() };
    let refused = Reply::Failed(refused);
    let connect = async |bytes: Vec<u8>| {
        let guest = answering(bytes).await;
        tokio::time::timeout(BOUND, guest.connect_to(80)).await.expect("no hang").map(drop)
    };
    assert!(connect([reply(&Reply::Connecting), reply(&Reply::Done)].concat()).await.is_ok());
    let error = connect(reply(&refused)).await.unwrap_err();
    assert_eq!((error.code, error.errno), (ErrorCode::SandboxUnavailable, Some(libc::ECONNREFUSED)));
    assert!(!error.to_string().contains('\x1b'));
    for bytes in [reply(&Reply::Connecting).repeat(3), reply(&Reply::Started { job: 1 }), output(b"x"), vec![]] {
        assert_eq!(connect(bytes.clone()).await.unwrap_err().code, ErrorCode::TransportError, "{bytes:?}");
    }
}

#[tokio::test]
async fn more_requests_than_a_session_carries_are_refused_and_do_not_end_it() {
    let guest = answering(Vec::new()).await;
    let mut held = Vec::new();
    let error = loop {
        match tokio::time::timeout(BOUND, guest.open(&Request::Connect { port: 80 })).await.expect("no hang") {
            Ok(channel) => held.push(channel),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code, ErrorCode::ResourceExhausted);
    assert!(held.len() > 600, "{}", held.len());
    held.pop();
    assert!(guest.open(&Request::Connect { port: 80 }).await.is_ok());
}

fn file_reply(reply: FileReply) -> Vec<u8> {
    frame::message(Kind::Reply, &Reply::File(reply)).unwrap()
}

fn output(bytes: &[u8]) -> Vec<u8> {
    [&frame::header(Kind::Stdout, bytes.len())[..], bytes].concat()
}

fn named(name: &[u8]) -> Entry {
    let (kind, name) = (FileKind::File, name.to_vec());
    Entry { name, kind, size: 0, mode: 0o644, uid: 0, gid: 0, mtime_ns: 0, target: None }
}

#[tokio::test]
async fn listings_that_cannot_be_are_refused() {
    let entries = |names: &[&[u8]]| file_reply(FileReply::Entries(names.iter().map(|name| named(name)).collect()));
    let end = |count| file_reply(FileReply::Listed { count });
    let list = async |bytes: Vec<u8>| {
        let guest = answering(bytes).await;
        tokio::time::timeout(BOUND, guest.list_dir(b"/x")).await.expect("no hang")
    };
    for bytes in [
        [entries(&[b"../../etc"]), end(1)].concat(),
        [entries(&[b"a", b"b"]), entries(&[b"a"]), end(3)].concat(),
        [entries(&[b"a"]), end(2)].concat(),
        [entries(&[]), end(0)].concat(),
        entries(&[b"a"]),
        [output(b"x"), end(0)].concat(),
        file_reply(FileReply::Done),
    ] {
        assert_eq!(list(bytes.clone()).await.unwrap_err().code, ErrorCode::TransportError, "{bytes:?}");
    }
    assert_eq!(list([entries(&[b"b"]), entries(&[b"a"]), end(2)].concat()).await.unwrap().len(), 2);
    let endless = [b"a".as_slice(); 8000].iter().enumerate().map(|(i, _)| named(format!("f{i}").as_bytes())).collect();
    let endless = file_reply(FileReply::Entries(endless)).repeat(40);
    assert_eq!(list(endless).await.unwrap_err().code, ErrorCode::ResourceExhausted);
}

#[tokio::test]
async fn reads_and_writes_that_do_not_add_up_are_refused() {
    let read = async |bytes: Vec<u8>| {
        let guest = answering(bytes).await;
        let work = async {
            let mut reading = guest.read_file(b"/x", 0, Some(4)).await?;
            let mut all = Vec::new();
            while let Some(piece) = reading.next().await? {
                all.extend_from_slice(piece);
            }
            Ok::<_, mvm_runtime::Error>(all)
        };
        tokio::time::timeout(BOUND, work).await.expect("no hang")
    };
    let end = |bytes| file_reply(FileReply::Read { bytes });
    for bytes in [
        [output(b"abcde"), end(5)].concat(),
        [output(b"abc"), output(b"de"), end(5)].concat(),
        [output(b"abc"), end(4)].concat(),
        [output(b""), end(0)].concat(),
        output(b"abc"),
    ] {
        assert_eq!(read(bytes.clone()).await.unwrap_err().code, ErrorCode::TransportError, "{bytes:?}");
    }
    assert_eq!(read([output(b"ab"), output(b"cd"), end(4)].concat()).await.unwrap(), b"abcd");
    let guest = answering(file_reply(FileReply::Written { bytes: 0 })).await;
    let mut writing = guest.write_file(Write { path: b"/x".into(), ..Write::default() }).await.unwrap();
    let work = async {
        while writing.send(&[0; 65536]).await.is_ok() {}
        writing.finish().await
    };
    let error = tokio::time::timeout(BOUND, work).await.expect("no hang").unwrap_err();
    assert_eq!(error.code, ErrorCode::TransportError);
}

#[tokio::test]
async fn garbage_instead_of_a_session_ends_it() {
    let guest = greet(|mut peer| async move {
        let hello = read_hello(&mut peer).await;
        peer.write_all(&hello.answer().encode()).await.unwrap();
        while peer.write_all(&[0xa5; 4096]).await.is_ok() {}
    })
    .await
    .unwrap();
    let call = guest.call(&Request::Halt);
    let error = tokio::time::timeout(BOUND, call).await.expect("no hang").unwrap_err();
    assert_eq!(error.code, ErrorCode::TransportError);
}

#[tokio::test]
async fn streams_that_the_guest_opens_are_ignored_and_bounded() {
    let guest = greet(|mut peer| async move {
        let hello = read_hello(&mut peer).await;
        peer.write_all(&hello.answer().encode()).await.unwrap();
        let mut session = yamux::Connection::new(peer.compat(), yamux::Config::default(), yamux::Mode::Server);
        for _ in 0..2000 {
            match std::future::poll_fn(|cx| session.poll_new_outbound(cx)).await {
                Ok(mut stream) => drop(stream.write_all(b"hello?").await),
                Err(_) => return,
            }
        }
        while let Some(Ok(_)) = std::future::poll_fn(|cx| session.poll_next_inbound(cx)).await {}
    })
    .await
    .unwrap();
    // Whatever becomes of it, it ends, and in an error: this guest never answers.
    let call = tokio::time::timeout(Duration::from_secs(40), guest.call(&Request::Halt)).await.expect("no hang");
    assert!(call.is_err());
}
