//! The directories that are read, held open: what stands in them is reached from there without following a symbolic
//! link.
//!
//! Guaranteed is that nothing outside a directory is listed, read or looked at by a path in it, whoever exchanges
//! the directories below for links, or renames them, meanwhile; and that a path may be longer than the system takes
//! in one call. Links above such a directory, and the directory itself if it is one, are followed when it is
//! opened, by whoever opens it. `/proc` is needed for the extended attributes of links, pipes, devices and of
//! directories that cannot be listed; without it these alone are read by a path from the root.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::diff::handle::{FILE_FLAGS, NameAt};
use crate::diff::read::DataReader;
use crate::relpath::RelPath;

/// Bytes that a path in one call of the system may have at most, with the zero at its end.
const PATH_MAX: usize = 4096;

/// How a directory is opened to reach what stands in it.
const HOLD_FLAGS: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// What becomes of a link at the end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// It is what it is, unless a slash comes behind it.
    Kept,
    /// It is followed.
    Followed,
}

/// Holds the directory at `path` open; fails where something else stands there. Links above it are followed.
pub fn hold(path: &Path, links: Links) -> io::Result<OwnedFd> {
    let follow = match links {
        Links::Kept => OFlags::NOFOLLOW,
        Links::Followed => OFlags::empty(),
    };
    Ok(rustix::fs::open(path, HOLD_FLAGS | follow, Mode::empty())?)
}

/// Opens what stands at `path` below `directory`, without following a link on the way or at its end; a path of no
/// bytes is the directory itself.
pub fn open_beneath(directory: impl AsFd, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let mut held: Option<OwnedFd> = None;
    let mut rest = path;
    while rest.len() >= PATH_MAX {
        let cut = rest[..PATH_MAX].iter().rposition(|&byte| byte == b'/');
        let cut = cut.ok_or(io::ErrorKind::InvalidFilename)?;
        let from = held.as_ref().map_or(directory.as_fd(), AsFd::as_fd);
        held = Some(open_short(from, &rest[..cut], HOLD_FLAGS)?);
        rest = &rest[cut + 1..];
    }
    let from = held.as_ref().map_or(directory.as_fd(), AsFd::as_fd);
    open_short(from, if rest.is_empty() { b"." } else { rest }, flags)
}

/// Opens a path that the system takes at once.
fn open_short(directory: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW;
    if !path.contains(&b'/') {
        return Ok(rustix::fs::openat(directory, path, flags, Mode::empty())?);
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(directory, path, flags, Mode::empty(), resolve) {
        // Kernels before 5.6 lack it, and sandboxes forbid what they do not know.
        Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN) => open_by_component(directory, path, flags),
        opened => Ok(opened?),
    }
}

fn open_by_component(directory: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let mut held: Option<OwnedFd> = None;
    let mut rest = path;
    while let Some(slash) = rest.iter().position(|&byte| byte == b'/') {
        let from = held.as_ref().map_or(directory, AsFd::as_fd);
        let flags = HOLD_FLAGS | OFlags::NOFOLLOW;
        held = Some(rustix::fs::openat(from, &rest[..slash], flags, Mode::empty())?);
        rest = &rest[slash + 1..];
    }
    let from = held.as_ref().map_or(directory, AsFd::as_fd);
    Ok(rustix::fs::openat(from, rest, flags, Mode::empty())?)
}

/// A directory below which files are read, and where in it reading begins.
///
/// Reading begins at directories that are held open: a path from there leads to the same place after somebody has
/// renamed what is above it. Links between the root and where reading begins were followed.
pub struct SourceDir {
    path: PathBuf,
    /// Where reading begins.
    held: HashMap<RelPath, Arc<OwnedFd>>,
}

