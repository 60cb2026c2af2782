//! Tests the index under the model checker.

use super::as_map::{get, put, remove};
use super::node::{INNER_BITS, LEAF_BITS};
use super::*;
use crate::entry::word::{Content, PoolId};
use loom::sync::Arc;
use loom::thread;
use zpool_api::BackendBits;
use zpool_base::sync::Watched;

// Under loom, a leaf has two words and an inner node has two children. So a key's offset in its leaf and each
// of its digits must be 0 or 1. A0 and A1 are in the same leaf. The leaf of B0 differs from that leaf in the
// digit of level 0, and the leaf of C0 in the digit of level 1.
const A0: u64 = 0;
const A1: u64 = 1;
const B0: u64 = 1 << LEAF_BITS;
const C0: u64 = 1 << (LEAF_BITS + INNER_BITS);

/// Two threads add one key each. The key that is added second splits the way to the other one. Both keys are
/// found.
#[test]
fn loom_index_insert_against_insert() {
    loom::model(|| {
        let index = Arc::new(Index::new());
        let other = {
            let index = index.clone();
            thread::spawn(move || {
                put(&index, B0, 2);
                assert_eq!(get(&index, B0), Some(2));
            })
        };
        put(&index, A0, 1);
        assert_eq!(get(&index, A0), Some(1));
        other.join().unwrap();
        assert_eq!((get(&index, A0), get(&index, B0)), (Some(1), Some(2)));
    });
}

/// A look-up of a key that is in use, while a new inner node is put above the key's leaf: at the root, or
/// below another inner node. This fails if the new node's reference is stored Relaxed, or loaded Relaxed by
/// `find`: the look-up then meets a node, does not see its contents yet, and finds nothing.
///
/// The accesses to the second word of `shared` are Relaxed and order nothing. They make loom also try the
/// look-up after the insertion. Without them loom misses that order, because the insertion loads the
/// reference before it stores it.
#[test]
fn loom_index_lookup_against_split() {
    for below_an_inner_node in [false, true] {
        loom::model(move || {
            let shared = Arc::new((Index::new(), AtomicU32::new(0)));
            put(&shared.0, A0, 1);
            if below_an_inner_node {
                put(&shared.0, C0, 3);
            }
            let other = {
                let shared = shared.clone();
                thread::spawn(move || {
                    put(&shared.0, B0, 2);
                    shared.1.store(1, Ordering::Relaxed);
                })
            };
            shared.1.load(Ordering::Relaxed);
            assert_eq!(get(&shared.0, A0), Some(1), "in use all the time");
            other.join().unwrap();
        });
    }
}

/// A thread uses a stale reference to a lone entry or a leaf that was recycled for other keys. This fails if
/// `open_with` is Relaxed: the thread then sees the words open before it sees the new keys.
#[test]
fn loom_index_stale_leaf_of_another_prefix() {
    for whole_leaf in [false, true] {
        loom::model(move || {
            let shared = Arc::new((Index::new(), AtomicU32::new(0)));
            put(&shared.0, A0, 1);
            if whole_leaf {
                put(&shared.0, A1, 1);
            }
            let stale = shared.0.find(A0).unwrap();
            let other = {
                let shared = shared.clone();
                thread::spawn(move || {
                    remove(&shared.0, A0);
                    if whole_leaf {
                        remove(&shared.0, A1);
                        put(&shared.0, B0, 2);
                    }
                    put(&shared.0, B0 + 1, 2);
                    shared.1.store(1, Ordering::Relaxed);
                })
            };
            if shared.1.load(Ordering::Relaxed) == 1 {
                // The place now belongs to B: only `open_with` or B's first store can have replaced the DEAD
                // word there.
                assert!(shared.0.lock_in(stale, A0).is_none(), "another key's entry");
            }
            other.join().unwrap();
        });
    }
}

/// A thread uses a stale reference to a lone entry or a leaf that is recycled for the same keys. This fails
/// if the lone entry or the leaf is opened before it is linked: a look-up then does not find what the thread
/// has stored.
#[test]
fn loom_index_stale_leaf_of_the_same_prefix() {
    for whole_leaf in [false, true] {
        loom::model(move || {
            let index = Arc::new(Index::new());
            put(&index, A0, 1);
            if whole_leaf {
                put(&index, A1, 1);
            }
            let stale = index.find(A0).unwrap();
            remove(&index, A1);
            remove(&index, A0);
            let other = {
                let index = index.clone();
                thread::spawn(move || {
                    drop(index.lock_or_insert(if whole_leaf { A1 } else { A0 }).unwrap());
                    if whole_leaf {
                        drop(index.lock_or_insert(A0).unwrap());
                    }
                })
            };
            // Only read the word here. If it is DEAD, `lock_in` would wait for the structure lock, and that
            // would order the two threads.
            if !Word::from_raw(stale.word.load(Ordering::Relaxed)).is_dead() {
                if let Some(mut entry) = index.lock_in(stale, A0) {
                    entry.replace(Word::new(Content::SameFilled(3)));
                    drop(entry);
                    assert_eq!(get(&index, A0), Some(3), "a store that returned is found");
                }
            }
            other.join().unwrap();
        });
    }
}

