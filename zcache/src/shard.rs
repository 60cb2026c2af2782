//! A shard: the entries of a share of the keys, under a lock of many readers or one writer.
//!
//! # Rules
//! * The lock is held to find, add, replace or remove an entry and to pin its value, never across a codec, a page
//!   request, the free of an object or a listener. A thread holds at most one shard's lock.
//! * A value is pinned under the lock and read without it. What leaves the index is freed without the lock.
//! * An entry's memory is reserved before its value is put in, so nothing fails in between.

use std::sync::Arc;

use zpool_api::PoolTag;
use zpool_base::counter::Counter;
use zpool_base::lockdep::{Held, Rank, acquire, might_sleep};
use zpool_base::sync::{Mutex, ReadGuard, RwLock, WriteGuard};

use crate::error::CacheError;
use crate::index::{Index, NoRoom, Position, Tidied};
use crate::invariant::broken;
use crate::key::Key;
use crate::long::Long;
use crate::values::{Body, Pinned, Values};
use crate::word::Word;

/// A shard of a cache.
#[derive(Debug)]
pub(crate) struct Shard {
    lock: RwLock<Entries>,
    /// Held by a thread that gives memory back, from before it takes it out of the index. No ranked lock is held when
    /// it is taken.
    tidying: Mutex<()>,
    /// Gets that found their key, and that did not.
    pub(crate) hits: Counter,
    pub(crate) misses: Counter,
}

/// What the lock guards.
pub(crate) struct Entries {
    pub(crate) index: Index,
    long: LongTable,
    tag: PoolTag,
}

impl core::fmt::Debug for Entries {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Entries").field("len", &self.index.len()).finish_non_exhaustive()
    }
}

/// The long values of a shard. A free place is `None`.
#[derive(Debug, Default)]
struct LongTable {
    places: Vec<Option<Arc<Long>>>,
    free: Vec<u32>,
}

impl LongTable {
    /// Makes room for one more, so that [`LongTable::insert`] allocates nothing.
    fn reserve(&mut self) -> Result<(), CacheError> {
        let bytes = size_of::<Option<Arc<Long>>>();
        let failed = |_| CacheError::NoMemory { what: "the table of long values", bytes };
        if self.free.is_empty() {
            self.places.try_reserve(1).map_err(failed)?;
            // Each place must fit into the list of free ones, so that a removal allocates nothing.
            let capacity = self.places.capacity();
            self.free.try_reserve(capacity).map_err(failed)?;
        }
        Ok(())
    }

    fn insert(&mut self, long: Arc<Long>) -> u32 {
        if let Some(place) = self.free.pop() {
            self.places[place as usize] = Some(long);
            return place;
        }
        self.places.push(Some(long));
        (self.places.len() - 1) as u32
    }

    fn get(&self, place: u32) -> &Arc<Long> {
        let long = self.places.get(place as usize).and_then(Option::as_ref);
        long.unwrap_or_else(|| {
            broken(format_args!("the index names long value {place}, which is not there"))
        })
    }

    fn remove(&mut self, place: u32) -> Arc<Long> {
        let long = self.places.get_mut(place as usize).and_then(Option::take);
        self.free.push(place);
        long.unwrap_or_else(|| {
            broken(format_args!("the index names long value {place}, which is not there"))
        })
    }

    fn memory_bytes(&self) -> usize {
        self.places.capacity() * size_of::<Option<Arc<Long>>>() + self.free.capacity() * 4
    }

    /// Gives back memory at the end.
    fn tidy(&mut self) {
        let len = self.places.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        if len < self.places.len() / 2 {
            self.places.truncate(len);
            self.free.retain(|&place| (place as usize) < len);
            self.places.shrink_to_fit();
            let room = self.places.capacity();
            self.free.shrink_to(room);
        }
    }
}

/// The lock of a shard, for reading.
pub(crate) struct Reading<'a> {
    entries: ReadGuard<'a, Entries>,
    _rank: Held,
}

/// The lock of a shard, for writing.
pub(crate) struct Writing<'a> {
    entries: WriteGuard<'a, Entries>,
    _rank: Held,
}

impl core::ops::Deref for Reading<'_> {
    type Target = Entries;
    fn deref(&self) -> &Entries {
        &self.entries
    }
}

impl core::ops::Deref for Writing<'_> {
    type Target = Entries;
    fn deref(&self) -> &Entries {
        &self.entries
    }
}

impl core::ops::DerefMut for Writing<'_> {
    fn deref_mut(&mut self) -> &mut Entries {
        &mut self.entries
    }
}

impl Shard {
    pub(crate) fn new(tag: PoolTag) -> Self {
        Shard {
            lock: RwLock::new(Entries::new(tag)),
            tidying: Mutex::default(),
            hits: Counter::new(0),
            misses: Counter::new(0),
        }
    }

