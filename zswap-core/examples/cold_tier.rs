//! An in-memory map with a cold tier. Values that were not used lately are compressed into the tier, and
//! decompressed when they are needed again.
//!
//! `cargo run --release -p zswap-core --example cold_tier`
//!
//! Values are shorter than a page, so cold values are packed: they are appended to an *open* page. When that
//! page is full, it goes to the store. A page of thirty values compresses far better than thirty single
//! values.
//!
//! A value that becomes hot again leaves a gap in its page. When at least half of a page is gaps, the page is
//! taken out of the store, and its remaining values are packed again. So gaps take at most about half of the tier.
#![allow(clippy::print_stdout, reason = "a program: what it prints is what it is for")]

use std::collections::{BTreeMap, HashMap};
use std::error::Error;

use zswap_core::{PAGE_SIZE, Page, SwapEntry, Zswap};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Where a value is.
enum Place {
    /// The value is in memory, uncompressed, and was last used at this time.
    Hot(Box<[u8]>, u64),
    /// The value is in this page of the tier, at this offset and with this length.
    Cold { page: u32, at: u16, len: u16 },
}

/// The contents of a page of the tier.
#[derive(Default)]
struct Packed {
    /// The keys of all values that were packed into the page. Some of these values may have left it since.
    keys: Vec<u64>,
    /// Bytes of the values that are still in the page.
    live: usize,
}

struct TieredMap {
    values: HashMap<u64, Place>,
    /// The key of each hot value, by the time of its last use.
    uses: BTreeMap<u64, u64>,
    now: u64,
    hot_bytes: usize,
    most_hot_bytes: usize,
    store: Zswap,
    pages: HashMap<u32, Packed>,
    /// The open page, its number, and how many of its bytes are filled.
    open: Box<Page>,
    open_page: u32,
    filled: usize,
}

impl TieredMap {
    /// Makes a map that keeps at most `most_hot_bytes` bytes of values uncompressed.
    fn new(most_hot_bytes: usize) -> Result<Self> {
        Ok(TieredMap {
            values: HashMap::new(),
            uses: BTreeMap::new(),
            now: 0,
            hot_bytes: 0,
            most_hot_bytes,
            store: Zswap::builder().zpool("zsmalloc").compressor("zstd").build()?,
            pages: HashMap::new(),
            open: Box::new([0; PAGE_SIZE]),
            open_page: 0,
            filled: 0,
        })
    }

    fn insert(&mut self, key: u64, value: Box<[u8]>) -> Result<()> {
        self.remove(key)?;
        self.heat(key, value);
        self.cool()
    }

    fn remove(&mut self, key: u64) -> Result<()> {
        match self.values.remove(&key) {
            None => Ok(()),
            Some(Place::Hot(value, used)) => {
                self.uses.remove(&used);
                self.hot_bytes -= value.len();
                Ok(())
            }
            Some(Place::Cold { page, len, .. }) => self.leave_gap(page, usize::from(len)),
        }
    }

    /// Returns the value of a key, and whether the value was hot. Makes the value hot. Returns `None` if the
    /// map does not have the key.
    fn get(&mut self, key: u64) -> Result<Option<(&[u8], bool)>> {
        let was_hot = match self.values.get_mut(&key) {
            None => return Ok(None),
            Some(Place::Hot(_, used)) => {
                self.now += 1;
                self.uses.remove(used);
                self.uses.insert(self.now, key);
                *used = self.now;
                true
            }
            Some(&mut Place::Cold { page, at, len }) => {
                let mut bytes = [0; PAGE_SIZE];
                self.read_page(page, &mut bytes)?;
                let value = &bytes[usize::from(at)..][..usize::from(len)];
                self.heat(key, value.into());
                self.leave_gap(page, usize::from(len))?;
                false
            }
        };
        self.cool()?;
        match self.values.get(&key) {
            Some(Place::Hot(value, _)) => Ok(Some((value, was_hot))),
            _ => Err("a value just used is not hot: raise most_hot_bytes above one value".into()),
        }
    }

