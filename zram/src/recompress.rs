//! Pages compressed anew by a denser algorithm.
//!
//! The slot's lock is held throughout, so nobody sees anything but the old object or the new one. A
//! result that is not smaller is dropped, and the slot remembers what was tried; when nothing denser
//! is left to try it is marked incompressible.

use zpage::PAGE_SIZE;
use zpool_api::Handle;

use crate::Zram;
use crate::error::ZramError;
use crate::page::{HUGE_FROM, fault_at};
use crate::word::{Content, Word};

/// Which pages are recompressed, with what, and how many. Without a filter: all that are objects.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[must_use = "says what Zram::recompress is to do"]
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

    /// Only huge pages: those that are kept as they are.
    pub fn huge(mut self) -> Self {
        self.huge = true;
        self
    }

    /// Only pages whose objects have so many bytes or more.
    pub fn threshold(mut self, bytes: usize) -> Self {
        self.threshold = bytes;
        self
    }

    /// At most so many pages are compressed anew, whatever comes of it.
    pub fn max_pages(mut self, pages: u64) -> Self {
        self.max_pages = Some(pages);
        self
    }

    /// With this algorithm, by spec or name.
    pub fn algorithm(mut self, spec: &str) -> Self {
        self.algorithm = Some(spec.to_owned());
        self
    }

    /// With the algorithm of this priority, from 1.
    pub fn priority(mut self, priority: usize) -> Self {
        self.priority = Some(priority);
        self
    }
}

/// What [`Zram::recompress`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Recompressed {
    /// Pages that are smaller now.
    pub recompressed: u64,
    /// Pages that did not get smaller, and are not tried again with this algorithm until they are
    /// written.
    pub not_smaller: u64,
    /// Bytes that the objects are smaller.
    pub bytes_saved: u64,
}

impl Zram {
    /// Compresses pages anew. Pages that have been compressed with an algorithm of that priority or a
    /// higher one, or that were tried with it, are left alone.
    ///
    /// Sleeps in codec and backend, under the lock of the page at hand. An error leaves that page as it
    /// was; pages before it stay recompressed. [`ZramError::NoSuchAlgorithm`] if the disk has none of
    /// that name or priority, or none but the first.
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

    /// Bytes by which the page's object is smaller now, 0 if it would not be; `None` if the page is not
    /// eligible.
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
