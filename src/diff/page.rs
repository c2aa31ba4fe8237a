//! Pages: runs of entries in path order, as columns.
//!
//! An index is cut into pages after every entry whose path has a CRC-32 that ends in eight zero bits, and at
//! the latest after [`MAX_ENTRIES`] entries. So the cut depends on the paths around it alone, and one changed
//! file makes one new page. The columns are described in `docs/format.md`. Decoding checks everything: order,
//! lengths, that content adds up.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use serde_bytes::{ByteBuf, Bytes};

use crate::archive::{ArchiveError, gunzip};
use crate::cbor::{self, CborError};
use crate::diff::entry::{Content, Entry, FileTime, Kind, Metadata, SegmentRef, Xattrs};
use crate::digest::Digest;
use crate::pipeline::lock;
use crate::relpath::{RelPath, RelPathError};
use crate::varint::{Reader, VarintError, put, put_signed};

/// A page is cut after this many entries even when no path asks for it.
pub const MAX_ENTRIES: usize = 4096;

/// No segment is longer than this, in bytes: who reads one may allocate as much.
pub const MAX_SEGMENT_LEN: u32 = 16 << 20;

/// No page is larger than this before compression: [`MAX_ENTRIES`] names and the segments of a file of 8 TiB.
pub const MAX_PAGE: usize = 512 << 20;

/// A cut falls after one path in this many, on average.
const CUT_MASK: u32 = 0xff;

/// How many bytes of memory a page may take for each byte that it has compressed. Entries that are as alike as can be, in
/// a real tree, take about 90.
const EXPANSION: u64 = 128;

/// How many bytes of memory all pages of one index together may take beyond that. What is alike without end, as 15 TB of
/// zeros in files, is still within it.
const ALLOWANCE: u64 = 256 << 20;

/// About what a value takes while CBOR is decoded.
const VALUE: u64 = 32;

/// What the pages of one index may take in memory: in proportion to their compressed length, and beyond that no more
/// than an allowance for all of them. So a small index that expands without bound is refused before it is decoded.
#[derive(Debug, Default)]
pub struct Allowance {
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    /// What each page that has taken of it took.
    pages: HashMap<usize, u64>,
    /// All that was taken.
    sum: u64,
}

impl Taken {
    fn of(&self, number: usize) -> u64 {
        self.pages.get(&number).copied().unwrap_or(0)
    }

    /// What all pages but that one took.
    fn by_others(&self, number: usize) -> u64 {
        self.sum.saturating_sub(self.of(number))
    }
}

impl Allowance {
    /// Decodes page `number` of an index, which is compressed.
    pub fn unpack(&self, number: usize, packed: &[u8]) -> Result<Vec<Entry>, UnpackError> {
        let free = free(packed);
        let Inflated { bytes, cost, left } = self.inflate(number, packed)?;
        let entries = decode_within(&bytes, left)?;
        let cost = cost + entries.iter().map(weight).sum::<u64>();
        self.take(number, cost.saturating_sub(free))?;
        Ok(entries)
    }

    /// The path of the first entry of page `number`, which is compressed; `None` when it has no entries. Nothing else of
    /// the page is decoded, nor checked beyond its checksum.
    pub fn first_path(&self, number: usize, packed: &[u8]) -> Result<Option<RelPath>, UnpackError> {
        Ok(first_path(&self.inflate(number, packed)?.bytes)?)
    }

    fn inflate(&self, number: usize, packed: &[u8]) -> Result<Inflated, UnpackError> {
        let others = lock(&self.taken).by_others(number);
        let limit = free(packed).saturating_add(ALLOWANCE.saturating_sub(others));
        let bytes = gunzip(packed, usize::try_from(limit).unwrap_or(usize::MAX).min(MAX_PAGE))?;
        let values = (cbor::count_values(&bytes) as u64).saturating_mul(VALUE);
        let cost = values.saturating_add(bytes.len() as u64);
        let left = limit.checked_sub(cost).ok_or(PageError::Expands)?;
        Ok(Inflated { bytes, cost, left })
    }

