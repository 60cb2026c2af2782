//! Loom models of small whole pools of z3fold. Some are shared with zbud and run here with z3fold's page
//! locks. The others test in-page compaction.
//!
//! Each model of in-page compaction names the omissions that make it fail. The models of the object word
//! are in the crate `buddies`.

#[macro_use]
#[path = "../../buddies/tests/loom_models/mod.rs"]
mod models;

use loom::thread;
use std::sync::Arc as StdArc;

use zpool_api::Zpool;
use zpool_pages::HeapPages;

use crate::Z3fold;
use models::{assert_empty, is, model};

fn pool() -> StdArc<dyn Zpool> {
    StdArc::new(Z3fold::new(StdArc::new(HeapPages::new())).unwrap())
}

pool_models!(pool);

/// A reader of the middle object races an allocation that must move this object. The model fails if the
/// mover does not keep readers out, if the reader does not wait, or if the reader reads the object's place
/// before it waits.
#[test]
fn loom_pool_read_against_in_page_compaction() {
    model(|| {
        let pool = pool();
        let first = pool.malloc_from(&[1; 20 * 64]).unwrap();
        let last = pool.malloc_from(&[2; 20 * 64]).unwrap();
        let middle = pool.malloc_from(&[3; 10 * 64]).unwrap();
        assert_eq!(pool.total_pages(), 1);
        pool.free(first).unwrap();
        let reader = {
            let pool = pool.clone();
            thread::spawn(move || assert!(is(&*pool, middle, 3, 10 * 64)))
        };
        // There are 34 free chunks, 20 of them before the middle object. So this object needs a move of the
        // middle object.
        let large = pool.malloc_from(&[4; 30 * 64]).unwrap();
        reader.join().unwrap();
        assert!(is(&*pool, middle, 3, 10 * 64) && is(&*pool, last, 2, 20 * 64));
        assert!(is(&*pool, large, 4, 30 * 64));
    });
}

/// The free of the middle object races an allocation that must move this object. The model fails if the
/// free does not take the page lock.
#[test]
fn loom_pool_free_against_in_page_compaction() {
    model(|| {
        let pool = pool();
        let first = pool.malloc_from(&[1; 20 * 64]).unwrap();
        let last = pool.malloc_from(&[2; 20 * 64]).unwrap();
        let middle = pool.malloc_from(&[3; 10 * 64]).unwrap();
        pool.free(first).unwrap();
        let other = {
            let pool = pool.clone();
            thread::spawn(move || pool.free(middle).unwrap())
        };
        let large = pool.malloc_from(&[4; 30 * 64]).unwrap();
        other.join().unwrap();
        assert!(!is(&*pool, middle, 3, 10 * 64) && is(&*pool, last, 2, 20 * 64));
        assert!(is(&*pool, large, 4, 30 * 64));
        pool.free(last).unwrap();
        pool.free(large).unwrap();
        assert_empty(&*pool);
    });
}
