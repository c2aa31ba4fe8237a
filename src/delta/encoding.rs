//! The delta format of librsync: writing it from a list of matches, and applying it.
//!
//! A delta is a magic number, commands, and an end command. A command is a literal (its length and its bytes)
//! or a copy (offset and length in the base); numbers are big-endian in the shortest of 1, 2, 4 or 8 bytes.
//! `rdiff patch` and `fast_rsync::apply` read it. The format is given by librsync's `prototab.h`.

use fast_rsync::ApplyError;

const MAGIC: u32 = 0x7273_0236;
const END: u8 = 0x00;
/// Literals of 1 to 64 bytes carry their length in the command: `LITERAL_1 + length - 1`.
const LITERAL_1: u8 = 0x01;
const LITERAL_INLINE_MAX: usize = 64;
const LITERAL_N1: u8 = 0x41;
const COPY_N1_N1: u8 = 0x45;

/// A librsync delta, as `rdiff patch` reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    /// The encoded commands.
    pub bytes: Vec<u8>,
    /// How many of the new bytes the delta holds as literals.
    pub literal: usize,
}

/// Bytes of the new content that the base holds too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Match {
    /// Offset in the new content.
    pub new: usize,
    /// Offset in the base.
    pub base: usize,
    /// Length in bytes.
    pub len: usize,
}

impl Match {
    /// The end in the new content.
    pub fn new_end(&self) -> usize {
        self.new + self.len
    }
}

/// Encodes `new` as `matches` and literals.
///
/// The matches lie within `new`, in order and without overlap. Those that go on from each other become one
/// copy; a copy that is not shorter than the literal it saves is written as a literal.
pub(super) fn encode(new: &[u8], matches: &[Match]) -> Delta {
    let mut writer = Writer { new, written: 0, bytes: MAGIC.to_be_bytes().to_vec(), literal: 0 };
    let mut rest = matches.iter().copied();
    let mut pending = rest.next();
    while let Some(mut copy) = pending {
        pending = rest.next();
        while let Some(next) = pending
            && next.new == copy.new_end()
            && next.base == copy.base + copy.len
        {
            copy.len += next.len;
            pending = rest.next();
        }
        if copy.len > copy_cost(copy.base, copy.len) {
            writer.literal_until(copy.new);
            writer.copy(copy);
        }
    }
    writer.literal_until(new.len());
    writer.bytes.push(END);
    Delta { bytes: writer.bytes, literal: writer.literal }
}

/// The size of a copy command, in bytes.
pub(super) fn copy_cost(base: usize, len: usize) -> usize {
    1 + (1 << size_class(base)) + (1 << size_class(len))
}

/// The logarithm to base 2 of how many bytes `number` takes: 0 to 3.
fn size_class(number: usize) -> u8 {
    match number as u64 {
        0..=0xff => 0,
        0x100..=0xffff => 1,
        0x1_0000..=0xffff_ffff => 2,
        _ => 3,
    }
}

struct Writer<'a> {
    new: &'a [u8],
    /// How far in `new` the commands reach.
    written: usize,
    bytes: Vec<u8>,
    literal: usize,
}

impl Writer<'_> {
    fn literal_until(&mut self, end: usize) {
        let literal = &self.new[self.written..end];
        match literal.len() {
            0 => return,
            len @ 1..=LITERAL_INLINE_MAX => self.bytes.push(LITERAL_1 + (len - 1) as u8),
            len => {
                self.bytes.push(LITERAL_N1 + size_class(len));
                self.number(len);
            }
        }
        self.bytes.extend_from_slice(literal);
        self.literal += literal.len();
        self.written = end;
    }

    fn copy(&mut self, copy: Match) {
        self.bytes.push(COPY_N1_N1 + 4 * size_class(copy.base) + size_class(copy.len));
        self.number(copy.base);
        self.number(copy.len);
        self.written = copy.new_end();
    }

    fn number(&mut self, number: usize) {
        let bytes = (number as u64).to_be_bytes();
        self.bytes.extend_from_slice(&bytes[8 - (1 << size_class(number))..]);
    }
}

/// Why a delta cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// It is not a well-formed delta, refers to bytes that the base does not have, or makes more than was
    /// expected.
    #[error("the delta does not fit its base: one of the two is damaged")]
    Apply(#[source] ApplyError),
    /// It makes fewer bytes than was expected.
    #[error("the delta makes {made} bytes instead of {expected}: it is damaged or belongs to other content")]
    Short {
        /// Bytes expected.
        expected: usize,
        /// Bytes made.
        made: usize,
    },
}

