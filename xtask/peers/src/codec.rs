//! Compares codecs with liblz4, in one process: their sizes, and how much faster they compress and
//! decompress.
//!
//! A codec's time depends on the recent contents of the branch predictor and the caches. On a
//! shared machine it also drifts. So all contestants take turns within the same seconds, and ratios
//! are taken only between times of the same round. A turn is one block: random pages of one file.
//! Contestants that take turns one after the other handle different blocks, so that none finds in
//! the cache what another has just read. Times are CPU times of the thread. A time counts as
//! disturbed if it is above 1.5 times the median of the contestant's times for the block. It is cut
//! to that limit.

mod row;
mod table;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use compressors::{Compressor, CompressorCtx};
use measure::arena::{Arena, Place};
use measure::{Page, PageSet, Pages, Pinned, SplitMix, shuffled};
use rustix::time::{ClockId, clock_gettime};

use crate::bare;
use crate::error::{Error, Result};
use crate::liblz4::LIBLZ4;
use crate::source::{LIMIT, PAGE};
use row::{Row, spread};

/// The number of pages in a block. Each time that is taken is the time of a whole block.
const BLOCK: usize = 50;

/// The limit of a time, as a multiple of the median for its block. Greater times are cut to it.
const MOST: f64 = 1.5;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The names of the codecs, separated by commas: this project's, `lz4_flex`,
    /// `trueno-zram-core`, or one implementation of linewords, such as `linewords-portable`.
    #[arg(long, value_delimiter = ',', default_value = "lz4,lz4hc,zstd")]
    codecs: Vec<String>,
    /// The number of rounds. In each, every contestant handles every block once.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Time at most this many pages of each file, but at least 50. Sizes are always taken of all
    /// pages.
    #[arg(long, value_name = "PAGES", default_value_t = 1500)]
    most: usize,
    /// Write the results to FILE as JSON, one object for each file and codec.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Files of raw pages. A file whose name ends in .zst is decompressed first. Default: the
    /// built-in sample.
    files: Vec<PathBuf>,
}

/// The name of the figures for all files together.
const MIXED: &str = "mixed";

/// A file: its name, and its pages except the same-filled ones.
struct File {
    name: String,
    pages: Pages,
}

/// A block: the numbers of some pages of one file.
struct Block {
    file: usize,
    pages: Vec<usize>,
}

struct Contestant {
    name: String,
    codec: Arc<dyn Compressor>,
    ctx: Box<dyn CompressorCtx>,
    buffer: Vec<u8>,
    /// For each block, the compressed forms of its pages in `arena`.
    packed: Vec<Vec<Place>>,
    arena: Arena,
    /// For each file, how many bytes all its pages compress to.
    bytes: Vec<usize>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let files = if args.files.is_empty() {
        vec![load(&[], "sample")?]
    } else {
        let each = args.files.iter();
        each.map(|path| load(std::slice::from_ref(path), &stem(path))).collect::<Result<_>>()?
    };
    let _pinned = Pinned::here();
    let rows = measure(&files, &args.codecs, args.rounds.max(1), args.most)?;
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&rows)
            .map_err(|source| Error::TurnResult { name: "the codecs".into(), reason: source })?;
        std::fs::write(path, text + "\n").map_err(|source| Error::System {
            what: "cannot write",
            path: path.display().to_string(),
            reason: source,
        })?;
    }
    print!("{}", table::render(&rows, args.rounds.max(1)));
    Ok(())
}

/// Returns a file's name up to the first dot.
fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split('.').next().unwrap_or_default().to_owned()
}

fn load(paths: &[PathBuf], name: &str) -> Result<File> {
    let set = PageSet::load(paths, LIMIT)?;
    let pages: Pages = set.timed().iter().map(|&i| set.pages()[i]).collect();
    if pages.len() < BLOCK {
        return Err(Error::FewPages { pages: pages.len(), least: BLOCK });
    }
    Ok(File { name: name.to_owned(), pages })
}

impl Contestant {
    /// Compresses every page, and checks that it decompresses to the same bytes. Keeps the
    /// compressed pages of the blocks.
    fn new(name: &str, files: &[File], blocks: &[Block]) -> Result<Self> {
        let codec = bare::build(name)?;
        let mut all = Contestant {
            name: name.to_owned(),
            ctx: codec.new_ctx()?,
            buffer: vec![1; codec.max_compressed_len(PAGE)],
            codec,
            packed: Vec::new(),
            arena: Arena::default(),
            bytes: Vec::new(),
        };
        let mut back = [0; PAGE];
        for file in files {
            let mut bytes = 0;
            for (i, page) in file.pages.iter().enumerate() {
                let len = all.ctx.compress(page, &mut all.buffer)?;
                all.ctx.decompress(&all.buffer[..len], &mut back)?;
                if back != *page {
                    return Err(Error::Changed { page: i, when: "from a codec" });
                }
                bytes += len.min(PAGE);
            }
            all.bytes.push(bytes);
        }
        for block in blocks {
            let mut places = Vec::with_capacity(block.pages.len());
            for &i in &block.pages {
                let len = all.ctx.compress(&files[block.file].pages[i], &mut all.buffer)?;
                places.push(all.arena.push(&all.buffer[..len])?);
            }
            all.packed.push(places);
        }
        Ok(all)
    }

