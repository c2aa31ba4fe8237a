//! Restoring, as applying the difference between a target and a snapshot.
//!
//! The target may be empty, or hold an older state: only what differs is written, and content that is there
//! already is not read from the repository. First comes a [`RestorePlan`], which changes nothing and says what
//! would be written and removed; then it is executed.
//!
//! With `delete`, names that the snapshot does not have are removed, except those that it says nothing about: on
//! a mounted file system that the backup did not enter, and where the backup could not read. A directory that
//! was there before keeps its own owner, mode and times as the target, unless it is the source itself.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::atomic;
use crate::diff::DiffIndex;
use crate::diff::pattern::{Meaning, Pattern, Space, check_signs};
use crate::diff::{
    ApplyError, ApplyOptions, ApplyReport, Beneath, Change, ChangeRef, DirIndex, Entry, Failure, Kind,
    Lacking, Owners, apply_diff_with, comparable, settable, settle,
};
use crate::progress::Progress;
use crate::relpath::RelPath;
use crate::repository::segments::RepositorySource;
use crate::repository::snapshot::join;
use crate::repository::target::{Choice, Extras, Spared, look_at};
use crate::repository::{Hold, Repository, RepositoryError, Snapshot};

/// Where restored files go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestoreTarget {
    /// Into a directory: the content of the one source, or of the path that is restored, directly; several
    /// sources each below it, under its absolute path.
    Directory(PathBuf),
    /// Each source back to where it was when it was backed up.
    InPlace,
}

/// What is restored, and how.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// Where to.
    pub target: RestoreTarget,
    /// The path in the snapshot whose content is restored; everything without one.
    pub path: Option<Vec<u8>>,
    /// Patterns, as in `.gitignore`: only what matches one is restored, with the directories above it.
    pub include: Vec<Pattern>,
    /// Patterns, as in `.gitignore`: what matches one is not restored, nor removed.
    pub exclude: Vec<Pattern>,
    /// The directory that `~/` at the beginning of a pattern means.
    pub home: Option<PathBuf>,
    /// Remove what is in the target and not in the snapshot, if the patterns choose it.
    pub delete: bool,
    /// Allow the content of a directory to be put directly into `/`.
    pub into_root: bool,
    /// Set owners by number, even where the names of the snapshot are known here.
    pub numeric_ids: bool,
    /// Change nothing.
    pub dry_run: bool,
    /// Read everything back afterwards.
    pub verify: bool,
    /// Threads that write files.
    pub threads: usize,
}

impl RestoreOptions {
    /// Everything into the directory `target`, deleting nothing.
    pub fn new(target: impl Into<PathBuf>) -> Self {
        Self::to(RestoreTarget::Directory(target.into()))
    }

    /// Everything back to where it was, deleting nothing.
    pub fn in_place() -> Self {
        Self::to(RestoreTarget::InPlace)
    }

    fn to(target: RestoreTarget) -> Self {
        Self {
            target,
            path: None,
            include: Vec::new(),
            exclude: Vec::new(),
            home: None,
            delete: false,
            into_root: false,
            numeric_ids: false,
            dry_run: false,
            verify: false,
            threads: std::thread::available_parallelism().map_or(1, Into::into),
        }
    }
}

/// What a restore did.
#[derive(Debug)]
pub struct RestoreReport {
    /// The directory that all paths here are relative to.
    pub target: PathBuf,
    /// Each source that was restored, or the path that was asked for, and where it is now.
    pub sources: Vec<(PathBuf, PathBuf)>,
    /// What differed and was brought to its state in the snapshot, or would be, in path order. What failed is not
    /// among it.
    pub changes: Vec<Change>,
    /// What was done.
    pub applied: ApplyReport,
    /// Entries that were as they should be already.
    pub unchanged: u64,
    /// What was not removed although the snapshot does not have it, and why.
    pub spared: Vec<(RelPath, Spared)>,
    /// What the backup could not read of what is restored, where it would be: the snapshot is partial there.
    pub unread: Vec<PathBuf>,
    /// What may have had more extended attributes than the backup could read, where it would be: what is there keeps those
    /// that the snapshot does not have.
    pub unread_attributes: Vec<PathBuf>,
    /// Patterns of what was to be included that match nothing.
    pub unmet: Vec<String>,
    /// Entries that lack something that only root can set: their owner, a group, set-user-id and set-group-id, or
    /// attributes.
    pub lacking: u64,
    /// Files that were read back and found right, where that was asked for.
    pub verified: Option<u64>,
    /// What was not as it should be when it was read back.
    pub mismatches: Vec<(RelPath, Mismatch)>,
}

