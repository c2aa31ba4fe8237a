//! What two clones of a repository make of each other's trees.
//!
//! Each path counts for itself. With `base`, the tree that this clone last saw of the other one: what either
//! added since then is there, and what either removed is gone.
//!
//! One thing is kept although somebody removed it. Who prunes removes pages, volumes and signatures that no
//! snapshot of theirs needs; a snapshot that somebody else made meanwhile may rest on them. So where one side
//! added snapshots, what the other removed beside snapshots stays, until the next pruning looks at all
//! snapshots together. Pruned snapshots stay pruned.
//!
//! Keys of an encrypted repository that one side removed are gone, with two exceptions. Where both removed some, none of
//! them is gone, since together they may have removed the last. And where a remote has none of the keys of this
//! repository, all of them stay and are sent there again: nobody could open either repository any more.
//!
//! What others removed from a remote is gone here only where that is asked for; else it [is kept](super::kept).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::format::{self, CONFIG, kind};
use crate::gitkv::{Git, GitError, MAX_NAMES_COMPARED, Mode, Node, PathsLeft, Trace, Tree, TreeEdit};
use crate::layers::ObjectId;
use crate::timeline::is_path_of;

/// What a path was and is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change {
    pub old: Option<Node>,
    pub new: Option<Node>,
}

/// The files that differ between two trees, by path.
pub(super) type Changes = BTreeMap<Vec<u8>, Change>;

/// How many snapshots came and went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SnapshotCount {
    /// Snapshots that are there now and were not before.
    pub added: u64,
    /// Snapshots that were there before.
    pub removed: u64,
}

impl SnapshotCount {
    pub(super) fn of(changes: &Changes) -> Self {
        let count = |wanted: fn(&Change) -> bool| {
            let snapshots = changes
                .iter()
                .filter(|(path, change)| format::is_of(kind::SNAPSHOTS, path) && wanted(change));
            snapshots.count() as u64
        };
        Self { added: count(|change| change.old.is_none()), removed: count(|change| change.new.is_none()) }
    }

