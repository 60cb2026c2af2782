//! Tests of file devices: which files are refused, and what a device does if somebody changes its file.

use std::fs;

use super::*;

/// A directory for one test, deleted when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = std::env::temp_dir().join(format!("zswap-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Returns bytes that differ from segment to segment, and at each offset from those at the next offsets.
fn bytes(segment: u64, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8 ^ (segment as u8 + 1)).collect()
}

#[test]
fn segments_come_back_whichever_their_sizes_are() {
    let folder = Folder::new("segments");
    for (segment_bytes, block_bytes) in [(65536, 1), (8192, 512), (1 << 18, 4096)] {
        let geometry = Geometry { segments: 10, segment_bytes, block_bytes };
        let path = folder.at(&format!("{block_bytes}"));
        let device = FileSwapDevice::create_with_geometry(&path, geometry).unwrap();
        assert_eq!(device.geometry(), geometry);
        let short = 8 * block_bytes.min(1024);
        for segment in [9, 0, 4] {
            device.write_segment(segment, &bytes(segment, segment_bytes)).unwrap();
        }
        device.write_segment(3, &bytes(3, short)).unwrap();
        device.flush().unwrap();
        for (segment, len) in
            [(0, segment_bytes), (3, short), (4, segment_bytes), (9, segment_bytes)]
        {
            let written = bytes(segment, len);
            for range in [0..len, block_bytes..len, 0..block_bytes, len - block_bytes..len] {
                let mut back = vec![9; range.len()];
                device.read(segment, range.start, &mut back).unwrap();
                assert_eq!(back, written[range], "segment {segment}");
            }
        }
        assert_eq!((device.memory_bytes(), device.path()), (0, &*path));
    }
}

#[test]
fn a_range_beyond_the_device_or_of_broken_blocks_is_refused() {
    let folder = Folder::new("ranges");
    let geometry = Geometry { segments: 4, segment_bytes: 8192, block_bytes: 512 };
    let device = FileSwapDevice::create_with_geometry(folder.at("file"), geometry).unwrap();
    let mut buffer = [7; 8704];
    let beyond =
        |segment, start, end| Err(DeviceError::OutOfRange { segment, start, end, geometry });
    let broken =
        |start, end| Err(DeviceError::Unaligned { segment: 3, start, end, block_bytes: 512 });
    assert_eq!(device.write_segment(4, &buffer[..512]), beyond(4, 0, 512));
    assert_eq!(device.write_segment(u64::MAX, &buffer[..512]), beyond(u64::MAX, 0, 512));
    assert_eq!(device.write_segment(3, &buffer), beyond(3, 0, 8704));
    assert_eq!(device.write_segment(3, &buffer[..500]), broken(0, 500));
    device.discard(4);
    assert_eq!(device.file.0.metadata().unwrap().len(), 0, "nothing was written");
    device.write_segment(3, &buffer[..8192]).unwrap();
    assert_eq!(device.read(4, 0, &mut buffer[..512]), beyond(4, 0, 512));
    assert_eq!(device.read(3, 7680, &mut buffer[..1024]), beyond(3, 7680, 8704));
    assert_eq!(device.read(3, 256, &mut buffer[..512]), broken(256, 768));
    assert_eq!(device.read(3, 512, &mut buffer[..100]), broken(512, 612));
    assert_eq!(device.read(3, 7680, &mut buffer[..512]), Ok(()));
}

#[cfg(target_os = "linux")]
#[test]
fn a_discarded_segment_takes_no_space_and_its_neighbours_stay() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new("holes");
    let device = FileSwapDevice::create(folder.at("new"), 160).unwrap();
    let len = device.geometry().segment_bytes;
    for segment in 0..4 {
        device.write_segment(segment, &bytes(segment, len)).unwrap();
    }
    let before = device.file.0.metadata().unwrap();
    assert_eq!(before.permissions().mode() & 0o777, 0o600);
    device.discard(2);
    device.discard(3);
    device.discard(9);
    device.discard(10);
    assert_eq!(device.file.0.metadata().unwrap().len(), before.len());
    let mut back = vec![9; len];
    for segment in 0..2 {
        device.read(segment, 0, &mut back).unwrap();
        assert_eq!(back, bytes(segment, len));
    }
    let probe = fs::File::create(folder.at("probe")).unwrap();
    probe.set_len(4096).unwrap();
    use rustix::fs::{FallocateFlags, fallocate};
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    if fallocate(&probe, flags, 0, 4096).is_ok() {
        for segment in 2..4 {
            device.read(segment, 0, &mut back).unwrap();
            assert!(back.iter().all(|byte| *byte == 0), "segment {segment} is a hole");
        }
    }
    device.write_segment(2, &bytes(8, len)).unwrap();
    device.read(2, 0, &mut back).unwrap();
    assert_eq!(back, bytes(8, len));
}

