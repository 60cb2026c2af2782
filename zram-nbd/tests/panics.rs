//! A user's compressor panics behind the server. The client that sent the request gets an I/O error, and other
//! clients are not affected.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]
#![cfg(unix)]

mod client;
mod running;

use std::os::unix::net::UnixStream;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::thread;

use client::{Client, SIZE};
use compressors::{Compressor, CompressorCtx, CompressorError, Registry};
use running::Running;
use zram::Zram;
use zram_nbd::{Export, serve};

const EIO: u32 = 5;
const PAGE: u64 = 4096;

const WORKS: u8 = 0;
const PANICS: u8 = 1;
const PANICS_TWICE: u8 = 2;

/// A compressor that drops the zeros at a page's end. Its mood can make it panic.
#[derive(Debug, Clone)]
struct Odd {
    mood: Arc<AtomicU8>,
}

/// A panic payload that panics again when it is dropped.
struct Twice;

impl Drop for Twice {
    fn drop(&mut self) {
        resume_unwind(Box::new("on purpose, again"));
    }
}

impl Odd {
    /// Panics if the mood says so, without calling the panic hook.
    fn act(&self) {
        match self.mood.load(SeqCst) {
            PANICS => resume_unwind(Box::new("on purpose")),
            PANICS_TWICE => resume_unwind(Box::new(Twice)),
            _ => {}
        }
    }
}

impl Compressor for Odd {
    fn name(&self) -> &str {
        "odd"
    }
    fn spec(&self) -> String {
        "odd".to_owned()
    }
    fn max_compressed_len(&self, len: usize) -> usize {
        len
    }
    fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        self.act();
        Ok(Box::new(self.clone()))
    }
}

impl CompressorCtx for Odd {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
        self.act();
        let len = src.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
        dst[..len].copy_from_slice(&src[..len]);
        Ok(len)
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        // If this panics, part of the output is written already.
        dst.fill(0);
        self.act();
        dst[..src.len()].copy_from_slice(src);
        Ok(())
    }
    fn memory_bytes(&self) -> usize {
        0
    }
}

/// Returns a disk that compresses with [`Odd`], and the mood of that compressor.
fn disk() -> (Arc<Zram>, Arc<AtomicU8>) {
    let odd = Odd { mood: Arc::new(AtomicU8::new(WORKS)) };
    let mood = odd.mood.clone();
    let mut codecs = Registry::empty();
    codecs.register("odd", move |_| Ok(Arc::new(odd.clone()))).unwrap();
    let disk = Zram::builder().disksize(SIZE).zpool("zbud").algorithm("odd");
    (Arc::new(disk.compressor_registry(codecs).build().unwrap()), mood)
}

/// Returns a page that gets smaller when it is compressed.
fn page(mark: u8) -> Vec<u8> {
    let mut page = vec![0; PAGE as usize];
    (0..1000).for_each(|at| page[at] = mark.wrapping_add(at as u8) | 1);
    page
}

#[test]
fn a_panic_is_an_error_and_the_session_goes_on() {
    for structured in [false, true] {
        let (disk, mood) = disk();
        let (stream, mut theirs) = UnixStream::pair().unwrap();
        let export = Export::new(disk.clone(), "disk");
        let served = thread::spawn(move || serve(&mut theirs, &export));
        let mut client = Client { stream, structured: false };
        client.go(structured);

        // The compressor panics when its first context is made.
        mood.store(PANICS, SeqCst);
        assert_eq!(client.write(0, &page(9)), Err(EIO));
        mood.store(WORKS, SeqCst);
        let old = [page(1), page(2), page(3)].concat();
        client.write(0, &old).unwrap();
        client.write(8 * PAGE, &[7; 4096]).unwrap();

        mood.store(PANICS, SeqCst);
        // Writes of a whole page, of a part, of several pages, and of a part of a page that takes no memory.
        // Then a write of zeros, and reads.
        assert_eq!(client.write(0, &page(9)), Err(EIO));
        assert_eq!(client.write(PAGE + 5, b"part of a page"), Err(EIO));
        assert_eq!(client.write(PAGE + 5, &[page(8), page(9)].concat()), Err(EIO));
        assert_eq!(client.write(20 * PAGE + 1, b"part"), Err(EIO));
        assert_eq!(client.call(6, 2 * PAGE, 100), Err(EIO));
        assert_eq!(client.call(0, 0, 4096), Err(EIO));
        assert_eq!(client.call(0, PAGE - 1, 2), Err(EIO));
        // Requests that need no codec.
        client.call(3, 0, 0).unwrap();
        client.call(4, 9 * PAGE, 4096).unwrap();
        assert_eq!(client.call(0, 8 * PAGE, 4096).unwrap(), [7; 4096]);

        mood.store(WORKS, SeqCst);
        assert!(client.call(0, 0, 3 * 4096).unwrap() == old, "as last acknowledged");
        assert_eq!(client.call(0, 20 * PAGE, 8).unwrap(), [0; 8]);
        client.write(PAGE, &page(9)).unwrap();
        assert!(client.call(0, PAGE, 4096).unwrap() == page(9));
        client.request(2, 0, 0, 0, 0);
        let session = served.join().unwrap().unwrap();
        let (read, written) = (session.read_bytes, session.written_bytes);
        assert_eq!((session.requests, read, written), (17, 20_488, 20_480));
        disk.discard(0, SIZE).unwrap();
        disk.trim();
        assert_eq!(disk.mm_stat().mem_used_total, 0, "nothing leaked");
    }
}

#[test]
fn nobody_else_notices_a_panic() {
    let (disk, mood) = disk();
    for running in Running::both(&disk, |server| server) {
        let (mut unlucky, mut other) = (running.through(), running.through());
        unlucky.write(0, &page(1)).unwrap();
        other.write(PAGE, &[5; 4096]).unwrap();
        for _ in 0..3 {
            mood.store(PANICS, SeqCst);
            assert_eq!(unlucky.write(3, b"under the slot's lock"), Err(EIO));
            assert_eq!(other.call(0, 0, 4096), Err(EIO), "the slot is not locked");
            assert_eq!(other.call(0, PAGE, 4096).unwrap(), [5; 4096]);
            mood.store(WORKS, SeqCst);
            assert!(other.call(0, 0, 4096).unwrap() == page(1));
        }
        let totals = running.end();
        assert_eq!((totals.clients, totals.failed), (2, 0));
    }
}

#[test]
fn a_panic_that_panics_again_is_an_error_as_any_other() {
    let (disk, mood) = disk();
    for running in Running::both(&disk, |server| server) {
        let (mut unlucky, mut other) = (running.through(), running.through());
        other.write(0, &page(1)).unwrap();
        mood.store(PANICS_TWICE, SeqCst);
        assert_eq!(unlucky.call(0, 0, 4096), Err(EIO));
        mood.store(WORKS, SeqCst);
        assert!(unlucky.call(0, 0, 4096).unwrap() == page(1));
        assert!(other.call(0, 0, 4096).unwrap() == page(1));
        assert!(running.through().call(0, 0, 4096).unwrap() == page(1));
        let totals = running.end();
        assert_eq!((totals.clients, totals.failed), (3, 0));
    }
}
