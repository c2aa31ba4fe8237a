//! Whether everything that snapshots need is there and sound.
//!
//! A check is a restore that writes nothing: it reads pages as a restore does, so it finds what a restore would refuse,
//! that pages are out of order, are listed twice or do not have as many entries as they should, entries that can stand
//! nowhere, and segments of another length than the index says.
//!
//! Without reading data: every layer is here and ends as its index says, or is in a cold remote; every record,
//! page and volume index can be read, every volume is as long as its index says, its signatures are there, every
//! segment that a page names is in a volume, and so is every base of a delta. With it: every layer that is here
//! matches its checksums, every signature can be read, and every segment that a snapshot needs has its SHA-256.
//!
//! What cannot be read hides nothing else: of a repository whose newest state is damaged the layers are looked at.
//!
//! Without the key of an encrypted repository: every blob looks like an encrypted one, volumes and indexes
//! come in pairs, no layer is missing or cut off, there are keys, and, if data is read, every layer matches its
//! checksums.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::archive::{EntryKind, VolumeIndex};
use crate::causes::chain;
use crate::diff::{Entry, Kind, SegmentRef};
use crate::digest::Digest;
use crate::format::kind;
use crate::gitkv::Git;
use crate::layers::{Cold, OutOfReach};
use crate::progress::Progress;
use crate::relpath::RelPath;
use crate::repository::blobs::Blob;
use crate::repository::chain::MAX_DEPTH;
use crate::repository::pages::{PageOrder, Pages};
use crate::repository::segments::{Segments, Volume};
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
    /// What could not be looked at, since it is in a remote that cannot be reached: nobody knows whether it is sound.
    pub out_of_reach: Vec<Unseen>,
}

impl CheckReport {
    fn add(&mut self, Finding { what, unseen_for }: Finding, affects: Vec<String>) {
        let Some(cause) = unseen_for else { return self.faults.push(Fault { what, affects }) };
        let at = self.out_of_reach.iter().position(|unseen| unseen.cause == cause).unwrap_or_else(|| {
            self.out_of_reach.push(Unseen { first: Fault { what, affects: Vec::new() }, count: 0, cause });
            self.out_of_reach.len() - 1
        });
        let Unseen { first: Fault { affects: known, .. }, count, .. } = &mut self.out_of_reach[at];
        *count += 1;
        let room = AFFECTED.saturating_sub(known.len());
        let new: Vec<_> = affects.into_iter().filter(|path| !known.contains(path)).take(room).collect();
        known.extend(new);
    }

    /// What could be looked at; an error is among the faults, once for all that it is in the way of. Fails where
    /// the check is to stop.
    fn note<T>(
        &mut self,
        looked: Result<T, RepositoryError>,
        progress: &Progress,
    ) -> Result<Option<T>, RepositoryError> {
        let error = match looked {
            Ok(found) => return Ok(Some(found)),
            Err(error) => error,
        };
        progress.check()?;
        let found = Finding::of(&error);
        let is_known = found.unseen_for.is_none() && self.faults.iter().any(|fault| fault.what == found.what);
        if !is_known {
            self.add(found, Vec::new());
        }
        Ok(None)
    }

    fn add_all<'a, E: std::error::Error + 'static>(&mut self, errors: impl IntoIterator<Item = &'a E>) {
        errors.into_iter().for_each(|error| self.add(Finding::of(error), Vec::new()));
    }
}

/// What is wrong, in words; or why that cannot be known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    what: String,
    /// Why nobody can know, where that is so.
    unseen_for: Option<String>,
}

impl Finding {
    fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        Self { what: chain(error), unseen_for: OutOfReach::find(error).map(|error| chain(&error)) }
    }

    /// The same, told of `subject`.
    fn about(subject: impl fmt::Display, error: &(dyn std::error::Error + 'static)) -> Self {
        let found = Self::of(error);
        Self { what: format!("{subject}: {}", found.what), ..found }
    }
}