/// Applies `delta`, as `rdiff patch` does, to `base`, and returns exactly `expected_len` bytes.
///
/// Where the delta was made against several segments, `base` is their concatenation. Hostile deltas are
/// refused with an error; one buffer of at most `expected_len` bytes is allocated, so the caller bounds that
/// number. Whether the result is the right content is for the caller to check, by its SHA-256.
pub fn patch(base: &[u8], delta: &[u8], expected_len: usize) -> Result<Vec<u8>, PatchError> {
    let mut new = Vec::with_capacity(expected_len);
    fast_rsync::apply_limited(base, delta, &mut new, expected_len).map_err(PatchError::Apply)?;
    if new.len() < expected_len {
        return Err(PatchError::Short { expected: expected_len, made: new.len() });
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{damaged, noise, rdiff};
    use super::*;

    fn copy(new: usize, base: usize, len: usize) -> Match {
        Match { new, base, len }
    }

    #[test]
    fn commands_take_their_shortest_form() {
        let new = vec![0; 0x1_0000 + 64 + 256 + 20];
        let matches = [copy(64, 0xff, 20), copy(64 + 20 + 256, 0x100, 0x1_0000)];
        let delta = encode(&new, &matches);
        assert_eq!(delta.literal, 64 + 256);
        let commands = [
            &[0x72, 0x73, 0x02, 0x36, 0x40][..],
            &[0; 64],
            &[0x45, 0xff, 20],
            &[0x42, 1, 0],
            &[0; 256],
            &[0x4b, 1, 0, 0, 1, 0, 0],
            &[0],
        ];
        assert_eq!(delta.bytes, commands.concat());
        assert_eq!(encode(&[], &[]).bytes, [0x72, 0x73, 0x02, 0x36, 0]);
        assert_eq!(encode(&[0; 200], &[]).bytes[4..6], [0x41, 200]);
    }

    #[test]
    fn copies_that_go_on_are_one_and_those_that_do_not_pay_are_literals() {
        let base = noise(1000, 1);
        let joined = encode(&base, &[copy(0, 0, 2), copy(2, 2, 400), copy(402, 402, 598)]);
        assert_eq!(joined.bytes, [0x72, 0x73, 0x02, 0x36, 0x46, 0, 3, 232, 0]);
        let short = encode(&base[..10], &[copy(2, 2, 3)]);
        assert_eq!((short.literal, short.bytes.len()), (10, 4 + 1 + 10 + 1));
    }

    #[test]
    fn librsync_reads_every_size_of_command() {
        let base = noise(0x1_0200, 2);
        for len in [1, 64, 65, 255, 256, 0xffff, 0x1_0000] {
            for offset in [0, 0xff, 0x100, 0x1ff] {
                let new = [&base[7..7 + len], &base[offset..offset + len]].concat();
                let delta = encode(&new, &[copy(len, offset, len)]);
                assert_eq!(patch(&base, &delta.bytes, new.len()).unwrap(), new);
                if let Some(patched) = rdiff(&["patch"], &[&base, &delta.bytes]) {
                    assert!(patched == new, "length {len}, offset {offset}");
                }
            }
        }
    }

    #[test]
    fn a_patch_makes_the_expected_length_or_fails() {
        let base = noise(100, 3);
        let delta = encode(&base, &[copy(0, 0, 100)]).bytes;
        assert_eq!(patch(&base, &delta, 100).unwrap(), base);
        assert!(matches!(patch(&base, &delta, 99), Err(PatchError::Apply(ApplyError::OutputLimit { .. }))));
        assert!(matches!(patch(&base, &delta, 101), Err(PatchError::Short { expected: 101, made: 100 })));
        assert!(matches!(
            patch(&base[1..], &delta, 100),
            Err(PatchError::Apply(ApplyError::CopyOutOfBounds { .. }))
        ));
    }

    proptest! {
        #[test]
        fn hostile_deltas_are_refused_or_make_the_expected_length(
            delta in {
                let base = noise(600, 4);
                damaged(encode(&base, &[copy(10, 300, 200), copy(300, 0, 300)]).bytes)
            }
        ) {
            if let Ok(new) = patch(&noise(600, 4), &delta, 600) {
                prop_assert_eq!((new.len(), new.capacity()), (600, 600));
            }
        }

        #[test]
        fn random_commands_are_refused_or_make_the_expected_length(commands in any::<Vec<u8>>()) {
            let delta = [&MAGIC.to_be_bytes()[..], &commands].concat();
            if let Ok(new) = patch(&[1; 64], &delta, 32) {
                prop_assert_eq!(new.len(), 32);
            }
        }
    }
}
