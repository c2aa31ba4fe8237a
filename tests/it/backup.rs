//! What a backup opens, reads and reports.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use treering::diff::{ApplyError, Excludes};
use treering::progress::Progress;
use treering::relpath::RelPath;
use treering::repository::{BackupOptions, CompareOptions, Repository, RestoreOptions, Selector};
use treering::spoken::TimeRange;

use crate::deep;
use crate::lab::{self, Lab, run};
use crate::programs;
use crate::recover::recovered;
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
    assert_eq!((second.statistics.files_read, second.statistics.files_changed), (1, 0));
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
    assert_eq!((report.statistics.files_read, report.statistics.files_changed), (1, 0));
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
    let path = lab.source().join("file");
    let out = lab::cat(&lab.repository, &snapshot, path.as_os_str().as_bytes()).unwrap();
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
fn a_link_as_a_source_is_followed_or_saved_and_comes_back_either_way() {
    let mut lab = Lab::new();
    lab.write("real/deep/file", "content");
    let (source, link) = (lab.source(), lab.source().join("link"));
    symlink("real", &link).unwrap();
    symlink("nowhere", source.join("dangling")).unwrap();
    // Some file systems take none.
    let takes = xattr::set(source.join("real"), "user.of", b"the directory").is_ok();
    let mut back_up = |sources: &[&str]| {
        // Not `join`, which takes what ends a name for its own.
        let sources = sources.iter().map(|path| format!("{}/{path}", source.display()).into()).collect();
        lab.reopen();
        let options = BackupOptions { sources, ..lab.options() };
        let report = lab.repository.backup(&options, &Progress::new()).unwrap();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        let restored = lab.path("restored");
        lab.restore(report.snapshot.as_ref().unwrap(), "restored");
        let seen = run(Command::new("find").arg(".").arg("-printf").arg("%P %y %l\n").current_dir(&restored));
        let attribute = xattr::get(&restored, "user.of").ok().flatten();
        let mut seen: Vec<_> = seen.lines().map(|line| line.trim().to_owned()).collect();
        seen.sort();
        fs::remove_dir_all(restored).unwrap();
        (report.links, seen, attribute.is_some())
    };
    for followed in ["link/", "link/.", "real"] {
        let (links, seen, attribute) = back_up(&[followed]);
        assert_eq!((links.len(), attribute), (0, takes), "{followed}");
        assert_eq!(seen, ["d", "deep d", "deep/file f"], "{followed}");
    }
    let (links, seen, _) = back_up(&["link/deep"]);
    assert_eq!((links.len(), seen), (0, vec!["d".to_owned(), "file f".to_owned()]));
    for (saved, target) in [("link", "real"), ("dangling", "nowhere")] {
        let (links, seen, _) = back_up(&[saved]);
        assert_eq!(links, [source.join(saved)]);
        assert_eq!(seen, ["d".to_owned(), format!("{saved} l {target}")]);
    }
    // Beside the tree that holds the link, its target has the path that it really has.
    let (_, seen, _) = back_up(&["", "link/"]);
    assert!(seen.iter().any(|line| line.ends_with("source/link l real")), "{seen:?}");
    assert!(seen.iter().any(|line| line.ends_with("source/real/deep/file f")), "{seen:?}");
}

#[test]
fn a_source_that_is_missing_beside_others_is_named_and_theirs_are_saved() {
    let mut lab = Lab::new();
    lab.write("a/file", "content");
    let sources = vec![lab.source().join("a"), lab.source().join("b")];
    let options = BackupOptions { sources: sources.clone(), ..lab.options() };
    let report = lab.repository.backup(&options, &Progress::new()).unwrap();
    assert_eq!(report.problems.iter().map(|problem| &problem.path).collect::<Vec<_>>(), [&sources[1]]);
    let partial = report.snapshot.unwrap();
    let b = RelPath::new(sources[1].strip_prefix("/").unwrap().as_os_str().as_bytes()).unwrap();
    assert_eq!(partial.record.unreadable, [b]);
    let restored = lab.restore(&partial, "restored").join(sources[0].strip_prefix("/").unwrap());
    assert_eq!(fs::read_to_string(restored.join("file")).unwrap(), "content");
    // Once it is there, the partial snapshot is the parent of a complete one.
    lab.write("b/file", "other content");
    lab.reopen();
    let options = BackupOptions { sources, ..lab.options() };
    let complete = lab.repository.backup(&options, &Progress::new()).unwrap();
    assert_eq!((complete.is_first, complete.statistics.files_unmodified), (false, 1));
    assert!(!complete.snapshot.unwrap().record.is_partial());
}

