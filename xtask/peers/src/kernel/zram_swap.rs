//! Swap on a zram device of its own, and memory cgroups whose processes may use it.
//!
//! While it is set up, `vm.page-cluster` is 0, so that a page fault brings in only one page, and
//! zswap is off. On drop the swap is switched off, the device is removed, and both settings are
//! restored. A cgroup is removed on drop; its processes must have ended by then.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::setting::Settings;
use super::swap_file::SwapArea;
use super::zram::{Device, METADATA};
use super::{MOMENT, PATIENCE, insist, read, tell_left, write};
use crate::error::{Error, Result};

const PAGE_CLUSTER: &str = "/proc/sys/vm/page-cluster";
const ZSWAP: &str = "/sys/module/zswap/parameters/enabled";
/// Where the system mounts the memory controller's own hierarchy, and the unified one.
const HIERARCHIES: [&str; 2] = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"];

#[derive(Debug)]
pub(crate) struct ZramSwap {
    // Fields are dropped in this order.
    _area: SwapArea,
    device: Device,
    pages: usize,
    _settings: Settings,
    _lock: File,
}

impl ZramSwap {
    /// Makes swap of `pages` pages, which zram compresses with `algorithm`.
    pub(crate) fn new(algorithm: &str, pages: usize) -> Result<Self> {
        let device = Device::add()?;
        let lock = lock()?;
        let mut settings = Settings::default();
        settings.set(PAGE_CLUSTER, "0")?;
        if Path::new(ZSWAP).exists() {
            settings.set(ZSWAP, "N")?;
        }
        // One more, for the header.
        device.set_up(algorithm, pages + 1)?;
        let node = PathBuf::from(device.node());
        let failed = |reason| Error::System {
            what: "cannot swap on",
            path: node.display().to_string(),
            reason,
        };
        let open = || OpenOptions::new().read(true).write(true).open(&node);
        let file = insist(MOMENT, open).map_err(failed)?;
        let last = u32::try_from(pages).map_err(|_| failed(io::ErrorKind::InvalidInput.into()))?;
        let area = SwapArea::new(&node, &file, last).map_err(failed)?;
        Ok(ZramSwap { _area: area, device, pages, _settings: settings, _lock: lock })
    }

    /// Returns the path of the file in which the kernel counts the device's memory.
    pub(crate) fn mm_stat(&self) -> String {
        self.device.attribute("mm_stat")
    }

    /// Returns the estimated metadata of the device, which `mm_stat` does not count.
    pub(crate) fn metadata(&self) -> usize {
        self.pages * METADATA
    }
}

/// Makes sure that no other run of this program changes the same settings.
fn lock() -> Result<File> {
    let failed = |reason| Error::System { what: "cannot lock", path: PAGE_CLUSTER.into(), reason };
    let file = File::open(PAGE_CLUSTER).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(Error::setup("another run measures the kernel's swap; wait until it has ended"))
        }
        Err(error) => Err(failed(error.into())),
    }
}

/// A memory cgroup.
#[derive(Debug)]
pub(crate) struct Group {
    path: PathBuf,
    usage: &'static str,
}

impl Group {
    /// Makes a group whose processes may have `limit` bytes in memory together. Without a limit
    /// their memory is only counted.
    pub(crate) fn new(limit: Option<usize>) -> Result<Self> {
        let name = format!("zswap-peers-{}", std::process::id());
        let mut why = String::from("no memory controller is mounted");
        for root in HIERARCHIES {
            let path = Path::new(root).join(&name);
            if !Path::new(root).join("cgroup.procs").exists() {
                continue;
            }
            if let Err(error) = std::fs::create_dir(&path) {
                why = format!("{}: {error}", path.display());
                continue;
            }
            let mut group = Group { path, usage: "memory.usage_in_bytes" };
            let mut bound = "memory.limit_in_bytes";
            if !group.path.join(group.usage).exists() {
                (group.usage, bound) = ("memory.current", "memory.max");
            }
            if !group.path.join(group.usage).exists() {
                why = format!("{root} has no memory controller for its groups");
                continue;
            }
            if let Some(limit) = limit {
                write(&group.path.join(bound).display().to_string(), &limit.to_string())?;
            }
            return Ok(group);
        }
        Err(Error::setup(format!("no memory cgroup can be made: {why}")))
    }

    /// Returns the path of the file that takes the number of a process which joins.
    pub(crate) fn procs(&self) -> String {
        self.path.join("cgroup.procs").display().to_string()
    }

    /// Returns the path of the file in which the kernel counts the group's memory.
    pub(crate) fn usage(&self) -> String {
        self.path.join(self.usage).display().to_string()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let gone = insist(PATIENCE, || std::fs::remove_dir(&self.path));
        tell_left(&self.path.display().to_string(), gone);
    }
}

/// Moves this process into the group that `procs` belongs to.
pub(crate) fn join(procs: &str) -> Result<()> {
    write(procs, &std::process::id().to_string())
}

/// Returns the number in the file at `path`.
pub(crate) fn number(path: &str) -> Result<usize> {
    let text = read(path)?;
    text.trim().parse().map_err(|_| Error::setup(format!("{path} is no number: {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::shared;

    #[test]
    fn swap_and_group_come_and_go() {
        let _alone = shared::alone();
        let swap = match ZramSwap::new("lz4", 256) {
            Ok(swap) => swap,
            Err(reason) => return println!("skipped: swap on zram: {reason}"),
        };
        let node = swap.device.node();
        assert!(read("/proc/swaps").unwrap().contains(&node));
        assert!(super::super::zram::used(&read(&swap.mm_stat()).unwrap()).is_some());
        match Group::new(Some(1 << 20)) {
            Ok(group) => {
                assert_eq!(number(&group.usage()).unwrap(), 0);
                let path = group.path.clone();
                drop(group);
                assert!(!path.exists());
            }
            Err(reason) => println!("skipped: a memory cgroup: {reason}"),
        }
        drop(swap);
        assert!(!read("/proc/swaps").unwrap().contains(&node));
        assert!(!Path::new(&node).exists());
    }
}
