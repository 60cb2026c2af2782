//! Gives a disk memory that the process may not touch, as a handler of page faults has it. No slot is locked while
//! the disk touches the caller's memory.
#![cfg(all(target_os = "linux", not(miri)))]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a signal handler; a failure in a test's helper is the test's own message"
)]

use std::mem::MaybeUninit;
use std::panic::catch_unwind;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::SeqCst};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use zpool_base::lockdep::might_sleep;
use zpool_base::sync::test_rng::Rng;
use zram::{PAGE_SIZE, Zram};

static DISK: OnceLock<Zram> = OnceLock::new();
static MEMORY: AtomicPtr<u8> = AtomicPtr::new(null_mut());
static FAULTS: AtomicUsize = AtomicUsize::new(0);
static UNDER_A_LOCK: AtomicUsize = AtomicUsize::new(0);
/// The number of the page of the disk that the interrupted call uses.
static PAGE: AtomicUsize = AtomicUsize::new(0);

fn protect(access: i32) {
    // SAFETY: the range is the mapping that `map` made, which is never unmapped.
    let done = unsafe { libc::mprotect(MEMORY.load(SeqCst).cast(), PAGE_SIZE, access) };
    assert_eq!(done, 0);
}

/// Handles a fault: checks that another thread can lock the slot, then makes the memory accessible.
extern "C" fn on_segv(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the system passes a valid `siginfo_t`.
    let info = unsafe { &*info };
    // SAFETY: `si_addr` is set for SIGSEGV.
    let address = unsafe { info.si_addr() }.addr();
    let start = MEMORY.load(SeqCst).addr();
    if !(start..start + PAGE_SIZE).contains(&address) {
        std::process::abort();
    }
    FAULTS.fetch_add(1, SeqCst);
    let checked = catch_unwind(|| {
        might_sleep("a fault");
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let at = (PAGE.load(SeqCst) * PAGE_SIZE) as u64;
            DISK.get().unwrap().read(at, &mut [0]).unwrap();
            let _ = tell.send(());
        });
        told.recv_timeout(Duration::from_secs(10)).unwrap();
    });
    if checked.is_err() {
        UNDER_A_LOCK.fetch_add(1, SeqCst);
    }
    protect(libc::PROT_READ | libc::PROT_WRITE);
}

fn map() {
    let (access, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping, anywhere.
    let memory = unsafe { libc::mmap(null_mut(), PAGE_SIZE, access, flags, -1, 0) };
    assert_ne!(memory, libc::MAP_FAILED);
    MEMORY.store(memory.cast(), SeqCst);
    // SAFETY: all-zero bytes are a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = on_segv as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
    // SAFETY: the handler has the signature that SA_SIGINFO asks for, and lives as long as the program.
    let done = unsafe { libc::sigaction(libc::SIGSEGV, &raw const action, null_mut()) };
    assert_eq!(done, 0);
}

/// Calls `call` with `len` bytes, the first access to which is a fault.
fn within_fault<T>(what: &str, len: usize, call: impl FnOnce(&mut [u8]) -> T) -> T {
    protect(libc::PROT_NONE);
    FAULTS.store(0, SeqCst);
    // SAFETY: the mapping has at least this length, and is used by this thread alone, by one call at a time. It is
    // made accessible at the first access.
    let bytes = unsafe { core::slice::from_raw_parts_mut(MEMORY.load(SeqCst), len) };
    let done = call(bytes);
    assert!(FAULTS.load(SeqCst) > 0, "{what}: no fault");
    assert_eq!(UNDER_A_LOCK.swap(0, SeqCst), 0, "{what}: a fault under a lock");
    done
}

/// One test, since a process has one handler.
#[test]
fn no_slot_is_locked_while_the_callers_memory_is_touched() {
    let disk = Zram::builder().disksize(1 << 20).algorithm("lz4").build().unwrap();
    let disk = DISK.get_or_init(|| disk);
    map();
    let (mut noise, mut text) = ([0; PAGE_SIZE], [0; PAGE_SIZE]);
    let mut rng = Rng::new(7);
    noise.iter_mut().for_each(|byte| *byte = rng.next() as u8);
    text.iter_mut().enumerate().for_each(|(n, byte)| *byte = (n % 251) as u8);
    let mut word = [0; PAGE_SIZE];
    word.chunks_exact_mut(8).for_each(|bytes| bytes.copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]));
    // The last page was never written, nor was any of its chunk before.
    for (n, content) in [noise, text, word, [3; PAGE_SIZE], [0; PAGE_SIZE]].iter().enumerate() {
        PAGE.store(n, SeqCst);
        let (at, what) = ((n * PAGE_SIZE) as u64, format!("page {n}"));
        let fill = || {
            protect(libc::PROT_READ | libc::PROT_WRITE);
            // SAFETY: as in `within_fault`.
            let memory = unsafe { core::slice::from_raw_parts_mut(MEMORY.load(SeqCst), PAGE_SIZE) };
            memory.copy_from_slice(content);
        };
        let same = |from: usize, len: usize| {
            within_fault(&format!("read, {what}"), len, |bytes| {
                disk.read(at + from as u64, bytes).unwrap();
                assert!(*bytes == content[from..from + len], "{what}");
            });
        };
        if n == 4 {
            same(0, PAGE_SIZE);
            same(7, 100);
        }
        fill();
        within_fault(&format!("write, {what}"), PAGE_SIZE, |bytes| disk.write(at, bytes)).unwrap();
        same(0, PAGE_SIZE);
        same(7, 100);
        fill();
        within_fault(&format!("write of a part, {what}"), 100, |bytes| disk.write(at, bytes))
            .unwrap();
        same(0, PAGE_SIZE);
        disk.discard(at, PAGE_SIZE as u64).unwrap();
        within_fault(&format!("read of nothing, {what}"), PAGE_SIZE, |bytes| {
            disk.read(at, bytes).unwrap();
            assert!(*bytes == [0; PAGE_SIZE]);
        });
        within_fault(&format!("write of a part of nothing, {what}"), 100, |bytes| {
            disk.write(at, bytes)
        })
        .unwrap();
    }
}