    /// Takes all entries out. The shard is empty then.
    ///
    /// # Blocking
    /// Waits while another thread gives memory of the index back.
    pub(crate) fn take_all(&self) -> Entries {
        might_sleep("taking the entries of a shard");
        // A thread that gives memory of the index back must find the same index afterwards.
        let _tidying = self.tidying.lock();
        let mut entries = self.write();
        let empty = Entries::new(entries.tag);
        core::mem::replace(&mut *entries, empty)
    }

    /// Gives memory back after many removals, in a bounded step. Calls `changed` with the bytes of the tables before
    /// and after. Returns true if more is left to do.
    ///
    /// # Blocking
    /// Makes system calls, without the shard's lock.
    pub(crate) fn tidy(&self, steps: usize, changed: impl FnOnce(usize, usize)) -> bool {
        might_sleep("giving back memory of an index");
        let _tidying = self.tidying.lock();
        let mut entries = self.write();
        let before = entries.memory_bytes();
        entries.long.tidy();
        let Tidied { more, returning, table } = entries.index.tidy(steps);
        changed(before, entries.memory_bytes());
        drop(entries);
        drop(table);
        if let Some(returning) = returning {
            returning.give_back();
            self.write().index.returned();
        }
        more
    }

    /// Waits until a thread that gives memory back has done so.
    pub(crate) fn wait_for_tidying(&self) {
        might_sleep("waiting until memory of an index is given back");
        drop(self.tidying.lock());
    }

    pub(crate) fn read(&self) -> Reading<'_> {
        let rank = acquire(Rank::Entry);
        Reading { entries: self.lock.read(), _rank: rank }
    }

    pub(crate) fn write(&self) -> Writing<'_> {
        let rank = acquire(Rank::Entry);
        Writing { entries: self.lock.write(), _rank: rank }
    }
}

impl Entries {
    fn new(tag: PoolTag) -> Self {
        Entries { index: Index::new(), long: LongTable::default(), tag }
    }

