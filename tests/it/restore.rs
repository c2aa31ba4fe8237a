//! What a restore writes, keeps and refuses.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use jiff::Timestamp;
use treering::progress::Progress;
use treering::repository::{
    BackupOptions, CheckOptions, CompareOptions, InitOptions, Repository, RepositoryError, RestoreOptions,
    Selector,
};

use crate::lab::{self, Lab};
use crate::tree::{assert_same, assert_same_inside, everything, noise, unlock};

#[test]
fn only_what_differs_is_written() {
    let mut lab = Lab::new();
    everything(&lab.source());
    let snapshot = lab.backup().snapshot.unwrap();
    let target = lab.restore(&snapshot, "restored");
    unlock(&target);
    let inode = fs::metadata(target.join("noise")).unwrap().ino();
    fs::write(target.join("sub/deep/er/blank"), "no longer").unwrap();
    fs::write(target.join("extra"), "extra").unwrap();
    let report = lab.restore_with(&snapshot, &RestoreOptions::new(&target));
    assert_eq!(report.applied.files, 1);
    assert_eq!(fs::metadata(target.join("noise")).unwrap().ino(), inode);
    assert_eq!(fs::read(target.join("extra")).unwrap(), b"extra");
    let report =
        lab.restore_with(&snapshot, &RestoreOptions { delete: true, ..RestoreOptions::new(&target) });
    assert_eq!((report.applied.files, report.applied.deleted), (0, 1));
    assert_same_inside(&lab.source(), &target);
}

#[test]
fn a_large_file_takes_from_the_target_what_it_holds() {
    let mut lab = Lab::new();
    lab.write("image", noise(6 << 20, 1));
    let snapshot = lab.backup().snapshot.unwrap();
    let target = lab.restore(&snapshot, "restored");
    let mut image = fs::read(target.join("image")).unwrap();
    image[3_000_000] ^= 1;
    fs::write(target.join("image"), image).unwrap();
    let report =
        lab.restore_with(&snapshot, &RestoreOptions { verify: true, ..RestoreOptions::new(&target) });
    let read = report.applied.bytes - report.applied.reused_bytes;
    assert!(read <= 4 << 20, "{read} bytes were read from the repository");
    assert_eq!((report.verified, report.mismatches), (Some(1), vec![]));
    assert_same(&lab.source(), &target);
}

#[test]
fn a_path_and_patterns_choose() {
    let mut lab = Lab::new();
    for name in ["a/b/c.txt", "a/b/d.bin", "a/e.txt", "f.txt"] {
        lab.write(name, name);
    }
    let snapshot = lab.backup().snapshot.unwrap();
    let names = |target: &str| -> Vec<String> {
        crate::tree::look(&lab.path(target)).into_keys().filter(|name| !name.is_empty()).collect()
    };
    let options = |target: &str| RestoreOptions::new(lab.path(target));
    lab.restore_with(&snapshot, &RestoreOptions { path: Some(b"/a/b".to_vec()), ..options("one") });
    assert_eq!(names("one"), ["c.txt", "d.bin"]);
    lab.restore_with(&snapshot, &RestoreOptions { include: vec!["*.txt".into()], ..options("two") });
    assert_eq!(names("two"), ["a", "a/b", "a/b/c.txt", "a/e.txt", "f.txt"]);
    lab.restore_with(&snapshot, &RestoreOptions { exclude: vec!["/a/b".into()], ..options("three") });
    assert_eq!(names("three"), ["a", "a/e.txt", "f.txt"]);
    lab.restore_with(&snapshot, &RestoreOptions { path: Some(b"a/e.txt".to_vec()), ..options("four") });
    assert_eq!(names("four"), ["e.txt"]);
    let none = RestoreOptions { path: Some(b"/none".to_vec()), ..options("five") };
    let repository = treering::Repository::open(&lab.path("repo")).unwrap();
    assert!(repository.restore(&snapshot, &none, &treering::progress::Progress::new()).is_err());
}

