//! `lz4hc`: LZ4's format with a thorough search for matches. Compression is slow.
//! Decompression is as fast as that of lz4 and needs no context.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::boxed::try_box;
use crate::compressor::{Compressor, CompressorCtx, StatelessDecompress};
use crate::dictionary::Dictionary;
use crate::error::CompressorError;
use crate::liblz4::{self, DICTIONARY_REACH, HcDictionary, HcState};
use crate::names::LZ4HC as NAME;
use crate::spec::{DICT_KEY, Spec, bad_int, write_spec};

const LEVEL: &str = "level";
const DEFAULT_LEVEL: i32 = 9;
const LEVELS: RangeInclusive<i32> = 3..=12;

/// LZ4 HC at a chosen level.
///
/// The parameter `level` is 3 to 12, by default 9. From 10 on, the parse is optimal.
///
/// From level 10 on, the library allocates 64 KiB for the duration of each
/// compression. This is an exception to the rule that contexts allocate nothing per
/// page. If there is no memory, the call fails with [`CompressorError::OutOfMemory`].
///
/// `Send` and `Sync`; clones share the dictionary. A context keeps about
/// 256 KiB. A dictionary takes its own bytes and about 256 KiB more.
///
/// ```
/// use compressors::{Compressor, Lz4Hc};
///
/// let lz4hc = Lz4Hc::builder().level(12).build()?;
/// assert_eq!(lz4hc.spec(), "lz4hc:level=12");
/// # Ok::<(), compressors::CompressorError>(())
/// ```
#[derive(Clone)]
pub struct Lz4Hc {
    level: i32,
    dictionary: Option<Arc<HcDictionary>>,
}

impl Lz4Hc {
    /// Starts building a compressor with default parameters.
    pub fn builder() -> Lz4HcBuilder {
        Lz4HcBuilder { level: DEFAULT_LEVEL, dictionary: None }
    }

    pub(crate) fn from_spec(spec: &Spec) -> Result<Self, CompressorError> {
        spec.refuse_dictionary()?;
        spec.allow_keys(&[LEVEL])?;
        Self::builder().level(spec.int(LEVEL, DEFAULT_LEVEL, LEVELS)?).build()
    }
}

impl Default for Lz4Hc {
    fn default() -> Self {
        Lz4Hc { level: DEFAULT_LEVEL, dictionary: None }
    }
}

impl fmt::Debug for Lz4Hc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lz4Hc")
            .field("level", &self.level)
            .field("dictionary", &self.dictionary.as_ref().map(|d| &d.bytes))
            .finish()
    }
}

/// Sets the parameters of an [`Lz4Hc`].
#[derive(Debug, Clone)]
#[must_use]
pub struct Lz4HcBuilder {
    level: i32,
    dictionary: Option<Arc<[u8]>>,
}

impl Lz4HcBuilder {
    /// Sets the level, 3 to 12, by default 9. With a higher level, the search is more thorough.
    pub fn level(mut self, level: i32) -> Self {
        self.level = level;
        self
    }

    /// Sets a dictionary: at least 8 bytes that pages are likely to contain, with
    /// the most likely bytes at the end. Only its last 64 KiB are used.
    pub fn dictionary(mut self, bytes: impl Into<Arc<[u8]>>) -> Self {
        self.dictionary = Some(bytes.into());
        self
    }

    /// Builds the compressor.
    ///
    /// # Errors
    /// [`CompressorError::BadParameter`] if the level is out of range or the
    /// dictionary is too short; [`CompressorError::OutOfMemory`] if there is no memory
    /// to prepare the dictionary.
    pub fn build(self) -> Result<Lz4Hc, CompressorError> {
        if !LEVELS.contains(&self.level) {
            return Err(bad_int(NAME, LEVEL, self.level, &LEVELS));
        }
        let dictionary = match self.dictionary {
            None => None,
            Some(bytes) => {
                let bytes = Dictionary::new(NAME, bytes, DICTIONARY_REACH)?;
                Some(Arc::new(HcDictionary::new(bytes, self.level)?))
            }
        };
        Ok(Lz4Hc { level: self.level, dictionary })
    }
}

