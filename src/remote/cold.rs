//! Pulling from and pushing to cold remotes.
//!
//! A pull brings the layers that the head lists and that were not seen before: of metadata both files, of
//! data the `.idx`. A push sends what the remote lacks, data first, each `.pack` before its `.idx`, and then
//! publishes a head. Killed at any instant, it has left whole files that nobody names yet, which the next push
//! finds and does not send again.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::gitkv::{GitError, Person, pause};
use crate::layers::{Layer, ObjectId};
use crate::pipeline;
use crate::progress::Progress;
use crate::store::{self, Item, Store};

use super::exchange::{Pushed, TRIES};
use super::head::{self, Head, HeadError, Held, LAYOUT, LayerKind};
use super::publish::{self, PublishError};
use super::stores::{LayerNames, Namespaces};
use super::{RemoteError, Remotes, seen};

/// Layers under way at once; each has several requests under way itself.
const LAYERS_AT_ONCE: usize = 3;

/// Bytes of a head at most: it lists some hundred thousand layers.
const MAX_HEAD: u64 = 64 << 20;

/// What a cold remote is marked with: the repository that it holds.
const MARK: &str = "repository";

/// What is brought of the layers of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bring {
    Indexes,
    Everything,
}

/// What a cold remote is at.
#[derive(Debug, Default)]
pub(super) struct ColdState {
    /// The number of its heads, 0 before the first.
    number: u64,
    /// The commits of its heads: none, one, or several where two writers met.
    commits: Vec<ObjectId>,
    /// The layers that they list.
    layers: BTreeMap<String, Held>,
}

impl Remotes {
    /// Brings what a cold remote has, and merges it into the branch, or takes it for the branch where there is
    /// none yet.
    pub(super) fn pull_cold(
        &self,
        remote: &str,
        who: &Person,
        bring: Bring,
    ) -> Result<ColdState, RemoteError> {
        let store = self.stores.open(remote)?;
        let names = Namespaces::new()?;
        let mark =
            load_mark(&store, remote, &names)?.ok_or_else(|| RemoteError::NotPushed(remote.to_owned()))?;
        self.expect_own(remote, &mark)?;
        let Some((number, items)) =
            publish::newest(&store, &names.heads).map_err(RemoteError::store(remote))?
        else {
            return Ok(ColdState::default());
        };
        let heads =
            items.iter().map(|item| load_head(&store, remote, &mark, item)).collect::<Result<Vec<_>, _>>()?;
        let mut state = ColdState { number, ..ColdState::default() };
        for head in &heads {
            // Nobody may take layers away that nothing here names yet.
            let _keep = self.git.keep_layers()?;
            self.bring(remote, &store, head, bring)?;
            self.take(remote, who, number, head)?;
            self.stores.see(remote, number, head)?;
            state.commits.push(head.commit);
            state.layers.extend(head.layers.iter().map(|(name, held)| (name.clone(), *held)));
        }
        Ok(state)
    }

    /// Pushes to a cold remote.
    pub(super) fn push_cold(
        &self,
        remote: &str,
        who: &Person,
        progress: &Progress,
    ) -> Result<Pushed, RemoteError> {
        let before = self.git.head()?;
        let (mut sent_layers, mut sent_bytes) = (0, 0);
        for attempt in 1..=TRIES {
            let store = self.open_to_push(remote)?;
            let state = self.pull_cold(remote, who, Bring::Indexes)?;
            let Some(head) = self.git.head()? else { return Ok(Pushed::default()) };
            let pushed = |layers, bytes| {
                Ok(Pushed {
                    there: self.count(state.commits.first(), Some(&head))?,
                    here: self.count(before.as_ref(), Some(&head))?,
                    layers,
                    bytes,
                })
            };
            if state.commits == [head] {
                return pushed(sent_layers, sent_bytes);
            }
            let _keep = self.git.keep_layers()?;
            let (new, sent) = self.send(remote, &store, &state, head, progress)?;
            (sent_layers, sent_bytes) = (sent_layers + sent.0, sent_bytes + sent.1);
            let names = Namespaces::new()?;
            let number = state.number + 1;
            match publish::publish(&store, &names.heads, &names.locks, number, &new, who) {
                Ok(()) => {
                    self.follow(remote, &head)?;
                    self.see(remote, self.git.reference(&seen(remote))?.as_ref(), &head)?;
                    self.stores.see(remote, number, &new)?;
                    return pushed(sent_layers, sent_bytes);
                }
                Err(PublishError::Lost) => pause(attempt)?,
                Err(PublishError::Locked(lock)) => {
                    return Err(RemoteError::Locked { remote: remote.to_owned(), lock: lock.to_string() });
                }
                Err(PublishError::Store(error)) => return Err(RemoteError::store(remote)(error)),
                Err(PublishError::Name(error)) => return Err(error.into()),
            }
        }
        Err(RemoteError::Contended { remote: remote.to_owned(), tries: TRIES })
    }

