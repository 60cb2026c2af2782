//! Regions in the life of a process: forks, closed descriptors, exec, signal handlers and their stacks, memory that
//! runs out, and many regions at once.
#![cfg(all(target_os = "linux", not(miri), not(loom)))]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    reason = "signals and processes; a failure in a test's helper is the test's own message"
)]

mod common;

use std::ffi::c_void;
use std::fs::{self, File};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::thread;

use common::*;
use zswap_core::{PAGE_SIZE, Zswap};
use zswap_region::{BackendKind, BuildError, CleanPages, OnFull, Region};

const PAGES: usize = 256;
const LEN: usize = PAGES * PAGE_SIZE;

/// Builds and fills a region of which few pages can be resident, and freezes all of it.
fn cold(kind: BackendKind, seed: u64) -> (Region, Vec<u8>) {
    let region = region(kind, PAGES);
    let held = fill(&region, seed);
    freeze(&region, 0..LEN);
    (region, held)
}

/// Maps memory of this test's own. It stays until the process ends.
fn map(len: usize, protection: i32) -> *mut u8 {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping, where the system likes.
    let memory = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, -1, 0) };
    assert_ne!(memory, libc::MAP_FAILED);
    memory.cast()
}

fn read_byte(byte: *const u8) -> u8 {
    // SAFETY: the caller gives a byte of a region, or one whose access is to raise a signal.
    unsafe { byte.read_volatile() }
}

// Forks.

/// In a child, a touch of each kind of page ends the child by SIGSEGV. A zero would be a lie.
#[test]
fn a_child_that_touches_the_region_dies() {
    alone("a_child_that_touches_the_region_dies", &kind_words(), |word| {
        for clean in [CleanPages::Never, CleanPages::Always] {
            let kind = kind_of(word);
            let builder = builder(kind, LEN).resident_bytes(FEW * PAGE_SIZE).clean_pages(clean);
            let region = build(builder);
            let held = pages(100, PAGES - 1);
            put(&region, 0, &held);
            freeze(&region, 0..LEN);
            // Page 0 is clean or resident now, page 1 is resident and written, and the last one was never touched.
            assert_eq!(touch(&region, 0), held[0]);
            put(&region, PAGE_SIZE, &held[PAGE_SIZE..][..10]);
            assert!(
                kernel_reads(at(&region, PAGE_SIZE)) && !kernel_reads(at(&region, 9 * PAGE_SIZE))
            );
            for page in [0, 1, 9, PAGES - 1] {
                for write in [false, true] {
                    let ended = fork(|| {
                        let byte = at(&region, page * PAGE_SIZE);
                        if write {
                            // SAFETY: in the child this has to raise SIGSEGV.
                            unsafe { byte.write_volatile(1) };
                        } else {
                            read_byte(byte);
                        }
                        7
                    });
                    assert_eq!(
                        ended.signal(),
                        Some(libc::SIGSEGV),
                        "{word} page {page} write {write}: {ended}"
                    );
                }
            }
            same(&region, &held, "after the children");
            freeze(&region, 0..LEN);
            same(&region, &held, "after the children");
        }
    });
}

/// Children of a process whose threads are in the middle of faults and evictions.
#[test]
fn children_of_a_busy_region() {
    alone("children_of_a_busy_region", &kind_words(), |word| {
        let (region, held) = cold(kind_of(word), 200);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let _stop = Stop(&stop);
            for seed in 0..2 {
                let (region, held, stop) = (&region, &held, &stop);
                scope.spawn(move || {
                    let mut dice = Dice::new(seed);
                    while !stop.load(SeqCst) {
                        let offset = dice.below(LEN);
                        assert_eq!(touch(region, offset), held[offset]);
                    }
                });
            }
            while_evicting(&region, || {
                for round in 0..40 {
                    let ended = fork(|| i32::from(read_byte(at(&region, round * PAGE_SIZE))) | 256);
                    assert_eq!(ended.signal(), Some(libc::SIGSEGV), "{ended}");
                    // A child that leaves the region alone, or drops it, lives on.
                    let ended = fork(|| {
                        // SAFETY: the child does not use the region again.
                        drop(unsafe { ptr::read(&raw const region) });
                        5
                    });
                    assert_eq!(ended.code(), Some(5), "{ended}");
                }
            });
        });
        same(&region, &held, "after the children");
    });
}

/// The calls in a child return, and do not touch the parent's pages.
#[test]
fn calls_in_a_child_return() {
    alone("calls_in_a_child_return", &kind_words(), |word| {
        let (region, held) = cold(kind_of(word), 300);
        let mut region = region;
        let ended = fork(|| {
            let _ = region.stats();
            let _ = region.backend();
            let _ = region.advise_cold(0..LEN);
            let _ = region.prefetch(0..LEN);
            let _ = region.set_resident_bytes(Some(LEN));
            let _ = region.pin(0..10).is_ok();
            let _ = region.write_to(0..10, io::sink());
            let _ = region.read_from(0..10, io::repeat(1));
            // SAFETY: nobody uses the pages in the child.
            let _ = unsafe { region.discard(0..LEN) };
            7
        });
        // A call may find that the pages are not there, but not hang.
        assert!(ended.code() == Some(7) || ended.signal() == Some(libc::SIGSEGV), "{ended}");
        let ended = fork(|| {
            // SAFETY: the child does not use the region again.
            drop(unsafe { ptr::read(&raw const region) });
            7
        });
        assert_eq!(ended.code(), Some(7), "{ended}");
        same(&region, &held, "after the children");
    });
}

#[test]
fn a_child_may_build_a_region_of_its_own() {
    alone("a_child_may_build_a_region_of_its_own", &kind_words(), |word| {
        let (theirs, held) = cold(kind_of(word), 400);
        let ended = fork(|| {
            let (own, held) = cold(kind_of(word), 500);
            same(&own, &held, "in the child");
            7
        });
        assert_eq!(ended.code(), Some(7), "{ended}");
        same(&theirs, &held, "after the child");
    });
}

// Descriptors and exec.

fn close_all_descriptors() {
    // SAFETY: nothing in this process uses a descriptor from 3 on, except the regions, whose subject this is.
    assert_eq!(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) }, 0);
}

