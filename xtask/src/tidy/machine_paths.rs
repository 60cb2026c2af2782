//! Rule `path`: no file names a directory of its author's machine, such as a home directory.

use super::Finding;

/// Top-level directories that belong to a user or to one machine.
const DIRECTORIES: &[&str] = &["root", "home", "work"];

pub(super) fn check(path: &str, text: &str) -> Vec<Finding> {
    let marks: Vec<String> = DIRECTORIES.iter().map(|name| format!("/{name}/")).collect();
    let mut found = Vec::new();
    for (line, text) in text.lines().enumerate() {
        for mark in marks.iter().filter(|mark| text.contains(mark.as_str())) {
            let fix = format!("write a path relative to the project instead of one under `{mark}`");
            found.push(Finding::new(path, line + 1, "path", fix));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_a_machine_are_seen_in_any_text() {
        for name in DIRECTORIES {
            let text = format!("fine\nlet a = \"/{name}/b\";\n");
            let found = check("docs/a.md", &text);
            assert_eq!(found.iter().map(|f| f.line).collect::<Vec<_>>(), [2], "{name}");
        }
        assert_eq!(check("docs/a.md", "/usr/lib, work/lib, /roots/, home\n"), []);
    }
}
