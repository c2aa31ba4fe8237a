//! The head of a cold remote.

pub fn run(bytes: &[u8]) {
    treering::remote::fuzz_head(bytes);
}
