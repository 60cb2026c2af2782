//! The engine of a cache, which the program's handle and the background thread share: shards, values and eviction.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use zpool_base::contained::contain;
use zpool_base::counter::Counter;

use crate::error::CacheError;
use crate::index::Position;
use crate::key::Key;
use crate::ledger::Part;
use crate::listener::Listener;
use crate::listening;
use crate::pool::Room;
use crate::shard::{Entries, Shard, Writing};
use crate::values::{Body, Pinned, Values};

/// The bytes of objects to evict at least when the budget is used up. So not every insert has to evict.
const LEAST_EVICTED: usize = 16 << 10;

/// The pool is compacted for an object from this attempt on.
const COMPACT_FROM: u32 = 2;

/// The most entries to evict before the pool is asked again.
const MOST_EVICTED: usize = 1024;

/// How many entries are pinned at a time while the cache is walked through.
pub(crate) const PINNED: usize = 32;

/// The pages that the default provider keeps warm: 128 KiB.
pub(crate) const WARM_PAGES: usize = 32;

/// How often an insert counts what the contexts take. Between two counts, they grow by a few at most.
const COUNT_EVERY: u64 = 32;

/// How often an insert counts the pool's descriptors, which takes some microseconds.
const COUNT_POOL_EVERY: u64 = 8192;

/// What happened in a cache.
#[derive(Debug, Default)]
pub(crate) struct Events {
    pub(crate) inserts: Counter,
    pub(crate) evictions: Counter,
    /// Evicted values that the listener was not shown.
    pub(crate) unseen: Counter,
}

/// The parts of a cache.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) values: Values,
    pub(crate) shards: Vec<Shard>,
    hasher: RandomState,
    /// The shard to evict from next.
    hand: AtomicUsize,
    pub(crate) events: Events,
    pub(crate) listener: Option<Listener>,
    #[cfg(feature = "zstd")]
    pub(crate) sampler: compressors::training::Sampler,
}

impl Engine {
    pub(crate) fn new(values: Values, shards: usize, listener: Option<Listener>) -> Self {
        assert!(shards.is_power_of_two(), "the number of shards, {shards}, is no power of two");
        let tag = values.pool.tag();
        Engine {
            values,
            shards: (0..shards).map(|_| Shard::new(tag)).collect(),
            hasher: RandomState::new(),
            hand: AtomicUsize::new(0),
            events: Events::default(),
            listener,
            #[cfg(feature = "zstd")]
            sampler: compressors::training::Sampler::off(),
        }
    }

    fn address(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }

    pub(crate) fn hash(&self, key: Key<'_>) -> u64 {
        self.hasher.hash_one(key)
    }

    /// Returns the shard of a key with this hash. The index of the shard uses the low bits.
    pub(crate) fn shard(&self, hash: u64) -> &Shard {
        &self.shards[(hash >> 40) as usize & (self.shards.len() - 1)]
    }

    /// Finds a key and pins its value.
    ///
    /// # Errors
    /// Those of [`Values::open`].
    pub(crate) fn find(&self, hash: u64, key: Key<'_>) -> Result<Option<Pinned<'_>>, CacheError> {
        let entries = self.shard(hash).read();
        let Some((at, pinned)) = entries.find(&self.values, hash, key)? else { return Ok(None) };
        entries.index.touch(at);
        Ok(Some(pinned))
    }

    /// Compresses and stores a value, and puts it in. `may` is asked under the shard's lock, with the entry of the key
    /// if there is one, whether to do so; a value that it refuses is freed again. Returns its answer.
    ///
    /// # Errors
    /// Those of [`Values::store`]; [`CacheError::NoMemory`] for the index. The key's entry is as before.
    pub(crate) fn put(
        &self,
        key: Key<'_>,
        value: &[u8],
        may: impl FnOnce(&Entries, Option<Position>) -> bool,
    ) -> Result<bool, CacheError> {
        Values::check(key, value)?;
        if listening::is_within(self.address()) {
            return Err(CacheError::InListener);
        }
        let hash = self.hash(key);
        // The number of a key that is inserted again is the same, so it is sampled always or never.
        #[cfg(feature = "zstd")]
        self.sampler.offer_drawn(value, hash.rotate_left(32));
        self.put_value(hash, key, value, may)
    }

    /// Compresses and stores a value of a key with this hash, and puts it in, as [`Engine::put`] does.
    fn put_value(
        &self,
        hash: u64,
        key: Key<'_>,
        value: &[u8],
        may: impl FnOnce(&Entries, Option<Position>) -> bool,
    ) -> Result<bool, CacheError> {
        let stored = self.values.store(key, value, self)?;
        self.count()?;
        let mut entries = self.reserved(hash)?;
        let found = entries.find(&self.values, hash, key)?;
        let at = found.as_ref().map(|(at, _)| *at);
        if !may(&entries, at) {
            drop(entries);
            return Ok(false);
        }
        let old = match at {
            Some(at) => Some(entries.replace(at, stored.into_body())),
            None => {
                entries.insert(hash, stored.into_body());
                None
            }
        };
        drop(entries);
        // The pin of the old value ends before the free, so that the free gives its pages back at once.
        drop(found);
        if let Some(old) = old {
            self.values.free(old);
        }
        Ok(true)
    }

    /// Locks the shard of `hash` with room for one more entry.
    fn reserved(&self, hash: u64) -> Result<Writing<'_>, CacheError> {
        let shard = self.shard(hash);
        let ledger = &self.values.pool.ledger;
        let mut attempt = 0;
        loop {
            let mut entries = shard.write();
            let more = entries.index.bytes_to_reserve();
            if more == 0 || ledger.excess(more) == 0 {
                let before = entries.memory_bytes();
                let reserved = entries.reserve();
                self.changed(before, entries.memory_bytes());
                if reserved? {
                    return Ok(entries);
                }
                drop(entries);
                shard.wait_for_tidying();
                continue;
            }
            drop(entries);
            self.evict_excess(more, attempt)?;
            attempt += 1;
        }
    }

