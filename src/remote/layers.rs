//! Which layers are where, and bringing their data here or giving its disk back.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::digest::{Digest, Hasher};
use crate::gitkv::{GitError, groups_to_combine};
use crate::layers::{Layer, LayerError, LayerInfo, LayerSet, ObjectId, ObjectKind, remove_index};
use crate::progress::Progress;

use super::contents::Contents;
use super::head::{Copies, Held, LayerKind};
use super::objects::{LayerNames, read_watched};
use super::stores::Holders;
use super::{RemoteError, Remotes};

/// How often a layer is brought again whose temporary file somebody else removed.
const FETCH_TRIES: u32 = 3;

/// Bytes up to which layers are put together.
const MAX_MERGED: u64 = 512 << 20;

/// A layer, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerStatus {
    /// The name that its files share.
    pub name: String,
    /// What it is for.
    pub kind: LayerKind,
    /// Size of its `.pack` in bytes.
    pub pack_bytes: u64,
    /// Size of its `.idx` in bytes.
    pub index_bytes: u64,
    /// How many objects it holds.
    pub objects: u32,
    /// Whether its `.pack` is here.
    pub is_here: bool,
    /// The cold remotes that listed it when they were last seen.
    pub remotes: Vec<String>,
}

impl LayerStatus {
    /// The layer `name`, of which nothing is here and these have it.
    fn elsewhere(name: &str, there: &Holders) -> Self {
        let held = there.remotes.first().map(|(_, held)| *held);
        Self {
            name: name.to_owned(),
            kind: there.kind,
            pack_bytes: there.pack_bytes,
            index_bytes: held.map_or(0, |held| held.index_bytes),
            objects: held.map_or(0, |held| held.objects),
            is_here: false,
            remotes: there.names(),
        }
    }
}

/// What was done to some layers.
#[derive(Debug, Default)]
pub struct Moved {
    /// Those that were fetched or evicted.
    pub layers: Vec<LayerStatus>,
    /// Those that were to be and were not, and why.
    pub failures: Vec<(String, RemoteError)>,
}

/// What became of small layers.
#[derive(Debug, Default)]
pub struct Merged {
    /// How many were put together.
    pub removed: u64,
    /// What they became.
    pub made: Vec<LayerInfo>,
}

impl Remotes {
    /// The layers of the repository, in the order of their names.
    pub fn layers(&self) -> Result<Vec<LayerStatus>, RemoteError> {
        let sorted = self.sort_layers()?;
        let holders = self.stores.holders()?;
        let status = |layer: &Layer| {
            let there = holders.get(layer.name());
            LayerStatus {
                name: layer.name().to_owned(),
                kind: sorted.kinds.get(layer.name()).copied().unwrap_or(LayerKind::Data),
                pack_bytes: layer.pack_bytes().or(there.map(|there| there.pack_bytes)).unwrap_or_default(),
                index_bytes: layer.index_bytes(),
                objects: layer.objects(),
                is_here: layer.pack_bytes().is_some(),
                remotes: there.map_or_else(Vec::new, Holders::names),
            }
        };
        Ok(sorted.layers.layers().map(status).collect())
    }

    /// Brings the packs of layers here that are in cold remotes only: of those called `names`, or of all where
    /// there are none, also those that the branch needs and that were lost here with their indexes. One that is named
    /// and is here, but damaged, is brought again.
    pub fn fetch_layers(&self, names: &[String]) -> Result<Moved, RemoteError> {
        self.fetch_layers_with(names, &Progress::new())
    }

