//! Trials of faults in the disk's memory accounting, in recompression, and after a fork.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use zpage::device::{DeviceError, Geometry, SwapDevice};
use zram::{PAGE_SIZE, Recompress, Writeback, Zram};

use crate::Seen;
use crate::pages::{page_of, resident_kib};

fn at(page: u64) -> u64 {
    page * PAGE_SIZE as u64
}

/// Tests whether a disk at its `mem_limit` refuses a page that is no larger than the page that it
/// would replace.
pub fn an_overwrite_at_the_limit_is_refused() -> Seen {
    let disk = Zram::builder().disksize(at(4000)).mem_limit(2 << 20).build().expect("a disk");
    let written = (0..4000).take_while(|n| disk.write(at(*n), &page_of(*n, 1500)).is_ok()).count();
    let refused = (0..written as u64).filter(|n| disk.write(at(*n), &page_of(*n, 1500)).is_err());
    let refused = refused.count();
    Seen::new(refused > 0, format!("{refused} of {written} equal overwrites were refused"))
}

/// Tests whether the slots of discarded pages keep their memory. No limit counts that memory.
pub fn memory_of_discarded_slots_stays() -> Seen {
    let pages = 1 << 22;
    let disk = Zram::builder().disksize(at(pages)).mem_limit(1 << 20).build().expect("a disk");
    let before = disk.metadata_bytes();
    for n in (0..pages).step_by(512) {
        disk.write(at(n), &[0]).expect("a zero takes no pool memory");
    }
    let most = disk.metadata_bytes() - before;
    disk.discard(0, at(pages)).expect("the disk's own range");
    disk.reset();
    let left = disk.metadata_bytes() - before;
    Seen::new(left > most / 10, format!("{} KiB of {} KiB of slots stay", left >> 10, most >> 10))
}

/// Tests whether the table of an empty disk of 16 TiB takes resident memory.
pub fn an_empty_disk_takes_memory() -> Seen {
    let before = resident_kib();
    let disk = Zram::builder().disksize(16 << 40).build().expect("a disk");
    let grown = resident_kib() - before;
    drop(disk);
    Seen::new(grown > 1024, format!("16 TiB without a page: {grown} KiB resident"))
}

/// Tests whether `mm_stat` reports a total above its maximum. This happens if only the total counts
/// warm pages.
pub fn the_total_is_above_the_maximum() -> Seen {
    let disk = Zram::builder().disksize(at(2000)).build().expect("a disk");
    for n in 0..2000 {
        disk.write(at(n), &page_of(n, 1500)).expect("room");
    }
    disk.discard(0, at(2000)).expect("the disk's own range");
    disk.reset_mem_used_max();
    let stat = disk.mm_stat();
    let what =
        format!("mem_used_total {}, mem_used_max {}", stat.mem_used_total, stat.mem_used_max);
    Seen::new(stat.mem_used_total > stat.mem_used_max, what)
}

/// Tests whether `recompress` does not find an algorithm by the spec that the disk was built with.
pub fn recompression_is_not_found_by_its_spec() -> Seen {
    let lost = ["zstd:level=3", "deflate:level=6", "lz4hc:level=9"].iter().filter(|spec| {
        let disk = Zram::builder().disksize(at(64)).recompression(spec).build();
        disk.expect("a disk").recompress(&Recompress::new().algorithm(spec)).is_err()
    });
    let lost: Vec<_> = lost.collect();
    Seen::new(
        !lost.is_empty(),
        format!("not found by the text that the disk was built with: {lost:?}"),
    )
}

/// Tests whether recompression saves no memory. This happens if the smaller objects take as many
/// pages as the old ones. Here no two of them fit into one page of zbud.
pub fn recompression_wins_no_memory() -> Seen {
    let pages = 4000;
    let disk = Zram::builder().disksize(at(pages)).zpool("zbud").algorithm("lz4");
    let disk = disk.recompression("lz4hc").build().expect("a disk");
    for n in 0..pages {
        disk.write(at(n), &page_of(n, 2500)).expect("room");
    }
    disk.trim();
    let before = disk.mm_stat().mem_used_total;
    let done = disk.recompress(&Recompress::new()).expect("an algorithm to recompress with");
    disk.trim();
    let after = disk.mm_stat().mem_used_total;
    let fault = done.recompressed > 0 && after >= before;
    Seen::new(
        fault,
        format!("{} pages recompressed, {before} bytes before, {after} after", done.recompressed),
    )
}

/// A device on which every write takes two seconds.
#[derive(Debug, Default)]
struct Slow(AtomicBool);

impl SwapDevice for Slow {
    fn geometry(&self) -> Geometry {
        Geometry::of_pages(10)
    }
    fn write_segment(&self, _: u64, _: &[u8]) -> Result<(), DeviceError> {
        self.0.store(true, Ordering::SeqCst);
        thread::sleep(Duration::from_secs(2));
        Ok(())
    }
    fn read(&self, segment: u64, _: usize, _: &mut [u8]) -> Result<(), DeviceError> {
        Err(DeviceError::Missing { segment })
    }
}

/// Tests whether a disk in the child of a `fork` waits for ever. It does if a thread of the parent
/// had locked the slot that the child reads.
pub fn a_child_waits_for_ever() -> Seen {
    let device = Arc::new(Slow::default());
    let disk = Zram::builder().disksize(at(4)).backing_device(device.clone()).build();
    let disk = disk.expect("a disk");
    disk.write(0, &page_of(1, 1500)).expect("room");
    let status = thread::scope(|scope| {
        scope.spawn(|| disk.writeback(&Writeback::new()));
        while !device.0.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        // SAFETY: the child only sets an alarm, reads a page of the disk and exits. It runs no
        // other code of the parent.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: the call only sets an alarm. Its signal ends a child that waits for ever.
            unsafe { libc::alarm(5) };
            drop(disk.read(0, &mut [0; PAGE_SIZE]));
            // SAFETY: the call only ends the child, without running any code at exit.
            unsafe { libc::_exit(0) };
        }
        let mut status = 0;
        // SAFETY: `child` is a child of this process, and `status` is a local variable.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        status
    });
    let waited = libc::WIFSIGNALED(status);
    Seen::new(waited, format!("a read in the child waited for ever: {waited}"))
}
