//! A hash map of JSON rows that is larger than the memory it takes.
//!
//! `cargo run --release -p zswap-region --features allocator --example huge_map`
//! puts 2048 MiB of rows into a region with a budget of 1024 MiB. `... --example huge_map -- 64 40` takes 64 and 40 MiB.
//!
//! The map's table and all rows live in the region. Rows that were not used lately are compressed, and come back when they
//! are looked up. The map itself is an ordinary `hashbrown::HashMap`; it only has another allocator.
#![allow(clippy::print_stdout, reason = "a program: what it prints is what it is for")]

use std::error::Error;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::io::Write;
use std::time::Instant;
use std::{env, fs};

use allocator_api2::boxed::Box as BoxIn;
use allocator_api2::vec::Vec as VecIn;
use zswap_region::{Region, RegionAllocator};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A row: text in the region. It has exactly the bytes that it needs.
type Row = BoxIn<[u8], RegionAllocator>;
type Map = hashbrown::HashMap<u64, Row, BuildHasherDefault<DefaultHasher>, RegionAllocator>;

const MIB: usize = 1 << 20;

const FIRST: [&str; 32] = [
    "Maria", "James", "Aisha", "Wei", "Olga", "Carlos", "Fatima", "Hiroshi", "Emma", "Noah",
    "Priya", "Ivan", "Chloe", "Mateo", "Zanele", "Lars", "Sofia", "Ahmed", "Yuki", "Anna", "Peter",
    "Leila", "Tomasz", "Grace", "Diego", "Ingrid", "Samuel", "Mei", "Nina", "Omar", "Ruth",
    "Viktor",
];
const LAST: [&str; 40] = [
    "Garcia",
    "Smith",
    "Khan",
    "Chen",
    "Ivanova",
    "Silva",
    "Haddad",
    "Tanaka",
    "Johnson",
    "Miller",
    "Patel",
    "Petrov",
    "Dubois",
    "Rossi",
    "Dlamini",
    "Hansen",
    "Moreau",
    "Hassan",
    "Sato",
    "Kowalska",
    "Novak",
    "Rahimi",
    "Nowak",
    "Okafor",
    "Lopez",
    "Berg",
    "Cohen",
    "Wang",
    "Fischer",
    "Aziz",
    "Walker",
    "Horvath",
    "Nguyen",
    "Kim",
    "Andersson",
    "Murphy",
    "Costa",
    "Popescu",
    "Yilmaz",
    "Jansen",
];
const MAIL: [&str; 6] = [
    "example.com",
    "example.org",
    "mail.example.net",
    "post.example.de",
    "corp.example",
    "example.edu",
];
const CITY: [&str; 16] = [
    "Lagos", "Oslo", "Lima", "Osaka", "Pune", "Leeds", "Porto", "Cairo", "Quito", "Turin",
    "Gdansk", "Dallas", "Perth", "Tunis", "Hanoi", "Graz",
];
const STREET: [&str; 12] = [
    "Station Road",
    "Main Street",
    "Rua Augusta",
    "Lindenallee",
    "Oak Avenue",
    "Rue Victor Hugo",
    "Calle Mayor",
    "Mill Lane",
    "Via Roma",
    "Church Street",
    "Hauptstrasse",
    "Park View",
];
const EVENT: [&str; 7] =
    ["login", "logout", "purchase", "page_view", "search", "export", "password_change"];
const TAGS: [&str; 20] = [
    "premium",
    "trial",
    "newsletter",
    "beta",
    "eu",
    "us",
    "apac",
    "mobile",
    "desktop",
    "api",
    "sso",
    "suspended",
    "invoice",
    "partner",
    "internal",
    "legacy",
    "gdpr",
    "churn-risk",
    "support",
    "vip",
];

/// Random numbers that are the same in each run (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }
}

/// Writes a time of the year 2026.
fn write_time(to: &mut Vec<u8>, random: &mut Random) -> Result<()> {
    let (month, day, hour) = (1 + random.below(12), 1 + random.below(28), random.below(24));
    let (minute, second, milli) = (random.below(60), random.below(60), random.below(1000));
    Ok(write!(to, "\"2026-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z\"")?)
}

/// Writes row `id`: always the same one.
fn write_row(to: &mut Vec<u8>, id: u64) -> Result<()> {
    to.clear();
    let random = &mut Random(id);
    let (first, last) = (random.of(&FIRST), random.of(&LAST));
    let (digits, mail) = (random.below(1000), random.of(&MAIL));
    write!(to, "{{\"id\":{id},\"name\":\"{first} {last}\",\"email\":\"")?;
    write!(to, "{}.{}{digits}@{mail}\"", first.to_lowercase(), last.to_lowercase())?;
    let (street, house, city) = (random.of(&STREET), 1 + random.below(180), random.of(&CITY));
    write!(to, ",\"address\":{{\"street\":\"{house} {street}\",\"city\":\"{city}\"")?;
    write!(to, ",\"zip\":\"{:05}\"}},\"created\":", random.below(99_999))?;
    write_time(to, random)?;
    write!(to, ",\"phone\":\"+49 {} {:07}\"", 30 + random.below(900), random.below(10_000_000))?;
    write!(to, ",\"language\":\"{}\"", random.of(&["en", "de", "fr", "es", "pt", "ja"]))?;
    write!(to, ",\"visits\":{}", random.below(5000))?;
    write!(to, ",\"balance\":{}.{:02}", random.below(900), random.below(100))?;
    write!(to, ",\"session\":\"{:016x}\",\"events\":[", random.next())?;
    for n in 0..3 + random.below(3) {
        let (event, ip) = (random.of(&EVENT), random.next());
        write!(to, "{}{{\"type\":\"{event}\",\"at\":", if n > 0 { "," } else { "" })?;
        write_time(to, random)?;
        write!(to, ",\"ip\":\"10.{}.{}.{}\"}}", ip >> 8 & 31, ip >> 16 & 255, ip >> 24 & 255)?;
    }
    write!(to, "],\"tags\":[")?;
    for n in 0..random.below(5) {
        write!(to, "{}\"{}\"", if n > 0 { "," } else { "" }, random.of(&TAGS))?;
    }
    write!(to, "],\"active\":{}}}", random.below(10) > 2)?;
    Ok(())
}

