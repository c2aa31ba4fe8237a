//! The working tree of an ordinary clone, which goes along with its branch.
//!
//! A commit becomes visible in this order:
//!
//! 1. `index.lock` is taken, so that no git changes index or working tree meanwhile.
//! 2. Every path that the commit changes is looked at. Where index or file are not what the branch has, somebody
//!    edited and did not commit; then nothing is changed, and the error names the paths. All other paths may be
//!    edited, staged or missing as they like.
//! 3. The branch is locked and found where it was expected.
//! 4. A *journal* says durably from which commit to which one the paths are about to go.
//! 5. Files are written beside their places, synced and renamed; then the index; and last of all the branch moves.
//!
//! Killed before the last step, the changes stand there as if somebody had staged them: `git status` shows them,
//! and `git commit` would make them, never unmake others. Whoever opens the clone next finds the journal and
//! brings its paths to where the branch is by then; those that were edited since stay.
//!
//! What lies in the working tree is not trusted. Directories are entered one by one, each in the one above, and no
//! symbolic link is followed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use git2::build::CheckoutBuilder;
use git2::{AttrCheckFlags, AttrValue, Config, RepositoryState, Status};
use rustix::fs::{
    AtFlags, FileType, Mode as Bits, OFlags, Stat, fstat, mkdirat, open, openat, readlinkat, renameat,
    statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use crate::atomic;
use crate::layers::ObjectId;

use super::commit::Person;
use super::git::WorkTree;
use super::index::{self, LockedIndex, above, as_path, has_leftovers};
use super::lockfile::{open_lock, wait_for};
use super::paths::PRIVATE;
use super::paths_left::PathsLeft;
use super::plain::expect_plain_file;
use super::tree::{self, MAX_DEPTH, Mode, Node};
use super::{Git, GitError, shown};

/// The file whose `flock` gives the turn to change index and working tree.
const TURN: &str = "work-tree.lock";

/// The file that says what is being done.
const JOURNAL: &str = "work-tree-journal";

/// Where libgit2 checks files out to whose content it converts.
const CONVERTED: &str = "work-tree-files";

/// What the file is called for which there is no place yet.
const TEMPORARY: &str = "work-tree";

/// What a commit changes at a path.
struct Change {
    path: Vec<u8>,
    old: Option<Node>,
    new: Option<Node>,
}

/// The directory that a path lies in.
enum Parent {
    Open(OwnedFd),
    Missing,
    /// Something else has its place, or that of one above it.
    Barred {
        at: Vec<u8>,
        fault: &'static str,
    },
}

/// What commits a journal tells of.
struct Journal {
    old: Option<ObjectId>,
    new: ObjectId,
}

/// What of git's configuration says how files are written.
struct Habits {
    links: bool,
    executable: bool,
}

impl Git {
    /// Opens the repository at `path`, bare or an ordinary clone. Whatever moves the branch of a clone brings its
    /// index and its working tree along, or refuses.
    ///
    /// `path` is the repository or the root of its working tree, which may be a linked one.
    pub fn open_with_work_tree(path: &Path) -> Result<Self, GitError> {
        let git = Self::open_as(path, true)?;
        if let Some(work_tree) = &git.work_tree {
            work_tree.recover_if_idle(&git);
        }
        Ok(git)
    }

    /// Moves the branch from `expected` to `new`, as [`compare_and_set`](Self::compare_and_set) does, and what is
    /// checked out of it.
    pub(crate) fn advance(&self, expected: Option<&ObjectId>, new: &ObjectId) -> Result<(), GitError> {
        if let Some(path) = self.checked_out_elsewhere() {
            return Err(GitError::CheckedOut { branch: self.branch().to_owned(), path });
        }
        match &self.work_tree {
            Some(work_tree) => work_tree.advance(self, expected, new)?,
            None => self.compare_and_set(self.branch(), expected, new)?,
        }
        self.note_newest(expected, new);
        Ok(())
    }

    /// Another working tree that has the branch checked out and would not go along.
    fn checked_out_elsewhere(&self) -> Option<PathBuf> {
        let own = self.work_tree.as_ref().map_or(self.path(), |work_tree| &work_tree.git_dir);
        let is_bare = || self.libgit2().config()?.get_bool("core.bare");
        let main = self.path().parent().filter(|_| self.path().ends_with(".git") && own != self.path());
        let main = main.filter(|_| !is_bare().unwrap_or(false));
        let main = main.map(|root| (self.path().to_owned(), root.to_owned()));
        let linked = fs::read_dir(self.path().join("worktrees")).into_iter().flatten().flatten();
        let linked = linked.filter_map(|entry| {
            let git_file = fs::read_to_string(entry.path().join("gitdir")).ok()?;
            let git_file = PathBuf::from(git_file.trim_end());
            let root = git_file.parent().filter(|_| git_file.exists())?.to_owned();
            Some((entry.path(), root))
        });
        let has_branch = |git_dir: &Path| {
            let head = fs::read_to_string(git_dir.join("HEAD")).unwrap_or_default();
            head.trim_end().strip_prefix("ref: ") == Some(self.branch())
        };
        let same = |git_dir: &Path| git_dir.canonicalize().ok() == own.canonicalize().ok();
        main.into_iter()
            .chain(linked)
            .find(|(git_dir, _)| has_branch(git_dir) && !same(git_dir))
            .map(|(_, root)| root)
    }
}

impl WorkTree {
    /// Moves the branch of `git` from `expected` to `new`, with index and working tree.
    pub fn advance(&self, git: &Git, expected: Option<&ObjectId>, new: &ObjectId) -> Result<(), GitError> {
        let state = git.libgit2().state();
        if state != RepositoryState::Clean {
            return Err(GitError::UnderWay { path: self.root.clone(), what: under_way(state) });
        }
        let private = self.private()?;
        let _turn = self.turn(&private)?;
        self.recover(git, &private)?;

        let mut index = LockedIndex::take(&private, &self.git_dir)?;
        let changes = changes(git, expected, Some(new))?;
        self.expect_plain_rules(&changes)?;
        let habits = self.habits(git)?;
        self.refuse_edited(git, &index, &changes, &habits)?;
        let come = changes.iter().filter_map(|change| Some((&change.path[..], change.new.as_ref()?)));
        let converted = self.convert(git, &private, new, come)?;
        let mut begun = false;
        let moved = git.compare_and_set_after(git.branch(), expected, new, || {
            begun = true;
            self.write_journal(&private, expected, new)?;
            let targets = changes.iter().map(|change| (change, change.new.as_ref()));
            self.bring(git, &private, &mut index, targets, &converted, &habits)?;
            index.write()
        });
        // What stays of these is removed by whoever has the turn next, and what was committed is committed.
        let _ = remove_converted(&private);
        match &moved {
            Ok(()) => drop(self.remove_journal(&private)),
            // What stood in the way of this may stand in the way of that; then the journal stays.
            Err(_) if begun => drop(self.recover(git, &private)),
            Err(_) => {}
        }
        moved
    }

    /// Ends what a dead process began, if there is anything and nobody is at it. For one who only reads, this may
    /// fail: whoever writes next does it too.
    pub fn recover_if_idle(&self, git: &Git) {
        let private = self.git_dir.join(PRIVATE);
        if !private.join(JOURNAL).exists() && !has_leftovers(&private) {
            return;
        }
        let Ok(turn) = open_lock(&private.join(TURN)) else { return };
        if turn.try_lock().is_ok() && index::remove_leftovers(&private, &self.git_dir).is_ok() {
            let _ = self.recover(git, &private);
        }
    }

    /// Adds to git's log of where `HEAD` and the branch were, unless git is to keep none.
    pub fn log(&self, git: &Git, old: Option<&ObjectId>, new: &ObjectId, who: &Person, message: &str) {
        let none = ObjectId::from_bytes([0; 20]);
        let subject = message.lines().next().unwrap_or_default();
        let line = format!("{} {new} {}\tcommit: {subject}\n", old.unwrap_or(&none), who.encode());
        let is_off = || git.libgit2().config()?.get_bool("core.logAllRefUpdates").map(|is_on| !is_on);
        if is_off().unwrap_or(false) {
            return;
        }
        for log in [self.git_dir.join("logs/HEAD"), git.path().join("logs").join(git.branch())] {
            // A convenience; what was committed is committed.
            let _ = fs::create_dir_all(atomic::parent(&log));
            if let Ok(mut log) = File::options().append(true).create(true).open(log) {
                let _ = log.write_all(line.as_bytes());
            }
        }
    }

    /// The directory of this program that belongs to the working tree.
    fn private(&self) -> Result<PathBuf, GitError> {
        let private = self.git_dir.join(PRIVATE);
        match fs::create_dir(&private) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(GitError::io("make", &private)(error))
            }
            _ => Ok(private),
        }
    }

    fn turn(&self, private: &Path) -> Result<File, GitError> {
        let turn = wait_for(&private.join(TURN), File::try_lock)?;
        remove_converted(private)?;
        index::remove_leftovers(private, &self.git_dir).map_err(GitError::io("clean up", private))?;
        Ok(turn)
    }

    /// Brings the paths that the journal tells of to where the branch is, unless they were edited since.
    fn recover(&self, git: &Git, private: &Path) -> Result<(), GitError> {
        let Some(Journal { old, new }) = self.read_journal(private)? else { return Ok(()) };
        let mut index = LockedIndex::take(private, &self.git_dir)?;
        let (changes, habits) = (changes(git, old.as_ref(), Some(&new))?, self.habits(git)?);
        self.expect_plain_rules(&changes)?;
        let came = changes.iter().filter_map(|change| Some((&change.path[..], change.new.as_ref()?)));
        let mut came = self.convert(git, private, &new, came)?;
        for path in std::mem::take(&mut came) {
            if self.has_converted(private, &path)? {
                came.insert(path);
            }
        }
        let head = git.head()?;
        let mut targets = Vec::new();
        for change in &changes {
            if let Parent::Open(dir) = self.parent(&change.path)? {
                let _ = unlinkat(&dir, temporary(), AtFlags::empty());
            }
            let there = head.as_ref().map(|head| git.find(head, &change.path)).transpose()?.flatten();
            let is_ours = |node: &Option<Node>| *node == change.old || *node == change.new;
            let file_is_ours = came.contains(&change.path)
                || self.is_at(git, &index, &change.path, change.old.as_ref(), &habits)?.is_ok()
                || self.is_at(git, &index, &change.path, change.new.as_ref(), &habits)?.is_ok();
            if is_ours(&index.node(&change.path)) && file_is_ours {
                targets.push((change, there));
            }
        }
        let converted = match &head {
            Some(head) => {
                let come =
                    targets.iter().filter_map(|(change, node)| Some((&change.path[..], node.as_ref()?)));
                self.convert(git, private, head, come)?
            }
            None => BTreeSet::new(),
        };
        let targets = targets.iter().map(|(change, node)| (*change, node.as_ref()));
        self.bring(git, private, &mut index, targets, &converted, &habits)?;
        index.write()?;
        remove_converted(private)?;
        self.remove_journal(private)
    }

    fn write_journal(&self, private: &Path, old: Option<&ObjectId>, new: &ObjectId) -> Result<(), GitError> {
        let old = old.map(ToString::to_string).unwrap_or_default();
        let journal = private.join(JOURNAL);
        // Not by a temporary file of the usual name: those are removed by whoever moves a reference.
        let write = || {
            let draft = private.join(format!("{JOURNAL}.new"));
            let mut file = File::create(&draft)?;
            writeln!(file, "{old}\n{new}")?;
            file.sync_all()?;
            fs::rename(&draft, &journal)?;
            atomic::sync_dir(private)
        };
        write().map_err(GitError::io("write", &journal))
    }

    fn read_journal(&self, private: &Path) -> Result<Option<Journal>, GitError> {
        let path = private.join(JOURNAL);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(GitError::io("read", &path)(error)),
        };
        let mut lines = text.lines();
        let (old, new) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let new = new.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
        Ok(Some(Journal { old: old.parse().ok(), new: new.map_err(GitError::io("read", &path))? }))
    }

    fn remove_journal(&self, private: &Path) -> Result<(), GitError> {
        let journal = private.join(JOURNAL);
        let removed = index::remove_file(&journal).and_then(|()| atomic::sync_dir(private));
        removed.map_err(GitError::io("remove", &journal))
    }

    fn habits(&self, git: &Git) -> Result<Habits, GitError> {
        let repository = git.libgit2();
        let config = repository.config().map_err(GitError::git("read the configuration of git"))?;
        let is_set = |name| config.get_bool(name).unwrap_or(true);
        Ok(Habits { links: is_set("core.symlinks"), executable: is_set("core.fileMode") })
    }

    /// Refuses, by name, the paths of `changes` that somebody edited and did not commit.
    fn refuse_edited(
        &self,
        git: &Git,
        index: &LockedIndex,
        changes: &[Change],
        habits: &Habits,
    ) -> Result<(), GitError> {
        let goes: BTreeSet<&[u8]> =
            changes.iter().filter(|change| change.new.is_none()).map(|change| &change.path[..]).collect();
        let mut edited = Vec::new();
        for Change { path, old, new } in changes {
            if let Some(fault) = tree::path_fault(path) {
                return Err(GitError::Path { path: shown(path), fault });
            }
            let mut refuse = |at: &[u8], fault| edited.push((at.to_owned(), fault));
            let indexed = index.node(path);
            if index.is_undecided(path) {
                refuse(path, "not merged");
                continue;
            }
            if indexed != *old && indexed != *new {
                refuse(path, "staged");
                continue;
            }
            if new.is_some() {
                let is_in_the_way = |at: &&[u8]| index.node(at).is_some() && !goes.contains(at);
                if let Some(at) = above(path).find(is_in_the_way) {
                    refuse(at, "staged");
                    continue;
                }
                if index.below(path).any(|at| !goes.contains(&at[..])) {
                    refuse(path, "a directory with files that are staged");
                    continue;
                }
            }
            let at_old = self.is_at(git, index, path, old.as_ref(), habits)?;
            let Err((at, fault)) = at_old else { continue };
            if goes.contains(&at[..]) && at != *path {
                continue;
            }
            let is_done = indexed == *new || old.is_none();
            if !(is_done && self.is_at(git, index, path, new.as_ref(), habits)?.is_ok()) {
                refuse(&at, fault);
            }
        }
        edited.dedup();
        match edited.is_empty() {
            true => Ok(()),
            false => Err(GitError::Edited { path: self.root.clone(), edited: index::listed(&edited) }),
        }
    }

    /// Whether the working tree has `node` at `path`; if not, what is wrong where.
    fn is_at(
        &self,
        git: &Git,
        index: &LockedIndex,
        path: &[u8],
        node: Option<&Node>,
        habits: &Habits,
    ) -> Result<Result<(), (Vec<u8>, &'static str)>, GitError> {
        let refused = |fault| Ok(Err((path.to_owned(), fault)));
        let dir = match (self.parent(path)?, node) {
            (Parent::Open(dir), _) => dir,
            (Parent::Missing, None) => return Ok(Ok(())),
            (Parent::Missing, Some(_)) if index.is_left_out(path) => return Ok(Ok(())),
            (Parent::Missing, Some(_)) => return refused("removed"),
            (Parent::Barred { at, fault }, _) => return Ok(Err((at, fault))),
        };
        let stat = match statat(&dir, name(path), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) if node.is_none() || index.is_left_out(path) => return Ok(Ok(())),
            Err(Errno::NOENT) => return refused("removed"),
            Err(error) => return Err(self.failed("look at", path)(error.into())),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let Some(node) = node else {
            return match kind {
                // Whether it is empty is seen when it is to go.
                FileType::Directory if index.below(path).next().is_some() => Ok(Ok(())),
                FileType::Directory => refused("a directory"),
                _ => refused("not known to git"),
            };
        };
        let is_executable = stat.st_mode & 0o100 != 0;
        let has_mode = match node.mode {
            Mode::Module | Mode::Directory => return Ok(Ok(())),
            Mode::Link if habits.links => kind == FileType::Symlink,
            Mode::Executable if habits.executable => kind == FileType::RegularFile && is_executable,
            Mode::File if habits.executable => kind == FileType::RegularFile && !is_executable,
            _ => kind == FileType::RegularFile,
        };
        if has_mode && self.has_content(git, &dir, path, &stat, node)? {
            return Ok(Ok(()));
        }
        // What git converts on the way is not there as it is stored. Git is asked whether that is the reason.
        let is_same = has_mode && index.node(path) == Some(*node) && self.is_converted(git, path)?.is_some();
        match is_same && self.is_unchanged(git, path) {
            true => Ok(Ok(())),
            false => refused("edited"),
        }
    }

    /// Whether the file at `path` holds just what `node` is.
    fn has_content(
        &self,
        git: &Git,
        dir: &OwnedFd,
        path: &[u8],
        stat: &Stat,
        node: &Node,
    ) -> Result<bool, GitError> {
        if u64::try_from(stat.st_size).ok() != Some(git.blob_size(&node.id)?) {
            return Ok(false);
        }
        let expected = git.read_blob(&node.id)?;
        let found = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                let target = readlinkat(dir, name(path), Vec::new()).map_err(io::Error::from);
                target.map(std::ffi::CString::into_bytes)
            }
            _ => read(dir, path, expected.len()),
        };
        Ok(found.map_err(self.failed("read", path))? == expected)
    }

    /// Whether the file at `path` holds what libgit2 made of it last.
    fn has_converted(&self, private: &Path, path: &[u8]) -> Result<bool, GitError> {
        let Parent::Open(dir) = self.parent(path)? else { return Ok(false) };
        let is_file = statat(&dir, name(path), AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        let expected = read_converted(private, path)?;
        Ok(is_file && read(&dir, path, expected.len()).map_err(self.failed("read", path))? == expected)
    }

    /// Whether git sees no difference between the file and the index.
    fn is_unchanged(&self, git: &Git, path: &[u8]) -> bool {
        let differs = Status::WT_NEW | Status::WT_MODIFIED | Status::WT_DELETED | Status::WT_TYPECHANGE;
        let status = git.libgit2().status_file(as_path(path));
        status.is_ok_and(|status| !status.intersects(differs))
    }

    /// Fails where libgit2 would wait for what says how files are converted, and which are ignored.
    fn expect_plain_rules(&self, changes: &[Change]) -> Result<(), GitError> {
        let mut directories = BTreeSet::new();
        for change in changes {
            let above = as_path(&change.path).ancestors().skip(1);
            above.take_while(|directory| directories.insert(*directory)).for_each(drop);
        }
        let rules = |directory: &&Path| RULES.map(|name| self.root.join(directory).join(name));
        directories.iter().flat_map(rules).try_for_each(|path| expect_plain_file(&path))
    }

    /// What makes git convert the content of the file at `path`, if anything does.
    fn is_converted(&self, git: &Git, path: &[u8]) -> Result<Option<Conversion>, GitError> {
        let repository = git.libgit2();
        let look = || {
            let config = repository.config()?;
            let attribute = |name| {
                let value =
                    repository.get_attr_bytes(as_path(path), name, AttrCheckFlags::FILE_THEN_INDEX)?;
                Ok::<_, git2::Error>(AttrValue::always_bytes(value))
            };
            if let Some(filter) = text(&attribute("filter")?)
                && ["smudge", "clean", "process"]
                    .iter()
                    .any(|what| is_set(&config, &format!("filter.{filter}.{what}")))
            {
                return Ok(Some(Conversion::Foreign(format!("filter={filter}"))));
            }
            if let Some(encoding) = text(&attribute("working-tree-encoding")?) {
                return Ok(Some(Conversion::Foreign(format!("working-tree-encoding={encoding}"))));
            }
            for name in ["text", "eol", "crlf", "ident"] {
                if matches!(attribute(name)?, AttrValue::True | AttrValue::Bytes(_) | AttrValue::String(_)) {
                    return Ok(Some(Conversion::Known));
                }
            }
            let is_off = matches!(attribute("text")?, AttrValue::False);
            let converts = config.get_string("core.autocrlf").is_ok_and(|value| value != "false");
            Ok((converts && !is_off).then_some(Conversion::Known))
        };
        look().map_err(GitError::git("read the attributes of files"))
    }

    /// Those of the paths that come whose files git would write otherwise than they are stored. What libgit2 makes
    /// of them is below [`CONVERTED`] then. A filter that only git runs is refused.
    fn convert<'a>(
        &self,
        git: &Git,
        private: &Path,
        commit: &ObjectId,
        come: impl Iterator<Item = (&'a [u8], &'a Node)>,
    ) -> Result<BTreeSet<Vec<u8>>, GitError> {
        let mut converted = BTreeSet::new();
        for (path, _) in come.filter(|(_, node)| matches!(node.mode, Mode::File | Mode::Executable)) {
            match self.is_converted(git, path)? {
                None => {}
                Some(Conversion::Known) => {
                    converted.insert(path.to_owned());
                }
                Some(Conversion::Foreign(filter)) => {
                    return Err(GitError::Filter { path: shown(path), filter });
                }
            }
        }
        if converted.is_empty() {
            return Ok(converted);
        }
        remove_converted(private)?;
        let mut checkout = CheckoutBuilder::new();
        checkout.target_dir(&private.join(CONVERTED)).force();
        checkout.update_index(false).disable_pathspec_match(true);
        for path in &converted {
            checkout.path(path.as_slice());
        }
        let repository = git.libgit2();
        let mut check_out = || {
            let id = git2::Oid::from_bytes(commit.as_bytes())?;
            repository.checkout_tree(&repository.find_object(id, None)?, Some(&mut checkout))
        };
        check_out().map_err(GitError::git("convert files"))?;
        Ok(converted)
    }

    /// Brings files and entries of the index to what each target says.
    fn bring<'a>(
        &self,
        git: &Git,
        private: &Path,
        index: &mut LockedIndex,
        targets: impl Iterator<Item = (&'a Change, Option<&'a Node>)>,
        converted: &BTreeSet<Vec<u8>>,
        habits: &Habits,
    ) -> Result<(), GitError> {
        let (come, go): (Vec<_>, Vec<_>) = targets.partition(|(_, node)| node.is_some());
        let mut touched = BTreeSet::new();
        // What goes may make room for what comes.
        for (change, _) in go.iter().rev() {
            index.remove(&change.path)?;
            self.remove(&change.path, &mut touched)?;
        }
        for (Change { path, .. }, node) in come {
            let Some(node) = node else { continue };
            if index.is_left_out(path) && self.stat(path)?.is_none() {
                index.set(path, node, None)?;
                continue;
            }
            if converted.contains(path) {
                let content = read_converted(private, path)?;
                self.write(path, node, &content, habits, &mut touched)?;
            } else if self.is_at(git, index, path, Some(node), habits)?.is_err() {
                let content = match node.mode {
                    Mode::Module => Vec::new(),
                    _ => git.read_blob(&node.id)?,
                };
                self.write(path, node, &content, habits, &mut touched)?;
            }
            let stat = self.stat(path)?;
            index.set(path, node, stat.as_ref())?;
        }
        for directory in touched {
            if let Parent::Open(fd) = self.parent(&[&directory[..], b"/"].concat())? {
                rustix::fs::fsync(fd).map_err(|error| self.failed("sync", &directory)(error.into()))?;
            }
        }
        Ok(())
    }

    /// Removes the file at `path`, and the directories above it that are empty then.
    fn remove(&self, path: &[u8], touched: &mut BTreeSet<Vec<u8>>) -> Result<(), GitError> {
        let Parent::Open(dir) = self.parent(path)? else { return Ok(()) };
        match unlinkat(&dir, name(path), AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::NOENT) => {}
            // A submodule stays as it is.
            Err(Errno::ISDIR) => return Ok(()),
            Err(error) => return Err(self.failed("remove", path)(error.into())),
        }
        touched.insert(parent_of(path).to_owned());
        let above: Vec<_> = above(path).collect();
        for directory in above.into_iter().rev() {
            let Parent::Open(dir) = self.parent(directory)? else { break };
            if unlinkat(&dir, name(directory), AtFlags::REMOVEDIR).is_err() {
                break;
            }
            touched.remove(directory);
            touched.insert(parent_of(directory).to_owned());
        }
        Ok(())
    }

    /// Makes a file of the mode of `node`, with that content, of what is at `path`.
    fn write(
        &self,
        path: &[u8],
        node: &Node,
        content: &[u8],
        habits: &Habits,
        touched: &mut BTreeSet<Vec<u8>>,
    ) -> Result<(), GitError> {
        let failed = |error: Errno| self.failed("write", path)(error.into());
        let dir = self.make_parent(path, touched)?;
        touched.insert(parent_of(path).to_owned());
        if node.mode == Mode::Module {
            return match mkdirat(&dir, name(path), Bits::from_raw_mode(0o777)) {
                Err(error) if error != Errno::EXIST => Err(failed(error)),
                _ => Ok(()),
            };
        }
        let temporary = temporary();
        match unlinkat(&dir, temporary.as_str(), AtFlags::empty()) {
            Err(error) if error != Errno::NOENT => return Err(failed(error)),
            _ => {}
        }
        if node.mode == Mode::Link && habits.links {
            symlinkat(content, &dir, temporary.as_str()).map_err(failed)?;
        } else {
            let bits = if node.mode == Mode::Executable { 0o777 } else { 0o666 };
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = openat(&dir, temporary.as_str(), flags, Bits::from_raw_mode(bits)).map_err(failed)?;
            let mut file = File::from(file);
            let written = file.write_all(content).and_then(|()| file.sync_all());
            if let Err(error) = written {
                let _ = unlinkat(&dir, temporary.as_str(), AtFlags::empty());
                return Err(self.failed("write", path)(error));
            }
        }
        // A directory whose files went may be there, and is empty then.
        let _ = unlinkat(&dir, name(path), AtFlags::REMOVEDIR);
        renameat(&dir, temporary.as_str(), &dir, name(path)).map_err(|error| {
            let _ = unlinkat(&dir, temporary.as_str(), AtFlags::empty());
            failed(error)
        })
    }

    fn stat(&self, path: &[u8]) -> Result<Option<Stat>, GitError> {
        let Parent::Open(dir) = self.parent(path)? else { return Ok(None) };
        match statat(&dir, name(path), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.failed("look at", path)(error.into())),
        }
    }

    /// The directory that `path` lies in, as it is.
    fn parent(&self, path: &[u8]) -> Result<Parent, GitError> {
        let mut dir = self.open_root()?;
        for at in above(path) {
            dir = match enter(&dir, name(at)) {
                Ok(inner) => inner,
                Err(Errno::NOENT) => return Ok(Parent::Missing),
                Err(Errno::LOOP | Errno::NOTDIR) => {
                    let is_link = statat(&dir, name(at), AtFlags::SYMLINK_NOFOLLOW)
                        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
                    let fault = if is_link { "a symbolic link" } else { "no directory" };
                    return Ok(Parent::Barred { at: at.to_owned(), fault });
                }
                Err(error) => return Err(self.failed("enter", at)(error.into())),
            };
        }
        Ok(Parent::Open(dir))
    }

    /// The directory that `path` lies in, made where it is missing.
    fn make_parent(&self, path: &[u8], touched: &mut BTreeSet<Vec<u8>>) -> Result<OwnedFd, GitError> {
        let mut dir = self.open_root()?;
        for at in above(path) {
            let made = match mkdirat(&dir, name(at), Bits::from_raw_mode(0o777)) {
                Ok(()) => {
                    touched.insert(parent_of(at).to_owned());
                    Ok(())
                }
                Err(Errno::EXIST) => Ok(()),
                Err(error) => Err(error),
            };
            dir = made
                .and_then(|()| enter(&dir, name(at)))
                .map_err(|error| self.failed("enter", at)(error.into()))?;
        }
        Ok(dir)
    }

    fn open_root(&self) -> Result<OwnedFd, GitError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(&self.root, flags, Bits::empty());
        root.map_err(|error| GitError::io("enter", &self.root)(error.into()))
    }

    /// For `map_err`: the operating system refused to `action` on what is at `path`.
    fn failed(&self, action: &'static str, path: &[u8]) -> impl FnOnce(io::Error) -> GitError {
        let path = self.root.join(as_path(path));
        move |source| GitError::Io { action, path, source }
    }
}

