//! The word of a slot: all that a disk records about a page, in 8 bytes.
//!
//! ```text
//!  63   62      61     60              59   58   57 56   55  54 53      52 51            0
//! +----+-------+------+--------------+------+-------+----+------+--------+---------------+
//! |  0 |waiters|locked|incompressible| idle | tried |huge| kind |priority|    payload    |
//! +----+-------+------+--------------+------+-------+----+------+--------+---------------+
//! ```
//!
//! | kind | payload |
//! |---|---|
//! | Empty | 0 |
//! | Object | the backend's 52 bits of the handle; the handle's tag is the pool's |
//! | Same | the pattern, packed by zpage's `same_filled.rs` |
//! | `OnDevice` | with the bits of `priority`: the address of the object on the device, 54 bits |
//!
//! `priority` is the priority of the algorithm that compressed the object. It means nothing if the object is
//! `huge`, that is, stored uncompressed. `tried` is the highest priority that did not make the page smaller.
//!
//! Of a page's flags, a page on the device has only `idle`. The others say what memory the page takes, and whether
//! recompression may help.

use zpage::segments::Address;
use zpool_api::BackendBits;

const PAYLOAD: u64 = (1 << 52) - 1;
const PRIORITY_SHIFT: u32 = 52;
const KIND_SHIFT: u32 = 54;
const HUGE: u64 = 1 << 56;
const TRIED_SHIFT: u32 = 57;
const IDLE: u64 = 1 << 59;
const INCOMPRESSIBLE: u64 = 1 << 60;

const _: () = assert!(Address::BITS == KIND_SHIFT);

/// What a slot holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Content {
    Empty,
    Object { bits: BackendBits, priority: usize, huge: bool },
    Same(u64),
    OnDevice(Address),
}

/// The value of a slot's word, without the lock's bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Word(u64);

impl Word {
    pub(crate) fn new(content: Content) -> Self {
        Word(match content {
            Content::Empty => 0,
            Content::Object { bits, priority, huge } => {
                let flag = if huge { HUGE } else { 0 };
                1 << KIND_SHIFT | flag | (priority as u64 & 3) << PRIORITY_SHIFT | bits.get()
            }
            Content::Same(packed) => 2 << KIND_SHIFT | packed & PAYLOAD,
            Content::OnDevice(at) => 3 << KIND_SHIFT | at.bits(),
        })
    }

    pub(crate) fn from_raw(raw: u64) -> Self {
        Word(raw)
    }

    pub(crate) fn raw(self) -> u64 {
        self.0
    }

    pub(crate) fn content(self) -> Content {
        match self.0 >> KIND_SHIFT & 3 {
            1 => Content::Object {
                bits: BackendBits::truncate(self.0),
                priority: (self.0 >> PRIORITY_SHIFT & 3) as usize,
                huge: self.is_huge(),
            },
            2 => Content::Same(self.0 & PAYLOAD),
            3 => Content::OnDevice(Address::from_bits(self.0)),
            _ => Content::Empty,
        }
    }

    pub(crate) fn is_huge(self) -> bool {
        self.0 & HUGE != 0
    }

    pub(crate) fn is_idle(self) -> bool {
        self.0 & IDLE != 0
    }

    pub(crate) fn idle(self, idle: bool) -> Self {
        Word(if idle { self.0 | IDLE } else { self.0 & !IDLE })
    }

    /// Returns the word of this page after it was moved to the device, or to another place there.
    pub(crate) fn moved_to(self, at: Address) -> Self {
        Word::new(Content::OnDevice(at)).idle(self.is_idle())
    }

    pub(crate) fn is_incompressible(self) -> bool {
        self.0 & INCOMPRESSIBLE != 0
    }

    pub(crate) fn incompressible(self) -> Self {
        Word(self.0 | INCOMPRESSIBLE)
    }

    /// Returns the highest priority that did not make the page smaller, or 0 if there is none.
    pub(crate) fn tried(self) -> usize {
        (self.0 >> TRIED_SHIFT & 3) as usize
    }

    pub(crate) fn with_tried(self, priority: usize) -> Self {
        Word(self.0 & !(3 << TRIED_SHIFT) | (priority as u64 & 3) << TRIED_SHIFT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zpage::word_lock::{LOCKED, WAITERS};

    #[test]
    fn every_field_round_trips_beside_every_other() {
        for payload in [0, 1, PAYLOAD, 0x000a_5a5a_5a5a_5a5a] {
            let bits = BackendBits::truncate(payload);
            let objects = (0..4).flat_map(|priority| {
                [false, true].map(|huge| Content::Object { bits, priority, huge })
            });
            let places = (0..4).map(|codec| Address::from_bits(payload | codec << 52));
            let others = [Content::Empty, Content::Same(payload)];
            let others = others.into_iter().chain(places.map(Content::OnDevice));
            for content in objects.chain(others) {
                let word = Word::new(content);
                assert_eq!(word.raw() & (1 << 63 | LOCKED | WAITERS), 0, "{content:?}");
                assert!(!word.is_idle() && !word.is_incompressible() && word.tried() == 0);
                let marked = word.idle(true).incompressible().with_tried(3);
                assert!(marked.is_idle() && marked.is_incompressible() && marked.tried() == 3);
                assert_eq!((marked.content(), word.content()), (content, content));
                assert_eq!(marked.raw() & (1 << 63 | LOCKED | WAITERS), 0);
                assert_eq!(marked.with_tried(1).tried(), 1);
                assert!(!marked.idle(false).is_idle());
                assert_eq!(marked.idle(true).incompressible().with_tried(3), marked);
                assert_eq!(marked.idle(false).idle(true), marked);
                let at = Address::from_bits(!payload);
                let expected = Word::new(Content::OnDevice(at));
                assert_eq!(
                    (word.moved_to(at), marked.moved_to(at)),
                    (expected, expected.idle(true))
                );
            }
        }
    }
}
