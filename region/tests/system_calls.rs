//! System calls on a region's memory: with pinned memory all succeed, while an evictor takes all it can get; without,
//! they fail on an evicted page as the front page's table says.
#![cfg(all(target_os = "linux", not(miri), not(loom)))]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "system calls; a failure in a test's helper is the test's own message"
)]

mod common;

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::{ptr, thread};

use common::uring::{Op, Ring};
use common::*;
use zswap_core::PAGE_SIZE;
use zswap_region::{BackendKind, CleanPages, PinError, Region, Trouble};

const PAGES: usize = 400;
const LEN: usize = PAGES * PAGE_SIZE;
const ROUNDS: usize = 400;

/// A region of each kind, with what it has to hold.
struct Rig {
    kind: BackendKind,
    region: Region,
    held: Vec<u8>,
    dice: Dice,
}

impl Rig {
    fn new(kind: BackendKind) -> Rig {
        let region = common::region(kind, PAGES);
        let held = fill(&region, 1000);
        Rig { kind, region, held, dice: Dice::new(7) }
    }

    /// Runs `ROUNDS` rounds of pinned calls under an evictor. Nothing may be wrong then, and nothing stays pinned.
    fn rounds(mut self, mut round: impl FnMut(&Region, &mut Vec<u8>, &mut Dice)) {
        let before = self.region.stats();
        while_evicting(&self.region, || {
            for _ in 0..ROUNDS {
                round(&self.region, &mut self.held, &mut self.dice);
            }
        });
        let after = self.region.stats();
        assert_eq!(after.pinned_bytes, 0, "{:?}", self.kind);
        let gone = after.evicted_pages - before.evicted_pages;
        assert!(gone > ROUNDS as u64 / 8, "{:?}: only {gone} pages left", self.kind);
        same(&self.region, &self.held, "after the calls");
    }
}

fn each(run: impl Fn(Rig)) {
    kinds().into_iter().for_each(|kind| run(Rig::new(kind)));
}

/// Reads into memory by address, as a C program does.
fn read_raw(fd: RawFd, to: *mut u8, len: usize) -> Result<usize, i32> {
    // SAFETY: the kernel checks the address, and the tests use that memory in no other way meanwhile.
    errno(unsafe { libc::read(fd, to.cast(), len) })
}

fn write_raw(fd: RawFd, from: *const u8, len: usize) -> Result<usize, i32> {
    // SAFETY: the kernel checks the address.
    errno(unsafe { libc::write(fd, from.cast(), len) })
}

fn pread_raw(fd: RawFd, to: *mut u8, len: usize, offset: usize) -> Result<usize, i32> {
    // SAFETY: as in `read_raw`.
    errno(unsafe { libc::pread(fd, to.cast(), len, offset as i64) })
}

fn pwrite_raw(fd: RawFd, from: *const u8, len: usize, offset: usize) -> Result<usize, i32> {
    // SAFETY: the kernel checks the address.
    errno(unsafe { libc::pwrite(fd, from.cast(), len, offset as i64) })
}

/// Receives exactly `len` bytes of a stream.
fn receive_all(fd: RawFd, to: *mut u8, len: usize) -> Result<usize, i32> {
    // SAFETY: as in `read_raw`.
    errno(unsafe { libc::recv(fd, to.cast(), len, libc::MSG_WAITALL) })
}

/// Waits on a word, or wakes who waits. `op` is with or without `FUTEX_PRIVATE_FLAG`.
fn futex(word: *const u8, op: i32, value: u32) -> Result<usize, i32> {
    let forever: *const libc::timespec = ptr::null();
    // SAFETY: the kernel checks the address, and does not change the word.
    errno(unsafe { libc::syscall(libc::SYS_futex, word, op, value, forever) } as isize)
}

#[test]
fn pread_into_pinned_memory() {
    let bytes = pages(50_000, 64);
    let file = file("pread", &bytes);
    each(|rig| {
        rig.rounds(|region, held, dice| {
            let range = dice.range(LEN);
            let from = dice.below(bytes.len() - range.len());
            let pinned = region.pin(range.clone()).unwrap();
            let got = pread_raw(file.as_raw_fd(), pinned.as_ptr(), range.len(), from);
            assert_eq!(got, Ok(range.len()));
            let wanted = &bytes[from..from + range.len()];
            assert!(pinned.as_ref() == wanted);
            held[range].copy_from_slice(wanted);
        });
    });
}

