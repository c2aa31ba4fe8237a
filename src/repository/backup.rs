//! Taking a snapshot.
//!
//! Three threads beside the workers: one reads files and cuts them; this one takes what the workers made of
//! the segments, in order, and appends what is new to the volume; one writes finished volumes into layers.
//! Each waits for the next when that is behind, so memory is bounded by the segments on the way (see
//! [`ReadOptions`]) and three volumes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use jiff::Timestamp;
use serde::Serialize;
use serde_bytes::ByteBuf;

use crate::archive::{self, Codec, DeltaLink, Payload, Stored, VolumeOptions, VolumeWriter, gzip};
use crate::cbor;
use crate::delta::{BlockSignature, Delta, SignatureOptions, from_content, from_signatures};
use crate::diff::{self, Change, Entry, Excludes, Piece, ReadOptions, ScanError, ScanOptions, fill};
use crate::digest::Digest;
use crate::gitkv::Person;
use crate::layers::LayerInfo;
use crate::progress::{Interrupted, Progress};
use crate::relpath::RelPath;
use crate::repository::pages::{PageWriter, Pages, write_pages};
use crate::repository::plan::{Ancestors, Plan, PlanOptions, Sources, count, plan};
use crate::repository::segments::{Chain, MAX_DEPTH, Segments, SignatureRecord};
use crate::repository::store::{SNAPSHOT_SUFFIX, kind, person};
use crate::repository::volumes::Finished;
use crate::repository::{Repository, RepositoryError, Snapshot, SnapshotRecord, Statistics};
use crate::timeline::{Batch, Tier, TimeKey, TimelineError};

/// Volumes after which what is stored is committed, so that an interrupted backup does not start from nothing.
const CHECKPOINT: usize = 16;

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
    /// Counts.
    pub statistics: Statistics,
    /// What differs from the parent, in path order; everything where there is none.
    pub changes: Vec<Change>,
    /// What could not be read, or changed while it was read.
    pub problems: Vec<ScanError>,
    /// The layers that were added.
    pub layers: Vec<LayerInfo>,
    /// Bytes of these layers; for a dry run, what the volumes would have had.
    pub bytes_added: u64,
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
        let sources = Sources::new(&options.sources)?;
        if !options.dry_run {
            self.timeline.sweep()?;
        }
        // Whoever prunes waits for this: what the new snapshot shares with earlier ones must stay until it is
        // named again.
        let _keep = self.timeline.git().keep_layers().map_err(TimelineError::from)?;
        let mut parent = self.parent(&sources, options)?;
        let began = SystemTime::from(options.now);
        let scan = ScanOptions {
            excludes: options.excludes.clone(),
            one_file_system: options.one_file_system,
            threads: options.threads.saturating_sub(1),
        };
        let plan_options = PlanOptions { scan: &scan, force: options.force, threads: options.threads, began };
        let planned = match self.plan_against(parent.as_ref(), &sources, &plan_options, progress) {
            // An index that cannot be read costs the comparison with it, not the backup.
            Err(RepositoryError::Damaged { .. }) if parent.take().is_some() => {
                self.plan_against(None, &sources, &plan_options, progress)
            }
            planned => planned,
        };
        let (pages, mut plan) = planned?;
        let key = self.timeline.key(options.time)?;
        let mut session = Session::new(self, key, options)?;
        session.store_contents(&sources, &mut plan, began, progress)?;
        session.finish(&sources, parent.as_ref(), &pages, plan)
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
    /// one directory of that host.
    fn parent(
        &self,
        sources: &Sources,
        options: &BackupOptions,
    ) -> Result<Option<Snapshot>, RepositoryError> {
        // One that cannot be read is no reason not to take another.
        let mut snapshots: Vec<_> =
            self.records()?.into_iter().filter_map(|record| record.snapshot.ok()).collect();
        snapshots.retain(|snapshot| {
            snapshot.record.host == options.host && snapshot.record.layout == sources.layout
        });
        let roots = roots_of(sources);
        let same = snapshots.iter().rposition(|snapshot| snapshot.record.roots == roots);
        Ok(match same {
            Some(at) => Some(snapshots.swap_remove(at)),
            None if roots.len() == 1 => snapshots.pop(),
            None => None,
        })
    }
}

