//! The record of a snapshot.
#![no_main]

use libfuzzer_sys::fuzz_target;
use treering::cbor;
use treering::repository::{PageList, SnapshotRecord};

fuzz_target!(|bytes: &[u8]| {
    let Ok(record) = cbor::from_slice::<SnapshotRecord>(bytes) else { return };
    if let Ok(pages) = record.pages.pages() {
        assert_eq!(PageList::new(record.pages.blobs, &pages).pages(), Ok(pages));
    }
});
