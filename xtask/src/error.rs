//! What can go wrong in a job, each with what to do about it.

use std::path::PathBuf;

pub(crate) type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot start `{program}`: {source}; install it or put it on PATH")]
    Spawn { program: String, source: std::io::Error },

    #[error("`{command}` failed ({status}); run it by itself to see more")]
    Failed { command: String, status: std::process::ExitStatus },

    #[error("reading the output of `{command}`: {source}")]
    Output { command: String, source: std::io::Error },

    #[error("{path}: {source}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },

    #[error("the output of `{command}` is not the JSON it should be: {source}")]
    Json { command: String, source: serde_json::Error },

    #[error("`{command}` printed JSON without `{key}`; its format is not one that xtask knows")]
    Shape { command: String, key: &'static str },

    #[error("{what} is missing and could not be installed; run: {fix}")]
    Missing { what: String, fix: String },

    #[error("{krate} ran no {what}; a job that runs nothing proves nothing")]
    NothingRan { krate: String, what: &'static str },

    #[error("{job} does not know {krate:?}; it knows {known}", known = known.join(", "))]
    UnknownCrate { job: &'static str, krate: String, known: Vec<String> },

    #[error("no workspace crate depends on loom, so no model can run")]
    NoLoomCrate,

    #[error("the root Cargo.toml states no `rust-version` under [workspace.package]; add it")]
    NoRustVersion,

    #[error("{krate} states rust-version {found:?}, the root manifest {wanted}; inherit it")]
    RustVersion { krate: String, found: Option<String>, wanted: String },

    #[error("{krate} could not be published without an error or a warning; cargo said:\n{said}")]
    NotPublished { krate: String, said: String },

    #[error("the package of {krate} has no {file}; see what `cargo package --list` takes")]
    PackageFile { krate: String, file: String },

    #[error(
        "the public API is not what {texts} says, as shown above; mend it, or accept it: {accept}"
    )]
    ApiDiffers { texts: &'static str, accept: &'static str },

    #[error("not run: {why}")]
    NotRun { why: String },

    #[error("--pages: {reason}; give files whose paths have none")]
    PagesPath { reason: String },

    #[error("{job}: {count} findings, listed above; mend each of them", count = findings)]
    Findings { job: &'static str, findings: usize },

    #[error("{failed} of {total} steps failed")]
    Steps { failed: usize, total: usize },
}