/// Returns the resident memory of this process in bytes.
fn resident_set() -> Result<usize> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .ok_or("no VmRSS in /proc/self/status")?;
    Ok(kib.trim().parse::<usize>()? << 10)
}

fn mib(bytes: usize) -> String {
    format!("{:.0} MiB", bytes as f64 / MIB as f64)
}

/// Inserts rows until they have `wanted` bytes. Returns how many bytes they have.
fn insert(map: &mut Map, memory: &RegionAllocator, wanted: usize) -> Result<usize> {
    let (mut row, mut held, mut shown) = (Vec::new(), 0, 0);
    for id in 0.. {
        if held >= wanted {
            break;
        }
        write_row(&mut row, id)?;
        let mut copy = VecIn::with_capacity_in(row.len(), memory.clone());
        copy.extend_from_slice(&row);
        map.insert(id, copy.into_boxed_slice());
        held += row.len();
        if held * 8 / wanted > shown {
            shown = held * 8 / wanted;
            let stats = memory.stats();
            let (cold, all) = (mib(stats.cold_bytes), mib(stats.memory_bytes));
            println!("{:>9} rows, {}: {cold} are cold; all takes {all}", map.len(), mib(held));
        }
    }
    Ok(held)
}

/// Looks a row up, and compares it with what it must be.
fn check(map: &Map, id: u64, right: &mut Vec<u8>) -> Result<()> {
    write_row(right, id)?;
    let row = map.get(&id).ok_or_else(|| format!("row {id} is not in the map"))?;
    if row[..] != right[..] {
        return Err(format!("row {id} is {:?}", String::from_utf8_lossy(row)).into());
    }
    Ok(())
}

/// Looks rows up, most of them among the last tenth. Returns how many.
fn look_up(map: &Map) -> Result<usize> {
    let rows = map.len() as u64;
    let (mut random, mut right, lookups) = (Random(7), Vec::new(), map.len() / 16);
    for _ in 0..lookups {
        let recent = random.below(10) > 0;
        let id = if recent { rows - 1 - random.below(rows / 10 + 1) } else { random.below(rows) };
        check(map, id, &mut right)?;
    }
    Ok(lookups)
}

fn main() -> Result<()> {
    let numbers: Vec<usize> =
        env::args().skip(1).map(|number| number.parse()).collect::<std::result::Result<_, _>>()?;
    let wanted = numbers.first().copied().unwrap_or(2048) * MIB;
    let budget = numbers.get(1).map_or(wanted / 2, |number| number * MIB);

    let store = zswap_region::Zswap::builder().compressor("zstd");
    let builder = Region::builder().capacity(wanted * 4).budget(budget).store(store);
    // SAFETY: this program keeps the rules of the front page of zswap-region: it passes none of the region's memory to
    // system calls, blocks no signals, and installs no handlers.
    let memory = unsafe { builder.build() }?.into_allocator()?;
    println!(
        "A map of {} of rows in {}, backend {:?}",
        mib(wanted),
        mib(budget),
        memory.backend().kind
    );

    let begin = Instant::now();
    let mut map = Map::with_hasher_in(BuildHasherDefault::default(), memory.clone());
    let held = insert(&mut map, &memory, wanted)?;
    let inserted = begin.elapsed();

    let begin = Instant::now();
    let looked_up = look_up(&map)?;
    let per_lookup = begin.elapsed().as_secs_f64() / looked_up as f64 * 1e6;

    let mut right = Vec::new();
    // In the order in which they were inserted: neighbours are in one page.
    (0..map.len() as u64).try_for_each(|id| check(&map, id, &mut right))?;

    let stats = memory.stats();
    let blocks = memory.allocated_bytes();
    let resident_set = resident_set()?;
    println!();
    println!("rows              {:>12}", map.len());
    println!("bytes of rows     {:>12}   {:.0} a row", mib(held), held as f64 / map.len() as f64);
    println!("with the table    {:>12}", mib(blocks));
    println!("budget            {:>12}", mib(budget));
    println!(
        "all it takes      {:>12}   the tables of the allocator: {}",
        mib(stats.memory_bytes),
        mib(memory.memory_bytes())
    );
    println!("resident set      {:>12}   of the whole process", mib(resident_set));
    println!(
        "saved             {:>12}   {:.2} bytes in each byte",
        mib(blocks.saturating_sub(stats.memory_bytes)),
        blocks as f64 / stats.memory_bytes as f64
    );
    println!("a cold byte takes {:>12.2}", stats.cold_ratio());
    println!("inserted in       {:>10.1} s", inserted.as_secs_f64());
    println!(
        "lookups           {:>12}   all right, {per_lookup:.1} µs each; then every row was compared",
        looked_up
    );
    println!(
        "faults            {:>12}   p99 {:.1} µs",
        stats.fault_latency.count(),
        stats.fault_latency.quantile(0.99) as f64 / 1e3
    );
    Ok(())
}
