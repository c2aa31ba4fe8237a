//! Who is writing, and what those left who died while they did.
//!
//! A writer holds a shared `flock` and has a marker file from before its first layer is there until a commit
//! names its layers. A marker whose writer holds no lock is one of a dead writer. So the sweep costs some
//! listings unless somebody died, and it takes the lock exclusively, so that it never
//! sees the layers of a living writer.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::atomic;
use crate::layers::{self, LayerInfo, LayerSet, LayerWriter, ObjectId, ObjectKind};
use crate::removals::REMOTES;

use super::create;
use super::git::{parse_commit, parse_tree};
use super::leftovers::{self, FORGOTTEN, LOOK, SETTLED, Swept};
use super::lockfile::{Turn, age, open_lock, wait_for, wait_for_opened};
use super::remotes::TURN as GIT_TURN;
use super::tree::Mode;
use super::{Git, GitError};

/// The file that writers lock.
const WRITERS: &str = "writers.lock";

/// What the name of every marker begins with.
const MARKER_PREFIX: &str = "writer-";

/// While it lives, no layer is swept, be it reached or not; it ends with the process or when dropped.
#[derive(Debug)]
pub struct KeepLayers {
    _lock: File,
}

/// The right to add layers; it ends with the process or when dropped.
pub(super) struct Writing {
    /// `None` for one who is alone in the repository anyway.
    _keep: Option<KeepLayers>,
    marker: PathBuf,
    /// Whether there may be layers that no reference reaches.
    loose_ends: bool,
}

impl Writing {
    pub fn begin(git: &Git) -> Result<Self, GitError> {
        Self::with(git, Some(git.keep_layers()?))
    }

    /// For one who holds the lock of the writers exclusively, for as long as this lives.
    pub fn alone(git: &Git) -> Result<Self, GitError> {
        Self::with(git, None)
    }

    fn with(git: &Git, keep: Option<KeepLayers>) -> Result<Self, GitError> {
        let marker = git.private_dir()?.join(format!("{MARKER_PREFIX}{:016x}", getrandom::u64()?));
        // Not synced: a killed process leaves it all the same, and a power failure can at worst leave a layer
        // that nothing names.
        File::create_new(&marker).map_err(GitError::io("make", &marker))?;
        Ok(Self { _keep: keep, marker, loose_ends: false })
    }

    /// Makes a layer durable, on the promise that [`done`](Self::done) follows when a commit names it.
    pub fn finish(&mut self, layer: LayerWriter) -> Result<Option<LayerInfo>, GitError> {
        self.loose_ends |= layer.objects() > 0;
        Ok(layer.finish()?)
    }

    /// Every layer that was made is named by now.
    pub fn done(&mut self) {
        self.loose_ends = false;
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if !self.loose_ends {
            // A marker that stays only makes the next sweep look.
            let _ = fs::remove_file(&self.marker);
        }
    }
}

impl Git {
    /// Keeps every sweep from the layers for a while. To be held around whatever makes a reference reach
    /// objects that are there already: a fetch takes an object that a dead writer left for one that it need
    /// not get.
    pub fn keep_layers(&self) -> Result<KeepLayers, GitError> {
        let path = self.private_dir()?.join(WRITERS);
        let lock =
            wait_for(&path, File::try_lock_shared).or_else(|error| match (&error, File::open(&path)) {
                // Whoever may only read can lock it all the same.
                (GitError::Io { .. }, Ok(file)) => wait_for_opened(&path, file, File::try_lock_shared),
                _ => Err(error),
            })?;
        // Git itself is stopped by them. Who may only read leaves them to others.
        let _ = Turn::remove_dead_locks_of(self.path(), &self.private_dir()?);
        Ok(KeepLayers { _lock: lock })
    }

