//! All layers of a directory, and the table that finds an object in them.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Cold, Layer, LayerError, ObjectId, ObjectKind, place};

/// The layers of one pack directory as they were when it was opened, and where each object lies.
///
/// Clones share everything, and any number of threads may read at once. In memory an object takes 28 bytes
/// in its index and 6 to 8 in the table, a layer about 1.4 KiB beside. An object that several layers hold is
/// read from one whose `.pack` is here, if there is one; where that copy cannot be read, from the others.
#[derive(Clone)]
pub struct LayerSet(Arc<Layers>);

struct Layers {
    pack_dir: PathBuf,
    layers: Vec<Layer>,
    faults: Vec<LayerError>,
    table: Table,
    cold: Option<Arc<Cold>>,
}

/// Where an object lies.
#[derive(Debug, Clone, Copy)]
pub struct Location<'a> {
    /// The layer that holds it.
    pub layer: &'a Layer,
    /// Where its entry begins in the layer's `.pack`.
    pub offset: u64,
    position: usize,
}

impl LayerSet {
    /// Opens the layers whose `.idx` is in `pack_dir`. One that is damaged is passed over, so that what the other
    /// layers hold can be read, and is among the [`faults`](Self::faults): what only its pack holds seems not to
    /// be there. A `.pack` that is shorter than its index says is found when it is read.
    pub fn open(pack_dir: &Path) -> Result<Self, LayerError> {
        Self::load(pack_dir, &[], None)
    }

    /// The same layers; from now on those whose `.pack` is not here are read from `cold`.
    pub fn with_cold(&self, cold: Arc<Cold>) -> Result<Self, LayerError> {
        Self::load(&self.0.pack_dir, &self.0.layers, Some(cold))
    }

    /// The layers that are there now. What was loaded already is shared, not read again; the table is built
    /// anew.
    pub fn reopen(&self) -> Result<Self, LayerError> {
        Self::load(&self.0.pack_dir, &self.0.layers, self.0.cold.clone())
    }

    fn load(pack_dir: &Path, known: &[Layer], cold: Option<Arc<Cold>>) -> Result<Self, LayerError> {
        let known: HashMap<&str, &Layer> = known.iter().map(|layer| (layer.name(), layer)).collect();
        let names = names(pack_dir).map_err(LayerError::io("list", pack_dir))?;
        let (mut layers, mut faults) = (Vec::new(), Vec::new());
        for name in &names {
            match Layer::load(pack_dir, name, known.get(name.as_str()).copied(), cold.as_ref()) {
                Ok(layer) => layers.extend(layer),
                Err(fault @ LayerError::Index { .. }) => faults.push(fault),
                Err(error) => return Err(error),
            }
        }
        let table = Table::build(&layers).ok_or(LayerError::TooManyObjects)?;
        Ok(Self(Arc::new(Layers { pack_dir: pack_dir.to_owned(), layers, faults, table, cold })))
    }

    /// What indexes were passed over since they are damaged, and why.
    pub fn faults(&self) -> &[LayerError] {
        &self.0.faults
    }

    /// Whether some layer holds the object, be its `.pack` here or not.
    pub fn contains(&self, id: &ObjectId) -> bool {
        self.locations(id).next().is_some()
    }

    /// Where the object lies; `None` when no layer holds it.
    pub fn locate(&self, id: &ObjectId) -> Option<Location<'_>> {
        let mut locations = self.locations(id);
        let first = locations.next()?;
        match first.layer.pack_bytes() {
            Some(_) => Some(first),
            None => locations.find(|location| location.layer.pack_bytes().is_some()).or(Some(first)),
        }
    }

    /// Kind and size in bytes of an object; `None` when no layer holds it.
    pub fn header(&self, id: &ObjectId) -> Result<Option<(ObjectKind, u64)>, LayerError> {
        self.read_any(id, |at| at.layer.header(at.position))
    }

    /// Kind and content of an object, found to hash to `id`; `None` when no layer holds it.
    ///
    /// One that was really deflated may have 1 GiB at most.
    pub fn read(&self, id: &ObjectId) -> Result<Option<(ObjectKind, Vec<u8>)>, LayerError> {
        self.read_any(id, |at| at.layer.read(at.position))
    }

    /// At most `len` bytes from `offset` on of an object, fewer where it ends; `None` when no layer holds it.
    ///
    /// Nothing is checked but the pack's own structure. An object that was really deflated is read as a whole
    /// and cut, and may have 1 GiB at most.
    pub fn read_range(&self, id: &ObjectId, offset: u64, len: u64) -> Result<Option<Vec<u8>>, LayerError> {
        self.read_any(id, |at| at.layer.read_range(at.position, offset, len))
    }

    /// Reads the object from the first of its copies that can be read; the error is that of the first copy.
    fn read_any<T>(
        &self,
        id: &ObjectId,
        read: impl Fn(&Location<'_>) -> Result<T, LayerError>,
    ) -> Result<Option<T>, LayerError> {
        let Some(first) = self.locate(id) else { return Ok(None) };
        let fault = match read(&first) {
            Ok(found) => return Ok(Some(found)),
            Err(fault) => fault,
        };
        let mut others = self.locations(id).filter(|other| other.layer.name() != first.layer.name());
        others.find_map(|other| read(&other).ok()).map_or(Err(fault), |found| Ok(Some(found)))
    }

    /// The layers in the order of their names.
    pub fn layers(&self) -> impl ExactSizeIterator<Item = &Layer> {
        self.0.layers.iter()
    }

    /// What all packs that are here take on the disk.
    pub fn pack_disk(&self) -> u64 {
        self.layers().map(Layer::pack_disk).sum()
    }

    /// The bytes of all packs that are here.
    pub fn pack_bytes(&self) -> u64 {
        self.layers().filter_map(Layer::pack_bytes).sum()
    }

    fn locations(&self, id: &ObjectId) -> impl Iterator<Item = Location<'_>> {
        let Layers { layers, table, .. } = &*self.0;
        table.candidates(id.as_bytes()).filter_map(move |(layer, position)| {
            let layer = &layers[layer];
            let found = layer.index.ids()[position] == *id.as_bytes();
            found.then(|| Location { layer, offset: layer.index.offset(position), position })
        })
    }
}

