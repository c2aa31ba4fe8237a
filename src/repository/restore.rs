//! Restoring, as applying the difference between a target and a snapshot.
//!
//! The target may be empty, or hold an older state: only what differs is written, and content that is there already is not read from the
//! repository. Of the target only those paths are looked at that the snapshot has; with `delete` the directories among them are listed too.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rustix::fs::FileType;
use walkdir::WalkDir;

use crate::diff::DiffIndex;
use crate::diff::{
    ApplyOptions, ApplyReport, Change, DirIndex, Entry, Found, Kind, ReadOptions, Stat, apply_diff_with,
    describe, fill,
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
    /// Patterns, as in `.gitignore`: what matches one is not restored.
    pub exclude: Vec<String>,
    /// Remove what is in the target and not in the snapshot.
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
    /// Files that were read back and found right, where that was asked for.
    pub verified: Option<u64>,
    /// What was not as it should be when it was read back.
    pub mismatches: Vec<RelPath>,
}

impl Repository {
    /// Brings the target to the state of `snapshot`.
    ///
    /// What cannot be restored is among the failures of the report; the old file is left then, and the rest goes on.
    pub fn restore(
        &self,
        snapshot: &Snapshot,
        options: &RestoreOptions,
        progress: &Progress,
    ) -> Result<RestoreReport, RepositoryError> {
        let mut entries = self.entries(snapshot, options.path.as_deref())?;
        if options.path.is_some() {
            rebase(&mut entries)?;
        }
        select(&mut entries, options)?;
        let wanted = DirIndex { entries, owners: snapshot.record.owners.clone(), ..DirIndex::default() };
        let present = self.look_at(&options.target, &wanted.entries, options.delete, progress)?;
        let mut diff = DiffIndex::compute(&present, &wanted);
        drop(present);
        if !options.delete {
            diff.keep_extra();
        }
        let mut report = RestoreReport {
            unchanged: unchanged(&wanted.entries, &diff.changes),
            changes: Vec::new(),
            applied: ApplyReport::default(),
            verified: None,
            mismatches: Vec::new(),
        };
        if options.dry_run {
            report.changes = diff.changes;
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
        progress.check()?;
        if options.verify {
            let failed: HashSet<&RelPath> =
                report.applied.failures.iter().map(|failure| &failure.path).collect();
            let now = self.look_at(&options.target, &wanted.entries, false, progress)?;
            let mut wrong = crate::diff::compare(&now.entries, &wanted.entries);
            wrong.retain(|change| !failed.contains(change.path()) && !is_socket(change));
            report.verified =
                Some(now.entries.iter().filter(|entry| entry.content().is_some()).count() as u64);
            report.mismatches = wrong.iter().map(|change| change.path().clone()).collect();
        }
        report.changes = diff.changes;
        Ok(report)
    }

    /// The state of those paths of `target` that `wanted` has, content included; with `extra` also the names of what stands beside them.
    fn look_at(
        &self,
        target: &Path,
        wanted: &[Entry],
        extra: bool,
        progress: &Progress,
    ) -> Result<DirIndex, RepositoryError> {
        let mut entries = Vec::new();
        // The directories above the entry that is looked at, as far as they are there.
        let mut open: Vec<RelPath> = Vec::new();
        for entry in wanted {
            progress.check()?;
            open.truncate(open.iter().take_while(|path| entry.path.is_within(path)).count());
            let parent = entry.path.parent();
            let reachable =
                parent.as_ref().is_none_or(|parent| open.last() == Some(parent) || parent.is_root());
            if !reachable {
                continue;
            }
            let path = target.join(entry.path.as_path());
            let Some(stat) = lstat(&path)? else { continue };
            if stat.file_type() == FileType::Directory {
                open.push(entry.path.clone());
                if extra {
                    list_extra(&path, &entry.path, wanted, &mut entries)?;
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
            |path| target.join(path.as_path()),
            &read,
            &Progress::new(),
            |_, _| (),
            |_, _, ()| Ok::<_, RepositoryError>(()),
        )?;
        Ok(DirIndex { entries, ..DirIndex::default() })
    }
}

fn is_socket(change: &Change) -> bool {
    change.entry().is_some_and(|entry| matches!(entry.kind, Kind::Socket))
}

fn unchanged(entries: &[Entry], changes: &[Change]) -> u64 {
    let changed = changes.iter().filter(|change| change.entry().is_some()).count();
    (entries.len() - changed.min(entries.len())) as u64
}

/// Makes the first entry the root; a single file keeps its name.
fn rebase(entries: &mut [Entry]) -> Result<(), RepositoryError> {
    let Some(first) = entries.first() else { return Ok(()) };
    let top = match first.kind {
        Kind::Directory => first.path.clone(),
        _ => first.path.parent().unwrap_or_default(),
    };
    for entry in entries {
        entry.path = entry.path.strip_prefix(&top).unwrap_or_default();
    }
    Ok(())
}

/// Leaves what the patterns ask for, and the directories above it.
fn select(entries: &mut Vec<Entry>, options: &RestoreOptions) -> Result<(), RepositoryError> {
    let (include, exclude) = (patterns(&options.include)?, patterns(&options.exclude)?);
    let matches = |patterns: &Gitignore, entry: &Entry| {
        let is_dir = matches!(entry.kind, Kind::Directory);
        patterns.matched_path_or_any_parents(entry.path.as_path(), is_dir).is_ignore()
    };
    if !exclude.is_empty() {
        entries.retain(|entry| entry.path.is_root() || !matches(&exclude, entry));
    }
    if include.is_empty() {
        return Ok(());
    }
    let mut kept: HashSet<RelPath> = HashSet::new();
    for entry in entries.iter().filter(|entry| !entry.path.is_root() && matches(&include, entry)) {
        let mut path = Some(entry.path.clone());
        while let Some(above) = path.filter(|path| kept.insert(path.clone())) {
            path = above.parent();
        }
    }
    entries.retain(|entry| kept.contains(&entry.path));
    Ok(())
}

fn patterns(lines: &[String]) -> Result<Gitignore, RepositoryError> {
    let mut builder = GitignoreBuilder::new("");
    let unusable = |source| RepositoryError::Pattern { source };
    for line in lines {
        builder.add_line(None, line).map_err(unusable)?;
    }
    builder.build().map_err(unusable)
}

/// Adds what stands in a directory and is not wanted, and all below it, with nothing but its kind.
fn list_extra(
    directory: &Path,
    below: &RelPath,
    wanted: &[Entry],
    entries: &mut Vec<Entry>,
) -> Result<(), RepositoryError> {
    use std::os::unix::ffi::OsStrExt;
    for name in directory.read_dir().map_err(RepositoryError::io(directory))? {
        let name = name.map_err(RepositoryError::io(directory))?.file_name();
        let top = below.join(name.as_bytes())?;
        if wanted.binary_search_by(|entry| entry.path.cmp(&top)).is_ok() {
            continue;
        }
        let top_path = directory.join(&name);
        for found in WalkDir::new(&top_path).follow_root_links(false) {
            let found = found.map_err(|error| RepositoryError::io(&top_path)(error.into()))?;
            let rest = found.path().strip_prefix(&top_path).unwrap_or(found.path());
            let kind = if found.file_type().is_dir() { Kind::Directory } else { Kind::Fifo };
            entries.push(Entry {
                path: top.join(rest.as_os_str().as_bytes())?,
                kind,
                meta: Default::default(),
            });
        }
    }
    Ok(())
}

fn lstat(path: &Path) -> Result<Option<Stat>, RepositoryError> {
    match rustix::fs::lstat(path) {
        Ok(stat) => Ok(Some(stat.into())),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
        Err(error) => Err(RepositoryError::io(path)(error.into())),
    }
}
