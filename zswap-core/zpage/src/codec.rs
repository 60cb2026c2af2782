//! A compressor with its contexts: it turns a page into bytes and bytes into the page.
//!
//! Compressors are user code. This module catches their panics and returns
//! [`CompressorError::Panicked`] instead.

use std::sync::Arc;

use compressors::{Compressor, CompressorError, StatelessDecompress};
use zpool_base::contained::{Contained, Panicked, contain};
use zpool_base::prefetch;

use crate::acomp_ctx::{AcompCtxs, CodecFault, HeldCtx, output_len};

/// A compressor with a context for each CPU. `Send` and `Sync`.
///
/// ```
/// use zpage::{Codec, PAGE_SIZE, Recipe};
///
/// let codec = Codec::new(Recipe::builtin().compressor("null")?.compressor);
/// let page = [7; PAGE_SIZE];
/// let bytes = codec.compress(&page, |bytes| bytes.to_vec()).expect("no context is held");
/// let mut again = [0; PAGE_SIZE];
/// codec.decompress(&bytes, &mut again).expect("the codec's own bytes");
/// assert_eq!(again, page);
/// # Ok::<(), zpage::RecipeError>(())
/// ```
#[derive(Debug)]
pub struct Codec {
    compressor: Contained<Arc<dyn Compressor>>,
    ctxs: AcompCtxs,
}

impl Codec {
    /// Makes a codec without contexts. Each CPU makes its context on first use.
    pub fn new(compressor: Contained<Arc<dyn Compressor>>) -> Self {
        Codec { compressor, ctxs: AcompCtxs::new() }
    }

    /// Sets the length in bytes of the units that this codec compresses. Default: 4096. The contexts and their
    /// buffers are made for this length. Shorter inputs work, too. Longer ones fail with
    /// [`CompressorError::OutputTooSmall`] if the codec cannot make them fit into the buffer.
    ///
    /// ```
    /// use zpage::{Codec, Recipe};
    ///
    /// let null = Recipe::builtin().compressor("null")?.compressor;
    /// let codec = Codec::new(null).for_unit(16384);
    /// let (unit, mut again) = ([7; 16384], [0; 16384]);
    /// let bytes = codec.compress(&unit, |bytes| bytes.to_vec()).expect("no context is held");
    /// codec.decompress(&bytes, &mut again).expect("the codec's own bytes");
    /// assert_eq!((codec.unit(), again), (16384, unit));
    /// # Ok::<(), zpage::RecipeError>(())
    /// ```
    #[must_use]
    pub fn for_unit(mut self, bytes: usize) -> Self {
        self.ctxs.set_unit(bytes);
        self
    }

    /// Returns the length in bytes of the units that this codec compresses.
    #[inline]
    pub fn unit(&self) -> usize {
        self.ctxs.unit()
    }

    /// Sets whether this codec's contexts are for a fault handler. Default: no. A fault handler runs on the thread
    /// that faults, within whatever that thread does. So a thread that holds a context of another codec, or whose
    /// thread-locals are gone, may take a context of this one. A thread that holds a context of such a codec gets
    /// no other one, of any codec.
    ///
    /// ```
    /// use zpage::{Codec, CodecFault, Recipe};
    ///
    /// let null = || Recipe::builtin().compressor("null").map(|built| built.compressor);
    /// let (codec, handlers) = (Codec::new(null()?), Codec::new(null()?).in_fault_handler(true));
    /// let outer = codec.hold().expect("no context is held");
    /// let inner = handlers.hold().expect("no context of a fault handler is held");
    /// assert!(matches!(handlers.hold(), Err(CodecFault::Reentrant)));
    /// # Ok::<(), zpage::RecipeError>(())
    /// ```
    #[must_use]
    pub fn in_fault_handler(mut self, in_fault_handler: bool) -> Self {
        self.ctxs.set_in_fault_handler(in_fault_handler);
        self
    }

    /// Returns the compressor. If you call it directly, its panics are not caught.
    pub fn compressor(&self) -> &dyn Compressor {
        &**self.compressor
    }

    /// Makes this CPU's context now rather than at the first page.
    ///
    /// # Errors
    /// Those of [`Codec::hold`].
    ///
    /// # Blocking
    /// Sleeps as [`Codec::hold`] does.
    pub fn prepare(&self) -> Result<(), CodecFault> {
        self.hold().map(drop)
    }

