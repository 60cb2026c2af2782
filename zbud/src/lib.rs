//! zbud
