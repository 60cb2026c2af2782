//! The work on memory: a buffer pool of pages, or a hash map of small values.
//!
//! The buffer pool has as many pages as the memory. An operation picks a page by Zipf's law and reads 64
//! bytes of it, or changes them. The map has an index with open addressing at the start of the
//! memory, and values of 200 to 1000 bytes after it. An operation picks a key by Zipf's law, finds its
//! value and reads all of it, or changes 64 bytes.
//!
//! Every operation checks the page's or the value's first word, which is its number. At the end all
//! bytes are checked. Each thread has blocks of its own in every page, or keys of its own. So no word is
//! accessed by two threads while one of them writes it.

use clap::ValueEnum;
use measure::{Page, SplitMix, shuffled};

use super::memory::{Memory, PAGE_WORDS};
use crate::aging::zipf::Zipf;
use crate::error::{Error, Result};
use crate::source::PAGE;

/// The words of a block, 64 bytes.
const WORDS: usize = 8;
/// The blocks of a page. The first holds the page's number and is never changed.
const BLOCKS: usize = PAGE_WORDS / WORDS;
/// The least number of words in a value of the map, and how many more there may be.
const VALUE: (usize, usize) = (25, 101);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shape {
    Pages,
    Map,
}

/// The work of all threads. Made before the memory, so that what it allocates is not counted.
#[derive(Debug)]
pub(crate) struct Work<'a> {
    shape: Shape,
    set: &'a [Page],
    zipf: Zipf,
    /// The page or the key of each rank.
    places: Vec<usize>,
    /// The places of the map's index. A power of two.
    slots: usize,
    threads: usize,
    writes: u64,
}

/// One thread's part.
#[derive(Debug)]
pub(crate) struct Part {
    thread: usize,
    random: SplitMix,
    /// For each block of each page, or each key, how often it was changed, modulo 64. Those of
    /// other threads stay 0.
    changes: Vec<u8>,
    sum: u64,
}

impl<'a> Work<'a> {
    /// Makes the work for `pages` pages of memory. `writes` operations in a hundred change something.
    pub(crate) fn new(
        shape: Shape,
        set: &'a [Page],
        pages: usize,
        threads: usize,
        writes: u64,
    ) -> Self {
        let count = match shape {
            Shape::Pages => pages,
            // A value and its place in the index take about 640 bytes. Some memory stays free.
            Shape::Map => pages * PAGE * 10 / 11 / 640,
        };
        let indices: Vec<usize> = (0..count).collect();
        let slots = (count * 8 / 7).next_power_of_two();
        let (zipf, places) = (Zipf::new(count, 0.99), shuffled(&indices, 4242));
        Work { shape, set, zipf, places, slots, threads, writes }
    }

    pub(crate) fn part(&self, thread: usize) -> Part {
        let blocks = if self.shape == Shape::Pages { BLOCKS } else { 1 };
        // Filled with ones first, so that all of it is in memory.
        let mut changes = vec![1; self.places.len() * blocks];
        changes.fill(0);
        Part { thread, random: SplitMix(77 + thread as u64), changes, sum: 0 }
    }

    /// Writes what the memory holds at first.
    pub(crate) fn fill(&self, memory: &Memory) -> Result<()> {
        let count = self.places.len();
        if self.shape == Shape::Pages {
            for n in 0..count {
                memory.fill(n, &self.set[n % self.set.len()]);
                memory.write(n, 0, n as u64);
            }
            return Ok(());
        }
        let mut next = self.slots * 2;
        for key in 0..count {
            let (len, _) = self.value(key);
            let mut slot = self.slot(key);
            while memory.read_word(slot * 2) != 0 {
                slot = (slot + 1) % self.slots;
            }
            if next + len > memory.words() {
                return Err(Error::setup("the memory is too small for the map"));
            }
            memory.write_word(slot * 2, key as u64 + 1);
            memory.write_word(slot * 2 + 1, (next * 256 + len) as u64);
            for word in 0..len {
                memory.write_word(next + word, self.value_word(key, word));
            }
            next += len;
        }
        Ok(())
    }

    /// Picks the next operation and returns it.
    #[inline]
    pub(crate) fn pick(&self, part: &mut Part) -> Operation {
        let mut place = self.places[self.zipf.draw(&mut part.random)];
        let mut block = 0;
        match self.shape {
            Shape::Pages => {
                let own = (BLOCKS - 1) / self.threads;
                block = 1 + part.random.below(own) * self.threads + part.thread;
            }
            // The thread's own key beside it.
            Shape::Map => {
                let own = place / self.threads * self.threads + part.thread;
                place = if own < self.places.len() { own } else { part.thread };
            }
        }
        let writes = (part.random.below(100) as u64) < self.writes;
        Operation { place, block, writes }
    }

