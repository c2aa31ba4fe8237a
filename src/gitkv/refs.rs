//! References: moved by compare-and-set, and removed, durably and under [git's locks](super::lockfile).

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::atomic;
use crate::layers::ObjectId;
use crate::url::Url;

use super::lockfile::Turn;
use super::paths::{PACKED, PRIVATE};
use super::{Git, GitError};

impl Git {
    /// Moves the reference of that full name from `expected` (`None`: there is no such reference yet) to
    /// `new`, durably.
    ///
    /// [`GitError::Moved`] when it is not at `expected`, and [`GitError::Unsynced`] when it has moved and may not
    /// be durable. What `new` names must be durable already.
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
        let target = self.reference_path(reference)?;
        let turn = self.turn()?;
        let directory = atomic::parent(&target);
        atomic::make_dirs(directory).map_err(GitError::io("make", directory))?;
        let lock = turn.lock(reference)?;
        if self.reference(reference)?.as_ref() != expected {
            return Err(GitError::Moved { reference: reference.to_owned() });
        }
        before()?;
        lock.commit(format!("{new}\n").as_bytes())
    }

    /// Makes durable where a reference is. To be called before it is relied on that somebody else, or an
    /// earlier attempt that failed, has moved it there.
    pub(super) fn sync_reference(&self, reference: &str) -> Result<(), GitError> {
        let path = self.reference_path(reference)?;
        let packed = self.path().join(PACKED);
        for file in [&path, &packed] {
            let synced = match fs::File::open(file) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file.and_then(|file| file.sync_all()),
            };
            let directory = atomic::parent(file);
            synced.and_then(|()| atomic::sync_dir(directory)).map_err(GitError::io("sync", file))?;
        }
        Ok(())
    }

    /// Makes durable where the branch is. Whoever finds that nothing is left to be done calls it before he says so.
    pub fn sync_branch(&self) -> Result<(), GitError> {
        self.sync_reference(self.branch())
    }

    /// Removes the reference of that full name, if there is one, durably.
    pub fn remove_reference(&self, name: &str) -> Result<(), GitError> {
        let path = self.reference_path(name)?;
        let directory = atomic::parent(&path);
        if !self.has_reference(name)? {
            // Somebody may have failed at making that durable.
            return match atomic::sync_dir(directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(GitError::io("sync", directory)(error))
                }
                _ => Ok(()),
            };
        }
        let turn = self.turn()?;
        atomic::make_dirs(directory).map_err(GitError::io("make", directory))?;
        let lock = turn.lock(name)?;
        // The packed value first: it would count again if only the other were gone.
        let packed = self.path().join(PACKED);
        if packed.exists() {
            turn.replace(PACKED, |before| Ok(without(before, name)))?;
        }
        for path in [path.clone(), self.path().join("logs").join(name)] {
            match fs::remove_file(&path) {
                Err(error)
                    if error.kind() != io::ErrorKind::NotFound
                        && error.kind() != io::ErrorKind::NotADirectory =>
                {
                    return Err(GitError::io("remove", &path)(error));
                }
                _ => {}
            }
        }
        atomic::sync_dir(directory).map_err(GitError::io("sync", directory))?;
        drop(lock);
        // An empty directory would be in the way of a reference of that name. `refs/heads` and its like stay.
        let kind = self.path().join(name.split('/').take(2).collect::<PathBuf>());
        let emptied = directory.ancestors().take_while(|above| above.starts_with(&kind) && **above != kind);
        let _ = emptied.into_iter().try_for_each(fs::remove_dir);
        Ok(())
    }

    fn has_reference(&self, name: &str) -> Result<bool, GitError> {
        match self.libgit2().find_reference(name).map(drop) {
            Ok(()) => Ok(true),
            Err(error) if error.code() == git2::ErrorCode::NotFound => Ok(false),
            Err(error) => Err(GitError::git("read a reference")(error)),
        }
    }

    /// Lets `HEAD` stand for the branch of that full name, durably.
    pub fn set_head(&self, branch: &str) -> Result<(), GitError> {
        self.reference_path(branch)?;
        self.turn()?.replace("HEAD", |_| Ok(Some(format!("ref: {branch}\n").into_bytes())))
    }

    /// Changes git's configuration of this repository, durably.
    pub(super) fn configure(
        &self,
        change: impl FnOnce(&mut git2::Config) -> Result<(), git2::Error>,
    ) -> Result<(), GitError> {
        const ACTION: &str = "set the configuration of git";
        let turn = self.turn()?;
        let private = self.private_dir()?;
        // libgit2 edits files only, and syncs none.
        let scratch = atomic::private_dir_in(&private, atomic::TEMP_PREFIX);
        let scratch = scratch.map_err(GitError::io("write to", &private))?;
        let copy = scratch.path().join("config");
        turn.replace("config", |before| {
            fs::write(&copy, before).map_err(GitError::io("write", &copy))?;
            let holds_secret = git2::Config::open(&copy)
                .and_then(|mut config| change(&mut config).and_then(|()| holds_secret(&config)))
                .map_err(GitError::git(ACTION))?;
            // Also where an earlier version, or git, left it for others to read.
            if holds_secret {
                self.hide_config()?;
            }
            let after = fs::read(&copy).map_err(GitError::io("read", &copy))?;
            Ok((after != before).then_some(after))
        })
    }

    /// Lets nobody else read git's configuration of this repository, which is about to hold a secret. Whatever replaces
    /// the file keeps its mode.
    fn hide_config(&self) -> Result<(), GitError> {
        let path = self.path().join("config");
        let hide = || {
            let mode = fs::metadata(&path)?.permissions().mode();
            fs::set_permissions(&path, Permissions::from_mode(mode & 0o600))
        };
        hide().map_err(GitError::io("hide from others", &path))
    }

    /// Waits for the turn to change references, and removes what dead processes left that had it.
    pub(super) fn turn(&self) -> Result<Turn, GitError> {
        Turn::take(self.path(), &self.private_dir()?)
    }

    /// Does `act` while it has that turn.
    pub(crate) fn in_turn<T>(&self, act: impl FnOnce() -> T) -> Result<T, GitError> {
        let _turn = self.turn()?;
        Ok(act())
    }

    /// Where the reference of that full name lies, unless it is packed.
    fn reference_path(&self, name: &str) -> Result<PathBuf, GitError> {
        match git2::Reference::is_valid_name(name) && name.starts_with("refs/") {
            true => Ok(self.path().join(name)),
            false => Err(GitError::Path { path: name.to_owned(), fault: "it is no name of a reference" }),
        }
    }

    /// The directory of what is not git's.
    pub(crate) fn private_dir(&self) -> Result<PathBuf, GitError> {
        let private = self.path().join(PRIVATE);
        if private.is_dir() {
            return Ok(private);
        }
        // Nothing was ever written here but by git.
        let origin = self.origin_of_clone()?;
        match fs::create_dir(&private) {
            Ok(()) => {
                atomic::sync_dir(self.path()).map_err(GitError::io("sync", self.path()))?;
                origin.map_or(Ok(()), |(remote, commit)| self.remember_origin(&remote, &commit))?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(GitError::io("make", &private)(error)),
        }
        Ok(private)
    }
}

/// Whether an address in a file of configuration holds a secret.
fn holds_secret(config: &git2::Config) -> Result<bool, git2::Error> {
    let mut found = false;
    config.entries(Some(r"^remote\..*\.(push)?url$"))?.for_each(|entry| {
        found |= entry.value().is_ok_and(|url| Url::from(url).holds_secret());
    })?;
    Ok(found)
}

/// The packed references `packed` without the one called `name`; `None` where it is not there.
fn without(packed: &[u8], name: &str) -> Option<Vec<u8>> {
    let mut rest = Vec::with_capacity(packed.len());
    let mut is_found = false;
    // What an annotated tag stands for is in a line behind it.
    let mut is_its_own = false;
    for line in packed.split_inclusive(|&byte| byte == b'\n') {
        is_its_own = match line {
            [b'^', ..] => is_its_own,
            _ => line.trim_ascii_end().split(|&byte| byte == b' ').nth(1) == Some(name.as_bytes()),
        };
        match is_its_own {
            true => is_found = true,
            false => rest.extend_from_slice(line),
        }
    }
    is_found.then_some(rest)
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
