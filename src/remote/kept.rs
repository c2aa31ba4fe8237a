//! What others removed from a remote, and stays here.
//!
//! A pull or a push takes nothing away from this repository unless it was asked to: whoever can remove snapshots from a
//! remote could otherwise remove them from every clone. What others removed stays, and [is noted](crate::removals). The
//! remote is then compared with as if it still had what is noted, so nothing of that counts as new here, and none of it
//! is sent there again. A merge that keeps something follows this repository's commit alone, and the remote gets a
//! commit that follows its own: else whoever pulls from either would take what is kept for what comes next.
//!
//! One thing is sent again: where this repository has new snapshots, the data on which they may rest. And while
//! anything is kept, data that was pruned here is not removed there: the same data may be in volumes that are kept.
//!
//! What is kept of a cold remote's data can be read as long as it is here; what only the remote had is gone with it.

use std::collections::BTreeSet;

use crate::format::{self, kind};
use crate::gitkv::PRIVATE;
use crate::layers::ObjectId;
use crate::removals::{Removals, path_of};

use super::merge::{Change, Changes, Side};
use super::{RemoteError, Remotes};

/// How many snapshots that others removed from a remote stay here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeptHere {
    /// All of them.
    pub all: u64,
    /// Those of them that were still in the remote before.
    pub new: u64,
}

/// What is kept of what others removed from one remote.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// Whether what others removed is to be removed here.
    pub take: bool,
    /// The paths of what stays.
    pub paths: BTreeSet<String>,
}

impl Kept {
    /// Whether what is kept is to be removed now.
    pub fn is_to_go(&self) -> bool {
        self.take && !self.paths.is_empty()
    }
}

fn count_snapshots<'a>(paths: impl IntoIterator<Item = &'a String>) -> u64 {
    paths.into_iter().filter(|path| format::is_of(kind::SNAPSHOTS, path.as_bytes())).count() as u64
}

impl Remotes {
    /// These, whose pulls and pushes remove here what others removed in the remote, whatever was
    /// [set](Self::set_removals) for it.
    pub fn taking_removals(mut self) -> Self {
        self.take_removals = true;
        self
    }

    /// Sets whether pulls from a remote and pushes to it remove here what others removed there.
    pub fn set_removals(&self, remote: &str, take: bool) -> Result<(), RemoteError> {
        self.expect(remote)?;
        self.update(remote, |noted| noted.take = take)
    }

    /// Whether pulls from a remote and pushes to it remove here what others removed there.
    pub fn takes_removals(&self, remote: &str) -> Result<bool, RemoteError> {
        self.expect(remote)?;
        Ok(self.removals(remote)?.take)
    }

    pub(super) fn kept(&self, remote: &str) -> Result<Kept, RemoteError> {
        let Removals { take, kept } = self.removals(remote)?;
        // One that is append-only gives everything back.
        let paths = if self.is_append_only(remote)? { BTreeSet::new() } else { kept };
        Ok(Kept { take: take || self.take_removals, paths })
    }

    /// How many snapshots of a remote stay here, where it was `before`. What was removed here, too, is forgotten.
    pub(super) fn kept_since(&self, remote: &str, before: &Kept) -> Result<KeptHere, RemoteError> {
        let Some(head) = self.git.head()? else { return Ok(KeptHere::default()) };
        let kept = self.kept(remote)?.paths;
        let (mut paths, mut gone) = (BTreeSet::new(), BTreeSet::new());
        for path in self.removals(remote)?.kept {
            match kept.contains(&path) && self.git.find(&head, path.as_bytes())?.is_some() {
                true => paths.insert(path),
                false => gone.insert(path),
            };
        }
        let new = count_snapshots(paths.difference(&before.paths));
        self.note_kept(remote, &gone, &BTreeSet::new())?;
        Ok(KeptHere { all: count_snapshots(&paths), new })
    }

    /// Notes that `kept` is kept, and what else is in `before` is not any more.
    pub(super) fn note_kept(
        &self,
        remote: &str,
        before: &BTreeSet<String>,
        kept: &BTreeSet<String>,
    ) -> Result<(), RemoteError> {
        self.update(remote, |noted| {
            noted.kept.retain(|path| !before.contains(path));
            noted.kept.extend(kept.iter().cloned());
        })
    }

    /// Changes what is noted of a remote. Another exchange with it may do so at the same time.
    fn update(&self, remote: &str, change: impl FnOnce(&mut Removals)) -> Result<(), RemoteError> {
        self.git.in_turn(|| {
            let before = self.removals(remote)?;
            let mut noted = before.clone();
            change(&mut noted);
            match noted == before {
                true => Ok(()),
                false => self.store_removals(remote, &noted),
            }
        })?
    }

    /// Forgets what was noted of a remote.
    pub(super) fn forget_removals(&self, remote: &str) -> Result<(), RemoteError> {
        let private = self.git.path().join(PRIVATE);
        Removals::forget(&private, remote).map_err(RemoteError::io("remove", &path_of(&private, remote)))
    }

    fn removals(&self, remote: &str) -> Result<Removals, RemoteError> {
        let private = self.git.path().join(PRIVATE);
        Removals::load(&private, remote).map_err(RemoteError::io("read", &path_of(&private, remote)))
    }

    fn store_removals(&self, remote: &str, removals: &Removals) -> Result<(), RemoteError> {
        let private = self.git.private_dir()?;
        removals.store(&private, remote).map_err(RemoteError::io("write", &path_of(&private, remote)))
    }

    /// Puts what is kept into what both sides are compared with: neither has added it, and the remote has removed it.
    /// Where it is to go, that is a removal of theirs; else it is what still stays, which is returned.
    pub(super) fn compare_with_kept(
        &self,
        kept: &Kept,
        [our_tree, their_tree]: [&ObjectId; 2],
        [ours, theirs]: [&mut Changes; 2],
    ) -> Result<BTreeSet<String>, RemoteError> {
        let mut still_kept = BTreeSet::new();
        for path in &kept.paths {
            let key = path.as_bytes();
            // It was removed here, too, or it was noted before the remote was seen without it.
            if ours.get(key).is_none_or(|change| change.old.is_some()) {
                continue;
            }
            let node = self.git.find(our_tree, key)?;
            match self.git.find(their_tree, key)? {
                None if kept.take => drop(theirs.insert(key.to_vec(), Change { old: node, new: None })),
                None => drop(still_kept.insert(path.clone())),
                there if there == node => drop(theirs.remove(key)),
                // Somebody put something else there; that is for the merge to judge.
                _ => continue,
            }
            ours.remove(key);
        }
        Ok(still_kept)
    }
}

/// Takes out of what was done in a remote what is kept here: all removals, but of what is removed here too, and of data on
/// which new snapshots of this repository may rest. The merge leaves that data, and it is sent there again.
pub(super) fn keep_what_they_removed(ours: &Changes, theirs: &mut Changes) -> BTreeSet<String> {
    let our_side = Side::of(ours);
    let mut kept = BTreeSet::new();
    theirs.retain(|path, change| {
        let is_kept = change.new.is_none() && !ours.contains_key(path) && !our_side.keeps_data(path);
        match Removals::can_keep(path).filter(|_| is_kept) {
            Some(path) => !kept.insert(path.to_owned()),
            None => true,
        }
    });
    kept
}
