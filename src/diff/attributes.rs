//! Giving something the metadata of an entry: owner, extended attributes, mode and time.
//!
//! Promised is all that can be set here, whatever else fails: for root the numbers that the owners have here,
//! for others neither owner nor the attributes that only root may set. A file that is open for writing is
//! reached by its descriptor, and nothing of it is set that is so already; everything else is reached by its
//! name, following no link.
//!
//! Linux only: it needs `O_PATH` descriptors and `/proc`.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use xattr::FileExt;

use crate::diff::entry::{Entry, FileTime, Kind, Metadata};
use crate::diff::index::Owners;

/// What of the metadata of entries is set here, and how.
pub(super) struct Attributes {
    /// Whom files belong to that this process makes.
    own: (u32, u32),
    /// `None` for whoever may not give files away.
    ids: Option<Ids>,
}

/// Which local numbers the owners have.
struct Ids {
    users: HashMap<u32, u32>,
    groups: HashMap<u32, u32>,
}

/// Whose metadata is set.
pub(super) enum Subject<'a> {
    /// A regular file, open for writing.
    File(&'a File),
    /// What a name stands for in a directory.
    Name(&'a OwnedFd, &'a [u8]),
}

pub(super) const PATH_FLAGS: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

const SET_GROUP_ID: u32 = 0o2000;

impl Attributes {
    /// For entries with these owners. They are set where this runs as root: by name where the name is known
    /// here, else by number.
    pub fn new(owners: &Owners) -> Self {
        let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
        Self { own: (user.as_raw(), group.as_raw()), ids: user.is_root().then(|| Ids::new(owners)) }
    }

    /// Whether permissions do not bind this process.
    pub fn is_root(&self) -> bool {
        self.ids.is_some()
    }

    /// The mode to make a file with in a directory of `directory_mode`: the one that it is to have, if nobody
    /// else could read it before all of its metadata is set.
    pub fn first_mode(&self, meta: &Metadata, directory_mode: u32) -> Mode {
        let is_own = self.ids.as_ref().is_none_or(|ids| ids.numbers(meta) == self.own);
        let is_settled = is_own && directory_mode & SET_GROUP_ID == 0 && meta.xattrs.is_none();
        Mode::from_raw_mode(if is_settled { meta.mode & 0o777 } else { 0o600 })
    }

    /// Gives `subject` the metadata of `entry`.
    pub fn set(&self, subject: &Subject<'_>, entry: &Entry) -> io::Result<()> {
        match subject {
            Subject::File(file) => self.set_of_file(file, entry),
            Subject::Name(directory, name) => self.set_of_name(directory, name, entry),
        }
    }

    fn set_of_file(&self, file: &File, Entry { meta, .. }: &Entry) -> io::Result<()> {
        let stat = rustix::fs::fstat(file)?;
        let ids = self.ids.as_ref().map(|ids| ids.local(meta)).transpose();
        let others = ids
            .as_ref()
            .ok()
            .copied()
            .flatten()
            .filter(|(user, group)| (user.as_raw(), group.as_raw()) != (stat.st_uid, stat.st_gid));
        let owned = match others {
            Some((user, group)) => Ok(rustix::fs::fchown(file, Some(user), Some(group))?),
            None => ids.map(drop),
        };
        let changed = self.set_xattrs(&Handle::File(file), meta, || {
            Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(stat.st_mode as u32 & 0o7777 | 0o600))?)
        });
        let mode = permitted_mode(meta, owned.is_ok());
        // Changes of owner and of ACLs take some bits away.
        let is_as_made = others.is_none() && matches!(changed, Ok(false));
        let permitted = match is_as_made && stat.st_mode as u32 & 0o7777 == mode {
            true => Ok(()),
            false => rustix::fs::fchmod(file, Mode::from_raw_mode(mode)).map_err(io::Error::from),
        };
        let timed = rustix::fs::futimens(file, &times(meta.mtime)).map_err(io::Error::from);
        owned.and(changed.map(drop)).and(permitted).and(timed)
    }

    fn set_of_name(&self, directory: &OwnedFd, name: &[u8], entry: &Entry) -> io::Result<()> {
        let meta = &entry.meta;
        let opened = rustix::fs::openat(directory, name, PATH_FLAGS, Mode::empty())?;
        let is_link = matches!(entry.kind, Kind::Symlink(_));
        let owned = self.ids.as_ref().map_or(Ok(()), |ids| {
            let (user, group) = ids.local(meta)?;
            Ok(rustix::fs::chownat(&opened, "", Some(user), Some(group), AtFlags::EMPTY_PATH)?)
        });
        let path = proc_path(directory).join(OsStr::from_bytes(name));
        let attributed = self.set_xattrs(&Handle::Path(path), meta, || match is_link {
            true => Ok(()),
            false => chmod(&opened, rustix::fs::fstat(&opened)?.st_mode as u32 | 0o600),
        });
        let permitted = if is_link { Ok(()) } else { chmod(&opened, permitted_mode(meta, owned.is_ok())) };
        let timed = set_times(directory, name, meta.mtime);
        owned.and(attributed.map(drop)).and(permitted).and(timed)
    }

    /// Sets extended attributes, and removes those that are not wanted; whether any was set or removed. What
    /// only root may set is left to root. `open_up` lets whoever is not root write them: it comes before the
    /// mode that is wanted, since a read-only file takes none.
    fn set_xattrs(
        &self,
        handle: &Handle<'_>,
        meta: &Metadata,
        open_up: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<bool> {
        let may = |name: &OsStr| self.is_root() || !is_privileged(name.as_bytes());
        let wanted = meta.xattrs.iter().flat_map(|xattrs| xattrs.iter());
        let wanted: BTreeMap<&OsStr, &[u8]> = wanted
            .map(|(name, value)| (OsStr::from_bytes(name), value.as_slice()))
            .filter(|(name, _)| may(name))
            .collect();
        let unwanted: Vec<_> = match handle.list() {
            Ok(names) => names.filter(|name| may(name) && !wanted.contains_key(&**name)).collect(),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Vec::new(),
            Err(error) => return Err(error),
        };
        let is_set = |name: &OsStr, value: &[u8]| {
            handle.get(name).is_ok_and(|found| found.is_some_and(|found| found == value))
        };
        let missing: Vec<_> = wanted.into_iter().filter(|(name, value)| !is_set(name, value)).collect();
        if unwanted.is_empty() && missing.is_empty() {
            return Ok(false);
        }
        if !self.is_root() {
            open_up()?;
        }
        let mut result = Ok(true);
        for name in unwanted {
            result = result.and(handle.remove(&name).map(|()| true));
        }
        for (name, value) in missing {
            result = result.and(handle.set(name, value).map(|()| true));
        }
        result
    }
}

