//! An address of a remote or a store.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../targets/url.rs"]
mod target;

fuzz_target!(|bytes: &[u8]| target::run(bytes));
