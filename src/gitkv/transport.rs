//! Other repositories, reached by the `git` program.
//!
//! The program brings the person's own ssh configuration, credential helpers and proxies, and every kind of
//! URL; see [`program`](super::program) for what of a person's settings counts. Where it is not installed,
//! [`library`] does what can be done without.

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::Pid;
use tempfile::NamedTempFile;

use crate::atomic;
use crate::child::{LOOK, Running, check, wait_to_hear};
use crate::layers::ObjectId;
use crate::progress::{Interrupted, Progress};
use crate::trust::{self, Claim};
use crate::url::{Url, redact};
use crate::watch::{Bounds, Exceeded, Watch};

use super::git::expect_known_format;
use super::leftovers::GitRun;
use super::lockfile::{Turn, open_lock};
use super::program::{self, Settings};
use super::refs::PRIVATE;
use super::{Git, GitError, library};

/// The file whose `flock` gives the turn to move the references that follow remotes.
pub(super) const TURN: &str = "remotes.lock";

/// The git that serves a remote on this machine, whatever its configuration: what arrives stays as it is and
/// in a pack, and nothing is searched for deltas or packed anew.
const LOCAL: &str = "git -c receive.unpackLimit=1 -c core.fsync=all -c receive.autogc=false -c pack.window=0";

/// What is attempted, as it is told when it fails.
pub(super) const FETCH: &str = "fetch from the remote";
pub(super) const PUSH: &str = "push to the remote";

/// What the full names of branches begin with.
pub(crate) const HEADS: &str = "refs/heads/";

/// How many bytes are read of what git answers.
pub(super) const MAX_ANSWER: u64 = 1 << 20;

/// How many bytes are kept of what git says.
pub(super) const MAX_SAID: usize = 1 << 16;

/// Another repository that this one exchanges commits with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitRemote {
    /// What it is called here.
    pub name: String,
    /// Where it is.
    pub url: Url,
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

impl GitRemote {
    /// Whether a remote can be called `name`, which becomes part of references and of relative paths.
    pub fn is_name(name: &str) -> bool {
        let is_part = |part: &str| !part.is_empty() && !part.starts_with('.');
        git2::Remote::is_valid_name(name) && !name.starts_with('-') && name.split('/').all(is_part)
    }
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

