//! Builds compressors by name, both this crate's and those of third parties.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::compressor::Compressor;
use crate::error::CompressorError;
use crate::null::Null;
use crate::spec::{Spec, told};
use zpool_base::unwind::dropped;

/// A function that builds a compressor from a parsed spec.
type Constructor =
    Arc<dyn Fn(&Spec) -> Result<Arc<dyn Compressor>, CompressorError> + Send + Sync + 'static>;

/// A registered compressor.
#[derive(Clone)]
struct Entry {
    construct: Constructor,
    /// Whether the compressor is one of this crate's. If so, the compressor's spec contains all its parameters.
    own: bool,
}

/// A compressor and its key. The registry can build the compressor again from the key.
#[derive(Debug, Clone)]
pub struct Built {
    /// The compressor.
    pub compressor: Arc<dyn Compressor>,
    /// A spec from which the registry builds an equal compressor. In one registry, equal keys mean equal
    /// compressors.
    ///
    /// For a compressor of this crate, the key leaves out parameters that have their default. For any other,
    /// the key is its name and the given parameters, sorted by their keys. So two dictionaries that are
    /// registered under two names have two keys.
    pub key: String,
}

/// The compressors of this crate that need a cargo feature, each with that feature.
const FEATURES: [(&str, &str); 6] = [
    ("lz4", "lz4"),
    ("lz4hc", "lz4"),
    ("linewords", "linewords"),
    ("zstd", "zstd"),
    ("deflate", "deflate"),
    ("lzo", "lzo"),
];

/// A set of compressors that can be built by name.
///
/// `Send` and `Sync`. Cloning is cheap, and the clone is independent. A registry
/// takes no locks: registering needs `&mut`.
///
/// ```
/// use std::sync::Arc;
/// use compressors::{Null, Registry};
///
/// let mut registry = Registry::builtin();
/// registry.register("copy", |spec| {
///     spec.allow_keys(&[])?;
///     Ok(Arc::new(Null))
/// })?;
/// assert!(registry.names().contains(&"copy"));
/// assert!(registry.build("copy").is_ok());
/// assert!(registry.build("copy:level=1").is_err());
/// # Ok::<(), compressors::CompressorError>(())
/// ```
#[derive(Clone)]
pub struct Registry {
    constructors: BTreeMap<String, Entry>,
    /// Whether to return `FeatureOff`, not `UnknownName`, for compressors of this crate that are not compiled in.
    builtin: bool,
}

impl Registry {
    /// Makes a registry without compressors.
    ///
    /// ```
    /// use compressors::Registry;
    ///
    /// assert!(Registry::empty().build("null").is_err());
    /// ```
    #[must_use]
    pub fn empty() -> Self {
        Registry { constructors: BTreeMap::new(), builtin: false }
    }

    /// Makes a registry with all compressors of this crate that are compiled in.
    ///
    /// ```
    /// use compressors::Registry;
    ///
    /// assert!(Registry::builtin().names().contains(&"null"));
    /// ```
    #[must_use]
    pub fn builtin() -> Self {
        let mut registry = Registry { constructors: BTreeMap::new(), builtin: true };
        registry.insert(true, crate::names::NULL, |spec| {
            spec.allow_keys(&[])?;
            Ok(Arc::new(Null))
        });
        #[cfg(feature = "lz4")]
        registry.insert(true, crate::names::LZ4, |spec| Ok(Arc::new(crate::Lz4::from_spec(spec)?)));
        #[cfg(feature = "lz4")]
        registry
            .insert(true, crate::names::LZ4HC, |spec| Ok(Arc::new(crate::Lz4Hc::from_spec(spec)?)));
        #[cfg(feature = "linewords")]
        registry.insert(true, crate::names::LINEWORDS, |spec| {
            Ok(Arc::new(crate::Linewords::from_spec(spec)?))
        });
        #[cfg(feature = "zstd")]
        registry
            .insert(true, crate::names::ZSTD, |spec| Ok(Arc::new(crate::Zstd::from_spec(spec)?)));
        #[cfg(feature = "deflate")]
        registry.insert(true, crate::names::DEFLATE, |spec| {
            Ok(Arc::new(crate::Deflate::from_spec(spec)?))
        });
        #[cfg(feature = "lzo")]
        registry.insert(true, crate::names::LZO, |spec| Ok(Arc::new(crate::Lzo::from_spec(spec)?)));
        registry
    }

