//! What a backup opens, reads and reports.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use treering::diff::Excludes;
use treering::progress::Progress;
use treering::relpath::RelPath;
use treering::repository::{BackupOptions, Other, Repository, Selector};

use crate::lab::Lab;
use crate::tree::{assert_same, everything, is_root, noise, unlock};

#[test]
fn everything_comes_back_as_it_was() {
    let mut lab = Lab::new();
    everything(&lab.source());
    let report = lab.backup();
    let snapshot = report.snapshot.unwrap();
    let restored = lab.restore(&snapshot, "restored");
    assert_same(&lab.source(), &restored);
    lab.check();
    lab.git(&["fsck", "--strict"]);
}

#[test]
fn unchanged_files_are_not_opened_and_cost_a_record() {
    let mut lab = Lab::new();
    for number in 0..600 {
        lab.write(&format!("dir{}/file{number}", number % 7), format!("content {number}"));
    }
    let first = lab.backup();
    assert_eq!((first.statistics.files_read, first.statistics.files_new), (600, 600));
    let second = lab.backup();
    assert_eq!((second.statistics.files_read, second.statistics.files_unmodified), (0, 600));
    assert_eq!(second.statistics.pages_new, 0);
    assert!(second.changes().is_empty());
    assert!(second.bytes_added < 3000, "{} bytes", second.bytes_added);
    lab.write("dir3/file3", "other content");
    let third = lab.backup();
    assert_eq!((third.statistics.files_read, third.statistics.files_changed), (1, 1));
    assert_eq!(third.statistics.pages_new, 1);
    let restored = lab.restore(&third.snapshot.unwrap(), "restored");
    assert_same(&lab.source(), &restored);
}

#[test]
fn a_file_as_young_as_the_scan_is_read_again() {
    let mut lab = Lab::new();
    lab.write("file", "one");
    let young = BackupOptions::new(vec![lab.source()], jiff::Timestamp::now());
    lab.repository.backup(&young, &Progress::new()).unwrap();
    lab.reopen();
    let second = lab.repository.backup(&lab.options(), &Progress::new()).unwrap();
    assert_eq!(second.statistics.files_read, 1);
    let third = lab.backup();
    assert_eq!(third.statistics.files_read, 0);
}

#[test]
fn force_reads_everything_and_stores_nothing_twice() {
    let mut lab = Lab::new();
    lab.write("file", noise(100_000, 1));
    lab.backup();
    let options = BackupOptions { force: true, ..lab.options() };
    let report = lab.repository.backup(&options, &Progress::new()).unwrap();
    assert_eq!(report.statistics.files_read, 1);
    assert_eq!(report.statistics.bytes_volumes, 0);
}

#[test]
fn a_dry_run_changes_nothing() {
    let mut lab = Lab::new();
    lab.write("file", noise(100_000, 1));
    let before = lab.git(&["rev-parse", "HEAD"]);
    let options = BackupOptions { dry_run: true, ..lab.options() };
    let report = lab.repository.backup(&options, &Progress::new()).unwrap();
    assert!(report.snapshot.is_none());
    assert!(report.bytes_added > 100_000);
    assert_eq!(lab.git(&["rev-parse", "HEAD"]), before);
    lab.reopen();
    assert!(lab.repository.snapshots().unwrap().is_empty());
}

#[test]
fn several_sources_lie_under_their_own_paths() {
    let mut lab = Lab::new();
    for (name, text) in [("one/a", "a"), ("two/b", "b"), ("two/deep/c", "c"), ("three", "t")] {
        lab.write(name, text);
    }
    let source = lab.source();
    let sources = vec![source.join("two"), source.join("one"), source.join("two/deep"), source.join("three")];
    let options = BackupOptions { sources, ..lab.options() };
    let snapshot = lab.repository.backup(&options, &Progress::new()).unwrap().snapshot.unwrap();
    let restored = lab.restore(&snapshot, "restored").join(source.strip_prefix("/").unwrap());
    for (path, text) in [("one/a", "a"), ("two/b", "b"), ("two/deep/c", "c"), ("three", "t")] {
        assert_eq!(fs::read_to_string(restored.join(path)).unwrap(), text);
    }
    lab.reopen();
    let again = lab.repository.backup(&options, &Progress::new()).unwrap();
    assert_eq!((again.statistics.files_read, again.changes().len()), (0, 0));
}

