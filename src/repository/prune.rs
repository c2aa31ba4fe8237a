//! Removing what no snapshot needs.
//!
//! Snapshots are removed by [`forget`](Repository::forget), which takes their records away and nothing else.
//! [`plan_prune`](Repository::plan_prune) says what is then needed by none, and [`prune`](Repository::prune)
//! removes it, in this order:
//!
//! 1. A commit without parents, with what is needed. Everything before it is history, and goes.
//! 2. Layers in which nothing is live are deleted. This frees space before any is needed.
//! 3. While too much of what is left is waste, the layers that waste most are rewritten, some at a time:
//!    needed members of partly needed volumes go into new volumes, everything else is copied as it lies; a
//!    new commit names the new volumes; the old layers are deleted.
//!
//! After each step the repository is whole, so a process may be killed at any instant, and the next prune goes
//! on from there. Space is needed for the commit, and then for one step at a time: the layer that is written. A step takes no more
//! layers than there is room for; where there is none for a single one, the error says how much it takes.
//!
//! What is garbage follows from the tree alone, never from a clock. Whoever prunes is alone: it waits for
//! backups, and they wait for it. Other directories of the tree, other references, and layers that are not
//! here are left alone. Of remotes a trace stays, by which a later push or pull knows what was seen there.

use std::collections::{BTreeSet, HashSet};
use std::str::FromStr;

use jiff::Timestamp;

use crate::causes::is_disk_full;
use crate::format::kind;
use crate::gitkv::{Alone, Commit, Git, GitError, LayerUse, Mode, Person, RemoteReferences, Swept, Trace};
use crate::layers::{LayerError, LayerInfo, ObjectId};
use crate::progress::Progress;
use crate::repository::needs::Needs;
use crate::repository::{Repository, RepositoryError};
use crate::spoken::parse_size;
use crate::timeline::{Batch, TimeKey, TimelineError};

/// Bytes of live objects that are copied in one step, unless a single layer has more.
const STEP: u64 = 128 << 20;

/// Bytes that a step needs beside the objects that it copies: for trees, a commit and indexes.
const ROOM_FOR_COMMIT: u64 = 256 << 10;

/// A layer that wastes fewer bytes is left as it is: this is what a commit takes that is there twice.
const TRIFLE: u64 = 1024;

/// The bytes of a pack that belong to no object.
const PACK_FRAME: u64 = 32;

/// How much of a repository may stay waste.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MaxUnused {
    /// So many percent of what it has afterwards.
    Percent(f64),
    /// So many bytes.
    Bytes(u64),
    /// Any amount: nothing is rewritten.
    Unlimited,
}

impl Default for MaxUnused {
    /// Five percent, as restic has it.
    fn default() -> Self {
        Self::Percent(5.0)
    }
}

/// Text that is no limit on waste.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no limit on unused space: give a percentage below 100 as 5%, a size as 200M, or unlimited")]
pub struct ParseMaxUnusedError(String);

impl FromStr for MaxUnused {
    type Err = ParseMaxUnusedError;

    /// Reads `5%`, `0`, `200M` (units of 1024: `K`, `M`, `G`, `T`) or `unlimited`.
    fn from_str(text: &str) -> Result<Self, ParseMaxUnusedError> {
        let wrong = || ParseMaxUnusedError(text.to_owned());
        if text == "unlimited" {
            return Ok(Self::Unlimited);
        }
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.parse().map_err(|_| wrong())?;
            return if (0.0..100.0).contains(&percent) { Ok(Self::Percent(percent)) } else { Err(wrong()) };
        }
        parse_size(&text.to_ascii_uppercase()).map(Self::Bytes).ok_or_else(wrong)
    }
}

impl MaxUnused {
    /// How many bytes may be waste beside `live` ones.
    fn beside(self, live: u64) -> u64 {
        match self {
            Self::Percent(percent) => (live as f64 * percent / (100.0 - percent)) as u64,
            Self::Bytes(bytes) => bytes,
            Self::Unlimited => u64::MAX,
        }
    }
}