impl fmt::Debug for LayerSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut set = f.debug_struct("LayerSet");
        set.field("pack_dir", &self.0.pack_dir).field("layers", &self.layers().len()).finish_non_exhaustive()
    }
}

/// The names of the layers in `pack_dir`, and of the cold ones beside it, in order.
fn names(pack_dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    let cold_dir = place::cold_dir(pack_dir);
    // Twice, since a layer may be moving from either to the other: it is in the second before it leaves the
    // first.
    for dir in [&cold_dir, pack_dir, &cold_dir] {
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && dir == cold_dir => continue,
            entries => entries?,
        };
        for entry in entries {
            let file_name = entry?.file_name();
            let name = file_name.to_str().and_then(|name| name.strip_suffix(".idx"));
            names.extend(name.filter(|name| name.starts_with("pack-")).map(str::to_owned));
        }
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// Every object of every layer, in buckets of one or two by the first bits of its id.
///
/// Ids are hashes, so buckets are even (forged ones would make look-up slow, not wrong), and a table is built
/// by counting, without sorting. An object is known by a number: its position in its layer, and the objects
/// of all layers before.
struct Table {
    shift: u32,
    /// For each bucket, where it begins in `objects`; at the end, where the last one ends.
    begins: Box<[u32]>,
    objects: Box<[u32]>,
    /// For each layer, the number of its first object.
    firsts: Box<[u32]>,
}

impl Table {
    /// `None` when there are too many objects to number.
    fn build(layers: &[Layer]) -> Option<Self> {
        let mut count = 0_u32;
        let mut firsts = Vec::with_capacity(layers.len());
        for layer in layers {
            firsts.push(count);
            count = count.checked_add(layer.objects())?;
        }
        let bits = count.checked_ilog2().unwrap_or(0);
        let shift = u32::BITS - bits;

        let mut begins = vec![0_u32; (1 << bits) + 1].into_boxed_slice();
        for id in layers.iter().flat_map(|layer| layer.index.ids()) {
            begins[bucket(id, shift)] += 1;
        }
        let mut end = 0;
        for begin in &mut begins {
            end += *begin;
            *begin = end;
        }
        // Each bucket's number is where it ends now. Filling from the last object to the first, it becomes
        // where it begins.
        let mut objects = vec![0; count as usize].into_boxed_slice();
        for (layer, &first) in layers.iter().zip(&firsts).rev() {
            for (position, id) in layer.index.ids().iter().enumerate().rev() {
                let begin = &mut begins[bucket(id, shift)];
                *begin -= 1;
                objects[*begin as usize] = first + position as u32;
            }
        }
        Some(Self { shift, begins, objects, firsts: firsts.into_boxed_slice() })
    }

    /// Layer and position of each object that may be the one of that id.
    fn candidates(&self, id: &[u8; 20]) -> impl Iterator<Item = (usize, usize)> {
        let bucket = bucket(id, self.shift);
        let objects = &self.objects[self.begins[bucket] as usize..self.begins[bucket + 1] as usize];
        objects.iter().map(|&object| {
            let layer = self.firsts.partition_point(|&first| first <= object) - 1;
            (layer, (object - self.firsts[layer]) as usize)
        })
    }
}

fn bucket(id: &[u8; 20], shift: u32) -> usize {
    let first = u32::from_be_bytes([id[0], id[1], id[2], id[3]]);
    (u64::from(first) >> shift) as usize
}
