//! The list of the contestants, and their names.

use measure::{Contestant, Name};

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::kernel;
use crate::liblz4::LIBLZ4;
use crate::map::{Jemalloc, Libc, Map, Mimalloc};
use crate::source::LARGEST_UNIT;
use crate::store::store;

const ZPOOLS: &[&str] = &["zsmalloc", "z3fold", "zbud"];
const CODECS: &[&str] = &["linewords", "lz4", "lz4hc", "zstd", "deflate"];
/// The codecs that rivals meet: LZ4, which most of them have, and `linewords`, which is the default where it was
/// measured faster.
const RIVALLED: &[&str] = &["lz4", "linewords"];
/// Third-party codecs of the LZ4 format.
const OTHER_CODECS: &[&str] = &[LIBLZ4, "lz4_flex", "trueno-zram-core"];

/// The kind of a contestant, which says what keeps the pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Nothing keeps them: the codec works alone, from buffer to buffer.
    Codec,
    Store,
    Disk {
        unit: usize,
    },
    Map(&'static str),
    KernelZram {
        unit: usize,
    },
    KernelZswap,
}

/// A contestant: its kind, backend and codec.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    /// The backend, for contestants of this project.
    pub(crate) zpool: Option<&'static str>,
    pub(crate) compressor: String,
}

impl Entry {
    fn new(kind: Kind, zpool: Option<&'static str>, compressor: &str) -> Self {
        Entry { kind, zpool, compressor: compressor.to_owned() }
    }

    /// Returns the parts of its name: what keeps the pages, the backend and the codec.
    pub(crate) fn parts(&self) -> Name {
        let contestant = match self.kind {
            Kind::Codec => "codec".into(),
            Kind::Store => "zswap-core".into(),
            Kind::Disk { unit: 1 } => "zram".into(),
            Kind::Disk { unit } => format!("zram-{}k", unit * 4),
            Kind::Map(heap) => format!("map-{heap}"),
            Kind::KernelZram { unit } => format!("kernel-zram-{}k", unit * 4),
            Kind::KernelZswap => "kernel-zswap".into(),
        };
        let (zpool, compressor) = (self.zpool.map(str::to_owned), self.compressor.clone());
        Name { contestant, zpool, compressor }
    }

    /// Returns its name in output and arguments, such as `zswap-core/zsmalloc/lz4`.
    pub(crate) fn name(&self) -> String {
        self.parts().to_string()
    }

    /// Returns the name of the bare codec that its times are divided by; `None` if that codec is
    /// not built in.
    pub(crate) fn codec(&self) -> Option<&str> {
        match self.compressor.as_str() {
            // Every contestant of the LZ4 format is compared with liblz4. So is `linewords`, which replaces it.
            "lz4" | "linewords" | "lz4_flex" | "trueno-zram-core" => Some(LIBLZ4),
            "lzo" if cfg!(feature = "lzo") => Some("lzo"),
            // lzo-rle exists only in the kernel.
            "lzo" | "lzo-rle" => None,
            other => Some(other),
        }
    }

    /// Returns the contestants of this project that this rival is compared with. Returns nothing
    /// for this project's own contestants.
    pub(crate) fn beside(&self) -> Vec<Entry> {
        let each =
            |kind: Kind, zpool| RIVALLED.iter().map(move |codec| Entry::new(kind, zpool, codec));
        let stores = each(Kind::Store, Some("zsmalloc"));
        let disks = |unit| each(Kind::Disk { unit }, Some("zsmalloc"));
        match self.kind {
            Kind::Codec if OTHER_CODECS.contains(&self.compressor.as_str()) => {
                each(Kind::Codec, None).collect()
            }
            Kind::Codec | Kind::Store | Kind::Disk { .. } => Vec::new(),
            Kind::Map(_) | Kind::KernelZswap => stores.collect(),
            Kind::KernelZram { unit: 1 } => stores.chain(disks(1)).collect(),
            Kind::KernelZram { unit } => disks(unit).collect(),
        }
    }

    /// Returns the number of pages in one store or load.
    pub(crate) fn unit(&self) -> usize {
        match self.kind {
            Kind::Disk { unit } | Kind::KernelZram { unit } => unit,
            _ => 1,
        }
    }

