//! What a backup has to do: the sources as they are now, against the index of the parent.
//!
//! Nothing is opened here. The sources are walked by one thread each (and their helpers), the parent's pages
//! are decoded by others, and both streams meet in path order. What did not change is left in its page; only
//! what did is kept in memory, about 200 bytes each.

use std::collections::HashMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::SystemTime;

use itertools::Itertools;
use rustix::fs::FileType;

use crate::diff::{
    Entry, FileTime, Found, Kind, ScanError, ScanErrorKind, ScanOptions, SourceDir, Stat, describe, scan,
};
use crate::progress::{Interrupted, Progress};
use crate::relpath::RelPath;
use crate::repository::RepositoryError;
use crate::repository::pages::Pages;
use crate::repository::segments::Segments;
use crate::repository::snapshot::{Layout, Statistics};

/// The sources of a backup, and how their paths become those of the index.
pub(super) struct Sources {
    /// Absolute paths, sorted.
    pub roots: Vec<PathBuf>,
    pub layout: Layout,
    /// Where the paths of the index begin.
    pub directory: SourceDir,
    /// Where each root is in the index.
    prefixes: Vec<RelPath>,
}

impl Sources {
    /// Makes `paths` absolute. One directory is the root of its index; a single file lies in it by its name;
    /// several things lie in it by their absolute paths.
    pub fn new(paths: &[PathBuf]) -> Result<Self, RepositoryError> {
        let source = |path: &Path| {
            let refused = |source| RepositoryError::Source { path: path.to_owned(), source };
            let absolute = std::path::absolute(path).map_err(refused)?;
            // A link named as a source means what it points to; links above it are as good as directories.
            let is_link = absolute.symlink_metadata().map_err(refused)?.is_symlink();
            let plain = if is_link { absolute.canonicalize().map_err(refused)? } else { clean(&absolute) };
            Ok::<_, RepositoryError>(plain)
        };
        let mut roots = paths.iter().map(|path| source(path)).collect::<Result<Vec<_>, _>>()?;
        roots.sort();
        roots.dedup();
        let slash = || PathBuf::from("/");
        let (layout, base) = match roots.as_slice() {
            [] => return Err(RepositoryError::NoSources),
            [only] if only.is_dir() => (Layout::Single, only.clone()),
            [only] => (Layout::Single, only.parent().map_or_else(slash, Path::to_owned)),
            _ => (Layout::Absolute, slash()),
        };
        let prefix = |root: &PathBuf| {
            let below = root.strip_prefix(&base).unwrap_or(root);
            RelPath::new(below.as_os_str().as_bytes())
        };
        let prefixes = roots.iter().map(prefix).collect::<Result<_, _>>()?;
        Ok(Self { roots, layout, directory: SourceDir::new(base), prefixes })
    }

    /// The paths of the index at which these problems leave something out of the snapshot.
    pub fn unreadable(&self, problems: &[ScanError]) -> Vec<RelPath> {
        let is_left_out = |problem: &&ScanError| match &problem.source {
            // Gone since it was found: as if the backup had come a moment later. A source should be there.
            ScanErrorKind::Io(error) if error.kind() == io::ErrorKind::NotFound => {
                self.roots.contains(&problem.path)
            }
            ScanErrorKind::Io(_) | ScanErrorKind::Path(_) => true,
            ScanErrorKind::Changed | ScanErrorKind::Exclude(_) => false,
        };
        problems.iter().filter(is_left_out).map(|problem| self.path_of(&problem.path)).collect()
    }

    /// The path in the index of something in a source. What can have none there is in the directory whose path
    /// this is.
    fn path_of(&self, path: &Path) -> RelPath {
        let base = self.directory.locate(&RelPath::root());
        let below = path.strip_prefix(&base).unwrap_or(Path::new(""));
        let paths = below.ancestors().filter_map(|path| RelPath::new(path.as_os_str().as_bytes()).ok());
        paths.into_iter().next().unwrap_or_default()
    }
}

