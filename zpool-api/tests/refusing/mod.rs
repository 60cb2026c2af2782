//! An allocator that can refuse memory. It grants a thread a given number of allocations and refuses all
//! others.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Refusing;

thread_local! {
    /// Number of allocations that this thread may still make. `usize::MAX` means no limit.
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

// SAFETY: every pointer comes from the system allocator or is null.
unsafe impl GlobalAlloc for Refusing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: passes the caller's arguments on unchanged.
        if grants() { unsafe { System.alloc(layout) } } else { std::ptr::null_mut() }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: passes the caller's arguments on unchanged.
        if grants() { unsafe { System.alloc_zeroed(layout) } } else { std::ptr::null_mut() }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: passes the caller's arguments on unchanged.
        unsafe { System.dealloc(at, layout) };
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: passes the caller's arguments on unchanged.
        if grants() { unsafe { System.realloc(at, layout, size) } } else { std::ptr::null_mut() }
    }
}

#[global_allocator]
static ALLOCATOR: Refusing = Refusing;

/// Runs `work`. Grants it the first `granted` allocations and refuses all others. Returns the number of
/// refusals. If `work` cannot handle a refusal, the process aborts and the test fails.
pub(crate) fn with_allocations(granted: usize, work: impl FnOnce()) -> usize {
    REFUSED.with(|refused| refused.set(0));
    GRANTED.with(|left| left.set(granted));
    work();
    GRANTED.with(|left| left.set(usize::MAX));
    REFUSED.with(Cell::get)
}

/// Takes and releases some ranks once. On a thread's first use, lockdep may set up data of its own; this
/// makes it do so before allocations are refused.
#[allow(dead_code, reason = "not every test that includes this file takes ranked locks")]
pub(crate) fn warm_lockdep() {
    use zpool_base::lockdep::{Rank, acquire};
    let _held = [Rank::Entry, Rank::Pool, Rank::Zspage, Rank::Leaf].map(acquire);
}
