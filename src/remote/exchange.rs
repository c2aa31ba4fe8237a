//! Pulling and pushing.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::cbor;
use crate::config::{Config, MAX_CONFIG};
use crate::format::{self, CONFIG, kind};
use crate::gitkv::{GitError, Onto, Person, PushedFrom, TreeEdit, pause};
use crate::layers::ObjectId;
use crate::progress::Progress;

use super::aside::{Push, Sent};
use super::bring::Bring;
use super::error::is_race;
use super::kept::{Kept, KeptHere, keep_what_they_removed};
use super::merge::{Change, Changes, SnapshotCount, changes, expect_sound, merge, restore_gone};
use super::removal::Removed;
use super::seen::{Known, seen};
use super::{RemoteError, Remotes};

/// How often a merge or a push is made anew when others move the same branch.
pub(super) const TRIES: u32 = 12;

/// What a pull did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pulled {
    /// What changed in this repository.
    pub here: SnapshotCount,
    /// What others removed from the remote, and stays here.
    pub kept_here: KeptHere,
}

/// What a push did.
#[derive(Debug, Default)]
pub struct Pushed {
    /// What changed in the remote.
    pub there: SnapshotCount,
    /// What changed in this repository, where the remote had something new.
    pub here: SnapshotCount,
    /// Layers that were sent to a cold remote; git does not say what it sends.
    pub layers: u64,
    /// Bytes that were sent to a cold remote.
    pub bytes: u64,
    /// Where a store was made for a cold remote, which was not there before.
    pub made: Option<String>,
    /// What was removed from a cold remote since nothing needs it any more.
    pub removed: Removed,
    /// Snapshots that were removed here and that the remote, which lets nobody remove anything, keeps.
    pub kept: u64,
    /// What others removed from the remote, and stays here.
    pub kept_here: KeptHere,
    /// Why the remote refused a push that would only have removed something, in its words.
    pub refusal: Option<String>,
}

/// What has to agree in the configurations of two clones. The rest is for others to read.
#[derive(Debug, Deserialize)]
struct Identity {
    version: u32,
    id: String,
    #[serde(default)]
    append_only: bool,
    #[serde(default)]
    encryption: Option<Encryption>,
}

/// For whom a repository is encrypted, which never changes.
#[derive(Debug, PartialEq, Deserialize)]
struct Encryption {
    recipient: String,
}

impl Remotes {
    /// Fetches from a remote and merges its branch into this repository's. What changed in this repository: what others
    /// removed there stays, unless [that is to go](Self::taking_removals).
    pub fn pull(&self, remote: &str, who: &Person) -> Result<SnapshotCount, RemoteError> {
        Ok(self.pull_with(remote, who, &Progress::new())?.here)
    }

    /// As [`pull`](Self::pull), telling `progress` of the bytes that come, and stopping when that says so.
    pub fn pull_with(&self, remote: &str, who: &Person, progress: &Progress) -> Result<Pulled, RemoteError> {
        self.expect(remote)?;
        // Nothing is pruned between a fetch and the merge of what it brought.
        let keep = self.git.keep_layers()?;
        let kept = self.kept(remote)?;
        let before = self.git.head()?;
        let is_cold = self.is_cold(remote)?;
        match is_cold {
            true => drop(self.pull_cold(remote, who, Bring::Indexes, progress)?),
            false => {
                self.fetch_and_join(remote, who, progress)?;
                self.bring_lost_from_git(remote, progress)?;
            }
        }
        let after = self.git.head()?;
        if after == before {
            // An earlier pull may have failed at making that durable.
            self.git.sync_branch()?;
        }
        let here = self.count(before.as_ref(), after.as_ref())?;
        drop(keep);
        if is_cold {
            self.forget_gone()?;
        }
        Ok(Pulled { here, kept_here: self.kept_since(remote, &kept)? })
    }

    /// Pushes this repository's branch to a remote, merging what others have pushed there.
    ///
    /// It may be interrupted and made again at any time: what has arrived with a whole commit is not sent
    /// again.
    pub fn push(&self, remote: &str, who: &Person) -> Result<Pushed, RemoteError> {
        self.push_with(remote, who, &Progress::new())
    }

