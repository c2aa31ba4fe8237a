//! Local files, in borgstore's layout.
//!
//! Not through OpenDAL: its service for files does not sync the directory that holds a new name, checks
//! and then renames where a conditional put must be one step, and knows neither quota nor permissions.
//!
//! An object is written to a file named `.treering-tmp-….tmp` beside its place, synced, renamed (without
//! replacing, when it must be new), and the directory is synced, as is each directory on the way to it. Killed on
//! the way, it leaves that file, which neither this program nor borgstore takes for an object. The next process
//! on this machine that stores to that directory removes it: whoever writes such a file holds a lock on it.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, DirBuilder, File, Permissions as Mode, ReadDir};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;

use super::backend::{
    Backend, Content, Entries, Entry, Kind, find_foreign, is_marker, is_unfinished, pretended,
};
use super::error::Reason;
use super::name::{MARKER, MAX_LEVEL, Namespace};
use crate::atomic::{self, NewDirs};

const PIECE: usize = 1 << 20;
/// How many directories are remembered as durable.
const MAX_DURABLE: usize = 1 << 17;

/// What may be done in a namespace of local files, written as borgstore does: `l` list, `r` read, `w`
/// write new objects, `W` write and replace, `D` delete. Moving needs `D` and one of `w` and `W`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permissions {
    list: bool,
    read: bool,
    create: bool,
    replace: bool,
    delete: bool,
}

/// Text with another letter than `lrwWD`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("permissions are letters of \"lrwWD\": list, read, write new, write and replace, delete")]
pub struct PermissionsError;

impl FromStr for Permissions {
    type Err = PermissionsError;

    fn from_str(text: &str) -> Result<Self, PermissionsError> {
        if !text.chars().all(|letter| "lrwWD".contains(letter)) {
            return Err(PermissionsError);
        }
        Ok(Self {
            list: text.contains('l'),
            read: text.contains('r'),
            create: text.contains(['w', 'W']),
            replace: text.contains('W'),
            delete: text.contains('D'),
        })
    }
}

/// Bounds on local files.
#[derive(Debug, Clone, Default)]
pub struct LocalOptions {
    /// Most bytes of content that the store may hold. What is in use is found by one walk when the store
    /// is opened and then counted, so what other processes add meanwhile is not seen.
    pub quota: Option<u64>,
    /// What may be done, for each namespace. When this is not empty, nothing may be done in the
    /// namespaces that it does not name.
    pub permissions: BTreeMap<Namespace, Permissions>,
}

pub(super) struct Local {
    root: PathBuf,
    options: LocalOptions,
    /// The mode of the directories of a new store.
    mode: u32,
    used: Mutex<Option<u64>>,
    /// Directories whose names this process has synced, with those above them up to the root.
    durable: Mutex<HashSet<PathBuf>>,
    /// Directories that were made for a store that has no marker yet: without one, they go again.
    made: Mutex<Option<NewDirs>>,
}

impl Local {
    pub fn new(root: &Path, options: LocalOptions, mode: u32) -> Self {
        Self {
            root: root.to_owned(),
            options,
            mode,
            used: Mutex::new(None),
            durable: Mutex::default(),
            made: Mutex::default(),
        }
    }

    fn permit(
        &self,
        path: &str,
        needed: &'static str,
        allows: impl FnOnce(&Permissions) -> bool,
    ) -> Result<(), Reason> {
        // The marker lies in no namespace.
        if self.options.permissions.is_empty() || path == MARKER {
            return Ok(());
        }
        let namespace = path.split('/').next().unwrap_or_default();
        let given = self.options.permissions.iter().find(|(name, _)| name.as_str() == namespace);
        match given {
            Some((_, permissions)) if allows(permissions) => Ok(()),
            _ => Err(Reason::NotPermitted { namespace: namespace.into(), needed }),
        }
    }

    /// Runs `put`, told to replace nothing where that is not permitted: so that an object that appears
    /// meanwhile stays, too.
    fn putting<T>(
        &self,
        path: &str,
        new: bool,
        put: impl FnOnce(bool) -> Result<T, Reason>,
    ) -> Result<T, Reason> {
        self.permit(path, "wW", |permissions| permissions.create)?;
        let refused = self.permit(path, "W", |permissions| permissions.replace).err();
        match (put(new || refused.is_some()), refused) {
            (Err(Reason::Exists), Some(refused)) if !new => Err(refused),
            (result, _) => result,
        }
    }

