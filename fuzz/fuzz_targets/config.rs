//! The configuration of a repository: what is read is written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../targets/config.rs"]
mod target;

fuzz_target!(|bytes: &[u8]| target::run(bytes));
