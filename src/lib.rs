//! Incremental directory backups into a plain git repository.
//!
//! Each floor is a building block of its own; a module uses only what lies below it:
//!
//! | floor | modules | what they give |
//! |---|---|---|
//! | 2 | [`delta`], [`archive`], [`layers`], [`store`] | segments and rsync deltas; seekable `tar.gz` volumes; git packfiles; a key/value store over many backends |
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod archive;
pub mod atomic;
pub mod cbor;
pub mod delta;
pub mod digest;
pub mod layers;
pub mod progress;
pub mod relpath;
pub mod store;