    /// Removes what dead processes left, whatever they did: unfinished files, of this program and of git, and
    /// layers without which nothing that a reference reaches is missing.
    ///
    /// Does nothing while somebody writes, and next to nothing when nobody died. Only layers made by this
    /// crate and no older than the oldest marker of a dead writer are looked at; a clock that was set back
    /// can hide one, never remove one in use. Of git's temporary files those go of which it is
    /// known that nobody uses them.
    pub fn sweep(&self) -> Result<Swept, GitError> {
        let private = self.private_dir()?;
        let swept = self.sweep_beside()?;
        if markers(&private).map_err(GitError::io("list", &private))?.is_empty()
            && self.unfinished()?.is_empty()
        {
            return Ok(swept);
        }
        match self.try_lock_out_writers()? {
            Some(_lock) => Ok(swept + self.sweep_layers()?),
            None => Ok(Swept { busy: true, ..swept }),
        }
    }

    /// The sweep, by one who holds the lock of the writers exclusively.
    pub(super) fn sweep_alone(&self) -> Result<Swept, GitError> {
        Ok(self.sweep_beside()? + self.sweep_layers()? + self.remove_lone_packs()?)
    }

    /// Removes what needs no lock to be known as nobody's.
    fn sweep_beside(&self) -> Result<Swept, GitError> {
        let mut swept = create::sweep(self.path())?;
        let private = self.private_dir()?;
        let left = temporaries(&private).map_err(GitError::io("list", &private))?;
        if !left.is_empty() {
            // Whoever takes the turn to change references removes them, with the locks that they stand for.
            drop(self.turn()?);
            for (_, bytes) in left.iter().filter(|(path, _)| !path.exists()) {
                swept = swept + Swept { files: 1, bytes: *bytes, ..Swept::default() };
            }
        }
        let directories = fs::read_dir(private.join(REMOTES)).into_iter().flatten().filter_map(Result::ok);
        for directory in directories.map(|entry| entry.path()).filter(|path| path.is_dir()) {
            match atomic::sweep(&directory) {
                // What another user has there is not this one's to remove.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                result => {
                    let (files, bytes) = result.map_err(GitError::io("clean up", &directory))?;
                    swept = swept + Swept { files, bytes, ..Swept::default() };
                }
            }
        }
        // Whoever has the turn to run git cleans up before. Where there is no such file, git has never run.
        let turn = private.join(GIT_TURN);
        if turn.exists() {
            let turn = open_lock(&turn)?;
            if turn.try_lock().is_ok() {
                swept = swept + self.remove_leftovers_of_git(None)?;
            }
        }
        let mut clean = || {
            leftovers::forgotten(self.path())?.iter().try_for_each(|path| leftovers::remove(path, &mut swept))
        };
        clean().map_err(GitError::io("clean up", self.path()))?;
        Ok(swept)
    }

    /// The sweep of layers, by one who holds the lock of the writers exclusively.
    fn sweep_layers(&self) -> Result<Swept, GitError> {
        let private = self.private_dir()?;
        // Those who wrote a moment ago have removed theirs by now.
        let markers = markers(&private).map_err(GitError::io("list", &private))?;
        let mut swept = self.remove_unfinished()?;
        if let Some(oldest) = markers.iter().map(|&(_, made)| made).min() {
            swept = swept + self.remove_unreached(oldest)?;
        }
        for (marker, _) in &markers {
            fs::remove_file(marker).map_err(GitError::io("remove", marker))?;
        }
        Ok(swept)
    }

    /// Files among the layers that belong to no layer: temporary ones of this program, packs of its own without
    /// an index, and what is left of layers that were being removed.
    fn unfinished(&self) -> Result<Vec<PathBuf>, GitError> {
        let pack_dir = self.pack_dir();
        let mut found = Vec::new();
        let files = fs::read_dir(&pack_dir).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
        for file in files.map_err(GitError::io("list", &pack_dir))? {
            let path = file.path();
            let is_there = |extension: &str| path.with_extension(extension).exists();
            let is_unfinished = match path.extension().and_then(|extension| extension.to_str()) {
                _ if file.file_name().as_encoded_bytes().starts_with(atomic::TEMP_PREFIX.as_bytes()) => true,
                // One whose index lies with those of cold layers is being brought or given back.
                Some("pack") => {
                    !is_there("idx") && is_ours(&path) && !crate::layers::has_cold_index(&pack_dir, &path)
                }
                Some("keep") => is_lone_keep(&path),
                Some("promisor" | "rev" | "bitmap" | "mtimes") => {
                    !is_there("idx") && !is_there("pack") && age(&path).is_some_and(|age| age >= FORGOTTEN)
                }
                _ => false,
            };
            if is_unfinished {
                found.push(path);
            }
        }
        found.extend(
            layers::doubled_indexes(&pack_dir).map_err(GitError::io("look for layers beside", &pack_dir))?,
        );
        Ok(found)
    }

    /// Removes unfinished files. A pack without an index may be all that is left of a layer that was damaged, so it
    /// goes only when nothing is missing without it.
    fn remove_unfinished(&self) -> Result<Swept, GitError> {
        let mut swept = Swept::default();
        let pack_dir = self.pack_dir();
        let (packs, others): (Vec<_>, Vec<_>) = self
            .unfinished()?
            .into_iter()
            .partition(|path| path.extension().is_some_and(|extension| extension == "pack"));
        let gone = if packs.is_empty() || !self.is_complete() { others } else { [others, packs].concat() };
        for path in &gone {
            let mut lost = || leftovers::remove(path, &mut swept);
            lost().map_err(GitError::io("remove", path))?;
            let keep = path.with_extension("keep");
            if is_lone_keep(&keep) {
                fs::remove_file(&keep).map_err(GitError::io("remove", &keep))?;
            }
        }
        if !gone.is_empty() {
            atomic::sync_dir(&pack_dir).map_err(GitError::io("sync", &pack_dir))?;
        }
        Ok(swept)
    }

    /// Packs without an index that this crate did not make, and that nobody has marked to be kept. Git looks at none.
    pub fn lone_packs(&self) -> Result<Vec<PathBuf>, GitError> {
        let pack_dir = self.pack_dir();
        let files = fs::read_dir(&pack_dir).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
        let mut found = Vec::new();
        for file in files.map_err(GitError::io("list", &pack_dir))? {
            let path = file.path();
            let is_there = |extension: &str| path.with_extension(extension).exists();
            let is_lone = path.extension().is_some_and(|extension| extension == "pack")
                && !file.file_type().is_ok_and(|kind| kind.is_dir())
                && !["idx", "keep"].into_iter().any(is_there)
                && !layers::has_cold_index(&pack_dir, &path);
            if is_lone {
                found.push(path);
            }
        }
        Ok(found)
    }

    /// Removes [`lone_packs`](Self::lone_packs), by one who holds the lock of the writers exclusively, if nothing is
    /// missing without them. A git that somebody runs gives a pack its name before the index, so this waits some seconds.
    fn remove_lone_packs(&self) -> Result<Swept, GitError> {
        let mut swept = Swept::default();
        let mut waited = Duration::ZERO;
        let packs = loop {
            let packs = self.lone_packs()?;
            if packs.is_empty() {
                return Ok(swept);
            }
            let is_settled = |path: &PathBuf| renamed_ago(path).is_some_and(|ago| ago >= SETTLED);
            if packs.iter().all(is_settled) {
                break packs;
            }
            if waited > SETTLED {
                return Ok(swept);
            }
            thread::sleep(LOOK);
            waited += LOOK;
        };
        let paths: Vec<&Path> = packs.iter().map(PathBuf::as_path).collect();
        if leftovers::are_used(&paths, self.path()) || !self.is_complete() {
            return Ok(swept);
        }
        for path in &packs {
            for extension in ["pack", "rev", "bitmap", "mtimes", "promisor"] {
                let path = path.with_extension(extension);
                if fs::symlink_metadata(&path).is_ok() {
                    leftovers::remove(&path, &mut swept).map_err(GitError::io("remove", &path))?;
                }
            }
        }
        Ok(swept)
    }

    /// Whether every object is here, or known to lie elsewhere, that a reference reaches. What cannot be read counts
    /// as missing.
    fn is_complete(&self) -> bool {
        let look = || {
            let layers = self.refresh()?;
            let references = self.references()?;
            let reached =
                self.reachable(references.into_iter().map(|(_, id)| (id, Mode::Module)).collect())?;
            let is_missing = |id: &&ObjectId| layers.locate(id).is_none();
            let repository = self.libgit2();
            let odb = repository.odb().map_err(GitError::git("open the object database"))?;
            Ok::<_, GitError>(
                reached
                    .iter()
                    .filter(is_missing)
                    .all(|id| git2::Oid::from_bytes(id.as_bytes()).is_ok_and(|id| odb.exists(id))),
            )
        };
        look().unwrap_or(false)
    }

    fn remove_unreached(&self, since: SystemTime) -> Result<Swept, GitError> {
        let pack_dir = self.pack_dir();
        let layers = self.refresh()?;
        let (mut swept, mut young) = (Swept::default(), Vec::new());
        for layer in layers.layers() {
            let path = pack_dir.join(format!("{}.pack", layer.name()));
            let Some(bytes) = layer.pack_bytes().filter(|_| is_ours(&path)) else { continue };
            let made = fs::metadata(&path).and_then(|metadata| metadata.modified());
            if made.map_err(GitError::io("look at", &path))? >= since {
                young.push((layer.name().to_owned(), bytes));
            }
        }
        let candidates = young.iter().map(|(name, _)| name.as_str()).collect();
        let needed = self.needed_layers(&layers, &candidates)?;
        for (name, bytes) in young.iter().filter(|(name, _)| !needed.contains(name.as_str())) {
            remove_layer(&pack_dir, name)?;
            swept.layers += 1;
            swept.bytes += bytes;
        }
        for (name, _) in young.iter().filter(|(name, _)| needed.contains(name.as_str())) {
            self.leave_to_gc(name);
        }
        atomic::sync_dir(&pack_dir).map_err(GitError::io("sync", &pack_dir))?;
        self.refresh()?;
        Ok(swept)
    }

    /// To be called when a commit names the layer. In an ordinary clone `git gc` combines packs, but not those that
    /// are to be kept. Nothing is lost where this fails.
    pub(super) fn leave_to_gc(&self, name: &str) {
        if self.work_tree.is_some() {
            let _ = fs::remove_file(self.pack_dir().join(format!("{name}.keep")));
        }
    }

    /// Those of the layers called `candidates` without which an object that a reference reaches would be
    /// missing.
    fn needed_layers<'a>(
        &self,
        layers: &'a LayerSet,
        candidates: &HashSet<&str>,
    ) -> Result<HashSet<&'a str>, GitError> {
        let (candidates, others): (Vec<_>, Vec<_>) =
            layers.layers().partition(|layer| candidates.contains(layer.name()));
        let mut only_there: HashSet<ObjectId> = candidates.iter().flat_map(|layer| layer.ids()).collect();
        for layer in others.iter().filter(|layer| layer.pack_bytes().is_some()) {
            layer.ids().for_each(|id| {
                only_there.remove(&id);
            });
        }
        let mut needed = self.reached(&mut only_there)?;

        let mut by_use: Vec<_> = candidates
            .iter()
            .map(|layer| (layer.ids().filter(|id| needed.contains(id)).count(), layer))
            .collect();
        by_use.sort_by_key(|&(count, layer)| (Reverse(count), layer.name()));
        let mut kept = HashSet::new();
        for (_, layer) in by_use {
            if layer.ids().filter(|id| needed.remove(id)).count() > 0 {
                kept.insert(layer.name());
            }
        }
        Ok(kept)
    }

    /// Waits until nobody writes, and keeps everybody from it. The lock ends with the file.
    pub(super) fn lock_out_writers(&self) -> Result<File, GitError> {
        wait_for(&self.private_dir()?.join(WRITERS), File::try_lock)
    }

    /// The same without waiting; `None` while somebody writes.
    pub(super) fn try_lock_out_writers(&self) -> Result<Option<File>, GitError> {
        let path = self.private_dir()?.join(WRITERS);
        let lock = open_lock(&path)?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(lock)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(GitError::io("lock", &path)(error)),
        }
    }

    /// Takes those objects out of `wanted` that a reference reaches.
    fn reached(&self, wanted: &mut HashSet<ObjectId>) -> Result<HashSet<ObjectId>, GitError> {
        let (mut reached, mut seen) = (HashSet::new(), HashSet::new());
        let mut to_do: Vec<_> = self.references()?.into_iter().map(|(_, id)| (id, Mode::Module)).collect();
        while let Some((id, mode)) = to_do.pop()
            && !wanted.is_empty()
        {
            if !seen.insert(id) {
                continue;
            }
            reached.extend(wanted.take(&id));
            if matches!(mode, Mode::Directory | Mode::Module) {
                self.push_named(&id, &mut to_do)?;
            }
        }
        Ok(reached)
    }

    /// Pushes what the object `id` names, unless that lies in another repository.
    pub(super) fn push_named(
        &self,
        id: &ObjectId,
        to_do: &mut Vec<(ObjectId, Mode)>,
    ) -> Result<(), GitError> {
        let (kind, bytes) = self.read_any(id)?;
        match kind {
            ObjectKind::Blob => {}
            ObjectKind::Tree => {
                let tree = parse_tree(id, bytes)?;
                let here = tree.entries().filter(|entry| entry.mode != Mode::Module);
                to_do.extend(here.map(|entry| (entry.id, entry.mode)));
            }
            ObjectKind::Commit => {
                let commit = parse_commit(id, &bytes)?;
                to_do.push((commit.tree, Mode::Directory));
                for parent in commit.parents {
                    // Where a shallow clone ends, the history before is missing and nothing else.
                    match self.read_any(&parent) {
                        Err(GitError::Missing(_)) => {}
                        Err(error) => return Err(error),
                        Ok(_) => to_do.push((parent, Mode::Module)),
                    }
                }
            }
            ObjectKind::Tag => {
                let hex = bytes.strip_prefix(b"object ").and_then(|rest| rest.get(..40));
                let target = hex.and_then(|hex| std::str::from_utf8(hex).ok()?.parse().ok());
                let fault = GitError::Corrupt { id: *id, kind: "tag", fault: "it names no object" };
                to_do.push((target.ok_or(fault)?, Mode::Module));
            }
        }
        Ok(())
    }
}

