//! A segment that is being filled in memory, and is then written with one call.

use std::sync::Arc;

use zpool_base::lockdep::might_sleep;

use super::address::{Address, UNIT};
use super::buffer::{Buffer, Item};
use super::codecs::CodecList;
use super::format::{LISTED, Listed, list, most_objects, units};
use super::state::Segments;
use super::table::Taken;
use crate::Codec;
use crate::device::DeviceError;

/// A segment that is being filled. Dropping this frees the segment, unless it was written.
#[derive(Debug)]
#[must_use = "nothing is written until `write`"]
pub struct Draft<'a> {
    segments: &'a Segments,
    segment: u32,
    buffer: Buffer,
    /// Where the next object goes, in bytes.
    end: usize,
    codecs: CodecList,
    /// Whether its objects come from other segments.
    cleaning: bool,
    /// Whether the device failed to write it.
    failed: bool,
}

impl Segments {
    /// Begins a segment. One segment is left for cleaning, if the device has at least four.
    ///
    /// # Errors
    /// [`DeviceError::Full`] if no segment is free: [`Segments::clean`] may help; [`DeviceError::OutOfMemory`] if
    /// there is no memory for the segment's bytes or for its record; [`DeviceError::Forked`] in a child after
    /// `fork`.
    pub fn draft(&self) -> Result<Draft<'_>, DeviceError> {
        match self.draft_of_sound() {
            Err(DeviceError::Full { .. }) if self.with(|table| table.forgive()) => {
                self.draft_of_sound()
            }
            draft => draft,
        }
    }

    /// Does what [`Segments::draft`] does, but takes no segment that could not be written.
    pub(super) fn draft_of_sound(&self) -> Result<Draft<'_>, DeviceError> {
        let reserve = u64::from(self.usable() >= 4);
        self.draft_beyond(reserve, false)
    }

    pub(super) fn draft_beyond(
        &self,
        reserve: u64,
        cleaning: bool,
    ) -> Result<Draft<'_>, DeviceError> {
        if !self.is_here() {
            return Err(DeviceError::Forked);
        }
        let (taken, spare) = self.with_state(|state| {
            let taken = state.table.take(reserve);
            let spare = matches!(taken, Taken::Segment(_))
                .then(|| state.spare.iter_mut().find_map(Option::take));
            (taken, spare.flatten())
        });
        let segment = match taken {
            Taken::Segment(segment) => segment,
            Taken::None => {
                return Err(DeviceError::Full { segments: self.usable() });
            }
            Taken::NoMemory => return Err(DeviceError::OutOfMemory),
        };
        let fresh = || {
            let buffer = Buffer::new(self.geometry().segment_bytes)?;
            self.with_state(|state| state.buffers += 1);
            Some(buffer)
        };
        match spare.or_else(fresh) {
            Some(buffer) => Ok(Draft::new(self, segment, buffer, cleaning)),
            None => {
                self.with(|table| table.give_back(segment));
                Err(DeviceError::OutOfMemory)
            }
        }
    }
}

impl<'a> Draft<'a> {
    pub(super) fn new(
        segments: &'a Segments,
        segment: u32,
        buffer: Buffer,
        cleaning: bool,
    ) -> Self {
        Draft {
            segments,
            segment,
            buffer,
            end: 0,
            codecs: CodecList::default(),
            cleaning,
            failed: false,
        }
    }

