//! Giving something the metadata of an entry: owner, extended attributes, mode and time.
//!
//! Promised is all that can be set here, whatever else fails: for root the numbers that the owners have here,
//! for others neither owner nor the attributes that only root may set. A file that is open for writing is
//! reached by its descriptor, and nothing of it is set that is so already; everything else is reached by its
//! name, following no link.
//!
//! Linux only: it needs `O_PATH` descriptors. `/proc` is needed for what cannot be opened: attributes of links,
//! pipes and devices, and modes of files that their owner may not read. Without it, these alone fail.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use xattr::FileExt;

use crate::diff::acl;
use crate::diff::entry::{Entry, FileTime, Kind, Metadata};
use crate::diff::handle::{FILE_FLAGS, PATH_FLAGS, has_proc, proc_path};
use crate::diff::owners::Owners;
use crate::relpath::RelPath;

/// What of the metadata of entries is set here, and how.
pub(super) struct Attributes {
    ids: Ids,
}

/// Which local numbers the owners have, and those whom ACLs name, and to whom this process may give files.
struct Ids {
    users: HashMap<u32, u32>,
    groups: HashMap<u32, u32>,
    own: (u32, u32),
    /// Whether anybody has another number here.
    renumbers: bool,
    /// The groups that this process is in; `None` for root, who may give files to anybody.
    member_of: Option<Vec<u32>>,
}

/// Whose metadata is set.
pub(super) enum Subject<'a> {
    /// A regular file, open for writing.
    File(&'a File),
    /// What a name stands for in a directory.
    Name(&'a OwnedFd, &'a [u8]),
}

const SET_USER_ID: u32 = 0o4000;
const SET_GROUP_ID: u32 = 0o2000;

impl Attributes {
    /// For entries with these owners: by name where the name is known here, else by number. So are those whom ACLs
    /// name. A user other than root keeps what is made, and gives it to the groups that it is in.
    pub fn new(owners: &Owners) -> Self {
        Self { ids: Ids::new(owners) }
    }

    /// Whether permissions do not bind this process.
    pub fn is_root(&self) -> bool {
        self.ids.is_root()
    }

