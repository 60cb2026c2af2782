//! Giving up the content of pages.

use crate::backend::InLimbo;
use crate::counters::Event;
use crate::engine::Engine;
use crate::table::next_chunk;
use crate::word::State;

impl Engine {
    /// Makes the pages from `first` to `end` zero, and frees what they take. Returns how many had a content. Pinned ones
    /// keep it.
    pub(crate) fn discard(&self, first: usize, end: usize) -> usize {
        let (mut discarded, mut page) = (0, first);
        while page < end {
            if !self.table.is_touched(page) {
                page = next_chunk(page);
                continue;
            }
            // Mapped pages are unmapped run by run.
            let run = (page..end).take_while(|page| self.claim_mapped(*page)).count();
            if run > 0 {
                self.drop_mapped(page, run);
                discarded += run;
                page += run;
            } else {
                discarded += usize::from(self.discard_one(page));
                page += 1;
            }
        }
        self.counters.add(Event::Discarded, discarded);
        discarded
    }

    fn claim_mapped(&self, page: usize) -> bool {
        let word = self.table.get(page);
        word.is_mapped_and_unpinned() && self.claim(page, word)
    }

    fn drop_mapped(&self, first: usize, pages: usize) {
        if let Err(error) = self.backend.discard(first, pages) {
            crate::abort::die(format_args!("discarded pages cannot be unmapped: {error}"));
        }
        self.room.uncharge(pages);
        (first..first + pages).for_each(|page| self.forget(page));
    }

    /// Drops the store's copy of a page that this thread owns, if there is one. The page has no content afterwards.
    fn forget(&self, page: usize) {
        if self.table.get(page).has_copy() {
            self.cold.invalidate(page);
        }
        self.table.publish(page, |word| word.with_state(State::Never).copy(false));
    }

    /// Gives up a page that is not mapped, or waits until it is something else. Returns whether it had a content.
    fn discard_one(&self, page: usize) -> bool {
        loop {
            let word = self.table.get(page);
            match word.state() {
                State::Never => return false,
                State::Resident if word.pins() > 0 => return false,
                State::Resident | State::Clean => {
                    if self.claim(page, word) {
                        self.drop_mapped(page, 1);
                        return true;
                    }
                }
                State::Filling | State::Moving => self.table.wait(page, word),
                State::Cold => {
                    if self.claim(page, word) {
                        self.cold_pages.sub(1);
                        self.forget(page);
                        return true;
                    }
                }
                State::Limbo | State::Compressing => {
                    if self.table.change(page, word, word.with_state(State::Filling)).is_ok() {
                        let at = InLimbo { page, slot: word.slot() };
                        // Otherwise the slot's memory goes when its block is drained.
                        if self.backend.releases_first() {
                            if let Err(error) = self.backend.release(&[at]) {
                                crate::abort::die(format_args!(
                                    "a discarded page cannot be freed: {error}"
                                ));
                            }
                            self.room.uncharge(1);
                        }
                        self.forget(page);
                        return true;
                    }
                }
            }
        }
    }
}
