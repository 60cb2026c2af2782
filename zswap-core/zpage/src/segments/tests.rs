//! Tests of segments on one thread and on several.

#[cfg(feature = "encrypt")]
mod secrecy;

use super::*;
use crate::device::{DeviceError, FaultySwapDevice, Geometry, MemorySwapDevice, SwapDevice};
use crate::{Codec, Recipe};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex as StdMutex};
use zpool_base::sync::test_rng::Rng;

/// Makes two tests of each function: over a plain and over an encrypting seal.
macro_rules! over_both_seals {
    ($($(#[$attribute:meta])* $name:ident)*) => {
        mod plain {
            $(#[test] $(#[$attribute])* fn $name() { super::$name(super::Over::Plain) })*
        }
        #[cfg(feature = "encrypt")]
        mod encrypted {
            $(#[test] $(#[$attribute])* fn $name() { super::$name(super::Over::Encrypted) })*
        }
    };
}

over_both_seals! {
    objects_are_packed_and_each_read_is_its_own_bytes
    #[cfg_attr(miri, ignore = "thousands of objects")]
    a_segment_is_full_before_it_is_too_long
    a_segment_that_is_read_is_neither_discarded_nor_written
    what_was_written_earlier_in_the_same_place_is_not_taken_for_what_is_there
    a_write_that_fails_leaves_the_segment_free
    the_codec_is_kept_until_the_last_object_is_gone
    #[should_panic(expected = "which holds no object")]
    an_object_is_given_up_once
    #[cfg_attr(miri, ignore = "thousands of objects")]
    cleaning_makes_room_for_ever_at_eighty_percent
    #[cfg_attr(miri, ignore = "thousands of objects")]
    segments_that_are_full_by_count_are_not_moved_around_and_do_not_hide_others
    segments_of_other_codecs_are_passed_by
    #[cfg_attr(miri, ignore = "thousands of objects")]
    a_device_that_is_full_of_live_objects_says_so_and_loses_none
    a_segment_with_a_damaged_object_is_not_moved_and_the_others_are
    an_object_that_is_replaced_while_it_is_moved_stays_replaced
    a_device_that_calls_back_into_cleaning_is_answered
    #[cfg_attr(miri, ignore = "thousands of objects")]
    objects_near_each_other_share_a_read_and_each_has_its_own_result
    one_segment_that_cannot_be_written_does_not_stop_the_others
    a_segment_that_only_readers_keep_is_not_cleaned_and_is_in_flight
    the_table_of_segments_shrinks_when_they_are_free
    a_device_that_fails_all_writes_makes_nobody_wait
    #[cfg_attr(miri, ignore = "thousands of objects")]
    threads_that_write_read_drop_and_clean_find_their_objects
}

fn codec() -> Arc<Codec> {
    Arc::new(Codec::new(Recipe::builtin().compressor("null").unwrap().compressor))
}

fn small(segments: u64) -> Geometry {
    Geometry { segments, segment_bytes: 8192, block_bytes: 1 }
}

/// A seal to test over.
#[derive(Clone, Copy)]
enum Over {
    Plain,
    #[cfg(feature = "encrypt")]
    Encrypted,
}

impl Over {
    fn segments(self, device: Arc<dyn SwapDevice>) -> Segments {
        let attached = match self {
            Over::Plain => Segments::attach(device),
            #[cfg(feature = "encrypt")]
            Over::Encrypted => Segments::attach_encrypted(device),
        };
        attached.unwrap()
    }

    fn attach(self, geometry: Geometry) -> (Arc<MemorySwapDevice>, Segments) {
        let device = Arc::new(MemorySwapDevice::with_geometry(geometry));
        (device.clone(), self.segments(device))
    }

    /// How often a test writes a device full: encryption is slow in a build for tests.
    fn times(self) -> u64 {
        match self {
            _ if cfg!(miri) => 1,
            Over::Plain => 10,
            #[cfg(feature = "encrypt")]
            Over::Encrypted => 3,
        }
    }

    /// Bytes of a tag.
    fn tag(self) -> usize {
        match self {
            Over::Plain => 4,
            #[cfg(feature = "encrypt")]
            Over::Encrypted => 16,
        }
    }
}

/// The bytes of version `version` of object `key`.
fn object(key: u64, version: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng::new(key << 32 | version);
    (0..len).map(|_| rng.next() as u8).collect()
}

/// Writes these objects to one segment.
fn write(segments: &Segments, codec: &Arc<Codec>, objects: &[(u64, Vec<u8>)]) -> Vec<Address> {
    let mut draft = segments.draft().unwrap();
    assert!(objects.iter().all(|(key, bytes)| draft.push(*key, codec, bytes)));
    let mut places = Vec::new();
    draft.write().unwrap().install(|number, at| {
        assert_eq!(number, places.len());
        places.push(at);
        true
    });
    places
}

fn read(segments: &Segments, key: u64, at: Address) -> Result<Vec<u8>, DeviceError> {
    segments.pin(at).unwrap().read(key, <[u8]>::to_vec)
}

/// Entries in a map.
#[derive(Default)]
struct Map(StdMutex<HashMap<u64, Address>>);

impl Entries for Map {
    fn holds(&self, key: u64, at: Address) -> bool {
        self.0.lock().unwrap().get(&key) == Some(&at)
    }
    fn replace(&self, key: u64, old: Address, new: Address) -> bool {
        let mut map = self.0.lock().unwrap();
        let same = map.get(&key) == Some(&old);
        if same {
            map.insert(key, new);
        }
        same
    }
}

fn objects_are_packed_and_each_read_is_its_own_bytes(over: Over) {
    for block_bytes in [1, 512, 4096] {
        let (device, segments) = over.attach(Geometry { block_bytes, ..Geometry::of_pages(1000) });
        let lens = [1, 15, 16, 17, 1590, 4095, 4096, 4096, 700];
        let objects: Vec<_> =
            lens.iter().zip(0..).map(|(len, key)| (key, object(key, 0, *len))).collect();
        let places = write(&segments, &codec(), &objects);
        let sum: usize = lens.iter().sum();
        // A tag and at most a unit for each object, an entry in the directory, and its tag.
        let most = sum + lens.len() * (over.tag() + 15 + 12) + over.tag();
        assert!(device.bytes() <= most.next_multiple_of(block_bytes), "{}", device.bytes());
        assert_eq!(device.segments(), 1);
        for ((key, bytes), at) in objects.iter().zip(&places) {
            assert_eq!(read(&segments, *key, *at).as_ref(), Ok(bytes), "{at:?}");
            let other = read(&segments, key + 1, *at).unwrap_err();
            assert!(matches!(other, DeviceError::Corrupt { .. }), "another's: {other}");
        }
        let figures = segments.figures();
        assert_eq!((figures.objects, figures.segments), (lens.len() as u64, 1));
        assert_eq!((figures.new_bytes, figures.written_bytes), (sum as u64, device.bytes() as u64));
        if block_bytes == 1 {
            let once = (sum + over.tag() * lens.len()) as u64;
            assert_eq!(figures.read_bytes, 2 * once, "a read is the object and its tag");
        }
        places.iter().for_each(|at| segments.give_up(*at));
        assert_eq!((device.segments(), segments.figures().segments), (0, 0));
        assert_eq!(segments.figures().live_bytes, 0);
    }
}

fn a_segment_is_full_before_it_is_too_long(over: Over) {
    let (device, segments) = over.attach(Geometry::of_pages(1000));
    let codec = codec();
    for len in [16, 100, 1000, 4096] {
        let mut draft = segments.draft().unwrap();
        let bytes = object(1, 0, len);
        let mut pushed = 0;
        while draft.push(pushed, &codec, &bytes) {
            pushed += 1;
        }
        assert_eq!(draft.len() as u64, pushed);
        let tag = over.tag();
        let room = (65536 - tag) / ((len + tag).next_multiple_of(16) + 13);
        let room = room.min(512);
        assert_eq!(pushed, room as u64, "objects of {len} bytes");
        assert_eq!(draft.write().unwrap().install(|_, _| false), 0);
        assert_eq!((device.segments(), segments.figures().objects), (0, 0), "none was installed");
    }
}

fn objects_near_each_other_share_a_read_and_each_has_its_own_result(over: Over) {
    for block_bytes in [1, 4096] {
        let inner = Arc::new(MemorySwapDevice::with_geometry(Geometry {
            block_bytes,
            ..Geometry::of_pages(1000)
        }));
        let device = Arc::new(FaultySwapDevice::new(inner));
        let segments = over.segments(device.clone());
        let mut places = Vec::new();
        for segment in 0..3u64 {
            let of = |n| (segment * 20 + n, object(segment * 20 + n, 0, 2000));
            let objects: Vec<_> = (0..20).map(of).collect();
            let at = write(&segments, &codec(), &objects);
            places.extend(objects.into_iter().map(|(key, _)| key).zip(at));
        }
        // Two runs of neighbours, a lone one, one object twice, and all of the last segment; in any order.
        let keys = [9u64, 3, 30, 4, 5, 10, 11, 11].into_iter().chain((40..60).rev());
        let all: Vec<u64> = keys.collect();
        let check = |wrong: Option<u64>| {
            let pin = |key: &u64| segments.pin(places[*key as usize].1).unwrap();
            let want = |key: &u64| {
                // A key that is not the object's own does not open it.
                let wanted_key = if Some(*key) == wrong { 1000 } else { *key };
                Wanted { key: wanted_key, object: pin(key), note: *key }
            };
            let mut wanted: Vec<_> = all.iter().map(want).collect();
            let mut seen = Vec::new();
            segments.read_merged(&mut wanted, |wanted, bytes| {
                if Some(wanted.note) == wrong {
                    assert!(matches!(bytes, Err(DeviceError::Corrupt { .. })));
                } else {
                    assert_eq!(bytes, Ok(&*object(wanted.note, 0, 2000)));
                }
                seen.push(wanted.note);
            });
            let mut sorted = all.clone();
            sorted.sort_unstable();
            assert_eq!(seen, sorted);
        };
        let before = segments.figures().read_bytes;
        check(None);
        if block_bytes == 1 {
            // 3 to 5 and 9 to 11 are more than a page apart. What is wanted twice is read twice.
            let one = 2000 + over.tag() as u64;
            let unit = one.next_multiple_of(16);
            let runs = 2 * (2 * unit + one) + one + 19 * unit + one + one;
            assert_eq!(segments.figures().read_bytes - before, runs);
        }
        check(Some(9));
        // The first read of several fails; each object is then read by itself.
        device.fail_reads(0, 1);
        check(None);
    }
}

fn a_segment_that_is_read_is_neither_discarded_nor_written(over: Over) {
    let (device, segments) = over.attach(small(1));
    let codec = codec();
    let at = write(&segments, &codec, &[(7, object(7, 0, 100))])[0];
    let (one, two) = (segments.pin(at).unwrap(), segments.pin(at).unwrap());
    segments.give_up(at);
    drop(one);
    assert_eq!((device.segments(), segments.figures().segments), (1, 1));
    assert_eq!(segments.draft().unwrap_err(), DeviceError::Full { segments: 1 });
    assert_eq!(two.read(7, <[u8]>::to_vec), Ok(object(7, 0, 100)));
    drop(two);
    assert_eq!((device.segments(), segments.figures().segments), (0, 0));
    assert_eq!(write(&segments, &codec, &[(7, object(7, 1, 100))]), [at], "the same place");
}

fn what_was_written_earlier_in_the_same_place_is_not_taken_for_what_is_there(over: Over) {
    #[derive(Debug)]
    struct Stubborn(MemorySwapDevice, AtomicBool);
    impl SwapDevice for Stubborn {
        fn geometry(&self) -> Geometry {
            self.0.geometry()
        }
        fn write_segment(&self, segment: u64, bytes: &[u8]) -> Result<(), DeviceError> {
            if self.1.load(SeqCst) { Ok(()) } else { self.0.write_segment(segment, bytes) }
        }
        fn read(&self, segment: u64, at: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
            self.0.read(segment, at, bytes)
        }
    }
    let device =
        Arc::new(Stubborn(MemorySwapDevice::with_geometry(small(1)), AtomicBool::new(false)));
    let segments = over.segments(device.clone());
    let codec = codec();
    let at = write(&segments, &codec, &[(7, object(7, 0, 100))])[0];
    segments.give_up(at);
    device.1.store(true, SeqCst);
    // The same key, place, length and codec, and even the same bytes.
    assert_eq!(write(&segments, &codec, &[(7, object(7, 0, 100))]), [at]);
    assert_eq!(
        read(&segments, 7, at),
        Err(DeviceError::Corrupt { segment: 0, offset: 0 }),
        "the second write did not happen"
    );
    // What another store wrote to the same device.
    segments.give_up(at);
    drop(segments);
    device.1.store(false, SeqCst);
    let first = over.segments(device.clone());
    assert_eq!(write(&first, &codec, &[(7, object(7, 0, 100))]), [at]);
    drop(first);
    device.1.store(true, SeqCst);
    let second = over.segments(device);
    assert_eq!(write(&second, &codec, &[(7, object(7, 0, 100))]), [at]);
    assert!(matches!(read(&second, 7, at), Err(DeviceError::Corrupt { .. })));
}

fn a_write_that_fails_leaves_the_segment_free(over: Over) {
    let inner = Arc::new(MemorySwapDevice::with_geometry(small(3)));
    let device = Arc::new(FaultySwapDevice::new(inner.clone()));
    let segments = over.segments(device.clone());
    let codec = codec();
    for _ in 0..10 {
        device.fail_writes(0, 1);
        let mut draft = segments.draft().unwrap();
        assert!(draft.push(7, &codec, &object(7, 0, 100)));
        assert!(matches!(draft.write(), Err(DeviceError::Io { operation: "write", .. })));
        assert_eq!((segments.figures().segments, inner.segments()), (0, 0), "half was written");
    }
    // A segment that could not be written is used again when no other is free.
    let bad = 10;
    for _ in 0..bad {
        device.fail_writes(0, 1);
        let mut draft = segments.draft().unwrap();
        assert!(draft.push(7, &codec, &object(7, 0, 100)));
        assert!(draft.write().is_err());
    }
    drop(segments.draft().unwrap());
    let drafts: Vec<_> = (0..3).map(|_| segments.draft().unwrap()).collect();
    assert_eq!(segments.draft().unwrap_err(), DeviceError::Full { segments: 3 });
    drop(drafts);
    assert_eq!((segments.figures().segments, segments.free()), (0, 3));
    assert_eq!(segments.figures().new_bytes, 0);
}

fn one_segment_that_cannot_be_written_does_not_stop_the_others(over: Over) {
    #[derive(Debug)]
    struct BadSegment(MemorySwapDevice, AtomicUsize);
    impl SwapDevice for BadSegment {
        fn geometry(&self) -> Geometry {
            self.0.geometry()
        }
        fn write_segment(&self, segment: u64, bytes: &[u8]) -> Result<(), DeviceError> {
            if segment == 2 {
                self.1.fetch_add(1, SeqCst);
                return Err(DeviceError::Missing { segment });
            }
            self.0.write_segment(segment, bytes)
        }
        fn read(&self, segment: u64, at: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
            self.0.read(segment, at, bytes)
        }
    }
    let device = MemorySwapDevice::with_geometry(small(8));
    let device = Arc::new(BadSegment(device, AtomicUsize::new(0)));
    let segments = over.segments(device.clone());
    let codec = codec();
    let mut written = 0;
    while let Ok(mut draft) = segments.draft() {
        assert!(draft.push(7, &codec, &object(7, 0, 100)));
        if draft.write().is_ok_and(|written| written.install(|_, _| true) == 1) {
            written += 1;
        }
        if device.1.load(SeqCst) > 3 {
            break;
        }
    }
    // All but the bad one, and the one that is left for cleaning.
    assert_eq!((written, segments.figures().segments), (6, 6));
}

fn a_device_that_fails_all_writes_makes_nobody_wait(over: Over) {
    let device =
        Arc::new(FaultySwapDevice::new(Arc::new(MemorySwapDevice::with_geometry(small(3)))));
    let segments = over.segments(device.clone());
    let (codec, map) = (codec(), Map::default());
    device.fail_writes(0, 20);
    for _ in 0..20 {
        let mut draft = segments.draft_or_clean(&map, true).unwrap();
        assert!(draft.push(7, &codec, &object(7, 0, 100)));
        assert!(draft.write().is_err());
        assert!(!segments.is_in_flight(), "what could not be written is not in flight");
    }
    let mut draft = segments.draft_or_clean(&map, true).unwrap();
    assert!(draft.push(7, &codec, &object(7, 0, 100)));
    assert_eq!(draft.write().unwrap().install(|_, _| true), 1);
}

fn the_codec_is_kept_until_the_last_object_is_gone(over: Over) {
    let (_device, segments) = over.attach(small(8));
    let codecs: [_; 9] = [(); 9].map(|()| codec());
    let mut draft = segments.draft().unwrap();
    let pushed = codecs.each_ref().map(|codec| draft.push(7, codec, &[1; 100]));
    assert_eq!(pushed, core::array::from_fn(|n| n < 8), "a segment has eight codecs at most");
    let mut places = Vec::new();
    draft.write().unwrap().install(|_, at| {
        places.push(at);
        true
    });
    let counts = || codecs.each_ref().map(Arc::strong_count);
    assert_eq!(counts(), core::array::from_fn(|n| if n < 8 { 2 } else { 1 }));
    for (at, codec) in places.iter().zip(&codecs) {
        assert!(Arc::ptr_eq(segments.pin(*at).unwrap().codec(), codec));
    }
    places.iter().skip(1).for_each(|at| segments.give_up(*at));
    assert_eq!(counts(), core::array::from_fn(|n| if n < 8 { 2 } else { 1 }));
    segments.give_up(places[0]);
    assert_eq!(counts(), [1; 9]);
}

fn an_object_is_given_up_once(over: Over) {
    let (_device, segments) = over.attach(small(1));
    let at = write(&segments, &codec(), &[(7, object(7, 0, 100))])[0];
    segments.give_up(at);
    segments.give_up(at);
}

/// Overwrites random objects of `live` until a multiple of the capacity was written. Returns bytes written for each
/// new byte.
fn churn(
    over: Over,
    geometry: Geometry,
    live: u64,
    seed: u64,
    sizes: impl Fn(&mut Rng) -> usize,
) -> f64 {
    let (device, segments) = over.attach(geometry);
    let (codec, map, mut rng) = (codec(), Map::default(), Rng::new(seed));
    let mut versions: HashMap<u64, (u64, usize)> = HashMap::new();
    let capacity = geometry.bytes();
    let mut next = 0;
    while segments.figures().new_bytes < over.times() * capacity {
        let mut draft = loop {
            match segments.draft() {
                Err(DeviceError::Full { .. }) => {
                    let cleaned = segments.clean(&map, &|| false).unwrap();
                    assert!(cleaned.segments > cleaned.written, "{cleaned:?} {segments:?}");
                }
                draft => break draft.unwrap(),
            }
        };
        let mut keys = Vec::new();
        loop {
            let key = if next < live { next } else { rng.below(live as usize) as u64 };
            if keys.contains(&key) {
                break;
            }
            let (version, len) = (versions.get(&key).map_or(0, |(v, _)| v + 1), sizes(&mut rng));
            if !draft.push(key, &codec, &object(key, version, len)) {
                break;
            }
            keys.push(key);
            versions.insert(key, (version, len));
            next += 1;
        }
        draft.write().unwrap().install(|number, at| {
            let old = map.0.lock().unwrap().insert(keys[number], at);
            old.into_iter().for_each(|old| segments.give_up(old));
            true
        });
    }
    for (key, at) in map.0.lock().unwrap().iter() {
        let (version, len) = versions[key];
        assert_eq!(read(&segments, *key, *at), Ok(object(*key, version, len)));
    }
    let figures = segments.figures();
    assert_eq!(figures.objects, live);
    assert!(figures.moved_objects > 0 && figures.cleaned_segments > 0);
    map.0.lock().unwrap().values().for_each(|at| segments.give_up(*at));
    assert_eq!((segments.free(), device.segments()), (geometry.segments, 0));
    figures.written_bytes as f64 / figures.new_bytes as f64
}

fn cleaning_makes_room_for_ever_at_eighty_percent(over: Over) {
    let few = |rng: &mut Rng| 200 + rng.below(2800);
    let geometry = Geometry { segments: 64, segment_bytes: 1 << 16, block_bytes: 1 };
    // 80 % of the capacity, in objects of 1600 bytes with 24 bytes of checksum, padding and directory.
    let live = geometry.bytes() * 8 / 10 / 1624;
    let amplified = churn(over, geometry, live, 1, few);
    assert!(amplified < 3.2, "{amplified}");
    let blocks = Geometry { block_bytes: 4096, ..geometry };
    churn(over, blocks, live, 2, few);
    churn(over, Geometry { segments: 5, ..geometry }, 5 * 65536 / 2 / 1624, 3, few);
    // Pages that do not get smaller.
    churn(over, geometry, geometry.bytes() * 8 / 10 / 4124, 4, |_| 4096);
    churn(over, small(64), 64 * 8192 * 4 / 10 / 1624, 5, few);
}

fn segments_that_are_full_by_count_are_not_moved_around_and_do_not_hide_others(over: Over) {
    let (_device, segments) = over.attach(Geometry { segments: 24, ..Geometry::of_pages(1 << 10) });
    let (codec, map, mut key) = (codec(), Map::default(), 0);
    let mut add = |len: usize, count: usize| {
        let objects: Vec<_> =
            (0..count as u64).map(|n| (key + n, object(key + n, 0, len))).collect();
        key += count as u64;
        let places = write(&segments, &codec, &objects);
        map.0.lock().unwrap().extend(objects.iter().map(|(key, _)| *key).zip(places));
    };
    // As many small objects as a segment lists, and as many as fit beside their directory.
    (0..4).for_each(|_| add(40, 512));
    (0..4).for_each(|_| add(140, 376));
    let nothing = segments.clean(&map, &|| false).unwrap();
    assert_eq!((nothing.segments, nothing.written), (0, 0), "nothing would be won");
    (0..4).for_each(|_| add(3000, 15));
    let cleaned = segments.clean(&map, &|| false).unwrap();
    assert!(cleaned.segments > cleaned.written, "{cleaned:?}");
    assert!(map.0.lock().unwrap().iter().all(|(key, at)| read(&segments, *key, *at).is_ok()));
}

fn segments_of_other_codecs_are_passed_by(over: Over) {
    let (_device, segments) = over.attach(Geometry { segments: 24, ..Geometry::of_pages(1 << 10) });
    let (map, mut key) = (Map::default(), 0);
    let mut add = |codecs: &[Arc<Codec>]| {
        let mut draft = segments.draft().unwrap();
        for codec in codecs {
            assert!(draft.push(key, codec, &object(key, 0, 1000)));
            key += 1;
        }
        let first = key - codecs.len() as u64;
        draft.write().unwrap().install(|number, at| {
            map.0.lock().unwrap().insert(first + number as u64, at);
            true
        });
    };
    // Each of three segments has eight codecs of its own; three share two codecs.
    (0..3).for_each(|_| add(&[(); 8].map(|()| codec())));
    let shared = [(); 2].map(|()| codec());
    (0..3).for_each(|_| {
        add(&[
            shared[0].clone(),
            shared[1].clone(),
            shared[0].clone(),
            shared[1].clone(),
            shared[0].clone(),
        ])
    });
    let cleaned = segments.clean(&map, &|| false).unwrap();
    assert_eq!((cleaned.segments, cleaned.written, cleaned.objects), (3, 1, 15));
    let nothing = segments.clean(&map, &|| false).unwrap();
    assert_eq!((nothing.segments, nothing.written), (0, 0), "nothing would be won");
    assert!(map.0.lock().unwrap().iter().all(|(key, at)| read(&segments, *key, *at).is_ok()));
}

fn a_device_that_is_full_of_live_objects_says_so_and_loses_none(over: Over) {
    let (_device, segments) = over.attach(Geometry::of_pages(64));
    let (codec, map) = (codec(), Map::default());
    let mut key = 0;
    let full = loop {
        let mut draft = match segments.draft() {
            Err(DeviceError::Full { segments: count }) => {
                let cleaned = segments.clean(&map, &|| false).unwrap();
                if cleaned.segments <= cleaned.written {
                    break count;
                }
                continue;
            }
            draft => draft.unwrap(),
        };
        let first = key;
        while draft.push(key, &codec, &object(key, 0, 1590)) {
            key += 1;
        }
        draft.write().unwrap().install(|number, at| {
            map.0.lock().unwrap().insert(first + number as u64, at);
            true
        });
    };
    assert_eq!((full, segments.figures().objects), (4, key));
    for (key, at) in map.0.lock().unwrap().iter() {
        assert_eq!(read(&segments, *key, *at), Ok(object(*key, 0, 1590)));
    }
}

fn a_segment_with_a_damaged_object_is_not_moved_and_the_others_are(over: Over) {
    /// Spoils what it reads from one segment.
    #[derive(Debug)]
    struct Spoils(MemorySwapDevice, AtomicUsize);
    impl SwapDevice for Spoils {
        fn geometry(&self) -> Geometry {
            self.0.geometry()
        }
        fn write_segment(&self, segment: u64, bytes: &[u8]) -> Result<(), DeviceError> {
            self.0.write_segment(segment, bytes)
        }
        fn read(&self, segment: u64, at: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
            self.0.read(segment, at, bytes)?;
            if segment == self.1.load(SeqCst) as u64 && at == 0 {
                bytes[0] ^= 1;
            }
            Ok(())
        }
        fn discard(&self, segment: u64) {
            self.0.discard(segment);
        }
    }
    let device = Arc::new(Spoils(MemorySwapDevice::new(1 << 10), AtomicUsize::new(0)));
    let segments = over.segments(device.clone());
    let (codec, map) = (codec(), Map::default());
    for segment in 0..6 {
        let objects: Vec<_> = (0..4).map(|n| (segment * 4 + n, object(n, segment, 1000))).collect();
        let places = write(&segments, &codec, &objects);
        map.0.lock().unwrap().extend(objects.iter().map(|(key, _)| *key).zip(places));
    }
    let cleaned = segments.clean(&map, &|| false).unwrap();
    assert_eq!((cleaned.segments, cleaned.written, cleaned.objects), (5, 1, 20), "{cleaned:?}");
    for (key, at) in map.0.lock().unwrap().iter() {
        let read = read(&segments, *key, *at);
        match at.segment() {
            // Segment 0's first object is damaged for each reader; the rest of it can be read.
            0 if at.offset() == 0 => assert!(matches!(read, Err(DeviceError::Corrupt { .. }))),
            _ => assert_eq!(read.unwrap().len(), 1000),
        }
    }
    // It is tried again when there is no other, and then it is found whole.
    let again = segments.clean(&map, &|| false).unwrap();
    assert_eq!(again.failed, Some(DeviceError::Corrupt { segment: 0, offset: 0 }));
    assert_eq!((again.segments, again.written), (0, 0));
    device.1.store(usize::MAX, SeqCst);
    let cleaned = segments.clean(&map, &|| false).unwrap();
    assert_eq!((cleaned.segments, cleaned.written), (2, 1));
    assert!(map.0.lock().unwrap().iter().all(|(key, at)| read(&segments, *key, *at).is_ok()));
}

fn a_segment_that_only_readers_keep_is_not_cleaned_and_is_in_flight(over: Over) {
    let (_device, segments) = over.attach(Geometry::of_pages(1 << 10));
    let (codec, map) = (codec(), Map::default());
    let kept = write(&segments, &codec, &[(1, object(1, 0, 1000))])[0];
    let gone = write(&segments, &codec, &[(2, object(2, 0, 1000))])[0];
    map.0.lock().unwrap().insert(1, kept);
    assert!(!segments.is_in_flight());
    let reader = segments.pin(gone).unwrap();
    segments.give_up(gone);
    assert!(segments.is_in_flight());
    let cleaned = segments.clean(&map, &|| false).unwrap();
    assert_eq!(cleaned, Cleaned::default());
    assert_eq!(segments.figures().read_bytes, 0);
    drop(reader);
    assert!(!segments.is_in_flight());
    assert_eq!(segments.figures().segments, 1);
}

fn the_table_of_segments_shrinks_when_they_are_free(over: Over) {
    let (_device, segments) = over.attach(small(4000));
    let codec = codec();
    let before = segments.memory_bytes();
    let most = if cfg!(miri) { 100 } else { 3000 };
    let places: Vec<Address> =
        (0..most).map(|n| write(&segments, &codec, &[(n, object(n, 0, 20))])[0]).collect();
    let full = segments.memory_bytes() - before;
    // The last one in use keeps the table as it is.
    let (last, others) = places.split_last().unwrap();
    others.iter().for_each(|at| segments.give_up(*at));
    assert!(segments.memory_bytes() - before > full / 2);
    segments.give_up(*last);
    let left = segments.memory_bytes() - before;
    assert!(left < full / 10, "{left} of {full}");
    let at = write(&segments, &codec, &[(7, object(7, 0, 20))])[0];
    assert_eq!(read(&segments, 7, at), Ok(object(7, 0, 20)));
}

fn an_object_that_is_replaced_while_it_is_moved_stays_replaced(over: Over) {
    /// Entries that change between the look and the replacement.
    struct Racing<'a>(&'a Map, &'a Segments, AtomicUsize);
    impl Entries for Racing<'_> {
        fn holds(&self, key: u64, at: Address) -> bool {
            self.0.holds(key, at)
        }
        fn replace(&self, key: u64, old: Address, new: Address) -> bool {
            if key % 2 == 0 {
                // Another thread invalidates the entry.
                let gone = self.0.0.lock().unwrap().remove(&key).unwrap();
                assert_eq!(gone, old);
                self.1.give_up(gone);
                self.2.fetch_add(1, SeqCst);
            }
            self.0.replace(key, old, new)
        }
    }
    let (device, segments) = over.attach(Geometry::of_pages(1 << 10));
    let (codec, map) = (codec(), Map::default());
    for segment in 0..6 {
        let objects: Vec<_> = (0..4).map(|n| (segment * 4 + n, object(n, segment, 1000))).collect();
        let places = write(&segments, &codec, &objects);
        map.0.lock().unwrap().extend(objects.iter().map(|(key, _)| *key).zip(places));
    }
    let racing = Racing(&map, &segments, AtomicUsize::new(0));
    let cleaned = segments.clean(&racing, &|| false).unwrap();
    assert_eq!((cleaned.segments, cleaned.written, cleaned.objects), (6, 1, 12));
    assert_eq!((racing.2.load(SeqCst), segments.figures().objects), (12, 12));
    assert!(map.0.lock().unwrap().iter().all(|(key, at)| read(&segments, *key, *at).is_ok()));
    map.0.lock().unwrap().values().for_each(|at| segments.give_up(*at));
    assert_eq!(device.segments(), 0);
}

fn a_device_that_calls_back_into_cleaning_is_answered(over: Over) {
    struct Calls<'a>(&'a Segments, AtomicUsize);
    impl Entries for Calls<'_> {
        fn holds(&self, _: u64, _: Address) -> bool {
            true
        }
        fn replace(&self, _: u64, _: Address, _: Address) -> bool {
            let nested = self.0.clean(&Map::default(), &|| false).unwrap();
            assert_eq!((nested.segments, nested.waited), (0, false));
            self.1.fetch_add(1, SeqCst);
            false
        }
    }
    let (_device, segments) = over.attach(Geometry::of_pages(1 << 10));
    let codec = codec();
    for n in 0..2 {
        write(&segments, &codec, &[(n, object(n, 0, 1000))]);
    }
    let calls = Calls(&segments, AtomicUsize::new(0));
    segments.clean(&calls, &|| false).unwrap();
    assert!(calls.1.load(SeqCst) > 0);
}

fn threads_that_write_read_drop_and_clean_find_their_objects(over: Over) {
    let (device, segments) = over.attach(Geometry { segments: 12, ..Geometry::of_pages(1 << 10) });
    let (codec, map) = (codec(), Map::default());
    let rounds = if cfg!(miri) { 3 } else { 400 };
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (segments, codec, map) = (&segments, &codec, &map);
            scope.spawn(move || {
                let mut rng = Rng::new(thread);
                let mut versions = [0u64; 64];
                for round in 0..rounds {
                    let mut draft = match segments.draft() {
                        Err(DeviceError::Full { .. }) => {
                            segments.clean(map, &|| false).unwrap();
                            continue;
                        }
                        draft => draft.unwrap(),
                    };
                    let mut keys: Vec<u64> = Vec::new();
                    while keys.len() < 1 + round % 20 {
                        let key = thread * 64 + rng.below(64) as u64;
                        if !keys.contains(&key) {
                            keys.push(key);
                        }
                    }
                    for key in &keys {
                        let version = versions[(key % 64) as usize] + 1;
                        assert!(draft.push(*key, codec, &object(*key, version, 500)));
                    }
                    keys.iter().for_each(|key| versions[(key % 64) as usize] += 1);
                    draft.write().unwrap().install(|number, at| {
                        let old = map.0.lock().unwrap().insert(keys[number], at);
                        old.into_iter().for_each(|old| segments.give_up(old));
                        true
                    });
                    for _ in 0..10 {
                        let key = thread * 64 + rng.below(64) as u64;
                        // Pinned under the map's lock, as under an entry's.
                        let pinned = {
                            let map = map.0.lock().unwrap();
                            map.get(&key).map(|at| segments.pin(*at).unwrap())
                        };
                        let Some(pinned) = pinned else { continue };
                        let version = versions[(key % 64) as usize];
                        let found = pinned.read(key, |bytes| bytes == object(key, version, 500));
                        assert_eq!(found, Ok(true), "{key} {version}");
                    }
                    let key = thread * 64 + rng.below(64) as u64;
                    let gone = map.0.lock().unwrap().remove(&key);
                    gone.into_iter().for_each(|at| segments.give_up(at));
                }
            });
        }
    });
    assert!(cfg!(miri) || segments.figures().moved_objects > 0);
    map.0.lock().unwrap().values().for_each(|at| segments.give_up(*at));
    assert_eq!((segments.free(), device.segments()), (12, 0));
}