/// How something that was read back differs from what was restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// It is not there, or this user may not read it.
    #[error("cannot be read back: somebody has removed it, or its mode lets only root read it")]
    Unreadable,
    /// It holds something else.
    #[error("does not hold what was written: restore it again, and check the disk")]
    Content,
    /// Only its metadata is another.
    #[error(
        "has another owner, mode, time or attributes than the snapshot: perhaps its file system cannot keep them"
    )]
    Metadata,
}

impl Mismatch {
    fn of(change: &ChangeRef<'_>) -> Self {
        match change {
            Change::Created(_) => Self::Unreadable,
            Change::Metadata(_) => Self::Metadata,
            Change::Updated(_) | Change::Renamed { .. } | Change::Deleted { .. } => Self::Content,
        }
    }
}

/// What a restore would do. It holds the repository's layers until it is executed or dropped.
pub struct RestorePlan<'a> {
    repository: &'a Repository,
    _hold: Hold,
    diff: DiffIndex,
    on_the_way: HashSet<RelPath>,
    /// What to compare with afterwards, where that is asked for.
    to_verify: Option<Vec<Entry>>,
    threads: usize,
    /// Whether the target is the directory that was backed up.
    is_source: bool,
    /// What only root can set, in path order.
    lacking: Vec<Lacking>,
    /// The paths of what will lack some of that.
    left_lacking: Vec<RelPath>,
    report: RestoreReport,
}

impl Repository {
    /// Brings the target to the state of `snapshot`, or only says what that would change.
    ///
    /// What cannot be restored is among the failures of the report; the old file is left then, and the rest
    /// goes on.
    pub fn restore(
        &self,
        snapshot: &Snapshot,
        options: &RestoreOptions,
        progress: &Progress,
    ) -> Result<RestoreReport, RepositoryError> {
        let plan = self.plan_restore(snapshot, options, progress)?;
        if options.dry_run { Ok(plan.into_report()) } else { plan.execute(progress) }
    }

