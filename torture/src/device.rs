//! A device that can be made to fail, and that checks how it is used.
//!
//! It wraps another device. Faults are switched while it is in use. The stamps of the last failures are
//! recorded, so that an error of the store can be compared with what really happened. The device checks
//! the contract of `SwapDevice`: a slot that holds a page is discarded before it is written again; only
//! a slot that holds a page is read; and no slot is discarded while it is being read.

use core::time::Duration;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use zpool_base::sync::test_rng::Rng;
use zswap_core::Page;
use zswap_core::device::{DeviceError, SwapDevice};

use crate::action::{self, Marks, Tally};
use crate::clock::Clock;
use crate::finding::Findings;

/// A way in which a device can fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Fault {
    /// Writes fail.
    Write = 1,
    /// Reads fail.
    Read = 2,
    /// Writes fail for lack of space.
    Full = 4,
    /// Writes store half of the page and fail.
    Torn = 8,
    /// Half of the reads, writes and discards panic, chosen at random.
    Panic = 16,
    /// Movers, and one in eight other calls, pause for up to a few milliseconds before a write or read.
    Slow = 32,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Fault; 6] =
        [Fault::Write, Fault::Read, Fault::Full, Fault::Torn, Fault::Panic, Fault::Slow];
}

const WRITTEN: u32 = 1 << 31;

/// Panics without calling the panic hook, which records only panics that were not ordered.
fn panic_as_ordered() -> ! {
    std::panic::resume_unwind(Box::new("torture ordered this panic of the device"))
}

/// A device that fails on request. See the module's documentation.
#[derive(Debug)]
pub struct TortureDevice {
    inner: Arc<dyn SwapDevice>,
    clock: Arc<Clock>,
    marks: Arc<Marks>,
    tally: Arc<Tally>,
    findings: Arc<Findings>,
    /// The active faults, as bits.
    faults: AtomicU8,
    /// The longest pause before a write or read, in microseconds. [`Fault::Slow`] makes it longer.
    pause: u32,
    /// For each slot, the number of its readers and whether it holds a page.
    slots: Box<[AtomicU32]>,
    /// Slots that hold a page: written and not discarded since.
    written: AtomicUsize,
    /// The device counts as full if at least this number of slots hold a page.
    full_from: usize,
    /// The stamp of the last discard that made room on a full device.
    full: AtomicU64,
    /// Discards that may have lowered `written` already and have not set `full` yet.
    discarding: AtomicUsize,
    failed_write: AtomicU64,
    /// When a write last failed, in nanoseconds since `made`, plus one; 0 if no write has failed.
    failed_at: AtomicU64,
    made: Instant,
    failed_read: AtomicU64,
}

impl TortureDevice {
    /// Wraps `inner`. Nothing fails yet; writes and reads pause for up to `pause`. At most `in_hand`
    /// slots are allocated without holding a page, because they are about to be written or were just
    /// discarded.
    pub fn new(
        inner: Arc<dyn SwapDevice>,
        pause: Duration,
        in_hand: usize,
        clock: Arc<Clock>,
        marks: Arc<Marks>,
        tally: Arc<Tally>,
        findings: Arc<Findings>,
    ) -> Self {
        let slots: Box<[_]> = (0..inner.capacity()).map(|_| AtomicU32::new(0)).collect();
        TortureDevice {
            inner,
            clock,
            marks,
            tally,
            findings,
            faults: AtomicU8::new(0),
            pause: u32::try_from(pause.as_micros()).unwrap_or(u32::MAX),
            full_from: slots.len().saturating_sub(in_hand),
            slots,
            written: AtomicUsize::new(0),
            full: AtomicU64::new(0),
            discarding: AtomicUsize::new(0),
            failed_write: AtomicU64::new(0),
            failed_at: AtomicU64::new(0),
            made: Instant::now(),
            failed_read: AtomicU64::new(0),
        }
    }

    /// Activates exactly these faults.
    pub fn set(&self, faults: &[Fault]) {
        let bits = faults.iter().fold(0, |bits, fault| bits | *fault as u8);
        self.faults.store(bits, Ordering::SeqCst);
    }

    /// Returns whether any fault is active.
    pub fn is_failing(&self) -> bool {
        self.faults.load(Ordering::SeqCst) != 0
    }

