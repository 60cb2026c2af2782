//! The database over a disk does what a map does.

use std::collections::BTreeMap;
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable, StorageError, TableError};
use zram::Zram;

use crate::backend::ZramBackend;
use crate::{ROWS, row};

fn disk(bytes: u64, unit: usize) -> Arc<Zram> {
    Arc::new(Zram::builder().disksize(bytes).unit(unit).build().unwrap())
}

/// Checks that the database has just the rows of the map.
fn check(database: &Database, map: &BTreeMap<u64, String>) {
    let read = database.begin_read().unwrap();
    let rows = match read.open_table(ROWS) {
        Ok(rows) => rows,
        Err(TableError::TableDoesNotExist(_)) if map.is_empty() => return,
        Err(error) => panic!("{error}"),
    };
    let found = rows.iter().unwrap().map(|entry| {
        let (key, value) = entry.unwrap();
        (key.value(), value.value().to_owned())
    });
    assert!(found.eq(map.iter().map(|(key, value)| (*key, value.clone()))));
}

#[test]
fn transactions_aborts_and_opening_again() {
    for unit in [4096, 16_384] {
        let backend = ZramBackend::new(disk(256 << 20, unit));
        let mut database = Database::builder().create_with_backend(backend.again()).unwrap();
        let (mut map, mut state) = (BTreeMap::new(), 7_u64);
        let mut random = move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            state >> 33
        };
        for round in 0..30 {
            let mut changed = map.clone();
            let write = database.begin_write().unwrap();
            {
                let mut rows = write.open_table(ROWS).unwrap();
                for _ in 0..300 {
                    let key = random() % 2000;
                    if random() % 3 == 0 {
                        let removed =
                            rows.remove(key).unwrap().map(|value| value.value().to_owned());
                        assert_eq!(removed, changed.remove(&key));
                    } else {
                        let value = row(random());
                        rows.insert(key, &*value).unwrap();
                        changed.insert(key, value);
                    }
                }
            }
            if round % 4 == 3 {
                write.abort().unwrap();
            } else {
                write.commit().unwrap();
                map = changed;
            }
            check(&database, &map);
            if round % 10 == 9 {
                // The disk keeps the content while the database is closed.
                drop(database);
                database = Database::builder().create_with_backend(backend.again()).unwrap();
                check(&database, &map);
            }
        }
        assert!(map.len() > 500);
    }
}

#[test]
fn a_full_disk_is_an_error_and_the_database_stays_readable() {
    let disk = disk(8 << 20, 4096);
    let backend = ZramBackend::new(disk);
    let database = Database::builder().create_with_backend(backend.again()).unwrap();
    let mut committed = BTreeMap::new();
    let full = 'full: loop {
        let write = database.begin_write().unwrap();
        let mut rows = write.open_table(ROWS).unwrap();
        let mut more = committed.clone();
        for _ in 0..2000 {
            let key = more.len() as u64;
            match rows.insert(key, &*row(key)) {
                Ok(_) => more.insert(key, row(key)),
                Err(error) => break 'full error,
            };
        }
        drop(rows);
        match write.commit() {
            Ok(()) => committed = more,
            Err(redb::CommitError::Storage(error)) => break error,
            Err(error) => panic!("{error}"),
        }
    };
    let StorageError::Io(full) = full else { panic!("{full}") };
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    drop(database);
    let database = Database::builder().create_with_backend(backend.again()).unwrap();
    assert!(committed.len() > 2000);
    check(&database, &committed);
}
