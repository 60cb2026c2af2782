//! Prefetch: hints to the processor about memory that will be read soon.
//!
//! No result depends on these hints. They never fault, and they do not count as reads. They do nothing
//! under Miri and on architectures other than `x86_64` and `aarch64`.

/// Bytes of a cache line.
const LINE: usize = 64;

/// Requests all cache lines of `bytes`, which will soon be read from start to end. The processor's own
/// prefetching starts too late for a few hundred bytes at a random address.
///
/// ```
/// let object = [7u8; 300];
/// zpool_base::prefetch::read_soon(&object);
/// // ... other work, then the read
/// assert_eq!(object[299], 7);
/// ```
#[inline]
pub fn read_soon(bytes: &[u8]) {
    // This loop takes four instructions per line; an iterator over slices would take seven.
    let mut at = 0;
    while at < bytes.len() {
        hint(bytes.as_ptr().wrapping_add(at));
        at += LINE;
    }
    // If `bytes` does not start at a line's start, its end may lie in one more line.
    if let Some(last) = bytes.last() {
        hint(last);
    }
}

/// Requests the first cache line of `place`, which will soon be read.
#[inline]
pub fn look_soon<T>(place: &T) {
    hint(core::ptr::from_ref(place).cast());
}

#[inline]
fn hint(line: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch neither reads nor faults, whatever the address. It is part of SSE, which every
        // x86-64 processor has.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    {
        // SAFETY: a prefetch neither reads nor faults, whatever the address. The assembly changes no
        // register.
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