/// Takes `..` out of an absolute path by way of the file system only where it occurs.
fn clean(path: &Path) -> PathBuf {
    let up = path.components().any(|component| component == std::path::Component::ParentDir);
    match path.canonicalize() {
        Ok(real) if up => real,
        _ => path.components().collect(),
    }
}

/// A page of the parent.
pub(super) struct ParentPage {
    /// Which.
    pub number: usize,
    /// Its last path.
    pub last: RelPath,
    /// Whether anything in it changed, or is new between the page before and its last path.
    pub dirty: bool,
}

/// What is to be done.
#[derive(Default)]
pub(super) struct Plan {
    /// What was in the parent and changed or is gone, as it was.
    pub old: Vec<Entry>,
    /// What is new or changed; files without their content.
    pub new: Vec<Entry>,
    /// The pages of the parent.
    pub pages: Vec<ParentPage>,
    /// What could not be looked at.
    pub problems: Vec<ScanError>,
    pub statistics: Statistics,
}

/// How a plan is made.
pub(super) struct PlanOptions<'a> {
    pub scan: &'a ScanOptions,
    /// Take nothing for unchanged.
    pub force: bool,
    /// Where anything stored is lost, what is still there: files that need anything else count as changed.
    pub segments: Option<&'a Segments>,
    pub threads: usize,
    pub began: SystemTime,
}

/// Items that travel between threads at once.
const BATCH: usize = 256;
/// Batches that may wait.
const WAITING: usize = 64;

/// Makes the plan. `totals` of `progress` are set to what has to be read.
pub(super) fn plan(
    sources: &Sources,
    parent: &Pages<'_>,
    options: &PlanOptions<'_>,
    progress: &Progress,
) -> Result<Plan, RepositoryError> {
    let problems = Mutex::new(Vec::new());
    let mut plan = Plan::default();
    let mut pages = Vec::new();
    std::thread::scope(|scope| {
        let mut found = Vec::new();
        for (root, prefix) in sources.roots.iter().zip(&sources.prefixes) {
            let (sender, receiver) = sync_channel(WAITING);
            let problems = &problems;
            scope.spawn(move || walk(root, prefix, options.scan, &sender, problems));
            found.push(receiver.into_iter().flatten());
        }
        let (sender, old) = sync_channel(WAITING);
        let decoding = scope.spawn(move || {
            parent.for_each(options.threads, |number, page| match sender.send((number, page)) {
                Ok(()) => Ok(()),
                // The other side has failed, and says why itself.
                Err(_) => Err(RepositoryError::Interrupted(Interrupted)),
            })
        });
        let found = found.into_iter().kmerge_by(|a: &Found, b: &Found| a.path < b.path);
        // A root that lies in another is walked twice.
        let found = found.dedup_by(|a, b| a.path == b.path);
        let mut join = Join { sources, options, plan: &mut plan, pages: &mut pages };
        let joined = join.run(found, old, progress, &problems);
        match decoding.join() {
            Ok(decoded) => joined.and(decoded),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })?;
    plan.pages = pages;
    plan.problems = problems.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(problem) = nothing_seen(sources, &plan) {
        // A snapshot of that would only look like one.
        return Err(plan.problems.swap_remove(problem).into());
    }
    let files = plan.new.iter().filter_map(Entry::content);
    files.clone().for_each(|content| progress.total_bytes.add(content.size));
    progress.total_files.add(files.count() as u64);
    Ok(plan)
}

/// The number of the problem to tell where no source could be looked into.
fn nothing_seen(sources: &Sources, plan: &Plan) -> Option<usize> {
    let kept = plan.statistics.files + plan.statistics.directories + plan.statistics.others;
    if kept > sources.roots.len() as u64
        || plan.new.iter().any(|entry| !sources.prefixes.contains(&entry.path))
    {
        return None;
    }
    let problem_of = |root: &PathBuf| {
        let refused = |problem: &ScanError| matches!(problem.source, ScanErrorKind::Io(_));
        plan.problems.iter().position(|problem| problem.path == *root && refused(problem))
    };
    let problems: Option<Vec<usize>> = sources.roots.iter().map(problem_of).collect();
    problems?.first().copied()
}

fn walk(
    root: &Path,
    prefix: &RelPath,
    options: &ScanOptions,
    sender: &SyncSender<Vec<Found>>,
    problems: &Mutex<Vec<ScanError>>,
) {
    let note = |error| problems.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(error);
    let mut batch = Vec::with_capacity(BATCH);
    let walked = scan(root, options, |found| {
        match found {
            Ok(found) => match prefix.join(found.path.as_bytes()) {
                Ok(path) => batch.push(Found { path, stat: found.stat }),
                Err(error) => {
                    let path = root.join(found.path.as_path());
                    note(ScanError { path, source: ScanErrorKind::Path(error) });
                }
            },
            Err(error) => note(error),
        }
        if batch.len() == BATCH {
            let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
            sender.send(full).map_err(|_| Stopped::Nobody)?;
        }
        Ok(())
    });
    if let Err(Stopped::Failed(error)) = walked {
        note(error);
    }
    // Nobody waits once the other side has failed.
    let _ = sender.send(batch);
}

/// Why a walk ended early.
enum Stopped {
    Nobody,
    Failed(ScanError),
}

impl From<ScanError> for Stopped {
    fn from(error: ScanError) -> Self {
        Self::Failed(error)
    }
}

/// The meeting of what is there and what was there.
struct Join<'a> {
    sources: &'a Sources,
    options: &'a PlanOptions<'a>,
    plan: &'a mut Plan,
    pages: &'a mut Vec<ParentPage>,
}

