//! zswap-core
