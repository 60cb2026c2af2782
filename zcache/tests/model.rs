//! A cache that is large enough for all reads like a map; one that is not loses entries, and never has wrong ones.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use zpool_base::sync::test_rng::Rng;
use zswap_cache::{Cache, CacheBuilder, CacheError, Key};

/// The bytes by which the pool's descriptors may have grown since an insert counted them: every 8192nd does.
const UNCOUNTED: usize = 128 << 10;

/// Makes a value that begins with `stamp`: text, noise or zeros, of any length.
fn value(rng: &mut Rng, stamp: u64, longest: usize) -> Vec<u8> {
    let len = match rng.below(20) {
        0 => rng.below(longest),
        1..=4 => rng.below(longest / 20),
        _ => rng.below(600),
    };
    let mut bytes = stamp.to_le_bytes().to_vec();
    match rng.below(4) {
        0 => bytes.resize(8 + len, 0),
        1 => (0..len / 8).for_each(|_| bytes.extend(rng.next().to_le_bytes())),
        _ => {
            while bytes.len() < len {
                let (id, seen) = (rng.below(1000), rng.below(2) == 0);
                bytes.extend(
                    format!("{{\"id\": {id}, \"name\": \"user {id}\", \"seen\": {seen}}}, ")
                        .bytes(),
                );
            }
        }
    }
    bytes
}

