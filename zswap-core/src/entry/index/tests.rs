//! Tests the index on one thread and on several.

use super::as_map::{get, put, remove};
use super::change::no_node;
use super::node::{Header, InnerNode, LEAF_BITS, LEAF_WORDS, LeafNode, Ref, Target};
use super::*;
use crate::entry::word::{Content, PoolId};
use std::collections::BTreeMap;
use std::sync::Arc;
use zpage::segments::Address;
use zpool_api::BackendBits;
use zpool_base::stable::TableError;
use zpool_base::sync::test_rng::Rng;

fn check_all_free(index: &Index) {
    for (kind, group) in [
        (Kind::Leaf, index.leaves.group()),
        (Kind::Lone, index.lones.group()),
        (Kind::Inner, index.inners.group()),
    ] {
        let (used, touched) = numbers(index, kind);
        assert!(used == 0 && touched <= group, "{kind:?}: {used} used, {touched} with memory");
    }
}

/// Returns two numbers for a kind of node: how many are in use, and how many have memory.
fn numbers(index: &Index, kind: Kind) -> (usize, usize) {
    let mut locked = index.lock_structure();
    let numbers = locked.structure.numbers(kind);
    (numbers.used(), numbers.touched())
}

fn keys(index: &Index) -> Vec<u64> {
    let (mut keys, mut from) = (Vec::new(), Some(0));
    let mut found = LeafKeys::new();
    while let Some(start) = from {
        from = index.leaf_keys(start, &mut found);
        keys.extend_from_slice(&found);
    }
    keys
}

#[test]
fn headers_pack_and_cover() {
    for level in 0..15 {
        for key in [0, 1 << 5, u64::MAX, 0x0123_4567_89ab_cdef] {
            let header = Header::covering(key, level);
            assert_eq!(Header::unpack(header.pack()), header);
            assert!(header.covers(key) && header.covers(header.first_key()));
        }
    }
    for number in [0, 1, (Ref::MAX_NODES - 1) as u32] {
        assert!(matches!(Ref::leaf(number).target(), Target::Leaf(n) if n == number));
        assert!(matches!(Ref::lone(number).target(), Target::Lone(n) if n == number));
        assert!(matches!(Ref::inner(number).target(), Target::Inner(n) if n == number));
    }
}

#[test]
fn what_is_seen_needs_no_lock_and_everything_else_is_locked() {
    let index = Index::new();
    put(&index, 7, 70);
    let see = |word: Word| match word.content() {
        Content::SameFilled(value) if value < 100 => Some(value),
        _ => None,
    };
    let locked = index.lock(7);
    // The entry is locked, but its word can be read.
    assert!(matches!(index.see_or_lock(7, see), Some(Ok(70))));
    drop(locked);
    put(&index, 8, 800);
    let entry = index.see_or_lock(8, see).unwrap().unwrap_err();
    assert_eq!(entry.word().content(), Content::SameFilled(800));
    drop(entry);
    assert!(index.see_or_lock(9, see).unwrap().is_err(), "an empty entry of the leaf");
    assert!(index.see_or_lock(1 << 40, see).is_none());
}

#[test]
fn behaves_like_a_map_for_dense_sparse_and_extreme_keys() {
    let mut rng = Rng::new(21);
    let index = Index::new();
    let mut model = BTreeMap::new();
    let rounds = if cfg!(miri) { 150 } else { 20_000 };
    for round in 0..rounds {
        let key = match rng.below(4) {
            0 => rng.below(300) as u64,
            1 => u64::MAX - rng.below(70) as u64,
            2 => rng.next() >> rng.below(60),
            _ => (rng.below(40) as u64) << 57,
        };
        if rng.below(3) > 0 {
            put(&index, key, round);
            model.insert(key, round);
        } else {
            let key = match model.range(key..).next() {
                Some((near, _)) if rng.below(2) == 0 => *near,
                _ => key,
            };
            remove(&index, key);
            model.remove(&key);
            assert_eq!(get(&index, key), None);
        }
        if round % 1000 == 0 {
            assert_eq!(keys(&index), model.keys().copied().collect::<Vec<_>>());
        }
    }
    for (key, value) in &model {
        assert_eq!(get(&index, *key), Some(*value));
    }
    assert_eq!(keys(&index), model.keys().copied().collect::<Vec<_>>());
    for key in model.keys() {
        remove(&index, *key);
    }
    assert_eq!(index.root.load(Ordering::SeqCst), 0, "nodes were left behind");
    check_all_free(&index);
}

