//! Checks the test vectors of `docs/linewords.md`: each unit compresses to its stream, each stream decompresses to
//! its unit, and each stream that is marked as refused gives an error.

#![cfg(not(miri))]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed unwrap and a panic are the test's own message"
)]

mod common;

use common::{Both, agreed, verdict};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/linewords.md");

/// Parses bytes in hex. `00x12` stands for twelve zeros.
fn bytes(hex: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for token in hex.split_whitespace() {
        match token.strip_prefix("00x") {
            Some(count) => bytes.resize(bytes.len() + count.parse::<usize>().unwrap(), 0),
            None => bytes.push(u8::from_str_radix(token, 16).unwrap()),
        }
    }
    bytes
}

/// Returns the keys and values of each block that begins with a line ```` ```vector ````. A line without a colon
/// continues the value above it.
fn vectors() -> Vec<Vec<(String, String)>> {
    let text = std::fs::read_to_string(DOCUMENT).unwrap();
    let mut all = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line != "```vector" {
            continue;
        }
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in lines.by_ref().take_while(|line| *line != "```") {
            match line.split_once(':') {
                Some((key, value)) => fields.push((key.to_owned(), value.to_owned())),
                None => fields.last_mut().unwrap().1.push_str(line),
            }
        }
        all.push(fields);
    }
    all
}

#[test]
fn the_documents_vectors_hold() {
    let vectors = vectors();
    let (mut pairs, mut refused) = (0, 0);
    for fields in &vectors {
        let get = |key: &str| fields.iter().find(|(k, _)| k == key).map(|(_, value)| value.trim());
        let len: usize = get("length").unwrap().parse().unwrap();
        if let Some(hex) = get("refused") {
            assert!(verdict(&bytes(hex), len).is_err(), "{hex}");
            refused += 1;
            continue;
        }
        let mut unit = bytes(get("unit").unwrap());
        unit.resize(len, 0);
        let stream = bytes(get("stream").unwrap());
        assert!(verdict(&stream, len).unwrap() == unit, "{fields:?}");
        let made = agreed(&mut Both::all(), &unit, true);
        assert!(made == stream, "{len}: {}", hex(&made));
        pairs += 1;
    }
    assert!(pairs >= 5 && refused >= 8, "{pairs} pairs, {refused} to be refused");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}
