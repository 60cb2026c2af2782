//! Pages on their way to the device: their objects are copied into a segment, which is then written.
//!
//! From the moment that an entry's word is read until it is compared with the entry's word again, the object stays
//! pinned and its pool stays referenced, for the reason that `relocate.rs` gives. So other threads may load,
//! overwrite and invalidate the page during the write, and they find it in exactly one place.

use zpage::device::DeviceError;
use zpage::segments::{Draft, Segments};
use zpool_api::ZpoolError;

use crate::counters::Counter;
use crate::departure::Departure;
use crate::entry::word::{Content, Word};
use crate::error::{LoadError, WritebackError};
use crate::moves::clean::Names;
use crate::nesting::Nested;
use crate::pool::pools::HeldObject;
use crate::{SwapEntry, Zswap};

/// Room for this many pages is allocated at first.
const FEW: usize = 64;

/// A page that is about to leave its pool.
pub(crate) struct Leaving<'s> {
    pub(crate) entry: SwapEntry,
    /// The entry's word at the moment when the object was pinned.
    pub(crate) word: Word,
    /// Pins the object. Dropped when the entry was compared.
    pub(crate) object: Option<HeldObject<'s>>,
    /// Whether the entry names the object on the device now.
    moved: bool,
}

/// What the clock finds at an entry.
pub(crate) enum Picked<'s> {
    Page(Leaving<'s>),
    /// The page was loaded since the clock last passed it. Its second chance is used up.
    Spared,
    /// The entry holds no object.
    PassedBy,
}

/// Picks the page of an entry and pins its object. If the page was loaded since the clock last passed it and
/// `in_use_too` is false, gives it a second chance instead.
pub(crate) fn pick(
    store: &Zswap,
    entry: SwapEntry,
    in_use_too: bool,
) -> Result<Picked<'_>, WritebackError> {
    let unread = |source| WritebackError::Load(LoadError::Pool { entry, source });
    let Some(mut locked) = store.index.lock(entry.key()) else { return Ok(Picked::PassedBy) };
    let word = locked.word();
    let Content::Stored { pool, bits, .. } = word.content() else { return Ok(Picked::PassedBy) };
    if word.is_referenced() && !in_use_too {
        locked.replace(word.unreferenced());
        return Ok(Picked::Spared);
    }
    let object = store.areas.of(entry).pools.of_page(pool).hold(bits);
    // Unlock before the object is dropped, since that may drop the pool's last reference.
    drop(locked);
    let object = object.map_err(unread)?;
    // A faulty backend may return other bytes than it was given.
    match object.bytes().len() {
        0 => Err(unread(ZpoolError::EmptyObject)),
        len if len <= store.unit => {
            Ok(Picked::Page(Leaving { entry, word, object: Some(object), moved: false }))
        }
        size => {
            let (max, backend) = (store.unit, "a pool of the store");
            Err(unread(ZpoolError::ObjectTooLarge { size, max, backend }))
        }
    }
}

/// A segment that is being filled, and the pages whose objects are in it.
pub(crate) struct Outgoing<'s> {
    store: &'s Zswap,
    draft: Draft<'s>,
    pages: Vec<Leaving<'s>>,
}

impl<'s> Outgoing<'s> {
    /// Begins a segment. If none is free, cleans some.
    pub(crate) fn begin(store: &'s Zswap, segments: &'s Segments) -> Result<Self, DeviceError> {
        let alone =
            !Nested::is_inner(core::ptr::from_ref(store).addr(), store.recipe.in_fault_handler);
        let draft = segments.draft_or_clean(&Names(store), alone)?;
        Ok(Outgoing { store, draft, pages: Vec::new() })
    }

    /// Returns the number of pages in the segment.
    pub(crate) fn len(&self) -> usize {
        self.pages.len()
    }

    /// Returns whether the page of an entry is in the segment.
    pub(crate) fn has(&self, entry: SwapEntry) -> bool {
        self.pages.iter().any(|page| page.entry == entry)
    }

    /// Adds a page. Returns the page if the segment has no room for it.
    pub(crate) fn add(&mut self, page: Leaving<'s>) -> Result<Option<Leaving<'s>>, WritebackError> {
        let room = if self.pages.is_empty() { FEW } else { 1 };
        if self.pages.try_reserve(room).is_err() {
            if self.pages.is_empty() {
                return Err(self.store.not_written(page.entry, DeviceError::OutOfMemory));
            }
            return Ok(Some(page));
        }
        let added = page.object.as_ref().is_some_and(|object| {
            self.draft.push(page.entry.key(), &object.pool().codec, object.bytes())
        });
        if !added {
            return Ok(Some(page));
        }
        self.pages.push(page);
        Ok(None)
    }

    /// Writes the segment, and lets the entries name the objects there. Returns the number of pages that moved,
    /// or the device's error with the entry of the first page. A page that was overwritten, invalidated or moved
    /// meanwhile is left out.
    pub(crate) fn write(self) -> Result<usize, (SwapEntry, DeviceError)> {
        let Outgoing { store, draft, mut pages } = self;
        let Some(first) = pages.first().map(|page| page.entry) else { return Ok(0) };
        let written = draft.write().map_err(|error| (first, error))?;
        let moved = written.install(|number, at| {
            let Leaving { entry, word, object, moved } = &mut pages[number];
            let new = |word: Word| word.unreferenced().moved_to(Content::OnDevice(at));
            *moved = store.replace_if_same(*entry, *word, new);
            // The comparison is done, so the object need not stay pinned.
            drop(object.take());
            if *moved {
                let counters = &store.areas.of(*entry).counters;
                counters.add(Counter::DevicePages, 1);
                counters.add(Counter::WrittenBackPages, 1);
                // SAFETY: this thread took the object's word out of the entry, and discards it only here.
                unsafe { store.discard(*entry, word.content()) };
            }
            *moved
        });
        // The segment is done, so the listener may call the store.
        for page in pages.iter().filter(|page| page.moved) {
            store.notify(page.entry, Departure::WrittenBack);
        }
        Ok(moved)
    }
}
