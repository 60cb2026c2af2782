//! A buffer for a page that is read to be copied: on the stack for 4096 bytes, on the heap for a larger unit.

use crate::PAGE_SIZE;

/// The system has no memory for a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no memory for a buffer of {bytes} bytes; free memory and retry")]
pub struct NoBuffer {
    /// The length of the buffer.
    pub bytes: usize,
}

/// A buffer of the length of the store's unit.
pub(crate) struct PageBuffer {
    page: [u8; PAGE_SIZE],
    /// Empty if the unit is a page.
    unit: Vec<u8>,
}

impl PageBuffer {
    /// Makes a buffer of `unit` bytes.
    pub(crate) fn new(unit: usize) -> Result<Self, NoBuffer> {
        let mut buffer = PageBuffer { page: [0; PAGE_SIZE], unit: Vec::new() };
        if unit > PAGE_SIZE {
            buffer.unit.try_reserve_exact(unit).map_err(|_| NoBuffer { bytes: unit })?;
            buffer.unit.resize(unit, 0);
        }
        Ok(buffer)
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        if self.unit.is_empty() { &mut self.page } else { &mut self.unit }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_as_long_as_the_unit() {
        for unit in [4096, 8192, 65536] {
            assert_eq!(PageBuffer::new(unit).unwrap().bytes().len(), unit);
        }
        assert_eq!(PageBuffer::new(usize::MAX).err(), Some(NoBuffer { bytes: usize::MAX }));
    }
}
