//! Stores or loads several pages at a time, such as a folio of 16. The store's [`Acomp`] compresses or
//! decompresses them in parallel.
//!
//! Each page that a codec context must compress or decompress gets a request. The request owns a copy of the
//! input, an output buffer and a context. The pool keeps buffers and contexts for later batches. While the
//! calling thread waits, it works on requests, too. A batch returns when every request has completed.
//!
//! A user's Acomp may panic, drop requests, or report a completion of a request that was never submitted.
//! After a panic or a false completion, the batch submits no more requests to it and stops waiting. It stores
//! or loads the pages of outstanding requests one by one, and ignores later completions.
//!
//! Pages are installed under their entries in the order given. A page is installed as soon as it is encoded
//! and all pages before it are installed. So, if an entry is given twice, the later page stays. And a store
//! at its limit can write back pages that the batch itself has stored.

use core::num::NonZeroUsize;
use std::sync::Arc;

use compressors::{AcompCompletions, AcompDone, AcompOp, AcompRequest, CompressorError};
use zpool_base::unwind::dropped;

use crate::entry::word::{Content, Word};
use crate::error::{BatchError, LoadError, StoreError};
use crate::pool::pools::PoolRef;
use crate::pool::spares::Spare;
use crate::pool::{Fault, Pool};
use crate::refusal::Refusal;
use crate::{PAGE_SIZE, Page, SwapEntry, Zswap};
use zpage::segments::Wanted;
use zpage::{Codec, cpu, same_filled};
use zpool_base::contained::contain;

/// Replaces the contents of a buffer by `bytes` and then zeros, up to the length `len`. Returns an error,
/// instead of aborting, if there is no memory for it.
fn refill(buffer: &mut Vec<u8>, bytes: &[u8], len: usize) -> Result<(), CompressorError> {
    let refused = CompressorError::OutOfMemory { codec: "acomp", what: "a request's buffer" };
    buffer.clear();
    buffer.try_reserve_exact(len).map_err(|_| refused)?;
    buffer.extend_from_slice(bytes);
    buffer.resize(len, 0);
    Ok(())
}

/// Returns how many batches may have requests at the same time. Any further batch stores or loads its pages
/// one by one, on the calling thread. That many batches keep all processors busy.
pub(crate) fn most_batches() -> usize {
    cpu::places() + 2
}

/// The number of completions for which a batch's queue has room from the start.
pub(crate) const REQUESTS: usize = 64;

/// A batch and its outstanding requests.
struct Batch<'a> {
    store: &'a Zswap,
    done: Arc<AcompCompletions>,
    /// For each tag, the address of the request's output buffer; `None` if no request with the tag is
    /// outstanding.
    outputs: Vec<Option<NonZeroUsize>>,
    /// The number of outstanding requests.
    out: usize,
    /// Whether the Acomp has kept its contract so far.
    trusted: bool,
}

/// Returns a buffer's address. Two live buffers have different addresses, unless they are empty. So the
/// address shows whether the Acomp returned the right buffer. If the bytes in the buffer are wrong, only the
/// pages' checksums detect that, as with a faulty codec.
fn place(buffer: &[u8]) -> Option<NonZeroUsize> {
    NonZeroUsize::new(buffer.as_ptr().addr())
}

impl<'a> Batch<'a> {
    /// Makes a batch of `pages` pages. Returns `None` if no completion queue is free, and an error if there
    /// is no memory for the batch's list.
    fn new(store: &'a Zswap, pages: usize) -> Result<Option<Self>, BatchError> {
        let mut outputs = list(pages)?;
        outputs.resize(pages, None);
        let done = store.completions.take();
        Ok(done.map(|done| Batch { store, done, outputs, out: 0, trusted: true }))
    }

    /// Submits a request to compress or decompress `input` with the codec of `pool`. The request gets an
    /// output buffer of `output` bytes and the tag `tag`. If the Acomp has broken its contract, submits
    /// nothing: the page is then handled as if its request never completed.
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
            // The request overwrites the buffer, so only its length matters.
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

    /// Returns whether enough requests are outstanding to keep all workers busy. If so, the batch waits
    /// before it submits more. That keeps the number of contexts low, and a few contexts that are reused soon
    /// stay in a processor's cache.
    fn is_full(&self) -> bool {
        self.out >= self.most_out()
    }

    fn most_out(&self) -> usize {
        let parallelism = contain(|| self.store.acomp.parallelism()).unwrap_or(1);
        parallelism.max(1).saturating_mul(2) - 1
    }

