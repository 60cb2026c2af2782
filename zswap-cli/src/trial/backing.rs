//! `--backing`: a store with less room than its pages need, which writes the rest back to a file or a service.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use measure::{PageSet, chain};
use zswap_core::device::{FileSwapDevice, SwapDevice};
use zswap_core::{PAGE_SIZE, Page, SwapEntry, Zswap, ZswapStats};

use super::{Dice, Outcome};
use crate::backing::Backing as Device;
use crate::error::{Error, Result};

/// Where the store writes pages.
#[derive(Debug)]
pub(crate) enum Place {
    File(PathBuf),
    Service { device: Device, encrypt: bool },
}

/// Times of the loads of pages that were on the device at that moment, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct DeviceLoads {
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl DeviceLoads {
    /// Summarises times after subtracting from each what reading the clock costs. Returns `None` if
    /// there are none.
    fn over(mut samples: Vec<u64>, clock_ns: f64) -> Option<Self> {
        samples.sort_unstable();
        let less = |ns: u64| (ns as f64 - clock_ns).max(0.0);
        let rank = |share: usize| (samples.len() * share).div_ceil(100).max(1) - 1;
        let at = |share| samples.get(rank(share)).map(|&ns| less(ns));
        let sum: f64 = samples.iter().map(|&ns| less(ns)).sum();
        Some(DeviceLoads { mean: sum / samples.len() as f64, p50: at(50)?, p99: at(99)? })
    }
}

/// The figures of the trial.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Backing {
    pages: usize,
    /// Whether the store wrote to a service, and if so, whether it encrypted.
    service: Option<bool>,
    max_bytes: usize,
    pool_bytes: usize,
    /// Pages on the device before the first load.
    device_pages: usize,
    pub(crate) written_back_pages: u64,
    pub(crate) device_bytes_written: u64,
    pub(crate) device_bytes_read: u64,
    /// Bytes written to the device for each byte of the pages in them; `None` if none was written.
    pub(crate) write_amplification: Option<f64>,
    /// `None` if no page was loaded from the device.
    pub(crate) device_loads: Option<DeviceLoads>,
    /// Microseconds of a store and of a load, from wherever the page was.
    store_us: f64,
    load_us: f64,
    /// The first page that came back changed, or the first error.
    pub(crate) fault: Option<String>,
}

impl Backing {
    /// Returns the figures in words.
    pub(crate) fn outcome(&self) -> Outcome {
        let mib = |bytes: u64| bytes as f64 / 1048576.0;
        let verdict = match &self.fault {
            None => "every page equal".to_owned(),
            Some(fault) => format!("FAILED: {fault}"),
        };
        let amplification = match self.write_amplification {
            Some(times) => format!(", {times:.3} bytes for each byte of the compressed pages"),
            None => String::new(),
        };
        let (rest, place) = match self.service {
            None => ("in a file", "the file"),
            Some(true) => ("on a service, encrypted", "the service"),
            Some(false) => ("on a service, not encrypted", "the service"),
        };
        let loads = match self.device_loads {
            Some(DeviceLoads { mean, p50, p99 }) => format!(
                "A load from {place} took {:.1} µs on average; half of them took at most {:.1} µs, 99 % \
                 at most {:.1} µs.",
                mean / 1e3,
                p50 / 1e3,
                p99 / 1e3
            ),
            None => format!("No page was loaded from {place}."),
        };
        let text = format!(
            "With {:.1} MiB of pool and the rest {rest}: {} of {} pages were written back ({} ever), \
             the pools held {:.1} MiB, {verdict}. {:.1} µs a store, {:.1} µs a load, from wherever it was. \
             {:.1} MiB were written to {place}{amplification}; {:.1} MiB were read from it. {loads}",
            mib(self.max_bytes as u64),
            self.device_pages,
            self.pages,
            self.written_back_pages,
            mib(self.pool_bytes as u64),
            self.store_us,
            self.load_us,
            mib(self.device_bytes_written),
            mib(self.device_bytes_read),
        );
        Outcome { text, verified: self.fault.is_none() }
    }
}

