//! One turn: a contestant is filled, filled again in random order, and read in random order. Then, if
//! the plan says so, most pages are freed. The bare codec is measured right before or right after the contestant.
//!
//! After each filling, every page is checked, untimed. A stored page is correct only if a load returns it byte for
//! byte into a buffer that held something else. A refused page is correct only if the contestant reports that it
//! does not have the page. Threads share the work evenly. A single thread stays on the processor where the turn
//! began. If there are several threads, each stays on the processor of its lane.

use std::fmt::Display;

use compressors::Compressor;

use crate::aligned::Page;
use crate::codec::{self, Orders};
use crate::contestant::{Contestant, Memory, Worker};
use crate::error::Error;
use crate::lanes::{Harvest, Lanes, POISON};
use crate::order::shuffled;
use crate::pages::PageSet;
use crate::pin::Pinned;
use crate::timing::Summary;

/// Says what happens in a turn. All contestants of a round have the same plan.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// The pages.
    pub set: &'a PageSet,
    /// The pages in one store or load, which are called a unit. The set must be a multiple of the unit. Units
    /// that contain a same-filled page are not timed.
    pub unit: usize,
    /// The number of the round, which seeds the orders. In odd rounds the codec goes first.
    pub round: u64,
    /// Whether three quarters of the pages are freed at the end. This has no effect if a unit is more than one
    /// page.
    pub frees: bool,
}

/// Memory after three quarters of the pages were freed, in random order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Freed {
    /// Bytes of the remaining compressed pages.
    pub compressed_bytes: usize,
    /// All memory that the contestant holds, in bytes.
    pub resident_bytes: usize,
    /// All memory that the contestant holds after it returned memory to the system, in bytes.
    pub tidied_bytes: usize,
}

/// The results of a turn. Times are per page; `None` where nothing was timed.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Turn {
    /// Pages offered to the contestant.
    pub pages: usize,
    /// Pages that the contestant refused, ascending.
    pub refused: Vec<usize>,
    /// Times of the stores of the first filling, in the order of the set.
    pub grow: Option<Summary>,
    /// Times of stores that replace older pages.
    pub store: Option<Summary>,
    /// Times of loads.
    pub load: Option<Summary>,
    /// Times of the bare codec's compressions.
    pub compress: Option<Summary>,
    /// Times of the bare codec's decompressions.
    pub decompress: Option<Summary>,
    /// The memory that the contestant held right after the first filling.
    pub memory: Memory,
    /// The memory that the contestant held after most pages were freed. `None` if the plan frees no pages, or if
    /// the contestant does not count resident bytes.
    pub freed: Option<Freed>,
    /// Why the first refused page was refused.
    pub refusal: Option<String>,
    /// The first thing that went wrong; `None` if every page came back equal every time.
    pub fault: Option<String>,
}

impl Turn {
    /// Records a fault unless an earlier one is recorded.
    fn failed(&mut self, what: impl FnOnce() -> String) {
        self.fault.get_or_insert_with(what);
    }

    fn has_refused(&self, page: usize) -> bool {
        !self.refused.is_empty() && self.refused.binary_search(&page).is_ok()
    }
}

