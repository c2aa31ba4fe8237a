//! What is known of earlier runs, in files; and who may run now.
//!
//! A directory for each configuration file holds a JSON file for each profile, which is replaced whole whenever a
//! run begins or ends. A damaged one is told of and begun anew. Beside them lies a lock for each repository,
//! which ends with the processes that hold it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::due::History;
use crate::atomic;
use crate::causes::chain;
use crate::digest::Digest;

/// Why the state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The operating system refused.
    #[error("cannot {action} {}: check who may write there", .path.display())]
    Io {
        /// What was to be done.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A history cannot be written down.
    #[error("cannot write down what ran")]
    Json(#[source] serde_json::Error),
}

/// The directory that remembers the runs of the profiles of one file.
#[derive(Debug, Clone)]
pub struct State {
    histories: PathBuf,
    locks: PathBuf,
}

/// The right to run with a repository. It ends with the last process that was given a copy of the file.
#[derive(Debug)]
pub struct RepositoryLock(pub(super) File);

impl State {
    /// Below `root`, for the profiles in the file `config`. Directories are made when something is written.
    pub fn new(root: &Path, config: &Path) -> Self {
        Self { histories: root.join(short_digest(config)), locks: root.join("locks") }
    }

    /// What ran of the profile `name`; `None` where it was never met.
    pub fn history(&self, name: &str) -> Result<Option<History>, StateError> {
        let path = self.history_path(name);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(failed("read", &path))?,
        };
        match serde_json::from_slice(&text) {
            Ok(history) => Ok(Some(history)),
            Err(error) => {
                let (path, error) = (path.display(), chain(&error));
                tracing::warn!("what ran of {name} is not known any more, {path} is damaged: {error}");
                Ok(None)
            }
        }
    }

    /// What ran of the profile `name`, which is met at `now` if it never was.
    pub fn meet(&self, name: &str, now: Timestamp) -> Result<History, StateError> {
        match self.history(name)? {
            Some(history) => Ok(history),
            None => {
                let history = History::new(now);
                self.save(name, &history)?;
                Ok(history)
            }
        }
    }

    /// Writes down what ran of the profile `name`.
    pub fn save(&self, name: &str, history: &History) -> Result<(), StateError> {
        let path = self.history_path(name);
        let mut text = serde_json::to_vec_pretty(history).map_err(StateError::Json)?;
        text.push(b'\n');
        write(&path, &text)
    }

    /// Keeps `text`, the content of the configuration, as it is now; returns where.
    pub(super) fn keep_config(&self, text: &str) -> Result<PathBuf, StateError> {
        // No profile can have a name with a blank.
        let path = self.histories.join("in use.toml");
        write(&path, text.as_bytes())?;
        Ok(path)
    }

    /// Takes the right to run with the repository at `repo`. Where another run has it, waits for its end, or gives
    /// `None`.
    pub fn lock(&self, repo: &Path, wait: bool) -> Result<Option<RepositoryLock>, StateError> {
        let path = self.lock_path(repo);
        make_directory(&self.locks)?;
        let file = File::options().write(true).read(true).create(true).truncate(false).open(&path);
        let file = file.map_err(failed("open", &path))?;
        let locked = if wait { file.lock().map_err(TryLockError::Error) } else { file.try_lock() };
        match locked {
            Ok(()) => Ok(Some(RepositoryLock(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(failed("lock", &path)(error)),
        }
    }

    /// Whether a run with the repository at `repo` is under way, as far as this process may know.
    pub fn is_running(&self, repo: &Path) -> bool {
        // Held for no longer than it takes to ask.
        File::open(self.lock_path(repo)).is_ok_and(|file| file.try_lock_shared().is_err())
    }

    fn lock_path(&self, repo: &Path) -> PathBuf {
        // What is not there yet has the name that it is given.
        let repo = fs::canonicalize(repo).unwrap_or_else(|_| repo.to_owned());
        self.locks.join(short_digest(&repo))
    }

    fn history_path(&self, name: &str) -> PathBuf {
        self.histories.join(format!("{name}.json"))
    }
}

fn write(path: &Path, text: &[u8]) -> Result<(), StateError> {
    let directory = atomic::parent(path);
    make_directory(directory)?;
    // What a killed process left beside it; who cannot remove that can still write.
    let _ = atomic::sweep(directory);
    atomic::write_with(path, text, atomic::PRIVATE).map_err(failed("write", path))
}

/// Makes a directory that is nobody else's business: profiles can hold secrets.
fn make_directory(path: &Path) -> Result<(), StateError> {
    atomic::make_dirs_with(path, 0o700).map_err(failed("make", path))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    move |source| StateError::Io { action, path: path.to_owned(), source }
}

/// A name for what belongs to `path`.
fn short_digest(path: &Path) -> String {
    let mut name = Digest::of(path.as_os_str().as_bytes()).to_string();
    name.truncate(16);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn state() -> (tempfile::TempDir, State) {
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(&dir.path().join("a/b"), Path::new("/etc/treering.toml"));
        (dir, state)
    }

    #[test]
    fn what_ran_is_kept_by_profile_and_file() {
        let (dir, state) = state();
        assert_eq!(state.history("home").unwrap(), None);
        let mut history = state.meet("home", NOW).unwrap();
        history.begin(NOW, NOW);
        state.save("home", &history).unwrap();
        assert_eq!(state.meet("home", Timestamp::MAX).unwrap(), history);
        assert_eq!(state.history("other").unwrap(), None);
        let other = State::new(&dir.path().join("a/b"), Path::new("/other.toml"));
        assert_eq!(other.history("home").unwrap(), None);
    }

    #[test]
    fn a_damaged_history_is_begun_anew() {
        let (_dir, state) = state();
        state.meet("home", NOW).unwrap();
        for damage in ["", "{", "[]", "{\"seen\": 1}", "\u{0}"] {
            fs::write(state.history_path("home"), damage).unwrap();
            assert_eq!(state.history("home").unwrap(), None, "{damage}");
        }
        assert_eq!(state.meet("home", NOW).unwrap(), History::new(NOW));
    }

    #[test]
    fn a_repository_has_one_lock_whatever_it_is_called() {
        let (dir, state) = state();
        let repo = dir.path().join("repo");
        fs::create_dir(&repo).unwrap();
        assert!(!state.is_running(&repo));
        let held = state.lock(&repo, false).unwrap();
        assert!(held.is_some() && state.is_running(&repo));
        assert!(state.lock(&dir.path().join("a/../repo"), false).unwrap().is_none());
        assert!(state.lock(&dir.path().join("other"), false).unwrap().is_some());
        drop(held);
        assert!(state.lock(&repo, true).unwrap().is_some());
    }
}
