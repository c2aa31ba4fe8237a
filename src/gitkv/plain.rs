//! That a repository is made of files.
//!
//! Git, libgit2 and this program read the files of a repository whole, and open them without asking what they are. What
//! somebody copied from elsewhere may hold a pipe, whose reader waits without end; a link to `/dev/zero`; a file of a
//! terabyte that takes nothing on the disk, since it is one hole; or links between directories that lead in circles.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::layers::{EXPANSION, SMALL, on_disk};

use super::GitError;
use super::paths::{BLOCKS, PRIVATE};

/// The directories whose files are read, besides the files at the top.
const READ: [&str; 7] = ["refs", "objects", "info", "logs", "hooks", "worktrees", PRIVATE];

/// Those that are read of the directory of objects, beside those of loose ones.
const OBJECTS: [&str; 3] = ["pack", "info", "cold"];

/// Directories are nested no deeper: a path has 4096 bytes at most, and names are not made of one letter each.
const MAX_DEPTH: usize = 256;

/// A repository borrows objects from no more directories, nor over more steps: git takes five.
const MAX_BORROWED: usize = 5;

/// Links to directories are followed no deeper than this: the objects or the references may be on another disk.
const MAX_LINK_DEPTH: usize = 1;

/// Bytes of a configuration of git at most. Those of repositories have some hundred.
const MAX_CONFIGURATION: u64 = 1 << 20;

/// A configuration is included over no more others: git takes ten.
const MAX_INCLUDED: usize = 10;

/// Settings that name a file that is read.
const READ_BESIDE: [&[u8]; 3] = [b"attributesfile", b"excludesfile", b"file"];

/// The repositories in which nothing was found. They may be large, and are opened several times by one command.
static PASSED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn passed() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    PASSED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fails where a file of the repository at `path`, or of the clone whose root that is, is not a file that can be read. A
/// process looks at each repository once.
pub(super) fn expect_plain(path: &Path) -> Result<(), GitError> {
    if !passed().contains(path) && look_at(path)? {
        passed().insert(path.to_owned());
    }
    Ok(())
}

/// The same each time. Whether there is a repository.
fn look_at(path: &Path) -> Result<bool, GitError> {
    let inner = path.join(".git");
    if !inner.is_dir()
        && let Some(elsewhere) = named(path, ".git", "gitdir: ")?
    {
        expect_plain_in(&elsewhere)?;
    }
    Ok(expect_plain_in(&inner)? | expect_plain_in(path)?)
}

/// The same of a directory that git may take for a repository.
fn expect_plain_in(directory: &Path) -> Result<bool, GitError> {
    let is_there = |name: &str| fs::symlink_metadata(directory.join(name)).is_ok();
    if !is_there("HEAD") || !is_there("refs") && !is_there("commondir") {
        return Ok(false);
    }
    below(directory, 0, false)?;
    let common = named(directory, "commondir", "")?;
    if let Some(common) = &common {
        below(common, 0, false)?;
    }
    for directory in [Some(directory), common.as_deref()].into_iter().flatten() {
        for file in ["config", "config.worktree"] {
            configured(&directory.join(file), 0)?;
        }
    }
    borrowed(&common.as_deref().unwrap_or(directory).join("objects"), 0)?;
    Ok(true)
}

/// The same of the directories from which `objects` borrows some, and those from which these do.
fn borrowed(objects: &Path, level: usize) -> Result<(), GitError> {
    let path = objects.join("info/alternates");
    let Ok(list) = fs::read(&path) else { return Ok(()) };
    let lines: Vec<_> = list.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).collect();
    if lines.len() > MAX_BORROWED || level == MAX_BORROWED {
        return Err(GitError::NotPlain { path, fault: "names too many other directories" });
    }
    for line in lines {
        let other = objects.join(OsStr::from_bytes(line));
        // As in a repository; anything on the machine may be named.
        below(&other, 1, true)?;
        borrowed(&other, level + 1)?;
    }
    Ok(())
}

