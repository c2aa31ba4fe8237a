//! Blocks of packs that lie elsewhere, kept on the local disk.
//!
//! The cache is a directory of sparse files, one for each stripe of 16 MiB of a pack that was read from. A
//! stripe begins with a table of two words for each block, its length and its CRC-32, and then has the
//! blocks, each at its place. A block is written before its words are, so what a killed process leaves is at
//! worst a block that is not known; and a block that does not have its CRC-32, after a power failure or
//! damage, counts as not there.
//!
//! It is only ever a cache: nothing is synced, whatever fails is as if nothing were there, and all of it can
//! be removed at any time. Processes share it without locks, since all of them write the same bytes. What
//! exceeds the bound goes stripe by stripe, the one that was used longest ago first.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use crate::atomic;

/// The bytes of a block, the unit in which packs elsewhere are read: small, so that little is read that
/// nobody asked for.
pub(super) const BLOCK: u64 = 8 << 10;

/// Blocks of a stripe.
const STRIPE: u64 = 2048;

/// Bytes that the table has for each block.
const WORDS: u64 = 8;

/// Of a full cache, as many of so many parts stay when it is emptied.
const KEPT: (u64, u64) = (3, 4);

/// A bounded cache of blocks in a directory.
#[derive(Debug)]
pub(super) struct Blocks {
    dir: PathBuf,
    limit: u64,
    /// Bytes that may be written before somebody must look how full the directory is.
    unchecked: Mutex<u64>,
}

impl Blocks {
    /// The cache in `dir`, which is made when there is something to keep, of at most about `limit` bytes.
    pub fn new(dir: &Path, limit: u64) -> Self {
        Self { dir: dir.to_owned(), limit, unchecked: Mutex::new(0) }
    }

    /// Whether nothing is kept.
    pub fn is_off(&self) -> bool {
        self.limit == 0
    }

    /// The block `number` of a pack, if it is here and sound.
    pub fn get(&self, layer: &str, number: u64) -> Option<Vec<u8>> {
        let (path, at) = self.place(layer, number);
        let file = open(File::options().read(true), &path).ok()?;
        let mut words = [0; WORDS as usize];
        file.read_exact_at(&mut words, at * WORDS).ok()?;
        let (len, crc) =
            (u32::from_le_bytes(*words.first_chunk()?), u32::from_le_bytes(*words.last_chunk()?));
        if len == 0 || u64::from(len) > BLOCK {
            return None;
        }
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, STRIPE * WORDS + at * BLOCK).ok()?;
        if crc32fast::hash(&bytes) != crc {
            return None;
        }
        // The first block of a stripe that is read tells that the stripe is in use.
        if file.metadata().and_then(|data| data.modified()).is_ok_and(is_aging) {
            let _ = file.set_times(FileTimes::new().set_modified(SystemTime::now()));
        }
        Some(bytes)
    }

    /// Keeps a block, if that can be done.
    pub fn put(&self, layer: &str, number: u64, bytes: &[u8]) {
        if self.is_off() {
            return;
        }
        if let Err(error) = self.write(layer, number, bytes) {
            tracing::debug!(layer, number, %error, "a block cannot be kept in the cache");
        }
    }

    fn write(&self, layer: &str, number: u64, bytes: &[u8]) -> io::Result<()> {
        self.make_room(bytes.len() as u64)?;
        let (path, at) = self.place(layer, number);
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let file = match open(&mut options, &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&self.dir)?;
                open(&mut options, &path)?
            }
            file => file?,
        };
        file.write_all_at(bytes, STRIPE * WORDS + at * BLOCK)?;
        let mut words = [0; WORDS as usize];
        words[..4].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        words[4..].copy_from_slice(&crc32fast::hash(bytes).to_le_bytes());
        file.write_all_at(&words, at * WORDS)
    }

    /// The file of a block's stripe, and the block's number in it.
    fn place(&self, layer: &str, number: u64) -> (PathBuf, u64) {
        (self.dir.join(format!("{layer}-{}", number / STRIPE)), number % STRIPE)
    }

    /// Makes sure that `bytes` more fit. The directory is looked at again when an eighth of the bound was
    /// written since, so that other processes count too.
    fn make_room(&self, bytes: u64) -> io::Result<()> {
        let mut unchecked = self.unchecked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(left) = unchecked.checked_sub(bytes) {
            *unchecked = left;
            return Ok(());
        }
        let mut stripes = Vec::new();
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            entries => Some(entries?),
        };
        for entry in entries.into_iter().flatten() {
            let entry = entry?;
            match entry.metadata() {
                // What lies on the disk, not counting holes.
                Ok(data) => stripes.push((data.modified()?, data.blocks() * 512, entry.path())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let step = self.limit / 8;
        let mut used: u64 = stripes.iter().map(|(_, bytes, _)| bytes).sum();
        if used.saturating_add(step) > self.limit {
            stripes.sort();
            for (_, bytes, path) in stripes {
                if used <= self.limit / KEPT.1 * KEPT.0 {
                    break;
                }
                fs::remove_file(&path)?;
                used = used.saturating_sub(bytes);
            }
        }
        *unchecked = step.max(bytes) - bytes;
        Ok(())
    }
}

/// Opens a file.
fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    atomic::open_file(options, path)?.ok_or_else(|| io::Error::other("it is not a file"))
}

