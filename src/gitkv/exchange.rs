//! Joining the branches of two repositories, tree by tree.
//!
//! Clones that add files of different names never conflict: what results is what either added since the tree
//! that both had, less what either removed. A path that both changed, each in its own way, is a conflict;
//! nobody's lines are mixed here.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

use git2::ErrorCode;

use crate::layers::ObjectId;

use super::commit::{Commit, Person};
use super::edit::TreeEdit;
use super::git::from_git2;
use super::paths_left::{MAX_NAMES_COMPARED, PathsLeft};
use super::transaction::Onto;
use super::tree::{Mode, Node, Tree};
use super::{Git, GitError, pause, shown};

/// How often a pull or a push is made anew when others move the same branch.
const TRIES: u32 = 12;

/// What somebody else's changes to a tree mean for ours.
#[derive(Debug, Clone, Default)]
pub struct TreeMerge {
    /// Makes their changes in our tree.
    pub edit: TreeEdit,
    /// Paths that both changed differently. They are not in the edit.
    pub conflicts: Vec<Vec<u8>>,
}

impl Git {
    /// What happened between the trees `base` and `theirs`, to be done to the tree `ours`. `None` is the
    /// empty tree.
    ///
    /// Only trees that differ between `base` and `theirs` are read. Files come with their modes.
    pub fn merge_trees(
        &self,
        base: Option<&ObjectId>,
        ours: Option<&ObjectId>,
        theirs: Option<&ObjectId>,
    ) -> Result<TreeMerge, GitError> {
        let left = PathsLeft::new(MAX_NAMES_COMPARED);
        let mut merge = Merge { git: self, merged: TreeMerge::default(), path: Vec::new(), left };
        let root = |id: Option<&ObjectId>| id.map(|&id| Node { mode: Mode::Directory, id });
        merge.node(Sides { base: root(base), ours: root(ours), theirs: root(theirs) }, 0)?;
        Ok(merge.merged)
    }

    /// Fetches from a remote and joins its branch into this repository's. Whether that changed this
    /// repository's branch.
    ///
    /// A path that both changed is [`GitError::Conflict`]; then the branch stays where it was.
    pub fn pull(&self, remote: &str, who: &Person) -> Result<bool, GitError> {
        self.fetch(remote)?;
        for attempt in 1..=TRIES {
            match self.join(remote, who) {
                Err(GitError::Moved { .. }) => pause(attempt)?,
                Ok(false) => {
                    self.sync_branch()?;
                    return Ok(false);
                }
                joined => return joined,
            }
        }
        Err(GitError::Contended { reference: self.branch().to_owned(), tries: TRIES })
    }

    /// Pushes this repository's branch to a remote, pulling when somebody else has pushed there.
    pub fn push(&self, remote: &str, who: &Person) -> Result<(), GitError> {
        for attempt in 1..=TRIES {
            let Some(head) = self.head()? else { return Ok(()) };
            let known = self.reference(&self.tracking(remote))?;
            let Err(refused) = self.push_commit(remote, &head) else { return Ok(()) };
            // Of one that does not answer, a pull would wait for as long again.
            if matches!(refused, GitError::Unsynced { .. } | GitError::Ended { .. }) {
                return Err(refused);
            }
            self.pull(remote, who)?;
            if self.reference(&self.tracking(remote))? == known && self.head()? == Some(head) {
                return Err(refused);
            }
            pause(attempt)?;
        }
        Err(GitError::Contended { reference: self.tracking(remote), tries: TRIES })
    }

