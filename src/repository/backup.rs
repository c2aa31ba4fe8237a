//! Taking a snapshot.
//!
//! Four threads beside the workers: one reads files and cuts them; this one takes what the workers made of
//! the segments, in order, and appends what is new to the volume; one encodes finished volumes; one writes
//! them into layers. Each waits for the next when that is behind, so memory is bounded by the segments on the
//! way (see [`ReadOptions`]) and three volumes, four where they are encrypted.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::Serialize;
use serde_bytes::ByteBuf;

use crate::archive::{self, Codec, Payload, VolumeOptions, VolumeWriter, gzip};
use crate::cbor;
use crate::diff::{
    self, Change, ChangeRef, Entry, Excludes, LeftOut, ReadOptions, ScanError, ScanOptions, Stat, fill,
};
use crate::format::{SNAPSHOT_SUFFIX, kind};
use crate::gitkv::{Person, Swept};
use crate::layers::LayerInfo;
use crate::pipeline::lock;
use crate::progress::{Interrupted, Progress};
use crate::relpath::RelPath;
use crate::repository::cache::{Cache, CacheError};
use crate::repository::compare::retain_comparable;
use crate::repository::maker::{Faults, Made, Maker};
use crate::repository::pages::{IndexChange, Pages};
use crate::repository::plan::{Plan, PlanOptions, Sources, count, plan};
use crate::repository::segments::Segments;
use crate::repository::snapshot::{list_unreadable, listed_above};
use crate::repository::volumes::{Finished, ToWrite};
use crate::repository::{
    Repository, RepositoryError, Snapshot, SnapshotName, SnapshotRecord, Statistics, is_future,
};
use crate::timeline::{Batch, Tier, TimeKey, TimelineError, path};

/// Volumes after which what is stored is committed, so that an interrupted backup does not start from nothing.
const CHECKPOINT: usize = 16;

/// A layer of volumes ends at this many bytes, or at this part of all that the backup has stored where that is
/// more: so that there is little to hash after the last volume, and a large backup makes few layers.
const MIN_LAYER: u64 = 48 << 20;
const LAYER_PART: u64 = 4;

/// How old an entry of the cache is that no other backup under way can have put there, to be committed soon.
const UNCOMMITTED: Duration = Duration::from_secs(7 * 24 * 3600);

/// What is backed up, and how.
#[derive(Debug, Clone)]
pub struct BackupOptions {
    /// Files and directories.
    pub sources: Vec<PathBuf>,
    /// The time now, by the clock that also stamps files.
    pub now: Timestamp,
    /// The time of the snapshot.
    pub time: Timestamp,
    /// The name of this host.
    pub host: String,
    /// The name of the user.
    pub user: String,
    /// Tags for the snapshot.
    pub tags: Vec<String>,
    /// What is left out.
    pub excludes: Excludes,
    /// Stay in the file systems of the sources.
    pub one_file_system: bool,
    /// Read every file, whatever the parent says.
    pub force: bool,
    /// Store nothing.
    pub dry_run: bool,
    /// Tell what is left out, and why.
    pub list_left_out: bool,
    /// Threads that work on segments, and as many that compress.
    pub threads: usize,
}

impl BackupOptions {
    /// A snapshot of `sources` as of now, by nobody in particular.
    pub fn new(sources: Vec<PathBuf>, now: Timestamp) -> Self {
        Self {
            sources,
            now,
            time: now,
            host: "localhost".into(),
            user: "treering".into(),
            tags: Vec::new(),
            excludes: Excludes::default(),
            one_file_system: false,
            force: false,
            dry_run: false,
            list_left_out: false,
            threads: std::thread::available_parallelism().map_or(1, Into::into),
        }
    }
}

