//! Rule `loom`: in a crate, only `sync.rs` and the loom models name loom.
//!
//! A file counts as a model if its path contains `loom`. So does code that is compiled for tests
//! only.

use super::Finding;
use super::source::Source;

pub(super) fn check(source: &Source) -> Vec<Finding> {
    let path = source.path();
    // The task runner names loom because it runs the models.
    if source.top_dir() == "xtask" || path.ends_with("/src/sync.rs") || path.contains("loom") {
        return Vec::new();
    }
    source
        .words("loom")
        .filter(|&at| !source.is_test_at(at))
        .map(|at| {
            let fix = "take the type or constant from the crate's `sync.rs`, the one place that knows loom";
            Finding::new(path, source.line_at(at) + 1, "loom", fix)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::NONE;

    fn lines_in(path: &str, text: &str) -> Vec<usize> {
        check(&Source::new(path, text.to_owned())).iter().map(|f| f.line).collect()
    }

    #[test]
    fn loom_is_named_in_its_places_only() {
        let text = "use loom::sync::Arc;\n#[cfg(loom)]\nconst A: u8 = 1;\n";
        assert_eq!(lines_in("zbud/src/page.rs", text), [1, 2]);
        assert_eq!(lines_in("zbud/src/sync.rs", text), NONE);
        assert_eq!(lines_in("zbud/src/loom_models.rs", text), NONE);
        assert_eq!(lines_in("zbud/src/page.rs", "// Under loom.\nlet a = bloom();"), NONE);
    }

    #[test]
    fn models_may_stand_beside_the_code() {
        let text = "#[cfg(all(test, loom))]\nmod loom_tests {\n    use loom::model;\n}\n\
                    #[cfg(all(test, not(loom)))]\nmod tests {}\n#[cfg(not(loom))]\nfn a() {}\n";
        assert_eq!(lines_in("zbud/src/page.rs", text), [7]);
    }
}
