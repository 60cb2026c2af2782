//! When a call may be refused: each rule in one place, with a name.
//!
//! An error that no rule allows is a finding. What a rule goes by is what really happened: the device
//! notes the stamp of each failure, so that an error is held against the call that met it.

use std::time::Duration;

use zpool_api::{PageError, ZpoolError};
use zswap_core::{BuildError, DeviceError, LoadError, RehomeError, StoreError, WritebackError};

use crate::config::{Config, Device};
use crate::device::TortureDevice;
use crate::page::Form;

/// How long a store may refuse pages after its device failed a write.
pub const BACK_OFF: Duration = Duration::from_millis(100);

/// Why a refusal is allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Rule {
    /// The page does not get smaller, and the store refuses such pages.
    DoesNotGetSmaller,
    /// The limit is reached.
    LimitReached,
    /// A page request was told to fail, and was what the error names.
    PageRequestFailed,
    /// The device failed a write during the call.
    DeviceFailedWrite,
    /// The device failed a read during the call.
    DeviceFailedRead,
    /// The device panicked during the call.
    DevicePanicked,
    /// Fewer slots than pages and moves under way.
    DeviceTooSmall,
    /// There is no device, or writeback may be off.
    NoWriteback,
    /// As many pools live as a store can have.
    PoolsUsedUp,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Rule; 9] = [
        Rule::DoesNotGetSmaller,
        Rule::LimitReached,
        Rule::PageRequestFailed,
        Rule::DeviceFailedWrite,
        Rule::DeviceFailedRead,
        Rule::DevicePanicked,
        Rule::DeviceTooSmall,
        Rule::NoWriteback,
        Rule::PoolsUsedUp,
    ];
}

/// What the rules go by.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The round's configuration.
    pub config: &'a Config,
    /// Its device.
    pub device: Option<&'a TortureDevice>,
    /// The stamp of the call's start.
    pub start: u64,
    /// Threads that make pools of their own.
    pub threads: usize,
    /// Whether writeback was switched off at some time in the round.
    pub writeback_was_off: bool,
}

/// Pools that a store can have at once.
const MOST_POOLS: usize = 15;