    /// Waits until an outstanding request has completed, and returns its tag and result. Returns `None` if no
    /// request is outstanding or the Acomp has broken its contract.
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
            // The completion was reported before, or has another request's tag or buffer, or belongs to
            // another batch.
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

/// A page that is being loaded by an outstanding request.
struct Out<'a> {
    pool: PoolRef<'a>,
    /// The checksum that was noted when the page was stored, if any.
    sum: Option<u32>,
}

/// A page on the device that is loaded together with others.
type OnDevice<'a> = Wanted<'a, Noted>;

/// What was noted about such a page when its object was pinned.
struct Noted {
    /// The page's number in the batch.
    tag: usize,
    word: Word,
    sum: Option<u32>,
}

/// Makes an empty list with room for an element for each page of a batch. Fails if there is no memory.
fn list<T>(pages: usize) -> Result<Vec<T>, BatchError> {
    let mut list = Vec::new();
    let bytes = pages.saturating_mul(size_of::<T>());
    list.try_reserve_exact(pages).map_err(|_| BatchError::OutOfMemory { pages, bytes })?;
    Ok(list)
}

/// The pages of a batch that is being stored.
struct Storing<'a, P: AsRef<[u8]>> {
    store: &'a Zswap,
    pages: &'a [(SwapEntry, P)],
    /// For each page, its content or the reason for its refusal. `None` while the page's request is
    /// outstanding, and after the page was installed.
    contents: Vec<Option<Result<Content, Refusal>>>,
    /// The pools of the outstanding requests, by page.
    pools: Vec<Option<PoolRef<'a>>>,
    /// The results of the pages that were installed or refused so far. Pages are handled in order, so these
    /// are the first pages of `pages`.
    results: Vec<Result<(), StoreError>>,
}

impl<P: AsRef<[u8]>> Storing<'_, P> {
    /// Handles a completed request: puts its output into the pool, and installs each page that is ready.
    fn finish(&mut self, (tag, done): (usize, AcompDone)) {
        let AcompDone { result, input, output, ctx } = done;
        let (entry, page) = (self.pages[tag].0, self.pages[tag].1.as_ref());
        // A request completes once, so its pool is there.
        let Some(pool) = self.pools[tag].take() else { return };
        let (keep_raw, mut kept) = (self.store.store_incompressible, None);
        let put = result.map_err(Fault::Codec);
        let put = put.and_then(|len| {
            let bytes = Codec::kept(page, &output, len).map_err(Fault::Codec)?;
            pool.insert(page, bytes, keep_raw, &mut kept)
        });
        pool.spares.give(ctx, input, output);
        if kept.is_some() {
            // The pool had no room, so `encoded` may have to write pages back. Install the pages that are
            // ready, so that they can be written back, too.
            self.install();
        }
        let content = self.store.encoded(entry, pool, put, &kept, false);
        self.contents[tag] = Some(content);
        self.install();
    }

    /// Installs the next pages in order, and stops at the first page that is not encoded yet.
    fn install(&mut self) {
        while let Some(content) = self.contents.get_mut(self.results.len()) {
            let Some(content) = content.take() else { return };
            let (entry, page) = &self.pages[self.results.len()];
            self.results.push(self.store.install(*entry, page.as_ref(), content, false));
        }
    }

    /// Handles the remaining pages in order, and returns all results. Installs the pages that are encoded,
    /// and stores the others one by one: their requests did not complete or were never submitted.
    fn results(mut self) -> Vec<Result<(), StoreError>> {
        while let Some((entry, page)) = self.pages.get(self.results.len()) {
            let content = self.contents.get_mut(self.results.len()).and_then(Option::take);
            self.results.push(match content {
                Some(content) => self.store.install(*entry, page.as_ref(), content, false),
                None => self.store.store_unit(*entry, page.as_ref()),
            });
        }
        core::mem::take(&mut self.results)
    }
}

impl<P: AsRef<[u8]>> Drop for Storing<'_, P> {
    fn drop(&mut self) {
        let contents = self.contents.drain(..).zip(self.pages);
        for (content, entry) in
            contents.filter_map(|(content, (entry, _))| Some((content?.ok()?, *entry)))
        {
            // SAFETY: the batch made this content for this entry and did not install it, and `drain` yields each
            // content once.
            unsafe { self.store.discard(entry, content) };
        }
    }
}

/// The pages of a batch that is being loaded, one after the other.
struct Pages<'a> {
    bytes: &'a mut [u8],
    unit: usize,
}

impl Pages<'_> {
    fn of(&mut self, tag: usize) -> &mut [u8] {
        &mut self.bytes[tag * self.unit..][..self.unit]
    }
}

