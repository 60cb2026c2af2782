//! Several pages at a time: a folio of 16, say, compressed or decompressed in parallel by the store's
//! [`Acomp`].
//!
//! Each page's request owns a copy of it, a buffer and a context, which the pool keeps from batch to
//! batch. Whoever calls works on requests, too, instead of only waiting. A batch returns when every
//! request has completed, also when something panics on the way.

use std::sync::Arc;

use compressors::{
    AcompCompletions, AcompDone, AcompOp, AcompRequest, CompressorCtx, CompressorError, guard,
};

use crate::error::{LoadError, StoreError};
use crate::pool::{Fault, Pool};
use crate::pools::Hold;
use crate::store::Refusal;
use crate::sync::Mutex;
use crate::word::Content;
use crate::{PAGE_SIZE, Page, SwapEntry, Zswap, same_filled};

/// Most contexts that a pool keeps for requests: a folio's.
const MOST_SPARES: usize = 16;

/// What a request takes beside its page.
#[derive(Debug)]
struct Spare {
    ctx: Box<dyn CompressorCtx>,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Spare {
    fn bytes(&self) -> usize {
        self.ctx.memory_bytes() + self.input.capacity() + self.output.capacity()
    }
}

/// Contexts and buffers of requests that have completed. Its mutex is held for a push or a pop.
#[derive(Debug, Default)]
pub(crate) struct Spares(Mutex<Vec<Spare>>);

impl Spares {
    fn take(&self, pool: &Pool) -> Result<Spare, CompressorError> {
        if let Some(spare) = self.0.lock().pop() {
            return Ok(spare);
        }
        let ctx = guard::new_ctx(&*pool.compressor)?;
        Ok(Spare { ctx, input: Vec::new(), output: Vec::new() })
    }

    fn give(&self, ctx: Option<Box<dyn CompressorCtx>>, input: Vec<u8>, output: Vec<u8>) {
        // Dropped after the lock: one too many.
        let mut spare = ctx.map(|ctx| Spare { ctx, input, output });
        let mut spares = self.0.lock();
        if spares.len() < MOST_SPARES && spares.try_reserve(1).is_ok() {
            spares.extend(spare.take());
        }
        drop(spares);
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.0.lock().iter().map(Spare::bytes).sum()
    }
}

/// Fills a buffer anew; an error instead of an abort when there is no memory for it.
fn refill(buffer: &mut Vec<u8>, bytes: &[u8], len: usize) -> Result<(), CompressorError> {
    let refused = CompressorError::OutOfMemory { codec: "acomp", what: "a request's buffer" };
    buffer.clear();
    buffer.try_reserve_exact(len).map_err(|_| refused)?;
    buffer.extend_from_slice(bytes);
    buffer.resize(len, 0);
    Ok(())
}

/// The requests of a batch; waits for those that are out when it is dropped.
struct Batch<'a> {
    store: &'a Zswap,
    done: Arc<AcompCompletions>,
    /// Requests that are out.
    out: usize,
}

impl<'a> Batch<'a> {
    fn new(store: &'a Zswap) -> Self {
        Batch { store, done: Arc::new(AcompCompletions::new()), out: 0 }
    }

    /// Submits one request of `pool`, whose output is `output` bytes.
    fn submit(
        &mut self,
        pool: &Pool,
        op: AcompOp,
        input: &[u8],
        output: usize,
        tag: usize,
    ) -> Result<(), CompressorError> {
        let mut spare = pool.spares.take(pool)?;
        refill(&mut spare.input, input, input.len())?;
        // What it holds is overwritten: only its length counts.
        if spare.output.len() != output {
            refill(&mut spare.output, &[], output)?;
        }
        let Spare { ctx, input, output } = spare;
        let request = AcompRequest { op, input, output, ctx };
        match self.store.acomp.submit(request, tag, &self.done) {
            Ok(()) => self.out += 1,
            Err(AcompRequest { input, output, ctx, .. }) => {
                pool.spares.give(Some(ctx), input, output);
                return Err(CompressorError::OutOfMemory { codec: "acomp", what: "a completion" });
            }
        }
        Ok(())
    }

    /// Whether as many requests are out as keep everybody busy. Few contexts, used again at once, stay
    /// in a processor's cache.
    fn is_full(&self) -> bool {
        self.out >= self.store.acomp.parallelism().max(1).saturating_mul(2) - 1
    }

    /// The next completion; none when no request is out.
    fn next(&mut self) -> Option<(usize, AcompDone)> {
        let next = self.store.acomp.wait_any(&self.done)?;
        self.out = self.out.saturating_sub(1);
        Some(next)
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.store.acomp.wait_all(&self.done);
    }
}

/// What a load whose request is out goes on with.
struct Out<'a> {
    pool: Hold<'a>,
    /// The page's checksum, if that was noted.
    sum: Option<u32>,
}

/// What pages became that are under no entry yet; discarded if something panics first.
struct Contents<'a> {
    store: &'a Zswap,
    /// None of one whose request is out.
    of: Vec<Option<Result<Content, Refusal>>>,
}

impl Drop for Contents<'_> {
    fn drop(&mut self) {
        for content in self.of.drain(..).flatten().flatten() {
            self.store.discard(content);
        }
    }
}

