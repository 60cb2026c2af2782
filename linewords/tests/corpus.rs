//! Round trips of pages of real processes. If the folder with the pages does not exist, nothing is tested.

#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's own message")]
#![allow(clippy::print_stdout, reason = "how many there were, for `--nocapture`")]

mod common;

use std::path::Path;

use common::{Both, agreed};

/// A folder beside the checkout. The environment variable `LINEWORDS_CORPUS` names another one.
const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/corpus");

#[test]
fn pages_of_real_processes_round_trip() {
    let folder = std::env::var("LINEWORDS_CORPUS").unwrap_or_else(|_| CORPUS.to_owned());
    let Ok(entries) = Path::new(&folder).read_dir() else {
        println!("no pages: {folder} is not there");
        return;
    };
    let mut contexts = Both::all();
    let (mut pages, mut words, mut bytes) = (0, 0, 0);
    for entry in entries {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "zst") {
            continue;
        }
        let packed = std::fs::File::open(&path).unwrap();
        let mut decoder = zstd::Decoder::new(packed).unwrap();
        decoder.window_log_max(27).unwrap();
        let mut raw = Vec::new();
        std::io::Read::read_to_end(&mut decoder, &mut raw).unwrap();
        // Debug builds are slow, so they take every 16th page or unit.
        let step = if cfg!(debug_assertions) { 16 } else { 1 };
        for page in raw.chunks_exact(4096).step_by(step) {
            let stream = agreed(&mut contexts, page, false);
            pages += 1;
            words += usize::from(stream[0] >= 0x40);
            bytes += stream.len();
        }
        for unit in raw.chunks_exact(65536).step_by(step) {
            agreed(&mut contexts, unit, true);
        }
    }
    println!("{pages} pages, {words} with lines of words, {bytes} bytes");
    assert!(words > pages / 2);
}
