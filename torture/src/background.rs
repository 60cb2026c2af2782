//! Background threads of the store that a round has started.

use zswap_core::{BackgroundCleaner, BackgroundCompactor, BackgroundMigration, BackgroundShrinker};

/// The most background threads of a store.
pub const MOST_BACKGROUND: usize = 4;

/// A background thread of the store.
#[derive(Debug)]
pub enum Background {
    /// Writes pages back.
    Shrinker(BackgroundShrinker),
    /// Cleans the segments of the device.
    Cleaner(BackgroundCleaner),
    /// Compacts the pools.
    Compactor(BackgroundCompactor),
    /// Moves pages into the current pool.
    Migration(BackgroundMigration),
}
