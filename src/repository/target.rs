//! What stands in the target of a restore: what is there of the wanted, and what is there beside it.

use std::cell::Cell;
use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::slice::from_ref;
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::FileType;

use crate::diff::pattern::{Meaning, PatternSet, Space};
use crate::diff::{
    Beneath, DirIndex, Entry, Failure, Found, Kind, NameAt, ReadOptions, ScanErrorKind, Stat, describe, fill,
};
use crate::progress::Progress;
use crate::relpath::RelPath;
use crate::repository::{Repository, RepositoryError};

/// Why something that the snapshot does not have was left in the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spared {
    /// A file system is mounted there that the backup did not enter: it may hold anything.
    Mount,
    /// The backup could not read what stood there.
    Unreadable,
}

/// What is in the target beside what is wanted.
pub(super) struct Extras<'a> {
    choice: &'a Choice,
    /// The directories that the backup entered, where something is mounted.
    entered: Box<dyn Fn(&RelPath) -> bool + 'a>,
    /// Whether the backup could not read what stood at a path.
    is_unreadable: Box<dyn Fn(&RelPath) -> bool + 'a>,
    spared: Vec<(RelPath, Spared)>,
    /// The mounts among it, which are few.
    not_entered: Vec<RelPath>,
    /// What cannot be listed.
    failures: Vec<Failure>,
}

/// What was found of a name that may be extra.
enum Verdict {
    /// It is wanted, or not chosen: neither it goes, nor any directory above it.
    Keep,
    Remove {
        is_dir: bool,
    },
    Spare(Spared),
    Fail(io::Error),
}

