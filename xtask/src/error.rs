//! The errors of jobs. A message says what failed and, where possible, what to do about it.

use std::path::PathBuf;

/// The exit status of a job that could not run, as in automake's tests.
pub(crate) const NOT_RUN: u8 = 77;

pub(crate) type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot start `{program}`: {source}; install it or put it on PATH")]
    Spawn { program: String, source: std::io::Error },

    #[error("`{command}` failed ({status}); run it alone to see more")]
    Failed { command: String, status: std::process::ExitStatus },

    #[error("reading the output of `{command}`: {source}")]
    Output { command: String, source: std::io::Error },

    #[error("{path}: {source}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },

    #[error("the output of `{command}` is not the expected JSON: {source}")]
    Json { command: String, source: serde_json::Error },

    #[error("`{command}` printed JSON without `{key}`; xtask does not know this format")]
    Shape { command: String, key: &'static str },

    #[error("{what} is missing and could not be installed; run: {fix}")]
    Missing { what: String, fix: String },

    #[error("{krate} ran no {what}; a job that runs nothing proves nothing")]
    NothingRan { krate: String, what: &'static str },

    #[error("{job} does not know {krate:?}; give one of {known}", known = known.join(", "))]
    UnknownCrate { job: &'static str, krate: String, known: Vec<String> },

    #[error("no workspace crate depends on loom, so no model can run")]
    NoLoomCrate,

    #[error("{krate} could not be published without an error or a warning; cargo said:\n{said}")]
    NotPublished { krate: String, said: String },

    #[error("the package of {krate} has no {file}; see the list of `cargo package --list`")]
    PackageFile { krate: String, file: String },

    #[error(
        "the public API is not what {texts} says, as shown above; mend it, or accept it: {accept}"
    )]
    ApiDiffers { texts: &'static str, accept: &'static str },

    #[error("not run: {why}")]
    NotRun { why: String },

    #[error("--pages: {reason}; give files whose paths have none")]
    PagesPath { reason: String },

    #[error("{job}: {count} findings, listed above; fix each of them", count = findings)]
    Findings { job: &'static str, findings: usize },

    #[error("{failed} of {total} steps failed")]
    Steps { failed: usize, total: usize },
}
