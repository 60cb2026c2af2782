//! The configuration of a round, drawn from a seed.

use core::fmt;
use core::time::Duration;

use zpool_base::sync::test_rng::Rng;
use zswap_core::Promotion;
use zswap_core::device::Geometry;

use crate::action::Action;
use crate::device::Fault;
use crate::fullness;

const ZPOOLS: [&str; 3] = ["zsmalloc", "z3fold", "zbud"];
const CODECS: [&str; 9] = [
    "lz4",
    "lz4:accel=4",
    "lz4hc:level=3",
    "linewords",
    "zstd:level=1",
    "zstd",
    "deflate:level=1",
    "deflate:level=4",
    "null",
];
/// The most compressors in a round. Each pair of a backend and a compressor is a pool, and all of these
/// pools may exist at the same time. A store can have at most 15 pools.
const MOST_CODECS: usize = 4;

/// Where a store writes pages back to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Device {
    /// Nowhere.
    None,
    /// Memory.
    Memory,
    /// A file.
    File,
    /// A device of pages in memory.
    Pages,
}

/// The configuration of a round.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// Seed of the threads' random sources.
    pub seed: u64,
    /// Keys that all threads share.
    pub keys: usize,
    /// Bytes of a page.
    pub unit: usize,
    /// Distance between the offsets of neighbouring entries.
    pub stride: u64,
    /// Backends to switch between; the store starts with the first.
    pub zpools: Vec<&'static str>,
    /// Compressors to switch between; the store starts with the first.
    pub codecs: Vec<&'static str>,
    /// Whether the store keeps checksums.
    pub checksums: bool,
    /// Whether incompressible pages are refused.
    pub refuse_incompressible: bool,
    /// The limit on the pools, in bytes.
    pub limit: Option<usize>,
    /// The limit on everything: how many bytes it allows in addition to those of an empty store.
    pub beyond_empty: Option<usize>,
    /// Whether area 1 has pools of its own, with these settings.
    pub own_area: Option<OwnArea>,
    /// How many of 1000 calls of a compressor panic.
    pub codec_panics: usize,
    /// How many of 1000 calls of a backend panic.
    pub backend_panics: usize,
    /// The percentage of the limit below which a full store accepts pages again.
    pub accept_percent: u8,
    /// Where pages are written back to.
    pub device: Device,
    /// The sizes of the device.
    pub geometry: Geometry,
    /// When pages come back from the device.
    pub promotion: Promotion,
    /// The longest pause of the device.
    pub pause: Duration,
    /// Faults of the device, which are switched on and off.
    pub faults: Vec<Fault>,
    /// Whether page requests fail now and then.
    pub page_faults: bool,
    /// Whether pages come from the heap instead of mapped memory.
    pub heap: bool,
    /// Whether worker threads compress batches.
    pub engine: bool,
    /// How many of 1000 new objects get a guard that stays open for a while.
    pub guards: usize,
    /// How many of 1000 calls of a compressor pause.
    pub pauses: usize,
    /// Whether threads may start shrinker, compactor and migration in the background.
    pub background: bool,
    /// Length of the round in milliseconds.
    pub length: u64,
    /// How many of 1000 actions are on the whole store.
    pub whole: usize,
    /// The relative frequency of each action.
    pub weights: [usize; Action::ALL.len()],
}

/// The settings of an area with pools of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnArea {
    /// The limit on its pools, in bytes.
    pub limit: Option<usize>,
    /// The bytes that are not written back for other areas.
    pub protected: usize,
    /// Whether its first pool has the last of the backends and compressors, and not the first.
    pub last: bool,
}

impl OwnArea {
    fn draw(keys: usize, rng: &mut Rng) -> Option<Self> {
        let bytes = |rng: &mut Rng| 4096 * (16 + rng.below(keys / 2 + 32));
        let limit = (rng.below(2) == 0).then(|| bytes(rng));
        let protected = [0, bytes(rng), usize::MAX][rng.below(3)];
        let own = OwnArea { limit, protected, last: rng.below(2) == 0 };
        (rng.below(2) == 0).then_some(own)
    }
}

