//! A bounded set of samples in which each value of a window is as likely to be as any other.
//!
//! Algorithm R: if `seen` values were offered and `held` fit, the next value is taken with probability
//! `held / seen` and replaces a random one, so each value seen is held with the same probability. Once `seen` exceeds
//! the window, the probability stays at `held / window`: older values then fade out, with a half-life of 0.7 windows,
//! and the samples follow the data.
//!
//! The number of values seen is not counted, since a counter would be written by each call of each thread. It is
//! estimated: a value that was taken with probability p stands for 1/p values.

use super::draw::Draws;

/// The bytes that an allocator takes for an allocation in addition to its content.
const HEADER: usize = 16;
const SLOT: usize = size_of::<Vec<u8>>();

#[derive(Debug)]
pub(super) struct Reservoir {
    samples: Vec<Vec<u8>>,
    /// The heap bytes of all samples and of their list.
    memory: usize,
    /// The sum of the samples' lengths.
    bytes: usize,
    /// The most that `memory` may be.
    limit: usize,
    window: f64,
    /// The probability with which values are taken while there is room.
    first_chance: f64,
    /// The probability with which values are taken at present.
    chance: f64,
    seen: f64,
    full: bool,
    draws: Draws,
}

impl Reservoir {
    pub(super) fn new(limit: usize, window: u64, one_in: u32, seed: u64) -> Self {
        let first_chance = 1.0 / f64::from(one_in);
        Reservoir {
            samples: Vec::new(),
            memory: 0,
            bytes: 0,
            limit,
            window: window as f64,
            first_chance,
            chance: first_chance,
            seen: 0.0,
            full: false,
            draws: Draws::new(seed),
        }
    }

    /// Adds a value that was taken with the probability [`chance`](Self::chance). If there is no room, it replaces
    /// random ones. Returns false if it is too long for the reservoir, or if there is no memory.
    pub(super) fn add(&mut self, value: &[u8]) -> bool {
        let cost = value.len() + HEADER;
        self.seen += 1.0 / self.chance;
        let slots = loop {
            let slots = self.slots_to_add();
            if self.memory + cost + slots * SLOT <= self.limit {
                break slots;
            }
            self.full = true;
            if !self.drop_one() {
                return false;
            }
        };
        let before = self.samples.capacity();
        if slots > 0 && self.samples.try_reserve_exact(slots).is_err() {
            return false;
        }
        self.memory += (self.samples.capacity() - before) * SLOT;
        let mut copy = Vec::new();
        if copy.try_reserve_exact(value.len()).is_err() {
            return false;
        }
        copy.extend_from_slice(value);
        self.memory += copy.capacity() + HEADER;
        self.bytes += copy.len();
        self.samples.push(copy);
        if self.full {
            let held = self.samples.len() as f64;
            self.chance = (held / self.seen.min(self.window)).min(self.first_chance);
        }
        true
    }

    /// Returns how many slots the list of samples grows by if one more is added.
    fn slots_to_add(&self) -> usize {
        let slots = self.samples.capacity();
        if self.samples.len() < slots { 0 } else { (slots / 4).max(8) }
    }

    /// Drops a random sample. Returns false if there is none.
    fn drop_one(&mut self) -> bool {
        if self.samples.is_empty() {
            return false;
        }
        let index = self.draws.below(self.samples.len());
        let sample = self.samples.swap_remove(index);
        self.memory -= sample.capacity() + HEADER;
        self.bytes -= sample.len();
        true
    }

    /// Removes all samples, and starts over.
    pub(super) fn take(&mut self) -> Vec<Vec<u8>> {
        (self.memory, self.bytes, self.full) = (0, 0, false);
        (self.seen, self.chance) = (0.0, self.first_chance);
        std::mem::take(&mut self.samples)
    }

    /// Returns the probability with which the next values are to be taken.
    pub(super) fn chance(&self) -> f64 {
        self.chance
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.memory
    }

    /// Returns the number of samples, their bytes, about how many values they were drawn from, and whether there was
    /// a value without room.
    pub(super) fn state(&self) -> (usize, usize, u64, bool) {
        (self.samples.len(), self.bytes, self.seen as u64, self.full)
    }
}

#[cfg(test)]
mod tests {
    use super::Reservoir;

    /// Offers numbered values of 8 bytes, each with the reservoir's present chance.
    fn offer(reservoir: &mut Reservoir, numbers: std::ops::Range<u64>, seed: u64) {
        let mut draws = super::Draws::new(seed);
        for number in numbers {
            if (draws.below(1 << 40) as f64) < reservoir.chance() * (1_u64 << 40) as f64 {
                reservoir.add(&number.to_le_bytes());
            }
        }
    }

    fn numbers(reservoir: &mut Reservoir) -> Vec<u64> {
        let number = |sample: Vec<u8>| u64::from_le_bytes(sample.try_into().unwrap());
        reservoir.take().into_iter().map(number).collect()
    }

    #[test]
    fn each_value_of_the_window_is_as_likely_as_any_other() {
        // The tenths of the window that the samples come from, over 60 runs.
        let mut tenths = [0_u32; 10];
        for seed in 0..60 {
            let mut reservoir = Reservoir::new(100 * 48, 1 << 40, 1, seed);
            offer(&mut reservoir, 0..10_000, seed + 1000);
            assert!((6_000..16_000).contains(&(reservoir.seen as u64)), "{}", reservoir.seen);
            for number in numbers(&mut reservoir) {
                tenths[(number / 1000) as usize] += 1;
            }
        }
        let mean = f64::from(tenths.iter().sum::<u32>()) / 10.0;
        assert!(mean > 400.0, "{mean}");
        // Six standard deviations.
        let bound = 6.0 * mean.sqrt();
        assert!(tenths.iter().all(|&n| (f64::from(n) - mean).abs() < bound), "{tenths:?}");
    }

    #[test]
    fn what_is_older_than_the_window_fades_out() {
        let mut reservoir = Reservoir::new(100 * 48, 1000, 1, 5);
        offer(&mut reservoir, 0..20_000, 6);
        let numbers = numbers(&mut reservoir);
        // e^-5 of the samples are older than five windows.
        let old = numbers.iter().filter(|&&number| number < 15_000).count();
        assert!(numbers.len() > 70 && old <= 5, "{old} of {}", numbers.len());
    }

    #[test]
    fn memory_is_bounded_and_counted() {
        let mut reservoir = Reservoir::new(10_000, 1000, 1, 1);
        for round in 0..3000_usize {
            let value = vec![1; round * 37 % 700];
            assert!(reservoir.add(&value));
            let counted = reservoir.samples.iter().map(|s| s.capacity() + super::HEADER);
            let counted = counted.sum::<usize>() + reservoir.samples.capacity() * super::SLOT;
            assert_eq!(reservoir.memory_bytes(), counted);
            assert!(counted <= 10_000, "{counted}");
        }
        assert!(reservoir.state().3);
        assert!(!reservoir.add(&[1; 10_000]));
        assert!(!reservoir.take().is_empty() || reservoir.state().0 == 0);
        assert_eq!(reservoir.memory_bytes(), 0);
    }
}
