//! A page cache for a file-backed database, with a compressed tier between memory and file.
//!
//! `cargo run --release -p zswap-core --example database_cache`
//!
//! A small set of *frames* holds uncompressed pages. A page that leaves its frame goes to a store. When it is
//! needed again, it is loaded from the store instead of the file. A page is in one place at a time: in a
//! frame, in the store, or only in the file.
//!
//! A *clean* page is in the file as well, so it may be dropped from its frame or the store at any time. If a
//! page is *dirty*, the file has only an older version of it. Then the page must be written to the file
//! before it is dropped from its frame or the store. A database that must survive a crash writes its log
//! first; the example leaves that out.
#![allow(clippy::print_stdout, reason = "a program: what it prints is what it is for")]

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use zswap_core::{PAGE_SIZE, Page, StoreError, SwapEntry, Zswap};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// An uncompressed page in memory.
struct Frame {
    /// The page's number in the file; `None` if the frame is free.
    number: Option<u64>,
    page: Box<Page>,
    dirty: bool,
    /// Whether the page was used since the clock's hand last passed.
    used: bool,
}

/// A page in the store.
struct Cold {
    dirty: bool,
    /// The page's key in `PageCache::oldest`.
    since: u64,
}

/// Counts where reads and writes found their pages.
#[derive(Default)]
struct Hits {
    hot: u64,
    compressed: u64,
    file: u64,
    /// Pages written to the file.
    written: u64,
}

struct PageCache {
    file: File,
    frames: Vec<Frame>,
    most_frames: usize,
    /// The frame of each page that is in a frame, by the page's number.
    place: HashMap<u64, usize>,
    hand: usize,
    store: Zswap,
    cold: HashMap<u64, Cold>,
    /// The numbers of the pages in the store, in the order in which they were stored.
    oldest: BTreeMap<u64, u64>,
    now: u64,
    hits: Hits,
}

impl PageCache {
    /// Makes a cache with at most `most_frames` uncompressed pages and `pool_bytes` bytes of compressed
    /// pages.
    fn new(file: File, most_frames: usize, pool_bytes: usize) -> Result<Self> {
        let store = Zswap::builder()
            .compressor("lz4")
            .max_pool_bytes(pool_bytes)
            // With checksums, the database gets back exactly what it stored, or an error.
            .checksums(true)
            .build()?;
        Ok(PageCache {
            file,
            frames: Vec::new(),
            most_frames,
            place: HashMap::new(),
            hand: 0,
            store,
            cold: HashMap::new(),
            oldest: BTreeMap::new(),
            now: 0,
            hits: Hits::default(),
        })
    }

    fn read(&mut self, number: u64) -> Result<&Page> {
        let frame = self.frame_of(number)?;
        Ok(&self.frames[frame].page)
    }

    fn write(&mut self, number: u64, change: impl FnOnce(&mut Page)) -> Result<()> {
        let frame = self.frame_of(number)?;
        self.frames[frame].dirty = true;
        change(&mut self.frames[frame].page);
        Ok(())
    }

    /// Returns the index of the page's frame. If the page is not in a frame, brings it into one first, from
    /// the store or the file.
    fn frame_of(&mut self, number: u64) -> Result<usize> {
        if let Some(&frame) = self.place.get(&number) {
            self.hits.hot += 1;
            self.frames[frame].used = true;
            return Ok(frame);
        }
        let frame = self.free_frame()?;
        let dirty = match self.promote(number, frame)? {
            Some(dirty) => {
                self.hits.compressed += 1;
                dirty
            }
            None => {
                self.hits.file += 1;
                self.file.seek(SeekFrom::Start(number * PAGE_SIZE as u64))?;
                self.file.read_exact(&mut self.frames[frame].page[..])?;
                false
            }
        };
        let found = &mut self.frames[frame];
        (found.number, found.dirty, found.used) = (Some(number), dirty, true);
        self.place.insert(number, frame);
        Ok(frame)
    }

    /// Takes a page out of the store into a frame, and returns whether the page is dirty. Returns `None` if the
    /// store does not have the page. No copy stays in the store, since it would be stale after the next change
    /// of the page.
    fn promote(&mut self, number: u64, frame: usize) -> Result<Option<bool>> {
        let Some(cold) = self.cold.get(&number) else { return Ok(None) };
        let (entry, dirty, since) = (SwapEntry::new(0, number)?, cold.dirty, cold.since);
        let found = match self.store.take(entry, &mut self.frames[frame].page) {
            Ok(()) => Some(dirty),
            // The only current version is lost, so the caller must be given the error.
            Err(error) if dirty => return Err(error.into()),
            // The page is clean, so the file has it, too.
            Err(_) => {
                self.store.invalidate(entry);
                None
            }
        };
        self.cold.remove(&number);
        self.oldest.remove(&since);
        Ok(found)
    }

