//! Cleaning: moves the objects of the emptiest segments into a new one, so that the old ones become free.
//!
//! A segment that is being cleaned is pinned: it is neither discarded nor written until its objects' entries were
//! compared. Before any of its objects is moved, all that an entry still names are opened ([`seal`](super::seal)).
//! A segment that cannot be read, or holds a damaged object, is left as it is, and set aside.
//!
//! # When it ends
//! Each segment that is written takes one free segment, and frees those that it empties. Cleaning ends when it
//! has freed one segment more than it took, when no segment is worth cleaning, or after [`MOST_WRITES`] segments. A
//! segment is worth cleaning only if that gains room for a unit, so segments full of live objects are not moved
//! around.

use core::time::Duration;

use zpool_base::lockdep::might_sleep;
use zpool_base::patience::Patience;

use super::address::Address;
use super::buffer::{CleaningMemory, MOST_VICTIMS};
use super::draft::Draft;
use super::format::{LISTED, Listed, retain};
use super::seal::{Place, Sealed};
use super::state::Segments;
use super::table::Victim;
use crate::device::DeviceError;
use crate::sync::MODEL;

/// The most segments that one call writes.
const MOST_WRITES: usize = 32;
/// After this many segments that could not be read, a call ends.
const MOST_FAILURES: usize = 4;
/// The most segments that are left out one after another, because their codecs keep others out of a draft.
const MOST_LEFT_OUT: usize = 8;

/// If other threads take the segments that cleaning frees, a writer gives up after this many attempts.
const MOST_ATTEMPTS: usize = 1000;
/// If cleaning fails to read segments, and frees none, it is tried this often.
const MOST_FAILED: usize = 16;
/// If no segment is free because other threads use them, a writer waits at most this long.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The entries that name objects on the device.
pub trait Entries {
    /// Returns whether the entry with this key names this object.
    fn holds(&self, key: u64, at: Address) -> bool;

    /// Lets the entry name `new` if it still names `old`. Returns whether it did. `old` stays allocated during the
    /// call, so an equal address means the same object.
    fn replace(&self, key: u64, old: Address, new: Address) -> bool;
}

/// What a call of [`Segments::clean`] did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Cleaned {
    /// Segments that became free, or do so when their last reader ends.
    pub segments: u64,
    /// Segments that were written with the objects of those.
    pub written: u64,
    /// Objects that were moved.
    pub objects: u64,
    /// Whether the call waited for another thread that cleaned, instead of cleaning itself.
    pub waited: bool,
    /// The first error of a segment that could not be read, or holds a damaged object. It was set aside.
    pub failed: Option<DeviceError>,
}

/// What was done for one segment that cleaning fills.
#[derive(Default)]
struct Once {
    /// Whether it was written.
    written: bool,
    /// Objects that were moved to it.
    objects: u64,
    /// The first error of a segment that could not be read.
    failed: Option<DeviceError>,
}

/// What a draft was filled with.
#[derive(Default)]
struct Filled {
    /// Segments that gave objects.
    givers: u32,
    /// The last of them.
    giver: Option<u32>,
    /// Whether an object did not fit.
    full: bool,
    /// Whether a segment was passed by, since the draft has no room for its codecs.
    passed_by: bool,
}

/// The right to clean. One thread has it at a time.
struct Cleaning<'a> {
    segments: &'a Segments,
    memory: Option<CleaningMemory>,
}

impl Cleaning<'_> {
    /// Puts the segments that were being cleaned back on their lists. Returns how many hold no object any more.
    fn put_back(&mut self) -> u64 {
        self.put_back_some(0, None)
    }

    /// Puts all but the first `kept` segments and the segment `last` back on their lists.
    fn put_back_all_but(&mut self, kept: usize, last: u32) {
        self.put_back_some(kept, Some(last));
        if let Some(memory) = &mut self.memory {
            memory.victims.push(last);
        }
    }

    fn put_back_some(&mut self, kept: usize, but: Option<u32>) -> u64 {
        let Some(memory) = &mut self.memory else { return 0 };
        // The device may have forked, and returned in the child.
        if !self.segments.is_here() {
            return 0;
        }
        let mut emptied = 0;
        for segment in memory.victims.drain(kept..).filter(|segment| Some(*segment) != but) {
            let (empty, released) = self.segments.with(|table| {
                let empty = table.is_empty(segment);
                table.figures.cleaned_segments += u64::from(empty);
                table.list(segment);
                (empty, table.unpin(segment))
            });
            emptied += u64::from(empty);
            if released {
                self.segments.release(segment);
            }
        }
        emptied
    }
}