/// The most bytes of pages of a batch that wait for an earlier one; more if more requests are outstanding.
const MOST_WAITING: usize = 16 * PAGE_SIZE;

impl Zswap {
    /// Stores several pages, compressed in parallel by the store's [`Acomp`](compressors::Acomp). Returns a
    /// result for each page, in the same order, as [`Zswap::store`] would. If an entry is given twice, the
    /// later page stays.
    ///
    /// ```
    /// use zswap_core::{SwapEntry, Zswap};
    ///
    /// let store = Zswap::builder().build()?;
    /// let folio = [[b'a'; zswap_core::PAGE_SIZE], [b'b'; zswap_core::PAGE_SIZE]];
    /// let pages = [(SwapEntry::new(0, 0)?, &folio[0]), (SwapEntry::new(0, 1)?, &folio[1])];
    /// for stored in store.store_batch(&pages)? {
    ///     stored?;
    /// }
    /// assert_eq!(store.len(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`BatchError::OutOfMemory`] if there is no memory for the batch's lists, [`BatchError::Forked`] in a
    /// child after `fork`. After either of them, no page was stored. If a single page fails, the call returns
    /// `Ok`, and the page's result holds the error.
    ///
    /// # Blocking
    /// Waits until all pages are stored. Waits for each page as [`Zswap::store`] does. Copies each page once.
    pub fn store_batch(
        &self,
        pages: &[(SwapEntry, &Page)],
    ) -> Result<Vec<Result<(), StoreError>>, BatchError> {
        self.store_all(pages)
    }

    /// Does what [`Zswap::store_batch`] does, for a store of any unit. A page of another length than the unit gets
    /// [`StoreError::WrongLength`], and its entry is unchanged.
    ///
    /// ```
    /// use zswap_core::{SwapEntry, Zswap};
    ///
    /// let store = Zswap::builder().unit(8192).build()?;
    /// let entries = [SwapEntry::new(0, 0)?, SwapEntry::new(0, 1)?];
    /// let stored = store.store_units(&[(entries[0], &[1; 8192]), (entries[1], &[2; 4096])])?;
    /// assert!(stored[0].is_ok() && stored[1].is_err());
    /// let mut both = vec![0; 2 * 8192];
    /// let loaded = store.load_units(&entries, &mut both)?;
    /// assert!(loaded[0].is_ok() && loaded[1].is_err());
    /// assert_eq!(both[..8192], [1; 8192]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Zswap::store_batch`].
    ///
    /// # Blocking
    /// Waits as [`Zswap::store_batch`] does.
    pub fn store_units(
        &self,
        pages: &[(SwapEntry, &[u8])],
    ) -> Result<Vec<Result<(), StoreError>>, BatchError> {
        self.store_all(pages)
    }

