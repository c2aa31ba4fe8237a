//! What differs between a snapshot and another, or a directory.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::atomic;
use crate::diff::{
    Beneath, Change, ChangeRef, Entry, Excludes, Kind, ReadOptions, ScanError, ScanErrorKind, ScanOptions,
    SourceDir, compare, describe_in, fill, link_of, scan,
};
use crate::progress::Progress;
use crate::relpath::RelPath;
use crate::repository::changes::{Side, changes};
use crate::repository::plan::is_unchanged;
use crate::repository::{Layout, Repository, RepositoryError, Snapshot, SnapshotView};

/// How a directory is compared with a snapshot.
#[derive(Debug, Clone, Default)]
pub struct CompareOptions {
    /// The path in the snapshot that the directory is compared with. Without one, that of the directory itself, or of
    /// the only directory of the snapshot.
    pub path: Option<Vec<u8>>,
    /// What is left out, on both sides.
    pub excludes: Excludes,
    /// Stay in the file system of the directory.
    pub one_file_system: bool,
    /// Read every file, even where size, times and inode say that nothing has changed.
    pub force: bool,
}

/// How a directory differs from a snapshot.
#[derive(Debug)]
pub struct Comparison {
    /// The differences, in path order.
    pub changes: Vec<Change>,
    /// What could not be read: it is among the differences neither as new nor as gone.
    pub problems: Vec<ScanError>,
    /// Names that are on one side only, and that a backup could not read on the other: nobody knows whether they
    /// differ, and they are not among the differences.
    pub unknown: u64,
    /// Files that were read; all others are taken as unchanged, as a backup takes them.
    pub files_read: u64,
}

impl Repository {
    /// What differs in the snapshot `new`, compared with `old`.
    pub fn compare(&self, old: &Snapshot, new: &Snapshot) -> Result<Comparison, RepositoryError> {
        self.compare_paths((old, None), (new, None))
    }

    /// What differs at a path of the snapshot `new`, compared with a path of `old`; paths of the differences begin there.
    /// Without a path all of a snapshot is meant. What one side does not have is created, or deleted.
    pub fn compare_paths(
        &self,
        (old, old_path): (&Snapshot, Option<&[u8]>),
        (new, new_path): (&Snapshot, Option<&[u8]>),
    ) -> Result<Comparison, RepositoryError> {
        let (old_view, new_view) = (self.view(old)?, self.view(new)?);
        let (before, after) = (old_view.resolve(old_path), new_view.resolve(new_path));
        let is_missing = |found: &Result<_, _>| matches!(found, Err(RepositoryError::NoPath { .. }));
        // What neither has is an error.
        let (old_there, new_there) = (!is_missing(&before), !is_missing(&after));
        let before = if old_there || !new_there { Some(before?) } else { None };
        let after = if new_there { Some(after?) } else { None };
        let is_unread = |snapshot: &Snapshot, top: &Option<RelPath>, path: &RelPath| {
            let path = top.as_ref().and_then(|top| top.join(path.as_bytes()).ok());
            path.is_some_and(|path| snapshot.record.is_unreadable(&path))
        };
        let side = |view, top: &Option<RelPath>| top.clone().map(|top| Side { view, top });
        let (changes, unknown) =
            changes(side(&old_view, &before), side(&new_view, &after), |old_entries, new_entries| {
                retain_comparable(
                    old_entries,
                    new_entries,
                    |path| is_unread(old, &before, path),
                    |path| is_unread(new, &after, path),
                )
            })?;
        Ok(Comparison { changes, problems: Vec::new(), unknown, files_read: 0 })
    }

