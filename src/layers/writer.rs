//! Writing one layer.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;

use libdeflater::{CompressionLvl, Compressor};
use sha1::{Digest as _, Sha1};
use tempfile::NamedTempFile;

use crate::atomic;

use super::entry::{self, CHECKSUM, Header, PACK_HEADER, PACK_MAGIC, STORED_BLOCK};
use super::index::{self, IndexEntry};
use super::{Layer, LayerError, ObjectId, ObjectKind, object_id};

/// The largest object that is worth an attempt to deflate it. Larger ones are archives, compressed already,
/// from which ranges are read.
const DEFLATE_LIMIT: usize = STORED_BLOCK;

/// What is written and hashed at a time; it stays in the processor's cache.
const BUFFER: usize = 1 << 18;

/// From this length on a pack is synced while it is hashed. Below, a second sync costs more than it saves.
const SYNC_BESIDE: u64 = 8 << 20;

/// Git makes packs and indexes read-only, since their content is their name.
const MODE: u32 = 0o444;

/// Writes one layer into a pack directory. See the [module](super) for what is promised when.
///
/// After an error every later use is [`LayerError::Failed`]. Dropping the writer removes what it wrote. It
/// takes about 100 bytes of memory for each object, and a buffer.
pub struct LayerWriter {
    pack_dir: PathBuf,
    file: BufWriter<NamedTempFile>,
    len: u64,
    entries: HashMap<ObjectId, Place>,
    deflater: Compressor,
    scratch: Vec<u8>,
    failed: bool,
}

/// Where an entry went.
struct Place {
    offset: u64,
    crc: u32,
}

impl fmt::Debug for LayerWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut writer = f.debug_struct("LayerWriter");
        writer.field("pack_dir", &self.pack_dir).field("objects", &self.objects()).finish_non_exhaustive()
    }
}

/// What [`LayerWriter::finish`] made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerInfo {
    /// The name that its files share: `pack-` and the pack's SHA-1.
    pub name: String,
    /// Size of the `.pack` in bytes.
    pub pack_bytes: u64,
    /// Size of the `.idx` in bytes.
    pub index_bytes: u64,
    /// How many objects it holds.
    pub objects: u32,
}

impl LayerWriter {
    /// Begins a layer in `pack_dir`, which must exist.
    pub fn create(pack_dir: &Path) -> Result<Self, LayerError> {
        let create = || {
            let mut file = BufWriter::with_capacity(BUFFER, atomic::temporary(pack_dir, MODE)?);
            file.write_all(&PACK_MAGIC)?;
            file.write_all(&[0; PACK_HEADER - PACK_MAGIC.len()])?;
            Ok(file)
        };
        Ok(Self {
            pack_dir: pack_dir.to_owned(),
            file: create().map_err(LayerError::io("begin a layer in", pack_dir))?,
            len: PACK_HEADER as u64,
            entries: HashMap::new(),
            deflater: Compressor::new(CompressionLvl::default()),
            scratch: Vec::new(),
            failed: false,
        })
    }

    /// Appends an object and returns its id. An object that this layer holds already is not written again.
    pub fn write(&mut self, kind: ObjectKind, bytes: &[u8]) -> Result<ObjectId, LayerError> {
        if self.failed {
            return Err(LayerError::Failed);
        }
        let id = object_id(kind, bytes);
        if self.entries.contains_key(&id) {
            return Ok(id);
        }
        if self.objects() == u32::MAX {
            return Err(LayerError::TooManyObjects);
        }
        let offset = self.len;
        match self.append(kind, bytes) {
            Ok(crc) => {
                self.entries.insert(id, Place { offset, crc });
                Ok(id)
            }
            Err(error) => {
                self.failed = true;
                Err(LayerError::io("write a layer to", self.file.get_ref().path())(error))
            }
        }
    }

