//! Restoring, as applying the difference between a target and a snapshot.
//!
//! The target may be empty, or hold an older state: only what differs is written, and content that is there
//! already is not read from the repository. Of the target only those paths are looked at that the snapshot
//! has; with `delete` the directories among them are listed too.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rustix::fs::FileType;
use walkdir::WalkDir;

use crate::diff::DiffIndex;
use crate::diff::{
    ApplyOptions, ApplyReport, Change, ChangeRef, DirIndex, Entry, Failure, Found, Kind, ReadOptions,
    SourceDir, Stat, apply_diff_with, comparable, describe, fill, settable,
};
use crate::progress::Progress;
use crate::relpath::RelPath;
use crate::repository::segments::RepositorySource;
use crate::repository::{Repository, RepositoryError, Snapshot};

/// What is restored, and how.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// The directory that what is restored is put into.
    pub target: PathBuf,
    /// The path in the snapshot whose content is restored; everything without one.
    pub path: Option<Vec<u8>>,
    /// Patterns, as in `.gitignore`: only what matches one is restored, with the directories above it.
    pub include: Vec<String>,
    /// Patterns, as in `.gitignore`: what matches one is not restored, nor removed.
    pub exclude: Vec<String>,
    /// Remove what is in the target and not in the snapshot, if the patterns choose it.
    pub delete: bool,
    /// Change nothing.
    pub dry_run: bool,
    /// Read everything back afterwards.
    pub verify: bool,
    /// Threads that write files.
    pub threads: usize,
}

impl RestoreOptions {
    /// Everything into `target`, deleting nothing.
    pub fn new(target: impl Into<PathBuf>) -> Self {
        Self {
            target: target.into(),
            path: None,
            include: Vec::new(),
            exclude: Vec::new(),
            delete: false,
            dry_run: false,
            verify: false,
            threads: std::thread::available_parallelism().map_or(1, Into::into),
        }
    }
}

/// What a restore did.
#[derive(Debug)]
pub struct RestoreReport {
    /// What differed, in path order: what was done, or would be.
    pub changes: Vec<Change>,
    /// What was done.
    pub applied: ApplyReport,
    /// Entries that were as they should be already.
    pub unchanged: u64,
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

impl Repository {
    /// Brings the target to the state of `snapshot`.
    ///
    /// What cannot be restored is among the failures of the report; the old file is left then, and the rest
    /// goes on.
    pub fn restore(
        &self,
        snapshot: &Snapshot,
        options: &RestoreOptions,
        progress: &Progress,
    ) -> Result<RestoreReport, RepositoryError> {
        let _keep = self.keep_while_reading()?;
        let (top, mut entries) = self.entries_below(snapshot, options.path.as_deref())?;
        rebase(&mut entries, &top);
        let choice = Choice::new(options, self.place_below(&options.target)?)?;
        let on_the_way = choice.select(&mut entries);
        let has_none = entries.iter().all(|entry| entry.path.is_root());
        if has_none && !options.include.is_empty() && !options.delete {
            return Err(RepositoryError::NothingChosen(snapshot.short_id()));
        }
        // With the numbers of the owners here, which therefore need no names any more.
        let lacking = settable(&mut entries, &snapshot.record.owners);
        let wanted = DirIndex { entries, ..DirIndex::default() };
        let mut failures = Vec::new();
        let extra = options.delete.then_some((&choice, &mut failures));
        let present = self.look_at(&options.target, &wanted.entries, extra, progress)?;
        // Only reading back needs what is there already too.
        let to_verify = options.verify.then(|| wanted.entries.clone());
        let total = wanted.entries.len();
        let mut diff = DiffIndex::compute_into(&present, wanted);
        drop(present);
        if !options.delete {
            diff.keep_extra();
        }
        diff.changes.retain(|change| !is_left(change, &on_the_way));
        let mut report = RestoreReport {
            unchanged: unchanged(total, &diff.changes),
            changes: Vec::new(),
            applied: ApplyReport::default(),
            lacking,
            verified: None,
            mismatches: Vec::new(),
        };
        if options.dry_run {
            report.changes = diff.changes;
            report.applied.failures = failures;
            return Ok(report);
        }
        let contents = diff.changes.iter().filter_map(Change::with_content).filter_map(Entry::content);
        for content in contents {
            progress.total_files.add(1);
            progress.total_bytes.add(content.data_len());
        }
        let source = RepositorySource { repository: self, segments: self.segments()? };
        let apply = ApplyOptions { threads: options.threads };
        report.applied = apply_diff_with(&options.target, &diff, &source, apply, progress)
            .map_err(RepositoryError::io(&options.target))?;
        report.applied.failures.extend(failures);
        progress.check()?;
        if let Some(wanted) = to_verify {
            let failed: HashSet<&RelPath> =
                report.applied.failures.iter().map(|failure| &failure.path).collect();
            let now = self.look_at(&options.target, &wanted, None, progress)?;
            let mut wrong = crate::diff::compare(&now.entries, &wanted);
            wrong.retain(|change| {
                !failed.contains(change.path()) && !is_socket(change) && !is_left(change, &on_the_way)
            });
            report.verified =
                Some(now.entries.iter().filter(|entry| entry.content().is_some()).count() as u64);
            report.mismatches =
                wrong.iter().map(|change| (change.path().clone(), Mismatch::of(change))).collect();
        }
        report.changes = diff.changes;
        Ok(report)
    }

