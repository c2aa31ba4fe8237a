//! What stays of a remote's commit when its history is dropped here.
//!
//! To merge with a remote, a repository must know which paths it saw there; to send it only what is new, git
//! must have the commit that the remote is at. A reference to that commit would keep everything alive that it
//! names. So pruning replaces `refs/treering/seen/<remote>` by a *trace*, `refs/treering/traces/<remote>`: a
//! commit without parents whose tree has the same paths, where those whose blobs are gone hold the empty
//! blob. Its message names the remote's commit, which stays with its trees and the commits before it, as objects
//! that no reference reaches. Git misses nothing in a repository with traces.

use std::collections::{HashMap, HashSet};

use crate::layers::{ObjectId, ObjectKind, object_id};

use super::commit::{Commit, Person};
use super::transaction::Transaction;
use super::tree::{MAX_DEPTH, Mode, TreeEntry, encode};
use super::{Git, GitError};

/// Where references to the commits lie that were last seen of remotes, each under the remote's name.
pub const SEEN: &str = "refs/treering/seen/";

/// Where traces lie.
const TRACES: &str = "refs/treering/traces/";

/// The trace of a commit of a remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    /// The commit that takes its place.
    pub id: ObjectId,
    /// The remote's commit, which is here with its trees, if at all.
    pub commit: ObjectId,
    /// Where the remote's history began.
    pub root: ObjectId,
}

impl Trace {
    /// The blob that stands where one is gone.
    pub fn gone() -> ObjectId {
        object_id(ObjectKind::Blob, b"")
    }

    fn message(commit: &ObjectId, root: &ObjectId) -> String {
        format!("Trace of what was seen\n\ncommit {commit}\nroot {root}\n")
    }

    fn parse(id: ObjectId, message: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(message).ok()?;
        let named = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.parse().ok());
        Some(Self { id, commit: named("commit ")?, root: named("root ")? })
    }
}

impl Git {
    /// The trace of what was seen of a remote, if its history was dropped since.
    pub fn trace(&self, remote: &str) -> Result<Option<Trace>, GitError> {
        let Some(id) = self.reference(&format!("{TRACES}{remote}"))? else { return Ok(None) };
        let message = self.read_commit(&id)?.message;
        let fault = GitError::Corrupt { id, kind: "commit", fault: "it is no trace of a remote" };
        Trace::parse(id, &message).map(Some).ok_or(fault)
    }

    /// For a bare repository that only git has written so far: the remote that `git clone` made it of, and the commit
    /// that it began at.
    ///
    /// `git clone` writes the branch into `packed-refs` and nowhere else. Whatever moves it later writes a file of its
    /// own. `git gc` packs it again, and leaves `info/refs` there.
    pub(super) fn origin_of_clone(&self) -> Result<Option<(String, ObjectId)>, GitError> {
        let is_loose = self.path().join(self.branch()).exists();
        if self.work_tree.is_some() || is_loose || self.path().join("info/refs").exists() {
            return Ok(None);
        }
        let Some(head) = self.head()? else { return Ok(None) };
        match self.remotes()?.as_slice() {
            [remote] => Ok(Some((remote.name.clone(), head))),
            _ => Ok(None),
        }
    }

    /// Notes that `commit` was the state of `remote`. A clone that was made with `--mirror` has what its origin had seen
    /// of others, which says nothing here.
    pub(super) fn remember_origin(&self, remote: &str, commit: &ObjectId) -> Result<(), GitError> {
        let name = format!("{SEEN}{remote}");
        match self.compare_and_set(&name, self.reference(&name)?.as_ref(), commit) {
            Err(GitError::Moved { .. }) => Ok(()),
            set => set,
        }
    }

    /// Forgets the trace of what was seen of a remote.
    pub fn remove_trace(&self, remote: &str) -> Result<(), GitError> {
        self.remove_reference(&format!("{TRACES}{remote}"))
    }

