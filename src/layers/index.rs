//! The `.idx` of a pack, version 2: which objects it holds, and where.
//!
//! A fan-out of 256 counts, then a table each of ids in order, of CRC-32s of the entries, of 31-bit offsets,
//! and of the 64-bit offsets that the former refer to; then the pack's SHA-1 and the SHA-1 of all that
//! (`gitformat-pack(5)`).

use sha1::{Digest as _, Sha1};

use super::ObjectId;

const MAGIC: [u8; 8] = *b"\xfftOc\0\0\0\x02";
const FAN_OUT: usize = 256;
const TABLES: usize = MAGIC.len() + 4 * FAN_OUT;
const SHA1_LEN: usize = 20;

const WRONG_LEN: &str = "its size does not fit its object count";

/// The bit of a 31-bit offset that makes it a position in the table of 64-bit offsets.
const LARGE: u32 = 1 << 31;

/// What an index says of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IndexEntry {
    pub id: ObjectId,
    /// Where the object's entry begins in the pack.
    pub offset: u64,
    /// CRC-32 of the entry's bytes.
    pub crc: u32,
}

/// The bytes of an index for `entries`, which are in the order of their ids, and the pack that ends in
/// `pack_checksum`.
pub(super) fn encode(entries: &[IndexEntry], pack_checksum: &[u8; SHA1_LEN]) -> Vec<u8> {
    let mut out = Vec::with_capacity(TABLES + 28 * entries.len() + 2 * SHA1_LEN);
    out.extend(MAGIC);
    let mut count = 0;
    for first in 0..=u8::MAX {
        count += entries[count..].partition_point(|entry| entry.id.0[0] <= first);
        out.extend((count as u32).to_be_bytes());
    }
    out.extend(entries.iter().flat_map(|entry| entry.id.0));
    out.extend(entries.iter().flat_map(|entry| entry.crc.to_be_bytes()));
    let mut large = Vec::new();
    for entry in entries {
        let short = match u32::try_from(entry.offset) {
            Ok(offset) if offset < LARGE => offset,
            _ => {
                large.push(entry.offset);
                LARGE | (large.len() - 1) as u32
            }
        };
        out.extend(short.to_be_bytes());
    }
    out.extend(large.into_iter().flat_map(u64::to_be_bytes));
    out.extend(pack_checksum);
    let checksum = Sha1::digest(&out);
    out.extend(checksum);
    out
}

/// An index in memory: the file's bytes, 28 for each object and 1,072 beside, found to be consistent.
pub(super) struct Index {
    bytes: Box<[u8]>,
    objects: usize,
}

impl Index {
    /// Bytes at the beginning that tell how long an index is.
    pub const HEAD: u64 = TABLES as u64;

