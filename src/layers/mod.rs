//! Git packfiles ("layers"), written and read directly.
//!
//! A layer is one packfile of version 2 with its `.idx` of version 2, as `gitformat-pack(5)` gives them; git
//! and libgit2 read it as it is. The module knows packs and objects. It opens no git repository and knows no
//! refs.
//!
//! **Writing.** A [`LayerWriter`] appends objects to a temporary file. A small object is deflated when that
//! makes it smaller; everything else goes in as *stored* deflate, whose offsets can be computed, so that a
//! range of an object is a range of the file. [`LayerWriter::finish`] makes durable, in this order: an empty
//! `.keep` and the `.pack`, the names of both, the `.idx`, its name. Git and [`LayerSet`] take a layer as
//! existing by its `.idx`, so nobody meets half of one. A process that dies on the way leaves a temporary
//! file that begins with [`TEMP_PREFIX`](crate::atomic::TEMP_PREFIX), or a `.keep`, perhaps with a `.pack`,
//! but no `.idx`, which nobody reads.
//!
//! **Reading.** A [`LayerSet`] is a look-up table over all layers of a directory, shared by many readers
//! without a lock. [`LayerSet::read`] returns only bytes that hash to the id that was asked for.
//! [`LayerSet::read_range`] reads only the bytes asked for and therefore checks no hash: its caller must.
//! [`Layer::verify`] checks a whole layer.
//!
//! **Elsewhere.** A layer of which only the `.idx` is here, in a directory `cold` beside that of the packs, is
//! *cold*. Given a [`Cold`], its
//! objects are read by ranges from a [`PackSource`], all the same, since the offsets of stored objects follow
//! from the `.idx`. [`place_index`] adds a cold layer, [`place_pack`] brings its pack, and
//! [`remove_pack`] makes it cold again.
//!
//! Deltas between objects are neither written nor resolved: a git host that repacked may have made some, and
//! reading one is [`LayerError::Delta`]. Hashes are plain SHA-1 without git's detection of collisions; what
//! is stored here must not rest on SHA-1 alone.
//!
//! ```
//! use treering::layers::{LayerSet, LayerWriter, ObjectKind};
//!
//! let dir = tempfile::tempdir()?;
//! let mut writer = LayerWriter::create(dir.path())?;
//! let id = writer.write(ObjectKind::Blob, b"hello, ring")?;
//! let layer = writer.finish()?.expect("an object was written");
//! assert_eq!(layer.objects, 1);
//!
//! let set = LayerSet::open(dir.path())?;
//! assert_eq!(set.read(&id)?, Some((ObjectKind::Blob, b"hello, ring".to_vec())));
//! assert_eq!(set.read_range(&id, 7, 4)?, Some(b"ring".to_vec()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod blocks;
mod chain;
mod cold;
mod entry;
mod index;
mod inflation;
mod layer;
mod place;
mod set;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use sha1::{Digest as _, Sha1};

use crate::digest;

pub use chain::ChainWeight;
pub use cold::{Cold, OutOfReach, PackSource};
pub use inflation::{EXPANSION, SMALL, is_inflated, on_disk};
pub use layer::{INFLATE_LIMIT, Layer};
pub use place::{
    doubled_indexes, has_cold_index, index_ids, place_index, place_pack, reclaim_pack, remove_index,
    remove_pack,
};
pub use set::{LayerSet, Location};
pub use verify::LayerCheck;
pub use writer::{LayerInfo, LayerWriter, MODE};

/// The SHA-1 name of a git object. The text form is 40 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId([u8; 20]);

/// Text that is not 40 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an object id: expected 40 hexadecimal digits")]
pub struct ParseObjectIdError;

impl ObjectId {
    /// The id whose 20 bytes are `bytes`.
    pub const fn from_bytes(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    /// The 20 bytes.
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        digest::write_hex(f, &self.0)
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ObjectId {
    type Err = ParseObjectIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        digest::parse_hex(text).map(Self).ok_or(ParseObjectIdError)
    }
}

/// What a git object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// Who added what and when.
    Commit,
    /// A directory.
    Tree,
    /// A file's content.
    Blob,
    /// An annotated tag.
    Tag,
}

