//! Deltas against old content that is at hand: for small files, in which single lines change.
//!
//! The common beginning and end come off first. The base is indexed by a hash of the 16 bytes at every 8th
//! offset, and every offset of the new content is looked up. What is found is compared with the base itself
//! and extended bytewise both ways, so a match begins and ends exactly where the contents part. Every common
//! run of 23 bytes or more holds an indexed window.

use super::encoding::{Delta, Match, encode};

/// Bytes hashed for a look-up.
const WINDOW: usize = 16;
/// Distance of the indexed offsets of the base.
const STEP: usize = 8;

/// The shortest match that is used. Deltas are compressed: a copy takes about six bytes then, since offsets
/// do not compress, and text about a third of its length. Between releases of source trees 20 and 28 gave
/// larger archives.
const MIN_MATCH: usize = 24;

/// How many places with one hash are compared for a look-up.
const MAX_CANDIDATES: usize = 16;

/// Writes `new` as a delta against `base`.
///
/// Beside the delta it takes at most two bytes of memory for each byte of `base`, and 24 for each match.
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
    /// For each bucket a set of the [`tag`]s of its windows. This is the only table that most look-ups touch.
    tags: Vec<u16>,
    /// For each bucket its first window, as a multiple of [`STEP`].
    first: Vec<u32>,
    /// For each window the next one in its bucket; itself at the end.
    next: Vec<u32>,
}

impl<'a> WindowIndex<'a> {
    fn new(base: &'a [u8]) -> Self {
        let windows = base.windows(WINDOW).step_by(STEP).len();
        let buckets = windows.next_power_of_two().max(64);
        let mut index = Self {
            base,
            shift: 64 - buckets.ilog2(),
            tags: vec![0; buckets],
            first: vec![0; buckets],
            next: vec![0; windows],
        };
        // From the end to the beginning, so that the first of equal windows is the first in its bucket. In a
        // run of equal windows one is enough: a match is extended over the run anyway.
        for (at, window) in base.windows(WINDOW).step_by(STEP).enumerate().rev() {
            let start = at * STEP;
            let repeats = start >= STEP && base[start - STEP..].starts_with(window);
            let Some(window) = window.first_chunk().filter(|_| !repeats) else { continue };
            let hash = hash(window);
            let bucket = index.bucket(hash);
            index.next[at] = if index.tags[bucket] == 0 { at as u32 } else { index.first[bucket] };
            index.first[bucket] = at as u32;
            index.tags[bucket] |= tag(hash);
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
            if self.tags[bucket] & tag(hash) != 0
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

/// One of 16 bits, chosen by a part of `hash` that does not choose the bucket.
#[inline]
fn tag(hash: u64) -> u16 {
    1 << (hash >> 20 & 15)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::encoding::patch;
    use super::super::testing::{edited, noise, rdiff, text};
    use super::*;

    proptest! {
        #[test]
        fn applying_the_delta_gives_the_new_content((old, new) in edited(6000)) {
            let delta = from_content(&new, &old);
            prop_assert_eq!(&patch(&old, &delta.bytes, new.len()).unwrap(), &new);
            let mut theirs = Vec::new();
            fast_rsync::apply(&old, &delta.bytes, &mut theirs).unwrap();
            prop_assert_eq!(&theirs, &new);
            prop_assert!(delta.literal <= new.len() && delta.bytes.len() <= new.len() + 16);
        }

        #[test]
        fn common_ends_are_exact(a in "[ab]{0,80}", b in "[ab]{0,80}", shared in "[ab]{0,80}") {
            let (front, back) = ([shared.as_str(), &a].concat(), [a.as_str(), &shared].concat());
            let other = [shared.as_str(), &b].concat();
            let count = front.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
            prop_assert_eq!(common_prefix(front.as_bytes(), other.as_bytes()), count);
            let other = [b.as_str(), &shared].concat();
            let count = back.bytes().rev().zip(other.bytes().rev()).take_while(|(a, b)| a == b).count();
            prop_assert_eq!(common_suffix(back.as_bytes(), other.as_bytes()), count);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn rdiff_applies_the_delta((old, new) in edited(6000)) {
            let delta = from_content(&new, &old);
            if let Some(patched) = rdiff(&["patch"], &[&old, &delta.bytes]) {
                prop_assert_eq!(patched, new);
            }
        }
    }

    #[test]
    fn matches_begin_and_end_where_the_contents_part() {
        let old = noise(10_000, 1);
        let inserted = [&old[..3333], b"!", &old[3333..]].concat();
        assert_eq!(from_content(&inserted, &old).literal, 1);
        let mut replaced = old.clone();
        for at in [1000, 2345, 7777] {
            replaced[at] ^= 0xff;
        }
        assert_eq!(from_content(&replaced, &old).literal, 3);
    }

    #[test]
    fn moved_and_repeated_parts_are_found() {
        let old = noise(10_000, 2);
        let moved = [&old[6001..], &old[..3000], &old[5000..6001], &old[6001..6100]].concat();
        let delta = from_content(&moved, &old);
        assert_eq!(delta.literal, 0);
        assert!(delta.bytes.len() < 40, "{}", delta.bytes.len());
    }

    #[test]
    fn the_longest_of_several_matches_is_chosen() {
        let line = noise(40, 3);
        let tail = noise(500, 4);
        let old = [&noise(100, 5)[..], &line, &noise(100, 6), &line, &tail, &noise(100, 7), &line].concat();
        let new = [&noise(50, 8)[..], &line, &tail, &noise(50, 9)].concat();
        let delta = from_content(&new, &old);
        assert_eq!(delta.literal, 100);
        assert_eq!(delta.bytes.len(), 4 + (1 + 50) + (1 + 1 + 2) + (1 + 50) + 1);
    }

    #[test]
    fn edited_text_is_smaller_than_with_blocks_of_32() {
        let old = text(500, 10);
        let mut new = old.clone();
        for at in (0..20).rev() {
            let start = at * 500 + 100;
            new.splice(start..start + at, text(1, at as u64));
        }
        let options = fast_rsync::SignatureOptions { block_size: 32, crypto_hash_size: 8 };
        let mut theirs = Vec::new();
        fast_rsync::diff(&fast_rsync::Signature::calculate(&old, options).index(), &new, &mut theirs)
            .unwrap();
        let ours = from_content(&new, &old).bytes;
        assert!(ours.len() * 3 < theirs.len() * 2, "{} against {}", ours.len(), theirs.len());
    }

    #[test]
    fn repetitive_content_stays_small() {
        let old = [noise(500, 11), vec![b' '; 100_000], noise(24, 12).repeat(5000)].concat();
        let new =
            [noise(500, 13), vec![b' '; 90_000], noise(24, 12).repeat(4000), vec![b' '; 50_000]].concat();
        let delta = from_content(&new, &old);
        assert_eq!(delta.literal, 500);
        assert!(delta.bytes.len() < 560, "{}", delta.bytes.len());
    }
}