/// Measures one contestant and the bare `codec`, if one is given. `build` makes the contestant, which is dropped
/// before the turn ends. `earlier` is the contestant's previous turn, if there was one. If the codec goes first,
/// it does not decompress the pages that were refused in the previous turn. It is a fault if the contestant
/// refuses other pages now than in the previous turn.
///
/// # Errors
///
/// * [`Error::PartialUnit`] if the set is not a multiple of the unit;
/// * errors of `build`;
/// * errors of the codec, as in [`codec::measure`];
/// * errors after which the contestant does not go on ([`Contestant::goes_on_after`]).
///
/// A problem with single pages is no error. It is recorded in [`Turn::fault`].
///
/// ```
/// use std::collections::HashMap;
/// use std::sync::Mutex;
///
/// use measure::{Contestant, Error, Lanes, Memory, Page, PageSet, Plan, Result, Worker, turn};
///
/// /// Keeps pages uncompressed.
/// #[derive(Default)]
/// struct Shelf(Mutex<HashMap<usize, Page>>);
///
/// impl Contestant<Error> for Shelf {
///     fn worker(&self) -> Result<Box<dyn Worker<Error> + '_>> {
///         Ok(Box::new(self))
///     }
///     fn free(&self, page: usize) -> Result<()> {
///         self.0.lock().unwrap().remove(&page);
///         Ok(())
///     }
///     fn tidy(&self) -> Result<()> {
///         Ok(())
///     }
///     fn memory(&self) -> Result<Memory> {
///         Ok(Memory::default())
///     }
/// }
///
/// impl Worker<Error> for &Shelf {
///     fn store(&mut self, first: usize, pages: &[Page]) -> Result<()> {
///         self.0.lock().unwrap().extend((first..).zip(pages.iter().copied()));
///         Ok(())
///     }
///     fn load(&mut self, first: usize, into: &mut [Page]) -> Result<bool> {
///         let shelf = self.0.lock().unwrap();
///         for (page, to) in (first..).zip(into) {
///             let Some(kept) = shelf.get(&page) else { return Ok(false) };
///             *to = *kept;
///         }
///         Ok(true)
///     }
/// }
///
/// let set = PageSet::load(&[], 64 << 20)?;
/// let mut lanes = Lanes::new(1, set.pages().len())?;
/// let plan = Plan { set: &set, unit: 1, round: 0, frees: false };
/// let result = turn(plan, None, None, &mut lanes, || Ok(Box::new(Shelf::default())))?;
/// assert_eq!((result.fault, result.refused), (None, vec![]));
/// println!("{:.0} ns a load", result.load.expect("pages were timed").mean);
/// # Ok::<(), Error>(())
/// ```
pub fn turn<E: Display + Send + From<Error>>(
    plan: Plan<'_>,
    earlier: Option<&Turn>,
    codec: Option<&dyn Compressor>,
    lanes: &mut Lanes,
    build: impl FnOnce() -> Result<Box<dyn Contestant<E>>, E>,
) -> Result<Turn, E> {
    let Plan { set, unit, round, .. } = plan;
    let pages = set.pages().len();
    if unit == 0 || pages % unit != 0 {
        return Err(Error::PartialUnit { pages, unit }.into());
    }
    let _pinned = (lanes.count() == 1).then(Pinned::here);
    lanes.resize_buffers(unit);
    let refused = earlier.map(|turn| turn.refused.clone()).unwrap_or_default();
    let mut turn = Turn { pages, refused, ..Turn::default() };
    let codec_first = round % 2 == 1;
    if codec_first {
        beside(plan, codec, lanes, &mut turn)?;
    }
    // The orders are made before memory is measured, so that they are not counted.
    let order = Order::new(plan);
    let contestant = build()?;
    Course { plan, contestant: &*contestant, lanes: &mut *lanes, turn: &mut turn }
        .run(order, earlier)?;
    drop(contestant);
    if !codec_first {
        beside(plan, codec, lanes, &mut turn)?;
    }
    Ok(turn)
}

/// Measures the bare codec and records its times, and its error if it failed.
fn beside(
    plan: Plan<'_>,
    codec: Option<&dyn Compressor>,
    lanes: &mut Lanes,
    turn: &mut Turn,
) -> Result<(), Error> {
    let Some(codec) = codec else { return Ok(()) };
    let (store, mut load) = codec_orders(plan);
    load.retain(|&page| !turn.has_refused(page));
    let times = codec::measure(codec, plan.set, Orders { store: &store, load: &load }, lanes)?;
    (turn.compress, turn.decompress) = (times.compress, times.decompress);
    if let Some(error) = times.fault {
        turn.failed(|| format!("the bare codec failed: {error}"));
    }
    Ok(())
}

/// Returns the orders in which a round's codec compresses and decompresses the timed pages.
pub fn codec_orders(plan: Plan<'_>) -> (Vec<usize>, Vec<usize>) {
    let order = |n| shuffled(plan.set.timed(), 2 * plan.round + n);
    (order(0), order(1))
}

