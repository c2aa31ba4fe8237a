//! Seekable `tar.gz` volumes of segments.
//!
//! A volume is a tar stream cut into members that are compressed each by itself: concatenated gzip is gzip,
//! so `tar xzf` reads a volume, while we inflate only the members that hold what we want. Entry
//! `created/<sha256>` is a whole segment; entry `updated/<sha256>` is a librsync delta whose result is that
//! segment, and PAX records before it name its bases (`TREERING.bases`: digests, separated by commas) and say
//! the segment's length, the depth and the bytes of its chain (`TREERING.delta`: three numbers, separated by
//! commas).
//!
//! Guarantees: a volume's bytes depend on the segments, their order and the options, never on the number of
//! threads; readers and decoders take hostile bytes and answer with an error, and check every bound before
//! they allocate. Does not: know whether a payload has the digest that its entry is named by (who restores
//! checks that), apply deltas, or write files.
//!
//! ```
//! use treering::archive::{ArchiveError, MemberCache, Stored, VolumeOptions, VolumeReader, VolumeWriter, gather};
//! use treering::digest::Digest;
//!
//! let mut volumes = Vec::new();
//! let sink = gather(|volume| -> Result<(), ArchiveError> {
//!     volumes.push(volume);
//!     Ok(())
//! });
//! let mut writer = VolumeWriter::new(&VolumeOptions::default(), sink)?;
//! for text in ["one", "two"] {
//!     writer.append(Stored::whole(Digest::of(text.as_bytes()), text.into()))?;
//! }
//! writer.finish()?;
//!
//! let cache = MemberCache::new(64 << 20);
//! let volume = &volumes[0];
//! let reader = VolumeReader::new(0, &volume.index, &volume.bytes[..], &cache);
//! assert_eq!(reader.payload(1)?, b"two");
//! # Ok::<(), ArchiveError>(())
//! ```

mod codec;
mod index;
mod reader;
mod tape;
#[cfg(test)]
mod tests;
mod unpack;
mod writer;

use std::io;

pub use codec::{Codec, gunzip, gzip};
pub use index::{EntryKind, EntryView, MemberLocation, SignatureLocation, VolumeIndex};
pub use reader::{MemberCache, ReadAt, VolumeReader};
pub use tape::{DeltaLink, MAX_BASES, MAX_SEGMENT_LEN, Payload, Stored};
pub use unpack::{UnpackLimits, unpack};
pub use writer::{Piece, Volume, VolumeOptions, VolumeWriter, Written, gather};

use crate::cbor::CborError;
use crate::digest::Digest;

/// Why an archive cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Text that names no codec, or a level that the codec does not have.
    #[error("unknown compression {0:?}: use gzip[:1..12], zstd[:1..19] or none")]
    UnknownCodec(String),
    /// libdeflate refused to compress.
    #[error("cannot compress with gzip")]
    Deflate(#[source] libdeflater::CompressionError),
    /// ISA-L failed, which its interface does not let happen for sane input.
    #[cfg(feature = "isal")]
    #[error("ISA-L could not compress: {0}")]
    Isal(String),
    /// A gzip member that is damaged.
    #[error("a gzip member is damaged; restore this file from a copy")]
    Inflate(#[source] libdeflater::DecompressionError),
    /// A gzip stream that is damaged.
    #[error("a gzip stream is damaged; restore this file from a copy")]
    Gunzip(#[source] io::Error),
    /// zstd refused to compress, or a frame is damaged.
    #[error("a zstd frame is damaged or cannot be made")]
    Zstd(#[source] io::Error),
    /// A member that is not what the index says.
    #[error("a member of the volume is damaged: {0}; restore the volume from a copy")]
    Member(&'static str),
    /// A compressed blob holds more than is allowed for it.
    #[error("compressed data holds more than the {limit} bytes that are allowed for it")]
    TooLong {
        /// The bytes that are allowed.
        limit: usize,
    },
    /// A volume index that contradicts itself.
    #[error("the volume index is damaged: {0}; restore it from a copy, or unpack the volume without it")]
    Index(&'static str),
    /// A volume index that is not CBOR.
    #[error("the volume index is damaged; restore it from a copy, or unpack the volume without it")]
    IndexCbor(#[from] CborError),
    /// A volume index of a later version.
    #[error("the volume index has version {0}, which this program does not know; use a newer treering")]
    Version(u8),
    /// A volume has no entry of this number.
    #[error("the volume has no entry {0}")]
    NoEntry(usize),
    /// An entry does not have these bytes.
    #[error("entry {entry} has no bytes {start}..{end}")]
    NoRange {
        /// The entry.
        entry: usize,
        /// First byte that was asked for.
        start: u32,
        /// End of what was asked for.
        end: u32,
    },
    /// A segment that a volume cannot hold, or that is damaged.
    #[error("segment {digest} cannot be used: {fault}")]
    Segment {
        /// The segment.
        digest: Digest,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// More entries than an index can number, or than the caller allows.
    #[error("the archive has too many entries")]
    TooManyEntries,
    /// An archive that treering did not make.
    #[error("{0:?} is not an entry of a treering archive; is this the right file?")]
    Foreign(String),
    /// The bytes of a volume could not be read.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// An archive that is damaged or too long, or a disk that is full.
    #[error("cannot unpack the archive")]
    Unpack(#[source] io::Error),
    /// No thread could be started.
    #[error("cannot start a thread to compress with")]
    Thread(#[source] io::Error),
    /// A compressing thread ended before its time.
    #[error("a compressing thread died")]
    WorkerDied,
    /// Use after an error.
    #[error("the volume writer failed before and writes no more")]
    WriterFailed,
}
