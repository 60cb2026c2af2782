//! A thread that writes pages back before the limit is reached. The fuller the pools are, the more it writes.
//!
//! *Pressure* says where the pools' bytes are between the threshold (0) and the limit (1). Each step
//! multiplies the policy's `most_pages` by the pressure, and writes that many pages back, but no more than
//! the pages by which the pools exceed the threshold. Pages that were loaded from the device since the last
//! step were written back too early, so the step subtracts their number. But under pressure it writes at
//! least one page, and at the limit it subtracts nothing. If the pools may exceed the threshold by several segments of
//! the device before they reach the limit, the pages of several steps are written together, so that they fill a segment. After a step that failed or wrote nothing, the
//! pause doubles.

use core::time::Duration;
use std::sync::Arc;

use crate::Zswap;
use crate::background::{Background, Next, Stop};
use crate::counters::{Counter, pooled_pages};
use crate::error::WritebackError;
use crate::limits::{Limits, percent_of};
use crate::moves::victims::From;
use crate::moves::writeback::{Amount, Device, Unreadable, WrittenBack};
use zpool_base::contained::{Panicked, contain};

/// The longest pause, as a multiple of the policy's pause.
const LONGEST_PAUSE: u32 = 16;
/// If at least this many segments of bytes lie between the threshold and the limit, full segments are written.
const SPAN: usize = 4;

/// Says how much a background shrinker writes back, and when. Each field gives its default.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ShrinkerPolicy {
    /// The threshold, in percent of the limit on the pools. While the pools hold more than this, the thread
    /// writes pages back. Default 80.
    pub from_percent: u8,
    /// The most pages that a step writes back. At the limit, each step writes back this many, if the pools
    /// exceed the threshold by this many. Default 256, which is 1 MiB.
    pub most_pages: usize,
    /// The pause after a step that wrote pages back. After steps that failed or wrote nothing, pauses double
    /// up to 16 times this. Default 10 ms.
    pub pause: Duration,
}

impl Default for ShrinkerPolicy {
    fn default() -> Self {
        ShrinkerPolicy { from_percent: 80, most_pages: 256, pause: Duration::from_millis(10) }
    }
}

impl ShrinkerPolicy {
    /// Sets [`ShrinkerPolicy::from_percent`]. More than 100 counts as 100.
    #[must_use]
    pub fn from_percent(self, percent: u8) -> Self {
        ShrinkerPolicy { from_percent: percent.min(100), ..self }
    }

    /// Sets [`ShrinkerPolicy::most_pages`].
    #[must_use]
    pub fn most_pages(self, pages: usize) -> Self {
        ShrinkerPolicy { most_pages: pages, ..self }
    }

    /// Sets [`ShrinkerPolicy::pause`].
    #[must_use]
    pub fn pause(self, pause: Duration) -> Self {
        ShrinkerPolicy { pause, ..self }
    }

    /// Returns how many pages a step writes back. The pools hold `bytes` bytes, their limit is `max` bytes,
    /// `came_back` pages were loaded from the device since the last step, and a page has `unit` bytes.
    fn effort(&self, bytes: usize, max: usize, came_back: u64, unit: usize) -> usize {
        let from = percent_of(max, self.from_percent);
        // Writing a page back frees at most the size of a page. So to get down to the threshold takes at least
        // this many pages.
        let needed = bytes.saturating_sub(from).div_ceil(unit).min(self.most_pages);
        if bytes >= max || needed == 0 {
            return needed;
        }
        // `from <= bytes < max`, so `span` is not 0.
        let (above, span) = ((bytes - from) as u128, (max - from) as u128);
        let most = usize::try_from((self.most_pages as u128 * above).div_ceil(span));
        let came_back = usize::try_from(came_back).unwrap_or(usize::MAX);
        most.unwrap_or(usize::MAX).min(needed).saturating_sub(came_back).max(1)
    }
}

/// What the thread remembers of an area, or of the whole store, between two steps.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    /// The loads from the device that were counted.
    loads: u64,
    /// Pages that earlier steps have left to the next one.
    carried: usize,
}

/// One [`Pace`] for each `swap_type`, and one for the whole store.
const PACES: usize = 257;

/// What an area or the whole store holds.
struct Held<'s> {
    limits: &'s Limits,
    /// Loads from the device so far.
    loads: u64,
    /// Pages in the pools.
    pages: u64,
}

/// Adds `effort` to the pages that earlier steps have left to this one. Returns how many pages this step writes back:
/// none, unless they fill a segment of `full` pages and `due` is true. However many steps leave their pages, one
/// segment's are carried at most.
fn gather(carried: &mut usize, effort: usize, full: usize, due: bool) -> usize {
    *carried = carried.saturating_add(effort).min(full.max(effort));
    if due && *carried >= full { core::mem::take(carried) } else { 0 }
}

/// Returns the next pause, as a multiple of the policy's pause. It is 1 after a step that wrote pages back
/// and did not fail. Otherwise it is twice the last pause, up to the longest.
fn next_pause(last: u32, written: usize, failed: bool) -> u32 {
    if written > 0 && !failed { 1 } else { (2 * last).min(LONGEST_PAUSE) }
}