#[test]
fn deleting_stays_below_what_is_restored() {
    let mut lab = Lab::new();
    lab.write("a/kept", "kept");
    lab.write("b/other", "other");
    let snapshot = lab.backup().snapshot.unwrap();
    let target = lab.restore(&snapshot, "restored");
    fs::write(target.join("a/extra"), "").unwrap();
    fs::create_dir_all(target.join("a/more/deep")).unwrap();
    fs::write(target.join("a/more/deep/file"), "").unwrap();
    fs::write(target.join("b/extra"), "").unwrap();
    let options =
        RestoreOptions { path: Some(b"a".to_vec()), delete: true, ..RestoreOptions::new(target.join("a")) };
    lab.restore_with(&snapshot, &options);
    assert!(!target.join("a/extra").exists() && !target.join("a/more").exists());
    assert!(target.join("b/extra").exists());
}

#[test]
fn links_in_the_target_are_replaced_and_not_followed() {
    let mut lab = Lab::new();
    lab.write("dir/file", "new");
    lab.write("plain", "new");
    let snapshot = lab.backup().snapshot.unwrap();
    let target = lab.path("restored");
    fs::create_dir_all(lab.path("elsewhere")).unwrap();
    fs::create_dir_all(&target).unwrap();
    fs::write(lab.path("elsewhere/file"), "untouched").unwrap();
    std::os::unix::fs::symlink(lab.path("elsewhere"), target.join("dir")).unwrap();
    std::os::unix::fs::symlink(lab.path("elsewhere/file"), target.join("plain")).unwrap();
    lab.restore_with(&snapshot, &RestoreOptions::new(&target));
    assert_eq!(fs::read_to_string(lab.path("elsewhere/file")).unwrap(), "untouched");
    assert_same_inside(&lab.source(), &target);
}

#[test]
fn a_repository_is_neither_backed_up_into_itself_nor_removed_by_a_restore() {
    let lab = Lab::new();
    let home = lab.source();
    lab.write("docs/file", "content");
    let place = home.join("rings");
    let repository = Repository::init(&place, &InitOptions::new(Timestamp::now())).unwrap();
    repository.backup(&BackupOptions::new(vec![home.clone()], Timestamp::now()), &Progress::new()).unwrap();
    let snapshot = repository.find(&Selector::Latest(0)).unwrap();
    let names: Vec<String> = lab::entries(&repository, &snapshot, None)
        .unwrap()
        .iter()
        .map(|entry| entry.path.to_string())
        .collect();
    assert_eq!(names, ["", "docs", "docs/file"]);

    lab.write("extra", "extra");
    fs::remove_file(home.join("docs/file")).unwrap();
    let options = RestoreOptions { delete: true, ..RestoreOptions::new(&home) };
    let report = repository.restore(&snapshot, &options, &Progress::new()).unwrap();
    assert_eq!((report.applied.files, report.applied.deleted), (1, 1));
    let repository = Repository::open(&place).unwrap();
    let options = CheckOptions { read_data: true, ..CheckOptions::default() };
    assert!(repository.check(&options, &Progress::new()).unwrap().faults.is_empty());

    std::os::unix::fs::symlink(&place, lab.path("link")).unwrap();
    for inside in [place.clone(), place.join("objects/new"), lab.path("link/new/deep")] {
        let options = RestoreOptions { delete: true, ..RestoreOptions::new(&inside) };
        let refused = repository.restore(&snapshot, &options, &Progress::new());
        assert!(matches!(refused, Err(RepositoryError::IntoItself(_))), "{refused:?}");
    }
}

