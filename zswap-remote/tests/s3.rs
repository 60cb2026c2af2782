//! A store on an S3 server that is killed, restarted, slowed and cut off while threads use it.
#![cfg(feature = "s3")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure is the test's own message"
)]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use common::proxy::{Mode, Proxy};
use common::s3_server::{BUCKET, S3Server};
use common::workload::{self, Allowed, busy};
use common::{eventually, store};
use opendal_http_transport_reqwest::ReqwestTransport;
use zpage::device::{DeviceError, SwapDevice};
use zswap_core::Zswap;
use zswap_remote::opendal::{HttpTransporter, Operator, services};
use zswap_remote::{Remote, RemoteBuilder, RemoteSwapDevice};

const LIMIT: Duration = Duration::from_secs(30);
const SECRET: &str = "correct-horse-battery";
const POOL_PAGES: usize = 150;
const THREADS: u64 = 2;

/// Returns the bucket on a server, or behind a proxy.
fn bucket(at: SocketAddr, key: &str) -> Remote {
    let service = services::S3::default()
        .bucket(BUCKET)
        .root("some/prefix")
        .endpoint(&format!("http://{at}"))
        .region("us-east-1")
        .access_key_id("anybody")
        .secret_access_key(key)
        .disable_config_load();
    let operator = Operator::new(service).unwrap();
    let transport = HttpTransporter::new(ReqwestTransport::new(reqwest::Client::new()));
    let context = operator.context().with_http_transport(transport);
    Remote::new(operator.with_context(context))
}

fn device(
    remote: &Remote,
    set: impl FnOnce(RemoteBuilder) -> RemoteBuilder,
) -> Arc<RemoteSwapDevice> {
    Arc::new(set(remote.device(1 << 14)).build().unwrap())
}

/// Shorter times than usual, but long for this server, which is slow.
fn quick(builder: RemoteBuilder) -> RemoteBuilder {
    builder
        .attempt_timeout(Duration::from_millis(700))
        .deadline(Duration::from_millis(1500))
        .longest_pause(Duration::from_millis(320))
}

fn writes_again(store: &Zswap, device: &RemoteSwapDevice) {
    let before = device.stats().writes;
    eventually("the store writes again", || {
        let _ = store.shrink(1);
        device.stats().writes > before
    });
}

#[test]
fn all_pages_come_back_and_a_dropped_device_leaves_nothing() {
    let Some(server) = S3Server::start() else { return };
    let proxy = Proxy::to(server.address());
    let remote = bucket(proxy.address(), SECRET);
    let device = device(&remote, |builder| builder);
    let store = store(device.clone(), POOL_PAGES);
    let counts = workload::run(&store, THREADS, &Allowed::default(), |counts| busy(counts, 800));
    let (stats, figures) = (device.stats(), store.stats());
    assert!(figures.device_loads > 50, "{counts:?} {figures}");
    let failures = (stats.write_failures, stats.read_failures, stats.missing_reads);
    assert_eq!((failures, &stats.last_error), ((0, 0, 0), &None));
    assert_eq!(remote.stores(LIMIT).unwrap(), [device.name()]);
    drop(store);
    drop(device);
    assert_eq!(remote.stores(LIMIT).unwrap(), []);
}

#[test]
fn a_read_takes_the_bytes_of_its_range_over_the_wire_only() {
    let Some(server) = S3Server::start() else { return };
    let proxy = Proxy::to(server.address());
    let device = device(&bucket(proxy.address(), SECRET), |builder| builder);
    device.write_segment(0, &[7; 65536]).unwrap();
    let before = proxy.bytes().1;
    let mut back = [0; 1600];
    for _ in 0..10 {
        device.read(0, 30_000, &mut back).unwrap();
        assert_eq!(back, [7; 1600]);
    }
    // The rest is headers.
    let bytes = (proxy.bytes().1 - before) / 10;
    assert!((1600..3200).contains(&bytes), "{bytes}");
}

#[test]
fn a_server_that_restarts_empty_has_lost_its_pages_and_takes_new_ones() {
    let Some(mut server) = S3Server::start() else { return };
    let device = device(&bucket(server.address(), SECRET), quick);
    let store = store(device.clone(), POOL_PAGES);
    let allowed = Allowed::default();
    let counts = workload::run(&store, THREADS, &allowed, |counts| {
        busy(counts, 800);
        allowed.outage.store(true, SeqCst);
        server.kill();
        std::thread::sleep(Duration::from_millis(500));
        allowed.losses.store(1, SeqCst);
        server.restart();
        writes_again(&store, &device);
        std::thread::sleep(Duration::from_millis(1600));
        allowed.outage.store(false, SeqCst);
        busy(counts, 800);
    });
    assert!(counts.lost.load(SeqCst) > 0, "{counts:?}");
    assert!(store.stats().device_pages > 0);
}

#[test]
fn connections_that_are_cut_lose_no_page() {
    let Some(server) = S3Server::start() else { return };
    let proxy = Proxy::to(server.address());
    let device = device(&bucket(proxy.address(), SECRET), quick);
    let store = store(device.clone(), POOL_PAGES);
    let allowed = Allowed::default();
    workload::run(&store, THREADS, &allowed, |counts| {
        for _ in 0..3 {
            busy(counts, 300);
            allowed.outage.store(true, SeqCst);
            proxy.set(Mode::Cut);
            std::thread::sleep(Duration::from_millis(200));
            proxy.set(Mode::Pass);
            writes_again(&store, &device);
            std::thread::sleep(Duration::from_millis(1600));
            allowed.outage.store(false, SeqCst);
        }
    });
    assert_eq!(device.stats().missing_reads, 0);
}

#[test]
fn a_slow_server_is_only_slow() {
    let Some(server) = S3Server::start() else { return };
    let proxy = Proxy::to(server.address());
    proxy.set_delay(Duration::from_millis(20));
    let device = device(&bucket(proxy.address(), SECRET), |builder| builder);
    let store = store(device.clone(), POOL_PAGES);
    workload::run(&store, THREADS, &Allowed::default(), |counts| busy(counts, 400));
    let stats = device.stats();
    assert_eq!((stats.failed_attempts, stats.read_failures, stats.missing_reads), (0, 0, 0));
}

#[test]
fn what_a_killed_process_left_is_purged() {
    let Some(server) = S3Server::start() else { return };
    let remote = bucket(server.address(), SECRET);
    let (killed, other) = (device(&remote, |builder| builder), device(&remote, |builder| builder));
    for segment in 0..50 {
        killed.write_segment(segment, &[1; 100]).unwrap();
    }
    other.write_segment(0, &[2; 100]).unwrap();
    let name = killed.name();
    std::mem::forget(killed);
    assert_eq!(remote.purge(name, LIMIT).unwrap(), 50);
    assert_eq!(remote.stores(LIMIT).unwrap(), [other.name()]);
    other.read(0, 0, &mut [0; 100]).unwrap();
}

#[test]
fn no_error_shows_the_key() {
    let Some(server) = S3Server::start() else { return };
    let proxy = Proxy::to(server.address());
    let device = device(&bucket(proxy.address(), SECRET), |builder| quick(builder).retries(0));
    device.write_segment(0, &[1; 100]).unwrap();
    proxy.set(Mode::Cut);
    let written = device.write_segment(1, &[1; 100]);
    assert!(matches!(written, Err(DeviceError::Io { .. })), "{written:?}");
    let shown = format!("{written:?} {device:?} {:?}", device.stats());
    assert!(!shown.contains(SECRET) && !shown.contains("anybody"), "{shown}");
}
