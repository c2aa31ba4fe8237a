//! Pushing to a git remote that lets nobody remove anything: a hook refuses it, or it takes no history that begins
//! anew.
//!
//! Such a remote gets a commit that follows its own and has everything that is there, and what is new here. It counts as
//! seen, so that what it has and the branch has not is what was removed here: a later merge does not bring it back. The
//! message of the commit tells the next push what kind of remote it is, so that it sends additions first, and not
//! everything twice.
//!
//! Not done here: sending additions in steps. A push that is interrupted sends them again.

use crate::gitkv::{GitError, Mode, Onto, Person, PushedFrom, TreeEdit};
use crate::layers::ObjectId;
use crate::progress::Progress;

use super::error::{is_race, is_refused};
use super::merge::{Change, changes};
use super::{Remotes, seen};

/// How the message of a commit begins that only adds to what a remote has.
const ADDITIONS: &str = "Add to what stays in";

impl Remotes {
    /// Whether `commit`, which a remote is at, was made since the remote lets nobody remove anything.
    pub(super) fn is_guarded(&self, commit: &ObjectId) -> bool {
        self.git.read_commit(commit).is_ok_and(|commit| commit.message.starts_with(ADDITIONS.as_bytes()))
    }

    /// Whether a remote that is at `theirs` would lose or change anything if it came to `ours`, or has to begin anew.
    pub(super) fn removes(&self, theirs: &ObjectId, ours: &ObjectId) -> Result<bool, GitError> {
        let (their_tree, our_tree) = self.trees(theirs, ours)?;
        let changes = changes(&self.git, Some(&their_tree), Some(&our_tree))?;
        Ok(changes.values().any(|change| change.old.is_some()) || !self.git.descends(ours, theirs)?)
    }

    /// Pushes to a remote that is at `theirs` and lets nobody remove anything. Where it is afterwards, and was before.
    pub(super) fn push_guarded(
        &self,
        remote: &str,
        who: &Person,
        theirs: ObjectId,
        head: ObjectId,
        progress: &Progress,
    ) -> Result<(ObjectId, PushedFrom), GitError> {
        if let Some(there) = self.push_additions(remote, who, theirs, head, progress)? {
            return Ok(there);
        }
        // Only removals are left, which cost little to send. They may be allowed by now.
        match self.push_in_steps(remote, Some(theirs), head, progress) {
            Ok(from) => Ok((head, from)),
            Err(error) if is_refused(&error) && !is_race(&error) => Ok((theirs, PushedFrom::Commit(theirs))),
            Err(error) => Err(error),
        }
    }

    /// Pushes a commit that follows `theirs`, where the remote is, and has everything that is there and what `head` has
    /// beside that; `None` where that is nothing. It is no ancestor of this repository's branch, and the branch none of
    /// its: else who pulls would take it for what the branch becomes next, and what was removed here would be back.
    pub(super) fn push_additions(
        &self,
        remote: &str,
        who: &Person,
        theirs: ObjectId,
        head: ObjectId,
        progress: &Progress,
    ) -> Result<Option<(ObjectId, PushedFrom)>, GitError> {
        let known = self.known(remote)?;
        // What is there and was not merged is not known here.
        let Some(known) = known.filter(|known| known.commit == theirs) else { return Ok(None) };
        let (their_tree, our_tree) = self.trees(&theirs, &head)?;
        let mut edit = TreeEdit::new();
        let mut has_any = false;
        for (path, change) in changes(&self.git, Some(&their_tree), Some(&our_tree))? {
            if let Change { old: None, new: Some(node) } = change {
                progress.total_bytes.add(self.git.blob_size(&node.id)?);
                edit.set(&path, node.id)?;
                has_any = true;
            }
        }
        if !has_any {
            return Ok(None);
        }
        let seen_before = self.git.reference(&seen(remote))?;
        let onto = Onto { expected: None, parents: vec![theirs], base: Some(their_tree) };
        let mut from = PushedFrom::Unknown;
        let publish = |commit: &ObjectId| {
            from = self.git.push_commit_with(remote, commit, progress)?;
            if known.trace.is_none() {
                return self.git.compare_and_set(&seen(remote), seen_before.as_ref(), commit);
            }
            // Of what was pruned here, no reference may name a commit.
            let live = self.git.reachable(vec![(our_tree, Mode::Directory)])?;
            let mut transaction = self.git.begin()?;
            let trace = transaction.trace(&self.git, commit, &live, who)?;
            transaction.keep(|| self.git.set_trace(remote, &trace))?;
            self.git.remove_reference(&self.git.tracking(remote))
        };
        let message = format!("{ADDITIONS} {remote}\n");
        let made = self.git.begin()?.commit_aside(who, &message, onto, &edit, publish)?;
        Ok(Some((made.commit, from)))
    }

    fn trees(&self, theirs: &ObjectId, ours: &ObjectId) -> Result<(ObjectId, ObjectId), GitError> {
        Ok((self.git.read_commit(theirs)?.tree, self.git.read_commit(ours)?.tree))
    }
}