    /// Sets up the contestant for `pages` pages.
    ///
    /// # Errors
    ///
    /// If the set-up fails. It always fails for a codec alone, which keeps no pages.
    pub(crate) fn build(&self, pages: usize) -> Result<Box<dyn Contestant<Error>>> {
        let codec = self.compressor.as_str();
        let zpool = self.zpool.unwrap_or("zsmalloc");
        let built: Box<dyn Contestant<Error>> = match self.kind {
            Kind::Codec => return Err(Error::setup("a codec alone keeps no pages")),
            Kind::Store => Box::new(store(zpool, codec)?),
            Kind::Disk { .. } => Box::new(Disk::new(zpool, codec, pages)?),
            Kind::Map("system") => Box::new(Map::<Libc>::new(codec)?),
            Kind::Map("jemalloc") => Box::new(Map::<Jemalloc>::new(codec)?),
            Kind::Map(_) => Box::new(Map::<Mimalloc>::new(codec)?),
            Kind::KernelZram { .. } => Box::new(kernel::zram::Zram::new(codec, pages)?),
            Kind::KernelZswap => Box::new(kernel::zswap::Zswap::new(codec, pages)?),
        };
        Ok(built)
    }

    pub(crate) fn find(name: &str) -> Result<Self> {
        let unknown = || Error::UnknownContestant { name: name.to_owned() };
        let kernel =
            kernel_entries(&strings(&["lz4", "lzo", "lzo-rle"]), &strings(&["lzo", "lz4"]));
        own_and_others().into_iter().chain(kernel).find(|e| e.name() == name).ok_or_else(unknown)
    }
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// Returns the contestants that run on any system: this project's own and the third-party ones.
fn own_and_others() -> Vec<Entry> {
    let mut all: Vec<Entry> = CODECS
        .iter()
        .chain(OTHER_CODECS)
        .map(|codec| Entry::new(Kind::Codec, None, codec))
        .collect();
    for zpool in ZPOOLS {
        all.extend(CODECS.iter().map(|codec| Entry::new(Kind::Store, Some(zpool), codec)));
    }
    if cfg!(feature = "lzo") {
        all.push(Entry::new(Kind::Codec, None, "lzo"));
        all.extend(ZPOOLS.iter().map(|zpool| Entry::new(Kind::Store, Some(zpool), "lzo")));
    }
    for unit in [1, LARGEST_UNIT] {
        all.extend(
            RIVALLED.iter().map(|codec| Entry::new(Kind::Disk { unit }, Some("zsmalloc"), codec)),
        );
    }
    for heap in ["system", "mimalloc", "jemalloc"] {
        all.push(Entry::new(Kind::Map(heap), None, LIBLZ4));
    }
    all
}

/// Returns the kernel's contestants for these algorithms of its zram and zswap.
fn kernel_entries(zram: &[String], zswap: &[String]) -> Vec<Entry> {
    let mut all = Vec::new();
    for algorithm in zram {
        for unit in [1, LARGEST_UNIT] {
            all.push(Entry::new(Kind::KernelZram { unit }, None, algorithm));
        }
    }
    all.extend(zswap.iter().map(|algorithm| Entry::new(Kind::KernelZswap, None, algorithm)));
    all
}

/// Returns all contestants that can run here, and the reasons why others cannot.
pub(crate) fn all() -> (Vec<Entry>, Vec<String>) {
    let mut absent = Vec::new();
    let mut offered = |who: &str, algorithms: Result<Vec<String>, String>| {
        algorithms.unwrap_or_else(|reason| {
            absent.push(format!("{who}: {reason}"));
            Vec::new()
        })
    };
    let zram = offered("the kernel's zram", kernel::zram::offered());
    let zswap = offered("the kernel's zswap", kernel::zswap::offered());
    let mut all = own_and_others();
    all.extend(kernel_entries(&zram, &zswap));
    (all, absent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_one_contestants_and_finds_it() {
        let all = own_and_others();
        for entry in &all {
            assert_eq!(&Entry::find(&entry.name()).unwrap(), entry);
            assert_eq!(all.iter().filter(|other| other.name() == entry.name()).count(), 1);
        }
        assert!(Entry::find("zswap-core/zsmalloc/none").is_err());
        assert!(Entry::find("kernel-zram-128k/lz4").is_ok());
    }

    #[test]
    fn who_stands_beside_takes_part() {
        let kernel = kernel_entries(&strings(&["lz4", "lzo"]), &strings(&["lzo"]));
        for entry in own_and_others().iter().chain(&kernel) {
            for ours in entry.beside() {
                assert!(own_and_others().contains(&ours), "{}", entry.name());
            }
        }
    }
}
