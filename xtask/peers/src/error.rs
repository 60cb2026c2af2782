//! The errors of a run. A message names the wrong value and says what to do.

use std::io;

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a run failed. The message includes the causes, so no variant has a source.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{}", measure::chain(.0))]
    Measure(measure::Error),

    #[error(transparent)]
    Compressor(#[from] compressors::CompressorError),

    #[error("no contestant is named {name:?}; `run --list` lists all names")]
    UnknownContestant { name: String },

    #[error("nothing to run: no contestant's name contains {only:?}; `run --list` lists all names")]
    NoContestant { only: String },

    #[error("{pages} pages are too few; give files with at least {least} that are not same-filled")]
    FewPages { pages: usize, least: usize },

    #[error("{}", measure::chain(.0))]
    Store(measure::store::StoreFault),

    #[error("{what} failed at page {page}: {reason}")]
    Keeps { what: &'static str, page: usize, reason: String },

    #[error("page {page} came back changed {when}")]
    Changed { page: usize, when: &'static str },

    #[error("{said}")]
    Fault { said: String },

    #[error("cannot be set up: {reason}")]
    Setup { reason: String },

    #[error("{what} {path}: {reason}")]
    System { what: &'static str, path: String, reason: io::Error },

    #[error("{path} has no line {key:?}")]
    NoLine { path: &'static str, key: &'static str },

    #[error("stopped by a signal; what was set up has been undone")]
    Stopped,

    #[error("the turn of {name} ended with {status}: {said}")]
    Turn { name: String, status: std::process::ExitStatus, said: String },

    #[error("the turn of {name} did not tell its figures as they should be: {reason}")]
    TurnResult { name: String, reason: serde_json::Error },

    #[error("{path} is not the JSON of a run: {reason}")]
    Run { path: String, reason: serde_json::Error },

    #[error("{path} holds no contestant; give the file that a run wrote with --json")]
    EmptyRun { path: String },

    #[error("line {line} of {path} is not a sample of an aging run: {reason}")]
    Sample { path: String, line: usize, reason: serde_json::Error },

    #[error(
        "{page}: the marker line `{marker}` {problem}; each generated part must be there once, \
         between its two marker lines"
    )]
    Marker { page: String, marker: String, problem: &'static str },
}

impl From<measure::store::StoreFault> for Error {
    fn from(fault: measure::store::StoreFault) -> Self {
        Error::Store(fault)
    }
}

impl From<measure::Error> for Error {
    fn from(error: measure::Error) -> Self {
        Error::Measure(error)
    }
}

impl Error {
    /// Returns the error for a contestant that could not be set up because of `reason`.
    pub(crate) fn setup(reason: impl ToString) -> Self {
        Error::Setup { reason: reason.to_string() }
    }

    /// Returns the error for an operation on `page` that failed. `what` names the operation, such
    /// as "a store".
    pub(crate) fn keeps(what: &'static str, page: usize, reason: impl std::error::Error) -> Self {
        Error::Keeps { what, page, reason: measure::chain(&reason) }
    }
}