    /// What differs in a directory as it is now, compared with `snapshot`. It stands for the only directory of the
    /// snapshot; where there are several, it must be one of them.
    pub fn compare_directory(
        &self,
        snapshot: &Snapshot,
        directory: &Path,
        options: &CompareOptions,
        progress: &Progress,
    ) -> Result<Comparison, RepositoryError> {
        let _hold = self.hold()?;
        let excludes = options.excludes.load()?;
        excludes.check_leaves_some(&[directory])?;
        let is_excluded = excludes.matcher(directory)?;
        let scan_options = ScanOptions {
            excludes,
            one_file_system: options.one_file_system,
            leave_out: self.own_directory(),
            threads: 1,
            left_out: None,
        };
        let view = self.view(snapshot)?;
        let source = SourceDir::new(directory);
        let is_directory = source.held(&RelPath::root()).is_some();
        let top = match &options.path {
            Some(path) => view.resolve(Some(path))?,
            None => top_for(&view, directory, is_directory)?,
        };
        let mut listed = Side { view: &view, top: top.clone() }.walk(None)?.peekable();
        let mut problems = Vec::new();
        // What is alike on both sides counts only where its links do.
        let (mut old, mut same, mut fresh) = (Vec::new(), Vec::new(), Vec::new());
        scan::<RepositoryError>(&source, &RelPath::root(), &scan_options, |found| {
            progress.check()?;
            let found = match found {
                Ok(found) => found,
                Err(problem) => {
                    problems.push(problem);
                    return Ok(());
                }
            };
            // Both are in path order.
            let is_before = |entry: &Result<Entry, _>| entry.as_ref().map_or(true, |it| it.path < found.path);
            while let Some(entry) = listed.next_if(is_before) {
                old.push(entry?);
            }
            let entry = listed.next_if(|entry| entry.as_ref().is_ok_and(|it| it.path == found.path));
            match entry.transpose()? {
                Some(entry) if !options.force && is_unchanged(&entry, &found.stat) => {
                    if link_of(&entry).is_some() {
                        same.push(entry.clone());
                        old.push(entry);
                    }
                }
                entry => {
                    old.extend(entry);
                    match describe_in(&source, found, SystemTime::UNIX_EPOCH) {
                        Ok((entry, problem)) => {
                            fresh.push(entry);
                            problems.extend(problem);
                        }
                        Err(problem) => problems.push(problem),
                    }
                }
            }
            Ok(())
        })?;
        for entry in listed {
            old.push(entry?);
        }
        let read = ReadOptions::new(self.config.segments, SystemTime::UNIX_EPOCH);
        problems.extend(fill(
            &mut fresh,
            &source,
            &read,
            progress,
            |_, _| (),
            |_, _, ()| Ok::<_, RepositoryError>(progress.check()?),
        )?);
        let files_read = fresh.iter().filter(|entry| entry.content().is_some()).count() as u64;
        let mut new = same;
        new.append(&mut fresh);
        new.sort_by(|a, b| a.path.cmp(&b.path));
        let is_unread =
            |path: &RelPath| top.join(path.as_bytes()).is_ok_and(|path| snapshot.record.is_unreadable(&path));
        let unknown = retain_known(&mut new, &old, is_unread);
        // Gone since it was found is gone.
        problems.retain(|problem| match &problem.source {
            ScanErrorKind::Io(error) => error.kind() != io::ErrorKind::NotFound,
            _ => true,
        });
        let there = is_directory.then(|| Beneath::open(directory));
        // What is no directory any more has nothing below it.
        let is_gone = |path: &RelPath| match &there {
            Some(there) => there.as_ref().is_ok_and(|there| is_gone(there, path)),
            None => !path.is_root(),
        };
        // What is there, and was left out or could not be read, is not gone.
        old.retain(|entry| {
            let is_new = new.binary_search_by(|new| new.path.cmp(&entry.path)).is_ok();
            let is_dir = matches!(entry.kind, Kind::Directory);
            is_new || (!is_excluded(&entry.path, is_dir) && is_gone(&entry.path))
        });
        Ok(Comparison { changes: owned(&compare(&old, &new)), problems, unknown, files_read })
    }
}

