//! A touch of a page that is not there, or of a protected one: how the page becomes resident.

use core::slice;
use std::io;

use crate::backend::InLimbo;
use crate::counters::Event;
use crate::engine::{Buffers, Engine};
use crate::error::Trouble;
use crate::streams::longest;
use crate::word::{HOTTEST, MOST, State, Word};

/// What wants the page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    Read,
    Write,
    /// The page stays resident and writable until it is unpinned.
    Pin,
    /// As a read, but nobody touches the page yet.
    Prefetch,
}

impl Access {
    /// Returns what the word of a page that becomes resident for this access says: its pins in place of a slot.
    fn resident(self, word: Word) -> Word {
        word.with_state(State::Resident).copy(false).pinned(u32::from(self == Access::Pin))
    }

    fn may_be_clean(self) -> bool {
        matches!(self, Access::Read | Access::Prefetch)
    }
}

/// Returns the word of a page that a thread owns while it is in no slot.
pub(crate) fn owned(word: Word, state: State) -> Word {
    word.with_state(state).in_slot(MOST as usize)
}

impl Engine {
    /// Makes a page resident, for an access that has raised a signal or for a call. Returns how many pages came.
    ///
    /// # Errors
    /// Why that is not possible. The page is as before.
    pub(crate) fn fault(
        &self,
        page: usize,
        access: Access,
        buffers: &mut Buffers<'_>,
    ) -> Result<usize, Trouble> {
        let mut waited = false;
        loop {
            let word = self.table.get(page);
            match word.state() {
                State::Filling | State::Moving => {
                    if !waited {
                        self.counters.add(Event::Waited, 1);
                    }
                    waited = true;
                    self.table.wait(page, word);
                }
                State::Resident if access == Access::Pin => {
                    if word.pins() >= MOST - 1 {
                        return Err(Trouble::Pins { page });
                    }
                    let pinned = word.pinned(word.pins() + 1);
                    if self.table.change(page, word, pinned).is_ok() {
                        return Ok(0);
                    }
                }
                // Another thread has filled the page. Or this access raised a signal although the page is there: then
                // somebody has dropped it behind our back, and without a repair the access would fault for ever.
                State::Resident | State::Clean if waited || access == Access::Prefetch => {
                    if access.may_be_clean() || word.state() == State::Resident {
                        return Ok(0);
                    }
                    if self.claim(page, word) {
                        return self.first_write(page, access).map(|()| 0);
                    }
                }
                State::Resident => {
                    let pinned = word.pinned(word.pins() + 1);
                    if self.table.change(page, word, pinned).is_ok() {
                        let repaired = self.backend.repair(page, false);
                        self.unpin_uncounted(page);
                        return repaired
                            .map(|_| 0)
                            .map_err(Trouble::system("making a page accessible"));
                    }
                }
                State::Clean => {
                    if self.claim(page, word) {
                        let done = match access {
                            Access::Read => self.repair_clean(page),
                            _ => self.first_write(page, access),
                        };
                        return done.map(|()| 0);
                    }
                }
                State::Never => {
                    if self.claim(page, word) {
                        return self.zero(page, access, buffers);
                    }
                }
                State::Cold => {
                    if self.claim(page, word) {
                        return self.fill(page, access, buffers);
                    }
                }
                State::Limbo | State::Compressing => {
                    if self.table.change(page, word, word.with_state(State::Filling)).is_ok() {
                        return self.rescue(page, word, access, buffers).map(|()| 1);
                    }
                }
            }
        }
    }

    /// Makes a page FILLING, owned by this thread and in no slot. Returns whether it still was `word`.
    pub(crate) fn claim(&self, page: usize, word: Word) -> bool {
        self.table.change(page, word, owned(word, State::Filling)).is_ok()
    }

    /// Returns how many pages from `page` on, which this thread has claimed, to fill: claims those after it that are in
    /// the same state.
    fn claim_window(&self, page: usize, state: State, window: usize) -> usize {
        let end = (page + window).min(self.table.pages());
        let claimed = (page + 1..end).take_while(|next| {
            let word = self.table.get(*next);
            word.state() == state && self.claim(*next, word)
        });
        1 + claimed.count()
    }

