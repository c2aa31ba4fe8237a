//! Reaching what lies below a directory without ever following a symbolic link.
//!
//! Directories are opened component by component, each refused if it is a link, and a name is looked at relative
//! to the descriptor of its directory. So a path may be longer than the kernel takes in one call, and nobody who
//! renames a directory meanwhile leads us elsewhere.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use crate::diff::handle::{FILE_FLAGS, PATH_FLAGS};
use crate::diff::source::{Links, SourceDir, hold};
use crate::diff::stat::{Stat, is_mount_root};
use crate::relpath::RelPath;

/// How many directories are kept open.
const OPEN_DIRECTORIES: usize = 64;

const READ_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A directory, and the way to everything below it.
pub struct Beneath {
    root: Arc<OwnedFd>,
    open: Mutex<HashMap<RelPath, Arc<OwnedFd>>>,
}

impl Beneath {
    /// The directory at `root`; a link there is followed.
    pub fn open(root: &Path) -> io::Result<Self> {
        let root = Arc::new(hold(root, Links::Followed)?);
        Ok(Self { root, open: Mutex::default() })
    }

    /// The same directory, which people know as `path`, to read files in it.
    pub fn source(&self, path: &Path) -> SourceDir {
        SourceDir::with_held(path, [(RelPath::root(), self.root.clone())].into())
    }

    /// The directory at `path`, reached without following any link.
    pub fn directory(&self, path: &RelPath) -> io::Result<Arc<OwnedFd>> {
        let lock = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // A loop, since a hostile path has more components than a thread has stack for.
        let bytes = path.as_bytes();
        let mut opened = self.root.clone();
        let mut at = 0;
        let ends = (1..=bytes.len()).rev().filter(|&end| end == bytes.len() || bytes[end] == b'/');
        for end in ends {
            if let Some(open) = lock().get(&bytes[..end]) {
                (opened, at) = (open.clone(), end);
                break;
            }
        }
        while at < bytes.len() {
            let start = if at == 0 { 0 } else { at + 1 };
            let end =
                bytes[start..].iter().position(|&byte| byte == b'/').map_or(bytes.len(), |len| start + len);
            let flags = PATH_FLAGS | OFlags::DIRECTORY;
            opened = Arc::new(rustix::fs::openat(&opened, &bytes[start..end], flags, Mode::empty())?);
            let mut open = lock();
            if open.len() >= OPEN_DIRECTORIES {
                open.clear();
            }
            open.insert(RelPath::new(&bytes[..end]).map_err(io::Error::other)?, opened.clone());
            at = end;
        }
        Ok(opened)
    }

    /// The directory at `path`, opened for reading.
    pub fn readable(&self, path: &RelPath) -> io::Result<OwnedFd> {
        Ok(rustix::fs::openat(self.directory(path)?, ".", READ_FLAGS, Mode::empty())?)
    }

    /// Closes the directory at `path`, which is to be removed.
    pub fn forget(&self, path: &RelPath) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
    }

    /// What stands at `path`; `None` where nothing does.
    pub fn look(&self, path: &RelPath) -> io::Result<Option<Stat>> {
        let stat = |directory: Arc<OwnedFd>| {
            rustix::fs::statat(directory, path.name(), AtFlags::SYMLINK_NOFOLLOW).map_err(io::Error::from)
        };
        let found = match path.parent() {
            None => rustix::fs::fstat(&self.root).map_err(io::Error::from),
            Some(parent) => self.directory(&parent).and_then(stat),
        };
        match found {
            Ok(stat) => Ok(Some(stat.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens the regular file at `path` for reading.
    pub fn open_file(&self, path: &RelPath) -> io::Result<File> {
        let directory = self.directory(&path.parent().unwrap_or_default())?;
        Ok(rustix::fs::openat(directory, path.name(), FILE_FLAGS, Mode::empty())?.into())
    }

    /// The paths of all that stands in the directory at `path`.
    pub fn list(&self, path: &RelPath) -> io::Result<Vec<RelPath>> {
        let mut listed = Vec::new();
        for entry in Dir::new(self.readable(path)?)? {
            let entry = entry?;
            match entry.file_name().to_bytes() {
                b"." | b".." => {}
                name => listed.push(path.join(name).map_err(io::Error::other)?),
            }
        }
        Ok(listed)
    }

    /// Whether something is mounted at `path`, where `stat` was found: it is a directory of another file system than
    /// the directory above it, or it is where a mount begins, as a bind mount of the same file system does too.
    pub fn is_mount(&self, path: &RelPath, stat: &Stat) -> io::Result<bool> {
        let (above, held, name) = match path.parent() {
            Some(parent) => {
                let directory = self.directory(&parent)?;
                (directory.clone(), directory, path.name())
            }
            // Of the root only the directory is known in which it lies now, and that need not be readable.
            None => {
                let flags = PATH_FLAGS | OFlags::DIRECTORY;
                let above = rustix::fs::openat(&self.root, "..", flags, Mode::empty())?;
                (Arc::new(above), self.root.clone(), &b""[..])
            }
        };
        // Files of one overlay may have several devices.
        if stat.file_type() == FileType::Directory
            && Stat::from(rustix::fs::fstat(&above)?).device != stat.device
        {
            return Ok(true);
        }
        // Kernels before 5.8 do not tell.
        Ok(is_mount_root(&held, name).unwrap_or(false))
    }
}