/// How a repository is pruned.
#[derive(Debug, Clone)]
pub struct PruneOptions {
    /// The time that commits and new volumes bear.
    pub time: Timestamp,
    /// The user who commits.
    pub user: String,
    /// The host where that is.
    pub host: String,
    /// How much may stay waste.
    pub max_unused: MaxUnused,
    /// Threads that read and compress.
    pub threads: usize,
}

impl PruneOptions {
    /// As of now, by nobody in particular.
    pub fn new(time: Timestamp) -> Self {
        Self {
            time,
            user: "treering".into(),
            host: "localhost".into(),
            max_unused: MaxUnused::default(),
            threads: std::thread::available_parallelism().map_or(1, Into::into),
        }
    }
}

/// What pruning would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PrunePlan {
    /// Snapshots, all of which stay.
    pub snapshots: u64,
    /// Blobs in the tree that nothing needs, volumes among them.
    pub blobs_unneeded: u64,
    /// Volumes there are.
    pub volumes: u64,
    /// Volumes that nothing needs.
    pub volumes_unneeded: u64,
    /// Volumes of which only a part is needed, and which would be written anew.
    pub volumes_repacked: u64,
    /// Layers that are here.
    pub layers: u64,
    /// Layers of which nothing is needed.
    pub layers_unneeded: u64,
    /// Layers that would be rewritten.
    pub layers_rewritten: u64,
    /// Bytes of the layers that are here.
    pub bytes: u64,
    /// Bytes that would be freed, about.
    pub bytes_freed: u64,
    /// Bytes that would be copied for that, about.
    pub bytes_copied: u64,
    /// Bytes that would stay though nothing needs them, about.
    pub bytes_unused: u64,
}

impl PrunePlan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.blobs_unneeded == 0 && self.layers_unneeded == 0 && self.layers_rewritten == 0
    }
}

/// What pruning did.
#[derive(Debug, Clone, Default)]
pub struct PruneReport {
    /// What was to be done.
    pub plan: PrunePlan,
    /// Layers that were removed.
    pub layers_removed: u64,
    /// Layers that were written and are there now.
    pub layers: Vec<LayerInfo>,
    /// Volumes that were written.
    pub volumes_written: u64,
    /// Bytes that the layers have now.
    pub bytes: u64,
    /// Bytes by which they are fewer than before.
    pub bytes_freed: u64,
    /// What dead processes had left, and was removed first.
    pub swept: Swept,
}

/// A prune under way.
pub(super) struct Pruning<'a> {
    pub repository: &'a Repository,
    pub alone: Alone<'a>,
    pub options: &'a PruneOptions,
    pub needs: Needs,
    pub who: Person,
    pub message: String,
    pub progress: &'a Progress,
    pub report: PruneReport,
}

impl Repository {
    /// What [`prune`](Self::prune) would do now if the snapshots of the keys `without` were gone.
    pub fn plan_prune(
        &self,
        options: &PruneOptions,
        without: &HashSet<TimeKey>,
        progress: &Progress,
    ) -> Result<PrunePlan, RepositoryError> {
        self.expect_removable()?;
        let _hold = self.hold()?;
        self.expect_indexes()?;
        self.expect_newest()?;
        let needs = Needs::find(self, without, options.threads, progress)?;
        self.plan_with(&needs, options)
    }

    /// Removes what no snapshot needs.
    ///
    /// Waits some seconds for whoever writes, then fails with [`RepositoryError::Locked`]. Where anything that
    /// a snapshot needs is damaged or missing, nothing is removed.
    pub fn prune(&self, options: &PruneOptions, progress: &Progress) -> Result<PruneReport, RepositoryError> {
        self.expect_removable()?;
        let _reserve = self.give_up_reserve();
        let git = self.timeline.git();
        let alone = git.alone().map_err(TimelineError::from)?;
        let swept = alone.sweep().map_err(TimelineError::from)?;
        self.expect_indexes()?;
        self.expect_newest()?;
        let needs = Needs::find(self, &HashSet::new(), options.threads, progress)?;
        let plan = self.plan_with(&needs, options)?;
        let report = PruneReport { plan, bytes: plan.bytes, swept, ..PruneReport::default() };
        if plan.is_empty() {
            git.sync_branch().map_err(TimelineError::from)?;
            return Ok(report);
        }
        progress.total_bytes.add(plan.bytes_copied);
        let before = git.head().map_err(TimelineError::from)?;
        let message = match before {
            Some(before) => Commit::message_of_replacing("Prune", &before),
            None => "Prune\n".to_owned(),
        };
        let who = self.committer(&options.user, &options.host, options.time);
        let mut pruning = Pruning { repository: self, alone, options, needs, who, message, progress, report };
        let (live, volumes) = pruning.begin_anew()?;
        if let Err(error) = pruning.rewrite_wasteful(live, volumes) {
            // A step that failed may have made some of its layers.
            let _ = pruning.alone.sweep();
            return Err(error);
        }
        pruning.finish()
    }

