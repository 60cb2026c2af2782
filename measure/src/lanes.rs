//! The measuring threads: each has its own stopwatch, page buffer and processor.
//!
//! A single lane works on the calling thread. Several lanes work on new threads that start
//! together, each pinned to one processor. The work is split into equal shares; lane `n` gets the `n`-th.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::aligned::{Page, Pages};
use crate::error::{Error, Result};
use crate::pin::{Pinned, Processors};
use crate::timing::{Clock, Laps, Summary};

/// The byte that fills buffers before loads. No page is likely to consist of it, so a load that writes
/// nothing is noticed.
pub(crate) const POISON: u8 = 0xa5;

/// The stopwatch and the page buffer of one measuring thread.
#[derive(Debug)]
pub(crate) struct Lane {
    /// The stopwatch.
    pub(crate) laps: Laps,
    /// The target of every load and every decompression.
    pages: Pages,
}

impl Lane {
    /// Borrows the stopwatch and the page buffer together. The buffer is one page long unless
    /// `Lanes::resize_buffers` changed it.
    pub(crate) fn parts(&mut self) -> (&mut Laps, &mut [Page]) {
        (&mut self.laps, &mut self.pages)
    }
}

/// All lanes of a run. [`turn()`](crate::turn()) and [`codec::measure`](crate::codec::measure) work on them.
#[derive(Debug)]
pub struct Lanes {
    lanes: Vec<Lane>,
    clock: Clock,
    /// The processors that the calling thread could use when it made the lanes, before any turn pinned it.
    processors: Processors,
}

/// The results of the lanes from one measurement.
#[derive(Debug)]
pub(crate) struct Harvest<T> {
    /// One result for each lane, in the order of the shares.
    pub(crate) results: Vec<T>,
    /// Times of single operations over all lanes; `None` if nothing was timed.
    pub(crate) times: Option<Summary>,
}

impl Lanes {
    /// Makes `threads` lanes. Together, their stopwatches can record `laps` laps without allocating.
    ///
    /// ```
    /// assert_eq!(measure::Lanes::new(2, 100)?.count(), 2);
    /// # Ok::<(), measure::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NoThreads`] if `threads` is 0.
    pub fn new(threads: usize, laps: usize) -> Result<Self> {
        let each = laps.div_ceil(threads.max(1));
        let lane = || Lane { laps: Laps::with_capacity(each), pages: Pages::filled(POISON, 1) };
        let lanes: Vec<Lane> = (0..threads).map(|_| lane()).collect();
        if lanes.is_empty() {
            return Err(Error::NoThreads);
        }
        Ok(Lanes { lanes, clock: Clock::measure(), processors: Processors::allowed() })
    }

    /// Makes every lane's buffer `pages` pages long.
    pub(crate) fn resize_buffers(&mut self, pages: usize) {
        for lane in &mut self.lanes {
            lane.pages.resize(pages, POISON);
        }
    }

    /// Returns the number of lanes, at least 1.
    pub fn count(&self) -> usize {
        self.lanes.len()
    }

    /// Returns the cost of reading the clock, measured when the lanes were made.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Returns the first lane, for use by the calling thread outside of a measurement.
    pub(crate) fn own(&mut self) -> &mut Lane {
        // A run has at least one lane.
        &mut self.lanes[0]
    }

    /// Splits `work` among the lanes. Each lane calls `ready` on its share, untimed; then all lanes
    /// together start their stopwatches and call `body` with what `ready` returned. `body` ends a
    /// lap for each operation.
    ///
    /// # Errors
    ///
    /// The first error of `ready` or `body`, in the order of the lanes. It is returned after all lanes
    /// have ended.
    pub(crate) fn measure<W: Sync, R, T: Send, E: Send>(
        &mut self,
        work: &[W],
        ready: impl Fn(usize, &[W]) -> Result<R, E> + Sync,
        body: impl Fn(&mut Lane, &[W], R) -> Result<T, E> + Sync,
    ) -> Result<Harvest<T>, E> {
        let threads = self.lanes.len();
        let share = |n: usize| &work[n * work.len() / threads..(n + 1) * work.len() / threads];
        let mut spans = Vec::with_capacity(threads);
        let mut results = Vec::with_capacity(threads);
        if let [lane] = &mut self.lanes[..] {
            let ready = ready(0, work)?;
            lane.laps.start();
            let begun = Instant::now();
            results.push(body(lane, work, ready)?);
            spans.push((begun, Instant::now()));
        } else {
            let start = Barrier::new(threads);
            let processors = self.processors.clone();
            let run = |n: usize, lane: &mut Lane| {
                let _pinned = Pinned::to_nth(&processors, n);
                let ready = ready(n, share(n));
                start.wait();
                let ready = ready?;
                lane.laps.start();
                let begun = Instant::now();
                let result = body(lane, share(n), ready)?;
                Ok::<_, E>((result, (begun, Instant::now())))
            };
            let run = &run;
            std::thread::scope(|scope| {
                let lanes = self.lanes.iter_mut().enumerate();
                let running: Vec<_> =
                    lanes.map(|(n, lane)| scope.spawn(move || run(n, lane))).collect();
                for lane in running {
                    match lane.join() {
                        Ok(done) => {
                            let (result, span) = done?;
                            results.push(result);
                            spans.push(span);
                        }
                        Err(panic) => std::panic::resume_unwind(panic),
                    }
                }
                Ok::<_, E>(())
            })?;
        }
        Ok(Harvest { results, times: self.summary(wall(&spans)) })
    }

