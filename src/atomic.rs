//! Files that appear whole or not at all.
//!
//! The loop: write a temporary file beside the target, `fsync` it, rename it over the target, `fsync`
//! the directory that holds the name. A process that dies on the way leaves the old target, and perhaps a
//! temporary file whose name begins with [`TEMP_PREFIX`], which [`sweep`] removes.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use tempfile::{NamedTempFile, TempDir};

/// What the name of every unfinished file begins with.
pub const TEMP_PREFIX: &str = ".treering-tmp-";

/// The mode of an ordinary file before the umask takes its bits away.
pub const MODE: u32 = 0o666;

/// A new temporary file in `directory`, named so that leftovers can be recognised; it is removed when dropped.
///
/// `mode` is given at creation, where the umask applies to it. The file is locked as long as it is open, so that
/// [`sweep`] knows that somebody owns it.
pub fn temporary(directory: &Path, mode: u32) -> io::Result<NamedTempFile> {
    loop {
        let permissions = Permissions::from_mode(mode);
        let file =
            tempfile::Builder::new().prefix(TEMP_PREFIX).permissions(permissions).tempfile_in(directory)?;
        // Where files cannot be locked, none is swept.
        let _ = file.as_file().lock_shared();
        // It may have been swept before it was locked.
        if file.as_file().metadata()?.nlink() > 0 {
            return Ok(file);
        }
    }
}

/// A new directory for temporary files that others may not read; it is removed when dropped.
pub fn private_dir(prefix: &str) -> io::Result<TempDir> {
    private_dir_in(&std::env::temp_dir(), prefix)
}

/// The same in `directory`.
pub fn private_dir_in(directory: &Path, prefix: &str) -> io::Result<TempDir> {
    tempfile::Builder::new().prefix(prefix).permissions(Permissions::from_mode(0o700)).tempdir_in(directory)
}

/// The file in a temporary directory that its owner holds locked.
pub const DIR_LOCK: &str = "lock";

/// Opens the file at `path`; `None` where something else is there. Whoever opens a pipe waits for its other end, and what is
/// written to a device is not kept.
pub fn open_file(options: &mut OpenOptions, path: &Path) -> io::Result<Option<File>> {
    let file = options.custom_flags(OFlags::NONBLOCK.bits() as i32).open(path)?;
    Ok(file.metadata()?.is_file().then_some(file))
}

/// Whether a living process owns the temporary file at `path`. One that may not be opened, or is no file, counts as owned.
pub fn is_owned(path: &Path) -> bool {
    match open_file(File::options().read(true), path) {
        Ok(file) => file.is_none_or(|file| file.try_lock().is_err()),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Removes the temporary files in `directory` that no living process owns. How many, and the bytes they had.
pub fn sweep(directory: &Path) -> io::Result<(u64, u64)> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, 0)),
        entries => entries?,
    };
    let (mut files, mut bytes) = (0, 0);
    for entry in entries {
        let entry = entry?;
        let is_one = entry.file_name().as_encoded_bytes().starts_with(TEMP_PREFIX.as_bytes());
        if !is_one || !entry.file_type()?.is_file() {
            continue;
        }
        let owner = File::open(entry.path()).and_then(|file| {
            let metadata = file.metadata()?;
            file.try_lock()?;
            Ok((file, metadata))
        });
        // Of one that may not be opened nobody knows.
        let Ok((_lock, metadata)) = owner else { continue };
        match fs::remove_file(entry.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        files += 1;
        bytes += metadata.len();
    }
    Ok((files, bytes))
}

/// Syncs `file` and puts it in the place of `target`, which must lie in the same file system.
///
/// Does not sync the directory: one [`sync_dir`] can serve many files.
pub fn place(file: NamedTempFile, target: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(target).map(drop).map_err(|error| error.error)
}

/// The mode of a file that may hold a secret.
pub const PRIVATE: u32 = 0o600;

/// Makes `bytes` the content of `target`, durably.
pub fn write(target: &Path, bytes: &[u8]) -> io::Result<()> {
    write_with(target, bytes, MODE)
}

/// As [`write()`], in a file with this mode before the umask takes its bits away.
pub fn write_with(target: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let directory = parent(target);
    let mut file = temporary(directory, mode)?;
    file.write_all(bytes)?;
    place(file, target)?;
    sync_dir(directory)
}

