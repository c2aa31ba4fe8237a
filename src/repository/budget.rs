//! What a repository may take in memory, by what it takes on the disk.
//!
//! A blob can be compressed a thousand times, and the same one can stand in the tree under many names. So what every
//! command reads of the whole repository (records, indexes of volumes) is counted before it is decoded, and may take
//! 256 MiB, and beyond that no more than some multiple of the layers.

use crate::repository::{Repository, RepositoryError};

/// Bytes that any repository may take.
const BASE: u64 = 256 << 20;

/// Bytes that it may take for each byte of its layers: text compresses by less.
const EXPANSION: u64 = 64;

/// What is left of it.
#[derive(Debug)]
pub(super) struct Budget(u64);

/// More than that.
#[derive(Debug, thiserror::Error)]
#[error("what the repository holds would take far more memory than its size on the disk explains")]
pub(super) struct Exhausted;

impl Budget {
    /// Of a whole repository.
    pub fn of(repository: &Repository) -> Result<Self, RepositoryError> {
        let disk = repository.timeline.git().refresh()?.pack_disk();
        Ok(Self(BASE.saturating_add(disk.saturating_mul(EXPANSION))))
    }

    /// Takes `bytes` of it.
    pub fn take(&mut self, bytes: u64) -> Result<(), Exhausted> {
        self.0 = self.0.checked_sub(bytes).ok_or(Exhausted)?;
        Ok(())
    }
}
