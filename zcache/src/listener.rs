//! The function that a program is shown evicted values with.

use core::fmt;
use std::sync::Arc;

use crate::key::Key;

type OnEvict = dyn Fn(Key<'_>, &[u8]) + Send + Sync;

/// A function that is called with the key and the value of each evicted entry.
#[derive(Clone)]
pub(crate) struct Listener(Arc<OnEvict>);

impl Listener {
    pub(crate) fn new(listener: impl Fn(Key<'_>, &[u8]) + Send + Sync + 'static) -> Self {
        Listener(Arc::new(listener))
    }

    pub(crate) fn call(&self, key: Key<'_>, value: &[u8]) {
        (self.0)(key, value);
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}
