//! One round: a store and everything that its threads share.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use compressors::{AcompEngine, CompressorError};
use zpool_api::{PageError, PageProvider, ZpoolError};
use zpool_base::sync::test_rng::Rng;
use zpool_pages::{FailingPages, HeapPages};
use zswap_core::device::{FileSwapDevice, MemorySwapDevice, PageDevice, SwapDevice};
use zswap_core::{AreaSettings, BuildError, SwapEntry, Zswap, ZswapBuilder};

use crate::action::{Marks, Tally};
use crate::background::Background;
use crate::clock::Clock;
use crate::codec::{self, Watch};
use crate::config::{Config, Device};
use crate::device::{Fault, Faults, TortureDevice};
use crate::finding::{Findings, lock};
use crate::fullness;
use crate::guards::{self, Guards};
use crate::page_device::TorturePages;
use crate::panics::Panics;
use crate::rules::{Facts, Rule, Start};

/// A round ends early after this many operations of one thread, to bound its log.
pub const MOST_OPS: usize = 300_000;

/// The area that has pools of its own in half of the rounds: that of odd keys.
pub const OWN_AREA: u8 = 1;

/// The value of [`Run::doing`] for an idle thread.
pub const IDLE: u64 = u64::MAX;

/// What all rounds of a run share.
#[derive(Debug)]
pub struct Run {
    /// The clock that orders events.
    pub clock: Arc<Clock>,
    /// Counts of actions.
    pub tally: Arc<Tally>,
    /// The findings.
    pub findings: Arc<Findings>,
    /// Allowed refusals, by rule.
    pub refusals: [AtomicU64; Rule::ALL.len()],
    /// Worker threads for batches.
    pub engine: Arc<AcompEngine>,
    /// What each thread is doing, for the watchdog: an action's number and the stamp of its start.
    pub doing: Box<[AtomicU64]>,
    /// Operations on keys judged so far.
    pub judged: AtomicU64,
}

impl Run {
    /// Counts an allowed refusal.
    pub fn count(&self, rule: Rule) {
        self.refusals[rule as usize].fetch_add(1, Ordering::SeqCst);
    }
}

/// Whether writeback is off. While it is being switched, it counts as off.
#[derive(Debug, Default)]
pub struct Writeback {
    off: AtomicBool,
    /// A stamp that was taken after writeback was last switched on.
    on: AtomicU64,
    switch: Mutex<()>,
}

impl Writeback {
    /// Switches writeback.
    pub fn set(&self, store: &Zswap, on: bool, clock: &Clock) {
        let _one_at_a_time = lock(&self.switch);
        if !on {
            self.off.store(true, Ordering::SeqCst);
        }
        store.set_writeback_enabled(on);
        if on {
            self.on.fetch_max(clock.stamp(), Ordering::SeqCst);
            self.off.store(false, Ordering::SeqCst);
        }
    }

    /// Returns whether writeback may have been off at some moment since a stamp.
    pub fn was_off_since(&self, stamp: u64) -> bool {
        self.off.load(Ordering::SeqCst) || self.on.load(Ordering::SeqCst) >= stamp
    }
}

/// The limits of a store, which change during a round.
#[derive(Debug)]
pub struct Limits {
    /// The limits that the store started with: on the pools, and on everything. `None` for no limit.
    pub first: (Option<usize>, Option<usize>),
    highest: (AtomicUsize, AtomicUsize),
}

impl Limits {
    fn new(pools: Option<usize>, all: Option<usize>) -> Self {
        let of = |limit: Option<usize>| AtomicUsize::new(limit.unwrap_or(usize::MAX));
        Limits { first: (pools, all), highest: (of(pools), of(all)) }
    }

    /// Announces a limit on the pools, before it is set.
    pub fn will_be(&self, pools: Option<usize>) {
        self.highest.0.fetch_max(pools.unwrap_or(usize::MAX), Ordering::SeqCst);
    }

