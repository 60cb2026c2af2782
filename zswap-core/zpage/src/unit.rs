//! The unit: how many bytes a store or a disk compresses at a time. It is a page or up to sixteen pages.

use crate::PAGE_SIZE;

/// The largest unit in bytes: 64 KiB.
pub const MOST_UNIT: usize = 16 * PAGE_SIZE;

/// A number of bytes that is no unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("units of {bytes} bytes do not exist: use 4096, 8192, 16384, 32768 or 65536")]
pub struct UnitError {
    /// The number of bytes.
    pub bytes: usize,
}

/// Returns `bytes` if it is a unit: 4096, 8192, 16384, 32768 or 65536.
///
/// ```
/// use zpage::{UnitError, check_unit};
///
/// assert_eq!(check_unit(32 << 10), Ok(32768));
/// assert_eq!(check_unit(10_000), Err(UnitError { bytes: 10_000 }));
/// ```
///
/// # Errors
/// [`UnitError`] if it is not.
pub const fn check_unit(bytes: usize) -> Result<usize, UnitError> {
    if bytes.is_power_of_two() && PAGE_SIZE <= bytes && bytes <= MOST_UNIT {
        Ok(bytes)
    } else {
        Err(UnitError { bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_lengths_are_units() {
        let units: Vec<_> = (0..=1 << 18).filter(|bytes| check_unit(*bytes).is_ok()).collect();
        assert_eq!(units, [4096, 8192, 16384, 32768, 65536]);
        assert!(check_unit(usize::MAX).is_err());
    }
}