/// Only the owner that was meant may get set-user-id.
fn permitted_mode(meta: &Metadata, is_owned: bool) -> u32 {
    meta.mode & if is_owned { 0o7777 } else { 0o1777 }
}

/// By what extended attributes are reached.
enum Handle<'a> {
    File(&'a File),
    /// Through `/proc`, so that no link is followed but those.
    Path(PathBuf),
}

impl Handle<'_> {
    fn list(&self) -> io::Result<xattr::XAttrs> {
        match self {
            Self::File(file) => file.list_xattr(),
            Self::Path(path) => xattr::list(path),
        }
    }

    fn get(&self, name: &OsStr) -> io::Result<Option<Vec<u8>>> {
        match self {
            Self::File(file) => file.get_xattr(name),
            Self::Path(path) => xattr::get(path, name),
        }
    }

    fn set(&self, name: &OsStr, value: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.set_xattr(name, value),
            Self::Path(path) => xattr::set(path, name, value),
        }
    }

    fn remove(&self, name: &OsString) -> io::Result<()> {
        match self {
            Self::File(file) => file.remove_xattr(name),
            Self::Path(path) => xattr::remove(path, name),
        }
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

/// Sets permission bits, by way of `/proc`, since `fchmod` does not take an `O_PATH` descriptor.
pub(super) fn chmod(opened: &OwnedFd, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::chmod(proc_path(opened), Mode::from_raw_mode(mode & 0o7777))?)
}

fn proc_path(opened: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()))
}

/// Sets the time of what a name stands for.
pub(super) fn set_times(directory: impl AsFd, name: &[u8], mtime: FileTime) -> io::Result<()> {
    Ok(rustix::fs::utimensat(directory, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn times(mtime: FileTime) -> Timestamps {
    let time = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
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
    use crate::relpath::RelPath;

    fn entry(path: &str, kind: Kind) -> Entry {
        Entry { path: RelPath::new(path.as_bytes()).unwrap(), kind, meta: Metadata::default() }
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
    fn a_file_is_open_to_others_from_the_beginning_only_where_nothing_else_is_to_be_set() {
        let attributes = Attributes { own: (0, 0), ids: Some(Ids::new(&Owners::default())) };
        let meta = Metadata { mode: 0o4640, ..Metadata::default() };
        let first = |meta: &Metadata, directory| attributes.first_mode(meta, directory).as_raw_mode();
        assert_eq!(first(&meta, 0o755), 0o640);
        assert_eq!(first(&meta, 0o2755), 0o600);
        assert_eq!(first(&Metadata { gid: 5, ..meta.clone() }, 0o755), 0o600);
        let xattrs = Some(Box::new(vec![(b"user.x".to_vec(), b"value".to_vec())]));
        assert_eq!(first(&Metadata { xattrs, ..meta.clone() }, 0o755), 0o600);
        let nobody = Attributes { own: (7, 7), ids: None };
        assert_eq!(nobody.first_mode(&meta, 0o755).as_raw_mode(), 0o640);
    }

    #[test]
    fn what_a_file_has_already_is_left_and_the_rest_is_set() {
        let file = tempfile::tempfile().unwrap();
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        let attributes = Attributes::new(&Owners::default());
        let (uid, gid) = attributes.own;
        let mut wanted = entry("file", Kind::File(Default::default()));
        wanted.meta = Metadata { mode: 0o640, uid, gid, ..Metadata::default() };
        for (mode, seconds) in [(0o640, 5), (0o4755, 6), (0o444, 7), (0o444, 8)] {
            wanted.meta.mode = mode;
            wanted.meta.mtime.seconds = seconds;
            attributes.set(&Subject::File(&file), &wanted).unwrap();
            let stat = rustix::fs::fstat(&file).unwrap();
            assert_eq!((stat.st_mode & 0o7777, stat.st_mtime), (mode, seconds));
        }
    }

    #[test]
    fn no_number_means_to_keep_the_owner() {
        let ids = Ids::new(&Owners::default());
        assert!(ids.local(&Metadata { uid: u32::MAX, ..Metadata::default() }).is_err());
        assert!(ids.local(&Metadata::default()).is_ok());
    }
}