    /// As [`push`](Self::push), telling `progress` of the bytes that come and go, and stopping when that says
    /// so.
    pub fn push_with(&self, remote: &str, who: &Person, progress: &Progress) -> Result<Pushed, RemoteError> {
        self.expect(remote)?;
        // An earlier command may have failed at making that durable, and this push may find nothing to do.
        self.git.sync_branch()?;
        if self.is_cold(remote)? {
            return self.push_cold(remote, who, progress);
        }
        let _keep = self.git.keep_layers()?;
        let here_before = self.git.head()?;
        let kept_before = self.kept(remote)?;
        let place = || {
            let tracking = self.git.tracking(remote);
            self.git.reference(&tracking).map(|at| (tracking, at))
        };
        // Where nothing was seen to be of this repository, it must be known what is there before anything
        // goes there.
        let known = self.whereabouts(remote)?;
        let is_seen = known.is_some() && known == self.known(remote)?.map(|known| known.commit);
        if !is_seen || kept_before.is_to_go() {
            self.fetch_and_join(remote, who, progress)?;
        }
        let mut there_before = self.whereabouts(remote)?;
        let mut unmoved = None;
        // It may have another name than when it was last looked for.
        let mut is_there = there_before.is_some();
        for attempt in 1..=TRIES {
            let Some(head) = self.git.head()? else { return Ok(Pushed::default()) };
            let known = self.whereabouts(remote)?;
            // Sent in full first, everything would go twice each time.
            let guarded = known.filter(|known| self.is_guarded(known));
            let kept = self.kept(remote)?.paths;
            let push = Push { remote, who, head, kept: &kept, is_there, progress };
            let pushed = match guarded {
                Some(theirs) => self.push_guarded(&push, theirs),
                None => self.push_all(&push, known),
            };
            let done = |there: ObjectId, from: PushedFrom| -> Result<Pushed, RemoteError> {
                // It may have been set back, or made anew, since it was looked at.
                let before = match from {
                    PushedFrom::Nothing => None,
                    PushedFrom::Commit(commit) if self.git.read_commit(&commit).is_ok() => Some(commit),
                    PushedFrom::Commit(_) | PushedFrom::Unknown => there_before,
                };
                Ok(Pushed {
                    there: self.count(before.as_ref(), Some(&there))?,
                    here: self.count(here_before.as_ref(), Some(&head))?,
                    kept: self.count(Some(&there), Some(&head))?.removed,
                    kept_here: self.kept_since(remote, &kept_before)?,
                    ..Pushed::default()
                })
            };
            match pushed {
                Ok((there, from)) => return done(there, from),
                Err(source @ GitError::Unsynced { .. }) => {
                    return Err(RemoteError::Unsynced { remote: remote.to_owned(), source });
                }
                // A pull would wait for as long again, and what a disk refused is not durable if it is there.
                Err(fault @ (GitError::Ended { .. } | GitError::Io { .. })) => {
                    return Err(RemoteError::of(remote)(fault));
                }
                Err(error) => {
                    let known = place()?;
                    progress.check().map_err(GitError::from)?;
                    self.fetch_and_join(remote, who, progress)?;
                    let found = place()?;
                    let was_there = std::mem::replace(&mut is_there, found.1.is_some());
                    let is_new = found != known || is_there != was_there || self.git.head()? != Some(head);
                    let now = found.1;
                    if !is_new && !is_race(&error) {
                        let refused = RemoteError::of(remote)(error);
                        let theirs = self.whereabouts(remote)?.filter(|_| guarded.is_none());
                        if let (RemoteError::Refused { .. }, Some(theirs)) = (&refused, theirs)
                            && self.removes(&theirs, &head)?
                        {
                            // What is refused now is refused for another reason, which is told.
                            let added = self.push_aside(&push, theirs, Sent::Additions);
                            progress.check().map_err(GitError::from)?;
                            match added {
                                Ok(Some((there, from))) => return done(there, from),
                                Ok(None) => {
                                    let done = done(theirs, PushedFrom::Commit(theirs))?;
                                    return Ok(Pushed { refusal: refused.reason(), ..done });
                                }
                                Err(_) => {}
                            }
                        }
                        return Err(refused);
                    }
                    there_before = now;
                    let is_unmoved = !is_new || matches!(error, GitError::Locked { .. });
                    unmoved = is_unmoved.then_some(error);
                }
            }
            pause(attempt)?;
        }
        // Nobody else has pushed there in the end: it is for this that it fails.
        if let Some(error) = unmoved {
            return Err(RemoteError::of(remote)(error));
        }
        Err(RemoteError::Contended { remote: remote.to_owned(), tries: TRIES })
    }

    /// Takes what was fetched of a remote's branch for this repository's, which has none yet. Whether there was
    /// one.
    pub(super) fn adopt_tracked(&self, remote: &str) -> Result<bool, RemoteError> {
        let Some(theirs) = self.theirs(remote)? else { return Ok(false) };
        let tree = self.git.read_commit(&theirs)?.tree;
        expect_sound(&changes(&self.git, None, Some(&tree))?).map_err(RemoteError::of_merge(remote))?;
        self.git.advance(None, &theirs)?;
        self.see(remote, None, &theirs)?;
        Ok(true)
    }

    fn fetch_and_join(&self, remote: &str, who: &Person, progress: &Progress) -> Result<(), RemoteError> {
        // Git would fetch a commit again whose history was dropped here.
        if let Some(Known { commit, trace: Some(_), .. }) = self.known(remote)?
            && match self.git.remote_head(remote, progress) {
                // Then it is fetched again.
                Err(GitError::NoProgram) => false,
                head => head.map_err(RemoteError::of(remote))? == Some(commit),
            }
        {
            return match self.kept(remote)?.is_to_go() {
                true => self.join_again(remote, who),
                false => Ok(()),
            };
        }
        self.git.fetch_with(remote, progress).map_err(RemoteError::of(remote))?;
        self.find_branch_of(remote)?;
        self.join_again(remote, who)
    }

    /// Merges what is here of a remote into the branch, again when others move that.
    pub(super) fn join_again(&self, remote: &str, who: &Person) -> Result<(), RemoteError> {
        for attempt in 1..=TRIES {
            match self.join(remote, who) {
                Err(RemoteError::Git(GitError::Moved { .. })) => pause(attempt)?,
                joined => return joined,
            }
        }
        Err(GitError::Contended { reference: self.git.branch().to_owned(), tries: TRIES }.into())
    }

    /// Merges what was fetched from a remote into the branch.
    fn join(&self, remote: &str, who: &Person) -> Result<(), RemoteError> {
        // Read first: whoever saw more has moved the branch before, so the branch holds at least what this
        // says.
        let seen_before = self.git.reference(&seen(remote))?;
        let known = self.known(remote)?;
        let kept = self.kept(remote)?;
        let theirs = match self.theirs(remote)? {
            // Nothing was fetched since the history was dropped here.
            None if kept.is_to_go() => known.map(|known| known.commit),
            theirs => theirs,
        };
        let (Some(theirs), Some(ours)) = (theirs, self.git.head()?) else { return Ok(()) };
        let is_known = known.is_some_and(|known| known.commit == theirs);
        let has_trace = known.is_some_and(|known| known.trace.is_some());
        if is_known && has_trace && !kept.is_to_go() {
            return Ok(());
        }
        let has_seen = self.git.has_seen(&ours, &theirs)?;
        let base = if kept.is_to_go() && (is_known || has_seen) {
            Some(known)
        } else if has_seen {
            None
        } else if self.git.descends(&theirs, &ours)? {
            Some(Some(Known { commit: ours, base: ours, trace: None }))
        } else {
            (!is_known).then_some(known)
        };
        let still_kept = base.map(|base| self.merge(remote, who, base, &kept, ours, theirs)).transpose()?;
        if !is_known || !has_trace {
            self.see(remote, seen_before.as_ref(), &theirs)?;
        }
        still_kept.map_or(Ok(()), |paths| self.note_kept(remote, &kept.paths, &paths))
    }

