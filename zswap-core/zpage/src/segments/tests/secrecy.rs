//! Tests of encryption: somebody who reads the device learns nothing, and somebody who changes it is noticed.

use super::*;
use std::collections::HashSet;

/// Bytes of a run that is searched for.
const RUN: usize = 16;

/// Keeps a copy of all that is written, also by writes that fail later.
#[derive(Debug)]
struct Watched {
    inner: Arc<dyn SwapDevice>,
    written: StdMutex<Vec<Vec<u8>>>,
}

impl SwapDevice for Watched {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }
    fn write_segment(&self, segment: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.written.lock().unwrap().push(bytes.to_vec());
        self.inner.write_segment(segment, bytes)
    }
    fn read(&self, segment: u64, at: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.inner.read(segment, at, bytes)
    }
    fn discard(&self, segment: u64) {
        self.inner.discard(segment);
    }
}

/// What must not be on the device.
#[derive(Default)]
struct Secrets {
    keys: HashSet<[u8; 8]>,
    runs: HashSet<[u8; RUN]>,
}

impl Secrets {
    fn add(&mut self, key: u64, object: &[u8]) {
        self.keys.insert(key.to_le_bytes());
        self.runs.extend(object.windows(RUN).map(|run| <[u8; RUN]>::try_from(run).unwrap()));
    }

    /// Returns how many keys and how many runs of objects are in these bytes.
    fn found(&self, bytes: &[u8]) -> (usize, usize) {
        let keys = bytes.windows(8).filter(|run| self.keys.contains(*run));
        let runs = bytes.windows(RUN).filter(|run| self.runs.contains(*run));
        (keys.count(), runs.count())
    }
}

/// Writes, overwrites, drops drafts, fails to write, and cleans. Returns how many keys and runs of objects were
/// among the bytes that were written.
fn leaked(over: Over, geometry: Geometry) -> (usize, usize) {
    let faulty =
        Arc::new(FaultySwapDevice::new(Arc::new(MemorySwapDevice::with_geometry(geometry))));
    let device = Arc::new(Watched { inner: faulty.clone(), written: StdMutex::default() });
    let segments = over.segments(device.clone());
    let (codec, map, mut secrets) = (codec(), Map::default(), Secrets::default());
    let (mut rng, mut failed) = (Rng::new(7), 0);
    let key = |number: usize| (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for round in 0..if cfg!(miri) { 10 } else { 60 } {
        let mut draft = match segments.draft() {
            Err(DeviceError::Full { .. }) => {
                segments.clean(&map, &|| false).unwrap();
                continue;
            }
            draft => draft.unwrap(),
        };
        let mut fill = |draft: &mut Draft<'_>, most: usize| {
            let mut keys = Vec::new();
            while keys.len() < most {
                let key = key(rng.below(12));
                let object = object(key, round, [300, 1590, 4096][rng.below(3)]);
                if keys.contains(&key) || !draft.push(key, &codec, &object) {
                    break;
                }
                secrets.add(key, &object);
                keys.push(key);
            }
            keys
        };
        // The buffer's end then holds what is never written.
        fill(&mut draft, 20);
        match round % 4 {
            // The buffer goes to the next draft.
            0 => continue,
            1 => {
                faulty.fail_writes(0, 1);
                assert!(draft.write().is_err());
                failed += 1;
                continue;
            }
            _ => draft.clear(),
        }
        let keys = fill(&mut draft, 1 + round as usize % 3);
        draft.write().unwrap().install(|number, at| {
            let old = map.0.lock().unwrap().insert(keys[number], at);
            old.into_iter().for_each(|old| segments.give_up(old));
            true
        });
    }
    assert!(failed > 0 && (cfg!(miri) || segments.figures().moved_objects > 0));
    assert!(map.0.lock().unwrap().iter().all(|(key, at)| read(&segments, *key, *at).is_ok()));
    let written = device.written.lock().unwrap();
    let found = written.iter().map(|bytes| secrets.found(bytes));
    found.fold((0, 0), |sum, found| (sum.0 + found.0, sum.1 + found.1))
}

