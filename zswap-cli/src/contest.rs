//! One pair of zpool and compressor: a fresh store in each round is filled, filled again, read and
//! checked, and the bare codec has its turn beside it.
//!
//! A page counts as right only if a load gives it back byte for byte into a buffer that held
//! something else; a refused page only if the store then says that it does not have it.

use std::sync::Arc;

use compressors::Compressor;
use measure::codec::{self, Orders};
use measure::{Clock, Lanes, POISON, PageSet, Pinned, Summary, shuffled};
use zswap_core::{LoadError, SwapEntry, Zswap};

use crate::error::{Error, Result};
use crate::figures::{Figures, Memory, Round};

/// The compressor that is left out unless it is asked for: it copies.
const NOT_BY_DEFAULT: &str = "null";

/// Where zpools and compressors come from.
#[derive(Clone, Debug)]
pub(crate) struct Stock {
    zpools: zpool_api::Registry,
    compressors: compressors::Registry,
}

impl Stock {
    /// Those that are built in.
    pub(crate) fn builtin() -> Self {
        Stock {
            zpools: zswap_core::builtin::zpools(),
            compressors: zswap_core::builtin::compressors(),
        }
    }

    pub(crate) fn zpool_names(&self) -> Vec<String> {
        self.zpools.names().map(str::to_owned).collect()
    }

    /// The names of the compressors that compress.
    pub(crate) fn compressor_names(&self) -> Vec<String> {
        let names = self.compressors.names().into_iter().filter(|&n| n != NOT_BY_DEFAULT);
        names.map(str::to_owned).collect()
    }

    pub(crate) fn check_zpool(&self, name: &str) -> Result<()> {
        let names = self.zpool_names();
        if names.iter().any(|known| known == name) {
            return Ok(());
        }
        Err(Error::UnknownZpool { name: name.to_owned(), known: names.join(", ") })
    }

    fn build(&self, zpool: &str, compressor: &str) -> Result<Zswap> {
        Zswap::builder()
            .zpool(zpool)
            .compressor(compressor)
            .zpool_registry(self.zpools.clone())
            .compressor_registry(self.compressors.clone())
            .build()
            .map_err(|source| Error::Build {
                zpool: zpool.to_owned(),
                compressor: compressor.to_owned(),
                source: Box::new(source),
            })
    }
}

/// What all pairs share: the lanes, and the orders of the current round.
pub(crate) struct Bench {
    timed: Vec<usize>,
    store_order: Vec<usize>,
    load_order: Vec<usize>,
    codec_first: bool,
    lanes: Lanes,
}

impl Bench {
    /// For so many threads, at least 1.
    pub(crate) fn new(set: &PageSet, threads: usize) -> Result<Self> {
        for page in [0, set.pages().len().saturating_sub(1)] {
            entry(page)?;
        }
        let mut bench = Bench {
            timed: set.timed().to_vec(),
            store_order: Vec::new(),
            load_order: Vec::new(),
            codec_first: false,
            lanes: Lanes::new(threads, set.pages().len())?,
        };
        bench.shuffle(0);
        Ok(bench)
    }

    pub(crate) fn clock(&self) -> Clock {
        self.lanes.clock()
    }

    /// New orders for another round.
    pub(crate) fn shuffle(&mut self, round: usize) {
        let seed = 2 * round as u64;
        self.store_order = shuffled(&self.timed, seed);
        self.load_order = shuffled(&self.timed, seed + 1);
        self.codec_first = round % 2 == 1;
    }
}

/// The swap entry of page `index`.
fn entry(index: usize) -> Result<SwapEntry> {
    SwapEntry::new(0, index as u64).map_err(|_| Error::Entry { page: index })
}

/// A pair and what was found out about it so far.
#[derive(Debug)]
pub(crate) struct Pair {
    zpool: String,
    spec: String,
    compressor: Arc<dyn Compressor>,
    /// Which pages the store took in its latest filling.
    held: Vec<bool>,
    memory: Option<Memory>,
    rounds: Vec<Round>,
    refusal: Option<String>,
    fault: Option<String>,
}

