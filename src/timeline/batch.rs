//! Additions and removals that become visible at once.

use std::collections::HashSet;

use crate::gitkv::{Alone, Committed, LayerUse, Onto, Person, Transaction, TreeEdit};
use crate::layers::{LayerWriter, ObjectId, ObjectKind};

use super::{TimeKey, Timeline, TimelineError, path};

/// Blobs on their way into a [`Timeline`]. Dropped without a commit, it has changed nothing.
pub struct Batch<'a> {
    timeline: &'a Timeline,
    transaction: Transaction<'a>,
    edit: TreeEdit,
    data: Option<LayerWriter>,
    bound: LayerBound,
    bytes_put: u64,
}

/// Which layer a blob goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tier {
    /// One that holds data only, which may be moved out of the repository.
    Data,
    /// The one that holds the trees and the commit too.
    Metadata,
}

/// When a data layer is full. The blob that reaches a bound still goes into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerBound {
    /// Bytes in its pack.
    pub bytes: u64,
    /// Objects.
    pub objects: u32,
}

impl Default for LayerBound {
    fn default() -> Self {
        Self { bytes: 512 << 20, objects: 1 << 20 }
    }
}

impl<'a> Batch<'a> {
    pub(super) fn begin(timeline: &'a Timeline) -> Result<Self, TimelineError> {
        Ok(Self::with(timeline, timeline.git.begin()?))
    }

    pub(super) fn begin_alone(timeline: &'a Timeline, alone: &Alone<'a>) -> Result<Self, TimelineError> {
        Ok(Self::with(timeline, alone.begin()?))
    }

    fn with(timeline: &'a Timeline, transaction: Transaction<'a>) -> Self {
        Self { timeline, transaction, edit: TreeEdit::new(), data: None, bound: timeline.bound, bytes_put: 0 }
    }

    /// Ends layers of data that are written from now on at `bytes`, unless the timeline's bound is lower. A layer
    /// is hashed once more when it ends, so what ends while the rest is still being made costs no waiting.
    pub fn bound_data(&mut self, bytes: u64) {
        self.bound.bytes = self.timeline.bound.bytes.min(bytes);
    }

    /// Adds a blob and returns its path. That the path is new is checked now against this batch, and when it
    /// is committed against the repository.
    pub fn put(
        &mut self,
        kind: &str,
        key: &TimeKey,
        suffix: &str,
        bytes: &[u8],
        tier: Tier,
    ) -> Result<String, TimelineError> {
        let id = match tier {
            Tier::Metadata => self.transaction.blob(bytes)?,
            Tier::Data => {
                let id = self.data_layer()?.write(ObjectKind::Blob, bytes)?;
                self.finish_full_data()?;
                id
            }
        };
        self.bytes_put += bytes.len() as u64;
        let path = path(kind, key, suffix);
        self.edit.add(path.as_bytes(), id)?;
        Ok(path)
    }

    /// Bytes of the blobs that were put so far.
    pub fn bytes_put(&self) -> u64 {
        self.bytes_put
    }

    /// Sets a file that is found by its path alone, and which may be there already.
    pub fn set(&mut self, path: &str, bytes: &[u8]) -> Result<(), TimelineError> {
        let id = self.transaction.blob(bytes)?;
        Ok(self.edit.set(path.as_bytes(), id)?)
    }

    /// Removes what lies at `path`, be it a blob, a directory of blobs, or nothing already.
    pub fn remove(&mut self, path: &str) -> Result<(), TimelineError> {
        Ok(self.edit.remove(path.as_bytes())?)
    }

    /// Copies what is live in a layer, as it lies there, each object to the tier that `tier_of` says; `None`
    /// leaves it out.
    pub fn copy_live(
        &mut self,
        used: &LayerUse,
        tier_of: impl Fn(&ObjectId) -> Option<Tier>,
    ) -> Result<(), TimelineError> {
        let git = &self.timeline.git;
        let layers = git.layers();
        let layer = layers.layers().find(|layer| layer.name() == used.name);
        for object in &used.live {
            match tier_of(&object.0) {
                None => {}
                Some(Tier::Metadata) => git.copy_live(layer, object, self.transaction.layer()?)?,
                Some(Tier::Data) => {
                    git.copy_live(layer, object, self.data_layer()?)?;
                    self.finish_full_data()?;
                }
            }
        }
        Ok(())
    }