impl SourceDir {
    /// The directory at `path`, or what else is all there is; a link is followed only if a slash comes behind it.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let opened = hold(&path, Links::Kept).ok();
        Self { path, held: opened.map(|opened| (RelPath::root(), opened.into())).into_iter().collect() }
    }

    /// The directory at `path`, of which only what lies below the open directories `held` is read.
    pub fn with_held(path: impl Into<PathBuf>, held: HashMap<RelPath, Arc<OwnedFd>>) -> Self {
        Self { path: path.into(), held }
    }

    /// Where the thing at `path` below it is.
    pub fn locate(&self, path: &RelPath) -> PathBuf {
        if path.is_root() { self.path.clone() } else { self.path.join(path.as_path()) }
    }

    /// The directory at `path` if reading begins there.
    pub fn held(&self, path: &RelPath) -> Option<BorrowedFd<'_>> {
        self.held.get(path).map(|opened| opened.as_fd())
    }

    /// The open directory nearest to `path`, and the path from there.
    fn reach<'a>(&'a self, path: &'a RelPath) -> io::Result<(BorrowedFd<'a>, &'a [u8])> {
        let bytes = path.as_bytes();
        let ends = (0..=bytes.len()).rev();
        let mut ends = ends.filter(|&end| end == 0 || end == bytes.len() || bytes[end] == b'/');
        let nearest = ends.find_map(|end| Some((self.held.get(&bytes[..end])?, &bytes[end..])));
        let (directory, rest) = nearest.ok_or(io::ErrorKind::NotFound)?;
        Ok((directory.as_fd(), rest.strip_prefix(b"/").unwrap_or(rest)))
    }

    /// Whether there is nothing but what the path itself leads to.
    fn is_alone(&self, path: &RelPath) -> bool {
        self.held.is_empty() && path.is_root()
    }

    /// Opens the regular file at `path` below it; fails when something else stands there.
    pub fn open(&self, path: &RelPath) -> io::Result<DataReader> {
        DataReader::new(match self.is_alone(path) {
            true => rustix::fs::open(&self.path, FILE_FLAGS, Mode::empty())?,
            false => {
                let (directory, path) = self.reach(path)?;
                open_beneath(directory, path, FILE_FLAGS)?
            }
        })
    }

    /// Calls `act` with the place of what stands at `path` below it.
    pub fn with_name<T>(&self, path: &RelPath, act: impl FnOnce(&NameAt<'_>) -> T) -> io::Result<T> {
        let located = self.locate(path);
        if self.is_alone(path) {
            return Ok(act(&NameAt::of(&located)));
        }
        let (directory, rest) = self.reach(path)?;
        let (above, name) = match rest.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&rest[..slash], &rest[slash + 1..]),
            None => return Ok(act(&NameAt::new(directory, rest, &located))),
        };
        let above = open_beneath(directory, above, HOLD_FLAGS)?;
        Ok(act(&NameAt::new(above.as_fd(), name, &located)))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn files_are_found_below_a_directory_whatever_its_name_becomes() {
        let dir = tempfile::tempdir().unwrap();
        let file = RelPath::new(b"sub/file".as_slice()).unwrap();
        std::fs::create_dir_all(dir.path().join("a/sub")).unwrap();
        std::fs::write(dir.path().join("a/sub/file"), "content").unwrap();
        let below = SourceDir::new(dir.path().join("a"));
        std::fs::rename(dir.path().join("a"), dir.path().join("b")).unwrap();
        assert_eq!(below.open(&file).unwrap().data_len(), 7);
        assert_eq!(below.locate(&file), dir.path().join("a/sub/file"));
        assert!(below.open(&RelPath::root()).is_err());
        // A root that is a file is all there is.
        let alone = SourceDir::new(dir.path().join("b/sub/file"));
        assert_eq!(alone.open(&RelPath::root()).unwrap().data_len(), 7);
        assert!(SourceDir::new(dir.path().join("none")).open(&file).is_err());
    }

    fn path(path: &str) -> RelPath {
        RelPath::new(path.as_bytes()).unwrap()
    }

    #[test]
    fn no_link_below_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("tree/real/sub")).unwrap();
        std::fs::create_dir_all(dir.path().join("secret/sub")).unwrap();
        for below in ["tree/real", "secret"] {
            std::fs::write(dir.path().join(below).join("file"), "content").unwrap();
            symlink("to", dir.path().join(below).join("sub/link")).unwrap();
        }
        symlink("../secret", dir.path().join("tree/out")).unwrap();
        symlink("real", dir.path().join("tree/in")).unwrap();
        symlink(dir.path().join("secret/file"), dir.path().join("tree/file")).unwrap();
        let source = SourceDir::new(dir.path().join("tree"));
        assert!(source.open(&path("real/file")).is_ok());
        for below in ["out/file", "in/file", "file"] {
            assert!(source.open(&path(below)).is_err(), "{below}");
        }
        assert_eq!(
            source.with_name(&path("real/sub/link"), |place| place.read_link()).unwrap().unwrap(),
            b"to"
        );
        for below in ["out/sub/link", "in/sub/link"] {
            assert!(source.with_name(&path(below), |_| ()).is_err(), "{below}");
        }
        let held = source.held(&RelPath::root()).unwrap();
        for open in [open_short, open_by_component] {
            let open = |path: &str| open(held, path.as_bytes(), OFlags::RDONLY | OFlags::NOFOLLOW);
            assert!(open("real/sub").is_ok());
            for below in ["out/sub", "in/sub", "real/file/", "real/none"] {
                assert!(open(below).is_err(), "{below}");
            }
        }
    }

    #[test]
    fn a_link_at_the_root_is_followed_only_with_a_slash() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        std::fs::write(dir.path().join("real/file"), "content").unwrap();
        symlink("real", dir.path().join("link")).unwrap();
        for (root, is_open) in [("real", true), ("link/", true), ("link", false)] {
            let source = SourceDir::new(dir.path().join(root));
            assert_eq!(source.open(&path("file")).is_ok(), is_open, "{root}");
        }
        assert!(hold(&dir.path().join("link"), Links::Followed).is_ok());
    }

    #[test]
    fn reading_begins_at_the_innermost_directory() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
        std::fs::write(dir.path().join("a/b/c/file"), "content").unwrap();
        symlink("a/b", dir.path().join("link")).unwrap();
        let held = [("link", "link"), ("a", "a")];
        let hold = |name| Arc::new(hold(&dir.path().join(name), Links::Followed).unwrap());
        let held = held.map(|(at, name)| (path(at), hold(name)));
        let source = SourceDir::with_held(dir.path(), held.into());
        assert!(source.open(&path("link/c/file")).is_ok());
        assert!(source.open(&path("a/b/c/file")).is_ok());
        let outside = source.open(&path("lin/c/file")).map(|_| ());
        assert_eq!(outside.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