    /// Finds out what bringing the target to the state of `snapshot` would change, and changes nothing.
    ///
    /// Reads those paths of the target that the snapshot has; to delete, it lists the directories among them too.
    pub fn plan_restore(
        &self,
        snapshot: &Snapshot,
        options: &RestoreOptions,
        progress: &Progress,
    ) -> Result<RestorePlan<'_>, RepositoryError> {
        let hold = self.hold()?;
        let view = self.view(snapshot)?;
        let top = view.resolve(options.path.as_deref())?;
        let mut entries: Vec<Entry> = view.walk(&top)?.collect::<Result<_, _>>()?;
        let destination = Destination::new(snapshot, options, &top, &entries)?;
        destination.relocate(&mut entries)?;
        let target = &destination.target;
        let exists = target.is_dir();
        let is_source = destination.is_source();
        let spaces = destination.spaces(snapshot);
        let home = options.home.as_deref();
        let meanings = |patterns: &[Pattern]| {
            let meanings =
                patterns.iter().map(|pattern| destination.meaning(&spaces, &entries, pattern, home));
            let meanings = meanings.collect::<Result<Vec<_>, RepositoryError>>()?;
            check_signs(patterns)?;
            Ok::<_, RepositoryError>(meanings)
        };
        let (include, exclude) = (meanings(&options.include)?, meanings(&options.exclude)?);
        let choice = Choice::new(&spaces, &include, &exclude, self.place_below(target)?)?;
        let mut extras = options.delete.then(|| {
            let is_unreadable = |path: &RelPath| {
                destination.origin(path).is_some_and(|path| snapshot.record.is_unreadable(&path))
            };
            // What lies in a directory follows it.
            let parents = entries.windows(2).filter(|pair| pair[1].path.is_within(&pair[0].path));
            let parents: HashSet<RelPath> = parents.map(|pair| pair[0].path.clone()).collect();
            // Where a record does not say which mounts were entered, what the snapshot has there does. A target that is
            // named is meant, whatever is mounted there.
            let destination = &destination;
            let entered = move |path: &RelPath| match &snapshot.record.mounts {
                Some(_) if path.is_root() && !is_source => parents.contains(path),
                Some(mounts) => destination.origin(path).is_some_and(|path| mounts.contains(&path)),
                None => parents.contains(path),
            };
            Extras::new(&choice, entered, is_unreadable)
        });
        let is_there = |entries: &[Entry]| entries.iter().any(|entry| !entry.path.is_root());
        let had_some = is_there(&entries);
        let sources = destination.sources(&entries, snapshot);
        let places = destination.unread(snapshot, &top);
        let is_dir = |path: &RelPath| {
            let at = entries.binary_search_by(|entry| entry.path.cmp(path));
            at.is_ok_and(|at| matches!(entries[at].kind, Kind::Directory))
        };
        let places: Vec<_> = places.into_iter().map(|path| (is_dir(&path), path)).collect();
        let mut on_the_way = choice.select(&mut entries);
        if exists && !is_source {
            on_the_way.insert(RelPath::root());
        }
        let is_chosen = !options.include.is_empty() || (!options.exclude.is_empty() && had_some);
        if is_chosen && !is_there(&entries) && !options.delete {
            if let Some(path) = choice.asked_of(places).first() {
                let path = destination.origin(path).unwrap_or_default();
                let path = snapshot.display_path(&path);
                return Err(RepositoryError::Unread { path, snapshot: snapshot.name() });
            }
            return Err(RepositoryError::NothingChosen(snapshot.name()));
        }
        let numbers = Owners::default();
        let owners = if options.numeric_ids { &numbers } else { &snapshot.record.owners };
        // With the numbers of the owners here, which therefore need no names any more.
        let lacking = settable(&mut entries, owners);
        let mut wanted = DirIndex { entries, ..DirIndex::default() };
        let (mut present, hidden) = look_at(self, target, &wanted.entries, extras.as_mut(), progress)?;
        let left_lacking = settle(&mut wanted.entries, &present.entries, &lacking);
        comparable(&mut present.entries);
        let (mut spared, mut failures) = extras.map(Extras::into_parts).unwrap_or_default();
        let lacks_attributes = |path: &RelPath| {
            destination.origin(path).is_some_and(|path| snapshot.record.lacks_attributes(&path))
        };
        if !snapshot.record.unread_attributes.is_empty() {
            for entry in wanted.entries.iter_mut().filter(|entry| lacks_attributes(&entry.path)) {
                if let Ok(at) = present.entries.binary_search_by(|there| there.path.cmp(&entry.path)) {
                    entry.meta.keep_attributes(&present.entries[at].meta);
                }
            }
        }
        let unread_attributes = destination.places(&snapshot.record.unread_attributes, &top);
        let is_restored = |path: &RelPath| {
            let first = wanted.entries.partition_point(|entry| entry.path < *path);
            wanted.entries.get(first).is_some_and(|entry| entry.path.is_within(path))
        };
        let unread_attributes = unread_attributes.into_iter().filter(is_restored);
        let unread_attributes = unread_attributes.map(|path| join(target, &path)).collect();
        let unmet = choice.unmet();
        let unread = choice.asked_of(places);
        if options.delete {
            spare_unread(&mut spared, &unread, target, &wanted.entries);
        }
        // Only reading back needs what is there already too.
        let to_verify = options.verify.then(|| wanted.entries.clone());
        let total = wanted.entries.len();
        let mut diff = DiffIndex::compute_into(&present, wanted);
        if !options.delete {
            diff.keep_extra();
        }
        diff.changes.retain(|change| !is_left(change, &on_the_way));
        let unchanged = unchanged(total, &diff.changes);
        // What is replaced loses what nobody can read.
        diff.changes.retain(|change| {
            let path = change.path();
            let is_lost =
                matches!(change, Change::Updated(_)) && hidden.contains(path) && lacks_attributes(path);
            failures.extend(is_lost.then(|| Failure { path: path.clone(), source: ApplyError::Attributes }));
            !is_lost
        });
        let unread_places = unread.iter().map(|path| join(target, path)).collect();
        let report = RestoreReport {
            unchanged,
            sources,
            target: destination.target,
            changes: Vec::new(),
            applied: ApplyReport { failures, ..ApplyReport::default() },
            spared,
            unread: unread_places,
            unread_attributes,
            unmet,
            lacking: left_lacking.len() as u64,
            verified: None,
            mismatches: Vec::new(),
        };
        Ok(RestorePlan {
            repository: self,
            _hold: hold,
            diff,
            on_the_way,
            to_verify,
            threads: options.threads,
            is_source,
            lacking,
            left_lacking,
            report,
        })
    }

    /// Where this repository lies below a directory that something is restored into, if it does.
    fn place_below(&self, target: &Path) -> Result<Option<RelPath>, RepositoryError> {
        let own = self.timeline.git().path();
        let own = own.canonicalize().map_err(RepositoryError::io(own))?;
        let target = resolve(target)?;
        if target.starts_with(&own) {
            return Err(RepositoryError::IntoItself(target));
        }
        match own.strip_prefix(&target) {
            Ok(below) => Ok(Some(RelPath::new(below.as_os_str().as_bytes())?)),
            Err(_) => Ok(None),
        }
    }
}

