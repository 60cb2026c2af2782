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
use core::ptr::NonNull;

use zpool_api::{Migration, PageRun, ZpoolError};
use zpool_base::lockdep::might_sleep;

use crate::class::Locked;
use crate::pool::Core;
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

/// A zspage that is isolated while the provider is called. Dropped, it is put back.
struct Isolated<'a> {
    core: &'a Core,
    class: u16,
    zspage: u32,
    z: &'a Zspage,
}

impl Drop for Isolated<'_> {
    fn drop(&mut self) {
        let Some(mut locked) = self.core.lock(self.class) else { return };
        let detached = locked.put_back(self.zspage, self.z, 0);
        drop(locked);
        if let Some(detached) = detached {
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
        // Zspage numbers fit in 32 bits.
        for zspage in 0..self.zspages.len() as u32 {
            let Some(z) = self.zspages.get(zspage) else { break };
            // A look without the lock; `isolate` looks again.
            if !range.contains(&z.base().addr()) {
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
        let Some(mut locked) = z.class().and_then(|class| self.lock(class)) else {
            return Ok(Step::Gone);
        };
        let class = locked.number;
        if z.class() != Some(class) || !range.contains(&z.base().addr()) {
            return Ok(Step::Gone);
        }
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
        let Some(mut locked) = self.lock(class) else { return Ok(Step::Gone) };
        let (unused, step) = match fresh {
            Ok(fresh) => {
                let (run, moved) = self.change_pages(&mut locked, z, fresh);
                (Some(run), Ok(if moved { Step::Moved } else { Step::Left }))
            }
            Err(error) => (None, Err(error.into())),
        };
        let detached = locked.put_back(zspage, z, 0);
        drop(locked);
        if let Some(detached) = detached {
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
                let byte = unsafe { run.base().as_ptr().add(page * self.page_size) };
                // SAFETY: the run is this call's alone.
                unsafe { byte.write_volatile(0) };
            }
        }
        run
    }

    /// Puts the objects of an isolated zspage on `fresh`, unless one of them is in use. The run that
    /// is not needed afterwards, and whether it is the old one.
    fn change_pages(&self, locked: &mut Locked<'_>, z: &Zspage, fresh: PageRun) -> (PageRun, bool) {
        // Frees may have dug holes since it was isolated, but nobody has touched a page.
        let needed = z.touched.get() & !z.holes.get();
        let objects = usize::from(locked.size.objects);
        if !self.write_lock_all(z, objects) {
            return (fresh, false);
        }
        let Some(old) = NonNull::new(z.base()) else { return (fresh, false) };
        for index in self.used_lanes(z, objects) {
            // Moved away from here, which whoever gets the pages next writes to.
            self.lane(z, index).bytes.write();
        }
        let mut left = needed;
        while left != 0 {
            let page = left.trailing_zeros() as usize;
            left &= left - 1;
            // SAFETY: a page of the zspage's run.
            let from = unsafe { old.add(page * self.page_size) };
            // SAFETY: and of the fresh one, which is as long.
            let to = unsafe { fresh.base().add(page * self.page_size) };
            // SAFETY: two runs. All objects of the old one are write-locked and its free places
            // nobody's (the pool's invariant 1); the fresh one is this call's alone.
            unsafe { to.copy_from_nonoverlapping(from, self.page_size) };
        }
        // SAFETY: the run that `attach` or the last migration set: readers are locked out, and those
        // to come find the other base. Its resident pages are the touched ones.
        let run = unsafe { PageRun::new(old, fresh.pages(), z.touched.get()) };
        locked.rebase(z, fresh.base().as_ptr(), fresh.resident(), needed);
        for index in self.used_lanes(z, objects) {
            self.lane(z, index).write_unlock();
        }
        (run, true)
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
                self.lane(z, index).write_unlock();
            }
        }
        refused.is_none()
    }
}