/// The unfinished files in `directory`, and the bytes that they have.
fn temporaries(directory: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(atomic::TEMP_PREFIX.as_bytes()) {
            found.push((entry.path(), leftovers::bytes_of(&entry.path())));
        }
    }
    Ok(found)
}

/// The markers in the directory `private`, and when they were made.
fn markers(private: &Path) -> io::Result<Vec<(PathBuf, SystemTime)>> {
    let mut markers = Vec::new();
    for entry in fs::read_dir(private)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(MARKER_PREFIX.as_bytes()) {
            match entry.metadata() {
                Ok(metadata) => markers.push((entry.path(), metadata.modified()?)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(markers)
}

/// How long ago the file at `path` was last changed, or got its name; `None` where that is not known, or to come.
fn renamed_ago(path: &Path) -> Option<Duration> {
    let metadata = fs::symlink_metadata(path).ok()?;
    let changed = Duration::new(metadata.ctime().try_into().ok()?, metadata.ctime_nsec().try_into().ok()?);
    SystemTime::now().duration_since(UNIX_EPOCH).ok()?.checked_sub(changed)
}

/// Whether this crate made the pack: the `.keep` beside it is empty, where git says why it is there.
fn is_ours(pack: &Path) -> bool {
    fs::metadata(pack.with_extension("keep")).is_ok_and(|keep| keep.len() == 0)
}

/// Whether the path is what is left of a layer whose removal was cut short: an empty `.keep` beside no pack.
fn is_lone_keep(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "keep")
        && is_ours(path)
        && !path.with_extension("pack").exists()
}

/// Removes a layer's files, first the one by which it exists.
///
/// Those that end in `rev` and after belong to packs that git made.
pub(super) fn remove_layer(pack_dir: &Path, name: &str) -> Result<(), GitError> {
    for extension in ["idx", "pack", "keep", "rev", "bitmap", "mtimes", "promisor"] {
        let path = pack_dir.join(format!("{name}.{extension}"));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(GitError::io("remove", &path)(error));
            }
            _ => {}
        }
    }
    Ok(crate::layers::remove_index(pack_dir, name)?)
}

