//! Looking into snapshots: entries, contents, differences.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::atomic;
use crate::diff::{
    Beneath, Change, ChangeRef, Entry, Excludes, Kind, ReadOptions, ScanError, ScanErrorKind, ScanOptions,
    SourceDir, compare, describe_in, fill, scan,
};
use crate::progress::Progress;
use crate::relpath::RelPath;
use crate::repository::pages::Pages;
use crate::repository::plan::is_unchanged;
use crate::repository::{Layout, Repository, RepositoryError, Snapshot};

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
    /// The entries at and below `path`, in path order, with the paths that they have in the snapshot; all of
    /// them without a `path`.
    ///
    /// A path is absolute, as on the host that was backed up; in a snapshot of one directory it may also
    /// begin there.
    pub fn entries(&self, snapshot: &Snapshot, path: Option<&[u8]>) -> Result<Vec<Entry>, RepositoryError> {
        let _hold = self.hold()?;
        Ok(self.entries_below(snapshot, path)?.1)
    }

    /// The path that `path` is in the index, and the entries at and below it.
    pub(super) fn entries_below(
        &self,
        snapshot: &Snapshot,
        path: Option<&[u8]>,
    ) -> Result<(RelPath, Vec<Entry>), RepositoryError> {
        let pages = Pages::of(self, &snapshot.record)?;
        let Some(path) = path else { return Ok((RelPath::root(), pages.within(&RelPath::root())?)) };
        for candidate in candidates(snapshot, path)? {
            let entries = pages.within(&candidate)?;
            if !entries.is_empty() {
                return Ok((candidate, entries));
            }
        }
        let unread = |path: &RelPath| snapshot.record.unreadable_above(path).cloned();
        if let Some(unread) = candidates(snapshot, path)?.iter().find_map(unread) {
            let path = self.display_path(snapshot, &unread);
            return Err(RepositoryError::Unread { path, snapshot: snapshot.name() });
        }
        let path = String::from_utf8_lossy(path).into_owned();
        Err(RepositoryError::NoPath { path, snapshot: snapshot.name() })
    }

    /// Where the thing at `path` of a snapshot was on its host.
    pub fn display_path(&self, snapshot: &Snapshot, path: &RelPath) -> PathBuf {
        let base = match (snapshot.record.layout, snapshot.record.roots.as_slice()) {
            // A single file lies in the index under its name; the root is then the file itself.
            (Layout::Single, [root]) => {
                let root = Path::new(OsStr::from_bytes(root));
                let is_file = root.file_name().is_some_and(|name| name.as_bytes() == path.as_bytes());
                return match is_file && snapshot.record.is_single_file() {
                    true => root.to_owned(),
                    false if path.is_root() => root.to_owned(),
                    false => root.join(path.as_path()),
                };
            }
            _ => Path::new("/"),
        };
        base.join(path.as_path())
    }

    /// Writes the content of the file at `path` to `out`, each segment checked before it is written. Returns
    /// how many bytes.
    pub fn cat(&self, snapshot: &Snapshot, path: &[u8], out: &mut dyn Write) -> Result<u64, RepositoryError> {
        let shown = || String::from_utf8_lossy(path).into_owned();
        let _hold = self.hold()?;
        let entries = self.entries(snapshot, Some(path))?;
        let Some(content) = entries.first().and_then(Entry::content) else {
            return Err(RepositoryError::NotFile(shown()));
        };
        let segments = self.segments()?;
        let written = |error| RepositoryError::Io { path: "standard output".into(), source: error };
        let map = content.data_map();
        let mut at = 0;
        let mut data = 0;
        for segment in &content.segments {
            let bytes = segments.read_exact(self, segment)?;
            let mut rest = &bytes[..];
            for range in map.file_ranges(data..data + bytes.len() as u64) {
                write_zeros(out, range.start - at).map_err(written)?;
                let (piece, after) = rest.split_at((range.end - range.start) as usize);
                out.write_all(piece).map_err(written)?;
                (rest, at) = (after, range.end);
            }
            data += bytes.len() as u64;
        }
        write_zeros(out, content.size - at).map_err(written)?;
        Ok(content.size)
    }

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
        let _hold = self.hold()?;
        let (before, after) = (self.entries_at(old, old_path), self.entries_at(new, new_path));
        let is_missing = |found: &Result<_, _>| matches!(found, Err(RepositoryError::NoPath { .. }));
        let (old_there, new_there) = (!is_missing(&before), !is_missing(&after));
        let nothing = || Ok((RelPath::root(), Vec::new()));
        let (old_top, mut before) = if old_there || !new_there { before } else { nothing() }?;
        let (new_top, mut after) = if new_there { after } else { nothing() }?;
        let is_unread = |snapshot: &Snapshot, top: &RelPath, path: &RelPath| {
            top.join(path.as_bytes()).is_ok_and(|path| snapshot.record.is_unreadable(&path))
        };
        let unknown = retain_comparable(
            &mut before,
            &mut after,
            |path| old_there && is_unread(old, &old_top, path),
            |path| new_there && is_unread(new, &new_top, path),
        );
        let changes = owned(&compare(&before, &after));
        Ok(Comparison { changes, problems: Vec::new(), unknown, files_read: 0 })
    }

    /// The path that `path` is in the index, and the entries there, with paths below it; all of them without a `path`.
    fn entries_at(
        &self,
        snapshot: &Snapshot,
        path: Option<&[u8]>,
    ) -> Result<(RelPath, Vec<Entry>), RepositoryError> {
        let (mut top, mut entries) = self.entries_below(snapshot, path)?;
        if path.is_some_and(|path| !trim_slashes(path).is_empty()) {
            top = lone(snapshot, &entries).unwrap_or(top);
        }
        for entry in &mut entries {
            entry.path = entry.path.strip_prefix(&top).unwrap_or_default();
        }
        Ok((top, entries))
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
        let (mut top, mut old) = match &options.path {
            Some(path) => self.entries_at(snapshot, Some(path))?,
            None => self.entries_of(snapshot, directory)?,
        };
        let source = SourceDir::new(directory);
        let is_directory = source.held(&RelPath::root()).is_some();
        if !is_directory && let Some(path) = lone(snapshot, &old) {
            old.iter_mut().for_each(|entry| entry.path = RelPath::root());
            top = path;
        }
        let mut problems = Vec::new();
        let (mut same, mut fresh) = (Vec::new(), Vec::new());
        let mut at = 0;
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
            at += old[at..].iter().take_while(|entry| entry.path < found.path).count();
            match old.get(at).filter(|entry| entry.path == found.path) {
                Some(entry) if !options.force && is_unchanged(entry, &found.stat) => same.push(entry.clone()),
                _ => match describe_in(&source, found, SystemTime::UNIX_EPOCH) {
                    Ok((entry, problem)) => {
                        fresh.push(entry);
                        problems.extend(problem);
                    }
                    Err(problem) => problems.push(problem),
                },
            }
            Ok(())
        })?;
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

    /// The path in the index of what `directory` stands for, and its entries with paths below it: what the snapshot has of that directory; where it
    /// lies elsewhere, and only one was backed up, that one.
    fn entries_of(
        &self,
        snapshot: &Snapshot,
        directory: &Path,
    ) -> Result<(RelPath, Vec<Entry>), RepositoryError> {
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
            match self.entries_at(snapshot, Some(path.as_os_str().as_bytes())) {
                Err(RepositoryError::NoPath { .. }) => {}
                found => return found,
            }
        }
        if snapshot.record.layout == Layout::Single && !is_below {
            return self.entries_below(snapshot, None);
        }
        let path = directory.display().to_string();
        Err(RepositoryError::NotRoot { path, snapshot: snapshot.name() })
    }
}

