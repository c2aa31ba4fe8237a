//! What the fuzz targets were given and found, tried again; see `fuzz/`.

use std::fs;
use std::path::Path;

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

/// Runs a target on each file of its corpus, and on that with a byte changed, left out or cut off.
fn replay(name: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files = 0;
    for file in fs::read_dir(corpus).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        run(&bytes);
        files += 1;
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
    assert!(files >= 3, "{name} has a corpus");
}

#[test]
fn the_corpora_of_the_fuzz_targets_are_read_or_refused() {
    replay("config", config::run);
    replay("record", record::run);
    replay("head", head::run);
    replay("tree_names", tree_names::run);
    replay("url", url::run);
}

proptest! {
    #[test]
    fn no_address_shows_its_secret(text in "([a-z0-9]{0,3}[@:/?#%&=,'\"\\[\\] .+-]{0,3}){0,5}|\\PC{0,12}") {
        url::run(text.as_bytes());
    }
}