    /// Writes an object that is in the repository already once more, into the layer of the commit.
    pub fn copy(&mut self, id: &ObjectId) -> Result<(), TimelineError> {
        Ok(self.transaction.copy(id)?)
    }

    /// Writes what is to stay of a remote's commit; see [`Transaction::trace`].
    pub fn trace(
        &mut self,
        seen: &ObjectId,
        live: &HashSet<ObjectId>,
        who: &Person,
    ) -> Result<ObjectId, TimelineError> {
        Ok(self.transaction.trace(&self.timeline.git, seen, live, who)?)
    }

    /// As [`commit`](Self::commit), as the first commit of a new history, even where the tree stays the same.
    pub fn commit_root(mut self, who: &Person, message: &str) -> Result<Committed, TimelineError> {
        self.finish_data()?;
        let head = self.timeline.git.head()?;
        let base = head.map(|head| self.timeline.git.read_commit(&head)).transpose()?;
        let onto = Onto { expected: head, parents: Vec::new(), base: base.map(|commit| commit.tree) };
        Ok(self.transaction.commit_onto(who, message, onto, &self.edit)?)
    }

    /// Makes everything durable, then visible. `None` when that changes nothing.
    pub fn commit(mut self, who: &Person, message: &str) -> Result<Option<Committed>, TimelineError> {
        self.finish_data()?;
        Ok(self.transaction.commit(who, message, &self.edit)?)
    }

    /// The layer of data that is being written.
    fn data_layer(&mut self) -> Result<&mut LayerWriter, TimelineError> {
        let layer = match self.data.take() {
            Some(layer) => layer,
            None => self.transaction.new_layer()?,
        };
        Ok(self.data.insert(layer))
    }

    fn finish_full_data(&mut self) -> Result<(), TimelineError> {
        let LayerBound { bytes, objects } = self.bound;
        match &self.data {
            Some(layer) if layer.bytes() >= bytes || layer.objects() >= objects => self.finish_data(),
            _ => Ok(()),
        }
    }

    fn finish_data(&mut self) -> Result<(), TimelineError> {
        match self.data.take() {
            Some(layer) => Ok(self.transaction.finish_layer(layer)?),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use std::thread;

    use super::*;
    use crate::gitkv::GitError;

    fn who() -> Person {
        Person::new("A", "a@example.org", Timestamp::UNIX_EPOCH)
    }

    fn noon() -> Timestamp {
        "2026-11-20T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn data_and_metadata_go_into_different_layers() {
        let dir = tempfile::tempdir().unwrap();
        let bound = LayerBound { bytes: u64::MAX, objects: 2 };
        let timeline = Timeline::create(&dir.path().join("repo.git")).unwrap().with_layer_bound(bound);
        let key = timeline.key(noon()).unwrap();
        let mut batch = timeline.begin().unwrap();
        let mut volumes = Vec::new();
        for number in 0..5u8 {
            let bytes: Vec<u8> =
                (0..2000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8 ^ number).collect();
            let path = batch.put("archives", &key, &format!("-{number}.tar.gz"), &bytes, Tier::Data).unwrap();
            volumes.push((path, bytes));
        }
        batch.put("snapshots", &key, ".cbor", b"names them", Tier::Metadata).unwrap();
        assert!(timeline.find(&volumes[0].0).unwrap().is_none(), "nothing is visible yet");
        let committed = batch.commit(&who(), "Add").unwrap().unwrap();
        let objects: Vec<_> = committed.layers.iter().map(|layer| layer.objects).collect();
        let metadata = 1 + 1 + 4 + 4 + 1;
        assert_eq!(
            objects,
            [2, 2, 1, metadata],
            "a root, two kinds with years, months and days, a blob, a commit"
        );
        for (path, bytes) in volumes {
            let id = timeline.find(&path).unwrap().unwrap();
            assert_eq!(timeline.read(&id).unwrap(), bytes);
            assert_eq!(timeline.read_range(&id, 1990, 100).unwrap(), bytes[1990..]);
        }
        let id = timeline.get("snapshots", &key, ".cbor").unwrap().unwrap();
        assert_eq!(timeline.read(&id).unwrap(), b"names them");
        assert_eq!(timeline.get("snapshots", &key, "").unwrap(), None);
    }

    #[test]
    fn a_blob_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let timeline = Timeline::create(&dir.path().join("repo.git")).unwrap();
        let key = timeline.key(noon()).unwrap();
        let add = |bytes: &[u8]| {
            let mut batch = timeline.begin()?;
            batch.put("kind", &key, "", bytes, Tier::Metadata)?;
            batch.commit(&who(), "Add")
        };
        add(b"one").unwrap();
        let error = add(b"two").unwrap_err();
        assert!(matches!(error, TimelineError::Git(GitError::Exists(_))), "{error}");
        let id = timeline.get("kind", &key, "").unwrap().unwrap();
        assert_eq!(timeline.read(&id).unwrap(), b"one");
    }

    #[test]
    fn what_would_leave_its_kind_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let timeline = Timeline::create(&dir.path().join("repo.git")).unwrap();
        let key = timeline.key(noon()).unwrap();
        let mut batch = timeline.begin().unwrap();
        for (kind, suffix) in [("", ""), ("..", ""), ("/a", ""), (".git", ""), ("a", "/../b"), ("a", "\n")] {
            let refused = batch.put(kind, &key, suffix, b"", Tier::Metadata);
            assert!(matches!(refused, Err(TimelineError::Git(GitError::Path { .. }))), "{kind:?} {suffix:?}");
        }
    }

