//! One pair of zpool and compressor as a contestant: each round measures a fresh store and the bare codec.

use std::sync::Arc;

use compressors::Compressor;
use measure::store::{Store, StoreFault};
use measure::{Contestant, Figures, Lanes, Name, PageSet, Plan, Turn};
use zswap_core::{PAGE_SIZE, Zswap};

use crate::error::{Error, Result};

/// The compressor that is left out by default: it only copies.
const NOT_BY_DEFAULT: &str = "null";

/// The registries of zpools and compressors.
#[derive(Clone, Debug)]
pub(crate) struct Stock {
    zpools: zpool_api::Registry,
    compressors: compressors::Registry,
}

impl Stock {
    /// Returns the registries of everything that is built in.
    pub(crate) fn builtin() -> Self {
        Stock {
            zpools: zswap_core::builtin::zpools(),
            compressors: zswap_core::builtin::compressors(),
        }
    }

    pub(crate) fn zpool_names(&self) -> Vec<String> {
        self.zpools.names().map(str::to_owned).collect()
    }

    /// Returns the names of all compressors except `null`, which only copies.
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

    fn build(&self, zpool: &str, compressor: &str, unit: usize) -> Result<Zswap> {
        Zswap::builder()
            .unit(unit)
            .zpool(zpool)
            .compressor(compressor)
            .zpool_registry(self.zpools.clone())
            .compressor_registry(self.compressors.clone())
            .build()
            .map_err(|reason| Error::Build {
                zpool: zpool.to_owned(),
                compressor: compressor.to_owned(),
                reason: Box::new(reason),
            })
    }
}

/// A pair and its turns so far.
#[derive(Debug)]
pub(crate) struct Pair {
    zpool: String,
    spec: String,
    /// Bytes that are compressed at a time.
    unit: usize,
    compressor: Arc<dyn Compressor>,
    turns: Vec<Turn>,
}

impl Pair {
    /// Makes a pair, and checks that its compressor and a store can be built. Measures nothing yet.
    pub(crate) fn new(stock: &Stock, zpool: &str, spec: &str, unit: usize) -> Result<Self> {
        let compressor = stock.compressors.build(spec)?;
        drop(stock.build(zpool, spec, unit)?);
        let (zpool, spec) = (zpool.to_owned(), spec.to_owned());
        Ok(Pair { zpool, spec, unit, compressor, turns: Vec::new() })
    }

    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.shown_zpool(), self.spec)
    }

    /// Returns the backend's name, with the unit if it is not a page.
    fn shown_zpool(&self) -> String {
        match self.unit {
            PAGE_SIZE => self.zpool.clone(),
            unit => format!("{} {}K", self.zpool, unit / 1024),
        }
    }

    /// Measures a fresh store and the codec for one more turn.
    pub(crate) fn turn(
        &mut self,
        stock: &Stock,
        set: &PageSet,
        lanes: &mut Lanes,
        round: u64,
    ) -> Result<()> {
        let plan = Plan { set, unit: self.unit / PAGE_SIZE, round, frees: false };
        let build = || {
            let store = stock.build(&self.zpool, &self.spec, self.unit)?;
            // A page that is refused or lost is reported; the pair goes on with the others.
            let goes_on = |error: &Error| {
                matches!(error, Error::Store(StoreFault::Store(_) | StoreFault::Load(_)))
            };
            Ok(Box::new(Store::new(store, goes_on)) as Box<dyn Contestant<Error>>)
        };
        let codec = (self.unit == PAGE_SIZE).then_some(&*self.compressor);
        let turn = measure::turn(plan, self.turns.last(), codec, lanes, build)?;
        self.turns.push(turn);
        Ok(())
    }

    pub(crate) fn into_figures(self, threads: usize) -> Figures {
        let name = Name {
            contestant: "zswap-core".to_owned(),
            zpool: Some(self.shown_zpool()),
            compressor: self.spec,
        };
        Figures::over(name, threads, &self.turns)
    }
}

