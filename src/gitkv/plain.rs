//! That a repository is made of files.
//!
//! Git, libgit2 and this program read the files of a repository whole, and open them without asking what they are. What
//! somebody copied from elsewhere may hold a pipe, whose reader waits without end; a link to `/dev/zero`; a file of a
//! terabyte that takes nothing on the disk, since it is one hole; or links between directories that lead in circles.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{GitError, PRIVATE};
use crate::layers::{EXPANSION, SMALL, on_disk};

/// The directories whose files are read, beside those that lie at the top.
const READ: [&str; 7] = ["refs", "objects", "info", "logs", "hooks", "worktrees", PRIVATE];

/// Directories lie in each other no deeper: a path has 4096 bytes at most, and names are not made of one letter each.
const MAX_DEPTH: usize = 256;

/// Links to directories lie no deeper: the objects or the references may be on another disk.
const MAX_LINK_DEPTH: usize = 1;

/// Fails where a file of the repository at `path`, or of the clone whose root that is, is none that can be read.
pub(super) fn expect_plain(path: &Path) -> Result<(), GitError> {
    let inner = path.join(".git");
    let at = match fs::metadata(&inner) {
        Ok(found) if found.is_dir() => inner,
        Ok(_) => named(path, ".git", "gitdir: ")?.unwrap_or(inner),
        Err(_) => path.to_owned(),
    };
    // Whatever else there is, whoever opens it says so.
    if fs::symlink_metadata(at.join("HEAD")).is_ok() || at.join("objects").is_dir() {
        below(&at, 0)?;
    }
    match named(&at, "commondir", "")? {
        Some(common) => below(&common, 0),
        None => Ok(()),
    }
}

/// The directory that a file names behind `prefix`.
fn named(directory: &Path, file: &str, prefix: &str) -> Result<Option<PathBuf>, GitError> {
    let path = directory.join(file);
    let Ok(found) = fs::metadata(&path) else { return Ok(None) };
    if let Some(fault) = fault(&found, false) {
        return Err(GitError::NotPlain { path, fault });
    }
    let text = fs::read(&path).unwrap_or_default();
    let name = text.strip_prefix(prefix.as_bytes()).map(<[u8]>::trim_ascii_end);
    Ok(name.map(|name| directory.join(OsStr::from_bytes(name))))
}

/// The same of all that lies in `directory`, which is so many directories deep.
fn below(directory: &Path, depth: usize) -> Result<(), GitError> {
    let is_named = |name: &str| directory.file_name().is_some_and(|own| own == name);
    let is_loose = depth == 2 && directory.parent().is_some_and(|above| above.ends_with("objects"));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        // There may be very many loose objects.
        if kind.is_file() && is_loose && !is_named("pack") && !is_named("info") {
            continue;
        }
        // What is not there, or may not be looked at, is told by whoever needs it.
        let Ok(found) = fs::metadata(&path) else { continue };
        let refused = |fault| Err(GitError::NotPlain { path: path.clone(), fault });
        if found.is_dir() {
            if depth == 0 && !READ.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            if kind.is_symlink() && depth > MAX_LINK_DEPTH {
                return refused("is a link to a directory");
            }
            if depth == MAX_DEPTH {
                return refused("lies too deep");
            }
            below(&path, depth + 1)?;
        } else if let Some(fault) = fault(&found, is_named("pack")) {
            return refused(fault);
        }
    }
    Ok(())
}

/// Why a file cannot be read like one. A socket cannot be opened, and git has some.
fn fault(file: &Metadata, is_pack: bool) -> Option<&'static str> {
    let kind = file.file_type();
    if kind.is_fifo() || kind.is_char_device() || kind.is_block_device() {
        return Some("is a pipe or a device, and no file");
    }
    // A file system that counts no blocks may hold packs of any size.
    let disk = if is_pack { on_disk(file) } else { file.blocks().saturating_mul(512) };
    let most = SMALL.saturating_add(disk.saturating_mul(EXPANSION));
    (file.len() > most).then_some("is far larger than what it takes on the disk")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::super::Git;
    use super::*;

    fn repository() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("repo");
        Git::init(&path, &[]).unwrap();
        (dir, path)
    }

    fn pipe(at: &Path) {
        mknodat(CWD, at, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    }

    fn hole(at: &Path) {
        fs::write(at, "x").unwrap();
        fs::File::options().append(true).open(at).unwrap().set_len(1 << 33).unwrap();
    }

    #[test]
    fn what_is_no_file_is_named() {
        let endless = |at: &Path| symlink("/dev/zero", at).unwrap();
        let inner = |at: &Path| symlink("..", at).unwrap();
        type Put = fn(&Path);
        let puts: [(Put, &[&str], &str); 4] = [
            (
                pipe,
                &["packed-refs", "commondir", "refs/heads/a/b", "objects/info/x", "treering/own", "hooks/x"],
                "a pipe",
            ),
            (endless, &["packed-refs", "refs/heads/a/b", "treering/own", "objects/ab/x"], "a device"),
            (hole, &["config", "packed-refs", "refs/heads/a/b", "objects/pack/x", "logs/HEAD"], "far larger"),
            (inner, &["refs/heads/a/b"], "a link to a directory"),
        ];
        for (put, names, fault) in puts {
            for name in names {
                let (_dir, path) = repository();
                let at = path.join(name);
                fs::create_dir_all(at.parent().unwrap()).unwrap();
                put(&at);
                let error = Git::open(&path).map(drop).unwrap_err();
                let error = error.to_string();
                let told = error.starts_with(&format!("{} ", at.display())) && error.contains(fault);
                assert!(told, "{name}: {error}");
            }
        }
    }

    #[test]
    fn what_people_have_in_repositories_is_none_of_that() {
        let (dir, path) = repository();
        let _socket = UnixListener::bind(path.join("fsmonitor--daemon.ipc")).unwrap();
        for name in ["objects", "refs"] {
            fs::rename(path.join(name), dir.path().join(name)).unwrap();
            symlink(dir.path().join(name), path.join(name)).unwrap();
        }
        symlink(dir.path().join("nowhere"), path.join("objects/info/alternates")).unwrap();
        // Not read by anybody here.
        fs::create_dir(path.join("annex")).unwrap();
        pipe(&path.join("annex/pipe"));
        Git::open(&path).unwrap();
    }

    #[test]
    fn links_that_lead_in_a_circle_end() {
        let (_dir, path) = repository();
        symlink("..", path.join("refs/circle")).unwrap();
        let error = Git::open(&path).map(drop).unwrap_err();
        assert!(matches!(error, GitError::NotPlain { .. }), "{error}");
    }
}
