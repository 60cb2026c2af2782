//! Clients that keep the server waiting are dropped, others are served, and the server stops on request.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]
#![cfg(unix)]

mod client;
mod running;

use std::io::{Read, Write};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use client::{Client, SIZE};
use running::{Running, wait_until};
use zram::Zram;
use zram_nbd::MOST_BYTES;

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(3600);

fn disk() -> Arc<Zram> {
    let disk = Zram::builder().disksize(SIZE).zpool("zbud").algorithm("null");
    Arc::new(disk.build().unwrap())
}

/// Requests more data than any socket buffers, but reads only the head of the first reply. So the server blocks
/// while it sends the rest.
fn asks_and_does_not_take<S: Read + Write>(client: &mut Client<S>) {
    for cookie in 0..8 {
        client.request(0, 0, cookie, 0, MOST_BYTES);
    }
    assert_eq!(client.take(), [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn who_is_silent_in_the_handshake_is_dropped_and_nobody_else() {
    let short = |server: zram_nbd::Server| server.handshake_timeout(SHORT).write_timeout(LONG);
    for running in Running::both(&disk(), short) {
        let mut first = running.through();
        let (mut silent, mut halfway) = (running.connect(), running.connect());
        for client in [&mut silent, &mut halfway] {
            assert_eq!(client.take(), *b"NBDMAGICIHAVEOPT\0\x03");
        }
        // On a slow machine the server may have dropped the client already, so this may fail.
        let _ = halfway.stream.write_all(b"\0\0\0\x03IHAV");
        assert!(silent.is_closed() && halfway.is_closed());
        // After the handshake, a client may be silent for longer than the timeout.
        thread::sleep(SHORT);
        first.write(0, b"still there").unwrap();
        let mut next = running.through();
        assert_eq!(next.call(0, 0, 11).unwrap(), b"still there");
        let totals = running.end();
        assert!(totals.failed >= 2 && totals.turned_away == 0, "{totals:?}");
    }
}

#[test]
fn who_does_not_take_what_it_asked_for_is_dropped_and_nobody_else() {
    let short = |server: zram_nbd::Server| server.handshake_timeout(LONG).write_timeout(SHORT);
    for running in Running::both(&disk(), short) {
        let mut other = running.through();
        let mut lazy = running.through();
        asks_and_does_not_take(&mut lazy);
        other.write(5000, b"meanwhile").unwrap();
        // Checked by writing. Reading would empty the socket, and the server could go on.
        wait_until("the client is not dropped", || lazy.is_cut_off());
        assert_eq!(other.call(0, 5000, 9).unwrap(), b"meanwhile");
        let mut next = running.through();
        assert_eq!(next.call(0, 5000, 9).unwrap(), b"meanwhile");
        let totals = running.end();
        assert_eq!((totals.clients, totals.failed), (3, 1));
    }
}

#[test]
fn nobody_keeps_the_server_from_stopping() {
    let long = |server: zram_nbd::Server| server.handshake_timeout(LONG).write_timeout(LONG);
    for running in Running::both(&disk(), long) {
        let mut silent = running.connect();
        assert_eq!(silent.take(), *b"NBDMAGICIHAVEOPT\0\x03");
        let (mut idle, mut halfway) = (running.through(), running.through());
        halfway.request(1, 0, 0, 0, 4096);
        let mut lazy = running.through();
        asks_and_does_not_take(&mut lazy);
        let totals = running.end();
        assert_eq!(totals.clients, 4);
        assert!(silent.is_closed() && idle.is_closed() && halfway.is_closed());
    }
}

#[test]
fn no_timeout_is_too_short_or_too_long_for_a_socket() {
    let none = Duration::ZERO;
    for running in Running::both(&disk(), |server| server.handshake_timeout(none)) {
        let mut silent = running.connect();
        assert_eq!(silent.take(), *b"NBDMAGICIHAVEOPT\0\x03");
        assert!(silent.is_closed());
        assert_eq!(running.end().turned_away, 0);
    }
    let most = Duration::MAX;
    for running in Running::both(&disk(), |s| s.handshake_timeout(most).write_timeout(none)) {
        running.through().write(0, b"anything").unwrap();
        assert_eq!(running.end().turned_away, 0);
    }
    for running in Running::both(&disk(), |server| server.write_timeout(most)) {
        running.through().write(0, b"anything").unwrap();
        assert_eq!(running.end().turned_away, 0);
    }
}
