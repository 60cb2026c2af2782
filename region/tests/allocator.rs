//! Collections and blocks in a region that holds three times what may be resident, against models in ordinary memory.
#![cfg(all(target_os = "linux", not(miri), not(loom)))]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::multiple_unsafe_ops_per_block,
    reason = "a failure in a test's helper is the test's own message"
)]

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use allocator_api2::alloc::{AllocError, Allocator};
use allocator_api2::boxed::Box as BoxIn;
use allocator_api2::vec::Vec as VecIn;
use zpool_base::sync::test_rng::Rng;
use zswap_region::{BackendKind, PAGE_SIZE, PinError, Region, RegionAllocator, RegionBuilder};

type Bytes = VecIn<u8, RegionAllocator>;
type Hasher = BuildHasherDefault<DefaultHasher>;
type Map<K, V> = hashbrown::HashMap<K, V, Hasher, RegionAllocator>;

const MIB: usize = 1 << 20;

/// The backends that work here.
fn kinds() -> impl Iterator<Item = BackendKind> {
    [BackendKind::Move, BackendKind::Guard].into_iter().filter(|kind| {
        // SAFETY: the region is not used.
        let built =
            unsafe { Region::builder().capacity(MIB).resident_bytes(MIB).backend(*kind).build() };
        built.is_ok()
    })
}

/// A page that comes with its neighbours, because a sequence of touches was seen, may be one that was freed. Without that,
/// figures are exact.
fn memory(kind: BackendKind, capacity: usize, resident: usize) -> RegionAllocator {
    build(
        Region::builder()
            .capacity(capacity)
            .resident_bytes(resident)
            .backend(kind)
            .fault_around(false),
    )
}

fn build(builder: RegionBuilder) -> RegionAllocator {
    // SAFETY: the tests keep the rules of the crate's front page.
    unsafe { builder.build() }.unwrap().into_allocator().unwrap()
}

/// Bytes that compress to about a half.
fn fill(bytes: &mut [u8], seed: u64) {
    let mut rng = Rng::new(seed);
    for chunk in bytes.chunks_mut(16) {
        let random = rng.next().to_le_bytes();
        for (n, byte) in chunk.iter_mut().enumerate() {
            *byte = if n < 8 { random[n] } else { n as u8 };
        }
    }
}

