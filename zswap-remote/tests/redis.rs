//! A store on a Redis server that is killed, restarted, stopped, slowed, cut off and filled while threads use it.
#![cfg(feature = "redis")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::exit,
    reason = "a failure is the test's own message"
)]

mod common;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use common::proxy::{Mode, Proxy};
use common::redis_server::RedisServer;
use common::workload::{self, Allowed, busy};
use common::{entry, eventually, page, store};
use zpage::device::{DeviceError, SwapDevice};
use zswap_core::{LoadError, PAGE_SIZE, Zswap};
use zswap_remote::{Remote, RemoteBuilder, RemoteSwapDevice};

const LIMIT: Duration = Duration::from_secs(20);
/// Pages that the pools of the stores hold, of the 1600 that four threads use.
const POOL_PAGES: usize = 150;
const THREADS: u64 = 4;

fn device(url: &str, set: impl FnOnce(RemoteBuilder) -> RemoteBuilder) -> Arc<RemoteSwapDevice> {
    Arc::new(set(Remote::open(url).unwrap().device(1 << 14)).build().unwrap())
}

/// Short times, so that a test of an outage does not take long.
fn quick(builder: RemoteBuilder) -> RemoteBuilder {
    builder
        .attempt_timeout(Duration::from_millis(200))
        .deadline(Duration::from_millis(500))
        .longest_pause(Duration::from_millis(320))
}

fn through(proxy: &Proxy) -> String {
    format!("redis://{}/0", proxy.address())
}

/// Waits until the store writes to its device again.
fn writes_again(store: &Zswap, device: &RemoteSwapDevice) {
    let before = device.stats().writes;
    eventually("the store writes again", || {
        let _ = store.shrink(1);
        device.stats().writes > before
    });
}

#[test]
fn all_pages_come_back_and_nothing_plain_is_on_the_server() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let device = device(&server.url(), |builder| builder);
    let store = store(device.clone(), POOL_PAGES);
    let counts = workload::run(&store, THREADS, &Allowed::default(), |counts| busy(counts, 5000));
    assert!(store.stats().device_loads > 100, "{counts:?} {}", store.stats());
    let stats = device.stats();
    let failures = (stats.write_failures, stats.read_failures, stats.missing_reads);
    assert_eq!((failures, stats.last_error), ((0, 0, 0), None));

    let mut client = server.client().unwrap();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut client).unwrap();
    assert!(keys.iter().all(|key| key.starts_with(&device.name().to_string())), "{keys:?}");
    for n in 0..100 {
        store.store(entry(1 << 30 | n), &page(n)).unwrap();
    }
    store.shrink(100_000).unwrap();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut client).unwrap();
    for key in &keys {
        let value: Vec<u8> = redis::cmd("GET").arg(key).query(&mut client).unwrap();
        for n in 0..100 {
            let plain = &page(n)[8..24];
            assert!(!value.windows(16).any(|bytes| bytes == plain), "page {n} is readable");
        }
    }
    assert!(!keys.is_empty());
    drop(store);
    drop(device);
    assert_eq!(server.number(&["DBSIZE"]), 0);
}

#[test]
fn a_server_that_restarts_empty_has_lost_its_pages_and_takes_new_ones() {
    let Some(mut server) = RedisServer::start(&[]) else { return };
    let device = device(&server.url(), quick);
    let store = store(device.clone(), POOL_PAGES);
    let allowed = Allowed::default();
    let counts = workload::run(&store, THREADS, &allowed, |counts| {
        busy(counts, 3000);
        allowed.outage.store(true, SeqCst);
        server.kill();
        std::thread::sleep(Duration::from_millis(700));
        // Counted while the server is gone, so that no page that is stored afterwards was lost.
        allowed.losses.store(1, SeqCst);
        server.restart();
        writes_again(&store, &device);
        // The threads may still be in a call that began in the outage.
        std::thread::sleep(Duration::from_millis(600));
        allowed.outage.store(false, SeqCst);
        busy(counts, 3000);
    });
    assert!(counts.lost.load(SeqCst) > 0, "{counts:?}");
    assert!(device.stats().missing_reads >= counts.lost.load(SeqCst), "{:?}", device.stats());
    // Pages that were stored after the restart are on the device, and were checked.
    assert!(store.stats().device_pages > 0);
}

