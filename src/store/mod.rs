//! A key/value store in a place that others may share: local files, SSH, S3, WebDAV, and what rclone reaches.
//!
//! A [`Store`] holds objects, each with a [`Name`] of namespace and key. It is one place with one contract,
//! whatever the backend ([`StoreUrl`] says which one):
//!
//! - **Whole or not at all.** [`store`](Store::store) replaces an object in one step: who loads it
//!   meanwhile gets the old bytes or the new ones, and an interrupted store leaves the old ones, and
//!   perhaps a file that is nobody's object. On local files the next store to that directory from the same
//!   machine removes it; elsewhere nobody can tell whether its writer still lives, so that goes a day later. (WebDAV servers, rclone, and SFTP servers that cannot replace by
//!   a rename take the old ones away just before, so that there may be nothing in between.)
//! - **Nothing is removed on a server's word.** Servers exist that answer "done" to a link, a rename or a
//!   copy and do nothing. After each we look whether the new name has the bytes, before the original goes:
//!   the temporary file, the old name of a move, the object at an older level. What was only pretended is
//!   an error, and the original stays. The answer to a put of S3 alone is believed: nothing goes for it, and
//!   `layers evict` reads back what it removes.
//! - **Durable when it returns**, as far as the backend can: local files and the directories that hold
//!   their names are synced; over SFTP the file is synced when the server can (OpenSSH can); an object
//!   store answers when it has it.
//! - **New means new.** [`store_new`](Store::store_new) fails when there is an object already. On local
//!   files, SFTP servers that make hard links, and S3 servers that keep to `If-None-Match`, that is one
//!   atomic step between any number of clients ([`is_exclusive`](Store::is_exclusive) tries it). A WebDAV server is told
//!   not to replace (`Overwrite: F`), and whether it looks and moves in one step cannot be tried: it counts as one that does
//!   not. All others, with rclone, can only look first.
//! - **Exact ranges.** [`load_range`](Store::load_range) gives exactly the bytes asked for, or an error.
//!   A body that ends early is tried again and never returned. An empty range asks as well: the object must
//!   exist, and reach that far.
//! - **Readable for whom the place is meant.** Files get the mode that the umask leaves, as any other
//!   program's would, so that a group can share a store. So do the directories of a new store, unless
//!   [`Options::mode`] says less.
//! - **A partial listing is an error.** [`list`](Store::list) is lazy and in no promised order, and
//!   either ends after the last object or with an error. An object that is stored, deleted or moved
//!   meanwhile may be listed or not. A namespace that nobody has stored to is empty; a store that is not
//!   there is an error.
//! - **Not found is said.** [`load`](Store::load), [`info`](Store::info), [`delete`](Store::delete) and
//!   the moves fail with [`Reason::NotFound`] when there is no such object.
//! - **Moving** is one step on files; S3 copies and then deletes, so that an interrupted move leaves both
//!   names. Moves fail when the new name is taken. Where `store_new` is one step on files, so is that. On
//!   WebDAV two clients lose nothing if the server looks and moves in one step. S3 and rclone look first, so
//!   that two clients that move to one name at one time may lose one object.
//! - **Retries.** What failed for a reason that may pass (no answer in time, a broken connection, the
//!   codes 429 and 500 to 504) is tried again after growing pauses, [`Retry`] says how often. Whether an
//!   attempt whose answer was lost had worked is found out: a repeated delete or move does not fail for
//!   being done, nor a repeated `store_new` for the bytes that it put itself. That a name is free is believed
//!   only when the server says so: no answer is never taken for "there is no such object".
//! - **Destroying** asks first what lies there. A place with anything that no store writes is left alone, and so is one
//!   without the marker that [`create`](Store::create) writes, unless its name is confirmed: a directory of somebody's
//!   files may look like a store.
//! - **Errors** name the backend, the object and what to do ([`Error`]). Secrets of the URL are not in them.
//!
//! **Levels.** On some backends a directory with very many objects is slow. A namespace can lie at a
//! nesting level from 0 to [`MAX_LEVEL`]: objects are stored at the level of its [`NamespaceOptions`],
//! and found there and at the older levels that they list; [`move_to_level`](Store::move_to_level) brings
//! an object to the current one. Storing removes what an older level holds under the same name.
//! Interrupted between the two, an object lies at two levels: the current one counts, and a listing shows
//! it twice.
//!
//! **Layout.** An object is a file (or key) `namespace/key`, at level 2 `namespace/ke/y0/key0…`, with the
//! suffix `.del` when soft-deleted. That is what borgstore writes, and either program reads what the
//! other wrote. Beside that, a store made here has a file `treering-store.hid` at its root, a name that borgstore passes over.
//!
//! The calls block, and may be made from any number of threads; [`Options::at_once`] bounds how many
//! requests are under way. They must not be made from within an async runtime.
//!
//! ```
//! use treering::store::{Namespace, Options, Store, StoreUrl};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let store = Store::create(&StoreUrl::file(dir.path().join("store"))?, Options::default())?;
//! let name = Namespace::new("data")?.name("0123abcd")?;
//! store.store(&name, b"some bytes")?;
//! assert_eq!(store.load_range(&name, 5, 5)?, b"bytes");
//!
//! store.soft_delete(&name)?;
//! assert!(store.load(&name).unwrap_err().is_not_found());
//! store.undelete(&name)?;
//! for item in store.list(name.namespace()) {
//!     assert_eq!(item?.name, name);
//! }
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;

