//! What a snapshot record says.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use itertools::Itertools;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::diff::page::MAX_ENTRIES;
use crate::diff::{Change, ChangeRef, Entry, Owners};
use crate::layers::ObjectId;
use crate::relpath::{RelPath, RelPathError};
use crate::timeline::TimeKey;
use crate::varint::{Reader, VarintError, put, put_signed};

/// A snapshot, as it was found in a repository.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its name among all snapshots: when it was taken.
    pub key: TimeKey,
    /// The id of its record as a git object, by which people call it.
    pub id: ObjectId,
    /// Whether other snapshots have the same first digits of their ids: then the id names none of them.
    pub shares_id: bool,
    /// What it says.
    pub record: SnapshotRecord,
}

impl Snapshot {
    /// When it was taken.
    pub fn time(&self) -> Timestamp {
        self.key.time()
    }

    /// The first eight digits of the id, which tell it from most others.
    pub fn short_id(&self) -> String {
        short(&self.id)
    }

    /// What it is called: its short id, or its key where others have that too.
    pub fn name(&self) -> String {
        SnapshotName::from(self).name()
    }

    /// The same with the whole id.
    pub fn full_name(&self) -> String {
        if self.shares_id { self.key.to_string() } else { self.id.to_string() }
    }

    /// Where the thing at `path` of its index was on the host that was backed up.
    pub fn display_path(&self, path: &RelPath) -> PathBuf {
        join(&self.base(), path)
    }

    /// Where the paths of its index begin on the host.
    pub(super) fn base(&self) -> PathBuf {
        match (self.record.layout, self.record.roots.as_slice()) {
            (Layout::Single, [root]) => {
                let root = Path::new(OsStr::from_bytes(root));
                let directory = if self.record.is_single_file() { root.parent() } else { None };
                directory.unwrap_or(root).to_owned()
            }
            _ => "/".into(),
        }
    }

    /// The paths of its index that `path` may mean: an absolute one of the host, or in a snapshot of one directory one that
    /// begins there.
    pub(super) fn paths_meant_by(&self, path: &[u8]) -> Result<Vec<RelPath>, RelPathError> {
        let whole = RelPath::new(trim_slashes(path))?;
        let mut paths = Vec::new();
        // A record that lists many was not written by this program, and each would be looked for.
        if let (Layout::Single, [root]) = (self.record.layout, self.record.roots.as_slice())
            && let Some(below) = whole.strip_prefix(&RelPath::new(trim_slashes(root))?)
        {
            let is_file = self.record.is_single_file() && below.is_root();
            paths.push(if is_file { self.record.path_of_root(root) } else { below });
        }
        paths.push(whole);
        Ok(paths)
    }

    /// The paths in its index of those sources that are at or below `top`.
    pub(super) fn roots_within(&self, top: &RelPath) -> Vec<RelPath> {
        let base = self.base();
        let below = self.record.roots.iter().filter_map(|root| {
            let below = Path::new(OsStr::from_bytes(root)).strip_prefix(&base).ok()?;
            RelPath::new(below.as_os_str().as_bytes()).ok()
        });
        below.filter(|root| root.is_within(top)).unique().collect()
    }

    /// Whether it has all of `tags`.
    pub(super) fn has_tags(&self, tags: &[String]) -> bool {
        tags.iter().all(|tag| self.record.tags.contains(tag))
    }
}

/// What a snapshot is called, without what its record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotName {
    /// Its time key, which no other snapshot has.
    pub key: TimeKey,
    /// The id of its record. Records of equal content have one id.
    pub id: ObjectId,
    /// Whether other snapshots have the same first digits of their ids.
    pub shares_id: bool,
}

impl SnapshotName {
    /// The first eight digits of the id, or the key where others have these too.
    pub fn name(&self) -> String {
        if self.shares_id { self.key.to_string() } else { short(&self.id) }
    }
}

impl From<&Snapshot> for SnapshotName {
    fn from(snapshot: &Snapshot) -> Self {
        Self { key: snapshot.key, id: snapshot.id, shares_id: snapshot.shares_id }
    }
}

/// `path` below `base`, without a slash at the end.
pub(super) fn join(base: &Path, path: &RelPath) -> PathBuf {
    if path.is_root() { base.to_owned() } else { base.join(path.as_path()) }
}

fn trim_slashes(path: &[u8]) -> &[u8] {
    let start = path.iter().position(|&byte| byte != b'/').unwrap_or(path.len());
    let end = path.iter().rposition(|&byte| byte != b'/').map_or(start, |last| last + 1);
    &path[start..end]
}

