//! What a volume holds and where.
//!
//! In memory an entry stored whole takes 44 bytes, a delta 20 more and 32 for each base, a signature 16.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::tape::{BLOCK_LEN, DeltaLink, MAX_BASES, MAX_SEGMENT_LEN, padded};
use super::{ArchiveError, Codec, gunzip, gzip};
use crate::cbor;
use crate::digest::Digest;
use crate::varint::{Reader, put};

/// Longest content of one member, in bytes.
const MAX_MEMBER_LEN: u64 = 2 * MAX_SEGMENT_LEN as u64;

/// The version of the encoding that is written.
const VERSION: u8 = 1;

/// How much longer than the encoding its columns may be, beyond [`COLUMNS`]: each entry adds a digest to the encoding and
/// at most some 50 bytes to the columns, and each MiB of it a member of at most 15, so an honest one stays below.
const MAX_EXPANSION: usize = 4;

/// Bytes that columns may have however short the encoding is.
const COLUMNS: usize = 64 * 1024;

/// The members and the entries of one volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeIndex {
    codec: Codec,
    member_ends: Vec<MemberEnd>,
    digests: Vec<Digest>,
    offsets: Vec<u64>,
    payload_lens: Vec<u32>,
    deltas: Vec<Delta>,
    bases: Vec<Digest>,
    signatures: Vec<Signature>,
}

/// Where a member ends in the volume and in the tar stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct MemberEnd {
    packed: u64,
    plain: u64,
}

/// What a delta has that a whole segment has not; sorted by entry.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Delta {
    entry: u32,
    segment_len: u32,
    chain_bytes: u32,
    first_base: u32,
    base_count: u8,
    depth: u8,
}

/// Sorted by entry.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Signature {
    offset: u64,
    entry: u32,
    len: u32,
}

/// One member of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberLocation {
    /// The bytes of the volume that it takes.
    pub packed: Range<u64>,
    /// The bytes of the tar stream that it holds.
    pub plain: Range<u64>,
}

impl MemberLocation {
    /// Bytes of content, which a checked index bounds.
    pub(super) fn plain_len(&self) -> usize {
        (self.plain.end - self.plain.start) as usize
    }
}

/// One entry of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryView<'a> {
    /// The SHA-256 of the segment.
    pub digest: Digest,
    /// The length of the segment in bytes.
    pub segment_len: u32,
    /// How the segment is stored.
    pub kind: EntryKind<'a>,
    /// Where the payload begins in the tar stream.
    pub offset: u64,
    /// The length of the payload in bytes.
    pub payload_len: u32,
    /// Where the block signature of the segment is kept, if it has one.
    pub signature: Option<SignatureLocation>,
}

/// How a segment is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind<'a> {
    /// The payload is the segment.
    Whole,
    /// The payload is a librsync delta.
    Delta {
        /// The segments that it copies from, in the order in which they are concatenated.
        bases: &'a [Digest],
        /// Deltas in its chain, this one included.
        depth: u8,
        /// Bytes of the deltas in its chain, this one included.
        chain_bytes: u32,
    },
}

/// A range of the signatures that are kept beside a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignatureLocation {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u32,
}

impl VolumeIndex {
    pub(super) fn new(codec: Codec) -> Self {
        Self {
            codec,
            member_ends: Vec::new(),
            digests: Vec::new(),
            offsets: Vec::new(),
            payload_lens: Vec::new(),
            deltas: Vec::new(),
            bases: Vec::new(),
            signatures: Vec::new(),
        }
    }

    /// How the members are compressed.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// How many entries the volume has.
    pub fn len(&self) -> usize {
        self.digests.len()
    }