/// A look-up of a key that is in use has read the reference to the key's lone entry. Then a leaf takes the
/// place of that entry, and the entry is recycled for another key. This fails if `find_lone` does not read
/// the reference again, or if the keys of lone entries are stored or loaded Relaxed.
#[test]
fn loom_index_lookup_against_growth() {
    loom::model(|| {
        let shared = Arc::new((Index::new(), AtomicU32::new(0)));
        put(&shared.0, C0, 3);
        put(&shared.0, A0, 1);
        let Target::Inner(top) = Ref(shared.0.root.load(Ordering::SeqCst)).target() else {
            panic!("a node above both")
        };
        let slot = shared.0.inner(top).child(0);
        let at = Ref(slot.load(Ordering::SeqCst));
        let Target::Lone(number) = at.target() else { panic!("a lone entry") };
        let other = {
            let shared = shared.clone();
            thread::spawn(move || {
                put(&shared.0, A1, 2);
                put(&shared.0, B0, 4);
                shared.1.store(1, Ordering::Relaxed);
            })
        };
        // Relaxed: this load orders nothing. It only makes loom also try the rest of this thread after the
        // other thread has run.
        shared.1.load(Ordering::Relaxed);
        let came_upon = shared.0.find_lone(slot, at, number, A0);
        assert!(!matches!(came_upon, AtLone::Absent), "in use all the time");
        assert_eq!(get(&shared.0, A0), Some(1), "in use all the time");
        other.join().unwrap();
        assert_eq!((get(&shared.0, A0), get(&shared.0, A1)), (Some(1), Some(2)));
    });
}

/// A store to a lone entry is not lost when a leaf takes the entry's place, and the checksum moves to the
/// leaf, too. This fails if `grow` makes the word DEAD by a plain store instead of a CAS, or if the CAS is
/// Relaxed.
#[test]
fn loom_index_store_against_growth() {
    loom::model(|| {
        let index = Arc::new(Index::with_sums());
        put(&index, A0, 1);
        let other = {
            let index = index.clone();
            thread::spawn(move || put(&index, A1, 2))
        };
        let mut entry = index.lock_or_insert(A0).unwrap();
        entry.replace(Word::new(Content::SameFilled(3)));
        entry.set_sum(Some(3));
        drop(entry);
        assert_eq!(get(&index, A0), Some(3), "a store that returned is found");
        other.join().unwrap();
        let entry = index.lock(A0).unwrap();
        assert_eq!((entry.word().content(), entry.sum()), (Content::SameFilled(3), Some(3)));
        drop(entry);
        assert_eq!(get(&index, A1), Some(2));
    });
}

/// A store to a key, while the other key of the same leaf is removed. That removal tries to remove the leaf.
/// This fails if `kill` uses a plain store instead of a CAS.
#[test]
fn loom_index_store_against_prune_of_its_leaf() {
    for whole_leaf in [false, true] {
        loom::model(move || {
            let index = Arc::new(Index::new());
            put(&index, A0, 1);
            if whole_leaf {
                put(&index, A1, 1);
                remove(&index, A1);
            }
            let other = {
                let index = index.clone();
                thread::spawn(move || {
                    put(&index, A1, 2);
                    assert_eq!(get(&index, A1), Some(2), "a store that returned is found");
                })
            };
            remove(&index, A0);
            other.join().unwrap();
            assert_eq!((get(&index, A0), get(&index, A1)), (None, Some(2)));
        });
    }
}

/// A look-up of a key, while the key's leaf is recycled for another key. This fails if `lock_in` or `peek`
/// does not check the prefix again. It also fails if `peek` loads the word Relaxed: it then sees the old
/// prefix with the new word.
#[test]
fn loom_index_lookup_against_recycling() {
    loom::model(|| {
        let index = Arc::new(Index::new());
        put(&index, A0, 1);
        let other = {
            let index = index.clone();
            thread::spawn(move || {
                let seen = index.lock(A0).map(|entry| entry.word().content());
                let fine = [None, Some(Content::Empty), Some(Content::SameFilled(1))];
                assert!(fine.contains(&seen), "{seen:?}");
                assert!([None, Some(1)].contains(&get(&index, A0)));
            })
        };
        remove(&index, A0);
        put(&index, B0, 2);
        other.join().unwrap();
        assert_eq!((get(&index, A0), get(&index, B0)), (None, Some(2)));
    });
}

