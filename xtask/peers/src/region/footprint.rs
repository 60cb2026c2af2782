//! What a region takes besides its pages: for each page of its capacity after all were touched, and
//! for a large capacity that was never touched. A process of its own.

use serde::{Deserialize, Serialize};

use super::memory::{Memory, Spec};
use super::process;
use crate::error::{Error, Result};
use crate::source::PAGE;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The memory, such as `move/lz4`.
    #[arg(long)]
    on: String,
    /// The bytes of the region that is touched.
    #[arg(long)]
    capacity: usize,
    /// The bytes of the region that is not.
    #[arg(long)]
    untouched: usize,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Told {
    /// What the untouched region takes.
    pub(crate) untouched_bytes: f64,
    /// What the other one takes before a touch, and after all pages were touched, besides these.
    pub(crate) built_bytes: f64,
    pub(crate) touched_bytes: f64,
    /// What it says itself that it takes then, besides the pages.
    pub(crate) said_bytes: f64,
    pub(crate) pages: usize,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    super::end_with_parent();
    let spec: Spec = args.on.parse().map_err(Error::setup)?;
    let spec = Spec { background: false, ..spec };
    // What is made once for all regions does not count.
    drop(spec.region(1 << 20, 1 << 20)?);
    let before = process::resident()?;
    let untouched = {
        let region = spec.region(args.untouched, 64 << 20)?;
        let bytes = process::resident()?.saturating_sub(before);
        drop(region);
        bytes
    };
    let pages = args.capacity / PAGE;
    let before = process::resident()?;
    let memory = Memory::from_region(spec.region(args.capacity, 2 * args.capacity)?);
    let built = process::resident()?.saturating_sub(before);
    (0..pages).for_each(|page| memory.write(page, 0, page as u64 + 1));
    let touched = process::resident()?.saturating_sub(before + args.capacity);
    let said = memory.region().map_or(0, |region| region.stats().memory_bytes);
    for page in 0..pages {
        if memory.read(page, 0) != page as u64 + 1 {
            return Err(Error::Changed { page, when: "that was only written" });
        }
    }
    super::tell(&Told {
        untouched_bytes: untouched as f64,
        built_bytes: built as f64,
        touched_bytes: touched as f64,
        said_bytes: said.saturating_sub(args.capacity) as f64,
        pages,
    })
}