/// Checks that nothing is left: no block, no byte in the store, no page. Then everything can be one block.
fn check_empty(memory: &RegionAllocator) {
    check_contents_gone(memory);
    assert_eq!(memory.stats().cold_bytes, 0);
    let whole = Layout::from_size_align(memory.capacity(), 1).unwrap();
    let block = memory.allocate(whole).unwrap();
    assert_eq!(block.len(), memory.capacity());
    // SAFETY: the block is from this allocator.
    unsafe { memory.deallocate(block.cast(), whole) };
    // The background thread may be at pages of the limbo that have left.
    for _ in 0..100 {
        let stats = memory.stats();
        if stats.resident_bytes <= stats.limbo_bytes {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("pages are resident: {:?}", memory.stats());
}

/// Checks that no block is left, and that pages are zero if they are not gone.
fn check_contents_gone(memory: &RegionAllocator) {
    assert_eq!(memory.allocated_bytes(), 0);
    memory.trim();
    let store = memory.stats().store;
    assert_eq!((store.stored_pages - store.same_filled_pages, store.compressed_bytes), (0, 0));
}

#[test]
fn a_map_of_vectors_is_like_one_of_std() {
    for kind in kinds() {
        let memory =
            build(Region::builder().capacity(256 * MIB).resident_bytes(4 * MIB).backend(kind));
        let mut map: Map<u64, Bytes> = Map::with_hasher_in(Hasher::default(), memory.clone());
        let mut model = std::collections::HashMap::<u64, Vec<u8>>::new();
        let (mut rng, mut held, mut most) = (Rng::new(3), 0usize, 0);
        for step in 0..60_000 {
            let key = rng.below(4000) as u64;
            match rng.below(10) {
                0..5 => {
                    let mut bytes = vec![0; rng.below(6000)];
                    fill(&mut bytes, step);
                    let mut copy = Bytes::new_in(memory.clone());
                    copy.extend_from_slice(&bytes);
                    held += bytes.len();
                    let old = model.insert(key, bytes);
                    held -= old.as_ref().map_or(0, Vec::len);
                    assert_eq!(map.insert(key, copy).as_deref(), old.as_deref());
                }
                5..7 => {
                    let old = model.remove(&key);
                    held -= old.as_ref().map_or(0, Vec::len);
                    assert_eq!(map.remove(&key).as_deref(), old.as_deref());
                }
                7 => {
                    if let (Some(bytes), Some(of_model)) = (map.get_mut(&key), model.get_mut(&key))
                    {
                        bytes.extend_from_slice(&key.to_le_bytes());
                        of_model.extend_from_slice(&key.to_le_bytes());
                        held += 8;
                        let keep = rng.below(of_model.len());
                        if rng.below(4) == 0 {
                            held -= of_model.len() - keep;
                            of_model.truncate(keep);
                            bytes.truncate(keep);
                            bytes.shrink_to_fit();
                        }
                    }
                }
                _ => assert_eq!(
                    map.get(&key).map(|bytes| &bytes[..]),
                    model.get(&key).map(|bytes| &bytes[..])
                ),
            }
            most = held.max(most);
        }
        assert!(most > 8 * MIB, "{most}");
        let stats = memory.stats();
        assert!(
            stats.resident_bytes <= 4 * MIB && stats.cold_faults + stats.clean_faults > 1000,
            "{stats:?}"
        );
        assert!(memory.allocated_bytes() >= held && memory.allocated_bytes() < held / 4 * 5 + MIB);
        assert_eq!(map.len(), model.len());
        for (key, bytes) in &map {
            assert_eq!(bytes[..], model[key][..]);
        }
        drop(map);
        check_contents_gone(&memory);
    }
}

#[test]
fn what_is_freed_takes_no_memory() {
    for kind in kinds() {
        let memory = memory(kind, 256 * MIB, 4 * MIB);
        let boxed = |seed| {
            let mut row = BoxIn::new_in([0; 1000], memory.clone());
            fill(&mut *row, seed);
            row
        };
        let mut rows: Vec<_> = (0..16_000).map(|seed| Some(boxed(seed))).collect();
        let full = memory.stats();
        assert!(full.cold_bytes > 11 * MIB, "{full:?}");

        // One row of each hundred keeps a page at most. A block of 16 pages may be out of the limbo's queue and not drained
        // yet, here and below.
        for (n, row) in rows.iter_mut().enumerate() {
            if n % 100 != 0 {
                *row = None;
            }
        }
        let few = memory.stats();
        assert!(
            few.cold_bytes + few.resident_bytes - few.limbo_bytes <= 186 * PAGE_SIZE,
            "{few:?}"
        );
        assert!(few.store.stored_pages <= 170, "{few:?}");
        for (n, row) in rows.iter().enumerate().step_by(100) {
            let mut same = [0; 1000];
            fill(&mut same, n as u64);
            assert_eq!(**row.as_ref().unwrap(), same);
        }
        rows.clear();

        let mut large = Bytes::new_in(memory.clone());
        large.resize(16 * MIB, 0);
        fill(&mut large, 1);
        assert!(memory.stats().cold_bytes > 11 * MIB);
        large.truncate(MIB);
        large.shrink_to_fit();
        let few = memory.stats();
        assert!(
            few.cold_bytes + few.resident_bytes - few.limbo_bytes <= MIB + 24 * PAGE_SIZE,
            "{few:?}"
        );
        drop(large);
        check_empty(&memory);
    }
}

/// A block, as its owner knows it.
struct Owned {
    block: NonNull<u8>,
    layout: Layout,
    seed: u64,
}

// SAFETY: who has it is the owner of the block.
unsafe impl Send for Owned {}

impl Owned {
    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the block is this value's, and its bytes were written.
        unsafe { std::slice::from_raw_parts_mut(self.block.as_ptr(), self.layout.size()) }
    }

    fn check(&mut self, upto: usize) {
        let mut same = vec![0; self.layout.size().min(2 * MIB)];
        fill(&mut same, self.seed);
        assert!(self.bytes()[..upto] == same[..upto], "{:?} has other bytes", self.layout);
    }
}

/// Does random things to blocks, and checks everything that an allocator promises.
struct Player<'a> {
    memory: &'a RegionAllocator,
    owned: Vec<Owned>,
    rng: Rng,
    seed: u64,
    most: usize,
}