/// The first digits of the id of a record, by which people call its snapshot.
pub(super) fn short(id: &ObjectId) -> String {
    let mut id = id.to_string();
    id.truncate(8);
    id
}

/// The record of a snapshot, as it lies in the repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// Host that was backed up.
    pub host: String,
    /// User who did it.
    pub user: String,
    /// Absolute paths that were backed up, as bytes, sorted.
    pub roots: Vec<ByteBuf>,
    /// Where the tree of entries begins: at a root itself, or at `/` with each root below it.
    pub layout: Layout,
    /// Tags, as given.
    pub tags: Vec<String>,
    /// Time key of the snapshot that this was compared with.
    pub parent: Option<String>,
    /// The pages of the index.
    pub pages: PageList,
    /// Volumes that this backup added, by path.
    pub volumes: Vec<String>,
    /// Names of the owners.
    pub owners: Owners,
    /// What the backup did.
    pub statistics: Statistics,
    /// What could not be read, in path order, none below another: neither the thing at one of these paths nor
    /// anything below it need be in the snapshot, whatever the source held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<RelPath>,
    /// What has not all of its extended attributes here, since they could not be read, in path order, none below another:
    /// the thing at one of these paths, and what lies below it, may have had more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unread_attributes: Vec<RelPath>,
    /// The directories at which something was mounted, and below which the backup went on, in path order; sources too.
    /// `None` in the records of earlier versions, which do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mounts: Option<Vec<RelPath>>,
    /// The version of the program that made it.
    pub program: String,
}

/// A record lists no more mounts than this. Of those beyond nobody knows that they were entered, so nothing is deleted
/// there.
pub(super) const MAX_MOUNTS: usize = 4096;

/// A record lists no more paths than this that could not be read. Beyond it, the directories above stand for
/// them, since every command reads every record.
const MAX_UNREADABLE: usize = 10_000;

impl SnapshotRecord {
    /// Whether parts of the sources, or attributes, could not be read, so that the snapshot lacks them.
    pub fn is_partial(&self) -> bool {
        !self.unreadable.is_empty() || !self.unread_attributes.is_empty()
    }

    /// Whether `path` of the index is, or lies below, something that could not be read: that the snapshot does
    /// not have it does not mean that the source did not.
    pub fn is_unreadable(&self, path: &RelPath) -> bool {
        self.unreadable_above(path).is_some()
    }

    /// The sources that are not in it, or not known to be there with all that stands right in them, since they could
    /// not be read.
    pub fn missing(&self) -> impl Iterator<Item = &[u8]> {
        let roots = self.roots.iter().map(|root| root.as_slice());
        roots.filter(|root| self.is_unreadable(&self.path_of_root(root)))
    }

    /// Whether all that was backed up is one thing that is no directory. It lies in the index under its name.
    pub(super) fn is_single_file(&self) -> bool {
        self.layout == Layout::Single && self.statistics.directories == 0
    }

    /// Where a root is in the index.
    pub(super) fn path_of_root(&self, root: &[u8]) -> RelPath {
        let path = match self.layout {
            Layout::Absolute => root.strip_prefix(b"/").unwrap_or(root),
            // A directory has an entry of its own, and anything else has its name.
            Layout::Single if self.is_single_file() => {
                root.rsplit(|&byte| byte == b'/').next().unwrap_or_default()
            }
            Layout::Single => b"",
        };
        RelPath::new(path).unwrap_or_default()
    }

    /// Whether what stands at `path` of the index may have had more extended attributes than are here.
    pub(super) fn lacks_attributes(&self, path: &RelPath) -> bool {
        listed_above(&self.unread_attributes, path).is_some()
    }

    /// What could not be read and is `path`, or above it.
    pub(super) fn unreadable_above(&self, path: &RelPath) -> Option<&RelPath> {
        listed_above(&self.unreadable, path)
    }
}

/// The one of `unreadable`, as a record lists them, that is `path`, or above it.
pub(super) fn listed_above<'a>(unreadable: &'a [RelPath], path: &RelPath) -> Option<&'a RelPath> {
    // What lies below a path follows it before anything else does.
    let after = unreadable.partition_point(|unread| unread <= path);
    unreadable[..after].last().filter(|unread| path.is_within(unread))
}

