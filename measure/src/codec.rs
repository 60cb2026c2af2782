//! Measures the bare codec on the pages of the set, with the same calls, bounds and buffers as a store.
//!
//! Pages are compressed in the order in which the store stores them for the second time. The output goes into one
//! hot buffer that has room for the codec's worst case. Pages are decompressed in the order of the store's loads,
//! into the page buffer that the store loads into. The compressed pages lie back to back in an arena without huge
//! pages. The arena is filled beforehand, untimed.

use std::hint::black_box;

use compressors::{Compressor, CompressorError};
use zpool_api::PAGE_SIZE;

use crate::arena::{Arena, Place};
use crate::error::{Error, Result};
use crate::lanes::Lanes;
use crate::pages::PageSet;
use crate::timing::Summary;

/// The times of one round, and the codec's error if it failed.
#[derive(Debug, Default)]
pub struct Times {
    /// Times of compressions; `None` if no page was timed.
    pub compress: Option<Summary>,
    /// Times of decompressions; `None` if no page was timed.
    pub decompress: Option<Summary>,
    /// The first error.
    pub fault: Option<CompressorError>,
}

/// The orders of one round: indices of timed pages.
#[derive(Clone, Copy, Debug)]
pub struct Orders<'a> {
    /// The order of compression.
    pub store: &'a [usize],
    /// The order of decompression.
    pub load: &'a [usize],
}

/// Compresses and decompresses every timed page once. Each lane does its share with its own context.
///
/// # Errors
///
/// [`Error::NoMemory`] if the buffers or the arena do not fit in memory, and [`Error::Compressor`]
/// if the codec cannot make a context. If the codec fails on a page, the call goes on, and
/// [`Times::fault`] has the first such error.
///
/// # Panics
///
/// If an order contains an index that is not below the number of pages in the set.
///
/// ```
/// use measure::{Lanes, PageSet, codec, shuffled};
///
/// let set = PageSet::load(&[], 64 << 20)?;
/// let mut lanes = Lanes::new(1, set.timed().len())?;
/// let (store, load) = (shuffled(set.timed(), 1), shuffled(set.timed(), 2));
/// let orders = codec::Orders { store: &store, load: &load };
/// let times = codec::measure(&*compressors::build("lz4")?, &set, orders, &mut lanes)?;
/// assert!(times.fault.is_none() && times.decompress.is_some());
/// # Ok::<(), measure::Error>(())
/// ```
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
            // A page that fails here also failed above, where its error was recorded.
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

/// Returns a buffer that has room for the codec's worst case, with all its pages touched.
fn output(compressor: &dyn Compressor) -> Result<Vec<u8>> {
    let capacity = compressor.max_compressed_len(PAGE_SIZE);
    let mut buffer = Vec::new();
    buffer
        .try_reserve_exact(capacity)
        .map_err(|_| Error::NoMemory { bytes: capacity, what: "compressed output" })?;
    buffer.resize(capacity, 1);
    Ok(buffer)
}