/// The same as `loom_index_lookup_against_recycling`, for a look-up that avoids the lock if it can. This
/// fails if `see_or_lock` does not check the prefix, or if it loads the word Relaxed.
#[test]
fn loom_index_seeing_against_recycling() {
    loom::model(|| {
        let index = Arc::new(Index::new());
        put(&index, A0, 1);
        let other = {
            let index = index.clone();
            thread::spawn(move || {
                let pattern = |word: Word| match word.content() {
                    Content::SameFilled(value) => Some(value),
                    _ => None,
                };
                let seen = index.see_or_lock(A0, pattern);
                assert!(matches!(seen, None | Some(Ok(1) | Err(_))), "{seen:?}");
            })
        };
        remove(&index, A0);
        put(&index, B0, 2);
        other.join().unwrap();
        assert_eq!((get(&index, A0), get(&index, B0)), (None, Some(2)));
    });
}

/// Two threads remove the last two entries of a leaf at the same time. The leaf is removed, too. This fails
/// without the fence of `prune`: each thread then sees the other's old word.
#[test]
fn loom_index_removal_against_removal() {
    loom::model(|| {
        let index = Arc::new(Index::new());
        put(&index, A0, 1);
        put(&index, A1, 2);
        let other = {
            let index = index.clone();
            thread::spawn(move || remove(&index, A1))
        };
        remove(&index, A0);
        other.join().unwrap();
        assert_eq!(index.root.load(Ordering::SeqCst), 0, "an empty leaf stays");
    });
}

/// One thread locks the entry and only reads it, while another thread removes the entry and tries to remove
/// its place. One of the two removes the place. This fails if a look-up that found an EMPTY word does not
/// prune.
#[test]
fn loom_index_look_against_removal() {
    loom::model(|| {
        let index = Arc::new(Index::new());
        put(&index, A0, 1);
        let other = {
            let index = index.clone();
            thread::spawn(move || drop(index.lock(A0)))
        };
        remove(&index, A0);
        other.join().unwrap();
        assert_eq!(index.root.load(Ordering::SeqCst), 0, "an empty place stays");
    });
}

/// A removal has made one word of a leaf DEAD, finds the next word in use, and restores the first one. Other
/// threads use that word at the same time. This fails if the CAS of `kill` or the store that restores the
/// word is Relaxed: the next holder of the word is then not ordered after the last one.
#[test]
fn loom_index_users_of_a_restored_word_are_ordered() {
    loom::model(|| {
        let shared = Arc::new((Index::new(), Watched::new()));
        // Makes a leaf of two words, one of them in use.
        put(&shared.0, A1, 1);
        put(&shared.0, A0, 1);
        remove(&shared.0, A1);
        let pruner = {
            let shared = shared.clone();
            thread::spawn(move || remove(&shared.0, A0))
        };
        let neighbour = {
            let shared = shared.clone();
            thread::spawn(move || {
                put(&shared.0, A1, 2);
                let entry = shared.0.lock_or_insert(A0).unwrap();
                shared.1.write();
                drop(entry);
            })
        };
        let entry = shared.0.lock_or_insert(A0).unwrap();
        shared.1.write();
        drop(entry);
        pruner.join().unwrap();
        neighbour.join().unwrap();
        assert_eq!(get(&shared.0, A1), Some(2));
    });
}

/// A look-up without a lock, while the key's place is recycled for another key and then for the same key
/// again. This fails if `read` does not compare the counts of removals: it then reads the other key's word,
/// but the prefix or key of the next life.
#[test]
fn loom_index_peek_against_recycling_twice() {
    loom::model(|| {
        let index = Arc::new(Index::new());
        put(&index, A0, 1);
        let other = {
            let index = index.clone();
            thread::spawn(move || recycle_twice(&index))
        };
        let seen = get(&index, A0);
        assert!([None, Some(1), Some(3)].contains(&seen), "{seen:?}");
        other.join().unwrap();
    });
}

/// The same as `loom_index_peek_against_recycling_twice`, for `read` with a place that was found before.
/// `peek` and `see_or_lock` rely on it. This also fails if `count` or the load of the count is Relaxed: the
/// thread then sees the removal counted, and still reads a word from before it.
#[test]
fn loom_index_read_against_recycling_twice() {
    loom::model(|| {
        let shared = Arc::new((Index::new(), AtomicU32::new(0)));
        put(&shared.0, A0, 1);
        let found = shared.0.find(A0).unwrap();
        let other = {
            let shared = shared.clone();
            thread::spawn(move || {
                recycle_twice(&shared.0);
                shared.1.store(1, Ordering::Relaxed);
            })
        };
        // Relaxed: this load orders nothing. It only makes loom also try the rest of this thread after the
        // other thread has run.
        shared.1.load(Ordering::Relaxed);
        let seen = shared.0.read(found).map(Word::content);
        let fine = [Content::Empty, Content::SameFilled(1), Content::SameFilled(3)];
        assert!(seen.is_none_or(|seen| fine.contains(&seen)), "{seen:?}");
        other.join().unwrap();
    });
}