/// What a backup did.
#[derive(Debug)]
pub struct BackupReport {
    /// The snapshot; `None` for a dry run.
    pub snapshot: Option<Snapshot>,
    /// Time key of the snapshot that this was compared with.
    pub parent: Option<String>,
    /// Whether that is none of the same sources, so that differences from it mean nothing to a person: it only
    /// saved reading or storing what the two share.
    pub is_first: bool,
    /// Counts.
    pub statistics: Statistics,
    /// Files that were not opened, since size, times and inode are those of the parent.
    pub not_opened: u64,
    /// Sources that are symbolic links, and are saved as such.
    pub links: Vec<PathBuf>,
    /// Sources that are symbolic links, and are followed since they are named with a slash too: the links are not saved.
    pub followed: Vec<PathBuf>,
    /// Sources that had many files in the parent and have none now, and how many they had.
    pub emptied: Vec<(PathBuf, u64)>,
    /// Names that only this snapshot or only its parent has, and that could not be read for the other: nobody knows
    /// whether they changed, and they are not among the [changes](Self::changes).
    pub unknown: u64,
    /// What was left out on purpose, where that was asked for, in path order.
    pub left_out: Vec<LeftOut>,
    /// What could not be read, or changed while it was read.
    pub problems: Vec<ScanError>,
    /// The layers that were added.
    pub layers: Vec<LayerInfo>,
    /// Bytes of these layers, git's own objects and indexes with them; for a dry run, what the volumes would have had.
    pub bytes_added: u64,
    /// What this could not be compared with.
    pub unread: Unread,
    /// Segments that are damaged in the repository, or that could not be compared with such, and were stored in full.
    /// Only a forced backup looks for them; others find what they come across.
    pub damaged: u64,
    /// The first fault of these.
    pub first_damage: Option<RepositoryError>,
    /// Segments that are in a remote which cannot be reached, or that could not be compared with such, and were stored in
    /// full.
    pub out_of_reach: u64,
    /// Why the first of them could not be read.
    pub first_out_of_reach: Option<RepositoryError>,
    /// The first fault of what describes earlier snapshots, if there is one: this could not be compared with them.
    pub base_fault: Option<RepositoryError>,
    /// Volumes that are lost, and why: what was needed of them and is still in the sources was stored again.
    pub lost: Vec<RepositoryError>,
    /// Snapshots of the same host and sources that are dated in the future. One of them is the parent only if there
    /// are no others.
    pub future: Vec<SnapshotName>,
    /// Why the cache could not be written, if so; the next backup may then store more than it must.
    pub cache_error: Option<CacheError>,
    /// What dead processes had left in the repository, and was removed first.
    pub swept: Swept,
    old: Vec<Entry>,
    new: Vec<Entry>,
}

impl BackupReport {
    /// What differs from the parent, in path order; everything where there is none. What could not be read for one of
    /// the two is [unknown](Self::unknown).
    pub fn changes(&self) -> Vec<ChangeRef<'_>> {
        diff::compare(&self.old, &self.new)
    }

    /// Takes out of what is compared the names that could not be read for `parent` or, as `unreadable` says, now.
    fn leave_out_unknown(&mut self, parent: Option<&Snapshot>, unreadable: &[RelPath]) {
        self.unknown = retain_comparable(
            &mut self.old,
            &mut self.new,
            |path| parent.is_some_and(|parent| parent.record.is_unreadable(path)),
            |path| listed_above(unreadable, path).is_some(),
        );
    }
}

/// What lies in an encrypted repository, and could be read neither with a key nor from the cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unread {
    /// Snapshots. Where all of the same host and paths are among them, everything was read again.
    pub snapshots: u64,
    /// Volumes; counted where something had to be stored. Segments in them were stored again, whole.
    pub volumes: u64,
    /// Segments that a forced backup took for whole without reading them.
    pub segments: u64,
}