    /// Returns how many pages should come at once: few, if pins leave little room. Otherwise they might never fit.
    fn window(&self, page: usize, access: Access) -> usize {
        let longest = longest(self.backend.unit());
        let free = self.room.limit().saturating_sub(self.pinned.get());
        let window = match access {
            Access::Prefetch => longest,
            Access::Pin => 1,
            Access::Read | Access::Write if self.settings.fault_around => {
                self.streams.window(page, longest)
            }
            Access::Read | Access::Write => 1,
        };
        window.min(free / 4).max(1)
    }

    fn zero(
        &self,
        first: usize,
        access: Access,
        buffers: &mut Buffers<'_>,
    ) -> Result<usize, Trouble> {
        let pages = self.claim_window(
            first,
            State::Never,
            self.window(first, access).min(buffers.window.len() / self.backend.unit()),
        );
        let pages = self.charge(first, pages, State::Never, buffers.room)?;
        for page in first..first + pages {
            if self.table.touch(page) {
                self.table_bytes.add(4096);
            }
        }
        if let Err(error) = self.backend.zero(first, pages) {
            self.give_up_claims(first, pages, State::Never);
            return Err(Trouble::system("mapping zeros")(error));
        }
        self.counters.add(Event::ZeroFault, 1);
        self.counters.add(Event::Around, pages - 1);
        self.publish_resident(first, pages, access);
        self.arrived(pages);
        Ok(pages)
    }

    fn publish_resident(&self, first: usize, pages: usize, access: Access) {
        self.table.publish(first, |word| access.resident(word).heated(0));
        for page in first + 1..first + pages {
            self.table.publish(page, |word| Access::Read.resident(word).heated(0));
        }
    }

    fn fill(
        &self,
        first: usize,
        access: Access,
        buffers: &mut Buffers<'_>,
    ) -> Result<usize, Trouble> {
        let mut pages = self.claim_window(
            first,
            State::Cold,
            self.window(first, access).min(buffers.window.len() / self.backend.unit()),
        );
        pages = self.charge(first, pages, State::Cold, buffers.room)?;
        let unit = self.backend.unit();
        for (n, window) in buffers.window.chunks_exact_mut(unit).take(pages).enumerate() {
            let page = first + n;
            if let Err(trouble) = self.read(page, window) {
                // A neighbour that cannot be read is left; whoever touches it learns why.
                self.backend.unfill(page, 1);
                self.give_up_claims(page, pages - n, State::Cold);
                if n == 0 {
                    return Err(trouble);
                }
                pages = n;
                break;
            }
        }
        let protect = access.may_be_clean() && self.backend.can_protect() && self.clean.keeps();
        if let Err(error) = self.backend.fill(first, buffers.window, pages, protect) {
            self.backend.unfill(first, pages);
            self.give_up_claims(first, pages, State::Cold);
            return Err(Trouble::system("mapping a page")(error));
        }
        self.cold_pages.sub(pages);
        self.counters.add(if protect { Event::CleanFault } else { Event::ColdFault }, 1);
        self.counters.add(
            if access == Access::Prefetch { Event::Prefetched } else { Event::Around },
            pages - 1,
        );
        if protect {
            for page in first..first + pages {
                self.clean.filled();
                self.table.publish(page, |word| word.with_state(State::Clean).pinned(0).heated(0));
            }
        } else {
            (first..first + pages).for_each(|page| self.cold.invalidate(page));
            self.publish_resident(first, pages, access);
        }
        self.arrived(pages);
        Ok(pages)
    }

    /// Reads a page that this thread owns from the store, to where the backend wants it.
    fn read(&self, page: usize, window: &mut [u8]) -> Result<(), Trouble> {
        let target =
            self.backend.target(page).map_err(Trouble::system("mapping a page to fill it"))?;
        let to = match target {
            // SAFETY: this thread owns the page (FILLING), so nobody else uses the memory where its content goes. It is
            // as long as a page.
            Some(target) => unsafe { slice::from_raw_parts_mut(target, self.backend.unit()) },
            None => window,
        };
        self.cold.load(page, to).map_err(|source| Trouble::Load { page, source: Box::new(source) })
    }