#[test]
fn directories_on_the_way_to_what_is_included_stay_as_they_are() {
    let mut lab = Lab::new();
    lab.write("dir/wanted", "wanted");
    lab.write("dir/other", "other");
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(&lab.source(), 0o750);
    mode(&lab.source().join("dir"), 0o750);
    let snapshot = lab.backup().snapshot.unwrap();
    let target = lab.path("restored");
    fs::create_dir_all(target.join("dir")).unwrap();
    mode(&target, 0o1777);
    mode(&target.join("dir"), 0o775);
    let modes = |names: [&str; 2]| names.map(|name| fs::metadata(target.join(name)).unwrap().mode() & 0o7777);
    let some =
        RestoreOptions { include: vec!["wanted".into()], verify: true, ..RestoreOptions::new(&target) };
    let report = lab.restore_with(&snapshot, &some);
    assert_eq!((report.applied.files, report.mismatches), (1, vec![]));
    assert_eq!(modes(["", "dir"]), [0o1777, 0o775]);
    let some = RestoreOptions { include: vec!["dir".into()], ..RestoreOptions::new(&target) };
    lab.restore_with(&snapshot, &some);
    assert_eq!(modes(["", "dir"]), [0o1777, 0o750]);
    // Asked for or not, a target that was there is not the source.
    lab.restore(&snapshot, "restored");
    assert_eq!(modes(["", "dir"]), [0o1777, 0o750]);
}

#[test]
fn a_target_takes_owner_mode_and_time_where_it_is_made_or_is_the_source() {
    let mut lab = Lab::new();
    lab.write("sub/file", "file");
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(&lab.source(), 0o750);
    mode(&lab.source().join("sub"), 0o711);
    let snapshot = lab.backup().snapshot.unwrap();
    let of = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    let made = lab.restore(&snapshot, "made");
    assert_same(&lab.source(), &made);
    let there = lab.path("there");
    fs::create_dir(&there).unwrap();
    mode(&there, 0o1777);
    let options = RestoreOptions { verify: true, ..RestoreOptions::new(&there) };
    let report = lab.restore_with(&snapshot, &options);
    assert_eq!((of(&there), report.mismatches), (0o1777, vec![]));
    // A part of a snapshot is restored by the same rule.
    let part = RestoreOptions { path: Some(b"sub".to_vec()), ..RestoreOptions::new(&there) };
    lab.restore_with(&snapshot, &part);
    assert_eq!(of(&there), 0o1777);
    mode(&lab.source(), 0o700);
    mode(&lab.source().join("sub"), 0o700);
    lab.restore_with(&snapshot, &RestoreOptions::new(lab.source()));
    assert_eq!((of(&lab.source()), of(&lab.source().join("sub"))), (0o750, 0o711));
    mode(&lab.source().join("sub"), 0o700);
    let part = RestoreOptions { path: Some(b"sub".to_vec()), ..RestoreOptions::in_place() };
    lab.restore_with(&snapshot, &part);
    assert_eq!(of(&lab.source().join("sub")), 0o711);
}

#[test]
fn what_lies_too_deep_for_one_call_is_looked_at_and_removed() {
    use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
    let mut lab = Lab::new();
    lab.write("file", "file");
    let snapshot = lab.backup().snapshot.unwrap();
    let target = lab.restore(&snapshot, "restored");
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut directory = openat(CWD, &target, flags, Mode::empty()).unwrap();
    let name = "d".repeat(200);
    for _ in 0..30 {
        mkdirat(&directory, &name, Mode::RWXU).unwrap();
        directory = openat(&directory, &name, flags, Mode::empty()).unwrap();
    }
    let report =
        lab.restore_with(&snapshot, &RestoreOptions { delete: true, ..RestoreOptions::new(&target) });
    assert!(report.applied.failures.is_empty(), "{:?}", report.applied.failures);
    assert_eq!(report.applied.deleted, 30);
    assert_same_inside(&lab.source(), &target);
}

#[test]
fn directories_above_what_was_backed_up_can_be_entered() {
    let mut lab = Lab::new();
    lab.write("one/file", "one");
    lab.write("two/file", "two");
    let sources = ["one", "two"].map(|name| lab.source().join(name)).to_vec();
    lab.reopen();
    let snapshot = lab
        .repository
        .backup(&BackupOptions::new(sources, Timestamp::now()), &Progress::new())
        .unwrap()
        .snapshot
        .unwrap();
    let target = lab.restore(&snapshot, "restored");
    let probe = lab.path("probe");
    fs::create_dir(&probe).unwrap();
    let usual = fs::metadata(&probe).unwrap().mode();
    let mut above = target.join(lab.source().strip_prefix("/").unwrap());
    while above != target {
        assert_eq!(fs::metadata(&above).unwrap().mode(), usual, "{}", above.display());
        above.pop();
    }
}

