//! A disk's counters.

use zpage::segments::Figures;
use zpool_base::counter::Counter;

use crate::word::{Content, Word};

/// The value of `writeback_limit` that means no limit.
const UNLIMITED: u64 = u64::MAX;

/// A disk's counters. Only the two limits affect behaviour. Only writes check `mem_limit`, and they check it after
/// they have stored their object. So the pool may exceed the limit for a moment, or because of recompression.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) stored: Counter,
    pub(crate) same: Counter,
    pub(crate) huge: Counter,
    pub(crate) on_device: Counter,
    pub(crate) huge_since: Counter,
    pub(crate) compacted: Counter,
    pub(crate) failed_reads: Counter,
    pub(crate) failed_writes: Counter,
    pub(crate) invalid_io: Counter,
    pub(crate) notify_free: Counter,
    pub(crate) device_reads: Counter,
    pub(crate) device_writes: Counter,
    /// What the device's own counts of bytes were when the disk was reset.
    pub(crate) written_before: Counter,
    pub(crate) read_before: Counter,
    pub(crate) mem_limit: Counter,
    pub(crate) mem_used_max: Counter,
    pub(crate) writeback_limit: Counter,
}

impl Counts {
    pub(crate) fn new(mem_limit: usize) -> Self {
        Counts {
            mem_limit: Counter::new(mem_limit as u64),
            writeback_limit: Counter::new(UNLIMITED),
            ..Counts::default()
        }
    }

    /// Updates the counters when a slot's word changes from `old` to `new`.
    #[inline]
    pub(crate) fn replaced(&self, old: Word, new: Word) {
        let kinds = |word: Word| {
            let content = word.content();
            let in_memory = matches!(content, Content::Object { .. } | Content::Same(_));
            let huge = matches!(content, Content::Object { huge: true, .. });
            let on_device = matches!(content, Content::OnDevice(_));
            [in_memory, matches!(content, Content::Same(_)), huge, on_device]
        };
        let (before, after) = (kinds(old), kinds(new));
        let counters = [&self.stored, &self.same, &self.huge, &self.on_device];
        for (kind, counter) in counters.into_iter().enumerate() {
            match (before[kind], after[kind]) {
                (false, true) => counter.add(1),
                (true, false) => _ = counter.sub(1),
                _ => {}
            }
        }
        if after[2] {
            self.huge_since.add(1);
        }
    }

    /// Returns the limit in bytes; 0 means no limit.
    pub(crate) fn mem_limit(&self) -> usize {
        self.mem_limit.get() as usize
    }

    /// Raises the recorded maximum of used memory to `bytes` if it is lower. `bytes` is the size of all pool
    /// pages that hold objects now.
    #[inline]
    pub(crate) fn used(&self, bytes: usize) {
        self.mem_used_max.raise(bytes as u64);
    }

    pub(crate) fn set_writeback_limit(&self, pages: Option<u64>) {
        self.writeback_limit.set(pages.unwrap_or(UNLIMITED));
    }

    pub(crate) fn writeback_limit(&self) -> Option<u64> {
        Some(self.writeback_limit.get()).filter(|pages| *pages != UNLIMITED)
    }

    /// Takes a page from the writeback budget. Returns false if none is left.
    pub(crate) fn take_writeback(&self) -> bool {
        let less = |pages: u64| if pages == UNLIMITED { Some(pages) } else { pages.checked_sub(1) };
        self.writeback_limit.change(less)
    }

    pub(crate) fn give_writeback_back(&self) {
        let more = |pages: u64| (pages != UNLIMITED).then_some(pages.saturating_add(1));
        self.writeback_limit.change(more);
    }

    /// Sets the counters to zero. The limits stay. So do `stored`, `same`, `huge` and `on_device`, which
    /// change only with the pages. `device` is what the device has counted so far.
    pub(crate) fn reset(&self, device: &Figures) {
        self.written_before.set(device.written_bytes);
        self.read_before.set(device.read_bytes);
        let since = [
            &self.huge_since,
            &self.compacted,
            &self.failed_reads,
            &self.failed_writes,
            &self.invalid_io,
            &self.notify_free,
            &self.device_reads,
            &self.device_writes,
            &self.mem_used_max,
        ];
        for counter in since {
            counter.set(0);
        }
    }
}