#[test]
fn write_from_pinned_memory() {
    let file = file("write", &[]);
    each(|rig| {
        rig.rounds(|region, held, dice| {
            let range = dice.range(LEN);
            let pinned = region.pin(range.clone()).unwrap();
            assert_eq!(
                pwrite_raw(file.as_raw_fd(), pinned.as_ptr(), pinned.len(), 0),
                Ok(range.len())
            );
            drop(pinned);
            let mut back = vec![0; range.len()];
            file.read_exact_at(&mut back, 0).unwrap();
            assert!(back == held[range]);
        });
    });
}

#[test]
fn readv_and_writev_of_several_pins() {
    let file = file("readv", &[]);
    each(|rig| {
        rig.rounds(|region, held, dice| {
            let half = LEN / 2;
            let one = dice.range(half);
            let two = dice.range(half);
            let two = two.start + half..two.end + half;
            let bytes: Vec<u8> = [&held[two.clone()], &held[one.clone()]]
                .into_iter()
                .flatten()
                .map(|b| b ^ 0x5a)
                .collect();
            file.write_all_at(&bytes, 0).unwrap();
            let pins = [region.pin(two.clone()).unwrap(), region.pin(one.clone()).unwrap()];
            let parts = [&pins[0], &pins[1]]
                .map(|pin| libc::iovec { iov_base: pin.as_ptr().cast(), iov_len: pin.len() });
            // SAFETY: both parts are pinned memory that nothing else uses now.
            let got = errno(unsafe { libc::preadv(file.as_raw_fd(), parts.as_ptr(), 2, 0) });
            assert_eq!(got, Ok(bytes.len()));
            // SAFETY: as above; the call only reads them.
            let put = errno(unsafe { libc::pwritev(file.as_raw_fd(), parts.as_ptr(), 2, 1 << 20) });
            assert_eq!(put, Ok(bytes.len()));
            let mut back = vec![0; bytes.len()];
            file.read_exact_at(&mut back, 1 << 20).unwrap();
            assert!(back == bytes);
            held[two.clone()].copy_from_slice(&bytes[..two.len()]);
            held[one].copy_from_slice(&bytes[two.len()..]);
        });
    });
}

/// Sends from pinned memory to pinned memory.
fn through_a_stream(rig: Rig, from: RawFd, to: RawFd) {
    rig.rounds(|region, held, dice| {
        let half = LEN / 2;
        let source = dice.range(half);
        let at = half + dice.below(half - source.len());
        let target = at..at + source.len();
        let sent = region.pin(source.clone()).unwrap();
        let room = region.pin(target.clone()).unwrap();
        assert_eq!(write_raw(from, sent.as_ptr(), sent.len()), Ok(source.len()));
        assert_eq!(receive_all(to, room.as_ptr(), room.len()), Ok(source.len()));
        assert!(room.as_ref() == &held[source.clone()]);
        held.copy_within(source, at);
    });
}

fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (one, listener.accept().unwrap().0)
}

