//! What all operations of a pool share: its tables, its classes, its counts, and the rules that every
//! `unsafe` block of the operations rests on.
//!
//! The operations stand above, each in a file of its own (`alloc.rs`, `read.rs`, `free.rs` and so on);
//! this file knows none of them.
//!
//! # Invariants of the bytes
//! 1. A place whose lane is USED belongs to one object. Until its slot is published the bytes are
//!    its writer's alone, who is counted in the lane; afterwards they do not change while any reader
//!    is counted or the object lives, except that a mover that holds the lane's write lock copies
//!    them elsewhere.
//! 2. A run is given back only when no lane of its zspage is USED; pages of it are given back only
//!    while the zspage is isolated and no place that overlaps them is USED.
//! 3. A slot whose kind is object or reserved names a place whose lane is USED, in a zspage that has a
//!    class and a run; `last` is the object's last byte there.
//!
//! # Order of events
//! * allocate: a free slot and a free place are taken under the class lock, the lane with its writer
//!   counted; the bytes are written outside of it; `publish` makes the slot lead there, then the
//!   writer is taken off the lane.
//! * read: slot, class, lane; then class and slot again, which is what counts (`read.rs`).
//! * free: under the class lock the slot is invalidated, then the lane cleared, or parked and later
//!   cleared, under the class lock again, by the last reader.
//! * a zspage without objects leaves its class under the class lock, and its run goes back to the
//!   provider once the lock is dropped.
//!
//! # What is input, and what is not
//! A handle is input: any u64 may come as one, and gets an error if no object has it. Numbers that the
//! pool keeps itself, in slots, lists, queues, guards and tokens of guards, are its own: one that leads
//! nowhere is a broken invariant, and panics.
//!
//! # Fork
//! In a child of the process that made it the pool takes no lock and calls no provider: another
//! thread may have held the one, and the other's memory is a copy. Calls are errors, drops leak.

use std::sync::Arc;

use zpool_api::{PageBudget, PageProvider, PageRun, PoolTag, ZpoolError};
use zpool_base::fork::Maker;
use zpool_base::stable::TableError;
use zpool_base::unwind::each_in_destructor;

use crate::accounts::Accounts;
use crate::class::{Class, ClassGuard};
use crate::class_table::SizeClass;
use crate::config::Config;
use crate::lane::Lane;
use crate::left::Left;
use crate::progress::Progress;
use crate::route::Routes;
use crate::slot::{Location, Slots};
use crate::sync::Mutex;
use crate::zspage::Zspage;
use crate::zspages::Zspages;

pub(crate) const NAME: &str = "zsmalloc";
/// Free slots that a class keeps for itself.
const CLASS_SLOTS: usize = 32;

/// All of the pool; private, so that nobody else can end pins or commit objects.
pub(crate) struct Core {
    pub(crate) maker: Maker,
    pub(crate) provider: Arc<dyn PageProvider>,
    pub(crate) tag: PoolTag,
    pub(crate) accounts: Accounts,
    pub(crate) classes: Vec<Class>,
    pub(crate) routes: Routes,
    pub(crate) slots: Slots,
    pub(crate) zspages: Zspages,
    pub(crate) left: Left,
    /// How far compaction in parts has come. A leaf lock.
    pub(crate) progress: Mutex<Progress>,
}

impl Core {
    pub(crate) fn new(
        provider: Arc<dyn PageProvider>,
        budget: Option<Arc<PageBudget>>,
        config: Config,
    ) -> Result<Self, ZpoolError> {
        let page_size = provider.page_size();
        if !page_size.is_power_of_two() || !(4096..=65536).contains(&page_size) {
            let allowed = "powers of two from 4096 to 65536";
            return Err(ZpoolError::UnsupportedPageSize { backend: NAME, page_size, allowed });
        }
        let sizes = config.classes(page_size);
        let most = sizes.iter().fold(0, |most, size| most.max(usize::from(size.objects)));
        Ok(Core {
            maker: Maker::here(),
            provider,
            tag: PoolTag::next(),
            accounts: Accounts::new(page_size, budget),
            routes: Routes::new(&sizes, page_size, config.class_step(), config.refines()),
            classes: sizes.into_iter().map(Class::new).collect(),
            slots: Slots::new(config.first_generation()),
            zspages: Zspages::new(most),
            left: Left::new(),
            progress: Mutex::new(Progress::default()),
        })
    }