/// The files of a working tree that libgit2 reads by itself.
const RULES: [&str; 2] = [".gitattributes", ".gitignore"];

/// How git converts content between what is stored and what is in the working tree.
enum Conversion {
    /// As libgit2 does too.
    Known,
    /// As only the program git does: the attribute that says so.
    Foreign(String),
}

/// The content of a regular file, of one byte more than `len` at most.
fn read(dir: &OwnedFd, path: &[u8], len: usize) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(dir, name(path), flags, Bits::empty())?);
    let mut found = Vec::new();
    file.take(len as u64 + 1).read_to_end(&mut found)?;
    Ok(found)
}

/// What libgit2 made of the file at `path`.
fn read_converted(private: &Path, path: &[u8]) -> Result<Vec<u8>, GitError> {
    let at = private.join(CONVERTED).join(as_path(path));
    fs::read(&at).map_err(GitError::io("read", &at))
}

fn remove_converted(private: &Path) -> Result<(), GitError> {
    let converted = private.join(CONVERTED);
    match fs::remove_dir_all(&converted) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(GitError::io("remove", &converted)(error))
        }
        _ => Ok(()),
    }
}

/// What the commits `old` and `new` have differently, by path.
fn changes(git: &Git, old: Option<&ObjectId>, new: Option<&ObjectId>) -> Result<Vec<Change>, GitError> {
    let tree = |commit: Option<&ObjectId>| -> Result<_, GitError> {
        let tree = commit.map(|commit| git.read_commit(commit)).transpose()?.map(|commit| commit.tree);
        Ok(tree.map(|id| Node { mode: Mode::Directory, id }))
    };
    let mut found = Vec::new();
    compare(git, tree(old)?, tree(new)?, &mut Vec::new(), 0, &mut PathsLeft::new(MAX_DEPTH), &mut found)?;
    found.sort_by(|left: &Change, right| left.path.cmp(&right.path));
    Ok(found)
}

