//! One layer, and reading single objects out of it.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::entry::{self, BLOCK_HEADER, CHECKSUM, Header, MAX_HEADER, STORED_BLOCK, ZLIB_HEADER};
use super::index::Index;
use super::{LayerError, ObjectId, ObjectKind, object_id};

/// The largest object that is inflated in memory: 1 GiB, many times what this crate deflates.
const INFLATE_LIMIT: u64 = 1 << 30;

/// What the first read of an object takes, so that most small ones need no second.
const READ_AHEAD: usize = 4_096;

/// Bytes that are copied at a time.
const COPY: u64 = 1 << 18;

/// A layer in a pack directory: its index in memory, its pack on disk or elsewhere.
pub struct Layer {
    name: String,
    pub(super) pack: PathBuf,
    pub(super) index: Arc<Index>,
    pack_bytes: Option<u64>,
}

impl Layer {
    /// Loads the index of the layer `name`, unless `known` is the same layer. `None` when there is no such
    /// index.
    pub(super) fn load(
        pack_dir: &Path,
        name: &str,
        known: Option<&Self>,
    ) -> Result<Option<Self>, LayerError> {
        let pack = pack_dir.join(format!("{name}.pack"));
        let index = match known {
            Some(layer) => Arc::clone(&layer.index),
            None => {
                let path = pack.with_extension("idx");
                let bytes = match fs::read(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    read => read.map_err(LayerError::io("read", &path))?,
                };
                Arc::new(Index::parse(bytes).map_err(|fault| LayerError::Index { path, fault })?)
            }
        };
        let pack_bytes = match fs::metadata(&pack) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            metadata => Some(metadata.map_err(LayerError::io("examine", &pack))?.len()),
        };
        Ok(Some(Self { name: name.to_owned(), pack, index, pack_bytes }))
    }

    /// The name that its files share, `pack-` and 40 hexadecimal digits.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many objects it holds.
    pub fn objects(&self) -> u32 {
        self.index.objects() as u32
    }

    /// The size of its `.pack` in bytes; `None` when that was not here as the set was opened.
    pub fn pack_bytes(&self) -> Option<u64> {
        self.pack_bytes
    }

    /// The size of its `.idx` in bytes.
    pub fn index_bytes(&self) -> u64 {
        self.index.file_len() as u64
    }

    /// The ids of its objects, in order.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = ObjectId> {
        self.index.ids().iter().map(|&id| ObjectId(id))
    }

    /// Its objects in the order in which they lie, and which bytes of the `.pack` each takes. `None` when the
    /// `.pack` was not here as the set was opened.
    ///
    /// Where the pack is damaged, a range may be empty or hold more than the object.
    pub fn extents(&self) -> Option<Vec<(ObjectId, Range<u64>)>> {
        let end = self.pack_bytes?.saturating_sub(CHECKSUM as u64);
        let entries = (0..self.index.objects()).map(|position| self.index.entry(position));
        let mut begins: Vec<_> = entries.map(|entry| (entry.offset, entry.id)).collect();
        begins.sort_unstable();
        let ends = begins.iter().skip(1).map(|(next, _)| *next).chain([end]);
        Some(begins.iter().zip(ends).map(|(&(begin, id), end)| (id, begin..end.max(begin))).collect())
    }

    /// Kind and size of the object at `position`.
    pub(super) fn header(&self, position: usize) -> Result<(ObjectKind, u64), LayerError> {
        let entry = self.open_entry(position, MAX_HEADER)?;
        Ok((entry.kind, entry.header.size))
    }

    /// Kind and content of the object at `position`, which was found to hash to its id.
    pub(super) fn read(&self, position: usize) -> Result<(ObjectKind, Vec<u8>), LayerError> {
        let entry = self.open_entry(position, READ_AHEAD)?;
        let content = entry.read(0, entry.header.size)?;
        match object_id(entry.kind, &content) == entry.id {
            true => Ok((entry.kind, content)),
            false => Err(entry.damaged("its content does not hash to its id")),
        }
    }

    /// At most `len` bytes from `offset` on of the object at `position`.
    pub(super) fn read_range(&self, position: usize, offset: u64, len: u64) -> Result<Vec<u8>, LayerError> {
        let entry = self.open_entry(position, MAX_HEADER + ZLIB_HEADER + BLOCK_HEADER)?;
        let size = entry.header.size;
        let begin = offset.min(size);
        let end = begin + len.min(size - begin);
        entry.read(begin, end)
    }

    /// Hands the bytes `range` of the pack, which are the entry of `id`, to `write`, and returns their CRC-32.
    /// `None`, and nothing is handed on, where the entry is a delta.
    pub(super) fn copy_entry(
        &self,
        id: &ObjectId,
        range: Range<u64>,
        mut write: impl FnMut(&[u8]) -> Result<(), LayerError>,
    ) -> Result<Option<u32>, LayerError> {
        let damaged =
            |fault| LayerError::Object { id: *id, layer: self.name.clone(), offset: range.start, fault };
        let position = self.index.ids().binary_search(&id.0).map_err(|_| damaged("it is not there"))?;
        let pack = self.open_pack()?;
        let mut crc = crc32fast::Hasher::new();
        let mut at = range.start;
        let mut buffer = vec![0; COPY.min(range.end - range.start) as usize];
        while at < range.end {
            let part = &mut buffer[..COPY.min(range.end - at) as usize];
            pack.read_exact_at(part, at).map_err(LayerError::io("read", &self.pack))?;
            if at == range.start && Header::parse(part).map_err(damaged)?.kind.is_none() {
                return Ok(None);
            }
            crc.update(part);
            write(part)?;
            at += part.len() as u64;
        }
        match crc.finalize() {
            crc if crc == self.index.entry(position).crc => Ok(Some(crc)),
            _ => Err(damaged("its bytes do not have the checksum in the index")),
        }
    }

    /// Opens the pack and reads `ahead` bytes of an entry, or what there is.
    fn open_entry(&self, position: usize, ahead: usize) -> Result<OpenEntry<'_>, LayerError> {
        let (id, offset) = (ObjectId(self.index.ids()[position]), self.index.offset(position));
        let damaged = |fault| LayerError::Object { id, layer: self.name.clone(), offset, fault };
        let pack = self.open_pack()?;
        let pack_len = pack.metadata().map_err(LayerError::io("examine", &self.pack))?.len();
        let available = pack_len.saturating_sub(CHECKSUM as u64).checked_sub(offset);
        let available = available.ok_or_else(|| damaged("the pack ends before it"))?;
        let mut head = vec![0; available.min(ahead as u64) as usize];
        pack.read_exact_at(&mut head, offset).map_err(LayerError::io("read", &self.pack))?;
        let header = Header::parse(&head).map_err(damaged)?;
        let kind = header.kind.ok_or_else(|| LayerError::Delta { id, layer: self.name.clone() })?;
        Ok(OpenEntry { layer: self, id, pack, offset, available, head, header, kind })
    }

    /// The pack file. It is opened anew for each read: layers may be thousands, file descriptors not, and a
    /// layer that was evicted or merged meanwhile must be seen to be gone.
    pub(super) fn open_pack(&self) -> Result<File, LayerError> {
        File::open(&self.pack).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => LayerError::Missing { layer: self.name.clone() },
            _ => LayerError::io("open", &self.pack)(error),
        })
    }
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut layer = f.debug_struct("Layer");
        layer.field("name", &self.name).field("objects", &self.objects()).finish_non_exhaustive()
    }
}