    /// What page `number` has taken of the allowance.
    pub fn taken(&self, number: usize) -> u64 {
        lock(&self.taken).of(number)
    }

    /// Takes for page `number`, once, what it has [taken](Self::taken) of another allowance.
    pub fn take(&self, number: usize, bytes: u64) -> Result<(), PageError> {
        if bytes == 0 {
            return Ok(());
        }
        let mut taken = lock(&self.taken);
        taken.sum = taken.by_others(number).saturating_add(bytes);
        taken.pages.insert(number, bytes);
        if taken.sum > ALLOWANCE { Err(PageError::Expands) } else { Ok(()) }
    }
}

/// A page before its columns are decoded.
struct Inflated {
    bytes: Vec<u8>,
    /// Bytes of memory that it takes until then.
    cost: u64,
    /// Bytes that its entries may take.
    left: u64,
}

/// Bytes of memory that a page may take without an allowance.
fn free(packed: &[u8]) -> u64 {
    (packed.len() as u64).saturating_mul(EXPANSION)
}

/// Why compressed bytes are not a page.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// They are not compressed as a page is, or hold more than a page may.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// What they hold is no page.
    #[error(transparent)]
    Page(#[from] PageError),
}

/// About what an entry takes in memory.
fn weight(entry: &Entry) -> u64 {
    let kind = match &entry.kind {
        Kind::File(content) => content_weight(content.segments.len(), content.holes().len()),
        Kind::Symlink(target) => target.len(),
        _ => 0,
    };
    let xattrs = entry.meta.xattrs.iter().flat_map(|xattrs| xattrs.iter());
    let xattrs = xattrs.map(|(name, value)| xattr_weight(name, value)).sum::<usize>();
    (ENTRY + entry.path.as_bytes().len() + kind + xattrs) as u64
}

/// What an entry takes beside its path and content.
const ENTRY: usize = size_of::<Entry>() + 16;

fn content_weight(segments: usize, holes: usize) -> usize {
    let others = segments.saturating_sub(1).saturating_mul(size_of::<SegmentRef>());
    others.saturating_add(holes.saturating_mul(size_of::<Range<u64>>()))
}

fn xattr_weight(name: &[u8], value: &[u8]) -> usize {
    size_of::<(Vec<u8>, Vec<u8>)>() + 32 + name.len() + value.len()
}

