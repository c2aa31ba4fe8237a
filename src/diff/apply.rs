//! Bringing a directory from one state to another.
//!
//! The order: directories are made; content is written beside its place by several threads, checked, and
//! renamed in; special files follow; what is gone is removed; files whose old content others might still
//! need, and special files, take their place; then links; at last directories get their metadata, the deepest
//! first. A file that replaces another is synced before it is renamed; a new one is not, since nothing is
//! lost with it.
//!
//! What fails is told and leaves the old file; the rest goes on. Where anything failed, no old file whose
//! content was wanted is removed, nor anything that lies where the failed thing should stand. Metadata that
//! cannot be set is told, and keeps no content from its place.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs::FileType;

use crate::causes::{FULL_KINDS, chain};
use crate::diff::compute::{Change, DiffIndex};
use crate::diff::entry::{Content, DataMap, Entry, Kind, SegmentRef};
use crate::diff::order::{PIECE, ToWrite, by_window, pieces, runs};
use crate::diff::place::{Target, Temp};
use crate::digest::Digest;
use crate::layers::OutOfReach;
use crate::pipeline::lock;
use crate::progress::{Interrupted, Progress};
use crate::relpath::RelPath;

/// Where the segments of new content come from.
pub trait SegmentSource: Sync {
    /// A number that sorts as this source is best read: of segments that follow each other there, the numbers do.
    fn position(&self, segment: &SegmentRef) -> u64;

    /// The bytes of a segment. `base` gives segments of the old state, for a source that holds deltas of them.
    ///
    /// What is returned is checked by the caller. Called from several threads.
    fn read(
        &self,
        segment: &SegmentRef,
        base: &dyn Fn(&Digest) -> Option<Vec<u8>>,
    ) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>>;
}

/// How a difference is applied.
#[derive(Debug, Clone, Copy)]
pub struct ApplyOptions {
    /// Threads that write files.
    pub threads: usize,
}

impl Default for ApplyOptions {
    fn default() -> Self {
        Self { threads: std::thread::available_parallelism().map_or(1, Into::into) }
    }
}

/// What applying a difference did.
#[derive(Debug, Default)]
pub struct ApplyReport {
    /// Regular files that were written.
    pub files: u64,
    /// Bytes that were written into them.
    pub bytes: u64,
    /// The part of these bytes that was in the directory already.
    pub reused_bytes: u64,
    /// Names that were removed.
    pub deleted: u64,
    /// Sockets, which cannot be made.
    pub sockets: u64,
    /// What could not be done.
    pub failures: Vec<Failure>,
    /// Names that were not removed, since something failed that needs them or would have replaced them.
    pub kept: Vec<RelPath>,
}

impl ApplyReport {
    /// Those of `changes` that were done. Sockets are not, and what only lacks some of its metadata is.
    pub fn done<'a>(&self, changes: &'a [Change]) -> impl Iterator<Item = &'a Change> {
        let failed =
            self.failures.iter().filter(|failure| !matches!(failure.source, ApplyError::Metadata(_)));
        let undone: HashSet<RelPath> =
            failed.map(|failure| &failure.path).chain(&self.kept).cloned().collect();
        changes.iter().filter(move |change| {
            let is_socket = change.entry().is_some_and(|entry| matches!(entry.kind, Kind::Socket));
            !is_socket && !undone.contains(change.path())
        })
    }
}

/// Something that could not be brought to its new state.
#[derive(Debug, thiserror::Error)]
#[error("cannot restore {}", if path.is_root() { "the target directory itself".to_owned() } else { path.to_string() })]
pub struct Failure {
    /// Which.
    pub path: RelPath,
    /// Why.
    #[source]
    pub source: ApplyError,
}

/// Something for which many names fail at once, so that it need be told only once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CommonCause {
    /// The file system has no room left.
    Full,
    /// The file system is mounted to be read only.
    ReadOnly,
    /// Nothing may be changed in this directory.
    Denied(RelPath),
    /// What their content is in cannot be reached, for this reason.
    OutOfReach(String),
    /// This could not be made, which is told of it.
    Missing(RelPath),
}