fn udp() -> (UdpSocket, UdpSocket) {
    let (one, two) =
        (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    one.connect(two.local_addr().unwrap()).unwrap();
    two.connect(one.local_addr().unwrap()).unwrap();
    (one, two)
}

#[test]
fn stream_sockets() {
    each(|rig| {
        let (one, two) = UnixStream::pair().unwrap();
        through_a_stream(rig, one.as_raw_fd(), two.as_raw_fd());
    });
    each(|rig| {
        let (one, two) = tcp();
        through_a_stream(rig, one.as_raw_fd(), two.as_raw_fd());
    });
}

#[test]
fn datagram_sockets() {
    each(|rig| {
        let (one, two) = UnixDatagram::pair().unwrap();
        through_a_stream(rig, one.as_raw_fd(), two.as_raw_fd());
    });
    each(|rig| {
        let (one, two) = udp();
        through_a_stream(rig, one.as_raw_fd(), two.as_raw_fd());
    });
}

#[test]
fn direct_io() {
    let bytes = pages(60_000, 32);
    let file = file("direct", &bytes);
    if !make_direct(&file) {
        return;
    }
    each(|rig| {
        rig.rounds(|region, held, dice| {
            let (n, from) = (1 + dice.below(4), dice.below(28) * PAGE_SIZE);
            let at = dice.below(PAGES - n) * PAGE_SIZE;
            let range = at..at + n * PAGE_SIZE;
            let pinned = region.pin(range.clone()).unwrap();
            let fd = file.as_raw_fd();
            assert_eq!(pread_raw(fd, pinned.as_ptr(), pinned.len(), from), Ok(range.len()));
            let wanted = &bytes[from..from + range.len()];
            assert!(pinned.as_ref() == wanted);
            assert_eq!(pwrite_raw(fd, pinned.as_ptr(), pinned.len(), 1 << 20), Ok(range.len()));
            let mut back = Box::new(Aligned([[0; PAGE_SIZE]; 4]));
            assert_eq!(
                pread_raw(fd, back.0.as_mut_ptr().cast(), range.len(), 1 << 20),
                Ok(range.len())
            );
            assert!(&back.0.as_flattened()[..range.len()] == wanted);
            held[range].copy_from_slice(wanted);
        });
    });
}

/// Pages at an address that direct input and output accept.
#[repr(align(4096))]
struct Aligned([[u8; PAGE_SIZE]; 4]);

/// Switches the file to `O_DIRECT`. Says so if its file system has none.
fn make_direct(file: &File) -> bool {
    // SAFETY: changes no memory.
    match errno(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_DIRECT) } as isize) {
        Ok(_) => true,
        Err(libc::EINVAL) => {
            not_run("O_DIRECT, which the file system of the target directory refuses");
            false
        }
        Err(error) => panic!("{error}"),
    }
}

/// Makes a ring. Says so if this process may have none.
fn ring() -> Option<Ring> {
    match Ring::new() {
        Ok(ring) => Some(ring),
        Err(error @ (libc::EPERM | libc::ENOSYS)) => {
            not_run(&format!(
                "io_uring: io_uring_setup fails with {}",
                io::Error::from_raw_os_error(error)
            ));
            None
        }
        Err(error) => panic!("io_uring_setup: {}", io::Error::from_raw_os_error(error)),
    }
}

#[test]
fn registered_buffers_of_io_uring() {
    let Some(ring) = ring() else { return };
    let bytes = pages(70_000, 32);
    let file = file("uring", &bytes);
    each(|rig| {
        rig.rounds(|region, held, dice| {
            let range = dice.range(LEN);
            let n = range.len();
            let from = dice.below(bytes.len() - n);
            let pinned = region.pin(range.clone()).unwrap();
            let to = pinned.as_ptr();
            assert_eq!(ring.register(to, n), Ok(0));
            // Several uses of one registration: the kernel has noted which pages it writes.
            for _ in 0..3 {
                // SAFETY: nothing else uses the pinned memory.
                unsafe { to.write_bytes(0xee, n) };
                let got = ring.run(&Op::read_fixed(file.as_raw_fd(), to, n, from));
                assert_eq!(got, Ok(n));
                assert!(
                    pinned.as_ref() == &bytes[from..from + n],
                    "read by the kernel to elsewhere"
                );
            }
            assert_eq!(ring.run(&Op::write_fixed(file.as_raw_fd(), to, n, 1 << 20)), Ok(n));
            assert_eq!(ring.unregister(), Ok(0));
            let mut back = vec![0; n];
            file.read_exact_at(&mut back, 1 << 20).unwrap();
            assert!(back == bytes[from..from + n]);
            held[range].copy_from_slice(&back);
        });
    });
}