/// What a background shrinker has done so far.
#[derive(Clone, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct ShrinkerReport {
    /// Steps, including those that had nothing to do.
    pub steps: u64,
    /// Pages written back, and clean pages dropped.
    pub written: u64,
    /// Steps that ended with an error, or in which the device, codec or backend panicked, or that skipped a
    /// page because it could not be read.
    pub failed: u64,
    /// The last error; `None` if there was none.
    pub last_error: Option<WritebackError>,
}

/// A thread that shrinks a store. [`Zswap::shrink_in_background`] starts one.
pub type BackgroundShrinker = Background<ShrinkerReport>;

impl Zswap {
    /// Starts a thread that writes pages back before the pools reach their limit. The fuller they are, the
    /// more it writes; [`ShrinkerPolicy`] has the details. At the limit, a call of [`Zswap::store`] still
    /// makes room itself, but that happens less often.
    ///
    /// The thread does nothing while writeback is switched off. If the device fails or user code panics, the
    /// report shows it, and the thread tries again later.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zswap_core::device::MemorySwapDevice;
    /// use zswap_core::{ShrinkerPolicy, Zswap};
    ///
    /// let store = Zswap::builder()
    ///     .max_pool_bytes(64 << 20)
    ///     .swap_device(Arc::new(MemorySwapDevice::new(1 << 16)))
    ///     .build()?;
    /// let store = Arc::new(store);
    /// let shrinker = store.shrink_in_background(ShrinkerPolicy::default().from_percent(90))?;
    /// assert_eq!(shrinker.stop().written, 0, "the pools are empty");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`WritebackError::NoLimit`] if the store has no limit, [`WritebackError::NoDevice`] if it has no
    /// device, [`WritebackError::Thresholds`] if the policy's threshold is above the store's accept
    /// threshold, [`WritebackError::Thread`] if the system cannot start a thread, [`WritebackError::Forked`]
    /// in a child after `fork`.
    pub fn shrink_in_background(
        self: &Arc<Self>,
        policy: ShrinkerPolicy,
    ) -> Result<BackgroundShrinker, WritebackError> {
        if !self.is_here() {
            return Err(WritebackError::Forked);
        }
        if !self.limits.is_limited() && !self.areas.all().any(|area| area.limits.is_limited()) {
            return Err(WritebackError::NoLimit);
        }
        if self.backing.is_none() {
            return Err(WritebackError::NoDevice);
        }
        let (from_percent, accept_percent) = (policy.from_percent, self.limits.accept_percent());
        if from_percent > accept_percent {
            return Err(WritebackError::Thresholds { from_percent, accept_percent });
        }
        let mut pace = vec![Pace::default(); PACES];
        let mut idle = 1;
        let step = move |store: Option<&Zswap>, stop: &Stop<'_>| {
            let mut done = WrittenBack::default();
            let next = match store {
                None => Next::End,
                Some(store) => {
                    let step = contain(|| store.shrink_step(&policy, &mut pace, stop));
                    done = step.unwrap_or_else(|Panicked| WrittenBack {
                        error: Some(WritebackError::Panicked),
                        ..WrittenBack::default()
                    });
                    // A step that leaves its pages to the next one has work to do, too.
                    let carried: usize = pace.iter().map(|pace| pace.carried).sum();
                    idle =
                        next_pause(idle, done.pages.saturating_add(carried), done.error.is_some());
                    // An unreadable page does not lengthen the pause, so its error is added only now, for the
                    // report.
                    done.error = done.error.or(done.passed_by.take());
                    Next::After(policy.pause.saturating_mul(idle))
                }
            };
            let report = move |report: &mut ShrinkerReport| {
                report.steps += 1;
                report.written += done.pages as u64;
                report.failed += u64::from(done.error.is_some());
                if done.error.is_some() {
                    report.last_error = done.error;
                }
            };
            (report, next)
        };
        Background::start("zswap-shrink", Arc::downgrade(self), step)
            .map_err(|error| WritebackError::Thread { message: error.to_string() })
    }

    /// Does one step for each area with a limit of its own, then for the whole store.
    fn shrink_step(
        &self,
        policy: &ShrinkerPolicy,
        pace: &mut [Pace],
        stop: &Stop<'_>,
    ) -> WrittenBack {
        let mut done = WrittenBack::default();
        for area in self.areas.all() {
            let Some(swap_type) = area.swap_type else { continue };
            let loads = area.counters.get(Counter::DeviceLoads);
            let pages = pooled_pages(|counter| area.counters.get(counter));
            let held = Held { limits: &area.limits, loads, pages };
            let pace = &mut pace[usize::from(swap_type)];
            self.shrink_for(&held, From::Area(area), policy, pace, stop, &mut done);
        }
        let (loads, pages) = (self.areas.count(Counter::DeviceLoads), self.pooled_pages());
        let held = Held { limits: &self.limits, loads, pages };
        let from = From::Excess { last: None };
        self.shrink_for(&held, from, policy, &mut pace[PACES - 1], stop, &mut done);
        done
    }

    /// Writes pages back from the areas `from` if `held` is above the policy's threshold. Adds what it did to `done`.
    fn shrink_for(
        &self,
        held: &Held<'_>,
        from: From<'_>,
        policy: &ShrinkerPolicy,
        pace: &mut Pace,
        stop: &Stop<'_>,
        done: &mut WrittenBack,
    ) {
        let (bytes, max) = (held.limits.budget().used(), held.limits.pool_limit());
        let effort = policy.effort(bytes, max, held.loads.saturating_sub(pace.loads), self.unit);
        pace.loads = held.loads;
        // It is no error if writeback is switched off for now.
        let can_write = match from {
            From::Area(area) => self.device_of(area).is_some(),
            From::Excess { .. } | From::All => self.writeback.get(),
        };
        let segments = self.backing.as_ref().filter(|_| effort > 0 && can_write);
        let Some(segments) = segments.filter(|_| max != usize::MAX) else {
            pace.carried = 0;
            return;
        };
        let above = percent_of(max, policy.from_percent);
        let segment = segments.geometry().segment_bytes;
        let effort = if bytes < max && max - above >= SPAN * segment {
            // Pages that do not fill a segment take a whole one of the device.
            let mean = bytes / (held.pages.max(1) as usize);
            let due = bytes.saturating_sub(above) >= segment;
            gather(&mut pace.carried, effort, segment / mean.max(1), due)
        } else {
            pace.carried = 0;
            effort
        };
        if effort == 0 {
            return;
        }
        let (device, amount) = (Device::Used, Amount::FullSegments(effort));
        let stop = || stop.is_set();
        let now = self.write_back_some(from, device, amount, Unreadable::PassedBy, &stop);
        done.pages += now.pages;
        done.error = done.error.take().or(now.error);
        done.passed_by = done.passed_by.take().or(now.passed_by);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::PAGE_SIZE;

    #[test]
    fn steps_that_wait_do_not_pile_up_more_than_a_segment() {
        let mut carried = 0;
        assert_eq!([(); 1000].map(|()| gather(&mut carried, 1, 40, false)), [0; 1000]);
        assert_eq!((gather(&mut carried, 1, 40, true), carried), (40, 0));
        // Few pages wait until they fill a segment, and many need not.
        assert_eq!([30, 9, 1, 100].map(|n| gather(&mut carried, n, 40, true)), [0, 0, 40, 100]);
        assert_eq!(carried, 0);
    }

    #[test]
    fn pauses_grow_while_there_is_nothing_to_do_and_after_failures() {
        let mut pause = 1;
        let mut next = |(written, failed)| {
            pause = next_pause(pause, written, failed);
            pause
        };
        assert_eq!([(0, false); 6].map(&mut next), [2, 4, 8, 16, 16, 16]);
        assert_eq!([(1, false), (9, false), (9, true), (0, true)].map(next), [1, 1, 2, 4]);
    }

    #[test]
    fn a_policy_is_what_it_was_told_to_be() {
        let pause = Duration::from_secs(3);
        let policy = ShrinkerPolicy::default().from_percent(255).most_pages(7).pause(pause);
        assert_eq!(policy, ShrinkerPolicy { from_percent: 100, most_pages: 7, pause });
        let default = ShrinkerPolicy::default();
        assert_eq!((default.from_percent, default.most_pages), (80, 256));
        assert_eq!(default.pause, Duration::from_millis(10));
    }

    #[test]
    fn effort_follows_pressure_and_eases_off_when_pages_come_back() {
        let policy = ShrinkerPolicy::default().from_percent(50).most_pages(100);
        let max = 1000 * PAGE_SIZE;
        let effort = |pages: usize| policy.effort(pages * PAGE_SIZE, max, 0, PAGE_SIZE);
        assert_eq!([0, 499, 500].map(effort), [0; 3]);
        assert_eq!([501, 510, 750, 999, 1000, 5000].map(effort), [1, 2, 50, 100, 100, 100]);
        let back = |back| policy.effort(750 * PAGE_SIZE, max, back, PAGE_SIZE);
        assert_eq!([0, 20, 49, 50, 9999].map(back), [50, 30, 1, 1, 1]);
        assert_eq!(policy.effort(max / 2, max, 7, PAGE_SIZE), 0, "no pressure, nothing to ease");
        assert_eq!(policy.effort(max, max, 9999, PAGE_SIZE), 100, "at the limit all of it");
        assert_eq!(
            policy.from_percent(99).effort(max, max, 0, PAGE_SIZE),
            10,
            "no more than is needed"
        );
        assert_eq!(policy.from_percent(255).effort(max - 1, max, 0, PAGE_SIZE), 0);
        assert_eq!(policy.from_percent(0).effort(1, max, 0, PAGE_SIZE), 1);
        assert_eq!(
            policy.from_percent(0).effort(1, 0, 0, PAGE_SIZE),
            1,
            "a limit of nothing is reached"
        );
        let vast = policy.most_pages(usize::MAX).effort(usize::MAX - 1, usize::MAX, 0, PAGE_SIZE);
        assert!(vast >= usize::MAX / 2 / PAGE_SIZE, "{vast}");
    }
}
