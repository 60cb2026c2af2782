//! Write guards, and the cloning of errors, must not abort if the heap refuses memory at any step. A guard
//! returns an error, and a cloned error omits its text.
#![cfg(all(target_os = "linux", not(miri), not(loom)))]
#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's own message")]

mod refusing;

use refusing::with_allocations;
use zpool_api::{Handle, ObjSink, ObjWrite, PageError, ZpoolError};

#[test]
fn a_buffered_write_is_refused() {
    struct Sink;
    impl ObjSink for Sink {
        fn store(&self, bytes: &[u8]) -> Result<Handle, ZpoolError> {
            Ok(Handle::from_u64(bytes.len() as u64).unwrap())
        }
    }
    let mut said = None;
    assert!(with_allocations(0, || said = Some(ObjWrite::buffered(100, &Sink).map(drop))) > 0);
    // There was no memory for the reason, either.
    let refused = PageError::Refused { pages: 1, page_size: 4096, reason: String::new() };
    assert_eq!(said, Some(Err(ZpoolError::OutOfMemory { source: refused })));
    let mut write = None;
    assert_eq!(with_allocations(1, || write = Some(ObjWrite::buffered(100, &Sink).unwrap())), 0);
    let mut write = write.unwrap();
    write.write(&[1; 100]).unwrap();
    assert_eq!(write.commit().unwrap().as_u64(), 100);
}

#[test]
fn an_error_is_cloned_without_its_text_if_that_does_not_fit() {
    let source = PageError::Refused { pages: 1, page_size: 4096, reason: "full".to_owned() };
    let bare = PageError::Refused { pages: 1, page_size: 4096, reason: String::new() };
    let error = ZpoolError::OutOfMemory { source: source.clone() };
    assert_eq!(error.clone(), error);
    let mut cloned = None;
    assert_eq!(with_allocations(0, || cloned = Some(error.clone())), 1);
    assert_eq!(cloned, Some(ZpoolError::OutOfMemory { source: bare }));
    let odd = PageError::PageSize { page_size: 3, allowed: "4096".to_owned() };
    assert_eq!(odd.clone(), odd);
    assert_eq!(with_allocations(0, || drop(odd.clone())), 1);
}
