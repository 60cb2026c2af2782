//! The settings of a store, and the builder that makes a store from them.

use core::fmt;
use std::sync::Arc;

use compressors::{Acomp, CompletionsPool, Registry as CompressorRegistry, Scomp};
use zpool_api::{PageError, PageProvider, Registry as ZpoolRegistry};

use crate::area::Area;
use crate::departure::{CleanFilter, Departure, Listener};
#[cfg(feature = "zstd")]
use crate::dictionary::known::KnownDictionaries;
use crate::error::BuildError;
use crate::limits::Limits;
#[cfg(feature = "metrics")]
use crate::metrics::StoreMetrics;
use crate::moves::promotion::Promotion;
use crate::pool::kept_codecs::KeptCodecs;
use crate::pool::pools::Pools;
use crate::pool::recipe::PoolRecipe;
use crate::store::Settings;
use crate::{PAGE_SIZE, SwapEntry, Zswap, batch};
use zpage::device::SwapDevice;
use zpage::segments::Segments;
use zpage::{Recipe, builtin};
use zpool_base::contained::Contained;

/// Builds a [`Zswap`]. [`Zswap::builder`] returns one.
///
/// ```
/// use zswap_core::Zswap;
/// let unknown = Zswap::builder().zpool("zlab").build().unwrap_err();
/// assert!(unknown.to_string().contains("zbud"), "an unknown name lists the known ones");
/// ```
#[derive(Clone)]
#[must_use = "a builder builds nothing until build() is called"]
pub struct ZswapBuilder {
    zpool: String,
    /// `None`: the default of the registry.
    compressor: Option<String>,
    recipe: Recipe,
    unit: usize,
    store_incompressible: bool,
    checksums: bool,
    max_pool_bytes: Option<usize>,
    max_bytes: Option<usize>,
    accept_threshold_percent: u8,
    device: Option<Contained<Arc<dyn SwapDevice>>>,
    #[cfg(feature = "encrypt")]
    encrypt: bool,
    writeback_enabled: bool,
    promotion: Promotion,
    listener: Option<Contained<Listener>>,
    clean_filter: Option<Contained<CleanFilter>>,
    in_fault_handler: bool,
    acomp: Contained<Arc<dyn Acomp>>,
    #[cfg(feature = "metrics")]
    metrics: Option<String>,
}

impl ZswapBuilder {
    pub(crate) fn new() -> Self {
        ZswapBuilder {
            zpool: builtin::DEFAULT_ZPOOL.to_owned(),
            compressor: None,
            recipe: Recipe::builtin(),
            unit: PAGE_SIZE,
            store_incompressible: true,
            checksums: false,
            max_pool_bytes: None,
            max_bytes: None,
            accept_threshold_percent: 100,
            device: None,
            #[cfg(feature = "encrypt")]
            encrypt: false,
            writeback_enabled: true,
            promotion: Promotion::default(),
            listener: None,
            clean_filter: None,
            in_fault_handler: false,
            acomp: Contained::new(Arc::new(Scomp)),
            #[cfg(feature = "metrics")]
            metrics: None,
        }
    }

    /// Chooses the backend by name. Default: `zsmalloc`, or `zbud` if the feature `zsmalloc` is off.
    pub fn zpool(mut self, name: &str) -> Self {
        name.clone_into(&mut self.zpool);
        self
    }

    /// Chooses the compressor by spec, such as `zstd:level=6`. Default: [`builtin::default_compressor`], which
    /// depends on the processor; `lz4` if the registry has `lz4` but not that one.
    pub fn compressor(mut self, spec: &str) -> Self {
        self.compressor = Some(spec.to_owned());
        self
    }

