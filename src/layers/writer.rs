//! Writing one layer.

use std::collections::HashMap;
use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use libdeflater::{CompressionLvl, Compressor};
use sha1::{Digest as _, Sha1};
use tempfile::NamedTempFile;

use crate::atomic;

use super::entry::{self, Header, STORED_BLOCK};
use super::index::{self, IndexEntry};
use super::{LayerError, ObjectId, ObjectKind, object_id};

/// Signature, version, and a count that [`seal`] fills in.
const PACK_HEADER: [u8; 12] = *b"PACK\0\0\0\x02\0\0\0\0";
const COUNT_OFFSET: u64 = 8;
const CHECKSUM_LEN: u64 = 20;

/// The largest object that is worth an attempt to deflate it. Larger ones are archives, compressed already, from which ranges are read.
const DEFLATE_LIMIT: usize = STORED_BLOCK;

/// What is written and hashed at a time; it stays in the processor's cache.
const BUFFER: usize = 1 << 18;

/// From this length on a pack is synced while it is hashed. Below, a second sync costs more than it saves.
const SYNC_BESIDE: u64 = 8 << 20;

/// Git makes packs and indexes read-only, since their content is their name.
const MODE: u32 = 0o444;

/// Writes one layer into a pack directory. See the [module](super) for what is promised when.
///
/// After an error every later use is [`LayerError::Failed`]. Dropping the writer removes what it wrote. It takes
/// about 60 bytes of memory for each object, and a buffer.
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
            let mut file = BufWriter::with_capacity(BUFFER, atomic::temporary(pack_dir)?);
            file.write_all(&PACK_HEADER)?;
            Ok(file)
        };
        Ok(Self {
            pack_dir: pack_dir.to_owned(),
            file: create().map_err(LayerError::io("begin a layer in", pack_dir))?,
            len: PACK_HEADER.len() as u64,
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

    /// How many objects the layer holds so far.
    pub fn objects(&self) -> u32 {
        self.entries.len() as u32
    }

    /// How large the `.pack` would be if it were finished now.
    pub fn bytes(&self) -> u64 {
        self.len + CHECKSUM_LEN
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
            place(pack, &path("pack"))?;
            File::create(path("keep"))?;
            atomic::sync_dir(&self.pack_dir)?;

            let content = index::encode(&entries, &checksum);
            let mut index = atomic::temporary(&self.pack_dir)?;
            index.write_all(&content)?;
            place(index, &path("idx"))?;
            atomic::sync_dir(&self.pack_dir)?;
            Ok(LayerInfo { name, pack_bytes, index_bytes: content.len() as u64, objects })
        };
        publish().map(Some).map_err(LayerError::io("finish a layer in", &self.pack_dir))
    }
}

/// Writes the count into the header of a pack of `len` bytes, and behind them their SHA-1, which it returns.
///
/// The count stands in the first block that SHA-1 takes and is known last, so the pack has to be hashed from its
/// beginning now. Its pages are still in the cache; reading them costs a small part of what hashing does. Of a
/// large pack they go to the disk meanwhile.
fn seal(file: &File, len: u64, objects: u32) -> io::Result<[u8; 20]> {
    file.write_all_at(&objects.to_be_bytes(), COUNT_OFFSET)?;
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

fn place(file: NamedTempFile, target: &Path) -> io::Result<()> {
    fs::set_permissions(file.path(), Permissions::from_mode(MODE))?;
    atomic::place(file, target)
}
