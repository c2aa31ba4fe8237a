//! Block signatures: what is kept of a segment so that a later one can be written as a delta without reading
//! it.
//!
//! A segment that begins at a stream offset that is no multiple of the block length begins with a short
//! *head* that ends at the next multiple, so that blocks stay aligned with the pages of the file wherever
//! segments are cut. Whole blocks follow, and perhaps a short *tail*. The signature holds a keyed BLAKE3 of
//! each of them. The blocks after the head also have their weak sum and MD4 in the format of `rdiff
//! signature`.
//!
//! The serialized form is a CBOR map: `phase`, `len`, `librsync` (the bytes of a signature file, which begin
//! with magic number, block length and strong length) and `confirm` (the concatenated BLAKE3 values).
//! Decoding refuses anything whose parts do not fit together.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::segment::MAX_SEGMENT_LEN;

/// `rs_signature_magic` of librsync for MD4 and the original rolling sum.
const MAGIC: [u8; 4] = 0x7273_0136_u32.to_be_bytes();
pub(super) const HEADER_LEN: usize = 12;
pub(super) const WEAK_LEN: usize = 4;
pub(super) const CONFIRM_LEN: usize = 16;
const MD4_LEN: usize = 16;
const BLOCK_LENS: std::ops::RangeInclusive<usize> = 64..=65536;

/// The first 16 bytes of the keyed BLAKE3 of a block.
pub(super) type Confirm = [u8; CONFIRM_LEN];

/// The key of the BLAKE3 values that confirm block matches.
///
/// Who does not know the key cannot prepare two blocks that a delta would take for one another. Signatures
/// made with different keys do not match each other's content.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConfirmKey(#[serde(with = "serde_bytes")] pub [u8; 32]);

impl ConfirmKey {
    pub(super) fn confirm(&self, block: &[u8]) -> Confirm {
        let hash = blake3::keyed_hash(&self.0, block);
        std::array::from_fn(|at| hash.as_bytes()[at])
    }
}

impl std::fmt::Debug for ConfirmKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConfirmKey(..)")
    }
}

/// How fine a signature is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignatureOptions {
    block_len: usize,
    strong_len: usize,
}

/// A signature that cannot be made, or bytes that are not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The block length is not a power of two from 64 to 65536.
    #[error("block length {0} cannot be used: choose a power of two from 64 to 65536")]
    BlockLen(usize),
    /// The length of the MD4 values is not 1 to 16.
    #[error("strong length {0} cannot be used: choose 1 to 16 bytes")]
    StrongLen(usize),
    /// The segment is longer than [`MAX_SEGMENT_LEN`].
    #[error("a segment of {0} bytes is too long: cut it with a Segmenter first")]
    SegmentLen(u64),
    /// The parts of the signature contradict each other.
    #[error("the signature is damaged: {0}")]
    Inconsistent(&'static str),
}

impl SignatureOptions {
    /// The strong length that [`for_segment`](Self::for_segment) uses: 8 bytes, since MD4 confirms nothing
    /// here.
    pub const STRONG_LEN: usize = 8;

    /// Checks the length of a block (a power of two, 64 to 65536) and of the MD4 values (1 to 16), in bytes.
    pub fn new(block_len: usize, strong_len: usize) -> Result<Self, SignatureError> {
        if !block_len.is_power_of_two() || !BLOCK_LENS.contains(&block_len) {
            return Err(SignatureError::BlockLen(block_len));
        }
        if !(1..=MD4_LEN).contains(&strong_len) {
            return Err(SignatureError::StrongLen(strong_len));
        }
        Ok(Self { block_len, strong_len })
    }

    /// What suits a segment of `len` bytes: blocks of 4096 from 256 KiB on, 1024 from 32 KiB on, 256 below;
    /// 28 bytes a block, so 0.7 %, 2.7 % and 11 % of the segment.
    pub fn for_segment(len: usize) -> Self {
        let block_len = match len {
            0..0x8000 => 256,
            0x8000..0x4_0000 => 1024,
            _ => 4096,
        };
        Self { block_len, strong_len: Self::STRONG_LEN }
    }

    /// The length of a block, in bytes.
    pub fn block_len(&self) -> usize {
        self.block_len
    }

    /// The length of the MD4 values, in bytes.
    pub fn strong_len(&self) -> usize {
        self.strong_len
    }

    /// The size of what is kept of a block, in bytes: 4 of the weak sum, `strong_len` of MD4, 16 of BLAKE3.
    pub fn row_len(&self) -> usize {
        WEAK_LEN + self.strong_len + CONFIRM_LEN
    }
}

