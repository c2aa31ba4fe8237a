//! The record of a snapshot, and its list of pages: they share no byte, have entries, and are listed again as they were.

use treering::cbor;
use treering::diff::page::MAX_ENTRIES;
use treering::repository::{PageList, SnapshotRecord};

pub fn run(bytes: &[u8]) {
    let values = cbor::count_values(bytes);
    let Ok(record) = cbor::from_slice::<SnapshotRecord>(bytes) else { return };
    let strings = record.tags.len() + record.volumes.len() + record.roots.len() + record.unreadable.len();
    assert!(strings + record.pages.blobs.len() < values);
    if let Ok(pages) = record.pages.pages() {
        let mut places: Vec<_> = pages.iter().map(|page| (page.blob, page.offset, page.len)).collect();
        places.sort_unstable();
        assert!(
            places
                .windows(2)
                .all(|pair| { pair[0].0 < pair[1].0 || pair[0].1 + u64::from(pair[0].2) <= pair[1].1 })
        );
        assert!(pages.iter().all(|page| (1..=MAX_ENTRIES as u32).contains(&page.entries)));
        assert_eq!(PageList::new(record.pages.blobs, &pages).pages(), Ok(pages));
    }
}
