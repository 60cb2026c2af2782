//! The running kernel's contestants: none is offered here as yet.
pub(crate) mod zram {
    use crate::{contestant::*, error::*};
    pub(crate) struct Zram;
    impl Zram {
        pub(crate) fn new(_: &str, _: usize, _: usize) -> Result<Self> {
            Err(Error::Stopped)
        }
    }
    impl Contestant for Zram {
        fn worker(&self) -> Result<Box<dyn Worker + '_>> {
            Err(Error::Stopped)
        }
        fn free(&self, _: usize) -> Result<()> {
            Ok(())
        }
        fn tidy(&self) -> Result<()> {
            Ok(())
        }
        fn memory(&self) -> Result<Memory> {
            Err(Error::Stopped)
        }
    }
    pub(crate) fn offered() -> std::result::Result<Vec<String>, String> {
        Err("x".into())
    }
}
pub(crate) mod zswap {
    use crate::{contestant::*, error::*};
    pub(crate) struct Zswap;
    impl Zswap {
        pub(crate) fn new(_: &str, _: usize) -> Result<Self> {
            Err(Error::Stopped)
        }
    }
    impl Contestant for Zswap {
        fn worker(&self) -> Result<Box<dyn Worker + '_>> {
            Err(Error::Stopped)
        }
        fn free(&self, _: usize) -> Result<()> {
            Ok(())
        }
        fn tidy(&self) -> Result<()> {
            Ok(())
        }
        fn memory(&self) -> Result<Memory> {
            Err(Error::Stopped)
        }
    }
    pub(crate) fn offered() -> std::result::Result<Vec<String>, String> {
        Err("x".into())
    }
}
pub(crate) fn stopped() -> bool {
    false
}
pub(crate) fn watch_signals() {}