#[test]
fn a_source_that_has_lost_all_of_its_files_is_told() {
    let mut lab = Lab::new();
    for number in 0..120 {
        lab.write(&format!("mounted/{number}"), "x");
        lab.write(&format!("other/{number}"), "x");
    }
    let sources = ["mounted", "other"].map(|name| lab.source().join(name)).to_vec();
    let mut emptied = || {
        lab.reopen();
        let options = BackupOptions { sources: sources.clone(), ..lab.options() };
        lab.repository.backup(&options, &Progress::new()).unwrap().emptied
    };
    assert_eq!(emptied(), []);
    fs::remove_file(sources[1].join("7")).unwrap();
    fs::rename(&sources[0], sources[0].with_extension("away")).unwrap();
    fs::create_dir(&sources[0]).unwrap();
    assert_eq!(emptied(), [(sources[0].clone(), 120)]);
    assert_eq!(emptied(), [], "it is told once");
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
    let at = second.time().to_zoned(jiff::tz::TimeZone::UTC);
    let before = Selector::Before(TimeRange { first: at.clone(), last: at });
    assert_eq!(repository.find(&before).unwrap().id, second.id);
    assert!(repository.find(&Selector::Latest(2)).is_err());
    assert!(repository.find(&Selector::Latest(usize::MAX)).is_err());
    let changes = repository.compare(&first, &second).unwrap().changes;
    let seen: Vec<_> = changes
        .iter()
        .map(|change| format!("{:?} {}", std::mem::discriminant(change), change.path()))
        .collect();
    let paths: Vec<_> = changes.iter().map(|change| change.path().to_string()).collect();
    assert_eq!(paths, ["", "grows", "moves", "moves/to", "new"], "{seen:?}");
    let now = repository
        .compare_directory(&second, &lab.source(), &CompareOptions::default(), &Progress::new())
        .unwrap()
        .changes;
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

#[test]
fn what_lies_deeper_than_any_path_reaches_is_saved_and_comes_back() {
    let mut lab = Lab::new();
    let deepest = deep::make(&lab.source());
    let deepest = deepest.file;
    assert!(deepest.as_bytes().len() > 5000);
    let first = lab.backup();
    let statistics = first.statistics;
    assert_eq!((statistics.files, statistics.directories, statistics.others), (10, 25, 20));
    let first = first.snapshot.unwrap();
    assert_eq!(lab.backup().statistics.files_read, 0);
    let out = lab::cat(&lab.open(), &first, deepest.as_bytes()).unwrap();
    assert_eq!(out, b"content 23");
    // What was restored is as the source was.
    let restored = lab.restore(&first, "restored");
    let options = BackupOptions { sources: vec![restored], ..lab.options() };
    let again = lab.open().backup(&options, &Progress::new()).unwrap();
    assert!(again.problems.is_empty(), "{:?}", again.problems);
    let changes = lab.open().compare(&first, &again.snapshot.unwrap()).unwrap().changes;
    assert!(changes.is_empty(), "{changes:?}");
}

#[test]
fn a_file_that_claims_to_be_empty_is_saved_with_what_it_holds() {
    let mut lab = Lab::new();
    lab.write("empty", "");
    let version = fs::read("/proc/version").unwrap();
    assert!(!version.is_empty() && fs::metadata("/proc/version").unwrap().len() == 0);
    let sources = vec!["/proc/version".into(), lab.source()];
    let options = BackupOptions { sources, ..lab.options() };
    let report = lab.repository.backup(&options, &Progress::new()).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    let snapshot = report.snapshot.unwrap();
    let out = lab::cat(&lab.repository, &snapshot, b"/proc/version").unwrap();
    assert_eq!(out, version);
    let restored = lab.restore(&snapshot, "restored");
    assert_eq!(fs::read(restored.join("proc/version")).unwrap(), version);
    // A long one is cut off, and that is told.
    let long = Path::new("/proc/kallsyms");
    if fs::read(long).is_ok_and(|content| content.len() > 1 << 20) {
        lab.reopen();
        let options = BackupOptions { sources: vec![long.to_owned()], ..lab.options() };
        let report = lab.repository.backup(&options, &Progress::new()).unwrap();
        assert_eq!(report.problems.len(), 1);
        assert!(report.statistics.bytes > 100_000);
    }
}

#[test]
fn a_file_whose_attributes_cannot_be_listed_is_saved_without_them() {
    // A file system in memory takes more names than fit into a list; most others do not.
    let Ok(directory) = tempfile::tempdir_in("/dev/shm") else {
        return eprintln!("skipped: there is no file system in memory");
    };
    let path = directory.path().join("file");
    fs::write(&path, "content").unwrap();
    let set = |number: usize| xattr::set(&path, format!("user.{number:03}{}", "x".repeat(240)), b"1").is_ok();
    if !(0..300).all(set) || xattr::list(&path).is_ok() {
        return eprintln!("skipped: the file system in memory takes few attributes");
    }
    let lab = Lab::new();
    let options = BackupOptions { sources: vec![directory.path().to_owned()], ..lab.options() };
    let report = lab.repository.backup(&options, &Progress::new()).unwrap();
    assert_eq!(report.problems.iter().map(|problem| &problem.path).collect::<Vec<_>>(), [&path]);
    assert!(report.problems[0].to_string().contains("file"), "{:?}", report.problems);
    let snapshot = report.snapshot.unwrap();
    assert!(snapshot.record.is_partial(), "it lacks attributes");
    let lacks: Vec<_> = snapshot.record.unread_attributes.iter().map(ToString::to_string).collect();
    assert_eq!(lacks, ["file"]);
    assert!(snapshot.record.unreadable.is_empty(), "what it holds is there");
    if programs::are_here(&["python3", "git"]) {
        let listed = recovered(&[&lab.path("repo")]);
        assert!(listed.trim_end().ends_with("(partial)"), "{listed}");
    }
    let restored = lab.restore(&snapshot, "restored");
    assert_eq!(fs::read_to_string(restored.join("file")).unwrap(), "content");

    // What is there keeps attributes of which nobody knows whether the snapshot should have them.
    let restore = |to: &Path| {
        let options = RestoreOptions::new(to);
        lab.repository.restore(&snapshot, &options, &Progress::new()).unwrap()
    };
    fs::write(restored.join("file"), "other").unwrap();
    let kept = xattr::set(restored.join("file"), "user.own", b"kept").is_ok();
    let report = restore(&restored);
    assert!(report.applied.failures.is_empty(), "{:?}", report.applied.failures);
    assert_eq!(report.unread_attributes, [restored.join("file")]);
    assert_eq!(fs::read_to_string(restored.join("file")).unwrap(), "content");
    if kept {
        assert_eq!(xattr::get(restored.join("file"), "user.own").unwrap().unwrap(), b"kept");
    }
    // Those that cannot be read here either would be lost with the file.
    fs::write(&path, "changed").unwrap();
    let report = restore(directory.path());
    assert_eq!(report.applied.failures.len(), 1, "{:?}", report.applied.failures);
    assert!(matches!(report.applied.failures[0].source, ApplyError::Attributes));
    assert_eq!(fs::read_to_string(&path).unwrap(), "changed");
    assert!(xattr::get(&path, format!("user.{:03}{}", 299, "x".repeat(240))).unwrap().is_some());
}