#[test]
fn a_directory_in_the_way_is_kept_and_named() {
    let mut lab = Lab::new();
    lab.write("name", "a file");
    let snapshot = lab.backup().snapshot.unwrap();
    let target = lab.path("restored");
    fs::create_dir_all(target.join("name")).unwrap();
    fs::write(target.join("name/precious"), "precious").unwrap();
    let report = lab.restore_with(&snapshot, &RestoreOptions::new(&target));
    assert_eq!(report.applied.failures.len(), 1);
    assert_eq!(fs::read_to_string(target.join("name/precious")).unwrap(), "precious");
    let report =
        lab.restore_with(&snapshot, &RestoreOptions { delete: true, ..RestoreOptions::new(&target) });
    assert!(report.applied.failures.is_empty(), "{:?}", report.applied.failures);
    assert_eq!(fs::read_to_string(target.join("name")).unwrap(), "a file");
}

#[test]
fn a_dry_run_tells_and_writes_nothing() {
    let mut lab = Lab::new();
    lab.write("file", "content");
    let snapshot = lab.backup().snapshot.unwrap();
    let target = lab.path("restored");
    let report =
        lab.restore_with(&snapshot, &RestoreOptions { dry_run: true, ..RestoreOptions::new(&target) });
    assert_eq!(report.changes.len(), 2);
    assert!(!target.exists());
}

#[test]
fn what_is_excluded_is_not_deleted() {
    let mut lab = Lab::new();
    lab.write("a/file", "file");
    let snapshot = lab.backup().snapshot.unwrap();
    let target = lab.restore(&snapshot, "restored");
    for path in ["a/keep.cache", "a/extra", "more/deep/keep.cache", "more/extra", "gone/extra"] {
        fs::create_dir_all(target.join(path).parent().unwrap()).unwrap();
        fs::write(target.join(path), "").unwrap();
    }
    let options = |include: &[&str], exclude: &[&str]| RestoreOptions {
        include: include.iter().map(|&pattern| pattern.into()).collect(),
        exclude: exclude.iter().map(|&pattern| pattern.into()).collect(),
        delete: true,
        ..RestoreOptions::new(&target)
    };
    lab.restore_with(&snapshot, &options(&["file", "gone"], &[]));
    assert!(!target.join("gone").exists() && target.join("a/extra").exists());
    let report = lab.restore_with(&snapshot, &options(&[], &["*.cache"]));
    assert!(report.applied.failures.is_empty(), "{:?}", report.applied.failures);
    assert!(target.join("a/keep.cache").exists() && target.join("more/deep/keep.cache").exists());
    assert!(!target.join("a/extra").exists() && !target.join("more/extra").exists());
}

#[test]
fn patterns_that_choose_nothing_are_told() {
    let mut lab = Lab::new();
    lab.write("file", "file");
    let snapshot = lab.backup().snapshot.unwrap();
    let target = lab.path("restored");
    let options = RestoreOptions { include: vec!["fiel".into()], ..RestoreOptions::new(&target) };
    let error = lab.repository.restore(&snapshot, &options, &Progress::new()).unwrap_err();
    assert!(matches!(error, RepositoryError::NothingChosen(_)), "{error}");
    assert!(!target.exists());
    // What is chosen may be in the target only.
    fs::create_dir(&target).unwrap();
    fs::write(target.join("fiel"), "").unwrap();
    lab.restore_with(&snapshot, &RestoreOptions { delete: true, ..options });
    assert!(!target.join("fiel").exists() && !target.join("file").exists());
}

