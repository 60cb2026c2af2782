//! Several pages at a time: a folio of 16, say, compressed or decompressed in parallel by the store's
//! [`Acomp`].
//!
//! Each page's request owns a copy of it, a buffer and a context, which the pool keeps from batch to
//! batch. Whoever calls works on requests, too, instead of only waiting. A batch returns when every
//! request has completed.
//!
//! An Acomp of the user's may panic, drop requests, or tell of what nobody submitted. Then it is asked for
//! nothing more and not waited for: pages whose requests are out are stored and loaded one by one, and
//! whatever it still tells goes where nobody looks.
//!
//! Pages are installed under their entries in the order in which they were given, each as soon as all
//! before it are: so of one entry given twice the later page stays, and a store at its limit can write
//! back what the batch itself has stored.

use core::num::NonZeroUsize;
use std::sync::Arc;

use compressors::{AcompCompletions, AcompDone, AcompOp, AcompRequest, CompressorError};
use zpool_base::unwind::dropped;

use crate::entry::word::Content;
use crate::error::{BatchError, LoadError, StoreError};
use crate::pool::pools::PoolRef;
use crate::pool::spares::Spare;
use crate::pool::{Fault, Pool};
use crate::refusal::Refusal;
use crate::{PAGE_SIZE, Page, SwapEntry, Zswap};
use zpage::acomp_ctx::output_len;
use zpage::codec;
use zpage::{cpu, same_filled};
use zpool_base::contained::contain;

/// Fills a buffer anew; an error instead of an abort when there is no memory for it.
fn refill(buffer: &mut Vec<u8>, bytes: &[u8], len: usize) -> Result<(), CompressorError> {
    let refused = CompressorError::OutOfMemory { codec: "acomp", what: "a request's buffer" };
    buffer.clear();
    buffer.try_reserve_exact(len).map_err(|_| refused)?;
    buffer.extend_from_slice(bytes);
    buffer.resize(len, 0);
    Ok(())
}

/// Batches under way at once that have requests. The pages of more are stored and loaded one by one, in
/// their callers: as many threads keep the processors busy as well.
pub(crate) fn most_batches() -> usize {
    cpu::places() + 2
}

/// Requests of a batch for whose completions there is room from the start.
pub(crate) const REQUESTS: usize = 64;

/// The requests of a batch.
struct Batch<'a> {
    store: &'a Zswap,
    done: Arc<AcompCompletions>,
    /// Where the output of each request is that is out, by tag.
    outputs: Vec<Option<NonZeroUsize>>,
    /// Requests that are out.
    out: usize,
    /// The Acomp has kept its word so far.
    trusted: bool,
}

/// Where a buffer is. No two that live are at one place, unless they are empty. Wrong bytes in the right
/// buffer are as a codec's that is wrong: only checksums find them.
fn place(buffer: &[u8]) -> Option<NonZeroUsize> {
    NonZeroUsize::new(buffer.as_ptr().addr())
}

impl<'a> Batch<'a> {
    /// For so many pages; none if as many batches as there are completions for are under way already.
    fn new(store: &'a Zswap, pages: usize) -> Result<Option<Self>, BatchError> {
        let mut outputs = list(pages)?;
        outputs.resize(pages, None);
        let done = store.completions.take();
        Ok(done.map(|done| Batch { store, done, outputs, out: 0, trusted: true }))
    }

    /// Submits one request of `pool`, whose output is `output` bytes. Does nothing for an Acomp that has
    /// broken its word: the page is done with those whose requests never complete.
    fn submit(
        &mut self,
        pool: &Pool,
        op: AcompOp,
        input: &[u8],
        output: usize,
        tag: usize,
    ) -> Result<(), CompressorError> {
        if !self.trusted {
            return Ok(());
        }
        let mut spare = pool.spares.take(&pool.codec)?;
        let filled = refill(&mut spare.input, input, input.len()).and_then(|()| {
            // What it holds is overwritten: only its length counts.
            if spare.output.len() == output {
                Ok(())
            } else {
                refill(&mut spare.output, &[], output)
            }
        });
        if let Err(refused) = filled {
            pool.spares.give(Some(spare.ctx), spare.input, spare.output);
            return Err(refused);
        }
        let Spare { ctx, input, output, .. } = spare;
        let output_at = place(&output);
        let request = AcompRequest { op, input, output, ctx };
        match contain(|| self.store.acomp.submit(request, tag, &self.done)) {
            Ok(Ok(())) => {
                self.outputs[tag] = output_at;
                self.out += 1;
            }
            Ok(Err(AcompRequest { input, output, ctx, .. })) => {
                pool.spares.give(Some(ctx), input, output);
                return Err(CompressorError::OutOfMemory { codec: "acomp", what: "a completion" });
            }
            Err(_) => {
                self.trusted = false;
                return Err(CompressorError::Panicked { operation: "submit" });
            }
        }
        Ok(())
    }

