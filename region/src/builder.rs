//! The settings of a region, and how it is built.

use std::sync::Arc;

use crate::backend::guard_pages::GuardPages;
use crate::backend::userfault::Userfault;
use crate::backend::{Backend, BackendKind};
use crate::clean::{CleanPages, Policy};
use crate::counters::Counters;
use crate::engine::{Engine, OnFull, Settings, blocks_for};
use crate::error::{BuildError, Chosen, LimitError};
use crate::evictor::Evictor;
use crate::limbo::{BLOCK, Limbo, SPARE_BLOCKS, Slots};
use crate::number::Number;
use crate::region::Region;
use crate::room::{LEAST, Room, least_resident, reserve, store_limit};
use crate::served::Served;
use crate::stage::{Stages, bytes_of_all};
use crate::streams::Streams;
use crate::sync::Mutex;
use crate::table::Table;
use crate::uffd::Refused;
use crate::{handler, registry, signals};
use zswap_core::{PAGE_SIZE, Zswap, ZswapBuilder, check_unit};

/// How often, and how far apart, a thread must be seen to block a signal.
const SIGNAL_CHECKS: u32 = 20;
const SIGNAL_PAUSE: core::time::Duration = core::time::Duration::from_millis(5);

/// Builds a [`Region`]. [`Region::builder`] returns one.
#[derive(Clone)]
#[must_use = "a builder builds nothing until build() is called"]
pub struct RegionBuilder {
    capacity: usize,
    budget: Option<usize>,
    resident: Option<usize>,
    store: ZswapBuilder,
    unit: usize,
    backend: Option<BackendKind>,
    clean: CleanPages,
    background: bool,
    dump: bool,
    check_signals: bool,
    settings: Settings,
}

impl Region {
    /// Returns a builder, which needs a capacity and at least one limit.
    pub fn builder() -> RegionBuilder {
        RegionBuilder::new()
    }
}

impl RegionBuilder {
    fn new() -> Self {
        RegionBuilder {
            capacity: 0,
            budget: None,
            resident: None,
            store: Zswap::builder(),
            unit: PAGE_SIZE,
            backend: None,
            clean: CleanPages::default(),
            background: false,
            dump: true,
            check_signals: true,
            settings: Settings {
                on_full: OnFull::default(),
                fault_around: true,
                limbo_percent: 12,
            },
        }
    }

    /// Sets the length in bytes, up to 8 TiB; it is rounded up to 16 pages. It costs address space; memory is taken for
    /// pages that are touched, and 4 bytes of tables for each of them.
    pub fn capacity(mut self, bytes: usize) -> Self {
        self.capacity = bytes;
        self
    }

    /// Sets the length in bytes of the region's pages: 4096 (the default), 8192, 16384, 32768 or 65536. It is what a fault
    /// brings and what is compressed at a time, whatever the store's builder says. Longer pages compress better, and
    /// neighbours come along; a touch costs more, and a page that is touched for the first time takes all its memory.
    pub fn unit(mut self, bytes: usize) -> Self {
        self.unit = bytes;
        self
    }

    /// Limits everything that the region takes, in bytes: resident pages, buffers, tables, and the store with its pools
    /// and contexts. If neither this nor compression leaves room for a page, [`RegionBuilder::on_full`] says what happens.
    ///
    /// With a swap device the store takes at most half of it, and writes the rest to the device.
    pub fn budget(mut self, bytes: usize) -> Self {
        self.budget = Some(bytes);
        self
    }

    /// Limits resident pages, the limbo and the buffers, in bytes. The store comes on top.
    pub fn resident_bytes(mut self, bytes: usize) -> Self {
        self.resident = Some(bytes);
        self
    }

    /// Sets how the store below is built: backend, compressor, device, and so on. With a budget, the region sets the
    /// store's `max_bytes`. Its codecs, backends, devices and callbacks run in the handler of faults, so they never touch
    /// the region's memory.
    pub fn store(mut self, store: ZswapBuilder) -> Self {
        self.store = store;
        self
    }

    /// Asks for one backend. By default it is [`BackendKind::Move`] where that works, else [`BackendKind::Guard`].
    pub fn backend(mut self, kind: BackendKind) -> Self {
        self.backend = Some(kind);
        self
    }

    /// Sets when a page that was only read keeps its compressed copy. Only [`BackendKind::Move`] can do that.
    pub fn clean_pages(mut self, clean: CleanPages) -> Self {
        self.clean = clean;
        self
    }

    /// Sets whether a thread evicts pages in the background, before faults have to. Default: false. On another processor
    /// the thread makes each of its system calls, and those of faults, interrupt the other one to flush translations. On a
    /// virtual machine with two processors an access took five times the processor time then, and the slowest ones did not
    /// become faster (docs/benchmarks.md). Measure before you switch it on.
    pub fn background(mut self, on: bool) -> Self {
        self.background = on;
        self
    }

    /// Sets whether a touch that continues a sequence of touches brings the next pages, too: 4, then 16. Default: true.
    pub fn fault_around(mut self, on: bool) -> Self {
        self.settings.fault_around = on;
        self
    }

