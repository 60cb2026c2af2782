//! What lz4 and lz4hc have in common: a codec with one parameter and perhaps a dictionary, and its context.

use std::fmt;
use std::sync::Arc;

use crate::boxed::try_box;
use crate::compressor::CompressorCtx;
use crate::dictionary::{Content, Dictionary};
use crate::error::CompressorError;
use crate::liblz4::{self, DICTIONARY_REACH, Library, Prepared, State};
use crate::spec::{DICT_KEY, Spec, bad_int, write_spec};

/// A codec. Clones share the dictionary.
#[derive(Clone)]
pub(crate) struct Codec<L> {
    /// The acceleration or the level.
    parameter: i32,
    dictionary: Option<Arc<Prepared<L>>>,
}

impl<L: Library> Codec<L> {
    /// Makes a codec. Fails if the parameter is out of range, if the dictionary is too short, or if there is no memory
    /// to prepare it.
    pub(crate) fn new(
        parameter: i32,
        dictionary: Option<Arc<[u8]>>,
    ) -> Result<Self, CompressorError> {
        if !L::ALLOWED.contains(&parameter) {
            return Err(bad_int(L::NAME, L::KEY, parameter, &L::ALLOWED));
        }
        let dictionary = match dictionary {
            None => None,
            Some(bytes) => {
                let bytes = Dictionary::new(L::NAME, Content::Shared(bytes), DICTIONARY_REACH)?;
                Some(Arc::new(Prepared::new(bytes, parameter)?))
            }
        };
        Ok(Codec { parameter, dictionary })
    }

    pub(crate) fn from_spec(spec: &Spec) -> Result<Self, CompressorError> {
        spec.refuse_dictionary()?;
        spec.allow_keys(&[L::KEY])?;
        Self::new(spec.int(L::KEY, L::DEFAULT, L::ALLOWED)?, None)
    }

    pub(crate) fn spec(&self) -> String {
        let parameter = (self.parameter != L::DEFAULT).then(|| self.parameter.to_string());
        let dict = self.dictionary.as_ref().map(|d| d.bytes.fingerprint());
        write_spec(L::NAME, &[(L::KEY, parameter), (DICT_KEY, dict)])
    }

    pub(crate) fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        let ctx = Ctx { state: State::new()?, codec: self.clone() };
        Ok(try_box(L::NAME, ctx)?)
    }

    /// Decompresses `src` and fills all of `dst`.
    pub(crate) fn decompress(&self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        liblz4::decompress(L::NAME, src, dst, self.dictionary.as_ref().map(|d| &d.bytes))
    }
}

impl<L: Library> Default for Codec<L> {
    fn default() -> Self {
        Codec { parameter: L::DEFAULT, dictionary: None }
    }
}

impl<L: Library> fmt::Debug for Codec<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(L::NAME)
            .field(L::KEY, &self.parameter)
            .field("dictionary", &self.dictionary.as_ref().map(|d| &d.bytes))
            .finish()
    }
}

struct Ctx<L> {
    state: State<L>,
    codec: Codec<L>,
}

impl<L: Library> fmt::Debug for Ctx<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ctx").field("codec", &self.codec).finish_non_exhaustive()
    }
}

impl<L: Library> CompressorCtx for Ctx<L> {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
        let Codec { parameter, dictionary } = &self.codec;
        self.state.compress(src, dst, *parameter, dictionary.as_deref())
    }

    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        self.codec.decompress(src, dst)
    }

    fn memory_bytes(&self) -> usize {
        self.state.memory_bytes() + size_of::<Self>()
    }
}