impl Repository {
    /// Takes a snapshot.
    ///
    /// What cannot be read is in the report and missing from the snapshot. When `progress` is asked to stop,
    /// what was stored so far is committed without a snapshot, for the next backup to use.
    pub fn backup(
        &self,
        options: &BackupOptions,
        progress: &Progress,
    ) -> Result<BackupReport, RepositoryError> {
        let mut sources = Sources::new(&options.sources)?;
        // What they were to leave out must not be saved, nor an empty snapshot stand for what they leave.
        let excludes = options.excludes.load()?;
        excludes.check_leaves_some(&sources.roots)?;
        let swept = match options.dry_run {
            true => Swept::default(),
            false => self.timeline.sweep()?,
        };
        // Whoever prunes waits for this: what the new snapshot shares with earlier ones must stay until it is
        // named again.
        let _keep = match options.dry_run {
            true => None,
            // Unlike a reader, a writer does nothing without it.
            false => Some(self.timeline.git().keep_layers().map_err(TimelineError::from)?),
        };
        let _hold = self.hold()?;
        if !options.dry_run {
            self.trust_what_is_here()?;
        }
        if let Some(cache) = self.cache().filter(|_| !options.dry_run) {
            cache.sweep_unfinished();
        }
        self.fill_cache()?;
        let Parent { snapshot: mut parent, mut unread, mut fault, future } =
            self.parent(&sources, options)?;
        let began = SystemTime::from(options.now);
        let scan = ScanOptions {
            excludes,
            one_file_system: options.one_file_system,
            // A backup of itself would be in the next one, and so on.
            leave_out: self.own_directory(),
            threads: options.threads,
            left_out: options.list_left_out.then(Arc::default),
        };
        let lost = self.lost_volumes()?;
        let is_all_there = lost.is_empty() && self.removed_elsewhere()?.is_empty();
        let segments = if is_all_there { None } else { Some(self.segments()?) };
        let plan_options = PlanOptions {
            scan: &scan,
            force: options.force,
            segments: segments.as_deref(),
            threads: options.threads,
            began,
        };
        let planned = match self.plan_against(parent.as_ref(), &sources, &plan_options, progress) {
            // An index that cannot be read costs the comparison with it, not the backup.
            Err(
                error @ (RepositoryError::Damaged { .. }
                | RepositoryError::OutOfReach { .. }
                | RepositoryError::Encrypted),
            ) if parent.take().is_some() => {
                match error {
                    RepositoryError::Encrypted => unread.snapshots += 1,
                    error => drop(fault.get_or_insert(error)),
                }
                self.plan_against(None, &sources, &plan_options, progress)
            }
            planned => planned,
        };
        let (pages, mut plan) = planned?;
        plan.problems.append(&mut sources.missing);
        // Of two snapshots of one time, as a clock that stands makes them, the later one is the newer one.
        let head = self.timeline.git().head().map_err(TimelineError::from)?;
        let key = self.timeline.key_after_those(head, kind::SNAPSHOTS, options.time)?;
        let mut session = Session::new(self, key, options)?;
        (unread.volumes, unread.segments) = session.store_contents(&sources, &mut plan, began, progress)?;
        let mut report = session.finish(&sources, parent.as_ref(), &pages, plan)?;
        if report.snapshot.is_some() && report.statistics.bytes_volumes > 0 {
            self.sweep_cache(began.checked_sub(UNCOMMITTED).unwrap_or(began))?;
        }
        report.cache_error = self.cache().and_then(Cache::failure);
        report.unread = unread;
        report.base_fault = fault;
        report.future = future;
        if let Some(left_out) = &scan.left_out {
            report.left_out = std::mem::take(&mut *lock(left_out));
            report.left_out.sort_by(|a, b| a.path.cmp(&b.path));
            // Planned twice, it is told twice.
            report.left_out.dedup();
        }
        report.lost = lost;
        report.swept = swept;
        if !options.dry_run {
            self.keep_reserve();
        }
        Ok(report)
    }

    /// Device and inode number of the repository's own directory.
    pub(super) fn own_directory(&self) -> Option<(u64, u64)> {
        let stat = Stat::from(rustix::fs::stat(self.timeline.git().path()).ok()?);
        Some((stat.device, stat.inode))
    }

    fn plan_against(
        &self,
        parent: Option<&Snapshot>,
        sources: &Sources,
        options: &PlanOptions<'_>,
        progress: &Progress,
    ) -> Result<(Pages<'_>, Plan), RepositoryError> {
        let pages = match parent {
            Some(parent) => Pages::of(self, &parent.record)?,
            None => Pages::none(self),
        };
        let plan = plan(sources, &pages, options, progress)?;
        Ok((pages, plan))
    }

    /// The newest snapshot of the same host and the same paths; else, for one directory, the newest of any
    /// one directory of that host. One that is dated in the future comes after all others: it would stay the
    /// parent until its date has come, and each backup would store again what changed since it.
    fn parent(&self, sources: &Sources, options: &BackupOptions) -> Result<Parent, RepositoryError> {
        let mut snapshots = Vec::new();
        let (mut unread, mut fault) = (Unread::default(), None);
        for record in self.records()? {
            match record.snapshot {
                Ok(snapshot) => snapshots.push(snapshot),
                Err(RepositoryError::Encrypted) => unread.snapshots += 1,
                // One that cannot be read is no reason not to take another, but to be told.
                Err(error) => drop(fault.get_or_insert(error)),
            }
        }
        let (own, removed) = (self.own()?, self.removed_elsewhere()?);
        let suffix = self.suffix(SNAPSHOT_SUFFIX);
        snapshots.retain(|snapshot| {
            let path = path(kind::SNAPSHOTS, &snapshot.key, &suffix);
            snapshot.record.host == options.host
                && snapshot.record.layout == sources.layout
                // What somebody else says of this host's files may be made up.
                && own.wrote(&path, &snapshot.id)
                // What a remote does not have any more is nothing to rest on.
                && !removed.contains(&path)
                && !snapshot.record.pages.blobs.iter().any(|blob| removed.contains(blob))
        });
        let is_future = |snapshot: &Snapshot| is_future(snapshot.time(), options.now);
        // Stable, so that each part has the oldest first.
        snapshots.sort_by_key(|snapshot| !is_future(snapshot));
        let roots = roots_of(sources);
        let is_same = |snapshot: &Snapshot| snapshot.record.roots == roots;
        let future = snapshots.iter().filter(|snapshot| is_future(snapshot) && is_same(snapshot));
        let future = future.map(SnapshotName::from).collect();
        let snapshot = match snapshots.iter().rposition(is_same) {
            Some(at) => Some(snapshots.swap_remove(at)),
            None if roots.len() == 1 => snapshots.pop(),
            None => None,
        };
        Ok(Parent { snapshot, unread, fault, future })
    }
}

