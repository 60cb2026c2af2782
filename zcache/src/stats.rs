//! Figures of a cache.

use crate::engine::Engine;

/// Figures of a cache. They are read while other threads use the cache, so they need not be of one moment.
#[derive(Clone, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct CacheStats {
    /// The number of entries.
    pub entries: usize,
    /// The length of all values before compression, in bytes.
    pub value_bytes: usize,
    /// The bytes of all objects: keys, compressed values, and their headers.
    pub stored_bytes: usize,
    /// The bytes of everything that counts against the budget: pages, index, contexts, dictionaries, descriptors.
    pub memory_bytes: usize,
    /// The budget in bytes.
    pub max_bytes: usize,
    /// Gets that found their key.
    pub hits: u64,
    /// Gets that did not.
    pub misses: u64,
    /// Values that were stored: also those that replaced others or were refused at last, and those that were compressed
    /// again for another dictionary.
    pub inserts: u64,
    /// Entries that were evicted.
    pub evictions: u64,
    /// Evicted entries that the listener was not shown, since there was no memory to decompress them, or whose call
    /// panicked.
    pub unseen: u64,
    /// Dictionaries in use: the current one, and those that entries still need.
    pub dictionaries: usize,
    /// Dictionaries that were trained and came into use.
    pub adopted: u64,
    /// Rounds of training whose dictionary did not pay, or that dropped the one in use.
    pub rejected: u64,
    /// Steps of the background thread that failed.
    pub failed: u64,
}

impl CacheStats {
    pub(crate) fn of(engine: &Engine) -> Self {
        engine.count_codecs();
        engine.count_pool();
        let (events, ledger) = (&engine.events, &engine.values.pool.ledger);
        CacheStats {
            entries: engine.len(),
            value_bytes: engine.values.value_bytes(),
            stored_bytes: engine.values.pool.zpool().stats().object_bytes,
            memory_bytes: ledger.used(),
            max_bytes: ledger.max_bytes(),
            hits: engine.shards.iter().map(|shard| shard.hits.get()).sum(),
            misses: engine.shards.iter().map(|shard| shard.misses.get()).sum(),
            inserts: events.inserts.get(),
            evictions: events.evictions.get(),
            unseen: events.unseen.get(),
            dictionaries: engine.values.codecs.dictionaries(),
            ..CacheStats::default()
        }
    }
}
