//! Ranges of bytes, anywhere on the disk: whole pages as they are, the parts at either end by changing
//! the page under its slot's lock.

use core::ops::Range;

use zpage::{PAGE_SIZE, Page};

use crate::Zram;
use crate::error::ZramError;

const SIZE: u64 = PAGE_SIZE as u64;

/// A range's part on one page.
struct Part {
    index: u64,
    /// On the page.
    on_page: Range<usize>,
    /// In the caller's bytes.
    of_range: Range<usize>,
}

impl Part {
    fn is_whole(&self) -> bool {
        self.on_page.len() == PAGE_SIZE
    }
}

/// The pages of a range, each with its part of it.
fn parts(offset: u64, len: u64) -> impl Iterator<Item = Part> {
    let end = offset + len;
    let pages = offset / SIZE..end.div_ceil(SIZE);
    pages.filter(move |_| len > 0).map(move |index| {
        let (first, last) = (index * SIZE, (index + 1) * SIZE);
        let (from, to) = (offset.max(first), end.min(last));
        Part {
            index,
            on_page: (from - first) as usize..(to - first) as usize,
            of_range: (from - offset) as usize..(to - offset) as usize,
        }
    })
}

impl Zram {
    /// Reads the bytes from `offset` on. Never written ones are zeros. After an error the bytes are
    /// unspecified. May sleep for writers of a part of the same page, in the codec and in the device.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), ZramError> {
        let done = self.check(offset, bytes.len() as u64).and_then(|()| {
            for part in parts(offset, bytes.len() as u64) {
                let to = &mut bytes[part.of_range.clone()];
                match <&mut Page>::try_from(&mut *to) {
                    Ok(page) => self.read_page(part.index, page)?,
                    Err(_) => {
                        let mut page = [0; PAGE_SIZE];
                        self.read_page(part.index, &mut page)?;
                        to.copy_from_slice(&page[part.on_page]);
                    }
                }
            }
            Ok(())
        });
        if done.as_ref().is_err_and(|error| !matches!(error, ZramError::OutOfRange { .. })) {
            self.counts.failed_reads.add(1);
        }
        done
    }

    /// Writes bytes from `offset` on, page by page. An error leaves the page that it is about, which it
    /// names, and all after it as they were; pages before it are written.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), ZramError> {
        self.check(offset, bytes.len() as u64)?;
        self.counted(parts(offset, bytes.len() as u64), |part| {
            let from = &bytes[part.of_range];
            match <&Page>::try_from(from) {
                Ok(page) => self.write_page(part.index, page),
                Err(_) => self.change_page(part.index, |page| {
                    page[part.on_page].copy_from_slice(from);
                }),
            }
        })
    }

    /// Makes a range zeros. Whole pages take no memory afterwards. Errors as [`Zram::write`].
    pub fn write_zeroes(&self, offset: u64, len: u64) -> Result<(), ZramError> {
        self.check(offset, len)?;
        self.counted(parts(offset, len), |part| {
            if part.is_whole() {
                self.discard_page(part.index);
                return Ok(());
            }
            self.change_page(part.index, |page| page[part.on_page].fill(0))
        })
    }

    /// The range is not needed any more: its whole pages are zeros from here on and take no memory;
    /// parts of pages at either end stay as they are.
    pub fn discard(&self, offset: u64, len: u64) -> Result<(), ZramError> {
        self.check(offset, len)?;
        for part in parts(offset, len).filter(Part::is_whole) {
            self.discard_page(part.index);
            self.counts.notify_free.add(1);
        }
        Ok(())
    }

    /// Discards every page, and sets the figures back, as if the disk were new.
    pub fn reset(&self) {
        for index in self.table.made() {
            self.discard_page(index);
        }
        self.counts.reset();
    }

    /// Does something to each part, and counts an error.
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

    /// Refuses ranges that are not on the disk.
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
        for offset in [0, 1, 4095, 4096, 5000, 8191] {
            for len in [0u64, 1, 2, 4095, 4096, 4097, 8192, 20_000] {
                let (mut at, mut used) = (offset, 0);
                for part in parts(offset, len) {
                    assert_eq!(part.index * SIZE + part.on_page.start as u64, at);
                    assert_eq!(part.of_range.start as u64, used);
                    assert_eq!(part.on_page.len(), part.of_range.len());
                    assert!(!part.on_page.is_empty() && part.on_page.end <= PAGE_SIZE);
                    at += part.on_page.len() as u64;
                    used += part.on_page.len() as u64;
                }
                assert_eq!((at, used), (offset + len, len));
            }
        }
    }
}
