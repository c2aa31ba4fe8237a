//! A backup that is stopped half-way.

use std::fs;

use treering::progress::Progress;
use treering::repository::RepositoryError;

use crate::lab::Lab;
use crate::tree::{assert_same, noise};

#[test]
fn what_was_stored_before_an_interruption_is_used_by_the_next_backup() {
    let mut lab = Lab::new();
    for number in 0..40 {
        lab.write(&format!("file{number}"), noise(1 << 20, number));
    }
    let progress = Progress::new();
    let stopped = std::thread::scope(|scope| {
        let running = scope.spawn(|| lab.repository.backup(&lab.options(), &progress));
        while progress.files.get() < 10 && !running.is_finished() {
            std::thread::yield_now();
        }
        progress.stop();
        running.join().unwrap()
    });
    assert!(matches!(stopped, Err(RepositoryError::Interrupted(_))));
    lab.reopen();
    assert!(lab.repository.snapshots().unwrap().is_empty());
    let report = lab.backup();
    assert!(report.statistics.bytes_volumes < 39 << 20, "{:?}", report.statistics);
    assert_same(&lab.source(), &lab.restore(&report.snapshot.unwrap(), "restored"));
    lab.check();
    assert!(!fs::read_dir(lab.path("repo/objects/pack")).unwrap().any(|entry| {
        entry.unwrap().file_name().to_string_lossy().starts_with(treering::atomic::TEMP_PREFIX)
    }));
}
