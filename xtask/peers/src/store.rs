//! This project's page store, with one of its backends and codecs.

use measure::store::Store;
use zswap_core::Zswap;

use crate::error::{Error, Result};

/// Makes the contestant. If it refuses or loses a page, its turn ends.
pub(crate) fn store(zpool: &str, compressor: &str) -> Result<Store<Error>> {
    let store = Zswap::builder().zpool(zpool).compressor(compressor).build();
    Ok(Store::new(store.map_err(Error::setup)?, |_| false))
}
