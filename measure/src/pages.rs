//! The set of pages that every contestant gets. It is read once, and all contestants share one copy.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use zpool_api::PAGE_SIZE;

use crate::aligned::{Page, Pages};
use crate::error::{Error, Result};

/// Pages of five real programs, for callers that pass no files.
const SAMPLE: &[u8] = include_bytes!("../assets/sample.pages.zst");

/// The first bytes of every file that `zstd` writes.
const ZST_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// How many pages are read at a time.
const STEP: usize = 256;

/// Pages in memory. The set also records which pages are same-filled and where the pages come from.
#[derive(Debug)]
pub struct PageSet {
    pages: Pages,
    same_filled: Vec<bool>,
    timed: Vec<usize>,
    origin: String,
}

impl PageSet {
    /// Reads the pages of all `files`, one file after another, or the built-in sample if `files` is empty.
    ///
    /// `limit` bounds the bytes of all pages together, counted after decompression.
    ///
    /// # Errors
    ///
    /// * [`Error::Unreadable`] if a file cannot be opened or read;
    /// * [`Error::BadZst`] if a file whose name ends in .zst cannot be decompressed;
    /// * [`Error::UnnamedZst`] if a raw file starts like a zstd file and ends within a page;
    /// * [`Error::PartialPage`] if any other file ends within a page;
    /// * [`Error::EmptySet`] if the files hold no page;
    /// * [`Error::TooLarge`] if they hold more than `limit` bytes;
    /// * [`Error::NoMemory`] if the pages do not fit in memory.
    ///
    /// ```
    /// use measure::PageSet;
    ///
    /// let set = PageSet::load(&[], 64 << 20)?;
    /// assert_eq!((set.pages().len(), set.origin()), (520, "the built-in sample"));
    /// # Ok::<(), measure::Error>(())
    /// ```
    pub fn load(files: &[PathBuf], limit: u64) -> Result<Self> {
        let mut pages = Pages::default();
        if files.is_empty() {
            let name = Path::new("the built-in sample");
            append_zst(&mut pages, name, SAMPLE, limit)?;
            return Ok(PageSet::new(pages, name.display().to_string()));
        }
        for path in files {
            append_file(&mut pages, path, limit)?;
        }
        let origin = origin(files);
        if pages.is_empty() {
            return Err(Error::EmptySet { files: origin });
        }
        Ok(PageSet::new(pages, origin))
    }

    /// Makes a set of existing pages; `origin` says in words where they come from.
    ///
    /// ```
    /// use measure::{PageSet, Pages};
    ///
    /// let mut pages = Pages::filled(0, 3);
    /// pages[1][7] = 1;
    /// let set = PageSet::new(pages, "an example".to_owned());
    /// assert_eq!((set.same_filled(), set.timed()), (2, &[1][..]));
    /// ```
    pub fn new(pages: Pages, origin: String) -> Self {
        let same_filled: Vec<bool> = pages.iter().map(is_same_filled).collect();
        let timed = (0..pages.len()).filter(|&i| !same_filled[i]).collect();
        PageSet { pages, same_filled, timed, origin }
    }

    /// Returns the pages, in the order of the files, on page boundaries.
    pub fn pages(&self) -> &[Page] {
        &self.pages
    }

    /// Returns whether page `index` is one 8-byte word repeated.
    ///
    /// # Panics
    ///
    /// If `index` is not below the number of pages.
    pub fn is_same_filled(&self, index: usize) -> bool {
        self.same_filled[index]
    }

    /// Returns the number of pages that are one 8-byte word repeated.
    pub fn same_filled(&self) -> usize {
        self.pages.len() - self.timed.len()
    }

    /// Returns the indices, ascending, of the pages that are timed: all except same-filled ones.
    pub fn timed(&self) -> &[usize] {
        &self.timed
    }

    /// Returns in words where the pages come from.
    pub fn origin(&self) -> &str {
        &self.origin
    }
}

/// Returns whether one 8-byte word fills the page. This is so if every byte equals the byte 8 places after
/// it.
fn is_same_filled(page: &Page) -> bool {
    page[8..] == page[..PAGE_SIZE - 8]
}

/// Returns the names of the first two files, without their folders, and the number of the others.
fn origin(files: &[PathBuf]) -> String {
    const SHOWN: usize = 2;
    let names: Vec<_> = files
        .iter()
        .take(SHOWN)
        .map(|path| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy())
        .collect();
    let mut origin = names.join(", ");
    if files.len() > SHOWN {
        origin.push_str(&format!(" and {} more", files.len() - SHOWN));
    }
    origin
}

