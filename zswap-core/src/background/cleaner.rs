//! A thread that cleans the device's segments before none is free, the emptiest first.
//!
//! Each step cleans until the wanted number of segments is free or no segment is worth cleaning. After a step that
//! failed or freed nothing, the pause doubles.

use core::time::Duration;
use std::sync::Arc;

use zpage::segments::Cleaned;

use crate::Zswap;
use crate::background::{Background, Next, Stop};
use crate::error::WritebackError;
use crate::moves::clean::Names;
use zpool_base::contained::contain;

/// The longest pause, as a multiple of the policy's pause.
const LONGEST_PAUSE: u32 = 16;

/// Says when a background cleaner cleans. Each field gives its default.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct CleanerPolicy {
    /// The thread cleans while fewer than this percentage of the device's segments are free, or fewer than two.
    /// Default 2. Cleaning early writes more: objects that it moves might have been dropped a little later.
    pub free_percent: u8,
    /// The pause after a step. After steps that failed or freed nothing, pauses double up to 16 times this.
    /// Default 10 ms.
    pub pause: Duration,
}

impl Default for CleanerPolicy {
    fn default() -> Self {
        CleanerPolicy { free_percent: 2, pause: Duration::from_millis(10) }
    }
}

impl CleanerPolicy {
    /// Sets [`CleanerPolicy::free_percent`]. More than 100 counts as 100.
    #[must_use]
    pub fn free_percent(self, percent: u8) -> Self {
        CleanerPolicy { free_percent: percent.min(100), ..self }
    }

    /// Sets [`CleanerPolicy::pause`].
    #[must_use]
    pub fn pause(self, pause: Duration) -> Self {
        CleanerPolicy { pause, ..self }
    }
}

/// What a background cleaner has done so far.
#[derive(Clone, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct CleanerReport {
    /// Steps, including those that had nothing to do.
    pub steps: u64,
    /// Segments that were emptied.
    pub segments: u64,
    /// Segments that were written with what was still in those.
    pub written: u64,
    /// Pages that were moved.
    pub pages: u64,
    /// Steps that ended with an error or a panic.
    pub failed: u64,
    /// The last error; `None` if there was none.
    pub last_error: Option<WritebackError>,
}

/// A thread that cleans a store's device. [`Zswap::clean_in_background`] starts one.
pub type BackgroundCleaner = Background<CleanerReport>;

impl Zswap {
    /// Starts a thread that cleans the device's segments before none is free. Without it, a call that writes
    /// pages back and finds no free segment cleans itself.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zswap_core::device::MemorySwapDevice;
    /// use zswap_core::{CleanerPolicy, Zswap};
    ///
    /// let store = Zswap::builder().swap_device(Arc::new(MemorySwapDevice::new(1 << 16))).build()?;
    /// let store = Arc::new(store);
    /// let cleaner = store.clean_in_background(CleanerPolicy::default())?;
    /// assert_eq!(cleaner.stop().segments, 0, "nothing is on the device");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`WritebackError::NoDevice`] if the store has no device, [`WritebackError::Thread`] if the system cannot
    /// start a thread, [`WritebackError::Forked`] in a child after `fork`.
    pub fn clean_in_background(
        self: &Arc<Self>,
        policy: CleanerPolicy,
    ) -> Result<BackgroundCleaner, WritebackError> {
        if !self.is_here() {
            return Err(WritebackError::Forked);
        }
        if self.backing.is_none() {
            return Err(WritebackError::NoDevice);
        }
        let mut idle = 1;
        let step = move |store: Option<&Zswap>, stop: &Stop<'_>| {
            let (mut done, mut error) = (Cleaned::default(), None);
            let next = match store {
                None => Next::End,
                Some(store) => {
                    error = contain(|| store.clean_step(&policy, &mut done, stop))
                        .unwrap_or(Err(WritebackError::Panicked))
                        .err();
                    let useful = done.segments > 0 && error.is_none();
                    idle = if useful { 1 } else { (2 * idle).min(LONGEST_PAUSE) };
                    Next::After(policy.pause.saturating_mul(idle))
                }
            };
            let report = move |report: &mut CleanerReport| {
                report.steps += 1;
                report.segments += done.segments;
                report.written += done.written;
                report.pages += done.objects;
                report.failed += u64::from(error.is_some());
                if error.is_some() {
                    report.last_error = error;
                }
            };
            (report, next)
        };
        let started = Background::start("zswap-clean", Arc::downgrade(self), step);
        started.map_err(|error| WritebackError::Thread { message: error.to_string() })
    }

    /// Cleans until the wanted number of segments is free, no segment is worth cleaning, or a stop is requested.
    fn clean_step(
        &self,
        policy: &CleanerPolicy,
        done: &mut Cleaned,
        stop: &Stop<'_>,
    ) -> Result<(), WritebackError> {
        let Some(segments) = self.backing.as_ref() else { return Ok(()) };
        let percent = u64::from(policy.free_percent.min(100));
        // At most 2^24 segments are used, so this does not overflow.
        let wanted = (segments.usable() * percent / 100).max(2);
        while segments.free() < wanted && !stop.is_set() {
            let cleaned = segments
                .clean(&Names(self), &|| stop.is_set())
                .map_err(|source| WritebackError::Cleaning { source })?;
            done.segments += cleaned.segments;
            done.written += cleaned.written;
            done.objects += cleaned.objects;
            if let Some(source) = cleaned.failed {
                return Err(WritebackError::Cleaning { source });
            }
            if cleaned.segments <= cleaned.written {
                break;
            }
        }
        Ok(())
    }
}