    /// Joins what was fetched from a remote into the branch.
    fn join(&self, remote: &str, who: &Person) -> Result<bool, GitError> {
        let Some(theirs) = self.reference(&self.tracking(remote))? else { return Ok(false) };
        let Some(ours) = self.head()? else {
            self.advance(None, &theirs)?;
            return Ok(true);
        };
        let base = self.merge_base(&ours, &theirs)?;
        if base == Some(theirs) {
            return Ok(false);
        }
        if base == Some(ours) {
            self.advance(Some(&ours), &theirs)?;
            return Ok(true);
        }
        let tree = |commit: &ObjectId| self.read_commit(commit).map(|commit| commit.tree);
        let (base, our_tree, their_tree) =
            (base.as_ref().map(tree).transpose()?, tree(&ours)?, tree(&theirs)?);
        let merge = self.merge_trees(base.as_ref(), Some(&our_tree), Some(&their_tree))?;
        if let Some(path) = merge.conflicts.first() {
            return Err(GitError::Conflict(shown(path)));
        }
        let onto = Onto { expected: Some(ours), parents: vec![ours, theirs], base: Some(our_tree) };
        self.begin()?.commit_onto(who, &format!("Merge {remote}"), onto, &merge.edit)?;
        Ok(true)
    }

    /// Whether the commit `descendant` is `ancestor` or follows it, over however many commits. Commits that are
    /// not here, as behind what pruning left, have nothing before them.
    pub fn descends(&self, descendant: &ObjectId, ancestor: &ObjectId) -> Result<bool, GitError> {
        let mut seen = HashSet::new();
        let mut to_do = VecDeque::from([*descendant]);
        while let Some(id) = to_do.pop_front() {
            if id == *ancestor {
                return Ok(true);
            }
            if seen.insert(id) {
                match self.read_commit(&id) {
                    Ok(commit) => to_do.extend(commit.parents),
                    Err(GitError::Missing(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(false)
    }

    /// A commit that both sides have seen, and that no other such commit follows: `one` and `other` are it, follow
    /// it, or take the place of what did when somebody pruned. Where a shallow history ends, nothing is before it.
    pub fn last_seen_by_both(&self, one: &ObjectId, other: &ObjectId) -> Result<Option<ObjectId>, GitError> {
        let ours = self.seen_by(one)?;
        let (mut shared, mut looked_at) = (Vec::new(), HashSet::new());
        let mut to_do = VecDeque::from([*other]);
        while let Some(id) = to_do.pop_front() {
            if ours.contains(&id) {
                shared.push(id);
            } else if looked_at.insert(id) {
                to_do.extend(self.before(&id)?.into_iter().flatten());
            }
        }
        let mut newest: Option<ObjectId> = None;
        for id in shared {
            if newest.is_none_or(|newest| newest != id)
                && newest.map_or(Ok(true), |newest| self.has_seen(&id, &newest))?
            {
                newest = Some(id);
            }
        }
        Ok(newest)
    }

    /// Whether `commit` is `earlier`, follows it, or takes the place of what did when somebody pruned.
    pub fn has_seen(&self, commit: &ObjectId, earlier: &ObjectId) -> Result<bool, GitError> {
        let mut is_found = false;
        self.look_back(commit, |id| {
            is_found |= id == earlier;
            !is_found
        })?;
        Ok(is_found)
    }

    /// Whether `now` follows something that `earlier` has seen, and has not seen `earlier` itself: who is there now
    /// went back to an old state. Who has pruned meanwhile did not.
    pub fn is_set_back(&self, now: &ObjectId, earlier: &ObjectId) -> Result<bool, GitError> {
        let seen = self.seen_by(earlier)?;
        let (mut to_do, mut looked_at) = (vec![*now], HashSet::new());
        while let Some(id) = to_do.pop() {
            if seen.contains(&id) {
                return Ok(!self.has_seen(now, earlier)?);
            }
            if looked_at.insert(id) {
                to_do.extend(self.commit_if_here(&id)?.into_iter().flat_map(|commit| commit.parents));
            }
        }
        Ok(false)
    }

    /// `commit` and all that it has seen, as far as it is here.
    fn seen_by(&self, commit: &ObjectId) -> Result<HashSet<ObjectId>, GitError> {
        self.look_back(commit, |_| true)
    }

    /// As [`seen_by`](Self::seen_by), as long as `goes_on` says so of what is come to.
    fn look_back(
        &self,
        commit: &ObjectId,
        mut goes_on: impl FnMut(&ObjectId) -> bool,
    ) -> Result<HashSet<ObjectId>, GitError> {
        let mut seen = HashSet::new();
        let mut to_do = vec![*commit];
        while let Some(id) = to_do.pop() {
            if seen.contains(&id) {
                continue;
            }
            let Some(before) = self.before(&id)? else { continue };
            seen.insert(id);
            if !goes_on(&id) {
                break;
            }
            to_do.extend(before);
        }
        Ok(seen)
    }

    fn commit_if_here(&self, id: &ObjectId) -> Result<Option<Commit>, GitError> {
        match self.read_commit(id) {
            Ok(commit) => Ok(Some(commit)),
            Err(GitError::Missing(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What comes before a commit in history, or came before it until somebody pruned; `None` where the commit is not
    /// here.
    fn before(&self, commit: &ObjectId) -> Result<Option<Vec<ObjectId>>, GitError> {
        let commit = self.commit_if_here(commit)?;
        Ok(commit.map(|commit| commit.parents.iter().copied().chain(commit.replaced()).collect()))
    }

    /// The best common ancestor of two commits, if they have one.
    pub fn merge_base(&self, one: &ObjectId, other: &ObjectId) -> Result<Option<ObjectId>, GitError> {
        let oid =
            |id: &ObjectId| git2::Oid::from_bytes(id.as_bytes()).map_err(GitError::git("name a commit"));
        let base = self.libgit2().merge_base(oid(one)?, oid(other)?);
        match base {
            Ok(base) => from_git2(base).map(Some),
            Err(error) if error.code() == ErrorCode::NotFound => Ok(None),
            Err(error) => Err(GitError::git("find where two histories parted")(error)),
        }
    }
}

/// What one path is in each tree.
#[derive(Clone, Copy)]
struct Sides {
    base: Option<Node>,
    ours: Option<Node>,
    theirs: Option<Node>,
}

struct Merge<'a> {
    git: &'a Git,
    merged: TreeMerge,
    path: Vec<u8>,
    left: PathsLeft,
}

impl Merge<'_> {
    fn node(&mut self, sides: Sides, depth: usize) -> Result<(), GitError> {
        let Sides { base, ours, theirs } = sides;
        if theirs == base || theirs == ours {
            return Ok(());
        }
        self.left.count(&self.path, depth)?;
        let is_file = |node: Option<Node>| node.is_some_and(|node| node.mode != Mode::Directory);
        if [base, ours, theirs].into_iter().any(is_file) {
            return self.file(sides, depth);
        }
        let tree = |node: Option<Node>| node.map(|node| self.git.read_tree(&node.id)).transpose();
        let trees = [tree(base)?, tree(ours)?, tree(theirs)?];
        let names: BTreeSet<&[u8]> = [&trees[0], &trees[2]]
            .into_iter()
            .flatten()
            .flat_map(|tree| tree.entries().map(|entry| entry.name))
            .collect();
        let find = |tree: &Option<Arc<Tree>>, name: &[u8]| Some(tree.as_ref()?.lookup(name)?.node());
        let sides = names.into_iter().map(|name| {
            let [base, ours, theirs] = [0, 1, 2].map(|side| find(&trees[side], name));
            (name, Sides { base, ours, theirs })
        });
        let differing: Vec<_> = sides
            .filter(|(_, sides)| sides.theirs != sides.base && sides.theirs != sides.ours)
            .map(|(name, sides)| (name.to_owned(), sides))
            .collect();
        drop(trees);
        let above = self.path.len();
        for (name, sides) in differing {
            if above > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(&name);
            self.node(sides, depth + 1)?;
            self.path.truncate(above);
        }
        Ok(())
    }

    /// A path that is a file on some side, and that they changed.
    fn file(&mut self, Sides { base, ours, theirs }: Sides, depth: usize) -> Result<(), GitError> {
        if ours != base {
            self.merged.conflicts.push(self.path.clone());
            return Ok(());
        }
        let is_directory = |node: Option<Node>| node.is_some_and(|node| node.mode == Mode::Directory);
        if ours.is_some() && (theirs.is_none() || is_directory(ours) || is_directory(theirs)) {
            self.merged.edit.remove(&self.path)?;
        }
        match theirs {
            None => Ok(()),
            Some(Node { mode: Mode::Directory, .. }) => {
                self.node(Sides { base: None, ours: None, theirs }, depth + 1)
            }
            Some(node) => self.merged.edit.set_node(&self.path, node),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use proptest::test_runner::{TestCaseError, TestRunner};

    use super::super::testing::{Fixture, who};
    use super::*;
    use crate::layers::LayerWriter;

    type Files = BTreeMap<String, u8>;

    fn id(number: u8) -> ObjectId {
        ObjectId::from_bytes([number; 20])
    }

    fn write(git: &Git, files: &Files) -> ObjectId {
        let mut edit = TreeEdit::new();
        for (path, number) in files {
            edit.set(path.as_bytes(), id(*number)).unwrap();
        }
        let mut layer = LayerWriter::create(&git.pack_dir()).unwrap();
        let tree = edit.write(git, None, &mut layer).unwrap();
        layer.finish().unwrap();
        tree
    }

    fn read(git: &Git, tree: &ObjectId) -> Files {
        let files = git.walk(tree, b"").unwrap().map(Result::unwrap);
        files.map(|(path, node)| (String::from_utf8(path).unwrap(), node.id.as_bytes()[0])).collect()
    }

    /// Merges trees, and compares with what is true of each path for itself.
    fn merges_by_path(git: &Git, [base, ours, theirs]: [&Files; 3]) -> Result<(), TestCaseError> {
        let [base_id, our_id, their_id] = [base, ours, theirs].map(|files| write(git, files));
        let merge = git.merge_trees(Some(&base_id), Some(&our_id), Some(&their_id)).unwrap();
        let mut layer = LayerWriter::create(&git.pack_dir()).unwrap();
        let merged = merge.edit.write(git, Some(&our_id), &mut layer).unwrap();
        layer.finish().unwrap();

        let mut expected = ours.clone();
        let mut conflicts = Vec::new();
        for path in base.keys().chain(theirs.keys()).collect::<BTreeSet<_>>() {
            let [base, ours, theirs] = [base.get(path), ours.get(path), theirs.get(path)];
            if theirs == base || theirs == ours {
                continue;
            }
            match (ours == base, theirs) {
                (false, _) => conflicts.push(path.clone().into_bytes()),
                (true, Some(theirs)) => drop(expected.insert(path.clone(), *theirs)),
                (true, None) => drop(expected.remove(path)),
            }
        }
        prop_assert_eq!(read(git, &merged), expected);
        prop_assert_eq!(merge.conflicts, conflicts);
        Ok(())
    }

    #[test]
    fn each_path_is_merged_for_itself() {
        let fixture = Fixture::new();
        let git = fixture.open();
        let files = || proptest::collection::btree_map("[a-c]d/[a-c]d/[a-c]", 0u8..3, 0..12);
        let mut runner = TestRunner::new(ProptestConfig::with_cases(16));
        runner
            .run(&(files(), files(), files()), |(base, ours, theirs)| {
                merges_by_path(&git, [&base, &ours, &theirs])
            })
            .unwrap();
    }

    #[test]
    fn a_file_that_became_a_directory_is_one_here_too() {
        let fixture = Fixture::new();
        let git = fixture.open();
        let files =
            |paths: &[(&str, u8)]| paths.iter().map(|&(path, number)| (path.to_owned(), number)).collect();
        let (file, directory): (Files, Files) =
            (files(&[("a", 1), ("b", 1)]), files(&[("a/x", 2), ("a/y/z", 3), ("b", 1)]));
        for (base, theirs) in [(&file, &directory), (&directory, &file)] {
            let [base_id, their_id] = [base, theirs].map(|files| write(&git, files));
            let merge = git.merge_trees(Some(&base_id), Some(&base_id), Some(&their_id)).unwrap();
            assert!(merge.conflicts.is_empty());
            let mut layer = LayerWriter::create(&git.pack_dir()).unwrap();
            let merged = merge.edit.write(&git, Some(&base_id), &mut layer).unwrap();
            layer.finish().unwrap();
            assert_eq!(&read(&git, &merged), theirs);
        }
    }

    #[test]
    fn reads_only_trees_that_differ() {
        let fixture = Fixture::new();
        let git = fixture.open();
        let mut files: Files = (0..50).map(|number| (format!("{}/{number}/file", number % 5), 1)).collect();
        let base = write(&git, &files);
        files.insert("3/13/other".to_owned(), 2);
        let theirs = write(&git, &files);
        let git = fixture.open();
        git.merge_trees(Some(&base), Some(&base), Some(&theirs)).unwrap();
        assert_eq!(git.trees_read(), 2 * 3);
    }

    #[test]
    fn clones_that_add_and_remove_converge() {
        let fixtures = [Fixture::new(), Fixture::new(), Fixture::new()];
        let hub = fixtures[0].path();
        let clones = [1, 2].map(|at: usize| {
            let git = fixtures[at].open();
            git.add_remote("hub", hub.to_str().unwrap()).unwrap();
            git
        });
        let [a, b] = &clones;
        assert!(!a.pull("hub", &who()).unwrap());
        a.push("hub", &who()).unwrap();
        fixtures[1].commit(a, &[("day/1", "1"), ("day/2", "2")]);
        a.push("hub", &who()).unwrap();
        assert!(b.pull("hub", &who()).unwrap());
        assert!(!b.pull("hub", &who()).unwrap());
        let mut edit = TreeEdit::new();
        edit.remove(b"day/1").unwrap();
        b.begin().unwrap().commit(&who(), "Remove", &edit).unwrap();
        fixtures[2].commit(b, &[("day/3", "3")]);
        fixtures[1].commit(a, &[("day/4", "4")]);
        b.push("hub", &who()).unwrap();
        a.push("hub", &who()).unwrap();
        assert!(b.pull("hub", &who()).unwrap());
        let trees = [a, b].map(|git| git.read_commit(&git.head().unwrap().unwrap()).unwrap().tree);
        assert_eq!(trees[0], trees[1]);
        assert_eq!(fixtures[0].run(&["ls-tree", "-r", "--name-only", "main"]), "day/2\nday/3\nday/4\n");
        fixtures[0].fsck();
        assert_eq!(a.remotes().unwrap()[0].url.reveal(), hub.to_str().unwrap());
        assert!(a.add_remote("hub", "x").is_err());
    }

    #[test]
    fn a_path_that_both_changed_is_a_conflict_and_nothing_moves() {
        let fixtures = [Fixture::new(), Fixture::new()];
        let (hub, git) = (fixtures[0].open(), fixtures[1].open());
        git.add_remote("hub", hub.path().to_str().unwrap()).unwrap();
        let theirs = fixtures[0].commit(&hub, &[("key", "theirs")]);
        let ours = fixtures[1].commit(&git, &[("key", "ours")]);
        for result in [git.pull("hub", &who()).map(drop), git.push("hub", &who())] {
            assert!(matches!(result, Err(GitError::Conflict(key)) if key == "key"));
        }
        assert_eq!((hub.head().unwrap(), git.head().unwrap()), (Some(theirs), Some(ours)));
    }

    #[test]
    fn files_keep_their_modes() {
        let (here, there) = (Fixture::new(), Fixture::new());
        let (ours, theirs) = (here.open(), there.open());
        here.commit(&ours, &[("script", "1"), ("link", "2"), ("tool", "3")]);
        ours.add_remote("hub", there.path().to_str().unwrap()).unwrap();
        ours.push("hub", &who()).unwrap();
        let mut transaction = theirs.begin().unwrap();
        let mut edit = TreeEdit::new();
        for (path, mode) in [
            ("script", Mode::Executable),
            ("link", Mode::Link),
            ("new", Mode::Executable),
            ("plain", Mode::File),
        ] {
            let id = transaction.blob(path.as_bytes()).unwrap();
            edit.set_node(path.as_bytes(), Node { mode, id }).unwrap();
        }
        transaction.commit(&who(), "Modes", &edit).unwrap().unwrap();
        here.commit(&ours, &[("other", "x")]);
        assert!(ours.pull("hub", &who()).unwrap());
        let modes = here.run(&["ls-tree", "--format=%(objectmode) %(path)", "main"]);
        assert_eq!(
            modes,
            "120000 link\n100755 new\n100644 other\n100644 plain\n100755 script\n100644 tool\n"
        );
        here.fsck();
    }
}
