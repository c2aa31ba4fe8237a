//! Other repositories, reached by the `git` program.
//!
//! The program brings the person's own ssh configuration, credential helpers and proxies, and every kind of
//! URL; see [`program`](super::program) for what of a person's settings counts. Where it is not installed,
//! [`library`] does what can be done without.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::NamedTempFile;

use crate::atomic;
use crate::layers::ObjectId;
use crate::progress::Progress;
use crate::trust::{self, Claim};
use crate::url::Url;
use crate::watch::Bounds;

use super::git::expect_known_format;
use super::leftovers::GitRun;
use super::lockfile::Turn;
use super::paths::{HEADS, PRIVATE, sync_names};
use super::program;
use super::remotes::{FETCH, PUSH, PushedFrom, RemoteHead, TURN, turn};
use super::run::{ask, run_to_end};
use super::{Git, GitError, library};

/// The git that serves a remote on this machine, whatever its configuration: what arrives stays as it is and
/// in a pack, and nothing is searched for deltas or packed anew.
const LOCAL: &str = "git -c receive.unpackLimit=1 -c core.fsync=all -c receive.autogc=false -c pack.window=0";

impl PushedFrom {
    /// What git says when it has pushed one branch: `* [new branch] main -> main`, `old..new main -> main`, with a third
    /// dot and a plus where history was replaced, or that it is up to date.
    fn parse(said: &str, pushed: &ObjectId) -> Self {
        if said.lines().any(|line| line == "Everything up-to-date") {
            return Self::Commit(*pushed);
        }
        let Some(line) = said.lines().find(|line| line.contains(" -> ")) else { return Self::Unknown };
        let line = line.trim_start_matches([' ', '+', '*']);
        let old = || line.split_once("..")?.0.parse().ok();
        match line.starts_with("[new ") {
            true => Self::Nothing,
            false => old().map_or(Self::Unknown, Self::Commit),
        }
    }
}

impl Git {
    /// Fetches the branches of a remote, and what they need. Afterwards [`tracking`](Self::tracking)
    /// references are where they are.
    pub fn fetch(&self, remote: &str) -> Result<(), GitError> {
        self.fetch_with(remote, &Progress::new())
    }

    /// As [`fetch`](Self::fetch), telling `progress` of the bytes that come, and stopping when that says so.
    pub fn fetch_with(&self, remote: &str, progress: &Progress) -> Result<(), GitError> {
        let _turn = turn(&self.private_dir()?.join(TURN), progress)?;
        let _keep = self.keep_layers()?;
        // Of a shallow repository git would fetch nothing.
        let options = ["--prune", "--update-shallow"];
        match self.run_fetch(remote, &options, &[format!("+{HEADS}*:refs/remotes/{remote}/*")], progress) {
            Err(GitError::NoProgram) => library::fetch(self, remote, progress)?,
            fetched => {
                fetched?;
                // Git syncs files, and no directories.
                sync_names(self.path(), format!("refs/remotes/{remote}"))?;
            }
        }
        Ok(())
    }

    /// Asks the program git for these objects of a remote, and what they name. No reference moves.
    pub(crate) fn fetch_objects(
        &self,
        remote: &str,
        ids: &[ObjectId],
        progress: &Progress,
    ) -> Result<(), GitError> {
        let _turn = turn(&self.private_dir()?.join(TURN), progress)?;
        let _keep = self.keep_layers()?;
        let ids: Vec<_> = ids.iter().map(ObjectId::to_string).collect();
        self.run_fetch(remote, &[], &ids, progress)
    }

    /// Lets the program git fetch what is `wanted`, for who has the turn and keeps layers.
    fn run_fetch(
        &self,
        remote: &str,
        options: &[&str],
        wanted: &[String],
        progress: &Progress,
    ) -> Result<(), GitError> {
        // Git waits for no lock, so none of a dead process may be there.
        let running = self.run_of_git(None, progress)?;
        let (mut command, there) = self.program_for(remote)?;
        // A quiet fetch does not tell what it receives, whatever else it is told.
        command.args(["fetch", "--progress", "--no-tags", "--no-recurse-submodules"]);
        // In a mirror git would move the branch itself too, over what is only here.
        command.arg("--refmap=").args(options);
        if is_local(&there.url) {
            command.arg(format!("--upload-pack={LOCAL} upload-pack"));
        }
        command.args(["--", &there.argument]).args(wanted);
        let fetched = run_marked(running, FETCH, &mut command, self.bounds, progress);
        fetched.map_err(|error| blame_lock(there.redacted(error))).map(drop)
    }

