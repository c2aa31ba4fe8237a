//! Errors as text.

use std::error::Error;
use std::io::{self, ErrorKind};

/// An error and its causes on one line, each after a colon.
///
/// A cause that the text before it ends with already is not repeated, since some libraries put it there.
///
/// ```
/// let error = std::io::Error::other("the disk is full");
/// assert_eq!(treering::causes::chain(&error), "the disk is full");
/// ```
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        cause = error.source();
    }
    line
}

/// How the system says that a disk is full, where a library or a program of others passes on only what it said.
const FULL: [&str; 2] = ["No space left on device", "Disk quota exceeded"];

/// Whether an error or one of its causes is that a disk has no room left, or a user no more of it.
///
/// ```
/// let error = std::io::Error::from(std::io::ErrorKind::StorageFull);
/// assert!(treering::causes::is_disk_full(&error));
/// ```
pub fn is_disk_full(error: &(dyn Error + 'static)) -> bool {
    has_kind(error, &[ErrorKind::StorageFull, ErrorKind::QuotaExceeded])
        || FULL.iter().any(|text| chain(error).contains(text))
}

/// Whether an error or one of its causes is one of the system, of one of `kinds`.
pub fn has_kind(error: &(dyn Error + 'static), kinds: &[ErrorKind]) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if kind.is_some_and(|kind| kinds.contains(&kind)) {
            return true;
        }
        cause = error.source();
    }
    false
}