    /// As [`fetch_layers`](Self::fetch_layers), telling `progress` of the bytes that come, and stopping when that says
    /// so. What had come by then stays.
    ///
    /// Files of layers move while nobody else reads or writes, who would otherwise be waited for; nothing is locked
    /// while they come.
    pub fn fetch_layers_with(&self, names: &[String], progress: &Progress) -> Result<Moved, RemoteError> {
        // Who writes or reads now may go on for hours. That is to be known before anything is brought.
        drop(self.git.alone()?);
        let mut moved = Moved::default();
        let brought = if names.is_empty() { self.bring_lost(progress)? } else { BTreeSet::new() };
        let holders = self.stores.holders()?;
        let mut layers = self.layers()?;
        if !names.is_empty() {
            let here: BTreeSet<_> = layers.iter().map(|layer| layer.name.clone()).collect();
            let absent = holders.iter().filter(|(name, _)| !here.contains(*name));
            layers.extend(absent.map(|(name, there)| LayerStatus::elsewhere(name, there)));
        }
        for layer in chosen(layers, names)? {
            let there = holders.get(&layer.name).map_or(&[][..], |there| &there.remotes);
            match self.fetch_layer(&layer, there, !names.is_empty(), progress) {
                Ok(fetched) => {
                    if fetched || brought.contains(&layer.name) {
                        // What was here may have been cut off.
                        let pack_bytes =
                            holders.get(&layer.name).map_or(layer.pack_bytes, |there| there.pack_bytes);
                        moved.layers.push(LayerStatus { is_here: true, pack_bytes, ..layer });
                    }
                }
                Err(error) => {
                    progress.check().map_err(GitError::from)?;
                    moved.failures.push((layer.name, error));
                }
            }
        }
        self.git.refresh()?;
        Ok(moved)
    }

    /// Brings the pack of a layer, from whichever of `there` has it. Whether it was to be brought.
    fn fetch_layer(
        &self,
        layer: &LayerStatus,
        there: &[(String, Held)],
        is_named: bool,
        progress: &Progress,
    ) -> Result<bool, RemoteError> {
        progress.check().map_err(GitError::from)?;
        let name = &layer.name;
        if layer.is_here {
            let is_cut_short = self.is_cut_short(name)?;
            match (is_named || is_cut_short).then(|| self.expect_sound(name)) {
                None => return Ok(false),
                Some(Ok(())) => {
                    return Ok(is_cut_short && {
                        let _alone = self.git.alone()?;
                        self.git.reclaim_pack(name)?
                    });
                }
                Some(Err(error)) if there.is_empty() => return Err(error),
                Some(Err(_)) => {}
            }
        }
        let mut failed = RemoteError::HeldNowhere(name.clone());
        for (remote, held) in there {
            match self.fetch_from(remote, name, held, progress) {
                Ok(()) => return Ok(true),
                Err(error) => failed = error,
            }
            progress.check().map_err(GitError::from)?;
        }
        Err(failed)
    }

    fn fetch_from(
        &self,
        remote: &str,
        layer: &str,
        held: &Held,
        progress: &Progress,
    ) -> Result<(), RemoteError> {
        let store = self.stores.open(remote)?;
        for _ in 0..FETCH_TRIES {
            let keep = self.git.keep_layers()?;
            let (index, pack) = self.load_layer(remote, &store, layer, held, true, progress)?;
            drop(keep);
            let _alone = self.git.alone()?;
            // Who was alone between the two took it for the file of somebody who died.
            if pack.as_ref().is_some_and(|pack| pack.path().exists()) {
                return self.git.add_layer(layer, &index, pack).map_err(RemoteError::damaged(remote, layer));
            }
        }
        Err(RemoteError::Contended { remote: remote.to_owned(), tries: FETCH_TRIES })
    }

