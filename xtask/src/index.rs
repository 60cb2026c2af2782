//! A registry on disk that replaces crates.io. It is a folder with the third-party packages that
//! the lock file names, and with our packages once they are published to it.
//!
//! The folder is what cargo calls a directory source. Cargo takes packages from it as from a
//! registry. A package that is not in the folder does not exist for cargo.

use std::path::{Path, PathBuf};

use crate::cmd::Cmd;
use crate::error::Result;
use crate::folder;

#[derive(Debug)]
pub(crate) struct Index {
    folder: PathBuf,
}

impl Index {
    /// Makes an index without packages.
    pub(crate) fn empty(folder: &Path) -> Result<Self> {
        folder::renew(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// Makes an index with the third-party packages that the workspace's lock file names.
    pub(crate) fn of_third_parties(folder: &Path) -> Result<Self> {
        let index = Self::empty(folder)?;
        let vendor = Cmd::line("cargo vendor --quiet --locked --versioned-dirs");
        // `cargo vendor` prints the configuration for using the folder. It is not needed here,
        // since `Index::cargo` sets it.
        vendor.arg(folder.display().to_string()).capture()?;
        Ok(index)
    }

    /// Makes a cargo command that takes packages from this index only, in place of crates.io.
    pub(crate) fn cargo(&self, command: &str) -> Cmd {
        Cmd::new("cargo")
            .args([command, "--offline", "--config", r#"source.crates-io.replace-with="index""#])
            .arg("--config")
            .arg(format!("source.index.directory={:?}", self.folder.display().to_string()))
    }

    /// Unpacks an archive, made by `cargo package`, into the index. Returns the folder of the
    /// unpacked package.
    pub(crate) fn publish(&self, archive: &Path) -> Result<PathBuf> {
        Cmd::line("tar -xzf")
            .arg(archive.display().to_string())
            .arg("-C")
            .arg(self.folder.display().to_string())
            .run()?;
        let package = self.folder.join(archive.file_stem().unwrap_or_default());
        folder::write(&package.join(".cargo-checksum.json"), r#"{"files": {}}"#)?;
        Ok(package)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a package that has only a manifest and an empty library, and packs it. Returns the
    /// path of the archive, or cargo's error output.
    fn pack(
        index: &Index,
        folder: &Path,
        name: &str,
        dependency: &str,
    ) -> std::result::Result<PathBuf, String> {
        let package = folder.join(name);
        std::fs::create_dir_all(package.join("src")).unwrap();
        folder::write(&package.join("src/lib.rs"), "").unwrap();
        let manifest = format!(
            "[package]\nname = {name:?}\nversion = \"1.0.0\"\nedition = \"2021\"\n\
             [dependencies]\n{dependency}\n[workspace]\n"
        );
        folder::write(&package.join("Cargo.toml"), &manifest).unwrap();
        let (packed, said) = index
            .cargo("package")
            .args(["--no-verify", "--manifest-path"])
            .arg(package.join("Cargo.toml").display().to_string())
            .env("CARGO_TARGET_DIR", folder.join("target").display().to_string())
            .verdict()
            .unwrap();
        let archive = folder.join("target/package").join(format!("{name}-1.0.0.crate"));
        if packed { Ok(archive) } else { Err(said) }
    }

    #[test]
    fn a_package_finds_what_was_published_before_it_by_the_name_it_was_published_under() {
        let folder = tempfile::tempdir().unwrap();
        let index = Index::empty(&folder.path().join("index")).unwrap();
        let first = pack(&index, folder.path(), "zfirst", "").unwrap();

        let by_name = r#"zfirst = { path = "../zfirst", version = "1" }"#;
        let early = pack(&index, folder.path(), "zsecond", by_name).unwrap_err();
        assert!(early.contains("`zfirst`"), "{early}");

        index.publish(&first).unwrap();
        pack(&index, folder.path(), "zsecond", by_name).unwrap();

        let of_others = r#"first = "1""#;
        let renamed = pack(&index, folder.path(), "zsecond", of_others).unwrap_err();
        assert!(renamed.contains("`first`"), "{renamed}");
    }
}