/// The same numbers as numbers, short bytes and long bytes.
fn with_key<T>(number: u64, then: impl FnOnce(Key<'_>) -> T) -> T {
    let text = format!("{:a>1$}", number, 1 + (number * 37 % 900) as usize);
    match number % 3 {
        0 => then(Key::from(number)),
        1 => then(Key::from(&number.to_le_bytes())),
        _ => then(Key::from(&text)),
    }
}

fn small() -> CacheBuilder {
    Cache::builder().pause(Duration::from_millis(2))
}

/// Checks that a listener has seen all evicted values. The background thread may be evicting one at the moment.
fn all_are_shown(cache: &Cache, seen: &AtomicU64) {
    let end = Instant::now() + Duration::from_secs(10);
    while seen.load(SeqCst) != cache.stats().evictions {
        assert!(Instant::now() < end, "{} of {:?}", seen.load(SeqCst), cache.stats());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Does the same to a cache and a map. Returns how many of the map's entries the cache has lost.
fn run(cache: &Cache, seed: u64, steps: usize, keys: u64, longest: usize) -> usize {
    let mut rng = Rng::new(seed);
    let (mut map, mut lost, mut read): (HashMap<u64, Vec<u8>>, _, _) =
        (HashMap::new(), 0, Vec::new());
    for step in 0..steps as u64 {
        let key = rng.next() % keys;
        match rng.below(12) {
            0..=3 => {
                let value = value(&mut rng, step, longest);
                with_key(key, |key| cache.insert(key, &value)).unwrap();
                map.insert(key, value);
            }
            4 => {
                let gone = with_key(key, |key| cache.remove(key)).unwrap();
                assert!(!gone || map.contains_key(&key));
                lost += usize::from(map.remove(&key).is_some() && !gone);
            }
            5 => {
                let new = value(&mut rng, step, longest);
                let (mut shown, like) = (None, rng.below(2) == 0);
                let replaced = with_key(key, |key| {
                    cache.replace_if(key, &new, |old| {
                        shown = old.map(<[u8]>::to_vec);
                        like
                    })
                });
                assert_eq!(replaced, Ok(like));
                assert!(shown.is_none() || shown.as_ref() == map.get(&key));
                lost += usize::from(shown.is_none() && map.contains_key(&key));
                if like {
                    map.insert(key, new);
                } else if shown.is_none() {
                    map.remove(&key);
                }
            }
            6 => {
                let there = with_key(key, |key| cache.contains(key)).unwrap();
                assert!(!there || map.contains_key(&key));
            }
            7 if step % 1000 == 7 => {
                let mut seen = HashMap::new();
                cache.for_each(|_, value| _ = seen.insert(value.to_vec(), ())).unwrap();
                assert!(
                    map.values().filter(|value| seen.contains_key(*value)).count() <= map.len()
                );
                let stamped = seen.keys().all(|value| map.values().any(|other| other == value));
                assert!(stamped, "a value that no key has");
            }
            8 if step % 2000 == 8 => cache.compact().unwrap(),
            _ => {
                if with_key(key, |key| cache.get_into(key, &mut read)).unwrap() {
                    assert!(Some(&read) == map.get(&key), "key {key} has another value");
                } else if map.remove(&key).is_some() {
                    lost += 1;
                }
            }
        }
    }
    for (key, value) in &map {
        match with_key(*key, |key| cache.get(key)).unwrap() {
            Some(found) => assert!(found == *value),
            None => lost += 1,
        }
    }
    let stats = cache.stats();
    assert!(stats.memory_bytes <= stats.max_bytes + UNCOUNTED, "{stats:?}");
    if lost == 0 {
        assert_eq!(stats.entries, map.len());
        assert_eq!(stats.value_bytes, map.values().map(Vec::len).sum::<usize>());
    }
    lost
}

#[test]
fn it_reads_like_a_map() {
    for (seed, builder) in [
        small(),
        small().background(false),
        small().compressor("null"),
        #[cfg(feature = "lz4")]
        small().compressor("lz4"),
        #[cfg(feature = "linewords")]
        small().compressor("linewords"),
        #[cfg(feature = "deflate")]
        small().compressor("deflate"),
        #[cfg(feature = "zbud")]
        small().zpool("zbud"),
        #[cfg(feature = "z3fold")]
        small().zpool("z3fold"),
    ]
    .into_iter()
    .enumerate()
    {
        let cache = builder.max_bytes(256 << 20).build().unwrap();
        assert_eq!(run(&cache, seed as u64 + 1, 4000, 300, 700_000), 0);
        cache.clear().unwrap();
        let stats = cache.stats();
        assert_eq!((stats.entries, stats.value_bytes, stats.stored_bytes), (0, 0, 0));
    }
}

#[test]
fn what_does_not_fit_is_evicted_and_never_wrong() {
    for (seed, builder) in
        [small(), small().compressor("null"), small().background(false)].into_iter().enumerate()
    {
        let seen = Arc::new(AtomicU64::new(0));
        let count = seen.clone();
        let builder = builder.on_evict(move |_, value| {
            assert!(value.len() >= 8);
            count.fetch_add(1, SeqCst);
        });
        let cache = builder.max_bytes(8 << 20).build().unwrap();
        let lost = run(&cache, seed as u64 + 1, 8000, 3000, 400_000);
        let stats = cache.stats();
        assert!(lost > 100, "{lost} lost");
        assert_eq!(stats.unseen, 0);
        all_are_shown(&cache, &seen);
        // zbud holds two objects in a page of 64 KiB.
        assert!(stats.entries > 30, "{stats:?}");
    }
}

/// Each value names its key and how often the key was written. A reader never finds less than what it knows was written
/// before, unless the key was evicted.
#[test]
fn threads_find_no_old_value() {
    const KEYS: usize = 64;
    for max_bytes in [256 << 20, 6 << 20] {
        let cache = small().max_bytes(max_bytes).build().unwrap();
        let written: Vec<AtomicU64> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (cache, written, stop) = (&cache, &written, &stop);
            let writers: Vec<_> = (0..2_usize)
                .map(|writer| {
                    scope.spawn(move || {
                        let mut rng = Rng::new(writer as u64 + 7);
                        for n in 1..=if max_bytes > 8 << 20 { 6000 } else { 3000 } {
                            // Each key has one writer.
                            let key = rng.below(KEYS / 2) * 2 + writer;
                            let mut bytes = (key as u64).to_le_bytes().to_vec();
                            bytes.extend(u64::to_le_bytes(n));
                            let len = if rng.below(30) == 0 { 300_000 } else { rng.below(5000) };
                            (0..len / 8).for_each(|at| {
                                let word = if at % 3 == 0 { rng.next() } else { at as u64 };
                                bytes.extend(word.to_le_bytes());
                            });
                            cache.insert(key as u64, &bytes).unwrap();
                            written[key].store(n, SeqCst);
                            if rng.below(50) == 0 {
                                cache.compact().unwrap();
                            }
                        }
                    })
                })
                .collect();
            for reader in 0..2 {
                scope.spawn(move || {
                    let (mut rng, mut value) = (Rng::new(reader + 100), Vec::new());
                    while !stop.load(SeqCst) {
                        let key = rng.below(KEYS);
                        let least = written[key].load(SeqCst);
                        if cache.get_into(key as u64, &mut value).unwrap() {
                            let word = |at: usize| {
                                u64::from_le_bytes(value[at..at + 8].try_into().unwrap())
                            };
                            assert_eq!(word(0), key as u64);
                            assert!(word(8) >= least, "key {key}: {} after {least}", word(8));
                        } else if max_bytes > 8 << 20 {
                            assert_eq!(least, 0, "key {key} is lost");
                        }
                    }
                });
            }
            for writer in writers {
                writer.join().unwrap();
            }
            stop.store(true, SeqCst);
        });
        let stats = cache.stats();
        assert!(stats.memory_bytes <= stats.max_bytes + UNCOUNTED, "{stats:?}");
    }
}

#[test]
fn replace_if_loses_no_increment() {
    let cache = small().max_bytes(64 << 20).build().unwrap();
    let number = |bytes: &[u8]| bytes.iter().map(|&byte| u64::from(byte)).sum::<u64>();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..300 {
                    // The value is a list of ones, as long as the number.
                    loop {
                        let old = cache.get("counter").unwrap();
                        let new = vec![1; old.as_ref().map_or(0, Vec::len) + 1];
                        if cache.replace_if("counter", &new, |now| now == old.as_deref()).unwrap() {
                            break;
                        }
                    }
                }
            });
        }
    });
    assert_eq!(number(&cache.get("counter").unwrap().unwrap()), 900);
}

