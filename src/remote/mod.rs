//! Clones of a repository: push, pull, and the merge of what each added.
//!
//! [`Remotes`] are the other places where a repository lies, which git reaches. The `git` program moves the
//! data, so any URL that git takes will do, with the person's own ssh configuration and credential helpers.
//! Where it is not installed, paths still do, and what libgit2 was built for.
//! What is added here is how two branches become one:
//!
//! 1. Fetch, and see that what is there is the same repository, in a format that is known.
//! 2. Merge by tree: what either added since this clone last saw the other's tree, less what was removed here, and
//!    less what others removed if that was asked for; else it [stays](Remotes::taking_removals).
//!    The commit seen last is kept in the reference `refs/treering/seen/<remote>`. The commit at which both histories
//!    parted takes its place where it says more, as in a copy that git made.
//! 3. Move this repository's branch, if it is still where it was; otherwise merge again.
//! 4. Remember the commit as seen, or push. When somebody else was faster at that, begin again, a bounded
//!    number of times.
//!
//! History counts for one thing only: a commit that another one descends from has been seen by whoever made
//! that. So a remote that was set back to an older state takes nothing away. Trees without a common history,
//! as after pruning, are merged by what was seen alone.
//!
//! Interrupted at any instant, the repository is as it was or has the merged branch. Between merging and
//! remembering the commit that was merged there is an instant, and after it the merge is made again, to the
//! same result.
//!
//! Pruning begins a new history. The next push puts it in the place of the remote's, if the remote is still
//! where it was last seen; nothing is lost with that, since the tree has all that either side kept. Who merges
//! a history that began anew goes on from it and drops their own. So what was pruned can be freed everywhere.
//! A remote that allows no such push (`receive.denyNonFastForwards`) takes pushes until somebody prunes.
//!
//! A *cold* remote is a [store](crate::store) of layers, which this module reaches itself: `docs/format.md` says
//! what lies there. Its head takes the place of the fetched branch, and all else is as above. What describes
//! snapshots is brought here, and data stays there, to be read by ranges ([`cold_reader`]), until
//! [`Remotes::fetch_layers`] brings it. [`Remotes::evict_layers`] gives the disk back that data takes which is
//! found to be there. A push sends layers before the head that lists them, so it can be killed at any instant,
//! and removes from the store what nothing needs any more.
//!
//! Not done here: locking git remotes, encrypting, and looking at the content of what is fetched beyond its
//! configuration.
//!
//! ```
//! use treering::gitkv::{Git, Person};
//! use treering::remote::Remotes;
//! use treering::repository::{FORMAT_VERSION, InitOptions, Repository};
//!
//! let dir = tempfile::tempdir()?;
//! let now = jiff::Timestamp::now();
//! let repository = Repository::init(&dir.path().join("repo"), &InitOptions::new(now))?;
//! let hub = dir.path().join("hub.git");
//! Git::init(&hub, &[])?;
//!
//! let remotes = Remotes::open(repository.path(), FORMAT_VERSION)?;
//! remotes.add("origin", hub.to_str().expect("a temporary directory has a name in UTF-8"))?;
//! let who = Person::new("A Writer", "writer@example.org", now);
//! remotes.push("origin", &who)?;
//!
//! let url = hub.to_str().expect("it was one before");
//! let clone = Remotes::clone_from(url, &dir.path().join("clone"), FORMAT_VERSION)?;
//! assert!(clone.pull("origin", &who)?.is_zero());
//! assert!(Repository::open(&dir.path().join("clone"))?.snapshots()?.is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod aside;
mod bring;
mod cold;
mod contents;
mod error;
mod exchange;
mod head;
mod kept;
mod layers;
mod merge;
mod mounts;
mod objects;
mod publish;
mod removal;
mod rescue;
mod seen;
mod stores;
mod uploads;

use std::fs::{self, File};
use std::io;
use std::path::{self, Path};
use std::sync::Arc;

use crate::atomic::{self, NewDirs};
use crate::format::CONFIG;
use crate::gitkv::{Access, BLOCKS, Git, GitError, GitRemote, HEADS, PRIVATE, Person};
use crate::layers::Cold;
use crate::progress::Progress;
use crate::store::StoreUrl;
use crate::trust;
use crate::url::Url;