    #[test]
    fn removes_what_is_named_and_keeps_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let timeline = Timeline::create(&dir.path().join("repo.git")).unwrap();
        let keys = [timeline.key(noon()).unwrap(), timeline.key(noon()).unwrap()];
        let mut batch = timeline.begin().unwrap();
        let paths = keys.map(|key| batch.put("kind", &key, "", b"x", Tier::Data).unwrap());
        batch.set("config", b"1").unwrap();
        batch.commit(&who(), "Add").unwrap();
        let mut batch = timeline.begin().unwrap();
        batch.remove(&paths[0]).unwrap();
        batch.set("config", b"2").unwrap();
        batch.commit(&who(), "Remove").unwrap();
        let left: Vec<_> = timeline.list("kind", ..).unwrap().map(|blob| blob.unwrap().key).collect();
        assert_eq!(left, [keys[1]]);
        let config = timeline.find("config").unwrap().unwrap();
        assert_eq!(timeline.read(&config).unwrap(), b"2");
    }

    #[test]
    fn batches_at_one_time_all_land_in_order_of_arrival() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("repo.git");
        Timeline::create(&path).unwrap();
        thread::scope(|scope| {
            for writer in 0..3u8 {
                let path = &path;
                scope.spawn(move || {
                    let timeline = Timeline::open(path).unwrap();
                    for number in 0..4u8 {
                        let mut batch = timeline.begin().unwrap();
                        let key = timeline.key(noon()).unwrap();
                        batch.put("kind", &key, "", &[writer, number], Tier::Data).unwrap();
                        batch.commit(&who(), "Add").unwrap().unwrap();
                    }
                });
            }
        });
        let timeline = Timeline::open(&path).unwrap();
        let blobs: Vec<_> = timeline
            .list("kind", noon()..=noon())
            .unwrap()
            .map(|blob| timeline.read(&blob.unwrap().id).unwrap())
            .collect();
        assert_eq!(blobs.len(), 12);
        for writer in 0..3 {
            assert!(blobs.iter().filter(|blob| blob[0] == writer).map(|blob| blob[1]).eq(0..4));
        }
    }

    #[test]
    fn an_abandoned_batch_leaves_layers_that_the_sweep_removes() {
        let dir = tempfile::tempdir().unwrap();
        let bound = LayerBound { bytes: 1, objects: 1 };
        let timeline = Timeline::create(&dir.path().join("repo.git")).unwrap().with_layer_bound(bound);
        let mut batch = timeline.begin().unwrap();
        batch.put("kind", &timeline.key(noon()).unwrap(), "", b"x", Tier::Data).unwrap();
        assert!(timeline.sweep().unwrap().busy);
        drop(batch);
        // A process that another test is just starting may still hold a copy of the lock.
        let mut sweeps = std::iter::repeat_with(|| timeline.sweep().unwrap());
        assert_eq!(sweeps.find(|swept| !swept.busy).unwrap().layers, 1);
        assert_eq!(timeline.git().layers().layers().len(), 0);
    }
}
