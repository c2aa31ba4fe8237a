//! Bringing the files of a layer that was made elsewhere, and giving back the disk that a pack takes.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::atomic;

use super::entry::{CHECKSUM, PACK_MAGIC};
use super::index::Index;
use super::inflation::is_inflated;
use super::writer::{MODE, hash};
use super::{LayerError, ObjectId};

/// Where the indexes of cold layers lie: beside the directory of packs, in which `git gc` would remove them.
pub(super) fn cold_dir(pack_dir: &Path) -> PathBuf {
    pack_dir.with_file_name("cold")
}

/// Adds a cold layer, durably: only its index, which is found to be sound and of that name. Nothing happens
/// where the layer is here already. One whose index here is damaged is not here: this one replaces it.
pub fn place_index(pack_dir: &Path, name: &str, index: &[u8]) -> Result<(), LayerError> {
    let (path, beside_pack) = (index_path(pack_dir, name), path_of(pack_dir, name, "idx"));
    parse(&path, name, index)?;
    let is_usable = |path: &Path| read_index(path).is_ok_and(|found| is_of(&found, name));
    if is_usable(&beside_pack) {
        return Ok(());
    }
    if !is_usable(&path) {
        write_cold(pack_dir, &path, index).map_err(LayerError::io("write", &path))?;
    }
    remove(&beside_pack).map_err(LayerError::io("remove", &beside_pack))
}

/// Adds a layer, durably, or brings the pack of a cold one: `pack`, a file in `pack_dir`, is found to be the one
/// that `index` was made for; its count and its SHA-1 are right.
pub fn place_pack(pack_dir: &Path, name: &str, index: &[u8], pack: NamedTempFile) -> Result<(), LayerError> {
    let path = path_of(pack_dir, name, "pack");
    let parsed = parse(&path.with_extension("idx"), name, index)?;
    let fault = check(pack.as_file(), &parsed).map_err(LayerError::io("read", pack.path()))?;
    if let Some(fault) = fault {
        return Err(LayerError::Pack { layer: name.to_owned(), fault });
    }
    let place = || {
        File::create(path.with_extension("keep"))?;
        atomic::place(pack, &path)?;
        atomic::sync_dir(pack_dir)?;
        write_index(pack_dir, &path.with_extension("idx"), index)?;
        remove(&index_path(pack_dir, name))
    };
    place().map_err(LayerError::io("write", &path))
}

/// Removes the pack of the layer `name`, which is cold afterwards. It finishes a removal that was cut short; see
/// [`reclaim_pack`] for the way back.
pub fn remove_pack(pack_dir: &Path, name: &str) -> Result<(), LayerError> {
    let path = path_of(pack_dir, name, "idx");
    let cold = index_path(pack_dir, name);
    let make_cold = || {
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Without an index anywhere the pack may be the only copy of something: it stays.
                if !cold.exists() {
                    return Ok(());
                }
            }
            index => write_cold(pack_dir, &cold, &index?)?,
        }
        // Git takes a pack as existing by its index.
        for extension in ["idx", "pack", "promisor", "keep"] {
            remove(&path.with_extension(extension))?;
        }
        atomic::sync_dir(pack_dir)
    };
    make_cold().map_err(LayerError::io("remove the pack of", &path))
}

/// Puts the index of the layer `name` back beside its pack, where [`remove_pack`] was cut short after it had moved
/// the index and before it removed the pack. Whether there was anything to do. The caller has found the pack to be
/// sound.
pub fn reclaim_pack(pack_dir: &Path, name: &str) -> Result<bool, LayerError> {
    let path = path_of(pack_dir, name, "idx");
    let cold = index_path(pack_dir, name);
    if path.exists() || !path.with_extension("pack").exists() || !cold.exists() {
        return Ok(false);
    }
    let reclaim = || {
        File::create(path.with_extension("keep"))?;
        write_index(pack_dir, &path, &fs::read(&cold)?)?;
        remove(&cold)
    };
    reclaim().map(|()| true).map_err(LayerError::io("write", &path))
}

/// The ids of the objects in `index`, which is found to be sound and that of the layer `name`.
pub fn index_ids(name: &str, index: &[u8]) -> Result<Vec<ObjectId>, LayerError> {
    let parsed = parse(Path::new(&format!("{name}.idx")), name, index)?;
    Ok(parsed.ids().iter().map(|&id| ObjectId(id)).collect())
}

/// Forgets a cold layer, if there is one of that name.
pub fn remove_index(pack_dir: &Path, name: &str) -> Result<(), LayerError> {
    let path = index_path(pack_dir, name);
    remove(&path).map_err(LayerError::io("remove", &path))
}

/// Whether the layer that the file at `path` in `pack_dir` is of has an index among those of cold layers.
pub fn has_cold_index(pack_dir: &Path, path: &Path) -> bool {
    path.file_stem().and_then(|name| name.to_str()).is_some_and(|name| index_path(pack_dir, name).exists())
}

