//! Incremental directory backups into a plain git repository.
//!
//! Each floor is a building block of its own; a module uses only what lies below it:
//!
//! | floor | modules | what they give |
//! |---|---|---|
//! | 2 | [`delta`], [`archive`], [`layers`] | segments and rsync deltas; seekable `tar.gz` volumes; git packfiles |
//! | 3 | [`gitkv`] | keys and values in a git repository; transactions over its refs and trees |
//! | 4 | [`timeline`] | time-indexed blobs in a git repository |
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod archive;
pub mod atomic;
pub mod cbor;
pub mod delta;
pub mod digest;
pub mod gitkv;
pub mod layers;
pub mod progress;
pub mod relpath;
pub mod spoken;
pub mod timeline;
