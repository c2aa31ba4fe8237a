//! Reads single entries of a volume, inflating only the members that hold them.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use super::{ArchiveError, Codec, MemberLocation, VolumeIndex};
use crate::progress::Counter;

/// Something that gives ranges of its bytes.
///
/// `read_at` returns exactly `len` bytes or an error; it must not allocate more than there is to read. It may
/// be called from several threads at once.
pub trait ReadAt {
    /// The `len` bytes at `offset`.
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>>;
}

impl ReadAt for File {
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let end = offset.checked_add(len as u64);
        if end.is_none_or(|end| end > self.metadata().map_or(0, |metadata| metadata.len())) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; len];
        self.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let start = usize::try_from(offset).ok();
        let range = start.and_then(|start| Some(start..start.checked_add(len)?));
        let bytes = range.and_then(|range| self.get(range)).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(bytes.to_vec())
    }
}

/// Reads the entries of one volume.
pub struct VolumeReader<'a, R: ?Sized> {
    volume: u64,
    index: &'a VolumeIndex,
    source: &'a R,
    cache: &'a MemberCache,
}

impl<'a, R: ReadAt + ?Sized> VolumeReader<'a, R> {
    /// A reader of the volume whose bytes `source` gives; `volume` tells it from others in `cache`.
    pub fn new(volume: u64, index: &'a VolumeIndex, source: &'a R, cache: &'a MemberCache) -> Self {
        Self { volume, index, source, cache }
    }

    /// The whole payload of an entry. What it says is not checked against the digest of the segment.
    pub fn payload(&self, entry: usize) -> Result<Vec<u8>, ArchiveError> {
        let view = self.index.entry(entry).ok_or(ArchiveError::NoEntry(entry))?;
        self.range(entry, 0..view.payload_len)
    }

    /// The bytes `range` of the payload of an entry.
    pub fn range(&self, entry: usize, range: Range<u32>) -> Result<Vec<u8>, ArchiveError> {
        let view = self.index.entry(entry).ok_or(ArchiveError::NoEntry(entry))?;
        if range.start > range.end || range.end > view.payload_len {
            return Err(ArchiveError::NoRange { entry, start: range.start, end: range.end });
        }
        let plain = view.offset + u64::from(range.start)..view.offset + u64::from(range.end);
        if self.index.codec() == Codec::None {
            // Stored members lie end to end, so the range of the tar stream is one of the volume.
            return self
                .source
                .read_at(plain.start, (plain.end - plain.start) as usize)
                .map_err(ArchiveError::Read);
        }
        let mut bytes = Vec::with_capacity((plain.end - plain.start) as usize);
        let mut own = Vec::new();
        for number in self.index.members_covering(plain.clone()) {
            let member =
                self.index.member(number).ok_or(ArchiveError::Index("an entry lies in no member"))?;
            if self.index.is_shared(&member.plain, entry) {
                self.append_own(&mut bytes, &plain, &mut own)?;
                let content = self.cache.member((self.volume, number), &member, || self.inflate(&member))?;
                append_part(&mut bytes, &plain, &member, &content);
            } else {
                own.push(member);
            }
        }
        self.append_own(&mut bytes, &plain, &mut own)?;
        Ok(bytes)
    }

    /// Reads neighbouring members that hold nothing but one entry: by one read, and past the cache, where
    /// they would only push out what others need.
    fn append_own(
        &self,
        bytes: &mut Vec<u8>,
        plain: &Range<u64>,
        members: &mut Vec<MemberLocation>,
    ) -> Result<(), ArchiveError> {
        let (Some(first), Some(last)) = (members.first(), members.last()) else { return Ok(()) };
        let start = first.packed.start;
        let packed =
            self.source.read_at(start, (last.packed.end - start) as usize).map_err(ArchiveError::Read)?;
        for member in members.drain(..) {
            let range = (member.packed.start - start) as usize..(member.packed.end - start) as usize;
            let packed = packed.get(range).ok_or(ArchiveError::Member("it was read short"))?;
            append_part(bytes, plain, &member, &self.decompress(packed, &member)?);
        }
        Ok(())
    }

    fn inflate(&self, member: &MemberLocation) -> Result<Vec<u8>, ArchiveError> {
        let packed_len = (member.packed.end - member.packed.start) as usize;
        let packed = self.source.read_at(member.packed.start, packed_len).map_err(ArchiveError::Read)?;
        self.decompress(&packed, member)
    }

    fn decompress(&self, packed: &[u8], member: &MemberLocation) -> Result<Vec<u8>, ArchiveError> {
        self.cache.inflated.add(1);
        self.index.codec().decompress_member(packed, member.plain_len())
    }
}

/// Appends what `member` holds of the bytes `plain` of the tar stream.
fn append_part(bytes: &mut Vec<u8>, plain: &Range<u64>, member: &MemberLocation, content: &[u8]) {
    let start = plain.start.max(member.plain.start) - member.plain.start;
    let end = plain.end.min(member.plain.end) - member.plain.start;
    bytes.extend_from_slice(&content[start as usize..end as usize]);
}

/// A volume's number and a member's number in it.
type Key = (u64, usize);

/// A member that may be on its way: whoever holds the lock first inflates it, the others wait for that.
type Slot = Arc<Mutex<Option<Arc<Vec<u8>>>>>;

/// Inflated members, the least recently used forgotten first, for any number of volumes and threads.
///
/// Holds at most the given number of bytes, beside members that readers are still using. Several threads that
/// want one member inflate it once.
#[derive(Debug)]
pub struct MemberCache {
    limit: usize,
    inflated: Counter,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    slots: HashMap<Key, (u64, usize, Slot)>,
    by_use: BTreeMap<u64, Key>,
    uses: u64,
    bytes: usize,
}

impl MemberCache {
    /// A cache of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, inflated: Counter::default(), kept: Mutex::default() }
    }

    /// How many members were inflated by all readers that share this.
    pub fn inflated(&self) -> u64 {
        self.inflated.get()
    }

    fn member(
        &self,
        key: Key,
        member: &MemberLocation,
        inflate: impl FnOnce() -> Result<Vec<u8>, ArchiveError>,
    ) -> Result<Arc<Vec<u8>>, ArchiveError> {
        let slot = self.kept.lock().unwrap_or_else(PoisonError::into_inner).slot(
            key,
            member.plain_len(),
            self.limit,
        );
        let mut content = slot.lock().unwrap_or_else(PoisonError::into_inner);
        match &*content {
            Some(content) => Ok(Arc::clone(content)),
            None => Ok(Arc::clone(content.insert(Arc::new(inflate()?)))),
        }
    }
}

impl Kept {
    /// The slot for `key`, now the most recently used, after forgetting what exceeds `limit`.
    fn slot(&mut self, key: Key, len: usize, limit: usize) -> Slot {
        self.uses += 1;
        let (used, _, slot) = self.slots.entry(key).or_insert_with(|| {
            self.bytes += len;
            (0, len, Slot::default())
        });
        self.by_use.remove(used);
        *used = self.uses;
        let slot = Arc::clone(slot);
        self.by_use.insert(self.uses, key);
        while self.bytes > limit {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            if let Some((_, len, _)) = self.slots.remove(&oldest) {
                self.bytes -= len;
            }
        }
        slot
    }
}
