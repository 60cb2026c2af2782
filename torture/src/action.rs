//! The kinds of action. Counts how often each ran, and how often it overlapped others.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What a thread can do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Action {
    /// Store one page.
    Store,
    /// Store one page. If the store refuses it, the older page stays.
    TryReplace,
    /// Load one page.
    Load,
    /// Take one page.
    Take,
    /// Drop one page.
    Invalidate,
    /// Check for one entry.
    Contains,
    /// Store several pages at once.
    StoreBatch,
    /// Load several pages at once.
    LoadBatch,
    /// Drop all pages of an area.
    Area,
    /// List all entries.
    Entries,
    /// Read the statistics.
    Stats,
    /// Switch to another compressor and back.
    SwitchCompressor,
    /// Switch to another backend and back.
    SwitchZpool,
    /// Switch to another compressor or backend.
    Switch,
    /// Move pages into the current pool.
    Migrate,
    /// Recompress pages.
    Recompress,
    /// Write pages back.
    Shrink,
    /// Flush the device.
    FlushDevice,
    /// Compact the pools.
    Compact,
    /// Compact the pools while guards are held.
    CompactGuarded,
    /// Return cached pages to the system.
    Trim,
    /// Make the device fail.
    DeviceFault,
    /// Make the device work again.
    DeviceRecovery,
    /// Make one of the next page requests fail.
    PageFault,
    /// Switch writeback off or on.
    Writeback,
    /// Change a limit.
    Limit,
    /// Start or stop background threads.
    Background,
    /// Fork the process; the child drops its store.
    Fork,
}

impl Action {
    /// Every action.
    pub const ALL: [Action; 28] = [
        Action::Store,
        Action::TryReplace,
        Action::Load,
        Action::Take,
        Action::Invalidate,
        Action::Contains,
        Action::StoreBatch,
        Action::LoadBatch,
        Action::Area,
        Action::Entries,
        Action::Stats,
        Action::SwitchCompressor,
        Action::SwitchZpool,
        Action::Switch,
        Action::Migrate,
        Action::Recompress,
        Action::Shrink,
        Action::FlushDevice,
        Action::Compact,
        Action::CompactGuarded,
        Action::Trim,
        Action::DeviceFault,
        Action::DeviceRecovery,
        Action::PageFault,
        Action::Writeback,
        Action::Limit,
        Action::Background,
        Action::Fork,
    ];

    /// Returns the action's name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Action::Store => "store",
            Action::TryReplace => "try-replace",
            Action::Load => "load",
            Action::Take => "take",
            Action::Invalidate => "invalidate",
            Action::Contains => "contains",
            Action::StoreBatch => "store-batch",
            Action::LoadBatch => "load-batch",
            Action::Area => "invalidate-area",
            Action::Entries => "entries",
            Action::Stats => "stats",
            Action::SwitchCompressor => "switch-compressor-and-back",
            Action::SwitchZpool => "switch-zpool-and-back",
            Action::Switch => "switch",
            Action::Migrate => "migrate",
            Action::Recompress => "recompress",
            Action::Shrink => "shrink",
            Action::FlushDevice => "flush-device",
            Action::Compact => "compact",
            Action::CompactGuarded => "compact-with-guards",
            Action::Trim => "trim",
            Action::DeviceFault => "device-fault",
            Action::DeviceRecovery => "device-recovery",
            Action::PageFault => "page-fault",
            Action::Writeback => "writeback",
            Action::Limit => "limit",
            Action::Background => "background",
            Action::Fork => "fork",
        }
    }

    /// Returns the action with this name, or None if there is no such action.
    pub fn named(name: &str) -> Option<Action> {
        Action::ALL.into_iter().find(|action| action.name() == name)
    }

    /// Returns whether the action works on chosen keys rather than on the whole store.
    pub fn is_of_keys(self) -> bool {
        self <= Action::LoadBatch
    }

    /// Returns whether the action moves pages one by one. Its overlaps are counted for each page that it
    /// moves.
    pub fn is_mover(self) -> bool {
        matches!(self, Action::Migrate | Action::Recompress | Action::Shrink)
    }

    /// Returns whether the action is available on this system.
    pub fn is_available(self) -> bool {
        match self {
            Action::Fork => cfg!(target_os = "linux"),
            _ => true,
        }
    }
}

thread_local! {
    static MOVER: Cell<Option<Action>> = const { Cell::new(None) };
}

/// Runs `body` as a mover. If `body` compresses a page while an operation on the page's key is under way, or
/// writes a segment to the device while any operation on a key is, this counts as an overlap of `action`.
pub fn as_mover<T>(action: Action, body: impl FnOnce() -> T) -> T {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            MOVER.set(None);
        }
    }
    MOVER.set(Some(action));
    let _reset = Reset;
    body()
}

/// Returns whether this thread is moving pages.
pub fn is_mover() -> bool {
    MOVER.get().is_some()
}

/// Counts how often each action ran, and how often it overlapped others. `Send` and `Sync`.
///
/// What counts as an overlap depends on the action:
/// * an action on keys: another operation on one of its keys was under way;
/// * an action on the whole store: operations on keys were under way;
/// * a mover: it moved a page while an operation on the page's key was under way, or a segment of pages while
///   operations on keys were.
#[derive(Debug, Default)]
pub struct Tally {
    ran: [AtomicU64; Action::ALL.len()],
    overlapped: [AtomicU64; Action::ALL.len()],
}

impl Tally {
    /// Counts a run of the action.
    pub fn ran(&self, action: Action) {
        self.ran[action as usize].fetch_add(1, Ordering::SeqCst);
    }

    /// Counts an overlap of the action.
    pub fn overlapped(&self, action: Action) {
        self.overlapped[action as usize].fetch_add(1, Ordering::SeqCst);
    }

