//! Pulling from and pushing to cold remotes.
//!
//! A pull brings the layers that the head lists and that were not seen before: of metadata both files, of
//! data the `.idx`. It brings those that were seen, and are not here, where a tree needs what only they hold: they
//! were lost. Killed at any instant, it leaves the repository as it was, or with the branch moved and everything
//! readable: the head is noted before its layers come, and before the branch moves.
//!
//! A push sends what the remote lacks, data first, each `.pack` before its `.idx`, and then
//! publishes a head. Killed at any instant, it has left whole files that nobody names yet, which the next push
//! finds and does not send again. At last it [removes](super::removal) what no head needs any more.
//!
//! A head lists layers that hold anything its commit reaches: those that are here, and where these do not hold
//! everything, those of the heads before it that do, wherever they are. What another one listed and this
//! writer merged, pruned or finds to be of no use is not listed again; what it lost is, since [that follows from what
//! the layer holds](super::contents). A head that would not list everything its tree names is not published.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::gitkv::{GitError, Person, pause};
use crate::layers::{Layer, ObjectId, index_ids};
use crate::progress::Progress;
use crate::store::{self, Item, Store};

use super::bring::{Bring, LAYERS_AT_ONCE, RemoteContents};
use super::contents::Contents;
use super::exchange::{Pushed, TRIES};
use super::head::{self, Copies, Head, Held, LayerKind};
use super::objects::{LayerNames, MARK, Namespaces, at_once, load_head, load_mark};
use super::publish::{self, PublishError};
use super::removal::still_there;
use super::seen::seen;
use super::uploads::Uploads;
use super::{RemoteError, Remotes};

/// What a cold remote is at.
#[derive(Debug, Default)]
pub(super) struct ColdState {
    /// The number of its heads, 0 before the first.
    number: u64,
    /// The commits of its heads: none, one, or several where two writers met.
    commits: Vec<ObjectId>,
    /// The layers that they list, one copy of each.
    layers: BTreeMap<String, Held>,
    /// All copies that they list, and all that they call going.
    listed: Copies,
    going: Copies,
}

/// What is to be pushed.
#[derive(Default)]
struct Plan {
    /// The layers that the head will list.
    listed: BTreeMap<String, Held>,
    /// Those of them that are to be sent.
    to_send: Copies,
}

impl Remotes {
    /// Brings what a cold remote has, and merges it into the branch, or takes it for the branch where there is
    /// none yet.
    pub(super) fn pull_cold(
        &self,
        remote: &str,
        who: &Person,
        bring: Bring,
        progress: &Progress,
    ) -> Result<ColdState, RemoteError> {
        let store = self.stores.open(remote)?;
        let names = Namespaces::new()?;
        let mark =
            load_mark(&store, remote, &names)?.ok_or_else(|| RemoteError::NotPushed(remote.to_owned()))?;
        self.expect_own(remote, &mark)?;
        let mut missing = None;
        loop {
            progress.check().map_err(GitError::from)?;
            let newest = publish::newest(&store, &names.heads).map_err(RemoteError::store(remote))?;
            let Some((number, items)) = newest else { return Ok(ColdState::default()) };
            match missing {
                Some((before, error)) if before == number => return Err(error),
                _ => {}
            }
            match self.pull_heads(remote, &store, &mark, who, bring, (number, &items), progress) {
                // Others may have published and removed meanwhile; then there is a later head.
                Err(error @ RemoteError::Gone { .. }) => missing = Some((number, error)),
                pulled => return pulled,
            }
        }
    }