#[cfg(test)]
mod tests {
    use super::super::TreeEdit;
    use super::super::testing::{Fixture, sweep, who};
    use super::*;

    /// Does what a process does that adds a layer and a half and is killed: its locks go, its files stay.
    fn die(git: &Git) {
        let mut writing = Writing::begin(git).unwrap();
        let mut layer = LayerWriter::create(&git.pack_dir()).unwrap();
        layer.write(ObjectKind::Blob, b"lost").unwrap();
        writing.finish(layer).unwrap();
        drop(writing);
        let mut half = LayerWriter::create(&git.pack_dir()).unwrap();
        half.write(ObjectKind::Blob, b"half").unwrap();
        std::mem::forget(half);
    }

    #[test]
    fn what_a_dead_writer_left_goes_and_nothing_else() {
        let fixture = Fixture::new();
        let git = fixture.open();
        fixture.commit(&git, &[("before/a", "1")]);
        die(&git);
        let head = fixture.commit(&git, &[("after/b", "2")]);
        assert_eq!(git.refresh().unwrap().layers().len(), 3);
        let swept = sweep(&git);
        assert_eq!((swept.busy, swept.layers, swept.files), (false, 1, 1));
        assert!(swept.bytes > 0);
        assert_eq!(git.layers().layers().len(), 2);
        assert_eq!(git.walk(&head, b"").unwrap().count(), 2);
        assert_eq!(fixture.files("objects/pack"), 6);
        assert_eq!(fixture.files("treering"), 3, "the lock files, and what the newest commit is");
        assert_eq!(sweep(&git), Swept::default());
        fixture.fsck();
    }

