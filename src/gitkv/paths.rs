//! Names in the directory of a repository that several files share, and making them durable.
//!
//! What was synced here keeps its name over a power failure; the content of files is synced by [`sync_below`] alone. What
//! is not there is nothing to [`sync_names`].

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::atomic;

use super::GitError;

/// Where this program keeps what is not git's, such as locks, in the repository's directory. Nothing there is
/// part of the format.
pub const PRIVATE: &str = "treering";

/// The directory there that has blocks of cold layers.
pub(crate) const BLOCKS: &str = "blocks";

/// Where git keeps references that were packed.
pub(super) const PACKED: &str = "packed-refs";

/// What the full names of branches begin with.
pub(crate) const HEADS: &str = "refs/heads/";

/// The branch of repositories that are made here.
pub(super) const BRANCH: &str = "refs/heads/main";

/// Where the layers of the repository at `path` lie.
pub(super) fn pack_dir(path: &Path) -> PathBuf {
    path.join("objects").join("pack")
}

/// Syncs `path`, the directory that names it, and everything below it.
pub(super) fn sync_below(path: &Path) -> io::Result<()> {
    for entry in walkdir::WalkDir::new(path) {
        File::open(entry?.path())?.sync_all()?;
    }
    atomic::sync_dir(atomic::parent(path))
}

/// Makes durable that packs, and references in the directory `references`, have come or gone in the repository at
/// `directory`. What is in them is durable already.
pub(super) fn sync_names(directory: &Path, references: impl AsRef<Path>) -> Result<(), GitError> {
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