    /// Does an operation.
    #[inline]
    pub(crate) fn run(&self, memory: &Memory, part: &mut Part, what: Operation) -> Result<()> {
        let Operation { place, block, writes } = what;
        let changed = || Error::Changed { page: place, when: "under load" };
        match self.shape {
            Shape::Pages => {
                if memory.read(place, 0) != place as u64 {
                    return Err(changed());
                }
                let first = place * PAGE_WORDS + block * WORDS;
                part.access(memory, first, WORDS, writes);
            }
            Shape::Map => {
                let (at, len) = self.find(memory, place).ok_or_else(changed)?;
                if memory.read_word(at) != place as u64 {
                    return Err(changed());
                }
                let words = if writes { WORDS } else { len - 1 };
                part.access(memory, at + 1, words, writes);
            }
        }
        Ok(())
    }

    /// Notes that an operation is done.
    #[inline]
    pub(crate) fn done(&self, part: &mut Part, what: Operation) {
        if what.writes {
            let at = match self.shape {
                Shape::Pages => what.place * BLOCKS + what.block,
                Shape::Map => what.place,
            };
            part.changes[at] = (part.changes[at] + 1) % 64;
        }
    }

    /// Checks all bytes of all pages or values.
    pub(crate) fn check(&self, memory: &Memory, parts: &[Part]) -> Result<()> {
        let changes = |at: usize| parts.iter().map(|part| u32::from(part.changes[at])).sum::<u32>();
        for n in 0..self.places.len() {
            let same = match self.shape {
                Shape::Pages => (0..PAGE_WORDS).all(|word| {
                    let want = if word == 0 {
                        n as u64
                    } else {
                        set_word(self.set, n % self.set.len() * PAGE_WORDS + word)
                    };
                    let times = changes(n * BLOCKS + word / WORDS);
                    memory.read(n, word) == want.rotate_left(times)
                }),
                Shape::Map => self.find(memory, n).is_some_and(|(at, len)| {
                    (0..len).all(|word| {
                        let changed = (1..=WORDS).contains(&word);
                        let times = if changed { changes(n) } else { 0 };
                        memory.read_word(at + word) == self.value_word(n, word).rotate_left(times)
                    })
                }),
            };
            if !same {
                return Err(Error::Changed { page: n, when: "at the end of a load" });
            }
        }
        Ok(())
    }

    /// Returns the place of the index where the search for a key begins.
    fn slot(&self, key: usize) -> usize {
        (SplitMix(key as u64).next() % self.slots as u64) as usize
    }

    /// Returns the first word of a key's value, and how many there are.
    fn find(&self, memory: &Memory, key: usize) -> Option<(usize, usize)> {
        let mut slot = self.slot(key);
        loop {
            match memory.read_word(slot * 2) {
                0 => return None,
                found if found == key as u64 + 1 => {
                    let value = memory.read_word(slot * 2 + 1) as usize;
                    return Some((value / 256, value % 256));
                }
                _ => slot = (slot + 1) % self.slots,
            }
        }
    }

    /// Returns the number of words of a key's value, and where in the set they come from.
    fn value(&self, key: usize) -> (usize, usize) {
        let mut random = SplitMix(!(key as u64));
        let len = VALUE.0 + random.below(VALUE.1);
        (len, random.below(self.set.len() * PAGE_WORDS - len))
    }

    /// Returns a word of a key's value as it was at first.
    fn value_word(&self, key: usize, word: usize) -> u64 {
        if word == 0 { key as u64 } else { set_word(self.set, self.value(key).1 + word) }
    }
}

/// What an operation does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    place: usize,
    block: usize,
    writes: bool,
}

impl Part {
    #[inline]
    fn access(&mut self, memory: &Memory, first: usize, words: usize, writes: bool) {
        for word in first..first + words {
            let value = memory.read_word(word);
            if writes {
                memory.write_word(word, value.rotate_left(1));
            } else {
                self.sum = self.sum.wrapping_add(value);
            }
        }
        std::hint::black_box(self.sum);
    }
}

/// Returns a word of the set, counted from its start.
fn set_word(set: &[Page], word: usize) -> u64 {
    let at = word % PAGE_WORDS * 8;
    let bytes = &set[word / PAGE_WORDS][at..at + 8];
    bytes.try_into().map_or(0, u64::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use measure::PageSet;

    #[test]
    fn what_is_changed_is_known_and_what_is_damaged_is_found() {
        const PAGES: usize = 256;
        let set = PageSet::load(&[], 64 << 20).unwrap();
        for shape in [Shape::Pages, Shape::Map] {
            let work = Work::new(shape, set.pages(), PAGES, 2, 50);
            let memory = Memory::new(&"resident".parse().unwrap(), PAGES, 0).unwrap();
            work.fill(&memory).unwrap();
            let mut parts = [work.part(0), work.part(1)];
            for part in &mut parts {
                for _ in 0..10_000 {
                    let what = work.pick(part);
                    work.run(&memory, part, what).unwrap();
                    work.done(part, what);
                }
            }
            work.check(&memory, &parts).unwrap();
            let word = work.slots * 2 + 9;
            memory.write_word(word, !memory.read_word(word));
            assert!(work.check(&memory, &parts).is_err(), "{shape:?}");
        }
    }
}
