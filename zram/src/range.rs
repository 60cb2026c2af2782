//! Ranges of bytes, anywhere on the disk. Whole pages are written directly. If a write begins or ends within a
//! page, that page is read, changed and written under the lock of its slot.

use core::ops::Range;

use crate::Zram;
use crate::error::ZramError;
use crate::page_buffer::PageBuffer;

/// The part of a range that lies on one page.
struct Part {
    index: u64,
    /// Where the part is in the page.
    on_page: Range<usize>,
    /// Where the part is in the range, and so in the caller's buffer.
    of_range: Range<usize>,
    /// Bytes of the page that are on the disk: less than a page if the disk ends within it.
    on_disk: usize,
}

impl Part {
    /// Returns whether the part is all of the page that is on the disk.
    fn is_whole(&self) -> bool {
        self.on_page.len() == self.on_disk
    }
}

/// Splits a range of a disk into its parts, page by page.
fn parts(unit: usize, disksize: u64, offset: u64, len: u64) -> impl Iterator<Item = Part> {
    let (size, end) = (unit as u64, offset + len);
    let pages = offset / size..end.div_ceil(size);
    pages.filter(move |_| len > 0).map(move |index| {
        let (first, last) = (index * size, (index + 1) * size);
        let (from, to) = (offset.max(first), end.min(last));
        Part {
            index,
            on_page: (from - first) as usize..(to - first) as usize,
            of_range: (from - offset) as usize..(to - offset) as usize,
            on_disk: (disksize.min(last) - first) as usize,
        }
    })
}