use crate::progress::Progress;

mod backend;
mod cache;
mod calls;
mod error;
mod items;
#[cfg(feature = "stores")]
mod kept;
#[cfg(feature = "stores")]
mod listing;
mod load;
mod local;
mod name;
#[cfg(feature = "stores")]
mod net;
#[cfg(feature = "stores")]
mod objects;
mod options;
#[cfg(feature = "stores")]
mod rclone;
#[cfg(feature = "stores")]
mod sftp;
mod statistics;
#[cfg(feature = "stores")]
mod sweep;
mod url;

use backend::{Backend, Content, FileContent};
use cache::Cache;
use calls::Calls;
use local::Local;
use name::{DELETED, MARKER};
#[cfg(feature = "stores")]
use objects::Objects;
#[cfg(feature = "stores")]
use rclone::Rclone;
#[cfg(feature = "stores")]
use sftp::Ssh;
use url::Place;

pub use cache::{CacheMode, CachePolicy};
pub use calls::{Emulation, Retry};
pub use error::{Error, Reason};
pub use items::{Item, Items};
pub use load::{Algorithm, Span};
pub use local::{LocalOptions, Permissions, PermissionsError};
pub use name::{MAX_LEVEL, Name, NameError, Namespace};
pub use options::{NamespaceOptions, Options};
pub use statistics::{CacheFigures, Figures, Operation};
pub use url::{StoreUrl, UrlError, is_url};

/// A store that was there when it was opened.
pub struct Store {
    url: StoreUrl,
    backend: Box<dyn Backend>,
    calls: Calls,
    namespaces: BTreeMap<Namespace, NamespaceOptions>,
    max_object: u64,
    at_once: usize,
    cache: Option<Cache>,
}

/// What the marker holds, for whoever meets it.
const MARKER_TEXT: &[u8] =
    b"This is a store of objects, made by treering and laid out as borgstore does. Do not change its files.\n";

fn connect(url: &StoreUrl, options: &Options) -> Result<Box<dyn Backend>, Reason> {
    let local = &options.local;
    if !matches!(url.place, Place::File(_)) && (local.quota.is_some() || !local.permissions.is_empty()) {
        return Err(Reason::permanent("quota and permissions exist on local files only; leave them out"));
    }
    match &url.place {
        Place::File(path) => Ok(Box::new(Local::new(path, local.clone(), options.mode))),
        #[cfg(not(feature = "stores"))]
        _ => {
            let what = "treering was built without the feature `stores`: only stores in local directories can be used";
            Err(Reason::permanent(what))
        }
        #[cfg(feature = "stores")]
        Place::S3(place) => Ok(Box::new(Objects::s3(place, options.timeout)?)),
        #[cfg(feature = "stores")]
        Place::WebDav(place) => Ok(Box::new(Objects::webdav(place, options.timeout)?)),
        #[cfg(feature = "stores")]
        Place::Rclone(remote) => Ok(Box::new(Rclone::new(remote, &options.rclone, options.timeout)?)),
        #[cfg(feature = "stores")]
        Place::Sftp(place) => Ok(Box::new(Ssh::new(place, &options.ssh, options.timeout, options.mode)?)),
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.url).finish()
    }
}

