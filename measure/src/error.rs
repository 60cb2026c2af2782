//! The errors of this crate. Each says which value was wrong and what to do.

use std::io;
use std::path::PathBuf;

use compressors::CompressorError;

/// The result of most calls of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Returns an error and its sources in one line, such as `no room in the pool: the system refused 1 page`.
pub fn chain(error: &dyn std::error::Error) -> String {
    let all = std::iter::successors(Some(error), |error| error.source());
    all.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Why nothing can be measured. Displayed as one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of pages cannot be opened or read.
    #[error("cannot read {path:?}; give --pages a file of raw 4096-byte pages, or a .zst of one")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },

    /// A file whose name ends in .zst is damaged or not zstd-compressed.
    #[error(
        "{path:?} cannot be decompressed; check it with `zstd -t`, or take .zst off its name if it holds raw pages"
    )]
    BadZst {
        /// The file.
        path: PathBuf,
        /// The decoder's error.
        source: io::Error,
    },

    /// A file ends within a page.
    #[error(
        "{path:?} has {bytes} bytes, {rest} more than whole 4096-byte pages; \
         cut or fill it to a multiple of 4096"
    )]
    PartialPage {
        /// The file.
        path: PathBuf,
        /// Its length in bytes, after decompression.
        bytes: u64,
        /// The bytes beyond the last whole page.
        rest: u64,
    },

    /// A file of raw pages starts like a file that `zstd` wrote.
    #[error("{path:?} is zstd-compressed but not named so; rename it to end in .zst")]
    UnnamedZst {
        /// The file.
        path: PathBuf,
    },

    /// The files hold no page.
    #[error("there is no page in {files}; give --pages a file with at least one 4096-byte page")]
    EmptySet {
        /// The names of the files.
        files: String,
    },

    /// The files hold more than the caller's limit.
    #[error(
        "the pages of {path:?} and of those before it are more than {limit} bytes, what this machine's \
         memory has room for beside the stores; give fewer or smaller files"
    )]
    TooLarge {
        /// The file that exceeded the limit.
        path: PathBuf,
        /// The caller's limit in bytes.
        limit: u64,
    },

    /// The system has no memory left.
    #[error("no memory for {bytes} bytes of {what}; free memory or give fewer or smaller files")]
    NoMemory {
        /// The bytes requested.
        bytes: usize,
        /// What the bytes were for.
        what: &'static str,
    },

    /// The set is not a multiple of the unit, so the last store would be shorter than the others.
    #[error("{pages} pages are not a multiple of the {unit} of one store; give fewer or more")]
    PartialUnit {
        /// Pages in the set.
        pages: usize,
        /// Pages in one store or load.
        unit: usize,
    },

    /// A picture cannot be drawn.
    #[cfg(feature = "chart")]
    #[error("a picture cannot be drawn: {reason}")]
    Draw {
        /// The drawing library's error.
        reason: String,
    },

    /// The number of threads is 0.
    #[error("--threads 0 measures nothing; give 1 or more")]
    NoThreads,

    /// The codec could not make a context.
    #[error(transparent)]
    Compressor(#[from] CompressorError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_has_each_cause_once() {
        let error = Error::Unreadable { path: "there".into(), source: io::Error::other("no disk") };
        let told = chain(&error);
        assert!(told.starts_with("cannot read \"there\"") && told.ends_with(": no disk"), "{told}");
        assert_eq!(told.matches("no disk").count(), 1);

        let codec = CompressorError::Panicked { operation: "compress" };
        assert_eq!(chain(&Error::from(codec.clone())), codec.to_string());
    }
}