/// The signature of one segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct BlockSignature {
    layout: Layout,
    librsync: Vec<u8>,
    confirm: Vec<Confirm>,
}

/// Where the blocks of a segment lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub options: SignatureOptions,
    /// How many bytes come before the first multiple of the block length in the stream; `len` may be less.
    pub phase: usize,
    pub len: usize,
}

/// A block of a segment as its signature describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    /// Offset in the segment.
    pub offset: usize,
    pub len: usize,
    /// The rolling sum; heads have none.
    pub weak: Option<u32>,
    pub confirm: Confirm,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    phase: u64,
    len: u64,
    librsync: ByteBuf,
    confirm: ByteBuf,
}

impl Layout {
    pub fn new(options: SignatureOptions, phase: u64, len: u64) -> Result<Self, SignatureError> {
        if len > MAX_SEGMENT_LEN as u64 {
            return Err(SignatureError::SegmentLen(len));
        }
        if phase >= options.block_len as u64 {
            return Err(SignatureError::Inconsistent("its phase is not less than its block length"));
        }
        Ok(Self { options, phase: phase as usize, len: len as usize })
    }

    /// The length of the head, in bytes.
    pub fn head(&self) -> usize {
        self.phase.min(self.len)
    }

    /// How many blocks come after the head, the short tail included.
    pub fn grid_blocks(&self) -> usize {
        (self.len - self.head()).div_ceil(self.options.block_len)
    }

    /// The length of what [`BlockSignature::rows`] gives, in bytes.
    pub fn rows_len(&self) -> usize {
        let heads = usize::from(self.head() > 0);
        heads * CONFIRM_LEN + self.grid_blocks() * self.options.row_len()
    }

    /// How many blocks there are, the head included.
    pub fn blocks(&self) -> usize {
        usize::from(self.head() > 0) + self.grid_blocks()
    }
}

impl BlockSignature {
    /// Signs the segment `data`, which begins at `offset_in_stream`.
    pub fn compute(
        data: &[u8],
        offset_in_stream: u64,
        options: SignatureOptions,
        key: &ConfirmKey,
    ) -> Result<Self, SignatureError> {
        let block_len = options.block_len as u64;
        let phase = (block_len - offset_in_stream % block_len) % block_len;
        let layout = Layout::new(options, phase, data.len() as u64)?;
        let (head, grid) = data.split_at(layout.head());
        let librsync = fast_rsync::Signature::calculate(
            grid,
            fast_rsync::SignatureOptions {
                block_size: options.block_len as u32,
                crypto_hash_size: options.strong_len as u32,
            },
        );
        let heads = (!head.is_empty()).then_some(head);
        let confirm =
            heads.into_iter().chain(grid.chunks(options.block_len)).map(|block| key.confirm(block)).collect();
        Ok(Self { layout, librsync: librsync.into_serialized(), confirm })
    }

    /// The length of the segment, in bytes.
    pub fn segment_len(&self) -> usize {
        self.layout.len
    }

    /// How many bytes of the segment come before its first whole block.
    pub fn phase(&self) -> usize {
        self.layout.phase
    }

    /// How fine it is.
    pub fn options(&self) -> SignatureOptions {
        self.layout.options
    }

    /// The librsync signature of what follows the head: of the whole segment where the phase is 0. `rdiff
    /// delta` reads it.
    pub fn as_librsync(&self) -> &[u8] {
        &self.librsync
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    /// The blocks in order; they cover the segment without a gap.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Block> {
        let Layout { options, len, .. } = self.layout;
        let head = self.layout.head();
        let heads = usize::from(head > 0);
        let weak = self.sums().map(|sum| sum.first_chunk().map(|weak| u32::from_be_bytes(*weak)));
        let weak = std::iter::repeat_n(None, heads).chain(weak);
        self.confirm.iter().zip(weak).enumerate().map(move |(at, (&confirm, weak))| {
            let (offset, end) = match at.checked_sub(heads) {
                None => (0, head),
                Some(block) => {
                    let offset = head + block * options.block_len;
                    (offset, len.min(offset + options.block_len))
                }
            };
            Block { offset, len: end - offset, weak, confirm }
        })
    }

