//! Tests the LZ4 encoder with arbitrary bytes. The bytes are repeated, and compressed into outputs
//! that are large enough, just large enough or too small. liblz4's decoder must restore them. The
//! decoder is also called with the arbitrary bytes themselves.
#![no_main]

use std::cell::RefCell;

use lz4_block::{CompressError, MAX_INPUT, Table, compress, decompress, max_compressed_len};

const GUARD: u8 = 0x5A;

thread_local! {
    /// The table is kept from one input to the next, as in a store.
    static TABLE: RefCell<Table> = RefCell::new(Table::new());
}

/// Compresses into `room` bytes in the middle of a buffer. Checks that the bytes around them have
/// not changed. Returns the compressed block.
fn guarded(src: &[u8], room: usize, table: &mut Table) -> Result<Vec<u8>, CompressError> {
    let mut buffer = vec![GUARD; room + 128];
    let done = compress(src, &mut buffer[64..64 + room], table);
    assert!(buffer[..64].iter().chain(&buffer[64 + room..]).all(|b| *b == GUARD), "out of bounds");
    done.map(|len| buffer[64..64 + len].to_vec())
}

libfuzzer_sys::fuzz_target!(|input: (u16, u16, &[u8])| {
    let (repeat, short, bytes) = input;
    // Each repetition ends with a counter of two bytes, so that the input is not a single long
    // match.
    let mut src = bytes.to_vec();
    for n in 0..repeat % 64 {
        src.extend_from_slice(&bytes[..bytes.len() / (1 + usize::from(n % 3))]);
        src.extend_from_slice(&n.to_le_bytes());
    }
    src.truncate(MAX_INPUT);
    TABLE.with_borrow_mut(|table| {
        let block =
            guarded(&src, max_compressed_len(src.len()), table).expect("the worst case fits");
        let mut back = vec![GUARD; src.len()];
        assert_eq!(decompress(&block, &mut back), Ok(src.len()));
        assert!(back == src);
        // An output of exactly the block's length receives the same block. A shorter output, by one
        // byte or by many, is an error.
        assert_eq!(guarded(&src, block.len(), table).as_deref(), Ok(&block[..]));
        for room in [block.len() - 1, usize::from(short) % block.len()] {
            let refused = CompressError::OutputTooSmall { capacity: room };
            assert_eq!(guarded(&src, room, table), Err(refused));
        }
        // The decoder must stay within its slices, whatever the bytes are.
        let _ = decompress(bytes, &mut back);
    });
});
