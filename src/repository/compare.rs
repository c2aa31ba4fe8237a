//! Looking into snapshots: entries, contents, differences.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::diff::{Change, ChangeRef, DirIndex, Entry, ScanError, ScanErrorKind, ScanOptions, compare};
use crate::progress::Progress;
use crate::relpath::RelPath;
use crate::repository::pages::Pages;
use crate::repository::{Layout, Repository, RepositoryError, Snapshot};

/// What a snapshot is compared with.
#[derive(Debug, Clone, Copy)]
pub enum Other<'a> {
    /// Another snapshot, as the newer one.
    Snapshot(&'a Snapshot),
    /// A directory as it is now. It stands for the only directory of the snapshot; where there are several,
    /// it must be one of them.
    Directory(&'a Path),
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
        let path = String::from_utf8_lossy(path).into_owned();
        Err(RepositoryError::NoPath { path, snapshot: snapshot.short_id() })
    }

    /// Where the thing at `path` of a snapshot was on its host.
    pub fn display_path(&self, snapshot: &Snapshot, path: &RelPath) -> PathBuf {
        let base = match (snapshot.record.layout, snapshot.record.roots.as_slice()) {
            // A single file lies in the index under its name; the root is then the file itself.
            (Layout::Single, [root]) => {
                let root = Path::new(OsStr::from_bytes(root));
                let is_file = root.file_name().is_some_and(|name| name.as_bytes() == path.as_bytes());
                return match is_file && snapshot.record.statistics.directories == 0 {
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
        let mut at = 0;
        let mut data = 0;
        for segment in &content.segments {
            let bytes = segments.read_checked(self, &segment.digest)?;
            let mut rest = &bytes[..];
            for range in content.file_ranges(data..data + bytes.len() as u64) {
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

    /// What differs in `other`, compared with `snapshot`.
    pub fn compare(
        &self,
        snapshot: &Snapshot,
        other: Other<'_>,
        progress: &Progress,
    ) -> Result<Vec<Change>, RepositoryError> {
        let _hold = self.hold()?;
        match other {
            Other::Snapshot(other) => {
                Ok(owned(&compare(&self.entries(snapshot, None)?, &self.entries(other, None)?)))
            }
            Other::Directory(directory) => {
                let old = self.entries_of(snapshot, directory)?;
                let leave_out = self.own_directory();
                let options = ScanOptions { leave_out, threads: 1, ..ScanOptions::default() };
                let new = DirIndex::scan_with(directory, &options, false, SystemTime::UNIX_EPOCH, progress)?;
                // What is there but cannot be read must not look like it were gone.
                let unread = |problem: &ScanError| match &problem.source {
                    ScanErrorKind::Io(error) => error.kind() != io::ErrorKind::NotFound,
                    ScanErrorKind::Path(_) | ScanErrorKind::Attributes(_) | ScanErrorKind::Exclude(_) => true,
                    ScanErrorKind::Changed => false,
                };
                if let Some(problem) = new.problems.into_iter().find(unread) {
                    return Err(problem.into());
                }
                Ok(owned(&compare(&old, &new.entries)))
            }
        }
    }

    /// The entries that `directory` stands for, with paths below it.
    fn entries_of(&self, snapshot: &Snapshot, directory: &Path) -> Result<Vec<Entry>, RepositoryError> {
        if snapshot.record.layout == Layout::Single {
            return self.entries(snapshot, None);
        }
        let absolute = std::path::absolute(directory).map_err(RepositoryError::io(directory))?;
        let real = absolute.canonicalize().map_err(RepositoryError::io(directory))?;
        let is_root = |path: &&PathBuf| {
            snapshot.record.roots.iter().any(|root| Path::new(OsStr::from_bytes(root)) == path.as_path())
        };
        let Some(root) = [&absolute, &real].into_iter().find(is_root) else {
            let path = directory.display().to_string();
            return Err(RepositoryError::NotRoot { path, snapshot: snapshot.short_id() });
        };
        let (top, mut entries) = self.entries_below(snapshot, Some(root.as_os_str().as_bytes()))?;
        for entry in &mut entries {
            entry.path = entry.path.strip_prefix(&top).unwrap_or_default();
        }
        Ok(entries)
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
    for root in &snapshot.record.roots {
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
