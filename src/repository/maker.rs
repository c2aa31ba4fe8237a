//! What a backup makes of a new segment: nothing where it is stored already, else a delta or the whole, and a
//! signature for later deltas.
//!
//! Any number of threads may make segments of one backup at one time.
//!
//! What only somebody else claims to hold is read before anything rests on it, and his signatures are not used.
//!
//! A forced backup takes nothing for granted that it has not read: a segment that is stored already counts only if
//! it has its digest, and so do the bases of a delta. What is damaged is stored again, whole, so that it hangs on
//! nothing and is what readers prefer. Without the key of an encrypted repository nothing can be read; then what is
//! stored is relied on, and counted.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use indexmap::IndexSet;

use crate::archive::{DeltaLink, Payload, Stored, gzip};
use crate::cbor;
use crate::delta::{BlockSignature, Delta, SignatureOptions, from_content, from_signatures};
use crate::diff::{self, Entry, Piece};
use crate::digest::Digest;
use crate::layers::OutOfReach;
use crate::pipeline::lock;
use crate::repository::chain::MAX_DEPTH;
use crate::repository::plan::Ancestors;
use crate::repository::segments::{Chain, Segments, SignatureRecord};
use crate::repository::{Repository, RepositoryError};

/// What a worker made of a segment.
pub(super) enum Made {
    /// It is stored already.
    Known,
    /// It is to be stored, with its signature where it is to have one.
    New { stored: Stored, signature: Option<Vec<u8>> },
}

/// Makes of new segments what is stored.
pub(super) struct Maker<'a> {
    repository: &'a Repository,
    segments: &'a Segments,
    /// Segments on their way into a volume; half of what a `HashSet` of them may take.
    pending: RwLock<IndexSet<Digest>>,
    old: &'a [Entry],
    /// For each new entry, the old one whose content it may resemble; empty where nothing is old.
    ancestors: Vec<Option<usize>>,
    /// Rely only on what was read.
    force: bool,
    faults: Mutex<Faults>,
    /// Segments that are relied on though nobody could read them.
    unread: AtomicU64,
    /// Of the old file that was asked for last, since the segments of a large file come one after the other.
    layout: Mutex<Option<(usize, Arc<diff::Layout>)>>,
}

/// What is stored and could not be used.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// The segments that are damaged, and new ones that could not be compared with such.
    pub segments: HashSet<Digest>,
    /// What was found first.
    pub first: Option<RepositoryError>,
    /// The same of segments that are in a remote which cannot be reached.
    pub out_of_reach: HashSet<Digest>,
    pub first_out_of_reach: Option<RepositoryError>,
}

/// A delta and what it hangs on.
struct MadeDelta {
    delta: Delta,
    link: DeltaLink,
    /// Signatures of the bases, where the delta was made with them.
    signatures: Vec<BlockSignature>,
}

impl<'a> Maker<'a> {
    /// For the files of `new`, where `old` is what of the parent changed or is gone; both in path order. With
    /// `force`, what is stored already is relied on only once it is read.
    pub fn new(
        repository: &'a Repository,
        segments: &'a Segments,
        old: &'a [Entry],
        new: &[Entry],
        force: bool,
    ) -> Self {
        let is_gone = |entry: &Entry| new.binary_search_by(|new| new.path.cmp(&entry.path)).is_err();
        let ancestors = match old.is_empty() {
            true => Vec::new(),
            false => {
                let ancestors = Ancestors::new(old, is_gone);
                new.iter().map(|entry| ancestors.of(entry)).collect()
            }
        };
        Self {
            repository,
            segments,
            pending: RwLock::default(),
            old,
            ancestors,
            force,
            faults: Mutex::default(),
            unread: AtomicU64::new(0),
            layout: Mutex::default(),
        }
    }

    /// What was stored and could not be used, and how many segments are relied on though nobody could read them.
    pub fn into_faults(self) -> (Faults, u64) {
        self.repository.note_verified(&self.segments.verified());
        (self.faults.into_inner().unwrap_or_else(PoisonError::into_inner), self.unread.into_inner())
    }

    /// Makes what is to be stored of a segment of the new file `number`.
    pub fn make(&self, number: usize, piece: Piece) -> Result<Made, RepositoryError> {
        // A file of one small segment is compared with the old content itself, which is at hand and finer.
        let signed = piece.offset > 0 || piece.bytes.len() > self.repository.config.segments.min();
        // Whoever notes what is made asks again, so this only saves making it.
        let is_work = signed || self.ancestors.get(number).copied().flatten().is_some();
        let pending = || self.pending.read().unwrap_or_else(PoisonError::into_inner).contains(&piece.digest);
        let is_held = self.segments.holds(&piece.digest);
        if (is_held && self.can_rely_on(&piece.digest)?) || (is_work && pending()) {
            return Ok(Made::Known);
        }
        let delta = match is_held {
            true => None,
            // An old segment that cannot be read is no reason not to store the new one.
            false => {
                self.delta(number, &piece, signed).or_else(|error| self.note_fault(&piece.digest, error))?
            }
        };
        let key = &self.repository.config.confirm_key;
        let signature = match signed {
            true => {
                let options = SignatureOptions::for_segment(piece.bytes.len());
                let signature = BlockSignature::compute(&piece.bytes, piece.offset, options, key)?;
                let record = match delta.as_ref().map(|made| made.signatures.iter().collect::<Vec<_>>()) {
                    Some(bases) if !bases.is_empty() => SignatureRecord::Patch(signature.diff(&bases)),
                    _ => SignatureRecord::Full(signature),
                };
                Some(gzip(&cbor::to_vec(&record)?)?)
            }
            false => None,
        };
        let stored = match delta {
            Some(MadeDelta { delta, link, .. }) => Stored {
                digest: piece.digest,
                len: piece.bytes.len() as u32,
                payload: Payload::Delta { bytes: delta.bytes, link },
            },
            None => Stored::whole(piece.digest, piece.bytes),
        };
        Ok(Made::New { stored, signature })
    }

