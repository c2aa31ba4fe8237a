//! Pushing what the remote is to have beside what it has, in a commit that follows its own.
//!
//! Two kinds of remotes get that. One lets nobody remove anything: a hook refuses it, or it takes no history that begins
//! anew. It gets what is new here; the message of the commit tells the next push what kind of remote it is, so that it
//! sends additions first, and not everything twice. From the other kind somebody removed what [is kept
//! here](super::kept), and is not to come back there. It gets all that was changed here but for that.
//!
//! The commit counts as seen. So what the remote has and the branch has not is what was removed here, and a later merge
//! does not bring it back.
//!
//! Not done here: sending in steps. A push that is interrupted sends everything again.

use std::collections::BTreeSet;

use crate::gitkv::{GitError, Mode, Onto, Person, PushedFrom, TreeEdit};
use crate::layers::ObjectId;
use crate::progress::Progress;

use super::error::{is_race, is_refused};
use super::merge::{Changes, changes, is_data};
use super::seen::{Known, seen};
use super::{RemoteError, Remotes};

/// How the message of a commit begins that only adds to what a remote has.
const ADDITIONS: &str = "Add to what stays in";

/// What a commit that follows a remote's own brings there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// What is new here.
    Additions,
    /// That, and what was removed or changed here.
    Changes,
}

impl Sent {
    /// The message of the commit.
    pub fn message(self, remote: &str) -> String {
        match self {
            Self::Additions => format!("{ADDITIONS} {remote}\n"),
            Self::Changes => format!("Update {remote}\n"),
        }
    }
}

