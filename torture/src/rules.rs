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
use crate::device::{Failed, TortureDevice};
use crate::fullness::{LEAST_WEIGHT, MOST_WEIGHT, full_weight, in_hand};
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
    /// The limit is reached, and the device may have been full at some moment of the call.
    LimitWithFullDevice,
    /// The limit is reached, and a write, or a read for cleaning, failed during the call or within [`BACK_OFF`]
    /// before it.
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
    /// The device gave wrong bytes during the call.
    DeviceGaveWrongBytes,
    /// The device failed a read for cleaning, or gave wrong bytes for it, during the call.
    CleaningFailed,
    /// The device failed a flush or panicked during the call.
    DeviceFailedFlush,
    /// A codec panicked during the call.
    CodecPanicked,
    /// A backend panicked during the call.
    BackendPanicked,
    /// The device may have been full at some moment of the call, or said so.
    DeviceFull,
    /// Pages could not be written back at some moment of the call.
    NoWriteback,
    /// The store has as many pools as it can have.
    PoolsUsedUp,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Rule; 18] = [
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
        Rule::DeviceGaveWrongBytes,
        Rule::CleaningFailed,
        Rule::DeviceFailedFlush,
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
    /// If no other thread calls the store: the number of pages on the device, and the bytes that they take there.
    pub on_device: Option<(usize, usize)>,
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
            LimitReason::DeviceFull => (self.device_was_full(), Rule::LimitWithFullDevice),
            LimitReason::DeviceFailed => {
                let before = self.start.at.checked_sub(BACK_OFF).unwrap_or(self.start.at);
                let kinds = [Failed::Write, Failed::Clean, Failed::CorruptClean];
                let failed = self.device(|device| {
                    device.failed_since(&kinds, stamp) || device.failed_after(&kinds, before)
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

    /// Returns whether the device may have been full at some moment of the call, or said so.
    fn device_was_full(&self) -> bool {
        let (stamp, geometry) = (self.start.stamp, &self.config.geometry);
        self.device(|device| {
            if device.failed_since(&[Failed::Full], stamp) {
                return true;
            }
            if !device.was_full_since(stamp) {
                return false;
            }
            // Fewer than four segments are all used for pages, so nothing can be moved.
            if geometry.segments < 4
                || device.failed_since(&[Failed::Clean, Failed::CorruptClean], stamp)
            {
                return true;
            }
            let weight = match self.on_device {
                // The call may have dropped the older page since.
                Some((pages, bytes)) => bytes + pages * LEAST_WEIGHT + MOST_WEIGHT,
                // A thread may have an object that is under no entry any more.
                None => (self.config.keys + in_hand(self.threads)) * MOST_WEIGHT,
            };
            weight > device.fewest_written().saturating_sub(1) * full_weight(geometry)
        })
    }

    /// Returns the rule that allows this error of the device in a call that writes pages back or cleans.
    fn moving(&self, error: &DeviceError) -> Option<Rule> {
        let (failed, rule) = match error {
            DeviceError::Io { operation: "write", .. }
            | DeviceError::Panicked { operation: "write", .. } => {
                (Failed::Write, Rule::DeviceFailedWrite)
            }
            DeviceError::Io { operation: "read", .. }
            | DeviceError::Panicked { operation: "read", .. } => {
                (Failed::Clean, Rule::CleaningFailed)
            }
            DeviceError::Corrupt { .. } => (Failed::CorruptClean, Rule::CleaningFailed),
            DeviceError::Full { .. } => (Failed::Full, Rule::DeviceFull),
            _ => return None,
        };
        self.device(|device| device.failed_since(&[failed], self.start.stamp)).then_some(rule)
    }

    /// Returns the limit of the area that has pools of its own.
    fn area_limit(&self) -> Option<usize> {
        self.config.own_area?.limit
    }

    fn limit(&self, limit: usize, reason: LimitReason) -> Option<Rule> {
        let plausible = self.is_limited() && limit <= self.highest.0.min(self.highest.1)
            || self.area_limit() == Some(limit);
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
        (self.is_limited() || self.area_limit().is_some() || self.config.page_faults)
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
            LoadError::Device { source, .. } => {
                let (failed, rule) = match source {
                    DeviceError::Io { operation: "read", .. }
                    | DeviceError::Panicked { operation: "read", .. } => {
                        (Failed::Load, Rule::DeviceFailedRead)
                    }
                    DeviceError::Corrupt { .. } => {
                        (Failed::CorruptLoad, Rule::DeviceGaveWrongBytes)
                    }
                    _ => return None,
                };
                let since = self.start.stamp;
                self.device(|device| device.failed_since(&[failed], since)).then_some(rule)
            }
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
            WritebackError::DeviceFull { segments } => {
                let ours = *segments == self.config.geometry.segments;
                (ours && self.device_was_full()).then_some(Rule::DeviceFull)
            }
            WritebackError::Device { source, .. } | WritebackError::Cleaning { source } => {
                self.moving(source)
            }
            WritebackError::Flush { .. } => self
                .device(|device| device.failed_since(&[Failed::Flush], self.start.stamp))
                .then_some(Rule::DeviceFailedFlush),
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
    use crate::fullness::{IN_HAND_OF_MANY, most_full};
    use std::sync::Arc;
    use zswap_core::SwapEntry;
    use zswap_core::device::Geometry;

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
                geometry: Geometry::of_pages(99),
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
                on_device: None,
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
        assert_eq!(facts.writeback(&WritebackError::DeviceFull { segments: 6 }), None);
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

    /// A device of small segments, of which this many are written.
    fn device(segments: u64, written: u64) -> TortureDevice {
        use crate::action::Marks;
        use crate::device::Faults;
        use zswap_core::device::{MemorySwapDevice, SwapDevice};
        let geometry = Geometry { segments, segment_bytes: 8192, block_bytes: 1 };
        let inner = Arc::new(MemorySwapDevice::with_geometry(geometry));
        let faults = Arc::new(Faults::new(Arc::new(Clock::default())));
        let (marks, tally, findings) = (Arc::new(Marks::new(1)), Arc::default(), Arc::default());
        let device = TortureDevice::new(
            inner,
            Duration::ZERO,
            in_hand(2),
            true,
            faults,
            marks,
            tally,
            findings,
        );
        (0..written).for_each(|segment| device.write_segment(segment, &[1]).unwrap());
        device
    }

    #[test]
    fn a_device_is_full_only_if_its_pages_can_fill_it() {
        let full = |segments, written, keys, on_device| {
            let case = Case::new(|config| {
                config.geometry = Geometry { segments, segment_bytes: 8192, block_bytes: 1 };
                config.keys = keys;
            });
            let device = device(segments, written);
            let facts = Facts { device: Some(&device), on_device, ..case.facts() };
            facts.writeback(&WritebackError::DeviceFull { segments })
        };
        assert_eq!(full(40, 40, 1000, None), Some(Rule::DeviceFull));
        assert_eq!(full(40, 20, 1000, None), None, "segments are free");
        assert_eq!(full(40, 40, 10, None), None, "a few pages do not fill it");
        assert_eq!(full(40, 40, 1000, Some((10, 9000))), None, "few are there");
        assert_eq!(full(40, 40, 1000, Some((40, 40 * 4112))), Some(Rule::DeviceFull));
        assert_eq!(full(3, 3, 1, Some((1, 100))), Some(Rule::DeviceFull), "too few to clean");
        let geometry = Geometry { segments: 0, segment_bytes: 8192, block_bytes: 1 };
        let enough = (IN_HAND_OF_MANY + most_full(&geometry, 100)) as u64;
        assert_eq!(full(enough, enough, 100, None), None);
    }

    #[test]
    fn an_error_of_the_device_needs_a_failure_of_its_kind() {
        use crate::device::{Fault, loading};
        use zswap_core::device::SwapDevice;
        let (case, device) = (Case::new(|_| {}), device(4, 1));
        let facts = Facts { device: Some(&device), ..case.facts() };
        let (entry, mut bytes) = (SwapEntry::new(0, 1).unwrap(), [0]);
        device.set(&[Fault::Read]);
        let source = device.read(0, 0, &mut bytes).unwrap_err();
        let load = |source| facts.load(&LoadError::Device { entry, source });
        let cleaning = |source| facts.writeback(&WritebackError::Cleaning { source });
        let corrupt = DeviceError::Corrupt { segment: 0, offset: 0 };
        assert_eq!(cleaning(source.clone()), Some(Rule::CleaningFailed));
        assert_eq!(
            [load(source.clone()), load(corrupt.clone()), cleaning(corrupt.clone())],
            [None; 3]
        );
        let (read, _) = loading(|| device.read(0, 0, &mut bytes));
        assert!(read.is_err() && load(source) == Some(Rule::DeviceFailedRead));
        device.set(&[Fault::Corrupt]);
        (0..100).for_each(|_| loading(|| device.read(0, 0, &mut bytes)).0.unwrap());
        assert_eq!(load(corrupt.clone()), Some(Rule::DeviceGaveWrongBytes));
        assert_eq!(cleaning(corrupt), None);
        let missing = DeviceError::Missing { segment: 0 };
        assert_eq!([load(missing.clone()), cleaning(missing.clone())], [None; 2]);
        let flush = WritebackError::Flush { source: missing };
        assert_eq!(facts.writeback(&flush), None);
        device.set(&[Fault::Flush]);
        assert!(device.flush().is_err());
        assert_eq!(facts.writeback(&flush), Some(Rule::DeviceFailedFlush));
    }
}
