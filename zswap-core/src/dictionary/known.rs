//! The trained dictionaries that are in use. A pool's compressor can be built again from its name only here: a name has
//! the fingerprint of a dictionary, not its bytes.

use std::sync::{Arc, Weak};

use compressors::{Compressor, Zstd};
use zpage::BuiltCompressor;
use zpool_base::contained::Contained;
use zpool_base::lockdep::{self, Rank};

use crate::sync::Mutex;

/// Knows each trained dictionary for as long as a pool or a segment of the device keeps its codec.
///
/// Lock: a leaf mutex, held to look a dictionary up or to add one. No codec is dropped under it: a look-up takes its
/// own reference along.
#[derive(Debug, Default)]
pub(crate) struct KnownDictionaries(Mutex<Vec<(String, Weak<Zstd>)>>);

impl KnownDictionaries {
    fn with<T>(&self, change: impl FnOnce(&mut Vec<(String, Weak<Zstd>)>) -> T) -> T {
        let _held = lockdep::acquire(Rank::Leaf);
        change(&mut self.0.lock())
    }

    /// Adds a codec under its name. Forgets those that nobody keeps.
    pub(crate) fn add(&self, name: String, codec: &Arc<Zstd>) {
        self.with(|known| {
            known.retain(|(known, codec)| *known != name && codec.strong_count() > 0);
            known.push((name, Arc::downgrade(codec)));
        });
    }

    /// Returns the codec of this canonical name that is in use.
    pub(crate) fn codec(&self, name: &str) -> Option<Arc<Zstd>> {
        self.with(|known| known.iter().find(|(known, _)| known == name)?.1.upgrade())
    }

    /// Returns the codec of this canonical name as the compressor of a pool.
    pub(crate) fn compressor(&self, name: &str) -> Option<BuiltCompressor> {
        let compressor: Arc<dyn Compressor> = self.codec(name)?;
        Some(BuiltCompressor { compressor: Contained::new(compressor), key: name.to_owned() })
    }

    fn in_use(&self) -> impl Iterator<Item = Arc<Zstd>> {
        (0..)
            .map_while(|at| self.with(|known| known.get(at).map(|(_, codec)| codec.upgrade())))
            .flatten()
    }

    /// Returns the number of dictionaries that are in use.
    pub(crate) fn count(&self) -> usize {
        self.in_use().count()
    }

    /// Returns the heap bytes of all dictionaries that are in use, with their prepared forms.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.in_use().fold(0, |sum, codec| sum.saturating_add(codec.dictionary_bytes()))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_dictionary_is_known_and_counts_as_long_as_somebody_keeps_it() {
        let known = KnownDictionaries::default();
        let codec =
            |word: &[u8]| Arc::new(Zstd::default().with_dictionary(word.repeat(9)).unwrap());
        let (first, second) = (codec(b"what pages have "), codec(b"what others have "));
        known.add(first.spec(), &first);
        known.add(second.spec(), &second);
        assert_eq!(known.count(), 2);
        assert_eq!(known.memory_bytes(), first.dictionary_bytes() + second.dictionary_bytes());
        let name = first.spec();
        let built = known.compressor(&name).unwrap();
        assert_eq!((built.compressor.spec(), &built.key), (name.clone(), &name));
        drop(first);
        assert_eq!(known.count(), 2, "a pool keeps it");
        drop(built);
        assert_eq!(known.memory_bytes(), second.dictionary_bytes());
        assert!(known.compressor(&name).is_none() && known.codec("zstd").is_none());
        known.add(second.spec(), &second);
        assert_eq!(known.with(|known| known.len()), 1, "the dead one is forgotten");
    }
}
