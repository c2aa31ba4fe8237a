//! An archive that comes without its index.
#![no_main]

use libfuzzer_sys::fuzz_target;
use treering::archive::{UnpackLimits, unpack};

fuzz_target!(|bytes: &[u8]| {
    let limits = UnpackLimits { stream_len: 1 << 20, entries: 1000 };
    let mut unpacked = Vec::new();
    if unpack(bytes, &mut unpacked, limits).is_ok() {
        assert!(unpacked.len() <= 1 << 20);
    }
});