    /// Summarises the laps of all lanes, which took `wall` from the first start to the last end.
    fn summary(&mut self, wall: Duration) -> Option<Summary> {
        let mut lanes = self.lanes.iter_mut();
        let first = lanes.next()?;
        for lane in lanes {
            first.laps.absorb(&mut lane.laps);
        }
        first.laps.summary(self.clock, wall)
    }
}

/// Returns the time from the first start to the last end.
fn wall(spans: &[(Instant, Instant)]) -> Duration {
    let begun = spans.iter().map(|span| span.0).min();
    let ended = spans.iter().map(|span| span.1).max();
    begun.zip(ended).map_or(Duration::ZERO, |(begun, ended)| ended - begun)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_item_is_worked_on_once_in_order_of_the_shares() {
        for threads in [1, 2, 3, 8] {
            for items in [0, 1, 2, 7, 100] {
                let work: Vec<usize> = (0..items).collect();
                let mut lanes = Lanes::new(threads, items).unwrap();
                let harvest = lanes
                    .measure(
                        &work,
                        |_, share| Ok::<_, Error>(share.len()),
                        |lane, share, ready| {
                            assert_eq!(ready, share.len());
                            share.iter().for_each(|_| lane.laps.lap());
                            Ok(share.to_vec())
                        },
                    )
                    .unwrap();
                assert_eq!(harvest.results.len(), threads);
                assert_eq!(harvest.results.concat(), work, "{threads} threads");
                assert_eq!(harvest.times.is_some(), items > 0);
            }
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn lanes_of_a_thread_that_is_held_have_processors_of_their_own() {
        use rustix::thread::sched_getaffinity;
        let processors = sched_getaffinity(None).unwrap().count() as usize;
        let mut lanes = Lanes::new(processors, processors).unwrap();
        let _held = Pinned::here();
        let work: Vec<usize> = (0..processors).collect();
        let here = |_: &mut Lane, _: &[usize], ()| Ok::<_, Error>(sched_getaffinity(None).unwrap());
        let mut seen = lanes.measure(&work, |_, _| Ok(()), here).unwrap().results;
        assert!(seen.iter().all(|set| set.count() == 1));
        seen.dedup();
        assert_eq!(seen.len(), processors, "two lanes share a processor");
    }

    #[test]
    fn lanes_run_at_the_same_time() {
        let arrived = AtomicUsize::new(0);
        let mut lanes = Lanes::new(3, 3).unwrap();
        let result = lanes.measure(
            &[(); 3],
            |_, _| Ok::<_, Error>(()),
            |_, _, ()| {
                arrived.fetch_add(1, Ordering::SeqCst);
                // Ends only when all lanes have arrived here.
                while arrived.load(Ordering::SeqCst) < 3 {
                    std::thread::yield_now();
                }
                Ok(())
            },
        );
        assert!(result.is_ok());
    }

    #[test]
    fn an_error_of_one_lane_is_the_errors_of_all_and_none_waits_for_ever() {
        let mut lanes = Lanes::new(4, 4).unwrap();
        let failed = lanes.measure(
            &[0, 1, 2, 3],
            |n, _| if n == 2 { Err("late") } else { Ok(()) },
            |_, _, ()| Ok(()),
        );
        assert!(matches!(failed, Err("late")));
        assert!(matches!(Lanes::new(0, 1), Err(Error::NoThreads)));
    }

    #[test]
    fn the_wall_is_from_the_first_start_to_the_last_end() {
        let at = |ms| Instant::now().checked_add(Duration::from_millis(ms)).unwrap();
        let (a, b, c, d) = (at(0), at(10), at(20), at(30));
        assert_eq!(wall(&[(b, c), (a, b), (b, d)]), d - a);
        assert_eq!(wall(&[]), Duration::ZERO);
    }
}
