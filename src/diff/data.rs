//! The archive that goes with a difference: the segments that the old state does not hold.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::archive::{
    ArchiveError, DeltaLink, EntryKind, MemberCache, Payload, Piece, Stored, UnpackLimits, VolumeIndex,
    VolumeOptions, VolumeReader, VolumeWriter, unpack,
};
use crate::atomic;
use crate::delta::{BlockSignature, PatchError, from_signatures, patch};
use crate::diff::apply::SegmentSource;
use crate::diff::bases::Layout;
use crate::diff::compute::{Change, DiffIndex};
use crate::diff::entry::{Content, DataMap, Entry, SegmentRef};
use crate::diff::scan::{ScanError, ScanErrorKind};
use crate::diff::source::SourceDir;
use crate::diff::{DiffError, MAX_BASES};
use crate::digest::Digest;
use crate::relpath::RelPath;

/// Inflated members that are kept, in bytes.
const CACHE: usize = 64 << 20;

/// Bytes that an entry takes in a tar stream beside its payload: a header and padding, and for a delta a header, records
/// and padding more.
const ENTRY: u64 = 4 * 512;

/// Bytes that an entry takes in an index at most, with the digests of its bases.
const INDEX_ENTRY: u64 = 512;

/// Bytes that an archive takes beside its entries: what ends it, and padding after that.
const END: u64 = 1 << 20;

/// An archive of segments: `created/<sha256>` whole, `updated/<sha256>` as a delta of old segments.
///
/// Its index lies beside it, in a file of the same name with `.idx` after it; where that is missing, or the
/// archive was compressed again, the archive is unpacked into a temporary file once.
pub struct DiffData {
    file: File,
    index: VolumeIndex,
    entries: HashMap<Digest, usize>,
    cache: MemberCache,
    /// Files that changed since they were indexed, whose new content is therefore not in the archive.
    pub problems: Vec<ScanError>,
}

/// Why a segment cannot be read from an archive.
#[derive(Debug, thiserror::Error)]
enum DataError {
    #[error(
        "the archive does not hold it, nor does the directory: is this the archive of this difference, and the directory in the old state?"
    )]
    Missing,
    #[error("the directory does not hold segment {0}, of which it is a delta: is it in the old state?")]
    Base(Digest),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Patch(#[from] PatchError),
}

impl DiffData {
    /// Writes what `diff` brings into a new archive at `path`, durably, and its index beside it.
    ///
    /// `diff` must come from [`DiffIndex::compute`], with the new state still where it was scanned. A segment
    /// becomes a delta where the old index has signatures and the delta is smaller.
    pub fn create_archive(path: impl AsRef<Path>, diff: &DiffIndex) -> Result<Self, DiffError> {
        let path = path.as_ref();
        let mut file = atomic::temporary(atomic::parent(path), atomic::MODE)?;
        let mut index = None;
        let options = VolumeOptions {
            volume_len: u64::MAX,
            max_entries: usize::MAX,
            threads: 2,
            ..VolumeOptions::default()
        };
        let sink = |piece| -> Result<(), DiffError> {
            match piece {
                Piece::Member(bytes) => file.write_all(&bytes)?,
                Piece::End(end) => index = Some(end),
            }
            Ok(())
        };
        let mut writer = VolumeWriter::new(&options, sink)?;
        let problems = Packer::new(diff).pack(|stored| writer.append(stored))?;
        writer.finish()?;
        let index = index.ok_or(ArchiveError::WriterFailed)?;
        atomic::write(&index_path(path), &index.encode()?)?;
        atomic::place(file, path)?;
        atomic::sync_dir(atomic::parent(path))?;
        Ok(Self { problems, ..Self::new(File::open(path)?, index) })
    }

    /// Opens the archive at `path` for what `diff` needs.
    ///
    /// Where its index is missing, at most so much is unpacked as all that the difference needs can take.
    pub fn open(path: impl AsRef<Path>, diff: &DiffIndex) -> Result<Self, DiffError> {
        let path = path.as_ref();
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        let limits = limits(diff);
        let beside = read_index(&index_path(path), limits.entries).ok();
        let beside = beside.and_then(|bytes| VolumeIndex::decode(&bytes).ok());
        if let Some(index) = beside.filter(|index| index.packed_len() == len) {
            return Ok(Self::new(file, index));
        }
        let mut unpacked = tempfile::tempfile()?;
        let index = unpack(file, &mut unpacked, limits)?;
        Ok(Self::new(unpacked, index))
    }

    fn new(file: File, index: VolumeIndex) -> Self {
        let entries = index.digests().iter().enumerate().map(|(number, digest)| (*digest, number)).collect();
        Self { file, index, entries, cache: MemberCache::new(CACHE), problems: Vec::new() }
    }

    fn segment(
        &self,
        segment: &SegmentRef,
        base: &dyn Fn(&Digest) -> Option<Vec<u8>>,
    ) -> Result<Vec<u8>, DataError> {
        let entry = *self.entries.get(&segment.digest).ok_or(DataError::Missing)?;
        let payload = VolumeReader::new(0, &self.index, &self.file, &self.cache).payload(entry)?;
        match self.index.entry(entry).map(|view| view.kind) {
            Some(EntryKind::Delta { bases, .. }) => {
                let mut bytes = Vec::new();
                for digest in bases {
                    bytes.extend(base(digest).ok_or(DataError::Base(*digest))?);
                }
                Ok(patch(&bytes, &payload, segment.len as usize)?)
            }
            _ => Ok(payload),
        }
    }
}

