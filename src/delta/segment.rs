//! Cutting a stream into content-defined segments.
//!
//! The cut points are those of FastCDC (Xia et al., 2020) as the crate `fastcdc` computes them in its module
//! `v2020` with normalization level 1. They depend on the bytes alone, not on how the reader hands them out.

use std::io::{self, Read};

use fastcdc::v2020::{self, Normalization};
use serde::{Deserialize, Serialize};

/// The longest segment that any parameters allow, in bytes.
pub const MAX_SEGMENT_LEN: usize = v2020::MAXIMUM_MAX;

/// What a [`Segmenter`] first asks of its reader: most files are smaller and cost no larger buffer.
const FIRST_READ: usize = 64 * 1024;

/// How long segments are: at least `min` bytes (the last one of a stream aside), about `avg`, at most `max`.
///
/// The default is 256 KiB, 1 MiB and 4 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Lengths", into = "Lengths")]
pub struct SegmentParams {
    min: usize,
    avg: usize,
    max: usize,
}

/// Segment lengths that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "segment lengths {min}, {avg}, {max} cannot be used: choose even numbers with 64 <= min <= 1 MiB, \
     256 <= avg <= 4 MiB, 1024 <= max <= 16 MiB and min < avg < max"
)]
pub struct SegmentParamsError {
    min: u64,
    avg: u64,
    max: u64,
}

#[derive(Serialize, Deserialize)]
struct Lengths {
    min: u64,
    avg: u64,
    max: u64,
}

impl SegmentParams {
    /// Checks the three lengths: even, `min < avg < max`, and within 64 bytes to 1 MiB, 256 bytes to 4 MiB,
    /// and 1 KiB to [`MAX_SEGMENT_LEN`].
    pub fn new(min: usize, avg: usize, max: usize) -> Result<Self, SegmentParamsError> {
        let even = [min, avg, max].iter().all(|len| len.is_multiple_of(2));
        let in_range = (v2020::MINIMUM_MIN..=v2020::MINIMUM_MAX).contains(&min)
            && (v2020::AVERAGE_MIN..=v2020::AVERAGE_MAX).contains(&avg)
            && (v2020::MAXIMUM_MIN..=v2020::MAXIMUM_MAX).contains(&max);
        if even && in_range && min < avg && avg < max {
            Ok(Self { min, avg, max })
        } else {
            Err(SegmentParamsError { min: min as u64, avg: avg as u64, max: max as u64 })
        }
    }

    /// The length up to which a stream is one segment, in bytes.
    pub fn min(&self) -> usize {
        self.min
    }

    /// The length that segments have on average, roughly, in bytes.
    pub fn avg(&self) -> usize {
        self.avg
    }

    /// The length at which a segment is cut whatever it holds, in bytes.
    pub fn max(&self) -> usize {
        self.max
    }

    /// The length of the first segment of `window`. A result shorter than `window` is the same for every longer
    /// window that begins with these bytes.
    fn cut(&self, window: &[u8]) -> usize {
        let (strict, loose) = v2020::select_masks(self.avg, Normalization::Level1);
        let Self { min, avg, max } = *self;
        v2020::cut(window, min, avg, max, strict, loose, strict << 1, loose << 1).1
    }
}

impl Default for SegmentParams {
    fn default() -> Self {
        Self { min: 256 << 10, avg: 1 << 20, max: 4 << 20 }
    }
}

impl TryFrom<Lengths> for SegmentParams {
    type Error = SegmentParamsError;

    fn try_from(Lengths { min, avg, max }: Lengths) -> Result<Self, SegmentParamsError> {
        let small = |len: u64| usize::try_from(len).unwrap_or(usize::MAX);
        Self::new(small(min), small(avg), small(max))
    }
}

impl From<SegmentParams> for Lengths {
    fn from(SegmentParams { min, avg, max }: SegmentParams) -> Self {
        Self { min: min as u64, avg: avg as u64, max: max as u64 }
    }
}

/// Cuts what a reader gives into segments.
///
/// It holds one buffer of at most `max` bytes, which grows with what is read, so that a small file costs a
/// small one. The reader may hand out any number of bytes at a time; interrupted reads are repeated.
pub struct Segmenter<R> {
    reader: R,
    params: SegmentParams,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    at_eof: bool,
}

impl<R: Read> Segmenter<R> {
    /// Prepares to cut what `reader` gives; reads nothing yet.
    pub fn new(reader: R, params: SegmentParams) -> Self {
        Self { reader, params, buffer: Vec::new(), start: 0, end: 0, at_eof: false }
    }

    /// The bytes of the next segment, in a buffer of exactly that size; `None` at the end of the stream.
    ///
    /// After an error nothing is lost: a further call reads on from there.
    pub fn next_segment(&mut self) -> io::Result<Option<Vec<u8>>> {
        // Twice the average nearly always shows the cut, and leaves less to move than a full window would.
        let usual = self.params.avg.saturating_mul(2).min(self.params.max);
        self.fill(usual)?;
        let mut len = self.params.cut(&self.buffer[self.start..self.end]);
        if len == self.end - self.start && !self.at_eof {
            self.fill(self.params.max)?;
            len = self.params.cut(&self.buffer[self.start..self.end]);
        }
        if len == 0 {
            return Ok(None);
        }
        let segment = self.buffer[self.start..self.start + len].to_vec();
        self.start += len;
        Ok(Some(segment))
    }