/// The orders in which a contestant works. Each order lists units, by their first pages.
struct Order {
    /// All units, in the order of the set.
    fill: Vec<usize>,
    /// The timed units, in random order.
    store: Vec<usize>,
    /// The units that are not timed.
    others: Vec<usize>,
    /// The timed units, in another random order.
    load: Vec<usize>,
    /// All pages in random order; empty if the plan frees none.
    free: Vec<usize>,
}

impl Order {
    fn new(plan: Plan<'_>) -> Self {
        let fill: Vec<usize> = (0..plan.set.pages().len()).step_by(plan.unit).collect();
        let (timed, others): (Vec<usize>, Vec<usize>) =
            fill.iter().partition(|&&first| is_timed(plan, first));
        let order = |n| shuffled(&timed, 2 * plan.round + n);
        let frees = plan.frees && plan.unit == 1;
        let free = if frees { shuffled(&fill, 2 * plan.round + 2) } else { Vec::new() };
        Order { store: order(0), load: order(1), free, others, fill }
    }
}

/// Returns the pages of the units that are one word repeated throughout.
fn same_filled(plan: Plan<'_>) -> usize {
    let firsts = (0..plan.set.pages().len()).step_by(plan.unit);
    let repeats = |first: &usize| {
        let pages = unit(plan, *first);
        plan.set.is_same_filled(*first) && pages.iter().all(|page| *page == pages[0])
    };
    firsts.filter(repeats).count() * plan.unit
}

/// Returns whether no page of the unit is same-filled.
fn is_timed(plan: Plan<'_>, first: usize) -> bool {
    (first..first + plan.unit).all(|page| !plan.set.is_same_filled(page))
}

/// The part of a turn in which the contestant works.
struct Course<'a, E> {
    plan: Plan<'a>,
    contestant: &'a dyn Contestant<E>,
    lanes: &'a mut Lanes,
    turn: &'a mut Turn,
}

