//! The target's mappings, and which of them may be sampled.

use std::fs;
use std::ops::Range;

use super::SampleError;
use super::choose::Extent;
use super::status;

/// One line of `/proc/PID/maps`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Mapping {
    /// The addresses that it maps.
    pub(crate) range: Range<u64>,
    readable: bool,
    accessible: bool,
    private: bool,
    name: String,
}

/// The longest inaccessible mapping that counts as the guard of the stack above it, in bytes.
/// Allocators reserve far more than this below or beside their heaps; stacks are guarded by a few pages.
const GUARD: u64 = 1 << 20;

/// Reads and parses the target's mappings.
pub(crate) fn read(pid: i32) -> Result<Vec<Mapping>, SampleError> {
    let text = fs::read_to_string(format!("/proc/{pid}/maps"))
        .map_err(|source| status::refused(pid, "cannot read the mappings", source))?;
    Ok(text.lines().filter_map(parse).collect())
}

fn parse(line: &str) -> Option<Mapping> {
    // The fields are address, permissions, offset, device, inode, and the name, which may contain spaces.
    let mut words = line.splitn(6, ' ');
    let (from, to) = words.next()?.split_once('-')?;
    let permissions = words.next()?.as_bytes();
    let name = words.nth(3).unwrap_or("").trim_start().to_owned();
    let hex = |text| u64::from_str_radix(text, 16).ok();
    Some(Mapping {
        range: hex(from)?..hex(to)?,
        readable: permissions.first() == Some(&b'r'),
        accessible: permissions.get(..3)?.iter().any(|&p| p != b'-'),
        private: permissions.get(3) == Some(&b'p'),
        name,
    })
}

impl Mapping {
    /// Returns whether the kernel provides this mapping, for example the main stack or the vdso. The heap
    /// and private memory that the program has named do not count.
    fn is_kernels(&self) -> bool {
        self.name.starts_with('[') && self.name != "[heap]" && !self.name.starts_with("[anon:")
    }
}

/// Returns the address ranges that may be sampled: readable private mappings, without the pages
/// that `initial` touches. Leaves out every mapping that may be a stack: one that the kernel provides,
/// one that contains a stack pointer, and one that begins right above a guard and maps no file.
pub(crate) fn eligible(
    mappings: &[Mapping],
    stack_pointers: &[u64],
    initial: &[Range<u64>],
) -> Vec<Range<u64>> {
    let mut areas = Vec::new();
    for (i, mapping) in mappings.iter().enumerate() {
        let below = i.checked_sub(1).map(|i| &mappings[i]);
        let guarded = below.is_some_and(|below| {
            !below.accessible
                && below.range.end == mapping.range.start
                && below.range.end - below.range.start <= GUARD
        });
        let is_stack =
            mapping.is_kernels() || stack_pointers.iter().any(|sp| mapping.range.contains(sp));
        // A mapping of a file is no stack, even if it is guarded.
        let is_stack = is_stack || guarded && !mapping.name.starts_with('/');
        if mapping.readable && mapping.private && !is_stack {
            cut_out(mapping.range.clone(), initial, &mut areas);
        }
    }
    areas
}

/// Appends `area`, without the pages that `holes` touch, to `areas`.
fn cut_out(area: Range<u64>, holes: &[Range<u64>], areas: &mut Vec<Range<u64>>) {
    let page = zswap_core::PAGE_SIZE as u64;
    let mut holes: Vec<Range<u64>> = holes
        .iter()
        .filter(|hole| hole.start < hole.end)
        .map(|hole| hole.start / page * page..hole.end.div_ceil(page) * page)
        .filter(|hole| hole.start < area.end && area.start < hole.end)
        .collect();
    holes.sort_unstable_by_key(|hole| hole.start);
    let mut start = area.start;
    for hole in holes {
        if hole.start > start {
            areas.push(start..hole.start);
        }
        start = start.max(hole.end.min(area.end));
    }
    if start < area.end {
        areas.push(start..area.end);
    }
}

