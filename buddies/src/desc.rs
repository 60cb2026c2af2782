//! A page's descriptor. It is in a type-stable table, where any thread may reach it by a slot number.
//!
//! A descriptor has an object word for each buddy, the page's address and the middle object's place. With
//! page locks it also has the page lock and the page that this lock guards. It is never freed, so any slot
//! number leads to a word or to `None`.
//!
//! # Invariants of the bytes
//! 1. A descriptor's `base` is the start of a page of the pool's provider from `attach` until the page's last
//!    reference is put. It is stored before the first word of the page becomes OWNED. It does not change
//!    while any word of the page is OWNED, LIVE or PARKED, because each such object has a reference.
//! 2. In state OWNED only the word's owner uses the bytes of a buddy, and while the word is MOVING only the
//!    mover. Otherwise, in states LIVE and PARKED, they are immutable. Buddies never overlap (`Layout`).
//! 3. `middle` is the chunk of the middle buddy. It changes when room is taken for a middle object, or while
//!    that object's word is MOVING.

use core::ptr::{NonNull, null_mut};

use crate::chunks::{CHUNKS, ChunkSize};
use crate::layout::{Layout, Slot};
use crate::locks::Locking;
use crate::middle::Middle;
use crate::page::Page;
use crate::sync::Watched;
use crate::sync::atomic::{AtomicPtr, Ordering};
use crate::word::ObjWord;

/// One page's descriptor.
pub(crate) struct PageDesc<L: Layout<N>, const N: usize> {
    words: [ObjWord; N],
    base: AtomicPtr<u8>,
    pub(crate) middle: L::Middle,
    pub(crate) page: <L::Locks as Locking>::InDesc<Page<L, N>>,
    /// Under the model checker, these cells stand for the bytes of the buddies.
    watched: [Watched; N],
}

impl<L: Layout<N>, const N: usize> PageDesc<L, N> {
    /// Makes a descriptor without memory. The first object of each of its buddies will have this generation.
    pub(crate) fn new(generation: u32) -> Self {
        PageDesc {
            words: [(); N].map(|()| ObjWord::new(generation)),
            base: AtomicPtr::new(null_mut()),
            middle: L::Middle::default(),
            page: L::Locks::parts(|| Page::NEW).0,
            watched: [(); N].map(|()| Watched::new()),
        }
    }

    /// Attaches memory, before any word is OWNED. Under the page's lock.
    pub(crate) fn attach(&self, base: NonNull<u8>) {
        // Relaxed: published by the word's later Release, and by the page's lock.
        self.base.store(base.as_ptr(), Ordering::Relaxed);
    }

    /// Takes the memory out and returns it. For the thread that put the page's last reference, or for the
    /// drop of the pool.
    pub(crate) fn detach(&self) -> Option<NonNull<u8>> {
        // Relaxed: all words are FREE and nobody holds the page, so nobody else reads `base` until the page
        // number is reused, which the pool lock orders after this.
        NonNull::new(self.base.swap(null_mut(), Ordering::Relaxed))
    }
}

/// A buddy and its page's descriptor.
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

    /// Returns the bytes of the buddy's object. It has `len` bytes.
    ///
    /// # Safety
    /// The word must be OWNED, LIVE or PARKED, and its object must have `len` bytes. The caller must keep it
    /// so: as its owner, by a pin, or as the mover.
    #[expect(clippy::expect_used, reason = "a page with objects has memory (invariant 1)")]
    #[inline]
    pub(crate) unsafe fn bytes(self, len: usize, size: ChunkSize) -> NonNull<[u8]> {
        // Relaxed: `base` was stored before the word became OWNED. The caller has read that value of the
        // word, or a later one, with Acquire. Or it holds the page's lock, or is the owner.
        let base = NonNull::new(self.desc.base.load(Ordering::Relaxed));
        let base = base.expect("a page with objects has memory");
        let middle_at = self.desc.middle.get();
        let start = L::start(usize::from(self.slot.nth), size.chunks(len), middle_at);
        let offset = size.bytes(start);
        debug_assert!(offset + len <= size.bytes(CHUNKS));
        // SAFETY: `base` is the start of a page, which the object's reference keeps (invariant 1). The
        // object's room is inside the page (`Layout`).
        let start = unsafe { base.add(offset) };
        NonNull::slice_from_raw_parts(start, len)
    }
}
