//! Archives that come without their index, or compressed again by another program.
//!
//! Where the members of such an archive begin cannot be known without inflating all that stands before, so it
//! is unpacked once, in one pass, into a file of the caller; after that every entry is one read away.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};

use tar::{Archive, Entry, EntryType};

use super::codec::GzipMembers;
use super::index::NewEntry;
use super::tape::{BLOCK_LEN, DeltaLink, MAX_SEGMENT_LEN, Name, padded};
use super::{ArchiveError, Codec, VolumeIndex};
use crate::digest::{Digest, Hasher};

/// Bounds for an archive that nobody vouches for.
#[derive(Debug, Clone, Copy)]
pub struct UnpackLimits {
    /// Bytes of the tar stream: what the unpacked file may take on the disk.
    pub stream_len: u64,
    /// Entries; each costs up to 160 bytes of memory.
    pub entries: usize,
}

/// Longest list of PAX records; ours take less than one block.
const MAX_PAX_LEN: u64 = 16 * 1024;

/// Content of a member of the unpacked volume; its index just needs some.
const MEMBER_LEN: u64 = 16 * 1024 * 1024;

/// Binary logarithm of the longest zstd window that is accepted: 128 MiB, as the zstd program does.
const MAX_WINDOW_LOG: u32 = 27;

const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// Writes the tar stream of `archive` (gzip or zstd in any number of members, or not compressed) to
/// `unpacked`, and returns an index with which a [`VolumeReader`](super::VolumeReader) serves its entries
/// from there.
///
/// Accepts only what a volume can hold: regular files named `created/<sha256>` or `updated/<sha256>`, the
/// latter with its PAX records, up to the end of the tar stream. The bytes of `created/` entries are checked
/// against their names, a delta's result cannot be before it is applied. In memory are the index, a buffer,
/// and with zstd a window of at most 128 MiB.
pub fn unpack(
    archive: impl Read,
    unpacked: impl Write,
    limits: UnpackLimits,
) -> Result<VolumeIndex, ArchiveError> {
    let mut archive = BufReader::with_capacity(128 * 1024, archive);
    let magic = archive.fill_buf().map_err(ArchiveError::Unpack)?;
    if magic.starts_with(GZIP_MAGIC) {
        unpack_tar(GzipMembers::new(archive), unpacked, limits)
    } else if magic.starts_with(ZSTD_MAGIC) {
        let mut decoder = zstd::Decoder::with_buffer(archive).map_err(ArchiveError::Zstd)?;
        decoder.window_log_max(MAX_WINDOW_LOG).map_err(ArchiveError::Zstd)?;
        unpack_tar(decoder, unpacked, limits)
    } else {
        unpack_tar(archive, unpacked, limits)
    }
}

fn unpack_tar(
    stream: impl Read,
    unpacked: impl Write,
    limits: UnpackLimits,
) -> Result<VolumeIndex, ArchiveError> {
    let mut index = VolumeIndex::new(Codec::None);
    let copy = Copying { stream, copy: BufWriter::new(unpacked), copied: 0, limit: limits.stream_len };
    let mut archive = Archive::new(copy);
    let mut records = None;
    let mut end = 0;
    // Raw entries: otherwise the crate reads extension headers of any length into memory.
    for entry in archive.entries().map_err(ArchiveError::Unpack)?.raw(true) {
        let mut entry = entry.map_err(ArchiveError::Unpack)?;
        if index.len() == limits.entries {
            return Err(ArchiveError::TooManyEntries);
        }
        match entry.header().entry_type() {
            EntryType::XHeader if records.is_none() => records = Some(read_records(&mut entry)?),
            EntryType::Regular => index.push_entry(read_entry(&mut entry, records.take())?)?,
            _ => return Err(foreign(&entry)),
        }
        end = entry.raw_file_position() + padded(entry.size());
    }
    let mut copy = archive.into_inner();
    if records.is_some() || copy.copied < end + BLOCK_LEN as u64 {
        return Err(ArchiveError::Unpack(io::ErrorKind::UnexpectedEof.into()));
    }
    // What follows the end is padding; reading it checks the last checksums.
    io::copy(&mut copy, &mut io::sink()).map_err(ArchiveError::Unpack)?;
    copy.copy.flush().map_err(ArchiveError::Unpack)?;
    let mut rest = copy.copied;
    while rest > 0 {
        let len = rest.min(MEMBER_LEN);
        index.push_member(len, len);
        rest -= len;
    }
    Ok(index)
}

fn read_records(entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>, ArchiveError> {
    if entry.size() > MAX_PAX_LEN {
        return Err(foreign(entry));
    }
    let mut records = Vec::new();
    entry.read_to_end(&mut records).map_err(ArchiveError::Unpack)?;
    Ok(records)
}

fn read_entry(entry: &mut Entry<'_, impl Read>, records: Option<Vec<u8>>) -> Result<NewEntry, ArchiveError> {
    let name = Name::parse(&entry.path_bytes()).ok_or_else(|| foreign(entry))?;
    let payload_len = u32::try_from(entry.size())
        .ok()
        .filter(|&len| len <= MAX_SEGMENT_LEN)
        .ok_or_else(|| foreign(entry))?;
    let offset = entry.raw_file_position();
    let new = |digest, delta| NewEntry { digest, offset, payload_len, delta };
    match name {
        Name::Created(digest) if content_digest(entry)? == digest => Ok(new(digest, None)),
        Name::Created(digest) => {
            Err(ArchiveError::Segment { digest, fault: "its bytes have another SHA-256" })
        }
        Name::Updated(digest) => {
            let fault = |fault| ArchiveError::Segment { digest, fault };
            let (link, segment_len) = records
                .and_then(|records| DeltaLink::from_pax(&records))
                .ok_or(fault("its delta has no usable PAX records"))?;
            match link.fault(payload_len) {
                _ if segment_len > MAX_SEGMENT_LEN => Err(fault("it is too long")),
                Some(text) => Err(fault(text)),
                None => Ok(new(digest, Some((link, segment_len)))),
            }
        }
    }
}

fn content_digest(entry: &mut Entry<'_, impl Read>) -> Result<Digest, ArchiveError> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut rest = entry.size();
    while rest > 0 {
        match entry.read(&mut buffer).map_err(ArchiveError::Unpack)? {
            0 => return Err(ArchiveError::Unpack(io::ErrorKind::UnexpectedEof.into())),
            len => {
                hasher.update(&buffer[..len]);
                rest -= len as u64;
            }
        }
    }
    Ok(hasher.finish())
}

fn foreign(entry: &Entry<'_, impl Read>) -> ArchiveError {
    ArchiveError::Foreign(String::from_utf8_lossy(&entry.path_bytes()).into_owned())
}

/// Copies what is read from `stream`, up to `limit` bytes.
struct Copying<R, W: Write> {
    stream: R,
    copy: BufWriter<W>,
    copied: u64,
    limit: u64,
}

impl<R: Read, W: Write> Read for Copying<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.stream.read(buffer)?;
        self.copied += len as u64;
        if self.copied > self.limit {
            return Err(io::Error::other(format!("the tar stream is longer than {} bytes", self.limit)));
        }
        self.copy.write_all(&buffer[..len])?;
        Ok(len)
    }
}
