//! Changes that become visible at once.

use crate::layers::{LayerInfo, LayerWriter, ObjectId, ObjectKind};

use super::commit::{Commit, Person};
use super::edit::TreeEdit;
use super::writers::Writing;
use super::{Git, GitError, pause};

/// How often a commit is made on what others left before it is given up. With pauses that grow to a quarter
/// of a second this is several seconds in which somebody else succeeded each time.
pub(super) const TRIES: u32 = 40;

/// Objects on their way into a repository. Dropped without a commit, it has changed nothing that anybody sees.
pub struct Transaction<'a> {
    git: &'a Git,
    /// Takes trees, the commit, and small blobs, once there are some.
    layer: Option<LayerWriter>,
    /// The layers that are durable already.
    layers: Vec<LayerInfo>,
    /// Whether a layer holds a commit that came too late. The next sweep sees what of it is needed.
    is_late: bool,
    writing: Writing,
}

/// What a commit made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The commit that the branch is at now.
    pub commit: ObjectId,
    /// Its tree.
    pub tree: ObjectId,
    /// Every layer that the transaction added.
    pub layers: Vec<LayerInfo>,
}

/// Where a commit goes when it is not simply the next one of the branch: a merge, or the new root that
/// pruning writes.
#[derive(Debug, Clone, Default)]
pub struct Onto {
    /// Where the branch must be.
    pub expected: Option<ObjectId>,
    /// The commits that the new one follows.
    pub parents: Vec<ObjectId>,
    /// The tree that the edit is made to; `None` for the empty one.
    pub base: Option<ObjectId>,
}

impl Git {
    /// Begins a transaction on the branch.
    pub fn begin(&self) -> Result<Transaction<'_>, GitError> {
        Ok(Transaction::new(self, Writing::begin(self)?))
    }
}

impl<'a> Transaction<'a> {
    pub(super) fn new(git: &'a Git, writing: Writing) -> Self {
        Self { git, layer: None, layers: Vec::new(), is_late: false, writing }
    }

    /// Writes a blob into the layer of the commit.
    pub fn blob(&mut self, bytes: &[u8]) -> Result<ObjectId, GitError> {
        Ok(open_layer(self.git, &mut self.layer)?.write(ObjectKind::Blob, bytes)?)
    }

    /// Writes an object that is in the repository already once more, into the layer of the commit.
    pub fn copy(&mut self, id: &ObjectId) -> Result<(), GitError> {
        let (kind, bytes) = self.git.read_any(id)?;
        self.layer()?.write(kind, &bytes)?;
        Ok(())
    }

    /// The layer of the commit, to write objects of any kind to.
    pub fn layer(&mut self) -> Result<&mut LayerWriter, GitError> {
        open_layer(self.git, &mut self.layer)
    }

    /// Begins a further layer, for objects that are better apart from the commit's. Give it back to
    /// [`finish_layer`](Self::finish_layer).
    pub fn new_layer(&self) -> Result<LayerWriter, GitError> {
        Ok(LayerWriter::create(&self.git.pack_dir())?)
    }

    /// Makes a further layer durable; it belongs to the transaction now.
    pub fn finish_layer(&mut self, layer: LayerWriter) -> Result<(), GitError> {
        self.layers.extend(self.writing.finish(layer)?);
        Ok(())
    }

    /// Commits `edit` on the branch, wherever it is by now. `None` when the edit changes nothing there: then
    /// nothing is kept.
    pub fn commit(self, who: &Person, message: &str, edit: &TreeEdit) -> Result<Option<Committed>, GitError> {
        self.commit_with(who, message, |_, _| Ok(edit.clone()))
    }

