//! Building a disk.
//!
//! `ZswapBuilder` has some of these setters, too: `zpool`, `zpool_registry`, `compressor_registry` and `pages`. Both
//! builders keep these settings in zpage's `Recipe`. The setters themselves are written twice, because each body is
//! one line: a macro for both builders would be longer, and its documentation could name neither builder.

use core::fmt;
use std::sync::Arc;

use compressors::Registry as CompressorRegistry;
use zpage::device::SwapDevice;
use zpage::same_filled::Patterns;
use zpage::segments::Segments;
use zpage::{Codec, PAGE_SIZE, Recipe, RecipeError, builtin, check_unit};
use zpool_api::{PageError, PageProvider, Registry as ZpoolRegistry};
use zpool_base::contained::{Contained, Panicked, contain};

use crate::Zram;
use crate::counts::Counts;
use crate::error::BuildError;
use crate::recent::RecentPages;
use crate::table::Table;

/// The largest disk: 4 PiB.
const MOST_BYTES: u64 = (1 << 40) * PAGE_SIZE as u64;

/// The most algorithms of a disk: one for writes, the others for recompression.
const MOST: usize = 4;

/// Builds a [`Zram`]. Made by [`Zram::builder`].
///
/// ```
/// use zram::Zram;
///
/// let disk = Zram::builder().disksize(1 << 20).zpool("zbud").algorithm("null").build()?;
/// assert_eq!(disk.disksize(), 1 << 20);
/// let odd = Zram::builder().disksize(1000).build().unwrap_err();
/// assert!(odd.to_string().contains("multiple of 4096"));
/// # Ok::<(), zram::BuildError>(())
/// ```
#[derive(Clone)]
#[must_use = "a builder builds nothing until build() is called"]
pub struct ZramBuilder {
    disksize: u64,
    unit: usize,
    zpool: String,
    /// `None`: the default of the registry.
    algorithm: Option<String>,
    recompression: Vec<String>,
    recipe: Recipe,
    mem_limit: usize,
    access_times: bool,
    device: Option<Contained<Arc<dyn SwapDevice>>>,
    #[cfg(feature = "encrypt")]
    encrypt: bool,
}

impl ZramBuilder {
    pub(crate) fn new() -> Self {
        ZramBuilder {
            disksize: 0,
            unit: PAGE_SIZE,
            zpool: builtin::DEFAULT_ZPOOL.to_owned(),
            algorithm: None,
            recompression: Vec::new(),
            recipe: Recipe::builtin(),
            mem_limit: 0,
            access_times: false,
            device: None,
            #[cfg(feature = "encrypt")]
            encrypt: false,
        }
    }

    /// Sets the size of the disk in bytes, a multiple of 4096. Required. An empty disk takes less than a tenth
    /// of a byte per page. The first write to any of 512 neighbouring pages allocates 8 bytes for each of them.
    pub fn disksize(mut self, bytes: u64) -> Self {
        self.disksize = bytes;
        self
    }