/// Makes of paths that could not be read, in any order, what a record lists.
pub(super) fn list_unreadable(mut paths: Vec<RelPath>) -> Vec<RelPath> {
    loop {
        paths.sort_unstable();
        // What lies below a path follows it at once.
        paths.dedup_by(|path, above| path.is_within(above));
        if paths.len() <= MAX_UNREADABLE {
            return paths;
        }
        let deepest = paths.iter().map(depth).max().unwrap_or(0);
        for path in paths.iter_mut().filter(|path| depth(path) == deepest) {
            *path = path.parent().unwrap_or_default();
        }
    }
}

fn depth(path: &RelPath) -> usize {
    path.as_bytes().split(|&byte| byte == b'/').count()
}

/// How paths in an index relate to the roots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// One root, and paths are relative to it.
    Single,
    /// Paths are absolute, without the first slash.
    Absolute,
}

/// What a backup saw and stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// Regular files in the snapshot.
    pub files: u64,
    /// Directories in the snapshot.
    pub directories: u64,
    /// Everything else in the snapshot.
    pub others: u64,
    /// Bytes of all regular files, holes included.
    pub bytes: u64,
    /// Files that were not in the parent at their path. With those that changed and those that did not, they are
    /// all files of the snapshot.
    pub files_new: u64,
    /// Files whose content or metadata is another than in the parent; not those that were only read again.
    pub files_changed: u64,
    /// Files that are as they were in the parent, whether they were read again or not.
    pub files_unmodified: u64,
    /// Files that were opened and read.
    pub files_read: u64,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// New segments stored whole.
    pub segments_whole: u64,
    /// New segments stored as deltas.
    pub segments_delta: u64,
    /// Pages that were written; all others are the parent's.
    pub pages_new: u64,
    /// Bytes of volumes that were written.
    pub bytes_volumes: u64,
    /// Bytes of all that was stored, volumes and what describes them and the snapshot, but for its record.
    #[serde(default)]
    pub bytes_stored: u64,
    /// Things that could not be read, or changed while they were.
    pub errors: u64,
}

impl Statistics {
    /// Counts the files that `changes` from the parent name, and those that they do not.
    pub(super) fn count_changes(&mut self, changes: &[ChangeRef<'_>]) {
        let count = |is_counted: fn(&ChangeRef<'_>) -> bool| {
            let files = changes.iter().filter(|change| change.entry().and_then(Entry::content).is_some());
            files.filter(|change| is_counted(change)).count() as u64
        };
        self.files_new = count(|change| matches!(change, Change::Created(_) | Change::Renamed { .. }));
        self.files_changed = count(|change| matches!(change, Change::Updated(_) | Change::Metadata(_)));
        self.files_unmodified = self.files.saturating_sub(self.files_new + self.files_changed);
    }
}

/// Where one page lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRef {
    /// Number of the blob in [`PageList::blobs`].
    pub blob: u32,
    /// Where in the blob it begins, in bytes.
    pub offset: u64,
    /// How many bytes it takes there.
    pub len: u32,
    /// How many entries it has.
    pub entries: u32,
}

/// The pages of an index, in path order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageList {
    /// Paths of the blobs that hold the pages.
    pub blobs: Vec<String>,
    /// Four numbers a page: blob (signed difference to the page before), offset (signed difference to the end
    /// of the page before), length, entries.
    places: ByteBuf,
}

impl PageList {
    /// Lists `pages`, which lie in `blobs`.
    pub fn new(blobs: Vec<String>, pages: &[PageRef]) -> Self {
        let mut places = Vec::new();
        let (mut blob, mut end) = (0, 0);
        for page in pages {
            put_signed(&mut places, i64::from(page.blob) - blob);
            put_signed(&mut places, (page.offset as i64).wrapping_sub(end));
            put(&mut places, page.len.into());
            put(&mut places, page.entries.into());
            (blob, end) = (page.blob.into(), (page.offset + u64::from(page.len)) as i64);
        }
        Self { blobs, places: places.into() }
    }