impl Join<'_> {
    fn run(
        &mut self,
        found: impl Iterator<Item = Found>,
        pages: Receiver<(usize, Vec<Entry>)>,
        progress: &Progress,
        problems: &Mutex<Vec<ScanError>>,
    ) -> Result<(), RepositoryError> {
        let mut found = found.peekable();
        let mut left = Vec::new();
        for (number, page) in pages {
            progress.check()?;
            let Some(last) = page.last().map(|last| last.path.clone()) else { continue };
            let mut dirty = false;
            for old in page {
                while let Some(new) = found.next_if(|new| new.path < old.path) {
                    dirty |= self.describe(new, true, &mut left);
                }
                match found.next_if(|new| new.path == old.path) {
                    Some(new)
                        if !self.options.force && is_unchanged(&old, &new.stat) && self.is_stored(&old) =>
                    {
                        self.keep(&old);
                    }
                    Some(new) => {
                        self.describe(new, false, &mut left);
                        self.plan.old.push(old);
                        dirty = true;
                    }
                    None => {
                        self.plan.old.push(old);
                        dirty = true;
                    }
                }
            }
            self.pages.push(ParentPage { number, last, dirty });
        }
        for new in found {
            progress.check()?;
            self.describe(new, true, &mut left);
        }
        problems.lock().unwrap_or_else(std::sync::PoisonError::into_inner).append(&mut left);
        Ok(())
    }

    /// Whether the content of `old` is not known to be lost.
    fn is_stored(&self, old: &Entry) -> bool {
        let Some((segments, content)) = self.options.segments.zip(old.content()) else { return true };
        // Without a key, what is in no volume that can be read is in another.
        let is_stored =
            |digest| segments.holds(digest) || (segments.unread() > 0 && segments.place(digest).is_none());
        content.segments.iter().all(|segment| is_stored(&segment.digest))
    }

    fn keep(&mut self, old: &Entry) {
        count(&mut self.plan.statistics, old);
        if old.content().is_some() {
            self.plan.statistics.files_unmodified += 1;
        }
    }

    /// Plans for something new or changed; whether that worked.
    fn describe(&mut self, found: Found, is_new: bool, problems: &mut Vec<ScanError>) -> bool {
        let path = self.sources.directory.locate(&found.path);
        match describe(&path, found, self.options.began) {
            Ok(entry) => {
                if entry.content().is_some() {
                    let statistics = &mut self.plan.statistics;
                    *(if is_new { &mut statistics.files_new } else { &mut statistics.files_changed }) += 1;
                }
                self.plan.new.push(entry);
                true
            }
            Err(error) => {
                problems.push(error);
                false
            }
        }
    }
}

