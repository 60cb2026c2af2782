//! Which faults are the next of a sequence.

use crate::number::Number;
use zswap_core::PAGE_SIZE;

/// The sequences that are followed at the same time.
const STREAMS: usize = 8;
/// The pages of the longest window.
pub(crate) const WINDOW: usize = 16;
const WINDOW_BITS: u32 = 8;

/// Returns the pages of the longest window if pages have `unit` bytes: as many as 16 pages of 4096 bytes.
pub(crate) const fn longest(unit: usize) -> usize {
    WINDOW * PAGE_SIZE / unit
}

/// Where each sequence goes on, and how many pages it gets then.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    next: [Number; STREAMS],
    turn: Number,
}

impl Streams {
    /// Notes a fault at `page` and returns how many pages from there on the program will probably touch: 1, or 4 or 16, at most `longest`,
    /// if the last window of a sequence ended here.
    pub(crate) fn window(&self, page: usize, longest: usize) -> usize {
        for stream in &self.next {
            let seen = stream.get();
            if seen >> WINDOW_BITS == page && seen != 0 {
                let window = ((seen & ((1 << WINDOW_BITS) - 1)) * 4).min(longest);
                stream.set((page + window) << WINDOW_BITS | window);
                return window;
            }
        }
        let place = self.turn.add(1) % STREAMS;
        self.next[place].set((page + 1) << WINDOW_BITS | 1);
        1
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_gets_larger_windows_and_strangers_one_page() {
        let streams = Streams::default();
        assert_eq!([7, 8, 12, 28].map(|page| streams.window(page, WINDOW)), [1, 4, 16, 16]);
        assert_eq!([100, 300, 200].map(|page| streams.window(page, WINDOW)), [1, 1, 1]);
        assert_eq!((streams.window(44, WINDOW), streams.window(201, WINDOW)), (16, 4));
        assert_eq!(streams.window(0, WINDOW), 1);
    }
}