impl Drop for Cleaning<'_> {
    fn drop(&mut self) {
        if !self.segments.is_here() {
            core::mem::forget(self.memory.take());
            return;
        }
        self.put_back();
        let memory = self.memory.take();
        self.segments.with_state(|state| {
            state.memory = memory;
            state.cleaner = None;
        });
        self.segments.cleaned.notify_all();
    }
}

impl Segments {
    /// Moves the objects of the emptiest segments together, until a segment more is free, no segment is worth
    /// cleaning, or `stop` returns true. `stop` is asked before each segment that is read. If another thread
    /// cleans, waits until it has finished, and does nothing else.
    ///
    /// # Errors
    /// The device's error if a segment cannot be written; [`DeviceError::OutOfMemory`] if there is no memory for the
    /// record of a segment; [`DeviceError::Forked`] in a child after `fork`. No object is lost, and those that were
    /// moved stay where they are now. A segment that cannot be read is no error: [`Cleaned::failed`].
    ///
    /// # Blocking
    /// Blocks in the device, and while another thread cleans.
    pub fn clean(
        &self,
        entries: &dyn Entries,
        stop: &dyn Fn() -> bool,
    ) -> Result<Cleaned, DeviceError> {
        might_sleep("cleaning segments");
        if !self.is_here() {
            return Err(DeviceError::Forked);
        }
        let mut cleaned = Cleaned::default();
        let Some(mut cleaning) = self.begin_cleaning(&mut cleaned.waited) else {
            return Ok(cleaned);
        };
        while cleaned.written < MOST_WRITES as u64 && !stop() {
            let once = self.clean_once(&mut cleaning, entries, stop)?;
            cleaned.segments += cleaning.put_back();
            cleaned.objects += once.objects;
            cleaned.written += u64::from(once.written);
            if cleaned.segments > cleaned.written {
                break;
            }
            cleaned.failed = cleaned.failed.or(once.failed);
            if !once.written {
                break;
            }
        }
        Ok(cleaned)
    }

