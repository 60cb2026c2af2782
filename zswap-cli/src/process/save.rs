//! Saves a sample for later runs: writes its pages to a `.zst` file that only the file's owner can read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use zswap_core::Page;

use super::SampleError;

/// Writes the pages to a new file that only its owner can read. Fails if the file exists, or if its
/// name does not end in `.zst`. Removes the file if it cannot be finished.
pub(crate) fn save(path: &Path, pages: &[Page]) -> Result<(), SampleError> {
    if path.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("zst")) {
        return Err(SampleError::SaveName { path: path.to_owned() });
    }
    let failed = |reason| SampleError::Save { path: path.to_owned(), reason };
    let file = create(path).map_err(failed)?;
    write(file, pages.as_flattened()).map_err(|source| {
        // A partial sample is useless.
        let _ = fs::remove_file(path);
        failed(source)
    })
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn write(file: File, bytes: &[u8]) -> io::Result<()> {
    let mut encoder = zstd::stream::write::Encoder::new(file, 3)?;
    encoder.write_all(bytes)?;
    encoder.finish()?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(std::path::PathBuf);

    impl Folder {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("zswap-{test}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_is_saved_reads_back_and_is_its_owners_alone() {
        let folder = Folder::new("save");
        let path = folder.0.join("sample.zst");
        let pages: Vec<Page> = (0..40u8).map(|n| [n; zswap_core::PAGE_SIZE]).collect();
        save(&path, &pages).unwrap();
        assert_eq!(zstd::decode_all(File::open(&path).unwrap()).unwrap(), pages.as_flattened());
        #[cfg(unix)]
        {
            let mode = std::os::unix::fs::PermissionsExt::mode(
                &fs::metadata(&path).unwrap().permissions(),
            );
            assert_eq!(mode & 0o777, 0o600);
        }
        // A second save refuses to overwrite the file.
        let before = fs::read(&path).unwrap();
        assert!(matches!(save(&path, &pages[..1]), Err(SampleError::Save { .. })));
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[test]
    fn bad_names_leave_nothing_behind() {
        let folder = Folder::new("save-names");
        let page = [[1; zswap_core::PAGE_SIZE]];
        let raw = folder.0.join("sample.pages");
        assert!(matches!(save(&raw, &page), Err(SampleError::SaveName { .. })));
        let nowhere = folder.0.join("no folder").join("sample.zst");
        assert!(matches!(save(&nowhere, &page), Err(SampleError::Save { .. })));
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_leaves_no_partial_file() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let pages = vec![0x5a; 1 << 20];
        let error = write(full, &pages).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
