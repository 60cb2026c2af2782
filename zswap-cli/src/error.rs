//! Why `zswap` cannot do its work. An error says which value was wrong and, if the user can do
//! something about it, what to do.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use compressors::CompressorError;
use measure::chain;
use measure::store::StoreFault;
use zswap_core::BuildError;
use zswap_core::device::FileDeviceError;

use crate::process::SampleError;

pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Why a verb failed. The message is one line that includes all causes, so no variant has a source.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{}", chain(.0))]
    Measure(measure::Error),

    #[error("no zpool is named {name:?}; give --zpool some of: {known}")]
    UnknownZpool { name: String, known: String },

    #[error("no compressor is named {name:?}; give --compressor some of: {known}")]
    UnknownCompressor { name: String, known: String },

    #[error(
        "{address} is an address that other machines can reach; listen on 127.0.0.1, or give --any-address"
    )]
    NotLoopback { address: SocketAddr },

    #[error("cannot listen on {place}: {reason}; choose another place with --listen or --unix")]
    Listen { place: String, reason: io::Error },

    #[error("the server failed: {0}")]
    Serve(io::Error),

    #[error("no such disk: {}", chain(.0))]
    Disk(zram::BuildError),

    #[error(transparent)]
    Sample(#[from] SampleError),

    #[error(transparent)]
    Compressor(CompressorError),

    #[error(
        "compressor {name:?} is not compiled in; build with its cargo feature: \
         `cargo run --release -p zswap-cli --features {feature} -- compare`"
    )]
    CompressorFeature { name: String, feature: &'static str },

    #[error("{option} {list:?} has an empty name; write names with one comma between them")]
    EmptyName { option: &'static str, list: String },

    #[error(
        "--compressor {list:?}: the parameter {parameter:?} has no compressor before it; \
         write name:key=value"
    )]
    LoneParameter { list: String, parameter: String },

    #[error(
        "cannot write the plot to {path:?}: {reason}; give --plot a file in a folder you can write to"
    )]
    Plot { path: PathBuf, reason: io::Error },

    #[error("cannot draw the plot: {reason}; run without --plot")]
    Draw { reason: String },

    #[error("--threads {threads} is more than the {most} that one run takes; give {most} or fewer")]
    TooManyThreads { threads: usize, most: usize },

    #[error("--rounds 0 measures nothing; give 1 or more")]
    NoRounds,

    #[error("a store of {zpool} and {compressor} cannot be built: {}", chain(reason))]
    Build { zpool: String, compressor: String, reason: Box<BuildError> },

    #[error("cannot write pages back: {}; give --backing a new or an empty file", chain(reason))]
    Backing { reason: FileDeviceError },

    #[error(
        "--backing: {scheme}:// is a remote service, and this program has none; install the one that has: \
         `cargo install --locked --force --path zswap-remote/cli`"
    )]
    NoServices { scheme: String },

    #[error("--backing: no service is named {scheme:?}; give a file, or a URL of one of: {known}")]
    UnknownService { scheme: String, known: String },

    #[error("--backing: {reason}")]
    Service { reason: String },

    #[error(
        "--plain: what goes to a file is not encrypted anyway; leave --plain out, or give --backing the URL of \
         a service"
    )]
    PlainFile,

    #[cfg(not(feature = "encrypt"))]
    #[error(
        "--backing: pages for a service are encrypted, and this program was built without its cargo feature \
         `encrypt`; build it with that, or give --plain"
    )]
    NoEncryption,

    #[error("{}", chain(.0))]
    Store(StoreFault),

    #[error("the report cannot be written: {0}; check where the standard output goes")]
    Report(io::Error),
}

impl From<StoreFault> for Error {
    fn from(fault: StoreFault) -> Self {
        Error::Store(fault)
    }
}

impl From<measure::Error> for Error {
    fn from(error: measure::Error) -> Self {
        match error {
            measure::Error::Compressor(error) => error.into(),
            other => Error::Measure(other),
        }
    }
}

impl From<CompressorError> for Error {
    fn from(error: CompressorError) -> Self {
        match error {
            CompressorError::FeatureOff { name, feature } => {
                Error::CompressorFeature { name, feature }
            }
            CompressorError::UnknownName { name, known } => {
                Error::UnknownCompressor { name, known: known.join(", ") }
            }
            other => Error::Compressor(other),
        }
    }
}

/// Escapes the control characters of `text`, so that it stays one line.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_whatever_a_name_holds() {
        let error = Error::UnknownZpool { name: "a\nb".into(), known: "zbud".into() };
        assert_eq!(error.to_string(), "no zpool is named \"a\\nb\"; give --zpool some of: zbud");
        assert_eq!(one_line("a\nb\r\u{1b}[0m ü"), "a\\nb\\r\\u{1b}[0m ü");
    }

    #[test]
    fn a_compressor_left_out_names_the_command_that_brings_it() {
        let error: Error =
            CompressorError::FeatureOff { name: "lzo".into(), feature: "lzo" }.into();
        assert!(error.to_string().contains("-p zswap-cli --features lzo"), "{error}");
    }
}
