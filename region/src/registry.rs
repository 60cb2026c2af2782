//! The regions of this process, as the handler of faults finds them: by the address that was touched, without a lock.
//!
//! A place of the register names a region. A thread that finds the region adds itself to the place's users and looks
//! again; so who removes the region waits until nobody uses it.

use core::ptr::null_mut;
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use crate::served::Served;

const PLACES: usize = 32;

/// A place for a region.
#[derive(Debug)]
pub(crate) struct Place {
    start: AtomicUsize,
    len: AtomicUsize,
    region: AtomicPtr<Served>,
    users: AtomicUsize,
}

#[derive(Debug)]
struct Page {
    places: [Place; PLACES],
    next: AtomicPtr<Page>,
}

impl Page {
    const fn new() -> Page {
        let places = [const {
            Place {
                start: AtomicUsize::new(0),
                len: AtomicUsize::new(0),
                region: AtomicPtr::new(null_mut()),
                users: AtomicUsize::new(0),
            }
        }; PLACES];
        Page { places, next: AtomicPtr::new(null_mut()) }
    }

    fn next(&self) -> Option<&'static Page> {
        // SAFETY: a page of the register is leaked, and published (SeqCst) after it was made.
        unsafe { self.next.load(Ordering::SeqCst).as_ref() }
    }
}

static FIRST: Page = Page::new();
/// Held to find a free place, and to add a page of places.
static CHANGES: Mutex<()> = Mutex::new(());

fn pages() -> impl Iterator<Item = &'static Page> {
    core::iter::successors(Some(&FIRST), |page| page.next())
}

/// A region that a thread uses until this is dropped.
#[derive(Debug)]
pub(crate) struct Used {
    place: &'static Place,
    region: *const Served,
}

impl Used {
    pub(crate) fn region(&self) -> &Served {
        // SAFETY: the region was registered after this thread had become a user, and who removes it waits for users.
        unsafe { &*self.region }
    }
}

impl Drop for Used {
    fn drop(&mut self) {
        // SeqCst, throughout this file: a user adds itself and reads the pointer; who removes a region clears
        // the pointer and reads the users. One of the two sees the other.
        self.place.users.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Returns the region in which an address lies.
pub(crate) fn find(address: usize) -> Option<Used> {
    for place in pages().flat_map(|page| &page.places) {
        let start = place.start.load(Ordering::SeqCst);
        if address.wrapping_sub(start) >= place.len.load(Ordering::SeqCst) {
            continue;
        }
        place.users.fetch_add(1, Ordering::SeqCst);
        let used = Used { place, region: place.region.load(Ordering::SeqCst) };
        // The place may have another region by now.
        if !used.region.is_null() && used.region().contains(address) {
            return Some(used);
        }
    }
    None
}

/// Registers a region, which starts at `start`.
///
/// # Safety
/// The region stays where it is until [`remove`] has returned.
pub(crate) unsafe fn add(region: &Served, start: usize, len: usize) -> &'static Place {
    let _changes = CHANGES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let is_free = |place: &&Place| place.region.load(Ordering::SeqCst).is_null();
    let free = pages().flat_map(|page| &page.places).find(is_free);
    let place = free.unwrap_or_else(|| {
        let page: &'static Page = Box::leak(Box::new(Page::new()));
        let last = pages().last().unwrap_or(&FIRST);
        last.next.store((&raw const *page).cast_mut(), Ordering::SeqCst);
        &page.places[0]
    });
    place.region.store((&raw const *region).cast_mut(), Ordering::SeqCst);
    place.start.store(start, Ordering::SeqCst);
    place.len.store(len, Ordering::SeqCst);
    place
}

/// Removes a region. Waits until no thread uses it.
pub(crate) fn remove(place: &'static Place) {
    let changes = CHANGES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    place.len.store(0, Ordering::SeqCst);
    place.region.store(null_mut(), Ordering::SeqCst);
    // A fault may take as long as a device, and a child that is forked meanwhile would inherit the lock.
    drop(changes);
    while place.users.load(Ordering::SeqCst) > 0 {
        std::thread::sleep(core::time::Duration::from_micros(50));
    }
}
