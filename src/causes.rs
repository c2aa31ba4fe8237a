//! Errors as text.

use std::error::Error;

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
