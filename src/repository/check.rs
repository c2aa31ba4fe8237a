//! Whether everything that snapshots need is there and sound.
//!
//! Without reading data: every layer is here and ends as its index says, or is in a cold remote; every record,
//! page and volume index can be read, every volume is as long as its index says, its signatures are there, every
//! segment that a page names is in a volume, and so is every base of a delta. With it: every layer that is here
//! matches its checksums, every signature can be read, and every segment that a snapshot needs has its SHA-256.
//!
//! Without the key of an encrypted repository: every blob looks like an encrypted one, volumes and indexes
//! come in pairs, no layer is missing or cut off, there are keys, and, if data is read, every layer matches its
//! checksums.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::archive::{EntryKind, VolumeIndex};
use crate::causes::chain;
use crate::diff::Entry;
use crate::digest::Digest;
use crate::progress::Progress;
use crate::repository::blobs::Blob;
use crate::repository::pages::Pages;
use crate::repository::segments::{Segments, Volume};
use crate::repository::store::kind;
use crate::repository::{Repository, RepositoryError, Snapshot};
use crate::timeline::TimelineError;

/// How thorough a check is.
#[derive(Debug, Clone)]
pub struct CheckOptions {
    /// Read every layer and every segment.
    pub read_data: bool,
    /// Threads that read.
    pub threads: usize,
}

impl Default for CheckOptions {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, Into::into);
        Self { read_data: false, threads }
    }
}

/// What a check found.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// Snapshots that were looked at.
    pub snapshots: u64,
    /// Pages of their indexes.
    pub pages: u64,
    /// Segments that they need.
    pub segments: u64,
    /// Volumes there are.
    pub volumes: u64,
    /// Layers that were verified.
    pub layers: u64,
    /// Bytes of segments that were read.
    pub bytes_read: u64,
    /// Blobs that were not read for want of a key.
    pub unread: u64,
    /// What is wrong.
    pub faults: Vec<Fault>,
}