    fn compress(&mut self, pages: &[Page], block: &Block) -> Result<f64> {
        let start = cpu_ns();
        for &i in &block.pages {
            black_box(self.ctx.compress(&pages[i], black_box(&mut self.buffer))?);
        }
        Ok((cpu_ns() - start) / block.pages.len() as f64)
    }

    fn decompress(&mut self, block: usize, targets: &mut Pages) -> Result<f64> {
        let places = &self.packed[block];
        let stateless = self.codec.stateless();
        let start = cpu_ns();
        for (&place, target) in places.iter().zip(targets.iter_mut()) {
            let packed = self.arena.get(place);
            match stateless {
                Some(codec) => codec.decompress(packed, black_box(target))?,
                None => self.ctx.decompress(packed, black_box(target))?,
            }
        }
        Ok((cpu_ns() - start) / places.len() as f64)
    }
}

/// Returns the CPU time of this thread in nanoseconds.
fn cpu_ns() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// The times of one contestant for compression or for decompression: a list for each block, with a
/// time for each round.
struct Times(Vec<Vec<f64>>);

impl Times {
    fn new(blocks: usize) -> Self {
        Times(vec![Vec::new(); blocks])
    }

    fn cut(&mut self) {
        for rounds in &mut self.0 {
            let most = MOST * spread(rounds.clone()).median;
            rounds.iter_mut().for_each(|ns| *ns = ns.min(most));
        }
    }

    /// Returns the mean time of each round over the blocks of `files`. Each file has the same
    /// weight.
    fn means(&self, blocks: &[Block], files: &[usize]) -> Vec<f64> {
        let rounds = self.0.first().map_or(0, Vec::len);
        let of_file = |round: usize, file: usize| {
            let own = blocks.iter().zip(&self.0).filter(|(block, _)| block.file == file);
            let (sum, count) = own.fold((0.0, 0), |(sum, n), (_, ns)| (sum + ns[round], n + 1));
            sum / f64::from(count)
        };
        let mean = |round| files.iter().map(|&file| of_file(round, file)).sum::<f64>();
        (0..rounds).map(|round| mean(round) / files.len() as f64).collect()
    }
}

/// Returns the blocks of all files, in random order. Uses at most `most` pages of each file, but at
/// least one block.
fn blocks(files: &[File], most: usize) -> Vec<Block> {
    let mut all = Vec::new();
    for (file, File { pages, .. }) in files.iter().enumerate() {
        let indices: Vec<usize> = (0..pages.len()).collect();
        let order = shuffled(&indices, file as u64 + 1);
        let timed = &order[..order.len().min(most.max(BLOCK))];
        let whole = timed.chunks_exact(BLOCK);
        all.extend(whole.map(|pages| Block { file, pages: pages.to_vec() }));
    }
    let mut rng = SplitMix(all.len() as u64);
    for i in (1..all.len()).rev() {
        all.swap(i, rng.below(i + 1));
    }
    all
}