impl ApplyError {
    fn is_full(&self) -> bool {
        match self {
            Self::Full => true,
            Self::Io(error) | Self::Metadata(error) => is_full(error),
            _ => false,
        }
    }
}

impl Failure {
    /// What other names may have failed for too.
    pub fn common_cause(&self) -> Option<CommonCause> {
        match &self.source {
            error if error.is_full() => Some(CommonCause::Full),
            ApplyError::Io(error) | ApplyError::Metadata(error)
                if error.kind() == io::ErrorKind::ReadOnlyFilesystem =>
            {
                Some(CommonCause::ReadOnly)
            }
            ApplyError::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Some(CommonCause::Denied(self.path.parent().unwrap_or_default()))
            }
            ApplyError::Source { source, .. } => {
                OutOfReach::find(source.as_ref()).map(|error| CommonCause::OutOfReach(chain(&error)))
            }
            ApplyError::Missing(path) if *path != self.path => Some(CommonCause::Missing(path.clone())),
            _ => None,
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    FULL_KINDS.contains(&error.kind())
}

/// Why something could not be brought to its new state.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// There is no room for it, in bytes or in names.
    #[error("the file system is full: make room, and restore again")]
    Full,
    /// The source does not give a segment.
    #[error("segment {digest} cannot be read")]
    Source {
        /// Which.
        digest: Digest,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The source gives other bytes.
    #[error("segment {0} is damaged: its bytes do not have this SHA-256")]
    Damaged(Digest),
    /// A directory that holds something stands where something else should.
    #[error("a directory stands in its place: remove it, or allow deleting")]
    InTheWay,
    /// Its content is right, but not everything about it.
    #[error("its content is in place, but not all of its metadata could be set")]
    Metadata(#[source] io::Error),
    /// A directory took its place, and others that need its content failed.
    #[error(
        "the directory is made; the file that stood there is kept as {0}, since something failed that could be made \
         of it: remove it when the rest is restored"
    )]
    Kept(RelPath),
    /// It has attributes that cannot be read, here or when it was backed up: what takes its place would lack them.
    #[error(
        "it is left as it is: its extended attributes cannot be read, the backup could not read them either, and what takes its \
         place would lack them; move it away, and restore again"
    )]
    Attributes,
    /// What it is another name of, or lies in, is not there.
    #[error("{0} could not be made")]
    Missing(RelPath),
    /// It was asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// Applies `diff` to the directory at `base`, which is in the old state; `source` holds what is new.
///
/// Fails only where the directory cannot be opened, or is in a file system that is mounted to be read only; what else goes
/// wrong is in the report.
pub fn apply_diff(
    base: impl AsRef<Path>,
    diff: &DiffIndex,
    source: &impl SegmentSource,
) -> io::Result<ApplyReport> {
    apply_diff_with(base.as_ref(), diff, source, ApplyOptions::default(), &Progress::new())
}

/// As [`apply_diff`], with options and a progress to watch. When asked to stop, files not yet begun are
/// failures.
pub fn apply_diff_with(
    base: &Path,
    diff: &DiffIndex,
    source: &impl SegmentSource,
    options: ApplyOptions,
    progress: &Progress,
) -> io::Result<ApplyReport> {
    let is_root = |change: &Change| change.with_content().is_some_and(|entry| entry.path.is_root());
    let target = Target::open(base, &diff.owners, diff.changes.iter().any(is_root))?;
    if !diff.changes.is_empty() {
        target.expect_writable()?;
    }
    let apply = Apply {
        diff,
        source,
        progress,
        base: BaseSegments::new(&target, &diff.base),
        target: &target,
        report: Mutex::default(),
        deferred: Mutex::default(),
        is_full: AtomicBool::new(false),
        unmade: Mutex::default(),
        again: Mutex::default(),
    };
    apply.run(options);
    Ok(apply.report.into_inner().unwrap_or_else(PoisonError::into_inner))
}