fn compare(
    git: &Git,
    old: Option<Node>,
    new: Option<Node>,
    path: &mut Vec<u8>,
    depth: usize,
    left: &mut PathsLeft,
    found: &mut Vec<Change>,
) -> Result<(), GitError> {
    if old == new {
        return Ok(());
    }
    left.count(path, depth)?;
    let split = |node: Option<Node>| match node {
        Some(node) if node.mode == Mode::Directory => (Some(node.id), None),
        node => (None, node),
    };
    let ((old_tree, old), (new_tree, new)) = (split(old), split(new));
    if old.is_some() || new.is_some() {
        found.push(Change { path: path.clone(), old, new });
    }
    let mut names: BTreeMap<Vec<u8>, (Option<Node>, Option<Node>)> = BTreeMap::new();
    if let Some(tree) = old_tree {
        for entry in git.read_tree(&tree)?.entries() {
            names.entry(entry.name.to_owned()).or_default().0 = Some(entry.node());
        }
    }
    if let Some(tree) = new_tree {
        for entry in git.read_tree(&tree)?.entries() {
            names.entry(entry.name.to_owned()).or_default().1 = Some(entry.node());
        }
    }
    names.retain(|_, (old, new)| old != new);
    let mark = path.len();
    for (name, (old, new)) in names {
        if mark > 0 {
            path.push(b'/');
        }
        path.extend_from_slice(&name);
        compare(git, old, new, path, depth + 1, left, found)?;
        path.truncate(mark);
    }
    Ok(())
}