/// Opens files of many kinds, which get the numbers that were closed.
fn many_files() -> Vec<OwnedFd> {
    let mut files: Vec<OwnedFd> = Vec::new();
    let mut own = |fd: i64| {
        if fd >= 0 {
            // SAFETY: the system has just returned this descriptor.
            files.push(unsafe { OwnedFd::from_raw_fd(fd as RawFd) });
        }
    };
    for _ in 0..4 {
        // Userfaultfds in the first places: they know the same ioctls.
        // SAFETY: opens a descriptor.
        own(unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | 1) });
    }
    for _ in 0..3 {
        // SAFETY: opens a descriptor.
        own(i64::from(unsafe { libc::eventfd(0, 0) }));
        // SAFETY: opens a descriptor; the name is a C string.
        own(i64::from(unsafe { libc::memfd_create(c"other".as_ptr(), 0) }));
        // SAFETY: opens a descriptor.
        own(i64::from(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0) }));
        // SAFETY: opens a descriptor.
        own(i64::from(unsafe { libc::epoll_create1(0) }));
    }
    files.extend((0..8).map(|_| File::open("/dev/null").unwrap().into()));
    files
}

/// Works on all pages: reads, writes, evictions, calls.
fn work_over(region: &Region, held: &mut [u8], seed: u64) {
    let mut dice = Dice::new(seed);
    for round in 0..3 {
        same(region, held, "work");
        freeze(region, 0..LEN);
        for _ in 0..PAGES {
            let range = dice.range(LEN);
            held[range.clone()].iter_mut().for_each(|byte| *byte ^= 0x11);
            put(region, range.start, &held[range]);
        }
        let range = dice.range(LEN);
        region.prefetch(range.clone()).unwrap();
        let pinned = region.pin(range.clone()).unwrap();
        assert!(pinned.as_ref() == &held[range]);
        drop(pinned);
        // SAFETY: these pages are not used meanwhile.
        assert_eq!(unsafe { region.discard(0..PAGE_SIZE) }.unwrap(), 1);
        held[..PAGE_SIZE].fill(0);
        assert_eq!(touch(region, 5), 0, "round {round}");
    }
    same(region, held, "work");
}

#[test]
fn closing_all_descriptors_loses_nothing() {
    alone("closing_all_descriptors_loses_nothing", &["move", "guard", "both"], |word| {
        let kinds: Vec<_> =
            kinds().into_iter().filter(|kind| word == "both" || word == word_of(*kind)).collect();
        // Regions that do nothing, some whose pages are all cold, and some that have done nothing yet.
        let idle: Vec<_> = kinds.iter().map(|kind| cold(*kind, 599)).collect();
        let mut regions: Vec<_> = kinds.iter().map(|kind| cold(*kind, 600)).collect();
        regions.extend(kinds.iter().map(|kind| (region(*kind, PAGES), vec![0; LEN])));
        close_all_descriptors();
        let files = many_files();
        let open = |fd: RawFd| {
            // SAFETY: asks for a flag.
            unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
        };
        // These have not even noticed. They do not close descriptors of others when they are dropped.
        drop(idle);
        assert!(files.iter().all(|file| open(file.as_raw_fd())));
        for (region, held) in &mut regions {
            work_over(region, held, 601);
        }
        let mut later: Vec<_> = kinds.iter().map(|kind| cold(*kind, 602)).collect();
        for (region, held) in regions.iter_mut().chain(&mut later) {
            work_over(region, held, 603);
        }
        drop(regions);
        assert!(files.iter().all(|file| open(file.as_raw_fd())));
        for (region, held) in &mut later {
            work_over(region, held, 604);
        }
        // Again, and now nothing is opened in their place.
        drop(files);
        close_all_descriptors();
        for (region, held) in &mut later {
            work_over(region, held, 605);
        }
    });
}

/// Threads fault while the descriptors go away, and new files take their numbers at once.
#[test]
fn descriptors_closed_during_faults() {
    alone("descriptors_closed_during_faults", &kind_words(), |word| {
        for round in 0..10 {
            let (region, held) = cold(kind_of(word), 700 + round);
            let stop = AtomicBool::new(false);
            let started = &Barrier::new(3);
            thread::scope(|scope| {
                let _stop = Stop(&stop);
                for seed in 0..2 {
                    let (region, held, stop) = (&region, &held, &stop);
                    scope.spawn(move || {
                        let mut dice = Dice::new(seed);
                        started.wait();
                        while !stop.load(SeqCst) {
                            let offset = dice.below(LEN);
                            assert_eq!(touch(region, offset), held[offset]);
                        }
                    });
                }
                started.wait();
                // Without `while_evicting`: its assertion may hold already when the descriptors go.
                region.advise_cold(0..LEN).unwrap();
                close_all_descriptors();
                let files = many_files();
                let before = region.stats().evicted_pages;
                while region.stats().evicted_pages < before + 500 {
                    region.advise_cold(0..LEN).unwrap();
                }
                drop(files);
            });
            same(&region, &held, "after the descriptors went");
        }
    });
}

#[test]
fn programs_are_started_while_pages_are_cold() {
    alone("programs_are_started_while_pages_are_cold", &kind_words(), |word| {
        let test = "programs_are_started_while_pages_are_cold";
        if word == "after exec" {
            let open: Vec<_> = fs::read_dir("/proc/self/fd")
                .unwrap()
                .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
                .map(|path| path.to_string_lossy().into_owned())
                .collect();
            let left = |name: &str| open.iter().any(|path| path.contains(name));
            assert!(!left("userfaultfd") && !left("memfd:"), "inherited: {open:?}");
            // SAFETY: a set of signals may be all zeros.
            let mut mask: libc::sigset_t = unsafe { std::mem::zeroed() };
            // SAFETY: asks for the mask.
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), &raw mut mask) };
            for signal in [libc::SIGBUS, libc::SIGSEGV] {
                // SAFETY: the set is initialised.
                assert_eq!(unsafe { libc::sigismember(&raw const mask, signal) }, 0);
            }
            for kind in kinds() {
                let (region, held) = cold(kind, 801);
                same(&region, &held, "in the new program");
            }
            return;
        }
        let (region, held) = cold(kind_of(word), 800);
        // By posix_spawn or vfork, under an evictor.
        while_evicting(&region, || {
            for _ in 0..10 {
                let output = Command::new("/bin/echo").arg("alive").output().unwrap();
                assert_eq!(output.stdout, b"alive\n");
            }
        });
        // By fork: `pre_exec` forces it.
        let mut command = Command::new("/bin/echo");
        // SAFETY: the closure does nothing.
        unsafe { command.pre_exec(|| Ok(())) };
        assert!(command.output().unwrap().status.success());
        same(&region, &held, "after programs were started");
        freeze(&region, 0..LEN);
        let error = child(test, "after exec").exec();
        panic!("exec: {error}");
    });
}

