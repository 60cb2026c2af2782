//! Describes the machine of a run: its processor, memory and kernel.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) processors: usize,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    /// The system's setting of transparent huge pages, as a list of values; the active value is in
    /// brackets.
    pub(crate) transparent_hugepage: String,
}

impl Machine {
    /// Returns the description of this machine. Fields that the system does not report are empty or
    /// 0; the number of processors is then 1.
    pub(crate) fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let line = |text: &str, key: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(key));
            found.map(|rest| rest.trim_matches([' ', '\t', ':']).to_owned()).unwrap_or_default()
        };
        let memory = line(&read("/proc/meminfo"), "MemTotal");
        let kib: u64 = memory.trim_end_matches("kB").trim().parse().unwrap_or(0);
        let release = read("/proc/sys/kernel/osrelease");
        // Only the version is kept. The rest may name the person who built the kernel.
        let version = |c: char| c.is_ascii_digit() || c == '.';
        Machine {
            processor: line(&read("/proc/cpuinfo"), "model name"),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: kib / 1024,
            kernel: release.trim().split(|c| !version(c)).next().unwrap_or_default().to_owned(),
            transparent_hugepage: read("/sys/kernel/mm/transparent_hugepage/enabled")
                .trim()
                .to_owned(),
        }
    }
}
