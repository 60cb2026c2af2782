//! Compacts the pools: on demand, or on a thread whenever a run is likely to free enough.
//!
//! *Waste* is the difference between the bytes of the pools' pages and the bytes of their objects. No run
//! frees all of it: backends round objects up to the size of their class, the last page of a class is not
//! full, and objects that are being read stay in place. So the thread notes the waste that a run left. It
//! runs again when the waste has grown by a quarter of the threshold. It also runs periodically while the
//! waste is above the threshold; each unproductive run doubles the interval.
//!
//! The thread checks a store at rest less and less often, and a store with fast growing waste more often.
//! After a run it pauses long enough to keep within the share of one processor's time that the policy allows.
//!
//! A check only reads the backends' statistics, so it hardly delays stores and loads.

use core::time::Duration;
use std::sync::Arc;

use zpool_api::ZpoolError;

use crate::Zswap;
use crate::background::thread_time::ThreadTime;
use crate::background::{Background, Next, Stop};
use crate::compaction_bound::{STEP_PAGES, most_steps};
use crate::limits::percent_of;
use crate::pool::Pool;

/// The policy's pause is divided into this many parts, and the lengths of pauses are given in parts. The
/// shortest pause is one part.
const PAUSE: u32 = 16;
/// The longest pause, for a store at rest: 16 times the policy's pause.
const LONGEST_PAUSE: u32 = 16 * PAUSE;
/// If the waste stays above the threshold but does not grow, a run is due after at most this many checks.
const MOST_PATIENCE: u32 = 64;
/// Waste must have grown by at least this many bytes to lead to a run, even in a small store: 16 pages of
/// 4096 bytes.
const LEAST_GAIN: usize = 64 << 10;

/// Says when a background compactor runs. Each field gives its default.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct CompactorPolicy {
    /// The waste that is tolerated, in percent of the compressed bytes. Waste is the number of bytes by which
    /// the pools' pages exceed the compressed bytes. At most 100. Default 3.
    pub from_percent: u8,
    /// The usual pause between two checks of the pools. While nothing changes in the pools, pauses grow up to
    /// 16 times this. While much waste gathers between two checks, pauses shrink down to a 16th of this.
    /// Default 100 ms.
    pub pause: Duration,
    /// The share of one processor's time that runs may take, in percent. After each run the thread pauses
    /// long enough to keep within this share. 0 counts as 1. Default 10: with 5, runs could not keep up with a
    /// store in which every page was replaced three times a second.
    pub time_percent: u8,
}

impl Default for CompactorPolicy {
    fn default() -> Self {
        CompactorPolicy { from_percent: 3, pause: Duration::from_millis(100), time_percent: 10 }
    }
}

impl CompactorPolicy {
    /// Sets [`CompactorPolicy::from_percent`]. More than 100 counts as 100.
    #[must_use]
    pub fn from_percent(self, percent: u8) -> Self {
        CompactorPolicy { from_percent: percent.min(100), ..self }
    }

    /// Sets [`CompactorPolicy::pause`].
    #[must_use]
    pub fn pause(self, pause: Duration) -> Self {
        CompactorPolicy { pause, ..self }
    }

    /// Sets [`CompactorPolicy::time_percent`]. More than 100 counts as 100.
    #[must_use]
    pub fn time_percent(self, percent: u8) -> Self {
        CompactorPolicy { time_percent: percent.min(100), ..self }
    }

    /// Returns the pause after a step in which a run took the time `busy`, or 0 if there was no run. The
    /// pause is at least `pace` parts.
    fn pause_after(&self, busy: Duration, pace: u32) -> Duration {
        let percent = u32::from(self.time_percent.clamp(1, 100));
        let rest = busy.saturating_mul(100 - percent) / percent;
        rest.max((self.pause / PAUSE).saturating_mul(pace))
    }
}

/// What a background compactor has done so far.
#[derive(Clone, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct CompactorReport {
    /// Checks of the pools, with or without a run.
    pub looks: u64,
    /// Runs of compaction.
    pub runs: u64,
    /// Pages freed by runs.
    pub pages: u64,
    /// Processor time that the runs took. On systems other than Linux, wall-clock time.
    pub busy: Duration,
    /// Checks and runs in which the backend failed or panicked.
    pub failed: u64,
    /// The last error; `None` if there was none.
    pub last_error: Option<ZpoolError>,
}

/// A thread that compacts a store's pools. [`Zswap::compact_in_background`] starts one.
pub type BackgroundCompactor = Background<CompactorReport>;

