//! Writing pages back: the bytes, the processor time, and the speed beside the page-at-a-time way, which
//! decompresses each page and writes its 4096 bytes with a call of its own.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use zswap_core::{PAGE_SIZE, Page, Zswap};

use crate::cpu;
use crate::figures::Rounds;
use crate::objects::{Objects, entry};
use crate::place::Place;

/// Measures rounds of writing all pages back to a place. If `sorted`, the pages were stored in the order in which
/// they are written back, otherwise in random order.
pub(crate) fn measure(
    objects: &mut Objects,
    place: &Place,
    sorted: bool,
    time: Duration,
) -> Rounds {
    Rounds::run(time, |round| {
        let mut found = Vec::new();
        // The order alternates, so that drift on the machine affects both ways alike.
        if round % 2 == 0 {
            segments(objects, place, sorted, &mut found);
            decodes(objects, &mut found);
            pages(objects, place, sorted, &mut found);
        } else {
            pages(objects, place, sorted, &mut found);
            decodes(objects, &mut found);
            segments(objects, place, sorted, &mut found);
        }
        found
    })
}

/// Writes all pages of a store back.
fn segments(objects: &Objects, place: &Place, sorted: bool, found: &mut Vec<(&'static str, f64)>) {
    let count = objects.len();
    let (device, _file) = place.device(count);
    let store = Zswap::builder().compressor(&objects.spec).swap_device(device).build().unwrap();
    objects.fill(&store, sorted);
    let compressed = store.stats().compressed_bytes as f64;
    let begun = Instant::now();
    let (written, cpu) = cpu::timed(|| store.shrink(count).unwrap());
    let wall = begun.elapsed();
    store.flush_device().unwrap();
    let synced = begun.elapsed();
    assert_eq!(written, count, "pages written back");
    let each = |time: Duration| time.as_nanos() as f64 / count as f64;
    found.extend([
        ("compressed bytes", compressed / count as f64),
        ("device bytes", store.stats().device_bytes_written as f64 / count as f64),
        ("cpu", cpu / count as f64),
        ("wall", each(wall)),
        ("synced", each(synced)),
    ]);
}

/// Decompresses each page once, in the order in which they are written back.
fn decodes(objects: &mut Objects, found: &mut Vec<(&'static str, f64)>) {
    let (mut page, count): (Page, _) = ([0; PAGE_SIZE], objects.len());
    let ((), cpu) = cpu::timed(|| {
        for n in 0..count {
            objects.decode(n, &mut page);
            std::hint::black_box(&page);
        }
    });
    found.push(("decode", cpu / count as f64));
}

/// Writes all pages of a store to a file, one at a time. First leaves each page in the store, then, with another
/// store, invalidates each page after it was written, as a writeback must.
fn pages(objects: &Objects, place: &Place, sorted: bool, found: &mut Vec<(&'static str, f64)>) {
    let each = |time: Duration| time.as_nanos() as f64 / objects.len() as f64;
    for frees in [false, true] {
        let Some(file) = place.file() else { return };
        let store = Zswap::builder().compressor(&objects.spec).build().unwrap();
        objects.fill(&store, sorted);
        let begun = Instant::now();
        one_at_a_time(&store, objects.len(), &file, frees);
        let wall = begun.elapsed();
        file.sync_data().unwrap();
        let synced = begun.elapsed();
        if frees {
            found.push(("page wall, freed", each(wall)));
        } else {
            found.extend([("page wall", each(wall)), ("page synced", each(synced))]);
        }
    }
}

fn one_at_a_time(store: &Zswap, count: usize, file: &File, frees: bool) {
    let mut page: Page = [0; PAGE_SIZE];
    for slot in 0..count {
        store.load(entry(slot), &mut page).unwrap();
        file.write_all_at(&page, (slot * PAGE_SIZE) as u64).unwrap();
        if frees {
            store.invalidate(entry(slot));
        }
    }
}
