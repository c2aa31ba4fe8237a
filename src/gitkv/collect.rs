//! Taking away what nothing names any more.
//!
//! Whoever does that must be [`Alone`]: a writer may rely on objects that no reference reaches yet, or that
//! one will reach again. What is live is found from references, never from times. A layer is removed when
//! every live object in it lies in another layer that stays; a process that dies while it removes some leaves
//! the rest for the next.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::PathBuf;

use crate::atomic;
use crate::layers::{Layer, LayerWriter, ObjectId};
use crate::pipeline;

use super::leftovers::Swept;
use super::transaction::Transaction;
use super::tree::Mode;
use super::writers::{Writing, remove_layer};
use super::{Git, GitError};

/// Threads that remove layers. Some file systems wait for the disk when a file goes, and do so for several at once.
const REMOVERS: usize = 4;

/// The right to be the only one who writes or relies on what is written; it ends with the process or when
/// dropped.
pub struct Alone<'a> {
    git: &'a Git,
    _lock: File,
}

/// How much of a layer is live.
#[derive(Debug, Clone)]
pub struct LayerUse {
    /// Its name.
    pub name: String,
    /// The size of its `.pack`; `None` where that is elsewhere, and only its `.idx` here.
    pub pack_bytes: Option<u64>,
    /// The live objects for which it stays, and which bytes of the `.pack` they take; each lies in one layer.
    pub live: Vec<(ObjectId, Range<u64>)>,
}

impl LayerUse {
    /// The bytes of its pack that live objects take.
    pub fn live_bytes(&self) -> u64 {
        self.live.iter().map(|(_, range)| range.end - range.start).sum()
    }
}

/// What was taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Collected {
    /// Layers.
    pub layers: u64,
    /// Objects that git had stored each in a file of its own.
    pub loose: u64,
    /// The bytes of all of them.
    pub bytes: u64,
}

impl Git {
    /// Waits until nobody writes, for some seconds, and keeps everybody from it.
    pub fn alone(&self) -> Result<Alone<'_>, GitError> {
        Ok(Alone { git: self, _lock: self.lock_out_writers()? })
    }

    /// The same without waiting; `None` while somebody writes.
    pub fn try_alone(&self) -> Result<Option<Alone<'_>>, GitError> {
        Ok(self.try_lock_out_writers()?.map(|lock| Alone { git: self, _lock: lock }))
    }

    /// The objects that git has stored each in a file of its own, and the files.
    pub fn loose_objects(&self) -> Result<Vec<(ObjectId, PathBuf)>, GitError> {
        let objects = self.path().join("objects");
        let mut found = Vec::new();
        for first in 0..=u8::MAX {
            let directory = objects.join(format!("{first:02x}"));
            let files = match fs::read_dir(&directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                files => files.map_err(GitError::io("list", &directory))?,
            };
            for file in files {
                let file = file.map_err(GitError::io("list", &directory))?;
                let name = format!("{first:02x}{}", file.file_name().to_string_lossy());
                found.extend(name.parse().ok().map(|id| (id, file.path())));
            }
        }
        Ok(found)
    }

    /// Every object that `tips` (commits, trees, tags or blobs, each of some mode) reach. About 40 bytes each.
    pub fn reachable(&self, tips: Vec<(ObjectId, Mode)>) -> Result<HashSet<ObjectId>, GitError> {
        let mut seen = HashSet::new();
        let mut to_do = tips;
        while let Some((id, mode)) = to_do.pop() {
            if seen.insert(id) && matches!(mode, Mode::Directory | Mode::Module) {
                self.push_named(&id, &mut to_do)?;
            }
        }
        Ok(seen)
    }

    /// How much of each layer is live. A live object that several hold counts in the one that wastes the smallest
    /// part of itself, rather where the `.pack` is here, and in a layer that is called one of `last` only when no
    /// other has it; one that is not of `volumes` rather in a layer that has none of those, since the others may be put
    /// away.
    pub fn layer_uses(
        &self,
        live: &HashSet<ObjectId>,
        volumes: &HashSet<ObjectId>,
        last: &HashSet<String>,
    ) -> Result<Vec<LayerUse>, GitError> {
        let layers = self.refresh()?;
        let mut uses: Vec<LayerUse> = Vec::new();
        for layer in layers.layers() {
            let extents =
                layer.extents().unwrap_or_else(|| layer.ids().map(|id| (id, 0..0)).collect::<Vec<_>>());
            let live = extents.into_iter().filter(|(id, _)| live.contains(id)).collect();
            uses.push(LayerUse { name: layer.name().to_owned(), pack_bytes: layer.pack_bytes(), live });
        }
        uses.sort_by(|one, other| {
            let part = |used: &LayerUse| match used.pack_bytes {
                None => -2.0,
                Some(_) if last.contains(&used.name) => -1.0,
                Some(all) => used.live_bytes() as f64 / all.max(1) as f64,
            };
            part(other).total_cmp(&part(one)).then_with(|| one.name.cmp(&other.name))
        });
        let has_volume = |used: &LayerUse| used.live.iter().any(|(id, _)| volumes.contains(id));
        let stays = |used: &LayerUse| used.pack_bytes.is_some() && !last.contains(&used.name);
        let mixed: Vec<bool> = uses.iter().map(|used| stays(used) && has_volume(used)).collect();
        let mut apart = HashSet::new();
        if mixed.contains(&true) {
            let others = uses.iter().zip(&mixed).filter(|(used, mixed)| stays(used) && !**mixed);
            apart.extend(others.flat_map(|(used, _)| used.live.iter().map(|(id, _)| *id)));
        }
        let mut taken = HashSet::new();
        for (used, mixed) in uses.iter_mut().zip(mixed) {
            let is_elsewhere = |id: &ObjectId| mixed && !volumes.contains(id) && apart.contains(id);
            used.live.retain(|(id, _)| !is_elsewhere(id) && taken.insert(*id));
        }
        Ok(uses)
    }

    /// Copies a live object of a layer into `writer`: as it lies there, or, where git has stored it as a delta
    /// or the layer is not here, whole.
    pub fn copy_live(
        &self,
        layer: Option<&Layer>,
        (id, range): &(ObjectId, Range<u64>),
        writer: &mut LayerWriter,
    ) -> Result<(), GitError> {
        let copied = layer.map(|layer| writer.copy(layer, id, range.clone())).transpose()?;
        if copied != Some(true) {
            let (kind, bytes) = self.read_any(id)?;
            writer.write(kind, &bytes)?;
        }
        Ok(())
    }
}