    /// Where this repository's branch is in a remote, without fetching what is there.
    pub fn remote_head(&self, remote: &str, progress: &Progress) -> Result<Option<ObjectId>, GitError> {
        let (mut command, there) = self.program_for(remote)?;
        command.args(["ls-remote", "--quiet", "--", &there.argument, &self.branch_in(remote)]);
        let said = ask("look at the remote", &mut command, self.bounds, progress)
            .map_err(|error| there.redacted(error))?;
        Ok(said.split_whitespace().next().and_then(|id| id.parse().ok()))
    }

    /// What `HEAD` of a remote names.
    pub(super) fn named_by_head(&self, remote: &str) -> Result<RemoteHead, GitError> {
        let (mut command, there) = self.program_for(remote)?;
        command.args(["ls-remote", "--quiet", "--symref", "--", &there.argument, "HEAD"]);
        match ask("look at the remote", &mut command, self.bounds, &Progress::new()) {
            Err(GitError::NoProgram) => library::head(self, remote),
            said => {
                let said = said.map_err(|error| there.redacted(error))?;
                let branch = said.lines().find_map(|line| line.strip_prefix("ref: ")?.strip_suffix("\tHEAD"));
                Ok(match branch {
                    Some(branch) => RemoteHead::Branch(branch.to_owned()),
                    // Git does not say what is not there.
                    None if said.trim().is_empty() => match library::path_of(&there.url) {
                        Some(_) => library::head(self, remote)?,
                        None => RemoteHead::Nothing,
                    },
                    None => RemoteHead::Commit,
                })
            }
        }
    }

    /// Moves this repository's branch in a remote to `commit`, if that follows what the remote has.
    pub fn push_commit(&self, remote: &str, commit: &ObjectId) -> Result<PushedFrom, GitError> {
        self.push_commit_with(remote, commit, &Progress::new())
    }

    /// As [`push_commit`](Self::push_commit), telling `progress` of the bytes that go, and stopping when that
    /// says so.
    pub fn push_commit_with(
        &self,
        remote: &str,
        commit: &ObjectId,
        progress: &Progress,
    ) -> Result<PushedFrom, GitError> {
        let (mut command, there) = self.program_for(remote)?;
        self.push_with(remote, commit, (&mut command, &there), Expected::Anything, progress)
    }

    /// As [`push_commit_with`](Self::push_commit_with), of a commit that follows `old`, which the remote was seen to have:
    /// a branch that is not there any more is not made anew, since it may have another name by now.
    pub(crate) fn push_onto(
        &self,
        remote: &str,
        old: &ObjectId,
        commit: &ObjectId,
        progress: &Progress,
    ) -> Result<PushedFrom, GitError> {
        let (mut command, there) = self.program_for(remote)?;
        self.push_with(remote, commit, (&mut command, &there), Expected::Followed(old), progress)
    }

    /// Puts `commit` in the place of what a remote has, `old` and its history, if it still has that.
    ///
    /// What is in `old` is not sent again, if it is here, though `commit` does not follow it: git is told that
    /// this is a shallow clone of it.
    pub fn replace_commit(
        &self,
        remote: &str,
        old: &ObjectId,
        commit: &ObjectId,
        progress: &Progress,
    ) -> Result<PushedFrom, GitError> {
        let (mut command, there) = self.program_for(remote)?;
        let shallow = NamedTempFile::new().map_err(GitError::io("write to", &std::env::temp_dir()))?;
        if self.read_commit(old).is_ok() {
            writeln!(shallow.as_file(), "{old}").map_err(GitError::io("write to", shallow.path()))?;
            command.env("GIT_SHALLOW_FILE", shallow.path());
        }
        self.push_with(remote, commit, (&mut command, &there), Expected::Replaced(old), progress)
    }