    /// Whether the volume has no entry.
    pub fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }

    /// The length of the volume in bytes.
    pub fn packed_len(&self) -> u64 {
        self.end().packed
    }

    /// The length of the tar stream in bytes.
    pub fn plain_len(&self) -> u64 {
        self.end().plain
    }

    /// The digests of all entries, in tar order.
    pub fn digests(&self) -> &[Digest] {
        &self.digests
    }

    /// Entry number `entry` in tar order.
    pub fn entry(&self, entry: usize) -> Option<EntryView<'_>> {
        let payload_len = *self.payload_lens.get(entry)?;
        let delta = self.deltas.binary_search_by_key(&entry, |delta| delta.entry as usize).ok();
        let (kind, segment_len) = match delta.map(|at| &self.deltas[at]) {
            None => (EntryKind::Whole, payload_len),
            Some(delta) => {
                let first = delta.first_base as usize;
                let bases = &self.bases[first..first + usize::from(delta.base_count)];
                let kind = EntryKind::Delta { bases, depth: delta.depth, chain_bytes: delta.chain_bytes };
                (kind, delta.segment_len)
            }
        };
        let signature =
            self.signatures.binary_search_by_key(&entry, |signature| signature.entry as usize).ok();
        Some(EntryView {
            digest: self.digests[entry],
            segment_len,
            kind,
            offset: self.offsets[entry],
            payload_len,
            signature: signature.map(|at| {
                let Signature { offset, len, .. } = self.signatures[at];
                SignatureLocation { offset, len }
            }),
        })
    }

    /// All entries in tar order.
    pub fn entries(&self) -> impl Iterator<Item = EntryView<'_>> {
        (0..self.len()).filter_map(|entry| self.entry(entry))
    }

    /// How many members the volume has, the one that ends its tar stream included.
    pub fn member_count(&self) -> usize {
        self.member_ends.len()
    }

    /// Member number `member`.
    pub fn member(&self, member: usize) -> Option<MemberLocation> {
        let end = *self.member_ends.get(member)?;
        let start = member.checked_sub(1).map(|before| self.member_ends[before]).unwrap_or_default();
        Some(MemberLocation { packed: start.packed..end.packed, plain: start.plain..end.plain })
    }

    /// The members that must be inflated to read all of the payload of `entry`; none when it is empty or
    /// there is no such entry.
    pub fn members_of(&self, entry: usize) -> Range<usize> {
        match (self.offsets.get(entry), self.payload_lens.get(entry)) {
            (Some(&offset), Some(&len)) => self.members_covering(offset..offset + u64::from(len)),
            _ => 0..0,
        }
    }

    /// The members that hold the bytes `plain` of the tar stream.
    pub(super) fn members_covering(&self, plain: Range<u64>) -> Range<usize> {
        if plain.is_empty() {
            return 0..0;
        }
        let first = self.member_ends.partition_point(|end| end.plain <= plain.start);
        let last = self.member_ends.partition_point(|end| end.plain < plain.end);
        first..last + 1
    }

    /// Whether any entry but `entry` has payload in the bytes `plain` of the tar stream.
    pub(super) fn is_shared(&self, plain: &Range<u64>, entry: usize) -> bool {
        let before = entry.checked_sub(1).map_or(0, |before| self.payload_end(before));
        let after = self.offsets.get(entry + 1).copied().unwrap_or(u64::MAX);
        before > plain.start || after < plain.end
    }

    /// Says where the signature of `entry` is kept. Cheapest in ascending order of entries.
    pub fn set_signature(&mut self, entry: usize, location: SignatureLocation) -> Result<(), ArchiveError> {
        if entry >= self.len() {
            return Err(ArchiveError::NoEntry(entry));
        }
        if location.offset.checked_add(location.len.into()).is_none() {
            return Err(ArchiveError::Index("a signature lies beyond any blob"));
        }
        let row = Signature { offset: location.offset, entry: entry as u32, len: location.len };
        match self.signatures.binary_search_by_key(&row.entry, |signature| signature.entry) {
            Ok(at) => self.signatures[at] = row,
            Err(at) => self.signatures.insert(at, row),
        }
        Ok(())
    }

    /// Adds an entry whose payload begins at `offset` of the tar stream; the caller keeps order and bounds.
    pub(super) fn push_entry(&mut self, entry: NewEntry) -> Result<(), ArchiveError> {
        let number = u32::try_from(self.len()).map_err(|_| ArchiveError::TooManyEntries)?;
        if let Some((link, segment_len)) = entry.delta {
            self.deltas.push(Delta {
                entry: number,
                segment_len,
                chain_bytes: link.chain_bytes,
                first_base: u32::try_from(self.bases.len()).map_err(|_| ArchiveError::TooManyEntries)?,
                base_count: link.bases.len() as u8,
                depth: link.depth,
            });
            self.bases.extend(link.bases);
        }
        self.digests.push(entry.digest);
        self.offsets.push(entry.offset);
        self.payload_lens.push(entry.payload_len);
        Ok(())
    }

    /// Adds the next member.
    pub(super) fn push_member(&mut self, packed_len: u64, plain_len: u64) {
        let MemberEnd { packed, plain } = self.end();
        self.member_ends.push(MemberEnd { packed: packed + packed_len, plain: plain + plain_len });
    }

    fn end(&self) -> MemberEnd {
        self.member_ends.last().copied().unwrap_or_default()
    }

    fn payload_end(&self, entry: usize) -> u64 {
        self.offsets[entry] + u64::from(self.payload_lens[entry])
    }

    /// The bytes to keep beside the volume.
    pub fn encode(&self) -> Result<Vec<u8>, ArchiveError> {
        let encoded = Encoded {
            version: VERSION,
            columns: ByteBuf::from(gzip(&cbor::to_vec(&self.to_columns())?)?),
            digests: digest_column(&self.digests),
            bases: digest_column(&self.bases),
        };
        Ok(cbor::to_vec(&encoded)?)
    }

    /// Reads what [`encode`](Self::encode) wrote, and checks all that other methods and readers rely on.
    pub fn decode(bytes: &[u8]) -> Result<Self, ArchiveError> {
        let encoded: Encoded = cbor::from_slice(bytes)?;
        if encoded.version != VERSION {
            return Err(ArchiveError::Version(encoded.version));
        }
        let limit = bytes.len().saturating_mul(MAX_EXPANSION).saturating_add(COLUMNS);
        let columns = cbor::from_slice(&gunzip(&encoded.columns, limit)?)?;
        let digests = digests_of(&encoded.digests).map_err(ArchiveError::Index)?;
        let bases = digests_of(&encoded.bases).map_err(ArchiveError::Index)?;
        Self::from_columns(&columns, digests, bases).map_err(ArchiveError::Index)
    }

    fn to_columns(&self) -> Columns {
        let mut columns = Columns { codec: Some(self.codec), ..Columns::default() };
        let mut start = MemberEnd::default();
        for &end in &self.member_ends {
            put(&mut columns.member_packed, end.packed - start.packed);
            put(&mut columns.member_plain, end.plain - start.plain);
            start = end;
        }
        let mut end = 0;
        for (entry, (&offset, &len)) in self.offsets.iter().zip(&self.payload_lens).enumerate() {
            put(&mut columns.gaps, offset - end);
            put(&mut columns.payload_lens, len.into());
            end = padded(self.payload_end(entry));
        }
        let mut next = 0;
        for delta in &self.deltas {
            let payload_len = self.payload_lens[delta.entry as usize];
            put(&mut columns.delta_entries, u64::from(delta.entry - next));
            put(&mut columns.delta_segment_lens, delta.segment_len.into());
            put(&mut columns.delta_chains, (delta.chain_bytes - payload_len).into());
            columns.delta_depths.push(delta.depth);
            columns.delta_base_counts.push(delta.base_count);
            next = delta.entry + 1;
        }
        let (mut next, mut end) = (0, 0u64);
        for signature in &self.signatures {
            put(&mut columns.signature_entries, u64::from(signature.entry - next));
            put(&mut columns.signature_gaps, signature.offset.wrapping_sub(end));
            put(&mut columns.signature_lens, signature.len.into());
            next = signature.entry + 1;
            end = signature.offset + u64::from(signature.len);
        }
        columns
    }

    fn from_columns(
        columns: &Columns,
        digests: Vec<Digest>,
        bases: Vec<Digest>,
    ) -> Result<Self, &'static str> {
        let mut index = Self::new(columns.codec.ok_or("it names no codec")?);

        let (mut packed_lens, mut plain_lens) =
            (Numbers::of(&columns.member_packed), Numbers::of(&columns.member_plain));
        while let Some(plain_len) = plain_lens.next()? {
            let packed_len = packed_lens.next()?.ok_or(UNEQUAL_COLUMNS)?;
            if plain_len == 0 || plain_len > MAX_MEMBER_LEN || plain_len % BLOCK_LEN as u64 != 0 {
                return Err("a member does not hold whole tar blocks, or too many of them");
            }
            if packed_len == 0 || packed_len > max_packed_len(plain_len) {
                return Err("a member is longer than its content can be");
            }
            if index.codec == Codec::None && packed_len != plain_len {
                return Err("a stored member is not as long as its content");
            }
            index.push_member(packed_len, plain_len);
        }
        packed_lens.finish()?;

        index.digests = digests;
        let count = u32::try_from(index.digests.len()).map_err(|_| "it has too many entries")?;
        index.offsets.reserve_exact(count as usize);
        index.payload_lens.reserve_exact(count as usize);
        let (mut gaps, mut lens) = (Numbers::of(&columns.gaps), Numbers::of(&columns.payload_lens));
        let mut end = 0u64;
        for _ in 0..count {
            let gap = gaps.next()?.ok_or(UNEQUAL_COLUMNS)?;
            let len = lens
                .next()?
                .filter(|&len| len <= MAX_SEGMENT_LEN.into())
                .ok_or("a payload is missing or too long")?;
            let offset = end.checked_add(gap).filter(|&offset| offset <= index.plain_len());
            let offset = offset.filter(|_| gap >= BLOCK_LEN as u64).ok_or(OUT_OF_BOUNDS)?;
            if offset % BLOCK_LEN as u64 != 0 {
                return Err(OUT_OF_BOUNDS);
            }
            end = padded(offset + len);
            if end > index.plain_len() {
                return Err(OUT_OF_BOUNDS);
            }
            index.offsets.push(offset);
            index.payload_lens.push(len as u32);
        }
        gaps.finish()?;
        lens.finish()?;

        index.bases = bases;
        index.deltas = index.decode_deltas(columns)?;
        index.signatures = decode_signatures(columns, count)?;
        Ok(index)
    }

    fn decode_deltas(&self, columns: &Columns) -> Result<Vec<Delta>, &'static str> {
        let mut entries = Numbers::of(&columns.delta_entries);
        let mut segment_lens = Numbers::of(&columns.delta_segment_lens);
        let mut chains = Numbers::of(&columns.delta_chains);
        if columns.delta_depths.len() != columns.delta_base_counts.len() {
            return Err(UNEQUAL_COLUMNS);
        }
        let mut deltas = Vec::with_capacity(columns.delta_depths.len());
        let (mut next, mut first_base) = (0u64, 0usize);
        for (&depth, &base_count) in columns.delta_depths.iter().zip(columns.delta_base_counts.iter()) {
            let skipped = entries.next()?.ok_or(UNEQUAL_COLUMNS)?;
            let entry =
                next.checked_add(skipped).filter(|&entry| entry < self.len() as u64).ok_or(NO_ENTRY)?;
            let segment_len = segment_lens.next()?.filter(|&len| len <= MAX_SEGMENT_LEN.into());
            let payload_len = u64::from(self.payload_lens[entry as usize]);
            let chain = chains.next()?.and_then(|before| before.checked_add(payload_len));
            let chain =
                chain.and_then(|chain| u32::try_from(chain).ok()).ok_or("a chain is missing or too long")?;
            if depth == 0 || base_count == 0 || usize::from(base_count) > MAX_BASES {
                return Err("a delta has no depth or not 1 to 3 bases");
            }
            deltas.push(Delta {
                entry: entry as u32,
                segment_len: segment_len.ok_or("a segment is missing or too long")? as u32,
                chain_bytes: chain,
                first_base: u32::try_from(first_base).map_err(|_| "it has too many bases")?,
                base_count,
                depth,
            });
            next = entry + 1;
            first_base += usize::from(base_count);
        }
        if first_base != self.bases.len() {
            return Err(UNEQUAL_COLUMNS);
        }
        entries.finish()?;
        segment_lens.finish()?;
        chains.finish()?;
        Ok(deltas)
    }
}