    /// Sets the registry in which the store looks up backends by name. Default: [`builtin::zpools`].
    ///
    /// ```
    /// # if cfg!(not(feature = "zbud")) { return Ok(()); }
    /// use zswap_core::{Zswap, builtin};
    ///
    /// let mut zpools = builtin::zpools();
    /// let built_in = builtin::zpools();
    /// zpools.register("mine", move |config| built_in.build("zbud", config))?;
    /// let store = Zswap::builder().zpool_registry(zpools).zpool("mine").build()?;
    /// # let _ = store;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn zpool_registry(mut self, registry: ZpoolRegistry) -> Self {
        self.recipe.zpools = registry;
        self
    }

    /// Sets the registry in which the store looks up compressors by name. Default: [`builtin::compressors`].
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zswap_core::{Zswap, builtin};
    ///
    /// let mut registry = builtin::compressors();
    /// registry.register("mine", |_spec| Ok(Arc::new(compressors::Null)))?;
    /// let store = Zswap::builder().compressor_registry(registry).compressor("mine").build()?;
    /// # let _ = store;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn compressor_registry(mut self, registry: CompressorRegistry) -> Self {
        self.recipe.compressors = registry;
        self
    }

    /// Sets the function that makes a page provider for each new pool. By default, pools use `MmapPages` on
    /// Linux and `HeapPages` elsewhere.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zpool_pages::HeapPages;
    /// use zswap_core::Zswap;
    ///
    /// let store = Zswap::builder().pages(|| Ok(Arc::new(HeapPages::new()))).build()?;
    /// # let _ = store;
    /// # Ok::<(), zswap_core::BuildError>(())
    /// ```
    pub fn pages<F>(mut self, make: F) -> Self
    where
        F: Fn() -> Result<Arc<dyn PageProvider>, PageError> + Send + Sync + 'static,
    {
        self.recipe.set_pages(make);
        self
    }

    /// Sets the function that makes page providers, as [`ZswapBuilder::pages`] does, for any unit. It is called with the
    /// wanted page size in bytes: 4096, or the unit if the backend needs pages as large as that.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zpool_pages::HeapPages;
    /// use zswap_core::Zswap;
    ///
    /// let pages = |bytes| Ok(Arc::new(HeapPages::with_page_size(bytes)?) as Arc<_>);
    /// let store = Zswap::builder().unit(65536).zpool("zbud").pages_of(pages).build()?;
    /// # let _ = store;
    /// # Ok::<(), zswap_core::BuildError>(())
    /// ```
    pub fn pages_of<F>(mut self, make: F) -> Self
    where
        F: Fn(usize) -> Result<Arc<dyn PageProvider>, PageError> + Send + Sync + 'static,
    {
        self.recipe.set_pages_of(make);
        self
    }

    /// Sets what happens to a page that does not get smaller: with `true`, the default, it is kept
    /// uncompressed; with `false`, it is refused with [`crate::StoreError::Incompressible`].
    pub fn store_incompressible(mut self, keep: bool) -> Self {
        self.store_incompressible = keep;
        self
    }

    /// Turns checksums on or off; they are off by default. With checksums, the store notes the CRC-32 of each
    /// page when the page is stored, and checks the page whenever it is read from a pool or the device. A load
    /// of a changed page fails with [`crate::LoadError::Corrupt`]. Checksums cost 4 bytes for each entry, and a
    /// pass over the page at each store and load. Same-filled pages have no checksum.
    pub fn checksums(mut self, keep: bool) -> Self {
        self.checksums = keep;
        self
    }

    /// Sets the length in bytes of the pages that the store keeps: 4096 (the default), 8192, 16384, 32768 or 65536.
    /// Larger pages compress better, and take longer. [`Zswap::store_unit`] and its siblings take slices of this
    /// length; those with a [`Page`](crate::Page) are for 4096 bytes. Wherever this crate counts pages of a store, it
    /// counts units; the pages of a backend are another matter ([`ZpoolStats::page_size`](zpool_api::ZpoolStats)).
    ///
    /// zbud and z3fold get pages of this length from the page provider. If [`ZswapBuilder::pages`] gives others, their
    /// objects are too small, and `build` fails: use [`ZswapBuilder::pages_of`].
    ///
    /// ```
    /// use zswap_core::{SwapEntry, Zswap};
    ///
    /// let store = Zswap::builder().unit(16384).build()?;
    /// let (entry, mut back) = (SwapEntry::new(0, 7)?, [0; 16384]);
    /// store.store_unit(entry, &[b'a'; 16384])?;
    /// store.load_unit(entry, &mut back)?;
    /// assert_eq!(back, [b'a'; 16384]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn unit(mut self, bytes: usize) -> Self {
        self.unit = bytes;
        self
    }

    /// Limits the bytes of the pool pages that hold objects. Default: no limit.
    /// [`Zswap::set_max_pool_bytes`] changes it later.
    ///
    /// At the limit, a store makes room: it compacts its pools and, if there is a device, writes pages back.
    /// It refuses a page only if it can free no memory for it;
    /// [`StoreError::PoolLimit`](crate::StoreError::PoolLimit) then gives the reason. An object that fits
    /// into a page already in use is stored even at the limit. Each thread that stores a page may exceed the
    /// limit by a few pages for a moment. Warm pages, the few empty pages that a pool keeps for its next
    /// objects, are not counted. If the limit is less than a page, only same-filled pages stay in memory. Other
    /// pages stay only until a later store needs room; then they go to the device.
    pub fn max_pool_bytes(mut self, bytes: usize) -> Self {
        self.max_pool_bytes = Some(bytes);
        self
    }

    /// Limits the bytes of everything that the store keeps in memory: pools with their warm pages, index,
    /// patterns, contexts and device tables, as
    /// [`ZswapStats::memory_bytes`](crate::ZswapStats::memory_bytes) counts them. Default: no limit.
    /// [`Zswap::set_max_bytes`] changes it later.
    ///
    /// The pools may use what the rest leaves: as index, patterns, contexts and tables grow, the pools get
    /// less. When these alone reach the limit, the store refuses pages for new entries with
    /// [`StoreError::MemoryLimit`](crate::StoreError::MemoryLimit).
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// Sets how far the pools must shrink before the store grows again after it has refused a page: to
    /// `percent` percent of the limit (1 to 100). Until then, the store puts new pages only into free room
    /// inside its pools. The setting takes effect only if there is no device, or writeback is switched off.
    /// Default: 100, so the store need not shrink.
    pub fn accept_threshold_percent(mut self, percent: u8) -> Self {
        self.accept_threshold_percent = percent;
        self
    }

    /// Sets when a page that is loaded from the device comes back into a pool. Default:
    /// [`Promotion::SecondLoad`].
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zswap_core::device::MemorySwapDevice;
    /// use zswap_core::{Promotion, SwapEntry, Zswap};
    ///
    /// let device = Arc::new(MemorySwapDevice::new(1000));
    /// let store = Zswap::builder().swap_device(device).promotion(Promotion::Always).build()?;
    /// let (entry, mut page) = (SwapEntry::new(0, 1)?, core::array::from_fn(|i| (i % 251) as u8));
    /// store.store(entry, &page)?;
    /// store.shrink(1)?;
    /// store.load(entry, &mut page)?;
    /// assert_eq!((store.stats().promoted_pages, store.stats().device_pages), (1, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn promotion(mut self, promotion: Promotion) -> Self {
        self.promotion = promotion;
        self
    }

    /// Sets the device to write pages back to. Default: none.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zswap_core::device::MemorySwapDevice;
    /// use zswap_core::{SwapEntry, Zswap};
    ///
    /// let device = Arc::new(MemorySwapDevice::new(1000));
    /// let store = Zswap::builder().swap_device(device).build()?;
    /// let page = core::array::from_fn(|i| (i % 251) as u8);
    /// store.store(SwapEntry::new(0, 1)?, &page)?;
    /// assert_eq!(store.shrink(10)?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn swap_device(mut self, device: Arc<dyn SwapDevice>) -> Self {
        self.device = Some(Contained::new(device));
        self
    }

    /// Sets whether the store encrypts what it writes to the device. Default: no. Without a device this has no
    /// effect.
    ///
    /// What is written back is memory, with its secrets. With this setting, somebody who reads the device's
    /// storage learns no page and no entry. Somebody who changes it, or puts back what was there earlier, makes
    /// loads fail with [`DeviceError::Corrupt`](crate::device::DeviceError::Corrupt). The key is random,
    /// belongs to this store and is never written. So nobody can read what the store leaves on the device when it
    /// is dropped. [`Segments::attach_encrypted`] says where the key is kept and which cipher is
    /// used.
    ///
    /// # What it does not hide
    /// * On the device: which bytes of which segments are written, read and discarded, and when; and so how long
    ///   compressed pages are. A length says something about what its page holds.
    /// * In memory: pages are as they are without this setting, also in core dumps and in the system's own swap.
    ///
    /// # Cost
    /// 12 bytes on the device for each page and for each segment. For each page that is written, loaded from
    /// the device or moved by cleaning: half of the time in which `lz4` decompresses a page of 1600 compressed
    /// bytes, on a processor with AES instructions. With ChaCha20-Poly1305, which is used on others, it took
    /// 2.5 times as long as `lz4` there.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zswap_core::device::{MemorySwapDevice, SwapDevice};
    /// use zswap_core::{SwapEntry, Zswap};
    ///
    /// let device = Arc::new(MemorySwapDevice::new(1000));
    /// let store = Zswap::builder().swap_device(device.clone()).encrypt(true).build()?;
    /// let (entry, mut page) = (SwapEntry::new(0, 1)?, [0; 4096]);
    /// page[..16].copy_from_slice(b"a password: 1234");
    /// store.store(entry, &page)?;
    /// store.shrink(1)?;
    ///
    /// let mut written = vec![0; device.bytes()];
    /// device.read(0, 0, &mut written)?;
    /// assert!(!written.windows(8).any(|bytes| bytes == b"password"));
    /// store.load(entry, &mut page)?;
    /// assert!(page.starts_with(b"a password"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "encrypt")]
    pub fn encrypt(mut self, encrypt: bool) -> Self {
        self.encrypt = encrypt;
        self
    }

    /// Sets the function that is called when a page leaves the pools or the store ([`Departure`]). Default: none.
    ///
    /// It is called after the fact, on the thread that made the page leave, with no lock held, and may call the
    /// store. By the time it is called, another thread may have stored a newer page. A page that is overwritten
    /// does not count: its entry holds a page all the time. If the function panics, the panic ends there and is
    /// counted ([`listener_panics`](crate::ZswapStats::listener_panics)).
    ///
    /// ```
    /// use std::sync::{Arc, Mutex};
    /// use zswap_core::{Departure, SwapEntry, Zswap};
    ///
    /// let left = Arc::new(Mutex::new(Vec::new()));
    /// let heard = left.clone();
    /// let store = Zswap::builder()
    ///     .listener(move |entry, departure| heard.lock().unwrap().push((entry, departure)))
    ///     .build()?;
    /// let entry = SwapEntry::new(0, 7)?;
    /// store.store(entry, &[1; zswap_core::PAGE_SIZE])?;
    /// store.invalidate(entry);
    /// assert_eq!(*left.lock().unwrap(), [(entry, Departure::Invalidated)]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn listener(
        mut self,
        listener: impl Fn(SwapEntry, Departure) + Send + Sync + 'static,
    ) -> Self {
        self.listener = Some(Contained::new(Arc::new(listener)));
        self
    }

    /// Sets the function that says whether a page is clean: whether the program can do without it, because it has
    /// the same bytes elsewhere. Default: no page is clean.
    ///
    /// When the store makes room or shrinks, it asks before it writes a page back. It drops a clean page instead;
    /// later loads of its entry return [`LoadError::NotFound`](crate::LoadError::NotFound). So a store without a
    /// device can make room, too, as can an area whose pages may not be written back. The answer may be used until
    /// the page is dropped: a program that answers yes and then changes its copy elsewhere must store the page
    /// again. A page that is stored while the filter is asked stays.
    ///
    /// The function is called with no lock held, on the thread that makes room. If it panics, the page is not
    /// clean, and the panic is counted ([`listener_panics`](crate::ZswapStats::listener_panics)). If it calls
    /// no page of an area clean, and its pages cannot be written back, then it is called again after a pause of up to
    /// 64 ms, and the area's pages are refused until then. A store at its limit asks about its pages one after another until it has dropped
    /// some: if few of many pages are clean, this takes long.
    ///
    /// ```
    /// use zswap_core::{LoadError, SwapEntry, Zswap};
    ///
    /// // A cache of pages of a file: those with even offsets were not changed since they were read.
    /// let store = Zswap::builder().clean_filter(|entry| entry.offset() % 2 == 0).build()?;
    /// let (clean, dirty) = (SwapEntry::new(0, 2)?, SwapEntry::new(0, 3)?);
    /// let mut page = core::array::from_fn(|i| (i % 251) as u8);
    /// store.store(clean, &page)?;
    /// store.store(dirty, &page)?;
    /// assert_eq!(store.shrink(10)?, 1);
    /// store.load(dirty, &mut page)?;
    /// assert_eq!(store.load(clean, &mut page), Err(LoadError::NotFound { entry: clean }));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn clean_filter(
        mut self,
        is_clean: impl Fn(SwapEntry) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.clean_filter = Some(Contained::new(Arc::new(is_clean)));
        self
    }

    /// Sets whether the store is called by a handler of page faults. Default: no.
    ///
    /// Such a handler runs on the thread that faults, in the middle of whatever that thread does: it may be storing
    /// a page of the memory that faults into another store, or be about to end. With this setting, the store's
    /// compression contexts may be taken by a thread that already holds a context of a store without it, or whose
    /// thread-locals are gone, once. So [`Zswap::store`], [`Zswap::load`], [`Zswap::take`] and
    /// [`Zswap::invalidate`] do not fail because of what the interrupted call holds. A thread that holds a context of
    /// a store with this setting and asks for any context, of any store, gets an error `Reentrant` as without it.
    ///
    /// What the handler must see to:
    /// * The memory that faults holds neither the store nor what the store uses: its codecs, its backends, its
    ///   device, and the allocator. A fault in these can find locks held that its handling needs.
    /// * If the store's device keeps its pages in another store, then that store has this setting, too.
    /// * In debug builds, the handler sets the ranks of the interrupted call's locks aside
    ///   (`zpool_base::lockdep::interrupted`).
    ///
    /// ```
    /// use zswap_core::{SwapEntry, Zswap};
    ///
    /// let store = Zswap::builder().compressor("lz4").in_fault_handler(true).build()?;
    /// store.store(SwapEntry::new(0, 1)?, &[7; zswap_core::PAGE_SIZE])?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn in_fault_handler(mut self, in_fault_handler: bool) -> Self {
        self.in_fault_handler = in_fault_handler;
        self
    }

    /// Sets whether pages may be written back, if there is a device. Default: yes.
    /// [`Zswap::set_writeback_enabled`] changes it later.
    pub fn writeback_enabled(mut self, enabled: bool) -> Self {
        self.writeback_enabled = enabled;
        self
    }

    /// Sets the [`Acomp`](compressors::Acomp) that compresses the pages of [`Zswap::store_batch`] and
    /// decompresses the pages of [`Zswap::load_batch`]. A [`compressors::AcompEngine`] uses worker threads;
    /// several stores may share one engine. Default: [`compressors::Scomp`], which handles one page after
    /// another on the calling thread.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use compressors::AcompEngine;
    /// use zswap_core::Zswap;
    ///
    /// // Two workers; 64 requests may wait for them.
    /// let engine = Arc::new(AcompEngine::new(2, 64)?);
    /// let store = Zswap::builder().acomp(engine).build()?;
    /// # let _ = store;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn acomp(mut self, acomp: Arc<dyn Acomp>) -> Self {
        self.acomp = Contained::new(acomp);
        self
    }

    /// Reports to the recorder of the `metrics` crate how long stores and loads take, and the figures that
    /// [`Zswap::publish_metrics`] publishes. `store` is the name under which the store reports. Install the
    /// recorder before building the store. With this setting, each store and load reads the clock twice.
    /// Default: no reports.
    #[cfg(feature = "metrics")]
    pub fn metrics(mut self, store: &str) -> Self {
        self.metrics = Some(store.to_owned());
        self
    }

    /// Builds the store.
    ///
    /// # Errors
    /// * [`BuildError::Zpool`] or [`BuildError::Compressor`] if a name is unknown (the message then lists the
    ///   known names), or if the backend or the compressor cannot be built. [`BuildError::Compressor`] also
    ///   if there is no memory for the completion queues of batches, or if `max_bytes` is set and the first
    ///   compression context cannot be made.
    /// * [`BuildError::ObjectsTooSmall`] if the backend cannot hold a whole page.
    /// * [`BuildError::Pages`] if the page provider cannot be built.
    /// * [`BuildError::Panicked`] if the backend, the compressor or the page provider panics while it is built.
    /// * [`BuildError::Contradiction`] if a setting is out of range or settings contradict each other;
    ///   [`BuildError::LimitTooSmall`] if an empty store with one page would exceed `max_bytes`.
    /// * [`BuildError::Device`] if the device cannot be attached, for example because another store has it, or the
    ///   system refuses the key of an encrypted one.
    /// * [`BuildError::Reentrant`] if `max_bytes` is set and this thread is ending or holds a compression
    ///   context that this store's do not go with ([`in_fault_handler`](Self::in_fault_handler)). A thread holds one while a store calls a codec, and during some of a store's calls to a backend.
    pub fn build(self) -> Result<Zswap, BuildError> {
        self.check()?;
        let mut recipe = self.recipe;
        recipe.set_unit(self.unit)?;
        let percent = self.accept_threshold_percent;
        let limits = Limits::new(self.max_pool_bytes, self.max_bytes, percent);
        let recipe = PoolRecipe {
            recipe,
            codecs: KeptCodecs::default(),
            #[cfg(feature = "zstd")]
            dictionaries: KnownDictionaries::default(),
            in_fault_handler: self.in_fault_handler,
            unit: self.unit,
        };
        let compressor = self.compressor.as_deref().unwrap_or(recipe.recipe.default_compressor());
        let part = limits.part(None);
        let pool = recipe.pool(&self.zpool, compressor, &part)?;
        if self.max_bytes.is_some() {
            pool.codec.prepare().map_err(BuildError::of_context)?;
        }
        let attach: fn(_, _) -> _ = Segments::attach_for;
        #[cfg(feature = "encrypt")]
        let attach = if self.encrypt { Segments::attach_encrypted_for } else { attach };
        let settings = Settings {
            store_incompressible: self.store_incompressible,
            checksums: self.checksums,
            limits,
            segments: self
                .device
                .as_deref()
                .cloned()
                .map(|device| attach(device, self.unit))
                .transpose()?,
            writeback_enabled: self.writeback_enabled,
            listener: self.listener,
            clean_filter: self.clean_filter,
            acomp: self.acomp,
            completions: CompletionsPool::new(batch::most_batches(), batch::REQUESTS)?,
            #[cfg(feature = "metrics")]
            metrics: self.metrics.map(StoreMetrics::new),
        };
        let shared = Box::new(Area::new(None, Pools::new(pool), part, self.promotion));
        let store = Zswap::from_parts(shared, recipe, settings);
        store.check_max_bytes(self.max_bytes, 0)?;
        store.refresh_limits();
        Ok(store)
    }

    fn check(&self) -> Result<(), BuildError> {
        let percent = self.accept_threshold_percent;
        if !(1..=100).contains(&percent) {
            return Err(BuildError::Contradiction(format!(
                "accept_threshold_percent is {percent}; give a share of the limit, 1 to 100 percent"
            )));
        }
        match (self.max_pool_bytes, self.max_bytes) {
            (Some(pools), Some(all)) if pools > all => Err(BuildError::Contradiction(format!(
                "max_pool_bytes of {pools} bytes exceeds max_bytes of {all}, which limits the pools, \
                 too; lower the former or raise the latter"
            ))),
            _ => Ok(()),
        }
    }
}

impl Zswap {
    /// Starts building a store.
    ///
    /// ```
    /// use zswap_core::Zswap;
    ///
    /// let store = Zswap::builder().max_pool_bytes(64 << 20).checksums(true).build()?;
    /// assert!(store.is_empty());
    /// # Ok::<(), zswap_core::BuildError>(())
    /// ```
    pub fn builder() -> ZswapBuilder {
        ZswapBuilder::new()
    }
}

impl fmt::Debug for ZswapBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZswapBuilder")
            .field("zpool", &self.zpool)
            .field("compressor", &self.compressor)
            .field("zpools", &self.recipe.zpools)
            .field("store_incompressible", &self.store_incompressible)
            .finish_non_exhaustive()
    }
}
