//! What the benches work on.

/// Bytes that do not compress, other ones for each seed (splitmix64).
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let word = |i: u64| {
        let mut z = (seed << 40).wrapping_add(i).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31).to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..len.div_ceil(8) as u64).flat_map(word).collect();
    bytes.truncate(len);
    bytes
}
