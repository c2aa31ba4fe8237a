//! Changes to a tree, apart from the tree that they are made to.

use std::collections::BTreeMap;

use crate::layers::{LayerWriter, ObjectId, ObjectKind, object_id};

use super::tree::{self, Mode, Node, TreeEntry};
use super::{Git, GitError, shown};

/// Any number of paths to set and to remove, in any tree.
///
/// Since it is not bound to a tree, the same edit can be made again when a branch has moved. Of two changes to
/// one path the later one counts. Directories come and go with the files in them.
#[derive(Debug, Clone, Default)]
pub struct TreeEdit {
    changes: Changes,
}

/// The changes within one directory, by name.
type Changes = BTreeMap<Vec<u8>, Change>;

#[derive(Debug, Clone)]
enum Change {
    /// Nothing is left here, whether it was a file or a directory.
    Remove,
    /// A file is here; `rule` says what it may take the place of. Without a `mode` it is executable if what
    /// was there is.
    Set { id: ObjectId, mode: Option<Mode>, rule: Rule },
    /// A directory is here, its content changed; `fresh` ones begin empty, whatever there was.
    Within { changes: Changes, fresh: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Nothing may be there.
    New,
    /// A file may be there.
    File,
    /// Whatever was there was removed before.
    Any,
}

impl TreeEdit {
    /// An edit that changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Makes the blob `id` the file at `path`, in place of the file that may be there; an executable one
    /// stays executable.
    pub fn set(&mut self, path: &[u8], id: ObjectId) -> Result<(), GitError> {
        self.put(path, id, None, Rule::File)
    }

    /// As [`set`](Self::set), with the mode that the file has from then on.
    pub fn set_node(&mut self, path: &[u8], node: Node) -> Result<(), GitError> {
        self.put(path, node.id, Some(node.mode), Rule::File)
    }

    /// As [`set`](Self::set), but when the edit is applied, it is an error if the path exists.
    pub fn add(&mut self, path: &[u8], id: ObjectId) -> Result<(), GitError> {
        self.put(path, id, None, Rule::New)
    }

    /// Leaves nothing at `path`, be it a file, a directory with all that it holds, or nothing already.
    pub fn remove(&mut self, path: &[u8]) -> Result<(), GitError> {
        let (directory, name) = self.descend(path)?;
        directory.insert(name.to_owned(), Change::Remove);
        Ok(())
    }

    fn put(&mut self, path: &[u8], id: ObjectId, mode: Option<Mode>, rule: Rule) -> Result<(), GitError> {
        let (directory, name) = self.descend(path)?;
        let rule = match directory.get(name) {
            None => rule,
            Some(Change::Remove | Change::Set { rule: Rule::Any, .. }) => Rule::Any,
            Some(Change::Set { .. }) if rule == Rule::New => return Err(GitError::Exists(shown(path))),
            Some(&Change::Set { rule, .. }) => rule,
            Some(Change::Within { .. }) => return Err(GitError::FileAndDirectory(shown(path))),
        };
        directory.insert(name.to_owned(), Change::Set { id, mode, rule });
        Ok(())
    }

    /// The changes of the directory that `path` lies in, and its name there.
    fn descend<'a>(&mut self, path: &'a [u8]) -> Result<(&mut Changes, &'a [u8]), GitError> {
        if let Some(fault) = tree::path_fault(path) {
            return Err(GitError::Path { path: shown(path), fault });
        }
        let mut changes = &mut self.changes;
        let mut rest = path;
        while let Some(slash) = rest.iter().position(|&byte| byte == b'/') {
            let within = |fresh| Change::Within { changes: Changes::new(), fresh };
            let change = changes.entry(rest[..slash].to_owned()).or_insert_with(|| within(false));
            if matches!(change, Change::Remove) {
                *change = within(true);
            }
            let Change::Within { changes: inner, .. } = change else {
                return Err(GitError::FileAndDirectory(shown(path)));
            };
            changes = inner;
            rest = &rest[slash + 1..];
        }
        Ok((changes, rest))
    }

    /// Applies the edit to the tree `base` (`None`: the empty one) of `git`, and returns the tree that results.
    ///
    /// Only trees that change are read, and written to `layer`.
    pub fn write(
        &self,
        git: &Git,
        base: Option<&ObjectId>,
        layer: &mut LayerWriter,
    ) -> Result<ObjectId, GitError> {
        match apply(git, base, &self.changes, layer, &mut Vec::new())? {
            Some(tree) => Ok(tree),
            // Git needs even the empty tree to be there when a commit names it.
            None => Ok(layer.write(ObjectKind::Tree, b"")?),
        }
    }
}

