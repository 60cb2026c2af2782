//! A snapshot of a store's counters and memory.

use core::fmt;

use zpage::builtin::DefaultCompressor;

/// Figures of a store. They are read one after another while the store is in use, so they may not fit together
/// exactly. Where the kernel has the same figure, the name is the kernel's.
///
/// `pool_limit_hit` and the `reject` figures count not only stores, but also pages that migration or
/// recompression tried to put into another pool.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ZswapStats {
    /// Entries that hold a page, including same-filled ones.
    pub stored_pages: usize,
    /// Entries whose page is same-filled. They take no pool memory.
    pub same_filled_pages: usize,
    /// Entries whose page is kept uncompressed, because it does not get smaller.
    pub stored_incompressible_pages: usize,
    /// Resident bytes of the pools: pages with objects, and warm pages, which are empty but kept for the next
    /// objects.
    pub pool_total_size: usize,
    /// Bytes of the objects in all pools, before the backends round them up.
    pub compressed_bytes: usize,
    /// Bytes of bookkeeping: the store's index, patterns, counters and other tables, the tables of the device,
    /// the backends' descriptors and slots, and the bookkeeping of the page providers.
    pub metadata_bytes: usize,
    /// Bytes of the compression contexts made so far, of trained dictionaries, and of the buffers that pools keep for
    /// batches. They do not depend on the number of stored pages.
    pub context_bytes: usize,
    /// Stores that failed because the page did not get smaller.
    pub reject_compress_poor: u64,
    /// Stores that failed with [`Compress`](crate::StoreError::Compress) or
    /// [`Reentrant`](crate::StoreError::Reentrant).
    pub reject_compress_fail: u64,
    /// Stores that failed because memory ran out or the backend failed.
    pub reject_alloc_fail: u64,
    /// Reads of a page that failed with [`Decompress`](crate::LoadError::Decompress) or
    /// [`Reentrant`](crate::LoadError::Reentrant).
    pub decompress_fail: u64,
    /// Reads of a page that did not match its checksum. Always 0 in a store without checksums.
    pub corrupt_pages: u64,
    /// Stores that found the pools at their limit. They then made room or were refused.
    pub pool_limit_hit: u64,
    /// Stores refused because the pools were at their limit. The next four figures split this number by
    /// reason.
    pub reject_reclaim_fail: u64,
    /// Stores refused at this limit because there was no device, or writeback was switched off.
    pub reject_no_device: u64,
    /// Stores refused at this limit because the device was full.
    pub reject_device_full: u64,
    /// Stores refused at this limit because the device failed during the store, or had failed a moment
    /// before.
    pub reject_device_fail: u64,
    /// Stores refused at this limit because no page in the pools could be read.
    pub reject_unreadable: u64,
    /// Stores refused because memory that cannot be written back had reached `max_bytes`.
    pub reject_memory_limit: u64,
    /// Pages written to the device so far.
    pub written_back_pages: u64,
    /// Clean pages that were dropped so far instead of being written to the device
    /// ([`clean_filter`](crate::ZswapBuilder::clean_filter)).
    pub dropped_clean_pages: u64,
    /// Loads that read the page from the device.
    pub device_loads: u64,
    /// Pages that came back from the device into a pool ([`Promotion`](crate::Promotion)).
    pub promoted_pages: u64,
    /// Calls of the listener or the filter that panicked.
    pub listener_panics: u64,
    /// Entries that the clock of writeback has visited.
    pub clock_entries: u64,
    /// Leaves of the index that the clock of writeback has visited.
    pub clock_leaves: u64,
    /// Pages that are on the device now.
    pub device_pages: usize,
    /// Segments of the device that are in use.
    pub device_segments: usize,
    /// Bytes of the pages on the device, with their checksums, rounded up to 16 each.
    pub device_live_bytes: u64,
    /// Bytes written to the device so far.
    pub device_bytes_written: u64,
    /// Bytes of the objects that arrived there from pools. What was written again by cleaning, or in vain because the
    /// page changed meanwhile, does not count.
    pub device_new_bytes: u64,
    /// Bytes read from the device by loads so far.
    pub device_bytes_read: u64,
    /// Segments that cleaning has emptied so far.
    pub device_cleaned_segments: u64,
    /// Pages that cleaning has moved to another segment so far.
    pub device_moved_pages: u64,
    /// The compressor that a store gets if its builder names none, and the reason for this choice, which
    /// depends on the processor. `pools` shows which compressors this store uses.
    pub default_compressor: DefaultCompressor,
    /// The pools that are alive.
    pub pools: Vec<PoolStats>,
}

