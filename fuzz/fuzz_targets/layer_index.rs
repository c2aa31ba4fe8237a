//! The index of a layer, and reading objects by what it says from a pack that is just as strange.
#![no_main]

use libfuzzer_sys::fuzz_target;
use treering::layers::LayerSet;

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().unwrap();
    let path = |end| dir.path().join(format!("pack-{}.{end}", "0".repeat(40)));
    std::fs::write(path("idx"), bytes).unwrap();
    std::fs::write(path("pack"), bytes).unwrap();
    let Ok(set) = LayerSet::open(dir.path()) else { return };
    for layer in set.layers() {
        let _ = layer.verify();
        for id in layer.ids().take(100) {
            let _ = set.read(&id);
            let _ = set.read_range(&id, 10, 10);
        }
    }
});
