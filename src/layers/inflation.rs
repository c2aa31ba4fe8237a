//! How much longer than what they take on the disk files and objects may be to be read whole.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// What is inflated in memory without asking how much of the disk it takes.
pub const SMALL: u64 = 64 << 20;

/// A larger object is inflated only if it has at most so many bytes for each that it takes on the disk.
pub const EXPANSION: u64 = 64;

/// How many bytes of a file lie on the disk: what is a hole takes none. Where the file system does not count, all.
pub fn on_disk(file: &Metadata) -> u64 {
    match file.blocks() {
        0 => file.len(),
        blocks => file.len().min(blocks.saturating_mul(512)),
    }
}

/// Whether a file is far larger than what it takes on the disk, so that reading all of it would take memory for holes.
pub fn is_inflated(file: &Metadata) -> bool {
    file.len() > SMALL.saturating_add(on_disk(file).saturating_mul(EXPANSION))
}