    fn insert(
        &mut self,
        own: bool,
        name: &str,
        constructor: impl Fn(&Spec) -> Result<Arc<dyn Compressor>, CompressorError>
        + Send
        + Sync
        + 'static,
    ) {
        let entry = Entry { construct: Arc::new(constructor), own };
        self.constructors.insert(name.to_owned(), entry);
    }

    /// Adds a compressor under `name`. The constructor gets the parsed spec, and should
    /// refuse keys that it does not know ([`Spec::allow_keys`]).
    ///
    /// ```
    /// use std::sync::Arc;
    /// use compressors::{CompressorError, Null, Registry};
    ///
    /// let mut registry = Registry::builtin();
    /// registry.register("copy", |_spec| Ok(Arc::new(Null)))?;
    /// let again = registry.register("copy", |_spec| Ok(Arc::new(Null)));
    /// assert!(matches!(again, Err(CompressorError::NameTaken { .. })));
    /// # Ok::<(), CompressorError>(())
    /// ```
    ///
    /// # Errors
    /// [`CompressorError::NameTaken`] if the name is already in use;
    /// [`CompressorError::MalformedSpec`] if a spec cannot have this name.
    pub fn register(
        &mut self,
        name: &str,
        constructor: impl Fn(&Spec) -> Result<Arc<dyn Compressor>, CompressorError>
        + Send
        + Sync
        + 'static,
    ) -> Result<(), CompressorError> {
        let spec: Spec = name.parse()?;
        if spec.params().next().is_some() {
            return Err(CompressorError::MalformedSpec {
                spec: told(name),
                reason: "register a name without parameters",
            });
        }
        if self.constructors.contains_key(name) {
            return Err(CompressorError::NameTaken { name: told(name) });
        }
        self.insert(false, name, constructor);
        Ok(())
    }

    /// Builds a compressor from its spec, for instance `lz4` or `zstd:level=19`. Does what
    /// [`resolve`](Self::resolve) does, but does not return the key.
    ///
    /// ```
    /// use compressors::{CompressorError, Registry};
    ///
    /// let registry = Registry::builtin();
    /// assert_eq!(registry.build("null")?.name(), "null");
    /// assert!(matches!(registry.build("lz5"), Err(CompressorError::UnknownName { .. })));
    /// # Ok::<(), CompressorError>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`resolve`](Self::resolve).
    pub fn build(&self, spec: &str) -> Result<Arc<dyn Compressor>, CompressorError> {
        self.resolve(spec).map(|built| built.compressor)
    }

    /// Builds a compressor from its spec, for instance `lz4` or `zstd:level=19`, and returns it with its key.
    ///
    /// The key of a third party's compressor is not the compressor's own [`spec`](Compressor::spec). That spec lacks
    /// what only the constructor knows, such as a dictionary.
    ///
    /// ```
    /// use compressors::{Null, Registry};
    ///
    /// let mut registry = Registry::builtin();
    /// registry.register("copy", |_spec| Ok(std::sync::Arc::new(Null)))?;
    /// let key = registry.resolve("copy:b=2,a=1")?.key;
    /// assert_eq!(key, "copy:a=1,b=2");
    /// assert_eq!(registry.resolve(&key)?.key, key);
    /// # Ok::<(), compressors::CompressorError>(())
    /// ```
    ///
    /// # Errors
    /// [`CompressorError::MalformedSpec`] if the spec does not parse;
    /// [`CompressorError::UnknownName`] if no compressor has the name;
    /// [`CompressorError::FeatureOff`] if the compressor's cargo feature is off;
    /// otherwise the constructor's error, such as [`CompressorError::BadParameter`].
    pub fn resolve(&self, spec: &str) -> Result<Built, CompressorError> {
        let spec: Spec = spec.parse()?;
        let name = spec.name();
        if let Some(Entry { construct, own }) = self.constructors.get(name) {
            let compressor = construct(&spec)?;
            let key = if *own { compressor.spec() } else { spec.sorted().to_string() };
            return Ok(Built { compressor, key });
        }
        let off = FEATURES.iter().find(|(known, _)| self.builtin && *known == name);
        Err(match off {
            Some(&(_, feature)) => CompressorError::FeatureOff { name: name.to_owned(), feature },
            None => CompressorError::UnknownName {
                name: told(name),
                known: self.constructors.keys().cloned().collect(),
            },
        })
    }