    /// Gets a page back from the limbo, out of the state of `was`. Waits for nothing while the page is FILLING.
    fn rescue(
        &self,
        page: usize,
        was: Word,
        access: Access,
        buffers: &mut Buffers<'_>,
    ) -> Result<(), Trouble> {
        let at = InLimbo { page, slot: was.slot() };
        let protect = was.has_copy() && access.may_be_clean() && self.backend.can_protect();
        let moved = was.state() == State::Limbo && !protect && self.put_back(at, was);
        let (two, fits) = if moved {
            (false, true)
        } else {
            self.copy_back(at, protect).map_err(|error| {
                self.table.publish(page, |word| word.with_state(was.state()));
                Trouble::system("mapping a page that was about to be compressed")(error)
            })?
        };
        if !two {
            self.slots.leave_empty(at.slot);
        }
        if was.has_copy() && !protect {
            self.cold.invalidate(page);
        }
        self.counters.add(Event::Rescued, 1);
        let heat = (was.heat() * 2 + 1).min(HOTTEST);
        self.table.publish(page, |word| {
            let word = word.heated(heat);
            if protect { word.with_state(State::Clean).pinned(0) } else { access.resident(word) }
        });
        if !fits {
            // The page is there already, and its slot's memory goes when the slot's block is drained.
            let _ = self.make_room(buffers.room);
        }
        Ok(())
    }

    /// Moves a page back from the limbo, writable. Returns false if that is not possible. A page that was clean may have
    /// been written to the system's swap with its protection, which moves with it.
    fn put_back(&self, at: InLimbo, was: Word) -> bool {
        if self.backend.put_back(at).is_err() {
            return false;
        }
        if was.has_copy() {
            if let Err(error) = self.backend.unprotect(at.page) {
                // Mapped, and not writable: neither state of a page fits.
                crate::abort::die(format_args!(
                    "page {} cannot be made writable: {error}",
                    at.page
                ));
            }
        }
        true
    }

    /// Maps a copy of a page in the limbo. Returns whether the slot keeps its memory, so that there are two pages now,
    /// both of them charged, and whether the second one fits.
    pub(crate) fn copy_back(&self, at: InLimbo, protect: bool) -> io::Result<(bool, bool)> {
        // Before the copy gets memory, as everywhere.
        let fits = self.room.charge(1);
        let copied = self.backend.copy_back(at, protect);
        if !matches!(copied, Ok(true)) {
            self.room.uncharge(1);
        }
        copied.map(|two| (two, fits || !two))
    }

    /// Lets the program write a clean page that this thread owns.
    fn first_write(&self, page: usize, access: Access) -> Result<(), Trouble> {
        if let Err(error) = self.backend.unprotect(page) {
            self.table.publish(page, |word| word.with_state(State::Clean).pinned(0));
            return Err(Trouble::system("making a page writable")(error));
        }
        self.cold.invalidate(page);
        self.clean.written();
        self.counters.add(Event::WriteFault, 1);
        self.table.publish(page, |word| access.resident(word));
        Ok(())
    }

    /// Makes a clean page that this thread owns accessible again.
    fn repair_clean(&self, page: usize) -> Result<(), Trouble> {
        match self.backend.repair(page, true) {
            // The program has dropped the page: its content is zeros now, and that of the store is not.
            Ok(true) => self.first_write(page, Access::Write),
            done => {
                self.table.publish(page, |word| word.with_state(State::Clean).pinned(0));
                done.map(drop).map_err(Trouble::system("making a page accessible"))
            }
        }
    }

    fn unpin_uncounted(&self, page: usize) {
        let unpinned = self.table.update(page, |word| {
            let is_pinned = word.state() == State::Resident && word.pins() > 0;
            is_pinned.then(|| word.pinned(word.pins() - 1))
        });
        if let Err(word) = unpinned {
            panic_unpinned(page, word);
        }
    }

    /// Takes back one pin of a page.
    pub(crate) fn unpin(&self, page: usize) {
        self.unpin_uncounted(page);
        self.pinned.sub(1);
    }

    /// Returns bytes of the region, from `start` on.
    ///
    /// # Safety
    /// The bytes are in the region, and nobody writes them while the slice lives.
    pub(crate) unsafe fn bytes(&self, start: usize, len: usize) -> &[u8] {
        // SAFETY: the caller's contract; the bytes are mapped, or a touch maps them.
        unsafe { slice::from_raw_parts(self.backend.base().wrapping_add(start), len) }
    }
}

#[cold]
#[expect(clippy::panic, reason = "a broken invariant of this crate")]
fn panic_unpinned(page: usize, word: Word) -> ! {
    panic!("page {page} is unpinned, but it is {word:?}: a pinned page is resident")
}