    /// Takes out of what was done in a remote what a repository that is append-only here does not take over: removals,
    /// and that it be append-only no more.
    fn keep_what_is_append_only(
        &self,
        remote: &str,
        our_tree: &ObjectId,
        theirs: &mut Changes,
    ) -> Result<(), RemoteError> {
        let config = self.git.find(our_tree, CONFIG.as_bytes())?;
        let config = config.map(|node| self.identity(remote, &node.id)).transpose()?;
        if !config.is_some_and(|config| config.append_only) {
            return Ok(());
        }
        theirs.retain(|_, change| change.new.is_some());
        if let Some(Change { new: Some(node), .. }) = theirs.get(CONFIG.as_bytes())
            && !self.identity(remote, &node.id)?.append_only
        {
            theirs.remove(CONFIG.as_bytes());
        }
        Ok(())
    }

    /// Merges two commits. Where theirs follows ours, or began anew, and nothing is kept, theirs is taken as it is. What
    /// stays here that others removed.
    fn merge(
        &self,
        remote: &str,
        who: &Person,
        known: Option<Known>,
        kept: &Kept,
        ours: ObjectId,
        theirs: ObjectId,
    ) -> Result<BTreeSet<String>, RemoteError> {
        let tree = |commit: &ObjectId| self.git.read_commit(commit).map(|commit| commit.tree);
        let (our_tree, their_tree) = (tree(&ours)?, tree(&theirs)?);
        let known = self.base(known, &ours, &theirs)?;
        let began_anew = |commit: &ObjectId| match known {
            Some(known) => Ok::<_, GitError>(!self.git.descends(commit, &known.commit)?),
            None => Ok(false),
        };
        // A merge that kept something does not follow the remote, and dropped nothing.
        let our_new = began_anew(&ours)?
            && !(kept.is_to_go()
                && !self.is_guarded(&theirs)
                && self.git.root_of(&ours)? == self.git.root_of(&theirs)?);
        // One that was set back to an earlier state has the beginning that it had.
        let (their_new, is_set_back) = match known {
            Some(known) if began_anew(&theirs)? => {
                let root = match known.trace {
                    Some(trace) => trace.root,
                    None => self.git.root_of(&known.commit)?,
                };
                let is_set_back = self.git.root_of(&theirs)? == root;
                (!is_set_back, is_set_back)
            }
            _ => (false, false),
        };
        let (edit, still_kept) = self.merged(remote, known, kept, &our_tree, &their_tree, is_set_back)?;
        let mut transaction = self.git.begin()?;
        let merged = edit.write(&self.git, Some(&our_tree), transaction.layer()?)?;
        if merged == their_tree && (their_new || self.git.descends(&theirs, &ours)?) {
            drop(transaction);
            self.git.advance(Some(&ours), &theirs)?;
            return Ok(still_kept);
        }
        // Killed after this, it has noted more than is kept, which counts for nothing.
        if !still_kept.is_empty() {
            self.note_kept(remote, &BTreeSet::new(), &still_kept)?;
        }
        // A history that was dropped stays dropped.
        let parents = match (our_new || !still_kept.is_empty(), their_new) {
            (false, false) => vec![ours, theirs],
            (false, true) => vec![theirs],
            (true, true) if still_kept.is_empty() => vec![theirs],
            (true, _) => vec![ours],
        };
        let onto = Onto { expected: Some(ours), parents, base: Some(our_tree) };
        transaction.commit_onto(who, &format!("Merge {remote}"), onto, &edit)?;
        Ok(still_kept)
    }

    /// What both sides are compared with: what was seen of the remote last, unless the commit at which their histories
    /// parted says more. It does where nothing was seen, as in a copy that this program did not make; where both have
    /// seen something later, by way of another remote; and where the remote was set back to an earlier state.
    fn base(
        &self,
        known: Option<Known>,
        ours: &ObjectId,
        theirs: &ObjectId,
    ) -> Result<Option<Known>, GitError> {
        let common = self.git.last_seen_by_both(ours, theirs)?;
        let of = |commit: ObjectId| Known { commit, base: commit, trace: None };
        match (known, common) {
            (None, common) => Ok(common.map(of)),
            (Some(known), Some(common))
                if common != known.commit
                    && (self.git.has_seen(&common, &known.commit)?
                        || self.git.is_set_back(theirs, &known.commit)?) =>
            {
                Ok(Some(of(common)))
            }
            (known, _) => Ok(known),
        }
    }

    /// What is to be done to our tree to have in it what they did since it was last seen, and what stays that they
    /// removed.
    fn merged(
        &self,
        remote: &str,
        known: Option<Known>,
        kept: &Kept,
        our_tree: &ObjectId,
        their_tree: &ObjectId,
        is_set_back: bool,
    ) -> Result<(TreeEdit, BTreeSet<String>), RemoteError> {
        let base = known.map(|known| self.git.read_commit(&known.base)).transpose()?;
        let since = |side| changes(&self.git, base.as_ref().map(|base| &base.tree), Some(side));
        let (mut ours, mut theirs): (Changes, Changes) = (since(our_tree)?, since(their_tree)?);
        let mut still_kept =
            self.compare_with_kept(kept, [our_tree, their_tree], [&mut ours, &mut theirs])?;
        if known.is_some_and(|known| known.trace.is_some()) {
            restore_gone(&mut ours, &mut theirs);
        }
        expect_sound(&theirs).map_err(RemoteError::of_merge(remote))?;
        self.keep_what_is_append_only(remote, our_tree, &mut theirs)?;
        if is_set_back {
            theirs.retain(|_, change| change.new.is_some());
        }
        if !self.shares_a_key(our_tree, their_tree)? {
            // Without any of them nobody opens either repository any more: they stay, and are sent again.
            theirs.retain(|path, change| change.new.is_some() || !format::is_of(kind::KEYS, path));
            still_kept.retain(|path| !format::is_of(kind::KEYS, path.as_bytes()));
        }
        if !kept.take {
            still_kept.append(&mut keep_what_they_removed(&ours, &mut theirs));
        }
        // Who upgrades or sets up anew is followed, and of two who did it at one time the one who pushed first.
        let version = |changes: &Changes| -> Result<Option<u32>, RemoteError> {
            let node = changes.get(CONFIG.as_bytes()).and_then(|change| change.new);
            node.map(|node| Ok(self.identity(remote, &node.id)?.version)).transpose()
        };
        let take_theirs = version(&theirs)? >= version(&ours)?;
        let edit = merge(&ours, &theirs, take_theirs).map_err(RemoteError::of_merge(remote))?;
        Ok((edit, still_kept))
    }

