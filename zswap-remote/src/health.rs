//! Decides whether a write is tried at all.
//!
//! A service that does not answer costs each write its whole deadline. So after some writes in a row that the
//! service did not answer, writes fail at once for a pause, which doubles with each further failure. Reads are always
//! tried: a read is for a page that is nowhere else.

use core::time::Duration;
use std::time::Instant;

/// After that many failures in a row, the first pause starts.
const PATIENCE: u32 = 2;

/// The failures of writes in a row.
#[derive(Debug, Default)]
pub(crate) struct Health {
    in_a_row: u32,
    not_before: Option<Instant>,
    /// When the last one was noted.
    last: Option<Instant>,
}

impl Health {
    /// Returns whether a write may be tried.
    pub(crate) fn may_try(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|time| now >= time)
    }

    /// Notes that the service answered.
    pub(crate) fn answered(&mut self) {
        *self = Health::default();
    }

    /// Notes that the service did not answer a write that began at `begun`. `longest` is the longest pause.
    pub(crate) fn unanswered(&mut self, begun: Instant, now: Instant, longest: Duration) {
        // Writes that ran at the same time are one failure.
        if self.last.is_some_and(|last| begun < last) {
            return;
        }
        self.last = Some(now);
        self.in_a_row = self.in_a_row.saturating_add(1);
        if let Some(pauses) = self.in_a_row.checked_sub(PATIENCE) {
            // The first pause is a 32nd of the longest one.
            let pause = (longest / 32).saturating_mul(1 << pauses.min(5)).min(longest);
            self.not_before = now.checked_add(pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_end_with_an_answer() {
        let (mut health, start) = (Health::default(), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        let longest = Duration::from_millis(3200);
        health.unanswered(start, start, longest);
        assert!(health.may_try(start));
        for pause in [100, 200, 400, 800, 1600, 3200, 3200] {
            health.unanswered(start, start, longest);
            assert!(!health.may_try(after(pause - 1)) && health.may_try(after(pause)), "{pause}");
        }
        health.answered();
        assert!(health.may_try(start));
        health.unanswered(start, start, longest);
        assert!(health.may_try(start), "a new row");
        // Many threads that wait for the same answer.
        (0..9).for_each(|_| health.unanswered(start, after(5000), longest));
        (0..9).for_each(|_| health.unanswered(start, after(5001), longest));
        assert!(!health.may_try(after(5099)) && health.may_try(after(5100)));
    }
}
