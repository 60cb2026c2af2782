//! Why a remote device cannot be made, or what a killed process left cannot be removed.

use std::io;
use std::path::PathBuf;

/// Errors of [`Remote`](crate::Remote) and of [`RemoteBuilder::build`](crate::RemoteBuilder::build). No message
/// contains a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// The text is not a URL, or lacks a part.
    #[error("{url:?} does not name a remote store: {reason}")]
    Url {
        /// The URL as it was given.
        url: String,
        /// What is wrong, and what to give instead.
        reason: String,
    },
    /// No service has this scheme.
    #[error("no service is named {scheme:?}; give a URL that begins with one of: {known}")]
    UnknownScheme {
        /// The scheme of the URL.
        scheme: String,
        /// The schemes that this build knows, separated by commas.
        known: String,
    },
    /// The service of this scheme is not compiled in.
    #[error(
        "{scheme}:// is not compiled in; build zswap-remote with its cargo feature {feature:?}"
    )]
    FeatureOff {
        /// The scheme of the URL.
        scheme: &'static str,
        /// The feature that brings it.
        feature: &'static str,
    },
    /// The URL contains a user name or a password. The message does not repeat the URL.
    #[error(
        "the {scheme}:// URL contains a user name or a password, which other users of this machine could \
         read; leave it out of the URL, and set the environment variable {variable}, or {variable}_FILE to \
         the path of a file that holds it"
    )]
    SecretInUrl {
        /// The scheme of the URL.
        scheme: &'static str,
        /// The environment variable to set.
        variable: &'static str,
    },
    /// An environment variable is not set.
    #[error("the environment variable {variable} is not set; set it to {meaning}")]
    Unset {
        /// The variable.
        variable: &'static str,
        /// What it holds.
        meaning: &'static str,
    },
    /// An environment variable cannot be used. The message does not repeat its value.
    #[error("the environment variable {variable} cannot be used: {reason}")]
    Variable {
        /// The variable.
        variable: String,
        /// What is wrong, and what to do.
        reason: &'static str,
    },
    /// The file that an environment variable names cannot be read.
    #[error("the file {path:?}, which {variable} names, cannot be read: {reason}")]
    SecretFile {
        /// The variable.
        variable: String,
        /// The file.
        path: PathBuf,
        /// The system's error.
        reason: io::Error,
    },
    /// A setting of the builder is out of range.
    #[error("{setting} is {value}; give {allowed}")]
    Setting {
        /// The builder's method.
        setting: &'static str,
        /// The value that was given.
        value: String,
        /// What may be given.
        allowed: &'static str,
    },
    /// The service cannot do what a device needs.
    #[error("the service {service:?} cannot {operation}; {instead}")]
    Lacks {
        /// The name of the service.
        service: String,
        /// What it cannot do.
        operation: &'static str,
        /// What to do instead.
        instead: &'static str,
    },
    /// The service refused its settings, or failed.
    #[error("the service {service:?} failed to {operation}: {reason}")]
    Service {
        /// The name of the service.
        service: String,
        /// What was tried.
        operation: &'static str,
        /// The service's message, without secrets.
        reason: String,
    },
    /// The service gave no answer in time.
    #[error(
        "the service {service:?} did not {operation} within {seconds} seconds; see whether it runs and can be \
         reached, or give it longer"
    )]
    Late {
        /// The name of the service.
        service: String,
        /// What was tried.
        operation: &'static str,
        /// The deadline in seconds.
        seconds: u64,
    },
    /// The system gave no random number for the name of the store.
    #[error("the system gives no random number to name the store: {reason}")]
    Random {
        /// The system's message.
        reason: String,
    },
    /// The system could not start the threads.
    #[error(
        "the threads that talk to the service cannot be started: {reason}; raise the limit of threads"
    )]
    Threads {
        /// The system's error.
        reason: io::Error,
    },
    /// There is no memory for the records of the device.
    #[error("no memory for the records of the device; free memory and retry")]
    OutOfMemory,
    /// The text is not the name of a store.
    #[error(
        "{text:?} is not the name of a store; give \"zswap-\" and 32 lower-case hexadecimal digits"
    )]
    StoreName {
        /// The text.
        text: String,
    },
}
