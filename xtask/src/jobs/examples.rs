//! Runs the examples of all crates: first the tests in them, then each program.
//!
//! The job finds the examples by listing the `examples` folder of each crate, so no example can be
//! forgotten. Each program checks its own results and fails if they are wrong.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::cmd::Cmd;
use crate::error::{Error, Result};
use crate::workspace::{Workspace, text};

/// The arguments of examples whose usual run is large.
const SMALL: &[(&str, &str)] =
    &[("demo", "--mib 48 --budget 24 --seconds 1"), ("huge_map", "48 32")];

pub(crate) fn run(ws: &Workspace) -> Result<()> {
    Cmd::line("cargo test --workspace --examples --features zswap-region/allocator").run()?;
    let folder = ws.build_for_tests()?.join("examples");
    let mut ran = 0;
    for package in ws.packages() {
        let home = Path::new(text(&package["manifest_path"])).with_file_name("examples");
        for example in examples_in(&home)? {
            let arguments = SMALL.iter().filter(|(name, _)| *name == example);
            Cmd::new(&folder.join(&example).display().to_string())
                .args(arguments.flat_map(|(_, arguments)| arguments.split(' ')))
                .run()?;
            ran += 1;
        }
    }
    if ran == 0 {
        return Err(Error::NothingRan { krate: "examples".to_owned(), what: "example" });
    }
    println!("examples: {ran} ran with correct results");
    Ok(())
}

/// Returns the names of the examples in a folder, sorted. As for cargo, an example is a Rust file,
/// or a folder with a `main.rs`. Returns nothing if the folder does not exist.
fn examples_in(home: &Path) -> Result<Vec<String>> {
    let failed = |source| Error::Read { path: home.to_owned(), source };
    let entries = match fs::read_dir(home) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let is_file = path.extension().is_some_and(|extension| extension == "rs");
        if is_file || path.join("main.rs").is_file() {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_of_a_folder_is_found() {
        let home = std::env::temp_dir().join(format!("xtask-examples-{}", std::process::id()));
        assert_eq!(examples_in(&home).unwrap(), [""; 0]);
        for folder in ["with_main", "helpers"] {
            fs::create_dir_all(home.join(folder)).unwrap();
        }
        for file in ["b.rs", "a.rs", "notes.md", "with_main/main.rs", "helpers/mod.rs"] {
            fs::write(home.join(file), "").unwrap();
        }
        let found = examples_in(&home).unwrap();
        fs::remove_dir_all(&home).unwrap();
        assert_eq!(found, ["a", "b", "with_main"]);
    }
}