    fn push_with(
        &self,
        remote: &str,
        commit: &ObjectId,
        (command, address): (&mut Command, &Address),
        expected: Expected<'_>,
        progress: &Progress,
    ) -> Result<PushedFrom, GitError> {
        let branch = self.branch_in(remote);
        let refspec = format!("{commit}:{branch}");
        // Git itself may move the tracking reference when it has pushed.
        let _turn = turn(&self.private_dir()?.join(TURN), progress)?;
        let there = path_of_remote(&address.url);
        if let Some(private) =
            there.as_ref().map(|there| there.join(PRIVATE)).filter(|private| private.is_dir())
        {
            // Git would be stopped by a lock that a dead process of this program left there. Where one may not
            // look for any, git says what is wrong.
            let _ = Turn::take(atomic::parent(&private), &private);
        }
        let running = self.run_of_git(there.as_deref(), progress)?;
        // A mirror would push every reference, and takes nothing that is named. Where git gets an address instead, to which
        // it is to log in, none of the remote's settings counts.
        if address.argument == remote {
            command.env("GIT_CONFIG_COUNT", "1").env("GIT_CONFIG_VALUE_0", "false");
            command.env("GIT_CONFIG_KEY_0", format!("remote.{remote}.mirror"));
        }
        // Not abbreviated, it says where the remote was.
        command.args(["-c", "core.abbrev=40", "push", "--progress", "--no-recurse-submodules"]);
        // What follows the one that is there replaces nothing.
        if let Expected::Followed(old) | Expected::Replaced(old) = expected {
            command.arg(format!("--force-with-lease={branch}:{old}"));
        }
        if is_local(&address.url) {
            command.arg(format!("--receive-pack={LOCAL} receive-pack"));
        }
        let tracking = self.tracking(remote);
        let before = self.reference(&tracking)?;
        command.args(["--", &address.argument, &refspec]);
        let from = match run_marked(running, PUSH, command, self.bounds.of_sender(), progress) {
            // It has no lease, without which nothing may be replaced.
            Err(GitError::NoProgram) if !matches!(expected, Expected::Replaced(_)) => {
                let is_there = matches!(expected, Expected::Followed(_));
                library::push(self, remote, commit, is_there, progress)?
            }
            said => PushedFrom::parse(&said.map_err(|error| blame_lock(address.redacted(error)))?, commit),
        };
        if let Some(there) = there {
            sync_names(&there, atomic::parent(Path::new(&branch))).map_err(GitError::when_done)?;
            // Whoever opens or clones it finds the branch. Where it cannot be set, all is pushed nevertheless.
            if let Ok(there) = Git::open(&there)
                && matches!(there.head(), Ok(None))
                && there.branch() != branch
            {
                let _ = there.set_head(&branch);
            }
        }
        let tracked = match self.compare_and_set(&tracking, before.as_ref(), commit) {
            // Whoever moved it, as git does, has seen what the remote has by now.
            Err(GitError::Moved { .. }) => self.sync_reference(&tracking),
            tracked => tracked,
        };
        tracked.map_err(GitError::when_done)?;
        Ok(from)
    }

    /// Makes durable where the branch is in a remote, if that is on this machine.
    pub(super) fn sync_remote(&self, remote: &str) -> Result<(), GitError> {
        match self.url_of(remote)?.as_ref().and_then(path_of_remote) {
            Some(there) => sync_names(&there, atomic::parent(Path::new(&self.branch_in(remote)))),
            None => Ok(()),
        }
    }

    /// That a repository at `url`, where that is a path, is in a format that can be read.
    pub fn expect_known_format(url: &Url) -> Result<(), GitError> {
        library::path_of(url).map_or(Ok(()), |path| expect_known_format(&path))
    }

    /// Git, about to run, and what it is to call the remote.
    fn program_for(&self, remote: &str) -> Result<(Command, Address), GitError> {
        let mut command = self.program()?;
        let url = self.url_of(remote)?.unwrap_or_else(|| Url::from(remote));
        let given = url.for_git().map_err(|reason| GitError::Address { url: url.clone(), reason })?;
        if given.starts_program && !trust::is_trusted(self.path(), Claim::Address(&url)) {
            return Err(GitError::Untrusted { url, remote: remote.to_owned(), path: self.path().to_owned() });
        }
        // Of a format that it cannot read git says only that it could not connect, and of an empty repository nothing.
        Self::expect_known_format(&url)?;
        let argument = match &given.login {
            Some(login) => {
                program::log_in(&mut command, &given.address, login);
                given.address
            }
            // So that its other settings count.
            None => remote.to_owned(),
        };
        Ok((command, Address { argument, url }))
    }