struct Apply<'a, S> {
    diff: &'a DiffIndex,
    source: &'a S,
    progress: &'a Progress,
    target: &'a Target,
    base: BaseSegments<'a>,
    report: Mutex<ApplyReport>,
    /// Finished things that take their place only when nobody needs the old ones any more.
    deferred: Mutex<Vec<(&'a Entry, Temp<'a>)>>,
    /// Whether there was no room for something.
    is_full: AtomicBool,
    /// Directories that could not be made.
    unmade: Mutex<HashSet<&'a RelPath>>,
    /// Small files for which there was no room.
    again: Mutex<Vec<(&'a Entry, &'a Content)>>,
}

/// A file that several threads write: opened with its first piece, and closed with its last or when one fails.
struct LargeFile<'a> {
    entry: &'a Entry,
    content: &'a Content,
    /// Where its data stands; found with its first piece.
    data: OnceLock<DataMap>,
    opened: Mutex<Option<Result<Opened<'a>, ApplyError>>>,
    pieces_left: AtomicUsize,
}

/// A file being written, and its temporary name.
type Opened<'a> = (Arc<File>, Temp<'a>);

/// Something for one thread to do.
enum Task {
    /// Small files, in the order in which they are written.
    Files(Range<usize>),
    Piece {
        file: usize,
        segments: Range<usize>,
        offset: u64,
    },
}

impl<'a, S: SegmentSource> Apply<'a, S> {
    fn run(self: &Apply<'a, S>, options: ApplyOptions) {
        let aside = self.make_directories();
        self.write_files(options.threads);
        self.make_specials();
        self.delete();
        self.place_deferred();
        self.make_links();
        self.drop_aside(aside);
        self.set_metadata();
    }

    /// Makes the directories; what stands in their way is moved aside until the end, since others may be made
    /// of it.
    fn make_directories(&self) -> Vec<(&'a RelPath, Temp<'a>)> {
        let mut aside = Vec::new();
        let mut checked = None;
        for entry in self.diff.changes.iter().filter_map(Change::with_content) {
            // A part of a tree may come without the directories above it.
            let parent = entry.path.parent().unwrap_or_default();
            if checked.as_ref() != Some(&parent) && !lock(&self.unmade).contains(&parent) {
                let made = self.target.make_directories(&parent).map_err(ApplyError::from);
                self.note(&parent, made);
                checked = Some(parent);
            }
            if !matches!(entry.kind, Kind::Directory) {
                continue;
            }
            let mut make = || {
                let found = self.target.look(&entry.path)?;
                if found.is_none_or(|found| found.file_type() == FileType::Directory) {
                    return self.target.make_directory(&entry.path);
                }
                let moved = self.target.move_aside(&entry.path)?;
                if let Err(error) = self.target.make_directory(&entry.path) {
                    moved.place(entry.path.name())?;
                    return Err(error);
                }
                self.base.moved(&entry.path, &moved);
                aside.push((&entry.path, moved));
                Ok(())
            };
            let made = make().map_err(ApplyError::from);
            if made.is_err() {
                lock(&self.unmade).insert(&entry.path);
            }
            self.note(&entry.path, made);
            checked = Some(entry.path.clone());
        }
        aside
    }

