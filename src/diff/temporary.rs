//! Names of what stands in somebody's directory until it takes its place.
//!
//! Such a name tells the process that gave it, and holds a digest of that process, a number and the inode of the
//! directory. So a name alone makes nothing a temporary: a file that was saved under such a name and restored, copied
//! or unpacked elsewhere is a file like any other. Scans leave temporaries out, so no snapshot has any of the
//! directory that it is restored to.

use rustix::process::Pid;

use crate::atomic::TEMP_PREFIX;
use crate::digest::Digest;

/// The temporary name number `number` of this process in the directory with this inode.
pub(super) fn name(directory: u64, number: u64) -> String {
    named(directory, rustix::process::getpid(), number)
}

/// As [`name`], of any process.
pub(super) fn named(directory: u64, process: Pid, number: u64) -> String {
    let process = process.as_raw_nonzero();
    let digest = Digest::of(format!("treering temporary {directory} {process} {number}").as_bytes());
    format!("{TEMP_PREFIX}{process}-{number}-{}", &digest.to_string()[..16])
}

/// The process that gave something in the directory with this inode its name, if that is a temporary one. `directory`
/// is asked only if the name looks like one.
pub(super) fn owner_of(name: &[u8], directory: impl FnOnce() -> Option<u64>) -> Option<Pid> {
    let rest = name.strip_prefix(TEMP_PREFIX.as_bytes())?;
    let mut parts = str::from_utf8(rest).ok()?.split('-');
    let process = Pid::from_raw(parts.next()?.parse().ok()?)?;
    let number = parts.next()?.parse().ok()?;
    (named(directory()?, process, number).as_bytes() == name).then_some(process)
}

/// Whether a process is no more.
pub(super) fn is_gone(process: Pid) -> bool {
    process != rustix::process::getpid()
        && rustix::process::test_kill_process(process) == Err(rustix::io::Errno::SRCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_temporary_only_in_its_directory() {
        let name = name(17, 3);
        let own = Some(rustix::process::getpid());
        assert_eq!(owner_of(name.as_bytes(), || Some(17)), own);
        assert_eq!(owner_of(name.as_bytes(), || Some(18)), None);
        assert_eq!(owner_of(name.as_bytes(), || None), None);
        let (start, _) = name.rsplit_once('-').unwrap();
        for other in [
            start,
            &format!("{start}-"),
            &format!("{name}0"),
            &format!("{name}-"),
            ".treering-tmp--1-2-3",
            "",
        ] {
            assert_eq!(owner_of(other.as_bytes(), || Some(17)), None, "{other}");
        }
        assert_eq!(owner_of(b"file", || unreachable!()), None);
    }
}
