//! Uses the registry as a program does.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's own message")]

use std::ops::Range;
use std::sync::Arc;

use zpool_api::{PageError, PageProvider, PageRun, Registry, ZpoolConfig, ZpoolError};

/// A provider without pages. No page is requested from it, because the constructors below fail first.
#[derive(Debug)]
struct NoPages;

// SAFETY: `alloc_run` never returns a run.
unsafe impl PageProvider for NoPages {
    fn page_size(&self) -> usize {
        4096
    }
    fn alloc_run(&self, pages: usize) -> Result<PageRun, PageError> {
        Err(PageError::Refused { pages, page_size: 4096, reason: "no pages here".to_owned() })
    }
    unsafe fn free_run(&self, _run: PageRun) {}
    unsafe fn discard(&self, _run: &mut PageRun, _pages: Range<usize>) {}
    fn cached_pages(&self) -> usize {
        0
    }
    fn trim(&self) -> usize {
        0
    }
    fn metadata_bytes(&self) -> usize {
        0
    }
}

#[test]
fn names_are_unique_and_an_unknown_one_lists_them() {
    let mut registry = Registry::new();
    let refuse = |_: &ZpoolConfig| Err(ZpoolError::EmptyObject);
    registry.register("one", refuse).unwrap();
    registry.register("two", refuse).unwrap();
    assert_eq!(
        registry.register("one", refuse),
        Err(ZpoolError::AlreadyRegistered { name: "one".into() })
    );
    let config = ZpoolConfig::new(Arc::new(NoPages));
    let unknown = registry.build("three", &config).unwrap_err();
    assert_eq!(unknown.to_string(), "no backend named `three`; known: one, two");
    assert_eq!(registry.build("two", &config).unwrap_err(), ZpoolError::EmptyObject);
}