impl<E: Display + Send> Course<'_, E> {
    fn run(&mut self, mut order: Order, earlier: Option<&Turn>) -> Result<(), E> {
        let unit = self.plan.unit;
        self.turn.grow = self.fill(&order.fill)?.map(|times| times.per_page(unit));
        if earlier.is_some_and(|earlier| earlier.refused != self.turn.refused) {
            self.turn.failed(|| "one filling refused other pages than the next".to_owned());
        }
        self.turn.memory = self.contestant.memory()?;
        self.check_counts();
        self.check(&order.fill, "after the first filling")?;

        let store = self.fill_again(&order.store, &order.others)?;
        self.turn.store = store.map(|times| times.per_page(unit));
        self.contestant.settle()?;
        order.load.retain(|&first| !self.turn.has_refused(first));
        self.turn.load = self.load(&order.load)?.map(|times| times.per_page(unit));
        self.check(&order.fill, "after it was stored again")?;

        if self.plan.frees && unit == 1 {
            self.free(&order.free)?;
        }
        Ok(())
    }

    /// Fills the contestant for the first time, in the order of the set. Records refused pages.
    fn fill(&mut self, firsts: &[usize]) -> Result<Option<Summary>, E> {
        let (plan, contestant) = (self.plan, self.contestant);
        let filled = self.lanes.measure(
            firsts,
            |_, share| {
                let mut worker = contestant.worker()?;
                if let Some(&first) = share.iter().find(|&&first| is_timed(plan, first)) {
                    worker.warm(first, unit(plan, first))?;
                }
                Ok(worker)
            },
            |lane, share, mut worker| {
                let (mut refused, mut refusal) = (Vec::new(), None);
                for &first in share {
                    let result = worker.store(first, unit(plan, first));
                    if is_timed(plan, first) {
                        lane.laps.lap();
                    } else {
                        lane.laps.skip();
                    }
                    if let Err(error) = result {
                        let error = single(contestant, error)?;
                        refusal.get_or_insert_with(|| error.to_string());
                        refused.extend(first..first + plan.unit);
                    }
                }
                Ok((refused, refusal))
            },
        )?;
        self.turn.refused.clear();
        for (refused, refusal) in filled.results {
            self.turn.refused.extend(refused);
            self.turn.refusal = self.turn.refusal.take().or(refusal);
        }
        Ok(filled.times)
    }

    /// Records a fault if the contestant's counts of pages differ from what the filling stored.
    fn check_counts(&mut self) {
        let Some(counted) = self.turn.memory.pool else { return };
        let taken = self.turn.pages - self.turn.refused.len();
        let same_filled = same_filled(self.plan);
        if counted.pages != taken || counted.same_filled != same_filled {
            self.turn.failed(|| {
                format!(
                    "the store counts {} pages, {} of them same-filled; it took {taken}, {same_filled} \
                     of them same-filled",
                    counted.pages, counted.same_filled
                )
            });
        }
    }

    /// Stores every unit once more: the timed ones in random order, then the others, untimed. Records a fault if a
    /// unit that was taken before is refused now, or the reverse. Returns the times.
    fn fill_again(&mut self, timed: &[usize], others: &[usize]) -> Result<Option<Summary>, E> {
        let (plan, contestant, turn) = (self.plan, self.contestant, &*self.turn);
        let again = |worker: &mut dyn Worker<E>, first: usize| match worker
            .store(first, unit(plan, first))
        {
            Ok(()) => Ok(turn
                .has_refused(first)
                .then(|| format!("page {first} was refused at first and taken when stored again"))),
            Err(error) => {
                let error = single(contestant, error)?;
                Ok((!turn.has_refused(first))
                    .then(|| format!("page {first} was refused when it was stored again: {error}")))
            }
        };
        let harvest = self.lanes.measure(
            timed,
            |_, _| contestant.worker(),
            |lane, share, mut worker| {
                let mut changed = None;
                for &first in share {
                    let result = again(&mut *worker, first);
                    lane.laps.lap();
                    changed = changed.or(result?);
                }
                Ok(changed)
            },
        )?;
        let mut changed = harvest.results.into_iter().flatten().next();
        let mut worker = contestant.worker()?;
        for &first in others {
            changed = changed.or(again(&mut *worker, first)?);
        }
        drop(worker);
        if let Some(fault) = changed {
            self.turn.failed(|| fault);
        }
        Ok(harvest.times)
    }

    /// Loads the units of `firsts`, none of which was refused. Records a fault if a unit is not loaded.
    fn load(&mut self, firsts: &[usize]) -> Result<Option<Summary>, E> {
        let contestant = self.contestant;
        let harvest: Harvest<Option<String>> = self.lanes.measure(
            firsts,
            |_, _| contestant.worker(),
            |lane, share, mut worker| {
                let (laps, buffer) = lane.parts();
                let mut lost = None;
                for &first in share {
                    let result = worker.load(first, buffer);
                    laps.lap();
                    if !matches!(result, Ok(true)) {
                        let why = why_lost(contestant, result)?;
                        lost.get_or_insert_with(|| {
                            format!("page {first} could not be loaded: {why}")
                        });
                    }
                }
                Ok(lost)
            },
        )?;
        if let Some(fault) = harvest.results.into_iter().flatten().next() {
            self.turn.failed(|| fault);
        }
        Ok(harvest.times)
    }

    /// Loads the units of `firsts`. Records a fault if one differs from the set, is missing although it was taken,
    /// or is there although it was refused.
    fn check(&mut self, firsts: &[usize], when: &str) -> Result<(), E> {
        self.contestant.settle()?;
        let mut worker = self.contestant.worker()?;
        for &first in firsts {
            let (_, buffer) = self.lanes.own().parts();
            buffer.as_flattened_mut().fill(POISON);
            let result = worker.load(first, buffer);
            let refused = self.turn.has_refused(first);
            let fault = match result {
                Ok(true) if !refused => {
                    let equal = buffer.iter().zip(unit(self.plan, first)).position(|(a, b)| a != b);
                    let Some(nth) = equal else { continue };
                    format!("page {} came back changed {when}", first + nth)
                }
                Ok(true) => format!("page {first} was refused and yet loaded {when}"),
                Ok(false) if refused => continue,
                Err(error) if refused => {
                    let error = single(self.contestant, error)?;
                    format!("refused page {first} gave another error {when}: {error}")
                }
                lost => {
                    let why = why_lost(self.contestant, lost)?;
                    format!("page {first} could not be loaded {when}: {why}")
                }
            };
            self.turn.failed(|| fault);
        }
        Ok(())
    }

    /// Frees three quarters of the pages in this order, and lets the contestant return memory to the system.
    /// Records the contestant's memory before and after it returns memory. Then checks the other pages.
    fn free(&mut self, order: &[usize]) -> Result<(), E> {
        self.contestant.settle()?;
        let (gone, left) = order.split_at(order.len() / 4 * 3);
        for &page in gone.iter().filter(|&&page| !self.turn.has_refused(page)) {
            self.contestant.free(page)?;
        }
        let freed = self.contestant.memory()?;
        self.contestant.tidy()?;
        let tidied = self.contestant.memory()?;
        self.turn.freed =
            freed.resident_bytes.zip(tidied.resident_bytes).map(|(resident, tidied)| Freed {
                compressed_bytes: freed.compressed_bytes.unwrap_or(0),
                resident_bytes: resident,
                tidied_bytes: tidied,
            });
        self.check(left, "after others were freed")
    }
}