/// Some pages stay registered during 300 rounds of eviction, and are in use.
#[test]
fn a_registration_that_lasts() {
    let Some(ring) = ring() else { return };
    let file = file("lasting", &pages(71_000, 16));
    each(|mut rig| {
        let range = 64 * PAGE_SIZE..80 * PAGE_SIZE;
        let pinned = rig.region.pin(range.clone()).unwrap();
        assert_eq!(ring.register(pinned.as_ptr(), pinned.len()), Ok(0));
        while_evicting(&rig.region, || {
            for round in 0..300 {
                let n = rig.dice.below(16);
                let bytes = page(72_000 + round);
                file.write_all_at(&bytes, 0).unwrap();
                let to = pinned.as_ptr().wrapping_add(n * PAGE_SIZE);
                assert_eq!(
                    ring.run(&Op::read_fixed(file.as_raw_fd(), to, PAGE_SIZE, 0)),
                    Ok(PAGE_SIZE)
                );
                assert!(pinned.as_ref()[n * PAGE_SIZE..][..PAGE_SIZE] == bytes);
                rig.held[range.start + n * PAGE_SIZE..][..PAGE_SIZE].copy_from_slice(&bytes);
                touch(&rig.region, rig.dice.below(LEN));
            }
        });
        drop(pinned);
        if rig.kind == BackendKind::Move {
            // Without the pin, too: the system refuses to move what io_uring holds.
            for n in 0..16 {
                let to = at(&rig.region, range.start + n * PAGE_SIZE);
                for _ in 0..20 {
                    rig.region.advise_cold(0..LEN).unwrap();
                }
                let bytes = page(73_000 + n as u64);
                file.write_all_at(&bytes, 0).unwrap();
                assert_eq!(
                    ring.run(&Op::read_fixed(file.as_raw_fd(), to, PAGE_SIZE, 0)),
                    Ok(PAGE_SIZE)
                );
                rig.held[range.start + n * PAGE_SIZE..][..PAGE_SIZE].copy_from_slice(&bytes);
                assert!(
                    get(&rig.region, range.start + n * PAGE_SIZE, PAGE_SIZE) == bytes,
                    "page {n}"
                );
            }
            assert!(rig.region.stats().busy_pages > 0, "{:?}", rig.region.stats());
        }
        assert_eq!(ring.unregister(), Ok(0));
        freeze(&rig.region, 0..LEN);
        same(&rig.region, &rig.held, "after the registration");
    });
}

#[test]
fn a_futex_in_pinned_memory() {
    each(|rig| {
        for private in [libc::FUTEX_PRIVATE_FLAG, 0] {
            while_evicting(&rig.region, || {
                for round in 0..50 {
                    let word = round * PAGE_SIZE + 8 * round;
                    put(&rig.region, word, &round.to_ne_bytes());
                    let pinned = rig.region.pin(word..word + 4).unwrap();
                    let address = pinned.as_ptr() as usize;
                    // A word that has another value: the kernel has read it.
                    let wrong = futex(address as *const u8, libc::FUTEX_WAIT | private, 77);
                    assert_eq!(wrong, Err(libc::EAGAIN));
                    let sleeper = thread::spawn(move || {
                        futex(address as *const u8, libc::FUTEX_WAIT | private, round as u32)
                    });
                    // One thread was woken, so it slept on this word.
                    while futex(pinned.as_ptr(), libc::FUTEX_WAKE | private, 1) != Ok(1) {
                        assert!(!sleeper.is_finished(), "{:?}", sleeper.join());
                        thread::yield_now();
                    }
                    assert_eq!(sleeper.join().unwrap(), Ok(0));
                }
            });
        }
    });
}

#[test]
fn locked_memory_stays() {
    each(|rig| {
        let range = 20 * PAGE_SIZE..36 * PAGE_SIZE;
        let pinned = rig.region.pin(range.clone()).unwrap();
        // SAFETY: locking changes no byte.
        let locked = unsafe { libc::mlock(pinned.as_ptr().cast(), pinned.len()) };
        assert_eq!(errno(locked as isize), Ok(0));
        drop(pinned);
        while_evicting(&rig.region, || {
            for offset in (0..LEN).step_by(PAGE_SIZE / 2) {
                assert_eq!(touch(&rig.region, offset), rig.held[offset]);
            }
        });
        same(&rig.region, &rig.held, "while some pages are locked");
        let start = at(&rig.region, range.start);
        // SAFETY: unlocking changes no byte.
        assert_eq!(errno(unsafe { libc::munlock(start.cast(), range.len()) } as isize), Ok(0));
        freeze(&rig.region, 0..LEN);
        same(&rig.region, &rig.held, "after the pages were unlocked");
    });
}

