//! A region's parts, and what each may rely on of the others. The protocol itself is in `fault.rs` and `evict.rs`.
//!
//! # Rules
//! * The limbo's mutex is held to fill a block, with the system calls that take its pages, and to hand blocks around. No
//!   codec runs, no store is called, and no page is waited for under it.
//! * A thread that owns a page (FILLING, MOVING) may make room, and so compress other pages, but only if the page is not
//!   in a slot. A thread that drains a block waits for pages that are FILLING from its slots; so a thread that fills
//!   a page from a slot waits for nothing.
//! * Who stores, loads or drops the store's copy of a page owns the page, or has set STORING. No page with STORING is
//!   taken. So the store never has an older content of a page than the one that was taken last.

use crate::backend::Backend;
use crate::clean::Policy;
use crate::cold::Cold;
use crate::counters::{Counters, Event};
use crate::error::Trouble;
use crate::limbo::{BLOCK, Limbo, SPARE_BLOCKS, Slots};
use crate::number::Number;
use crate::room::Room;
use crate::streams::Streams;
use crate::sync::{self, MODEL, Mutex};
use crate::table::Table;
use crate::word::State;
use zswap_core::StoreError;

/// What a fault does when nothing makes room for its page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnFull {
    /// Writes one line to standard error that says why, and aborts the process. The limits are promises.
    #[default]
    Abort,
    /// Takes the page beyond the limit, and counts it ([`RegionStats::exceeded`](crate::RegionStats::exceeded)). Memory
    /// that is too small for its content is then bounded by nothing.
    Exceed,
}

/// Buffers of the thread that works on a region.
pub(crate) struct Buffers<'a> {
    /// As many whole pages as the longest window.
    pub(crate) window: &'a mut [u8],
    /// A page that is compressed.
    pub(crate) room: &'a mut [u8],
}

pub(crate) struct Engine {
    pub(crate) table: Table,
    pub(crate) slots: Slots,
    pub(crate) limbo: Mutex<Limbo>,
    pub(crate) backend: Box<dyn Backend>,
    pub(crate) cold: Box<dyn Cold>,
    pub(crate) room: Room,
    pub(crate) clean: Policy,
    pub(crate) streams: Streams,
    pub(crate) counters: Counters,
    pub(crate) settings: Settings,
    /// Bytes of the pages of the tables that were touched.
    pub(crate) table_bytes: Number,
    /// Bytes of the buffers of threads that work on the region.
    pub(crate) staging_bytes: Number,
    /// Pins of all pages.
    pub(crate) pinned: Number,
    /// Pages that are charged and cannot be evicted yet.
    pub(crate) on_their_way: Number,
    /// Pages of memory that eviction has freed so far.
    pub(crate) freed: Number,
    /// Pages that only the store has.
    pub(crate) cold_pages: Number,
    /// Why the store refused a page last.
    pub(crate) refusal: std::sync::Mutex<Option<StoreError>>,
    /// After a page was taken beyond the limits: how many more are taken before the next search for room.
    pub(crate) grace: Number,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) on_full: OnFull,
    pub(crate) fault_around: bool,
    pub(crate) limbo_percent: u8,
}

/// How often the hand goes round without freeing a page before the region is full. Hot pages need
/// [`HOTTEST`](crate::word::HOTTEST) rounds to cool down, and the later rounds pass over the heat.
pub(crate) const MOST_IDLE: usize = if MODEL { 3 } else { 20 };
/// The pages that the store may refuse in one search for room.
const MOST_REFUSED: u64 = 8 * BLOCK as u64;
/// The rounds after which the heat of pages does not count.
const PATIENT: usize = if MODEL { 1 } else { 16 };
/// The pages taken beyond the limits before room is searched again.
const GRACE: usize = 64;

impl Engine {
    /// Returns how many blocks the limbo should have.
    pub(crate) fn limbo_blocks(&self) -> usize {
        blocks_for(self.room.limit().min(self.table.pages()), self.settings.limbo_percent)
    }

    /// Computes the limit of resident pages again.
    pub(crate) fn refresh(&self) {
        let staging = self.staging_bytes.get();
        let tables = self.table_bytes.get();
        self.room.refresh(staging, tables.saturating_add(self.cold.memory_bytes()));
    }

    /// Counts bytes of buffers that are used for the first time.
    pub(crate) fn count_staging(&self, bytes: usize) {
        if bytes > 0 {
            self.staging_bytes.add(bytes);
            self.refresh();
        }
    }

    /// Charges the pages that this thread has claimed, from `first` on, and makes room for them. Gives up all but the
    /// first one, to `state`, if there is no room for more. Returns how many are charged. They are on their way until
    /// [`Engine::arrived`].
    ///
    /// # Errors
    /// [`Trouble::Full`] if there is no room for one page either; then none is charged, and all claims are given up.
    pub(crate) fn charge(
        &self,
        first: usize,
        pages: usize,
        state: State,
        room: &mut [u8],
    ) -> Result<usize, Trouble> {
        self.on_their_way.add(pages);
        if self.room.charge(pages) && !self.room.is_over_budget() {
            return Ok(pages);
        }
        if pages > 1 && (self.grace.get() > 0 || self.make_some_room(room, PATIENT).is_err()) {
            self.give_up_claims(first + 1, pages - 1, state);
            let done = self.make_room(room).map(|()| 1);
            return done.inspect_err(|_| self.give_up_claims(first, 1, state));
        }
        let done = self.make_room(room).map(|()| pages);
        done.inspect_err(|_| self.give_up_claims(first, pages, state))
    }

