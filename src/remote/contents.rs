//! Which objects layers hold, wherever the layers are, and which of them a tree needs.
//!
//! Whether a layer is needed follows from the objects in it, and never from whether it is here: a layer that a
//! cold remote lists and that is not here was pruned or merged here, or was lost. Its index, loaded from the
//! remote, tells which of these it was.

use std::collections::HashSet;

use crate::gitkv::{GitError, Mode};
use crate::layers::{Layer, LayerSet, ObjectId};

use super::{RemoteError, Remotes};

/// A layer and the objects in it.
#[derive(Clone, Copy)]
pub(super) struct Contents<'a> {
    pub name: &'a str,
    ids: Ids<'a>,
    without: Option<&'a HashSet<ObjectId>>,
}

#[derive(Clone, Copy)]
enum Ids<'a> {
    /// The index is here.
    Here(&'a Layer),
    /// It was loaded from a remote.
    There(&'a [ObjectId]),
}

/// Where volumes lie in the tree, and what their names have.
const ARCHIVES: &[u8] = b"archives";
const VOLUME: &[u8] = b".tar";

fn is_volume(name: &[u8]) -> bool {
    name.windows(VOLUME.len()).any(|part| part == VOLUME)
}

/// Where in the tree of a commit something is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    Root,
    Archives,
    Elsewhere,
}

impl<'a> Contents<'a> {
    pub fn of(layers: &[&'a Layer]) -> Vec<Self> {
        layers.iter().map(|layer| Self::without(layer, None)).collect()
    }

    /// A layer that does not count for the objects `without`, even if it holds them.
    pub fn without(layer: &'a Layer, without: Option<&'a HashSet<ObjectId>>) -> Self {
        Self { name: layer.name(), ids: Ids::Here(layer), without }
    }

    pub fn there(name: &'a str, ids: &'a [ObjectId]) -> Self {
        Self { name, ids: Ids::There(ids), without: None }
    }

    pub fn ids(&self) -> Box<dyn Iterator<Item = ObjectId> + 'a> {
        let ids: Box<dyn Iterator<Item = ObjectId>> = match self.ids {
            Ids::Here(layer) => Box::new(layer.ids()),
            Ids::There(ids) => Box::new(ids.iter().copied()),
        };
        match self.without {
            Some(without) => Box::new(ids.filter(|id| !without.contains(id))),
            _ => ids,
        }
    }
}

impl Remotes {
    /// Those of `candidates` that hold anything which `commit` reaches, its history included, and which is in
    /// none of `others`. Of several that hold the same the first one counts.
    pub(super) fn needed<'a>(
        &self,
        commit: &ObjectId,
        candidates: &[Contents<'a>],
        others: &[Contents<'_>],
    ) -> Result<HashSet<&'a str>, RemoteError> {
        let mut only_there: HashSet<ObjectId> = candidates.iter().flat_map(Contents::ids).collect();
        for id in others.iter().flat_map(Contents::ids) {
            only_there.remove(&id);
        }
        if only_there.is_empty() {
            return Ok(HashSet::new());
        }
        // Mostly all of them are needed by the commit's own tree, and history need not be read.
        let mut of_tree = HashSet::from([*commit]);
        for file in self.git.walk(commit, b"")? {
            of_tree.insert(file?.1.id);
        }
        let has_own =
            |layer: &Contents<'_>| layer.ids().any(|id| only_there.contains(&id) && of_tree.contains(&id));
        if candidates.iter().all(has_own) {
            return Ok(candidates.iter().map(|layer| layer.name).collect());
        }
        let reached = self.git.reachable(vec![(*commit, Mode::Module)])?;
        let mut needed = HashSet::new();
        for layer in candidates {
            if layer.ids().filter(|id| only_there.remove(id) && reached.contains(id)).count() > 0 {
                needed.insert(layer.name);
            }
        }
        Ok(needed)
    }

