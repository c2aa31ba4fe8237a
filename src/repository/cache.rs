//! What a host remembers of an encrypted repository that it cannot read.
//!
//! To stay incremental, a backup reads what earlier ones wrote to describe themselves: snapshot records,
//! pages, volume indexes and signatures; never the volumes. A host without the key keeps those that it wrote,
//! decrypted, in a directory that nobody else may enter, each under the id of its blob. So an entry is found
//! exactly as long as the tree holds its blob, and one that is stale is never asked for. Each begins with a
//! checksum; one that does not match is taken for missing, and removed.
//!
//! It is only a cache: whatever cannot be read or written is as good as not there, and costs space in the
//! repository, not snapshots. One thing is more than that: the cache also remembers whom the repository was
//! encrypted for, so that nobody who can change the configuration makes this host encrypt for him, or not at
//! all.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use crate::atomic;
use crate::crypt::Recipient;
use crate::layers::ObjectId;
use crate::pipeline::lock;

/// The file that says whom the repository is encrypted for.
const RECIPIENT: &str = "recipient";

/// Bytes of the checksum that an entry begins with.
const CHECKSUM: usize = 32;

/// The cache of one repository.
pub(super) struct Cache {
    dir: PathBuf,
    /// Entries whose checksum was found to match.
    checked: Mutex<HashSet<ObjectId>>,
    /// Why the last entry that was not written was not.
    failure: Mutex<Option<CacheError>>,
}

/// The cache could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to {}", dir.display())]
pub struct CacheError {
    dir: PathBuf,
    source: io::Error,
}

impl Cache {
    /// The cache in `dir` of the repository that is encrypted for `recipient`; made when something is stored.
    pub fn new(dir: PathBuf, recipient: &Recipient) -> Self {
        let cache = Self { dir, checked: Mutex::default(), failure: Mutex::default() };
        if pinned(&cache.dir).is_none() {
            cache.note(cache.write(RECIPIENT, &[recipient.to_string().as_bytes(), b"\n"]));
        }
        cache
    }

    pub fn has(&self, id: &ObjectId) -> bool {
        self.path(id).exists()
    }

    /// An entry, checked.
    pub fn read(&self, id: &ObjectId) -> Option<Vec<u8>> {
        let mut bytes = fs::read(self.path(id)).ok()?;
        let is_whole =
            bytes.split_at_checked(CHECKSUM).is_some_and(|(sum, content)| sum == checksum(id, content));
        if !is_whole {
            // It may be gone already.
            let _ = fs::remove_file(self.path(id));
            return None;
        }
        lock(&self.checked).insert(*id);
        bytes.drain(..CHECKSUM);
        Some(bytes)
    }

    /// At most `len` bytes of an entry from `offset` on, fewer where it ends. The first time all of it is
    /// read and checked.
    pub fn read_range(&self, id: &ObjectId, offset: u64, len: u64) -> Option<Vec<u8>> {
        if !lock(&self.checked).contains(id) {
            self.read(id)?;
        }
        let file = File::open(self.path(id)).ok()?;
        let from = offset.checked_add(CHECKSUM as u64)?;
        let left = file.metadata().ok()?.len().saturating_sub(from);
        let mut bytes = vec![0; usize::try_from(len.min(left)).ok()?];
        file.read_exact_at(&mut bytes, from).ok()?;
        Some(bytes)
    }

    /// Keeps an entry. It is not synced: one that a crash cut short does not match its checksum.
    pub fn store(&self, id: &ObjectId, content: &[u8]) {
        self.note(self.write(&id.to_string(), &[&checksum(id, content), content]));
    }

