//! Incremental directory backups into a plain git repository.
//!
//! Each floor is a building block of its own; a module uses only what lies below it:
//!
//! | floor | modules | what they give |
//! |---|---|---|
//! | 2 | [`delta`], [`archive`], [`layers`], [`store`], [`crypt`] | segments and rsync deltas; seekable `tar.gz` volumes; git packfiles; a key/value store over many backends; age files |
//! | 3 | [`diff`] | indexes of directories, their differences, patches between them |
//! | 3 | [`gitkv`] | keys and values in a git repository; transactions over its refs and trees |
//! | 4 | [`timeline`] | time-indexed blobs in a git repository |
//! | 5 | [`repository`] | snapshots of directories: backup, restore, check |
//! | 5 | [`remote`] | clones of a repository: push, pull, and the merge of what each added |
//! | 5 | [`schedule`] | profiles, and backups that run by themselves |
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod archive;
pub mod atomic;
pub mod causes;
pub mod cbor;
pub mod child;
pub mod config;
pub mod crypt;
pub mod delta;
pub mod diff;
pub mod digest;
mod format;
pub mod gitkv;
pub mod layers;
pub mod pipeline;
pub mod printed;
pub mod progress;
pub mod relpath;
pub mod remote;
pub mod removals;
pub mod repository;
pub mod schedule;
pub mod signals;
pub mod spoken;
pub mod store;
pub mod timeline;
pub mod trust;
pub mod url;
pub mod varint;
pub mod watch;

pub use diff::{DiffData, DiffIndex, DirIndex, apply_diff};
pub use repository::Repository;

/// Makes the examples of the page tests.
#[cfg(doctest)]
#[doc = include_str!("../docs/building-blocks.md")]
struct BuildingBlocks;