/// What the front page's table says of system calls on a page that is not mapped.
#[test]
fn without_a_pin_the_kernel_finds_no_page() {
    let bytes = pages(80_000, 4);
    let file = file("unpinned", &bytes);
    each(|rig| {
        let Rig { region, held, .. } = &rig;
        freeze(region, 0..LEN);
        let cold = |n: usize| at(region, n * PAGE_SIZE + 100);
        let fault = Err(libc::EFAULT);
        assert_eq!(pread_raw(file.as_raw_fd(), cold(0), 50, 0), fault);
        assert_eq!(pwrite_raw(file.as_raw_fd(), cold(1), 50, 0), fault);
        let parts = [libc::iovec { iov_base: cold(2).cast(), iov_len: 50 }];
        // SAFETY: the kernel checks the address.
        assert_eq!(errno(unsafe { libc::preadv(file.as_raw_fd(), parts.as_ptr(), 1, 0) }), fault);
        for op in [libc::FUTEX_WAIT, libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG] {
            assert_eq!(futex(cold(3), op, 0), fault);
        }
        // SAFETY: locking changes no byte.
        let locked = errno(unsafe { libc::mlock(cold(4).cast(), 1) } as isize);
        // SAFETY: as above. What mlock notes stays noted when it fails.
        unsafe { libc::munlock(cold(4).cast(), 1) };
        assert_eq!(locked, Err(libc::ENOMEM));
        if let Some(ring) = ring() {
            assert_eq!(ring.register(cold(5), 50), fault);
            assert_eq!(ring.run(&Op::read(file.as_raw_fd(), cold(6), 50, 0)), fault);
        }
        // A buffer with a part that is there, and a part that is not, is read short.
        let straddling = 8 * PAGE_SIZE - 200;
        put(region, straddling, &held[straddling..][..1]);
        let short = pread_raw(file.as_raw_fd(), at(region, straddling), 400, 0);
        assert_eq!(short, Ok(200));
        let mut expected = held.clone();
        expected[straddling..][..200].copy_from_slice(&bytes[..200]);
        same(region, &expected, "after calls that failed");
    });
}

/// A page that was only read since it came back may be write-protected. Then the kernel can read it, but not write it.
#[test]
fn without_a_pin_the_kernel_may_not_write_what_was_only_read() {
    let bytes = pages(82_000, 4);
    let file = file("clean", &bytes);
    for kind in kinds() {
        let builder = builder(kind, LEN).resident_bytes(FEW * PAGE_SIZE);
        let region = build(builder.clean_pages(CleanPages::Always).fault_around(false));
        let mut held = fill(&region, 1000);
        freeze(&region, 0..LEN);
        let (pinned, plain) = (3 * PAGE_SIZE, 9 * PAGE_SIZE);
        for offset in [pinned, plain] {
            assert_eq!(touch(&region, offset), held[offset]);
            assert!(kernel_reads(at(&region, offset)));
        }
        let there = region.pin(pinned..pinned + 50).unwrap();
        assert_eq!(pread_raw(file.as_raw_fd(), there.as_ptr(), 50, 0), Ok(50));
        held[pinned..][..50].copy_from_slice(&bytes[..50]);
        drop(there);
        let clean = pread_raw(file.as_raw_fd(), at(&region, plain), 50, 0);
        // Elsewhere a region does not know that a touch was a read.
        if kind == BackendKind::Move && cfg!(target_arch = "x86_64") {
            assert_eq!(clean, Err(libc::EFAULT));
        } else {
            assert_eq!(clean, Ok(50));
            held[plain..][..50].copy_from_slice(&bytes[..50]);
        }
        same(&region, &held, "after the calls");
        freeze(&region, 0..LEN);
        same(&region, &held, "after the calls");
    }
}