/// Whether the last use lies so far back that it is worth to be noted anew.
fn is_aging(used: SystemTime) -> bool {
    used.elapsed().is_ok_and(|age| age.as_secs() >= 60)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn block(seed: u8) -> Vec<u8> {
        vec![seed; BLOCK as usize]
    }

    #[test]
    fn blocks_are_kept_between_processes() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Blocks::new(&dir.path().join("blocks"), 1 << 20);
        assert_eq!(cache.get("pack-a", 0), None);
        cache.put("pack-a", 0, &block(1));
        cache.put("pack-a", 5000, b"the short last one");
        cache.put("pack-b", 0, &block(2));
        let again = Blocks::new(&dir.path().join("blocks"), 1 << 20);
        assert_eq!(again.get("pack-a", 0), Some(block(1)));
        assert_eq!(again.get("pack-a", 5000).as_deref(), Some(&b"the short last one"[..]));
        assert_eq!(again.get("pack-b", 0), Some(block(2)));
        assert_eq!(again.get("pack-b", 1), None);
    }

    #[test]
    fn a_pipe_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Blocks::new(dir.path(), 1 << 20);
        mknodat(CWD, dir.path().join("pack-a-0"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        cache.put("pack-a", 0, &block(1));
        assert_eq!(cache.get("pack-a", 0), None);
    }

    #[test]
    fn what_is_used_least_goes_when_it_is_full() {
        let dir = tempfile::tempdir().unwrap();
        let limit = 1 << 20;
        let cache = Blocks::new(dir.path(), limit);
        for stripe in 0..40 {
            (0..8).for_each(|number| cache.put("pack-a", stripe * STRIPE + number, &block(stripe as u8)));
            let used: u64 = fs::read_dir(dir.path())
                .unwrap()
                .map(|entry| entry.unwrap().metadata().unwrap().blocks())
                .sum();
            assert!(used * 512 <= limit + limit / 8, "{used}");
        }
        assert_eq!(cache.get("pack-a", 39 * STRIPE), Some(block(39)));
        assert_eq!(cache.get("pack-a", 0), None);
    }

    #[test]
    fn a_cache_of_nothing_keeps_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Blocks::new(dir.path(), 0);
        cache.put("pack-a", 0, &block(1));
        assert_eq!(cache.get("pack-a", 0), None);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_as_if_empty() {
        let cache = Blocks::new(Path::new("/dev/null/blocks"), 1 << 20);
        cache.put("pack-a", 0, &block(1));
        assert_eq!(cache.get("pack-a", 0), None);
    }

    proptest! {
        #[test]
        fn damage_is_as_if_nothing_were_there(
            at in any::<prop::sample::Index>(), flip in 1_u8.., cut in any::<prop::sample::Index>(),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let cache = Blocks::new(dir.path(), 1 << 20);
            cache.put("pack-a", 3, &block(7));
            let path = dir.path().join("pack-a-0");
            let sound = fs::read(&path).unwrap();
            let mut bytes = sound.clone();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            fs::write(&path, &bytes).unwrap();
            prop_assert!(cache.get("pack-a", 3).is_none_or(|bytes| bytes == block(7)));
            fs::write(&path, &sound[..cut.index(sound.len())]).unwrap();
            prop_assert!(cache.get("pack-a", 3).is_none());
        }
    }
}
