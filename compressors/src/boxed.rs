//! Allocation of a `Box` that can fail. Contexts are made while a program runs, so a lack of memory must be an
//! error, not an abort.

use std::alloc::{Layout, alloc};

use crate::error::CompressorError;

/// Moves `value` to the heap. Fails with [`CompressorError::OutOfMemory`] if there is no memory.
pub(crate) fn try_box<T>(codec: &'static str, value: T) -> Result<Box<T>, CompressorError> {
    let layout = Layout::new::<T>();
    if layout.size() == 0 {
        // A zero-sized value needs no allocation.
        return Ok(Box::new(value));
    }
    // SAFETY: the layout's size is not 0, checked above.
    let place = unsafe { alloc(layout) }.cast::<T>();
    if place.is_null() {
        return Err(CompressorError::OutOfMemory { codec, what: "a context" });
    }
    // SAFETY: `place` was just allocated with the layout of a `T`, and only this function has the pointer.
    unsafe { place.write(value) };
    // SAFETY: `place` holds a `T`, was allocated by the global allocator with its layout, and has no other
    // owner, as `Box::from_raw` requires.
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
