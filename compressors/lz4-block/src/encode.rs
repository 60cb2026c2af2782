//! The search for matches: greedy, with one candidate for each position, as pages have them.
//!
//! The one branch that a processor cannot foresee is whether a match begins at a position. What follows a
//! match, its length, the literals before it and the bytes that it can be extended by backwards, is
//! computed without branches for the lengths that are common.
//!
//! The format asks of the end of a block: the last [`LAST_LITERALS`] bytes are literals, and no match begins
//! within the last [`LAST_START`].

use crate::matches::{bytes_before, end_of_match};
use crate::mem::{load32, load64};
use crate::sequences::{MIN_MATCH, Match, NoRoom, push, push_literals};
use crate::table::Table;

/// Bytes of the longest input: every position fits a `u16`, and so does every distance.
pub const MAX_INPUT: usize = 64 << 10;

/// Bytes of a memory page, the length that matters most.
const PAGE: usize = 4096;

/// Bytes at the end that are literals.
const LAST_LITERALS: usize = 5;

/// Bytes from the last place at which a match may begin to the end.
const LAST_START: usize = 12;

/// After 2^PATIENCE positions without a match, the step between positions grows by one.
const PATIENCE: u32 = 6;

/// Why there is no block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompressError {
    /// The output cannot hold the block.
    #[error("the block does not fit into {capacity} bytes; `max_compressed_len` is always enough")]
    OutputTooSmall {
        /// Bytes of the output.
        capacity: usize,
    },

    /// The input is longer than [`MAX_INPUT`].
    #[error("an input of {len} bytes is too long: at most {MAX_INPUT} are taken")]
    InputTooLong {
        /// Bytes of the input.
        len: usize,
    },
}

/// Bytes that a block of `len` bytes of input has at most.
#[must_use]
pub const fn max_compressed_len(len: usize) -> usize {
    len.saturating_add(len / 255 + 16)
}

/// Compresses `src` into `dst` and returns the length of the block.
///
/// # Errors
/// [`CompressError::OutputTooSmall`] if the block is longer than `dst`,
/// [`CompressError::InputTooLong`] beyond [`MAX_INPUT`].
pub fn compress(src: &[u8], dst: &mut [u8], table: &mut Table) -> Result<usize, CompressError> {
    if src.len() > MAX_INPUT {
        return Err(CompressError::InputTooLong { len: src.len() });
    }
    let capacity = dst.len();
    let done = if let Ok(page) = <&[u8; PAGE]>::try_from(src) {
        // The compiler makes a search of its own of it, in which the length is a constant.
        search(page, dst, table)
    } else if src.len() > LAST_START {
        search(src, dst, table)
    } else {
        push_literals(src, dst, 0, 0, src.len(), 0)
    };
    done.map_err(|NoRoom| CompressError::OutputTooSmall { capacity })
}

/// Invariants: E1, `LAST_START < src.len() <= MAX_INPUT`, so positions fit a `u16`; E2,
/// `anchor <= here`, and all positions in the table lie before `here`.
#[inline(always)]
fn search(src: &[u8], dst: &mut [u8], table: &mut Table) -> Result<usize, NoRoom> {
    table.clear();
    let last_start = src.len() - LAST_START;
    let limit = src.len() - LAST_LITERALS;
    let mut len = 0;
    // What lies before this is written.
    let mut anchor = 0;
    let mut here = 1;
    'sequences: while here <= last_start {
        let mut misses = 1 << PATIENCE;
        let from = loop {
            // SAFETY: `here <= last_start`: eight bytes follow.
            let word = unsafe { load64(src, here) };
            let candidate = usize::from(table.swap(word, here as u16));
            // SAFETY: the candidate lies before `here`, E2 and T1.
            if unsafe { load32(src, candidate) } == word as u32 {
                break candidate;
            }
            here += misses >> PATIENCE;
            misses += 1;
            if here > last_start {
                break 'sequences;
            }
        };
        let distance = here - from;
        // SAFETY: M1: the candidate lies before `here`, E2. M2: `here + 4 <= last_start + 4 < limit`.
        let end = unsafe { end_of_match(src, here + MIN_MATCH, distance, limit) };
        // SAFETY: M1, M2 as above.
        let start = here - unsafe { bytes_before(src, here, distance, here - anchor) };
        len = push(
            src,
            dst,
            len,
            anchor,
            start,
            Match { distance: distance as u16, len: end - start },
        )?;
        anchor = end;
        here = end;
        if end <= last_start {
            // SAFETY: `end <= last_start`, and a match has four bytes.
            let word = unsafe { load64(src, end - 2) };
            table.swap(word, (end - 2) as u16);
        }
    }
    push_literals(src, dst, len, anchor, src.len(), 0)
}
