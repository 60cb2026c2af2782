//! A hand-written client follows the protocol, and violates it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]
#![cfg(unix)]

mod client;

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};

use client::{Client, SIZE};
use zram::Zram;
use zram_nbd::{Export, Listener, MOST_BYTES, Server, Session, SessionError, serve};

const EINVAL: u32 = 22;

fn disk() -> Arc<Zram> {
    let disk = Zram::builder().disksize(SIZE).zpool("zbud").algorithm("null");
    Arc::new(disk.build().unwrap())
}

type Served = JoinHandle<Result<Session, SessionError>>;

fn connect(disk: &Arc<Zram>) -> (Client<UnixStream>, Served) {
    let (stream, mut theirs) = UnixStream::pair().unwrap();
    let export = Export::new(disk.clone(), "disk");
    let served = thread::spawn(move || serve(&mut theirs, &export));
    (Client { stream, structured: false }, served)
}

#[test]
fn requests_do_what_they_say_with_either_kind_of_reply() {
    for structured in [false, true] {
        let disk = disk();
        let (mut client, served) = connect(&disk);
        let flags = client.go(structured);
        assert_eq!(flags, 0b1_0110_1101 | if structured { 1 << 7 } else { 0 });
        client.write(5000, b"some bytes").unwrap();
        assert_eq!(client.call(0, 4999, 12).unwrap(), b"\0some bytes\0");
        client.call(3, 0, 0).unwrap();
        client.write(8192, &[3; 8192]).unwrap();
        // If a range covers only a part of a page, trim leaves that part, and write-zeroes zeroes it.
        client.call(4, 8192, 4096 + 100).unwrap();
        assert_eq!(client.call(0, 12_280, 16).unwrap(), [[0; 8], [3; 8]].concat());
        client.call(6, 12_288, 4).unwrap();
        assert_eq!(client.call(0, 12_286, 8).unwrap(), [0, 0, 0, 0, 0, 0, 3, 3]);
        assert_eq!(client.call(0, 77, 0).unwrap(), b"");

        // A request may arrive in pieces.
        let magic = 0x2560_9513u32.to_be_bytes();
        let rest =
            [&[0; 4][..], &9u64.to_be_bytes(), &5001u64.to_be_bytes(), &[0, 0, 0, 3]].concat();
        client.send(&[&magic[..2]]);
        thread::sleep(std::time::Duration::from_millis(5));
        client.send(&[&magic[2..], &rest[..7]]);
        thread::sleep(std::time::Duration::from_millis(5));
        client.send(&[&rest[7..]]);
        assert_eq!(client.answer(9, 5001, 3).unwrap(), b"ome");

        // Errors: ranges that are not on the disk, a read that is too large, and commands and flags that the
        // server does not support.
        assert_eq!(client.call(0, SIZE - 1, 2), Err(EINVAL));
        assert_eq!(client.call(0, u64::MAX, 2), Err(EINVAL));
        assert_eq!(client.write(SIZE - 1, b"xx"), Err(28));
        assert_eq!(client.call(4, SIZE, 1), Err(EINVAL));
        assert_eq!(client.call(6, SIZE, 1), Err(28));
        client.request(0, 0, 9, 0, MOST_BYTES + 1);
        assert_eq!(client.answer(9, 0, 0), Err(75));
        for kind in [5, 7, 8, 9, 0xffff] {
            assert_eq!(client.call(kind, 0, 1), Err(EINVAL), "{kind}");
        }
        client.request(0, 0x4000, 9, 0, 8);
        assert_eq!(client.answer(9, 0, 0), Err(EINVAL));
        assert_eq!(client.call(0, SIZE - 4, 4).unwrap(), [0; 4]);
        client.request(2, 0, 0, 0, 0);
        let session = served.join().unwrap().unwrap();
        assert!(client.is_closed());
        assert_eq!((session.written_bytes, session.read_bytes), (8202, 12 + 16 + 8 + 3 + 4));
    }
}

#[test]
fn options_are_answered_one_by_one_until_the_export_is_chosen() {
    let disk = disk();
    let (mut client, served) = connect(&disk);
    client.hello(1);
    client.option(3, &[]);
    assert_eq!(client.reply(3), (2, b"\0\0\0\x04disk".to_vec()));
    assert_eq!(client.reply(3), (1, vec![]));
    for option in [0, 4, 5, 9, 10, 1234] {
        client.option(option, b"anything");
        assert_eq!(client.reply(option).0, 1 << 31 | 1, "{option}");
    }
    for (option, data) in
        [(3, &b"x"[..]), (8, b"x"), (7, b""), (7, b"\0\0\0\x09disk\0\0"), (6, b"\xff\xff\xff\xff")]
    {
        client.option(option, data);
        assert_eq!(client.reply(option).0, 1 << 31 | 3, "{option} {data:?}");
    }
    client.option(6, b"\0\0\0\x05other\0\0");
    assert_eq!(client.reply(6).0, 1 << 31 | 6);
    // `INFO` about the default export, with requests for information.
    client.option(6, b"\0\0\0\0\0\x02\0\x00\0\x03");
    assert_eq!([client.reply(6).0, client.reply(6).0, client.reply(6).0], [3, 3, 1]);
    // `EXPORT_NAME`, the old way to choose the export. Zeros follow the reply.
    client.option(1, b"disk");
    assert_eq!((client.u64(), client.u16()), (SIZE, 0b1_0110_1101));
    assert_eq!(client.take(), [0; 124]);
    assert_eq!(client.call(0, 0, 4).unwrap(), [0; 4]);
    drop(client);
    served.join().unwrap().expect("gone between two requests");

    let (mut client, served) = connect(&disk);
    client.hello(3);
    client.option(2, &[]);
    assert_eq!(client.reply(2), (1, vec![]));
    assert_eq!(served.join().unwrap().unwrap().requests, 0);
}