    /// Counts that a shard's tables have changed their size.
    fn changed(&self, before: usize, now: usize) {
        let ledger = &self.values.pool.ledger;
        if now > before {
            ledger.add(Part::Index, now - before);
        } else if now < before {
            ledger.sub(Part::Index, before - now);
        }
    }

    /// Counts what has grown beside the pages now and then, and evicts if that is too much.
    ///
    /// # Errors
    /// [`CacheError::NoRoom`] if there is nothing left to evict.
    fn count(&self) -> Result<(), CacheError> {
        let before = self.events.inserts.get();
        self.events.inserts.add(1);
        if before % COUNT_EVERY == 0 {
            self.count_codecs();
        }
        if before % COUNT_POOL_EVERY == 0 {
            self.count_pool();
        }
        let mut attempt = 0;
        while self.values.pool.ledger.excess(0) > 0 {
            self.evict_excess(0, attempt)?;
            attempt += 1;
        }
        Ok(())
    }

    pub(crate) fn count_codecs(&self) {
        self.values.pool.ledger.set(Part::Codecs, self.values.codecs.memory_bytes());
    }

    pub(crate) fn count_pool(&self) {
        let stats = self.values.pool.zpool().stats();
        // As many as the provider will keep, so that pages that are emptied later are counted.
        let warm = stats.cached_pages.max(WARM_PAGES).saturating_mul(stats.page_size);
        self.values.pool.ledger.set(Part::Pool, stats.metadata_bytes.saturating_add(warm));
    }

    /// Evicts, so that `more` bytes fit beside the pages.
    fn evict_excess(&self, more: usize, attempt: u32) -> Result<(), CacheError> {
        let excess = self.values.pool.ledger.excess(more);
        if excess > 0 { self.make(excess, attempt.saturating_add(COMPACT_FROM)) } else { Ok(()) }
    }

    /// Evicts the next entry. Returns the bytes of its objects; `None` if there is no entry.
    fn evict_one(&self) -> Option<usize> {
        for _ in 0..self.shards.len() {
            let hand = self.hand.fetch_add(1, SeqCst) & (self.shards.len() - 1);
            let mut entries = self.shards[hand].write();
            let Some(body) = entries.evict() else { continue };
            // What the listener sees is pinned before the value is freed, and no other thread can free it.
            drop(entries);
            self.events.evictions.add(1);
            if let Some(listener) = &self.listener {
                self.show(listener, &body);
            }
            return Some(self.values.free(body));
        }
        None
    }

    /// Shows an evicted value to the listener.
    fn show(&self, listener: &Listener, body: &Body) {
        let mut value = Vec::new();
        let shown = self.values.pin(body).and_then(|pinned| {
            self.values.read(&pinned, &mut value)?;
            let Some(_within) = listening::Within::enter(self.address()) else {
                return Err(CacheError::InListener);
            };
            let called = contain(|| pinned.with_key(|key| listener.call(key, &value)));
            called.map_err(|_| CacheError::Reentrant)
        });
        if shown.is_err() {
            self.events.unseen.add(1);
        }
    }