impl RestorePlan<'_> {
    /// The directory that all paths of the changes are relative to.
    pub fn target(&self) -> &Path {
        &self.report.target
    }

    /// Whether the target is the directory that was backed up, or those are.
    pub fn is_source(&self) -> bool {
        self.is_source
    }

    /// What would be done, in path order.
    pub fn changes(&self) -> &[Change] {
        &self.diff.changes
    }

    /// Names that would be removed: those that the snapshot does not have.
    pub fn removals(&self) -> impl Iterator<Item = &Change> {
        self.diff.changes.iter().filter(|change| matches!(change, Change::Deleted { .. }))
    }

    /// What would be done, as the report of a restore that did it.
    pub fn into_report(self) -> RestoreReport {
        RestoreReport { changes: self.diff.changes, ..self.report }
    }

    /// Does it.
    pub fn execute(self, progress: &Progress) -> Result<RestoreReport, RepositoryError> {
        let Self { repository, diff, mut report, on_the_way, lacking, left_lacking, .. } = self;
        let contents = diff.changes.iter().filter_map(Change::with_content).filter_map(Entry::content);
        for content in contents {
            progress.total_files.add(1);
            progress.total_bytes.add(content.data_len());
        }
        let source = RepositorySource { repository, segments: repository.segments()? };
        let apply = ApplyOptions { threads: self.threads };
        let applied = apply_diff_with(&report.target, &diff, &source, apply, progress)
            .map_err(RepositoryError::io(&report.target))?;
        let unlisted = std::mem::replace(&mut report.applied, applied).failures;
        report.applied.failures.extend(unlisted);
        progress.check()?;
        let failed: HashSet<&RelPath> = report.applied.failures.iter().map(|failure| &failure.path).collect();
        report.lacking -= left_lacking.iter().filter(|path| failed.contains(path)).count() as u64;
        if let Some(mut wanted) = self.to_verify {
            let (mut now, _) = look_at(repository, &report.target, &wanted, None, progress)?;
            settle(&mut wanted, &now.entries, &lacking);
            comparable(&mut now.entries);
            let mut wrong = crate::diff::compare(&now.entries, &wanted);
            wrong.retain(|change| {
                !failed.contains(change.path()) && !is_socket(change) && !is_left(change, &on_the_way)
            });
            report.verified =
                Some(now.entries.iter().filter(|entry| entry.content().is_some()).count() as u64);
            report.mismatches =
                wrong.iter().map(|change| (change.path().clone(), Mismatch::of(change))).collect();
        }
        report.changes = report.applied.done(&diff.changes).cloned().collect();
        Ok(report)
    }
}