    /// Whether nothing changed.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

/// Why trees could not be merged.
#[derive(Debug)]
pub(super) enum MergeError {
    Git(GitError),
    /// Both changed the file at this path, each in its own way; or one did, and nobody may.
    Conflict(Vec<u8>),
    /// What they added at this path belongs nowhere.
    Stray(Vec<u8>),
}

impl From<GitError> for MergeError {
    fn from(error: GitError) -> Self {
        Self::Git(error)
    }
}

/// The files that differ between the trees `old` and `new`. `None` is the empty tree. Only directories that
/// differ are read.
pub(super) fn changes(
    git: &Git,
    old: Option<&ObjectId>,
    new: Option<&ObjectId>,
) -> Result<Changes, GitError> {
    let root = |id: Option<&ObjectId>| id.map(|&id| Node { mode: Mode::Directory, id });
    let (mut found, mut left) = (Changes::new(), PathsLeft::new(MAX_NAMES_COMPARED));
    let mut to_do = vec![(Vec::new(), Change { old: root(old), new: root(new) }, 0)];
    to_do.retain(|(_, change, _)| change.old != change.new);
    while let Some((path, change, depth)) = to_do.pop() {
        let file = |node: Option<Node>| node.filter(|node| node.mode != Mode::Directory);
        let files = Change { old: file(change.old), new: file(change.new) };
        let directory = |node: Option<Node>| match node {
            Some(Node { mode: Mode::Directory, id }) => git.read_tree(&id).map(Some),
            _ => Ok(None),
        };
        let (old, new) = (directory(change.old)?, directory(change.new)?);
        let names: BTreeSet<&[u8]> = [&old, &new]
            .into_iter()
            .flatten()
            .flat_map(|tree| tree.entries().map(|entry| entry.name))
            .collect();
        for name in names {
            let lookup = |tree: &Option<Arc<Tree>>| {
                tree.as_ref().and_then(|tree| tree.lookup(name)).map(|entry| entry.node())
            };
            let change = Change { old: lookup(&old), new: lookup(&new) };
            if change.old == change.new {
                continue;
            }
            let mut below = path.clone();
            if depth > 0 {
                below.push(b'/');
            }
            below.extend_from_slice(name);
            left.count(&below, depth + 1)?;
            to_do.push((below, change, depth + 1));
        }
        if files.old != files.new {
            found.insert(path, files);
        }
    }
    Ok(found)
}

/// Fails where they did what nobody may do: change a file that is there, or add something at a path that no blob of its
/// kind can have, which would be in everybody's way.
pub(super) fn expect_sound(theirs: &Changes) -> Result<(), MergeError> {
    for (path, change) in theirs {
        match (change.old, change.new) {
            (Some(_), Some(_)) if path != CONFIG.as_bytes() => {
                return Err(MergeError::Conflict(path.clone()));
            }
            (None, Some(node)) if !may_be_added(path, node) => return Err(MergeError::Stray(path.clone())),
            _ => {}
        }
    }
    Ok(())
}

/// Whether something may be at a path: a file of that name and kind. What is in none of the directories of this
/// format is a later one's.
fn may_be_added(path: &[u8], node: Node) -> bool {
    let kind = path.split(|&byte| byte == b'/').next().and_then(|kind| str::from_utf8(kind).ok());
    let is_file = matches!(node.mode, Mode::File | Mode::Executable);
    match kind.filter(|kind| kind::ALL.contains(kind)) {
        Some(kind) => is_file && is_path_of(kind, path),
        None => is_file,
    }
}

/// What is to be done to our tree, given what each side changed since the base.
///
/// Where both changed the configuration, `take_theirs` decides.
pub(super) fn merge(ours: &Changes, theirs: &Changes, take_theirs: bool) -> Result<TreeEdit, MergeError> {
    let mut edit = TreeEdit::new();
    let [ours_keep, theirs_keep] = [ours, theirs].map(Side::of);
    for (path, change) in theirs {
        let is_settled = match ours.get(path) {
            Some(own) if own.new == change.new => true,
            Some(_) if path == CONFIG.as_bytes() => !take_theirs,
            Some(_) => return Err(MergeError::Conflict(path.clone())),
            None => change.new.is_none() && ours_keep.keeps(path),
        };
        match change.new {
            _ if is_settled => {}
            Some(node) => edit.set_node(path, node)?,
            None => edit.remove(path)?,
        }
    }
    for (path, own) in ours {
        if let Change { old: Some(node), new: None } = own
            && !theirs.contains_key(path)
            && theirs_keep.keeps(path)
        {
            edit.set(path, node.id)?;
        }
    }
    Ok(edit)
}

/// Puts blobs back into changes since a trace, where pruning had taken them out: what they still have of it,
/// they have not added.
pub(super) fn restore_gone(ours: &mut Changes, theirs: &mut Changes) {
    let gone = Trace::gone();
    let is_gone = |node: &Option<Node>| node.is_some_and(|node| node.id == gone);
    theirs.retain(|path, change| match change.new {
        Some(_) if is_gone(&change.old) => {
            match ours.get_mut(path) {
                Some(own) if own.new == change.new => drop(ours.remove(path)),
                Some(own) => own.old = change.new,
                None => {}
            }
            false
        }
        _ => true,
    });
}

/// What one side did that keeps what the other one removed.
pub(super) struct Side {
    adds_snapshots: bool,
    removes_keys: bool,
}

impl Side {
    pub fn of(changes: &Changes) -> Self {
        let is_removed_key =
            |(path, change): (&Vec<u8>, &Change)| format::is_of(kind::KEYS, path) && change.new.is_none();
        Self {
            adds_snapshots: SnapshotCount::of(changes).added > 0,
            removes_keys: changes.iter().any(is_removed_key),
        }
    }

    fn keeps(&self, path: &[u8]) -> bool {
        match format::is_of(kind::KEYS, path) {
            true => self.removes_keys,
            false => self.keeps_data(path),
        }
    }

