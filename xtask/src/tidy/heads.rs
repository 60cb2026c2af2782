//! Rule `head`: a file begins with a `//!` comment that states the idea of the file. Only
//! attributes, empty lines and a `#!/` line may come before the comment.

use super::Finding;
use super::source::Source;

pub(super) fn check(source: &Source) -> Vec<Finding> {
    let first = (0..source.line_count()).find(|&line| {
        let blank = source.raw_line(line).trim().is_empty();
        let shebang = line == 0 && source.raw_line(0).starts_with("#!/");
        let attribute = source.is_attribute_line(line) && source.code_line(line).trim() != "";
        !blank && !shebang && !attribute
    });
    let good = first.is_some_and(|line| {
        source.raw_line(line).strip_prefix("//!").is_some_and(|text| !text.trim().is_empty())
    });
    if good {
        Vec::new()
    } else {
        let line = first.unwrap_or(0) + 1;
        let fix =
            "begin the file with a `//!` head that states its idea, lock rules and invariants";
        vec![Finding::new(source.path(), line, "head", fix)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> usize {
        check(&Source::new("zbud/build.rs", text.to_owned())).len()
    }

    #[test]
    fn a_head_may_follow_attributes_only() {
        assert_eq!(found("//! An idea.\nfn a() {}\n"), 0);
        assert_eq!(found("#![no_main]\n#![allow(\n    x\n)]\n\n//! An idea.\n"), 0);
        assert_eq!(found("use std::io;\n//! late\n"), 1);
        assert_eq!(found("// A plain comment.\n//! late\n"), 1);
        assert_eq!(found("//!\nfn a() {}\n"), 1);
        assert_eq!(found(""), 1);
    }
}