/// An entry about to be read.
struct OpenEntry<'a> {
    layer: &'a Layer,
    id: ObjectId,
    pack: File,
    offset: u64,
    /// Bytes between the entry's beginning and the pack's checksum.
    available: u64,
    /// The entry's first bytes.
    head: Vec<u8>,
    header: Header,
    kind: ObjectKind,
}

impl OpenEntry<'_> {
    /// Bytes `begin..end` of the object.
    fn read(&self, begin: u64, end: u64) -> Result<Vec<u8>, LayerError> {
        if begin == end {
            return Ok(Vec::new());
        }
        if let Some(bytes) = self.read_stored(begin, end)? {
            return Ok(bytes);
        }
        let mut content = self.inflate()?;
        content.truncate(end as usize);
        content.drain(..begin as usize);
        Ok(content)
    }

    /// The whole object, its Adler-32 checked.
    fn inflate(&self) -> Result<Vec<u8>, LayerError> {
        let (id, size) = (self.id, self.header.size);
        if size > INFLATE_LIMIT {
            return Err(LayerError::TooLarge { id, size });
        }
        let len = (self.header.len as u64 + entry::stream_bound(size)).min(self.available) as usize;
        let inflate = |bytes: &[u8]| entry::inflate(&bytes[self.header.len..], size as usize);
        let content = match len <= self.head.len() {
            true => inflate(&self.head),
            false => inflate(&self.bytes(0, len)?),
        };
        content.map_err(|fault| self.damaged(fault))
    }

    /// Bytes `begin..end` of the object, which must not be none, if its zlib stream is one of full stored
    /// blocks.
    ///
    /// A stream that is not is told from one that is by the headers of its first block and of every block that
    /// the range touches.
    fn read_stored(&self, begin: u64, end: u64) -> Result<Option<Vec<u8>>, LayerError> {
        const BLOCK: u64 = STORED_BLOCK as u64;
        let size = self.header.size;
        let stream = self.head[self.header.len..].split_first_chunk();
        let zlib_begins = stream.is_some_and(|(zlib, blocks)| {
            entry::is_zlib_header(*zlib) && blocks.starts_with(&entry::block_header(size))
        });
        if !zlib_begins || size > self.available {
            return Ok(None);
        }
        let blocks = (self.header.len + ZLIB_HEADER) as u64;
        let header_at = |block: u64| blocks + block * (BLOCK + BLOCK_HEADER as u64);
        let byte_at = |byte: u64| header_at(byte / BLOCK) + BLOCK_HEADER as u64 + byte % BLOCK;
        let (from, to) = (byte_at(begin), byte_at(end - 1) + 1);
        if to > self.available {
            return Ok(None);
        }
        let block = begin / BLOCK;
        if block > 0
            && self.bytes(header_at(block), BLOCK_HEADER)? != entry::block_header(size - block * BLOCK)
        {
            return Ok(None);
        }
        let mut bytes = self.bytes(from, (to - from) as usize)?;
        let mut taken = (BLOCK - begin % BLOCK).min(end - begin) as usize;
        let mut next = taken;
        while next < bytes.len() {
            let remaining = size - begin - taken as u64;
            let content = next + BLOCK_HEADER;
            if bytes[next..content] != entry::block_header(remaining) {
                return Ok(None);
            }
            next = bytes.len().min(content + STORED_BLOCK);
            bytes.copy_within(content..next, taken);
            taken += next - content;
        }
        bytes.truncate(taken);
        Ok(Some(bytes))
    }

    /// `len` bytes of the entry, which must be available.
    fn bytes(&self, from: u64, len: usize) -> Result<Vec<u8>, LayerError> {
        let mut bytes = vec![0; len];
        let read = self.pack.read_exact_at(&mut bytes, self.offset + from);
        read.map_err(LayerError::io("read", &self.layer.pack))?;
        Ok(bytes)
    }

    fn damaged(&self, fault: &'static str) -> LayerError {
        LayerError::Object { id: self.id, layer: self.layer.name.clone(), offset: self.offset, fault }
    }
}
