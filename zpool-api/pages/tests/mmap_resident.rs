//! Measures what `MmapPages` costs the process, as any user of the crate could measure it.
//!
//! One test measures the process in which it runs. So the other tests run in child processes or allocate no
//! pages here.
#![cfg(all(target_os = "linux", not(miri), not(loom)))]
#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's own message")]

use std::fs;
use std::process::Command;
use std::sync::Arc;

use zpool_api::{PageError, PageProvider, PageRun};
use zpool_pages::{MmapOptions, MmapPages, OwnedRun};

const MIB: usize = 1 << 20;

/// Returns the resident and swapped bytes of all mappings that overlap the regions.
fn resident_bytes(regions: &[(usize, usize)]) -> usize {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    let mut kib = 0;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap();
        if let Some((start, end)) = first.split_once('-') {
            let start = usize::from_str_radix(start, 16).unwrap();
            let end = usize::from_str_radix(end, 16).unwrap();
            inside = regions.iter().any(|(at, len)| start < at + len && *at < end);
        } else if inside && (first == "Rss:" || first == "Swap:") {
            kib += words.next().unwrap().parse::<usize>().unwrap();
        }
    }
    kib * 1024
}

fn fill(pages: &MmapPages, run: &mut PageRun, count: usize) {
    run.mark_resident(0..count);
    // SAFETY: these are the first pages of the run, and nobody else uses it.
    unsafe { run.base().as_ptr().write_bytes(0x5A, count * pages.page_size()) };
}

fn free(pages: &MmapPages, run: PageRun) {
    // SAFETY: the run comes from this provider, and no reference to its bytes is left.
    unsafe { pages.free_run(run) };
}

#[test]
fn the_counts_are_the_process_resident_set() {
    let smallest = MmapPages::new().page_size();
    for page_size in [4096, 16384, 65536].into_iter().filter(|size| *size >= smallest) {
        let pages = MmapPages::with_options(MmapOptions::new().page_size(page_size)).unwrap();
        let mut runs = Vec::new();
        let mut touched = 0;
        let mut address_space = 0;
        // Touches half of the pages of each run, rounded up: 1 page of 1, 1 of 2, 2 of 3, and so on.
        while touched * page_size < 32 * MIB {
            let length = runs.len() % 16 + 1;
            let mut run = pages.alloc_run(length).unwrap();
            fill(&pages, &mut run, length.div_ceil(2));
            touched += length.div_ceil(2);
            address_space += length * page_size;
            runs.push(run);
        }
        let regions = pages.regions();
        assert!(regions.iter().map(|(_, len)| len).sum::<usize>() >= address_space);
        assert_eq!(resident_bytes(&regions), touched * page_size, "pages of {page_size}");
        assert_eq!(pages.cached_pages(), 0);

        // Frees every second run. Pages in use and cached pages must remain.
        let (left, gone): (Vec<_>, Vec<_>) =
            runs.into_iter().enumerate().partition(|(n, _)| n % 2 == 0);
        gone.into_iter().for_each(|(_, run)| free(&pages, run));
        let in_use: usize = left.iter().map(|(_, run)| run.resident_pages()).sum();
        let counted = (in_use + pages.cached_pages()) * page_size;
        assert_eq!(resident_bytes(&regions), counted, "pages of {page_size}");

        left.into_iter().for_each(|(_, run)| free(&pages, run));
        let cached = pages.cached_pages();
        assert!(cached > 0 && cached * page_size <= MIB, "{cached} pages of {page_size}");
        assert_eq!(resident_bytes(&regions), cached * page_size);
        assert_eq!(pages.trim(), cached);
        assert_eq!(pages.cached_pages(), 0);
        assert_eq!(resident_bytes(&regions), 0);
        assert_eq!(pages.regions(), regions);
    }
}

#[test]
fn no_address_space_is_an_error_that_passes() {
    // A limit on address space applies to a whole process, so a child gets the limit.
    let tests = std::env::current_exe().unwrap();
    let child = Command::new("sh")
        .args(["-c", "ulimit -v 300000 && exec \"$0\" --ignored --exact in_little_address_space"])
        .arg(tests)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "needs a process with a limited address space, which the test above makes"]
