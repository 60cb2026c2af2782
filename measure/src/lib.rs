//! What this project's binaries time with: pages of real memory, stopwatches with the clock's own
//! cost taken off, threads that stay on a processor each, random orders, and the bare codec on the
//! same pages, which every other time is told in multiples of.
//!
//! Nothing here knows a store: whoever measures one brings it along, and has the lanes run it. Whoever
//! draws what came out finds in [`labels`] where the points' labels go.
//!
//! ```
//! use measure::{Clock, Lanes, PageSet, Turn, codec, shuffled};
//!
//! # fn main() -> measure::Result<()> {
//! // Pages of five real programs; files of one's own go in here.
//! let set = PageSet::load(&[], 64 << 20)?;
//! let order = shuffled(set.timed(), 1);
//! let mut lanes = Lanes::new(2, set.timed().len())?;
//!
//! let lz4 = compressors::build("lz4")?;
//! let orders = codec::Orders { store: &order, load: &order };
//! let turn: Turn = codec::turn(&*lz4, &set, orders, &mut lanes)?;
//! let compress = turn.compress.expect("some pages were timed");
//! assert!(compress.p50 <= compress.p99);
//! println!("{:.0} ns a page, the clock's {:.0} taken off", compress.mean, lanes.clock().cost);
//! # Ok(())
//! # }
//! ```
#![deny(unsafe_op_in_unsafe_fn)]

pub mod arena;
pub mod codec;
mod error;
pub mod labels;
mod lanes;
mod order;
mod pages;
mod pin;
mod replace;
mod timing;

pub use codec::Turn;
pub use error::{Error, Result};
pub use lanes::{Harvest, Lane, Lanes, POISON};
pub use order::{SplitMix, shuffled};
pub use pages::{Page, PageSet};
pub use pin::{Pinned, Processors};
pub use replace::replace;
pub use timing::{Clock, Laps, Summary, Timing, median};
