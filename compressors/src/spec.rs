//! Specs: compressors as text, in the form `name` or `name:key=value,key=value`.
//!
//! Names and keys consist of ASCII letters, digits, `_`, `-` and `.`. A value may
//! contain anything but a comma. No part may be empty, and no key may come twice. A
//! spec has at most 64 parameters and 64 KiB. The codec decides which keys it takes.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::error::CompressorError;

/// A parsed spec: a compressor's name and its parameters, in the order given.
///
/// ```
/// use compressors::Spec;
///
/// let spec: Spec = "zstd:level=19".parse()?;
/// assert_eq!(spec.name(), "zstd");
/// assert_eq!(spec.get("level"), Some("19"));
/// assert_eq!(spec.to_string(), "zstd:level=19");
/// # Ok::<(), compressors::CompressorError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Spec {
    name: String,
    params: Vec<(String, String)>,
}

/// The key of a dictionary's fingerprint in a spec.
#[cfg(any(feature = "lz4", feature = "linewords", feature = "zstd"))]
pub(crate) const DICT_KEY: &str = "dict";

/// The most parameters that a spec may have. There must be a limit, since each key is compared with all keys
/// before it.
const MOST_PARAMS: usize = 64;

/// The length of the longest spec, in bytes.
const MOST_BYTES: usize = 64 << 10;

/// The most characters of a text that an error quotes.
const MOST_TOLD: usize = 200;

