//! One layer, and reading single objects out of it.

use std::fmt;
use std::fs::{self, File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::atomic;

use super::cold::Cold;
use super::entry::{self, BLOCK_HEADER, CHECKSUM, Header, MAX_HEADER, STORED_BLOCK, ZLIB_HEADER};
use super::index::Index;
use super::inflation::{EXPANSION, SMALL, on_disk};
use super::place::{self, read_index};
use super::{LayerError, ObjectId, ObjectKind, object_id};

/// The largest object that is inflated in memory: 1 GiB, many times what this crate deflates.
pub const INFLATE_LIMIT: u64 = 1 << 30;

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
    /// What the `.pack` takes on the disk.
    pack_disk: u64,
    cold: Option<Arc<Cold>>,
}

impl Layer {
    /// Loads the index of the layer `name`, unless `known` is the same layer. `None` when there is no such
    /// index.
    pub(super) fn load(
        pack_dir: &Path,
        name: &str,
        known: Option<&Self>,
        cold: Option<&Arc<Cold>>,
    ) -> Result<Option<Self>, LayerError> {
        let pack = pack_dir.join(format!("{name}.pack"));
        let index = match known {
            Some(layer) => Arc::clone(&layer.index),
            None => {
                // The first one twice: it is there before the second goes.
                let index = pack.with_extension("idx");
                let paths = [index.clone(), place::index_path(pack_dir, name), index];
                let (mut found, mut fault) = (None, None);
                for path in paths {
                    match read_index(&path) {
                        Err(LayerError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                        // One that is sound may have come, and this one not be gone yet.
                        Err(damaged @ LayerError::Index { .. }) => fault = fault.or(Some(damaged)),
                        read => {
                            found = Some(read?);
                            break;
                        }
                    }
                }
                match (found, fault) {
                    (Some(index), _) => Arc::new(index),
                    (None, Some(fault)) => return Err(fault),
                    (None, None) => return Ok(None),
                }
            }
        };
        let file = match fs::metadata(&pack) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            file => Some(file.map_err(LayerError::io("examine", &pack))?),
        };
        let (pack_bytes, pack_disk) = (file.as_ref().map(Metadata::len), file.as_ref().map_or(0, on_disk));
        Ok(Some(Self { name: name.to_owned(), pack, index, pack_bytes, pack_disk, cold: cold.cloned() }))
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

    /// How many bytes of the `.pack` lie on the disk here: fewer, where it has holes.
    pub fn pack_disk(&self) -> u64 {
        self.pack_disk
    }

    /// Where its `.idx` lies.
    pub fn index_path(&self) -> PathBuf {
        let index = self.pack.with_extension("idx");
        match index.exists() {
            true => index,
            false => place::index_path(atomic::parent(&index), &self.name),
        }
    }

    /// The size of its `.idx` in bytes.
    pub fn index_bytes(&self) -> u64 {
        self.index.file_len() as u64
    }

    /// Finds, by one small read, that the pack is here and ends as its index says, or lies elsewhere.
    ///
    /// # Errors
    /// [`LayerError::Missing`] where it is nowhere, [`LayerError::Pack`] where it is cut off; another one where
    /// that cannot be found out.
    pub fn expect_whole(&self) -> Result<(), LayerError> {
        let pack = match self.open_pack() {
            Err(LayerError::Missing { .. }) if self.is_elsewhere()? => return Ok(()),
            pack => pack?,
        };
        self.expect(place::check_end(&pack, &self.index).map(|end| end.err()))
    }

    /// Reads the pack, which must be here, and finds that it has the SHA-1 in its index.
    ///
    /// # Errors
    /// [`LayerError::Pack`] where it does not.
    pub fn expect_sound(&self) -> Result<(), LayerError> {
        self.expect(place::check(&self.open_pack()?, &self.index))
    }

    fn expect(&self, fault: io::Result<Option<&'static str>>) -> Result<(), LayerError> {
        match fault.map_err(LayerError::io("read", &self.pack))? {
            Some(fault) => Err(LayerError::Pack { layer: self.name.clone(), fault }),
            None => Ok(()),
        }
    }

    /// Whether a pack that is not here is said to lie elsewhere. Who was given no [`Cold`] to ask cannot know
    /// more than that it was put away.
    fn is_elsewhere(&self) -> Result<bool, LayerError> {
        match &self.cold {
            Some(cold) => Ok(cold.pack_bytes(&self.name)?.is_some()),
            None => {
                let index = self.pack.with_extension("idx");
                Ok(!index.try_exists().map_err(LayerError::io("examine", &index))?)
            }
        }
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
        let entry = self.open_entry(position, MAX_HEADER, None)?;
        Ok((entry.kind, entry.header.size))
    }

    /// Kind and content of the object at `position`, which was found to hash to its id.
    pub(super) fn read(&self, position: usize) -> Result<(ObjectKind, Vec<u8>), LayerError> {
        let entry = self.open_entry(position, READ_AHEAD, Some(0..u64::MAX))?;
        let size = entry.header.size;
        if size > entry.kind.max_len() {
            return Err(LayerError::TooLarge { id: entry.id, size });
        }
        let content = entry.read(0, size)?;
        match object_id(entry.kind, &content) == entry.id {
            true => Ok((entry.kind, content)),
            false => Err(entry.damaged("its content does not hash to its id")),
        }
    }

    /// At most `len` bytes from `offset` on of the object at `position`.
    pub(super) fn read_range(&self, position: usize, offset: u64, len: u64) -> Result<Vec<u8>, LayerError> {
        let wanted = offset..offset.saturating_add(len);
        let entry = self.open_entry(position, MAX_HEADER + ZLIB_HEADER + BLOCK_HEADER, Some(wanted))?;
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

    /// Opens the pack and reads `ahead` bytes of an entry, or what there is. Of a pack that lies elsewhere the
    /// bytes `wanted` of the object are read along.
    fn open_entry(
        &self,
        position: usize,
        ahead: usize,
        wanted: Option<Range<u64>>,
    ) -> Result<OpenEntry<'_>, LayerError> {
        let (id, offset) = (ObjectId(self.index.ids()[position]), self.index.offset(position));
        let damaged = |fault| LayerError::Object { id, layer: self.name.clone(), offset, fault };
        let pack = self.open()?;
        let pack_len = pack.len(self)?;
        let available = pack_len.saturating_sub(CHECKSUM as u64).checked_sub(offset);
        let available = available.ok_or_else(|| damaged("the pack ends before it"))?;
        let hints = match (&pack, wanted) {
            (Pack::Elsewhere(..), Some(wanted)) => self.hints(position, pack_len, &wanted),
            _ => Vec::new(),
        };
        let head = pack.read(self, offset..offset + available.min(ahead as u64), &hints)?;
        let header = Header::parse(&head).map_err(damaged)?;
        let kind = header.kind.ok_or_else(|| LayerError::Delta { id, layer: self.name.clone() })?;
        Ok(OpenEntry { layer: self, id, pack, offset, available, head, header, kind })
    }

    /// Where in a pack of `pack_len` bytes the bytes `wanted` of an object must lie if it is stored, as far as
    /// can be told without looking: its size follows from where the next entry begins.
    fn hints(&self, position: usize, pack_len: u64, wanted: &Range<u64>) -> Vec<Range<u64>> {
        let begin = self.index.offset(position);
        let offsets = (0..self.index.objects()).map(|other| self.index.offset(other));
        let end = offsets.filter(|&other| other > begin).min();
        let end = end.unwrap_or(u64::MAX).min(pack_len.saturating_sub(CHECKSUM as u64));
        let Some((header_len, size)) = entry::stored_size(end.saturating_sub(begin)) else {
            return Vec::new();
        };
        let (first, last) = (wanted.start.min(size), wanted.end.min(size));
        if first == last {
            return Vec::new();
        }
        let stored = Stored { header_len, size };
        let header = stored.header_at(first / BLOCK);
        let places =
            [header..header + BLOCK_HEADER as u64, stored.byte_at(first)..stored.byte_at(last - 1) + 1];
        places.into_iter().map(|place| begin + place.start..begin + place.end).collect()
    }

    /// Where the pack can be read.
    fn open(&self) -> Result<Pack<'_>, LayerError> {
        match (self.open_pack(), &self.cold) {
            (Err(LayerError::Missing { layer }), Some(cold)) => match cold.pack_bytes(&self.name)? {
                Some(bytes) => Ok(Pack::Elsewhere(cold, bytes)),
                None => Err(LayerError::Missing { layer }),
            },
            (pack, _) => Ok(Pack::Here(pack?)),
        }
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

/// A pack, wherever it is.
enum Pack<'a> {
    Here(File),
    /// Elsewhere, with its length.
    Elsewhere(&'a Cold, u64),
}

impl Pack<'_> {
    fn len(&self, layer: &Layer) -> Result<u64, LayerError> {
        match self {
            Self::Here(file) => Ok(file.metadata().map_err(LayerError::io("examine", &layer.pack))?.len()),
            Self::Elsewhere(_, len) => Ok(*len),
        }
    }

    /// The bytes `range`, which must be there. What `hints` touch will be asked for next.
    fn read(&self, layer: &Layer, range: Range<u64>, hints: &[Range<u64>]) -> Result<Vec<u8>, LayerError> {
        match self {
            Self::Here(file) => {
                let mut bytes = vec![0; (range.end - range.start) as usize];
                file.read_exact_at(&mut bytes, range.start).map_err(LayerError::io("read", &layer.pack))?;
                Ok(bytes)
            }
            Self::Elsewhere(cold, len) => cold.read(&layer.name, *len, range, hints),
        }
    }
}

/// Bytes of a stored block.
const BLOCK: u64 = STORED_BLOCK as u64;

/// Where the parts of an object lie in an entry of full stored blocks.
struct Stored {
    header_len: u64,
    size: u64,
}

impl Stored {
    /// Where the header of a block begins.
    fn header_at(&self, block: u64) -> u64 {
        self.header_len + ZLIB_HEADER as u64 + block * (BLOCK + BLOCK_HEADER as u64)
    }

