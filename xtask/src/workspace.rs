//! The workspace's root and its `cargo metadata`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cmd::Cmd;
use crate::error::{Error, Result};

/// The workspace that contains the current directory.
#[derive(Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    metadata: Value,
}

/// The optional features that the checks of the whole workspace switch on.
pub(crate) const FEATURES: &str =
    "zswap-core/metrics,zswap-core/encrypt,zram/encrypt,zswap-region/allocator";

impl Workspace {
    /// Finds the workspace and reads its metadata. Makes its root the current directory.
    pub(crate) fn open() -> Result<Self> {
        let manifest = Cmd::line("cargo locate-project --workspace --message-format plain")
            .quiet()?
            .trim_end()
            .to_owned();
        let root = Path::new(&manifest).parent().map(Path::to_path_buf).unwrap_or_default();
        std::env::set_current_dir(&root)
            .map_err(|source| Error::Read { path: root.clone(), source })?;
        let metadata = metadata(&["--no-deps"])?;
        Ok(Self { root, metadata })
    }

    /// Returns the directory of the root manifest.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the output of `cargo metadata --no-deps`: the workspace's packages, with their
    /// dependencies and features as their manifests declare them.
    pub(crate) fn metadata(&self) -> &Value {
        &self.metadata
    }

    /// Returns the packages of the workspace.
    pub(crate) fn packages(&self) -> impl Iterator<Item = &Value> {
        list(&self.metadata["packages"])
    }

    /// Builds every program and example in the test profile: lightly optimised and with debug
    /// assertions. This reuses what `cargo test --workspace` has built. Returns the folder with the
    /// programs.
    pub(crate) fn build_for_tests(&self) -> Result<PathBuf> {
        Cmd::line("cargo build --workspace --bins --examples --profile test")
            .args(["--features", "zswap-region/allocator"])
            .run()?;
        Ok(PathBuf::from(self.target_dir("debug")))
    }

    /// Returns the path of `name` in the target directory. A job that builds with other flags gets
    /// a directory of its own there, so that its builds do not replace the usual ones.
    pub(crate) fn target_dir(&self, name: &str) -> String {
        let target = self.metadata["target_directory"].as_str().unwrap_or("target");
        Path::new(target).join(name).display().to_string()
    }
}

/// Runs `cargo metadata` with `args` added. Returns its output; fails if that has no list of
/// packages.
pub(crate) fn metadata(args: &[&str]) -> Result<Value> {
    let cmd = Cmd::line("cargo metadata --format-version 1").args(args.iter().copied());
    let text = cmd.quiet()?;
    let value: Value = serde_json::from_str(&text)
        .map_err(|source| Error::Json { command: cmd.to_string(), source })?;
    if value["packages"].is_array() {
        Ok(value)
    } else {
        Err(Error::Shape { command: cmd.to_string(), key: "packages" })
    }
}

/// Returns the elements of a JSON array; nothing for any other value.
pub(crate) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Returns a JSON string; an empty one for any other value.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Returns the names of a package's integration tests. Skips those that require a feature for which
/// `has` returns false.
pub(crate) fn integration_tests(
    package: &Value,
    has: impl Fn(&str) -> bool,
) -> impl Iterator<Item = &str> {
    list(&package["targets"])
        .filter(|target| list(&target["kind"]).any(|kind| kind == "test"))
        .filter(move |target| list(&target["required-features"]).map(text).all(&has))
        .map(|target| text(&target["name"]))
}

/// Returns whether a package has a library and may be published. `package` is its entry in `cargo
/// metadata`.
pub(crate) fn is_library(package: &Value) -> bool {
    package["publish"].is_null()
        && list(&package["targets"]).any(|t| list(&t["kind"]).any(|k| k == "lib"))
}
