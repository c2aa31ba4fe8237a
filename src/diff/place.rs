//! Putting things below a directory without ever following a symbolic link.
//!
//! What is done is done relative to the descriptor of a directory that [`Beneath`] reached. Things are made under
//! a temporary name beside their place and renamed. The first time a directory is changed, its mode and times
//! are noted, and it is made writable if it was not; [`Target::settle`] brings them back. Then also goes what a
//! process that was killed has left there under temporary names; unless another one works in the same directory
//! tree, which a lock on its root tells.

use std::collections::btree_map::{BTreeMap, Entry as MapEntry};
use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags, flock};

use crate::atomic::TEMP_PREFIX;
use crate::diff::attributes::{Attributes, Subject, chmod, set_times};
use crate::diff::beneath::Beneath;
use crate::diff::entry::{Entry, Kind};
use crate::diff::owners::Owners;
use crate::diff::stat::Stat;
use crate::diff::temporary;
use crate::relpath::RelPath;

/// What the names of files begin with that were moved out of the way, and that something failed which needs them.
const KEPT_PREFIX: &str = ".treering-kept-";

/// A directory below which things are placed.
pub(super) struct Target {
    beneath: Beneath,
    touched: Mutex<BTreeMap<RelPath, Stat>>,
    attributes: Attributes,
    /// Locked while nobody else puts things below the same root.
    alone: Option<OwnedFd>,
    /// The number that the next temporary name gets.
    names: AtomicU64,
}

/// Something made under a temporary name; dropped, it is removed.
///
/// Holds no descriptor, since there may be as many of these as files.
pub(super) struct Temp<'a> {
    target: &'a Target,
    directory: RelPath,
    name: String,
    placed: bool,
}

impl Drop for Temp<'_> {
    fn drop(&mut self) {
        if !self.placed
            && let Ok(directory) = self.target.directory(&self.directory)
        {
            // Nothing can be done about a leftover, and its name says what it is.
            let _ = rustix::fs::unlinkat(directory, &self.name, AtFlags::empty());
        }
    }
}

impl Temp<'_> {
    /// Renames it to `name`, over what stands there.
    pub(super) fn place(mut self, name: &[u8]) -> io::Result<()> {
        let directory = self.target.directory(&self.directory)?;
        rustix::fs::renameat(&directory, &self.name, &directory, name)?;
        self.placed = true;
        Ok(())
    }

    /// Renames it to `name`, unless something stands there; whether that is done.
    pub(super) fn place_new(&mut self, name: &[u8]) -> io::Result<bool> {
        use rustix::io::Errno;
        let directory = self.target.directory(&self.directory)?;
        let renamed =
            rustix::fs::renameat_with(&directory, &self.name, &directory, name, RenameFlags::NOREPLACE);
        match renamed {
            Ok(()) => self.placed = true,
            // Not every file system can.
            Err(Errno::EXIST | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.placed)
    }

    /// Where it is now.
    pub(super) fn path(&self) -> Option<RelPath> {
        self.directory.join(self.name.as_bytes()).ok()
    }

    /// Gives it a name that nobody takes for a temporary one, if that can be done, and leaves it; where it is then.
    pub(super) fn keep(mut self) -> Option<RelPath> {
        let name = format!("{KEPT_PREFIX}{}", self.name.trim_start_matches(TEMP_PREFIX));
        if self.place_new(name.as_bytes()).unwrap_or(false) {
            self.name = name;
        }
        self.placed = true;
        self.path()
    }
}

impl Target {
    /// Opens `root`, making it where it is missing. Owners are set where this runs as root: by name where the
    /// name is known here, else by number.
    ///
    /// A new root is open to us alone where its own metadata `follows`.
    pub(super) fn open(root: &Path, owners: &Owners, follows: bool) -> io::Result<Self> {
        if let Some(above) = root.parent() {
            std::fs::create_dir_all(above)?;
        }
        let mode = if follows { 0o700 } else { 0o777 };
        match DirBuilder::new().mode(mode).create(root) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let beneath = Beneath::open(root)?;
        let alone = beneath.readable(&RelPath::root());
        let alone = alone.ok().filter(|root| flock(root, FlockOperation::NonBlockingLockExclusive).is_ok());
        Ok(Self {
            alone,
            beneath,
            touched: Mutex::default(),
            attributes: Attributes::new(owners),
            names: AtomicU64::new(0),
        })
    }

    pub(super) fn directory(&self, path: &RelPath) -> io::Result<Arc<OwnedFd>> {
        self.beneath.directory(path)
    }

    pub(super) fn look(&self, path: &RelPath) -> io::Result<Option<Stat>> {
        self.beneath.look(path)
    }