    /// Checks that an index of `len` bytes can begin with `head`, its first [`HEAD`](Self::HEAD) bytes.
    pub fn expect_len(head: &[u8], len: u64) -> Result<(), &'static str> {
        let count =
            head.get(TABLES - 4..TABLES).and_then(|count| count.try_into().ok()).ok_or("it is cut off")?;
        let objects = u64::from(u32::from_be_bytes(count));
        let shortest = (TABLES + 2 * SHA1_LEN) as u64 + 28 * objects;
        match (shortest..=shortest + 8 * objects).contains(&len) {
            true => Ok(()),
            false => Err(WRONG_LEN),
        }
    }

    /// Takes the bytes of an `.idx`, and checks all of it but whether it tells the truth about the pack.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, &'static str> {
        let (content, checksum) = bytes.split_last_chunk::<SHA1_LEN>().ok_or("it is cut off")?;
        if Sha1::digest(content)[..] != *checksum {
            return Err("its checksum does not hold");
        }
        let (magic, rest) = bytes.split_first_chunk().ok_or("it is cut off")?;
        if *magic != MAGIC {
            return Err("it is not an index of version 2");
        }
        let fan_out: &[[u8; 4]] = rest.get(..4 * FAN_OUT).ok_or("it is cut off")?.as_chunks().0;
        let fan_out = || fan_out.iter().map(|&count| u32::from_be_bytes(count));
        if !fan_out().is_sorted() {
            return Err("its fan-out is not in order");
        }
        let objects = fan_out().next_back().map_or(0, |count| count as usize);
        let tables = (bytes.len() - TABLES).checked_sub(2 * SHA1_LEN);
        let large = tables.zip(objects.checked_mul(28)).and_then(|(tables, fixed)| tables.checked_sub(fixed));
        match large {
            Some(large) if large % 8 == 0 && large / 8 <= objects => (),
            _ => return Err(WRONG_LEN),
        }
        let mut begin = 0;
        let counts: Vec<usize> = fan_out().map(|count| count as usize).collect();
        let index = Self { bytes: bytes.into_boxed_slice(), objects };
        for (first, &end) in counts.iter().enumerate() {
            if index.ids()[begin..end].iter().any(|id| usize::from(id[0]) != first) {
                return Err("its fan-out does not fit its ids");
            }
            begin = end;
        }
        if !index.ids().is_sorted_by(|one, next| one < next) {
            return Err("its ids are not in order");
        }
        let large = index.large().len();
        let short = index.short().iter().map(|&offset| u32::from_be_bytes(offset));
        if short.filter(|short| short & LARGE != 0).any(|short| (short & !LARGE) as usize >= large) {
            return Err("it refers to an offset that it does not hold");
        }
        Ok(index)
    }

    /// How many objects the pack holds.
    pub fn objects(&self) -> usize {
        self.objects
    }

    /// The size of the file.
    pub fn file_len(&self) -> usize {
        self.bytes.len()
    }

    /// The ids in order.
    pub fn ids(&self) -> &[[u8; 20]] {
        self.table(0, self.objects)
    }

    /// Where the entry of the object at `position` begins in the pack.
    pub fn offset(&self, position: usize) -> u64 {
        let short = u32::from_be_bytes(self.short()[position]);
        match short & LARGE {
            0 => u64::from(short),
            _ => u64::from_be_bytes(self.large()[(short & !LARGE) as usize]),
        }
    }

    /// All that the index says of the object at `position`.
    pub fn entry(&self, position: usize) -> IndexEntry {
        let crcs = self.table(20 * self.objects, self.objects);
        IndexEntry {
            id: ObjectId(self.ids()[position]),
            offset: self.offset(position),
            crc: u32::from_be_bytes(crcs[position]),
        }
    }

    /// The SHA-1 that the pack must end in.
    pub fn pack_checksum(&self) -> &[u8] {
        let end = self.bytes.len() - SHA1_LEN;
        &self.bytes[end - SHA1_LEN..end]
    }

    fn short(&self) -> &[[u8; 4]] {
        self.table(24 * self.objects, self.objects)
    }

    fn large(&self) -> &[[u8; 8]] {
        let begin = 28 * self.objects;
        self.table(begin, (self.bytes.len() - TABLES - begin - 2 * SHA1_LEN) / 8)
    }

    /// The table of `len` values of `N` bytes that begins `begin` bytes after the fan-out.
    fn table<const N: usize>(&self, begin: usize, len: usize) -> &[[u8; N]] {
        self.bytes[TABLES + begin..][..N * len].as_chunks().0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Entries in the order of their ids, with offsets of every width.
    fn entries() -> impl Strategy<Value = Vec<IndexEntry>> {
        let place = (any::<u64>(), 0..64_u32, any::<u32>());
        prop::collection::btree_map(any::<[u8; 20]>(), place, 0..40).prop_map(|objects: BTreeMap<_, _>| {
            let entry =
                |(id, (offset, shift, crc))| IndexEntry { id: ObjectId(id), offset: offset >> shift, crc };
            objects.into_iter().map(entry).collect()
        })
    }

    fn read(index: &Index) -> Vec<IndexEntry> {
        (0..index.objects()).map(|position| index.entry(position)).collect()
    }

    proptest! {
        #[test]
        fn an_index_reads_as_it_was_written(entries in entries(), checksum: [u8; 20]) {
            let index = Index::parse(encode(&entries, &checksum)).unwrap();
            prop_assert_eq!(read(&index), entries);
            prop_assert_eq!(index.pack_checksum(), checksum);
        }

        #[test]
        fn a_damaged_index_is_refused(entries in entries(), at: prop::sample::Index, bit in 0..8_u32, cut: bool) {
            let mut bytes = encode(&entries, &[0; 20]);
            let at = at.index(bytes.len());
            match cut {
                true => bytes.truncate(at),
                false => bytes[at] ^= 1_u8 << bit,
            }
            prop_assert!(Index::parse(bytes).is_err());
        }

        #[test]
        fn a_forged_index_is_refused_or_can_be_read(
            entries in entries(),
            forgeries in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            resize in prop::option::of(0..3_000_usize),
        ) {
            let mut bytes = encode(&entries, &[0; 20]);
            bytes.truncate(bytes.len() - SHA1_LEN);
            for (at, byte) in forgeries {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Some(len) = resize {
                bytes.resize(len, 0);
            }
            let checksum = Sha1::digest(&bytes);
            bytes.extend(checksum);
            if let Ok(index) = Index::parse(bytes) {
                prop_assert_eq!(read(&index).len(), index.objects());
            }
        }
    }

    #[test]
    fn offsets_from_two_gib_on_are_in_the_second_table() {
        let offsets = [12, (1 << 31) - 1, 1 << 31, u64::from(u32::MAX), 1 << 40];
        let entry = |(first, offset)| IndexEntry { id: ObjectId([first; 20]), offset, crc: 0 };
        let entries: Vec<_> = (0..).zip(offsets).map(entry).collect();
        let bytes = encode(&entries, &[0; 20]);
        assert_eq!(bytes.len(), TABLES + 5 * 28 + 3 * 8 + 2 * SHA1_LEN);
        let short = &bytes[TABLES + 5 * 24..][..20];
        assert_eq!(short, [12, LARGE - 1, LARGE, LARGE | 1, LARGE | 2].map(u32::to_be_bytes).concat());
        let large = &bytes[TABLES + 5 * 28..][..24];
        assert_eq!(large, [1 << 31, u64::from(u32::MAX), 1 << 40].map(u64::to_be_bytes).concat());
    }
}