    /// As [`commit`](Self::commit), with an edit that depends on what is there.
    ///
    /// `edit` gets the tip of the branch and the layer to write blobs to. It is called again when the branch
    /// has moved meanwhile.
    pub fn commit_with<E: From<GitError>>(
        mut self,
        who: &Person,
        message: &str,
        mut edit: impl FnMut(Option<&ObjectId>, &mut LayerWriter) -> Result<TreeEdit, E>,
    ) -> Result<Option<Committed>, E> {
        for attempt in 1..=TRIES {
            let head = self.git.head()?;
            let Some(tree) = self.edited(head.as_ref(), &mut edit)? else {
                self.git.sync_branch()?;
                return Ok(None);
            };
            match self.publish(who, message, head, head.into_iter().collect(), tree) {
                Ok(committed) => return Ok(Some(committed)),
                Err(GitError::Moved { .. }) => {
                    self.is_late = true;
                    pause(attempt)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(GitError::Contended { reference: self.git.branch().to_owned(), tries: TRIES }.into())
    }

    /// Commits `edit` just there, or fails with [`GitError::Moved`].
    pub fn commit_onto(
        mut self,
        who: &Person,
        message: &str,
        onto: Onto,
        edit: &TreeEdit,
    ) -> Result<Committed, GitError> {
        let layer = open_layer(self.git, &mut self.layer)?;
        let tree = edit.write(self.git, onto.base.as_ref(), layer)?;
        self.publish(who, message, onto.expected, onto.parents, tree)
    }

    /// Writes the commit, makes all layers durable and moves the branch. After [`GitError::Moved`] it can be
    /// called again.
    fn publish(
        &mut self,
        who: &Person,
        message: &str,
        expected: Option<ObjectId>,
        parents: Vec<ObjectId>,
        tree: ObjectId,
    ) -> Result<Committed, GitError> {
        let commit = self.seal(who, message, parents, tree)?;
        self.git.advance(expected.as_ref(), &commit)?;
        if let Some(work_tree) = &self.git.work_tree {
            work_tree.log(self.git, expected.as_ref(), &commit, who, message);
        }
        Ok(self.done(commit, tree))
    }

    /// The tree that `edit` makes of the one of the commit `head`. `None` when it changes nothing.
    pub(super) fn edited<E: From<GitError>>(
        &mut self,
        head: Option<&ObjectId>,
        edit: &mut Edit<'_, E>,
    ) -> Result<Option<ObjectId>, E> {
        let base = head.map(|head| self.git.read_commit(head)).transpose()?.map(|commit| commit.tree);
        let layer = open_layer(self.git, &mut self.layer)?;
        let edit = edit(head, layer)?;
        let tree = edit.write(self.git, base.as_ref(), layer)?;
        let is_same = base == Some(tree) || (base.is_none() && edit.is_empty());
        Ok((!is_same).then_some(tree))
    }

    /// Writes a commit, which nothing names yet, and makes all layers durable.
    /// Makes a commit that is not for the branch: `base` with `edit`, after `parents`. It is kept only if `publish`,
    /// which is called when it is durable, makes a reference reach it.
    pub fn commit_aside<E: From<GitError>>(
        mut self,
        who: &Person,
        message: &str,
        onto: Onto,
        edit: &TreeEdit,
        publish: impl FnOnce(&ObjectId) -> Result<(), E>,
    ) -> Result<Committed, E> {
        let layer = open_layer(self.git, &mut self.layer)?;
        let tree = edit.write(self.git, onto.base.as_ref(), layer)?;
        let commit = self.seal(who, message, onto.parents, tree)?;
        publish(&commit)?;
        Ok(self.done(commit, tree))
    }

    /// Makes durable what was written, for `publish` to make references reach it.
    pub fn keep<E: From<GitError>>(mut self, publish: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        if let Some(layer) = self.layer.take() {
            self.finish_layer(layer)?;
        }
        publish()?;
        self.writing.done();
        Ok(())
    }

    pub(super) fn seal(
        &mut self,
        who: &Person,
        message: &str,
        parents: Vec<ObjectId>,
        tree: ObjectId,
    ) -> Result<ObjectId, GitError> {
        let message = message.as_bytes().to_owned();
        let commit = Commit { tree, parents, author: who.clone(), committer: who.clone(), message };
        let commit = open_layer(self.git, &mut self.layer)?.write(ObjectKind::Commit, &commit.encode())?;
        if let Some(layer) = self.layer.take() {
            self.finish_layer(layer)?;
        }
        Ok(commit)
    }

    /// To be called when a reference reaches `commit`.
    pub(super) fn done(&mut self, commit: ObjectId, tree: ObjectId) -> Committed {
        if !self.is_late {
            self.writing.done();
        }
        let layers = std::mem::take(&mut self.layers);
        layers.iter().for_each(|layer| self.git.leave_to_gc(&layer.name));
        Committed { commit, tree, layers }
    }
}

/// What makes an edit, given the tip of a branch and the layer to write blobs to.
pub(super) type Edit<'a, E> = dyn FnMut(Option<&ObjectId>, &mut LayerWriter) -> Result<TreeEdit, E> + 'a;

/// The layer in `layer`, begun when it is first needed.
fn open_layer<'a>(git: &Git, layer: &'a mut Option<LayerWriter>) -> Result<&'a mut LayerWriter, GitError> {
    match layer {
        Some(layer) => Ok(layer),
        None => Ok(layer.insert(LayerWriter::create(&git.pack_dir())?)),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::testing::{Fixture, sweep, who};
    use super::*;

    #[test]
    fn nothing_is_visible_before_the_commit_and_all_of_it_after() {
        let fixture = Fixture::new();
        let git = fixture.open();
        let mut transaction = git.begin().unwrap();
        let mut data = transaction.new_layer().unwrap();
        let large = data.write(ObjectKind::Blob, b"data").unwrap();
        transaction.finish_layer(data).unwrap();
        let small = transaction.blob(b"metadata").unwrap();
        let mut edit = TreeEdit::new();
        edit.add(b"data/one", large).unwrap();
        edit.add(b"metadata/one", small).unwrap();
        assert_eq!(git.head().unwrap(), None);
        let committed = transaction.commit(&who(), "One", &edit).unwrap().unwrap();
        assert_eq!(git.head().unwrap(), Some(committed.commit));
        assert_eq!(committed.layers.len(), 2);
        assert_eq!(committed.layers[0].objects, 1);
        assert_eq!(committed.layers[1].objects, 5, "a blob, three trees and a commit");
        assert_eq!(fixture.run(&["cat-file", "blob", "main:data/one"]), "data");
        assert_eq!(fixture.run(&["log", "--format=%an <%ae> %s"]), "Ann <ann@example.org> One\n");
        fixture.fsck();
    }

    #[test]
    fn a_dropped_transaction_leaves_nothing() {
        let fixture = Fixture::new();
        let git = fixture.open();
        let mut transaction = git.begin().unwrap();
        transaction.blob(b"gone").unwrap();
        drop(transaction);
        assert_eq!(fixture.files("objects/pack"), 0);
        assert_eq!(fixture.files("treering"), 1, "the lock file");
    }

    #[test]
    fn an_edit_that_changes_nothing_makes_no_commit() {
        let fixture = Fixture::new();
        let git = fixture.open();
        let first = fixture.commit(&git, &[("a", "1")]);
        let mut again = git.begin().unwrap();
        let mut edit = TreeEdit::new();
        edit.set(b"a", again.blob(b"1").unwrap()).unwrap();
        edit.remove(b"nothing/here").unwrap();
        assert_eq!(again.commit(&who(), "Again", &edit).unwrap(), None);
        assert_eq!(git.head().unwrap(), Some(first));
        assert_eq!(git.refresh().unwrap().layers().len(), 1);
    }

    #[test]
    fn writers_at_the_same_time_all_land() {
        let fixture = Fixture::new();
        let (writers, each) = (4, 5);
        thread::scope(|scope| {
            for writer in 0..writers {
                let fixture = &fixture;
                scope.spawn(move || {
                    let git = fixture.open();
                    for number in 0..each {
                        fixture.commit(&git, &[(&format!("{writer}/{number}"), "x")]);
                    }
                });
            }
        });
        let git = fixture.open();
        let head = git.head().unwrap().unwrap();
        assert_eq!(git.walk(&head, b"").unwrap().count(), writers * each);
        assert_eq!(fixture.run(&["rev-list", "--count", "main"]).trim(), (writers * each).to_string());
        fixture.fsck();
    }

    #[test]
    fn an_edit_is_made_again_on_what_another_left() {
        let fixture = Fixture::new();
        let (git, other) = (fixture.open(), fixture.open());
        let mut calls = 0;
        let transaction = git.begin().unwrap();
        let committed = transaction.commit_with(&who(), "Mine", |head, layer| {
            calls += 1;
            if calls == 1 {
                fixture.commit(&other, &[("count", "1")]);
            }
            let found = head.map(|head| git.find(head, b"count")).transpose()?.flatten();
            let count =
                found.map(|entry| git.read_blob(&entry.id)).transpose()?.map_or(0, |bytes| bytes[0] - b'0');
            let mut edit = TreeEdit::new();
            edit.set(b"count", layer.write(ObjectKind::Blob, &[count + 1 + b'0'])?)?;
            Ok::<_, GitError>(edit)
        });
        assert!(committed.unwrap().is_some());
        assert_eq!(calls, 2);
        assert_eq!(git.refresh().unwrap().layers().len(), 3);
        assert_eq!(sweep(&git).layers, 1, "what came too late is swept");
        assert_eq!(fixture.run(&["cat-file", "blob", "main:count"]), "2");
        assert_eq!(fixture.run(&["rev-list", "--count", "main"]).trim(), "2");
    }

    #[test]
    fn a_path_that_another_added_meanwhile_is_not_overwritten() {
        let fixture = Fixture::new();
        let (git, other) = (fixture.open(), fixture.open());
        let mut transaction = git.begin().unwrap();
        let mut edit = TreeEdit::new();
        edit.add(b"a/b", transaction.blob(b"mine").unwrap()).unwrap();
        fixture.commit(&other, &[("a/b", "theirs")]);
        let error = transaction.commit(&who(), "Mine", &edit).unwrap_err();
        assert!(matches!(&error, GitError::Exists(path) if path == "a/b"), "{error}");
        assert_eq!(fixture.run(&["cat-file", "blob", "main:a/b"]), "theirs");
    }

    #[test]
    fn a_commit_can_begin_a_new_history_or_join_two() {
        let fixture = Fixture::new();
        let git = fixture.open();
        let first = fixture.commit(&git, &[("a", "1"), ("b", "2")]);
        let mut edit = TreeEdit::new();
        edit.remove(b"a").unwrap();
        let base = Some(git.read_commit(&first).unwrap().tree);
        let onto = Onto { expected: Some(first), parents: Vec::new(), base };
        let root = git.begin().unwrap().commit_onto(&who(), "Prune", onto.clone(), &edit).unwrap();
        assert_eq!(fixture.run(&["ls-tree", "-r", "--name-only", "main"]), "b\n");
        assert_eq!(git.read_commit(&root.commit).unwrap().parents, []);
        let stale = git.begin().unwrap().commit_onto(&who(), "Late", onto, &edit);
        assert!(matches!(stale, Err(GitError::Moved { .. })));
        let onto = Onto { expected: Some(root.commit), parents: vec![root.commit, first], base };
        git.begin().unwrap().commit_onto(&who(), "Join", onto, &TreeEdit::new()).unwrap();
        assert_eq!(fixture.run(&["rev-list", "--count", "main"]).trim(), "3");
        fixture.fsck();
    }
}
