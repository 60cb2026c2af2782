//! Pages on their way to the device: their objects are copied into a segment, which is then written with one call.
//!
//! No slot is locked while the device writes. A page's slot is locked twice: to read its word and pin its object,
//! and, after the write, to compare the word and let it name the object on the device. The object stays pinned in
//! between, so its handle names nothing else, and equal content means the same page. The flags of a word are no
//! content: what changed in them meanwhile stays. If the slot holds something else by then, the copy on the device
//! is given up.
//!
//! A page takes its unit of the writeback budget when it is chosen, and gives it back if it does not arrive.
//!
//! If no segment is free, the writer cleans the device's segments. It holds no slot's lock then, and cleaning takes
//! one at a time, so it may wait for a thread that sleeps in a codec, the backend or a read of the device.

use zpage::device::DeviceError;
use zpage::segments::{Address, Draft, Entries, Segments};
use zpool_api::{ObjRead, ZpoolError};

use crate::Zram;
use crate::error::ZramError;
use crate::word::Content;

/// One page of the disk's writeback budget. Dropping this gives the page back to the budget, also in a panic.
#[derive(Debug)]
pub(crate) struct Budget<'z>(&'z Zram);

impl<'z> Budget<'z> {
    /// Takes one page of the budget. Returns `None` if none is left.
    pub(crate) fn take(disk: &'z Zram) -> Option<Self> {
        disk.counts.take_writeback().then(|| Budget(disk))
    }

    /// Leaves the page taken.
    fn keep(self) {
        core::mem::forget(self);
    }
}

impl Drop for Budget<'_> {
    fn drop(&mut self) {
        self.0.counts.give_writeback_back();
    }
}

/// A page that is to be moved to the device.
#[derive(Debug)]
pub(crate) struct Leaving<'z> {
    pub(crate) index: u64,
    /// What the slot held when the object was pinned.
    pub(crate) content: Content,
    pub(crate) priority: usize,
    pub(crate) object: ObjRead<'z>,
    pub(crate) budget: Budget<'z>,
}

/// Fills segments with pages and writes them, one after another.
#[derive(Debug)]
pub(crate) struct Writer<'z> {
    disk: &'z Zram,
    segments: &'z Segments,
    /// The segment that is being filled. It holds at least one page.
    draft: Option<Draft<'z>>,
    /// The pages whose objects are in it, in their order there.
    pages: Vec<Leaving<'z>>,
    written: u64,
}

impl<'z> Writer<'z> {
    pub(crate) fn new(disk: &'z Zram, segments: &'z Segments) -> Self {
        Writer { disk, segments, draft: None, pages: Vec::new(), written: 0 }
    }

    /// Returns the number of pages that were moved.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Returns the number of pages that were moved or are in the segment that is being filled.
    pub(crate) fn taken(&self) -> u64 {
        self.written + self.pages.len() as u64
    }

    /// Returns whether a page is in the segment that is being filled.
    pub(crate) fn holds(&self, index: u64) -> bool {
        self.pages.iter().any(|page| page.index == index)
    }

    /// Adds a page. If it has no room in the segment, writes the segment and begins another.
    ///
    /// # Errors
    /// As [`Zram::writeback`]'s. After an error of a write, none of the segment's pages has moved.
    pub(crate) fn add(&mut self, page: Leaving<'z>) -> Result<(), ZramError> {
        let (index, bytes) = (page.index, &*page.object);
        // A faulty backend may return other bytes than it was given.
        let faulty = match bytes.len() {
            0 => Some(ZpoolError::EmptyObject),
            len if len <= self.disk.unit => None,
            size => {
                let (max, backend) = (self.disk.unit, self.disk.zpool.name());
                Some(ZpoolError::ObjectTooLarge { size, max, backend })
            }
        };
        if let Some(source) = faulty {
            return Err(ZramError::Pool { index, source });
        }
        // In bounds: the priority comes from a slot's word, which holds only priorities of the disk's algorithms.
        let codec = &self.disk.algorithms[page.priority];
        let fits = |draft: &mut Draft<'_>| draft.push(index, codec, bytes);
        if !self.draft.as_mut().is_some_and(fits) {
            self.write()?;
            let mut draft = self.begin().map_err(|source| not_written(index, source))?;
            assert!(fits(&mut draft), "an object found no room in an empty segment");
            self.draft = Some(draft);
        }
        // `begin` has made room.
        self.pages.push(page);
        Ok(())
    }

    /// Begins a segment. If none is free, cleans some.
    fn begin(&mut self) -> Result<Draft<'z>, DeviceError> {
        let draft = self.segments.draft_or_clean(&Names(self.disk), true)?;
        self.pages.try_reserve(draft.most_objects()).map_err(|_| DeviceError::OutOfMemory)?;
        Ok(draft)
    }

    /// Writes the segment that is being filled, if there is one, and lets the slots name the objects there. Leaves
    /// out the pages that were changed meanwhile.
    ///
    /// # Errors
    /// [`ZramError::Device`] with the segment's first page, or [`ZramError::DeviceFull`], if the device does not
    /// write the segment. No page of it has moved.
    pub(crate) fn write(&mut self) -> Result<(), ZramError> {
        let Some(draft) = self.draft.take() else { return Ok(()) };
        let mut pages = self.pages.drain(..);
        let first = pages.as_slice().first().map_or(0, |page| page.index);
        let written = draft.write().map_err(|source| not_written(first, source))?;
        let (disk, arrived) = (self.disk, &mut self.written);
        written.install(|_, at| {
            let moved = pages.next().is_some_and(|page| disk.arrive(page, at));
            *arrived += u64::from(moved);
            moved
        });
        Ok(())
    }
}

/// Returns the error for a page that the device did not take.
fn not_written(index: u64, source: DeviceError) -> ZramError {
    match source {
        DeviceError::Full { segments } => ZramError::DeviceFull { segments },
        source => ZramError::Device { index, source },
    }
}

impl Zram {
    /// Lets the slot of a page name the page's object on the device, and frees the object in the pool. Returns false
    /// and changes nothing if the slot holds something else by now.
    fn arrive(&self, page: Leaving<'_>, at: Address) -> bool {
        let Leaving { index, content, object, budget, .. } = page;
        let Some(slot) = self.table.lock(index) else { return false };
        let word = slot.word();
        if word.content() != content {
            // Unlock before the object is dropped, since that may free its memory.
            drop(slot);
            return false;
        }
        // The content is compared. While the slot is locked, nobody else frees the object.
        drop(object);
        self.exchange(slot, word.moved_to(at));
        budget.keep();
        self.counts.device_writes.add(1);
        true
    }
}

/// The disk's slots, as cleaning sees them. The key of an object is the number of its page.
struct Names<'z>(&'z Zram);

impl Entries for Names<'_> {
    fn holds(&self, key: u64, at: Address) -> bool {
        self.0.table.peek(key).is_some_and(|word| word.content() == Content::OnDevice(at))
    }

    fn replace(&self, key: u64, old: Address, new: Address) -> bool {
        let Some(mut slot) = self.0.table.lock(key) else { return false };
        let word = slot.word();
        let same = word.content() == Content::OnDevice(old);
        if same {
            slot.replace(word.moved_to(new));
        }
        same
    }
}