/// Something that is wrong, and whom it affects.
#[derive(Debug)]
pub struct Fault {
    /// What is wrong.
    pub what: String,
    /// Some of the files that cannot be restored for it, each as the short id of a snapshot, a colon and a
    /// path.
    pub affects: Vec<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if !self.affects.is_empty() {
            write!(f, "; affects {}", self.affects.join(", "))?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

/// The path of a page's blob, and its offset and length there.
type PagePlace = (String, u64, u32);

/// Pages that were looked at.
#[derive(Default)]
struct CheckedPages {
    sound: HashSet<PagePlace>,
    /// With what is wrong with them.
    bad: HashMap<PagePlace, String>,
    /// What is wrong, and the ids of the snapshots that need it.
    faults: BTreeMap<String, BTreeSet<String>>,
}

/// How many files a fault names at most.
const AFFECTED: usize = 5;

impl Repository {
    /// Checks the repository. What is wrong is in the report; it fails itself only where nothing can be
    /// looked at.
    pub fn check(&self, options: &CheckOptions, progress: &Progress) -> Result<CheckReport, RepositoryError> {
        let _hold = self.hold()?;
        if !self.is_readable() {
            return self.check_locked(options, progress);
        }
        let mut report = CheckReport::default();
        let mut wanted = HashSet::new();
        let mut pages = CheckedPages::default();
        let mut snapshots = Vec::new();
        for record in self.records()? {
            report.snapshots += 1;
            match record.snapshot {
                Ok(snapshot) => snapshots.push(snapshot),
                Err(error) => report.faults.push(Fault { what: chain(&error), affects: Vec::new() }),
            }
        }
        for snapshot in &snapshots {
            progress.check()?;
            if let Err(error) = self.check_pages(snapshot, &mut pages, &mut wanted) {
                let affects = vec![snapshot.short_id()];
                report.faults.push(Fault { what: chain(&error), affects });
            }
        }
        report.pages = (pages.sound.len() + pages.bad.len()) as u64;
        let bad = pages.faults.into_iter();
        report
            .faults
            .extend(bad.map(|(what, affects)| Fault { what, affects: affects.into_iter().collect() }));
        report.segments = wanted.len() as u64;
        let segments = self.segments()?;
        let mut bad: BTreeMap<Digest, String> = BTreeMap::new();
        self.check_volumes(&segments, options.read_data, &mut wanted, &mut bad, &mut report);
        self.check_layers(options, progress, &mut report)?;
        if options.read_data {
            self.check_segments(&segments, &wanted, options, progress, &mut bad, &mut report)?;
        }
        let mut affected = self.affected(&snapshots, &bad);
        for (digest, what) in bad {
            let affects = affected.remove(&digest).unwrap_or_default();
            report.faults.push(Fault { what, affects });
        }
        Ok(report)
    }

    /// Checks what can be checked without a key.
    fn check_locked(
        &self,
        options: &CheckOptions,
        progress: &Progress,
    ) -> Result<CheckReport, RepositoryError> {
        let mut report = CheckReport::default();
        let fault = |error: &dyn std::error::Error| Fault { what: chain(error), affects: Vec::new() };
        for kind in kind::ALL {
            for found in self.timeline.list(kind, ..)? {
                progress.check()?;
                let blob = Blob::listed(kind, &found?);
                report.unread += 1;
                report.snapshots += u64::from(kind == kind::SNAPSHOTS);
                report.faults.extend(self.blob_len(&blob).err().map(|error| fault(&error)));
            }
        }
        let (volumes, faults) = self.volumes()?;
        report.volumes = volumes.len() as u64;
        report.faults.extend(faults.iter().map(|error| fault(error)));
        let keys = self.keys(&[])?;
        report
            .faults
            .extend(keys.iter().filter_map(|slot| slot.kind.as_ref().err()).map(|error| fault(error)));
        if !keys.iter().any(|slot| slot.kind.is_ok()) {
            let what = "no key is left that could be opened: fetch one from a remote or a copy".to_owned();
            report.faults.push(Fault { what, affects: Vec::new() });
        }
        self.check_layers(options, progress, &mut report)?;
        Ok(report)
    }

    /// Checks the pages of a snapshot, all of them, whatever is wrong with some.
    fn check_pages(
        &self,
        snapshot: &Snapshot,
        checked: &mut CheckedPages,
        wanted: &mut HashSet<Digest>,
    ) -> Result<(), RepositoryError> {
        let pages = Pages::of(self, &snapshot.record)?;
        for number in 0..pages.len() {
            let (path, place) = pages.place(number);
            let page = (path.to_owned(), place.offset, place.len);
            // A page that several snapshots share needs one look; a bad one affects them all.
            if checked.sound.contains(&page) {
                continue;
            }
            let what = match checked.bad.get(&page) {
                Some(what) => what.clone(),
                None => match pages.read(number) {
                    Ok(entries) => {
                        let contents = entries.iter().filter_map(Entry::content);
                        wanted.extend(
                            contents.flat_map(|content| &content.segments).map(|segment| segment.digest),
                        );
                        checked.sound.insert(page);
                        continue;
                    }
                    Err(error) => checked.bad.entry(page).or_insert(chain(&error)).clone(),
                },
            };
            checked.faults.entry(what).or_default().insert(snapshot.short_id());
        }
        Ok(())
    }

    /// Checks that all wanted segments and the bases of their deltas are in volumes; adds those bases to what
    /// is wanted.
    fn check_volumes(
        &self,
        segments: &Segments,
        read_data: bool,
        wanted: &mut HashSet<Digest>,
        bad: &mut BTreeMap<Digest, String>,
        report: &mut CheckReport,
    ) {
        report.volumes = segments.volumes().len() as u64;
        let fault = |error: &RepositoryError| Fault { what: chain(error), affects: Vec::new() };
        report.faults.extend(segments.faults().iter().map(fault));
        for (number, volume) in (0..).zip(segments.volumes()) {
            // Where that fails, it is among the faults already.
            let Ok(index) = self.read_index(volume) else { continue };
            report.faults.extend(self.check_archive(volume, &index).err().as_ref().map(fault));
            let mut signatures = index.entries().filter_map(|entry| entry.signature);
            let missing = match read_data {
                true => signatures.find_map(|at| segments.signature_record(self, number, at).err()),
                false => signatures.next().and_then(|_| self.blob(&self.signatures_path(volume)).err()),
            };
            if let Some(error) = missing {
                let what = format!("{}; this only makes later deltas larger", chain(&error));
                report.faults.push(Fault { what, affects: Vec::new() });
            }
        }
        let mut to_do: Vec<Digest> = wanted.iter().copied().collect();
        while let Some(digest) = to_do.pop() {
            let located = match segments.locate(self, &digest) {
                Ok(Some(located)) => located,
                Ok(None) => {
                    bad.insert(digest, format!("segment {digest} is in no volume"));
                    continue;
                }
                Err(error) => {
                    bad.insert(digest, format!("segment {digest}: {}", chain(&error)));
                    continue;
                }
            };
            let view = located.index.entry(located.place.entry as usize);
            if let Some(EntryKind::Delta { bases, .. }) = view.map(|view| view.kind) {
                to_do.extend(bases.iter().filter(|base| wanted.insert(**base)));
            }
        }
    }

    /// Checks without reading it that the archive of a volume can be the one that its index describes.
    fn check_archive(&self, volume: &Volume, index: &VolumeIndex) -> Result<(), RepositoryError> {
        let len = self.blob_len(&volume.archive)?;
        if len == index.packed_len() {
            return Ok(());
        }
        let fault = format!("it has {len} bytes instead of {}", index.packed_len());
        Err(RepositoryError::damaged(&volume.archive.path)(fault.into()))
    }

    fn check_layers(
        &self,
        options: &CheckOptions,
        progress: &Progress,
        report: &mut CheckReport,
    ) -> Result<(), RepositoryError> {
        let layers = self.timeline.git().refresh().map_err(TimelineError::from)?;
        let indexes = layers.faults().iter();
        report.faults.extend(indexes.map(|error| Fault { what: chain(error), affects: Vec::new() }));
        for layer in layers.layers() {
            progress.check()?;
            // Of those that are elsewhere, what snapshots need is read segment by segment.
            let verified = (options.read_data && layer.pack_bytes().is_some()).then(|| layer.verify());
            report.layers += u64::from(verified.is_some());
            let damage = match verified {
                Some(Ok(check)) => check.damage,
                Some(Err(error)) => vec![error],
                None => layer.expect_whole().err().into_iter().collect(),
            };
            let faults = damage.iter().map(|error| Fault { what: chain(error), affects: Vec::new() });
            report.faults.extend(faults);
        }
        Ok(())
    }

    /// Reads every segment, in the order in which they lie.
    fn check_segments(
        &self,
        segments: &Segments,
        wanted: &HashSet<Digest>,
        options: &CheckOptions,
        progress: &Progress,
        bad: &mut BTreeMap<Digest, String>,
        report: &mut CheckReport,
    ) -> Result<(), RepositoryError> {
        let placed = wanted.iter().filter_map(|digest| Some((segments.place(digest)?, *digest)));
        let mut placed: Vec<_> = placed.collect();
        placed.sort_unstable_by_key(|(place, _)| (place.volume, place.entry));
        progress.total_files.add(placed.len() as u64);
        let next = AtomicUsize::new(0);
        let found = Mutex::new((bad, 0));
        let work = || {
            // Runs of neighbours, so that each thread inflates a member once.
            while let Some(run) =
                placed.get(next.fetch_add(RUN, Ordering::Relaxed)..).filter(|run| !run.is_empty())
            {
                for (_, digest) in &run[..RUN.min(run.len())] {
                    if progress.check().is_err() {
                        return;
                    }
                    let read = segments.read_checked(self, digest);
                    progress.files.add(1);
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    match read {
                        Ok(bytes) => {
                            progress.bytes.add(bytes.len() as u64);
                            found.1 += bytes.len() as u64;
                        }
                        Err(error) => {
                            drop(found.0.insert(*digest, format!("segment {digest}: {}", chain(&error))))
                        }
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..options.threads {
                scope.spawn(work);
            }
            work();
        });
        report.bytes_read = found.into_inner().unwrap_or_else(PoisonError::into_inner).1;
        Ok(progress.check()?)
    }

    /// For each bad segment some of the files that need it, directly.
    fn affected(
        &self,
        snapshots: &[Snapshot],
        bad: &BTreeMap<Digest, String>,
    ) -> HashMap<Digest, Vec<String>> {
        let mut affected: HashMap<Digest, Vec<String>> = HashMap::new();
        if bad.is_empty() {
            return affected;
        }
        for snapshot in snapshots {
            // What cannot be read is a fault of its own already.
            let Ok(pages) = Pages::of(self, &snapshot.record) else { continue };
            let entries = (0..pages.len()).filter_map(|number| pages.read(number).ok()).flatten();
            for entry in entries {
                let needs = entry.content().into_iter().flat_map(|content| content.segments.iter());
                for segment in needs.filter(|segment| bad.contains_key(&segment.digest)) {
                    let files = affected.entry(segment.digest).or_default();
                    if files.len() < AFFECTED {
                        files.push(self.name(snapshot, &entry));
                    }
                }
            }
        }
        affected
    }

    fn name(&self, snapshot: &Snapshot, entry: &Entry) -> String {
        format!("{}:{}", snapshot.short_id(), self.display_path(snapshot, &entry.path).display())
    }
}

/// Segments that a thread reads one after the other.
const RUN: usize = 64;
