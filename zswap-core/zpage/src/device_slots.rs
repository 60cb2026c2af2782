//! A device's slots: which are taken, which are being read, and every call of the device.
//!
//! A slot that is given up while it is read is free once its last reader has gone, so a reader never
//! finds another page in it. Only then is it discarded, and after that free.
//!
//! Numbers recur: a slot that was given up is taken again. Whoever compares a number that it read
//! earlier with one that an entry names now keeps the slot pinned until it has compared; a pinned slot
//! is not given to anybody, so an equal number is the same page.
//!
//! A device that panics has failed that one call ([`DeviceError::Panicked`]); its slot is neither lost
//! nor given twice.
//!
//! Lock: a mutex, a leaf, held for a few steps; only a slot that was never taken before allocates under
//! it. The device is called without it. Pinning allocates nothing and waits for nobody, as it is done
//! under an entry's lock.

mod readers;

use std::sync::Arc;

use zpool_base::lockdep::{self, Rank, might_sleep};
use zpool_base::unwind::caught;

use self::readers::Readers;
use crate::Page;
use crate::device::{AttachError, Attached, DeviceError, SwapDevice};
use crate::sync::{Condvar, Mutex};
use zpool_base::bitmap::Bitmap;

/// Slots that an entry's word can name.
const MOST: u64 = 1 << 32;

#[derive(Debug)]
struct State {
    taken: Bitmap,
    read: Readers,
    /// Threads that wait until another slot can be read.
    waiting: usize,
}

/// A device with its slots.
#[derive(Debug)]
pub struct Slots {
    device: Attached,
    capacity: u64,
    state: Mutex<State>,
    /// A slot has lost its last reader.
    unread: Condvar,
}

/// A call of the device; a panic of it is an error.
fn guarded<T>(
    operation: &'static str,
    slot: u32,
    call: impl FnOnce() -> Result<T, DeviceError>,
) -> Result<T, DeviceError> {
    let slot = u64::from(slot);
    caught(call).unwrap_or_else(|| Err(DeviceError::Panicked { operation, slot }))
}

impl Slots {
    /// Attaches a device of which no slot is taken, until the result is dropped.
    ///
    /// # Errors
    /// [`AttachError`]; above all, the device may be attached to another store.
    pub fn attach(device: Arc<dyn SwapDevice>) -> Result<Self, AttachError> {
        let device = Attached::attach(device)?;
        let capacity = caught(|| device.device().capacity());
        let capacity = capacity.ok_or(AttachError::Panicked { operation: "capacity" })?.min(MOST);
        let read = Readers::new().map_err(|_| AttachError::OutOfMemory)?;
        let state = Mutex::new(State { taken: Bitmap::default(), read, waiting: 0 });
        Ok(Slots { device, capacity, state, unread: Condvar::new() })
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let _held = lockdep::acquire(Rank::Leaf);
        change(&mut self.state.lock())
    }

