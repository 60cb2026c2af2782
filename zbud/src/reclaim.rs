//! What the reclaim loop (`buddies`) needs of a pool: reclaim's use of a page (`pages.rs`).

use buddies::Reclaim;
use zpool_api::{Handle, ObjRead};

use crate::pages::{Buddy, Slot};
use crate::pool::Core;

impl Reclaim for Core {
    const OBJECTS: usize = Buddy::BOTH.len();

    fn is_here(&self) -> bool {
        self.source.is_here()
    }

    fn finish_left(&self) {
        self.finish_left();
    }

    fn now(&self) -> u64 {
        self.lock().pages.now()
    }

    fn begin(&self, before: u64) -> Option<u32> {
        self.lock().pages.begin_reclaim(before)
    }

    fn read(&self, page: u32, nth: usize) -> Option<(Handle, ObjRead<'_>)> {
        self.read_current(Slot { page, buddy: *Buddy::BOTH.get(nth)? })
    }

    fn free(&self, handle: Handle) {
        let _ = self.free(handle);
    }

    fn end(&self, page: u32) -> bool {
        let detached = self.lock().pages.end_reclaim(page);
        let freed = detached.is_some();
        if let Some(detached) = detached {
            self.give_back(detached);
        }
        freed
    }
}