#[test]
fn dense_keys_cost_eight_bytes_and_sparse_ones_fifty() {
    // More bytes than the records that say which nodes are in use take in an index of few nodes.
    const FIXED: u64 = 2048;
    let dense = if cfg!(miri) { 256u64 } else { 100_000 };
    let index = Index::new();
    for key in 0..dense {
        put(&index, key, key);
    }
    let bytes = index.memory_bytes() as u64;
    assert!(bytes < 9 * dense + FIXED, "{bytes} bytes for {dense} dense keys");
    let sparse = if cfg!(miri) { 64u64 } else { 1_000_000 };
    let (index, mut rng) = (Index::new(), Rng::new(3));
    for key in 0..sparse {
        put(&index, rng.next() >> 8, key);
    }
    let bytes = index.memory_bytes() as u64;
    assert!(bytes < 60 * sparse + FIXED, "{bytes} bytes for {sparse} sparse keys");
}

#[test]
fn its_bytes_are_those_of_nodes_with_their_checksums_and_of_their_numbers() {
    let index = Index::with_sums();
    for key in [0, 1 << 20, 1 << 40, 1 << 40 | 1] {
        put(&index, key, 1);
        assert_eq!(index.lock(key).and_then(|entry| entry.sum()), Some(0));
    }
    let (leaves, lones) = (numbers(&index, Kind::Leaf), numbers(&index, Kind::Lone));
    assert_eq!((leaves, lones), ((1, 1), (2, 3)), "one lone entry has become a leaf");
    let inners = numbers(&index, Kind::Inner);
    assert_eq!(inners, (2, 2));
    let nodes = (264 + 4 * 32) + 3 * (16 + 4) + 2 * 80;
    // The remaining bytes are the records that say which nodes of the three kinds are in use.
    let rest = index.memory_bytes() - nodes;
    assert!(rest > 3 * 8 && rest < 2000, "{rest}");
    for key in [0, 1 << 20] {
        remove(&index, key);
    }
    assert_eq!(index.memory_bytes(), nodes + rest, "a few nodes are kept for others");
}

#[test]
fn memory_of_nodes_that_went_goes_back() {
    let count = if cfg!(miri) { 130 } else { 100_000u64 };
    let (index, mut rng) = (Index::with_sums(), Rng::new(6));
    let empty = index.memory_bytes();
    let sparse: Vec<u64> = (0..count).map(|_| rng.next() >> 8).collect();
    let mut most = 0;
    for _ in 0..2 {
        sparse.iter().chain(&(0..count).collect::<Vec<_>>()).for_each(|key| put(&index, *key, 3));
        most = most.max(index.memory_bytes());
        // Remove the keys in the middle of the tables first, so that groups lose their memory out of order.
        for key in (count / 3..count).chain(0..count / 3) {
            remove(&index, key);
        }
        for key in sparse.iter().skip(count as usize / 2).chain(&sparse) {
            remove(&index, *key);
        }
        assert_eq!(index.root.load(Ordering::SeqCst), 0);
        check_all_free(&index);
        let left = index.memory_bytes() - empty;
        assert!(left < most / 10 || cfg!(miri), "{left} bytes of {most} are left");
    }
}

/// A leaf or lone entry of key 0 has the prefix or key 0. After a node's memory has returned to the system,
/// its prefix or key reads as 0, too.
#[test]
fn a_stale_place_whose_memory_went_is_nobodys() {
    for whole_leaf in [false, true] {
        let index = Index::new();
        let group = if whole_leaf { index.leaves.group() } else { index.lones.group() } as u64;
        // Other keys fill the first group, so that the first key's place is in the second.
        let others = (1..=group).map(|n| n << LEAF_BITS);
        for key in others.clone() {
            put(&index, key, 1);
            if whole_leaf {
                put(&index, key | 1, 1);
            }
        }
        put(&index, 0, 7);
        if whole_leaf {
            put(&index, 1, 7);
        }
        let stale = index.find(0).unwrap();
        let (Target::Leaf(number) | Target::Lone(number)) = stale.at.target() else { panic!() };
        assert!(u64::from(number) >= group || cfg!(miri));
        for key in others.flat_map(|key| [key, key | 1]).chain([0, 1]) {
            remove(&index, key);
        }
        assert!(stale.is_the_keys(), "zero is the key's and no other's");
        assert!(index.read(stale).is_none() && index.lock_in(stale, 0).is_none());
        put(&index, 0, 8);
        assert_eq!(get(&index, 0), Some(8));
    }
}