    /// Whether a remote has any of the keys of this repository, or this has none.
    fn shares_a_key(&self, our_tree: &ObjectId, their_tree: &ObjectId) -> Result<bool, GitError> {
        let mut has_any = false;
        for (path, node) in self.git.files_in(our_tree, kind::KEYS.as_bytes())? {
            has_any = true;
            if self.git.find(their_tree, &path)? == Some(node) {
                return Ok(true);
            }
        }
        Ok(!has_any)
    }

    /// The commit that the remote's branch was at when it was fetched, if it has any; found to be of this
    /// repository and known format.
    fn theirs(&self, remote: &str) -> Result<Option<ObjectId>, RemoteError> {
        let not_treering = || RemoteError::NotTreering(remote.to_owned());
        let Some(theirs) = self.git.reference(&self.git.tracking(remote))? else {
            let prefix = format!("refs/remotes/{remote}/");
            let has_other = self.git.references()?.iter().any(|(name, _)| name.starts_with(&prefix));
            return if has_other { Err(not_treering()) } else { Ok(None) };
        };
        let config = self.git.find(&theirs, CONFIG.as_bytes())?.ok_or_else(not_treering)?;
        let identity = self.identity(remote, &config.id)?;
        if identity.version > self.newest_format {
            let (remote, newest) = (remote.to_owned(), self.newest_format);
            return Err(RemoteError::Version { remote, found: identity.version, newest });
        }
        if let Some(own) = self.own_identity(remote)? {
            if own.id != identity.id {
                return Err(RemoteError::OtherRepository(remote.to_owned()));
            }
            // Who may write to the remote could otherwise have everything encrypted for himself.
            if own.encryption != identity.encryption {
                return Err(RemoteError::OtherRecipient(remote.to_owned()));
            }
        }
        // What does not parse here as a whole would be in the way of every command.
        let config =
            Config::parse(&self.git.read_blob(&config.id)?, self.newest_format).map_err(|source| {
                RemoteError::Configuration { remote: remote.to_owned(), source: Box::new(source) }
            })?;
        // Files are compared by their segments, and segments by their signatures: with others, all would differ. No command
        // changes either, but an upgrade may.
        if let Some(own) = self.own_config()?
            && config.version <= own.version
            && (config.segments != own.segments || config.confirm_key != own.confirm_key)
        {
            return Err(RemoteError::OtherSegments(remote.to_owned()));
        }
        Ok(Some(theirs))
    }

    /// The configuration of this repository, if it has one that can be used.
    fn own_config(&self) -> Result<Option<Config>, GitError> {
        let Some(head) = self.git.head()? else { return Ok(None) };
        let Some(config) = self.git.find(&head, CONFIG.as_bytes())? else { return Ok(None) };
        Ok(Config::parse(&self.git.read_blob(&config.id)?, self.newest_format).ok())
    }

    /// The id of this repository; `None` while it has none.
    pub(super) fn own_id(&self, remote: &str) -> Result<Option<String>, RemoteError> {
        Ok(self.own_identity(remote)?.map(|own| own.id))
    }

    /// Whether nothing may be removed.
    pub(super) fn is_append_only(&self, remote: &str) -> Result<bool, RemoteError> {
        Ok(self.own_identity(remote)?.is_some_and(|own| own.append_only))
    }

    /// The id of the repository that a reference to something fetched names; `None` where it says none.
    pub(super) fn id_at(&self, remote: &str, reference: &str) -> Result<Option<String>, RemoteError> {
        let Some(commit) = self.git.reference(reference)? else { return Ok(None) };
        let Some(config) = self.git.find(&commit, CONFIG.as_bytes())? else { return Ok(None) };
        Ok(self.identity(remote, &config.id).ok().map(|identity| identity.id))
    }

    fn own_identity(&self, remote: &str) -> Result<Option<Identity>, RemoteError> {
        let Some(head) = self.git.head()? else { return Ok(None) };
        let Some(config) = self.git.find(&head, CONFIG.as_bytes())? else { return Ok(None) };
        self.identity(remote, &config.id).map(Some)
    }

    fn identity(&self, remote: &str, config: &ObjectId) -> Result<Identity, RemoteError> {
        let not_treering = || RemoteError::NotTreering(remote.to_owned());
        if self.git.blob_size(config)? > MAX_CONFIG {
            return Err(not_treering());
        }
        cbor::from_slice(&self.git.read_blob(config)?).map_err(|_| not_treering())
    }

    /// Pushes `head` by way of earlier commits, so that an interrupted push goes on where it was.
    pub(super) fn push_in_steps(
        &self,
        &Push { remote, head, is_there, progress, .. }: &Push<'_>,
        mut known: Option<ObjectId>,
    ) -> Result<PushedFrom, GitError> {
        let mut first = None;
        for commit in self.steps(known, head, progress)? {
            let seen_before = self.git.reference(&seen(remote))?;
            // Only what was merged may be replaced.
            let merged = self.known(remote)?.map(|known| known.commit);
            let from = match known.filter(|known| merged == Some(*known)) {
                Some(old) if !self.git.descends(&commit, &old)? => {
                    self.git.replace_commit(remote, &old, &commit, progress)?
                }
                Some(old) if is_there => self.git.push_onto(remote, &old, &commit, progress)?,
                _ => self.git.push_commit_with(remote, &commit, progress)?,
            };
            first.get_or_insert(from);
            match self.git.compare_and_set(&seen(remote), seen_before.as_ref(), &commit) {
                Err(GitError::Moved { .. }) => {}
                set => set?,
            }
            self.git.remove_trace(remote)?;
            known = Some(commit);
        }
        Ok(first.unwrap_or(PushedFrom::Unknown))
    }