    #[test]
    fn the_bytes_of_every_kind_of_leftover_are_counted() {
        const BYTES: u64 = 1000;
        let old = SystemTime::now() - 2 * FORGOTTEN;
        for (number, kind) in [
            "objects/pack/.treering-tmp-x",
            "objects/pack/tmp_pack_x",
            "objects/pack/pack_git2_x",
            "objects/pack/pack-0123.rev",
            "objects/00/tmp_obj_x",
            "objects/tmp_obj_x",
            "objects/tmp_objdir-incoming-x/pack/tmp_pack_y",
            "objects/tmp_objdir-incoming-x/00/11223344",
            "shallow_abcdef",
            "treering/.treering-tmp-x",
            "treering/.treering-tmp-y/index",
            "treering/remotes/far/.treering-tmp-x",
            ".treering-tmp-new/repository/objects/pack/x",
        ]
        .into_iter()
        .enumerate()
        {
            let fixture = Fixture::new();
            let git = fixture.open();
            fixture.commit(&git, &[("a", "1")]);
            let path = fixture.path().join(kind);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let file = File::create(&path).unwrap();
            file.set_len(BYTES + number as u64).unwrap();
            file.set_modified(old).unwrap();
            // What is open is in use, and so is a directory that was touched now.
            drop(file);
            let is_quarantine =
                |path: &&Path| path.file_name().is_some_and(|name| name == "tmp_objdir-incoming-x");
            for entry in path.ancestors().find(is_quarantine).into_iter().flat_map(walkdir::WalkDir::new) {
                File::open(entry.unwrap().path()).unwrap().set_modified(old).unwrap();
            }
            let swept = sweep(&git);
            assert!(!path.exists(), "{kind}");
            assert_eq!((swept.files, swept.bytes), (1, BYTES + number as u64), "{kind}");
        }
    }

