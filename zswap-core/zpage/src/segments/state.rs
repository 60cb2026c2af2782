//! A device with its table of segments and the memory for drafts and cleaning. Every call to the device is made here.
//!
//! Lock: *segments of the device*, a leaf mutex. `mod.rs` has its rules.

use std::sync::Arc;
use std::thread::ThreadId;

use zpool_base::lockdep::{self, Rank, might_sleep};
use zpool_base::unwind::caught;

use super::address::{Address, Layout};
use super::buffer::{Buffer, CleaningMemory};
#[cfg(feature = "encrypt")]
use super::cipher::Algorithm;
use super::format::{LISTED, most_objects};
use super::seal::Seal;
use super::table::{Figures, Table};
use crate::device::joined;
use crate::device::{AttachError, Attached, DeviceError, Geometry, RangeRead, SwapDevice};
use crate::sync::{Condvar, Mutex};
use crate::{PAGE_SIZE, check_unit};

/// The most drafts whose memory is kept for later ones.
const MOST_SPARE: usize = 4;

#[derive(Debug)]
pub(super) struct State {
    pub(super) table: Table,
    /// Drafts' buffers that exist, in use or spare.
    pub(super) buffers: usize,
    /// Spare memory for drafts.
    pub(super) spare: [Option<Buffer>; MOST_SPARE],
    /// The thread that cleans, if one does. Under the model checker it has no number.
    pub(super) cleaner: Option<Option<ThreadId>>,
    /// Memory for cleaning. `None` while a thread cleans.
    pub(super) memory: Option<CleaningMemory>,
}

/// A device with its segments. `Send` and `Sync`.
///
/// ```
/// use std::sync::Arc;
/// use zpage::device::MemorySwapDevice;
/// use zpage::segments::Segments;
/// use zpage::{Codec, PAGE_SIZE, Recipe};
///
/// let codec = Arc::new(Codec::new(Recipe::builtin().compressor("null")?.compressor));
/// let segments = Segments::attach(Arc::new(MemorySwapDevice::new(1000)))?;
/// let mut draft = segments.draft()?;
/// assert!(draft.push(7, &codec, &[1; PAGE_SIZE]) && draft.push(8, &codec, &[2; PAGE_SIZE]));
/// let mut places = Vec::new();
/// draft.write()?.install(|_, at| {
///     places.push(at);
///     true
/// });
///
/// let mut page = [0; PAGE_SIZE];
/// let pinned = segments.pin(places[1]).expect("this process attached the device");
/// assert!(pinned.load(8, &mut page).is_ok());
/// assert_eq!(page, [2; PAGE_SIZE]);
/// drop(pinned);
/// places.into_iter().for_each(|at| segments.give_up(at));
/// assert_eq!(segments.figures().segments, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Segments {
    pub(super) device: Attached,
    /// Bytes of the longest object.
    unit: usize,
    pub(super) layout: Layout,
    pub(super) seal: Seal,
    pub(super) state: Mutex<State>,
    /// Signalled when cleaning ends.
    pub(super) cleaned: Condvar,
}

impl Segments {
    /// Attaches a device until the result is dropped. All segments are free at first. Allocates the memory of two
    /// drafts and of cleaning: three segments and their lists.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zpage::device::{AttachError, MemorySwapDevice};
    /// use zpage::segments::Segments;
    ///
    /// let device = Arc::new(MemorySwapDevice::new(1000));
    /// let segments = Segments::attach(device.clone())?;
    /// assert_eq!(Segments::attach(device.clone()).unwrap_err(), AttachError::InUse);
    /// drop(segments);
    /// assert!(Segments::attach(device).is_ok());
    /// # Ok::<(), AttachError>(())
    /// ```
    ///
    /// # Errors
    /// [`AttachError::InUse`] if the device, or one that it wraps, is attached already;
    /// [`AttachError::TooMany`] if it wraps too many devices; [`AttachError::Geometry`] if its sizes cannot be
    /// used; [`AttachError::Panicked`] if it panics; [`AttachError::OutOfMemory`] if there is no memory.
    pub fn attach(device: Arc<dyn SwapDevice>) -> Result<Self, AttachError> {
        Self::attach_for(device, PAGE_SIZE)
    }

