//! Building blocks of compressed memory: the parts that a page store and a block device share.
//!
//! | item | idea |
//! |---|---|
//! | [`Codec`] | a compressor with its contexts: page to bytes and back |
//! | [`HeldCtx`], [`cpu`] | per-CPU codec contexts, each with its mutex and output buffer |
//! | [`Recipe`] | builds backends and compressors from names and registries |
//! | [`same_filled`] | pages that repeat one word |
//! | [`word_lock`] | a lock in one bit of the word that stands for a page |
//! | [`device`] | swap devices, to which pages are written back |
//! | [`segments`] | the segments of a device: what each holds, packing, reading and cleaning |
//! | [`builtin`] | the built-in backends and compressors |
//!
//! `zswap-core` and `zram` are built from these modules. You can build another kind of page store from them.
//!
//! ```
//! use zpage::{Codec, PAGE_SIZE, Recipe, same_filled};
//!
//! let page = [7; PAGE_SIZE];
//! assert_eq!(same_filled::pattern(&page), Some(u64::from_ne_bytes([7; 8])));
//!
//! let recipe = Recipe::builtin();
//! let pool = recipe.zpool("zbud", None)?;
//! let codec = Codec::new(recipe.compressor("null")?.compressor);
//! let object = codec.compress(&page, |bytes| pool.malloc_from(bytes)).expect("no context is held")?;
//! assert_eq!(*pool.obj_read_begin(object)?, page);
//! # Ok::<(), zpage::RecipeError>(())
//! ```

#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "a failure in a test's helper is the test's own message"
    )
)]

mod acomp_ctx;
pub mod builtin;
mod codec;
pub mod cpu;
pub mod device;
mod recipe;
pub mod same_filled;
pub mod segments;
mod sync;
mod unit;
pub mod word_lock;

pub use acomp_ctx::{CodecFault, HeldCtx};
pub use codec::Codec;
pub use compressors::CompressorError;
pub use recipe::{BuiltCompressor, BuiltZpool, Recipe, RecipeError};
pub use unit::{MOST_UNIT, UnitError, check_unit};
pub use zpool_api::{PageError, ZpoolError};

/// The size of a page in bytes: 4096.
pub const PAGE_SIZE: usize = zpool_api::PAGE_SIZE;

/// A page.
pub type Page = [u8; PAGE_SIZE];
