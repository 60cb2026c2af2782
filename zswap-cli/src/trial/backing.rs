//! `--backing`: a store with less room than its pages need, which writes the rest back to a file.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use measure::{PageSet, chain};
use zswap_core::device::FileSwapDevice;
use zswap_core::{PAGE_SIZE, Page, SwapEntry, Zswap};

use super::{Dice, Outcome};
use crate::error::{Error, Result};

/// Stores all pages in a store. Its pool is limited to `max_bytes`, and it writes the rest back to the
/// file at `path`. Then loads each page once, in random order. At the end deletes the file, or empties
/// it if it existed before.
pub(crate) fn backing(
    set: &PageSet,
    (zpool, compressor): &(String, String),
    path: &Path,
    max_bytes: usize,
) -> Result<Outcome> {
    let was_there = path.exists();
    let count = set.pages().len();
    let device = FileSwapDevice::create(path, count as u64);
    let device = device.map_err(|reason| Error::Backing { reason })?;
    let store = Zswap::builder().zpool(zpool).compressor(compressor);
    let store = store.max_pool_bytes(max_bytes).swap_device(Arc::new(device)).build();
    let outcome = store
        .map_err(|source| super::not_built(zpool, compressor, source))
        .map(|store| exercise(&store, set, max_bytes));
    // The file holds the pages, which nobody needs after the trial.
    if was_there {
        let _ = OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(0));
    } else {
        let _ = fs::remove_file(path);
    }
    outcome
}

fn exercise(store: &Zswap, set: &PageSet, max_bytes: usize) -> Outcome {
    let count = set.pages().len();
    let mut fault = None;
    let entry = |n: usize| SwapEntry::new(0, n as u64);
    let begun = Instant::now();
    for (n, page) in set.pages().iter().enumerate() {
        let stored = entry(n).map_err(|error| error.to_string());
        let stored =
            stored.and_then(|entry| store.store(entry, page).map_err(|error| chain(&error)));
        fault = fault.or(stored.err());
    }
    let storing = begun.elapsed();
    let stats = store.stats();
    let mut order: Vec<usize> = (0..count).collect();
    let mut dice = Dice(0x9E37_79B9);
    for last in (1..count).rev() {
        order.swap(last, dice.below(last + 1));
    }
    let mut back: Page = [0; PAGE_SIZE];
    let begun = Instant::now();
    for n in order {
        let loaded = entry(n).map_err(|error| error.to_string());
        let loaded =
            loaded.and_then(|entry| store.load(entry, &mut back).map_err(|error| chain(&error)));
        let changed = || format!("page {n} came back changed");
        let done =
            loaded.and_then(|()| if back == set.pages()[n] { Ok(()) } else { Err(changed()) });
        fault = fault.or(done.err());
    }
    let loading = begun.elapsed();
    let verdict = match &fault {
        None => "every page equal".to_owned(),
        Some(fault) => format!("FAILED: {fault}"),
    };
    let mib = |bytes: usize| bytes as f64 / 1048576.0;
    let micros = |time: core::time::Duration| time.as_secs_f64() * 1e6 / count as f64;
    let text = format!(
        "With {:.1} MiB of pool and the rest in a file: {} of {count} pages were written back ({} ever), \
         the pools held {:.1} MiB, {verdict}. {:.1} µs a store, {:.1} µs a load, from wherever it was.",
        mib(max_bytes),
        stats.device_pages,
        stats.written_back_pages,
        mib(stats.pool_total_size),
        micros(storing),
        micros(loading),
    );
    Outcome { text, verified: fault.is_none() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize) -> Page {
        let (mut dice, mut page) = (Dice(n as u64 + 1), [0; PAGE_SIZE]);
        page.fill_with(|| dice.below(256) as u8);
        page
    }

    #[test]
    fn what_does_not_fit_goes_to_the_file_which_is_gone_afterwards() {
        let name = format!("zswap-backing-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let set = PageSet::new((0..100).map(noise).collect(), "a test".into());
        let pair = ("zsmalloc".to_owned(), "lz4".to_owned());
        let outcome = backing(&set, &pair, &path, 40 * PAGE_SIZE).unwrap();
        assert!(outcome.verified, "{}", outcome.text);
        assert!(outcome.text.contains("of 100 pages were written back"), "{}", outcome.text);
        assert!(!outcome.text.contains(" 0 of 100"), "{}", outcome.text);
        assert!(!path.exists());
        std::fs::write(&path, b"dear").unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        let refused = backing(&set, &pair, &path, 40 * PAGE_SIZE).unwrap_err().to_string();
        assert!(refused.contains("name an empty file") && std::fs::read(&path).unwrap() == b"dear");
        std::fs::remove_file(&path).unwrap();
    }
}
