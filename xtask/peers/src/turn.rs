//! Runs one turn in this process. The contestant's memory is measured as the growth of the whole
//! process, or, for the kernel's contestants, reported by the kernel.

use std::path::PathBuf;

use compressors::Compressor;
use measure::codec::{self, Orders};
use measure::{Contestant, Lanes, Memory, PageSet, Pinned, Plan, Turn, Worker, codec_orders};

use crate::bare;
use crate::contestants::{Entry, Kind};
use crate::error::{Error, Result};
use crate::resident;
use crate::source::{self, PAGE};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    contestant: String,
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// The number of the round, from 0. It seeds the order of the pages. In odd rounds the bare
    /// codec is timed before the contestant.
    #[arg(long, default_value_t = 0)]
    round: u64,
    #[arg(long)]
    most: Option<usize>,
    files: Vec<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let entry = Entry::find(&args.contestant)?;
    let set = source::load(&args.files, args.most)?;
    crate::kernel::watch_signals();
    let told = turn(&entry, &set, args.threads, args.round)?;
    let text = serde_json::to_string(&told)
        .map_err(|reason| Error::TurnResult { name: args.contestant.clone(), reason })?;
    println!("{text}");
    Ok(())
}

fn turn(entry: &Entry, set: &PageSet, threads: usize, round: u64) -> Result<Turn> {
    let mut lanes = Lanes::new(threads, set.pages().len())?;
    let beside = entry.codec().map(bare::build).transpose()?;
    let plan = Plan { set, unit: entry.unit(), round, frees: true };
    let mut told = if entry.kind == Kind::Codec {
        alone(&*bare::build(&entry.compressor)?, beside.as_deref(), plan, &mut lanes)?
    } else {
        let build = || Grown::build(entry, set.pages().len());
        measure::turn(plan, None, beside.as_deref(), &mut lanes, build)?
    };
    if let Some(said) = told.fault.take().or_else(|| told.refusal.take()) {
        return Err(Error::Fault { said });
    }
    if told.memory.compressed_bytes.is_none() {
        let packed = beside.map(|codec| packed_bytes(&*codec, set)).transpose()?;
        told.memory.compressed_bytes = packed;
    }
    Ok(told)
}

/// Times a codec alone, without anything that keeps its pages.
fn alone(
    codec: &dyn Compressor,
    beside: Option<&dyn Compressor>,
    plan: Plan<'_>,
    lanes: &mut Lanes,
) -> Result<Turn> {
    let _pinned = (lanes.count() == 1).then(Pinned::here);
    let (store, load) = codec_orders(plan);
    let mut measure = |codec: Option<&dyn Compressor>| -> Result<_> {
        let Some(codec) = codec else { return Ok((None, None)) };
        let orders = Orders { store: &store, load: &load };
        let times = codec::measure(codec, plan.set, orders, lanes)?;
        match times.fault {
            Some(error) => Err(error.into()),
            None => Ok((times.compress, times.decompress)),
        }
    };
    let (own, other) = if plan.round % 2 == 1 {
        let other = measure(beside)?;
        (measure(Some(codec))?, other)
    } else {
        (measure(Some(codec))?, measure(beside)?)
    };
    let memory =
        Memory { compressed_bytes: Some(packed_bytes(codec, plan.set)?), ..Memory::default() };
    let pages = plan.set.pages().len();
    let ((store, load), (compress, decompress)) = (own, other);
    Ok(Turn { pages, store, load, compress, decompress, memory, ..Turn::default() })
}

/// Returns how many bytes all pages together compress to.
fn packed_bytes(codec: &dyn Compressor, set: &PageSet) -> Result<usize> {
    let mut ctx = codec.new_ctx()?;
    let mut buffer = vec![0; codec.max_compressed_len(PAGE)];
    let mut sum = 0;
    for page in set.pages() {
        sum += ctx.compress(page, &mut buffer)?;
    }
    Ok(sum)
}

/// Wraps a contestant. If the contestant does not report its resident bytes, they are the growth of
/// this process since just before the contestant was built.
struct Grown {
    contestant: Box<dyn Contestant<Error>>,
    before: usize,
}

impl Grown {
    fn build(entry: &Entry, pages: usize) -> Result<Box<dyn Contestant<Error>>> {
        // First makes every allocator return its free memory to the system. Otherwise the
        // contestant would reuse that memory, and it would not count as growth.
        crate::map::purge_all();
        let before = resident::anonymous()?;
        let contestant = entry.build(pages)?;
        Ok(Box::new(Grown { contestant, before }))
    }
}

impl Contestant<Error> for Grown {
    fn worker(&self) -> Result<Box<dyn Worker<Error> + '_>> {
        self.contestant.worker()
    }

    fn free(&self, page: usize) -> Result<()> {
        self.contestant.free(page)
    }

    fn tidy(&self) -> Result<()> {
        self.contestant.tidy()
    }

    fn settle(&self) -> Result<()> {
        self.contestant.settle()
    }

    fn memory(&self) -> Result<Memory> {
        let mut memory = self.contestant.memory()?;
        if memory.resident_bytes.is_none() {
            memory.resident_bytes = Some(resident::anonymous()?.saturating_sub(self.before));
        }
        Ok(memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_of_everybody_who_needs_nothing_of_the_system() {
        let set = source::load(&[], Some(128)).unwrap();
        for name in [
            "codec/lz4",
            "codec/liblz4",
            "codec/lz4_flex",
            "zswap-core/zsmalloc/lz4",
            "zram/zsmalloc/lz4",
            "zram-128k/zsmalloc/lz4",
            "map-system/liblz4",
            "map-mimalloc/liblz4",
            "map-jemalloc/liblz4",
        ] {
            let entry = Entry::find(name).unwrap();
            let told = turn(&entry, &set, 2, 0).unwrap();
            assert_eq!(told.pages % 32, 0);
            assert!(told.store.is_some() && told.load.is_some() && told.compress.is_some());
            let bytes = told.memory.compressed_bytes.unwrap();
            assert!((told.pages * 200..told.pages * 4000).contains(&bytes), "{name}: {bytes}");
            if let Some(freed) = told.freed {
                assert!(freed.compressed_bytes * 2 < bytes, "{name}");
            }
        }
    }
}