impl Config {
    /// Draws a configuration with at most `most_keys` keys and without the actions in `skip`.
    pub fn draw(seed: u64, most_keys: usize, skip: &[Action]) -> Self {
        let mut rng = Rng::new(seed);
        let mut one_in = |n: usize| rng.below(n) == 0;
        let (checksums, heap, engine) = (one_in(3), one_in(2), one_in(2));
        let (refuse_incompressible, page_faults, background) = (one_in(5), one_in(4), one_in(3));
        let (limited, has_device, file) = (one_in(2), !one_in(4), one_in(4));
        let (guarded, slow, faulty) = (one_in(3), one_in(2), one_in(3));
        let (limited_in_all, codec_panics, backend_panics) = (one_in(4), one_in(6), one_in(6));
        // In a round of churn, there are few keys and many switches. Pools are made and dropped by the
        // thousand, so that handles and places recur.
        let churn = one_in(3);
        let bits = if churn { rng.below(2) } else { rng.below(13) };
        let keys = ((1usize << bits) + rng.below(1 << bits)).min(most_keys).max(1);
        let mut weights = [0; Action::ALL.len()];
        for action in Action::ALL {
            let usual = match action {
                Action::Store | Action::Load => 8,
                Action::Take | Action::Invalidate | Action::TryReplace => 3,
                Action::Contains => 1,
                Action::StoreBatch | Action::LoadBatch => 1,
                Action::Fork | Action::Area | Action::Background | Action::Writeback => 1,
                Action::Entries | Action::Stats | Action::Trim | Action::FlushDevice => 1,
                _ => 4,
            };
            weights[action as usize] = usual * rng.below(4);
        }
        if churn {
            for action in [
                Action::Switch,
                Action::SwitchCompressor,
                Action::Migrate,
                Action::Recompress,
                Action::Shrink,
            ] {
                weights[action as usize] += 8;
            }
        }
        // Without stores and loads nothing happens.
        weights[Action::Store as usize] += 4;
        weights[Action::Load as usize] += 4;
        let mut without = |action: Action| weights[action as usize] = 0;
        skip.iter().for_each(|action| without(*action));
        let unavailable = Action::ALL.into_iter().filter(|action| !action.is_available());
        unavailable.for_each(&mut without);
        if !has_device {
            let of_device = [Action::Shrink, Action::FlushDevice, Action::Writeback];
            of_device.into_iter().for_each(&mut without);
        }
        if !has_device || !faulty {
            [Action::DeviceFault, Action::DeviceRecovery].into_iter().for_each(&mut without);
        }
        if !page_faults {
            without(Action::PageFault);
        }
        if !background {
            without(Action::Background);
        }
        if !guarded {
            without(Action::CompactGuarded);
        }
        if !limited && !limited_in_all {
            without(Action::Limit);
        }
        if keys > 1024 {
            [Action::Area, Action::Entries].into_iter().for_each(&mut without);
        }
        let device = match (has_device, rng.below(2) == 0, file) {
            (false, ..) => Device::None,
            (true, true, _) => Device::Pages,
            (true, false, false) => Device::Memory,
            (true, false, true) => Device::File,
        };
        let zpools = some_of(&ZPOOLS, 1 + rng.below(2), &mut rng);
        let least = if churn { 2 } else { 1 };
        let codecs = some_of(&CODECS, least + rng.below(MOST_CODECS - least + 1), &mut rng);
        if codecs.len() == 1 {
            without(Action::SwitchCompressor);
        }
        if zpools.len() == 1 {
            without(Action::SwitchZpool);
        }
        if codecs.len() * zpools.len() == 1 {
            [Action::Switch, Action::Migrate, Action::Recompress]
                .into_iter()
                .for_each(&mut without);
        }
        let geometry = draw_geometry(device, keys, &mut rng);
        let own_area = OwnArea::draw(keys, &mut rng);
        // The rules about limits and full devices know pages of 4096 bytes only.
        let bounded = limited || limited_in_all || has_device;
        let bounded = bounded || own_area.is_some_and(|area| area.limit.is_some());
        let unit = if bounded || keys > 512 { 4096 } else { 4096 << rng.below(5) };
        Config {
            unit,
            seed: rng.next(),
            keys,
            stride: [1, 1, 7, 33, 1 << 20][rng.below(5)],
            zpools,
            codecs,
            checksums,
            refuse_incompressible,
            limit: limited.then(|| 4096 * (16 + rng.below(keys + 48))),
            beyond_empty: limited_in_all.then(|| {
                // The limit must also cover contexts of other compressors, up to some megabytes.
                4096 * (16 + rng.below(keys + 48)) + (rng.below(3) << 20)
            }),
            own_area,
            codec_panics: if codec_panics { 1 + rng.below(20) } else { 0 },
            backend_panics: if backend_panics { 1 + rng.below(20) } else { 0 },
            accept_percent: [90, 90, 50, 100][rng.below(4)],
            device,
            geometry,
            promotion: PROMOTIONS[rng.below(PROMOTIONS.len())],
            pause: Duration::from_micros(if slow { 100 + rng.below(900) as u64 } else { 0 }),
            faults: if faulty { draw_faults(&mut rng) } else { Vec::new() },
            page_faults,
            heap,
            engine,
            guards: if guarded { 1 + rng.below(50) } else { 0 },
            pauses: if churn { 40 } else { rng.below(40) },
            background,
            length: 400 + rng.below(1000) as u64,
            whole: if churn { 300 } else { [10, 30, 100, 300][rng.below(4)] },
            weights,
        }
    }

