//! What values are compressed with: a codec for each range of lengths, and dictionaries for short values.
//!
//! A dictionary has a number, which is in the words of the entries that need it. The number is free again when the
//! dictionary is not the current one and no entry has the number. An entry counts from before its value is compressed
//! until it has left the index, and a reader takes its reference while it holds the lock of the entry's shard. So a
//! number that a reader finds in an entry is never that of another dictionary.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use compressors::Compressor;
use zpage::Codec;
use zpool_base::contained::Contained;
use zpool_base::lockdep::{Rank, acquire};
use zpool_base::sync::RwLock;

use crate::frugal::{Allowance, Frugal};
use crate::invariant::broken;
use crate::word::CodecNumber;

/// The most bytes of a value that is compressed at once. Longer ones are cut into frames of this length.
pub(crate) const FRAME: usize = 256 << 10;

/// The longest values that dictionaries are for, in bytes.
pub(crate) const SHORT: usize = 4096;

/// The lengths in bytes that contexts are prepared for. A context for short values takes a fraction of the memory of
/// one for frames. zstd has other parameters for up to 16 KiB than for more.
const LENGTHS: [usize; 3] = [SHORT, 16 << 10, FRAME];

/// The codecs of a cache.
#[derive(Debug)]
pub(crate) struct Codecs {
    plain: [Codec; LENGTHS.len()],
    dictionaries: RwLock<Dictionaries>,
    /// The number of the current dictionary, to read without the lock.
    current: AtomicUsize,
    allowance: Arc<Allowance>,
}

/// Makes a codec for values of up to `len` bytes.
fn codec(compressor: Arc<dyn Compressor>, allowance: &Arc<Allowance>, len: usize) -> Codec {
    let frugal: Arc<dyn Compressor> = Arc::new(Frugal::new(compressor, allowance.clone()));
    Codec::new(Contained::new(frugal)).for_unit(len)
}

#[derive(Debug, Default)]
struct Dictionaries {
    /// A dictionary with the number n is at place n. Place 0 is empty.
    places: [Option<Arc<Dictionary>>; CodecNumber::COUNT],
}

/// A dictionary that is in use.
#[derive(Debug)]
pub(crate) struct Dictionary {
    number: CodecNumber,
    codec: Codec,
    /// The heap bytes of the dictionary and its prepared forms.
    shared_bytes: usize,
    /// The entries that need it.
    entries: AtomicUsize,
}

/// A reference to what a value is to be compressed with, or was.
#[derive(Debug)]
pub(crate) enum InUse<'a> {
    Plain(&'a Codec),
    Dictionary(Arc<Dictionary>),
}

impl InUse<'_> {
    pub(crate) fn codec(&self) -> &Codec {
        match self {
            InUse::Plain(codec) => codec,
            InUse::Dictionary(dictionary) => &dictionary.codec,
        }
    }
}

impl Codecs {
    /// `allowance` bounds the memory of all contexts.
    pub(crate) fn new(
        compressor: &Contained<Arc<dyn Compressor>>,
        allowance: Arc<Allowance>,
    ) -> Self {
        Codecs {
            plain: LENGTHS.map(|len| codec((**compressor).clone(), &allowance, len)),
            dictionaries: RwLock::default(),
            current: AtomicUsize::new(0),
            allowance,
        }
    }

    /// Changes the bytes that all contexts may take. Those that are there stay.
    pub(crate) fn set_allowance(&self, bytes: usize) {
        self.allowance.set(bytes);
    }

    /// Returns what a value of `len` bytes, at most [`FRAME`], is compressed with. An entry of the returned number
    /// counts from now on; the caller gives it back with [`Codecs::release`].
    pub(crate) fn claim(&self, len: usize) -> (InUse<'_>, CodecNumber) {
        if len <= SHORT && self.current.load(SeqCst) != 0 {
            let _rank = acquire(Rank::Leaf);
            let dictionaries = self.dictionaries.read();
            // Read again: the number changes only under the lock.
            if let Some(dictionary) = &dictionaries.places[self.current.load(SeqCst)] {
                dictionary.entries.fetch_add(1, SeqCst);
                return (InUse::Dictionary(dictionary.clone()), dictionary.number);
            }
        }
        (InUse::Plain(self.plain_for(len)), CodecNumber::PLAIN)
    }

