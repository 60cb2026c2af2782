//! Writes, reads and discards one page of a disk.
//!
//! * Write of a whole page: unless the page is same-filled, the first algorithm compresses it and the backend
//!   stores the bytes, with no slot locked. Then the slot is locked, its word is replaced, the slot is unlocked,
//!   and the old content is freed. A write that fails changes nothing. A write of a part of a page keeps the slot
//!   locked from the read of the old page until the word is replaced.
//! * Read: the slot is locked, the object is pinned, in the pool or on the device, the slot is unlocked, and the
//!   pinned bytes are decompressed. Only a write of a part of a page, which keeps the slot locked throughout, reads
//!   the device under the lock.
//!
//! The thread that takes a word out of its slot frees the word's content, exactly once. It holds no slot's lock
//! while it does so.

use core::fmt;
use std::sync::Arc;

use zpage::device::DeviceError;
use zpage::same_filled::{Patterns, fill, pattern};
use zpage::segments::{Address, LoadFault, Pinned, Segments};
use zpage::{BuiltZpool, Codec, CodecFault};
use zpool_api::{Handle, PoolTag};
use zpool_base::contained::contain;

use crate::counts::Counts;
use crate::error::ZramError;
use crate::page_buffer::PageBuffer;
use crate::recent::{Found, RecentPages};
use crate::table::{SlotGuard, Table};
use crate::word::{Content, Word};

/// Returns from how many bytes on a compressed page of `unit` bytes is stored uncompressed. Every backend gives an
/// object of this size a whole page, so compressing it saves nothing; of a larger unit it saves little.
pub(crate) const fn huge_from(unit: usize) -> usize {
    unit - unit / 16
}

/// A compressed block device. The crate's front page has an example.
///
/// `Send` and `Sync`: share it by reference or `Arc` and call it from any thread.
pub struct Zram {
    pub(crate) table: Table,
    /// Bytes of the disk.
    pub(crate) disksize: u64,
    /// Bytes of a page.
    pub(crate) unit: usize,
    /// Pages that were read in part lately.
    pub(crate) recent: RecentPages,
    pub(crate) zpool: BuiltZpool,
    pub(crate) tag: PoolTag,
    pub(crate) pool_page: usize,
    pub(crate) algorithms: Box<[Arc<Codec>]>,
    pub(crate) patterns: Patterns,
    pub(crate) backing: Option<Segments>,
    pub(crate) counts: Counts,
}

impl Zram {
    /// Returns the size of the disk in bytes.
    pub fn disksize(&self) -> u64 {
        self.disksize
    }

    /// Returns the bytes of a page of the disk ([`ZramBuilder::unit`](crate::ZramBuilder::unit)).
    pub fn unit(&self) -> usize {
        self.unit
    }

    /// Writes a whole page. `index` is the page's number. The page must be on the disk.
    pub(crate) fn write_page(&self, index: u64, page: &[u8]) -> Result<(), ZramError> {
        // The old object is freed later. While the page is compressed, the CPU loads the memory that `free` will
        // read.
        if let Some(Content::Object { bits, .. }) = self.table.peek(index).map(Word::content) {
            self.zpool.prefetch(Handle::new(self.tag, bits));
        }
        let content = self.content_of(index, page)?;
        match self.lock_to_fill(index) {
            Ok(mut slot) => {
                slot.touch();
                self.exchange(slot, Word::new(content));
                Ok(())
            }
            Err(error) => {
                self.discard_word(Word::new(content));
                Err(error)
            }
        }
    }