/// The same of the files that a configuration of git names: those that it includes, and what these name, and those that are
/// read beside it. Whether a condition of an include is met does not matter.
fn configured(path: &Path, level: usize) -> Result<(), GitError> {
    let refused = |fault| Err(GitError::NotPlain { path: path.to_owned(), fault });
    expect_plain_file(path)?;
    let Ok(file) = File::open(path) else { return Ok(()) };
    let mut text = Vec::new();
    // What cannot be read is told by whoever needs it.
    if file.take(MAX_CONFIGURATION + 1).read_to_end(&mut text).is_err() {
        return Ok(());
    }
    if text.len() as u64 > MAX_CONFIGURATION {
        return refused("is larger than a configuration of git is");
    }
    if level > MAX_INCLUDED {
        return refused("is included through too many others");
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    for (key, value) in settings(&text) {
        let is_included = key == b"path";
        if value.is_empty() || !is_included && !READ_BESIDE.contains(&key.as_slice()) {
            continue;
        }
        let home = value.strip_prefix(b"~/").zip(std::env::home_dir());
        let file = match home {
            Some((below, home)) => home.join(OsStr::from_bytes(below)),
            None => directory.join(OsStr::from_bytes(&value)),
        };
        match is_included {
            true => configured(&file, level + 1)?,
            false => expect_plain_file(&file)?,
        }
    }
    Ok(())
}

/// Keys in lower case, without their sections, and values of a configuration of git, as far as they are on lines of their own:
/// <https://git-scm.com/docs/git-config#_syntax>.
fn settings(text: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut settings = Vec::new();
    let mut rest = text.iter().copied().peekable();
    while rest.peek().is_some() {
        let mut key: Vec<u8> = Vec::new();
        let mut ends = b'\n';
        for byte in rest.by_ref() {
            match byte {
                b'\n' | b'=' => {
                    ends = byte;
                    break;
                }
                _ => key.push(byte),
            }
        }
        if ends == b'\n' {
            continue;
        }
        let (mut value, mut is_quoted, mut is_comment) = (Vec::new(), false, false);
        while let Some(byte) = rest.next() {
            match byte {
                b'\n' => break,
                _ if is_comment => {}
                b'\\' => match rest.next() {
                    None | Some(b'\n') => {}
                    Some(b'n') => value.push(b'\n'),
                    Some(b't') => value.push(b'\t'),
                    Some(other) => value.push(other),
                },
                b'"' => is_quoted = !is_quoted,
                b'#' | b';' if !is_quoted => is_comment = true,
                _ => value.push(byte),
            }
        }
        // A section may stand on the same line.
        let name = key.rsplit(|&byte| byte == b']').next().unwrap_or_default().trim_ascii();
        settings.push((name.to_ascii_lowercase(), value.trim_ascii().to_vec()));
    }
    settings
}

/// Fails where `path` is there, and is not a file that can be read.
pub(super) fn expect_plain_file(path: &Path) -> Result<(), GitError> {
    match fs::metadata(path).ok().and_then(|found| fault(&found, false)) {
        Some(fault) => Err(GitError::NotPlain { path: path.to_owned(), fault }),
        None => Ok(()),
    }
}

/// The directory that a file names behind `prefix`.
fn named(directory: &Path, file: &str, prefix: &str) -> Result<Option<PathBuf>, GitError> {
    let path = directory.join(file);
    expect_plain_file(&path)?;
    let Ok(text) = fs::read(&path) else { return Ok(None) };
    let name = text.strip_prefix(prefix.as_bytes()).map(<[u8]>::trim_ascii_end);
    Ok(name.map(|name| directory.join(OsStr::from_bytes(name))))
}

/// The same of all that lies in `directory`, which is so many directories deep, and `in_objects` or not.
fn below(directory: &Path, depth: usize, in_objects: bool) -> Result<(), GitError> {
    let is_pack = in_objects && directory.file_name().is_some_and(|name| name == "pack");
    let is_private = depth == 1 && directory.file_name().is_some_and(|name| name == PRIVATE);
    let is_loose = in_objects && depth == 2 && is_hex(directory);
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        // There may be very many loose objects.
        if kind.is_file() && is_loose {
            continue;
        }
        // What is not there, or may not be looked at, is told by whoever needs it.
        let Ok(found) = fs::metadata(&path) else { continue };
        let refused = |fault| Err(GitError::NotPlain { path: path.clone(), fault });
        if found.is_dir() {
            let is_one_of = |names: &[&str]| names.iter().any(|name| entry.file_name() == *name);
            let is_read = match depth {
                0 => is_one_of(&READ),
                1 if in_objects => is_hex(&path) || is_one_of(&OBJECTS),
                // There may be very many, and whoever opens one looks what it is.
                1 if is_private => !is_one_of(&[BLOCKS]),
                _ => true,
            };
            if !is_read {
                continue;
            }
            if kind.is_symlink() && depth > MAX_LINK_DEPTH {
                return refused("is a link to a directory");
            }
            if depth == MAX_DEPTH {
                return refused("is nested too deeply");
            }
            below(&path, depth + 1, in_objects || depth == 0 && is_one_of(&["objects"]))?;
        } else if let Some(fault) = fault(&found, is_pack) {
            return refused(fault);
        }
    }
    Ok(())
}

/// Whether a directory has the name of one of loose objects.
fn is_hex(directory: &Path) -> bool {
    let name = directory.file_name().unwrap_or_default().as_encoded_bytes();
    name.len() == 2 && name.iter().all(u8::is_ascii_hexdigit)
}

