//! Other repositories, reached by the `git` program.
//!
//! The program brings the person's own ssh configuration, credential helpers and proxies, and every kind of
//! URL; see [`program`](super::program) for what of a person's settings counts. Where it is not installed,
//! [`library`] does what can be done without.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::NamedTempFile;

use crate::layers::ObjectId;
use crate::progress::{Interrupted, Progress};

use super::program::Settings;
use super::refs::open_lock;
use super::{Git, GitError, library};

/// The file whose `flock` gives the turn to move the references that follow remotes.
const TURN: &str = "remotes.lock";

/// The git that serves a remote on this machine, whatever its configuration: what arrives stays as it is and
/// in a pack, and nothing is searched for deltas or packed anew.
const LOCAL: &str = "git -c receive.unpackLimit=1 -c core.fsync=all -c receive.autogc=false -c pack.window=0";

/// What is attempted, as it is told when it fails.
pub(super) const FETCH: &str = "fetch from the remote";
pub(super) const PUSH: &str = "push to the remote";

/// How many bytes are kept of what git says.
pub(super) const MAX_SAID: usize = 1 << 16;

/// Another repository that this one exchanges commits with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitRemote {
    /// What it is called here.
    pub name: String,
    /// Where it is.
    pub url: String,
}

/// `text` without the passwords in the URLs that it quotes: `https://user:***@example.org/x.git`.
pub fn without_passwords(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        let ends = |letter: char| "/?#'\"".contains(letter) || letter.is_whitespace();
        let (authority, path) = after.split_at(after.find(ends).unwrap_or(after.len()));
        safe.push_str(before);
        safe.push_str("://");
        let parts = authority.rsplit_once('@').and_then(|(user, host)| Some((user.split_once(':')?.0, host)));
        match parts {
            Some((user, host)) => {
                safe.push_str(user);
                safe.push_str(":***@");
                safe.push_str(host);
            }
            None => safe.push_str(authority),
        }
        rest = path;
    }
    safe.push_str(rest);
    safe
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
        self.fetch_with(remote, &Progress::new())
    }

    /// As [`fetch`](Self::fetch), telling `progress` of the bytes that come, and stopping when that says so.
    pub fn fetch_with(&self, remote: &str, progress: &Progress) -> Result<(), GitError> {
        let _turn = turn(&self.private_dir()?.join(TURN))?;
        let _keep = self.keep_layers()?;
        let refspec = format!("+refs/heads/*:refs/remotes/{remote}/*");
        let mut command = self.program()?;
        // A quiet fetch does not tell what it receives, whatever else it is told.
        command.args(["fetch", "--progress", "--no-tags", "--prune", "--no-recurse-submodules"]);
        if self.is_local(remote)? {
            command.arg(format!("--upload-pack={LOCAL} upload-pack"));
        }
        match run(FETCH, command.args(["--", remote, &refspec]), progress) {
            Err(GitError::NoProgram) => library::fetch(self, remote, progress),
            fetched => fetched,
        }
    }

    /// Where this repository's branch is in a remote, without fetching what is there.
    pub fn remote_head(&self, remote: &str) -> Result<Option<ObjectId>, GitError> {
        let mut command = self.program()?;
        command.args(["ls-remote", "--quiet", "--", remote, self.branch()]);
        let said = ask("look at the remote", &mut command)?;
        Ok(said.split_whitespace().next().and_then(|id| id.parse().ok()))
    }

    /// The branch that `HEAD` of a remote names, if it says.
    pub(super) fn remote_branch(&self, remote: &str) -> Result<Option<String>, GitError> {
        let mut command = self.program()?;
        command.args(["ls-remote", "--quiet", "--symref", "--", remote, "HEAD"]);
        match ask("look at the remote", &mut command) {
            Err(GitError::NoProgram) => library::branch(self, remote),
            said => {
                let said = said?;
                let branch = said.lines().find_map(|line| line.strip_prefix("ref: ")?.strip_suffix("\tHEAD"));
                Ok(branch.map(str::to_owned))
            }
        }
    }

    /// Moves this repository's branch in a remote to `commit`, if that follows what the remote has.
    pub fn push_commit(&self, remote: &str, commit: &ObjectId) -> Result<(), GitError> {
        self.push_commit_with(remote, commit, &Progress::new())
    }

    /// As [`push_commit`](Self::push_commit), telling `progress` of the bytes that go, and stopping when that
    /// says so.
    pub fn push_commit_with(
        &self,
        remote: &str,
        commit: &ObjectId,
        progress: &Progress,
    ) -> Result<(), GitError> {
        self.push_with(remote, commit, &mut self.program()?, None, progress)
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
    ) -> Result<(), GitError> {
        let mut command = self.program()?;
        let shallow = NamedTempFile::new().map_err(GitError::io("write to", &std::env::temp_dir()))?;
        if self.read_commit(old).is_ok() {
            writeln!(shallow.as_file(), "{old}").map_err(GitError::io("write to", shallow.path()))?;
            command.env("GIT_SHALLOW_FILE", shallow.path());
        }
        self.push_with(remote, commit, &mut command, Some(old), progress)
    }

    fn push_with(
        &self,
        remote: &str,
        commit: &ObjectId,
        command: &mut Command,
        replaced: Option<&ObjectId>,
        progress: &Progress,
    ) -> Result<(), GitError> {
        let refspec = format!("{commit}:{}", self.branch());
        // Git itself may move the tracking reference when it has pushed.
        let _turn = turn(&self.private_dir()?.join(TURN))?;
        command.args(["push", "--quiet", "--progress", "--no-recurse-submodules"]);
        if let Some(replaced) = replaced {
            command.arg(format!("--force-with-lease={}:{replaced}", self.branch()));
        }
        if self.is_local(remote)? {
            command.arg(format!("--receive-pack={LOCAL} receive-pack"));
        }
        let tracking = self.tracking(remote);
        let before = self.reference(&tracking)?;
        match run(PUSH, command.args(["--", remote, &refspec]), progress) {
            // It has no lease, without which nothing may be replaced.
            Err(GitError::NoProgram) if replaced.is_none() => library::push(self, remote, commit, progress)?,
            pushed => pushed?,
        }
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

    fn program(&self) -> Result<Command, GitError> {
        let mut command = match self.settings.get() {
            Some(settings) => settings.command(),
            None => {
                let settings = Settings::read(Some(self.path()))?;
                self.settings.get_or_init(|| settings).command()
            }
        };
        command.arg("--git-dir").arg(self.path());
        Ok(command)
    }
}

