//! Moving a branch, by compare-and-swap.
//!
//! The protocol is git's: whoever creates `<reference>.lock` may write the new value into it and rename it
//! over the reference. On top of it, the processes of this program take turns by `flock` on [`TURN`], so that
//! a `.lock` file that one of them meets and that one of them made was left by a dead one. To know that it
//! was, the `.lock` is made as a hard link to a temporary file in the directory of this program: they are one
//! file as long as the process has not finished.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::atomic;
use crate::layers::ObjectId;

use super::{Git, GitError, pause};

/// Where this program keeps what is not git's, such as locks, in the repository's directory. Nothing there is
/// part of the format.
pub const PRIVATE: &str = "treering";

/// The file whose `flock` gives the turn to move a reference.
const TURN: &str = "references.lock";

/// A reference is for everybody who may enter the repository.
const MODE: u32 = 0o644;

/// How often a lock is tried, with pauses that end at a quarter of a second: about ten seconds.
pub(super) const LOCK_TRIES: u32 = 80;

impl Git {
    /// Moves the reference of that full name from `expected` (`None`: there is no such reference yet) to
    /// `new`, durably.
    ///
    /// [`GitError::Moved`] when it is not at `expected`. What `new` names must be durable already.
    pub fn compare_and_set(
        &self,
        reference: &str,
        expected: Option<&ObjectId>,
        new: &ObjectId,
    ) -> Result<(), GitError> {
        self.compare_and_set_after(reference, expected, new, || Ok(()))
    }

    /// As [`compare_and_set`](Self::compare_and_set), doing `before` when the reference is locked and found where
    /// it is expected.
    pub(super) fn compare_and_set_after(
        &self,
        reference: &str,
        expected: Option<&ObjectId>,
        new: &ObjectId,
        before: impl FnOnce() -> Result<(), GitError>,
    ) -> Result<(), GitError> {
        if !git2::Reference::is_valid_name(reference) || !reference.starts_with("refs/") {
            return Err(GitError::Path { path: reference.to_owned(), fault: "it is no name of a reference" });
        }
        let private = self.private_dir()?;
        let turn = lock(&private.join(TURN), File::try_lock)?;
        let target = self.path().join(reference);
        let directory = atomic::parent(&target).to_owned();
        make_dirs(&directory).map_err(GitError::io("make", &directory))?;

        let lock_path = self.path().join(format!("{reference}.lock"));
        remove_own_leftovers(&private, &lock_path).map_err(GitError::io("clean up", &private))?;
        let lock = RefLock::take(&private, lock_path, new)?;
        if self.reference(reference)?.as_ref() != expected {
            return Err(GitError::Moved { reference: reference.to_owned() });
        }
        before()?;
        lock.rename(&target).map_err(GitError::io("move", &target))?;
        atomic::sync_dir(&directory).map_err(GitError::io("sync", &directory))?;
        drop(turn);
        Ok(())
    }

    /// Removes the reference of that full name, if there is one.
    pub fn remove_reference(&self, name: &str) -> Result<(), GitError> {
        let _turn = lock(&self.private_dir()?.join(TURN), File::try_lock)?;
        let repository = self.libgit2();
        match repository.find_reference(name).and_then(|mut reference| reference.delete()) {
            Err(error) if error.code() != git2::ErrorCode::NotFound => {
                Err(GitError::git("remove a reference")(error))
            }
            _ => Ok(()),
        }
    }

    /// The directory of what is not git's.
    pub(super) fn private_dir(&self) -> Result<PathBuf, GitError> {
        let private = self.path().join(PRIVATE);
        match fs::create_dir(&private) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(GitError::io("make", &private)(error))
            }
            _ => Ok(private),
        }
    }
}

/// Opens the lock file at `path` and locks it with `try_lock`, trying for a while. The lock ends with the file.
pub(super) fn lock(
    path: &Path,
    try_lock: impl Fn(&File) -> Result<(), TryLockError>,
) -> Result<File, GitError> {
    lock_opened(path, open_lock(path)?, try_lock)
}

/// The same with the open file at `path`.
pub(super) fn lock_opened(
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
    Err(GitError::Locked { path: path.to_owned(), hint: "" })
}

/// Opens a file that is there to be locked.
pub(super) fn open_lock(path: &Path) -> Result<File, GitError> {
    File::options().append(true).create(true).open(path).map_err(GitError::io("open", path))
}

/// Who has the turn calls this: every temporary file is then one that a dead process left, and so is a lock
/// that is one of them.
fn remove_own_leftovers(private: &Path, lock: &Path) -> io::Result<()> {
    let inode = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let locked = fs::symlink_metadata(lock).ok().map(inode);
    for entry in fs::read_dir(private)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(atomic::TEMP_PREFIX.as_bytes()) {
            continue;
        }
        if locked.is_some() && locked == Some(inode(entry.metadata()?)) {
            fs::remove_file(lock)?;
        }
        fs::remove_file(entry.path())?;
    }
    Ok(())
}

