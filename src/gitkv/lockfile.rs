//! Git's lock files, and files that are replaced under them.
//!
//! The protocol is git's: whoever creates `FILE.lock` may write the new content into it and rename it over
//! `FILE`. On top of it, the processes of this program take turns by `flock` on [`TURN`], so that a `.lock` file
//! that one of them meets and that one of them made was left by a dead one. To know that it was, the `.lock` is
//! made as a hard link to a temporary file in the directory of this program: they are one file as long as the
//! process has not finished. On a file system without hard links the name of the lock is written into the file
//! of the turn before the lock is made; a lock that was announced so and that nobody has touched for some
//! seconds counts as one of a dead process.
//!
//! Whoever takes the turn removes the locks of dead processes, all of them, whatever they were for. Locks that git
//! left are removed where git ran for this program, see [`leftovers`](super::leftovers). Any other lock cannot be
//! told from one in use. It stays, and the error names it.

use std::fs::{self, File, Metadata, Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::NamedTempFile;
use walkdir::WalkDir;

use crate::atomic;

use super::{GitError, pause};

/// The file whose `flock` gives the turn to change what git's lock files guard. It is empty, or names the lock
/// file that is about to be made.
const TURN: &str = "references.lock";

/// The mode of references and of git's own files: for everybody who may enter the repository.
const MODE: u32 = 0o644;

/// How often a lock is tried, with pauses that end at a quarter of a second: about ten seconds.
pub(super) const LOCK_TRIES: u32 = 80;

/// A lock that was announced by a dead process and is older than this is its own.
const ABANDONED: Duration = Duration::from_secs(3);

/// The longest name of a lock file that is read from the file of the turn.
const MAX_NAME: u64 = 4096;

/// The turn to change references, `HEAD` and the configuration of a repository; it ends with the process or when
/// dropped.
pub(super) struct Turn {
    /// The repository.
    directory: PathBuf,
    /// What this program keeps there.
    private: PathBuf,
    file: File,
}

impl Turn {
    /// Waits for the turn, and removes the locks of dead processes.
    pub fn take(directory: &Path, private: &Path) -> Result<Self, GitError> {
        let file = wait_for(&private.join(TURN), File::try_lock)?;
        let turn = Self { directory: directory.to_owned(), private: private.to_owned(), file };
        turn.remove_dead_locks().map_err(GitError::io("clean up", private))?;
        Ok(turn)
    }

    /// Removes the locks of dead processes if there are any and nobody has the turn. Costs one listing otherwise.
    pub fn remove_dead_locks_of(directory: &Path, private: &Path) -> Result<(), GitError> {
        let is_lock = |entry: &fs::DirEntry| {
            entry.file_name().as_encoded_bytes().starts_with(atomic::TEMP_PREFIX.as_bytes())
                && entry.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.nlink() > 1)
        };
        let entries = fs::read_dir(private).map_err(GitError::io("list", private))?;
        if !entries.filter_map(Result::ok).any(|entry| is_lock(&entry)) {
            return Ok(());
        }
        let file = open_lock(&private.join(TURN))?;
        if file.try_lock().is_err() {
            return Ok(());
        }
        let turn = Self { directory: directory.to_owned(), private: private.to_owned(), file };
        turn.remove_dead_locks().map_err(GitError::io("clean up", private))
    }

    /// Locks the file `name` of the repository as git does, waiting for a while for whoever has locked it.
    pub fn lock(&self, name: &str) -> Result<LockFile<'_>, GitError> {
        let path = self.directory.join(format!("{name}.lock"));
        let temporary = atomic::temporary(&self.private, atomic::MODE);
        let temporary = temporary.map_err(GitError::io("write to", &self.private))?;
        for attempt in 1..=LOCK_TRIES {
            match self.make(&temporary, &path, name) {
                Ok(copy) => {
                    let target = self.directory.join(name);
                    return Ok(LockFile { turn: self, path, target, temporary, copy, is_held: true });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let removed = self.remove_announced().and_then(|()| self.remove_lock_of_dead_git(&path));
                    if !removed.map_err(GitError::io("clean up", &path))? {
                        pause(attempt)?;
                    }
                }
                Err(error) => return Err(GitError::io("lock", &path)(error)),
            }
        }
        Err(GitError::locked(&path))
    }

    /// Replaces the file `name` of the repository by what `change` makes of its content, under git's lock and
    /// durably. Where `change` makes `None` of it the file stays, and its name is made durable.
    pub fn replace(
        &self,
        name: &str,
        change: impl FnOnce(&[u8]) -> Result<Option<Vec<u8>>, GitError>,
    ) -> Result<(), GitError> {
        let lock = self.lock(name)?;
        let before = match fs::read(&lock.target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            before => before.map_err(GitError::io("read", &lock.target))?,
        };
        match change(&before)? {
            Some(after) => lock.commit(&after),
            // Somebody may have failed at making it durable.
            None => atomic::sync_dir(self.directory()).map_err(GitError::io("sync", self.directory())),
        }
    }

    /// Makes the lock at `path`: another name of `temporary`, or a file of its own where there are no hard links.
    fn make(&self, temporary: &NamedTempFile, path: &Path, name: &str) -> io::Result<Option<File>> {
        match fs::hard_link(temporary.path(), path) {
            Err(error) if has_no_links(&error) => {
                self.announce(name)?;
                File::create_new(path).map(Some)
            }
            linked => linked.map(|()| None),
        }
    }

    /// Notes the lock of which file is made next.
    fn announce(&self, name: &str) -> io::Result<()> {
        self.file.set_len(0)?;
        (&self.file).write_all(name.as_bytes())
    }

    /// Whoever has the turn calls this: every temporary file is then one that a dead process left, and so is a
    /// lock that is one of them.
    fn remove_dead_locks(&self) -> io::Result<()> {
        self.remove_announced()?;
        let mut left = Vec::new();
        for entry in fs::read_dir(&self.private)? {
            let entry = entry?;
            if !entry.file_name().as_encoded_bytes().starts_with(atomic::TEMP_PREFIX.as_bytes()) {
                continue;
            }
            match entry.metadata() {
                // Other things are made here too, by processes that do not need the turn.
                Ok(metadata) if metadata.is_file() && atomic::is_owned(&entry.path()) => {}
                Ok(metadata)
                    if metadata.is_dir() && atomic::is_owned(&entry.path().join(atomic::DIR_LOCK)) => {}
                Ok(metadata) => left.push((entry.path(), metadata)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        // Its other name may also be that of the file itself, by now.
        if left.iter().any(|(_, metadata)| metadata.is_file() && metadata.nlink() > 1) {
            let inodes: Vec<_> = left.iter().map(|(_, metadata)| inode(metadata)).collect();
            for path in lock_files(&self.directory)? {
                match fs::symlink_metadata(&path) {
                    Ok(metadata) if inodes.contains(&inode(&metadata)) => fs::remove_file(&path)?,
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        for (path, metadata) in &left {
            let removed = match metadata.is_dir() {
                true => fs::remove_dir_all(path),
                false => fs::remove_file(path),
            };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes the lock that a dead process announced, if nobody has touched it for long.
    fn remove_announced(&self) -> io::Result<()> {
        let mut name = String::new();
        let mut file = &self.file;
        file.rewind()?;
        file.take(MAX_NAME).read_to_string(&mut name)?;
        if name.is_empty() {
            return Ok(());
        }
        let path = self.directory.join(format!("{name}.lock"));
        let is_inside =
            Path::new(&name).components().all(|part| matches!(part, std::path::Component::Normal(_)));
        match age(&path) {
            Some(age) if age < ABANDONED => return Ok(()),
            Some(_) if is_inside => fs::remove_file(&path)?,
            _ => {}
        }
        self.file.set_len(0)
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn private(&self) -> &Path {
        &self.private
    }
}

/// Every lock file of git's in the repository at `directory`: of references, and of what lies in it itself.
pub(super) fn lock_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let own = WalkDir::new(directory).max_depth(1).into_iter();
    for entry in own.chain(WalkDir::new(directory.join("refs"))) {
        match entry {
            Ok(entry) if entry.path().extension().is_some_and(|extension| extension == "lock") => {
                found.push(entry.into_path());
            }
            Err(error) if error.io_error().is_none_or(|error| error.kind() != io::ErrorKind::NotFound) => {
                return Err(error.into());
            }
            _ => {}
        }
    }
    Ok(found)
}

/// A held `.lock` file; dropping it gives the lock back.
pub(super) struct LockFile<'a> {
    turn: &'a Turn,
    path: PathBuf,
    target: PathBuf,
    /// The other name of the same file.
    temporary: NamedTempFile,
    /// Where the file system has no hard links, the lock file is another one.
    copy: Option<File>,
    is_held: bool,
}

impl LockFile<'_> {
    /// Leaves everything as the end of a process does.
    #[cfg(test)]
    pub(super) fn die(self) {
        self.temporary.as_file().unlock().unwrap();
        std::mem::forget(self);
    }

    /// Makes `content` that of the file that is locked, durably, and gives the lock back.
    pub fn commit(mut self, content: &[u8]) -> Result<(), GitError> {
        let directory = atomic::parent(&self.target);
        let before = fs::metadata(&self.target).ok();
        let mode = before.as_ref().map_or(MODE, |metadata| metadata.permissions().mode() & 0o777);
        let write = || {
            let mut file = self.copy.as_ref().unwrap_or(self.temporary.as_file());
            // Root leaves the file to whose it was.
            if let Some(before) =
                before.filter(|before| rustix::process::geteuid().is_root() && before.uid() != 0)
            {
                fchown(file, Some(before.uid()), Some(before.gid()))?;
            }
            file.set_permissions(Permissions::from_mode(mode))?;
            file.write_all(content)?;
            file.sync_all()
        };
        write().map_err(GitError::io("write", &self.path))?;
        fs::rename(&self.path, &self.target).map_err(GitError::io("move", &self.target))?;
        self.is_held = false;
        let unsynced = |source| GitError::Unsynced { path: self.target.clone(), source };
        atomic::sync_dir(directory).map_err(unsynced)
    }
}

impl Drop for LockFile<'_> {
    fn drop(&mut self) {
        if self.is_held {
            let _ = fs::remove_file(&self.path);
        }
        if self.copy.is_some() {
            let _ = self.turn.file.set_len(0);
        }
    }
}

/// Gives the empty file `from` the new name `to`. Where the file system has no hard links, `to` is another file,
/// which nobody recognises if the process dies.
pub(super) fn link(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Err(error) if has_no_links(&error) => File::create_new(to).map(drop),
        linked => linked,
    }
}

fn has_no_links(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported)
}

/// Opens the lock file at `path` and locks it with `try_lock`, trying for a while. The lock ends with the file.
pub(super) fn wait_for(
    path: &Path,
    try_lock: impl Fn(&File) -> Result<(), TryLockError>,
) -> Result<File, GitError> {
    wait_for_opened(path, open_lock(path)?, try_lock)
}

/// The same with the open file at `path`.
pub(super) fn wait_for_opened(
    path: &Path,
    file: File,
    try_lock: impl Fn(&File) -> Result<(), TryLockError>,
) -> Result<File, GitError> {
    for attempt in 1..=LOCK_TRIES {
        match try_lock(&file) {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => pause(attempt)?,
            Err(TryLockError::Error(error)) => return Err(GitError::io("lock", path)(error)),
        }
    }
    Err(GitError::InUse { path: path.to_owned() })
}

/// Opens a file that is there to be locked.
pub(super) fn open_lock(path: &Path) -> Result<File, GitError> {
    File::options().read(true).append(true).create(true).open(path).map_err(GitError::io("open", path))
}

/// How long ago the file at `path` was last changed; `None` where there is none. A time to come counts as now.
pub(super) fn age(path: &Path) -> Option<Duration> {
    let modified = fs::symlink_metadata(path).and_then(|metadata| metadata.modified()).ok()?;
    Some(SystemTime::now().duration_since(modified).unwrap_or_default())
}

fn inode(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::testing::Fixture;
    use super::*;

    /// Takes a lock as a process does that is killed while it has it.
    fn die_holding(fixture: &Fixture, name: &str) {
        let git = fixture.open();
        let turn = git.turn().unwrap();
        turn.lock(name).unwrap().die();
        assert!(fixture.path().join(format!("{name}.lock")).exists());
    }

    fn locks(fixture: &Fixture) -> Vec<PathBuf> {
        drop(fixture.open().turn().unwrap());
        lock_files(&fixture.path()).unwrap()
    }

    #[test]
    fn every_lock_that_a_dead_process_of_this_program_left_is_removed() {
        let fixture = Fixture::new();
        let git = fixture.open();
        let head = fixture.commit(&git, &[("a", "1")]);
        git.compare_and_set("refs/treering/seen/far", None, &head).unwrap();
        for name in [
            "refs/heads/main",
            "refs/treering/seen/far",
            "config",
            "HEAD",
            "packed-refs",
            "refs/treering/seen/x",
        ] {
            die_holding(&fixture, name);
            // Whatever is done next, though it needs another lock.
            fixture.commit(&git, &[("a", name)]);
            assert_eq!(locks(&fixture), [] as [PathBuf; 0], "{name}");
            assert_eq!(fixture.files("treering"), 3, "the two lock files, and what the newest commit is");
        }
        assert_eq!(fixture.files("refs/heads"), 1, "the branch alone");
        fixture.fsck();
    }

    #[test]
    fn a_process_that_dies_after_the_rename_leaves_what_it_renamed() {
        let fixture = Fixture::new();
        let git = fixture.open();
        let head = fixture.commit(&git, &[("a", "1")]);
        let branch = fixture.path().join("refs/heads/main");
        fs::hard_link(&branch, git.private_dir().unwrap().join(".treering-tmp-dead")).unwrap();
        drop(git.turn().unwrap());
        assert_eq!((git.head().unwrap(), fixture.files("treering")), (Some(head), 3));
    }

    #[test]
    fn without_hard_links_the_lock_of_a_dead_process_goes_when_it_is_old() {
        let fixture = Fixture::new();
        let git = fixture.open();
        fixture.commit(&git, &[("a", "1")]);
        let path = fixture.path().join("refs/heads/main.lock");
        let turn = git.turn().unwrap();
        turn.announce("refs/heads/main").unwrap();
        fs::write(&path, "").unwrap();
        turn.remove_dead_locks().unwrap();
        assert!(path.exists(), "it may be that of a living git");
        let old = SystemTime::now() - 2 * ABANDONED;
        File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
        turn.remove_dead_locks().unwrap();
        assert!(!path.exists());
        assert_eq!(turn.file.metadata().unwrap().len(), 0);

        let git_made_it = File::create(&path).unwrap();
        git_made_it.set_modified(old).unwrap();
        turn.remove_dead_locks().unwrap();
        assert!(path.exists(), "nobody announced it");
    }

    #[test]
    fn a_lock_of_somebody_else_is_waited_for_and_not_removed() {
        let fixture = Fixture::new();
        let git = fixture.open();
        let path = fixture.path().join("refs/heads/main.lock");
        fs::write(&path, "").unwrap();
        thread::scope(|scope| {
            let commit = scope.spawn(|| fixture.commit(&fixture.open(), &[("a", "1")]));
            assert!(path.exists());
            while !fs::read_dir(git.private_dir().unwrap())
                .unwrap()
                .any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with(atomic::TEMP_PREFIX))
            {
                thread::yield_now();
            }
            assert_eq!(git.head().unwrap(), None);
            fs::remove_file(&path).unwrap();
            commit.join().unwrap();
        });
        assert!(git.head().unwrap().is_some());
    }

    #[test]
    fn a_lock_that_stays_is_named_with_its_age_and_the_way_out() {
        let fixture = Fixture::new();
        let path = fixture.path().join("refs/heads/main.lock");
        let left = File::create(&path).unwrap();
        left.set_modified(SystemTime::now() - Duration::from_secs(3 * 3600)).unwrap();
        let text = GitError::locked(&path).to_string();
        let path = path.to_str().unwrap();
        for part in [path, "3 hours", "remove"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn what_is_replaced_keeps_its_mode() {
        let fixture = Fixture::new();
        let git = fixture.open();
        let config = fixture.path().join("config");
        fs::set_permissions(&config, Permissions::from_mode(0o660)).unwrap();
        git.turn().unwrap().replace("config", |before| Ok(Some([before, b"# more\n"].concat()))).unwrap();
        assert!(fs::read(&config).unwrap().ends_with(b"# more\n"));
        assert_eq!(fs::metadata(&config).unwrap().permissions().mode() & 0o777, 0o660);
    }
}
