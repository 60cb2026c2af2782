//! A buffer for a page that is read, changed or recompressed: on the stack for 4096 bytes, on the heap for a larger
//! unit.

use zpage::PAGE_SIZE;

use crate::error::ZramError;

/// A buffer of a page of the disk, or of a part of one.
pub(crate) struct PageBuffer {
    page: [u8; PAGE_SIZE],
    /// Empty if the unit is a page.
    unit: Vec<u8>,
}

impl PageBuffer {
    /// Makes a buffer of `unit` bytes, or of 4096 if that is more, for the page `index`.
    ///
    /// # Errors
    /// [`ZramError::Buffer`] if there is no memory for it.
    #[inline]
    pub(crate) fn new(index: u64, unit: usize) -> Result<Self, ZramError> {
        let mut buffer = PageBuffer { page: [0; PAGE_SIZE], unit: Vec::new() };
        if unit > PAGE_SIZE {
            buffer.unit = zeroed(unit).ok_or(ZramError::Buffer { index, bytes: unit })?;
        }
        Ok(buffer)
    }

    #[inline]
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        if self.unit.is_empty() { &mut self.page } else { &mut self.unit }
    }
}

/// Allocates `len` zeros. Returns `None` if there is no memory.
pub(crate) fn zeroed(len: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).ok()?;
    bytes.resize(len, 0);
    Some(bytes)
}
