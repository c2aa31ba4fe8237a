//! What the snapshots need of a repository, and what nothing needs.
//!
//! Needed are the pages that a snapshot lists, the segments that they name, the segments that those hang on as
//! deltas, and the volumes that hold any of these, with their indexes and signatures. Nothing else in the
//! directories that this program writes is, and everything elsewhere is. Anything that cannot be read, or is
//! needed and not there, is an error: who does not know what is needed must not remove anything.
//!
//! In memory: 32 bytes a segment beside the table of segments, and 4 for each in its volume.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::archive::{EntryKind, VolumeIndex};
use crate::digest::Digest;
use crate::format::kind;
use crate::layers::ObjectId;
use crate::progress::Progress;
use crate::repository::SnapshotName;
use crate::repository::pages::Pages;
use crate::repository::segments::Segments;
use crate::repository::{Repository, RepositoryError};
use crate::timeline::{TimeKey, TimedBlob, path};

/// What is needed and what is not.
pub(super) struct Needs {
    pub segments: Arc<Segments>,
    /// How many snapshots there are.
    pub snapshots: u64,
    /// What nothing needs.
    pub dead: Vec<(String, ObjectId)>,
    /// How many volumes are among that.
    pub dead_volumes: u64,
    /// Volumes of which only a part is needed, by the id of the archive.
    pub partial: HashMap<ObjectId, Partial>,
}

/// A volume that holds segments that nothing needs.
pub(super) struct Partial {
    /// Its number in the table of segments.
    pub number: u32,
    /// The entries that are needed, ascending.
    pub entries: Vec<u32>,
    /// The paths of all that belongs to it.
    pub paths: Vec<String>,
    /// Which part of its bytes the needed entries take, about.
    share: f64,
}

impl Partial {
    /// How many of `bytes`, all that the volume has, are needed, about.
    pub fn needed_of(&self, bytes: u64) -> u64 {
        (bytes as f64 * self.share) as u64
    }
}

impl Needs {
    /// Finds out what all snapshots need but those of the keys `without`.
    pub fn find(
        repository: &Repository,
        without: &HashSet<TimeKey>,
        threads: usize,
        progress: &Progress,
    ) -> Result<Self, RepositoryError> {
        let mut keys = HashSet::new();
        let mut page_blobs = HashSet::new();
        let mut wanted = HashSet::new();
        let mut seen = HashSet::new();
        for record in repository.records()?.into_iter().filter(|record| !without.contains(&record.key)) {
            progress.check()?;
            keys.insert(record.key);
            let id = SnapshotName::from(&record).name();
            let needs = record.snapshot.and_then(|snapshot| {
                page_blobs.extend(snapshot.record.pages.blobs.iter().cloned());
                let pages = Pages::of(repository, &snapshot.record)?;
                // A page that several snapshots share needs one look.
                let is_new = |&number: &usize| {
                    let (path, place) = pages.place(number);
                    seen.insert((path.to_owned(), place.offset, place.len))
                };
                let fresh: Vec<usize> = (0..pages.len()).filter(is_new).collect();
                pages.for_each_of(&fresh, threads, |_, page| {
                    let contents = page.iter().filter_map(|entry| entry.content());
                    wanted.extend(contents.flat_map(|content| content.segments.iter().map(|at| at.digest)));
                    Ok(())
                })
            });
            needs.map_err(|error| match error {
                RepositoryError::Encrypted => error,
                source => RepositoryError::UnknownNeeds { id, source: source.into() },
            })?;
        }
        drop(seen);
        let segments = repository.segments()?;
        let entries = needed_entries(repository, &segments, wanted, progress)?;
        let snapshots = keys.len() as u64;
        let (dead, dead_volumes) = (Vec::new(), 0);
        let mut needs = Self { segments, snapshots, dead, dead_volumes, partial: HashMap::new() };
        needs.sort_out(repository, &keys, &page_blobs, entries)?;
        Ok(needs)
    }

