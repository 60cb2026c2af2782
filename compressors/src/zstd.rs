//! `zstd`: dense compression, with frames reduced to what a page store needs.
//!
//! A frame has no magic bytes, no checksum, no dictionary id and no content
//! size, since the owner of the page needs none of these. What remains is two bytes
//! of frame header and three per block. The caller gives the length of the output.
//! A frame that decompresses to another length is refused.
//!
//! The library knows an input's length before it compresses the input. So it sizes
//! window and tables for a page, not for a file. Decompression writes straight into
//! the caller's buffer, so no frame can make the library allocate a large window.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::boxed::try_box;
use crate::compressor::{Compressor, CompressorCtx, MAX_LEN, check_len};
use crate::dictionary::Content;
use crate::error::CompressorError;
use crate::libzstd::{Decoder, Encoder, Failure, Prepared};
use crate::names::ZSTD as NAME;
use crate::spec::{DICT_KEY, Spec, bad_int, write_spec};

const LEVEL: &str = "level";
const DEFAULT_LEVEL: i32 = 3;
const PAGE: &str = "page";
const DEFAULT_PAGE: i32 = 4096;
const PAGES: RangeInclusive<i32> = 1..=1 << 16;

/// The input that contexts are prepared with, as long as the longest that [`Compressor::new_ctx_for`] prepares for. For
/// their tables, only its length matters.
static ZEROS: [u8; 1 << 18] = [0; 1 << 18];

/// Zstandard at a chosen level.
///
/// The parameter `level` is 3 by default. It has the library's range: 1 to 22, and
/// negative levels down to about -130000, which are faster and less dense. As in the
/// library, 0 stands for the default.
///
/// The parameter `page` is the length in bytes that contexts are prepared for: 1 to
/// 65536, by default 4096. Longer inputs work, but may allocate. The first of them
/// always does.
///
/// The output is a zstd frame without magic bytes (`ZSTD_f_zstd1_magicless`). Other
/// tools can read it only if they are set to this format.
///
/// `Send` and `Sync`; clones share the dictionary.
///
/// ```
/// use compressors::{Compressor, Zstd};
///
/// let words = b"select insert update delete from where ".repeat(8);
/// let plain = Zstd::builder().level(1).build()?;
/// let primed = Zstd::builder().level(1).dictionary(words).build()?;
/// assert_eq!(plain.spec(), "zstd:level=1");
///
/// let page = b"update from insert where select delete ".repeat(2);
/// let mut out = vec![0; plain.max_compressed_len(page.len())];
/// let without = plain.new_ctx()?.compress(&page, &mut out)?;
/// let with = primed.new_ctx()?.compress(&page, &mut out)?;
/// assert!(with < without);
/// # Ok::<(), compressors::CompressorError>(())
/// ```
#[derive(Clone)]
pub struct Zstd {
    level: i32,
    page_len: usize,
    dictionary: Option<Arc<Prepared>>,
}

/// Returns the range of the library's levels. Negative levels are fast ones.
fn levels() -> RangeInclusive<i32> {
    zstd_safe::min_c_level()..=zstd_safe::max_c_level()
}

impl Zstd {
    /// Starts building a compressor with default parameters.
    pub fn builder() -> ZstdBuilder {
        ZstdBuilder { level: DEFAULT_LEVEL, page_len: DEFAULT_PAGE, dictionary: None }
    }

    /// Builds the compressor of a spec with the name `zstd`, as [`build`](crate::build) does, but returns it with its
    /// own type.
    ///
    /// ```
    /// use compressors::{Compressor, Zstd};
    ///
    /// let codec = Zstd::from_spec(&"zstd:level=6".parse()?)?;
    /// assert_eq!(codec.spec(), "zstd:level=6");
    /// assert!(Zstd::from_spec(&"lz4".parse()?).is_err());
    /// # Ok::<(), compressors::CompressorError>(())
    /// ```
    ///
    /// # Errors
    /// [`CompressorError::UnknownName`] if the spec has another name; [`CompressorError::BadParameter`] if a parameter
    /// is unknown or out of range, or names a dictionary, whose bytes a spec does not have.
    pub fn from_spec(spec: &Spec) -> Result<Self, CompressorError> {
        if spec.name() != NAME {
            let (name, known) = (spec.name().to_owned(), vec![NAME.to_owned()]);
            return Err(CompressorError::UnknownName { name, known });
        }
        spec.refuse_dictionary()?;
        spec.allow_keys(&[LEVEL, PAGE])?;
        let level = spec.int(LEVEL, DEFAULT_LEVEL, levels())?;
        let page_len = spec.int(PAGE, DEFAULT_PAGE, PAGES)?;
        ZstdBuilder { level, page_len, dictionary: None }.build()
    }