fn under_way(state: RepositoryState) -> &'static str {
    match state {
        RepositoryState::Merge => "a merge",
        RepositoryState::Revert | RepositoryState::RevertSequence => "a revert",
        RepositoryState::CherryPick | RepositoryState::CherryPickSequence => "a cherry-pick",
        RepositoryState::Bisect => "a bisection",
        RepositoryState::ApplyMailbox | RepositoryState::ApplyMailboxOrRebase => "git am",
        _ => "a rebase",
    }
}

/// The name that a file has before it is in its place. One at a time is written.
fn temporary() -> String {
    format!("{}{TEMPORARY}", atomic::TEMP_PREFIX)
}

fn enter(dir: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = openat(dir, name, flags, Bits::empty())?;
    // Where a file system answers otherwise.
    match FileType::from_raw_mode(fstat(&inner)?.st_mode) {
        FileType::Directory => Ok(inner),
        _ => Err(Errno::NOTDIR),
    }
}

fn text(value: &AttrValue<'_>) -> Option<String> {
    match value {
        AttrValue::String(text) => Some((*text).to_owned()),
        AttrValue::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    }
}

fn is_set(config: &Config, name: &str) -> bool {
    config.get_entry(name).is_ok()
}

/// The last name of a path.
fn name(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or_default()
}