    /// Fails where the file system of the root is mounted to be read only.
    pub(super) fn expect_writable(&self) -> io::Result<()> {
        let mounted = rustix::fs::fstatvfs(self.directory(&RelPath::root())?)?;
        match mounted.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
            true => Err(rustix::io::Errno::ROFS.into()),
            false => Ok(()),
        }
    }

    /// How many bytes of content have room beside `path`: none where there is no room for another name.
    pub(super) fn room_beside(&self, path: &RelPath) -> io::Result<u64> {
        let directory = self.directory(&path.parent().unwrap_or_default())?;
        let room = rustix::fs::fstatvfs(&directory)?;
        // Some file systems do not count names.
        let has_names = room.f_files == 0 || room.f_favail > 0;
        Ok(if has_names { room.f_bavail.saturating_mul(room.f_frsize) } else { 0 })
    }

    pub(super) fn open_file(&self, path: &RelPath) -> io::Result<File> {
        self.beneath.open_file(path)
    }

    /// The directory that holds `path`, about to be changed, and what it was like before the first change.
    fn touch_parent(&self, path: &RelPath) -> io::Result<(Arc<OwnedFd>, Stat)> {
        let parent = path.parent().unwrap_or_default();
        let directory = self.directory(&parent)?;
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        let stat = match touched.entry(parent) {
            MapEntry::Occupied(occupied) => *occupied.get(),
            MapEntry::Vacant(vacant) => {
                let stat = Stat::from(rustix::fs::fstat(&directory)?);
                if stat.mode & 0o300 != 0o300 && !self.attributes.is_root() {
                    chmod(&directory, stat.mode | 0o700)?;
                }
                if self.alone.is_some() {
                    sweep(&directory);
                }
                *vacant.insert(stat)
            }
        };
        Ok((directory, stat))
    }

    /// Makes the directory at `path`, and those above it, as far as they are missing: nothing is known of them, so
    /// they get the mode that the umask leaves.
    pub(super) fn make_directories(&self, path: &RelPath) -> io::Result<()> {
        let mut missing = Vec::new();
        let mut above = Some(path.clone());
        while let Some(path) = above {
            if self.look(&path)?.is_some() {
                break;
            }
            above = path.parent();
            missing.push(path);
        }
        missing.iter().rev().try_for_each(|path| self.make_directory_with(path, Mode::from_raw_mode(0o777)))
    }

    /// Makes the directory at `path`, open to us alone until [`set_metadata`](Self::set_metadata); one that
    /// is there is kept.
    pub(super) fn make_directory(&self, path: &RelPath) -> io::Result<()> {
        self.make_directory_with(path, Mode::RWXU)
    }

    fn make_directory_with(&self, path: &RelPath, mode: Mode) -> io::Result<()> {
        if self.look(path)?.is_some() {
            return Ok(());
        }
        let (parent, _) = self.touch_parent(path)?;
        Ok(rustix::fs::mkdirat(parent, path.name(), mode)?)
    }

    /// A new temporary file beside the place of `entry`.
    pub(super) fn temporary_file(&self, entry: &Entry) -> io::Result<(File, Temp<'_>)> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (directory, stat) = self.touch_parent(&entry.path)?;
        let mode = self.attributes.first_mode(&entry.meta, stat.mode);
        let (file, temp) = self.temporary_in((directory, stat), &entry.path, |directory, name| {
            rustix::fs::openat(directory, name, flags, mode)
        })?;
        Ok((file.into(), temp))
    }

    /// Makes the thing that `entry` is, which is no file and no directory, under a temporary name beside its
    /// path.
    pub(super) fn temporary_special(&self, entry: &Entry) -> io::Result<Temp<'_>> {
        let path = &entry.path;
        let (_, parent) = self.touch_parent(path)?;
        let mode = self.attributes.first_mode(&entry.meta, parent.mode);
        let node = |file_type, device| {
            move |directory: &OwnedFd, name: &str| {
                rustix::fs::mknodat(directory, name, file_type, mode, device)
            }
        };
        let made = match &entry.kind {
            Kind::Symlink(to) => self.temporary(path, |directory, name| {
                rustix::fs::symlinkat(OsStr::from_bytes(to), directory, name)
            }),
            Kind::Fifo => self.temporary(path, node(FileType::Fifo, 0)),
            Kind::CharDevice(device) => self.temporary(path, node(FileType::CharacterDevice, *device)),
            Kind::BlockDevice(device) => self.temporary(path, node(FileType::BlockDevice, *device)),
            Kind::File(_) | Kind::Directory | Kind::Socket => Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(made?.1)
    }

    /// Another name of the file at `original`, under a temporary name beside `path`.
    pub(super) fn temporary_link(&self, original: &RelPath, path: &RelPath) -> io::Result<Temp<'_>> {
        let from = self.directory(&original.parent().unwrap_or_default())?;
        let link = |directory: &OwnedFd, name: &str| {
            rustix::fs::linkat(&from, original.name(), directory, name, AtFlags::empty())
        };
        Ok(self.temporary(path, link)?.1)
    }

    /// Moves what stands at `path` out of the way, to be removed when the result is dropped.
    pub(super) fn move_aside(&self, path: &RelPath) -> io::Result<Temp<'_>> {
        let aside = |directory: &OwnedFd, name: &str| {
            rustix::fs::renameat_with(directory, path.name(), directory, name, RenameFlags::NOREPLACE)
        };
        Ok(self.temporary(path, aside)?.1)
    }

    fn temporary<T>(
        &self,
        path: &RelPath,
        make: impl Fn(&OwnedFd, &str) -> rustix::io::Result<T>,
    ) -> io::Result<(T, Temp<'_>)> {
        self.temporary_in(self.touch_parent(path)?, path, make)
    }

    fn temporary_in<T>(
        &self,
        (directory, stat): (Arc<OwnedFd>, Stat),
        path: &RelPath,
        make: impl Fn(&OwnedFd, &str) -> rustix::io::Result<T>,
    ) -> io::Result<(T, Temp<'_>)> {
        loop {
            let number = self.names.fetch_add(1, Relaxed);
            let name = temporary::name(stat.inode, number);
            match make(&directory, &name) {
                Ok(made) => {
                    let directory = path.parent().unwrap_or_default();
                    return Ok((made, Temp { target: self, directory, name, placed: false }));
                }
                // Left by an earlier process of the same number.
                Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Removes what stands at `path`; a directory must be empty.
    pub(super) fn remove(&self, path: &RelPath, directory: bool) -> io::Result<()> {
        let flags = if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        let (parent, _) = self.touch_parent(path)?;
        self.beneath.forget(path);
        match rustix::fs::unlinkat(parent, path.name(), flags) {
            Err(error) if error != rustix::io::Errno::NOENT => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Gives what stands at `path` the metadata of `entry`: all that can be set, whatever else fails.
    pub(super) fn set_metadata(&self, entry: &Entry) -> io::Result<()> {
        if entry.path.is_root() {
            return self.attributes.set(&Subject::Name(&*self.directory(&entry.path)?, b"."), entry);
        }
        let directory = self.directory(&entry.path.parent().unwrap_or_default())?;
        self.attributes.set(&Subject::Name(&directory, entry.path.name()), entry)
    }

    /// As [`set_metadata`](Self::set_metadata), of something that still has its temporary name.
    pub(super) fn set_metadata_of_temp(&self, temp: &Temp<'_>, entry: &Entry) -> io::Result<()> {
        let directory = self.directory(&temp.directory)?;
        self.attributes.set(&Subject::Name(&directory, temp.name.as_bytes()), entry)
    }

    /// As [`set_metadata`](Self::set_metadata), of a file that is open for writing.
    pub(super) fn set_metadata_of_file(&self, file: &File, entry: &Entry) -> io::Result<()> {
        self.attributes.set(&Subject::File(file), entry)
    }

    /// Gives the directories that were changed the mode and time they had; those of `entries` have got theirs
    /// already.
    pub(super) fn settle(&self, is_set: impl Fn(&RelPath) -> bool) -> Vec<(RelPath, io::Error)> {
        let touched = std::mem::take(&mut *self.touched.lock().unwrap_or_else(PoisonError::into_inner));
        let settle = |path: &RelPath, stat: &Stat| {
            let directory = self.directory(path)?;
            if stat.mode & 0o300 != 0o300 && !self.attributes.is_root() {
                chmod(&directory, stat.mode & 0o7777)?;
            }
            set_times(&directory, b".", stat.mtime)
        };
        let mut failures = Vec::new();
        for (path, stat) in touched.iter().rev().filter(|(path, _)| !is_set(path)) {
            match settle(path, stat).map_err(|error| (error.kind(), error)) {
                // Removed, or replaced by something else.
                Ok(()) | Err((io::ErrorKind::NotFound | io::ErrorKind::NotADirectory, _)) => {}
                Err((_, error)) => failures.push((path.clone(), error)),
            }
        }
        failures
    }
}

/// Removes from a directory what processes that are no more have left there under temporary names. What cannot be
/// removed stays: its name says what it is.
fn sweep(directory: &OwnedFd) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(opened) = rustix::fs::openat(directory, ".", flags, Mode::empty()) else { return };
    let Ok(entries) = Dir::new(opened) else { return };
    let inode = || Some(Stat::from(rustix::fs::fstat(directory).ok()?).inode);
    for entry in entries.flatten() {
        if temporary::owner_of(entry.file_name().to_bytes(), inode).is_some_and(temporary::is_gone) {
            let _ = rustix::fs::unlinkat(directory, entry.file_name(), AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::Pid;

    use super::*;
    use crate::diff::entry::{FileTime, Metadata};
    use crate::diff::owners::Owners;

    fn entry(path: &str, kind: Kind) -> Entry {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let meta = Metadata { mode: 0o600, uid, gid, ..Metadata::default() };
        Entry { path: RelPath::new(path.as_bytes()).unwrap(), kind, meta }
    }

    #[test]
    fn metadata_that_cannot_be_set_does_not_keep_the_rest_from_it() {
        let dir = tempfile::tempdir().unwrap();
        let target = Target::open(dir.path(), &Owners::default(), false).unwrap();
        let mut wanted = entry("file", Kind::File(Default::default()));
        std::fs::write(dir.path().join("file"), "").unwrap();
        wanted.meta.mode = 0o640;
        wanted.meta.mtime = FileTime { seconds: 1_000_000, nanos: 5 };
        wanted.meta.xattrs = Some(Box::new(vec![(b"nonsense.name".to_vec(), b"value".to_vec())]));
        assert!(target.set_metadata(&wanted).is_err());
        let stat = target.look(&wanted.path).unwrap().unwrap();
        assert_eq!((stat.mode & 0o7777, stat.mtime), (0o640, wanted.meta.mtime));
    }

    #[test]
    fn what_a_killed_process_left_goes_unless_somebody_works_there() {
        let dir = tempfile::tempdir().unwrap();
        // A process that ends with its temporary file in place.
        let left_by_a_child = || {
            let target = Target::open(dir.path(), &Owners::default(), false).unwrap();
            let (_, temp) = target.temporary_file(&entry("file", Kind::File(Default::default()))).unwrap();
            let here = temp.name.clone();
            std::mem::forget(temp);
            let mut child = std::process::Command::new("true").spawn().unwrap();
            let gone = Pid::from_raw(child.id().cast_signed()).unwrap();
            child.wait().unwrap();
            let inode = std::os::unix::fs::MetadataExt::ino(&dir.path().metadata().unwrap());
            let left = dir.path().join(temporary::named(inode, gone, 3));
            std::fs::rename(dir.path().join(here), &left).unwrap();
            left
        };
        let name = |rest: String| dir.path().join(format!("{TEMP_PREFIX}{rest}"));
        let left = left_by_a_child();
        let file_name = |path: &Path| path.file_name().unwrap().to_owned();
        std::fs::create_dir(dir.path().join("elsewhere")).unwrap();
        let others = [
            name(format!("{}-3", std::process::id())),
            name("abcdef".into()),
            name("1999999-3-0123456789abcdef".into()),
            // Saved as a file, and restored to another directory.
            dir.path().join("elsewhere").join(file_name(&left)),
        ];
        others.iter().for_each(|path| std::fs::write(path, "").unwrap());
        let make = |name: &str| {
            let target = Target::open(dir.path(), &Owners::default(), false).unwrap();
            for directory in [name, &format!("elsewhere/{name}")] {
                target.make_directory(&RelPath::new(directory.as_bytes()).unwrap()).unwrap();
            }
            target
        };
        let first = make("one");
        assert!(!left.exists() && others.iter().all(|path| path.exists()));
        std::fs::write(&left, "").unwrap();
        make("two");
        assert!(left.exists(), "while another one works there");
        drop(first);
        make("three");
        assert!(!left.exists() && others.iter().all(|path| path.exists()));
    }

    #[test]
    fn a_root_that_gets_its_metadata_later_is_open_to_nobody_until_then() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |name: &str, follows| {
            let path = dir.path().join("above").join(name);
            Target::open(&path, &Owners::default(), follows).unwrap();
            Stat::from(rustix::fs::stat(&path).unwrap()).mode & 0o777
        };
        std::fs::create_dir(dir.path().join("plain")).unwrap();
        let plain = Stat::from(rustix::fs::stat(dir.path().join("plain")).unwrap()).mode & 0o777;
        assert_eq!((mode("later", true), mode("never", false), mode("later", false)), (0o700, plain, 0o700));
    }

    #[test]
    fn deep_paths_need_no_stack() {
        let dir = tempfile::tempdir().unwrap();
        let target = Target::open(dir.path(), &Owners::default(), false).unwrap();
        let deep = RelPath::new(["a"; 1000].join("/").into_bytes()).unwrap();
        let made = std::thread::Builder::new()
            .stack_size(128 << 10)
            .spawn({
                let deep = deep.clone();
                move || {
                    target.make_directories(&deep).unwrap();
                    target.look(&deep).unwrap().is_some()
                }
            })
            .unwrap();
        assert!(made.join().unwrap());
    }
}
