//! An allocator that refuses: after so many allocations of a thread each further one fails.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Refusing;

thread_local! {
    /// Allocations that this thread is still granted.
    static GRANTED: Cell<usize> = const { Cell::new(usize::MAX) };
    static REFUSED: Cell<usize> = const { Cell::new(0) };
}

fn grants() -> bool {
    let granted = GRANTED.with(Cell::get);
    match granted {
        usize::MAX => true,
        0 => {
            REFUSED.with(|refused| refused.set(refused.get() + 1));
            false
        }
        _ => {
            GRANTED.with(|left| left.set(granted - 1));
            true
        }
    }
}

// SAFETY: the system's, or null.
unsafe impl GlobalAlloc for Refusing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: passed on as it came.
        if grants() { unsafe { System.alloc(layout) } } else { std::ptr::null_mut() }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: passed on as it came.
        if grants() { unsafe { System.alloc_zeroed(layout) } } else { std::ptr::null_mut() }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: passed on as it came.
        unsafe { System.dealloc(at, layout) };
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: passed on as it came.
        if grants() { unsafe { System.realloc(at, layout, size) } } else { std::ptr::null_mut() }
    }
}

#[global_allocator]
static ALLOCATOR: Refusing = Refusing;

/// Does some work with that many allocations granted; the allocations that were refused. A call that
/// cannot do without ends the process, and so fails the test.
pub(crate) fn with_allocations(granted: usize, work: impl FnOnce()) -> usize {
    REFUSED.with(|refused| refused.set(0));
    GRANTED.with(|left| left.set(granted));
    work();
    GRANTED.with(|left| left.set(usize::MAX));
    REFUSED.with(Cell::get)
}

/// Debug builds note the ranks of held locks in a vector of the thread's, which grows here.
#[allow(dead_code, reason = "not every test that includes this file takes ranked locks")]
pub(crate) fn warm_lockdep() {
    use zpool_base::lockdep::{Rank, acquire};
    let _held = [Rank::Entry, Rank::Pool, Rank::Zspage, Rank::Leaf].map(acquire);
}
