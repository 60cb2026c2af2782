//! The bare codec on the pages of the set, with the calls, bounds and buffers that a store uses.
//!
//! Compression goes into one hot buffer of the codec's worst case, in the order in which the store
//! stored its pages again. Decompression comes out of an arena of base pages where the compressed
//! pages lie one after another, in the order of the store's loads, and into the very page buffer
//! that the store loads into. The arena is filled beforehand, off the clock.

use std::hint::black_box;

use compressors::{Compressor, CompressorError};
use zswap_core::{PAGE_SIZE, Page};

use crate::arena::{Arena, Place};
use crate::error::{Error, Result};
use crate::pages::PageSet;
use crate::timing::{Clock, Laps, Summary};

/// One turn's times and, if the codec failed, its word.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    pub(crate) compress: Option<Summary>,
    pub(crate) decompress: Option<Summary>,
    pub(crate) fault: Option<CompressorError>,
}

/// The orders of one round: indices of timed pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Orders<'a> {
    pub(crate) store: &'a [usize],
    pub(crate) load: &'a [usize],
}

/// Compresses and decompresses every timed page once.
pub(crate) fn turn(
    compressor: &dyn Compressor,
    set: &PageSet,
    orders: Orders<'_>,
    page: &mut Page,
    laps: &mut Laps,
    clock: Clock,
) -> Result<Turn> {
    let mut ctx = compressor.new_ctx()?;
    let mut turn = Turn::default();
    let capacity = compressor.max_compressed_len(PAGE_SIZE);
    let mut buffer = Vec::new();
    buffer
        .try_reserve_exact(capacity)
        .map_err(|_| Error::NoMemory { bytes: capacity, what: "compressed output" })?;
    buffer.resize(capacity, 0);

    let mut arena = Arena::default();
    let mut places: Vec<Option<Place>> = vec![None; set.pages().len()];
    for &i in set.timed() {
        match ctx.compress(&set.pages()[i], &mut buffer) {
            Ok(len) => places[i] = Some(arena.push(&buffer[..len])?),
            Err(error) => drop(turn.fault.get_or_insert(error)),
        }
    }

    turn.compress = laps.measure(clock, |laps| {
        for &i in orders.store {
            // A page that fails here failed above, where it was noted.
            let _ = black_box(ctx.compress(&set.pages()[i], black_box(&mut buffer)));
            laps.lap();
        }
        Ok::<_, Error>(())
    })?;

    let stateless = compressor.stateless();
    turn.decompress = laps.measure(clock, |laps| {
        for &i in orders.load {
            let Some(place) = places[i] else {
                laps.skip();
                continue;
            };
            let packed = arena.get(place);
            let result = match stateless {
                Some(codec) => codec.decompress(packed, black_box(&mut page[..])),
                None => ctx.decompress(packed, black_box(&mut page[..])),
            };
            laps.lap();
            if let Err(error) = result {
                turn.fault.get_or_insert(error);
            }
        }
        Ok::<_, Error>(())
    })?;
    Ok(turn)
}
