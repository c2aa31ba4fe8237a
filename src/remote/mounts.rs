//! Whether the disk is mounted on which a store of files is to be made.
//!
//! A directory in which a disk should be mounted looks like any other, and whoever writes there fills the file system
//! above. So a store is made only where the directory above it is there, where what was mounted when the remote was added
//! is mounted still, and where `/etc/fstab` names no mount on the way that is missing. What this cannot tell: a disk that
//! was not mounted when its remote was added either, and that `/etc/fstab` does not name.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::atomic;

/// What is mounted, and where, as this process sees it.
const MOUNTED: &str = "/proc/self/mountinfo";

/// What the administrator wants to be mounted.
const WANTED: &str = "/etc/fstab";

/// What stands before the path of the mount in a line of each.
const BEFORE_MOUNTED: usize = 4;
const BEFORE_WANTED: usize = 1;

/// The directory that is the root of the file system on which `path` is or would be made; `None` where nobody can tell.
pub(super) fn mount_of(path: &Path) -> Option<PathBuf> {
    let mounted = fs::read(MOUNTED).ok()?;
    nearest(&paths(&mounted, BEFORE_MOUNTED), &atomic::resolved(path))
}

/// A directory on the way to `path` in which something should be mounted and is not: `then`, where a file system was
/// mounted before, or what `/etc/fstab` names.
pub(super) fn missing_mount(path: &Path, then: Option<&Path>) -> Option<PathBuf> {
    let mounted = paths(&fs::read(MOUNTED).ok()?, BEFORE_MOUNTED);
    let wanted = paths(&fs::read(WANTED).unwrap_or_default(), BEFORE_WANTED);
    missing(&mounted, &wanted, &atomic::resolved(path), then)
}

fn missing(mounted: &[PathBuf], wanted: &[PathBuf], path: &Path, then: Option<&Path>) -> Option<PathBuf> {
    let wanted = wanted.iter().map(PathBuf::as_path).filter(|mount| path.starts_with(mount));
    let mut expected = then.into_iter().chain(wanted);
    expected.find(|mount| !mounted.iter().any(|mounted| mounted == mount)).map(Path::to_owned)
}

fn nearest(mounted: &[PathBuf], path: &Path) -> Option<PathBuf> {
    let above = mounted.iter().filter(|mount| path.starts_with(mount));
    above.max_by_key(|mount| mount.as_os_str().len()).cloned()
}

/// The absolute paths in one column of a table with a line each, in which spaces are written as `\040`.
fn paths(table: &[u8], column: usize) -> Vec<PathBuf> {
    let lines = table.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii_start().starts_with(b"#"));
    let path = |line: &[u8]| {
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        Some(PathBuf::from(OsString::from_vec(unescaped(words.nth(column)?))))
    };
    lines.filter_map(path).filter(|path| path.as_os_str().as_bytes().starts_with(b"/")).collect()
}

fn unescaped(word: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&byte, after)) = rest.split_first() {
        let code = after
            .get(..3)
            .filter(|_| byte == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(code.unwrap_or(byte));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(paths: &[&str]) -> Vec<PathBuf> {
        paths.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn a_mount_that_was_there_or_is_wanted_is_missed_and_no_other() {
        let mounted = all(&["/", "/proc", "/mnt/one"]);
        let wanted = all(&["/", "/mnt/one", "/mnt/two", "/mnt/two/inner"]);
        let missing = |path: &str, then: Option<&str>| {
            let found = missing(&mounted, &wanted, Path::new(path), then.map(Path::new));
            found.map(|path| path.to_str().unwrap().to_owned())
        };
        assert_eq!(missing("/mnt/one/rings", Some("/mnt/one")), None);
        assert_eq!(missing("/mnt/two/rings", Some("/")), Some("/mnt/two".into()));
        assert_eq!(missing("/mnt/two", None), Some("/mnt/two".into()));
        assert_eq!(missing("/mnt/twofold/rings", Some("/")), None);
        assert_eq!(missing("/mnt/usb/rings", Some("/mnt/usb")), Some("/mnt/usb".into()));
        assert_eq!(nearest(&mounted, Path::new("/mnt/one/rings")), Some("/mnt/one".into()));
        assert_eq!(nearest(&mounted, Path::new("/mnt/ones")), Some("/".into()));
    }

    #[test]
    fn tables_are_read_with_their_escapes_comments_and_gaps() {
        let fstab = b"# one\nUUID=1 / ext4 defaults 0 1\n\n/dev/sdb1\t/mnt/my\\040disk  ext4 noauto\nswap none swap\nodd\n";
        assert_eq!(paths(fstab, BEFORE_WANTED), all(&["/", "/mnt/my disk"]));
        let mountinfo = b"36 35 98:0 / /mnt/a\\134b rw - ext4 /dev/x rw\n";
        assert_eq!(paths(mountinfo, BEFORE_MOUNTED), all(&["/mnt/a\\b"]));
        assert_eq!(unescaped(b"a\\09\\040"), b"a\\09 ");
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(mount_of(Path::new("/")).is_none_or(|mount| mount == Path::new("/")));
        assert_eq!(missing_mount(Path::new("/"), None), None);
    }
}
