//! The index of a volume.
#![no_main]

use libfuzzer_sys::fuzz_target;
use treering::archive::{MemberCache, VolumeIndex, VolumeReader};

fuzz_target!(|bytes: &[u8]| {
    let Ok(index) = VolumeIndex::decode(bytes) else { return };
    assert_eq!(VolumeIndex::decode(&index.encode().unwrap()).unwrap(), index);
    let cache = MemberCache::new(1 << 20);
    let reader = VolumeReader::new(0, &index, bytes, &cache);
    for entry in 0..index.len().min(100) {
        let _ = reader.payload(entry);
    }
});
