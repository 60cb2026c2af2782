//! The bare codec on the pages of the set, with the calls, bounds and buffers that a store uses.
//!
//! Compression goes into one hot buffer of the codec's worst case, in the order in which the store
//! stored its pages again. Decompression comes out of an arena of base pages where the compressed
//! pages lie one after another, in the order of the store's loads, and into the very page buffer
//! that the store loads into. The arena is filled beforehand, off the clock.

use std::hint::black_box;

use compressors::{Compressor, CompressorError};
use zpool_api::provider::PAGE_SIZE;

use crate::arena::{Arena, Place};
use crate::error::{Error, Result};
use crate::lanes::Lanes;
use crate::pages::PageSet;
use crate::timing::Summary;

/// One round's times and, if the codec failed, its word.
#[derive(Debug, Default)]
pub struct Times {
    /// Of compressions; `None` if no page was timed.
    pub compress: Option<Summary>,
    /// Of decompressions; `None` if no page was timed.
    pub decompress: Option<Summary>,
    /// The first error.
    pub fault: Option<CompressorError>,
}

/// The orders of one round: indices of timed pages.
#[derive(Clone, Copy, Debug)]
pub struct Orders<'a> {
    /// In which they are compressed.
    pub store: &'a [usize],
    /// In which they are decompressed.
    pub load: &'a [usize],
}

/// Compresses and decompresses every timed page once, each lane its share with a context of its
/// own.
///
/// # Errors
///
/// No memory, or no context for the codec. A page that the codec fails on is a [`Times::fault`].
pub fn measure(
    compressor: &dyn Compressor,
    set: &PageSet,
    orders: Orders<'_>,
    lanes: &mut Lanes,
) -> Result<Times> {
    let mut times = Times::default();
    let mut buffer = output(compressor)?;
    let mut arena = Arena::default();
    let mut places: Vec<Option<Place>> = vec![None; set.pages().len()];
    let mut ctx = compressor.new_ctx()?;
    for &i in set.timed() {
        match ctx.compress(&set.pages()[i], &mut buffer) {
            Ok(len) => places[i] = Some(arena.push(&buffer[..len])?),
            Err(error) => drop(times.fault.get_or_insert(error)),
        }
    }

    let ready =
        |_: usize, _: &[usize]| Ok::<_, Error>((compressor.new_ctx()?, output(compressor)?));
    let compress = lanes.measure(orders.store, ready, |lane, share, (mut ctx, mut buffer)| {
        for &i in share {
            // A page that fails here failed above, where it was noted.
            let _ = black_box(ctx.compress(&set.pages()[i], black_box(&mut buffer)));
            lane.laps.lap();
        }
        Ok(())
    })?;
    times.compress = compress.times;

    let stateless = compressor.stateless();
    let ready = |_: usize, _: &[usize]| Ok::<_, Error>(compressor.new_ctx()?);
    let decompress = lanes.measure(orders.load, ready, |lane, share, mut ctx| {
        let (laps, pages) = lane.parts();
        let page = pages.first_mut().map_or(&mut [][..], |page| &mut *page);
        let mut fault = None;
        for &i in share {
            let Some(place) = places[i] else {
                laps.skip();
                continue;
            };
            let packed = arena.get(place);
            let result = match stateless {
                Some(codec) => codec.decompress(packed, black_box(&mut *page)),
                None => ctx.decompress(packed, black_box(&mut *page)),
            };
            laps.lap();
            if let Err(error) = result {
                fault.get_or_insert(error);
            }
        }
        Ok(fault)
    })?;
    times.decompress = decompress.times;
    if times.fault.is_none() {
        times.fault = decompress.results.into_iter().flatten().next();
    }
    Ok(times)
}

/// A buffer for the codec's worst case, touched.
fn output(compressor: &dyn Compressor) -> Result<Vec<u8>> {
    let capacity = compressor.max_compressed_len(PAGE_SIZE);
    let mut buffer = Vec::new();
    buffer
        .try_reserve_exact(capacity)
        .map_err(|_| Error::NoMemory { bytes: capacity, what: "compressed output" })?;
    buffer.resize(capacity, 1);
    Ok(buffer)
}
