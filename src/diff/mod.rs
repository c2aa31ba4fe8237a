//! Directories as indexes, their differences, and patches between them.
//!
//! The loop: [`DirIndex::scan`] reads a directory; [`DiffIndex::compute`] compares two states of it;
//! [`DiffData`] writes what is new into a `tar.gz`; [`apply_diff`] brings a directory from the old state to
//! the new one. What is put in place has the SHA-256 that the index promises, or the old file stays. A patch
//! that is interrupted leaves files that are old or new, never mixed, and perhaps temporary files whose names
//! begin with [`atomic::TEMP_PREFIX`](crate::atomic::TEMP_PREFIX); applying it again completes it and removes them.
//!
//! ```
//! use treering::{DiffData, DiffIndex, DirIndex, apply_diff};
//! # let temp = tempfile::tempdir()?;
//! # std::env::set_current_dir(temp.path())?;
//! # std::fs::create_dir_all("tree/sub")?;
//! # std::fs::write("tree/a", "one")?;
//! # std::fs::write("tree/sub/b", "two")?;
//! # std::process::Command::new("cp").args(["-a", "tree", "replica"]).status()?;
//!
//! DirIndex::scan("tree")?.to_file("tree.index")?;
//!
//! std::fs::write("tree/a", "another one")?;
//! std::fs::rename("tree/sub/b", "tree/c")?;
//!
//! let old = DirIndex::from_file("tree.index")?;
//! let new = DirIndex::scan("tree")?;
//! let diff = DiffIndex::compute(&old, &new);
//! let data = DiffData::create_archive("changes.tar.gz", &diff)?;
//! apply_diff("replica", &diff, &data)?;
//!
//! assert_eq!(std::fs::read("replica/c")?, b"two");
//! # assert_eq!(DiffIndex::compute(&DirIndex::scan("replica")?, &new).changes, []);
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::archive::ArchiveError;
use crate::cbor::{self, CborError};
use crate::delta::SignatureError;
use crate::layers::is_inflated;
use crate::progress::Interrupted;

mod acl;
mod apply;
mod attributes;
mod bases;
mod beneath;
mod compute;
mod contents;
mod data;
mod entry;
mod exclude;
mod handle;
mod index;
mod order;
mod owners;
pub mod page;
pub(crate) mod pattern;
mod place;
mod read;
mod scan;
mod source;
mod stat;
mod temporary;

pub use apply::{
    ApplyError, ApplyOptions, ApplyReport, CommonCause, Failure, SegmentSource, apply_diff, apply_diff_with,
};
pub use attributes::{Lacking, comparable, settable, settle};
pub use bases::{Bases, Layout, MAX_BASES};
pub(crate) use beneath::Beneath;
pub use compute::{Change, ChangeRef, DiffIndex, compare};
pub(crate) use compute::{compare_linked, link_of};
pub use contents::{Piece, ReadOptions};
pub use data::DiffData;
pub use entry::{Content, DataMap, Entry, FileTime, Kind, Metadata, SegmentList, SegmentRef, Xattrs};
pub use exclude::{Excludes, LeftOut, LeftOutRule};
pub(crate) use handle::NameAt;
pub(crate) use index::describe;
pub use index::{DirIndex, describe_in, fill, pages_of};
pub use owners::Owners;
pub use pattern::{Pattern, PatternError};
pub use scan::{Found, ScanError, ScanErrorKind, ScanOptions, scan};
pub use source::SourceDir;
pub(crate) use source::{Links, hold};
pub use stat::Stat;

/// Version of the files that this module writes; see `docs/format.md`.
pub const FORMAT_VERSION: u32 = 1;

/// Why an index, a difference or an archive could not be made, written or read.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// The directory cannot be scanned.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// A pattern cannot be used.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Not the file that was expected.
    #[error("this is no {expected}: give the file that treering wrote as such")]
    Format {
        /// What it should be.
        expected: &'static str,
    },
    /// A later version wrote it.
    #[error(
        "this is version {found} of a {expected}, and this program reads up to {FORMAT_VERSION}: use a newer treering"
    )]
    Version {
        /// What it is.
        expected: &'static str,
        /// The version that it says.
        found: u32,
    },
    /// CBOR is damaged.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// A page is damaged.
    #[error(transparent)]
    Page(#[from] page::PageError),
    /// Compressed data is damaged, or the archive is.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A page is damaged, or takes too much memory.
    #[error(transparent)]
    Unpack(#[from] page::UnpackError),
    /// A signature cannot be made.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The key has another length.
    #[error("the key of the signatures has not 32 bytes: the index is damaged")]
    Key,
    /// Entries and origins do not pair.
    #[error("the renames do not pair: the difference is damaged")]
    Renames,
    /// It was asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// The bytes of a file, unless it is large only for its holes.
fn read_whole(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let found = file.metadata()?;
    if is_inflated(&found) {
        return Err(io::Error::other("it is far larger than what it takes on the disk"));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What a file holds. Where it is not of that form, it may be one of another kind, and that is told.
fn decode<T: serde::de::DeserializeOwned>(expected: &'static str, bytes: &[u8]) -> Result<T, DiffError> {
    #[derive(serde::Deserialize)]
    struct Head {
        format: String,
        version: u32,
    }
    cbor::from_slice(bytes).map_err(|error| match cbor::from_slice::<Head>(bytes) {
        Ok(head) => match check_format(expected, &head.format, head.version) {
            Err(other) => other,
            Ok(()) => error.into(),
        },
        Err(_) => error.into(),
    })
}

fn check_format(expected: &'static str, format: &str, version: u32) -> Result<(), DiffError> {
    if format != expected {
        return Err(DiffError::Format { expected });
    }
    if version > FORMAT_VERSION {
        return Err(DiffError::Version { expected, found: version });
    }
    Ok(())
}
