//! Walking a tree: names and `stat`, in path order, without opening any file.
//!
//! Directories are listed by several threads ahead of the one who consumes; what is handed out is in path
//! order all the same. Listings that wait are bounded to [`AHEAD`] entries, and the consumer lists for itself
//! what no thread has begun, so it never waits for one that has not started. A directory that cannot be
//! listed, or a name that cannot be looked at, is reported and left out, and the walk goes on. Symbolic links
//! are never followed, whoever puts them where a directory was.

use std::collections::VecDeque;
use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rustix::fs::{AtFlags, Dir, FileType, OFlags};

use crate::diff::exclude::{Excludes, LeftOut, LeftOutRule, Rules};
use crate::diff::pattern::PatternError;
use crate::diff::source::{SourceDir, open_beneath};
use crate::diff::stat::{Stat, is_mount_root};
use crate::diff::temporary;
use crate::pipeline::lock;
use crate::relpath::{RelPath, RelPathError};

/// How many entries may be listed ahead of the consumer.
pub const AHEAD: usize = 100_000;

/// How a tree is walked.
#[derive(Debug, Clone, Default)]
pub struct ScanOptions {
    /// What is left out.
    pub excludes: Excludes,
    /// Do not enter directories of another file system than the root's.
    pub one_file_system: bool,
    /// Device and inode number of a directory to leave out, wherever it lies below the root.
    pub leave_out: Option<(u64, u64)>,
    /// Threads beside the caller's; with none the caller does everything.
    pub threads: usize,
    /// Where what is left out is told, in any order.
    pub left_out: Option<Arc<Mutex<Vec<LeftOut>>>>,
}

/// A name that was found, and its `stat`.
#[derive(Debug, Clone)]
pub struct Found {
    /// Where, relative to the root of the walk.
    pub path: RelPath,
    /// What `lstat` says of it.
    pub stat: Stat,
    /// Whether it is a directory at which something is mounted, and that the walk enters.
    pub is_mount: bool,
}

/// What could not be looked at, and why.
#[derive(Debug, thiserror::Error)]
#[error("{} {}", .source.prevented(), .path.display())]
pub struct ScanError {
    /// The name, as the walk reached it.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: ScanErrorKind,
}

/// Why something could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ScanErrorKind {
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A file of patterns cannot be used.
    #[error(transparent)]
    Exclude(#[from] PatternError),
    /// Not all extended attributes can be read.
    #[error("its extended attributes cannot all be read, and those are not saved")]
    Attributes(#[source] io::Error),
    /// It was written to while it was read.
    #[error("it changed while it was read, and what is saved of it may never have existed as a whole")]
    Changed,
    /// The name cannot be kept.
    #[error(transparent)]
    Path(#[from] RelPathError),
}

impl ScanErrorKind {
    /// What could not be done.
    fn prevented(&self) -> &'static str {
        match self {
            // What stands there is read all the same.
            Self::Exclude(_) => "some patterns are ignored in",
            _ => "cannot read",
        }
    }
}

/// A directory that is listed, being listed, or still to be.
struct Node {
    path: RelPath,
    rules: Rules,
    state: Mutex<State>,
    listed: Condvar,
}

enum State {
    Todo,
    Running,
    Done(Listing),
    Taken,
}

/// A name, and its node where it is a directory to enter.
type Listed = (Found, Option<Arc<Node>>);

/// What stands in one directory, sorted by name, each directory with its node.
#[derive(Default)]
struct Listing {
    entries: VecDeque<Listed>,
    errors: Vec<ScanError>,
}

/// What the threads share: directories to list, the one that is wanted first on top.
#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    todo: Vec<Arc<Node>>,
    waiting_entries: usize,
    finished: bool,
}

struct Walk<'a> {
    root: &'a Path,
    opened: BorrowedFd<'a>,
    device: u64,
    options: &'a ScanOptions,
    shared: Shared,
}