    /// Tells blobs that something needs from those that nothing does.
    fn sort_out(
        &mut self,
        repository: &Repository,
        keys: &HashSet<TimeKey>,
        page_blobs: &HashSet<String>,
        mut entries: HashMap<u32, Vec<u32>>,
    ) -> Result<(), RepositoryError> {
        let mut volumes: HashMap<String, Option<ObjectId>> = HashMap::new();
        for (number, volume) in (0..).zip(self.segments.volumes()) {
            let Some(mut needed) = entries.remove(&number) else { continue };
            needed.sort_unstable();
            let index = self.segments.index(repository, number)?;
            let stem = volume
                .archive
                .path
                .strip_prefix(kind::ARCHIVES)
                .and_then(stem)
                .unwrap_or_default()
                .to_owned();
            let partial = (needed.len() < index.len()).then(|| {
                let share = share(&index, &needed);
                let partial = Partial { number, entries: needed, paths: Vec::new(), share };
                self.partial.insert(volume.archive.id, partial);
                volume.archive.id
            });
            volumes.insert(stem, partial);
        }
        for kind in [kind::DIFFS, kind::INDEX, kind::ARCHIVES, kind::SIGNATURES] {
            for TimedBlob { key, suffix, id } in repository.blobs_of(kind)? {
                let path = path(kind, &key, &suffix);
                let of_volume = || path.strip_prefix(kind).and_then(stem).and_then(|stem| volumes.get(stem));
                let is_needed = match kind {
                    kind::DIFFS => keys.contains(&key),
                    kind::INDEX => page_blobs.contains(&path),
                    _ => match of_volume() {
                        Some(Some(archive)) => {
                            if let Some(partial) = self.partial.get_mut(archive) {
                                partial.paths.push(path.clone());
                            }
                            true
                        }
                        whole => whole.is_some(),
                    },
                };
                if !is_needed {
                    self.dead_volumes += u64::from(kind == kind::ARCHIVES && suffix.contains(".tar"));
                    self.dead.push((path, id));
                }
            }
        }
        Ok(())
    }
}

/// What the names of all blobs of one volume have in common: day, key and number. `below` is the path without
/// the kind.
fn stem(below: &str) -> Option<&str> {
    // The day is `/YYYY/MM/DD/`; the key holds a dot.
    let number = "/YYYY/MM/DD/".len() + TimeKey::LEN;
    let end = below.get(number..)?.find('.')?;
    below.get(..number + end)
}

/// The entries that are needed of each volume, where `wanted` and all that those hang on is.
fn needed_entries(
    repository: &Repository,
    segments: &Segments,
    mut wanted: HashSet<Digest>,
    progress: &Progress,
) -> Result<HashMap<u32, Vec<u32>>, RepositoryError> {
    let mut needed: HashMap<u32, Vec<u32>> = HashMap::new();
    let mut round: Vec<Digest> = wanted.iter().copied().collect();
    // A round for each step down the chains of deltas; in each, every volume is looked at once.
    while !round.is_empty() {
        progress.check()?;
        let mut by_volume: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for digest in std::mem::take(&mut round) {
            let place = segments.place_to_keep(repository, &digest)?;
            by_volume.entry(place.volume).or_default().push(place.entry);
        }
        for (volume, entries) in by_volume {
            let index = segments.index(repository, volume)?;
            for &entry in &entries {
                if let Some(EntryKind::Delta { bases, .. }) =
                    index.entry(entry as usize).map(|view| view.kind)
                {
                    round.extend(bases.iter().filter(|base| wanted.insert(**base)));
                }
            }
            needed.entry(volume).or_default().extend(entries);
        }
    }
    Ok(needed)
}

/// Which part of a volume these entries take, header blocks included.
fn share(index: &VolumeIndex, entries: &[u32]) -> f64 {
    let len = |payload: u32| u64::from(payload).next_multiple_of(512) + 512;
    let needed = entries.iter().filter_map(|entry| index.entry(*entry as usize));
    let needed: u64 = needed.map(|view| len(view.payload_len)).sum();
    let all: u64 = index.entries().map(|view| len(view.payload_len)).sum();
    needed as f64 / all.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_belongs_to_a_volume_has_one_stem() {
        let key = "20261120T195512.123456789Z-5f0c11ab92de7340";
        let expected = format!("/2026/11/20/{key}-12");
        for suffix in [".tar.gz", ".tar", ".idx", ".cbor.gz", ".idx.age"] {
            assert_eq!(stem(&format!("{expected}{suffix}")), Some(expected.as_str()), "{suffix}");
        }
        assert_eq!(stem("/2026"), None);
        assert_eq!(stem("/2026/11/20/20261120T195512.123456789Z-5f0c11ab92de734é-1.idx"), None);
    }
}
