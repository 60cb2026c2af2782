//! Threads of the store's own that a round has started.

use zswap_core::{BackgroundCompactor, BackgroundMigration, BackgroundShrinker};

/// Most threads of the store's own.
pub const MOST_BACKGROUND: usize = 4;

/// A thread of the store's own.
#[derive(Debug)]
pub enum Background {
    /// Writes pages back.
    Shrinker(BackgroundShrinker),
    /// Compacts.
    Compactor(BackgroundCompactor),
    /// Moves pages into the current pool.
    Migration(BackgroundMigration),
}