    /// Commits to push one after the other to a remote that is at `known`: each follows the one before, and
    /// adds about a step of data. The last one is `head`.
    fn steps(
        &self,
        known: Option<ObjectId>,
        head: ObjectId,
        progress: &Progress,
    ) -> Result<Vec<ObjectId>, GitError> {
        let mut line = Vec::new();
        let mut next = Some(head);
        let mut is_reached = known.is_none();
        while let Some(id) = next {
            if Some(id) == known {
                is_reached = true;
                break;
            }
            let commit = match self.git.read_commit(&id) {
                // A shallow clone ends here.
                Err(GitError::Missing(_)) if !line.is_empty() => break,
                commit => commit?,
            };
            line.push((id, commit.tree));
            if known.is_some_and(|known| commit.parents.contains(&known)) {
                is_reached = true;
                break;
            }
            next = commit.parents.first().copied();
        }
        if !is_reached {
            return Ok(vec![head]);
        }
        let mut steps = Vec::new();
        let mut before = known.map(|known| self.git.read_commit(&known)).transpose()?.map(|known| known.tree);
        let mut bytes = 0;
        for &(commit, tree) in line.iter().rev() {
            for node in
                changes(&self.git, before.as_ref(), Some(&tree))?.values().filter_map(|change| change.new)
            {
                let size = self.git.blob_size(&node.id)?;
                progress.total_bytes.add(size);
                bytes += size;
            }
            if bytes >= self.step || commit == head {
                steps.push(commit);
                bytes = 0;
            }
            before = Some(tree);
        }
        if steps.is_empty() {
            steps.push(head);
        }
        Ok(steps)
    }

