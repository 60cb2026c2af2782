//! Why the bench ends early.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the set {} has {values} values, which are too few: it was not written to its end", path.display())]
    Set { path: PathBuf, values: usize },
    #[error("there is no contestant {name:?}")]
    Contestant { name: String },
    #[error(transparent)]
    Build(#[from] zswap_cache::BuildError),
    #[error("cannot start a child of the bench")]
    Start(#[source] std::io::Error),
    #[error("a child of the bench failed: {said}")]
    Child { said: String },
}

pub(crate) type Result<T> = std::result::Result<T, Error>;