/// Why bytes are not a page.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// The outer map is damaged.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// A column is damaged.
    #[error(transparent)]
    Column(#[from] VarintError),
    /// A path could leave the root.
    #[error(transparent)]
    Path(#[from] RelPathError),
    /// Paths do not ascend.
    #[error("entries out of order at {0}")]
    Order(RelPath),
    /// A kind that this version does not know.
    #[error("{path} is of unknown kind {kind}")]
    UnknownKind {
        /// Whose.
        path: RelPath,
        /// The number in the kind column.
        kind: u8,
    },
    /// More entries than a page may have.
    #[error("a page of more than {MAX_ENTRIES} entries")]
    TooMany,
    /// It takes much more memory than its length, as no page of a real tree does.
    #[error("the page would expand to far more than its length")]
    Expands,
    /// Segments and holes do not add up to the size.
    #[error("the content of {0} does not add up")]
    Content(RelPath),
}

/// Whether a page ends after `path`, which is the entry number `count` of its page (counted from one).
pub fn ends_after(path: &RelPath, count: usize) -> bool {
    count >= MAX_ENTRIES || crc32fast::hash(path.as_bytes()) & CUT_MASK == 0
}

/// Of owned bytes to be written, of borrowed ones when they are read.
#[derive(Serialize, Deserialize, Default)]
struct Columns<B> {
    shared: B,
    suffix_len: B,
    suffix: B,
    kind: B,
    mode: B,
    uid: B,
    gid: B,
    mtime: B,
    mtime_ns: B,
    ctime: B,
    ctime_ns: B,
    inode: B,
    size: B,
    segments: B,
    lens: B,
    digests: B,
    device: B,
    target_len: B,
    target: B,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    holes: Vec<(u32, B)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    links: Vec<(u32, u64, u64)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    xattrs: Vec<(u32, Vec<(B, B)>)>,
}

const FILE: u8 = 0;
const DIRECTORY: u8 = 1;
const SYMLINK: u8 = 2;
const FIFO: u8 = 3;
const SOCKET: u8 = 4;
const CHAR_DEVICE: u8 = 5;
const BLOCK_DEVICE: u8 = 6;

/// The metadata columns hold differences from the entry before; this is that entry.
#[derive(Default)]
struct Previous {
    mode: i64,
    uid: i64,
    gid: i64,
    mtime: i64,
    ctime: i64,
    inode: i64,
}

fn put_difference(column: &mut Vec<u8>, previous: &mut i64, value: i64) {
    put_signed(column, value.wrapping_sub(*previous));
    *previous = value;
}

fn next_difference(column: &mut Reader<'_>, previous: &mut i64) -> Result<i64, VarintError> {
    *previous = previous.wrapping_add(column.signed()?);
    Ok(*previous)
}

/// Encodes `entries`, which must ascend by path.
pub fn encode(entries: &[Entry]) -> Result<Vec<u8>, CborError> {
    let mut columns = Columns::<ByteBuf>::default();
    let mut previous = Previous::default();
    let mut last: &[u8] = &[];
    for (number, entry) in (0..).zip(entries) {
        let path = entry.path.as_bytes();
        let shared = last.iter().zip(path).take_while(|(a, b)| a == b).count();
        put(&mut columns.shared, shared as u64);
        put(&mut columns.suffix_len, (path.len() - shared) as u64);
        columns.suffix.extend_from_slice(&path[shared..]);
        last = path;
        columns.put_metadata(number, &entry.meta, &mut previous);
        columns.put_kind(number, &entry.kind);
    }
    cbor::to_vec(&columns)
}

impl Columns<ByteBuf> {
    fn put_metadata(&mut self, number: u32, meta: &Metadata, previous: &mut Previous) {
        put_difference(&mut self.mode, &mut previous.mode, meta.mode.into());
        put_difference(&mut self.uid, &mut previous.uid, meta.uid.into());
        put_difference(&mut self.gid, &mut previous.gid, meta.gid.into());
        put_difference(&mut self.mtime, &mut previous.mtime, meta.mtime.seconds);
        put(&mut self.mtime_ns, meta.mtime.nanos.into());
        put_difference(&mut self.ctime, &mut previous.ctime, meta.ctime.seconds);
        put(&mut self.ctime_ns, meta.ctime.nanos.into());
        put_difference(&mut self.inode, &mut previous.inode, meta.inode as i64);
        if let Some(xattrs) = &meta.xattrs {
            let pairs = xattrs.iter().map(|(name, value)| (name.clone().into(), value.clone().into()));
            self.xattrs.push((number, pairs.collect()));
        }
    }

    fn put_kind(&mut self, number: u32, kind: &Kind) {
        let code = match kind {
            Kind::File(content) => {
                self.put_content(number, content);
                FILE
            }
            Kind::Directory => DIRECTORY,
            Kind::Symlink(target) => {
                put(&mut self.target_len, target.len() as u64);
                self.target.extend_from_slice(target);
                SYMLINK
            }
            Kind::Fifo => FIFO,
            Kind::Socket => SOCKET,
            Kind::CharDevice(device) => {
                put(&mut self.device, *device);
                CHAR_DEVICE
            }
            Kind::BlockDevice(device) => {
                put(&mut self.device, *device);
                BLOCK_DEVICE
            }
        };
        self.kind.push(code);
    }

    fn put_content(&mut self, number: u32, content: &Content) {
        put(&mut self.size, content.size);
        put(&mut self.segments, content.segments.len() as u64);
        for segment in &content.segments {
            if content.segments.len() > 1 {
                put(&mut self.lens, segment.len.into());
            }
            self.digests.extend_from_slice(segment.digest.as_bytes());
        }
        if let Some(holes) = &content.holes {
            let mut column = Vec::new();
            let mut end = 0;
            for hole in holes.iter() {
                put(&mut column, hole.start - end);
                put(&mut column, hole.end - hole.start);
                end = hole.end;
            }
            self.holes.push((number, column.into()));
        }
        if let Some(link) = &content.link {
            self.links.push((number, link.0, link.1));
        }
    }
}

/// Decodes the entries of a page.
pub fn decode(bytes: &[u8]) -> Result<Vec<Entry>, PageError> {
    decode_within(bytes, u64::MAX)
}

/// Decodes the entries of a page, which may take about `limit` bytes of memory.
fn decode_within(bytes: &[u8], limit: u64) -> Result<Vec<Entry>, PageError> {
    let columns: Columns<&Bytes> = cbor::from_slice(bytes)?;
    if columns.kind.len() > MAX_ENTRIES {
        return Err(PageError::TooMany);
    }
    let mut left = limit;
    let mut take = |bytes: usize| match left.checked_sub(bytes as u64) {
        Some(rest) => {
            left = rest;
            Ok(())
        }
        None => Err(PageError::Expands),
    };
    let mut cursor = Cursor::new(&columns);
    let mut entries: Vec<Entry> = Vec::with_capacity(columns.kind.len());
    let mut path = Vec::new();
    for (number, &kind) in (0..).zip(columns.kind.iter()) {
        cursor.next_path(&mut path)?;
        take(ENTRY + path.len() + cursor.expected_weight(number, kind))?;
        let path = RelPath::new(path.as_slice())?;
        if entries.last().is_some_and(|last| last.path >= path) {
            return Err(PageError::Order(path));
        }
        let meta = cursor.next_metadata(number)?;
        let kind = cursor.next_kind(number, kind, &path)?;
        entries.push(Entry { path, kind, meta });
    }
    cursor.finish()?;
    Ok(entries)
}

/// The path of the first entry of a page; `None` when it has none.
fn first_path(bytes: &[u8]) -> Result<Option<RelPath>, PageError> {
    let columns: Columns<&Bytes> = cbor::from_slice(bytes)?;
    if columns.kind.is_empty() {
        return Ok(None);
    }
    let mut path = Vec::new();
    Cursor::new(&columns).next_path(&mut path)?;
    Ok(Some(RelPath::new(path)?))
}

/// One reader a column, all at the same entry.
struct Cursor<'a> {
    shared: Reader<'a>,
    suffix_len: Reader<'a>,
    suffix: Reader<'a>,
    mode: Reader<'a>,
    uid: Reader<'a>,
    gid: Reader<'a>,
    mtime: Reader<'a>,
    mtime_ns: Reader<'a>,
    ctime: Reader<'a>,
    ctime_ns: Reader<'a>,
    inode: Reader<'a>,
    size: Reader<'a>,
    segments: Reader<'a>,
    lens: Reader<'a>,
    digests: Reader<'a>,
    device: Reader<'a>,
    target_len: Reader<'a>,
    target: Reader<'a>,
    holes: std::slice::Iter<'a, (u32, &'a Bytes)>,
    links: std::slice::Iter<'a, (u32, u64, u64)>,
    xattrs: std::slice::Iter<'a, (u32, Vec<(&'a Bytes, &'a Bytes)>)>,
    previous: Previous,
}

