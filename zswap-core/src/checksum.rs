//! The checksum of a page. It is noted when the page is stored, and checked when the page is read. It is a
//! CRC-32, as in zlib and Ethernet. `crc32fast` computes it over all 4096 bytes.
//!
//! The checksum is kept beside the entry's word (`index/`). It belongs to the page, not to one copy of it: a
//! page that is recompressed, moved to another pool or written back keeps its checksum. So the check also
//! detects damage from such a move. It detects any damage within 32 adjacent bits, and misses other damage
//! once in 2^32. Same-filled pages have no checksum.

use crate::SwapEntry;
use crate::error::LoadError;

/// Computes the checksum of a page.
pub(crate) fn of(page: &[u8]) -> u32 {
    crc32fast::hash(page)
}

/// Checks a page that was read. Returns [`LoadError::Corrupt`] if its checksum differs from `noted`, the
/// checksum noted when the page was stored. Accepts any page if no checksum was noted.
#[inline]
pub(crate) fn check(entry: SwapEntry, page: &[u8], noted: Option<u32>) -> Result<(), LoadError> {
    let Some(noted) = noted else { return Ok(()) };
    let found = of(page);
    if found == noted { Ok(()) } else { Err(LoadError::Corrupt { entry, noted, found }) }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::PAGE_SIZE;

    #[test]
    fn it_is_the_usual_crc_32_and_finds_any_bit() {
        // `python3 -c "import zlib; print(hex(zlib.crc32(bytes(4096))))"` prints the first value.
        assert_eq!(of(&[0; PAGE_SIZE]), 0xc71c_0011);
        assert_eq!(of(&[0xff; PAGE_SIZE]), 0xf154_670a);
        let entry = SwapEntry::new(0, 1).unwrap();
        let mut page = [7; PAGE_SIZE];
        let noted = of(&page);
        assert_eq!(check(entry, &page, Some(noted)), Ok(()));
        for bit in (0..PAGE_SIZE * 8).step_by(if cfg!(miri) { 4001 } else { 97 }) {
            page[bit / 8] ^= 1 << (bit % 8);
            let found = of(&page);
            let error = LoadError::Corrupt { entry, noted, found };
            assert_eq!(check(entry, &page, Some(noted)), Err(error));
            assert_eq!(check(entry, &page, None), Ok(()), "none was noted");
            page[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
