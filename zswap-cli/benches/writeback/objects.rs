//! The pages that are written back, and what they compress to.

use std::path::PathBuf;
use std::sync::Arc;

use compressors::{Compressor, CompressorCtx};
use measure::{PageSet, shuffled};
use zswap_core::{PAGE_SIZE, Page, SwapEntry, Zswap};

/// The most pages: enough for a pool that is larger than a processor's private caches.
const MOST: usize = 8192;

/// Pages that are not same-filled, with their objects.
pub(crate) struct Objects {
    pub(crate) spec: String,
    pub(crate) origin: String,
    pub(crate) pages: Vec<Page>,
    pub(crate) objects: Vec<Box<[u8]>>,
    /// The order in which the pages are stored and loaded.
    pub(crate) order: Vec<usize>,
    compressor: Arc<dyn Compressor>,
    ctx: Box<dyn CompressorCtx>,
}

impl Objects {
    /// Reads pages, spread evenly over all files, and compresses them. Their objects are allocated in the order in
    /// which a store gets the pages.
    pub(crate) fn load(files: &[PathBuf], spec: &str) -> Self {
        let set = PageSet::load(files, u64::MAX).unwrap();
        let step = set.timed().len().div_ceil(MOST).max(1);
        let pages: Vec<Page> = set.timed().iter().step_by(step).map(|&n| set.pages()[n]).collect();
        let compressor = compressors::build(spec).unwrap();
        let mut ctx = compressor.new_ctx().unwrap();
        let order = shuffled(&(0..pages.len()).collect::<Vec<_>>(), 1);
        let mut room = vec![0; compressor.max_compressed_len(PAGE_SIZE)];
        let mut objects = vec![Box::default(); pages.len()];
        for &n in &order {
            objects[n] = match ctx.compress(&pages[n], &mut room) {
                Ok(len) if len < PAGE_SIZE => room[..len].into(),
                _ => pages[n].into(),
            };
        }
        let (spec, origin) = (spec.to_owned(), set.origin().to_owned());
        Objects { spec, origin, pages, objects, order, compressor, ctx }
    }

    pub(crate) fn len(&self) -> usize {
        self.pages.len()
    }

    /// Decompresses an object, by the fastest way that its codec has.
    pub(crate) fn decode(&mut self, n: usize, page: &mut Page) {
        let object = &self.objects[n];
        if object.len() == PAGE_SIZE {
            page.copy_from_slice(object);
        } else if let Some(stateless) = self.compressor.stateless() {
            stateless.decompress(object, page).unwrap();
        } else {
            self.ctx.decompress(object, page).unwrap();
        }
    }

    /// Stores all pages in `store`, in random order, or in the order in which they will be written back.
    pub(crate) fn fill(&self, store: &Zswap, sorted: bool) {
        for at in 0..self.len() {
            let n = if sorted { at } else { self.order[at] };
            store.store(entry(n), &self.pages[n]).unwrap();
        }
    }
}

pub(crate) fn entry(n: usize) -> SwapEntry {
    SwapEntry::new(0, n as u64).unwrap()
}
