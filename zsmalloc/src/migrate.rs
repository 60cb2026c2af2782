//! Migration: moving a whole zspage to other pages, so that a block of address space becomes empty.
//!
//! It has three steps, as in the kernel:
//! 1. *Isolate*: take the zspage off its list, so that no allocation finds it. Reads and frees in
//!    it continue.
//! 2. *Migrate*: get another run and touch its pages. Then write-lock the lanes of all objects, copy
//!    the bytes (at most 64 KiB), change the base, and release the lanes. This step fails, without
//!    effect, if an object has a guard, is being written, or is parked.
//! 3. *Put back*: return the zspage to a list, with its old pages or the new ones. If its last
//!    object was freed meanwhile, detach it instead.
//!
//! Neither handles nor slots change: a handle names a slot, and a slot names a zspage, not an
//! address. A reader loads the base after it has locked its lane.

use core::ops::Range;

use zpool_api::{Migration, PageRun, ZpoolError};
use zpool_base::lockdep::might_sleep;

use crate::class::{ClassGuard, Putback};
use crate::shared::Core;
use crate::zspage::Zspage;

/// The outcome of migrating one zspage.
enum Step {
    /// The zspage has been moved to other pages.
    Moved,
    /// The zspage was detached meanwhile, or its run does not begin in the range.
    Gone,
    /// One of the zspage's objects is in use, or somebody else has isolated the zspage.
    Left,
}

/// Returns whether a zspage's run begins in a range of addresses. The answer is exact under the lock of
/// the zspage's class.
fn begins_in(z: &Zspage, range: &Range<usize>) -> bool {
    z.run_base().is_some_and(|base| range.contains(&base.addr().get()))
}

/// A zspage that is isolated while the provider is called. Dropping it puts the zspage back.
struct Isolated<'a> {
    core: &'a Core,
    class: u16,
    zspage: u32,
    z: &'a Zspage,
}

impl Drop for Isolated<'_> {
    fn drop(&mut self) {
        let putback = self.core.lock(self.class).putback(self.zspage, self.z, 0);
        if let Putback::Emptied(detached) = putback {
            self.core.leave(detached);
        }
    }
}

impl Core {
    /// Moves the zspages whose runs begin in a range of addresses, except zspages in use. Returns
    /// the number of zspages moved and the number left. Stops with an error at the first run that
    /// the provider refuses.
    pub(crate) fn migrate(&self, range: &Range<usize>) -> Result<Migration, ZpoolError> {
        might_sleep("zsmalloc: migration");
        let mut done = Migration::default();
        for (zspage, z) in self.zspages.iter() {
            // This check takes no lock; `migrate_zspage` repeats it under the lock.
            if !begins_in(z, range) {
                continue;
            }
            match self.migrate_zspage(zspage, z, range)? {
                Step::Moved => done.zspages += 1,
                Step::Left => done.left += 1,
                Step::Gone => {}
            }
        }
        Ok(done)
    }

    fn migrate_zspage(
        &self,
        zspage: u32,
        z: &Zspage,
        range: &Range<usize>,
    ) -> Result<Step, ZpoolError> {
        let Some(mut locked) = self.lock_class_of(z) else { return Ok(Step::Gone) };
        if !begins_in(z, range) {
            return Ok(Step::Gone);
        }
        let class = locked.number;
        if z.is_isolated() {
            return Ok(Step::Left);
        }
        locked.isolate(z);
        let (pages, needed) = (usize::from(locked.size.pages), z.touched.get() & !z.holes.get());
        drop(locked);

        // If the provider panics, dropping `isolated` puts the zspage back.
        let isolated = Isolated { core: self, class, zspage, z };
        let fresh = self.provider.alloc_run(pages).map(|run| self.touched_run(run, needed));
        core::mem::forget(isolated);
        // An isolated zspage stays in its class.
        let mut locked = self.lock(class);
        let (unused, step) = match fresh {
            Ok(fresh) => {
                // SAFETY: isolated above, so the zspage is still in this class. The run is fresh,
                // has the class's length, and its pages that objects need were touched.
                let (run, step) = unsafe { self.change_pages(&mut locked, z, fresh) };
                (Some(run), Ok(step))
            }
            Err(error) => (None, Err(error.into())),
        };
        let putback = locked.putback(zspage, z, 0);
        drop(locked);
        if let Putback::Emptied(detached) = putback {
            self.leave(detached);
        }
        if let Some(run) = unused {
            // SAFETY: a run of this provider: the fresh one, which nobody else has seen, or the old
            // one, whose base no reader can find any more (`change_pages`).
            unsafe { self.provider.free_run(run) };
        }
        self.tidy_up();
        step
    }

