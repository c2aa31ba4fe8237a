//! Reading: whole objects, ranges, many ranges at once, and through the cache.

use std::io::{self, Write};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use super::Store;
use super::backend::Content;
use super::cache::CacheMode;
use super::error::{Error, Reason};
use super::name::Name;
use super::statistics::Operation;

/// Pieces in which large objects are read.
pub(super) const PIECE: u64 = 8 << 20;

/// A range of bytes of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The object.
    pub name: Name,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub size: u64,
}

/// A hash function for [`Store::hash`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// SHA-256.
    #[default]
    Sha256,
    /// BLAKE3 with 32 bytes.
    Blake3,
}

impl Store {
    /// The whole object.
    pub fn load(&self, name: &Name) -> Result<Vec<u8>, Error> {
        self.read(name, None)
    }

    /// The whole object, which has `limit` bytes at most: one that is larger is an error, and is not read. A cache does
    /// not count.
    pub fn load_within(&self, name: &Name, limit: u64) -> Result<Vec<u8>, Error> {
        self.fetch_within(name, None, limit)
    }

    /// The `size` bytes of the object from `offset` on, exactly.
    pub fn load_range(&self, name: &Name, offset: u64, size: u64) -> Result<Vec<u8>, Error> {
        // No backend has larger objects, and some take such numbers for negative ones.
        match offset.checked_add(size).filter(|end| i64::try_from(*end).is_ok()) {
            Some(end) => self.read(name, Some(offset..end)),
            None => Err(self.error(Operation::Load, name, Reason::OutOfRange { offset, size })),
        }
    }

    /// All the ranges, in their order, several at once.
    pub fn load_many(&self, spans: &[Span]) -> Result<Vec<Vec<u8>>, Error> {
        let load = |span: &Span| self.load_range(&span.name, span.offset, span.size);
        let workers = self.at_once.min(spans.len());
        if workers < 2 {
            return spans.iter().map(load).collect();
        }
        let next = AtomicUsize::new(0);
        let work = || {
            let mut loaded = Vec::new();
            loop {
                let at = next.fetch_add(1, Relaxed);
                let Some(span) = spans.get(at) else { return loaded };
                let bytes = load(span);
                if bytes.is_err() {
                    // The whole call fails: nobody needs to begin another one.
                    next.store(spans.len(), Relaxed);
                }
                loaded.push((at, bytes));
            }
        };
        let mut loaded = thread::scope(|scope| {
            let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            let finish = |worker: thread::ScopedJoinHandle<'_, Vec<_>>| match worker.join() {
                Ok(loaded) => loaded,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            workers.into_iter().flat_map(finish).collect::<Vec<_>>()
        });
        loaded.sort_unstable_by_key(|(at, _)| *at);
        loaded.into_iter().map(|(_, bytes)| bytes).collect()
    }

    /// Writes the whole object to `target`, with bounded memory, and gives its size.
    ///
    /// The object must not be replaced meanwhile. A failure of `target` is reported as one of the load.
    pub fn load_to(&self, name: &Name, target: &mut dyn Write) -> Result<u64, Error> {
        let size = self.info(name)?.size;
        let spans: Vec<_> = (0..size)
            .step_by(PIECE as usize)
            .map(|offset| Span { name: name.clone(), offset, size: PIECE.min(size - offset) })
            .collect();
        for several in spans.chunks(self.at_once) {
            for piece in self.load_many(several)? {
                target
                    .write_all(&piece)
                    .map_err(|error| self.error(Operation::Load, name, Reason::permanent(error)))?;
            }
        }
        Ok(size)
    }

    fn read(&self, name: &Name, range: Option<Range<u64>>) -> Result<Vec<u8>, Error> {
        let namespace = name.namespace();
        let cached = self.cache.as_ref().and_then(|cache| Some((cache, cache.policy(namespace)?)));
        let Some((cache, policy)) = cached else { return self.fetch(name, range) };
        let path = self.path(Operation::Load, name)?;
        if let Some(bytes) = cache.load(namespace, &path, range.clone()) {
            return Ok(bytes);
        }
        let limit = policy.max_bytes.map_or(self.max_object, |max| max.min(self.max_object));
        if range.is_some() && (policy.mode == CacheMode::Mirror || self.info(name)?.size > limit) {
            return self.fetch(name, range);
        }
        let whole = self.fetch(name, None)?;
        cache.store(namespace, &path, &Content::Bytes(&whole));
        let Some(range) = range else { return Ok(whole) };
        let part = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        part.and_then(|(start, end)| whole.get(start..end)).map(<[u8]>::to_vec).ok_or_else(|| {
            let reason = Reason::OutOfRange { offset: range.start, size: range.end - range.start };
            self.error(Operation::Load, name, reason)
        })
    }

    fn fetch(&self, name: &Name, range: Option<Range<u64>>) -> Result<Vec<u8>, Error> {
        self.fetch_within(name, range, self.max_object)
    }

    fn fetch_within(&self, name: &Name, range: Option<Range<u64>>, limit: u64) -> Result<Vec<u8>, Error> {
        self.at_levels(Operation::Load, name, |path, _| {
            if let Some(Range { start, end }) = range
                && start == end
            {
                // Backends differ in what they make of it, so none is asked for it.
                return match self.backend.info(path)?.size < start {
                    true => Err(Reason::OutOfRange { offset: start, size: 0 }),
                    false => Ok((Vec::new(), 0)),
                };
            }
            let bytes = self.backend.load(path, range.clone(), limit.min(self.max_object))?;
            let size = bytes.len() as u64;
            Ok((bytes, size))
        })
    }

    /// The hash of the object's content, in lower-case hexadecimal. Memory is bounded.
    pub fn hash(&self, name: &Name, algorithm: Algorithm) -> Result<String, Error> {
        struct Sink<F>(F);
        impl<F: FnMut(&[u8])> Write for Sink<F> {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                (self.0)(bytes);
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        match algorithm {
            Algorithm::Sha256 => {
                let mut hasher = crate::digest::Hasher::new();
                self.load_to(name, &mut Sink(|bytes: &[u8]| hasher.update(bytes)))?;
                Ok(hasher.finish().to_string())
            }
            Algorithm::Blake3 => {
                let mut hasher = blake3::Hasher::new();
                self.load_to(name, &mut hasher)?;
                Ok(hasher.finalize().to_hex().to_string())
            }
        }
    }
}