    /// Returns the names of all compressors in the registry, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.constructors.keys().map(String::as_str).collect()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Constructors may own values whose destructors panic. Drop each constructor separately: a second panic
        // while the first unwinds would abort the process.
        for (_, entry) in std::mem::take(&mut self.constructors) {
            dropped(entry);
        }
    }
}

impl Default for Registry {
    /// Does what [`Registry::builtin`] does.
    fn default() -> Self {
        Self::builtin()
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("names", &self.names()).finish_non_exhaustive()
    }
}

/// Builds a compressor of this crate from its spec, for instance `lz4` or `zstd:level=19`.
///
/// ```
/// assert_eq!(compressors::build("null")?.max_compressed_len(4096), 4096);
/// # Ok::<(), compressors::CompressorError>(())
/// ```
///
/// # Errors
/// Those of [`Registry::build`].
pub fn build(spec: &str) -> Result<Arc<dyn Compressor>, CompressorError> {
    Registry::builtin().build(spec)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{FEATURES, Registry, build};
    use crate::error::CompressorError;
    use crate::null::Null;

    const _: fn() = || {
        fn check<T: Send + Sync + Clone + 'static>() {}
        check::<Registry>();
    };

    /// Returns whether a feature of this crate is on.
    fn is_on(feature: &str) -> bool {
        match feature {
            "lz4" => cfg!(feature = "lz4"),
            "linewords" => cfg!(feature = "linewords"),
            "zstd" => cfg!(feature = "zstd"),
            "deflate" => cfg!(feature = "deflate"),
            "lzo" => cfg!(feature = "lzo"),
            other => panic!("unknown feature {other}"),
        }
    }

    #[test]
    fn a_name_is_there_or_its_feature_is_told() {
        let registry = Registry::builtin();
        assert!(registry.names().contains(&"null"));
        for (name, feature) in FEATURES {
            if is_on(feature) {
                assert!(registry.names().contains(&name));
                // Some constructors call their C library, which Miri cannot run.
                if !cfg!(miri) {
                    assert_eq!(registry.build(name).unwrap().name(), name);
                }
            } else {
                assert!(!registry.names().contains(&name));
                assert_eq!(
                    registry.build(name).unwrap_err(),
                    CompressorError::FeatureOff { name: name.to_owned(), feature }
                );
            }
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        match build("lz5:level=1") {
            Err(CompressorError::UnknownName { name, known }) => {
                assert_eq!(name, "lz5");
                assert_eq!(known, Registry::builtin().names());
            }
            other => panic!("{other:?}"),
        }
        // An empty registry does not know this crate's features.
        assert_eq!(
            Registry::empty().build("lzo").unwrap_err(),
            CompressorError::UnknownName { name: "lzo".to_owned(), known: vec![] }
        );
    }

    #[test]
    fn third_parties_register_under_free_and_writable_names() {
        let mut registry = Registry::builtin();
        let before = registry.clone();
        let mut register = |name: &str| {
            registry.register(name, |spec| {
                spec.int("level", 1, 1..=9)?;
                Ok(Arc::new(Null))
            })
        };
        assert_eq!(register("mine"), Ok(()));
        for taken in ["mine", "null"] {
            assert_eq!(register(taken), Err(CompressorError::NameTaken { name: taken.to_owned() }));
        }
        for bad in ["", "a b", "mine:level=1", "x:"] {
            let error = register(bad).unwrap_err();
            assert!(matches!(error, CompressorError::MalformedSpec { .. }), "{bad:?}: {error}");
        }
        assert!(registry.names().contains(&"mine"));
        assert!(registry.build("mine:level=9").is_ok());
        assert!(matches!(
            registry.build("mine:level=10"),
            Err(CompressorError::BadParameter { .. })
        ));
        assert!(!before.names().contains(&"mine"));
    }

    #[test]
    fn null_takes_no_parameters() {
        assert!(matches!(build("null:level=1"), Err(CompressorError::BadParameter { .. })));
    }

    /// Returns the key of a spec. Checks that the key builds an equal compressor, which has the same key.
    #[cfg(not(miri))]
    fn key_of(registry: &Registry, spec: &str) -> String {
        let built = registry.resolve(spec).unwrap();
        let again = registry.resolve(&built.key).unwrap();
        assert_eq!(built.key, again.key, "{spec}");
        assert_eq!(built.compressor.spec(), again.compressor.spec(), "{spec}");
        assert_eq!(built.compressor.name(), again.compressor.name(), "{spec}");
        let page = b"pages of dictionaries of pages of dictionaries".repeat(20);
        let mut out = vec![0; built.compressor.max_compressed_len(page.len())];
        let len = built.compressor.new_ctx().unwrap().compress(&page, &mut out).unwrap();
        let mut back = vec![0; page.len()];
        again.compressor.new_ctx().unwrap().decompress(&out[..len], &mut back).unwrap();
        assert_eq!(back, page, "{spec}");
        built.key
    }

    #[test]
    #[cfg(not(miri))]
    fn the_key_of_each_of_this_crates_says_what_is_not_default() {
        let registry = Registry::builtin();
        for (spec, key) in [
            ("null", "null"),
            ("lz4", "lz4"),
            ("lz4:accel=1", "lz4"),
            ("lz4:accel=7", "lz4:accel=7"),
            ("lz4hc:level=9", "lz4hc"),
            ("lz4hc:level=12", "lz4hc:level=12"),
            ("linewords", "linewords"),
            ("linewords:page=4096", "linewords"),
            ("linewords:page=+16384", "linewords:page=16384"),
            ("zstd", "zstd"),
            ("zstd:level=3,page=4096", "zstd"),
            ("zstd:level=0", "zstd"),
            ("zstd:page=4096", "zstd"),
            ("zstd:page=16384,level=19", "zstd:level=19,page=16384"),
            ("zstd:level=-5", "zstd:level=-5"),
            ("zstd:level=+5", "zstd:level=5"),
            ("deflate:level=6", "deflate"),
            ("deflate:level=012", "deflate:level=12"),
            ("lzo", "lzo"),
        ] {
            let name = spec.split(':').next().unwrap();
            if registry.names().contains(&name) {
                assert_eq!(key_of(&registry, spec), key);
            }
        }
    }

    #[test]
    #[cfg(all(feature = "lz4", feature = "zstd", not(miri)))]
    fn what_a_constructor_knows_is_found_again_by_its_name() {
        let mut registry = Registry::builtin();
        for (name, words) in [("one", "pages of dictionaries"), ("two", "DICTIONARIES OF PAGES")] {
            registry
                .register(name, move |spec| {
                    let level = spec.int("level", 3, 1..=9)?;
                    let builder = crate::Zstd::builder().level(level);
                    Ok(Arc::new(builder.dictionary(words.as_bytes()).build()?))
                })
                .unwrap();
        }
        let one = key_of(&registry, "one");
        assert_eq!((one.as_str(), key_of(&registry, "two").as_str()), ("one", "two"));
        assert_eq!(key_of(&registry, "two:level=5"), "two:level=5");
        assert_eq!(key_of(&registry, "two:zeta=1,level=5"), "two:level=5,zeta=1");
        // The compressor's own spec names the dictionary, but does not contain it, so it builds nothing.
        let spec = registry.resolve("one").unwrap().compressor.spec();
        assert!(spec.starts_with("zstd:dict=") && registry.resolve(&spec).is_err());

        // In an empty registry, a third party may use a name of this crate.
        let mut registry = Registry::empty();
        registry
            .register("lz4", |_| {
                Ok(Arc::new(crate::Lz4::builder().dictionary(*b"pages of pages").build()?))
            })
            .unwrap();
        assert_eq!(key_of(&registry, "lz4"), "lz4");
        assert_eq!(key_of(&registry, "lz4:accel=1"), "lz4:accel=1");
    }
}
