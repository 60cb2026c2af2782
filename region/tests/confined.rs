//! Regions of processes that may do little: without privileges, and under Docker's default seccomp profile.
#![cfg(all(
    target_os = "linux",
    not(miri),
    not(loom),
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "system calls; a failure in a test's helper is the test's own message"
)]

mod common;

use std::fs;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use common::docker::Filter;
use common::*;
use zswap_core::{PAGE_SIZE, Zswap};
use zswap_region::{BackendKind, BuildError, Region, RegionBuilder};

const PAGES: usize = 1024;
const LEN: usize = PAGES * PAGE_SIZE;
const WORDS: usize = LEN / 8;
const NOBODY: u32 = 65534;

/// Calls that neither backend, or not this one, may need.
const SPECIAL: &[i64] = &[
    libc::SYS_userfaultfd,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_process_madvise,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_bpf,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_mlock,
    libc::SYS_mlock2,
];

fn unconfined() -> RegionBuilder {
    Region::builder()
        .capacity(LEN)
        .resident_bytes(LEN / 4)
        .store(Zswap::builder().compressor("lz4"))
}

fn try_build(builder: RegionBuilder) -> Result<Region, BuildError> {
    // SAFETY: as in `common::build`.
    unsafe { builder.build() }
}

/// Three threads own interleaved words of all pages, write them, and check each that they read, for so long, while an
/// evictor takes pages. Then all words are checked.
fn stress(region: &Region, time: Duration) {
    const THREADS: usize = 3;
    let before = faults(region);
    let base = region.as_ptr().cast::<u64>() as usize;
    let word = |index: usize| (base as *mut u64).wrapping_add(index);
    let read = |index: usize| {
        assert!(index < WORDS);
        // SAFETY: the word is in the region, and belongs to the thread that reads it.
        unsafe { word(index).read_volatile() }
    };
    let write = |index: usize, value: u64| {
        assert!(index < WORDS);
        // SAFETY: as above.
        unsafe { word(index).write_volatile(value) };
    };
    let operations = AtomicUsize::new(0);
    let held: Vec<Vec<u64>> = while_evicting(region, || {
        thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let operations = &operations;
                    scope.spawn(move || {
                        let mut dice = Dice::new(thread as u64 + 1);
                        let mut held: Vec<u64> =
                            (thread..WORDS).step_by(THREADS).map(read).collect();
                        let begun = Instant::now();
                        let mut done = 0;
                        while begun.elapsed() < time {
                            let n = dice.below(held.len());
                            let index = n * THREADS + thread;
                            assert_eq!(read(index), held[n], "word {index}");
                            if dice.below(2) == 0 {
                                held[n] = dice.roll();
                                write(index, held[n]);
                            }
                            done += 1;
                        }
                        operations.fetch_add(done, SeqCst);
                        held
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    });
    for (thread, held) in held.iter().enumerate() {
        for (n, value) in held.iter().enumerate() {
            assert_eq!(
                read(n * THREADS + thread),
                *value,
                "at the end: word {n} of thread {thread}"
            );
        }
    }
    let faults = faults(region) - before;
    println!("{} operations, {faults} faults", operations.load(SeqCst));
    assert!(faults > 500, "{:?}", region.stats());
}

const A_WHILE: Duration = Duration::from_secs(2);

/// Becomes nobody, without capabilities, for ever. What this does is what a container's runtime does before it starts
/// the program.
fn drop_privileges(user: u32) {
    let ok = |done: i32| assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: changes no memory, and so below.
    ok(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) });
    // SAFETY: as above. Fails behind the last capability.
    (0..64)
        .take_while(|n| unsafe { libc::prctl(libc::PR_CAPBSET_DROP, *n, 0, 0, 0) } == 0)
        .for_each(drop);
    let limit = libc::rlimit { rlim_cur: 64 << 10, rlim_max: 64 << 10 };
    // SAFETY: as above.
    ok(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) });
    if user != 0 {
        // SAFETY: as above.
        ok(unsafe { libc::setgroups(0, ptr::null()) });
        // SAFETY: as above.
        ok(unsafe { libc::setresgid(user, user, user) });
        // SAFETY: as above.
        ok(unsafe { libc::setresuid(user, user, user) });
        // As after exec: the files of this process in /proc belong to the new user.
        // SAFETY: as above.
        ok(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) });
    } else {
        // The header of version 3 of `capset` for this thread, and three empty sets of two words.
        let (header, none) = ([0x2008_0522_u32, 0], [0_u32; 6]);
        // SAFETY: the call reads the two arrays, which have the lengths of this version.
        let done = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
        ok(done as i32);
    }
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned()
    };
    for set in ["CapEff:", "CapPrm:", "CapBnd:", "CapInh:", "CapAmb:"] {
        assert_eq!(u64::from_str_radix(&line(set), 16).unwrap(), 0, "{set}");
    }
    assert!(line("Uid:").split_whitespace().all(|uid| uid == user.to_string()));
}

