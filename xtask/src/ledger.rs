//! Records the progress of long jobs, so that a stopped job resumes where it stopped.
//!
//! A ledger is a small JSON file under the target directory. For each entry it records how many
//! seconds the entry ran and for which state, such as a commit or a built binary. The seconds count
//! only for that state. A file that cannot be parsed counts as an empty ledger: work is then
//! repeated, which does no harm.
//!
//! After every change the whole ledger is written to a new file, which is then renamed over the old
//! one. So a stop loses no earlier entry. If two jobs write the same ledger at the same time, they
//! overwrite each other's entries.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    entries: Map<String, Value>,
}

impl Ledger {
    /// Reads the ledger from the file at `path`. The ledger is empty if the file cannot be read or
    /// parsed.
    pub(crate) fn open(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let entries = std::fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Self { path, entries }
    }

    /// Returns how many seconds `entry` ran in `state`. Returns `None` if nothing is recorded for
    /// it, or only another state.
    pub(crate) fn seconds(&self, entry: &str, state: &str) -> Option<u64> {
        let account = self.entries.get(entry)?;
        if account["state"] == state { account["seconds"].as_u64() } else { None }
    }

    /// Records that `entry` ran for `seconds` in `state`, and writes the file. Replaces the earlier
    /// record of the entry, even one for another state.
    pub(crate) fn set(&mut self, entry: &str, state: &str, seconds: u64) -> Result<()> {
        self.entries.insert(entry.to_owned(), json!({ "state": state, "seconds": seconds }));
        self.write()
    }

    /// Removes the record of `entry` and writes the file.
    pub(crate) fn forget(&mut self, entry: &str) -> Result<()> {
        self.entries.remove(entry);
        self.write()
    }

    fn write(&self) -> Result<()> {
        self.replace().map_err(|source| Error::Read { path: self.path.clone(), source })
    }

    fn replace(&self) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new(""));
        std::fs::create_dir_all(folder)?;
        let mut new = tempfile::NamedTempFile::new_in(folder)?;
        writeln!(new, "{:#}", Value::Object(self.entries.clone()))?;
        new.persist(&self.path)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the path of a file for one test. Its directory does not exist yet, and no other test
    /// uses it.
    fn file(test: &str) -> PathBuf {
        let name = format!("xtask-ledger-{}-{test}", std::process::id());
        std::env::temp_dir().join(name).join("ledger.json")
    }

    fn remove(path: &std::path::Path) {
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn what_was_done_is_there_after_a_stop() {
        let path = file("stop");
        let mut ledger = Ledger::open(&path);
        assert_eq!(ledger.seconds("zbud", "one"), None);
        ledger.set("zbud", "one", 60).unwrap();
        ledger.set("z3fold", "one", 7).unwrap();
        ledger.set("zbud", "one", 120).unwrap();
        let again = Ledger::open(&path);
        assert_eq!(again.seconds("zbud", "one"), Some(120));
        assert_eq!(again.seconds("z3fold", "one"), Some(7));
        remove(&path);
    }

    #[test]
    fn another_state_starts_anew() {
        let path = file("state");
        let mut ledger = Ledger::open(&path);
        ledger.set("zbud", "one", 60).unwrap();
        assert_eq!(ledger.seconds("zbud", "two"), None);
        ledger.set("zbud", "two", 1).unwrap();
        assert_eq!(ledger.seconds("zbud", "two"), Some(1));
        assert_eq!(Ledger::open(&path).seconds("zbud", "one"), None, "one state at a time");
        remove(&path);
    }

    #[test]
    fn what_is_forgotten_is_forgotten_after_a_stop_too() {
        let path = file("forget");
        let mut ledger = Ledger::open(&path);
        ledger.set("zbud", "one", 60).unwrap();
        ledger.set("z3fold", "one", 60).unwrap();
        ledger.forget("zbud").unwrap();
        let again = Ledger::open(&path);
        assert_eq!(again.seconds("zbud", "one"), None);
        assert_eq!(again.seconds("z3fold", "one"), Some(60));
        remove(&path);
    }

    #[test]
    fn a_file_that_cannot_be_understood_is_an_empty_ledger() {
        for text in ["", "{\"zbud\": ", "[1]", "{\"zbud\": 3}", "{\"zbud\": {\"state\": \"one\"}}"]
        {
            let path = file("broken");
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            let mut ledger = Ledger::open(&path);
            assert_eq!(ledger.seconds("zbud", "one"), None, "{text}");
            ledger.set("zbud", "one", 2).unwrap();
            assert_eq!(Ledger::open(&path).seconds("zbud", "one"), Some(2), "{text}");
            remove(&path);
        }
    }

    #[test]
    fn a_ledger_that_cannot_be_written_says_which() {
        let error = Ledger::open("/dev/null/no/ledger.json").set("zbud", "one", 1).unwrap_err();
        assert!(error.to_string().contains("/dev/null/no/ledger.json"), "{error}");
    }
}
