//! Parses the output of `cargo test`, and selects the crates that a job tests.

use crate::error::{Error, Result};

/// Returns how many tests passed, summed over all test programs. Each program ends its part of
/// `output` with a line that begins with `test result:`.
pub(crate) fn passed(output: &str) -> usize {
    output
        .lines()
        .filter_map(|line| line.strip_prefix("test result: "))
        .filter_map(|rest| rest.split_once(". ")?.1.split_once(" passed")?.0.parse::<usize>().ok())
        .sum()
}

/// Returns the names in `known` that are also in `asked`, or all of `known` if `asked` is empty.
/// Fails if a name in `asked` is not in `known`.
pub(crate) fn choose<'a>(
    job: &'static str,
    known: &[&'a str],
    asked: &[String],
) -> Result<Vec<&'a str>> {
    if let Some(krate) = asked.iter().find(|a| !known.contains(&a.as_str())) {
        return Err(Error::UnknownCrate {
            job,
            krate: krate.clone(),
            known: known.iter().map(|&k| k.to_owned()).collect(),
        });
    }
    let wanted = |name: &&str| asked.is_empty() || asked.iter().any(|a| a == name);
    Ok(known.iter().copied().filter(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_tests_are_summed_over_binaries() {
        let output = "running 2 tests\n\
            test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 5 filtered out\n\
            test result: ok. 11 passed; 0 failed; 0 ignored\n";
        assert_eq!(passed(output), 13);
    }

    #[test]
    fn a_filter_that_matches_nothing_counts_none() {
        assert_eq!(passed("test result: ok. 0 passed; 0 failed; 9 filtered out\n"), 0);
        assert_eq!(passed(""), 0);
    }

    #[test]
    fn a_job_runs_all_its_crates_or_those_asked_for() {
        let known = ["zpool-api", "zbud"];
        assert_eq!(choose("x", &known, &[]).unwrap(), known);
        assert_eq!(choose("x", &known, &["zbud".to_owned()]).unwrap(), ["zbud"]);
        let error = choose("x", &known, &["zbus".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("zbus") && error.contains("zpool-api, zbud"), "{error}");
    }
}