    /// The store of a cold remote, made and marked as this repository's where it is new.
    fn open_to_push(&self, remote: &str) -> Result<Arc<Store>, RemoteError> {
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
            return Ok(store);
        }
        let store = self.stores.create(remote)?;
        let id = self.own_id(remote)?.ok_or_else(|| RemoteError::NotPushed(remote.to_owned()))?;
        match store.store_new(&names.config.name(MARK)?, head::encode_mark(&id).as_bytes()) {
            Err(error) if error.is_exists() => {}
            marked => marked.map_err(RemoteError::store(remote))?,
        }
        Ok(store)
    }

    /// That a cold remote marked with the repository `id` is this one's.
    fn expect_own(&self, remote: &str, id: &str) -> Result<(), RemoteError> {
        match self.own_id(remote)? {
            Some(own) if own != id => Err(RemoteError::OtherRepository(remote.to_owned())),
            _ => Ok(()),
        }
    }

    /// Brings the layers of a head that are not here and were not seen before; who has seen one and does not
    /// have it any more has pruned or merged it. After pruning, what others added since may need any of them
    /// again.
    fn bring(&self, remote: &str, store: &Store, head: &Head, bring: Bring) -> Result<(), RemoteError> {
        let known = self.known(remote)?;
        let has_pruned = known.is_some_and(|known| known.trace.is_some() && known.commit != head.commit);
        let seen = match self.stores.seen(remote)? {
            Some((_, seen)) if !has_pruned => seen.layers,
            _ => BTreeMap::new(),
        };
        let layers = self.git.refresh()?;
        let is_new =
            |name: &str| !seen.contains_key(name) && !layers.layers().any(|layer| layer.name() == name);
        let wanted: Vec<_> = head.layers.iter().filter(|(name, _)| is_new(name)).collect();
        let has_cold = bring == Bring::Indexes && wanted.iter().any(|(_, held)| held.kind == LayerKind::Data);
        at_once(&wanted, |(name, held)| {
            let is_whole = held.kind == LayerKind::Metadata || bring == Bring::Everything;
            self.bring_layer(remote, store, name, held.kind, is_whole)
        })?;
        match has_cold {
            true => Ok(self.git.promise()?),
            false => Ok(self.git.refresh().map(drop)?),
        }
    }

    /// Brings a layer, with its `.pack` if `is_whole`.
    pub(super) fn bring_layer(
        &self,
        remote: &str,
        store: &Store,
        layer: &str,
        kind: LayerKind,
        is_whole: bool,
    ) -> Result<(), RemoteError> {
        let names = LayerNames::new(kind, layer)?;
        let index = store.load(&names.index).map_err(RemoteError::store(remote))?;
        let pack = match is_whole {
            true => {
                let mut pack = self.git.temporary_pack()?;
                store.load_to(&names.pack, pack.as_file_mut()).map_err(RemoteError::store(remote))?;
                Some(pack)
            }
            false => None,
        };
        self.git.add_layer(layer, &index, pack).map_err(RemoteError::damaged(remote, layer))
    }

    /// Merges a head whose layers are here.
    fn take(&self, remote: &str, who: &Person, number: u64, head: &Head) -> Result<(), RemoteError> {
        // What was seen last lies before this head, unless it has the same number or a higher one: then it
        // was made beside this one, or the remote was set back. What both rest on is what this one was made of.
        let last = self.stores.seen(remote)?;
        if last.is_some_and(|(last, last_head)| last >= number && last_head.commit != head.commit) {
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
        // Nothing new: where our history was pruned meanwhile, theirs must not come back by a merge.
        let known = self.known(remote)?.map(|known| known.commit);
        if self.git.head()?.is_some() && known == Some(head.commit) {
            return Ok(());
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

    /// Sends the layers that a cold remote lacks. The head to publish then, and how many layers and bytes were
    /// sent.
    fn send(
        &self,
        remote: &str,
        store: &Store,
        state: &ColdState,
        commit: ObjectId,
        progress: &Progress,
    ) -> Result<(Head, (u64, u64)), RemoteError> {
        let kinds = self.settle()?;
        let layers = self.git.layers();
        let mut listed = BTreeMap::new();
        let mut to_send = Vec::new();
        for layer in layers.layers() {
            let name = layer.name();
            let held = match (state.layers.get(name), kinds.get(name)) {
                (Some(held), _) => *held,
                (None, Some(&kind)) => {
                    to_send.push((layer, kind));
                    progress
                        .total_bytes
                        .add(layer.pack_bytes().map_or(0, |bytes| bytes + layer.index_bytes()));
                    let (index_bytes, objects) = (layer.index_bytes(), layer.objects());
                    let pack_bytes = match layer.pack_bytes() {
                        Some(bytes) => bytes,
                        None => self.pack_bytes_there(remote, store, name, kind)?,
                    };
                    Held { kind, pack_bytes, index_bytes, objects }
                }
                // It came meanwhile, and is for the next push.
                (None, None) => continue,
            };
            listed.insert(name.to_owned(), held);
        }
        let mut sent = (0, 0);
        for kind in [LayerKind::Data, LayerKind::Metadata] {
            let of_kind: Vec<_> =
                to_send.iter().filter(|(_, each)| *each == kind).map(|(layer, _)| layer).collect();
            let bytes = AtomicU64::new(0);
            at_once(&of_kind, |layer| {
                let more = self.send_layer(remote, store, layer, kind, progress)?;
                bytes.fetch_add(more, Ordering::Relaxed);
                Ok(())
            })?;
            sent = (sent.0 + of_kind.len() as u64, sent.1 + bytes.into_inner());
        }
        let repository = self.own_id(remote)?.unwrap_or_default();
        let previous = state.commits.last().copied();
        Ok((Head { repository, commit, previous, layers: listed }, sent))
    }

    /// Sends a layer, as far as it is not there. How many bytes were sent.
    fn send_layer(
        &self,
        remote: &str,
        store: &Store,
        layer: &Layer,
        kind: LayerKind,
        progress: &Progress,
    ) -> Result<u64, RemoteError> {
        let names = LayerNames::new(kind, layer.name())?;
        let mut sent = 0;
        let pack = self.git.pack_dir().join(names.pack.key());
        let files = [
            (names.pack, layer.pack_bytes(), pack),
            (names.index, Some(layer.index_bytes()), layer.index_path()),
        ];
        for (name, bytes, path) in files {
            progress.check().map_err(GitError::from)?;
            let there = match store.info(&name) {
                Err(error) if error.is_not_found() => None,
                info => Some(info.map_err(RemoteError::store(remote))?.size),
            };
            // A name is made of the content's hash, and an object is there whole or not at all.
            if bytes.is_none() || there == bytes {
                continue;
            }
            let file = File::open(&path).map_err(RemoteError::io("open", &path))?;
            store.store_file(&name, &file).map_err(RemoteError::store(remote))?;
            sent += bytes.unwrap_or_default();
            progress.bytes.add(bytes.unwrap_or_default());
        }
        Ok(sent)
    }

    /// The size of a `.pack` that is not here and must be in the remote already.
    fn pack_bytes_there(
        &self,
        remote: &str,
        store: &Store,
        layer: &str,
        kind: LayerKind,
    ) -> Result<u64, RemoteError> {
        match store.info(&LayerNames::new(kind, layer)?.pack) {
            Ok(Item { size, .. }) => Ok(size),
            Err(error) if error.is_not_found() => {
                Err(RemoteError::Elsewhere { remote: remote.to_owned(), layer: layer.to_owned() })
            }
            Err(error) => Err(RemoteError::store(remote)(error)),
        }
    }
}

/// The id of the repository that a store is marked to hold; `None` where there is no mark.
fn load_mark(store: &Store, remote: &str, names: &Namespaces) -> Result<Option<String>, RemoteError> {
    let bytes = match store.load(&names.config.name(MARK)?) {
        Err(error) if error.is_not_found() => return Ok(None),
        bytes => bytes.map_err(RemoteError::store(remote))?,
    };
    head::parse_mark(&bytes).map(Some).map_err(|error| unreadable(remote, "config/repository", error))
}

fn load_head(store: &Store, remote: &str, repository: &str, item: &Item) -> Result<Head, RemoteError> {
    let name = item.name.to_string();
    if item.size > MAX_HEAD {
        return Err(unreadable(remote, &name, HeadError::Damaged("it is too large")));
    }
    let bytes = store.load(&item.name).map_err(RemoteError::store(remote))?;
    let head = Head::parse(&bytes).map_err(|error| unreadable(remote, &name, error))?;
    match head.repository == repository {
        true => Ok(head),
        false => Err(unreadable(remote, &name, HeadError::Damaged("it is that of another repository"))),
    }
}

fn unreadable(remote: &str, object: &str, error: HeadError) -> RemoteError {
    match error {
        HeadError::Newer(found) => RemoteError::Version { remote: remote.to_owned(), found, newest: LAYOUT },
        HeadError::Damaged(fault) => {
            let (remote, object) = (remote.to_owned(), object.to_owned());
            RemoteError::Unreadable { remote, object, fault }
        }
    }
}

/// Does `work` with each item, several at once; the first error ends it.
pub(super) fn at_once<T: Sync>(
    items: &[T],
    work: impl Fn(&T) -> Result<(), RemoteError> + Sync,
) -> Result<(), RemoteError> {
    pipeline::ordered(
        LAYERS_AT_ONCE,
        LAYERS_AT_ONCE,
        |feed| items.iter().try_for_each(|item| feed.send(item)).unwrap_or_default(),
        work,
        |result| result,
    )
}
