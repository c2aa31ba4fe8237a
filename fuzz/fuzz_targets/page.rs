//! A page of entries.
#![no_main]

use libfuzzer_sys::fuzz_target;
use treering::diff::page::{decode, encode};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(entries) = decode(bytes) {
        assert_eq!(decode(&encode(&entries).unwrap()).unwrap(), entries);
    }
});
