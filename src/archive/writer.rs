//! Segments in, compressed members out, in order.
//!
//! The loop: an entry is appended to the tar stream; when the member that is being filled is long enough it
//! goes to a worker; finished members come back in order and are gathered until they end with an entry (a
//! *run*); a run goes into the open volume, or ends it first when the volume would grow too long. Every
//! volume ends with a member of its own for the two zero blocks, so the bytes of a member never depend on
//! where volumes are split, and nothing depends on the number of workers.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use super::codec::has_high_entropy;
use super::index::NewEntry;
use super::tape::{BLOCK_LEN, END_LEN, pad};
use super::{ArchiveError, Codec, Payload, Stored, VolumeIndex};

/// What a [`VolumeWriter`] makes of the segments.
#[derive(Debug, Clone)]
pub struct VolumeOptions {
    /// How members are compressed.
    pub codec: Codec,
    /// Bytes of the tar stream after which a member is cut; rounded to tar blocks and held between 64 KiB and
    /// 16 MiB.
    pub member_len: usize,
    /// Bytes that a volume may have. One segment that is longer by itself still makes a volume of its own.
    pub volume_len: u64,
    /// Entries that a volume may have, but for those of one member. To look for one segment, the index of a whole volume is
    /// decoded, and one of tiny files would have a million.
    pub max_entries: usize,
    /// Blocks of zeros behind the two that end an archive. They mean nothing, and make it other bytes.
    pub padding: u8,
    /// Threads that compress; at least one.
    pub threads: usize,
}

impl Default for VolumeOptions {
    fn default() -> Self {
        Self {
            codec: Codec::default(),
            member_len: 1024 * 1024,
            volume_len: 32 * 1024 * 1024,
            max_entries: 1 << 16,
            padding: 0,
            threads: 1,
        }
    }
}

const MEMBER_LENS: RangeInclusive<usize> = 64 * 1024..=16 * 1024 * 1024;

/// An incompressible payload of this many bytes begins a member and ends it, so that its neighbours stay
/// compressible and it can be stored.
const MIN_ALONE_LEN: usize = 64 * 1024;

/// What a [`VolumeWriter`] hands to its sink.
#[derive(Debug)]
pub enum Piece {
    /// The next bytes of the volume.
    Member(Vec<u8>),
    /// The volume is complete; what follows belongs to the next one.
    End(VolumeIndex),
}

/// A complete volume in memory.
#[derive(Debug)]
pub struct Volume {
    /// The bytes of the volume.
    pub bytes: Vec<u8>,
    /// What they hold.
    pub index: VolumeIndex,
}

/// A sink for a [`VolumeWriter`] that gathers the pieces and hands on whole volumes, except one without any
/// entry.
pub fn gather<E>(mut sink: impl FnMut(Volume) -> Result<(), E>) -> impl FnMut(Piece) -> Result<(), E> {
    let mut bytes = Vec::new();
    move |piece| match piece {
        Piece::Member(member) => {
            bytes.extend_from_slice(&member);
            Ok(())
        }
        Piece::End(index) => {
            let bytes = std::mem::take(&mut bytes);
            if index.is_empty() { Ok(()) } else { sink(Volume { bytes, index }) }
        }
    }
}

/// What a [`VolumeWriter`] wrote in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Volumes.
    pub volumes: u64,
    /// Entries.
    pub entries: u64,
    /// Bytes of tar streams.
    pub plain_len: u64,
    /// Bytes of volumes.
    pub packed_len: u64,
}

/// Writes segments into volumes.
///
/// The sink runs on the thread that calls [`append`](Self::append) and [`finish`](Self::finish), which return
/// its errors; after any error the writer refuses every further use. At most `2 * threads + 1` members are in
/// memory before they are compressed, beside the compressed members of one segment. No thread outlives the
/// writer.
pub struct VolumeWriter<S> {
    sink: S,
    codec: Codec,
    member_len: usize,
    volume_len: u64,
    max_entries: usize,
    workers: Workers,
    /// The tar stream of the member that is being filled.
    stream: Vec<u8>,
    /// The entries of the run that is being filled; offsets count from the start of the run.
    entries: Vec<NewEntry>,
    /// Bytes of the tar stream in the members of that run that were cut already.
    run_len: u64,
    in_flight: VecDeque<InFlight>,
    /// Compressed members of a run that is not complete, each with the length of its content.
    run: Vec<(Vec<u8>, u64)>,
    index: VolumeIndex,
    end: Vec<u8>,
    /// Bytes of that before it was compressed.
    end_len: u64,
    written: Written,
    failed: bool,
}