    /// Appends an entry and returns its CRC-32.
    fn append(&mut self, kind: ObjectKind, bytes: &[u8]) -> io::Result<u32> {
        let mut crc = crc32fast::Hasher::new();
        let (file, len) = (&mut self.file, &mut self.len);
        let mut put = |bytes: &[u8]| {
            crc.update(bytes);
            *len += bytes.len() as u64;
            file.write_all(bytes)
        };
        self.scratch.clear();
        Header::encode(kind, bytes.len() as u64, &mut self.scratch);
        put(&self.scratch)?;
        let deflated = match bytes.len() {
            ..=DEFLATE_LIMIT => entry::deflate_smaller(&mut self.deflater, bytes, &mut self.scratch),
            _ => None,
        };
        match deflated {
            Some(stream) => put(stream)?,
            None => {
                put(&entry::STORED_ZLIB_HEADER)?;
                let mut rest = bytes;
                loop {
                    put(&entry::block_header(rest.len() as u64))?;
                    let (block, after) = rest.split_at(rest.len().min(STORED_BLOCK));
                    put(block)?;
                    rest = after;
                    if rest.is_empty() {
                        break;
                    }
                }
                put(&simd_adler32::adler32(&bytes).to_be_bytes())?;
            }
        }
        Ok(crc.finalize())
    }

