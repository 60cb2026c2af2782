//! Dictionaries: trained from the values, used while they pay, replaced when the values change.
#![cfg(not(miri))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

use std::time::{Duration, Instant};

use zpool_base::sync::test_rng::Rng;
use zswap_cache::{Cache, CacheStats};

fn cache(dictionaries: bool) -> Cache {
    let builder = Cache::builder().max_bytes(64 << 20).pause(Duration::from_millis(5));
    builder.dictionaries(dictionaries).build().unwrap()
}

/// A kind of short records.
type Record = fn(&mut Rng) -> Vec<u8>;

fn user(rng: &mut Rng) -> Vec<u8> {
    let (id, seen) = (rng.next() % 1_000_000, rng.below(100_000));
    let mail = format!("user{}@mail.example.org", rng.below(100_000));
    format!(
        "{{\"id\":{id},\"login\":\"user{id}\",\"mail\":\"{mail}\",\"created_at\":\"2024-03-{:02}T12:00:00Z\",\
         \"permissions\":[\"read\",\"comment\"],\"last_seen\":{seen},\"avatar_url\":\
         \"https://img.example.org/avatars/{id}.png\"}}",
        1 + rng.below(28)
    )
    .into_bytes()
}

fn order(rng: &mut Rng) -> Vec<u8> {
    let (number, price) = (rng.next() % 10_000_000, rng.below(90_000));
    format!(
        "<order number='{number}'><customer ref='C{}'/><line sku='{:08x}' quantity='{}' price='{price}'/>\
         <shipping method='standard' country='DE'/><status>delivered</status></order>",
        rng.below(100_000),
        rng.next() as u32,
        1 + rng.below(9)
    )
    .into_bytes()
}

fn noise(rng: &mut Rng) -> Vec<u8> {
    (0..300).map(|_| rng.next() as u8).collect()
}

/// Inserts records until the cache's figures are as wanted, for a minute at most.
fn insert_until(
    cache: &Cache,
    rng: &mut Rng,
    record: Record,
    wanted: impl Fn(&CacheStats) -> bool,
) -> CacheStats {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        for _ in 0..500 {
            let key = rng.next() % 60_000;
            let value = record(rng);
            cache.insert(key, &value).unwrap();
            if key % 50 == 0 {
                assert!(cache.get(key).unwrap() == Some(value));
            }
        }
        let stats = cache.stats();
        if wanted(&stats) {
            return stats;
        }
        assert!(Instant::now() < end, "{stats:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Returns the bytes of values for each byte of their objects.
fn ratio(cache: &Cache) -> f64 {
    let stats = cache.stats();
    stats.value_bytes as f64 / stats.stored_bytes as f64
}

/// Replaces all values by new ones.
fn replace_all(cache: &Cache, rng: &mut Rng, record: Record) {
    for key in 0..60_000_u64 {
        cache.insert(key, &record(rng)).unwrap();
    }
}

#[test]
fn a_dictionary_doubles_the_ratio_of_short_values() {
    let (with, without) = (cache(true), cache(false));
    let mut rng = Rng::new(1);
    insert_until(&with, &mut rng, user, |stats| stats.adopted > 0);
    replace_all(&with, &mut rng, user);
    replace_all(&without, &mut rng, user);
    assert!(ratio(&with) > 1.8 * ratio(&without), "{} and {}", ratio(&with), ratio(&without));
    assert_eq!((without.stats().dictionaries, without.stats().adopted), (0, 0));
}

#[test]
fn dictionaries_follow_the_values_and_go() {
    let cache = cache(true);
    let mut rng = Rng::new(2);
    insert_until(&cache, &mut rng, user, |stats| stats.adopted > 0);
    replace_all(&cache, &mut rng, user);
    let users = ratio(&cache);
    // Other values: another dictionary.
    let before = cache.stats().adopted;
    insert_until(&cache, &mut rng, order, |stats| stats.adopted > before);
    replace_all(&cache, &mut rng, order);
    assert!(ratio(&cache) > 2.0, "{} and {users}", ratio(&cache));
    // Values that do not compress: none, and the older ones go, although nobody replaces the last of their values.
    let before = cache.stats().rejected;
    insert_until(&cache, &mut rng, noise, |stats| stats.rejected > before + 1);
    let end = Instant::now() + Duration::from_secs(60);
    while cache.stats().dictionaries > 0 {
        insert_until(&cache, &mut rng, noise, |_| true);
        assert!(Instant::now() < end, "{:?}", cache.stats());
    }
    // All values are readable, whatever they were compressed with.
    let mut read = 0;
    cache.for_each(|_, value| read += usize::from(!value.is_empty())).unwrap();
    assert_eq!(read, cache.len());
    assert_eq!(cache.stats().failed, 0);
}

#[test]
fn values_of_an_old_dictionary_are_compressed_again() {
    let cache = cache(true);
    let mut rng = Rng::new(3);
    // Half of the keys have users, and are not touched afterwards.
    insert_until(&cache, &mut rng, user, |stats| stats.adopted > 0);
    let mut users = std::collections::HashMap::new();
    for key in 100_000..120_000_u64 {
        let value = user(&mut rng);
        cache.insert(key, &value).unwrap();
        users.insert(key, value);
    }
    let before = cache.stats().adopted;
    insert_until(&cache, &mut rng, order, |stats| stats.adopted > before);
    let end = Instant::now() + Duration::from_secs(60);
    while cache.stats().dictionaries > 1 {
        assert!(Instant::now() < end, "{:?}", cache.stats());
        std::thread::sleep(Duration::from_millis(5));
    }
    for (key, value) in users {
        assert!(cache.get(key).unwrap() == Some(value), "key {key}");
    }
}
