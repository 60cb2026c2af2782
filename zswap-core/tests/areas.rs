//! Tests areas that have pools of their own: as a program with tenants would use them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use common::areas::{builder, check, of, pages, put, with_device};
#[cfg(feature = "zstd")]
use common::page;
use common::rig::marked;
use common::{backends, eventually};
use zpool_base::sync::test_rng::Rng;
use zswap_core::device::{MemorySwapDevice, SwapDevice};
use zswap_core::{
    AreaSettings, BuildError, LimitReason, LoadError, PAGE_SIZE, Page, Promotion, ShrinkerPolicy,
    StoreError, SwapEntry, WritebackError, Zswap,
};

/// Two tenants, with areas of their own.
const QUIET: u8 = 3;
const LOUD: u8 = 200;

/// Returns the area's pages in pools, and those on the device.
fn places(store: &Zswap, area: u8) -> (usize, usize) {
    let stats = store.area(area).unwrap().stats();
    (stats.pools.iter().map(|pool| pool.objects).sum(), stats.device_pages)
}

#[test]
fn a_tenant_that_floods_its_area_moves_no_page_of_another() {
    let of_device = 5000;
    let tenants = with_device(of_device).max_pool_bytes(pages(300)).build().unwrap();
    for area in [QUIET, LOUD] {
        let settings = AreaSettings::default().max_pool_bytes(pages(100));
        tenants.add_area(area, settings).unwrap();
    }
    (0..80).for_each(|n| put(&tenants, QUIET, n).unwrap());
    (0..80).for_each(|n| put(&tenants, 0, n).unwrap());
    (0..2000).for_each(|n| put(&tenants, LOUD, n).unwrap());
    assert_eq!(places(&tenants, QUIET), (80, 0));
    let (in_pools, on_device) = places(&tenants, LOUD);
    assert_eq!(in_pools + on_device, 2000);
    assert!((60..=116).contains(&in_pools), "{in_pools}");
    let quiet = tenants.area(QUIET).unwrap().stats();
    assert_eq!((quiet.pool_limit_hit, quiet.written_back_pages), (0, 0));
    let stats = tenants.stats();
    assert_eq!((stats.device_pages, stats.stored_pages), (on_device, 2160));
    for area in [QUIET, 0] {
        (0..80).for_each(|n| check(&tenants, area, n));
    }
    (0..2000).for_each(|n| check(&tenants, LOUD, n));
    assert_eq!(tenants.area(QUIET).unwrap().stats().device_loads, 0);
}

/// The limit of the store holds over all areas, whatever their own limits are.
#[test]
fn at_the_limit_of_the_store_the_largest_goes_first_and_protected_pages_stay() {
    let tenants = with_device(20_000).max_pool_bytes(pages(200)).build().unwrap();
    let protected = AreaSettings::default().protected_pool_bytes(pages(60));
    tenants.add_area(QUIET, protected).unwrap();
    tenants.add_area(LOUD, AreaSettings::default().max_pool_bytes(pages(1000))).unwrap();
    (0..50).for_each(|n| put(&tenants, QUIET, n).unwrap());
    (0..30).for_each(|n| put(&tenants, 0, n).unwrap());
    (0..2000).for_each(|n| put(&tenants, LOUD, n).unwrap());
    // Each page in a pool takes a page.
    let used = |area: u8| places(&tenants, area).0;
    // The loud one has 120 pages or so, and is the largest. So nobody else loses any.
    assert_eq!(places(&tenants, QUIET), (50, 0));
    (0..30).for_each(|n| check(&tenants, 0, n));
    assert_eq!(tenants.stats().device_loads, 0);
    assert!((80..140).contains(&used(LOUD)), "{}", used(LOUD));
    // Beyond what is protected, the quiet one is like others: it gets room from the largest, until it is the largest.
    (50..2000).for_each(|n| put(&tenants, QUIET, n).unwrap());
    assert!(used(QUIET) > 85 && used(QUIET) < 140, "{}", used(QUIET));
    // Both exceed what is protected by the same, give or take what one store frees: three segments of 15 pages.
    let excess = used(QUIET) - 60;
    assert!(excess.abs_diff(used(LOUD)) <= 48, "{excess} {}", used(LOUD));
    let in_pools: usize = tenants.stats().pools.iter().map(|pool| pool.objects).sum();
    assert!(in_pools <= 200 + 16, "{in_pools}");
    for area in [QUIET, LOUD] {
        (0..2000).for_each(|n| check(&tenants, area, n));
    }
    // If all that others hold is protected, a tenant makes room with its own pages.
    tenants.area(LOUD).unwrap().set_protected_pool_bytes(usize::MAX).unwrap();
    tenants.area(QUIET).unwrap().set_protected_pool_bytes(usize::MAX).unwrap();
    let (loud, own) = (places(&tenants, LOUD).1, places(&tenants, QUIET).1);
    let alone = tenants.stats().device_pages - loud - own;
    (2000..2300).for_each(|n| put(&tenants, QUIET, n).unwrap());
    assert_eq!(places(&tenants, LOUD).1, loud);
    let others = tenants.stats().device_pages - loud - places(&tenants, QUIET).1;
    assert!(others >= alone && others <= 30, "{others} of 30 unprotected pages");
}