#[test]
fn no_key_and_no_run_of_an_object_is_written() {
    for block_bytes in [1, 512, 4096] {
        let geometry = Geometry { segments: 8, segment_bytes: 16384, block_bytes };
        assert_eq!(leaked(Over::Encrypted, geometry), (0, 0));
        let (keys, runs) = leaked(Over::Plain, geometry);
        assert!(keys > 0 && runs > 0, "the search finds what is there");
    }
}

/// Devices of each kind, of three segments of 8 KiB.
fn devices(test: &str) -> Vec<Arc<dyn SwapDevice>> {
    let geometry = small(3);
    let memory: Arc<dyn SwapDevice> = Arc::new(MemorySwapDevice::with_geometry(geometry));
    #[cfg(all(target_os = "linux", not(miri)))]
    {
        let name = format!("zpage-secrecy-{test}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let file = crate::device::FileSwapDevice::create_with_geometry(&path, geometry).unwrap();
        std::fs::remove_file(path).unwrap();
        vec![memory, Arc::new(file)]
    }
    #[cfg(not(all(target_os = "linux", not(miri))))]
    {
        let _ = test;
        vec![memory]
    }
}

/// Three objects of 100 bytes with their keys, of this version.
fn three(version: u64) -> [(u64, Vec<u8>); 3] {
    [3, 4, 5].map(|key| (key, object(key, version, 100)))
}

/// Bytes of a segment with three objects of 100 bytes: each with its tag takes 8 units.
const BYTES: usize = 3 * 128 + 3 * 13 + 16;

fn bytes(device: &dyn SwapDevice, segment: u64) -> Vec<u8> {
    let mut bytes = vec![0; BYTES];
    device.read(segment, 0, &mut bytes).unwrap();
    bytes
}

fn is_corrupt(segments: &Segments, key: u64, at: Address) -> bool {
    let (segment, offset) = (u64::from(at.segment()), at.offset());
    let mut called = false;
    let read = segments.pin(at).unwrap().read(key, |_| called = true);
    let corrupt = read == Err(DeviceError::Corrupt { segment, offset });
    assert_eq!(called, !corrupt, "{read:?}");
    corrupt
}

#[test]
fn exchanged_objects_are_corrupt() {
    for device in devices("exchanged") {
        let segments = Segments::attach_encrypted(device.clone()).unwrap();
        let codec = codec();
        // The second has the same objects under the same keys.
        let places = [write(&segments, &codec, &three(0)), write(&segments, &codec, &three(0))];
        let whole = [bytes(&*device, 0), bytes(&*device, 1)];
        for (from, to) in [((0, 0), (0, 1)), ((0, 0), (1, 0)), ((1, 2), (0, 2))] {
            let mut changed = whole.clone();
            let slot = |(_, object): (usize, usize)| object * 128..object * 128 + 116;
            changed[from.0][slot(from)].copy_from_slice(&whole[to.0][slot(to)]);
            changed[to.0][slot(to)].copy_from_slice(&whole[from.0][slot(from)]);
            for (segment, bytes) in changed.iter().enumerate() {
                device.write_segment(segment as u64, bytes).unwrap();
            }
            for (segment, places) in places.iter().enumerate() {
                for (object, at) in places.iter().enumerate() {
                    let moved = [from, to].contains(&(segment, object));
                    assert_eq!(is_corrupt(&segments, 3 + object as u64, *at), moved, "{at:?}");
                }
            }
        }
        for (segment, bytes) in [(0, &whole[1]), (1, &whole[0])] {
            device.write_segment(segment, bytes).unwrap();
        }
        for (object, at) in places.iter().flat_map(|places| places.iter().enumerate()) {
            assert!(is_corrupt(&segments, 3 + object as u64, *at), "whole segments exchanged");
        }
    }
}

#[test]
fn an_older_segment_that_is_put_back_is_corrupt() {
    for device in devices("older") {
        let codec = codec();
        let attach = || Segments::attach_encrypted(device.clone()).unwrap();
        let segments = attach();
        let places = write(&segments, &codec, &three(0));
        let first = bytes(&*device, 0);
        places.iter().for_each(|at| segments.give_up(*at));
        assert_eq!(write(&segments, &codec, &three(0)), places, "the same objects, same places");
        let second = bytes(&*device, 0);
        assert_ne!(first, second);
        device.write_segment(0, &first).unwrap();
        let corrupt = |segments: &Segments| {
            places.iter().zip(3..).all(|(at, key)| is_corrupt(segments, key, *at))
        };
        assert!(corrupt(&segments));
        device.write_segment(0, &second).unwrap();
        assert!(places.iter().zip(3..).all(|(at, key)| read(&segments, key, *at).is_ok()));
        drop(segments);
        // What an earlier store wrote.
        let later = attach();
        assert_eq!(write(&later, &codec, &three(0)), places);
        let third = bytes(&*device, 0);
        device.write_segment(0, &first).unwrap();
        assert!(corrupt(&later), "the same attempt of another store");
        device.write_segment(0, &third).unwrap();
        assert!(!corrupt(&later));
    }
}

#[test]
fn a_flipped_bit_makes_its_object_corrupt_and_no_other() {
    for device in devices("flipped") {
        let segments = Segments::attach_encrypted(device.clone()).unwrap();
        let (codec, map) = (codec(), Map::default());
        let places = write(&segments, &codec, &three(0));
        map.0.lock().unwrap().extend((3..).zip(places.iter().copied()));
        let whole = bytes(&*device, 0);
        for bit in (0..8 * BYTES).step_by(if cfg!(miri) { 97 } else { 1 }) {
            let mut changed = whole.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            device.write_segment(0, &changed).unwrap();
            for (at, key) in places.iter().zip(3..) {
                let own = (at.offset()..at.offset() + 116).contains(&(bit / 8));
                assert_eq!(is_corrupt(&segments, key, *at), own, "bit {bit}");
            }
        }
        // Only cleaning reads the directory.
        write(&segments, &codec, &[(9, object(9, 0, 100))]);
        for byte in [3 * 128, 3 * 128 + 3 * 13, BYTES - 1] {
            let mut changed = whole.clone();
            changed[byte] ^= 1;
            device.write_segment(0, &changed).unwrap();
            let corrupt = DeviceError::Corrupt { segment: 0, offset: 3 * 128 };
            assert_eq!(segments.clean(&map, &|| false).unwrap().failed, Some(corrupt));
        }
    }
}

#[test]
fn an_object_is_not_moved_if_no_entry_named_it_when_it_was_opened() {
    /// An entry that is named only the second time.
    struct Late<'a>(&'a Map, StdMutex<HashSet<u64>>);
    impl Entries for Late<'_> {
        fn holds(&self, key: u64, at: Address) -> bool {
            let first = key == 0 && self.1.lock().unwrap().insert(key);
            !first && self.0.holds(key, at)
        }
        fn replace(&self, key: u64, old: Address, new: Address) -> bool {
            self.0.replace(key, old, new)
        }
    }
    let (_device, segments) = Over::Encrypted.attach(Geometry::of_pages(1 << 10));
    let (codec, map) = (codec(), Map::default());
    for key in 0..6 {
        let at = write(&segments, &codec, &[(key, object(key, 0, 1000))])[0];
        map.0.lock().unwrap().insert(key, at);
    }
    segments.clean(&Late(&map, StdMutex::default()), &|| false).unwrap();
    for (key, at) in map.0.lock().unwrap().iter() {
        assert_eq!(read(&segments, *key, *at), Ok(object(*key, 0, 1000)), "{key}");
    }
}

#[test]
#[cfg(all(target_os = "linux", not(miri)))]
fn a_forked_child_has_no_key() {
    let (device, segments) = Over::Encrypted.attach(small(3));
    let at = write(&segments, &codec(), &three(0))[0];
    let written = bytes(&*device, 0);
    let pinned = segments.pin(at).unwrap();
    let passed = crate::device::tests::in_child(|| {
        assert_eq!(pinned.read(3, |_| ()), Err(DeviceError::Forked));
        let place = seal::Place { attempt: 1, segment: 0, offset: 0 };
        let what = seal::Sealed::Object { key: 3, codec: 0 };
        assert!(!segments.seal.open(what, place, &mut written.clone(), 100));
        assert_eq!(segments.draft().unwrap_err(), DeviceError::Forked);
    });
    assert!(passed);
    assert!(pinned.read(3, |_| ()).is_ok());
}
