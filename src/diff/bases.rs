//! Which old segments a new one is compared with.
//!
//! What stood at the same place of the file before is found by position in the *file*, not in the data
//! stream, so that a hole that was filled does not shift everything behind it.

use std::ops::Range;

use crate::delta::Expected;
use crate::diff::entry::{Content, DataMap};

/// How many old segments may be the base of one delta.
pub const MAX_BASES: usize = 3;

/// The old content of a file, ready to be asked for what stood where.
#[derive(Debug)]
pub struct Layout {
    /// Where each segment begins in the data stream, and where the last one ends.
    starts: Vec<u64>,
    /// Where the data stream stands in the file.
    data: DataMap,
}

/// Old segments to compare with, and where in them the new bytes are expected.
#[derive(Debug, PartialEq, Eq)]
pub struct Bases {
    /// Numbers of the old segments; the base of a delta is their concatenation.
    pub segments: Range<usize>,
    /// Ranges of the new segment, each with the offset in that concatenation where the same bytes stood.
    pub expected: Vec<Expected>,
}

impl Layout {
    /// Takes in the old content of a file.
    pub fn new(content: &Content) -> Self {
        let mut starts = vec![0];
        let mut end = 0;
        for segment in &content.segments {
            end += u64::from(segment.len);
            starts.push(end);
        }
        Self { starts, data: content.data_map() }
    }

    /// The old segments that stood where `len` bytes at `offset` of the data stream of a new file, which stands there
    /// as `new` says, stand now; where there were none, the one before. `None` when the old file was empty.
    pub fn bases(&self, new: &DataMap, offset: u64, len: usize) -> Option<Bases> {
        if self.starts.len() < 2 {
            return None;
        }
        let pieces = self.same_place(new, offset, len);
        let touched = pieces.iter().map(|(_, old)| old);
        let first = touched.clone().map(|old| self.segment_at(old.start)).min();
        let last = touched.map(|old| self.segment_at(old.end - 1)).max();
        let window = match (first, last) {
            (Some(first), Some(last)) => self.fullest_window(&pieces, first, last),
            _ => self.nearest(new, offset),
        };
        let base = self.starts[window.start]..self.starts[window.end];
        let expected = pieces.iter().filter_map(|(new, old)| {
            let start = old.start.max(base.start);
            let end = old.end.min(base.end);
            (start < end).then(|| Expected {
                new: new.start + (start - old.start) as usize..new.start + (end - old.start) as usize,
                base: (start - base.start) as usize,
            })
        });
        Some(Bases { expected: expected.collect(), segments: window })
    }

    /// Ranges of the new segment, each with the range of the old data stream at the same place of the file.
    fn same_place(&self, new: &DataMap, offset: u64, len: usize) -> Vec<(Range<usize>, Range<u64>)> {
        let mut pieces = Vec::new();
        let mut position = 0;
        for at in new.file_ranges(offset..offset + len as u64) {
            let from = self.data.ranges().partition_point(|(range, _)| range.end <= at.start);
            for (range, before) in &self.data.ranges()[from..] {
                let start = range.start.max(at.start);
                let end = range.end.min(at.end);
                if start >= end {
                    break;
                }
                let first = position + (start - at.start) as usize;
                let old = before + (start - range.start);
                let len = end - start;
                pieces.push((first..first + len as usize, old..old + len));
            }
            position += (at.end - at.start) as usize;
        }
        pieces
    }

    /// The segment that holds byte `at` of the data stream.
    fn segment_at(&self, at: u64) -> usize {
        self.starts.partition_point(|&start| start <= at).clamp(1, self.starts.len() - 1) - 1
    }

    /// Of the segments `first..=last`, the run of at most [`MAX_BASES`] that covers most of `pieces`.
    fn fullest_window(
        &self,
        pieces: &[(Range<usize>, Range<u64>)],
        first: usize,
        last: usize,
    ) -> Range<usize> {
        let covered = |window: &Range<usize>| -> u64 {
            let (start, end) = (self.starts[window.start], self.starts[window.end]);
            pieces.iter().map(|(_, old)| old.end.min(end).saturating_sub(old.start.max(start))).sum()
        };
        let windows = (first..=last).map(|start| start..(start + MAX_BASES).min(last + 1));
        windows.rev().max_by_key(covered).unwrap_or(first..last + 1)
    }

    /// The segment that ends nearest before the place of `offset`.
    fn nearest(&self, new: &DataMap, offset: u64) -> Range<usize> {
        let at =
            new.file_ranges(offset..offset.saturating_add(1)).next().map_or(u64::MAX, |range| range.start);
        let end = self.data.ranges().partition_point(|(range, _)| range.end <= at);
        let before = end.checked_sub(1).map(|last| &self.data.ranges()[last]);
        let old = before.map_or(0, |(range, before)| before + (range.end - range.start) - 1);
        let segment = self.segment_at(old);
        segment..segment + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::entry::SegmentRef;
    use crate::digest::Digest;

    fn layout(lens: &[u32], holes: &[Range<u64>]) -> Layout {
        let segments: Vec<_> = lens.iter().map(|&len| SegmentRef { digest: Digest::of(b""), len }).collect();
        let data: u64 = lens.iter().map(|&len| u64::from(len)).sum();
        let hole_bytes: u64 = holes.iter().map(|hole| hole.end - hole.start).sum();
        Layout::new(&Content {
            size: data + hole_bytes,
            segments: segments.into(),
            holes: Some(Box::new(holes.to_vec())),
            link: None,
        })
    }

    fn map(holes: &[Range<u64>]) -> DataMap {
        DataMap::with_holes(holes)
    }

    fn expected(new: Range<usize>, base: usize) -> Expected {
        Expected { new, base }
    }

    #[test]
    fn a_segment_is_compared_with_what_it_overlaps() {
        let old = layout(&[100, 100, 100, 100, 100], &[]);
        let bases = old.bases(&map(&[]), 150, 100).unwrap();
        assert_eq!(bases, Bases { segments: 1..3, expected: vec![expected(0..100, 50)] });
        let wide = old.bases(&map(&[]), 50, 450).unwrap();
        assert_eq!(wide, Bases { segments: 1..4, expected: vec![expected(50..350, 0)] });
    }

    #[test]
    fn what_was_appended_is_compared_with_the_end() {
        let old = layout(&[100, 100], &[]);
        assert_eq!(old.bases(&map(&[]), 200, 50).unwrap(), Bases { segments: 1..2, expected: vec![] });
        assert_eq!(
            old.bases(&map(&[]), 150, 100).unwrap(),
            Bases { segments: 1..2, expected: vec![expected(0..50, 50)] }
        );
        assert_eq!(layout(&[], &[]).bases(&map(&[]), 0, 10), None);
    }

    #[test]
    fn a_hole_that_was_filled_shifts_nothing() {
        let old = layout(&[100, 100], std::slice::from_ref(&(50..150)));
        let bases = old.bases(&map(&[]), 100, 150).unwrap();
        assert_eq!(bases, Bases { segments: 0..2, expected: vec![expected(50..150, 50)] });
        let new_hole = 150..250;
        let bases = old.bases(&map(std::slice::from_ref(&new_hole)), 100, 60).unwrap();
        assert_eq!(bases, Bases { segments: 1..2, expected: vec![expected(50..60, 50)] });
    }
}
