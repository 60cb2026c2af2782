//! A device's slots: which are taken and which are being read. Every call to the device is made here.
//!
//! A slot that is given up while it is being read stays taken, so its readers never find another page in
//! it. When its last reader has gone, the slot is discarded, and after that it is free.
//!
//! A freed slot may be taken again, and its number then means another page. So a thread that reads a slot's
//! number from an entry, and later compares it with the number in the entry, keeps the slot pinned in between.
//! While a slot is pinned, it is not taken again, so an equal number means the same page.
//!
//! If the device panics, only that call fails ([`DeviceError::Panicked`]). The call's slot is neither lost nor
//! taken twice.
//!
//! Lock: one leaf mutex, which is held briefly. Only the first use of a slot may allocate under the mutex. The
//! device is called without the mutex. Pinning neither allocates nor waits for readers, since it is done under an
//! entry's lock.

mod readers;

use std::sync::Arc;

use zpool_base::lockdep::{self, Rank, might_sleep};
use zpool_base::unwind::caught;

use self::readers::Readers;
use crate::Page;
use crate::device::{AttachError, Attached, DeviceError, SwapDevice};
use crate::sync::{Condvar, Mutex};
use zpool_base::bitmap::Bitmap;

/// The most slots that are used: an entry's word names a slot with 32 bits.
const MOST: u64 = 1 << 32;

#[derive(Debug)]
struct State {
    taken: Bitmap,
    read: Readers,
    /// The number of threads in `wait_for_readers`.
    waiting: usize,
}

/// A device with its slots. `Send` and `Sync`.
///
/// ```
/// use std::sync::Arc;
/// use zpage::PAGE_SIZE;
/// use zpage::device::MemorySwapDevice;
/// use zpage::device_slots::Slots;
///
/// let slots = Slots::attach(Arc::new(MemorySwapDevice::new(8)))?;
/// let taken = slots.take()?;
/// taken.write(&[7; PAGE_SIZE])?;
/// let slot = taken.keep();
///
/// let mut page = [0; PAGE_SIZE];
/// slots.pin(slot).expect("few slots are being read").read(&mut page)?;
/// assert_eq!(page, [7; PAGE_SIZE]);
/// slots.give_up(slot);
/// assert_eq!(slots.taken(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Slots {
    device: Attached,
    capacity: u64,
    state: Mutex<State>,
    /// Signalled when a slot loses its last reader.
    unread: Condvar,
}

/// Makes a call to the device. Turns a panic into [`DeviceError::Panicked`].
fn guarded<T>(
    operation: &'static str,
    slot: u32,
    call: impl FnOnce() -> Result<T, DeviceError>,
) -> Result<T, DeviceError> {
    let slot = u64::from(slot);
    caught(call).unwrap_or_else(|| Err(DeviceError::Panicked { operation, slot }))
}

impl Slots {
    /// Attaches a device until the result is dropped. No slot is taken at first.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zpage::device::{AttachError, MemorySwapDevice};
    /// use zpage::device_slots::Slots;
    ///
    /// let device = Arc::new(MemorySwapDevice::new(8));
    /// let slots = Slots::attach(device.clone())?;
    /// assert_eq!(Slots::attach(device.clone()).unwrap_err(), AttachError::InUse);
    /// drop(slots);
    /// assert!(Slots::attach(device).is_ok());
    /// # Ok::<(), AttachError>(())
    /// ```
    ///
    /// # Errors
    /// [`AttachError::InUse`] if the device, or one that it wraps, is attached already;
    /// [`AttachError::TooMany`] if it wraps too many devices; [`AttachError::Panicked`] if it panics;
    /// [`AttachError::OutOfMemory`] if there is no memory to attach it.
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

    /// Takes the lowest free slot. If the result is dropped before [`keep`](TakenSlot::keep) is called, the slot
    /// is given up.
    ///
    /// # Errors
    /// [`DeviceError::Full`] if all slots are taken; [`DeviceError::OutOfMemory`] if there is no memory to
    /// record that the slot is taken; [`DeviceError::Forked`] in a child after `fork`.
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

    /// Returns the number of slots that are taken; 0 in a child after `fork`.
    pub fn taken(&self) -> u64 {
        if self.device.is_here() { self.with(|state| state.taken.count()) } else { 0 }
    }

    /// Returns the heap bytes used to keep track of slots, including those of the device; 0 in a child after
    /// `fork`.
    pub fn memory_bytes(&self) -> usize {
        if !self.device.is_here() {
            return 0;
        }
        let device = caught(|| self.device.device().memory_bytes()).unwrap_or(0);
        self.with(|state| state.taken.memory_bytes() + state.read.memory_bytes())
            .saturating_add(device)
    }

