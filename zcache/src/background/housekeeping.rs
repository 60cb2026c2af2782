//! Gives memory back: counts what has grown, shrinks the shards' tables, moves objects together.
//!
//! *Waste* is the difference between the bytes of the pool's pages and of its objects. No run of compaction frees all
//! of it, so a run is due when the waste has grown since the last one, or, while it is above the threshold, after ever
//! longer waits.

use super::heap;
use super::report::Report;
use crate::engine::Engine;

/// The waste that is tolerated, by the bytes of the objects.
const TOLERATED_PERCENT: usize = 2;
/// The least growth of the waste that leads to a run, in bytes.
const LEAST_GAIN: usize = 64 << 10;
/// The system allocator is asked to give memory back when tables have shrunk by this many bytes.
const LEAST_TABLES: usize = 512 << 10;
/// The pages that a call of the backend frees at most.
const STEP_PAGES: usize = 64;
/// The longest wait for a run that may free nothing, in steps.
const MOST_PATIENCE: u32 = 64;

#[derive(Debug, Default)]
pub(super) struct Housekeeping {
    /// The waste that the last run left.
    left: usize,
    /// The steps until the next run although the waste has not grown, and how many there are the next time.
    waits: u32,
    patience: u32,
    /// What had happened in the cache at the last step.
    inserts: u64,
    entries: usize,
    /// The greatest number of bytes that the shards' tables took since the allocator gave memory back.
    tables: usize,
}

impl Housekeeping {
    /// Does a step. Returns whether something has happened in the cache since the last one.
    pub(super) fn step(
        &mut self,
        engine: &Engine,
        report: &mut Report,
        stop: &dyn Fn() -> bool,
    ) -> bool {
        engine.values.codecs.retire();
        engine.tidy(stop);
        let tables = engine.values.pool.ledger.index_bytes();
        self.tables = self.tables.max(tables);
        if self.tables - tables >= LEAST_TABLES {
            self.tables = tables;
            heap::trim();
        }
        let ran = self.compact(engine, report, stop);
        // What grew beside the pages. If nothing is left to evict, the next insert reports it.
        let _ = engine.fit();
        let (inserts, entries) = (engine.events.inserts.get(), engine.len());
        let changed = (inserts, entries) != (self.inserts, self.entries);
        (self.inserts, self.entries) = (inserts, entries);
        changed || ran
    }

    /// Compacts if it is likely to free enough. Returns whether it did.
    fn compact(&mut self, engine: &Engine, report: &mut Report, stop: &dyn Fn() -> bool) -> bool {
        let zpool = engine.values.pool.zpool();
        if !zpool.caps().compaction {
            return false;
        }
        let waste = || {
            let stats = zpool.stats();
            let pages = stats.total_pages.saturating_mul(stats.page_size);
            (pages.saturating_sub(stats.object_bytes), stats.object_bytes)
        };
        let (now, objects) = waste();
        let threshold = LEAST_GAIN + objects / 100 * TOLERATED_PERCENT;
        if now <= threshold {
            (self.left, self.patience) = (self.left.min(now), 0);
            return false;
        }
        self.waits = self.waits.saturating_sub(1);
        if now < self.left.saturating_add(LEAST_GAIN) && self.waits > 0 {
            return false;
        }
        loop {
            match zpool.compact_some(STEP_PAGES) {
                Ok(done) if done.complete || stop() => break,
                Ok(_) => (),
                Err(_) => {
                    report.failed += 1;
                    break;
                }
            }
        }
        zpool.trim();
        self.left = waste().0;
        self.patience = if self.left.saturating_add(LEAST_GAIN) <= now {
            1
        } else {
            self.patience.saturating_mul(2).clamp(1, MOST_PATIENCE)
        };
        self.waits = self.patience;
        true
    }
}