/// Figures of one pool of a store.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct PoolStats {
    /// The area whose pool this is; `None` for a pool of the areas that have none of their own.
    pub swap_type: Option<u8>,
    /// The backend's name.
    pub zpool: String,
    /// The compressor's spec, such as `zstd:level=6`.
    pub compressor: String,
    /// Objects in the backend.
    pub objects: usize,
    /// Resident bytes: pages with objects, and warm pages, which are empty but kept for the next objects.
    pub pool_bytes: usize,
    /// Bytes of the objects, before the backend rounds them up.
    pub compressed_bytes: usize,
}

impl ZswapStats {
    /// Returns the bytes of everything that the store keeps in memory. This is the sum that `max_bytes`
    /// limits.
    pub fn memory_bytes(&self) -> usize {
        self.pool_total_size.saturating_add(self.metadata_bytes).saturating_add(self.context_bytes)
    }

    /// Returns how many bytes were written to the device for each byte of the pages that were written back; 0 if
    /// none were. Above 1 are checksums, directories, the padding of segments, and what cleaning moves.
    pub fn write_amplification(&self) -> f64 {
        if self.device_new_bytes == 0 {
            return 0.0;
        }
        self.device_bytes_written as f64 / self.device_new_bytes as f64
    }

    /// Returns the gauges with their names.
    pub(crate) fn sizes(&self) -> [(&'static str, usize); 10] {
        [
            ("stored_pages", self.stored_pages),
            ("same_filled_pages", self.same_filled_pages),
            ("stored_incompressible_pages", self.stored_incompressible_pages),
            ("pool_total_size", self.pool_total_size),
            ("compressed_bytes", self.compressed_bytes),
            ("metadata_bytes", self.metadata_bytes),
            ("context_bytes", self.context_bytes),
            ("device_pages", self.device_pages),
            ("device_segments", self.device_segments),
            ("device_live_bytes", usize::try_from(self.device_live_bytes).unwrap_or(usize::MAX)),
        ]
    }

    /// Returns the counts of events with their names.
    pub(crate) fn events(&self) -> [(&'static str, u64); 24] {
        [
            ("reject_compress_poor", self.reject_compress_poor),
            ("reject_compress_fail", self.reject_compress_fail),
            ("reject_alloc_fail", self.reject_alloc_fail),
            ("decompress_fail", self.decompress_fail),
            ("corrupt_pages", self.corrupt_pages),
            ("pool_limit_hit", self.pool_limit_hit),
            ("reject_reclaim_fail", self.reject_reclaim_fail),
            ("reject_no_device", self.reject_no_device),
            ("reject_device_full", self.reject_device_full),
            ("reject_device_fail", self.reject_device_fail),
            ("reject_unreadable", self.reject_unreadable),
            ("reject_memory_limit", self.reject_memory_limit),
            ("written_back_pages", self.written_back_pages),
            ("dropped_clean_pages", self.dropped_clean_pages),
            ("device_loads", self.device_loads),
            ("promoted_pages", self.promoted_pages),
            ("device_bytes_written", self.device_bytes_written),
            ("device_new_bytes", self.device_new_bytes),
            ("device_bytes_read", self.device_bytes_read),
            ("device_cleaned_segments", self.device_cleaned_segments),
            ("device_moved_pages", self.device_moved_pages),
            ("clock_entries", self.clock_entries),
            ("clock_leaves", self.clock_leaves),
            ("listener_panics", self.listener_panics),
        ]
    }
}

impl fmt::Display for ZswapStats {
    /// Writes a line `name: value` for each figure, then a line for the default compressor and one for each
    /// pool.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.sizes() {
            writeln!(f, "{name}: {value}")?;
        }
        for (name, value) in self.events() {
            writeln!(f, "{name}: {value}")?;
        }
        let DefaultCompressor { name, reason, .. } = self.default_compressor;
        writeln!(f, "default_compressor: {name} ({reason})")?;
        for pool in &self.pools {
            writeln!(
                f,
                "pool {} {}{}: {} objects, {} bytes in {}",
                pool.zpool,
                pool.compressor,
                pool.swap_type.map(|own| format!(" of area {own}")).unwrap_or_default(),
                pool.objects,
                pool.compressed_bytes,
                pool.pool_bytes
            )?;
        }
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn each_figure_is_shown_under_its_name() {
        let stats = ZswapStats {
            stored_pages: 1,
            same_filled_pages: 2,
            stored_incompressible_pages: 3,
            pool_total_size: 4,
            compressed_bytes: 5,
            metadata_bytes: 6,
            context_bytes: 7,
            reject_compress_poor: 8,
            reject_compress_fail: 9,
            reject_alloc_fail: 10,
            decompress_fail: 11,
            corrupt_pages: 12,
            pool_limit_hit: 13,
            reject_reclaim_fail: 14,
            reject_no_device: 21,
            reject_device_full: 22,
            reject_device_fail: 23,
            reject_unreadable: 24,
            reject_memory_limit: 25,
            written_back_pages: 15,
            device_loads: 16,
            clock_entries: 26,
            clock_leaves: 27,
            dropped_clean_pages: 36,
            listener_panics: 37,
            promoted_pages: 28,
            device_segments: 29,
            device_live_bytes: 30,
            device_bytes_written: 31,
            device_new_bytes: 32,
            device_bytes_read: 33,
            device_cleaned_segments: 34,
            device_moved_pages: 35,
            device_pages: 17,
            default_compressor: zpage::builtin::default_compressor(),
            pools: vec![PoolStats {
                swap_type: Some(200),
                zpool: "zbud".to_owned(),
                compressor: "zstd:level=6".to_owned(),
                objects: 18,
                pool_bytes: 19,
                compressed_bytes: 20,
            }],
        };
        assert_eq!(stats.memory_bytes(), 4 + 6 + 7);
        let shown = stats.to_string();
        let lines: Vec<&str> = shown.lines().collect();
        let expected = [
            "stored_pages: 1",
            "same_filled_pages: 2",
            "stored_incompressible_pages: 3",
            "pool_total_size: 4",
            "compressed_bytes: 5",
            "metadata_bytes: 6",
            "context_bytes: 7",
            "device_pages: 17",
            "device_segments: 29",
            "device_live_bytes: 30",
            "reject_compress_poor: 8",
            "reject_compress_fail: 9",
            "reject_alloc_fail: 10",
            "decompress_fail: 11",
            "corrupt_pages: 12",
            "pool_limit_hit: 13",
            "reject_reclaim_fail: 14",
            "reject_no_device: 21",
            "reject_device_full: 22",
            "reject_device_fail: 23",
            "reject_unreadable: 24",
            "reject_memory_limit: 25",
            "written_back_pages: 15",
            "dropped_clean_pages: 36",
            "device_loads: 16",
            "promoted_pages: 28",
            "device_bytes_written: 31",
            "device_new_bytes: 32",
            "device_bytes_read: 33",
            "device_cleaned_segments: 34",
            "device_moved_pages: 35",
            "clock_entries: 26",
            "clock_leaves: 27",
            "listener_panics: 37",
        ];
        let (last, before) = lines.split_last().unwrap();
        assert_eq!(*last, "pool zbud zstd:level=6 of area 200: 18 objects, 20 bytes in 19");
        let (default, figures) = before.split_last().unwrap();
        let chosen = zpage::builtin::default_compressor();
        assert_eq!(*default, format!("default_compressor: {} ({})", chosen.name, chosen.reason));
        assert_eq!(figures, expected);
    }
}
