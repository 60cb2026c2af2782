//! The calls of a cache.

use core::fmt;

use zpool_base::fork::{Leaked, Maker};

use crate::background::Background;
use crate::engine::{Engine, Shared};
use crate::error::{BuildError, CacheError};
use crate::frugal::allowance;
use crate::key::Key;
use crate::ledger::LEAST_BYTES;
use crate::stats::CacheStats;

/// Values of any length under keys, compressed, within a budget of memory.
///
/// All calls may be made from any thread at any time; share the cache by reference or in an
/// [`Arc`](std::sync::Arc). A get never waits for another get or for a codec of another thread, except for the context
/// of its processor. Calls that store may evict other entries. In a child after `fork` every call fails with
/// [`CacheError::Forked`], or answers as an empty cache would.
///
/// ```
/// use zswap_cache::Cache;
///
/// let cache = Cache::builder().max_bytes(8 << 20).build()?;
/// cache.insert("greeting", b"hello, hello, hello, hello, hello")?;
/// cache.insert(7, b"a number is a key, too")?;
///
/// let mut value = Vec::new();
/// assert!(cache.get_into("greeting", &mut value)?);
/// assert_eq!(value, b"hello, hello, hello, hello, hello");
/// assert!(!cache.get_into("farewell", &mut value)?);
/// assert!(cache.remove(7)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Cache {
    /// Before the engine, so that the thread has ended when the engine is dropped.
    background: Option<Background>,
    engine: Leaked<Shared>,
    maker: Maker,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.maker.is_here() {
            f.debug_struct("Cache").field("stats", &self.stats()).finish_non_exhaustive()
        } else {
            f.write_str("Cache(of another process)")
        }
    }
}

impl Cache {
    pub(crate) fn new(engine: Shared, background: Option<Background>) -> Self {
        Cache { background, engine: Leaked::new(engine), maker: Maker::here() }
    }

    /// Returns the engine.
    ///
    /// # Errors
    /// [`CacheError::Forked`] in a child after `fork`.
    fn engine(&self) -> Result<&Engine, CacheError> {
        if self.maker.is_here() { Ok(&self.engine) } else { Err(CacheError::Forked) }
    }