impl Player<'_> {
    fn layout(&mut self) -> Layout {
        let size = match self.rng.below(12) {
            0..6 => self.rng.below(300),
            6..11 => self.rng.below(20_000),
            _ => self.rng.below(self.most),
        };
        Layout::from_size_align(size, 1 << self.rng.below(17)).unwrap()
    }

    fn placed(&mut self, block: NonNull<[u8]>, layout: Layout) -> Owned {
        assert!(block.len() >= layout.size());
        assert_eq!(block.addr().get() % layout.align(), 0, "{layout:?}");
        self.seed += 1;
        let mut owned = Owned { block: block.cast(), layout, seed: self.seed };
        let seed = owned.seed;
        fill(owned.bytes(), seed);
        owned
    }

    fn assert_zero(block: NonNull<[u8]>, from: usize) {
        // SAFETY: the block is the caller's, and zeroed from there on.
        let tail = unsafe {
            std::slice::from_raw_parts(block.cast::<u8>().as_ptr().add(from), block.len() - from)
        };
        assert!(tail.iter().all(|byte| *byte == 0));
    }

    fn step(&mut self) {
        let at = self.rng.below(self.owned.len().max(1));
        let zeroed = self.rng.below(2) == 0;
        match self.rng.below(10) {
            0..4 => {
                let layout = self.layout();
                let block = if zeroed {
                    self.memory.allocate_zeroed(layout)
                } else {
                    self.memory.allocate(layout)
                };
                let Ok(block) = block else { return };
                if zeroed {
                    Self::assert_zero(block, 0);
                }
                let owned = self.placed(block, layout);
                self.owned.push(owned);
            }
            _ if self.owned.is_empty() => {}
            4..7 => {
                let mut owned = self.owned.swap_remove(at);
                owned.check(owned.layout.size());
                // SAFETY: the block is from this allocator.
                unsafe { self.memory.deallocate(owned.block, owned.layout) };
            }
            7..9 => {
                let mut owned = self.owned.swap_remove(at);
                let old = owned.layout;
                let new = Layout::from_size_align(
                    old.size() + self.layout().size(),
                    self.layout().align(),
                )
                .unwrap();
                // SAFETY: the block is from this allocator, and the new layout is not smaller.
                let grown = unsafe {
                    if zeroed {
                        self.memory.grow_zeroed(owned.block, old, new)
                    } else {
                        self.memory.grow(owned.block, old, new)
                    }
                };
                let Ok(block) = grown else {
                    owned.check(old.size());
                    self.owned.push(owned);
                    return;
                };
                (owned.block, owned.layout) = (block.cast(), new);
                owned.check(old.size());
                if zeroed {
                    Self::assert_zero(block, old.size());
                }
                let owned = self.placed(block, new);
                self.owned.push(owned);
            }
            _ => {
                let mut owned = self.owned.swap_remove(at);
                let new = self.rng.below(owned.layout.size() + 1);
                let new = Layout::from_size_align(new, self.layout().align()).unwrap();
                // SAFETY: the block is from this allocator, and the new layout is not larger.
                match unsafe { self.memory.shrink(owned.block, owned.layout, new) } {
                    Ok(block) => {
                        (owned.block, owned.layout) = (block.cast(), new);
                        owned.check(new.size());
                        let owned = self.placed(block, new);
                        self.owned.push(owned);
                    }
                    Err(AllocError) => self.owned.push(owned),
                }
            }
        }
    }

    fn check_overlaps(&self) {
        let used = self.owned.iter().filter(|owned| owned.layout.size() > 0);
        let by_start: BTreeMap<usize, usize> =
            used.map(|owned| (owned.block.addr().get(), owned.layout.size())).collect();
        let mut end = 0;
        for (start, len) in by_start {
            assert!(start >= end);
            end = start + len;
        }
    }

    fn free_all(&mut self) {
        for mut owned in self.owned.drain(..) {
            owned.check(owned.layout.size());
            // SAFETY: the block is from this allocator.
            unsafe { self.memory.deallocate(owned.block, owned.layout) };
        }
    }
}

