//! Controls for `stress.rs`: protocols that are almost right, and lose writes under its kind of load. They compress a page
//! where it is, while the program may write it, and take it away afterwards; one compares it once more before. If these
//! tests did not find lost writes, `stress.rs` would prove nothing.
//!
//! Built from guard pages on a file in memory, as the backend `guard` is, but on its own: a few states, one evictor, and a
//! handler that only this program has.
#![cfg(all(target_os = "linux", not(miri), not(loom)))]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failure in a test's helper is the test's own message"
)]

use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64};
use std::time::{Duration, Instant};

use zpool_base::sync::test_rng::Rng;
use zswap_core::{PAGE_SIZE, Page, SwapEntry, Zswap};

const PAGES: usize = 512;
const LEN: usize = PAGES * PAGE_SIZE;
const GUARD_INSTALL: libc::c_int = 102;
const GUARD_REMOVE: libc::c_int = 103;
const THREADS: usize = 2;

const RESIDENT: u8 = 0;
const BUSY: u8 = 1;
const COLD: u8 = 2;

/// How the evictor takes a page.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Protocol {
    /// Compresses it where it is, then takes it away.
    InPlace,
    /// As `InPlace`, but takes it away only if it still is what was compressed.
    Compared,
    /// Takes it away first. Loses nothing.
    TakenFirst,
}

struct Memory {
    program: NonNull<u8>,
    alias: NonNull<u8>,
    states: Vec<AtomicU8>,
    store: Zswap,
}

// SAFETY: the addresses are of mappings that live as long as the process; accesses are atomic, or ordered by `states`.
unsafe impl Sync for Memory {}

static CURRENT: AtomicPtr<Memory> = AtomicPtr::new(ptr::null_mut());

fn map(fd: libc::c_int) -> NonNull<u8> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping, which replaces no other one.
    let at = unsafe { libc::mmap(ptr::null_mut(), LEN, access, libc::MAP_SHARED, fd, 0) };
    assert_ne!(at, libc::MAP_FAILED);
    NonNull::new(at.cast()).unwrap()
}

impl Memory {
    /// Returns `None` on a kernel without guard pages on files.
    fn new() -> Option<Memory> {
        // SAFETY: the name is a C string.
        let fd = unsafe { libc::memfd_create(c"controls".as_ptr(), libc::MFD_CLOEXEC) };
        // SAFETY: the descriptor is this function's own.
        assert_eq!(unsafe { libc::ftruncate(fd, LEN as libc::off_t) }, 0);
        let store = Zswap::builder().compressor("lz4").in_fault_handler(true).build().unwrap();
        let states = (0..PAGES).map(|_| AtomicU8::new(RESIDENT)).collect();
        let memory = Memory { program: map(fd), alias: map(fd), states, store };
        let works = memory.advise(memory.program, 0, GUARD_INSTALL)
            && memory.advise(memory.program, 0, GUARD_REMOVE);
        works.then_some(memory)
    }

    fn page(base: NonNull<u8>, page: usize) -> *mut u8 {
        base.as_ptr().wrapping_add(page * PAGE_SIZE)
    }

    fn advise(&self, base: NonNull<u8>, page: usize, advice: libc::c_int) -> bool {
        // SAFETY: the page is in a mapping of this test, and the protocols decide what it shows.
        unsafe { libc::madvise(Self::page(base, page).cast(), PAGE_SIZE, advice) == 0 }
    }

    /// Copies a page out of the alias, word by word, as others may write it meanwhile.
    fn copy(&self, page: usize) -> Page {
        assert!(self.advise(self.alias, page, libc::MADV_POPULATE_WRITE));
        let mut copy = [0; PAGE_SIZE];
        for (n, word) in copy.chunks_exact_mut(8).enumerate() {
            // SAFETY: the word is in the mapping and aligned.
            let from = unsafe {
                AtomicU64::from_ptr(Self::page(self.alias, page).wrapping_add(n * 8).cast())
            };
            word.copy_from_slice(&from.load(Relaxed).to_ne_bytes());
        }
        copy
    }

    fn evict(&self, page: usize, protocol: Protocol) {
        let entry = SwapEntry::new(0, page as u64).unwrap();
        let state = &self.states[page];
        if state.compare_exchange(RESIDENT, BUSY, SeqCst, SeqCst).is_err() {
            return;
        }
        if protocol == Protocol::TakenFirst {
            assert!(self.advise(self.program, page, GUARD_INSTALL));
        }
        let copy = self.copy(page);
        self.store.store(entry, &copy).unwrap();
        if protocol == Protocol::Compared && self.copy(page) != copy {
            self.store.invalidate(entry);
            state.store(RESIDENT, SeqCst);
            return;
        }
        if protocol != Protocol::TakenFirst {
            assert!(self.advise(self.program, page, GUARD_INSTALL));
        }
        assert!(self.advise(self.alias, page, libc::MADV_REMOVE));
        state.store(COLD, SeqCst);
    }