#[test]
fn values_at_the_borders_of_forms() {
    let cache = small().max_bytes(64 << 20).build().unwrap();
    let mut rng = Rng::new(5);
    let noise: Vec<u8> = (0..600_000).map(|_| rng.next() as u8).collect();
    let frame = 256 << 10;
    let borders = [0_usize, 1, 4096, 16_384, 65_536, frame, 2 * frame];
    for len in borders.into_iter().flat_map(|n| n.saturating_sub(20)..=n + 20) {
        for content in [&noise[..len.min(noise.len())], &vec![7; len]] {
            cache.insert(len as u64, content).unwrap();
            assert!(cache.get(len as u64).unwrap().as_deref() == Some(content), "{len}");
        }
    }
}

#[test]
#[cfg(feature = "zstd")]
fn lengths_that_are_too_long_are_refused() {
    let cache = small().max_bytes(8 << 20).build().unwrap();
    let key = vec![1; 4097];
    for call in [cache.insert(&key, b""), cache.insert_or_keep(&key, b"")] {
        assert_eq!(call, Err(CacheError::KeyTooLong { len: 4097, max: 4096 }));
    }
    assert_eq!(cache.get(&key), Ok(None));
    cache.insert(&key[1..], b"the longest key").unwrap();
    let zeros = vec![0; (256 << 20) + 1];
    let refused = cache.insert(1, &zeros).unwrap_err();
    assert_eq!(refused, CacheError::ValueTooLong { len: zeros.len(), max: 256 << 20 });
    // The longest value is mostly zeros, and takes little.
    cache.insert(1, &zeros[1..]).unwrap();
    assert!(cache.get(1).unwrap().unwrap() == zeros[1..]);
    assert!(cache.stats().memory_bytes < 8 << 20);
}

#[test]
fn a_value_that_takes_too_much_of_the_budget_is_refused_and_the_cache_goes_on() {
    let cache = small().max_bytes(8 << 20).build().unwrap();
    let mut rng = Rng::new(5);
    let noise: Vec<u8> = (0..5 << 20).map(|_| rng.next() as u8).collect();
    for _ in 0..3 {
        for key in 0..2000_u64 {
            cache.insert(key, &noise[key as usize..key as usize + 100]).unwrap();
        }
        assert_eq!(cache.insert(1, &noise), Err(CacheError::TooLarge { max: 4 << 20 }));
        assert_eq!(cache.get(1), Ok(None), "the old value is dropped");
        assert!(cache.insert_or_keep(5, &noise).is_err());
        assert!(cache.insert(6, &noise[..1 << 20]).is_ok());
        assert!(cache.get(6).unwrap().unwrap() == noise[..1 << 20]);
    }
}

