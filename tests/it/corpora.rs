//! What the fuzz targets were given and found, tried again; see `fuzz/`.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;

#[path = "../../fuzz/targets/config.rs"]
mod config;
#[path = "../../fuzz/targets/head.rs"]
mod head;
#[path = "../../fuzz/targets/record.rs"]
mod record;
#[path = "../../fuzz/targets/tree_names.rs"]
mod tree_names;
#[path = "../../fuzz/targets/url.rs"]
mod url;

type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 5] = [
    ("config", config::run),
    ("record", record::run),
    ("head", head::run),
    ("tree_names", tree_names::run),
    ("url", url::run),
];

/// The files of a corpus.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut paths: Vec<_> = fs::read_dir(corpus).unwrap().map(|file| file.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 3, "{name} has a corpus");
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Runs a target on each file of its corpus, and on that with a byte changed, left out or cut off.
fn replay((name, run): Target) {
    for bytes in corpus(name) {
        run(&bytes);
        for at in 0..bytes.len() {
            run(&bytes[..at]);
            run(&[&bytes[..at], &bytes[at + 1..]].concat());
            for to in [0, 0x7f, 0x80, 0xff, bytes[at] ^ 1, bytes[at] ^ 0x20] {
                let mut changed = bytes.clone();
                changed[at] = to;
                run(&changed);
            }
        }
    }
}

#[test]
fn the_corpora_of_the_fuzz_targets_are_read_or_refused() {
    TARGETS.into_iter().for_each(replay);
}

/// Changes the files of each corpus at random for a minute: several bytes at a time, runs left out, doubled, or taken from
/// another file.
#[test]
#[ignore = "goes on for minutes"]
fn the_corpora_changed_at_random() {
    for (name, run) in TARGETS {
        let files = corpus(name);
        let mut state = getrandom::u64().unwrap() | 1;
        println!("{name} from {state}");
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below.max(1) as u64) as usize
        };
        let began = Instant::now();
        let mut runs = 0u64;
        while began.elapsed() < Duration::from_secs(60) {
            let mut bytes = files[random(files.len())].clone();
            for _ in 0..=random(6) {
                let at = random(bytes.len() + 1);
                let end = at + random((bytes.len() - at).min(64) + 1);
                match random(5) {
                    0 if at < bytes.len() => bytes[at] = random(256) as u8,
                    1 => drop(bytes.drain(at..end)),
                    2 => {
                        let run = bytes[at..end].to_vec();
                        drop(bytes.splice(at..at, run));
                    }
                    3 => bytes.insert(at, random(256) as u8),
                    _ => {
                        let other = &files[random(files.len())];
                        let from = random(other.len() + 1);
                        let to = from + random((other.len() - from).min(64) + 1);
                        drop(bytes.splice(at..end, other[from..to].to_vec()));
                    }
                }
            }
            run(&bytes);
            runs += 1;
        }
        println!("{runs} inputs");
    }
}

proptest! {
    #[test]
    fn no_address_shows_its_secret(text in "([a-z0-9]{0,3}[@:/?#%&=,'\"\\[\\] .+-]{0,3}){0,5}|\\PC{0,12}") {
        url::run(text.as_bytes());
    }
}