    #[test]
    fn a_pack_without_its_index_goes_too() {
        let fixture = Fixture::new();
        let git = fixture.open();
        let head = fixture.commit(&git, &[("a", "1")]);
        die(&git);
        let layers = git.refresh().unwrap();
        let is_live = |name: &str| name == layers.locate(&head).unwrap().layer.name();
        let lost = layers.layers().map(|layer| layer.name()).find(|name| !is_live(name)).unwrap();
        fs::remove_file(git.pack_dir().join(format!("{lost}.idx"))).unwrap();
        let swept = sweep(&git);
        assert_eq!((swept.layers, swept.files), (0, 2));
        assert_eq!(fixture.files("objects/pack"), 3);

        // Nobody left a marker, as when a prune is killed that had one layer more to remove.
        let (id, _) = (layers.locate(&head).unwrap(), ());
        let live = git.pack_dir().join(format!("{}.pack", id.layer.name()));
        for extension in ["pack", "keep"] {
            let copy = git.pack_dir().join(format!("pack-{:040}.{extension}", 1));
            fs::copy(live.with_extension(extension), copy).unwrap();
        }
        let swept = sweep(&git);
        assert_eq!((swept.files, swept.bytes), (1, fs::metadata(&live).unwrap().len()));
        assert_eq!(fixture.files("objects/pack"), 3);

        fs::remove_file(live.with_extension("idx")).unwrap();
        assert_eq!(sweep(&fixture.open()), Swept::default());
        assert!(live.exists(), "it is the only copy, and an index can be made of it");
    }