    /// Puts a value under a key. If the key has a value, it is replaced; if the call fails, it is dropped, so that the
    /// cache never returns a value that the program meant to replace. Evicts other entries if the budget is used up.
    /// The value may be evicted at any time, by this call of another thread, too.
    ///
    /// `value` has at most 256 MiB, and a key of bytes at most [`MOST_KEY`](crate::MOST_KEY) bytes. A value of more
    /// than 256 KiB is compressed in frames of that length.
    ///
    /// ```
    /// use zswap_cache::{Cache, CacheError};
    ///
    /// let cache = Cache::builder().max_bytes(8 << 20).build()?;
    /// cache.insert("key", b"one value")?;
    /// cache.insert("key", b"another one")?;
    /// assert_eq!(cache.get("key")?, Some(b"another one".to_vec()));
    /// let long = [0; 5000];
    /// assert!(matches!(cache.insert(&long, b""), Err(CacheError::KeyTooLong { len: 5000, .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// * [`CacheError::KeyTooLong`], [`CacheError::ValueTooLong`].
    /// * [`CacheError::TooLarge`] if the value compresses to more than half of the budget. Others were evicted for the
    ///   half that was stored before this was known.
    /// * [`CacheError::NoRoom`] if the value does not fit into the budget, even if all other entries are evicted. What
    ///   other threads insert at the same moment counts, too.
    /// * [`CacheError::NoMemory`] if the system has no memory; [`CacheError::Pool`], [`CacheError::Codec`] if backend
    ///   or codec fail.
    /// * [`CacheError::InListener`] if a listener of evictions calls, [`CacheError::Reentrant`] if a codec or backend
    ///   does, [`CacheError::Forked`] in a child after `fork`. A listener's or a child's call drops nothing.
    ///
    /// # Blocking
    /// Compresses on the caller's thread, waits for the context of its processor, and makes system calls for memory.
    pub fn insert<'k>(&self, key: impl Into<Key<'k>>, value: &[u8]) -> Result<(), CacheError> {
        let (engine, key) = (self.engine()?, key.into());
        match engine.put(key, value, |_, _| true) {
            Ok(_) => Ok(()),
            Err(error @ (CacheError::InListener | CacheError::KeyTooLong { .. })) => Err(error),
            Err(error) => {
                engine.remove(key);
                Err(error)
            }
        }
    }

    /// Puts a value under a key as [`Cache::insert`] does, but keeps the key's old value if the call fails.
    ///
    /// ```
    /// use zswap_cache::{Cache, CacheError};
    ///
    /// let cache = Cache::builder().max_bytes(8 << 20).build()?;
    /// cache.insert("key", b"old")?;
    /// // Five MiB that do not compress take more than half of the budget.
    /// let words = (1..655_360_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    /// let value: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    /// assert!(matches!(cache.insert_or_keep("key", &value), Err(CacheError::TooLarge { .. })));
    /// assert_eq!(cache.get("key")?, Some(b"old".to_vec()));
    /// assert!(cache.insert("key", &value).is_err());
    /// assert_eq!(cache.get("key")?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Cache::insert`]. With [`CacheError::NoRoom`], the old value was evicted with all others; with
    /// [`CacheError::TooLarge`], it may have been.
    ///
    /// # Blocking
    /// As [`Cache::insert`].
    pub fn insert_or_keep<'k>(
        &self,
        key: impl Into<Key<'k>>,
        value: &[u8],
    ) -> Result<(), CacheError> {
        self.engine()?.put(key.into(), value, |_, _| true).map(drop)
    }

    /// Replaces the value of a key, or adds the key, if `may` says so when it is shown the key's value. Returns whether
    /// it did. Between the moment to which `may`'s answer refers and the replacement, no other call has changed the
    /// key's value. If one does, `may` is asked again. An evicted value is no value.
    ///
    /// ```
    /// use zswap_cache::Cache;
    ///
    /// let cache = Cache::builder().max_bytes(8 << 20).build()?;
    /// assert!(cache.replace_if("counter", b"1", |old| old.is_none())?);
    /// assert!(!cache.replace_if("counter", b"1", |old| old.is_none())?);
    /// assert!(cache.replace_if("counter", b"2", |old| old == Some(b"1"))?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Cache::insert`] and of [`Cache::get_into`]. The old value stays, unless it was evicted.
    ///
    /// # Blocking
    /// As [`Cache::insert`]. `may` runs without a lock.
    pub fn replace_if<'k>(
        &self,
        key: impl Into<Key<'k>>,
        value: &[u8],
        mut may: impl FnMut(Option<&[u8]>) -> bool,
    ) -> Result<bool, CacheError> {
        let (engine, key) = (self.engine()?, key.into());
        let hash = engine.hash(key);
        let mut old = Vec::new();
        loop {
            let pinned = engine.find(hash, key)?;
            let shown = match &pinned {
                None => None,
                Some(pinned) => {
                    engine.values.read(pinned, &mut old)?;
                    Some(&*old)
                }
            };
            if !may(shown) {
                return Ok(false);
            }
            let is_as_shown = |entries: &crate::shard::Entries, at| match (at, &pinned) {
                (None, None) => true,
                (Some(at), Some(pinned)) => entries.is_pinned(at, pinned),
                _ => false,
            };
            if engine.put(key, value, is_as_shown)? {
                return Ok(true);
            }
        }
    }

    /// Decompresses the value of a key into `value`, which gets its length. Returns false, and leaves `value` as it is,
    /// if the key has none. The capacity of `value` is reused: a caller that reuses it allocates nothing.
    ///
    /// ```
    /// use zswap_cache::Cache;
    ///
    /// let cache = Cache::builder().max_bytes(8 << 20).build()?;
    /// cache.insert(1, b"one")?;
    /// let mut value = Vec::new();
    /// assert!(cache.get_into(1, &mut value)? && value == b"one");
    /// assert!(!cache.get_into(2, &mut value)? && value == b"one");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`CacheError::NoMemory`] if `value` cannot grow; [`CacheError::Codec`], [`CacheError::Pool`],
    /// [`CacheError::Corrupt`] if codec or backend fail; [`CacheError::Reentrant`] if one of them calls;
    /// [`CacheError::Forked`] in a child after `fork`. `value` is empty then, or as it was.
    ///
    /// # Blocking
    /// Decompresses on the caller's thread, and waits for the context of its processor if the codec needs one.
    pub fn get_into<'k>(
        &self,
        key: impl Into<Key<'k>>,
        value: &mut Vec<u8>,
    ) -> Result<bool, CacheError> {
        let (engine, key) = (self.engine()?, key.into());
        let hash = engine.hash(key);
        let Some(pinned) = engine.find(hash, key)? else {
            engine.shard(hash).misses.add(1);
            return Ok(false);
        };
        engine.values.read(&pinned, value)?;
        engine.shard(hash).hits.add(1);
        Ok(true)
    }

    /// Returns the value of a key.
    ///
    /// ```
    /// use zswap_cache::Cache;
    ///
    /// let cache = Cache::builder().max_bytes(8 << 20).build()?;
    /// cache.insert("a", b"1")?;
    /// assert_eq!(cache.get("a")?.as_deref(), Some(&b"1"[..]));
    /// assert_eq!(cache.get("b")?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Cache::get_into`].
    ///
    /// # Blocking
    /// As [`Cache::get_into`].
    pub fn get<'k>(&self, key: impl Into<Key<'k>>) -> Result<Option<Vec<u8>>, CacheError> {
        let mut value = Vec::new();
        Ok(self.get_into(key, &mut value)?.then_some(value))
    }

    /// Returns whether a key has a value. Does not count as a use of it.
    ///
    /// ```
    /// use zswap_cache::Cache;
    ///
    /// let cache = Cache::builder().max_bytes(8 << 20).build()?;
    /// cache.insert(3, b"three")?;
    /// assert!(cache.contains(3)? && !cache.contains(4)?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`CacheError::Pool`], [`CacheError::Corrupt`] if the backend fails; [`CacheError::Forked`] in a child after
    /// `fork`.
    pub fn contains<'k>(&self, key: impl Into<Key<'k>>) -> Result<bool, CacheError> {
        let (engine, key) = (self.engine()?, key.into());
        let hash = engine.hash(key);
        let entries = engine.shard(hash).read();
        Ok(entries.find(&engine.values, hash, key)?.is_some())
    }

    /// Removes a key. Returns whether it was there. Listeners are not called. An entry that may have been it and cannot
    /// be read is removed, too.
    ///
    /// ```
    /// use zswap_cache::Cache;
    ///
    /// let cache = Cache::builder().max_bytes(8 << 20).build()?;
    /// cache.insert("a", b"1")?;
    /// assert!(cache.remove("a")? && !cache.remove("a")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`CacheError::Forked`] in a child after `fork`.
    pub fn remove<'k>(&self, key: impl Into<Key<'k>>) -> Result<bool, CacheError> {
        Ok(self.engine()?.remove(key.into()))
    }

    /// Calls `then` with each key and its value. An entry that is there all the time is shown at least once, and more
    /// than once only if the cache moved it in its tables meanwhile. One that comes or goes meanwhile may be shown. A
    /// key may be shown with a value that was replaced a moment ago. Values that cannot be read are left out. `then`
    /// may call the cache. Does not count as a use of the entries.
    ///
    /// ```
    /// use zswap_cache::{Cache, Key};
    ///
    /// let cache = Cache::builder().max_bytes(8 << 20).build()?;
    /// cache.insert("a", b"1")?;
    /// cache.insert(2, b"22")?;
    /// let mut bytes = 0;
    /// cache.for_each(|key, value| {
    ///     assert!(key == Key::from("a") || key == Key::from(2));
    ///     bytes += value.len();
    /// })?;
    /// assert_eq!(bytes, 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`CacheError::Forked`] in a child after `fork`.
    ///
    /// # Blocking
    /// Decompresses on the caller's thread. No lock is held while `then` runs.
    pub fn for_each(&self, mut then: impl FnMut(Key<'_>, &[u8])) -> Result<(), CacheError> {
        let engine = self.engine()?;
        let mut value = Vec::new();
        for shard in 0..engine.shards.len() {
            let mut next = None;
            loop {
                next = engine.walk(
                    shard,
                    next,
                    |_, _| true,
                    |pinned| {
                        if engine.values.read(pinned, &mut value).is_ok() {
                            pinned.with_key(|key| then(key, &value));
                        }
                    },
                );
                if next.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Removes all entries that are there now, without calling listeners, and gives their memory back.
    ///
    /// ```
    /// use zswap_cache::Cache;
    ///
    /// let cache = Cache::builder().max_bytes(8 << 20).build()?;
    /// cache.insert(1, b"one")?;
    /// cache.clear()?;
    /// assert!(cache.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`CacheError::Forked`] in a child after `fork`.
    pub fn clear(&self) -> Result<(), CacheError> {
        let engine = self.engine()?;
        engine.clear();
        engine.values.pool.zpool().trim();
        engine.count_pool();
        Ok(())
    }

    /// Moves objects and entries together and gives the emptied memory back. A thread in the background does this, too,
    /// unless it is switched off. Returns when there is nothing more to gain.
    ///
    /// ```
    /// use zswap_cache::Cache;
    ///
    /// let cache = Cache::builder().max_bytes(8 << 20).build()?;
    /// cache.compact()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`CacheError::Pool`] if the backend fails; [`CacheError::Forked`] in a child after `fork`.
    pub fn compact(&self) -> Result<(), CacheError> {
        let engine = self.engine()?;
        engine.tidy(&|| false);
        if engine.values.pool.zpool().caps().compaction {
            engine.values.pool.zpool().compact()?;
        }
        engine.values.pool.zpool().trim();
        engine.count_codecs();
        engine.count_pool();
        Ok(())
    }

    /// Returns the number of entries; 0 in a child after `fork`.
    #[must_use]
    pub fn len(&self) -> usize {
        self.engine().map_or(0, Engine::len)
    }

    /// Returns whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the budget in bytes.
    #[must_use]
    pub fn max_bytes(&self) -> usize {
        self.engine.values.pool.ledger.max_bytes()
    }

    /// Changes the budget, and evicts what exceeds a smaller one.
    ///
    /// ```
    /// use zswap_cache::Cache;
    ///
    /// let cache = Cache::builder().max_bytes(64 << 20).build()?;
    /// cache.set_max_bytes(16 << 20)?;
    /// assert_eq!(cache.max_bytes(), 16 << 20);
    /// assert!(cache.set_max_bytes(1000).is_err());
    /// # Ok::<(), zswap_cache::BuildError>(())
    /// ```
    ///
    /// # Errors
    /// [`BuildError::BudgetTooSmall`] if it is less than [`LEAST_BYTES`](crate::LEAST_BYTES), or than what the contexts
    /// take that were made so far; [`BuildError::Forked`] in a child after `fork`. In the former case the budget stays
    /// as it was, but entries may have been evicted.
    pub fn set_max_bytes(&self, bytes: usize) -> Result<(), BuildError> {
        let engine = self.engine().map_err(|_| BuildError::Forked)?;
        if bytes < LEAST_BYTES {
            return Err(BuildError::BudgetTooSmall { bytes, least: LEAST_BYTES });
        }
        let ledger = &engine.values.pool.ledger;
        let before = ledger.max_bytes();
        ledger.set_max_bytes(bytes);
        engine.values.codecs.set_allowance(allowance(ledger.max_bytes()));
        engine.fit().map_err(|_| {
            let least = ledger.used();
            ledger.set_max_bytes(before);
            engine.values.codecs.set_allowance(allowance(before));
            BuildError::BudgetTooSmall { bytes, least }
        })
    }

    /// Returns figures of the cache.
    ///
    /// ```
    /// use zswap_cache::Cache;
    ///
    /// let cache = Cache::builder().max_bytes(8 << 20).build()?;
    /// cache.insert("a", &[b'a'; 10_000])?;
    /// cache.get("a")?;
    /// cache.get("b")?;
    /// let stats = cache.stats();
    /// assert_eq!((stats.entries, stats.value_bytes, stats.hits, stats.misses), (1, 10_000, 1, 1));
    /// assert!(stats.stored_bytes <= 10_005 && stats.memory_bytes < 8 << 20);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Blocking
    /// Takes the short locks of the shards and of the backend.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        let Ok(engine) = self.engine() else { return CacheStats::default() };
        let mut stats = CacheStats::of(engine);
        if let Some(background) = &self.background {
            background.report(&mut stats);
        }
        stats
    }
}
