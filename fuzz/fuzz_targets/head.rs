//! The head of a cold remote.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../targets/head.rs"]
mod target;

fuzz_target!(|bytes: &[u8]| target::run(bytes));
