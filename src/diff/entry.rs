//! What one name in a directory tree is.

use std::fmt;
use std::ops::{Deref, Range};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::relpath::RelPath;

/// One name in a tree and all that is kept of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands, relative to the root of the index.
    pub path: RelPath,
    /// What it is, with its content.
    pub kind: Kind,
    /// Owner, mode, times and extended attributes.
    pub meta: Metadata,
}

/// What kind of thing a name is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File(Content),
    /// A directory; what it holds follows as entries of its own.
    Directory,
    /// A symbolic link and what it says, byte for byte.
    Symlink(Box<[u8]>),
    /// A named pipe.
    Fifo,
    /// A socket: noted, never restored, since only the program that listens on it can make it.
    Socket,
    /// A character device, `makedev(major, minor)`.
    CharDevice(u64),
    /// A block device, `makedev(major, minor)`.
    BlockDevice(u64),
}

/// A moment of a file system: seconds since 1970-01-01 UTC, and nanoseconds (0 to 999,999,999) after that
/// second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct FileTime {
    /// Whole seconds, negative before 1970.
    pub seconds: i64,
    /// Nanoseconds after the second.
    pub nanos: u32,
}

/// What `stat` and the extended attributes say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    /// Permission bits, with set-user-id, set-group-id and sticky (`0o7777`).
    pub mode: u32,
    /// Owner; names are kept once an index, in [`Owners`](super::Owners).
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When the content last changed.
    pub mtime: FileTime,
    /// When the inode last changed. Zero where it could still change within the resolution of the clock after
    /// it was read: such an entry never counts as unchanged.
    pub ctime: FileTime,
    /// Inode number, to recognise a file that was renamed.
    pub inode: u64,
    /// Extended attributes, POSIX ACLs among them, sorted by name. Boxed because few have any.
    pub xattrs: Option<Box<Xattrs>>,
}

impl Metadata {
    /// Adds the extended attributes that `there` has, and this has not.
    pub(crate) fn keep_attributes(&mut self, there: &Self) {
        let Some(kept) = &there.xattrs else { return };
        let xattrs = self.xattrs.get_or_insert_default();
        let is_new = |(name, _): &&(Vec<u8>, Vec<u8>)| !xattrs.iter().any(|(own, _)| own == name);
        let new: Vec<_> = kept.iter().filter(is_new).cloned().collect();
        xattrs.extend(new);
        xattrs.sort_unstable();
    }
}

/// Names and values of extended attributes, sorted by name.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// The content of a regular file.
///
/// The bytes are the file's *data ranges* (the file less its holes), one after the other, cut into segments.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Content {
    /// Length of the file in bytes, holes included.
    pub size: u64,
    /// The segments, in order.
    pub segments: SegmentList,
    /// Ranges of the file that hold nothing, ascending and apart. Boxed because few files have any.
    pub holes: Option<Box<Vec<Range<u64>>>>,
    /// Which file this is another name of: device and inode number, alike for all names of one file. `None`
    /// for a file with one name.
    pub link: Option<Box<(u64, u64)>>,
}

/// A segment as an index names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentRef {
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// How many bytes.
    pub len: u32,
}

/// The segments of a file: a slice that costs a file of one segment no allocation, since most files have one.
#[derive(Clone, PartialEq, Eq)]
pub struct SegmentList(Kept);

#[derive(Clone, PartialEq, Eq)]
enum Kept {
    One([SegmentRef; 1]),
    /// None, or several.
    Other(Box<[SegmentRef]>),
}

impl Deref for SegmentList {
    type Target = [SegmentRef];

    fn deref(&self) -> &[SegmentRef] {
        match &self.0 {
            Kept::One(one) => one,
            Kept::Other(other) => other,
        }
    }
}

impl From<&[SegmentRef]> for SegmentList {
    fn from(segments: &[SegmentRef]) -> Self {
        Self(match segments {
            &[one] => Kept::One([one]),
            other => Kept::Other(other.into()),
        })
    }
}