#[test]
fn a_server_that_restarts_with_its_data_has_all_pages() {
    let arguments = ["--appendonly", "yes", "--appendfsync", "always"];
    let Some(mut server) = RedisServer::start(&arguments) else { return };
    let device = device(&server.url(), quick);
    let store = store(device.clone(), POOL_PAGES);
    let allowed = Allowed::default();
    let counts = workload::run(&store, THREADS, &allowed, |counts| {
        for _ in 0..2 {
            busy(counts, 2000);
            allowed.outage.store(true, SeqCst);
            server.kill();
            std::thread::sleep(Duration::from_millis(300));
            server.restart();
            writes_again(&store, &device);
            std::thread::sleep(Duration::from_millis(600));
            allowed.outage.store(false, SeqCst);
        }
        busy(counts, 1000);
    });
    assert_eq!((counts.lost.load(SeqCst), device.stats().missing_reads), (0, 0));
    assert!(counts.failed_loads.load(SeqCst) + counts.refused.load(SeqCst) > 0, "{counts:?}");
}

#[test]
fn connections_that_are_cut_lose_no_page() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let proxy = Proxy::to(server.address());
    let device = device(&through(&proxy), quick);
    let store = store(device.clone(), POOL_PAGES);
    let allowed = Allowed::default();
    workload::run(&store, THREADS, &allowed, |counts| {
        for _ in 0..5 {
            busy(counts, 500);
            allowed.outage.store(true, SeqCst);
            proxy.set(Mode::Cut);
            std::thread::sleep(Duration::from_millis(100));
            proxy.set(Mode::Pass);
            writes_again(&store, &device);
            std::thread::sleep(Duration::from_millis(600));
            allowed.outage.store(false, SeqCst);
        }
    });
    assert!(proxy.connections() >= 6, "{}", proxy.connections());
    assert_eq!(device.stats().missing_reads, 0);
}

#[test]
fn a_slow_server_is_only_slow() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let proxy = Proxy::to(server.address());
    proxy.set_delay(Duration::from_millis(5));
    let device = device(&through(&proxy), |builder| builder);
    let store = store(device.clone(), POOL_PAGES);
    workload::run(&store, THREADS, &Allowed::default(), |counts| busy(counts, 1000));
    let stats = device.stats();
    assert_eq!((stats.failed_attempts, stats.read_failures, stats.missing_reads), (0, 0, 0));
}

#[test]
fn a_server_that_stops_answering_does_not_stall_a_store_that_has_room() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let device = device(&server.url(), |builder| {
        quick(builder).deadline(Duration::from_secs(2)).longest_pause(Duration::from_secs(8))
    });
    // Room for all pages.
    let store = store(device.clone(), 4000);
    for n in 0..500 {
        store.store(entry(n), &page(n)).unwrap();
    }
    assert!(store.shrink(200).unwrap() >= 200);
    server.signal("-STOP");
    let shrinking = std::thread::scope(|scope| {
        let shrinker = scope.spawn(|| store.shrink(100));
        let begun = Instant::now();
        let mut slowest = Duration::ZERO;
        while !shrinker.is_finished() {
            for n in 1000..1100 {
                let begun = Instant::now();
                store.store(entry(n), &page(n)).unwrap();
                let mut back = [0; PAGE_SIZE];
                store.load(entry(n), &mut back).unwrap();
                assert!(back == page(n));
                // Gives up pages on the device, too: a discard must not wait.
                store.invalidate(entry(n % 100));
                slowest = slowest.max(begun.elapsed());
            }
            assert!(begun.elapsed() < LIMIT);
        }
        assert!(slowest < Duration::from_millis(400), "a call took {slowest:?}");
        shrinker.join().unwrap()
    });
    assert!(shrinking.is_err());
    // Reads have a deadline, and are tried although writes pause.
    let on_device = (100..500).find(|n| {
        let begun = Instant::now();
        let loaded = store.load(entry(*n), &mut [0; PAGE_SIZE]);
        assert!(begun.elapsed() < Duration::from_secs(4));
        loaded.is_err_and(|error| workload::is_outage(&error))
    });
    assert!(on_device.is_some());
    server.signal("-CONT");
    writes_again(&store, &device);
    let mut back = [0; PAGE_SIZE];
    for n in 100..500 {
        store.load(entry(n), &mut back).unwrap();
        assert!(back == page(n), "{n}");
    }
    assert_eq!(device.stats().missing_reads, 0);
}

#[test]
fn a_store_at_its_limit_waits_no_longer_than_the_deadline_and_then_refuses_at_once() {
    let Some(mut server) = RedisServer::start(&[]) else { return };
    let device = device(&server.url(), |builder| quick(builder).longest_pause(LIMIT));
    let store = store(device.clone(), 100);
    for n in 0..300 {
        store.store(entry(n), &page(n)).unwrap();
    }
    server.kill();
    let (mut refused, mut slowest, begun) = (0, Duration::ZERO, Instant::now());
    for n in 1000..1400 {
        let begun = Instant::now();
        refused += u64::from(store.store(entry(n), &page(n)).is_err());
        slowest = slowest.max(begun.elapsed());
    }
    // Two failures in a row, and the calls that pass before the pauses are long.
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let stats = store.stats();
    assert!(refused > 300 && stats.reject_device_fail == refused, "{refused} {stats}");
    assert!(device.stats().paused_writes > 0, "{:?}", device.stats());
}