/// Adds what is there of `unread` to what was spared, where no directory that was looked into holds it: a source.
fn spare_unread(spared: &mut Vec<(RelPath, Spared)>, unread: &[RelPath], target: &Path, wanted: &[Entry]) {
    let Ok(below) = Beneath::open(target) else { return };
    for path in unread {
        let is_wanted = wanted.binary_search_by(|entry| entry.path.cmp(path)).is_ok();
        let is_told = spared.iter().any(|(told, _)| told.is_within(path) || path.is_within(told));
        if !is_wanted && !is_told && below.look(path).is_ok_and(|found| found.is_some()) {
            spared.push((path.clone(), Spared::Unreadable));
        }
    }
}

/// Where the entries of a snapshot go.
struct Destination {
    target: PathBuf,
    moves: Vec<Move>,
    /// What is restored, by the paths that the index has for it, and where each was on its host.
    sources: Vec<(RelPath, PathBuf)>,
}

/// A part of the index, and where that goes below the target.
struct Move {
    from: RelPath,
    to: RelPath,
}

impl Destination {
    /// For `entries`, which are at and below `top` in the index.
    fn new(
        snapshot: &Snapshot,
        options: &RestoreOptions,
        top: &RelPath,
        entries: &[Entry],
    ) -> Result<Self, RepositoryError> {
        let base = snapshot.base();
        let host = |path: &RelPath| join(&base, path);
        let is_file = |path: &RelPath| {
            let at = entries.binary_search_by(|entry| entry.path.cmp(path));
            at.is_ok_and(|at| !matches!(entries[at].kind, Kind::Directory))
        };
        // A thing that is no directory keeps its name, in the directory that it is restored to.
        let directory =
            |path: &RelPath| if is_file(path) { path.parent().unwrap_or_default() } else { path.clone() };
        let roots = snapshot.roots_within(top);
        let several = roots.len() > 1;
        let single = |path: &RelPath| vec![Move { from: directory(path), to: RelPath::root() }];
        let sources = |paths: &[RelPath]| paths.iter().map(|path| (path.clone(), host(path))).collect();
        match &options.target {
            RestoreTarget::Directory(target) => {
                let destination = Self {
                    target: target.clone(),
                    moves: single(top),
                    sources: match roots.as_slice() {
                        [] => sources(std::slice::from_ref(top)),
                        roots => sources(roots),
                    },
                };
                let source = host(&directory(top));
                if !options.into_root && source != Path::new("/") && is_top(&resolve(target)?) {
                    return Err(RepositoryError::IntoRoot(source));
                }
                Ok(destination)
            }
            RestoreTarget::InPlace if several => {
                let moves = roots.iter().map(|root| {
                    // Links above it were followed when it was backed up; one that it is itself was backed up as one.
                    let now = atomic::resolved_above(&host(root));
                    let below = now.strip_prefix("/").unwrap_or(&now).as_os_str().as_bytes();
                    Ok::<_, RepositoryError>(Move { from: root.clone(), to: RelPath::new(below)? })
                });
                Ok(Self {
                    target: "/".into(),
                    moves: moves.collect::<Result<_, _>>()?,
                    sources: sources(&roots),
                })
            }
            RestoreTarget::InPlace => {
                let top = roots.first().filter(|root| root.is_within(top)).unwrap_or(top);
                let sources = sources(std::slice::from_ref(top));
                let place = host(top);
                if let Some(link) = link_above(snapshot, &place) {
                    return Err(RepositoryError::ThroughLink { path: place, link });
                }
                // The link is replaced: what it points to was not backed up.
                if let (false, true, Some(name)) = (is_file(top), place.is_symlink(), place.file_name()) {
                    let to = RelPath::new(name.as_bytes())?;
                    let target = place.parent().unwrap_or(Path::new("/")).to_owned();
                    return Ok(Self { target, moves: vec![Move { from: top.clone(), to }], sources });
                }
                Ok(Self { target: host(&directory(top)), moves: single(top), sources })
            }
        }
    }

