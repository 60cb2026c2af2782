//! Which compressor to use if none is named, and why.

/// The compressor to use if none is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DefaultCompressor {
    /// The compressor's name, which is also its spec.
    pub name: &'static str,
    /// Why this compressor is the default: what was measured on processors such as this one, or which cargo features
    /// are off.
    pub reason: &'static str,
}

/// Returns the compressor to use if none is named: `linewords` on processors where it was measured faster than
/// `lz4` in both directions, elsewhere `lz4`. If the cargo feature of one of the two is off, returns the other. If
/// both features are off, returns `null`.
///
/// The result depends on the processor, so it can differ between machines. It does not change while a program
/// runs.
///
/// ```
/// let default = compressors::default_compressor();
/// println!("{}: {}", default.name, default.reason);
/// assert!(compressors::build(default.name).is_ok());
/// ```
#[must_use]
pub fn default_compressor() -> DefaultCompressor {
    #[cfg(all(feature = "lz4", feature = "linewords"))]
    {
        let here = ::linewords::processor();
        let name = if here.faster_than_lz4 { crate::names::LINEWORDS } else { crate::names::LZ4 };
        DefaultCompressor { name, reason: here.reason }
    }
    #[cfg(all(feature = "lz4", not(feature = "linewords")))]
    {
        DefaultCompressor { name: crate::names::LZ4, reason: "the feature `linewords` is off" }
    }
    #[cfg(all(not(feature = "lz4"), feature = "linewords"))]
    {
        DefaultCompressor { name: crate::names::LINEWORDS, reason: "the feature `lz4` is off" }
    }
    #[cfg(not(any(feature = "lz4", feature = "linewords")))]
    {
        DefaultCompressor {
            name: crate::names::NULL,
            reason: "the features `linewords` and `lz4` are off",
        }
    }
}

impl Default for DefaultCompressor {
    /// Does what [`default_compressor`] does.
    fn default() -> Self {
        default_compressor()
    }
}

#[cfg(test)]
mod tests {
    use super::default_compressor;

    #[test]
    fn the_default_is_built_from_its_name() {
        let default = default_compressor();
        assert_eq!(crate::registry::build(default.name).unwrap().spec(), default.name);
    }

    #[cfg(all(feature = "lz4", feature = "linewords"))]
    #[test]
    fn the_default_is_linewords_only_where_it_was_measured_faster() {
        let here = ::linewords::processor();
        let expected = if here.faster_than_lz4 { "linewords" } else { "lz4" };
        assert_eq!(
            (default_compressor().name, default_compressor().reason),
            (expected, here.reason)
        );
    }
}
