//! The rolling search: which base block, if any, stands at some offset of the new content.
//!
//! The sum is librsync's original one (`rollsum.h`): two 16-bit halves, `s1` the sum of the bytes plus 31 each, `s2` the
//! sum of all `s1` on the way. It rolls by one byte with a few additions. A bitmap of 8 KiB over a mix of the two halves,
//! which stays in the first-level cache, turns nearly every offset away; then a table by the whole sum; then the keyed
//! BLAKE3 decides.

use std::collections::HashMap;
use std::ops::Range;

use super::signature::{Block, Confirm, ConfirmKey};

const CHAR_OFFSET: u32 = 31;

/// How many different blocks with one rolling sum are looked for.
const MAX_CANDIDATES: usize = 4;

/// How often a rolling sum may match bytes that turn out to be others before it is no longer looked for. This bounds
/// the hashing that prepared content can cause to this many times the bases' length.
const MAX_FAILURES: u32 = 32;

/// The whole blocks of one length, found by their rolling sum.
pub(super) struct BlockIndex {
    block_len: usize,
    filter: Filter,
    by_sum: HashMap<u32, Candidates>,
}

#[derive(Default)]
struct Candidates {
    blocks: Vec<(Confirm, usize)>,
    failures: u32,
}

/// One bit for each value of [`RollSum::mix`].
struct Filter(Box<[u64; 1024]>);

impl Filter {
    #[inline]
    fn has(&self, mix: u16) -> bool {
        self.0[usize::from(mix >> 6)] >> (mix & 63) & 1 == 1
    }

    fn add(&mut self, mix: u16) {
        self.0[usize::from(mix >> 6)] |= 1 << (mix & 63);
    }
}

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

    /// 16 bits of the sum, spread well enough for a bitmap.
    #[inline]
    fn mix(self) -> u16 {
        (self.s2 ^ self.s1.wrapping_mul(0x9e37)) as u16
    }
}

impl BlockIndex {
    /// Indexes those of `blocks` that are `block_len` bytes long and no heads.
    pub fn new(blocks: &[Block], block_len: usize) -> Self {
        let mut index = Self { block_len, filter: Filter(Box::new([0; 1024])), by_sum: HashMap::new() };
        for (at, block) in blocks.iter().enumerate() {
            let (Some(weak), true) = (block.weak, block.len == block_len) else { continue };
            let candidates = &mut index.by_sum.entry(weak).or_default().blocks;
            let is_known = candidates.iter().any(|(confirm, _)| *confirm == block.confirm);
            if candidates.len() < MAX_CANDIDATES && !is_known {
                candidates.push((block.confirm, at));
                index.filter.add(RollSum::from_weak(weak).mix());
            }
        }
        index
    }

    /// The first offset in `gap` of `new` at which a whole block stands within the gap, and which block that is.
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
        let candidates = self.by_sum.get_mut(&weak)?;
        if candidates.failures == MAX_FAILURES {
            return None;
        }
        let confirm = key.confirm(window);
        let found = candidates.blocks.iter().find(|(known, _)| *known == confirm);
        if found.is_none() {
            candidates.failures += 1;
        }
        found.map(|&(_, block)| block)
    }
}

impl Filter {
    /// Rolls `sum`, that of the first `len` bytes of `new`, until the filter has it; by how much, and the sum there.
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