/// Returns whether this process may drop privileges. Says so if not.
fn may_drop() -> bool {
    // SAFETY: asks for a number.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        not_run("becoming another user, which only root may");
    }
    root
}

#[test]
fn without_privileges() {
    if word().is_none() && !may_drop() {
        return;
    }
    let words: Vec<_> = kind_words().into_iter().chain(["default"]).collect();
    alone("without_privileges", &words, |word| {
        drop_privileges(NOBODY);
        // SAFETY: the call fails.
        assert_eq!(errno(unsafe { libc::setuid(0) } as isize), Err(libc::EPERM));
        // What can be had without privileges is asked again: the answer may be another one.
        let kinds = kinds();
        let (builder, wanted) = match word {
            "default" => (unconfined(), kinds[0]),
            word => (unconfined().backend(kind_of(word)), kind_of(word)),
        };
        if !kinds.contains(&wanted) {
            return not_run(&format!("{word} for nobody"));
        }
        let region = build(builder);
        assert_eq!(region.backend().kind, wanted, "{}", region.backend().why);
        stress(&region, A_WHILE);
    });
}

/// What the profile denies is denied, and what it allows is allowed, in this process now.
fn check_the_profile() {
    let call = |number: i64, first: u64, second: u64| {
        // SAFETY: each of these calls fails, or changes no memory.
        errno(unsafe { libc::syscall(number, first, second, 0_u64, 0_u64, 0_u64, 0_u64) } as isize)
    };
    let denied = Err(libc::EPERM);
    for number in [
        libc::SYS_userfaultfd,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_process_madvise,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_bpf,
        libc::SYS_mount,
        libc::SYS_perf_event_open,
        libc::SYS_kcmp,
        libc::SYS_mbind,
    ] {
        assert_eq!(call(number, 1, 0), denied, "call {number}");
    }
    assert_eq!(call(libc::SYS_unshare, libc::CLONE_FILES as u64, 0), denied);
    assert_eq!(call(libc::SYS_clone, libc::CLONE_NEWUSER as u64, 0), denied);
    assert_eq!(call(libc::SYS_clone3, 0, 0), Err(libc::ENOSYS));
    assert_eq!(call(libc::SYS_socket, libc::AF_VSOCK as u64, libc::SOCK_STREAM as u64), denied);
    assert_eq!(call(libc::SYS_socket, libc::AF_ALG as u64, libc::SOCK_SEQPACKET as u64), denied);
    let socket = call(libc::SYS_socket, libc::AF_UNIX as u64, libc::SOCK_STREAM as u64);
    assert_eq!(call(libc::SYS_close, socket.unwrap() as u64, 0), Ok(0));
    assert!(call(libc::SYS_personality, 0xffff_ffff, 0).is_ok());
    assert_eq!(call(libc::SYS_personality, libc::ADDR_NO_RANDOMIZE as u64, 0), denied);
}

