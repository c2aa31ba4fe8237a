//! Transactions over the refs and trees of a git repository.
//!
//! [`GitKv`] is the simple thing: keys and values, opened like files, changed in transactions. What follows
//! is what it stands on.
//!
//! [`Git`] reads objects from [layers](crate::layers), and whatever else git may have put there through
//! libgit2. A [`Transaction`] changes the tree of the repository's branch:
//!
//! 1. Blobs go into layers of the transaction, which nobody sees.
//! 2. [`Transaction::commit`] writes the trees that a [`TreeEdit`] changes and a commit, and makes the layers
//!    durable.
//! 3. Only then the branch moves, if it is still where it was; and the move is durable when `commit` returns.
//! 4. If somebody else moved it, the edit is applied to what they left, a bounded number of times.
//!
//! A process that dies on the way leaves the branch where it was, and a marker by which [`Git::sweep`] knows
//! that there may be layers and temporary files to remove. Locks that outlive their process do not exist:
//! writers exclude the sweep, and each other while a branch moves, by `flock`, which ends with the process.
//! The branch's `.lock` file, by which git programs and this one exclude each other, is recognised and
//! removed when a dead process of this program left it. One that git left cannot be told from one in use; it
//! is an error that names the file.
//!
//! ```
//! use treering::gitkv::{Git, Person, TreeEdit};
//!
//! let dir = tempfile::tempdir()?;
//! let git = Git::init(&dir.path().join("repo.git"), &[])?;
//! let mut transaction = git.begin()?;
//! let blob = transaction.blob(b"hello, ring")?;
//! let mut edit = TreeEdit::new();
//! edit.set(b"greetings/one", blob)?;
//! let who = Person::new("A Writer", "writer@example.org", "2026-11-20T19:55:12Z".parse()?);
//! let committed = transaction.commit(&who, "Greet", &edit)?.expect("the tree changed");
//!
//! let entry = git.find(&committed.commit, b"greetings/one")?.expect("it was just written");
//! assert_eq!(git.read_blob(&entry.id)?, b"hello, ring");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod access;
mod cold;
mod collect;
mod combine;
mod commit;
mod copy;
mod create;
mod edit;
mod exchange;
mod file;
mod git;
mod git_config;
mod index;
mod isolate;
mod kv;
mod leftovers;
mod library;
mod lockfile;
mod newest;
mod origin;
mod parts;
mod paths;
mod paths_left;
mod plain;
mod program;
mod refs;
mod remotes;
mod run;
#[cfg(test)]
mod server;
#[cfg(test)]
mod testing;
mod trace;
mod transaction;
mod transport;
mod tree;
mod unborn;
mod work_tree;
mod writers;

use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::layers::{LayerError, ObjectId};
use crate::progress::Interrupted;
use crate::url::{AddressError, Url};
use crate::watch::Exceeded;

pub use access::{Access, give_to_owners, is_open_to_all, may_change_access};
pub use collect::{Alone, Collected, LayerUse};
pub use combine::groups_to_combine;
pub use commit::{Commit, Person};
pub use create::create;
pub use edit::TreeEdit;
pub use exchange::TreeMerge;
pub use file::{KvFile, OpenMode, ParseOpenModeError};
use git::NEWEST_GIT_FORMAT;
pub use git::{Git, Walk};
pub use kv::{GitKv, KvKeys, KvLog, KvTransaction, KvView};
pub use leftovers::Swept;
pub use paths::PRIVATE;
pub(crate) use paths::{BLOCKS, HEADS};
pub(crate) use paths_left::{MAX_NAMES_COMPARED, PathsLeft};
pub use remotes::{GitRemote, PushedFrom};
pub use trace::{RemoteReferences, SEEN, Trace};
pub use transaction::{Committed, Onto, Transaction};
#[doc(hidden)]
pub use tree::fuzz_tree;
pub use tree::{Mode, Node, Tree, TreeEntry};
pub use writers::KeepLayers;

