//! A program that depends on the published packages only. It makes stores and disks: without
//! features one of each; with the feature `defaults` also default ones, and a store of every
//! built-in backend with every built-in compressor. In each it stores pages, reads them back and
//! compares them. At the end it prints how many came back equal. If something fails, it prints the
//! error and exits with status 1.

use std::error::Error;
use std::sync::Arc;

use compressors::{Compressor, CompressorCtx, CompressorError};
use zpool_api::{Zpool, ZpoolError};
use zpool_pages::HeapPages;
use zram::Zram;
use zswap_core::{PAGE_SIZE, Page, SwapEntry, Zswap};

/// A codec that none of the packages contains. It encodes a run of equal bytes as its length and
/// the byte.
#[derive(Debug, Clone)]
struct RunLength;

impl Compressor for RunLength {
    fn name(&self) -> &str {
        "run-length"
    }
    fn spec(&self) -> String {
        self.name().to_owned()
    }
    fn max_compressed_len(&self, src_len: usize) -> usize {
        2 * src_len
    }
    fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        Ok(Box::new(self.clone()))
    }
}

impl CompressorCtx for RunLength {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
        let (src_len, capacity) = (src.len(), dst.len());
        let mut len = 0;
        for run in src.chunk_by(|a, b| a == b).flat_map(|run| run.chunks(255)) {
            let to = dst.get_mut(len..len + 2);
            let to = to.ok_or(CompressorError::OutputTooSmall {
                codec: "run-length",
                src_len,
                capacity,
            })?;
            to.copy_from_slice(&[run.len() as u8, run[0]]);
            len += 2;
        }
        Ok(len)
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        let mut at = 0;
        for run in src.chunks_exact(2) {
            // The input comes from this codec, so bytes beyond the end of `dst` are simply dropped.
            let end = (at + usize::from(run[0])).min(dst.len());
            dst[at..end].fill(run[1]);
            at = end;
        }
        Ok(())
    }
    fn memory_bytes(&self) -> usize {
        0
    }
}

fn page(number: usize) -> Page {
    let mut page = [0; PAGE_SIZE];
    for (at, byte) in page.iter_mut().enumerate() {
        *byte = ((at / 100) ^ number) as u8;
    }
    page
}

/// Stores pages, loads and compares them, and removes them. Returns how many were compared.
fn exercise(store: &Zswap) -> Result<usize, Box<dyn Error>> {
    const PAGES: usize = 300;
    for number in 0..PAGES {
        store.store(SwapEntry::new(1, number as u64)?, &page(number))?;
    }
    let mut back = [0; PAGE_SIZE];
    for number in 0..PAGES {
        store.load(SwapEntry::new(1, number as u64)?, &mut back)?;
        if back != page(number) {
            return Err(format!("page {number} came back changed").into());
        }
    }
    store.invalidate_area(1);
    if store.len() != 0 {
        return Err(format!("{} pages are left", store.len()).into());
    }
    Ok(PAGES)
}

/// Writes pages, reads and compares them, and discards them. Returns how many were compared.
fn exercise_disk(disk: &Zram) -> Result<usize, Box<dyn Error>> {
    const PAGES: usize = 200;
    for number in 0..PAGES {
        disk.write((number * PAGE_SIZE) as u64, &page(number))?;
    }
    let mut back = [0; PAGE_SIZE];
    for number in 0..PAGES {
        disk.read((number * PAGE_SIZE) as u64, &mut back)?;
        if back != page(number) {
            return Err(format!("page {number} of the disk came back changed").into());
        }
    }
    disk.discard(0, disk.disksize())?;
    Ok(PAGES)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut compared = 0;

    // Without features: a backend with pages from the heap, and this program's own compressor.
    let mut zpools = zpool_api::Registry::new();
    zpools.register("mine", |_| {
        let pool: Arc<dyn Zpool> = Arc::new(zbud::Zbud::new(Arc::new(HeapPages::new()))?);
        Ok::<_, ZpoolError>(pool)
    })?;
    let mut codecs = compressors::Registry::empty();
    codecs.register("run-length", |_| Ok(Arc::new(RunLength) as Arc<dyn Compressor>))?;
    let disk = Zram::builder()
        .disksize(1 << 20)
        .zpool("mine")
        .algorithm("run-length")
        .zpool_registry(zpools.clone())
        .compressor_registry(codecs.clone())
        .build()?;
    compared += exercise_disk(&disk)?;
    let mut nobody = std::io::Cursor::new(Vec::new());
    let export = zram_nbd::Export::new(Arc::new(disk), "disk");
    if zram_nbd::serve(&mut nobody, &export).is_ok() || !nobody.get_ref().starts_with(b"NBDMAGIC") {
        return Err("a client that says nothing is greeted, and no more".into());
    }
    let store = Zswap::builder()
        .zpool("mine")
        .compressor("run-length")
        .zpool_registry(zpools)
        .compressor_registry(codecs)
        .build()?;
    compared += exercise(&store)?;

    // With the default features: a store and a disk without any setting, and then every built-in
    // backend with every built-in compressor.
    #[cfg(feature = "defaults")]
    {
        let sample = measure::PageSet::load(&[], 16 << 20)?;
        let store = Zswap::builder().build()?;
        for (number, page) in (0..).zip(sample.pages()) {
            let (entry, mut back) = (SwapEntry::new(0, number)?, [0; PAGE_SIZE]);
            store.store(entry, page)?;
            store.load(entry, &mut back)?;
            compared += usize::from(back == *page);
        }
        compared += exercise(&Zswap::builder().build()?)?;
        compared += exercise_disk(&Zram::builder().disksize(1 << 30).build()?)?;
        let (zpools, codecs) = (zswap_core::builtin::zpools(), zswap_core::builtin::compressors());
        for zpool in zpools.names() {
            for codec in codecs.names() {
                let store = Zswap::builder().zpool(zpool).compressor(codec).build()?;
                compared += exercise(&store)?;
            }
        }
    }
    println!("outside: {compared} pages came back equal");
    Ok(())
}
