//! The parts of a stream with lines of words.

use crate::format::{BLOCK, control_len};

/// A stream without its first three bytes.
///
/// Invariants: payload, control and kinds follow each other in this order, and are the whole stream. The control has
/// the length that the kinds require. Line 0 refers to no other line.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub(crate) payload: &'a [u8],
    pub(crate) control: &'a [u8],
    kinds: &'a [u8],
}

impl<'a> Parts<'a> {
    /// Finds the parts of a unit of `len` bytes; `None` if there are none.
    #[inline(always)]
    pub(crate) fn of(body: &'a [u8], len: usize) -> Option<Self> {
        if len == 0 || len % BLOCK != 0 {
            return None;
        }
        let (rest, kinds) = body.split_at_checked(body.len().checked_sub(8 * (len / BLOCK))?)?;
        let parts = |payload, control| Parts { payload, control, kinds };
        let control_len = parts(rest, &[]).kinds().map(control_len).sum();
        let (payload, control) = rest.split_at_checked(rest.len().checked_sub(control_len)?)?;
        let parts = parts(payload, control);
        // Line 0 has no line before it, so its kind is ZERO or CODED.
        (parts.kinds().next()? & 1 == 0).then_some(parts)
    }

    /// Returns the kinds of each block's lines.
    #[inline(always)]
    pub(crate) fn kinds(self) -> impl Iterator<Item = u64> {
        self.kinds.chunks_exact(8).map(|kinds| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(kinds);
            u64::from_le_bytes(bytes)
        })
    }
}
