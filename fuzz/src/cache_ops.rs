//! Runs operations on a cache and compares it with a map. The cache may lose entries, and must not have wrong ones.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use arbitrary::Arbitrary;
use zpool_pages::{FailingPages, HeapPages};
use zswap_cache::{Cache, CacheError, Key};

const ZPOOLS: [&str; 3] = ["zsmalloc", "z3fold", "zbud"];
const COMPRESSORS: [&str; 3] = ["zstd", "lz4", "null"];
const MIB: usize = 1 << 20;

/// A key: few numbers, and few strings of all lengths.
#[derive(Arbitrary, Debug, Clone, Copy)]
pub struct Name {
    number: u8,
    is_text: bool,
}

/// The content of a value. Its length is drawn in steps that grow.
#[derive(Arbitrary, Debug, Clone, Copy)]
pub struct Content {
    noise: Option<u64>,
    len: u16,
    scale: u8,
}

#[derive(Arbitrary, Debug)]
pub enum Op {
    Insert(Name, Content),
    InsertOrKeep(Name, Content),
    ReplaceIf(Name, Content, bool),
    Get(Name),
    Contains(Name),
    Remove(Name),
    ForEach,
    Compact,
    Clear,
    MaxBytes(u8),
    FailCall(u8),
}

#[derive(Arbitrary, Debug)]
pub struct Input {
    backend: u8,
    ops: Vec<Op>,
}

impl Name {
    fn with<T>(self, then: impl FnOnce(Key<'_>) -> T) -> T {
        if self.is_text {
            then(Key::from(&vec![self.number; self.text_len()]))
        } else {
            then(Key::from(u64::from(self.number)))
        }
    }

    fn text_len(self) -> usize {
        usize::from(self.number) * 17 % 4097
    }

    /// Equal for equal keys: texts of length 0 are one key.
    fn id(self) -> (bool, u8) {
        if self.is_text && self.text_len() == 0 { (true, 0) } else { (self.is_text, self.number) }
    }
}

impl Content {
    fn bytes(self) -> Vec<u8> {
        let len = usize::from(self.len) << (self.scale % 5);
        let Some(seed) = self.noise else {
            return (0..len).map(|at| b"{\"id\": 17, \"name\": "[(at + at / 91) % 19]).collect();
        };
        let mut word = seed | 1;
        let mut random = || {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            word
        };
        (0..len).map(|_| random() as u8).collect()
    }
}

/// What the cache has, or has lost.
type Model = HashMap<(bool, u8), Vec<u8>>;

/// Runs the first 100 operations. Then checks and empties the cache.
pub fn run(input: &Input) {
    let made: Arc<Mutex<Option<Arc<FailingPages>>>> = Arc::default();
    let keep = made.clone();
    let backend = usize::from(input.backend);
    let cache = Cache::builder()
        .background(false)
        .max_bytes(8 * MIB)
        .zpool(ZPOOLS[backend % ZPOOLS.len()])
        .compressor(COMPRESSORS[backend / ZPOOLS.len() % COMPRESSORS.len()])
        .pages_of(move |bytes| {
            // A backend may be built twice, on larger pages the second time. The last provider is in use.
            let pages = FailingPages::new(Arc::new(HeapPages::with_page_size(bytes)?));
            let pages = Arc::new(pages);
            *keep.lock().expect("no panic under the lock") = Some(pages.clone());
            Ok(pages)
        })
        .build()
        .expect("built-in names");
    let pages = made.lock().expect("no panic under the lock").take().expect("the pool has one");
    let mut model = Model::new();
    for op in input.ops.iter().take(100) {
        run_op(op, &cache, &mut model, &pages);
    }
    let stats = cache.stats();
    assert!(stats.entries <= model.len());
    let mut held = 0;
    cache.for_each(|_, value| held += value.len()).expect("this process built it");
    assert_eq!(stats.value_bytes, held);
    cache.clear().expect("this process built it");
    let stats = cache.stats();
    assert_eq!((stats.entries, stats.value_bytes, stats.stored_bytes), (0, 0, 0));
    drop(cache);
    assert_eq!(pages.pages_out(), 0, "pages left out");
}

/// Checks why a call that stores failed.
fn check(error: &CacheError) {
    let expected = matches!(
        error,
        CacheError::Pool(_) | CacheError::TooLarge { .. } | CacheError::NoRoom { .. }
    );
    assert!(expected, "{error}");
}

fn run_op(op: &Op, cache: &Cache, model: &mut Model, pages: &FailingPages) {
    match *op {
        Op::Insert(name, content) => {
            let value = content.bytes();
            match name.with(|key| cache.insert(key, &value)) {
                Ok(()) => _ = model.insert(name.id(), value),
                Err(error) => {
                    check(&error);
                    model.remove(&name.id());
                    assert_eq!(name.with(|key| cache.get(key)), Ok(None));
                }
            }
        }
        Op::InsertOrKeep(name, content) => {
            let value = content.bytes();
            match name.with(|key| cache.insert_or_keep(key, &value)) {
                Ok(()) => _ = model.insert(name.id(), value),
                Err(error) => check(&error),
            }
        }
        Op::ReplaceIf(name, content, like) => {
            let value = content.bytes();
            let old = model.get(&name.id());
            let replaced = name.with(|key| {
                cache.replace_if(key, &value, |shown| {
                    assert!(shown.is_none() || shown == old.map(Vec::as_slice));
                    like
                })
            });
            match replaced {
                Ok(true) => _ = model.insert(name.id(), value),
                Ok(false) => assert!(!like),
                Err(error) => check(&error),
            }
        }
        Op::Get(name) => match name.with(|key| cache.get(key)).expect("nothing fails") {
            Some(value) => assert!(model.get(&name.id()) == Some(&value), "another value"),
            None => _ = model.remove(&name.id()),
        },
        Op::Contains(name) => {
            if name.with(|key| cache.contains(key)).expect("nothing fails") {
                assert!(model.contains_key(&name.id()));
            } else {
                model.remove(&name.id());
            }
        }
        Op::Remove(name) => {
            let removed = name.with(|key| cache.remove(key)).expect("this process built it");
            assert!(model.remove(&name.id()).is_some() || !removed);
        }
        Op::ForEach => {
            let mut seen = 0;
            let each = |key: Key<'_>, value: &[u8]| {
                let id = match key {
                    Key::Number(number) => (false, number as u8),
                    Key::Bytes(bytes) => (true, bytes.first().copied().unwrap_or(0)),
                };
                assert!(model.get(&id).is_some_and(|held| held == value));
                seen += 1;
            };
            cache.for_each(each).expect("this process built it");
            assert_eq!(seen, cache.len());
        }
        Op::Compact => cache.compact().expect("nothing fails"),
        Op::Clear => {
            cache.clear().expect("this process built it");
            model.clear();
        }
        Op::MaxBytes(mib) => {
            // Contexts may take more than a small budget.
            let _ = cache.set_max_bytes(usize::from(mib) % 32 * MIB);
            let stats = cache.stats();
            assert!(stats.memory_bytes <= stats.max_bytes.max(8 * MIB) + MIB, "{stats:?}");
        }
        Op::FailCall(n) => pages.fail_call(u64::from(n)),
    }
}