    /// Returns whether the displayed configuration contains each of the names. A name without `=` must
    /// be a whole word of it.
    pub fn has(&self, names: &[String]) -> bool {
        let shown = self.to_string();
        let words: Vec<&str> = shown.split([' ', '=', ',']).collect();
        names.iter().all(|name| {
            shown.contains(name.as_str()) && (name.contains('=') || words.contains(&name.as_str()))
        })
    }
}

/// Draws faults of the device. Wrong bytes are among the faults more often than others: they matter only to loads of
/// pages that are on the device.
fn draw_faults(rng: &mut Rng) -> Vec<Fault> {
    let mut faults = some_of(&Fault::ALL, 1 + rng.below(3), rng);
    if !faults.contains(&Fault::Corrupt) && rng.below(2) == 0 {
        faults.push(Fault::Corrupt);
    }
    faults
}

const PROMOTIONS: [Promotion; 3] = [Promotion::Never, Promotion::SecondLoad, Promotion::Always];

/// Draws the sizes of a device. Half of the devices are just large enough that they may never be full, whatever
/// the keys' pages are; so they must be cleaned, since segments with few live pages fill them soon. A quarter is
/// full now and then, and the rest is too small.
fn draw_geometry(device: Device, keys: usize, rng: &mut Rng) -> Geometry {
    let segment_bytes = match device {
        // 64 slots or more have segments of 16 pages, and fewer have smaller ones.
        Device::Pages => 64 << 10,
        _ => [8 << 10, 16 << 10, 64 << 10][rng.below(3)],
    };
    let block_bytes = match device {
        Device::Pages => 4096,
        _ => [1, 512, 4096][rng.below(3)],
    };
    let geometry = Geometry { segments: 0, segment_bytes, block_bytes };
    let segments = match rng.below(4) {
        0 | 1 => fullness::IN_HAND_OF_MANY + fullness::most_full(&geometry, keys) + rng.below(4),
        2 => 4 + keys * 800 / segment_bytes + rng.below(8),
        _ => 1 + rng.below(6),
    };
    if device == Device::Pages {
        // The last slots may fill no segment.
        let pages = segments * segment_bytes / 4096;
        let pages = if segments < 4 { 2 + rng.below(pages) } else { pages + rng.below(16) };
        return Geometry { block_bytes, ..Geometry::of_pages(pages as u64) };
    }
    Geometry { segments: segments as u64, ..geometry }
}