// Signal handlers: their stacks, and who else has one.

/// What a thread does in the tests of stacks: it touches pages that are cold and pages that were never touched, reads
/// and writes, at the limit, so that its faults also evict.
struct Job {
    region: Region,
    held: Vec<u8>,
    done: AtomicUsize,
}

impl Job {
    fn new(kind: BackendKind, codec: &str) -> Job {
        let store = Zswap::builder().compressor(codec);
        let builder =
            Region::builder().capacity(2 * LEN).resident_bytes(FEW * PAGE_SIZE).backend(kind);
        let region = build(
            builder
                .background(false)
                .fault_around(false)
                .clean_pages(CleanPages::Always)
                .store(store),
        );
        let held = pages(900, PAGES);
        put(&region, 0, &held);
        freeze(&region, 0..LEN);
        Job { region, held, done: AtomicUsize::new(0) }
    }

    /// Uses little stack itself.
    fn run(&self) {
        for n in 0..PAGES {
            let offset = n * PAGE_SIZE + n % 8;
            let byte = at(&self.region, offset);
            let right = read_byte(byte) == self.held[offset];
            // SAFETY: only this thread uses the region now.
            unsafe { byte.write_volatile(self.held[offset]) };
            let fresh = at(&self.region, LEN + n * PAGE_SIZE);
            let zero = read_byte(fresh) == 0;
            // SAFETY: as above.
            unsafe { fresh.write_volatile(0) };
            self.done.fetch_add(usize::from(right && zero), SeqCst);
        }
    }

    fn check(&self, what: &str) {
        assert_eq!(self.done.load(SeqCst), PAGES, "{what}");
        same(&self.region, &self.held, what);
        let stats = self.region.stats();
        assert!(stats.direct_reclaims > 0, "{what}: {stats:?}");
        assert!(faults(&self.region) as usize >= PAGES / 2, "{what}: {stats:?}");
    }
}

/// The smallest alternate stack that the processor's registers fit on, or 8 KiB.
fn small_stack() -> usize {
    // SAFETY: asks for a number.
    let least = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) } as usize;
    (8 << 10).max((least + 4096).next_multiple_of(PAGE_SIZE))
}

/// Sets this thread's alternate stack: one of `len` bytes above a page that nobody may touch, or none.
fn set_alternate_stack(bytes: Option<usize>) {
    let stack = match bytes {
        Some(bytes) => {
            let memory = map(bytes + PAGE_SIZE, libc::PROT_READ | libc::PROT_WRITE);
            // SAFETY: the page is this function's, and nobody uses it.
            assert_eq!(unsafe { libc::mprotect(memory.cast(), PAGE_SIZE, libc::PROT_NONE) }, 0);
            let base = memory.wrapping_add(PAGE_SIZE).cast();
            libc::stack_t { ss_sp: base, ss_flags: 0, ss_size: bytes }
        }
        None => libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 },
    };
    // SAFETY: the stack stays mapped until the process ends.
    let set = unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
}

/// Runs a function on a thread that the C library makes, with a stack of `len` bytes and a guard below it.
fn on_a_small_thread(bytes: usize, run: extern "C" fn(*mut c_void) -> *mut c_void, job: &Job) {
    let mut attributes = MaybeUninit::uninit();
    // SAFETY: the call fills the attributes.
    assert_eq!(unsafe { libc::pthread_attr_init(attributes.as_mut_ptr()) }, 0);
    // SAFETY: they are filled.
    let mut attributes = unsafe { attributes.assume_init() };
    // SAFETY: as above.
    assert_eq!(unsafe { libc::pthread_attr_setstacksize(&raw mut attributes, bytes) }, 0);
    let mut thread = 0;
    let argument = ptr::from_ref(job).cast_mut().cast();
    // SAFETY: `job` lives until the thread is joined, below.
    let made =
        unsafe { libc::pthread_create(&raw mut thread, &raw const attributes, run, argument) };
    assert_eq!(made, 0);
    // SAFETY: the thread was just made.
    assert_eq!(unsafe { libc::pthread_join(thread, ptr::null_mut()) }, 0);
}

extern "C" fn run_plainly(job: *mut c_void) -> *mut c_void {
    // SAFETY: `on_a_small_thread` passes a job that lives longer than the thread.
    unsafe { &*job.cast::<Job>() }.run();
    ptr::null_mut()
}

extern "C" fn run_with_a_small_alternate_stack(job: *mut c_void) -> *mut c_void {
    set_alternate_stack(Some(small_stack()));
    run_plainly(job)
}

static IN_A_HANDLER: AtomicUsize = AtomicUsize::new(0);

extern "C" fn run_the_job(_signal: i32) {
    let job = IN_A_HANDLER.load(SeqCst) as *const Job;
    // SAFETY: whoever raises the signal has put a living job there.
    unsafe { &*job }.run();
}

const STACKS: [&str; 5] = [
    "a small alternate stack",
    "no alternate stack",
    "a small thread stack",
    "a small thread stack and a small alternate stack",
    "in a handler on a small alternate stack",
];

