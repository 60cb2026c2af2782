//! What a page on a Redis server costs, as a multiple of what the same bytes cost with the client for Redis alone.
//!
//! Starts a server on loopback. The two sides take turns, in rounds of many loads each. Prints medians over the rounds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a program: what it prints is what it is for"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::sync::Arc;
use std::time::Instant;

use common::proxy::Proxy;
use common::redis_server::RedisServer;
use common::{Dice, entry, page};
use zpage::device::{MemorySwapDevice, SwapDevice};
use zswap_core::{PAGE_SIZE, Page, Promotion, SwapEntry, Zswap};
use zswap_remote::opendal::{Operator, services};
use zswap_remote::{Remote, RemoteSwapDevice};

const PAGES: u64 = 4000;
const BATCH: usize = 32;
const ROUNDS: usize = 15;
/// Loads of a side in a round.
const LOADS: usize = 400;

/// Builds a store with all of its pages on the service.
fn filled(remote: &Remote) -> (Zswap, Arc<RemoteSwapDevice>) {
    let device = Arc::new(remote.device(1 << 16).build().unwrap());
    let store = Zswap::builder().zpool("zsmalloc").compressor("lz4").encrypt(true);
    let store = store.promotion(Promotion::Never).swap_device(device.clone()).build().unwrap();
    for n in 0..PAGES {
        store.store(entry(n), &page(n)).unwrap();
    }
    assert_eq!(store.shrink(PAGES as usize).unwrap() as u64, PAGES);
    (store, device)
}

/// The client for Redis alone.
struct Alone {
    client: redis::Connection,
    keys: Vec<String>,
    bytes: usize,
    dice: Dice,
}

impl Alone {
    /// Adds a command that reads as many bytes as an object has, at a random place.
    fn command(&mut self) -> redis::Cmd {
        let key = &self.keys[self.dice.below(self.keys.len() as u64) as usize];
        let start = self.dice.below(30_000) as usize;
        let mut command = redis::cmd("GETRANGE");
        command.arg(key).arg(start).arg(start + self.bytes - 1);
        command
    }

    fn one(&mut self) {
        let found: Vec<u8> = self.command().query(&mut self.client).unwrap();
        assert_eq!(found.len(), self.bytes);
    }

    fn batch(&mut self) {
        let mut pipeline = redis::pipe();
        for _ in 0..BATCH {
            pipeline.add_command(self.command());
        }
        let found: Vec<Vec<u8>> = pipeline.query(&mut self.client).unwrap();
        assert_eq!(found.len(), BATCH);
    }
}

fn nanos(times: usize, mut call: impl FnMut()) -> f64 {
    let begun = Instant::now();
    (0..times).for_each(|_| call());
    begun.elapsed().as_nanos() as f64 / times as f64
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Prints the cost of `call` as a multiple of the cost of `alone`.
fn compare(what: &str, times: usize, mut call: impl FnMut(), mut alone: impl FnMut()) {
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let first = (round % 2 == 0).then(|| nanos(times, &mut call));
        let alone = nanos(times, &mut alone);
        let our = first.unwrap_or_else(|| nanos(times, &mut call));
        ours.push(our);
        theirs.push(alone);
        ratios.push(our / alone);
    }
    let (our, their) = (median(ours) / 1e3, median(theirs) / 1e3);
    println!("{what}: {:.2} ({our:.1} µs, and {their:.1} µs)", median(ratios));
}

fn load(store: &Zswap, n: u64) {
    let mut back: Page = [0; PAGE_SIZE];
    store.load(entry(n), &mut back).unwrap();
    assert_eq!(back[..8], n.to_le_bytes());
}

fn load_batch(store: &Zswap, numbers: impl Iterator<Item = u64>) {
    let entries: Vec<SwapEntry> = numbers.map(entry).collect();
    let mut pages = vec![[0; PAGE_SIZE]; entries.len()];
    for loaded in store.load_batch(&entries, &mut pages).unwrap() {
        loaded.unwrap();
    }
}

fn main() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let own = Remote::open(&server.url()).unwrap();
    let (store, device) = filled(&own);
    let live = store.stats().device_live_bytes;
    let bytes = (live / PAGES) as usize;
    let mut client = server.client().unwrap();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut client).unwrap();
    let mut alone = Alone { client, keys, bytes, dice: Dice(3) };
    let mut dice = Dice(7);

    compare(
        "one page, × one GETRANGE of its bytes",
        LOADS,
        || load(&store, dice.below(PAGES)),
        || alone.one(),
    );
    let mut buffer = vec![0; bytes];
    let memory = Remote::open("memory://").unwrap().device(1 << 16).build().unwrap();
    (0..20).for_each(|segment| memory.write_segment(segment, &[7; 65536]).unwrap());
    compare(
        "one read of a device in memory (threads and layers without a server), × one GETRANGE",
        LOADS,
        || memory.read(dice.below(20), 4096, &mut buffer).unwrap(),
        || alone.one(),
    );
    compare(
        "one read of the device, × the same",
        LOADS,
        || device.read(dice.below(20), 4096, &mut buffer).unwrap(),
        || alone.one(),
    );
    compare(
        "32 neighbours in a batch, × a pipeline of 32",
        LOADS / BATCH,
        || {
            let first = dice.below(PAGES - BATCH as u64);
            load_batch(&store, first..first + BATCH as u64);
        },
        || alone.batch(),
    );
    let local = Arc::new(MemorySwapDevice::new(1 << 16));
    let local =
        Zswap::builder().zpool("zsmalloc").compressor("lz4").encrypt(true).swap_device(local);
    let local = local.promotion(Promotion::Never).build().unwrap();
    (0..PAGES).for_each(|n| local.store(entry(n), &page(n)).unwrap());
    local.shrink(PAGES as usize).unwrap();
    compare(
        "the same neighbours from MemorySwapDevice (checking, decrypting, decompressing), × a pipeline of 32",
        LOADS / BATCH,
        || {
            let first = dice.below(PAGES - BATCH as u64);
            load_batch(&local, first..first + BATCH as u64);
        },
        || alone.batch(),
    );
    compare(
        "32 random pages in a batch, × a pipeline of 32",
        LOADS / BATCH,
        || {
            load_batch(
                &store,
                (0..BATCH).map(|_| dice.below(PAGES)).collect::<Vec<_>>().into_iter(),
            )
        },
        || alone.batch(),
    );
    let stock = services::Redis::default().endpoint(&format!("redis://{}", server.address()));
    let (stock, _device) = filled(&Remote::new(Operator::new(stock).unwrap()));
    compare(
        "one page, OpenDAL's service for Redis, × one GETRANGE",
        LOADS,
        || load(&stock, dice.below(PAGES)),
        || alone.one(),
    );

    let proxy = Proxy::to(server.address());
    let (store, _device) =
        filled(&Remote::open(&format!("redis://{}/0", proxy.address())).unwrap());
    let before = (proxy.bytes(), store.stats().device_bytes_read);
    (0..PAGES).for_each(|n| load(&store, n));
    let after = (proxy.bytes(), store.stats().device_bytes_read);
    let objects = (after.1 - before.1) as f64;
    let received = (after.0.1 - before.0.1) as f64;
    let sent = (after.0.0 - before.0.0) as f64;
    println!(
        "bytes from the server for each byte of the objects read: {:.3}; both directions: {:.3} ({:.0} bytes \
         an object, {:.0} of them to check and decrypt it)",
        received / objects,
        (received + sent) / objects,
        objects / PAGES as f64,
        28
    );
}
