//! Samples of the pages that are stored, and the memory that they and the trainer take.

// Always std's, not loom's: no model covers the sampling, which is off in all of them.
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use compressors::training::Sampler;

use crate::area::Area;

/// The part of training that belongs to the store: what its hot path and its accounting use.
#[derive(Debug)]
pub(crate) struct Training {
    /// Off until a thread trains dictionaries.
    pub(crate) sampler: Sampler,
    /// Set while such a thread is there.
    running: AtomicBool,
    /// The bytes that training takes at present, in addition to the sampler's.
    working: AtomicUsize,
}

impl Default for Training {
    fn default() -> Self {
        Training {
            sampler: Sampler::off(),
            running: AtomicBool::new(false),
            working: AtomicUsize::new(0),
        }
    }
}

impl Training {
    /// Offers a page that is being stored. Areas with pools of their own have compressors of their own, which
    /// the program chooses.
    #[inline]
    pub(crate) fn offer(&self, area: &Area, page: &[u8]) {
        if area.swap_type.is_none() {
            self.sampler.offer(page);
        }
    }

    /// Returns the heap bytes of the samples and of a training that is going on.
    pub(crate) fn memory_bytes(&self) -> usize {
        // Relaxed: a figure.
        self.sampler.memory_bytes() + self.working.load(Ordering::Relaxed) + size_of::<Self>()
    }

    /// Claims the training for a thread; returns false if another one has it.
    pub(crate) fn claim(&self) -> bool {
        !self.running.swap(true, Ordering::SeqCst)
    }

    /// Ends a claim. The sampler is off afterwards.
    pub(crate) fn release(&self) {
        self.sampler.clear();
        self.running.store(false, Ordering::SeqCst);
    }

    /// Counts `bytes` as in use until the result is dropped.
    pub(crate) fn working(&self, bytes: usize) -> Working<'_> {
        // Relaxed: a figure, which only the thread of the claim writes.
        self.working.store(bytes, Ordering::Relaxed);
        Working(self)
    }
}

/// Memory that training uses.
#[must_use = "the memory counts while this lives"]
pub(crate) struct Working<'a>(&'a Training);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        // Relaxed: as in `working`.
        self.0.working.store(0, Ordering::Relaxed);
    }
}