impl<'a> Alone<'a> {
    pub(super) fn git(&self) -> &'a Git {
        self.git
    }

    /// Begins a transaction, for which this must live on.
    pub fn begin(&self) -> Result<Transaction<'a>, GitError> {
        Ok(Transaction::new(self.git, Writing::alone(self.git)?))
    }

    /// Removes what writers who died left; see [`Git::sweep`].
    pub fn sweep(&self) -> Result<Swept, GitError> {
        self.git.sweep_alone()
    }

    /// Removes every layer, and every loose object, without which no object of `live` is missing; of two layers
    /// that hold the same rather one called one of `copied`, or, for what is not a volume, one that holds volumes. `live`
    /// must have all that is to stay.
    pub fn collect(
        &self,
        live: &HashSet<ObjectId>,
        volumes: &HashSet<ObjectId>,
        copied: &HashSet<String>,
    ) -> Result<Collected, GitError> {
        let mut collected = Collected::default();
        let pack_dir = self.git.pack_dir();
        let uses = self.git.layer_uses(live, volumes, copied)?;
        let dead: Vec<_> = uses.into_iter().filter(|used| used.live.is_empty()).collect();
        if !dead.is_empty() {
            self.git.remove_pack_list()?;
        }
        pipeline::ordered(
            REMOVERS,
            2 * REMOVERS,
            |feed| dead.iter().try_for_each(|used| feed.send(used)).unwrap_or_default(),
            |used| remove_layer(&pack_dir, &used.name).map(|()| used),
            |removed| {
                collected.layers += 1;
                collected.bytes += removed?.pack_bytes.unwrap_or(0);
                Ok::<_, GitError>(())
            },
        )?;
        if !dead.is_empty() {
            atomic::sync_dir(&pack_dir).map_err(GitError::io("sync", &pack_dir))?;
        }
        self.collect_loose(live, &mut collected)?;
        self.git.refresh()?;
        self.git.renew_promise()?;
        Ok(collected)
    }

    /// Removes loose objects that are not live.
    fn collect_loose(&self, live: &HashSet<ObjectId>, collected: &mut Collected) -> Result<(), GitError> {
        for (_, path) in self.git.loose_objects()?.iter().filter(|(id, _)| !live.contains(id)) {
            collected.bytes += fs::metadata(path).map_or(0, |metadata| metadata.len());
            collected.loose += 1;
            fs::remove_file(path).map_err(GitError::io("remove", path))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::TreeEdit;
    use super::super::testing::{Fixture, who};
    use super::super::transaction::Onto;
    use super::*;

    /// Every object that the branch's tree needs, and its commit without those before it.
    fn live(git: &Git) -> HashSet<ObjectId> {
        let head = git.head().unwrap().unwrap();
        let tree = git.read_commit(&head).unwrap().tree;
        let mut live = git.reachable(vec![(tree, Mode::Directory)]).unwrap();
        live.insert(head);
        live
    }

    fn begin_anew(fixture: &Fixture, git: &Git, gone: &str) {
        let alone = git.alone().unwrap();
        let head = git.head().unwrap().unwrap();
        let mut edit = TreeEdit::new();
        edit.remove(gone.as_bytes()).unwrap();
        let onto = Onto {
            expected: Some(head),
            parents: Vec::new(),
            base: Some(git.read_commit(&head).unwrap().tree),
        };
        alone.begin().unwrap().commit_onto(&who(), "Prune", onto, &edit).unwrap();
        fixture.fsck();
    }

    #[test]
    fn layers_and_loose_objects_that_nothing_needs_go_and_the_rest_stays() {
        let fixture = Fixture::new();
        let git = fixture.open();
        fixture.commit(&git, &[("a/1", "1")]);
        fixture.commit(&git, &[("b/2", "2")]);
        fixture.run(&["hash-object", "-w", "-t", "blob", "HEAD"]);
        begin_anew(&fixture, &git, "a/1");
        let collected = git.alone().unwrap().collect(&live(&git), &HashSet::new(), &HashSet::new()).unwrap();
        assert_eq!((collected.layers, collected.loose), (1, 1));
        assert!(collected.bytes > 0);
        assert_eq!(git.layers().layers().len(), 2);
        assert_eq!(fixture.run(&["cat-file", "blob", "main:b/2"]), "2");
        fixture.fsck();
        assert_eq!(
            git.alone().unwrap().collect(&live(&git), &HashSet::new(), &HashSet::new()).unwrap(),
            Collected::default()
        );
    }

    #[test]
    fn of_two_layers_with_the_same_object_one_stays() {
        let fixture = Fixture::new();
        let git = fixture.open();
        fixture.commit(&git, &[("a", "same"), ("b", "other")]);
        let mut again = LayerWriter::create(&git.pack_dir()).unwrap();
        again.write(crate::layers::ObjectKind::Blob, b"same").unwrap();
        again.finish().unwrap();
        let collected = git.alone().unwrap().collect(&live(&git), &HashSet::new(), &HashSet::new()).unwrap();
        assert_eq!(collected.layers, 1);
        fixture.fsck();
    }

    #[test]
    fn what_is_no_volume_counts_in_a_layer_without_one() {
        let fixture = Fixture::new();
        let git = fixture.open();
        fixture.commit(&git, &[("volume", &"x".repeat(5000)), ("record", "describes")]);
        let id = |path: &str| fixture.run(&["rev-parse", &format!("main:{path}")]).trim().parse().unwrap();
        let (volume, record): (ObjectId, ObjectId) = (id("volume"), id("record"));
        let mut copy = LayerWriter::create(&git.pack_dir()).unwrap();
        copy.write(crate::layers::ObjectKind::Blob, b"describes").unwrap();
        copy.write(crate::layers::ObjectKind::Blob, b"nothing needs that, and so much of it is here")
            .unwrap();
        let copy = copy.finish().unwrap().unwrap().name;
        let counts_in_copy = |volumes: &HashSet<ObjectId>| {
            let uses = git.layer_uses(&live(&git), volumes, &HashSet::new()).unwrap();
            let used = uses.iter().find(|used| used.name == copy).unwrap();
            used.live.iter().any(|(id, _)| *id == record)
        };
        assert!(!counts_in_copy(&HashSet::new()), "it wastes more");
        assert!(counts_in_copy(&HashSet::from([volume])));
    }

    #[test]
    fn live_objects_are_copied_and_the_layer_can_go() {
        let fixture = Fixture::new();
        let git = fixture.open();
        fixture.commit(&git, &[("a", "1"), ("b", "2")]);
        begin_anew(&fixture, &git, "a");
        let alone = git.alone().unwrap();
        let mut transaction = alone.begin().unwrap();
        let layers = git.layers();
        for used in git.layer_uses(&live(&git), &HashSet::new(), &HashSet::new()).unwrap() {
            assert!(used.live_bytes() < used.pack_bytes.unwrap());
            let layer = layers.layers().find(|layer| layer.name() == used.name);
            for one in &used.live {
                git.copy_live(layer, one, transaction.layer().unwrap()).unwrap();
            }
        }
        let head = git.head().unwrap();
        let onto = Onto { expected: head, parents: Vec::new(), base: None };
        let mut edit = TreeEdit::new();
        edit.set(b"c", transaction.blob(b"3").unwrap()).unwrap();
        transaction.commit_onto(&who(), "Copy", onto, &edit).unwrap();
        assert_eq!(alone.collect(&live(&git), &HashSet::new(), &HashSet::new()).unwrap().layers, 2);
        assert_eq!(git.layers().layers().len(), 1);
        fixture.fsck();
    }

    #[test]
    fn writers_wait_for_whoever_is_alone_and_the_other_way_round() {
        let fixture = Fixture::new();
        let git = fixture.open();
        let alone = git.alone().unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| fixture.commit(&fixture.open(), &[("a", "1")]));
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert_eq!(git.head().unwrap(), None);
            drop(alone);
            writer.join().unwrap();
        });
        let writing = git.begin().unwrap();
        std::thread::scope(|scope| {
            let other = fixture.open();
            let waiting = scope.spawn(move || other.alone().map(drop));
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert!(!waiting.is_finished());
            drop(writing);
            waiting.join().unwrap().unwrap();
        });
    }
}