    /// Attaches a device as [`attach`](Self::attach) does, for objects of up to `unit` bytes. If the device's segments
    /// hold fewer than four such objects, several segments of the device make one, of at most 256 KiB.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zpage::device::MemorySwapDevice;
    /// use zpage::segments::Segments;
    /// use zpage::{Codec, Recipe};
    ///
    /// let segments = Segments::attach_for(Arc::new(MemorySwapDevice::new(1000)), 65536)?;
    /// assert_eq!(segments.geometry().segment_bytes, 256 << 10);
    /// let null = Recipe::builtin().compressor("null")?.compressor;
    /// let codec = Arc::new(Codec::new(null).for_unit(65536));
    /// assert!(segments.draft()?.push(7, &codec, &[1; 65536]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`attach`](Self::attach); [`AttachError::Unit`] if `unit` is no unit, or if too few segments could be
    /// joined to hold one.
    pub fn attach_for(device: Arc<dyn SwapDevice>, unit: usize) -> Result<Self, AttachError> {
        Self::attach_sealed(device, Seal::plain(), unit)
    }

    /// Attaches a device as [`attach`](Self::attach) does, and encrypts what is written to it.
    ///
    /// Everything in a segment is encrypted, the keys of its objects included, except the zeros between objects. A
    /// read fails with [`DeviceError::Corrupt`] if a byte was changed, if objects or segments were exchanged, or if
    /// something older was put back. The cipher is AES-256-GCM if the processor has instructions for it, else
    /// ChaCha20-Poly1305.
    ///
    /// # The key
    /// The key is random and is never written. On Linux it has a page of its own, which neither a core dump nor a
    /// child after `fork` has, and which is locked in memory if the process may lock a page. It is zeroed when the
    /// result is dropped, also while a panic unwinds. What the processor's registers hold, and what the ciphers
    /// leave on the stacks of threads, is not zeroed.
    ///
    /// # What stays visible
    /// Somebody who watches the device sees which bytes of which segments are written, read and discarded, and when;
    /// and so how long objects are, which says something about their content. In memory nothing is encrypted: the
    /// buffers of drafts and of cleaning hold objects as they are, also after use.
    ///
    /// # Cost
    /// 12 bytes more for each object and for each segment. To encrypt or decrypt an object of 1600 bytes takes
    /// half as long as `lz4` takes to decompress it, on a processor with AES instructions. With
    /// ChaCha20-Poly1305 it took 2.5 times as long as `lz4` there. A checksum takes 0.02 of that time.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zpage::device::{MemorySwapDevice, SwapDevice};
    /// use zpage::segments::Segments;
    /// use zpage::{Codec, PAGE_SIZE, Recipe};
    ///
    /// let device = Arc::new(MemorySwapDevice::new(1000));
    /// let segments = Segments::attach_encrypted(device.clone())?;
    /// let codec = Arc::new(Codec::new(Recipe::builtin().compressor("null")?.compressor));
    /// let mut draft = segments.draft()?;
    /// assert!(draft.push(7, &codec, &[1; PAGE_SIZE]));
    /// draft.write()?.install(|_, at| {
    ///     let pinned = segments.pin(at).expect("this process attached the device");
    ///     assert!(pinned.read(7, |object| object == [1; PAGE_SIZE]).is_ok_and(|equal| equal));
    ///     true
    /// });
    /// let mut written = [0; 64];
    /// device.read(0, 0, &mut written)?;
    /// assert_ne!(written, [1; 64]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`attach`](Self::attach); [`AttachError::Key`] if the system gives no random numbers, or no memory that
    /// stays out of core dumps and children.
    #[cfg(feature = "encrypt")]
    pub fn attach_encrypted(device: Arc<dyn SwapDevice>) -> Result<Self, AttachError> {
        Self::attach_encrypted_for(device, PAGE_SIZE)
    }

