//! The word of a page: its state, and what the state needs, in 32 bits.
//!
//! | bits | |
//! |---|---|
//! | 0–2 | the [`State`] |
//! | 3 | STORING: a thread compresses the page, or did and has not noticed yet that the page left meanwhile |
//! | 4 | COPY: the store holds the page's content |
//! | 5 | WAITERS: a thread may sleep until the state changes |
//! | 6–9 | heat: how often the clock's hand passes the page before it takes it |
//! | 10–31 | the slot in the limbo, or, of a resident page, the number of its pins |
//!
//! A word of zeros is a page that was never touched.

use core::fmt;

/// What a page is, and who may change that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum State {
    /// It has no content: a touch finds zeros.
    Never = 0,
    /// Mapped, and the program may write it.
    Resident = 1,
    /// Mapped and write-protected. The store holds the same content.
    Clean = 2,
    /// One thread, in a fault or a call, changes it. Others wait.
    Filling = 3,
    /// One thread takes it from the program, or gives its memory back. Others wait.
    Moving = 4,
    /// Out of the program's reach, in a slot of the limbo, uncompressed.
    Limbo = 5,
    /// As `Limbo`, and one thread compresses it.
    Compressing = 6,
    /// In the store.
    Cold = 7,
}

impl State {
    const ALL: [State; 8] = [
        State::Never,
        State::Resident,
        State::Clean,
        State::Filling,
        State::Moving,
        State::Limbo,
        State::Compressing,
        State::Cold,
    ];

    /// Returns whether a page may go from this state to `next` in one step.
    pub(crate) fn may_become(self, next: State) -> bool {
        use State::{Clean, Cold, Compressing, Filling, Limbo, Moving, Never, Resident};
        matches!(
            (self, next),
            (Never | Clean | Limbo | Compressing | Cold | Resident, Filling)
                | (Filling, Resident | Clean | Never | Cold | Limbo | Compressing)
                | (Resident | Clean, Moving)
                | (Moving, Limbo | Compressing | Resident | Clean | Cold)
                | (Limbo, Moving | Compressing)
                | (Compressing, Cold | Moving)
        )
    }

    /// Returns whether only one thread may change the page now.
    pub(crate) fn is_owned(self) -> bool {
        matches!(self, State::Filling | State::Moving)
    }
}

const STATE: u32 = 0b111;
const STORING: u32 = 1 << 3;
const COPY: u32 = 1 << 4;
const WAITERS: u32 = 1 << 5;
const HEAT: u32 = 6;
const HEAT_BITS: u32 = 0b1111;
const FIELD: u32 = 10;

/// The most slots that a limbo can have, and the most pins of a page.
pub(crate) const MOST: u32 = u32::MAX >> FIELD;
/// The most passes of the hand that a page can wait.
pub(crate) const HOTTEST: u32 = HEAT_BITS;

/// A value of the word of a page.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word(pub(crate) u32);

impl Word {
    pub(crate) fn state(self) -> State {
        State::ALL[(self.0 & STATE) as usize]
    }

    /// Returns the word with another state, with nobody waiting. What belongs to the old state stays.
    pub(crate) fn with_state(self, state: State) -> Word {
        Word(self.0 & !(STATE | WAITERS) | state as u32)
    }

    /// Returns whether the page is mapped, and nobody has pinned it.
    pub(crate) fn is_mapped_and_unpinned(self) -> bool {
        match self.state() {
            State::Resident => self.pins() == 0,
            State::Clean => true,
            _ => false,
        }
    }

    pub(crate) fn is_storing(self) -> bool {
        self.0 & STORING != 0
    }

    pub(crate) fn storing(self, on: bool) -> Word {
        Word(if on { self.0 | STORING } else { self.0 & !STORING })
    }

    pub(crate) fn has_copy(self) -> bool {
        self.0 & COPY != 0
    }

    pub(crate) fn copy(self, on: bool) -> Word {
        Word(if on { self.0 | COPY } else { self.0 & !COPY })
    }

    pub(crate) fn has_waiters(self) -> bool {
        self.0 & WAITERS != 0
    }

    pub(crate) fn waited_for(self) -> Word {
        Word(self.0 | WAITERS)
    }

    pub(crate) fn heat(self) -> u32 {
        self.0 >> HEAT & HEAT_BITS
    }

    pub(crate) fn heated(self, heat: u32) -> Word {
        Word(self.0 & !(HEAT_BITS << HEAT) | heat.min(HOTTEST) << HEAT)
    }

    /// Returns the slot. Has a meaning for a page that is, or was a moment ago, in the limbo.
    pub(crate) fn slot(self) -> usize {
        (self.0 >> FIELD) as usize
    }

    pub(crate) fn in_slot(self, slot: usize) -> Word {
        self.field(slot as u32)
    }

    /// Returns the pins of a resident page.
    pub(crate) fn pins(self) -> u32 {
        self.0 >> FIELD
    }

    pub(crate) fn pinned(self, pins: u32) -> Word {
        self.field(pins)
    }

    fn field(self, value: u32) -> Word {
        assert!(value <= MOST, "a slot or a number of pins above {MOST}: {value}");
        Word(self.0 & ((1 << FIELD) - 1) | value << FIELD)
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Word")
            .field("state", &self.state())
            .field("storing", &self.is_storing())
            .field("copy", &self.has_copy())
            .field("waiters", &self.has_waiters())
            .field("heat", &self.heat())
            .field("slot_or_pins", &self.slot())
            .finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_fields_do_not_overlap() {
        let word =
            Word(0).with_state(State::Limbo).storing(true).copy(true).heated(11).in_slot(12345);
        assert_eq!(word.state(), State::Limbo);
        assert!(word.is_storing() && word.has_copy() && !word.has_waiters());
        assert_eq!((word.heat(), word.slot(), word.pins()), (11, 12345, 12345));
        let waited = word.waited_for();
        assert!(waited.has_waiters() && !waited.with_state(State::Cold).has_waiters());
        let other =
            waited.storing(false).copy(false).heated(99).pinned(MOST).with_state(State::Resident);
        assert_eq!((other.heat(), other.pins(), other.state()), (HOTTEST, MOST, State::Resident));
        assert!(!other.is_storing() && !other.has_copy());
    }

    #[test]
    fn a_page_that_is_owned_is_left_by_its_owner_only() {
        for from in State::ALL {
            let next: Vec<State> =
                State::ALL.into_iter().filter(|to| from.may_become(*to)).collect();
            assert!(!next.is_empty() && !next.contains(&from), "{from:?}: {next:?}");
        }
        // Nothing becomes cold without an owner but a page that has just been compressed.
        let before = |to: State| State::ALL.into_iter().filter(move |from| from.may_become(to));
        assert!(before(State::Cold).eq([State::Filling, State::Moving, State::Compressing]));
        assert!(before(State::Resident).eq([State::Filling, State::Moving]));
    }
}