use bring::Bring;
use seen::seen;
use stores::{ColdPacks, Stores};

pub use error::RemoteError;
pub use exchange::{Pulled, Pushed};
pub use head::LayerKind;
#[doc(hidden)]
pub use head::fuzz_head;
pub use kept::KeptHere;
pub use layers::{LayerStatus, Merged, Moved};
pub use merge::SnapshotCount;
pub use removal::Removed;
pub use stores::ColdOptions;

/// The remote that goes without saying, and that a clone came from.
pub const ORIGIN: &str = "origin";

/// How many bytes of blobs are pushed at once, where commits allow it: what an interrupted push has to do
/// again.
const STEP: u64 = 1 << 30;

/// A repository, and the remotes that it exchanges snapshots with.
pub struct Remotes {
    git: Git,
    newest_format: u32,
    step: u64,
    stores: Arc<Stores>,
    take_removals: bool,
}

/// What kind of place a remote is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoteKind {
    /// A git repository.
    Git,
    /// A store of layers.
    Cold,
}

/// A remote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// What it is called here.
    pub name: String,
    /// Where it is. Printed, it shows no secret.
    pub url: Url,
    /// What it is.
    pub kind: RemoteKind,
}

/// Whether `url` is that of a cold remote: one that [`StoreUrl`] takes, but not a `file:` URL where a git
/// repository lies.
pub fn is_cold_url(url: impl Into<Url>) -> bool {
    expect_cold_or_git(&url.into()).unwrap_or(false)
}

/// The same of a URL that is to be used. What begins as the URL of a store and is none is never taken for one of git,
/// which would keep and show what is in it.
fn expect_cold_or_git(url: &Url) -> Result<bool, RemoteError> {
    match StoreUrl::try_from(url) {
        Ok(_) => Ok(!is_git_there(url)),
        Err(reason) if url.looks_like_store() => Err(RemoteError::StoreUrl { url: url.clone(), reason }),
        Err(_) => match url.for_git() {
            Ok(_) => Ok(false),
            Err(reason) => Err(GitError::Address { url: url.clone(), reason }.into()),
        },
    }
}

/// The path of a `file:` URL.
fn file_path(url: &Url) -> Option<&Path> {
    url.reveal().strip_prefix("file://").map(Path::new)
}

/// Whether a git repository lies at the path of a `file:` URL.
fn is_git_there(url: &Url) -> bool {
    let is_git = |path: &Path| path.join("HEAD").is_file() || path.join(".git").exists();
    file_path(url).is_some_and(is_git)
}

/// Whether a `file:` URL is that of a git repository by its name, and nothing lies there now.
fn is_git_gone(url: &Url) -> bool {
    let is_gone = |path: &Path| path.extension().is_some_and(|end| end == "git") && !path.exists();
    file_path(url).is_some_and(is_gone)
}

/// What reads layers from the cold remotes of the repository at `path`; `None` when it has no cold remotes.
pub fn cold_reader(path: &Path, options: &ColdOptions) -> Option<Arc<Cold>> {
    let private = path.join(PRIVATE);
    // Reading makes no store.
    let stores = Stores::new(&private, &options.store, Access::Owner);
    stores.may_be_any().then(|| reader(&private, Arc::new(stores), options.cache_bytes))
}

fn reader(private: &Path, stores: Arc<Stores>, cache_bytes: u64) -> Arc<Cold> {
    Arc::new(Cold::new(Arc::new(ColdPacks::new(stores)), &private.join(BLOCKS), cache_bytes))
}

impl Remotes {
    /// Of the repository at `path`, where `newest_format` is the newest format that the program reads.
    pub fn open(path: &Path, newest_format: u32) -> Result<Self, RemoteError> {
        Self::open_with(path, newest_format, &ColdOptions::default())
    }