fn make_dirs(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let above = atomic::parent(directory);
    make_dirs(above)?;
    match fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => atomic::sync_dir(above),
    }
}

/// A held `.lock` file with the new value in it; dropping it gives the lock back.
struct RefLock {
    path: PathBuf,
    /// The other name of the same file.
    _temporary: NamedTempFile,
    held: bool,
}

impl RefLock {
    fn take(private: &Path, path: PathBuf, new: &ObjectId) -> Result<Self, GitError> {
        let write = || {
            let mut file = atomic::temporary(private, atomic::MODE)?;
            file.as_file().set_permissions(Permissions::from_mode(MODE))?;
            writeln!(file, "{new}")?;
            file.as_file().sync_all()?;
            Ok(file)
        };
        let temporary = write().map_err(GitError::io("write to", private))?;
        for attempt in 1..=LOCK_TRIES {
            match link(temporary.path(), &path) {
                Ok(()) => return Ok(Self { path, _temporary: temporary, held: true }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => pause(attempt)?,
                Err(error) => return Err(GitError::io("lock", &path)(error)),
            }
        }
        Err(GitError::Locked { path, hint: "; if there is none, a killed git left the file: remove it" })
    }

    fn rename(mut self, target: &Path) -> io::Result<()> {
        fs::rename(&self.path, target)?;
        self.held = false;
        Ok(())
    }
}

impl Drop for RefLock {
    fn drop(&mut self) {
        if self.held {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Gives the file `from` the new name `to`. Where the file system has no hard links, `to` is a copy, which
/// nobody recognises if the process dies before it is renamed.
pub(super) fn link(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported) =>
        {
            let mut file = File::create_new(to)?;
            file.write_all(&fs::read(from)?)?;
            file.sync_all()
        }
        linked => linked,
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::testing::Fixture;
    use super::*;

    const MAIN: &str = "refs/heads/main";

    #[test]
    fn moves_only_from_what_is_expected() {
        let fixture = Fixture::new();
        let git = fixture.open();
        let first = fixture.commit(&git, &[("a", "1")]);
        let second = fixture.commit(&git, &[("a", "2")]);
        for wrong in [None, Some(&first)] {
            let moved = git.compare_and_set(MAIN, wrong, &first);
            assert!(matches!(moved, Err(GitError::Moved { .. })), "{wrong:?}");
        }
        git.compare_and_set(MAIN, Some(&second), &first).unwrap();
        assert_eq!(git.head().unwrap(), Some(first));
        assert_eq!(fixture.run(&["rev-parse", "main"]).trim(), first.to_string());
        git.compare_and_set("refs/remotes/far/main", None, &second).unwrap();
        assert_eq!(fixture.run(&["rev-parse", "far/main"]).trim(), second.to_string());
        assert_eq!(fixture.files("refs/heads"), 1);
    }

    #[test]
    fn moves_a_packed_reference() {
        let fixture = Fixture::new();
        let git = fixture.open();
        fixture.commit(&git, &[("a", "1")]);
        fixture.run(&["pack-refs", "--all"]);
        fixture.commit(&git, &[("a", "2")]);
        assert_eq!(fixture.run(&["rev-list", "--count", "main"]).trim(), "2");
    }

    #[test]
    fn refuses_names_that_are_no_references() {
        let fixture = Fixture::new();
        let git = fixture.open();
        let id = ObjectId::from_bytes([1; 20]);
        for name in ["", "HEAD", "refs/../config", "/refs/heads/a", "refs/heads/a.lock", "refs/heads/a b"] {
            assert!(matches!(git.compare_and_set(name, None, &id), Err(GitError::Path { .. })), "{name}");
        }
    }

    #[test]
    fn a_lock_that_a_dead_process_of_this_program_left_is_removed() {
        let fixture = Fixture::new();
        let git = fixture.open();
        let private = git.private_dir().unwrap();
        let lock = RefLock::take(
            &private,
            fixture.path().join("refs/heads/main.lock"),
            &ObjectId::from_bytes([1; 20]),
        );
        std::mem::forget(lock.unwrap());
        assert_eq!(fixture.files("refs/heads"), 1);
        fixture.commit(&git, &[("a", "1")]);
        assert_eq!(fixture.files("refs/heads"), 1, "the branch alone");
        assert_eq!(fixture.files("treering"), 2, "the two lock files");
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
    fn of_many_who_move_from_one_place_one_succeeds() {
        let fixture = Fixture::new();
        let id = |number| ObjectId::from_bytes([number; 20]);
        let won = thread::scope(|scope| {
            let tries: Vec<_> = (1..=8)
                .map(|number| {
                    let fixture = &fixture;
                    scope.spawn(move || fixture.open().compare_and_set(MAIN, None, &id(number)).is_ok())
                })
                .collect();
            tries.into_iter().map(|each| each.join().unwrap()).filter(|&won| won).count()
        });
        assert_eq!(won, 1);
    }
}