    /// Returns the number of runs and the number of overlaps.
    pub fn of(&self, action: Action) -> (u64, u64) {
        let at = action as usize;
        (self.ran[at].load(Ordering::SeqCst), self.overlapped[at].load(Ordering::SeqCst))
    }
}

/// The operations on keys that are under way. `Send` and `Sync`.
#[derive(Debug)]
pub struct Marks {
    /// For each key, an eight-bit counter for each action on keys.
    keys: Box<[AtomicU64]>,
    under_way: AtomicU32,
    /// Operations on keys begun so far.
    begun: AtomicU64,
}

/// The most threads of a run. More than 255 could overflow the eight-bit counters in [`Marks`].
pub const MOST_THREADS: usize = 64;

const _: () =
    assert!(Action::LoadBatch as u8 <= 7, "the eight-bit counters of a key fit in 64 bits");

impl Marks {
    /// Makes the marks of `keys` keys, with no operation under way.
    pub fn new(keys: usize) -> Self {
        Marks {
            keys: (0..keys).map(|_| AtomicU64::new(0)).collect(),
            under_way: AtomicU32::new(0),
            begun: AtomicU64::new(0),
        }
    }

    /// Begins an operation on a key and counts its overlaps. The operation lasts until the result is dropped.
    pub fn begin<'a>(&'a self, key: u32, action: Action, tally: &Tally) -> Mark<'a> {
        let mine = 1u64 << (8 * action as u32);
        let before = self.keys[key as usize].fetch_add(mine, Ordering::SeqCst);
        self.under_way.fetch_add(1, Ordering::SeqCst);
        self.begun.fetch_add(1, Ordering::SeqCst);
        if before != 0 {
            tally.overlapped(action);
            let others = Action::ALL.into_iter().filter(|other| other.is_of_keys());
            others
                .filter(|other| *other != action && before >> (8 * *other as u32) & 0xFF != 0)
                .for_each(|other| tally.overlapped(other));
        }
        Mark { marks: self, key, mine }
    }

    /// Returns whether any operation on the key is under way.
    pub fn is_busy(&self, key: u32) -> bool {
        self.keys.get(key as usize).is_some_and(|marks| marks.load(Ordering::SeqCst) != 0)
    }

    /// Returns a value that changes whenever an operation on a key begins or ends.
    pub fn activity(&self) -> (u32, u64) {
        (self.under_way.load(Ordering::SeqCst), self.begun.load(Ordering::SeqCst))
    }

    /// Counts an overlap if this thread is a mover and an operation on the page's key is under way.
    /// Called for each page that is compressed.
    pub fn moves(&self, page: &[u8], tally: &Tally) {
        let Some(action) = MOVER.get() else { return };
        if crate::page::key_of(page).is_some_and(|key| self.is_busy(key)) {
            tally.overlapped(action);
        }
    }

    /// Counts an overlap if this thread is a mover and any operation on a key is under way. Called for each
    /// segment that is written to the device: its pages are compressed and do not name their keys.
    pub fn moves_some(&self, tally: &Tally) {
        if let Some(action) = MOVER.get().filter(|_| self.under_way.load(Ordering::SeqCst) > 0) {
            tally.overlapped(action);
        }
    }
}

/// An operation under way.
#[derive(Debug)]
pub struct Mark<'a> {
    marks: &'a Marks,
    key: u32,
    mine: u64,
}

impl Drop for Mark<'_> {
    fn drop(&mut self) {
        self.marks.keys[self.key as usize].fetch_sub(self.mine, Ordering::SeqCst);
        self.marks.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_have_numbers_and_names_of_their_own() {
        for (at, action) in Action::ALL.into_iter().enumerate() {
            assert_eq!(action as usize, at);
            assert_eq!(Action::named(action.name()), Some(action));
        }
        assert_eq!(Action::named("nothing"), None);
    }

    #[test]
    fn overlaps_are_counted_on_both_sides_and_for_the_same_key_only() {
        let (marks, tally) = (Marks::new(2), Tally::default());
        let first = marks.begin(0, Action::Load, &tally);
        let other = marks.begin(1, Action::Take, &tally);
        assert_eq!(tally.of(Action::Load), (0, 0));
        let second = marks.begin(0, Action::Store, &tally);
        assert_eq!([Action::Load, Action::Store, Action::Take].map(|a| tally.of(a).1), [1, 1, 0]);
        assert!(marks.is_busy(0) && marks.is_busy(1));
        drop((first, second));
        assert!(!marks.is_busy(0));
        drop(other);
        assert_eq!(marks.activity(), (0, 3));
    }

    #[test]
    fn a_mover_is_counted_when_it_meets_a_key_under_way() {
        let (marks, tally) = (Marks::new(10), Tally::default());
        let mut page = [0; zswap_core::PAGE_SIZE];
        let stamp = crate::page::Stamp { key: 7, version: 1, writer: Some(0) };
        let mut rng = zpool_base::sync::test_rng::Rng::new(1);
        crate::page::fill(&mut page, stamp, crate::page::Form::Text, 0, &mut rng);
        as_mover(Action::Shrink, || marks.moves(&page, &tally));
        as_mover(Action::Shrink, || marks.moves_some(&tally));
        let _load = marks.begin(7, Action::Load, &tally);
        marks.moves(&page, &tally);
        assert_eq!(tally.of(Action::Shrink).1, 0);
        as_mover(Action::Shrink, || marks.moves(&page, &tally));
        assert_eq!(tally.of(Action::Shrink).1, 1);
        marks.moves_some(&tally);
        as_mover(Action::Shrink, || marks.moves_some(&tally));
        assert_eq!(tally.of(Action::Shrink).1, 2);
        assert!(!is_mover());
    }
}