#[test]
fn without_a_device_only_the_full_area_refuses_pages() {
    for (zpool, percent) in backends().iter().zip([100, 80].iter().cycle()) {
        let builder = builder().zpool(zpool).accept_threshold_percent(*percent);
        let tenants = builder.max_pool_bytes(pages(500)).build().unwrap();
        tenants.add_area(LOUD, AreaSettings::default().max_pool_bytes(pages(50))).unwrap();
        let refused = (0..).find_map(|n| put(&tenants, LOUD, n).err()).unwrap();
        let (reason, limit) = (LimitReason::NoDevice, pages(50));
        let StoreError::PoolLimit { entry, .. } = refused else { panic!("{refused}") };
        assert_eq!(refused, StoreError::PoolLimit { entry, limit, reason });
        (0..100).for_each(|n| put(&tenants, 0, n).unwrap());
        let loud = tenants.area(LOUD).unwrap();
        let stats = loud.stats();
        assert_eq!((stats.reject_reclaim_fail, stats.reject_no_device), (1, 1));
        assert_eq!(tenants.stats().reject_no_device, 1);
        // It takes pages again when it has shrunk to its threshold.
        let held = loud.len() as u64;
        assert!((40..=50).contains(&held), "{held}");
        assert!(tenants.invalidate(of(LOUD, 0)));
        assert_eq!(put(&tenants, LOUD, 0).is_ok(), *percent == 100, "{zpool}");
        (1..held / 4).for_each(|n| assert!(tenants.invalidate(of(LOUD, n))));
        put(&tenants, LOUD, 0).unwrap();
        // The limit of the store is another one.
        let refused = (100..).find_map(|n| put(&tenants, 0, n).err()).unwrap();
        assert!(matches!(refused, StoreError::PoolLimit { limit, .. } if limit == pages(500)));
        assert!(put(&tenants, LOUD, 1).is_err(), "the store is full");
        loud.set_max_pool_bytes(None).unwrap();
        tenants.set_max_pool_bytes(None).unwrap();
        (0..100).for_each(|n| put(&tenants, LOUD, n).unwrap());
    }
}

#[test]
fn pages_of_an_area_with_writeback_switched_off_stay_in_memory() {
    let tenants = with_device(5000).max_pool_bytes(pages(100)).build().unwrap();
    tenants.add_area(QUIET, AreaSettings::default().writeback_enabled(false)).unwrap();
    (0..40).for_each(|n| put(&tenants, QUIET, n).unwrap());
    (0..500).for_each(|n| put(&tenants, 0, n).unwrap());
    assert_eq!(places(&tenants, QUIET), (40, 0));
    let quiet = tenants.area(QUIET).unwrap();
    assert_eq!(quiet.shrink(10), Err(WritebackError::NoDevice));
    assert!(tenants.shrink(1000).unwrap() > 0);
    assert_eq!(places(&tenants, QUIET), (40, 0));
    // It gets the room of the others, and then it is refused.
    let refused = (40..).find_map(|n| put(&tenants, QUIET, n).err().map(|e| (n, e))).unwrap();
    assert!(refused.0 >= 90, "{refused:?}");
    let StoreError::PoolLimit { reason, .. } = refused.1 else { panic!("{refused:?}") };
    assert_eq!(reason, LimitReason::NoDevice);
    quiet.set_writeback_enabled(true);
    (40..200).for_each(|n| put(&tenants, QUIET, n).unwrap());
    assert_eq!(quiet.shrink(7), Ok(7));
    tenants.set_writeback_enabled(false);
    assert_eq!(quiet.shrink(7), Err(WritebackError::NoDevice));
    tenants.set_writeback_enabled(true);
    (0..200).for_each(|n| check(&tenants, QUIET, n));
    (0..500).for_each(|n| check(&tenants, 0, n));
}