    /// Brings the indexes of layers that were lost here and that the branch needs, those of metadata with their packs.
    /// Their names.
    fn bring_lost(&self, progress: &Progress) -> Result<BTreeSet<String>, RemoteError> {
        let lost = Mutex::new(BTreeSet::new());
        let Some(head) = self.git.head()? else { return Ok(BTreeSet::new()) };
        for remote in self.stores.names()? {
            let Some((_, seen)) = self.stores.seen(&remote)? else { continue };
            let listed: Copies = seen.layers.into_iter().collect();
            let here = self.git.refresh()?;
            let is_here = |name: &str| here.layers().any(|layer| layer.name() == name);
            if listed.iter().all(|(name, _)| is_here(name)) {
                continue;
            }
            let store = self.stores.open(&remote)?;
            let _keep = self.git.keep_layers()?;
            self.bring_missing(&remote, &store, &listed, &[head], progress, |name, held| {
                self.bring_layer(&remote, &store, name, held, held.kind == LayerKind::Metadata, progress)?;
                lost.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
                Ok(())
            })?;
        }
        Ok(lost.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts many small layers together, those of data and those of metadata each by themselves; waits until nobody
    /// writes. Layers whose packs are elsewhere stay as they are. A cold remote gets the new layers with the next
    /// push, and lists the old ones no more.
    pub fn merge_layers(&self) -> Result<Merged, RemoteError> {
        self.merge_layers_with(&Progress::new())
    }

    /// As [`merge_layers`](Self::merge_layers), telling `progress` of the bytes that were copied, and stopping when that
    /// says so. What was put together by then stays so.
    pub fn merge_layers_with(&self, progress: &Progress) -> Result<Merged, RemoteError> {
        let alone = self.git.alone()?;
        let mut here = self.layers()?;
        here.retain(|layer| layer.is_here);
        let mut merged = Merged::default();
        for kind in [LayerKind::Data, LayerKind::Metadata] {
            let layers: Vec<_> = here.iter().filter(|layer| layer.kind == kind).collect();
            let sizes: Vec<_> = layers.iter().map(|layer| layer.pack_bytes).collect();
            for group in groups_to_combine(&sizes, MAX_MERGED) {
                let names: Vec<_> = group.iter().map(|&at| layers[at].name.clone()).collect();
                progress.total_bytes.add(group.iter().map(|&at| layers[at].pack_bytes).sum());
                merged.removed += names.len() as u64;
                merged.made.extend(alone.combine(&names, progress)?);
            }
        }
        Ok(merged)
    }

    /// Removes the packs of layers of data, of those called `names` or of all, that a cold remote has: it
    /// lists them still, and both files are read back from there and compared by their SHA-256 first. `remote` is the one to ask; else any
    /// that has it will do.
    pub fn evict_layers(&self, names: &[String], remote: Option<&str>) -> Result<Moved, RemoteError> {
        self.evict_layers_with(names, remote, &Progress::new())
    }

    /// As [`evict_layers`](Self::evict_layers), telling `progress` of the bytes that were compared, and stopping when
    /// that says so. What was removed by then stays removed.
    ///
    /// A pack is removed while nobody else reads or writes, who would otherwise be waited for; nothing is locked
    /// while it is compared.
    pub fn evict_layers_with(
        &self,
        names: &[String],
        remote: Option<&str>,
        progress: &Progress,
    ) -> Result<Moved, RemoteError> {
        if let Some(remote) = remote {
            self.expect_cold(remote)?;
        }
        // Who writes or reads now may go on for hours. That is to be known before anything is compared.
        drop(self.git.alone()?);
        let mut moved = Moved::default();
        let holders = self.stores.holders()?;
        let mixed = match self.git.head()? {
            Some(head) => {
                let _keep = self.git.keep_layers()?;
                self.settle(&head)?.mixed
            }
            None => HashSet::new(),
        };
        // What was seen there may be going by now.
        let mut listed: BTreeMap<String, Copies> = BTreeMap::new();
        for layer in chosen(self.layers()?, names)? {
            if layer.kind != LayerKind::Data {
                if !names.is_empty() {
                    let error = RemoteError::NotData(layer.name.clone());
                    moved.failures.push((layer.name, error));
                }
                continue;
            }
            if !layer.is_here {
                continue;
            }
            let there = holders.get(&layer.name).map_or(&[][..], |there| &there.remotes);
            let asked = there.iter().filter(|(holder, _)| remote.is_none_or(|remote| remote == holder));
            let evicted = self.evict_layer(&layer.name, asked, &mut listed, &mixed, progress);
            progress.check().map_err(GitError::from)?;
            match evicted {
                Ok(()) => moved.layers.push(LayerStatus { is_here: false, ..layer }),
                Err(error) => moved.failures.push((layer.name, error)),
            }
        }
        Ok(moved)
    }

    /// Removes the pack of a layer if one of `asked` lists it, as noted in `listed` by remote, and has it, and if what it
    /// holds of `mixed`, which nothing can be opened without, is in another layer here.
    fn evict_layer<'a>(
        &self,
        layer: &str,
        asked: impl Iterator<Item = &'a (String, Held)>,
        listed: &mut BTreeMap<String, Copies>,
        mixed: &HashSet<ObjectId>,
        progress: &Progress,
    ) -> Result<(), RemoteError> {
        let mut proven = Err(RemoteError::NotHeld(layer.to_owned()));
        for (holder, held) in asked {
            progress.check().map_err(GitError::from)?;
            if !listed.contains_key(holder) {
                match self.listed_now(holder) {
                    Ok(now) => drop(listed.insert(holder.clone(), now)),
                    Err(error) => {
                        proven = Err(error);
                        continue;
                    }
                }
            }
            if listed.get(holder).is_some_and(|now| now.contains(&(layer.to_owned(), *held))) {
                // Nobody moves what is compared.
                let _keep = self.git.keep_layers()?;
                proven = self.prove(holder, layer, held, progress);
            }
            if proven.is_ok() {
                break;
            }
        }
        proven?;
        let _alone = self.git.alone()?;
        let layers = self.git.refresh()?;
        let own = layers.layers().filter(|own| own.name() == layer).flat_map(Layer::ids);
        let mut described: HashSet<ObjectId> = own.filter(|id| mixed.contains(id)).collect();
        if !described.is_empty() {
            let others =
                layers.layers().filter(|other| other.pack_bytes().is_some() && other.name() != layer);
            for id in others.flat_map(Layer::ids) {
                described.remove(&id);
            }
        }
        match described.is_empty() {
            true => Ok(self.git.remove_pack(layer)?),
            false => Err(RemoteError::Describes(layer.to_owned())),
        }
    }

    /// Reads a pack that is here, and finds that it is what its index says.
    pub(super) fn expect_sound(&self, name: &str) -> Result<(), RemoteError> {
        let layers = self.git.layers();
        let layer = layers.layers().find(|layer| layer.name() == name);
        let layer = layer.ok_or_else(|| RemoteError::NoSuchLayer(name.to_owned()))?;
        layer.expect_sound().map_err(|error| match error {
            error @ LayerError::Pack { .. } => {
                RemoteError::DamagedHere { layer: name.to_owned(), source: error }
            }
            error => GitError::from(error).into(),
        })
    }

    /// Reads a layer back from a cold remote, and finds that it is the one that is here.
    fn prove(&self, remote: &str, layer: &str, held: &Held, progress: &Progress) -> Result<(), RemoteError> {
        self.expect_sound(layer)?;
        let store = self.stores.open(remote)?;
        let names = LayerNames::new(layer, held)?;
        let files = [
            (&names.index, held.index_bytes, self.index_path(layer)?),
            (&names.pack, held.pack_bytes, self.git.pack_dir().join(format!("{layer}.pack"))),
        ];
        progress.total_bytes.add(held.index_bytes + held.pack_bytes);
        for (name, bytes, path) in files {
            let here = digest(&path).map_err(RemoteError::io("read", &path))?;
            let mut there = Hasher::new();
            read_watched(remote, &store, layer, (name, bytes), progress, |piece| {
                there.update(piece);
                Ok(())
            })?;
            if here != there.finish() {
                let (remote, object) = (remote.to_owned(), name.to_string());
                return Err(RemoteError::Unreadable { remote, object, fault: "it is not what was pushed" });
            }
        }
        Ok(())
    }

    /// Where the `.idx` of a layer is.
    pub(super) fn index_path(&self, layer: &str) -> Result<PathBuf, RemoteError> {
        let layers = self.git.layers();
        let found = layers.layers().find(|found| found.name() == layer);
        found.map(Layer::index_path).ok_or_else(|| RemoteError::NoSuchLayer(layer.to_owned()))
    }

    /// Whether the pack of a layer is here and its index is apart from it: it is so where an evict was killed before it
    /// removed the pack, and where the index was lost and brought again.
    fn is_cut_short(&self, layer: &str) -> Result<bool, RemoteError> {
        Ok(self.index_path(layer)?.parent() != Some(&self.git.pack_dir()))
    }

    /// Puts indexes back beside their packs, where these are sound.
    pub(super) fn reclaim_packs(&self) -> Result<(), RemoteError> {
        for layer in self.git.refresh()?.layers().filter(|layer| layer.pack_bytes().is_some()) {
            if self.is_cut_short(layer.name())? && layer.expect_sound().is_ok() {
                self.git.reclaim_pack(layer.name())?;
            }
        }
        Ok(())
    }

    /// Which layers are for what; after this, all that describes what `commit` reaches is in layers of metadata.
    ///
    /// Layers that git made of a fetch hold volumes and what describes them together. They count as data, and
    /// what describes is written once more into a layer of its own. So are objects in files of their own. It may have
    /// to be so again: what was published is pruned and lost.
    pub(super) fn settle(&self, commit: &ObjectId) -> Result<Settled, RemoteError> {
        let Sorted { layers, mut kinds, volumes } = self.sort_layers()?;
        let is_data = |layer: &&Layer| kinds.get(layer.name()) != Some(&LayerKind::Metadata);
        let (data, metadata): (Vec<_>, Vec<_>) = layers.layers().partition(is_data);
        let mut mixed: HashSet<ObjectId> = data.iter().flat_map(|layer| layer.ids()).collect();
        if !mixed.is_empty() {
            let volumes = match volumes {
                Some((of, volumes)) if of == *commit => volumes,
                _ => self.volumes(commit)?,
            };
            mixed.retain(|id| !volumes.contains(id));
        }
        // Mostly nothing is left, and history need not be read.
        if !mixed.is_empty() {
            let described = self.describing(&[*commit], |_| false)?;
            mixed.retain(|id| described.contains(id));
        }
        let mut missing = mixed.clone();
        for id in metadata.iter().flat_map(|layer| layer.ids()) {
            missing.remove(&id);
        }
        let loose = self.git.loose_objects()?.into_iter().map(|(id, _)| id);
        missing.extend(loose.filter(|id| !layers.contains(id)));
        let mut missing: Vec<ObjectId> = missing.into_iter().collect();
        if !missing.is_empty() {
            // By which it is one of metadata from now on.
            missing.push(*commit);
        }
        missing.sort_unstable();
        missing.dedup();
        if let Some(layer) = self.git.copy_to_layer(&missing)? {
            kinds.insert(layer.name, LayerKind::Metadata);
        }
        self.git.refresh()?;
        Ok(Settled { kinds, mixed })
    }

    fn sort_layers(&self) -> Result<Sorted, RemoteError> {
        let layers = self.git.refresh()?;
        let holders = self.stores.holders()?;
        let mut kinds = BTreeMap::new();
        let mut with_structure = Vec::new();
        for layer in layers.layers() {
            let name = layer.name().to_owned();
            match holders.get(&name) {
                Some(Holders { kind, .. }) => drop(kinds.insert(name, *kind)),
                None if layer.pack_bytes().is_none() || !has_structure(&layers, layer) => {
                    kinds.insert(name, LayerKind::Data);
                }
                None => with_structure.push(layer),
            }
        }
        let mut volumes = None;
        if !with_structure.is_empty() {
            volumes = match self.git.head()? {
                Some(head) => Some((head, self.volumes(&head)?)),
                None => None,
            };
            let is_volume = |id| volumes.as_ref().is_some_and(|(_, volumes)| volumes.contains(&id));
            for layer in with_structure {
                let kind = match layer.ids().any(is_volume) {
                    true => LayerKind::Data,
                    false => LayerKind::Metadata,
                };
                kinds.insert(layer.name().to_owned(), kind);
            }
        }
        Ok(Sorted { layers, kinds, volumes })
    }

    /// Forgets the indexes of layers that are neither here nor in a cold remote, unless the branch needs what
    /// they alone hold. Others removed such layers, and objects are to be looked for where they are. It is left to a
    /// later pull or push while anybody reads or writes: another pull may have brought an index that no branch
    /// needs yet.
    pub(super) fn forget_gone(&self) -> Result<(), RemoteError> {
        let holders = self.stores.holders()?;
        let is_gone = |layer: &&Layer| layer.pack_bytes().is_none() && !holders.contains_key(layer.name());
        if !self.git.refresh()?.layers().any(|layer| is_gone(&layer)) {
            return Ok(());
        }
        let Some(_alone) = self.git.try_alone()? else { return Ok(()) };
        let layers = self.git.refresh()?;
        let (gone, others): (Vec<_>, Vec<_>) = layers.layers().partition(is_gone);
        let Some(head) = self.git.head()? else { return Ok(()) };
        let (gone, others) = (Contents::of(&gone), Contents::of(&others));
        let needed = self.needed(&head, &gone, &others)?;
        for layer in gone.iter().filter(|layer| !needed.contains(layer.name)) {
            remove_index(&self.git.pack_dir(), layer.name).map_err(GitError::from)?;
        }
        self.git.refresh()?;
        Ok(())
    }
}

/// Those of `layers` that `names` mean, each a name or the beginning of its digits; all where there are no names.
fn chosen(layers: Vec<LayerStatus>, names: &[String]) -> Result<Vec<LayerStatus>, RemoteError> {
    if names.is_empty() {
        return Ok(layers);
    }
    let choose = |wanted: &String| {
        let digits = wanted.strip_prefix("pack-").unwrap_or(wanted);
        let is_meant = |layer: &&LayerStatus| {
            !digits.is_empty() && layer.name.strip_prefix("pack-").is_some_and(|id| id.starts_with(digits))
        };
        let mut meant = layers.iter().filter(is_meant);
        match (meant.next(), meant.next()) {
            (Some(layer), None) => Ok(layer.clone()),
            _ => Err(RemoteError::NoSuchLayer(wanted.clone())),
        }
    };
    names.iter().map(choose).collect()
}

/// Layers by what they are for.
struct Sorted {
    layers: LayerSet,
    kinds: BTreeMap<String, LayerKind>,
    /// The volumes of a commit, where they had to be found.
    volumes: Option<(ObjectId, HashSet<ObjectId>)>,
}

/// Layers of which those of metadata hold all that describes.
pub(super) struct Settled {
    pub kinds: BTreeMap<String, LayerKind>,
    /// What describes and lies in layers of data too.
    pub mixed: HashSet<ObjectId>,
}

impl Settled {
    /// What layers count for. Of one of data others have only the index: it does not count for what describes.
    pub fn contents<'a>(&'a self, layers: &[&'a Layer]) -> Vec<Contents<'a>> {
        let is_metadata = |name: &str| self.kinds.get(name) == Some(&LayerKind::Metadata);
        let without = |layer: &Layer| (!is_metadata(layer.name())).then_some(&self.mixed);
        layers.iter().map(|&layer| Contents::without(layer, without(layer))).collect()
    }
}

/// Whether a layer holds anything but blobs. Layers of data do not.
fn has_structure(layers: &LayerSet, layer: &Layer) -> bool {
    // What git stored as a delta cannot be told; layers of data have none.
    layer.ids().any(|id| !matches!(layers.header(&id), Ok(Some((ObjectKind::Blob, _)))))
}

/// The SHA-256 of a file.
fn digest(path: &std::path::Path) -> io::Result<Digest> {
    use io::Read;
    let mut file = File::open(path)?;
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            len => hasher.update(&buffer[..len]),
        }
    }
}