/// Why a git repository could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// There is no git repository.
    #[error("{} is not a git repository; create one, or check the path", .0.display())]
    NotRepository(PathBuf),
    /// It belongs to somebody else, and git is not told that it may be trusted.
    #[error(
        "{path} belongs to another user: if you trust it, say so with `git config --global --add safe.directory {path}`",
        path = .path.display()
    )]
    Owner {
        /// Where it is, as git wants it.
        path: PathBuf,
        /// What libgit2 says.
        source: Libgit2,
    },
    /// There is one, but with a working tree, which would not follow the branch.
    #[error("the git repository {} has a working tree; give a bare one, such as `git clone --bare` makes", .0.display())]
    NotBare(PathBuf),
    /// Its working tree is in another place than where it was opened.
    #[error("the working tree of {} is {}: open that, or unset core.worktree", path.display(), root.display())]
    WorkTreeElsewhere {
        /// Where it was opened.
        path: PathBuf,
        /// The root of the working tree.
        root: PathBuf,
    },
    /// There is one, in a format that libgit2 does not read.
    #[error("the git repository {} has {extension} {value}, which treering does not read: {}", path.display(), way_out(extension))]
    Format {
        /// Where it is.
        path: PathBuf,
        /// The name of the extension of git's format, without `extensions.`
        extension: String,
        /// Its value.
        value: String,
        /// What libgit2 says.
        source: Box<Libgit2>,
    },
    /// There is one, in a later version of git's format.
    #[error(
        "the git repository {} has version {found} of git's format, and treering reads up to {NEWEST_GIT_FORMAT}: use a newer treering, or \
         have the git that made it clone it into the older format",
        path.display()
    )]
    FormatVersion {
        /// Where it is.
        path: PathBuf,
        /// The version.
        found: i64,
        /// What libgit2 says.
        source: Box<Libgit2>,
    },
    /// One was begun there, and whoever made it was killed.
    #[error("the repository at {} was never finished: make it again", .0.display())]
    Unfinished(PathBuf),
    /// Something is already where a repository was to be made.
    #[error("{} exists already; choose another path", .0.display())]
    Occupied(PathBuf),
    /// There is a repository already where one is to be made.
    #[error("{} is a git repository already: use it as it is, or choose another path", .0.display())]
    Present(PathBuf),
    /// `HEAD` names a commit, not a branch.
    #[error("HEAD of {} is not a branch; point it to one with `git symbolic-ref HEAD refs/heads/main`", .0.display())]
    Detached(PathBuf),
    /// `HEAD` of an ordinary clone names a commit, not a branch.
    #[error("no branch is checked out in {}: check one out with `git switch`", .0.display())]
    DetachedClone(PathBuf),
    /// `HEAD` of a remote names nothing that is there, while there are branches.
    #[error(
        "HEAD of {} names a branch that does not exist; there are: {others}. Choose one with `git symbolic-ref HEAD refs/heads/NAME` there",
        path.display()
    )]
    NoHead {
        /// Where.
        path: PathBuf,
        /// The branches that are there.
        others: String,
    },
    /// `HEAD` names a branch that is not there, while others are.
    #[error(
        "HEAD of {} names the branch {branch:?}, which does not exist; there are: {others}. Choose one with `git symbolic-ref HEAD refs/heads/NAME`, in the repository that it was cloned from too",
        path.display()
    )]
    NoBranch {
        /// The repository.
        path: PathBuf,
        /// What `HEAD` names.
        branch: String,
        /// The branches that are there.
        others: String,
    },
    /// Another working tree has the branch checked out.
    #[error("{branch} is checked out in {} too, which would not follow: use that", path.display())]
    CheckedOut {
        /// The full name of the branch.
        branch: String,
        /// The root of that working tree.
        path: PathBuf,
    },
    /// Files of the working tree that a commit changes are not as the branch has them.
    #[error(
        "nothing was changed, since {} has changes that are not committed: {edited}; commit them, or put them away with `git stash -u`",
        path.display()
    )]
    Edited {
        /// The root of the working tree.
        path: PathBuf,
        /// Some of the files, with what is the matter with each.
        edited: String,
    },
    /// Something that git does in several steps is not done.
    #[error("{what} is under way in {}: end it with git, or abort it", path.display())]
    UnderWay {
        /// The root of the working tree.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A file goes through a filter that libgit2 does not run.
    #[error(
        "{path:?} has the attribute {filter}, which only git itself can apply: commit it with git, or use a bare clone"
    )]
    Filter {
        /// The file.
        path: String,
        /// The attribute.
        filter: String,
    },
    /// libgit2 does not read the index.
    #[error(
        "cannot read the index {}: if it is split or sparse, change it with `git update-index --no-split-index` or `git sparse-checkout reapply --no-sparse-index`",
        path.display()
    )]
    Index {
        /// The file.
        path: PathBuf,
        /// What libgit2 says.
        source: Libgit2,
    },
    /// There is one of which a part is lost or damaged.
    #[error(
        "the {part} of the repository {} is {state}, so git cannot open it: {way_out}; do not make another in its place",
        path.display()
    )]
    Part {
        /// Where it is.
        path: PathBuf,
        /// The file or directory in it.
        part: &'static str,
        /// What is wrong with that.
        state: &'static str,
        /// What to do.
        way_out: String,
    },
    /// Something in its directory is not a readable file.
    #[error(
        "{} {fault}, so it is not opened: remove it if you did not put it there, or clone the repository from a remote",
        path.display()
    )]
    NotPlain {
        /// What is no file.
        path: PathBuf,
        /// What it is.
        fault: &'static str,
    },
    /// The file of a reference names no object, as after a power failure.
    #[error(
        "{path}/{name} is damaged: `git --git-dir {path} fsck --lost-found` lists commits; remove the file, and \
         `git --git-dir {path} update-ref {name} COMMIT` makes one the newest state again; do not make another repository in its \
         place", path = path.display()
    )]
    Reference {
        /// The repository.
        path: PathBuf,
        /// The full name of the reference.
        name: String,
    },
    /// libgit2 refused.
    #[error("cannot {action}")]
    Git {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The cause.
        source: Libgit2,
    },
    /// A layer could not be read or written.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// An object that something names is not there.
    #[error(
        "object {0} is missing; `treering pull` brings it from a remote that has it, or see what `git fsck` says"
    )]
    Missing(ObjectId),
    /// An object is not of the kind that is expected where it is named.
    #[error("object {id} is a {found}, where a {expected} is expected")]
    Kind {
        /// The object.
        id: ObjectId,
        /// What it is.
        found: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// An object's bytes do not follow its format.
    #[error("{kind} {id} is damaged: {fault}")]
    Corrupt {
        /// The object.
        id: ObjectId,
        /// What it is.
        kind: &'static str,
        /// What is wrong.
        fault: &'static str,
    },
    /// A path that must not be in a tree.
    #[error("the path {path:?} is not allowed: {fault}")]
    Path {
        /// The path, as far as it is text.
        path: String,
        /// What is wrong.
        fault: &'static str,
    },
    /// A path is there already and may not be replaced.
    #[error("{0:?} exists already")]
    Exists(String),
    /// A path was to be a file and is a directory, or leads through a file.
    #[error("{0:?} is both a file and a directory; remove one first")]
    FileAndDirectory(String),
    /// A key has no value.
    #[error("there is no {0:?}")]
    NoKey(String),
    /// A value was changed by two at the same lines.
    #[error("{0:?} was changed by somebody else meanwhile; theirs stays, look at it and try again")]
    Conflict(String),
    /// The program git is not there, by which other repositories are reached.
    #[error("the program git is not installed: install it to reach other repositories")]
    NoProgram,
    /// Without the program git, a remote of that kind is reached by libgit2, which was built without it.
    #[error(
        "the program git is not installed, and this program reaches no {scheme}: remotes by itself; install git, or build treering with the feature {feature}"
    )]
    NoTransport {
        /// The beginning of its URL.
        scheme: String,
        /// The feature of this crate that reaches it.
        feature: &'static str,
    },
    /// Without the program git, nobody would run a hook of the remote.
    #[error("the remote has the hook {}, which only the program git runs; install git", .0.display())]
    Hook(PathBuf),
    /// Git is not given the URL of a remote.
    #[error("the address {url} cannot be used: {reason}")]
    Address {
        /// The URL.
        url: Url,
        /// Why.
        reason: AddressError,
    },
    /// The address of a remote starts a program, and nobody has said that it may.
    #[error(
        "the address {url} of the remote {remote} starts a program, and stands in a repository that may be somebody else's: look at it in {}, and if \
         it is meant, say so with `treering -r {} remote trust {remote}`", path.join("config").display(), path.display()
    )]
    Untrusted {
        /// The address.
        url: Url,
        /// The remote's name.
        remote: String,
        /// The repository.
        path: PathBuf,
    },
    /// Git could not clone, fetch or push.
    #[error("cannot {action}; git says: {}", one_line(said))]
    Remote {
        /// What was attempted, as a verb.
        action: &'static str,
        /// What git said about it.
        said: String,
    },
    /// Git was ended, since it did not end by itself.
    #[error("cannot {action}")]
    Ended {
        /// What was attempted, as a verb.
        action: &'static str,
        /// Why.
        source: Exceeded,
    },
    /// A file of the repository, such as the branch, has its new content, and nobody knows whether it keeps that.
    #[error(
        "cannot sync {}: what was to be done is done, and a power failure may undo it; look whether it is still so before you \
         do it again", path.display()
    )]
    Unsynced {
        /// The file.
        path: PathBuf,
        /// Why its name is not durable.
        source: io::Error,
    },
    /// The branch is not where it was expected.
    #[error("{reference} was moved by somebody else; read it again")]
    Moved {
        /// The full name of the branch.
        reference: String,
    },
    /// The branch was moved by others each time.
    #[error("{reference} was moved by others {tries} times in a row; try again when they are done")]
    Contended {
        /// The full name of the branch.
        reference: String,
        /// How often it was tried.
        tries: u32,
    },
    /// Another process of this program uses the repository for longer than any step takes.
    #[error("another process uses the repository and holds {}; wait until it is done", path.display())]
    InUse {
        /// The file that it has locked. The lock ends with the process.
        path: PathBuf,
    },
    /// There is a lock file of git for longer than any step takes.
    #[error(
        "the lock file {}{} is in the way; wait for the git that made it, or, if none is running there, remove the file",
        path.display(), since(*age)
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// How long ago it was made, where that is known.
        age: Option<Duration>,
    },
    /// It was asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The operating system has no random bits.
    #[error("cannot get random bits")]
    Random(#[from] getrandom::Error),
}