    fn settings(&self) -> Result<&Settings, GitError> {
        if let Some(settings) = self.settings.get() {
            return Ok(settings);
        }
        let settings = Settings::read(Some(self.path()))?;
        Ok(self.settings.get_or_init(|| settings))
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

/// Makes durable that packs, and references in the directory `references`, have come or gone in the repository at
/// `directory`. What is in them is durable already.
fn sync_names(directory: &Path, references: impl AsRef<Path>) -> Result<(), GitError> {
    let references = directory.join(references);
    let within = references.ancestors().take_while(|above| above.starts_with(directory));
    let objects = directory.join("objects");
    for path in within.map(Path::to_owned).chain([objects.join("pack"), objects]) {
        match atomic::sync_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(GitError::io("sync", &path)(error));
            }
            _ => {}
        }
    }
    Ok(())
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

/// Runs git, and returns what it prints as text; see [`answer`].
fn ask(
    action: &'static str,
    command: &mut Command,
    bounds: Bounds,
    progress: &Progress,
) -> Result<String, GitError> {
    Ok(String::from_utf8_lossy(&answer(action, command, bounds, progress)?).into_owned())
}

/// Runs git, and returns what it prints, [`MAX_ANSWER`] bytes at most: it is read when git has ended.
pub(super) fn answer(
    action: &'static str,
    command: &mut Command,
    bounds: Bounds,
    progress: &Progress,
) -> Result<Vec<u8>, GitError> {
    let keep = || {
        let file = File::from(memfd_create("git-answer", MemfdFlags::CLOEXEC)?);
        Ok((file.try_clone()?, file))
    };
    let (mut answer, stdout) = keep().map_err(GitError::io("keep the answer of", Path::new("git")))?;
    run_to_end(action, command, stdout.into(), bounds, progress, &mut false)?;
    let mut said = Vec::new();
    answer
        .seek(io::SeekFrom::Start(0))
        .and_then(|_| answer.take(MAX_ANSWER).read_to_end(&mut said))
        .map_err(GitError::io("read the answer of", Path::new("git")))?;
    Ok(said)
}

/// Runs git, which tells of its progress, and of what is wrong. Returns what else it says.
pub(super) fn run(
    action: &'static str,
    command: &mut Command,
    progress: &Progress,
) -> Result<String, GitError> {
    run_to_end(action, command, Stdio::null(), Bounds::default(), progress, &mut false)
}

/// The same with the mark that git runs. When it did not end well, what it may have left is removed.
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

fn run_to_end(
    action: &'static str,
    command: &mut Command,
    stdout: Stdio,
    bounds: Bounds,
    progress: &Progress,
    is_killed: &mut bool,
) -> Result<String, GitError> {
    let failed = || GitError::io("run", Path::new("git"));
    command.stdout(stdout).stderr(Stdio::piped());
    let mut running = match Running::start(command) {
        Ok(started) => started?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(GitError::NoProgram),
        Err(error) => return Err(failed()(error)),
    };
    let mut watch = Watch::new(Pid::from_child(&running.child), bounds);
    let ended = follow(&mut running, progress, &mut watch);
    let (said, status) = match ended {
        Ok((said, status)) => (Ok(said), Ok(status)),
        Err(error) => (Err(error), running.end()),
    };
    // One that ended by itself was perhaps told to by what it ran, which Ctrl-C reaches as well.
    *is_killed = check(progress).is_err() || status.as_ref().map_or(true, |status| status.code().is_none());
    if let Err(error) = &said
        && let Some(&source) = error.get_ref().and_then(|error| error.downcast_ref::<Exceeded>())
    {
        *is_killed = true;
        return Err(GitError::Ended { action, source });
    }
    let status = status.map_err(failed())?;
    if !status.success() {
        check(progress)?;
    }
    // Ctrl-C reaches git at the same time.
    if status.signal() == Some(SIGINT) {
        return Err(Interrupted.into());
    }
    let said = said.map_err(failed())?;
    match status.success() {
        true => Ok(said),
        false => Err(GitError::Remote { action, said: redact(&without_advice(&said)) }),
    }
}

/// Follows git to its end, and returns what it said and how it ended. An error when it is to stop, or comes to its bounds.
fn follow(running: &mut Running, progress: &Progress, watch: &mut Watch) -> io::Result<(String, ExitStatus)> {
    let said = listen(&mut running.child, progress, watch)?;
    Ok((said, running.wait_within(progress, watch)?))
}

/// What git says, without its advice to the person who would have run it.
fn without_advice(said: &str) -> String {
    let is_advice = |line: &&str| line.trim_start_matches("remote: ").starts_with("hint:");
    let lines: Vec<_> = said.lines().filter(|line| !is_advice(line)).collect();
    lines.join("\n").replace(" (you should pull first)", "")
}

/// Follows what git says to its end, and returns it without its progress. An error as of [`follow`].
fn listen(child: &mut Child, progress: &Progress, watch: &mut Watch) -> io::Result<String> {
    let Some(mut stderr) = child.stderr.take() else { return Ok(String::new()) };
    let (mut said, mut line, mut transferred) = (String::new(), Vec::new(), 0);
    let mut end = |line: &mut Vec<u8>, terminator: &str| {
        let text = String::from_utf8_lossy(line);
        if !is_progress(&text) {
            said.push_str(&text);
            said.push_str(terminator);
        } else if let Some(now) = bytes_transferred(&text) {
            progress.bytes.add(now.saturating_sub(transferred));
            transferred = transferred.max(now);
        }
        line.clear();
        said.truncate(said.floor_char_boundary(MAX_SAID));
    };
    let mut buffer = [0; 4096];
    loop {
        wait_to_hear(&stderr, progress, watch)?;
        let len = match stderr.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        for &byte in &buffer[..len] {
            match byte {
                b'\r' => end(&mut line, ""),
                b'\n' => end(&mut line, "\n"),
                byte if line.len() < MAX_SAID => line.push(byte),
                _ => {}
            }
        }
    }
    end(&mut line, "");
    Ok(said.trim().to_owned())
}

/// The signal of Ctrl-C.
const SIGINT: i32 = 2;

/// How git says that what it ran, or what that ran on the other side, has ended too early.
const CUT_OFF: [&str; 2] = ["died of signal", "hung up unexpectedly"];

/// What the lines begin with in which git tells how far it is, on either side.
const PROGRESS: [&str; 10] = [
    "Enumerating objects:",
    "Counting objects:",
    "Compressing objects:",
    "Writing objects:",
    "Receiving objects:",
    "Unpacking objects:",
    "Resolving deltas:",
    "Checking connectivity:",
    "Delta compression using",
    "Total ",
];

fn is_progress(line: &str) -> bool {
    let line = line.strip_prefix("remote: ").unwrap_or(line);
    PROGRESS.iter().any(|begin| line.starts_with(begin))
}

/// How many bytes came or went, of a line such as `Writing objects:  50% (1/2), 3.21 MiB | 1.00 MiB/s`.
fn bytes_transferred(line: &str) -> Option<u64> {
    let rest =
        ["Writing objects:", "Receiving objects:"].iter().find_map(|begin| line.strip_prefix(begin))?;
    let (number, unit) = rest.split(", ").nth(1)?.split(" | ").next()?.split_once(' ')?;
    let shift = ["bytes", "KiB", "MiB", "GiB"].iter().position(|&known| known == unit.trim())? * 10;
    Some((number.parse::<f64>().ok()? * (1u64 << shift) as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_from_what_is_wrong() {
        let mut git = Command::new("sh");
        let script = "printf 'remote: Counting objects: 100%% (3/3)\\r'\n\
            printf 'Writing objects:  50%% (1/2), 1.00 KiB | 9.00 MiB/s\\r' >&2\n\
            printf 'Writing objects: 100%% (2/2), 2.50 KiB | 9.00 MiB/s, done.\\n' >&2\n\
            printf 'Total 2 (delta 0), reused 2 (delta 0)\\nremote: the disk is full\\nfatal: no' >&2\n\
            exit 1";
        let progress = Progress::new();
        let error = run("try", git.args(["-c", script]), &progress).unwrap_err();
        assert_eq!(progress.bytes.get(), 2560);
        assert!(
            matches!(&error, GitError::Remote { said, .. } if said == "remote: the disk is full\nfatal: no"),
            "{error}"
        );
    }

    #[test]
    fn bytes_are_read_in_every_unit_and_nothing_else_is() {
        let of = |rest: &str| bytes_transferred(&format!("Receiving objects:  10% (1/10){rest}"));
        assert_eq!(of(", 12 bytes | 1.00 KiB/s"), Some(12));
        assert_eq!(of(", 1.50 MiB | 1.00 KiB/s, done."), Some(3 << 19));
        assert_eq!(of(", 2.00 GiB"), Some(2 << 30));
        for nothing in ["", ", done.", ", x MiB", ", 1.00 parsecs | y", ", 7"] {
            assert_eq!(of(nothing), None, "{nothing}");
        }
        assert_eq!(bytes_transferred("Resolving deltas: 1% (1/2), 3.00 MiB"), None);
    }

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

    #[test]
    fn advice_that_fits_nobody_is_left_out() {
        let said = "remote: error: denying non-fast-forward refs/heads/main (you should pull first)\n\
            hint: Updates were rejected\nremote: hint: more\n ! [remote rejected] main -> main";
        let rest =
            "remote: error: denying non-fast-forward refs/heads/main\n ! [remote rejected] main -> main";
        assert_eq!(without_advice(said), rest);
    }

    #[test]
    fn what_is_to_stop_is_ended() {
        let progress = Progress::new();
        progress.stop();
        let error = run("try", Command::new("sh").args(["-c", "echo >&2; exec sleep 100"]), &progress);
        assert!(matches!(error, Err(GitError::Interrupted(_))));
    }

    #[test]
    fn a_program_that_is_not_there_is_told_apart() {
        let missing = run("try", &mut Command::new("/nowhere/git"), &Progress::new());
        assert!(matches!(missing, Err(GitError::NoProgram)));
    }
}
