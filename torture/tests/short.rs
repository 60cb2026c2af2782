//! A short run, and options that must be refused.

use std::time::Duration;

use zswap_torture::action::Action;
use zswap_torture::run::{Options, run};

fn options(seconds: u64) -> Options {
    Options {
        length: Duration::from_secs(seconds),
        threads: 3,
        seed: 5,
        from_round: 0,
        keys: 256,
        only: Vec::new(),
        // The child of a test program inherits the locks of the test harness, so this test does not fork.
        skip: vec![Action::Fork],
    }
}

#[test]
fn two_seconds_judge_many_operations_of_every_kind_on_keys() {
    // It depends on chance whether a run this short finds anything, so that is not tested here.
    let report = run(&options(2), |_| {}).unwrap();
    assert!(report.rounds >= 1 && report.judged > 1000, "{}", report.to_text(5));
    for (action, ran, _) in &report.actions {
        let expected = *action != Action::Area && action.is_of_keys() && report.finding.is_none();
        assert!(!expected || *ran > 0, "{}", report.to_text(5));
    }
    let json = report.to_json(5);
    assert_eq!(json["rounds"], report.rounds);
    assert_eq!(json["seed"], 5);
}

#[test]
fn what_cannot_be_run_is_said() {
    let none = Options { threads: 0, ..options(1) };
    assert!(run(&none, |_| {}).unwrap_err().contains("0 threads"));
    let many = Options { keys: 5000, ..options(1) };
    assert!(run(&many, |_| {}).unwrap_err().contains("5000 keys"));
    let unknown = Options { only: vec!["zlab".to_owned()], ..options(1) };
    assert!(run(&unknown, |_| {}).unwrap_err().contains("zlab"));
}
