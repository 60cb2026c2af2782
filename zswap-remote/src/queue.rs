//! The objects that wait to be deleted.
//!
//! An object whose write was not answered is deleted twice: at once, and again some time later, because the write
//! may arrive after the first delete. The number of waiting objects is bounded; what does not fit stays on the
//! service until the device is dropped.

use core::time::Duration;
use std::collections::VecDeque;
use std::time::Instant;

use crate::name::Object;

/// An object to delete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Doomed {
    pub(crate) object: Object,
    /// Whether to delete it a second time later.
    pub(crate) again: bool,
}

/// The queue.
#[derive(Debug)]
pub(crate) struct Queue {
    now: VecDeque<Doomed>,
    /// In the order of their times, since each waits equally long.
    later: VecDeque<(Instant, Object)>,
    /// How long the second delete of an object waits.
    grace: Duration,
    most: usize,
    forgotten: u64,
    /// Set when the device is going away.
    hurried: bool,
}

impl Queue {
    pub(crate) fn new(most: usize, grace: Duration) -> Self {
        Queue {
            now: VecDeque::new(),
            later: VecDeque::new(),
            grace,
            most,
            forgotten: 0,
            hurried: false,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.now.len() + self.later.len()
    }

    /// Returns how many objects were left on the service, because too many waited already or memory ran out.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Counts objects that are left on the service.
    pub(crate) fn forget(&mut self, objects: u64) {
        self.forgotten += objects;
    }

    /// Adds an object.
    pub(crate) fn push(&mut self, doomed: Doomed) {
        if self.len() < self.most && self.now.try_reserve(1).is_ok() {
            self.now.push_back(doomed);
        } else {
            self.forgotten += 1;
        }
    }

    /// Puts objects back whose delete failed.
    pub(crate) fn put_back(&mut self, failed: &[Doomed]) {
        failed.iter().for_each(|doomed| self.push(*doomed));
    }

    /// Notes that objects were deleted for the first time.
    pub(crate) fn deleted(&mut self, done: &[Doomed], now: Instant) {
        // When the device goes away, a write that is late has no second chance to be found.
        for doomed in done.iter().filter(|doomed| doomed.again && !self.hurried) {
            if self.len() < self.most && self.later.try_reserve(1).is_ok() {
                self.later.push_back((now + self.grace, doomed.object));
            } else {
                self.forgotten += 1;
            }
        }
    }

    /// Takes up to `most` objects that are due.
    pub(crate) fn take(&mut self, now: Instant, most: usize) -> Vec<Doomed> {
        while self.later.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, object)) = self.later.pop_front() else { break };
            self.now.push_back(Doomed { object, again: false });
        }
        self.now.drain(..self.now.len().min(most)).collect()
    }

    /// Makes everything due, and nothing to be deleted twice: the device is going away.
    pub(crate) fn hurry(&mut self) {
        self.hurried = true;
        self.now.iter_mut().for_each(|doomed| doomed.again = false);
        let later = core::mem::take(&mut self.later);
        self.now.extend(later.into_iter().map(|(_, object)| Doomed { object, again: false }));
    }

    /// Returns when the next object is due, if nothing is due now.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.later.front().map(|(due, _)| *due)
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.now.capacity() * size_of::<Doomed>()
            + self.later.capacity() * size_of::<(Instant, Object)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doomed(attempt: u64, again: bool) -> Doomed {
        Doomed { object: Object { segment: 1, attempt }, again }
    }

    #[test]
    fn an_object_in_doubt_is_deleted_twice_and_the_second_time_later() {
        let (mut queue, start) = (Queue::new(10, Duration::from_secs(60)), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        queue.push(doomed(1, true));
        queue.push(doomed(2, false));
        let first = queue.take(start, 8);
        assert_eq!(first, [doomed(1, true), doomed(2, false)]);
        queue.deleted(&first, after(1));
        assert_eq!((queue.len(), queue.next_due()), (1, Some(after(61))));
        assert_eq!(queue.take(after(60), 8), []);
        let second = queue.take(after(61), 8);
        assert_eq!(second, [doomed(1, false)]);
        queue.deleted(&second, after(61));
        assert_eq!((queue.len(), queue.forgotten()), (0, 0));
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let (mut queue, now) = (Queue::new(2, Duration::from_secs(60)), Instant::now());
        (0..5).for_each(|n| queue.push(doomed(n, true)));
        assert_eq!((queue.len(), queue.forgotten()), (2, 3));
        let taken = queue.take(now, 1);
        assert_eq!(taken, [doomed(0, true)]);
        queue.put_back(&taken);
        let taken = queue.take(now, 9);
        assert_eq!(taken, [doomed(1, true), doomed(0, true)]);
        queue.push(doomed(7, false));
        queue.deleted(&taken, now);
        assert_eq!((queue.len(), queue.forgotten()), (2, 4));
        assert!(queue.memory_bytes() > 0);
    }

    #[test]
    fn in_a_hurry_everything_is_due_once() {
        let (mut queue, now) = (Queue::new(9, Duration::from_secs(60)), Instant::now());
        queue.push(doomed(1, true));
        let taken = queue.take(now, 1);
        queue.deleted(&taken, now);
        queue.push(doomed(2, true));
        queue.hurry();
        assert_eq!(queue.take(now, 9), [doomed(2, false), doomed(1, false)]);
        // So is what was being deleted at that time.
        queue.deleted(&[doomed(3, true)], now);
        assert_eq!((queue.len(), queue.next_due()), (0, None));
    }
}