#[test]
fn without_a_pin_a_stream_keeps_its_bytes_and_a_datagram_is_lost() {
    each(|rig| {
        let Rig { region, held, .. } = &rig;
        freeze(region, 0..LEN);
        let cold = |n: usize| at(region, n * PAGE_SIZE);
        let mut room = [0; 5];
        let (mut one, mut two) = UnixStream::pair().unwrap();
        one.write_all(b"hello").unwrap();
        assert_eq!(read_raw(two.as_raw_fd(), cold(0), 5), Err(libc::EFAULT));
        two.read_exact(&mut room).unwrap();
        assert_eq!(&room, b"hello");
        assert_eq!(write_raw(one.as_raw_fd(), cold(1), 5), Err(libc::EFAULT));
        let (mut one, mut two) = tcp();
        one.write_all(b"world").unwrap();
        // Otherwise the call might find nothing yet, and wait.
        assert_eq!(two.peek(&mut [0; 1]).unwrap(), 1);
        assert_eq!(read_raw(two.as_raw_fd(), cold(2), 5), Err(libc::EFAULT));
        two.read_exact(&mut room).unwrap();
        assert_eq!(&room, b"world");
        // The lost datagram is the first; the second shows that the order is known.
        let (one, two) = UnixDatagram::pair().unwrap();
        one.send(b"first").unwrap();
        one.send(b"other").unwrap();
        assert_eq!(read_raw(two.as_raw_fd(), cold(3), 5), Err(libc::EFAULT));
        assert_eq!(two.recv(&mut room).unwrap(), 5);
        assert_eq!(&room, b"other");
        assert_eq!(write_raw(one.as_raw_fd(), cold(4), 5), Err(libc::EFAULT));
        let (one, two) = udp();
        one.send(b"first").unwrap();
        one.send(b"other").unwrap();
        assert_eq!(two.peek(&mut room).unwrap(), 5);
        assert_eq!(read_raw(two.as_raw_fd(), cold(5), 5), Err(libc::EFAULT));
        assert_eq!(two.recv(&mut room).unwrap(), 5);
        assert_eq!(&room, b"other");
        same(region, held, "after calls that failed");
    });
}

#[test]
fn without_a_pin_direct_io_fails() {
    let file = file("unpinned-direct", &pages(81_000, 4));
    if !make_direct(&file) {
        return;
    }
    each(|rig| {
        freeze(&rig.region, 0..LEN);
        let fd = file.as_raw_fd();
        assert_eq!(pread_raw(fd, at(&rig.region, 0), PAGE_SIZE, 0), Err(libc::EFAULT));
        assert_eq!(pwrite_raw(fd, at(&rig.region, PAGE_SIZE), PAGE_SIZE, 0), Err(libc::EFAULT));
        same(&rig.region, &rig.held, "after calls that failed");
    });
}

#[test]
fn pins_have_limits() {
    each(|rig| {
        let Rig { region, held, .. } = &rig;
        let none = region.pin(7..7).unwrap();
        assert!(none.is_empty() && none.as_ref().is_empty());
        let (start, end) = (20, 10);
        for wrong in [
            LEN - 5..region.len() + 5,
            region.len() + 1..region.len() + 2,
            start..end,
            5..usize::MAX,
        ] {
            let refused = region.pin(wrong.clone());
            assert!(matches!(refused, Err(PinError::Range(_))), "{wrong:?}: {refused:?}");
        }
        let all = region.pin(0..LEN);
        assert!(matches!(all, Err(PinError::TooMany { .. })), "{all:?}");
        assert_eq!(region.stats().pinned_bytes, 0);
        let mut pins = Vec::new();
        let refused = loop {
            match region.pin(pins.len() * PAGE_SIZE + 5..(pins.len() + 1) * PAGE_SIZE) {
                Ok(pinned) => pins.push(pinned),
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, PinError::TooMany { .. }), "{refused:?}");
        let limit = region.stats().resident_limit;
        assert!(
            pins.len() >= 8 && pins.len() * PAGE_SIZE < limit,
            "{} pins of {limit} bytes",
            pins.len()
        );
        assert_eq!(region.stats().pinned_bytes, pins.len() * PAGE_SIZE);
        // All other pages still work, and none of these leaves.
        while_evicting(region, || same(region, held, "with all the pins that may be"));
        assert!(pins.iter().all(|pinned| kernel_reads(pinned.as_ptr())));
        drop(pins);
        assert_eq!(region.stats().pinned_bytes, 0);
        freeze(region, 0..LEN);
        same(region, held, "after the pins");
    });
}

