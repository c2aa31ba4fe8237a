//! Making a repository that is there whole, or not at all.
//!
//! It is made in a directory of its own in the place where it is to be, and moved out of there when it is
//! complete and durable; `HEAD`, without which nothing is a repository, comes last. So nothing is needed beside
//! that place: it may be where a file system is mounted, in a directory that is not the user's. A process that is
//! killed leaves an unfinished repository, which is recognised and made anew by whoever makes one there.

use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use git2::RepositoryInitOptions;

use crate::atomic::{self, NewDirs};

use super::access::Access;
use super::leftovers::{self, Swept};
use super::lockfile::open_lock;
use super::parts::{UNFINISHED, is_unfinished};
use super::paths::{BRANCH, sync_below};
use super::{Git, GitError};

/// What shows that it is one.
const HEAD: &str = "HEAD";

/// What else a repository that is made here may consist of.
const PARTS: [&str; 9] =
    ["config", "objects", "refs", "treering", "description", "hooks", "info", "packed-refs", "logs"];

/// How a repository made here is set up: git syncs what it writes, never repacks by itself, looks for no
/// deltas when it sends layers, which hold compressed data and travel as they are, and keeps what it receives
/// in packs, however little it is.
const SETTINGS: [(&str, &str); 7] = [
    ("core.fsync", "all"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("pack.window", "0"),
    ("transfer.unpackLimit", "1"),
    // A person's own configuration may have set these, which count more than the one above.
    ("fetch.unpackLimit", "1"),
    ("receive.unpackLimit", "1"),
];

impl Git {
    /// Makes a bare repository at `path`, where nothing or an empty directory may be, durably. Its branch is
    /// `main`; `settings` are pairs of git configuration beside this crate's own.
    pub fn init(path: &Path, settings: &[(&str, &str)]) -> Result<Self, GitError> {
        create(path, Access::Owner, |at| Self::init_at(at, settings).map(drop))?;
        Self::open(path)
    }

    /// Makes it at `path` itself, where nothing is; a process that is killed leaves a part of it.
    pub fn init_at(path: &Path, settings: &[(&str, &str)]) -> Result<Self, GitError> {
        let mut options = RepositoryInitOptions::new();
        options.bare(true).no_reinit(true).mkpath(true).external_template(false).initial_head(BRANCH);
        let make = || {
            let mut config = git2::Repository::init_opts(path, &options)?.config()?;
            SETTINGS.iter().chain(settings).try_for_each(|(key, value)| config.set_str(key, value))
        };
        make().map_err(GitError::git("make a git repository"))?;
        sync_below(path).map_err(GitError::io("sync", path))?;
        Self::open(path)
    }
}

/// Makes a repository at `path`, where nothing or an empty directory may be: `make` makes it, durably, at the path
/// that it is given. Where that fails, everything is as it was.
///
/// It is for whom `access` says. A directory that is there already stays as open as it is, or gets more so.
pub fn create<T, E: From<GitError>>(
    path: &Path,
    access: Access,
    make: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<T, E> {
    expect_free(path)?;
    let new = NewDirs::make_with(path, access.mode()).map_err(GitError::io("make", path))?;
    let unfinished = path.join(UNFINISHED);
    atomic::make_dirs(&unfinished).map_err(GitError::io("make", &unfinished))?;
    let _lock = lock(&unfinished)?.ok_or_else(|| GitError::InUse { path: unfinished.clone() })?;
    let made = clear(path, &unfinished)
        .map_err(GitError::io("clean up", path))
        .map_err(E::from)
        .and_then(|()| make(&unfinished.join("repository")))
        .and_then(|made| {
            access.grant(&unfinished.join("repository")).map_err(GitError::io("share", path))?;
            if access == Access::Group {
                let permissions = Permissions::from_mode(access.mode());
                fs::set_permissions(path, permissions).map_err(GitError::io("share", path))?;
            }
            publish(path, &unfinished).map_err(GitError::io("make", path))?;
            Ok(made)
        });
    if made.is_err() && !path.join(HEAD).exists() {
        // What cannot be removed is recognised later.
        let _ = clear(path, &unfinished);
        let _ = fs::remove_dir_all(&unfinished);
    } else {
        new.keep();
    }
    made
}

/// That nothing is at `path` that is not to be replaced.
fn expect_free(path: &Path) -> Result<(), GitError> {
    // Also one whose maker was killed just when it was complete.
    let occupied = || match Git::open_with_work_tree(path) {
        Ok(_) => GitError::Present(path.to_owned()),
        Err(_) => GitError::Occupied(path.to_owned()),
    };
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Err(occupied()),
        entries => entries.map_err(GitError::io("look at", path))?,
    };
    let is_unfinished = is_unfinished(path);
    for entry in entries {
        let name = entry.map_err(GitError::io("look at", path))?.file_name();
        let is_part = name == UNFINISHED || PARTS.iter().any(|part| name == *part);
        if !is_unfinished || !is_part {
            return Err(occupied());
        }
    }
    Ok(())
}

/// Locks the directory in which a repository is made; `None` when another process makes one there.
fn lock(unfinished: &Path) -> Result<Option<File>, GitError> {
    let path = unfinished.join(atomic::DIR_LOCK);
    let lock = open_lock(&path)?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(GitError::io("lock", &path)(error)),
    }
}

