//! Reads the samples of an aging run and summarises them.

use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};

/// The memory of a store at one moment of the run. Further fields in the file are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Sample {
    pub(super) mode: String,
    pub(super) operations: u64,
    pub(super) seconds: f64,
    pub(super) stored_pages: u64,
    pub(super) compressed_bytes: u64,
    pub(super) pool_bytes: u64,
    pub(super) pool_per_compressed: f64,
}

/// A mode of compaction, and its samples in the order of their operations.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mode {
    pub(super) name: String,
    pub(super) samples: Vec<Sample>,
}

impl Mode {
    /// Returns the samples of the second half of the run. The half is one of operations, not of
    /// time.
    pub(super) fn last_half(&self) -> &[Sample] {
        let half = self.samples.last().map_or(0, |s| s.operations / 2);
        let first = self.samples.partition_point(|s| s.operations < half);
        self.samples.get(first..).unwrap_or_default()
    }

    /// Splits the samples of the last half of the run in two, and returns by how much the mean of
    /// the later ones exceeds the mean of the earlier ones, in pool bytes per compressed byte.
    /// Returns `None` if the last half has fewer than four samples.
    pub(super) fn drift(&self) -> Option<f64> {
        let half = self.last_half();
        let (third, fourth) = half.split_at(half.len() / 2);
        let mean = |part: &[Sample]| {
            part.iter().map(|s| s.pool_per_compressed).sum::<f64>() / part.len() as f64
        };
        (third.len() > 1).then(|| mean(fourth) - mean(third))
    }
}

/// Reads the samples of an aging run from a file with one JSON object per line. Returns the modes
/// in a fixed order.
pub(super) fn read(path: &Path) -> Result<Vec<Mode>> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|reason| Error::System {
        what: "cannot read",
        path: shown.clone(),
        reason,
    })?;
    let mut modes: Vec<Mode> = Vec::new();
    for (n, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let sample: Sample = serde_json::from_str(line).map_err(|reason| Error::Sample {
            path: shown.clone(),
            line: n + 1,
            reason,
        })?;
        match modes.iter_mut().find(|mode| mode.name == sample.mode) {
            Some(mode) => mode.samples.push(sample),
            None => modes.push(Mode { name: sample.mode.clone(), samples: vec![sample] }),
        }
    }
    let order = ["off", "on-demand", "background"];
    modes.sort_by_key(|mode| order.iter().position(|name| *name == mode.name));
    for mode in &mut modes {
        mode.samples.sort_by_key(|sample| sample.operations);
    }
    Ok(modes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::report) const LINES: &str = r#"
{"mode":"off","operations":0,"seconds":0,"stored_pages":10,"compressed_bytes":1000,"pool_bytes":1100,"metadata_bytes":9,"pool_per_compressed":1.1,"more":[1]}
{"mode":"background","operations":0,"seconds":0,"stored_pages":10,"compressed_bytes":1000,"pool_bytes":1020,"metadata_bytes":9,"pool_per_compressed":1.02}
{"mode":"off","operations":2000,"seconds":60,"stored_pages":12,"compressed_bytes":1000,"pool_bytes":1300,"metadata_bytes":9,"pool_per_compressed":1.3}
{"mode":"off","operations":1000,"seconds":30,"stored_pages":11,"compressed_bytes":1000,"pool_bytes":1200,"metadata_bytes":9,"pool_per_compressed":1.2}
{"mode":"off","operations":1500,"seconds":45,"stored_pages":11,"compressed_bytes":1000,"pool_bytes":1240,"metadata_bytes":9,"pool_per_compressed":1.24}
{"mode":"off","operations":1800,"seconds":50,"stored_pages":11,"compressed_bytes":1000,"pool_bytes":1350,"metadata_bytes":9,"pool_per_compressed":1.35}
"#;

    #[test]
    fn samples_are_put_in_order_and_their_drift_is_that_of_the_last_half() {
        let path = std::env::temp_dir().join(format!("system-aging-{}", std::process::id()));
        std::fs::write(&path, LINES).unwrap();
        let modes = read(&path).unwrap();
        let names: Vec<&str> = modes.iter().map(|mode| mode.name.as_str()).collect();
        assert_eq!(names, ["off", "background"]);
        let operations: Vec<u64> = modes[0].samples.iter().map(|s| s.operations).collect();
        assert_eq!(operations, [0, 1000, 1500, 1800, 2000]);
        assert_eq!(modes[0].last_half().len(), 4);
        assert!((modes[0].drift().unwrap() - (1.325 - 1.22)).abs() < 1e-9);
        assert_eq!(modes[1].drift(), None);
        std::fs::write(&path, format!("{LINES}{{\"mode\":\"off\"}}\n")).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("line 8") && error.contains("operations"), "{error}");
        std::fs::remove_file(&path).unwrap();
    }
}
