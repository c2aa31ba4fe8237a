//! The remotes that git's configuration names: which there are, which of their branches is followed, and whether they
//! are trusted.
//!
//! Names that cannot be part of a reference or of a path are passed over. A change of the configuration is durable when
//! it returns. The references that follow remotes move only while a process has the [`turn`] of [`TURN`].

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::thread;

use crate::child::LOOK;
use crate::layers::ObjectId;
use crate::progress::Progress;
use crate::trust::{self, Claim};
use crate::url::Url;

use super::lockfile::open_lock;
use super::paths::HEADS;
use super::program::Settings;
use super::{Git, GitError, isolate};

/// The file whose `flock` gives the turn to move the references that follow remotes.
pub(super) const TURN: &str = "remotes.lock";

/// What is attempted, as it is told when it fails.
pub(super) const FETCH: &str = "fetch from the remote";
pub(super) const PUSH: &str = "push to the remote";

/// Another repository that this one exchanges commits with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitRemote {
    /// What it is called here.
    pub name: String,
    /// Where it is.
    pub url: Url,
}

impl GitRemote {
    /// Whether a remote can be called `name`, which becomes part of references and of relative paths.
    pub fn is_name(name: &str) -> bool {
        let is_part = |part: &str| !part.is_empty() && !part.starts_with('.');
        git2::Remote::is_valid_name(name) && !name.starts_with('-') && name.split('/').all(is_part)
    }
}

/// Where a remote's branch was just before a push moved it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushedFrom {
    /// There was no such branch.
    Nothing,
    /// At this commit.
    Commit(ObjectId),
    /// Nobody said.
    Unknown,
}

/// What `HEAD` of a remote names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RemoteHead {
    /// The branch of that full name.
    Branch(String),
    /// A commit.
    Commit,
    /// Nothing that is there.
    Nothing,
}

impl Git {
    /// The remotes that git's configuration names.
    pub fn remotes(&self) -> Result<Vec<GitRemote>, GitError> {
        let repository = self.libgit2();
        let list = || {
            let mut remotes = Vec::new();
            for name in repository.remotes()?.iter() {
                // It becomes part of references and of paths. Others git would not take either.
                let Some(name) = name?.filter(|name| GitRemote::is_name(name)) else { continue };
                let url = Url::from(repository.find_remote(name)?.url()?);
                remotes.push(GitRemote { name: name.to_owned(), url });
            }
            Ok(remotes)
        };
        list().map_err(GitError::git("list the remotes"))
    }

    /// Adds a remote, whose name must be new, durably. Where `url` holds a secret, git's configuration is for nobody
    /// else to read from now on.
    pub fn add_remote(&self, name: &str, url: impl Into<Url>) -> Result<(), GitError> {
        let url = url.into();
        self.configure(|config| {
            let section = format!("remote.{name}.");
            if !git2::Remote::is_valid_name(name) || !keys(config, &section)?.is_empty() {
                return Err(git2::Error::from_str("its name is not allowed or not new"));
            }
            config.set_str(&format!("{section}url"), url.reveal())?;
            config.set_str(&format!("{section}fetch"), &format!("+refs/heads/*:refs/remotes/{name}/*"))
        })
    }

    /// Removes a remote, and the references that follow its branches, durably.
    pub fn remove_remote(&self, name: &str) -> Result<(), GitError> {
        let _turn = turn(&self.private_dir()?.join(TURN), &Progress::new())?;
        self.configure(|config| {
            let followed = followed(name);
            let followed = keys(config, &followed)?.take(&followed);
            for key in keys(config, &format!("remote.{name}."))?.into_iter().chain(followed) {
                config.remove_multivar(&key, ".*")?;
            }
            for key in keys(config, "branch.")? {
                if key.ends_with(".remote") && config.get_string(&key)? == name {
                    config.remove_multivar(&key, ".*")?;
                    let merge = key.replace(".remote", ".merge");
                    let is_there = !keys(config, &merge)?.is_empty();
                    if is_there {
                        config.remove_multivar(&merge, ".*")?;
                    }
                }
            }
            Ok(())
        })?;
        let followed = format!("refs/remotes/{name}/");
        let references = self.references()?.into_iter().map(|(reference, _)| reference);
        references
            .filter(|reference| reference.starts_with(&followed))
            .try_for_each(|reference| self.remove_reference(&reference))
    }

