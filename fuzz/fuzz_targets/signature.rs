//! A signature, and one written against it. The first two bytes say how long the first is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use treering::cbor;
use treering::delta::{BlockSignature, SignaturePatch};

fuzz_target!(|bytes: &[u8]| {
    let Some((len, rest)) = bytes.split_first_chunk() else { return };
    let (first, second) = rest.split_at(rest.len().min(u16::from_le_bytes(*len).into()));
    let Ok(base) = cbor::from_slice::<BlockSignature>(first) else { return };
    if let Ok(patch) = cbor::from_slice::<SignaturePatch>(second) {
        let _ = patch.apply(&[&base]);
    }
    assert_eq!(base.diff(&[&base]).apply(&[&base]).unwrap(), base);
});