fn player(memory: &RegionAllocator, seed: u64, most: usize) -> Player<'_> {
    Player { memory, owned: Vec::new(), rng: Rng::new(seed), seed: seed << 32, most }
}

#[test]
fn blocks_keep_their_bytes_and_their_alignment() {
    for kind in kinds() {
        let memory = memory(kind, 24 * MIB, 3 * MIB);
        for seed in 0..2 {
            let mut player = player(&memory, seed, MIB);
            let mut most = 0;
            for step in 0..3000 {
                player.step();
                if step % 128 == 0 {
                    player.check_overlaps();
                    most = memory.allocated_bytes().max(most);
                }
            }
            assert!(most > 9 * MIB, "{most}");
            player.free_all();
            check_empty(&memory);
        }
    }
}

#[test]
fn two_threads_share_a_region_and_free_each_others_blocks() {
    for kind in kinds() {
        let memory = memory(kind, 64 * MIB, 3 * MIB);
        let ((to_one, at_one), (to_two, at_two)) = (mpsc::channel(), mpsc::channel());
        let play = |seed, to: mpsc::Sender<Owned>, at: mpsc::Receiver<Owned>| {
            let memory = memory.clone();
            move || {
                let mut player = player(&memory, seed, MIB / 4);
                for _ in 0..6000 {
                    player.step();
                    if player.rng.below(3) == 0 {
                        if let Some(owned) = player.owned.pop() {
                            let _ = to.send(owned);
                        }
                    }
                    player.owned.extend(at.try_iter());
                }
                player.free_all();
                (at, memory.clone())
            }
        };
        let threads =
            [thread::spawn(play(11, to_two, at_one)), thread::spawn(play(12, to_one, at_two))];
        for thread in threads {
            let (at, memory) = thread.join().unwrap();
            let mut rest = player(&memory, 0, MIB);
            rest.owned.extend(at.iter());
            rest.free_all();
        }
        check_empty(&memory);
    }
}

#[test]
fn blocks_of_gigabytes_grow_where_they_are() {
    for kind in kinds() {
        let memory = memory(kind, 6 << 30, 4 * MIB);
        let layout = |gib: usize| Layout::from_size_align(gib << 30, 1 << 21).unwrap();
        let block = memory.allocate_zeroed(layout(1)).unwrap();
        // SAFETY: both ends are in the block.
        let touch = |byte: usize, value: u8| unsafe { block.cast::<u8>().add(byte).replace(value) };
        assert_eq!((touch(0, 1), touch((1 << 30) - 1, 2)), (0, 0));
        // SAFETY: the block is from this allocator.
        let grown = unsafe { memory.grow_zeroed(block.cast(), layout(1), layout(5)) }.unwrap();
        assert_eq!((grown.cast::<u8>(), grown.len()), (block.cast(), 5 << 30));
        assert_eq!(
            (touch((1 << 30) - 1, 2), touch(5 << 29, 3), touch((5 << 30) - 1, 4)),
            (2, 0, 0)
        );
        assert_eq!(memory.allocate(layout(2)), Err(AllocError));
        // SAFETY: as above.
        let shrunk = unsafe { memory.shrink(block.cast(), layout(5), layout(1)) }.unwrap();
        assert_eq!((shrunk.cast::<u8>(), shrunk.len()), (block.cast(), 1 << 30));
        assert!(memory.stats().resident_bytes + memory.stats().cold_bytes <= 16 * PAGE_SIZE);
        let second = memory.allocate_zeroed(layout(3)).unwrap();
        // SAFETY: as above.
        unsafe {
            assert_eq!((touch(0, 9), touch((1 << 30) - 1, 9)), (1, 2));
            memory.deallocate(second.cast(), layout(3));
            memory.deallocate(block.cast(), layout(1));
        }
        check_empty(&memory);
    }
}

