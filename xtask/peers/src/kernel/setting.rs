//! Changes settings of the kernel, and restores them on drop. The setting that was changed last is
//! restored first.

use super::{read, tell_left, write};
use crate::error::Result;

#[derive(Debug, Default)]
pub(super) struct Settings(Vec<Setting>);

#[derive(Debug)]
struct Setting {
    path: &'static str,
    before: String,
}

impl Settings {
    /// Changes a setting. Keeps its old value, which the drop restores.
    pub(super) fn set(&mut self, path: &'static str, value: &str) -> Result<()> {
        let before = read(path)?.trim().to_owned();
        if before != value {
            write(path, value)?;
            self.0.push(Setting { path, before });
        }
        Ok(())
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        while let Some(Setting { path, before }) = self.0.pop() {
            tell_left(path, write(path, &before));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_as_before_the_first_change() {
        let path = std::env::temp_dir().join(format!("settings-{}", std::process::id()));
        std::fs::write(&path, "old\n").unwrap();
        let name: &'static str = path.to_str().unwrap().to_owned().leak();
        let mut settings = Settings::default();
        settings.set(name, "new").unwrap();
        settings.set(name, "two").unwrap();
        assert_eq!(read(name).unwrap().trim(), "two");
        assert!(settings.set("/proc/no-such-setting", "1").is_err());
        drop(settings);
        assert_eq!(read(name).unwrap().trim(), "old");
        std::fs::remove_file(path).unwrap();
    }
}
