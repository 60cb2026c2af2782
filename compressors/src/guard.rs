//! Calls codecs that may panic, and turns a panic into an error.
//!
//! If the codec panics, the call fails with [`CompressorError::Panicked`]. The panic may leave the context in any
//! state, so drop the context and make a new one for the next page.
//!
//! ```
//! use compressors::{Null, guard};
//!
//! let mut ctx = guard::new_ctx(&Null)?;
//! let (mut out, mut back) = ([0; 8], [0; 4]);
//! let len = guard::compress(&mut *ctx, b"page", &mut out)?;
//! guard::decompress(&mut *ctx, &out[..len], &mut back)?;
//! assert_eq!(&back, b"page");
//! # Ok::<(), compressors::CompressorError>(())
//! ```

use zpool_base::unwind::caught;

use crate::{Compressor, CompressorCtx, CompressorError};

fn outcome<T>(
    operation: &'static str,
    call: impl FnOnce() -> Result<T, CompressorError>,
) -> Result<T, CompressorError> {
    caught(call).unwrap_or_else(|| Err(CompressorError::Panicked { operation }))
}

/// Calls [`Compressor::new_ctx`].
///
/// # Errors
/// Those of the call, and [`CompressorError::Panicked`].
pub fn new_ctx(compressor: &dyn Compressor) -> Result<Box<dyn CompressorCtx>, CompressorError> {
    outcome("new_ctx", || compressor.new_ctx())
}

/// Calls [`Compressor::new_ctx_for`].
///
/// # Errors
/// Those of the call, and [`CompressorError::Panicked`].
pub fn new_ctx_for(
    compressor: &dyn Compressor,
    len: usize,
) -> Result<Box<dyn CompressorCtx>, CompressorError> {
    outcome("new_ctx", || compressor.new_ctx_for(len))
}

/// Calls [`CompressorCtx::compress`]. After [`CompressorError::Panicked`], do not use the context again. Drop it
/// with [`zpool_base::unwind::dropped`], since its destructor may panic, too.
///
/// # Errors
/// Those of the call, and [`CompressorError::Panicked`].
#[inline]
pub fn compress(
    ctx: &mut dyn CompressorCtx,
    src: &[u8],
    dst: &mut [u8],
) -> Result<usize, CompressorError> {
    outcome("compress", || ctx.compress(src, dst))
}

/// Calls [`CompressorCtx::decompress`]. After [`CompressorError::Panicked`], do not use the context again. Drop it
/// with [`zpool_base::unwind::dropped`], since its destructor may panic, too.
///
/// # Errors
/// Those of the call, and [`CompressorError::Panicked`].
#[inline]
pub fn decompress(
    ctx: &mut dyn CompressorCtx,
    src: &[u8],
    dst: &mut [u8],
) -> Result<(), CompressorError> {
    outcome("decompress", || ctx.decompress(src, dst))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::resume_unwind;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use zpool_base::unwind::dropped;

    /// A codec that panics in the call that `at` names. It counts how often its destructor runs.
    #[derive(Debug)]
    struct Fragile {
        at: &'static str,
        dropped: &'static AtomicUsize,
    }

    impl Fragile {
        fn step(&self, name: &str) {
            if self.at == name {
                // The payload's destructor panics, too.
                resume_unwind(Box::new(Bomb));
            }
        }
    }

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            resume_unwind(Box::new(()));
        }
    }

    impl Drop for Fragile {
        fn drop(&mut self) {
            self.dropped.fetch_add(1, SeqCst);
            self.step("drop");
        }
    }

    impl Compressor for Fragile {
        fn name(&self) -> &str {
            "fragile"
        }
        fn spec(&self) -> String {
            "fragile".into()
        }
        fn max_compressed_len(&self, len: usize) -> usize {
            len
        }
        fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
            self.step("new_ctx");
            Ok(Box::new(Fragile { at: self.at, dropped: self.dropped }))
        }
    }

    impl CompressorCtx for Fragile {
        fn compress(&mut self, src: &[u8], _dst: &mut [u8]) -> Result<usize, CompressorError> {
            self.step("compress");
            Ok(src.len())
        }
        fn decompress(&mut self, _src: &[u8], _dst: &mut [u8]) -> Result<(), CompressorError> {
            self.step("decompress");
            Ok(())
        }
        fn memory_bytes(&self) -> usize {
            0
        }
    }

    #[test]
    fn each_panic_is_the_error_of_the_call_that_it_struck() {
        static DROPPED: AtomicUsize = AtomicUsize::new(0);
        let panicked = |operation| CompressorError::Panicked { operation };
        let fragile = |at| Fragile { at, dropped: &DROPPED };
        assert_eq!(new_ctx(&fragile("new_ctx")).unwrap_err(), panicked("new_ctx"));
        let mut ctx = fragile("compress");
        assert_eq!(compress(&mut ctx, &[1], &mut [0]), Err(panicked("compress")));
        assert_eq!(decompress(&mut ctx, &[1], &mut [0]), Ok(()));
        let mut ctx = fragile("decompress");
        assert_eq!(compress(&mut ctx, &[1], &mut [0]), Ok(1));
        assert_eq!(decompress(&mut ctx, &[1], &mut [0]), Err(panicked("decompress")));
        let before = DROPPED.load(SeqCst);
        assert!(!dropped(Box::new(fragile("drop")) as Box<dyn CompressorCtx>));
        assert!(dropped(fragile("never")));
        assert_eq!(DROPPED.load(SeqCst), before + 2);
    }

    #[test]
    fn a_panic_within_a_destructor_that_a_panic_runs_is_caught_too() {
        static DROPPED: AtomicUsize = AtomicUsize::new(0);
        struct Outer(Option<Fragile>);
        impl Drop for Outer {
            fn drop(&mut self) {
                assert!(std::thread::panicking());
                assert!(!dropped(self.0.take()));
            }
        }
        let outer = Outer(Some(Fragile { at: "drop", dropped: &DROPPED }));
        let ran = caught(move || {
            let _outer = outer;
            resume_unwind(Box::new("the first"));
        });
        assert_eq!((ran, DROPPED.load(SeqCst)), (None, 1));
    }
}