/// Draws `n` different elements of `all`, in random order.
fn some_of<T: Copy>(all: &[T], n: usize, rng: &mut Rng) -> Vec<T> {
    let mut left = all.to_vec();
    (0..n.min(all.len())).map(|_| left.swap_remove(rng.below(left.len()))).collect()
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config { keys, unit, stride, guards, pauses, whole, length, .. } = self;
        let Geometry { segments, segment_bytes, block_bytes } = self.geometry;
        write!(f, "keys={keys} unit={unit} stride={stride} zpools={}", self.zpools.join(","))?;
        let codecs: Vec<String> = self.codecs.iter().map(|spec| spec.replace('=', ":")).collect();
        write!(f, " codecs={}", codecs.join(","))?;
        match self.limit {
            Some(limit) => write!(f, " limit={limit} accept={}%", self.accept_percent)?,
            None => write!(f, " unlimited")?,
        }
        if let Some(bytes) = self.beyond_empty {
            write!(f, " max-bytes=empty+{bytes}")?;
        }
        if let Some(OwnArea { limit, protected, last }) = self.own_area {
            let limit = limit.map_or("none".to_owned(), |limit| limit.to_string());
            write!(f, " own-area limit-of-area={limit} protected={protected} last={last}")?;
        }
        for (often, name) in
            [(self.codec_panics, "codec-panics"), (self.backend_panics, "backend-panics")]
        {
            if often > 0 {
                write!(f, " {name}={often}")?;
            }
        }
        let device = match self.device {
            Device::None => "none",
            Device::Memory => "memory",
            Device::File => "file",
            Device::Pages => "pages",
        };
        write!(f, " device={device}")?;
        if self.device != Device::None {
            write!(f, " segments={segments} segment={}k block={block_bytes}", segment_bytes >> 10)?;
            write!(f, " promotion={}", format!("{:?}", self.promotion).to_lowercase())?;
        }
        write!(f, " pause={}us", self.pause.as_micros())?;
        if !self.faults.is_empty() {
            let faults: Vec<String> =
                self.faults.iter().map(|fault| format!("{fault:?}").to_lowercase()).collect();
            write!(f, " faults={}", faults.join(","))?;
        }
        for (on, name) in [
            (self.checksums, "checksums"),
            (self.refuse_incompressible, "refuse-incompressible"),
            (self.page_faults, "page-faults"),
            (self.heap, "heap"),
            (self.engine, "engine"),
            (self.background, "background"),
        ] {
            if on {
                write!(f, " {name}")?;
            }
        }
        write!(f, " guards={guards} pauses={pauses} whole={whole} length={length}ms actions=")?;
        let chosen = Action::ALL.into_iter().filter(|action| self.weights[*action as usize] > 0);
        let chosen: Vec<String> =
            chosen.map(|a| format!("{}:{}", a.name(), self.weights[a as usize])).collect();
        write!(f, "{}", chosen.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_configuration_again() {
        assert_eq!(Config::draw(7, 4096, &[]), Config::draw(7, 4096, &[]));
        assert_ne!(Config::draw(7, 4096, &[]), Config::draw(8, 4096, &[]));
    }

    #[test]
    fn each_setting_is_drawn_both_ways_in_a_hundred_rounds() {
        let all: Vec<Config> = (0..100).map(|seed| Config::draw(seed, 4096, &[])).collect();
        let shown: Vec<String> = all.iter().map(Config::to_string).collect();
        for name in ZPOOLS.into_iter().chain(CODECS.map(|spec| spec.split('=').next().unwrap())) {
            assert!(shown.iter().any(|shown| shown.contains(name)), "{name}");
        }
        for name in ["checksums", "refuse-incompressible", "page-faults", "heap", "engine"] {
            let with = shown.iter().filter(|shown| shown.contains(name)).count();
            assert!((5..95).contains(&with), "{name}: {with}");
        }
        for name in ["max-bytes=", "codec-panics=", "backend-panics="] {
            assert!(shown.iter().any(|shown| shown.contains(name)), "{name}");
        }
        for name in [
            "limit=",
            "unlimited",
            "device=none",
            "device=file",
            "faults=",
            "background",
            "own-area",
            "limit-of-area=none",
            "last=true",
        ] {
            assert!(shown.iter().any(|shown| shown.contains(name)), "{name}");
        }
        for name in [
            "segment=8k",
            "segment=16k",
            "segment=64k",
            "block=1 ",
            "block=512",
            "block=4096",
            "promotion=never",
            "promotion=secondload",
            "promotion=always",
            "corrupt",
            "flush",
        ] {
            assert!(shown.iter().any(|shown| shown.contains(name)), "{name}");
        }
        let pages = all.iter().filter(|config| config.device == Device::Pages).count();
        let any = all.iter().filter(|config| config.device != Device::None).count();
        assert!((any / 3..any * 2 / 3).contains(&pages), "{pages} of {any}");
        for action in Action::ALL.into_iter().filter(|action| action.is_available()) {
            let with = all.iter().filter(|config| config.weights[action as usize] > 0).count();
            assert!(with >= 10, "{}: {with}", action.name());
        }
        assert!(all.iter().any(|config| config.keys < 4));
        assert!(all.iter().any(|config| config.keys > 2000));
        assert!(all.iter().all(|config| config.keys <= 4096));
    }

    #[test]
    fn what_is_skipped_is_not_chosen_and_names_choose_configurations() {
        let config = Config::draw(3, 16, &[Action::Fork]);
        assert_eq!(config.weights[Action::Fork as usize], 0);
        assert!(config.keys <= 16);
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let zbud = (0..99).map(|s| Config::draw(s, 16, &[])).find(|c| c.has(&names(&["zbud"])));
        assert!(zbud.unwrap().zpools.contains(&"zbud"));
        assert!(!config.has(&names(&["zlab"])));
    }
}