    /// Weak sum and MD4 of each block after the head.
    fn sums(&self) -> std::slice::ChunksExact<'_, u8> {
        self.librsync[HEADER_LEN..].chunks_exact(WEAK_LEN + self.layout.options.strong_len)
    }

    /// What is kept of each block, one after the other: weak sum, MD4, BLAKE3; of the head BLAKE3 alone.
    pub(super) fn rows(&self) -> Vec<u8> {
        let mut rows = Vec::with_capacity(self.layout.rows_len());
        let (head, grid) = self.confirm.split_at(self.confirm.len() - self.layout.grid_blocks());
        rows.extend_from_slice(head.as_flattened());
        for (sum, confirm) in self.sums().zip(grid) {
            rows.extend_from_slice(sum);
            rows.extend_from_slice(confirm);
        }
        rows
    }

    /// The signature that [`rows`](Self::rows) was called on; `rows` has the length that the layout asks for.
    pub(super) fn from_rows(layout: Layout, rows: &[u8]) -> Result<Self, SignatureError> {
        if rows.len() != layout.rows_len() {
            return Err(SignatureError::Inconsistent("it has not as many rows as blocks"));
        }
        let SignatureOptions { block_len, strong_len } = layout.options;
        let (head, grid) = rows.split_at(rows.len() - layout.grid_blocks() * layout.options.row_len());
        let mut librsync = Vec::with_capacity(HEADER_LEN + layout.grid_blocks() * (WEAK_LEN + strong_len));
        librsync.extend_from_slice(&MAGIC);
        librsync.extend_from_slice(&(block_len as u32).to_be_bytes());
        librsync.extend_from_slice(&(strong_len as u32).to_be_bytes());
        let mut confirm = Vec::with_capacity(layout.blocks());
        confirm.extend_from_slice(head.as_chunks().0);
        for row in grid.chunks_exact(layout.options.row_len()) {
            let (sum, block_confirm) = row.split_at(WEAK_LEN + strong_len);
            librsync.extend_from_slice(sum);
            confirm.extend_from_slice(block_confirm.as_chunks().0);
        }
        Ok(Self { layout, librsync, confirm })
    }
}

impl TryFrom<Wire> for BlockSignature {
    type Error = SignatureError;

    fn try_from(wire: Wire) -> Result<Self, SignatureError> {
        let librsync = wire.librsync.into_vec();
        let Some((header, sums)) = librsync.split_first_chunk::<HEADER_LEN>() else {
            return Err(SignatureError::Inconsistent("its librsync part has no header"));
        };
        let word = |at: usize| u32::from_be_bytes(std::array::from_fn(|byte| header[at + byte])) as usize;
        if header[..4] != MAGIC {
            return Err(SignatureError::Inconsistent(
                "its librsync part is not of MD4 and the original rolling sum",
            ));
        }
        let options = SignatureOptions::new(word(4), word(8))?;
        let layout = Layout::new(options, wire.phase, wire.len)?;
        let (confirm, rest) = wire.confirm.as_chunks();
        if sums.len() != layout.grid_blocks() * (WEAK_LEN + options.strong_len)
            || confirm.len() != layout.blocks()
            || !rest.is_empty()
        {
            return Err(SignatureError::Inconsistent("it has not as many sums as blocks"));
        }
        let confirm = confirm.to_vec();
        Ok(Self { layout, librsync, confirm })
    }
}

