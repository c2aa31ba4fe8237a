//! A tree of git, and its names as those of blobs that have a time.

use treering::timeline::{TimeKey, path};

pub fn run(bytes: &[u8]) {
    for name in treering::gitkv::fuzz_tree(bytes) {
        let Some((key, suffix)) =
            std::str::from_utf8(&name).ok().and_then(|name| name.split_at_checked(TimeKey::LEN))
        else {
            continue;
        };
        let Ok(key) = key.parse::<TimeKey>() else { continue };
        assert_eq!(format!("{key}{suffix}").as_bytes(), name);
        assert!(path("kind", &key, suffix).ends_with(&format!("/{key}{suffix}")));
        assert_eq!(TimeKey::new(key.time(), key.sequence()).unwrap(), key);
    }
}