    /// How many bytes there is room for.
    fn room(&self) -> u64 {
        // Where that cannot be known, writing tells.
        rustix::fs::statvfs(self.path()).map_or(u64::MAX, |room| room.f_bavail.saturating_mul(room.f_frsize))
    }

    /// Fails where the index of a pack that is here cannot be read: nobody knows then what the pack holds.
    fn expect_indexes(&self) -> Result<(), RepositoryError> {
        let layers = self.timeline.git().refresh().map_err(TimelineError::from)?;
        let is_of_pack = |fault: &&LayerError| match fault {
            LayerError::Index { path, .. } => path.with_extension("pack").exists(),
            _ => false,
        };
        match layers.faults().iter().find(is_of_pack) {
            Some(fault) => Err(RepositoryError::UnknownPack { fault: fault.to_string() }),
            None => Ok(()),
        }
    }

    /// The ids of all volumes.
    pub(super) fn volume_ids(&self) -> Result<HashSet<ObjectId>, RepositoryError> {
        let blobs = self.blobs_of(kind::ARCHIVES)?.into_iter();
        Ok(blobs.filter(|blob| blob.suffix.contains(".tar")).map(|blob| blob.id).collect())
    }

    fn plan_with(&self, needs: &Needs, options: &PruneOptions) -> Result<PrunePlan, RepositoryError> {
        let dead: HashSet<&str> = needs.dead.iter().map(|(path, _)| path.as_str()).collect();
        let live = self.live(&dead)?;
        let git = self.timeline.git();
        let uses =
            git.layer_uses(&live, &self.volume_ids()?, &HashSet::new()).map_err(TimelineError::from)?;
        let here = uses.iter().filter(|used| used.pack_bytes.is_some());
        let mut plan = PrunePlan {
            snapshots: needs.snapshots,
            blobs_unneeded: needs.dead.len() as u64,
            volumes: needs.segments.volumes().len() as u64,
            volumes_unneeded: needs.dead_volumes,
            layers: here.clone().count() as u64,
            bytes: here.clone().filter_map(|used| used.pack_bytes).sum(),
            ..PrunePlan::default()
        };
        for used in here.filter(|used| used.live.is_empty()) {
            plan.layers_unneeded += 1;
            plan.bytes_freed += used.pack_bytes.unwrap_or(0);
        }
        let sizes = needs.sizes(&uses);
        let chosen = choose(&sizes, options.max_unused);
        for &at in &chosen {
            let (all, live) = sizes[at];
            plan.layers_rewritten += 1;
            plan.bytes_freed += all - live;
            plan.bytes_copied += live;
            let partial = |(id, _): &&(ObjectId, _)| needs.partial.contains_key(id);
            plan.volumes_repacked += uses[at].live.iter().filter(partial).count() as u64;
        }
        let waste: u64 = sizes.iter().map(|(all, live)| all - live).sum();
        let removed: u64 = chosen.iter().map(|&at| sizes[at].0 - sizes[at].1).sum();
        plan.bytes_unused = waste - removed;
        Ok(plan)
    }

