//! The output: the sequences of the LZ4 block format.
//!
//! A sequence is a token, then the literals, then the distance of a match in two bytes. The token's upper half
//! is the number of literals. Its lower half is the length of the match, less [`MIN_MATCH`]. A half can hold at
//! most 15. If it is 15, the rest of the length is stored separately: bytes of 255, then one byte below 255. The
//! rest for the literals follows the token. The rest for the match follows the distance. The last sequence has no
//! match.
//!
//! Each function appends to the first `len` bytes of `dst` and returns the new length. If there is no room, it
//! returns [`NoRoom`].

use crate::mem::{BLOCK, copy_block, store};

/// The value of a token's half if a rest of the length follows.
const FULL: usize = 15;

/// The length of the shortest match.
pub(crate) const MIN_MATCH: usize = 4;

/// The most bytes that [`push`] writes without [`push_exactly`]: a token, a byte of rest, a block of literals, a
/// distance and a byte of rest.
const SPARE: usize = 1 + 1 + BLOCK + 2 + 1;

/// The output has no room for the bytes that were to be written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoRoom;

/// A match: the next `len` bytes equal those `distance` bytes before them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Match {
    /// At least 1.
    pub(crate) distance: u16,
    /// At least [`MIN_MATCH`].
    pub(crate) len: usize,
}

/// Appends a sequence: the literals `src[from..to]`, and a match.
#[inline(always)]
pub(crate) fn push(
    src: &[u8],
    dst: &mut [u8],
    len: usize,
    from: usize,
    to: usize,
    found: Match,
) -> Result<usize, NoRoom> {
    let literals = to - from;
    let code = found.len - MIN_MATCH;
    // Most sequences have few literals. Copying a block of fixed length is faster than copying exactly these. If
    // there is no room for a block, or a length is large, `push_exactly` takes over.
    if literals > BLOCK || from + BLOCK > src.len() || code >= FULL + 255 || len + SPARE > dst.len()
    {
        return push_exactly(src, dst, len, from, to, found);
    }
    let token = (literals.min(FULL) << 4) | code.min(FULL);
    // SAFETY: `len + SPARE <= dst.len()`, checked above.
    unsafe { store(dst, len, [token as u8]) };
    // If the literals have no rest, the first literal overwrites this byte.
    // SAFETY: as above.
    unsafe { store(dst, len + 1, [literals.wrapping_sub(FULL) as u8]) };
    let at = len + 1 + usize::from(literals >= FULL);
    // SAFETY: `at <= len + 2`, so a block fits before `len + SPARE`. `from + BLOCK <= src.len()`, checked above.
    unsafe { copy_block(src, from, dst, at) };
    let at = at + literals;
    // SAFETY: `at <= len + 2 + BLOCK`, so three bytes fit before `len + SPARE`.
    unsafe { store(dst, at, found.distance.to_le_bytes()) };
    // If the match has no rest, the next token overwrites this byte.
    // SAFETY: as above.
    unsafe { store(dst, at + 2, [code.wrapping_sub(FULL) as u8]) };
    Ok(at + 2 + usize::from(code >= FULL))
}

/// Does what [`push`] does, but writes only the bytes of the sequence.
#[cold]
#[inline(never)]
fn push_exactly(
    src: &[u8],
    dst: &mut [u8],
    len: usize,
    from: usize,
    to: usize,
    found: Match,
) -> Result<usize, NoRoom> {
    let code = found.len - MIN_MATCH;
    let len = push_literals(src, dst, len, from, to, code.min(FULL))?;
    let len = push_bytes(dst, len, &found.distance.to_le_bytes())?;
    if code >= FULL { push_rest(dst, len, code - FULL) } else { Ok(len) }
}

/// Appends a token with `half` as its lower half, and the literals `src[from..to]`.
pub(crate) fn push_literals(
    src: &[u8],
    dst: &mut [u8],
    len: usize,
    from: usize,
    to: usize,
    half: usize,
) -> Result<usize, NoRoom> {
    let literals = to - from;
    let len = push_bytes(dst, len, &[((literals.min(FULL) << 4) | half) as u8])?;
    let len = if literals >= FULL { push_rest(dst, len, literals - FULL)? } else { len };
    push_bytes(dst, len, &src[from..to])
}

/// Appends the rest of a length: the part that the token's half cannot hold.
fn push_rest(dst: &mut [u8], len: usize, rest: usize) -> Result<usize, NoRoom> {
    let whole = rest / 255;
    let end = len + whole + 1;
    let into = dst.get_mut(len..end).ok_or(NoRoom)?;
    into[..whole].fill(255);
    into[whole] = (rest % 255) as u8;
    Ok(end)
}

fn push_bytes(dst: &mut [u8], len: usize, bytes: &[u8]) -> Result<usize, NoRoom> {
    let end = len + bytes.len();
    dst.get_mut(len..end).ok_or(NoRoom)?.copy_from_slice(bytes);
    Ok(end)
}
