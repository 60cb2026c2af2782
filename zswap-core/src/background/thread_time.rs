//! Measures how long a thread runs.
//!
//! On Linux this is processor time, which excludes the time that a thread waits for a processor. Elsewhere, and
//! under Miri, it is wall-clock time.

use core::time::Duration;

#[cfg(all(target_os = "linux", not(miri)))]
mod clock {
    use super::Duration;

    pub(super) type Moment = Duration;

    pub(super) fn now() -> Moment {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        // Neither part is negative, since the clock started at 0 with the thread.
        Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0))
    }

    pub(super) fn since(moment: Moment) -> Duration {
        now().saturating_sub(moment)
    }
}

#[cfg(any(not(target_os = "linux"), miri))]
mod clock {
    use super::Duration;

    pub(super) type Moment = std::time::Instant;

    pub(super) fn now() -> Moment {
        Moment::now()
    }

    pub(super) fn since(moment: Moment) -> Duration {
        moment.elapsed()
    }
}

/// A moment on a thread's own clock. It may be used only on that thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ThreadTime(clock::Moment);

impl ThreadTime {
    pub(crate) fn now() -> Self {
        ThreadTime(clock::now())
    }

    pub(crate) fn elapsed(self) -> Duration {
        clock::since(self.0)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn work_counts_and_on_linux_sleep_does_not() {
        let start = ThreadTime::now();
        let mut worked = 0u64;
        while start.elapsed().is_zero() {
            worked = core::hint::black_box(worked + 1);
        }
        let before = start.elapsed();
        std::thread::sleep(Duration::from_millis(50));
        let slept = start.elapsed() - before;
        if cfg!(all(target_os = "linux", not(miri))) {
            assert!(slept < Duration::from_millis(25), "{slept:?}");
        }
    }
}