    /// Reads until `wanted` bytes are at hand or the stream ends.
    fn fill(&mut self, wanted: usize) -> io::Result<()> {
        if self.end - self.start >= wanted || self.at_eof {
            return Ok(());
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        while self.end < self.params.max {
            if self.end == self.buffer.len() {
                let grown = (self.buffer.len() * 2).max(FIRST_READ).min(self.params.max);
                self.buffer.reserve_exact(grown - self.buffer.len());
                self.buffer.resize(grown, 0);
            }
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(0) => {
                    self.at_eof = true;
                    break;
                }
                Ok(count) => self.end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{contents, noise};
    use super::*;
    use crate::cbor;

    fn small() -> SegmentParams {
        SegmentParams::new(64, 256, 1024).unwrap()
    }

    fn segments(reader: impl Read, params: SegmentParams) -> Vec<Vec<u8>> {
        let mut segmenter = Segmenter::new(reader, params);
        std::iter::from_fn(|| segmenter.next_segment().unwrap()).collect()
    }

    /// Gives at most `step` bytes at a time, and is interrupted before each.
    struct Dribble<'a> {
        data: &'a [u8],
        step: usize,
        interrupted: bool,
    }

    impl Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.interrupted = !self.interrupted;
            if self.interrupted {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let step = self.step.min(buffer.len());
            self.data.read(&mut buffer[..step])
        }
    }

    proptest! {
        #[test]
        fn cuts_as_if_the_whole_were_in_memory(data in contents(20_000), step in 1..3000usize) {
            let reader = Dribble { data: &data, step, interrupted: false };
            let whole: Vec<_> = v2020::FastCDC::new(&data, 64, 256, 1024)
                .map(|chunk| data[chunk.offset..chunk.offset + chunk.length].to_vec())
                .collect();
            prop_assert_eq!(segments(reader, small()), whole);
        }
    }

    #[test]
    fn default_segments_are_about_a_mebibyte_and_shared_after_an_insertion() {
        let data = noise(24 << 20, 1);
        let before = segments(&data[..], SegmentParams::default());
        assert!((16..40).contains(&before.len()), "{}", before.len());
        assert_eq!(before.concat(), data);
        let shifted = [b"inserted", &data[..]].concat();
        let after = segments(&shifted[..], SegmentParams::default());
        let shared = after.iter().filter(|segment| before.contains(segment)).count();
        assert!(shared + 2 >= before.len(), "{shared} of {}", before.len());
    }

    #[test]
    fn a_stream_up_to_the_minimum_is_one_segment_and_an_empty_one_is_none() {
        let params = SegmentParams::default();
        let data = noise(params.min(), 2);
        assert_eq!(segments(&data[..], params), [&data[..]]);
        assert_eq!(segments(&data[..1], params), [&data[..1]]);
        assert!(segments(&[][..], params).is_empty());
    }

    #[test]
    fn holds_no_more_than_the_longest_segment_and_little_for_a_small_file() {
        let mut zeros = Segmenter::new(io::repeat(0), SegmentParams::default());
        let segment = zeros.next_segment().unwrap().unwrap();
        assert_eq!((segment.len(), segment.capacity()), (4 << 20, 4 << 20));
        assert_eq!(zeros.buffer.capacity(), 4 << 20);
        let mut few = Segmenter::new(&[0; 1000][..], SegmentParams::default());
        assert_eq!(few.next_segment().unwrap().unwrap().capacity(), 1000);
        assert_eq!(few.buffer.capacity(), FIRST_READ);
    }

    #[test]
    fn reads_on_after_an_error() {
        struct FailsOnce<'a>(&'a [u8], bool);
        impl Read for FailsOnce<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                if self.0.len() < 5000 && !std::mem::replace(&mut self.1, true) {
                    return Err(io::Error::other("try again"));
                }
                let step = buffer.len().min(100);
                self.0.read(&mut buffer[..step])
            }
        }
        let data = noise(10_000, 3);
        let mut segmenter = Segmenter::new(FailsOnce(&data, false), small());
        let (mut read, mut errors) = (Vec::new(), 0);
        loop {
            match segmenter.next_segment() {
                Ok(Some(segment)) => read.extend(segment),
                Ok(None) => break,
                Err(_) => errors += 1,
            }
        }
        assert_eq!((read, errors), (data, 1));
    }

    #[test]
    fn refuses_lengths_that_cannot_be_used() {
        for (min, avg, max) in
            [(62, 256, 1024), (65, 256, 1024), (256, 256, 1024), (64, 2048, 1024), (64, 256, 1 << 25)]
        {
            assert!(SegmentParams::new(min, avg, max).is_err(), "{min} {avg} {max}");
        }
        let bytes = cbor::to_vec(&small()).unwrap();
        assert_eq!(cbor::from_slice::<SegmentParams>(&bytes).unwrap(), small());
        let wrong = cbor::to_vec(&Lengths { min: 0, avg: 256, max: u64::MAX }).unwrap();
        assert!(cbor::from_slice::<SegmentParams>(&wrong).is_err());
    }
}
