//! `lz4hc`: LZ4's format with a thorough search for matches. Compression is slow.
//! Decompression is the same as lz4's and needs no context.

use std::sync::Arc;

use crate::compressor::{Compressor, CompressorCtx, StatelessDecompress};
use crate::error::CompressorError;
use crate::liblz4::{Hc, Library, compress_bound};
use crate::lz4codec::Codec;
use crate::spec::Spec;

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
#[derive(Clone, Debug, Default)]
pub struct Lz4Hc(Codec<Hc>);

impl Lz4Hc {
    /// Starts building a compressor with default parameters.
    pub fn builder() -> Lz4HcBuilder {
        Lz4HcBuilder { level: Hc::DEFAULT, dictionary: None }
    }

    pub(crate) fn from_spec(spec: &Spec) -> Result<Self, CompressorError> {
        Codec::from_spec(spec).map(Lz4Hc)
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
        Codec::new(self.level, self.dictionary).map(Lz4Hc)
    }
}

impl Compressor for Lz4Hc {
    fn name(&self) -> &str {
        Hc::NAME
    }

    fn spec(&self) -> String {
        self.0.spec()
    }

    fn max_compressed_len(&self, src_len: usize) -> usize {
        compress_bound(src_len)
    }

    fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        self.0.new_ctx()
    }

    fn stateless(&self) -> Option<&dyn StatelessDecompress> {
        Some(self)
    }
}

impl StatelessDecompress for Lz4Hc {
    fn decompress(&self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        self.0.decompress(src, dst)
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
