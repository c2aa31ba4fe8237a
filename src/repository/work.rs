//! How much a repository has read: what is made up must not make it more than what is there explains.

use crate::progress::Counter;
use crate::repository::Repository;

/// What was read of a repository since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Trees, not counting those that were still in memory.
    pub trees: u64,
    /// Bytes of git objects, as they are without compression.
    pub bytes: u64,
    /// Pages of indexes that were decoded.
    pub pages: u64,
    /// Segments, those among them that others hang on; each as often as it was read.
    pub segments: u64,
}

/// What is counted here, and nowhere below.
#[derive(Default)]
pub(super) struct Counted {
    pub pages: Counter,
    pub segments: Counter,
}

impl Repository {
    /// What was read so far.
    pub fn work(&self) -> Work {
        let git = self.timeline.git();
        let Counted { pages, segments } = &self.counted;
        Work {
            trees: git.trees_read(),
            bytes: git.bytes_read(),
            pages: pages.get(),
            segments: segments.get(),
        }
    }
}