impl Store {
    /// Makes a store at a place where there is nothing, or an empty directory, and opens it.
    pub fn create(url: &StoreUrl, options: Options) -> Result<Self, Error> {
        let store = Self::prepare(url, Operation::Create, options)?;
        let created = store
            .call(Operation::Create, None, |_| store.backend.create().map(|()| ((), 0)))
            .and_then(|()| {
                let marker = Content::Bytes(MARKER_TEXT);
                store.call(Operation::Create, None, |_| {
                    store.backend.store(MARKER, &marker, false).map(|()| ((), 0))
                })
            });
        if created.is_err() {
            store.backend.abandon();
        }
        created?;
        store.opened()
    }

    /// Opens a store that is there.
    pub fn open(url: &StoreUrl, options: Options) -> Result<Self, Error> {
        Self::prepare(url, Operation::Open, options)?.opened()
    }

    fn prepare(url: &StoreUrl, operation: Operation, options: Options) -> Result<Self, Error> {
        let failed = |url: &StoreUrl, reason| Error::new(url, operation, None, reason);
        for (namespace, options) in &options.namespaces {
            if options.older_levels.iter().chain([&options.level]).any(|level| *level > MAX_LEVEL) {
                let text =
                    format!("the levels of namespace {namespace} go beyond {MAX_LEVEL}; use smaller ones");
                return Err(failed(url, Reason::permanent(text)));
            }
        }
        let backend = connect(url, &options).map_err(|reason| failed(url, reason))?;
        let cache = match &options.cache {
            None => None,
            Some(place) => {
                let policies = options.namespaces.iter().map(|(name, options)| (name.clone(), options.cache));
                let nearer = Options { local: LocalOptions::default(), ..options.clone() };
                let cache = connect(place, &nearer).and_then(|backend| Cache::open(backend, policies));
                Some(cache.map_err(|reason| failed(place, reason))?)
            }
        };
        Ok(Self {
            url: url.clone(),
            backend,
            calls: Calls::new(options.retry, options.emulation, options.at_once),
            namespaces: options.namespaces,
            max_object: options.max_object,
            at_once: options.at_once.max(1),
            cache,
        })
    }

    fn opened(self) -> Result<Self, Error> {
        self.call(Operation::Open, None, |_| self.backend.check().map(|()| ((), 0)))?;
        Ok(self)
    }

    /// Removes the store with everything that it wrote, soft-deleted objects included. A place that holds
    /// anything else is left as it is, and the reason is [`Reason::Foreign`]. So is a directory that only looks like a
    /// store, since it has no marker ([`Reason::Unmarked`]): it goes if `confirmed` is its [name](StoreUrl::name).
    /// Another name spares any store.
    pub fn destroy(self, confirmed: Option<&str>) -> Result<(), Error> {
        let name = self.url.name();
        self.call(Operation::Destroy, None, |_| {
            match (self.backend.info(MARKER), confirmed) {
                (_, Some(confirmed)) if confirmed != name => Err(Reason::Misnamed { name: name.to_owned() }),
                (Ok(_), _) | (Err(Reason::NotFound), Some(_)) => Ok(((), 0)),
                // A place that is not empty tells more.
                (Err(Reason::NotFound), None) => Err(match self.backend.foreign()? {
                    Some(path) => Reason::Foreign { path },
                    None => Reason::Unmarked { name: name.to_owned() },
                }),
                (Err(reason), _) => Err(reason),
            }
        })?;
        self.call(Operation::Destroy, None, |_| match self.backend.foreign()? {
            None => Ok(((), 0)),
            Some(path) => Err(Reason::Foreign { path }),
        })?;
        self.call(Operation::Destroy, None, |attempt| match self.backend.destroy() {
            Err(Reason::NoStore) if attempt > 1 => Ok(((), 0)),
            result => result.map(|()| ((), 0)),
        })
    }

    /// Where the store is.
    pub fn url(&self) -> &StoreUrl {
        &self.url
    }