#[test]
fn a_block_that_moves_does_not_take_its_memory_twice() {
    for kind in kinds() {
        // Random bytes do not compress: 16 MiB do not fit into 13.
        let builder = Region::builder().capacity(64 * MIB).budget(13 * MIB).backend(kind);
        let memory = build(builder);
        let mut rng = Rng::new(8);
        let mut bytes = Bytes::new_in(memory.clone());
        bytes.extend((0..8 * MIB / 8).flat_map(|_| rng.next().to_le_bytes()));
        // Something is behind it, so it has to move.
        let pages: Vec<_> =
            (0..3000).map(|_| BoxIn::new_in([1u8; PAGE_SIZE], memory.clone())).collect();
        drop(pages);
        let wall = BoxIn::new_in([1u8; PAGE_SIZE], memory.clone());
        bytes.shrink_to_fit();
        bytes.reserve_exact(20 * MIB);
        bytes.shrink_to_fit();
        bytes.reserve_exact(30 * MIB);
        let mut same = Rng::new(8);
        assert!(bytes.chunks(8).all(|word| word == same.next().to_le_bytes()));
        drop(wall);
    }
}

#[test]
fn blocks_without_bytes_and_requests_that_cannot_be_met() {
    let memory = memory(kinds().next().unwrap(), 2 * MIB, MIB);
    let layout = |size, align| Layout::from_size_align(size, align).unwrap();
    let none = memory.allocate(layout(0, 1 << 40)).unwrap();
    assert_eq!((none.len(), none.addr().get() % (1 << 40)), (0, 0));
    // SAFETY: the block is from this allocator, here and below.
    unsafe { memory.deallocate(none.cast(), layout(0, 1 << 40)) };

    for size in [2 * MIB + 1, 1 << 40, isize::MAX as usize - PAGE_SIZE] {
        assert_eq!(memory.allocate(layout(size, 1)), Err(AllocError));
        assert_eq!(memory.allocate_zeroed(layout(size, 1)), Err(AllocError));
    }
    assert_eq!(memory.allocate(layout(1, 1 << 45)), Err(AllocError));

    let block = memory.allocate(layout(10, 1)).unwrap();
    // SAFETY: as above.
    unsafe {
        assert_eq!(memory.grow(block.cast(), layout(10, 1), layout(4 * MIB, 1)), Err(AllocError));
        let none = memory.shrink(block.cast(), layout(10, 1), layout(0, 64)).unwrap();
        assert_eq!((none.len(), none.addr().get() % 64), (0, 0));
        let block = memory.grow_zeroed(none.cast(), layout(0, 64), layout(5000, 64)).unwrap();
        memory.deallocate(block.cast(), layout(5000, 64));
    }
    let all: Vec<_> = std::iter::from_fn(|| memory.allocate(layout(24, 8)).ok()).collect();
    assert_eq!(all.len(), 2 * MIB / PAGE_SIZE * (PAGE_SIZE / 24));
    // SAFETY: as above.
    all.into_iter().for_each(|block| unsafe { memory.deallocate(block.cast(), layout(24, 8)) });
    check_empty(&memory);
}

/// Bytes of a block that the test frees under the pin's feet.
struct Raw(NonNull<[u8]>);

impl Deref for Raw {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: only `pin` calls this, while the block lives.
        unsafe { self.0.as_ref() }
    }
}