    /// Takes the lowest free slot.
    ///
    /// # Errors
    /// [`DeviceError::Full`] if all are taken, [`DeviceError::OutOfMemory`] if there is no memory to
    /// note it, [`DeviceError::Forked`].
    pub fn take(&self) -> Result<TakenSlot<'_>, DeviceError> {
        if !self.device.is_here() {
            return Err(DeviceError::Forked);
        }
        match self.with(|state| state.taken.take(self.capacity)) {
            Ok(Some(slot)) => Ok(TakenSlot { slots: self, slot }),
            Ok(None) => Err(DeviceError::Full { slots: self.capacity }),
            Err(_) => Err(DeviceError::OutOfMemory),
        }
    }

    /// Slots taken; 0 in a process that is not the maker's.
    pub fn taken(&self) -> u64 {
        if self.device.is_here() { self.with(|state| state.taken.count()) } else { 0 }
    }

    /// Heap bytes of what is noted about slots, the device's own notes included; 0 in a process that is
    /// not the maker's.
    pub fn memory_bytes(&self) -> usize {
        if !self.device.is_here() {
            return 0;
        }
        let device = caught(|| self.device.device().memory_bytes()).unwrap_or(0);
        self.with(|state| state.taken.memory_bytes() + state.read.memory_bytes())
            .saturating_add(device)
    }

    /// Keeps a taken slot as it is while it is read. To be called where it is known to be taken: under
    /// the lock of the entry that names it. Does not block or allocate.
    ///
    /// `None` if as many slots are being read as can be, 256: let go of the entry's lock, call
    /// [`wait_for_readers`](Self::wait_for_readers), and look the entry up again.
    pub fn pin(&self, slot: u32) -> Option<ReadSlot<'_>> {
        // In a child nothing is counted, and its reads are errors.
        let pinned = !self.device.is_here() || self.with(|state| state.read.add(slot));
        pinned.then(|| ReadSlot { slots: self, slot })
    }

    /// Waits until another slot can be read. To be called with nothing locked and no slot pinned: those
    /// that are read now have to come to an end.
    pub fn wait_for_readers(&self) {
        might_sleep("waiting for readers of a device");
        if !self.device.is_here() {
            return;
        }
        let mut state = self.state.lock();
        state.waiting += 1;
        while !state.read.has_room() {
            state = self.unread.wait(state);
        }
        state.waiting -= 1;
    }

    /// Reads a slot that the caller keeps taken by a lock of its own, as zram's slot lock; others
    /// [`pin`](Self::pin) it. Blocks in the device.
    ///
    /// # Errors
    /// Those of the device, [`DeviceError::Panicked`], [`DeviceError::Forked`].
    pub fn read(&self, slot: u32, page: &mut Page) -> Result<(), DeviceError> {
        might_sleep("reading a slot");
        if !self.device.is_here() {
            return Err(DeviceError::Forked);
        }
        guarded("read", slot, || self.device.device().read_page(u64::from(slot), page))
    }

    /// Gives a slot up, now or when its last reader has gone. Blocks in the device.
    ///
    /// # Panics
    /// If the slot is free.
    pub fn give_up(&self, slot: u32) {
        if self.device.is_here() && !self.with(|state| state.read.give_up(slot)) {
            self.release(slot);
        }
    }

    /// Nobody reads it, and no entry names it.
    fn release(&self, slot: u32) {
        might_sleep("discarding a slot");
        // A hint: a device that panics in it keeps some space.
        let _ = caught(|| self.device.device().discard(u64::from(slot)));
        let was_taken = self.with(|state| state.taken.clear(slot));
        assert!(was_taken, "slot {slot} is free already");
    }
}

/// A slot that no entry names yet; given up when dropped.
#[derive(Debug)]
pub struct TakenSlot<'a> {
    slots: &'a Slots,
    slot: u32,
}

impl TakenSlot<'_> {
    /// Its number.
    pub fn number(&self) -> u64 {
        u64::from(self.slot)
    }

    /// Writes its page. Blocks in the device.
    ///
    /// # Errors
    /// Those of the device, [`DeviceError::Panicked`], [`DeviceError::Forked`].
    pub fn write(&self, page: &Page) -> Result<(), DeviceError> {
        might_sleep("writing a slot");
        let device = &self.slots.device;
        if !device.is_here() {
            return Err(DeviceError::Forked);
        }
        guarded("write", self.slot, || device.device().write_page(self.number(), page))
    }

    /// An entry names it from here on.
    pub fn keep(self) -> u32 {
        let slot = self.slot;
        core::mem::forget(self);
        slot
    }
}

impl Drop for TakenSlot<'_> {
    fn drop(&mut self) {
        self.slots.give_up(self.slot);
    }
}

/// A slot that is being read.
#[derive(Debug)]
pub struct ReadSlot<'a> {
    slots: &'a Slots,
    slot: u32,
}

impl ReadSlot<'_> {
    /// Its number.
    pub fn number(&self) -> u64 {
        u64::from(self.slot)
    }

    /// Reads its page. Blocks in the device.
    ///
    /// # Errors
    /// As [`Slots::read`].
    pub fn read(&self, page: &mut Page) -> Result<(), DeviceError> {
        self.slots.read(self.slot, page)
    }
}

