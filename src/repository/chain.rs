//! In what order the segments are read that one hangs on.
//!
//! A delta has up to three bases, each of which may be a delta again. Several of them may hang on the same segment, so
//! each is read once, before what hangs on it, and forgotten when nothing more does. What that takes is known from the
//! indexes alone, before anything is read: a chain that takes more steps or more memory than any that is written is
//! refused.

use std::collections::HashMap;

use crate::archive::EntryKind;
use crate::digest::Digest;
use crate::repository::RepositoryError;
use crate::repository::table::{Located, Place};

/// Deltas in a chain at most. Longer chains save nothing (measured on 25 releases of a source tree).
pub(super) const MAX_DEPTH: u8 = 16;

/// Segments that one may hang on, itself included. Deltas of neighbours on three neighbours each, as deep as any are
/// written, hang on 289.
const MAX_STEPS: usize = 1024;

/// Bytes that may be held at one time. The deepest chain of segments of 4 MiB takes less.
const MAX_HELD: u64 = 256 << 20;

/// Bytes that many threads may hold at one time each.
const MANY: u64 = 48 << 20;

/// One segment, to be read when its bases were.
#[derive(Debug)]
pub(super) struct Step {
    pub digest: Digest,
    pub place: Place,
    /// The numbers of the steps that give its bases; none where it is stored whole.
    pub bases: Vec<usize>,
    /// How many later bases this one is.
    pub uses: usize,
    len: u64,
    payload: u64,
}

/// The steps that lead to a segment, which is the last.
#[derive(Debug)]
pub(super) struct ChainPlan {
    pub steps: Vec<Step>,
    /// Whether it takes so much memory that only one thread may do it.
    pub is_large: bool,
}

impl ChainPlan {
    /// Finds the steps that lead to the segment `digest`; `locate` knows where segments are.
    pub fn of(
        digest: &Digest,
        locate: impl Fn(&Digest) -> Result<Option<Located>, RepositoryError>,
    ) -> Result<Self, RepositoryError> {
        let mut planner = Planner { locate, steps: Vec::new(), known: HashMap::new() };
        planner.visit(digest, 0)?;
        let Planner { steps, .. } = planner;
        let held = most_held(&steps);
        match held > MAX_HELD {
            true => Err(RepositoryError::Chain(*digest)),
            false => Ok(Self { steps, is_large: held > MANY }),
        }
    }
}

struct Planner<L> {
    locate: L,
    steps: Vec<Step>,
    /// Each segment's step, and how many deltas it hangs on; `None` while its bases are looked at.
    known: HashMap<Digest, Option<(usize, u8)>>,
}

impl<L: Fn(&Digest) -> Result<Option<Located>, RepositoryError>> Planner<L> {
    fn visit(&mut self, digest: &Digest, below: u8) -> Result<(usize, u8), RepositoryError> {
        let endless = || RepositoryError::Chain(*digest);
        if let Some(known) = self.known.get(digest) {
            return known.ok_or_else(endless);
        }
        if below > MAX_DEPTH || self.known.len() >= MAX_STEPS {
            return Err(endless());
        }
        self.known.insert(*digest, None);
        let missing = RepositoryError::NoSegment(*digest);
        let Some(located) = (self.locate)(digest)? else { return Err(missing) };
        let Some(view) = located.index.entry(located.place.entry as usize) else { return Err(missing) };
        let (mut bases, mut depth) = (Vec::new(), 0);
        if let EntryKind::Delta { bases: digests, .. } = view.kind {
            for base in digests {
                let (step, deltas) = self.visit(base, below + 1)?;
                depth = depth.max(deltas + 1);
                bases.push(step);
                self.steps[step].uses += 1;
            }
        }
        if depth > MAX_DEPTH {
            return Err(endless());
        }
        let (len, payload) = (view.segment_len.into(), view.payload_len.into());
        self.steps.push(Step { digest: *digest, place: located.place, bases, uses: 0, len, payload });
        let step = (self.steps.len() - 1, depth);
        self.known.insert(*digest, Some(step));
        Ok(step)
    }
}

/// The most bytes that are held at one time while `steps` are taken.
fn most_held(steps: &[Step]) -> u64 {
    let mut uses: Vec<usize> = steps.iter().map(|step| step.uses).collect();
    let (mut held, mut most) = (0u64, 0u64);
    for step in steps {
        // The bases are there as what was read, and once more one after the other.
        let bases: u64 = step.bases.iter().map(|&base| steps[base].len).sum();
        most = most.max(held + bases + step.payload + step.len);
        for &base in &step.bases {
            uses[base] -= 1;
            if uses[base] == 0 {
                held -= steps[base].len;
            }
        }
        held += step.len;
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nothing_hangs_on_any_more_is_not_held() {
        let step = |bases: &[usize], uses| Step {
            digest: Digest::of(b""),
            place: Place { depth: 0, is_claim: false, volume: 0, entry: 0 },
            bases: bases.to_vec(),
            uses,
            len: 10,
            payload: 1,
        };
        assert_eq!(most_held(&[step(&[], 0)]), 11);
        // One base and its delta, which is the base of another.
        assert_eq!(most_held(&[step(&[], 1), step(&[0], 1), step(&[1], 0)]), 31);
        // The first one is needed up to the end.
        assert_eq!(most_held(&[step(&[], 2), step(&[0], 1), step(&[0, 1], 0)]), 51);
        // A base three times.
        assert_eq!(most_held(&[step(&[], 3), step(&[0, 0, 0], 0)]), 51);
    }
}