impl ObjectKind {
    /// The word that git hashes in front of the object.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Tree => "tree",
            Self::Blob => "blob",
            Self::Tag => "tag",
        }
    }

    /// How many bytes an object of this kind may have to be read. What a commit or tag says is a few lines; a directory
    /// of half a million names has less than that of a tree. A blob may have any number: whoever reads one bounds it.
    pub(crate) const fn max_len(self) -> u64 {
        match self {
            Self::Commit | Self::Tag => 1 << 20,
            Self::Tree => 64 << 20,
            Self::Blob => u64::MAX,
        }
    }

    /// The hasher that has seen what git hashes before an object's `size` bytes.
    fn hasher(self, size: u64) -> Sha1 {
        Sha1::new_with_prefix(format!("{} {size}\0", self.name()))
    }
}

/// The id that git gives to an object.
pub fn object_id(kind: ObjectKind, bytes: &[u8]) -> ObjectId {
    ObjectId(kind.hasher(bytes.len() as u64).chain_update(bytes).finalize().into())
}

/// Why a layer could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The writer met an error before; what it holds is not to be trusted.
    #[error("an earlier write to this layer failed; write its objects again to a new layer")]
    Failed,
    /// A pack counts its objects in 32 bits, and so does a [`LayerSet`].
    #[error("more than 4,294,967,295 objects; spread them over more layers or repositories")]
    TooManyObjects,
    /// An `.idx` is not what its format says.
    #[error(
        "the index {} is damaged: {fault}; what only its pack holds cannot be read until {}", path.display(), index_again(path)
    )]
    Index {
        /// The `.idx` file.
        path: PathBuf,
        /// What is wrong.
        fault: &'static str,
    },
    /// A `.pack` as a whole is not what its format or its index says.
    #[error("layer {layer} is damaged: {fault}; {}", bring_again(layer))]
    Pack {
        /// The layer's name.
        layer: String,
        /// What is wrong.
        fault: &'static str,
    },
    /// One object's bytes in a layer are not what they must be.
    #[error("object {id} in layer {layer} at byte {offset} is damaged: {fault}; {}", bring_again(layer))]
    Object {
        /// The object asked for.
        id: ObjectId,
        /// The layer's name.
        layer: String,
        /// Where its entry begins in the `.pack`.
        offset: u64,
        /// What is wrong.
        fault: &'static str,
    },
    /// The layer's `.idx` is here, its `.pack` is not: it was evicted, or never fetched.
    #[error(
        "layer {layer} is not in this repository, only its index; `treering pull` brings what it holds from a git remote that has \
         it, {}",
        bring_again(layer)
    )]
    Missing {
        /// The layer's name.
        layer: String,
    },
    /// The layer's `.pack` lies elsewhere, and could not be read there.
    #[error("cannot read layer {layer}, which lies in a cold remote")]
    Cold {
        /// The layer's name.
        layer: String,
        /// What its source says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The object is stored as a delta to another one. Git and libgit2 can read it.
    #[error("object {id} in layer {layer} is stored as a git delta; read it with git")]
    Delta {
        /// The object asked for.
        id: ObjectId,
        /// The layer's name.
        layer: String,
    },
    /// The object is deflated and too large to be held in memory.
    #[error("object {id} is too large to be read into memory: it has {size} bytes")]
    TooLarge {
        /// The object asked for.
        id: ObjectId,
        /// Its size in bytes.
        size: u64,
    },
}

/// What a person can do about a layer that is damaged here, or missing.
fn bring_again(layer: &str) -> String {
    format!(
        "`treering layers fetch {layer}` brings it from a cold remote that has it; else put back its pack from a copy"
    )
}

/// What a person can do about an index that is damaged.
fn index_again(index: &Path) -> String {
    let layer = index.file_stem().unwrap_or_default().display();
    let fetch = format!("`treering layers fetch {layer}` brings it from a cold remote that has it");
    match place::is_of_cold(index) {
        true => format!("{fetch}, or `treering pull` from there"),
        false => {
            let pack = index.with_extension("pack");
            format!(
                "{fetch}, or `git index-pack {}` makes it again; remove it if there is no such pack",
                pack.display()
            )
        }
    }
}

impl LayerError {
    /// For `map_err`: the operating system refused to `action` on `path`.
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}
