//! Listing a store directory by directory.

use super::backend::Entry;
use super::error::Reason;
use super::name::MAX_LEVEL;

/// The part of `path` below `directory`, where the root is the empty path.
pub(super) fn inside<'a>(path: &'a str, directory: &str) -> Option<&'a str> {
    match directory {
        "" => Some(path),
        _ => path.strip_prefix(directory)?.strip_prefix('/'),
    }
}

/// Lists directory by directory, for backends that list one at a time: `read` gives the files and the
/// paths of the directories in one. A directory that cannot be read stays next, so that the caller may
/// try again.
pub(super) struct Walk<F> {
    read: F,
    pending: Vec<String>,
    ready: std::vec::IntoIter<Entry>,
}

impl<F: FnMut(&str) -> Result<(Vec<Entry>, Vec<String>), Reason>> Walk<F> {
    pub fn new(directory: &str, read: F) -> Self {
        Self { read, pending: vec![directory.to_owned()], ready: Vec::new().into_iter() }
    }
}

impl<F: FnMut(&str) -> Result<(Vec<Entry>, Vec<String>), Reason>> Iterator for Walk<F> {
    type Item = Result<Entry, Reason>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.ready.next() {
                return Some(Ok(entry));
            }
            let directory = self.pending.last()?;
            match (self.read)(directory) {
                Ok((files, mut directories)) => {
                    self.pending.pop();
                    directories.retain(|path| path.matches('/').count() <= usize::from(MAX_LEVEL));
                    directories.sort_unstable_by(|a, b| b.cmp(a));
                    self.pending.append(&mut directories);
                    self.ready = files.into_iter();
                }
                Err(reason) => {
                    if !reason.is_temporary() {
                        self.pending.clear();
                    }
                    return Some(Err(reason));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_tries_again_what_may_pass_and_ends_with_what_does_not() {
        let entry = |path: &str| Entry { path: path.into(), size: 0, modified: None };
        let mut reasons = vec![Reason::NotFound, Reason::temporary("busy")];
        let mut walk = Walk::new("a", |directory: &str| match directory {
            "a" => Ok((vec![entry("a/1")], vec!["a/c".into(), "a/b".into()])),
            "a/b" => match reasons.pop() {
                Some(reason) => Err(reason),
                None => Ok((vec![entry("a/b/1")], Vec::new())),
            },
            _ => Ok((vec![entry("a/c/1")], Vec::new())),
        });
        assert_eq!(walk.next().unwrap().unwrap().path, "a/1");
        assert!(walk.next().unwrap().unwrap_err().is_temporary());
        assert!(matches!(walk.next(), Some(Err(Reason::NotFound))));
        assert!(walk.next().is_none());
    }

    #[test]
    fn a_walk_ends_where_no_object_can_lie() {
        let mut walk = Walk::new("a", |path: &str| Ok((Vec::new(), vec![format!("{path}/a")])));
        assert!(walk.next().is_none());
    }
}
