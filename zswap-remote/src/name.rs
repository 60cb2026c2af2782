//! The names of stores and of their objects.
//!
//! An object's name has three parts: a random name of the store, the segment, and the number of the attempt to write
//! it. The number counts up over all segments of the device and never recurs. So a name never stands for two
//! different contents, whatever arrives late.

use core::fmt;
use core::str::FromStr;

use crate::error::RemoteError;

const PREFIX: &str = "zswap-";
const DIGITS: usize = 32;

/// The name of a store on a service: `zswap-` and 32 random hexadecimal digits. All names of its objects begin with
/// it and a slash.
///
/// ```
/// use zswap_remote::StoreName;
///
/// let name: StoreName = "zswap-00112233445566778899aabbccddeeff".parse()?;
/// assert_eq!(name.to_string(), "zswap-00112233445566778899aabbccddeeff");
/// assert!("zswap-1".parse::<StoreName>().is_err());
/// # Ok::<(), zswap_remote::RemoteError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoreName(u128);

impl StoreName {
    /// Makes a name from random numbers of the system.
    pub(crate) fn random() -> Result<Self, RemoteError> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)
            .map_err(|error| RemoteError::Random { reason: error.to_string() })?;
        Ok(StoreName(u128::from_be_bytes(bytes)))
    }

    /// Returns the name of an object.
    pub(crate) fn object(self, object: Object) -> String {
        format!("{self}/{:06x}.{:x}", object.segment, object.attempt)
    }
}

impl fmt::Display for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{:032x}", self.0)
    }
}

impl fmt::Debug for StoreName {
    /// As `Display`, since the digits are what a program records.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for StoreName {
    type Err = RemoteError;

    /// Parses what `Display` writes.
    ///
    /// # Errors
    /// [`RemoteError::StoreName`] for any other text.
    fn from_str(text: &str) -> Result<Self, RemoteError> {
        let refused = || RemoteError::StoreName { text: text.to_owned() };
        let digits = text.strip_prefix(PREFIX).ok_or_else(refused)?;
        let is_digit = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        if digits.len() != DIGITS || !digits.bytes().all(is_digit) {
            return Err(refused());
        }
        u128::from_str_radix(digits, 16).map(StoreName).map_err(|_| refused())
    }
}

/// An object of a store: the segment, and the number of the attempt that writes the object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Object {
    pub(crate) segment: u64,
    pub(crate) attempt: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_stores_have_two_names_and_a_name_can_be_read_back() {
        let (one, other) = (StoreName::random().unwrap(), StoreName::random().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.to_string().parse::<StoreName>().unwrap(), one);
        assert_eq!(one.to_string().len(), PREFIX.len() + DIGITS);
    }

    #[test]
    fn only_names_of_stores_are_names() {
        let digits = "0123456789abcdef0123456789abcdef";
        assert!(format!("zswap-{digits}").parse::<StoreName>().is_ok());
        for text in ["", "zswap-", digits, &format!("zswap-{digits}0"), &format!("swap-{digits}")] {
            assert!(text.parse::<StoreName>().is_err(), "{text}");
        }
        let upper = format!("zswap-{}", digits.to_uppercase());
        assert!(upper.parse::<StoreName>().is_err());
        let signed = format!("zswap-+{}", &digits[1..]);
        assert!(signed.parse::<StoreName>().is_err());
    }

    #[test]
    fn an_objects_name_has_all_three_parts() {
        let name = StoreName(0xAB);
        let object = name.object(Object { segment: 0x1F, attempt: 0x3A });
        assert_eq!(object, format!("zswap-{:032x}/00001f.3a", 0xAB));
    }
}
