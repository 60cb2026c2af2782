//! The contestants behind one interface. All but ours hold values that are compressed one by one with zstd's level 3,
//! each with a context of its thread, as a careful user would do.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, RwLock};

use zstd::bulk::{Compressor, Decompressor};

use crate::error::{Error, Result};

/// The level of all.
const LEVEL: i32 = 3;

/// A cache.
pub(crate) trait Contestant: Send + Sync {
    fn insert(&self, key: u64, value: &[u8]);
    /// Returns whether the key is there, with its value in `into`.
    fn get(&self, key: u64, into: &mut Vec<u8>) -> bool;
    fn remove(&self, key: u64);
    /// Does what is still to be done.
    fn settle(&self) {}
}

/// The names of the contestants.
pub(crate) const NAMES: [&str; 6] =
    ["zswap-cache", "zswap-cache, no dictionary", "moka", "quick_cache", "foyer", "map, FIFO"];

/// Builds a contestant of this name that is to hold `bytes` bytes. `keys` is about how many entries it will have.
pub(crate) fn build(name: &str, bytes: usize, keys: usize) -> Result<Box<dyn Contestant>> {
    Ok(match name {
        "zswap-cache" => Box::new(Ours::new(bytes, true)?),
        "zswap-cache, no dictionary" => Box::new(Ours::new(bytes, false)?),
        "moka" => Box::new(Moka(
            moka::sync::Cache::builder()
                .max_capacity(bytes as u64)
                .weigher(|_, value: &Arc<[u8]>| value.len() as u32)
                .build(),
        )),
        "quick_cache" => {
            Box::new(Quick(quick_cache::sync::Cache::with_weighter(keys, bytes as u64, Weigher)))
        }
        "foyer" => Box::new(Foyer(
            foyer_memory::CacheBuilder::new(bytes)
                .with_weighter(|_: &u64, value: &Arc<[u8]>| value.len())
                .build(),
        )),
        "map, FIFO" => Box::new(Map { most: bytes, state: RwLock::default() }),
        _ => return Err(Error::Contestant { name: name.to_owned() }),
    })
}

thread_local! {
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Compresses a value into a block of just its length, after four bytes with the value's length.
#[expect(clippy::expect_used, reason = "a bench ends if its codec fails")]
fn compressed(value: &[u8]) -> Arc<[u8]> {
    BUFFER.with_borrow_mut(|buffer| {
        let len = COMPRESSOR.with_borrow_mut(|compressor| {
            let compressor = compressor.get_or_insert_with(|| {
                let mut compressor = Compressor::new(LEVEL).expect("there is memory for a context");
                compressor.include_contentsize(false).expect("the length is stored beside");
                compressor
            });
            buffer.resize(4 + zstd::zstd_safe::compress_bound(value.len()), 0);
            compressor.compress_to_buffer(value, &mut buffer[4..]).expect("the bound holds")
        });
        buffer[..4].copy_from_slice(&(value.len() as u32).to_le_bytes());
        Arc::from(&buffer[..4 + len])
    })
}

#[expect(clippy::expect_used, reason = "a bench ends if its codec fails")]
fn decompress(block: &[u8], into: &mut Vec<u8>) {
    let (len, bytes) = block.split_first_chunk().expect("a block begins with its length");
    into.resize(u32::from_le_bytes(*len) as usize, 0);
    DECOMPRESSOR.with_borrow_mut(|decompressor| {
        let decompressor = decompressor
            .get_or_insert_with(|| Decompressor::new().expect("there is memory for a context"));
        decompressor.decompress_to_buffer(bytes, &mut into[..]).expect("it was compressed here");
    });
}

struct Ours(zswap_cache::Cache);

impl Ours {
    fn new(bytes: usize, dictionaries: bool) -> Result<Self> {
        let builder = zswap_cache::Cache::builder().max_bytes(bytes).dictionaries(dictionaries);
        Ok(Ours(builder.build()?))
    }
}

#[expect(clippy::expect_used, reason = "a bench ends if a call fails")]
impl Contestant for Ours {
    fn insert(&self, key: u64, value: &[u8]) {
        self.0.insert(key, value).expect("the value fits into the budget");
    }

    fn get(&self, key: u64, into: &mut Vec<u8>) -> bool {
        self.0.get_into(key, into).expect("what was stored is readable")
    }

    fn remove(&self, key: u64) {
        self.0.remove(key).expect("this process built the cache");
    }
}

struct Moka(moka::sync::Cache<u64, Arc<[u8]>>);

impl Contestant for Moka {
    fn insert(&self, key: u64, value: &[u8]) {
        self.0.insert(key, compressed(value));
    }

    fn get(&self, key: u64, into: &mut Vec<u8>) -> bool {
        let found = self.0.get(&key);
        found.inspect(|block| decompress(block, into)).is_some()
    }

    fn remove(&self, key: u64) {
        self.0.invalidate(&key);
    }

    fn settle(&self) {
        self.0.run_pending_tasks();
    }
}

#[derive(Clone)]
struct Weigher;

impl quick_cache::Weighter<u64, Arc<[u8]>> for Weigher {
    fn weight(&self, _: &u64, value: &Arc<[u8]>) -> u64 {
        value.len() as u64
    }
}

struct Quick(quick_cache::sync::Cache<u64, Arc<[u8]>, Weigher>);

impl Contestant for Quick {
    fn insert(&self, key: u64, value: &[u8]) {
        self.0.insert(key, compressed(value));
    }

    fn get(&self, key: u64, into: &mut Vec<u8>) -> bool {
        let found = self.0.get(&key);
        found.inspect(|block| decompress(block, into)).is_some()
    }

    fn remove(&self, key: u64) {
        self.0.remove(&key);
    }
}

struct Foyer(foyer_memory::Cache<u64, Arc<[u8]>>);

impl Contestant for Foyer {
    fn insert(&self, key: u64, value: &[u8]) {
        self.0.insert(key, compressed(value));
    }

    fn get(&self, key: u64, into: &mut Vec<u8>) -> bool {
        let found = self.0.get(&key);
        found.inspect(|entry| decompress(entry.value(), into)).is_some()
    }

    fn remove(&self, key: u64) {
        self.0.remove(&key);
    }
}

/// A map under a lock that drops what was inserted first.
struct Map {
    most: usize,
    state: RwLock<MapState>,
}

#[derive(Default)]
struct MapState {
    values: HashMap<u64, Arc<[u8]>>,
    order: VecDeque<u64>,
    bytes: usize,
}

#[expect(clippy::expect_used, reason = "a bench ends if a thread panics")]
impl Contestant for Map {
    fn insert(&self, key: u64, value: &[u8]) {
        let block = compressed(value);
        let mut state = self.state.write().expect("no thread panics under the lock");
        state.bytes += block.len();
        match state.values.insert(key, block) {
            Some(old) => state.bytes -= old.len(),
            None => state.order.push_back(key),
        }
        while state.bytes > self.most {
            let Some(oldest) = state.order.pop_front() else { break };
            if let Some(old) = state.values.remove(&oldest) {
                state.bytes -= old.len();
            }
        }
    }

    fn get(&self, key: u64, into: &mut Vec<u8>) -> bool {
        let state = self.state.read().expect("no thread panics under the lock");
        let found = state.values.get(&key).cloned();
        drop(state);
        found.inspect(|block| decompress(block, into)).is_some()
    }

    fn remove(&self, key: u64) {
        let mut state = self.state.write().expect("no thread panics under the lock");
        if let Some(old) = state.values.remove(&key) {
            state.bytes -= old.len();
        }
    }
}
