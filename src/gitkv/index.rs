//! Git's index of a working tree: its lock, and entries that change.
//!
//! Whoever creates `index.lock` may write the next index into it and rename it over `index`; that is git's
//! protocol, and so a living git and this program exclude each other. Ours is a hard link to a file of this
//! program, by which one that a dead process left is known; see [`WorkTree`](super::git::WorkTree), whose
//! turn must be held for all of this. What the index is made of is libgit2's business, on a copy.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use git2::{Index, IndexEntry, IndexEntryExtendedFlag, IndexTime, Oid};
use rustix::fs::Stat;

use crate::atomic;
use crate::layers::ObjectId;

use super::lockfile::{LOCK_TRIES, link};
use super::tree::{Mode, Node};
use super::{GitError, pause, shown};

/// The other name of the lock while it is held.
const TWIN: &str = "index-lock";

/// The copy that libgit2 works on.
const DRAFT: &str = "index-draft";

/// Removes what a dead process left in its directory `private`, and its lock of the index in `git_dir`.
pub(super) fn remove_leftovers(private: &Path, git_dir: &Path) -> io::Result<()> {
    let (twin, lock) = (private.join(TWIN), git_dir.join("index.lock"));
    let inode = |path| fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()));
    if let Some(ours) = inode(&twin) {
        if inode(&lock) == Some(ours) {
            fs::remove_file(&lock)?;
        }
        fs::remove_file(&twin)?;
    }
    for name in [DRAFT.to_owned(), format!("{DRAFT}.lock")] {
        remove_file(&private.join(name))?;
    }
    Ok(())
}

/// Whether a dead process, or one that is at work, has its lock there.
pub(super) fn has_leftovers(private: &Path) -> bool {
    private.join(TWIN).exists()
}

/// Removes a file that need not be there.
pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The index, locked until it is written or this is dropped.
pub(super) struct LockedIndex {
    private: PathBuf,
    git_dir: PathBuf,
    is_held: bool,
    entries: Index,
    /// When the index was written. What changed at that time or after need not be as it says.
    written: Option<(i64, i64)>,
}