/// A member at a worker.
struct InFlight {
    plain_len: u64,
    packed: Receiver<Result<Vec<u8>, ArchiveError>>,
    /// With the last member of a run, the entries of the run.
    entries: Option<Vec<NewEntry>>,
}

impl<S, E> VolumeWriter<S>
where
    S: FnMut(Piece) -> Result<(), E>,
    E: From<ArchiveError>,
{
    /// Starts the workers.
    pub fn new(options: &VolumeOptions, sink: S) -> Result<Self, ArchiveError> {
        let member_len =
            options.member_len.clamp(*MEMBER_LENS.start(), *MEMBER_LENS.end()).next_multiple_of(BLOCK_LEN);
        let end = vec![0; END_LEN + usize::from(options.padding) * BLOCK_LEN];
        Ok(Self {
            sink,
            codec: options.codec,
            member_len,
            volume_len: options.volume_len,
            max_entries: options.max_entries,
            workers: Workers::start(options.codec, options.threads.max(1))?,
            stream: Vec::with_capacity(member_len),
            entries: Vec::new(),
            run_len: 0,
            in_flight: VecDeque::new(),
            run: Vec::new(),
            index: VolumeIndex::new(options.codec),
            end: options.codec.compress_member(&end)?,
            end_len: end.len() as u64,
            written: Written::default(),
            failed: false,
        })
    }

    /// Writes one segment.
    pub fn append(&mut self, stored: Stored) -> Result<(), E> {
        self.guarded(|writer| writer.append_entry(stored))
    }

    /// Ends the last volume. The sink sees at least one [`Piece::End`], so a writer without entries makes an
    /// empty archive.
    pub fn finish(mut self) -> Result<Written, E> {
        self.guarded(|writer| {
            writer.cut(true)?;
            while !writer.in_flight.is_empty() {
                writer.collect()?;
            }
            if !writer.index.is_empty() || writer.written.volumes == 0 {
                writer.end_volume()?;
            }
            Ok(writer.written)
        })
    }

    fn guarded<T>(&mut self, operation: impl FnOnce(&mut Self) -> Result<T, E>) -> Result<T, E> {
        if self.failed {
            return Err(ArchiveError::WriterFailed.into());
        }
        let result = operation(self);
        self.failed = result.is_err();
        result
    }

    fn append_entry(&mut self, stored: Stored) -> Result<(), E> {
        stored.check()?;
        let payload = stored.payload.bytes();
        let long = payload.len() > self.member_len;
        let alone = matches!(self.codec, Codec::Gzip { .. })
            && payload.len() >= MIN_ALONE_LEN
            && has_high_entropy(payload);
        if long || alone {
            self.cut(true)?;
        }
        stored.write_head(&mut self.stream);
        let Stored { digest, len, payload } = stored;
        let (bytes, delta) = match payload {
            Payload::Whole(bytes) => (bytes, None),
            Payload::Delta { bytes, link } => (bytes, Some((link, len))),
        };
        let offset = self.run_len + self.stream.len() as u64;
        self.entries.push(NewEntry { digest, offset, payload_len: bytes.len() as u32, delta });

        let mut rest = &bytes[..];
        while long && rest.len() > self.member_len - self.stream.len() {
            let (piece, after) = rest.split_at(self.member_len - self.stream.len());
            self.stream.extend_from_slice(piece);
            rest = after;
            self.cut(false)?;
        }
        self.stream.extend_from_slice(rest);
        pad(&mut self.stream, bytes.len());
        if alone || self.stream.len() >= self.member_len {
            self.cut(true)?;
        }
        Ok(())
    }

    /// Sends the member that is being filled to the workers, waiting while they are busy. `ends_run` when it
    /// ends with an entry.
    fn cut(&mut self, ends_run: bool) -> Result<(), E> {
        if self.stream.is_empty() {
            return Ok(());
        }
        while self.in_flight.len() >= self.workers.queue_len {
            self.collect()?;
        }
        let plain = std::mem::replace(&mut self.stream, Vec::with_capacity(self.member_len));
        let plain_len = plain.len() as u64;
        self.run_len = if ends_run { 0 } else { self.run_len + plain_len };
        let entries = ends_run.then(|| std::mem::take(&mut self.entries));
        let packed = self.workers.compress(plain)?;
        self.in_flight.push_back(InFlight { plain_len, packed, entries });
        Ok(())
    }

    /// Waits for the oldest member at the workers and puts it where it belongs.
    fn collect(&mut self) -> Result<(), E> {
        let Some(member) = self.in_flight.pop_front() else { return Ok(()) };
        let packed = member.packed.recv().map_err(|_| ArchiveError::WorkerDied)??;
        self.run.push((packed, member.plain_len));
        match member.entries {
            Some(entries) => self.end_run(entries),
            None => Ok(()),
        }
    }

    fn end_run(&mut self, entries: Vec<NewEntry>) -> Result<(), E> {
        let run_len: u64 = self.run.iter().map(|(packed, _)| packed.len() as u64).sum();
        let with_run = self.index.packed_len() + run_len + self.end.len() as u64;
        let is_full = with_run > self.volume_len || self.index.len() + entries.len() > self.max_entries;
        if is_full && !self.index.is_empty() {
            self.end_volume()?;
        }
        let start = self.index.plain_len();
        for entry in entries {
            self.index.push_entry(NewEntry { offset: start + entry.offset, ..entry })?;
        }
        for (packed, plain_len) in std::mem::take(&mut self.run) {
            self.emit_member(packed, plain_len)?;
        }
        Ok(())
    }

    fn end_volume(&mut self) -> Result<(), E> {
        self.emit_member(self.end.clone(), self.end_len)?;
        let index = std::mem::replace(&mut self.index, VolumeIndex::new(self.codec));
        self.written.volumes += 1;
        self.written.entries += index.len() as u64;
        self.written.plain_len += index.plain_len();
        self.written.packed_len += index.packed_len();
        (self.sink)(Piece::End(index))
    }

    fn emit_member(&mut self, packed: Vec<u8>, plain_len: u64) -> Result<(), E> {
        self.index.push_member(packed.len() as u64, plain_len);
        (self.sink)(Piece::Member(packed))
    }
}