impl Pair {
    /// A pair that can be built; nothing is measured yet.
    pub(crate) fn new(stock: &Stock, zpool: &str, spec: &str) -> Result<Self> {
        let compressor = stock.compressors.build(spec)?;
        drop(stock.build(zpool, spec)?);
        Ok(Pair {
            zpool: zpool.to_owned(),
            spec: spec.to_owned(),
            compressor,
            held: Vec::new(),
            memory: None,
            rounds: Vec::new(),
            refusal: None,
            fault: None,
        })
    }

    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.zpool, self.spec)
    }

    /// One round: the store's turn and the codec's.
    pub(crate) fn round(&mut self, stock: &Stock, set: &PageSet, bench: &mut Bench) -> Result<()> {
        let mut round = Round::default();
        // Which pages a store refuses is known only after its first turn.
        if bench.codec_first && !self.held.is_empty() {
            self.codec_turn(set, bench, &mut round)?;
            self.store_turn(stock, set, bench, &mut round)?;
        } else {
            self.store_turn(stock, set, bench, &mut round)?;
            self.codec_turn(set, bench, &mut round)?;
        }
        self.rounds.push(round);
        Ok(())
    }

    fn codec_turn(&mut self, set: &PageSet, bench: &mut Bench, round: &mut Round) -> Result<()> {
        let _pinned = Pinned::here();
        let load = self.loaded(&bench.load_order);
        let orders = Orders { store: &bench.store_order, load: &load };
        let turn = codec::turn(&*self.compressor, set, orders, &mut bench.lanes)?;
        (round.compress, round.decompress) = (turn.compress, turn.decompress);
        if let Some(error) = turn.fault {
            self.failed(|| format!("the bare codec failed: {error}"));
        }
        Ok(())
    }

    fn store_turn(
        &mut self,
        stock: &Stock,
        set: &PageSet,
        bench: &mut Bench,
        round: &mut Round,
    ) -> Result<()> {
        let _pinned = Pinned::here();
        let store = stock.build(&self.zpool, &self.spec)?;
        round.grow = self.fill(&store, set, bench)?;
        self.take_stock(&store, set);
        self.check(&store, set, bench, "after the first filling")?;
        round.store = self.fill_again(&store, set, bench)?;
        round.load = self.load(&store, bench)?;
        self.check(&store, set, bench, "after it was stored again")
    }

    /// The first filling, in the order of the set.
    fn fill(&mut self, store: &Zswap, set: &PageSet, bench: &mut Bench) -> Result<Option<Summary>> {
        let all: Vec<usize> = (0..set.pages().len()).collect();
        let fill = bench.lanes.measure(
            &all,
            |_, share| warm(store, set, share),
            |lane, share, ()| {
                let mut held = Vec::with_capacity(share.len());
                let mut refusal = None;
                lane.laps.skip();
                for &i in share {
                    let result = store.store(entry(i)?, &set.pages()[i]);
                    if set.is_same_filled(i) {
                        lane.laps.skip();
                    } else {
                        lane.laps.lap();
                    }
                    held.push(result.is_ok());
                    if let Err(error) = result {
                        refusal.get_or_insert_with(|| error.to_string());
                    }
                }
                Ok((held, refusal))
            },
        )?;
        let before = std::mem::take(&mut self.held);
        self.held.reserve_exact(set.pages().len());
        for (held, refusal) in fill.results {
            self.held.extend(held);
            self.refusal = self.refusal.take().or(refusal);
        }
        if !before.is_empty() && before != self.held {
            self.failed(|| "one filling refused other pages than the next".to_owned());
        }
        Ok(fill.times)
    }

    /// Every page once more: those that are timed in random order, then the others.
    fn fill_again(
        &mut self,
        store: &Zswap,
        set: &PageSet,
        bench: &mut Bench,
    ) -> Result<Option<Summary>> {
        let held = &self.held;
        let again = bench.lanes.measure(
            &bench.store_order,
            |_, _| Ok::<_, Error>(()),
            |lane, share, ()| {
                let mut changed = None;
                for &i in share {
                    let result = store.store(entry(i)?, &set.pages()[i]);
                    lane.laps.lap();
                    if result.is_ok() != held[i] {
                        changed = Some((i, result));
                    }
                }
                Ok(changed)
            },
        )?;
        let mut changed = again.results.into_iter().flatten().next();
        for i in (0..set.pages().len()).filter(|&i| set.is_same_filled(i)) {
            let result = store.store(entry(i)?, &set.pages()[i]);
            if result.is_ok() != self.held[i] {
                changed = Some((i, result));
            }
        }
        if let Some((i, result)) = changed {
            self.failed(|| match result {
                Ok(()) => format!("page {i} was refused at first and taken when stored again"),
                Err(error) => format!("page {i} was refused when it was stored again: {error}"),
            });
        }
        Ok(again.times)
    }

    /// Loads every timed page that the store holds, in random order.
    fn load(&mut self, store: &Zswap, bench: &mut Bench) -> Result<Option<Summary>> {
        let order = self.loaded(&bench.load_order);
        let load = bench.lanes.measure(
            &order,
            |_, _| Ok::<_, Error>(()),
            |lane, share, ()| {
                let (laps, page) = lane.parts();
                let mut failed = None;
                for &i in share {
                    let result = store.load(entry(i)?, page);
                    laps.lap();
                    if let Err(error) = result {
                        failed = Some((i, error));
                    }
                }
                Ok(failed)
            },
        )?;
        if let Some((i, error)) = load.results.into_iter().flatten().next() {
            self.failed(|| format!("page {i} could not be loaded: {error}"));
        }
        Ok(load.times)
    }

    /// The pages of `order` that the store holds.
    fn loaded(&self, order: &[usize]) -> Vec<usize> {
        order.iter().copied().filter(|&i| self.held[i]).collect()
    }

    /// Reads the store's counters after the first filling of the first round, and holds them
    /// against what the filling saw.
    fn take_stock(&mut self, store: &Zswap, set: &PageSet) {
        if self.memory.is_some() {
            return;
        }
        let stats = store.stats();
        let held = self.held.iter().filter(|&&h| h).count();
        let memory = Memory {
            pages: set.pages().len(),
            same_filled: stats.same_filled_pages,
            stored: stats.stored_pages.saturating_sub(stats.same_filled_pages),
            rejected: set.pages().len() - held,
            incompressible: stats.stored_incompressible_pages,
            compressed_bytes: stats.compressed_bytes,
            pool_bytes: stats.pool_total_size,
            metadata_bytes: stats.metadata_bytes,
            context_bytes: stats.context_bytes,
        };
        self.memory = Some(memory);
        if stats.stored_pages != held || stats.same_filled_pages != set.same_filled() {
            self.failed(|| {
                format!(
                    "the store counts {} pages, {} of them same-filled; it took {held}, {} of them \
                     same-filled",
                    stats.stored_pages,
                    stats.same_filled_pages,
                    set.same_filled()
                )
            });
        }
    }

    /// Loads every page and compares it with the set.
    fn check(
        &mut self,
        store: &Zswap,
        set: &PageSet,
        bench: &mut Bench,
        when: &'static str,
    ) -> Result<()> {
        let buffer = bench.lanes.own().page();
        for (i, page) in set.pages().iter().enumerate() {
            buffer.fill(POISON);
            let result = store.load(entry(i)?, buffer);
            let fault = match (self.held[i], result) {
                (true, Ok(())) if buffer == page => continue,
                (false, Err(LoadError::NotFound { .. })) => continue,
                (true, Ok(())) => format!("page {i} came back changed {when}"),
                (true, Err(error)) => format!("page {i} could not be loaded {when}: {error}"),
                (false, Ok(())) => format!("page {i} was refused and yet loaded {when}"),
                (false, Err(error)) => {
                    format!("refused page {i} gave another error {when}: {error}")
                }
            };
            self.failed(|| fault);
        }
        Ok(())
    }

    /// Notes what went wrong, if it is the first.
    fn failed(&mut self, what: impl FnOnce() -> String) {
        self.fault.get_or_insert_with(what);
    }

    pub(crate) fn into_figures(self) -> Figures {
        Figures::new(
            (self.zpool, self.spec),
            self.memory.unwrap_or_default(),
            &self.rounds,
            self.refusal,
            self.fault,
        )
    }
}