    /// Returns the codec without dictionary for values of `len` bytes.
    pub(crate) fn plain_for(&self, len: usize) -> &Codec {
        let class = LENGTHS.iter().position(|&most| len <= most).unwrap_or(LENGTHS.len() - 1);
        &self.plain[class]
    }

    /// Returns what a value was compressed with. Values without a dictionary are decompressed with the contexts for
    /// short ones, whatever their length, since decompression needs the same memory for all. The caller holds the
    /// lock of the shard of an entry with this number.
    pub(crate) fn of(&self, number: CodecNumber) -> InUse<'_> {
        if number == CodecNumber::PLAIN {
            return InUse::Plain(&self.plain[0]);
        }
        let _rank = acquire(Rank::Leaf);
        match &self.dictionaries.read().places[number.index()] {
            Some(dictionary) => InUse::Dictionary(dictionary.clone()),
            None => {
                broken(format_args!("dictionary {} is gone, but an entry needs it", number.index()))
            }
        }
    }

    /// Ends what [`Codecs::claim`] began: an entry has left the index, or never came there.
    pub(crate) fn release(&self, number: CodecNumber) {
        if number == CodecNumber::PLAIN {
            return;
        }
        let _rank = acquire(Rank::Leaf);
        match &self.dictionaries.read().places[number.index()] {
            Some(dictionary) => {
                let before = dictionary.entries.fetch_sub(1, SeqCst);
                assert!(before > 0, "dictionary {} has fewer than no entries", number.index());
            }
            None => broken(format_args!(
                "dictionary {} is gone, but an entry needed it",
                number.index()
            )),
        }
    }

    /// Uses no dictionary for new values.
    pub(crate) fn use_none(&self) {
        let _rank = acquire(Rank::Leaf);
        let _held = self.dictionaries.write();
        self.current.store(0, SeqCst);
    }

    /// Uses a codec with a dictionary for new short values. `shared_bytes` are the heap bytes of the dictionary and its
    /// prepared forms. Returns false if all numbers are taken.
    pub(crate) fn use_dictionary(
        &self,
        compressor: Arc<dyn Compressor>,
        shared_bytes: usize,
    ) -> bool {
        let codec = codec(compressor, &self.allowance, SHORT);
        let _rank = acquire(Rank::Leaf);
        let mut dictionaries = self.dictionaries.write();
        let Some(free) = (1..CodecNumber::COUNT).find(|&n| dictionaries.places[n].is_none()) else {
            return false;
        };
        let number = CodecNumber::at(free);
        let entries = AtomicUsize::new(0);
        dictionaries.places[free] =
            Some(Arc::new(Dictionary { number, codec, shared_bytes, entries }));
        self.current.store(free, SeqCst);
        true
    }

    /// Drops the dictionaries that no entry needs. Returns how many are left besides the current one.
    pub(crate) fn retire(&self) -> usize {
        let mut gone: [Option<Arc<Dictionary>>; CodecNumber::COUNT] = Default::default();
        let mut left = 0;
        {
            let _rank = acquire(Rank::Leaf);
            let mut dictionaries = self.dictionaries.write();
            let current = self.current.load(SeqCst);
            for (number, place) in dictionaries.places.iter_mut().enumerate().skip(1) {
                // No entry can come, since only the current dictionary is claimed, under the lock.
                match place {
                    Some(_) if number == current => (),
                    Some(dictionary) if dictionary.entries.load(SeqCst) == 0 => {
                        gone[number] = place.take();
                    }
                    Some(_) => left += 1,
                    None => (),
                }
            }
        }
        // Their contexts are dropped here, without the lock.
        drop(gone);
        left
    }

    /// Returns whether a value with this number should be compressed again, so that its dictionary can go.
    pub(crate) fn is_old(&self, number: CodecNumber) -> bool {
        number != CodecNumber::PLAIN && number.index() != self.current.load(SeqCst)
    }

    /// Returns how many dictionaries there are.
    pub(crate) fn dictionaries(&self) -> usize {
        let _rank = acquire(Rank::Leaf);
        self.dictionaries.read().places.iter().flatten().count()
    }

    /// Returns the heap bytes of the contexts and dictionaries.
    pub(crate) fn memory_bytes(&self) -> usize {
        let plain: usize = self.plain.iter().map(Codec::memory_bytes).sum();
        let _rank = acquire(Rank::Leaf);
        let dictionaries = self.dictionaries.read();
        let bytes = |held: &Arc<Dictionary>| held.codec.memory_bytes() + held.shared_bytes;
        plain + dictionaries.places.iter().flatten().map(bytes).sum::<usize>()
    }
}