    /// The pages that this thread has charged are there now, and can be evicted.
    pub(crate) fn arrived(&self, pages: usize) {
        self.on_their_way.sub(pages);
    }

    /// Takes back a charge of pages that do not come.
    pub(crate) fn uncharge(&self, pages: usize) {
        self.room.uncharge(pages);
        self.arrived(pages);
    }

    /// Gives up pages that this thread has claimed and charged.
    pub(crate) fn give_up_claims(&self, first: usize, pages: usize, state: State) {
        self.uncharge(pages);
        self.unclaim(first, pages, state);
    }

    /// Gives up pages that this thread has claimed.
    pub(crate) fn unclaim(&self, first: usize, pages: usize, state: State) {
        for page in first..first + pages {
            self.table.publish(page, |word| word.with_state(state));
        }
    }

    /// Evicts until the region is within its limits.
    ///
    /// # Errors
    /// If the hand has gone round `patience` times and no thread has freed a page: the most pages that were on their way
    /// meanwhile.
    pub(crate) fn make_some_room(&self, room: &mut [u8], patience: usize) -> Result<(), usize> {
        let round = self.table.pages();
        let (mut looked, mut freed, mut crowd) = (0, self.freed.get(), 0);
        let refused = self.counters.get(Event::Refused);
        while self.room.is_over() {
            crowd = self.on_their_way.get().max(crowd);
            let done = self.evict(room, looked > PATIENT * round);
            if done.freed == 0 {
                self.wait_for_drains();
            }
            let now = self.freed.get();
            if now != freed {
                (looked, freed, crowd) = (0, now, 0);
                continue;
            }
            // A round that only drained counts, too: what it drained came back or was refused.
            looked += done.looked.max(BLOCK);
            // A store that refuses pages of several blocks will refuse the others, too; compressing all of them to find
            // that out would take seconds.
            let refuses = self.counters.get(Event::Refused) - refused > MOST_REFUSED;
            if refuses || looked > patience * round {
                return Err(crowd);
            }
        }
        Ok(())
    }

    /// Waits for the threads that drain a block now, once each. Whether they free anything is another question.
    fn wait_for_drains(&self) {
        let (draining, drains) = self.limbo.lock().drains();
        for turn in 0u32.. {
            let (now, done) = self.limbo.lock().drains();
            if now == 0 || done.wrapping_sub(drains) >= draining {
                return;
            }
            // The thread that drains may wait for a device, or have a lower priority than this one.
            if turn < 100 { sync::yield_now() } else { sync::pause() }
        }
    }

    /// Evicts until the region is within its limits.
    ///
    /// # Errors
    /// [`Trouble::Full`] if nothing more can be evicted.
    #[cold]
    pub(crate) fn make_room(&self, room: &mut [u8]) -> Result<(), Trouble> {
        if self.grace.take_one() {
            self.counters.add(Event::Exceeded, 1);
            return Ok(());
        }
        self.counters.add(Event::DirectReclaim, 1);
        if let Err(crowd) = self.make_some_room(room, MOST_IDLE) {
            // Threads that wait for room have a page on its way each, and together perhaps all that the limit allows.
            // Then none of them can evict what another one has, and one page for each must do. The others may have got
            // theirs since the last round.
            let crowded = crowd > 1 && crowd >= self.room.limit() / 4;
            return if crowded { Ok(()) } else { self.full() };
        }
        if self.room.is_over_budget() {
            self.cold.squeeze();
            self.refresh();
            if self.room.is_over_budget() {
                return self.full();
            }
        }
        Ok(())
    }

    /// Nothing makes room: an error, or the permission to go on.
    fn full(&self) -> Result<(), Trouble> {
        if self.settings.on_full == OnFull::Exceed {
            self.grace.set(GRACE);
            self.counters.add(Event::Exceeded, 1);
            return Ok(());
        }
        self.refresh();
        let refusal = self.refusal.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let refusal = refusal.map(Box::new);
        Err(Trouble::Full {
            resident: self.room.resident(),
            limit: self.room.limit(),
            beside: self.room.beside(),
            budget: self.room.budget(),
            pinned: self.pinned.get(),
            refusal,
        })
    }
}

/// Returns the blocks of a limbo that has `percent` percent of `pages` pages: at least two.
pub(crate) fn blocks_for(pages: usize, percent: u8) -> usize {
    let most = crate::word::MOST as usize / BLOCK - SPARE_BLOCKS;
    (pages / 100 * usize::from(percent) / BLOCK).clamp(2, most)
}
