//! The output: sequences, as the LZ4 block format has them.
//!
//! A sequence is a token, the literals, and a match: its distance in two bytes. The token's upper half is the
//! number of literals, its lower half the length of the match less [`MIN_MATCH`]. A half that is full,
//! 15, is followed by the rest of the length, behind the token and behind the distance: bytes of 255, and one
//! below 255. The last sequence ends after its literals.
//!
//! Every function appends to the first `len` bytes of `dst` and returns how many there are then, or [`NoRoom`].

use crate::mem::{BLOCK, copy_block, store};

/// A half of a token, when a rest of the length follows.
const FULL: usize = 15;

/// The shortest match.
pub(crate) const MIN_MATCH: usize = 4;

/// Bytes that [`push`] may write to: a token, a byte of rest, a block, a distance, a byte of rest.
const SPARE: usize = 1 + 1 + BLOCK + 2 + 1;

/// There is no room for what was to be written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoRoom;

/// A match: the next `len` bytes equal those `distance` bytes before them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Match {
    /// 1 at least.
    pub(crate) distance: u16,
    /// [`MIN_MATCH`] at least.
    pub(crate) len: usize,
}

/// Appends the literals of `src` from `from` up to `to`, and a match.
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
    // Most sequences have few literals: a block is copied, whatever their number.
    if literals > BLOCK || from + BLOCK > src.len() || code >= FULL + 255 || len + SPARE > dst.len()
    {
        return push_exactly(src, dst, len, from, to, found);
    }
    let token = (literals.min(FULL) << 4) | code.min(FULL);
    // SAFETY: `len + SPARE <= dst.len()`.
    unsafe { store(dst, len, [token as u8]) };
    // The first literal overwrites it if there is no rest.
    // SAFETY: as above.
    unsafe { store(dst, len + 1, [literals.wrapping_sub(FULL) as u8]) };
    let at = len + 1 + usize::from(literals >= FULL);
    // SAFETY: `at <= len + 2`, so a block fits before `len + SPARE`; the input has one at `from`.
    unsafe { copy_block(src, from, dst, at) };
    let at = at + literals;
    // SAFETY: `at <= len + 2 + BLOCK`, so three bytes fit before `len + SPARE`.
    unsafe { store(dst, at, found.distance.to_le_bytes()) };
    // The next token overwrites it if there is no rest.
    // SAFETY: as above.
    unsafe { store(dst, at + 2, [code.wrapping_sub(FULL) as u8]) };
    Ok(at + 2 + usize::from(code >= FULL))
}

/// The same, without a byte beyond what the sequence has.
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

/// A token with this lower half, and its literals.
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

/// What of a length does not fit the token.
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