    /// New regular files, but for further names of others.
    fn files(&self) -> impl Iterator<Item = (&'a Entry, &'a Content)> + use<'a, S> {
        let links = &self.diff.links;
        let entries = self.diff.changes.iter().filter_map(Change::with_content);
        entries
            .filter(|entry| !links.contains_key(&entry.path))
            .filter_map(|entry| Some((entry, entry.content()?)))
    }

    fn write_files(&self, threads: usize) {
        let mut small = Vec::new();
        let mut large = Vec::new();
        for (number, (entry, content)) in self.files().enumerate() {
            let position = content.segments.first().map_or(0, |first| self.source.position(first));
            let is_small = content.data_len() <= PIECE;
            let files = if is_small { &mut small } else { &mut large };
            files.push(ToWrite { position, number, entry, content });
        }
        by_window(&mut small);
        let mut tasks: Vec<_> =
            runs(&small).map(|run| (small[run.start].position, Task::Files(run))).collect();
        let mut files = Vec::with_capacity(large.len());
        for ToWrite { position, entry, content, .. } in large {
            let pieces = pieces(content);
            files.push(LargeFile {
                entry,
                content,
                data: OnceLock::new(),
                opened: Mutex::default(),
                pieces_left: AtomicUsize::new(pieces.len()),
            });
            let file = files.len() - 1;
            let piece = |(segments, offset)| (position, Task::Piece { file, segments, offset });
            tasks.extend(pieces.into_iter().map(piece));
        }
        // Stable, so that what has one position stays in order.
        tasks.sort_by_key(|(position, _)| *position);
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some((_, task)) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.work(task, &small, &files);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads.min(tasks.len()) {
                scope.spawn(work);
            }
            work();
        });
        // What another thread was writing, and had no room for, has gone.
        for (entry, content) in std::mem::take(&mut *lock(&self.again)) {
            let written = self.write_small(entry, content);
            self.note(&entry.path, written);
        }
    }

    fn work(&self, task: &Task, small: &[ToWrite<'a>], large: &[LargeFile<'a>]) {
        match task {
            Task::Files(run) => {
                for ToWrite { entry, content, .. } in &small[run.clone()] {
                    match self.write_small(entry, content) {
                        Err(error) if error.is_full() => {
                            self.is_full.store(true, Ordering::Relaxed);
                            lock(&self.again).push((entry, content));
                        }
                        written => self.note(&entry.path, written),
                    }
                }
            }
            Task::Piece { file, segments, offset } => {
                let file = &large[*file];
                let written = self.write_piece(file, segments.clone(), *offset);
                if let Err(error) = written
                    && let opened = &mut *lock(&file.opened)
                    && !matches!(opened, Some(Err(_)))
                {
                    *opened = Some(Err(error));
                }
                if file.pieces_left.fetch_sub(1, Ordering::AcqRel) == 1 {
                    self.note(&file.entry.path, self.finish_large(file));
                }
            }
        }
    }

    fn write_small(&self, entry: &'a Entry, content: &Content) -> Result<(), ApplyError> {
        self.progress.check()?;
        self.expect_room(entry, content)?;
        let (file, temp) = self.target.temporary_file(entry)?;
        self.write_segments(&file, &entry.path, &content.segments, &content.data_map(), 0)?;
        self.finish(entry, content, &file, temp)
    }

    /// Fails where the file system is full and has no room for `content`, before that is read for nothing.
    fn expect_room(&self, entry: &Entry, content: &Content) -> Result<(), ApplyError> {
        if !self.is_full.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.target.room_beside(&entry.path) {
            Ok(room) if room <= content.data_len() => Err(ApplyError::Full),
            _ => Ok(()),
        }
    }

    fn write_piece(
        &self,
        file: &LargeFile<'a>,
        segments: Range<usize>,
        offset: u64,
    ) -> Result<(), ApplyError> {
        let path = &file.entry.path;
        let opened = {
            let mut opened = lock(&file.opened);
            if opened.is_none() {
                self.expect_room(file.entry, file.content)?;
                let (file, temp) = self.target.temporary_file(file.entry)?;
                *opened = Some(Ok((Arc::new(file), temp)));
            }
            match &*opened {
                Some(Ok((opened, _))) => opened.clone(),
                // Another piece has failed.
                _ => return Ok(()),
            }
        };
        let data = file.data.get_or_init(|| file.content.data_map());
        self.write_segments(&opened, path, &file.content.segments[segments], data, offset)
    }

    fn finish_large(&self, file: &LargeFile<'a>) -> Result<(), ApplyError> {
        let opened = lock(&file.opened).take();
        let (opened, temp) = opened.unwrap_or_else(|| Err(ApplyError::Missing(file.entry.path.clone())))?;
        self.finish(file.entry, file.content, &opened, temp)
    }

    /// Writes segments into `file`, which is to stand at `path`, the first of them at `offset` of the data
    /// stream.
    fn write_segments(
        &self,
        file: &File,
        path: &RelPath,
        segments: &[SegmentRef],
        data: &DataMap,
        mut offset: u64,
    ) -> Result<(), ApplyError> {
        let base = |digest: &Digest| self.base.read(digest);
        for segment in segments {
            self.progress.check()?;
            let (bytes, reused) = match self.base.read(&segment.digest) {
                Some(bytes) => (bytes, true),
                None => {
                    let digest = segment.digest;
                    match self.source.read(segment, &base) {
                        Ok(bytes) => (bytes, false),
                        // An earlier try may have come to its end here, and used up what this was made of.
                        Err(source) => {
                            let placed = read_old(self.target, path, data, segment, offset);
                            (placed.ok_or(ApplyError::Source { digest, source })?, true)
                        }
                    }
                }
            };
            if bytes.len() as u64 != u64::from(segment.len) || Digest::of(&bytes) != segment.digest {
                return Err(ApplyError::Damaged(segment.digest));
            }
            let end = offset + bytes.len() as u64;
            let mut rest = &bytes[..];
            for range in data.file_ranges(offset..end) {
                let (piece, after) = rest.split_at((range.end - range.start) as usize);
                file.write_all_at(piece, range.start)?;
                rest = after;
            }
            offset = end;
            self.progress.bytes.add(bytes.len() as u64);
            let mut report = lock(&self.report);
            report.bytes += bytes.len() as u64;
            report.reused_bytes += if reused { bytes.len() as u64 } else { 0 };
        }
        Ok(())
    }

    /// Puts a file that is complete in its place, or leaves that for later where the old one may be needed or
    /// is a directory.
    fn finish(
        &self,
        entry: &'a Entry,
        content: &Content,
        file: &File,
        mut temp: Temp<'a>,
    ) -> Result<(), ApplyError> {
        if content.holes.is_some() {
            file.set_len(content.size)?;
        }
        let metadata = self.target.set_metadata_of_file(file, entry).map_err(ApplyError::Metadata);
        if !self.base.holds(&entry.path) && temp.place_new(entry.path.name())? {
            self.count_file();
            return metadata;
        }
        let found = self.target.look(&entry.path)?;
        if found.is_some() {
            file.sync_all()?;
        }
        if self.base.holds(&entry.path) || found.is_some_and(|found| found.file_type() == FileType::Directory)
        {
            lock(&self.deferred).push((entry, temp));
        } else {
            temp.place(entry.path.name())?;
            self.count_file();
        }
        metadata
    }

    fn count_file(&self) {
        lock(&self.report).files += 1;
        self.progress.files.add(1);
    }

    /// Symbolic links, pipes and devices.
    fn make_specials(&self) {
        for entry in self.diff.changes.iter().filter_map(Change::with_content) {
            let made = match entry.kind {
                Kind::File(_) | Kind::Directory => continue,
                Kind::Socket => {
                    lock(&self.report).sockets += 1;
                    continue;
                }
                _ => self.make_special(entry),
            };
            self.note(&entry.path, made);
        }
    }

    fn make_special(&self, entry: &'a Entry) -> Result<(), ApplyError> {
        let temp = self.target.temporary_special(entry)?;
        let metadata = self.target.set_metadata_of_temp(&temp, entry).map_err(ApplyError::Metadata);
        lock(&self.deferred).push((entry, temp));
        metadata
    }

    fn place_deferred(&self) {
        for (entry, temp) in std::mem::take(&mut *lock(&self.deferred)) {
            let placed = self.place(temp, &entry.path);
            if placed.is_ok() && entry.content().is_some() {
                self.count_file();
            }
            self.note(&entry.path, placed);
        }
    }

    /// Puts `temp` at `path`, over a file or an empty directory.
    fn place(&self, temp: Temp<'a>, path: &RelPath) -> Result<(), ApplyError> {
        let found = self.target.look(path)?;
        if found.is_some_and(|found| found.file_type() == FileType::Directory) {
            self.target.remove(path, true)?;
        }
        Ok(temp.place(path.name())?)
    }

    fn make_links(&self) {
        let failed = self.failed();
        for entry in self.diff.changes.iter().filter_map(Change::with_content) {
            let Some(original) = self.diff.links.get(&entry.path) else { continue };
            let link = || {
                // The old file that a failure leaves is not what this is another name of.
                let found = if failed.contains(original) { None } else { self.target.look(original)? };
                let found = found.ok_or_else(|| ApplyError::Missing(original.clone()))?;
                let there = self.target.look(&entry.path)?;
                if there.is_some_and(|there| (there.device, there.inode) == (found.device, found.inode)) {
                    return Ok(());
                }
                self.place(self.target.temporary_link(original, &entry.path)?, &entry.path)
            };
            self.note(&entry.path, link());
        }
    }

    /// Removes what is gone, what lies in a directory before the directory. What a failure would have needed
    /// or replaced stays.
    fn delete(&self) {
        let failed = self.failed();
        let mut gone: Vec<(&RelPath, bool)> = Vec::new();
        gone.extend(self.diff.changes.iter().filter_map(|change| match change {
            Change::Deleted { path, directory } => Some((path, *directory)),
            Change::Renamed { from, .. } => Some((from, false)),
            _ => None,
        }));
        gone.sort_unstable();
        let mut kept: Option<&RelPath> = None;
        let mut all_kept = Vec::new();
        for (path, directory) in gone.into_iter().rev() {
            if self.progress.check().is_err() {
                return;
            }
            let is_needed = !failed.is_empty() && self.base.holds(path);
            let is_replaced = || {
                let mut above = std::iter::successors(path.parent(), RelPath::parent);
                above.any(|above| failed.contains(&above))
            };
            if is_needed
                || kept.is_some_and(|kept| kept.is_within(path))
                || (!failed.is_empty() && is_replaced())
            {
                kept = Some(path);
                all_kept.push(path.clone());
                continue;
            }
            let removed = self.target.remove(path, directory).map_err(ApplyError::from);
            lock(&self.report).deleted += u64::from(removed.is_ok());
            self.note(path, removed);
        }
        lock(&self.report).kept = all_kept;
    }

    /// Removes what was moved out of the way of directories, unless something failed that might be made of it.
    fn drop_aside(&self, aside: Vec<(&'a RelPath, Temp<'a>)>) {
        let failed = !self.failed().is_empty();
        for (path, temp) in aside {
            if failed
                && self.base.holds(path)
                && let Some(now) = temp.keep()
            {
                self.note(path, Err(ApplyError::Kept(now)));
            }
        }
    }

    /// What is not in its place.
    fn failed(&self) -> HashSet<RelPath> {
        let report = lock(&self.report);
        let failures = report.failures.iter();
        failures
            .filter(|failure| !matches!(failure.source, ApplyError::Metadata(_)))
            .map(|failure| failure.path.clone())
            .collect()
    }

    fn set_metadata(&self) {
        let mut set = HashSet::new();
        for change in self.diff.changes.iter().rev() {
            let entry = match change {
                Change::Metadata(entry) => entry,
                Change::Created(entry) | Change::Updated(entry) if matches!(entry.kind, Kind::Directory) => {
                    entry
                }
                _ => continue,
            };
            set.insert(&entry.path);
            if lock(&self.unmade).contains(&entry.path) {
                continue;
            }
            let done = self.target.set_metadata(entry).map_err(ApplyError::Metadata);
            self.note(&entry.path, done);
        }
        for (path, error) in self.target.settle(|path| set.contains(path)) {
            self.note(&path, Err(ApplyError::Metadata(error)));
        }
    }

    /// The directory above `path` that could not be made, if there is one.
    fn unmade_above(&self, path: &RelPath) -> Option<RelPath> {
        let unmade = lock(&self.unmade);
        std::iter::successors(path.parent(), RelPath::parent).filter(|above| unmade.contains(above)).last()
    }

    fn note(&self, path: &RelPath, result: Result<(), ApplyError>) {
        if let Err(source) = result {
            self.progress.errors.add(1);
            let is_full_already = self.is_full.load(Ordering::Relaxed);
            let source = match source {
                ApplyError::Io(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                    ApplyError::InTheWay
                }
                ApplyError::Io(error) if is_full(&error) => ApplyError::Full,
                // There was no room for the directory or the file that this needs.
                ApplyError::Io(error) if is_full_already && error.kind() == io::ErrorKind::NotFound => {
                    ApplyError::Full
                }
                ApplyError::Missing(_) if is_full_already => ApplyError::Full,
                ApplyError::Io(error) if error.kind() == io::ErrorKind::NotFound => {
                    match self.unmade_above(path) {
                        Some(above) => ApplyError::Missing(above),
                        None => ApplyError::Io(error),
                    }
                }
                other => other,
            };
            if matches!(source, ApplyError::Full) {
                self.is_full.store(true, Ordering::Relaxed);
            }
            lock(&self.report).failures.push(Failure { path: path.clone(), source });
        }
    }
}