/// Several threads pin at the same moment, together more than may be.
#[test]
fn pins_at_once_keep_the_limit() {
    const THREADS: usize = 4;
    each(|rig| {
        let Rig { region, held, .. } = &rig;
        let most = match region.pin(0..LEN) {
            Err(PinError::TooMany { most, .. }) => most,
            other => panic!("{other:?}"),
        };
        let refusals = AtomicUsize::new(0);
        for round in 0..30 {
            freeze(region, 0..LEN);
            let all = Barrier::new(THREADS);
            thread::scope(|scope| {
                for thread in 0..THREADS {
                    let (all, refusals) = (&all, &refusals);
                    scope.spawn(move || {
                        let range = thread * 20 * PAGE_SIZE..(thread + 1) * 20 * PAGE_SIZE;
                        all.wait();
                        let pinned = region.pin(range.clone());
                        all.wait();
                        let now = region.stats().pinned_bytes / PAGE_SIZE;
                        all.wait();
                        assert!(now <= most, "{now} pages are pinned, at most {most} may be");
                        match pinned {
                            Ok(pinned) => assert!(pinned.as_ref() == &held[range]),
                            Err(PinError::TooMany { .. }) => drop(refusals.fetch_add(1, SeqCst)),
                            Err(error) => panic!("{error}"),
                        }
                    });
                }
            });
            assert_eq!(region.stats().pinned_bytes, 0, "round {round}");
        }
        assert!(refusals.load(SeqCst) > 0, "{most} may be pinned, and {THREADS} times 20 were");
        same(region, held, "after the pins");
    });
}

#[test]
fn the_pins_of_one_page_have_a_limit() {
    each(|rig| {
        let Rig { region, held, .. } = &rig;
        let most = 5_000_000;
        let refused = (0..most).find_map(|_| region.pin(3..4).map(std::mem::forget).err());
        let counted = matches!(
            refused,
            Some(PinError::TooMany { .. } | PinError::Page(Trouble::Pins { .. }))
        );
        assert!(counted, "{refused:?}");
        freeze(region, PAGE_SIZE..LEN);
        assert!(kernel_reads(at(region, 0)));
        same(region, held, "with a page that stays pinned");
    });
}

#[test]
fn pins_of_many_threads() {
    each(|rig| {
        let Rig { region, held, .. } = &rig;
        while_evicting(region, || {
            thread::scope(|scope| {
                for seed in 0..4 {
                    scope.spawn(move || {
                        let mut dice = Dice::new(seed + 20);
                        let mut pins = Vec::new();
                        for _ in 0..3000 {
                            // Few pages, so that several threads pin the same.
                            let range = dice.range(8 * PAGE_SIZE);
                            pins.push((region.pin(range.clone()).unwrap(), range));
                            let (pinned, range) = &pins[dice.below(pins.len())];
                            assert!(pinned.as_ref() == &held[range.clone()]);
                            assert!(kernel_reads(pinned.as_ptr()), "a pinned page has left");
                            if pins.len() > 2 {
                                drop(pins.swap_remove(dice.below(pins.len())));
                            }
                        }
                    });
                }
            });
        });
        assert_eq!(region.stats().pinned_bytes, 0);
        freeze(region, 0..LEN);
        same(region, held, "after the pins");
    });
}

/// Runs `work` while threads read pages of `range` at random: each of them needs room, so others have to leave.
fn under_pressure(base: usize, held: &[u8], range: Range<usize>, work: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for seed in 0..2 {
            let (stop, range) = (&stop, range.clone());
            scope.spawn(move || {
                let mut dice = Dice::new(seed);
                while !stop.load(SeqCst) {
                    let offset = range.start + dice.below(range.len());
                    let byte = (base as *const u8).wrapping_add(offset);
                    // SAFETY: the byte is in the region, which lives longer than this scope, and nobody writes it.
                    let there = unsafe { byte.read_volatile() };
                    assert_eq!(there, held[offset]);
                }
            });
        }
        let _stop = Stop(&stop);
        work();
    });
}

#[test]
fn the_helpers_pin() {
    let bytes = pages(90_000, 8);
    let file = file("helpers", &bytes);
    let out = common::file("helpers-out", &[]);
    for kind in kinds() {
        let Rig { mut region, mut held, mut dice, .. } = Rig::new(kind);
        let (base, half) = (region.as_ptr() as usize, LEN / 2);
        let still = held.clone();
        under_pressure(base, &still, half..LEN, || {
            for _ in 0..ROUNDS {
                let range = dice.range(half);
                let from = dice.below(bytes.len() - range.len());
                let mut source = &file;
                io::Seek::seek(&mut source, io::SeekFrom::Start(from as u64)).unwrap();
                assert_eq!(region.read_from(range.clone(), source).unwrap(), range.len());
                held[range.clone()].copy_from_slice(&bytes[from..from + range.len()]);
                // What has just been read is most likely there still. Another range most likely is not.
                let range = dice.range(half);
                out.set_len(0).unwrap();
                let mut target = &out;
                io::Seek::rewind(&mut target).unwrap();
                assert_eq!(region.write_to(range.clone(), target).unwrap(), range.len());
                let mut back = vec![0; range.len()];
                out.read_exact_at(&mut back, 0).unwrap();
                assert!(back == held[range]);
            }
        });
        assert_eq!(region.stats().pinned_bytes, 0);
        same(&region, &held, "after the helpers");
    }
}