    /// The same of data alone.
    pub fn keeps_data(&self, path: &[u8]) -> bool {
        self.adds_snapshots && is_data(path)
    }
}

/// Whether snapshots may rest on what lies at `path`.
pub(super) fn is_data(path: &[u8]) -> bool {
    let describes = [kind::SNAPSHOTS, kind::DIFFS, kind::KEYS];
    path != CONFIG.as_bytes() && !describes.iter().any(|kind| format::is_of(kind, path))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::gitkv::Person;
    use crate::layers::LayerWriter;

    fn node(number: u8) -> Node {
        Node { mode: Mode::File, id: ObjectId::from_bytes([number; 20]) }
    }

    fn git(dir: &Path) -> Git {
        Git::init(&dir.join("repo.git"), &[]).unwrap()
    }

    /// A tree with these files.
    fn tree(git: &Git, files: &[(&str, u8)]) -> ObjectId {
        let mut edit = TreeEdit::new();
        files.iter().for_each(|(path, number)| edit.set(path.as_bytes(), node(*number).id).unwrap());
        let mut layer = LayerWriter::create(&git.pack_dir()).unwrap();
        let tree = edit.write(git, None, &mut layer).unwrap();
        layer.finish().unwrap();
        tree
    }

    /// What merging makes of our tree.
    fn merged(
        git: &Git,
        [base, ours, theirs]: [&[(&str, u8)]; 3],
        take_theirs: bool,
    ) -> Result<Vec<(String, u8)>, MergeError> {
        let [base, ours, theirs] = [base, ours, theirs].map(|files| tree(git, files));
        let since = |side| changes(git, Some(&base), Some(side)).unwrap();
        let edit = merge(&since(&ours), &since(&theirs), take_theirs)?;
        let mut layer = LayerWriter::create(&git.pack_dir()).unwrap();
        let merged = edit.write(git, Some(&ours), &mut layer).unwrap();
        layer.finish().unwrap();
        let files = git.walk(&merged, b"").unwrap().map(Result::unwrap);
        Ok(files.map(|(path, node)| (String::from_utf8(path).unwrap(), node.id.as_bytes()[0])).collect())
    }

    fn owned(files: &[(&str, u8)]) -> Vec<(String, u8)> {
        files.iter().map(|&(path, number)| (path.to_owned(), number)).collect()
    }

    #[test]
    fn what_either_added_is_there_and_what_either_removed_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let git = git(dir.path());
        let base = [("snapshots/1", 1), ("snapshots/2", 2), ("snapshots/3", 3)];
        let ours = [("snapshots/1", 1), ("snapshots/2", 2), ("snapshots/4", 4)];
        let theirs = [("snapshots/2", 2), ("snapshots/3", 3), ("snapshots/5", 5)];
        let expected = owned(&[("snapshots/2", 2), ("snapshots/4", 4), ("snapshots/5", 5)]);
        assert_eq!(merged(&git, [&base, &ours, &theirs], false).unwrap(), expected);
        assert_eq!(merged(&git, [&base, &theirs, &ours], false).unwrap(), expected);
    }

    #[test]
    fn what_a_new_snapshot_may_rest_on_stays_whoever_removed_it() {
        let dir = tempfile::tempdir().unwrap();
        let git = git(dir.path());
        let base = [("archives/1", 1), ("diffs/1", 1), ("index/1", 1), ("snapshots/1", 1)];
        let pruned = [("archives/9", 9)];
        let added = [&base[..], &[("snapshots/2", 2)]].concat();
        let expected = owned(&[("archives/1", 1), ("archives/9", 9), ("index/1", 1), ("snapshots/2", 2)]);
        assert_eq!(merged(&git, [&base, &pruned, &added], false).unwrap(), expected);
        assert_eq!(merged(&git, [&base, &added, &pruned], false).unwrap(), expected);
        assert_eq!(merged(&git, [&base, &base, &pruned], false).unwrap(), owned(&pruned));
        assert_eq!(merged(&git, [&base, &pruned, &base], false).unwrap(), owned(&pruned));
    }

    #[test]
    fn keys_are_removed_by_one_side_and_not_by_both() {
        let dir = tempfile::tempdir().unwrap();
        let git = git(dir.path());
        let base = [("keys/1", 1), ("keys/2", 2), ("snapshots/1", 1)];
        let added = [&base[..], &[("snapshots/2", 2)]].concat();
        let (first, second) = ([base[0], base[2]], [base[1], base[2]]);
        let expected = owned(&[("keys/1", 1), ("snapshots/1", 1), ("snapshots/2", 2)]);
        assert_eq!(merged(&git, [&base, &first, &added], false).unwrap(), expected);
        assert_eq!(merged(&git, [&base, &added, &first], false).unwrap(), expected);
        assert_eq!(merged(&git, [&base, &first, &second], false).unwrap(), owned(&base));
        assert_eq!(merged(&git, [&base, &first, &first], false).unwrap(), owned(&first));
    }