/// An entry on its way into an index.
#[derive(Debug, Clone)]
pub(super) struct NewEntry {
    pub digest: Digest,
    pub offset: u64,
    pub payload_len: u32,
    /// For a delta, its link and the length of the segment.
    pub delta: Option<(DeltaLink, u32)>,
}

const UNEQUAL_COLUMNS: &str = "its columns do not belong together";
const OUT_OF_BOUNDS: &str = "an entry lies outside of the tar stream or on another";
const NO_ENTRY: &str = "it speaks of an entry that it does not have";

/// The encoding: a CBOR map. Digests stand beside the other columns, since they do not compress and gzip
/// would only take its time with them.
#[derive(Serialize, Deserialize)]
struct Encoded {
    version: u8,
    /// [`Columns`] as a CBOR map, in one gzip member.
    columns: ByteBuf,
    /// 32 bytes for each entry.
    digests: ByteBuf,
    /// 32 bytes for each base of each delta.
    bases: ByteBuf,
}

/// Lists of numbers, each in LEB128 except for `delta_depths` and `delta_base_counts`, which have one byte
/// each.
#[derive(Default, Serialize, Deserialize)]
struct Columns {
    codec: Option<Codec>,
    member_packed: ByteBuf,
    member_plain: ByteBuf,
    /// From the end of the blocks of one entry to the payload of the next.
    gaps: ByteBuf,
    payload_lens: ByteBuf,
    /// Entries between one delta and the next.
    delta_entries: ByteBuf,
    delta_segment_lens: ByteBuf,
    delta_depths: ByteBuf,
    /// Without the delta itself.
    delta_chains: ByteBuf,
    delta_base_counts: ByteBuf,
    /// Entries between one that has a signature and the next.
    signature_entries: ByteBuf,
    /// From the end of one signature to the next, modulo 2^64.
    signature_gaps: ByteBuf,
    signature_lens: ByteBuf,
}