    /// Makes exactly these pages of a run resident, before any reader is locked out.
    fn touched_run(&self, mut run: PageRun, pages: u16) -> PageRun {
        for page in 0..run.pages() {
            if pages >> page & 1 == 0 {
                // SAFETY: the run is from this provider and belongs to this call alone.
                unsafe { self.provider.discard(&mut run, page..page + 1) };
            } else if run.mark_resident(page..page + 1) == 1 {
                // SAFETY: the page is in the run.
                let byte = unsafe { run.base().as_ptr().add(page * self.page_size()) };
                // SAFETY: the run belongs to this call alone.
                unsafe { byte.write_volatile(0) };
            }
        }
        run
    }

    /// Moves the objects of an isolated zspage to `fresh`, unless one of them is in use. Returns
    /// the run that is left over: the old one, or `fresh` on failure.
    ///
    /// # Safety
    /// The caller has isolated the zspage, which is in the locked class. `fresh` is a run of the
    /// pool's provider, and has the class's length. For each page of the zspage that holds an
    /// object, the page at the same offset in `fresh` is resident.
    unsafe fn change_pages(
        &self,
        locked: &mut ClassGuard<'_>,
        z: &Zspage,
        fresh: PageRun,
    ) -> (PageRun, Step) {
        // Frees may have made holes since the zspage was isolated, but no page was touched.
        let needed = z.touched.get() & !z.holes.get();
        let objects = usize::from(locked.size.objects);
        if !self.write_lock_all(z, objects) {
            return (fresh, Step::Left);
        }
        let old = z.base();
        for index in self.used_lanes(z, objects) {
            // Shows the model checker that the pages' next owner writes to the place that the object leaves.
            self.lane(z, index).bytes.write();
        }
        let mut left = needed;
        while left != 0 {
            let page = left.trailing_zeros() as usize;
            left &= left - 1;
            // SAFETY: the page is in the zspage's run.
            let from = unsafe { old.add(page * self.page_size()) };
            // SAFETY: the page is in the fresh run, which is as long.
            let to = unsafe { fresh.base().add(page * self.page_size()) };
            // SAFETY: two different runs. All objects of the old one are write-locked, and nobody
            // uses its free places (invariant 1 of the pool); the fresh one belongs to this call alone.
            unsafe { to.copy_from_nonoverlapping(from, self.page_size()) };
        }
        // SAFETY: the write lock of every USED lane is held, and all pages that hold objects were copied.
        let run = unsafe { locked.rebase(z, fresh, needed) };
        for index in self.used_lanes(z, objects) {
            // SAFETY: `write_lock_all` locked it, and nobody takes or clears a lane of the zspage
            // while the class lock is held. The base leads to the copies.
            unsafe { self.lane(z, index).write_unlock() };
        }
        (run, Step::Moved)
    }

    fn used_lanes<'a>(&'a self, z: &'a Zspage, objects: usize) -> impl Iterator<Item = usize> + 'a {
        (0..objects).filter(move |&index| self.lane(z, index).is_used())
    }

    /// Write-locks the lanes of all objects and returns true. If one cannot be locked, locks none and
    /// returns false. The caller holds the class lock.
    fn write_lock_all(&self, z: &Zspage, objects: usize) -> bool {
        let refused =
            self.used_lanes(z, objects).find(|&index| !self.lane(z, index).write_trylock());
        if let Some(refused) = refused {
            for index in self.used_lanes(z, refused) {
                // SAFETY: locked just now; nothing was moved.
                unsafe { self.lane(z, index).write_unlock() };
            }
        }
        refused.is_none()
    }
}