    /// Removes a key. Returns whether it was there. An entry that may have been it and cannot be read is removed, too.
    pub(crate) fn remove(&self, key: Key<'_>) -> bool {
        let hash = self.hash(key);
        let mut removed = false;
        loop {
            let mut entries = self.shard(hash).write();
            let taken = entries.take(&self.values, hash, key);
            drop(entries);
            let Some((body, is_it)) = taken else { return removed };
            self.values.free(body);
            removed = true;
            if is_it {
                return true;
            }
        }
    }

    /// Pins those of a few entries of a shard whose words `choose` accepts, and calls `then` with each, without a lock.
    /// `below` is where to go on. Returns where to go on next.
    pub(crate) fn walk(
        &self,
        shard: usize,
        below: Option<u32>,
        choose: impl Fn(&Entries, u64) -> bool,
        mut then: impl FnMut(&Pinned<'_>),
    ) -> Option<u32> {
        let mut pinned = [const { None }; PINNED];
        let mut places = pinned.iter_mut();
        let entries = self.shards[shard].read();
        let next = entries.index.walk_down(below, PINNED, |bits| {
            if !choose(&entries, bits) {
                return;
            }
            if let Some(place) = places.next() {
                *place = entries.pin(&self.values, bits, None).ok().flatten();
            }
        });
        drop(entries);
        pinned.iter().flatten().for_each(&mut then);
        next
    }

    /// Compresses those of a few entries of a shard again whose dictionary is not the current one. `below` is where to
    /// go on. Returns where to go on next. Entries that fail, or change meanwhile, are left as they are.
    #[cfg(feature = "zstd")]
    pub(crate) fn renew(&self, shard: usize, below: Option<u32>) -> Option<u32> {
        let mut value = Vec::new();
        let is_old = |entries: &Entries, bits| entries.is_old(&self.values, bits);
        self.walk(shard, below, is_old, |pinned| {
            if self.values.read(pinned, &mut value).is_ok() {
                let is_it = |entries: &Entries, at: Option<Position>| {
                    at.is_some_and(|at| entries.is_pinned(at, pinned))
                };
                let _ = pinned.with_key(|key| self.put_value(self.hash(key), key, &value, is_it));
            }
        })
    }

    /// Returns the number of entries.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().index.len()).sum()
    }

    /// Gives the memory of the shards' tables back after many removals.
    pub(crate) fn tidy(&self, stop: &dyn Fn() -> bool) {
        const STEPS: usize = 256;
        for shard in &self.shards {
            while shard.tidy(STEPS, |before, now| self.changed(before, now)) && !stop() {}
        }
    }

    /// Evicts until the memory is within the budget.
    ///
    /// # Errors
    /// [`CacheError::NoRoom`] if all entries are evicted and it still is not.
    pub(crate) fn fit(&self) -> Result<(), CacheError> {
        self.count_codecs();
        self.count_pool();
        let mut attempt = 0;
        while self.values.pool.ledger.excess(0) > 0 {
            self.evict_excess(0, attempt)?;
            attempt += 1;
            // Pages that are emptied are kept warm, and count.
            self.count_pool();
        }
        Ok(())
    }

    /// Removes all entries that are there when it comes to their shard.
    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            let mut old = shard.take_all();
            while let Some(body) = old.evict() {
                self.values.free(body);
            }
            let bytes = old.memory_bytes();
            drop(old);
            self.changed(bytes, 0);
        }
    }
}

impl Room for Engine {
    fn make(&self, bytes: usize, attempt: u32) -> Result<(), CacheError> {
        // The first attempts leave holes for objects of the same size, which mostly is enough. Later ones gather holes
        // into pages. The more attempts it takes, the more is evicted.
        let zpool = self.values.pool.zpool();
        if attempt >= COMPACT_FROM && zpool.caps().compaction {
            let pages = bytes.div_ceil(self.values.pool.page_size()).max(1);
            let freed = zpool.compact_some(pages)?;
            if freed.pages > 0 {
                return Ok(());
            }
        }
        let wanted = bytes.max(LEAST_EVICTED << attempt.min(10));
        let (mut freed, mut evicted) = (0_usize, 0);
        while freed < wanted && evicted < MOST_EVICTED {
            let Some(bytes) = self.evict_one() else { break };
            freed = freed.saturating_add(bytes);
            evicted += 1;
        }
        if evicted > 0 {
            return Ok(());
        }
        // Nothing is left but what readers or other inserts hold, and what was freed under readers.
        if zpool.trim() > 0 || attempt <= COMPACT_FROM {
            return Ok(());
        }
        Err(CacheError::NoRoom { bytes, max_bytes: self.values.pool.ledger.max_bytes() })
    }
}

/// The engine, shared.
pub(crate) type Shared = Arc<Engine>;
