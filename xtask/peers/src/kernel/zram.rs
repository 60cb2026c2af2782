//! The running kernel's zram. A new disk is added for the turn. It is written and read with direct
//! I/O, a page or 128 KiB at a time.
//!
//! The memory is the total in `mm_stat`, plus an estimate of the kernel's metadata. For each page
//! of the disk that is 16 bytes in the table of slots, 8 bytes for the handle of the page's object,
//! and about 8 bytes for the descriptors of the zspages.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use measure::{Contestant, Memory, Page, Worker};
use rustix::ioctl::{Setter, ioctl, opcode};

use super::{MOMENT, PATIENCE, go_on, insist, is_fit, read, tell_left, watch_signals, write};
use crate::error::{Error, Result};
use crate::source::{PAGE, offset};

const CONTROL: &str = "/sys/class/zram-control";
const HOT_ADD: &str = "/sys/class/zram-control/hot_add";
const HOT_REMOVE: &str = "/sys/class/zram-control/hot_remove";

/// The algorithms that are measured if the kernel has them.
const WANTED: &[&str] = &["lz4", "lzo", "lzo-rle"];

/// The estimated metadata of the kernel for each page of the disk, in bytes. `mem_used_total` does
/// not include it.
pub(super) const METADATA: usize = 16 + 8 + 8;

/// A zram device that only this process uses. It is removed on drop.
#[derive(Debug)]
pub(super) struct Device {
    id: u32,
}

impl Device {
    /// Adds a device.
    pub(super) fn add() -> Result<Self> {
        is_fit()?;
        if !Path::new(CONTROL).exists() {
            return Err(Error::setup(format!(
                "this kernel has no {CONTROL}; load the module zram"
            )));
        }
        watch_signals();
        let text = read(HOT_ADD)?;
        let id = text.trim().parse();
        let device =
            Device { id: id.map_err(|_| Error::setup(format!("{HOT_ADD} gave {text:?}")))? };
        insist(MOMENT, || if Path::new(&device.node()).exists() { Ok(()) } else { Err(()) })
            .map_err(|()| Error::setup(format!("{} has not come into being", device.node())))?;
        Ok(device)
    }

    pub(super) fn node(&self) -> String {
        format!("/dev/zram{}", self.id)
    }

    pub(super) fn attribute(&self, name: &str) -> String {
        format!("/sys/block/zram{}/{name}", self.id)
    }

    fn algorithms(&self) -> Result<Vec<String>> {
        Ok(algorithms(&read(&self.attribute("comp_algorithm"))?))
    }

    /// Gives the device `pages` pages, which it compresses with `algorithm`.
    pub(super) fn set_up(&self, algorithm: &str, pages: usize) -> Result<()> {
        let listed = self.algorithms()?;
        if !listed.iter().any(|name| name == algorithm) {
            let reason =
                format!("the kernel's zram has no {algorithm:?}; it has {}", listed.join(", "));
            return Err(Error::setup(reason));
        }
        write(&self.attribute("comp_algorithm"), algorithm)?;
        write(&self.attribute("disksize"), &(pages * PAGE).to_string())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // A program that watches for new devices may keep this one open for a moment.
        let gone = insist(PATIENCE, || write(&self.attribute("reset"), "1"))
            .and_then(|()| insist(PATIENCE, || write(HOT_REMOVE, &self.id.to_string())));
        tell_left(&self.node(), gone);
    }
}

/// Returns the names in a line such as `lzo [lz4]`. The kernel puts the chosen one in brackets.
fn algorithms(line: &str) -> Vec<String> {
    line.split_whitespace().map(|name| name.trim_matches(['[', ']']).to_owned()).collect()
}

/// Returns the algorithms that can be measured here. If there are none, returns the reason as the
/// error.
///
/// To find out, this adds a device and removes it, which takes a few milliseconds.
pub(crate) fn offered() -> Result<Vec<String>, String> {
    let listed = Device::add().and_then(|device| device.algorithms());
    let listed = listed.map_err(|error| error.to_string())?;
    let wanted: Vec<String> =
        WANTED.iter().filter(|&w| listed.iter().any(|l| l == w)).map(|&w| w.to_owned()).collect();
    if wanted.is_empty() {
        return Err(format!("it has {} and none of {}", listed.join(", "), WANTED.join(", ")));
    }
    Ok(wanted)
}

/// A disk of the kernel's zram.
#[derive(Debug)]
pub(crate) struct Zram {
    // Declared before the device, so that the file is closed first. An open file would keep the
    // device busy.
    file: File,
    device: Device,
    pages: usize,
}

impl Zram {
    /// Makes a disk of `pages` pages that compresses with `algorithm`.
    pub(crate) fn new(algorithm: &str, pages: usize) -> Result<Self> {
        let device = Device::add()?;
        device.set_up(algorithm, pages)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_DIRECT);
        let failed = |reason| Error::System { what: "cannot open", path: device.node(), reason };
        let file = insist(MOMENT, || options.open(device.node())).map_err(failed)?;
        Ok(Zram { file, device, pages })
    }
}