    /// The state of those paths of `target` that `wanted` has, content included; with `extra` also the names
    /// of what stands beside them and is chosen, and what of that cannot be listed.
    fn look_at(
        &self,
        target: &Path,
        wanted: &[Entry],
        mut extra: Option<(&Choice, &mut Vec<Failure>)>,
        progress: &Progress,
    ) -> Result<DirIndex, RepositoryError> {
        let mut entries = Vec::new();
        let mut reach = Reach { target, open: Vec::new(), blocked: None };
        for entry in wanted {
            progress.check()?;
            if entry.path.parent().is_some_and(|parent| !reach.enter(&parent)) {
                continue;
            }
            let path = target.join(entry.path.as_path());
            let Some(stat) = lstat(&path) else { continue };
            if stat.file_type() == FileType::Directory {
                reach.open.push(entry.path.clone());
                if let Some((choice, failures)) = &mut extra {
                    list_extra(&path, &entry.path, wanted, choice, &mut entries, failures)?;
                }
            }
            let found = Found { path: entry.path.clone(), stat };
            // What cannot be read is as good as not there: it is made anew.
            entries.extend(describe(&path, found, SystemTime::UNIX_EPOCH).ok());
        }
        entries.sort_by(|a: &Entry, b: &Entry| a.path.cmp(&b.path));
        let read = ReadOptions::new(self.config.segments, SystemTime::UNIX_EPOCH);
        fill(
            &mut entries,
            &SourceDir::new(target),
            &read,
            &Progress::new(),
            |_, _| (),
            |_, _, ()| Ok::<_, RepositoryError>(progress.check()?),
        )?;
        comparable(&mut entries);
        Ok(DirIndex { entries, ..DirIndex::default() })
    }

    /// Where this repository lies below a directory that something is restored into, if it does.
    fn place_below(&self, target: &Path) -> Result<Option<RelPath>, RepositoryError> {
        let own = self.timeline.git().path();
        let own = own.canonicalize().map_err(RepositoryError::io(own))?;
        let target = std::path::absolute(target).map_err(RepositoryError::io(target))?;
        // What is missing of it is no link.
        let there = target.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
        let target = match &there {
            Some((above, real)) => real.join(target.strip_prefix(above).unwrap_or(&target)),
            None => target,
        };
        if target.starts_with(&own) {
            return Err(RepositoryError::IntoItself(target));
        }
        match own.strip_prefix(&target) {
            Ok(below) => Ok(Some(RelPath::new(below.as_os_str().as_bytes())?)),
            Err(_) => Ok(None),
        }
    }
}

/// Which directories of the target can be reached without following a link, asked for in path order.
struct Reach<'a> {
    target: &'a Path,
    /// The directories above the one that was asked for last, each below the one before.
    open: Vec<RelPath>,
    /// The last one that is not there or is no directory.
    blocked: Option<RelPath>,
}

impl Reach<'_> {
    fn enter(&mut self, directory: &RelPath) -> bool {
        if self.blocked.as_ref().is_some_and(|blocked| directory.is_within(blocked)) {
            return false;
        }
        self.open.truncate(self.open.iter().take_while(|path| directory.is_within(path)).count());
        let mut below = Vec::new();
        let mut path = directory.clone();
        while !path.is_root() && self.open.last() != Some(&path) {
            let parent = path.parent().unwrap_or_default();
            below.push(path);
            path = parent;
        }
        while let Some(path) = below.pop() {
            let stat = lstat(&self.target.join(path.as_path()));
            if stat.is_none_or(|stat| stat.file_type() != FileType::Directory) {
                self.blocked = Some(path);
                return false;
            }
            self.open.push(path);
        }
        true
    }
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

/// Makes `top` the root; where it is no directory it keeps its name.
fn rebase(entries: &mut [Entry], top: &RelPath) {
    let is_below =
        entries.first().is_some_and(|first| first.path == *top && !matches!(first.kind, Kind::Directory));
    let root = if is_below { top.parent().unwrap_or_default() } else { top.clone() };
    for entry in entries {
        entry.path = entry.path.strip_prefix(&root).unwrap_or_default();
    }
}