/// Returns the name of a pair's backend in reports.
pub(crate) fn zpool(figures: &Figures) -> &str {
    figures.name.zpool.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use compressors::{CompressorCtx, CompressorError};
    use measure::{Page, shuffled};
    use zpool_api::{Handle, ObjRead, ObjWrite, PoolTag, Zpool, ZpoolCaps, ZpoolError, ZpoolStats};

    /// A compressor that keeps only the first half of a page, and on decompression writes it twice.
    /// This is right for pages whose halves are equal, and wrong for others. After `strength` pages,
    /// decompression still reports success, but writes nothing.
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

    /// A backend that claims to take whole pages but has room only for objects of up to 1000 bytes.
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

    /// A compressible page: its second half repeats the first, which contains a number.
    fn twice(number: u16) -> Page {
        let mut page = [0; PAGE_SIZE];
        for half in page.chunks_mut(PAGE_SIZE / 2) {
            half[..2].copy_from_slice(&number.to_ne_bytes());
            half[100..110].copy_from_slice(b"some words");
        }
        page
    }

    /// An incompressible page.
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
        let set = PageSet::new(pages.into(), "a test".into());
        let mut lanes = Lanes::new(threads, set.pages().len()).unwrap();
        let mut pair = Pair::new(&stock, zpool, compressor, PAGE_SIZE).unwrap();
        for round in 0..rounds {
            pair.turn(&stock, &set, &mut lanes, round as u64).unwrap();
        }
        pair.into_figures(threads)
    }

    #[test]
    fn pages_are_counted_by_what_became_of_them() {
        let pages = vec![twice(1), [7; PAGE_SIZE], noise(), twice(2), [0; PAGE_SIZE], twice(3)];
        let f = figures("zbud", "lz4", pages, 2);
        assert_eq!(f.fault, None);
        let m = f.pool();
        assert_eq!((f.pages, m.same_filled, m.stored(), f.refused), (6, 2, 4, 0));
        assert_eq!(m.incompressible, 1);
        let compressed_bytes = f.memory.compressed_bytes.unwrap();
        assert!((PAGE_SIZE..PAGE_SIZE + 3 * 200).contains(&compressed_bytes), "{f:?}");
        assert!(m.pool_bytes >= compressed_bytes, "{m:?}");
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
            let counts = |f: &Figures| {
                let m = f.pool();
                let of_store = (m.pages, m.same_filled, m.stored(), m.incompressible);
                (f.pages, f.refused, of_store, f.memory.compressed_bytes)
            };
            assert_eq!((f.fault.clone(), counts(&f)), (None, counts(&one)));
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
        // All pages are equal, so a buffer that still holds the first page would pass for the others.
        let fault = figures("zbud", "tired", vec![twice(1); 3], 1).fault;
        assert_eq!(fault.unwrap(), "page 1 came back changed after the first filling");
    }

    #[test]
    fn refused_pages_are_counted_and_not_loaded() {
        let f = figures("small", "lz4", vec![twice(1), noise(), [7; PAGE_SIZE], noise()], 3);
        assert_eq!(f.fault, None);
        let m = f.pool();
        assert_eq!((f.pages, m.same_filled, m.stored(), f.refused), (4, 1, 1, 2));
        assert_eq!(m.incompressible, 0);
        assert!(f.refusal.unwrap().contains("1000"));
    }

    #[test]
    fn same_filled_pages_alone_have_no_times() {
        let f = figures("zbud", "lz4", vec![[1; PAGE_SIZE], [2; PAGE_SIZE]], 2);
        let m = f.pool();
        assert_eq!((f.fault.as_deref(), m.same_filled, m.stored()), (None, 2, 0));
        assert_eq!((f.grow, f.store, f.load), (None, None, None));
        assert_eq!((f.compress, f.decompress, f.load_over_codec), (None, None, None));
    }

    #[test]
    fn a_refused_first_page_leaves_the_store_as_it_was() {
        let f = figures("small", "lz4", vec![noise(), twice(1)], 1);
        assert_eq!((f.fault.as_deref(), f.pool().stored(), f.refused), (None, 1, 1));
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
        let compressor = Pair::new(&stock, "zbud", "lz5", PAGE_SIZE).unwrap_err();
        assert!(compressor.to_string().contains("lz5"), "{compressor}");
        assert!(matches!(Pair::new(&stock, "zbad", "lz4", PAGE_SIZE), Err(Error::Build { .. })));
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
