//! What a long operation tells about itself while it runs, and how it is asked to stop.
//!
//! The operation counts up in a [`Progress`] that someone else may read from another thread at any time.
//! Reading is never exact to the instant, and nothing in an operation depends on being watched.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Counters of one operation, shared by reference between the threads that work and the one that shows.
#[derive(Debug, Default)]
pub struct Progress {
    /// Files finished.
    pub files: Counter,
    /// Bytes finished, of the bytes that [`total_bytes`](Self::total_bytes) counts.
    pub bytes: Counter,
    /// Files to do, as far as is known.
    pub total_files: Counter,
    /// Bytes to do, as far as is known.
    pub total_bytes: Counter,
    /// What could not be read or written.
    pub errors: Counter,
    stop: AtomicBool,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// What has been added so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The operation was asked to stop and did; what it had made durable stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

impl Progress {
    /// Counters at zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the operation to stop at the next place where it can.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// What an operation calls between pieces of work.
    pub fn check(&self) -> Result<(), Interrupted> {
        match self.stop.load(Relaxed) {
            true => Err(Interrupted),
            false => Ok(()),
        }
    }
}