    /// Returns the level that the codec compresses with.
    pub(crate) fn level(&self) -> i32 {
        self.level
    }

    /// Returns a codec with the same parameters and no dictionary.
    ///
    /// ```
    /// use compressors::{Compressor, Zstd};
    ///
    /// let primed = Zstd::builder().level(1).dictionary(b"words that many pages have".to_vec()).build()?;
    /// assert_eq!(primed.without_dictionary().spec(), "zstd:level=1");
    /// # Ok::<(), compressors::CompressorError>(())
    /// ```
    #[must_use]
    pub fn without_dictionary(&self) -> Zstd {
        Zstd { dictionary: None, ..*self }
    }

    /// Returns a codec with the same parameters and another dictionary, of the form that
    /// [`ZstdBuilder::dictionary`] describes.
    ///
    /// ```
    /// use compressors::{Compressor, Zstd};
    ///
    /// let primed = Zstd::default().with_dictionary(b"words that many pages have".to_vec())?;
    /// assert!(primed.spec().starts_with("zstd:dict="));
    /// # Ok::<(), compressors::CompressorError>(())
    /// ```
    ///
    /// # Errors
    /// [`CompressorError::BadParameter`], as [`ZstdBuilder::build`].
    pub fn with_dictionary(&self, bytes: Vec<u8>) -> Result<Zstd, CompressorError> {
        let dictionary = Arc::new(Prepared::new(Content::Made(Arc::new(bytes)), self.level)?);
        Ok(Zstd { dictionary: Some(dictionary), ..*self })
    }

    /// Returns the dictionary's bytes; `None` without a dictionary.
    #[must_use]
    pub fn dictionary(&self) -> Option<&[u8]> {
        self.dictionary.as_ref().map(|prepared| prepared.bytes.bytes())
    }

    /// Returns the heap bytes of the prepared dictionary, which all contexts
    /// share; 0 without a dictionary. They grow with the level, to far more
    /// than the dictionary itself. [`CompressorCtx::memory_bytes`] does not
    /// include them.
    ///
    /// ```
    /// use compressors::Zstd;
    ///
    /// let dictionary = b"words that many pages have".repeat(40);
    /// let primed = Zstd::builder().level(19).dictionary(dictionary.clone()).build()?;
    /// assert!(primed.dictionary_bytes() > dictionary.len());
    /// assert_eq!(Zstd::default().dictionary_bytes(), 0);
    /// # Ok::<(), compressors::CompressorError>(())
    /// ```
    #[must_use]
    pub fn dictionary_bytes(&self) -> usize {
        self.dictionary.as_ref().map_or(0, |prepared| prepared.memory_bytes())
    }
}

impl Default for Zstd {
    fn default() -> Self {
        Zstd { level: DEFAULT_LEVEL, page_len: DEFAULT_PAGE as usize, dictionary: None }
    }
}

impl fmt::Debug for Zstd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zstd")
            .field("level", &self.level)
            .field("page_len", &self.page_len)
            .field("dictionary", &self.dictionary.as_ref().map(|d| &d.bytes))
            .finish()
    }
}

/// Sets the parameters of a [`Zstd`].
#[derive(Debug, Clone)]
#[must_use]
pub struct ZstdBuilder {
    level: i32,
    page_len: i32,
    dictionary: Option<Arc<[u8]>>,
}

impl ZstdBuilder {
    /// Sets the level, by default 3. [`Zstd`] describes the range.
    pub fn level(mut self, level: i32) -> Self {
        self.level = level;
        self
    }