#[test]
fn pages_that_were_pinned_when_they_were_freed_are_zeroed() {
    for kind in kinds() {
        let memory = memory(kind, 4 * MIB, 2 * MIB);
        let layout = Layout::from_size_align(4 * MIB, 1).unwrap();
        let block = memory.allocate(layout).unwrap();
        let part = Layout::from_size_align(10 * PAGE_SIZE, 1).unwrap();
        // SAFETY: the block is from this allocator, and used only while it lives.
        let pinned = unsafe {
            block.cast::<u8>().write_bytes(7, layout.size());
            let pinned =
                memory.pin(Raw(NonNull::slice_from_raw_parts(block.cast(), part.size()))).unwrap();
            memory.deallocate(block.cast(), layout);
            pinned
        };
        drop(pinned);
        let block = memory.allocate_zeroed(layout).unwrap();
        Player::assert_zero(block, 0);
        // SAFETY: as above.
        unsafe { memory.deallocate(block.cast(), layout) };
        check_empty(&memory);
    }
}

#[test]
fn vectors_are_pinned_and_advised_about() {
    for kind in kinds() {
        let memory = memory(kind, 16 * MIB, 2 * MIB);
        let mut bytes = Bytes::new_in(memory.clone());
        bytes.resize(MIB, 5);
        let range = memory.range_of(&bytes[..]).unwrap();
        assert_eq!(range.len(), MIB);
        assert!(memory.advise_cold(range.clone()).unwrap() > 200);
        assert!(memory.prefetch(range).unwrap() > 100);

        let mut pinned = memory.pin(&mut bytes[10_000..20_000]).unwrap();
        assert_eq!(memory.stats().pinned_bytes, 3 * PAGE_SIZE);
        // SAFETY: the call writes as many bytes as there are.
        let got = unsafe { libc::getrandom(pinned.as_mut_ptr().cast(), pinned.len(), 0) };
        assert_eq!(got, 10_000);
        drop(pinned);
        let mut pinned = memory.pin(bytes).unwrap();
        pinned[0] = 6;
        let bytes = pinned.into_inner();
        assert_eq!((memory.stats().pinned_bytes, bytes[0], bytes[1]), (0, 6, 5));

        let outside = [0u8; 10];
        assert_eq!(memory.range_of(&outside), None);
        assert!(matches!(memory.pin(&outside[..]), Err(PinError::Range(_))));
        assert!(memory.pin(&outside[..0]).is_ok());
    }
}

#[test]
fn a_child_allocates_nothing() {
    for kind in kinds() {
        let memory = memory(kind, 4 * MIB, 2 * MIB);
        let layout = Layout::new::<[u8; 100]>();
        let block = memory.allocate(layout).unwrap();
        // SAFETY: the child calls nothing that another thread's lock may block, except that malloc of this libc works
        // after fork.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let failed = memory.allocate(layout).is_err();
            // SAFETY: the block is from this allocator.
            unsafe { memory.deallocate(block.cast(), layout) };
            let empty = memory.allocated_bytes() == 0 && memory.memory_bytes() == 0;
            memory.trim();
            drop(memory);
            // SAFETY: no more code of this process runs.
            unsafe { libc::_exit(if failed && empty { 0 } else { 1 }) };
        }
        let mut status = 0;
        // SAFETY: the status is this function's.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{status}");
        // SAFETY: the block is from this allocator.
        unsafe { memory.deallocate(block.cast(), layout) };
        check_empty(&memory);
    }
}

#[test]
fn the_budget_bounds_the_tables() {
    let memory = memory(kinds().next().unwrap(), 64 * MIB, MIB);
    let before = memory.stats();
    let boxes: Vec<_> = (0..100_000u64).map(|n| BoxIn::new_in(n, memory.clone())).collect();
    let after = memory.stats();
    // 24 bytes a page, and a bit for each block.
    assert!(memory.memory_bytes() > 100_000 / 8, "{}", memory.memory_bytes());
    let more = after.memory_bytes - before.memory_bytes;
    let others = (after.resident_bytes - before.resident_bytes) + after.store.memory_bytes();
    assert!(more + 100_000 > others && more >= 100_000 / 8, "{more} {others}");
    assert!(boxes.iter().enumerate().all(|(n, boxed)| **boxed == n as u64));
}