    /// Announces a limit on everything, before it is set.
    pub fn will_be_in_all(&self, all: Option<usize>) {
        self.highest.1.fetch_max(all.unwrap_or(usize::MAX), Ordering::SeqCst);
    }

    fn highest(&self) -> (usize, usize) {
        (self.highest.0.load(Ordering::SeqCst), self.highest.1.load(Ordering::SeqCst))
    }
}

/// A file that is deleted on drop.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The page providers of a round's pools.
#[derive(Debug, Default)]
pub struct Providers(pub Mutex<Vec<Arc<FailingPages>>>);

impl Providers {
    fn make(
        &self,
        page_size: usize,
        heap: bool,
        findings: &Findings,
    ) -> Result<Arc<FailingPages>, PageError> {
        let inner: Arc<dyn PageProvider> =
            if heap { Arc::new(HeapPages::with_page_size(page_size)?) } else { mapped(page_size)? };
        let pages = Arc::new(FailingPages::new(inner));
        self.check_those_gone(findings);
        lock(&self.0).push(pages.clone());
        Ok(pages)
    }

    /// Makes one of the next page requests fail.
    pub fn fail_soon(&self, rng: &mut Rng) {
        let all = lock(&self.0);
        let newest = all.len().saturating_sub(1);
        let at = if rng.below(2) == 0 { newest } else { rng.below(all.len().max(1)) };
        if let Some(pages) = all.get(at) {
            pages.fail_call(1 + rng.below(4) as u64);
        }
    }

    /// Checks that pools that were dropped have returned all their pages, and forgets their providers.
    pub fn check_those_gone(&self, findings: &Findings) {
        lock(&self.0).retain(|pages| {
            if Arc::strong_count(pages) > 1 {
                return true;
            }
            if pages.pages_out() > 0 {
                let what = format!("a pool that is gone has kept {} pages", pages.pages_out());
                findings.report("pages leaked", what);
            }
            false
        });
    }
}

#[cfg(target_os = "linux")]
fn mapped(page_size: usize) -> Result<Arc<dyn PageProvider>, PageError> {
    let options = zpool_pages::MmapOptions::new().page_size(page_size);
    Ok(Arc::new(zpool_pages::MmapPages::with_options(options)?))
}

#[cfg(not(target_os = "linux"))]
fn mapped(page_size: usize) -> Result<Arc<dyn PageProvider>, PageError> {
    Ok(Arc::new(HeapPages::with_page_size(page_size)?))
}

/// A store and everything around it. `Sync`.
#[derive(Debug)]
pub struct Round<'a> {
    /// What all rounds share.
    pub run: &'a Run,
    /// The round's configuration.
    pub config: Config,
    /// The store.
    pub store: Arc<Zswap>,
    /// The store's device.
    pub device: Option<Arc<TortureDevice>>,
    /// The device of pages below it, if there is one.
    pub pages: Option<Arc<TorturePages>>,
    /// Set when all threads but one have ended.
    pub at_rest: AtomicBool,
    /// Operations under way.
    pub marks: Arc<Marks>,
    /// Guards held on objects.
    pub guards: Arc<Guards>,
    /// The page providers of the store's pools.
    pub providers: Arc<Providers>,
    /// The store's background threads.
    pub background: Mutex<Vec<Background>>,
    /// A stamp below every version of the round.
    pub base: u64,
    /// When the round began.
    pub began: Start,
    /// Panics of the store's codecs.
    pub codec_panics: Arc<Panics>,
    /// Panics of the store's backends.
    pub backend_panics: Arc<Panics>,
    /// Whether writeback is off.
    pub writeback: Writeback,
    /// The store's limits.
    pub limits: Limits,
    /// Set to make threads stop.
    pub stop: AtomicBool,
    /// The number of threads.
    pub threads: usize,
    _file: Option<Scratch>,
}

