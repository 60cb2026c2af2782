//! Which code makes lines of words: the same bytes by whatever the processor has.

use core::fmt;
#[cfg(all(feature = "std", target_arch = "x86_64"))]
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

use crate::format::{Narrow, Unit, Wide};
use crate::portable;

/// One of the encoders and decoders, which the processor is known to have.
///
/// All read and write the same streams byte for byte. Made for tests and benches: [`Context::new`] and
/// [`decompress`] take the best.
///
/// [`Context::new`]: crate::Context::new
/// [`decompress`]: crate::decompress
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Variant(Inner);

// The private field is what makes calls of the others sound: `all` gives out only what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Inner {
    Portable = 1,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(all(target_arch = "x86_64", linewords_avx512))]
    Avx512,
}

/// Whether the processor has all of these, or the build requires them.
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
        // Miri knows few of the intrinsics.
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
    /// Safe code, which every processor runs.
    pub const PORTABLE: Variant = Variant(Inner::Portable);

    /// Those that this processor has, the quickest first.
    pub fn all() -> impl Iterator<Item = Variant> {
        Inner::ALL.iter().copied().filter(|inner| inner.is_there()).map(Variant)
    }

    /// The quickest that this processor has.
    #[must_use]
    pub fn best() -> Variant {
        #[cfg(all(feature = "std", target_arch = "x86_64"))]
        {
            /// The one found; 0 before.
            static BEST: AtomicU8 = AtomicU8::new(0);
            // Relaxed: pairs with nothing. Whoever does not see it yet finds the same.
            let best = BEST.load(Relaxed);
            if let Some(&inner) = Inner::ALL.iter().find(|&&inner| inner as u8 == best) {
                return Variant(inner);
            }
            let found = Self::all().next().unwrap_or(Self::PORTABLE);
            // Relaxed: as above; the number is all there is to see.
            BEST.store(found.0 as u8, Relaxed);
            found
        }
        #[cfg(not(all(feature = "std", target_arch = "x86_64")))]
        Self::all().next().unwrap_or(Self::PORTABLE)
    }

    /// That of this name, if this processor has it.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Variant> {
        Self::all().find(|variant| variant.name() == name)
    }

    /// `portable`, `avx2` or `avx512`.
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

    /// Makes lines of words of `src` in `dst`, header included; nothing if that does not pay, or not fit.
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
            // SAFETY: a variant is made only where its features were found.
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

    /// Makes the unit of what follows the header. Whether it could.
    #[inline]
    pub(crate) fn decompress(self, unit: Unit, body: &[u8], dst: &mut [u8]) -> bool {
        match (self.0, unit.is_wide()) {
            (Inner::Portable, false) => portable::decompress::<Narrow>(body, dst),
            (Inner::Portable, true) => portable::decompress::<Wide>(body, dst),
            // SAFETY: a variant is made only where its features were found.
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