fn in_little_address_space() {
    let pages = Arc::new(MmapPages::new());
    let mut held = Vec::new();
    let refused = loop {
        match pages.alloc_run(16) {
            Ok(run) => held.push(run),
            Err(refused) => break refused,
        }
        assert!(held.len() * 16 * 4096 < 300 * MIB, "the limit is not in effect");
    };
    let PageError::Refused { pages: 16, page_size, reason } = &refused else {
        panic!("{refused:?}");
    };
    assert_eq!(*page_size, pages.page_size());
    assert!(reason.contains("(os error 12)"), "{reason}");
    // The first regions have the usual size. Later ones are smaller and use up the rest of the address
    // space.
    let mut lengths: Vec<usize> = pages.regions().iter().map(|(_, len)| *len).collect();
    lengths.sort_unstable();
    assert!(lengths[lengths.len() - 1] >= 62 * MIB && lengths[0] <= 32 * MIB, "{lengths:?}");
    assert_eq!(lengths.iter().sum::<usize>(), held.len() * 16 * page_size);
    // The provider still works. A block that becomes empty, here the last 2 MiB, serves any length.
    held.split_off(held.len() - 32).into_iter().for_each(|run| free(&pages, run));
    let run = OwnedRun::alloc(pages.clone(), 1).unwrap();
    assert_eq!(run.len(), *page_size);
    assert!(pages.alloc_run(16).is_err());
    drop(run);
    pages.trim();
    held.push(pages.alloc_run(16).unwrap());
    held.into_iter().for_each(|run| free(&pages, run));
}

#[test]
fn locked_memory_costs_the_pages_that_are_touched() {
    // Locking memory affects the whole process, so a child does it.
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "with_future_memory_locked", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
    // The child must report that it skipped the test exactly if this process may not lock memory.
    let skipped = said.contains(MAY_NOT_LOCK);
    assert_eq!(skipped, !may_lock(), "{said}");
}

const MAY_NOT_LOCK: &str = "skipped: this process may not lock 16 MiB";

/// Whether the system lets this process lock as much memory as the test needs.
fn may_lock() -> bool {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call writes only to `limit`, a local variable.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) } == 0;
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    let effective = u64::from_str_radix(effective.trim(), 16).unwrap();
    // The bit of CAP_IPC_LOCK. With this capability, the limit does not apply.
    effective >> 14 & 1 == 1 || known && limit.rlim_cur >= 16 << 20
}

/// Returns the line with the flags of the mapping at an address, as the system shows them, or `None` if
/// nothing is mapped there.
fn flags_at(address: usize) -> Option<String> {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    for line in smaps.lines() {
        let first = line.split_whitespace().next().unwrap();
        if let Some((start, end)) = first.split_once('-') {
            let number = |hex| usize::from_str_radix(hex, 16).unwrap();
            inside = (number(start)..number(end)).contains(&address);
        } else if inside && first == "VmFlags:" {
            return Some(line.to_owned());
        }
    }
    None
}

#[test]
#[ignore = "locks the memory of its process, which the test above makes"]
fn with_future_memory_locked() {
    // SAFETY: locking changes only where this process's memory is kept, not its contents.
    let locked = may_lock() && unsafe { libc::mlockall(libc::MCL_FUTURE) } == 0;
    if !locked {
        println!("{MAY_NOT_LOCK}");
        return;
    }
    let pages = MmapPages::new();
    let page_size = pages.page_size();
    let mut run = pages.alloc_run(4).unwrap();
    let regions = pages.regions();
    assert_eq!(resident_bytes(&regions), 0, "memory before the first touch");
    let flags = flags_at(regions[0].0).unwrap();
    assert!(flags.contains(" lo"), "{flags}");
    fill(&pages, &mut run, 1);
    assert_eq!(resident_bytes(&regions), page_size, "more than the touched page");
    fill(&pages, &mut run, 4);
    // SAFETY: the run comes from this provider, and nobody uses its bytes.
    unsafe { pages.discard(&mut run, 2..4) };
    assert_eq!(resident_bytes(&regions), run.resident_pages() * page_size);
    free(&pages, run);
    assert_eq!(resident_bytes(&regions), pages.cached_pages() * page_size);
    pages.trim();
    // Depending on the kernel, the pages are gone or still counted.
    assert_eq!(resident_bytes(&regions), pages.cached_pages() * page_size);
    let mut release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    release.truncate(release.find('-').unwrap_or(release.trim_end().len()));
    let version: Vec<u32> = release.split('.').filter_map(|part| part.parse().ok()).collect();
    if version >= vec![5, 18] {
        assert_eq!(pages.cached_pages(), 0, "Linux {release} took nothing back");
    }
    // Memory that is freed in batches must go, too.
    let mut runs: Vec<PageRun> = (0..200).map(|_| pages.alloc_run(1).unwrap()).collect();
    runs.iter_mut().for_each(|run| fill(&pages, run, 1));
    runs.into_iter().for_each(|run| free(&pages, run));
    assert_eq!(resident_bytes(&pages.regions()), pages.cached_pages() * page_size);
}