/// A member for a worker, and where its compressed form goes.
type Job = (Vec<u8>, SyncSender<Result<Vec<u8>, ArchiveError>>);

/// Threads that compress members; they end, and are waited for, when this is dropped.
struct Workers {
    jobs: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
    queue_len: usize,
}

impl Workers {
    fn start(codec: Codec, threads: usize) -> Result<Self, ArchiveError> {
        let queue_len = threads.saturating_mul(2);
        let (jobs, queue) = sync_channel::<Job>(queue_len);
        let queue = Arc::new(Mutex::new(queue));
        let mut workers = Self { jobs: Some(jobs), threads: Vec::new(), queue_len };
        for _ in 0..threads {
            let queue = Arc::clone(&queue);
            let run = move || {
                while let Some((plain, reply)) = next_job(&queue) {
                    // The writer may be gone already, after an error of its own.
                    let _ = reply.send(codec.compress_member(&plain));
                }
            };
            let thread = thread::Builder::new().name("treering-member".into()).spawn(run);
            workers.threads.push(thread.map_err(ArchiveError::Thread)?);
        }
        Ok(workers)
    }

    fn compress(&self, plain: Vec<u8>) -> Result<Receiver<Result<Vec<u8>, ArchiveError>>, ArchiveError> {
        let (reply, packed) = sync_channel(1);
        let jobs = self.jobs.as_ref().ok_or(ArchiveError::WorkerDied)?;
        jobs.send((plain, reply)).map_err(|_| ArchiveError::WorkerDied)?;
        Ok(packed)
    }
}

fn next_job(queue: &Mutex<Receiver<Job>>) -> Option<Job> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A worker that panicked has already been reported as `WorkerDied`.
            let _ = thread.join();
        }
    }
}
