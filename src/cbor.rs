//! CBOR (RFC 8949), the only place that knows the crate that does it.
//!
//! Structs are maps with text keys; unknown keys are skipped, so that a later minor version may add some.
//! Reading refuses bytes after the value. The decoder allocates no more than the input is long for one
//! string, and its nesting is limited, so hostile input costs at most a small multiple of its own length.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes that are not the CBOR that was expected, or a value that CBOR cannot hold.
#[derive(Debug, thiserror::Error)]
#[error("malformed CBOR")]
pub struct CborError(#[from] serde_cbor::Error);

/// Encodes `value`.
pub fn to_vec<T: Serialize>(value: &T) -> Result<Vec<u8>, CborError> {
    Ok(serde_cbor::to_vec(value)?)
}

/// Decodes the one value that `bytes` holds.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CborError> {
    Ok(serde_cbor::from_slice(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

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
