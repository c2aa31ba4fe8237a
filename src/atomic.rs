//! Files that appear whole or not at all.
//!
//! The loop: write a temporary file beside the target, `fsync` it, rename it over the target, `fsync`
//! the directory that holds the name. A process that dies on the way leaves the old target, and perhaps a
//! temporary file whose name begins with [`TEMP_PREFIX`]; nobody else is told of it.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::NamedTempFile;

/// What the name of every unfinished file begins with.
pub const TEMP_PREFIX: &str = ".treering-tmp-";

/// The mode of an ordinary file before the umask takes its bits away.
pub const MODE: u32 = 0o666;

/// A new temporary file in `directory`, named so that leftovers can be recognised; it is removed when dropped.
///
/// `mode` is given at creation, where the umask applies to it.
pub fn temporary(directory: &Path, mode: u32) -> io::Result<NamedTempFile> {
    let permissions = Permissions::from_mode(mode);
    tempfile::Builder::new().prefix(TEMP_PREFIX).permissions(permissions).tempfile_in(directory)
}

/// Syncs `file` and puts it in the place of `target`, which must lie in the same file system.
///
/// Does not sync the directory: one [`sync_dir`] can serve many files.
pub fn place(file: NamedTempFile, target: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(target).map(drop).map_err(|error| error.error)
}

/// Makes `bytes` the content of `target`, durably.
pub fn write(target: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = parent(target);
    let mut file = temporary(directory, MODE)?;
    file.write_all(bytes)?;
    place(file, target)?;
    sync_dir(directory)
}

/// Makes the names in `directory` durable.
pub fn sync_dir(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// The directory that holds the name of `path`.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_and_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("file");
        write(&target, b"one").unwrap();
        write(&target, b"two").unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"two");
        let plain = File::create(dir.path().join("plain")).unwrap().metadata().unwrap().permissions();
        assert_eq!(std::fs::metadata(&target).unwrap().permissions(), plain);
        std::fs::remove_file(dir.path().join("plain")).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_dropped_file_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = temporary(dir.path(), MODE).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
