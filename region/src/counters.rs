//! What a region has done, counted.

use crate::number::Number;

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    ZeroFault,
    ColdFault,
    CleanFault,
    Rescued,
    WriteFault,
    Waited,
    Around,
    Prefetched,
    Evicted,
    EvictedClean,
    Undone,
    Busy,
    DirectReclaim,
    Refused,
    Exceeded,
    Discarded,
}

const EVENTS: usize = Event::Discarded as usize + 1;

/// One counter for each [`Event`].
#[derive(Debug, Default)]
pub(crate) struct Counters([Number; EVENTS]);

impl Counters {
    pub(crate) fn add(&self, event: Event, count: usize) {
        self.0[event as usize].add(count);
    }

    pub(crate) fn get(&self, event: Event) -> u64 {
        self.0[event as usize].get() as u64
    }
}