    fn program(&self) -> Result<Command, GitError> {
        let settings = self.settings()?;
        let mut command = settings.command();
        command.arg("--git-dir").arg(settings.git_dir(self.path()));
        Ok(command)
    }
}

/// What a remote is to have when something is pushed there.
#[derive(Clone, Copy)]
enum Expected<'a> {
    Anything,
    /// This, which what is pushed follows.
    Followed(&'a ObjectId),
    /// This, in the place of which it comes.
    Replaced(&'a ObjectId),
}

/// A remote, as git is told of it.
pub(super) struct Address {
    /// Its name or its URL; no secret is in it.
    argument: String,
    url: Url,
}

impl Address {
    /// `error` without what is secret in the URL.
    fn redacted(&self, error: GitError) -> GitError {
        match error {
            GitError::Remote { action, said } => GitError::Remote { action, said: self.url.redact(&said) },
            error => error,
        }
    }
}

/// For `map_err`: where git was stopped by a lock file, that is what is wrong.
fn blame_lock(error: GitError) -> GitError {
    let GitError::Remote { said, .. } = &error else { return error };
    let path = said
        .split_once("Unable to create '")
        .and_then(|(_, rest)| Some(rest.split_once("': File exists")?.0));
    match path.filter(|path| path.ends_with(".lock") && !path.contains('\n')) {
        Some(path) => GitError::locked(&Path::new(path).components().collect::<PathBuf>()),
        None => error,
    }
}

/// Whether a remote is on this machine, so that git serves it with the settings it is started with.
fn is_local(url: &Url) -> bool {
    url.reveal().starts_with("file://") || Path::new(url.reveal()).is_dir()
}

/// The git repository that a remote is, where that is on this machine.
fn path_of_remote(url: &Url) -> Option<PathBuf> {
    let path = library::path_of(url)?;
    let places = [path.join(".git"), path];
    places.into_iter().find(|place| place.join("HEAD").is_file() && place.join("objects").is_dir())
}

/// Runs git with the mark that it runs. When it did not end well, what it may have left is removed.
fn run_marked(
    running: GitRun,
    action: &'static str,
    command: &mut Command,
    bounds: Bounds,
    progress: &Progress,
) -> Result<String, GitError> {
    command.stdin(running.stdin()?);
    let mut is_killed = false;
    let done = run_to_end(action, command, Stdio::null(), bounds, progress, &mut is_killed);
    match &done {
        _ if is_killed => running.clean_up_stopped(),
        Ok(_) | Err(GitError::NoProgram) => running.finish(),
        Err(error) => {
            let said = if let GitError::Remote { said, .. } = error { said } else { "" };
            running.clean_up_failed(CUT_OFF.iter().any(|text| said.contains(text)), progress);
        }
    }
    done
}

/// How git says that what it ran, or what that ran on the other side, has ended too early.
const CUT_OFF: [&str; 2] = ["died of signal", "hung up unexpectedly"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_remote_was_is_read_from_what_git_says() {
        let (old, new) = ("1".repeat(40), ObjectId::from_bytes([0x22; 20]));
        let of = |line: &str| PushedFrom::parse(&format!("remote: hello\nTo /tmp/x -y\n{line}"), &new);
        let commit = PushedFrom::Commit(ObjectId::from_bytes([0x11; 20]));
        assert_eq!(of(&format!(" * [new branch]      {new} -> main")), PushedFrom::Nothing);
        assert_eq!(of(&format!("   {old}..{new}  {new} -> main")), commit);
        assert_eq!(of(&format!(" + {old}...{new} {new} -> main (forced update)")), commit);
        assert_eq!(of("Everything up-to-date"), PushedFrom::Commit(new));
        for odd in ["", "   abc..def  main -> main", "done"] {
            assert_eq!(of(odd), PushedFrom::Unknown, "{odd}");
        }
    }
}
