//! The search for matches. It is greedy and tries one candidate for each position, which suits pages.
//!
//! Only one branch cannot be predicted by a processor: whether a match begins at a position. For common lengths,
//! all else is computed without branches: the length of a match, the literals before it, and how far it extends
//! backwards.
//!
//! The format has two rules for the end of a block: the last [`LAST_LITERALS`] bytes are literals, and a match
//! begins at least [`LAST_START`] bytes before the end.

use crate::matches::{bytes_before, end_of_match};
use crate::mem::{load32, load64};
use crate::sequences::{MIN_MATCH, Match, NoRoom, push, push_literals};
use crate::table::Table;

/// The longest input of [`compress`], in bytes. With this limit, each position and each distance fits a `u16`.
pub const MAX_INPUT: usize = 64 << 10;

/// The longest input that liblz4 compresses, in bytes (`LZ4_MAX_INPUT_SIZE`).
pub(crate) const STREAM_MAX_INPUT: usize = 0x7E00_0000;

/// The length of a memory page in bytes. Most inputs have this length.
const PAGE: usize = 4096;

/// The number of bytes at the end of a block that must be literals.
const LAST_LITERALS: usize = 5;

/// The least number of bytes from the start of a match to the end of the block.
const LAST_START: usize = 12;

/// The step between positions grows by one after each 2^PATIENCE positions without a match.
const PATIENCE: u32 = 6;

/// Why an input cannot be compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompressError {
    /// The block does not fit the output.
    #[error("the block does not fit into {capacity} bytes; `max_compressed_len` is always enough")]
    OutputTooSmall {
        /// The length of the output, in bytes.
        capacity: usize,
    },

    /// The input is longer than [`MAX_INPUT`] or, for a [`Stream`](crate::Stream), than its
    /// [`MAX_INPUT`](crate::Stream::MAX_INPUT).
    #[error(
        "an input of {len} bytes is too long: at most {MAX_INPUT} are taken, by a stream {STREAM_MAX_INPUT}"
    )]
    InputTooLong {
        /// The length of the input, in bytes.
        len: usize,
    },
}

/// Returns the most bytes that a block can have if its input has `len` bytes.
#[must_use]
pub const fn max_compressed_len(len: usize) -> usize {
    len.saturating_add(len / 255 + 16)
}

/// Compresses `src` into `dst` and returns the length of the block.
///
/// # Errors
/// [`CompressError::OutputTooSmall`] if the block is longer than `dst`,
/// [`CompressError::InputTooLong`] if `src` is longer than [`MAX_INPUT`].
pub fn compress(src: &[u8], dst: &mut [u8], table: &mut Table) -> Result<usize, CompressError> {
    if src.len() > MAX_INPUT {
        return Err(CompressError::InputTooLong { len: src.len() });
    }
    let capacity = dst.len();
    let done = if let Ok(page) = <&[u8; PAGE]>::try_from(src) {
        // The compiler makes a separate copy of `search` for this call. In it, the length is a constant.
        search(page, dst, table)
    } else if src.len() > LAST_START {
        search(src, dst, table)
    } else {
        push_literals(src, dst, 0, 0, src.len(), 0)
    };
    done.map_err(|NoRoom| CompressError::OutputTooSmall { capacity })
}

/// Compresses `src` into `dst` and returns the length of the block.
///
/// Invariants:
/// - E1: `LAST_START < src.len() <= MAX_INPUT`, so each position fits a `u16`. The caller ensures this.
/// - E2: `anchor <= here`, and all positions in the table lie before `here`.
#[inline(always)]
fn search(src: &[u8], dst: &mut [u8], table: &mut Table) -> Result<usize, NoRoom> {
    table.clear();
    let last_start = src.len() - LAST_START;
    let limit = src.len() - LAST_LITERALS;
    let mut len = 0;
    // The input before this position is already written.
    let mut anchor = 0;
    let mut here = 1;
    'sequences: while here <= last_start {
        let mut misses = 1 << PATIENCE;
        let from = loop {
            // SAFETY: `here <= last_start`, so at least eight bytes follow.
            let word = unsafe { load64(src, here) };
            let candidate = usize::from(table.swap(word, here as u16));
            // SAFETY: by E2 and T1, the candidate lies before `here`, so four bytes follow.
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
        // SAFETY: M1: by E2, the candidate lies before `here`. M2: `here + 4 <= last_start + 4 < limit`.
        let end = unsafe { end_of_match(src, here + MIN_MATCH, distance, limit) };
        // SAFETY: M1 and M2 as above.
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
            // SAFETY: `end <= last_start`, so eight bytes follow. A match has at least four bytes, so `end >= 2`.
            let word = unsafe { load64(src, end - 2) };
            table.swap(word, (end - 2) as u16);
        }
    }
    push_literals(src, dst, len, anchor, src.len(), 0)
}