/// Sums over all pools that can be compacted: the bytes of their pages (`pool`) and of their objects
/// (`compressed`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Figures {
    pool: usize,
    compressed: usize,
}

impl Figures {
    fn waste(self) -> usize {
        self.pool.saturating_sub(self.compressed)
    }
}

/// The state that the thread keeps from check to check.
#[derive(Debug)]
struct Watch {
    from_percent: u8,
    seen: Figures,
    /// The waste after the last run, or less if a later check has found less.
    left: usize,
    /// The number of checks that have found waste above the threshold since the last run.
    looks: u32,
    /// When `looks` reaches this number, a run is due even if the waste has not grown.
    patience: u32,
    /// The pause until the next check, in parts of the policy's pause.
    pace: u32,
}

impl Watch {
    fn new(from_percent: u8) -> Self {
        Watch {
            from_percent,
            seen: Figures::default(),
            left: 0,
            looks: 0,
            patience: 1,
            pace: PAUSE,
        }
    }

    fn threshold(&self, figures: Figures) -> usize {
        percent_of(figures.compressed, self.from_percent)
    }

    /// Returns by how many bytes the waste must have grown to lead to a run.
    fn gain(&self, figures: Figures) -> usize {
        (self.threshold(figures) / 4).max(LEAST_GAIN)
    }

    /// Returns whether a run is due with the figures `now`. Updates the pace and the other fields.
    fn is_due(&mut self, now: Figures) -> bool {
        self.left = self.left.min(now.waste());
        let (threshold, gain) = (self.threshold(now), self.gain(now));
        let above = now.waste().saturating_sub(threshold);
        let grown = above > 0 && now.waste() - self.left >= gain;
        // The check is late if the waste has also passed the threshold by a whole gain.
        let late = above.min(now.waste() - self.left) >= gain;
        self.pace = match (now == self.seen, grown && late) {
            (true, _) => (2 * self.pace).min(LONGEST_PAUSE),
            (false, true) => (self.pace.min(PAUSE) / 2).max(1),
            (false, false) if grown => self.pace.min(PAUSE),
            (false, false) => (2 * self.pace).min(PAUSE),
        };
        self.seen = now;
        self.looks = if above > 0 { self.looks.saturating_add(1) } else { self.looks };
        grown || above > 0 && self.looks >= self.patience
    }

    /// Notes the result of a run: the number of bytes that it freed, and the figures `after` it.
    fn ran(&mut self, won: usize, after: Figures) {
        self.patience =
            if won < self.gain(after) / 2 { (2 * self.patience).min(MOST_PATIENCE) } else { 1 };
        self.looks = 0;
        self.left = after.waste();
        self.seen = after;
    }
}

/// The result of a run over the pools.
#[derive(Debug, Default)]
struct Run {
    pages: usize,
    /// The bytes of the freed pages.
    won: usize,
    error: Option<ZpoolError>,
}

impl Zswap {
    /// Compacts each pool of the store, if its backend can be compacted. Moves objects together, and returns
    /// the freed pages and the pool's warm pages to the system. Returns the number of freed pages, without
    /// the warm ones; 0 if no backend can be compacted. Stored pages stay readable and writable throughout.
    ///
    /// ```
    /// # if cfg!(not(all(feature = "zsmalloc", feature = "lz4"))) { return Ok(()); }
    /// use zswap_core::{SwapEntry, Zswap};
    ///
    /// let store = Zswap::builder().zpool("zsmalloc").compressor("lz4").build()?;
    /// let page = core::array::from_fn(|i| (i % 251) as u8);
    /// for offset in 0..1000 {
    ///     store.store(SwapEntry::new(0, offset)?, &page)?;
    /// }
    /// for offset in (0..1000).filter(|offset| offset % 10 != 0) {
    ///     store.invalidate(SwapEntry::new(0, offset)?);
    /// }
    /// assert!(store.compact()? > 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Returns the first error of a backend, after it has compacted the other pools nevertheless. Returns
    /// [`ZpoolError::Forked`] in a child after `fork`.
    ///
    /// # Blocking
    /// Takes microseconds if nothing can be freed, otherwise as long as moving the objects takes. It works in
    /// small steps, and other threads can allocate and free between them. Objects that are being read stay in
    /// place. Concurrent calls are harmless. A call ends even if other threads keep allocating and freeing, or
    /// if a backend never reports that it is complete: the number of steps in a pool is limited, depending on
    /// the objects and pages that the pool had at the start.
    pub fn compact(&self) -> Result<usize, ZpoolError> {
        if !self.is_here() {
            return Err(ZpoolError::Forked { backend: "the store" });
        }
        let run = self.compact_pools(&|| false);
        run.error.map_or(Ok(run.pages), Err)
    }

