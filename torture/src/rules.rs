//! When a call may be refused: all rules in one place, each with a name.
//!
//! An error that no rule allows is a finding. Rules depend on what really happened: the stamps of the
//! last failures of the device and of the last panics of codecs and backends are recorded. So an error
//! can be attributed to the call that met the failure. The store must turn such a panic into an error: a
//! panic that comes out of the store is a finding.

use std::time::{Duration, Instant};

use compressors::CompressorError;
use zpool_api::{PageError, ZpoolError};
use zswap_core::device::DeviceError;
use zswap_core::{BuildError, LimitReason, LoadError, MigrateError, StoreError, WritebackError};

use crate::config::{Config, Device};
use crate::device::TortureDevice;
use crate::page::Form;
use crate::panics::Panics;

/// How long a store may refuse pages after its device has failed a write.
pub const BACK_OFF: Duration = Duration::from_millis(100);
/// More memory than any store of a round takes besides its pools' pages.
const MOST_UNWRITABLE: usize = 256 << 20;

/// Why a refusal is allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Rule {
    /// The page is incompressible, and the store refuses such pages.
    DoesNotGetSmaller,
    /// The limit is reached, and pages could not be written back at some moment of the call.
    LimitWithoutDevice,
    /// The limit is reached, and all slots may have been taken at some moment of the call.
    LimitWithFullDevice,
    /// The limit is reached, and a write failed during the call or within [`BACK_OFF`] before it.
    LimitWithFailedDevice,
    /// The limit is reached, and a codec or backend panicked during the call.
    LimitWithUnreadablePages,
    /// Memory that cannot be written back reaches the limit on everything.
    MemoryLimit,
    /// The new limit on everything is less than what the store already takes.
    LimitTooSmall,
    /// A page request was made to fail, and the error names it.
    PageRequestFailed,
    /// The device failed a write or panicked during the call.
    DeviceFailedWrite,
    /// The device failed a read or panicked during the call.
    DeviceFailedRead,
    /// A codec panicked during the call.
    CodecPanicked,
    /// A backend panicked during the call.
    BackendPanicked,
    /// All slots may have been taken at some moment of the call.
    DeviceFull,
    /// Pages could not be written back at some moment of the call.
    NoWriteback,
    /// The store has as many pools as it can have.
    PoolsUsedUp,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Rule; 15] = [
        Rule::DoesNotGetSmaller,
        Rule::LimitWithoutDevice,
        Rule::LimitWithFullDevice,
        Rule::LimitWithFailedDevice,
        Rule::LimitWithUnreadablePages,
        Rule::MemoryLimit,
        Rule::LimitTooSmall,
        Rule::PageRequestFailed,
        Rule::DeviceFailedWrite,
        Rule::DeviceFailedRead,
        Rule::CodecPanicked,
        Rule::BackendPanicked,
        Rule::DeviceFull,
        Rule::NoWriteback,
        Rule::PoolsUsedUp,
    ];
}

/// The start of a call.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// A stamp from before the call.
    pub stamp: u64,
    /// The time before the call.
    pub at: Instant,
}

/// What the rules depend on, for a call that is over.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The round's configuration.
    pub config: &'a Config,
    /// The round's device.
    pub device: Option<&'a TortureDevice>,
    /// Panics of the round's codecs.
    pub codec: &'a Panics,
    /// Panics of the round's backends.
    pub backend: &'a Panics,
    /// The call's start.
    pub start: Start,
    /// Number of threads, each of which may be making a pool.
    pub threads: usize,
    /// Whether writeback may have been off at some moment since the start.
    pub writeback_was_off: bool,
    /// The highest limits of the round so far: on the pools and on everything.
    pub highest: (usize, usize),
}

/// The most pools that a store can have at once.
const MOST_POOLS: usize = 15;