    /// Appends an object as it lies in another layer, at the bytes that [`Layer::extents`] gave: nothing is
    /// inflated or compressed, and the bytes are checked against the CRC-32 in that layer's index. `false`
    /// where the object is a delta there, which cannot be had by itself.
    pub fn copy(&mut self, layer: &Layer, id: &ObjectId, range: Range<u64>) -> Result<bool, LayerError> {
        if self.failed {
            return Err(LayerError::Failed);
        }
        if self.entries.contains_key(id) {
            return Ok(true);
        }
        if self.objects() == u32::MAX {
            return Err(LayerError::TooManyObjects);
        }
        let offset = self.len;
        let copied = layer.copy_entry(id, range, |bytes| {
            self.len += bytes.len() as u64;
            match self.file.write_all(bytes) {
                Err(error) => Err(LayerError::io("write a layer to", self.file.get_ref().path())(error)),
                Ok(()) => Ok(()),
            }
        });
        match copied {
            Ok(Some(crc)) => {
                self.entries.insert(*id, Place { offset, crc });
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(error) => {
                self.failed = true;
                Err(error)
            }
        }
    }

    /// How many objects the layer holds so far.
    pub fn objects(&self) -> u32 {
        self.entries.len() as u32
    }

    /// How large the `.pack` would be if it were finished now.
    pub fn bytes(&self) -> u64 {
        self.len + CHECKSUM as u64
    }

    /// Gives the layer its name and makes it durable. `None`, and no file, when nothing was written.
    pub fn finish(self) -> Result<Option<LayerInfo>, LayerError> {
        if self.failed {
            return Err(LayerError::Failed);
        }
        if self.entries.is_empty() {
            return Ok(None);
        }
        let (objects, pack_bytes) = (self.objects(), self.bytes());
        let mut entries: Vec<_> = self
            .entries
            .into_iter()
            .map(|(id, Place { offset, crc })| IndexEntry { id, offset, crc })
            .collect();
        entries.sort_unstable_by_key(|entry| entry.id);

        let publish = || {
            let pack = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
            let checksum = seal(pack.as_file(), self.len, objects)?;
            let name = format!("pack-{}", ObjectId::from_bytes(checksum));
            let path = |extension| self.pack_dir.join(format!("{name}.{extension}"));
            // First, so that a pack without one is never ours.
            File::create(path("keep"))?;
            atomic::place(pack, &path("pack"))?;
            atomic::sync_dir(&self.pack_dir)?;

            let content = index::encode(&entries, &checksum);
            let mut index = atomic::temporary(&self.pack_dir, MODE)?;
            index.write_all(&content)?;
            atomic::place(index, &path("idx"))?;
            atomic::sync_dir(&self.pack_dir)?;
            Ok(LayerInfo { name, pack_bytes, index_bytes: content.len() as u64, objects })
        };
        publish().map(Some).map_err(LayerError::io("finish a layer in", &self.pack_dir))
    }
}

/// Writes the count into the header of a pack of `len` bytes, and behind them their SHA-1, which it returns.
///
/// The count stands in the first block that SHA-1 takes and is known last, so the pack has to be hashed from
/// its beginning now. Its pages are still in the cache; reading them costs a small part of what hashing does.
/// Of a large pack they go to the disk meanwhile.
fn seal(file: &File, len: u64, objects: u32) -> io::Result<[u8; 20]> {
    file.write_all_at(&objects.to_be_bytes(), PACK_MAGIC.len() as u64)?;
    let mut synced = Ok(());
    let checksum = thread::scope(|scope| {
        if len >= SYNC_BESIDE {
            scope.spawn(|| synced = file.sync_data());
        }
        hash(file, len)
    })?;
    synced?;
    file.write_all_at(&checksum, len)?;
    Ok(checksum)
}

/// The SHA-1 of the first `len` bytes of `file`.
fn hash(file: &File, len: u64) -> io::Result<[u8; 20]> {
    let mut hasher = Sha1::new();
    let mut buffer = vec![0; len.min(BUFFER as u64) as usize];
    let mut offset = 0;
    while offset < len {
        let part = &mut buffer[..(len - offset).min(BUFFER as u64) as usize];
        file.read_exact_at(part, offset)?;
        hasher.update(&*part);
        offset += part.len() as u64;
    }
    Ok(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn files(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn a_layer_is_three_files_of_one_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LayerWriter::create(dir.path()).unwrap();
        writer.write(ObjectKind::Blob, b"one").unwrap();
        writer.write(ObjectKind::Blob, &[7; 100_000]).unwrap();
        assert_eq!(writer.objects(), 2);
        let bytes = writer.bytes();
        let LayerInfo { name, pack_bytes, index_bytes, objects } = writer.finish().unwrap().unwrap();
        assert_eq!((objects, pack_bytes), (2, bytes));

        let path = |extension| dir.path().join(format!("{name}.{extension}"));
        assert_eq!(
            files(dir.path()),
            [".idx", ".keep", ".pack"].map(|extension| format!("{name}{extension}"))
        );
        for (extension, bytes) in [("pack", pack_bytes), ("idx", index_bytes)] {
            let metadata = fs::metadata(path(extension)).unwrap();
            assert_eq!(metadata.len(), bytes, "{extension}");
            assert_eq!(metadata.permissions().mode() & 0o333, 0, "{extension} can be changed or run");
        }
        let pack = fs::read(path("pack")).unwrap();
        let checksum: [u8; 20] = *pack.last_chunk().unwrap();
        assert_eq!(name, format!("pack-{}", ObjectId::from_bytes(checksum)));
    }

    #[test]
    fn an_object_is_written_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LayerWriter::create(dir.path()).unwrap();
        let id = writer.write(ObjectKind::Blob, b"twice").unwrap();
        let bytes = writer.bytes();
        assert_eq!(writer.write(ObjectKind::Blob, b"twice").unwrap(), id);
        assert_eq!((writer.objects(), writer.bytes()), (1, bytes));
        assert_ne!(writer.write(ObjectKind::Tag, b"twice").unwrap(), id);
        assert_eq!(writer.objects(), 2);
    }

    #[test]
    fn the_same_objects_make_the_same_layer() {
        let dir = tempfile::tempdir().unwrap();
        let layer = || {
            let mut writer = LayerWriter::create(dir.path()).unwrap();
            writer.write(ObjectKind::Blob, b"same").unwrap();
            writer.finish().unwrap()
        };
        assert_eq!(layer(), layer());
        assert_eq!(files(dir.path()).len(), 3);
    }

    #[test]
    fn nothing_written_or_nothing_finished_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(LayerWriter::create(dir.path()).unwrap().finish().unwrap(), None);
        let mut writer = LayerWriter::create(dir.path()).unwrap();
        writer.write(ObjectKind::Blob, &[0; 1 << 20]).unwrap();
        assert!(files(dir.path())[0].starts_with(atomic::TEMP_PREFIX));
        drop(writer);
        assert_eq!(files(dir.path()), [""; 0]);
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = LayerWriter::create(&dir.path().join("pack")).unwrap_err();
        assert!(error.to_string().ends_with("/pack"), "{error}");
    }

    #[test]
    fn after_a_write_error_every_use_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LayerWriter::create(dir.path()).unwrap();
        writer.write(ObjectKind::Blob, b"before").unwrap();
        let (_, path) = atomic::temporary(dir.path(), MODE).unwrap().into_parts();
        let unwritable = NamedTempFile::from_parts(File::open(&path).unwrap(), path);
        writer.file = BufWriter::with_capacity(BUFFER, unwritable);

        let error = writer.write(ObjectKind::Blob, &[0; 2 * BUFFER]).unwrap_err();
        assert!(matches!(error, LayerError::Io { .. }), "{error}");
        let error = writer.write(ObjectKind::Blob, b"after").unwrap_err();
        assert!(matches!(error, LayerError::Failed), "{error}");
        assert!(matches!(writer.finish(), Err(LayerError::Failed)));
        assert_eq!(files(dir.path()), [""; 0]);
    }
}