    /// Returns a free frame. If all frames are in use, a clock's hand goes round them. The hand skips each page
    /// that was used since the hand last passed. The first other page leaves its frame.
    fn free_frame(&mut self) -> Result<usize> {
        if self.frames.len() < self.most_frames {
            let page = Box::new([0; PAGE_SIZE]);
            self.frames.push(Frame { number: None, page, dirty: false, used: false });
            return Ok(self.frames.len() - 1);
        }
        loop {
            let at = self.hand;
            self.hand = (at + 1) % self.frames.len();
            let Some(number) = self.frames[at].number else { return Ok(at) };
            if !std::mem::take(&mut self.frames[at].used) {
                self.demote(number, at)?;
                self.place.remove(&number);
                self.frames[at].number = None;
                return Ok(at);
            }
        }
    }

    /// Moves the page of a frame into the store. If the store is full, drops its oldest pages first. If the
    /// store still refuses the page, and the page is dirty, writes it to the file.
    fn demote(&mut self, number: u64, at: usize) -> Result<()> {
        let (entry, dirty) = (SwapEntry::new(0, number)?, self.frames[at].dirty);
        // A refused page is still in its frame.
        while let Err(error) = self.store.store(entry, &self.frames[at].page) {
            // If the store is full, dropping its oldest pages makes room.
            let full = matches!(error, StoreError::PoolLimit { .. } | StoreError::Pool { .. });
            if !full || self.cold.is_empty() {
                return if dirty { self.write_to_file(number, Some(at)) } else { Ok(()) };
            }
            self.drop_oldest(64)?;
        }
        self.now += 1;
        self.cold.insert(number, Cold { dirty, since: self.now });
        self.oldest.insert(self.now, number);
        Ok(())
    }

    /// Drops the `pages` oldest pages of the store. Writes dirty ones to the file first.
    fn drop_oldest(&mut self, pages: usize) -> Result<()> {
        for _ in 0..pages {
            let Some((&since, &number)) = self.oldest.first_key_value() else { break };
            if self.cold.get(&number).is_some_and(|cold| cold.dirty) {
                self.write_to_file(number, None)?;
            }
            self.store.invalidate(SwapEntry::new(0, number)?);
            self.cold.remove(&number);
            self.oldest.remove(&since);
        }
        Ok(())
    }

    /// Writes a page to the file, from its frame or, if `frame` is `None`, from the store. The page stays
    /// where it is.
    fn write_to_file(&mut self, number: u64, frame: Option<usize>) -> Result<()> {
        let mut from_store = [0; PAGE_SIZE];
        let page = match frame {
            Some(frame) => &self.frames[frame].page,
            None => {
                self.store.load(SwapEntry::new(0, number)?, &mut from_store)?;
                &from_store
            }
        };
        self.file.seek(SeekFrom::Start(number * PAGE_SIZE as u64))?;
        self.file.write_all(page)?;
        self.hits.written += 1;
        Ok(())
    }

    /// Writes all dirty pages to the file. They stay in their frames or the store, and are clean afterwards.
    fn flush(&mut self) -> Result<()> {
        for at in 0..self.frames.len() {
            if let (Some(number), true) = (self.frames[at].number, self.frames[at].dirty) {
                self.write_to_file(number, Some(at))?;
                self.frames[at].dirty = false;
            }
        }
        let dirty = self.cold.iter().filter(|(_, cold)| cold.dirty);
        for number in dirty.map(|(&number, _)| number).collect::<Vec<_>>() {
            self.write_to_file(number, None)?;
            self.cold.entry(number).and_modify(|cold| cold.dirty = false);
        }
        self.file.sync_data().map_err(Into::into)
    }

    /// Returns the bytes of memory that the cached pages take.
    fn memory(&self) -> usize {
        let stats = self.store.stats();
        let own = self.cold.capacity() * size_of::<(u64, Cold)>() + self.oldest.len() * 24;
        let store = stats.pool_total_size + stats.metadata_bytes + stats.context_bytes;
        self.frames.len() * PAGE_SIZE + store + own
    }
}

// The rest of the file tries the cache with a database.

