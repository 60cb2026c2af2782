//! Figures of each size class, as the kernel's `classes` file has them.

use crate::class::GROUPS;
use crate::pool::Zsmalloc;
use crate::shared::Core;

/// One size class at a moment. `Copy`, `Send` and `Sync`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ClassStats {
    /// The class's number, ascending with its size.
    pub class: usize,
    /// Bytes of a place for an object, its 4-byte header included (a huge object has none).
    pub size: usize,
    /// Zspages by fullness: 0 to below 10 %, and so on to 90 to below 100 %, then full ones.
    pub zspages: [usize; 11],
    /// Places in zspages.
    pub obj_allocated: usize,
    /// Places taken, by objects that were freed while they were read, too.
    pub obj_used: usize,
    /// Resident pages of the class's zspages.
    pub pages_used: usize,
    /// Pages of a zspage, touched or not.
    pub pages_per_zspage: usize,
    /// Resident pages that compaction would give back if no guard is open.
    pub freeable: usize,
}

impl Zsmalloc {
    /// The figures of every class that has a zspage. Takes each class lock for a moment, and walks
    /// its zspages.
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