    /// Gives `entries` the paths that they will have below the target.
    fn relocate(&self, entries: &mut [Entry]) -> Result<(), RepositoryError> {
        for entry in entries.iter_mut() {
            if let Some(path) = self.below(&entry.path) {
                entry.path = path;
            }
        }
        if self.moves.len() > 1 {
            entries.sort_by(|a, b| a.path.cmp(&b.path));
            if let Some(pair) = entries.windows(2).find(|pair| pair[0].path == pair[1].path) {
                return Err(RepositoryError::SamePlace(self.target.join(pair[0].path.as_path())));
            }
        }
        Ok(())
    }

    /// What was where on the host, and where it goes below the target.
    fn spaces(&self, snapshot: &Snapshot) -> Vec<Space> {
        let base = snapshot.base();
        let space = |step: &Move| Space { host: join(&base, &step.from), to: step.to.as_path().to_owned() };
        self.moves.iter().map(space).collect()
    }

    /// What `pattern` means: as a path, one on the host that was backed up, as listings have it.
    fn meaning(
        &self,
        spaces: &[Space],
        entries: &[Entry],
        pattern: &Pattern,
        home: Option<&Path>,
    ) -> Result<Meaning, RepositoryError> {
        let is_there = |path: &Path| {
            let below =
                spaces.iter().filter_map(|space| Some(space.to.join(path.strip_prefix(&space.host).ok()?)));
            let mut paths = below.filter_map(|path| RelPath::new(path.as_os_str().as_bytes()).ok());
            paths.any(|path| entries.binary_search_by(|entry| entry.path.cmp(&path)).is_ok())
        };
        // Listings have paths from there on.
        Ok(pattern.read(home, &[Path::new("/")], is_there)?)
    }

    /// The path in the index of what is to be at `path` below the target.
    fn origin(&self, path: &RelPath) -> Option<RelPath> {
        translate(path, self.moves.iter().map(|step| (&step.to, &step.from)))
    }

    /// Where that would be which the backup could not read.
    fn unread(&self, snapshot: &Snapshot, top: &RelPath) -> Vec<RelPath> {
        self.places(&snapshot.record.unreadable, top)
    }

    /// Where `paths` of the index would be, as far as they are at `top`, below, or above.
    fn places(&self, paths: &[RelPath], top: &RelPath) -> Vec<RelPath> {
        let unread = paths.iter().filter_map(|path| {
            // A directory above what is restored could not be read as a whole.
            let path = if top.is_within(path) { top } else { path };
            path.is_within(top).then(|| self.below(path))?
        });
        unread.collect()
    }

    /// What is restored, and where it will be: all sources but those of which the backup could read nothing, when
    /// `entries` are what is to be below the target.
    fn sources(&self, entries: &[Entry], snapshot: &Snapshot) -> Vec<(PathBuf, PathBuf)> {
        let has_some = |path: &RelPath| {
            let Some(below) = self.below(path) else { return true };
            let first = entries.partition_point(|entry| entry.path < below);
            entries.get(first).is_some_and(|entry| entry.path.is_within(&below))
        };
        let sources = self.sources.iter();
        let found = sources.filter(|(path, _)| !snapshot.record.is_unreadable(path) || has_some(path));
        found.map(|(path, source)| (source.clone(), self.place(path))).collect()
    }

