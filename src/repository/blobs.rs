//! The one place that reads and writes the blobs of a repository.
//!
//! What others ask for and hand over is the plain content of a blob: a record, a page, a volume. How it lies
//! in the git repository is known here alone: as it is, or, under a name that ends with [`ENCRYPTED`], as an
//! age file. A range of a blob is read without the rest of it.
//!
//! In an encrypted repository without its key anybody can write, and nobody can read; but a host that backs
//! up has a cache of what it wrote itself to describe its backups (see [`Cache`]).

use std::time::SystemTime;

use crate::crypt::{self, CryptError, Identity, Recipient};
use crate::format::{ENCRYPTED, INDEX_SUFFIX, kind};
use crate::layers::{ObjectId, ObjectKind, object_id};
use crate::repository::cache::Cache;
use crate::repository::{Repository, RepositoryError};
use crate::timeline::{Batch, Tier, TimeKey, TimedBlob, path};

/// What is read of an encrypted blob to learn how long its header is.
const HEAD: u64 = 1024;

/// What an encrypted repository is read and written with.
pub(super) struct Vault {
    /// Whom every blob is encrypted for.
    pub recipient: Recipient,
    /// What decrypts them, where it is known.
    pub identity: Option<Identity>,
    pub cache: Option<Cache>,
}

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

    fn is_encrypted(&self) -> bool {
        self.path.ends_with(ENCRYPTED)
    }

    fn damaged<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        &self,
    ) -> impl FnOnce(E) -> RepositoryError {
        let damaged = RepositoryError::damaged(&self.path);
        |error| damaged(error.into())
    }
}

/// Content as it will lie in the repository.
pub(super) struct Encoded {
    bytes: Vec<u8>,
    tier: Tier,
    /// What was encrypted, where it is to be remembered.
    content: Option<Vec<u8>>,
}

impl Encoded {
    /// The id that the blob will have as a git object.
    pub fn id(&self) -> ObjectId {
        object_id(ObjectKind::Blob, &self.bytes)
    }
}

/// The kinds whose blobs a backup reads, beside the volumes themselves.
pub(super) const CACHED: [&str; 4] = [kind::SNAPSHOTS, kind::INDEX, kind::ARCHIVES, kind::SIGNATURES];

/// Whether a later backup may want to read a blob of metadata of that kind.
fn is_cached(kind: &str, tier: Tier) -> bool {
    tier == Tier::Metadata && CACHED.contains(&kind)
}

impl Repository {
    /// The blob at `path` of the tree, which something names.
    pub(super) fn blob(&self, path: &str) -> Result<Blob, RepositoryError> {
        self.find_blob(path)?.ok_or_else(|| RepositoryError::nothing_at(path))
    }

    /// The blob at `path` of the tree, if there is one.
    pub(super) fn find_blob(&self, path: &str) -> Result<Option<Blob>, RepositoryError> {
        Ok(self.timeline.find(path)?.map(|id| Blob { path: path.to_owned(), id }))
    }

    /// The content of a blob that may have no more than `limit` bytes, and what encryption adds.
    pub(super) fn read_blob_within(&self, blob: &Blob, limit: u64) -> Result<Vec<u8>, RepositoryError> {
        let len = self.stored_len(blob)?;
        // Sixteen bytes for each chunk, and a header.
        let most =
            limit + if blob.is_encrypted() { limit / 1024 + crypt::MAX_HEADER as u64 + 1024 } else { 0 };
        match len > most {
            true => Err(blob.damaged()(format!("it has {len} bytes, more than such a blob may have"))),
            false => self.read_blob(blob),
        }
    }

    /// The content of a blob.
    pub(super) fn read_blob(&self, blob: &Blob) -> Result<Vec<u8>, RepositoryError> {
        if !blob.is_encrypted() {
            return self.timeline.read(&blob.id).map_err(blob.damaged());
        }
        let vault = self.vault(blob)?;
        if let Some(content) = vault.cache.as_ref().and_then(|cache| cache.read(&blob.id)) {
            return Ok(content);
        }
        let identity = vault.identity.as_ref().ok_or(RepositoryError::Encrypted)?;
        let file = self.timeline.read(&blob.id).map_err(blob.damaged())?;
        let content = crypt::decrypt(identity, &file).map_err(blob.damaged())?;
        self.remember(blob, vault, &content);
        Ok(content)
    }

    /// At most `len` bytes of the content of a blob from `offset` on, fewer where it ends.
    pub(super) fn read_blob_range(
        &self,
        blob: &Blob,
        offset: u64,
        len: u64,
    ) -> Result<Vec<u8>, RepositoryError> {
        if !blob.is_encrypted() {
            return self.timeline.read_range(&blob.id, offset, len).map_err(blob.damaged());
        }
        let vault = self.vault(blob)?;
        if let Some(cache) = vault.cache.as_ref().filter(|_| tier_of(&blob.path) == Tier::Metadata) {
            if let Some(range) = cache.read_range(&blob.id, offset, len) {
                return Ok(range);
            }
            // Read whole, so that the next range is in the cache.
            let content = self.read_blob(blob)?;
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
            let to = from.saturating_add(usize::try_from(len).unwrap_or(usize::MAX)).min(content.len());
            return Ok(content[from..to].to_vec());
        }
        let identity = vault.identity.as_ref().ok_or(RepositoryError::Encrypted)?;
        let file_len = self.stored_len(blob)?;
        let fetch =
            |offset, len| self.timeline.read_range(&blob.id, offset, len).map_err(std::io::Error::other);
        crypt::decrypt_range(identity, file_len, offset, len, fetch).map_err(blob.damaged())
    }

