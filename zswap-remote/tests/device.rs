//! The device on services that need no server: files and memory.
#![cfg(all(feature = "fs", feature = "memory"))]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    unsafe_code,
    reason = "a failure is the test's own message; fork is unsafe"
)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{entry, eventually, page, store};
use zpage::device::{DeviceError, SwapDevice};
use zswap_core::{LoadError, PAGE_SIZE};
use zswap_remote::{Remote, RemoteBuilder, RemoteError, RemoteSwapDevice};

const LIMIT: Duration = Duration::from_secs(20);

fn on_files(folder: &Path) -> Remote {
    Remote::open(&format!("fs://{}", folder.display())).unwrap()
}

/// Returns the files under a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

fn built(builder: RemoteBuilder) -> Arc<RemoteSwapDevice> {
    Arc::new(builder.build().unwrap())
}

#[test]
fn what_is_written_can_be_read_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    for remote in [Remote::open("memory://").unwrap(), on_files(folder.path())] {
        let device = remote.device(1 << 10).build().unwrap();
        let geometry = device.geometry();
        assert_eq!((geometry.segments, geometry.segment_bytes), (64, 65536));
        let bytes: Vec<u8> = (0..20_000_u32).map(|n| ((n * 7) >> 3) as u8).collect();
        device.write_segment(63, &bytes).unwrap();
        let mut back = vec![0; 5000];
        for at in [0, 1, 15_000] {
            device.read(63, at, &mut back).unwrap();
            assert_eq!(back, bytes[at..at + 5000]);
        }
        let missing = |segment| Err(DeviceError::Missing { segment });
        assert_eq!(device.read(63, 15_001, &mut back), missing(63));
        assert_eq!(device.read(62, 0, &mut back), missing(62));
        assert!(matches!(device.read(64, 0, &mut back), Err(DeviceError::OutOfRange { .. })));
        let long = vec![0; 65537];
        assert!(matches!(device.write_segment(0, &long), Err(DeviceError::OutOfRange { .. })));
        device.discard(63);
        assert_eq!(device.read(63, 0, &mut back), missing(63));
        device.flush().unwrap();
        eventually("the object is deleted", || device.stats().deletes == 1);
        let stats = device.stats();
        assert_eq!((stats.writes, stats.reads, stats.missing_reads), (1, 3, 3), "{stats:?}");
        assert_eq!((stats.objects, stats.bytes, stats.last_error), (0, 0, None));
    }
}

#[test]
fn each_write_has_a_name_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let device = on_files(folder.path()).device(1 << 10).build().unwrap();
    let mut names = std::collections::BTreeSet::new();
    for n in 0..5_u8 {
        device.write_segment(3, &[n; 100]).unwrap();
        let mut back = [9; 100];
        device.read(3, 0, &mut back).unwrap();
        assert_eq!(back, [n; 100]);
        names.extend(files(folder.path()));
        // A write without a discard before it replaces the segment, too.
        if n % 2 == 0 {
            device.discard(3);
        }
    }
    assert_eq!(names.len(), 5);
    eventually("only what is in use is left", || files(folder.path()).is_empty());
}

#[test]
fn a_dropped_device_leaves_nothing_and_a_killed_one_is_purged() {
    let folder = tempfile::tempdir().unwrap();
    let remote = on_files(folder.path());
    std::fs::write(folder.path().join("zswap-notes"), "another's").unwrap();
    let (one, other) = (remote.device(1 << 10).build().unwrap(), built(remote.device(1 << 10)));
    for segment in 0..20 {
        one.write_segment(segment, &[1; 100]).unwrap();
        other.write_segment(segment, &[2; 100]).unwrap();
    }
    let mut stores = vec![one.name(), other.name()];
    stores.sort();
    assert_eq!(remote.stores(LIMIT).unwrap(), stores);
    drop(one);
    assert_eq!(files(folder.path()).len(), 21);
    // A killed process drops nothing.
    let name = other.name();
    std::mem::forget(other.clone());
    drop(other);
    assert_eq!(remote.stores(LIMIT).unwrap(), [name]);
    assert_eq!(remote.purge(name, LIMIT).unwrap(), 20);
    assert_eq!(remote.stores(LIMIT).unwrap(), []);
    assert_eq!(remote.purge(name, LIMIT).unwrap(), 0);
    assert_eq!(files(folder.path()), [folder.path().join("zswap-notes")]);
    assert!(!folder.path().join(name.to_string()).exists());
}

