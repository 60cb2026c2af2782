//! The traces: sequences of keys that are asked for. A key that is missing is inserted.

use crate::rng::Rng;

/// The names of the traces.
pub(crate) const TRACES: [&str; 4] = ["zipf 0.9", "zipf 1.1", "zipf 1.1, scans", "shifting"];

/// The gets between two scans, and the keys of a scan.
const SCAN_EVERY: usize = 20_000;
const SCANNED: usize = 5_000;
/// The gets after which the hot set shifts, and the share of the keys by which it does.
const SHIFT_EVERY: usize = 10_000;
const SHIFTED: usize = 50;

/// Draws ranks with Zipf's distribution.
struct Zipf {
    sums: Vec<f64>,
}

impl Zipf {
    fn new(keys: usize, exponent: f64) -> Self {
        let weights = (1..=keys).map(|rank| (rank as f64).powf(-exponent));
        let sums = weights.scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        });
        Zipf { sums: sums.collect() }
    }

    fn draw(&self, rng: &mut Rng) -> usize {
        let point = rng.unit() * self.sums[self.sums.len() - 1];
        self.sums.partition_point(|&sum| sum < point).min(self.sums.len() - 1)
    }
}

/// Makes the trace of this name over `keys` keys, with about `gets` gets.
pub(crate) fn trace(name: &str, keys: usize, gets: usize) -> Vec<u32> {
    let mut rng = Rng::new(17);
    let zipf = Zipf::new(keys, if name == "zipf 0.9" { 0.9 } else { 1.1 });
    // Which key has which rank.
    let mut order: Vec<u32> = (0..keys as u32).collect();
    rng.shuffle(&mut order);
    let (mut trace, mut shift, mut scanned) = (Vec::new(), 0, 0);
    for n in 0..gets {
        if name == "shifting" && n % SHIFT_EVERY == SHIFT_EVERY - 1 {
            shift += keys / SHIFTED;
        }
        if name == "zipf 1.1, scans" && n % SCAN_EVERY == SCAN_EVERY - 1 {
            trace.extend((scanned..scanned + SCANNED).map(|key| (key % keys) as u32));
            scanned += SCANNED;
        }
        trace.push(order[(zipf.draw(&mut rng) + shift) % keys]);
    }
    trace
}