/// What the old files hold.
struct BaseSegments<'a> {
    target: &'a Target,
    files: HashMap<&'a RelPath, usize>,
    contents: &'a [(RelPath, Content)],
    segments: HashMap<Digest, (usize, u64, u32)>,
    /// Of each file, where its data stands; found when it is first read.
    data: Vec<OnceLock<DataMap>>,
    moved: Mutex<HashMap<&'a RelPath, RelPath>>,
}

impl<'a> BaseSegments<'a> {
    fn new(target: &'a Target, contents: &'a [(RelPath, Content)]) -> Self {
        let mut segments = HashMap::new();
        for (number, (_, content)) in contents.iter().enumerate() {
            let mut offset = 0;
            for segment in &content.segments {
                segments.insert(segment.digest, (number, offset, segment.len));
                offset += u64::from(segment.len);
            }
        }
        let files = contents.iter().enumerate().map(|(number, (path, _))| (path, number)).collect();
        let data = contents.iter().map(|_| OnceLock::new()).collect();
        Self { target, files, contents, segments, data, moved: Mutex::default() }
    }

    fn holds(&self, path: &RelPath) -> bool {
        self.files.contains_key(path)
    }

    /// Remembers that what stood at `path` has a temporary name now.
    fn moved(&self, path: &RelPath, temp: &Temp<'_>) {
        let Some(&number) = self.files.get(path) else { return };
        let (path, _) = &self.contents[number];
        if let Some(now) = temp.path() {
            lock(&self.moved).insert(path, now);
        }
    }