    fn fault(&self, page: usize) {
        let state = &self.states[page];
        while state.load(SeqCst) == BUSY {
            std::hint::spin_loop();
        }
        if state.compare_exchange(COLD, BUSY, SeqCst, SeqCst).is_err() {
            return;
        }
        let entry = SwapEntry::new(0, page as u64).unwrap();
        assert!(self.advise(self.alias, page, libc::MADV_POPULATE_WRITE));
        // SAFETY: the page is BUSY on this thread and guarded.
        let to = unsafe { &mut *Self::page(self.alias, page).cast::<Page>() };
        self.store.load(entry, to).unwrap();
        self.store.invalidate(entry);
        assert!(self.advise(self.program, page, GUARD_REMOVE));
        state.store(RESIDENT, SeqCst);
    }

    fn word(&self, page: usize, word: usize) -> &AtomicU64 {
        // SAFETY: the word is in the mapping and aligned, and all accesses are atomic.
        unsafe { AtomicU64::from_ptr(Self::page(self.program, page).wrapping_add(word * 8).cast()) }
    }
}

extern "C" fn on_fault(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the test sets it before it touches the memory, and leaves it there.
    let memory = unsafe { &*CURRENT.load(SeqCst) };
    // SAFETY: the system passes the information of a SIGSEGV.
    let info = unsafe { &*info };
    // SAFETY: a SIGSEGV has an address.
    let address = unsafe { info.si_addr() } as usize;
    let page = address.wrapping_sub(memory.program.as_ptr() as usize) / PAGE_SIZE;
    if page >= PAGES {
        std::process::abort();
    }
    memory.fault(page);
}

/// Runs a protocol until it loses a write, or for `most`. Returns whether it lost one; `None` if it cannot run here.
fn loses(protocol: Protocol, most: Duration) -> Option<bool> {
    let Some(memory) = Memory::new() else {
        println!("test skipped: guard pages on files need Linux 6.15");
        return None;
    };
    let memory: &'static Memory = Box::leak(Box::new(memory));
    CURRENT.store(ptr::from_ref(memory).cast_mut(), SeqCst);
    // SAFETY: a zeroed action is valid, and the handler may run on any thread of this test.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_fault as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
    // SAFETY: as above.
    assert_eq!(unsafe { libc::sigaction(libc::SIGSEGV, &raw const action, ptr::null_mut()) }, 0);

    let (lost, stop, begun) = (AtomicBool::new(false), AtomicBool::new(false), Instant::now());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (lost, stop) = (&lost, &stop);
            scope.spawn(move || {
                let mut rng = Rng::new(thread as u64);
                let mut written = vec![0; PAGES * 512 / THREADS];
                while !stop.load(Relaxed) {
                    let at = rng.below(written.len());
                    let word = memory.word(at * THREADS / 512, at * THREADS % 512 + thread);
                    if word.load(Relaxed) != written[at] {
                        lost.store(true, Relaxed);
                        stop.store(true, Relaxed);
                    }
                    written[at] += 1;
                    word.store(written[at], Relaxed);
                }
            });
        }
        scope.spawn(|| {
            let mut page = 0;
            while !stop.load(Relaxed) {
                memory.evict(page, protocol);
                page = (page + 1) % PAGES;
                if begun.elapsed() > most {
                    stop.store(true, Relaxed);
                }
            }
        });
    });
    Some(lost.into_inner())
}

/// One test, since the handler and the memory are the process's.
#[test]
fn protocols_that_are_almost_right_lose_writes() {
    let patience = Duration::from_secs(120);
    for (protocol, most, expected) in [
        (Protocol::InPlace, patience, true),
        (Protocol::Compared, patience, true),
        // The same memory, load and check, with the order of the backends: the loss above is the protocols'.
        (Protocol::TakenFirst, Duration::from_secs(3), false),
    ] {
        let begun = Instant::now();
        let Some(lost) = loses(protocol, most) else { return };
        println!("{protocol:?}: lost a write: {lost}, after {:?}", begun.elapsed());
        assert_eq!(lost, expected, "{protocol:?}");
    }
}
