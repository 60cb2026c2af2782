//! Pages that stay resident and writable, for system calls.

use core::fmt;
use core::ops::Range;
use std::io::{self, Read, Write};

use crate::error::PinError;
use crate::fault::Access;
use crate::range::pages_of;
use crate::region::Region;

/// Bytes of a region whose pages stay mapped and writable until this is dropped: the kernel can read and write them, too.
/// [`Region::pin`] returns one. `Send` and `Sync`; dropping it takes some nanoseconds a page, and does not block.
///
/// ```
/// # use zswap_region::Region;
/// # // SAFETY: the program keeps the rules of the crate's front page.
/// # let Ok(region) = (unsafe { Region::builder().capacity(1 << 20).resident_bytes(1 << 20).build() }) else { return };
/// let pinned = region.pin(100..200).unwrap();
/// assert_eq!(pinned.as_ref(), [0; 100]);
/// assert_eq!(region.stats().pinned_bytes, 4096);
/// drop(pinned);
/// assert_eq!(region.stats().pinned_bytes, 0);
/// ```
#[must_use = "the pages are unpinned when this is dropped"]
pub struct Pinned<'a> {
    region: &'a Region,
    range: Range<usize>,
}

impl Region {
    /// Makes the pages of a range of bytes resident and keeps them so: mapped and writable, until the result is dropped.
    /// For system calls, which fail with EFAULT if they meet an evicted page. A page can be pinned several times.
    ///
    /// # Errors
    /// [`PinError::Range`] if the range is not in the region, [`PinError::TooMany`] if more than three quarters of what
    /// may be resident would be pinned, [`PinError::Page`] if a page cannot be read or there is no room. Then nothing is
    /// pinned.
    ///
    /// # Blocking
    /// Waits as a touch of each page does: for the codec, and for the device if the page is there.
    pub fn pin(&self, range: Range<usize>) -> Result<Pinned<'_>, PinError> {
        let pages = self.check(&range)?;
        if pages.is_empty() {
            return Ok(Pinned { region: self, range });
        }
        let served = self.served();
        let engine = &served.engine;
        // Pins are counted before they are made, so that two calls cannot both find room for themselves.
        let pinned = engine.pinned.add(pages.len()) - pages.len();
        let most = engine.room.limit() / 4 * 3;
        if pinned + pages.len() > most {
            engine.pinned.sub(pages.len());
            return Err(PinError::TooMany { pages: pages.len(), pinned, most });
        }
        let mut stage = served.stage();
        for page in pages.clone() {
            if let Err(trouble) = engine.fault(page, Access::Pin, &mut stage.buffers(1)) {
                (pages.start..page).for_each(|page| engine.unpin(page));
                engine.pinned.sub(pages.end - page);
                return Err(PinError::Page(trouble));
            }
        }
        Ok(Pinned { region: self, range })
    }

    fn check_here(&self) -> io::Result<()> {
        let message = "the region belongs to the process that forked this one";
        if self.is_here() { Ok(()) } else { Err(io::Error::other(message)) }
    }

    /// Reads once from `source` into the bytes of a range, which are pinned meanwhile. Returns how many bytes came.
    ///
    /// # Errors
    /// Those of [`Region::pin`], of kind `Other`, and those of the source. Kind `Other` also in a child after `fork`.
    pub fn read_from(&mut self, range: Range<usize>, mut source: impl Read) -> io::Result<usize> {
        self.check_here()?;
        let pinned = self.pin(range).map_err(io::Error::other)?;
        let (start, len) = (pinned.as_ptr(), pinned.len());
        // SAFETY: the bytes are in the region, which this call has alone.
        source.read(unsafe { core::slice::from_raw_parts_mut(start, len) })
    }

    /// Writes the bytes of a range once to `sink`; they are pinned meanwhile. Returns how many were written.
    ///
    /// # Errors
    /// Those of [`Region::pin`], of kind `Other`, and those of the sink. Kind `Other` also in a child after `fork`.
    pub fn write_to(&self, range: Range<usize>, mut sink: impl Write) -> io::Result<usize> {
        self.check_here()?;
        sink.write(self.pin(range).map_err(io::Error::other)?.as_ref())
    }
}

impl Pinned<'_> {
    /// Returns the address of the first byte. It may be written, also by the kernel, under the rules that hold for all
    /// of the region's memory ([`Region::as_ptr`]).
    pub fn as_ptr(&self) -> *mut u8 {
        self.region.as_ptr().wrapping_add(self.range.start)
    }

    /// Returns the number of bytes.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }
}

impl AsRef<[u8]> for Pinned<'_> {
    fn as_ref(&self) -> &[u8] {
        // Only these bytes: others may borrow the rest of the region meanwhile.
        // SAFETY: the range was checked when it was pinned. Nobody writes these bytes while this borrow lives, by Rust's
        // rules for the memory of a region (`Region::as_ptr`).
        unsafe { self.region.served().engine.bytes(self.range.start, self.range.len()) }
    }
}

impl fmt::Debug for Pinned<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinned").field("range", &self.range).finish_non_exhaustive()
    }
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        if self.region.is_here() {
            pages_of(&self.range, self.region.unit())
                .for_each(|page| self.region.served().engine.unpin(page));
        }
    }
}