    /// The mode to make a file with in a directory of `directory_mode`: the one that it is to have, if nobody
    /// else could read it before all of its metadata is set.
    pub fn first_mode(&self, meta: &Metadata, directory_mode: u32) -> Mode {
        let is_own = self.ids.numbers(meta) == self.ids.own;
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

    fn set_of_file(&self, file: &File, entry: &Entry) -> io::Result<()> {
        let meta = &entry.meta;
        let stat = rustix::fs::fstat(file)?;
        let owned = self.set_owner(meta, &stat, |user, group| rustix::fs::fchown(file, user, group));
        let changed = self.set_xattrs(&Handle::File(file), meta, || {
            Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(stat.st_mode as u32 & 0o7777 | 0o600))?)
        });
        let mode = self.mode(entry, &stat, owned.is_ok());
        // Changes of owner and of ACLs take some bits away.
        let is_as_made = matches!((&owned, &changed), (Ok(false), Ok(false)));
        let permitted = match is_as_made && stat.st_mode as u32 & 0o7777 == mode {
            true => Ok(()),
            false => rustix::fs::fchmod(file, Mode::from_raw_mode(mode)).map_err(io::Error::from),
        };
        let timed = rustix::fs::futimens(file, &times(meta.mtime)).map_err(io::Error::from);
        owned.and(changed).and(permitted).and(timed)
    }

    fn set_of_name(&self, directory: &OwnedFd, name: &[u8], entry: &Entry) -> io::Result<()> {
        let meta = &entry.meta;
        let opened = rustix::fs::openat(directory, name, PATH_FLAGS, Mode::empty())?;
        let stat = rustix::fs::fstat(&opened)?;
        if let Some(file) = open_for_reading(directory, name, &opened, &stat) {
            return self.set_of_file(&file, entry);
        }
        let is_link = matches!(entry.kind, Kind::Symlink(_));
        let owned = self.set_owner(meta, &stat, |user, group| {
            rustix::fs::chownat(&opened, "", user, group, AtFlags::EMPTY_PATH)
        });
        let mode_now = || Ok::<_, io::Error>(rustix::fs::fstat(&opened)?.st_mode as u32 & 0o7777);
        let path = proc_path(directory).join(OsStr::from_bytes(name));
        let attributed = self.set_xattrs(&Handle::Path(path), meta, || match is_link {
            true => Ok(()),
            false => chmod(&opened, mode_now()? | 0o600),
        });
        let mode = self.mode(entry, &stat, owned.is_ok());
        let permitted = match is_link || mode_now()? == mode {
            true => Ok(()),
            false => chmod(&opened, mode),
        };
        let timed = set_times(directory, name, meta.mtime);
        owned.and(attributed).and(permitted).and(timed)
    }

    /// Gives something that is as `stat` says to its owner; whether that changed anything.
    fn set_owner(
        &self,
        meta: &Metadata,
        stat: &rustix::fs::Stat,
        chown: impl FnOnce(Option<Uid>, Option<Gid>) -> rustix::io::Result<()>,
    ) -> io::Result<bool> {
        let (user, mut group) = self.ids.local(meta)?;
        // Who is not root gives nothing to another user, and does not take what is another's.
        let user = self.is_root().then_some(user);
        // Nor can he give back the group that it is to have.
        if stat.st_gid == self.ids.named(meta).1 {
            group = Gid::from_raw(stat.st_gid);
        }
        let is_set = user.is_none_or(|user| user.as_raw() == stat.st_uid) && group.as_raw() == stat.st_gid;
        if !is_set {
            chown(user, Some(group))?;
        }
        Ok(!is_set)
    }

    /// The mode for something that was as `stat` says, and whose owner could be set or not.
    fn mode(&self, entry: &Entry, stat: &rustix::fs::Stat, is_owned: bool) -> u32 {
        let mode = match self.ids.named(&entry.meta) == (stat.st_uid, stat.st_gid) {
            true => entry.meta.mode & 0o7777,
            false => self.ids.mode(entry),
        };
        mode & if is_owned { 0o7777 } else { 0o1777 }
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
        let mut meta = Cow::Borrowed(meta);
        if meta.xattrs.is_some() && self.ids.renumbers {
            self.ids.renumber(meta.to_mut());
        }
        let wanted = meta.xattrs.iter().flat_map(|xattrs| xattrs.iter());
        let wanted: BTreeMap<&OsStr, &[u8]> = wanted
            .map(|(name, value)| (OsStr::from_bytes(name), value.as_slice()))
            .filter(|(name, _)| may(name))
            .collect();
        let unwanted: Vec<_> = match handle.list() {
            Ok(names) => names.filter(|name| may(name) && !wanted.contains_key(&**name)).collect(),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Vec::new(),
            // What we made and cannot reach has none.
            Err(error) if is_without_proc(&error) && wanted.is_empty() => Vec::new(),
            Err(error) => return Err(named_without_proc(error)),
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

/// What of an entry only root can set.
#[derive(Debug, PartialEq, Eq)]
pub struct Lacking {
    /// Its path.
    pub path: RelPath,
    /// The owner, the group and the mode that it should have.
    wanted: (u32, u32, u32),
    /// The group and the mode that can be set.
    settable: (u32, u32),
    /// Whether there are attributes among it.
    has_attributes: bool,
}

/// Makes of `entries`, which have these owners, what can be set here, so that they compare with what is there once
/// they are restored. Returns, in their order, those of which something cannot be: their owner, group, mode or
/// attributes. For root there are none.
pub fn settable(entries: &mut [Entry], owners: &Owners) -> Vec<Lacking> {
    let ids = Ids::new(owners);
    let mut lacking = Vec::new();
    for entry in entries {
        let ((uid, gid), mode) = (ids.named(&entry.meta), entry.meta.mode);
        let settable = ids.mode(entry);
        (entry.meta.uid, entry.meta.gid) = ids.numbers(&entry.meta);
        entry.meta.mode = settable;
        ids.renumber(&mut entry.meta);
        let has_attributes = !ids.is_root() && drop_privileged(&mut entry.meta);
        let settable = (entry.meta.gid, settable);
        if has_attributes || (uid, gid, mode) != (entry.meta.uid, settable.0, settable.1) {
            let (path, wanted) = (entry.path.clone(), (uid, gid, mode));
            lacking.push(Lacking { path, wanted, settable, has_attributes });
        }
    }
    lacking
}

/// Lets `entries`, of which something cannot be set, have of that what they have `there` already: it stays as it is. Both
/// are in path order. Returns the paths of those that will lack something.
pub fn settle(entries: &mut [Entry], there: &[Entry], lacking: &[Lacking]) -> Vec<RelPath> {
    let find =
        |entries: &[Entry], path: &RelPath| entries.binary_search_by(|entry| entry.path.cmp(path)).ok();
    let mut left = Vec::new();
    for Lacking { path, wanted, settable, has_attributes } in lacking {
        let Some(entry) = find(entries, path).map(|at| &mut entries[at]) else { continue };
        // What gets another content is made anew.
        let found = find(there, path).map(|at| &there[at]).filter(|found| found.same_content(entry));
        let has_group = found.is_some_and(|found| found.meta.gid == wanted.1);
        let has_all = found.is_some_and(|found| (found.meta.uid, found.meta.gid, found.meta.mode) == *wanted);
        entry.meta.gid = if has_group { wanted.1 } else { settable.0 };
        entry.meta.mode = if has_all { wanted.2 } else { settable.1 };
        left.extend((*has_attributes || !has_all).then(|| path.clone()));
    }
    left
}

/// Makes of entries that are there what [`settable`] makes of those that are wanted: without what only root can
/// change.
pub fn comparable(entries: &mut [Entry]) {
    let ids = Ids::new(&Owners::default());
    if ids.is_root() {
        return;
    }
    for Entry { meta, .. } in entries {
        meta.uid = ids.own.0;
        drop_privileged(meta);
    }
}

/// Takes away the extended attributes that only root may set; whether there were any.
fn drop_privileged(meta: &mut Metadata) -> bool {
    let Some(xattrs) = &mut meta.xattrs else { return false };
    let before = xattrs.len();
    xattrs.retain(|(name, _)| !is_privileged(name));
    let is_less = xattrs.len() < before;
    meta.xattrs.take_if(|xattrs| xattrs.is_empty());
    is_less
}

/// Whether only root may set an extended attribute of that name.
fn is_privileged(name: &[u8]) -> bool {
    [&b"security."[..], b"trusted."].iter().any(|space| name.starts_with(space))
}

/// Opens the directory or regular file `name`, which is `opened`, if this process may read it.
fn open_for_reading(
    directory: &OwnedFd,
    name: &[u8],
    opened: &OwnedFd,
    stat: &rustix::fs::Stat,
) -> Option<File> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => open_directory(opened).map(File::from),
        FileType::RegularFile => {
            let file = File::from(rustix::fs::openat(directory, name, FILE_FLAGS, Mode::empty()).ok()?);
            let now = rustix::fs::fstat(&file).ok()?;
            ((now.st_dev, now.st_ino) == (stat.st_dev, stat.st_ino)).then_some(file)
        }
        _ => None,
    }
}