/// Has the store make its contexts on this processor, and its first page, off the clock.
fn warm(store: &Zswap, set: &PageSet, share: &[usize]) -> Result<()> {
    if let Some(&i) = share.iter().find(|&&i| !set.is_same_filled(i)) {
        // A store that refuses this page does so again when it counts.
        if store.store(entry(i)?, &set.pages()[i]).is_ok() {
            store.invalidate(entry(i)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use compressors::{CompressorCtx, CompressorError};
    use zpool_api::{Handle, ObjRead, ObjWrite, PoolTag, Zpool, ZpoolCaps, ZpoolError, ZpoolStats};
    use zswap_core::{PAGE_SIZE, Page};

    /// Keeps the first half of a page and gives it back twice: right for pages whose halves are
    /// equal, wrong for all others. After `strength` pages it gives nothing back and calls that a
    /// success.
    #[derive(Debug, Clone)]
    struct Halves {
        strength: usize,
    }

    impl Compressor for Halves {
        fn name(&self) -> &str {
            "halves"
        }
        fn spec(&self) -> String {
            "halves".into()
        }
        fn max_compressed_len(&self, src_len: usize) -> usize {
            src_len
        }
        fn new_ctx(&self) -> std::result::Result<Box<dyn CompressorCtx>, CompressorError> {
            Ok(Box::new(self.clone()))
        }
    }

    impl CompressorCtx for Halves {
        fn compress(
            &mut self,
            src: &[u8],
            dst: &mut [u8],
        ) -> std::result::Result<usize, CompressorError> {
            let half = src.len() / 2;
            dst[..half].copy_from_slice(&src[..half]);
            Ok(half)
        }
        fn decompress(
            &mut self,
            src: &[u8],
            dst: &mut [u8],
        ) -> std::result::Result<(), CompressorError> {
            if let Some(left) = self.strength.checked_sub(1) {
                self.strength = left;
                for half in dst.chunks_mut(src.len()) {
                    half.copy_from_slice(&src[..half.len()]);
                }
            }
            Ok(())
        }
        fn memory_bytes(&self) -> usize {
            0
        }
    }

    /// A backend that says it takes whole pages and has room for objects of up to 1000 bytes only.
    #[derive(Debug)]
    struct Small(Arc<dyn Zpool>);

    impl Zpool for Small {
        fn name(&self) -> &'static str {
            "small"
        }
        fn tag(&self) -> PoolTag {
            self.0.tag()
        }
        fn caps(&self) -> ZpoolCaps {
            ZpoolCaps::new(PAGE_SIZE)
        }
        fn malloc(&self, size: usize) -> std::result::Result<ObjWrite<'_>, ZpoolError> {
            if size > 1000 {
                return Err(ZpoolError::ObjectTooLarge { size, max: 1000, backend: "small" });
            }
            self.0.malloc(size)
        }
        fn free(&self, handle: Handle) -> std::result::Result<(), ZpoolError> {
            self.0.free(handle)
        }
        fn obj_read_begin(&self, handle: Handle) -> std::result::Result<ObjRead<'_>, ZpoolError> {
            self.0.obj_read_begin(handle)
        }
        fn total_pages(&self) -> usize {
            self.0.total_pages()
        }
        fn stats(&self) -> ZpoolStats {
            self.0.stats()
        }
    }

    fn stock() -> Stock {
        let mut stock = Stock::builtin();
        for (name, strength) in [("halves", usize::MAX), ("tired", 1)] {
            let halves = move |_: &compressors::Spec| Ok(Arc::new(Halves { strength }) as Arc<_>);
            stock.compressors.register(name, halves).unwrap();
        }
        let inner = stock.zpools.clone();
        let small = move |config: &zpool_api::ZpoolConfig| {
            Ok(Arc::new(Small(inner.build("zbud", config)?)) as Arc<_>)
        };
        stock.zpools.register("small", small).unwrap();
        stock
    }

    /// A page that shrinks: its second half repeats the first, which is numbered.
    fn twice(number: u16) -> Page {
        let mut page = [0; PAGE_SIZE];
        for half in page.chunks_mut(PAGE_SIZE / 2) {
            half[..2].copy_from_slice(&number.to_ne_bytes());
            half[100..110].copy_from_slice(b"some words");
        }
        page
    }

    /// A page that no codec shrinks.
    fn noise() -> Page {
        let bytes = shuffled(&(0..PAGE_SIZE).collect::<Vec<_>>(), 9);
        let mut page = [0; PAGE_SIZE];
        for (to, from) in page.iter_mut().zip(bytes) {
            *to = from as u8 ^ (from >> 8) as u8;
        }
        page
    }

    fn figures(zpool: &str, compressor: &str, pages: Vec<Page>, rounds: usize) -> Figures {
        figures_by(1, zpool, compressor, pages, rounds)
    }

    fn figures_by(
        threads: usize,
        zpool: &str,
        compressor: &str,
        pages: Vec<Page>,
        rounds: usize,
    ) -> Figures {
        let stock = stock();
        let set = PageSet::new(pages, "a test".into());
        let mut bench = Bench::new(&set, threads).unwrap();
        let mut pair = Pair::new(&stock, zpool, compressor).unwrap();
        for round in 0..rounds {
            bench.shuffle(round);
            pair.round(&stock, &set, &mut bench).unwrap();
        }
        pair.into_figures()
    }

    #[test]
    fn pages_are_counted_by_what_became_of_them() {
        let pages = vec![twice(1), [7; PAGE_SIZE], noise(), twice(2), [0; PAGE_SIZE], twice(3)];
        let f = figures("zbud", "lz4", pages, 2);
        assert_eq!(f.fault, None);
        let m = f.memory;
        assert_eq!((m.pages, m.same_filled, m.stored, m.rejected), (6, 2, 4, 0));
        assert_eq!(m.incompressible, 1);
        assert!((PAGE_SIZE..PAGE_SIZE + 3 * 200).contains(&m.compressed_bytes), "{m:?}");
        assert!(m.pool_bytes >= m.compressed_bytes, "{m:?}");
        for times in [f.store, f.grow, f.load, f.compress, f.decompress] {
            let times = times.unwrap();
            assert!(times.mean > 0.0 && times.p50 <= times.p99, "{times:?}");
        }
    }

    #[test]
    fn several_threads_do_the_same_work_between_them() {
        let mut pages: Vec<Page> = (0..50).map(twice).collect();
        pages.extend([[7; PAGE_SIZE], noise(), [0; PAGE_SIZE]]);
        for threads in [2, 3, 60] {
            let f = figures_by(threads, "zbud", "lz4", pages.clone(), 2);
            let one = figures("zbud", "lz4", pages.clone(), 2);
            let counts = |m: Memory| {
                (m.pages, m.same_filled, m.stored, m.rejected, m.incompressible, m.compressed_bytes)
            };
            assert_eq!((f.fault.clone(), counts(f.memory)), (None, counts(one.memory)));
            for times in [f.store, f.grow, f.load, f.compress, f.decompress] {
                assert!(times.unwrap().per_second > 0.0, "{times:?}");
            }
        }
        pages[40][PAGE_SIZE - 1] ^= 1;
        let fault = figures_by(3, "zbud", "halves", pages[..50].to_vec(), 1).fault;
        assert_eq!(fault.unwrap(), "page 40 came back changed after the first filling");
    }

    #[test]
    fn a_page_that_comes_back_changed_is_seen() {
        let good = vec![twice(1), twice(2), twice(3)];
        assert_eq!(figures("zbud", "halves", good.clone(), 2).fault, None);
        let mut pages = good;
        pages[1][PAGE_SIZE - 1] ^= 1;
        let fault = figures("zbud", "halves", pages, 1).fault;
        assert_eq!(fault.unwrap(), "page 1 came back changed after the first filling");
    }

    #[test]
    fn a_load_that_writes_nothing_is_seen() {
        // Equal pages: what the first load wrote would do for the others.
        let fault = figures("zbud", "tired", vec![twice(1); 3], 1).fault;
        assert_eq!(fault.unwrap(), "page 1 came back changed after the first filling");
    }

    #[test]
    fn refused_pages_are_counted_and_not_loaded() {
        let f = figures("small", "lz4", vec![twice(1), noise(), [7; PAGE_SIZE], noise()], 3);
        assert_eq!(f.fault, None);
        let m = f.memory;
        assert_eq!((m.pages, m.same_filled, m.stored, m.rejected), (4, 1, 1, 2));
        assert_eq!(m.incompressible, 0);
        assert!(f.refusal.unwrap().contains("1000"));
    }

    #[test]
    fn same_filled_pages_alone_have_no_times() {
        let f = figures("zbud", "lz4", vec![[1; PAGE_SIZE], [2; PAGE_SIZE]], 2);
        assert_eq!((f.fault.as_deref(), f.memory.same_filled, f.memory.stored), (None, 2, 0));
        assert_eq!((f.grow, f.store, f.load), (None, None, None));
        assert_eq!((f.compress, f.decompress, f.load_over_codec), (None, None, None));
    }

    #[test]
    fn a_refused_first_page_leaves_the_store_as_it_was() {
        let f = figures("small", "lz4", vec![noise(), twice(1)], 1);
        assert_eq!((f.fault.as_deref(), f.memory.stored, f.memory.rejected), (None, 1, 1));
    }

    #[test]
    fn unknown_names_are_refused_before_anything_is_measured() {
        let stock = stock();
        let zpool = stock.check_zpool("zbad").unwrap_err();
        assert_eq!(
            zpool.to_string(),
            "no zpool is named \"zbad\"; give --zpool some of: small, z3fold, zbud, zsmalloc"
        );
        assert!(stock.check_zpool("zbud").is_ok());
        let compressor = Pair::new(&stock, "zbud", "lz5").unwrap_err();
        assert!(compressor.to_string().contains("lz5"), "{compressor}");
        assert!(matches!(Pair::new(&stock, "zbad", "lz4"), Err(Error::Build { .. })));
    }

    #[test]
    fn all_compressors_but_null_are_meant_by_default() {
        let names = Stock::builtin().compressor_names();
        for name in ["lz4", "lz4hc", "zstd", "deflate"] {
            assert!(names.iter().any(|n| n == name), "{name} not in {names:?}");
        }
        assert!(!names.iter().any(|n| n == "null"));
    }
}