fn roots_of(sources: &Sources) -> Vec<ByteBuf> {
    use std::os::unix::ffi::OsStrExt;
    sources.roots.iter().map(|root| ByteBuf::from(root.as_os_str().as_bytes())).collect()
}

/// What a worker made of a segment.
enum Made {
    /// It is stored already.
    Known,
    /// It is to be stored, with its signature where it is to have one.
    New { stored: Stored, signature: Option<Vec<u8>> },
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
    statistics: Statistics,
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
            who: person(&options.user, &options.host, options.now),
            options,
            codec: repository.config.codec()?,
            batch,
            volumes: Vec::new(),
            committed: 0,
            layers: Vec::new(),
            statistics: Statistics::default(),
        })
    }

    /// Reads the new files of `plan` and stores their segments.
    fn store_contents(
        &mut self,
        sources: &Sources,
        plan: &mut Plan,
        began: SystemTime,
        progress: &Progress,
    ) -> Result<(), RepositoryError> {
        if plan.new.iter().all(|entry| entry.content().is_none()) {
            return Ok(());
        }
        let repository = self.repository;
        let segments = repository.segments()?;
        let stored = self.store_segments(&segments, sources, plan, began, progress);
        segments.forget_pending();
        if matches!(stored, Err(RepositoryError::Interrupted(_))) {
            self.checkpoint()?;
        }
        stored
    }

    fn store_segments(
        &mut self,
        segments: &Segments,
        sources: &Sources,
        plan: &mut Plan,
        began: SystemTime,
        progress: &Progress,
    ) -> Result<(), RepositoryError> {
        let Plan { old, new, problems, .. } = plan;
        let is_gone = |entry: &Entry| new.binary_search_by(|new| new.path.cmp(&entry.path)).is_err();
        let ancestors = Ancestors::new(old, is_gone);
        let ancestors: Vec<Option<usize>> = new.iter().map(|entry| ancestors.of(entry)).collect();
        let maker = Maker { repository: self.repository, segments, old, ancestors, layout: Mutex::default() };
        let read = ReadOptions {
            threads: self.options.threads,
            ..ReadOptions::new(self.repository.config.segments, began)
        };
        let volume_options =
            VolumeOptions { codec: self.codec, threads: self.options.threads, ..VolumeOptions::default() };
        let mut statistics = Statistics::default();
        let (result, written) = std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel(1);
            let writing = scope.spawn(|| self.write_volumes(receiver));
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
                    |path| sources.locate(path),
                    &read,
                    progress,
                    |number, piece| maker.make(number, piece),
                    |_, segment, made| {
                        statistics.bytes_read += u64::from(segment.len);
                        let Made::New { stored, signature } = made? else { return Ok(()) };
                        if !segments.add_pending(stored.digest) {
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
        Ok(())
    }

    /// Writes volumes as they come, and commits from time to time.
    fn write_volumes(&mut self, volumes: Receiver<Finished>) -> Result<(), RepositoryError> {
        for finished in volumes {
            self.statistics.bytes_volumes += finished.volume.bytes.len() as u64;
            let Some(batch) = &mut self.batch else { continue };
            let path = finished.put(batch, &self.key, self.volumes.len(), self.codec)?;
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
        let changes = diff::compare(&plan.old, &plan.new);
        let mut owners = parent.map(|parent| parent.record.owners.clone()).unwrap_or_default();
        let mut statistics = self.statistics;
        let planned = plan.statistics;
        (statistics.files, statistics.directories) = (planned.files, planned.directories);
        (statistics.others, statistics.bytes) = (planned.others, planned.bytes);
        (statistics.files_new, statistics.files_changed) = (planned.files_new, planned.files_changed);
        statistics.files_unmodified = planned.files_unmodified;
        statistics.errors = plan.problems.len() as u64;
        for entry in &plan.new {
            count(&mut statistics, entry);
            owners.note(entry);
        }
        let parent_key = parent.map(|parent| parent.key.to_string());
        let mut report = BackupReport {
            snapshot: None,
            parent: parent_key.clone(),
            statistics,
            changes,
            problems: plan.problems,
            layers: Vec::new(),
            bytes_added: statistics.bytes_volumes,
        };
        let Some(mut batch) = self.batch.take() else { return Ok(report) };
        let writer = PageWriter::new(self.key, pages);
        let (list, pages_new) = write_pages(writer, pages, &plan.old, plan.new, &plan.pages, &mut batch)?;
        report.statistics.pages_new = pages_new;
        if parent.is_some() && !report.changes.is_empty() {
            let summary = gzip(&cbor::to_vec(&Summary::of(&report.changes))?)?;
            batch.put(kind::DIFFS, &self.key, ".cbor.gz", &summary, Tier::Metadata)?;
        }
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
            program: concat!("treering ", env!("CARGO_PKG_VERSION")).into(),
        };
        let bytes = cbor::to_vec(&record)?;
        batch.put(kind::SNAPSHOTS, &self.key, SNAPSHOT_SUFFIX, &bytes, Tier::Metadata)?;
        let committed = batch.commit(&self.who, &format!("Snapshot {}", self.key))?;
        self.layers.extend(committed.into_iter().flat_map(|committed| committed.layers));
        let id = crate::layers::object_id(crate::layers::ObjectKind::Blob, &bytes);
        report.snapshot = Some(Snapshot { key: self.key, id, record });
        report.bytes_added = self.layers.iter().map(|layer| layer.pack_bytes + layer.index_bytes).sum();
        report.layers = self.layers;
        Ok(report)
    }
}

/// Makes of new segments what is stored.
struct Maker<'a> {
    repository: &'a Repository,
    segments: &'a Segments,
    old: &'a [Entry],
    /// For each new entry, the old one whose content it may resemble.
    ancestors: Vec<Option<usize>>,
    /// Of the old file that was asked for last, since the segments of a large file come one after the other.
    layout: Mutex<Option<(usize, Arc<diff::Layout>)>>,
}