#[test]
fn a_lone_entry_keeps_its_word_and_checksum_when_others_come() {
    let index = Index::with_sums();
    for key in [70, 66, 64, 95] {
        let mut entry = index.lock_or_insert(key).unwrap();
        assert_eq!(entry.word(), Word::EMPTY);
        entry.replace(pooled(key).referenced());
        entry.set_sum(Some(key as u32));
        drop(entry);
        index.note_replaced(key, Word::EMPTY, pooled(key));
    }
    assert_eq!((numbers(&index, Kind::Leaf).0, numbers(&index, Kind::Lone).1), (1, 1));
    for key in [64, 66, 70, 95] {
        let entry = index.lock(key).unwrap();
        assert_eq!((entry.word(), entry.sum()), (pooled(key).referenced(), Some(key as u32)));
    }
    assert_eq!(index.peek(65), Word::EMPTY);
    assert_eq!(keys(&index), [64, 66, 70, 95]);
    assert_eq!(round(&index, 65).0, [66, 70, 95]);
}

#[test]
fn a_lone_entry_in_use_is_waited_for_before_a_leaf_takes_its_place() {
    let index = Arc::new(Index::new());
    let mut held = index.lock_or_insert(64).unwrap();
    let other = {
        let index = index.clone();
        std::thread::spawn(move || put(&index, 65, 2))
    };
    // The other thread sleeps until the entry is unlocked.
    let Target::Lone(number) = index.find(64).unwrap().at.target() else { panic!("a lone entry") };
    while !Word::from_raw(index.lone(number).word.load(Ordering::SeqCst)).has_waiters() {
        std::thread::yield_now();
    }
    held.replace(Word::new(Content::SameFilled(1)));
    drop(held);
    other.join().unwrap();
    assert_eq!((get(&index, 64), get(&index, 65)), (Some(1), Some(2)));
}

#[test]
fn what_could_not_be_had_is_told_in_bytes() {
    assert_eq!(no_node::<LeafNode>(TableError::NoMemory { bytes: 5 }), NoRoom { bytes: 5 });
    let full = NoRoom { bytes: size_of::<InnerNode>() };
    assert_eq!(no_node::<InnerNode>(TableError::Full { limit: 3 }), full);
}

#[test]
fn keys_that_come_and_go_do_not_grow_it() {
    let index = Index::new();
    let mut rng = Rng::new(2);
    for _ in 0..if cfg!(miri) { 50 } else { 5000 } {
        let key = rng.next();
        put(&index, key, 1);
        remove(&index, key);
    }
    for kind in [Kind::Leaf, Kind::Lone, Kind::Inner] {
        assert!(numbers(&index, kind).1 <= 2, "{kind:?}");
    }
}

#[test]
fn a_locked_or_used_entry_keeps_its_leaf_and_its_holder_takes_an_empty_one_away() {
    let index = Index::new();
    put(&index, 41, 5);
    let held = index.lock_or_insert(40).unwrap();
    // Another thread removes the neighbour, since a thread may hold only one entry.
    std::thread::scope(|scope| drop(scope.spawn(|| remove(&index, 41)).join()));
    assert!(index.find(40).is_some());
    drop(held);
    assert!(index.find(40).is_none(), "who let go last took it away");
    put(&index, 41, 5);
    drop(index.lock_or_insert(40).unwrap());
    assert_eq!(get(&index, 41), Some(5));
    remove(&index, 41);
    assert!(index.find(40).is_none());
}

#[test]
fn threads_on_neighbouring_keys_lose_nothing() {
    let index = Arc::new(Index::new());
    let (threads, rounds) = if cfg!(miri) { (3, 30) } else { (8, 30_000) };
    let workers: Vec<_> = (0..threads)
        .map(|t| {
            let index = index.clone();
            std::thread::spawn(move || {
                let mut rng = Rng::new(t + 100);
                let mut mine: BTreeMap<u64, u64> = BTreeMap::new();
                for round in 0..rounds {
                    // All threads share the leaves, but each has its own keys.
                    let key = (rng.below(6) as u64) << rng.below(12) << 5 | t;
                    if rng.below(2) == 0 {
                        put(&index, key, round);
                        mine.insert(key, round);
                    } else {
                        remove(&index, key);
                        mine.remove(&key);
                    }
                    assert_eq!(get(&index, key), mine.get(&key).copied());
                }
                mine.len()
            })
        })
        .collect();
    let left: usize = workers.into_iter().map(|w| w.join().unwrap()).sum();
    assert_eq!(keys(&index).len(), left);
}

