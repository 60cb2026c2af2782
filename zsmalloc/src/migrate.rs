//! Migration: a whole zspage moves to other pages, so that a block of address space runs empty.
//!
//! Three steps, as the kernel's. *Isolate*: the zspage leaves its lists, so that no allocation finds
//! it; reads and frees in it go on. *Migrate*: with a run of other pages at hand, touched already,
//! the lane of every object is write-locked by trying, all or none; the bytes are copied, 64 KiB at
//! most, the base changed, and the lanes let go. *Put back*: the zspage is on its lists again, with
//! the old pages or the new ones. A guard, or an object that is being written or parked, makes the
//! second step fail, which leaves everything as it was.
//!
//! Neither handles nor slots change: they name the zspage, not its address. A reader takes the base
//! after it has locked its lane.

use core::ops::Range;

use zpool_api::{Migration, PageRun, ZpoolError};
use zpool_base::lockdep::might_sleep;

use crate::class::{ClassGuard, Putback};
use crate::shared::Core;
use crate::zspage::Zspage;

/// What became of a zspage.
enum Step {
    /// On other pages now.
    Moved,
    /// Gone meanwhile, or never there.
    Gone,
    /// In use by a guard or a writer, or isolated by somebody else.
    Left,
}

/// Whether a zspage's run begins in a range of addresses. Exact under its class's lock.
fn begins_in(z: &Zspage, range: &Range<usize>) -> bool {
    z.run_base().is_some_and(|base| range.contains(&base.addr().get()))
}

/// A zspage that is isolated while the provider is called. Dropped, it is put back.
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
    /// Moves the zspages that begin in a range of addresses. Ends at the first run that the provider
    /// refuses.
    pub(crate) fn migrate(&self, range: &Range<usize>) -> Result<Migration, ZpoolError> {
        might_sleep("zsmalloc: migration");
        let mut done = Migration::default();
        for (zspage, z) in self.zspages.iter() {
            // A look without the lock; `migrate_zspage` looks again.
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

        // Put back also if the provider panics.
        let isolated = Isolated { core: self, class, zspage, z };
        let fresh = self.provider.alloc_run(pages).map(|run| self.touched_run(run, needed));
        core::mem::forget(isolated);
        // An isolated zspage stays in its class.
        let mut locked = self.lock(class);
        let (unused, step) = match fresh {
            Ok(fresh) => {
                // SAFETY: isolated above, so it is in this class still. The run is fresh, of the
                // class's length, and the pages of objects were touched in it.
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
            // SAFETY: a run of this provider: the fresh one, which nobody has seen, or the old one,
            // whose base no reader can find any more (`change_pages`).
            unsafe { self.provider.free_run(run) };
        }
        self.tidy_up();
        step
    }

    /// Has the system back these pages of a run and no others, before any reader is locked out.
    fn touched_run(&self, mut run: PageRun, pages: u16) -> PageRun {
        for page in 0..run.pages() {
            if pages >> page & 1 == 0 {
                // SAFETY: the run is this call's alone, from this provider.
                unsafe { self.provider.discard(&mut run, page..page + 1) };
            } else if run.mark_resident(page..page + 1) == 1 {
                // SAFETY: a page of the run.
                let byte = unsafe { run.base().as_ptr().add(page * self.page_size()) };
                // SAFETY: the run is this call's alone.
                unsafe { byte.write_volatile(0) };
            }
        }
        run
    }

    /// Puts the objects of an isolated zspage on `fresh`, unless one of them is in use. The run that
    /// is not needed afterwards, the old one or the fresh one.
    ///
    /// # Safety
    /// The caller has isolated the zspage, which is of the class locked; `fresh` is a run of the pool's
    /// provider, of the class's length, in which the pages are resident that objects of the zspage are in.
    unsafe fn change_pages(
        &self,
        locked: &mut ClassGuard<'_>,
        z: &Zspage,
        fresh: PageRun,
    ) -> (PageRun, Step) {
        // Frees may have dug holes since it was isolated, but nobody has touched a page.
        let needed = z.touched.get() & !z.holes.get();
        let objects = usize::from(locked.size.objects);
        if !self.write_lock_all(z, objects) {
            return (fresh, Step::Left);
        }
        let old = z.base();
        for index in self.used_lanes(z, objects) {
            // Moved away from here, which whoever gets the pages next writes to.
            self.lane(z, index).bytes.write();
        }
        let mut left = needed;
        while left != 0 {
            let page = left.trailing_zeros() as usize;
            left &= left - 1;
            // SAFETY: a page of the zspage's run.
            let from = unsafe { old.add(page * self.page_size()) };
            // SAFETY: and of the fresh one, which is as long.
            let to = unsafe { fresh.base().add(page * self.page_size()) };
            // SAFETY: two runs. All objects of the old one are write-locked and its free places
            // nobody's (invariant 1 of the pool); the fresh one is this call's alone.
            unsafe { to.copy_from_nonoverlapping(from, self.page_size()) };
        }
        // SAFETY: the write lock of every USED lane is held, and all pages that objects are in were copied.
        let run = unsafe { locked.rebase(z, fresh, needed) };
        for index in self.used_lanes(z, objects) {
            // SAFETY: locked by `write_lock_all`: nobody takes or clears a lane of it meanwhile, under the
            // class lock. The base leads to the copies.
            unsafe { self.lane(z, index).write_unlock() };
        }
        (run, Step::Moved)
    }

    fn used_lanes<'a>(&'a self, z: &'a Zspage, objects: usize) -> impl Iterator<Item = usize> + 'a {
        (0..objects).filter(move |&index| self.lane(z, index).is_used())
    }

    /// Write-locks the lane of every object there is, or none. Under the class lock.
    fn write_lock_all(&self, z: &Zspage, objects: usize) -> bool {
        let refused =
            self.used_lanes(z, objects).find(|&index| !self.lane(z, index).write_trylock());
        if let Some(refused) = refused {
            for index in self.used_lanes(z, refused) {
                // SAFETY: locked just now, and nothing was moved.
                unsafe { self.lane(z, index).write_unlock() };
            }
        }
        refused.is_none()
    }
}