/// Reads or writes a file, but not before it has touched other pages of the region, more than can be resident.
struct Busy<'a> {
    file: &'a File,
    base: usize,
    pages: Range<usize>,
}

impl Busy<'_> {
    fn touch_others(&self) {
        for page in self.pages.clone().chain(self.pages.clone()) {
            let byte = (self.base as *const u8).wrapping_add(page * PAGE_SIZE);
            // SAFETY: the byte is in the region, outside of the range that the helper lends, and nobody writes it.
            unsafe { byte.read_volatile() };
        }
    }
}

impl Read for Busy<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.touch_others();
        self.file.read_at(to, 0)
    }
}

impl Write for Busy<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.touch_others();
        self.file.write_at(from, 0)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_the_helpers_lend_stays_however_long_the_call_takes() {
    let bytes = pages(91_000, 4);
    for kind in kinds() {
        let file = file("busy", &bytes);
        let Rig { mut region, mut held, mut dice, .. } = Rig::new(kind);
        for _ in 0..20 {
            let busy =
                Busy { file: &file, base: region.as_ptr() as usize, pages: PAGES / 2..PAGES };
            let range = dice.range(LEN / 2);
            file.write_all_at(&bytes, 0).unwrap();
            assert_eq!(region.read_from(range.clone(), busy).unwrap(), range.len());
            held[range.clone()].copy_from_slice(&bytes[..range.len()]);
            let busy =
                Busy { file: &file, base: region.as_ptr() as usize, pages: PAGES / 2..PAGES };
            let range = dice.range(LEN / 2);
            assert_eq!(region.write_to(range.clone(), busy).unwrap(), range.len());
            let mut back = vec![0; range.len()];
            file.read_exact_at(&mut back, 0).unwrap();
            assert!(back == held[range]);
        }
        same(&region, &held, "after the helpers");
    }
}

/// Gives a few bytes, or an error.
struct Odd(io::Result<usize>);

impl Read for Odd {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let n = std::mem::replace(&mut self.0, Err(io::Error::other("asked twice")))?;
        to[..n].fill(0x42);
        Ok(n)
    }
}

impl Write for Odd {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let n = std::mem::replace(&mut self.0, Err(io::Error::other("asked twice")))?;
        Ok(n.min(from.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(io::Error::other("nobody asked for that"))
    }
}

#[test]
fn the_helpers_make_one_call_and_pass_errors_on() {
    each(|rig| {
        let Rig { mut region, mut held, .. } = rig;
        let range = 3 * PAGE_SIZE - 50..3 * PAGE_SIZE + 50;
        freeze(&region, range.clone());
        assert_eq!(region.read_from(range.clone(), Odd(Ok(60))).unwrap(), 60);
        held[range.start..][..60].fill(0x42);
        assert_eq!(region.write_to(range.clone(), Odd(Ok(30))).unwrap(), 30);
        let refused = || Odd(Err(io::Error::from_raw_os_error(libc::ENOSPC)));
        let error = region.read_from(range.clone(), refused()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        let error = region.write_to(range.clone(), refused()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        let beyond = LEN - 10..region.len() + 10;
        let error = region.read_from(beyond.clone(), Odd(Ok(1))).unwrap_err();
        assert!(error.to_string().contains("not in a region"), "{error}");
        let error = region.write_to(beyond, Odd(Ok(1))).unwrap_err();
        assert!(error.to_string().contains("not in a region"), "{error}");
        assert_eq!(region.stats().pinned_bytes, 0);
        same(&region, &held, "after the helpers");
        freeze(&region, 0..LEN);
        same(&region, &held, "after the helpers");
    });
}
