//! The record of a snapshot, and its list of pages: they share no byte, have entries, and are listed again as they were.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../targets/record.rs"]
mod target;

fuzz_target!(|bytes: &[u8]| target::run(bytes));