    /// All objects that are to stay when the blobs at the paths `dead` are gone and the branch has no history:
    /// what its tree and other references need, and what git needs to know of commits that others may have.
    pub(super) fn live(&self, dead: &HashSet<&str>) -> Result<HashSet<ObjectId>, RepositoryError> {
        let git = self.timeline.git();
        let find = || {
            let references = git.seen_of_remotes()?;
            let branch = git.branch();
            let others = references.others.iter().filter(|(name, _)| name != branch);
            let mut live = git.reachable(others.map(|(_, id)| (*id, Mode::Module)).collect())?;
            for (remote, id) in &references.traces {
                // No blob lives for its trace: each step of a prune writes the traces anew, without those that
                // it takes away.
                live.extend(git.commit_and_trees(id)?);
                live.insert(Trace::gone());
                if let Some(trace) = git.trace(remote)? {
                    live.extend(git.remains(&trace.commit)?);
                }
            }
            if let Some(head) = git.head()? {
                live.extend(git.commit_and_trees(&head)?);
                if let Some(before) = git.read_commit(&git.root_of(&head)?)?.replaced() {
                    live.extend(git.remains(&before)?);
                }
                live.extend(live_blobs(git, &head, dead)?);
            }
            Ok::<_, GitError>(live)
        };
        Ok(find().map_err(TimelineError::from)?)
    }
}

/// The blobs in the tree of the commit `head` but for those at the paths `dead`, which are all directly in directories of
/// days.
///
/// Each tree is looked at once, however many paths lead to it: a small tree can have more paths than anybody could walk.
/// What stands elsewhere than a blob of ours should is live, and so is all in a tree that stands in two places.
fn live_blobs(git: &Git, head: &ObjectId, dead: &HashSet<&str>) -> Result<HashSet<ObjectId>, GitError> {
    // Kind, year, month and day.
    const LEVELS: usize = 4;
    let mut live = HashSet::new();
    let mut elsewhere = Vec::new();
    let mut seen = HashSet::new();
    let root = git.read_commit(head)?.tree;
    let mut to_do = vec![(root, String::new(), 0)];
    while let Some((id, above, level)) = to_do.pop() {
        if !seen.insert(id) {
            elsewhere.push((id, Mode::Directory));
            continue;
        }
        for entry in git.read_tree(&id)?.entries().filter(|entry| entry.mode != Mode::Module) {
            let path = std::str::from_utf8(entry.name).ok().map(|name| format!("{above}{name}"));
            match (entry.mode, path) {
                (Mode::Directory, Some(path)) if level < LEVELS => {
                    let is_ours = level > 0 || kind::ALL.contains(&path.as_str());
                    match is_ours {
                        true => to_do.push((entry.id, format!("{path}/"), level + 1)),
                        false => elsewhere.push((entry.id, Mode::Directory)),
                    }
                }
                (Mode::Directory, _) => elsewhere.push((entry.id, Mode::Directory)),
                (_, Some(path)) if dead.contains(path.as_str()) => {}
                _ => drop(live.insert(entry.id)),
            }
        }
    }
    live.extend(git.reachable(elsewhere)?);
    Ok(live)
}

/// Writes a trace of each remote, in which no blob is but those of `live`.
pub(super) fn write_traces(
    references: &RemoteReferences,
    batch: &mut Batch<'_>,
    live: &HashSet<ObjectId>,
    who: &Person,
) -> Result<Vec<(String, ObjectId)>, RepositoryError> {
    let mut traces = Vec::new();
    for (remote, seen) in &references.seen {
        traces.push((remote.clone(), batch.trace(seen, live, who)?));
    }
    // What was seen since counts, not an older trace.
    let is_old = |(remote, _): &&(String, ObjectId)| !references.seen.iter().any(|(new, _)| new == remote);
    for (remote, trace) in references.traces.iter().filter(is_old) {
        traces.push((remote.clone(), batch.trace(trace, live, who)?));
    }
    Ok(traces)
}

/// Lets traces that were written, and are durable, take the place of what was seen.
pub(super) fn set_traces(git: &Git, traces: &[(String, ObjectId)]) -> Result<(), RepositoryError> {
    let set = traces.iter().try_for_each(|(remote, trace)| git.set_trace(remote, trace));
    Ok(set.map_err(TimelineError::from)?)
}

/// What git needs of commits that others may have.
fn remains(git: &Git, references: &RemoteReferences) -> Result<BTreeSet<ObjectId>, GitError> {
    let mut commits: Vec<ObjectId> = git.head()?.into_iter().collect();
    commits.extend(references.seen.iter().map(|(_, seen)| *seen));
    for (remote, _) in &references.traces {
        commits.extend(git.trace(remote)?.map(|trace| trace.commit));
    }
    let mut remains = BTreeSet::new();
    for commit in &commits {
        remains.extend(git.remains(commit)?);
    }
    Ok(remains)
}