/// Why a file cannot be read like one. A socket cannot be opened, and git has some.
fn fault(file: &Metadata, is_pack: bool) -> Option<&'static str> {
    let kind = file.file_type();
    if kind.is_fifo() || kind.is_char_device() || kind.is_block_device() {
        return Some("is a pipe or a device, not a file");
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

    /// Opens it as a process does that has not looked at it yet.
    fn open(path: &Path) -> Result<Git, GitError> {
        passed().remove(path);
        Git::open(path)
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
            (hole, &["config", "packed-refs", "refs/ab/x", "objects/pack/x", "logs/HEAD"], "far larger"),
            (inner, &["refs/heads/a/b"], "a link to a directory"),
        ];
        for (put, names, fault) in puts {
            for name in names {
                let (_dir, path) = repository();
                let at = path.join(name);
                fs::create_dir_all(at.parent().unwrap()).unwrap();
                put(&at);
                let error = open(&path).map(drop).unwrap_err();
                let error = error.to_string();
                let told = error.starts_with(&format!("{} ", at.display())) && error.contains(fault);
                assert!(told, "{name}: {error}");
            }
        }
    }

    #[test]
    fn what_a_configuration_names_is_a_file_too() {
        let fault_of = |text: &str| {
            let (dir, path) = repository();
            pipe(&dir.path().join("pipe"));
            hole(&dir.path().join("hole"));
            fs::write(dir.path().join("plain"), "[core]\n\tabbrev = 8\n").unwrap();
            fs::write(dir.path().join("nested"), "[include]\n\tpath = pipe\n").unwrap();
            fs::write(dir.path().join("round"), "[include]\n\tpath = round\n").unwrap();
            fs::write(dir.path().join("long"), "#".repeat(MAX_CONFIGURATION as usize + 1)).unwrap();
            let text = text.replace("DIR", dir.path().to_str().unwrap());
            let config = path.join("config");
            fs::write(&config, format!("{}{text}", fs::read_to_string(&config).unwrap())).unwrap();
            open(&path).map(drop).map_err(|error| error.to_string())
        };
        for (text, fault) in [
            ("[include]\n\tpath = ../pipe\n", "pipe"),
            ("[Include] PATH = DIR/pipe", "pipe"),
            ("[include]\n\tpath = \"DIR/\\\npipe\" # there\n", "pipe"),
            ("[includeIf \"gitdir:/nowhere\"]\n\tpath=../pipe\n", "pipe"),
            ("[include]\n\tpath = ../nested\n", "pipe"),
            ("[core]\n\tattributesFile = DIR/pipe\n", "pipe"),
            ("[core]\n\texcludesfile = /dev/zero\n", "device"),
            ("[include]\n\tpath = ../hole\n", "far larger"),
            ("[include]\n\tpath = ../long\n", "larger than a configuration"),
            ("[include]\n\tpath = ../round\n", "too many others"),
        ] {
            let error = fault_of(text).unwrap_err();
            assert!(error.contains(fault) && error.contains("is not opened"), "{text:?}: {error}");
        }
        for text in ["[include]\n\tpath = ../plain\n", "[include]\n\tpath = ../none\n", "[x]\n\tpath =\n"] {
            fault_of(text).unwrap();
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
        // Not read by anybody here, or read with care.
        for name in ["annex", "treering/blocks"] {
            fs::create_dir_all(path.join(name)).unwrap();
            pipe(&path.join(name).join("pipe"));
        }
        open(&path).unwrap();
    }

    #[test]
    fn objects_that_are_borrowed_are_looked_at_too() {
        let (dir, path) = repository();
        let borrow = |from: &str, to: &str| {
            let info = dir.path().join(from).join("info");
            fs::create_dir_all(&info).unwrap();
            fs::write(info.join("alternates"), format!("{to}\n")).unwrap();
        };
        borrow("repo/objects", "../../one");
        borrow("one", "../two");
        fs::create_dir_all(dir.path().join("two/pack")).unwrap();
        open(&path).unwrap();
        pipe(&dir.path().join("two/pack/pack-0.idx"));
        let error = open(&path).map(drop).unwrap_err();
        assert!(matches!(error, GitError::NotPlain { .. }), "{error}");
        // From itself.
        borrow("one", "../one");
        let error = open(&path).map(drop).unwrap_err().to_string();
        assert!(error.contains("too many"), "{error}");
    }

    #[test]
    fn a_directory_beside_hides_nothing() {
        let (_dir, path) = repository();
        fs::create_dir(path.join(".git")).unwrap();
        open(&path).unwrap();
        pipe(&path.join("packed-refs"));
        let error = open(&path).map(drop).unwrap_err();
        assert!(matches!(error, GitError::NotPlain { .. }), "{error}");
    }

    #[test]
    fn links_that_lead_in_a_circle_end() {
        let (_dir, path) = repository();
        symlink("..", path.join("refs/circle")).unwrap();
        let error = open(&path).map(drop).unwrap_err();
        assert!(matches!(error, GitError::NotPlain { .. }), "{error}");
    }
}