impl From<String> for Finding {
    fn from(what: String) -> Self {
        Self { what, unseen_for: None }
    }
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

/// What could not be looked at for one reason.
#[derive(Debug)]
pub struct Unseen {
    /// One thing of it, and some of everything that is affected.
    pub first: Fault,
    /// How many there are.
    pub count: u64,
    /// Why it cannot be known.
    pub cause: String,
}

/// The path of a page's blob, its offset and length there, and how many entries it should have.
type PagePlace = (String, u64, u32, u32);

fn page_place(pages: &Pages<'_>, number: usize) -> PagePlace {
    let (path, place) = pages.place(number);
    (path.to_owned(), place.offset, place.len, place.entries)
}

/// Pages that were looked at.
#[derive(Default)]
struct CheckedPages {
    sound: HashMap<PagePlace, SoundPage>,
    /// With what is wrong with them.
    bad: HashMap<PagePlace, Finding>,
    /// What is wrong, and the ids of the snapshots that need it.
    faults: BTreeMap<Finding, BTreeSet<String>>,
    /// What is wrong with single entries, and some of those.
    entries: BTreeMap<&'static str, Vec<String>>,
}

/// What remains of a page that can be read.
struct SoundPage {
    first: RelPath,
    last: RelPath,
    /// Whether something can lie in the last.
    ends_in_directory: bool,
    /// See [`Pages::taken`].
    taken: u64,
}

/// What is wrong with segments.
type BadSegments = BTreeMap<SegmentRef, Finding>;

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
        self.check_branch(&mut report, progress)?;
        for kind in kind::ALL {
            let listed = report.note(self.blobs_and_strays(kind), progress)?;
            report.add_all(listed.iter().flat_map(|(_, strays)| strays));
        }
        let mut snapshots = Vec::new();
        for record in report.note(self.records(), progress)?.unwrap_or_default() {
            report.snapshots += 1;
            match record.snapshot {
                Ok(snapshot) => snapshots.push(snapshot),
                Err(error) => report.add(Finding::of(&error), Vec::new()),
            }
        }
        for snapshot in &snapshots {
            progress.check()?;
            if let Err(error) = self.check_pages(snapshot, &mut pages, &mut wanted) {
                let affects = vec![snapshot.name()];
                report.add(Finding::of(&error), affects);
            }
        }
        report.pages = (pages.sound.len() + pages.bad.len()) as u64;
        for (found, affects) in pages.faults {
            report.add(found, affects.into_iter().collect());
        }
        for (what, affects) in pages.entries {
            report.add(format!("something cannot be restored, since {what}").into(), affects);
        }
        report.segments = wanted.len() as u64;
        let segments = report.note(self.segments(), progress)?;
        let mut bad = BadSegments::new();
        if let Some(segments) = &segments {
            self.check_volumes(segments, options.read_data, &wanted, &mut bad, &mut report);
        }
        check_layers(self.timeline.git(), options, progress, &mut report)?;
        if let Some(segments) = segments.filter(|_| options.read_data) {
            self.check_segments(&segments, &wanted, options, progress, &mut bad, &mut report)?;
        }
        let mut affected = self.affected(&snapshots, &bad);
        for (segment, found) in bad {
            let affects = affected.remove(&segment).unwrap_or_default();
            report.add(found, affects);
        }
        Ok(report)
    }

    /// Checks what can be checked of the repository at `path`, which cannot be opened for `error`: its layers, of which
    /// those that are not here are in `cold`. Fails with that error where it does not say that something is
    /// [damaged](RepositoryError::is_damage).
    pub fn check_unopened(
        path: &Path,
        error: RepositoryError,
        cold: Option<Arc<Cold>>,
        options: &CheckOptions,
        progress: &Progress,
    ) -> Result<CheckReport, RepositoryError> {
        let git = if error.is_damage() { Git::open(path).ok() } else { None };
        let Some(git) = git else { return Err(error) };
        cold.map_or(Ok(()), |cold| git.read_cold(cold)).map_err(TimelineError::from)?;
        let mut report = CheckReport::default();
        report.add_all([&error]);
        check_layers(&git, options, progress, &mut report)?;
        Ok(report)
    }

    /// Checks that the branch was not set back.
    fn check_branch(&self, report: &mut CheckReport, progress: &Progress) -> Result<(), RepositoryError> {
        report.note(self.expect_newest(), progress).map(drop)
    }

    /// Checks what can be checked without a key.
    fn check_locked(
        &self,
        options: &CheckOptions,
        progress: &Progress,
    ) -> Result<CheckReport, RepositoryError> {
        let mut report = CheckReport::default();
        self.check_branch(&mut report, progress)?;
        for kind in kind::ALL {
            let Some((blobs, strays)) = report.note(self.blobs_and_strays(kind), progress)? else { continue };
            report.add_all(&strays);
            for found in blobs {
                progress.check()?;
                let blob = Blob::listed(kind, &found);
                report.unread += 1;
                report.snapshots += u64::from(kind == kind::SNAPSHOTS);
                report.add_all(&self.blob_len(&blob).err());
            }
        }
        if let Some((volumes, faults)) = report.note(self.volumes(), progress)? {
            report.volumes = volumes.len() as u64;
            report.add_all(&faults);
        }
        if let Some(keys) = report.note(self.keys(&[]), progress)? {
            report.add_all(keys.iter().filter_map(|slot| slot.kind.as_ref().err()));
            if !keys.iter().any(|slot| slot.kind.is_ok()) {
                let what =
                    "no key is left that could be opened: fetch one from a remote or a copy".to_owned();
                report.add(what.into(), Vec::new());
            }
        }
        check_layers(self.timeline.git(), options, progress, &mut report)?;
        Ok(report)
    }

    /// Checks the pages of a snapshot, all of them, whatever is wrong with some.
    fn check_pages(
        &self,
        snapshot: &Snapshot,
        checked: &mut CheckedPages,
        wanted: &mut HashSet<SegmentRef>,
    ) -> Result<(), RepositoryError> {
        let pages = Pages::of(self, &snapshot.record)?;
        let mut order = PageOrder::default();
        // The last path of the page before, if nothing can lie in it.
        let mut leaf: Option<RelPath> = None;
        for number in 0..pages.len() {
            let page = page_place(&pages, number);
            if !checked.sound.contains_key(&page) && !checked.bad.contains_key(&page) {
                match pages.read(number) {
                    Ok(entries) => {
                        let contents = entries.iter().filter_map(Entry::content);
                        wanted.extend(contents.flat_map(|content| &content.segments));
                        self.check_entries(snapshot, &entries, checked);
                        checked.sound.extend(
                            SoundPage::of(&entries, pages.taken(number)).map(|sound| (page.clone(), sound)),
                        );
                    }
                    Err(error) => drop(checked.bad.insert(page.clone(), Finding::of(&error))),
                }
            }
            // A page that several snapshots share needs one look; a bad one affects them all.
            let what = match (checked.sound.get(&page), checked.bad.get(&page)) {
                (Some(sound), _) => {
                    if leaf.as_ref().is_some_and(|leaf| sound.first.is_within(leaf)) {
                        note(&mut checked.entries, IN_FILE, || self.shown(snapshot, &sound.first));
                    }
                    leaf = (!sound.ends_in_directory).then(|| sound.last.clone());
                    let followed = pages
                        .take(number, sound.taken)
                        .and_then(|()| pages.follow_ends(&mut order, number, &sound.first, &sound.last));
                    match followed {
                        Ok(()) => continue,
                        Err(error) => Finding::of(&error),
                    }
                }
                (None, Some(found)) => found.clone(),
                (None, None) => continue,
            };
            checked.faults.entry(what).or_default().insert(snapshot.name());
        }
        Ok(())
    }

    /// Checks single entries of a page.
    fn check_entries(&self, snapshot: &Snapshot, entries: &[Entry], checked: &mut CheckedPages) {
        for entry in entries {
            if let Some(fault) = entry.fault() {
                note(&mut checked.entries, fault, || self.shown(snapshot, &entry.path));
            }
        }
        for pair in entries.windows(2) {
            let [above, entry] = pair else { continue };
            if !matches!(above.kind, Kind::Directory) && entry.path.is_within(&above.path) {
                note(&mut checked.entries, IN_FILE, || self.shown(snapshot, &entry.path));
            }
        }
    }

    /// Checks that all wanted segments and the bases of their deltas are in volumes, and have the lengths that pages say.
    fn check_volumes(
        &self,
        segments: &Segments,
        read_data: bool,
        wanted: &HashSet<SegmentRef>,
        bad: &mut BadSegments,
        report: &mut CheckReport,
    ) {
        report.volumes = segments.volumes().len() as u64;
        report.add_all(segments.faults());
        for (number, volume) in (0..).zip(segments.volumes()) {
            // Where that fails, it is among the faults already, and may take much to try again.
            if segments.is_unusable(number) {
                continue;
            }
            let Ok(index) = self.read_index(volume) else { continue };
            report.add_all(&self.check_archive(volume, &index).err());
            let signatures: Vec<_> = index.entries().filter_map(|entry| entry.signature).collect();
            // Were they not apart, reading each would take more than reading the blob.
            let bytes: u64 = signatures.iter().map(|at| u64::from(at.len)).sum();
            let blob_len = || self.blob_len(&self.blob(&self.signatures_path(volume))?);
            let are_apart = !read_data || bytes == 0 || blob_len().is_ok_and(|len| bytes <= len);
            let missing = match read_data && are_apart {
                true => signatures.iter().find_map(|&at| segments.signature_record(self, number, at).err()),
                false => signatures.first().and_then(|_| self.blob(&self.signatures_path(volume)).err()),
            };
            if let Some(error) = missing {
                let found = Finding::of(&error);
                let what = format!("{}; this only makes later deltas larger", found.what);
                report.add(Finding { what, ..found }, Vec::new());
            } else if !are_apart {
                let path = self.signatures_path(volume);
                report.add_all([&RepositoryError::damaged(&path)("its parts overlap".into())]);
            }
        }
        // What is wanted itself is looked at anyhow.
        let mut bases: HashSet<Digest> = wanted.iter().map(|segment| segment.digest).collect();
        let mut round: Vec<(Digest, Option<u32>)> =
            wanted.iter().map(|segment| (segment.digest, Some(segment.len))).collect();
        // A depth that an index states wrong lets nothing go on for longer.
        for depth in 0..=MAX_DEPTH + 1 {
            // As they lie, so that an index is read once and not for each segment.
            round.sort_by_cached_key(|(digest, _)| {
                segments.place(digest).map(|place| (place.volume, place.entry))
            });
            let mut next = Vec::new();
            for (digest, len) in round {
                let new = |base: &&Digest| bases.insert(**base);
                let found = match depth > MAX_DEPTH {
                    true => Err(Finding::of(&RepositoryError::Chain(digest))),
                    false => self.check_segment(segments, digest, len, |below| {
                        next.extend(below.iter().filter(new).map(|base| (*base, None)));
                    }),
                };
                if let Err(what) = found {
                    bad.insert(SegmentRef { digest, len: len.unwrap_or(0) }, what);
                }
            }
            round = next;
        }
    }

    /// Checks that a segment is in a volume, and has the length `len` if there is one; `hang` is told its bases.
    fn check_segment(
        &self,
        segments: &Segments,
        digest: Digest,
        len: Option<u32>,
        hang: impl FnOnce(&[Digest]),
    ) -> Result<(), Finding> {
        let missing = || format!("segment {digest} is in no volume");
        let located = segments.locate(self, &digest);
        let located = located.map_err(|error| Finding::about(format_args!("segment {digest}"), &error))?;
        let located = located.ok_or_else(missing)?;
        let view = located.index.entry(located.place.entry as usize).ok_or_else(missing)?;
        if let EntryKind::Delta { bases, depth, .. } = view.kind {
            if depth > MAX_DEPTH {
                return Err(Finding::of(&RepositoryError::Chain(digest)));
            }
            hang(bases);
        }
        match len {
            Some(len) if len != view.segment_len => {
                Err(Finding::of(&RepositoryError::SegmentLen { digest, expected: len }))
            }
            _ => Ok(()),
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

    /// Reads every segment, in the order in which they lie.
    fn check_segments(
        &self,
        segments: &Segments,
        wanted: &HashSet<SegmentRef>,
        options: &CheckOptions,
        progress: &Progress,
        bad: &mut BadSegments,
        report: &mut CheckReport,
    ) -> Result<(), RepositoryError> {
        let placed = wanted.iter().filter_map(|segment| Some((segments.place(&segment.digest)?, *segment)));
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
                for (_, segment) in &run[..RUN.min(run.len())] {
                    if progress.check().is_err() {
                        return;
                    }
                    let read = segments.read_exact(self, segment);
                    progress.files.add(1);
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    match read {
                        Ok(bytes) => {
                            progress.bytes.add(bytes.len() as u64);
                            found.1 += bytes.len() as u64;
                        }
                        Err(error) => {
                            let what = Finding::about(format_args!("segment {}", segment.digest), &error);
                            found.0.insert(*segment, what);
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
    fn affected(&self, snapshots: &[Snapshot], bad: &BadSegments) -> HashMap<SegmentRef, Vec<String>> {
        let mut affected: HashMap<SegmentRef, Vec<String>> = HashMap::new();
        // What needs any of them in a page that several snapshots share.
        let mut hits: HashMap<PagePlace, Vec<(SegmentRef, RelPath)>> = HashMap::new();
        for snapshot in snapshots.iter().filter(|_| !bad.is_empty()) {
            // What cannot be read is a fault of its own already.
            let Ok(pages) = Pages::of(self, &snapshot.record) else { continue };
            for number in 0..pages.len() {
                let hits = hits.entry(page_place(&pages, number)).or_insert_with(|| {
                    let mut hits = Vec::new();
                    for entry in pages.read(number).into_iter().flatten() {
                        let needs = entry.content().into_iter().flat_map(|content| content.segments.iter());
                        let needs = needs.filter(|segment| bad.contains_key(segment));
                        hits.extend(needs.take(AFFECTED).map(|segment| (*segment, entry.path.clone())));
                    }
                    hits
                });
                for (segment, path) in hits {
                    let files = affected.entry(*segment).or_default();
                    if files.len() < AFFECTED {
                        files.push(self.shown(snapshot, path));
                    }
                }
            }
        }
        affected
    }

    /// What a path of a snapshot is called in a fault.
    fn shown(&self, snapshot: &Snapshot, path: &RelPath) -> String {
        format!("{}:{}", snapshot.name(), snapshot.display_path(path).display())
    }
}

/// Checks that every layer is whole, or with `read_data` sound.
fn check_layers(
    git: &Git,
    options: &CheckOptions,
    progress: &Progress,
    report: &mut CheckReport,
) -> Result<(), RepositoryError> {
    let layers = git.refresh().map_err(TimelineError::from)?;
    let lone = git.lone_packs().map_err(TimelineError::from)?;
    for path in &lone {
        let what = format!(
            "the pack {} has no index, so nothing reads what it holds: `treering prune` removes it unless something is \
             missing without it, and `git index-pack` makes the index",
            path.display()
        );
        report.add(what.into(), Vec::new());
    }
    report.add_all(layers.faults());
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
        report.add_all(&damage);
    }
    Ok(())
}

/// What is wrong with an entry below one that is no directory.
const IN_FILE: &str = "it lies in something that is no directory";

/// Notes what is wrong with an entry, which `shown` names.
fn note(
    entries: &mut BTreeMap<&'static str, Vec<String>>,
    fault: &'static str,
    shown: impl FnOnce() -> String,
) {
    let named = entries.entry(fault).or_default();
    if named.len() < AFFECTED {
        named.push(shown());
    }
}

impl SoundPage {
    fn of(entries: &[Entry], taken: u64) -> Option<Self> {
        let (first, last) = entries.first().zip(entries.last())?;
        Some(Self {
            first: first.path.clone(),
            last: last.path.clone(),
            ends_in_directory: matches!(last.kind, Kind::Directory),
            taken,
        })
    }
}

/// Segments that a thread reads one after the other.
const RUN: usize = 64;
