//! Listing a store directory by directory.

use super::backend::{Entry, Extent, go_on};
use super::error::Reason;
use super::name::is_directory_of_store;

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
    extent: Extent,
}

impl<F: FnMut(&str) -> Result<(Vec<Entry>, Vec<String>), Reason>> Walk<F> {
    pub fn new(directory: &str, read: F) -> Self {
        let (pending, ready) = (vec![directory.to_owned()], Vec::new().into_iter());
        Self { read, pending, ready, extent: Extent::listing() }
    }

    /// Takes up what a directory holds.
    fn enter(&mut self, files: Vec<Entry>, mut directories: Vec<String>) -> Result<(), Reason> {
        self.pending.pop();
        // In no other can an object lie.
        directories.retain(|path| is_directory_of_store(path));
        directories.sort_unstable_by(|a, b| b.cmp(a));
        for path in files.iter().map(|file| &file.path).chain(&directories) {
            self.extent.add(path)?;
        }
        self.pending.append(&mut directories);
        let mut held = Extent::held();
        self.pending.iter().try_for_each(|path| held.add(path))?;
        self.ready = files.into_iter();
        Ok(())
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
            let read = go_on().and_then(|()| (self.read)(directory));
            if let Err(reason) = read.and_then(|(files, directories)| self.enter(files, directories)) {
                if !reason.is_temporary() {
                    self.pending.clear();
                }
                return Some(Err(reason));
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
            "a" => Ok((vec![entry("a/1")], vec!["a/cc".into(), "a/bb".into()])),
            "a/bb" => match reasons.pop() {
                Some(reason) => Err(reason),
                None => Ok((vec![entry("a/bb/1")], Vec::new())),
            },
            _ => Ok((vec![entry("a/cc/1")], Vec::new())),
        });
        assert_eq!(walk.next().unwrap().unwrap().path, "a/1");
        assert!(walk.next().unwrap().unwrap_err().is_temporary());
        assert!(matches!(walk.next(), Some(Err(Reason::NotFound))));
        assert!(walk.next().is_none());
    }

    #[test]
    fn a_walk_ends_where_no_object_can_lie() {
        let mut walk = Walk::new("a", |path: &str| Ok((Vec::new(), vec![format!("{path}/aa")])));
        assert!(walk.next().is_none());
        let mut walk = Walk::new("a", |path: &str| {
            assert_eq!(path, "a", "a collection that contains itself is entered");
            Ok((Vec::new(), vec!["a/a".into(), "a/data".into()]))
        });
        assert!(walk.next().is_none());
    }

    #[test]
    fn directories_that_nobody_could_hold_are_an_error() {
        let long = "x".repeat(64);
        let many = || (0..3_000_000).map(|at| format!("a/{at:064}"));
        let mut held = Extent::held();
        assert!(many().try_for_each(|path| held.add(&path)).is_err());
        let mut held = Extent::held();
        assert!((0..3_000_000).try_for_each(|_| held.add("")).is_err());
        let mut listing = Extent::listing();
        assert!((0..20_000_000).try_for_each(|_| listing.add(&long)).is_err());
    }
}