#[test]
fn a_full_server_keeps_pages_in_memory_and_is_used_again_when_it_has_room() {
    let Some(server) = RedisServer::start(&["--maxmemory-policy", "noeviction"]) else { return };
    let device = device(&server.url(), |builder| builder);
    let store = store(device.clone(), POOL_PAGES);
    let allowed = Allowed::default();
    let counts = workload::run(&store, THREADS, &allowed, |counts| {
        busy(counts, 2000);
        // Refused because of the device, but no load may fail: a full server still answers.
        allowed.outage.store(true, SeqCst);
        server.run(&["CONFIG", "SET", "maxmemory", "1mb"]);
        eventually("stores are refused", || counts.refused.load(SeqCst) > 100);
        assert!(device.stats().last_error.unwrap().contains("OOM"));
        server.run(&["CONFIG", "SET", "maxmemory", "0"]);
        writes_again(&store, &device);
        std::thread::sleep(Duration::from_millis(300));
        allowed.outage.store(false, SeqCst);
        busy(counts, 1000);
    });
    assert_eq!((counts.failed_loads.load(SeqCst), counts.lost.load(SeqCst)), (0, 0));
    let full = device.write_segment(1 << 9, &[1; 100]);
    assert_eq!(full, Ok(()));
    server.run(&["CONFIG", "SET", "maxmemory", "1mb"]);
    match device.write_segment(1 << 9, &[1; 100]) {
        Err(DeviceError::Io { kind: std::io::ErrorKind::StorageFull, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_write_that_arrives_after_its_time_out_changes_nothing() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let proxy = Proxy::to(server.address());
    let device = device(&through(&proxy), |builder| {
        quick(builder).retries(0).late_writes(Duration::from_millis(1500))
    });
    device.write_segment(7, &[1; 1000]).unwrap();
    device.discard(7);
    eventually("it is deleted", || server.number(&["DBSIZE"]) == 0);
    proxy.set(Mode::Hold);
    let late = device.write_segment(7, &[2; 1000]);
    let Err(DeviceError::Io { operation: "write", segment: 7, kind, .. }) = late else {
        panic!("{late:?}")
    };
    assert_eq!(kind, std::io::ErrorKind::TimedOut);
    let mut back = [0; 1000];
    assert_eq!(device.read(7, 0, &mut back), Err(DeviceError::Missing { segment: 7 }));
    // The old write and its delete arrive now, in some order, together with the new write.
    proxy.set(Mode::Pass);
    eventually("the new write succeeds", || device.write_segment(7, &[3; 1000]).is_ok());
    for _ in 0..100 {
        device.read(7, 0, &mut back).unwrap();
        assert_eq!(back, [3; 1000]);
        std::thread::sleep(Duration::from_millis(5));
    }
    eventually("only the new one is left", || {
        device.stats().waiting_deletes == 0 && server.number(&["DBSIZE"]) == 1
    });
    device.read(7, 0, &mut back).unwrap();
    assert_eq!(back, [3; 1000]);
}

#[test]
fn deletes_that_fail_are_sent_again_and_counted() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let proxy = Proxy::to(server.address());
    let device = device(&through(&proxy), |builder| quick(builder).most_deletes(30));
    for segment in 0..50 {
        device.write_segment(segment, &[7; 100]).unwrap();
    }
    proxy.set(Mode::Cut);
    std::thread::sleep(Duration::from_millis(100));
    (0..40).for_each(|segment| device.discard(segment));
    // 40 objects, of which 30 may wait. Each of the others is in a request that fails.
    eventually("some are forgotten", || device.stats().forgotten_deletes > 0);
    eventually("a delete fails", || device.stats().delete_failures > 0);
    let stats = device.stats();
    assert!(stats.waiting_deletes <= 30, "{stats:?}");
    assert!(device.memory_bytes() < 20_000);
    proxy.set(Mode::Pass);
    eventually("what waited is deleted", || device.stats().waiting_deletes == 0);
    eventually("all is counted", || {
        let stats = device.stats();
        stats.deletes + stats.forgotten_deletes >= 40
            && server.number(&["DBSIZE"]) == 10 + stats.forgotten_deletes
    });
    // The forgotten ones are found by their names.
    drop(device);
    assert_eq!(server.number(&["DBSIZE"]), 0);
}

#[test]
fn what_a_killed_process_left_is_found_and_purged_and_nothing_else() {
    let Some(server) = RedisServer::start(&[]) else { return };
    server.run(&["SET", "mine", "1"]);
    server.run(&["SET", "zswap-", "2"]);
    let remote = Remote::open(&format!("{}/a*b", server.url())).unwrap();
    let elsewhere = Remote::open(&format!("{}/aXb", server.url())).unwrap();
    let other = elsewhere.device(1 << 14).build().unwrap();
    other.write_segment(0, &[1; 100]).unwrap();
    let killed = remote.device(1 << 14).build().unwrap();
    for segment in 0..1024 {
        killed.write_segment(segment, &[1; 100]).unwrap();
    }
    let name = killed.name();
    std::mem::forget(killed);
    assert_eq!(remote.stores(LIMIT).unwrap(), [name]);
    assert_eq!(elsewhere.stores(LIMIT).unwrap(), [other.name()]);
    assert_eq!(server.number(&["DBSIZE"]), 2 + 1 + 1024);
    assert_eq!(remote.purge(name, LIMIT).unwrap(), 1024);
    assert_eq!(server.number(&["DBSIZE"]), 2 + 1);
    other.read(0, 0, &mut [0; 100]).unwrap();
}

#[test]
fn a_device_that_is_dropped_while_the_server_is_gone_ends_in_time() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let device = device(&server.url(), |b| quick(b).drop_deadline(Duration::from_millis(600)));
    device.write_segment(0, &[7; 100]).unwrap();
    server.signal("-STOP");
    let begun = Instant::now();
    drop(device);
    let took = begun.elapsed();
    assert!((Duration::from_millis(500)..Duration::from_secs(3)).contains(&took), "{took:?}");
    server.signal("-CONT");
}

#[test]
fn two_devices_on_one_server_do_not_meet() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let remote = Remote::open(&server.url()).unwrap();
    let one = Arc::new(remote.device(1 << 14).build().unwrap());
    let other = Arc::new(remote.device(1 << 14).build().unwrap());
    for segment in 0..100 {
        one.write_segment(segment, &[1; 100]).unwrap();
        other.write_segment(segment, &[2; 100]).unwrap();
    }
    drop(one);
    for segment in 0..100 {
        let mut back = [0; 100];
        other.read(segment, 0, &mut back).unwrap();
        assert_eq!(back, [2; 100]);
    }
    assert_eq!(server.number(&["DBSIZE"]), 100);
}