#[test]
fn a_file_that_shrank_or_was_replaced_is_an_error_or_stays_in_use() {
    let folder = Folder::new("changed");
    let path = folder.at("file");
    let device = FileSwapDevice::create(&path, 160).unwrap();
    let len = device.geometry().segment_bytes;
    assert_eq!(len, 65536);
    (0..10).for_each(|segment| device.write_segment(segment, &bytes(segment, len)).unwrap());
    let mut back = vec![0; len];
    let mut check = |what: &str, good: std::ops::Range<u64>| {
        for segment in 0..10 {
            let read = device.read(segment, 0, &mut back);
            let missing = Err(DeviceError::Missing { segment });
            let expected = if good.contains(&segment) { Ok(()) } else { missing };
            assert_eq!(read, expected, "{what}: segment {segment}");
            assert!(read.is_err() || back == bytes(segment, len), "{what}: segment {segment}");
        }
    };
    check("unchanged", 0..10);
    let theirs = fs::OpenOptions::new().write(true).open(&path).unwrap();
    theirs.set_len(8 * len as u64 + 100).unwrap();
    check("shorter", 0..8);
    let mut few = [0; 100];
    assert_eq!(device.read(8, 0, &mut few), Ok(()));
    assert_eq!(few, bytes(8, len)[..100]);
    assert_eq!(device.read(8, 1, &mut few), Err(DeviceError::Missing { segment: 8 }));
    theirs.set_len(0).unwrap();
    check("empty", 0..0);
    (0..5).for_each(|segment| device.write_segment(segment, &bytes(segment, len)).unwrap());
    check("empty, and some written", 0..5);
    // The device keeps the file that it opened, not another one under the same name.
    fs::rename(&path, folder.at("moved")).unwrap();
    fs::write(&path, [7; 30000]).unwrap();
    check("another file in its place", 0..5);
}

#[cfg(target_os = "linux")]
#[test]
fn a_forked_child_gets_errors_and_leaves_the_file_locked() {
    let folder = Folder::new("forked");
    let path = folder.at("file");
    let mut device = Some(FileSwapDevice::create(&path, 160).unwrap());
    assert!(crate::device::tests::in_child(|| {
        let device = device.take().unwrap();
        let mut back = [0; 100];
        assert_eq!(device.write_segment(1, &back), Err(DeviceError::Forked));
        assert_eq!(device.read(0, 0, &mut back), Err(DeviceError::Forked));
        assert_eq!(device.flush(), Err(DeviceError::Forked));
        device.discard(0);
        drop(device);
    }));
    let refused = FileSwapDevice::create(&path, 160).unwrap_err();
    assert!(matches!(refused, FileDeviceError::InUse { .. }), "{refused}");
    assert_eq!(device.unwrap().write_segment(0, b"packed pages"), Ok(()));
}

#[cfg(target_os = "linux")]
#[test]
fn a_write_beyond_the_file_size_limit_is_an_error_and_no_signal() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let folder = Folder::new("limit");
    // The limit is set in a child, since it is the whole process's.
    assert!(crate::device::tests::in_child(|| {
        let device = FileSwapDevice::create(folder.at("file"), 160).unwrap();
        let limit = 65536 + 1000;
        let was = getrlimit(Resource::Fsize);
        setrlimit(Resource::Fsize, Rlimit { current: Some(limit), ..was }).unwrap();
        let refused = |segment| Err(DeviceError::FileSizeLimit { segment, limit });
        assert_eq!(device.write_segment(1, &[7; 1001]), refused(1));
        assert_eq!(device.write_segment(9, &[7; 1]), refused(9));
        assert_eq!(device.write_segment(1, &[7; 1000]), Ok(()));
        assert_eq!(device.write_segment(0, &[7; 65536]), Ok(()));
        setrlimit(Resource::Fsize, was).unwrap();
        assert_eq!(device.write_segment(1, &[7; 1001]), Ok(()));
    }));
}