    /// Whether the store is there. No answer is not taken for a no.
    fn has_root(&self) -> Result<bool, Reason> {
        match fs::metadata(&self.root) {
            Ok(metadata) => Ok(metadata.is_dir()),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The reason for an error at an object: that it is not there only if the store is.
    fn reason(&self, error: io::Error) -> Reason {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => match self.has_root() {
                Ok(true) => Reason::NotFound,
                Ok(false) => Reason::NoStore,
                Err(reason) => reason,
            },
            _ => error.into(),
        }
    }

    fn durable(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the names of `directory` and of those above it durable, up to the root, and removes what killed
    /// processes left in them. A directory that is there may be of a process that was killed, or is about to
    /// sync it: so that is done once for each.
    fn settle(&self, directory: &Path) -> Result<(), Reason> {
        let above = directory.ancestors().take_while(|path| *path != self.root);
        let unsettled: Vec<_> = above.take_while(|path| !self.durable().contains(*path)).collect();
        for directory in unsettled.into_iter().rev() {
            atomic::sync_dir(atomic::parent(directory))?;
            sweep(directory);
            if atomic::parent(directory) == self.root {
                sweep(&self.root);
            }
            let mut durable = self.durable();
            if durable.len() >= MAX_DURABLE {
                durable.clear();
            }
            durable.insert(directory.to_owned());
        }
        Ok(())
    }

    /// Makes `directory` and what is missing between it and the root. A root that is not there is not made:
    /// the disk may not be mounted.
    fn make_directory(&self, directory: &Path) -> Result<(), Reason> {
        if directory == self.root {
            return if self.has_root()? { Ok(()) } else { Err(Reason::NoStore) };
        }
        match fs::create_dir(directory) {
            Ok(()) => {
                self.durable().remove(directory);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_directory(atomic::parent(directory))?;
                self.make_directory(directory)
            }
            Err(error) => Err(self.reason(error)),
        }
    }

    fn temporary(&self, directory: &Path) -> Result<tempfile::NamedTempFile, Reason> {
        let mode = Mode::from_mode(atomic::MODE);
        let prefix = unfinished_prefix();
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(".tmp").permissions(mode);
        let temporary = || -> io::Result<_> {
            loop {
                let file = builder.tempfile_in(directory)?;
                // Not every file system has locks. On one without, nobody sweeps.
                let _ = flock(file.as_file(), FlockOperation::LockExclusive);
                // Somebody may have swept it before it was locked.
                if file.as_file().metadata()?.nlink() > 0 {
                    return Ok(file);
                }
            }
        };
        match temporary() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_directory(directory)?;
                Ok(temporary()?)
            }
            result => Ok(result?),
        }
    }

    /// Counts that the file at `path` becomes `size` bytes long, or goes, when there is a quota to keep.
    fn charge(&self, path: &str, size: Option<u64>) -> Result<(), Reason> {
        let Some(limit) = self.options.quota.filter(|_| path != MARKER) else { return Ok(()) };
        let held = match fs::metadata(self.root.join(path)).map_err(|error| self.reason(error)) {
            Ok(metadata) => metadata.len(),
            Err(Reason::NotFound) => 0,
            Err(reason) => return Err(reason),
        };
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match *used {
            Some(used) => used,
            None => self.measure()?,
        };
        let rest = before.saturating_sub(held);
        let after = rest.saturating_add(size.unwrap_or(0));
        if size.is_some() && after > limit {
            return Err(Reason::Quota { limit, used: before, needed: after - rest });
        }
        *used = Some(after);
        Ok(())
    }

    /// After a failure the count may be wrong: the next one begins with a walk.
    fn recount_unless<T>(&self, result: Result<T, Reason>) -> Result<T, Reason> {
        if result.is_err() {
            *self.used.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        result
    }

    fn write(&self, target: &Path, content: &Content<'_>, new: bool) -> Result<(), Reason> {
        let directory = atomic::parent(target);
        let mut file = self.temporary(directory)?;
        self.settle(directory)?;
        for piece in content.pieces(PIECE) {
            file.write_all(&piece?)?;
        }
        if new {
            file.as_file().sync_all()?;
            move_new(file.path(), target)?;
            // Its name is gone, so there is nothing to remove.
            file.disable_cleanup(true);
        } else {
            atomic::place(file, target)?;
        }
        Ok(atomic::sync_dir(directory)?)
    }

    /// Spares writing what could not be put there. The step that puts it decides.
    fn expect_free(&self, target: &Path, new: bool) -> Result<(), Reason> {
        if new && target.try_exists()? { Err(Reason::Exists) } else { Ok(()) }
    }

    fn expect_file(&self, path: &Path) -> Result<(), Reason> {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => Err(Reason::NotFound),
            Ok(_) => Ok(()),
            Err(error) => Err(self.reason(error)),
        }
    }