    /// Returns whether a write failed at or after a stamp.
    pub fn failed_a_write_since(&self, stamp: u64) -> bool {
        self.failed_write.load(Ordering::SeqCst) >= stamp
    }

    /// Returns whether a read failed at or after a stamp.
    pub fn failed_a_read_since(&self, stamp: u64) -> bool {
        self.failed_read.load(Ordering::SeqCst) >= stamp
    }

    /// Returns whether a write failed at or after an instant.
    pub fn failed_a_write_after(&self, moment: Instant) -> bool {
        let failed_at = self.failed_at.load(Ordering::SeqCst).checked_sub(1);
        failed_at.is_some_and(|nanos| self.made + Duration::from_nanos(nanos) >= moment)
    }

    /// Returns whether all slots may have been taken at some moment at or after a stamp.
    pub fn was_full_since(&self, stamp: u64) -> bool {
        // The order of these loads matters. `discard` raises `discarding` before it lowers `written`,
        // and lowers `discarding` after it has set `full`.
        self.written.load(Ordering::SeqCst) >= self.full_from
            || self.discarding.load(Ordering::SeqCst) > 0
            || self.full.load(Ordering::SeqCst) >= stamp
    }

    /// Returns the number of slots that hold a page.
    pub fn written_slots(&self) -> usize {
        self.slots.iter().filter(|slot| slot.load(Ordering::SeqCst) & WRITTEN != 0).count()
    }

    fn is_on(&self, fault: Fault) -> bool {
        self.faults.load(Ordering::SeqCst) & fault as u8 != 0
    }

    fn fail(&self, last: &AtomicU64) {
        // The stamp is taken before the call returns, so it is below the end of any call that reports
        // the failure.
        last.fetch_max(self.clock.stamp(), Ordering::SeqCst);
        if core::ptr::eq(last, &self.failed_write) {
            let nanos = u64::try_from(self.made.elapsed().as_nanos()).unwrap_or(u64::MAX - 1);
            self.failed_at.fetch_max(nanos + 1, Ordering::SeqCst);
        }
    }

    fn panics_now(&self) -> bool {
        self.is_on(Fault::Panic) && Rng::new(self.clock.stamp()).below(2) == 0
    }

    fn misused(&self, what: &str, slot: u64) {
        let what = format!("slot {slot} of the device {what}");
        self.findings.report("the device was misused", what);
    }

    fn slot(&self, slot: u64) -> Option<&AtomicU32> {
        self.slots.get(usize::try_from(slot).ok()?)
    }

    /// Pauses. If [`Fault::Panic`] is active, then panics at random, and records that failure in `last`.
    fn take_time(&self, last: &AtomicU64) {
        let most = if self.is_on(Fault::Slow) { 5 * self.pause + 2000 } else { self.pause };
        let mut rng = Rng::new(self.clock.last());
        let pause = rng.below(most as usize + 1);
        // A mover that is slow here gives other threads the most time to overtake it.
        if most > 0 && (action::is_mover() || rng.below(8) == 0) {
            std::thread::sleep(Duration::from_micros(pause as u64));
        }
        if self.panics_now() {
            self.fail(last);
            panic_as_ordered();
        }
    }
}

impl SwapDevice for TortureDevice {
    fn capacity(&self) -> u64 {
        self.inner.capacity()
    }

    fn write_page(&self, slot: u64, page: &Page) -> Result<(), DeviceError> {
        self.marks.moves(page, &self.tally);
        self.take_time(&self.failed_write);
        if let Some(state) = self.slot(slot) {
            self.written.fetch_add(1, Ordering::SeqCst);
            if state.fetch_or(WRITTEN, Ordering::SeqCst) != 0 {
                self.misused("was written while it holds a page or is read", slot);
            }
        }
        if self.is_on(Fault::Torn) {
            let mut half = *page;
            half[page.len() / 2..].fill(0xDD);
            let _ = self.inner.write_page(slot, &half);
            self.fail(&self.failed_write);
            let cut = io::Error::other("torture tore this write");
            return Err(DeviceError::io("write", slot, &cut));
        }
        if self.is_on(Fault::Full) || self.is_on(Fault::Write) {
            self.fail(&self.failed_write);
            let kind = if self.is_on(Fault::Full) {
                io::ErrorKind::StorageFull
            } else {
                io::ErrorKind::Other
            };
            return Err(DeviceError::io("write", slot, &io::Error::from(kind)));
        }
        self.inner.write_page(slot, page)
    }

