//! Who on this host may read and write a repository.
//!
//! A repository is made for its owner alone: nobody else gets into its directory, whatever the files in it would let
//! him do. One that is shared is for its group too, as `git init --shared=group` makes it: `core.sharedRepository` says
//! so, to git as well, its directories hand their group on, and whoever writes lets the group write. That is for a
//! program to do, since the umask belongs to the process: see [`Git::is_shared`](super::Git::is_shared).
//!
//! What root makes in the repository of somebody else is that one's when the program ends: see [`give_to_owners`].

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Uid};
use walkdir::WalkDir;

/// The setting of git, and its value for groups.
const SETTING: (&str, &str) = ("core.sharedRepository", "group");

/// Who may read and write a new repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    /// Whoever makes it.
    #[default]
    Owner,
    /// The group of its directory too.
    Group,
}

impl Access {
    /// The mode of the directory of a repository.
    pub(crate) fn mode(self) -> u32 {
        match self {
            Self::Owner => 0o700,
            Self::Group => 0o2770,
        }
    }

    /// The setting that a new repository has.
    pub(crate) fn settings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Owner => &[],
            Self::Group => &[SETTING],
        }
    }

    /// Gives what was made below `path` to whom it is for.
    pub(crate) fn grant(self, path: &Path) -> io::Result<()> {
        if self == Self::Owner {
            return Ok(());
        }
        for entry in WalkDir::new(path) {
            let entry = entry?;
            let mode = entry.metadata()?.permissions().mode() & 0o7777;
            let granted = match entry.file_type().is_dir() {
                true => self.mode(),
                // What the owner may, the group may.
                false => mode | (mode & 0o600) >> 3,
            };
            fs::set_permissions(entry.path(), Permissions::from_mode(granted))?;
        }
        Ok(())
    }
}

/// Whether this configuration of git says that a repository is for its group too.
pub(super) fn is_shared(config: &git2::Config) -> bool {
    // As git has it: words, the numbers that older versions wrote, and modes.
    config.get_string(SETTING.0).is_ok_and(|value| match value.to_ascii_lowercase().as_str() {
        "group" | "true" | "1" | "all" | "world" | "everybody" | "2" => true,
        mode => u32::from_str_radix(mode, 8).is_ok_and(|mode| mode > 7 && mode & 0o060 == 0o060),
    })
}

/// Repositories of other users that root has opened, and since when, in seconds.
static OTHERS: Mutex<BTreeMap<PathBuf, i64>> = Mutex::new(BTreeMap::new());

/// Clocks of file systems are as coarse as that.
const COARSE: Duration = Duration::from_secs(2);

/// Directories of a repository are nested no deeper.
const MAX_DEPTH: u32 = 256;

/// Notes that the repository at `path` was opened, if it is another user's and this is root.
pub(super) fn note_owner(path: &Path) {
    let is_others = || fs::metadata(path).is_ok_and(|found| found.uid() != 0);
    if rustix::process::geteuid().is_root() && is_others() {
        let since =
            (SystemTime::now() - COARSE).duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut others = OTHERS.lock().unwrap_or_else(PoisonError::into_inner);
        others.entry(path.to_owned()).or_insert(since.try_into().unwrap_or(i64::MAX));
    }
}

/// Gives what root, with all programs that it started, has made in repositories of other users to their owners, who
/// could not write over it, and with a umask as 077 not even read it. Without root there is nothing to give.
///
/// The owner can move anything into the repository at any time, and make names of it there: only what was written since
/// the repository was opened, and has one name, is given, and no link is followed.
pub fn give_to_owners() {
    let others = std::mem::take(&mut *OTHERS.lock().unwrap_or_else(PoisonError::into_inner));
    for (path, since) in others {
        let give = || -> io::Result<()> {
            let root = rustix::fs::openat(CWD, &path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            let found = rustix::fs::fstat(&root)?;
            let owner = Owner {
                user: Uid::from_raw(found.st_uid),
                group: Gid::from_raw(found.st_gid),
                device: found.st_dev as u64,
                since,
            };
            owner.give(root.as_fd(), 0)
        };
        if let Err(error) = give() {
            tracing::debug!(%error, path = %path.display(), "what was made there is not given to its owner");
        }
    }
}

/// To whom something is given.
struct Owner {
    user: Uid,
    group: Gid,
    device: u64,
    since: i64,
}

impl Owner {
    /// Gives what is in a directory, and below.
    fn give(&self, directory: BorrowedFd<'_>, depth: u32) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Ok(());
        }
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if let Err(error) = self.give_entry(directory, name, depth) {
                tracing::debug!(%error, ?name, "it is not given to its owner");
            }
        }
        Ok(())
    }

    /// The same of what is called `name` there.
    fn give_entry(&self, directory: BorrowedFd<'_>, name: &CStr, depth: u32) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // What is gone meanwhile needs no owner.
        let Ok(file) = rustix::fs::openat(directory, name, flags, Mode::empty()) else { return Ok(()) };
        let found = rustix::fs::fstat(&file)?;
        let is_directory = match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => true,
            FileType::RegularFile if found.st_nlink == 1 => false,
            _ => return Ok(()),
        };
        if found.st_dev as u64 != self.device {
            return Ok(());
        }
        let mut given = Ok(());
        if found.st_uid == 0 && found.st_mtime as i64 >= self.since {
            // A directory for a group has given its own already.
            let is_own = found.st_gid == rustix::process::getegid().as_raw();
            let group = is_own.then_some(self.group);
            given = rustix::fs::chownat(&file, c"", Some(self.user), group, AtFlags::EMPTY_PATH);
        }
        if is_directory {
            let below = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            if let Ok(below) = rustix::fs::openat(&file, c".", below, Mode::empty()) {
                self.give(below.as_fd(), depth + 1)?;
            }
        }
        Ok(given?)
    }
}

/// Whether everybody on this host gets to the files of the repository at `path`: into it, and into all directories
/// above it.
///
/// Whether this process may change that is [`may_change_access`].
pub fn is_open_to_all(path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else { return false };
    path.ancestors().all(|path| fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o001 != 0))
}

/// Whether this process may say who gets into the directory at `path`: its owner's may, and root's.
pub fn may_change_access(path: &Path) -> bool {
    let user = rustix::process::geteuid();
    user.is_root() || fs::metadata(path).is_ok_and(|found| found.uid() == user.as_raw())
}
