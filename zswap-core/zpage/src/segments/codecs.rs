//! The codecs of a segment's objects. They are kept until the segment is discarded, so a pool need not live on for
//! its pages on the device.

use std::sync::Arc;

use super::address::MOST_CODECS;
use crate::Codec;

/// Up to eight codecs.
#[derive(Clone, Debug, Default)]
pub(super) struct CodecList([Option<Arc<Codec>>; MOST_CODECS]);

impl CodecList {
    /// Returns the number of a codec in this list. Adds the codec if it is missing; returns `None` if there is no
    /// room for it.
    pub(super) fn number(&mut self, codec: &Arc<Codec>) -> Option<u8> {
        let is_it = |place: &Option<Arc<Codec>>| {
            place.as_ref().is_none_or(|known| Arc::ptr_eq(known, codec))
        };
        let at = self.0.iter().position(is_it)?;
        self.0[at].get_or_insert_with(|| codec.clone());
        Some(at as u8)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Codec>> {
        self.0.iter().flatten()
    }

    #[expect(clippy::expect_used, reason = "an object's address names a codec of its segment")]
    pub(super) fn get(&self, number: u8) -> &Arc<Codec> {
        self.0[usize::from(number)]
            .as_ref()
            .expect("an address names a codec that its segment lacks")
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::Recipe;

    #[test]
    fn a_codec_has_one_number_and_a_ninth_has_none() {
        let codec =
            || Arc::new(Codec::new(Recipe::builtin().compressor("null").unwrap().compressor));
        let (mut list, all) = (CodecList::default(), [(); 9].map(|()| codec()));
        let numbers = |list: &mut CodecList| all.each_ref().map(|codec| list.number(codec));
        let expected = core::array::from_fn(|n| Some(n as u8).filter(|n| *n < 8));
        assert_eq!((numbers(&mut list), numbers(&mut list)), (expected, expected));
        assert!((0..8).all(|at| Arc::ptr_eq(list.get(at), &all[usize::from(at)])));
        assert_eq!((Arc::strong_count(&all[0]), Arc::strong_count(&all[8])), (2, 1));
    }
}