    /// Where the history of `commit` began, following first parents as far as they are here.
    pub fn root_of(&self, commit: &ObjectId) -> Result<ObjectId, GitError> {
        let mut at = *commit;
        let mut steps = HashSet::new();
        let mut commit = self.read_commit(commit)?;
        while let Some(parent) = commit.parents.first().copied() {
            if !steps.insert(at) {
                break;
            }
            commit = match self.read_commit(&parent) {
                // This is where a shallow clone ends.
                Err(GitError::Missing(_)) => break,
                commit => commit?,
            };
            at = parent;
        }
        Ok(at)
    }

    /// The remotes of which something was seen, and the references that say so: what was seen by name, what
    /// was fetched, and the traces.
    pub fn seen_of_remotes(&self) -> Result<RemoteReferences, GitError> {
        let mut found = RemoteReferences::default();
        for (name, id) in self.references()? {
            if let Some(remote) = name.strip_prefix(SEEN) {
                found.seen.push((remote.to_owned(), id));
            } else if let Some(remote) = name.strip_prefix(TRACES) {
                found.traces.push((remote.to_owned(), id));
            } else if name.starts_with("refs/remotes/") {
                found.fetched.push(name);
            } else {
                found.others.push((name, id));
            }
        }
        Ok(found)
    }

    /// A commit and all its trees: what git needs of a commit that a remote is at, to send it only what is new.
    pub fn commit_and_trees(&self, commit: &ObjectId) -> Result<HashSet<ObjectId>, GitError> {
        let mut found = HashSet::from([*commit]);
        let mut to_do = vec![self.read_commit(commit)?.tree];
        while let Some(tree) = to_do.pop() {
            if found.insert(tree) {
                let tree = self.read_tree(&tree)?;
                let below = tree.entries().filter(|entry| entry.mode == Mode::Directory);
                to_do.extend(below.map(|entry| entry.id));
            }
        }
        Ok(found)
    }

