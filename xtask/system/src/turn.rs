//! One turn: a contestant is filled, filled again in random order and read in random order, with the
//! bare codec right before or right after it in the same process; then most pages are freed.
//!
//! Every page is compared after each filling, off the clock. Threads share the work evenly, each on
//! a processor of its own. Memory is what this process grew by, all of it, or what the kernel says
//! of its own.

use std::path::PathBuf;

use compressors::Compressor;
use measure::codec::{self, Orders};
use measure::{Harvest, Lanes, Pinned, Summary, shuffled};
use serde::{Deserialize, Serialize};

use crate::bare;
use crate::contestant::Contestant;
use crate::contestants::Entry;
use crate::error::{Error, Result};
use crate::resident;
use crate::source::{PAGE, Source};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    contestant: String,
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Seeds the orders; the codec goes first in odd ones.
    #[arg(long, default_value_t = 0)]
    round: u64,
    #[arg(long)]
    most: Option<usize>,
    files: Vec<PathBuf>,
}

/// Nanoseconds a page.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Times {
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) per_second: f64,
}

impl Times {
    /// Of operations on `unit` pages each.
    fn of(summary: Option<Summary>, unit: usize) -> Option<Self> {
        let unit = unit as f64;
        summary.map(|s| Times {
            mean: s.mean / unit,
            p50: s.p50 / unit,
            p99: s.p99 / unit,
            p999: s.p999 / unit,
            per_second: s.per_second * unit,
        })
    }

    pub(crate) fn summary(self) -> Summary {
        let Times { mean, p50, p99, p999, per_second } = self;
        Summary { mean, p50, p99, p999, per_second }
    }
}

/// After three of four pages were freed, in random order.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Freed {
    pub(crate) compressed_bytes: usize,
    pub(crate) resident_bytes: usize,
    /// After it gave back what it can.
    pub(crate) tidied_bytes: usize,
}

/// What a turn found out.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) pages: usize,
    pub(crate) grow: Option<Times>,
    pub(crate) store: Option<Times>,
    pub(crate) load: Option<Times>,
    pub(crate) compress: Option<Times>,
    pub(crate) decompress: Option<Times>,
    /// None where it does not tell and no codec here makes the same bytes.
    pub(crate) compressed_bytes: Option<usize>,
    pub(crate) resident_bytes: Option<usize>,
    pub(crate) metadata_bytes: Option<usize>,
    pub(crate) freed: Option<Freed>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let entry = Entry::find(&args.contestant)?;
    let source = Source::load(&args.files, args.most)?;
    crate::kernel::watch_signals();
    let told = turn(&entry, &source, args.threads, args.round)?;
    let text = serde_json::to_string(&told)
        .map_err(|source| Error::Told { name: args.contestant.clone(), source })?;
    println!("{text}");
    Ok(())
}

fn turn(entry: &Entry, source: &Source, threads: usize, round: u64) -> Result<Told> {
    let _pinned = (threads == 1).then(Pinned::here);
    let mut lanes = Lanes::new(threads, source.pages.len())?;
    let mut told = Told { pages: source.pages.len(), ..Told::default() };
    let codec = entry.codec().map(bare::build).transpose()?;
    let beside = |told: &mut Told, lanes: &mut Lanes| -> Result<()> {
        let Some(codec) = &codec else { return Ok(()) };
        let turn = bare_turn(&**codec, source, round, lanes)?;
        (told.compress, told.decompress) = turn;
        Ok(())
    };
    let codec_first = round % 2 == 1;
    if codec_first {
        beside(&mut told, &mut lanes)?;
    }
    let work = Work::new(source.pages.len(), entry.unit(), round);
    // What was freed before would be handed out again and not be seen to be needed.
    crate::map::purge_all();
    let before = resident::anonymous()?;
    match entry.build(source.pages.len())? {
        Some(contestant) => kept(&*contestant, source, &work, before, &mut lanes, &mut told)?,
        None => {
            let codec = bare::build(&entry.compressor)?;
            (told.store, told.load) = bare_turn(&*codec, source, round, &mut lanes)?;
            told.compressed_bytes = Some(packed_bytes(&*codec, source)?);
        }
    }
    if !codec_first {
        beside(&mut told, &mut lanes)?;
    }
    if told.compressed_bytes.is_none() {
        told.compressed_bytes = codec.map(|codec| packed_bytes(&*codec, source)).transpose()?;
    }
    Ok(told)
}

type Pair = (Option<Times>, Option<Times>);

/// The bare codec's times.
fn bare_turn(
    codec: &dyn Compressor,
    source: &Source,
    round: u64,
    lanes: &mut Lanes,
) -> Result<Pair> {
    let store = shuffled(source.set.timed(), 2 * round);
    let load = shuffled(source.set.timed(), 2 * round + 1);
    let turn = codec::turn(codec, &source.set, Orders { store: &store, load: &load }, lanes)?;
    match turn.fault {
        Some(error) => Err(error.into()),
        None => Ok((Times::of(turn.compress, 1), Times::of(turn.decompress, 1))),
    }
}