/// The next of a sparse column, when it belongs to entry `number`.
fn next_for<'a, T>(
    column: &mut std::slice::Iter<'a, T>,
    number: u32,
    of: impl Fn(&T) -> u32,
) -> Option<&'a T> {
    let next = column.as_slice().first().filter(|&item| of(item) == number)?;
    column.next();
    Some(next)
}

impl<'a> Cursor<'a> {
    fn new(columns: &'a Columns<&'a Bytes>) -> Self {
        Self {
            shared: Reader::new(columns.shared),
            suffix_len: Reader::new(columns.suffix_len),
            suffix: Reader::new(columns.suffix),
            mode: Reader::new(columns.mode),
            uid: Reader::new(columns.uid),
            gid: Reader::new(columns.gid),
            mtime: Reader::new(columns.mtime),
            mtime_ns: Reader::new(columns.mtime_ns),
            ctime: Reader::new(columns.ctime),
            ctime_ns: Reader::new(columns.ctime_ns),
            inode: Reader::new(columns.inode),
            size: Reader::new(columns.size),
            segments: Reader::new(columns.segments),
            lens: Reader::new(columns.lens),
            digests: Reader::new(columns.digests),
            device: Reader::new(columns.device),
            target_len: Reader::new(columns.target_len),
            target: Reader::new(columns.target),
            holes: columns.holes.iter(),
            links: columns.links.iter(),
            xattrs: columns.xattrs.iter(),
            previous: Previous::default(),
        }
    }

