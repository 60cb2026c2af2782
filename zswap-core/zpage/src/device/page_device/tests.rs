//! Tests of the adapter: which slots it uses, and that it keeps its promises to the device of pages.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::*;
use crate::device::{AttachError, Attached};

/// A device of pages that notes each broken promise.
#[derive(Debug)]
struct Strict {
    capacity: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The pages by slot; `None` if the write failed.
    slots: BTreeMap<u64, Option<Page>>,
    /// The calls of `discard`.
    discarded: Vec<u64>,
    broken: Vec<String>,
    /// The slot whose calls fail with this error.
    fails: Option<(u64, DeviceError)>,
    /// The slot whose calls panic.
    panics: Option<u64>,
}

impl Strict {
    fn new(capacity: u64) -> (Arc<Strict>, PageDevice) {
        let state = Mutex::default();
        let strict = Arc::new(Strict { capacity: AtomicU64::new(capacity), state });
        (strict.clone(), PageDevice(strict))
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Returns the slots that hold a page, or the rest of a write that failed.
    fn slots(&self) -> Vec<u64> {
        self.with(|state| state.slots.keys().copied().collect())
    }

    fn step(&self, slot: u64) -> Result<(), DeviceError> {
        self.with(|state| {
            if slot >= self.capacity.load(SeqCst) {
                state.broken.push(format!("slot {slot} is beyond the capacity"));
            }
            if state.panics == Some(slot) {
                std::panic::resume_unwind(Box::new(()));
            }
            match &state.fails {
                Some((failing, error)) if *failing == slot => Err(error.clone()),
                _ => Ok(()),
            }
        })
    }
}

impl PageSwapDevice for Strict {
    fn capacity(&self) -> u64 {
        self.capacity.load(SeqCst)
    }

    fn write_page(&self, slot: u64, page: &Page) -> Result<(), DeviceError> {
        self.with(|state| {
            if state.slots.insert(slot, None).is_some() {
                state.broken.push(format!("slot {slot} is written again"));
            }
        });
        self.step(slot)?;
        self.with(|state| state.slots.insert(slot, Some(*page)));
        Ok(())
    }

    fn read_page(&self, slot: u64, page: &mut Page) -> Result<(), DeviceError> {
        self.step(slot)?;
        match self.with(|state| state.slots.get(&slot).copied()) {
            Some(Some(held)) => *page = held,
            _ => return Err(DeviceError::Missing { segment: slot }),
        }
        Ok(())
    }

    fn discard(&self, slot: u64) {
        let _ = self.step(slot);
        self.with(|state| {
            state.slots.remove(&slot);
            state.discarded.push(slot);
        });
    }