impl Contestant<Error> for Zram {
    fn worker(&self) -> Result<Box<dyn Worker<Error> + '_>> {
        Ok(Box::new(Hand(&self.file)))
    }

    fn free(&self, page: usize) -> Result<()> {
        const BLKDISCARD: rustix::ioctl::Opcode = opcode::none(0x12, 119);
        // SAFETY: the number is that of BLKDISCARD. Its argument is an array of two 64-bit numbers:
        // an offset and a length.
        let range = unsafe { Setter::<BLKDISCARD, [u64; 2]>::new([offset(page), PAGE as u64]) };
        // SAFETY: the request only reads its argument. It writes no memory of this process.
        let discarded = unsafe { ioctl(&self.file, range) };
        discarded.map_err(|error| Error::keeps("a discard", page, error))
    }

    fn tidy(&self) -> Result<()> {
        write(&self.device.attribute("compact"), "1")
    }

    fn memory(&self) -> Result<Memory> {
        let path = self.device.attribute("mm_stat");
        let text = read(&path)?;
        let stat = MmStat::parse(&text)
            .ok_or_else(|| Error::setup(format!("{path} cannot be parsed: {text:?}")))?;
        let metadata = self.pages * METADATA;
        Ok(Memory {
            compressed_bytes: Some(stat.compr_data_size),
            resident_bytes: Some(stat.mem_used_total + metadata),
            metadata_bytes: Some(metadata),
            pool: None,
        })
    }
}

/// The second and third numbers of `mm_stat`, in bytes.
#[derive(Debug, PartialEq, Eq)]
struct MmStat {
    compr_data_size: usize,
    mem_used_total: usize,
}

impl MmStat {
    fn parse(line: &str) -> Option<Self> {
        let numbers: Option<Vec<usize>> =
            line.split_whitespace().take(3).map(|number| number.parse().ok()).collect();
        match numbers?[..] {
            [_, compr_data_size, mem_used_total] => {
                Some(MmStat { compr_data_size, mem_used_total })
            }
            _ => None,
        }
    }
}

/// Returns the bytes that a device uses in all, from the line of its `mm_stat`.
pub(crate) fn used(line: &str) -> Option<usize> {
    MmStat::parse(line).map(|stat| stat.mem_used_total)
}

struct Hand<'a>(&'a File);

impl Worker<Error> for Hand<'_> {
    fn store(&mut self, first: usize, pages: &[Page]) -> Result<()> {
        go_on()?;
        self.0
            .write_all_at(pages.as_flattened(), offset(first))
            .map_err(|error| Error::keeps("a write", first, error))
    }

    fn load(&mut self, first: usize, into: &mut [Page]) -> Result<bool> {
        go_on()?;
        let read = self.0.read_exact_at(into.as_flattened_mut(), offset(first));
        read.map_err(|error| Error::keeps("a read", first, error))?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::shared;
    use measure::Pages;

    #[test]
    fn lines_of_the_kernel_are_understood() {
        assert_eq!(algorithms("[lzo-rle] lzo lz4 \n"), ["lzo-rle", "lzo", "lz4"]);
        assert_eq!(algorithms("\n"), [""; 0]);
        let line =
            "  65536    20480    24576        0    28672        3        1        2        2\n";
        let stat = MmStat { compr_data_size: 20480, mem_used_total: 24576 };
        assert_eq!(MmStat::parse(line), Some(stat));
        assert_eq!(MmStat::parse("65536 20480"), None);
        assert_eq!(MmStat::parse("65536 x 24576"), None);
    }

    #[test]
    fn pages_come_back_and_the_device_goes() {
        let _alone = shared::alone();
        let algorithms = match offered() {
            Ok(algorithms) => algorithms,
            Err(reason) => {
                let elsewhere = ["has not come into being", "and none of"];
                let possible = is_fit().is_ok() && File::open(HOT_ADD).is_ok();
                assert!(!possible || elsewhere.iter().any(|why| reason.contains(why)), "{reason}");
                return println!("skipped: the kernel's zram: {reason}");
            }
        };
        assert!(Zram::new("no-such-algorithm", 64).is_err());
        for algorithm in algorithms {
            for unit in [1, 32] {
                let zram = Zram::new(&algorithm, 64).unwrap();
                let node = zram.device.node();
                for seed in [1, 2] {
                    let pages = shared::pages(64, seed);
                    let mut worker = zram.worker().unwrap();
                    for first in (0..64).step_by(unit) {
                        worker.store(first, &pages[first..first + unit]).unwrap();
                    }
                    for first in (0..64).step_by(unit) {
                        let mut loaded = Pages::filled(0xa5, unit);
                        assert!(worker.load(first, &mut loaded).unwrap());
                        assert_eq!(loaded[..], pages[first..first + unit]);
                    }
                }
                let full = zram.memory().unwrap();
                let compressed = full.compressed_bytes.unwrap();
                assert!((64..64 * PAGE / 2).contains(&compressed), "{full:?}");
                assert!(full.resident_bytes.unwrap() > compressed, "{full:?}");
                (0..48).for_each(|page| zram.free(page).unwrap());
                let freed = zram.memory().unwrap().compressed_bytes.unwrap();
                assert!(freed * 2 < compressed, "{freed} of {full:?}");
                zram.tidy().unwrap();
                drop(zram);
                assert!(!Path::new(&node).exists());
            }
        }
    }
}