impl From<Vec<SegmentRef>> for SegmentList {
    fn from(segments: Vec<SegmentRef>) -> Self {
        Self(<[SegmentRef; 1]>::try_from(segments).map_or_else(|other| Kept::Other(other.into()), Kept::One))
    }
}

impl FromIterator<SegmentRef> for SegmentList {
    fn from_iter<I: IntoIterator<Item = SegmentRef>>(segments: I) -> Self {
        segments.into_iter().collect::<Vec<_>>().into()
    }
}

impl<'a> IntoIterator for &'a SegmentList {
    type Item = &'a SegmentRef;
    type IntoIter = std::slice::Iter<'a, SegmentRef>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Default for SegmentList {
    fn default() -> Self {
        Self(Kept::Other(Box::default()))
    }
}

impl fmt::Debug for SegmentList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

/// No file system takes a longer name, in bytes.
const MAX_NAME: usize = 255;

/// The kernel takes no longer target of a symbolic link, in bytes.
const MAX_TARGET: usize = 4095;

impl Entry {
    /// Why nothing like this can be made anywhere, whatever the file system: no scan of a directory makes such an entry.
    pub fn fault(&self) -> Option<&'static str> {
        if self.path.is_root() && !matches!(self.kind, Kind::Directory) {
            return Some("it is the root and no directory");
        }
        if self.path.as_bytes().split(|&byte| byte == b'/').any(|name| name.len() > MAX_NAME) {
            return Some("it has a longer name than any file system takes");
        }
        let is_text = |bytes: &[u8]| !bytes.is_empty() && !bytes.contains(&0);
        match &self.kind {
            Kind::Symlink(target) if !is_text(target) || target.len() > MAX_TARGET => {
                return Some("it is a link whose target cannot be a path");
            }
            Kind::File(content) if i64::try_from(content.size).is_err() => {
                return Some("it is longer than any file can be");
            }
            _ => {}
        }
        let mut names = self.meta.xattrs.iter().flat_map(|xattrs| xattrs.iter().map(|(name, _)| name));
        match names.all(|name| is_text(name) && name.len() <= MAX_NAME) {
            true => None,
            false => Some("it has an extended attribute with an invalid name"),
        }
    }

    /// The content, if this is a regular file.
    pub fn content(&self) -> Option<&Content> {
        match &self.kind {
            Kind::File(content) => Some(content),
            _ => None,
        }
    }

    /// Whether both are the same kind of thing with the same content. Metadata does not count.
    pub fn same_content(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::File(a), Kind::File(b)) => a.same_bytes(b),
            (a, b) => a == b,
        }
    }

    /// Whether both would look the same once restored, hard links aside: what `chmod`, `chown`, `touch` and
    /// `setfattr` can set.
    pub fn same_metadata(&self, other: &Self) -> bool {
        let (a, b) = (&self.meta, &other.meta);
        let symlink = matches!(self.kind, Kind::Symlink(_));
        (a.mode == b.mode || symlink)
            && (a.uid, a.gid, a.mtime, &a.xattrs) == (b.uid, b.gid, b.mtime, &b.xattrs)
    }
}