    fn lock_to_fill(&self, index: u64) -> Result<SlotGuard<'_>, ZramError> {
        let locked = self.table.lock_to_fill(index);
        locked.map_err(|no_memory| ZramError::Table { index, bytes: no_memory.bytes })
    }

    /// Replaces the word of a locked slot, unlocks the slot, and frees the old content.
    pub(crate) fn exchange(&self, mut slot: SlotGuard<'_>, new: Word) {
        let index = slot.index();
        let old = slot.replace(new);
        // Counted under the lock: the next replacement must not subtract this word before it is added.
        self.counts.replaced(old, new);
        // Under the lock, too: who finds the new content finds no copy of the old one afterwards.
        self.recent.forget(index);
        drop(slot);
        self.discard_word(old);
    }

    /// Reads a whole page.
    pub(crate) fn read_page(&self, index: u64, page: &mut [u8]) -> Result<(), ZramError> {
        let Some(mut slot) = self.table.lock(index) else {
            page.fill(0);
            return Ok(());
        };
        slot.touch();
        self.read_slot(index, slot, page)
    }

    /// Reads a part of a page, from the byte `start` of the page on. The decompressed page is kept for the next parts,
    /// unless pages have 4096 bytes: those are faster decompressed again than looked up.
    pub(crate) fn read_part(
        &self,
        index: u64,
        start: usize,
        to: &mut [u8],
    ) -> Result<(), ZramError> {
        if self.recent.is_in_use() {
            let read = |page: &mut [u8]| self.read_page(index, page);
            match self.recent.read(index, self.unit, start, to, read)? {
                Found::Slot => return Ok(()),
                Found::Copy => {
                    // The page was used, although its slot was not read.
                    if let Some(mut slot) = self.table.lock(index) {
                        slot.touch();
                    }
                    return Ok(());
                }
                Found::Nowhere => {}
            }
        }
        let mut buffer = PageBuffer::new(index, self.unit)?;
        let page = buffer.bytes();
        self.read_page(index, page)?;
        to.copy_from_slice(&page[start..start + to.len()]);
        Ok(())
    }

    /// Reads a page, changes it and writes it again. Its slot stays locked throughout.
    pub(crate) fn change_page(
        &self,
        index: u64,
        change: impl FnOnce(&mut [u8]),
    ) -> Result<(), ZramError> {
        let mut buffer = PageBuffer::new(index, self.unit)?;
        let page = buffer.bytes();
        let mut slot = self.lock_to_fill(index)?;
        self.read_locked(index, &slot, page)?;
        change(page);
        let content = self.content_of(index, page)?;
        slot.touch();
        self.exchange(slot, Word::new(content));
        Ok(())
    }

    /// Makes the page read as zeros and frees its memory.
    pub(crate) fn discard_page(&self, index: u64) {
        if let Some(slot) = self.table.lock(index) {
            self.exchange(slot, Word::new(Content::Empty));
        }
    }

    /// Stores a page as a pattern or as a new object, and returns the content for its slot. Changes no slot.
    pub(crate) fn content_of(&self, index: u64, page: &[u8]) -> Result<Content, ZramError> {
        if let Some(packed) = pattern(page).and_then(|pattern| self.patterns.pack(pattern)) {
            return Ok(Content::Same(packed));
        }
        // The builder gives a disk at least one algorithm.
        let stored = self.algorithms[0].compress(page, |bytes| {
            let huge = bytes.len() >= huge_from(self.unit);
            let bytes = if huge { page } else { bytes };
            self.zpool.malloc_from(bytes).map(|handle| (handle, huge))
        });
        let (handle, huge) = stored
            .map_err(|fault| fault_at(index, fault))?
            .map_err(|source| ZramError::Pool { index, source })?;
        let content = Content::Object { bits: handle.backend_bits(), priority: 0, huge };
        self.within_limit(index, content)?;
        Ok(content)
    }

    /// Returns the bytes of the pool pages that hold objects, as the backend reports; 0 if it panics.
    pub(crate) fn pool_bytes(&self) -> usize {
        contain(|| self.zpool.total_pages()).unwrap_or(0).saturating_mul(self.pool_page)
    }

    /// Checks the pool's size, which includes the new object, against the limit. If the size exceeds the
    /// limit, frees the object and fails with [`ZramError::MemLimit`]. Otherwise records the size for
    /// `mem_used_max`.
    fn within_limit(&self, index: u64, content: Content) -> Result<(), ZramError> {
        let used = self.pool_bytes();
        let limit = self.counts.mem_limit();
        if limit > 0 && used > limit {
            self.discard_word(Word::new(content));
            return Err(ZramError::MemLimit { index, limit });
        }
        self.counts.used(used);
        Ok(())
    }

    /// Reads the page of a locked slot. Unlocks the slot as soon as the object that it names is pinned, or the pattern
    /// is read: `page` is the caller's memory, and is not touched under the lock.
    fn read_slot(&self, index: u64, slot: SlotGuard<'_>, page: &mut [u8]) -> Result<(), ZramError> {
        match slot.word().content() {
            Content::Object { bits, priority, huge } => {
                let object = self.zpool.obj_read_begin(Handle::new(self.tag, bits));
                drop(slot);
                let object = object.map_err(|source| ZramError::Pool { index, source })?;
                self.restore(index, &object, priority, huge, page)
            }
            Content::OnDevice(at) => {
                let object = self.pin(index, at);
                drop(slot);
                self.load(index, &object?, page)
            }
            Content::Empty => {
                drop(slot);
                page.fill(0);
                Ok(())
            }
            Content::Same(packed) => {
                let pattern = self.patterns.unpack(packed);
                drop(slot);
                fill(page, pattern);
                Ok(())
            }
        }
    }

    /// Reads the page of a locked slot into a page of this crate. The slot stays locked.
    pub(crate) fn read_locked(
        &self,
        index: u64,
        slot: &SlotGuard<'_>,
        page: &mut [u8],
    ) -> Result<(), ZramError> {
        match slot.word().content() {
            Content::Empty => page.fill(0),
            Content::Same(packed) => fill(page, self.patterns.unpack(packed)),
            Content::Object { bits, priority, huge } => {
                let object = self.zpool.obj_read_begin(Handle::new(self.tag, bits));
                let object = object.map_err(|source| ZramError::Pool { index, source })?;
                self.restore(index, &object, priority, huge, page)?;
            }
            Content::OnDevice(at) => self.load(index, &self.pin(index, at)?, page)?,
        }
        Ok(())
    }

    /// Pins an object on the device. The caller holds the lock of the slot that names it.
    fn pin(&self, index: u64, at: Address) -> Result<Pinned<'_>, ZramError> {
        let forked = ZramError::Device { index, source: DeviceError::Forked };
        self.segments().pin(at).ok_or(forked)
    }

    /// Reads the page of an object on the device.
    fn load(&self, index: u64, object: &Pinned<'_>, page: &mut [u8]) -> Result<(), ZramError> {
        let loaded = object.load(index, page);
        if !matches!(loaded, Err(LoadFault::Device(_))) {
            self.counts.device_reads.add(1);
        }
        loaded.map_err(|fault| match fault {
            LoadFault::Device(source) => ZramError::Device { index, source },
            LoadFault::Codec(fault) => fault_at(index, fault),
        })
    }

    /// Decompresses an object into `page`, or copies it if it is a page that was stored uncompressed.
    pub(crate) fn restore(
        &self,
        index: u64,
        object: &[u8],
        priority: usize,
        huge: bool,
        page: &mut [u8],
    ) -> Result<(), ZramError> {
        if huge && object.len() == self.unit {
            page.copy_from_slice(object);
            return Ok(());
        }
        // In bounds: the priority comes from a slot's word, which holds only priorities of the disk's algorithms.
        self.algorithms[priority].decompress(object, page).map_err(|fault| fault_at(index, fault))
    }

    /// Returns the error for an algorithm that the disk does not have.
    pub(crate) fn no_such(&self, asked: &str) -> ZramError {
        let known: Vec<String> =
            self.algorithms.iter().skip(1).map(|a| a.compressor().spec()).collect();
        ZramError::NoSuchAlgorithm { asked: asked.to_owned(), known: known.join(", ") }
    }

    /// Returns the segments of the disk's device. Called only for a page on the device, so there is one.
    #[expect(
        clippy::expect_used,
        reason = "only writeback to the device makes words that name its objects"
    )]
    fn segments(&self) -> &Segments {
        self.backing.as_ref().expect("a page is on a device, but the disk has no device")
    }

    /// Frees the content of a word that no slot contains.
    pub(crate) fn discard_word(&self, word: Word) {
        match word.content() {
            Content::Empty => {}
            Content::Same(packed) => self.patterns.release(packed),
            Content::OnDevice(at) => self.segments().give_up(at),
            Content::Object { bits, .. } => {
                // No slot has this handle now, so this fails only if the backend is faulty. In that case
                // nothing else could free the object.
                let _ = contain(|| self.zpool.free(Handle::new(self.tag, bits)));
            }
        }
    }
}

/// Turns a codec's error into one that names the page.
pub(crate) fn fault_at(index: u64, fault: CodecFault) -> ZramError {
    match fault {
        CodecFault::Reentrant => ZramError::Reentrant { index },
        CodecFault::Failed(source) => ZramError::Codec { index, source },
    }
}

impl Drop for Zram {
    fn drop(&mut self) {
        // The device may outlive the disk, so `reset` gives up the objects there, and their segments are discarded.
        self.reset();
    }
}

impl fmt::Debug for Zram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zram")
            .field("disksize", &self.disksize())
            .field("zpool", &self.zpool.name())
            .field("algorithms", &self.algorithms)
            .finish_non_exhaustive()
    }
}
