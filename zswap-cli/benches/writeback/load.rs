//! Loads of pages from the device, beside a read of 4096 bytes from the same file and a bare decode.

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use zswap_core::{PAGE_SIZE, Page, Promotion, Zswap};

use crate::figures::Rounds;
use crate::objects::{Objects, entry};
use crate::place::Place;

const PAGE: u64 = PAGE_SIZE as u64;

/// Measures rounds of loading each page once, in random order, in alternation with the read and the decode.
/// `clock_ns` is what reading the clock adds to a time.
pub(crate) fn measure(
    objects: &mut Objects,
    place: &Place,
    time: Duration,
    clock_ns: f64,
) -> Rounds {
    let count = objects.len();
    let (device, file) = place.device(count);
    let file = file.expect("a folder has a file");
    let store = Zswap::builder().compressor(&objects.spec).swap_device(device);
    let store = store.promotion(Promotion::Never).build().unwrap();
    objects.fill(&store, false);
    assert_eq!(store.shrink(count).unwrap(), count, "pages written back");
    let file_pages = file.metadata().unwrap().len() / PAGE;
    Rounds::run(time, |round| {
        let (mut loads, mut reads, mut decodes) = (vec![], vec![], vec![]);
        let mut page: Page = [0; PAGE_SIZE];
        for at in 0..count {
            let n = objects.order[at];
            for turn in 0..2 {
                if (at + round + turn) % 2 == 0 {
                    loads.push(timed(|| store.load(entry(n), &mut page).unwrap()));
                    assert!(page == objects.pages[n], "page {n} came back changed");
                } else {
                    reads.push(timed(|| {
                        file.read_exact_at(&mut page, n as u64 % file_pages * PAGE).unwrap();
                    }));
                    decodes.push(timed(|| objects.decode(n, &mut page)));
                }
            }
        }
        let both = reads.iter().zip(&decodes).map(|(read, decode)| read + decode).collect();
        let middle = |times| measure::median(times).unwrap_or(f64::NAN);
        vec![
            ("load", middle(loads) - clock_ns),
            ("read and decode", middle(both) - 2.0 * clock_ns),
            ("read", middle(reads) - clock_ns),
            ("decode", middle(decodes) - clock_ns),
        ]
    })
}

/// Returns the time of `work` in nanoseconds.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> f64 {
    let begun = Instant::now();
    std::hint::black_box(work());
    begun.elapsed().as_nanos() as f64
}
