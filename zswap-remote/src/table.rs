//! Which object holds a segment now.
//!
//! The service is never asked for this: a write whose answer was lost may arrive at any later time, and a read must
//! not find it.

use std::collections::HashMap;

use crate::name::Object;

/// A written segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Written {
    pub(crate) object: Object,
    /// The bytes of the object.
    pub(crate) len: u32,
}

/// The written segments, and the number of the next attempt.
#[derive(Debug, Default)]
pub(crate) struct Table {
    written: HashMap<u64, Written>,
    next_attempt: u64,
    bytes: u64,
}

impl Table {
    /// Names an object to write a segment to. No other call returns the same object.
    pub(crate) fn attempt(&mut self, segment: u64) -> Object {
        let attempt = self.next_attempt;
        self.next_attempt += 1;
        Object { segment, attempt }
    }

    /// Returns whether any object was named, so that the service may hold something.
    pub(crate) fn was_used(&self) -> bool {
        self.next_attempt > 0
    }

    /// Makes room for one more segment. Returns whether there is memory for it.
    pub(crate) fn reserve(&mut self) -> bool {
        self.written.try_reserve(1).is_ok()
    }

    /// Notes that an object holds its segment now.
    pub(crate) fn insert(&mut self, object: Object, len: u32) {
        self.bytes += u64::from(len);
        let older = self.written.insert(object.segment, Written { object, len });
        self.bytes -= older.map_or(0, |older| u64::from(older.len));
    }

    pub(crate) fn get(&self, segment: u64) -> Option<Written> {
        self.written.get(&segment).copied()
    }

    /// Forgets a segment. Returns the object that held it.
    pub(crate) fn remove(&mut self, segment: u64) -> Option<Object> {
        let older = self.written.remove(&segment)?;
        self.bytes -= u64::from(older.len);
        Some(older.object)
    }

    /// Forgets all segments. Returns their objects.
    pub(crate) fn take_all(&mut self) -> Vec<Object> {
        self.bytes = 0;
        core::mem::take(&mut self.written).into_values().map(|written| written.object).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.written.len()
    }

    /// Returns the bytes of the objects that hold segments.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the heap bytes of the table: an element and a control byte for each place.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.written.capacity() * (size_of::<(u64, Written)>() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_attempt_has_a_number_of_its_own_and_the_last_written_counts() {
        let mut table = Table::default();
        let (a, b, c) = (table.attempt(7), table.attempt(7), table.attempt(8));
        assert!(a.attempt < b.attempt && b.attempt < c.attempt);
        table.insert(a, 100);
        table.insert(c, 10);
        table.insert(b, 50);
        assert_eq!((table.len(), table.bytes()), (2, 60));
        assert_eq!(table.get(7), Some(Written { object: b, len: 50 }));
        assert_eq!((table.remove(7), table.remove(7)), (Some(b), None));
        assert_eq!((table.get(7), table.bytes()), (None, 10));
        assert!(table.attempt(7).attempt > c.attempt);
        assert_eq!(table.take_all(), [c]);
        assert_eq!((table.len(), table.bytes()), (0, 0));
    }
}