#[test]
fn faults_on_small_stacks() {
    let words: Vec<String> = kind_words()
        .iter()
        .flat_map(|kind| ["lz4", "zstd"].map(|codec| format!("{kind} {codec}")))
        .flat_map(|which| STACKS.map(|stack| format!("{which} {stack}")))
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    alone("faults_on_small_stacks", &words, |word| {
        let mut parts = word.splitn(3, ' ');
        let mut next = || parts.next().unwrap();
        let job = Job::new(kind_of(next()), next());
        let stack = next();
        match STACKS.iter().position(|known| *known == stack).unwrap() {
            0 => {
                set_alternate_stack(Some(small_stack()));
                job.run();
            }
            1 => {
                set_alternate_stack(None);
                job.run();
            }
            2 => on_a_small_thread(32 << 10, run_plainly, &job),
            3 => on_a_small_thread(32 << 10, run_with_a_small_alternate_stack, &job),
            _ => {
                set_alternate_stack(Some(small_stack()));
                IN_A_HANDLER.store(&raw const job as usize, SeqCst);
                handle(libc::SIGUSR1, run_the_job as *const () as usize, libc::SA_ONSTACK);
                // SAFETY: the handler was just set.
                unsafe { libc::raise(libc::SIGUSR1) };
            }
        }
        job.check(word);
    });
}

/// Blocks or unblocks a signal on this thread.
fn mask(how: i32, signal: i32) {
    // SAFETY: a set of signals may be all zeros.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is initialised.
    unsafe { libc::sigaddset(&raw mut set, signal) };
    // SAFETY: as above.
    assert_eq!(unsafe { libc::pthread_sigmask(how, &raw const set, ptr::null_mut()) }, 0);
}

fn try_build(kind: BackendKind) -> Result<Region, BuildError> {
    // SAFETY: the test blocks a signal, and the region is not used while it does.
    unsafe { builder(kind, LEN).resident_bytes(FEW * PAGE_SIZE).build() }
}

#[test]
fn a_blocked_signal_is_an_error() {
    alone("a_blocked_signal_is_an_error", &kind_words(), |word| {
        let kind = kind_of(word);
        for signal in [libc::SIGBUS, libc::SIGSEGV] {
            let name = if signal == libc::SIGBUS { "SIGBUS" } else { "SIGSEGV" };
            if (signal == libc::SIGBUS) != (kind == BackendKind::Move) {
                // The other backend's signal: it may be blocked, and everything works.
                mask(libc::SIG_BLOCK, signal);
                let (region, held) = cold(kind, 940);
                same(&region, &held, "with the other signal blocked");
                mask(libc::SIG_UNBLOCK, signal);
                continue;
            }
            let refused = |whose: &str| {
                let error = try_build(kind).err();
                let Some(error @ BuildError::SignalBlocked { .. }) = error else {
                    panic!("{name} is blocked in {whose}: {error:?}");
                };
                assert!(error.to_string().contains(name), "{error}");
            };
            mask(libc::SIG_BLOCK, signal);
            refused("this thread");
            mask(libc::SIG_UNBLOCK, signal);
            let [blocked, end] = [Barrier::new(2), Barrier::new(2)];
            thread::scope(|scope| {
                scope.spawn(|| {
                    mask(libc::SIG_BLOCK, signal);
                    blocked.wait();
                    end.wait();
                });
                blocked.wait();
                refused("another thread");
                end.wait();
            });
            let region = try_build(kind).unwrap();
            let held = fill(&region, 950);
            same(&region, &held, "after the signal was unblocked");
        }
    });
}

/// Sets a handler of a signal. Returns the one before.
///
/// While it runs, SIGUSR1 waits.
fn handle(signal: i32, handler: usize, flags: i32) -> libc::sigaction {
    // SAFETY: an action may be all zeros.
    let mut new: libc::sigaction = unsafe { std::mem::zeroed() };
    new.sa_sigaction = handler;
    new.sa_flags = flags;
    // SAFETY: a set may be all zeros, too.
    unsafe { libc::sigaddset(&raw mut new.sa_mask, libc::SIGUSR1) };
    let mut old = MaybeUninit::uninit();
    // SAFETY: the handler is a function of the right kind, or one of the system's two numbers.
    assert_eq!(unsafe { libc::sigaction(signal, &raw const new, old.as_mut_ptr()) }, 0);
    // SAFETY: the call has filled it.
    unsafe { old.assume_init() }
}

static FOREIGN_CALLS: AtomicUsize = AtomicUsize::new(0);
static FOREIGN_ADDRESS: AtomicUsize = AtomicUsize::new(0);
static FOREIGN_CODE: AtomicI32 = AtomicI32::new(0);
static FOREIGN_SIGNAL: AtomicI32 = AtomicI32::new(0);
/// Whether the handler's own signal, and SIGUSR1, SIGUSR2, were blocked in it.
static FOREIGN_MASK: AtomicI32 = AtomicI32::new(0);

/// A handler of a program. It notes the address, and puts a page of zeros where the fault was.
extern "C" fn foreign(signal: i32, info: *mut libc::siginfo_t, context: *mut c_void) {
    assert!(!context.is_null());
    // SAFETY: the system, or who chains, passes a valid structure.
    let info = unsafe { &*info };
    // SAFETY: the signal is one that has an address.
    let address = unsafe { info.si_addr() } as usize;
    FOREIGN_ADDRESS.store(address, SeqCst);
    FOREIGN_CODE.store(info.si_code, SeqCst);
    FOREIGN_SIGNAL.store(signal, SeqCst);
    FOREIGN_MASK.store(blocked(&[signal, libc::SIGUSR1, libc::SIGUSR2]), SeqCst);
    FOREIGN_CALLS.fetch_add(1, SeqCst);
    if info.si_code > 0 {
        put_a_page_at(address);
    }
}

/// Returns which of the signals this thread blocks: one bit for each.
fn blocked(signals: &[i32]) -> i32 {
    // SAFETY: a set of signals may be all zeros.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: asks for the mask.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), &raw mut set) };
    // SAFETY: the set is initialised.
    let is_blocked = |signal: &i32| unsafe { libc::sigismember(&raw const set, *signal) };
    signals.iter().zip(0..).map(|(signal, bit)| is_blocked(signal) << bit).sum()
}

/// A handler that does not get the address.
extern "C" fn foreign_of_one_argument(signal: i32) {
    FOREIGN_SIGNAL.store(signal, SeqCst);
    FOREIGN_CALLS.fetch_add(1, SeqCst);
    put_a_page_at(FOREIGN_ADDRESS.load(SeqCst));
}

