//! What a backup has to do: the sources as they are now, against the index of the parent.
//!
//! Nothing is opened here. The sources are walked by one thread each (and their helpers), the parent's pages
//! are decoded by others, and both streams meet in path order. What did not change is left in its page; only
//! what did is kept in memory, about 200 bytes each.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use itertools::Itertools;
use rustix::fs::FileType;

use crate::diff::{
    Entry, FileTime, Found, Kind, Links, ScanError, ScanErrorKind, ScanOptions, SourceDir, Stat, describe_in,
    hold, scan,
};
use crate::pipeline::lock;
use crate::progress::{Interrupted, Progress};
use crate::relpath::RelPath;
use crate::repository::RepositoryError;
use crate::repository::pages::{Pages, ParentPage};
use crate::repository::segments::Segments;
use crate::repository::snapshot::{Layout, MAX_MOUNTS, Statistics};

/// The sources of a backup, and how their paths become those of the index.
pub(super) struct Sources {
    /// Absolute paths, sorted.
    pub roots: Vec<PathBuf>,
    pub layout: Layout,
    /// Where the paths of the index begin.
    pub directory: SourceDir,
    /// Those that are symbolic links, and are saved as such.
    pub links: Vec<PathBuf>,
    /// Those that are symbolic links, and are followed since they are named with a slash too.
    pub followed: Vec<PathBuf>,
    /// Those that cannot be looked at, while others can.
    pub missing: Vec<ScanError>,
    /// Where each root is in the index.
    prefixes: Vec<RelPath>,
    /// Whether each root can be looked at.
    walked: Vec<bool>,
}

/// A source.
struct Source {
    root: PathBuf,
    /// What it is; `None` where it cannot be looked at.
    found: Option<FoundSource>,
}

/// What a source is.
enum FoundSource {
    /// A directory, held open, so that it stays the same whatever somebody puts in its place.
    Directory(OwnedFd),
    Other(FileType),
}

impl Source {
    fn is_directory(&self) -> bool {
        matches!(self.found, Some(FoundSource::Directory(_)))
    }

    fn is_link(&self) -> bool {
        matches!(self.found, Some(FoundSource::Other(FileType::Symlink)))
    }
}

impl Sources {
    /// Makes `paths` absolute. One directory is the root of its index; anything else lies in its directory by its name;
    /// several things lie in it by their absolute paths.
    ///
    /// Links are followed where a shell follows them: above the last name, and at the last name where a slash or a
    /// dot comes behind it. A link that is named without is saved as a link.
    pub fn new(paths: &[PathBuf]) -> Result<Self, RepositoryError> {
        let Located { sources, missing, followed } = locate_sources(paths);
        if sources.iter().all(|source| source.found.is_none()) {
            let mut missing = paths.iter().zip(missing);
            let Some((path, ScanError { source: ScanErrorKind::Io(source), .. })) = missing.next() else {
                return Err(RepositoryError::NoSources);
            };
            let others = missing.map(|(path, _)| path.clone()).collect();
            return Err(RepositoryError::Source { path: path.clone(), others, source });
        }
        let slash = || PathBuf::from("/");
        let (layout, base) = match sources.as_slice() {
            [source] if source.is_directory() => (Layout::Single, source.root.clone()),
            [Source { root, .. }] => (Layout::Single, root.parent().map_or_else(slash, Path::to_owned)),
            _ => (Layout::Absolute, slash()),
        };
        let prefix = |source: &Source| {
            let below = source.root.strip_prefix(&base).unwrap_or(&source.root);
            RelPath::new(below.as_os_str().as_bytes())
        };
        let prefixes: Vec<RelPath> = sources.iter().map(prefix).collect::<Result<_, _>>()?;
        let links =
            sources.iter().filter(|source| source.is_link()).map(|source| source.root.clone()).collect();
        let walked = sources.iter().map(|source| source.found.is_some()).collect();
        let roots = sources.iter().map(|source| source.root.clone()).collect();
        let mut held = HashMap::new();
        for (source, prefix) in sources.into_iter().zip(&prefixes) {
            match (source.found, prefix.parent(), source.root.parent()) {
                (Some(FoundSource::Directory(opened)), ..) => {
                    drop(held.insert(prefix.clone(), Arc::new(opened)))
                }
                // Reached through the directory that holds it, unless a source is there.
                (Some(FoundSource::Other(_)), Some(above), Some(parent)) => {
                    if let Ok(opened) = hold(parent, Links::Followed) {
                        held.entry(above).or_insert_with(|| Arc::new(opened));
                    }
                }
                _ => {}
            }
        }
        Ok(Self {
            directory: SourceDir::with_held(base, held),
            roots,
            links,
            followed,
            layout,
            missing,
            prefixes,
            walked,
        })
    }