/// A look-up by a stale reference to a lone entry. The entry was recycled for another key, and then its
/// memory returns to the system. After that its key reads as zero, which is the key that is looked up. This
/// fails if `read` does not compare the counts of removals, or if the zeros are stored Relaxed. (Outside the
/// model, the system orders them.)
#[test]
fn loom_index_lookup_against_memory_given_back() {
    // How often the memory was returned in all runs; not part of the model. In some runs it is not returned,
    // because a thread has the entry locked.
    static GIVEN_BACK: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    loom::model(|| {
        let shared = Arc::new((Index::new(), AtomicU32::new(0)));
        // Two lone entries fill the first group. So the one that is to lose its memory is in the second.
        put(&shared.0, B0, 4);
        put(&shared.0, C0, 5);
        put(&shared.0, A0, 1);
        let stale = shared.0.find(A0).unwrap();
        let Target::Lone(2) = stale.at.target() else { panic!("the third lone entry") };
        remove(&shared.0, A0);
        put(&shared.0, A1, 9);
        remove(&shared.0, B0);
        remove(&shared.0, C0);
        let other = {
            let shared = shared.clone();
            thread::spawn(move || {
                remove(&shared.0, A1);
                if shared.0.lock_structure().structure.lones.touched() == 2 {
                    GIVEN_BACK.fetch_add(1, Ordering::SeqCst);
                }
                shared.1.store(1, Ordering::Relaxed);
            })
        };
        // Relaxed: this load orders nothing. It only makes loom also try the rest of this thread after the
        // other thread has run.
        shared.1.load(Ordering::Relaxed);
        let seen = shared.0.read(stale).map(Word::content);
        assert!(seen.is_none(), "another key's: {seen:?}");
        assert!(shared.0.lock_in(stale, A0).is_none(), "another key's entry");
        assert_eq!(get(&shared.0, A0), None);
        other.join().unwrap();
    });
    assert!(GIVEN_BACK.load(Ordering::SeqCst) > 0, "the third entry's memory went back");
}

fn recycle_twice(index: &Index) {
    remove(index, A0);
    put(index, B0, 2);
    remove(index, B0);
    put(index, A0, 3);
}

fn pooled() -> Word {
    let pool = PoolId::from_index(0);
    Word::new(Content::Stored { pool, bits: BackendBits::truncate(7), raw: false })
}

fn keep(index: &Index, key: u64, word: Word) {
    let old = index.lock_or_insert(key).unwrap().replace(word);
    index.note_replaced(key, old, word);
}

/// Returns whether a walk over the whole index finds the key.
fn is_walked(index: &Index, key: u64) -> bool {
    let mut keys = LeafKeys::new();
    let mut next = Some(0);
    while let Some(from) = next {
        next = index.pooled_keys(from, &mut keys).next;
        if keys.contains(&key) {
            return true;
        }
    }
    false
}

/// A store to one key of a leaf, while another thread frees the pool memory of the other key and clears the
/// mark of the leaf. This fails if either fence is missing: one thread then does not see the word, and the
/// other does not see that the mark is cleared.
#[test]
fn loom_index_marks_store_against_clear() {
    loom::model(|| {
        let index = Arc::new(Index::new());
        put(&index, B0, 1);
        keep(&index, A0, pooled());
        put(&index, A1, 1);
        let other = {
            let index = index.clone();
            thread::spawn(move || keep(&index, A0, Word::new(Content::SameFilled(5))))
        };
        keep(&index, A1, pooled());
        assert!(is_walked(&index, A1), "a store that returned is walked over");
        other.join().unwrap();
        assert!(is_walked(&index, A1) && !is_walked(&index, A0));
    });
}

/// A store, while another thread puts a new node between the store's leaf and the node with the leaf's mark,
/// and a walk clears the mark in the new node. This fails if the store does not read the reference again, or
/// if either fence is missing.
#[test]
fn loom_index_marks_store_against_split_and_clear() {
    loom::model(|| {
        let index = Arc::new(Index::new());
        // Makes an inner node at the top, with a lone entry on each side.
        put(&index, A0, 1);
        put(&index, C0, 1);
        let other = {
            let index = index.clone();
            thread::spawn(move || {
                // Adds an inner node between the top and A's entry. The mark in the top is then set because
                // of B.
                keep(&index, B0, pooled());
                is_walked(&index, A0);
            })
        };
        keep(&index, A0, pooled());
        assert!(is_walked(&index, A0), "a store that returned is walked over");
        other.join().unwrap();
        assert!(is_walked(&index, A0) && is_walked(&index, B0));
    });
}