/// What a backup is compared with.
struct Parent {
    snapshot: Option<Snapshot>,
    /// What there was no key for.
    unread: Unread,
    /// Why the first of the snapshots that are damaged cannot be read.
    fault: Option<RepositoryError>,
    /// Snapshots of the same host and paths that are dated in the future.
    future: Vec<SnapshotName>,
}

fn roots_of(sources: &Sources) -> Vec<ByteBuf> {
    use std::os::unix::ffi::OsStrExt;
    sources.roots.iter().map(|root| ByteBuf::from(root.as_os_str().as_bytes())).collect()
}

/// One backup under way.
struct Session<'a> {
    repository: &'a Repository,
    key: TimeKey,
    who: Person,
    options: &'a BackupOptions,
    codec: Codec,
    /// `None` for a dry run.
    batch: Option<Batch<'a>>,
    /// Volumes written, and how many of them are committed.
    volumes: Vec<String>,
    committed: usize,
    layers: Vec<LayerInfo>,
    /// Bytes of the blobs that are committed.
    bytes_stored: u64,
    statistics: Statistics,
    faults: Faults,
}

impl<'a> Session<'a> {
    fn new(
        repository: &'a Repository,
        key: TimeKey,
        options: &'a BackupOptions,
    ) -> Result<Self, RepositoryError> {
        let batch = (!options.dry_run).then(|| repository.timeline.begin()).transpose()?;
        Ok(Self {
            repository,
            key,
            who: repository.committer(&options.user, &options.host, options.now),
            options,
            codec: repository.config.codec()?,
            batch,
            volumes: Vec::new(),
            committed: 0,
            layers: Vec::new(),
            bytes_stored: 0,
            statistics: Statistics::default(),
            faults: Faults::default(),
        })
    }

    /// Reads the new files of `plan` and stores their segments. Returns how many volumes cannot be known, and how
    /// many segments a forced backup could not read.
    fn store_contents(
        &mut self,
        sources: &Sources,
        plan: &mut Plan,
        began: SystemTime,
        progress: &Progress,
    ) -> Result<(u64, u64), RepositoryError> {
        if plan.new.iter().all(|entry| entry.content().is_none()) {
            return Ok((0, 0));
        }
        let repository = self.repository;
        let segments = repository.segments()?;
        let stored = self.store_segments(&segments, sources, plan, began, progress);
        if matches!(stored, Err(RepositoryError::Interrupted(_))) {
            self.checkpoint()?;
        }
        Ok((segments.unread(), stored?))
    }