    fn heat(&mut self, key: u64, value: Box<[u8]>) {
        self.now += 1;
        self.hot_bytes += value.len();
        self.uses.insert(self.now, key);
        self.values.insert(key, Place::Hot(value, self.now));
    }

    /// Packs the least recently used values until the others fit into `most_hot_bytes`.
    fn cool(&mut self) -> Result<()> {
        while self.hot_bytes > self.most_hot_bytes {
            let Some((&time, &key)) = self.uses.first_key_value() else { break };
            let Some(Place::Hot(value, _)) = self.values.get(&key) else { break };
            let value = value.clone();
            // If packing fails, the value stays in memory.
            self.pack(key, &value)?;
            self.uses.remove(&time);
            self.hot_bytes -= value.len();
        }
        Ok(())
    }

    /// Appends a value to the open page. If the value does not fit, closes that page first and opens another
    /// one.
    fn pack(&mut self, key: u64, value: &[u8]) -> Result<()> {
        if value.len() > PAGE_SIZE {
            return Err(format!("a value of {} bytes is longer than a page", value.len()).into());
        }
        if self.filled + value.len() > PAGE_SIZE {
            self.close_page()?;
        }
        let (page, at) = (self.open_page, self.filled);
        self.open[at..at + value.len()].copy_from_slice(value);
        self.filled += value.len();
        let packed = self.pages.entry(page).or_default();
        packed.keys.push(key);
        packed.live += value.len();
        // Offset and length are at most `PAGE_SIZE`, so they fit in 16 bits.
        let place = Place::Cold { page, at: at as u16, len: value.len() as u16 };
        self.values.insert(key, place);
        Ok(())
    }

    /// Puts the open page into the store, unless all of its values have left it.
    fn close_page(&mut self) -> Result<()> {
        if self.pages.get(&self.open_page).is_some_and(|packed| packed.live > 0) {
            self.open[self.filled..].fill(0);
            self.store.store(SwapEntry::new(0, self.open_page.into())?, &self.open)?;
        } else {
            self.pages.remove(&self.open_page);
        }
        self.open_page += 1;
        self.filled = 0;
        Ok(())
    }

    fn read_page(&self, page: u32, bytes: &mut Page) -> Result<()> {
        if page == self.open_page {
            bytes.copy_from_slice(&self.open[..]);
            return Ok(());
        }
        Ok(self.store.load(SwapEntry::new(0, page.into())?, bytes)?)
    }

    /// Notes that a value has left a page. If at least half of the page is gaps then, packs its other values
    /// again and drops the page.
    fn leave_gap(&mut self, page: u32, len: usize) -> Result<()> {
        let Some(packed) = self.pages.get_mut(&page) else { return Ok(()) };
        packed.live -= len;
        if packed.live > PAGE_SIZE / 2 || page == self.open_page {
            return Ok(());
        }
        let keys = std::mem::take(&mut packed.keys);
        let mut bytes = [0; PAGE_SIZE];
        self.read_page(page, &mut bytes)?;
        for key in keys {
            match self.values.get(&key) {
                Some(&Place::Cold { page: now, at, len }) if now == page => {
                    self.pack(key, &bytes[usize::from(at)..][..usize::from(len)])?;
                }
                _ => {}
            }
        }
        // Drop the page only now: until all of its values are packed again, it is needed for the others.
        self.pages.remove(&page);
        self.store.invalidate(SwapEntry::new(0, page.into())?);
        Ok(())
    }

    /// Returns the bytes of the tier. Leaves out the keys and places, which any map would have.
    fn tier_bytes(&self) -> usize {
        let keys: usize = self.pages.values().map(|packed| packed.keys.capacity() * 8).sum();
        let pages = self.pages.capacity() * (size_of::<(u32, Packed)>() + 1);
        let uses = self.uses.len() * 24;
        let stats = self.store.stats();
        let store = stats.pool_total_size + stats.metadata_bytes + stats.context_bytes;
        PAGE_SIZE + keys + pages + uses + store
    }
}