    /// The same of a commit that no reference reaches, and the commits before it, without which git refuses to
    /// push; nothing where it is not here any more.
    pub fn remains(&self, commit: &ObjectId) -> Result<HashSet<ObjectId>, GitError> {
        let mut found = match self.commit_and_trees(commit) {
            Err(GitError::Missing(_)) => return Ok(HashSet::new()),
            found => found?,
        };
        let mut to_do = self.read_commit(commit)?.parents;
        while let Some(id) = to_do.pop() {
            if found.contains(&id) {
                continue;
            }
            match self.read_commit(&id) {
                Ok(commit) => {
                    found.insert(id);
                    to_do.extend(commit.parents);
                }
                Err(GitError::Missing(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Lets the trace `trace` take the place of what was seen of `remote`. Killed half-way, both are there,
    /// and what was seen counts.
    pub fn set_trace(&self, remote: &str, trace: &ObjectId) -> Result<(), GitError> {
        let name = format!("{TRACES}{remote}");
        self.compare_and_set(&name, self.reference(&name)?.as_ref(), trace)?;
        self.remove_reference(&format!("{SEEN}{remote}"))
    }
}

/// References to commits of remotes, and all others.
#[derive(Debug, Default)]
pub struct RemoteReferences {
    /// By the remote's name: the commit that was last merged or pushed.
    pub seen: Vec<(String, ObjectId)>,
    /// By the remote's name: its trace.
    pub traces: Vec<(String, ObjectId)>,
    /// The full names of the references that follow branches of remotes.
    pub fetched: Vec<String>,
    /// All other references.
    pub others: Vec<(String, ObjectId)>,
}

impl Transaction<'_> {
    /// Writes the trace of `seen`, a commit or a trace, in which only paths with blobs of `live` have them.
    pub fn trace(
        &mut self,
        git: &Git,
        seen: &ObjectId,
        live: &HashSet<ObjectId>,
        who: &Person,
    ) -> Result<ObjectId, GitError> {
        let commit = git.read_commit(seen)?;
        let (of, root) = match Trace::parse(*seen, &commit.message) {
            Some(trace) if commit.parents.is_empty() => (trace.commit, trace.root),
            _ => (*seen, git.root_of(seen)?),
        };
        let gone = self.blob(b"")?;
        let mut made = HashMap::new();
        let tree = self.trace_tree(git, &commit.tree, &gone, live, &mut made, 0)?;
        let layer = self.layer()?;
        let message = Trace::message(&of, &root).into_bytes();
        let parents = Vec::new();
        let trace = Commit { tree, parents, author: who.clone(), committer: who.clone(), message };
        Ok(layer.write(ObjectKind::Commit, &trace.encode())?)
    }

    /// Writes a tree as it is in a trace. Each is `made` once, however many paths lead to it.
    fn trace_tree(
        &mut self,
        git: &Git,
        id: &ObjectId,
        gone: &ObjectId,
        live: &HashSet<ObjectId>,
        made: &mut HashMap<ObjectId, ObjectId>,
        depth: usize,
    ) -> Result<ObjectId, GitError> {
        if let Some(made) = made.get(id) {
            return Ok(*made);
        }
        if depth >= MAX_DEPTH {
            return Err(GitError::Corrupt { id: *id, kind: "tree", fault: "it is too deep" });
        }
        let tree = git.read_tree(id)?;
        let mut entries = Vec::new();
        let mut is_same = true;
        for entry in tree.entries() {
            let node = match entry.mode {
                Mode::Directory => {
                    let id = self.trace_tree(git, &entry.id, gone, live, made, depth + 1)?;
                    TreeEntry { id, ..entry }
                }
                Mode::Module => entry,
                _ if live.contains(&entry.id) => entry,
                _ => TreeEntry { id: *gone, mode: Mode::File, ..entry },
            };
            is_same &= node.id == entry.id;
            entries.push(node);
        }
        let traced = match is_same {
            true => *id,
            false => self.layer()?.write(ObjectKind::Tree, &encode(&entries))?,
        };
        made.insert(*id, traced);
        Ok(traced)
    }
}

#[cfg(test)]
mod tests {
    use super::super::edit::TreeEdit;
    use super::super::testing::{Fixture, who};
    use super::*;

    #[test]
    fn a_trace_has_the_paths_and_names_the_commit() {
        let fixture = Fixture::new();
        let git = fixture.open();
        let root = fixture.commit(&git, &[("a/1", "1"), ("b/2", "2")]);
        let seen = fixture.commit(&git, &[("c/3", "3")]);
        git.compare_and_set("refs/treering/seen/origin", None, &seen).unwrap();
        assert_eq!(git.trace("origin").unwrap(), None);
        let one = git.find(&seen, b"a/1").unwrap().unwrap().id;
        let live: HashSet<_> = [one].into();
        let write = |seen: &ObjectId| {
            let mut transaction = git.begin().unwrap();
            let trace = transaction.trace(&git, seen, &live, &who()).unwrap();
            let mut edit = TreeEdit::new();
            edit.set(seen.to_string().as_bytes(), transaction.blob(b"x").unwrap()).unwrap();
            transaction.commit(&who(), "Write", &edit).unwrap();
            trace
        };
        let id = write(&seen);
        git.set_trace("origin", &id).unwrap();
        assert_eq!(git.trace("origin").unwrap(), Some(Trace { id, commit: seen, root }));
        assert_eq!(git.reference("refs/treering/seen/origin").unwrap(), None);
        let node = |path: &str| git.find(&id, path.as_bytes()).unwrap().unwrap().id;
        assert_eq!((node("a/1"), node("b/2"), node("c/3")), (one, Trace::gone(), Trace::gone()));
        assert_eq!(write(&id), id, "the trace of a trace is of the same commit");
        assert_eq!(git.remains(&seen).unwrap().len(), 6, "a commit and four trees, and the commit before");
        git.remove_trace("origin").unwrap();
        assert_eq!(git.trace("origin").unwrap(), None);
        fixture.fsck();
    }
}