fn put_a_page_at(address: usize) {
    let page = (address & !(PAGE_SIZE - 1)) as *mut c_void;
    let (both, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: the tests fault only on pages of their own mappings when this handler is called.
    let mapped = unsafe { libc::mmap(page, PAGE_SIZE, both, flags | libc::MAP_FIXED, -1, 0) };
    assert_eq!(mapped, page);
}

/// The code of a fault on memory that is mapped without this access. The `libc` crate does not have it.
const SEGV_ACCERR: i32 = 2;

/// Returns an address whose touch raises the signal, with the code of siginfo.
fn stray(signal: i32) -> (*mut u8, i32) {
    if signal == libc::SIGSEGV {
        return (map(PAGE_SIZE, libc::PROT_NONE).wrapping_add(17), SEGV_ACCERR);
    }
    let empty = file("stray", &[]);
    let (both, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    // SAFETY: a new mapping of a file of the test's own.
    let memory =
        unsafe { libc::mmap(ptr::null_mut(), PAGE_SIZE, both, shared, empty.as_raw_fd(), 0) };
    assert_ne!(memory, libc::MAP_FAILED);
    (memory.cast::<u8>().wrapping_add(17), libc::BUS_ADRERR)
}

#[test]
fn the_handler_of_before_gets_what_is_not_ours() {
    let words: Vec<String> = kind_words()
        .iter()
        .flat_map(|kind| ["siginfo", "one argument", "once"].map(|how| format!("{kind} {how}")))
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    alone("the_handler_of_before_gets_what_is_not_ours", &words, |word| {
        let (kind, how) = word.split_once(' ').unwrap();
        let (handler, flags) = match how {
            "siginfo" => (foreign as *const () as usize, libc::SA_SIGINFO | libc::SA_ONSTACK),
            "once" => (foreign as *const () as usize, libc::SA_SIGINFO | libc::SA_RESETHAND),
            _ => (foreign_of_one_argument as *const () as usize, 0),
        };
        for signal in [libc::SIGBUS, libc::SIGSEGV] {
            handle(signal, handler, flags);
        }
        let (region, held) = cold(kind_of(kind), 1000);
        let times = if how == "once" { 1 } else { 3 };
        for (signal, round) in
            [libc::SIGBUS, libc::SIGSEGV].into_iter().flat_map(|s| (0..times).map(move |n| (s, n)))
        {
            same(&region, &held, "beside a foreign handler");
            assert_eq!(FOREIGN_CALLS.swap(0, SeqCst), 0, "called for a page of the region");
            let (address, code) = stray(signal);
            FOREIGN_ADDRESS.store(address as usize, SeqCst);
            assert_eq!(read_byte(address), 0);
            assert_eq!(FOREIGN_CALLS.swap(0, SeqCst), 1, "round {round}");
            assert_eq!(FOREIGN_SIGNAL.load(SeqCst), signal);
            if how != "one argument" {
                assert_eq!(FOREIGN_ADDRESS.load(SeqCst), address as usize);
                assert_eq!(FOREIGN_CODE.load(SeqCst), code);
                // As the kernel would have called it: its own signal blocked, and what its mask says, and no other.
                assert_eq!(FOREIGN_MASK.load(SeqCst), 0b011, "the mask in the foreign handler");
                assert_eq!(
                    blocked(&[signal, libc::SIGUSR1, libc::SIGUSR2]),
                    0,
                    "the mask afterwards"
                );
            }
            freeze(&region, 0..LEN);
        }
        if how == "siginfo" {
            for signal in [libc::SIGBUS, libc::SIGSEGV] {
                // SAFETY: a handler is set.
                unsafe { libc::raise(signal) };
                assert_eq!(FOREIGN_CALLS.swap(0, SeqCst), 1, "a signal that somebody sent");
                assert_eq!(FOREIGN_CODE.load(SeqCst), libc::SI_TKILL);
            }
        }
        same(&region, &held, "beside a foreign handler");
        // The region is dropped, and the handler is still there for what is not ours.
        drop(region);
        let again = |signal: i32| {
            let (address, _) = stray(signal);
            FOREIGN_ADDRESS.store(address as usize, SeqCst);
            read_byte(address)
        };
        if how == "once" {
            // It was called once, and the default is what is left.
            for signal in [libc::SIGBUS, libc::SIGSEGV] {
                let ended = fork(|| i32::from(again(signal)));
                assert_eq!(ended.signal(), Some(signal), "{ended}");
            }
        } else {
            assert_eq!(again(libc::SIGSEGV), 0);
            assert_eq!(FOREIGN_CALLS.swap(0, SeqCst), 1, "after the drop");
        }
    });
}

type Action = extern "C" fn(i32, *mut libc::siginfo_t, *mut c_void);

static OURS: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

/// A handler that was set after the region was built, and chains.
extern "C" fn chains(signal: i32, info: *mut libc::siginfo_t, context: *mut c_void) {
    FOREIGN_CALLS.fetch_add(1, SeqCst);
    let ours = OURS[usize::from(signal == libc::SIGBUS)].load(SeqCst);
    // SAFETY: the number is the handler that was set before, which has this type.
    let ours = unsafe { std::mem::transmute::<usize, Action>(ours) };
    ours(signal, info, context);
}

#[test]
fn a_later_handler_may_chain() {
    alone("a_later_handler_may_chain", &kind_words(), |word| {
        let (region, held) = cold(kind_of(word), 1100);
        for signal in [libc::SIGBUS, libc::SIGSEGV] {
            let old =
                handle(signal, chains as *const () as usize, libc::SA_SIGINFO | libc::SA_NODEFER);
            assert!(old.sa_flags & libc::SA_SIGINFO != 0);
            OURS[usize::from(signal == libc::SIGBUS)].store(old.sa_sigaction, SeqCst);
        }
        same(&region, &held, "through a handler that chains");
        assert!(FOREIGN_CALLS.load(SeqCst) >= PAGES / 16);
        let (other, others) = cold(kind_of(word), 1101);
        same(&other, &others, "a region built after that");
        same(&region, &held, "through a handler that chains");
    });
}

/// Each time, a region that is built afterwards has to put a handler of its own on top again. That works some times,
/// and then it is an error.
#[test]
fn a_handler_that_is_installed_again_and_again() {
    alone("a_handler_that_is_installed_again_and_again", &kind_words(), |word| {
        let kind = kind_of(word);
        let mut regions = Vec::new();
        let error = loop {
            let before: Vec<_> = [libc::SIGBUS, libc::SIGSEGV]
                .into_iter()
                .map(|signal| handle(signal, foreign as *const () as usize, libc::SA_SIGINFO))
                .collect();
            match try_build(kind) {
                Ok(region) => regions.push((fill(&region, 1150), region)),
                Err(error) => {
                    // What was there before goes on.
                    for (signal, old) in [libc::SIGBUS, libc::SIGSEGV].into_iter().zip(before) {
                        // SAFETY: this was the action until a moment ago.
                        let set =
                            unsafe { libc::sigaction(signal, &raw const old, ptr::null_mut()) };
                        assert_eq!(set, 0);
                    }
                    break error;
                }
            }
        };
        assert!(matches!(error, BuildError::Handlers { .. }), "{error:?}");
        assert!(regions.len() >= 4, "only {}", regions.len());
        for (held, region) in &regions {
            freeze(region, 0..LEN);
            same(region, held, "under several handlers");
        }
        assert_eq!(FOREIGN_CALLS.swap(0, SeqCst), 0);
        let (address, _) = stray(libc::SIGSEGV);
        assert_eq!(read_byte(address), 0);
        assert_eq!(FOREIGN_CALLS.load(SeqCst), 1);
    });
}

#[test]
fn a_stray_signal_still_kills() {
    let words: Vec<String> = kind_words()
        .iter()
        .flat_map(|kind| ["default", "ignored", "rust"].map(|before| format!("{kind} {before}")))
        .flat_map(|which| ["SIGBUS", "SIGSEGV"].map(|signal| format!("{which} {signal}")))
        .flat_map(|which| {
            ["touched", "sent", "unmapped", "null"].map(|how| format!("{which} {how}"))
        })
        .collect();
    if let Some(word) = word() {
        let parts: Vec<&str> = word.split(' ').collect();
        let signal = if parts[2] == "SIGBUS" { libc::SIGBUS } else { libc::SIGSEGV };
        for signal in [libc::SIGBUS, libc::SIGSEGV] {
            match parts[1] {
                "default" => drop(handle(signal, libc::SIG_DFL, 0)),
                "ignored" => drop(handle(signal, libc::SIG_IGN, 0)),
                _ => {}
            }
        }
        let (region, held) = cold(kind_of(parts[0]), 1200);
        same(&region, &held, "before the stray signal");
        match parts[3] {
            "touched" => drop(read_byte(stray(signal).0)),
            // SAFETY: the signal has to end the process, or to be ignored.
            "sent" => drop(unsafe { libc::raise(signal) }),
            "null" => drop(read_byte(ptr::without_provenance(16))),
            _ => {
                let memory = map(PAGE_SIZE, libc::PROT_READ);
                // SAFETY: the page is this test's own.
                unsafe { libc::munmap(memory.cast(), PAGE_SIZE) };
                read_byte(memory);
            }
        }
        println!("went on");
        same(&region, &held, "after a signal that is ignored");
        println!("alive");
        return;
    }
    for word in &words {
        let by = if word.contains("SIGBUS") { libc::SIGBUS } else { libc::SIGSEGV };
        if word.contains("SIGBUS") && (word.ends_with("unmapped") || word.ends_with("null")) {
            continue;
        }
        if word.contains("rust") && word.ends_with("sent") {
            // Rust's handler takes it for a fault that comes again, and lets the program go on.
            continue;
        }
        let ended = in_child("a_stray_signal_still_kills", word);
        if word.contains("ignored") && word.ends_with("sent") {
            assert!(ended.status.success() && ended.out.contains("alive"), "{word}: {ended:?}");
        } else {
            ended.died_by(by, word);
            assert!(
                !ended.out.contains("went on"),
                "{word}: only the next fault killed it: {ended:?}"
            );
        }
    }
}

/// Uses more stack with each call, in a way that the compiler keeps.
fn recurse(depth: u64) -> u64 {
    let room = std::hint::black_box([depth; 512]);
    if depth == u64::MAX { 0 } else { recurse(depth + 1) + room[(depth % 512) as usize] }
}

#[test]
fn a_stack_overflow_is_still_reported() {
    if let Some(word) = word() {
        let (thread, kind) = word.split_once(' ').unwrap();
        let (region, held) = cold(kind_of(kind), 1300);
        same(&region, &held, "before the overflow");
        let run = || println!("{}", recurse(0));
        if thread == "here" {
            run();
        } else {
            let run = thread::Builder::new().name("deep".to_owned()).spawn(run).unwrap();
            run.join().unwrap();
        }
        return;
    }
    for kind in kind_words() {
        for thread in ["here", "elsewhere"] {
            let word = format!("{thread} {kind}");
            let ended = in_child("a_stack_overflow_is_still_reported", &word);
            ended.died_by(libc::SIGABRT, &word);
            assert!(ended.err.contains("has overflowed its stack"), "{word}: {ended:?}");
            assert!(thread == "here" || ended.err.contains("deep"), "{word}: {ended:?}");
        }
    }
}

// Many regions.

/// Copies between two regions at random, on several threads, each in pages of its own.
#[test]
fn several_regions_and_both_backends_at_once() {
    let kinds = kinds();
    let regions: Vec<Region> = (0..4).map(|n| region(kinds[n % kinds.len()], PAGES)).collect();
    let mut held: Vec<Vec<u8>> =
        regions.iter().zip(0..).map(|(r, n)| fill(r, 2000 + 1000 * n)).collect();
    const THREADS: usize = 3;
    // Each thread has a column of bytes of every page.
    let copy = |thread: usize, from: usize, to: usize| {
        let offset = |page: usize| page / 4 * PAGE_SIZE + thread * 512 + page % 4 * 100;
        (page_of(from), offset(from % (4 * PAGES)), page_of(to), offset(to % (4 * PAGES)))
    };
    fn page_of(number: usize) -> usize {
        number / (4 * PAGES)
    }
    let steps = |thread: usize| {
        let mut dice = Dice::new(thread as u64 + 50);
        (0..6000).map(move |_| (dice.below(16 * PAGES), dice.below(16 * PAGES)))
    };
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        for region in &regions {
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(SeqCst) {
                    region.advise_cold(0..LEN).unwrap();
                    thread::yield_now();
                }
            });
        }
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let regions = &regions;
                scope.spawn(move || {
                    for (from, to) in steps(thread) {
                        let (r, a, s, b) = copy(thread, from, to);
                        // SAFETY: the ranges are in the regions and belong to this thread; they may be the same.
                        unsafe { ptr::copy(at(&regions[r], a), at(&regions[s], b), 100) };
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    for thread in 0..THREADS {
        for (from, to) in steps(thread) {
            let (r, a, s, b) = copy(thread, from, to);
            let bytes = held[r][a..a + 100].to_vec();
            held[s][b..b + 100].copy_from_slice(&bytes);
        }
    }
    for (region, held) in regions.iter().zip(&held) {
        assert!(faults(region) > 1000, "{:?}", region.stats());
        same(region, held, "after the copies");
    }
}

fn count(directory: &str) -> usize {
    fs::read_dir(directory).unwrap().count()
}

fn lines(file: &str) -> usize {
    fs::read_to_string(file).unwrap().lines().count()
}

#[test]
fn seventy_regions() {
    alone("seventy_regions", &["once"], |_| {
        let kinds = kinds();
        let mut left = Vec::new();
        for round in 0..3 {
            let mut regions: Vec<_> = (0..70)
                .map(|n| {
                    let region = region(kinds[n % kinds.len()], 48);
                    let held = fill(&region, n as u64 * 100);
                    freeze(&region, 0..region.len());
                    (region, held)
                })
                .collect();
            let mut dice = Dice::new(round);
            while !regions.is_empty() {
                let (region, held) = regions.swap_remove(dice.below(regions.len()));
                same(&region, &held, "one of seventy");
                drop(region);
                for (region, held) in regions.iter().take(2) {
                    same(region, held, "one of those that are left");
                    freeze(region, 0..region.len());
                }
            }
            left.push([count("/proc/self/fd"), count("/proc/self/task"), lines("/proc/self/maps")]);
        }
        // What the first round leaves, such as stacks that are kept, the others find again.
        let [first, _, last] = &left[..] else { panic!() };
        assert!(last[0] <= first[0] && last[1] <= first[1], "descriptors and threads: {left:?}");
        assert!(last[2] <= first[2] + 20, "mappings: {left:?}");
    });
}

#[test]
fn regions_come_and_go_beside_a_busy_one() {
    for kind in kinds() {
        let (busy, held) = cold(kind, 3000);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let _stop = Stop(&stop);
            for seed in 0..2 {
                let (busy, held, stop) = (&busy, &held, &stop);
                scope.spawn(move || {
                    let mut dice = Dice::new(seed);
                    while !stop.load(SeqCst) {
                        let offset = dice.below(LEN);
                        assert_eq!(touch(busy, offset), held[offset]);
                    }
                });
            }
            while_evicting(&busy, || {
                for round in 0..60 {
                    for kind in kinds_once() {
                        // With threads of its own, which are at work when it is dropped.
                        let builder =
                            builder(*kind, LEN).resident_bytes(FEW * PAGE_SIZE).background(true);
                        let region = build(builder);
                        let held = fill(&region, round);
                        let offset = Dice::new(round).below(LEN);
                        assert_eq!(touch(&region, offset), held[offset]);
                    }
                }
            });
        });
        same(&busy, &held, "the busy one");
    }
}

fn kinds_once() -> &'static [BackendKind] {
    static KINDS: std::sync::OnceLock<Vec<BackendKind>> = std::sync::OnceLock::new();
    KINDS.get_or_init(kinds)
}

