//! The codecs that are in use: those of the pools, and those of pages on the device whose pool is gone.

use std::sync::{Arc, Weak};

use zpage::Codec;
use zpool_base::lockdep::{self, Rank};

use crate::sync::Mutex;

/// Knows each codec of a store for as long as a pool or a segment of the device keeps it. Pools whose compressors
/// have the same canonical name share a codec. So the number of codecs on the device does not grow with the number
/// of switches, and a segment, which has room for few codecs, can take pages of many pools.
///
/// Lock: a leaf mutex, held to look a codec up or to add one. No codec is called or dropped under it.
#[derive(Debug, Default)]
pub(crate) struct KeptCodecs(Mutex<Vec<(String, Weak<Codec>)>>);

impl KeptCodecs {
    fn with<T>(&self, change: impl FnOnce(&mut Vec<(String, Weak<Codec>)>) -> T) -> T {
        let _held = lockdep::acquire(Rank::Leaf);
        change(&mut self.0.lock())
    }

    /// Returns the codec of this canonical name that is in use; `fresh` if there is none. Forgets those that nobody
    /// keeps.
    pub(crate) fn shared(&self, name: &str, fresh: &Arc<Codec>) -> Arc<Codec> {
        let name_of_fresh = name.to_owned();
        self.with(|codecs| {
            codecs.retain(|(_, codec)| codec.strong_count() > 0);
            let known = codecs.iter().find(|(known, _)| known == name);
            known.and_then(|(_, codec)| codec.upgrade()).unwrap_or_else(|| {
                codecs.push((name_of_fresh, Arc::downgrade(fresh)));
                fresh.clone()
            })
        })
    }

    /// Returns the heap bytes of all contexts of these codecs.
    pub(crate) fn context_bytes(&self) -> usize {
        (0..)
            .map_while(|at| self.with(|codecs| codecs.get(at).map(|(_, codec)| codec.clone())))
            .filter_map(|codec| codec.upgrade())
            .fold(0, |sum, codec| sum.saturating_add(codec.memory_bytes()))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use zpage::Recipe;

    #[test]
    fn a_codec_is_shared_and_counts_as_long_as_somebody_keeps_it() {
        let fresh =
            || Arc::new(Codec::new(Recipe::builtin().compressor("null").unwrap().compressor));
        let kept = KeptCodecs::default();
        let (first, second) = (kept.shared("a", &fresh()), kept.shared("b", &fresh()));
        let other = fresh();
        assert!(Arc::ptr_eq(&kept.shared("a", &other), &first) && !Arc::ptr_eq(&first, &second));
        let empty = kept.context_bytes() / 2;
        first.prepare().unwrap();
        let prepared = kept.context_bytes() - empty;
        assert!(prepared > empty);
        second.prepare().unwrap();
        assert_eq!(kept.context_bytes(), 2 * prepared);
        drop(first);
        assert_eq!(kept.context_bytes(), prepared);
        assert!(Arc::ptr_eq(&kept.shared("a", &other), &other), "the first is forgotten");
        assert_eq!(kept.with(|codecs| codecs.len()), 2);
    }
}