    /// As [`open`](Self::open), with cold remotes that are used as `options` say.
    pub fn open_with(path: &Path, newest_format: u32, options: &ColdOptions) -> Result<Self, RemoteError> {
        let mut git = Git::open(path)?;
        git.find_branch(CONFIG)?;
        let remotes = Self::new(git, newest_format, options);
        if remotes.stores.may_be_any() {
            let private = remotes.git.path().join(PRIVATE);
            remotes.git.read_cold(reader(&private, Arc::clone(&remotes.stores), options.cache_bytes))?;
        }
        Ok(remotes)
    }

    fn new(git: Git, newest_format: u32, options: &ColdOptions) -> Self {
        let access = if git.is_shared() { Access::Group } else { Access::Owner };
        let stores = Arc::new(Stores::new(&git.path().join(PRIVATE), &options.store, access));
        Self { git, newest_format, step: STEP, stores, take_removals: false }
    }

    /// Makes a clone of the repository at `url` at `path`, where nothing or an empty directory may be. Its
    /// remote is [`ORIGIN`]. Of a cold remote everything is brought here.
    ///
    /// It appears when it is complete. A process that is killed leaves a directory beside it whose name
    /// begins with [`TEMP_PREFIX`](crate::atomic::TEMP_PREFIX); the next clone into the same directory removes it.
    pub fn clone_from(url: impl Into<Url>, path: &Path, newest_format: u32) -> Result<Self, RemoteError> {
        Self::clone_with(url, path, newest_format, &ColdOptions::default())
    }

    /// As [`clone_from`](Self::clone_from), where cold remotes are used as `options` say.
    pub fn clone_with(
        url: impl Into<Url>,
        path: &Path,
        newest_format: u32,
        options: &ColdOptions,
    ) -> Result<Self, RemoteError> {
        Self::clone_watched(url, path, newest_format, options, &Progress::new())
    }

    /// As [`clone_with`](Self::clone_with), telling `progress` of the bytes that come, and stopping when that
    /// says so.
    pub fn clone_watched(
        url: impl Into<Url>,
        path: &Path,
        newest_format: u32,
        options: &ColdOptions,
        progress: &Progress,
    ) -> Result<Self, RemoteError> {
        let url = url.into();
        let is_cold = expect_cold_or_git(&url)?;
        Self::clone_by(path, newest_format, options, |clone| match is_cold {
            true => clone.adopt_cold(&url, Bring::Everything, progress),
            false => {
                clone.add_unrecorded(ORIGIN, &url)?;
                clone.git.fetch_with(ORIGIN, progress).map_err(RemoteError::of(ORIGIN))?;
                let other = clone.on_the_branch_of(ORIGIN)?;
                match other.as_ref().unwrap_or(clone).adopt_tracked(ORIGIN)? {
                    true => Ok(()),
                    false => Err(RemoteError::Empty(url.clone())),
                }
            }
        })
    }

    /// As [`clone_with`](Self::clone_with), of a cold remote of which only what describes is brought here. The
    /// rest is read from there by ranges where it is needed.
    pub fn clone_cold(
        url: impl Into<Url>,
        path: &Path,
        newest_format: u32,
        options: &ColdOptions,
    ) -> Result<Self, RemoteError> {
        Self::clone_cold_watched(url, path, newest_format, options, &Progress::new())
    }

    /// As [`clone_cold`](Self::clone_cold), telling `progress` of the bytes that come, and stopping when that says
    /// so.
    pub fn clone_cold_watched(
        url: impl Into<Url>,
        path: &Path,
        newest_format: u32,
        options: &ColdOptions,
        progress: &Progress,
    ) -> Result<Self, RemoteError> {
        let url = url.into();
        if !expect_cold_or_git(&url)? {
            return Err(RemoteError::NotCold(url.to_string()));
        }
        Self::clone_by(path, newest_format, options, |clone| clone.adopt_cold(&url, Bring::Indexes, progress))
    }

