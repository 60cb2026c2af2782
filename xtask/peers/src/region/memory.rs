//! The memory that a measurement uses: a region, plain memory, or a mapped file.

use std::ffi::c_void;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsFd;
use std::ptr::{NonNull, null_mut};
use std::str::FromStr;

use measure::Page;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use zswap_core::Zswap;
use zswap_region::{BackendKind, CleanPages, Region};

use crate::error::{Error, Result};
use crate::source::PAGE;

/// The words of a page, 8 bytes each.
pub(crate) const PAGE_WORDS: usize = PAGE / 8;

/// The kind of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// All pages in memory, always.
    Resident,
    /// Plain memory in a memory cgroup, with swap on the kernel's zram.
    Kernel,
    /// A file on disk, mapped in a memory cgroup.
    File,
    Region(BackendKind),
}

/// What a region does besides its backend. Other memory has the defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) kind: Kind,
    /// The store's compressor, or none for its default.
    pub(crate) codec: Option<String>,
    pub(crate) clean: CleanPages,
    pub(crate) background: bool,
}

impl FromStr for Spec {
    type Err = String;

    /// Reads words with `/` between them, such as `move/lz4/never/background`. The first is the kind,
    /// the others are in any order.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split('/');
        let kind = match words.next().unwrap_or_default() {
            "resident" => Kind::Resident,
            "kernel" => Kind::Kernel,
            "file" => Kind::File,
            "move" => Kind::Region(BackendKind::Move),
            "guard" => Kind::Region(BackendKind::Guard),
            other => return Err(format!("no kind of memory is named {other:?}")),
        };
        let mut spec = Spec { kind, codec: None, clean: CleanPages::Adaptive, background: false };
        for word in words {
            match word {
                "always" => spec.clean = CleanPages::Always,
                "never" => spec.clean = CleanPages::Never,
                "adaptive" => spec.clean = CleanPages::Adaptive,
                "direct" => spec.background = false,
                "background" => spec.background = true,
                codec => spec.codec = Some(codec.to_owned()),
            }
        }
        Ok(spec)
    }
}

/// Returns the compressor of a store that names none.
pub(crate) fn default_codec() -> &'static str {
    zswap_core::builtin::default_compressor().name
}

impl Spec {
    /// Returns the name of the codec that the pages are compressed with.
    pub(crate) fn codec_name(&self) -> &str {
        match (self.kind, &self.codec) {
            (Kind::Resident | Kind::File, _) => "none",
            (Kind::Kernel, _) => "kernel lz4",
            (Kind::Region(_), Some(codec)) => codec,
            (Kind::Region(_), None) => default_codec(),
        }
    }

    /// Makes a region of `capacity` bytes, of which `resident` may be in memory.
    pub(crate) fn region(&self, capacity: usize, resident: usize) -> Result<Region> {
        let Kind::Region(backend) = self.kind else {
            return Err(Error::setup("only a region has a backend"));
        };
        let store = match &self.codec {
            Some(codec) => Zswap::builder().compressor(codec),
            None => Zswap::builder(),
        };
        let builder = Region::builder()
            .capacity(capacity)
            .resident_bytes(resident)
            .store(store)
            .backend(backend)
            .clean_pages(self.clean)
            .background(self.background);
        // SAFETY: this program blocks no signal and forks nobody who uses the memory. The only other
        // handler of SIGBUS and SIGSEGV is that of the floor, which is gone when a region is used.
        // No system call is given memory of a region.
        unsafe { builder.build() }.map_err(|error| Error::setup(measure::chain(&error)))
    }
}

/// A mapping, removed on drop.
#[derive(Debug)]
pub(crate) struct Map {
    start: NonNull<c_void>,
    len: usize,
}

