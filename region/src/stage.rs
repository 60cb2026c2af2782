//! Stages: what a thread needs while it works on a region. Each has a stack for the handler, and buffers for pages. A
//! region has 1 to 64, according to its limit; a thread that finds none free waits.

use core::slice;
use std::io;

use crate::engine::Buffers;
use crate::number::Number;
use crate::streams::{WINDOW, longest};
use crate::sync;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sys::{Memory, check};
use zswap_core::PAGE_SIZE;

const STAGES: usize = 64;
const LEAST_STAGES: usize = 1;
/// Half a page for the codec with the deepest stack would do in a release build; the rest is for debug builds, and for
/// devices and codecs of the program.
const STACK: usize = 256 << 10;
/// Bytes of the longest window: 16 pages of 4096 bytes, or fewer larger ones.
const WINDOW_BYTES: usize = WINDOW * PAGE_SIZE;

/// Returns the bytes of a stage's mapping: the page below its stack, the stack, a window, and a page to compress.
const fn len(unit: usize) -> usize {
    PAGE_SIZE + STACK + WINDOW_BYTES + unit
}

/// Returns what a stage counts for: its pages, and what its stack usually touches.
const fn counted(unit: usize) -> usize {
    WINDOW_BYTES + unit + 16 * 1024
}

/// The stages of a region.
#[derive(Debug)]
pub(crate) struct Stages {
    memory: Memory,
    /// Bytes of a page of the region.
    unit: usize,
    /// One bit for each stage that is free.
    free: AtomicU64,
    /// Changes when a stage becomes free while none was.
    freed: AtomicU32,
    /// How many stages were ever used: the lowest ones.
    used: Number,
}

/// A stage that a thread has until this is dropped.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    stages: &'a Stages,
    number: usize,
}

/// Returns how many stages a region has with a limit of `limit` bytes.
fn number(limit: usize, unit: usize) -> usize {
    (limit / 8 / counted(unit)).clamp(LEAST_STAGES, STAGES)
}

/// Returns the bytes that the stages of such a region count for when all are in use.
pub(crate) fn bytes_of_all(limit: usize, unit: usize) -> usize {
    number(limit, unit) * counted(unit)
}

impl Stages {
    /// Makes as many stages as an eighth of `limit` bytes allows.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn new(limit: usize, unit: usize, dump: bool) -> io::Result<Stages> {
        let stages = number(limit, unit);
        let memory = Memory::private(STAGES, len(unit), dump)?;
        for stage in 0..STAGES {
            let lowest = memory.page(stage);
            // SAFETY: nobody uses the mapping yet. The page below each stack stays without access.
            check(unsafe { libc::mprotect(lowest.cast(), PAGE_SIZE, libc::PROT_NONE) })?;
        }
        Ok(Stages {
            memory,
            unit,
            free: AtomicU64::new(u64::MAX >> (STAGES - stages)),
            freed: AtomicU32::new(0),
            used: Number::new(0),
        })
    }

    /// Takes a stage, the lowest that is free. Waits if none is.
    pub(crate) fn take(&self) -> Stage<'_> {
        loop {
            // SeqCst, here and when a stage becomes free: a thread that finds none reads `freed` before it looks
            // again, and who frees one changes `freed` after it.
            let epoch = self.freed.load(Ordering::SeqCst);
            let lowest = |free: u64| (free != 0).then(|| free & (free - 1));
            match self.free.fetch_update(Ordering::SeqCst, Ordering::SeqCst, lowest) {
                Ok(before) => {
                    let number = before.trailing_zeros() as usize;
                    return Stage { stages: self, number };
                }
                Err(_) => sync::wait(&self.freed, epoch),
            }
        }
    }

    /// Notes that a stage is in use for the first time. Returns the bytes that count from now on.
    fn count(&self, number: usize) -> usize {
        let before = self.used.at_least(number + 1);
        (number + 1).saturating_sub(before) * counted(self.unit)
    }
}

impl Stage<'_> {
    /// Returns the bytes by which this stage increases what the region's buffers take: once for each stage.
    pub(crate) fn newly_counted(&self) -> usize {
        self.stages.count(self.number)
    }

    fn at(&self, offset: usize) -> *mut u8 {
        self.stages.memory.page(self.number).wrapping_add(offset)
    }

    /// Returns the end of the stage's stack.
    pub(crate) fn stack_top(&self) -> *mut u8 {
        self.at(PAGE_SIZE + STACK)
    }

    /// Returns the stage's buffers, whose windows have at most `window` pages.
    pub(crate) fn buffers(&mut self, window: usize) -> Buffers<'_> {
        let (start, unit) = (self.stack_top(), self.stages.unit);
        let window = window.min(longest(unit)) * unit;
        // SAFETY: these bytes of the mapping are the stage's alone, and `self` is borrowed for as long. They are at most
        // `WINDOW_BYTES`.
        let window = unsafe { slice::from_raw_parts_mut(start, window) };
        // SAFETY: as above; it is the page after the longest window.
        let room = unsafe { slice::from_raw_parts_mut(start.wrapping_add(WINDOW_BYTES), unit) };
        Buffers { window, room }
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Pages may be owned by this thread for ever, and others would wait for them silently.
            crate::abort::die(format_args!("a panic while a thread worked on a region"));
        }
        // SeqCst: see `take`.
        let before = self.stages.free.fetch_or(1 << self.number, Ordering::SeqCst);
        if before == 0 {
            self.stages.freed.fetch_add(1, Ordering::SeqCst);
            sync::wake(&self.stages.freed);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn no_two_threads_have_the_same_stage_and_all_get_one() {
        let stages = Stages::new(usize::MAX, 2 * PAGE_SIZE, true).unwrap();
        let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for thread in 0..STAGES + 8 {
                let (stages, inside, most) = (&stages, &inside, &most);
                scope.spawn(move || {
                    for _ in 0..50 {
                        let mut stage = stages.take();
                        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        let buffers = stage.buffers(WINDOW);
                        buffers.window.fill(thread as u8);
                        buffers.room.fill(thread as u8);
                        std::thread::yield_now();
                        assert_eq!(buffers.window.len() + buffers.room.len(), 18 * PAGE_SIZE);
                        assert!(buffers.window.iter().all(|byte| *byte == thread as u8));
                        assert!(buffers.room.iter().all(|byte| *byte == thread as u8));
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(most.into_inner() <= STAGES);
        assert_eq!(stages.free.load(Ordering::SeqCst), u64::MAX);
    }

    #[test]
    fn each_stage_counts_once() {
        let stages = Stages::new(usize::MAX, 2 * PAGE_SIZE, true).unwrap();
        let (first, second) = (stages.take(), stages.take());
        assert_eq!(
            (second.number, second.newly_counted(), second.newly_counted()),
            (1, 2 * counted(2 * PAGE_SIZE), 0)
        );
        assert_eq!(first.newly_counted(), 0);
        drop(first);
        assert_eq!(stages.take().number, 0, "the lowest is taken again");
    }
}