impl Pruning<'_> {
    /// Writes the commit without parents that holds what is needed, and drops what then is dead. Returns what
    /// is live, and the volumes.
    fn begin_anew(&mut self) -> Result<(HashSet<ObjectId>, HashSet<ObjectId>), RepositoryError> {
        let Self { repository, needs, who, .. } = self;
        let git = repository.timeline.git();
        let dead: HashSet<&str> = needs.dead.iter().map(|(path, _)| path.as_str()).collect();
        let live = repository.live(&dead)?;
        let mut batch = repository.timeline.begin_alone(&self.alone)?;
        for (path, _) in &needs.dead {
            batch.remove(path)?;
        }
        let references = git.seen_of_remotes().map_err(TimelineError::from)?;
        let traces = write_traces(&references, &mut batch, &live, who)?;
        // Out of the layers that hold so much else.
        let remains = remains(git, &references).map_err(TimelineError::from)?;
        remains.iter().try_for_each(|id| batch.copy(id))?;
        let committed = batch.commit_root(who, &self.message)?;
        self.report.layers.extend(committed.layers);
        set_traces(git, &traces)?;
        let fetched = references.fetched.iter().try_for_each(|name| git.remove_reference(name));
        fetched.map_err(TimelineError::from)?;
        self.collect(&HashSet::new())
    }

    /// Rewrites the most wasteful layers until little enough is waste. `live` is what is live before, and `volumes` those
    /// there are.
    fn rewrite_wasteful(
        &mut self,
        mut live: HashSet<ObjectId>,
        mut volumes: HashSet<ObjectId>,
    ) -> Result<(), RepositoryError> {
        let git = self.repository.timeline.git();
        // Each step makes what it rewrites dense; the bound is only for what nobody thought of.
        let most = git.layers().layers().len() + self.needs.partial.len() + 8;
        for _ in 0..most {
            self.progress.check()?;
            let uses = git.layer_uses(&live, &volumes, &HashSet::new()).map_err(TimelineError::from)?;
            let sizes = self.needs.sizes(&uses);
            let room = self.repository.room().saturating_sub(ROOM_FOR_COMMIT);
            let mut chosen = choose(&sizes, self.options.max_unused);
            // What has room goes first, and gives room to the rest.
            chosen.sort_by_key(|&at| sizes[at].1 > room);
            let mut bytes = 0;
            let within = |&at: &usize| {
                let is_within = bytes == 0 || bytes + sizes[at].1 <= STEP.min(room);
                bytes += if is_within { sizes[at].1.max(1) } else { 0 };
                is_within
            };
            let group: Vec<&LayerUse> = chosen.into_iter().take_while(within).map(|at| &uses[at]).collect();
            if group.is_empty() {
                break;
            }
            self.rewrite(&group, &volumes).map_err(|error| match is_disk_full(&error) {
                true => RepositoryError::NoRoom { needed: bytes + ROOM_FOR_COMMIT, source: Box::new(error) },
                false => error,
            })?;
            (live, volumes) = self.collect(&group.iter().map(|used| used.name.clone()).collect())?;
        }
        Ok(())
    }

    /// Deletes what is dead, and returns what is live, and the volumes; the layers called `copied` hold nothing that
    /// others do not hold too.
    fn collect(
        &mut self,
        copied: &HashSet<String>,
    ) -> Result<(HashSet<ObjectId>, HashSet<ObjectId>), RepositoryError> {
        let live = self.repository.live(&HashSet::new())?;
        let volumes = self.repository.volume_ids()?;
        let collected = self.alone.collect(&live, &volumes, copied).map_err(TimelineError::from)?;
        self.report.layers_removed += collected.layers;
        Ok((live, volumes))
    }

    fn finish(mut self) -> Result<PruneReport, RepositoryError> {
        let layers = self.repository.timeline.git().refresh().map_err(TimelineError::from)?;
        let names: HashSet<&str> = layers.layers().map(|layer| layer.name()).collect();
        self.report.layers.retain(|layer| names.contains(layer.name.as_str()));
        self.report.bytes = layers.pack_bytes();
        self.report.bytes_freed = self.report.plan.bytes.saturating_sub(self.report.bytes);
        self.repository.forget_own_of_old()?;
        Ok(self.report)
    }
}