impl Facts<'_> {
    fn device(&self, happened: impl Fn(&TortureDevice) -> bool) -> bool {
        self.device.is_some_and(happened)
    }

    /// Allowed while the limit is reached. A store whose device accepts writes has no reason to refuse,
    /// but one built today does.
    fn limit(&self) -> Option<Rule> {
        self.config.limit.map(|_| Rule::LimitReached)
    }

    fn pool(&self, error: &ZpoolError) -> Option<Rule> {
        let told = matches!(error, ZpoolError::OutOfMemory { source: PageError::Injected { .. } });
        (told && self.config.page_faults).then_some(Rule::PageRequestFailed)
    }

    /// Why a store may fail.
    pub fn store(&self, form: Option<Form>, error: &StoreError) -> Option<Rule> {
        match error {
            StoreError::Incompressible { .. } => {
                // The null compressor makes no page smaller.
                let never = self.config.codecs.contains(&"null");
                let hard =
                    form.is_none_or(|form| form == Form::Noise || never && !form.is_same_filled());
                (self.config.refuse_incompressible && hard).then_some(Rule::DoesNotGetSmaller)
            }
            StoreError::PoolLimit { .. } => self.limit(),
            StoreError::Pool { source, .. } => self.pool(source),
            _ => None,
        }
    }

    /// Why a load or a take may fail, beside that nothing is there, which the model judges.
    pub fn load(&self, error: &LoadError) -> Option<Rule> {
        match error {
            LoadError::Device { source: DeviceError::Io { .. }, .. } => self
                .device(|device| device.failed_a_read_since(self.start))
                .then_some(Rule::DeviceFailedRead),
            _ => None,
        }
    }

    /// Why a call may panic.
    pub fn panic(&self) -> Option<Rule> {
        self.device(|device| device.panicked_since(self.start)).then_some(Rule::DevicePanicked)
    }

    /// Why pages may not be written back.
    pub fn writeback(&self, error: &WritebackError) -> Option<Rule> {
        match error {
            WritebackError::NoDevice => {
                let none = self.config.device == Device::None || self.writeback_was_off;
                none.then_some(Rule::NoWriteback)
            }
            WritebackError::DeviceFull { .. } => {
                // A page that moves takes a slot before it gives one up, and so does one that is read.
                let needed = self.config.keys + 2 * self.threads + 2;
                (self.config.slots < needed as u64).then_some(Rule::DeviceTooSmall)
            }
            WritebackError::Device { .. } => self
                .device(|device| device.failed_a_write_since(self.start))
                .then_some(Rule::DeviceFailedWrite),
            WritebackError::Load(error) => self.load(error),
            _ => None,
        }
    }

    /// Why another pool may not be made.
    pub fn build(&self, error: &BuildError) -> Option<Rule> {
        match error {
            BuildError::TooManyPools { .. } => {
                let pairs = self.config.zpools.len() * self.config.codecs.len();
                (pairs + 2 * self.threads >= MOST_POOLS).then_some(Rule::PoolsUsedUp)
            }
            BuildError::Zpool(error) => self.pool(error),
            _ => None,
        }
    }

    /// Why pages may not be moved.
    pub fn rehome(&self, error: &RehomeError) -> Option<Rule> {
        match error {
            RehomeError::Build(error) => self.build(error),
            RehomeError::Store(error) => self.store(None, error),
            RehomeError::Load(error) => self.load(error),
            RehomeError::Panicked => self.panic(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zswap_core::SwapEntry;

    fn facts(config: &Config) -> Facts<'_> {
        Facts { config, device: None, start: 1, threads: 2, writeback_was_off: false }
    }

    fn plain() -> Config {
        let config = Config::draw(1, 16, &[]);
        Config {
            limit: None,
            device: Device::Memory,
            slots: 99,
            codecs: vec!["lz4"],
            refuse_incompressible: false,
            page_faults: false,
            ..config
        }
    }

    #[test]
    fn nothing_is_refused_without_a_reason() {
        let config = plain();
        let (facts, entry) = (facts(&config), SwapEntry::new(0, 1).unwrap());
        let told = ZpoolError::OutOfMemory { source: PageError::Injected { call: 1 } };
        let poor = StoreError::Incompressible { entry, page_size: 4096 };
        assert_eq!(facts.store(Some(Form::Noise), &poor), None);
        assert_eq!(facts.store(None, &StoreError::Pool { entry, source: told.clone() }), None);
        assert_eq!(facts.store(None, &StoreError::Reentrant { entry }), None);
        assert_eq!(facts.load(&LoadError::Reentrant { entry }), None);
        assert_eq!(facts.panic(), None);
        assert_eq!(facts.writeback(&WritebackError::NoDevice), None);
        assert_eq!(facts.writeback(&WritebackError::DeviceFull { slots: 99 }), None);
        assert_eq!(facts.build(&BuildError::TooManyPools { limit: 15 }), None);
        assert_eq!(facts.rehome(&RehomeError::Panicked), None);
    }

    #[test]
    fn each_reason_allows_its_own_refusal() {
        let entry = SwapEntry::new(0, 1).unwrap();
        let told = ZpoolError::OutOfMemory { source: PageError::Injected { call: 1 } };
        let poor = StoreError::Incompressible { entry, page_size: 4096 };
        let config = Config { refuse_incompressible: true, page_faults: true, slots: 3, ..plain() };
        let facts = facts(&config);
        assert_eq!(facts.store(Some(Form::Noise), &poor), Some(Rule::DoesNotGetSmaller));
        assert_eq!(facts.store(Some(Form::Text), &poor), None);
        let refused = StoreError::Pool { entry, source: told };
        assert_eq!(facts.store(None, &refused), Some(Rule::PageRequestFailed));
        let full = WritebackError::DeviceFull { slots: 3 };
        assert_eq!(facts.writeback(&full), Some(Rule::DeviceTooSmall));
        let off = Facts { writeback_was_off: true, ..facts };
        assert_eq!(off.writeback(&WritebackError::NoDevice), Some(Rule::NoWriteback));
    }
}