#[test]
fn who_does_not_keep_to_the_protocol_is_cut_off() {
    let disk = disk();
    disk.write(0, b"what was there").unwrap();
    type Wrong = fn(&mut Client<UnixStream>);
    let wrongs: [Wrong; 9] = [
        |client| client.hello(4),
        |client| client.hello(u32::MAX),
        |client| {
            client.hello(3);
            client.send(&[b"IHAVEOPQ", &[0; 8]]);
        },
        |client| {
            client.hello(3);
            client.send(&[b"IHAVEOPT", &[0, 0, 0, 7], &u32::MAX.to_be_bytes()]);
        },
        |client| {
            client.hello(3);
            client.option(1, b"other");
        },
        |client| {
            client.hello(3);
            for _ in 0..100 {
                client.option(99, &[]);
                client.reply(99);
            }
        },
        |client| {
            client.go(false);
            client.send(&[&[0; 28]]);
        },
        |client| {
            client.go(true);
            client.request(1, 0, 0, 0, MOST_BYTES + 1);
        },
        |client| {
            client.go(false);
            client.request(1, 0, 0, 0, 4096);
            client.send(&[&[9; 4095]]);
            client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        },
    ];
    for (n, wrong) in wrongs.into_iter().enumerate() {
        let (mut client, served) = connect(&disk);
        wrong(&mut client);
        assert!(client.is_closed() || n == 4, "{n}");
        let error = served.join().unwrap().unwrap_err();
        let cut_short = n == 8;
        let protocol = matches!(error, SessionError::Protocol { .. });
        assert!(protocol != cut_short, "{n}: {error}");
    }
    let mut back = [0; 14];
    disk.read(0, &mut back).unwrap();
    assert_eq!(&back, b"what was there");
}

#[test]
fn a_server_serves_many_and_stops_when_told() {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::new(Listener::Tcp(listener), Export::new(disk(), "disk"));
    let (stop, stays) = (AtomicBool::new(false), AtomicBool::new(false));
    let totals = thread::scope(|scope| {
        let running = scope.spawn(|| server.run(&stop).unwrap());
        let clients: Vec<_> = (0..6u64)
            .map(|n| {
                let stays = &stays;
                scope.spawn(move || {
                    let stream = std::net::TcpStream::connect(address).unwrap();
                    let mut client = Client { stream, structured: false };
                    client.go(n % 2 == 0);
                    for round in 0..50u64 {
                        let offset = n * 10_000 + round * 100;
                        client.write(offset, &[n as u8 + 1; 100]).unwrap();
                        assert_eq!(client.call(0, offset, 100).unwrap(), [n as u8 + 1; 100]);
                    }
                    if n != 5 {
                        client.request(2, 0, 0, 0, 0);
                        return;
                    }
                    // When the server stops, it closes the connection of a client that stays.
                    stays.store(true, SeqCst);
                    assert!(client.is_closed());
                })
            })
            .collect();
        let (last, others) = clients.split_last().unwrap();
        while others.iter().any(|client| !client.is_finished()) || !stays.load(SeqCst) {
            thread::yield_now();
        }
        assert!(!last.is_finished());
        stop.store(true, SeqCst);
        running.join().unwrap()
    });
    assert_eq!((totals.clients, totals.failed, totals.turned_away), (6, 0, 0));
    assert_eq!((totals.sessions.read_bytes, totals.sessions.written_bytes), (30_000, 30_000));
}

#[test]
fn a_client_too_many_is_turned_away_and_nobody_else_notices() {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::new(Listener::Tcp(listener), Export::new(disk(), "disk"));
    let stop = AtomicBool::new(false);
    let connect = || {
        let stream = std::net::TcpStream::connect(address).unwrap();
        Client { stream, structured: false }
    };
    let totals = thread::scope(|scope| {
        let running = scope.spawn(|| server.run(&stop).unwrap());
        let mut clients: Vec<_> = (0..64).map(|_| connect()).collect();
        for client in &mut clients {
            client.go(false);
        }
        assert!(connect().is_closed());
        for client in &mut clients {
            client.write(0, b"still there").unwrap();
        }
        // When one client leaves, there is room for another.
        let mut gone = clients.pop().unwrap();
        gone.request(2, 0, 0, 0, 0);
        assert!(gone.is_closed());
        let mut next = connect();
        while next.is_closed() {
            next = connect();
        }
        stop.store(true, SeqCst);
        drop((clients, next));
        running.join().unwrap()
    });
    assert!(totals.turned_away >= 1 && totals.sessions.requests == 64, "{totals:?}");
}
