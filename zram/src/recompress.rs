//! Recompresses pages with a denser algorithm.
//!
//! The slot's lock is held throughout, so other threads see either the old object or the new one. A
//! result that is not smaller is dropped, and the slot records the priority that was tried; after the
//! highest priority the page is marked incompressible.

use zpage::PAGE_SIZE;
use zpool_api::Handle;

use crate::Zram;
use crate::error::ZramError;
use crate::page::{HUGE_FROM, fault_at};
use crate::word::{Content, Word};

/// Which pages [`Zram::recompress`] compresses again, with which algorithm, and how many. Without a filter:
/// all that have an object.
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
    /// All pages, with the algorithm of the highest priority.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only pages marked idle.
    pub fn idle(mut self) -> Self {
        self.idle = true;
        self
    }

    /// Only huge pages: those stored uncompressed.
    pub fn huge(mut self) -> Self {
        self.huge = true;
        self
    }

    /// Only pages whose objects have at least this many bytes.
    pub fn threshold(mut self, bytes: usize) -> Self {
        self.threshold = bytes;
        self
    }

    /// Compresses at most this many pages, whether or not they get smaller.
    pub fn max_pages(mut self, pages: u64) -> Self {
        self.max_pages = Some(pages);
        self
    }

    /// Uses this algorithm, by spec or name. Takes precedence over [`priority`](Self::priority).
    pub fn algorithm(mut self, spec: &str) -> Self {
        self.algorithm = Some(spec.to_owned());
        self
    }

    /// Uses the algorithm of this priority, from 1.
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
    /// Pages that did not get smaller. They are not tried again with this algorithm until they are
    /// written.
    pub not_smaller: u64,
    /// Bytes by which the objects shrank.
    pub bytes_saved: u64,
}

impl Zram {
    /// Recompresses pages. Skips pages that were already compressed, or tried, with an algorithm of the same
    /// or a higher priority.
    ///
    /// An error leaves its page unchanged; pages before it stay recompressed.
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
    /// [`ZramError::NoSuchAlgorithm`] if the disk has no algorithm of that name or priority, or none to
    /// recompress with; [`ZramError::Pool`] or [`ZramError::Codec`] if the backend or a codec fails;
    /// [`ZramError::Reentrant`] from inside a codec or backend.
    ///
    /// # Blocking
    /// Sleeps in codec and backend, under the lock of the page at hand.
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

    /// Recompresses one page. Returns the bytes saved, 0 if the result was not smaller, or `None` if the
    /// page is not eligible.
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
        let mut page = [0; PAGE_SIZE];
        let old_len = {
            let object = self.zpool.obj_read_begin(Handle::new(self.tag, bits));
            let object = object.map_err(|source| ZramError::Pool { index, source })?;
            if object.len() < what.threshold {
                return Ok(None);
            }
            self.restore(index, &object, now, huge, &mut page)?;
            object.len()
        };
        let put = self.algorithms[priority].compress(&page, |bytes| {
            let smaller = bytes.len() < old_len.min(HUGE_FROM);
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