/// Walks the tree at `start` in `source`, handing everything found to `visit` in path order, the start itself first,
/// with the empty path, and what could not be read as an error where it is noticed. `visit` ends the walk by an error
/// of its own.
///
/// A start that is not a directory that `source` holds open is looked at by its path, and is the only thing found.
/// Fails itself only where the start cannot be looked at.
pub fn scan<E: From<ScanError>>(
    source: &SourceDir,
    start: &RelPath,
    options: &ScanOptions,
    mut visit: impl FnMut(Result<Found, ScanError>) -> Result<(), E>,
) -> Result<(), E> {
    let root = &source.locate(start);
    let refused = |source: ScanErrorKind| ScanError { path: root.to_owned(), source };
    let opened = source.held(start);
    let stat = match opened {
        Some(opened) => rustix::fs::fstat(opened),
        None => rustix::fs::lstat(root),
    };
    let stat = Stat::from(stat.map_err(|error| refused(io::Error::from(error).into()))?);
    let rules = Rules::new(root, &options.excludes).map_err(|error| refused(error.into()))?;
    let Some(opened) = opened else {
        return visit(Ok(Found { path: RelPath::root(), stat, is_mount: false }));
    };
    let is_mount = is_mount_root(opened, c"").unwrap_or(false);
    let top = Found { path: RelPath::root(), stat, is_mount };
    let walk = Walk { root, opened, device: stat.device, options, shared: Shared::default() };
    let node = walk.node(RelPath::root(), rules);
    visit(Ok(top))?;
    std::thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| walk.work());
        }
        let _finish = Finish(&walk.shared);
        walk.consume(node, &mut visit)
    })
}

/// Dropped, it sends the helping threads home, after a panic too.
struct Finish<'a>(&'a Shared);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        lock(&self.0.queue).finished = true;
        self.0.changed.notify_all();
    }
}

/// A node that a helping thread lists. Dropped, it hands over what there is, so that nobody waits for a
/// thread that panicked.
struct Running<'a> {
    node: &'a Node,
    listing: Listing,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        *lock(&self.node.state) = State::Done(std::mem::take(&mut self.listing));
        self.node.listed.notify_one();
    }
}