    /// Brings and merges heads that have one number.
    #[expect(clippy::too_many_arguments)]
    fn pull_heads(
        &self,
        remote: &str,
        store: &Store,
        mark: &str,
        who: &Person,
        bring: Bring,
        (number, items): (u64, &[Item]),
        progress: &Progress,
    ) -> Result<ColdState, RemoteError> {
        let heads =
            items.iter().map(|item| load_head(store, remote, mark, item)).collect::<Result<Vec<_>, _>>()?;
        let mut state = ColdState { number, ..ColdState::default() };
        for head in heads {
            // Nobody may take layers away that nothing here names yet.
            let _keep = self.git.keep_layers()?;
            let last = self.stores.seen(remote)?;
            let is_new = last.as_ref() != Some(&(number, head.clone()));
            if is_new {
                self.stores.announce(remote, number, &head)?;
            }
            self.bring(remote, store, &head, bring, progress)?;
            self.find_common(remote, last.as_ref(), number, &head)?;
            // Before the branch moves: what is in the branch can be read from then on.
            if is_new {
                self.stores.see(remote, number, &head)?;
            }
            self.take(remote, who, &head)?;
            state.commits.push(head.commit);
            state.listed.extend(head.layers.iter().map(|(name, held)| (name.clone(), *held)));
            state.layers.extend(head.layers);
            state.going.extend(head.going);
        }
        Ok(state)
    }

    /// The layers that a cold remote lists now, as they lie there.
    pub(super) fn listed_now(&self, remote: &str) -> Result<Copies, RemoteError> {
        let (_, heads) = self.heads_now(remote)?;
        Ok(heads.into_iter().flat_map(|head| head.layers).collect())
    }

    /// The store of a cold remote, and its heads as they are now.
    pub(super) fn heads_now(&self, remote: &str) -> Result<(Arc<Store>, Vec<Head>), RemoteError> {
        let store = self.stores.open(remote)?;
        let names = Namespaces::new()?;
        let mark = load_mark(&store, remote, &names)?;
        let mark = mark.ok_or_else(|| RemoteError::NotPushed(remote.to_owned()))?;
        let newest = publish::newest(&store, &names.heads).map_err(RemoteError::store(remote))?;
        let items = newest.map_or_else(Vec::new, |(_, items)| items);
        let heads =
            items.iter().map(|item| load_head(&store, remote, &mark, item)).collect::<Result<_, _>>()?;
        Ok((store, heads))
    }

    /// Pushes to a cold remote.
    pub(super) fn push_cold(
        &self,
        remote: &str,
        who: &Person,
        progress: &Progress,
    ) -> Result<Pushed, RemoteError> {
        let mut uploads = self.stores.uploads(remote, progress)?;
        // Before the branch is looked at: what it names must be there until it is sent.
        let keep = self.git.keep_layers()?;
        self.git.refresh()?;
        let pushed = self.push_kept(remote, who, &mut uploads, progress)?;
        drop(keep);
        self.forget_gone()?;
        Ok(pushed)
    }