    /// The pages. Each lies in a blob of the list, has entries, and shares no byte with another: so reading all of them
    /// takes no more than the blobs have.
    pub fn pages(&self) -> Result<Vec<PageRef>, PageListError> {
        let mut reader = Reader::new(&self.places);
        let mut pages = Vec::new();
        let (mut blob, mut end) = (0i64, 0i64);
        while reader.remaining() > 0 {
            blob = blob.checked_add(reader.signed()?).ok_or(VarintError)?;
            let offset = end.checked_add(reader.signed()?).ok_or(VarintError)?;
            let (len, entries) = (reader.narrow()?, reader.narrow()?);
            let number = u32::try_from(blob).map_err(|_| VarintError)?;
            if number as usize >= self.blobs.len() {
                return Err(PageListError::NoBlob);
            }
            if !(1..=MAX_ENTRIES as u32).contains(&entries) {
                return Err(PageListError::Entries(entries));
            }
            let offset = u64::try_from(offset).map_err(|_| VarintError)?;
            end =
                offset.checked_add(u64::from(len)).and_then(|end| end.try_into().ok()).ok_or(VarintError)?;
            pages.push(PageRef { blob: number, offset, len, entries });
        }
        expect_apart(&pages)?;
        match self.blobs.iter().all_unique() {
            true => Ok(pages),
            false => Err(PageListError::Twice),
        }
    }
}

/// Why a list names no pages of one index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PageListError {
    /// The numbers are damaged.
    #[error(transparent)]
    Column(#[from] VarintError),
    /// A page lies in a blob that is not listed.
    #[error("a page lies in a blob that is not listed")]
    NoBlob,
    /// A page of no entries, or of too many.
    #[error("a page of {0} entries")]
    Entries(u32),
    /// The same bytes are listed twice.
    #[error("the same page is listed twice")]
    Twice,
}

/// Checks that no two of `pages` share a byte.
fn expect_apart(pages: &[PageRef]) -> Result<(), PageListError> {
    let end = |page: &PageRef| page.offset + u64::from(page.len);
    let place = |page: &PageRef| (page.blob, page.offset);
    let mut order: Vec<&PageRef> = pages.iter().collect();
    order.sort_unstable_by_key(|page| place(page));
    let is_twice = |pair: &[&PageRef]| pair[0].blob == pair[1].blob && end(pair[0]) > pair[1].offset;
    match order.windows(2).any(is_twice) {
        true => Err(PageListError::Twice),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pages_are_listed_and_read(
            pages in prop::collection::vec((0u32..3, 0u64..1 << 40, any::<u32>(), 1..=MAX_ENTRIES as u32), 0..20),
        ) {
            let page = |(blob, offset, len, entries)| PageRef { blob, offset, len, entries };
            let pages: Vec<_> = pages.into_iter().map(page).collect();
            let list = PageList::new(vec!["a".into(), "b".into(), "c".into()], &pages);
            let is_apart = |(at, one): (usize, &PageRef)| pages[..at].iter().all(|other| {
                let after = |a: &PageRef, b: &PageRef| a.offset + u64::from(a.len) <= b.offset;
                one.blob != other.blob || after(one, other) || after(other, one)
            });
            let expected = match pages.iter().enumerate().all(is_apart) {
                true => Ok(pages.clone()),
                false => Err(PageListError::Twice),
            };
            prop_assert_eq!(list.pages(), expected);
        }

        #[test]
        fn what_could_not_be_read_is_listed_once_and_stays_within_what_is_listed(
            paths in prop::collection::vec("[ab-]{1,2}(/[ab-]{1,2}){0,3}", 0..30),
        ) {
            let paths: Vec<_> = paths.iter().map(|path| RelPath::new(path.as_bytes()).unwrap()).collect();
            let listed = list_unreadable(paths.clone());
            for path in &paths {
                prop_assert_eq!(listed.iter().filter(|above| path.is_within(above)).count(), 1);
            }
            prop_assert!(listed.iter().all(|listed| paths.contains(listed)) && listed.is_sorted());
        }

        #[test]
        fn any_bytes_are_read_or_refused(places: Vec<u8>) {
            let _ = PageList { blobs: vec!["a".into()], places: places.into() }.pages();
        }
    }

    #[test]
    fn a_blob_that_is_listed_twice_gives_no_page_twice() {
        let page = |blob| PageRef { blob, offset: 0, len: 10, entries: 1 };
        let list = |other: &str| PageList::new(vec!["a".into(), other.into()], &[page(0), page(1)]);
        assert_eq!(list("b").pages().map(|pages| pages.len()), Ok(2));
        assert_eq!(list("a").pages(), Err(PageListError::Twice));
    }

    #[test]
    fn of_too_many_paths_the_directories_are_listed() {
        let path = |number: usize| RelPath::new(format!("d/{}/{number}", number % 7).into_bytes()).unwrap();
        let listed = list_unreadable((0..=MAX_UNREADABLE).map(path).collect());
        let shown: Vec<_> = listed.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["d/0", "d/1", "d/2", "d/3", "d/4", "d/5", "d/6"]);
    }
}
