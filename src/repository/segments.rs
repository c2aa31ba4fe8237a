//! Where segments are, and reading them back.
//!
//! The table is read from the indexes of all volumes when it is first needed. The indexes themselves are kept as
//! long as they fit a bound, about 70 bytes a segment.
//!
//! A segment that several volumes hold, as after a merge of clones, is read where its chain of deltas is
//! shortest; of equal ones first in one that this repository wrote, then in the newest. So each base has a shorter
//! chain than what hangs on it, and no chain leads back to its beginning, whichever clone made which delta. Only
//! where that volume is lost with its layer, or a base of the chain is, another place comes first. What is in no
//! other place is still looked for there, since of a layer that is cut off a part can be read; but nothing new may
//! rest on it. Nothing new rests either on what is only in volumes that others removed from a remote and that [are kept
//! here](crate::removals): the remote could not restore it.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex};

use crate::archive::{
    ArchiveError, DeltaLink, EntryKind, MemberCache, Payload, ReadAt, SignatureLocation, Stored, VolumeIndex,
    VolumeReader, gunzip,
};
use crate::causes::with_causes;
use crate::cbor;
use crate::delta::{BlockSignature, SignaturePatch, patch};
use crate::diff::{SegmentRef, SegmentSource};
use crate::digest::Digest;
use crate::format::{INDEX_SUFFIX, SIGNATURES_SUFFIX, kind};
use crate::layers::{Layer, LayerError};
use crate::pipeline::{self, lock};
use crate::repository::blobs::Blob;
use crate::repository::budget::Budget;
use crate::repository::chain::{ChainPlan, MAX_DEPTH, Step};
use crate::repository::own::Own;
use crate::repository::table::{Located, Place, Table};
use crate::repository::{Repository, RepositoryError};
use crate::timeline::TimelineError;
use serde::{Deserialize, Serialize};

/// Bytes of inflated members that are kept.
const MEMBER_CACHE: usize = 64 << 20;
/// Bytes of volume indexes that are kept.
const INDEX_CACHE: usize = 32 << 20;
/// Places that are tried at most to read one segment that is damaged in the first.
const MAX_ATTEMPTS: u32 = 1000;
/// Bytes of bases that are held at one time for that.
const MAX_HELD: usize = 256 << 20;
/// No index of a volume has more bytes: a volume of a million files has fewer.
const MAX_INDEX: u64 = 64 << 20;
/// About what each byte of an index takes in memory: in the table, and while it is decoded.
const INDEX_EXPANSION: u64 = 4;
/// No signature of one segment is larger before compression.
const MAX_SIGNATURE: usize = 16 << 20;

/// So many segments are few.
const MAX_FEW: usize = 1024;

/// What reading a segment anywhere may still take.
struct Attempts {
    left: u32,
    held: usize,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { left: MAX_ATTEMPTS, held: 0 }
    }
}

/// Where all segments of a repository are.
pub(super) struct Segments {
    volumes: Vec<Volume>,
    faults: Vec<RepositoryError>,
    unread: u64,
    /// The numbers of the volumes whose indexes were not read.
    unusable: HashSet<u32>,
    table: Table,
    /// Those that are only in volumes that are lost or kept, or hang on such.
    unreliable: HashSet<Digest>,
    /// Volumes that are kept here and that others removed from a remote.
    kept: HashSet<u32>,
    /// What this repository has written itself, and those that others claim to hold and that were read and found sound.
    own: Own,
    verified: Mutex<HashSet<Digest>>,
    /// Places, as volume and entry, that do not hold what their index says. Each is tried once, however much hangs on it.
    damaged: Mutex<HashSet<(u32, u32)>>,
    indexes: Mutex<IndexCache>,
    members: MemberCache,
    /// Held by the one thread that reads what takes much memory.
    large: Mutex<()>,
}

/// The blobs of one volume.
#[derive(Debug, Clone)]
pub(super) struct Volume {
    pub archive: Blob,
    index: Blob,
}

#[derive(Default)]
struct IndexCache {
    indexes: HashMap<u32, Arc<VolumeIndex>>,
    bytes: usize,
}