    fn store_segments(
        &mut self,
        segments: &Segments,
        sources: &Sources,
        plan: &mut Plan,
        began: SystemTime,
        progress: &Progress,
    ) -> Result<u64, RepositoryError> {
        let Plan { old, new, problems, .. } = plan;
        let maker = Maker::new(self.repository, segments, old, new, self.options.force);
        let read = ReadOptions {
            threads: self.options.threads,
            ..ReadOptions::new(self.repository.config.segments, began)
        };
        let volume_options = VolumeOptions {
            codec: self.codec,
            threads: self.options.threads,
            padding: self.padding(),
            ..VolumeOptions::default()
        };
        let mut statistics = Statistics::default();
        let repository = self.repository;
        let (result, written) = std::thread::scope(|scope| {
            let (sender, finished) = sync_channel::<Finished>(0);
            let (encoded, to_write) = sync_channel(0);
            scope.spawn(move || {
                for finished in finished {
                    // Nobody receives once writing has failed.
                    if encoded.send(finished.encode(repository)).is_err() {
                        break;
                    }
                }
            });
            let writing = scope.spawn(|| self.write_volumes(to_write));
            let signatures = RefCell::new(HashMap::new());
            let sink = archive::gather(|volume| {
                let finished = Finished::new(volume, &mut signatures.borrow_mut())?;
                // Nobody receives once writing has failed; that failure is what gets reported.
                sender.send(finished).map_err(|_| RepositoryError::from(Interrupted))
            });
            let store = || {
                let mut writer = VolumeWriter::new(&volume_options, sink)?;
                let filled = fill(
                    new,
                    &sources.directory,
                    &read,
                    progress,
                    |number, piece| maker.make(number, piece),
                    |_, segment, made| {
                        statistics.bytes_read += u64::from(segment.len);
                        let Made::New { stored, signature } = made? else { return Ok(()) };
                        if !maker.note(stored.digest) {
                            return Ok(());
                        }
                        match stored.payload {
                            Payload::Whole(_) => statistics.segments_whole += 1,
                            Payload::Delta { .. } => statistics.segments_delta += 1,
                        }
                        signatures.borrow_mut().extend(signature.map(|bytes| (stored.digest, bytes)));
                        writer.append(stored)
                    },
                );
                // What was appended before an interruption is worth keeping.
                if matches!(filled, Ok(_) | Err(RepositoryError::Interrupted(_))) {
                    writer.finish()?;
                }
                filled
            };
            let filled = store();
            drop(sender);
            match writing.join() {
                Ok(written) => (filled, written),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        });
        // A failure to write is the reason of the failure to append.
        written?;
        problems.extend(result?);
        statistics.files_read = progress.files.get();
        self.statistics.files_read = statistics.files_read;
        self.statistics.bytes_read = statistics.bytes_read;
        self.statistics.segments_whole = statistics.segments_whole;
        self.statistics.segments_delta = statistics.segments_delta;
        let (faults, unread) = maker.into_faults();
        self.faults = faults;
        Ok(unread)
    }

    /// Blocks of zeros that volumes end with, beside the usual ones. Of what a forced backup finds damaged it may
    /// make the very bytes of the damaged volume; as another blob they cannot be taken for a copy of that.
    fn padding(&self) -> u8 {
        if self.options.force { 1 + (self.key.sequence() % 64) as u8 } else { 0 }
    }

    /// Writes volumes as they come, and commits from time to time.
    fn write_volumes(
        &mut self,
        volumes: Receiver<Result<ToWrite, RepositoryError>>,
    ) -> Result<(), RepositoryError> {
        for to_write in volumes {
            let to_write = to_write?;
            self.statistics.bytes_volumes += to_write.bytes;
            let Some(batch) = &mut self.batch else { continue };
            batch.bound_data(MIN_LAYER.max(self.statistics.bytes_volumes / LAYER_PART));
            let path = to_write.put(self.repository, batch, &self.key, self.volumes.len(), self.codec)?;
            self.volumes.push(path);
            if self.volumes.len() - self.committed >= CHECKPOINT {
                self.checkpoint()?;
            }
        }
        Ok(())
    }

    /// Commits what is stored, without a snapshot.
    fn checkpoint(&mut self) -> Result<(), RepositoryError> {
        if self.volumes.len() == self.committed {
            return Ok(());
        }
        if let Some(batch) = self.batch.take() {
            self.batch = Some(self.repository.timeline.begin()?);
            self.bytes_stored += batch.bytes_put();
            let committed = batch.commit(&self.who, "Checkpoint of a backup")?;
            self.layers.extend(committed.into_iter().flat_map(|committed| committed.layers));
        }
        self.committed = self.volumes.len();
        Ok(())
    }

    /// Writes the index and the snapshot record, and commits.
    fn finish(
        mut self,
        sources: &Sources,
        parent: Option<&Snapshot>,
        pages: &Pages<'_>,
        plan: Plan,
    ) -> Result<BackupReport, RepositoryError> {
        let mut owners = parent.map(|parent| parent.record.owners.clone()).unwrap_or_default();
        let mut statistics = self.statistics;
        let planned = plan.statistics;
        (statistics.files, statistics.directories) = (planned.files, planned.directories);
        (statistics.others, statistics.bytes) = (planned.others, planned.bytes);
        statistics.errors = plan.problems.len() as u64;
        for entry in &plan.new {
            count(&mut statistics, entry);
            owners.note(entry);
        }
        let parent_key = parent.map(|parent| parent.key.to_string());
        let is_first = parent.is_none_or(|parent| parent.record.roots != roots_of(sources));
        let mut report = BackupReport {
            snapshot: None,
            parent: parent_key.clone(),
            is_first,
            links: sources.links.clone(),
            followed: sources.followed.clone(),
            emptied: if is_first { Vec::new() } else { plan.emptied(sources) },
            statistics,
            not_opened: planned.files,
            unknown: 0,
            left_out: Vec::new(),
            problems: plan.problems,
            layers: Vec::new(),
            bytes_added: statistics.bytes_volumes,
            old: plan.old,
            new: plan.new,
            unread: Unread::default(),
            damaged: self.faults.segments.len() as u64,
            first_damage: self.faults.first,
            out_of_reach: self.faults.out_of_reach.len() as u64,
            first_out_of_reach: self.faults.first_out_of_reach,
            base_fault: None,
            lost: Vec::new(),
            future: Vec::new(),
            cache_error: None,
            swept: Swept::default(),
        };
        report.statistics.count_changes(&diff::compare(&report.old, &report.new));
        let unreadable = list_unreadable(sources.unreadable(&report.problems));
        let unread_attributes = list_unreadable(sources.unread_attributes(&report.problems));
        let Some(mut batch) = self.batch.take() else {
            report.statistics.bytes_stored = statistics.bytes_volumes;
            report.leave_out_unknown(parent, &unreadable);
            return Ok(report);
        };
        let change = IndexChange { old: &report.old, new: &report.new, pages: &plan.pages };
        let (list, pages_new) = change.write(self.key, pages, self.options.threads, &mut batch)?;
        report.statistics.pages_new = pages_new;
        // The index has all that there is; only what is told of it leaves out what nobody knows.
        report.leave_out_unknown(parent, &unreadable);
        // Everything is new to the first.
        let changes = if parent.is_some() { report.changes() } else { Vec::new() };
        if !changes.is_empty() {
            let summary = gzip(&cbor::to_vec(&Summary::of(&changes))?)?;
            let summary = self.repository.encode(summary, Tier::Metadata)?;
            self.repository.put(&mut batch, kind::DIFFS, &self.key, ".cbor.gz", &summary)?;
        }
        report.statistics.bytes_stored = self.bytes_stored + batch.bytes_put();
        let record = SnapshotRecord {
            host: self.options.host.clone(),
            user: self.options.user.clone(),
            roots: roots_of(sources),
            layout: sources.layout,
            tags: self.options.tags.clone(),
            parent: parent_key,
            pages: list,
            volumes: self.volumes,
            owners,
            statistics: report.statistics,
            unreadable,
            unread_attributes,
            mounts: Some(plan.mounts),
            program: concat!("treering ", env!("CARGO_PKG_VERSION")).into(),
        };
        let content = self.repository.encode(cbor::to_vec(&record)?, Tier::Metadata)?;
        self.repository.put(&mut batch, kind::SNAPSHOTS, &self.key, SNAPSHOT_SUFFIX, &content)?;
        let committed = batch.commit(&self.who, &format!("Snapshot {}", self.key))?;
        self.layers.extend(committed.into_iter().flat_map(|committed| committed.layers));
        let id = content.id();
        // It is saved, whatever fails now. The key names it in any case.
        let shares_id = self.repository.shares_id(&id).unwrap_or(true);
        report.snapshot = Some(Snapshot { key: self.key, id, shares_id, record });
        report.bytes_added = self.layers.iter().map(|layer| layer.pack_bytes + layer.index_bytes).sum();
        report.layers = self.layers;
        Ok(report)
    }
}

/// What is kept of the difference from the parent: paths only, since the pages have the rest.
#[derive(Serialize, Default)]
struct Summary<'a> {
    created: Vec<&'a RelPath>,
    updated: Vec<&'a RelPath>,
    metadata: Vec<&'a RelPath>,
    deleted: Vec<&'a RelPath>,
    renamed: Vec<(&'a RelPath, &'a RelPath)>,
}

impl<'a> Summary<'a> {
    fn of(changes: &[ChangeRef<'a>]) -> Self {
        let mut summary = Self::default();
        for change in changes {
            match *change {
                Change::Created(entry) => summary.created.push(&entry.path),
                Change::Updated(entry) => summary.updated.push(&entry.path),
                Change::Metadata(entry) => summary.metadata.push(&entry.path),
                Change::Deleted { path, .. } => summary.deleted.push(path),
                Change::Renamed { from, entry } => summary.renamed.push((from, &entry.path)),
            }
        }
        summary
    }
}