#[test]
fn each_area_has_its_own_backend_and_compressor_and_switches_alone() {
    let tenants = builder().build().unwrap();
    let zpool = backends().last().unwrap().clone();
    tenants.add_area(QUIET, AreaSettings::default().zpool(&zpool)).unwrap();
    tenants.add_area(LOUD, AreaSettings::default().compressor("null")).unwrap();
    for area in [0, QUIET, LOUD] {
        (0..60).for_each(|n| put(&tenants, area, n).unwrap());
    }
    let pools = |area: u8| {
        let stats = tenants.area(area).unwrap().stats();
        assert!(stats.pools.iter().all(|pool| pool.swap_type == Some(area)));
        let names = stats.pools.iter().map(|pool| (pool.zpool.clone(), pool.objects));
        names.collect::<Vec<_>>()
    };
    assert_eq!(pools(QUIET), [(zpool.clone(), 60)]);
    assert_eq!(pools(LOUD), [("zbud".to_owned(), 60)]);
    assert_eq!(tenants.stats().pools.len(), 3);
    let loud = tenants.area(LOUD).unwrap();
    for name in backends() {
        loud.set_zpool(&name).unwrap();
        (0..10).for_each(|n| put(&tenants, LOUD, n).unwrap());
    }
    assert_eq!(pools(QUIET), [(zpool.clone(), 60)]);
    assert!(matches!(loud.set_zpool("zlab"), Err(BuildError::Zpool(_))));
    assert!(matches!(loud.set_compressor("lz5"), Err(BuildError::Compressor(_))));
    // Migration moves each page into the current pool of its area.
    tenants.set_zpool(&zpool).unwrap();
    let migration = tenants.migrate_pools(usize::MAX).unwrap();
    assert_eq!(migration.left, 0);
    assert_eq!(pools(LOUD), [(zpool.clone(), 60)]);
    assert_eq!((pools(QUIET).len(), tenants.stats().pools.len()), (1, 3));
    for area in [0, QUIET, LOUD] {
        (0..60).for_each(|n| check(&tenants, area, n));
    }
    assert_eq!(tenants.stats().stored_pages, 180);
}

#[cfg(feature = "zstd")]
#[test]
fn recompression_of_an_area_leaves_others_alone() {
    use zswap_core::Recompress;
    let tenants = builder().build().unwrap();
    tenants.add_area(QUIET, AreaSettings::default()).unwrap();
    let text = |n: u64| page(4 + 8 * n);
    for (area, n) in [0, QUIET].into_iter().flat_map(|area| (0..20).map(move |n| (area, n))) {
        tenants.store(of(area, n), &text(n)).unwrap();
    }
    let what = Recompress::new("zstd").area(QUIET);
    assert_eq!(tenants.recompress(&what).unwrap().moved, 20);
    assert_eq!(tenants.recompress(&what).unwrap().moved, 0);
    assert_eq!(tenants.recompress(&Recompress::new("zstd").area(7)).unwrap().moved, 0);
    assert_eq!(tenants.recompress(&Recompress::new("zstd").max_pages(5)).unwrap().moved, 5);
    assert_eq!(tenants.recompress(&Recompress::new("zstd")).unwrap().moved, 15);
    // No pool is built for an area without pages.
    tenants.add_area(LOUD, AreaSettings::default()).unwrap();
    tenants.recompress(&Recompress::new("zstd:level=9")).unwrap();
    assert_eq!(tenants.area(LOUD).unwrap().stats().pools.len(), 1);
    // Areas take turns, however few pages a call recompresses.
    for area in [0, QUIET] {
        (0..20).for_each(|n| tenants.store(of(area, n), &text(n)).unwrap());
    }
    for _ in 0..4 {
        assert_eq!(tenants.recompress(&Recompress::new("zstd").max_pages(1)).unwrap().moved, 1);
    }
    let again = |pools: Vec<zswap_core::PoolStats>| {
        let zstd = pools.iter().filter(|pool| pool.compressor.starts_with("zstd"));
        zstd.map(|pool| pool.objects).sum::<usize>()
    };
    assert_eq!(again(tenants.area(QUIET).unwrap().stats().pools), 2);
    let mut back = Box::new([0; PAGE_SIZE]);
    for (area, n) in [0, QUIET].into_iter().flat_map(|area| (0..20).map(move |n| (area, n))) {
        tenants.load(of(area, n), &mut back).unwrap();
        assert!(back == text(n));
    }
}

