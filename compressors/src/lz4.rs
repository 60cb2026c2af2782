//! `lz4`: fast compression. Decompression needs no context.

use std::sync::Arc;

use crate::compressor::{Compressor, CompressorCtx, StatelessDecompress};
use crate::error::CompressorError;
use crate::liblz4::{Fast, Library, compress_bound};
use crate::lz4codec::Codec;
use crate::spec::Spec;

/// LZ4 at a chosen acceleration.
///
/// The parameter `accel` is 1 to 65537, by default 1. A larger value makes the codec
/// search for matches less often: it compresses faster, but less densely.
///
/// `Send` and `Sync`; clones share the dictionary. A context keeps about
/// 16 KiB. A dictionary takes its own bytes and about 16 KiB more.
///
/// ```
/// use compressors::{Compressor, Lz4};
///
/// let lz4 = Lz4::builder().acceleration(4).build()?;
/// assert_eq!(lz4.spec(), "lz4:accel=4");
/// # Ok::<(), compressors::CompressorError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Lz4(Codec<Fast>);

impl Lz4 {
    /// Starts building a compressor with default parameters.
    pub fn builder() -> Lz4Builder {
        Lz4Builder { acceleration: Fast::DEFAULT, dictionary: None }
    }

    pub(crate) fn from_spec(spec: &Spec) -> Result<Self, CompressorError> {
        Codec::from_spec(spec).map(Lz4)
    }
}

/// Sets the parameters of an [`Lz4`].
#[derive(Debug, Clone)]
#[must_use]
pub struct Lz4Builder {
    acceleration: i32,
    dictionary: Option<Arc<[u8]>>,
}

impl Lz4Builder {
    /// Sets the acceleration, 1 to 65537, by default 1. With a larger value, the codec searches less often.
    pub fn acceleration(mut self, acceleration: i32) -> Self {
        self.acceleration = acceleration;
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
    /// [`CompressorError::BadParameter`] if the acceleration is out of range or the
    /// dictionary is too short; [`CompressorError::OutOfMemory`] if there is no memory
    /// to prepare the dictionary.
    pub fn build(self) -> Result<Lz4, CompressorError> {
        Codec::new(self.acceleration, self.dictionary).map(Lz4)
    }
}

impl Compressor for Lz4 {
    fn name(&self) -> &str {
        Fast::NAME
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

impl StatelessDecompress for Lz4 {
    fn decompress(&self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        self.0.decompress(src, dst)
    }
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use super::{Lz4, Lz4Builder};
    use crate::compressor::Compressor;
    use crate::error::CompressorError;
    use crate::registry::build;

    const _: fn() = || {
        fn check<T: Send + Sync + Clone + 'static>() {}
        check::<Lz4>();
        check::<Lz4Builder>();
    };

    #[test]
    fn acceleration_is_bounded_and_told() {
        assert_eq!(Lz4::default().spec(), "lz4");
        assert_eq!(build("lz4:accel=1").unwrap().spec(), "lz4");
        assert_eq!(build("lz4:accel=65537").unwrap().spec(), "lz4:accel=65537");
        for spec in ["lz4:accel=0", "lz4:accel=65538", "lz4:accel=-1", "lz4:level=1", "lz4:accel="]
        {
            assert!(build(spec).is_err(), "{spec}");
        }
        assert!(Lz4::builder().acceleration(0).build().is_err());
    }

    #[test]
    fn acceleration_reaches_the_library() {
        let page: Vec<u8> = (0..4096u32).flat_map(|i| [(i / 3) as u8, (i / 50) as u8]).collect();
        let len = |spec: &str| {
            let codec = build(spec).unwrap();
            let mut out = vec![0; codec.max_compressed_len(page.len())];
            codec.new_ctx().unwrap().compress(&page, &mut out).unwrap()
        };
        assert!(len("lz4") < len("lz4:accel=60"));
    }

    #[test]
    fn blocks_of_either_encoder_come_back() {
        // Inputs up to 64 KiB use our encoder, longer ones use the library's.
        for len in [1, 4096, 65535, 65536, 65537, 70000] {
            let bytes: Vec<u8> = (0..len as u32).map(|i| (i.wrapping_mul(i) / 977) as u8).collect();
            let codec = Lz4::default();
            let mut ctx = codec.new_ctx().unwrap();
            let mut out = vec![0; codec.max_compressed_len(len)];
            for _ in 0..2 {
                let written = ctx.compress(&bytes, &mut out).unwrap();
                let mut back = vec![0; len];
                ctx.decompress(&out[..written], &mut back).unwrap();
                assert!(back == bytes, "{len}");
            }
        }
    }

    #[test]
    fn a_context_of_both_encoders_mixes_nothing_up() {
        let page: Vec<u8> = (0..4096u32).map(|i| (i * i / 977) as u8).collect();
        let long = page.repeat(20);
        let codec = Lz4::default();
        let mut out = vec![0; codec.max_compressed_len(long.len())];
        let mut ctx = codec.new_ctx().unwrap();
        let fresh = ctx.compress(&page, &mut out).unwrap();
        for _ in 0..3 {
            let written = ctx.compress(&long, &mut out).unwrap();
            let mut back = vec![0; long.len()];
            ctx.decompress(&out[..written], &mut back).unwrap();
            assert!(back == long);
            assert_eq!(ctx.compress(&page, &mut out), Ok(fresh));
        }
    }

    #[test]
    fn the_bound_is_the_librarys() {
        for src_len in [0, 1, 254, 255, 256, 4096, 65536, 0x7E00_0000] {
            // SAFETY: the call only computes from a number.
            let bound = unsafe { lz4_sys::LZ4_compressBound(src_len) };
            assert_eq!(Lz4::default().max_compressed_len(src_len as usize), bound as usize);
        }
        assert_eq!(Lz4::default().max_compressed_len(0x7E00_0001), usize::MAX);
        assert_eq!(Lz4::default().max_compressed_len(usize::MAX), usize::MAX);
    }

    #[test]
    fn another_dictionary_does_not_pass_for_the_right_one() {
        let one = Lz4::builder().dictionary(*b"the first dictionary of the two").build().unwrap();
        let two = Lz4::builder().dictionary(*b"THE OTHER DICTIONARY OF THE TWO").build().unwrap();
        assert_ne!(one.spec(), two.spec());
        let spec = one.spec();
        assert!(spec.starts_with("lz4:dict="), "{spec}");
        assert!(matches!(build(&spec), Err(CompressorError::BadParameter { .. })));

        let page = b"dictionary of the two, the first dictionary of the two";
        let mut out = [0; 128];
        let len = one.new_ctx().unwrap().compress(page, &mut out).unwrap();
        let mut back = [0; 54];
        two.stateless().unwrap().decompress(&out[..len], &mut back).unwrap();
        assert_ne!(&back, page);
        one.stateless().unwrap().decompress(&out[..len], &mut back).unwrap();
        assert_eq!(&back, page);
        // Without a dictionary, the block has matches that reach before its start.
        let plain = Lz4::default();
        assert!(plain.stateless().unwrap().decompress(&out[..len], &mut back).is_err());
    }
}