    fn store_all<P: AsRef<[u8]>>(
        &self,
        pages: &[(SwapEntry, P)],
    ) -> Result<Vec<Result<(), StoreError>>, BatchError> {
        if !self.is_here() {
            return Err(BatchError::Forked);
        }
        let (contents, results) = (list(pages.len())?, list(pages.len())?);
        let pools = list(pages.len())?;
        let mut storing = Storing { store: self, pages, contents, pools, results };
        let Some(mut batch) = Batch::new(self, pages.len())? else {
            return Ok(storing.results());
        };
        let mut current: Option<(u8, PoolRef<'_>)> = None;
        for (tag, (entry, page)) in pages.iter().enumerate() {
            let page = page.as_ref();
            // Pages that wait for an earlier one take memory that cannot be written back. So they are few.
            let most_waiting = (MOST_WAITING / self.unit).max(batch.most_out());
            while batch.is_full() || storing.contents.len() - storing.results.len() > most_waiting {
                let Some(next) = batch.next() else { break };
                storing.finish(next);
            }
            let swap_type = entry.swap_type();
            let current = match &mut current {
                Some((of, pool)) if *of == swap_type => pool,
                current => {
                    let pool = self.areas.settle(*entry).pools.current();
                    &mut current.insert((swap_type, pool)).1
                }
            };
            let begun = self.begin_store(&mut batch, current, *entry, page, tag);
            let outstanding = matches!(begun, Ok(None));
            storing.pools.push(outstanding.then(|| current.again()));
            storing.contents.push(begun.transpose());
            storing.install();
        }
        while let Some(next) = batch.next() {
            storing.finish(next);
        }
        Ok(storing.results())
    }

    /// Returns the content of a same-filled page, which needs no request. For any other page, submits a
    /// request and returns `None`.
    fn begin_store(
        &self,
        batch: &mut Batch<'_>,
        pool: &PoolRef<'_>,
        entry: SwapEntry,
        page: &[u8],
        tag: usize,
    ) -> Result<Option<Content>, Refusal> {
        if page.len() != self.unit {
            // `store_unit` refuses it when its turn comes.
            return Ok(None);
        }
        self.look_at_unwritable(entry)?;
        if let Some(pattern) = self.pattern_of(self.areas.of(entry), page) {
            return Ok(Some(pattern));
        }
        #[cfg(feature = "zstd")]
        self.training.offer(self.areas.of(entry), page);
        // If the compressor does not report its output length, `store` returns the error when the page's turn
        // comes.
        let Ok(room) = pool.codec.output_len() else { return Ok(None) };
        let submitted = batch.submit(pool, AcompOp::Compress, page, room, tag);
        submitted.map_err(|error| Refusal::Fault(Fault::Codec(error)))?;
        Ok(None)
    }

    /// Loads several pages, decompressed in parallel by the store's [`Acomp`](compressors::Acomp). Returns a
    /// result for each page, in the same order, as [`Zswap::load`] would.
    ///
    /// ```
    /// use zswap_core::{SwapEntry, Zswap};
    ///
    /// let store = Zswap::builder().build()?;
    /// let entries = [SwapEntry::new(0, 0)?, SwapEntry::new(0, 1)?];
    /// store.store(entries[0], &[b'a'; zswap_core::PAGE_SIZE])?;
    ///
    /// let mut pages = vec![[0; zswap_core::PAGE_SIZE]; 2];
    /// let loaded = store.load_batch(&entries, &mut pages)?;
    /// assert!(loaded[0].is_ok() && loaded[1].is_err());
    /// assert_eq!(pages[0], [b'a'; zswap_core::PAGE_SIZE]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`BatchError::LengthMismatch`] if there are more or fewer pages than entries,
    /// [`BatchError::OutOfMemory`] if there is no memory for the batch's lists, [`BatchError::Forked`] in a
    /// child after `fork`. After any of them, no page was loaded. If a single page fails, the call returns
    /// `Ok`, and the page's result holds the error.
    ///
    /// # Blocking
    /// Waits until all pages are loaded. Waits for each page as [`Zswap::load`] does. Copies each page once. Pages
    /// that are near each other on the device share a read of it.
    pub fn load_batch(
        &self,
        entries: &[SwapEntry],
        pages: &mut [Page],
    ) -> Result<Vec<Result<(), LoadError>>, BatchError> {
        if self.is_here() && entries.len() != pages.len() {
            let (entries, pages) = (entries.len(), pages.len());
            return Err(BatchError::LengthMismatch { entries, pages });
        }
        self.load_units(entries, pages.as_flattened_mut())
    }

    /// Does what [`Zswap::load_batch`] does, for a store of any unit. `bytes` has room for a unit for each entry, one
    /// after the other.
    ///
    /// ```
    /// use zswap_core::{SwapEntry, Zswap};
    ///
    /// let store = Zswap::builder().unit(8192).build()?;
    /// let entries = [SwapEntry::new(0, 1)?, SwapEntry::new(0, 2)?];
    /// store.store_unit(entries[1], &[b'a'; 8192])?;
    /// let mut bytes = vec![0; 2 * store.unit()];
    /// let loaded = store.load_units(&entries, &mut bytes)?;
    /// assert!(loaded[0].is_err() && loaded[1].is_ok());
    /// assert_eq!(bytes[8192..], [b'a'; 8192]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Zswap::load_batch`]; [`BatchError::WrongLength`] if `bytes` has another length.
    ///
    /// # Blocking
    /// Waits as [`Zswap::load_batch`] does.
    pub fn load_units(
        &self,
        entries: &[SwapEntry],
        bytes: &mut [u8],
    ) -> Result<Vec<Result<(), LoadError>>, BatchError> {
        if !self.is_here() {
            return Err(BatchError::Forked);
        }
        let unit = self.unit;
        if entries.len().checked_mul(unit) != Some(bytes.len()) {
            let (len, entries) = (bytes.len(), entries.len());
            return Err(BatchError::WrongLength { len, entries, unit });
        }
        let mut pages = Pages { bytes, unit };
        let pages = &mut pages;
        let mut out: Vec<Option<Out<'_>>> = list(entries.len())?;
        let mut results = list(entries.len())?;
        let mut on_device = Vec::new();
        let Some(mut batch) = Batch::new(self, entries.len())? else {
            let each = entries.iter().enumerate();
            results.extend(each.map(|(tag, entry)| self.load_unit(*entry, pages.of(tag))));
            return Ok(results);
        };
        let finish = |next: (usize, AcompDone),
                      out: &mut [Option<Out<'_>>],
                      pages: &mut Pages<'_>,
                      results: &mut [Result<(), LoadError>]| {
            let (tag, AcompDone { result, input, output, ctx }) = next;
            // Take the request out of `out`: a request that is still there at the end has not completed.
            let Some(Out { pool, sum }) = out[tag].take() else { return };
            results[tag] = match (result, output.get(..unit)) {
                (Ok(_), Some(bytes)) => {
                    pages.of(tag).copy_from_slice(bytes);
                    self.verify(entries[tag], pages.of(tag), sum)
                }
                (Err(error), _) => Err(self.count_fault(entries[tag], Fault::Codec(error))),
                // The Acomp returned a buffer that is shorter than a page.
                (Ok(_), None) => self.load_unit(entries[tag], pages.of(tag)),
            };
            pool.spares.give(ctx, input, output);
        };
        for (tag, entry) in entries.iter().enumerate() {
            if batch.is_full() {
                if let Some(next) = batch.next() {
                    finish(next, &mut out, pages, &mut results);
                }
            }
            let page = pages.of(tag);
            let begun = self.begin_load(&mut batch, *entry, page, tag, &mut on_device);
            let (request, result) = match begun {
                Ok(request) => (request, Ok(())),
                Err(error) => (None, Err(error)),
            };
            out.push(request);
            results.push(result);
        }
        self.load_all_from_device(on_device, entries, pages, &mut results);
        while let Some(next) = batch.next() {
            finish(next, &mut out, pages, &mut results);
        }
        for (tag, left) in out.iter_mut().enumerate() {
            if left.take().is_some() {
                results[tag] = self.load_unit(entries[tag], pages.of(tag));
            }
        }
        Ok(results)
    }

    /// If the page needs no request, loads it and returns `None`; if it is on the device, only adds it to
    /// `on_device`. Otherwise submits a request and returns its pool and checksum.
    fn begin_load<'s>(
        &'s self,
        batch: &mut Batch<'_>,
        entry: SwapEntry,
        page: &mut [u8],
        tag: usize,
        on_device: &mut Vec<OnDevice<'s>>,
    ) -> Result<Option<Out<'s>>, LoadError> {
        // Reserved with no lock held. Without memory, the page is loaded by itself.
        let has_room = self.backing.is_some() && on_device.try_reserve(1).is_ok();
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
            Content::OnDevice(at) if has_room => {
                let object = self.segments().pin(at).ok_or(LoadError::Forked { entry })?;
                locked.replace(self.seen_on_device(word));
                let note = Noted { tag, word, sum: locked.sum() };
                drop(locked);
                on_device.push(Wanted { key: entry.key(), object, note });
                Ok(None)
            }
            Content::OnDevice(_) => {
                drop(locked);
                self.load_unit(entry, page).map(|()| None)
            }
            Content::Stored { pool, bits, .. } => {
                locked.replace(word.referenced());
                let sum = locked.sum();
                let pool = self.areas.of(entry).pools.of_page(pool);
                self.with_object(entry, locked, pool, bits, |pool, object| {
                    // An uncompressed page only has to be copied. A codec that needs no context decompresses
                    // faster here than through a request.
                    if object.len() == self.unit || pool.codec.stateless().is_some() {
                        self.restore(entry, pool, &object, page, sum)?;
                        return Ok(None);
                    }
                    let op = AcompOp::Decompress;
                    let submitted = batch.submit(pool, op, &object, self.unit, tag);
                    submitted.map_err(|error| self.count_fault(entry, Fault::Codec(error)))?;
                    drop(object);
                    Ok(Some(Out { pool: pool.again(), sum }))
                })
            }
        }
    }

    /// Loads pages from the device, in the order of their places there.
    fn load_all_from_device(
        &self,
        mut on_device: Vec<OnDevice<'_>>,
        entries: &[SwapEntry],
        pages: &mut Pages<'_>,
        results: &mut [Result<(), LoadError>],
    ) {
        let Some(segments) = self.backing.as_ref() else { return };
        segments.read_merged(&mut on_device, |wanted, bytes| {
            let &Noted { tag, word, sum } = &wanted.note;
            let (entry, page) = (entries[tag], pages.of(tag));
            results[tag] = match bytes {
                Ok(bytes) => self.restore_from_device(entry, &wanted.object, bytes, page, sum),
                Err(source) => Err(LoadError::Device { entry, source }),
            };
            if results[tag].is_ok() {
                self.promote_if_wanted(entry, word, page);
            }
        });
    }
}