#[test]
fn under_dockers_default_profile() {
    if kernel_can_guard().is_err() {
        return not_run("guard pages in a container, which this kernel refuses");
    }
    let users: &[&str] =
        if word().is_some() || may_drop() { &["root", "nobody"] } else { &["self"] };
    let words: Vec<String> = users
        .iter()
        .flat_map(|user| {
            ["default", "guard", "move", "closed"].map(|what| format!("{user} {what}"))
        })
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    alone("under_dockers_default_profile", &words, |word| {
        let (user, what) = word.split_once(' ').unwrap();
        match user {
            "root" => drop_privileges(0),
            "nobody" => drop_privileges(NOBODY),
            _ => {}
        }
        Filter::of_docker().install().unwrap();
        check_the_profile();
        if what == "move" {
            let error = try_build(unconfined().backend(BackendKind::Move)).unwrap_err();
            assert!(matches!(error, BuildError::Unsupported { .. }), "{error:?}");
            let text = error.to_string();
            assert!(text.contains("userfaultfd") && text.contains("seccomp"), "{text}");
            return;
        }
        let builder = unconfined();
        let region =
            build(if what == "guard" { builder.backend(BackendKind::Guard) } else { builder });
        assert_eq!(region.backend().kind, BackendKind::Guard, "{}", region.backend().why);
        if what != "guard" {
            let why = &region.backend().why;
            assert!(why.contains("userfaultfd") && why.contains("seccomp"), "{why}");
        }
        if what == "closed" {
            // SAFETY: nothing of this process uses descriptors from 3 on; that the region does not, is tested here.
            assert_eq!(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) }, 0);
        }
        stress(&region, A_WHILE);
    });
}

/// The backend of containers does not even try what containers forbid: the first such call would end the process.
#[test]
fn guard_asks_for_nothing_special() {
    if kernel_can_guard().is_err() {
        return not_run("guard pages, which this kernel refuses");
    }
    alone("guard_asks_for_nothing_special", &["once"], |_| {
        let kinds = Filter::deadly(SPECIAL).install();
        kinds.unwrap();
        let region = build(unconfined().backend(BackendKind::Guard));
        stress(&region, A_WHILE / 4);
        drop(region);
    });
}

/// Such a filter ends a process. Otherwise the test above would prove nothing.
#[test]
fn the_deadly_filter_is_deadly() {
    if word().is_some() {
        Filter::deadly(SPECIAL).install().unwrap();
        // SAFETY: ends the process.
        unsafe { libc::unshare(libc::CLONE_FILES) };
        return;
    }
    in_child("the_deadly_filter_is_deadly", "once")
        .died_by(libc::SIGSYS, "unshare under the filter");
}

/// A filter may allow userfaultfd and deny `unshare`, which keeps the descriptor from being closed.
#[test]
fn where_only_unshare_is_denied() {
    if kinds().len() < 2 {
        return;
    }
    alone("where_only_unshare_is_denied", &["default", "move"], |word| {
        Filter::without(&[libc::SYS_unshare]).install().unwrap();
        if word == "move" {
            let error = try_build(unconfined().backend(BackendKind::Move)).unwrap_err();
            assert!(matches!(error, BuildError::Unsupported { .. }), "{error:?}");
            assert!(error.to_string().contains("unshare"), "{error}");
            return;
        }
        let region = build(unconfined());
        assert_eq!(region.backend().kind, BackendKind::Guard);
        assert!(region.backend().why.contains("unshare"), "{}", region.backend().why);
        stress(&region, A_WHILE / 4);
    });
}

/// A process may lock itself in after it has built a region: then neither backend needs more than Docker allows.
#[test]
fn locked_in_later() {
    alone("locked_in_later", &kind_words(), |word| {
        let region = build(unconfined().backend(kind_of(word)));
        fill(&region, 1);
        freeze(&region, 0..LEN);
        Filter::of_docker().install().unwrap();
        check_the_profile();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let _stop = Stop(&stop);
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    let pinned = region.pin(0..10).unwrap();
                    assert_eq!(pinned.len(), 10);
                }
            });
            stress(&region, A_WHILE / 2);
        });
        drop(region);
    });
}
