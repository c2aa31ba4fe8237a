//! How many paths of trees are walked: a few trees that contain each other twice make more than anybody can.

use crate::relpath;

use super::{GitError, shown};

/// The paths that one walk comes to, directories included.
const MAX_PATHS: usize = 1 << 22;

/// The bytes that they have together.
const MAX_BYTES: usize = 1 << 29;

/// The names in a path where two trees are compared: no path of this program has more.
pub(crate) const MAX_NAMES_COMPARED: usize = 16;

/// The paths that a walk may still come to.
#[derive(Debug)]
pub(crate) struct PathsLeft {
    names: usize,
    paths: usize,
    bytes: usize,
}

impl PathsLeft {
    /// All of them, each of that many names.
    pub fn new(names: usize) -> Self {
        Self { names, paths: MAX_PATHS, bytes: MAX_BYTES }
    }

    /// Counts `path`, which has so many names. Fails where it is one too many.
    pub fn count(&mut self, path: &[u8], names: usize) -> Result<(), GitError> {
        let left = (self.paths.checked_sub(1), self.bytes.checked_sub(path.len()));
        let fault = match left {
            _ if names > self.names => "it is too deep",
            _ if path.len() > relpath::MAX_LEN => "it is too long",
            (Some(paths), Some(bytes)) => {
                (self.paths, self.bytes) = (paths, bytes);
                return Ok(());
            }
            _ => "it comes after 4194304 others, or 512 MiB of them, which is as far as trees are walked",
        };
        Err(GitError::Path { path: shown(path), fault })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Fixture;
    use super::super::tree::encode;
    use super::super::{Git, Mode, TreeEntry};
    use super::*;
    use crate::layers::{LayerWriter, ObjectId, ObjectKind};

    /// A tree of so many levels, each with eight names of that many bytes, that all have the level below.
    fn bomb(git: &Git, levels: usize, len: usize) -> ObjectId {
        let mut layer = LayerWriter::create(&git.pack_dir()).unwrap();
        let mut node = (Mode::File, layer.write(ObjectKind::Blob, b"x").unwrap());
        for _ in 0..levels {
            let names: Vec<_> = (0..8).map(|number| format!("{number:0len$}")).collect();
            let (mode, id) = node;
            let entries = names.iter().map(|name| TreeEntry { mode, name: name.as_bytes(), id });
            let tree = encode(&entries.collect::<Vec<_>>());
            node = (Mode::Directory, layer.write(ObjectKind::Tree, &tree).unwrap());
        }
        layer.finish().unwrap();
        node.1
    }

    #[test]
    fn trees_that_contain_each_other_are_walked_and_merged_within_bounds() {
        let fixture = Fixture::new();
        let git = fixture.open();
        for (levels, fault) in [(15, "512 MiB"), (40, "")] {
            let top = bomb(&git, levels, 1000);
            let walked = git.walk(&top, b"").unwrap().last().unwrap().unwrap_err();
            assert!(matches!(&walked, GitError::Path { .. }), "{walked}");
            let merged = git.merge_trees(None, None, Some(&top)).unwrap_err();
            assert!(merged.to_string().contains(fault), "{merged}");
        }
        let top = bomb(&git, 17, 1);
        let merged = git.merge_trees(None, None, Some(&top)).unwrap_err();
        assert!(merged.to_string().contains("too deep"), "{merged}");
    }

    #[test]
    fn a_walk_ends_where_no_path_leads_to_a_file() {
        let fixture = Fixture::new();
        let git = fixture.open();
        let mut layer = LayerWriter::create(&git.pack_dir()).unwrap();
        let mut id = layer.write(ObjectKind::Tree, b"").unwrap();
        for _ in 0..40 {
            let names = [[b'a'; 300], [b'b'; 300]];
            let entries = names.each_ref().map(|name| TreeEntry { mode: Mode::Directory, name, id });
            id = layer.write(ObjectKind::Tree, &encode(&entries)).unwrap();
        }
        layer.finish().unwrap();
        let walked: Vec<_> = git.walk(&id, b"").unwrap().collect();
        assert!(matches!(walked[..], [Err(GitError::Path { .. })]));
    }

    #[test]
    fn paths_are_counted_by_number_length_and_depth() {
        let fault =
            |left: &mut PathsLeft, path: &[u8], names| left.count(path, names).unwrap_err().to_string();
        let mut left = PathsLeft::new(2);
        assert!(fault(&mut left, b"a/b/c", 3).contains("too deep"));
        assert!(fault(&mut left, &[b'a'; relpath::MAX_LEN + 1], 1).contains("too long"));
        for _ in 0..MAX_PATHS {
            left.count(b"a/b", 2).unwrap();
        }
        assert!(fault(&mut left, b"a/b", 2).contains("4194304 others"));
        let (mut left, long) = (PathsLeft::new(1), [b'a'; relpath::MAX_LEN]);
        for _ in 0..MAX_BYTES / long.len() {
            left.count(&long, 1).unwrap();
        }
        assert!(fault(&mut left, b"a", 1).contains("512 MiB"));
    }
}
