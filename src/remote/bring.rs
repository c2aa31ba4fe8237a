//! Bringing the layers of a cold remote here.
//!
//! A pull brings the layers that this repository has not seen, and those that it has seen and lost, where an object is
//! missing without them; [`contents`](super::contents) tells that from what layers hold. A layer counts as here when its
//! index is complete and, if it is to have one, its pack: a process that is killed leaves none that is cut off.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use tempfile::NamedTempFile;

use crate::gitkv::{GitError, Mode};
use crate::layers::{Layer, ObjectId, index_ids};
use crate::progress::Progress;
use crate::store::Store;

use super::head::{Copies, Head, Held, LayerKind};
use super::objects::{LayerNames, at_once, read_watched};
use super::{RemoteError, Remotes};

/// Layers under way at once; each has several requests under way itself.
pub(super) const LAYERS_AT_ONCE: usize = 3;

/// What is brought of the layers of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bring {
    Indexes,
    Everything,
}

/// The objects of layers whose indexes are not here, by the layers' names.
pub(super) type RemoteContents = BTreeMap<String, Vec<ObjectId>>;

impl Remotes {
    /// Brings the layers of a head that are not here and were not seen before; who has seen one and does not
    /// have it any more has pruned or merged it, unless something is missing without it: then it was lost. After
    /// pruning, what others added since may need any of them again.
    pub(super) fn bring(
        &self,
        remote: &str,
        store: &Store,
        head: &Head,
        bring: Bring,
        progress: &Progress,
    ) -> Result<(), RemoteError> {
        let known = self.known(remote)?;
        let has_pruned = known.is_some_and(|known| known.trace.is_some() && known.commit != head.commit);
        let seen = match self.stores.seen(remote)? {
            Some((_, seen)) if !has_pruned => seen.layers,
            _ => BTreeMap::new(),
        };
        let layers = self.git.refresh()?;
        let here: BTreeMap<&str, &Layer> = layers.layers().map(|layer| (layer.name(), layer)).collect();
        let is_wanted = |name: &str, held: &Held| match here.get(name) {
            None => !seen.contains_key(name),
            // What describes is never put away on purpose.
            Some(layer) => held.kind == LayerKind::Metadata && layer.pack_bytes().is_none(),
        };
        let wanted: Vec<_> = head.layers.iter().filter(|(name, held)| is_wanted(name, held)).collect();
        let bring_layer = |name: &str, held: &Held| {
            let is_whole = held.kind == LayerKind::Metadata || bring == Bring::Everything;
            self.bring_layer(remote, store, name, held, is_whole, progress)
        };
        at_once(LAYERS_AT_ONCE, &wanted, |(name, held)| bring_layer(name, held))?;
        // What was seen of the remote and pruned here since is not lost.
        let is_known = known.is_some_and(|known| known.commit == head.commit);
        let tips: Vec<_> = self.git.head()?.into_iter().chain((!is_known).then_some(head.commit)).collect();
        let listed: Copies = head.layers.iter().map(|(name, held)| (name.clone(), *held)).collect();
        self.bring_missing(remote, store, &listed, &tips, progress, bring_layer)?;
        self.bring_described(remote, store, &listed, &tips, progress)?;
        self.reclaim_packs()?;
        let is_cold = |layer: &Layer| layer.pack_bytes().is_none();
        match bring == Bring::Indexes && self.git.refresh()?.layers().any(is_cold) {
            true => Ok(self.git.promise()?),
            false => Ok(()),
        }
    }

    /// Brings a layer, with its `.pack` if `is_whole`.
    pub(super) fn bring_layer(
        &self,
        remote: &str,
        store: &Store,
        layer: &str,
        held: &Held,
        is_whole: bool,
        progress: &Progress,
    ) -> Result<(), RemoteError> {
        let (index, pack) = self.load_layer(remote, store, layer, held, is_whole, progress)?;
        self.git.add_layer(layer, &index, pack).map_err(RemoteError::damaged(remote, layer))
    }

    /// Loads the `.idx` of a layer, and its `.pack` if `is_whole`, where packs lie and under a temporary name.
    pub(super) fn load_layer(
        &self,
        remote: &str,
        store: &Store,
        layer: &str,
        held: &Held,
        is_whole: bool,
        progress: &Progress,
    ) -> Result<(Vec<u8>, Option<NamedTempFile>), RemoteError> {
        progress.check().map_err(GitError::from)?;
        let names = LayerNames::new(layer, held)?;
        let bytes = held.index_bytes + if is_whole { held.pack_bytes } else { 0 };
        progress.total_bytes.add(bytes);
        let index =
            store.load_within(&names.index, held.index_bytes).map_err(RemoteError::layer(remote, layer))?;
        progress.bytes.add(index.len() as u64);
        if !is_whole {
            return Ok((index, None));
        }
        let mut pack = self.git.temporary_pack()?;
        let path = pack.path().to_owned();
        read_watched(remote, store, layer, (&names.pack, held.pack_bytes), progress, |piece| {
            pack.write_all(piece).map_err(RemoteError::io("write to", &path))
        })?;
        Ok((index, Some(pack)))
    }