const PAGES: u64 = 4096;
const OPERATIONS: u64 = 60_000;
const ROW: usize = 64;

/// Makes a page of a table of accounts. It has rows of text and numbers; its last quarter is empty.
fn table_page(number: u64) -> Page {
    const NAMES: [&str; 8] = ["Ada", "Blaise", "Carl", "Emmy", "Grace", "Kurt", "Rosa", "Sofia"];
    let mut page = [0; PAGE_SIZE];
    for (row, bytes) in page.chunks_exact_mut(ROW).take(48).enumerate() {
        let id = number * 48 + row as u64;
        let mix = id.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let name = NAMES[(mix >> 61) as usize];
        bytes[..8].copy_from_slice(&id.to_le_bytes());
        bytes[8..16].copy_from_slice(&(mix % 1_000_000).to_le_bytes());
        let text = format!("{name}.{:05}@mail.example", mix >> 48);
        bytes[24..24 + text.len()].copy_from_slice(text.as_bytes());
    }
    page
}

/// The expected contents of the database, and the state of the random generator that chooses accesses. Most
/// accesses go to a fifth of the pages.
struct Bank {
    balances: Vec<[u64; 48]>,
    random: u64,
}

impl Bank {
    fn next(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    fn run(&mut self, cache: &mut PageCache) -> Result<()> {
        for _ in 0..OPERATIONS {
            let hot = self.next(10) < 8;
            let number = if hot { self.next(PAGES / 5) * 5 } else { self.next(PAGES) };
            let (row, amount) = (self.next(48) as usize, self.next(1000));
            if self.next(4) == 0 {
                self.balances[number as usize][row] += amount;
                let balance = self.balances[number as usize][row].to_le_bytes();
                let at = row * ROW + 16;
                cache.write(number, |page| page[at..at + 8].copy_from_slice(&balance))?;
            } else {
                let wanted = self.page(number);
                if *cache.read(number)? != wanted {
                    return Err(format!("page {number} differs from what was written").into());
                }
            }
        }
        Ok(())
    }

    fn page(&self, number: u64) -> Page {
        let mut page = table_page(number);
        for (row, balance) in self.balances[number as usize].iter().enumerate() {
            page[row * ROW + 16..row * ROW + 24].copy_from_slice(&balance.to_le_bytes());
        }
        page
    }
}

/// Runs the accesses on a new database. The cache has at most `frames` uncompressed pages, and `pool_bytes`
/// bytes of compressed pages. Returns the cache, and the percentage of accesses that read the file.
fn trial(path: &Path, frames: usize, pool_bytes: usize) -> Result<(PageCache, f64)> {
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    for number in 0..PAGES {
        file.write_all(&table_page(number))?;
    }
    let mut bank = Bank { balances: vec![[0; 48]; PAGES as usize], random: 0x5EED };
    let mut cache = PageCache::new(file, frames, pool_bytes)?;
    bank.run(&mut cache)?;
    cache.flush()?;
    let held = fs::read(path)?;
    for (number, page) in held.chunks_exact(PAGE_SIZE).enumerate() {
        if page != bank.page(number as u64) {
            return Err(format!("after the flush, page {number} of the file is wrong").into());
        }
    }
    let hits = &cache.hits;
    let percent = |n: u64| 100.0 * n as f64 / OPERATIONS as f64;
    println!(
        "{frames:5} frames, {:4} pages compressed, {:4.1} MiB: {:4.1} % hot, {:4.1} % compressed, \
         {:4.1} % from the file, {} pages written to it",
        cache.cold.len(),
        cache.memory() as f64 / (1 << 20) as f64,
        percent(hits.hot),
        percent(hits.compressed),
        percent(hits.file),
        hits.written,
    );
    let from_file = percent(hits.file);
    Ok((cache, from_file))
}

fn both_trials(path: &Path) -> Result<()> {
    println!("{PAGES} pages in the file, {OPERATIONS} accesses, the same ones each time:");
    let (cache, with_store) = trial(path, 256, 2 << 20)?;
    let in_frames_alone = cache.memory() / PAGE_SIZE;
    drop(cache);
    let (_, without) = trial(path, in_frames_alone, 0)?;
    if with_store >= without {
        return Err("the store saved no read of the file".into());
    }
    println!("every page read, and the file at the end, held what was last written");
    Ok(())
}

fn main() -> Result<()> {
    let path = std::env::temp_dir().join(format!("database-cache-{}", std::process::id()));
    let result = both_trials(&path);
    fs::remove_file(&path)?;
    result
}