    /// Returns the number of objects added so far.
    #[expect(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        self.buffer.items.len()
    }

    /// Returns the most objects that a segment of this device holds.
    pub fn most_objects(&self) -> usize {
        most_objects(self.buffer.bytes.len())
    }

    fn fits(&self, len: usize) -> bool {
        let (objects, tag_len) = (self.len() + 1, self.segments.seal.tag_len());
        let end = self.end + units(len, tag_len) as usize * UNIT + objects * LISTED + tag_len;
        objects <= self.most_objects() && end <= self.buffer.bytes.len()
    }

    /// Returns whether this draft can take objects of all these codecs.
    pub(super) fn takes(&self, codecs: &CodecList) -> bool {
        let mut all = self.codecs.clone();
        codecs.iter().all(|codec| all.number(codec).is_some())
    }

    /// Removes all objects.
    pub(super) fn clear(&mut self) {
        self.buffer.items.clear();
        self.end = 0;
        self.codecs = CodecList::default();
    }

    /// Adds a copy of an object that `codec` compressed, or of a unit that is stored uncompressed. Returns
    /// whether it fitted: the segment may be full, or have objects of eight other codecs.
    ///
    /// # Panics
    /// If the object is empty or longer than a unit.
    pub fn push(&mut self, key: u64, codec: &Arc<Codec>, bytes: &[u8]) -> bool {
        let most = self.segments.unit();
        assert!((1..=most).contains(&bytes.len()), "an object of {} bytes", bytes.len());
        if !self.fits(bytes.len()) {
            return false;
        }
        let Some(codec) = self.codecs.number(codec) else { return false };
        let tag_len = self.segments.seal.tag_len();
        let next = self.end + units(bytes.len(), tag_len) as usize * UNIT;
        let place = &mut self.buffer.bytes[self.end..next];
        let (object, rest) = place.split_at_mut(bytes.len());
        object.copy_from_slice(bytes);
        // The tag comes here when the segment is written. What an earlier draft left is cleared.
        rest.fill(0);
        let item = Item { key, offset: self.end as u32, len: bytes.len() as u32, codec };
        self.buffer.items.push(item);
        self.end = next;
        true
    }

    /// Seals and writes the segment. The result owns the objects.
    ///
    /// # Errors
    /// Those of the device; [`DeviceError::Panicked`] if it panics; [`DeviceError::Forked`] in a child after
    /// `fork`. The segment is then discarded, and is used again only when no other is free.
    ///
    /// # Panics
    /// If the draft is empty.
    ///
    /// # Blocking
    /// Blocks in the device.
    pub fn write(mut self) -> Result<Written<'a>, DeviceError> {
        might_sleep("writing a segment");
        assert!(self.len() > 0, "an empty segment is written");
        let segments = self.segments;
        if !segments.is_here() {
            return Err(DeviceError::Forked);
        }
        let (attempt, end) = self.seal();
        let block = segments.geometry().block_bytes;
        let len = end.next_multiple_of(block);
        self.buffer.bytes[end..len].fill(0);
        let bytes = &self.buffer.bytes[..len];
        let written = segments.call("write", self.segment, |device| {
            device.write_segment(u64::from(self.segment), bytes)
        });
        if !segments.is_here() {
            // The device has forked, and returned in the child.
            return Err(DeviceError::Forked);
        }
        let codecs = core::mem::take(&mut self.codecs);
        let unused = segments.with(|table| {
            table.figures.written_bytes += len as u64;
            if written.is_err() {
                return Some(codecs);
            }
            let lens = self.buffer.items.iter().map(|item| item.len as usize);
            table.written(self.segment, attempt, codecs, lens, self.end);
            None
        });
        drop(unused);
        if let Err(error) = written {
            self.failed = true;
            segments.hint_discard(self.segment);
            return Err(error);
        }
        let buffer = core::mem::take(&mut self.buffer);
        let (segment, cleaning) = (self.segment, self.cleaning);
        core::mem::forget(self);
        Ok(Written { segments, segment, buffer, next: 0, cleaning, new_bytes: 0 })
    }

    /// Seals the objects, and writes and seals the directory. Returns the number of the attempt, and the end of the
    /// directory.
    fn seal(&mut self) -> (u64, usize) {
        let seal = &self.segments.seal;
        let (tag_len, mut sealing) = (seal.tag_len(), seal.begin(self.segment));
        let Buffer { bytes, items } = &mut self.buffer;
        let mut at = self.end;
        for Item { key, offset, len, codec } in items.iter().copied() {
            let (offset, len) = (offset as usize, len as usize);
            sealing.object(key, codec, offset, &mut bytes[offset..offset + len + tag_len]);
            let address = self.segments.layout.address(self.segment, offset, len, codec);
            list(Listed { key, at: address }, &mut bytes[at..at + LISTED]);
            at += LISTED;
        }
        let end = at + tag_len;
        (sealing.directory(self.end, &mut bytes[self.end..end]), end)
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        self.segments.end_draft(core::mem::take(&mut self.buffer), |table| {
            if self.failed {
                table.suspect(self.segment);
            } else {
                table.give_back(self.segment);
            }
            false
        });
    }
}

/// A segment that was written. Its objects are to be installed in the entries that they were made for. Dropping
/// this gives up the objects that were not installed.
#[derive(Debug)]
pub struct Written<'a> {
    segments: &'a Segments,
    segment: u32,
    buffer: Buffer,
    /// The next object that is neither installed nor given up.
    next: usize,
    /// Whether the objects come from other segments.
    cleaning: bool,
    /// Bytes of the objects that were installed.
    new_bytes: u64,
}

impl Written<'_> {
    /// Calls `install` with each object's number, in the order in which the objects were added, and its address.
    /// Gives up the objects for which `install` returns false. Returns how many were installed. If `install`
    /// panics, the object of that call is taken for an installed one.
    pub fn install(mut self, mut install: impl FnMut(usize, Address) -> bool) -> usize {
        let mut installed = 0;
        while self.next < self.buffer.items.len() {
            let (number, at) = (self.next, self.address(self.next));
            self.next += 1;
            if install(number, at) {
                installed += 1;
                self.new_bytes += at.len() as u64;
            } else {
                self.segments.give_up(at);
            }
        }
        installed
    }

    fn address(&self, number: usize) -> Address {
        let Item { offset, len, codec, .. } = self.buffer.items[number];
        self.segments.layout.address(self.segment, offset as usize, len as usize, codec)
    }
}

impl Drop for Written<'_> {
    fn drop(&mut self) {
        while self.next < self.buffer.items.len() {
            let at = self.address(self.next);
            self.next += 1;
            self.segments.give_up(at);
        }
        let buffer = core::mem::take(&mut self.buffer);
        let new_bytes = if self.cleaning { 0 } else { self.new_bytes };
        let unused = self.segments.end_draft(buffer, |table| {
            table.figures.new_bytes += new_bytes;
            table.list(self.segment)
        });
        if unused {
            self.segments.release(self.segment);
        }
    }
}