/// Stores all pages in a store. Its pool is limited to `max_bytes`, and it writes the rest back to
/// `place`. Then loads each page once, in random order. At the end deletes the file, or empties
/// it if it existed before; a service deletes what the store wrote when its device is dropped. `clock_ns` is what reading
/// the clock adds to a time.
pub(crate) fn backing(
    set: &PageSet,
    pair: &(String, String),
    place: Place,
    max_bytes: usize,
    clock_ns: f64,
) -> Result<Backing> {
    match place {
        Place::File(path) => on_file(set, pair, &path, max_bytes, clock_ns),
        Place::Service { device, encrypt } => {
            let store = built(pair, max_bytes, device.device.clone(), encrypt)?;
            let mut figures = exercise(&store, set, max_bytes, clock_ns);
            figures.service = Some(encrypt);
            if let (Some(fault), Some(failure)) = (&mut figures.fault, device.failure()) {
                *fault = format!("{fault}; the service: {failure}");
            }
            Ok(figures)
        }
    }
}

fn on_file(
    set: &PageSet,
    pair: &(String, String),
    path: &Path,
    max_bytes: usize,
    clock_ns: f64,
) -> Result<Backing> {
    let was_there = path.exists();
    let count = set.pages().len();
    let device = FileSwapDevice::create(path, count as u64);
    let device = device.map_err(|reason| Error::Backing { reason })?;
    let backing = built(pair, max_bytes, Arc::new(device), false)
        .map(|store| exercise(&store, set, max_bytes, clock_ns));
    // The file holds the pages, which nobody needs after the trial.
    if was_there {
        let _ = OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(0));
    } else {
        let _ = fs::remove_file(path);
    }
    backing
}

fn built(
    (zpool, compressor): &(String, String),
    max_bytes: usize,
    device: Arc<dyn SwapDevice>,
    encrypt: bool,
) -> Result<Zswap> {
    let store = Zswap::builder().zpool(zpool).compressor(compressor);
    let store = store.max_pool_bytes(max_bytes).swap_device(device);
    #[cfg(feature = "encrypt")]
    let store = store.encrypt(encrypt);
    #[cfg(not(feature = "encrypt"))]
    let _ = encrypt;
    store.build().map_err(|source| super::not_built(zpool, compressor, source))
}