    /// The bytes of a segment; `None` where the old files do not hold it, or no longer.
    fn read(&self, digest: &Digest) -> Option<Vec<u8>> {
        let &(number, offset, len) = self.segments.get(digest)?;
        let (path, content) = &self.contents[number];
        let moved = lock(&self.moved).get(path).cloned();
        let segment = SegmentRef { digest: *digest, len };
        let data = self.data[number].get_or_init(|| content.data_map());
        read_old(self.target, moved.as_ref().unwrap_or(path), data, &segment, offset)
    }
}

/// The bytes of a segment at `offset` of the data stream of the file at `path`; `None` where others stand
/// there.
fn read_old(
    target: &Target,
    path: &RelPath,
    data: &DataMap,
    segment: &SegmentRef,
    offset: u64,
) -> Option<Vec<u8>> {
    let file = target.open_file(path).ok()?;
    let mut bytes = Vec::with_capacity(segment.len as usize);
    for range in data.file_ranges(offset..offset + u64::from(segment.len)) {
        let start = bytes.len();
        bytes.resize(start + usize::try_from(range.end - range.start).ok()?, 0);
        file.read_exact_at(&mut bytes[start..], range.start).ok()?;
    }
    (Digest::of(&bytes) == segment.digest).then_some(bytes)
}
