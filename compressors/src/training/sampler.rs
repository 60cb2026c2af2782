//! Draws samples of the values that pass by, on their hot path.
//!
//! [`Sampler::offer`] decides with a number of its thread and a probability that all threads read. Both stay in the
//! thread's own cache, since the probability changes only when a sample is taken. Only a taken sample is copied, under
//! a lock that is tried: if another thread has it, the value is passed over. So no call ever waits.

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::draw;
use super::error::TrainError;
use super::reservoir::Reservoir;

/// The settings of a [`Sampler`].
#[derive(Debug, Clone)]
pub struct SamplerSettings {
    /// The most heap bytes that the samples take: 4096 to 2^30. A good dictionary needs about 100 times its own
    /// length. Default: 100 times 16 KiB.
    pub bytes: usize,
    /// The longest value to sample, in bytes: 8 to half of `bytes`. Longer ones are passed over: a dictionary
    /// helps the beginning of a value, and a part of a value does not show what it gains on the whole. Default:
    /// 16 KiB.
    pub longest: usize,
    /// How many values the samples are drawn from, at least 1. Values that are older than that fade out, with a
    /// half-life of 0.7 windows. Default: 100,000.
    pub window: u64,
    /// While there is room for samples, one in this many values is taken, at random: at least 1. Default: 4.
    pub one_in: u32,
    /// Determines which samples are replaced by newer ones. Default: 0.
    pub seed: u64,
}

impl Default for SamplerSettings {
    fn default() -> Self {
        SamplerSettings {
            bytes: 100 * (16 << 10),
            longest: 16 << 10,
            window: 100_000,
            one_in: 4,
            seed: 0,
        }
    }
}

/// Samples of values, for a [`Trainer`](super::Trainer).
#[derive(Clone, Default)]
pub struct Samples {
    values: Vec<Vec<u8>>,
}

impl Samples {
    /// Returns the number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Returns whether there is no sample.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Returns the length of all samples together, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.values.iter().map(Vec::len).sum()
    }

    /// Returns the samples, in no particular order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> + Clone {
        self.values.iter().map(Vec::as_slice)
    }
}

impl From<Vec<Vec<u8>>> for Samples {
    fn from(values: Vec<Vec<u8>>) -> Self {
        Samples { values }
    }
}

impl fmt::Debug for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Samples({} values, {} bytes)", self.len(), self.bytes())
    }
}

/// What a [`Sampler`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sampled {
    /// The number of samples.
    pub values: usize,
    /// Their length in bytes, all together.
    pub bytes: usize,
    /// About how many values they were drawn from since sampling started.
    pub seen: u64,
    /// Whether a sample had to be replaced, since there was no room.
    pub full: bool,
}

/// Keeps the fields that each call reads away from those that a taken sample writes.
#[repr(align(128))]
struct Line<T>(T);

/// Draws a bounded, fair set of samples from the values that threads offer.
///
/// Each value of the last window is about as likely to be in the set as any other. The first values do not stay for
/// ever, and the last ones do not crowd out the others.
///
/// ```
/// use compressors::training::{Sampler, SamplerSettings};
///
/// let sampler = Sampler::new(SamplerSettings { bytes: 64 << 10, ..Default::default() })?;
/// for i in 0..100_000 {
///     sampler.offer(format!("{{\"id\": {i}}}").as_bytes());
/// }
/// assert!(sampler.memory_bytes() <= 64 << 10);
/// let samples = sampler.take();
/// assert!(samples.len() > 500);
/// assert_eq!(sampler.memory_bytes(), 0);
/// # Ok::<(), compressors::training::TrainError>(())
/// ```
pub struct Sampler {
    /// A value is taken if the upper half of its number is at most this; 0 if sampling is off.
    chance: Line<AtomicU32>,
    /// A copy of the reservoir's figure, to read without its lock.
    memory: Line<AtomicUsize>,
    state: Mutex<State>,
}

/// What the lock guards.
struct State {
    settings: SamplerSettings,
    /// `None` while sampling is off.
    reservoir: Option<Reservoir>,
}

impl Sampler {
    /// Makes a sampler that samples.
    ///
    /// # Errors
    /// [`TrainError::BadSetting`] names the setting that is out of range.
    pub fn new(settings: SamplerSettings) -> Result<Self, TrainError> {
        let sampler = Sampler::off();
        sampler.restart(settings)?;
        Ok(sampler)
    }

    /// Makes a sampler with default settings that is off. It holds no memory until [`start`](Self::start) or
    /// [`restart`](Self::restart).
    #[must_use]
    pub fn off() -> Self {
        Sampler {
            chance: Line(AtomicU32::new(0)),
            memory: Line(AtomicUsize::new(0)),
            state: Mutex::new(State { settings: SamplerSettings::default(), reservoir: None }),
        }
    }

