//! A signature written against the signatures of the segments that its own segment is a delta of.
//!
//! The *rows* of a signature are what it keeps of each block: 16 bytes of BLAKE3 for the head, then for every
//! further block its weak sum, MD4 and BLAKE3. A patch is a librsync delta from the concatenated rows of the
//! bases to the rows of the new signature, cut at rows. So it costs what the changed blocks cost and about
//! six bytes for each run.
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
    /// Rows are found wherever they stand in bases of the same block length and strong length. Against others
    /// it costs what the signature itself costs.
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
    /// A patch that is damaged, or is given other bases, is refused or makes another signature, never one of
    /// other lengths than the patch says. It allocates what the bases and the signature take.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{damaged, edited, noise, sign};
    use super::*;
    use crate::cbor;

    fn options(block_len: usize) -> SignatureOptions {
        SignatureOptions::new(block_len, 8).unwrap()
    }

    proptest! {
        #[test]
        fn applying_the_difference_gives_the_signature(
            (old, new) in edited(3000),
            offsets in (0..500u64, 0..500u64),
            logs in (6..8u32, 6..8u32),
            split in any::<prop::sample::Index>(),
        ) {
            let (first, second) = old.split_at(split.index(old.len() + 1));
            let base_options = options(1 << logs.0);
            let bases = [
                sign(first, offsets.0, base_options),
                sign(second, offsets.0 + first.len() as u64, base_options),
            ];
            let bases = [&bases[0], &bases[1]];
            let signature = sign(&new, offsets.1, options(1 << logs.1));
            let patch = signature.diff(&bases);
            let bytes = cbor::to_vec(&patch).unwrap();
            let patch: SignaturePatch = cbor::from_slice(&bytes).unwrap();
            prop_assert_eq!(patch.apply(&bases).unwrap(), signature);
        }

        #[test]
        fn hostile_patches_are_refused_or_make_a_signature_of_the_stated_length(
            bytes in {
                let base = sign(&noise(2000, 1), 30, options(64));
                let new = sign(&[noise(2000, 1), noise(100, 2)].concat(), 30, options(64));
                damaged(cbor::to_vec(&new.diff(&[&base])).unwrap())
            }
        ) {
            let base = sign(&noise(2000, 1), 30, options(64));
            if let Ok(patch) = cbor::from_slice::<SignaturePatch>(&bytes)
                && let Ok(signature) = patch.apply(&[&base])
            {
                prop_assert_eq!(signature.layout(), patch.layout);
                prop_assert_eq!(signature.blocks().count(), patch.layout.blocks());
            }
        }
    }

    #[test]
    fn three_changed_pages_of_a_mebibyte_cost_about_forty_bytes_each() {
        let old = noise(1 << 20, 3);
        let mut new = old.clone();
        for page in [10, 100, 250] {
            new[page * 4096 + 1000] ^= 1;
        }
        let bases = [sign(&noise(1 << 20, 4), 0, options(4096)), sign(&old, 1 << 20, options(4096))];
        let bases = [&bases[0], &bases[1]];
        let patch = sign(&new, 1 << 20, options(4096)).diff(&bases);
        let bytes = cbor::to_vec(&patch).unwrap();
        assert!(bytes.len() < 170, "{}", bytes.len());
        assert!(sign(&old, 1 << 20, options(4096)).diff(&bases).delta.len() < 16);
    }

    #[test]
    fn rows_of_another_block_length_cost_what_the_signature_costs() {
        let data = noise(1 << 18, 5);
        let signature = sign(&data, 0, options(4096));
        let patch = signature.diff(&[&sign(&data, 0, options(1024))]);
        assert!(patch.delta.len() < signature.rows().len() + 16);
    }

    #[test]
    fn a_patch_from_nothing_is_the_signature_itself() {
        let signature = sign(&noise(10_000, 6), 5, options(1024));
        assert_eq!(signature.diff(&[]).apply(&[]).unwrap(), signature);
    }
}
