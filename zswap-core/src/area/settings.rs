//! The settings of an area that gets pools of its own.

use crate::moves::promotion::Promotion;

/// Settings for an area ([`Zswap::add_area`](crate::Zswap::add_area)). Each field gives its default.
///
/// ```
/// use zswap_core::AreaSettings;
/// let settings = AreaSettings::default().max_pool_bytes(64 << 20).writeback_enabled(false);
/// assert_eq!(settings.zpool, None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AreaSettings {
    /// The backend's name. Default: the one that the rest of the store uses when the area is added.
    pub zpool: Option<String>,
    /// The compressor's spec. Default: the one that the rest of the store uses when the area is added.
    pub compressor: Option<String>,
    /// The limit on the bytes of the area's pool pages that hold objects. The store's own limits hold as well.
    /// Default: no limit but those.
    pub max_pool_bytes: Option<usize>,
    /// When the store is at its own limit, pages of an area whose pools hold at most this many bytes are not
    /// written back for the pages of other areas, as long as anything else can be. It reserves no room. Default: 0.
    pub protected_pool_bytes: usize,
    /// Whether pages of the area may be written to the device. Default: yes.
    pub writeback_enabled: bool,
    /// When a page that is loaded from the device comes back into a pool. Default: as in the rest of the store.
    pub promotion: Option<Promotion>,
}

impl Default for AreaSettings {
    fn default() -> Self {
        AreaSettings {
            zpool: None,
            compressor: None,
            max_pool_bytes: None,
            protected_pool_bytes: 0,
            writeback_enabled: true,
            promotion: None,
        }
    }
}

impl AreaSettings {
    /// Sets [`AreaSettings::zpool`].
    #[must_use]
    pub fn zpool(self, name: &str) -> Self {
        AreaSettings { zpool: Some(name.to_owned()), ..self }
    }

    /// Sets [`AreaSettings::compressor`].
    #[must_use]
    pub fn compressor(self, spec: &str) -> Self {
        AreaSettings { compressor: Some(spec.to_owned()), ..self }
    }

    /// Sets [`AreaSettings::max_pool_bytes`].
    #[must_use]
    pub fn max_pool_bytes(self, bytes: usize) -> Self {
        AreaSettings { max_pool_bytes: Some(bytes), ..self }
    }

    /// Sets [`AreaSettings::protected_pool_bytes`].
    #[must_use]
    pub fn protected_pool_bytes(self, bytes: usize) -> Self {
        AreaSettings { protected_pool_bytes: bytes, ..self }
    }

    /// Sets [`AreaSettings::writeback_enabled`].
    #[must_use]
    pub fn writeback_enabled(self, enabled: bool) -> Self {
        AreaSettings { writeback_enabled: enabled, ..self }
    }

    /// Sets [`AreaSettings::promotion`].
    #[must_use]
    pub fn promotion(self, promotion: Promotion) -> Self {
        AreaSettings { promotion: Some(promotion), ..self }
    }
}
