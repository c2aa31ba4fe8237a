//! Many files read, cut and hashed at once, in order.
//!
//! The loop: files up to the smallest segment go to the workers in batches and are opened there; a larger one
//! is read and cut here, and its segments go to the workers one by one. Whatever a worker makes of a segment
//! comes back in order: the segments of a file, then the file itself, then the next file. Memory is bounded
//! by [`ReadOptions::ahead`] segments or batches, never by the size of a file.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use crate::delta::{SegmentParams, Segmenter};
use crate::diff::entry::{Content, DataMap, Metadata, SegmentRef};
use crate::diff::read::{DataReader, ReadFile, stat_metadata};
use crate::digest::Digest;
use crate::pipeline::{self, Closed, Feed};
use crate::progress::{Interrupted, Progress};

/// A batch of small files ends after this many bytes or files.
const BATCH_BYTES: u64 = 512 * 1024;
const BATCH_FILES: usize = 256;

/// How files are read.
#[derive(Debug, Clone)]
pub struct ReadOptions {
    /// Where segments are cut.
    pub params: SegmentParams,
    /// Threads that hash and process segments.
    pub threads: usize,
    /// Batches or segments on the way at once.
    pub ahead: usize,
    /// When the scan that found the files began.
    pub began: SystemTime,
}

impl ReadOptions {
    /// As many threads as there are processors.
    pub fn new(params: SegmentParams, began: SystemTime) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, Into::into);
        Self { params, threads, ahead: 4 * threads, began }
    }
}

/// A segment, fresh from its file.
pub struct Piece {
    /// Which file, as a number of the caller's.
    pub file: usize,
    /// Where it begins in the file's data stream.
    pub offset: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// SHA-256 of them.
    pub digest: Digest,
    /// Where the data stream of the file stands in it.
    pub data: Arc<DataMap>,
}

/// What comes back, in order.
pub enum Event<R> {
    /// A segment, and what was made of it.
    Segment {
        /// Of which file, as a number of the caller's.
        file: usize,
        /// The segment.
        segment: SegmentRef,
        /// What the worker made of it.
        result: R,
    },
    /// The end of a file.
    File {
        /// Which, as a number of the caller's.
        file: usize,
        /// What was read, or why it could not be. Segments that came before a failure belong to nothing.
        outcome: io::Result<FileRead>,
    },
}

/// A file that was read to its end.
pub struct FileRead {
    /// Its metadata.
    pub meta: Metadata,
    /// Length, holes included.
    pub size: u64,
    /// The holes.
    pub holes: Vec<Range<u64>>,
    /// Device and inode number where the file has several names.
    pub link: Option<(u64, u64)>,
    /// It was written to while it was read: what is kept may never have existed as a whole.
    pub changed: bool,
    /// Why not all of its extended attributes are there.
    pub xattr_fault: Option<io::Error>,
}

impl FileRead {
    /// The content, of the segments that came before.
    pub fn content(&self, segments: &[SegmentRef]) -> Content {
        Content {
            size: self.size,
            segments: segments.into(),
            holes: (!self.holes.is_empty()).then(|| Box::new(self.holes.clone())),
            link: self.link.map(Box::new),
        }
    }
}

enum Work {
    Batch(Range<usize>),
    Piece { file: usize, offset: u64, bytes: Vec<u8>, data: Arc<DataMap> },
    End { file: usize, outcome: io::Result<FileRead> },
}

/// Reads `count` files; `size_of` says how long the scan found the file of a number, `open` opens it.
///
/// `process` runs on the workers, `consume` here. When `progress` is asked to stop, reading ends early and
/// [`Interrupted`] is returned.
pub fn read_files<R: Send, E: From<Interrupted>>(
    count: usize,
    size_of: impl Fn(usize) -> u64 + Send,
    open: impl Fn(usize) -> io::Result<DataReader> + Sync,
    options: &ReadOptions,
    progress: &Progress,
    process: impl Fn(Piece) -> R + Sync,
    mut consume: impl FnMut(Event<R>) -> Result<(), E>,
) -> Result<(), E> {
    let reader = FileReader { open, options };
    pipeline::ordered(
        options.threads,
        options.ahead,
        // The consumer's own error is what ends it then.
        |feed| reader.produce(count, size_of, progress, &feed).unwrap_or(()),
        |work| match work {
            Work::Batch(files) => {
                let mut events = Vec::with_capacity(2 * files.len());
                files.for_each(|file| reader.read_small(file, &process, &mut events));
                events
            }
            Work::Piece { file, offset, bytes, data } => {
                vec![to_event(Piece { file, offset, digest: Digest::of(&bytes), bytes, data }, &process)]
            }
            Work::End { file, outcome } => vec![Event::File { file, outcome }],
        },
        |events: Vec<Event<R>>| {
            progress.check()?;
            events.into_iter().try_for_each(&mut consume)
        },
    )?;
    Ok(progress.check()?)
}