/// What the patterns ask for.
struct Choice {
    include: Gitignore,
    exclude: Gitignore,
    /// The repository itself, which is neither written nor removed.
    own: Option<RelPath>,
}

impl Choice {
    fn new(options: &RestoreOptions, own: Option<RelPath>) -> Result<Self, RepositoryError> {
        Ok(Self { include: patterns(&options.include)?, exclude: patterns(&options.exclude)?, own })
    }

    fn has(&self, path: &RelPath, is_dir: bool) -> bool {
        let matches =
            |patterns: &Gitignore| patterns.matched_path_or_any_parents(path.as_path(), is_dir).is_ignore();
        let is_chosen = || !matches(&self.exclude) && (self.include.is_empty() || matches(&self.include));
        let is_own = self.own.as_ref().is_some_and(|own| path.is_within(own));
        path.is_root() || (!is_own && is_chosen())
    }

    /// Leaves what the patterns ask for, and the directories above it. Returns those directories that the patterns do
    /// not ask for themselves: where they are there already, nothing about them is to be changed.
    fn select(&self, entries: &mut Vec<Entry>) -> HashSet<RelPath> {
        let has = |entry: &Entry| self.has(&entry.path, matches!(entry.kind, Kind::Directory));
        if self.include.is_empty() {
            entries.retain(has);
            return HashSet::new();
        }
        // In the target there may be something to remove even where the snapshot has nothing.
        let mut kept = HashSet::from([RelPath::root()]);
        for entry in entries.iter().filter(|entry| !entry.path.is_root() && has(entry)) {
            let mut path = Some(entry.path.clone());
            while let Some(above) = path.filter(|path| kept.insert(path.clone())) {
                path = above.parent();
            }
        }
        entries.retain(|entry| kept.contains(&entry.path));
        kept.retain(|path| {
            let at = entries.binary_search_by(|entry| entry.path.cmp(path));
            path.is_root() || at.is_ok_and(|at| !has(&entries[at]))
        });
        kept
    }
}

fn patterns(lines: &[String]) -> Result<Gitignore, RepositoryError> {
    let mut builder = GitignoreBuilder::new("");
    let unusable = |source| RepositoryError::Pattern { source };
    for line in lines {
        builder.add_line(None, line).map_err(unusable)?;
    }
    builder.build().map_err(unusable)
}

/// Adds what stands in a directory and is chosen but not wanted, and all below it, with nothing but its kind.
/// A directory that holds something else stays.
fn list_extra(
    directory: &Path,
    below: &RelPath,
    wanted: &[Entry],
    choice: &Choice,
    entries: &mut Vec<Entry>,
    failures: &mut Vec<Failure>,
) -> Result<(), RepositoryError> {
    let path_of =
        |path: &Path| below.join(path.strip_prefix(directory).unwrap_or(path).as_os_str().as_bytes());
    let mut listed = Vec::new();
    let mut walk = WalkDir::new(directory).min_depth(1).into_iter();
    while let Some(found) = walk.next() {
        let (path, found) = match found {
            Ok(found) => (path_of(found.path())?, Ok(found.file_type().is_dir())),
            Err(error) => (path_of(error.path().unwrap_or(directory))?, Err(io::Error::from(error))),
        };
        let is_wanted = wanted.binary_search_by(|entry| entry.path.cmp(&path)).is_ok();
        if is_wanted && matches!(found, Ok(true)) {
            // Listed when that is looked at.
            walk.skip_current_dir();
        }
        listed.push((path, is_wanted, found));
    }
    let mut kept: Option<RelPath> = None;
    // Backwards, so that what a directory holds comes before it.
    for (path, is_wanted, found) in listed.into_iter().rev() {
        match found {
            Ok(is_dir)
                if !is_wanted
                    && choice.has(&path, is_dir)
                    && !kept.as_ref().is_some_and(|kept| kept.is_within(&path)) =>
            {
                let kind = if is_dir { Kind::Directory } else { Kind::Fifo };
                entries.push(Entry { path, kind, meta: Default::default() });
            }
            Ok(_) => kept = Some(path),
            Err(error) => {
                kept = Some(path.clone());
                failures.push(Failure { path, source: error.into() });
            }
        }
    }
    Ok(())
}

/// What stands at `path`. What cannot be looked at is as good as not there: putting something there tells
/// what is wrong.
fn lstat(path: &Path) -> Option<Stat> {
    rustix::fs::lstat(path).ok().map(Stat::from)
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