    /// How snapshots differ between two commits.
    pub(super) fn count(
        &self,
        old: Option<&ObjectId>,
        new: Option<&ObjectId>,
    ) -> Result<SnapshotCount, RemoteError> {
        let tree = |commit: Option<&ObjectId>| {
            commit.map(|commit| self.git.read_commit(commit).map(|commit| commit.tree)).transpose()
        };
        Ok(SnapshotCount::of(&changes(&self.git, tree(old)?.as_ref(), tree(new)?.as_ref())?))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::RepositoryId;
    use crate::delta::{ConfirmKey, SegmentParams};
    use crate::gitkv::Git;
    use crate::timeline::{Tier, Timeline};

    fn who() -> Person {
        Person::new("Ann", "ann@example.org", "2026-11-20T19:55:12Z".parse().unwrap())
    }

    /// A repository at `path` with a configuration of this id and version.
    fn make(path: &Path, id: &str, version: u32) -> Remotes {
        let timeline = Timeline::create(path).unwrap();
        configure(&timeline, id, version);
        Remotes::open(path, 1).unwrap()
    }

    fn configure(timeline: &Timeline, id: &str, version: u32) {
        let mut name = [0; 16];
        name[..id.len()].copy_from_slice(id.as_bytes());
        let config = Config {
            version,
            id: RepositoryId::from_bytes(name),
            segments: SegmentParams::default(),
            compression: "gzip:6".to_owned(),
            confirm_key: ConfirmKey([7; 32]),
            append_only: false,
            encryption: None,
        };
        let mut batch = timeline.begin().unwrap();
        batch.set(CONFIG, &cbor::to_vec(&config).unwrap()).unwrap();
        batch.commit(&who(), "Configure").unwrap();
    }

    /// Adds a snapshot with a volume of `len` bytes in one commit, and returns its path.
    fn add(remotes: &Remotes, len: usize) -> String {
        let timeline = Timeline::open(remotes.git.path()).unwrap();
        let key = timeline.key("2026-11-20T19:55:12Z".parse().unwrap()).unwrap();
        let mut batch = timeline.begin().unwrap();
        batch.put("archives", &key, "-0.tar.gz", &vec![7; len], Tier::Data).unwrap();
        let path = batch.put("snapshots", &key, ".cbor", key.to_string().as_bytes(), Tier::Metadata).unwrap();
        batch.commit(&who(), "Add").unwrap();
        path
    }

    fn paths(git: &Git) -> Vec<String> {
        let head = git.head().unwrap().unwrap();
        let files = git.walk(&head, b"snapshots").unwrap();
        files.map(|file| String::from_utf8(file.unwrap().0).unwrap()).collect()
    }

    /// An empty hub, and a repository with one snapshot that has it as its remote.
    fn pair(dir: &Path) -> (Git, Remotes) {
        let hub = Git::init(&dir.join("hub"), &[]).unwrap();
        let repo = make(&dir.join("repo"), "one", 1);
        repo.add("hub", hub.path().to_str().unwrap()).unwrap();
        add(&repo, 10);
        (hub, repo)
    }

    /// Makes the branch a new root, which holds what it held but for `gone`.
    fn prune(remotes: &Remotes, gone: &[&str]) {
        let git = &remotes.git;
        let head = git.head().unwrap().unwrap();
        let mut edit = TreeEdit::new();
        gone.iter().for_each(|path| edit.remove(path.as_bytes()).unwrap());
        let base = Some(git.read_commit(&head).unwrap().tree);
        let onto = Onto { expected: Some(head), parents: Vec::new(), base };
        git.begin().unwrap().commit_onto(&who(), "Prune", onto, &edit).unwrap();
    }

    #[test]
    fn what_was_pruned_stays_pruned_without_a_common_history() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, a) = pair(dir.path());
        let old = paths(&a.git);
        a.push("hub", &who()).unwrap();
        let b = Remotes::clone_from(hub.path().to_str().unwrap(), &dir.path().join("b"), 1).unwrap();
        let b = b.taking_removals();
        prune(&a, &[&old[0]]);
        let (of_a, of_b) = (add(&a, 10), add(&b, 10));
        let pushed = b.push("origin", &who()).unwrap();
        assert_eq!(pushed.there, SnapshotCount { added: 1, removed: 0 });
        let pushed = a.push("hub", &who()).unwrap();
        assert_eq!(pushed.there, SnapshotCount { added: 1, removed: 1 });
        assert_eq!(pushed.here, SnapshotCount { added: 1, removed: 0 });
        assert_eq!(b.pull("origin", &who()).unwrap(), SnapshotCount { added: 1, removed: 1 });
        let mut expected = [of_a, of_b];
        expected.sort();
        assert_eq!((paths(&a.git), paths(&b.git)), (expected.to_vec(), expected.to_vec()));
        assert!(a.pull("hub", &who()).unwrap().is_zero());
        assert_eq!(a.git.head().unwrap(), b.git.head().unwrap());
    }

    /// Removes a snapshot from the branch of a repository.
    fn forget(remotes: &Remotes, path: &str) {
        let mut edit = TreeEdit::new();
        edit.remove(path.as_bytes()).unwrap();
        remotes.git.begin().unwrap().commit(&who(), "Forget", &edit).unwrap();
    }

    fn sorted(paths: &[&str]) -> Vec<String> {
        let mut paths: Vec<String> = paths.iter().map(|&path| path.to_owned()).collect();
        paths.sort();
        paths
    }

    /// Opened again, since another one may have moved the branch.
    fn hub_paths(hub: &Git) -> Vec<String> {
        paths(&Git::open(hub.path()).unwrap())
    }

    const NOTHING: SnapshotCount = SnapshotCount { added: 0, removed: 0 };

    #[test]
    fn what_others_removed_stays_here_and_goes_to_no_remote_again() {
        for is_pruned in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let (hub, a) = pair(dir.path());
            let (kept, of_a) = (paths(&a.git).remove(0), add(&a, 10));
            a.push("hub", &who()).unwrap();
            let b = Remotes::clone_from(hub.path().to_str().unwrap(), &dir.path().join("b"), 1).unwrap();
            match is_pruned {
                true => prune(&a, &[&kept]),
                false => forget(&a, &kept),
            }
            a.push("hub", &who()).unwrap();
            assert_eq!(hub_paths(&hub), [of_a.as_str()]);
            for new in [1, 0] {
                let pulled = b.pull_with("origin", &who(), &Progress::new()).unwrap();
                assert_eq!(pulled, Pulled { here: NOTHING, kept_here: KeptHere { all: 1, new } });
            }
            let of_b = add(&b, 10);
            let pushed = b.push("origin", &who()).unwrap();
            assert_eq!((pushed.there.added, pushed.there.removed), (1, 0), "{pushed:?}");
            assert_eq!(hub_paths(&hub), sorted(&[&of_a, &of_b]));
            assert!(b.push("origin", &who()).unwrap().there.is_zero());
            // Neither what the other one adds nor what is removed here brings it back there.
            a.pull("hub", &who()).unwrap();
            assert_eq!(paths(&a.git), sorted(&[&of_a, &of_b]));
            let second = add(&a, 10);
            a.push("hub", &who()).unwrap();
            forget(&b, &of_b);
            let pushed = b.push("origin", &who()).unwrap();
            assert_eq!((pushed.there.added, pushed.there.removed), (0, 1), "{pushed:?}");
            assert_eq!(hub_paths(&hub), sorted(&[&of_a, &second]));
            assert_eq!(paths(&b.git), sorted(&[&kept, &of_a, &second]));
            // Asked for, it goes, and both are one again.
            let b = b.taking_removals();
            let pulled = b.pull_with("origin", &who(), &Progress::new()).unwrap();
            assert_eq!(pulled.here, SnapshotCount { added: 0, removed: 1 });
            assert_eq!(pulled.kept_here, KeptHere::default());
            b.push("origin", &who()).unwrap();
            a.taking_removals().pull("hub", &who()).unwrap();
            let a = Remotes::open(&dir.path().join("repo"), 1).unwrap();
            assert_eq!(paths(&a.git), paths(&b.git));
            assert_eq!(
                (a.git.head().unwrap(), b.git.head().unwrap()),
                (hub.head().unwrap(), hub.head().unwrap())
            );
        }
    }

    /// A hub without snapshots, a clone that has the one which was removed there, and that one.
    fn emptied(dir: &Path) -> (Git, Remotes, String) {
        let (hub, a) = pair(dir);
        let gone = paths(&a.git).remove(0);
        a.push("hub", &who()).unwrap();
        let b = Remotes::clone_from(hub.path().to_str().unwrap(), &dir.join("b"), 1).unwrap();
        forget(&a, &gone);
        a.push("hub", &who()).unwrap();
        (hub, b, gone)
    }

    /// Three clones add, forget, prune, pull and push in any order. What one keeps never goes, what was removed from the
    /// remote never comes back, and what nobody removed is everywhere in the end.
    #[test]
    fn whatever_clones_do_nothing_is_lost_and_nothing_comes_back() {
        for seed in 1..=8u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut random = |below: usize| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 33) as usize % below
            };
            let dir = tempfile::tempdir().unwrap();
            let (hub, a) = pair(dir.path());
            a.push("hub", &who()).unwrap();
            a.remove("hub").unwrap();
            a.add("origin", hub.path().to_str().unwrap()).unwrap();
            let clone = |name: &str| {
                Remotes::clone_from(hub.path().to_str().unwrap(), &dir.path().join(name), 1).unwrap()
            };
            let clones = [a, clone("b"), clone("c")];
            let (mut forgotten, mut removed_there) = (BTreeSet::new(), BTreeSet::new());
            let mut all: BTreeSet<String> = hub_paths(&hub).into_iter().collect();
            for step in 0..24 {
                let at = random(clones.len());
                // Opened anew, as each run of the program does.
                let one = Remotes::open(clones[at].git.path(), 1).unwrap();
                let (here, there) = (paths(&one.git), hub_paths(&hub));
                let action = random(7);
                let case = format!("seed {seed}, step {step}, clone {at}, action {action}");
                match action {
                    0 | 1 => drop(all.insert(add(&one, 10))),
                    2 if !here.is_empty() => {
                        let path = &here[random(here.len())];
                        forget(&one, path);
                        forgotten.insert(path.clone());
                    }
                    2 | 3 => prune(&one, &[]),
                    4 => drop(one.pull("origin", &who()).unwrap()),
                    5 => drop(one.push("origin", &who()).unwrap()),
                    _ => drop(one.taking_removals().pull("origin", &who()).unwrap()),
                }
                let one = Remotes::open(clones[at].git.path(), 1).unwrap();
                let (here_now, there_now) = (paths(&one.git), hub_paths(&hub));
                if matches!(action, 4 | 5) {
                    assert!(here.iter().all(|path| here_now.contains(path)), "{case}");
                }
                removed_there.extend(there.into_iter().filter(|path| !there_now.contains(path)));
                let back = there_now.iter().find(|path| removed_there.contains(*path));
                assert_eq!(back, None, "{case}");
                assert!(removed_there.is_subset(&forgotten), "{case}");
            }
            for _ in 0..2 {
                for one in &clones {
                    let one = Remotes::open(one.git.path(), 1).unwrap().taking_removals();
                    one.push("origin", &who()).unwrap();
                }
            }
            let there = hub_paths(&hub);
            let expected: Vec<_> = all.difference(&forgotten).cloned().collect();
            assert_eq!(there, expected, "seed {seed}");
            for one in &clones {
                let one = Remotes::open(one.git.path(), 1).unwrap().taking_removals();
                one.pull("origin", &who()).unwrap();
                assert_eq!(paths(&one.git), expected, "seed {seed}");
            }
        }
    }

    #[test]
    fn what_is_kept_and_then_removed_here_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, b, kept) = emptied(dir.path());
        b.pull("origin", &who()).unwrap();
        forget(&b, &kept);
        let of_b = add(&b, 10);
        b.push("origin", &who()).unwrap();
        let pulled = b.pull_with("origin", &who(), &Progress::new()).unwrap();
        assert_eq!(pulled.kept_here, KeptHere::default());
        assert_eq!(hub_paths(&hub), [of_b]);
    }

    #[test]
    fn the_data_that_new_snapshots_may_rest_on_is_sent_again_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, a) = pair(dir.path());
        a.push("hub", &who()).unwrap();
        let all = |git: &Git| -> Vec<String> {
            let git = Git::open(git.path()).unwrap();
            let files = git.walk(&git.head().unwrap().unwrap(), b"").unwrap();
            files.map(|file| String::from_utf8(file.unwrap().0).unwrap()).collect()
        };
        let both = |git: &Git| {
            let found = all(git).into_iter();
            let mut both: Vec<_> = found.filter(|path| path != CONFIG).collect();
            both.sort();
            both
        };
        let old = both(&hub);
        let [b, c] = ["b", "c"].map(|name| {
            Remotes::clone_from(hub.path().to_str().unwrap(), &dir.path().join(name), 1).unwrap()
        });
        let late = add(&c, 10);
        let gone: Vec<&str> = old.iter().map(String::as_str).collect();
        prune(&a, &gone);
        a.push("hub", &who()).unwrap();
        assert!(both(&hub).is_empty());
        // Nothing of what was made before.
        b.pull("origin", &who()).unwrap();
        assert_eq!(both(&b.git), old);
        let early = add(&b, 10);
        b.push("origin", &who()).unwrap();
        assert_eq!(both(&hub).len(), 2);
        assert!(both(&hub).contains(&early));
        // This one was made while the data was there.
        c.push("origin", &who()).unwrap();
        let (there, data) = (both(&hub), old.iter().find(|path| path.starts_with("archives/")).unwrap());
        assert!(there.contains(&late) && there.contains(data), "{there:?}");
        assert_eq!(there.len(), 5);
        assert!(!hub_paths(&hub).contains(&old[1]), "{there:?}");
        assert!(paths(&c.git).contains(&old[1]));
    }

    #[test]
    fn a_setting_of_a_remote_takes_removals_and_goes_with_the_remote() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, b, _) = emptied(dir.path());
        assert!(matches!(b.set_removals("nobody", true), Err(RemoteError::Unknown(_))));
        b.pull("origin", &who()).unwrap();
        assert!(!b.takes_removals("origin").unwrap());
        b.set_removals("origin", true).unwrap();
        assert!(b.takes_removals("origin").unwrap());
        assert_eq!(b.push("origin", &who()).unwrap().here, SnapshotCount { added: 0, removed: 1 });
        b.remove("origin").unwrap();
        b.add("origin", hub.path().to_str().unwrap()).unwrap();
        assert!(!b.takes_removals("origin").unwrap());
    }

    #[test]
    fn exchanges_that_overlap_lose_none_of_each_others_notes() {
        let dir = tempfile::tempdir().unwrap();
        let (_hub, b, _) = emptied(dir.path());
        let note = |of: u32, number: u32| BTreeSet::from([format!("snapshots/{of}-{number}")]);
        std::thread::scope(|scope| {
            for of in 0..2 {
                let path = b.git.path();
                scope.spawn(move || {
                    let one = Remotes::open(path, 1).unwrap();
                    for number in 0..20 {
                        one.note_kept("origin", &BTreeSet::new(), &note(of, number)).unwrap();
                    }
                    one.note_kept("origin", &note(of, 0), &BTreeSet::new()).unwrap();
                });
            }
        });
        assert_eq!(b.kept("origin").unwrap().paths.len(), 2 * 19);
        b.kept_since("origin", &Kept::default()).unwrap();
        assert!(b.kept("origin").unwrap().paths.is_empty(), "none of them is in the branch");
    }

    #[test]
    fn a_remote_that_is_added_again_takes_nothing_away() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, b, _) = emptied(dir.path());
        b.pull("origin", &who()).unwrap();
        b.remove("origin").unwrap();
        b.add("again", hub.path().to_str().unwrap()).unwrap();
        let pulled = b.pull_with("again", &who(), &Progress::new()).unwrap();
        assert_eq!(pulled, Pulled { here: NOTHING, kept_here: KeptHere { all: 1, new: 1 } });
        b.push("again", &who()).unwrap();
        assert!(hub_paths(&hub).is_empty());
    }

    #[test]
    fn a_merge_that_was_not_remembered_is_made_again_to_the_same_result() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, a) = pair(dir.path());
        a.push("hub", &who()).unwrap();
        let b = Remotes::clone_from(hub.path().to_str().unwrap(), &dir.path().join("b"), 1).unwrap();
        let of_b = add(&b, 10);
        b.push("origin", &who()).unwrap();
        add(&a, 10);
        let before = a.git.reference(&seen("hub")).unwrap().unwrap();
        a.pull("hub", &who()).unwrap();
        let after = a.git.reference(&seen("hub")).unwrap().unwrap();
        a.git.compare_and_set(&seen("hub"), Some(&after), &before).unwrap();
        let mut edit = TreeEdit::new();
        edit.remove(of_b.as_bytes()).unwrap();
        a.git.begin().unwrap().commit(&who(), "Remove", &edit).unwrap();
        assert!(a.pull("hub", &who()).unwrap().is_zero());
        assert!(!paths(&a.git).contains(&of_b));
    }

    #[test]
    fn a_branch_that_was_set_back_after_a_pull_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, a) = pair(dir.path());
        a.push("hub", &who()).unwrap();
        let b = Remotes::clone_from(hub.path().to_str().unwrap(), &dir.path().join("b"), 1).unwrap();
        add(&b, 10);
        b.push("origin", &who()).unwrap();
        let before = a.git.head().unwrap().unwrap();
        a.pull("hub", &who()).unwrap();
        let after = a.git.head().unwrap().unwrap();
        a.git.compare_and_set(a.git.branch(), Some(&after), &before).unwrap();
        assert_eq!(a.git.lost_tip().unwrap(), Some(after));
    }

    #[test]
    fn a_remote_that_was_set_back_takes_nothing_away() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, a) = pair(dir.path());
        a.push("hub", &who()).unwrap();
        let early = hub.head().unwrap().unwrap();
        add(&a, 10);
        a.push("hub", &who()).unwrap();
        let late = hub.head().unwrap().unwrap();
        hub.compare_and_set(hub.branch(), Some(&late), &early).unwrap();
        assert!(a.pull("hub", &who()).unwrap().is_zero());
        hub.remove_reference(hub.branch()).unwrap();
        assert!(a.pull("hub", &who()).unwrap().is_zero());
        a.push("hub", &who()).unwrap();
        assert_eq!(hub.head().unwrap(), Some(late));
    }

    #[test]
    fn what_is_not_this_repository_is_told_apart_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, a) = pair(dir.path());
        let before = a.git.head().unwrap();
        let fails = |wanted: fn(&RemoteError) -> bool| {
            for error in [a.push("hub", &who()).unwrap_err(), a.pull("hub", &who()).unwrap_err()] {
                assert!(wanted(&error), "{error}");
            }
            assert_eq!(a.git.head().unwrap(), before);
        };
        let timeline = Timeline::open(hub.path()).unwrap();
        let mut batch = timeline.begin().unwrap();
        batch.set("README", b"a project").unwrap();
        batch.commit(&who(), "Begin").unwrap();
        let project = hub.head().unwrap().unwrap();
        fails(|error| matches!(error, RemoteError::NotTreering(_)));
        let mut batch = timeline.begin().unwrap();
        batch.set(CONFIG, b"no CBOR").unwrap();
        batch.commit(&who(), "Configure").unwrap();
        fails(|error| matches!(error, RemoteError::NotTreering(_)));
        configure(&timeline, "other", 1);
        fails(|error| matches!(error, RemoteError::OtherRepository(_)));
        configure(&timeline, "one", 2);
        fails(|error| matches!(error, RemoteError::Version { found: 2, newest: 1, .. }));
        hub.compare_and_set("refs/heads/master", None, &project).unwrap();
        hub.remove_reference(hub.branch()).unwrap();
        fails(|error| matches!(error, RemoteError::NotTreering(_)));
        assert!(matches!(a.pull("nobody", &who()), Err(RemoteError::Unknown(_))));
        a.remove("hub").unwrap();
        a.add("hub", dir.path().join("nowhere").to_str().unwrap()).unwrap();
        fails(|error| matches!(error, RemoteError::NotFound { .. }));
        a.remove("hub").unwrap();
        a.add("hub", "git://127.0.0.1:1/rings").unwrap();
        fails(|error| matches!(error, RemoteError::Unreachable { .. }));
    }

    #[test]
    fn a_configuration_that_was_changed_travels() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, a) = pair(dir.path());
        a.push("hub", &who()).unwrap();
        let b = Remotes::clone_from(hub.path().to_str().unwrap(), &dir.path().join("b"), 2).unwrap();
        configure(&Timeline::open(b.git.path()).unwrap(), "one", 2);
        b.push("origin", &who()).unwrap();
        let old = a.git.head().unwrap();
        assert!(matches!(a.pull("hub", &who()), Err(RemoteError::Version { .. })));
        assert_eq!(a.git.head().unwrap(), old);
        let a = Remotes::open(a.git.path(), 2).unwrap();
        add(&a, 10);
        a.pull("hub", &who()).unwrap();
        let config = |git: &Git| git.find(&git.head().unwrap().unwrap(), CONFIG.as_bytes()).unwrap();
        assert_eq!(config(&a.git), config(&b.git));
    }

    #[test]
    fn a_push_goes_in_steps_and_on_from_where_it_was_interrupted() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, mut a) = pair(dir.path());
        a.step = 1000;
        for len in [600, 600, 100, 2000, 10] {
            add(&a, len);
        }
        let head = a.git.head().unwrap().unwrap();
        let all = |known, head| a.steps(known, head, &Progress::new()).unwrap();
        let steps = all(None, head);
        assert_eq!(steps.len(), 3);
        assert_eq!(steps[2], head);
        a.git.fetch("hub").unwrap();
        a.git.push_commit("hub", &steps[0]).unwrap();
        assert_eq!(all(Some(steps[0]), head), steps[1..]);
        assert_eq!(a.push("hub", &who()).unwrap().there, SnapshotCount { added: 3, removed: 0 });
        assert_eq!(hub.head().unwrap(), Some(head));
        assert_eq!(all(Some(head), head), [head], "what the remote has is for git to say");
        prune(&a, &[]);
        let root = a.git.head().unwrap().unwrap();
        assert_eq!(all(Some(head), root), [root]);
    }

    #[test]
    fn a_clone_takes_no_place_that_is_taken_and_leaves_nothing_when_it_fails() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, a) = pair(dir.path());
        let url = hub.path().to_str().unwrap();
        let clone = |url: &str, name: &str| Remotes::clone_from(url, &dir.path().join(name), 1).map(drop);
        assert!(matches!(clone(url, "b"), Err(RemoteError::Empty(_))));
        assert!(matches!(clone("/nowhere", "b"), Err(RemoteError::NotFound { .. })));
        assert!(matches!(clone(url, "repo"), Err(RemoteError::Present(_))));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        a.push("hub", &who()).unwrap();
        std::fs::create_dir(dir.path().join("b")).unwrap();
        clone(url, "b").unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
    }
}