/// Threads look up entries while others remove them. The thread that unlocks the last word of an empty leaf
/// removes the leaf.
#[test]
fn nothing_is_left_behind_by_look_ups_of_what_goes() {
    let index = Arc::new(Index::new());
    let (threads, rounds) = if cfg!(miri) { (3, 20) } else { (4, 20_000) };
    let workers: Vec<_> = (0..threads)
        .map(|t| {
            let index = index.clone();
            std::thread::spawn(move || {
                for round in 0..rounds {
                    let key = (round % 7) << LEAF_BITS | t;
                    put(&index, key, round);
                    drop(index.lock(key ^ 1));
                    remove(&index, key);
                }
            })
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    assert_eq!(index.root.load(Ordering::SeqCst), 0, "nodes were left behind");
    check_all_free(&index);
}

/// Makes a word that names an object.
fn pooled(bits: u64) -> Word {
    Word::new(Content::Stored {
        pool: PoolId::from_index(0),
        bits: BackendBits::truncate(bits),
        raw: false,
    })
}

/// Puts a word under the key, as a store does.
fn keep(index: &Index, key: u64, word: Word) {
    let old = index.lock_or_insert(key).unwrap().replace(word);
    index.note_replaced(key, old, word);
}

/// Returns the keys that a full round from `from` finds, and the number of leaves that it visits.
fn round(index: &Index, from: u64) -> (Vec<u64>, usize) {
    let (mut all, mut leaves, mut next) = (Vec::new(), 0, Some(from));
    let mut keys = LeafKeys::new();
    while let Some(at) = next {
        let visit = index.pooled_keys(at, &mut keys);
        assert!(visit.next.is_none_or(|next| next > at), "a walk goes on");
        all.extend_from_slice(&keys);
        leaves += visit.leaves;
        next = visit.next;
    }
    (all, leaves)
}

/// Checks every mark against the entries: no mark is missing and, unless `stale`, no mark is stale.
fn check_marks(index: &Index, stale: bool) {
    fn below(index: &Index, at: Ref, stale: bool) -> bool {
        let load = |slot: &AtomicU32| Ref(slot.load(Ordering::SeqCst));
        match at.target() {
            Target::None => false,
            Target::Leaf(_) | Target::Lone(_) => index.words(at).unwrap().any(Word::is_stored),
            Target::Inner(number) => {
                let inner = index.inner(number);
                for (digit, child) in inner.children.iter().enumerate() {
                    let (holds, marked) =
                        (below(index, load(child), stale), inner.is_marked(digit));
                    assert!(marked || !holds, "an entry without a mark");
                    assert!(holds || !marked || stale, "a mark without an entry");
                    if let Target::Inner(number) = load(child).target() {
                        assert!(marked || !index.inner(number).has_marks(), "a mark without a way");
                    }
                }
                inner.has_marks()
            }
        }
    }
    below(index, Ref(index.root.load(Ordering::SeqCst)), stale);
}

#[test]
fn a_walk_over_pooled_entries_passes_over_the_others() {
    let (few, many) = if cfg!(miri) { (20, 400) } else { (10_000, 1_000_000) };
    let stride = many / few;
    // Two ways to divide the entries into those with pool memory and the others.
    let apart: (Vec<u64>, Vec<u64>) = ((0..few).collect(), (few..many).collect());
    let interleaved: (Vec<u64>, Vec<u64>) = (0..many).partition(|key| key % stride == 7);
    for (pooled_ones, others) in [apart, interleaved] {
        let alone = Index::new();
        for key in &pooled_ones {
            keep(&alone, *key, pooled(*key));
        }
        let index = Index::new();
        for key in others {
            keep(&index, key, Word::new(Content::SameFilled(key)));
        }
        // A leaf at the root has no mark and counts as marked. So the first inner node above it has a mark
        // for it, and the walk clears that mark.
        let (found, leaves) = round(&index, 0);
        assert!(found.is_empty() && leaves <= 1, "{leaves} leaves have nothing to visit");
        assert_eq!(round(&index, 0), (vec![], 0));
        for key in &pooled_ones {
            keep(&index, *key, pooled(*key));
        }
        let (found, leaves) = round(&index, 0);
        let (found_alone, leaves_alone) = round(&alone, 0);
        assert_eq!((&found, &found_alone), (&pooled_ones, &pooled_ones));
        assert!(leaves <= 3 * leaves_alone, "{leaves} leaves, alone {leaves_alone}");
        assert!(leaves <= pooled_ones.len());
        check_marks(&index, false);
        // Most pages are written back, and a walk visits no leaf for them.
        for key in pooled_ones.iter().skip(1) {
            keep(&index, *key, Word::new(Content::OnDevice(Address::from_bits(1))));
        }
        check_marks(&index, false);
        assert_eq!(round(&index, 0), (vec![pooled_ones[0]], 1));
    }
}

#[test]
fn a_walk_finds_what_is_pooled_among_dense_sparse_and_extreme_keys() {
    let mut rng = Rng::new(77);
    let index = Index::new();
    let mut model = BTreeMap::new();
    for i in 0..if cfg!(miri) { 100 } else { 30_000u64 } {
        let key = match rng.below(4) {
            0 => rng.below(300) as u64,
            1 => u64::MAX - rng.below(70) as u64,
            2 => rng.next() >> rng.below(60),
            _ => (rng.below(40) as u64) << 57,
        };
        let key = match model.range(key..).next() {
            Some((near, _)) if rng.below(2) == 0 => *near,
            _ => key,
        };
        let word = match rng.below(4) {
            0 => Word::EMPTY,
            1 => Word::new(Content::SameFilled(i)),
            _ => pooled(i),
        };
        keep(&index, key, word);
        model.insert(key, word);
        if i % 1000 == 0 || cfg!(miri) && i % 50 == 0 {
            check_marks(&index, true);
            let from = if rng.below(2) == 0 { 0 } else { rng.next() };
            let expect: Vec<u64> =
                model.range(from..).filter(|(_, w)| w.is_stored()).map(|(k, _)| *k).collect();
            assert_eq!(round(&index, from).0, expect);
        }
    }
    round(&index, 0);
    check_marks(&index, false);
    for key in model.keys() {
        keep(&index, *key, Word::EMPTY);
    }
    assert_eq!(index.root.load(Ordering::SeqCst), 0, "nodes were left behind");
}

#[test]
fn a_call_visits_few_nodes_and_takes_stale_marks_away() {
    let index = Index::new();
    let leaves = if cfg!(miri) { 160 } else { 5000u64 };
    for leaf in 0..leaves {
        keep(&index, leaf << LEAF_BITS, pooled(1));
        // `put` does not call `note_replaced`, so the mark is stale.
        put(&index, leaf << LEAF_BITS, 1);
    }
    keep(&index, leaves << LEAF_BITS, pooled(2));
    let mut keys = LeafKeys::new();
    let visit = index.pooled_keys(0, &mut keys);
    assert!(keys.is_empty() && visit.leaves > 10 && visit.leaves <= 143, "{visit:?}");
    assert!(visit.next.is_some_and(|next| next < leaves << LEAF_BITS));
    check_marks(&index, true);
    let first = round(&index, 0);
    assert_eq!(
        (first.0, first.1 as u64),
        (vec![leaves << LEAF_BITS], leaves + 1 - visit.leaves as u64)
    );
    assert_eq!(round(&index, 0).1, 1, "stale marks are gone");
    check_marks(&index, false);
}

#[test]
fn a_store_of_a_new_version_marks_what_the_older_one_has_not_yet() {
    let index = Index::new();
    put(&index, 1 << 40, 1);
    index.lock_or_insert(5).unwrap().replace(pooled(1));
    // As if another thread stored between the replacement above and its `note_replaced`.
    let old = index.lock_or_insert(5).unwrap().replace(pooled(2));
    index.note_replaced(5, old, pooled(2));
    assert_eq!(round(&index, 0).0, [5]);
}

#[test]
fn keys_of_a_leaf_need_no_heap_and_are_not_more_than_a_leafs() {
    let mut keys = LeafKeys::new();
    for key in 0..LEAF_WORDS as u64 {
        keys.push(key);
    }
    assert_eq!((keys.len(), keys[3]), (LEAF_WORDS, 3));
    assert!(std::panic::catch_unwind(move || keys.push(0)).is_err());
    keys.clear();
    assert!(keys.is_empty());
}