    /// Offers a value, which the sampler may copy. Costs about a nanosecond if it does not, and less if sampling is
    /// off. Never waits.
    #[inline]
    pub fn offer(&self, value: &[u8]) {
        // Relaxed: a stale probability only takes a value more or fewer. The lock guards the samples.
        let chance = self.chance.0.load(Ordering::Relaxed);
        if chance != 0 && (draw::of_this_thread() >> 32) as u32 <= chance {
            self.copy(value);
        }
    }

    /// Offers a value as [`offer`](Self::offer) does, with a number that the caller drew: all 64 bits have to be
    /// random, for instance a good hash of a counter. If the number is a hash of the value's key, a key is always
    /// or never sampled.
    #[inline]
    pub fn offer_drawn(&self, value: &[u8], number: u64) {
        // Relaxed: as in `offer`.
        let chance = self.chance.0.load(Ordering::Relaxed);
        if chance != 0 && (number >> 32) as u32 <= chance {
            self.copy(value);
        }
    }

    /// Copies a value into the samples, unless another thread does that with its own.
    #[cold]
    fn copy(&self, value: &[u8]) {
        let mut guard = match self.state.try_lock() {
            Ok(guard) => guard,
            // A panic under the lock leaves the figures valid.
            Err(std::sync::TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => return,
        };
        if !(8..=guard.settings.longest).contains(&value.len()) {
            return;
        }
        if let Some(reservoir) = guard.reservoir.as_mut() {
            reservoir.add(value);
            self.publish(reservoir);
        }
    }

    /// Publishes the figures that are read without the lock. The caller holds the lock.
    fn publish(&self, reservoir: &Reservoir) {
        let chance = ((reservoir.chance() * f64::from(u32::MAX)) as u32).max(1);
        // Relaxed: only holders of the lock write, and a reader may use an older probability.
        if self.chance.0.load(Ordering::Relaxed) != chance {
            // Relaxed: as above.
            self.chance.0.store(chance, Ordering::Relaxed);
        }
        // Relaxed: a figure for statistics.
        self.memory.0.store(reservoir.memory_bytes(), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts sampling, with no samples and the settings given last. Does nothing if sampling is on.
    ///
    /// # Blocking
    /// Waits while another thread copies a sample. Do not call it in a child after `fork`.
    pub fn start(&self) {
        let mut guard = self.lock();
        let State { settings, reservoir } = &mut *guard;
        let SamplerSettings { bytes, window, one_in, seed, .. } = *settings;
        let reservoir =
            reservoir.get_or_insert_with(|| Reservoir::new(bytes, window, one_in, seed));
        self.publish(reservoir);
    }

    /// Drops the samples and starts sampling with other settings.
    ///
    /// # Errors
    /// [`TrainError::BadSetting`] names the setting that is out of range. Nothing has changed then.
    ///
    /// # Blocking
    /// As [`start`](Self::start).
    pub fn restart(&self, settings: SamplerSettings) -> Result<(), TrainError> {
        let bad = |name, value, allowed| Err(TrainError::BadSetting { name, value, allowed });
        let SamplerSettings { bytes, longest, window, one_in, .. } = settings;
        if !(4096..=1 << 30).contains(&bytes) {
            return bad("bytes", bytes as u64, "4096 to 2^30 bytes");
        }
        if !(8..=bytes / 2).contains(&longest) {
            return bad("longest", longest as u64, "8 to half of `bytes`");
        }
        if window == 0 {
            return bad("window", window, "at least 1 value");
        }
        if one_in == 0 {
            return bad("one_in", u64::from(one_in), "at least 1");
        }
        self.clear();
        self.lock().settings = settings;
        self.start();
        Ok(())
    }

    /// Stops sampling and returns the samples. The sampler then holds no memory.
    ///
    /// # Blocking
    /// As [`start`](Self::start).
    #[must_use]
    pub fn take(&self) -> Samples {
        let mut guard = self.lock();
        let reservoir = guard.reservoir.take();
        let values = reservoir.map_or_else(Vec::new, |mut reservoir| reservoir.take());
        // Relaxed: as in `publish`. A thread that still takes a value finds no reservoir.
        self.chance.0.store(0, Ordering::Relaxed);
        // Relaxed: a figure for statistics.
        self.memory.0.store(0, Ordering::Relaxed);
        Samples { values }
    }

    /// Stops sampling and frees the samples.
    ///
    /// # Blocking
    /// As [`start`](Self::start).
    pub fn clear(&self) {
        drop(self.take());
    }

    /// Returns what the sampler holds; `None` if sampling is off.
    ///
    /// # Blocking
    /// As [`start`](Self::start).
    #[must_use]
    pub fn sampled(&self) -> Option<Sampled> {
        self.lock().reservoir.as_ref().map(|reservoir| {
            let (values, bytes, seen, full) = reservoir.state();
            Sampled { values, bytes, seen, full }
        })
    }

    /// Returns the heap bytes of the samples. They never exceed [`SamplerSettings::bytes`].
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        // Relaxed: a figure for statistics.
        self.memory.0.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sampler")
            .field("memory_bytes", &self.memory_bytes())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::{Sampler, SamplerSettings};

    fn settings() -> SamplerSettings {
        SamplerSettings { bytes: 64 << 10, longest: 4096, window: 5000, one_in: 1, seed: 1 }
    }

    #[test]
    fn settings_out_of_range_are_named() {
        for (name, bad) in [
            ("bytes", SamplerSettings { bytes: 4095, ..settings() }),
            ("bytes", SamplerSettings { bytes: (1 << 30) + 1, ..settings() }),
            ("longest", SamplerSettings { longest: 7, ..settings() }),
            ("longest", SamplerSettings { longest: (32 << 10) + 1, ..settings() }),
            ("window", SamplerSettings { window: 0, ..settings() }),
            ("one_in", SamplerSettings { one_in: 0, ..settings() }),
        ] {
            let error = Sampler::new(bad).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{name} of ")), "{error}");
        }
    }

    #[test]
    fn a_flood_from_many_threads_stays_within_the_bound() {
        let sampler = Sampler::new(settings()).unwrap();
        let done = AtomicBool::new(false);
        let rounds = if cfg!(miri) { 200 } else { 200_000 };
        std::thread::scope(|scope| {
            let floods: Vec<_> = (0..4_usize)
                .map(|thread| {
                    let sampler = &sampler;
                    scope.spawn(move || {
                        for round in 0..rounds {
                            sampler.offer(&[thread as u8; 600][..8 + round % 590]);
                        }
                    })
                })
                .collect();
            scope.spawn(|| {
                // Relaxed: the flag only ends the loop.
                while !done.load(Ordering::Relaxed) {
                    assert!(sampler.memory_bytes() <= 64 << 10);
                    std::thread::yield_now();
                }
            });
            floods.into_iter().for_each(|flood| flood.join().unwrap());
            // Relaxed: as above.
            done.store(true, Ordering::Relaxed);
        });
        let sampled = sampler.sampled().unwrap();
        assert!(sampled.full || cfg!(miri));
        assert!(sampled.bytes > 0 && sampled.bytes < 64 << 10);
        let samples = sampler.take();
        assert_eq!((samples.len(), samples.bytes()), (sampled.values, sampled.bytes));
        // A sample is a whole value.
        for sample in samples.iter() {
            assert!(sample.iter().all(|byte| *byte == sample[0]) && sample[0] < 4);
        }
    }

    #[test]
    fn values_of_all_threads_and_times_are_sampled() {
        if cfg!(miri) {
            return;
        }
        let sampler = Sampler::new(SamplerSettings { window: 1 << 40, ..settings() }).unwrap();
        let mut value = [0_u8; 100];
        for number in 0..100_000_u32 {
            value[..4].copy_from_slice(&number.to_le_bytes());
            sampler.offer(&value);
        }
        let mut fifths = [0_u32; 5];
        let seen = sampler.sampled().unwrap().seen;
        assert!((70_000..140_000).contains(&seen), "{seen}");
        for sample in sampler.take().iter() {
            let number = u32::from_le_bytes(sample[..4].try_into().unwrap());
            fifths[(number / 20_000) as usize] += 1;
        }
        let mean = f64::from(fifths.iter().sum::<u32>()) / 5.0;
        let bound = 6.0 * mean.sqrt();
        assert!(mean > 60.0, "{fifths:?}");
        assert!(fifths.iter().all(|&n| (f64::from(n) - mean).abs() < bound), "{fifths:?}");
    }

    #[test]
    fn values_that_are_too_short_or_too_long_are_passed_over() {
        let sampler = Sampler::new(settings()).unwrap();
        sampler.offer_drawn(&[1; 7], 0);
        sampler.offer_drawn(&[1; 4097], 0);
        assert_eq!(sampler.sampled().unwrap().values, 0);
        sampler.offer_drawn(&[1; 8], 0);
        sampler.offer_drawn(&[1; 4096], 0);
        assert_eq!(sampler.sampled().unwrap().values, 2);
    }

    #[test]
    fn numbers_decide_alone_and_off_is_off() {
        let draw = || {
            let sampler =
                Sampler::new(SamplerSettings { one_in: 2, bytes: 8192, ..settings() }).unwrap();
            let mut number = 1_u64;
            for value in 0..3000_u64 {
                number = number.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(11);
                sampler.offer_drawn(&[value.to_le_bytes(); 5].concat(), number);
            }
            sampler
        };
        let (one, other) = (draw(), draw());
        let samples = one.take();
        assert!(!samples.is_empty());
        assert!(samples.iter().eq(other.take().iter()));
        one.offer_drawn(&[1; 100], 0);
        assert_eq!((one.sampled(), one.memory_bytes()), (None, 0));
        one.start();
        one.offer_drawn(&[1; 100], 0);
        assert_eq!(one.sampled().unwrap().values, 1);
        one.clear();
        assert_eq!(one.memory_bytes(), 0);
    }
}
