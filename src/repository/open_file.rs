//! A file of a snapshot, open for reading.
//!
//! It reads one segment at a time, each found to have its digest and its length, and keeps the last one. Holes read as
//! zeros. Where a segment cannot be read, the error is an [`io::Error`] that has the [`RepositoryError`] as its source.

use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::Arc;

use crate::diff::{Content, SegmentRef};
use crate::repository::segments::Segments;
use crate::repository::{Repository, RepositoryError};

/// A file of a snapshot, open for reading. See [`SnapshotView::open`](super::SnapshotView::open).
pub struct OpenFile<'a> {
    repository: &'a Repository,
    segments: Arc<Segments>,
    size: u64,
    /// The ranges of the file that have data, each with where it begins in all data.
    ranges: Box<[(Range<u64>, u64)]>,
    /// Its segments, each with where it ends in all data.
    list: Box<[(SegmentRef, u64)]>,
    position: u64,
    /// The segment that was read last, with its number.
    current: Option<(usize, Vec<u8>)>,
}

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

impl<'a> OpenFile<'a> {
    pub(super) fn new(repository: &'a Repository, content: &Content) -> Result<Self, RepositoryError> {
        let list = content.segments.iter().scan(0, |end, segment| {
            *end += u64::from(segment.len);
            Some((*segment, *end))
        });
        Ok(Self {
            repository,
            segments: repository.segments_of(content.segments.iter().map(|segment| segment.digest))?,
            size: content.size,
            ranges: content.data_map().ranges().into(),
            list: list.collect(),
            position: 0,
            current: None,
        })
    }

    /// Bytes of the file, holes included.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The bytes from the position on that are there without reading another segment; none at the end only. What is done
    /// with them is [consumed](BufRead::consume).
    ///
    /// # Errors
    ///
    /// Fails when the segment that has them is damaged, missing or out of reach.
    pub fn next_bytes(&mut self) -> Result<&[u8], RepositoryError> {
        let at = self.position;
        let before = self.ranges.partition_point(|(range, _)| range.end <= at);
        let (until_hole, data) = match self.ranges.get(before) {
            Some((range, first)) if range.start <= at => (range.end - at, first + (at - range.start)),
            next => {
                let end = next.map_or(self.size, |(range, _)| range.start);
                let zeros = end.saturating_sub(at).min(ZEROS.len() as u64);
                return Ok(&ZEROS[..zeros as usize]);
            }
        };
        let number = self.list.partition_point(|(_, end)| *end <= data);
        let Some(&(segment, end)) = self.list.get(number) else {
            let fault = RepositoryError::damaged("the list of segments of a file");
            return Err(fault("they are fewer than the file has".into()));
        };
        if self.current.as_ref().is_none_or(|(current, _)| *current != number) {
            self.current = None;
            self.current = Some((number, self.segments.read_exact(self.repository, &segment)?));
        }
        let bytes = self.current.as_ref().map_or(&[][..], |(_, bytes)| bytes);
        let from = (data - (end - u64::from(segment.len))) as usize;
        let len = until_hole.min((bytes.len() - from) as u64) as usize;
        Ok(&bytes[from..from + len])
    }
}

impl BufRead for OpenFile<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.next_bytes().map_err(io::Error::other)
    }

    fn consume(&mut self, amount: usize) {
        self.position += amount as u64;
    }
}

impl Read for OpenFile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let read = available.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

impl Seek for OpenFile<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (from, by) = match to {
            SeekFrom::Start(position) => (position, 0),
            SeekFrom::Current(by) => (self.position, by),
            SeekFrom::End(by) => (self.size, by),
        };
        let before = || io::Error::new(io::ErrorKind::InvalidInput, "seek to before the beginning of a file");
        self.position = from.checked_add_signed(by).ok_or_else(before)?;
        Ok(self.position)
    }
}