    fn next_path(&mut self, path: &mut Vec<u8>) -> Result<(), VarintError> {
        let shared: usize = self.shared.narrow()?;
        if shared > path.len() {
            return Err(VarintError);
        }
        path.truncate(shared);
        let len = self.suffix_len.narrow()?;
        path.extend_from_slice(self.suffix.take(len)?);
        Ok(())
    }

    /// What the entry `number` of that kind will take in memory beside its path.
    fn expected_weight(&self, number: u32, kind: u8) -> usize {
        let (mut segments, mut target) = (self.segments.clone(), self.target_len.clone());
        let holes = self.holes.as_slice().first().filter(|holes| holes.0 == number);
        // A hole takes two bytes of its column.
        let holes = holes.map_or(0, |(_, column)| column.len() / 2);
        let kind = match kind {
            FILE => content_weight(segments.narrow().unwrap_or(0), holes),
            SYMLINK => target.narrow().unwrap_or(0),
            _ => 0,
        };
        let xattrs = self.xattrs.as_slice().first().filter(|xattrs| xattrs.0 == number);
        let xattrs = xattrs.iter().flat_map(|(_, pairs)| pairs);
        let xattrs = xattrs.map(|(name, value)| xattr_weight(name, value)).sum::<usize>();
        kind.saturating_add(xattrs)
    }