impl LockedIndex {
    /// Waits for whoever has the lock, for a while.
    pub fn take(private: &Path, git_dir: &Path) -> Result<Self, GitError> {
        let (twin, path) = (private.join(TWIN), git_dir.join("index.lock"));
        File::create_new(&twin).map_err(GitError::io("make", &twin))?;
        let mut locked = Self {
            private: private.to_owned(),
            git_dir: git_dir.to_owned(),
            is_held: false,
            entries: Index::new().map_err(GitError::git("make an index"))?,
            written: None,
        };
        for attempt in 1..=LOCK_TRIES {
            match link(&twin, &path) {
                Ok(()) => {
                    locked.is_held = true;
                    locked.read()?;
                    return Ok(locked);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => pause(attempt)?,
                Err(error) => return Err(GitError::io("lock", &path)(error)),
            }
        }
        Err(GitError::locked(&path))
    }

    fn read(&mut self) -> Result<(), GitError> {
        let (index, draft) = (self.git_dir.join("index"), self.private.join(DRAFT));
        match fs::copy(&index, &draft) {
            Ok(_) => {
                let file = fs::metadata(&index).map_err(GitError::io("look at", &index))?;
                self.written = Some((file.mtime(), file.mtime_nsec()));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(GitError::io("read", &index)(error)),
        }
        self.entries =
            Index::open(&draft).map_err(|source| GitError::Index { path: index, source: source.into() })?;
        self.doubt_recent()
    }

    /// What the index has at `path`.
    pub fn node(&self, path: &[u8]) -> Option<Node> {
        let entry = self.entry(path)?;
        let mode = match entry.mode {
            0o120_000 => Mode::Link,
            0o160_000 => Mode::Module,
            0o100_755 => Mode::Executable,
            _ => Mode::File,
        };
        Some(Node { mode, id: ObjectId::from_bytes(entry.id.as_bytes().try_into().ok()?) })
    }

    /// Whether the index has more at `path` than one agreed state: sides of a conflict, or what is only meant to
    /// be added.
    pub fn is_undecided(&self, path: &[u8]) -> bool {
        let is_meant = |entry: IndexEntry| has(&entry, IndexEntryExtendedFlag::INTENT_TO_ADD);
        (1..=3).any(|stage| self.entries.get_path(as_path(path), stage).is_some())
            || self.entry(path).is_some_and(is_meant)
    }

    /// Whether the file at `path` is left out of the working tree, by a sparse checkout.
    pub fn is_left_out(&self, path: &[u8]) -> bool {
        self.entry(path).is_some_and(|entry| has(&entry, IndexEntryExtendedFlag::SKIP_WORKTREE))
    }

    /// Paths of the index below the directory `path`.
    pub fn below(&self, path: &[u8]) -> impl Iterator<Item = Vec<u8>> {
        let prefix = [path, b"/"].concat();
        let first = self.entries.find_prefix(as_path(&prefix)).unwrap_or(self.entries.len());
        let paths = (first..self.entries.len()).map_while(|at| Some(self.entries.get(at)?.path));
        paths.take_while(move |path| path.starts_with(&prefix))
    }

    fn entry(&self, path: &[u8]) -> Option<IndexEntry> {
        self.entries.get_path(as_path(path), 0)
    }

    /// Leaves no entry at `path`.
    pub fn remove(&mut self, path: &[u8]) -> Result<(), GitError> {
        match self.entries.remove(as_path(path), 0) {
            Err(error) if error.code() != git2::ErrorCode::NotFound => {
                Err(GitError::git("change the index")(error))
            }
            _ => Ok(()),
        }
    }

    /// Makes `node` the entry at `path`, of a file that is as `stat` says. Without that it stays left out of the
    /// working tree.
    pub fn set(&mut self, path: &[u8], node: &Node, stat: Option<&Stat>) -> Result<(), GitError> {
        let flags = match stat {
            Some(_) => 0,
            None => IndexEntryExtendedFlag::SKIP_WORKTREE.bits(),
        };
        // The index has 32 bits for each of these, and those that do not fit are cut off, as git does.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let time = |seconds: i64, nanoseconds: u64| IndexTime::new(seconds as i32, nanoseconds as u32);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let entry = IndexEntry {
            ctime: stat.map_or(time(0, 0), |stat| time(stat.st_ctime, stat.st_ctime_nsec)),
            mtime: stat.map_or(time(0, 0), |stat| time(stat.st_mtime, stat.st_mtime_nsec)),
            dev: stat.map_or(0, |stat| stat.st_dev as u32),
            ino: stat.map_or(0, |stat| stat.st_ino as u32),
            mode: match node.mode {
                Mode::Link => 0o120_000,
                Mode::Module => 0o160_000,
                Mode::Executable => 0o100_755,
                Mode::File | Mode::Directory => 0o100_644,
            },
            uid: stat.map_or(0, |stat| stat.st_uid),
            gid: stat.map_or(0, |stat| stat.st_gid),
            file_size: stat.map_or(0, |stat| stat.st_size as u32),
            id: Oid::from_bytes(node.id.as_bytes()).map_err(GitError::git("name an object"))?,
            flags: 0,
            flags_extended: flags,
            path: path.to_owned(),
        };
        self.entries.add(&entry).map_err(GitError::git("change the index"))
    }

    /// Makes what was changed the index, durably, and gives the lock back.
    pub fn write(mut self) -> Result<(), GitError> {
        let (lock, draft) = (self.git_dir.join("index.lock"), self.private.join(DRAFT));
        self.entries.write().map_err(GitError::git("write the index"))?;
        let replace = || {
            let bytes = fs::read(&draft)?;
            let mut file = File::options().write(true).open(&lock)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&lock, self.git_dir.join("index"))
        };
        replace().map_err(GitError::io("write", &lock))?;
        self.is_held = false;
        atomic::sync_dir(&self.git_dir).map_err(GitError::io("sync", &self.git_dir))
    }

    /// Entries of files that changed when the index was last written, or later, may be stale without that times
    /// and sizes tell. A newer index would make them believed. As git does, their size is noted as zero, so
    /// that they are read when somebody asks.
    fn doubt_recent(&mut self) -> Result<(), GitError> {
        let Some(written) = self.written else { return Ok(()) };
        let recent: Vec<_> = self
            .entries
            .iter()
            .filter(|entry| {
                let mtime = (i64::from(entry.mtime.seconds()), i64::from(entry.mtime.nanoseconds()));
                mtime >= written && entry.file_size != 0 && (entry.flags >> 12) & 3 == 0
            })
            .collect();
        for mut entry in recent {
            entry.file_size = 0;
            self.entries.add(&entry).map_err(GitError::git("change the index"))?;
        }
        Ok(())
    }
}

impl Drop for LockedIndex {
    fn drop(&mut self) {
        if self.is_held {
            let _ = fs::remove_file(self.git_dir.join("index.lock"));
        }
        for name in [TWIN, DRAFT] {
            let _ = fs::remove_file(self.private.join(name));
        }
    }
}

fn has(entry: &IndexEntry, flag: IndexEntryExtendedFlag) -> bool {
    entry.flags_extended & flag.bits() != 0
}

/// A path of git as one of the system.
pub(super) fn as_path(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

/// The paths that lead to `path`, from the root.
pub(super) fn above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().filter(|&(_, &byte)| byte == b'/').map(|(end, _)| &path[..end])
}

/// Paths as an error lists them: the first few, and how many more.
pub(super) fn listed(paths: &[(Vec<u8>, &'static str)]) -> String {
    const SHOWN: usize = 5;
    let mut list: Vec<_> =
        paths.iter().take(SHOWN).map(|(path, fault)| format!("{:?} ({fault})", shown(path))).collect();
    if paths.len() > SHOWN {
        list.push(format!("and {} more", paths.len() - SHOWN));
    }
    list.join(", ")
}
