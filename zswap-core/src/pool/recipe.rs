//! Builds the pools of a store.

use std::sync::Arc;

#[cfg(feature = "zstd")]
use compressors::Compressor;
use zpage::{BuiltCompressor, CodecFault, Recipe, RecipeError};
use zpool_api::PageBudget;
use zpool_base::contained::{Panicked, contain};

#[cfg(feature = "zstd")]
use crate::dictionary::known::KnownDictionaries;
use crate::error::BuildError;
use crate::limits::Limits;
use crate::pool::kept_codecs::KeptCodecs;
use crate::pool::{Ingredients, Pool};

/// The recipe that pools are built from, and their codecs.
#[derive(Debug)]
pub(crate) struct PoolRecipe {
    pub(crate) recipe: Recipe,
    /// The codecs of the pools that it has built.
    pub(crate) codecs: KeptCodecs,
    /// The dictionaries that pools and segments use.
    #[cfg(feature = "zstd")]
    pub(crate) dictionaries: KnownDictionaries,
    /// Whether the contexts of all codecs are for a fault handler.
    pub(crate) in_fault_handler: bool,
    /// Bytes of a page of the store.
    pub(crate) unit: usize,
}

impl PoolRecipe {
    /// Returns the canonical name of the compressor with spec `text`. Specs with and without defaults spelled
    /// out have the same canonical name.
    pub(crate) fn compressor_name(&self, text: &str) -> Result<String, BuildError> {
        Ok(self.compressor(text)?.key)
    }

    /// Returns the compressor with spec `text`. A dictionary that the store has trained is known by its fingerprint for
    /// as long as it is in use.
    fn compressor(&self, text: &str) -> Result<BuiltCompressor, BuildError> {
        #[cfg(feature = "zstd")]
        if let Some(known) = self.dictionaries.compressor(text) {
            return Ok(known);
        }
        self.recipe.compressor(text).map_err(BuildError::of_recipe)
    }

    /// Returns the name of the same compressor without a trained dictionary. It is trained for the shared area, which
    /// drops it when it does not pay there; another area would keep it.
    pub(crate) fn without_dictionary(&self, name: String) -> String {
        #[cfg(feature = "zstd")]
        if let Some(codec) = self.dictionaries.codec(&name) {
            return codec.without_dictionary().spec();
        }
        name
    }

    /// Returns the heap bytes of the contexts and dictionaries of all codecs that are in use.
    pub(crate) fn codec_bytes(&self) -> usize {
        let contexts = self.codecs.context_bytes();
        #[cfg(feature = "zstd")]
        let contexts = contexts.saturating_add(self.dictionaries.memory_bytes());
        contexts
    }

    /// Builds a pool from a backend's name and a compressor's spec. Its pages are charged to the budget of
    /// `limits`.
    pub(crate) fn pool(
        &self,
        zpool_name: &str,
        compressor: &str,
        limits: &Limits,
    ) -> Result<Pool, BuildError> {
        let asked = compressor.to_owned();
        let compressor = self.compressor(compressor)?;
        let charged = Arc::new(PageBudget::part_of(limits.budget().clone()));
        let zpool = self.recipe.zpool(zpool_name, Some(charged.clone()));
        let zpool = zpool.map_err(BuildError::of_recipe)?;
        let zpool_name = zpool_name.to_owned();
        let (in_fault_handler, unit) = (self.in_fault_handler, self.unit);
        let made = contain(|| {
            Pool::new(Ingredients {
                zpool_name,
                zpool,
                compressor,
                asked,
                charged,
                in_fault_handler,
                unit,
            })
        });
        let mut made = made.map_err(|Panicked| BuildError::Panicked { what: "the backend" })?;
        let shared = self.codecs.shared(&made.spec, &made.codec);
        made.codec = shared;
        Ok(made)
    }
}

impl BuildError {
    fn of_recipe(error: RecipeError) -> Self {
        match error {
            RecipeError::Zpool(error) => error.into(),
            RecipeError::Compressor(error) => error.into(),
            RecipeError::Pages(error) => error.into(),
            RecipeError::ObjectsTooSmall { zpool, max, needed } => {
                BuildError::ObjectsTooSmall { zpool, max, needed }
            }
            RecipeError::Panicked { what } => BuildError::Panicked { what },
        }
    }

    /// Converts the error of a context that could not be made.
    pub(crate) fn of_context(fault: CodecFault) -> Self {
        match fault {
            CodecFault::Reentrant => BuildError::Reentrant,
            CodecFault::Failed(error) => error.into(),
        }
    }
}