    /// Sets the size of the limbo as a share of the resident pages, 1 to 50 percent: larger ones see more of the touches,
    /// and choose better what stays; smaller ones leave more pages mapped. Default: 12.
    pub fn limbo_percent(mut self, percent: u8) -> Self {
        self.settings.limbo_percent = percent.clamp(1, 50);
        self
    }

    /// Sets whether core dumps of the process contain the region's resident pages. Default: true.
    pub fn core_dump(mut self, on: bool) -> Self {
        self.dump = on;
        self
    }

    /// Sets whether `build` refuses if a thread blocks the signal of faults. Switch it off if such threads never touch the
    /// region. Default: true.
    pub fn check_signals(mut self, on: bool) -> Self {
        self.check_signals = on;
        self
    }

    /// Sets what a fault does when nothing makes room for its page. Default: [`OnFull::Abort`].
    pub fn on_full(mut self, on_full: OnFull) -> Self {
        self.settings.on_full = on_full;
        self
    }

    /// Builds the region, and installs the handlers of SIGBUS or SIGSEGV of this process.
    ///
    /// # Errors
    /// * [`BuildError::Capacity`], [`BuildError::NoLimit`], [`BuildError::Limit`]: the settings.
    /// * [`BuildError::Unsupported`] if the kernel, a seccomp filter or a sysctl forbids all backends that were tried. It
    ///   names the calls.
    /// * [`BuildError::SignalBlocked`], [`BuildError::Handlers`]: what this process does with signals.
    /// * [`BuildError::System`], [`BuildError::Store`] if memory, threads or the store cannot be had.
    ///
    /// # Safety
    /// From now on until the region is dropped, the program keeps the rules of the table on the
    /// [crate's front page](crate#what-a-program-may-do). After the region is dropped, nobody touches its memory.
    pub unsafe fn build(self) -> Result<Region, BuildError> {
        let unit = check_unit(self.unit).map_err(BuildError::Unit)?;
        let pages = self.capacity.div_ceil(unit).next_multiple_of(BLOCK);
        if pages == 0 || pages >= 1 << 31 || pages > isize::MAX as usize / unit {
            return Err(BuildError::Capacity { capacity: self.capacity });
        }
        if self.budget.is_none() && self.resident.is_none() {
            return Err(BuildError::NoLimit);
        }
        if zpool_base::mapping::system_page_size() != PAGE_SIZE {
            return Err(BuildError::Unsupported {
                why: "the system's pages are not of 4096 bytes".to_owned(),
            });
        }
        let system = |doing| move |source| BuildError::System { doing, source };
        let most_slots = blocks_for(pages, self.settings.limbo_percent) + SPARE_BLOCKS;
        let (backend, chosen) = self.choose(pages, most_slots * BLOCK)?;
        if self.check_signals {
            self.find_blocked_signal(chosen.kind)?;
        }

        let store = self.store.clone().unit(unit).in_fault_handler(true);
        let store = store.build().map_err(BuildError::Store)?;
        let store = Arc::new(store);
        let own_store_limit = store.max_bytes();
        let engine = Engine {
            table: Table::new(pages).map_err(system("mapping the table of pages"))?,
            slots: Slots::new(most_slots).map_err(system("mapping the table of slots"))?,
            limbo: Mutex::new(Limbo::new(most_slots)),
            backend,
            cold: Box::new(store.clone()),
            room: Room::new(self.resident, self.budget, self.background, unit),
            clean: Policy::new(self.clean),
            streams: Streams::default(),
            counters: Counters::default(),
            settings: self.settings,
            table_bytes: Number::new(0),
            staging_bytes: Number::new(0),
            pinned: Number::new(0),
            on_their_way: Number::new(0),
            freed: Number::new(0),
            cold_pages: Number::new(0),
            refusal: std::sync::Mutex::default(),
            grace: Number::new(0),
        };
        let limit = self.budget.into_iter().chain(self.resident).min().unwrap_or(usize::MAX);
        let stages = Stages::new(limit, unit, self.dump)
            .map_err(system("mapping the buffers of threads"))?;
        let served = Arc::new(Served::new(engine, stages, chosen.kind));
        drop(served.stage());
        self.check_limits(&served, &store)?;

        for signal in signals::OF_FAULTS.into_iter().filter(|signal| served.raises(*signal)) {
            handler::install(signal).map_err(|error| match error {
                Some(source) => {
                    BuildError::System { doing: "installing the handler of faults", source }
                }
                None => BuildError::Handlers { signal: name(signal) },
            })?;
        }
        let evictor = self.background.then(|| Evictor::start(&served)).transpose();
        let evictor = evictor.map_err(system("starting the evictor's thread"))?;
        let (start, len) = (served.engine.backend.base() as usize, served.len());
        // SAFETY: the region keeps `served` in an `Arc`, and removes it from the register before it drops it.
        let place = unsafe { registry::add(&served, start, len) };
        let region = Region::new(place, evictor, served, store, own_store_limit, chosen);
        region.apply_limits();
        Ok(region)
    }