/// An error of libgit2, told without its numbers.
#[derive(Debug)]
pub struct Libgit2(git2::Error);

impl std::fmt::Display for Libgit2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.message())
    }
}

impl std::error::Error for Libgit2 {}

impl From<git2::Error> for Libgit2 {
    fn from(error: git2::Error) -> Self {
        Self(error)
    }
}

impl GitError {
    /// For `map_err`: libgit2 refused to `action`.
    fn git(action: &'static str) -> impl FnOnce(git2::Error) -> Self {
        move |source| Self::Git { action, source: source.into() }
    }

    /// For `map_err`: the operating system refused to `action` on `path`.
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    /// For `map_err`: what was to be done is done, and the operating system refused to make it durable. A later sync
    /// that succeeds proves nothing: the system may have dropped what the first one could not write.
    fn when_done(self) -> Self {
        match self {
            Self::Io { path, source, .. } => Self::Unsynced { path, source },
            error => error,
        }
    }

    /// The lock file at `path` is in the way.
    fn locked(path: &Path) -> Self {
        Self::Locked { path: path.to_owned(), age: lockfile::age(path) }
    }
}

/// Sleeps before attempt number `attempt` (from 1) at something that others are doing too: up to 4 ms at
/// first, doubled each time up to 256 ms, and random, so that two who collide do not collide again.
pub(crate) fn pause(attempt: u32) -> Result<(), GitError> {
    let longest = 4000u64 << attempt.saturating_sub(1).min(6);
    thread::sleep(Duration::from_micros(getrandom::u64()? % longest));
    Ok(())
}

/// What a person can do about a repository with an extension that libgit2 does not know.
fn way_out(extension: &str) -> &'static str {
    match extension {
        "refstorage" => "change it with `git refs migrate --ref-format=files` (git 2.46), or use a clone",
        "objectformat" => "use one that was made with `git init --object-format=sha1`",
        "partialclone" => "use a clone that was made without --filter",
        _ => "use a clone of it",
    }
}

/// A path as it is shown in an error.
fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// When something was made that is so old.
fn since(age: Option<Duration>) -> String {
    let Some(seconds) = age.map(|age| age.as_secs()) else { return String::new() };
    let units = [(86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second")];
    let (size, unit) = units.into_iter().find(|(size, _)| seconds >= *size).unwrap_or((1, "second"));
    let count = seconds / size;
    format!(", made {count} {unit}{} ago,", if count == 1 { "" } else { "s" })
}

/// What was said in several lines, in one.
fn one_line(said: &str) -> String {
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("; ")
}
