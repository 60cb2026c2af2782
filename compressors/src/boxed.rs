//! A box whose allocation may fail: contexts are made while a program runs, and memory that is not to
//! be had is then an error.

use std::alloc::{Layout, alloc};

use crate::error::CompressorError;

/// `value` on the heap.
pub(crate) fn try_box<T>(codec: &'static str, value: T) -> Result<Box<T>, CompressorError> {
    let layout = Layout::new::<T>();
    if layout.size() == 0 {
        // Allocates nothing.
        return Ok(Box::new(value));
    }
    // SAFETY: the layout's size is not 0, checked above.
    let place = unsafe { alloc(layout) }.cast::<T>();
    if place.is_null() {
        return Err(CompressorError::OutOfMemory { codec, what: "a context" });
    }
    // SAFETY: allocated just now with the layout of a `T`, and nobody else's.
    unsafe { place.write(value) };
    // SAFETY: a `T` that lies in memory of the global allocator with its own layout, and whose only
    // owner this is, as `Box` asks for.
    Ok(unsafe { Box::from_raw(place) })
}

#[cfg(test)]
mod tests {
    use super::try_box;
    use std::sync::Arc;

    #[test]
    fn a_boxed_value_is_dropped_once_whatever_its_size() {
        let token = Arc::new(());
        let boxed: Box<dyn Send> = try_box("test", (token.clone(), [7u64; 9])).unwrap();
        assert_eq!(Arc::strong_count(&token), 2);
        drop(boxed);
        assert_eq!(Arc::strong_count(&token), 1);
        assert_eq!(*try_box("test", ()).unwrap(), ());
    }
}