/// Makes the names in `directory` durable.
pub fn sync_dir(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Makes `directory` and those above it, durably. Those that are there already are left as they are.
pub fn make_dirs(directory: &Path) -> io::Result<()> {
    make_dirs_with(directory, 0o777)
}

/// As [`make_dirs`], with this mode before the umask takes its bits away.
pub fn make_dirs_with(directory: &Path, mode: u32) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    make_dirs_with(parent(directory), mode)?;
    make_dir(directory, mode)
}

/// Makes `directory` durably, unless it is there.
fn make_dir(directory: &Path, mode: u32) -> io::Result<()> {
    let above = parent(directory);
    match DirBuilder::new().mode(mode).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_dir(above),
    }
}

/// Directories that were made for something. They are removed again, as far as they are empty, unless it came to be.
#[derive(Debug)]
pub struct NewDirs(Vec<PathBuf>);

impl NewDirs {
    /// What has to be made for `directory` to be there, before that is done.
    pub fn missing(directory: &Path) -> Self {
        let missing = directory.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists());
        Self(missing.map(Path::to_owned).collect())
    }

    /// Makes `directory` and those above it, durably, as [`make_dirs`] does.
    pub fn make(directory: &Path) -> io::Result<Self> {
        Self::make_with(directory, 0o777)
    }

    /// As [`make`](Self::make), `directory` itself with this mode before the umask takes its bits away.
    pub fn make_with(directory: &Path, mode: u32) -> io::Result<Self> {
        let new = Self::missing(directory);
        make_dirs(parent(directory))?;
        make_dir(directory, mode)?;
        Ok(new)
    }

    /// Lets them stay.
    pub fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for NewDirs {
    fn drop(&mut self) {
        // Below what stays, nothing else would go either.
        let _ = self.0.iter().try_for_each(fs::remove_dir);
    }
}

/// `path` without links, as far as there is something: what is missing of it is no link.
pub fn resolved(path: &Path) -> PathBuf {
    let there = path.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
    match there.and_then(|(above, real)| Some((path.strip_prefix(above).ok()?, real))) {
        Some((rest, real)) if rest.as_os_str().is_empty() => real,
        Some((rest, real)) => real.join(rest),
        None => path.to_owned(),
    }
}

/// `path` without links above it, as far as there is something. What it names itself may be a link, and stays one.
pub fn resolved_above(path: &Path) -> PathBuf {
    match (path.parent(), path.file_name()) {
        (Some(above), Some(name)) => resolved(above).join(name),
        _ => path.to_owned(),
    }
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
    fn new_directories_go_again_unless_they_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("there")).unwrap();
        drop(NewDirs::make(&dir.path().join("there/a/b")).unwrap());
        assert_eq!(fs::read_dir(dir.path().join("there")).unwrap().count(), 0);
        let used = NewDirs::make(&dir.path().join("there/a/b")).unwrap();
        fs::write(dir.path().join("there/a/file"), "").unwrap();
        drop(used);
        assert!(dir.path().join("there/a/file").exists() && !dir.path().join("there/a/b").exists());
        NewDirs::make(&dir.path().join("c/d")).unwrap().keep();
        assert!(dir.path().join("c/d").exists());
    }

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
    fn only_what_nobody_owns_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let mut owned = temporary(dir.path(), MODE).unwrap();
        owned.write_all(b"half").unwrap();
        let (_, left) = temporary(dir.path(), MODE).unwrap().keep().unwrap();
        std::fs::write(&left, b"lost").unwrap();
        std::fs::write(dir.path().join("other"), b"stays").unwrap();
        assert_eq!(sweep(dir.path()).unwrap(), (1, 4));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        place(owned, &dir.path().join("owned")).unwrap();
        assert_eq!(sweep(dir.path()).unwrap(), (0, 0));
        assert_eq!(sweep(&dir.path().join("nowhere")).unwrap(), (0, 0));
    }

    #[test]
    fn a_dropped_file_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = temporary(dir.path(), MODE).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn nobody_waits_for_what_is_no_file() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};

        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let endless = dir.path().join("endless");
        std::os::unix::fs::symlink("/dev/zero", &endless).unwrap();
        for path in [pipe, endless] {
            assert!(open_file(File::options().read(true), &path).unwrap().is_none());
            assert!(is_owned(&path), "it is nobody's leftover");
        }
    }
}
