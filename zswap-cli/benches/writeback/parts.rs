//! Where the nanoseconds go: the steps of writing segments and of reading objects, each measured alone, on the
//! layer below the store.

use std::sync::Arc;
use std::time::Duration;

use zpage::segments::{Address, Segments};
use zpage::{Codec, PAGE_SIZE, Recipe};
use zpool_api::{Handle, PageProvider, Zpool, ZpoolConfig};

use crate::cpu;
use crate::figures::Rounds;
use crate::load::timed;
use crate::objects::Objects;
use crate::place::Place;

/// Measures rounds of the steps on a null device and on a device in `place`. `clock_ns` is what reading the clock
/// adds to a time.
pub(crate) fn measure(objects: &Objects, place: &Place, time: Duration, clock_ns: f64) -> Rounds {
    let built = Recipe::builtin().compressor(&objects.spec).unwrap();
    let codec = Arc::new(Codec::new(built.compressor));
    let count = objects.len() as f64;
    Rounds::run(time, |_| {
        let (null, _) = Place::Nowhere.device(objects.len());
        let null = Segments::attach(null).unwrap();
        let (_, unwritten) = write(objects, &null, &codec);
        let (device, _file) = place.device(objects.len());
        let segments = Segments::attach(device.clone()).unwrap();
        let (addresses, written) = write(objects, &segments, &codec);
        let mut found = vec![
            ("copy", unwritten.push / count),
            ("seal", unwritten.write / count),
            ("write call", (written.write - unwritten.write) / count),
            ("install", unwritten.install / count),
            ("free", unwritten.free / count),
        ];
        let (mut pins, mut reads, mut opens) = (vec![], vec![], vec![]);
        let mut room = [0; PAGE_SIZE + 4];
        for &n in &objects.order {
            let at = addresses[n];
            // What is timed first brings the bytes into the caches, so the reads take turns.
            let direct = |room: &mut [u8]| {
                timed(|| device.read(u64::from(at.segment()), at.offset(), room).unwrap())
            };
            let through = || timed(|| segments.pin(at).unwrap().read(n as u64, |_| ()).unwrap());
            let room = &mut room[..at.len() + 4];
            if n % 2 == 0 {
                reads.push(direct(room));
            } else {
                opens.push(through());
            }
            pins.push(timed(|| segments.pin(at).map(drop)));
        }
        let middle = |times| measure::median(times).unwrap_or(f64::NAN) - clock_ns;
        found.extend([("pin", middle(pins)), ("read", middle(reads)), ("open", middle(opens))]);
        found
    })
}

/// Processor time of writing all objects.
#[derive(Default)]
struct Writing {
    push: f64,
    write: f64,
    install: f64,
    free: f64,
}

/// Puts all objects into a pool, in random order. Writes them in segments, and frees them in the pool, as the store
/// does. Returns where each is.
fn write(objects: &Objects, segments: &Segments, codec: &Arc<Codec>) -> (Vec<Address>, Writing) {
    let pool = pool();
    let mut handles = vec![None; objects.len()];
    for &n in &objects.order {
        handles[n] = Some(pool.malloc_from(&objects.objects[n]).unwrap());
    }
    let handles: Vec<Handle> = handles.into_iter().map(Option::unwrap).collect();
    let (mut addresses, mut spent) = (Vec::with_capacity(objects.len()), Writing::default());
    let mut next = 0;
    while next < objects.len() {
        let begin = next;
        let mut draft = segments.draft().unwrap();
        let ((), push) = cpu::timed(|| {
            while next < objects.len() {
                let object = pool.obj_read_begin(handles[next]).unwrap();
                if !draft.push(next as u64, codec, &object) {
                    break;
                }
                next += 1;
            }
        });
        let (written, write) = cpu::timed(|| draft.write().unwrap());
        let (_, install) = cpu::timed(|| {
            written.install(|_, at| {
                addresses.push(at);
                true
            })
        });
        let ((), free) =
            cpu::timed(|| handles[begin..next].iter().for_each(|at| pool.free(*at).unwrap()));
        spent.push += push;
        spent.write += write;
        spent.install += install;
        spent.free += free;
    }
    (addresses, spent)
}

/// Makes a pool of the backend that a store has by default.
fn pool() -> Arc<dyn Zpool> {
    #[cfg(target_os = "linux")]
    let provider: Arc<dyn PageProvider> = Arc::new(zpool_pages::MmapPages::new());
    #[cfg(not(target_os = "linux"))]
    let provider: Arc<dyn PageProvider> = Arc::new(zpool_pages::HeapPages::new());
    zswap_core::builtin::zpools().build("zsmalloc", &ZpoolConfig::new(provider)).unwrap()
}