#[test]
fn a_file_is_one_devices() {
    let folder = Folder::new("once");
    let path = folder.at("file");
    let in_use = |path: &Path| {
        let refused = FileSwapDevice::create(path, 9).unwrap_err();
        assert!(matches!(refused, FileDeviceError::InUse { .. }), "{refused}");
        assert!(refused.to_string().contains("its own file"), "{refused}");
    };
    let first = FileSwapDevice::create(&path, 9).unwrap();
    in_use(&path);
    first.write_segment(0, &bytes(0, 4096)).unwrap();
    in_use(&path);
    fs::hard_link(&path, folder.at("other-name")).unwrap();
    in_use(&folder.at("other-name"));
    let mut back = [0; 4096];
    assert!(first.read(0, 0, &mut back).is_ok() && back[..] == bytes(0, 4096));
    drop(first);
    let full = FileSwapDevice::create(&path, 9).unwrap_err();
    assert!(matches!(full, FileDeviceError::NotEmpty { bytes: 4096, .. }), "{full}");
    fs::write(&path, b"").unwrap();
    assert!(FileSwapDevice::create(&path, 9).is_ok());
}

#[test]
fn a_file_with_something_in_it_is_left_alone() {
    let folder = Folder::new("taken");
    let path = folder.at("file");
    fs::write(&path, b"dear").unwrap();
    #[cfg(unix)]
    set_mode(&path, 0o600);
    let refused = FileSwapDevice::create(&path, 1).unwrap_err();
    assert!(matches!(refused, FileDeviceError::NotEmpty { bytes: 4, .. }), "{refused}");
    assert_eq!(io::Error::from(refused).kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(fs::read(&path).unwrap(), b"dear");
}

#[test]
fn a_device_that_fits_in_no_file_is_refused() {
    let folder = Folder::new("large");
    let path = folder.at("file");
    let refused = |device: Result<FileSwapDevice, FileDeviceError>, bytes: u128| {
        let refused = device.unwrap_err();
        let FileDeviceError::TooLarge { bytes: asked, most: MOST, .. } = refused else {
            panic!("{refused}")
        };
        assert_eq!(asked, bytes);
        let said = refused.to_string();
        let pages = bytes.div_ceil(4096);
        assert!(said.contains(&format!("{pages} pages ({bytes} bytes)")), "{said}");
        assert!(
            said.contains("at most 2251799813685247 pages (9223372036854771712 bytes)"),
            "{said}"
        );
        assert!(!path.exists());
    };
    for pages in [1 << 51, u64::MAX] {
        refused(FileSwapDevice::create(&path, pages), u128::from(pages) << 12);
    }
    for segments in [1 << 47, u64::MAX] {
        let geometry = Geometry { segments, ..Geometry::of_pages(64) };
        let device = FileSwapDevice::create_with_geometry(&path, geometry);
        refused(device, u128::from(segments) << 16);
    }
    assert!(FileSwapDevice::create(&path, (1 << 51) - 1).is_ok());
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_is_a_view_of_something_else_is_refused() {
    for path in ["/proc/self/mem", "/proc/self/clear_refs", "/proc/self/comm"] {
        let refused = FileSwapDevice::create(path, 1 << 35).unwrap_err();
        assert!(matches!(refused, FileDeviceError::NotStorage { .. }), "{refused}");
        let said = refused.to_string();
        assert!(
            said.contains("it is on procfs") && said.contains("name a file on a disk"),
            "{said}"
        );
    }
    let folder = Folder::new("storage");
    let device = FileSwapDevice::create(folder.at("new"), 1).unwrap();
    assert_eq!(device.file.0.metadata().unwrap().len(), 0, "the file is still empty");
}

#[cfg(unix)]
fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[cfg(unix)]
#[test]
fn a_file_that_others_can_reach_is_refused() {
    let folder = Folder::new("open");
    let path = folder.at("file");
    fs::write(&path, b"").unwrap();
    for mode in [0o666, 0o640, 0o602, 0o601, 0o604] {
        set_mode(&path, mode);
        let refused = FileSwapDevice::create(&path, 1).unwrap_err();
        assert!(matches!(refused, FileDeviceError::Exposed { mode: m, .. } if m == mode));
        assert!(refused.to_string().contains(&format!("mode {mode:04o}")), "{refused}");
    }
    set_mode(&path, 0o600);
    let link = folder.at("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let refused = FileSwapDevice::create(&link, 1).unwrap_err();
    let what = |error: &FileDeviceError| match error {
        FileDeviceError::NotAFile { what, .. } => *what,
        other => panic!("{other}"),
    };
    assert_eq!(what(&refused), "a symbolic link");
    // No file is created at the target of a dangling link.
    std::os::unix::fs::symlink(folder.at("nothing"), folder.at("dangling")).unwrap();
    let refused = FileSwapDevice::create(folder.at("dangling"), 1).unwrap_err();
    assert_eq!(what(&refused), "a symbolic link");
    assert!(!folder.at("nothing").exists());
    assert_eq!(what(&FileSwapDevice::create(&folder.0, 1).unwrap_err()), "a directory");
    assert_eq!(what(&FileSwapDevice::create("/dev/null", 1).unwrap_err()), "a character device");
    let lost = FileSwapDevice::create(folder.at("no/such/folder"), 1).unwrap_err();
    assert!(matches!(lost, FileDeviceError::Io { operation: "open", .. }), "{lost}");
    assert!(FileSwapDevice::create(&path, 1).is_ok());
}

#[cfg(target_os = "linux")]
#[test]
fn only_a_block_device_is_used_as_one() {
    let folder = Folder::new("no-block-device");
    let (file, link) = (folder.at("file"), folder.at("link"));
    fs::write(&file, b"precious").unwrap();
    std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
    for (path, expected) in [
        (&*file, "a regular file"),
        (&*folder.0, "a directory"),
        (&*link, "a symbolic link"),
        (Path::new("/dev/null"), "a character device"),
    ] {
        let refused = FileSwapDevice::block_device(path).unwrap_err();
        let FileDeviceError::NotABlockDevice { what, .. } = &refused else { panic!("{refused}") };
        assert_eq!(*what, expected);
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    let missing = FileSwapDevice::block_device(folder.at("none")).unwrap_err();
    assert!(matches!(missing, FileDeviceError::Io { operation: "lstat", .. }), "{missing}");
}

/// A loop device, which is gone when this is dropped.
#[cfg(target_os = "linux")]
struct Loop(PathBuf);

#[cfg(target_os = "linux")]
impl Loop {
    /// Makes a block device of a file; says why, if the system does not permit that.
    #[allow(clippy::print_stderr, reason = "says why the test does not run")]
    fn over(file: &Path) -> Option<Self> {
        let made =
            std::process::Command::new("losetup").args(["--find", "--show"]).arg(file).output();
        match made {
            Ok(made) if made.status.success() => {
                Some(Loop(String::from_utf8(made.stdout).unwrap().trim().into()))
            }
            Ok(made) => {
                eprintln!("not run: losetup: {}", String::from_utf8_lossy(&made.stderr));
                None
            }
            Err(error) => {
                eprintln!("not run: losetup: {error}");
                None
            }
        }
    }
}

#[cfg(target_os = "linux")]
impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

/// Needs root, for a loop device.
#[cfg(target_os = "linux")]
#[test]
fn a_block_device_keeps_segments_for_one_device() {
    let folder = Folder::new("block-device");
    let file = folder.at("file");
    File::create(&file).unwrap().set_len(8 << 20).unwrap();
    let Some(made) = Loop::over(&file) else { return };
    let refused = FileSwapDevice::create(&made.0, 1).unwrap_err();
    assert!(
        matches!(refused, FileDeviceError::NotAFile { what: "a block device", .. }),
        "{refused}"
    );
    let device = FileSwapDevice::block_device(&made.0).unwrap();
    let refused = FileSwapDevice::block_device(&made.0).unwrap_err();
    assert!(matches!(refused, FileDeviceError::InUse { .. }), "{refused}");
    let geometry = device.geometry();
    assert_eq!(geometry.bytes(), 8 << 20);
    let last = geometry.segments - 1;
    for segment in [0, last] {
        device.write_segment(segment, &bytes(segment, geometry.segment_bytes)).unwrap();
    }
    device.flush().unwrap();
    let mut back = vec![0; geometry.segment_bytes];
    for segment in [0, last] {
        device.read(segment, 0, &mut back).unwrap();
        assert!(back == bytes(segment, geometry.segment_bytes));
    }
    device.discard(0);
    device.read(last, 0, &mut back).unwrap();
    assert!(back == bytes(last, geometry.segment_bytes));
    drop(device);
    FileSwapDevice::block_device(&made.0).unwrap();
}