    /// Where what is at `path` in the index will be, below the target.
    fn below(&self, path: &RelPath) -> Option<RelPath> {
        translate(path, self.moves.iter().map(|step| (&step.from, &step.to)))
    }

    /// Where a source will be.
    fn place(&self, path: &RelPath) -> PathBuf {
        self.below(path).map_or_else(|| self.target.clone(), |below| join(&self.target, &below))
    }

    /// Whether everything goes where it was.
    fn is_source(&self) -> bool {
        let is_there = |(path, from): &(RelPath, PathBuf)| {
            let (from, to) = (resolve(from), resolve(&self.place(path)));
            from.is_ok_and(|from| to.is_ok_and(|to| from == to))
        };
        self.sources.iter().all(is_there)
    }
}

/// Moves `path` as the longest first half of a pair says that it lies within.
fn translate<'a>(path: &RelPath, pairs: impl Iterator<Item = (&'a RelPath, &'a RelPath)>) -> Option<RelPath> {
    let within = pairs.filter_map(|(from, to)| Some((from.as_bytes().len(), path.strip_prefix(from)?, to)));
    let (_, below, to) = within.max_by_key(|(len, _, _)| *len)?;
    to.join(below.as_bytes()).ok()
}

/// The source that `path` lies below, or a directory between them, if that is a link by now.
fn link_above(snapshot: &Snapshot, path: &Path) -> Option<PathBuf> {
    let roots = snapshot.record.roots.iter().map(|root| Path::new(OsStr::from_bytes(root)));
    let root = roots.filter(|root| path.starts_with(root)).max_by_key(|root| root.as_os_str().len())?;
    let between = path.ancestors().skip(1).take_while(|above| above.starts_with(root));
    between.filter(|above| above.is_symlink()).last().map(Path::to_owned)
}

/// Whether `path`, without links, is `/`, by whatever name it is mounted.
fn is_top(path: &Path) -> bool {
    let place = |path: &Path| path.metadata().map(|found| (found.dev(), found.ino())).ok();
    path == Path::new("/") || place(path).is_some_and(|found| place(Path::new("/")) == Some(found))
}

/// `path` without links, as far as there is something: what is missing of it is no link.
fn resolve(path: &Path) -> Result<PathBuf, RepositoryError> {
    let absolute = std::path::absolute(path).map_err(RepositoryError::io(path))?;
    Ok(atomic::resolved(&absolute))
}

/// Whether only the metadata of a directory differs that is on the way to what was asked for.
fn is_left<E: Borrow<Entry>, P: Borrow<RelPath>>(
    change: &Change<E, P>,
    on_the_way: &HashSet<RelPath>,
) -> bool {
    matches!(change, Change::Metadata(_)) && on_the_way.contains(change.path())
}

fn is_socket(change: &ChangeRef<'_>) -> bool {
    change.entry().is_some_and(|entry| matches!(entry.kind, Kind::Socket))
}

fn unchanged(total: usize, changes: &[Change]) -> u64 {
    let changed = changes.iter().filter(|change| change.entry().is_some()).count();
    total.saturating_sub(changed) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::compare;

    #[test]
    fn what_is_read_back_tells_content_from_metadata() {
        let entry = |path: &str, kind, mode| {
            let meta = crate::diff::Metadata { mode, ..Default::default() };
            Entry { path: RelPath::new(path.as_bytes()).unwrap(), kind, meta }
        };
        let now = [entry("a", Kind::Fifo, 0o644), entry("b", Kind::Fifo, 0o644)];
        let wanted = [
            entry("a", Kind::Fifo, 0o600),
            entry("b", Kind::File(Default::default()), 0o644),
            entry("c", Kind::Fifo, 0o644),
        ];
        let found: Vec<_> = compare(&now, &wanted).iter().map(Mismatch::of).collect();
        assert_eq!(found, [Mismatch::Metadata, Mismatch::Content, Mismatch::Unreadable]);
    }
}
