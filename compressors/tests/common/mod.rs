//! Makes pages like those of real processes, and lists the specs to try them with.

use std::sync::OnceLock;

use zpool_base::sync::test_rng::Rng;

/// Returns specs of every compressor that is compiled in, over the range of its
/// parameters. Under Miri, which runs no C code, returns only `null`.
pub(crate) fn specs() -> Vec<String> {
    let mut specs = vec!["null".to_owned()];
    if cfg!(miri) {
        return specs;
    }
    if cfg!(feature = "lz4") {
        specs.extend(["lz4", "lz4:accel=2", "lz4:accel=17", "lz4:accel=65537"].map(str::to_owned));
        specs.extend((3..=12).map(|level| format!("lz4hc:level={level}")));
    }
    if cfg!(feature = "linewords") {
        specs.extend(["linewords", "linewords:page=65536"].map(str::to_owned));
    }
    if cfg!(feature = "zstd") {
        specs.extend([-131072, -50, -5, -1].map(|level| format!("zstd:level={level}")));
        specs.extend((1..=22).map(|level| format!("zstd:level={level}")));
        specs.push("zstd:page=16384".to_owned());
    }
    if cfg!(feature = "deflate") {
        specs.extend((1..=12).map(|level| format!("deflate:level={level}")));
    }
    if cfg!(feature = "lzo") {
        specs.push("lzo".to_owned());
    }
    specs
}

const WORDS: [&str; 24] = [
    "the",
    "page",
    "of",
    "memory",
    "is",
    "compressed",
    "and",
    "stored",
    "until",
    "it",
    "wanted",
    "again",
    "SELECT",
    "FROM",
    "WHERE",
    "\"id\":",
    "\"name\":",
    "<div class=\"",
    "</div>",
    "\n",
    "true",
    "null",
    "http://",
    "0.25",
];

fn text(rng: &mut Rng, len: usize) -> Vec<u8> {
    let mut page = Vec::with_capacity(len + 16);
    while page.len() < len {
        page.extend_from_slice(WORDS[rng.below(WORDS.len())].as_bytes());
        page.push(b' ');
        if rng.below(6) == 0 {
            page.extend_from_slice(rng.below(100_000).to_string().as_bytes());
        }
    }
    page.truncate(len);
    page
}

/// Makes a page like rows of a table or a heap of small objects: pointers, counts, flags.
fn records(rng: &mut Rng, len: usize) -> Vec<u8> {
    let heap = 0x7f3a_0000_0000u64 + (rng.next() & 0xff_ffff_f000);
    let mut page = Vec::with_capacity(len + 48);
    let mut id = rng.below(1 << 20) as u32;
    while page.len() < len {
        id += 1 + rng.below(3) as u32;
        page.extend_from_slice(&(heap + 48 * u64::from(id % 509)).to_le_bytes());
        page.extend_from_slice(&id.to_le_bytes());
        page.extend_from_slice(&[1, 0, rng.below(4) as u8, 0]);
        page.extend_from_slice(&(rng.below(1000) as f64 / 8.0).to_le_bytes());
        page.extend_from_slice(&[0; 24]);
    }
    page.truncate(len);
    page
}

/// Returns machine code and constants: the test's own executable. Empty under Miri.
fn code() -> &'static [u8] {
    static CODE: OnceLock<Vec<u8>> = OnceLock::new();
    CODE.get_or_init(|| {
        if cfg!(miri) {
            return Vec::new();
        }
        std::env::current_exe().and_then(std::fs::read).unwrap_or_default()
    })
}

/// Makes pages of `len` bytes, each with the name of its kind: zeros, text, records, machine code, noise, mixtures.
pub(crate) fn pages(len: usize) -> Vec<(String, Vec<u8>)> {
    let mut rng = Rng::new(len as u64);
    let noise: Vec<u8> = (0..len).map(|_| rng.next() as u8).collect();
    let mut half = noise.clone();
    half[len / 2..].fill(0);
    let mut sparse = vec![0; len];
    for _ in 0..len / 64 {
        sparse[rng.below(len.max(1))] = rng.next() as u8;
    }
    let mut pages = vec![
        ("zeros".to_owned(), vec![0; len]),
        ("one byte".to_owned(), vec![0xcc; len]),
        ("ramp".to_owned(), (0..len).map(|i| (i / 8) as u8).collect()),
        ("noise".to_owned(), noise),
        ("half noise".to_owned(), half),
        ("sparse".to_owned(), sparse),
        ("text".to_owned(), text(&mut rng, len)),
        ("more text".to_owned(), text(&mut rng, len)),
        ("records".to_owned(), records(&mut rng, len)),
        ("more records".to_owned(), records(&mut rng, len)),
    ];
    let code = code();
    for i in 0..6 {
        let start = code.len() / 8 * i;
        if let Some(page) = code.get(start..start + len) {
            pages.push((format!("code at {start}"), page.to_vec()));
        }
    }
    pages
}
