//! Which layers are where, and bringing their data here or giving its disk back.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io;

use crate::digest::{Digest, Hasher};
use crate::gitkv::{GitError, Mode, groups_to_combine};
use crate::layers::{Layer, LayerError, LayerInfo, LayerSet, ObjectId, ObjectKind, remove_index};
use crate::store::Algorithm;

use super::head::{Copies, Held, LayerKind};
use super::stores::{Holders, LayerNames};
use super::{RemoteError, Remotes};

/// Where volumes lie in the tree, and what their names have.
const ARCHIVES: &[u8] = b"archives";
const VOLUME: &[u8] = b".tar";

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
                remotes: there.map_or_else(Vec::new, |there| {
                    there.remotes.iter().map(|(remote, _)| remote.clone()).collect()
                }),
            }
        };
        Ok(sorted.layers.layers().map(status).collect())
    }

    /// Brings the packs of layers here that are in cold remotes only: of those called `names`, or of all where
    /// there are none. One that is named and is here, but damaged, is brought again.
    pub fn fetch_layers(&self, names: &[String]) -> Result<Moved, RemoteError> {
        let _keep = self.git.keep_layers()?;
        let mut moved = Moved::default();
        let holders = self.stores.holders()?;
        for layer in self.chosen(names)? {
            let mut fetched = match layer.is_here {
                false => Err(RemoteError::NoSuchLayer(layer.name.clone())),
                true if names.is_empty() => continue,
                true => self.expect_sound(&layer.name),
            };
            if fetched.is_ok() {
                continue;
            }
            for (remote, held) in holders.get(&layer.name).map_or(&[][..], |there| &there.remotes) {
                fetched = self
                    .stores
                    .open(remote)
                    .and_then(|store| self.bring_layer(remote, &store, &layer.name, held, true));
                if fetched.is_ok() {
                    break;
                }
            }
            match fetched {
                Ok(()) => moved.layers.push(LayerStatus { is_here: true, ..layer }),
                Err(error) => moved.failures.push((layer.name, error)),
            }
        }
        self.git.refresh()?;
        Ok(moved)
    }

    /// Puts many small layers together, those of data and those of metadata each by themselves; waits until nobody
    /// writes. Layers whose packs are elsewhere stay as they are. A cold remote gets the new layers with the next
    /// push, and lists the old ones no more.
    pub fn merge_layers(&self) -> Result<Merged, RemoteError> {
        let alone = self.git.alone()?;
        let mut here = self.layers()?;
        here.retain(|layer| layer.is_here);
        let mut merged = Merged::default();
        for kind in [LayerKind::Data, LayerKind::Metadata] {
            let layers: Vec<_> = here.iter().filter(|layer| layer.kind == kind).collect();
            let sizes: Vec<_> = layers.iter().map(|layer| layer.pack_bytes).collect();
            for group in groups_to_combine(&sizes, MAX_MERGED) {
                let names: Vec<_> = group.iter().map(|&at| layers[at].name.clone()).collect();
                merged.removed += names.len() as u64;
                merged.made.extend(alone.combine(&names)?);
            }
        }
        Ok(merged)
    }

    /// Removes the packs of layers of data, of those called `names` or of all, that a cold remote has: it
    /// lists them still, and both files are read back from there and compared by their SHA-256 first. `remote` is the one to ask; else any
    /// that has it will do.
    pub fn evict_layers(&self, names: &[String], remote: Option<&str>) -> Result<Moved, RemoteError> {
        if let Some(remote) = remote {
            self.expect_cold(remote)?;
        }
        let _keep = self.git.keep_layers()?;
        let mut moved = Moved::default();
        let holders = self.stores.holders()?;
        // What was seen there may be going by now.
        let mut listed: BTreeMap<String, Copies> = BTreeMap::new();
        for layer in self.chosen(names)? {
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
            let mut proven = Err(RemoteError::NotHeld(layer.name.clone()));
            for (holder, held) in asked {
                if !listed.contains_key(holder) {
                    match self.listed_now(holder) {
                        Ok(now) => drop(listed.insert(holder.clone(), now)),
                        Err(error) => {
                            proven = Err(error);
                            continue;
                        }
                    }
                }
                let is_listed =
                    listed.get(holder).is_some_and(|now| now.contains(&(layer.name.clone(), *held)));
                if is_listed {
                    proven = self.prove(holder, &layer.name, held);
                }
                if proven.is_ok() {
                    break;
                }
            }
            match proven {
                Ok(()) => {
                    self.git.remove_pack(&layer.name)?;
                    moved.layers.push(LayerStatus { is_here: false, ..layer });
                }
                Err(error) => moved.failures.push((layer.name, error)),
            }
        }
        Ok(moved)
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
    fn prove(&self, remote: &str, layer: &str, held: &Held) -> Result<(), RemoteError> {
        self.expect_sound(layer)?;
        let store = self.stores.open(remote)?;
        let names = LayerNames::new(layer, held)?;
        for (name, extension) in [(&names.index, "idx"), (&names.pack, "pack")] {
            let path = self.git.pack_dir().join(format!("{layer}.{extension}"));
            let here = digest(&path).map_err(RemoteError::io("read", &path))?;
            let there = store.hash(name, Algorithm::Sha256).map_err(RemoteError::store(remote))?;
            if here.to_string() != there {
                let (remote, object) = (remote.to_owned(), name.to_string());
                return Err(RemoteError::Unreadable { remote, object, fault: "it is not what was pushed" });
            }
        }
        Ok(())
    }

    /// The layers that `names` mean, each a name or the beginning of its digits; all where there are none.
    fn chosen(&self, names: &[String]) -> Result<Vec<LayerStatus>, RemoteError> {
        let layers = self.layers()?;
        if names.is_empty() {
            return Ok(layers);
        }
        let choose = |wanted: &String| {
            let digits = wanted.strip_prefix("pack-").unwrap_or(wanted);
            let is_meant = |layer: &&LayerStatus| {
                !digits.is_empty()
                    && layer.name.strip_prefix("pack-").is_some_and(|id| id.starts_with(digits))
            };
            let mut meant = layers.iter().filter(is_meant);
            match (meant.next(), meant.next()) {
                (Some(layer), None) => Ok(layer.clone()),
                _ => Err(RemoteError::NoSuchLayer(wanted.clone())),
            }
        };
        names.iter().map(choose).collect()
    }

    /// Which layers are for what; after this, all that a metadata layer has to hold is in one.
    ///
    /// Layers that git made of a fetch hold volumes and what describes them together. They count as data, and
    /// what describes is written once more into a layer of its own. So are objects in files of their own.
    pub(super) fn settle(&self) -> Result<BTreeMap<String, LayerKind>, RemoteError> {
        let sorted = self.sort_layers()?;
        let loose = self.git.loose_objects()?.into_iter().map(|(id, _)| id);
        let loose = loose.filter(|id| !sorted.layers.contains(id));
        let mut missing: Vec<ObjectId> = sorted.buried.iter().copied().chain(loose).collect();
        missing.sort_unstable();
        let mut kinds = sorted.kinds;
        if let Some(layer) = self.git.copy_to_layer(&missing)? {
            kinds.insert(layer.name, LayerKind::Metadata);
        }
        self.git.refresh()?;
        Ok(kinds)
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
        let mut buried = HashSet::new();
        if !with_structure.is_empty() {
            let volumes = self.volumes()?;
            let (mixed, plain): (Vec<_>, Vec<_>) =
                with_structure.into_iter().partition(|layer| layer.ids().any(|id| volumes.contains(&id)));
            kinds.extend(plain.iter().map(|layer| (layer.name().to_owned(), LayerKind::Metadata)));
            for layer in mixed {
                buried.extend(layer.ids().filter(|id| !volumes.contains(id)));
                kinds.insert(layer.name().to_owned(), LayerKind::Data);
            }
            let is_metadata = |layer: &&Layer| kinds.get(layer.name()) == Some(&LayerKind::Metadata);
            for layer in layers.layers().filter(is_metadata) {
                for id in layer.ids() {
                    buried.remove(&id);
                }
            }
        }
        Ok(Sorted { layers, kinds, buried })
    }

    /// Those of `candidates` that hold anything which `commit` reaches, its history included, and which lies in
    /// none of `others`. Of several that hold the same the first one counts.
    pub(super) fn needed<'a>(
        &self,
        commit: &ObjectId,
        candidates: &[&'a Layer],
        others: &[&Layer],
    ) -> Result<HashSet<&'a str>, RemoteError> {
        let mut only_there: HashSet<ObjectId> = candidates.iter().flat_map(|layer| layer.ids()).collect();
        for id in others.iter().flat_map(|layer| layer.ids()) {
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
            |layer: &&&Layer| layer.ids().any(|id| only_there.contains(&id) && of_tree.contains(&id));
        if candidates.iter().all(|layer| has_own(&layer)) {
            return Ok(candidates.iter().map(|layer| layer.name()).collect());
        }
        let reached = self.git.reachable(vec![(*commit, Mode::Module)])?;
        let mut needed = HashSet::new();
        for layer in candidates {
            if layer.ids().filter(|id| only_there.remove(id) && reached.contains(id)).count() > 0 {
                needed.insert(layer.name());
            }
        }
        Ok(needed)
    }

    /// Forgets the indexes of layers that are neither here nor in a cold remote, unless the branch needs what
    /// they alone hold. Others removed such layers, and objects are to be looked for where they are.
    pub(super) fn forget_gone(&self) -> Result<(), RemoteError> {
        let layers = self.git.refresh()?;
        let holders = self.stores.holders()?;
        let is_gone = |layer: &&Layer| layer.pack_bytes().is_none() && !holders.contains_key(layer.name());
        let (gone, others): (Vec<_>, Vec<_>) = layers.layers().partition(is_gone);
        let Some(head) = self.git.head()?.filter(|_| !gone.is_empty()) else { return Ok(()) };
        let needed = self.needed(&head, &gone, &others)?;
        for layer in gone.iter().filter(|layer| !needed.contains(layer.name())) {
            remove_index(&self.git.pack_dir(), layer.name()).map_err(GitError::from)?;
        }
        self.git.refresh()?;
        Ok(())
    }

    /// The volumes of the branch.
    fn volumes(&self) -> Result<HashSet<ObjectId>, GitError> {
        let Some(head) = self.git.head()? else { return Ok(HashSet::new()) };
        let mut volumes = HashSet::new();
        for file in self.git.walk(&head, ARCHIVES)? {
            let (path, node) = file?;
            if path.windows(VOLUME.len()).any(|part| part == VOLUME) {
                volumes.insert(node.id);
            }
        }
        Ok(volumes)
    }
}

/// Layers by what they are for.
struct Sorted {
    layers: LayerSet,
    kinds: BTreeMap<String, LayerKind>,
    /// Objects that describe and lie among data only.
    buried: HashSet<ObjectId>,
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