impl Zram {
    /// Fills `bytes` with the bytes of the disk from `offset` on. Bytes that were never written are zeros.
    /// After an error the content of `bytes` is unspecified.
    ///
    /// ```
    /// let disk = zram::Zram::builder().disksize(1 << 20).build()?;
    /// disk.write(5000, b"bytes")?;
    /// let mut back = [0; 7];
    /// disk.read(4999, &mut back)?;
    /// assert_eq!(&back, b"\0bytes\0");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ZramError::OutOfRange`] if the range is not on the disk; [`ZramError::Pool`], [`ZramError::Codec`] or
    /// [`ZramError::Device`] if the backend, the codec or the device fails; [`ZramError::Buffer`] if there is no memory
    /// to decompress a page of more than 4096 bytes; [`ZramError::Reentrant`] if called from inside a codec or backend.
    ///
    /// # Blocking
    /// Sleeps in the codec and the device. Also sleeps while another thread writes a part of the same page or
    /// recompresses the page.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), ZramError> {
        let done = self.check(offset, bytes.len() as u64).and_then(|()| {
            for part in self.parts(offset, bytes.len() as u64) {
                let to = &mut bytes[part.of_range.clone()];
                if to.len() == self.unit {
                    self.read_page(part.index, to)?;
                } else {
                    self.read_part(part.index, part.on_page.start, to)?;
                }
            }
            Ok(())
        });
        if done.as_ref().is_err_and(|error| !matches!(error, ZramError::OutOfRange { .. })) {
            self.counts.failed_reads.add(1);
        }
        done
    }

    /// Writes `bytes` to the disk from `offset` on, page by page. After an error, the page that failed and all
    /// pages after it are unchanged, and the pages before it are written.
    ///
    /// ```
    /// use zram::ZramError;
    ///
    /// let disk = zram::Zram::builder().disksize(1 << 20).build()?;
    /// disk.write(1 << 19, &[7; 10_000])?;
    /// let beyond = disk.write((1 << 20) - 2, b"four");
    /// assert!(matches!(beyond, Err(ZramError::OutOfRange { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ZramError::OutOfRange`] if the range is not on the disk; [`ZramError::MemLimit`] if the pool would exceed its
    /// limit; [`ZramError::Table`] if there is no memory for a page's slot; [`ZramError::Buffer`] if there is none to
    /// change a part of a page of more than 4096 bytes; [`ZramError::Pool`], [`ZramError::Codec`] or
    /// [`ZramError::Device`] if the backend, the codec or the device fails; [`ZramError::Reentrant`] if called from
    /// inside a codec or backend.
    ///
    /// # Blocking
    /// Sleeps as [`Zram::read`] does, and in the backend.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), ZramError> {
        self.check(offset, bytes.len() as u64)?;
        self.counted(self.parts(offset, bytes.len() as u64), |part| {
            let from = &bytes[part.of_range.clone()];
            if from.len() == self.unit {
                return self.write_page(part.index, from);
            }
            // The caller's memory is read before the slot is locked: the read may cause a fault, which a handler of
            // the program takes long for.
            let len = if part.is_whole() { self.unit } else { from.len() };
            let mut copy = PageBuffer::new(part.index, len)?;
            if part.is_whole() {
                // The disk ends within the page, so nothing of the old page is kept.
                let page = copy.bytes();
                page[..from.len()].copy_from_slice(from);
                return self.write_page(part.index, page);
            }
            let copy = &mut copy.bytes()[..from.len()];
            copy.copy_from_slice(from);
            self.change_page(part.index, |page| page[part.on_page].copy_from_slice(copy))
        })
    }

    /// Fills `len` bytes from `offset` on with zeros. Pages that lie wholly in the range are discarded.
    ///
    /// ```
    /// let disk = zram::Zram::builder().disksize(1 << 20).build()?;
    /// disk.write(0, b"some bytes")?;
    /// disk.write_zeroes(4, 1)?;
    /// let mut back = [0; 10];
    /// disk.read(0, &mut back)?;
    /// assert_eq!(&back, b"some\0bytes");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Zram::write`]. If the range consists of whole pages, only [`ZramError::OutOfRange`].
    ///
    /// # Blocking
    /// Sleeps as [`Zram::write`] does.
    pub fn write_zeroes(&self, offset: u64, len: u64) -> Result<(), ZramError> {
        self.check(offset, len)?;
        self.counted(self.parts(offset, len), |part| {
            if part.is_whole() {
                self.discard_page(part.index);
                return Ok(());
            }
            self.change_page(part.index, |page| page[part.on_page].fill(0))
        })
    }

    /// Discards the pages that lie wholly in the range. They read as zeros and take no pool memory. If the range
    /// begins or ends within a page, that page is unchanged.
    ///
    /// ```
    /// let disk = zram::Zram::builder().disksize(1 << 20).build()?;
    /// disk.write(0, b"some bytes")?;
    /// disk.write(4096, b"some bytes")?;
    /// disk.discard(4, 8188)?;
    /// assert_eq!(disk.block_state().map(|page| page.index).collect::<Vec<_>>(), [0]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ZramError::OutOfRange`] if the range is not on the disk.
    ///
    /// # Blocking
    /// Waits for the lock of each page that another thread writes in part or recompresses. Blocks in the backend,
    /// and in the device if pages are on it.
    pub fn discard(&self, offset: u64, len: u64) -> Result<(), ZramError> {
        self.check(offset, len)?;
        for part in self.parts(offset, len).filter(Part::is_whole) {
            self.discard_page(part.index);
            self.counts.notify_free.add(1);
        }
        Ok(())
    }

    /// Discards every page and resets the statistics. The limits stay.
    ///
    /// ```
    /// let disk = zram::Zram::builder().disksize(1 << 20).build()?;
    /// disk.write(0, b"some bytes")?;
    /// disk.reset();
    /// assert_eq!(disk.block_state().count(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Blocking
    /// Waits as [`Zram::discard`] does.
    pub fn reset(&self) {
        for index in self.table.made() {
            self.discard_page(index);
        }
        self.recent.clear();
        self.counts.reset(&self.device_figures());
    }

    fn parts(&self, offset: u64, len: u64) -> impl Iterator<Item = Part> + use<> {
        parts(self.unit, self.disksize(), offset, len)
    }

    /// Calls `each` for each part. Stops at the first error, counts it and returns it.
    fn counted(
        &self,
        parts: impl Iterator<Item = Part>,
        mut each: impl FnMut(Part) -> Result<(), ZramError>,
    ) -> Result<(), ZramError> {
        for part in parts {
            if let Err(error) = each(part) {
                self.counts.failed_writes.add(1);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Checks that the range is on the disk. If it is not, counts the call and returns
    /// [`ZramError::OutOfRange`].
    fn check(&self, offset: u64, len: u64) -> Result<(), ZramError> {
        let disksize = self.disksize();
        if offset.checked_add(len).is_some_and(|end| end <= disksize) {
            return Ok(());
        }
        self.counts.invalid_io.add(1);
        Err(ZramError::OutOfRange { offset, len, disksize })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_the_sum_of_its_parts() {
        for unit in [4096, 65_536] {
            for offset in [0, 1, 4095, 4096, 5000, 8191] {
                for len in [0u64, 1, 2, 4095, 4096, 4097, 8192, 20_000, 140_000] {
                    let (mut at, mut used, disksize) = (offset, 0, 151_552);
                    for part in parts(unit, disksize, offset, len) {
                        assert_eq!(part.index * unit as u64 + part.on_page.start as u64, at);
                        assert_eq!(part.of_range.start as u64, used);
                        assert_eq!(part.on_page.len(), part.of_range.len());
                        assert!(!part.on_page.is_empty() && part.on_page.end <= part.on_disk);
                        let end = (part.index + 1) * unit as u64;
                        assert_eq!(part.on_disk < unit, end > disksize);
                        at += part.on_page.len() as u64;
                        used += part.on_page.len() as u64;
                    }
                    assert_eq!((at, used), (offset + len, len));
                }
            }
        }
    }
}
