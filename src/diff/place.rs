//! Putting things below a directory without ever following a symbolic link.
//!
//! Every directory is opened component by component, refusing links, and what is done is done relative to
//! that descriptor. Things are made under a temporary name beside their place and renamed. The first time a
//! directory is changed, its mode and times are noted, and it is made writable if it was not;
//! [`Target::settle`] brings them back.
//!
//! Linux only: it needs `O_PATH` descriptors and `/proc`.

use std::collections::HashMap;
use std::collections::btree_map::{BTreeMap, Entry as MapEntry};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};

use crate::atomic::TEMP_PREFIX;
use crate::diff::entry::{Entry, FileTime, Kind, Metadata};
use crate::diff::index::Owners;
use crate::diff::scan::Stat;
use crate::relpath::RelPath;

/// How many directories are kept open.
const OPEN_DIRECTORIES: usize = 128;

/// A directory below which things are placed.
pub(super) struct Target {
    root: Arc<OwnedFd>,
    open: Mutex<HashMap<RelPath, Arc<OwnedFd>>>,
    touched: Mutex<BTreeMap<RelPath, Stat>>,
    names: AtomicU64,
    ids: Option<Ids>,
}

/// Which local numbers the owners have.
struct Ids {
    users: HashMap<u32, u32>,
    groups: HashMap<u32, u32>,
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

    /// Where it is now.
    pub(super) fn path(&self) -> Option<RelPath> {
        self.directory.join(self.name.as_bytes()).ok()
    }

    /// Leaves it under its temporary name.
    pub(super) fn keep(mut self) {
        self.placed = true;
    }
}