    fn measure(&self) -> Result<u64, Reason> {
        let mut used = 0_u64;
        for entry in self.walk("") {
            let entry = entry?;
            // The marker, and borgstore's own count.
            if !entry.path.ends_with(".hid") {
                used = used.saturating_add(entry.size);
            }
        }
        Ok(used)
    }

    /// Whether there is nothing but what one leaves who was killed while he stored the first object.
    fn has_only_leftovers(&self) -> io::Result<bool> {
        for directory in fs::read_dir(&self.root)? {
            let directory = directory?;
            if directory.file_name().to_str().is_some_and(is_marker) {
                continue;
            }
            if !directory.file_type()?.is_dir() {
                return Ok(false);
            }
            for file in fs::read_dir(directory.path())? {
                if !file?.file_name().to_str().is_some_and(is_unfinished) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn walk(&self, directory: &str) -> LocalWalk<'_> {
        LocalWalk { local: self, start: Some(directory.into()), stack: Vec::new() }
    }
}

impl Backend for Local {
    fn create(&self) -> Result<(), Reason> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        *made = Some(NewDirs::missing(&self.root));
        make_ancestors(&self.root, self.mode)?;
        // The marker of one who was killed.
        sweep(&self.root);
        if self.has_only_leftovers()? { Ok(()) } else { Err(Reason::NotEmpty) }
    }

    fn abandon(&self) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn check(&self) -> Result<(), Reason> {
        let metadata = fs::metadata(&self.root).map_err(|error| self.reason(error))?;
        if !metadata.is_dir() {
            return Err(Reason::NoStore);
        }
        if self.options.quota.is_some() {
            let used = self.measure()?;
            *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Some(used);
        }
        Ok(())
    }

    fn destroy(&self) -> Result<(), Reason> {
        if let Some((namespace, _)) =
            self.options.permissions.iter().find(|(_, permissions)| !permissions.delete)
        {
            return Err(Reason::NotPermitted { namespace: namespace.as_str().into(), needed: "D" });
        }
        let held = fs::read_dir(&self.root).map_err(|error| self.reason(error))?;
        let held = held.collect::<io::Result<Vec<_>>>()?;
        for entry in &held {
            // A namespace that the permissions do not name.
            self.permit(&entry.file_name().to_string_lossy(), "D", |permissions| permissions.delete)?;
        }
        let (marker, others): (Vec<_>, Vec<_>) =
            held.into_iter().partition(|entry| entry.file_name() == MARKER);
        for entry in others.into_iter().chain(marker) {
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())
            } else {
                fs::remove_file(entry.path())
            }?;
        }
        // The root may be a mount point, or in a directory that is not ours; empty, it is as good as gone.
        let _ = fs::remove_dir(&self.root);
        Ok(())
    }

    fn foreign(&self) -> Result<Option<String>, Reason> {
        find_foreign(|directory| {
            let entries = fs::read_dir(self.root.join(directory)).map_err(|error| self.reason(error))?;
            let mut found = Vec::new();
            for entry in entries {
                let entry = entry?;
                let kind = entry.file_type()?;
                let kind = match (kind.is_file(), kind.is_dir()) {
                    (true, _) => Kind::File,
                    (_, true) => Kind::Directory,
                    _ => Kind::Other,
                };
                // A name that is not UTF-8 is not written by a store, and stays none when it is shown.
                let name = entry.file_name().to_string_lossy().into_owned();
                found.push((if directory.is_empty() { name } else { format!("{directory}/{name}") }, kind));
            }
            Ok(found)
        })
    }

    fn list<'a>(&'a self, directory: &str) -> Entries<'a> {
        match self.permit(directory, "l", |permissions| permissions.list) {
            Ok(()) => Box::new(self.walk(directory)),
            Err(reason) => Box::new(std::iter::once(Err(reason))),
        }
    }

    fn load(&self, path: &str, range: Option<Range<u64>>, limit: u64) -> Result<Vec<u8>, Reason> {
        self.permit(path, "r", |permissions| permissions.read)?;
        let opened = atomic::open_file(File::options().read(true), &self.root.join(path));
        let file = opened.map_err(|error| self.reason(error))?.ok_or(Reason::NotFound)?;
        let held = file.metadata()?.len();
        let range = match range {
            Some(range) if range.end > held => {
                return Err(Reason::OutOfRange { offset: range.start, size: range.end - range.start });
            }
            Some(range) => range,
            None if held > limit => return Err(Reason::TooLarge { limit }),
            None => 0..held,
        };
        let size = range.end.saturating_sub(range.start);
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| Reason::TooLarge { limit })?];
        match file.read_exact_at(&mut bytes, range.start) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(Reason::OutOfRange { offset: range.start, size })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn store(&self, path: &str, content: &Content<'_>, new: bool) -> Result<(), Reason> {
        let target = self.root.join(path);
        self.putting(path, new, |new| {
            self.expect_free(&target, new)?;
            self.charge(path, Some(content.size()))?;
            self.recount_unless(self.write(&target, content, new))
        })?;
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner).take();
        made.into_iter().for_each(NewDirs::keep);
        Ok(())
    }

    fn sync(&self, directory: &str) -> Result<(), Reason> {
        Ok(atomic::sync_dir(&self.root.join(directory))?)
    }

    fn info(&self, path: &str) -> Result<Entry, Reason> {
        self.permit(path, "lr", |permissions| permissions.list || permissions.read)?;
        let metadata = fs::metadata(self.root.join(path)).map_err(|error| self.reason(error))?;
        if !metadata.is_file() {
            return Err(Reason::NotFound);
        }
        Ok(Entry { path: path.into(), size: metadata.len(), modified: metadata.modified().ok() })
    }

    fn delete(&self, path: &str) -> Result<(), Reason> {
        self.permit(path, "D", |permissions| permissions.delete)?;
        let target = self.root.join(path);
        self.expect_file(&target)?;
        self.charge(path, None)?;
        self.recount_unless(fs::remove_file(&target).map_err(|error| self.reason(error)))?;
        Ok(atomic::sync_dir(atomic::parent(&target))?)
    }

    fn rename(&self, from: &str, to: &str, new: bool) -> Result<(), Reason> {
        self.permit(from, "D", |permissions| permissions.delete)?;
        let (source, target) = (self.root.join(from), self.root.join(to));
        self.putting(to, new, |new| {
            self.expect_file(&source)?;
            self.expect_free(&target, new)?;
            let (old_directory, new_directory) = (atomic::parent(&source), atomic::parent(&target));
            self.make_directory(new_directory)?;
            self.settle(new_directory)?;
            self.charge(to, None)?;
            let moved = if new {
                move_new(&source, &target)
            } else {
                fs::rename(&source, &target).map_err(Into::into)
            };
            self.recount_unless(moved)?;
            atomic::sync_dir(new_directory)?;
            if old_directory != new_directory {
                atomic::sync_dir(old_directory)?;
            }
            Ok(())
        })
    }

    fn is_exclusive(&self, _: &str) -> Result<bool, Reason> {
        Ok(true)
    }
}