    #[test]
    fn a_pack_of_somebody_else_without_an_index_goes_with_a_prune_if_nothing_is_missing_without_it() {
        let fixture = Fixture::new();
        let git = fixture.open();
        fixture.commit(&git, &[("a", "1")]);
        let packs = git.pack_dir();
        let pack = |number: u8| packs.join(format!("pack-{number:040}.pack"));
        let live = git.lone_packs().unwrap();
        assert_eq!(live, [] as [PathBuf; 0]);
        let live = fs::read_dir(&packs).unwrap().map(|entry| entry.unwrap().path());
        let live = live.into_iter().find(|path| path.extension().unwrap() == "pack").unwrap();
        fs::copy(&live, pack(1)).unwrap();
        fs::write(pack(2), "garbage").unwrap();
        fs::write(pack(2).with_extension("rev"), "garbage").unwrap();
        fs::write(pack(3), "to be kept").unwrap();
        fs::write(pack(3).with_extension("keep"), "by hand").unwrap();
        assert_eq!(sweep(&git), Swept::default(), "a backup leaves it to those who are alone");
        let open = File::open(pack(2)).unwrap();
        assert_eq!(git.sweep_alone().unwrap(), Swept::default(), "somebody has it open");
        drop(open);
        let bytes = fs::metadata(&live).unwrap().len() + 2 * "garbage".len() as u64;
        let swept = git.sweep_alone().unwrap();
        assert_eq!((swept.files, swept.bytes), (3, bytes));
        assert!(pack(3).exists());

        fs::rename(&live, pack(1)).unwrap();
        fs::remove_file(live.with_extension("idx")).unwrap();
        assert_eq!(git.lone_packs().unwrap(), [pack(1)]);
        fixture.open().sweep_alone().unwrap();
        assert!(pack(1).exists(), "it is the only copy");
    }