/// The signature of a segment as it is kept beside its volume.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum SignatureRecord {
    /// By itself.
    Full(BlockSignature),
    /// Written against the signatures of the segments that the segment is a delta of.
    Patch(SignaturePatch),
}

/// What chain a delta of some segments would continue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Chain {
    pub depth: u8,
    pub bytes: u32,
}

/// A blob as something that gives ranges.
struct BlobReader<'a> {
    repository: &'a Repository,
    blob: &'a Blob,
}

impl ReadAt for BlobReader<'_> {
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let read = self.repository.read_blob_range(self.blob, offset, len as u64);
        let bytes = read.map_err(io::Error::other)?;
        if bytes.len() == len { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

impl Repository {
    /// Where the segments are, as of the newest commit.
    pub(super) fn segments(&self) -> Result<Arc<Segments>, RepositoryError> {
        let mut loaded = lock(&self.segments);
        let head = self.timeline.git().head().map_err(TimelineError::from)?;
        match &*loaded {
            Some((at, segments)) if *at == head => Ok(segments.clone()),
            _ => {
                let segments = Arc::new(Segments::load(self, None)?.0);
                *loaded = Some((head, segments.clone()));
                Ok(segments)
            }
        }
    }

    /// Where these segments are, and those that they hang on, as of the newest commit. Takes less memory than where all
    /// are, and where those are not known yet, less time.
    pub(super) fn segments_of(
        &self,
        digests: impl Iterator<Item = Digest>,
    ) -> Result<Arc<Segments>, RepositoryError> {
        let mut wanted: HashSet<Digest> = digests.take(MAX_FEW + 1).collect();
        if wanted.len() > MAX_FEW || lock(&self.segments).is_some() {
            return self.segments();
        }
        loop {
            let (segments, bases) = Segments::load(self, Some(&wanted))?;
            let before = wanted.len();
            wanted.extend(bases);
            if wanted.len() == before {
                return Ok(Arc::new(segments));
            }
        }
    }

    /// The volumes that the tree holds, in order of time, and what is wrong where an archive or an index
    /// stands alone.
    pub(super) fn volumes(&self) -> Result<(Vec<Volume>, Vec<RepositoryError>), RepositoryError> {
        let mut indexes = Vec::new();
        let mut archives = HashMap::new();
        for found in self.blobs_of(kind::ARCHIVES)? {
            let blob = Blob::listed(kind::ARCHIVES, &found);
            match blob.path.strip_suffix(&self.suffix(INDEX_SUFFIX)) {
                Some(stem) => indexes.push((stem.to_owned(), blob)),
                None => drop(archives.insert(stem(&blob.path).to_owned(), blob)),
            }
        }
        let mut faults = Vec::new();
        let mut volumes = Vec::new();
        for (stem, index) in indexes {
            match archives.remove(&stem) {
                Some(archive) => volumes.push(Volume { archive, index }),
                None => faults.push(RepositoryError::damaged(&stem)("its archive is not there".into())),
            }
        }
        let alone = archives.into_values().map(|archive| archive.path);
        faults.extend(alone.map(|path| RepositoryError::damaged(&path)("its index is not there".into())));
        Ok((volumes, faults))
    }

    /// What volumes are lost, and why: parts of them, or the layers in which they lie, are missing or cut off.
    pub(super) fn lost_volumes(&self) -> Result<Vec<RepositoryError>, RepositoryError> {
        let (volumes, mut faults) = self.volumes()?;
        faults.extend(self.lost(&volumes)?.into_iter().map(|(_, error)| error));
        Ok(faults)
    }

    /// The numbers of the volumes that are lost, and why.
    fn lost(&self, volumes: &[Volume]) -> Result<Vec<(u32, RepositoryError)>, RepositoryError> {
        let layers = self.timeline.git().refresh().map_err(TimelineError::from)?;
        let is_lost = |layer: &Layer| {
            let whole = layer.expect_whole();
            whole.err().filter(|error| matches!(error, LayerError::Missing { .. } | LayerError::Pack { .. }))
        };
        // Many volumes lie in one layer.
        let mut whole = HashSet::new();
        let mut lost = Vec::new();
        for (number, volume) in (0..).zip(volumes) {
            let Some(location) = layers.locate(&volume.archive.id) else {
                lost.extend(self.blob_len(&volume.archive).err().map(|error| (number, error)));
                continue;
            };
            if whole.contains(location.layer.name()) {
                continue;
            }
            match is_lost(location.layer) {
                Some(error) => {
                    lost.push((number, RepositoryError::damaged(&volume.archive.path)(error.into())));
                }
                None => drop(whole.insert(location.layer.name())),
            }
        }
        Ok(lost)
    }

    /// Where the signatures of the segments of a volume lie: at the same time and number, in another kind.
    pub(super) fn signatures_path(&self, volume: &Volume) -> String {
        let stem = stem(&volume.archive.path);
        let below = stem.strip_prefix(kind::ARCHIVES).unwrap_or(stem);
        format!("{}{below}{}", kind::SIGNATURES, self.suffix(SIGNATURES_SUFFIX))
    }

    /// The index of a volume.
    pub(super) fn read_index(&self, volume: &Volume) -> Result<VolumeIndex, RepositoryError> {
        let decoded = VolumeIndex::decode(&self.read_blob_within(&volume.index, MAX_INDEX)?);
        decoded.map_err(|error| RepositoryError::damaged(&volume.archive.path)(error.into()))
    }
}

impl Segments {
    /// Of all segments, or of those that are wanted, with the bases of these.
    fn load(
        repository: &Repository,
        wanted: Option<&HashSet<Digest>>,
    ) -> Result<(Self, Vec<Digest>), RepositoryError> {
        let (volumes, mut faults) = repository.volumes()?;
        let own = repository.own()?;
        let lost: HashSet<u32> = repository.lost(&volumes)?.into_iter().map(|(number, _)| number).collect();
        let removed = repository.removed_elsewhere()?;
        let is_removed = |volume: &Volume| {
            [&volume.archive, &volume.index].iter().any(|blob| removed.contains(&blob.path))
        };
        let kept: HashSet<u32> =
            (0..).zip(&volumes).filter(|(_, volume)| is_removed(volume)).map(|(number, _)| number).collect();
        let follow = !lost.is_empty() || !kept.is_empty() || !faults.is_empty();
        let mut rows = Vec::new();
        let mut bases_of = HashMap::new();
        let (mut unread, mut unusable) = (0, HashSet::new());
        let budget = Mutex::new(Budget::of(repository)?);
        let read = |volume: &Volume| {
            let len = repository.stored_len(&volume.index)?;
            let taken = lock(&budget).take(INDEX_EXPANSION * len);
            taken.map_err(|error| RepositoryError::damaged(&volume.archive.path)(error.into()))?;
            repository.read_index(volume)
        };
        // Of a few segments there is little to be done while the next index is read.
        let (threads, ahead) = if wanted.is_some() { (1, 1) } else { (2, 8) };
        pipeline::ordered(
            threads,
            ahead,
            |feed| (0..volumes.len()).try_for_each(|number| feed.send(number)).unwrap_or_default(),
            |number| (number, read(&volumes[number])),
            |(volume, index)| {
                let index = match index {
                    Ok(index) => index,
                    Err(error) => {
                        unusable.insert(volume as u32);
                        match error {
                            RepositoryError::Encrypted => unread += 1,
                            error => faults.push(error),
                        }
                        return Ok(());
                    }
                };
                let is_claim = !own.wrote(&volumes[volume].index.path, &volumes[volume].index.id);
                let volume = volume as u32;
                for (view, entry) in index.entries().zip(0..) {
                    if wanted.is_some_and(|wanted| !wanted.contains(&view.digest)) {
                        continue;
                    }
                    let depth = match view.kind {
                        EntryKind::Whole => 0,
                        EntryKind::Delta { depth, .. } => depth,
                    };
                    let place = Place { depth, is_claim, volume, entry };
                    if let EntryKind::Delta { bases, .. } = view.kind
                        && (follow || wanted.is_some())
                    {
                        bases_of.insert((volume, entry), bases.to_vec());
                    }
                    rows.push((view.digest, place));
                }
                Ok::<_, RepositoryError>(())
            },
        )?;
        let bases = match wanted {
            Some(_) => bases_of.values().flatten().copied().collect(),
            None => Vec::new(),
        };
        let unreliable = match follow {
            true => prefer_whole(&mut rows, &lost, &kept, &bases_of),
            false => HashSet::new(),
        };
        let segments = Self {
            volumes,
            faults,
            unread,
            unusable,
            unreliable,
            kept,
            own,
            verified: Mutex::default(),
            damaged: Mutex::default(),
            table: Table::new(rows),
            indexes: Mutex::default(),
            members: MemberCache::new(MEMBER_CACHE),
            large: Mutex::default(),
        };
        Ok((segments, bases))
    }

    /// The volumes, by their number in a [`Place`].
    pub fn volumes(&self) -> &[Volume] {
        &self.volumes
    }

    /// Volumes whose segments count as not there, since they or their indexes cannot be used.
    pub fn faults(&self) -> &[RepositoryError] {
        &self.faults
    }

    /// Volumes that may hold anything, since there is no key to read their indexes with.
    pub fn unread(&self) -> u64 {
        self.unread
    }

    /// Whether the index of volume `number` could not be read.
    pub fn is_unusable(&self, number: u32) -> bool {
        self.unusable.contains(&number)
    }

    /// Whether a segment is stored in a way that new things may rest on.
    pub fn holds(&self, digest: &Digest) -> bool {
        self.place(digest).is_some() && !self.unreliable.contains(digest)
    }

    /// Where a segment is.
    pub fn place(&self, digest: &Digest) -> Option<Place> {
        self.table.get(digest)
    }

    /// Where a segment is, in the order in which it is to be read.
    fn places(&self, digest: &Digest) -> impl Iterator<Item = Place> {
        self.place(digest).into_iter().chain(self.table.others(digest).iter().copied())
    }

    /// Whether a segment that is stored is there only as somebody else claims, which nobody has looked at.
    pub fn is_claim(&self, digest: &Digest) -> bool {
        self.places(digest).all(|place| place.is_claim)
            && !self.own.verified(digest)
            && !lock(&self.verified).contains(digest)
    }

    /// Whether the best place of a segment is only somebody else's claim, and so is what its signature says.
    pub fn is_claimed_there(&self, digest: &Digest) -> bool {
        self.place(digest).is_some_and(|place| place.is_claim)
    }

    /// Notes that a segment was read and is what it should be.
    pub fn note_verified(&self, digest: &Digest) {
        lock(&self.verified).insert(*digest);
    }

    /// The segments of others that were read since this was made, and are what they should be.
    pub fn verified(&self) -> Vec<Digest> {
        lock(&self.verified).iter().copied().collect()
    }

    /// The place of a segment that stays when the others go: the first one in an order in which it is known that the
    /// segment is there. What only others claim to hold is read for that.
    ///
    /// The order is the same in all clones, whoever wrote what: two that prune at one time keep the same place, and not each
    /// the one that the other removes. What others removed from a remote comes last.
    pub fn place_to_keep(&self, repository: &Repository, digest: &Digest) -> Result<Place, RepositoryError> {
        let first = self.place(digest).ok_or(RepositoryError::NoSegment(*digest))?;
        if self.table.others(digest).is_empty() {
            return Ok(first);
        }
        let rank = |place: &Place| {
            (self.kept.contains(&place.volume), place.depth, Reverse(place.volume), place.entry)
        };
        let mut places: Vec<Place> = self.places(digest).take(MAX_ATTEMPTS as usize).collect();
        places.sort_unstable_by_key(rank);
        let mut fault = None;
        for place in places {
            match if place.is_claim { self.verify(repository, digest, place) } else { Ok(()) } {
                Ok(()) => return Ok(place),
                Err(error) => drop(fault.get_or_insert(error)),
            }
        }
        Err(fault.unwrap_or(RepositoryError::NoSegment(*digest)))
    }

    /// That a segment is at `place`.
    fn verify(&self, repository: &Repository, digest: &Digest, place: Place) -> Result<(), RepositoryError> {
        self.read_over(repository, digest, place, |base| self.read_checked(repository, base)).map(drop)
    }

    /// The index of volume `number`.
    pub fn index(&self, repository: &Repository, number: u32) -> Result<Arc<VolumeIndex>, RepositoryError> {
        if let Some(index) = lock(&self.indexes).indexes.get(&number) {
            return Ok(index.clone());
        }
        let index = Arc::new(repository.read_index(&self.volumes[number as usize])?);
        let bytes = 80 * index.len();
        let mut cache = lock(&self.indexes);
        if cache.bytes + bytes > INDEX_CACHE {
            *cache = IndexCache::default();
        }
        cache.bytes += bytes;
        cache.indexes.insert(number, index.clone());
        Ok(index)
    }

    /// Where a segment is, with the index of its volume; `None` when no finished volume holds it.
    pub fn locate(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<Located>, RepositoryError> {
        let Some(place) = self.place(digest) else { return Ok(None) };
        Ok(Some(Located { place, index: self.index(repository, place.volume)? }))
    }

    /// The chain that a delta of `bases` would continue; `None` when one of them is in no finished volume, or
    /// is where nothing new may rest on it.
    pub fn chain(&self, repository: &Repository, bases: &[Digest]) -> Result<Option<Chain>, RepositoryError> {
        let mut chain = Chain::default();
        for digest in bases {
            if self.unreliable.contains(digest) {
                return Ok(None);
            }
            let Some(located) = self.locate(repository, digest)? else { return Ok(None) };
            // Where it is elsewhere, it may hang on more deltas.
            if self.kept.contains(&located.place.volume) {
                return Ok(None);
            }
            let view = located.index.entry(located.place.entry as usize);
            if let Some(EntryKind::Delta { depth, chain_bytes, .. }) = view.map(|view| view.kind) {
                chain.depth = chain.depth.max(depth);
                chain.bytes = chain.bytes.saturating_add(chain_bytes);
            }
        }
        Ok(Some(chain))
    }

    /// An entry of a volume as it is stored there, and its signature, both as they can be stored elsewhere.
    pub fn stored(
        &self,
        repository: &Repository,
        number: u32,
        entry: u32,
    ) -> Result<(Stored, Option<Vec<u8>>), RepositoryError> {
        let index = self.index(repository, number)?;
        let volume = &self.volumes[number as usize];
        let view = index.entry(entry as usize).ok_or(ArchiveError::NoEntry(entry as usize))?;
        let blob = BlobReader { repository, blob: &volume.archive };
        let reader = VolumeReader::new(number.into(), &index, &blob, &self.members);
        let damaged = |error: ArchiveError| RepositoryError::damaged(&volume.archive.path)(error.into());
        let bytes = reader.payload(entry as usize).map_err(damaged)?;
        let payload = match view.kind {
            EntryKind::Whole if Digest::of(&bytes) != view.digest => {
                return Err(RepositoryError::DamagedSegment(view.digest));
            }
            EntryKind::Whole => Payload::Whole(bytes),
            EntryKind::Delta { bases, depth, chain_bytes } => {
                let is_claim = !self.own.wrote(&volume.index.path, &volume.index.id);
                if is_claim {
                    // What is written anew becomes this repository's own.
                    self.verify(repository, &view.digest, Place { depth, is_claim, volume: number, entry })?;
                }
                let link = DeltaLink { bases: bases.to_vec(), depth, chain_bytes };
                Payload::Delta { bytes, link }
            }
        };
        let signature = view.signature.map(|at| self.signature_bytes(repository, number, at)).transpose();
        // One that is lost makes later deltas larger, and is none to be kept.
        let signature = match signature {
            Err(RepositoryError::Damaged { .. } | RepositoryError::OutOfReach { .. }) => None,
            signature => signature?,
        };
        Ok((Stored { digest: view.digest, len: view.segment_len, payload }, signature))
    }

    /// The bytes of a segment, its deltas applied; whether they have its digest is for the caller to check.
    pub fn read(&self, repository: &Repository, digest: &Digest) -> Result<Vec<u8>, RepositoryError> {
        // Where any segment lies in several places, only checking each tells when to look at another.
        match self.table.has_others() {
            true => self.read_checked(repository, digest),
            false => self.read_chain(repository, digest),
        }
    }

    /// The bytes of a segment as an index names it, found to have its digest and its length.
    pub fn read_exact(
        &self,
        repository: &Repository,
        segment: &SegmentRef,
    ) -> Result<Vec<u8>, RepositoryError> {
        let bytes = self.read_checked(repository, &segment.digest)?;
        match bytes.len() as u64 == u64::from(segment.len) {
            true => Ok(bytes),
            false => Err(RepositoryError::SegmentLen { digest: segment.digest, expected: segment.len }),
        }
    }

    /// As [`read`](Self::read), found to have its digest. What is damaged in one place is read from another, if
    /// there is one.
    pub fn read_checked(&self, repository: &Repository, digest: &Digest) -> Result<Vec<u8>, RepositoryError> {
        let read = self.read_chain(repository, digest).and_then(|bytes| checked(digest, bytes));
        match read {
            Err(_) if self.table.has_others() => {
                let _alone = lock(&self.large);
                self.read_anywhere(repository, digest, u8::MAX, &mut Attempts::default()).or(read)
            }
            read => read,
        }
    }

    /// Reads what a segment hangs on, each once, and then itself; see [`ChainPlan`].
    fn read_chain(&self, repository: &Repository, digest: &Digest) -> Result<Vec<u8>, RepositoryError> {
        let located = self.locate(repository, digest)?.ok_or(RepositoryError::NoSegment(*digest))?;
        let view = located.index.entry(located.place.entry as usize);
        if view.is_some_and(|view| view.kind == EntryKind::Whole) {
            return self.read_place(repository, digest, located.place, &[]);
        }
        let ChainPlan { steps, is_large } = ChainPlan::of(digest, |digest| self.locate(repository, digest))?;
        let _alone = is_large.then(|| lock(&self.large));
        let mut uses: Vec<usize> = steps.iter().map(|step| step.uses).collect();
        let mut read: Vec<Option<Vec<u8>>> = Vec::with_capacity(steps.len());
        for Step { digest, place, bases, .. } in &steps {
            let mut base = Vec::new();
            for &number in bases {
                let bytes = read[number].as_deref().ok_or(RepositoryError::Chain(*digest))?;
                base.extend_from_slice(bytes);
                uses[number] -= 1;
                if uses[number] == 0 {
                    read[number] = None;
                }
            }
            read.push(Some(self.read_place(repository, digest, *place, &base)?));
        }
        read.pop().flatten().ok_or(RepositoryError::NoSegment(*digest))
    }

    /// The bytes of a segment, from any of its places that hang on fewer than `below` deltas, found to have its
    /// digest. A hostile index could ask for no end of attempts, and of memory.
    fn read_anywhere(
        &self,
        repository: &Repository,
        digest: &Digest,
        below: u8,
        attempts: &mut Attempts,
    ) -> Result<Vec<u8>, RepositoryError> {
        let mut fault = RepositoryError::NoSegment(*digest);
        for place in self.places(digest).filter(|place| place.depth < below) {
            attempts.left = attempts.left.checked_sub(1).ok_or(RepositoryError::Chain(*digest))?;
            let at = (place.volume, place.entry);
            if lock(&self.damaged).contains(&at) {
                fault = RepositoryError::DamagedSegment(*digest);
                continue;
            }
            let held = attempts.held;
            let mut has_bases = true;
            let read = self.read_over(repository, digest, place, |base| {
                // Bases hang on fewer deltas, so this ends.
                let bytes = self
                    .read_anywhere(repository, base, place.depth, attempts)
                    .inspect_err(|_| has_bases = false)?;
                attempts.held += bytes.len();
                match attempts.held > MAX_HELD {
                    true => Err(RepositoryError::Chain(*base)),
                    false => Ok(bytes),
                }
            });
            attempts.held = held;
            match read {
                Ok(bytes) => return Ok(bytes),
                Err(error) => {
                    // What cannot be read now may be read the next time.
                    if has_bases && is_damage(&error) {
                        lock(&self.damaged).insert(at);
                    }
                    fault = error;
                }
            }
        }
        Err(fault)
    }

    /// The bytes of a segment as it lies at `place`, found to have its digest; `read_base` reads what it is a delta of.
    fn read_over(
        &self,
        repository: &Repository,
        digest: &Digest,
        place: Place,
        mut read_base: impl FnMut(&Digest) -> Result<Vec<u8>, RepositoryError>,
    ) -> Result<Vec<u8>, RepositoryError> {
        let index = self.index(repository, place.volume)?;
        let mut base = Vec::new();
        if let Some(EntryKind::Delta { bases, .. }) = index.entry(place.entry as usize).map(|view| view.kind)
        {
            for digest in bases {
                base.extend(read_base(digest)?);
            }
        }
        checked(digest, self.read_place(repository, digest, place, &base)?)
    }

    /// The bytes of a segment as it lies at `place`; `base` is what it is a delta of, if it is one.
    fn read_place(
        &self,
        repository: &Repository,
        digest: &Digest,
        place: Place,
        base: &[u8],
    ) -> Result<Vec<u8>, RepositoryError> {
        // A reader of ranges would make of that damage to the volume.
        if !repository.is_readable() {
            return Err(RepositoryError::Encrypted);
        }
        repository.counted.segments.add(1);
        let index = self.index(repository, place.volume)?;
        let volume = &self.volumes[place.volume as usize];
        let entry = place.entry as usize;
        let blob = BlobReader { repository, blob: &volume.archive };
        let damaged = |error: ArchiveError| RepositoryError::damaged(&volume.archive.path)(error.into());
        let reader = VolumeReader::new(place.volume.into(), &index, &blob, &self.members);
        let payload = reader.payload(entry).map_err(damaged)?;
        let view = index.entry(entry).ok_or(RepositoryError::NoSegment(*digest))?;
        match view.kind {
            EntryKind::Whole => Ok(payload),
            EntryKind::Delta { .. } => Ok(patch(base, &payload, view.segment_len as usize)?),
        }
    }

    /// The signature of a segment; `None` where it has none, or none can be had.
    pub fn signature(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<BlockSignature>, RepositoryError> {
        self.signature_at_depth(repository, digest, 0, &mut { MAX_ATTEMPTS })
    }

    fn signature_at_depth(
        &self,
        repository: &Repository,
        digest: &Digest,
        depth: u8,
        left: &mut u32,
    ) -> Result<Option<BlockSignature>, RepositoryError> {
        if depth > MAX_DEPTH {
            return Err(RepositoryError::Chain(*digest));
        }
        *left = left.checked_sub(1).ok_or(RepositoryError::Chain(*digest))?;
        let Some(located) = self.locate(repository, digest)? else { return Ok(None) };
        let Some(view) = located.index.entry(located.place.entry as usize) else { return Ok(None) };
        let Some(location) = view.signature else { return Ok(None) };
        let record = self.signature_record(repository, located.place.volume, location)?;
        match (record, view.kind) {
            (SignatureRecord::Full(signature), _) => Ok(Some(signature)),
            (SignatureRecord::Patch(patch), EntryKind::Delta { bases, .. }) => {
                let mut signatures = Vec::new();
                for base in bases {
                    let Some(signature) = self.signature_at_depth(repository, base, depth + 1, left)? else {
                        return Ok(None);
                    };
                    signatures.push(signature);
                }
                Ok(Some(patch.apply(&signatures.iter().collect::<Vec<_>>())?))
            }
            (SignatureRecord::Patch(_), EntryKind::Whole) => Ok(None),
        }
    }

    /// The signature at `location` of the signatures of a volume, as it is kept.
    pub fn signature_record(
        &self,
        repository: &Repository,
        volume: u32,
        location: SignatureLocation,
    ) -> Result<SignatureRecord, RepositoryError> {
        let bytes = self.signature_bytes(repository, volume, location)?;
        let decode = || Ok::<_, RepositoryError>(cbor::from_slice(&gunzip(&bytes, MAX_SIGNATURE)?)?);
        let path = || repository.signatures_path(&self.volumes[volume as usize]);
        decode().map_err(|error| RepositoryError::damaged(&path())(error.into()))
    }

    /// The same, compressed.
    fn signature_bytes(
        &self,
        repository: &Repository,
        volume: u32,
        location: SignatureLocation,
    ) -> Result<Vec<u8>, RepositoryError> {
        let blob = repository.blob(&repository.signatures_path(&self.volumes[volume as usize]))?;
        repository.read_blob_range(&blob, location.offset, location.len.into())
    }
}

/// The bytes of a segment, if they have its digest.
fn checked(digest: &Digest, bytes: Vec<u8>) -> Result<Vec<u8>, RepositoryError> {
    match Digest::of(&bytes) == *digest {
        true => Ok(bytes),
        false => Err(RepositoryError::DamagedSegment(*digest)),
    }
}

/// Whether an error says that the bytes are wrong, and not only that they could not be read this time.
fn is_damage(error: &RepositoryError) -> bool {
    match error {
        RepositoryError::DamagedSegment(_) | RepositoryError::Archive(_) | RepositoryError::Patch(_) => true,
        // A volume that could not be read counts as damaged too.
        RepositoryError::Damaged { source, .. } => {
            let mut of_system =
                with_causes(source.as_ref()).filter_map(|cause| cause.downcast_ref::<io::Error>());
            !of_system.any(|error| error.raw_os_error().is_some())
        }
        _ => false,
    }
}

/// Takes out the places of segments in `lost` volumes, and those that hang on such, where there are others; and
/// tells which segments have no others. Those in `kept` volumes are no such others, and stay. `bases_of` has the bases of
/// each delta, by volume and entry.
fn prefer_whole(
    rows: &mut Vec<(Digest, Place)>,
    lost: &HashSet<u32>,
    kept: &HashSet<u32>,
    bases_of: &HashMap<(u32, u32), Vec<Digest>>,
) -> HashSet<Digest> {
    // A base hangs on fewer deltas than what it is a base of.
    rows.sort_unstable_by_key(|(_, place)| *place);
    let mut whole: HashSet<Digest> = HashSet::new();
    let mut doubtful = HashMap::new();
    for (digest, place) in rows.iter() {
        let bases = bases_of.get(&(place.volume, place.entry));
        let is_whole = !lost.contains(&place.volume)
            && !kept.contains(&place.volume)
            && bases.is_none_or(|bases| bases.iter().all(|base| whole.contains(base)));
        match is_whole {
            true => drop(whole.insert(*digest)),
            false => drop(doubtful.insert((place.volume, place.entry), *digest)),
        }
    }
    rows.retain(|(digest, place)| {
        kept.contains(&place.volume)
            || !doubtful.contains_key(&(place.volume, place.entry))
            || !whole.contains(digest)
    });
    doubtful.into_values().filter(|digest| !whole.contains(digest)).collect()
}

/// The path of an archive without what tells how it is compressed.
fn stem(archive: &str) -> &str {
    archive.rfind(".tar").map_or(archive, |end| &archive[..end])
}

/// A repository as the source of a restore.
pub(super) struct RepositorySource<'a> {
    pub repository: &'a Repository,
    pub segments: Arc<Segments>,
}

impl SegmentSource for RepositorySource<'_> {
    fn position(&self, segment: &SegmentRef) -> u64 {
        let place = self.segments.place(&segment.digest);
        place.map_or(u64::MAX, |place| u64::from(place.volume) << 32 | u64::from(place.entry))
    }

    fn read(
        &self,
        segment: &SegmentRef,
        _base: &dyn Fn(&Digest) -> Option<Vec<u8>>,
    ) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.segments.read(self.repository, &segment.digest)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gitkv::GitError;

    #[test]
    fn what_could_not_be_read_this_time_is_not_damaged_for_good() {
        let read = |source: io::Error| {
            let layer = LayerError::Io { action: "open", path: "pack".into(), source };
            let blob = RepositoryError::damaged("a.tar")(TimelineError::from(GitError::from(layer)).into());
            RepositoryError::damaged("a.tar")(ArchiveError::Read(io::Error::other(blob)).into())
        };
        for errno in [rustix::io::Errno::IO, rustix::io::Errno::MFILE] {
            assert!(!is_damage(&read(errno.into())));
        }
        let short = ArchiveError::Read(io::ErrorKind::UnexpectedEof.into());
        assert!(is_damage(&RepositoryError::damaged("a.tar")(short.into())));
        assert!(is_damage(&RepositoryError::damaged("a.tar")(ArchiveError::Member("short").into())));
        assert!(is_damage(&RepositoryError::DamagedSegment(Digest::of(b""))));
        assert!(!is_damage(&RepositoryError::Encrypted));
    }
}
