//! Trials besides the comparison: a store that is reconfigured while it is used, and a store whose
//! pool is too small for its pages. Each trial checks every page that it loads.

mod backing;
mod switch;

pub(crate) use backing::{Backing, DeviceLoads, Place, backing};
pub(crate) use switch::switch;

use zswap_core::BuildError;

use crate::error::Error;

/// The result of a trial in words, and whether every page came back equal.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) text: String,
    pub(crate) verified: bool,
}

fn not_built(zpool: &str, compressor: &str, reason: BuildError) -> Error {
    let (zpool, compressor) = (zpool.to_owned(), compressor.to_owned());
    Error::Build { zpool, compressor, reason: Box::new(reason) }
}

/// A pseudo-random generator with a fixed seed.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }
}