    /// Whether as many requests are out as keep everybody busy. Few contexts, used again at once, stay
    /// in a processor's cache.
    fn is_full(&self) -> bool {
        let parallelism = contain(|| self.store.acomp.parallelism()).unwrap_or(1);
        self.out >= parallelism.max(1).saturating_mul(2) - 1
    }

    /// The completion of a request that is out; none when no request is, or none will be told of any more.
    fn next(&mut self) -> Option<(usize, AcompDone)> {
        if self.out == 0 || !self.trusted {
            return None;
        }
        let told = contain(|| self.store.acomp.wait_any(&self.done)).ok().flatten();
        if let Some((tag, done)) = told {
            let output = self.outputs.get_mut(tag);
            if output.is_some_and(|at| at.is_some() && at.take() == place(&done.output)) {
                self.out -= 1;
                return Some((tag, done));
            }
            // Twice, with another's tag or buffer, or of no request of this batch.
            dropped(done);
        }
        self.trusted = false;
        None
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.store.completions.give(self.done.clone());
    }
}

/// What a load whose request is out goes on with.
struct Out<'a> {
    pool: PoolRef<'a>,
    /// The page's checksum, if that was noted.
    sum: Option<u32>,
}

/// A list with room for each page of a batch.
fn list<T>(pages: usize) -> Result<Vec<T>, BatchError> {
    let mut list = Vec::new();
    let bytes = pages.saturating_mul(size_of::<T>());
    list.try_reserve_exact(pages).map_err(|_| BatchError::OutOfMemory { pages, bytes })?;
    Ok(list)
}

/// The pages of a batch that is being stored.
struct Storing<'a, 'p> {
    store: &'a Zswap,
    pages: &'a [(SwapEntry, &'p Page)],
    /// What pages became that were begun; none of one whose request is out, or that is installed.
    contents: Vec<Option<Result<Content, Refusal>>>,
    /// What became of the pages that are installed, or were refused: all before the others.
    results: Vec<Result<(), StoreError>>,
}

impl Storing<'_, '_> {
    /// Puts what a request came to into its pool.
    fn finish(&mut self, pool: &PoolRef<'_>, (tag, done): (usize, AcompDone)) {
        let AcompDone { result, input, output, ctx } = done;
        let (entry, page) = self.pages[tag];
        let (keep_raw, mut kept) = (self.store.store_incompressible, None);
        let put = result.map_err(Fault::Codec);
        let put = put.and_then(|len| {
            let bytes = codec::kept(page, &output, len).map_err(Fault::Codec)?;
            pool.insert(bytes, keep_raw, &mut kept)
        });
        pool.spares.give(ctx, input, output);
        if kept.is_some() {
            // Room may have to be made: what is installed can be written back.
            self.install();
        }
        let content = self.store.encoded(entry, pool.again(), put, &kept, false);
        self.contents[tag] = Some(content);
        self.install();
    }

    /// Installs the pages that are next.
    fn install(&mut self) {
        while let Some(content) = self.contents.get_mut(self.results.len()) {
            let Some(content) = content.take() else { return };
            let (entry, page) = self.pages[self.results.len()];
            self.results.push(self.store.install(entry, page, content, false));
        }
    }

    /// Stores what is left: pages whose requests did not complete, or that were never made.
    fn results(mut self) -> Vec<Result<(), StoreError>> {
        while let Some((entry, page)) = self.pages.get(self.results.len()) {
            let content = self.contents.get_mut(self.results.len()).and_then(Option::take);
            self.results.push(match content {
                Some(content) => self.store.install(*entry, page, content, false),
                None => self.store.store(*entry, page),
            });
        }
        core::mem::take(&mut self.results)
    }
}

impl Drop for Storing<'_, '_> {
    fn drop(&mut self) {
        for content in self.contents.drain(..).flatten().flatten() {
            // SAFETY: the batch encoded it and did not come to install it.
            unsafe { self.store.discard(content) };
        }
    }
}

