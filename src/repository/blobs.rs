//! The one place that reads and writes the blobs of a repository.
//!
//! What others ask for and hand over is the plain content of a blob: a record, a page, a volume. How it lies
//! in the git repository is known here alone. A range of a blob is read without the rest of it.

use crate::layers::{ObjectId, ObjectKind, object_id};
use crate::repository::{Repository, RepositoryError};
use crate::timeline::{Batch, Tier, TimeKey, TimedBlob};

/// A blob of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blob {
    /// Where it lies in the tree.
    pub path: String,
    /// Its id as a git object.
    pub id: ObjectId,
}

impl Blob {
    /// One of a listing of `kind`.
    pub fn listed(kind: &str, found: &TimedBlob) -> Self {
        Self { path: crate::timeline::path(kind, &found.key, &found.suffix), id: found.id }
    }
}

/// Content as it will lie in the repository.
pub(super) struct Encoded {
    bytes: Vec<u8>,
    tier: Tier,
}

impl Encoded {
    /// The id that the blob will have as a git object.
    pub fn id(&self) -> ObjectId {
        object_id(ObjectKind::Blob, &self.bytes)
    }
}

impl Repository {
    /// The blob at `path` of the tree, which something names.
    pub(super) fn blob(&self, path: &str) -> Result<Blob, RepositoryError> {
        let missing = || RepositoryError::damaged(path)("nothing is there".into());
        Ok(Blob { path: path.to_owned(), id: self.timeline.find(path)?.ok_or_else(missing)? })
    }

    /// The content of a blob.
    pub(super) fn read_blob(&self, blob: &Blob) -> Result<Vec<u8>, RepositoryError> {
        self.timeline.read(&blob.id).map_err(|error| RepositoryError::damaged(&blob.path)(error.into()))
    }

    /// At most `len` bytes of the content of a blob from `offset` on, fewer where it ends.
    pub(super) fn read_blob_range(
        &self,
        blob: &Blob,
        offset: u64,
        len: u64,
    ) -> Result<Vec<u8>, RepositoryError> {
        let read = self.timeline.read_range(&blob.id, offset, len);
        read.map_err(|error| RepositoryError::damaged(&blob.path)(error.into()))
    }

    /// How long the content of a blob is, without reading it.
    pub(super) fn blob_len(&self, blob: &Blob) -> Result<u64, RepositoryError> {
        let len = self.timeline.git().blob_size(&blob.id);
        len.map_err(|error| RepositoryError::damaged(&blob.path)(error.into()))
    }

    /// Makes of content what will be a blob. Any thread may do that, before one of them writes it.
    pub(super) fn encode(&self, content: Vec<u8>, tier: Tier) -> Result<Encoded, RepositoryError> {
        Ok(Encoded { bytes: content, tier })
    }

    /// What the names of new blobs end with, where those of plain ones end with `suffix`.
    pub(super) fn suffix(&self, suffix: &str) -> String {
        suffix.to_owned()
    }

    /// Adds a blob to a batch, and returns its path. `suffix` is what the name of a plain one ends with.
    pub(super) fn put(
        &self,
        batch: &mut Batch<'_>,
        kind: &str,
        key: &TimeKey,
        suffix: &str,
        content: &Encoded,
    ) -> Result<String, RepositoryError> {
        Ok(batch.put(kind, key, &self.suffix(suffix), &content.bytes, content.tier)?)
    }
}
