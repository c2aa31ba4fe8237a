//! Local files, in borgstore's layout.
//!
//! Not through OpenDAL: its service for files does not sync the directory that holds a new name, checks
//! and then renames where a conditional put must be one step, and knows neither quota nor permissions.
//!
//! An object is written to a file named `.treering-tmp-….tmp` beside its place, synced, renamed (or
//! linked, when it must be new), and the directory is synced, as is each directory made for it. Killed on
//! the way, it leaves that file, which neither this program nor borgstore takes for an object.

use std::collections::BTreeMap;
use std::fs::{self, File, ReadDir};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use super::backend::{Backend, Content, Entries, Entry, is_unfinished};
use super::error::Reason;
use super::name::{MAX_LEVEL, Namespace};
use crate::atomic;

const PIECE: usize = 1 << 20;

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
    used: Mutex<Option<u64>>,
}

impl Local {
    pub fn new(root: &Path, options: LocalOptions) -> Self {
        Self { root: root.to_owned(), options, used: Mutex::new(None) }
    }

    fn permit(
        &self,
        path: &str,
        needed: &'static str,
        allows: impl FnOnce(&Permissions) -> bool,
    ) -> Result<(), Reason> {
        if self.options.permissions.is_empty() {
            return Ok(());
        }
        let namespace = path.split('/').next().unwrap_or_default();
        let given = self.options.permissions.iter().find(|(name, _)| name.as_str() == namespace);
        match given {
            Some((_, permissions)) if allows(permissions) => Ok(()),
            _ => Err(Reason::NotPermitted { namespace: namespace.into(), needed }),
        }
    }

    fn permit_put(&self, path: &str) -> Result<(), Reason> {
        self.permit(path, "wW", |permissions| permissions.create)?;
        if self.options.permissions.is_empty() || !self.root.join(path).exists() {
            return Ok(());
        }
        self.permit(path, "W", |permissions| permissions.replace)
    }

    /// The reason for an error at an object: that it is not there only if the store is.
    fn reason(&self, error: io::Error) -> Reason {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory if self.root.is_dir() => Reason::NotFound,
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Reason::NoStore,
            _ => error.into(),
        }
    }

    /// Makes `directory` and what is missing between it and the root, durably. A root that is not there
    /// is not made: the disk may not be mounted.
    fn make_directory(&self, directory: &Path) -> Result<(), Reason> {
        if directory == self.root {
            return if self.root.is_dir() { Ok(()) } else { Err(Reason::NoStore) };
        }
        match fs::create_dir(directory) {
            Ok(()) => Ok(atomic::sync_dir(atomic::parent(directory))?),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_directory(atomic::parent(directory))?;
                self.make_directory(directory)
            }
            Err(error) => Err(self.reason(error)),
        }
    }

    fn temporary(&self, directory: &Path) -> Result<tempfile::NamedTempFile, Reason> {
        let temporary =
            || tempfile::Builder::new().prefix(atomic::TEMP_PREFIX).suffix(".tmp").tempfile_in(directory);
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
        let Some(limit) = self.options.quota else { return Ok(()) };
        let held = fs::metadata(self.root.join(path)).map_or(0, |metadata| metadata.len());
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
        for piece in content.pieces(PIECE) {
            file.write_all(&piece?)?;
        }
        if new {
            file.as_file().sync_all()?;
            file.persist_noclobber(target).map_err(|error| Reason::from(error.error))?;
        } else {
            atomic::place(file, target)?;
        }
        Ok(atomic::sync_dir(directory)?)
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
            // borgstore keeps its own count in a file with this suffix.
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
        fs::create_dir_all(&self.root)?;
        if !self.has_only_leftovers()? {
            return Err(Reason::NotEmpty);
        }
        Ok(atomic::sync_dir(atomic::parent(&self.root))?)
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
        for entry in fs::read_dir(&self.root).map_err(|error| self.reason(error))? {
            let entry = entry?;
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

    fn list<'a>(&'a self, directory: &str) -> Entries<'a> {
        match self.permit(directory, "l", |permissions| permissions.list) {
            Ok(()) => Box::new(self.walk(directory)),
            Err(reason) => Box::new(std::iter::once(Err(reason))),
        }
    }

    fn load(&self, path: &str, range: Option<Range<u64>>, limit: u64) -> Result<Vec<u8>, Reason> {
        self.permit(path, "r", |permissions| permissions.read)?;
        let file = File::open(self.root.join(path)).map_err(|error| self.reason(error))?;
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
        self.permit_put(path)?;
        let target = self.root.join(path);
        if new && target.exists() {
            return Err(Reason::Exists);
        }
        self.charge(path, Some(content.size()))?;
        self.recount_unless(self.write(&target, content, new))
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

    fn rename(&self, from: &str, to: &str) -> Result<(), Reason> {
        self.permit(from, "D", |permissions| permissions.delete)?;
        self.permit_put(to)?;
        let (source, target) = (self.root.join(from), self.root.join(to));
        self.expect_file(&source)?;
        let (old, new) = (atomic::parent(&source), atomic::parent(&target));
        self.make_directory(new)?;
        self.charge(to, None)?;
        self.recount_unless(fs::rename(&source, &target).map_err(|error| self.reason(error)))?;
        atomic::sync_dir(new)?;
        if old != new {
            atomic::sync_dir(old)?;
        }
        Ok(())
    }

    fn is_exclusive(&self) -> Result<bool, Reason> {
        Ok(true)
    }
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