    /// The full name of the branch of a remote that this repository's branch is exchanged with: of the same name, unless
    /// another one is followed.
    pub fn branch_in(&self, remote: &str) -> String {
        let is_branch = |name: &String| name.starts_with(HEADS) && git2::Reference::is_valid_name(name);
        let followed = self.libgit2().config().and_then(|config| config.get_string(&followed(remote)));
        followed.ok().filter(is_branch).unwrap_or_else(|| self.branch().to_owned())
    }

    /// From now on exchanges this repository's branch with the one of that full name in a remote.
    pub(crate) fn follow_branch(&self, remote: &str, branch: &str) -> Result<(), GitError> {
        self.configure(|config| config.set_str(&followed(remote), branch))
    }

    /// The full name of the reference by which this repository knows where its branch is in a remote.
    pub fn tracking(&self, remote: &str) -> String {
        let branch = self.branch_in(remote);
        format!("refs/remotes/{remote}/{}", branch.strip_prefix(HEADS).unwrap_or(&branch))
    }

    /// Where the remote of that name is, if it is configured.
    pub(crate) fn url_of(&self, remote: &str) -> Result<Option<Url>, GitError> {
        // libgit2 obeys `url.….insteadOf` of the repository.
        if self.settings()?.is_isolated() {
            let config = self.libgit2().config().and_then(|mut config| config.snapshot());
            let config = config.map_err(GitError::git("read the settings of the repository"))?;
            return Ok(config.get_str(&format!("remote.{remote}.url")).ok().map(Url::from));
        }
        Ok(self.remotes()?.into_iter().find(|each| each.name == remote).map(|each| each.url))
    }

    /// Trusts the settings and hooks of this repository as they are now. What they are called; none where all of them
    /// count for everybody.
    pub fn trust_settings(&self) -> Result<Vec<String>, GitError> {
        isolate::trust_all(self.path())
    }

    /// Trusts an address that stands in this repository, where it can start a program.
    pub fn trust_address(&self, url: &Url) -> Result<bool, GitError> {
        let needs = url.for_git().is_ok_and(|given| given.starts_program);
        if needs {
            trust::remember(self.path(), Claim::Address(url))
                .map_err(GitError::io("remember the trust in", self.path()))?;
        }
        Ok(needs)
    }

    /// The person's settings for the program git, which are read once.
    pub(super) fn settings(&self) -> Result<&Settings, GitError> {
        if let Some(settings) = self.settings.get() {
            return Ok(settings);
        }
        let settings = Settings::read(Some(self.path()))?;
        Ok(self.settings.get_or_init(|| settings))
    }
}

/// The setting that says which branch of a remote is followed.
fn followed(remote: &str) -> String {
    format!("treering.{remote}.branch")
}

/// The keys of a file of configuration that begin with `prefix`, each once.
fn keys(config: &git2::Config, prefix: &str) -> Result<BTreeSet<String>, git2::Error> {
    let mut keys = BTreeSet::new();
    config.entries(None)?.for_each(|entry| {
        keys.extend(entry.name().ok().filter(|name| name.starts_with(prefix)).map(str::to_owned));
    })?;
    Ok(keys)
}

/// Waits until no other process is at what the lock file at `path` stands for, or this one is to stop. One fetch fails when another
/// moves its references.
pub(super) fn turn(path: &Path, progress: &Progress) -> Result<File, GitError> {
    let file = open_lock(path)?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => progress.check()?,
            Err(TryLockError::Error(error)) => return Err(GitError::io("lock", path)(error)),
        }
        thread::sleep(LOOK);
    }
}
