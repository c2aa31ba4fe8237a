//! Why a repository could not be exchanged with another.

use std::io;
use std::path::{Path, PathBuf};

use super::merge::MergeError;
use crate::config::ConfigError;
use crate::gitkv::GitError;
use crate::layers::{LayerError, ObjectId, OutOfReach};
use crate::store::{self, NameError, UrlError};
use crate::url::Url;
use crate::watch::Exceeded;

/// Why a repository could not be exchanged with another.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// No remote has that name.
    #[error("there is no remote {}: `treering remote list` shows what there is", Url::from(.0))]
    Unknown(String),
    /// A remote of that name is there already.
    #[error("there is a remote {0} already: choose another name, or remove it first")]
    Exists(String),
    /// A name that git does not take.
    #[error("{:?} cannot be the name of a remote: use letters, digits and dashes", Url::from(.0))]
    Name(String),
    /// No remote was named, and there is none.
    #[error("there is no remote: add one with `treering remote add NAME URL`")]
    NoRemote,
    /// No remote was named, and none goes without saying.
    #[error("no remote is called origin: name one, as `treering remote list` shows them")]
    NotNamed,
    /// The remote cannot be reached.
    #[error(
        "cannot reach the remote {remote}: check its address and the network, and try again; nothing is lost"
    )]
    Unreachable {
        /// Its name.
        remote: String,
        /// What git says.
        source: GitError,
    },
    /// The remote names its objects by other hashes.
    #[error(
        "the repository of the remote {remote} does not use SHA-1, which treering needs: use one that was made with \
         `git init --object-format=sha1`"
    )]
    ObjectFormat {
        /// Its name.
        remote: String,
        /// What git says.
        source: GitError,
    },
    /// Git where the remote is does not read it.
    #[error(
        "the git where the remote {remote} is does not read that repository, whose format is newer: update git there, or give \
         another address"
    )]
    GitFormat {
        /// Its name.
        remote: String,
        /// What git says.
        source: GitError,
    },
    /// Nothing is where the remote should be.
    #[error(
        "there is no git repository where the remote {remote} should be: check its address, or make one with `git init --bare`"
    )]
    NotFound {
        /// Its name.
        remote: String,
        /// What git says.
        source: GitError,
    },
    /// The remote does not let this person in.
    #[error(
        "the remote {remote} does not let you in: set up an ssh key or a credential helper, so that `git ls-remote` works without asking"
    )]
    Credentials {
        /// Its name.
        remote: String,
        /// What git says.
        source: GitError,
    },
    /// The remote was reached, and takes nothing.
    #[error(
        "the remote {remote} refused the push; everything is still in this repository, so push again when the cause is removed"
    )]
    Refused {
        /// Its name.
        remote: String,
        /// What git says.
        source: GitError,
    },
    /// Git needs what is only in a cold remote.
    #[error(
        "the remote {remote} lacks data that is not here but in a cold remote: bring it here with `treering layers fetch`, and try again"
    )]
    ColdData {
        /// Its name.
        remote: String,
        /// What git says.
        source: GitError,
    },
    /// A push is done, and nobody knows whether the remote keeps it.
    #[error("what was pushed to {remote} may not be durable: push again when the cause is removed")]
    Unsynced {
        /// Its name.
        remote: String,
        /// What could not be synced.
        source: GitError,
    },
    /// Git failed at something else.
    #[error(
        "cannot exchange with the remote {remote}; nothing is lost, so try again when the cause is removed"
    )]
    Failed {
        /// Its name.
        remote: String,
        /// What git says.
        source: GitError,
    },
    /// Others push there all the time.
    #[error("others pushed to the remote {remote} {tries} times in a row: try again when they are done")]
    Contended {
        /// Its name.
        remote: String,
        /// How often it was tried.
        tries: u32,
    },
    /// The remote holds something else.
    #[error(
        "the remote {0} holds something that is not a treering repository: give it an address of its own"
    )]
    NotTreering(String),
    /// The remote holds it more than once.
    #[error(
        "the remote {remote} has treering repositories on the branches {branches}, and none is called {own} as here: remove those \
         that are not wanted, with `git push REMOTE --delete BRANCH`, or rename one"
    )]
    SeveralBranches {
        /// Its name.
        remote: String,
        /// What the branches are called.
        branches: String,
        /// What the branch here is called.
        own: String,
    },
    /// The remote holds other snapshots.
    #[error(
        "the remote {0} is of another repository: give each repository an address of its own, or clone that one"
    )]
    OtherRepository(String),
    /// The remote's configuration names another public key, or none, or names one where there was none.
    #[error(
        "the remote {0} is encrypted for somebody else than this repository: somebody has changed its configuration; \
         compare it with another copy before you use it"
    )]
    OtherRecipient(String),
    /// The remote's configuration cuts files elsewhere, or confirms blocks by another key, in the same format.
    #[error(
        "the remote {0} cuts files into other segments than this repository: somebody has changed its configuration, so nothing \
         was taken from it; push a sound one to it from another clone, or use another remote"
    )]
    OtherSegments(String),
    /// A later version of this program has pushed to the remote.
    #[error(
        "the remote {remote} has format {found}, and this program reads up to {newest}: use a newer treering"
    )]
    Version {
        /// Its name.
        remote: String,
        /// The format of the repository there.
        found: u32,
        /// The newest format that is known here.
        newest: u32,
    },
    /// The configuration in a remote is not one.
    #[error(
        "the remote {remote} has a configuration that cannot be used, so nothing was taken from it: push a sound one to it from another clone"
    )]
    Configuration {
        /// The remote's name.
        remote: String,
        /// What is wrong with it.
        source: Box<ConfigError>,
    },
    /// Nothing is where a git repository should be by its name.
    #[error(
        "nothing is at {0}: mount the disk that it lies on, or make it with `git init --bare`, and add the remote again; \
         the directory of a cold remote needs a name that does not end with .git"
    )]
    NothingThere(Url),
    /// The newest commit is lost here, and a remote does not have it.
    #[error(
        "the newest commit {newest} is lost here, and the remote {remote} does not have it, nor what came after its own newest: \
         `git --git-dir {path} update-ref {branch} {theirs}` goes back to that, and `treering pull {remote}` then brings \
         what is missing", path = .path.display()
    )]
    NewestLost {
        /// The remote's name.
        remote: String,
        /// The repository.
        path: PathBuf,
        /// Its branch.
        branch: String,
        /// The commit that is lost.
        newest: ObjectId,
        /// The one that the remote is at.
        theirs: ObjectId,
    },
    /// The disk is not mounted on which the store of a new remote is to be made.
    #[error(
        "nothing is mounted at {}, where the store of the remote {remote} is to be made: mount it and push again, or remove the remote \
         and add it again if the store is to be on the file system that is there now", .mount.display()
    )]
    NotMounted {
        /// The remote's name.
        remote: String,
        /// Where it should be mounted.
        mount: PathBuf,
    },
    /// The directory is missing in which the store of a new remote is to be made.
    #[error(
        "there is no directory {}, where the store of the remote {remote} is to be made: mount the disk that it is on, or make the \
         directory, and push again", .path.display()
    )]
    NoDirectory {
        /// The remote's name.
        remote: String,
        /// The directory.
        path: PathBuf,
    },
    /// A URL of a file with too few slashes.
    #[error("{url} is no URL of a file: write file://{path}, with an absolute path")]
    FileUrl {
        /// The URL.
        url: Url,
        /// What it names.
        path: String,
    },
    /// The address of a cold remote can do harm, and nobody has said that it may be used.
    #[error(
        "the address {url} of the remote {remote} can start programs or use your credentials, and stands in a repository that may be somebody \
         else's: look at it in {}, and if it is meant, say so with `treering -r {} remote trust {remote}`", file.display(), repository.display()
    )]
    Untrusted {
        /// The address.
        url: Url,
        /// The remote's name.
        remote: String,
        /// Where the address stands.
        file: PathBuf,
        /// The repository.
        repository: PathBuf,
    },
    /// What begins as the URL of a store and is none.
    #[error(
        "{url} cannot be the URL of a remote: {reason}; to reach a host of that name by ssh write ssh://HOST/PATH"
    )]
    StoreUrl {
        /// The URL.
        url: Url,
        /// Why.
        reason: UrlError,
    },
    /// Nothing to clone.
    #[error(
        "{0} has no branch with a repository: if it is new, make a repository elsewhere, add this as its remote, and push; if it \
         is not, its branch is lost, and `git fsck --lost-found` there lists commits"
    )]
    Empty(Url),
    /// Something is in the place of a new clone.
    #[error("{} exists already and is not empty: choose another path", .0.display())]
    Occupied(PathBuf),
    /// A repository is in the place of a new clone.
    #[error(
        "{path} is a treering repository already: `treering -r {path} pull` brings what is new, or choose another path for the clone",
        path = .0.display()
    )]
    Present(PathBuf),
    /// Both sides changed a file that nobody may change.
    #[error(
        "{path:?} is not the same here and in the remote {remote}: one is damaged, so run `treering check` on both"
    )]
    Conflict {
        /// Its name.
        remote: String,
        /// The file, in the tree.
        path: String,
    },
    /// The remote has something where nothing like that can be.
    #[error(
        "the remote {remote} has {path:?}, which no treering repository has: somebody else has put that there, and nothing was \
         taken over; take it out of the remote's branch"
    )]
    Stray {
        /// Its name.
        remote: String,
        /// The path, in the tree.
        path: String,
    },
    /// A cold remote failed.
    #[error(
        "cannot exchange with the cold remote {remote}; nothing is lost, so try again when the cause is removed"
    )]
    Store {
        /// Its name.
        remote: String,
        /// What its store says.
        source: Box<store::Error>,
    },
    /// The URL of a cold remote is not one.
    #[error(
        "the URL of the cold remote {remote} cannot be used: remove the remote, and add it with another one"
    )]
    Url {
        /// Its name.
        remote: String,
        /// Why.
        source: UrlError,
    },
    /// Nothing is in a cold remote.
    #[error("the cold remote {0} holds no repository: check its address, or push to it first")]
    NotPushed(String),
    /// Something in a cold remote cannot be what it should be.
    #[error(
        "{object} in the cold remote {remote} is damaged: {fault}; everything here stays as it is, and a push to a remote at a new address makes a sound one"
    )]
    Unreadable {
        /// The remote's name.
        remote: String,
        /// The object in its store.
        object: String,
        /// What is wrong.
        fault: &'static str,
    },
    /// A layer in a cold remote is not what it should be.
    #[error("{object} in the cold remote {remote} cannot be used; everything here stays as it is")]
    Damaged {
        /// The remote's name.
        remote: String,
        /// The layer, or what else it is.
        object: String,
        /// What is wrong.
        source: Box<GitError>,
    },
    /// Somebody holds the lock of a cold remote.
    #[error(
        "{lock} in the cold remote {remote} says that somebody is pushing: try again when they are done; after ten minutes it counts as left over"
    )]
    Locked {
        /// The remote's name.
        remote: String,
        /// The lock.
        lock: String,
    },
    /// A layer is neither here nor in the remote that is to hold everything.
    #[error(
        "layer {layer} is neither here nor in the cold remote {remote}: bring it here with `treering layers fetch {layer}`, and push again"
    )]
    Elsewhere {
        /// The remote's name.
        remote: String,
        /// The layer.
        layer: String,
    },
    /// A layer that was removed from the only place that had it.
    #[error(
        "the data of layer {layer}, which a snapshot made here needs, was removed from its cold remote when somebody else pruned: \
         `treering check` names the snapshot; forget it, run `treering pull --removals` and `treering prune`, and back up again"
    )]
    Pruned {
        /// The layer.
        layer: String,
    },
    /// What the newest state needs is in no layer that could be listed.
    #[error(
        "{object} is neither here nor in the cold remote {remote}, and the newest state needs it, so nothing was pushed: bring it \
         back from another remote or copy, or forget the snapshots that `treering check` names, prune, and push again"
    )]
    Incomplete {
        /// The remote's name.
        remote: String,
        /// The path in the tree, or the id where it is no file.
        object: String,
    },
    /// A layer that is listed is not there.
    #[error(
        "the cold remote {remote} does not have layer {layer} any more: if somebody has pruned, `treering pull {remote}` \
         brings what took its place, so try again after that"
    )]
    Gone {
        /// The remote's name.
        remote: String,
        /// The layer.
        layer: String,
        /// What the store says.
        source: Box<store::Error>,
    },
    /// A layer whose name is not the one that git gives.
    #[error(
        "the layer {0} is not called `pack-` and its SHA-1: rename its files, or let `git repack -a -d` make others"
    )]
    LayerName(String),
    /// No layer has that name.
    #[error(
        "no layer, or more than one, is called {0}: `treering layers list` shows them and who holds them"
    )]
    NoSuchLayer(String),
    /// A remote that would be no second copy.
    #[error("{0} would be this repository itself: give the URL of another place")]
    Itself(String),
    /// A layer that must stay.
    #[error("layer {0} is not one of data and stays here, since every command needs it")]
    NotData(String),
    /// A layer of data that holds what nothing can be opened without, and that nothing else here holds.
    #[error(
        "layer {0} has the only copy here of what describes some snapshots, so it stays; try again when no prune is running"
    )]
    Describes(String),
    /// The pack of a layer here is not what it was.
    #[error(
        "layer {layer} is damaged here: bring it again with `treering layers fetch {layer}` where a cold remote holds it, or put back \
         its pack from a copy"
    )]
    DamagedHere {
        /// The layer.
        layer: String,
        /// What is wrong.
        source: LayerError,
    },
    /// No cold remote has a layer.
    #[error("no cold remote that was asked holds layer {0}: push to one first")]
    NotHeld(String),
    /// Neither this repository nor a cold remote has a layer.
    #[error(
        "the data of layer {0} is gone here, and no cold remote holds it: `treering check` names what needs it"
    )]
    HeldNowhere(String),
    /// A cold remote has what is nowhere else.
    #[error(
        "the cold remote {remote} alone holds layer {layer}, and others perhaps: bring them here with `treering layers fetch` before it is forgotten"
    )]
    OnlyThere {
        /// The remote's name.
        remote: String,
        /// One of the layers.
        layer: String,
    },
    /// A remote that git reaches where a cold one is needed.
    #[error("{0} is no cold remote: `treering remote list` shows which are")]
    NotCold(String),
    /// A name that a store does not take.
    #[error(transparent)]
    ObjectName(#[from] NameError),
    /// The git repository could not be read or changed.
    #[error(transparent)]
    Git(#[from] GitError),
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
}

/// What git, ssh and libgit2 say, in the C locale, when they were not let in; in lower case.
const NOT_LET_IN: [&str; 12] = [
    "authentication required",
    "status code: 401",
    "status code: 403",
    "authentication failed",
    "permission denied (",
    "could not read username",
    "could not read password",
    "terminal prompts disabled",
    "host key verification failed",
    "invalid username",
    "returned error: 401",
    "returned error: 403",
];

/// What they say when they reached somebody who does not have the repository.
const NOT_FOUND: [&str; 6] = [
    "repository not exported",
    "status code: 404",
    "does not appear to be a git repository",
    "does not exist",
    "repository not found",
    "returned error: 404",
];

/// What they say when they reached nobody.
const NOT_REACHED: [&str; 12] = [
    "failed to connect",
    "failed to resolve",
    "could not resolve",
    "connection refused",
    "connection timed out",
    "connection reset",
    "connection closed",
    "no route to host",
    "network is unreachable",
    "unable to access",
    "unexpectedly",
    "could not read from remote repository",
];

/// What git says where the other side has another object format: of a push, and of a fetch by either protocol.
const HASH: [&str; 3] = ["hash algorithm", "mismatched algorithms", "object format"];

/// What git says of a repository in a later version of its format.
const NEWER: &str = "expected git repo version";

/// What git says when it needs an object that lies in a cold remote.
const PROMISED: &str = "promisor remote";

/// What the other side says of a push that it does not take.
const REFUSED: [&str; 2] = ["[remote rejected]", "protected branch"];

/// What it says when another push is just going on.
const RACES: [&str; 4] =
    ["cannot lock ref", "failed to update ref", "incorrect old value", "reference already exists"];

impl RemoteError {
    /// What it means that what was done in `remote` cannot be merged.
    pub(super) fn of_merge(remote: &str) -> impl Fn(MergeError) -> Self {
        let remote = remote.to_owned();
        let shown = |path: Vec<u8>| String::from_utf8_lossy(&path).into_owned();
        move |error| match error {
            MergeError::Git(error) => error.into(),
            MergeError::Conflict(path) => Self::Conflict { remote: remote.clone(), path: shown(path) },
            MergeError::Stray(path) => Self::Stray { remote: remote.clone(), path: shown(path) },
        }
    }

    /// What it means that git failed at exchanging with `remote`.
    pub(super) fn of(remote: &str) -> impl Fn(GitError) -> Self {
        let remote = remote.to_owned();
        move |source| {
            let said = match &source {
                GitError::Remote { said, .. } => said,
                GitError::Ended { source: Exceeded::Idle(_), .. } => {
                    return Self::Unreachable { remote: remote.clone(), source };
                }
                GitError::Ended { .. } => return Self::Failed { remote: remote.clone(), source },
                _ => return Self::Git(source),
            };
            let said = said.to_lowercase();
            let remote = remote.clone();
            if says(&said, &HASH) {
                Self::ObjectFormat { remote, source }
            } else if said.contains(NEWER) {
                Self::GitFormat { remote, source }
            } else if said.contains(PROMISED) {
                Self::ColdData { remote, source }
            } else if says(&said, &REFUSED) {
                Self::Refused { remote, source }
            } else if says(&said, &NOT_LET_IN) {
                Self::Credentials { remote, source }
            } else if says(&said, &NOT_FOUND) {
                Self::NotFound { remote, source }
            } else if says(&said, &NOT_REACHED) {
                Self::Unreachable { remote, source }
            } else {
                Self::Failed { remote, source }
            }
        }
    }

    /// Whether a remote could not be reached, so that nothing is known of what lies there.
    pub(super) fn is_out_of_reach(&self) -> bool {
        matches!(self, Self::Store { .. } | Self::Url { .. } | Self::Io { .. } | Self::Unreachable { .. })
    }

    /// The error for who reads layers that lie in cold remotes.
    pub(super) fn in_reading(self) -> Box<dyn std::error::Error + Send + Sync> {
        match self.is_out_of_reach() {
            true => OutOfReach::new(self).into(),
            false => self.into(),
        }
    }

    /// Why a remote refused a push, in its own words and on one line.
    pub(super) fn reason(&self) -> Option<String> {
        let Self::Refused { source: GitError::Remote { said, .. }, .. } = self else { return None };
        let of_the_remote = said.lines().filter_map(|line| line.trim().strip_prefix("remote: "));
        let lines: Vec<_> = of_the_remote.map(|line| line.trim().trim_start_matches("error: ")).collect();
        match lines.is_empty() {
            false => Some(lines.join("; ")),
            // Git itself, such as `! [remote rejected] main -> main (protected branch)`.
            true => said.lines().find(|line| line.contains("[remote rejected]")).map(|line| {
                line.rsplit_once(" (").map_or(line, |(_, reason)| reason.trim_end_matches(')')).to_owned()
            }),
        }
    }

    /// For `map_err`: the store of the cold remote `remote` failed.
    pub(super) fn store(remote: &str) -> impl FnOnce(store::Error) -> Self {
        let remote = remote.to_owned();
        move |source| Self::Store { remote, source: Box::new(source) }
    }

    /// For `map_err`: a layer could not be had from the store of the cold remote `remote`.
    pub(super) fn layer(remote: &str, layer: &str) -> impl FnOnce(store::Error) -> Self {
        let (remote, layer) = (remote.to_owned(), layer.to_owned());
        move |source| match source.reason() {
            store::Reason::NotFound => Self::Gone { remote, layer, source: Box::new(source) },
            store::Reason::OutOfRange { .. } => {
                Self::Unreadable { remote, object: layer, fault: "it is shorter than the head says" }
            }
            _ => Self::Store { remote, source: Box::new(source) },
        }
    }

    /// For `map_err`: what came from the cold remote `remote` cannot be used.
    pub(super) fn damaged(remote: &str, object: &str) -> impl FnOnce(GitError) -> Self {
        let (remote, object) = (remote.to_owned(), object.to_owned());
        move |source| Self::Damaged { remote, object, source: Box::new(source) }
    }

    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

/// Whether a push failed because another one was just going on.
pub(super) fn is_race(error: &GitError) -> bool {
    match error {
        GitError::Remote { said, .. } => says(&said.to_lowercase(), &RACES),
        // Of another push, or of a dead one: then it is still there in the end.
        GitError::Locked { .. } => true,
        _ => false,
    }
}

/// Whether a push failed because the other side does not take it.
pub(super) fn is_refused(error: &GitError) -> bool {
    matches!(error, GitError::Remote { said, .. } if says(&said.to_lowercase(), &REFUSED))
}

fn says(said: &str, any: &[&str]) -> bool {
    any.iter().any(|words| said.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(said: &str) -> RemoteError {
        RemoteError::of("origin")(GitError::Remote { action: "push", said: said.to_owned() })
    }

    #[test]
    fn what_git_says_is_understood() {
        let denied =
            "git@example.org: Permission denied (publickey).\nfatal: Could not read from remote repository.";
        assert!(matches!(of(denied), RemoteError::Credentials { .. }));
        let prompt = "fatal: could not read Username for 'https://example.org': terminal prompts disabled";
        assert!(matches!(of(prompt), RemoteError::Credentials { .. }));
        let hook =
            " ! [remote rejected] main -> main (pre-receive hook declined)\nerror: failed to push some refs";
        assert!(matches!(of(hook), RemoteError::Refused { .. }));
        let nowhere = "fatal: '/x' does not appear to be a git repository\nfatal: Could not read from remote repository.";
        assert!(matches!(of(nowhere), RemoteError::NotFound { .. }));
        let closed = "ssh: connect to host x port 22: Connection refused\nfatal: Could not read from remote repository.";
        assert!(matches!(of(closed), RemoteError::Unreachable { .. }));
        let unresolved = "fatal: unable to access 'https://x/': Could not resolve host: x";
        assert!(matches!(of(unresolved), RemoteError::Unreachable { .. }));
        for hash in [
            "fatal: the receiving end does not support this repository's hash algorithm\nfatal: the remote end hung up unexpectedly",
            "fatal: Server does not support this repository's object format\nfatal: the remote end hung up unexpectedly",
            "fatal: mismatched algorithms: client sha1; server sha256",
            "fatal: mismatched object format: server sha256; client sha1",
        ] {
            assert!(matches!(of(hash), RemoteError::ObjectFormat { .. }), "{hash}");
        }
        let newer =
            "fatal: Expected git repo version <= 1, found 7\nfatal: Could not read from remote repository.";
        assert!(matches!(of(newer), RemoteError::GitFormat { .. }));
        assert!(matches!(of("fatal: out of memory"), RemoteError::Failed { .. }));
    }

    #[test]
    fn a_push_beside_another_is_told_from_a_refused_one() {
        let said =
            "! [remote rejected] main -> main (cannot lock ref 'refs/heads/main': File exists)".to_owned();
        assert!(is_race(&GitError::Remote { action: "push", said }));
        let said = "! [remote rejected] main -> main (pre-receive hook declined)".to_owned();
        assert!(!is_race(&GitError::Remote { action: "push", said }));
        assert!(!is_race(&GitError::NoProgram));
    }
}