/// Says in which child process the test below runs.
const CHILD: &str = "ZSWAP_REMOTE_CHILD";

#[test]
fn a_password_comes_from_the_environment_and_appears_nowhere() {
    const SECRET: &str = "correct-horse-battery";
    if let Ok(url) = std::env::var(CHILD) {
        // The child: standard output is what the parent searches for the secret.
        let device = Remote::open(&url).unwrap().device(1 << 14).retries(0).build().unwrap();
        let written = device.write_segment(0, &[1; 100]);
        eprintln!("{written:?} {device:?} {:?} {:?}", device.stats(), Remote::open(&url));
        std::process::exit(if written.is_ok() { 0 } else { 7 });
    }
    let Some(server) = RedisServer::start(&["--requirepass", SECRET]) else { return };
    let child = |password: Option<&str>| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "a_password_comes_from_the_environment_and_appears_nowhere"]);
        command.arg("--nocapture").env(CHILD, server.url()).env_remove("ZSWAP_REDIS_PASSWORD");
        if let Some(password) = password {
            command.env("ZSWAP_REDIS_PASSWORD", password);
        }
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        (output.status.code(), text.concat())
    };
    let (code, text) = child(Some(SECRET));
    assert!(code == Some(0) && !text.contains(SECRET), "{text}");
    let (code, text) = child(Some("wrong-horse"));
    assert_eq!(code, Some(7), "{text}");
    assert!(text.contains("PermissionDenied") && !text.contains("wrong-horse"), "{text}");
    let (code, text) = child(None);
    assert!(code == Some(7) && text.contains("NOAUTH"), "{text}");
}

#[test]
fn a_load_of_what_the_server_lost_says_so() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let device = device(&server.url(), |builder| builder);
    let store = store(device, POOL_PAGES);
    store.store(entry(1), &page(1)).unwrap();
    assert_eq!(store.shrink(1).unwrap(), 1);
    server.run(&["FLUSHALL"]);
    let error = store.load(entry(1), &mut [0; PAGE_SIZE]).unwrap_err();
    let LoadError::Device { source: DeviceError::Missing { .. }, .. } = error else {
        panic!("{error:?}")
    };
}
