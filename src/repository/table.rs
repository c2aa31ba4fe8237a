//! Where the segments of a repository are, by their digests.
//!
//! A table is made once and does not change: rows in the order of digests, 44 bytes each, and for each run of
//! about [`RUN`] of them where it begins. Where a segment lies in several places, the one with the shortest
//! chain of deltas counts, of these one in a volume that this repository wrote itself, and of these the one in the
//! newest volume: a forced backup stores again, whole, what it finds damaged.

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;
use std::sync::Arc;

use crate::archive::VolumeIndex;
use crate::digest::Digest;

/// A segment's place: number of the volume, and of the entry in it; how many deltas it hangs on there; and who says so.
///
/// Of two places the lesser is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub depth: u8,
    /// Whether only somebody else says that it is there.
    pub is_claim: bool,
    pub volume: u32,
    pub entry: u32,
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        let rank = |place: &Self| (place.depth, place.is_claim, Reverse(place.volume), place.entry);
        rank(self).cmp(&rank(other))
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What is known of a stored segment.
pub(super) struct Located {
    pub place: Place,
    pub index: Arc<VolumeIndex>,
}

/// Rows that share one entry of the table's own index, if digests are spread as they should be.
const RUN: usize = 8;

/// First bits of a digest at most that the table's own index goes by: 64 MiB of it.
const MAX_BITS: u32 = 24;

/// Where segments are.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<(Digest, Place)>,
    /// For each value of the first bits of a digest, the first row that has it or a greater one.
    starts: Vec<u32>,
    bits: u32,
    /// Of the few segments that lie in several places, the others, the better ones first.
    others: HashMap<Digest, Vec<Place>>,
}

impl Table {
    /// Of rows in any order, in which digests may recur.
    pub fn new(mut rows: Vec<(Digest, Place)>) -> Self {
        rows.sort_unstable();
        let mut others: HashMap<_, Vec<_>> = HashMap::new();
        rows.dedup_by(|(digest, place), (first, _)| {
            let is_other = digest == first;
            if is_other {
                others.entry(*digest).or_default().push(*place);
            }
            is_other
        });
        rows.shrink_to_fit();
        let bits = (rows.len() / RUN).checked_ilog2().unwrap_or(0).min(MAX_BITS);
        let mut table = Self { rows, starts: vec![0; (1 << bits) + 1], bits, others };
        for (digest, _) in &table.rows {
            table.starts[first_bits(digest, bits) + 1] += 1;
        }
        let mut sum = 0;
        for start in &mut table.starts {
            sum += *start;
            *start = sum;
        }
        table
    }

    /// Where a segment is.
    pub fn get(&self, digest: &Digest) -> Option<Place> {
        let run = first_bits(digest, self.bits);
        let bounds = self.starts.get(run..run + 2)?;
        let rows = &self.rows[bounds[0] as usize..bounds[1] as usize];
        rows.binary_search_by_key(digest, |(digest, _)| *digest).ok().map(|at| rows[at].1)
    }

    /// Where else a segment is, the better places first.
    pub fn others(&self, digest: &Digest) -> &[Place] {
        self.others.get(digest).map_or(&[], Vec::as_slice)
    }

    /// Whether any segment lies in several places.
    pub fn has_others(&self) -> bool {
        !self.others.is_empty()
    }
}

fn first_bits(digest: &Digest, bits: u32) -> usize {
    let [a, b, c, d, ..] = *digest.as_bytes();
    (u64::from(u32::from_be_bytes([a, b, c, d])) >> (32 - bits)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: usize) -> Digest {
        Digest::of(&number.to_le_bytes())
    }

    #[test]
    fn every_segment_is_found_and_nothing_else() {
        for count in [0, 1, 7, 8, 9, 16, 1000] {
            let place = |entry| Place { depth: 0, is_claim: false, volume: 1, entry };
            let table = Table::new((0..count).map(|number| (digest(number), place(number as u32))).collect());
            for number in 0..count {
                assert_eq!(table.get(&digest(number)), Some(place(number as u32)), "{number} of {count}");
            }
            for number in count..count + 50 {
                assert_eq!(table.get(&digest(number)), None, "{number} beside {count}");
            }
        }
    }

    #[test]
    fn of_several_places_that_with_the_shortest_chain_counts_then_the_newest() {
        let place = |depth, volume| Place { depth, is_claim: false, volume, entry: 0 };
        let rows = [place(3, 0), place(1, 2), place(1, 1), place(2, 3)];
        let table = Table::new(rows.map(|place| (digest(0), place)).to_vec());
        assert_eq!(table.get(&digest(0)), Some(place(1, 2)));
        assert_eq!(table.others(&digest(0)), [place(1, 1), place(2, 3), place(3, 0)]);
    }

    #[test]
    fn digests_may_all_begin_alike() {
        let alike = |last| {
            let mut bytes = [7; 32];
            bytes[31] = last;
            Digest::from_bytes(bytes)
        };
        let place = |entry| Place { depth: 0, is_claim: false, volume: 0, entry };
        let table = Table::new((0..200).map(|last| (alike(last), place(last.into()))).collect());
        assert_eq!(table.get(&alike(150)), Some(place(150)));
        assert_eq!(table.get(&alike(201)), None);
    }
}
