//! Whether the copy in the store is kept when a page is read: clean pages.
//!
//! A clean page costs nothing when it is evicted again, but the first write to it costs a fault. That pays while fewer
//! than [`MOST_WRITTEN`] percent of clean pages are written before they leave; above, only a sample is filled clean, so
//! that a change is seen.

use crate::number::Number;

/// When the copy of a page that was read is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CleanPages {
    /// As long as that pays: while less than 45 % of such pages are written later.
    #[default]
    Adaptive,
    /// After each fault by a read.
    Always,
    /// Never: each eviction compresses the page.
    Never,
}

/// The share of written pages above which clean pages cost more than they save (measured: docs/benchmarks.md).
const MOST_WRITTEN: usize = 45;
/// The fills after which the share is judged.
const ROUND: usize = 256;
/// While clean pages do not pay, one fill in this many is clean.
const SAMPLE: usize = 16;

/// The judgement, and the counts on which the next one rests.
#[derive(Debug)]
pub(crate) struct Policy {
    mode: CleanPages,
    fills: Number,
    writes: Number,
    skipped: Number,
    /// 0 if clean pages do not pay.
    pays: Number,
}

impl Policy {
    pub(crate) fn new(mode: CleanPages) -> Policy {
        let [fills, writes, skipped] = [const { Number::new(0) }; 3];
        Policy { mode, fills, writes, skipped, pays: Number::new(1) }
    }

    /// Returns whether to keep the copy of a page that is read now.
    pub(crate) fn keeps(&self) -> bool {
        match self.mode {
            CleanPages::Always => true,
            CleanPages::Never => false,
            CleanPages::Adaptive => self.pays.get() != 0 || self.skipped.add(1) % SAMPLE == 0,
        }
    }

    /// Notes that a page was filled clean.
    pub(crate) fn filled(&self) {
        if self.mode != CleanPages::Adaptive || self.fills.add(1) < ROUND {
            return;
        }
        let (fills, writes) = (self.fills.swap(0), self.writes.swap(0));
        self.pays.set(usize::from(writes * 100 <= fills * MOST_WRITTEN));
    }

    /// Notes the first write to a clean page.
    pub(crate) fn written(&self) {
        self.writes.add(1);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Returns the share of `n` reads that keep the copy, if every `written`-th of those is written.
    fn share(policy: &Policy, n: u32, written: u32) -> u32 {
        let mut kept = 0;
        for _ in 0..n {
            if policy.keeps() {
                kept += 1;
                policy.filled();
                if kept % written == 0 {
                    policy.written();
                }
            }
        }
        kept * 100 / n
    }

    #[test]
    fn copies_are_kept_while_they_pay_and_again_later() {
        let policy = Policy::new(CleanPages::Adaptive);
        assert_eq!(share(&policy, 10_000, 3), 100);
        assert!(share(&policy, 10_000, 1) < 10);
        assert!(share(&policy, 100_000, 4) > 90, "a sample shows that it pays again");
        assert_eq!(share(&Policy::new(CleanPages::Always), 1000, 1), 100);
        assert_eq!(share(&Policy::new(CleanPages::Never), 1000, 9), 0);
    }
}
