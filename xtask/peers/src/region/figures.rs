//! The figures of all rounds, and the rows that set one beside another.

use std::collections::BTreeMap;

use measure::median;

/// For each figure its value in each round, in nanoseconds a page unless its name says otherwise.
#[derive(Debug, Default)]
pub(crate) struct Figures(BTreeMap<String, Vec<f64>>);

/// One comparison. `own` and `beside` are names of figures.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) what: &'static str,
    pub(crate) codec: String,
    pub(crate) own: String,
    pub(crate) beside: String,
    /// The ratio to reach.
    pub(crate) target: Option<f64>,
}

impl Figures {
    pub(crate) fn add(&mut self, name: impl Into<String>, value: f64) {
        self.0.entry(name.into()).or_default().push(value);
    }

    pub(crate) fn median(&self, name: &str) -> Option<f64> {
        median(self.0.get(name)?.clone())
    }

    /// Returns the name and the median of each figure.
    pub(crate) fn into_medians(self) -> Vec<(String, f64)> {
        let each = self.0.into_iter();
        each.filter_map(|(name, values)| Some((name, median(values)?))).collect()
    }

    /// Returns the ratio of two medians, and the least and the greatest ratio of a single round.
    pub(crate) fn ratio(&self, own: &str, beside: &str) -> Option<[f64; 3]> {
        let ratio = self.median(own)? / self.median(beside)?;
        let rounds =
            self.0.get(own)?.iter().zip(self.0.get(beside)?).map(|(own, beside)| own / beside);
        let (least, most) = rounds.fold((f64::INFINITY, 0f64), |(a, b), r| (a.min(r), b.max(r)));
        Some([ratio, least, most])
    }

    /// Returns a table of the rows whose figures both exist.
    pub(crate) fn rows(&self, rows: &[Row]) -> String {
        let mut table = String::from(
            "| what | codec | ns a page | beside | ns a page | ratio | of single rounds | to reach | |\n\
             |:--|:--|--:|:--|--:|--:|:-:|--:|:--|\n",
        );
        for Row { what, codec, own, beside, target } in rows {
            let (Some(ratio), Some(a), Some(b)) =
                (self.ratio(own, beside), self.median(own), self.median(beside))
            else {
                continue;
            };
            let [ratio, least, most] = ratio;
            let (target, verdict) = verdict(ratio, *target);
            table.push_str(&format!(
                "| {what} | {codec} | {a:.0} | {beside} | {b:.0} | **{ratio:.2}** | \
                 {least:.2} to {most:.2} | {target} | {verdict} |\n"
            ));
        }
        table
    }

    /// Returns a table of all medians.
    pub(crate) fn all(&self) -> String {
        let mut table = String::from("| figure | median | rounds |\n|:--|--:|--:|\n");
        for (name, values) in &self.0 {
            let middle = median(values.clone()).unwrap_or_default();
            table.push_str(&format!("| {name} | {middle:.0} | {} |\n", values.len()));
        }
        table
    }
}

/// Returns the ratio to reach as text, and whether it is reached.
pub(crate) fn verdict(ratio: f64, target: Option<f64>) -> (String, &'static str) {
    match target {
        None => (String::new(), ""),
        // What it is compared with did not run.
        Some(_) if ratio.is_nan() => (String::new(), ""),
        Some(target) if ratio <= target => (format!("≤ {target:.2}"), "reached"),
        Some(target) => (format!("≤ {target:.2}"), "MISSED"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_one_of_medians_and_absent_figures_make_no_row() {
        let mut figures = Figures::default();
        for (own, beside) in [(3.0, 1.0), (2.0, 2.0), (8.0, 4.0)] {
            figures.add("own", own);
            figures.add("beside", beside);
        }
        assert_eq!(figures.ratio("own", "beside"), Some([1.5, 1.0, 3.0]));
        assert_eq!(figures.ratio("own", "absent"), None);
        let row = |beside: &str, target| Row {
            what: "what",
            codec: "lz4".to_owned(),
            own: "own".to_owned(),
            beside: beside.to_owned(),
            target,
        };
        let rows = [row("beside", Some(1.5)), row("beside", Some(1.4)), row("absent", None)];
        let text = figures.rows(&rows);
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.contains("reached") && text.contains("MISSED"), "{text}");
        assert!(figures.all().contains("| own | 3 | 3 |"));
    }
}
