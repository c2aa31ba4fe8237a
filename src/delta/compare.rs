//! Deltas against the signatures of old segments: first the blocks that should be where they were, then a search.
//!
//! The first pass hashes each range of the new bytes in which a base block is expected, and compares. An edit in place
//! costs no more than that. The second pass looks for base blocks at every offset of what is then still unknown. A
//! block found there is followed in both directions through the base, which also finds short heads and tails.

use std::ops::Range;

use super::encoding::{Delta, Match, encode};
use super::search::BlockIndex;
use super::signature::{Block, BlockSignature, ConfirmKey};

/// Where a run of base bytes is expected in the new content, because the file had it at that offset before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Range of the new content.
    pub new: Range<usize>,
    /// Offset in the concatenation of the base segments at which the run begins; it is as long as `new`.
    pub base: usize,
}

/// Writes `new` as a delta against the concatenation of the segments that `bases` describe (three of them at most, as
/// this crate uses it; there is no limit).
///
/// `expected` is a hint: it costs time where it is wrong, and never correctness. A block is copied only where `new` has
/// its keyed BLAKE3, so the signatures must have been made with `key`. The work is bounded for hostile content too: a
/// block whose rolling sum keeps matching other bytes is given up.
pub fn from_signatures(
    new: &[u8],
    bases: &[&BlockSignature],
    expected: &[Expected],
    key: &ConfirmKey,
) -> Delta {
    let comparison = Comparison { new, blocks: concatenate(bases), key };
    let mut matches = comparison.aligned(expected);
    let mut block_lens: Vec<_> = bases.iter().map(|base| base.options().block_len()).collect();
    block_lens.sort_unstable_by(|a, b| b.cmp(a));
    block_lens.dedup();
    for block_len in block_lens {
        comparison.search_gaps(block_len, &mut matches);
    }
    encode(new, &matches)
}

/// The blocks of `bases`, with offsets in their concatenation.
fn concatenate(bases: &[&BlockSignature]) -> Vec<Block> {
    let mut blocks = Vec::with_capacity(bases.iter().map(|base| base.layout().blocks()).sum());
    let mut start = 0;
    for base in bases {
        blocks.extend(base.blocks().map(|block| Block { offset: start + block.offset, ..block }));
        start += base.segment_len();
    }
    blocks
}

struct Comparison<'a> {
    new: &'a [u8],
    /// They cover the concatenated bases without a gap.
    blocks: Vec<Block>,
    key: &'a ConfirmKey,
}

impl Comparison<'_> {
    /// The blocks that lie where they are expected, in order.
    fn aligned(&self, expected: &[Expected]) -> Vec<Match> {
        let mut expected: Vec<_> = expected.iter().collect();
        expected.sort_unstable_by_key(|expected| expected.new.start);
        let mut matches = Vec::new();
        let mut done = 0;
        for Expected { new, base } in expected {
            let new_end = new.end.min(self.new.len());
            let first = self.blocks.partition_point(|block| block.offset < *base);
            for block in &self.blocks[first..] {
                let Some(start) = new.start.checked_add(block.offset - base) else { break };
                if start >= new_end || block.len > new_end - start {
                    break;
                }
                if start >= done && self.is_at(block, start) {
                    matches.push(Match { new: start, base: block.offset, len: block.len });
                    done = start + block.len;
                }
            }
        }
        matches
    }

    /// Whether `new` holds `block` at `start`; the caller has checked that it fits.
    fn is_at(&self, block: &Block, start: usize) -> bool {
        self.key.confirm(&self.new[start..start + block.len]) == block.confirm
    }

    /// Adds what a search for blocks of `block_len` finds between `matches`.
    fn search_gaps(&self, block_len: usize, matches: &mut Vec<Match>) {
        let gaps = gaps(matches, self.new.len(), block_len);
        if gaps.is_empty() {
            return;
        }
        let mut index = BlockIndex::new(&self.blocks, block_len);
        let known = matches.len();
        for gap in gaps {
            let mut start = gap.start;
            while let Some((at, block)) = index.find(self.new, start..gap.end, self.key) {
                let run = self.follow(block, at, start..gap.end);
                start = run.new_end();
                matches.push(run);
            }
        }
        if matches.len() > known {
            matches.sort_unstable_by_key(|found| found.new);
        }
    }

    /// The run of base blocks within `gap` that goes through the block found at `at`.
    fn follow(&self, found: usize, at: usize, gap: Range<usize>) -> Match {
        let block = &self.blocks[found];
        let mut run = Match { new: at, base: block.offset, len: block.len };
        for block in self.blocks[..found].iter().rev() {
            if block.len > run.new - gap.start || !self.is_at(block, run.new - block.len) {
                break;
            }
            run = Match { new: run.new - block.len, base: block.offset, len: run.len + block.len };
        }
        for block in &self.blocks[found + 1..] {
            if block.len > gap.end - run.new_end() || !self.is_at(block, run.new_end()) {
                break;
            }
            run.len += block.len;
        }
        run
    }
}

/// The ranges of at least `min_len` bytes that lie between `matches`, in a content of `len` bytes.
fn gaps(matches: &[Match], len: usize, min_len: usize) -> Vec<Range<usize>> {
    let starts = std::iter::once(0).chain(matches.iter().map(Match::new_end));
    let ends = matches.iter().map(|found| found.new).chain([len]);
    starts.zip(ends).map(|(start, end)| start..end).filter(|gap| gap.len() >= min_len).collect()
}