#[test]
fn an_area_is_added_before_its_first_page_or_not_at_all() {
    let tenants = builder().build().unwrap();
    let add = |area| tenants.add_area(area, AreaSettings::default());
    put(&tenants, 1, 0).unwrap();
    assert_eq!(add(1), Err(BuildError::AreaTaken { swap_type: 1 }));
    tenants.invalidate(of(1, 0));
    assert_eq!(add(1), Err(BuildError::AreaTaken { swap_type: 1 }), "it may have had readers");
    // Looking for a page does not make an area one of the shared ones.
    assert!(!tenants.contains(of(2, 0)) && !tenants.invalidate(of(2, 0)));
    let missing = tenants.load(of(2, 0), &mut [0; PAGE_SIZE]);
    assert_eq!(missing, Err(LoadError::NotFound { entry: of(2, 0) }));
    add(2).unwrap();
    assert_eq!(add(2), Err(BuildError::AreaTaken { swap_type: 2 }));
    let unknown = tenants.add_area(4, AreaSettings::default().zpool("zlab"));
    assert!(matches!(unknown, Err(BuildError::Zpool(_))));
    add(4).unwrap();
    assert!(tenants.area(1).is_none() && tenants.area(4).unwrap().is_empty());
    // An emptied area can be used again.
    (0..9).for_each(|n| put(&tenants, 4, n).unwrap());
    assert_eq!(tenants.invalidate_area(4), 9);
    (0..9).for_each(|n| put(&tenants, 4, n).unwrap());
    let entries: Vec<_> = tenants.area(4).unwrap().entries().collect();
    assert_eq!(entries, (0..9).map(|n| of(4, n)).collect::<Vec<_>>());
}

/// Threads store the first pages of areas while others add the areas. Whoever comes first, the pages are there.
#[test]
fn an_area_that_is_added_during_its_first_store_is_one_or_the_other() {
    let (mut own, mut shared) = (0, 0);
    // Some rounds, and then more until both have been seen.
    for round in 0.. {
        let least = if cfg!(miri) { 2 } else { 40 };
        if round >= least && (cfg!(miri) || own > 0 && shared > 0) {
            break;
        }
        let tenants = builder().build().unwrap();
        let added = AtomicUsize::new(0);
        let (tenants, added) = (&tenants, &added);
        thread::scope(|scope| {
            scope.spawn(|| (0..40).for_each(|area| put(tenants, area, 0).unwrap()));
            for _ in 0..2 {
                scope.spawn(|| {
                    for area in (0..40).rev() {
                        match tenants.add_area(area, AreaSettings::default()) {
                            Ok(()) => drop(added.fetch_add(1, SeqCst)),
                            Err(error) => {
                                assert_eq!(error, BuildError::AreaTaken { swap_type: area });
                            }
                        }
                    }
                });
            }
        });
        let areas = (0..40).filter(|area| tenants.area(*area).is_some());
        assert_eq!(areas.clone().count(), added.load(SeqCst));
        areas.for_each(|area| assert_eq!(places(tenants, area), (1, 0)));
        (0..40).for_each(|area| check(tenants, area, 0));
        assert_eq!(tenants.stats().stored_pages, 40);
        own += added.load(SeqCst);
        shared += 40 - added.load(SeqCst);
    }
}

