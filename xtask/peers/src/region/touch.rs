//! Touches of pages that are not there, timed one by one, for the region and for the kernel alike.

use std::hint::black_box;
use std::time::Instant;

use measure::{Clock, Laps, Page};
use rustix::time::{ClockId, clock_gettime};

use super::figures::Figures;
use super::memory::Memory;
use crate::error::{Error, Result};

/// Returns which page of all others is the `n`-th that is used.
pub(crate) fn dense(n: usize) -> usize {
    n
}

/// Returns the processor time of this thread in nanoseconds.
pub(crate) fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// The pages that are touched.
pub(crate) struct Touched<'a> {
    pub(crate) memory: &'a Memory,
    pub(crate) place: fn(usize) -> usize,
    /// What they hold, if that is checked.
    pub(crate) pages: Option<&'a [Page]>,
    pub(crate) order: &'a [usize],
}

/// Touches all pages in random order, adds the times to the figures, and checks the pages.
pub(crate) fn fault_all(
    touched: &Touched<'_>,
    laps: &mut Laps,
    clock: Clock,
    name: &str,
    figures: &mut Figures,
) -> Result<()> {
    let &Touched { memory, place, pages, order } = touched;
    let (wall, before) = (Instant::now(), cpu());
    laps.start();
    for &page in order {
        black_box(memory.read(place(page), 0));
        laps.lap();
    }
    let spent = cpu() - before;
    if let Some(times) = laps.summary(clock, wall.elapsed()) {
        figures.add(format!("{name}: fault"), times.p50);
        figures.add(format!("{name}: fault, p99"), times.p99);
        figures.add(format!("{name}: fault, CPU mean"), spent / order.len() as f64 - clock.cost);
    }
    pages.map_or(Ok(()), |pages| check(memory, pages, place, "in a fault"))
}

/// Checks every page that is used.
pub(crate) fn check(
    memory: &Memory,
    pages: &[Page],
    place: fn(usize) -> usize,
    when: &'static str,
) -> Result<()> {
    match pages.iter().enumerate().find(|&(n, page)| memory.copy(place(n)) != *page) {
        Some((page, _)) => Err(Error::Changed { page, when }),
        None => Ok(()),
    }
}
