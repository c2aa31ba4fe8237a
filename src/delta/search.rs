//! The rolling search: which base block, if any, stands at some offset of the new content.
//!
//! The sum is librsync's original one (`rollsum.h`): two 16-bit halves, `s1` the sum of the bytes plus 31
//! each, `s2` the sum of all `s1` on the way. It rolls by one byte with a few additions. A bitmap of 32 KiB
//! over a hash of the sum, which stays in the first-level cache, turns nearly every offset away; then a
//! sorted table of the sums; then the keyed BLAKE3 decides.

use std::collections::HashMap;
use std::ops::Range;

use super::signature::{Block, Confirm, ConfirmKey};

const CHAR_OFFSET: u32 = 31;

/// How often a rolling sum may match bytes that turn out to be others before it is no longer looked for. This
/// bounds the hashing that prepared content can cause to this many times the length of the bases.
const MAX_FAILURES: u32 = 32;

/// The whole blocks of one length, found by their rolling sum.
pub(super) struct BlockIndex {
    block_len: usize,
    filter: Filter,
    /// Sorted, without blocks that equal one before them.
    entries: Vec<Entry>,
    failures: HashMap<u32, u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    weak: u32,
    confirm: Confirm,
    /// Which block it is.
    block: usize,
}

/// One bit for each value of [`RollSum::mix`].
struct Filter(Box<[u64; Filter::WORDS]>);

/// The rolling sum of a window. Only the low halves of the two numbers mean something.
#[derive(Clone, Copy)]
struct RollSum {
    s1: u32,
    s2: u32,
}

impl RollSum {
    fn of(window: &[u8]) -> Self {
        let mut sum = Self { s1: 0, s2: 0 };
        for &byte in window {
            sum.s1 = sum.s1.wrapping_add(u32::from(byte) + CHAR_OFFSET);
            sum.s2 = sum.s2.wrapping_add(sum.s1);
        }
        sum
    }

    /// Moves a window of `len` bytes by one.
    #[inline]
    fn roll(&mut self, len: u32, old: u8, new: u8) {
        let (old, new) = (u32::from(old), u32::from(new));
        self.s1 = self.s1.wrapping_add(new.wrapping_sub(old));
        self.s2 = self.s2.wrapping_add(self.s1).wrapping_sub(len.wrapping_mul(old + CHAR_OFFSET));
    }

    fn from_weak(weak: u32) -> Self {
        Self { s1: weak & 0xffff, s2: weak >> 16 }
    }

    fn weak(self) -> u32 {
        self.s2 << 16 | self.s1 & 0xffff
    }

    /// A hash of the sum that chooses a bit of a [`Filter`].
    #[inline]
    fn mix(self) -> usize {
        (self.weak().wrapping_mul(0x9e37_79b1) >> (u32::BITS - Filter::BITS)) as usize
    }
}

impl BlockIndex {
    /// Indexes those of `blocks` that are `block_len` bytes long and no heads.
    pub fn new(blocks: &[Block], block_len: usize) -> Self {
        let whole = blocks.iter().enumerate().filter(|(_, block)| block.len == block_len);
        let entry = |(at, block): (usize, &Block)| {
            block.weak.map(|weak| Entry { weak, confirm: block.confirm, block: at })
        };
        let mut entries: Vec<_> = whole.filter_map(entry).collect();
        entries.sort_unstable();
        entries.dedup_by_key(|entry| (entry.weak, entry.confirm));
        let mut filter = Filter(Box::new([0; Filter::WORDS]));
        for entry in &entries {
            filter.add(RollSum::from_weak(entry.weak).mix());
        }
        Self { block_len, filter, entries, failures: HashMap::new() }
    }

    /// The first offset in `gap` of `new` at which a whole block stands within the gap, and which block that
    /// is.
    pub fn find(&mut self, new: &[u8], gap: Range<usize>, key: &ConfirmKey) -> Option<(usize, usize)> {
        let gap_start = gap.start;
        let new = &new[gap];
        let len = self.block_len;
        let mut sum = RollSum::of(new.get(..len)?);
        let mut start = 0;
        loop {
            let (step, here) = self.filter.first_hit(sum, &new[start..], len)?;
            start += step;
            sum = here;
            if let Some(block) = self.confirmed(sum.weak(), &new[start..start + len], key) {
                return Some((gap_start + start, block));
            }
            let (&old, &next) = (new.get(start)?, new.get(start + len)?);
            sum.roll(len as u32, old, next);
            start += 1;
        }
    }