fn append_file(pages: &mut Pages, path: &Path, limit: u64) -> Result<()> {
    let unreadable = |source| Error::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case(OsStr::new("zst"))) {
        return append_zst(pages, path, file, limit);
    }
    let start = pages.len();
    // Only a regular file reports its length; others may be endless, so `append` checks the limit, too.
    let known = file.metadata().map_err(unreadable)?.len();
    if known > limit.saturating_sub(bytes_of(pages)) {
        return Err(Error::TooLarge { path: path.to_owned(), limit });
    }
    reserve(pages, known as usize / PAGE_SIZE + STEP)?;
    let bytes = append(pages, path, limit, file, unreadable)?;
    let rest = bytes % PAGE_SIZE as u64;
    if rest != 0 {
        let zst = pages.get(start).is_some_and(|page| page.starts_with(&ZST_MAGIC));
        let path = path.to_owned();
        return Err(match zst {
            true => Error::UnnamedZst { path },
            false => Error::PartialPage { path, bytes, rest },
        });
    }
    Ok(())
}

fn append_zst(pages: &mut Pages, path: &Path, packed: impl Read, limit: u64) -> Result<()> {
    let bad = |source| Error::BadZst { path: path.to_owned(), source };
    let reader = zstd::stream::read::Decoder::new(packed).map_err(bad)?;
    let bytes = append(pages, path, limit, reader, bad)?;
    let rest = bytes % PAGE_SIZE as u64;
    if rest != 0 {
        return Err(Error::PartialPage { path: path.to_owned(), bytes, rest });
    }
    Ok(())
}

/// Appends all that `reader` yields, and returns the number of bytes. Fills up a partial last page
/// with zeros. Fails if the set then exceeds `limit`.
fn append(
    pages: &mut Pages,
    path: &Path,
    limit: u64,
    mut reader: impl Read,
    failed: impl Fn(io::Error) -> Error,
) -> Result<u64> {
    let mut total = 0u64;
    loop {
        let start = pages.len();
        reserve(pages, STEP)?;
        pages.resize(start + STEP, 0);
        let room = pages[start..].as_flattened_mut();
        let full = room.len();
        let got = fill(&mut reader, room).map_err(&failed)?;
        pages.resize(start + got.div_ceil(PAGE_SIZE), 0);
        total += got as u64;
        if bytes_of(pages) > limit {
            return Err(Error::TooLarge { path: path.to_owned(), limit });
        }
        if got < full {
            return Ok(total);
        }
    }
}