    /// Removes all entries but those and what is younger than `before`, which another backup may be about to
    /// commit.
    pub fn sweep(&self, keep: &HashSet<ObjectId>, before: SystemTime) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.parse::<ObjectId>().ok());
            let is_old =
                || entry.metadata().and_then(|about| about.modified()).is_ok_and(|time| time < before);
            if id.is_some_and(|id| !keep.contains(&id)) && is_old() {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Removes what processes left that were killed while they wrote an entry.
    pub fn sweep_unfinished(&self) {
        // What cannot be removed is removed next time.
        let _ = atomic::sweep(&self.dir);
    }

    /// Why something was not kept, if so.
    pub fn failure(&self) -> Option<CacheError> {
        lock(&self.failure).take()
    }

    fn write(&self, name: &str, parts: &[&[u8]]) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        if fs::metadata(&self.dir)?.permissions().mode() & 0o077 != 0 {
            fs::set_permissions(&self.dir, Permissions::from_mode(0o700))?;
        }
        let mut file = atomic::temporary(&self.dir, 0o600)?;
        parts.iter().try_for_each(|part| file.write_all(part))?;
        file.persist(self.dir.join(name)).map(drop).map_err(|error| error.error)
    }

    fn note(&self, written: io::Result<()>) {
        if let Err(source) = written {
            *lock(&self.failure) = Some(CacheError { dir: self.dir.clone(), source });
        }
    }

    fn path(&self, id: &ObjectId) -> PathBuf {
        self.dir.join(id.to_string())
    }
}

/// Whom the repository whose cache is in `dir` was encrypted for when that was made.
pub(super) fn pinned(dir: &Path) -> Option<String> {
    let text = fs::read_to_string(dir.join(RECIPIENT)).ok()?;
    Some(text.trim_end().to_owned()).filter(|text| !text.is_empty())
}

fn checksum(id: &ObjectId, content: &[u8]) -> [u8; CHECKSUM] {
    *blake3::Hasher::new().update(id.as_bytes()).update(content).finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::causes::chain;
    use crate::crypt::Identity;

    fn id(number: u8) -> ObjectId {
        ObjectId::from_bytes([number; 20])
    }

    fn cache(dir: &Path) -> Cache {
        Cache::new(dir.join("cache"), &Identity::generate().recipient())
    }

    #[test]
    fn what_was_stored_is_read_and_only_its_owner_may() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        cache.store(&id(1), b"content");
        assert_eq!(cache.read(&id(1)).unwrap(), b"content");
        for (offset, len, range) in
            [(0, 3, "con"), (3, 100, "tent"), (7, 1, ""), (100, 1, ""), (0, u64::MAX, "content")]
        {
            assert_eq!(cache.read_range(&id(1), offset, len).unwrap(), range.as_bytes());
        }
        assert_eq!(cache.read_range(&id(1), u64::MAX, 1), None);
        assert_eq!(cache.read(&id(2)), None);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&cache.dir), mode(&cache.path(&id(1)))), (0o700, 0o600));
        let later = SystemTime::now() + Duration::from_secs(60);
        cache.sweep(&HashSet::new(), SystemTime::UNIX_EPOCH);
        cache.sweep(&HashSet::from([id(1)]), later);
        assert!(cache.has(&id(1)));
        cache.sweep(&HashSet::from([id(2)]), later);
        assert!(!cache.has(&id(1)));
        assert!(pinned(&cache.dir).unwrap().starts_with("age1"));
        assert!(cache.failure().is_none());
    }

    #[test]
    fn what_was_damaged_or_is_anothers_counts_as_missing() {
        let dir = tempfile::tempdir().unwrap();
        for damage in [b"".as_slice(), b"short", &[7; 100]] {
            let cache = cache(dir.path());
            cache.store(&id(1), b"content");
            fs::write(cache.path(&id(1)), damage).unwrap();
            assert_eq!(cache.read_range(&id(1), 0, 1), None);
            assert!(!cache.has(&id(1)));
        }
        let cache = cache(dir.path());
        cache.store(&id(1), b"content");
        fs::rename(cache.path(&id(1)), cache.path(&id(2))).unwrap();
        assert_eq!(cache.read(&id(2)), None);
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_empty_and_says_why() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cache"), "in the way").unwrap();
        let cache = cache(dir.path());
        cache.store(&id(1), b"content");
        assert_eq!(cache.read(&id(1)), None);
        let failure = chain(&cache.failure().unwrap());
        assert!(failure.starts_with(&format!("cannot write to {}: ", cache.dir.display())), "{failure}");
    }
}