    fn compactable(&self) -> impl Iterator<Item = Arc<Pool>> {
        self.all_pools().filter(|pool| pool.can_compact())
    }

    /// Compacts each pool until its backend reports that it is complete, or until `most_steps` steps are
    /// done. Checks `stop` before each step, and stops if it returns true. Then trims the pool.
    fn compact_pools(&self, stop: &dyn Fn() -> bool) -> Run {
        let mut run = Run::default();
        for pool in self.compactable() {
            let figures = pool.try_stats().unwrap_or_default();
            for _ in 0..most_steps(figures.objects, figures.total_pages) {
                if stop() {
                    break;
                }
                match pool.compact_some(STEP_PAGES) {
                    Ok(won) => {
                        run.pages = run.pages.saturating_add(won.pages);
                        run.won =
                            run.won.saturating_add(won.pages.saturating_mul(pool.page_size()));
                        if won.complete {
                            break;
                        }
                    }
                    Err(error) => {
                        run.error = run.error.or(Some(error));
                        break;
                    }
                }
            }
            pool.trim();
        }
        run
    }

    fn figures(&self) -> Result<Figures, ZpoolError> {
        self.compactable().try_fold(Figures::default(), |sum, pool| {
            let stats = pool.try_stats()?;
            let pool = sum.pool.saturating_add(stats.pool_bytes());
            Ok(Figures { pool, compressed: sum.compressed.saturating_add(stats.object_bytes) })
        })
    }

    /// Starts a thread that checks the pools periodically. It compacts them when their pages take a few
    /// percent more than the compressed bytes and a run is likely to free some of that; [`CompactorPolicy`]
    /// has the details. The thread does nothing while no backend can be compacted. If a backend fails or
    /// panics, the report shows it, and the thread tries again later.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zswap_core::{CompactorPolicy, Zswap};
    ///
    /// let store = Arc::new(Zswap::builder().build()?);
    /// let compactor = store.compact_in_background(CompactorPolicy::default().time_percent(5))?;
    /// assert_eq!(compactor.stop().runs, 0, "an empty store has no waste");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Returns the system's error if the system cannot start a thread. In a child after `fork`, returns an
    /// error that holds [`ZpoolError::Forked`].
    pub fn compact_in_background(
        self: &Arc<Self>,
        policy: CompactorPolicy,
    ) -> std::io::Result<BackgroundCompactor> {
        if !self.is_here() {
            return Err(std::io::Error::other(ZpoolError::Forked { backend: "the store" }));
        }
        let mut watch = Watch::new(policy.from_percent);
        let step = move |store: Option<&Zswap>, stop: &Stop<'_>| {
            let mut done = Step::default();
            let next = match store {
                None => Next::End,
                Some(store) => {
                    done = Step::take(store, &mut watch, stop);
                    Next::After(policy.pause_after(done.busy, watch.pace))
                }
            };
            (move |report: &mut CompactorReport| done.tell(report), next)
        };
        Background::start("zswap-compact", Arc::downgrade(self), step)
    }
}

/// What the thread did in one step: a check, and a run if one was due.
#[derive(Debug, Default)]
struct Step {
    ran: bool,
    pages: usize,
    busy: Duration,
    error: Option<ZpoolError>,
}

impl Step {
    /// Checks the pools, and compacts them if a run is due.
    fn take(store: &Zswap, watch: &mut Watch, stop: &Stop<'_>) -> Self {
        let now = match store.figures() {
            Ok(now) => now,
            Err(error) => return Step { error: Some(error), ..Step::default() },
        };
        if !watch.is_due(now) {
            return Step::default();
        }
        let start = ThreadTime::now();
        let run = store.compact_pools(&|| stop.is_set());
        let busy = start.elapsed();
        let after = store.figures();
        watch.ran(run.won, *after.as_ref().unwrap_or(&now));
        Step { ran: true, pages: run.pages, busy, error: run.error.or(after.err()) }
    }