// The advice that the system has about the memory.

/// Returns the flags of the mapping with this address.
fn flags_of(address: usize) -> String {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    for line in smaps.lines() {
        let range = line.split(' ').next().and_then(|word| word.split_once('-'));
        let number = |hex: &str| usize::from_str_radix(hex, 16).ok();
        if let Some((start, end)) =
            range.and_then(|(start, end)| Some((number(start)?, number(end)?)))
        {
            inside = (start..end).contains(&address);
        } else if let (true, Some(flags)) = (inside, line.strip_prefix("VmFlags:")) {
            return flags.to_owned();
        }
    }
    panic!("{address:x} is not mapped");
}

#[test]
fn the_memory_is_left_out_of_forks_and_dumps() {
    for kind in kinds() {
        for dump in [false, true] {
            let region = build(builder(kind, LEN).resident_bytes(FEW * PAGE_SIZE).core_dump(dump));
            fill(&region, 5);
            freeze(&region, 0..LEN / 2);
            for offset in [0, LEN / 2, LEN - 1] {
                let flags = flags_of(at(&region, offset) as usize);
                let has = |flag: &str| flags.split(' ').any(|word| word == flag);
                assert!(has("dc"), "{kind:?}, byte {offset}: children would inherit it: {flags}");
                assert_eq!(has("dd"), !dump, "{kind:?}, byte {offset}: {flags}");
            }
        }
    }
}

