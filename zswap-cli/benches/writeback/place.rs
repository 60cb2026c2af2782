//! Where the segments go: nowhere, or to a file in memory or on disk.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use zswap_core::device::{FileSwapDevice, NullSwapDevice, SwapDevice};

/// The folder of files in memory.
const MEMORY: &str = "/dev/shm";

/// A place for segments.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Nowhere,
    Folder { name: &'static str, path: PathBuf },
}

impl Place {
    /// Returns the places for files: one in memory, if the system has that, and `disk`.
    pub(crate) fn folders(disk: &Path) -> Vec<Place> {
        let folder = |name, path: &Path| Place::Folder { name, path: path.to_owned() };
        let memory = Some(folder("file on tmpfs", Path::new(MEMORY)));
        let memory = memory.filter(|_| Path::new(MEMORY).is_dir());
        memory.into_iter().chain([folder("file on disk", disk)]).collect()
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Place::Nowhere => "null device",
            Place::Folder { name, .. } => name,
        }
    }

    /// Makes a device with room for `pages` uncompressed pages. The second result reads its file, whose name is
    /// gone already.
    pub(crate) fn device(&self, pages: usize) -> (Arc<dyn SwapDevice>, Option<File>) {
        // Room for objects that are not smaller than their pages.
        let pages = pages as u64 * 5 / 4 + 64;
        match self {
            Place::Nowhere => (Arc::new(NullSwapDevice::new(pages)), None),
            Place::Folder { path, .. } => {
                let path = free_name(path);
                let device = FileSwapDevice::create(&path, pages).unwrap();
                let file = File::open(&path).unwrap();
                fs::remove_file(&path).unwrap();
                (Arc::new(device), Some(file))
            }
        }
    }

    /// Makes an empty file whose name is gone already. Returns `None` for [`Place::Nowhere`].
    pub(crate) fn file(&self) -> Option<File> {
        let Place::Folder { path, .. } = self else { return None };
        let path = free_name(path);
        let made = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        fs::remove_file(&path).unwrap();
        Some(made.unwrap())
    }
}

fn free_name(folder: &Path) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::SeqCst);
    folder.join(format!("zswap-writeback-{}-{next}", std::process::id()))
}