impl<'a> Round<'a> {
    /// Builds the store and everything around it.
    ///
    /// # Errors
    /// Returns, in words, why the store could not be built.
    pub fn new(run: &'a Run, config: Config, threads: usize) -> Result<Self, String> {
        let (clock, tally, findings) = (&run.clock, &run.tally, &run.findings);
        let marks = Arc::new(Marks::new(config.keys));
        let guards = Arc::new(Guards::new(config.guards, clock.clone(), findings.clone()));
        let codec_panics = Arc::new(Panics::new(config.codec_panics, clock.clone()));
        let backend_panics = Arc::new(Panics::new(config.backend_panics, clock.clone()));
        let watch = Watch {
            panics: codec_panics.clone(),
            clock: clock.clone(),
            marks: marks.clone(),
            tally: tally.clone(),
            pauses: config.pauses,
        };
        let (mut file, mut device, mut pages) = (None, None, None);
        let faults = Arc::new(Faults::new(clock.clone()));
        let inner: Option<Arc<dyn SwapDevice>> = match config.device {
            Device::None => None,
            Device::Memory => Some(Arc::new(MemorySwapDevice::with_geometry(config.geometry))),
            Device::Pages => {
                let slots = config.geometry.bytes() / zswap_core::PAGE_SIZE as u64;
                let made = TorturePages::new(slots, faults.clone(), findings.clone());
                let made = Arc::new(made);
                pages = Some(made.clone());
                Some(Arc::new(PageDevice(made)))
            }
            Device::File => {
                let name = format!("zswap-torture-{}-{:x}", std::process::id(), config.seed);
                let path = std::env::temp_dir().join(name);
                let made = FileSwapDevice::create_with_geometry(&path, config.geometry);
                let made = made.map_err(|error| format!("{}: {error:?}", path.display()))?;
                file = Some(Scratch(path));
                Some(Arc::new(made))
            }
        };
        if let Some(inner) = inner {
            device = Some(Arc::new(TortureDevice::new(
                inner,
                config.pause,
                fullness::in_hand(threads),
                config.faults.contains(&Fault::Corrupt),
                faults,
                marks.clone(),
                tally.clone(),
                findings.clone(),
            )));
        }
        let providers = Arc::new(Providers::default());
        let (made, heap, reported) = (providers.clone(), config.heap, findings.clone());
        let new_pages = move |page_size| -> Result<Arc<dyn PageProvider>, PageError> {
            Ok(made.make(page_size, heap, &reported)?)
        };
        let zpools = guards::registry(&guards, &backend_panics);
        let zpools = zpools.map_err(|error| error.to_string())?;
        let codecs = codec::registry(&Arc::new(watch)).map_err(|error| error.to_string())?;
        let builder = || {
            let mut builder = Zswap::builder()
                .zpool_registry(zpools.clone())
                .compressor_registry(codecs.clone())
                .unit(config.unit)
                .pages_of(new_pages.clone())
                .zpool(config.zpools[0])
                .compressor(config.codecs[0])
                .checksums(config.checksums)
                .store_incompressible(!config.refuse_incompressible)
                .promotion(config.promotion)
                .accept_threshold_percent(config.accept_percent);
            if let Some(limit) = config.limit {
                builder = builder.max_pool_bytes(limit);
            }
            if let Some(device) = &device {
                builder = builder.swap_device(device.clone());
            }
            if config.engine {
                builder = builder.acomp(run.engine.clone());
            }
            builder
        };
        let began = Start { stamp: clock.stamp(), at: Instant::now() };
        let panicked = || codec_panics.since(began.stamp) || backend_panics.since(began.stamp);
        let build = |builder: &dyn Fn() -> ZswapBuilder| loop {
            match builder().build() {
                // An ordered panic; the next attempt may succeed.
                Err(
                    BuildError::Panicked { .. }
                    | BuildError::Zpool(ZpoolError::Panicked { .. })
                    | BuildError::Compressor(CompressorError::Panicked { .. }),
                ) if panicked() => {}
                built => break built,
            }
        };
        let mut max_bytes = None;
        if let Some(beyond) = config.beyond_empty {
            // `max_bytes` may not be below the limit on the pools. Build with the lowest value first:
            // the error says how much an empty store needs.
            let least = config.limit.unwrap_or(1);
            let needed = match build(&|| builder().max_bytes(least)) {
                Err(BuildError::LimitTooSmall { limit: "max_bytes", needed, .. }) => needed,
                Ok(_) => least,
                Err(error) => return Err(error.to_string()),
            };
            max_bytes = Some(needed.max(least) + beyond);
        }
        let store = build(&|| match max_bytes {
            Some(bytes) => builder().max_bytes(bytes),
            None => builder(),
        });
        let store = store.map_err(|error| error.to_string())?;
        let own_area = loop {
            let Some(own) = config.own_area else { break Ok(()) };
            let pick = |all: &[&'static str]| if own.last { all[all.len() - 1] } else { all[0] };
            let mut settings = AreaSettings::default()
                .zpool(pick(&config.zpools))
                .compressor(pick(&config.codecs))
                .protected_pool_bytes(own.protected);
            settings.max_pool_bytes = own.limit;
            match store.add_area(OWN_AREA, settings) {
                Err(
                    BuildError::Panicked { .. }
                    | BuildError::Zpool(ZpoolError::Panicked { .. })
                    | BuildError::Compressor(CompressorError::Panicked { .. }),
                ) if panicked() => {}
                // The limit on everything was drawn for a store without this area.
                Err(BuildError::LimitTooSmall { .. }) if max_bytes.is_some() => break Ok(()),
                added => break added,
            }
        };
        own_area.map_err(|error| error.to_string())?;
        let limits = Limits::new(config.limit, max_bytes);
        Ok(Round {
            run,
            config,
            store: Arc::new(store),
            began,
            codec_panics,
            backend_panics,
            writeback: Writeback::default(),
            limits,
            device,
            pages,
            at_rest: AtomicBool::new(false),
            marks,
            guards,
            providers,
            background: Mutex::default(),
            base: clock.last(),
            stop: AtomicBool::new(false),
            threads,
            _file: file,
        })
    }

    /// Returns the facts that the rules depend on, for a call that is over.
    pub fn facts(&self, start: Start) -> Facts<'_> {
        Facts {
            config: &self.config,
            device: self.device.as_deref(),
            start,
            threads: self.threads,
            codec: &self.codec_panics,
            backend: &self.backend_panics,
            writeback_was_off: self.writeback.was_off_since(start.stamp),
            highest: self.limits.highest(),
            on_device: self.at_rest.load(Ordering::SeqCst).then(|| self.on_device()),
        }
    }

