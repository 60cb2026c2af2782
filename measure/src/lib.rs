//! The measuring harness of this project's binaries. It provides pages from the memory of real programs,
//! stopwatches that subtract the clock's own cost, threads pinned to one processor each, and random orders.
//! In a *turn*, one *contestant* (something that keeps pages, for instance a store) stores and loads the
//! pages. The bare codec is measured on the same pages, so that the contestant's times can also be given as
//! multiples of the codec's.
//!
//! A caller implements [`Contestant`] for what it measures, and runs it with [`turn()`]. With the feature
//! `store`, the module `store` implements it for a store of `zswap-core`; nothing else here depends on a
//! particular store. With the feature `chart`, the module `chart` draws the results.
//!
//! ```
//! use measure::{Lanes, PageSet, codec, shuffled};
//!
//! # fn main() -> measure::Result<()> {
//! // Pages of five real programs; pass files to measure your own.
//! let set = PageSet::load(&[], 64 << 20)?;
//! let order = shuffled(set.timed(), 1);
//! let mut lanes = Lanes::new(2, set.timed().len())?;
//!
//! let lz4 = compressors::build("lz4")?;
//! let orders = codec::Orders { store: &order, load: &order };
//! let times = codec::measure(&*lz4, &set, orders, &mut lanes)?;
//! let compress = times.compress.expect("some pages were timed");
//! assert!(compress.p50 <= compress.p99);
//! println!("{:.0} ns a page, less {:.0} for the clock", compress.mean, lanes.clock().cost);
//! # Ok(())
//! # }
//! ```
#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unsafe_op_in_unsafe_fn)]

mod aligned;
pub mod arena;
#[cfg(feature = "chart")]
pub mod chart;
pub mod codec;
mod contestant;
mod error;
mod figures;
mod lanes;
mod order;
mod pages;
mod pin;
mod replace;
#[cfg(feature = "store")]
pub mod store;
mod timing;
mod turn;

pub use aligned::{Page, Pages};
pub use contestant::{Contestant, Memory, PoolUse, Worker};
pub use error::{Error, Result, chain};
pub use figures::{Figures, Name};
pub use lanes::Lanes;
pub use order::{SplitMix, shuffled};
pub use pages::PageSet;
pub use pin::{Pinned, Processors};
pub use replace::replace;
pub use timing::{Clock, Laps, Summary, Timing, median};
pub use turn::{Freed, Plan, Turn, codec_orders, turn};

pub use compressors::CompressorError;