fn open_directory(opened: &OwnedFd) -> Option<OwnedFd> {
    rustix::fs::openat(opened, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// Sets permission bits. `fchmod` does not take an `O_PATH` descriptor: what is no directory that can be opened is
/// reached by way of `/proc`.
pub(super) fn chmod(opened: &OwnedFd, mode: u32) -> io::Result<()> {
    let mode = Mode::from_raw_mode(mode & 0o7777);
    match open_directory(opened) {
        Some(directory) => Ok(rustix::fs::fchmod(directory, mode)?),
        None => Ok(rustix::fs::chmod(proc_path(opened), mode)
            .map_err(io::Error::from)
            .map_err(named_without_proc)?),
    }
}

/// Whether something was not reached because there is no `/proc`.
fn is_without_proc(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound && !has_proc()
}

fn named_without_proc(error: io::Error) -> io::Error {
    match is_without_proc(&error) {
        true => io::Error::new(error.kind(), "this needs /proc, which is not mounted"),
        false => error,
    }
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
        let users: HashMap<_, _> = users.collect();
        let groups = owners
            .groups
            .iter()
            .filter_map(|(gid, name)| Some((*gid, uzers::get_group_by_name(name)?.gid())));
        let groups: HashMap<_, _> = groups.collect();
        let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
        let member_of = || {
            let groups = rustix::process::getgroups().unwrap_or_default();
            groups.iter().map(|group| group.as_raw()).chain([group.as_raw()]).collect()
        };
        Self {
            renumbers: users.iter().chain(&groups).any(|(there, here)| there != here),
            users,
            groups,
            own: (user.as_raw(), group.as_raw()),
            member_of: (!user.is_root()).then(member_of),
        }
    }

    fn is_root(&self) -> bool {
        self.member_of.is_none()
    }

    /// Gives those whom the ACLs of something name the numbers that they have here. Where all numbers are the same, ACLs
    /// keep their order, since that is how they are set.
    fn renumber(&self, meta: &mut Metadata) {
        if !self.renumbers {
            return;
        }
        for (name, value) in meta.xattrs.iter_mut().flat_map(|xattrs| xattrs.iter_mut()) {
            acl::renumber(name, value, &self.users, &self.groups);
        }
    }

    /// The numbers that the owners have here.
    fn named(&self, meta: &Metadata) -> (u32, u32) {
        let uid = self.users.get(&meta.uid).copied().unwrap_or(meta.uid);
        let gid = self.groups.get(&meta.gid).copied().unwrap_or(meta.gid);
        (uid, gid)
    }

    /// Whom something will belong to: whoever is not root keeps it, and has one group rather than whichever the
    /// directory gives it.
    fn numbers(&self, meta: &Metadata) -> (u32, u32) {
        let (uid, gid) = self.named(meta);
        match &self.member_of {
            None => (uid, gid),
            Some(groups) => (self.own.0, if groups.contains(&gid) { gid } else { self.own.1 }),
        }
    }

    /// The mode that something will have: what runs as its owner or its group does so only if these are the
    /// ones that were meant.
    fn mode(&self, Entry { kind, meta, .. }: &Entry) -> u32 {
        let (named, numbers) = (self.named(meta), self.numbers(meta));
        let mut mode = meta.mode & 0o7777;
        if named.0 != numbers.0 && !matches!(kind, Kind::Directory) {
            mode &= !SET_USER_ID;
        }
        if named.1 != numbers.1 && !matches!(kind, Kind::Directory) {
            mode &= !SET_GROUP_ID;
        }
        mode
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
        Entry { path: RelPath::new(path.as_bytes()).unwrap(), kind, meta: Metadata::default() }
    }

    fn ids(own: (u32, u32), member_of: Option<Vec<u32>>) -> Ids {
        Ids { users: HashMap::new(), groups: HashMap::new(), own, renumbers: false, member_of }
    }

    #[test]
    fn nothing_runs_as_somebody_who_was_not_meant() {
        let mut entry = entry("program", Kind::File(Default::default()));
        entry.meta = Metadata { mode: 0o6755, uid: 7, gid: 8, ..Metadata::default() };
        assert_eq!(ids((0, 0), None).mode(&entry), 0o6755);
        assert_eq!(ids((7, 7), Some(vec![7, 8])).mode(&entry), 0o6755);
        assert_eq!(ids((7, 7), Some(vec![7])).mode(&entry), 0o4755);
        assert_eq!(ids((9, 9), Some(vec![9])).mode(&entry), 0o755);
        entry.kind = Kind::Directory;
        assert_eq!(ids((9, 9), Some(vec![9])).mode(&entry), 0o6755);
    }

    #[test]
    fn groups_are_given_only_to_those_that_this_process_is_in() {
        let meta = |uid, gid| Metadata { uid, gid, ..Metadata::default() };
        assert_eq!(ids((0, 0), None).numbers(&meta(5, 6)), (5, 6));
        let somebody = ids((7, 7), Some(vec![7, 8]));
        assert_eq!(somebody.numbers(&meta(5, 8)), (7, 8));
        assert_eq!(somebody.numbers(&meta(5, 6)), (7, 7));
    }

    #[test]
    fn what_cannot_be_set_is_not_compared() {
        let mut entries = [entry("file", Kind::Fifo)];
        entries[0].meta.uid = 54_321;
        let attribute = |name: &str| (name.as_bytes().to_vec(), b"value".to_vec());
        entries[0].meta.xattrs = Some(Box::new(vec![attribute("security.x"), attribute("trusted.y")]));
        let owners = Owners { users: [(54_321, "root".into())].into(), ..Owners::default() };
        let user = rustix::process::geteuid();
        let lacking = settable(&mut entries, &owners);
        assert_eq!(entries[0].meta.uid, user.as_raw());
        assert_eq!(entries[0].meta.xattrs.is_some(), user.is_root());
        assert_eq!(lacking.is_empty(), user.is_root());
    }

    #[test]
    fn acls_are_sorted_only_where_somebody_has_another_number() {
        let acl = |numbers: [u32; 2]| {
            let named = numbers.map(|number| [&b"\x02\0\x07\0"[..], &number.to_le_bytes()].concat());
            [&2u32.to_le_bytes()[..], &named.concat()].concat()
        };
        let settled = |root: u32, numbers| {
            let mut entries = [entry("file", Kind::File(Default::default()))];
            entries[0].meta.xattrs =
                Some(Box::new(vec![(b"system.posix_acl_access".to_vec(), acl(numbers))]));
            settable(&mut entries, &Owners { users: [(root, "root".into())].into(), ..Owners::default() });
            entries[0].meta.xattrs.take().unwrap().remove(0).1
        };
        assert_eq!(settled(0, [7, 0]), acl([7, 0]));
        assert_eq!(settled(54_321, [7, 54_321]), acl([0, 7]));
    }

    #[test]
    fn a_file_is_open_to_others_from_the_beginning_only_where_nothing_else_is_to_be_set() {
        let attributes = Attributes { ids: ids((0, 0), None) };
        let meta = Metadata { mode: 0o4640, ..Metadata::default() };
        let first = |meta: &Metadata, directory| attributes.first_mode(meta, directory).as_raw_mode();
        assert_eq!(first(&meta, 0o755), 0o640);
        assert_eq!(first(&meta, 0o2755), 0o600);
        assert_eq!(first(&Metadata { gid: 5, ..meta.clone() }, 0o755), 0o600);
        let xattrs = Some(Box::new(vec![(b"user.x".to_vec(), b"value".to_vec())]));
        assert_eq!(first(&Metadata { xattrs, ..meta.clone() }, 0o755), 0o600);
        let somebody = Attributes { ids: ids((7, 7), Some(vec![7, 8])) };
        assert_eq!(somebody.first_mode(&meta, 0o755).as_raw_mode(), 0o640);
        let shared = Metadata { gid: 8, ..meta };
        assert_eq!(somebody.first_mode(&shared, 0o755).as_raw_mode(), 0o600);
    }

    #[test]
    fn what_a_file_has_already_is_left_and_the_rest_is_set() {
        let file = tempfile::tempfile().unwrap();
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        let attributes = Attributes::new(&Owners::default());
        let (uid, gid) = attributes.ids.own;
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
