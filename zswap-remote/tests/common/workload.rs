//! Threads that use a store while something is done to its service, and check every page.
//!
//! Each thread has entries of its own and knows what each of them holds. An error is fine only where the caller says so,
//! and a page that differs never is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use zswap_core::device::DeviceError;
use zswap_core::{LoadError, PAGE_SIZE, StoreError, Zswap};

use super::{Dice, entry, page};

/// Which errors may come now.
#[derive(Default)]
pub struct Allowed {
    /// The service may be gone: a load may fail with an I/O error, and a store may be refused because of the device.
    pub outage: AtomicBool,
    /// How often the service has lost everything. A load may fail with `Missing` if the page was stored before the last
    /// time, and never if it was stored afterwards.
    pub losses: AtomicU64,
}

/// What the threads did.
#[derive(Default, Debug)]
pub struct Counts {
    pub stores: AtomicU64,
    pub loads: AtomicU64,
    pub refused: AtomicU64,
    pub failed_loads: AtomicU64,
    pub lost: AtomicU64,
}

/// Entries of each thread.
const ENTRIES: u64 = 400;

pub fn is_outage(error: &LoadError) -> bool {
    matches!(error, LoadError::Device { source: DeviceError::Io { .. }, .. })
}

pub fn is_loss(error: &LoadError) -> bool {
    matches!(error, LoadError::Device { source: DeviceError::Missing { .. }, .. })
}

/// What one thread knows about its entries.
pub struct Ledger {
    thread: u64,
    /// The number of the page that each entry holds, and how often the service had lost everything before it was stored.
    held: Vec<Option<(u64, u64)>>,
    next: u64,
    dice: Dice,
}

impl Ledger {
    pub fn new(thread: u64) -> Self {
        let dice = Dice(thread * 77 + 5);
        Ledger { thread, held: vec![None; ENTRIES as usize], next: 0, dice }
    }

    fn number(&self, at: usize) -> u64 {
        self.thread * ENTRIES + at as u64
    }

    /// Makes one random call to the store.
    pub fn step(&mut self, store: &Zswap, allowed: &Allowed, counts: &Counts) {
        let at = self.dice.below(ENTRIES) as usize;
        let key = entry(self.number(at));
        match self.dice.below(10) {
            0..4 => {
                let number = self.thread << 40 | self.next;
                self.next += 1;
                let (before, losses) = (allowed.outage.load(SeqCst), allowed.losses.load(SeqCst));
                match store.store(key, &page(number)) {
                    Ok(()) => {
                        counts.stores.fetch_add(1, SeqCst);
                        self.held[at] = Some((number, losses));
                    }
                    Err(StoreError::PoolLimit { .. }) if before || allowed.outage.load(SeqCst) => {
                        counts.refused.fetch_add(1, SeqCst);
                        // A store that fails leaves its entry empty.
                        self.held[at] = None;
                    }
                    Err(error) => panic!("no error may come now: {error:?}"),
                }
            }
            4 => {
                let was = store.invalidate(key);
                assert_eq!(was, self.held[at].is_some(), "{key:?}");
                self.held[at] = None;
            }
            _ => self.load(at, store, allowed, counts),
        }
    }

    fn load(&mut self, at: usize, store: &Zswap, allowed: &Allowed, counts: &Counts) {
        let key = entry(self.number(at));
        let outage = allowed.outage.load(SeqCst);
        let mut back = [0; PAGE_SIZE];
        match (store.load(key, &mut back), self.held[at]) {
            (Ok(()), Some((number, _))) => {
                assert!(back == page(number), "another page came back for {key:?}");
                counts.loads.fetch_add(1, SeqCst);
            }
            (Err(LoadError::NotFound { .. }), None) => {}
            (Err(error), Some(_))
                if is_outage(&error) && (outage || allowed.outage.load(SeqCst)) =>
            {
                counts.failed_loads.fetch_add(1, SeqCst);
            }
            (Err(error), Some((_, losses)))
                if is_loss(&error) && losses < allowed.losses.load(SeqCst) =>
            {
                counts.lost.fetch_add(1, SeqCst);
                assert!(store.invalidate(key));
                self.held[at] = None;
            }
            (result, held) => panic!("{key:?} holds {held:?} and came back as {result:?}"),
        }
    }

    /// Loads every page that the thread has stored.
    pub fn check_all(&mut self, store: &Zswap, allowed: &Allowed, counts: &Counts) {
        (0..self.held.len()).for_each(|at| self.load(at, store, allowed, counts));
    }

    pub fn pages(&self) -> usize {
        self.held.iter().flatten().count()
    }
}

/// Runs threads that use the store until `during` returns. Then checks every page. Returns what they did.
pub fn run(store: &Zswap, threads: u64, allowed: &Allowed, during: impl FnOnce(&Counts)) -> Counts {
    let (counts, stop) = (Counts::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let (counts, stop) = (&counts, &stop);
                scope.spawn(move || {
                    let mut ledger = Ledger::new(thread);
                    while !stop.load(SeqCst) {
                        ledger.step(store, allowed, counts);
                    }
                    ledger.check_all(store, allowed, counts);
                    ledger.pages()
                })
            })
            .collect();
        // If this panics, the threads must end, too.
        let stopper = Stopper(&stop);
        during(&counts);
        drop(stopper);
        let pages: usize = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
        assert_eq!(pages, store.len());
    });
    counts
}

struct Stopper<'a>(&'a AtomicBool);

impl Drop for Stopper<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Waits until the threads have made that many more stores.
pub fn busy(counts: &Counts, stores: u64) {
    let end = counts.stores.load(SeqCst) + stores;
    super::eventually("the threads store pages", || counts.stores.load(SeqCst) >= end);
}
