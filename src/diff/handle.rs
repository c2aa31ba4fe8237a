//! A name in an open directory, and how names are opened: no link on the way leads elsewhere, and nothing that
//! stands there holds us up.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{CWD, FileType, Mode, OFlags};

use crate::diff::stat::Stat;

/// How a file is opened to be read: not blocking, so that a FIFO put there since the scan cannot hold us up.
pub const FILE_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOCTTY);

pub(super) const PATH_FLAGS: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Where something stands: its name in an open directory.
pub struct NameAt<'a> {
    directory: BorrowedFd<'a>,
    /// Empty for the directory itself.
    name: &'a [u8],
    located: &'a Path,
}

impl<'a> NameAt<'a> {
    /// What `name` stands for in `directory`, which for people is at `located`; the directory itself where it is empty.
    pub fn new(directory: BorrowedFd<'a>, name: &'a [u8], located: &'a Path) -> Self {
        Self { directory, name, located }
    }

    /// What a path leads to, links above it followed.
    pub fn of(path: &'a Path) -> Self {
        Self { directory: CWD, name: path.as_os_str().as_bytes(), located: path }
    }

    /// The path by which a person knows it.
    pub fn located(&self) -> &'a Path {
        self.located
    }

    /// What the link that stands there leads to.
    pub fn read_link(&self) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(self.directory, self.name, Vec::new())?.into_bytes())
    }

    /// The directory that stands there, if `stat` says that it is one and it may be listed.
    pub fn open_directory(&self, stat: &Stat) -> Option<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = if self.name.is_empty() { b"." } else { self.name };
        let is_dir = stat.file_type() == FileType::Directory;
        is_dir.then(|| rustix::fs::openat(self.directory, name, flags, Mode::empty()).ok())?
    }

    /// A path that the system takes in one call and that follows no link but those of `/proc`.
    pub fn path(&self) -> Cow<'a, Path> {
        if self.directory.as_raw_fd() == CWD.as_raw_fd() {
            return Cow::Borrowed(self.located);
        }
        match has_proc() {
            true => Cow::Owned(proc_path(self.directory).join(OsStr::from_bytes(self.name))),
            false => Cow::Borrowed(self.located),
        }
    }
}

/// Whether there is a `/proc`.
pub(super) fn has_proc() -> bool {
    static HAS_PROC: OnceLock<bool> = OnceLock::new();
    *HAS_PROC.get_or_init(|| Path::new("/proc/self/fd").is_dir())
}

/// What is open, by way of `/proc`.
pub(super) fn proc_path(opened: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", opened.as_fd().as_raw_fd()))
}
