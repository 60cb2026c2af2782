//! Writes the seeds of the target `decompress`. For each codec it compresses a small page, and
//! writes the result unchanged, cut short, lengthened, and with one bit flipped. One more seed has
//! the whole result with a page length that is a byte too short.
//!
//! Run it from the workspace root: `cargo run --manifest-path fuzz/Cargo.toml --example
//! decompress_seeds`.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a tool for changing the target: a failure ends it"
)]

use std::fs;

/// The same list as in the target. The first byte of an input is an index into it.
const SPECS: [&str; 7] =
    ["lz4", "lz4hc:level=3", "zstd:level=1", "zstd:level=-5", "deflate", "null", "linewords"];

fn main() {
    let folder = std::path::Path::new("fuzz/seeds/decompress");
    fs::create_dir_all(folder).expect("run it from the workspace root");
    let mut page = [0u8; 4096];
    for (at, byte) in page.iter_mut().enumerate() {
        *byte = if at % 512 < 300 { b"a page of words, "[at % 17] } else { (at / 512) as u8 };
    }
    for (pick, spec) in (0u8..).zip(SPECS) {
        let codec = compressors::build(spec).expect("a built-in codec");
        let mut ctx = codec.new_ctx().expect("memory for a context");
        // With "null", which does not compress, a whole page would make large seeds.
        let page = if spec == "null" { &page[..64] } else { &page[..] };
        let mut packed = vec![0; codec.max_compressed_len(page.len())];
        let len = ctx.compress(page, &mut packed).expect("room for the worst case");
        packed.truncate(len);
        let mut flipped = packed.clone();
        flipped[len / 2] ^= 0x10;
        let longer = [&packed[..], &[0]].concat();
        for (name, odd, bytes) in [
            ("whole", page.len() as u16, &packed[..]),
            ("short-page", page.len() as u16 - 1, &packed[..]),
            ("cut", 4097, &packed[..len - 1]),
            ("longer", 0, &longer[..]),
            ("flipped", 1, &flipped[..]),
        ] {
            let seed = [&[pick][..], &odd.to_le_bytes(), bytes].concat();
            let file = format!("{}-{name}", spec.replace([':', '='], "-"));
            fs::write(folder.join(&file), &seed).expect("a folder that can be written to");
            println!("{file}: {} bytes", seed.len());
        }
    }
}