    /// How long the content of a blob is, without reading all of it, and without a key.
    pub(super) fn blob_len(&self, blob: &Blob) -> Result<u64, RepositoryError> {
        let len = self.stored_len(blob)?;
        if !blob.is_encrypted() {
            return Ok(len);
        }
        for head in [HEAD, crypt::MAX_HEADER as u64] {
            let head = self.timeline.read_range(&blob.id, 0, head).map_err(blob.damaged())?;
            if let Some(header) = crypt::header_len(&head).map_err(blob.damaged())? {
                return crypt::content_len(len, header).map_err(blob.damaged());
            }
        }
        Err(blob.damaged()(CryptError::Damaged("its header does not end")))
    }

    /// How long a blob is as stored: the length of its content, or longer by what encryption adds.
    pub(super) fn stored_len(&self, blob: &Blob) -> Result<u64, RepositoryError> {
        self.timeline.git().blob_size(&blob.id).map_err(blob.damaged())
    }

    /// Makes of content what will be a blob. Any thread may do that, before one of them writes it.
    pub(super) fn encode(&self, content: Vec<u8>, tier: Tier) -> Result<Encoded, RepositoryError> {
        let Some(vault) = &self.vault else { return Ok(Encoded { bytes: content, tier, content: None }) };
        let is_remembered = vault.cache.is_some() && tier == Tier::Metadata;
        let remembered = is_remembered.then(|| content.clone());
        let mut bytes = content;
        crypt::encrypt_in_place(&vault.recipient, &mut bytes)?;
        Ok(Encoded { bytes, tier, content: remembered })
    }

    /// What the names of new blobs end with, where those of plain ones end with `suffix`.
    pub(super) fn suffix(&self, suffix: &str) -> String {
        format!("{suffix}{}", if self.vault.is_some() { ENCRYPTED } else { "" })
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
        let suffix = self.suffix(suffix);
        // Before it is committed: what was noted and never came to be is no harm.
        self.note_own(&path(kind, key, &suffix), || content.id());
        let path = batch.put(kind, key, &suffix, &content.bytes, content.tier)?;
        if let (Some(cache), Some(plain)) = (self.cache(), &content.content)
            && is_cached(kind, content.tier)
        {
            cache.store(&content.id(), plain);
        }
        Ok(path)
    }

    /// Brings into the cache, if there is one and a key, what a backup without the key will want to read.
    pub(super) fn fill_cache(&self) -> Result<(), RepositoryError> {
        let Some(Vault { identity: Some(_), cache: Some(cache), .. }) = &self.vault else { return Ok(()) };
        for blob in self.cached_blobs()? {
            if !cache.has(&blob.id) {
                // What is damaged is for `check` to tell.
                match self.read_blob(&blob) {
                    Err(RepositoryError::Damaged { .. } | RepositoryError::OutOfReach { .. }) | Ok(_) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Drops from the cache, if there is one, what the tree does not hold any more and was kept before a time.
    pub(super) fn sweep_cache(&self, before: SystemTime) -> Result<(), RepositoryError> {
        if let Some(cache) = self.cache() {
            cache.sweep(&self.cached_blobs()?.into_iter().map(|blob| blob.id).collect(), before);
        }
        Ok(())
    }

    fn cached_blobs(&self) -> Result<Vec<Blob>, RepositoryError> {
        let mut blobs = Vec::new();
        for kind in CACHED {
            for found in self.blobs_of(kind)? {
                let blob = Blob::listed(kind, &found);
                blobs.extend((blob.is_encrypted() && tier_of(&blob.path) == Tier::Metadata).then_some(blob));
            }
        }
        Ok(blobs)
    }

    fn vault(&self, blob: &Blob) -> Result<&Vault, RepositoryError> {
        let plain = || blob.damaged()("it is encrypted, and the repository is not");
        self.vault.as_ref().ok_or_else(plain)
    }

    pub(super) fn cache(&self) -> Option<&Cache> {
        self.vault.as_ref()?.cache.as_ref()
    }

    fn remember(&self, blob: &Blob, vault: &Vault, content: &[u8]) {
        let kind = blob.path.split('/').next().unwrap_or_default();
        if let Some(cache) = vault.cache.as_ref().filter(|_| is_cached(kind, tier_of(&blob.path))) {
            cache.store(&blob.id, content);
        }
    }
}

/// The tier of what lies at `path`.
fn tier_of(path: &str) -> Tier {
    let is_volume =
        path.starts_with(kind::ARCHIVES) && !path.trim_end_matches(ENCRYPTED).ends_with(INDEX_SUFFIX);
    if is_volume { Tier::Data } else { Tier::Metadata }
}