/// The directory that a path lies in; empty for the root.
fn parent_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&byte| byte == b'/').map_or(&[], |slash| &path[..slash])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::Command;
    use std::time::{Duration, SystemTime};

    use tempfile::TempDir;

    use super::super::testing::who;
    use super::super::{Committed, TreeEdit};
    use super::*;

    /// An ordinary repository, made by git, with some files committed and nothing edited.
    struct Clone {
        dir: TempDir,
    }

    impl Clone {
        fn new() -> Self {
            let clone = Self { dir: tempfile::tempdir().unwrap() };
            fs::create_dir(clone.path("")).unwrap();
            clone.git(&["init", "-q", "-b", "main"]);
            for (path, content) in [("a", "one"), ("b", "two"), ("dir/c", "three"), ("dir/d/e", "four")] {
                clone.write(path, content);
            }
            clone.git(&["add", "."]);
            clone.git(&["commit", "-q", "-m", "Begin"]);
            clone
        }

        fn path(&self, path: &str) -> PathBuf {
            self.dir.path().join("clone").join(path)
        }

        fn write(&self, path: &str, content: &str) {
            fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
            fs::write(self.path(path), content).unwrap();
        }

        fn read(&self, path: &str) -> String {
            fs::read_to_string(self.path(path)).unwrap()
        }

        fn git(&self, arguments: &[&str]) -> String {
            let mut command = Command::new("git");
            command.arg("-C").arg(self.path("")).args(["-c", "user.name=A", "-c", "user.email=a@b.c"]);
            command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
            let output = command.args(arguments).output().expect("the program git is installed");
            assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        }

        fn status(&self) -> String {
            self.git(&["status", "--porcelain", "-uall"])
        }

        fn open(&self) -> Git {
            Git::open_with_work_tree(&self.path("")).unwrap()
        }

        /// Commits contents, or removals, of paths.
        fn commit(&self, git: &Git, files: &[(&str, Option<&str>)]) -> Result<Option<Committed>, GitError> {
            let mut transaction = git.begin()?;
            let mut edit = TreeEdit::new();
            for (path, content) in files {
                match content {
                    None => edit.remove(path.as_bytes())?,
                    Some(content) => edit.set(path.as_bytes(), transaction.blob(content.as_bytes())?)?,
                }
            }
            transaction.commit(&who(), "Set", &edit)
        }

        #[track_caller]
        fn set(&self, files: &[(&str, Option<&str>)]) {
            self.commit(&self.open(), files).unwrap().expect("something changes");
        }

        /// Commits something that is refused, and says so of `path` for a reason.
        #[track_caller]
        fn refuses(&self, files: &[(&str, Option<&str>)], path: &str, fault: &str) {
            let state = || (self.git(&["rev-parse", "HEAD"]), self.status(), self.git(&["ls-files", "-s"]));
            let before = state();
            let error = self.commit(&self.open(), files).unwrap_err().to_string();
            assert!(error.contains(&format!("{path:?} ({fault})")), "{error}");
            assert_eq!(state(), before, "nothing changes");
        }
    }

    #[test]
    fn index_and_files_go_along_and_the_rest_stays_as_it_is() {
        let clone = Clone::new();
        clone.write("b", "edited");
        clone.write("untracked", "mine");
        clone.write("staged", "mine too");
        clone.git(&["add", "staged"]);
        fs::remove_file(clone.path("dir/c")).unwrap();
        let others = clone.status();
        clone.set(&[("a", Some("1")), ("new/deep/file", Some("2")), ("dir/d/e", None)]);
        assert_eq!(clone.status(), others);
        assert_eq!((clone.read("a"), clone.read("new/deep/file")), ("1".into(), "2".into()));
        assert!(!clone.path("dir").exists(), "the last file of a directory takes it along");
        clone.set(&[("new/deep/file", None)]);
        assert!(!clone.path("new").exists());
        assert_eq!(clone.status(), others);
        assert_eq!(clone.git(&["diff", "--cached", "--name-only"]), "staged\n");
        assert!(clone.git(&["reflog"]).lines().next().unwrap().contains("HEAD@{0}: commit: Set"));
        clone.git(&["gc", "-q", "--prune=now"]);
        assert_eq!(
            fs::read_dir(clone.path(".git/objects/pack"))
                .unwrap()
                .filter(|entry| {
                    entry.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "pack")
                })
                .count(),
            1,
            "git packs what was committed here"
        );
        clone.git(&["fsck", "--strict"]);
    }

    #[test]
    fn modes_and_kinds_change() {
        let clone = Clone::new();
        let git = clone.open();
        let mut transaction = git.begin().unwrap();
        let mut edit = TreeEdit::new();
        edit.remove(b"dir").unwrap();
        edit.remove(b"b").unwrap();
        for (path, mode) in [("a", Mode::Executable), ("dir", Mode::Link), ("b/below", Mode::File)] {
            let id = transaction.blob(b"/etc").unwrap();
            edit.set_node(path.as_bytes(), Node { mode, id }).unwrap();
        }
        transaction.commit(&who(), "Change", &edit).unwrap().unwrap();
        assert_eq!(clone.status(), "");
        assert_eq!(fs::metadata(clone.path("a")).unwrap().permissions().mode() & 0o111, 0o111);
        assert_eq!(fs::read_link(clone.path("dir")).unwrap(), Path::new("/etc"));
        assert_eq!(clone.read("b/below"), "/etc");
        clone.set(&[("a", Some("still"))]);
        assert_eq!(clone.status(), "", "an executable file stays one");
        clone.set(&[("dir", None), ("dir/c", Some("again")), ("b", None), ("b", Some("again"))]);
        assert_eq!(clone.status(), "");
        assert_eq!((clone.read("dir/c"), clone.read("b")), ("again".into(), "again".into()));
        assert!(!Path::new("/etc/c").exists());
    }

    #[test]
    fn what_was_edited_is_refused_by_name() {
        let clone = Clone::new();
        clone.write("a", "edited");
        clone.refuses(&[("a", Some("1")), ("c", Some("2"))], "a", "edited");
        clone.git(&["add", "a"]);
        clone.refuses(&[("a", Some("1"))], "a", "staged");
        clone.refuses(&[("a", None)], "a", "staged");
        clone.git(&["reset", "-q", "--hard"]);
        clone.write("new", "mine");
        clone.refuses(&[("new", Some("theirs"))], "new", "not known to git");
        clone.git(&["add", "-N", "new"]);
        clone.refuses(&[("new", Some("theirs"))], "new", "not merged");
        clone.git(&["reset", "-q", "--hard"]);
        fs::remove_file(clone.path("b")).unwrap();
        clone.refuses(&[("b", Some("1"))], "b", "removed");
        clone.refuses(&[("b", None)], "b", "removed");
        fs::create_dir(clone.path("b")).unwrap();
        clone.refuses(&[("b", Some("1"))], "b", "edited");
        fs::remove_dir(clone.path("b")).unwrap();
        clone.write("b", "two");
        fs::set_permissions(clone.path("b"), fs::Permissions::from_mode(0o755)).unwrap();
        clone.refuses(&[("b", Some("1"))], "b", "edited");
        clone.git(&["checkout", "-q", "b"]);
        clone.write("new", "same");
        clone.set(&[("new", Some("same"))]);
        assert_eq!(clone.status(), "", "what is there already is no edit");
    }

    #[test]
    fn nobody_waits_for_rules_that_are_pipes() {
        for name in [".gitattributes", "dir/.gitignore"] {
            let clone = Clone::new();
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, clone.path(name), FileType::Fifo, mode, 0).unwrap();
            let error = clone.commit(&clone.open(), &[("dir/d/e", Some("5"))]).unwrap_err();
            assert!(matches!(&error, GitError::NotPlain { path, .. } if path.ends_with(name)), "{error}");
        }
    }

    #[test]
    fn no_link_is_followed() {
        let clone = Clone::new();
        let outside = clone.dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("c"), "three").unwrap();
        fs::remove_dir_all(clone.path("dir")).unwrap();
        symlink(&outside, clone.path("dir")).unwrap();
        clone.refuses(&[("dir/c", Some("1"))], "dir", "a symbolic link");
        clone.refuses(&[("dir/c", None)], "dir", "a symbolic link");
        clone.refuses(&[("dir/new/x", Some("1"))], "dir", "a symbolic link");
        symlink(outside.join("made"), clone.path("link")).unwrap();
        clone.refuses(&[("link", Some("1"))], "link", "not known to git");
        fs::remove_file(clone.path("a")).unwrap();
        symlink(outside.join("c"), clone.path("a")).unwrap();
        clone.refuses(&[("a", Some("1"))], "a", "edited");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(outside.join("c")).unwrap(), "three");
    }

    #[test]
    fn content_is_converted_as_git_does_it() {
        let clone = Clone::new();
        clone.write(".gitattributes", "*.bat eol=crlf\n*.big filter=big\n*.kd ident\n");
        clone.git(&["add", "."]);
        clone.git(&["commit", "-q", "-m", "Convert"]);
        for content in ["1\n2\n", "1\n2\n3\n"] {
            clone.set(
                &[("x.bat", Some(content)), ("plain", Some(content)), ("x.kd", Some("$Id$\n"))]
                    [..2 + usize::from(content.len() == 4)],
            );
            assert_eq!(clone.read("x.bat"), content.replace('\n', "\r\n"));
            assert_eq!(clone.read("plain"), content);
            assert!(clone.read("x.kd").starts_with("$Id: "));
            assert_eq!(clone.status(), "");
        }
        clone.write("x.bat", "edited\r\n");
        clone.refuses(&[("x.bat", Some("4\n"))], "x.bat", "edited");
        clone.git(&["checkout", "-q", "x.bat"]);
        clone.set(&[("x.big", Some("a filter that is not configured is none"))]);
        clone.git(&["config", "filter.big.smudge", "tr a b"]);
        let error = clone.commit(&clone.open(), &[("y.big", Some("a"))]).unwrap_err();
        assert!(
            matches!(&error, GitError::Filter { path, filter } if path == "y.big" && filter == "filter=big")
        );
        assert_eq!(clone.status(), "");
    }

    #[test]
    fn what_a_sparse_checkout_leaves_out_stays_out() {
        let clone = Clone::new();
        clone.git(&["sparse-checkout", "set", "--no-cone", "/a"]);
        assert!(!clone.path("dir").exists());
        clone.set(&[("dir/c", Some("changed")), ("a", Some("1"))]);
        assert!(!clone.path("dir").exists());
        assert_eq!((clone.status().as_str(), clone.read("a").as_str()), ("", "1"));
        clone.set(&[("dir/d/e", None)]);
        clone.git(&["sparse-checkout", "disable"]);
        assert_eq!((clone.read("dir/c"), clone.status()), ("changed".into(), String::new()));
        assert!(!clone.path("dir/d").exists());

        clone.git(&["sparse-checkout", "set", "--cone", "--sparse-index", "new"]);
        let error = clone.commit(&clone.open(), &[("a", Some("2"))]).unwrap_err();
        assert!(error.to_string().contains("git sparse-checkout reapply --no-sparse-index"), "{error}");
        clone.git(&["sparse-checkout", "reapply", "--no-sparse-index"]);
        clone.set(&[("a", Some("2"))]);
        assert_eq!(clone.status(), "");
    }

    #[test]
    fn linked_working_trees_have_each_its_own_branch() {
        let clone = Clone::new();
        let linked = clone.dir.path().join("linked");
        clone.git(&["worktree", "add", "-q", "-b", "side", linked.to_str().unwrap()]);
        let git = Git::open_with_work_tree(&linked).unwrap();
        assert_eq!(git.branch(), "refs/heads/side");
        clone.commit(&git, &[("a", Some("side"))]).unwrap().unwrap();
        assert_eq!(fs::read_to_string(linked.join("a")).unwrap(), "side");
        assert_eq!((clone.read("a").as_str(), clone.status().as_str()), ("one", ""));
        assert_eq!(clone.git(&["-C", linked.to_str().unwrap(), "status", "--porcelain"]), "");
        clone.set(&[("a", Some("main"))]);

        clone.git(&["symbolic-ref", "HEAD", "refs/heads/side"]);
        for git in [&git, &clone.open()] {
            let error = clone.commit(git, &[("b", Some("1"))]).unwrap_err();
            assert!(matches!(&error, GitError::CheckedOut { .. }), "{error}");
        }
        clone.git(&["worktree", "remove", "--force", linked.to_str().unwrap()]);
        clone.git(&["reset", "-q", "--hard"]);
        clone.set(&[("b", Some("1"))]);
        clone.git(&["checkout", "-q", "--detach"]);
        let detached = Git::open_with_work_tree(&clone.path(""));
        assert!(matches!(detached, Err(GitError::DetachedClone(_))));
    }

    #[test]
    fn a_merge_that_is_not_done_is_left_alone() {
        let clone = Clone::new();
        clone.git(&["branch", "side"]);
        clone.set(&[("a", Some("1"))]);
        clone.git(&["checkout", "-q", "side"]);
        clone.set(&[("b", Some("2"))]);
        clone.git(&["merge", "-q", "--no-commit", "main"]);
        let error = clone.commit(&clone.open(), &[("c", Some("3"))]).unwrap_err();
        assert!(matches!(&error, GitError::UnderWay { what: "a merge", .. }), "{error}");
        clone.git(&["commit", "-q", "-m", "Merge"]);
        clone.set(&[("c", Some("3"))]);
        assert_eq!(clone.status(), "");
    }

    #[test]
    fn the_lock_of_a_living_git_is_waited_for() {
        let clone = Clone::new();
        let lock = clone.path(".git/index.lock");
        fs::write(&lock, "").unwrap();
        std::thread::scope(|scope| {
            let set = scope.spawn(|| clone.set(&[("a", Some("1"))]));
            while !clone.path(".git/treering/index-lock").exists() {
                std::thread::yield_now();
            }
            assert_eq!(clone.read("a"), "one");
            fs::remove_file(&lock).unwrap();
            set.join().unwrap();
        });
        assert_eq!(clone.status(), "");
        let left: Vec<_> = fs::read_dir(clone.path(".git/treering"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.ends_with(".lock") && name != "newest")
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// The state that a process leaves that is killed when it has brought everything along but has not moved the
    /// branch, or has only just.
    #[test]
    fn what_a_dead_process_began_is_ended_or_undone() {
        let files = [("a", Some("1")), ("b", None), ("new/file", Some("2")), ("x.bat", Some("3\n"))];
        for is_moved in [false, true] {
            let clone = Clone::new();
            clone.write(".gitattributes", "*.bat eol=crlf\n");
            clone.write("x.bat", "0\r\n");
            clone.git(&["add", "."]);
            clone.git(&["commit", "-q", "-m", "Convert"]);
            let old = clone.open().head().unwrap().unwrap();
            clone.set(&files);
            let new = clone.open().head().unwrap().unwrap();
            if is_moved {
                // As if it had only begun: the branch is new and everything else is old.
                clone.git(&["read-tree", "-u", "-m", &old.to_string()]);
            } else {
                clone.git(&["update-ref", "refs/heads/main", &old.to_string()]);
                // As if it had not come to the index.
                clone.git(&["read-tree", &old.to_string()]);
                clone.write(".treering-tmp-work-tree", "half");
                clone.write("new/.treering-tmp-work-tree", "half");
            }
            let private = clone.path(".git/treering");
            fs::write(private.join(JOURNAL), format!("{old}\n{new}\n")).unwrap();
            fs::write(private.join("index-lock"), "").unwrap();
            fs::hard_link(private.join("index-lock"), clone.path(".git/index.lock")).unwrap();
            assert!(
                Command::new("git")
                    .arg("-C")
                    .arg(clone.path(""))
                    .args(["add", "a"])
                    .output()
                    .unwrap()
                    .status
                    .code()
                    != Some(0)
            );
            clone.open();
            assert_eq!(clone.status(), "", "{is_moved}");
            assert_eq!(clone.read("a"), if is_moved { "1" } else { "one" });
            assert_eq!(clone.read("x.bat"), if is_moved { "3\r\n" } else { "0\r\n" });
            assert_eq!(clone.path("new/file").exists(), is_moved);
            assert_eq!(clone.path("new").exists(), is_moved);
            assert!(!private.join(JOURNAL).exists());
            clone.set(&[("c", Some("3"))]);
        }
    }

    #[test]
    fn what_was_edited_after_a_process_died_stays() {
        let clone = Clone::new();
        let old = clone.open().head().unwrap().unwrap();
        clone.set(&[("a", Some("1")), ("b", Some("2"))]);
        let new = clone.open().head().unwrap().unwrap();
        clone.git(&["update-ref", "refs/heads/main", &old.to_string()]);
        clone.write("a", "edited");
        fs::write(clone.path(".git/treering").join(JOURNAL), format!("{old}\n{new}\n")).unwrap();
        clone.open();
        assert_eq!((clone.read("a"), clone.read("b")), ("edited".into(), "two".into()));
        assert_eq!(clone.status(), "MM a\n");
    }

    /// An index that is written later must not make git believe what it would have looked at.
    #[test]
    fn an_edit_that_no_time_tells_is_still_seen() {
        let clone = Clone::new();
        clone.git(&["config", "core.trustctime", "false"]);
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
        let age =
            |path: &str| File::options().append(true).open(clone.path(path)).unwrap().set_modified(long_ago);
        clone.write("b", "ONE");
        age("b").unwrap();
        clone.git(&["commit", "-q", "-a", "-m", "Age"]);
        age(".git/index").unwrap();
        fs::write(clone.path("b"), "TWO").unwrap();
        age("b").unwrap();
        clone.set(&[("a", Some("1"))]);
        assert_eq!(clone.status(), " M b\n");
    }
}
