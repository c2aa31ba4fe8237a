//! Errors as text.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::iter::successors;

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
        let text = without_path(error);
        if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        cause = error.source();
    }
    line
}

/// What a cause says. Temporary files put their path behind what the system said, of which the error above tells in words
/// of its own.
fn without_path(error: &(dyn Error + 'static)) -> String {
    let text = error.to_string();
    let is_wrapped = error.downcast_ref::<io::Error>().is_some_and(|error| error.get_ref().is_some());
    match text.rfind(" at path \"").filter(|_| is_wrapped && text.ends_with('"')) {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// What the system calls it that a disk has no room left, or a user no more of it.
pub(crate) const FULL_KINDS: [ErrorKind; 2] = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded];

/// How the system reports a full disk or an exhausted quota.
const FULL: [&str; 2] = ["No space left on device", "Disk quota exceeded"];

/// Whether an error or one of its causes is that a disk has no room left, or a user no more of it.
///
/// ```
/// let error = std::io::Error::from(std::io::ErrorKind::StorageFull);
/// assert!(treering::causes::is_disk_full(&error));
/// ```
pub fn is_disk_full(error: &(dyn Error + 'static)) -> bool {
    has_kind(error, &FULL_KINDS) || {
        let line = chain(error);
        FULL.iter().any(|text| line.contains(text))
    }
}

/// Whether an error or one of its causes is one of the system, of one of `kinds`.
pub fn has_kind(error: &(dyn Error + 'static), kinds: &[ErrorKind]) -> bool {
    with_causes(error)
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| kinds.contains(&error.kind()))
}

/// An error and its causes.
pub(crate) fn with_causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    successors(Some(error), |&error| {
        // An error of input and output passes over the one that it was made of.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inner.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_named_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot write to {path}")]
        struct Outer {
            path: &'static str,
            source: io::Error,
        }

        let path = "/nowhere/of mine";
        let source = tempfile::tempfile_in(path).unwrap_err();
        let made = tempfile::Builder::new().tempdir_in(path).unwrap_err();
        for source in [source, made, io::Error::from_raw_os_error(2)] {
            let line = chain(&Outer { path, source });
            assert_eq!(line, "cannot write to /nowhere/of mine: No such file or directory (os error 2)");
        }
        let other = io::Error::other("nothing is at path \"x\" any more");
        assert_eq!(
            chain(&Outer { path: "y", source: other }),
            "cannot write to y: nothing is at path \"x\" any more"
        );
    }
}