    /// Attaches a device as [`attach_for`](Self::attach_for) does, and encrypts what is written to it as
    /// [`attach_encrypted`](Self::attach_encrypted) does.
    ///
    /// # Errors
    /// Those of both.
    #[cfg(feature = "encrypt")]
    pub fn attach_encrypted_for(
        device: Arc<dyn SwapDevice>,
        unit: usize,
    ) -> Result<Self, AttachError> {
        let seal = Seal::encrypted(Algorithm::of_this_processor())?;
        Self::attach_sealed(device, seal, unit)
    }

    fn attach_sealed(
        device: Arc<dyn SwapDevice>,
        seal: Seal,
        unit: usize,
    ) -> Result<Self, AttachError> {
        check_unit(unit).map_err(|_| AttachError::Unit { unit, segment_bytes: 0 })?;
        let device = Attached::attach(joined::for_unit(device, unit)?)?;
        let geometry = device.geometry();
        let layout = Layout::of(unit);
        let count = geometry.segments.min(layout.most_segments());
        // Cleaning a segment must win room for a unit, or an eighth of the segment.
        let one = unit + 2 * seal.tag_len() + LISTED;
        let segment_bytes = geometry.segment_bytes;
        if one > segment_bytes {
            return Err(AttachError::Unit { unit, segment_bytes });
        }
        let spare = (segment_bytes / 8).max(one - seal.tag_len());
        let buffer = || Buffer::new(geometry.segment_bytes).ok_or(AttachError::OutOfMemory);
        let objects = most_objects(geometry.segment_bytes);
        let memory =
            CleaningMemory::new(geometry.segment_bytes, objects).ok_or(AttachError::OutOfMemory)?;
        let state = State {
            table: Table::new(count, geometry.segment_bytes, spare, seal.tag_len()),
            buffers: 2,
            spare: [Some(buffer()?), Some(buffer()?), None, None],
            cleaner: None,
            memory: Some(memory),
        };
        let (state, cleaned) = (Mutex::new(state), Condvar::new());
        Ok(Segments { device, unit, layout, seal, state, cleaned })
    }

