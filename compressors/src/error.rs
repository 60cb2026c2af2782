//! The errors of compressors. A message names the offending value and, if the caller
//! can do something about it, the remedy.
//!
//! Errors of calls that compress or decompress own no heap memory, so a failing call
//! does not allocate.

/// An error of a compressor, of its set-up or of a registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompressorError {
    /// The registry has no compressor of this name.
    #[error("no compressor is named {name:?}; known are: {}", known.join(", "))]
    UnknownName {
        /// The name in the spec.
        name: String,
        /// The names that the registry has, sorted.
        known: Vec<String>,
    },

    /// The compressor is one of this crate's, but its cargo feature is off.
    #[error(
        "compressor {name:?} is not compiled in: switch on the cargo feature {feature:?} of \
         the compressors crate (or the feature of that name of the crate you depend on)"
    )]
    FeatureOff {
        /// The name in the spec.
        name: String,
        /// The cargo feature to switch on.
        feature: &'static str,
    },

    /// The registry already has a compressor of this name.
    #[error("a compressor is already registered as {name:?}: register it under another name")]
    NameTaken {
        /// The name that is already in use.
        name: String,
    },

    /// A parameter has an unknown key or a value that is not allowed.
    #[error("{codec}: parameter {key}={value} is not allowed: {allowed}")]
    BadParameter {
        /// The compressor's name.
        codec: String,
        /// The parameter's key.
        key: String,
        /// The given value.
        value: String,
        /// The keys or values that are allowed.
        allowed: String,
    },

    /// A spec does not have the form `name` or `name:key=value,key=value`.
    #[error("malformed compressor spec {spec:?}: {reason}; write name or name:key=value,key=value")]
    MalformedSpec {
        /// The given spec.
        spec: String,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// The compressed form does not fit the output buffer.
    #[error(
        "{codec}: {src_len} bytes do not compress into {capacity}: \
         give a buffer of max_compressed_len({src_len}) bytes, or store the page uncompressed"
    )]
    OutputTooSmall {
        /// The compressor's name.
        codec: &'static str,
        /// The length of the input, in bytes.
        src_len: usize,
        /// The length of the output buffer, in bytes.
        capacity: usize,
    },

    /// The bytes to decompress are not output of this codec. Some codecs also return this if the bytes
    /// decompress to more than the output buffer holds.
    #[error("{codec}: the compressed bytes are corrupt: {reason}")]
    Corrupt {
        /// The compressor's name.
        codec: &'static str,
        /// What the codec found wrong.
        reason: &'static str,
    },

    /// The input does not decompress to exactly the length of the output buffer.
    #[error(
        "{codec}: decompression must give {expected} bytes but gives {}",
        DisplayGot(*got)
    )]
    WrongLength {
        /// The compressor's name.
        codec: &'static str,
        /// The length of the output buffer, in bytes.
        expected: usize,
        /// The number of bytes that the input decompresses to. `None` if all that is known is that there are
        /// more than `expected`.
        got: Option<usize>,
    },

    /// A buffer is longer than the codec can handle.
    #[error("{codec}: a buffer of {len} bytes is too large: use at most {max}")]
    InputTooLarge {
        /// The compressor's name.
        codec: &'static str,
        /// The length of the buffer, in bytes.
        len: usize,
        /// The longest buffer that the codec can handle, in bytes.
        max: usize,
    },

    /// The codec's `max_compressed_len` exceeds the limit for an output buffer.
    #[error(
        "the codec asks for {len} bytes of room for a compressed page, more than the limit of {max}: correct \
         its max_compressed_len"
    )]
    OutputTooLarge {
        /// The codec's `max_compressed_len`, in bytes.
        len: usize,
        /// The limit, in bytes.
        max: usize,
    },

    /// The codec panicked. Do not use its context again.
    #[error("the codec panicked in {operation}; the context is dropped, and the page is unchanged")]
    Panicked {
        /// The call that panicked: `new_ctx`, `compress`, `decompress` or `max_compressed_len`.
        operation: &'static str,
    },

    /// The object was made before a `fork`, and this is the child. Only the parent can use the object.
    #[error(
        "the object belongs to the process that made it, and this is a forked child: make another in the child"
    )]
    Forked,

    /// There is not enough memory, for instance for a context, a dictionary or a completion.
    #[error("{codec}: out of memory for {what}")]
    OutOfMemory {
        /// The compressor's name.
        codec: &'static str,
        /// What the memory was for.
        what: &'static str,
    },

    /// The codec failed for a reason that no other variant describes.
    #[error("{codec}: internal failure {code}: {reason}")]
    Codec {
        /// The compressor's name.
        codec: &'static str,
        /// The codec's number for the failure.
        code: i64,
        /// The codec's name for the failure.
        reason: &'static str,
    },
}

/// Displays the decompressed length, or `more` if the length is not known.
struct DisplayGot(Option<usize>);

impl std::fmt::Display for DisplayGot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(got) => write!(f, "{got}"),
            None => f.write_str("more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::CompressorError;

    const _: fn() = || {
        fn check<T: Send + Sync + 'static>() {}
        check::<CompressorError>();
    };

    #[test]
    fn messages_name_the_value_and_the_remedy() {
        let off = CompressorError::FeatureOff { name: "lzo".into(), feature: "lzo" };
        assert!(off.to_string().contains("feature \"lzo\""), "{off}");

        let unknown = CompressorError::UnknownName {
            name: "zst".into(),
            known: vec!["lz4".into(), "zstd".into()],
        };
        assert!(unknown.to_string().ends_with("\"zst\"; known are: lz4, zstd"), "{unknown}");

        let long = CompressorError::WrongLength { codec: "lz4", expected: 4096, got: None };
        assert!(long.to_string().ends_with("4096 bytes but gives more"), "{long}");
        let short = CompressorError::WrongLength { codec: "lz4", expected: 4096, got: Some(7) };
        assert!(short.to_string().ends_with("4096 bytes but gives 7"), "{short}");
    }
}