    /// Of `listed`, layers of a cold remote of which no usable index is here, those that hold what the
    /// commits `tips` reach and nothing here has: they were lost here, or pruned here and needed again by somebody
    /// else. Each is given to `bring`.
    pub(super) fn bring_missing(
        &self,
        remote: &str,
        store: &Store,
        listed: &Copies,
        tips: &[ObjectId],
        progress: &Progress,
        bring: impl Fn(&str, &Held) -> Result<(), RemoteError> + Sync,
    ) -> Result<(), RemoteError> {
        let mut known = RemoteContents::new();
        let mut brought = HashSet::new();
        loop {
            let layers = self.git.refresh()?;
            let here: HashSet<&str> = layers.layers().map(Layer::name).collect();
            let absent = listed.iter().filter(|(name, _)| !here.contains(name.as_str()));
            let absent: Vec<_> = absent.map(|(name, held)| (name, held)).collect();
            if absent.is_empty() {
                return Ok(());
            }
            let missing = self.missing(&layers, tips.iter().map(|&tip| (tip, Mode::Module)))?;
            if missing.is_empty() {
                return Ok(());
            }
            let unknown: Vec<_> =
                absent.iter().filter(|(name, _)| !known.contains_key(*name)).copied().collect();
            known.extend(self.remote_contents(remote, store, &unknown, progress)?);
            // What came and still is not here would not be here if it came once more.
            let has_missing = |(name, _): &&(&String, &Held)| {
                !brought.contains(*name)
                    && known.get(*name).is_some_and(|ids| ids.iter().any(|id| missing.contains(id)))
            };
            let wanted: Vec<_> = absent.iter().filter(has_missing).copied().collect();
            if wanted.is_empty() {
                return Ok(());
            }
            // What comes may name more.
            at_once(LAYERS_AT_ONCE, &wanted, |(name, held)| bring(name, held))?;
            brought.extend(wanted.into_iter().map(|(name, _)| name));
        }
    }

    /// Of `listed`, layers of a cold remote, brings the packs of those of data that hold what describes, and that
    /// nothing here holds. Git makes such packs, and they were published and evicted without a copy of that.
    pub(super) fn bring_described(
        &self,
        remote: &str,
        store: &Store,
        listed: &Copies,
        tips: &[ObjectId],
        progress: &Progress,
    ) -> Result<(), RemoteError> {
        loop {
            let layers = self.git.refresh()?;
            let (here, elsewhere): (Vec<_>, Vec<_>) =
                layers.layers().partition(|layer| layer.pack_bytes().is_some());
            let mut apart: HashSet<ObjectId> = elsewhere.iter().flat_map(|layer| layer.ids()).collect();
            for id in here.iter().flat_map(|layer| layer.ids()) {
                apart.remove(&id);
            }
            // Mostly there is nothing else, and history need not be read. Where a tree cannot be read, it is apart.
            for tip in tips {
                if apart.is_empty() {
                    return Ok(());
                }
                if let Ok(volumes) = self.volumes(tip) {
                    apart.retain(|id| !volumes.contains(id));
                }
            }
            if apart.is_empty() {
                return Ok(());
            }
            let mut described = self.describing(tips, |id| apart.contains(id))?;
            described.retain(|id| apart.contains(id));
            let wanted: HashSet<&str> = elsewhere
                .iter()
                .filter(|layer| layer.ids().any(|id| described.contains(&id)))
                .map(|layer| layer.name())
                .collect();
            let wanted: Vec<_> = listed.iter().filter(|(name, _)| wanted.contains(name.as_str())).collect();
            if wanted.is_empty() {
                return Ok(());
            }
            at_once(LAYERS_AT_ONCE, &wanted, |(name, held)| {
                self.bring_layer(remote, store, name, held, true, progress)
            })?;
        }
    }

    /// The objects of layers whose indexes are not here, as a cold remote has them. A layer whose index is gone or
    /// damaged there holds nothing that anybody could use.
    pub(super) fn remote_contents(
        &self,
        remote: &str,
        store: &Store,
        layers: &[(&String, &Held)],
        progress: &Progress,
    ) -> Result<RemoteContents, RemoteError> {
        let found = Mutex::new(RemoteContents::new());
        at_once(LAYERS_AT_ONCE, layers, |(name, held)| {
            progress.check().map_err(GitError::from)?;
            let ids = match store.load_within(&LayerNames::new(name, held)?.index, held.index_bytes) {
                Err(error) if error.is_not_found() => None,
                loaded => index_ids(name, &loaded.map_err(RemoteError::store(remote))?).ok(),
            };
            if ids.is_none() {
                tracing::warn!(remote, layer = %name, "the index of a layer cannot be used there");
            }
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            found.insert((*name).clone(), ids.unwrap_or_default());
            Ok(())
        })?;
        Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::gitkv::Git;
    use crate::layers::LayerWriter;
    use crate::remote::head::LayerKind;

    #[test]
    fn what_came_and_still_is_not_here_is_brought_once() {
        let dir = tempfile::tempdir().unwrap();
        let git = Git::init(&dir.path().join("repo"), &[]).unwrap();
        let remotes = Remotes::open(git.path(), 1).unwrap();
        remotes.add("cold", format!("file://{}", dir.path().join("store").display())).unwrap();
        let store = remotes.stores.create("cold").unwrap();
        let mut writer = LayerWriter::create(dir.path()).unwrap();
        let id = writer.write(crate::layers::ObjectKind::Blob, b"missing").unwrap();
        let name = writer.finish().unwrap().unwrap().name;
        let index = fs::read(dir.path().join(format!("{name}.idx"))).unwrap();
        let held = Held {
            kind: LayerKind::Data,
            pack_bytes: 1,
            index_bytes: index.len() as u64,
            objects: 1,
            tag: 1,
        };
        store.store(&LayerNames::new(&name, &held).unwrap().index, &index).unwrap();
        let brought = AtomicU32::new(0);
        let bring = |_: &str, _: &Held| {
            assert_eq!(brought.fetch_add(1, Ordering::Relaxed), 0);
            Ok(())
        };
        let listed = Copies::from([(name, held)]);
        remotes.bring_missing("cold", &store, &listed, &[id], &Progress::new(), bring).unwrap();
        assert_eq!(brought.into_inner(), 1);
    }
}