/// Where the only thing in a snapshot of one file, or of anything but a directory, is in its index.
fn lone(snapshot: &Snapshot, entries: &[Entry]) -> Option<RelPath> {
    match entries {
        [only] if snapshot.record.is_single_file() => Some(only.path.clone()).filter(|path| !path.is_root()),
        _ => None,
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

/// Paths of the index that `path` may mean.
pub(super) fn candidates(snapshot: &Snapshot, path: &[u8]) -> Result<Vec<RelPath>, RepositoryError> {
    let trimmed = trim_slashes(path);
    let whole = RelPath::new(trimmed)?;
    if snapshot.record.layout == Layout::Absolute {
        return Ok(vec![whole]);
    }
    let mut candidates = Vec::new();
    // A record that lists many was not written by this program, and each would be looked for.
    if let [root] = snapshot.record.roots.as_slice() {
        // Where the root is a single file, its index holds nothing else.
        candidates.extend(whole.strip_prefix(&RelPath::new(trim_slashes(root))?));
    }
    candidates.push(whole);
    Ok(candidates)
}

fn trim_slashes(path: &[u8]) -> &[u8] {
    let start = path.iter().position(|&byte| byte != b'/').unwrap_or(path.len());
    let end = path.iter().rposition(|&byte| byte != b'/').map_or(start, |last| last + 1);
    &path[start..end]
}

fn write_zeros(out: &mut dyn Write, mut len: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    while len > 0 {
        let piece = len.min(ZEROS.len() as u64);
        out.write_all(&ZEROS[..piece as usize])?;
        len -= piece;
    }
    Ok(())
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
