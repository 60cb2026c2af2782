//! Builds a cache.

use core::time::Duration;
use std::sync::Arc;

use compressors::Registry as CompressorRegistry;
use zpage::Recipe;
use zpool_api::{PageError, PageProvider, Registry as ZpoolRegistry};

use crate::background::{Background, Plan};
use crate::cache::Cache;
use crate::codecs::Codecs;
use crate::engine::Engine;
use crate::error::BuildError;
use crate::frugal::{Allowance, allowance};
use crate::invariant::broken;
use crate::key::Key;
use crate::ledger::LEAST_BYTES;
use crate::listener::Listener;
use crate::pool::{MOST_OBJECT, Pool};
use crate::values::Values;

const DEFAULT_BYTES: usize = 64 << 20;

/// Each shard has at least this share of the budget, so that it has enough entries to choose from.
const SHARD_BYTES: usize = 8 << 20;

const MOST_SHARDS: usize = 64;

/// Settings of a [`Cache`]. [`Cache::builder`] makes one.
#[must_use = "settings do nothing until a cache is built"]
pub struct CacheBuilder {
    max_bytes: usize,
    zpool: String,
    compressor: String,
    dictionaries: Option<bool>,
    background: bool,
    pause: Duration,
    listener: Option<Listener>,
    recipe: Recipe,
}

impl core::fmt::Debug for CacheBuilder {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("CacheBuilder")
            .field("max_bytes", &self.max_bytes)
            .field("zpool", &self.zpool)
            .field("compressor", &self.compressor)
            .finish_non_exhaustive()
    }
}

impl Cache {
    /// Starts building a cache.
    ///
    /// ```
    /// use zswap_cache::Cache;
    ///
    /// let cache = Cache::builder().max_bytes(64 << 20).build()?;
    /// assert_eq!((cache.len(), cache.max_bytes()), (0, 64 << 20));
    /// # Ok::<(), zswap_cache::BuildError>(())
    /// ```
    pub fn builder() -> CacheBuilder {
        CacheBuilder::new()
    }
}

impl CacheBuilder {
    fn new() -> Self {
        let mut recipe = Recipe::builtin();
        set_default_pages(&mut recipe);
        let compressor = if cfg!(feature = "zstd") { "zstd" } else { recipe.default_compressor() };
        CacheBuilder {
            max_bytes: DEFAULT_BYTES,
            zpool: zpage::builtin::DEFAULT_ZPOOL.to_owned(),
            compressor: compressor.to_owned(),
            dictionaries: None,
            background: true,
            pause: Duration::from_millis(100),
            listener: None,
            recipe,
        }
    }

    /// Sets the budget in bytes, over everything: values, keys, index, codec contexts, dictionaries, what the pool
    /// wastes. Default: 64 MiB; at least [`LEAST_BYTES`]. The resident set of the process may exceed it by at most
    /// 1 MiB and, for each thread that is in a call with a value of more than 64 KiB, a buffer of 256 KiB.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Sets the backend that holds the values: `zsmalloc` (the default), `zbud`, `z3fold`, or a name in a registry of
    /// your own ([`CacheBuilder::zpools`]). It must hold objects of 64 KiB.
    pub fn zpool(mut self, name: impl Into<String>) -> Self {
        self.zpool = name.into();
        self
    }

    /// Sets the compressor, e.g. `zstd:level=6`. Default: `zstd` if it is compiled in.
    pub fn compressor(mut self, spec: impl Into<String>) -> Self {
        self.compressor = spec.into();
        self
    }

    /// Sets whether dictionaries are trained from the values of up to 4 KiB and used while they pay. Default: yes if
    /// the compressor is zstd. Without the background thread, there are none. A training takes a part of the budget for
    /// less than a second, with pauses that grow. If it would take more than a quarter of the budget, as in a cache of
    /// less than about 20 MiB, there are none either.
    pub fn dictionaries(mut self, on: bool) -> Self {
        self.dictionaries = Some(on);
        self
    }

    /// Sets whether a thread in the background gives memory back and trains dictionaries. Default: yes. Without it,
    /// call [`Cache::compact`] after many removals.
    pub fn background(mut self, on: bool) -> Self {
        self.background = on;
        self
    }

