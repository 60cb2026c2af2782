//! Unit tests of a pool. zbud and z3fold share them through the macro `unit_tests!`, each with its own
//! layout.

use std::collections::HashSet;
use std::sync::Arc;

use buddies::{Layout, Pool, READER_LIMIT};
use zpool_api::{PageProvider, SlotRef, Zpool, ZpoolError};
use zpool_pages::{FailingPages, HeapPages};

/// Makes a pool in which the first object of each slot has this generation.
pub(crate) fn starting_at<L: Layout<N>, const N: usize>(
    provider: Arc<dyn PageProvider>,
    generation: u32,
) -> Pool<L, N> {
    Pool::starting_at_for_test(provider, None, generation).unwrap()
}

pub(crate) fn a_slot_is_retired_when_its_generations_are_used_up<L: Layout<N>, const N: usize>() {
    let pages = Arc::new(FailingPages::new(Arc::new(HeapPages::new())));
    let pool = starting_at::<L, N>(pages.clone(), SlotRef::MAX_GENERATION - 3);
    let mut seen = HashSet::new();
    for round in 0..40u8 {
        let handle = pool.malloc_from(&[round; 10]).unwrap();
        assert!(seen.insert(handle), "a handle was given out twice");
        assert_eq!(&*pool.obj_read_begin(handle).unwrap(), &[round; 10]);
        pool.free(handle).unwrap();
    }
    for handle in &seen {
        assert!(pool.obj_read_begin(*handle).is_err() && pool.free(*handle).is_err());
    }
    // Each slot has four generations in this pool. So each page number is used four times and then never
    // again.
    assert_eq!(pool.page_numbers_for_test(), 10);
    assert_eq!((pool.total_pages(), pages.pages_out()), (0, 0));
}

pub(crate) fn too_many_readers_is_an_error_that_passes<L: Layout<N>, const N: usize>() {
    let pool = Pool::<L, N>::new(Arc::new(HeapPages::new()), None).unwrap();
    let handle = pool.malloc_from(b"popular").unwrap();
    pool.set_readers_for_test(0, READER_LIMIT);
    assert!(matches!(
        pool.obj_read_begin(handle),
        Err(ZpoolError::TooManyReaders { limit: READER_LIMIT, .. })
    ));
    pool.set_readers_for_test(0, 0);
    assert_eq!(&*pool.obj_read_begin(handle).unwrap(), b"popular");
}

/// Makes a `#[test]` of each of the functions above, for one layout.
macro_rules! unit_tests {
    ($layout:ty, $buddies:literal) => {
        #[test]
        fn a_slot_is_retired_when_its_generations_are_used_up() {
            unit::a_slot_is_retired_when_its_generations_are_used_up::<$layout, $buddies>();
        }

        #[test]
        fn too_many_readers_is_an_error_that_passes() {
            unit::too_many_readers_is_an_error_that_passes::<$layout, $buddies>();
        }
    };
}
