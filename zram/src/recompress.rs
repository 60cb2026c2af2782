//! Recompresses pages with a denser algorithm.
//!
//! The slot's lock is held throughout, so other threads see either the old object or the new one. If the
//! result is not smaller, it is not stored, and the slot records the priority that was tried. If that was the
//! highest priority, the page is marked incompressible.

use zpool_api::Handle;

use crate::Zram;
use crate::error::ZramError;
use crate::page::{fault_at, huge_from};
use crate::page_buffer::PageBuffer;
use crate::word::{Content, Word};

/// Tells [`Zram::recompress`] which pages to compress again, with which algorithm, and how many at most.
/// Without a filter, it selects all pages that have an object.
///
/// ```
/// use zram::Recompress;
///
/// let idle_pages_over_2_kib = Recompress::new().idle().threshold(2048).max_pages(1000);
/// # let _ = idle_pages_over_2_kib;
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[must_use = "has no effect until Zram::recompress takes it"]
pub struct Recompress {
    idle: bool,
    huge: bool,
    threshold: usize,
    max_pages: Option<u64>,
    algorithm: Option<String>,
    priority: Option<usize>,
}

impl Recompress {
    /// Selects all pages, and the algorithm of the highest priority.
    pub fn new() -> Self {
        Self::default()
    }

    /// Selects only pages that are marked idle.
    pub fn idle(mut self) -> Self {
        self.idle = true;
        self
    }

    /// Selects only huge pages, which are stored uncompressed.
    pub fn huge(mut self) -> Self {
        self.huge = true;
        self
    }

    /// Selects only pages whose objects have at least this number of bytes.
    pub fn threshold(mut self, bytes: usize) -> Self {
        self.threshold = bytes;
        self
    }

    /// Stops after compressing this number of pages, including those that did not get smaller.
    pub fn max_pages(mut self, pages: u64) -> Self {
        self.max_pages = Some(pages);
        self
    }

    /// Uses the algorithm with this spec or name. Takes precedence over [`priority`](Self::priority).
    pub fn algorithm(mut self, spec: &str) -> Self {
        self.algorithm = Some(spec.to_owned());
        self
    }

    /// Uses the algorithm of this priority. The lowest priority is 1.
    pub fn priority(mut self, priority: usize) -> Self {
        self.priority = Some(priority);
        self
    }
}

/// What [`Zram::recompress`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Recompressed {
    /// Pages that got smaller.
    pub recompressed: u64,
    /// Pages that did not get smaller. They are not tried with this algorithm again until they are written.
    pub not_smaller: u64,
    /// Bytes by which the objects shrank.
    pub bytes_saved: u64,
}

impl Zram {
    /// Recompresses the pages that `what` selects. Skips a page that was already compressed, or tried, with an
    /// algorithm of the same or a higher priority.
    ///
    /// Stops at the first error. The page that failed is unchanged; the pages before it stay recompressed.
    ///
    /// ```
    /// use zram::{Recompress, Zram};
    ///
    /// # if cfg!(not(all(feature = "lz4", feature = "zstd"))) { return Ok(()); }
    /// let disk = Zram::builder().disksize(1 << 20).algorithm("lz4").recompression("zstd:level=12").build()?;
    /// let text: String = (0..600).map(|n| format!("line {n}; ")).collect();
    /// disk.write(0, &text.as_bytes()[..4096])?;
    /// let done = disk.recompress(&Recompress::new())?;
    /// assert_eq!((done.recompressed, done.not_smaller), (1, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ZramError::NoSuchAlgorithm`] if the disk has no algorithm of that name or priority, or no algorithm for
    /// recompression at all; [`ZramError::Pool`] or [`ZramError::Codec`] if the backend or a codec fails;
    /// [`ZramError::Buffer`] if there is no memory to decompress a page of more than 4096 bytes;
    /// [`ZramError::Reentrant`] if called from inside a codec or backend.
    ///
    /// # Blocking
    /// Sleeps in the codec and the backend while it holds the lock of one page.
    pub fn recompress(&self, what: &Recompress) -> Result<Recompressed, ZramError> {
        let priority = self.priority_of(what)?;
        let mut done = Recompressed::default();
        for index in self.table.made() {
            if what.max_pages.is_some_and(|most| done.recompressed + done.not_smaller >= most) {
                break;
            }
            match self.recompress_page(index, priority, what)? {
                Some(0) => done.not_smaller += 1,
                Some(saved) => {
                    done.recompressed += 1;
                    done.bytes_saved += saved as u64;
                }
                None => {}
            }
        }
        Ok(done)
    }

    fn priority_of(&self, what: &Recompress) -> Result<usize, ZramError> {
        let last = self.algorithms.len() - 1;
        let known = |priority: usize| (1..=last).contains(&priority).then_some(priority);
        let (found, asked) = match (&what.algorithm, what.priority) {
            (Some(spec), _) => {
                let is = |n: &usize| {
                    let compressor = self.algorithms[*n].compressor();
                    compressor.spec() == *spec || compressor.name() == spec
                };
                ((1..=last).find(is), spec.clone())
            }
            (None, Some(priority)) => (known(priority), format!("of priority {priority}")),
            (None, None) => (known(last), "to recompress with".to_owned()),
        };
        found.ok_or_else(|| self.no_such(&asked))
    }

    /// Recompresses one page. Returns the number of bytes saved, 0 if the result was not smaller, and `None`
    /// if the page is not selected or is skipped.
    fn recompress_page(
        &self,
        index: u64,
        priority: usize,
        what: &Recompress,
    ) -> Result<Option<usize>, ZramError> {
        let Some(mut slot) = self.table.lock(index) else { return Ok(None) };
        let word = slot.word();
        let Content::Object { bits, priority: now, huge } = word.content() else { return Ok(None) };
        let left_out = word.is_incompressible()
            || now.max(word.tried()) >= priority
            || what.idle && !word.is_idle()
            || what.huge && !huge;
        if left_out {
            return Ok(None);
        }
        let mut buffer = PageBuffer::new(index, self.unit)?;
        let page = buffer.bytes();
        let old_len = {
            let object = self.zpool.obj_read_begin(Handle::new(self.tag, bits));
            let object = object.map_err(|source| ZramError::Pool { index, source })?;
            if object.len() < what.threshold {
                return Ok(None);
            }
            self.restore(index, &object, now, huge, page)?;
            object.len()
        };
        let put = self.algorithms[priority].compress(page, |bytes| {
            let smaller = bytes.len() < old_len.min(huge_from(self.unit));
            smaller.then(|| (bytes.len(), self.zpool.malloc_from(bytes)))
        });
        let Some((len, handle)) = put.map_err(|fault| fault_at(index, fault))? else {
            let tried = word.with_tried(priority);
            let last = priority + 1 == self.algorithms.len();
            slot.replace(if last { tried.incompressible() } else { tried });
            return Ok(Some(0));
        };
        let bits = handle.map_err(|source| ZramError::Pool { index, source })?.backend_bits();
        let new = Word::new(Content::Object { bits, priority, huge: false }).idle(word.is_idle());
        self.exchange(slot, new);
        Ok(Some(old_len - len))
    }
}