fn exercise(store: &Zswap, set: &PageSet, max_bytes: usize, clock_ns: f64) -> Backing {
    let count = set.pages().len();
    let mut fault = None;
    let begun = Instant::now();
    for (n, page) in set.pages().iter().enumerate() {
        let stored =
            entry(n).and_then(|entry| store.store(entry, page).map_err(|error| chain(&error)));
        fault = fault.or(stored.err());
    }
    let storing = begun.elapsed();
    let filled = store.stats();
    let mut order: Vec<usize> = (0..count).collect();
    let mut dice = Dice(0x9E37_79B9);
    for last in (1..count).rev() {
        order.swap(last, dice.below(last + 1));
    }
    let mut back: Page = [0; PAGE_SIZE];
    let (mut loading, mut from_device) = (Duration::ZERO, Vec::with_capacity(count));
    let mut device_loads = filled.device_loads;
    for n in order {
        let took;
        (took, fault) = match entry(n) {
            Err(error) => (Duration::ZERO, fault.or(Some(error))),
            Ok(entry) => {
                let begun = Instant::now();
                let loaded = store.load(entry, &mut back);
                let took = begun.elapsed();
                let changed = || format!("page {n} came back changed");
                let found = match loaded {
                    Err(error) => Some(chain(&error)),
                    Ok(()) => (back != set.pages()[n]).then(changed),
                };
                (took, fault.or(found))
            }
        };
        loading += took;
        // The store counts the loads that read the device, so this tells where the page was.
        let before = core::mem::replace(&mut device_loads, store.stats().device_loads);
        if device_loads > before {
            from_device.push(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        }
    }
    let micros = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
    let stats: ZswapStats = store.stats();
    Backing {
        pages: count,
        service: None,
        max_bytes,
        pool_bytes: filled.pool_total_size,
        device_pages: filled.device_pages,
        written_back_pages: stats.written_back_pages,
        device_bytes_written: stats.device_bytes_written,
        device_bytes_read: stats.device_bytes_read,
        write_amplification: (stats.device_new_bytes > 0).then(|| stats.write_amplification()),
        device_loads: DeviceLoads::over(from_device, clock_ns),
        store_us: micros(storing),
        load_us: micros(loading),
        fault,
    }
}

fn entry(n: usize) -> core::result::Result<SwapEntry, String> {
    SwapEntry::new(0, n as u64).map_err(|error| error.to_string())
}

#[cfg(test)]
impl Backing {
    /// A trial that failed, for the tests of reports.
    pub(crate) fn example() -> Self {
        Backing {
            pages: 10,
            service: None,
            max_bytes: 4 * PAGE_SIZE,
            pool_bytes: 3 * PAGE_SIZE,
            device_pages: 5,
            written_back_pages: 6,
            device_bytes_written: 5100,
            device_bytes_read: 4100,
            write_amplification: Some(1.02),
            device_loads: Some(DeviceLoads { mean: 2100.04, p50: 2000.0, p99: 9000.0 }),
            store_us: 7.0,
            load_us: 2.0,
            fault: Some("page 3 came back changed".into()),
        }
    }
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
        let figures = backing(&set, &pair, Place::File(path.clone()), 40 * PAGE_SIZE, 0.0).unwrap();
        let Outcome { text, verified } = figures.outcome();
        assert!(verified && text.contains("of 100 pages were written back"), "{text}");
        assert!(text.contains("A load from the file took"), "{text}");
        // Noise does not get smaller, so a page is a page on the device, too.
        let pages = figures.device_pages as u64;
        assert!(pages >= 50 && figures.written_back_pages >= pages, "{figures:?}");
        assert!(figures.device_bytes_written >= pages * PAGE_SIZE as u64, "{figures:?}");
        assert!(figures.device_bytes_read >= pages * PAGE_SIZE as u64, "{figures:?}");
        assert!(figures.write_amplification.unwrap() >= 1.0, "{figures:?}");
        let loads = figures.device_loads.unwrap();
        assert!(loads.mean > 0.0 && loads.p50 <= loads.p99, "{loads:?}");
        assert!(!path.exists());
        std::fs::write(&path, b"dear").unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        let refused = backing(&set, &pair, Place::File(path.clone()), 40 * PAGE_SIZE, 0.0)
            .unwrap_err()
            .to_string();
        assert!(refused.contains("name an empty file") && std::fs::read(&path).unwrap() == b"dear");
        std::fs::remove_file(&path).unwrap();
    }
    #[test]
    fn a_pool_that_has_room_for_all_writes_nothing() {
        let path = std::env::temp_dir().join(format!("zswap-room-{}", std::process::id()));
        let set = PageSet::new((0..10).map(noise).collect(), "a test".into());
        let pair = ("zbud".to_owned(), "lz4".to_owned());
        let figures = backing(&set, &pair, Place::File(path.clone()), 40 * PAGE_SIZE, 0.0).unwrap();
        let device = (figures.device_bytes_written, figures.device_bytes_read);
        assert_eq!((device, figures.write_amplification), ((0, 0), None));
        assert_eq!((figures.device_loads, figures.fault.clone()), (None, None));
        let text = figures.outcome().text;
        assert!(text.contains("No page was loaded from the file."), "{text}");
    }

    #[test]
    fn times_are_nearest_ranks_less_the_clock() {
        let loads = DeviceLoads::over((1..=200).rev().collect(), 0.5).unwrap();
        assert_eq!(loads, DeviceLoads { mean: 100.0, p50: 99.5, p99: 197.5 });
        assert_eq!(DeviceLoads::over(vec![7], 9.0).unwrap().p99, 0.0);
        assert_eq!(DeviceLoads::over(Vec::new(), 0.0), None);
    }

    #[test]
    fn a_fault_is_told() {
        let outcome = Backing::example().outcome();
        assert!(!outcome.verified && outcome.text.contains("FAILED: page 3"), "{}", outcome.text);
    }
}
