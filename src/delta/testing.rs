//! What the tests of this folder share: contents, edits of them, and `rdiff`.

use std::process::Command;

use proptest::collection::vec;
use proptest::prelude::*;

use super::signature::{BlockSignature, ConfirmKey, SignatureOptions};

pub const KEY: ConfirmKey = ConfirmKey([42; 32]);

/// Bytes without any structure (SplitMix64).
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    });
    words.flat_map(u64::to_le_bytes).take(len).collect()
}

/// Lines of words, as in source code.
pub fn text(lines: usize, seed: u64) -> Vec<u8> {
    const WORDS: [&str; 12] =
        ["let", "self", "=", "match", "return", "value", "{", "}", "index", "for", "::new()", "block"];
    let line = |choices: &[u8]| {
        let words: Vec<_> = choices.iter().map(|&choice| WORDS[usize::from(choice) % WORDS.len()]).collect();
        words.join(" ") + "\n"
    };
    noise(lines * 8, seed).chunks(8).map(line).collect::<String>().into_bytes()
}

pub fn sign(data: &[u8], offset: u64, options: SignatureOptions) -> BlockSignature {
    BlockSignature::compute(data, offset, options, &KEY).unwrap()
}

/// Runs `rdiff` with `args`, then files that hold `inputs`, then the name of a file for its result, which is
/// returned.
///
/// Without the program this fails where `CI` is `true`, and else says so and returns nothing.
pub fn rdiff(args: &[&str], inputs: &[&[u8]]) -> Option<Vec<u8>> {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("rdiff");
    command.args(args);
    for (at, input) in inputs.iter().enumerate() {
        let path = directory.path().join(at.to_string());
        std::fs::write(&path, input).unwrap();
        command.arg(path);
    }
    let result = directory.path().join("result");
    match command.arg(&result).output() {
        Ok(output) => {
            assert!(output.status.success(), "rdiff {args:?}: {}", String::from_utf8_lossy(&output.stderr));
            Some(std::fs::read(result).unwrap())
        }
        Err(error) => {
            assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "rdiff is needed: {error}");
            eprintln!("skipped what needs rdiff: {error}");
            None
        }
    }
}

/// Contents of up to `max` bytes, of runs that compress, repeat or do neither.
pub fn contents(max: usize) -> impl Strategy<Value = Vec<u8>> {
    let run = (0..4u8, 0..=max / 2, any::<u64>()).prop_map(|(kind, len, seed)| match kind {
        0 => vec![0; len],
        1 => noise(24, seed).into_iter().cycle().take(len).collect(),
        2 => text(len / 30 + 1, seed),
        _ => noise(len, seed),
    });
    vec(run, 0..5).prop_map(move |runs| {
        let mut content = runs.concat();
        content.truncate(max);
        content
    })
}

/// A content, and the same after some edits.
pub fn edited(max: usize) -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    (contents(max), vec(edit(max), 0..6)).prop_map(|(old, edits)| {
        let mut new = old.clone();
        for edit in edits {
            edit.apply(&mut new);
        }
        (old, new)
    })
}

#[derive(Debug, Clone)]
enum Edit {
    Overwrite(usize, Vec<u8>),
    Insert(usize, Vec<u8>),
    Delete(usize, usize),
    Move(usize, usize, usize),
    Append(Vec<u8>),
    Truncate(usize),
    Zero(usize, usize),
}

fn edit(max: usize) -> impl Strategy<Value = Edit> {
    let at = || 0..=max;
    let bytes = || (1..=max / 8, any::<u64>()).prop_map(|(len, seed)| noise(len, seed));
    prop_oneof![
        (at(), bytes()).prop_map(|(at, bytes)| Edit::Overwrite(at, bytes)),
        (at(), bytes()).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        (at(), 1..=max / 4).prop_map(|(at, len)| Edit::Delete(at, len)),
        (at(), 1..=max / 4, at()).prop_map(|(from, len, to)| Edit::Move(from, len, to)),
        bytes().prop_map(Edit::Append),
        at().prop_map(Edit::Truncate),
        (at(), 1..=max / 4).prop_map(|(at, len)| Edit::Zero(at, len)),
    ]
}

impl Edit {
    fn apply(self, content: &mut Vec<u8>) {
        let clamp = |at: usize, content: &Vec<u8>| at.min(content.len());
        match self {
            Self::Overwrite(at, bytes) => {
                for (old, new) in content.iter_mut().skip(at).zip(bytes) {
                    *old = new;
                }
            }
            Self::Insert(at, bytes) => {
                let at = clamp(at, content);
                content.splice(at..at, bytes);
            }
            Self::Delete(at, len) => {
                let range = clamp(at, content)..clamp(at + len, content);
                content.drain(range);
            }
            Self::Move(from, len, to) => {
                let range = clamp(from, content)..clamp(from + len, content);
                let moved: Vec<u8> = content.drain(range).collect();
                let to = clamp(to, content);
                content.splice(to..to, moved);
            }
            Self::Append(bytes) => content.extend(bytes),
            Self::Truncate(len) => content.truncate(len),
            Self::Zero(at, len) => content.iter_mut().skip(at).take(len).for_each(|byte| *byte = 0),
        }
    }
}

/// Damaged forms of `bytes` (some of them changed, or cut short), and bytes that have nothing to do with them.
pub fn damaged(bytes: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let len = bytes.len();
    let whole = bytes.clone();
    prop_oneof![
        (0..len).prop_map(move |kept| bytes[..kept].to_vec()),
        vec((0..len, any::<u8>()), 1..4).prop_map(move |changes| {
            let mut bytes = whole.clone();
            for (at, value) in changes {
                bytes[at] = value;
            }
            bytes
        }),
        any::<Vec<u8>>(),
    ]
}