impl Needs {
    /// The bytes of each layer that its objects take, and how many of these would be left if it were
    /// rewritten. Nothing for layers that are not here, or of which nothing is live.
    fn sizes(&self, uses: &[LayerUse]) -> Vec<(u64, u64)> {
        let size = |used: &LayerUse| match used.pack_bytes {
            Some(bytes) if !used.live.is_empty() => {
                let all = bytes.saturating_sub(PACK_FRAME);
                let live = used.live.iter().map(|(id, range)| {
                    let bytes = range.end - range.start;
                    self.partial.get(id).map_or(bytes, |partial| partial.needed_of(bytes))
                });
                (all, live.sum::<u64>().min(all))
            }
            _ => (0, 0),
        };
        uses.iter().map(size).collect()
    }
}

/// The numbers of the layers to rewrite, those that waste the greatest part of themselves first, so that of
/// all of them no more is waste than allowed. `sizes` has their bytes, and how many of them are live.
fn choose(sizes: &[(u64, u64)], max_unused: MaxUnused) -> Vec<usize> {
    let live: u64 = sizes.iter().map(|(_, live)| live).sum();
    let mut waste: u64 = sizes.iter().map(|(all, live)| all - live).sum();
    let allowed = max_unused.beside(live);
    let mut order: Vec<usize> = (0..sizes.len()).filter(|&at| sizes[at].0 - sizes[at].1 > TRIFLE).collect();
    let wasted = |at: usize| (sizes[at].0 - sizes[at].1) as f64 / sizes[at].0.max(1) as f64;
    order.sort_by(|&one, &other| wasted(other).total_cmp(&wasted(one)).then(one.cmp(&other)));
    let is_needed = |at: &usize| {
        let is_needed = waste > allowed;
        waste -= sizes[*at].0 - sizes[*at].1;
        is_needed
    };
    order.into_iter().take_while(is_needed).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn limits_are_read_and_nonsense_is_not() {
        let parse = |text: &str| text.parse::<MaxUnused>();
        assert_eq!(parse("5%"), Ok(MaxUnused::Percent(5.0)));
        assert_eq!(parse("0"), Ok(MaxUnused::Bytes(0)));
        assert_eq!(parse("200M"), Ok(MaxUnused::Bytes(200 << 20)));
        assert_eq!(parse("1k"), Ok(MaxUnused::Bytes(1024)));
        assert_eq!(parse("unlimited"), Ok(MaxUnused::Unlimited));
        for text in ["", "%", "100%", "-1%", "nan%", "5 %", "x", "99999999999T", "-1", "1é"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_most_wasteful_go_first_and_no_more_than_needed() {
        let kib = |all: u64, live: u64| (all << 10, live << 10);
        let sizes = [kib(100, 99), kib(100, 10), kib(100, 50), kib(100, 100), (0, 0)];
        assert_eq!(choose(&sizes, MaxUnused::Bytes(0)), [1, 2], "a trifle is left");
        assert_eq!(choose(&sizes, MaxUnused::Bytes(60 << 10)), [1]);
        assert_eq!(choose(&sizes, MaxUnused::Percent(50.0)), [0usize; 0]);
        assert_eq!(choose(&sizes, MaxUnused::Unlimited), [0usize; 0]);
    }

    proptest! {
        #[test]
        fn what_is_left_is_within_the_limit_but_for_trifles(layers in prop::collection::vec((0u64..1 << 20, 0u64..1 << 20), 0..30), limit in 0u64..1 << 22) {
            let sizes: Vec<_> = layers.into_iter().map(|(live, waste)| (live + waste, live)).collect();
            let chosen = choose(&sizes, MaxUnused::Bytes(limit));
            let left = (0..sizes.len()).filter(|at| !chosen.contains(at)).map(|at| sizes[at].0 - sizes[at].1);
            prop_assert!(left.filter(|waste| *waste > TRIFLE).sum::<u64>() <= limit);
        }
    }
}