#[test]
fn several_roots_are_restored_compared_and_verified() {
    let lab = Lab::new();
    for name in ["one/a", "two/b", "two/deep/c", "three/d"] {
        lab.write(name, name);
    }
    let source = lab.source();
    let sources = ["one", "two", "three"].map(|name| source.join(name)).to_vec();
    let options = BackupOptions { sources, ..lab.options() };
    let snapshot = lab.repository.backup(&options, &Progress::new()).unwrap().snapshot.unwrap();

    let target = lab.path("whole");
    let whole = RestoreOptions { verify: true, ..RestoreOptions::new(&target) };
    let report = lab.restore_with(&snapshot, &whole);
    assert_eq!((report.verified, report.mismatches), (Some(4), vec![]));
    let below = target.join(source.strip_prefix("/").unwrap());
    fs::write(below.join("two/extra"), "").unwrap();
    fs::write(below.join("beside"), "").unwrap();
    let report = lab.restore_with(&snapshot, &RestoreOptions { delete: true, ..whole });
    assert_eq!((report.applied.files, report.applied.deleted), (0, 1));
    assert!(below.join("beside").exists());

    // A path above several roots is no entry itself.
    let above = source.as_os_str().as_encoded_bytes().to_vec();
    let report = lab.restore_with(
        &snapshot,
        &RestoreOptions { path: Some(above), ..RestoreOptions::new(lab.path("above")) },
    );
    assert!(report.applied.failures.is_empty(), "{:?}", report.applied.failures);
    for name in ["one/a", "two/b", "two/deep/c", "three/d"] {
        assert_eq!(fs::read_to_string(lab.path("above").join(name)).unwrap(), name);
    }

    fs::write(source.join("two/b"), "another").unwrap();
    let compare = |directory: &Path| {
        let options = CompareOptions::default();
        let compared = lab.repository.compare_directory(&snapshot, directory, &options, &Progress::new());
        compared.map(|compared| {
            compared.changes.iter().map(|change| change.path().to_string()).collect::<Vec<_>>()
        })
    };
    assert_eq!(compare(&source.join("two")).unwrap(), ["b"]);
    let error = compare(&source).unwrap_err().to_string();
    assert!(error.contains("none of the directories"), "{error}");
}

#[test]
fn a_path_beside_the_root_is_not_taken_for_one_below_it() {
    let mut lab = Lab::new();
    lab.write("file", "inside");
    let snapshot = lab.backup().snapshot.unwrap();
    let beside = lab.path("file");
    assert!(lab::entries(&lab.repository, &snapshot, Some(beside.as_os_str().as_encoded_bytes())).is_err());
}

#[test]
fn a_directory_that_has_not_changed_is_compared_without_reading_it() {
    let mut lab = Lab::new();
    lab.write("a/large", noise(1 << 20, 3));
    lab.write("b", "b");
    lab.write("c", "c");
    let snapshot = lab.backup().snapshot.unwrap();
    let compare = |options: &CompareOptions| {
        lab.open().compare_directory(&snapshot, &lab.source(), options, &Progress::new()).unwrap()
    };
    let compared = compare(&CompareOptions::default());
    assert_eq!((compared.files_read, compared.changes), (0, vec![]));
    // Of equal length and time, so that only the time of the inode tells.
    let time = fs::metadata(lab.source().join("b")).unwrap().modified().unwrap();
    lab.write("b", "B");
    fs::File::open(lab.source().join("b")).unwrap().set_modified(time).unwrap();
    let compared = compare(&CompareOptions::default());
    let paths: Vec<_> = compared.changes.iter().map(|change| change.path().to_string()).collect();
    assert_eq!((compared.files_read, paths), (1, vec!["b".to_owned()]));
    let forced = compare(&CompareOptions { force: true, ..CompareOptions::default() });
    assert_eq!((forced.files_read, forced.changes), (3, compared.changes));
}

#[test]
fn what_failed_is_not_among_the_changes() {
    let mut lab = Lab::new();
    lab.write("name", "a file");
    lab.write("other", "other");
    let snapshot = lab.backup().snapshot.unwrap();
    let target = lab.path("restored");
    fs::create_dir_all(target.join("name")).unwrap();
    fs::write(target.join("name/precious"), "precious").unwrap();
    let report = lab.restore_with(&snapshot, &RestoreOptions::new(&target));
    let done: Vec<_> = report.changes.iter().map(|change| change.path().to_string()).collect();
    assert_eq!((done, report.applied.failures.len()), (vec!["other".to_owned()], 1));
}
