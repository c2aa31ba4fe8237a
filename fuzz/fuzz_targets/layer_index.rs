//! The index of a layer, and reading objects by what it says from a pack that is just as strange. The first byte says
//! whether the rest is an index, but for its checksum, or a pack, behind where its objects begin.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use sha1::{Digest, Sha1};
use treering::layers::LayerSet;

fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let checksum = Sha1::digest(&bytes);
    bytes.extend(checksum);
    bytes
}

/// An index of objects at these places in `pack`.
fn index(places: &BTreeMap<[u8; 20], u16>, pack: &[u8]) -> Vec<u8> {
    let mut index = b"\xfftOc\0\0\0\x02".to_vec();
    for first in 0..=255 {
        index.extend((places.keys().filter(|id| id[0] <= first).count() as u32).to_be_bytes());
    }
    places.keys().for_each(|id| index.extend(id));
    places.keys().for_each(|_| index.extend([0; 4]));
    places.values().for_each(|&place| index.extend(u32::from(place).to_be_bytes()));
    index.extend(&pack[pack.len() - 20..]);
    sealed(index)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&count, rest)) = bytes.split_first() else { return };
    let (index, pack) = match rest.split_at_checked(3 * usize::from(count)) {
        Some((objects, entries)) if count > 0 => {
            let objects = objects.as_chunks::<3>().0.iter();
            let places =
                objects.map(|&[id, high, low]| ([id; 20], u16::from_be_bytes([high, low]))).collect();
            let pack = sealed([&b"PACK\0\0\0\x02\0\0\0"[..], &[count], entries].concat());
            (index(&places, &pack), pack)
        }
        _ => (sealed(rest.to_vec()), rest.to_vec()),
    };
    let dir = tempfile::tempdir().unwrap();
    let path = |end| dir.path().join(format!("pack-{}.{end}", "0".repeat(40)));
    std::fs::write(path("idx"), index).unwrap();
    std::fs::write(path("pack"), pack).unwrap();
    let Ok(set) = LayerSet::open(dir.path()) else { return };
    for layer in set.layers() {
        let _ = layer.verify();
        for id in layer.ids().take(100) {
            let _ = (set.header(&id), set.read(&id), set.read_range(&id, 10, 10), set.chain_weight(&id));
        }
    }
});