/// What the names of files begin with that are written on this machine. Those of others, and of clients by
/// SFTP, are not swept here: a lock of theirs may not be seen.
fn unfinished_prefix() -> String {
    let host = blake3::hash(rustix::system::uname().nodename().to_bytes()).to_hex();
    format!("{}{}-", atomic::TEMP_PREFIX, &host[..8])
}

/// Removes from `directory` what a process of this machine was writing that is no more: who writes holds a lock.
fn sweep(directory: &Path) {
    // What cannot be listed, opened or removed is left to others.
    let Ok(entries) = fs::read_dir(directory) else { return };
    let prefix = unfinished_prefix();
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let is_ours = name.to_str().is_some_and(|name| name.starts_with(&prefix) && is_unfinished(name));
        if !is_ours || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        if let Ok(Some(file)) = atomic::open_file(File::options().read(true), &entry.path())
            && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            tracing::debug!(path = %entry.path().display(), "removing what a killed process left");
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Renames a file to a name that nothing has, in one step.
fn move_new(from: &Path, to: &Path) -> Result<(), Reason> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        result => return Ok(result.map_err(io::Error::from)?),
    }
    // Older file systems, and those of networks, can do that by a link only.
    fs::hard_link(from, to)?;
    let (old, new) = (fs::metadata(from)?, fs::metadata(to));
    if !new.is_ok_and(|new| new.len() == old.len()) {
        return Err(pretended("link"));
    }
    Ok(fs::remove_file(from)?)
}