#[test]
fn a_single_file_is_a_snapshot_of_one_name() {
    let mut lab = Lab::new();
    lab.write("file", "alone");
    let options = BackupOptions { sources: vec![lab.source().join("file")], ..lab.options() };
    let snapshot = lab.repository.backup(&options, &Progress::new()).unwrap().snapshot.unwrap();
    let restored = lab.restore(&snapshot, "restored");
    assert_eq!(fs::read_to_string(restored.join("file")).unwrap(), "alone");
    lab.reopen();
    let mut out = Vec::new();
    let path = lab.source().join("file");
    use std::os::unix::ffi::OsStrExt;
    lab.repository.cat(&snapshot, path.as_os_str().as_bytes(), &mut out).unwrap();
    assert_eq!(out, b"alone");
}

#[test]
fn what_cannot_be_read_is_reported_and_the_rest_is_saved() {
    if is_root() {
        return; // Root can read everything.
    }
    let lab = Lab::new();
    lab.write("secret", "no");
    lab.write("open", "yes");
    lab.write("closed/inner", "no");
    fs::set_permissions(lab.source().join("secret"), fs::Permissions::from_mode(0o0)).unwrap();
    fs::set_permissions(lab.source().join("closed"), fs::Permissions::from_mode(0o0)).unwrap();
    let report = lab.repository.backup(&lab.options(), &Progress::new()).unwrap();
    let mut failed: Vec<_> = report.problems.iter().map(|problem| problem.path.clone()).collect();
    failed.sort();
    assert_eq!(failed, [lab.source().join("closed"), lab.source().join("secret")]);
    let snapshot = report.snapshot.unwrap();
    let record = &snapshot.record;
    assert_eq!(record.unreadable.iter().map(ToString::to_string).collect::<Vec<_>>(), ["closed", "secret"]);
    let is_unreadable = |path: &str| record.is_unreadable(&RelPath::new(path.as_bytes()).unwrap());
    assert!(["secret", "closed", "closed/inner", "closed/a/b"].into_iter().all(is_unreadable));
    assert!(!["", "open", "secret2", "close"].into_iter().any(is_unreadable));
    let restored = lab.restore(&snapshot, "restored");
    assert_eq!(fs::read_to_string(restored.join("open")).unwrap(), "yes");
    unlock(&lab.path("restored"));
}

#[test]
fn a_missing_source_is_an_error() {
    let lab = Lab::new();
    let options = BackupOptions { sources: vec![lab.path("nowhere")], ..lab.options() };
    let error = lab.repository.backup(&options, &Progress::new()).unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
    assert!(lab.repository.snapshots().unwrap().is_empty());
}

#[test]
fn snapshots_are_found_and_compared() {
    let mut lab = Lab::new();
    lab.write("stays", "stays");
    lab.write("grows", "short");
    lab.write("moves/from", noise(10_000, 3));
    let first = lab.backup().snapshot.unwrap();
    lab.write("grows", "longer than before");
    lab.write("new", "new");
    fs::rename(lab.source().join("moves/from"), lab.source().join("moves/to")).unwrap();
    let second = lab.backup().snapshot.unwrap();
    let repository = Repository::open(&lab.path("repo")).unwrap();
    assert_eq!(repository.find(&Selector::Latest(1)).unwrap().id, first.id);
    assert_eq!(repository.find(&Selector::Id(first.short_id())).unwrap().key, first.key);
    assert_eq!(repository.find(&Selector::Before(second.time())).unwrap().id, second.id);
    assert!(repository.find(&Selector::Latest(2)).is_err());
    assert!(repository.find(&Selector::Latest(usize::MAX)).is_err());
    let changes = repository.compare(&first, Other::Snapshot(&second), &Progress::new()).unwrap();
    let seen: Vec<_> = changes
        .iter()
        .map(|change| format!("{:?} {}", std::mem::discriminant(change), change.path()))
        .collect();
    let paths: Vec<_> = changes.iter().map(|change| change.path().to_string()).collect();
    assert_eq!(paths, ["", "grows", "moves", "moves/to", "new"], "{seen:?}");
    let now = repository.compare(&second, Other::Directory(&lab.source()), &Progress::new()).unwrap();
    assert!(now.is_empty(), "{now:?}");
}

#[test]
fn a_bad_pattern_file_in_a_source_is_reported_and_the_rest_is_saved() {
    let lab = Lab::new();
    lab.write(".skip", "[z-a]\n*.o\n");
    lab.write("file", "content");
    lab.write("file.o", "left out");
    let excludes = Excludes { ignore_file: Some(".skip".into()), ..Excludes::default() };
    let options = BackupOptions { excludes, ..lab.options() };
    let report = lab.repository.backup(&options, &Progress::new()).unwrap();
    assert_eq!(report.problems.len(), 1);
    let restored = lab.restore(&report.snapshot.unwrap(), "restored");
    assert_eq!(fs::read_to_string(restored.join("file")).unwrap(), "content");
    assert!(!restored.join("file.o").exists());
}
