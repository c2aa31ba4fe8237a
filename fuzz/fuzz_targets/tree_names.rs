//! A tree of git, and its names as those of blobs that have a time.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../targets/tree_names.rs"]
mod target;

fuzz_target!(|bytes: &[u8]| target::run(bytes));
