//! Which variant is the quickest on this processor, and whether it is quicker than LZ4. Both are decided by
//! one table of processor features.

use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

use crate::variant::Variant;

/// What is known about lines of words on this processor.
///
/// ```
/// let here = linewords::processor();
/// assert!(!here.faster_than_lz4 || here.variant != "portable");
/// assert!(!here.reason.is_empty());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Processor {
    /// The variant that is used: `avx512`, `avx2`, `avx2-loads` or `portable`. All write the same bytes.
    pub variant: &'static str,
    /// Whether this variant was measured to be faster than LZ4 in both directions, on pages of real processes.
    pub faster_than_lz4: bool,
    /// Why this variant is used, and what was measured.
    pub reason: &'static str,
}

/// A kind of processor.
struct Row {
    variant: &'static str,
    /// What the processor has beside the features that the variant needs.
    has: fn() -> bool,
    faster_than_lz4: bool,
    reason: &'static str,
}

/// Kinds of processors. The first row that describes the processor holds.
///
/// Gathers are slow on Intel's processors from Skylake to Ice Lake, since a mitigation (Gather Data Sampling)
/// stops the processor from running ahead of them. The older ones and AMD's take many operations for a gather.
/// Intel's first processors without this weakness are the first with the instruction `SERIALIZE`. No bit of
/// CPUID shows the mitigation itself, so that instruction stands for quick gathers.
///
/// AMD's processors before Zen 3 have slow `PEXT` and `PDEP`, which every line needs. Zen 3 brought VAES.
static ROWS: [Row; 5] = [
    Row {
        variant: "avx512",
        has: || is_intel() && has_serialize(),
        faster_than_lz4: true,
        reason: "AVX-512 with quick gathers, measured faster than LZ4 in both directions",
    },
    Row {
        variant: "avx2",
        has: || is_intel() && has_serialize(),
        faster_than_lz4: true,
        reason: "AVX2 with quick gathers, measured faster than LZ4 in both directions",
    },
    Row {
        variant: "avx2-loads",
        has: is_intel,
        faster_than_lz4: true,
        reason: "AVX2 without gathers, measured faster than LZ4 in both directions on a newer Intel processor",
    },
    Row {
        variant: "avx2-loads",
        has: has_vaes,
        faster_than_lz4: false,
        reason: "AVX2 without gathers, not measured on this make of processor",
    },
    Row {
        variant: "portable",
        has: || true,
        faster_than_lz4: false,
        reason: "no vector instructions that were measured here, so slower than LZ4",
    },
];

/// Bit 14 of EDX in CPUID's leaf 7.
#[cfg(target_arch = "x86_64")]
fn has_serialize() -> bool {
    leaf7().edx & 1 << 14 != 0
}

/// Bit 9 of ECX in CPUID's leaf 7.
#[cfg(target_arch = "x86_64")]
fn has_vaes() -> bool {
    leaf7().ecx & 1 << 9 != 0
}

#[cfg(target_arch = "x86_64")]
#[allow(unused_unsafe, reason = "newer compilers take this intrinsic for safe")]
fn leaf7() -> core::arch::x86_64::CpuidResult {
    if cfg!(miri) {
        return core::arch::x86_64::CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 };
    }
    // SAFETY: every x86-64 processor has CPUID. The rows ask only if it has AVX2, so it has leaf 7.
    unsafe { core::arch::x86_64::__cpuid_count(7, 0) }
}

#[cfg(target_arch = "x86_64")]
#[allow(unused_unsafe, reason = "newer compilers take this intrinsic for safe")]
fn is_intel() -> bool {
    if cfg!(miri) {
        return false;
    }
    // SAFETY: every x86-64 processor has CPUID and its leaf 0.
    let vendor = unsafe { core::arch::x86_64::__cpuid(0) };
    [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel"
}

#[cfg(not(target_arch = "x86_64"))]
fn has_serialize() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_vaes() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn is_intel() -> bool {
    false
}

/// Returns the number of the row that describes this processor, and its variant.
fn find() -> (u8, Variant) {
    let found = (0u8..).zip(&ROWS).find_map(|(i, row)| {
        // First the variant: if the processor supports it, it has the leaf of CPUID that `has` reads.
        let variant = Variant::by_name(row.variant)?;
        (row.has)().then_some((i, variant))
    });
    found.unwrap_or((ROWS.len() as u8 - 1, Variant::PORTABLE))
}

/// Returns the quickest variant that this processor supports.
#[inline]
pub(crate) fn best() -> Variant {
    #[cfg(all(feature = "std", target_arch = "x86_64"))]
    {
        /// The number of the variant that was found; 0 before the first call.
        static BEST: AtomicU8 = AtomicU8::new(0);
        // Relaxed: pairs with nothing. A thread that reads 0 searches again and finds the same variant.
        // SAFETY: `BEST` holds 0 or the number of a variant, and nothing else is stored there.
        if let Some(variant) = unsafe { Variant::of_number(BEST.load(Relaxed)) } {
            return variant;
        }
        let found = find().1;
        // Relaxed: as above. The number refers to no other data.
        BEST.store(found.number(), Relaxed);
        found
    }
    #[cfg(not(all(feature = "std", target_arch = "x86_64")))]
    find().1
}

/// Returns which variant is used on this processor, whether it is faster than LZ4, and why.
#[must_use]
pub fn processor() -> Processor {
    /// One more than the number of the row that was found; 0 before the first call. CPUID is slow in a
    /// virtual machine, so only the first call asks.
    static FOUND: AtomicU8 = AtomicU8::new(0);
    // Relaxed: pairs with nothing. A thread that reads 0 searches again and finds the same row.
    let found = FOUND.load(Relaxed).checked_sub(1);
    let found = found.unwrap_or_else(|| {
        let found = find().0;
        // Relaxed: as above. The number refers to no other data.
        FOUND.store(found + 1, Relaxed);
        found
    });
    let Row { variant, faster_than_lz4, reason, .. } = ROWS[usize::from(found)];
    Processor { variant, faster_than_lz4, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_has_a_row_and_every_row_a_variant() {
        let known = ["avx512", "avx2", "avx2-loads", "portable"];
        for variant in Variant::all() {
            assert!(ROWS.iter().any(|row| row.variant == variant.name()), "{variant:?}");
        }
        assert!(ROWS.iter().all(|row| known.contains(&row.variant)));
        let last = ROWS.last().unwrap();
        assert!((last.has)() && last.variant == Variant::PORTABLE.name());
    }

    #[test]
    fn the_variant_in_use_is_the_one_that_is_reported() {
        for _ in 0..2 {
            assert_eq!(best().name(), processor().variant);
        }
        assert!(Variant::all().any(|variant| variant == best()));
        // No row calls the portable variant faster than LZ4.
        assert!(!ROWS.iter().any(|row| row.variant == "portable" && row.faster_than_lz4));
    }
}