    /// Pushes to a cold remote, by one who keeps layers from being removed.
    fn push_kept(
        &self,
        remote: &str,
        who: &Person,
        uploads: &mut Uploads,
        progress: &Progress,
    ) -> Result<Pushed, RemoteError> {
        let before = self.git.head()?;
        let kept_before = self.kept(remote)?;
        let (mut sent_layers, mut sent_bytes) = (0, 0);
        let mut made = None;
        for attempt in 1..=TRIES {
            let (store, is_made) = self.open_to_push(remote)?;
            if is_made {
                made = self.stores.url(remote)?.map(|url| url.to_string());
            }
            let state = self.pull_cold(remote, who, Bring::Indexes, progress)?;
            let Some(head) = self.git.head()? else { return Ok(Pushed::default()) };
            let commit = self.commit_to_publish(remote, who, &state.commits, head)?;
            let repository = self.own_id(remote)?.unwrap_or_default();
            let pushed = |layers, bytes| {
                Ok(Pushed {
                    there: self.count(state.commits.first(), Some(&commit))?,
                    here: self.count(before.as_ref(), Some(&head))?,
                    kept_here: self.kept_since(remote, &kept_before)?,
                    layers,
                    bytes,
                    made: made.clone(),
                    removed: self.remove_going(remote, &store, &repository, who),
                    ..Pushed::default()
                })
            };
            for published in [&state.listed, &state.going] {
                uploads.heed(published)?;
            }
            let plan = self.plan(remote, &store, &state, commit, uploads.tag(), progress)?;
            let is_known = |copy: &(String, Held)| state.listed.contains(copy) || state.going.contains(copy);
            if state.commits == [commit] && state.layers == plan.listed && uploads.all().all(is_known) {
                // The push that published this head may have failed at the last step.
                store.sync(&Namespaces::new()?.heads).map_err(RemoteError::store(remote))?;
                uploads.done()?;
                return pushed(sent_layers, sent_bytes);
            }
            let sent = self.send(remote, &store, &plan, uploads, progress)?;
            (sent_layers, sent_bytes) = (sent_layers + sent.0, sent_bytes + sent.1);
            let mut going = state.listed.clone();
            going.extend(still_there(remote, &store, &state.going)?.into_keys());
            going.extend(uploads.all().cloned());
            going.retain(|(name, held)| plan.listed.get(name) != Some(held));
            let previous = state.commits.last().copied();
            let new = Head { repository: repository.clone(), commit, previous, layers: plan.listed, going };
            let names = Namespaces::new()?;
            let number = state.number + 1;
            uploads.publishing()?;
            match publish::publish(&store, &names.heads, &names.locks, number, &new, who) {
                Ok(()) => {
                    self.follow(remote, &commit)?;
                    let seen_before = self.git.reference(&seen(remote))?;
                    match self.known(remote)?.filter(|_| commit != head) {
                        Some(known) => self.see_aside(remote, who, known, seen_before, &commit)?,
                        None => self.see(remote, seen_before.as_ref(), &commit)?,
                    }
                    self.stores.see(remote, number, &new)?;
                    uploads.done()?;
                    return pushed(sent_layers, sent_bytes);
                }
                Err(PublishError::Lost) => uploads.lost()?,
                Err(PublishError::Met) => uploads.give_up()?,
                Err(error) => return Err(error.of(remote)),
            }
            pause(attempt)?;
        }
        Err(RemoteError::Contended { remote: remote.to_owned(), tries: TRIES })
    }

    /// The store of a cold remote, made and marked as this repository's where it is new, and whether it was.
    fn open_to_push(&self, remote: &str) -> Result<(Arc<Store>, bool), RemoteError> {
        let names = Namespaces::new()?;
        let is_new = self.stores.seen(remote)?.is_none();
        let store = match self.stores.open(remote) {
            // A place that was there before is not mounted now, or lost: that is for a person to see.
            Err(RemoteError::Store { source, .. })
                if is_new && matches!(source.reason(), store::Reason::NoStore) =>
            {
                self.stores.create(remote)?
            }
            store => store?,
        };
        if load_mark(&store, remote, &names)?.is_some() {
            return Ok((store, false));
        }
        let store = self.stores.create(remote)?;
        let id = self.own_id(remote)?.ok_or_else(|| RemoteError::NotPushed(remote.to_owned()))?;
        match store.store_new(&names.config.name(MARK)?, head::encode_mark(&id).as_bytes()) {
            Err(error) if error.is_exists() => {}
            marked => marked.map_err(RemoteError::store(remote))?,
        }
        Ok((store, true))
    }

    /// That a cold remote marked with the repository `id` is this one's.
    fn expect_own(&self, remote: &str, id: &str) -> Result<(), RemoteError> {
        match self.own_id(remote)? {
            Some(own) if own != id => Err(RemoteError::OtherRepository(remote.to_owned())),
            _ => Ok(()),
        }
    }

    /// Finds what a head and the branch have in common. What was seen last lies before the head, unless that has the
    /// same number or a lower one: then it was made beside this one, or the remote was set back. What both rest on is
    /// what this one was made of.
    fn find_common(
        &self,
        remote: &str,
        last: Option<&(u64, Head)>,
        number: u64,
        head: &Head,
    ) -> Result<(), RemoteError> {
        if last.is_some_and(|(last, last_head)| *last >= number && last_head.commit != head.commit) {
            let common = match head.previous {
                Some(previous) if self.git.read_commit(&previous).is_ok() => Some(previous),
                _ => None,
            };
            match common {
                Some(common) => {
                    let before = self.git.reference(&seen(remote))?;
                    self.see(remote, before.as_ref(), &common)?;
                }
                None => self.git.remove_reference(&seen(remote))?,
            }
        }
        Ok(())
    }

