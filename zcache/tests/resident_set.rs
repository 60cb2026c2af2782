//! The budget holds by the resident set of the process. Memory of removed entries goes back without a call.
//!
//! Each test is a process of its own: they measure the whole process.
#![cfg(all(target_os = "linux", not(miri)))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

use std::process::Command;
use std::time::{Duration, Instant};

use zpool_base::sync::test_rng::Rng;
use zswap_cache::Cache;

const MIB: usize = 1 << 20;

/// The bytes by which the pool's descriptors may have grown since an insert counted them: every 8192nd does.
const UNCOUNTED: usize = 128 << 10;

/// Returns the bytes of this process that are resident.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Runs the test of this name in a process of its own, once: the child runs `test`.
fn alone(name: &str, test: impl FnOnce()) {
    const CHILD: &str = "ZSWAP_CACHE_TEST";
    if std::env::var(CHILD).is_ok_and(|of| of == name) {
        return test();
    }
    let this = std::env::current_exe().unwrap();
    let run = Command::new(this)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(CHILD, name)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}");
    assert!(said.contains("1 passed"), "the child did not run {name}: {said}");
}

/// Makes JSON of about `len` bytes.
fn json(rng: &mut Rng, len: usize, into: &mut Vec<u8>) {
    use std::io::Write;
    into.clear();
    while into.len() < len {
        let (id, score) = (rng.below(1_000_000), rng.below(10_000));
        let name = ["Ada", "Grace", "Barbara", "Frances", "Radia"][rng.below(5)];
        write!(
            into,
            "{{\"id\":{id},\"name\":\"{name}\",\"score\":{score},\"tags\":[\"a\",\"b\"]}},"
        )
        .unwrap();
    }
}

/// Fills a cache with many times its budget, on several threads, and reads the resident set all the time.
fn budget_holds(
    max_mib: usize,
    threads: usize,
    len: impl Fn(&mut Rng) -> usize + Sync,
    most_over: usize,
) {
    // What the first use of an allocator, of thread-locals and of the standard output takes is no part of the cache.
    let (mut rng, mut value) = (Rng::new(1), Vec::with_capacity(2 * MIB));
    value.resize(2 * MIB, 1);
    json(&mut rng, 100, &mut value);
    let before = resident();
    let cache = Cache::builder().max_bytes(max_mib * MIB).build().unwrap();
    let (mut most, len) = (0, &len);
    std::thread::scope(|scope| {
        let cache = &cache;
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    let (mut rng, mut value) = (Rng::new(thread as u64), Vec::new());
                    let (mut read, mut inserted) = (Vec::new(), 0);
                    while inserted < 12 * max_mib * MIB / threads {
                        let key = rng.next() % 400_000;
                        let len = len(&mut rng);
                        json(&mut rng, len, &mut value);
                        inserted += value.len();
                        cache.insert(key, &value).unwrap();
                        cache.get_into(rng.next() % 400_000, &mut read).unwrap();
                    }
                    // The buffers of the test itself.
                    value.capacity() + read.capacity()
                })
            })
            .collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            most = most.max(resident() - before);
            std::thread::sleep(Duration::from_millis(2));
        }
        for worker in workers {
            worker.join().unwrap();
        }
    });
    let stats = cache.stats();
    assert!(
        stats.evictions > 1000 && stats.memory_bytes <= stats.max_bytes + UNCOUNTED,
        "{stats:?}"
    );
    let over = most as isize - (max_mib * MIB) as isize;
    assert!(over < most_over as isize, "{over} bytes over {max_mib} MiB; {stats:?}");
    // It is used up, too.
    assert!(over > -((max_mib * MIB / 8) as isize), "{over}");
}

#[test]
fn the_budget_holds_for_short_values() {
    alone("the_budget_holds_for_short_values", || {
        // A thread's stack and its part of the system allocator: 0.2 MiB each.
        budget_holds(24, 2, |rng| 100 + rng.below(1500), MIB + 2 * MIB / 5);
    });
}

#[test]
fn the_budget_holds_for_values_of_all_lengths() {
    alone("the_budget_holds_for_values_of_all_lengths", || {
        let len = |rng: &mut Rng| match rng.below(100) {
            0 => rng.below(900_000),
            1..10 => rng.below(60_000),
            _ => rng.below(3000),
        };
        // Each thread has two buffers of the test of up to 900,000 bytes, and one of 256 KiB of a call.
        budget_holds(32, 2, len, MIB + 2 * (MIB / 5 + 2 * 900_000 + MIB / 4));
    });
}

#[test]
fn memory_of_removed_entries_goes_back_without_a_call() {
    alone("memory_of_removed_entries_goes_back_without_a_call", || {
        let (mut rng, mut value) = (Rng::new(1), Vec::new());
        json(&mut rng, 2000, &mut value);
        let before = resident();
        let cache = Cache::builder().max_bytes(64 * MIB).build().unwrap();
        let keys = 280_000_u64;
        for key in 0..keys {
            let len = 200 + rng.below(1000);
            json(&mut rng, len, &mut value);
            cache.insert(key, &value).unwrap();
        }
        let full = resident() - before;
        assert!(full > 40 * MIB, "{full}");
        for key in (0..keys).filter(|key| key % 4 != 0) {
            cache.remove(key).unwrap();
        }
        let entries = cache.len();
        // A quarter of everything; the contexts, what the system allocator keeps, and what else does not depend on the
        // entries; and the pool's slots, of which there are as many as there were entries at a time.
        let wanted = full / 4 + 5 * MIB + keys as usize * 8;
        let end = Instant::now() + Duration::from_secs(60);
        while resident() - before > wanted {
            let (now, stats) = (resident() - before, cache.stats());
            assert!(Instant::now() < end, "{now} bytes of {full}, {wanted} wanted; {stats:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(cache.len(), entries);
    });
}
