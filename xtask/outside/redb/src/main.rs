//! A database in compressed memory: redb over a disk of zram.
//!
//! The database reads and writes its file through `StorageBackend`, and the disk takes any range of bytes. So a page of
//! the database is compressed when it is written and decompressed when it is read.

mod backend;

use std::error::Error;
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use zram::Zram;

use crate::backend::ZramBackend;

/// Rows of JSON by their number.
const ROWS: TableDefinition<'_, u64, &str> = TableDefinition::new("rows");

/// The rows to insert, in MiB.
const MIB: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let disk = Zram::builder().disksize(1 << 30).unit(16 << 10).algorithm("zstd").build()?;
    let disk = Arc::new(disk);
    let database = Database::builder().create_with_backend(ZramBackend::new(disk.clone()))?;

    let (mut bytes, mut number) = (0, 0);
    while bytes < MIB << 20 {
        let write = database.begin_write()?;
        {
            let mut rows = write.open_table(ROWS)?;
            for _ in 0..10_000 {
                let row = row(number);
                bytes += row.len();
                rows.insert(number, &*row)?;
                number += 1;
            }
        }
        write.commit()?;
    }
    let read = database.begin_read()?;
    let rows = read.open_table(ROWS)?;
    let mut found = 0;
    for entry in rows.iter()? {
        let (key, value) = entry?;
        assert_eq!(value.value(), row(key.value()));
        found += 1;
    }
    assert_eq!((found, rows.len()?), (number, number));
    let stat = disk.mm_stat();
    println!(
        "{number} rows, {:.1} MiB, read back: {:.1} MiB of the disk are written, and take {:.1} MiB of memory",
        bytes as f64 / 1048576.0,
        stat.orig_data_size as f64 / 1048576.0,
        (stat.mem_used_total as usize + disk.metadata_bytes()) as f64 / 1048576.0,
    );
    Ok(())
}

/// Makes the row of a number.
fn row(number: u64) -> String {
    let hash = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let names = ["Ada", "Grace", "Barbara", "Frances", "Radia", "Karen"];
    let (name, city) = (names[(hash >> 20) as usize % 6], (hash >> 30) % 400);
    format!(
        "{{\"id\":{number},\"name\":\"{name}\",\"city\":{city},\"balance\":{},\"tags\":[\"customer\",\"newsletter\"],\
         \"created\":\"2024-{:02}-{:02}T10:00:00Z\"}}",
        hash >> 44,
        1 + (hash >> 8) % 12,
        1 + (hash >> 12) % 28,
    )
}

#[cfg(test)]
mod tests;
