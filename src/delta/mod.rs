//! Segments, their signatures, and rsync deltas between them.
//!
//! A stream is cut into content-defined segments by a [`Segmenter`]. A segment that is new is written as a
//! delta: [`from_signatures`] makes it against the [`BlockSignature`]s of old segments whose bytes are not at
//! hand, [`from_content`] against old bytes that are, at finer grain. [`patch`] goes back. A
//! [`SignaturePatch`] is a signature written against those of its bases, so that both delta and signature
//! cost what changed.
//!
//! Everything works on bytes in memory; nothing here knows files or archives. Deltas and signatures are those
//! of librsync: `rdiff patch` applies the deltas, and `rdiff delta` reads [`BlockSignature::as_librsync`].
//!
//! Guaranteed: a block is copied only where its keyed BLAKE3 (128 bits of it) or the base itself says that it
//! is the same; MD4 and rolling sums are written and searched, never believed. Decoding hostile bytes ends in
//! an error or in a value that is consistent in itself, and allocates in proportion to its input or to a
//! length that the caller gave. Not guaranteed: that a delta is the smallest, or that a patched segment is
//! the right one where delta or base were changed since; its SHA-256 tells.
//!
//! ```
//! use treering::delta::{BlockSignature, ConfirmKey, Expected, SignatureOptions, from_signatures, patch};
//!
//! let key = ConfirmKey([7; 32]);
//! let old: Vec<u8> = (0..500_000_u32).flat_map(u32::to_be_bytes).collect();
//! let signature = BlockSignature::compute(&old, 0, SignatureOptions::for_segment(old.len()), &key)?;
//!
//! let mut new = old.clone();
//! new[300_000] ^= 1;
//! let same_place = Expected { new: 0..new.len(), base: 0 };
//! let delta = from_signatures(&new, &[&signature], &[same_place], &key);
//! assert_eq!(delta.literal, 4096);
//! assert_eq!(patch(&old, &delta.bytes, new.len())?, new);
//!
//! let new_signature = BlockSignature::compute(&new, 0, signature.options(), &key)?;
//! let signature_patch = new_signature.diff(&[&signature]);
//! assert_eq!(signature_patch.apply(&[&signature])?, new_signature);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod compare;
mod content;
mod encoding;
mod search;
mod segment;
mod signature;
mod signature_patch;
#[cfg(test)]
mod testing;

pub use compare::{Expected, from_signatures};
pub use content::from_content;
pub use encoding::{Delta, PatchError, patch};
pub use segment::{MAX_SEGMENT_LEN, SegmentParams, SegmentParamsError, Segmenter};
pub use signature::{BlockSignature, ConfirmKey, SignatureError, SignatureOptions};
pub use signature_patch::{SignaturePatch, SignaturePatchError};
