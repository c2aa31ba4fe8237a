//! The index of a volume. The first two bytes say whether the rest is one, or the columns of one that has so many digests,
//! and so many of bases.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde_bytes::ByteBuf;
use treering::archive::{MemberCache, VolumeIndex, VolumeReader, gzip};
use treering::cbor;

/// As the format has it, but for the columns, which nobody would compress by chance.
#[derive(Serialize)]
struct Encoded {
    version: u8,
    columns: ByteBuf,
    digests: ByteBuf,
    bases: ByteBuf,
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&[count, bases], rest)) = bytes.split_first_chunk() else { return };
    let digests = |count| ByteBuf::from((0..count).flat_map(|number| [number; 32]).collect::<Vec<_>>());
    let bytes = match count {
        0 => rest.to_vec(),
        _ => {
            let columns = ByteBuf::from(gzip(rest).unwrap());
            let (digests, bases) = (digests(count), digests(bases));
            cbor::to_vec(&Encoded { version: 1, columns, digests, bases }).unwrap()
        }
    };
    let Ok(index) = VolumeIndex::decode(&bytes) else { return };
    assert_eq!(VolumeIndex::decode(&index.encode().unwrap()).unwrap(), index);
    let cache = MemberCache::new(1 << 20);
    let reader = VolumeReader::new(0, &index, &bytes[..], &cache);
    for entry in 0..index.len().min(100) {
        let _ = reader.payload(entry);
    }
});
