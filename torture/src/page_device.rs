//! A device of pages that checks how the adapter `PageDevice` uses it.
//!
//! A slot that holds a page, or whose write failed, is discarded before it is written again; only a slot that
//! holds a page is read; and no slot is written or discarded while it is read or written.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use zswap_core::Page;
use zswap_core::device::{DeviceError, PageSwapDevice};

use crate::device::{Failed, Faults};
use crate::finding::{Findings, lock};

/// Nothing was written since the slot was last discarded.
const EMPTY: u8 = 0;
/// The slot holds a page.
const HELD: u8 = 1;
/// A write of the slot began, and has not succeeded.
const SPOILT: u8 = 2;

#[derive(Debug, Default)]
struct Slot {
    state: AtomicU8,
    /// The calls that are under way.
    calls: AtomicU32,
    page: Mutex<Option<Box<Page>>>,
}

/// A device of pages in memory. See the module's documentation.
#[derive(Debug)]
pub struct TorturePages {
    slots: Box<[Slot]>,
    faults: Arc<Faults>,
    findings: Arc<Findings>,
}

/// A call that is under way.
struct Call<'a>(&'a Slot);

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::SeqCst);
    }
}

impl TorturePages {
    /// Makes a device of `slots` slots.
    pub fn new(slots: u64, faults: Arc<Faults>, findings: Arc<Findings>) -> Self {
        TorturePages { slots: (0..slots).map(|_| Slot::default()).collect(), faults, findings }
    }

    /// Returns the number of slots that hold a page.
    pub fn pages(&self) -> usize {
        self.slots.iter().filter(|slot| slot.state.load(Ordering::SeqCst) != EMPTY).count()
    }

    fn misused(&self, what: &str, slot: u64) {
        let what = format!("slot {slot} of the device of pages {what}");
        self.findings.report("the device was misused", what);
    }

    /// Begins a call. `alone` says that no other call may be under way.
    fn begin(&self, number: u64, alone: bool) -> Option<(&Slot, Call<'_>)> {
        let slot = usize::try_from(number).ok().and_then(|at| self.slots.get(at));
        let Some(slot) = slot else {
            self.misused("does not exist", number);
            return None;
        };
        if slot.calls.fetch_add(1, Ordering::SeqCst) > 0 && alone {
            self.misused("was written or discarded while it is used", number);
        }
        Some((slot, Call(slot)))
    }
}

impl PageSwapDevice for TorturePages {
    fn capacity(&self) -> u64 {
        self.slots.len() as u64
    }

    fn write_page(&self, number: u64, page: &Page) -> Result<(), DeviceError> {
        let missing = DeviceError::Missing { segment: number };
        let (slot, _call) = self.begin(number, true).ok_or(missing)?;
        if slot.state.swap(SPOILT, Ordering::SeqCst) != EMPTY {
            self.misused("was written before it was discarded", number);
        }
        // One page in four panics, so that some segments are left half written.
        if number % 4 == 3 {
            self.faults.maybe_panic(Some(Failed::Write));
        }
        *lock(&slot.page) = Some(Box::new(*page));
        slot.state.store(HELD, Ordering::SeqCst);
        Ok(())
    }

    fn read_page(&self, number: u64, page: &mut Page) -> Result<(), DeviceError> {
        let missing = DeviceError::Missing { segment: number };
        let (slot, _call) = self.begin(number, false).ok_or(missing.clone())?;
        if slot.state.load(Ordering::SeqCst) != HELD {
            self.misused("was read while it holds no page", number);
        }
        *page = **lock(&slot.page).as_ref().ok_or(missing)?;
        Ok(())
    }

    fn discard(&self, number: u64) {
        let Some((slot, _call)) = self.begin(number, true) else { return };
        *lock(&slot.page) = None;
        slot.state.store(EMPTY, Ordering::SeqCst);
        self.faults.maybe_panic(None);
    }

    fn memory_bytes(&self) -> usize {
        self.slots.len() * size_of::<Slot>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use zswap_core::PAGE_SIZE;

    const PAGE: Page = [7; PAGE_SIZE];

    fn device() -> (TorturePages, Arc<Findings>) {
        let findings = Arc::new(Findings::default());
        let faults = Arc::new(Faults::new(Arc::new(Clock::default())));
        (TorturePages::new(4, faults, findings.clone()), findings)
    }

    #[test]
    fn a_page_is_kept_until_it_is_discarded() {
        let (device, findings) = device();
        let mut back = [0; PAGE_SIZE];
        device.write_page(3, &PAGE).unwrap();
        device.read_page(3, &mut back).unwrap();
        assert_eq!((back, device.pages()), (PAGE, 1));
        device.discard(3);
        device.discard(3);
        device.write_page(3, &PAGE).unwrap();
        assert_eq!((device.pages(), findings.first()), (1, None));
    }

    #[test]
    fn misuse_is_found() {
        let uses: [fn(&TorturePages); 3] = [
            |device| {
                let _ = device.write_page(2, &PAGE);
                let _ = device.write_page(2, &PAGE);
            },
            |device| {
                let _ = device.read_page(2, &mut [0; PAGE_SIZE]);
            },
            |device| device.discard(4),
        ];
        for misuse in uses {
            let (device, findings) = device();
            misuse(&device);
            assert!(findings.any());
        }
    }
}