impl Kind {
    /// Whether both are the same kind of thing, whatever they hold.
    pub fn same_type(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl Content {
    /// How many bytes the segments hold together.
    pub fn data_len(&self) -> u64 {
        self.segments.iter().map(|segment| u64::from(segment.len)).sum()
    }

    /// The holes.
    pub fn holes(&self) -> &[Range<u64>] {
        self.holes.as_deref().map_or(&[], Vec::as_slice)
    }

    /// Whether a reader of both files sees the same bytes in the same layout.
    pub fn same_bytes(&self, other: &Self) -> bool {
        self.size == other.size && self.segments == other.segments && self.holes() == other.holes()
    }

    /// The ranges of the file that hold data: what lies between the holes.
    pub fn data_ranges(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        between(self.holes(), self.size)
    }

    /// Where the data stream stands in the file.
    pub fn data_map(&self) -> DataMap {
        DataMap::new(self.data_ranges())
    }

    /// Whether holes and segments add up to the size, with every hole in its place.
    pub fn is_consistent(&self) -> bool {
        let mut end = 0;
        let mut hole_bytes = 0;
        for hole in self.holes() {
            if hole.start < end || hole.end <= hole.start || hole.end > self.size {
                return false;
            }
            end = hole.end;
            hole_bytes += hole.end - hole.start;
        }
        self.segments.iter().all(|segment| segment.len > 0)
            && self.data_len().checked_add(hole_bytes) == Some(self.size)
    }
}

/// What lies between `holes` in a file of `size` bytes.
fn between(holes: &[Range<u64>], size: u64) -> impl Iterator<Item = Range<u64>> + '_ {
    let ends = holes.iter().map(|hole| hole.start).chain([size]);
    let starts = [0].into_iter().chain(holes.iter().map(|hole| hole.end));
    starts.zip(ends).map(|(start, end)| start..end).filter(|range| !range.is_empty())
}

/// Where the data stream of a file stands in it, found without going through all its holes: 24 bytes for each.
#[derive(Debug, Clone)]
pub struct DataMap(Box<[(Range<u64>, u64)]>);

impl DataMap {
    /// Of a file that holds data in `ranges`, and where its holes are elsewhere.
    fn new(ranges: impl Iterator<Item = Range<u64>>) -> Self {
        let mut before = 0;
        let ranges = ranges.map(|range| {
            let first = before;
            before += range.end - range.start;
            (range, first)
        });
        Self(ranges.collect())
    }

    /// Of a file with `holes` that may go on without end.
    pub fn with_holes(holes: &[Range<u64>]) -> Self {
        Self::new(between(holes, u64::MAX))
    }

    /// The ranges of the file that hold data, each with where it begins in the data stream.
    pub fn ranges(&self) -> &[(Range<u64>, u64)] {
        &self.0
    }

    /// Where bytes `data` of the data stream stand in the file: pieces in order, none empty.
    pub fn file_ranges(&self, data: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let from = self.0.partition_point(|(range, first)| first + (range.end - range.start) <= data.start);
        self.0[from..].iter().map_while(move |(range, first)| {
            let start = data.start.max(*first);
            let end = data.end.min(first + (range.end - range.start));
            (start < end).then(|| range.start + (start - first)..range.start + (end - first))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(size: u64, holes: &[Range<u64>]) -> Content {
        let data = size - holes.iter().map(|hole| hole.end - hole.start).sum::<u64>();
        let segments = vec![SegmentRef { digest: Digest::of(b""), len: data as u32 }];
        Content { size, segments: segments.into(), holes: Some(Box::new(holes.to_vec())), link: None }
    }

    #[test]
    fn data_stands_between_the_holes() {
        let content = content(100, &[0..10, 20..30, 90..100]);
        assert_eq!(content.data_ranges().collect::<Vec<_>>(), [10..20, 30..90]);
        assert_eq!(content.data_map().file_ranges(5..15).collect::<Vec<_>>(), [15..20, 30..35]);
        assert_eq!(
            content.data_map().file_ranges(69..70).collect::<Vec<_>>(),
            [Range { start: 89, end: 90 }]
        );
        assert!(content.is_consistent());
    }

    #[test]
    fn holes_out_of_place_are_seen() {
        for holes in [[10..20, 15..30], [30..40, 10..20], [0..10, 90..110], [0..10, 50..50]] {
            let mut bad = content(80, &[]);
            bad.size = 100;
            bad.holes = Some(Box::new(holes.to_vec()));
            assert!(!bad.is_consistent());
        }
    }
}