const PATH_FLAGS: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Target {
    /// Opens `root`, making it where it is missing. Owners are set where this runs as root: by name where the
    /// name is known here, else by number.
    pub(super) fn open(root: &Path, owners: &Owners) -> io::Result<Self> {
        std::fs::create_dir_all(root)?;
        let opened =
            rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self {
            root: Arc::new(opened),
            open: Mutex::default(),
            touched: Mutex::default(),
            names: AtomicU64::new(0),
            ids: rustix::process::geteuid().is_root().then(|| Ids::new(owners)),
        })
    }

    /// The directory at `path`, reached without following any link.
    pub(super) fn directory(&self, path: &RelPath) -> io::Result<Arc<OwnedFd>> {
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

    /// The directory that holds `path`, about to be changed.
    pub(super) fn touch_parent(&self, path: &RelPath) -> io::Result<Arc<OwnedFd>> {
        let parent = path.parent().unwrap_or_default();
        let directory = self.directory(&parent)?;
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        if let MapEntry::Vacant(vacant) = touched.entry(parent) {
            let stat = Stat::from(rustix::fs::fstat(&directory)?);
            if stat.mode & 0o300 != 0o300 && self.ids.is_none() {
                chmod(&directory, stat.mode | 0o700)?;
            }
            vacant.insert(stat);
        }
        Ok(directory)
    }

    /// What stands at `path`; `None` where nothing does.
    pub(super) fn look(&self, path: &RelPath) -> io::Result<Option<Stat>> {
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
    pub(super) fn open_file(&self, path: &RelPath) -> io::Result<File> {
        let directory = self.directory(&path.parent().unwrap_or_default())?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        Ok(rustix::fs::openat(directory, path.name(), flags, Mode::empty())?.into())
    }

    /// Makes the directory at `path`, and those above it, as far as they are missing.
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
        missing.iter().rev().try_for_each(|path| self.make_directory(path))
    }

    /// Makes the directory at `path`, open to us alone until [`set_metadata`](Self::set_metadata); one that
    /// is there is kept.
    pub(super) fn make_directory(&self, path: &RelPath) -> io::Result<()> {
        if self.look(path)?.is_some() {
            return Ok(());
        }
        let parent = self.touch_parent(path)?;
        Ok(rustix::fs::mkdirat(parent, path.name(), Mode::RWXU)?)
    }

    /// A new temporary file beside `path`.
    pub(super) fn temporary_file(&self, path: &RelPath) -> io::Result<(File, Temp<'_>)> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (file, temp) = self.temporary(path, |directory, name| {
            rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)
        })?;
        Ok((file.into(), temp))
    }

    /// Makes the thing that `entry` is, which is no file and no directory, under a temporary name beside its
    /// path.
    pub(super) fn temporary_special(&self, entry: &Entry) -> io::Result<Temp<'_>> {
        let node = |file_type, device| {
            move |directory: &OwnedFd, name: &str| {
                rustix::fs::mknodat(directory, name, file_type, Mode::RUSR | Mode::WUSR, device)
            }
        };
        let path = &entry.path;
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
            rustix::fs::renameat_with(
                directory,
                path.name(),
                directory,
                name,
                rustix::fs::RenameFlags::NOREPLACE,
            )
        };
        Ok(self.temporary(path, aside)?.1)
    }

    fn temporary<T>(
        &self,
        path: &RelPath,
        make: impl Fn(&OwnedFd, &str) -> rustix::io::Result<T>,
    ) -> io::Result<(T, Temp<'_>)> {
        let directory = self.touch_parent(path)?;
        loop {
            let number = self.names.fetch_add(1, Relaxed);
            let name = format!("{TEMP_PREFIX}{}-{number}", std::process::id());
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
        let parent = self.touch_parent(path)?;
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
        match rustix::fs::unlinkat(parent, path.name(), flags) {
            Err(error) if error != rustix::io::Errno::NOENT => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Gives what stands at `path` the metadata of `entry`: all that can be set, whatever else fails.
    pub(super) fn set_metadata(&self, entry: &Entry) -> io::Result<()> {
        if entry.path.is_root() {
            return self.set_metadata_of(&self.root, &self.root, b".", entry);
        }
        let directory = self.directory(&entry.path.parent().unwrap_or_default())?;
        let opened = rustix::fs::openat(&directory, entry.path.name(), PATH_FLAGS, Mode::empty())?;
        self.set_metadata_of(&opened, &directory, entry.path.name(), entry)
    }

    /// As [`set_metadata`](Self::set_metadata), of something that still has its temporary name.
    pub(super) fn set_metadata_of_temp(&self, temp: &Temp<'_>, entry: &Entry) -> io::Result<()> {
        let directory = self.directory(&temp.directory)?;
        let opened = rustix::fs::openat(&directory, &temp.name, PATH_FLAGS, Mode::empty())?;
        self.set_metadata_of(&opened, &directory, temp.name.as_bytes(), entry)
    }

    fn set_metadata_of(
        &self,
        opened: &OwnedFd,
        directory: &OwnedFd,
        name: &[u8],
        entry: &Entry,
    ) -> io::Result<()> {
        let meta = &entry.meta;
        let is_link = matches!(entry.kind, Kind::Symlink(_));
        let owned = self.set_owner(opened, meta);
        let path = proc_path(directory).join(OsStr::from_bytes(name));
        let attributed = self.set_xattrs(opened, &path, is_link, meta);
        // After the attributes, since a read-only file takes none. Only the owner that was meant may get
        // set-user-id.
        let mode = if owned.is_ok() { meta.mode } else { meta.mode & 0o1777 };
        let permitted = if is_link { Ok(()) } else { chmod(opened, mode) };
        let timed = set_times(directory, name, meta.mtime);
        owned.and(attributed).and(permitted).and(timed)
    }

    fn set_owner(&self, opened: &OwnedFd, meta: &Metadata) -> io::Result<()> {
        let Some(ids) = &self.ids else { return Ok(()) };
        let (user, group) = ids.local(meta)?;
        Ok(rustix::fs::chownat(opened, "", Some(user), Some(group), AtFlags::EMPTY_PATH)?)
    }

    /// Sets extended attributes, and removes those that are not wanted. What only root may set is left to root.
    fn set_xattrs(&self, opened: &OwnedFd, path: &Path, is_link: bool, meta: &Metadata) -> io::Result<()> {
        let may = |name: &OsStr| self.ids.is_some() || !is_privileged(name.as_bytes());
        let wanted = meta.xattrs.iter().flat_map(|xattrs| xattrs.iter());
        let wanted: BTreeMap<&OsStr, &[u8]> = wanted
            .map(|(name, value)| (OsStr::from_bytes(name), value.as_slice()))
            .filter(|(name, _)| may(name))
            .collect();
        let unwanted: Vec<_> = match xattr::list(path) {
            Ok(names) => names.filter(|name| may(name) && !wanted.contains_key(&**name)).collect(),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Vec::new(),
            Err(error) => return Err(error),
        };
        let is_set = |name: &OsStr, value: &[u8]| {
            xattr::get(path, name).is_ok_and(|found| found.is_some_and(|found| found == value))
        };
        let missing: Vec<_> = wanted.into_iter().filter(|(name, value)| !is_set(name, value)).collect();
        if !is_link && self.ids.is_none() && !(unwanted.is_empty() && missing.is_empty()) {
            chmod(opened, rustix::fs::fstat(opened)?.st_mode as u32 | 0o600)?;
        }
        let mut result = Ok(());
        for name in unwanted {
            result = result.and(xattr::remove(path, name));
        }
        for (name, value) in missing {
            result = result.and(xattr::set(path, name, value));
        }
        result
    }

    /// Gives the directories that were changed the mode and time they had; those of `entries` have got theirs
    /// already.
    pub(super) fn settle(&self, is_set: impl Fn(&RelPath) -> bool) -> Vec<(RelPath, io::Error)> {
        let touched = std::mem::take(&mut *self.touched.lock().unwrap_or_else(PoisonError::into_inner));
        let settle = |path: &RelPath, stat: &Stat| {
            let directory = self.directory(path)?;
            if stat.mode & 0o300 != 0o300 && self.ids.is_none() {
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

/// Makes of `entries` what can be set here, so that they compare with what is there: for root with the
/// numbers that `owners` have here; for others without owners, and without the attributes that only root may
/// set.
pub fn settable(entries: &mut [Entry], owners: &Owners) {
    if rustix::process::geteuid().is_root() {
        let ids = Ids::new(owners);
        for Entry { meta, .. } in entries {
            (meta.uid, meta.gid) = ids.numbers(meta);
        }
        return;
    }
    for Entry { meta, .. } in entries {
        (meta.uid, meta.gid) = (0, 0);
        if let Some(xattrs) = &mut meta.xattrs {
            xattrs.retain(|(name, _)| !is_privileged(name));
        }
        meta.xattrs.take_if(|xattrs| xattrs.is_empty());
    }
}

/// Whether only root may set an extended attribute of that name.
fn is_privileged(name: &[u8]) -> bool {
    [&b"security."[..], b"trusted."].iter().any(|space| name.starts_with(space))
}

/// By way of `/proc`, since `fchmod` does not take an `O_PATH` descriptor.
fn chmod(opened: &OwnedFd, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::chmod(proc_path(opened), Mode::from_raw_mode(mode & 0o7777))?)
}

fn proc_path(opened: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()))
}

fn set_times(directory: impl AsFd, name: &[u8], mtime: FileTime) -> io::Result<()> {
    let time = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(directory, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

impl Ids {
    fn new(owners: &Owners) -> Self {
        let users =
            owners.users.iter().filter_map(|(uid, name)| Some((*uid, uzers::get_user_by_name(name)?.uid())));
        let groups = owners
            .groups
            .iter()
            .filter_map(|(gid, name)| Some((*gid, uzers::get_group_by_name(name)?.gid())));
        Self { users: users.collect(), groups: groups.collect() }
    }

    fn numbers(&self, meta: &Metadata) -> (u32, u32) {
        let uid = self.users.get(&meta.uid).copied().unwrap_or(meta.uid);
        let gid = self.groups.get(&meta.gid).copied().unwrap_or(meta.gid);
        (uid, gid)
    }

    fn local(&self, meta: &Metadata) -> io::Result<(Uid, Gid)> {
        let (uid, gid) = self.numbers(meta);
        // To the system this number means "leave it as it is".
        if uid == u32::MAX || gid == u32::MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok((Uid::from_raw(uid), Gid::from_raw(gid)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: Kind) -> Entry {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let meta = Metadata { mode: 0o600, uid, gid, ..Metadata::default() };
        Entry { path: RelPath::new(path.as_bytes()).unwrap(), kind, meta }
    }

    #[test]
    fn what_cannot_be_set_is_not_compared() {
        let mut entries = [entry("file", Kind::Fifo)];
        entries[0].meta.uid = 54_321;
        let attribute = |name: &str| (name.as_bytes().to_vec(), b"value".to_vec());
        entries[0].meta.xattrs = Some(Box::new(vec![attribute("security.x"), attribute("trusted.y")]));
        let owners = Owners { users: [(54_321, "root".into())].into(), ..Owners::default() };
        settable(&mut entries, &owners);
        assert_eq!(entries[0].meta.uid, 0);
        assert_eq!(entries[0].meta.xattrs.is_some(), rustix::process::geteuid().is_root());
    }

    #[test]
    fn metadata_that_cannot_be_set_does_not_keep_the_rest_from_it() {
        let dir = tempfile::tempdir().unwrap();
        let target = Target::open(dir.path(), &Owners::default()).unwrap();
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
    fn no_number_means_to_keep_the_owner() {
        let ids = Ids::new(&Owners::default());
        assert!(ids.local(&Metadata { uid: u32::MAX, ..Metadata::default() }).is_err());
        assert!(ids.local(&Metadata::default()).is_ok());
    }

    #[test]
    fn deep_paths_need_no_stack() {
        let dir = tempfile::tempdir().unwrap();
        let target = Target::open(dir.path(), &Owners::default()).unwrap();
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
