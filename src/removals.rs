//! What others removed from remotes, and this repository keeps.
//!
//! Whoever may write to a remote can remove snapshots there. An exchange with that remote does not remove them here: it
//! keeps them, and notes what it kept, in a file for each remote. What is noted is neither sent to the remote again nor
//! relied on by new snapshots, which the remote could not restore. `pull --removals` takes the removals over and
//! empties the note; a line in the same file says that all exchanges with the remote do.
//!
//! The file has a line a thing: `take`, or `kept` and the path of a blob. What is noted and not in the branch any more
//! counts for nothing, so a note may be written before the branch moves.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::atomic;

/// The directory in the private one of a repository that has one for each remote, with what is known of it.
pub const REMOTES: &str = "remotes";

/// The file in the directory of a remote.
const FILE: &str = "removals";

/// Bytes of a file at most: some two million paths.
const MAX_FILE: u64 = 256 << 20;

/// What is noted of one remote.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removals {
    /// Whether exchanges take over what others removed there.
    pub take: bool,
    /// The paths of blobs that others removed there and that stay here.
    pub kept: BTreeSet<String>,
}

impl Removals {
    /// What is noted of a remote of the repository whose private directory is `private`. `remote` is a name that is
    /// valid in a reference.
    pub fn load(private: &Path, remote: &str) -> io::Result<Self> {
        Self::read(&path_of(private, remote))
    }

    fn read(path: &Path) -> io::Result<Self> {
        let file = match File::open(path) {
            Err(error) if is_absent(&error) => return Ok(Self::default()),
            file => file?,
        };
        if file.metadata()?.len() > MAX_FILE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too large"));
        }
        let mut text = String::new();
        file.take(MAX_FILE).read_to_string(&mut text)?;
        let kept = text.lines().filter_map(|line| line.strip_prefix("kept ")).map(str::to_owned).collect();
        Ok(Self { take: text.lines().any(|line| line == "take"), kept })
    }

    /// Writes it; without anything to note there is no file.
    pub fn store(&self, private: &Path, remote: &str) -> io::Result<()> {
        let path = path_of(private, remote);
        if *self == Self::default() {
            return Self::forget(private, remote);
        }
        let mut text = String::from(if self.take { "take\n" } else { "" });
        for path in &self.kept {
            text += &format!("kept {path}\n");
        }
        atomic::make_dirs(atomic::parent(&path))?;
        atomic::write(&path, text.as_bytes())
    }

    /// Forgets what is noted of a remote.
    pub fn forget(private: &Path, remote: &str) -> io::Result<()> {
        let path = path_of(private, remote);
        match fs::remove_file(&path) {
            Err(error) if is_absent(&error) => Ok(()),
            removed => removed.and_then(|()| atomic::sync_dir(atomic::parent(&path))),
        }
    }

    /// Whether a blob at `path` can be kept: a line has room for its name.
    pub fn can_keep(path: &[u8]) -> Option<&str> {
        str::from_utf8(path).ok().filter(|path| !path.contains(['\n', '\r']))
    }
}

/// The paths of all blobs that others removed from any remote and that are kept here. What may not be read is of a remote
/// that another user exchanges with.
pub fn kept(private: &Path) -> io::Result<BTreeSet<String>> {
    let is_another_users = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    let entries = match fs::read_dir(private.join(REMOTES)) {
        Err(error) if is_absent(&error) || is_another_users(&error) => return Ok(BTreeSet::new()),
        entries => entries?,
    };
    let mut kept = BTreeSet::new();
    for entry in entries {
        match Removals::read(&entry?.path().join(FILE)) {
            Err(error) if is_another_users(&error) => {}
            removals => kept.append(&mut removals?.kept),
        }
    }
    Ok(kept)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Where the file of a remote is.
pub fn path_of(private: &Path, remote: &str) -> PathBuf {
    // Each remote has one directory, whatever its name.
    private.join(REMOTES).join(remote.replace('%', "%25").replace('/', "%2F")).join(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn removals(take: bool, kept: &[&str]) -> Removals {
        Removals { take, kept: kept.iter().map(|&path| path.to_owned()).collect() }
    }

    #[test]
    fn what_is_noted_is_read_again_for_each_remote() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (removals(true, &[]), removals(false, &["snapshots/1", "archives/a b"]));
        assert_eq!(Removals::load(dir.path(), "hub").unwrap(), Removals::default());
        one.store(dir.path(), "hub").unwrap();
        other.store(dir.path(), "far/away").unwrap();
        assert_eq!(Removals::load(dir.path(), "hub").unwrap(), one);
        assert_eq!(Removals::load(dir.path(), "far/away").unwrap(), other);
        assert_eq!(kept(dir.path()).unwrap(), other.kept);
        Removals::default().store(dir.path(), "far/away").unwrap();
        Removals::forget(dir.path(), "nobody").unwrap();
        assert!(kept(dir.path()).unwrap().is_empty());
        assert!(Removals::load(dir.path(), "hub").unwrap().take);
    }

    #[test]
    fn a_name_that_would_be_two_lines_is_not_kept() {
        assert_eq!(Removals::can_keep(b"snapshots/1"), Some("snapshots/1"));
        for path in [&b"a\nkept b"[..], b"a\r", b"\xff"] {
            assert_eq!(Removals::can_keep(path), None);
        }
    }
}
