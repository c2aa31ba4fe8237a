//! Deltas against old content that is at hand: for small files, in which single lines change.
//!
//! The common beginning and end come off first. The base is indexed by a hash of the 16 bytes at every 16th offset, and
//! every offset of the new content is looked up. What is found is compared with the base itself and extended bytewise
//! both ways, so a match begins and ends exactly where the contents part. Every common run of
//! 31 bytes or more holds an indexed window.

use super::encoding::{Delta, Match, encode};

/// Bytes hashed for a look-up.
const WINDOW: usize = 16;
/// Distance of the indexed offsets of the base.
const STEP: usize = 16;

/// The shortest match that is used. Deltas are compressed: a copy takes about six bytes then, since offsets do not
/// compress, and text about a third of its length.
const MIN_MATCH: usize = 24;

/// How many places with one hash are compared for a look-up.
const MAX_CANDIDATES: usize = 16;

/// Writes `new` as a delta against `base`.
///
/// Beside the delta it takes about 0.9 bytes of memory for each byte of `base`, and 24 for each match.
pub fn from_content(new: &[u8], base: &[u8]) -> Delta {
    let prefix = common_prefix(new, base);
    let suffix = common_suffix(&new[prefix..], &base[prefix..]);
    let mut matches = vec![Match { new: 0, base: 0, len: prefix }];
    let end = new.len() - suffix;
    if end - prefix >= MIN_MATCH && base.len() >= MIN_MATCH {
        WindowIndex::new(base).find_all(&new[..end], prefix, &mut matches);
    }
    matches.push(Match { new: end, base: base.len() - suffix, len: suffix });
    encode(new, &matches)
}

/// The windows of the base by their hash.
struct WindowIndex<'a> {
    base: &'a [u8],
    /// How far a hash is shifted to be a bucket.
    shift: u32,
    /// For each bucket 0 if it is empty, else some bits of the hash of its first window. This small table is the only
    /// one that most look-ups touch.
    tags: Vec<u8>,
    /// For each bucket its first window, as a multiple of [`STEP`].
    first: Vec<u32>,
    /// For each window the next one in its bucket; itself at the end.
    next: Vec<u32>,
}

impl<'a> WindowIndex<'a> {
    fn new(base: &'a [u8]) -> Self {
        let windows = base.as_chunks::<WINDOW>().0;
        let buckets = (windows.len() * 2).next_power_of_two().max(64);
        let mut index = Self {
            base,
            shift: 64 - buckets.ilog2(),
            tags: vec![0; buckets],
            first: vec![0; buckets],
            next: vec![0; windows.len()],
        };
        // From the end to the beginning, so that the first of equal windows is the first in its bucket. In a run of equal
        // windows one is enough: a match is extended over the run anyway.
        for (at, window) in windows.iter().enumerate().rev() {
            if at > 0 && windows[at - 1] == *window {
                continue;
            }
            let hash = hash(window);
            let bucket = index.bucket(hash);
            index.next[at] = if index.tags[bucket] == 0 { at as u32 } else { index.first[bucket] };
            index.first[bucket] = at as u32;
            index.tags[bucket] = tag(hash);
        }
        index
    }

    fn bucket(&self, hash: u64) -> usize {
        (hash >> self.shift) as usize
    }

    /// Adds the matches in `new` from `start` on.
    fn find_all(&self, new: &[u8], start: usize, matches: &mut Vec<Match>) {
        let mut done = start;
        let mut at = start;
        while let Some(window) = new.get(at..).and_then(<[u8]>::first_chunk) {
            let hash = hash(window);
            let bucket = self.bucket(hash);
            if self.tags[bucket] == tag(hash)
                && let Some(longest) = self.longest(new, done, at, bucket)
                && longest.len >= MIN_MATCH
            {
                matches.push(longest);
                done = longest.new_end();
                at = done;
            } else {
                at += 1;
            }
        }
    }

    /// The longest match through the window at `at` that does not begin before `done`.
    fn longest(&self, new: &[u8], done: usize, at: usize, bucket: usize) -> Option<Match> {
        let mut longest: Option<Match> = None;
        let mut window = self.first[bucket];
        for _ in 0..MAX_CANDIDATES {
            let base = window as usize * STEP;
            let ahead = common_prefix(&new[at..], &self.base[base..]);
            if ahead >= WINDOW {
                let back = common_suffix(&new[done..at], &self.base[..base]);
                let len = back + ahead;
                if longest.is_none_or(|longest| len > longest.len) {
                    longest = Some(Match { new: at - back, base: base - back, len });
                }
            }
            let next = self.next[window as usize];
            if next == window {
                break;
            }
            window = next;
        }
        longest
    }
}

/// A hash whose high bits depend on all of `window`.
#[inline]
fn hash(window: &[u8; WINDOW]) -> u64 {
    let number = u128::from_le_bytes(*window);
    let (low, high) = (number as u64, (number >> 64) as u64);
    (low.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32) ^ high).wrapping_mul(0xc2b2_ae3d_27d4_eb4f)
}

/// Bits of `hash` that are not part of a bucket, never 0.
#[inline]
fn tag(hash: u64) -> u8 {
    (hash >> 20) as u8 | 1
}

/// How many bytes `a` and `b` have in common at the beginning.
fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let (a_chunks, b_chunks) = (a.as_chunks::<32>().0, b.as_chunks::<32>().0);
    let chunks = a_chunks.iter().zip(b_chunks).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[chunks * 32..], &b[chunks * 32..]);
    chunks * 32 + a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// How many bytes `a` and `b` have in common at the end.
fn common_suffix(a: &[u8], b: &[u8]) -> usize {
    let (a_chunks, b_chunks) = (a.as_rchunks::<32>().1, b.as_rchunks::<32>().1);
    let chunks = a_chunks.iter().rev().zip(b_chunks.iter().rev()).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[..a.len() - chunks * 32], &b[..b.len() - chunks * 32]);
    chunks * 32 + a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count()
}