#[test]
fn a_batch_may_have_pages_of_several_areas() {
    let tenants = with_device(1000).build().unwrap();
    tenants.add_area(QUIET, AreaSettings::default()).unwrap();
    tenants.add_area(LOUD, AreaSettings::default().max_pool_bytes(pages(4))).unwrap();
    let entries: Vec<_> = (0..60).map(|n| of([QUIET, LOUD, 7, 7][n as usize % 4], n)).collect();
    let contents: Vec<_> = (0..60).map(|n| marked(n, 2)).collect();
    let batch: Vec<(SwapEntry, &Page)> =
        entries.iter().copied().zip(contents.iter().map(|page| &**page)).collect();
    tenants.store_batch(&batch).unwrap().into_iter().for_each(Result::unwrap);
    assert_eq!(places(&tenants, QUIET), (15, 0));
    assert_eq!(places(&tenants, LOUD).0 + places(&tenants, LOUD).1, 15);
    assert!(places(&tenants, LOUD).1 > 0);
    let mut back = vec![[0; PAGE_SIZE]; 60];
    tenants.load_batch(&entries, &mut back).unwrap().into_iter().for_each(Result::unwrap);
    assert!(back.iter().zip(&contents).all(|(back, page)| back == &**page));
}

#[test]
fn promotion_is_by_the_policy_of_the_area() {
    let tenants = with_device(1000).build().unwrap();
    tenants.add_area(QUIET, AreaSettings::default().promotion(Promotion::Always)).unwrap();
    tenants.add_area(LOUD, AreaSettings::default()).unwrap();
    for area in [QUIET, LOUD] {
        (0..20).for_each(|n| put(&tenants, area, n).unwrap());
        assert_eq!(tenants.area(area).unwrap().shrink(20), Ok(20));
        (0..20).for_each(|n| check(&tenants, area, n));
    }
    assert_eq!((places(&tenants, QUIET), places(&tenants, LOUD)), ((20, 0), (0, 20)));
    // An area at its own limit promotes nothing.
    let quiet = tenants.area(QUIET).unwrap();
    quiet.shrink(20).unwrap();
    quiet.set_max_pool_bytes(Some(0)).unwrap();
    (0..20).for_each(|n| check(&tenants, QUIET, n));
    assert_eq!(places(&tenants, QUIET), (0, 20));
}

#[test]
fn the_background_shrinker_watches_each_area() {
    let device = Arc::new(MemorySwapDevice::new(5000));
    let segment = device.geometry().segment_bytes;
    let tenants = builder().swap_device(device).max_pool_bytes(pages(5000)).build().unwrap();
    let tenants = Arc::new(tenants);
    let policy = ShrinkerPolicy::default().from_percent(50).pause(Duration::from_millis(1));
    let shrinker = tenants.shrink_in_background(policy).unwrap();
    // Few pages, and then more than four segments above the threshold: the shrinker treats them differently.
    let large = 10 * segment / PAGE_SIZE;
    tenants.add_area(LOUD, AreaSettings::default().max_pool_bytes(pages(40))).unwrap();
    tenants.add_area(9, AreaSettings::default().max_pool_bytes(large * PAGE_SIZE)).unwrap();
    tenants.add_area(QUIET, AreaSettings::default()).unwrap();
    (0..100).for_each(|n| put(&tenants, QUIET, n).unwrap());
    (0..36).for_each(|n| put(&tenants, LOUD, n).unwrap());
    eventually("the area is at its threshold", || places(&tenants, LOUD).0 <= 20);
    (0..large as u64 * 9 / 10).for_each(|n| put(&tenants, 9, n).unwrap());
    let threshold = large / 2 + segment / PAGE_SIZE;
    eventually("the large area is near its threshold", || places(&tenants, 9).0 <= threshold);
    assert_eq!(shrinker.stop().last_error, None);
    assert_eq!(places(&tenants, QUIET), (100, 0));
    let none = builder().swap_device(Arc::new(MemorySwapDevice::new(10))).build().unwrap();
    let none = Arc::new(none);
    assert!(matches!(none.shrink_in_background(policy), Err(WritebackError::NoLimit)));
    none.add_area(1, AreaSettings::default().max_pool_bytes(pages(9))).unwrap();
    let _shrinker = none.shrink_in_background(policy).unwrap();
}

