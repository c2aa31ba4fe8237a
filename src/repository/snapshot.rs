//! What a snapshot record says.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::diff::Owners;
use crate::layers::ObjectId;
use crate::timeline::TimeKey;
use crate::varint::{Reader, VarintError, put, put_signed};

/// A snapshot, as it was found in a repository.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its name among all snapshots: when it was taken.
    pub key: TimeKey,
    /// The id of its record as a git object, by which people call it.
    pub id: ObjectId,
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
    /// The version of the program that made it.
    pub program: String,
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
    /// Files that were not in the parent.
    pub files_new: u64,
    /// Files whose content or metadata is another than in the parent.
    pub files_changed: u64,
    /// Files that were not opened, because nothing about them changed.
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
    /// Things that could not be read, or changed while they were.
    pub errors: u64,
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

    /// The pages; fails where one lies in no blob of the list.
    pub fn pages(&self) -> Result<Vec<PageRef>, VarintError> {
        let mut reader = Reader::new(&self.places);
        let mut pages = Vec::new();
        let (mut blob, mut end) = (0i64, 0i64);
        while reader.remaining() > 0 {
            blob = blob.checked_add(reader.signed()?).ok_or(VarintError)?;
            let offset = end.checked_add(reader.signed()?).ok_or(VarintError)?;
            let (len, entries) = (reader.narrow()?, reader.narrow()?);
            let number = u32::try_from(blob).map_err(|_| VarintError)?;
            if number as usize >= self.blobs.len() {
                return Err(VarintError);
            }
            let offset = u64::try_from(offset).map_err(|_| VarintError)?;
            end =
                offset.checked_add(u64::from(len)).and_then(|end| end.try_into().ok()).ok_or(VarintError)?;
            pages.push(PageRef { blob: number, offset, len, entries });
        }
        Ok(pages)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pages_are_listed_and_read(pages in prop::collection::vec((0u32..3, 0u64..1 << 40, any::<u32>(), any::<u32>()), 0..20)) {
            let page = |(blob, offset, len, entries)| PageRef { blob, offset, len, entries };
            let pages: Vec<_> = pages.into_iter().map(page).collect();
            let list = PageList::new(vec!["a".into(), "b".into(), "c".into()], &pages);
            prop_assert_eq!(list.pages().unwrap(), pages);
        }

        #[test]
        fn any_bytes_are_read_or_refused(places: Vec<u8>) {
            let _ = PageList { blobs: vec!["a".into()], places: places.into() }.pages();
        }
    }
}