    /// Sets the shortest pause of the background thread between two steps. While nothing happens in the cache, pauses
    /// double up to 32 times this. Default: 100 ms.
    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause.max(Duration::from_millis(1));
        self
    }

    /// Sets a function that is called with the key and the value of each entry that is evicted, after it has left the
    /// cache. It is not called for values that are replaced or removed. It runs on the thread that needs room, without
    /// a lock, and may call this and other caches, except that an insert into this one fails with
    /// [`CacheError::InListener`](crate::CacheError::InListener), also through another cache's listener. Its panics are
    /// caught.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    /// use zswap_cache::Cache;
    ///
    /// let evicted = Arc::new(AtomicUsize::new(0));
    /// let count = evicted.clone();
    /// let builder = Cache::builder().max_bytes(4 << 20).background(false).on_evict(move |_, _| {
    ///     count.fetch_add(1, SeqCst);
    /// });
    /// let cache = builder.build()?;
    /// for n in 0..100_000_u64 {
    ///     // Numbers that do not compress.
    ///     let words: Vec<u64> = (0..10).map(|k| (n * 10 + k + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
    ///     let value: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    ///     cache.insert(n, &value)?;
    /// }
    /// assert_eq!(cache.len() + evicted.load(SeqCst), 100_000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on_evict(mut self, listener: impl Fn(Key<'_>, &[u8]) + Send + Sync + 'static) -> Self {
        self.listener = Some(Listener::new(listener));
        self
    }

    /// Sets where backends are looked up. Default: the built-in ones.
    pub fn zpools(mut self, registry: ZpoolRegistry) -> Self {
        self.recipe.zpools = registry;
        self
    }

    /// Sets where compressors are looked up. Default: the built-in ones.
    pub fn compressors(mut self, registry: CompressorRegistry) -> Self {
        self.recipe.compressors = registry;
        self
    }

    /// Sets the constructor of the page provider. It is called with the wanted page size in bytes. Default: `MmapPages`
    /// on Linux, which keeps 128 KiB warm, else `HeapPages`.
    pub fn pages_of<F>(mut self, make: F) -> Self
    where
        F: Fn(usize) -> Result<Arc<dyn PageProvider>, PageError> + Send + Sync + 'static,
    {
        self.recipe.set_pages_of(make);
        self
    }

    /// Builds the cache.
    ///
    /// # Errors
    /// [`BuildError::BudgetTooSmall`] if `max_bytes` is less than [`LEAST_BYTES`]; [`BuildError::Recipe`] if backend or
    /// compressor cannot be built; [`BuildError::NotZstd`] if dictionaries are on and the compressor is another one;
    /// [`BuildError::Thread`] and, with the feature `zstd`, `BuildError::Train` if the background cannot be set up.
    pub fn build(mut self) -> Result<Cache, BuildError> {
        let bytes = self.max_bytes;
        if bytes < LEAST_BYTES {
            return Err(BuildError::BudgetTooSmall { bytes, least: LEAST_BYTES });
        }
        self.recipe.set_unit(MOST_OBJECT).unwrap_or_else(|error| {
            broken(format_args!("objects of a cache have the length of the longest unit: {error}"))
        });
        let built = self.recipe.compressor(&self.compressor)?;
        let is_zstd = built.compressor.name() == "zstd";
        let dictionaries = match self.dictionaries {
            Some(true) if !is_zstd => {
                return Err(BuildError::NotZstd { compressor: built.key });
            }
            Some(on) => on,
            None => is_zstd && self.background,
        };
        let pool = Pool::new(&self.recipe, &self.zpool, bytes)?;
        let allowance = Arc::new(Allowance::new(allowance(bytes)));
        let codecs = Codecs::new(&built.compressor, allowance);
        let shards = shards(bytes);
        let engine = Arc::new(Engine::new(Values::new(pool, codecs), shards, self.listener));
        let background = if self.background {
            let dictionaries = dictionaries.then_some(built.key);
            Some(Background::start(&engine, Plan { pause: self.pause, dictionaries })?)
        } else {
            None
        };
        Ok(Cache::new(engine, background))
    }
}

fn shards(max_bytes: usize) -> usize {
    let most = (max_bytes / SHARD_BYTES).clamp(1, MOST_SHARDS);
    1 << most.ilog2()
}

/// Sets a provider that keeps few pages warm.
#[cfg(all(target_os = "linux", not(miri)))]
fn set_default_pages(recipe: &mut Recipe) {
    recipe.set_pages_of(|bytes| {
        let options =
            zpool_pages::MmapOptions::new().cache_pages(crate::engine::WARM_PAGES).page_size(bytes);
        Ok(Arc::new(zpool_pages::MmapPages::with_options(options)?))
    });
}

/// Elsewhere the default keeps no page warm.
#[cfg(not(all(target_os = "linux", not(miri))))]
fn set_default_pages(_recipe: &mut Recipe) {}
