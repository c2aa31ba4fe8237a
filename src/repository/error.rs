//! Why something cannot be done with a repository.

use std::io;
use std::path::{Path, PathBuf};

use crate::archive::ArchiveError;
use crate::cbor::CborError;
use crate::crypt::CryptError;
use crate::delta::{PatchError, SignatureError, SignaturePatchError};
use crate::diff::page::PageError;
use crate::diff::{DiffError, PatternError, ScanError};
use crate::digest::Digest;
use crate::gitkv::GitError;
use crate::layers::{ObjectId, OutOfReach};
use crate::progress::Interrupted;
use crate::relpath::RelPathError;
use crate::repository::FORMAT_VERSION;
use crate::spoken::SpokenError;
use crate::timeline::TimelineError;
use crate::varint::VarintError;

/// Why something cannot be done with a repository.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// Nothing there is a repository.
    #[error("{} is not a treering repository: make one with `treering init`, or check the path", .path.display())]
    NoRepository {
        /// Where it was looked for.
        path: PathBuf,
        /// What git says.
        source: Option<GitError>,
    },
    /// A git repository with something else.
    #[error("{} is a git repository that holds no snapshots: check the path", .0.display())]
    OtherGit(PathBuf),
    /// A git repository that holds more than one.
    #[error(
        "{path} has treering repositories on the branches {branches}, and HEAD names none of them: choose one with \
         `git -C {path} symbolic-ref HEAD refs/heads/NAME`", path = .path.display()
    )]
    SeveralBranches {
        /// Where it is.
        path: PathBuf,
        /// What the branches are called.
        branches: String,
    },
    /// What it has written itself cannot be told from what others have.
    #[error("cannot read or write {}, which says what this repository has written itself", .path.display())]
    Own {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What others removed from remotes cannot be told.
    #[error("cannot read what others removed from the remotes of this repository, in {}", .path.display())]
    Removals {
        /// The private directory of the repository.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is one whose branch is gone.
    #[error(
        "the branch of the repository {path} is missing, though its data is there: `git -C {path} fsck --lost-found` lists commits, \
         and `git -C {path} update-ref refs/heads/main COMMIT` makes one the newest state again; do not make another repository \
         in its place", path = .0.display()
    )]
    LostBranch(PathBuf),
    /// The newest commit, its tree or the configuration in it is not there.
    #[error(
        "the newest state of the repository {path} is incomplete: `treering -r {path} pull`, with the name of a remote, brings back \
         what that has; without a remote put back the files of {path}/objects from a copy", path = .path.display()
    )]
    LostNewest {
        /// Where it is.
        path: PathBuf,
        /// What is missing.
        source: GitError,
    },
    /// Something is there already.
    #[error("{} exists already and is not empty: choose another path", .0.display())]
    Exists(PathBuf),
    /// A repository is there already.
    #[error("{} is a treering repository already: use it with -r, or choose another path", .0.display())]
    Present(PathBuf),
    /// A restore would write into the repository that it reads.
    #[error("{} lies in the repository that is read: choose another target", .0.display())]
    IntoItself(PathBuf),
    /// The content of a directory would go directly into `/`.
    #[error(
        "this would put the content of {} directly into /: give --in-place to restore it to where it was, another --target, or --force if that is meant",
        .0.display()
    )]
    IntoRoot(PathBuf),
    /// Two sources of a snapshot are one place by now.
    #[error("two of the directories in the snapshot would both be restored to {}: restore each by its path", .0.display())]
    SamePlace(PathBuf),
    /// The way to what is to be restored to where it was leads through a link that was a directory.
    #[error(
        "cannot restore {} in place: {} is a symbolic link now, and was a directory when it was backed up; give --target, or restore the whole source to replace the link",
        path.display(), link.display()
    )]
    ThroughLink {
        /// What is to be restored.
        path: PathBuf,
        /// The link.
        link: PathBuf,
    },
    /// A later version made it.
    #[error(
        "the repository {} has format {found}, and this program reads up to {FORMAT_VERSION}: use a newer treering", .path.display()
    )]
    Version {
        /// Where it is.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Another process holds what is needed.
    #[error("the repository is in use by another process: try again when it is done")]
    Locked(#[source] GitError),
    /// A prune could not write anew what is still needed.
    #[error(
        "the disk is full: to prune on, treering must write anew what is needed of layers that also hold waste, and takes \
         {} of free space for that; make that much room and prune again, or allow more waste with --max-unused",
        room(*needed)
    )]
    NoRoom {
        /// Bytes that it takes.
        needed: u64,
        /// Why it stopped.
        source: Box<RepositoryError>,
    },
    /// Nothing may be removed.
    #[error("the repository is append-only, so nothing is removed: allow it with `treering append-only off`")]
    AppendOnly,
    /// It is encrypted, and no key was given.
    #[error(
        "the repository is encrypted: give its key with --identity FILE, --password-file FILE or \
         --password-command COMMAND, or set TREERING_IDENTITY, TREERING_PASSWORD_FILE, \
         TREERING_PASSWORD_COMMAND or TREERING_PASSWORD"
    )]
    Encrypted,
    /// What was given opens none of its keys.
    #[error(
        "what was given opens none of the repository's keys: `treering key list` shows what they are locked with"
    )]
    WrongKey {
        /// Why a key could not be tried, if so.
        #[source]
        unusable: Option<Box<RepositoryError>>,
    },
    /// Passphrases were tried for long enough.
    #[error(
        "trying the passphrase on key {0} would take too long, after all keys that take less: give an identity, or remove keys \
         that nobody needs with `treering key remove`"
    )]
    KeyTooCostly(String),
    /// It is not encrypted.
    #[error("the repository is not encrypted and has no keys: make another with `treering init --encrypt`")]
    NotEncrypted,
    /// The public key is not what it was.
    #[error(
        "the repository's configuration says that it is encrypted for {found}, but it was for {expected}: somebody has changed it; \
         compare it with a copy that you trust, and only if this is what you want remove the repository's directory from the cache"
    )]
    OtherRecipient {
        /// What it was.
        expected: String,
        /// What it is.
        found: String,
    },
    /// No key slot is meant, or several are.
    #[error("{0:?} is not the beginning of just one key's id: `treering key list` lists them")]
    NoKeySlot(String),
    /// Without it nobody could read anything.
    #[error(
        "{0} is the last key of the repository, without which nobody could read it: add another before with `treering key add`"
    )]
    LastKey(String),
    /// Who wants to remove it has no other.
    #[error(
        "what was given opens no key but {0}, without which you could not read the repository: give the passphrase or identity \
         of one that stays"
    )]
    OnlyKey(String),
    /// Something cannot be encrypted.
    #[error(transparent)]
    Crypt(#[from] CryptError),
    /// It was asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The git repository or its time-indexed blobs.
    #[error(transparent)]
    Timeline(TimelineError),
    /// Nothing to back up.
    #[error("nothing to back up: name at least one directory")]
    NoSources,
    /// No source can be looked at.
    #[error("cannot back up {}", all_of(path, others))]
    Source {
        /// The first one.
        path: PathBuf,
        /// The others.
        others: Vec<PathBuf>,
        /// Why the first one cannot.
        source: io::Error,
    },
    /// Sources cannot be scanned at all.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// A pattern cannot be used.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// No snapshot is meant.
    #[error("no snapshot {0}: `treering snapshots` lists what there is")]
    NoSnapshot(String),
    /// Several snapshots are meant.
    #[error("{text} names several snapshots: give one of their keys, {keys}")]
    Ambiguous {
        /// What was given.
        text: String,
        /// The time keys of the snapshots, which tell apart also records of equal content.
        keys: String,
    },
    /// Text that names no snapshot.
    #[error(
        "{0:?} names no snapshot: give latest, latest~2, its id, or a time such as '2 days ago' or '2026-11-01 14:00'"
    )]
    Selector(String),
    /// Text that names no snapshot where times name none.
    #[error("{0:?} names no snapshot to remove: give latest, latest~2 or its id")]
    NoId(String),
    /// Fewer digits than an id is looked up by.
    #[error("{0} is too short for the id of a snapshot: give at least four digits")]
    ShortId(String),
    /// A time outside the calendar.
    #[error(transparent)]
    Time(SpokenError),
    /// A path is not in the snapshot.
    #[error("{path} is not in snapshot {snapshot}: `treering ls {snapshot}` lists what is")]
    NoPath {
        /// The path.
        path: String,
        /// The snapshot.
        snapshot: String,
    },
    /// What is asked for is, or would be in, something that the backup could not read.
    #[error(
        "snapshot {snapshot} is partial: the backup could not read {}, so what is asked for is not there; `treering snapshots` \
         lists others",
        .path.display()
    )]
    Unread {
        /// What could not be read, as it was on the host.
        path: PathBuf,
        /// The snapshot.
        snapshot: String,
    },
    /// The patterns choose nothing of a snapshot.
    #[error(
        "nothing in snapshot {0} is chosen by --include and --exclude: `treering ls {0}` lists what there is"
    )]
    NothingChosen(String),
    /// A directory that is none of several that were backed up.
    #[error(
        "{path} is none of the directories in snapshot {snapshot}: compare one that `treering ls {snapshot}` lists"
    )]
    NotRoot {
        /// The directory.
        path: String,
        /// The snapshot.
        snapshot: String,
    },
    /// Not a file.
    #[error("{0} is no regular file: `treering ls` shows what it is")]
    NotFile(String),
    /// Something that a snapshot names is not there, or is not what it should be.
    #[error(
        "{path} is damaged or missing: run `treering check`; `treering pull` brings what is missing from a remote that has it"
    )]
    Damaged {
        /// Its path in the repository's tree.
        path: String,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something that a snapshot names is in a cold remote alone, which cannot be reached.
    #[error("{path} is not here but in a cold remote")]
    OutOfReach {
        /// Its path in the repository's tree.
        path: String,
        /// Why it cannot be reached.
        source: OutOfReach,
    },
    /// The record of a snapshot.
    #[error("snapshot {id} cannot be read: `treering forget {id}` gives it up")]
    UnreadableSnapshot {
        /// The first digits of its id.
        id: String,
        /// What is wrong with it.
        source: Box<RepositoryError>,
    },
    /// What a snapshot needs is not known, so nothing may be removed.
    #[error(
        "what snapshot {id} needs cannot be read, so nothing is freed: `treering forget {id}` gives it up"
    )]
    UnknownNeeds {
        /// The first digits of its id.
        id: String,
        /// What is wrong with it.
        source: Box<RepositoryError>,
    },
    /// The branch is at an older state than it was.
    #[error(
        "the branch was at commit {commit} and was set back: {snapshots} of its snapshots are not on it any more; {}, or remove \
         {} to give them up", way_back(path, branch, commit, *has_more), newest.display()
    )]
    SetBack {
        /// Where the repository is.
        path: PathBuf,
        /// The full name of the branch.
        branch: String,
        /// The newest commit.
        commit: ObjectId,
        /// How many snapshots are only there.
        snapshots: usize,
        /// Whether the branch has something since that the commit has not.
        has_more: bool,
        /// The file that remembers the commit.
        newest: PathBuf,
    },
    /// The configuration is not found while an index of a layer is damaged.
    #[error(
        "the newest state of the repository {path} cannot be read: `treering -r {path} pull`, with the name of a remote, brings \
         back what that has; {fault}", path = .path.display()
    )]
    WithoutIndex {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with the index.
        fault: String,
        /// Why the configuration is not found.
        source: Option<Box<RepositoryError>>,
    },
    /// What a pack holds is not known, so nothing may be removed.
    #[error("nothing is freed as long as the content of a pack is unknown: {fault}")]
    UnknownPack {
        /// What is wrong with its index.
        fault: String,
    },
    /// A segment that no volume holds.
    #[error(
        "segment {0} is in no volume: run `treering check`; `treering pull` brings what is missing from a remote that has it"
    )]
    NoSegment(Digest),
    /// A segment that does not have the bytes it is named by.
    #[error("segment {0} is damaged: run `treering check`, which says how to get its layer back")]
    DamagedSegment(Digest),
    /// A segment that has another length than the index of a snapshot says.
    #[error(
        "segment {digest} does not have the {expected} bytes that the snapshot says: its index is damaged"
    )]
    SegmentLen {
        /// Which.
        digest: Digest,
        /// How long it should be.
        expected: u32,
    },
    /// A chain of deltas that does not end.
    #[error(
        "segment {0} depends on a longer chain of deltas than treering ever writes: the repository is damaged, run `treering check`"
    )]
    Chain(Digest),
    /// An archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A delta.
    #[error(transparent)]
    Patch(#[from] PatchError),
    /// A signature.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// A signature written against others.
    #[error(transparent)]
    SignaturePatch(#[from] SignaturePatchError),
    /// CBOR.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// A page.
    #[error(transparent)]
    Page(#[from] PageError),
    /// A list of pages.
    #[error(transparent)]
    Varint(#[from] VarintError),
    /// A path.
    #[error(transparent)]
    Path(#[from] RelPathError),
    /// An index or a difference.
    #[error(transparent)]
    Diff(#[from] DiffError),
    /// A file or directory outside the repository.
    #[error("cannot use {}", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    Random(#[source] getrandom::Error),
}

/// A number of bytes, rounded up: `12 MiB`.
fn room(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{} KiB", bytes.div_ceil(1 << 10)),
        _ => format!("{} MiB", bytes.div_ceil(1 << 20)),
    }
}

impl From<GitError> for RepositoryError {
    fn from(error: GitError) -> Self {
        TimelineError::from(error).into()
    }
}

/// The sources that cannot be looked at.
fn all_of(first: &Path, others: &[PathBuf]) -> String {
    let others = others.iter().map(|path| format!(", nor {}", path.display()));
    format!("{}{}", first.display(), others.collect::<String>())
}

/// How to bring a branch back to the commit where it was.
fn way_back(path: &Path, branch: &str, commit: &ObjectId, has_more: bool) -> String {
    let path = path.display();
    match has_more {
        false => format!("`git -C {path} update-ref {branch} {commit}` brings them back"),
        true => format!(
            "to bring them back, copy the repository, set {branch} of the copy to {commit} with `git update-ref`, add the copy \
             to {path} with `treering remote add`, and pull from it"
        ),
    }
}

impl From<TimelineError> for RepositoryError {
    fn from(error: TimelineError) -> Self {
        match error {
            TimelineError::Git(error @ (GitError::InUse { .. } | GitError::Contended { .. })) => {
                Self::Locked(error)
            }
            other => Self::Timeline(other),
        }
    }
}

impl RepositoryError {
    pub(super) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        |source| Self::Io { path, source }
    }

    /// Whether it says of a repository that what it holds is damaged or incomplete.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::LostBranch(_)
            | Self::LostNewest { .. }
            | Self::WithoutIndex { .. }
            | Self::Damaged { .. } => true,
            Self::Timeline(TimelineError::Git(error)) => matches!(
                error,
                GitError::Layer(_) | GitError::Missing(_) | GitError::Kind { .. } | GitError::Corrupt { .. }
            ),
            _ => false,
        }
    }

    /// No blob is at `path` of the tree, which something names.
    pub(super) fn nothing_at(path: &str) -> Self {
        Self::damaged(path)("nothing is there".into())
    }

    /// The blob at `path` of the tree is not what it should be, or nobody can tell for want of a remote.
    pub(super) fn damaged(path: &str) -> impl FnOnce(Box<dyn std::error::Error + Send + Sync>) -> Self {
        let path = path.to_owned();
        |source| match OutOfReach::find(source.as_ref()) {
            Some(source) => Self::OutOfReach { path, source },
            None => Self::Damaged { path, source },
        }
    }
}
