//! Cutting a stream into content-defined segments.
//!
//! The cut points are those of FastCDC (Xia et al., 2020) as the crate `fastcdc` computes them in its module `v2020`
//! with normalization level 1. They depend on the bytes alone, not on how the reader hands them out.

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
/// It holds one buffer of at most `max` bytes, which grows with what is read, so that a small file costs a small one.
/// The reader may hand out any number of bytes at a time; interrupted reads are repeated.
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
                let grown = (self.buffer.len() * 2).clamp(FIRST_READ, self.params.max);
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