    fn choose(&self, pages: usize, slots: usize) -> Result<(Box<dyn Backend>, Chosen), BuildError> {
        let moving = || {
            Userfault::new(pages, slots, self.unit, self.dump)
                .map(|backend| Box::new(backend) as Box<dyn Backend>)
        };
        let guard = || {
            GuardPages::new(pages, self.unit, self.dump)
                .map(|backend| Box::new(backend) as Box<dyn Backend>)
        };
        let chosen = |kind, why: String| Chosen { kind, why };
        match self.backend {
            Some(kind) => {
                let built = if kind == BackendKind::Move { moving() } else { guard() };
                let backend = built.map_err(|refused| unsupported(&[(kind, refused)]))?;
                Ok((backend, chosen(kind, "it was asked for".to_owned())))
            }
            None => match moving() {
                Ok(backend) => Ok((
                    backend,
                    chosen(BackendKind::Move, "it works here, and is the faster one".to_owned()),
                )),
                Err(first) => {
                    let why = explained(BackendKind::Move, &first);
                    let backend = guard().map_err(|second| {
                        unsupported(&[(BackendKind::Move, first), (BackendKind::Guard, second)])
                    })?;
                    Ok((backend, chosen(BackendKind::Guard, why)))
                }
            },
        }
    }

    fn find_blocked_signal(&self, kind: BackendKind) -> Result<(), BuildError> {
        let signal = if kind == BackendKind::Move { libc::SIGBUS } else { libc::SIGSEGV };
        let mut blocks = None;
        for _ in 0..SIGNAL_CHECKS {
            // Without /proc nothing can be checked, and the safety contract of `build` stands alone.
            blocks = signals::who_blocks(signal).unwrap_or(None);
            if blocks.is_none() {
                break;
            }
            // A thread that starts or ends blocks all signals for a moment.
            std::thread::sleep(SIGNAL_PAUSE);
        }
        blocks.map_or(Ok(()), |thread| {
            Err(BuildError::SignalBlocked { thread, signal: name(signal) })
        })
    }

    /// Checks the limits, and gives the store its share of the budget.
    fn check_limits(&self, served: &Served, store: &Zswap) -> Result<(), BuildError> {
        let too_small =
            |limit, bytes, needed| BuildError::Limit(LimitError { limit, bytes, needed });
        let least = |limit| least_resident(bytes_of_all(limit, self.unit), 0, self.unit);
        if let Some(bytes) = self.resident.filter(|bytes| *bytes < least(*bytes)) {
            return Err(too_small("resident_bytes", bytes, least(bytes)));
        }
        let Some(budget) = self.budget else { return Ok(()) };
        // A context of the codec, and a page of the pool, come on top of what is there before the first page.
        let needed = served.engine.room.beside()
            + bytes_of_all(budget, self.unit)
            + reserve(budget, self.unit)
            + 2 * LEAST * self.unit;
        if budget < needed {
            return Err(too_small("budget", budget, needed));
        }
        let limit = store_limit(Some(budget), self.unit, store.has_device(), store.max_bytes());
        store.set_max_bytes(limit).map_err(BuildError::Store)
    }
}

fn name(signal: libc::c_int) -> &'static str {
    if signal == libc::SIGBUS { "SIGBUS" } else { "SIGSEGV" }
}

fn unsupported(tried: &[(BackendKind, Refused)]) -> BuildError {
    let all: Vec<String> = tried.iter().map(|(kind, refused)| explained(*kind, refused)).collect();
    BuildError::Unsupported { why: all.join("; ") }
}

/// Returns what the system refused, and what that probably means.
fn explained(kind: BackendKind, refused: &Refused) -> String {
    let Refused { call, error } = refused;
    let means = match (kind, error.raw_os_error()) {
        (BackendKind::Move, Some(libc::EPERM)) => {
            "a seccomp filter, such as Docker's default one, forbids it, or the kernel is older than 5.11 and \
             vm.unprivileged_userfaultfd is 0"
        }
        (BackendKind::Move, Some(libc::EACCES)) => "a security module such as SELinux forbids it",
        (BackendKind::Move, Some(libc::ENOSYS)) => {
            "the kernel was built without CONFIG_USERFAULTFD, or a filter hides it"
        }
        (BackendKind::Move, Some(libc::EINVAL)) => "this needs Linux 6.8",
        (BackendKind::Guard, Some(libc::EINVAL)) => "this needs Linux 6.15",
        (_, Some(libc::ENOMEM)) => {
            "there is no address space or memory, or too many mappings (vm.max_map_count)"
        }
        (_, Some(libc::EMFILE | libc::ENFILE)) => "too many files are open (RLIMIT_NOFILE)",
        _ => "the kernel is too old for it, or it is forbidden here",
    };
    let name = if kind == BackendKind::Move { "move" } else { "guard" };
    format!("the backend {name}: {call} failed with {error}: {means}")
}

impl core::fmt::Debug for RegionBuilder {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("RegionBuilder")
            .field("capacity", &self.capacity)
            .field("budget", &self.budget)
            .field("resident_bytes", &self.resident)
            .field("backend", &self.backend)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