/// The program takes pages of the region away from itself. What is in them then is not said, but nothing hangs.
#[test]
fn a_foreign_dontneed_never_hangs() {
    alone("a_foreign_dontneed_never_hangs", &kind_words(), |word| {
        watchdog(60);
        for clean in [CleanPages::Never, CleanPages::Always] {
            let builder =
                builder(kind_of(word), LEN).resident_bytes(FEW * PAGE_SIZE).clean_pages(clean);
            let region = build(builder);
            let mut held = fill(&region, 4000);
            let take_away = |page: usize, pages: usize| {
                // SAFETY: the pages are memory of the region, whose content this test gives up.
                let done = unsafe {
                    libc::madvise(
                        at(&region, page * PAGE_SIZE).cast(),
                        pages * PAGE_SIZE,
                        libc::MADV_DONTNEED,
                    )
                };
                assert_eq!(done, 0);
            };
            // Pages of all kinds, and a range with some of each.
            freeze(&region, 0..LEN);
            for n in [0, 1, 2, 8, 9, 10] {
                touch(&region, n * PAGE_SIZE);
                put(&region, n * PAGE_SIZE + 7, &[1]);
                held[n * PAGE_SIZE + 7] = 1;
            }
            touch(&region, 3 * PAGE_SIZE);
            for (page, pages) in [(0, 1), (3, 1), (40, 1), (8, 40), (0, PAGES)] {
                take_away(page, pages);
                for n in page..page + pages {
                    // It comes back, in some way, and works from then on.
                    touch(&region, n * PAGE_SIZE + 50);
                    let bytes = common::page(4500 + n as u64);
                    put(&region, n * PAGE_SIZE, &bytes);
                    held[n * PAGE_SIZE..][..PAGE_SIZE].copy_from_slice(&bytes);
                }
                same(&region, &held, "after pages were taken away");
            }
            // Evicting what is not there, and pinning it. It does not count as resident for ever.
            take_away(0, PAGES);
            freeze(&region, 0..LEN);
            let stats = region.stats();
            assert!(stats.resident_bytes <= stats.limbo_bytes, "{stats:?}");
            fill(&region, 4100);
            take_away(0, PAGES);
            drop(region.pin(0..4 * PAGE_SIZE).unwrap());
            // All others need the room of those that are not there.
            for n in 0..PAGES {
                touch(&region, n * PAGE_SIZE);
            }
            // While others fault.
            let stop = AtomicBool::new(false);
            thread::scope(|scope| {
                let _stop = Stop(&stop);
                let (region, stop) = (&region, &stop);
                scope.spawn(move || {
                    let mut dice = Dice::new(1);
                    while !stop.load(SeqCst) {
                        touch(region, dice.below(LEN));
                        put(region, dice.below(LEN), &[1]);
                    }
                });
                while_evicting(region, || (0..300).for_each(|n| take_away(n % 200, 20)));
            });
            let held = fill(&region, 4200);
            freeze(&region, 0..LEN);
            same(&region, &held, "after all that");
        }
    });
}

