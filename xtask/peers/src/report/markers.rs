//! Fills in the generated parts of a page. Each part is between two marker lines that have its
//! name. The rest of the page is kept.

use crate::error::{Error, Result};

/// A generated part: its name and its text.
pub(super) type Part = (&'static str, String);

fn begin(name: &str) -> String {
    format!("<!-- generated: {name} -->")
}

fn end(name: &str) -> String {
    format!("<!-- end: {name} -->")
}

/// Returns `text` with each part put between its markers, in place of what was there. Errors call
/// the page `page`.
///
/// # Errors
///
/// [`Error::Marker`] if a marker is missing, occurs twice, is inside another part, or has the name
/// of no part.
pub(super) fn fill(page: &str, text: &str, parts: &[Part]) -> Result<String> {
    let wrong =
        |marker: String, problem| Err(Error::Marker { page: page.to_owned(), marker, problem });
    let mut filled = String::with_capacity(text.len());
    let mut open: Option<&str> = None;
    let mut seen: Vec<&str> = Vec::new();
    for line in text.lines() {
        let named =
            |start: &str| line.trim().strip_prefix(start)?.strip_suffix("-->").map(str::trim);
        if let Some(name) = named("<!-- generated:") {
            let Some((known, part)) = parts.iter().find(|part| part.0 == name) else {
                return wrong(begin(name), "names no part that there is");
            };
            if seen.contains(known) {
                return wrong(begin(name), "is there twice");
            }
            if let Some(before) = open {
                return wrong(end(before), "is missing");
            }
            seen.push(known);
            open = Some(known);
            filled.extend([&begin(known), "\n"]);
            if !part.is_empty() {
                filled.extend([part.trim_end(), "\n"]);
            }
        } else if let Some(name) = named("<!-- end:") {
            match open {
                Some(before) if before == name => open = None,
                Some(before) => return wrong(end(before), "is missing"),
                None if seen.contains(&name) => return wrong(end(name), "is there twice"),
                None => return wrong(begin(name), "is missing"),
            }
            filled.extend([&end(name), "\n"]);
        } else if open.is_none() {
            filled.extend([line, "\n"]);
        }
    }
    if let Some(name) = open {
        return wrong(end(name), "is missing");
    }
    match parts.iter().find(|part| !seen.contains(&part.0)) {
        Some((name, _)) => wrong(begin(name), "is missing"),
        None => Ok(filled),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# Mine\n\n<!-- generated: a -->\nold\n\nolder\n<!-- end: a -->\nwords of mine\n\
                        <!-- generated: b -->\n<!-- end: b -->\nlast\n";

    fn parts() -> [Part; 2] {
        [("a", "new\nlines\n".into()), ("b", String::new())]
    }

    #[test]
    fn parts_are_replaced_and_everything_else_is_kept() {
        let filled = fill("page", PAGE, &parts()).unwrap();
        assert_eq!(filled, PAGE.replace("old\n\nolder\n", "new\nlines\n"));
        assert_eq!(fill("page", &filled, &parts()).unwrap(), filled);
        let back = fill("page", &filled, &[("a", "old\n\nolder".into()), ("b", String::new())]);
        assert_eq!(back.unwrap(), PAGE);
    }

    #[test]
    fn a_marker_that_is_missing_or_doubled_is_an_error_that_names_it() {
        for (from, to, marker, problem) in [
            ("<!-- generated: a -->\n", "", "<!-- generated: a -->", "is missing"),
            ("<!-- end: a -->\n", "", "<!-- end: a -->", "is missing"),
            ("<!-- end: b -->\n", "", "<!-- end: b -->", "is missing"),
            ("last", "<!-- generated: a -->", "<!-- generated: a -->", "is there twice"),
            ("last", "<!-- end: b -->", "<!-- end: b -->", "is there twice"),
            ("old", "<!-- generated: a -->", "<!-- generated: a -->", "is there twice"),
            ("last", "<!-- generated: c -->", "<!-- generated: c -->", "names no part"),
            ("<!-- generated: b -->\n<!-- end: b -->\n", "", "<!-- generated: b -->", "is missing"),
        ] {
            assert!(PAGE.contains(from));
            let error = fill("some page", &PAGE.replace(from, to), &parts()).unwrap_err();
            let said = error.to_string();
            assert!(said.contains("some page") && said.contains(marker), "{said}");
            assert!(said.contains(problem), "{from}: {said}");
        }
    }
}
