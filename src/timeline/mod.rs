//! Time-indexed blobs in a git repository.

mod key;

pub use key::{TimeKey, TimeKeyError, TimeKeys};