impl Zswap {
    /// Stores several pages, compressed in parallel by the store's [`Acomp`](compressors::Acomp); for
    /// each what [`Zswap::store`] would have said. Of one entry given twice the later page stays.
    ///
    /// Returns when all have completed. Copies each page once.
    ///
    /// # Errors
    /// [`BatchError::OutOfMemory`], [`BatchError::Forked`]: no page was stored.
    pub fn store_batch(
        &self,
        pages: &[(SwapEntry, &Page)],
    ) -> Result<Vec<Result<(), StoreError>>, BatchError> {
        if !self.is_here() {
            return Err(BatchError::Forked);
        }
        let (contents, results) = (list(pages.len())?, list(pages.len())?);
        let mut storing = Storing { store: self, pages, contents, results };
        let pool = self.pools.current();
        let Some(mut batch) = Batch::new(self, pages.len())? else {
            return Ok(storing.results());
        };
        // Each page by itself says what is wrong.
        let Ok(room) = output_len(pool.codec.compressor()) else { return Ok(storing.results()) };
        for (tag, (entry, page)) in pages.iter().enumerate() {
            if batch.is_full() {
                batch.next().into_iter().for_each(|next| storing.finish(&pool, next));
            }
            let begun = self.begin_store(&mut batch, &pool, *entry, page, room, tag);
            storing.contents.push(begun.transpose());
            storing.install();
        }
        while let Some(next) = batch.next() {
            storing.finish(&pool, next);
        }
        Ok(storing.results())
    }

    /// What is known at once; none when a request is out.
    fn begin_store(
        &self,
        batch: &mut Batch<'_>,
        pool: &PoolRef<'_>,
        entry: SwapEntry,
        page: &Page,
        room: usize,
        tag: usize,
    ) -> Result<Option<Content>, Refusal> {
        self.look_at_unwritable(entry)?;
        if let Some(pattern) = self.pattern_of(page) {
            return Ok(Some(pattern));
        }
        let submitted = batch.submit(pool, AcompOp::Compress, page, room, tag);
        submitted.map_err(|error| Refusal::Fault(Fault::Codec(error)))?;
        Ok(None)
    }

    /// Loads several pages, decompressed in parallel by the store's [`Acomp`](compressors::Acomp); for
    /// each what [`Zswap::load`] would have said.
    ///
    /// Returns when all have completed. Copies each page once.
    ///
    /// # Errors
    /// [`BatchError::LengthMismatch`] unless there are as many pages as entries,
    /// [`BatchError::OutOfMemory`], [`BatchError::Forked`]: no page was loaded.
    pub fn load_batch(
        &self,
        entries: &[SwapEntry],
        pages: &mut [Page],
    ) -> Result<Vec<Result<(), LoadError>>, BatchError> {
        if !self.is_here() {
            return Err(BatchError::Forked);
        }
        if entries.len() != pages.len() {
            let (entries, pages) = (entries.len(), pages.len());
            return Err(BatchError::LengthMismatch { entries, pages });
        }
        let mut out: Vec<Option<Out<'_>>> = list(pages.len())?;
        let mut results = list(pages.len())?;
        let Some(mut batch) = Batch::new(self, pages.len())? else {
            results.extend(entries.iter().zip(pages).map(|(entry, page)| self.load(*entry, page)));
            return Ok(results);
        };
        let finish = |next: (usize, AcompDone),
                      out: &mut [Option<Out<'_>>],
                      pages: &mut [Page],
                      results: &mut [Result<(), LoadError>]| {
            let (tag, AcompDone { result, input, output, ctx }) = next;
            // One that is still there at the end has not completed.
            let Some(Out { pool, sum }) = out[tag].take() else { return };
            results[tag] = match (result, output.get(..PAGE_SIZE)) {
                (Ok(_), Some(bytes)) => {
                    pages[tag].copy_from_slice(bytes);
                    self.verify(entries[tag], &pages[tag], sum)
                }
                (Err(error), _) => Err(self.count_fault(entries[tag], Fault::Codec(error))),
                // The buffer was cut.
                (Ok(_), None) => self.load(entries[tag], &mut pages[tag]),
            };
            pool.spares.give(ctx, input, output);
        };
        for (tag, entry) in entries.iter().enumerate() {
            if batch.is_full() {
                if let Some(next) = batch.next() {
                    finish(next, &mut out, pages, &mut results);
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
            finish(next, &mut out, pages, &mut results);
        }
        for (tag, left) in out.iter_mut().enumerate() {
            if left.take().is_some() {
                results[tag] = self.load(entries[tag], &mut pages[tag]);
            }
        }
        Ok(results)
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
                let pool = self.pools.of_page(pool);
                self.with_object(entry, locked, pool, bits, |pool, object| {
                    // What takes no context takes less time than a request would.
                    if object.len() == PAGE_SIZE || pool.codec.stateless().is_some() {
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
