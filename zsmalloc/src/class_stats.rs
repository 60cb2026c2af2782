//! Figures of each size class, as in the kernel's `classes` file.

use crate::class::GROUPS;
use crate::pool::Zsmalloc;
use crate::shared::Core;

/// A snapshot of one size class. `Copy`, `Send` and `Sync`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ClassStats {
    /// The class's number; larger classes have higher numbers.
    pub class: usize,
    /// The size of a place in bytes. It includes the object's 4-byte header, except in the huge
    /// classes, whose places are whole pages and whose objects have none.
    pub size: usize,
    /// The number of zspages by fullness: the first number counts those that are less than 10 % full,
    /// the second those from 10 % to less than 20 %, and so on. The last number counts full zspages.
    pub zspages: [usize; 11],
    /// All places in the class's zspages, taken or free.
    pub obj_allocated: usize,
    /// Places taken: by live objects, by objects that are being written, and by freed objects that
    /// a reader still holds.
    pub obj_used: usize,
    /// Resident pages of the class's zspages.
    pub pages_used: usize,
    /// Pages of each zspage, touched or not.
    pub pages_per_zspage: usize,
    /// Resident pages that compaction would give back if no guard were open.
    pub freeable: usize,
}

impl Zsmalloc {
    /// Returns the figures of every class that has a zspage. In a forked child, returns no figures.
    ///
    /// # Blocking
    /// Locks one class at a time, while counting the class's zspages.
    pub fn class_stats(&self) -> Vec<ClassStats> {
        if !self.core.maker.is_here() {
            return Vec::new();
        }
        self.core.reclaim_queued();
        self.core.class_numbers().filter_map(|class| self.core.class_stats(class)).collect()
    }
}

impl Core {
    fn class_stats(&self, class: u16) -> Option<ClassStats> {
        let locked = self.lock(class);
        if locked.inner.zspages == 0 {
            return None;
        }
        let size = locked.size;
        let mut zspages = [0; GROUPS];
        for (group, count) in zspages.iter_mut().enumerate() {
            *count = locked.group(group).count();
        }
        Some(ClassStats {
            class: usize::from(class),
            size: size.size as usize,
            zspages,
            obj_allocated: locked.inner.zspages as usize * usize::from(size.objects),
            obj_used: locked.inner.used as usize,
            pages_used: locked.inner.resident as usize,
            pages_per_zspage: usize::from(size.pages),
            freeable: locked.can_compact(),
        })
    }
}