/// The bytes that all pages compress to.
fn packed_bytes(codec: &dyn Compressor, source: &Source) -> Result<usize> {
    let mut ctx = codec.new_ctx()?;
    let mut buffer = vec![0; codec.max_compressed_len(PAGE)];
    let mut sum = 0;
    for page in &source.pages {
        sum += ctx.compress(&page.0, &mut buffer)?;
    }
    Ok(sum)
}

/// The orders of a contestant's turn, by the first pages of units. Made before its memory is looked at,
/// so that they are not counted with it.
struct Work {
    firsts: Vec<usize>,
    store: Vec<usize>,
    load: Vec<usize>,
    free: Vec<usize>,
}

impl Work {
    fn new(pages: usize, unit: usize, round: u64) -> Self {
        let firsts: Vec<usize> = (0..pages).step_by(unit).collect();
        let order = |n| shuffled(&firsts, 2 * round + n);
        Work { store: order(0), load: order(1), free: order(2), firsts }
    }
}

/// A contestant's part of its turn.
fn kept(
    contestant: &dyn Contestant,
    source: &Source,
    work: &Work,
    before: usize,
    lanes: &mut Lanes,
    told: &mut Told,
) -> Result<()> {
    let unit = contestant.unit();
    let firsts = &work.firsts[..];
    let grow = store(contestant, source, firsts, lanes)?;
    told.grow = Times::of(grow, unit);
    let (memory, resident) = held(contestant, before)?;
    told.compressed_bytes = Some(memory.compressed_bytes).filter(|&bytes| bytes > 0);
    told.metadata_bytes = memory.metadata_bytes;
    told.resident_bytes = Some(resident);
    check(contestant, source, firsts, "after the first filling")?;

    let store = store(contestant, source, &work.store, lanes)?;
    told.store = Times::of(store, unit);
    contestant.settle()?;
    let load: Harvest<()> = lanes.measure(
        &work.load,
        |_, _| contestant.worker(),
        |lane, share, mut worker| {
            for &first in share {
                std::hint::black_box(worker.load(first)?);
                lane.laps.lap();
            }
            Ok(())
        },
    )?;
    told.load = Times::of(load.times, unit);
    check(contestant, source, firsts, "after it was stored again")?;

    if unit == 1 {
        contestant.settle()?;
        let (gone, left) = work.free.split_at(work.free.len() / 4 * 3);
        for &page in gone {
            contestant.free(page)?;
        }
        let (memory, resident_bytes) = held(contestant, before)?;
        contestant.tidy()?;
        told.freed = Some(Freed {
            compressed_bytes: memory.compressed_bytes,
            resident_bytes,
            tidied_bytes: held(contestant, before)?.1,
        });
        check(contestant, source, left, "after others were freed")?;
    }
    Ok(())
}

fn store(
    contestant: &dyn Contestant,
    source: &Source,
    firsts: &[usize],
    lanes: &mut Lanes,
) -> Result<Option<Summary>> {
    let unit = contestant.unit();
    let stored = lanes.measure(
        firsts,
        |_, _| contestant.worker(),
        |lane, share, mut worker| {
            for &first in share {
                worker.store(first, &source.pages[first..first + unit])?;
                lane.laps.lap();
            }
            Ok(())
        },
    )?;
    Ok(stored.times)
}

/// What it says, and the bytes that it has resident.
fn held(contestant: &dyn Contestant, before: usize) -> Result<(crate::contestant::Memory, usize)> {
    let memory = contestant.memory()?;
    let resident = match memory.outside_bytes {
        Some(bytes) => bytes,
        None => resident::anonymous()?.saturating_sub(before),
    };
    Ok((memory, resident))
}

fn check(
    contestant: &dyn Contestant,
    source: &Source,
    firsts: &[usize],
    when: &'static str,
) -> Result<()> {
    let unit = contestant.unit();
    contestant.settle()?;
    let mut worker = contestant.worker()?;
    for &first in firsts {
        let pages = worker.load(first)?;
        let changed =
            (0..unit).find(|&i| pages.get(i).map(|p| &p.0) != Some(&source.pages[first + i].0));
        if let Some(i) = changed {
            return Err(Error::Changed { page: first + i, when });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_of_everybody_who_needs_nothing_of_the_system() {
        let source = Source::load(&[], Some(128)).unwrap();
        for name in [
            "codec/lz4",
            "codec/lz4_flex",
            "zswap-core/zsmalloc/lz4",
            "zram/zsmalloc/lz4",
            "zram-128k/zsmalloc/lz4",
            "map-system/lz4",
            "map-mimalloc/lz4",
            "map-jemalloc/lz4",
        ] {
            let entry = Entry::find(name).unwrap();
            let told = turn(&entry, &source, 2, 0).unwrap();
            assert_eq!(told.pages % 32, 0);
            assert!(told.store.is_some() && told.load.is_some() && told.compress.is_some());
            let bytes = told.compressed_bytes.unwrap();
            assert!((told.pages * 200..told.pages * 4000).contains(&bytes), "{name}: {bytes}");
            if let Some(freed) = told.freed {
                assert!(freed.compressed_bytes * 2 < bytes, "{name}");
            }
        }
    }
}