    #[test]
    fn of_two_new_configurations_one_is_taken_and_of_anything_else_none() {
        let dir = tempfile::tempdir().unwrap();
        let git = git(dir.path());
        let sides = |path| [1, 2, 3].map(|number| [(path, number)]);
        let [base, ours, theirs] = &sides(CONFIG);
        assert_eq!(merged(&git, [base, ours, theirs], false).unwrap(), owned(ours));
        assert_eq!(merged(&git, [base, ours, theirs], true).unwrap(), owned(theirs));
        assert_eq!(merged(&git, [base, base, theirs], false).unwrap(), owned(theirs));
        let [base, ours, theirs] = &sides("snapshots/1");
        let conflict = merged(&git, [base, ours, theirs], true);
        assert!(matches!(conflict, Err(MergeError::Conflict(path)) if path == b"snapshots/1"));
    }

    #[test]
    fn what_was_pruned_is_not_added_again_by_who_still_has_it() {
        let gone = Some(Node { mode: Mode::File, id: Trace::gone() });
        let change = |old, new| Change { old, new };
        let path = |text: &str| text.as_bytes().to_vec();
        let mut ours = Changes::from([
            (path("archives/1"), change(gone, None)),
            (path("archives/2"), change(gone, None)),
            (path("archives/3"), change(gone, Some(node(3)))),
        ]);
        let mut theirs = Changes::from([
            (path("archives/1"), change(gone, Some(node(1)))),
            (path("archives/2"), change(gone, None)),
            (path("archives/3"), change(gone, Some(node(3)))),
            (path("snapshots/4"), change(None, Some(node(4)))),
        ]);
        restore_gone(&mut ours, &mut theirs);
        let expected = Changes::from([
            (path("archives/1"), change(Some(node(1)), None)),
            (path("archives/2"), change(gone, None)),
        ]);
        assert_eq!(ours, expected);
        assert_eq!(theirs.len(), 2);
        let edit = merge(&ours, &theirs, false).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let git = git(dir.path());
        let mut layer = LayerWriter::create(&git.pack_dir()).unwrap();
        let tree = edit.write(&git, None, &mut layer).unwrap();
        layer.finish().unwrap();
        let files: Vec<_> = git.walk(&tree, b"").unwrap().map(|file| file.unwrap().0).collect();
        assert_eq!(files, [b"archives/1".to_vec(), b"snapshots/4".to_vec()], "the new one may rest on it");
    }

    #[test]
    fn a_file_that_became_a_directory_is_both_removed_and_added() {
        let dir = tempfile::tempdir().unwrap();
        let git = git(dir.path());
        let (old, new) = (tree(&git, &[("a", 1)]), tree(&git, &[("a/b", 2)]));
        let found = changes(&git, Some(&old), Some(&new)).unwrap();
        let expected = [
            (b"a".to_vec(), Change { old: Some(node(1)), new: None }),
            (b"a/b".to_vec(), Change { old: None, new: Some(node(2)) }),
        ];
        assert!(found.into_iter().eq(expected));
    }

    #[test]
    fn trees_deeper_than_any_repository_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let git = git(dir.path());
        let deep = tree(&git, &[("a/".repeat(40).trim_end_matches('/'), 1)]);
        assert!(matches!(changes(&git, None, Some(&deep)), Err(GitError::Path { .. })));
    }

    #[test]
    fn reads_only_directories_that_differ() {
        let dir = tempfile::tempdir().unwrap();
        let git = git(dir.path());
        let paths: Vec<String> = (0..50).map(|number| format!("{}/{number}/file", number % 5)).collect();
        let mut transaction = git.begin().unwrap();
        let (mut all, mut one) = (TreeEdit::new(), TreeEdit::new());
        let blob = transaction.blob(b"x").unwrap();
        paths.iter().for_each(|path| all.set(path.as_bytes(), blob).unwrap());
        let who = Person::new("A", "a", "2026-11-20T19:55:12Z".parse().unwrap());
        let old = transaction.commit(&who, "All", &all).unwrap().unwrap().tree;
        let mut transaction = git.begin().unwrap();
        one.set(b"3/13/other", transaction.blob(b"y").unwrap()).unwrap();
        let new = transaction.commit(&who, "One", &one).unwrap().unwrap().tree;
        let git = Git::open(git.path()).unwrap();
        assert_eq!(changes(&git, Some(&old), Some(&new)).unwrap().len(), 1);
        assert_eq!(git.trees_read(), 2 * 3);
    }
}