/// The longest member that a codec makes of `plain_len` bytes: zstd's bound, which is above gzip's.
fn max_packed_len(plain_len: u64) -> u64 {
    plain_len + plain_len / 256 + 512
}

fn decode_signatures(columns: &Columns, count: u32) -> Result<Vec<Signature>, &'static str> {
    let mut entries = Numbers::of(&columns.signature_entries);
    let mut gaps = Numbers::of(&columns.signature_gaps);
    let mut lens = Numbers::of(&columns.signature_lens);
    let mut signatures = Vec::new();
    let (mut next, mut end) = (0u64, 0u64);
    while let Some(skipped) = entries.next()? {
        let entry = next.checked_add(skipped).filter(|&entry| entry < count.into()).ok_or(NO_ENTRY)?;
        let offset = end.wrapping_add(gaps.next()?.ok_or(UNEQUAL_COLUMNS)?);
        let len = lens
            .next()?
            .and_then(|len| u32::try_from(len).ok())
            .ok_or("a signature is missing or too long")?;
        end = offset.checked_add(len.into()).ok_or("a signature lies beyond any blob")?;
        signatures.push(Signature { offset, entry: entry as u32, len });
        next = entry + 1;
    }
    gaps.finish()?;
    lens.finish()?;
    Ok(signatures)
}

