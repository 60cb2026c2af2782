//! The descriptor of a page. It is in a type-stable table, in which any thread can find it by a slot
//! number.
//!
//! A descriptor holds an object word for each buddy, the page's address, and the place of the middle
//! object. With page locks it also holds the page lock and the state that this lock guards. A descriptor is
//! never freed. So any slot number leads either to a word or to `None`.
//!
//! # Invariants of the bytes
//! 1. From `attach` until the page's last reference is put, `base` is the start of a page of the pool's
//!    provider. It is stored before the first word of the page becomes OWNED. It does not change while any
//!    word of the page is OWNED, LIVE or PARKED, because each such object has a reference.
//! 2. While a word is OWNED, only its owner uses the bytes of the buddy. While it is MOVING, only the mover
//!    uses them. While it is LIVE or PARKED and not MOVING, the bytes do not change. Buddies never overlap
//!    (`Layout`).
//! 3. `middle` is the chunk of the middle buddy. It changes when room is taken for a middle object, or
//!    while this object's word is MOVING.

use core::ptr::{NonNull, null_mut};

use crate::chunks::{CHUNKS, ChunkSize};
use crate::layout::{Layout, Slot};
use crate::locks::Locking;
use crate::middle::Middle;
use crate::page::Page;
use crate::sync::Watched;
use crate::sync::atomic::{AtomicPtr, Ordering};
use crate::word::ObjWord;

/// The descriptor of one page.
pub(crate) struct PageDesc<L: Layout<N>, const N: usize> {
    words: [ObjWord; N],
    base: AtomicPtr<u8>,
    pub(crate) middle: L::Middle,
    pub(crate) page: <L::Locks as Locking>::InDesc<Page<L, N>>,
    /// One cell for each buddy. Under the model checker, it stands for the buddy's bytes.
    watched: [Watched; N],
}

impl<L: Layout<N>, const N: usize> PageDesc<L, N> {
    /// Makes a descriptor without memory. The first object of each buddy will have this generation.
    pub(crate) fn new(generation: u32) -> Self {
        PageDesc {
            words: [(); N].map(|()| ObjWord::new(generation)),
            base: AtomicPtr::new(null_mut()),
            middle: L::Middle::default(),
            page: L::Locks::parts(|| Page::NEW).0,
            watched: [(); N].map(|()| Watched::new()),
        }
    }

    /// Attaches memory before any word of the page is OWNED. The caller holds the page's lock.
    pub(crate) fn attach(&self, base: NonNull<u8>) {
        // Relaxed: the later Release of a word and the page's lock publish it.
        self.base.store(base.as_ptr(), Ordering::Relaxed);
    }

    /// Takes the memory out and returns it, or `None` if none was attached. Called by the thread that put
    /// the page's last reference, or by the drop of the pool.
    pub(crate) fn detach(&self) -> Option<NonNull<u8>> {
        // Relaxed: either the pool is being dropped, or all words are FREE and nobody holds the page. In
        // the second case nobody else reads `base` until the page number is used again, and the pool lock
        // orders that after this.
        NonNull::new(self.base.swap(null_mut(), Ordering::Relaxed))
    }
}

/// A buddy, with the descriptor of its page.
pub(crate) struct Buddy<'a, L: Layout<N>, const N: usize> {
    pub(crate) slot: Slot<N>,
    pub(crate) desc: &'a PageDesc<L, N>,
}

impl<L: Layout<N>, const N: usize> Clone for Buddy<'_, L, N> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<L: Layout<N>, const N: usize> Copy for Buddy<'_, L, N> {}

impl<'a, L: Layout<N>, const N: usize> Buddy<'a, L, N> {
    pub(crate) fn word(self) -> &'a ObjWord {
        &self.desc.words[usize::from(self.slot.nth)]
    }

    pub(crate) fn watched(self) -> &'a Watched {
        &self.desc.watched[usize::from(self.slot.nth)]
    }

    /// Returns a pointer to the `len` bytes of the buddy's object.
    ///
    /// # Safety
    /// The word must be OWNED, LIVE or PARKED, and its object must have `len` bytes. The caller must keep
    /// the word in such a state: as the owner, through a pin, or as the mover.
    #[expect(clippy::expect_used, reason = "a page with objects has memory (invariant 1)")]
    #[inline]
    pub(crate) unsafe fn bytes(self, len: usize, size: ChunkSize) -> NonNull<[u8]> {
        // Relaxed: `base` was stored before the word became OWNED. The caller has read the word with
        // Acquire after that, or it holds the page's lock, or it is the owner.
        let base = NonNull::new(self.desc.base.load(Ordering::Relaxed));
        let base = base.expect("a page with objects has memory");
        let middle_at = self.desc.middle.get();
        let start = L::start(usize::from(self.slot.nth), size.chunks(len), middle_at);
        let offset = size.bytes(start);
        debug_assert!(offset + len <= size.bytes(CHUNKS));
        // SAFETY: `base` is the start of a page, and the object's reference keeps this page (invariant 1).
        // The object's room lies inside the page (`Layout`).
        let start = unsafe { base.add(offset) };
        NonNull::slice_from_raw_parts(start, len)
    }
}