/// Counts an entry that is in the snapshot.
pub(super) fn count(statistics: &mut Statistics, entry: &Entry) {
    match &entry.kind {
        Kind::File(content) => {
            statistics.files += 1;
            statistics.bytes += content.size;
        }
        Kind::Directory => statistics.directories += 1,
        _ => statistics.others += 1,
    }
}

/// Whether what a scan found is surely what the entry says, extended attributes and all: nothing that any
/// change would touch is different.
fn is_unchanged(old: &Entry, stat: &Stat) -> bool {
    let same_kind = match (&old.kind, stat.file_type()) {
        (Kind::File(content), FileType::RegularFile) => {
            content.size == stat.size && content.link.is_some() == (stat.links > 1)
        }
        (Kind::Directory, FileType::Directory)
        | (Kind::Symlink(_), FileType::Symlink)
        | (Kind::Fifo, FileType::Fifo)
        | (Kind::Socket, FileType::Socket)
        | (Kind::CharDevice(_), FileType::CharacterDevice)
        | (Kind::BlockDevice(_), FileType::BlockDevice) => true,
        _ => false,
    };
    let meta = &old.meta;
    same_kind
        && meta.ctime != FileTime::default()
        && (meta.ctime, meta.mtime, meta.inode) == (stat.ctime, stat.mtime, stat.inode)
        && (meta.mode, meta.uid, meta.gid) == (stat.mode & 0o7777, stat.uid, stat.gid)
}

/// What a new or changed file may be a later version of.
pub(super) struct Ancestors<'a> {
    old: &'a [Entry],
    by_inode: HashMap<u64, usize>,
    by_name: HashMap<&'a [u8], Vec<usize>>,
}

impl<'a> Ancestors<'a> {
    /// Of the entries that changed or are gone, sorted by path; `is_gone` tells which.
    pub fn new(old: &'a [Entry], is_gone: impl Fn(&Entry) -> bool) -> Self {
        let mut by_inode = HashMap::new();
        let mut by_name: HashMap<_, Vec<_>> = HashMap::new();
        for (number, entry) in old.iter().enumerate() {
            if entry.content().is_some_and(|content| !content.segments.is_empty()) && is_gone(entry) {
                by_inode.insert(entry.meta.inode, number);
                by_name.entry(entry.path.name()).or_default().push(number);
            }
        }
        Self { old, by_inode, by_name }
    }

    /// The number of the entry whose content `new` most likely resembles: at the same path; else of the same
    /// inode; else of the same name, in the directory whose path ends most alike.
    pub fn of(&self, new: &Entry) -> Option<usize> {
        if let Ok(at) = self.old.binary_search_by(|old| old.path.cmp(&new.path)) {
            return self.old[at].content().is_some_and(|content| !content.segments.is_empty()).then_some(at);
        }
        if let Some(&at) = self.by_inode.get(&new.meta.inode) {
            return Some(at);
        }
        let likeness = |at: &usize| {
            let old = self.old[*at].path.as_bytes().iter().rev();
            old.zip(new.path.as_bytes().iter().rev()).take_while(|(a, b)| a == b).count()
        };
        self.by_name.get(new.path.name())?.iter().copied().max_by_key(likeness)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relpath::RelPathError;

    #[test]
    fn what_is_left_out_has_its_path_in_the_index() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let problem = |path: &str, source| ScanError { path: root.join(path), source };
        let refused = |path: &str| problem(path, io::Error::from(io::ErrorKind::PermissionDenied).into());
        let gone = |path: &str| problem(path, io::Error::from(io::ErrorKind::NotFound).into());
        let long = "x".repeat(crate::relpath::MAX_LEN);
        let problems = [
            refused("a/file"),
            gone("a/temporary"),
            problem("a/changed", ScanErrorKind::Changed),
            problem(&format!("a/deep/{long}"), RelPathError::TooLong(long.len()).into()),
            gone(""),
        ];
        let sources = Sources::new(std::slice::from_ref(&root)).unwrap();
        let paths: Vec<_> = sources.unreadable(&problems).iter().map(ToString::to_string).collect();
        assert_eq!(paths, ["a/file", "a/deep", ""]);
    }
}