    /// Sets the length in bytes that contexts are prepared for: 1 to 65536, by
    /// default 4096.
    pub fn page_len(mut self, bytes: usize) -> Self {
        self.page_len = i32::try_from(bytes).unwrap_or(i32::MAX);
        self
    }

    /// Sets a dictionary: at least 8 bytes that pages are likely to contain. It
    /// is either any content, with the most likely bytes at the end, or the
    /// output of zstd's dictionary trainer.
    pub fn dictionary(mut self, bytes: impl Into<Arc<[u8]>>) -> Self {
        self.dictionary = Some(bytes.into());
        self
    }

    /// Builds the compressor.
    ///
    /// # Errors
    /// [`CompressorError::BadParameter`] if the level or the page length is out of
    /// range, if the dictionary is too short or damaged, or if there is no memory to
    /// prepare it.
    pub fn build(self) -> Result<Zstd, CompressorError> {
        if !levels().contains(&self.level) {
            return Err(bad_int(NAME, LEVEL, self.level, &levels()));
        }
        if !PAGES.contains(&self.page_len) {
            return Err(bad_int(NAME, PAGE, self.page_len, &PAGES));
        }
        let level = if self.level == 0 { DEFAULT_LEVEL } else { self.level };
        let dictionary = match self.dictionary {
            None => None,
            Some(bytes) => Some(Arc::new(Prepared::new(Content::Shared(bytes), level)?)),
        };
        Ok(Zstd { level, page_len: self.page_len as usize, dictionary })
    }
}

impl Compressor for Zstd {
    fn name(&self) -> &str {
        NAME
    }

    fn spec(&self) -> String {
        let level = (self.level != DEFAULT_LEVEL).then(|| self.level.to_string());
        let page = (self.page_len != DEFAULT_PAGE as usize).then(|| self.page_len.to_string());
        let dict = self.dictionary.as_ref().map(|d| d.bytes.fingerprint());
        write_spec(NAME, &[(LEVEL, level), (PAGE, page), (DICT_KEY, dict)])
    }

    fn max_compressed_len(&self, src_len: usize) -> usize {
        if src_len > MAX_LEN { usize::MAX } else { zstd_safe::compress_bound(src_len) }
    }

    fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        self.new_ctx_for(self.page_len)
    }

    fn new_ctx_for(&self, len: usize) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        let codec = Zstd { page_len: len.clamp(self.page_len, ZEROS.len()), ..self.clone() };
        let page = &ZEROS[..codec.page_len];
        let ctx = Ctx {
            pages: Encoder::fixed_for(page, self.level, self.dictionary.clone())?,
            others: None,
            decoder: Decoder::new(self.dictionary.clone())?,
            codec,
        };
        Ok(try_box(NAME, ctx)?)
    }
}

struct Ctx {
    /// Compresses inputs up to the page length. It never allocates.
    pages: Encoder,
    /// Compresses the inputs that `pages` cannot compress. It is made for the first of them.
    others: Option<Encoder>,
    decoder: Decoder,
    codec: Zstd,
}

impl fmt::Debug for Ctx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("zstd::Ctx")
            .field("codec", &self.codec)
            .field("memory_bytes", &self.memory_bytes())
            .finish_non_exhaustive()
    }
}

impl Ctx {
    /// Compresses an input that is too long for the encoder [`pages`](Self::pages), or that needs more memory than
    /// this encoder has.
    fn compress_other(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
        let encoder = match &mut self.others {
            Some(encoder) => encoder,
            none => none.insert(Encoder::growing(self.codec.level, self.codec.dictionary.clone())?),
        };
        encoder.compress(src, dst).map_err(|failure| compress_error(failure, src, dst))
    }
}

fn compress_error(failure: Failure, src: &[u8], dst: &[u8]) -> CompressorError {
    match failure {
        Failure::DST_TOO_SMALL => {
            CompressorError::OutputTooSmall { codec: NAME, src_len: src.len(), capacity: dst.len() }
        }
        failure => failure.into_error("compression"),
    }
}