    fn tell(self, report: &mut CompactorReport) {
        report.looks += 1;
        report.runs += u64::from(self.ran);
        report.pages = report.pages.saturating_add(self.pages as u64);
        report.busy += self.busy;
        report.failed += u64::from(self.error.is_some());
        if self.error.is_some() {
            report.last_error = self.error;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    /// Makes figures with 100 MiB of compressed bytes and `kib` KiB of waste.
    fn with_waste(kib: usize) -> Figures {
        Figures { pool: 100 * MIB + (kib << 10), compressed: 100 * MIB }
    }

    #[test]
    fn a_run_is_due_above_the_threshold_and_again_when_waste_has_grown_by_a_quarter_of_it() {
        let mut watch = Watch::new(4);
        assert!(!watch.is_due(with_waste(4096)));
        assert!(watch.is_due(with_waste(4097)));
        // The run frees 2 MiB and leaves 4000 KiB of waste.
        watch.ran(2 * MIB, with_waste(4000));
        assert!(!watch.is_due(with_waste(4096)));
        assert!(!Watch { patience: 99, ..watch }.is_due(with_waste(5023)));
    }

    #[test]
    fn what_a_run_has_left_is_let_be_until_it_goes_by_itself() {
        let mut watch = Watch { patience: 99, ..Watch::new(4) };
        watch.left = 8 * MIB;
        assert!(!watch.is_due(with_waste(9 * 1024 - 1)));
        assert!(watch.is_due(with_waste(9 * 1024)));
        assert!(!watch.is_due(with_waste(5 * 1024)), "3 MiB went");
        assert!(!watch.is_due(with_waste(6 * 1024 - 1)));
        assert!(watch.is_due(with_waste(6 * 1024)));
    }

    #[test]
    fn in_vain_it_is_tried_ever_more_rarely_and_a_run_that_wins_ends_that() {
        let mut watch = Watch::new(3);
        let mut runs = Vec::new();
        for look in 0..300 {
            if watch.is_due(with_waste(8192)) {
                watch.ran(0, with_waste(8192));
                runs.push(look);
            }
        }
        assert_eq!(runs, [0, 2, 6, 14, 30, 62, 126, 190, 254]);
        watch.ran(4 * MIB, with_waste(4096));
        assert!(watch.is_due(with_waste(4096)));
    }

    #[test]
    fn a_small_store_needs_no_run_for_a_few_pages() {
        let mut watch = Watch { patience: 99, ..Watch::new(3) };
        let tiny = |pages: usize| Figures { pool: pages * 4096, compressed: 4096 };
        assert!(!watch.is_due(tiny(16)));
        assert!(watch.is_due(tiny(17)));
        assert!(!watch.is_due(Figures::default()));
    }

    #[test]
    fn a_store_at_rest_is_looked_at_more_rarely_until_something_changes() {
        let mut watch = Watch::new(3);
        let mut pace = |kib| {
            watch.is_due(with_waste(kib));
            watch.pace
        };
        let at_rest = [9, 9, 9, 9, 9, 9, 9].map(&mut pace);
        assert_eq!(at_rest, [16, 32, 64, 128, 256, 256, 256]);
        assert_eq!([8, 8].map(&mut pace), [16, 32]);
    }

    #[test]
    fn waste_that_grows_fast_is_looked_at_more_often_and_what_stays_is_not() {
        let mut watch = Watch { patience: 99, ..Watch::new(4) };
        let mut look = |kib: usize| {
            let due = watch.is_due(with_waste(kib));
            if due {
                watch.ran(MIB, with_waste(3500));
            }
            (due, watch.pace)
        };
        assert_eq!(look(5000), (true, 16), "in time");
        let late = [5120, 6000, 9000, 9000, 9000].map(&mut look);
        assert_eq!(
            late.map(|(due, pace)| (u32::from(due), pace)),
            [(1, 8), (1, 4), (1, 2), (1, 1), (1, 1)]
        );
        assert_eq!([3600, 3700, 5000].map(&mut look), [(false, 2), (false, 4), (true, 4)]);
        // This run frees nothing.
        watch.ran(0, with_waste(9000));
        assert!(!watch.is_due(with_waste(9001)));
        assert_eq!(watch.pace, 8);
    }

    #[test]
    fn the_pause_keeps_runs_to_their_share_of_the_time() {
        let policy = CompactorPolicy::default().pause(Duration::from_millis(10)).time_percent(20);
        let after = |ms| policy.pause_after(Duration::from_millis(ms), PAUSE).as_millis();
        assert_eq!([0, 2, 3, 50].map(after), [10, 10, 12, 200]);
        let most = |percent| {
            let policy = policy.time_percent(percent);
            policy.pause_after(Duration::from_millis(50), PAUSE).as_millis()
        };
        assert_eq!([0, 1, 50, 100, 255].map(most), [4950, 4950, 50, 10, 10]);
        assert_eq!(policy.pause_after(Duration::MAX, 1), Duration::MAX / 20);
        let paced = |pace| policy.pause_after(Duration::ZERO, pace).as_micros();
        assert_eq!([1, 16, 256].map(paced), [625, 10_000, 160_000]);
    }
}
