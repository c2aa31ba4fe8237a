//! A delta, applied to a base that stands behind it. The first two bytes say how long the delta is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use treering::delta::{from_content, patch};

fuzz_target!(|bytes: &[u8]| {
    let Some((len, rest)) = bytes.split_first_chunk() else { return };
    let (delta, base) = rest.split_at(rest.len().min(u16::from_le_bytes(*len).into()));
    for expected in [0, 100, 1 << 16] {
        if let Ok(new) = patch(base, delta, expected) {
            assert_eq!(new.len(), expected);
        }
    }
    let made = from_content(delta, base);
    assert_eq!(patch(base, &made.bytes, delta.len()).unwrap(), delta);
});