    pub(super) fn with_state<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let _held = lockdep::acquire(Rank::Leaf);
        change(&mut self.state.lock())
    }

    pub(super) fn with<T>(&self, change: impl FnOnce(&mut Table) -> T) -> T {
        self.with_state(|state| change(&mut state.table))
    }

    pub(super) fn is_here(&self) -> bool {
        self.device.is_here()
    }

    /// Returns the bytes of the longest object.
    pub fn unit(&self) -> usize {
        self.unit
    }

    /// Returns the sizes of the device; those of joined segments if [`attach_for`](Self::attach_for) joined some.
    pub fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    /// Returns the number of segments that are used: those of the device, but at most 2^24, or half as many for each
    /// doubling of the unit above 4 KiB.
    pub fn usable(&self) -> u64 {
        self.geometry().segments.min(self.layout.most_segments())
    }

    /// Makes a call to the device. Turns a panic into [`DeviceError::Panicked`].
    pub(super) fn call(
        &self,
        operation: &'static str,
        segment: u32,
        call: impl FnOnce(&dyn SwapDevice) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        let segment = u64::from(segment);
        let done = caught(|| call(self.device.device()))
            .unwrap_or(Err(DeviceError::Panicked { operation, segment }));
        // The device may have forked, and returned in the child, whose locks may stay locked.
        if self.is_here() { done } else { Err(DeviceError::Forked) }
    }

    /// Discards a segment. If the device panics here, the segment's space may stay in use.
    pub(super) fn hint_discard(&self, segment: u32) {
        might_sleep("discarding a segment");
        let _ = caught(|| self.device.device().discard(u64::from(segment)));
    }

    /// Discards and frees a segment that the table has released.
    pub(super) fn release(&self, segment: u32) {
        let codecs = self.with(|table| table.codecs_of_released(segment));
        self.hint_discard(segment);
        if self.is_here() {
            self.with(|table| table.give_back(segment));
            drop(codecs);
        } else {
            core::mem::forget(codecs);
        }
    }

    /// Ends a draft: keeps its memory for a later one, and changes the table. Does neither in a child after `fork`.
    pub(super) fn end_draft(
        &self,
        mut buffer: Buffer,
        change: impl FnOnce(&mut Table) -> bool,
    ) -> bool {
        if !self.is_here() {
            core::mem::forget(buffer);
            return false;
        }
        buffer.items.clear();
        let (changed, surplus) = self.with_state(|state| {
            let changed = change(&mut state.table);
            match state.spare.iter_mut().find(|place| place.is_none()) {
                Some(place) => {
                    *place = Some(buffer);
                    (changed, None)
                }
                None => {
                    state.buffers -= 1;
                    (changed, Some(buffer))
                }
            }
        });
        // Freed without the lock.
        drop(surplus);
        changed
    }

    /// Gives up an object that no entry names any more. If it was the segment's last, and nobody reads the
    /// segment, discards and frees the segment; otherwise the last reader does. Does nothing in a child after
    /// `fork`.
    ///
    /// # Panics
    /// If the segment holds no object, or no object of this length.
    ///
    /// # Blocking
    /// Blocks in the device.
    pub fn give_up(&self, at: Address) {
        let at = self.layout.read(at);
        if self.is_here() && self.with(|table| table.give_up(at)) {
            self.release(at.segment());
        }
    }

    /// Waits until all that was written is on the device's storage.
    ///
    /// # Errors
    /// Those of the device; [`DeviceError::Panicked`] if it panics; [`DeviceError::Forked`] in a child after
    /// `fork`.
    ///
    /// # Blocking
    /// Blocks in the device.
    pub fn flush(&self) -> Result<(), DeviceError> {
        might_sleep("flushing a device");
        if !self.is_here() {
            return Err(DeviceError::Forked);
        }
        self.call("flush", 0, |device| device.flush())
    }

    /// Returns what is on the device, and what was written to it; all zero in a child after `fork`.
    pub fn figures(&self) -> Figures {
        if self.is_here() { self.with(|table| table.figures) } else { Figures::default() }
    }

    /// Returns whether a segment may soon become free without cleaning: another thread fills, writes, cleans or
    /// discards it, or reads what is left of it. False in a child after `fork`.
    pub fn is_in_flight(&self) -> bool {
        self.is_here() && self.with(|table| table.is_in_flight())
    }

    /// Returns the number of free segments; 0 in a child after `fork`.
    pub fn free(&self) -> u64 {
        if self.is_here() { self.with(|table| table.free()) } else { 0 }
    }

    /// Returns the heap bytes used to keep track of segments, including those of the device, for drafts and
    /// cleaning, and for the key; 0 in a child after `fork`.
    pub fn memory_bytes(&self) -> usize {
        if !self.is_here() {
            return 0;
        }
        let device = caught(|| self.device.device().memory_bytes()).unwrap_or(0);
        let segment_bytes = self.geometry().segment_bytes;
        let cleaning = CleaningMemory::bytes_for(segment_bytes, most_objects(segment_bytes));
        let own = self.with_state(|state| {
            let buffers = state.buffers * Buffer::bytes_for(segment_bytes);
            state.table.memory_bytes() + buffers
        });
        let own = own + cleaning + self.seal.memory_bytes();
        own.saturating_add(device)
    }

    /// Fills `bytes` from a segment.
    pub(super) fn read(
        &self,
        segment: u32,
        offset: usize,
        bytes: &mut [u8],
    ) -> Result<(), DeviceError> {
        might_sleep("reading a segment");
        if !self.is_here() {
            return Err(DeviceError::Forked);
        }
        self.call("read", segment, |device| device.read(u64::from(segment), offset, bytes))
    }

    /// Does several reads at once, and sets the result of each.
    pub(super) fn read_many(&self, reads: &mut [RangeRead<'_>]) {
        might_sleep("reading segments");
        if !self.is_here() {
            reads.iter_mut().for_each(|read| read.result = Err(DeviceError::Forked));
            return;
        }
        let panicked = caught(|| self.device.device().read_many(reads)).is_none();
        // The device may have forked, as in `call`.
        let forked = !self.is_here();
        for read in reads.iter_mut().filter(|_| panicked || forked) {
            let (operation, segment) = ("read", read.segment);
            let panic = DeviceError::Panicked { operation, segment };
            read.result = Err(if forked { DeviceError::Forked } else { panic });
        }
    }
}
