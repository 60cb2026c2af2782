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

fn page(n: u8) -> Page {
    let mut page = [n; PAGE_SIZE];
    page[PAGE_SIZE / 2..].fill(n ^ 0x55);
    page
}

#[test]
fn pages_come_back_and_discarded_ones_take_no_space() {
    let folder = Folder::new("pages");
    let device = FileSwapDevice::create(folder.at("new"), 100).unwrap();
    // A page of zeros is a page like any other.
    for (slot, n) in [(0, 1), (99, 0), (7, 3)] {
        device.write_page(slot, &page(n)).unwrap();
    }
    device.write_page(5, &[0; PAGE_SIZE]).unwrap();
    let mut back = [9; PAGE_SIZE];
    for (slot, n) in [(7, 3), (0, 1), (99, 0)] {
        device.read_page(slot, &mut back).unwrap();
        assert_eq!(back, page(n));
    }
    device.read_page(5, &mut back).unwrap();
    assert_eq!(back, [0; PAGE_SIZE]);
    for slot in [6, 98] {
        assert_eq!(device.read_page(slot, &mut back), Err(DeviceError::Missing { slot }));
    }
    let beyond = Err(DeviceError::OutOfRange { slot: 100, capacity: 100 });
    assert_eq!(device.write_page(100, &back), beyond);
    assert_eq!(device.read_page(100, &mut back), beyond);
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let before = device.file.0.metadata().unwrap();
        assert_eq!(before.permissions().mode() & 0o777, 0o600);
        device.discard(7);
        let after = device.file.0.metadata().unwrap();
        assert!(after.blocks() <= before.blocks() && after.len() == before.len());
    }
    device.discard(7);
    device.discard(100);
    assert_eq!(device.read_page(7, &mut back), Err(DeviceError::Missing { slot: 7 }));
    device.write_page(7, &page(8)).unwrap();
    device.read_page(7, &mut back).unwrap();
    assert!(back == page(8) && device.memory_bytes() >= 4 * 100);
}

#[test]
fn a_file_that_somebody_changed_gives_errors_and_no_pages() {
    let folder = Folder::new("changed");
    let path = folder.at("file");
    let device = FileSwapDevice::create(&path, 100).unwrap();
    (0..10).for_each(|slot| device.write_page(slot, &page(slot as u8 + 1)).unwrap());
    let mut back = [0; PAGE_SIZE];
    let mut check = |what: &str, good: std::ops::Range<u64>| {
        for slot in 0..10 {
            let read = device.read_page(slot, &mut back);
            let expected =
                if good.contains(&slot) { Ok(()) } else { Err(DeviceError::Changed { slot }) };
            assert_eq!(read, expected, "{what}: slot {slot}");
            assert!(read.is_err() || back == page(slot as u8 + 1));
        }
    };
    check("unchanged", 0..10);
    let theirs = fs::OpenOptions::new().write(true).open(&path).unwrap();
    // The file is cut within a page, then extended to its old length: the rest of that page is zeros.
    theirs.set_len(8 * PAGE_SIZE as u64 + 100).unwrap();
    check("shorter", 0..8);
    theirs.set_len(10 * PAGE_SIZE as u64).unwrap();
    check("extended again", 0..8);
    write_all_at(&theirs, &[0xAB], 3).unwrap();
    check("overwritten", 1..8);
    theirs.set_len(0).unwrap();
    check("empty", 0..0);
    // After that, a page can be written and read again.
    device.write_page(4, &page(5)).unwrap();
    check("empty, and one written", 4..5);
    // The device keeps the file that it opened, not another one under the same name.
    fs::rename(&path, folder.at("moved")).unwrap();
    fs::write(&path, [7; 3 * PAGE_SIZE]).unwrap();
    check("another file in its place", 4..5);
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
    first.write_page(0, &page(1)).unwrap();
    in_use(&path);
    fs::hard_link(&path, folder.at("other-name")).unwrap();
    in_use(&folder.at("other-name"));
    let mut back = [0; PAGE_SIZE];
    assert!(first.read_page(0, &mut back).is_ok() && back == page(1));
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
    let refused = FileSwapDevice::create(folder.at("large"), MOST + 1).unwrap_err();
    assert!(matches!(refused, FileDeviceError::TooLarge { most: MOST, .. }), "{refused}");
    assert!(!folder.at("large").exists());
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
    assert_eq!(what(&FileSwapDevice::create("/dev/null", 1).unwrap_err()), "a device");
    let lost = FileSwapDevice::create(folder.at("no/such/folder"), 1).unwrap_err();
    assert!(matches!(lost, FileDeviceError::Io { operation: "open", .. }), "{lost}");
    assert!(FileSwapDevice::create(&path, 1).is_ok());
}