    /// The block that `window`, whose sum is `weak`, is.
    fn confirmed(&mut self, weak: u32, window: &[u8], key: &ConfirmKey) -> Option<usize> {
        let first = self.entries.partition_point(|entry| entry.weak < weak);
        let is_known = self.entries.get(first).is_some_and(|entry| entry.weak == weak);
        if !is_known || self.failures.get(&weak) == Some(&MAX_FAILURES) {
            return None;
        }
        let wanted = (weak, key.confirm(window));
        let found = self.entries[first..].binary_search_by_key(&wanted, |entry| (entry.weak, entry.confirm));
        if found.is_err() {
            *self.failures.entry(weak).or_default() += 1;
        }
        found.ok().map(|at| self.entries[first + at].block)
    }
}

impl Filter {
    const BITS: u32 = 18;
    const WORDS: usize = 1 << (Self::BITS - u64::BITS.ilog2());

    #[inline]
    fn has(&self, mix: usize) -> bool {
        self.0[mix / 64] >> (mix % 64) & 1 == 1
    }

    fn add(&mut self, mix: usize) {
        self.0[mix / 64] |= 1 << (mix % 64);
    }

    /// Rolls `sum`, that of the first `len` bytes of `new`, until the filter has it; by how much, and the sum
    /// there.
    #[inline]
    fn first_hit(&self, mut sum: RollSum, new: &[u8], len: usize) -> Option<(usize, RollSum)> {
        if self.has(sum.mix()) {
            return Some((0, sum));
        }
        for (at, (&old, &next)) in new.iter().zip(&new[len..]).enumerate() {
            sum.roll(len as u32, old, next);
            if self.has(sum.mix()) {
                return Some((at + 1, sum));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::signature::SignatureOptions;
    use super::super::testing::{KEY, noise, sign};
    use super::*;

    fn blocks_of(data: &[u8], block_len: usize) -> Vec<Block> {
        sign(data, 0, SignatureOptions::new(block_len, 8).unwrap()).blocks().collect()
    }

    #[test]
    fn the_sum_is_that_of_the_signature_and_rolls() {
        let data = noise(1000, 1);
        for block_len in [64, 256] {
            let mut sum = RollSum::of(&data[..block_len]);
            for start in 0..data.len() - block_len {
                let block = blocks_of(&data[start..start + block_len], block_len)[0];
                assert_eq!(Some(sum.weak()), block.weak);
                sum.roll(block_len as u32, data[start], data[start + block_len]);
            }
        }
    }

    #[test]
    fn finds_blocks_at_every_offset_and_only_within_the_gap() {
        let base = noise(64 * 8, 2);
        let mut index = BlockIndex::new(&blocks_of(&base, 64), 64);
        for offset in 0..130 {
            let new = [&noise(offset, 3)[..], &base[64 * 5..64 * 6], &noise(10, 4)].concat();
            assert_eq!(index.find(&new, 0..new.len(), &KEY), Some((offset, 5)));
            assert_eq!(index.find(&new, offset..offset + 64, &KEY), Some((offset, 5)));
            assert_eq!(index.find(&new, 0..offset + 63, &KEY), None);
            assert_eq!(index.find(&new, offset + 1..new.len(), &KEY), None);
        }
        assert_eq!(index.find(&base, 0..0, &KEY), None);
    }

    #[test]
    fn gives_up_a_sum_that_keeps_matching_other_bytes() {
        let base = noise(64, 5);
        let mut twin = base.clone();
        let middle = (1..63).find(|&at| base[at] < 254 && base[at - 1] > 0 && base[at + 1] > 0).unwrap();
        twin[middle] += 2;
        twin[middle - 1] -= 1;
        twin[middle + 1] -= 1;
        let blocks = blocks_of(&base, 64);
        assert_eq!(Some(RollSum::of(&twin).weak()), blocks[0].weak);
        let mut index = BlockIndex::new(&blocks, 64);
        let new = twin.repeat(1000);
        assert_eq!(index.find(&new, 0..new.len(), &KEY), None);
        assert_eq!(index.failures.values().copied().collect::<Vec<_>>(), [MAX_FAILURES]);
    }

    #[test]
    fn equal_blocks_are_one_entry() {
        let index = BlockIndex::new(&blocks_of(&[0; 6400], 64), 64);
        assert_eq!(index.entries.len(), 1);
        assert_eq!(index.entries[0].block, 0);
    }
}