impl Map {
    fn new(start: *mut c_void, len: usize) -> io::Result<Self> {
        let start = NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Map { start, len })
    }

    /// Maps `len` bytes of private memory that never becomes huge pages.
    pub(crate) fn anonymous(len: usize) -> io::Result<Self> {
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses the address, so nothing that is mapped already is replaced.
        let start = unsafe { mmap_anonymous(null_mut(), len, rights, MapFlags::PRIVATE) }?;
        let map = Map::new(start, len)?;
        map.advise(Advice::LinuxNoHugepage)?;
        Ok(map)
    }

    /// Maps the first `len` bytes of a file.
    pub(crate) fn file(file: impl AsFd, len: usize) -> io::Result<Self> {
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: as above.
        let start = unsafe { mmap(null_mut(), len, rights, MapFlags::SHARED, file, 0) }?;
        Map::new(start, len)
    }

    /// Maps a file on disk that has no name any more.
    fn temporary(len: usize) -> Result<Self> {
        const TMPFS: i64 = 0x0102_1994;
        let path = std::env::temp_dir().join(format!("zswap-peers-{}", std::process::id()));
        let failed =
            |reason| Error::System { what: "cannot map", path: path.display().to_string(), reason };
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(&path).map_err(failed)?;
        std::fs::remove_file(&path).map_err(failed)?;
        let system = rustix::fs::fstatfs(&file).map_err(|error| failed(error.into()))?;
        if system.f_type == TMPFS {
            return Err(Error::setup(
                "the temporary folder is in memory; set TMPDIR to one on disk",
            ));
        }
        file.set_len(len as u64).map_err(failed)?;
        let map = Map::file(&file, len).map_err(failed)?;
        map.advise(Advice::Random).map_err(failed)?;
        Ok(map)
    }

    pub(crate) fn start(&self) -> *mut u8 {
        self.start.as_ptr().cast()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Gives the kernel advice that does not change the pages' contents.
    pub(crate) fn advise(&self, advice: Advice) -> io::Result<()> {
        debug_assert!(advice != Advice::LinuxDontNeed && advice != Advice::LinuxFree);
        // SAFETY: the range is this mapping, and its bytes do not change.
        unsafe { madvise(self.start.as_ptr(), self.len, advice) }?;
        Ok(())
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: this mapping is the value's own. Whoever uses its address borrows the value.
        let _ = unsafe { munmap(self.start.as_ptr(), self.len) };
    }
}

#[derive(Debug)]
enum Held {
    Region(Region),
    Map(Map),
}

/// Memory of some pages, accessed through its address as a program's own.
#[derive(Debug)]
pub(crate) struct Memory {
    start: *mut u8,
    pages: usize,
    held: Held,
}

// SAFETY: the fields are only read. What the memory holds is accessed through `at`, whose callers see
// to it that no word is written by one thread while another accesses it.
unsafe impl Sync for Memory {}

impl Memory {
    /// Makes memory of `pages` pages. A region may have `resident` bytes of them in memory.
    pub(crate) fn new(spec: &Spec, pages: usize, resident: usize) -> Result<Self> {
        let len = pages * PAGE;
        let failed = |error: io::Error| Error::setup(format!("no memory can be mapped: {error}"));
        let held = match spec.kind {
            Kind::Region(_) => Held::Region(spec.region(len, resident)?),
            Kind::Resident | Kind::Kernel => Held::Map(Map::anonymous(len).map_err(failed)?),
            Kind::File => Held::Map(Map::temporary(len)?),
        };
        Ok(Memory::of(held, pages))
    }

    fn of(held: Held, pages: usize) -> Self {
        let start = match &held {
            Held::Region(region) => region.as_ptr(),
            Held::Map(map) => map.start(),
        };
        Memory { start, pages, held }
    }

    /// Uses a region.
    pub(crate) fn from_region(region: Region) -> Self {
        let pages = region.len() / PAGE;
        Memory::of(Held::Region(region), pages)
    }