/// Shortens a text for an error: if it has more than [`MOST_TOLD`] characters, keeps the first [`MOST_TOLD`] and adds
/// an ellipsis.
pub(crate) fn told(text: &str) -> String {
    match text.char_indices().nth(MOST_TOLD) {
        Some((end, _)) => format!("{}\u{2026}", &text[..end]),
        None => text.to_owned(),
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

impl Spec {
    /// Returns the compressor's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the keys and values, in the order given.
    pub fn params(&self) -> impl Iterator<Item = (&str, &str)> {
        self.params.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Returns the value of `key`; `None` if the spec does not have the key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.params().find(|(k, _)| *k == key).map(|(_, value)| value)
    }

    /// Returns the value of `key` as a number, or `default` if the spec does
    /// not have the key.
    ///
    /// ```
    /// use compressors::Spec;
    ///
    /// let spec: Spec = "mine:level=7".parse()?;
    /// assert_eq!(spec.int("level", 3, 1..=9)?, 7);
    /// assert_eq!(spec.int("window", 12, 10..=15)?, 12);
    /// assert!(spec.int("level", 3, 1..=6).is_err());
    /// # Ok::<(), compressors::CompressorError>(())
    /// ```
    ///
    /// # Errors
    /// [`CompressorError::BadParameter`] if the value is not a number within `allowed`.
    pub fn int(
        &self,
        key: &str,
        default: i32,
        allowed: RangeInclusive<i32>,
    ) -> Result<i32, CompressorError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        match value.parse::<i32>() {
            Ok(number) if allowed.contains(&number) => Ok(number),
            _ => Err(bad_int(&self.name, key, value, &allowed)),
        }
    }

    /// Returns the spec with its parameters in the order of their keys.
    pub(crate) fn sorted(mut self) -> Spec {
        self.params.sort_unstable();
        self
    }

    /// Fails if the spec has a key that is not in `keys`.
    ///
    /// ```
    /// use compressors::Spec;
    ///
    /// let spec: Spec = "mine:level=7".parse()?;
    /// assert!(spec.allow_keys(&["level"]).is_ok());
    /// assert!(spec.allow_keys(&[]).is_err());
    /// # Ok::<(), compressors::CompressorError>(())
    /// ```
    ///
    /// # Errors
    /// [`CompressorError::BadParameter`] for the first key that is not in `keys`.
    pub fn allow_keys(&self, keys: &[&str]) -> Result<(), CompressorError> {
        for (key, value) in self.params() {
            if !keys.contains(&key) {
                let allowed = if keys.is_empty() {
                    format!("{} takes no parameters", told(&self.name))
                } else {
                    format!("{} takes: {}", told(&self.name), keys.join(", "))
                };
                return Err(CompressorError::BadParameter {
                    codec: told(&self.name),
                    key: told(key),
                    value: told(value),
                    allowed,
                });
            }
        }
        Ok(())
    }

    /// Fails if the spec names a dictionary, since a spec does not contain the
    /// dictionary's bytes. The error refers to the codec's builder.
    #[cfg(any(feature = "lz4", feature = "linewords", feature = "zstd"))]
    pub(crate) fn refuse_dictionary(&self) -> Result<(), CompressorError> {
        match self.get(DICT_KEY) {
            None => Ok(()),
            Some(value) => Err(CompressorError::BadParameter {
                codec: self.name.clone(),
                key: DICT_KEY.to_owned(),
                value: told(value),
                allowed: "a spec names a dictionary but cannot hold it: \
                          give its bytes to the codec's builder"
                    .to_owned(),
            }),
        }
    }
}

/// Returns the error for a number that is not within `allowed`.
pub(crate) fn bad_int(
    codec: &str,
    key: &str,
    value: impl fmt::Display,
    allowed: &RangeInclusive<i32>,
) -> CompressorError {
    CompressorError::BadParameter {
        codec: told(codec),
        key: told(key),
        value: told(&value.to_string()),
        allowed: format!("a whole number from {} to {}", allowed.start(), allowed.end()),
    }
}

/// Returns a spec as text. Leaves out the parameters that are `None`.
#[cfg(any(feature = "lz4", feature = "linewords", feature = "zstd", feature = "deflate"))]
pub(crate) fn write_spec(name: &str, params: &[(&str, Option<String>)]) -> String {
    let mut spec = name.to_owned();
    let mut separator = ':';
    for (key, value) in params {
        if let Some(value) = value {
            spec.push(separator);
            spec.push_str(key);
            spec.push('=');
            spec.push_str(value);
            separator = ',';
        }
    }
    spec
}

impl FromStr for Spec {
    type Err = CompressorError;

    fn from_str(spec: &str) -> Result<Self, Self::Err> {
        let malformed = |reason| Err(CompressorError::MalformedSpec { spec: told(spec), reason });
        if spec.len() > MOST_BYTES {
            return malformed("it has more than 64 KiB");
        }
        let (name, rest) = match spec.split_once(':') {
            Some((name, rest)) => (name, Some(rest)),
            None => (spec, None),
        };
        if name.is_empty() {
            return malformed("the name is empty");
        }
        if !is_word(name) {
            return malformed("a name is made of ASCII letters, digits, '_', '-' and '.'");
        }
        let mut params: Vec<(String, String)> = Vec::new();
        for param in rest.into_iter().flat_map(|rest| rest.split(',')) {
            if params.len() == MOST_PARAMS {
                return malformed("it has more than 64 parameters");
            }
            let Some((key, value)) = param.split_once('=') else {
                return malformed("a parameter is not of the form key=value");
            };
            if !is_word(key) {
                return malformed("a key is made of ASCII letters, digits, '_', '-' and '.'");
            }
            if value.is_empty() {
                return malformed("a value is empty");
            }
            if params.iter().any(|(k, _)| k == key) {
                return malformed("a key is given twice");
            }
            params.push((key.to_owned(), value.to_owned()));
        }
        Ok(Spec { name: name.to_owned(), params })
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        for (i, (key, value)) in self.params().enumerate() {
            write!(f, "{}{key}={value}", if i == 0 { ':' } else { ',' })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Spec;
    use crate::Registry;
    use crate::error::CompressorError;

    const _: fn() = || {
        fn check<T: Send + Sync + 'static>() {}
        check::<Spec>();
    };

    fn parse(text: &str) -> Result<Spec, CompressorError> {
        text.parse()
    }

    #[test]
    fn well_formed_specs_read_back_as_written() {
        for text in ["lz4", "zstd:level=3", "zstd:level=-5,page=16384", "my.codec_2:a=b=c,d-e=:"] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        let spec = parse("x:b=2,a=1").unwrap();
        assert_eq!(spec.params().collect::<Vec<_>>(), [("b", "2"), ("a", "1")]);
        assert_eq!(spec.get("a"), Some("1"));
        assert_eq!(spec.get("c"), None);
    }

    #[test]
    fn malformed_specs_are_refused_with_the_text_they_had() {
        for text in [
            "",
            ":",
            ":level=3",
            "zstd:",
            "zstd:level",
            "zstd:=3",
            "zstd:level=",
            "zstd:level=3,",
            "zstd:,level=3",
            "zs td",
            "zstd :level=3",
            "zstd: level=3",
            "zstd:level=1,level=2",
            "zstd\0",
            "zstd\u{e9}",
            " lz4",
            "lz4\n",
        ] {
            match parse(text) {
                Err(CompressorError::MalformedSpec { spec, .. }) => assert_eq!(spec, text),
                other => panic!("{text:?} gave {other:?}"),
            }
        }
    }

    #[test]
    fn a_huge_spec_is_refused_and_no_error_carries_it_whole() {
        let params = |count| {
            let params: Vec<_> = (0..count).map(|n| format!("k{n}=1")).collect();
            format!("c:{}", params.join(","))
        };
        assert_eq!(parse(&params(64)).unwrap().params().count(), 64);
        let long = |bytes: usize| format!("c:k={}", "\u{e9}".repeat(bytes / 2));
        let spec = parse(&long((64 << 10) - 4)).unwrap();
        for (refused, reason) in [
            (parse(&params(65)).unwrap_err(), "64 parameters"),
            (parse(&long(64 << 10)).unwrap_err(), "64 KiB"),
            (parse(&format!("{}=", &long(60_000))[2..]).unwrap_err(), "ASCII letters"),
            (spec.int("k", 1, 1..=9).unwrap_err(), "from 1 to 9"),
            (spec.allow_keys(&["l"]).unwrap_err(), "takes: l"),
            (Registry::builtin().build(&"a".repeat(60_000)).unwrap_err(), "no compressor"),
        ] {
            let text = refused.to_string();
            assert!(text.contains(reason) && text.contains('\u{2026}'), "{text}");
            assert!(text.chars().count() < 500, "{text}");
        }
    }

    #[test]
    fn numbers_are_checked_against_what_is_allowed() {
        let spec = parse("c:level=7,word=abc,big=99999999999").unwrap();
        assert_eq!(spec.int("level", 3, 1..=9), Ok(7));
        assert_eq!(spec.int("absent", 3, 1..=9), Ok(3));
        for (key, range) in [("level", 8..=9), ("level", 1..=6), ("word", 1..=9), ("big", 1..=9)] {
            match spec.int(key, 3, range.clone()) {
                Err(CompressorError::BadParameter { codec, key: k, allowed, .. }) => {
                    assert_eq!((codec.as_str(), k.as_str()), ("c", key));
                    assert!(allowed.contains(&range.end().to_string()), "{allowed}");
                }
                other => panic!("{key} gave {other:?}"),
            }
        }
    }

    #[test]
    fn unknown_keys_are_refused_with_the_known_ones() {
        let spec = parse("c:level=7,lvl=8").unwrap();
        assert_eq!(spec.allow_keys(&["level", "lvl"]), Ok(()));
        match spec.allow_keys(&["level", "accel"]) {
            Err(CompressorError::BadParameter { key, value, allowed, .. }) => {
                assert_eq!((key.as_str(), value.as_str()), ("lvl", "8"));
                assert_eq!(allowed, "c takes: level, accel");
            }
            other => panic!("{other:?}"),
        }
        assert!(spec.allow_keys(&[]).unwrap_err().to_string().contains("takes no parameters"));
    }
}
