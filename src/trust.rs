//! What the person has said on this host of repositories that may have come from elsewhere.
//!
//! A repository names addresses, and its git configuration and hooks name programs. Whoever made the repository chose
//! them, and that need not be the person who reads it. So an address that can start a program or use the person's
//! credentials, and settings that can, count only if the person has said so on this host: by giving the address to a
//! command (`remote add`, `clone`), or by approving it (`remote trust`).
//!
//! What was said is kept in a file of the person's, a line for each: the path of the repository, its owner, and the
//! SHA-256 of what is trusted. So a repository at another path, or with another address, is not trusted, nor is a copy
//! that somebody else owns. A file counts only if it belongs to whoever runs the program, to root, or to whoever ran
//! `sudo`, and nobody else can write to it.
//!
//! The library reads no environment: the program says with [`install`] which files there are. Without that, only what is
//! said in this process is trusted.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::atomic;
use crate::digest::Digest;
use crate::url::Url;

/// How many bytes are read of a file.
const MAX_FILE: u64 = 4 << 20;

/// Something in a repository that can do harm to whoever reads it.
#[derive(Debug, Clone, Copy)]
pub enum Claim<'a> {
    /// The address of a remote.
    Address(&'a Url),
    /// Git's settings of the repository, and its hooks, as text that tells all of them.
    Settings(&'a [u8]),
}

/// Files in which it stands what is trusted.
#[derive(Debug, Default)]
pub struct Files {
    /// All that count.
    pub read: Vec<PathBuf>,
    /// The one to which is written.
    pub written: Option<PathBuf>,
    /// Whose files count beside the process's own and root's.
    pub also_owned_by: Option<u32>,
}

static FILES: OnceLock<Files> = OnceLock::new();

/// Addresses that the person gave in this process.
static SAID: Mutex<Option<HashSet<Digest>>> = Mutex::new(None);

/// Says where it stands what is trusted. The first call counts.
pub fn install(files: Files) {
    let _ = FILES.set(files);
}

/// Trusts an address, wherever it stands, as long as this process runs: the person has given it.
pub fn say(url: &Url) {
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    said.get_or_insert_default().insert(Claim::Address(url).digest());
}

/// Whether the person has said that `claim` of the repository at `repository` may be trusted.
pub fn is_trusted(repository: &Path, claim: Claim<'_>) -> bool {
    let said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if said.as_ref().is_some_and(|said| said.contains(&claim.digest())) {
        return true;
    }
    drop(said);
    let (Some(files), Ok(line)) = (FILES.get(), line(repository, claim)) else { return false };
    files.read.iter().any(|path| read(path, files.also_owned_by).is_ok_and(|text| holds(&text, &line)))
}

/// Remembers that the person trusts `claim` of the repository at `repository`.
pub fn remember(repository: &Path, claim: Claim<'_>) -> io::Result<()> {
    if let Claim::Address(url) = claim {
        say(url);
    }
    let line = line(repository, claim)?;
    let Some(path) = FILES.get().and_then(|files| files.written.as_ref()) else { return Ok(()) };
    if read(path, None).is_ok_and(|text| holds(&text, &line)) {
        return Ok(());
    }
    let directory = atomic::parent(path);
    atomic::make_dirs_with(directory, 0o700)?;
    // Whoever has the directory locked has the turn.
    let turn = File::open(directory)?;
    turn.lock()?;
    let mut text = match read(path, None) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        text => text?,
    };
    if text.last().is_some_and(|&byte| byte != b'\n') {
        text.push(b'\n');
    }
    text.extend_from_slice(&line);
    text.push(b'\n');
    atomic::write_with(path, &text, atomic::PRIVATE)
}

/// Whether `line` is one of the lines of `text`.
fn holds(text: &[u8], line: &[u8]) -> bool {
    text.split(|&byte| byte == b'\n').any(|known| known == line)
}

impl Claim<'_> {
    fn kind(&self) -> &'static str {
        match self {
            Self::Address(_) => "address",
            Self::Settings(_) => "settings",
        }
    }

    fn digest(&self) -> Digest {
        match self {
            Self::Address(url) => Digest::of(url.reveal().as_bytes()),
            Self::Settings(text) => Digest::of(text),
        }
    }
}

/// The line that says it: the kind, the digest, the number of the repository's owner, and its path.
fn line(repository: &Path, claim: Claim<'_>) -> io::Result<Vec<u8>> {
    let path = fs::canonicalize(repository)?;
    let owner = fs::metadata(&path)?.uid();
    let mut line = Vec::new();
    write!(line, "{} {} {owner} ", claim.kind(), claim.digest())?;
    // A path is on one line.
    write!(line, "{}", path.as_os_str().as_bytes().escape_ascii())?;
    Ok(line)
}

/// The content of a file that nobody else can have written.
fn read(path: &Path, also_owned_by: Option<u32>) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let own = [Some(rustix::process::geteuid().as_raw()), Some(0), also_owned_by];
    let is_own = metadata.is_file() && own.contains(&Some(metadata.uid())) && metadata.mode() & 0o022 == 0;
    if !is_own || metadata.len() > MAX_FILE {
        tracing::warn!("{} is not believed: it must be a file that only you can write to", path.display());
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut text = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_repository_owner_and_what_is_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("o\nne"), dir.path().join("other"));
        fs::create_dir(&one).unwrap();
        fs::create_dir(&other).unwrap();
        let url = Url::from("rclone::webdav,pass=x:y");
        let lines: HashSet<_> = [
            line(&one, Claim::Address(&url)).unwrap(),
            line(&other, Claim::Address(&url)).unwrap(),
            line(&one, Claim::Address(&Url::from("rclone:a:b"))).unwrap(),
            line(&one, Claim::Settings(url.reveal().as_bytes())).unwrap(),
        ]
        .into();
        assert_eq!(lines.len(), 4);
        assert!(lines.iter().all(|line| !line.contains(&b'\n')));
        assert!(!lines.iter().any(|line| line.windows(4).any(|part| part == b"pass")));
        assert!(line(&dir.path().join("nothing"), Claim::Address(&url)).is_err());
    }

    #[test]
    fn a_file_that_others_can_write_is_not_believed() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trusted");
        fs::write(&path, "x").unwrap();
        for (mode, is_read) in [(0o600, true), (0o644, true), (0o620, false), (0o602, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&path, None).is_ok(), is_read, "{mode:o}");
        }
        assert!(read(dir.path(), None).is_err());
    }

    #[test]
    fn what_the_person_gave_is_trusted_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (given, other) = (Url::from("rclone:trust-a:x"), Url::from("rclone:trust-b:x"));
        say(&given);
        assert!(is_trusted(dir.path(), Claim::Address(&given)));
        assert!(!is_trusted(dir.path(), Claim::Address(&other)));
        assert!(!is_trusted(dir.path(), Claim::Settings(b"rclone:trust-a:x?")));
    }
}