#[test]
fn an_object_that_is_shorter_longer_or_gone_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let device = on_files(folder.path()).device(1 << 10).build().unwrap();
    device.write_segment(1, &[7; 1000]).unwrap();
    let object = files(folder.path()).remove(0);
    let mut back = [0; 500];
    std::fs::write(&object, [7; 700]).unwrap();
    device.read(1, 0, &mut back).unwrap();
    assert_eq!(device.read(1, 500, &mut back), Err(DeviceError::Missing { segment: 1 }));
    std::fs::write(&object, [7; 300]).unwrap();
    assert_eq!(device.read(1, 500, &mut back), Err(DeviceError::Missing { segment: 1 }));
    std::fs::write(&object, [7; 2000]).unwrap();
    device.read(1, 500, &mut back).unwrap();
    assert_eq!(back, [7; 500]);
    std::fs::remove_file(&object).unwrap();
    assert_eq!(device.read(1, 0, &mut back), Err(DeviceError::Missing { segment: 1 }));
    assert_eq!(device.stats().missing_reads, 3);
}

#[test]
fn a_store_reads_back_all_pages_and_notices_changed_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let device = built(on_files(folder.path()).device(1 << 14));
    let store = store(device.clone(), 100);
    for n in 0..1000 {
        store.store(entry(n), &page(n)).unwrap();
    }
    assert!(store.stats().device_pages >= 800 && device.stats().objects >= 20);
    let written: Vec<u8> =
        files(folder.path()).iter().flat_map(|file| std::fs::read(file).unwrap()).collect();
    let plain = &page(0)[8..24];
    assert!(!written.windows(16).any(|bytes| bytes == plain), "a page left unencrypted");
    let mut back = [0; PAGE_SIZE];
    for n in 0..1000 {
        store.load(entry(n), &mut back).unwrap();
        assert!(back == page(n), "{n}");
    }
    for file in files(folder.path()) {
        let mut bytes = std::fs::read(&file).unwrap();
        bytes.iter_mut().for_each(|byte| *byte ^= 1);
        std::fs::write(&file, bytes).unwrap();
    }
    let mut corrupt = 0;
    for n in 0..1000 {
        match store.load(entry(n), &mut back) {
            Ok(()) => assert!(back == page(n), "{n}"),
            Err(LoadError::Device { source: DeviceError::Corrupt { .. }, .. }) => corrupt += 1,
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(corrupt >= 500, "{corrupt}");
    drop(store);
    drop(device);
    assert_eq!(files(folder.path()), [] as [PathBuf; 0]);
}

#[test]
fn a_place_that_cannot_be_written_keeps_pages_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    // A file where the folder should be: also root cannot write there.
    let root = folder.path().join("file");
    let device = built(on_files(&root).device(1 << 14).retries(0));
    std::fs::remove_dir_all(&root).unwrap();
    std::fs::write(&root, "").unwrap();
    let store = store(device.clone(), 100);
    for n in 0..50 {
        store.store(entry(n), &page(n)).unwrap();
    }
    assert!(store.shrink(10).is_err());
    let mut back = [0; PAGE_SIZE];
    for n in 0..50 {
        store.load(entry(n), &mut back).unwrap();
        assert!(back == page(n), "{n}");
    }
    let refused = (0..500).filter(|n| store.store(entry(100 + n), &page(100 + n)).is_err()).count();
    let stats = store.stats();
    assert!(refused > 0 && stats.reject_device_fail == refused as u64, "{stats}");
    assert_eq!((stats.device_pages, device.stats().writes), (0, 0));
    assert!(device.stats().failed_attempts > 0 && device.stats().last_error.is_some());
    std::fs::remove_file(&root).unwrap();
    eventually("the device is used again", || store.shrink(10).is_ok());
}