/// Waits until no other process is at what the lock file at `path` stands for. One fetch fails when another
/// moves its references.
pub(super) fn turn(path: &Path) -> Result<File, GitError> {
    let file = open_lock(path)?;
    file.lock().map_err(GitError::io("lock", path))?;
    Ok(file)
}

/// Runs git, and returns what it prints, which must be little.
fn ask(action: &'static str, command: &mut Command) -> Result<String, GitError> {
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(GitError::NoProgram),
        Err(error) => return Err(GitError::io("run", Path::new("git"))(error)),
    };
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => {
            let said = without_passwords(String::from_utf8_lossy(&output.stderr).trim());
            Err(GitError::Remote { action, said })
        }
    }
}

/// Runs git, which tells of its progress, and of what is wrong.
pub(super) fn run(action: &'static str, command: &mut Command, progress: &Progress) -> Result<(), GitError> {
    let failed = || GitError::io("run", Path::new("git"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(GitError::NoProgram),
        Err(error) => return Err(failed()(error)),
    };
    let listened = listen(&mut child, progress);
    if listened.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(failed())?;
    if !status.success() {
        progress.check()?;
    }
    // Ctrl-C reaches git at the same time.
    if status.signal() == Some(SIGINT) {
        return Err(Interrupted.into());
    }
    let said = listened.map_err(failed())?;
    match status.success() {
        true => Ok(()),
        false => Err(GitError::Remote { action, said: without_passwords(&said) }),
    }
}

/// Follows what git says to its end, and returns it without its progress. An error when it is to stop.
fn listen(child: &mut Child, progress: &Progress) -> io::Result<String> {
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
        let len = match stderr.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if progress.check().is_err() {
            return Err(io::Error::from(io::ErrorKind::Interrupted));
        }
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
    fn passwords_are_not_shown() {
        for (text, shown) in [
            ("https://ann:s3cret@example.org/x.git", "https://ann:***@example.org/x.git"),
            ("https://ann:a@b:c@example.org", "https://ann:***@example.org"),
            ("to 'ssh://ann:x@a:22/y' and http://:p@b?q", "to 'ssh://ann:***@a:22/y' and http://:***@b?q"),
            ("https://ann@example.org/a:b@c", "https://ann@example.org/a:b@c"),
            ("git@example.org:rings.git", "git@example.org:rings.git"),
            ("file:///a:b@c", "file:///a:b@c"),
            ("://", "://"),
        ] {
            assert_eq!(without_passwords(text), shown);
        }
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