    /// Sets the length in bytes of the disk's pages, which are compressed one by one: 4096 (the default), 8192, 16384,
    /// 32768 or 65536. Longer pages compress better. A write of a part of a page compresses all of it; a read of a
    /// part decompresses all of it, and keeps up to 16 such pages for the next reads ([`Zram::metadata_bytes`] counts
    /// them). If the disk's size is no multiple of this, the last page ends with the disk.
    ///
    /// ```
    /// let disk = zram::Zram::builder().disksize(1 << 20).unit(32 << 10).build()?;
    /// disk.write(5000, b"hello")?;
    /// assert_eq!(disk.mm_stat().orig_data_size, 32 << 10);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn unit(mut self, bytes: usize) -> Self {
        self.unit = bytes;
        self
    }

    /// Chooses the backend by its name. Default: `zsmalloc`, or `zbud` without that feature.
    pub fn zpool(mut self, name: &str) -> Self {
        name.clone_into(&mut self.zpool);
        self
    }

    /// Chooses the algorithm that compresses writes, by its spec, e.g. `zstd:level=6`. Default:
    /// [`compressors::default_compressor`], which depends on the processor; `lz4` if the registry has `lz4` but
    /// not that one.
    pub fn algorithm(mut self, spec: &str) -> Self {
        self.algorithm = Some(spec.to_owned());
        self
    }

    /// Adds an algorithm for [`Zram::recompress`], by its spec. The first one added has priority 1, the
    /// second 2, the third 3. A disk can have at most three.
    pub fn recompression(mut self, spec: &str) -> Self {
        self.recompression.push(spec.to_owned());
        self
    }

    /// Looks up backends by name in this registry instead of [`builtin::zpools`].
    pub fn zpool_registry(mut self, registry: ZpoolRegistry) -> Self {
        self.recipe.zpools = registry;
        self
    }

    /// Looks up compressors by name in this registry instead of [`builtin::compressors`].
    pub fn compressor_registry(mut self, registry: CompressorRegistry) -> Self {
        self.recipe.compressors = registry;
        self
    }

    /// Sets the constructor of the pool's page provider. Default: `MmapPages` on Linux, else `HeapPages`.
    pub fn pages<F>(mut self, make: F) -> Self
    where
        F: Fn() -> Result<Arc<dyn PageProvider>, PageError> + Send + Sync + 'static,
    {
        self.recipe.set_pages(make);
        self
    }

    /// Sets the constructor of the pool's page provider, for any unit: it is called with the wanted page size in bytes.
    /// zbud and z3fold need pages as large as the disk's unit, which [`ZramBuilder::pages`] cannot know.
    pub fn pages_of<F>(mut self, make: F) -> Self
    where
        F: Fn(usize) -> Result<Arc<dyn PageProvider>, PageError> + Send + Sync + 'static,
    {
        self.recipe.set_pages_of(make);
        self
    }

    /// Limits the bytes of the pool pages that hold objects. A write that would exceed the limit fails with
    /// [`ZramError::MemLimit`](crate::ZramError::MemLimit). 0, the default, means no limit.
    pub fn mem_limit(mut self, bytes: usize) -> Self {
        self.mem_limit = bytes;
        self
    }

    /// Sets whether the disk records when each page was last accessed, in whole seconds.
    /// [`Zram::mark_idle_older_than`] needs the times. They take 4 bytes per page. Default: no.
    pub fn access_times(mut self, note: bool) -> Self {
        self.access_times = note;
        self
    }

    /// Sets the device for [`Zram::writeback`]. Default: none. The disk allocates memory for about three of the
    /// device's segments, and, as it uses the segments, for a record of each. [`Zram::metadata_bytes`] counts it.
    pub fn backing_device(mut self, device: Arc<dyn SwapDevice>) -> Self {
        self.device = Some(Contained::new(device));
        self
    }

    /// Sets whether the disk encrypts what it writes to the backing device. Default: no. Without a device this has
    /// no effect.
    ///
    /// With this setting, somebody who reads the device's storage learns no byte of the disk. Somebody who changes
    /// it, or puts back what was there earlier, makes reads fail with
    /// [`DeviceError::Corrupt`](crate::device::DeviceError::Corrupt). The key is random, belongs to this disk and is
    /// never written. [`Segments::attach_encrypted`] says where the key is kept, which cipher is used, and what it
    /// costs. Which bytes are written and read, when, and how long compressed pages are, is not hidden.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zram::device::{MemorySwapDevice, SwapDevice};
    /// use zram::{Writeback, Zram};
    ///
    /// let device = Arc::new(MemorySwapDevice::new(1000));
    /// let builder = Zram::builder().disksize(1 << 20).backing_device(device.clone());
    /// let disk = builder.encrypt(true).build()?;
    /// disk.write(0, b"a password: 1234")?;
    /// disk.writeback(&Writeback::new())?;
    ///
    /// let mut written = vec![0; device.bytes()];
    /// device.read(0, 0, &mut written)?;
    /// assert!(!written.windows(8).any(|bytes| bytes == b"password"));
    /// let mut back = [0; 10];
    /// disk.read(0, &mut back)?;
    /// assert_eq!(&back, b"a password");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "encrypt")]
    pub fn encrypt(mut self, encrypt: bool) -> Self {
        self.encrypt = encrypt;
        self
    }

    /// Builds the disk.
    ///
    /// ```
    /// use zram::{BuildError, Zram};
    ///
    /// let builder = Zram::builder().disksize(1 << 20).algorithm("null");
    /// assert!(builder.clone().zpool("zbud").build().is_ok());
    /// assert!(matches!(builder.zpool("zlab").build(), Err(BuildError::Zpool(_))));
    /// ```
    ///
    /// # Errors
    /// * [`BuildError::DiskSize`] if the size is missing or not allowed; [`BuildError::Unit`] if the unit is none.
    /// * [`BuildError::TooManyAlgorithms`] if there are more than three algorithms for recompression.
    /// * [`BuildError::Compressor`] or [`BuildError::Zpool`] if a name is not known (the error lists the known
    ///   ones), a compressor's spec is malformed, or a constructor fails.
    /// * [`BuildError::Pages`] if the page provider could not be made.
    /// * [`BuildError::ObjectsTooSmall`] if the backend cannot hold a page.
    /// * [`BuildError::Table`] if there is no memory for the table.
    /// * [`BuildError::Device`] if the device cannot be attached, or the system refuses the key of an encrypted one.
    /// * [`BuildError::Panicked`] if a backend, compressor or page provider panics.
    pub fn build(self) -> Result<Zram, BuildError> {
        let bytes = self.disksize;
        if bytes == 0 || bytes % PAGE_SIZE as u64 != 0 || bytes > MOST_BYTES {
            return Err(BuildError::DiskSize { bytes, most: MOST_BYTES });
        }
        let unit = check_unit(self.unit)?;
        let mut recipe = self.recipe;
        recipe.set_unit(unit)?;
        if self.recompression.len() >= MOST {
            let asked = self.recompression.len() + 1;
            return Err(BuildError::TooManyAlgorithms { asked, most: MOST - 1 });
        }
        let default = recipe.default_compressor();
        let algorithm = self.algorithm.unwrap_or_else(|| default.to_owned());
        let specs = [algorithm].into_iter().chain(self.recompression);
        let algorithms: Result<Box<[_]>, RecipeError> = specs
            .map(|spec| {
                Ok(Arc::new(Codec::new(recipe.compressor(&spec)?.compressor).for_unit(unit)))
            })
            .collect();
        let algorithms = algorithms.map_err(BuildError::of_recipe)?;
        let zpool = recipe.zpool(&self.zpool, None).map_err(BuildError::of_recipe)?;
        let (tag, pool_page) = contain(|| (zpool.tag(), zpool.stats().page_size))
            .map_err(|Panicked| BuildError::Panicked { what: "the backend" })?;
        let table = Table::new(bytes.div_ceil(unit as u64), self.access_times)
            .map_err(|no_memory| BuildError::Table { bytes: no_memory.bytes })?;
        let attach: fn(_, _) -> _ = Segments::attach_for;
        #[cfg(feature = "encrypt")]
        let attach = if self.encrypt { Segments::attach_encrypted_for } else { attach };
        let device = self.device.as_deref().cloned();
        let backing = device.map(|device| attach(device, unit)).transpose()?;
        Ok(Zram {
            table,
            disksize: bytes,
            unit,
            recent: RecentPages::new(unit),
            tag,
            pool_page,
            zpool,
            algorithms,
            patterns: Patterns::new(),
            backing,
            counts: Counts::new(self.mem_limit),
        })
    }
}

impl Zram {
    /// Starts building a disk.
    ///
    /// ```
    /// let disk = zram::Zram::builder().disksize(64 << 20).build()?;
    /// disk.write(4096, b"hello")?;
    /// assert_eq!(disk.mm_stat().orig_data_size, 4096);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn builder() -> ZramBuilder {
        ZramBuilder::new()
    }
}

impl fmt::Debug for ZramBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZramBuilder")
            .field("disksize", &self.disksize)
            .field("zpool", &self.zpool)
            .field("algorithm", &self.algorithm)
            .field("recompression", &self.recompression)
            .finish_non_exhaustive()
    }
}