    /// Merges a head whose layers are here.
    fn take(&self, remote: &str, who: &Person, head: &Head) -> Result<(), RemoteError> {
        // Nothing new: where our history was pruned meanwhile, theirs must not come back by a merge.
        let known = self.known(remote)?.map(|known| known.commit);
        if self.git.head()?.is_some() && known == Some(head.commit) {
            return match self.kept(remote)?.is_to_go() {
                true => self.join_again(remote, who),
                false => Ok(()),
            };
        }
        self.git.read_commit(&head.commit).map_err(RemoteError::damaged(remote, "its head"))?;
        self.follow(remote, &head.commit)?;
        match self.git.head()? {
            Some(_) => self.join_again(remote, who),
            None => self.adopt_tracked(remote).map(drop),
        }
    }

    /// Moves the reference by which this repository knows where its branch is in a remote.
    fn follow(&self, remote: &str, commit: &ObjectId) -> Result<(), RemoteError> {
        let tracking = self.git.tracking(remote);
        for attempt in 1..=TRIES {
            let known = self.git.reference(&tracking)?;
            if known.as_ref() == Some(commit) {
                break;
            }
            match self.git.compare_and_set(&tracking, known.as_ref(), commit) {
                Err(GitError::Moved { .. }) => pause(attempt)?,
                moved => return Ok(moved?),
            }
        }
        Ok(())
    }

    /// Which layers a cold remote is to have so that `commit` is whole there; those that it lacks get `tag`.
    fn plan(
        &self,
        remote: &str,
        store: &Store,
        state: &ColdState,
        commit: ObjectId,
        tag: u64,
        progress: &Progress,
    ) -> Result<Plan, RemoteError> {
        let settled = self.settle(&commit)?;
        let kinds = &settled.kinds;
        let layers = self.git.layers();
        let (listed, new): (Vec<_>, Vec<_>) =
            layers.layers().partition(|layer| state.layers.contains_key(layer.name()));
        // Metadata that nothing needs is little, and is found when history is pruned.
        let is_data =
            |layer: &&Layer| state.layers.get(layer.name()).is_some_and(|held| held.kind == LayerKind::Data);
        let (data, metadata): (Vec<_>, Vec<_>) = listed.into_iter().partition(is_data);
        let mut listed = Contents::of(&metadata);
        self.add_needed(&commit, &settled.contents(&data), &mut listed)?;
        // What has no kind came meanwhile, and is for the next push.
        let new = new.into_iter().filter(|layer| kinds.contains_key(layer.name()));
        let (here, elsewhere): (Vec<_>, Vec<_>) = new.partition(|layer| layer.pack_bytes().is_some());
        let to_send = self.add_needed(&commit, &settled.contents(&here), &mut listed)?;
        // Before anything is called missing: what is not here, and is listed.
        let is_here = |name: &String| layers.layers().any(|layer| layer.name() == name);
        let absent: Vec<_> = state.layers.iter().filter(|(name, _)| !is_here(name)).collect();
        let there: RemoteContents = self.remote_contents(remote, store, &absent, progress)?;
        let absent: Vec<_> = there.iter().map(|(name, ids)| Contents::there(name, ids)).collect();
        self.add_needed(&commit, &absent, &mut listed)?;
        if let Some(name) = self.add_needed(&commit, &settled.contents(&elsewhere), &mut listed)?.first() {
            let layer = (*name).to_owned();
            return Err(match self.stores.holders()?.contains_key(&layer) {
                true => RemoteError::Elsewhere { remote: remote.to_owned(), layer },
                false => RemoteError::Pruned { layer },
            });
        }
        self.expect_complete(remote, &commit, &listed)?;
        let mut plan = Plan::default();
        for layer in &listed {
            plan.listed
                .extend(state.layers.get_key_value(layer.name).map(|(name, held)| (name.clone(), *held)));
        }
        for layer in here.iter().filter(|layer| to_send.contains(&layer.name())) {
            let name = layer.name().to_owned();
            if !head::is_layer(&name) {
                return Err(RemoteError::LayerName(name));
            }
            let kind = kinds.get(&name).copied().unwrap_or(LayerKind::Data);
            let pack_bytes = layer.pack_bytes().unwrap_or_default();
            let held =
                Held { kind, pack_bytes, index_bytes: layer.index_bytes(), objects: layer.objects(), tag };
            plan.listed.insert(name.clone(), held);
            plan.to_send.insert((name, held));
        }
        Ok(plan)
    }

