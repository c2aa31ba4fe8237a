//! Deltas against the signatures of old segments: first the blocks that should be where they were, then a
//! search.
//!
//! The first pass hashes each range of the new bytes in which a base block is expected, and compares. An edit
//! in place costs no more than that. The second pass looks for base blocks at every offset of what is then
//! still unknown. A block found there is followed in both directions through the base, which also finds short
//! heads and tails.

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

/// Writes `new` as a delta against the concatenation of the segments that `bases` describe (three of them at
/// most, as this crate uses it; there is no limit).
///
/// `expected` is a hint: it costs time where it is wrong, and never correctness. A block is copied only where
/// `new` has its keyed BLAKE3, so the signatures must have been made with `key`. The work is bounded for
/// hostile content too: a block whose rolling sum keeps matching other bytes is given up. It takes about 75
/// bytes of memory for each base block.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::encoding::patch;
    use super::super::signature::SignatureOptions;
    use super::super::testing::{KEY, edited, noise, rdiff, sign};
    use super::*;

    const PAGE: usize = 4096;

    fn pages() -> SignatureOptions {
        SignatureOptions::new(PAGE, 8).unwrap()
    }

    /// Cuts `data` at `cuts` and signs the pieces where they lie in the stream, which begins at `offset`.
    fn signatures(
        data: &[u8],
        offset: u64,
        cuts: &[usize],
        options: SignatureOptions,
    ) -> Vec<BlockSignature> {
        let starts = [&[0], cuts].concat();
        let ends = [cuts, &[data.len()]].concat();
        let pieces = starts.into_iter().zip(ends);
        pieces.map(|(start, end)| sign(&data[start..end], offset + start as u64, options)).collect()
    }

    fn delta(new: &[u8], bases: &[BlockSignature], expected: &[Expected]) -> Delta {
        from_signatures(new, &bases.iter().collect::<Vec<_>>(), expected, &KEY)
    }

    /// Bases of up to three segments with their signatures, new content, and a hint that may be right or wrong.
    fn case() -> impl Strategy<Value = (Vec<u8>, Vec<BlockSignature>, Vec<u8>, Vec<Expected>)> {
        let ranges = proptest::collection::vec((0..7000usize, 0..7000usize, 0..7000usize), 0..3);
        let cuts = any::<[prop::sample::Index; 2]>();
        (edited(6000), cuts, (6..9u32, 6..9u32), 0..1000u64, ranges, any::<bool>()).prop_map(
            |((old, new), cuts, logs, offset, ranges, hinted)| {
                let mut cuts = cuts.map(|cut| cut.index(old.len() + 1));
                cuts.sort_unstable();
                let options = |log: u32| SignatureOptions::new(1 << log, 8).unwrap();
                let mut bases = signatures(&old[..cuts[1]], offset, &cuts[..1], options(logs.0));
                bases.extend(signatures(&old[cuts[1]..], offset + cuts[1] as u64, &[], options(logs.1)));
                let mut expected: Vec<_> =
                    ranges.into_iter().map(|(start, end, base)| Expected { new: start..end, base }).collect();
                if hinted {
                    expected.push(Expected { new: 0..new.len(), base: 0 });
                }
                (old, bases, new, expected)
            },
        )
    }

    proptest! {
        #[test]
        fn applying_the_delta_gives_the_new_content((old, bases, new, expected) in case()) {
            let delta = delta(&new, &bases, &expected);
            prop_assert_eq!(&patch(&old, &delta.bytes, new.len()).unwrap(), &new);
            let mut theirs = Vec::new();
            fast_rsync::apply(&old, &delta.bytes, &mut theirs).unwrap();
            prop_assert_eq!(&theirs, &new);
            prop_assert!(delta.literal <= new.len() && delta.bytes.len() <= new.len() + 16);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn rdiff_applies_the_delta((old, bases, new, expected) in case()) {
            let delta = delta(&new, &bases, &expected);
            if let Some(patched) = rdiff(&["patch"], &[&old, &delta.bytes]) {
                prop_assert_eq!(patched, new);
            }
        }
    }

    #[test]
    fn a_page_changed_between_unaligned_borders_costs_a_page() {
        let old = noise(60 * PAGE, 1);
        let (offset, cuts) = (12_345, [20 * PAGE + 77, 41 * PAGE + 1999]);
        let bases = signatures(&old, offset, &cuts, pages());
        let mut new = old[cuts[0]..cuts[1]].to_vec();
        let page = 10 * PAGE - (offset as usize + cuts[0]) % PAGE;
        new[page..page + PAGE].copy_from_slice(&noise(PAGE, 2));
        let expected = [Expected { new: 0..new.len(), base: cuts[0] }];
        let delta = delta(&new, &bases, &expected);
        assert_eq!(delta.literal, PAGE);
        assert!(delta.bytes.len() < PAGE + 32, "{}", delta.bytes.len());
        assert_eq!(patch(&old, &delta.bytes, new.len()).unwrap(), new);
    }

    #[test]
    fn a_moved_border_costs_a_page_at_each_end() {
        let old = noise(60 * PAGE, 3);
        let bases = signatures(&old, 500, &[20 * PAGE + 77, 41 * PAGE + 1999], pages());
        let new = &old[18 * PAGE + 5..43 * PAGE + 5];
        let expected = [Expected { new: 0..new.len(), base: 18 * PAGE + 5 }];
        let delta = delta(new, &bases, &expected);
        assert!(delta.literal < 2 * PAGE, "{}", delta.literal);
        assert!(delta.bytes.len() < delta.literal + 32);
    }

    #[test]
    fn an_insertion_costs_itself_and_a_block() {
        let old = noise(60 * PAGE, 4);
        let bases = signatures(&old, 77, &[20 * PAGE + 77, 41 * PAGE + 1999], pages());
        let new = [&old[..30 * PAGE + 10], &noise(100, 5), &old[30 * PAGE + 10..]].concat();
        for expected in [vec![], vec![Expected { new: 0..new.len(), base: 0 }]] {
            let delta = delta(&new, &bases, &expected);
            assert_eq!(delta.literal, 100 + PAGE);
            assert!(delta.bytes.len() < delta.literal + 32);
        }
    }

    #[test]
    fn heads_tails_and_borders_are_found_in_shifted_content() {
        let old = noise(30 * PAGE, 6);
        let bases = signatures(&old, 77, &[10 * PAGE + 11, 20 * PAGE + 13], pages());
        let new = [&noise(100, 7)[..], &old, &noise(50, 8)].concat();
        let delta = delta(&new, &bases, &[]);
        assert_eq!(delta.literal, 150);
        assert_eq!(delta.bytes.len(), 4 + (2 + 100) + (1 + 1 + 4) + (1 + 50) + 1);
    }

    #[test]
    fn hints_beyond_the_contents_are_harmless() {
        let old = noise(10 * PAGE, 9);
        let bases = signatures(&old, 0, &[], pages());
        let beyond =
            [(0, usize::MAX, 0), (usize::MAX, usize::MAX, 0), (usize::MAX - 1, 5, usize::MAX), (9, 3, 0)];
        let expected = beyond.map(|(start, end, base)| Expected { new: start..end, base });
        assert_eq!(delta(&old, &bases, &expected).literal, 0);
        assert_eq!(delta(&[], &bases, &expected).bytes.len(), 5);
        assert_eq!(delta(&old, &[], &expected).literal, old.len());
    }

    #[test]
    fn a_forged_match_is_not_copied() {
        let options = SignatureOptions::new(64, 1).unwrap();
        let old = noise(64 * 4, 10);
        let signature = sign(&old, 0, options);
        // Adding 1, -2, 1 to neighbours keeps the rolling sum; one in 256 of such blocks has the same byte of
        // MD4.
        let forged = (1..1_000_000u32).find_map(|seed| {
            let mut block = old[64..128].to_vec();
            for (at, _) in (0..21).map(|at| at * 3).enumerate().filter(|(at, _)| seed >> at & 1 == 1) {
                block[at * 3] = block[at * 3].checked_add(1)?;
                block[at * 3 + 1] = block[at * 3 + 1].checked_sub(2)?;
                block[at * 3 + 2] = block[at * 3 + 2].checked_add(1)?;
            }
            let new = [&old[..64], &block, &old[128..]].concat();
            (sign(&new, 0, options).as_librsync() == signature.as_librsync()).then_some(new)
        });
        let new = forged.expect("one of so many blocks collides");
        assert_ne!(new, old);

        let theirs = fast_rsync::Signature::deserialize(signature.as_librsync().to_vec()).unwrap();
        let (mut deceived, mut wrong) = (Vec::new(), Vec::new());
        fast_rsync::diff(&theirs.index(), &new, &mut deceived).unwrap();
        fast_rsync::apply(&old, &deceived, &mut wrong).unwrap();
        assert_eq!(wrong, old, "MD4 and the rolling sum alone are deceived");

        for expected in [vec![], vec![Expected { new: 0..new.len(), base: 0 }]] {
            let delta = delta(&new, std::slice::from_ref(&signature), &expected);
            assert_eq!(patch(&old, &delta.bytes, new.len()).unwrap(), new);
            assert_eq!(delta.literal, 64);
        }
    }

    #[test]
    fn zero_pages_cost_nothing_wherever_they_are() {
        let old = [noise(5 * PAGE, 11), vec![0; 20 * PAGE], noise(5 * PAGE, 12)].concat();
        let bases = signatures(&old, 0, &[], pages());
        let new = [noise(100, 13), vec![0; 200 * PAGE]].concat();
        let delta = delta(&new, &bases, &[]);
        assert_eq!(delta.literal, 100);
        assert!(delta.bytes.len() < 300, "{}", delta.bytes.len());
        assert_eq!(patch(&old, &delta.bytes, new.len()).unwrap(), new);
    }
}