    fn clone_by(
        path: &Path,
        newest_format: u32,
        options: &ColdOptions,
        bring: impl FnOnce(&Self) -> Result<(), RemoteError>,
    ) -> Result<Self, RemoteError> {
        let is_free = match fs::read_dir(path) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        };
        if !is_free {
            let is_one = Git::open(path).is_ok_and(|git| holds_repository(git).unwrap_or(false));
            return Err(match is_one {
                true => RemoteError::Present(path.to_owned()),
                false => RemoteError::Occupied(path.to_owned()),
            });
        }
        let beside = atomic::parent(path);
        let new = NewDirs::make(beside).map_err(RemoteError::io("make", beside))?;
        let temporary = Unfinished::begin(beside).map_err(RemoteError::io("write to", beside))?;
        let unfinished = temporary.dir.path().join("clone");
        bring(&Self::new(Git::init(&unfinished, &[])?, newest_format, options))?;
        fs::rename(&unfinished, path).map_err(RemoteError::io("make", path))?;
        new.keep();
        atomic::sync_dir(beside).map_err(RemoteError::io("sync", beside))?;
        let clone = Self::open_with(path, newest_format, options)?;
        clone.trust_remote(ORIGIN)?;
        Ok(clone)
    }

    /// This repository, which has nothing yet, on the branch that a remote has of it, where that is called
    /// differently.
    fn on_the_branch_of(&self, remote: &str) -> Result<Option<Self>, RemoteError> {
        let branch = self.branch_of(remote)?;
        if branch == self.git.branch() {
            return Ok(None);
        }
        self.git.set_head(&branch)?;
        let git = Git::open(self.git.path())?;
        Ok(Some(Self {
            git,
            newest_format: self.newest_format,
            step: self.step,
            stores: Arc::clone(&self.stores),
            take_removals: self.take_removals,
        }))
    }

    /// The full name of the branch that a remote, which was fetched, has of this repository: the one that was followed, or
    /// one of the same name, or the only one.
    fn branch_of(&self, remote: &str) -> Result<String, RemoteError> {
        let prefix = format!("refs/remotes/{remote}/");
        let mut branches = self.git.branches_with(&prefix, CONFIG)?;
        if let Some(own) = self.own_id(remote)? {
            let mut alike = Vec::new();
            for branch in &branches {
                if self.id_at(remote, &format!("{prefix}{branch}"))?.as_ref() == Some(&own) {
                    alike.push(branch.clone());
                }
            }
            branches = if alike.is_empty() { branches } else { alike };
        }
        let full = |branch: &String| format!("{HEADS}{branch}");
        let own = self.git.branch().to_owned();
        for wanted in [self.git.branch_in(remote), own.clone()] {
            if branches.iter().any(|branch| full(branch) == wanted) {
                return Ok(wanted);
            }
        }
        match branches.as_slice() {
            [] => Ok(own),
            [only] => Ok(full(only)),
            several => {
                let (remote, branches) = (remote.to_owned(), several.join(", "));
                let own = own.strip_prefix(HEADS).unwrap_or(&own).to_owned();
                Err(RemoteError::SeveralBranches { remote, branches, own })
            }
        }
    }

    /// Finds the branch that a remote, which was fetched, has of this repository.
    fn find_branch_of(&self, remote: &str) -> Result<(), RemoteError> {
        let branch = self.branch_of(remote)?;
        if branch == self.git.branch_in(remote) {
            return Ok(());
        }
        let known = self.known(remote)?.map(|known| known.commit);
        self.git.follow_branch(remote, &branch)?;
        // What was seen of another branch says nothing of what was removed from this one.
        if known.is_some() && self.git.reference(&self.git.tracking(remote))? != known {
            self.git.remove_reference(&seen(remote))?;
            self.git.remove_trace(remote)?;
        }
        Ok(())
    }

    /// Takes a cold remote's branch for this repository's, which has nothing yet.
    fn adopt_cold(&self, url: &Url, bring: Bring, progress: &Progress) -> Result<(), RemoteError> {
        self.add_unrecorded(ORIGIN, url)?;
        // Nobody commits unless two writers met there.
        let who = Person::new("treering", "treering@localhost", jiff::Timestamp::UNIX_EPOCH);
        self.pull_cold(ORIGIN, &who, bring, progress)?;
        match self.git.head()? {
            Some(_) => Ok(()),
            None => Err(RemoteError::NotPushed(ORIGIN.to_owned())),
        }
    }

    /// Whether the group of the repository is to read and write what is written into it; see [`Git::is_shared`].
    pub fn is_shared(&self) -> bool {
        self.git.is_shared()
    }

    /// The remotes, in the order of their names.
    pub fn list(&self) -> Result<Vec<Remote>, RemoteError> {
        let (remotes, unread) = self.list_readable()?;
        unread.into_iter().next().map_or(Ok(remotes), Err)
    }

    /// The remotes whose addresses this process may read, in order of their names, and why it cannot read others.
    pub fn list_readable(&self) -> Result<(Vec<Remote>, Vec<RemoteError>), RemoteError> {
        let git = self.git.remotes()?.into_iter();
        let git = git.map(|GitRemote { name, url }| Remote { name, url, kind: RemoteKind::Git });
        let mut remotes: Vec<_> = git.collect();
        let mut unread = Vec::new();
        let stores = self.stores.names().unwrap_or_else(|error| {
            unread.push(error);
            Vec::new()
        });
        for name in stores {
            let url = match self.stores.url(&name) {
                Ok(Some(url)) => url,
                Ok(None) => continue,
                Err(error) => {
                    unread.push(error);
                    continue;
                }
            };
            let kind = if self.is_misjudged(&name, &url) { RemoteKind::Git } else { RemoteKind::Cold };
            remotes.push(Remote { name, url: url.url().clone(), kind });
        }
        remotes.sort_by(|one, other| one.name.cmp(&other.name));
        Ok((remotes, unread))
    }

    /// The names of all remotes.
    fn names(&self) -> Result<Vec<String>, RemoteError> {
        let mut names: Vec<_> = self.git.remotes()?.into_iter().map(|remote| remote.name).collect();
        names.extend(self.stores.names()?);
        Ok(names)
    }

    /// Adds a remote under a new name, a cold one where [`is_cold_url`] says so. A path is remembered as an
    /// absolute one. Nothing is looked at there yet, but for the path of a `file:` URL: a git repository there makes it
    /// one that git reaches, also if it comes before the first push or pull. Where nothing is at a path that ends with
    /// `.git`, it cannot be told what is meant.
    ///
    /// Who gives the address trusts it: this is remembered for the repository where it is.
    pub fn add(&self, name: &str, url: impl Into<Url>) -> Result<(), RemoteError> {
        self.add_unrecorded(name, &url.into())?;
        self.trust_remote(name).map(drop)
    }

    /// Trusts what in this repository could start programs or use the person's credentials: the address of the remote
    /// `name`, or of all remotes and the settings and hooks of git as they are now. What they are called.
    pub fn trust(&self, name: Option<&str>) -> Result<Vec<String>, RemoteError> {
        let mut trusted = Vec::new();
        let names = match name {
            Some(name) => vec![name.to_owned()],
            None => {
                trusted.extend(self.git.trust_settings()?);
                let mut names = self.names()?;
                names.sort_unstable();
                names
            }
        };
        for name in names {
            if self.trust_remote(&name)? {
                trusted.push(format!("the address of {name}"));
            }
        }
        Ok(trusted)
    }

    fn trust_remote(&self, name: &str) -> Result<bool, RemoteError> {
        match self.git.remotes()?.into_iter().find(|remote| remote.name == name) {
            Some(remote) => Ok(self.git.trust_address(&remote.url)?),
            None => self.stores.trust(name),
        }
    }

    /// As [`add`](Self::add), and trusts the address only as long as this process runs.
    fn add_unrecorded(&self, name: &str, url: &Url) -> Result<(), RemoteError> {
        trust::say(url);
        if !GitRemote::is_name(name) {
            return Err(RemoteError::Name(name.to_owned()));
        }
        if self.names()?.iter().any(|known| known == name) {
            return Err(RemoteError::Exists(name.to_owned()));
        }
        let path = file_path(url).unwrap_or_else(|| Path::new(url.reveal())).canonicalize();
        if path.is_ok_and(|path| self.git.path().canonicalize().is_ok_and(|own| own == path)) {
            return Err(RemoteError::Itself(name.to_owned()));
        }
        // Git would take `file` for the name of a host.
        if let Some(path) = url.reveal().strip_prefix("file:").filter(|rest| !rest.starts_with("//")) {
            return Err(RemoteError::FileUrl { url: url.clone(), path: path.to_owned() });
        }
        if is_git_gone(url) {
            return Err(RemoteError::NothingThere(url.clone()));
        }
        let is_cold = expect_cold_or_git(url)?;
        if !is_cold {
            Git::expect_known_format(url)?;
        }
        // What was seen of an earlier remote of that name says nothing of this one.
        self.git.remove_reference(&seen(name))?;
        self.git.remove_trace(name)?;
        self.forget_removals(name)?;
        match is_cold {
            true if name.contains('/') => Err(RemoteError::Name(name.to_owned())),
            true => self.stores.add(name, url),
            false => Ok(self.git.add_remote(name, absolute(url)?)?),
        }
    }

    /// Forgets a remote, and what was seen of it. What lies there stays as it is. A cold remote that holds
    /// layers which are nowhere else is not forgotten.
    pub fn remove(&self, name: &str) -> Result<(), RemoteError> {
        self.expect(name)?;
        if !self.is_cold(name)? {
            self.git.remove_reference(&seen(name))?;
            self.git.remove_trace(name)?;
            self.git.remove_remote(name)?;
            return self.forget_removals(name);
        }
        let only_there = |layer: &LayerStatus| !layer.is_here && layer.remotes == [name];
        if let Some(layer) = self.layers()?.iter().find(|layer| only_there(layer)) {
            return Err(RemoteError::OnlyThere { remote: name.to_owned(), layer: layer.name.clone() });
        }
        self.git.remove_reference(&seen(name))?;
        self.git.remove_trace(name)?;
        self.git.remove_reference(&self.git.tracking(name))?;
        self.stores.remove(name)
    }

    /// The remote that is meant where none is named: [`ORIGIN`], or the only one.
    pub fn default_name(&self) -> Result<String, RemoteError> {
        let mut names = self.names()?;
        match names.iter().position(|name| name == ORIGIN) {
            Some(at) => Ok(names.swap_remove(at)),
            None if names.len() == 1 => Ok(names.remove(0)),
            None if names.is_empty() => Err(RemoteError::NoRemote),
            None => Err(RemoteError::NotNamed),
        }
    }

    /// That there is a remote of that name.
    fn expect(&self, name: &str) -> Result<(), RemoteError> {
        match self.names()?.iter().any(|known| known == name) {
            true => Ok(()),
            false => Err(RemoteError::Unknown(name.to_owned())),
        }
    }

    /// Whether it is a cold remote. One that was taken for that before its git repository was there becomes one that
    /// git reaches.
    fn is_cold(&self, name: &str) -> Result<bool, RemoteError> {
        let Some(url) = self.stores.url(name)? else { return Ok(false) };
        if !self.is_misjudged(name, &url) {
            return Ok(true);
        }
        // Killed between the two, it comes here again.
        if !self.git.remotes()?.iter().any(|remote| remote.name == name) {
            self.git.add_remote(name, url.url().clone())?;
        }
        self.stores.remove(name)?;
        Ok(false)
    }

    /// Whether a remote was taken for a cold one since nothing was there, as on a disk that is not mounted, and is a git
    /// repository.
    fn is_misjudged(&self, name: &str, url: &StoreUrl) -> bool {
        is_git_there(url.url()) && matches!(self.stores.seen(name), Ok(None))
    }

    /// That there is a cold remote of that name.
    fn expect_cold(&self, name: &str) -> Result<(), RemoteError> {
        self.expect(name)?;
        match self.is_cold(name)? {
            true => Ok(()),
            false => Err(RemoteError::NotCold(name.to_owned())),
        }
    }
}