/// The path in a snapshot of what `directory` stands for: where the snapshot has that directory; where that was not backed
/// up, and only one was, the top.
fn top_for(
    view: &SnapshotView<'_>,
    directory: &Path,
    is_directory: bool,
) -> Result<RelPath, RepositoryError> {
    let snapshot = view.snapshot();
    let absolute = std::path::absolute(directory).map_err(RepositoryError::io(directory))?;
    let absolute: PathBuf = absolute.components().collect();
    absolute.symlink_metadata().map_err(RepositoryError::io(directory))?;
    // A link may lead nowhere.
    let real = absolute.canonicalize().unwrap_or_else(|_| absolute.clone());
    // The link itself, where links lead to it.
    let named = atomic::resolved_above(&absolute);
    let mut is_below = false;
    for path in [&absolute, &named, &real] {
        let is_in_snapshot =
            snapshot.record.roots.iter().any(|root| path.starts_with(OsStr::from_bytes(root)));
        if !is_in_snapshot {
            continue;
        }
        is_below = true;
        match view.resolve(Some(path.as_os_str().as_bytes())) {
            Err(RepositoryError::NoPath { .. }) => {}
            found => return found,
        }
    }
    match snapshot.record.roots.as_slice() {
        [root] if snapshot.record.layout == Layout::Single && !is_below => match is_directory {
            true => Ok(RelPath::root()),
            // One file stands for the other.
            false => Ok(snapshot.record.path_of_root(root)),
        },
        _ => {
            let path = directory.display().to_string();
            Err(RepositoryError::NotRoot { path, snapshot: snapshot.name() })
        }
    }
}

/// Takes out of both sides the names that only one of them has, and that could not be read on the other: nobody knows
/// whether they differ. Returns how many those are.
pub(super) fn retain_comparable(
    old: &mut Vec<Entry>,
    new: &mut Vec<Entry>,
    is_unread_in_old: impl Fn(&RelPath) -> bool,
    is_unread_in_new: impl Fn(&RelPath) -> bool,
) -> u64 {
    let unknown = retain_known(new, old, is_unread_in_old);
    unknown + retain_known(old, new, is_unread_in_new)
}

/// Takes out of `entries` what `others` do not have and `is_unread` says that they cannot; how many that are.
fn retain_known(entries: &mut Vec<Entry>, others: &[Entry], is_unread: impl Fn(&RelPath) -> bool) -> u64 {
    let before = entries.len();
    let has = |path: &RelPath| others.binary_search_by(|other| other.path.cmp(path)).is_ok();
    entries.retain(|entry| !is_unread(&entry.path) || has(&entry.path));
    (before - entries.len()) as u64
}

/// Whether nothing stands at `path`; not where that cannot be known.
fn is_gone(below: &Beneath, path: &RelPath) -> bool {
    match below.look(path) {
        Ok(found) => found.is_none(),
        // A directory above it is a file or a link by now.
        Err(error) => error.kind() == io::ErrorKind::NotADirectory,
    }
}

fn owned(changes: &[ChangeRef<'_>]) -> Vec<Change> {
    changes.iter().map(ChangeRef::to_owned).collect()
}

/// What a set of changes amounts to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Things that are new.
    pub created: u64,
    /// Things whose content is another.
    pub updated: u64,
    /// Things of which only the metadata is another.
    pub metadata: u64,
    /// Things that are gone.
    pub deleted: u64,
    /// Things that stand at another path.
    pub renamed: u64,
    /// Bytes of the files that are new or have another content.
    pub bytes: u64,
}

impl Totals {
    /// Adds up `changes`.
    pub fn of<'a>(changes: impl IntoIterator<Item = ChangeRef<'a>>) -> Self {
        let mut totals = Self::default();
        for change in changes {
            match change {
                Change::Created(_) => totals.created += 1,
                Change::Updated(_) => totals.updated += 1,
                Change::Metadata(_) => totals.metadata += 1,
                Change::Deleted { .. } => totals.deleted += 1,
                Change::Renamed { .. } => totals.renamed += 1,
            }
            if let Change::Created(entry) | Change::Updated(entry) = change
                && let Some(content) = entry.content()
            {
                totals.bytes += content.size;
            }
        }
        totals
    }
}