    /// Begins a segment. If none is free, cleans some; if other threads use them, waits for those: for cleaning as
    /// long as it takes, otherwise at most ten seconds. Takes a segment that could not be written only if nothing
    /// else helps.
    ///
    /// # Errors
    /// [`DeviceError::Full`] if no segment is free and none is worth cleaning; those of [`Segments::draft`] and
    /// [`Segments::clean`].
    ///
    /// # Blocking
    /// Blocks in the device, and, if `waits`, for other threads that fill or read segments. Pass `false` on a thread that
    /// has a draft itself, which it would wait for. Call it with no segment pinned: its own readers are among those
    /// that it may wait for.
    pub fn draft_or_clean(
        &self,
        entries: &dyn Entries,
        waits: bool,
    ) -> Result<Draft<'_>, DeviceError> {
        let mut patience = Patience::new(usize::MAX, LONGEST_WAIT);
        let (mut attempts, mut failed) = (0, 0);
        loop {
            match self.draft_of_sound() {
                Err(DeviceError::Full { .. }) if attempts < MOST_ATTEMPTS => {
                    let cleaned = self.clean(entries, &|| false)?;
                    if cleaned.segments > cleaned.written || cleaned.waited {
                        attempts += 1;
                    } else if cleaned.failed.is_some() && failed < MOST_FAILED {
                        // What failed is set aside, so the next call reads others.
                        failed += 1;
                    } else if !waits || !self.is_in_flight() || !patience.wait() {
                        // One may have become free since, and those that could not be written are left.
                        return self.draft();
                    }
                }
                draft => return draft,
            }
        }
    }

    /// If another thread cleans, waits until it ends, or a little less, and returns `None`. Returns `None` also if
    /// this thread cleans already: the device has called the store that uses it.
    fn begin_cleaning(&self, waited: &mut bool) -> Option<Cleaning<'_>> {
        // Under the model checker all threads share one system thread, and no device calls a store.
        let me = (!MODEL).then(|| std::thread::current().id());
        let mut state = self.state.lock();
        if let Some(cleaner) = state.cleaner {
            if me.is_none() || cleaner != me {
                *waited = true;
                drop(self.cleaned.wait(state));
            }
            return None;
        }
        let memory = state.memory.take()?;
        state.cleaner = Some(me);
        Some(Cleaning { segments: self, memory: Some(memory) })
    }

    /// Fills one segment from others, and writes it, unless that would gain nothing.
    fn clean_once(
        &self,
        cleaning: &mut Cleaning<'_>,
        entries: &dyn Entries,
        stop: &dyn Fn() -> bool,
    ) -> Result<Once, DeviceError> {
        let mut draft = match self.draft_beyond(0, true) {
            Err(DeviceError::Full { .. }) if self.with(|table| table.forgive()) => {
                self.draft_beyond(0, true)?
            }
            Err(DeviceError::Full { .. }) => return Ok(Once::default()),
            draft => draft?,
        };
        let mut failed = None;
        for left_out in 0..MOST_LEFT_OUT {
            let Some(memory) = &mut cleaning.memory else { return Ok(Once::default()) };
            let filled = self.fill(&mut draft, memory, entries, &mut failed, stop);
            // To move all that is left of one segment gains nothing.
            if filled.full || filled.givers > 1 {
                let CleaningMemory { moved, .. } = memory;
                let installed = draft.write()?.install(|number, new| {
                    let (key, old) = moved[number];
                    let replaced = entries.replace(key, old, new);
                    if replaced {
                        self.give_up(old);
                    }
                    replaced
                });
                self.with(|table| table.figures.moved_objects += installed as u64);
                return Ok(Once { written: true, objects: installed as u64, failed });
            }
            let Some(giver) = filled.giver.filter(|_| filled.passed_by) else { break };
            // Its codecs kept others out. Without it they may fit together.
            draft.clear();
            cleaning.put_back_all_but(left_out, giver);
        }
        Ok(Once { failed, ..Once::default() })
    }

    /// Copies the objects of the emptiest segments into a draft, until it is full or there are no more.
    fn fill(
        &self,
        draft: &mut Draft<'_>,
        memory: &mut CleaningMemory,
        entries: &dyn Entries,
        failed: &mut Option<DeviceError>,
        stop: &dyn Fn() -> bool,
    ) -> Filled {
        let CleaningMemory { bytes, moved, victims } = memory;
        moved.clear();
        let (mut filled, mut failures) = (Filled::default(), 0);
        while !filled.full && victims.len() < MOST_VICTIMS && failures < MOST_FAILURES && !stop() {
            let next = self.with(|table| {
                let victim = table.victim().or_else(|| {
                    // What failed in this call would fail again.
                    let again = filled.givers < 2 && failed.is_none();
                    again.then(|| table.offer_again()).and_then(|()| table.victim())
                })?;
                Some((victim, table.codecs(&victim).clone()))
            });
            let Some((victim, codecs)) = next else { break };
            if !draft.takes(&codecs) {
                // It stays as it is. Until it is put back it is on no list, so it is not found again.
                victims.push(victim.segment);
                filled.passed_by = true;
                continue;
            }
            if let Err(error) = self.read_to_clean(&victim, bytes, entries) {
                failures += 1;
                failed.get_or_insert(error);
                if !self.is_here() {
                    break;
                }
                let released = self.with(|table| {
                    table.set_aside(victim.segment);
                    table.unpin(victim.segment)
                });
                if released {
                    self.release(victim.segment);
                }
                continue;
            }
            victims.push(victim.segment);
            let before = draft.len();
            for Listed { key, at } in victim.listed(self.layout, bytes) {
                // An entry may have changed since the object was opened.
                if !entries.holds(key, at) {
                    continue;
                }
                let object = &bytes[at.offset()..at.offset() + at.len()];
                filled.full = !draft.push(key, codecs.get(at.codec()), object);
                if filled.full {
                    break;
                }
                moved.push((key, at));
            }
            if draft.len() > before {
                filled.givers += 1;
                filled.giver = Some(victim.segment);
            }
        }
        filled
    }

    /// Reads a segment, and opens its directory and all objects that entries name. The directory then lists only
    /// those.
    fn read_to_clean(
        &self,
        victim: &Victim,
        bytes: &mut [u8],
        entries: &dyn Entries,
    ) -> Result<(), DeviceError> {
        let &Victim { segment, attempt, directory, objects } = victim;
        let len = directory + objects * LISTED + self.seal.tag_len();
        let block = self.geometry().block_bytes;
        let read = &mut bytes[..len.next_multiple_of(block)];
        self.read(segment, 0, read)?;
        let open = |what, offset, sealed: &mut [u8], len| {
            let place = Place { attempt, segment, offset };
            if self.seal.open(what, place, sealed, len) {
                return Ok(());
            }
            Err(DeviceError::Corrupt { segment: u64::from(segment), offset })
        };
        let (before, list) = read.split_at_mut(directory);
        open(Sealed::Directory, directory, list, objects * LISTED)?;
        retain(self.layout, segment, &mut list[..objects * LISTED], |Listed { key, at }| {
            if !entries.holds(key, at) {
                return Ok(false);
            }
            let what = Sealed::Object { key, codec: at.codec() };
            open(what, at.offset(), &mut before[at.offset()..], at.len()).map(|()| true)
        })
    }
}
