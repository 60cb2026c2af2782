//! Holes: touched pages of a zspage that hold no object, returned to the system without moving anything.
//!
//! Holes are kept for a while, since the next objects may fill them. When the pool has too many,
//! freeing an object returns some holes of the object's class. To return holes, a thread isolates a
//! few zspages under the class lock, drops the lock for the system calls, and puts the zspages
//! back. No allocation finds an isolated zspage; frees in it continue.

use zpool_api::PageRun;
use zpool_base::lockdep::might_sleep;

use crate::class::{ClassGuard, Putback};
use crate::shared::Core;
use crate::zspage::Zspage;

/// The most zspages isolated at a time.
pub(crate) const AT_ONCE: usize = 8;
/// The most zspages examined while the class lock is held.
const LOOKS: usize = 64;
/// The number of fullness groups whose zspages may have holes. A full zspage has none.
const GROUPS: usize = 10;

/// An isolated zspage: its number, its holes, and those of its holes that were released.
#[derive(Clone, Copy)]
struct Isolated<'a> {
    zspage: u32,
    z: &'a Zspage,
    holes: u16,
    released: u16,
}

/// Zspages that a call has isolated. Dropping it puts back those that are still isolated.
struct Batch<'a> {
    core: &'a Core,
    class: u16,
    zspages: [Option<Isolated<'a>>; AT_ONCE],
}

impl Batch<'_> {
    /// Puts one zspage back; returns the number of its released pages and the outcome. Returns None
    /// when no zspage remains.
    fn putback_one(&mut self) -> Option<(usize, Putback)> {
        let Isolated { zspage, z, released, .. } =
            self.zspages.iter_mut().find_map(Option::take)?;
        let putback = self.core.lock(self.class).putback(zspage, z, released);
        Some((released.count_ones() as usize, putback))
    }
}

impl Drop for Batch<'_> {
    /// Puts back what remains because the provider panicked. Leaves emptied zspages to a later call.
    fn drop(&mut self) {
        while let Some((_, putback)) = self.putback_one() {
            if let Putback::Emptied(detached) = putback {
                self.core.leave(detached);
            }
        }
    }
}

impl Core {
    /// Gives holes of a class back to the system, as many as a bounded search finds. Returns the number
    /// of pages freed, including those of zspages that became empty meanwhile. The caller holds no
    /// lock.
    pub(crate) fn give_back_holes(&self, class: u16) -> usize {
        let mut locked = self.lock(class);
        let pages = usize::from(locked.size.pages);
        let zspages = isolate(&mut locked);
        drop(locked);
        let mut batch = Batch { core: self, class, zspages };
        for isolated in batch.zspages.iter_mut().flatten() {
            // SAFETY: this call isolated the zspage and read its holes, and puts it back later.
            isolated.released = unsafe { self.discard(isolated.z, pages, isolated.holes) };
        }
        let mut given = 0;
        while let Some((released, putback)) = batch.putback_one() {
            given += released;
            if let Putback::Emptied(detached) = putback {
                given += detached.resident_pages();
                self.give_back(detached);
            }
        }
        given
    }

    /// Gives the pages `holes` of an isolated zspage back to the system. Returns the pages that the
    /// system took.
    ///
    /// # Safety
    /// The caller has isolated the zspage, and has read `holes` from it under the same lock. Its run
    /// has `pages` pages.
    unsafe fn discard(&self, z: &Zspage, pages: usize, holes: u16) -> u16 {
        might_sleep("zsmalloc: giving pages back");
        // SAFETY: the zspage's run, from this provider (invariant 2 of `zspage.rs`). The value is a
        // duplicate: it is used only to discard the run's holes, and is never freed.
        let mut run = unsafe { PageRun::new(z.base(), pages, holes) };
        let mut left = holes;
        while left != 0 {
            let first = left.trailing_zeros();
            let len = (left >> first).trailing_ones();
            let range = first as usize..(first + len) as usize;
            // SAFETY: no USED place overlaps these pages, and none will while the zspage is
            // isolated (invariant 2 of the pool), so nobody accesses their bytes.
            unsafe { self.provider.discard(&mut run, range) };
            left &= !(((1u32 << len) - 1) << first) as u16;
        }
        holes & !run.resident()
    }
}

/// Isolates some zspages that have holes, from the emptiest group upwards.
fn isolate<'a>(locked: &mut ClassGuard<'a>) -> [Option<Isolated<'a>>; AT_ONCE] {
    let mut isolated = [None; AT_ONCE];
    let mut found = 0;
    let mut looks = 0;
    for group in 0..GROUPS {
        for (zspage, z) in locked.group(group) {
            let holes = z.holes.get();
            if holes != 0 {
                isolated[found] = Some(Isolated { zspage, z, holes, released: 0 });
                found += 1;
            }
            looks += 1;
            if found == AT_ONCE || looks == LOOKS {
                break;
            }
        }
        if found == AT_ONCE || looks >= LOOKS {
            break;
        }
    }
    for Isolated { z, .. } in isolated.iter().flatten() {
        locked.isolate(z);
    }
    isolated
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::Zsmalloc;
    use crate::class_table::HEADER;
    use std::sync::Arc;
    use zpool_api::{Handle, Zpool};
    use zpool_pages::HeapPages;

    /// Makes a pool with full zspages of one class. Returns the pool, the class, and each zspage's objects.
    fn full(zspages: usize) -> (Zsmalloc, u16, Vec<Vec<Handle>>) {
        let pool = Zsmalloc::new(Arc::new(HeapPages::new())).unwrap();
        let probe = pool.malloc_from(&[0; 600]).unwrap();
        let class = pool.core.zspages.at(0).class().unwrap();
        pool.free(probe).unwrap();
        let size = pool.core.classes[usize::from(class)].size;
        let object = vec![0; size.size as usize - HEADER];
        let fill = |_| (0..size.objects).map(|_| pool.malloc_from(&object).unwrap()).collect();
        let all = (0..zspages).map(fill).collect();
        (pool, class, all)
    }

    #[test]
    #[cfg_attr(miri, ignore = "thousands of objects")]
    fn a_few_zspages_are_isolated_at_a_time() {
        let (pool, class, all) = full(20);
        for (n, objects) in all.iter().enumerate() {
            // At least the first page of each zspage becomes a hole. The first ten zspages are in
            // an emptier group.
            let gone = if n < 10 { objects.len() / 2 } else { 8 };
            objects[..gone].iter().for_each(|handle| pool.free(*handle).unwrap());
        }
        let mut locked = pool.core.lock(class);
        let mut found: Vec<u32> = isolate(&mut locked).iter().flatten().map(|i| i.zspage).collect();
        found.sort_unstable();
        found.dedup();
        assert_eq!(found.len(), AT_ONCE);
        assert!(found.iter().all(|zspage| pool.core.zspages.at(*zspage).is_isolated()));
    }

    #[test]
    #[cfg_attr(miri, ignore = "thousands of objects")]
    fn so_many_zspages_are_looked_at_and_no_more() {
        for (without, found) in [(LOOKS - 1, 1), (LOOKS, 0)] {
            let (pool, class, all) = full(without + 1);
            // Freeing every other object leaves no hole.
            for objects in &all[1..] {
                objects.iter().step_by(2).for_each(|handle| pool.free(*handle).unwrap());
            }
            // The search reaches this zspage last, since it is fuller.
            all[0][..8].iter().for_each(|handle| pool.free(*handle).unwrap());
            let mut locked = pool.core.lock(class);
            assert_eq!(isolate(&mut locked).iter().flatten().count(), found, "{without}");
        }
    }
}