/// Returns the pages of a unit.
fn unit(plan: Plan<'_>, first: usize) -> &[Page] {
    &plan.set.pages()[first..first + plan.unit]
}

/// Returns `Ok` with the error if it concerns single pages, and `Err` with the error if it must end the turn.
fn single<E>(contestant: &dyn Contestant<E>, error: E) -> Result<E, E> {
    if contestant.goes_on_after(&error) { Ok(error) } else { Err(error) }
}

/// Returns why a page that should be there was not loaded. Returns `Err` if the error must end the turn.
fn why_lost<E: Display>(
    contestant: &dyn Contestant<E>,
    result: Result<bool, E>,
) -> Result<String, E> {
    match result {
        Ok(_) => Ok("it is not there".to_owned()),
        Err(error) => single(contestant, error).map(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::{Mutex, PoisonError};

    use super::*;
    use crate::aligned::Pages;
    use crate::contestant::PoolUse;

    /// Keeps pages uncompressed.
    #[derive(Default)]
    struct Shelf {
        pages: Mutex<HashMap<usize, Page>>,
        /// A page that it refuses.
        refuses: Option<usize>,
        /// A page that it loses right after storing it.
        loses: Option<usize>,
        /// A page that ends the turn when it is stored.
        ends_at: Option<usize>,
        /// A page that it returns changed.
        changes: Option<usize>,
    }

    impl Shelf {
        fn with<T>(&self, what: impl FnOnce(&mut HashMap<usize, Page>) -> T) -> T {
            what(&mut self.pages.lock().unwrap_or_else(PoisonError::into_inner))
        }
    }

    type Result<T> = std::result::Result<T, String>;

    impl From<Error> for String {
        fn from(error: Error) -> String {
            error.to_string()
        }
    }

    impl Contestant<String> for Shelf {
        fn worker(&self) -> Result<Box<dyn Worker<String> + '_>> {
            Ok(Box::new(self))
        }
        fn free(&self, page: usize) -> Result<()> {
            self.with(|pages| pages.remove(&page)).map(drop).ok_or("freed twice".into())
        }
        fn tidy(&self) -> Result<()> {
            self.with(HashMap::shrink_to_fit);
            Ok(())
        }
        fn memory(&self) -> Result<Memory> {
            let pages = self.with(|pages| pages.len());
            let bytes = Some(pages * size_of::<Page>());
            let pool = Some(PoolUse { pages, ..PoolUse::default() });
            Ok(Memory {
                compressed_bytes: bytes,
                resident_bytes: bytes,
                pool,
                metadata_bytes: None,
            })
        }
        fn goes_on_after(&self, error: &String) -> bool {
            error != "the end"
        }
    }

    impl Worker<String> for &Shelf {
        fn store(&mut self, first: usize, pages: &[Page]) -> Result<()> {
            let about = first..first + pages.len();
            let is = |page: Option<usize>| page.is_some_and(|page| about.contains(&page));
            if is(self.ends_at) {
                return Err("the end".into());
            }
            if is(self.refuses) {
                return Err("no room".into());
            }
            self.with(|map| map.extend((first..).zip(pages.iter().copied())));
            if let Some(page) = self.loses {
                self.with(|map| map.remove(&page));
            }
            Ok(())
        }
        fn load(&mut self, first: usize, into: &mut [Page]) -> Result<bool> {
            for (page, to) in (first..).zip(into) {
                let Some(kept) = self.with(|map| map.get(&page).copied()) else { return Ok(false) };
                *to = kept;
                to[77] ^= u8::from(self.changes == Some(page));
            }
            Ok(true)
        }
    }

    /// Returns 32 pages, none of them same-filled.
    fn set() -> PageSet {
        let page = |n: u8| -> Page { std::array::from_fn(|i| (i / 9) as u8 ^ n) };
        PageSet::new((0..32).map(page).collect::<Pages>(), "a test".into())
    }

    fn one(shelf: Shelf, unit: usize, threads: usize, round: u64) -> Result<Turn> {
        let set = set();
        let mut lanes = Lanes::new(threads, 32).unwrap();
        let lz4 = compressors::build("lz4").unwrap();
        let plan = Plan { set: &set, unit, round, frees: true };
        turn(plan, None, Some(&*lz4), &mut lanes, || Ok(Box::new(shelf)))
    }

    #[test]
    fn units_of_any_size_are_timed_by_the_page_and_three_of_four_pages_freed() {
        for (unit, threads, round) in [(1, 1, 0), (1, 3, 1), (4, 2, 1), (32, 1, 0)] {
            let outcome = one(Shelf::default(), unit, threads, round).unwrap();
            assert_eq!(
                (outcome.fault, outcome.refusal, &outcome.refused[..]),
                (None, None, &[][..])
            );
            for times in
                [outcome.grow, outcome.store, outcome.load, outcome.compress, outcome.decompress]
            {
                assert!(times.unwrap().per_second > 0.0);
            }
            let all = 32 * size_of::<Page>();
            assert_eq!((outcome.pages, outcome.memory.compressed_bytes), (32, Some(all)));
            let left = all / 4;
            let freed = Freed { compressed_bytes: left, resident_bytes: left, tidied_bytes: left };
            assert_eq!(outcome.freed, (unit == 1).then_some(freed));
        }
        assert!(one(Shelf::default(), 5, 1, 0).unwrap_err().contains("not a multiple of the 5"));
    }

    #[test]
    fn what_goes_wrong_with_a_page_is_told_by_its_number() {
        for unit in [1, 4] {
            let changes = one(Shelf { changes: Some(9), ..Shelf::default() }, unit, 2, 0);
            let outcome = changes.unwrap().fault.unwrap();
            assert_eq!(outcome, "page 9 came back changed after the first filling");
        }
        let outcome = one(Shelf { loses: Some(9), ..Shelf::default() }, 1, 1, 0).unwrap();
        let said = outcome.fault.unwrap();
        assert_eq!(
            said,
            "the store counts 31 pages, 0 of them same-filled; it took 32, 0 of them same-filled"
        );
        let outcome = one(Shelf { refuses: Some(9), ..Shelf::default() }, 1, 2, 1).unwrap();
        assert_eq!((outcome.fault, outcome.refused), (None, vec![9]));
        assert_eq!(outcome.refusal.unwrap(), "no room");
    }

    #[test]
    fn an_error_of_more_than_a_page_ends_the_turn() {
        let ended = one(Shelf { ends_at: Some(9), ..Shelf::default() }, 1, 2, 0);
        assert_eq!(ended.unwrap_err(), "the end");
    }
}