impl SegmentSource for DiffData {
    fn position(&self, segment: &SegmentRef) -> u64 {
        self.entries.get(&segment.digest).map_or(0, |&entry| entry as u64)
    }

    fn read(
        &self,
        segment: &SegmentRef,
        base: &dyn Fn(&Digest) -> Option<Vec<u8>>,
    ) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.segment(segment, base)?)
    }
}

/// The index of an archive of so many entries.
fn read_index(path: &Path, entries: usize) -> io::Result<Vec<u8>> {
    let limit = (entries as u64).saturating_mul(INDEX_ENTRY).saturating_add(END);
    let mut bytes = Vec::new();
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What an archive may have that holds every segment of the new content of `diff`, whole or as a delta, which is smaller.
fn limits(diff: &DiffIndex) -> UnpackLimits {
    let contents = diff.changes.iter().filter_map(Change::with_content).filter_map(Entry::content);
    let mut lens: HashMap<Digest, u32> = HashMap::new();
    for segment in contents.flat_map(|content| content.segments.iter()) {
        let len = lens.entry(segment.digest).or_default();
        *len = segment.len.max(*len);
    }
    let payloads: u64 = lens.values().map(|&len| u64::from(len) + ENTRY).sum();
    UnpackLimits { stream_len: payloads.saturating_add(END), entries: lens.len() }
}

fn index_path(archive: &Path) -> PathBuf {
    let mut name = archive.as_os_str().to_owned();
    name.push(".idx");
    name.into()
}

/// Reads the new content again and makes of each segment what the archive shall hold.
struct Packer<'a> {
    diff: &'a DiffIndex,
    /// What was scanned: the new state.
    source: SourceDir,
    /// What needs no place in the archive: the old state holds it, or the archive does already.
    held: std::collections::HashSet<Digest>,
}

impl<'a> Packer<'a> {
    fn new(diff: &'a DiffIndex) -> Self {
        let segments = diff.base.iter().flat_map(|(_, content)| content.segments.iter());
        let held = segments.map(|segment| segment.digest).collect();
        Self { diff, source: SourceDir::new(&diff.root), held }
    }

    fn pack(
        mut self,
        mut append: impl FnMut(Stored) -> Result<(), DiffError>,
    ) -> Result<Vec<ScanError>, DiffError> {
        let mut problems = Vec::new();
        for change in &self.diff.changes {
            let Some(entry) = change.with_content() else { continue };
            let Some(content) = entry.content() else { continue };
            if content.segments.iter().all(|segment| self.held.contains(&segment.digest)) {
                continue;
            }
            let old = match change {
                Change::Updated(_) => self.old_content(entry),
                _ => None,
            };
            if let Err(source) = self.pack_file(&entry.path, content, old, &mut append)? {
                problems.push(ScanError { path: self.source.locate(&entry.path), source });
            }
        }
        Ok(problems)
    }

    fn old_content(&self, entry: &Entry) -> Option<&'a Content> {
        let at = self.diff.base.binary_search_by(|(path, _)| path.cmp(&entry.path)).ok()?;
        Some(&self.diff.base[at].1)
    }

    fn pack_file(
        &mut self,
        path: &RelPath,
        content: &Content,
        old: Option<&Content>,
        append: &mut impl FnMut(Stored) -> Result<(), DiffError>,
    ) -> Result<Result<(), ScanErrorKind>, DiffError> {
        let file = match self.source.open(path) {
            Ok(reader) => reader.into_file(),
            Err(error) => return Ok(Err(error.into())),
        };
        let layout = old.map(Layout::new);
        let data = content.data_map();
        let mut offset = 0;
        for segment in &content.segments {
            let start = offset;
            offset += u64::from(segment.len);
            if self.held.contains(&segment.digest) {
                continue;
            }
            let bytes = match read_data(&file, &data, start, segment.len) {
                Ok(bytes) => bytes,
                Err(error) => return Ok(Err(error.into())),
            };
            if Digest::of(&bytes) != segment.digest {
                return Ok(Err(ScanErrorKind::Changed));
            }
            self.held.insert(segment.digest);
            let delta = old
                .zip(layout.as_ref())
                .and_then(|(old, layout)| self.delta(&bytes, old, layout.bases(&data, start, bytes.len())?));
            append(match delta {
                Some(payload) => Stored { digest: segment.digest, len: segment.len, payload },
                None => Stored::whole(segment.digest, bytes),
            })?;
        }
        Ok(Ok(()))
    }

    fn delta(&self, bytes: &[u8], old: &Content, bases: crate::diff::Bases) -> Option<Payload> {
        let segments = &old.segments[bases.segments];
        let signatures: Option<Vec<&BlockSignature>> =
            segments.iter().map(|segment| self.diff.signatures.get(&segment.digest)).collect();
        let delta = from_signatures(bytes, &signatures?, &bases.expected, &self.diff.key);
        debug_assert!(segments.len() <= MAX_BASES);
        let link = DeltaLink {
            bases: segments.iter().map(|segment| segment.digest).collect(),
            depth: 1,
            chain_bytes: u32::try_from(delta.bytes.len()).ok()?,
        };
        (delta.bytes.len() < bytes.len()).then_some(Payload::Delta { bytes: delta.bytes, link })
    }
}

/// `len` bytes at `offset` of the data stream of a file.
fn read_data(file: &File, data: &DataMap, offset: u64, len: u32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    let mut at = 0;
    for range in data.file_ranges(offset..offset + u64::from(len)) {
        let end = at + (range.end - range.start) as usize;
        file.read_exact_at(&mut bytes[at..end], range.start)?;
        at = end;
    }
    Ok(bytes)
}