impl Drop for ReadSlot<'_> {
    fn drop(&mut self) {
        if !self.slots.device.is_here() {
            return;
        }
        let (gone, wake) = self.slots.with(|state| {
            let gone = state.read.remove(self.slot);
            (gone, gone.last && state.waiting > 0)
        });
        if wake {
            self.slots.unread.notify_all();
        }
        if gone.release {
            self.slots.release(self.slot);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::PAGE_SIZE;
    use crate::device::MemorySwapDevice;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    fn attach(device: Arc<dyn SwapDevice>) -> Slots {
        Slots::attach(device).unwrap()
    }

    #[test]
    fn the_lowest_free_slot_is_given_until_all_are_taken() {
        let slots = attach(Arc::new(MemorySwapDevice::new(130)));
        let all: Vec<u32> = (0..130).map(|_| slots.take().unwrap().keep()).collect();
        assert_eq!(all, (0..130).collect::<Vec<_>>());
        assert_eq!(slots.take().unwrap_err(), DeviceError::Full { slots: 130 });
        slots.give_up(77);
        slots.give_up(3);
        assert_eq!(slots.taken(), 128);
        assert_eq!([0; 2].map(|_: i32| slots.take().unwrap().keep()), [3, 77]);
        assert_eq!(slots.pin(77).unwrap().number(), 77);
        drop(slots.take());
        slots.give_up(129);
        drop(slots.take().unwrap());
        assert_eq!(slots.taken(), 129, "one that no entry came to name is free again");
        let readers = Readers::new().unwrap().memory_bytes();
        let bitmap = slots.memory_bytes().checked_sub(readers).unwrap();
        assert!(bitmap >= 3 * 8 && bitmap % 8 == 0);
    }

    #[test]
    #[should_panic(expected = "slot 1 is free already")]
    fn a_slot_that_is_free_is_not_given_up() {
        let slots = attach(Arc::new(MemorySwapDevice::new(3)));
        assert_eq!(slots.take().map(TakenSlot::keep), Ok(0));
        slots.give_up(1);
    }

    #[test]
    fn a_slot_that_is_read_is_neither_discarded_nor_given_again() {
        let device = Arc::new(MemorySwapDevice::new(2));
        let slots = attach(device.clone());
        let taken = slots.take().unwrap();
        taken.write(&[1; PAGE_SIZE]).unwrap();
        let slot = taken.keep();
        let (one, two) = (slots.pin(slot).unwrap(), slots.pin(slot).unwrap());
        slots.give_up(slot);
        drop(one);
        assert_eq!((device.pages(), slots.taken()), (1, 1));
        assert_ne!(slots.take().unwrap().number(), two.number());
        let mut page = [0; PAGE_SIZE];
        two.read(&mut page).unwrap();
        assert_eq!(page, [1; PAGE_SIZE]);
        drop(two);
        assert_eq!((device.pages(), slots.taken()), (0, 0));
        assert_eq!(slots.take().unwrap().number(), 0);
    }

    #[test]
    fn more_readers_than_can_be_counted_wait_with_nothing_locked() {
        let slots = attach(Arc::new(MemorySwapDevice::new(1000)));
        let all = (0..readers::MOST).map(|_| slots.take().unwrap().keep());
        let mut pinned: Vec<_> = all.map(|slot| slots.pin(slot).unwrap()).collect();
        let beyond = slots.take().unwrap().keep();
        assert!(slots.pin(beyond).is_none());
        let again = slots.pin(pinned[0].slot).unwrap();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                slots.wait_for_readers();
                slots.pin(beyond).is_some()
            });
            while slots.with(|state| state.waiting) == 0 {
                std::thread::yield_now();
            }
            drop(again);
            assert!(!waits.is_finished(), "the slot has another reader");
            drop(pinned.pop());
            assert!(waits.join().unwrap());
        });
        slots.wait_for_readers();
    }

    /// Panics in every call while it is told to; its payloads panic in turn.
    #[derive(Debug)]
    struct Panics(MemorySwapDevice, AtomicBool);

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            std::panic::resume_unwind(Box::new(()));
        }
    }

    impl Panics {
        fn step(&self) {
            if self.1.load(SeqCst) {
                std::panic::resume_unwind(Box::new(Bomb));
            }
        }
    }

    impl SwapDevice for Panics {
        fn capacity(&self) -> u64 {
            self.0.capacity()
        }
        fn write_page(&self, slot: u64, page: &Page) -> Result<(), DeviceError> {
            self.step();
            self.0.write_page(slot, page)
        }
        fn read_page(&self, slot: u64, page: &mut Page) -> Result<(), DeviceError> {
            self.step();
            self.0.read_page(slot, page)
        }
        fn discard(&self, slot: u64) {
            self.step();
            self.0.discard(slot);
        }
        fn memory_bytes(&self) -> usize {
            self.step();
            0
        }
    }

    impl Drop for Panics {
        fn drop(&mut self) {
            self.step();
        }
    }

    #[test]
    fn a_device_that_panics_costs_no_slot_and_no_more_than_the_call() {
        let device = Arc::new(Panics(MemorySwapDevice::new(2), AtomicBool::new(true)));
        let slots = attach(device.clone());
        let panicked = |operation, slot| Err(DeviceError::Panicked { operation, slot });
        let mut page = [0; PAGE_SIZE];
        for _ in 0..3 {
            let taken = slots.take().unwrap();
            assert_eq!(taken.write(&page), panicked("write", 0));
            // Dropped: discarded, which panics as well.
        }
        assert_eq!(slots.taken(), 0);
        let one = slots.take().unwrap().keep();
        let pinned = slots.pin(one).unwrap();
        assert_eq!(pinned.read(&mut page), panicked("read", 0));
        slots.give_up(one);
        assert_eq!(slots.taken(), 1, "it is read");
        drop(pinned);
        assert_eq!(slots.taken(), 0);
        // Given up while a panic unwinds: the device's own does not end the process.
        let unwound = caught(|| {
            let _taken = slots.take().unwrap();
            std::panic::resume_unwind(Box::new("another"));
        });
        assert_eq!((unwound, slots.taken()), (None, 0));
        assert!(slots.memory_bytes() > 0);
        device.1.store(false, SeqCst);
        let both: Vec<_> = (0..2).map(|_| slots.take().unwrap()).collect();
        assert_eq!((both[0].number(), both[1].number()), (0, 1));
        assert!(both.iter().all(|slot| slot.write(&page).is_ok()) && slots.take().is_err());
        drop(both);
        // And in its destructor.
        device.1.store(true, SeqCst);
        drop(device);
        drop(slots);
    }

    #[test]
    fn a_device_that_panics_when_it_is_attached_is_refused_and_free() {
        #[derive(Debug)]
        struct Odd(AtomicBool, AtomicBool);
        impl SwapDevice for Odd {
            fn capacity(&self) -> u64 {
                assert!(!self.0.load(SeqCst));
                1
            }
            fn write_page(&self, _: u64, _: &Page) -> Result<(), DeviceError> {
                Ok(())
            }
            fn read_page(&self, slot: u64, _: &mut Page) -> Result<(), DeviceError> {
                Err(DeviceError::Missing { slot })
            }
            fn inner(&self) -> &[Arc<dyn SwapDevice>] {
                assert!(!self.1.load(SeqCst));
                &[]
            }
        }
        let device = Arc::new(Odd(AtomicBool::new(true), AtomicBool::new(true)));
        let refused = |operation| AttachError::Panicked { operation };
        assert_eq!(Slots::attach(device.clone()).unwrap_err(), refused("inner"));
        device.1.store(false, SeqCst);
        assert_eq!(Slots::attach(device.clone()).unwrap_err(), refused("capacity"));
        device.0.store(false, SeqCst);
        assert!(Slots::attach(device.clone()).is_ok());
    }
}