#[test]
fn a_thread_of_another_runtime_may_use_and_drop_a_device() {
    for multi in [false, true] {
        let mut runtime = match multi {
            false => tokio::runtime::Builder::new_current_thread(),
            true => tokio::runtime::Builder::new_multi_thread(),
        };
        let runtime = runtime.enable_all().build().unwrap();
        runtime.block_on(async {
            let device = Remote::open("memory://").unwrap().device(1 << 10).build().unwrap();
            device.write_segment(0, &[5; 100]).unwrap();
            let mut back = [0; 100];
            device.read(0, 0, &mut back).unwrap();
            assert_eq!(back, [5; 100]);
            device.discard(0);
        });
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_forked_child_gets_errors_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let device = on_files(folder.path()).device(1 << 10).build().unwrap();
    device.write_segment(0, &[7; 100]).unwrap();
    let device = std::mem::ManuallyDrop::new(device);
    // SAFETY: the child uses no lock of the parent's other threads, except the allocator's, which the C library releases
    // in the child, and ends with `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let mut back = [0; 100];
        let refused = device.write_segment(1, &back) == Err(DeviceError::Forked)
            && device.read(0, 0, &mut back) == Err(DeviceError::Forked)
            && device.flush() == Err(DeviceError::Forked)
            && device.stats().objects == 0
            && device.memory_bytes() == 0;
        device.discard(0);
        drop(std::mem::ManuallyDrop::into_inner(device));
        // SAFETY: `_exit` has no preconditions.
        unsafe { libc::_exit(i32::from(!refused)) };
    }
    let mut status = -1;
    // SAFETY: `status` is valid for writes.
    let waited = unsafe { libc::waitpid(child, &mut status, 0) };
    assert!(waited == child && status == 0, "{status}");
    let mut back = [0; 100];
    device.read(0, 0, &mut back).unwrap();
    assert_eq!(back, [7; 100]);
    drop(std::mem::ManuallyDrop::into_inner(device));
    assert_eq!(files(folder.path()), [] as [PathBuf; 0]);
}

#[test]
fn settings_out_of_range_are_refused() {
    let remote = Remote::open("memory://").unwrap();
    let refused = |builder: RemoteBuilder, what: &str| {
        let error = builder.build().unwrap_err();
        assert!(matches!(error, RemoteError::Setting { .. }), "{error}");
        assert!(error.to_string().starts_with(what), "{error}");
    };
    refused(remote.device(9).segment_bytes(4096), "segment_bytes is 4096");
    refused(remote.device(9).segment_bytes(10_000), "segment_bytes is 10000");
    refused(remote.device(9).segment_bytes(1 << 20), "segment_bytes is 1048576");
    refused(remote.device(9).requests(0), "requests is 0");
    refused(remote.device(9).threads(65), "threads is 65");
    refused(remote.device(9).retries(101), "retries is 101");
    refused(remote.device(9).deadline(Duration::ZERO), "deadline is 0ns");
    refused(remote.device(9).attempt_timeout(Duration::ZERO), "attempt_timeout is 0ns");
}

#[test]
fn a_small_device_has_small_segments() {
    let remote = Remote::open("memory://").unwrap();
    let sizes = |pages| {
        let geometry = remote.device(pages).build().unwrap().geometry();
        (geometry.segments, geometry.segment_bytes)
    };
    assert_eq!([sizes(8), sizes(32), sizes(64)], [(4, 8192), (4, 32768), (4, 65536)]);
    let chosen = remote.device(64).segment_bytes(256 << 10).build().unwrap().geometry();
    assert_eq!((chosen.segments, chosen.segment_bytes), (1, 256 << 10));
}

#[test]
fn an_idle_device_is_dropped_at_once() {
    let folder = tempfile::tempdir().unwrap();
    for remote in [Remote::open("memory://").unwrap(), on_files(folder.path())] {
        let device = remote.device(1 << 10).build().unwrap();
        let begun = Instant::now();
        drop(device);
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
}