fn digest_column(digests: &[Digest]) -> ByteBuf {
    ByteBuf::from(digests.iter().flat_map(Digest::as_bytes).copied().collect::<Vec<_>>())
}

fn digests_of(column: &[u8]) -> Result<Vec<Digest>, &'static str> {
    let (digests, rest) = column.as_chunks();
    match rest {
        [] => Ok(digests.iter().copied().map(Digest::from_bytes).collect()),
        _ => Err("a digest is cut off"),
    }
}

/// Reads a column to its end.
struct Numbers<'a>(Reader<'a>);

impl<'a> Numbers<'a> {
    fn of(column: &'a [u8]) -> Self {
        Self(Reader::new(column))
    }

    /// The next number; `None` at the end.
    fn next(&mut self) -> Result<Option<u64>, &'static str> {
        match self.0.remaining() {
            0 => Ok(None),
            _ => self.0.unsigned().map(Some).map_err(|_| "a number is cut off or too large"),
        }
    }

    fn finish(&mut self) -> Result<(), &'static str> {
        match self.0.remaining() {
            0 => Ok(()),
            _ => Err(UNEQUAL_COLUMNS),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Payload length, blocks between entries, link and segment length of a delta, signature.
    type Row = (u32, u8, Option<(Vec<[u8; 32]>, u8, u32, u32)>, Option<(u64, u32)>);

    fn row() -> impl Strategy<Value = Row> {
        let delta = (vec(any::<[u8; 32]>(), 1..=MAX_BASES), 1u8.., 0..1u32 << 31, 0..=MAX_SEGMENT_LEN);
        (0..100_000u32, 1..5u8, prop::option::of(delta), prop::option::of((0..u64::MAX / 2, any::<u32>())))
    }

    fn build(rows: Vec<Row>) -> VolumeIndex {
        let mut index = VolumeIndex::new(Codec::default());
        let mut end = 0;
        for (number, (payload_len, blocks, delta, signature)) in rows.into_iter().enumerate() {
            let offset = end + u64::from(blocks) * BLOCK_LEN as u64;
            let delta = delta.map(|(bases, depth, chain, segment_len)| {
                let bases = bases.into_iter().map(Digest::from_bytes).collect();
                (DeltaLink { bases, depth, chain_bytes: payload_len + chain }, segment_len)
            });
            let digest = Digest::of(&number.to_le_bytes());
            index.push_entry(NewEntry { digest, offset, payload_len, delta }).unwrap();
            if let Some((offset, len)) = signature {
                index.set_signature(number, SignatureLocation { offset, len }).unwrap();
            }
            end = padded(offset + u64::from(payload_len));
            index.push_member(end - index.plain_len(), end - index.plain_len());
        }
        index.push_member(40, 1024);
        index
    }

    fn encoded(index: &VolumeIndex) -> Encoded {
        cbor::from_slice(&index.encode().unwrap()).unwrap()
    }

    fn decode(encoded: &Encoded) -> Result<VolumeIndex, ArchiveError> {
        VolumeIndex::decode(&cbor::to_vec(encoded).unwrap())
    }

    fn pack(columns: &[u8]) -> ByteBuf {
        ByteBuf::from(gzip(columns).unwrap())
    }

    #[test]
    fn an_entry_stored_whole_takes_44_bytes_of_columns() {
        assert_eq!(size_of::<Digest>() + size_of::<u64>() + size_of::<u32>(), 44);
        assert_eq!((size_of::<Delta>(), size_of::<Signature>()), (20, 16));
    }

    #[test]
    fn signatures_may_be_set_in_any_order_and_again() {
        let mut index = build(vec![(10, 1, None, None); 4]);
        let location = |offset| SignatureLocation { offset, len: 5 };
        for (entry, offset) in [(3, 30), (0, 7), (2, 1), (0, 8)] {
            index.set_signature(entry, location(offset)).unwrap();
        }
        let set: Vec<_> = index.entries().map(|entry| entry.signature).collect();
        assert_eq!(set, [Some(location(8)), None, Some(location(1)), Some(location(30))]);
        assert_eq!(VolumeIndex::decode(&index.encode().unwrap()).unwrap(), index);
        assert!(index.set_signature(4, location(0)).is_err());
        assert!(index.set_signature(0, location(u64::MAX)).is_err());
    }

    #[test]
    fn an_index_without_entries_survives() {
        let index = build(Vec::new());
        assert_eq!(VolumeIndex::decode(&index.encode().unwrap()).unwrap(), index);
        assert_eq!((index.entry(0), index.members_of(0), index.member_count()), (None, 0..0, 1));
    }

    #[test]
    fn a_later_version_is_named_as_such() {
        let later = Encoded { version: 2, ..encoded(&build(Vec::new())) };
        assert!(matches!(decode(&later), Err(ArchiveError::Version(2))));
    }

    #[test]
    fn contradictions_are_errors() {
        let delta = Some((vec![[1; 32]], 1, 0, 99));
        let index = build(vec![(10, 1, None, None), (20, 3, delta, Some((0, 9)))]);
        let faults: [fn(&mut Columns); 14] = [
            |columns| columns.codec = None,
            |columns| columns.codec = Some(Codec::None),
            |columns| columns.member_plain[0] += 1,
            |columns| columns.member_plain.truncate(2),
            |columns| columns.member_packed.push(1),
            |columns| columns.member_packed[1] = 0x7f,
            |columns| columns.gaps[0] = 1,
            |columns| columns.payload_lens[1] = 0xff,
            |columns| columns.delta_entries[0] = 2,
            |columns| columns.delta_depths[0] = 0,
            |columns| columns.delta_base_counts[0] = 4,
            |columns| columns.delta_chains.extend([0]),
            |columns| columns.signature_entries[0] = 2,
            |columns| columns.signature_lens.truncate(0),
        ];
        for (number, fault) in faults.into_iter().enumerate() {
            let mut columns = index.to_columns();
            fault(&mut columns);
            let faulty = Encoded { columns: pack(&cbor::to_vec(&columns).unwrap()), ..encoded(&index) };
            assert!(decode(&faulty).is_err(), "fault {number}");
        }
        let faults: [fn(&mut Encoded); 4] = [
            |encoded| encoded.digests.truncate(63),
            |encoded| encoded.digests.truncate(32),
            |encoded| encoded.bases.truncate(0),
            |encoded| encoded.bases.extend([0; 32]),
        ];
        for (number, fault) in faults.into_iter().enumerate() {
            let mut faulty = encoded(&index);
            fault(&mut faulty);
            assert!(decode(&faulty).is_err(), "fault {number} of digests");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

        #[test]
        fn an_index_survives_its_encoding(rows in vec(row(), 0..30)) {
            let index = build(rows);
            prop_assert_eq!(VolumeIndex::decode(&index.encode().unwrap()).unwrap(), index);
        }

        #[test]
        fn a_damaged_index_is_an_error_or_safe_to_use(
            rows in vec(row(), 1..5), damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), inside in any::<bool>(),
        ) {
            let encoded = encoded(&build(rows));
            let mut bytes = match inside {
                true => gunzip(&encoded.columns, 1 << 20).unwrap(),
                false => cbor::to_vec(&encoded).unwrap(),
            };
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if inside {
                bytes = cbor::to_vec(&Encoded { columns: pack(&bytes), ..encoded }).unwrap();
            }
            if let Ok(index) = VolumeIndex::decode(&bytes) {
                for (number, entry) in index.entries().enumerate() {
                    let members = index.members_of(number);
                    prop_assert!(members.end <= index.member_count());
                    prop_assert!(entry.offset + u64::from(entry.payload_len) <= index.plain_len());
                }
                VolumeIndex::decode(&index.encode().unwrap()).unwrap();
            }
        }

        #[test]
        fn random_bytes_are_no_index(bytes in vec(any::<u8>(), 0..200)) {
            prop_assert!(VolumeIndex::decode(&bytes).is_err());
            let encoded = Encoded { columns: pack(&bytes), ..encoded(&build(Vec::new())) };
            prop_assert!(decode(&encoded).is_err());
        }
    }
}