#[cfg(all(test, feature = "zstd", not(miri)))]
mod tests {
    use std::sync::Arc;

    use super::{Codecs, InUse, SHORT};
    use crate::frugal::Allowance;
    use crate::word::CodecNumber;
    use compressors::{Compressor, Zstd};
    use zpool_base::contained::Contained;

    fn codecs() -> Codecs {
        let plain: Arc<dyn Compressor> = Arc::new(Zstd::default());
        Codecs::new(&Contained::new(plain), Arc::new(Allowance::new(64 << 20)))
    }

    fn use_dictionary(codecs: &Codecs, n: usize) -> bool {
        let bytes = format!("what all values have in common, {n}").into_bytes();
        let zstd = Zstd::default().with_dictionary(bytes).unwrap();
        let shared_bytes = zstd.dictionary_bytes();
        codecs.use_dictionary(Arc::new(zstd), shared_bytes)
    }

    #[test]
    fn a_dictionary_stays_while_an_entry_needs_it() {
        let codecs = codecs();
        assert!(matches!(codecs.claim(10), (InUse::Plain(_), CodecNumber::PLAIN)));
        assert!(use_dictionary(&codecs, 1));
        let (one, number) = codecs.claim(SHORT);
        assert!(matches!((&one, number.index()), (InUse::Dictionary(_), 1)));
        assert!(matches!(codecs.claim(SHORT + 1), (InUse::Plain(_), CodecNumber::PLAIN)));
        assert!(use_dictionary(&codecs, 2));
        assert!(codecs.is_old(number) && !codecs.is_old(CodecNumber::PLAIN));
        assert_eq!((codecs.retire(), codecs.dictionaries()), (1, 2));
        assert!(matches!(codecs.of(number), InUse::Dictionary(_)));
        codecs.release(number);
        assert_eq!((codecs.retire(), codecs.dictionaries()), (0, 1));
        codecs.use_none();
        assert_eq!((codecs.retire(), codecs.dictionaries()), (0, 0));
        drop(one);
    }

    #[test]
    fn the_numbers_end() {
        let codecs = codecs();
        for n in 1..CodecNumber::COUNT {
            assert!(use_dictionary(&codecs, n));
            let (_, number) = codecs.claim(1);
            assert_eq!(number.index(), n);
        }
        assert!(!use_dictionary(&codecs, 99));
        assert_eq!(codecs.retire(), CodecNumber::COUNT - 2);
    }

    #[test]
    fn memory_counts() {
        let codecs = codecs();
        let without = codecs.memory_bytes();
        assert!(without < 1000);
        codecs.plain_for(10).prepare().unwrap();
        let short = codecs.memory_bytes();
        codecs.plain_for(100_000).prepare().unwrap();
        assert!(codecs.memory_bytes() > 2 * short);
        let before = codecs.memory_bytes();
        assert!(use_dictionary(&codecs, 1));
        assert!(codecs.memory_bytes() > before);
    }
}