    /// Adds those of `candidates` to `listed` that hold anything which `commit` reaches and which no listed layer
    /// has. Their names.
    fn add_needed<'a>(
        &self,
        commit: &ObjectId,
        candidates: &[Contents<'a>],
        listed: &mut Vec<Contents<'a>>,
    ) -> Result<Vec<&'a str>, RemoteError> {
        let needed = self.needed(commit, candidates, listed)?;
        let added = candidates.iter().filter(|layer| needed.contains(layer.name));
        listed.extend(added.clone());
        Ok(added.map(|layer| layer.name).collect())
    }

    /// Sends the layers that a cold remote lacks. How many, and how many bytes.
    fn send(
        &self,
        remote: &str,
        store: &Store,
        plan: &Plan,
        uploads: &mut Uploads,
        progress: &Progress,
    ) -> Result<(u64, u64), RemoteError> {
        let begun: Copies = plan.to_send.iter().filter(|copy| uploads.is_begun(copy)).cloned().collect();
        uploads.note(plan.to_send.iter())?;
        for (_, held) in &plan.to_send {
            progress.total_bytes.add(held.pack_bytes + held.index_bytes);
        }
        let bytes = AtomicU64::new(0);
        for kind in [LayerKind::Data, LayerKind::Metadata] {
            let of_kind: Vec<_> = plan.to_send.iter().filter(|(_, held)| held.kind == kind).collect();
            at_once(LAYERS_AT_ONCE, &of_kind, |copy| {
                let more = self.send_layer(remote, store, copy, begun.contains(copy), progress)?;
                bytes.fetch_add(more, Ordering::Relaxed);
                Ok(())
            })?;
        }
        Ok((plan.to_send.len() as u64, bytes.into_inner()))
    }

    /// Sends a layer; one that was begun before, as far as it is not there. How many bytes were sent.
    fn send_layer(
        &self,
        remote: &str,
        store: &Store,
        (layer, held): &(String, Held),
        is_begun: bool,
        progress: &Progress,
    ) -> Result<u64, RemoteError> {
        let names = LayerNames::new(layer, held)?;
        let mut sent = 0;
        let files = [(names.pack, held.pack_bytes, "pack"), (names.index, held.index_bytes, "idx")];
        for (name, bytes, extension) in files {
            progress.check().map_err(GitError::from)?;
            let there = match is_begun.then(|| store.info(&name)) {
                None => None,
                Some(Err(error)) if error.is_not_found() => None,
                Some(info) => Some(info.map_err(RemoteError::store(remote))?.size),
            };
            // Nobody else uses the name, and an object is there whole or not at all.
            if there == Some(bytes) {
                continue;
            }
            // A copy that is damaged would look like one to rely on.
            if extension == "pack" {
                self.expect_sound(layer)?;
                let path = self.git.pack_dir().join(format!("{layer}.pack"));
                let file = File::open(&path).map_err(RemoteError::io("open", &path))?;
                let stored = store.store_file_watched(&name, &file, progress);
                progress.check().map_err(GitError::from)?;
                stored.map_err(RemoteError::store(remote))?;
            } else {
                let path = self.index_path(layer)?;
                let index = fs::read(&path).map_err(RemoteError::io("read", &path))?;
                index_ids(layer, &index).map_err(GitError::from)?;
                store.store(&name, &index).map_err(RemoteError::store(remote))?;
                progress.bytes.add(bytes);
            }
            sent += bytes;
        }
        Ok(sent)
    }
}