    /// An error in a child of the process that made the pool.
    #[inline]
    pub(crate) fn check_maker(&self) -> Result<(), ZpoolError> {
        if self.maker.is_here() { Ok(()) } else { Err(ZpoolError::Forked { backend: NAME }) }
    }

    pub(crate) fn page_size(&self) -> usize {
        self.accounts.page_size
    }

    /// The numbers of all classes.
    pub(crate) fn class_numbers(&self) -> core::ops::Range<u16> {
        // A class for every 8 bytes up to 64 KiB at most.
        0..self.classes.len() as u16
    }

    /// The class of a number that a zspage, or the route of a size, has.
    #[inline]
    #[expect(clippy::expect_used, reason = "numbers of classes come from this table")]
    pub(crate) fn class(&self, number: u16) -> &Class {
        self.classes.get(usize::from(number)).expect("a number that stands for a class is one's")
    }

    #[inline]
    pub(crate) fn lock(&self, class: u16) -> ClassGuard<'_> {
        ClassGuard::new(class, self.class(class), &self.zspages, &self.accounts)
    }

    /// Locks the class that a zspage is in now; None if it is in none, or leaves it meanwhile. Under the
    /// lock the class is exact, since a zspage leaves it under its lock only.
    #[inline]
    pub(crate) fn lock_class_of(&self, z: &Zspage) -> Option<ClassGuard<'_>> {
        let locked = self.lock(z.class()?);
        (z.class() == Some(locked.number)).then_some(locked)
    }

    /// The lane of an object of a zspage.
    #[inline]
    pub(crate) fn lane(&self, z: &Zspage, index: usize) -> &Lane {
        self.zspages.lane(z, index)
    }

    /// Keeps a free slot with the class, or with the pool if the class has enough.
    pub(crate) fn keep_slot(&self, locked: &mut ClassGuard<'_>, slot: u32) {
        if locked.inner.slots.len() < CLASS_SLOTS {
            locked.inner.slots.push(&self.slots, slot);
        } else {
            self.slots.give(slot);
        }
    }

    /// A table of descriptors that cannot grow.
    pub(crate) fn refused(&self, error: TableError) -> ZpoolError {
        match error {
            TableError::NoMemory { bytes } => ZpoolError::OutOfMetadata { backend: NAME, bytes },
            _ => ZpoolError::TooManyObjects { backend: NAME, limit: u64::from(u32::MAX) },
        }
    }

    pub(crate) fn metadata_bytes(&self) -> usize {
        let own = self.slots.memory_bytes()
            + self.zspages.memory_bytes()
            + self.routes.memory_bytes()
            + self.classes.len() * size_of::<Class>();
        own.saturating_add(self.provider.metadata_bytes())
    }
}

/// The number and the length, header left out, of the object that a location names, by its class's size.
#[inline]
pub(crate) fn object_at(size: &SizeClass, location: Location) -> (usize, usize) {
    let index = size.index_of(location.last);
    let len = usize::from(location.last) + 1 - size.start_of(index) - size.header();
    (index, len)
}

impl Drop for Core {
    fn drop(&mut self) {
        self.accounts.uncharge(self.accounts.resident());
        let (classes, provider) = (&self.classes, &self.provider);
        each_in_destructor(self.zspages.iter().filter_map(|(_, z)| {
            let run = match z.class() {
                Some(class) => {
                    let pages = usize::from(classes[usize::from(class)].size.pages);
                    // SAFETY: the zspage's run (invariant 2 of `zspage.rs`), which nobody finds any
                    // more: guards borrow the pool, so none is left, and forgotten ones read nothing.
                    unsafe { PageRun::new(z.base(), pages, z.touched.get()) }
                }
                // SAFETY: the pool is dropped, so the descriptor is this call's alone.
                None => unsafe { z.take_run() }?,
            };
            // SAFETY: a run of this provider, once each, with nobody left who would touch it.
            Some(move || unsafe { provider.free_run(run) })
        }));
    }
}