fn to_event<R>(piece: Piece, process: impl Fn(Piece) -> R) -> Event<R> {
    let len = u32::try_from(piece.bytes.len()).unwrap_or(u32::MAX);
    let segment = SegmentRef { digest: piece.digest, len };
    Event::Segment { file: piece.file, segment, result: process(piece) }
}

struct FileReader<'a, O> {
    open: O,
    options: &'a ReadOptions,
}

impl<O: Fn(usize) -> io::Result<DataReader>> FileReader<'_, O> {
    fn produce<R>(
        &self,
        count: usize,
        size_of: impl Fn(usize) -> u64,
        progress: &Progress,
        feed: &Feed<Work, Vec<Event<R>>>,
    ) -> Result<(), Closed> {
        let mut batch = 0..0;
        let mut batch_bytes = 0;
        for file in 0..count {
            if progress.check().is_err() {
                return Err(Closed);
            }
            let size = size_of(file);
            let small = size <= self.options.params.min() as u64;
            if !batch.is_empty() && (!small || batch_bytes >= BATCH_BYTES || batch.len() >= BATCH_FILES) {
                feed.send(Work::Batch(std::mem::replace(&mut batch, file..file)))?;
                batch_bytes = 0;
            }
            if small {
                batch.end = file + 1;
                batch_bytes += size;
            } else {
                batch = file + 1..file + 1;
                self.produce_large(file, feed)?;
            }
        }
        if batch.is_empty() { Ok(()) } else { feed.send(Work::Batch(batch)) }
    }

    fn produce_large<R>(&self, file: usize, feed: &Feed<Work, Vec<Event<R>>>) -> Result<(), Closed> {
        let outcome = self.read_large(file, |offset, bytes, data| {
            feed.send(Work::Piece { file, offset, bytes, data: data.clone() })
        })?;
        feed.send(Work::End { file, outcome })
    }

    fn read_small<R>(&self, file: usize, process: impl Fn(Piece) -> R, events: &mut Vec<Event<R>>) {
        let outcome = (self.open)(file).and_then(|mut reader| {
            // What is no longer than the shortest segment is one.
            reader.limit_data(self.options.params.min() as u64);
            let data = Arc::new(DataMap::with_holes(reader.holes()));
            let mut bytes =
                Vec::with_capacity(usize::try_from(reader.data_len().min(reader.stat().size)).unwrap_or(0));
            reader.read_to_end(&mut bytes)?;
            if !bytes.is_empty() {
                let piece = Piece { file, offset: 0, digest: Digest::of(&bytes), bytes, data };
                events.push(to_event(piece, &process));
            }
            self.finish(reader)
        });
        events.push(Event::File { file, outcome });
    }

    /// Reads a file, giving each segment with its offset to `take`; what is wrong with the file is the inner
    /// result.
    fn read_large<E>(
        &self,
        file: usize,
        mut take: impl FnMut(u64, Vec<u8>, &Arc<DataMap>) -> Result<(), E>,
    ) -> Result<io::Result<FileRead>, E> {
        let mut reader = match (self.open)(file) {
            Ok(reader) => reader,
            Err(error) => return Ok(Err(error)),
        };
        let data = Arc::new(DataMap::with_holes(reader.holes()));
        let mut segmenter = Segmenter::new(reader.by_ref(), self.options.params);
        let mut offset = 0;
        loop {
            match segmenter.next_segment() {
                Ok(Some(bytes)) => {
                    let len = bytes.len() as u64;
                    take(offset, bytes, &data)?;
                    offset += len;
                }
                Ok(None) => break,
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(self.finish(reader))
    }

    fn finish(&self, reader: DataReader) -> io::Result<FileRead> {
        let stat = *reader.stat();
        let read = reader.finish()?;
        let mut meta = Metadata { xattrs: read.xattrs, ..stat_metadata(&stat, self.options.began) };
        if read.changed || read.xattr_fault.is_some() {
            meta.ctime = Default::default();
        }
        let link = (stat.links > 1).then_some((stat.device, stat.inode));
        let ReadFile { size, holes, changed, xattr_fault, .. } = read;
        Ok(FileRead { meta, size, holes, link, changed, xattr_fault })
    }
}