    #[test]
    fn whoever_keeps_layers_removes_locks_of_the_dead_and_nothing_of_the_living() {
        let fixture = Fixture::new();
        let git = fixture.open();
        fixture.commit(&git, &[("a", "1")]);
        let lock = fixture.path().join("config.lock");
        let turn = git.turn().unwrap();
        let held = turn.lock("config").unwrap();
        drop(fixture.open().keep_layers().unwrap());
        assert!(lock.exists(), "its maker lives");
        held.die();
        drop(turn);
        drop(git.keep_layers().unwrap());
        assert!(!lock.exists());
        fixture.run(&["config", "a.b", "c"]);
    }

    #[test]
    fn what_a_dead_sweep_left_goes_too() {
        let fixture = Fixture::new();
        let git = fixture.open();
        fixture.commit(&git, &[("a", "1")]);
        die(&git);
        fs::write(git.pack_dir().join("pack-0123.keep"), "").unwrap();
        fs::write(git.pack_dir().join("pack-4567.keep"), "git is fetching").unwrap();
        let swept = sweep(&git);
        assert_eq!((swept.layers, swept.files), (1, 2));
        assert_eq!(fixture.files("objects/pack"), 4);
    }

    #[test]
    fn a_layer_stays_when_any_reference_reaches_any_of_its_objects() {
        let fixture = Fixture::new();
        let git = fixture.open();
        let first = fixture.commit(&git, &[("a", "1")]);
        let mut writing = Writing::begin(&git).unwrap();
        let mut layer = LayerWriter::create(&git.pack_dir()).unwrap();
        layer.write(ObjectKind::Blob, b"lost").unwrap();
        let kept = layer.write(ObjectKind::Blob, b"kept").unwrap();
        writing.finish(layer).unwrap();
        drop(writing);
        let mut edit = TreeEdit::new();
        edit.set(b"kept", kept).unwrap();
        git.begin().unwrap().commit(&who(), "Keep", &edit).unwrap();
        fixture.run(&["tag", "-m", "Tagged", "tag", "main"]);
        fixture.run(&["update-ref", "refs/heads/main", &first.to_string()]);
        assert_eq!(sweep(&git), Swept::default());
        assert_eq!(git.read_blob(&kept).unwrap(), b"kept");
    }

    #[test]
    fn of_two_layers_that_hold_the_same_one_stays() {
        let fixture = Fixture::new();
        let git = fixture.open();
        die(&git);
        fixture.commit(&git, &[("a", "lost")]);
        die(&git);
        let swept = sweep(&git);
        assert_eq!((swept.layers, swept.files), (1, 2), "the layers of the dead have one name");
        assert_eq!(git.layers().layers().len(), 1);
        fixture.fsck();
    }

    #[test]
    fn nothing_is_swept_while_somebody_writes() {
        let fixture = Fixture::new();
        let git = fixture.open();
        let transaction = git.begin().unwrap();
        die(&git);
        assert!(fixture.open().sweep().unwrap().busy);
        assert_eq!(git.refresh().unwrap().layers().len(), 1);
        drop(transaction);
        assert_eq!(sweep(&git).layers, 1);
    }

    #[test]
    fn packs_of_git_are_not_touched() {
        let fixture = Fixture::new();
        let git = fixture.open();
        fixture.commit(&git, &[("a", "1")]);
        die(&git);
        fixture.run(&["hash-object", "-w", "-t", "blob", "HEAD"]);
        let loose = fixture.run(&["hash-object", "-t", "blob", "HEAD"]);
        let mut child = std::process::Command::new("git")
            .args(["pack-objects", "-q", "objects/pack/pack"])
            .current_dir(fixture.path())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), loose.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(sweep(&git).layers, 1);
        assert_eq!(git.layers().layers().len(), 2);
    }
}
