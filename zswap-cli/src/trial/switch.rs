//! `--switch`: backend and compressor change every few milliseconds while threads store and load.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use measure::{PageSet, chain};
use zswap_core::{PAGE_SIZE, Page, SwapEntry, Zswap};

use super::{Dice, Outcome};
use crate::error::Result;

/// Time between two switches.
const PAUSE: Duration = Duration::from_millis(10);
/// Duration of each half of the trial: with switching and without.
const HALF: Duration = Duration::from_millis(1500);
/// The most stores that a thread records in one call of [`work`], and the most loads.
const LAPS: usize = 1 << 20;

/// Nanoseconds of each store and of each load, and the first fault.
#[derive(Debug, Default)]
struct Laps {
    stores: Vec<u32>,
    loads: Vec<u32>,
    /// The first page that came back changed, or the first error.
    fault: Option<String>,
}

impl Laps {
    fn absorb(&mut self, other: Laps) {
        self.stores.extend(other.stores);
        self.loads.extend(other.loads);
        self.fault = self.fault.take().or(other.fault);
    }

    fn p999(laps: &mut [u32]) -> f64 {
        laps.sort_unstable();
        laps.get(laps.len() * 999 / 1000).map_or(0.0, |ns| f64::from(*ns))
    }
}

/// Stores and loads pages of the set on `threads` threads while the store switches from pair to
/// pair. For comparison, does the same without switching, with one store for each pair.
pub(crate) fn switch(set: &PageSet, pairs: &[(String, String)], threads: usize) -> Result<Outcome> {
    let (mut still, mut moving) = (Laps::default(), Laps::default());
    let (mut switches, mut pools, mut moved) = (0, 0, 0);
    // The two halves alternate, so that drift on the machine affects both alike.
    for _round in 0..2 {
        for (zpool, compressor) in pairs {
            let store = build(zpool, compressor)?;
            let time = HALF / pairs.len() as u32 / 2;
            still.absorb(work(&store, set, threads, time, || false).0);
        }
        let store = build(&pairs[0].0, &pairs[0].1)?;
        let mut next = 0;
        let (laps, count) = work(&store, set, threads, HALF / 2, || {
            next = (next + 1) % pairs.len();
            let (zpool, compressor) = &pairs[next];
            store.set_zpool(zpool).and_then(|()| store.set_compressor(compressor)).is_ok()
        });
        moving.absorb(laps);
        switches += count;
        pools = store.stats().pools.len();
        match store.migrate_pools(usize::MAX) {
            Ok(done) => moved = done.moved,
            Err(error) => moving.fault = moving.fault.or(Some(chain(&error))),
        }
    }
    let operations = moving.stores.len() + moving.loads.len();
    let stores = (Laps::p999(&mut moving.stores), Laps::p999(&mut still.stores));
    let loads = (Laps::p999(&mut moving.loads), Laps::p999(&mut still.loads));
    let fault = moving.fault.or(still.fault);
    let verdict = match &fault {
        None => "every page equal".to_owned(),
        Some(fault) => format!("FAILED: {fault}"),
    };
    let text = format!(
        "Switching among {} pairs every {} ms while {threads} threads stored and loaded: {switches} \
         switches, {operations} operations, {verdict}. 99.9 % of the stores took at most {:.1} µs, \
         {:.2} x those without switching; of the loads {:.1} µs, {:.2} x. {pools} pools were alive at \
         the end, one after {moved} pages were migrated.",
        pairs.len(),
        PAUSE.as_millis(),
        stores.0 / 1000.0,
        stores.0 / stores.1.max(1.0),
        loads.0 / 1000.0,
        loads.0 / loads.1.max(1.0),
    );
    Ok(Outcome { text, verified: fault.is_none() })
}

fn build(zpool: &str, compressor: &str) -> Result<Zswap> {
    let store = Zswap::builder().zpool(zpool).compressor(compressor).build();
    store.map_err(|source| super::not_built(zpool, compressor, source))
}

/// Runs `threads` threads for `time`. Each stores and loads its own pages of the set. Meanwhile
/// calls `switch` again and again, with a pause before each call. Returns the threads' times, and how
/// many calls returned true.
fn work(
    store: &Zswap,
    set: &PageSet,
    threads: usize,
    time: Duration,
    mut switch: impl FnMut() -> bool,
) -> (Laps, usize) {
    let stop = AtomicBool::new(false);
    let all = Mutex::new(Laps::default());
    let mut switches = 0;
    thread::scope(|scope| {
        for thread in 0..threads {
            let (stop, all) = (&stop, &all);
            scope.spawn(move || {
                let laps = lane(store, set, thread, threads, stop);
                all.lock().unwrap_or_else(PoisonError::into_inner).absorb(laps);
            });
        }
        let end = Instant::now() + time;
        while Instant::now() < end {
            thread::sleep(PAUSE.min(end.saturating_duration_since(Instant::now())));
            switches += usize::from(switch());
        }
        // Relaxed: a flag, which publishes nothing.
        stop.store(true, Relaxed);
    });
    (all.into_inner().unwrap_or_else(PoisonError::into_inner), switches)
}

fn lane(store: &Zswap, set: &PageSet, thread: usize, threads: usize, stop: &AtomicBool) -> Laps {
    let mine: Vec<usize> = (thread..set.pages().len()).step_by(threads).collect();
    let (mut laps, mut dice) = (Laps::default(), Dice(thread as u64 + 1));
    let mut stored = vec![false; mine.len()];
    let mut back: Page = [0; PAGE_SIZE];
    // Relaxed: as in `work`.
    while !stop.load(Relaxed) && !mine.is_empty() {
        let at = dice.below(mine.len());
        let page = &set.pages()[mine[at]];
        let Ok(entry) = SwapEntry::new(0, mine[at] as u64) else { break };
        let loads = stored[at] && dice.below(2) == 0;
        stored[at] = true;
        let begun = Instant::now();
        let done = if loads {
            store.load(entry, &mut back).map_err(|error| chain(&error))
        } else {
            store.store(entry, page).map_err(|error| chain(&error))
        };
        let took = begun.elapsed().as_nanos().min(u128::from(u32::MAX)) as u32;
        let list = if loads { &mut laps.loads } else { &mut laps.stores };
        if list.len() < LAPS {
            list.push(took);
        }
        let fault = match done {
            Err(error) => Some(error),
            Ok(()) if loads && back != *page => {
                Some(format!("page {} came back changed", mine[at]))
            }
            Ok(()) => None,
        };
        if fault.is_some() {
            laps.fault = fault;
            break;
        }
    }
    laps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switching_is_told_with_every_page_looked_at() {
        let pages = (0..40u8).map(|n| {
            let mut page = [n; PAGE_SIZE];
            page[..2048].iter_mut().enumerate().for_each(|(i, byte)| *byte = (i as u8) ^ n);
            page
        });
        let set = PageSet::new(pages.collect(), "a test".into());
        let pairs = [("zbud", "lz4"), ("zsmalloc", "zstd")].map(|(z, c)| (z.into(), c.into()));
        let outcome = switch(&set, &pairs, 2).unwrap();
        assert!(outcome.verified, "{}", outcome.text);
        assert!(
            outcome.text.contains("among 2 pairs") && outcome.text.contains("every page equal")
        );
        assert!(!outcome.text.contains(": 0 switches"), "{}", outcome.text);
        let unknown = [("zlab".into(), "lz4".into())];
        assert!(switch(&set, &unknown, 1).unwrap_err().to_string().contains("zbud"));
    }
}