impl Compressor for Lz4Hc {
    fn name(&self) -> &str {
        NAME
    }

    fn spec(&self) -> String {
        let level = (self.level != DEFAULT_LEVEL).then(|| self.level.to_string());
        let dict = self.dictionary.as_ref().map(|d| d.bytes.fingerprint());
        write_spec(NAME, &[(LEVEL, level), (DICT_KEY, dict)])
    }

    fn max_compressed_len(&self, src_len: usize) -> usize {
        liblz4::compress_bound(src_len)
    }

    fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        let ctx = Ctx { state: HcState::new()?, codec: self.clone() };
        Ok(try_box(NAME, ctx)?)
    }

    fn stateless(&self) -> Option<&dyn StatelessDecompress> {
        Some(self)
    }
}

impl StatelessDecompress for Lz4Hc {
    fn decompress(&self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        liblz4::decompress(NAME, src, dst, self.dictionary.as_ref().map(|d| &d.bytes))
    }
}

struct Ctx {
    state: HcState,
    codec: Lz4Hc,
}

impl fmt::Debug for Ctx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("lz4hc::Ctx").field("codec", &self.codec).finish_non_exhaustive()
    }
}

impl CompressorCtx for Ctx {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
        let Lz4Hc { level, dictionary } = &self.codec;
        self.state.compress(src, dst, *level, dictionary.as_deref())
    }

    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        StatelessDecompress::decompress(&self.codec, src, dst)
    }

    fn memory_bytes(&self) -> usize {
        self.state.memory_bytes() + size_of::<Self>()
    }
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use super::{Lz4Hc, Lz4HcBuilder};
    use crate::compressor::Compressor;
    use crate::lz4::Lz4;
    use crate::registry::build;

    const _: fn() = || {
        fn check<T: Send + Sync + Clone + 'static>() {}
        check::<Lz4Hc>();
        check::<Lz4HcBuilder>();
    };

    #[test]
    fn levels_are_bounded_and_told() {
        assert_eq!(Lz4Hc::default().spec(), "lz4hc");
        for level in 3..=12 {
            let spec = build(&format!("lz4hc:level={level}")).unwrap().spec();
            assert_eq!(
                spec,
                if level == 9 { "lz4hc".to_owned() } else { format!("lz4hc:level={level}") }
            );
        }
        for spec in ["lz4hc:level=2", "lz4hc:level=13", "lz4hc:accel=2"] {
            assert!(build(spec).is_err(), "{spec}");
        }
        assert!(Lz4Hc::builder().level(2).build().is_err());
    }

    #[test]
    fn output_is_lz4s_format() {
        let page: Vec<u8> = (0..4096u32).map(|i| (i * i / 977) as u8).collect();
        let mut out = vec![0; Lz4Hc::default().max_compressed_len(page.len())];
        let len = Lz4Hc::default().new_ctx().unwrap().compress(&page, &mut out).unwrap();
        let mut back = vec![0; page.len()];
        Lz4::default().stateless().unwrap().decompress(&out[..len], &mut back).unwrap();
        assert_eq!(back, page);
    }

    #[test]
    fn indices_that_run_out_are_started_over() {
        // Each input advances the state's indices by 64 KiB and its own length. At 1 GiB the library
        // starts over, after about 64 inputs of 16 MiB.
        let codec = Lz4Hc::builder().level(3).build().unwrap();
        let mut ctx = codec.new_ctx().unwrap();
        let large = vec![7u8; 16 << 20];
        let mut out = vec![0; codec.max_compressed_len(large.len())];
        let page: Vec<u8> = (0..4096u32).map(|i| (i * i / 977) as u8).collect();
        let mut lens = Vec::new();
        for _ in 0..80 {
            ctx.compress(&large, &mut out).unwrap();
            let len = ctx.compress(&page, &mut out).unwrap();
            let mut back = vec![0; page.len()];
            ctx.decompress(&out[..len], &mut back).unwrap();
            assert_eq!(back, page);
            lens.push(len);
        }
        assert!(lens.iter().all(|len| *len == lens[0]), "{lens:?}");
    }
}
