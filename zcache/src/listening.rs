//! The caches whose listeners a thread is in.
//!
//! A listener of evictions may insert into another cache, but not into its own: the insert might evict, and so on without
//! end. The same holds through other caches, so a thread notes all caches whose listeners it is in.

use core::cell::Cell;
use core::marker::PhantomData;

/// How many listeners may be nested on a thread. More evicted values are not shown.
const MOST: usize = 4;

thread_local! {
    /// The addresses of the caches' engines, from the outermost on. 0: none. An engine is alive while it is here.
    static WITHIN: Cell<[usize; MOST]> = const { Cell::new([0; MOST]) };
}

/// Returns whether the calling thread is in a listener of the cache whose engine has this address.
pub(crate) fn is_within(engine: usize) -> bool {
    WITHIN.try_with(|within| within.get().contains(&engine)).unwrap_or(false)
}

/// Notes until it is dropped that the thread is in a listener.
#[derive(Debug)]
pub(crate) struct Within {
    place: usize,
    /// It belongs to the thread that made it.
    _thread: PhantomData<*const ()>,
}

impl Within {
    /// Notes that the thread is in a listener of the cache whose engine has this address. Returns `None` if it is in one already, in too many of other
    /// caches, or if the thread is ending.
    pub(crate) fn enter(engine: usize) -> Option<Self> {
        let enter = |within: &Cell<[usize; MOST]>| {
            let mut all = within.get();
            if all.contains(&engine) {
                return None;
            }
            let place = all.iter().position(|&other| other == 0)?;
            all[place] = engine;
            within.set(all);
            Some(Within { place, _thread: PhantomData })
        };
        WITHIN.try_with(enter).ok().flatten()
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        let _ = WITHIN.try_with(|within| {
            let mut all = within.get();
            all[self.place] = 0;
            within.set(all);
        });
    }
}