    /// Locks this CPU's context, and makes the context on first use. If the context cannot be made, locks
    /// another CPU's.
    ///
    /// ```
    /// use zpage::{Codec, CodecFault, PAGE_SIZE, Recipe};
    ///
    /// let codec = Codec::new(Recipe::builtin().compressor("null")?.compressor);
    /// let mut ctx = codec.hold().expect("no context is held");
    /// let len = ctx.compress(&[7; PAGE_SIZE]).expect("null does not fail");
    /// assert_eq!(ctx.output()[..len], [7; PAGE_SIZE]);
    /// assert!(matches!(codec.hold(), Err(CodecFault::Reentrant)));
    /// # Ok::<(), zpage::RecipeError>(())
    /// ```
    ///
    /// # Errors
    /// [`CodecFault::Reentrant`] if this thread already holds a context, of this codec or another, or if the
    /// thread is ending; for a fault handler's codec ([`Codec::in_fault_handler`]) only if the thread already holds a
    /// context of such a codec. [`CodecFault::Failed`] if this CPU's context could not be made and no other CPU has
    /// one.
    ///
    /// # Blocking
    /// Sleeps while another thread holds the context.
    #[inline]
    pub fn hold(&self) -> Result<HeldCtx<'_>, CodecFault> {
        self.ctxs.hold(self.compressor())
    }

    /// Returns the decompressor that needs no context. Returns `None` if the compressor has no such
    /// decompressor, or panics.
    #[inline]
    pub fn stateless(&self) -> Option<&dyn StatelessDecompress> {
        contain(|| self.compressor.stateless()).ok().flatten()
    }

    /// Compresses a page, or up to [`unit`](Self::unit) bytes, calls `then` with the bytes to store, and returns the result of `then`. The bytes to
    /// store are the compressed bytes if there are fewer of them than the page has, else the page itself. They
    /// may lie in the context's buffer, so the context stays locked until `then` returns.
    ///
    /// ```
    /// use zpage::{Codec, PAGE_SIZE, Recipe};
    ///
    /// let codec = Codec::new(Recipe::builtin().compressor("null")?.compressor);
    /// let kept = codec.compress(&[7; PAGE_SIZE], |bytes| bytes.len()).expect("no context is held");
    /// assert_eq!(kept, PAGE_SIZE, "null does not shrink a page");
    /// # Ok::<(), zpage::RecipeError>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Codec::hold`]; [`CodecFault::Failed`] with the compressor's error if it fails or panics.
    ///
    /// # Blocking
    /// Sleeps as [`Codec::hold`] does, and in `then`.
    #[inline]
    pub fn compress<T>(&self, page: &[u8], then: impl FnOnce(&[u8]) -> T) -> Result<T, CodecFault> {
        let mut ctx = self.hold()?;
        let len = ctx.compress(page).map_err(CodecFault::Failed)?;
        Ok(then(Self::kept(page, ctx.output(), len).map_err(CodecFault::Failed)?))
    }

    /// Decompresses `bytes` and fills `page` with the result. After an error the content of `page` is
    /// unspecified. Takes a context only if the compressor needs one to decompress.
    ///
    /// ```
    /// use zpage::{Codec, CodecFault, PAGE_SIZE, Recipe};
    ///
    /// let codec = Codec::new(Recipe::builtin().compressor("null")?.compressor);
    /// let mut page = [0; PAGE_SIZE];
    /// assert!(codec.decompress(&[7; PAGE_SIZE], &mut page).is_ok());
    /// assert_eq!(page, [7; PAGE_SIZE]);
    /// assert!(matches!(codec.decompress(&[7; 100], &mut page), Err(CodecFault::Failed(_))));
    /// # Ok::<(), zpage::RecipeError>(())
    /// ```
    ///
    /// # Errors
    /// [`CodecFault::Failed`] with the compressor's error if it fails or panics. If the compressor needs a context
    /// to decompress, also the errors of [`Codec::hold`].
    ///
    /// # Blocking
    /// If the compressor needs a context to decompress, sleeps as [`Codec::hold`] does.
    #[inline]
    pub fn decompress(&self, bytes: &[u8], page: &mut [u8]) -> Result<(), CodecFault> {
        prefetch::read_soon(bytes);
        let stateless = contain(|| Some(self.compressor.stateless()?.decompress(bytes, page)));
        let done = match stateless {
            Ok(Some(done)) => done,
            Ok(None) => self.hold()?.decompress(bytes, page),
            Err(Panicked) => Err(CompressorError::Panicked { operation: "decompress" }),
        };
        done.map_err(CodecFault::Failed)
    }

    /// Returns the bytes of output buffer that the compressor needs for a unit. A caller that compresses with a
    /// context of its own makes its buffer that long.
    ///
    /// ```
    /// use zpage::{Codec, PAGE_SIZE, Recipe};
    ///
    /// let codec = Codec::new(Recipe::builtin().compressor("null")?.compressor);
    /// assert_eq!(codec.output_len(), Ok(PAGE_SIZE));
    /// # Ok::<(), zpage::RecipeError>(())
    /// ```
    ///
    /// # Errors
    /// [`CompressorError::OutputTooLarge`] if the compressor asks for more than 64 pages and more than four units;
    /// [`CompressorError::Panicked`] if its `max_compressed_len` panics.
    pub fn output_len(&self) -> Result<usize, CompressorError> {
        output_len(self.compressor(), self.unit())
    }

    /// Returns the bytes to store for a page that a codec compressed into the first `len` bytes of `buffer`:
    /// those bytes if `len` is less than the page's length, else the page itself.
    ///
    /// ```
    /// use zpage::Codec;
    ///
    /// assert_eq!(Codec::kept(b"a page", b"short...", 5), Ok(&b"short"[..]));
    /// assert_eq!(Codec::kept(b"a page", b"longer..", 6), Ok(&b"a page"[..]));
    /// ```
    ///
    /// # Errors
    /// [`CompressorError::OutputTooSmall`] if `len` is less than the page's length but exceeds the buffer's: the
    /// codec claims to have written more than it had room for.
    #[inline]
    pub fn kept<'a>(
        page: &'a [u8],
        buffer: &'a [u8],
        len: usize,
    ) -> Result<&'a [u8], CompressorError> {
        if len >= page.len() {
            return Ok(page);
        }
        let (src_len, capacity) = (page.len(), buffer.len());
        let lied = CompressorError::OutputTooSmall { codec: "acomp", src_len, capacity };
        buffer.get(..len).ok_or(lied)
    }

    /// Returns the heap bytes of the contexts made so far.
    pub fn memory_bytes(&self) -> usize {
        contain(|| self.ctxs.memory_bytes()).unwrap_or(0)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::PAGE_SIZE;
    use compressors::Registry;

    fn codec(spec: &str) -> Codec {
        Codec::new(Contained::new(Registry::builtin().build(spec).unwrap()))
    }

    #[test]
    fn a_page_comes_back() {
        let codec = codec("null");
        let mut page = [0; PAGE_SIZE];
        page.iter_mut().enumerate().for_each(|(n, byte)| *byte = n as u8);
        let bytes = codec.compress(&page, <[u8]>::to_vec).unwrap();
        let mut again = [0; PAGE_SIZE];
        codec.decompress(&bytes, &mut again).unwrap();
        assert!(again == page);
        let short = codec.decompress(&bytes[1..], &mut again).unwrap_err();
        assert!(matches!(short, CodecFault::Failed(_)), "{short:?}");
    }

    #[test]
    fn it_is_not_used_within_itself() {
        let codec = codec("null");
        let nested = codec.compress(&[0; PAGE_SIZE], |_| codec.compress(&[1; PAGE_SIZE], |_| ()));
        assert!(matches!(nested, Ok(Err(CodecFault::Reentrant))), "{nested:?}");
        assert!(codec.prepare().is_ok() && codec.memory_bytes() > PAGE_SIZE);
    }

    #[test]
    fn what_does_not_get_smaller_is_the_page_and_more_than_the_buffer_has_is_an_error() {
        let (page, buffer) = ([7; 8], [1, 2, 3]);
        assert_eq!(Codec::kept(&page, &buffer, 3), Ok(&[1, 2, 3][..]));
        let lied = CompressorError::OutputTooSmall { codec: "acomp", src_len: 8, capacity: 3 };
        assert_eq!(Codec::kept(&page, &buffer, 4), Err(lied));
        assert_eq!(Codec::kept(&page, &buffer, 8), Ok(&page[..]));
        assert_eq!(Codec::kept(&page, &buffer, usize::MAX), Ok(&page[..]));
    }
}