/// Makes `changes` to the directory `base` at `path`; `None` when nothing is left in it.
fn apply(
    git: &Git,
    base: Option<&ObjectId>,
    changes: &Changes,
    layer: &mut LayerWriter,
    path: &mut Vec<u8>,
) -> Result<Option<ObjectId>, GitError> {
    let old = base.map(|base| git.read_tree(base)).transpose()?;
    let old = old.iter().flat_map(|tree| tree.entries());
    let (replaced, mut entries): (Vec<_>, Vec<_>) = old.partition(|entry| changes.contains_key(entry.name));
    let replaced: BTreeMap<_, _> = replaced.into_iter().map(|entry| (entry.name, entry)).collect();
    for (name, change) in changes {
        let old = replaced.get(name.as_slice());
        let mark = path.len();
        path.extend_from_slice(name);
        let entry = match change {
            Change::Remove => None,
            &Change::Set { id, mode: new, rule } => {
                let mode = match (rule, old.map(|old| old.mode)) {
                    (Rule::New, Some(_)) => return Err(GitError::Exists(shown(path))),
                    (Rule::File, Some(Mode::Directory)) => {
                        return Err(GitError::FileAndDirectory(shown(path)));
                    }
                    (Rule::File, Some(Mode::Executable)) => new.unwrap_or(Mode::Executable),
                    _ => new.unwrap_or(Mode::File),
                };
                Some(TreeEntry { mode, name, id })
            }
            Change::Within { changes, fresh } => {
                let inner = match old {
                    Some(old) if !fresh && old.mode != Mode::Directory => {
                        return Err(GitError::FileAndDirectory(shown(path)));
                    }
                    Some(old) if !fresh => Some(&old.id),
                    _ => None,
                };
                path.push(b'/');
                let tree = apply(git, inner, changes, layer, path)?;
                tree.map(|id| TreeEntry { mode: Mode::Directory, name, id })
            }
        };
        entries.extend(entry);
        path.truncate(mark);
    }
    if entries.is_empty() {
        return Ok(None);
    }
    entries.sort_by(tree::order);
    let bytes = tree::encode(&entries);
    let unchanged = base.filter(|&&base| object_id(ObjectKind::Tree, &bytes) == base);
    match unchanged {
        Some(base) => Ok(Some(*base)),
        None => Ok(Some(layer.write(ObjectKind::Tree, &bytes)?)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use proptest::test_runner::{TestCaseError, TestRunner};

    use super::super::testing::{Fixture, who};
    use super::*;

    fn id(number: u8) -> ObjectId {
        ObjectId::from_bytes([number; 20])
    }

    /// The paths and ids of a tree.
    fn files(git: &Git, tree: &ObjectId) -> BTreeMap<Vec<u8>, ObjectId> {
        git.walk(tree, b"").unwrap().map(|file| file.unwrap()).map(|(path, node)| (path, node.id)).collect()
    }

    #[test]
    fn reads_and_writes_only_what_changes() {
        let fixture = Fixture::new();
        let git = fixture.open();
        let names: Vec<String> = (0..50).map(|number| format!("{}/{}/file", number % 5, number)).collect();
        let first = fixture.commit(&git, &names.iter().map(|name| (name.as_str(), "x")).collect::<Vec<_>>());
        let base = git.read_commit(&first).unwrap().tree;
        let mut edit = TreeEdit::new();
        edit.set(b"3/13/file", id(1)).unwrap();
        let mut layer = LayerWriter::create(&git.pack_dir()).unwrap();
        let before = git.trees_read();
        edit.write(&git, Some(&base), &mut layer).unwrap();
        assert_eq!(git.trees_read() - before, 3);
        assert_eq!(layer.objects(), 3);
    }

    #[test]
    fn empty_directories_go() {
        let fixture = Fixture::new();
        let git = fixture.open();
        fixture.commit(&git, &[("a/b/c", "1"), ("d", "2")]);
        let mut edit = TreeEdit::new();
        edit.remove(b"a/b/c").unwrap();
        edit.remove(b"e/f").unwrap();
        git.begin().unwrap().commit(&who(), "Remove", &edit).unwrap().unwrap();
        assert_eq!(fixture.run(&["ls-tree", "--name-only", "main"]), "d\n");
        edit.remove(b"d").unwrap();
        git.begin().unwrap().commit(&who(), "Remove all", &edit).unwrap().unwrap();
        assert_eq!(fixture.run(&["ls-tree", "main"]), "");
        fixture.fsck();
    }

    #[test]
    fn a_file_never_silently_becomes_a_directory_or_the_reverse() {
        let fixture = Fixture::new();
        let git = fixture.open();
        let head = fixture.commit(&git, &[("file", "1"), ("directory/file", "2")]);
        let base = git.read_commit(&head).unwrap().tree;
        let mut layer = LayerWriter::create(&git.pack_dir()).unwrap();
        for path in [&b"file/x"[..], b"directory"] {
            let mut edit = TreeEdit::new();
            edit.set(path, id(1)).unwrap();
            let error = edit.write(&git, Some(&base), &mut layer).unwrap_err();
            assert!(matches!(error, GitError::FileAndDirectory(_)), "{error}");
        }
        let mut edit = TreeEdit::new();
        edit.remove(b"file").unwrap();
        edit.set(b"file/x", id(1)).unwrap();
        edit.remove(b"directory").unwrap();
        edit.add(b"directory", id(2)).unwrap();
        let tree = edit.write(&git, Some(&base), &mut layer).unwrap();
        layer.finish().unwrap();
        let expected = BTreeMap::from([(b"directory".to_vec(), id(2)), (b"file/x".to_vec(), id(1))]);
        assert_eq!(files(&git, &tree), expected);
    }

    #[test]
    fn an_added_path_must_be_new() {
        let mut edit = TreeEdit::new();
        edit.add(b"a", id(1)).unwrap();
        assert!(matches!(edit.add(b"a", id(2)), Err(GitError::Exists(_))));
        assert!(matches!(edit.add(b"a/b", id(2)), Err(GitError::FileAndDirectory(_))));
        assert!(matches!(edit.set(b"../a", id(2)), Err(GitError::Path { .. })));
        edit.set(b"a", id(3)).unwrap();
    }

    #[test]
    fn an_executable_stays_one() {
        let fixture = Fixture::new();
        let git = fixture.open();
        let blob = fixture.run(&["hash-object", "-w", "-t", "blob", "HEAD"]).trim().to_owned();
        fixture.run(&["update-index", "--add", "--cacheinfo", &format!("100755,{blob},run")]);
        let tree = fixture.run(&["write-tree"]);
        let commit = fixture.run(&["commit-tree", "-m", "Run", tree.trim()]);
        fixture.run(&["update-ref", "refs/heads/main", commit.trim()]);
        fixture.commit(&git, &[("run", "2"), ("file", "3")]);
        let listing = fixture.run(&["ls-tree", "--format=%(objectmode) %(path)", "main"]);
        assert_eq!(listing, "100644 file\n100755 run\n");
    }

    /// What the edits of one round do: set (`Some`) or remove (`None`) paths of a few names.
    fn rounds() -> impl Strategy<Value = Vec<Vec<(String, Option<u8>)>>> {
        let change = ("[a-c](/[a-c.-]x){0,2}", proptest::option::of(any::<u8>()));
        proptest::collection::vec(proptest::collection::vec(change, 1..12), 1..5)
    }

    #[test]
    fn does_what_a_map_does() {
        let fixture = Fixture::new();
        let git = fixture.open();
        let mut runner = TestRunner::default();
        runner.run(&rounds(), |rounds| follows_the_model(&git, &rounds)).unwrap();
    }

    fn follows_the_model(git: &Git, rounds: &[Vec<(String, Option<u8>)>]) -> Result<(), TestCaseError> {
        let mut model: BTreeMap<Vec<u8>, ObjectId> = BTreeMap::new();
        let mut tree = None;
        for round in rounds {
            let mut edit = TreeEdit::new();
            let mut next = model.clone();
            let mut is_refused = false;
            for (path, content) in round {
                let path = path.as_bytes();
                let below = [path, b"/"].concat();
                match content {
                    Some(content) => {
                        is_refused |= edit.set(path, id(*content)).is_err();
                        next.insert(path.to_vec(), id(*content));
                    }
                    None => {
                        is_refused |= edit.remove(path).is_err();
                        next.retain(|other, _| other != path && !other.starts_with(&below));
                    }
                }
            }
            let mut layer = LayerWriter::create(&git.pack_dir()).unwrap();
            // What would be a file and a directory is refused, now or when it is written; the model does not
            // tell.
            if let Ok(written) = edit.write(git, tree.as_ref(), &mut layer)
                && !is_refused
            {
                layer.finish().unwrap();
                prop_assert_eq!(files(git, &written), next.clone());
                (tree, model) = (Some(written), next);
            }
        }
        Ok(())
    }
}