/// Reads until `room` is full or the reader ends. Returns the number of bytes read.
fn fill(reader: &mut impl Read, room: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < room.len() {
        match reader.read(&mut room[got..]) {
            Ok(0) => break,
            Ok(read) => got += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

fn reserve(pages: &mut Pages, more: usize) -> Result<()> {
    pages.try_reserve(more).map_err(|_| Error::NoMemory {
        bytes: pages.len().saturating_add(more).saturating_mul(PAGE_SIZE),
        what: "pages",
    })
}

fn bytes_of(pages: &[Page]) -> u64 {
    pages.len() as u64 * PAGE_SIZE as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const LIMIT: u64 = 64 << 20;

    /// A folder for one test, removed at its end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("zswap-{test}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, bytes).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn bytes(pages: usize) -> Vec<u8> {
        (0..pages * PAGE_SIZE).map(|i| (i / 5 % 251) as u8).collect()
    }

    fn zst(bytes: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(bytes, 1).unwrap()
    }

    #[test]
    fn the_sample_is_520_pages_of_which_few_are_same_filled() {
        let set = PageSet::load(&[], LIMIT).unwrap();
        assert_eq!(set.pages().len(), 520);
        assert!((1..52).contains(&set.same_filled()), "{}", set.same_filled());
        assert_eq!(set.origin(), "the built-in sample");
    }

    #[test]
    fn a_page_is_same_filled_if_one_word_fills_it() {
        let mut page = [0u8; PAGE_SIZE];
        assert!(is_same_filled(&page));
        for (i, byte) in page.iter_mut().enumerate() {
            *byte = (i % 8) as u8;
        }
        assert!(is_same_filled(&page));
        for at in [0, 7, 8, 2048, PAGE_SIZE - 1] {
            let mut other = page;
            other[at] ^= 1;
            assert!(!is_same_filled(&other), "byte {at}");
        }
        for (i, byte) in page.iter_mut().enumerate() {
            *byte = (i % 16) as u8;
        }
        assert!(!is_same_filled(&page));
    }

    #[test]
    fn timed_pages_are_those_that_are_not_same_filled() {
        let mut pages = vec![[3u8; PAGE_SIZE]; 4];
        pages[1][9] = 4;
        pages[3][9] = 4;
        let set = PageSet::new(pages.into(), "here".into());
        assert_eq!((set.same_filled(), set.timed()), (2, &[1, 3][..]));
        assert!(set.is_same_filled(0) && !set.is_same_filled(3));
    }

    #[test]
    fn files_raw_and_packed_make_one_set_in_order() {
        let folder = Folder::new("set");
        let (one, two) = (bytes(STEP + 3), vec![9u8; PAGE_SIZE]);
        // Two concatenated frames, as appending to a .zst file makes them.
        let frames = [zst(&one[..5000]), zst(&one[5000..])].concat();
        let files = [
            folder.file("one.raw", &one),
            folder.file("two.ZST", &zst(&two)),
            folder.file("three.zst", &frames),
            folder.file("none", &[]),
        ];
        let set = PageSet::load(&files, LIMIT).unwrap();
        assert_eq!(set.pages().as_flattened(), [&one[..], &two, &one].concat());
        assert_eq!(set.origin(), "one.raw, two.ZST and 2 more");
    }

    #[test]
    fn lengths_around_a_step_are_read_whole() {
        let folder = Folder::new("steps");
        for pages in [1, STEP - 1, STEP, STEP + 1, 2 * STEP] {
            let file = folder.file("pages", &bytes(pages));
            let set = PageSet::load(&[file], LIMIT).unwrap();
            assert_eq!(set.pages().as_flattened(), bytes(pages), "{pages} pages");
        }
    }

    #[test]
    fn bad_files_are_told_apart() {
        let folder = Folder::new("bad");
        let load = |path: &Path| PageSet::load(&[path.to_owned()], LIMIT).unwrap_err();
        let missing = load(&folder.0.join("missing"));
        assert!(matches!(missing, Error::Unreadable { .. }), "{missing}");
        let directory = load(&folder.0);
        assert!(matches!(directory, Error::Unreadable { .. }), "{directory}");

        let partial = load(&folder.file("partial", &bytes(2)[..5000]));
        assert!(matches!(partial, Error::PartialPage { bytes: 5000, rest: 904, .. }), "{partial}");
        let partial = load(&folder.file("partial.zst", &zst(&bytes(2)[..5000])));
        assert!(matches!(partial, Error::PartialPage { bytes: 5000, rest: 904, .. }), "{partial}");
        let unnamed = load(&folder.file("unnamed", &zst(&bytes(3))));
        assert!(matches!(unnamed, Error::UnnamedZst { .. }), "{unnamed}");

        let mut packed = zst(&bytes(3));
        let raw = load(&folder.file("raw.zst", &bytes(1)));
        assert!(matches!(raw, Error::BadZst { .. }), "{raw}");
        packed.truncate(packed.len() - 1);
        let cut = load(&folder.file("cut.zst", &packed));
        assert!(matches!(cut, Error::BadZst { .. }), "{cut}");

        for (name, bytes) in [("empty", vec![]), ("empty.zst", zst(&[]))] {
            let empty = load(&folder.file(name, &bytes));
            assert!(matches!(empty, Error::EmptySet { .. }), "{empty}");
        }
        let nothing = load(&folder.file("nothing.zst", &[]));
        assert!(matches!(nothing, Error::BadZst { .. }), "{nothing}");
    }

    #[test]
    fn no_more_is_read_than_the_limit_allows() {
        let folder = Folder::new("limit");
        let limit = (3 * STEP * PAGE_SIZE) as u64;
        let raw = folder.file("raw", &bytes(2 * STEP));
        let bomb = folder.file("bomb.zst", &zst(&vec![0; 50 * STEP * PAGE_SIZE]));
        assert!(PageSet::load(std::slice::from_ref(&raw), limit).is_ok());
        for files in [vec![raw.clone(), raw.clone()], vec![bomb], vec!["/dev/zero".into()]] {
            if files[0].exists() {
                let error = PageSet::load(&files, limit).unwrap_err();
                assert!(matches!(error, Error::TooLarge { .. }), "{error}");
            }
        }
    }
}
