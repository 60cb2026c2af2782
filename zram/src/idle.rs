//! Which pages nobody uses: marked idle, and unmarked by whoever reads or writes them.

use core::time::Duration;

use crate::Zram;
use crate::word::Content;

impl Zram {
    /// Marks every page that takes memory idle. One that is read or written is not any more. How many
    /// are marked now.
    pub fn mark_idle(&self) -> u64 {
        self.mark(|_| true)
    }

    /// Marks pages idle that nobody has read or written for so long. Needs a disk built with
    /// [`access_times`](crate::ZramBuilder::access_times), else marks none. Times are whole seconds.
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
