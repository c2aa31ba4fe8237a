//! What the calls of the backend and the cache come to.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The operations of a store, as errors and statistics name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Making a store.
    Create,
    /// Looking whether the store is there.
    Open,
    /// Removing a store.
    Destroy,
    /// Listing a namespace.
    List,
    /// Reading an object or a range of it.
    Load,
    /// Writing an object.
    Store,
    /// Asking for the size of an object.
    Info,
    /// Removing an object.
    Delete,
    /// Renaming, soft deletion and its reversal, and changing the level.
    Move,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 9] = [
        Self::Create,
        Self::Open,
        Self::Destroy,
        Self::List,
        Self::Load,
        Self::Store,
        Self::Info,
        Self::Delete,
        Self::Move,
    ];
}

impl Operation {
    /// What a person could not do where it failed.
    pub(super) fn verb(self) -> String {
        match self {
            Self::Info => "look at".to_owned(),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Create => "create",
            Self::Open => "open",
            Self::Destroy => "destroy",
            Self::List => "list",
            Self::Load => "load",
            Self::Store => "store",
            Self::Info => "info",
            Self::Delete => "delete",
            Self::Move => "move",
        })
    }
}

/// What one operation has cost the backend so far. Loads that the cache answered are not in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Calls of the backend; a listing is one.
    pub calls: u64,
    /// Calls that failed in the end. An object that was not found counts.
    pub failures: u64,
    /// Attempts beyond the first.
    pub retries: u64,
    /// Time spent, pauses between attempts and emulated delays included. Calls at the same time add up.
    pub time: Duration,
    /// Bytes of content loaded or stored.
    pub bytes: u64,
}

/// What the cache did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheFigures {
    /// Loads that it answered.
    pub hits: u64,
    /// Loads that it could not answer.
    pub misses: u64,
    /// Bytes that it answered with.
    pub bytes: u64,
    /// Failures of the cache; the operation went on without it.
    pub errors: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    operations: [OperationCounters; Operation::ALL.len()],
}

#[derive(Default)]
struct OperationCounters {
    calls: AtomicU64,
    failures: AtomicU64,
    retries: AtomicU64,
    nanoseconds: AtomicU64,
    bytes: AtomicU64,
}

#[derive(Default)]
pub(super) struct CacheCounters {
    pub hits: AtomicU64,
    pub misses: AtomicU64,
    pub bytes: AtomicU64,
    pub errors: AtomicU64,
}

impl Counters {
    pub fn add(&self, operation: Operation, call: Figures) {
        let counters = &self.operations[operation as usize];
        counters.calls.fetch_add(call.calls, Relaxed);
        counters.failures.fetch_add(call.failures, Relaxed);
        counters.retries.fetch_add(call.retries, Relaxed);
        counters.nanoseconds.fetch_add(call.time.as_nanos().try_into().unwrap_or(u64::MAX), Relaxed);
        counters.bytes.fetch_add(call.bytes, Relaxed);
    }

    pub fn figures(&self, operation: Operation) -> Figures {
        let counters = &self.operations[operation as usize];
        Figures {
            calls: counters.calls.load(Relaxed),
            failures: counters.failures.load(Relaxed),
            retries: counters.retries.load(Relaxed),
            time: Duration::from_nanos(counters.nanoseconds.load(Relaxed)),
            bytes: counters.bytes.load(Relaxed),
        }
    }
}

impl CacheCounters {
    pub fn figures(&self) -> CacheFigures {
        CacheFigures {
            hits: self.hits.load(Relaxed),
            misses: self.misses.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            errors: self.errors.load(Relaxed),
        }
    }
}