// The rest of the file tries the map: it makes values, and checks what the map returns.

const SESSIONS: u64 = 40_000;

/// Makes a value like the session of a web server: JSON of 200 to 1500 bytes.
fn session(key: u64, version: u32) -> Box<[u8]> {
    let mix = (key * 31 + u64::from(version) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut text = format!(
        "{{\"user\":{key},\"version\":{version},\"token\":\"{mix:016x}{:016x}\",\"locale\":\"{}\",\
         \"theme\":\"dark\",\"cart\":[",
        mix.rotate_left(21).wrapping_mul(mix | 1),
        ["en-GB", "de-DE", "fr-FR", "nl-NL"][(mix >> 62) as usize],
    );
    for item in 0..mix >> 32 & 15 {
        let sku = mix.rotate_left(item as u32 * 7) & 0xF_FFFF;
        let quantity = sku % 3 + 1;
        text +=
            &format!("{{\"sku\":\"SKU-{sku:07}\",\"quantity\":{quantity},\"price\":{sku}.99}},");
    }
    text += "]}";
    text.into_bytes().into()
}

fn main() -> Result<()> {
    let mut map = TieredMap::new(1 << 20)?;
    let mut versions = vec![0; SESSIONS as usize];
    let mut plain_bytes = 0;
    for key in 0..SESSIONS {
        let value = session(key, 0);
        plain_bytes += value.len();
        map.insert(key, value)?;
    }

    // Nine of ten requests use one of a thousand sessions, and this window of sessions moves slowly. A quarter of
    // the requests change their session.
    let mut random = 0x5EED_u64;
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let (requests, mut hot) = (100_000, 0);
    for request in 0..requests {
        let recent = request / 20 + next(1000);
        let key = if next(10) < 9 { recent % SESSIONS } else { next(SESSIONS) };
        let version = &mut versions[key as usize];
        let wanted = session(key, *version);
        match map.get(key)? {
            Some((value, was_hot)) if value == &wanted[..] => hot += u64::from(was_hot),
            _ => return Err(format!("session {key} differs from what was put there").into()),
        }
        if next(4) == 0 {
            *version += 1;
            let value = session(key, *version);
            plain_bytes = plain_bytes + value.len() - wanted.len();
            map.insert(key, value)?;
        }
    }

    let mib = |bytes: usize| bytes as f64 / (1 << 20) as f64;
    let now = map.hot_bytes + map.tier_bytes();
    let stats = map.store.stats();
    println!("{SESSIONS} sessions of {} bytes on average", plain_bytes as u64 / SESSIONS);
    println!("{requests} requests, {:.1} % of hot ones", 100.0 * hot as f64 / requests as f64);
    println!("values alone in a map        {:6.2} MiB", mib(plain_bytes));
    println!("hot values                   {:6.2} MiB", mib(map.hot_bytes));
    println!("cold ones, in total          {:6.2} MiB", mib(map.tier_bytes()));
    println!(
        "  of which compressed pages  {:6.2} MiB for {}",
        mib(stats.pool_total_size),
        map.store.len()
    );
    println!("saved                        {:6.1} %", 100.0 - 100.0 * mib(now) / mib(plain_bytes));

    for key in 0..SESSIONS {
        let wanted = session(key, versions[key as usize]);
        if map.get(key)?.map(|(value, _)| value) != Some(&wanted[..]) {
            return Err(format!("at the end, session {key} differs from what was put there").into());
        }
    }
    for key in 0..SESSIONS {
        map.remove(key)?;
    }
    if !map.store.is_empty() || map.hot_bytes > 0 {
        return Err(format!("{} pages are left when every value is gone", map.store.len()).into());
    }
    if now * 2 > plain_bytes {
        return Err("the tier saved less than half of the memory".into());
    }
    println!("every value came back as it was put there");
    Ok(())
}
