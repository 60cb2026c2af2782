//! placeholder
#[derive(Debug)] pub struct MmapPages; #[derive(Debug)] pub struct MmapOptions;
