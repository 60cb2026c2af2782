//! Telling the processor what will be looked at soon, so that it comes from memory meanwhile.
//!
//! Hints: nothing depends on them, and on processors that are not known here, and under Miri, they do
//! nothing. They neither fault nor read anything that a program could see.

/// Bytes that come from memory together.
const LINE: usize = 64;

/// All of `bytes` will be read, from the start: their lines are asked for at once, which a
/// processor's own guesses are late for in a few hundred bytes anywhere in memory.
#[inline]
pub fn read_soon(bytes: &[u8]) {
    // Four instructions a line, where an iterator of slices takes seven.
    let mut at = 0;
    while at < bytes.len() {
        hint(bytes.as_ptr().wrapping_add(at));
        at += LINE;
    }
    // Unless the bytes begin a line, they end in one more.
    if let Some(last) = bytes.last() {
        hint(last);
    }
}

/// `place` will be looked at.
#[inline]
pub fn look_soon<T>(place: &T) {
    hint(core::ptr::from_ref(place).cast());
}

#[inline]
fn hint(line: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch accesses nothing and does not fault, whatever the address; SSE, which it
        // is part of, belongs to the architecture.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    {
        // SAFETY: a prefetch accesses nothing and does not fault, whatever the address; no register
        // but the address is touched.
        unsafe {
            core::arch::asm!(
                "prfm pldl1keep, [{line}]",
                line = in(reg) line,
                options(nostack, preserves_flags, readonly)
            );
        }
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    let _ = line;
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn hints_change_nothing_wherever_the_bytes_are() {
        let bytes: Vec<u8> = (0..=255).collect();
        for from in [0, 1, 63, 64, 200, 256] {
            for to in from..=bytes.len() {
                read_soon(&bytes[from..to]);
            }
        }
        look_soon(&bytes);
        assert!(bytes.iter().copied().eq(0..=255));
    }
}