    /// That everything which the tree of `commit` names, and `commit` itself, is in one of `listed`: a head of the
    /// cold remote `remote` that lists just these may be published.
    pub(super) fn expect_complete(
        &self,
        remote: &str,
        commit: &ObjectId,
        listed: &[Contents<'_>],
    ) -> Result<(), RemoteError> {
        let tree = self.git.read_commit(commit)?.tree;
        let mut missing = self.git.reachable(vec![(tree, Mode::Directory)])?;
        missing.insert(*commit);
        for id in listed.iter().flat_map(Contents::ids) {
            missing.remove(&id);
        }
        let Some(first) = missing.iter().next() else { return Ok(()) };
        let mut object = first.to_string();
        for file in self.git.walk(commit, b"")? {
            let (path, node) = file?;
            if missing.contains(&node.id) {
                object = String::from_utf8_lossy(&path).into_owned();
                break;
            }
        }
        Err(RemoteError::Incomplete { remote: remote.to_owned(), object })
    }

    /// What `tips`, commits or trees, reach and what is neither here nor in a layer of which a cold remote is known to have a
    /// copy; the tips included. What a missing tree or commit names cannot be told.
    pub(super) fn missing(
        &self,
        layers: &LayerSet,
        tips: impl IntoIterator<Item = (ObjectId, Mode)>,
    ) -> Result<HashSet<ObjectId>, RemoteError> {
        let holders = self.stores.holders()?;
        let mut loose: Option<HashSet<ObjectId>> = None;
        let mut is_there = |id: &ObjectId| -> Result<bool, GitError> {
            let found = layers.locate(id).map(|at| at.layer);
            if found.is_some_and(|layer| layer.pack_bytes().is_some() || holders.contains_key(layer.name())) {
                return Ok(true);
            }
            if loose.is_none() {
                loose = Some(self.git.loose_objects()?.into_iter().map(|(id, _)| id).collect());
            }
            Ok(loose.as_ref().is_some_and(|loose| loose.contains(id)))
        };
        let (mut missing, mut seen) = (HashSet::new(), HashSet::new());
        let mut to_do: Vec<_> = tips.into_iter().collect();
        while let Some((id, mode)) = to_do.pop() {
            if !seen.insert(id) {
                continue;
            }
            match (is_there(&id)?, mode) {
                (false, _) => drop(missing.insert(id)),
                (true, Mode::Module) => {
                    let commit = self.git.read_commit(&id)?;
                    to_do.push((commit.tree, Mode::Directory));
                    to_do.extend(commit.parents.into_iter().map(|parent| (parent, Mode::Module)));
                }
                (true, Mode::Directory) => {
                    let tree = self.git.read_tree(&id)?;
                    let below = tree.entries().filter(|entry| entry.mode != Mode::Module);
                    to_do.extend(below.map(|entry| (entry.id, entry.mode)));
                }
                (true, _) => {}
            }
        }
        Ok(missing)
    }

    /// What `tips` reach, their history included, but for volumes: all that describes. Of objects that `is_apart` tells
    /// what they name is left out, and so is what is missing.
    pub(super) fn describing(
        &self,
        tips: &[ObjectId],
        is_apart: impl Fn(&ObjectId) -> bool,
    ) -> Result<HashSet<ObjectId>, GitError> {
        let (mut found, mut seen) = (HashSet::new(), HashSet::new());
        let mut to_do: Vec<_> = tips.iter().map(|tip| (*tip, Mode::Module, Place::Elsewhere)).collect();
        while let Some((id, mode, place)) = to_do.pop() {
            if !seen.insert((id, place)) {
                continue;
            }
            found.insert(id);
            if is_apart(&id) {
                continue;
            }
            match mode {
                Mode::Module => match self.git.read_commit(&id) {
                    Ok(commit) => {
                        to_do.push((commit.tree, Mode::Directory, Place::Root));
                        let parents = commit.parents.into_iter();
                        to_do.extend(parents.map(|parent| (parent, Mode::Module, Place::Elsewhere)));
                    }
                    Err(GitError::Missing(_)) => drop(found.remove(&id)),
                    Err(error) => return Err(error),
                },
                Mode::Directory => match self.git.read_tree(&id) {
                    Ok(tree) => {
                        for entry in tree.entries().filter(|entry| entry.mode != Mode::Module) {
                            let place = match place {
                                Place::Root if entry.name == ARCHIVES => Place::Archives,
                                Place::Root => Place::Elsewhere,
                                below => below,
                            };
                            let is_volume = place == Place::Archives
                                && entry.mode != Mode::Directory
                                && is_volume(entry.name);
                            if !is_volume {
                                to_do.push((entry.id, entry.mode, place));
                            }
                        }
                    }
                    Err(GitError::Missing(_)) => drop(found.remove(&id)),
                    Err(error) => return Err(error),
                },
                _ => {}
            }
        }
        Ok(found)
    }

    /// The volumes in the tree of a commit.
    pub(super) fn volumes(&self, commit: &ObjectId) -> Result<HashSet<ObjectId>, GitError> {
        let mut volumes = HashSet::new();
        for file in self.git.walk(commit, ARCHIVES)? {
            let (path, node) = file?;
            if is_volume(&path) {
                volumes.insert(node.id);
            }
        }
        Ok(volumes)
    }
}