/// A push to a remote.
pub(super) struct Push<'a> {
    pub remote: &'a str,
    pub who: &'a Person,
    /// What is pushed.
    pub head: ObjectId,
    /// What others removed there, and is kept here.
    pub kept: &'a BTreeSet<String>,
    /// Whether the remote is to have the branch still, if it was seen to have it.
    pub is_there: bool,
    pub progress: &'a Progress,
}

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
        push: &Push<'_>,
        theirs: ObjectId,
    ) -> Result<(ObjectId, PushedFrom), GitError> {
        if let Some(there) = self.push_aside(push, theirs, Sent::Additions)? {
            return Ok(there);
        }
        // Only removals are left, which cost little to send. They may be allowed by now.
        match self.push_all(push, Some(theirs)) {
            Err(error) if is_refused(&error) && !is_race(&error) => Ok((theirs, PushedFrom::Commit(theirs))),
            pushed => pushed,
        }
    }

    /// Pushes everything to a remote that is at `theirs`; where others removed something there that is kept here,
    /// everything else. Where it is afterwards, and was before.
    pub(super) fn push_all(
        &self,
        push: &Push<'_>,
        theirs: Option<ObjectId>,
    ) -> Result<(ObjectId, PushedFrom), GitError> {
        let &Push { head, kept, .. } = push;
        let Some(at) = theirs.filter(|_| !kept.is_empty()) else {
            return self.push_in_steps(push, theirs).map(|from| (head, from));
        };
        let pushed = self.push_aside(push, at, Sent::Changes)?;
        Ok(pushed.unwrap_or((at, PushedFrom::Commit(at))))
    }

    /// Pushes a commit that follows `theirs`, where the remote is, with what `head` has beside that; `None` where that is
    /// nothing. It is no ancestor of this repository's branch, and the branch none of its: else who pulls would take it
    /// for what the branch becomes next, and what was removed here would be back.
    pub(super) fn push_aside(
        &self,
        &Push { remote, who, head, kept, is_there, progress }: &Push<'_>,
        theirs: ObjectId,
        sent: Sent,
    ) -> Result<Option<(ObjectId, PushedFrom)>, GitError> {
        let known = self.known(remote)?;
        // What is there and was not merged is not known here.
        let Some(known) = known.filter(|known| known.commit == theirs) else { return Ok(None) };
        let changes = self.changes_aside(&theirs, &head, sent, kept)?;
        let Some(edit) = edit_of(&changes)? else { return Ok(None) };
        for node in changes.values().filter(|change| change.old.is_none()).filter_map(|change| change.new) {
            progress.total_bytes.add(self.git.blob_size(&node.id)?);
        }
        let seen_before = self.git.reference(&seen(remote))?;
        let their_tree = self.git.read_commit(&theirs)?.tree;
        let onto = Onto { expected: None, parents: vec![theirs], base: Some(their_tree) };
        let mut from = PushedFrom::Unknown;
        let publish = |commit: &ObjectId| {
            from = match is_there {
                true => self.git.push_onto(remote, &theirs, commit, progress)?,
                false => self.git.push_commit_with(remote, commit, progress)?,
            };
            self.see_aside(remote, who, known, seen_before, commit)
        };
        let made = self.git.begin()?.commit_aside(who, &sent.message(remote), onto, &edit, publish)?;
        Ok(Some((made.commit, from)))
    }

    /// The commit that a cold remote with the heads `commits`, which were merged, is to be at: `head`, or where others
    /// removed what is kept here, one that follows those heads.
    pub(super) fn commit_to_publish(
        &self,
        remote: &str,
        who: &Person,
        commits: &[ObjectId],
        head: ObjectId,
    ) -> Result<ObjectId, RemoteError> {
        let kept = self.kept(remote)?.paths;
        let Some(theirs) = commits.last().filter(|_| !kept.is_empty()) else { return Ok(head) };
        let sent = Sent::Changes;
        let edit = edit_of(&self.changes_aside(theirs, &head, sent, &kept)?)?;
        if edit.is_none() && commits.len() == 1 {
            return Ok(*theirs);
        }
        // What was pruned here is not to be kept there by a history.
        let has_pruned = self.known(remote)?.is_some_and(|known| known.trace.is_some());
        let parents = if has_pruned { Vec::new() } else { commits.to_vec() };
        let onto = Onto { expected: None, parents, base: Some(self.git.read_commit(theirs)?.tree) };
        // It need not be reached yet: nobody prunes before it is published and seen.
        let keep = |_: &ObjectId| Ok::<_, GitError>(());
        let edit = edit.unwrap_or_default();
        let made = self.git.begin()?.commit_aside(who, &sent.message(remote), onto, &edit, keep)?;
        Ok(made.commit)
    }

    /// What is to be done to what a remote has, `theirs`, so that it has what `head` has beside that. What is `kept` here
    /// stays removed there.
    fn changes_aside(
        &self,
        theirs: &ObjectId,
        head: &ObjectId,
        sent: Sent,
        kept: &BTreeSet<String>,
    ) -> Result<Changes, GitError> {
        let (their_tree, our_tree) = self.trees(theirs, head)?;
        let mut changes = changes(&self.git, Some(&their_tree), Some(&our_tree))?;
        changes.retain(|path, change| match (change.old, change.new) {
            (None, _) => !is_among(kept, path),
            (Some(_), Some(_)) => sent == Sent::Changes,
            // The same data may be in volumes that are kept here.
            (Some(_), None) => sent == Sent::Changes && !is_data(path),
        });
        Ok(changes)
    }

    /// Notes `commit` as what a remote is at, which is no commit of the branch. What was known of the remote, and the
    /// reference that said so, come from before it was sent.
    pub(super) fn see_aside(
        &self,
        remote: &str,
        who: &Person,
        known: Known,
        seen_before: Option<ObjectId>,
        commit: &ObjectId,
    ) -> Result<(), GitError> {
        if known.trace.is_none() {
            return self.git.compare_and_set(&seen(remote), seen_before.as_ref(), commit);
        }
        // Of what was pruned here, no reference may name a commit.
        let Some(head) = self.git.head()? else { return Ok(()) };
        let our_tree = self.git.read_commit(&head)?.tree;
        let live = self.git.reachable(vec![(our_tree, Mode::Directory)])?;
        let mut transaction = self.git.begin()?;
        let trace = transaction.trace(&self.git, commit, &live, who)?;
        transaction.keep(|| self.git.set_trace(remote, &trace))?;
        self.git.remove_reference(&self.git.tracking(remote))
    }

    fn trees(&self, theirs: &ObjectId, ours: &ObjectId) -> Result<(ObjectId, ObjectId), GitError> {
        Ok((self.git.read_commit(theirs)?.tree, self.git.read_commit(ours)?.tree))
    }
}

/// What makes these changes in a tree; `None` where there are none.
fn edit_of(changes: &Changes) -> Result<Option<TreeEdit>, GitError> {
    let mut edit = TreeEdit::new();
    for (path, change) in changes {
        match change.new {
            Some(node) => edit.set(path, node.id)?,
            None => edit.remove(path)?,
        }
    }
    Ok((!edit.is_empty()).then_some(edit))
}

fn is_among(kept: &BTreeSet<String>, path: &[u8]) -> bool {
    str::from_utf8(path).is_ok_and(|path| kept.contains(path))
}