/// Makes `directory` and what is missing above it, durably, with this mode before the umask takes its bits away. What was
/// there already is synced where that is permitted and possible: whoever made it may have been killed before he did.
fn make_ancestors(directory: &Path, mode: u32) -> io::Result<()> {
    let mut made = Vec::new();
    for path in directory.ancestors() {
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => made.push(path),
            _ => break,
        }
    }
    DirBuilder::new().recursive(true).mode(mode).create(directory)?;
    for path in directory.ancestors().filter(|path| path.parent().is_some()) {
        match atomic::sync_dir(atomic::parent(path)) {
            Err(error) if made.contains(&path) || !cannot_be_synced(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Whether a directory was not synced since it may not be opened, or has nothing to be synced: that is no failure of
/// the disk.
fn cannot_be_synced(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    matches!(error.kind(), InvalidInput | PermissionDenied | ReadOnlyFilesystem | Unsupported)
}

/// Reads one directory after the other, holding as many open as the nesting is deep.
struct LocalWalk<'a> {
    local: &'a Local,
    start: Option<String>,
    stack: Vec<(String, ReadDir)>,
}

impl LocalWalk<'_> {
    fn open(&mut self, directory: String) -> Result<(), Reason> {
        match fs::read_dir(self.local.root.join(&directory)) {
            Ok(entries) => {
                self.stack.push((directory, entries));
                Ok(())
            }
            // A namespace without objects need not exist; the store must.
            Err(error) => match self.local.reason(error) {
                Reason::NotFound => Ok(()),
                reason => Err(reason),
            },
        }
    }

    fn step(&mut self) -> Result<Option<Entry>, Reason> {
        if let Some(start) = self.start.take() {
            self.open(start)?;
        }
        while let Some((directory, entries)) = self.stack.last_mut() {
            let Some(entry) = entries.next().transpose()? else {
                self.stack.pop();
                continue;
            };
            // What is not UTF-8 is not an object.
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
            let metadata = match fs::metadata(entry.path()) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error.into()),
            };
            if metadata.is_dir() {
                // What lies deeper is no object; and a symbolic link may lead in a circle.
                if self.stack.len() <= usize::from(MAX_LEVEL) {
                    self.open(path)?;
                }
            } else if metadata.is_file() {
                return Ok(Some(Entry { path, size: metadata.len(), modified: metadata.modified().ok() }));
            }
        }
        Ok(None)
    }
}

impl Iterator for LocalWalk<'_> {
    type Item = Result<Entry, Reason>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if step.is_err() {
            self.stack.clear();
        }
        step.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(root: &Path, path: &str) {
        let local = Local::new(root, LocalOptions::default(), 0o777);
        local.store(path, &Content::Bytes(b"content"), true).unwrap();
    }

    #[test]
    fn what_a_killed_process_left_goes_and_what_others_write_stays() {
        let dir = tempfile::tempdir().unwrap();
        store(dir.path(), "data/0");
        let (dead, alive) =
            (format!("{}dead.tmp", unfinished_prefix()), format!("{}alive.tmp", unfinished_prefix()));
        // Of a client by SFTP, of another machine, and of anybody.
        let others = [".treering-tmp-0123456789abcdef.tmp", ".treering-tmp-00000000-x.tmp", "x.tmp"];
        let path = |name: &str| dir.path().join("data").join(name);
        for file in [dead.as_str(), &alive].into_iter().chain(others) {
            fs::write(path(file), b"half").unwrap();
        }
        let writer = File::open(path(&alive)).unwrap();
        flock(&writer, FlockOperation::LockExclusive).unwrap();
        store(dir.path(), "data/1");
        assert!(!path(&dead).exists() && path(&alive).exists());
        assert!(others.iter().all(|other| path(other).exists()));
        drop(writer);
        store(dir.path(), "data/2");
        assert!(!path(&alive).exists());
    }

    #[test]
    fn nobody_waits_for_what_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(CWD, dir.path().join("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        std::os::unix::fs::symlink("/dev/zero", dir.path().join("endless")).unwrap();
        let local = Local::new(dir.path(), LocalOptions::default(), 0o777);
        for (name, range) in [("pipe", None), ("endless", None), ("endless", Some(0..10))] {
            let read = local.load(name, range, u64::MAX);
            assert!(matches!(read, Err(Reason::NotFound)), "{name}: {read:?}");
        }
    }

    #[test]
    fn clients_that_sweep_while_others_write_take_nothing_away() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::thread::scope(|scope| {
            for client in 0..8 {
                scope.spawn(move || (0..20).for_each(|at| store(root, &format!("data/{client}-{at}"))));
            }
        });
        assert_eq!(fs::read_dir(root.join("data")).unwrap().count(), 8 * 20);
    }
}