    /// Makes durable which objects `namespace` has at its uppermost level. An object that this store finds, and did not
    /// store itself, may be one whose writer was killed before that, or was told that it failed.
    pub fn sync(&self, namespace: &Namespace) -> Result<(), Error> {
        self.call(Operation::Store, Some(namespace), |_| Ok((self.backend.sync(&namespace.to_string())?, 0)))
    }

    /// Whether [`store_new`](Self::store_new) is one atomic step, also between processes.
    ///
    /// Where that depends on the server, this tries it with an object of its own in `namespace`: there are S3
    /// servers that ignore the condition and replace, and SFTP servers that only pretend to make links.
    pub fn is_exclusive(&self, namespace: &Namespace) -> Result<bool, Error> {
        self.call(Operation::Store, Some(namespace), |_| {
            let name = namespace.name(&format!("{}.probe", backend::random()?)).map_err(Reason::permanent)?;
            let path = name.path(self.level(&name)).map_err(Reason::permanent)?;
            Ok((self.backend.is_exclusive(&path)?, 0))
        })
    }

    /// What `operation` has cost so far.
    pub fn figures(&self, operation: Operation) -> Figures {
        self.calls.counters.figures(operation)
    }

    /// What the cache has done so far.
    pub fn cache_figures(&self) -> CacheFigures {
        self.cache.as_ref().map_or_else(CacheFigures::default, |cache| cache.counters().figures())
    }