/// What the name of an unfinished clone has after [`TEMP_PREFIX`](atomic::TEMP_PREFIX).
const CLONE: &str = "clone-";

/// The directory of a clone that is being made, removed when dropped.
struct Unfinished {
    dir: tempfile::TempDir,
    _lock: File,
}

impl Unfinished {
    /// Makes one in the directory `beside`, and removes those whose makers are dead.
    fn begin(beside: &Path) -> io::Result<Self> {
        let prefix = format!("{}{CLONE}", atomic::TEMP_PREFIX);
        // Whoever has the turn finds each one either locked or left behind. Where nothing can be locked, all stay.
        let turn = File::open(beside)?;
        if turn.lock().is_ok() {
            Self::remove_dead(beside, &prefix)?;
        }
        let dir = atomic::private_dir_in(beside, &prefix)?;
        let lock = File::create_new(dir.path().join(atomic::DIR_LOCK))?;
        // Nobody else knows it yet.
        let _ = lock.try_lock();
        Ok(Self { dir, _lock: lock })
    }

    /// Removes those in `beside` that nobody has locked.
    fn remove_dead(beside: &Path, prefix: &str) -> io::Result<()> {
        for entry in fs::read_dir(beside)? {
            let entry = entry?;
            let is_one = entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes());
            if is_one && entry.file_type()?.is_dir() {
                let lock = File::open(entry.path().join(atomic::DIR_LOCK));
                let is_alive = lock.is_ok_and(|lock| lock.try_lock().is_err());
                if !is_alive && let Err(error) = fs::remove_dir_all(entry.path()) {
                    // That of another user, say. It is in nobody's way.
                    tracing::debug!(%error, path = %entry.path().display(), "an unfinished clone stays");
                }
            }
        }
        Ok(())
    }
}