// Memory that runs out.

const BUDGET: usize = 9 << 20;

/// Noise of four times the budget.
fn overfill(region: &Region) {
    for n in 0..region.len() / PAGE_SIZE {
        put(region, n * PAGE_SIZE, &noise(n as u64));
    }
}

fn small(kind: BackendKind) -> zswap_region::RegionBuilder {
    let store = Zswap::builder().compressor("lz4");
    Region::builder().capacity(4 * BUDGET).budget(BUDGET).backend(kind).store(store)
}

#[test]
fn a_fault_without_room_ends_the_process() {
    if let Some(word) = word() {
        let (background, kind) = word.split_once(' ').unwrap();
        let region = build(small(kind_of(kind)).background(background == "true"));
        overfill(&region);
        println!("{:?}", region.stats());
        return;
    }
    for kind in kind_words() {
        for background in [false, true] {
            let word = format!("{background} {kind}");
            let ended = in_child("a_fault_without_room_ends_the_process", &word);
            ended.died_by(libc::SIGABRT, &word);
            let said: Vec<&str> = ended.err.lines().collect();
            let [line] = said[..] else { panic!("{word}: not one line: {said:?}") };
            assert!(
                line.contains("budget") && line.contains(&BUDGET.to_string()),
                "{word}: {line}"
            );
        }
    }
}

#[test]
fn a_fault_without_room_may_exceed() {
    alone("a_fault_without_room_may_exceed", &kind_words(), |word| {
        let region = build(small(kind_of(word)).on_full(OnFull::Exceed));
        overfill(&region);
        let stats = region.stats();
        assert!(stats.exceeded > 0 && stats.memory_bytes > BUDGET, "{stats:?}");
        for n in 0..region.len() / PAGE_SIZE {
            assert!(get(&region, n * PAGE_SIZE, PAGE_SIZE) == noise(n as u64), "page {n}");
        }
        // When there is room again, the budget is kept again.
        // SAFETY: nobody uses the pages.
        unsafe { region.discard(0..region.len()) }.unwrap();
        assert!(region.stats().memory_bytes <= BUDGET, "{:?}", region.stats());
        let held = pages(6000, 1024);
        let before = region.stats().exceeded;
        put(&region, 0, &held);
        same(&region, &held, "after the region was full");
        assert_eq!(region.stats().exceeded, before);
        assert!(region.stats().memory_bytes <= BUDGET, "{:?}", region.stats());
    });
}

/// A page that was evicted in a thread whose signal mask is full of other signals, and in one that is cancelled by a
/// timer all the time: a fault is not interrupted, and errno is kept.
#[test]
fn other_signals_and_errno() {
    extern "C" fn tick(_signal: i32) {
        FOREIGN_CALLS.fetch_add(1, SeqCst);
    }
    alone("other_signals_and_errno", &kind_words(), |word| {
        let (region, held) = cold(kind_of(word), 5000);
        handle(libc::SIGPROF, tick as *const () as usize, 0);
        let often = libc::timeval { tv_sec: 0, tv_usec: 300 };
        let timer = libc::itimerval { it_interval: often, it_value: often };
        // SAFETY: sets a timer whose signal has a handler.
        let set = unsafe { libc::setitimer(libc::ITIMER_PROF, &raw const timer, ptr::null_mut()) };
        assert_eq!(set, 0);
        // The handler's next call fails, and sets errno.
        close_all_descriptors();
        // SAFETY: the address is this thread's errno.
        let errno = unsafe { libc::__errno_location() };
        while FOREIGN_CALLS.load(SeqCst) < 50 {
            for n in 0..PAGES {
                let byte = at(&region, n * PAGE_SIZE);
                // SAFETY: errno is a number of this thread's own.
                unsafe { errno.write_volatile(4242) };
                let there = read_byte(byte);
                // SAFETY: as above.
                let after = unsafe { errno.read_volatile() };
                assert_eq!((there, after), (held[n * PAGE_SIZE], 4242), "page {n}");
            }
            freeze(&region, 0..LEN);
        }
    });
}

/// A region may be shared by reference and dropped by whoever is last.
#[test]
fn the_last_owner_drops() {
    for kind in kinds() {
        let (region, held) = cold(kind, 5500);
        let (region, held) = (Arc::new(region), Arc::new(held));
        let threads: Vec<_> = (0..4)
            .map(|seed| {
                let (region, held) = (region.clone(), held.clone());
                thread::spawn(move || {
                    let mut dice = Dice::new(seed);
                    for _ in 0..500 {
                        let offset = dice.below(LEN);
                        assert_eq!(touch(&region, offset), held[offset]);
                    }
                })
            })
            .collect();
        drop(region);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}