impl<'a> Extras<'a> {
    /// Of a snapshot whose backup went on below the mounts that `entered` says.
    pub fn new(
        choice: &'a Choice,
        entered: impl Fn(&RelPath) -> bool + 'a,
        is_unreadable: impl Fn(&RelPath) -> bool + 'a,
    ) -> Self {
        Self {
            choice,
            entered: Box::new(entered),
            is_unreadable: Box::new(is_unreadable),
            spared: Vec::new(),
            not_entered: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// What was spared, and what failed.
    pub fn into_parts(self) -> (Vec<(RelPath, Spared)>, Vec<Failure>) {
        (self.spared, self.failures)
    }

    fn spare(&mut self, path: RelPath, why: Spared) {
        if why == Spared::Mount {
            self.not_entered.push(path.clone());
        }
        self.spared.push((path, why));
    }

    fn fail(&mut self, path: RelPath, error: io::Error) {
        self.failures.push(Failure { path, source: error.into() });
    }

    /// Adds what stands in the wanted `directory` and is chosen but not wanted, and all below it, with nothing but
    /// its kind. A directory that holds something that stays, stays.
    fn list(
        &mut self,
        below: &Beneath,
        directory: &RelPath,
        stat: &Stat,
        wanted: &[Entry],
        entries: &mut Vec<Entry>,
        progress: &Progress,
    ) -> Result<(), RepositoryError> {
        // Nothing on a mount that the backup did not enter belongs to the backup, just like the mount itself.
        if self.not_entered.iter().any(|mount| directory.is_within(mount)) {
            return Ok(());
        }
        match below.is_mount(directory, stat) {
            Ok(true) if !(self.entered)(directory) => {
                self.spare(directory.clone(), Spared::Mount);
                return Ok(());
            }
            Ok(_) => {}
            Err(error) => {
                self.fail(directory.clone(), error);
                return Ok(());
            }
        }
        let mut todo = match below.list(directory) {
            Ok(names) => names,
            Err(error) => {
                self.fail(directory.clone(), error);
                return Ok(());
            }
        };
        let mut listed = Vec::new();
        while let Some(path) = todo.pop() {
            progress.check()?;
            let verdict = self.judge(below, &path, wanted, &mut todo);
            listed.extend(verdict.map(|verdict| (path, verdict)));
        }
        let mut kept: Option<RelPath> = None;
        // Backwards, so that what a directory holds comes before it.
        for (path, verdict) in listed.into_iter().rev() {
            match verdict {
                Verdict::Remove { is_dir } if !kept.as_ref().is_some_and(|kept| kept.is_within(&path)) => {
                    let kind = if is_dir { Kind::Directory } else { Kind::Fifo };
                    entries.push(Entry { path, kind, meta: Default::default() });
                    continue;
                }
                Verdict::Remove { .. } | Verdict::Keep => {}
                Verdict::Spare(why) => self.spare(path.clone(), why),
                Verdict::Fail(error) => self.fail(path.clone(), error),
            }
            kept = Some(path);
        }
        Ok(())
    }

    /// Says what becomes of `path`, and adds what it holds to `todo` if that may be removed; `None` where it is gone.
    fn judge(
        &self,
        below: &Beneath,
        path: &RelPath,
        wanted: &[Entry],
        todo: &mut Vec<RelPath>,
    ) -> Option<Verdict> {
        if wanted.binary_search_by(|entry| entry.path.cmp(path)).is_ok() {
            // What it holds is listed when that is looked at.
            return Some(Verdict::Keep);
        }
        let judged = below.look(path).and_then(|stat| {
            let Some(stat) = stat else { return Ok(None) };
            let is_dir = stat.file_type() == FileType::Directory;
            if (self.is_unreadable)(path) {
                return Ok(Some(Verdict::Spare(Spared::Unreadable)));
            }
            if below.is_mount(path, &stat)? {
                return Ok(Some(Verdict::Spare(Spared::Mount)));
            }
            if is_dir {
                todo.extend(below.list(path)?);
            }
            let is_chosen = self.choice.has(path, is_dir);
            Ok(Some(if is_chosen { Verdict::Remove { is_dir } } else { Verdict::Keep }))
        });
        judged.unwrap_or_else(|error| Some(Verdict::Fail(error)))
    }
}

/// The state of those paths of `target` that `wanted` has, content included; with `extras` also the names of what
/// is next to them and is to be removed. Also returns the paths whose attributes could not all be read.
pub(super) fn look_at(
    repository: &Repository,
    target: &Path,
    wanted: &[Entry],
    mut extras: Option<&mut Extras<'_>>,
    progress: &Progress,
) -> Result<(DirIndex, HashSet<RelPath>), RepositoryError> {
    let below = match Beneath::open(target) {
        Ok(below) => below,
        // What is not there holds nothing; what is no directory fails when something is put there.
        Err(_) => return Ok(Default::default()),
    };
    let (mut entries, mut hidden) = (Vec::new(), HashSet::new());
    let mut reach = Reach { below: &below, current: None, blocked: None };
    for entry in wanted {
        progress.check()?;
        let Some(directory) = reach.enter(&entry.path.parent().unwrap_or_default()) else { continue };
        // What cannot be looked at is as good as not there: putting something there tells what is wrong.
        let Ok(Some(stat)) = below.look(&entry.path) else { continue };
        if stat.file_type() == FileType::Directory
            && let Some(extras) = &mut extras
        {
            extras.list(&below, &entry.path, &stat, wanted, &mut entries, progress)?;
        }
        let found = Found { path: entry.path.clone(), stat, is_mount: false };
        let located = target.join(entry.path.as_path());
        let place = NameAt::new((*directory).as_fd(), entry.path.name(), &located);
        // What cannot be read is as good as not there: it is made anew.
        if let Ok((described, fault)) = describe(&place, found, SystemTime::UNIX_EPOCH) {
            hidden.extend(fault.map(|_| entry.path.clone()));
            entries.push(described);
        }
    }
    entries.sort_by(|a: &Entry, b: &Entry| a.path.cmp(&b.path));
    let read = ReadOptions::new(repository.config().segments, SystemTime::UNIX_EPOCH);
    let problems = fill(
        &mut entries,
        &below.source(target),
        &read,
        &Progress::new(),
        |_, _| (),
        |_, _, ()| Ok::<_, RepositoryError>(progress.check()?),
    )?;
    for problem in problems.iter().filter(|problem| matches!(problem.source, ScanErrorKind::Attributes(_))) {
        let path = problem.path.strip_prefix(target).ok();
        hidden.extend(path.and_then(|path| RelPath::new(path.as_os_str().as_bytes()).ok()));
    }
    Ok((DirIndex { entries, ..DirIndex::default() }, hidden))
}

/// Which directories of the target can be reached without following a link, asked for in path order.
struct Reach<'a> {
    below: &'a Beneath,
    /// The one that was asked for last.
    current: Option<(RelPath, Arc<OwnedFd>)>,
    /// The last one that is not there or is no directory.
    blocked: Option<RelPath>,
}

impl Reach<'_> {
    fn enter(&mut self, directory: &RelPath) -> Option<Arc<OwnedFd>> {
        if self.blocked.as_ref().is_some_and(|blocked| directory.is_within(blocked)) {
            return None;
        }
        if let Some((path, opened)) = &self.current
            && path == directory
        {
            return Some(opened.clone());
        }
        let opened = self.below.directory(directory).ok();
        match &opened {
            Some(opened) => self.current = Some((directory.clone(), opened.clone())),
            None => self.blocked = Some(directory.clone()),
        }
        opened
    }
}

/// The pattern, as it was given, by which `patterns` match `path`.
fn find<'a>(patterns: &'a PatternSet, path: &RelPath, is_dir: bool) -> Option<&'a str> {
    let decision = patterns.matched_within(path.as_path(), is_dir)?;
    decision.is_match.then_some(decision.given)
}