impl CompressorCtx for Ctx {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
        check_len(NAME, src.len(), MAX_LEN)?;
        if src.len() > self.codec.page_len {
            return self.compress_other(src, dst);
        }
        match self.pages.compress(src, dst) {
            // If the page length exceeds 16 KiB, an input of at most 16 KiB may need more memory than
            // an input of the page length: the library takes parameters for short inputs from another table.
            Err(Failure::OUT_OF_MEMORY) => self.compress_other(src, dst),
            result => result.map_err(|failure| compress_error(failure, src, dst)),
        }
    }

    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        check_len(NAME, src.len(), MAX_LEN)?;
        check_len(NAME, dst.len(), MAX_LEN)?;
        if src.is_empty() {
            // The library would accept an empty input as zero frames.
            return Err(CompressorError::Corrupt { codec: NAME, reason: "the input is empty" });
        }
        let expected = dst.len();
        match self.decoder.decompress(src, dst) {
            Ok(got) if got == expected => Ok(()),
            Ok(got) => Err(CompressorError::WrongLength { codec: NAME, expected, got: Some(got) }),
            Err(Failure::DST_TOO_SMALL) => {
                Err(CompressorError::WrongLength { codec: NAME, expected, got: None })
            }
            Err(Failure::OUT_OF_MEMORY) => Err(Failure::OUT_OF_MEMORY.into_error("decompression")),
            Err(failure) => Err(CompressorError::Corrupt { codec: NAME, reason: failure.reason() }),
        }
    }

    fn memory_bytes(&self) -> usize {
        self.pages.memory_bytes()
            + self.others.as_ref().map_or(0, Encoder::memory_bytes)
            + self.decoder.memory_bytes()
            + size_of::<Self>()
    }
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use super::{DEFAULT_LEVEL, Zstd, ZstdBuilder, levels};
    use crate::compressor::Compressor;
    use crate::error::CompressorError;
    use crate::registry::build;

    const _: fn() = || {
        fn check<T: Send + Sync + Clone + 'static>() {}
        check::<Zstd>();
        check::<ZstdBuilder>();
    };

    fn page() -> Vec<u8> {
        (0..4096u32).map(|i| (i.wrapping_mul(i) / 977) as u8 & 0x1f).collect()
    }

    fn compress(codec: &Zstd, page: &[u8]) -> Vec<u8> {
        let mut out = vec![0; codec.max_compressed_len(page.len())];
        let len = codec.new_ctx().unwrap().compress(page, &mut out).unwrap();
        out.truncate(len);
        out
    }

    #[test]
    fn parameters_are_bounded_and_told() {
        assert_eq!(Zstd::default().spec(), "zstd");
        let (first, last) = (*levels().start(), *levels().end());
        assert!(first < -1000 && last >= 22);
        for (given, told) in [
            ("zstd:level=3", "zstd"),
            ("zstd:level=0", "zstd"),
            ("zstd:level=-7", "zstd:level=-7"),
            ("zstd:page=4096,level=22", "zstd:level=22"),
            ("zstd:page=16384", "zstd:page=16384"),
            ("zstd:page=16384,level=1", "zstd:level=1,page=16384"),
        ] {
            assert_eq!(build(given).unwrap().spec(), told);
        }
        assert!(build(&format!("zstd:level={first}")).is_ok());
        assert!(build(&format!("zstd:level={}", first - 1)).is_err());
        assert!(build(&format!("zstd:level={}", last + 1)).is_err());
        for spec in ["zstd:page=0", "zstd:page=65537", "zstd:window=12", "zstd:level=fast"] {
            assert!(build(spec).is_err(), "{spec}");
        }
        assert!(Zstd::builder().page_len(usize::MAX).build().is_err());
        assert!(Zstd::builder().level(last + 1).build().is_err());
    }

    #[test]
    fn a_frame_has_two_bytes_of_header() {
        let codec = Zstd::default();
        let out = compress(&codec, &[5; 4096]);
        // The descriptor says that the frame has a window, but no content size, checksum or dictionary id.
        assert_eq!(out[0], 0);
        // The window is 4 KiB: 1 KiB times 2^2. The mantissa is 0.
        assert_eq!(out[1], 2 << 3);
        let plain = zstd_safe::compress(&mut vec![0; 5000][..], &page(), DEFAULT_LEVEL).unwrap();
        assert_eq!(compress(&codec, &page()).len(), plain - 5);
    }

    #[test]
    fn tables_are_for_the_page_and_stay() {
        let codec = Zstd::default();
        let mut ctx = codec.new_ctx().unwrap();
        let memory = ctx.memory_bytes();
        assert!(memory < 256 << 10, "{memory}");
        let mut out = vec![0; 8192];
        // More short inputs in a row than the library accepts before it shrinks its tables.
        for len in [4096, 1, 100, 2048, 2049].into_iter().flat_map(|len| [len; 300]) {
            ctx.compress(&page()[..len], &mut out).unwrap();
            assert_eq!(ctx.memory_bytes(), memory, "{len}");
        }
        let larger = Zstd::builder().page_len(65536).build().unwrap();
        assert!(larger.new_ctx().unwrap().memory_bytes() > memory);
        // A context for longer inputs is the context of a codec for longer pages.
        let mut ctx = codec.new_ctx_for(65536).unwrap();
        let memory = ctx.memory_bytes();
        assert_eq!(memory, larger.new_ctx().unwrap().memory_bytes());
        ctx.compress(&[7; 65536], &mut vec![0; 70000]).unwrap();
        assert_eq!(ctx.memory_bytes(), memory);
    }

    #[test]
    fn a_frame_of_the_wrong_length_is_told_apart_from_a_corrupt_one() {
        let codec = Zstd::default();
        let out = compress(&codec, &page());
        let mut ctx = codec.new_ctx().unwrap();
        let wrong =
            |expected, got| Err(CompressorError::WrongLength { codec: "zstd", expected, got });
        assert_eq!(ctx.decompress(&out, &mut [0; 4097]), wrong(4097, Some(4096)));
        assert_eq!(ctx.decompress(&out, &mut [0; 4095]), wrong(4095, None));
        assert!(matches!(
            ctx.decompress(&out[..out.len() - 1], &mut [0; 4096]),
            Err(CompressorError::Corrupt { codec: "zstd", .. })
        ));
        assert_eq!(ctx.decompress(&out, &mut [0; 4096]), Ok(()));
    }

    #[test]
    fn a_dictionary_shrinks_pages_like_it_and_outlives_its_compressor() {
        let dictionary: Vec<u8> = page().into_iter().rev().chain(page()).collect();
        let primed = Zstd::builder().dictionary(dictionary.clone()).build().unwrap();
        assert!(primed.dictionary_bytes() > dictionary.len());
        assert!(primed.spec().starts_with("zstd:dict="));
        assert!(matches!(build(&primed.spec()), Err(CompressorError::BadParameter { .. })));
        let plain_len = compress(&Zstd::default(), &page()).len();

        let mut ctx = primed.new_ctx().unwrap();
        drop(primed);
        let memory = ctx.memory_bytes();
        let mut out = vec![0; 8192];
        let mut back = vec![0; 4096];
        for _ in 0..3 {
            let len = ctx.compress(&page(), &mut out).unwrap();
            assert!(len < plain_len / 4, "{len} against {plain_len}");
            ctx.decompress(&out[..len], &mut back).unwrap();
            assert_eq!(back, page());
            // Without the dictionary the page cannot be read.
            let mut other = Zstd::default().new_ctx().unwrap();
            assert!(other.decompress(&out[..len], &mut back).is_err() || back != page());
        }
        assert_eq!(ctx.memory_bytes(), memory);
    }

    #[test]
    fn damaged_dictionaries_are_refused() {
        // The magic number of a trained dictionary, followed by garbage.
        let mut damaged = vec![0xff; 64];
        damaged[..4].copy_from_slice(&0xEC30_A437_u32.to_le_bytes());
        let error = Zstd::builder().dictionary(damaged).build().unwrap_err();
        assert!(matches!(error, CompressorError::BadParameter { .. }), "{error}");
    }
}
