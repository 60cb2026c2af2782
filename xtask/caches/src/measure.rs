//! What a child measures: one contestant with one setting, in a process of its own.

use std::time::{Duration, Instant};

use crate::contestants::{Contestant, build};
use crate::error::Result;
use crate::rng::Rng;
use crate::set::Set;
use crate::trace::{TRACES, trace};

/// The gets of a trace for each get whose time is measured.
const TRACE_GETS: usize = 5;

/// Returns the bytes of this process that are resident.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap_or(0) * 4096
}

/// The keys of a set in a random order.
fn shuffled(set: &Set) -> Vec<u32> {
    let mut order: Vec<u32> = (0..set.len() as u32).collect();
    Rng::new(3).shuffle(&mut order);
    order
}

/// Inserts all values twice, and waits until the memory is as it stays. Returns the bytes by which the process has
/// grown since `before`. Between the two, caches have the time for what they do in the background.
fn fill(cache: &dyn Contestant, set: &Set, order: &[u32], before: usize) -> usize {
    for pause in [1000, 300] {
        for &key in order {
            cache.insert(u64::from(key), set.value(key as usize));
        }
        cache.settle();
        std::thread::sleep(Duration::from_millis(pause));
    }
    resident().saturating_sub(before)
}

/// Prints by how many bytes the process grows when a contestant is filled.
pub(crate) fn growth(name: &str, bytes: usize, set: &Set) -> Result<String> {
    let order = shuffled(set);
    let before = resident();
    let cache = build(name, bytes, set.len())?;
    Ok(fill(&*cache, set, &order, before).to_string())
}

/// Sums of times.
#[derive(Debug, Default)]
struct Times(Vec<u32>);

impl Times {
    fn of<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = call();
        self.0.push(start.elapsed().as_nanos().min(u128::from(u32::MAX)) as u32);
        result
    }

    /// Returns mean, p50, p99 and p99.9 in microseconds.
    fn figures(mut self) -> String {
        self.0.sort_unstable();
        let (count, sum) = (self.0.len().max(1), self.0.iter().map(|&t| u64::from(t)).sum::<u64>());
        let at = |share: f64| {
            let place =
                ((self.0.len() as f64 * share) as usize).min(self.0.len().saturating_sub(1));
            f64::from(self.0.get(place).copied().unwrap_or(0)) / 1000.0
        };
        let mean = sum as f64 / count as f64 / 1000.0;
        format!("{mean:.2} {:.2} {:.2} {:.2}", at(0.5), at(0.99), at(0.999))
    }
}

/// Prints the figures of a contestant, a line each: a name, a tab, and numbers.
pub(crate) fn figures(name: &str, bytes: usize, set: &Set, gets: usize) -> Result<String> {
    let mut lines = Vec::new();
    let order = shuffled(set);
    let traces = TRACES.map(|name| (name, trace(name, set.len(), gets * TRACE_GETS)));
    let mut value = Vec::with_capacity(1 << 20);
    let before = resident();
    let cache = build(name, bytes, set.len())?;
    let full = fill(&*cache, set, &order, before);
    let held: Vec<u32> =
        order.iter().copied().filter(|&key| cache.get(u64::from(key), &mut value)).collect();
    lines.push(format!("resident\t{full}"));
    lines.push(format!("held\t{}", held.len()));
    let held_bytes: usize = held.iter().map(|&key| set.value(key as usize).len()).sum();
    lines.push(format!("held bytes\t{held_bytes}"));

    // Times of gets that find their key, and of inserts of values that were there before.
    let mut rng = Rng::new(9);
    let mut times = Times::default();
    for _ in 0..gets {
        let key = u64::from(held[rng.below(held.len())]);
        times.of(|| cache.get(key, &mut value));
    }
    lines.push(format!("get\t{}", times.figures()));
    let mut times = Times::default();
    for _ in 0..gets / 2 {
        let key = rng.below(set.len());
        times.of(|| cache.insert(key as u64, set.value(key)));
    }
    lines.push(format!("insert\t{}", times.figures()));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (cache, held) = (&cache, &held);
            scope.spawn(move || {
                let (mut rng, mut value) = (Rng::new(thread + 20), Vec::new());
                for n in 0..gets / 2 {
                    let key = held[rng.below(held.len())];
                    if n % 10 == 0 {
                        cache.insert(u64::from(key), set.value(key as usize));
                    } else {
                        cache.get(u64::from(key), &mut value);
                    }
                }
            });
        }
    });
    let each = started.elapsed().as_nanos() as f64 / (gets / 2 * 2) as f64;
    lines.push(format!("two threads\t{:.2}", each / 1000.0));

    // Three of four are removed.
    let mut present: Vec<u32> =
        order.iter().copied().filter(|&key| cache.get(u64::from(key), &mut value)).collect();
    Rng::new(5).shuffle(&mut present);
    for &key in &present[present.len() / 4..] {
        cache.remove(u64::from(key));
    }
    cache.settle();
    let at_once = resident().saturating_sub(before);
    std::thread::sleep(Duration::from_secs(5));
    cache.settle();
    lines.push(format!("freed\t{at_once} {}", resident().saturating_sub(before)));
    drop(cache);

    for (trace_name, trace) in &traces {
        let cache = build(name, bytes, set.len())?;
        let (mut hits, mut counted) = (0, 0);
        for (n, &key) in trace.iter().enumerate() {
            let found = cache.get(u64::from(key), &mut value);
            if !found {
                cache.insert(u64::from(key), set.value(key as usize));
            }
            // The first half fills the cache.
            if n >= trace.len() / 2 {
                counted += 1;
                hits += usize::from(found);
            }
        }
        lines.push(format!("{trace_name}\t{:.2}", 100.0 * hits as f64 / f64::from(counted)));
    }
    Ok(lines.join("\n"))
}
