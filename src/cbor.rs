//! CBOR (RFC 8949), the only place that knows the crate that does it.
//!
//! Structs are maps with text keys; unknown keys are skipped, so that a later minor version may add some.
//! Reading refuses bytes after the value. The decoder allocates no more than the input is long for one
//! string, and its nesting is limited, so hostile input costs at most a small multiple of its own length.

use serde::{Deserialize, Serialize};

/// Bytes that are not the CBOR that was expected, or a value that CBOR cannot hold.
#[derive(Debug, thiserror::Error)]
#[error("malformed CBOR")]
pub struct CborError(#[from] serde_cbor::Error);

/// Encodes `value`.
pub fn to_vec<T: Serialize>(value: &T) -> Result<Vec<u8>, CborError> {
    Ok(serde_cbor::to_vec(value)?)
}

/// Decodes the one value that `bytes` holds, which may borrow strings from it.
pub fn from_slice<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, CborError> {
    Ok(serde_cbor::from_slice(bytes)?)
}

/// How many values, those within others included, `bytes` hold at most. A decoder makes no more than that of them, each
/// of which may take many times its length in memory; so who bounds this bounds memory before decoding.
pub fn count_values(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    let mut count = 0;
    while let Some((&first, after)) = rest.split_first() {
        count += 1;
        let (major, argument) = (first >> 5, first & 31);
        let len = match argument {
            24..=27 => 1 << (argument - 24),
            _ => 0,
        };
        let Some((argument_bytes, after)) = after.split_at_checked(len) else { break };
        rest = after;
        let is_string = major == 2 || major == 3;
        if is_string && argument < 28 {
            let long = argument_bytes.iter().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
            let len = if len == 0 { u64::from(argument) } else { long };
            let after = usize::try_from(len).ok().and_then(|len| rest.get(len..));
            let Some(after) = after else { break };
            rest = after;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_value_is_counted(pairs: Vec<(u64, String)>, bytes: Vec<u8>) {
            let encoded = to_vec(&(&pairs, serde_bytes::Bytes::new(&bytes))).unwrap();
            prop_assert_eq!(count_values(&encoded), 3 + 3 * pairs.len());
            let _ = count_values(&bytes);
        }
    }

    #[test]
    fn refuses_trailing_truncated_and_bottomless_input() {
        let bytes = to_vec(&vec![1u32, 2, 3]).unwrap();
        assert_eq!(from_slice::<Vec<u32>>(&bytes).unwrap(), [1, 2, 3]);
        assert!(from_slice::<Vec<u32>>(&bytes[..3]).is_err());
        assert!(from_slice::<Vec<u32>>(&[&bytes[..], &[0]].concat()).is_err());
        assert!(from_slice::<serde_cbor::Value>(&vec![0x81; 100_000]).is_err());
        assert!(from_slice::<Vec<u64>>(&[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err());
    }
}
