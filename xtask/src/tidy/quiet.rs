//! Rule `quiet`: library crates never print, exit or panic on input.
//!
//! Tests, benchmarks, examples, build scripts and the public test suite may.

use super::Finding;
use super::source::Source;

/// Crates whose work it is to print.
const BINARIES: &[&str] = &["zswap-cli", "torture", "xtask", "fuzz"];

const MACROS: &[&str] =
    &["println", "eprintln", "print", "eprint", "panic", "todo", "unimplemented", "dbg"];

pub(super) fn check(source: &Source) -> Vec<Finding> {
    if is_exempt(source) {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut report = |at: usize, what: &str| {
        if !source.is_test_at(at) {
            let line = source.line_at(at) + 1;
            let fix =
                format!("return an error instead of `{what}`: a library leaves that to its caller");
            found.push(Finding::new(source.path(), line, "quiet", fix));
        }
    };
    for name in MACROS {
        for at in source.words(name) {
            if source.code()[at + name.len()..].starts_with('!') {
                report(at, &format!("{name}!"));
            }
        }
    }
    for at in source.words("process") {
        if source.code()[at..].starts_with("process::exit") {
            report(at, "process::exit");
        }
    }
    found
}

fn is_exempt(source: &Source) -> bool {
    let path = source.path();
    BINARIES.contains(&source.top_dir())
        || path.ends_with("build.rs")
        || path.split('/').any(|part| matches!(part, "examples" | "conformance" | "conformance.rs"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::NONE;

    fn lines_in(path: &str, text: &str) -> Vec<usize> {
        check(&Source::new(path, text.to_owned())).iter().map(|f| f.line).collect()
    }

    #[test]
    fn a_library_neither_prints_nor_exits_nor_panics() {
        for bad in [
            "println!(\"a\");",
            "std::eprintln!(\"a\");",
            "core::panic!(\"a\")",
            "todo!()",
            "unimplemented!()",
            "dbg!(a)",
            "std::process::exit(1)",
        ] {
            assert_eq!(lines_in("zbud/src/a.rs", bad), [1], "{bad}");
            assert_eq!(lines_in("zswap-cli/src/a.rs", bad), NONE, "{bad}");
            assert_eq!(lines_in("zpool-api/src/conformance/a.rs", bad), NONE, "{bad}");
            assert_eq!(lines_in("zbud/tests/a.rs", bad), NONE, "{bad}");
            let test = format!("#[cfg(test)]\nmod tests {{ fn a() {{ {bad} }} }}\n");
            assert_eq!(lines_in("zbud/src/a.rs", &test), NONE, "{bad}");
        }
    }

    #[test]
    fn names_comments_and_strings_are_not_calls() {
        let good =
            "// panic!()\n/// println!(\"x\")\nfn panic() { a(\"todo!()\"); catch_panic!(); }";
        assert_eq!(lines_in("zbud/src/a.rs", good), NONE);
    }
}
