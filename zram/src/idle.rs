//! Marks pages as idle. Any read or write of a page removes the mark.

use core::time::Duration;

use crate::Zram;
use crate::word::Content;

impl Zram {
    /// Marks as idle every page that has an object in the pool, and returns how many pages in the pool are idle
    /// now. A read or write of a page removes its mark. A page that is written back keeps it.
    ///
    /// ```
    /// let disk = zram::Zram::builder().disksize(1 << 20).build()?;
    /// for page in 0..3 {
    ///     disk.write(page * 4096, b"some bytes")?;
    /// }
    /// assert_eq!(disk.mark_idle(), 3);
    /// disk.read(0, &mut [0; 4])?;
    /// assert_eq!(disk.block_state().filter(|page| page.idle).count(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Blocking
    /// Waits for the lock of each page that another thread writes in part or recompresses.
    pub fn mark_idle(&self) -> u64 {
        self.mark(|_| true)
    }

    /// Marks as idle the pages that have an object in the pool and were not read or written for at least
    /// `age`. Returns how many pages in the pool are idle now, including those that were idle before. Only the whole
    /// seconds of `age` count. Marks no page if the disk was built without
    /// [`access_times`](crate::ZramBuilder::access_times).
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let disk = zram::Zram::builder().disksize(1 << 20).access_times(true).build()?;
    /// disk.write(0, b"some bytes")?;
    /// assert_eq!(disk.mark_idle_older_than(Duration::from_secs(3600)), 0);
    /// assert_eq!(disk.mark_idle_older_than(Duration::ZERO), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Blocking
    /// Waits as [`mark_idle`](Self::mark_idle) does.
    pub fn mark_idle_older_than(&self, age: Duration) -> u64 {
        self.mark(|now| now.is_some_and(|seconds| seconds >= age.as_secs()))
    }

    fn mark(&self, old_enough: impl Fn(Option<u64>) -> bool) -> u64 {
        let mut marked = 0;
        for index in self.table.made() {
            let Some(mut slot) = self.table.lock(index) else { continue };
            let word = slot.word();
            let takes_memory = matches!(word.content(), Content::Object { .. });
            if takes_memory && (word.is_idle() || old_enough(slot.age())) {
                slot.replace(word.idle(true));
                marked += 1;
            }
        }
        marked
    }
}