impl Facts<'_> {
    fn device(&self, happened: impl Fn(&TortureDevice) -> bool) -> bool {
        self.device.is_some_and(happened)
    }

    fn is_limited(&self) -> bool {
        self.config.limit.is_some() || self.config.beyond_empty.is_some()
    }

    fn no_writeback(&self) -> bool {
        self.config.device == Device::None || self.writeback_was_off
    }

    /// Returns the rule that allows a store to give `reason` for not making room. Returns None if no rule
    /// does. If the device accepts writes and no codec or backend panics, no reason is allowed, whatever
    /// other threads and guards hold, because the store may then exceed its limit.
    fn reason(&self, reason: LimitReason) -> Option<Rule> {
        let stamp = self.start.stamp;
        let (happened, rule) = match reason {
            LimitReason::NoDevice => (self.no_writeback(), Rule::LimitWithoutDevice),
            LimitReason::DeviceFull => {
                (self.device(|device| device.was_full_since(stamp)), Rule::LimitWithFullDevice)
            }
            LimitReason::DeviceFailed => {
                let before = self.start.at.checked_sub(BACK_OFF).unwrap_or(self.start.at);
                let failed = self.device(|device| {
                    device.failed_a_write_since(stamp) || device.failed_a_write_after(before)
                });
                (failed, Rule::LimitWithFailedDevice)
            }
            LimitReason::Unreadable => (
                self.codec.since(stamp) || self.backend.since(stamp),
                Rule::LimitWithUnreadablePages,
            ),
            _ => return None,
        };
        happened.then_some(rule)
    }

    fn limit(&self, limit: usize, reason: LimitReason) -> Option<Rule> {
        let plausible = self.is_limited() && limit <= self.highest.0.min(self.highest.1);
        self.reason(reason).filter(|_| plausible)
    }

    /// Returns whether a store can have removed the older page before it succeeded, because it lacked
    /// memory and could not make room.
    pub fn may_give_up_older(&self) -> bool {
        let reasons = [
            LimitReason::NoDevice,
            LimitReason::DeviceFull,
            LimitReason::DeviceFailed,
            LimitReason::Unreadable,
        ];
        (self.is_limited() || self.config.page_faults)
            && reasons.into_iter().any(|reason| self.reason(reason).is_some())
    }

    fn pool(&self, error: &ZpoolError) -> Option<Rule> {
        match error {
            ZpoolError::OutOfMemory { source: PageError::Injected { .. } } => {
                self.config.page_faults.then_some(Rule::PageRequestFailed)
            }
            ZpoolError::Panicked { .. } => {
                self.backend.since(self.start.stamp).then_some(Rule::BackendPanicked)
            }
            _ => None,
        }
    }

    fn codec(&self, error: &CompressorError) -> Option<Rule> {
        let panicked = matches!(error, CompressorError::Panicked { .. });
        (panicked && self.codec.since(self.start.stamp)).then_some(Rule::CodecPanicked)
    }

    /// Returns the rule that allows a store to fail with this error.
    pub fn store(&self, form: Option<Form>, error: &StoreError) -> Option<Rule> {
        match error {
            StoreError::Incompressible { .. } => {
                // The null compressor shrinks no page.
                let never = self.config.codecs.contains(&"null");
                let hard =
                    form.is_none_or(|form| form == Form::Noise || never && !form.is_same_filled());
                (self.config.refuse_incompressible && hard).then_some(Rule::DoesNotGetSmaller)
            }
            StoreError::PoolLimit { limit, reason, .. } => self.limit(*limit, *reason),
            StoreError::MemoryLimit { unwritable, limit, .. } => {
                let fits = self.config.beyond_empty.is_some()
                    && *limit <= self.highest.1
                    && (*limit..MOST_UNWRITABLE).contains(unwritable);
                fits.then_some(Rule::MemoryLimit)
            }
            StoreError::Pool { source, .. } => self.pool(source),
            StoreError::Compress { source, .. } => self.codec(source),
            _ => None,
        }
    }

    /// Returns the rule that allows a load or a take to fail with this error. `NotFound` is judged by the
    /// model.
    pub fn load(&self, error: &LoadError) -> Option<Rule> {
        match error {
            LoadError::Device {
                source: DeviceError::Io { .. } | DeviceError::Panicked { .. },
                ..
            } => self
                .device(|device| device.failed_a_read_since(self.start.stamp))
                .then_some(Rule::DeviceFailedRead),
            LoadError::Decompress { source, .. } => self.codec(source),
            LoadError::Pool { source: source @ ZpoolError::Panicked { .. }, .. } => {
                self.pool(source)
            }
            _ => None,
        }
    }

    /// Returns the rule that allows writeback to fail with this error.
    pub fn writeback(&self, error: &WritebackError) -> Option<Rule> {
        match error {
            WritebackError::NoDevice => self.no_writeback().then_some(Rule::NoWriteback),
            WritebackError::DeviceFull { slots } => {
                let full = self.device(|device| device.was_full_since(self.start.stamp));
                (full && *slots == self.config.slots).then_some(Rule::DeviceFull)
            }
            WritebackError::Device { .. } => self
                .device(|device| device.failed_a_write_since(self.start.stamp))
                .then_some(Rule::DeviceFailedWrite),
            WritebackError::Load(error) => self.load(error),
            _ => None,
        }
    }

    /// Returns the rule that allows making a pool or setting a limit to fail with this error.
    pub fn build(&self, error: &BuildError) -> Option<Rule> {
        match error {
            BuildError::TooManyPools { .. } => {
                let pairs = self.config.zpools.len() * self.config.codecs.len();
                (pairs + 2 * self.threads >= MOST_POOLS).then_some(Rule::PoolsUsedUp)
            }
            BuildError::Zpool(error) => self.pool(error),
            BuildError::Compressor(error) => self.codec(error),
            BuildError::Panicked { .. } => {
                let (codec, backend) =
                    (self.codec.since(self.start.stamp), self.backend.since(self.start.stamp));
                let rule = if codec { Rule::CodecPanicked } else { Rule::BackendPanicked };
                (codec || backend).then_some(rule)
            }
            BuildError::LimitTooSmall { limit: "max_bytes", bytes, needed } => {
                let fits = bytes < needed && *needed < MOST_UNWRITABLE;
                (fits && self.config.beyond_empty.is_some()).then_some(Rule::LimitTooSmall)
            }
            _ => None,
        }
    }

    /// Returns the rule that allows moving pages to fail with this error.
    pub fn migrate(&self, error: &MigrateError) -> Option<Rule> {
        match error {
            MigrateError::Build(error) => self.build(error),
            MigrateError::Store(error) => self.store(None, error),
            MigrateError::Load(error) => self.load(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use std::sync::Arc;
    use zswap_core::SwapEntry;

    struct Case {
        config: Config,
        none: Panics,
        all: Panics,
    }

    impl Case {
        fn new(change: impl FnOnce(&mut Config)) -> Self {
            let mut config = Config {
                limit: None,
                beyond_empty: None,
                device: Device::Memory,
                slots: 99,
                codecs: vec!["lz4"],
                refuse_incompressible: false,
                page_faults: false,
                ..Config::draw(1, 16, &[])
            };
            change(&mut config);
            let clock = Arc::new(Clock::default());
            Case { config, none: Panics::new(0, clock.clone()), all: Panics::new(1000, clock) }
        }

        fn facts(&self) -> Facts<'_> {
            Facts {
                config: &self.config,
                device: None,
                codec: &self.none,
                backend: &self.none,
                start: Start { stamp: 1, at: Instant::now() },
                threads: 2,
                writeback_was_off: false,
                highest: (1 << 20, 2 << 20),
            }
        }
    }

    fn limit(reason: LimitReason) -> StoreError {
        StoreError::PoolLimit { entry: SwapEntry::new(0, 1).unwrap(), limit: 4096, reason }
    }

    #[test]
    fn nothing_is_refused_without_a_reason() {
        // The store has a limit, but nothing else that would allow these errors.
        let case = Case::new(|config| (config.limit, config.beyond_empty) = (Some(1), None));
        let (facts, entry) = (case.facts(), SwapEntry::new(0, 1).unwrap());
        let injected = ZpoolError::OutOfMemory { source: PageError::Injected { call: 1 } };
        let poor = StoreError::Incompressible { entry, page_size: 4096 };
        assert_eq!(facts.store(Some(Form::Noise), &poor), None);
        assert_eq!(facts.store(None, &StoreError::Pool { entry, source: injected }), None);
        assert_eq!(facts.store(None, &StoreError::Reentrant { entry }), None);
        for reason in [
            LimitReason::NoDevice,
            LimitReason::DeviceFull,
            LimitReason::DeviceFailed,
            LimitReason::Unreadable,
        ] {
            assert_eq!(facts.store(None, &limit(reason)), None, "{reason}");
        }
        assert!(!facts.may_give_up_older());
        let memory = StoreError::MemoryLimit { entry, unwritable: 9, limit: 8 };
        assert_eq!(facts.store(None, &memory), None);
        let (operation, backend) = ("compress", "zbud");
        let source = CompressorError::Panicked { operation };
        assert_eq!(facts.store(None, &StoreError::Compress { entry, source }), None);
        let source = ZpoolError::Panicked { backend, operation };
        assert_eq!(facts.load(&LoadError::Pool { entry, source }), None);
        assert_eq!(facts.load(&LoadError::Reentrant { entry }), None);
        assert_eq!(facts.writeback(&WritebackError::NoDevice), None);
        assert_eq!(facts.writeback(&WritebackError::DeviceFull { slots: 99 }), None);
        assert_eq!(facts.writeback(&WritebackError::Panicked), None);
        assert_eq!(facts.build(&BuildError::TooManyPools { limit: 15 }), None);
        assert_eq!(facts.build(&BuildError::Panicked { what: "a backend" }), None);
        assert_eq!(facts.migrate(&MigrateError::Panicked), None);
    }

    #[test]
    fn each_reason_allows_its_own_refusal() {
        let entry = SwapEntry::new(0, 1).unwrap();
        let injected = ZpoolError::OutOfMemory { source: PageError::Injected { call: 1 } };
        let poor = StoreError::Incompressible { entry, page_size: 4096 };
        let case = Case::new(|config| {
            (config.refuse_incompressible, config.page_faults) = (true, true);
            (config.limit, config.beyond_empty) = (Some(1 << 20), Some(4096));
        });
        let facts = case.facts();
        assert_eq!(facts.store(Some(Form::Noise), &poor), Some(Rule::DoesNotGetSmaller));
        assert_eq!(facts.store(Some(Form::Text), &poor), None);
        let refused = StoreError::Pool { entry, source: injected };
        assert_eq!(facts.store(None, &refused), Some(Rule::PageRequestFailed));
        let memory = |unwritable, limit| StoreError::MemoryLimit { entry, unwritable, limit };
        assert_eq!(facts.store(None, &memory(9, 8)), Some(Rule::MemoryLimit));
        assert_eq!(facts.store(None, &memory(8, 9)), None);
        assert_eq!(facts.store(None, &memory(usize::MAX, 9)), None);
        let small = |bytes, needed| BuildError::LimitTooSmall { limit: "max_bytes", bytes, needed };
        assert_eq!(facts.build(&small(8, 9)), Some(Rule::LimitTooSmall));
        assert_eq!(facts.build(&small(9, 9)), None);

        let off = Facts { writeback_was_off: true, ..facts };
        assert_eq!(off.writeback(&WritebackError::NoDevice), Some(Rule::NoWriteback));
        let reached = off.store(None, &limit(LimitReason::NoDevice));
        assert_eq!((reached, off.may_give_up_older()), (Some(Rule::LimitWithoutDevice), true));
        let low = Facts { highest: (4095, 1 << 20), ..off };
        assert_eq!(low.store(None, &limit(LimitReason::NoDevice)), None);

        assert!(std::panic::catch_unwind(|| case.all.maybe()).is_err());
        let panicked = Facts { codec: &case.all, ..facts };
        let unreadable = panicked.store(None, &limit(LimitReason::Unreadable));
        assert_eq!(unreadable, Some(Rule::LimitWithUnreadablePages));
        let source = CompressorError::Panicked { operation: "compress" };
        let failed = panicked.store(None, &StoreError::Compress { entry, source });
        assert_eq!(failed, Some(Rule::CodecPanicked));
        let panicked = Facts { backend: &case.all, ..facts };
        let source = ZpoolError::Panicked { backend: "zbud", operation: "free" };
        assert_eq!(panicked.load(&LoadError::Pool { entry, source }), Some(Rule::BackendPanicked));
    }
}
