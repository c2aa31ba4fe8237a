//! A signature written against the signatures of the segments that its own segment is a delta of.
//!
//! The *rows* of a signature are what it keeps of each block: 16 bytes of BLAKE3 for the head, then for every further
//! block its weak sum, MD4 and BLAKE3. A patch is a librsync delta from the concatenated rows of the bases to the rows of
//! the new signature, cut at rows. So it costs what the changed blocks cost and about six bytes for each run.
//!
//! The serialized form is a CBOR map: `block_len`, `strong_len`, `phase`, `len`, `delta`.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::encoding::{Match, PatchError, encode, patch};
use super::signature::{BlockSignature, Layout, SignatureError, SignatureOptions};

/// A signature as its difference from others; see [`BlockSignature::diff`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct SignaturePatch {
    layout: Layout,
    delta: Vec<u8>,
}

/// A signature that cannot be rebuilt from its patch.
#[derive(Debug, thiserror::Error)]
pub enum SignaturePatchError {
    /// The delta between the rows cannot be applied: the patch is damaged, or these are not its bases.
    #[error("the signature patch does not fit its bases")]
    Patch(#[from] PatchError),
    /// The rows do not make a signature.
    #[error("the signature patch makes no signature")]
    Signature(#[from] SignatureError),
}

#[derive(Serialize, Deserialize)]
struct Wire {
    block_len: u64,
    strong_len: u64,
    phase: u64,
    len: u64,
    delta: ByteBuf,
}

impl BlockSignature {
    /// Writes this signature against `bases`.
    ///
    /// Rows are found wherever they stand in bases of the same block length and strong length. Against others it costs
    /// what the signature itself costs.
    pub fn diff(&self, bases: &[&BlockSignature]) -> SignaturePatch {
        let base_rows = concatenated_rows(bases);
        let mut offsets = HashMap::new();
        let mut base_start = 0;
        for base in bases {
            let layout = base.layout();
            if layout.options == self.options() {
                for range in row_ranges(layout) {
                    let range = base_start + range.start..base_start + range.end;
                    offsets.entry(&base_rows[range.clone()]).or_insert(range.start);
                }
            }
            base_start += layout.rows_len();
        }
        let rows = self.rows();
        let mut matches = Vec::new();
        let mut next_base = 0;
        for range in row_ranges(self.layout()) {
            let row = &rows[range.clone()];
            // Of several equal rows the one that goes on with the run before it makes the shorter delta.
            let goes_on = base_rows.get(next_base..).is_some_and(|rest| rest.starts_with(row));
            let found = if goes_on { Some(next_base) } else { offsets.get(row).copied() };
            if let Some(base) = found {
                matches.push(Match { new: range.start, base, len: row.len() });
                next_base = base + row.len();
            } else {
                next_base += row.len();
            }
        }
        SignaturePatch { layout: self.layout(), delta: encode(&rows, &matches).bytes }
    }
}

impl SignaturePatch {
    /// Rebuilds the signature; `bases` are those it was written against, in the same order.
    ///
    /// A patch that is damaged, or is given other bases, is refused or makes another signature, never one of other
    /// lengths than the patch says. It allocates what the bases and the signature take.
    pub fn apply(&self, bases: &[&BlockSignature]) -> Result<BlockSignature, SignaturePatchError> {
        let rows = patch(&concatenated_rows(bases), &self.delta, self.layout.rows_len())?;
        Ok(BlockSignature::from_rows(self.layout, &rows)?)
    }
}

fn concatenated_rows(bases: &[&BlockSignature]) -> Vec<u8> {
    bases.iter().flat_map(|base| base.rows()).collect()
}

/// Where each row lies in what [`BlockSignature::rows`] gives.
fn row_ranges(layout: Layout) -> impl Iterator<Item = std::ops::Range<usize>> {
    let row_len = layout.options.row_len();
    let head_len = layout.rows_len() - layout.grid_blocks() * row_len;
    let head = (head_len > 0).then_some(0..head_len);
    let grid = (0..layout.grid_blocks()).map(move |block| head_len + block * row_len);
    head.into_iter().chain(grid.map(move |start| start..start + row_len))
}

impl TryFrom<Wire> for SignaturePatch {
    type Error = SignatureError;

    fn try_from(wire: Wire) -> Result<Self, SignatureError> {
        let small = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let options = SignatureOptions::new(small(wire.block_len), small(wire.strong_len))?;
        let layout = Layout::new(options, wire.phase, wire.len)?;
        Ok(Self { layout, delta: wire.delta.into_vec() })
    }
}

impl From<SignaturePatch> for Wire {
    fn from(SignaturePatch { layout, delta }: SignaturePatch) -> Self {
        Self {
            block_len: layout.options.block_len() as u64,
            strong_len: layout.options.strong_len() as u64,
            phase: layout.phase as u64,
            len: layout.len as u64,
            delta: ByteBuf::from(delta),
        }
    }
}