    /// Finds the entry of a key and pins its value.
    ///
    /// # Errors
    /// Those of [`Values::open`].
    pub(crate) fn find<'v>(
        &self,
        values: &'v Values,
        hash: u64,
        key: Key<'_>,
    ) -> Result<Option<(Position, Pinned<'v>)>, CacheError> {
        let mut failed = None;
        let found = self.index.find(hash, |bits| match self.pin(values, bits, Some(key)) {
            Ok(pinned) => pinned,
            Err(error) => {
                failed = Some(error);
                None
            }
        });
        match (found, failed) {
            (None, Some(error)) => Err(error),
            (found, _) => Ok(found),
        }
    }

    /// Removes the entry of a key, and returns its value, and true. If there is an entry that may have this key and
    /// cannot be read, removes that one and returns false: a cache may lose any entry, but must not keep what it was
    /// asked to drop.
    pub(crate) fn take(
        &mut self,
        values: &Values,
        hash: u64,
        key: Key<'_>,
    ) -> Option<(Body, bool)> {
        let (at, is_it) =
            self.index.find(hash, |bits| match self.pin(values, bits, Some(key)) {
                Ok(pinned) => pinned.map(|_| true),
                Err(_) => Some(false),
            })?;
        let bits = self.index.remove(at);
        Some((self.leave(bits), is_it))
    }

    /// Pins the value of an entry if it has this key; of any entry without a key.
    ///
    /// # Errors
    /// Those of [`Values::open`].
    pub(crate) fn pin<'v>(
        &self,
        values: &'v Values,
        bits: u64,
        key: Option<Key<'_>>,
    ) -> Result<Option<Pinned<'v>>, CacheError> {
        match Word::from_bits(bits, self.tag) {
            Word::Object { handle, codec } => values.open(handle, codec, key),
            Word::Long(place) => {
                let long = self.long.get(place);
                let is_it = key.is_none_or(|key| long.key() == key);
                Ok(is_it.then(|| Pinned::Long(long.clone())))
            }
        }
    }

    /// Returns whether an entry's value is the pinned one. A pinned object is not freed, so its handle is not given to
    /// another one.
    pub(crate) fn is_pinned(&self, at: Position, pinned: &Pinned<'_>) -> bool {
        match (Word::from_bits(self.index.word(at), self.tag), pinned) {
            (Word::Object { handle, .. }, Pinned::Object { handle: held, .. }) => handle == *held,
            (Word::Long(place), Pinned::Long(held)) => Arc::ptr_eq(self.long.get(place), held),
            _ => false,
        }
    }

    /// Returns whether an entry's value was compressed with a dictionary that is not the current one.
    #[cfg(feature = "zstd")]
    pub(crate) fn is_old(&self, values: &Values, bits: u64) -> bool {
        match Word::from_bits(bits, self.tag) {
            Word::Object { codec, .. } => values.codecs.is_old(codec),
            Word::Long(_) => false,
        }
    }

    /// Makes room for one more entry of any kind. Returns false if there may be room when a thread that gives memory
    /// back has done so ([`Shard::wait_for_tidying`]).
    ///
    /// # Errors
    /// [`CacheError::NoMemory`]. Nothing has changed then.
    pub(crate) fn reserve(&mut self) -> Result<bool, CacheError> {
        let bytes = self.index.bytes_to_reserve();
        match self.index.reserve() {
            Ok(()) => self.long.reserve().map(|()| true),
            Err(NoRoom::Returning) => Ok(false),
            Err(NoRoom::Memory) => Err(CacheError::NoMemory { what: "the index", bytes }),
        }
    }

    fn enter(&mut self, body: Body) -> u64 {
        match body {
            Body::Object { handle, codec } => Word::Object { handle, codec }.to_bits(),
            Body::Long(long) => Word::Long(self.long.insert(long)).to_bits(),
        }
    }

    fn leave(&mut self, bits: u64) -> Body {
        match Word::from_bits(bits, self.tag) {
            Word::Object { handle, codec } => Body::Object { handle, codec },
            Word::Long(place) => Body::Long(self.long.remove(place)),
        }
    }

    /// Adds an entry. The caller has called [`Entries::reserve`].
    pub(crate) fn insert(&mut self, hash: u64, body: Body) {
        let bits = self.enter(body);
        self.index.insert(hash, bits);
    }

    /// Replaces an entry's value, and returns the old one. The caller has called [`Entries::reserve`].
    pub(crate) fn replace(&mut self, at: Position, body: Body) -> Body {
        let bits = self.enter(body);
        let old = self.index.replace(at, bits);
        self.leave(old)
    }

    /// Removes the entry to evict next, and returns its value.
    pub(crate) fn evict(&mut self) -> Option<Body> {
        let bits = self.index.evict()?;
        Some(self.leave(bits))
    }

    /// Returns the heap bytes of the shard's tables.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.index.memory_bytes() + self.long.memory_bytes()
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use std::sync::Arc;

    use super::Shard;
    use crate::codecs::Codecs;
    use crate::error::CacheError;
    use crate::frugal::Allowance;
    use crate::key::Key;
    use crate::pool::{MOST_OBJECT, Pool, Room};
    use crate::values::Values;
    use zpage::Recipe;

    struct NoRoom;

    impl Room for NoRoom {
        fn make(&self, bytes: usize, _: u32) -> Result<(), CacheError> {
            Err(CacheError::NoRoom { bytes, max_bytes: 0 })
        }
    }

    #[test]
    fn keys_with_one_hash_are_told_apart() {
        let mut recipe = Recipe::builtin();
        recipe.set_unit(MOST_OBJECT).unwrap();
        let pool = Pool::new(&recipe, zpage::builtin::DEFAULT_ZPOOL, 64 << 20).unwrap();
        let null = recipe.compressor("null").unwrap().compressor;
        let values = Values::new(pool, Codecs::new(&null, Arc::new(Allowance::new(1 << 20))));
        let shard = Shard::new(values.pool.tag());
        let hash = 0x1234_5678_9abc_def0;
        let long = vec![7; 300_000];
        let keys: [(Key<'_>, &[u8]); 4] = [
            (Key::from(5), b"number"),
            (Key::from("5"), b"text"),
            (Key::from("a long one"), &long),
            (Key::from(6), &long[1..]),
        ];
        for (key, value) in keys {
            let stored = values.store(key, value, &NoRoom).unwrap();
            let mut entries = shard.write();
            assert!(entries.find(&values, hash, key).unwrap().is_none());
            assert!(entries.reserve().unwrap());
            entries.insert(hash, stored.into_body());
        }
        let mut read = Vec::new();
        for (key, value) in keys {
            let (_, pinned) = shard.read().find(&values, hash, key).unwrap().unwrap();
            values.read(&pinned, &mut read).unwrap();
            assert!(read == value, "{key:?}");
        }
        let (body, is_it) = shard.write().take(&values, hash, Key::from("a long one")).unwrap();
        assert!(is_it);
        values.free(body);
        let left = [true, true, false, true];
        for ((key, _), left) in keys.into_iter().zip(left) {
            assert_eq!(shard.read().find(&values, hash, key).unwrap().is_some(), left, "{key:?}");
        }
        let mut rest = shard.take_all();
        while let Some(body) = rest.evict() {
            values.free(body);
        }
        assert_eq!(values.value_bytes(), 0);
    }
}
