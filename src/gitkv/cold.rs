//! Layers whose packs lie elsewhere.
//!
//! Of such a layer only the `.idx` is here, in `objects/cold`, and git does not know of it. It would call the
//! objects missing. What it has for that is the partial clone: objects that a pack marked by a `.promisor` file
//! names may be missing, when some remote promises to have them. [`Git::promise`] sets both.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use tempfile::NamedTempFile;

use crate::atomic;
use crate::layers::{self, Cold, LayerInfo, LayerWriter, ObjectId};

use super::writers::remove_layer;
use super::{Git, GitError};

/// The setting by which git knows that somebody has the objects that are missing. The remote has no URL: git
/// cannot fetch from it, and says so.
const PROMISE: &str = "remote.treering.promisor";

impl Git {
    /// Moves the packs of another repository of this file system here, durably. The index of a layer whose pack was lost
    /// goes when other layers hold all that it names.
    pub fn take_packs(&self, from: &Git) -> Result<(), GitError> {
        let (there, here) = (from.pack_dir(), self.pack_dir());
        let list = || -> io::Result<Vec<OsString>> {
            fs::read_dir(&there)?.map(|entry| Ok(entry?.file_name())).collect()
        };
        let names = list().map_err(GitError::io("list", &there))?;
        // A pack is there when its index is.
        for end in ["pack", "idx"] {
            for name in
                names.iter().filter(|name| Path::new(name).extension().is_some_and(|found| found == end))
            {
                let (old, new) = (there.join(name), here.join(name));
                let moved =
                    File::open(&old).and_then(|file| file.sync_all()).and_then(|()| fs::rename(&old, &new));
                moved.map_err(GitError::io("move", &old))?;
            }
            atomic::sync_dir(&here).map_err(GitError::io("sync", &here))?;
        }
        let layers = self.refresh()?;
        let (whole, hollow): (Vec<_>, Vec<_>) =
            layers.layers().partition(|layer| layer.pack_bytes().is_some());
        let held: HashSet<ObjectId> = whole.into_iter().flat_map(|layer| layer.ids()).collect();
        for layer in hollow.into_iter().filter(|layer| layer.ids().all(|id| held.contains(&id))) {
            if here.join(format!("{}.idx", layer.name())).exists() {
                remove_layer(&here, layer.name())?;
            }
        }
        atomic::sync_dir(&here).map_err(GitError::io("sync", &here))?;
        self.refresh()?;
        Ok(())
    }

    /// From now on, objects of layers whose packs are not here are read from `cold`.
    pub fn read_cold(&self, cold: Arc<Cold>) -> Result<(), GitError> {
        let mut layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
        *layers = layers.with_cold(cold)?;
        Ok(())
    }

    /// A temporary file where packs lie, for a pack to be written to.
    pub fn temporary_pack(&self) -> Result<NamedTempFile, GitError> {
        let pack_dir = self.pack_dir();
        atomic::temporary(&pack_dir, layers::MODE).map_err(GitError::io("write to", &pack_dir))
    }

    /// Adds the layer `name` with the bytes of its `.idx`, and its `.pack` if there is one; both are checked
    /// first.
    pub fn add_layer(&self, name: &str, index: &[u8], pack: Option<NamedTempFile>) -> Result<(), GitError> {
        let pack_dir = self.pack_dir();
        match pack {
            Some(pack) => layers::place_pack(&pack_dir, name, index, pack)?,
            None => layers::place_index(&pack_dir, name, index)?,
        }
        Ok(())
    }

    /// Removes the pack of a layer that lies elsewhere too; the layer is cold then.
    pub fn remove_pack(&self, name: &str) -> Result<(), GitError> {
        self.promise()?;
        layers::remove_pack(&self.pack_dir(), name)?;
        self.refresh().map(drop)
    }

    /// Finishes what a killed [`remove_pack`](Self::remove_pack) left: the index of a layer whose pack is here, and
    /// was found to be sound, returns to its place beside it. Whether it had to.
    pub fn reclaim_pack(&self, name: &str) -> Result<bool, GitError> {
        let reclaimed = layers::reclaim_pack(&self.pack_dir(), name)?;
        if reclaimed {
            self.refresh()?;
            self.renew_promise()?;
        }
        Ok(reclaimed)
    }

    /// Tells git that objects which the packs here name may lie elsewhere.
    pub fn promise(&self) -> Result<(), GitError> {
        if !self.has_promised()? {
            self.configure(|config| config.set_bool(PROMISE, true))?;
        }
        self.mark_packs()
    }

    /// Makes the promise again, where it was made, for packs that came since.
    pub(super) fn renew_promise(&self) -> Result<(), GitError> {
        if self.has_promised()? { self.mark_packs() } else { Ok(()) }
    }

    fn has_promised(&self) -> Result<bool, GitError> {
        let config = self.libgit2().config().map_err(GitError::git("read the configuration of git"))?;
        Ok(config.get_bool(PROMISE).unwrap_or(false))
    }

    fn mark_packs(&self) -> Result<(), GitError> {
        let pack_dir = self.pack_dir();
        for layer in self.refresh()?.layers().filter(|layer| layer.pack_bytes().is_some()) {
            let mark = pack_dir.join(format!("{}.promisor", layer.name()));
            match File::create_new(&mark) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(GitError::io("make", &mark)(error));
                }
                _ => {}
            }
        }
        atomic::sync_dir(&pack_dir).map_err(GitError::io("sync", &pack_dir))
    }

    /// Writes the objects into a new layer, which no reference needs to reach. `None` when there are none.
    pub fn copy_to_layer(&self, ids: &[ObjectId]) -> Result<Option<LayerInfo>, GitError> {
        let mut layer = LayerWriter::create(&self.pack_dir())?;
        for id in ids {
            let (kind, bytes) = self.read_any(id)?;
            layer.write(kind, &bytes)?;
        }
        Ok(layer.finish()?)
    }
}