    fn read_page(&self, slot: u64, page: &mut Page) -> Result<(), DeviceError> {
        let state = self.slot(slot);
        if state.is_some_and(|state| state.fetch_add(1, Ordering::SeqCst) & WRITTEN == 0) {
            self.misused("was read while it holds no page", slot);
        }
        // Removes the reader from the count, even if the device panics.
        struct Done<'a>(Option<&'a AtomicU32>);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                if let Some(state) = self.0 {
                    state.fetch_sub(1, Ordering::SeqCst);
                }
            }
        }
        let _done = Done(state);
        self.take_time(&self.failed_read);
        if self.is_on(Fault::Read) {
            page[..100].fill(0xEE);
            self.fail(&self.failed_read);
            let broken = io::Error::other("torture broke this read");
            return Err(DeviceError::io("read", slot, &broken));
        }
        self.inner.read_page(slot, page)
    }

    fn discard(&self, slot: u64) {
        if let Some(state) = self.slot(slot) {
            if state.load(Ordering::SeqCst) & !WRITTEN != 0 {
                self.misused("was discarded while it is read", slot);
            }
            self.inner.discard(slot);
            if state.fetch_and(!WRITTEN, Ordering::SeqCst) & WRITTEN != 0 {
                self.discarding.fetch_add(1, Ordering::SeqCst);
                if self.written.fetch_sub(1, Ordering::SeqCst) >= self.full_from {
                    self.full.fetch_max(self.clock.stamp(), Ordering::SeqCst);
                }
                self.discarding.fetch_sub(1, Ordering::SeqCst);
            }
        }
        if self.panics_now() {
            panic_as_ordered();
        }
    }

    fn inner(&self) -> &[Arc<dyn SwapDevice>] {
        std::slice::from_ref(&self.inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zswap_core::PAGE_SIZE;
    use zswap_core::device::MemorySwapDevice;

    fn device() -> (TortureDevice, Arc<Findings>) {
        let (clock, findings) = (Arc::new(Clock::default()), Arc::new(Findings::default()));
        let (marks, tally) = (Arc::new(Marks::new(1)), Arc::new(Tally::default()));
        let inner = Arc::new(MemorySwapDevice::new(4));
        let pause = Duration::ZERO;
        (TortureDevice::new(inner, pause, 1, clock, marks, tally, findings.clone()), findings)
    }

    #[test]
    fn faults_leave_their_stamp() {
        let (device, findings) = device();
        let mut page = [1; PAGE_SIZE];
        device.write_page(0, &page).unwrap();
        assert!(!device.failed_a_write_since(1) && !device.is_failing());
        for fault in [Fault::Write, Fault::Full, Fault::Torn] {
            device.set(&[fault]);
            assert!(device.write_page(1, &page).is_err(), "{fault:?}");
            assert!(device.failed_a_write_since(1) && device.failed_a_write_after(device.made));
            device.discard(1);
        }
        device.set(&[Fault::Read]);
        assert!(device.read_page(0, &mut page).is_err());
        assert!(device.failed_a_read_since(1));
        device.set(&[]);
        device.read_page(0, &mut page).unwrap();
        assert_eq!((page, device.written_slots()), ([1; PAGE_SIZE], 1));
        assert_eq!(findings.first(), None);
    }

    #[test]
    fn it_was_full_while_all_but_those_in_hand_were_written() {
        let (device, _) = device();
        let page = [1; PAGE_SIZE];
        (0..2).for_each(|slot| device.write_page(slot, &page).unwrap());
        assert!(!device.was_full_since(1));
        device.write_page(2, &page).unwrap();
        assert!(device.was_full_since(u64::MAX));
        let before = device.clock.stamp();
        device.discard(2);
        assert!(device.was_full_since(before) && !device.was_full_since(device.clock.stamp()));
    }

    #[test]
    fn misuse_is_found() {
        let uses: [fn(&TortureDevice); 2] = [
            |device| {
                let _ = device.write_page(2, &[0; PAGE_SIZE]);
                let _ = device.write_page(2, &[0; PAGE_SIZE]);
            },
            |device| {
                let _ = device.read_page(2, &mut [0; PAGE_SIZE]);
            },
        ];
        for misuse in uses {
            let (device, findings) = device();
            misuse(&device);
            assert!(findings.any());
        }
    }
}
