//! What all operations of a pool share: tables, classes and counts, and the rules on which every
//! `unsafe` block of the operations relies.
//!
//! Each operation has its own file (`alloc.rs`, `read.rs`, `free.rs` and so on), which uses this
//! one. This file refers to none of them.
//!
//! # Invariants of the bytes
//! 1. A place whose lane is USED belongs to one object. Until the object's slot is published, its
//!    bytes belong to its writer alone, who is counted in the lane. Afterwards they do not change
//!    while the object lives or a guard pins it. A mover that holds the lane's write lock may copy
//!    them elsewhere.
//! 2. A run is returned only when no lane of its zspage is USED. Pages of a run are returned only
//!    while the zspage is isolated and no USED place overlaps them.
//! 3. A slot of kind object or reserved names a place whose lane is USED, in a zspage that has a
//!    class and a run; `last` is the offset of the object's last byte.
//!
//! # Order of events
//! * allocate: take a free slot; under the class lock, take a free place, count the writer in the
//!   place's lane, and point the slot there; write the bytes without the lock; `publish` makes the
//!   slot lead to the object; then take the writer off the lane.
//! * read: load the slot and the class, and count the reader in the lane; then load the class and
//!   the slot again. Only these second loads prove anything (`read.rs`).
//! * free: under the class lock, invalidate the slot, then clear the lane, or park it. The last
//!   reader clears a parked lane later, again under the class lock.
//! * a zspage without objects leaves its class under the class lock; its run returns to the
//!   provider once the lock is dropped.
//!
//! # Input and internal numbers
//! A handle is input: any u64 may arrive as a handle. A handle without an object is an error. Numbers
//! that the pool itself keeps, in slots, lists, queues, guards and their tokens, are internal: if
//! one leads nowhere, an invariant is broken, and the pool panics.
//!
//! # Fork
//! In a child of the process that made the pool, the pool takes no lock, since another thread may
//! have held it, and does not call the provider, whose memory is a copy. Calls return errors, and
//! drops leak.

use std::sync::Arc;

use zpool_api::{MOST_OBJECT, PageBudget, PageProvider, PageRun, PoolTag, ZpoolError};
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
/// The most free slots that a class keeps.
const CLASS_SLOTS: usize = 32;

/// The whole pool. It is private, so that code outside of this crate can neither end pins nor commit
/// objects.
pub(crate) struct Core {
    pub(crate) maker: Maker,
    pub(crate) provider: Arc<dyn PageProvider>,
    pub(crate) tag: PoolTag,
    /// The size of the largest object in bytes.
    pub(crate) max_object: usize,
    pub(crate) accounts: Accounts,
    pub(crate) classes: Vec<Class>,
    pub(crate) routes: Routes,
    pub(crate) slots: Slots,
    pub(crate) zspages: Zspages,
    pub(crate) left: Left,
    /// Progress of compaction in parts. A leaf lock.
    pub(crate) progress: Mutex<Progress>,
}

impl Core {
    pub(crate) fn new(
        provider: Arc<dyn PageProvider>,
        budget: Option<Arc<PageBudget>>,
        max_object: usize,
        config: Config,
    ) -> Result<Self, ZpoolError> {
        let page_size = provider.page_size();
        if !page_size.is_power_of_two() || !(4096..=65536).contains(&page_size) {
            let allowed = "powers of two from 4096 to 65536";
            return Err(ZpoolError::UnsupportedPageSize { backend: NAME, page_size, allowed });
        }
        let max_object = max_object.clamp(page_size, MOST_OBJECT.max(page_size));
        let sizes = config.classes(page_size, max_object);
        let most = sizes.iter().fold(0, |most, size| most.max(usize::from(size.objects)));
        Ok(Core {
            maker: Maker::here(),
            provider,
            tag: PoolTag::next(),
            max_object,
            accounts: Accounts::new(page_size, budget),
            routes: Routes::new(&sizes, page_size, config.class_step(), config.refines()),
            classes: sizes.into_iter().map(Class::new).collect(),
            slots: Slots::new(config.first_generation()),
            zspages: Zspages::new(most),
            left: Left::new(),
            progress: Mutex::new(Progress::default()),
        })
    }

    /// Returns an error in a child of the process that made the pool.
    #[inline]
    pub(crate) fn check_maker(&self) -> Result<(), ZpoolError> {
        if self.maker.is_here() { Ok(()) } else { Err(ZpoolError::Forked { backend: NAME }) }
    }

    pub(crate) fn page_size(&self) -> usize {
        self.accounts.page_size
    }

    /// Returns the numbers of all classes.
    pub(crate) fn class_numbers(&self) -> core::ops::Range<u16> {
        // The number fits: there is at most one class for every 8 bytes up to 64 KiB.
        0..self.classes.len() as u16
    }

    /// Returns the class with this number. The number must be in the table, as are the numbers in
    /// zspages and routes, and those of `class_numbers`.
    #[inline]
    #[expect(clippy::expect_used, reason = "numbers of classes come from this table")]
    pub(crate) fn class(&self, number: u16) -> &Class {
        self.classes.get(usize::from(number)).expect("the number of a class is in the table")
    }

    #[inline]
    pub(crate) fn lock(&self, class: u16) -> ClassGuard<'_> {
        ClassGuard::new(class, self.class(class), &self.zspages, &self.accounts)
    }

    /// Locks the class that a zspage is in. Returns None if the zspage is in no class, or leaves
    /// its class before the lock is taken. While the lock is held, nobody else takes the zspage out
    /// of the class.
    #[inline]
    pub(crate) fn lock_class_of(&self, z: &Zspage) -> Option<ClassGuard<'_>> {
        let locked = self.lock(z.class()?);
        (z.class() == Some(locked.number)).then_some(locked)
    }

    /// Returns the lane of an object of a zspage.
    #[inline]
    pub(crate) fn lane(&self, z: &Zspage, index: usize) -> &Lane {
        self.zspages.lane(z, index)
    }

    /// Keeps a free slot with the class, or returns it to the pool if the class has enough.
    pub(crate) fn keep_slot(&self, locked: &mut ClassGuard<'_>, slot: u32) {
        if locked.inner.slots.len() < CLASS_SLOTS {
            locked.inner.slots.push(&self.slots, slot);
        } else {
            self.slots.give(slot);
        }
    }

    /// Returns the error for a table of descriptors or slots that cannot grow.
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

/// Returns two figures of the object at `location`: the index of its place, and its length without
/// the header. `size` is the class of the object's zspage.
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
                    // SAFETY: the zspage's run (invariant 2 of `zspage.rs`). Nobody can reach it
                    // any more: guards borrow the pool, so none is alive, and forgotten ones read nothing.
                    unsafe { PageRun::new(z.base(), pages, z.touched.get()) }
                }
                // SAFETY: a descriptor without a class is vacant. The pool is being dropped, so
                // only this call uses the descriptor.
                None => unsafe { z.take_run() }?,
            };
            // SAFETY: a run of this provider, returned once, that nobody can access any more.
            Some(move || unsafe { provider.free_run(run) })
        }));
    }
}