    /// The objects of `namespace` that are not deleted, in no promised order.
    pub fn list(&self, namespace: &Namespace) -> Items<'_> {
        Items::new(self, namespace, false)
    }

    /// All objects of `namespace` that are not deleted and that `wanted` takes, of which there are `most` at most: a
    /// server may list ever more, so more are an error.
    pub fn list_within(
        &self,
        namespace: &Namespace,
        most: usize,
        wanted: impl Fn(&Item) -> bool,
    ) -> Result<Vec<Item>, Error> {
        let mut items = Vec::new();
        for item in self.list(namespace) {
            let item = item?;
            if !wanted(&item) {
                continue;
            }
            if items.len() >= most {
                let text =
                    format!("more than {most} objects lie there, which cannot be; check what is at the URL");
                let (place, reason) = (Some(namespace.to_string()), Reason::permanent(text));
                return Err(Error::new(&self.url, Operation::List, place, reason));
            }
            items.push(item);
        }
        Ok(items)
    }

    /// The objects of `namespace`, soft-deleted ones too.
    pub fn list_with_deleted(&self, namespace: &Namespace) -> Items<'_> {
        Items::new(self, namespace, true)
    }

    /// Stores `bytes`, replacing what the name held.
    pub fn store(&self, name: &Name, bytes: &[u8]) -> Result<(), Error> {
        self.put(name, &Content::Bytes(bytes), false)
    }

    /// Stores `bytes` under a name that no object has.
    pub fn store_new(&self, name: &Name, bytes: &[u8]) -> Result<(), Error> {
        self.put(name, &Content::Bytes(bytes), true)
    }

    /// Stores the content of `file`, replacing what the name held. Memory is bounded by a few pieces of
    /// 16 MiB, except with WebDAV, which takes the whole content at once.
    pub fn store_file(&self, name: &Name, file: &File) -> Result<(), Error> {
        self.store_content(name, file, None)
    }

    /// As [`store_file`](Self::store_file), telling `progress` of the bytes that go, and failing between two pieces when
    /// that says to stop.
    pub fn store_file_watched(&self, name: &Name, file: &File, progress: &Progress) -> Result<(), Error> {
        self.store_content(name, file, Some(progress))
    }

    fn store_content(&self, name: &Name, file: &File, progress: Option<&Progress>) -> Result<(), Error> {
        let content = FileContent::new(file, progress);
        let content = content.map_err(|error| self.error(Operation::Store, name, error.into()))?;
        self.put(name, &Content::File(content), false)
    }

    fn put(&self, name: &Name, content: &Content<'_>, new: bool) -> Result<(), Error> {
        let path = self.path(Operation::Store, name)?;
        let older = self.older_paths(name);
        if new {
            for path in &older {
                if self.exists(name, path)? {
                    return Err(self.error(Operation::Store, name, Reason::Exists));
                }
            }
        }
        let done = ((), content.size());
        let store = || {
            // Some backends take a content that ends for a failure that may pass.
            content.check()?;
            self.backend.store(&path, content, new)
        };
        self.call(Operation::Store, Some(name), |attempt| match store() {
            Ok(()) => Ok(done),
            Err(Reason::Exists) if attempt > 1 => {
                // Perhaps the attempt before this one did it, and only its answer was lost.
                match self.backend.load(&path, None, content.size()) {
                    Ok(held) if content.equals(&held)? => Ok(done),
                    Ok(_) | Err(Reason::TooLarge { .. }) => Err(Reason::Exists),
                    Err(Reason::NotFound) => Err(Reason::temporary("the name was taken, and is free again")),
                    Err(reason) => Err(reason),
                }
            }
            Err(reason) => Err(reason),
        })?;
        if let Some(cache) = &self.cache {
            cache.store(name.namespace(), &path, content);
        }
        let mut stored = false;
        for path in &older {
            // What an older level holds goes only when the new one is there to be seen.
            if self.exists(name, path)? {
                if !stored {
                    self.expect_stored(name, content.size())?;
                    stored = true;
                }
                self.remove(name, path)?;
            }
        }
        Ok(())
    }

    /// Looks whether the object has the size with which it was stored just now.
    fn expect_stored(&self, name: &Name, size: u64) -> Result<(), Error> {
        let path = self.path(Operation::Store, name)?;
        self.call(Operation::Info, Some(name), |_| match self.backend.info(&path) {
            Ok(entry) if entry.size == size => Ok(((), 0)),
            Ok(_) | Err(Reason::NotFound) => Err(backend::pretended("store")),
            Err(reason) => Err(reason),
        })
    }

    /// Size and time of the object.
    pub fn info(&self, name: &Name) -> Result<Item, Error> {
        let entry =
            self.at_levels(Operation::Info, name, |path, _| self.backend.info(path).map(|entry| (entry, 0)))?;
        Ok(Item { name: name.clone(), size: entry.size, modified: entry.modified })
    }

    /// Removes the object at once. [`soft_delete`](Self::soft_delete) is the kind that can be taken back.
    pub fn delete(&self, name: &Name) -> Result<(), Error> {
        let mut found = false;
        for path in self.paths(Operation::Delete, name)? {
            found |= self.remove(name, &path)?;
        }
        if found { Ok(()) } else { Err(self.error(Operation::Delete, name, Reason::NotFound)) }
    }

    /// Hides the object: it has the same name with the suffix `.del` until it is undeleted, deleted or
    /// soft-deleted again.
    pub fn soft_delete(&self, name: &Name) -> Result<(), Error> {
        self.relocate(&name.live(), false, |path| Some(format!("{path}{DELETED}")))
    }

    /// Takes a soft deletion back. Fails when an object of that name was stored since.
    pub fn undelete(&self, name: &Name) -> Result<(), Error> {
        self.expect_free(&name.live())?;
        self.relocate(&name.deleted(), true, |path| path.strip_suffix(DELETED).map(str::to_owned))
    }

    /// Gives the object another name, at the current level of its namespace. Fails when the new name is
    /// taken.
    pub fn rename(&self, name: &Name, new: &Name) -> Result<(), Error> {
        let path = self.path(Operation::Move, new)?;
        self.expect_free(new)?;
        self.relocate(name, true, |_| Some(path.clone()))
    }

    /// Brings the object from an older level to the current one; nothing happens when it is there.
    pub fn move_to_level(&self, name: &Name) -> Result<(), Error> {
        let path = self.path(Operation::Move, name)?;
        if self.exists(name, &path)? {
            return Ok(());
        }
        self.relocate(name, true, |_| Some(path.clone()))
    }

    /// Renames the object, from the level where it is found, to what `target` makes of its path. With `new`
    /// nothing is replaced there.
    fn relocate(&self, name: &Name, new: bool, target: impl Fn(&str) -> Option<String>) -> Result<(), Error> {
        self.at_levels(Operation::Move, name, |path, attempt| {
            let Some(target) = target(path).filter(|target| target != path) else {
                return Err(Reason::NotFound);
            };
            let done = ((), 0);
            match self.backend.rename(path, &target, new) {
                // Perhaps the attempt before this one did all of it, or half.
                Err(Reason::NotFound) if attempt > 1 => self.backend.info(&target).map(|_| done),
                Err(Reason::Exists) if attempt > 1 => match self.is_same(path, &target)? {
                    true => self.backend.delete(path).map(|()| done),
                    false => Err(Reason::Exists),
                },
                result => result.map(|()| done),
            }
        })?;
        if let (Some(cache), Ok(path)) = (&self.cache, self.path(Operation::Move, name)) {
            cache.delete(name.namespace(), &path);
        }
        Ok(())
    }

    /// Whether two objects have the same content.
    fn is_same(&self, one: &str, other: &str) -> Result<bool, Reason> {
        let size = self.backend.info(one)?.size;
        if self.backend.info(other)?.size != size {
            return Ok(false);
        }
        for start in (0..size).step_by(load::PIECE as usize) {
            let range = start..size.min(start + load::PIECE);
            let piece = |path| self.backend.load(path, Some(range.clone()), load::PIECE);
            if piece(one)? != piece(other)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether there was an object at `path` to remove.
    fn remove(&self, name: &Name, path: &str) -> Result<bool, Error> {
        if let Some(cache) = &self.cache {
            cache.delete(name.namespace(), path);
        }
        self.call(Operation::Delete, Some(name), |attempt| match self.backend.delete(path) {
            Ok(()) => Ok((true, 0)),
            Err(Reason::NotFound) => Ok((attempt > 1, 0)),
            Err(reason) => Err(reason),
        })
    }

    fn exists(&self, name: &Name, path: &str) -> Result<bool, Error> {
        self.call(Operation::Info, Some(name), |_| match self.backend.info(path) {
            Ok(_) => Ok((true, 0)),
            Err(Reason::NotFound) => Ok((false, 0)),
            Err(reason) => Err(reason),
        })
    }

    fn expect_free(&self, name: &Name) -> Result<(), Error> {
        for path in self.paths(Operation::Move, name)? {
            if self.exists(name, &path)? {
                return Err(self.error(Operation::Move, name, Reason::Exists));
            }
        }
        Ok(())
    }

    fn error(&self, operation: Operation, name: &Name, reason: Reason) -> Error {
        Error::new(&self.url, operation, Some(name.to_string()), reason)
    }

    /// Makes the call, for `subject` where it is for one object or namespace.
    fn call<T>(
        &self,
        operation: Operation,
        subject: Option<&dyn fmt::Display>,
        attempt: impl FnMut(u32) -> Result<(T, u64), Reason>,
    ) -> Result<T, Error> {
        self.calls.run(operation, attempt).map_err(|(reason, attempts)| {
            Error::new(&self.url, operation, subject.map(ToString::to_string), reason).after(attempts)
        })
    }

    /// Makes the call at the current level, and while the object is not found, at the older ones.
    fn at_levels<T>(
        &self,
        operation: Operation,
        name: &Name,
        mut attempt: impl FnMut(&str, u32) -> Result<(T, u64), Reason>,
    ) -> Result<T, Error> {
        for path in self.paths(operation, name)? {
            match self.call(operation, Some(name), |number| attempt(&path, number)) {
                Err(error) if error.is_not_found() => {}
                result => return result,
            }
        }
        Err(self.error(operation, name, Reason::NotFound))
    }

    /// The nesting level at which the object is stored.
    fn level(&self, name: &Name) -> u8 {
        self.namespaces.get(name.namespace()).map_or(0, |options| options.level)
    }

    /// Where the object is stored.
    fn path(&self, operation: Operation, name: &Name) -> Result<String, Error> {
        name.path(self.level(name)).map_err(|error| self.error(operation, name, Reason::permanent(error)))
    }

    /// Where else it may lie. A key too short for a level cannot lie there.
    fn older_paths(&self, name: &Name) -> Vec<String> {
        let options = self.namespaces.get(name.namespace());
        let levels = options.map_or(&[][..], |options| &options.older_levels);
        let current = options.map_or(0, |options| options.level);
        levels.iter().filter(|&&level| level != current).filter_map(|&level| name.path(level).ok()).collect()
    }

    fn paths(&self, operation: Operation, name: &Name) -> Result<Vec<String>, Error> {
        let mut paths = vec![self.path(operation, name)?];
        paths.append(&mut self.older_paths(name));
        Ok(paths)
    }
}