#[test]
fn the_tables_of_areas_count_and_must_fit() {
    let plain = builder().build().unwrap();
    let before = plain.stats().memory_bytes();
    plain.add_area(1, AreaSettings::default()).unwrap();
    let of_area = plain.stats().memory_bytes() - before;
    assert!(of_area > 1000, "{of_area}");
    let small = builder().max_bytes(before + PAGE_SIZE + of_area).build().unwrap();
    let mut added = 0;
    let refused = loop {
        match small.add_area(added, AreaSettings::default()) {
            Ok(()) => added += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, BuildError::LimitTooSmall { .. }), "{refused}");
    assert!(added <= 2, "{added}");
    put(&small, added, 0).unwrap();
}

/// Threads use three areas, one with pools that switch, one at its limit. Figures and pages are right all the time.
#[test]
fn reads_agree_with_a_model_while_areas_flood_switch_and_shrink() {
    const COUNT: u64 = 60;
    let rounds = if cfg!(miri) { 60 } else { 4000 };
    let tenants = with_device(3000).max_pool_bytes(pages(90)).build().unwrap();
    tenants.add_area(QUIET, AreaSettings::default().protected_pool_bytes(pages(30))).unwrap();
    tenants.add_area(LOUD, AreaSettings::default().max_pool_bytes(pages(20))).unwrap();
    let (tenants, stop) = (&tenants, &AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let names = backends();
            for n in 0.. {
                if stop.load(SeqCst) {
                    break;
                }
                tenants.area(QUIET).unwrap().set_zpool(&names[n % names.len()]).unwrap();
                match tenants.migrate_pools(20) {
                    Ok(_) => {}
                    Err(error) => panic!("{error}"),
                }
                let _ = tenants.shrink(3).unwrap();
                thread::yield_now();
            }
        });
        let users: Vec<_> = [QUIET, LOUD, 0]
            .into_iter()
            .map(|area| {
                scope.spawn(move || {
                    let mut rng = Rng::new(u64::from(area));
                    let mut model = vec![None; COUNT as usize];
                    let mut back = Box::new([0; PAGE_SIZE]);
                    for round in 0..rounds {
                        let n = rng.below(COUNT as usize);
                        let entry = of(area, n as u64);
                        match (rng.below(8), model[n]) {
                            (0, held) => {
                                assert_eq!(tenants.invalidate(entry), held.is_some());
                                model[n] = None;
                            }
                            (1..=4, _) => {
                                tenants.store(entry, &marked(n as u64, round)).unwrap();
                                model[n] = Some(round);
                            }
                            (_, None) => assert!(!tenants.contains(entry)),
                            (_, Some(round)) => {
                                tenants.load(entry, &mut back).unwrap();
                                assert!(back == marked(n as u64, round), "{area} {n} {round}");
                            }
                        }
                    }
                    model.iter().flatten().count()
                })
            })
            .collect();
        let held: Vec<_> = users.into_iter().map(|user| user.join()).collect();
        stop.store(true, SeqCst);
        let held: Vec<usize> = held.into_iter().map(Result::unwrap).collect();
        for (area, held) in [QUIET, LOUD].into_iter().zip(&held) {
            assert_eq!(tenants.area(area).unwrap().len(), *held);
        }
        assert_eq!(tenants.len(), held.iter().sum::<usize>());
    });
    for area in [QUIET, LOUD] {
        let (in_pools, on_device) = places(tenants, area);
        assert_eq!(in_pools + on_device, tenants.area(area).unwrap().len());
    }
    for area in [0, QUIET, LOUD] {
        tenants.invalidate_area(area);
    }
    let stats = tenants.stats();
    assert_eq!((stats.stored_pages, stats.device_pages, stats.device_live_bytes), (0, 0, 0));
    assert!(stats.pools.iter().all(|pool| pool.objects == 0));
    assert_eq!(tenants.area(QUIET).unwrap().stats().device_pages, 0);
}