    /// Returns the number of pages on the device, and the bytes that they take there.
    fn on_device(&self) -> (usize, usize) {
        let stats = self.store.stats();
        (stats.device_pages, usize::try_from(stats.device_live_bytes).unwrap_or(usize::MAX))
    }

    /// Returns the entry of a key. Even and odd keys are in different areas.
    ///
    /// # Panics
    /// If the offset of `key` does not fit in an entry, which no key of the round causes.
    pub fn entry(&self, key: u32) -> SwapEntry {
        let offset = u64::from(key >> 1) * self.config.stride;
        let entry = SwapEntry::new((key & 1) as u8, offset);
        #[expect(clippy::expect_used, reason = "4096 keys times the largest stride are below 2^56")]
        entry.expect("the offset of a key is in range")
    }

    /// Returns the key of an entry. None if it is not the entry of any key.
    pub fn key_of(&self, entry: SwapEntry) -> Option<u32> {
        let half = u32::try_from(entry.offset() / self.config.stride).ok()?;
        let key = half.checked_mul(2)? + u32::from(entry.swap_type());
        let ours = (key as usize) < self.config.keys && self.entry(key) == entry;
        ours.then_some(key)
    }

    /// Returns whether threads must stop.
    pub fn is_over(&self) -> bool {
        self.stop.load(Ordering::SeqCst) || self.run.findings.any()
    }
}
