//! Other repositories, reached by the `git` program.
//!
//! The program brings the person's own ssh configuration, credential helpers and proxies, and every kind of
//! URL.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::NamedTempFile;

use crate::layers::ObjectId;

use super::refs::open_lock;
use super::{Git, GitError};

/// The file whose `flock` gives the turn to move the references that follow remotes.
const TURN: &str = "remotes.lock";

/// The git that serves a remote on this machine, whatever its configuration: what arrives stays as it is and
/// in a pack, and nothing is searched for deltas or packed anew.
const LOCAL: &str = "git -c receive.unpackLimit=1 -c core.fsync=all -c receive.autogc=false -c pack.window=0";

/// Another repository that this one exchanges commits with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitRemote {
    /// What it is called here.
    pub name: String,
    /// Where it is.
    pub url: String,
}

impl GitRemote {
    /// Whether a remote can be called `name`.
    pub fn is_name(name: &str) -> bool {
        git2::Remote::is_valid_name(name) && !name.starts_with('-')
    }
}

impl Git {
    /// The remotes that git's configuration names.
    pub fn remotes(&self) -> Result<Vec<GitRemote>, GitError> {
        let repository = self.libgit2();
        let list = || {
            let mut remotes = Vec::new();
            for name in repository.remotes()?.iter() {
                if let Some(name) = name? {
                    let url = repository.find_remote(name)?.url()?.to_owned();
                    remotes.push(GitRemote { name: name.to_owned(), url });
                }
            }
            Ok(remotes)
        };
        list().map_err(GitError::git("list the remotes"))
    }

    /// Adds a remote, whose name must be new.
    pub fn add_remote(&self, name: &str, url: &str) -> Result<(), GitError> {
        let added = self.libgit2().remote(name, url).map(drop);
        added.map_err(GitError::git("add the remote"))
    }

    /// Removes a remote, and the references that follow its branches.
    pub fn remove_remote(&self, name: &str) -> Result<(), GitError> {
        let _turn = turn(&self.private_dir()?.join(TURN))?;
        self.libgit2().remote_delete(name).map_err(GitError::git("remove the remote"))
    }

    /// The full name of the reference by which this repository knows where its branch is in a remote.
    pub fn tracking(&self, remote: &str) -> String {
        let branch = self.branch().strip_prefix("refs/heads/").unwrap_or(self.branch());
        format!("refs/remotes/{remote}/{branch}")
    }

    /// Fetches the branches of a remote, and what they need. Afterwards [`tracking`](Self::tracking)
    /// references are where they are.
    pub fn fetch(&self, remote: &str) -> Result<(), GitError> {
        let _turn = turn(&self.private_dir()?.join(TURN))?;
        let _keep = self.keep_layers()?;
        let refspec = format!("+refs/heads/*:refs/remotes/{remote}/*");
        let mut command = self.program();
        command.args(["fetch", "--quiet", "--no-tags", "--prune"]);
        if self.is_local(remote)? {
            command.arg(format!("--upload-pack={LOCAL} upload-pack"));
        }
        run("fetch from the remote", command.args(["--", remote, &refspec])).map(drop)
    }

    /// Where this repository's branch is in a remote, without fetching what is there.
    pub fn remote_head(&self, remote: &str) -> Result<Option<ObjectId>, GitError> {
        let mut command = self.program();
        command.args(["ls-remote", "--quiet", "--", remote, self.branch()]);
        let said = run("look at the remote", &mut command)?;
        Ok(said.split_whitespace().next().and_then(|id| id.parse().ok()))
    }

    /// Moves this repository's branch in a remote to `commit`, if that follows what the remote has.
    pub fn push_commit(&self, remote: &str, commit: &ObjectId) -> Result<(), GitError> {
        self.push_with(remote, commit, &mut self.program(), None)
    }

    /// Puts `commit` in the place of what a remote has, `old` and its history, if it still has that.
    ///
    /// What is in `old` is not sent again, if it is here, though `commit` does not follow it: git is told that
    /// this is a shallow clone of it.
    pub fn replace_commit(&self, remote: &str, old: &ObjectId, commit: &ObjectId) -> Result<(), GitError> {
        let mut command = self.program();
        let shallow = NamedTempFile::new().map_err(GitError::io("write to", &std::env::temp_dir()))?;
        if self.read_commit(old).is_ok() {
            writeln!(shallow.as_file(), "{old}").map_err(GitError::io("write to", shallow.path()))?;
            command.env("GIT_SHALLOW_FILE", shallow.path());
        }
        self.push_with(remote, commit, &mut command, Some(old))
    }

    fn push_with(
        &self,
        remote: &str,
        commit: &ObjectId,
        command: &mut Command,
        replaced: Option<&ObjectId>,
    ) -> Result<(), GitError> {
        let refspec = format!("{commit}:{}", self.branch());
        // Git itself may move the tracking reference when it has pushed.
        let _turn = turn(&self.private_dir()?.join(TURN))?;
        command.args(["push", "--quiet"]);
        if let Some(replaced) = replaced {
            command.arg(format!("--force-with-lease={}:{replaced}", self.branch()));
        }
        if self.is_local(remote)? {
            command.arg(format!("--receive-pack={LOCAL} receive-pack"));
        }
        let tracking = self.tracking(remote);
        let before = self.reference(&tracking)?;
        run("push to the remote", command.args(["--", remote, &refspec]))?;
        match self.compare_and_set(&tracking, before.as_ref(), commit) {
            // Whoever moved it has seen what the remote has by now.
            Err(GitError::Moved { .. }) => Ok(()),
            moved => moved,
        }
    }

    /// Whether the remote is on this machine, so that git serves it with the settings it is started with.
    fn is_local(&self, remote: &str) -> Result<bool, GitError> {
        let remotes = self.remotes()?;
        let url = remotes.iter().find(|each| each.name == remote).map(|each| each.url.as_str());
        Ok(url.is_some_and(|url| url.starts_with("file://") || Path::new(url).is_dir()))
    }

    fn program(&self) -> Command {
        let mut command = git_program();
        command.arg("--git-dir").arg(self.path());
        command
    }
}

/// Waits until no other process is at what the lock file at `path` stands for. One fetch fails when another
/// moves its references.
pub(super) fn turn(path: &Path) -> Result<File, GitError> {
    let file = open_lock(path)?;
    file.lock().map_err(GitError::io("lock", path))?;
    Ok(file)
}

pub(super) fn git_program() -> Command {
    let mut command = Command::new("git");
    // Set when this runs in a hook; they would name another repository.
    for name in [
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_QUARANTINE_PATH",
        "GIT_SHALLOW_FILE",
    ] {
        command.env_remove(name);
    }
    // What it says is looked at, so it says it in one language.
    command.env("LC_ALL", "C");
    command
}

/// Runs git, and returns what it prints.
pub(super) fn run(action: &'static str, command: &mut Command) -> Result<String, GitError> {
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(GitError::NoProgram),
        Err(error) => return Err(GitError::io("run", Path::new("git"))(error)),
    };
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(GitError::Remote { action, said })
        }
    }
}