impl Walk<'_> {
    fn node(&self, path: RelPath, rules: Rules) -> Arc<Node> {
        Arc::new(Node { path, rules, state: Mutex::new(State::Todo), listed: Condvar::new() })
    }

    /// Hands out what `node` holds and all below it, depth first.
    fn consume<E>(
        &self,
        node: Arc<Node>,
        visit: &mut impl FnMut(Result<Found, ScanError>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut open = vec![self.listing(&node)];
        while let Some(listing) = open.last_mut() {
            for error in listing.errors.drain(..) {
                visit(Err(error))?;
            }
            let Some((found, node)) = listing.entries.pop_front() else {
                open.pop();
                continue;
            };
            visit(Ok(found))?;
            if let Some(node) = node {
                open.push(self.listing(&node));
            }
        }
        Ok(())
    }

    /// The listing of `node`: waits for the thread that makes it, or makes it here.
    fn listing(&self, node: &Arc<Node>) -> Listing {
        let mut state = lock(&node.state);
        loop {
            match std::mem::replace(&mut *state, State::Taken) {
                State::Todo => {
                    drop(state);
                    let listing = self.list(node);
                    self.push(&listing);
                    return listing;
                }
                State::Running => {
                    *state = State::Running;
                    state = node.listed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                State::Done(listing) => {
                    lock(&self.shared.queue).waiting_entries -= listing.entries.len();
                    self.shared.changed.notify_one();
                    return listing;
                }
                State::Taken => return Listing::default(),
            }
        }
    }

    /// Puts the directories of `listing` on the queue, the first of them on top.
    fn push(&self, listing: &Listing) {
        if self.options.threads == 0 {
            return;
        }
        let nodes = listing.entries.iter().rev().filter_map(|(_, node)| node.clone());
        lock(&self.shared.queue).todo.extend(nodes);
        self.shared.changed.notify_all();
    }

    /// What a helping thread does until the walk is over.
    fn work(&self) {
        while let Some(node) = self.next_todo() {
            {
                let mut state = lock(&node.state);
                if !matches!(*state, State::Todo) {
                    continue;
                }
                *state = State::Running;
            }
            let mut running = Running { node: &node, listing: Listing::default() };
            let listing = self.list(&node);
            lock(&self.shared.queue).waiting_entries += listing.entries.len();
            running.listing = listing;
            self.push(&running.listing);
        }
    }

    fn next_todo(&self) -> Option<Arc<Node>> {
        let mut queue = lock(&self.shared.queue);
        loop {
            if queue.finished {
                return None;
            }
            if queue.waiting_entries < AHEAD
                && let Some(node) = queue.todo.pop()
            {
                return Some(node);
            }
            queue = self.shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn list(&self, node: &Node) -> Listing {
        let directory = self.root.join(node.path.as_path());
        let mut listing = Listing::default();
        if let Err(error) = self.list_into(node, &directory, &mut listing) {
            listing.errors.push(ScanError { path: directory, source: error.into() });
        }
        listing.entries.make_contiguous().sort_unstable_by(|(a, _), (b, _)| a.path.cmp(&b.path));
        listing
    }

    fn list_into(&self, node: &Node, directory: &Path, listing: &mut Listing) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = open_beneath(self.opened, node.path.as_bytes(), flags)?;
        let (rules, error) = node.rules.enter(&opened, directory);
        listing
            .errors
            .extend(error.map(|error| ScanError { path: directory.to_owned(), source: error.into() }));
        let only_tag = rules.is_excluded_cache(&opened);
        if only_tag {
            self.note_left_out(|| directory.to_owned(), LeftOutRule::Cache);
        }
        let mut names = Dir::read_from(&opened)?;
        let inode = || Some(Stat::from(rustix::fs::fstat(&opened).ok()?).inode);
        while let Some(entry) = names.read() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") || (only_tag && name.to_bytes() != b"CACHEDIR.TAG") {
                continue;
            }
            if temporary::owner_of(name.to_bytes(), inode).is_some() {
                let shown = || directory.join(OsStr::from_bytes(name.to_bytes()));
                self.note_left_out(shown, LeftOutRule::Temporary);
                continue;
            }
            match self.look(node, &rules, directory, &opened, name) {
                Ok(found) => listing.entries.extend(found),
                // Gone since the directory was read: as if the walk had come a moment later.
                Err(ScanErrorKind::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    let path = directory.join(OsStr::from_bytes(name.to_bytes()));
                    listing.errors.push(ScanError { path, source });
                }
            }
        }
        Ok(())
    }

    fn note_left_out(&self, path: impl FnOnce() -> PathBuf, rule: LeftOutRule) {
        if let Some(left_out) = &self.options.left_out {
            lock(left_out).push(LeftOut { path: path(), rule });
        }
    }

    fn look(
        &self,
        node: &Node,
        rules: &Rules,
        directory: &Path,
        opened: &impl AsFd,
        name: &CStr,
    ) -> Result<Option<Listed>, ScanErrorKind> {
        let stat = rustix::fs::statat(opened, name, AtFlags::SYMLINK_NOFOLLOW).map_err(io::Error::from)?;
        let stat = Stat::from(stat);
        let is_dir = stat.file_type() == FileType::Directory;
        let shown = || directory.join(OsStr::from_bytes(name.to_bytes()));
        if !rules.is_empty()
            && let Some(rule) = rules.exclude(&shown(), is_dir)
        {
            self.note_left_out(shown, rule);
            return Ok(None);
        }
        if is_dir && self.options.leave_out == Some((stat.device, stat.inode)) {
            self.note_left_out(shown, LeftOutRule::Repository);
            return Ok(None);
        }
        let path = node.path.join(name.to_bytes())?;
        let enter = is_dir && (stat.device == self.device || !self.options.one_file_system);
        if is_dir && !enter {
            self.note_left_out(shown, LeftOutRule::FileSystem);
        }
        let child = enter.then(|| self.node(path.clone(), rules.clone()));
        // Kernels before 5.8 do not tell; there another device does.
        let is_mount = enter && is_mount_root(opened, name).unwrap_or(stat.device != self.device);
        Ok(Some((Found { path, stat, is_mount }, child)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn paths(root: &Path, options: &ScanOptions) -> Vec<String> {
        let mut paths = Vec::new();
        scan::<ScanError>(&SourceDir::new(root), &RelPath::root(), options, |found| {
            paths.push(found?.path.to_string());
            Ok(())
        })
        .unwrap();
        paths
    }

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a/b/c", "a/b-", "a-b/x", "cache/CACHEDIR.TAG", "cache/data", "z/.skip"] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        fs::write(dir.path().join("z/.skip"), "*.o\n!keep.o\n").unwrap();
        fs::write(dir.path().join("z/x.o"), "").unwrap();
        fs::write(dir.path().join("z/keep.o"), "").unwrap();
        fs::write(
            dir.path().join("cache/CACHEDIR.TAG"),
            "Signature: 8a477f597d28d172789f06886806bc55\n# rest",
        )
        .unwrap();
        dir
    }

    #[test]
    fn finds_everything_in_path_order_with_any_number_of_threads() {
        let dir = tree();
        let one = paths(dir.path(), &ScanOptions::default());
        let expected = [
            "",
            "a",
            "a/b",
            "a/b/c",
            "a/b-",
            "a-b",
            "a-b/x",
            "cache",
            "cache/CACHEDIR.TAG",
            "cache/data",
            "z",
            "z/.skip",
            "z/keep.o",
            "z/x.o",
        ];
        assert_eq!(one, expected);
        for threads in 1..4 {
            assert_eq!(paths(dir.path(), &ScanOptions { threads, ..ScanOptions::default() }), one);
        }
    }

    #[test]
    fn leaves_out_what_is_excluded() {
        let dir = tree();
        let excludes = Excludes {
            patterns: vec!["a-b".into()],
            ignore_file: Some(".skip".into()),
            caches: true,
            ..Excludes::default()
        };
        let found = paths(dir.path(), &ScanOptions { excludes, ..ScanOptions::default() });
        assert_eq!(
            found,
            ["", "a", "a/b", "a/b/c", "a/b-", "cache", "cache/CACHEDIR.TAG", "z", "z/.skip", "z/keep.o"]
        );
    }

    #[test]
    fn a_root_that_is_a_file_or_missing() {
        let dir = tree();
        assert_eq!(paths(&dir.path().join("a/b/c"), &ScanOptions::default()), [""]);
        let missing = SourceDir::new(dir.path().join("none"));
        let missing = scan(&missing, &RelPath::root(), &ScanOptions::default(), |_| Ok::<_, ScanError>(()));
        assert!(missing.is_err());
    }

    #[test]
    fn a_panic_in_the_consumer_does_not_leave_threads_waiting() {
        let dir = tree();
        let options = ScanOptions { threads: 2, ..ScanOptions::default() };
        let panicked = std::panic::catch_unwind(|| {
            scan::<ScanError>(&SourceDir::new(dir.path()), &RelPath::root(), &options, |found| {
                match found?.path.as_bytes() {
                    b"a-b" => panic!("as the test wants it"),
                    _ => Ok(()),
                }
            })
        });
        assert!(panicked.is_err());
    }

    #[test]
    fn many_directories_come_in_order_from_many_threads() {
        let dir = tempfile::tempdir().unwrap();
        for outer in 0..30 {
            for inner in 0..10 {
                let path = dir.path().join(format!("{outer}/{inner}"));
                fs::create_dir_all(&path).unwrap();
                fs::write(path.join("file"), "").unwrap();
            }
        }
        let one = paths(dir.path(), &ScanOptions::default());
        assert_eq!(one.len(), 1 + 30 * (1 + 10 * 2));
        for _ in 0..20 {
            assert_eq!(paths(dir.path(), &ScanOptions { threads: 3, ..ScanOptions::default() }), one);
        }
    }
}