    /// Uses a mapping.
    pub(crate) fn from_map(map: Map) -> Self {
        let pages = map.len() / PAGE;
        Memory::of(Held::Map(map), pages)
    }

    pub(crate) fn region(&self) -> Option<&Region> {
        match &self.held {
            Held::Region(region) => Some(region),
            Held::Map(_) => None,
        }
    }

    pub(crate) fn map(&self) -> Option<&Map> {
        match &self.held {
            Held::Region(_) => None,
            Held::Map(map) => Some(map),
        }
    }

    /// Returns the number of words.
    pub(crate) fn words(&self) -> usize {
        self.pages * PAGE_WORDS
    }

    /// Returns the address of a word, counted from the start.
    #[inline]
    fn at(&self, word: usize) -> *mut u64 {
        assert!(word < self.words());
        // SAFETY: just checked that the word is within the memory.
        unsafe { self.start.add(word * 8).cast() }
    }

    /// Reads a word, counted from the start. No other thread may write it at the same time.
    #[inline]
    pub(crate) fn read_word(&self, word: usize) -> u64 {
        // SAFETY: the address is mapped and aligned.
        unsafe { self.at(word).read_volatile() }
    }

    /// Writes a word, counted from the start. No other thread may access it at the same time.
    #[inline]
    pub(crate) fn write_word(&self, word: usize, value: u64) {
        // SAFETY: as above.
        unsafe { self.at(word).write_volatile(value) };
    }

    /// Reads a word of a page. No other thread may write it at the same time.
    #[inline]
    pub(crate) fn read(&self, page: usize, word: usize) -> u64 {
        self.read_word(page * PAGE_WORDS + word)
    }

    /// Writes a word of a page. No other thread may access it at the same time.
    #[inline]
    pub(crate) fn write(&self, page: usize, word: usize, value: u64) {
        self.write_word(page * PAGE_WORDS + word, value);
    }

    /// Copies a whole page in. No other thread may access it at the same time.
    pub(crate) fn fill(&self, page: usize, from: &Page) {
        // SAFETY: the address is that of a whole page, which `from` is not.
        unsafe { self.at(page * PAGE_WORDS).cast::<Page>().copy_from_nonoverlapping(from, 1) };
    }

    /// Returns a copy of a whole page. No other thread may write it at the same time.
    pub(crate) fn copy(&self, page: usize) -> Page {
        // SAFETY: the address is that of a whole page.
        unsafe { self.at(page * PAGE_WORDS).cast::<Page>().read() }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::*;

    /// Tests that handle faults call this first: the handlers are those of the whole process.
    pub(crate) fn alone() -> MutexGuard<'static, ()> {
        static ALONE: Mutex<()> = Mutex::new(());
        ALONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[test]
    fn specs_are_words_in_any_order() {
        let spec: Spec = "move/background/zstd:level=1/never".parse().unwrap();
        assert_eq!(spec.kind, Kind::Region(BackendKind::Move));
        assert_eq!(spec.codec_name(), "zstd:level=1");
        assert!(spec.clean == CleanPages::Never && spec.background);
        let plain: Spec = "guard".parse().unwrap();
        assert!(plain.codec_name() == default_codec() && !plain.background);
        assert!("elsewhere/lz4".parse::<Spec>().is_err());
    }

    #[test]
    fn words_and_pages_come_back() {
        let _alone = alone();
        for spec in ["resident", "file", "move/lz4", "guard"] {
            let memory = match Memory::new(&spec.parse().unwrap(), 64, 64 * PAGE) {
                Ok(memory) => memory,
                Err(reason) => {
                    println!("skipped: {spec}: {reason}");
                    continue;
                }
            };
            memory.fill(3, &[7; PAGE]);
            memory.write(3, 511, 9);
            assert_eq!((memory.read(3, 510), memory.read(3, 511)), (0x0707_0707_0707_0707, 9));
            assert_eq!(memory.copy(3)[..8], [7; 8]);
        }
    }
}