    fn memory_bytes(&self) -> usize {
        77
    }
}

impl Drop for Strict {
    fn drop(&mut self) {
        let broken = self.with(|state| core::mem::take(&mut state.broken));
        assert!(broken.is_empty() || std::thread::panicking(), "{broken:?}");
    }
}

/// Returns pages with different contents.
fn pages(count: usize) -> Vec<u8> {
    (0..count * PAGE_SIZE).map(|at| (at / PAGE_SIZE * 16 + at % 13) as u8).collect()
}

#[test]
fn a_segment_is_a_run_of_slots() {
    for (capacity, of_segment, segments) in
        [(0, 2, 0), (1, 2, 0), (7, 2, 3), (40, 8, 5), (100, 16, 6), (u64::MAX, 16, (1 << 60) - 1)]
    {
        let (strict, device) = Strict::new(capacity);
        let segment_bytes = of_segment * PAGE_SIZE;
        assert_eq!(device.geometry(), Geometry { segments, segment_bytes, block_bytes: PAGE_SIZE });
        let all = pages(of_segment);
        let Some(last) = segments.checked_sub(1) else { continue };
        device.write_segment(last, &all).unwrap();
        let first = last * of_segment as u64;
        assert_eq!(strict.slots(), (first..first + of_segment as u64).collect::<Vec<_>>());
        let mut back = vec![0; segment_bytes];
        device.read(last, 0, &mut back).unwrap();
        assert_eq!(back, all);
        for (offset, len) in
            [(PAGE_SIZE, PAGE_SIZE), (0, PAGE_SIZE), (segment_bytes - PAGE_SIZE, 0)]
        {
            device.read(last, offset, &mut back[..len]).unwrap();
            assert_eq!(back[..len], all[offset..offset + len]);
        }
        device.discard(last);
        assert!(strict.slots().is_empty());
        let beyond = segments * of_segment as u64;
        assert!(beyond <= capacity && strict.with(|state| state.discarded.len()) == of_segment);
        assert_eq!(device.memory_bytes(), 77);
    }
}

#[test]
fn a_range_beyond_a_segment_or_of_broken_pages_reaches_no_slot() {
    let (strict, device) = Strict::new(100);
    let (geometry, mut bytes) = (device.geometry(), pages(17));
    let beyond =
        |segment, start, end| Err(DeviceError::OutOfRange { segment, start, end, geometry });
    let broken =
        |start, end| Err(DeviceError::Unaligned { segment: 5, start, end, block_bytes: PAGE_SIZE });
    assert_eq!(device.write_segment(5, &bytes), beyond(5, 0, 17 * PAGE_SIZE));
    assert_eq!(device.write_segment(6, &bytes[..PAGE_SIZE]), beyond(6, 0, PAGE_SIZE));
    assert_eq!(device.write_segment(u64::MAX, &[]), beyond(u64::MAX, 0, 0));
    assert_eq!(device.write_segment(5, &bytes[..PAGE_SIZE + 512]), broken(0, PAGE_SIZE + 512));
    device.discard(6);
    device.discard(u64::MAX);
    assert!(strict.slots().is_empty() && strict.with(|state| state.discarded.is_empty()));
    device.write_segment(5, &bytes[..16 * PAGE_SIZE]).unwrap();
    let read = device.read(5, PAGE_SIZE, &mut bytes[..16 * PAGE_SIZE]);
    assert_eq!(read, beyond(5, PAGE_SIZE, 17 * PAGE_SIZE));
    assert_eq!(device.read(6, 0, &mut bytes[..PAGE_SIZE]), beyond(6, 0, PAGE_SIZE));
    assert_eq!(device.read(5, 512, &mut bytes[..PAGE_SIZE]), broken(512, PAGE_SIZE + 512));
    assert_eq!(device.read(5, 0, &mut bytes[..100]), broken(0, 100));
}

#[test]
fn after_a_write_that_failed_half_way_each_slot_is_discarded_before_it_is_written() {
    let (strict, device) = Strict::new(100);
    let all = pages(16);
    let kind = io::ErrorKind::StorageFull;
    let full = |segment| DeviceError::Io { operation: "write", segment, kind, code: Some(28) };
    strict.with(|state| state.fails = Some((35, full(35))));
    assert_eq!(device.write_segment(2, &all[..8 * PAGE_SIZE]), Err(full(2)));
    assert_eq!(strict.slots(), [32, 33, 34, 35], "the write stops at the page that fails");
    let mut back = vec![0; PAGE_SIZE];
    device.read(2, 2 * PAGE_SIZE, &mut back).unwrap();
    assert_eq!(back, all[2 * PAGE_SIZE..3 * PAGE_SIZE]);
    strict.with(|state| state.fails = None);
    device.discard(2);
    assert!(strict.slots().is_empty());
    device.write_segment(2, &all).unwrap();
    let mut back = vec![0; 16 * PAGE_SIZE];
    device.read(2, 0, &mut back).unwrap();
    assert_eq!(back, all);
    // A shorter write follows a longer one.
    device.discard(2);
    device.write_segment(2, &all[..PAGE_SIZE]).unwrap();
    device.discard(2);
    device.write_segment(2, &all).unwrap();
}

#[test]
fn errors_name_the_segment_and_the_place_in_it() {
    let (strict, device) = Strict::new(100);
    device.write_segment(2, &pages(15)).unwrap();
    let mut back = vec![0; 16 * PAGE_SIZE];
    assert_eq!(device.read(2, 0, &mut back), Err(DeviceError::Missing { segment: 2 }));
    let corrupt = DeviceError::Corrupt { segment: 35, offset: 100 };
    strict.with(|state| state.fails = Some((35, corrupt)));
    let expected = Err(DeviceError::Corrupt { segment: 2, offset: 3 * PAGE_SIZE + 100 });
    assert_eq!(device.read(2, PAGE_SIZE, &mut back[..4 * PAGE_SIZE]), expected);
    assert_eq!(device.read(2, PAGE_SIZE, &mut back[..2 * PAGE_SIZE]), Ok(()));
}

#[test]
fn a_device_that_panics_in_one_slot_gets_the_other_slots_discarded() {
    let (strict, device) = Strict::new(100);
    let mut all = pages(16);
    strict.with(|state| state.panics = Some(19));
    assert_eq!(caught(|| device.write_segment(1, &all)), None);
    assert_eq!(strict.slots(), [16, 17, 18, 19]);
    assert_eq!(caught(|| device.read(1, 0, &mut all)), None);
    assert_eq!(caught(|| device.discard(1)), Some(()));
    assert_eq!(strict.slots(), [19]);
    let discarded: Vec<u64> = (16..32).filter(|slot| *slot != 19).collect();
    assert_eq!(strict.with(|state| core::mem::take(&mut state.discarded)), discarded);
    strict.with(|state| state.panics = None);
    device.discard(1);
    device.write_segment(1, &pages(16)).unwrap();
}

#[test]
fn a_capacity_that_changes_is_kept_to() {
    let (strict, device) = Strict::new(100);
    let mut bytes = pages(16);
    device.write_segment(5, &bytes).unwrap();
    strict.capacity.store(90, SeqCst);
    let beyond = |refused| matches!(refused, Err(DeviceError::OutOfRange { segment: 5, .. }));
    assert!(beyond(device.read(5, 0, &mut bytes)) && beyond(device.write_segment(5, &bytes)));
    device.discard(5);
    assert_eq!(strict.with(|state| state.discarded.len()), 0);
}

#[test]
fn the_device_of_pages_is_attached_with_its_adapter() {
    let (strict, device) = Strict::new(100);
    let (one, other): (Arc<dyn SwapDevice>, _) = (Arc::new(device), PageDevice(strict.clone()));
    assert!(core::ptr::addr_eq(Arc::as_ptr(&one.page_devices()[0]), Arc::as_ptr(&strict)));
    assert!(one.inner().is_empty() && one.flush().is_ok());
    let attached = Attached::attach(one).unwrap();
    let other: Arc<dyn SwapDevice> = Arc::new(other);
    assert_eq!(Attached::attach(other.clone()).unwrap_err(), AttachError::InUse);
    drop(attached);
    assert_eq!(Attached::attach(other).unwrap().geometry().block_bytes, PAGE_SIZE);
}
