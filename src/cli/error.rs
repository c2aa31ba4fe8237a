//! How a command ends: with what status, and with what to tell of a failure.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use treering::crypt::CryptError;
use treering::diff::DiffError;
use treering::gitkv::GitError;
use treering::progress::Interrupted;
use treering::remote::RemoteError;
use treering::repository::{RepositoryError, RetentionError};
use treering::schedule::{DaemonError, InstallError, ProfileError, StateError};
use treering::spoken::SpokenError;
use treering::store::{Reason, UrlError};
use treering::timeline::{CodecError, TimelineError};
use treering::url::Url;

use crate::cli::local_path::NotLocal;

/// The exit statuses, as restic's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All was done.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// It was done, but for some files.
    Partial = 3,
    /// There is no repository.
    NoRepository = 10,
    /// Another process holds the repository.
    Locked = 11,
    /// It is encrypted, and no key that was given opens it.
    NoKey = 12,
    /// The person stopped it.
    Interrupted = 130,
    /// Nobody reads the output any more. What SIGPIPE makes of a program that does not ignore it, so that
    /// `set -o pipefail` sees the usual.
    Pipe = 141,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("no repository given: use -r DIR, or set TREERING_REPOSITORY")]
    RepositoryNotGiven,
    #[error(
        "this would delete {names} in {} that the snapshot does not have, and there is no terminal to ask at: look at them with --dry-run, then give --yes",
        .target.display()
    )]
    NotConfirmed { names: String, target: PathBuf },
    #[error("nothing was restored or deleted")]
    Declined,
    #[error(transparent)]
    NotLocal(#[from] NotLocal),
    #[error("cat needs the path of a file: give SNAPSHOT:PATH")]
    PathNotGiven,
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error(transparent)]
    Retention(#[from] RetentionError),
    #[error(
        "this would remove all {snapshots} snapshots of {group}, so nothing is removed: give --unsafe-allow-remove-all if that is meant"
    )]
    RemovesAll { group: String, snapshots: usize },
    #[error("{} is another hook, and stays: join the two by hand (`treering append-only hook` prints this one)", .0.display())]
    HookExists(PathBuf),
    #[error("the snapshot is saved here, but not pushed")]
    NotPushed(#[source] RemoteError),
    /// A building block, which says itself what it could not use.
    #[error(transparent)]
    Diff(DiffError),
    /// A building block, which says only why.
    #[error("cannot use {}", .path.display())]
    Directory { path: PathBuf, source: Box<DiffError> },
    #[error(transparent)]
    Timeline(#[from] TimelineError),
    #[error(transparent)]
    Git(#[from] GitError),
    #[error(transparent)]
    Store(#[from] treering::store::Error),
    #[error("{url} cannot be the URL of a store: {reason}")]
    StoreUrl { url: Url, reason: UrlError },
    #[error("cannot {action} {}", .path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot use the key in {}", .path.display())]
    Key { path: PathBuf, source: CodecError },
    #[error("get needs the KEY of a blob, or --output DIR for the blobs of a range of time")]
    KeyNotGiven,
    #[error("there is no blob {0}: `treering blob list` names those that are there")]
    NoBlob(String),
    #[error("there is no remote {name}: add it with `{how} remote add {name} URL`")]
    NoRemote { name: String, how: String },
    #[error("{commit} is no commit that changed {key}: `treering kv log` names those")]
    NoCommit { commit: String, key: String },
    #[error("cannot use {what} to encrypt or decrypt with")]
    Secret { what: String, source: CryptError },
    #[error("the command `{command}` gave no passphrase")]
    PasswordCommand { command: String, source: io::Error },
    #[error("the two passphrases differ: nothing was changed, try again")]
    PassphrasesDiffer,
    #[error(
        "there is nobody to ask for a new passphrase: give one in a file or by a command, or a --recipient"
    )]
    NoNewKey,
    #[error(
        "{} is a repository of snapshots, which `blob` and `kv` only read: use a repository of its own for that", .0
    )]
    SnapshotsThere(Url),
    #[error("there is no directory for clones: set XDG_CACHE_HOME or HOME")]
    NoCache,
    #[error("the editor {0:?} failed, and nothing was saved: set VISUAL or EDITOR to one that works")]
    Editor(OsString),
    #[error("cannot save what you wrote; it is kept in {}", .path.display())]
    Unsaved { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error(
        "the environment variable {name} is {value:?}, which is no number that it can have: change or unset it"
    )]
    Variable { name: &'static str, value: OsString },
    #[error(transparent)]
    Profile(#[from] ProfileError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    #[error(transparent)]
    Install(#[from] InstallError),
    #[error("there are no profiles: write some into {}, or name a file with --config", .0.display())]
    NoConfig(PathBuf),
    #[error("{place} is not known: set HOME")]
    NoHome { place: &'static str },
    #[error("-r has no meaning here: each profile names its repository")]
    RepositoryOfProfiles,
    #[error("{0} asks what is due of all profiles: leave out -P, and unset TREERING_PROFILE")]
    AllProfiles(&'static str),
    #[error("profile {0} has no schedule: give it one, or run it now with --force")]
    NoSchedule(String),
    #[error("profile {0} names no {1}, without which nothing can run")]
    Incomplete(String, &'static str),
    #[error("cannot find this program")]
    Program(#[source] io::Error),
    #[error("cannot watch for signals")]
    Signals(#[source] io::Error),
    #[error("{option} cannot be used")]
    Time { option: &'static str, source: SpokenError },
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

impl CliError {
    /// What a building block says of the file or directory at `path`.
    pub fn of(path: impl Into<PathBuf>) -> impl FnOnce(DiffError) -> Self {
        |source| match source {
            DiffError::Interrupted(interrupted) => Self::Interrupted(interrupted),
            DiffError::Scan(_) => Self::Diff(source),
            source => Self::Directory { path: path.into(), source: source.into() },
        }
    }

    /// For `map_err`: the operating system refused to `action` on `path`.
    pub fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { action, path: path.to_owned(), source }
    }

    /// The status that tells it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Git(GitError::NotRepository(_))
            | Self::Remote(RemoteError::Git(GitError::NotRepository(_)))
            | Self::Timeline(TimelineError::Git(GitError::NotRepository(_))) => Exit::NoRepository,
            Self::Git(GitError::Locked { .. } | GitError::InUse { .. })
            | Self::Timeline(TimelineError::Git(GitError::Locked { .. } | GitError::InUse { .. })) => {
                Exit::Locked
            }
            Self::Repository(RepositoryError::NoRepository { .. } | RepositoryError::OtherGit(_)) => {
                Exit::NoRepository
            }
            Self::Store(error) if matches!(error.reason(), Reason::NoStore) => Exit::NoRepository,
            Self::Repository(RepositoryError::Encrypted | RepositoryError::WrongKey { .. }) => Exit::NoKey,
            Self::Repository(
                RepositoryError::Locked(_)
                | RepositoryError::Timeline(TimelineError::Git(GitError::Locked { .. })),
            )
            | Self::Remote(
                RemoteError::Git(
                    GitError::Locked { .. } | GitError::InUse { .. } | GitError::Contended { .. },
                )
                | RemoteError::Locked { .. },
            ) => Exit::Locked,
            Self::Interrupted(_)
            | Self::Remote(RemoteError::Git(GitError::Interrupted(_)))
            | Self::NotPushed(RemoteError::Git(GitError::Interrupted(_)))
            | Self::Repository(
                RepositoryError::Interrupted(_) | RepositoryError::Diff(DiffError::Interrupted(_)),
            ) => Exit::Interrupted,
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Pipe,
            _ => Exit::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use treering::causes::chain;

    use super::*;

    #[test]
    fn causes_follow_on_one_line() {
        let source = DiffError::from(io::Error::from(io::ErrorKind::NotFound));
        let error = CliError::of("tree.index")(source);
        assert_eq!(chain(&error), "cannot use tree.index: entity not found");
    }

    #[test]
    fn what_a_script_can_act_on_has_a_status_of_its_own() {
        let exit = |error: RepositoryError| CliError::from(error).exit();
        let locked = || GitError::Locked { path: "main.lock".into(), age: None };
        assert_eq!(exit(RepositoryError::Locked(locked())), Exit::Locked);
        assert_eq!(exit(TimelineError::from(locked()).into()), Exit::Locked);
        assert_eq!(
            exit(RepositoryError::NoRepository { path: "repo".into(), source: None }),
            Exit::NoRepository
        );
        assert_eq!(exit(RepositoryError::from(Interrupted)), Exit::Interrupted);
        assert_eq!(CliError::of("tree")(DiffError::from(Interrupted)).exit(), Exit::Interrupted);
        assert_eq!(exit(RepositoryError::NoSources), Exit::Failed);
        assert_eq!(CliError::from(GitError::NotRepository("kv".into())).exit(), Exit::NoRepository);
        let locked = TimelineError::from(GitError::Locked { path: "main.lock".into(), age: None });
        assert_eq!(CliError::from(locked).exit(), Exit::Locked);
    }
}