    /// Where a byte of the object is.
    fn byte_at(&self, byte: u64) -> u64 {
        self.header_at(byte / BLOCK) + BLOCK_HEADER as u64 + byte % BLOCK
    }

    /// What the header of a block must be.
    fn header(&self, block: u64) -> [u8; BLOCK_HEADER] {
        entry::block_header(self.size - block * BLOCK)
    }
}

/// An entry about to be read.
struct OpenEntry<'a> {
    layer: &'a Layer,
    id: ObjectId,
    pack: Pack<'a>,
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

    /// How many bytes the entry takes in the pack, by where the next one begins.
    fn entry_len(&self) -> u64 {
        let index = &self.layer.index;
        let offsets = (0..index.objects()).map(|position| index.offset(position));
        let next = offsets.filter(|&next| next > self.offset).min();
        let len = next.map_or(self.available, |next| self.available.min(next - self.offset));
        // A pack may have a hole; of one that is elsewhere, that is not known.
        if self.layer.pack_bytes.is_some() { len.min(self.layer.pack_disk) } else { len }
    }

    /// The whole object, its Adler-32 checked.
    fn inflate(&self) -> Result<Vec<u8>, LayerError> {
        let (id, size) = (self.id, self.header.size);
        if size > INFLATE_LIMIT || (size > SMALL && size > EXPANSION.saturating_mul(self.entry_len())) {
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
        let size = self.header.size;
        let stream = self.head[self.header.len..].split_first_chunk();
        let zlib_begins = stream.is_some_and(|(zlib, blocks)| {
            entry::is_zlib_header(*zlib) && blocks.starts_with(&entry::block_header(size))
        });
        if !zlib_begins || size > self.available {
            return Ok(None);
        }
        let stored = Stored { header_len: self.header.len as u64, size };
        let (from, to) = (stored.byte_at(begin), stored.byte_at(end - 1) + 1);
        if to > self.available {
            return Ok(None);
        }
        let block = begin / BLOCK;
        if block > 0 && self.bytes(stored.header_at(block), BLOCK_HEADER)? != stored.header(block) {
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
        let from = self.offset + from;
        self.pack.read(self.layer, from..from + len as u64, &[])
    }

    fn damaged(&self, fault: &'static str) -> LayerError {
        LayerError::Object { id: self.id, layer: self.layer.name.clone(), offset: self.offset, fault }
    }
}