    fn next_metadata(&mut self, number: u32) -> Result<Metadata, VarintError> {
        let previous = &mut self.previous;
        let narrow = |value: i64| u32::try_from(value).map_err(|_| VarintError);
        let nanos = |column: &mut Reader<'_>| match column.narrow()? {
            nanos @ 0..1_000_000_000 => Ok(nanos),
            _ => Err(VarintError),
        };
        Ok(Metadata {
            mode: narrow(next_difference(&mut self.mode, &mut previous.mode)?)?,
            uid: narrow(next_difference(&mut self.uid, &mut previous.uid)?)?,
            gid: narrow(next_difference(&mut self.gid, &mut previous.gid)?)?,
            mtime: FileTime {
                seconds: next_difference(&mut self.mtime, &mut previous.mtime)?,
                nanos: nanos(&mut self.mtime_ns)?,
            },
            ctime: FileTime {
                seconds: next_difference(&mut self.ctime, &mut previous.ctime)?,
                nanos: nanos(&mut self.ctime_ns)?,
            },
            inode: next_difference(&mut self.inode, &mut previous.inode)? as u64,
            xattrs: next_for(&mut self.xattrs, number, |xattrs| xattrs.0).map(|(_, pairs)| {
                let pairs = pairs.iter().map(|(name, value)| (name.to_vec(), value.to_vec()));
                Box::new(pairs.collect::<Xattrs>())
            }),
        })
    }

    fn next_kind(&mut self, number: u32, kind: u8, path: &RelPath) -> Result<Kind, PageError> {
        Ok(match kind {
            FILE => {
                let content = self.next_content(number)?;
                if !content.is_consistent() {
                    return Err(PageError::Content(path.clone()));
                }
                Kind::File(content)
            }
            DIRECTORY => Kind::Directory,
            SYMLINK => {
                let len = self.target_len.narrow()?;
                Kind::Symlink(self.target.take(len)?.into())
            }
            FIFO => Kind::Fifo,
            SOCKET => Kind::Socket,
            CHAR_DEVICE => Kind::CharDevice(self.device.unsigned()?),
            BLOCK_DEVICE => Kind::BlockDevice(self.device.unsigned()?),
            kind => return Err(PageError::UnknownKind { path: path.clone(), kind }),
        })
    }

    fn next_content(&mut self, number: u32) -> Result<Content, VarintError> {
        let size = self.size.unsigned()?;
        let holes = match next_for(&mut self.holes, number, |holes| holes.0) {
            Some((_, column)) => Some(Box::new(read_holes(column)?)),
            None => None,
        };
        let hole_bytes: u64 =
            holes.iter().flat_map(|holes| holes.iter()).map(|hole| hole.end - hole.start).sum();
        let count: usize = self.segments.narrow()?;
        if count > self.digests.remaining() / 32 {
            return Err(VarintError);
        }
        let mut segments = Vec::with_capacity(count);
        for _ in 0..count {
            let len = match count {
                1 => size.checked_sub(hole_bytes).and_then(|len| len.try_into().ok()).ok_or(VarintError)?,
                _ => self.lens.narrow()?,
            };
            if len > MAX_SEGMENT_LEN {
                return Err(VarintError);
            }
            let digest = self.digests.take(32)?.try_into().map_err(|_| VarintError)?;
            segments.push(SegmentRef { digest: Digest::from_bytes(digest), len });
        }
        let link = next_for(&mut self.links, number, |link| link.0);
        Ok(Content {
            size,
            segments: segments.into(),
            holes,
            link: link.map(|&(_, device, inode)| Box::new((device, inode))),
        })
    }

    fn finish(self) -> Result<(), VarintError> {
        let columns = [
            self.shared,
            self.suffix_len,
            self.suffix,
            self.mode,
            self.uid,
            self.gid,
            self.mtime,
            self.mtime_ns,
            self.ctime,
            self.ctime_ns,
            self.inode,
            self.size,
            self.segments,
            self.lens,
            self.digests,
            self.device,
            self.target_len,
            self.target,
        ];
        columns.into_iter().try_for_each(Reader::finish)?;
        let left = self.holes.len() + self.links.len() + self.xattrs.len();
        if left == 0 { Ok(()) } else { Err(VarintError) }
    }
}