/// Indexes among those of cold layers whose layers are here whole: what is left where a layer was being brought.
pub fn doubled_indexes(pack_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(cold_dir(pack_dir)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let here = pack_dir.join(entry.file_name());
        let is_index = here.extension().is_some_and(|extension| extension == "idx");
        if is_index && here.exists() && here.with_extension("pack").exists() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Where the index of a cold layer lies.
pub(super) fn index_path(pack_dir: &Path, name: &str) -> PathBuf {
    path_of(&cold_dir(pack_dir), name, "idx")
}

/// Whether an index lies where those of cold layers do.
pub(super) fn is_of_cold(index: &Path) -> bool {
    let dir = atomic::parent(index);
    dir == cold_dir(dir)
}

fn path_of(dir: &Path, name: &str, extension: &str) -> PathBuf {
    dir.join(format!("{name}.{extension}"))
}

fn write_cold(pack_dir: &Path, path: &Path, index: &[u8]) -> io::Result<()> {
    let dir = cold_dir(pack_dir);
    match fs::create_dir(&dir) {
        Ok(()) => atomic::sync_dir(atomic::parent(&dir))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    write_index(pack_dir, path, index)
}

/// Through a temporary file among the packs, where leftovers are looked for.
fn write_index(pack_dir: &Path, path: &Path, index: &[u8]) -> io::Result<()> {
    let mut file = atomic::temporary(pack_dir, MODE)?;
    file.write_all(index)?;
    atomic::place(file, path)?;
    atomic::sync_dir(atomic::parent(path))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The index that is to lie at `path`, found to be sound and that of the layer `name`.
fn parse(path: &Path, name: &str, index: &[u8]) -> Result<Index, LayerError> {
    let damaged = |fault| LayerError::Index { path: path.to_owned(), fault };
    let parsed = Index::parse(index.to_vec()).map_err(damaged)?;
    match is_of(&parsed, name) {
        true => Ok(parsed),
        false => Err(damaged("it is the index of another pack")),
    }
}

/// Whether `index` is that of the layer `name`.
fn is_of(index: &Index, name: &str) -> bool {
    let checksum: Option<[u8; CHECKSUM]> = index.pack_checksum().try_into().ok();
    checksum.is_some_and(|checksum| format!("pack-{}", ObjectId(checksum)) == name)
}

/// Where the checksum of a pack begins that should be the one of `index`, and ends as that; else what is wrong.
pub(super) fn check_end(pack: &File, index: &Index) -> io::Result<Result<u64, &'static str>> {
    let Some(len) = pack.metadata()?.len().checked_sub(CHECKSUM as u64) else {
        return Ok(Err("it is cut off"));
    };
    let mut checksum = [0; CHECKSUM];
    pack.read_exact_at(&mut checksum, len)?;
    Ok(if checksum == index.pack_checksum() { Ok(len) } else { Err("it does not end as its index says") })
}

/// What is wrong with a pack that should be the one of `index`.
pub(super) fn check(pack: &File, index: &Index) -> io::Result<Option<&'static str>> {
    let len = match check_end(pack, index)? {
        Ok(len) => len,
        Err(fault) => return Ok(Some(fault)),
    };
    if hash(pack, len)? != index.pack_checksum() {
        return Ok(Some("its checksum does not hold"));
    }
    let mut header = [0; PACK_MAGIC.len() + 4];
    let is_whole = len >= header.len() as u64;
    if is_whole {
        pack.read_exact_at(&mut header, 0)?;
    }
    let is_pack = is_whole && header.starts_with(&PACK_MAGIC);
    let count = (index.objects() as u32).to_be_bytes();
    Ok((!is_pack || !header.ends_with(&count)).then_some("it is not the pack of its index"))
}

/// Reads an index. Its length is compared with what its first bytes say before the rest is read.
///
/// # Errors
/// [`LayerError::Index`] where it is damaged, cannot be read from the disk, or is no file; [`LayerError::Io`] where it is
/// not there or may not be read.
pub(super) fn read_index(path: &Path) -> Result<Index, LayerError> {
    let damaged = |fault| LayerError::Index { path: path.to_owned(), fault };
    let refused = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => LayerError::io("read", path)(error),
        _ => damaged("it cannot be read"),
    };
    let opened = atomic::open_file(File::options().read(true), path).map_err(refused)?;
    let mut file = opened.ok_or_else(|| damaged("it is no file"))?;
    let metadata = file.metadata().map_err(refused)?;
    if is_inflated(&metadata) {
        return Err(damaged("it is far larger than what it takes on the disk"));
    }
    let mut bytes = Vec::new();
    Read::by_ref(&mut file).take(Index::HEAD).read_to_end(&mut bytes).map_err(refused)?;
    Index::expect_len(&bytes, metadata.len()).map_err(damaged)?;
    file.take(metadata.len()).read_to_end(&mut bytes).map_err(refused)?;
    Index::parse(bytes).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use super::super::{LayerSet, LayerWriter, ObjectKind};
    use super::*;

    /// A layer of one blob in a directory of its own, and its `.idx`.
    fn layer(blob: &[u8]) -> (tempfile::TempDir, String, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LayerWriter::create(dir.path()).unwrap();
        writer.write(ObjectKind::Blob, blob).unwrap();
        let name = writer.finish().unwrap().unwrap().name;
        let index = fs::read(dir.path().join(format!("{name}.idx"))).unwrap();
        (dir, name, index)
    }

    fn copy(from: &Path, name: &str, to: &Path) -> NamedTempFile {
        let mut file = atomic::temporary(to, MODE).unwrap();
        file.write_all(&fs::read(from.join(format!("{name}.pack"))).unwrap()).unwrap();
        file
    }

    /// A directory with an empty one for packs, and that.
    fn target() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let packs = dir.path().join("pack");
        fs::create_dir(&packs).unwrap();
        (dir, packs)
    }

    fn files(dir: &Path) -> usize {
        fs::read_dir(dir).map_or(0, Iterator::count)
    }

    #[test]
    fn a_layer_that_comes_in_parts_is_the_same_layer() {
        let (from, name, index) = layer(&[7; 100_000]);
        let (_dir, packs) = target();
        let cold = cold_dir(&packs);
        place_index(&packs, &name, &index).unwrap();
        let layers = LayerSet::open(&packs).unwrap();
        assert_eq!(layers.layers().next().unwrap().pack_bytes(), None);
        assert_eq!((files(&packs), files(&cold)), (0, 1), "git gc removes an index without a pack");
        for _ in 0..2 {
            place_pack(&packs, &name, &index, copy(from.path(), &name, &packs)).unwrap();
            place_index(&packs, &name, &index).unwrap();
            for extension in ["idx", "keep", "pack"] {
                let read = |dir: &Path| fs::read(dir.join(format!("{name}.{extension}"))).unwrap();
                assert_eq!(read(&packs), read(from.path()));
            }
            assert_eq!((files(&packs), files(&cold)), (3, 0));
            assert_eq!(layers.reopen().unwrap().layers().len(), 1);
            remove_pack(&packs, &name).unwrap();
            remove_pack(&packs, &name).unwrap();
            assert_eq!((files(&packs), files(&cold)), (0, 1));
            assert_eq!(layers.reopen().unwrap().layers().next().unwrap().pack_bytes(), None);
        }
    }

    #[test]
    fn a_removal_that_was_cut_short_can_be_finished_and_taken_back() {
        let (from, name, index) = layer(&[7; 100_000]);
        let cut_short = || {
            let (dir, packs) = target();
            place_pack(&packs, &name, &index, copy(from.path(), &name, &packs)).unwrap();
            write_cold(&packs, &index_path(&packs, &name), &index).unwrap();
            remove(&path_of(&packs, &name, "idx")).unwrap();
            (dir, packs)
        };
        let (_dir, packs) = cut_short();
        assert!(LayerSet::open(&packs).unwrap().layers().next().unwrap().pack_bytes().is_some());
        remove_pack(&packs, &name).unwrap();
        assert_eq!((files(&packs), files(&cold_dir(&packs))), (0, 1));
        assert!(!reclaim_pack(&packs, &name).unwrap(), "no pack to take back");

        let (_dir, packs) = cut_short();
        assert!(reclaim_pack(&packs, &name).unwrap());
        assert!(!reclaim_pack(&packs, &name).unwrap());
        assert_eq!((files(&packs), files(&cold_dir(&packs))), (3, 0));
        LayerSet::open(&packs).unwrap().layers().next().unwrap().expect_sound().unwrap();

        remove(&path_of(&packs, &name, "idx")).unwrap();
        remove_pack(&packs, &name).unwrap();
        assert_eq!(files(&packs), 2, "a pack without any index is not removed");
    }

    #[test]
    fn what_is_not_that_layer_takes_no_place() {
        let (from, name, index) = layer(&[7; 100_000]);
        let (_dir, packs) = target();
        let mut damaged = index.clone();
        damaged[1050] ^= 1;
        let error = place_index(&packs, &name, &damaged).unwrap_err();
        assert!(matches!(error, LayerError::Index { .. }), "{error}");
        let (_, other, _) = layer(b"other");
        let error = place_index(&packs, &other, &index).unwrap_err();
        assert!(matches!(error, LayerError::Index { .. }), "{error}");
        let spoils: [fn(&mut Vec<u8>); 3] =
            [|bytes| bytes[5000] ^= 1, |bytes| bytes.truncate(900), |bytes| bytes.clear()];
        for spoil in spoils {
            let mut bytes = fs::read(from.path().join(format!("{name}.pack"))).unwrap();
            spoil(&mut bytes);
            let mut file = atomic::temporary(&packs, MODE).unwrap();
            file.write_all(&bytes).unwrap();
            let error = place_pack(&packs, &name, &index, file).unwrap_err();
            assert!(matches!(error, LayerError::Pack { .. }), "{error}");
        }
        assert_eq!((files(&packs), files(&cold_dir(&packs))), (0, 0));
    }
}