fn measure(files: &[File], codecs: &[String], rounds: usize, most: usize) -> Result<Vec<Row>> {
    let blocks = blocks(files, most);
    let names = std::iter::once(LIBLZ4).chain(codecs.iter().map(String::as_str));
    let mut all: Vec<Contestant> = Vec::new();
    for name in names {
        if all.iter().all(|other| other.name != name) {
            all.push(Contestant::new(name, files, &blocks)?);
        }
    }
    let count = all.len();
    let mut compress: Vec<Times> = all.iter().map(|_| Times::new(blocks.len())).collect();
    let mut decompress: Vec<Times> = all.iter().map(|_| Times::new(blocks.len())).collect();
    let mut targets = Pages::filled(0, BLOCK);
    // How many blocks two neighbouring contestants are apart.
    let stride = (blocks.len() / count).max(1);
    for round in 0..rounds {
        for turn in 0..blocks.len() * count {
            // In each group of `count` turns, every contestant handles one block. The contestant
            // that goes first changes from group to group and from round to round.
            let who = (turn + turn / count + round) % count;
            let at = (turn / count + who * stride) % blocks.len();
            let block = &blocks[at];
            compress[who].0[at].push(all[who].compress(&files[block.file].pages, block)?);
        }
        for turn in 0..blocks.len() * count {
            let who = (turn + turn / count + round) % count;
            let at = (turn / count + who * stride) % blocks.len();
            decompress[who].0[at].push(all[who].decompress(at, &mut targets)?);
        }
    }
    compress.iter_mut().chain(&mut decompress).for_each(Times::cut);

    let mut rows = Vec::new();
    let everything: Vec<usize> = (0..files.len()).collect();
    let mut groups = vec![(MIXED, everything)];
    groups.extend(files.iter().enumerate().map(|(i, file)| (file.name.as_str(), vec![i])));
    for (name, group) in groups {
        let bytes = |who: &Contestant| {
            let of = |&i: &usize| who.bytes[i] as f64 / files[i].pages.len() as f64;
            group.iter().map(of).sum::<f64>() / group.len() as f64
        };
        let faster = |times: &[Times], who: usize| {
            let (base, own) = (times[0].means(&blocks, &group), times[who].means(&blocks, &group));
            spread(base.iter().zip(own).map(|(base, own)| base / own).collect())
        };
        for (who, contestant) in all.iter().enumerate() {
            rows.push(Row {
                file: name.to_owned(),
                codec: contestant.name.clone(),
                pages: group.iter().map(|&i| files[i].pages.len()).sum(),
                bytes: bytes(contestant),
                bytes_over_liblz4: bytes(contestant) / bytes(&all[0]),
                compress_ns: spread(compress[who].means(&blocks, &group)).median,
                compress_faster: faster(&compress, who),
                decompress_ns: spread(decompress[who].means(&blocks, &group)).median,
                decompress_faster: faster(&decompress, who),
            });
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::row::Spread;
    use super::*;

    fn file(name: &str, seed: u64, pages: usize) -> File {
        let mut rng = SplitMix(seed);
        let page = |_| -> Page {
            let words: Vec<u64> = (0..8).map(|_| 0x7f12_3456_0000 + (rng.next() % 4096)).collect();
            let mut page = [0; PAGE];
            for word in page.chunks_exact_mut(8) {
                word.copy_from_slice(&words[rng.below(8)].to_le_bytes());
            }
            page
        };
        File { name: name.to_owned(), pages: (0..pages).map(page).collect() }
    }

    #[test]
    fn every_codec_has_a_row_for_each_file_and_for_all() {
        let files = [file("one", 1, 120), file("two", 2, 60)];
        let codecs = ["lz4", "zstd", "lz4"].map(str::to_owned);
        let rows = measure(&files, &codecs, 3, 100).unwrap();
        let names: Vec<(&str, &str)> =
            rows.iter().map(|row| (row.file.as_str(), row.codec.as_str())).collect();
        let mut expected = Vec::new();
        for file in ["mixed", "one", "two"] {
            expected.extend(["liblz4", "lz4", "zstd"].map(|codec| (file, codec)));
        }
        assert_eq!(names, expected);
        for row in &rows {
            assert!(row.compress_ns > 0.0 && row.decompress_ns > 0.0, "{row:?}");
            let Spread { median, lower, upper } = row.compress_faster;
            assert!(0.0 < lower && lower <= median && median <= upper, "{row:?}");
            if row.codec == LIBLZ4 {
                assert_eq!((median, row.bytes_over_liblz4), (1.0, 1.0));
            }
        }
        assert_eq!((rows[0].pages, rows[3].pages), (180, 120));
        let (lz4, zstd) = (rows[1].bytes_over_liblz4, rows[2].bytes_over_liblz4);
        assert!((0.9..1.1).contains(&lz4) && zstd < 0.9, "{lz4} {zstd}");
        let text = table::render(&rows, 3);
        assert!(text.contains("-- two, 60 pages") && text.matches("zstd").count() == 3, "{text}");
        let json = serde_json::to_value(&rows).unwrap();
        assert!(json[1]["compress_faster"]["median"].is_f64());
    }

    /// Compares the sizes of our encoder of the LZ4 format, on pages of real programs.
    #[test]
    fn lz4_is_no_larger_than_liblz4() {
        let files = [load(&[], "sample").unwrap()];
        let rows = measure(&files, &["lz4".to_owned()], 1, 50).unwrap();
        assert!(rows[1].bytes_over_liblz4 < 1.002, "{}", rows[1].bytes_over_liblz4);
    }

    #[test]
    fn one_disturbed_round_does_not_count_in_full() {
        let mut times = Times(vec![vec![10.0, 11.0, 900.0], vec![20.0, 20.0, 20.0]]);
        times.cut();
        assert_eq!(times.0[0], [10.0, 11.0, 16.5]);
        let blocks = [0, 1].map(|file| Block { file, pages: vec![0] });
        assert_eq!(times.means(&blocks, &[0, 1]), [15.0, 15.5, 18.25]);
        assert_eq!(times.means(&blocks, &[1]), [20.0; 3]);
    }

    #[test]
    fn files_too_small_or_codecs_unknown_are_refused() {
        let files = [file("one", 1, 60)];
        assert!(measure(&files, &["none".to_owned()], 1, 100).is_err());
        assert_eq!(stem(Path::new("/a/redis.pages.zst")), "redis");
    }
}