impl Zswap {
    /// Stores several pages, compressed in parallel by the store's [`Acomp`](compressors::Acomp); for
    /// each what [`Zswap::store`] would have said. Of one entry given twice the later page stays.
    ///
    /// Returns when all have completed. Copies each page once.
    pub fn store_batch(&self, pages: &[(SwapEntry, &Page)]) -> Vec<Result<(), StoreError>> {
        let pool = self.pools.current();
        let mut batch = Batch::new(self);
        let room = pool.compressor.max_compressed_len(PAGE_SIZE);
        let mut contents = Contents { store: self, of: Vec::new() };
        contents.of.resize_with(pages.len(), || None);
        let finish = |contents: &mut Contents<'_>, (tag, done): (usize, AcompDone)| {
            let AcompDone { result, input, output, ctx } = done;
            let put = result.map_err(Fault::Codec);
            let put =
                put.and_then(|len| pool.insert(&input, &output, len, self.store_incompressible));
            pool.spares.give(ctx, input, output);
            contents.of[tag] = Some(self.content_in(pool.again(), pages[tag].1, put));
        };
        for (tag, (_, page)) in pages.iter().enumerate() {
            if batch.is_full() {
                batch.next().into_iter().for_each(|next| finish(&mut contents, next));
            }
            contents.of[tag] = self.begin_store(&mut batch, &pool, page, room, tag).transpose();
        }
        while let Some(next) = batch.next() {
            finish(&mut contents, next);
        }
        let kept = pages.iter().enumerate().map(|(tag, (entry, page))| {
            match contents.of[tag].take() {
                Some(content) => self.keep(*entry, page, content),
                // A request that did not complete: no Acomp that keeps its word.
                None => self.store(*entry, page),
            }
        });
        kept.collect()
    }

    /// What is known at once; none when a request is out.
    fn begin_store(
        &self,
        batch: &mut Batch<'_>,
        pool: &Hold<'_>,
        page: &Page,
        room: usize,
        tag: usize,
    ) -> Result<Option<Content>, Refusal> {
        if let Some(pattern) = self.pattern_of(page) {
            return Ok(Some(pattern));
        }
        if !self.admit() {
            return Err(Refusal::Limit);
        }
        let submitted = batch.submit(pool, AcompOp::Compress, page, room, tag);
        submitted.map_err(|error| Refusal::Fault(Fault::Codec(error)))?;
        Ok(None)
    }

    /// Loads several pages, decompressed in parallel by the store's [`Acomp`](compressors::Acomp); for
    /// each what [`Zswap::load`] would have said. Entries without a page to load into are not loaded,
    /// and not answered for.
    ///
    /// Returns when all have completed. Copies each page once.
    pub fn load_batch(
        &self,
        entries: &[SwapEntry],
        pages: &mut [Page],
    ) -> Vec<Result<(), LoadError>> {
        let mut batch = Batch::new(self);
        let mut out: Vec<Option<Out<'_>>> = Vec::new();
        let mut results = Vec::new();
        let finish = |next: (usize, AcompDone),
                      out: &[Option<Out<'_>>],
                      pages: &mut [Page],
                      results: &mut [Result<(), LoadError>]| {
            let (tag, AcompDone { result, input, output, ctx }) = next;
            let Some(Out { pool, sum }) = &out[tag] else { return };
            results[tag] = match result {
                Ok(_) => {
                    pages[tag].copy_from_slice(&output[..PAGE_SIZE]);
                    self.verify(entries[tag], &pages[tag], *sum)
                }
                Err(error) => Err(self.count_fault(entries[tag], Fault::Codec(error))),
            };
            pool.spares.give(ctx, input, output);
        };
        for (tag, entry) in entries.iter().enumerate().take(pages.len()) {
            if batch.is_full() {
                if let Some(next) = batch.next() {
                    finish(next, &out, pages, &mut results);
                }
            }
            let (request, result) = match self.begin_load(&mut batch, *entry, &mut pages[tag], tag)
            {
                Ok(request) => (request, Ok(())),
                Err(error) => (None, Err(error)),
            };
            out.push(request);
            results.push(result);
        }
        while let Some(next) = batch.next() {
            finish(next, &out, pages, &mut results);
        }
        results
    }

    /// Loads what needs no request; else submits one.
    fn begin_load(
        &self,
        batch: &mut Batch<'_>,
        entry: SwapEntry,
        page: &mut Page,
        tag: usize,
    ) -> Result<Option<Out<'_>>, LoadError> {
        let mut locked = self.index.lock(entry.key()).ok_or(LoadError::NotFound { entry })?;
        let word = locked.word();
        match word.content() {
            Content::Empty => Err(LoadError::NotFound { entry }),
            Content::SameFilled(packed) => {
                let pattern = self.patterns.unpack(packed);
                locked.replace(word.referenced());
                drop(locked);
                same_filled::fill(page, pattern);
                Ok(None)
            }
            Content::OnDevice(_) => {
                drop(locked);
                self.load(entry, page).map(|()| None)
            }
            Content::Stored { pool, bits, .. } => {
                locked.replace(word.referenced());
                let sum = locked.sum();
                self.with_object(entry, locked, (pool, bits), |pool, object| {
                    // What takes no context takes less time than a request would.
                    if object.len() == PAGE_SIZE || pool.compressor.stateless().is_some() {
                        self.restore(entry, pool, &object, page, sum)?;
                        return Ok(None);
                    }
                    let op = AcompOp::Decompress;
                    let submitted = batch.submit(pool, op, &object, PAGE_SIZE, tag);
                    submitted.map_err(|error| self.count_fault(entry, Fault::Codec(error)))?;
                    drop(object);
                    Ok(Some(Out { pool: pool.again(), sum }))
                })
            }
        }
    }
}
