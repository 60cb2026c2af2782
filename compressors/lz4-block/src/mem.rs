//! Unaligned loads and stores of fixed lengths. All access to memory without a bounds check is here.
//!
//! For each function, the bytes must lie inside the slice. The caller ensures this, and debug builds check it.

/// The number of bytes that [`copy_block`] copies.
pub(crate) const BLOCK: usize = 32;

/// Loads `N` bytes of `bytes` from `at` on.
///
/// # Safety
/// `at + N <= bytes.len()`.
#[inline(always)]
unsafe fn load<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    debug_assert!(at + N <= bytes.len());
    // SAFETY: by the caller's promise, the address lies inside the slice.
    let from = unsafe { bytes.as_ptr().add(at) };
    // SAFETY: by the caller's promise, `N` bytes follow; and an array of bytes needs no alignment.
    unsafe { *from.cast() }
}

/// Stores `value` in `bytes`, from `at` on.
///
/// # Safety
/// `at + N <= bytes.len()`.
#[inline(always)]
pub(crate) unsafe fn store<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    debug_assert!(at + N <= bytes.len());
    // SAFETY: by the caller's promise, the address lies inside the slice.
    let to = unsafe { bytes.as_mut_ptr().add(at) };
    // SAFETY: by the caller's promise, `N` bytes follow; and an array of bytes needs no alignment.
    unsafe { *to.cast() = value };
}

/// Loads eight bytes of `bytes` from `at` on. The first becomes the lowest byte of the result.
///
/// # Safety
/// `at + 8 <= bytes.len()`.
#[inline(always)]
pub(crate) unsafe fn load64(bytes: &[u8], at: usize) -> u64 {
    // SAFETY: by the caller's promise, the bytes lie inside the slice.
    u64::from_le_bytes(unsafe { load(bytes, at) })
}

/// Loads four bytes of `bytes` from `at` on. The first becomes the lowest byte of the result.
///
/// # Safety
/// `at + 4 <= bytes.len()`.
#[inline(always)]
pub(crate) unsafe fn load32(bytes: &[u8], at: usize) -> u32 {
    // SAFETY: by the caller's promise, the bytes lie inside the slice.
    u32::from_le_bytes(unsafe { load(bytes, at) })
}

/// Copies [`BLOCK`] bytes from `from[at..]` to `to[put..]`.
///
/// # Safety
/// `at + BLOCK <= from.len()` and `put + BLOCK <= to.len()`.
#[inline(always)]
pub(crate) unsafe fn copy_block(from: &[u8], at: usize, to: &mut [u8], put: usize) {
    // SAFETY: by the caller's promise, the bytes lie inside the slice.
    let block: [u8; BLOCK] = unsafe { load(from, at) };
    // SAFETY: by the caller's promise, the bytes lie inside the slice.
    unsafe { store(to, put, block) };
}