/// Removes what an earlier attempt made.
fn clear(path: &Path, unfinished: &Path) -> io::Result<()> {
    let parts = PARTS.iter().map(|part| path.join(part));
    parts.chain([unfinished.join("repository")]).try_for_each(|part| remove(&part))
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        _ => fs::remove_file(path),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Moves what was made to its place.
fn publish(path: &Path, unfinished: &Path) -> io::Result<()> {
    let made = unfinished.join("repository");
    let mut names: Vec<PathBuf> =
        fs::read_dir(&made)?.map(|entry| Ok(entry?.file_name().into())).collect::<io::Result<_>>()?;
    names.retain(|name| name != Path::new(HEAD));
    for name in names {
        fs::rename(made.join(&name), path.join(&name))?;
    }
    atomic::sync_dir(path)?;
    fs::rename(made.join(HEAD), path.join(HEAD))?;
    atomic::sync_dir(path)?;
    // Nothing is wrong if that stays; the next sweep removes it.
    let _ = fs::remove_dir_all(unfinished);
    atomic::sync_dir(path)
}

/// Removes what is left of making the repository at `path`, if a dead process left it.
pub(super) fn sweep(path: &Path) -> Result<Swept, GitError> {
    let unfinished = path.join(UNFINISHED);
    let mut swept = Swept::default();
    if unfinished.is_dir() && path.join(HEAD).exists() && lock(&unfinished)?.is_some() {
        let removed = leftovers::remove(&unfinished, &mut swept);
        removed.map_err(GitError::io("remove", &unfinished))?;
    }
    Ok(swept)
}

#[cfg(test)]
mod tests {
    use super::super::testing::Fixture;
    use super::*;

    #[test]
    fn a_new_repository_is_one_that_git_knows() {
        let fixture = Fixture::new();
        let git = fixture.open();
        assert_eq!(git.head().unwrap(), None);
        assert_eq!(git.branch(), "refs/heads/main");
        for (key, value) in SETTINGS.iter().chain(&[("treering.test", "yes"), ("core.bare", "true")]) {
            assert_eq!(fixture.run(&["config", key]).trim(), *value, "{key}");
        }
        fixture.fsck();
    }

    #[test]
    fn a_repository_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/repo");
        let failed: Result<(), GitError> = create(&path, Access::Owner, |at| {
            Git::init_at(at, &[])?;
            assert!(matches!(Git::open(&path), Err(GitError::Unfinished(_))));
            let second = create(&path, Access::Owner, |_| Ok::<_, GitError>(()));
            assert!(matches!(second, Err(GitError::InUse { .. })));
            Err(GitError::NoProgram)
        });
        assert!(matches!(failed, Err(GitError::NoProgram)));
        assert!(!dir.path().join("a").exists(), "nor does what was made for it");
        fs::create_dir_all(&path).unwrap();
        let failed: Result<(), GitError> = create(&path, Access::Owner, |_| Err(GitError::NoProgram));
        assert!(failed.is_err());
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0, "what was there stays");
        create(&path, Access::Owner, |at| Git::init_at(at, &[]).map(drop)).unwrap();
        Git::open(&path).unwrap();
        assert!(!path.join(UNFINISHED).exists());
    }

    #[test]
    fn what_a_killed_process_left_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("repo");
        // Killed before, while and after things are moved.
        for moved in [&[][..], &["config", "objects"], &["config", "objects", "refs"]] {
            let unfinished = path.join(UNFINISHED);
            fs::create_dir_all(&unfinished).unwrap();
            let made = unfinished.join("repository");
            Git::init_at(&made, &[]).unwrap();
            for name in moved {
                fs::rename(made.join(name), path.join(name)).unwrap();
            }
            assert!(is_unfinished(&path));
            assert!(matches!(Git::open(&path), Err(GitError::Unfinished(_))));
            fs::write(path.join("mine"), "").unwrap();
            assert!(matches!(Git::init(&path, &[]), Err(GitError::Occupied(_))));
            fs::remove_file(path.join("mine")).unwrap();
            Git::init(&path, &[]).unwrap();
            fs::remove_dir_all(&path).unwrap();
        }
        let git = Git::init(&path, &[]).unwrap();
        fs::create_dir(path.join(UNFINISHED)).unwrap();
        assert!(!is_unfinished(&path));
        git.sweep().unwrap();
        assert!(!path.join(UNFINISHED).exists());
        assert!(matches!(Git::init(&path, &[]), Err(GitError::Present(_))));
    }
}
