//! The configuration of a pool.

use crate::class_table::{SizeClass, large_classes, size_classes};
use zpool_api::SlotRef;

/// The configuration of a pool: its longest zspage, the step between its size classes, and whether
/// it starts with fewer classes. `Copy`, `Send` and `Sync`.
///
/// By default a zspage has up to 16 pages, the step is 16 bytes, and classes are refined as the pool
/// grows. This gave the highest density with 16, 80 and 640 MiB of stored pages of real processes.
///
/// ```
/// use std::sync::Arc;
/// use zpool_api::Zpool;
/// use zpool_pages::HeapPages;
/// use zsmalloc::{Config, Zsmalloc};
///
/// let config = Config::new().chain(8).step(8);
/// let pool = Zsmalloc::with_config(Arc::new(HeapPages::new()), config)?;
/// assert_eq!(pool.caps().max_object_size, 4096);
/// # Ok::<(), zpool_api::ZpoolError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a configuration does nothing until a pool is made with it"]
pub struct Config {
    chain: u8,
    step: u8,
    refine: bool,
    first_generation: u32,
}

impl Config {
    /// Returns the default configuration.
    pub const fn new() -> Self {
        Config { chain: 16, step: 16, refine: true, first_generation: 1 }
    }

    /// Sets the longest zspage, in pages. Values below 1 count as 1, values above 16 as 16. Default:
    /// 16. A zspage also has at most 64 KiB, which is fewer than 16 pages if pages are larger than
    /// 4096 bytes. If the pool admits objects larger than that many pages, a zspage of such an object
    /// has as many pages as the object.
    pub const fn chain(mut self, pages: usize) -> Self {
        self.chain = if pages < 1 {
            1
        } else if pages > 16 {
            16
        } else {
            pages as u8
        };
        self
    }

    /// Sets the distance between size classes in bytes: 8 or 16. Any other value counts as 16.
    /// Default: 16. With pages larger than 4096 bytes the step grows in proportion.
    pub const fn step(mut self, bytes: usize) -> Self {
        self.step = if bytes == 8 { 8 } else { 16 };
        self
    }

    /// Sets whether a small pool starts with fewer classes and activates more as it grows. Default:
    /// true. If false, every class of the table is active from the start, as in the kernel.
    pub const fn refine(mut self, on: bool) -> Self {
        self.refine = on;
        self
    }

    /// Sets how many generations a new slot has after its first. For tests of slots that run out of
    /// generations.
    #[doc(hidden)]
    pub const fn generations_left(mut self, generations: u32) -> Self {
        let used = SlotRef::MAX_GENERATION.saturating_sub(generations);
        self.first_generation = if used < 1 { 1 } else { used };
        self
    }

    /// Returns the classes of a pool whose largest object has `max` bytes, in ascending order of size.
    pub(crate) fn classes(self, page_size: usize, max: usize) -> Vec<SizeClass> {
        let chain = usize::from(self.chain);
        let mut classes = size_classes(page_size, chain, usize::from(self.step));
        classes.extend(large_classes(page_size, chain, max));
        classes
    }

    pub(crate) const fn class_step(self) -> usize {
        self.step as usize
    }

    pub(crate) const fn refines(self) -> bool {
        self.refine
    }

    pub(crate) const fn first_generation(self) -> u32 {
        self.first_generation
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}
