//! Clones of a repository: push, pull, and the merge of what each added.
//!
//! [`Remotes`] are the other places where a repository lies, which git reaches. The `git` program moves the
//! data, so any URL that git takes will do, with the person's own ssh configuration and credential helpers.
//! What is added here is how two branches become one:
//!
//! 1. Fetch, and see that what is there is the same repository, in a format that is known.
//! 2. Merge by tree: what either added since this clone last saw the other's tree, less what either removed.
//!    The commit seen last is kept in the reference `refs/treering/seen/<remote>`.
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
//! Not done here: locking the remote, encrypting, and looking at the content of what is fetched beyond its
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

mod error;
mod exchange;
mod merge;

use std::fs;
use std::path::{self, Path};

use crate::atomic;
use crate::gitkv::{Git, GitRemote, SEEN};

pub use error::RemoteError;
pub use exchange::Pushed;
pub use merge::SnapshotCount;

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
}

impl Remotes {
    /// Of the repository at `path`, where `newest_format` is the newest format that the program reads.
    pub fn open(path: &Path, newest_format: u32) -> Result<Self, RemoteError> {
        Ok(Self { git: Git::open(path)?, newest_format, step: STEP })
    }

    /// Makes a clone of the repository at `url` at `path`, where nothing or an empty directory may be. Its
    /// remote is [`ORIGIN`].
    ///
    /// It appears when it is complete. A process that is killed leaves a directory beside it whose name
    /// begins with [`TEMP_PREFIX`](crate::atomic::TEMP_PREFIX).
    pub fn clone_from(url: &str, path: &Path, newest_format: u32) -> Result<Self, RemoteError> {
        let is_free = match fs::read_dir(path) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        };
        if !is_free {
            return Err(RemoteError::Occupied(path.to_owned()));
        }
        let beside = atomic::parent(path);
        fs::create_dir_all(beside).map_err(RemoteError::io("make", beside))?;
        let temporary = tempfile::Builder::new().prefix(atomic::TEMP_PREFIX).tempdir_in(beside);
        let temporary = temporary.map_err(RemoteError::io("write to", beside))?;
        let unfinished = temporary.path().join("clone");
        let clone = Self { git: Git::init(&unfinished, &[])?, newest_format, step: STEP };
        clone.add(ORIGIN, url)?;
        if !clone.adopt(ORIGIN)? {
            return Err(RemoteError::Empty(url.to_owned()));
        }
        fs::rename(&unfinished, path).map_err(RemoteError::io("make", path))?;
        atomic::sync_dir(beside).map_err(RemoteError::io("sync", beside))?;
        Self::open(path, newest_format)
    }

    /// The remotes, in the order of their names.
    pub fn list(&self) -> Result<Vec<GitRemote>, RemoteError> {
        let mut remotes = self.git.remotes()?;
        remotes.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(remotes)
    }

    /// Adds a remote under a new name. A path is remembered as an absolute one.
    pub fn add(&self, name: &str, url: &str) -> Result<(), RemoteError> {
        if !GitRemote::is_name(name) {
            return Err(RemoteError::Name(name.to_owned()));
        }
        if self.git.remotes()?.iter().any(|remote| remote.name == name) {
            return Err(RemoteError::Exists(name.to_owned()));
        }
        // What was seen of an earlier remote of that name says nothing of this one.
        self.git.remove_reference(&seen(name))?;
        self.git.remove_trace(name)?;
        Ok(self.git.add_remote(name, &absolute(url)?)?)
    }

    /// Forgets a remote, and what was seen of it. What lies there stays as it is.
    pub fn remove(&self, name: &str) -> Result<(), RemoteError> {
        self.expect(name)?;
        self.git.remove_reference(&seen(name))?;
        self.git.remove_trace(name)?;
        Ok(self.git.remove_remote(name)?)
    }

    /// The remote that is meant where none is named: [`ORIGIN`], or the only one.
    pub fn default_name(&self) -> Result<String, RemoteError> {
        let mut remotes = self.list()?;
        match remotes.iter().position(|remote| remote.name == ORIGIN) {
            Some(at) => Ok(remotes.swap_remove(at).name),
            None if remotes.len() == 1 => Ok(remotes.remove(0).name),
            None => Err(RemoteError::NotNamed),
        }
    }

    /// That there is a remote of that name.
    fn expect(&self, name: &str) -> Result<(), RemoteError> {
        match self.git.remotes()?.iter().any(|remote| remote.name == name) {
            true => Ok(()),
            false => Err(RemoteError::Unknown(name.to_owned())),
        }
    }
}

/// The reference to the commit of a remote that was last merged or pushed.
fn seen(remote: &str) -> String {
    format!("{SEEN}{remote}")
}

/// A URL that means the same in every directory. As git has it, whatever has no scheme and no colon before
/// the first slash is a path.
fn absolute(url: &str) -> Result<String, RemoteError> {
    let is_path = !url.contains("://") && !url.split('/').next().is_some_and(|first| first.contains(':'));
    if !is_path {
        return Ok(url.to_owned());
    }
    let path = path::absolute(url).map_err(RemoteError::io("find", Path::new(url)))?;
    Ok(path.to_string_lossy().into_owned())
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
            assert_eq!(absolute(url).unwrap(), url);
        }
        let here = std::env::current_dir().unwrap();
        for path in ["rings", "rings/a:b"] {
            assert_eq!(absolute(path).unwrap(), here.join(path).to_str().unwrap());
        }
    }

    #[test]
    fn remotes_are_added_once_and_removed_by_name() {
        let dir = tempfile::tempdir().unwrap();
        Git::init(&dir.path().join("repo"), &[]).unwrap();
        let remotes = Remotes::open(&dir.path().join("repo"), 1).unwrap();
        assert!(matches!(remotes.default_name(), Err(RemoteError::NotNamed)));
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