#[test]
fn a_listener_may_use_the_cache_but_not_insert() {
    let slot: Arc<std::sync::OnceLock<std::sync::Weak<Cache>>> = Arc::default();
    let theirs = slot.clone();
    let refused = Arc::new(AtomicU64::new(0));
    let count = refused.clone();
    let cache = small().max_bytes(4 << 20).on_evict(move |key, value| {
        let Some(cache) = theirs.get().and_then(std::sync::Weak::upgrade) else { return };
        assert_eq!(cache.get(key), Ok(None), "it has left the cache");
        cache.remove(key).unwrap();
        assert_eq!(cache.insert(key, value), Err(CacheError::InListener));
        count.fetch_add(1, SeqCst);
        assert!(value.len() != 777, "a panic of a listener ends with it");
    });
    let cache = Arc::new(cache.build().unwrap());
    slot.set(Arc::downgrade(&cache)).unwrap();
    let mut rng = Rng::new(5);
    for key in 0..10_000_u64 {
        let noise: Vec<u8> = (0..700 + key % 100).map(|_| rng.next() as u8).collect();
        cache.insert(key, &noise).unwrap();
    }
    assert!(cache.stats().unseen > 0);
    let end = Instant::now() + Duration::from_secs(10);
    while refused.load(SeqCst) != cache.stats().evictions {
        assert!(Instant::now() < end, "{} of {:?}", refused.load(SeqCst), cache.stats());
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_listener_may_insert_into_another_cache_but_not_in_a_circle() {
    let slots: [Arc<std::sync::OnceLock<std::sync::Weak<Cache>>>; 2] = Default::default();
    let refused = Arc::new(AtomicU64::new(0));
    let caches = [0, 1].map(|own| {
        let (other, count) = (slots[1 - own].clone(), refused.clone());
        let builder = small().compressor("null").max_bytes(4 << 20);
        let cache = builder.on_evict(move |key, value| {
            let Some(cache) = other.get().and_then(std::sync::Weak::upgrade) else { return };
            match cache.insert(key, value) {
                Ok(()) => {}
                Err(CacheError::InListener) => _ = count.fetch_add(1, SeqCst),
                Err(other) => panic!("{other}"),
            }
        });
        Arc::new(cache.build().unwrap())
    });
    for (slot, cache) in slots.iter().zip(&caches) {
        slot.set(Arc::downgrade(cache)).unwrap();
    }
    let mut rng = Rng::new(5);
    for key in 0..10_000_u64 {
        let noise: Vec<u8> = (0..1000).map(|_| rng.next() as u8).collect();
        caches[0].insert(key, &noise).unwrap();
    }
    // zbud holds two objects in a page of 64 KiB, so these are not many.
    assert!(caches[1].len() > 10 && refused.load(SeqCst) > 0);
    assert!(caches.iter().all(|cache| cache.stats().unseen == 0));
}

#[test]
fn clear_ends_although_others_insert() {
    let cache = small().max_bytes(32 << 20).build().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..2_u64 {
            let (cache, stop) = (&cache, &stop);
            scope.spawn(move || {
                for n in 0.. {
                    if stop.load(SeqCst) {
                        break;
                    }
                    let long = n % 100 == 0;
                    let value = vec![n as u8; if long { 400_000 } else { 100 }];
                    cache.insert(n % 1000 * 2 + thread, &value).unwrap();
                }
            });
        }
        cache.insert("stays out", b"until the next").unwrap();
        for _ in 0..50 {
            cache.clear().unwrap();
            assert_eq!(cache.get("stays out"), Ok(None));
        }
        stop.store(true, SeqCst);
    });
    cache.clear().unwrap();
    let stats = cache.stats();
    assert_eq!((stats.entries, stats.value_bytes, stats.stored_bytes), (0, 0, 0));
}

#[test]
fn replace_if_asks_again_if_the_value_changed_meanwhile() {
    let cache = small().max_bytes(64 << 20).build().unwrap();
    let long = vec![3; 600_000];
    for (before, meanwhile) in [
        (None, Some(&b"short"[..])),
        (Some(&b"one"[..]), Some(&b"one"[..])),
        (Some(&b"one"[..]), None),
        (Some(&long[..]), Some(&long[..])),
        (Some(&b"one"[..]), Some(&long[..])),
    ] {
        cache.clear().unwrap();
        if let Some(before) = before {
            cache.insert("key", before).unwrap();
        }
        let mut shown = Vec::new();
        let replaced = cache.replace_if("key", b"new", |now| {
            shown.push(now.map(<[u8]>::to_vec));
            if shown.len() == 1 {
                // Another call in between, also one that leaves an equal value.
                match meanwhile {
                    Some(value) => cache.insert("key", value).unwrap(),
                    None => assert!(cache.remove("key").unwrap()),
                }
            }
            true
        });
        assert_eq!(replaced, Ok(true));
        let expected = [before, meanwhile].map(|value| value.map(<[u8]>::to_vec));
        assert!(shown == expected, "{} calls", shown.len());
        assert_eq!(cache.get("key").unwrap().as_deref(), Some(&b"new"[..]));
    }
}