/// Whether a branch of a git repository is that of a treering repository.
fn holds_repository(mut git: Git) -> Result<bool, GitError> {
    git.find_branch(CONFIG)?;
    let Some(head) = git.head()? else { return Ok(false) };
    Ok(git.find(&head, CONFIG.as_bytes())?.is_some())
}

/// A URL that means the same in every directory.
fn absolute(url: &Url) -> Result<Url, RemoteError> {
    let Some(path) = url.path() else { return Ok(url.clone()) };
    let path = path::absolute(path).map_err(RemoteError::io("find", Path::new(path)))?;
    Ok(Url::from(path.to_string_lossy().into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_becomes_absolute_and_a_url_stays() {
        for url in [
            "ssh://git@example.org/rings.git",
            "git@example.org:rings.git",
            "file:///srv/rings",
            "/srv/rings",
        ] {
            assert_eq!(absolute(&url.into()).unwrap().reveal(), url);
        }
        let here = std::env::current_dir().unwrap();
        for path in ["rings", "rings/a:b"] {
            assert_eq!(absolute(&path.into()).unwrap().reveal(), here.join(path).to_str().unwrap());
        }
    }

    #[test]
    fn remotes_are_added_once_and_removed_by_name() {
        let dir = tempfile::tempdir().unwrap();
        Git::init(&dir.path().join("repo"), &[]).unwrap();
        let remotes = Remotes::open(&dir.path().join("repo"), 1).unwrap();
        assert!(matches!(remotes.default_name(), Err(RemoteError::NoRemote)));
        remotes.add("disk", "/mnt/disk").unwrap();
        assert_eq!(remotes.default_name().unwrap(), "disk");
        remotes.add("cloud", "git@example.org:rings.git").unwrap();
        assert!(matches!(remotes.default_name(), Err(RemoteError::NotNamed)));
        assert!(matches!(remotes.add("disk", "/elsewhere"), Err(RemoteError::Exists(_))));
        for name in ["", "-x", "a b", "..", "a:b"] {
            assert!(matches!(remotes.add(name, "/x"), Err(RemoteError::Name(_))), "{name:?}");
        }
        let names: Vec<_> = remotes.list().unwrap().into_iter().map(|remote| remote.name).collect();
        assert_eq!(names, ["cloud", "disk"]);
        remotes.remove("disk").unwrap();
        assert!(matches!(remotes.remove("disk"), Err(RemoteError::Unknown(_))));
        assert_eq!(remotes.list().unwrap().len(), 1);
    }
}
