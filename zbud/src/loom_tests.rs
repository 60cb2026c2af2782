//! Loom models of small whole pools of zbud. z3fold shares the models. Here they run with zbud's single
//! lock.

#[macro_use]
#[path = "../../buddies/tests/loom_models/mod.rs"]
mod models;

use std::sync::Arc;

use zpool_pages::HeapPages;

use crate::Zbud;

pool_models!(|| Arc::new(Zbud::new(Arc::new(HeapPages::new())).unwrap()));
