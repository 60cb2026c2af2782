//! Reads of objects on the device: pinned under the entry's lock, read without any.

use std::sync::Arc;

use super::address::{Address, UNIT};
use super::seal::{Place, Sealed};
use super::state::Segments;
use crate::device::DeviceError;
use crate::{Codec, CodecFault, PAGE_SIZE};

/// Why a page could not be loaded from the device.
#[derive(Debug)]
pub enum LoadFault {
    /// The device failed, or did not return what was written to it.
    Device(DeviceError),
    /// The codec failed.
    Codec(CodecFault),
}

impl Segments {
    /// Pins the segment of an object, so that the object stays there while it is read. Call this under the lock of
    /// the entry that names the object: then the object is certain to be there. This call neither waits nor
    /// allocates.
    ///
    /// Returns `None` in a child after `fork`.
    ///
    /// # Panics
    /// If the segment holds no object.
    pub fn pin(&self, at: Address) -> Option<Pinned<'_>> {
        if !self.is_here() {
            return None;
        }
        let at = self.layout.read(at);
        let (attempt, codec) = self.with(|table| {
            let (attempt, codecs) = table.pin(at);
            (attempt, codecs.get(at.codec()).clone())
        });
        Some(Pinned { segments: self, at, attempt, codec })
    }
}

/// A pinned object. It stays where it is until this is dropped.
#[derive(Debug)]
pub struct Pinned<'a> {
    segments: &'a Segments,
    at: Address,
    attempt: u64,
    codec: Arc<Codec>,
}

impl Pinned<'_> {
    /// Returns the object's address.
    pub fn address(&self) -> Address {
        self.at
    }

    /// Returns the codec that compressed the object.
    pub fn codec(&self) -> &Arc<Codec> {
        &self.codec
    }

    /// Reads the object, with one read of the device, and calls `then` with its bytes. `key` is the key with which
    /// the object was written.
    ///
    /// # Errors
    /// Those of the device; [`DeviceError::Corrupt`] if the device does not return what was written;
    /// [`DeviceError::Panicked`] if it panics; [`DeviceError::Forked`] in a child after `fork`;
    /// [`DeviceError::OutOfMemory`] if the object is longer than a page and there is no memory to read it.
    ///
    /// # Blocking
    /// Blocks in the device.
    pub fn read<T>(&self, key: u64, then: impl FnOnce(&[u8]) -> T) -> Result<T, DeviceError> {
        let (offset, len) = (self.at.offset(), self.at.len());
        let block = self.segments.geometry().block_bytes;
        let start = offset / block * block;
        let end = (offset + len + self.segments.seal.tag_len()).next_multiple_of(block);
        // An object of at most a page reaches into at most two blocks of 4096 bytes.
        let (mut few, mut many, mut large);
        let buffer: &mut [u8] = if end - start <= PAGE_SIZE + 4 * UNIT {
            few = [0; PAGE_SIZE + 4 * UNIT];
            &mut few
        } else if end - start <= 2 * PAGE_SIZE {
            many = [0; 2 * PAGE_SIZE];
            &mut many
        } else {
            large = Vec::new();
            large.try_reserve_exact(end - start).map_err(|_| DeviceError::OutOfMemory)?;
            large.resize(end - start, 0);
            &mut large
        };
        let bytes = &mut buffer[..end - start];
        self.segments.read(self.at.segment(), start, bytes)?;
        self.segments.with(|table| table.figures.read_bytes += (end - start) as u64);
        self.open(key, &mut bytes[offset - start..]).map(then)
    }

    /// Opens the object, with whose sealed bytes `sealed` begins, in its place. Returns the object's bytes.
    pub(super) fn open<'b>(&self, key: u64, sealed: &'b mut [u8]) -> Result<&'b [u8], DeviceError> {
        let (offset, len) = (self.at.offset(), self.at.len());
        let place = Place { attempt: self.attempt, segment: self.at.segment(), offset };
        let what = Sealed::Object { key, codec: self.at.codec() };
        if self.segments.seal.open(what, place, sealed, len) {
            return Ok(&sealed[..len]);
        }
        Err(DeviceError::Corrupt { segment: u64::from(self.at.segment()), offset })
    }

    /// Reads the object and turns it back into its page. After an error the content of `page` is unspecified.
    ///
    /// # Errors
    /// [`LoadFault::Device`] as for [`Pinned::read`]; [`LoadFault::Codec`] if the codec fails.
    ///
    /// # Blocking
    /// Blocks in the device, and as [`Codec::decompress`] does.
    pub fn load(&self, key: u64, page: &mut [u8]) -> Result<(), LoadFault> {
        let restored = self.read(key, |object| self.restore(object, page));
        restored.map_err(LoadFault::Device)?.map_err(LoadFault::Codec)
    }

    /// Turns the object's bytes back into its page. After an error the content of `page` is unspecified.
    ///
    /// # Errors
    /// Those of [`Codec::decompress`].
    ///
    /// # Panics
    /// If the page is stored uncompressed and `page` has another length.
    pub fn restore(&self, object: &[u8], page: &mut [u8]) -> Result<(), CodecFault> {
        if object.len() == self.segments.unit() {
            // Only the object of an uncompressed page is as long as a page.
            page.copy_from_slice(object);
            return Ok(());
        }
        self.codec.decompress(object, page)
    }
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        if self.segments.is_here() && self.segments.with(|table| table.unpin(self.at.segment())) {
            self.segments.release(self.at.segment());
        }
    }
}
