//! Chooses between the implementations of lines of words, depending on what the processor supports.

use core::fmt;
#[cfg(all(feature = "std", target_arch = "x86_64"))]
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

use crate::format::{Narrow, Unit, Wide};
use crate::portable;

/// An implementation of the encoder and the decoder that this processor supports.
///
/// All variants read and write exactly the same streams. The type is for tests and benchmarks:
/// [`Context::new`] and [`decompress`] use the quickest variant.
///
/// [`Context::new`]: crate::Context::new
/// [`decompress`]: crate::decompress
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Variant(Inner);

// The field is private, so only this module makes variants: those that the processor supports. This makes
// it sound to call their code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Inner {
    Portable = 1,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(all(target_arch = "x86_64", linewords_avx512))]
    Avx512,
}

/// Whether the processor has all of these features. Without `std`: whether the build enables all of them.
#[cfg(target_arch = "x86_64")]
macro_rules! has {
    ($($feature:tt),*) => {{
        #[cfg(feature = "std")]
        let has = $(std::arch::is_x86_feature_detected!($feature))&&*;
        #[cfg(not(feature = "std"))]
        let has = $(cfg!(target_feature = $feature))&&*;
        has
    }};
}

impl Inner {
    const ALL: &'static [Inner] = &[
        #[cfg(all(target_arch = "x86_64", linewords_avx512))]
        Inner::Avx512,
        #[cfg(target_arch = "x86_64")]
        Inner::Avx2,
        Inner::Portable,
    ];

    fn is_there(self) -> bool {
        // Miri supports few of the intrinsics.
        if cfg!(miri) && self != Inner::Portable {
            return false;
        }
        match self {
            Inner::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Inner::Avx2 => has!("avx2", "bmi1", "bmi2", "lzcnt", "popcnt"),
            #[cfg(all(target_arch = "x86_64", linewords_avx512))]
            Inner::Avx512 => {
                has!(
                    "avx512f",
                    "avx512bw",
                    "avx512vl",
                    "avx512vbmi",
                    "avx512vbmi2",
                    "avx2",
                    "bmi1",
                    "bmi2",
                    "lzcnt",
                    "popcnt"
                )
            }
        }
    }
}

impl Variant {
    /// The variant in safe code. It runs on every processor.
    pub const PORTABLE: Variant = Variant(Inner::Portable);

    /// Returns the variants that this processor supports, the quickest first.
    pub fn all() -> impl Iterator<Item = Variant> {
        Inner::ALL.iter().copied().filter(|inner| inner.is_there()).map(Variant)
    }

    /// Returns the quickest variant that this processor supports.
    #[must_use]
    pub fn best() -> Variant {
        #[cfg(all(feature = "std", target_arch = "x86_64"))]
        {
            /// The variant that was found; 0 before the first call.
            static BEST: AtomicU8 = AtomicU8::new(0);
            // Relaxed: pairs with nothing. A thread that reads 0 searches again and finds the same variant.
            let best = BEST.load(Relaxed);
            if let Some(&inner) = Inner::ALL.iter().find(|&&inner| inner as u8 == best) {
                return Variant(inner);
            }
            let found = Self::all().next().unwrap_or(Self::PORTABLE);
            // Relaxed: as above. The number refers to no other data.
            BEST.store(found.0 as u8, Relaxed);
            found
        }
        #[cfg(not(all(feature = "std", target_arch = "x86_64")))]
        Self::all().next().unwrap_or(Self::PORTABLE)
    }

    /// Returns the variant of this name; `None` if there is none or the processor does not support it.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Variant> {
        Self::all().find(|variant| variant.name() == name)
    }

    /// Returns the variant's name: `portable`, `avx2` or `avx512`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            Inner::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Inner::Avx2 => "avx2",
            #[cfg(all(target_arch = "x86_64", linewords_avx512))]
            Inner::Avx512 => "avx512",
        }
    }

    /// Writes `src` as lines of words to `dst`, header included, and returns the length of the stream. Returns
    /// `None` if LZ4 is likely to do better, if `dst` is too short, or if a unit of this length cannot be lines
    /// of words.
    #[inline]
    pub(crate) fn compress(
        self,
        table: &mut [u32],
        control: &mut [u8],
        src: &[u8],
        dst: &mut [u8],
    ) -> Option<usize> {
        let unit = Unit::of(src.len())?;
        match (self.0, unit.is_wide()) {
            (Inner::Portable, false) => portable::compress::<Narrow>(table, control, src, dst),
            (Inner::Portable, true) => portable::compress::<Wide>(table, control, src, dst),
            // SAFETY: this variant exists only if the processor has its features.
            #[cfg(target_arch = "x86_64")]
            (Inner::Avx2, false) => unsafe {
                crate::avx2::compress::<Narrow>(table, control, src, dst)
            },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Inner::Avx2, true) => unsafe {
                crate::avx2::compress::<Wide>(table, control, src, dst)
            },
            // SAFETY: as above.
            #[cfg(all(target_arch = "x86_64", linewords_avx512))]
            (Inner::Avx512, false) => unsafe {
                crate::avx512::compress::<Narrow>(table, control, src, dst)
            },
            // SAFETY: as above.
            #[cfg(all(target_arch = "x86_64", linewords_avx512))]
            (Inner::Avx512, true) => unsafe {
                crate::avx512::compress::<Wide>(table, control, src, dst)
            },
        }
    }

    /// Decompresses `body`, the stream without its first three bytes, into all of `dst`, which has the length of
    /// `unit`. Returns false if `body` is malformed.
    #[inline]
    pub(crate) fn decompress(self, unit: Unit, body: &[u8], dst: &mut [u8]) -> bool {
        match (self.0, unit.is_wide()) {
            (Inner::Portable, false) => portable::decompress::<Narrow>(body, dst),
            (Inner::Portable, true) => portable::decompress::<Wide>(body, dst),
            // SAFETY: this variant exists only if the processor has its features.
            #[cfg(target_arch = "x86_64")]
            (Inner::Avx2, false) => unsafe { crate::avx2::decompress::<Narrow>(body, dst) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Inner::Avx2, true) => unsafe { crate::avx2::decompress::<Wide>(body, dst) },
            // SAFETY: as above.
            #[cfg(all(target_arch = "x86_64", linewords_avx512))]
            (Inner::Avx512, false) => unsafe { crate::avx512::decompress::<Narrow>(body, dst) },
            // SAFETY: as above.
            #[cfg(all(target_arch = "x86_64", linewords_avx512))]
            (Inner::Avx512, true) => unsafe { crate::avx512::decompress::<Wide>(body, dst) },
        }
    }
}

impl fmt::Debug for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Variant").field(&self.name()).finish()
    }
}