impl From<BlockSignature> for Wire {
    fn from(BlockSignature { layout, librsync, confirm }: BlockSignature) -> Self {
        let confirm = confirm.into_flattened();
        Self {
            phase: layout.phase as u64,
            len: layout.len as u64,
            librsync: ByteBuf::from(librsync),
            confirm: ByteBuf::from(confirm),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{KEY, damaged, noise, rdiff, sign};
    use super::*;
    use crate::cbor;

    fn options(block_len: usize, strong_len: usize) -> SignatureOptions {
        SignatureOptions::new(block_len, strong_len).unwrap()
    }

    #[test]
    fn the_librsync_part_is_what_rdiff_signature_writes() {
        for (len, block_len, strong_len) in [(0, 64, 8), (64, 64, 16), (10_000, 1024, 8), (300_000, 4096, 1)]
        {
            let data = noise(len, 1);
            let signature = sign(&data, 0, options(block_len, strong_len));
            let (block, strong) = (format!("-b{block_len}"), format!("-S{strong_len}"));
            let args = ["-Hmd4", "-Rrollsum", &block, &strong, "signature"];
            if let Some(theirs) = rdiff(&args, &[&data]) {
                assert!(signature.as_librsync() == theirs, "{args:?}");
            }
        }
    }

    #[test]
    fn rdiff_makes_a_delta_from_it() {
        let old = noise(50_000, 2);
        let new = [&old[..30_000], b"changed", &old[30_000..]].concat();
        let signature = sign(&old, 0, SignatureOptions::for_segment(old.len()));
        if let Some(delta) = rdiff(&["delta"], &[signature.as_librsync(), &new]) {
            assert!(delta.len() < 3000, "{}", delta.len());
            assert_eq!(rdiff(&["patch"], &[&old, &delta]).unwrap(), new);
        }
    }

    proptest! {
        #[test]
        fn blocks_cover_the_segment_on_the_grid_of_the_stream(
            len in 0..2000usize, offset in any::<u64>(), block_len in (6..9u32).prop_map(|log| 1 << log),
        ) {
            let data = noise(len, 3);
            let signature = sign(&data, offset, options(block_len, 8));
            let mut end = 0;
            for block in signature.blocks() {
                prop_assert_eq!(block.offset, end);
                end += block.len;
                let at_border = (offset as usize).wrapping_add(end).is_multiple_of(block_len);
                prop_assert!(block.len > 0 && (at_border || end == len));
                prop_assert_eq!(block.confirm, KEY.confirm(&data[block.offset..end]));
                prop_assert_eq!(block.weak.is_none(), block.offset == 0 && signature.phase() > 0);
            }
            prop_assert_eq!(end, len);
            prop_assert_eq!(BlockSignature::from_rows(signature.layout(), &signature.rows()), Ok(signature));
        }

        #[test]
        fn round_trips_through_cbor(len in 0..5000usize, offset in any::<u64>(), strong_len in 1..=16usize) {
            let signature = sign(&noise(len, 4), offset, options(256, strong_len));
            let bytes = cbor::to_vec(&signature).unwrap();
            prop_assert_eq!(cbor::from_slice::<BlockSignature>(&bytes).unwrap(), signature);
        }

        #[test]
        fn hostile_bytes_are_refused_or_decode_to_something_consistent(
            bytes in damaged(cbor::to_vec(&sign(&noise(1000, 5), 100, options(64, 4))).unwrap())
        ) {
            if let Ok(signature) = cbor::from_slice::<BlockSignature>(&bytes) {
                let covered: usize = signature.blocks().map(|block| block.len).sum();
                prop_assert_eq!(covered, signature.segment_len());
                prop_assert_eq!(signature.blocks().count(), signature.layout().blocks());
                prop_assert_eq!(signature.rows().len(), signature.layout().rows_len());
            }
        }
    }

    #[test]
    fn a_page_costs_28_bytes() {
        let data = noise(1 << 20, 6);
        let signature = sign(&data, 0, SignatureOptions::for_segment(data.len()));
        assert_eq!(signature.options().row_len(), 28);
        let bytes = cbor::to_vec(&signature).unwrap();
        assert!(bytes.len() < 256 * 28 + 64, "{}", bytes.len());
    }

    #[test]
    fn refuses_options_and_lengths_out_of_range() {
        for (block_len, strong_len) in [(0, 8), (32, 8), (100, 8), (1 << 17, 8), (4096, 0), (4096, 17)] {
            assert!(SignatureOptions::new(block_len, strong_len).is_err(), "{block_len} {strong_len}");
        }
        let options = options(4096, 8);
        let long = vec![0; MAX_SEGMENT_LEN + 1];
        assert_eq!(
            BlockSignature::compute(&long, 0, options, &KEY),
            Err(SignatureError::SegmentLen(MAX_SEGMENT_LEN as u64 + 1))
        );
        assert!(Layout::new(options, 4096, 0).is_err());
        assert!(Layout::new(options, 0, u64::MAX).is_err());
    }

    #[test]
    fn another_key_confirms_nothing() {
        let (data, options) = (noise(64, 7), options(64, 8));
        let other = BlockSignature::compute(&data, 0, options, &ConfirmKey([1; 32])).unwrap();
        let ours = sign(&data, 0, options);
        assert_eq!(ours.as_librsync(), other.as_librsync());
        assert_ne!(ours.confirm, other.confirm);
    }

    #[test]
    fn the_key_is_kept_as_32_bytes_and_never_printed() {
        let bytes = cbor::to_vec(&KEY).unwrap();
        assert_eq!(bytes.len(), 2 + 32);
        assert_eq!(cbor::from_slice::<ConfirmKey>(&bytes).unwrap(), KEY);
        assert!(cbor::from_slice::<ConfirmKey>(&bytes[..33]).is_err());
        assert_eq!(format!("{KEY:?}"), "ConfirmKey(..)");
    }
}