/// Returns the parts of `run` that lie in `areas`. The areas must be in order of address.
pub(crate) fn within(areas: &[Range<u64>], run: Extent) -> impl Iterator<Item = Extent> {
    let page = zswap_core::PAGE_SIZE as u64;
    let (from, to) = (run.first * page, (run.first + run.pages) * page);
    let first = areas.partition_point(|area| area.end <= from);
    areas[first..].iter().take_while(move |area| area.start < to).map(move |area| {
        let (start, end) = (area.start.max(from), area.end.min(to));
        Extent { first: start / page, pages: (end - start) / page }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
00400000-00500000 r-xp 00000000 08:01 123                                /usr/bin/a program
00500000-00501000 rw-p 00100000 08:01 123                                /usr/bin/a program
01000000-01100000 rw-p 00000000 00:00 0                                  [heap]
10000000-10001000 ---p 00000000 00:00 0 
10001000-10801000 rw-p 00000000 00:00 0 
20000000-24000000 ---p 00000000 00:00 0 
24000000-24100000 rw-p 00000000 00:00 0                                  [anon:malloc]
30000000-30100000 rw-s 00000000 00:01 77                                 /dev/zero (deleted)
40000000-40100000 -w-p 00000000 00:00 0 
50000000-50001000 ---p 00000000 08:01 55                                 /lib/l.so
50001000-50002000 r--p 00000000 08:01 55                                 /lib/l.so
60000000-60100000 rw-p 00000000 00:00 0 
7ff000000000-7ff000021000 rw-p 00000000 00:00 0                          [stack]
7ff000100000-7ff000102000 r-xp 00000000 00:00 0                          [vdso]
";

    fn mappings() -> Vec<Mapping> {
        MAPS.lines().filter_map(parse).collect()
    }

    #[test]
    fn lines_are_read_with_their_names() {
        let mappings = mappings();
        assert_eq!(mappings.len(), 14);
        assert_eq!(mappings[0].name, "/usr/bin/a program");
        assert_eq!(mappings[0].range, 0x400000..0x500000);
        assert!(mappings[3].name.is_empty() && !mappings[3].accessible);
        assert!(!mappings[7].private && mappings[8].accessible && !mappings[8].readable);
        for bad in ["", "x", "1-2", "1-z rw-p 0 0 0", "1-2 rw"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn stacks_shared_and_unreadable_memory_are_left_out() {
        let starts = |sps: &[u64]| -> Vec<u64> {
            eligible(&mappings(), sps, &[]).iter().map(|area| area.start).collect()
        };
        let all = [0x400000, 0x500000, 0x1000000, 0x24000000, 0x50001000, 0x60000000];
        assert_eq!(starts(&[]), all);
        // A stack pointer is in ordinary memory, so that mapping is left out.
        assert_eq!(starts(&[0x60000010]), all[..5]);
    }

    #[test]
    fn a_long_inaccessible_mapping_is_no_guard() {
        let starts: Vec<u64> = eligible(&mappings(), &[], &[]).iter().map(|a| a.start).collect();
        assert!(starts.contains(&0x24000000) && !starts.contains(&0x10001000));
    }

    #[test]
    fn the_initial_block_is_cut_out_page_by_page() {
        let initial = [
            0x1002ff0..0x1003010,
            0x1003010..0x1003800,
            0x10ff000..0x10ff001,
            5..5,
            6..7,
            0x7000000..0x7000001,
        ];
        let areas = eligible(&mappings()[2..3], &[], &initial);
        assert_eq!(areas, [0x1000000..0x1002000, 0x1004000..0x10ff000]);
        let whole = 0xfff000..0x2000000;
        assert_eq!(eligible(&mappings()[2..3], &[], std::slice::from_ref(&whole)), []);
    }

    #[test]
    fn runs_are_cut_to_what_may_still_be_read() {
        let areas = [0x1000..0x3000, 0x3000..0x4000, 0x8000..0x9000];
        let within = |first, pages| within(&areas, Extent { first, pages }).collect::<Vec<_>>();
        let extent = |first, pages| Extent { first, pages };
        assert_eq!(within(2, 16), [extent(2, 1), extent(3, 1), extent(8, 1)]);
        assert_eq!(within(0, 2), [extent(1, 1)]);
        assert_eq!(within(4, 4), []);
        assert_eq!(within(9, 16), []);
    }
}
