//! A repository and a source directory to try it on.

use std::fs;
use std::io::BufRead;
use std::path::PathBuf;
use std::process::Command;

use jiff::{SignedDuration, Timestamp};
use treering::archive::Codec;
use treering::crypt::{Credential, Identity, Lock};
use treering::diff::Entry;
use treering::progress::Progress;
use treering::repository::{
    BackupOptions, BackupReport, CheckOptions, InitOptions, Repository, RepositoryError, RestoreOptions,
    RestoreReport, Snapshot,
};

use crate::commits::commit;
use crate::tree::unlock;

/// The entries at and below a path of a snapshot.
pub fn entries(
    repository: &Repository,
    snapshot: &Snapshot,
    path: Option<&[u8]>,
) -> Result<Vec<Entry>, RepositoryError> {
    let view = repository.view(snapshot)?;
    view.walk(&view.resolve(path)?)?.collect()
}

/// The content of a file of a snapshot.
pub fn cat(repository: &Repository, snapshot: &Snapshot, path: &[u8]) -> Result<Vec<u8>, RepositoryError> {
    let view = repository.view(snapshot)?;
    let entry = view.entry(&view.resolve(Some(path))?)?.unwrap();
    let mut file = view.open(&entry)?;
    let mut content = Vec::new();
    loop {
        let bytes = file.next_bytes()?;
        let read = bytes.len();
        if read == 0 {
            return Ok(content);
        }
        content.extend(bytes);
        file.consume(read);
    }
}

/// A directory with a `source` and a `repo`, removed at the end.
pub struct Lab {
    dir: tempfile::TempDir,
    pub repository: Repository,
    /// What opens the repository, if it is encrypted.
    pub identity: Option<Identity>,
}

impl Lab {
    pub fn new() -> Self {
        Self::with(Codec::default())
    }

    /// With volumes compressed by `compression`.
    pub fn with(compression: Codec) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("source")).unwrap();
        let options = InitOptions { compression, ..InitOptions::new(Timestamp::now()) };
        let repository = Repository::init(&dir.path().join("repo"), &options).unwrap();
        Self { dir, repository, identity: None }
    }

    /// With a repository that is encrypted for `identity`.
    pub fn encrypted() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("source")).unwrap();
        let identity = Identity::generate();
        let locks = vec![Lock::Recipient(identity.recipient())];
        let options = InitOptions { locks, ..InitOptions::new(Timestamp::now()) };
        let repository = Repository::init(&dir.path().join("repo"), &options).unwrap();
        Self { dir, repository, identity: Some(identity) }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn source(&self) -> PathBuf {
        self.path("source")
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.source().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// As another process would see the repository now.
    pub fn reopen(&mut self) {
        self.repository = self.open();
    }

    /// The repository, unlocked.
    pub fn open(&self) -> Repository {
        let mut repository = Repository::open(&self.path("repo")).unwrap();
        if let Some(identity) = &self.identity {
            repository.unlock(&[Credential::Identity(identity.clone())]).unwrap();
        }
        repository
    }

    /// Options for a backup of the source whose files all count as long settled.
    pub fn options(&self) -> BackupOptions {
        BackupOptions::new(vec![self.source()], Timestamp::now() + SignedDuration::from_secs(10))
    }

    /// Backs the source up; everything must be readable.
    #[track_caller]
    pub fn backup(&mut self) -> BackupReport {
        self.reopen();
        let report = self.repository.backup(&self.options(), &Progress::new()).unwrap();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        report
    }

    #[track_caller]
    pub fn restore(&self, snapshot: &Snapshot, to: &str) -> PathBuf {
        let target = self.path(to);
        let report = self.restore_with(snapshot, &RestoreOptions::new(&target));
        assert!(report.applied.failures.is_empty(), "{:?}", report.applied.failures);
        target
    }

    #[track_caller]
    pub fn restore_with(&self, snapshot: &Snapshot, options: &RestoreOptions) -> RestoreReport {
        self.open().restore(snapshot, options, &Progress::new()).unwrap()
    }

    /// A copy of the source as it is now.
    pub fn keep(&self, name: &str) -> PathBuf {
        let copied = Command::new("cp").arg("-a").arg(self.source()).arg(self.path(name)).status().unwrap();
        assert!(copied.success());
        self.path(name)
    }

    #[track_caller]
    pub fn check(&self) {
        let repository = self.open();
        let options = CheckOptions { read_data: true, ..CheckOptions::default() };
        let report = repository.check(&options, &Progress::new()).unwrap();
        assert!(report.faults.is_empty(), "{:?}", report.faults);
    }

    /// Commits `bytes` as what lies at `path` of the repository's tree, or, for `None`, takes it away.
    pub fn replace(&self, path: &str, bytes: Option<&[u8]>) {
        self.replace_in("repo", path, bytes);
    }

    /// The same in another repository of the lab.
    pub fn replace_in(&self, repository: &str, path: &str, bytes: Option<&[u8]>) {
        commit(&self.path(repository), |transaction, edit| match bytes {
            Some(bytes) => edit.set(path.as_bytes(), transaction.blob(bytes).unwrap()).unwrap(),
            None => edit.remove(path.as_bytes()).unwrap(),
        });
    }

    /// Runs git on the repository, and returns what it prints.
    #[track_caller]
    pub fn git(&self, args: &[&str]) -> String {
        run(Command::new("git").arg("-C").arg(self.path("repo")).args(args))
    }
}

impl Lab {
    /// As [`git`](Self::git), of what is no text.
    #[track_caller]
    pub fn git_bytes(&self, args: &[&str]) -> Vec<u8> {
        let done = Command::new("git").arg("-C").arg(self.path("repo")).args(args).output().unwrap();
        assert!(done.status.success(), "{args:?}\n{}", String::from_utf8_lossy(&done.stderr));
        done.stdout
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        unlock(self.dir.path());
    }
}

/// Runs a program that must succeed, and returns what it prints.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}