    /// Pins a taken slot, so that it keeps its page while it is read. Call this under the lock of the entry
    /// that names the slot: then the slot is certain to be taken. This call neither waits for readers nor
    /// allocates.
    ///
    /// Returns `None` if nobody reads the slot and 256 others are being read. In this case release the entry's
    /// lock, call [`wait_for_readers`](Self::wait_for_readers), and look up the entry again.
    pub fn pin(&self, slot: u32) -> Option<ReadSlot<'_>> {
        // In a child after `fork` nothing is counted, and reads fail.
        let pinned = !self.device.is_here() || self.with(|state| state.read.add(slot));
        pinned.then(|| ReadSlot { slots: self, slot })
    }

    /// Waits until fewer than 256 slots are being read. Then another slot can be pinned.
    ///
    /// # Blocking
    /// Sleeps while 256 slots are being read. Call it with no lock held and no slot pinned, so that the readers
    /// can finish.
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

    /// Reads the page of a slot. The caller must make sure that the slot stays taken meanwhile. zram does so by
    /// holding the lock of the page. A caller without such a lock calls [`pin`](Self::pin), and then
    /// [`ReadSlot::read`].
    ///
    /// # Errors
    /// Those of the device; [`DeviceError::Panicked`] if it panics; [`DeviceError::Forked`] in a child
    /// after `fork`.
    ///
    /// # Blocking
    /// Blocks in the device.
    pub fn read(&self, slot: u32, page: &mut Page) -> Result<(), DeviceError> {
        might_sleep("reading a slot");
        if !self.device.is_here() {
            return Err(DeviceError::Forked);
        }
        guarded("read", slot, || self.device.device().read_page(u64::from(slot), page))
    }

    /// Gives up a slot. Discards and frees the slot now if nobody reads it, otherwise when its last reader has
    /// gone. Does nothing in a child after `fork`.
    ///
    /// # Panics
    /// If the slot is free already.
    ///
    /// # Blocking
    /// Blocks in the device.
    pub fn give_up(&self, slot: u32) {
        if self.device.is_here() && !self.with(|state| state.read.give_up(slot)) {
            self.release(slot);
        }
    }

    /// Discards and frees a slot that nobody reads and no entry names.
    fn release(&self, slot: u32) {
        might_sleep("discarding a slot");
        // Discarding is only a hint. If the device panics here, the slot's space may stay in use.
        let _ = caught(|| self.device.device().discard(u64::from(slot)));
        let was_taken = self.with(|state| state.taken.clear(slot));
        assert!(was_taken, "slot {slot} is free already");
    }
}

/// A taken slot that no entry names yet. Dropping this gives the slot up.
#[derive(Debug)]
pub struct TakenSlot<'a> {
    slots: &'a Slots,
    slot: u32,
}

impl TakenSlot<'_> {
    /// Returns the slot's number.
    pub fn number(&self) -> u64 {
        u64::from(self.slot)
    }

    /// Writes a page to the slot.
    ///
    /// # Errors
    /// Those of the device; [`DeviceError::Panicked`] if it panics; [`DeviceError::Forked`] in a child
    /// after `fork`.
    ///
    /// # Blocking
    /// Blocks in the device.
    pub fn write(&self, page: &Page) -> Result<(), DeviceError> {
        might_sleep("writing a slot");
        let device = &self.slots.device;
        if !device.is_here() {
            return Err(DeviceError::Forked);
        }
        guarded("write", self.slot, || device.device().write_page(self.number(), page))
    }

    /// Returns the slot's number and leaves the slot taken. From now on, the entry that stores the number owns
    /// the slot.
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

/// A pinned slot. It keeps its page until this is dropped.
#[derive(Debug)]
pub struct ReadSlot<'a> {
    slots: &'a Slots,
    slot: u32,
}

impl ReadSlot<'_> {
    /// Returns the slot's number.
    pub fn number(&self) -> u64 {
        u64::from(self.slot)
    }

    /// Reads the slot's page.
    ///
    /// # Errors
    /// Those of [`Slots::read`].
    ///
    /// # Blocking
    /// Blocks in the device.
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
        assert_eq!(slots.taken(), 129, "a slot dropped before an entry named it is free again");
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

    /// A device that panics while its flag is set: in every call except `capacity`, and when it is dropped. The
    /// payload of each panic panics again when it is dropped.
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
            // The drop discards the slot, which panics too.
        }
        assert_eq!(slots.taken(), 0);
        let one = slots.take().unwrap().keep();
        let pinned = slots.pin(one).unwrap();
        assert_eq!(pinned.read(&mut page), panicked("read", 0));
        slots.give_up(one);
        assert_eq!(slots.taken(), 1, "it is still being read");
        drop(pinned);
        assert_eq!(slots.taken(), 0);
        // The slot is given up while another panic unwinds. The device panics then, too, but the process must
        // not end.
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
        // The device's destructor panics, too.
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