    /// Whether a segment that is stored is there as far as this backup wants to know.
    fn can_rely_on(&self, digest: &Digest) -> Result<bool, RepositoryError> {
        let is_claim = self.segments.is_claim(digest);
        if !self.force && !is_claim {
            return Ok(true);
        }
        match self.segments.read_checked(self.repository, digest) {
            Ok(_) => {
                if is_claim {
                    self.segments.note_verified(digest);
                }
                Ok(true)
            }
            Err(RepositoryError::Encrypted) => {
                self.unread.fetch_add(1, Ordering::Relaxed);
                Ok(true)
            }
            Err(error) => self.note_fault::<()>(digest, error).map(|_| false),
        }
    }

    /// Notes why something stored cannot be used, unless it is what ends the backup.
    fn note_fault<T>(&self, digest: &Digest, error: RepositoryError) -> Result<Option<T>, RepositoryError> {
        match error {
            RepositoryError::Interrupted(_) => return Err(error),
            // Without a key, old content can only be compared with by its signatures.
            RepositoryError::Encrypted => {}
            error if OutOfReach::find(&error).is_some() => {
                let mut faults = lock(&self.faults);
                faults.out_of_reach.insert(*digest);
                faults.first_out_of_reach.get_or_insert(error);
            }
            error => {
                let mut faults = lock(&self.faults);
                faults.segments.insert(*digest);
                faults.first.get_or_insert(error);
            }
        }
        Ok(None)
    }

    /// Notes that a segment is on its way; false when it was so already.
    pub fn note(&self, digest: Digest) -> bool {
        self.pending.write().unwrap_or_else(PoisonError::into_inner).insert(digest)
    }

    /// The delta that the segment is stored as; `None` where it is better stored whole.
    fn delta(
        &self,
        number: usize,
        piece: &Piece,
        signed: bool,
    ) -> Result<Option<MadeDelta>, RepositoryError> {
        let Some((layout, content)) = self.ancestors.get(number).copied().flatten().and_then(|old| {
            let content = self.old[old].content()?;
            Some((self.layout(old, content), content))
        }) else {
            return Ok(None);
        };
        let Some(bases) = layout.bases(&piece.data, piece.offset, piece.bytes.len()) else {
            return Ok(None);
        };
        let digests: Vec<Digest> =
            content.segments[bases.segments].iter().map(|segment| segment.digest).collect();
        let Some(chain) = self.segments.chain(self.repository, &digests)? else { return Ok(None) };
        if chain.depth >= MAX_DEPTH {
            return Ok(None);
        }
        let signatures = if signed { self.signatures(&digests)? } else { None };
        if signatures.is_some() {
            // The delta is made without a look at them.
            for digest in &digests {
                if !self.can_rely_on(digest)? {
                    return Ok(None);
                }
            }
        }
        let (delta, signatures) = match signatures {
            Some(signatures) => {
                let bases_of: Vec<_> = signatures.iter().collect();
                let key = &self.repository.config.confirm_key;
                (from_signatures(&piece.bytes, &bases_of, &bases.expected, key), signatures)
            }
            None => (from_content(&piece.bytes, &self.read(&digests)?), Vec::new()),
        };
        let chain_bytes = chain.bytes as usize + delta.bytes.len();
        if chain_bytes > piece.bytes.len() / 2 {
            return Ok(None);
        }
        let Chain { depth, .. } = chain;
        let link = DeltaLink { bases: digests, depth: depth + 1, chain_bytes: chain_bytes as u32 };
        Ok(Some(MadeDelta { delta, link, signatures }))
    }

    fn layout(&self, old: usize, content: &diff::Content) -> Arc<diff::Layout> {
        let mut last = self.layout.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((number, layout)) if *number == old => layout.clone(),
            _ => {
                let layout = Arc::new(diff::Layout::new(content));
                *last = Some((old, layout.clone()));
                layout
            }
        }
    }

    /// The signatures of all of these, if all have one that this repository made.
    fn signatures(&self, digests: &[Digest]) -> Result<Option<Vec<BlockSignature>>, RepositoryError> {
        if digests.iter().any(|digest| self.segments.is_claimed_there(digest)) {
            return Ok(None);
        }
        digests.iter().map(|digest| self.segments.signature(self.repository, digest)).collect()
    }

    /// The bytes of these segments one after the other, checked.
    fn read(&self, digests: &[Digest]) -> Result<Vec<u8>, RepositoryError> {
        let mut bytes = Vec::new();
        for digest in digests {
            bytes.extend(self.segments.read_checked(self.repository, digest)?);
        }
        Ok(bytes)
    }
}
