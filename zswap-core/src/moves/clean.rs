//! Cleaning of the device's segments: what it needs to know about the entries.

use zpage::segments::{Address, Entries};

use crate::entry::word::{Content, Word};
use crate::{SwapEntry, Zswap};

/// The store's entries, as cleaning sees them. The key of an object is that of its entry.
pub(crate) struct Names<'s>(pub(crate) &'s Zswap);

impl Entries for Names<'_> {
    fn holds(&self, key: u64, at: Address) -> bool {
        self.0.index.peek(key).content() == Content::OnDevice(at)
    }

    fn replace(&self, key: u64, old: Address, new: Address) -> bool {
        let old = Word::new(Content::OnDevice(old));
        let moved = |word: Word| word.with_address(new);
        self.0.replace_if_same(SwapEntry::from_key(key), old, moved)
    }
}