/// What the patterns ask for.
pub(super) struct Choice {
    /// Where there are none, everything is included; patterns that lead elsewhere include nothing.
    include: Option<PatternSet>,
    exclude: PatternSet,
    /// Patterns of `include`, each by itself, and whether it was the one that matched something.
    asked: Vec<Asked>,
    spaces: Vec<Space>,
    /// The repository itself, which is neither written nor removed.
    own: Option<RelPath>,
}

struct Asked {
    meaning: Meaning,
    alone: PatternSet,
    is_met: Cell<bool>,
}

impl Choice {
    /// By patterns for paths that lie in `spaces`.
    pub fn new(
        spaces: &[Space],
        include: &[Meaning],
        exclude: &[Meaning],
        own: Option<RelPath>,
    ) -> Result<Self, RepositoryError> {
        let set = |patterns: &[Meaning]| PatternSet::new(Path::new(""), spaces, patterns);
        let asked = include.iter().filter(|pattern| !pattern.is_negated()).map(|pattern| {
            Ok::<_, RepositoryError>(Asked {
                meaning: pattern.clone(),
                alone: set(from_ref(pattern))?,
                is_met: Cell::new(false),
            })
        });
        Ok(Self {
            asked: asked.collect::<Result<_, _>>()?,
            include: if include.is_empty() { None } else { Some(set(include)?) },
            exclude: set(exclude)?,
            spaces: spaces.to_vec(),
            own,
        })
    }

    fn has(&self, path: &RelPath, is_dir: bool) -> bool {
        let is_included = || {
            let Some(include) = &self.include else { return true };
            let given = find(include, path, is_dir);
            if let Some(asked) = self.asked.iter().find(|asked| Some(asked.meaning.given()) == given) {
                asked.is_met.set(true);
            }
            given.is_some()
        };
        let is_own = self.own.as_ref().is_some_and(|own| path.is_within(own));
        path.is_root() || (!is_own && is_included() && find(&self.exclude, path, is_dir).is_none())
    }

    /// Of places that nobody could look at, each with whether it is known to be a directory, those that they ask for, or
    /// for something below. To be asked when all that is known was looked at: a name that was found need not be there too.
    pub fn asked_of(&self, places: Vec<(bool, RelPath)>) -> Vec<RelPath> {
        let is_asked_for = |path: &RelPath| self.has(path, true) || self.has(path, false);
        let asked: Vec<_> = places.iter().map(|(_, path)| is_asked_for(path)).collect();
        let places = places.into_iter().zip(asked);
        let wanted =
            places.filter(|((is_dir, path), is_asked)| *is_asked || self.may_ask_below(path, *is_dir));
        wanted.map(|((_, path), _)| path).collect()
    }

    fn may_ask_below(&self, path: &RelPath, is_dir: bool) -> bool {
        let asks = |asked: &Asked| match asked.meaning.is_name() {
            true => is_dir && (asked.meaning.is_search() || !asked.is_met.get()),
            false => asked.meaning.leads_through(&self.spaces, path.as_path()),
        };
        self.asked.iter().any(asks) && find(&self.exclude, path, true).is_none()
    }

    /// The patterns of what is included that have matched nothing so far.
    pub fn unmet(&self) -> Vec<String> {
        let unmet = self.asked.iter().filter(|asked| !asked.is_met.get());
        unmet.map(|asked| asked.meaning.given().to_owned()).collect()
    }

    /// Looks whether patterns that were never the last to match match any of `entries` all the same.
    fn note_others(&self, entries: &[Entry]) {
        for asked in self.asked.iter().filter(|asked| !asked.is_met.get()) {
            let is_match = |entry: &Entry| {
                let is_dir = matches!(entry.kind, Kind::Directory);
                find(&asked.alone, &entry.path, is_dir).is_some()
            };
            asked.is_met.set(entries.iter().any(is_match));
        }
    }

    /// Leaves what the patterns ask for, and the directories above it. Returns those directories that the patterns do
    /// not ask for themselves: where they are there already, nothing about them is to be changed.
    pub fn select(&self, entries: &mut Vec<Entry>) -> HashSet<RelPath> {
        let has = |entry: &Entry| self.has(&entry.path, matches!(entry.kind, Kind::Directory));
        if self.include.is_none() {
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
        self.note_others(entries);
        entries.retain(|entry| kept.contains(&entry.path));
        kept.retain(|path| {
            let at = entries.binary_search_by(|entry| entry.path.cmp(path));
            path.is_root() || at.is_ok_and(|at| !has(&entries[at]))
        });
        kept
    }
}