fn read_holes(column: &[u8]) -> Result<Vec<Range<u64>>, VarintError> {
    let mut reader = Reader::new(column);
    let mut holes = Vec::new();
    let mut end = 0u64;
    while reader.remaining() > 0 {
        let start = end.checked_add(reader.unsigned()?).ok_or(VarintError)?;
        end = start.checked_add(reader.unsigned()?).ok_or(VarintError)?;
        holes.push(start..end);
    }
    Ok(holes)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn content() -> impl Strategy<Value = Content> {
        let lens = prop_oneof![
            3 => prop::collection::vec(1u32..5000, 0..2),
            1 => prop::collection::vec(1u32..100_000, 2..5),
        ];
        (lens, prop::option::of((0u64..3, 1u64..9)), prop::option::of(any::<(u64, u64)>())).prop_map(
            |(lens, hole, link)| {
                let data: u64 = lens.iter().map(|&len| u64::from(len)).sum();
                let segments =
                    lens.iter().map(|&len| SegmentRef { digest: Digest::of(&len.to_le_bytes()), len });
                let hole = hole.map(|(at, len)| at.min(data)..at.min(data) + len);
                Content {
                    size: data + hole.as_ref().map_or(0, |hole| hole.end - hole.start),
                    segments: segments.collect(),
                    holes: hole.map(|hole| Box::new(vec![hole])),
                    link: link.map(Box::new),
                }
            },
        )
    }

    fn kind() -> impl Strategy<Value = Kind> {
        prop_oneof![
            5 => content().prop_map(Kind::File),
            1 => Just(Kind::Directory),
            1 => prop::collection::vec(1u8.., 0..9).prop_map(|target| Kind::Symlink(target.into())),
            1 => prop_oneof![Just(Kind::Fifo), Just(Kind::Socket)],
            1 => any::<u64>().prop_map(Kind::CharDevice),
            1 => any::<u64>().prop_map(Kind::BlockDevice),
        ]
    }

    fn metadata() -> impl Strategy<Value = Metadata> {
        let time =
            || (any::<i64>(), 0..1_000_000_000u32).prop_map(|(seconds, nanos)| FileTime { seconds, nanos });
        let bytes = || prop::collection::vec(any::<u8>(), 0..4);
        let xattrs = prop::option::weighted(0.2, prop::collection::vec((bytes(), bytes()), 1..3));
        (0..0o10000u32, any::<u32>(), any::<u32>(), time(), time(), any::<u64>(), xattrs).prop_map(
            |(mode, uid, gid, mtime, ctime, inode, xattrs)| {
                let xattrs = xattrs.map(Box::new);
                Metadata { mode, uid, gid, mtime, ctime, inode, xattrs }
            },
        )
    }

    pub(crate) fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let path = "[a-c]{1,2}(/[a-c]{1,2}){0,2}";
        prop::collection::btree_map(path, (kind(), metadata()), 0..20).prop_map(|map| {
            let entry = |(path, (kind, meta)): (String, _)| Entry {
                path: RelPath::new(path.into_bytes()).unwrap(),
                kind,
                meta,
            };
            let mut entries: Vec<_> = map.into_iter().map(entry).collect();
            entries.sort_by(|a, b| a.path.cmp(&b.path));
            entries
        })
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(entries in entries()) {
            let bytes = encode(&entries).unwrap();
            prop_assert_eq!(decode(&bytes).unwrap(), entries);
        }

        #[test]
        fn damage_is_refused_or_read_never_worse(entries in entries(), at: prop::sample::Index, to: u8, cut: prop::sample::Index) {
            let mut bytes = encode(&entries).unwrap();
            bytes.truncate(cut.index(bytes.len() + 1).max(1));
            let at = at.index(bytes.len());
            bytes[at] = to;
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn refuses_paths_out_of_order_and_content_that_does_not_add_up() {
        let entry = |path: &str, size| Entry {
            path: RelPath::new(path.as_bytes()).unwrap(),
            kind: Kind::File(Content { size, ..Content::default() }),
            meta: Metadata::default(),
        };
        let swapped = encode(&[entry("b", 0), entry("a", 0)]).unwrap();
        assert!(matches!(decode(&swapped), Err(PageError::Order(_))));
        let mut long = entry("a", u64::from(MAX_SEGMENT_LEN) + 1);
        let segment = SegmentRef { digest: Digest::of(b""), len: MAX_SEGMENT_LEN + 1 };
        long.kind = Kind::File(Content {
            size: segment.len.into(),
            segments: vec![segment].into(),
            ..Content::default()
        });
        assert!(matches!(decode(&encode(&[long]).unwrap()), Err(PageError::Column(_))));
        let short = encode(&[entry("a", 1)]).unwrap();
        assert!(matches!(decode(&short), Err(PageError::Content(_))));
    }
}
