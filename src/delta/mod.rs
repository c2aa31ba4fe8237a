//! Content-defined segments, block signatures, rsync deltas and patches.

mod compare;
mod content;
mod encoding;
mod search;
mod segment;
mod signature;
mod signature_patch;

pub use compare::{Expected, from_signatures};
pub use content::from_content;
pub use encoding::{Delta, PatchError, patch};
pub use segment::{MAX_SEGMENT_LEN, SegmentParams, SegmentParamsError, Segmenter};
pub use signature::{BlockSignature, ConfirmKey, SignatureError, SignatureOptions};
pub use signature_patch::{SignaturePatch, SignaturePatchError};
