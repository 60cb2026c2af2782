//! A compressed page that is kept while the store makes room for it.
//!
//! Its bytes lie in the codec's context, which is released before room is made. So they are copied: up to 4096 bytes
//! to the stack, more to the heap. If there is no memory for the copy, which is likely just then, the page is
//! compressed again when there is room. A page that did not get smaller is its own copy.

use crate::PAGE_SIZE;

/// A page and, if there was memory to copy them, its compressed bytes.
pub(crate) struct Encoded<'p> {
    page: &'p [u8],
    /// Whether the page may be kept uncompressed.
    keep_raw: bool,
    /// The length of the compressed page; that of the page if it did not get smaller.
    len: usize,
    short: [u8; PAGE_SIZE],
    /// The bytes, if they do not fit in `short`; empty if there was no memory for them.
    long: Vec<u8>,
}

impl<'p> Encoded<'p> {
    /// Keeps `bytes`, which are to be stored for `page`.
    #[cold]
    pub(super) fn new(page: &'p [u8], bytes: &[u8], keep_raw: bool) -> Self {
        let (len, short, long) = (bytes.len(), [0; PAGE_SIZE], Vec::new());
        let mut kept = Encoded { page, keep_raw, len, short, long };
        if len >= page.len() {
            return kept;
        }
        if let Some(short) = kept.short.get_mut(..len) {
            short.copy_from_slice(bytes);
        } else if kept.long.try_reserve_exact(len).is_ok() {
            kept.long.extend_from_slice(bytes);
        }
        kept
    }

    /// Returns the page.
    pub(super) fn page(&self) -> &'p [u8] {
        self.page
    }

    /// Returns whether the page may be kept uncompressed.
    pub(super) fn keep_raw(&self) -> bool {
        self.keep_raw
    }

    /// Returns the bytes to store. Returns `None` if there was no memory to keep them.
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        if self.len >= self.page.len() {
            return Some(self.page);
        }
        let short = self.short.get(..self.len);
        short.or(Some(&self.long[..]).filter(|long| !long.is_empty()))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_kept_and_a_page_that_is_not_smaller_is_itself() {
        for unit in [PAGE_SIZE, 16 * PAGE_SIZE] {
            let page: Vec<u8> = (0..unit).map(|n| (n % 251) as u8).collect();
            for len in [1, PAGE_SIZE - 1, PAGE_SIZE, unit - 1] {
                let kept = Encoded::new(&page, &page[unit - len..], true);
                assert_eq!(kept.bytes(), Some(&page[unit - len..]), "{len} of {unit}");
            }
            let raw = Encoded::new(&page, &page, true);
            assert_eq!(raw.bytes().map(<[u8]>::as_ptr), Some(page.as_ptr()));
            assert!(raw.long.is_empty());
        }
    }

    #[test]
    fn without_memory_for_the_bytes_the_page_is_kept() {
        let page = [7; 2 * PAGE_SIZE];
        let mut kept = Encoded::new(&page, &page[..PAGE_SIZE + 1], false);
        kept.long = Vec::new();
        assert_eq!((kept.bytes(), kept.page().len(), kept.keep_raw()), (None, 8192, false));
    }
}