/// A delta and what it hangs on.
struct MadeDelta {
    delta: Delta,
    link: DeltaLink,
    /// Signatures of the bases, where the delta was made with them.
    signatures: Vec<BlockSignature>,
}

impl Maker<'_> {
    fn make(&self, number: usize, piece: Piece) -> Result<Made, RepositoryError> {
        if self.segments.place(&piece.digest).is_some() {
            return Ok(Made::Known);
        }
        // A file of one small segment is compared with the old content itself, which is at hand and finer.
        let signed = piece.offset > 0 || piece.bytes.len() > self.repository.config.segments.min();
        // An old segment that cannot be read is no reason not to store the new one.
        let delta = self.delta(number, &piece, signed).ok().flatten();
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

    /// The delta that the segment is stored as; `None` where it is better stored whole.
    fn delta(
        &self,
        number: usize,
        piece: &Piece,
        signed: bool,
    ) -> Result<Option<MadeDelta>, RepositoryError> {
        let Some((layout, content)) = self.ancestors[number].and_then(|old| {
            let content = self.old[old].content()?;
            Some((self.layout(old, content), content))
        }) else {
            return Ok(None);
        };
        let Some(bases) = layout.bases(&piece.holes, piece.offset, piece.bytes.len()) else {
            return Ok(None);
        };
        let digests: Vec<Digest> =
            content.segments[bases.segments].iter().map(|segment| segment.digest).collect();
        let Some(chain) = self.segments.chain(self.repository, &digests)? else { return Ok(None) };
        if chain.depth >= MAX_DEPTH {
            return Ok(None);
        }
        let signatures = if signed { self.signatures(&digests)? } else { None };
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

    /// The signatures of all of these, if all have one.
    fn signatures(&self, digests: &[Digest]) -> Result<Option<Vec<BlockSignature>>, RepositoryError> {
        digests.iter().map(|digest| self.segments.signature(self.repository, digest)).collect()
    }

    /// The bytes of these segments one after the other, checked.
    fn read(&self, digests: &[Digest]) -> Result<Vec<u8>, RepositoryError> {
        let mut bytes = Vec::new();
        for digest in digests {
            let segment = self.segments.read(self.repository, digest)?;
            if Digest::of(&segment) != *digest {
                return Err(RepositoryError::DamagedSegment(*digest));
            }
            bytes.extend(segment);
        }
        Ok(bytes)
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
    fn of(changes: &'a [Change]) -> Self {
        let mut summary = Self::default();
        for change in changes {
            match change {
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
