//! The implementations of lines of words, of which a processor may support some.

use core::fmt;

use crate::deltas;
use crate::format::{Narrow, Unit, Wide, Width};
use crate::plan::Instead;
use crate::portable;

/// An implementation of the encoder and the decoder that this processor supports.
///
/// All variants read and write exactly the same streams. The type is for tests and benchmarks:
/// [`Context::new`] and [`decompress`] use the quickest variant, which `processor.rs` chooses.
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
    /// AVX2, with loads of single words in place of gather instructions.
    #[cfg(target_arch = "x86_64")]
    Avx2Loads,
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
        #[cfg(target_arch = "x86_64")]
        Inner::Avx2Loads,
        Inner::Portable,
    ];

    fn is_there(self) -> bool {
        // Miri knows the intrinsics of AVX2 and BMI2, but not all of AVX-512. It has AVX2 if the build enables it.
        #[cfg(all(target_arch = "x86_64", linewords_avx512))]
        if cfg!(miri) && self == Inner::Avx512 {
            return false;
        }
        match self {
            Inner::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Inner::Avx2 | Inner::Avx2Loads => has!("avx2", "bmi1", "bmi2", "lzcnt", "popcnt"),
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

    /// Returns the variants that this processor supports.
    pub fn all() -> impl Iterator<Item = Variant> {
        Inner::ALL.iter().copied().filter(|inner| inner.is_there()).map(Variant)
    }

    /// Returns the variant's number, which is not 0.
    #[cfg(all(feature = "std", target_arch = "x86_64"))]
    pub(crate) fn number(self) -> u8 {
        self.0 as u8
    }

    /// Returns the variant with this number; `None` if no variant has it.
    ///
    /// # Safety
    /// The processor supports the variant. This is so if the number is that of a variant that exists.
    #[cfg(all(feature = "std", target_arch = "x86_64"))]
    #[inline]
    pub(crate) unsafe fn of_number(number: u8) -> Option<Variant> {
        Inner::ALL.iter().copied().find(|&inner| inner as u8 == number).map(Variant)
    }

    /// Returns the variant of this name; `None` if there is none or the processor does not support it.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Variant> {
        Self::all().find(|variant| variant.name() == name)
    }

    /// Returns the variant's name: `portable`, `avx2-loads`, `avx2` or `avx512`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            Inner::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Inner::Avx2Loads => "avx2-loads",
            #[cfg(target_arch = "x86_64")]
            Inner::Avx2 => "avx2",
            #[cfg(all(target_arch = "x86_64", linewords_avx512))]
            Inner::Avx512 => "avx512",
        }
    }

    /// Writes `src` as lines of words or as deltas to `dst`, header included, and returns the length of the stream.
    /// Returns `None` if LZ4 is likely to do better, if `dst` is too short, or if a unit of this length can have neither
    /// form.
    #[inline]
    pub(crate) fn compress(
        self,
        table: &mut [u32],
        control: &mut [u8],
        src: &[u8],
        dst: &mut [u8],
    ) -> Option<usize> {
        let mut instead = Instead::Lz4;
        let words = if Unit::of(src.len())?.is_wide() {
            self.compress_words::<Wide>(table, control, src, dst, &mut instead)
        } else {
            self.compress_words::<Narrow>(table, control, src, dst, &mut instead)
        };
        match instead {
            Instead::Lz4 => words,
            Instead::Deltas(distance) => self.compress_deltas(distance, src, dst),
        }
    }

    #[inline]
    fn compress_words<W: Width>(
        self,
        table: &mut [u32],
        control: &mut [u8],
        src: &[u8],
        dst: &mut [u8],
        instead: &mut Instead,
    ) -> Option<usize> {
        match self.0 {
            Inner::Portable => portable::compress::<W>(table, control, src, dst, instead),
            // SAFETY: this variant exists only if the processor has its features.
            #[cfg(target_arch = "x86_64")]
            Inner::Avx2Loads => unsafe {
                crate::avx2::compress::<W, false>(table, control, src, dst, instead)
            },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Inner::Avx2 => unsafe {
                crate::avx2::compress::<W, true>(table, control, src, dst, instead)
            },
            // SAFETY: as above.
            #[cfg(all(target_arch = "x86_64", linewords_avx512))]
            Inner::Avx512 => unsafe {
                crate::avx512::compress::<W>(table, control, src, dst, instead)
            },
        }
    }

    #[inline]
    fn compress_deltas(self, distance: u8, src: &[u8], dst: &mut [u8]) -> Option<usize> {
        match self.0 {
            Inner::Portable => deltas::compress(distance, src, dst),
            // SAFETY: this variant exists only if the processor has its features, and AVX-512 includes AVX2.
            #[cfg(target_arch = "x86_64")]
            _ => unsafe { crate::deltas_avx2::compress(distance, src, dst) },
        }
    }

    /// Decompresses `body`, a stream with lines of words without its first three bytes, into all of `dst`. `dst` has the
    /// length of `unit`. Returns false if `body` is malformed.
    #[inline]
    pub(crate) fn decompress_words(self, unit: Unit, body: &[u8], dst: &mut [u8]) -> bool {
        if unit.is_wide() {
            self.decompress_words_of::<Wide>(body, dst)
        } else {
            self.decompress_words_of::<Narrow>(body, dst)
        }
    }

    #[inline]
    fn decompress_words_of<W: Width>(self, body: &[u8], dst: &mut [u8]) -> bool {
        match self.0 {
            Inner::Portable => portable::decompress::<W>(body, dst),
            // SAFETY: this variant exists only if the processor has its features.
            #[cfg(target_arch = "x86_64")]
            Inner::Avx2Loads => unsafe { crate::avx2::decompress::<W, false>(body, dst) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Inner::Avx2 => unsafe { crate::avx2::decompress::<W, true>(body, dst) },
            // SAFETY: as above.
            #[cfg(all(target_arch = "x86_64", linewords_avx512))]
            Inner::Avx512 => unsafe { crate::avx512::decompress::<W>(body, dst) },
        }
    }

    /// Decompresses `body`, a stream of deltas without its first byte, into all of `dst`. Returns false if `body` is
    /// malformed.
    #[inline]
    pub(crate) fn decompress_deltas(self, body: &[u8], dst: &mut [u8]) -> bool {
        match self.0 {
            Inner::Portable => deltas::decompress(body, dst),
            // SAFETY: this variant exists only if the processor has its features, and AVX-512 includes AVX2.
            #[cfg(target_arch = "x86_64")]
            _ => unsafe { crate::deltas_avx2::decompress(body, dst) },
        }
    }
}

impl fmt::Debug for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Variant").field(&self.name()).finish()
    }
}
