//! Bringing the files of a layer that was made elsewhere, and giving back the disk that a pack takes.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::atomic;

use super::entry::{CHECKSUM, PACK_MAGIC};
use super::index::Index;
use super::writer::{MODE, hash};
use super::{LayerError, ObjectId};

/// Makes `index`, which is found to be sound and of that name, the `.idx` of the layer `name`, durably. From then on the layer
/// exists; it is cold until its `.pack` comes. Nothing happens where there is an `.idx` already.
pub fn place_index(pack_dir: &Path, name: &str, index: &[u8]) -> Result<(), LayerError> {
    let path = pack_dir.join(format!("{name}.idx"));
    let damaged = |fault| LayerError::Index { path: path.clone(), fault };
    let parsed = Index::parse(index.to_vec()).map_err(damaged)?;
    let checksum: Option<[u8; CHECKSUM]> = parsed.pack_checksum().try_into().ok();
    if checksum.is_none_or(|checksum| format!("pack-{}", ObjectId(checksum)) != name) {
        return Err(damaged("it is the index of another pack"));
    }
    let write = || {
        if path.exists() {
            return Ok(());
        }
        let mut file = atomic::temporary(pack_dir, MODE)?;
        file.write_all(index)?;
        atomic::place(file, &path)?;
        atomic::sync_dir(pack_dir)
    };
    write().map_err(LayerError::io("write", &path))
}

/// Makes `pack`, a file in `pack_dir`, the `.pack` of the layer `name`, durably, after it was found to be the
/// one that `index` (the bytes of the layer's `.idx`) was made for: its count and its SHA-1 are right. The
/// `.idx` is to be placed afterwards.
pub fn place_pack(pack_dir: &Path, name: &str, index: &[u8], pack: NamedTempFile) -> Result<(), LayerError> {
    let path = pack_dir.join(format!("{name}.pack"));
    let index = Index::parse(index.to_vec())
        .map_err(|fault| LayerError::Index { path: path.with_extension("idx"), fault })?;
    let fault = check(pack.as_file(), &index).map_err(LayerError::io("read", pack.path()))?;
    if let Some(fault) = fault {
        return Err(LayerError::Pack { layer: name.to_owned(), fault });
    }
    let place = || {
        File::create(path.with_extension("keep"))?;
        atomic::place(pack, &path)?;
        atomic::sync_dir(pack_dir)
    };
    place().map_err(LayerError::io("write", &path))
}

/// Removes the `.pack` of the layer `name`, which is cold afterwards. The `.idx` stays.
pub fn remove_pack(pack_dir: &Path, name: &str) -> Result<(), LayerError> {
    for extension in ["pack", "promisor", "keep"] {
        let path = pack_dir.join(format!("{name}.{extension}"));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(LayerError::io("remove", &path)(error));
            }
            _ => {}
        }
    }
    atomic::sync_dir(pack_dir).map_err(LayerError::io("sync", pack_dir))
}

/// What is wrong with a pack that should be the one of `index`.
fn check(pack: &File, index: &Index) -> io::Result<Option<&'static str>> {
    let Some(len) = pack.metadata()?.len().checked_sub(CHECKSUM as u64) else {
        return Ok(Some("it is cut off"));
    };
    let mut checksum = [0; CHECKSUM];
    pack.read_exact_at(&mut checksum, len)?;
    if checksum != index.pack_checksum() || hash(pack, len)? != checksum {
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

    #[test]
    fn a_layer_that_comes_in_parts_is_the_same_layer() {
        let (from, name, index) = layer(&[7; 100_000]);
        let to = tempfile::tempdir().unwrap();
        place_index(to.path(), &name, &index).unwrap();
        assert_eq!(LayerSet::open(to.path()).unwrap().layers().next().unwrap().pack_bytes(), None);
        place_pack(to.path(), &name, &index, copy(from.path(), &name, to.path())).unwrap();
        place_index(to.path(), &name, &index).unwrap();
        for extension in ["idx", "keep", "pack"] {
            let read = |dir: &Path| fs::read(dir.join(format!("{name}.{extension}"))).unwrap();
            assert_eq!(read(to.path()), read(from.path()));
        }
        remove_pack(to.path(), &name).unwrap();
        remove_pack(to.path(), &name).unwrap();
        assert_eq!(fs::read_dir(to.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_not_that_layer_takes_no_place() {
        let (from, name, index) = layer(&[7; 100_000]);
        let to = tempfile::tempdir().unwrap();
        let mut damaged = index.clone();
        damaged[1050] ^= 1;
        let error = place_index(to.path(), &name, &damaged).unwrap_err();
        assert!(matches!(error, LayerError::Index { .. }), "{error}");
        let (_, other, _) = layer(b"other");
        let error = place_index(to.path(), &other, &index).unwrap_err();
        assert!(matches!(error, LayerError::Index { .. }), "{error}");
        let spoils: [fn(&mut Vec<u8>); 3] =
            [|bytes| bytes[5000] ^= 1, |bytes| bytes.truncate(900), |bytes| bytes.clear()];
        for spoil in spoils {
            let mut bytes = fs::read(from.path().join(format!("{name}.pack"))).unwrap();
            spoil(&mut bytes);
            let mut file = atomic::temporary(to.path(), MODE).unwrap();
            file.write_all(&bytes).unwrap();
            let error = place_pack(to.path(), &name, &index, file).unwrap_err();
            assert!(matches!(error, LayerError::Pack { .. }), "{error}");
        }
        assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0);
    }
}
