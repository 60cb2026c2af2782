//! A sample of a running process's memory: its resident private anonymous pages, copied while the
//! process is stopped.
//!
//! A sample does *not* contain:
//! * shared memory;
//! * file contents that were never written to;
//! * the main stack;
//! * a mapping that a thread's stack pointer is in;
//! * a mapping that maps no file and begins right above an inaccessible mapping of up to 1 MiB, and
//!   any mapping that contains a guard page: it may be the stack of an ended thread, kept for reuse;
//! * the initial arguments and environment.
//!
//! If a stack shares a mapping with other memory, that memory is left out, too.
//!
//! A sample may contain what cannot be distinguished from data: stacks that a program keeps in its
//! heap (fibres, goroutines, a signal stack from malloc), and copies of the environment (`setenv`
//! makes them on the heap).
//!
//! The target's memory is only read. When this process ends, however it ends, the kernel releases
//! the target, which continues where it was.

#[cfg(target_os = "linux")]
mod choose;
#[cfg(target_os = "linux")]
mod copy;
mod error;
#[cfg(target_os = "linux")]
mod held;
#[cfg(target_os = "linux")]
mod maps;
#[cfg(target_os = "linux")]
mod pagemap;
#[cfg(target_os = "linux")]
mod ptrace;
mod save;
#[cfg(target_os = "linux")]
mod status;

use std::time::Duration;

use measure::Pages;

pub(crate) use error::SampleError;
pub(crate) use save::save;

/// Pages of a process, and facts about how they were sampled.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) pages: Pages,
    pub(crate) facts: Facts,
}

/// What a report says about a sample.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Facts {
    pub(crate) pid: i32,
    /// The process's name, as `/proc/PID/comm` has it.
    pub(crate) comm: String,
    /// Resident private anonymous pages that are eligible for a sample.
    pub(crate) eligible_pages: u64,
    /// Threads that were stopped.
    pub(crate) threads: usize,
    /// Time from the first request to stop until the last thread was released.
    pub(crate) stopped: Duration,
}

impl Facts {
    /// Returns the process's number and name, in words.
    pub(crate) fn process(&self) -> String {
        format!("process {} ({})", self.pid, self.comm)
    }
}

/// Copies pages of process `pid`: at most `pages_max` pages and at most `limit` bytes. Copies all
/// eligible pages if they fit; otherwise as many runs of 16 pages as fit, spread evenly over the
/// eligible ones. Fails with [`SampleError::NoPages`] if it copies no page, for instance because not
/// even one run fits.
#[cfg(target_os = "linux")]
pub(crate) fn sample(pid: i32, pages_max: usize, limit: u64) -> Result<Sample, SampleError> {
    status::check(pid)?;
    let page_size = rustix::param::page_size();
    if page_size != zswap_core::PAGE_SIZE {
        return Err(SampleError::PageSize { page_size });
    }
    let pages_max = pages_max.min(usize::try_from(limit).unwrap_or(usize::MAX) / page_size);

    // Everything slow happens before the target is stopped: finding the pages, and allocating the
    // memory for their copies.
    let pagemap = pagemap::Pagemap::open(pid)?;
    let eligible = eligible(pid, &pagemap, &[])?;
    let eligible_pages = choose::count(&eligible);
    let runs = choose::spread(&eligible, pages_max);
    if runs.is_empty() {
        return Err(SampleError::NoPages { pid });
    }
    let mut copies = copy::Copies::with_room_for(choose::count(&runs))?;

    let held = held::Held::attach(pid)?;
    let result = (|| {
        // Planned pages may have disappeared or become a stack in the meantime.
        let now =
            maps::eligible(&maps::read(pid)?, &held.stack_pointers()?, &status::initial(pid)?);
        for run in &runs {
            for part in maps::within(&now, *run) {
                copies.copy(pid, part, &pagemap)?;
            }
        }
        Ok(())
    })();
    let threads = held.threads();
    let stopped = held.release();
    result?;
    let pages = copies.into_pages();
    if pages.is_empty() {
        return Err(SampleError::NoPages { pid });
    }
    let comm = status::comm(pid);
    Ok(Sample { pages, facts: Facts { pid, comm, eligible_pages, threads, stopped } })
}

/// Returns the resident private anonymous pages that may be sampled, in order of address.
#[cfg(target_os = "linux")]
fn eligible(
    pid: i32,
    pagemap: &pagemap::Pagemap,
    stack_pointers: &[u64],
) -> Result<Vec<choose::Extent>, SampleError> {
    let mut extents = Vec::new();
    for area in maps::eligible(&maps::read(pid)?, stack_pointers, &status::initial(pid)?) {
        pagemap.resident(area, &mut extents)?;
    }
    Ok(extents)
}

/// Always fails: only Linux has the interfaces that a sample needs.
#[cfg(not(target_os = "linux"))]
pub(crate) fn sample(pid: i32, _pages_max: usize, _limit: u64) -> Result<Sample, SampleError> {
    Err(SampleError::Unsupported { pid })
}