    /// The number of the root that something of the index came from.
    fn root_of(&self, path: &RelPath) -> Option<usize> {
        // Of roots that lie in each other, the innermost.
        let after = self.prefixes.partition_point(|prefix| prefix <= path);
        let is_within = |prefix: &RelPath| {
            let rest = path.as_bytes().strip_prefix(prefix.as_bytes());
            prefix.is_root() || rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        };
        (0..after).rev().find(|&number| is_within(&self.prefixes[number]))
    }

    /// The paths of the index at which these problems leave something out of the snapshot.
    pub fn unreadable(&self, problems: &[ScanError]) -> Vec<RelPath> {
        let is_left_out = |problem: &&ScanError| match &problem.source {
            // Gone since it was found: as if the backup had come a moment later. A source should be there.
            ScanErrorKind::Io(error) if error.kind() == io::ErrorKind::NotFound => {
                self.roots.contains(&problem.path)
            }
            ScanErrorKind::Io(_) | ScanErrorKind::Path(_) => true,
            ScanErrorKind::Changed | ScanErrorKind::Attributes(_) | ScanErrorKind::Exclude(_) => false,
        };
        problems.iter().filter(is_left_out).map(|problem| self.path_of(&problem.path)).collect()
    }

    /// The paths of the index whose attributes are not all in the snapshot for these problems.
    pub fn unread_attributes(&self, problems: &[ScanError]) -> Vec<RelPath> {
        let is_one = |problem: &&ScanError| matches!(problem.source, ScanErrorKind::Attributes(_));
        problems.iter().filter(is_one).map(|problem| self.path_of(&problem.path)).collect()
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

/// The paths by which snapshots know these sources: absolute, sorted, each once. It looks at the file system for
/// links and `..`, but what is not there now has its name too.
pub fn source_roots(paths: &[PathBuf]) -> Vec<PathBuf> {
    locate_sources(paths).sources.into_iter().map(|source| source.root).collect()
}

/// What was found of sources.
struct Located {
    /// Where they are, and what, each once and sorted.
    sources: Vec<Source>,
    /// Why some cannot be looked at.
    missing: Vec<ScanError>,
    /// The links that are not among them, since they are named with a slash too, which follows them.
    followed: Vec<PathBuf>,
}

fn locate_sources(paths: &[PathBuf]) -> Located {
    let mut missing = Vec::new();
    let mut sources = Vec::new();
    for path in paths {
        let (root, found) = locate_source(path);
        let found = match found {
            Ok(found) => Some(found),
            Err(source) => {
                missing.push(ScanError { path: root.clone(), source: source.into() });
                None
            }
        };
        sources.push(Source { root, found });
    }
    resolve_links_into_others(&mut sources);
    sources.sort_by(|a, b| a.root.cmp(&b.root));
    // Of one name with and without a slash, what is followed.
    let mut followed = Vec::new();
    sources.dedup_by(|next, first| {
        let is_same = next.root == first.root;
        if is_same && next.is_link() != first.is_link() {
            followed.push(first.root.clone());
        }
        if is_same && next.is_directory() {
            first.found = next.found.take();
        }
        is_same
    });
    followed.dedup();
    Located { sources, missing, followed }
}

/// Where a source is, and what.
fn locate_source(path: &Path) -> (PathBuf, io::Result<FoundSource>) {
    let absolute = match std::path::absolute(path) {
        Ok(absolute) => absolute,
        Err(error) => return (path.to_owned(), Err(error)),
    };
    let root = without_dots(&absolute);
    // `absolute` takes dots away.
    let is_followed = [&b"/"[..], b"/.", b"/.."].iter().any(|end| path.as_os_str().as_bytes().ends_with(end))
        || matches!(path.as_os_str().as_bytes(), b"." | b"..");
    let links = if is_followed { Links::Followed } else { Links::Kept };
    let found = match hold(&root, links) {
        Ok(opened) => Ok(FoundSource::Directory(opened)),
        // What is followed to something else than a directory has no name of its own.
        Err(error) if is_followed => Err(error),
        Err(_) => match rustix::fs::lstat(&root).map(|stat| Stat::from(stat).file_type()) {
            // It has become one meanwhile, or may not even be looked into.
            Ok(FileType::Directory) => hold(&root, links).map(FoundSource::Directory),
            Ok(found) => Ok(FoundSource::Other(found)),
            Err(error) => Err(error.into()),
        },
    };
    (root, found)
}

/// Takes `..` out of an absolute path, by way of the file system, only where it occurs; and what else means nothing.
fn without_dots(path: &Path) -> PathBuf {
    let up = path.components().any(|component| component == std::path::Component::ParentDir);
    match path.canonicalize() {
        Ok(real) if up => real,
        _ => path.components().collect(),
    }
}

/// Gives a source that is reached by a link in another source the path that it really has: the link is saved as one
/// there, and nothing can be restored below it.
fn resolve_links_into_others(sources: &mut [Source]) {
    for number in 0..sources.len() {
        let Source { root, found } = &sources[number];
        let (Some(found), Some(parent), Some(name)) = (found, root.parent(), root.file_name()) else {
            continue;
        };
        let is_in_another = sources
            .iter()
            .any(|other| other.root != *root && root.starts_with(&other.root) && other.found.is_some());
        if !is_in_another {
            continue;
        }
        let real = match found {
            FoundSource::Directory(_) => root.canonicalize(),
            FoundSource::Other(_) => parent.canonicalize().map(|parent| parent.join(name)),
        };
        if let Ok(real) = real {
            sources[number].root = real;
        }
    }
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
    /// How many files each root had in the parent, and has now.
    pub files: Vec<(u64, u64)>,
    /// The directories at which something is mounted that was entered, in path order.
    pub mounts: Vec<RelPath>,
}

impl Plan {
    /// The roots that had many files in the parent and have none now, and how many they had.
    pub fn emptied(&self, sources: &Sources) -> Vec<(PathBuf, u64)> {
        let files = sources.roots.iter().zip(&self.files);
        let emptied = files.filter(|(_, (before, now))| *before >= MANY && *now == 0);
        emptied.map(|(root, (before, _))| (root.clone(), *before)).collect()
    }
}

/// Files that a root must have lost, all at once, for that to be worth a warning: less is a directory that somebody
/// emptied, and this is more likely a file system that is not mounted.
const MANY: u64 = 100;

/// How a plan is made.
pub(super) struct PlanOptions<'a> {
    pub scan: &'a ScanOptions,
    /// Take nothing for unchanged.
    pub force: bool,
    /// Where anything stored is lost, or was removed from a remote by others, what is still there: files that need
    /// anything else count as changed.
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
    let mounts = Mutex::new(Vec::new());
    let mut plan = Plan { files: vec![(0, 0); sources.roots.len()], ..Plan::default() };
    let mut pages = Vec::new();
    std::thread::scope(|scope| {
        let mut found = Vec::new();
        for (prefix, _) in sources.prefixes.iter().zip(&sources.walked).filter(|(_, walked)| **walked) {
            let (sender, receiver) = sync_channel(WAITING);
            let (problems, mounts) = (&problems, &mounts);
            scope.spawn(move || walk(&sources.directory, prefix, options.scan, &sender, problems, mounts));
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
    plan.mounts = mounts.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    plan.mounts.sort();
    plan.mounts.dedup();
    plan.mounts.truncate(MAX_MOUNTS);
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
    let walked = sources.roots.iter().zip(&sources.walked).filter(|(_, walked)| **walked);
    let problems: Option<Vec<usize>> = walked.map(|(root, _)| problem_of(root)).collect();
    problems?.first().copied()
}

fn walk(
    source: &SourceDir,
    prefix: &RelPath,
    options: &ScanOptions,
    sender: &SyncSender<Vec<Found>>,
    problems: &Mutex<Vec<ScanError>>,
    mounts: &Mutex<Vec<RelPath>>,
) {
    let note = |error| lock(problems).push(error);
    let mut batch = Vec::with_capacity(BATCH);
    let walked = scan(source, prefix, options, |found| {
        match found {
            Ok(found) => match prefix.join(found.path.as_bytes()) {
                Ok(path) => {
                    if found.is_mount {
                        lock(mounts).push(path.clone());
                    }
                    batch.push(Found { path, ..found });
                }
                Err(error) => {
                    let path = source.locate(prefix).join(found.path.as_path());
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
                    dirty |= self.describe(new, &mut left);
                }
                match found.next_if(|new| new.path == old.path) {
                    Some(new)
                        if !self.options.force && is_unchanged(&old, &new.stat) && self.is_stored(&old) =>
                    {
                        self.keep(&old);
                    }
                    new => {
                        if let Some(new) = new {
                            self.describe(new, &mut left);
                        }
                        self.count_file(&old, 1, 0);
                        self.plan.old.push(old);
                        dirty = true;
                    }
                }
            }
            self.pages.push(ParentPage { number, last, dirty });
        }
        for new in found {
            progress.check()?;
            self.describe(new, &mut left);
        }
        lock(problems).append(&mut left);
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

    /// Counts a file of its root in the parent and in the snapshot.
    fn count_file(&mut self, entry: &Entry, before: u64, now: u64) {
        if entry.content().is_some()
            && let Some(root) = self.sources.root_of(&entry.path)
        {
            self.plan.files[root].0 += before;
            self.plan.files[root].1 += now;
        }
    }

    fn keep(&mut self, old: &Entry) {
        self.count_file(old, 1, 1);
        count(&mut self.plan.statistics, old);
    }

    /// Plans for something new or changed; whether that worked.
    fn describe(&mut self, found: Found, problems: &mut Vec<ScanError>) -> bool {
        match describe_in(&self.sources.directory, found, self.options.began) {
            Ok((entry, problem)) => {
                problems.extend(problem);
                self.count_file(&entry, 0, 1);
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
pub(super) fn is_unchanged(old: &Entry, stat: &Stat) -> bool {
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

/// The path of an entry from its end on.
fn reversed(entry: &Entry) -> impl Iterator<Item = &u8> {
    entry.path.as_bytes().iter().rev()
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
        let path = |number: usize| reversed(&old[number]);
        // There may be very many of one name: those whose paths end alike lie together.
        by_name.values_mut().for_each(|alike| alike.sort_by(|a, b| path(*a).cmp(path(*b))));
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
        let old_path = |at: usize| reversed(&self.old[at]);
        let likeness = |at: &usize| old_path(*at).zip(reversed(new)).take_while(|(a, b)| a == b).count();
        let alike = self.by_name.get(new.path.name())?;
        let after = alike.partition_point(|&at| old_path(at).cmp(reversed(new)).is_lt());
        let neighbours = &alike[after.saturating_sub(1)..alike.len().min(after + 1)];
        neighbours.iter().copied().max_by_key(likeness)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;
    use crate::diff::{Content, Kind, Metadata, SegmentRef};
    use crate::digest::Digest;
    use crate::relpath::RelPathError;

    /// Names of roots below `dir`, with `@` behind links, and how they are laid out.
    fn roots(dir: &Path, paths: &[&str]) -> (Vec<String>, Layout) {
        let paths: Vec<_> =
            paths.iter().map(|path| PathBuf::from(format!("{}/{path}", dir.display()))).collect();
        let sources = Sources::new(&paths).unwrap();
        let name = |root: &PathBuf| {
            let mark = if sources.links.contains(root) { "@" } else { "" };
            format!("{}{mark}", root.strip_prefix(dir).unwrap().display())
        };
        (sources.roots.iter().map(name).collect(), sources.layout)
    }

    #[test]
    fn links_are_followed_where_a_shell_follows_them() {
        use Layout::{Absolute, Single};
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(dir.join("real/sub")).unwrap();
        std::fs::write(dir.join("real/file"), "").unwrap();
        std::fs::create_dir(dir.join("tree")).unwrap();
        for (target, link) in
            [("real", "link"), ("../real", "tree/link"), ("real/file", "to-file"), ("no", "dangling")]
        {
            symlink(target, dir.join(link)).unwrap();
        }
        let one = |path| {
            let (roots, layout) = roots(&dir, &[path]);
            assert_eq!(layout, Single);
            roots.concat()
        };
        assert_eq!(one("link"), "link@");
        assert_eq!(one("dangling"), "dangling@");
        assert_eq!(one("to-file"), "to-file@");
        assert_eq!(["link/", "link//", "link/."].map(one), ["link", "link", "link"]);
        assert_eq!(one("link/sub"), "link/sub");
        assert_eq!(one("link/.."), "");
        assert_eq!(one("link/sub/.."), "real");
        assert_eq!(one("real/file"), "real/file");
        let several = |paths: &[&str]| {
            let (roots, layout) = roots(&dir, paths);
            assert_eq!(layout, Absolute);
            roots.join(" ")
        };
        assert_eq!(several(&["link/", "tree"]), "link tree");
        assert_eq!(roots(&dir, &["link", "link/"]), (vec!["link".to_owned()], Single));
        assert_eq!(several(&["tree", "tree/link"]), "tree tree/link@");
        // They are saved as a link in `tree`.
        assert_eq!(several(&["tree", "tree/link/"]), "real tree");
        assert_eq!(several(&["tree", "tree/link/sub"]), "real/sub tree");
        assert_eq!(several(&["tree", "tree/link/file"]), "real/file tree");
        for path in ["to-file/", "dangling/", "none"] {
            assert!(Sources::new(&[dir.join(path)]).is_err(), "{path}");
        }
    }

    #[test]
    fn a_source_that_is_missing_beside_others_stays_a_root() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        std::fs::create_dir(dir.join("a")).unwrap();
        let sources = Sources::new(&[dir.join("b"), dir.join("a")]).unwrap();
        assert_eq!(sources.roots, [dir.join("a"), dir.join("b")]);
        assert_eq!(sources.missing.len(), 1);
        let unreadable = sources.unreadable(&sources.missing);
        assert_eq!(unreadable, [sources.prefixes[1].clone()]);
    }

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

    proptest! {
        #[test]
        fn of_like_names_the_one_whose_path_ends_most_alike_is_found(
            old in proptest::collection::btree_set("[ab]{1,3}(/[ab]{1,2}){0,3}", 1..40), new in "[ab]{1,3}(/[ab]{1,2}){0,3}",
        ) {
            let file = |path: &str, inode| {
                let segment = SegmentRef { digest: Digest::of(b""), len: 1 };
                let content = Content { size: 1, segments: vec![segment].into(), ..Content::default() };
                let meta = Metadata { inode, ..Metadata::default() };
                Entry { path: RelPath::new(format!("{path}/name").as_bytes()).unwrap(), kind: Kind::File(content), meta }
            };
            let mut entries: Vec<_> = old.iter().map(|path| file(path, 1)).collect();
            entries.sort_by(|a, b| a.path.cmp(&b.path));
            let new = file(&format!("new/{new}"), 2);
            let likeness = |old: &Entry| {
                let pairs = old.path.as_bytes().iter().rev().zip(new.path.as_bytes().iter().rev());
                pairs.take_while(|(a, b)| a == b).count()
            };
            let found = Ancestors::new(&entries, |_| true).of(&new).unwrap();
            prop_assert_eq!(likeness(&entries[found]), entries.iter().map(likeness).max().unwrap());
        }
    }
}
