//! The building blocks: `treering dir`.

use std::fs;
use std::process::Command;

use crate::deep;
use crate::lab::{Lab, contents};

#[test]
fn a_copy_follows_by_index_difference_and_archive() {
    let lab = Lab::bare();
    let out = lab.ok(["dir", "index", "tree", "-o", "tree.index"]);
    assert_eq!(out, "Wrote tree.index: 5 names, 33 B\n");
    assert!(
        Command::new("cp").args(["-a", "tree", "copy"]).current_dir(lab.path("")).status().unwrap().success()
    );

    lab.write("tree/notes", "other notes\n");
    fs::remove_file(lab.path("tree/letters/two")).unwrap();
    let diff = ["dir", "diff", "tree.index", "tree", "-o", "tree.diff", "--data", "tree.tar.gz", "-v"];
    let out = lab.ok(diff);
    assert!(out.starts_with("U  letters/\n-  letters/two\nM  notes\n"), "{out}");
    assert!(
        out.ends_with("Wrote tree.diff and tree.tar.gz: 1 updated, 1 with other metadata, 1 deleted\n"),
        "{out}"
    );

    let out = lab.ok(["dir", "apply", "copy", "tree.diff", "tree.tar.gz"]);
    assert_eq!(out, "Patched copy: 1 file written, 12 B; 1 name deleted\n");
    assert_eq!(contents(&lab.path("copy")), contents(&lab.path("tree")));
}

#[test]
fn each_step_sums_up_in_json() {
    let lab = Lab::bare();
    let summary = |arguments: &str| {
        let out = lab.ok(arguments.split(' '));
        let value: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!((&value["message_type"], &value["error_count"]), (&"summary".into(), &0.into()));
        value
    };
    assert_eq!(summary("--json dir index tree -o tree.index")["total_entries_processed"], 5);
    fs::create_dir(lab.path("copy")).unwrap();
    summary("--json dir index copy -o copy.index");
    let diff = summary("--json dir diff copy.index tree -o diff --data data.tar.gz");
    assert_eq!(diff["statistics"]["created"], 4);
    assert_eq!(summary("--json dir apply copy diff data.tar.gz")["files_restored"], 3);
}

#[test]
fn what_is_no_index_is_refused_by_name() {
    let lab = Lab::bare();
    let outcome = lab.run(["dir", "diff", "tree/notes", "tree", "-o", "d", "--data", "a"]);
    assert_eq!(outcome.status, Some(1));
    assert!(outcome.err.starts_with("treering: cannot use tree/notes: "), "{}", outcome.err);
    // One of the two files of this program in the place of the other.
    lab.ok(["dir", "index", "tree", "-o", "index"]);
    lab.ok(["dir", "diff", "index", "tree", "-o", "diff", "--data", "data"]);
    for line in ["dir apply tree index data", "dir diff diff tree -o d --data a"] {
        let outcome = lab.run(line.split(' '));
        assert_eq!(outcome.status, Some(1));
        assert!(outcome.err.contains("give the file that treering wrote as such"), "{}", outcome.err);
    }
    // A copy that is not there is no empty one.
    let outcome = lab.run(["dir", "apply", "copyy", "diff", "data"]);
    assert_eq!(outcome.status, Some(1));
    assert!(outcome.err.starts_with("treering: cannot read copyy: No such file"), "{}", outcome.err);
    assert!(!lab.path("copyy").exists());
    let outcome = lab.run(["dir", "index", "nowhere", "-o", "i"]);
    assert_eq!(outcome.status, Some(1));
    assert!(outcome.err.starts_with("treering: cannot read nowhere: "), "{}", outcome.err);
}

#[test]
fn a_patch_without_its_archive_names_the_files_and_is_partial() {
    let lab = Lab::bare();
    fs::create_dir(lab.path("copy")).unwrap();
    lab.ok(["dir", "index", "copy", "-o", "copy.index"]);
    lab.ok(["dir", "diff", "copy.index", "tree", "-o", "diff", "--data", "data.tar.gz"]);
    lab.ok(["dir", "diff", "copy.index", "copy", "-o", "none", "--data", "empty.tar.gz"]);
    let outcome = lab.run(["dir", "apply", "copy", "diff", "empty.tar.gz"]);
    assert_eq!(outcome.status, Some(3), "{outcome:?}");
    assert!(outcome.err.contains("treering: cannot restore notes: "), "{}", outcome.err);
}

#[test]
fn zeros_behind_the_archive_are_padding_and_anything_else_is_damage() {
    let lab = Lab::bare();
    fs::create_dir(lab.path("empty")).unwrap();
    lab.ok(["dir", "index", "empty", "-o", "none"]);
    lab.ok(["dir", "diff", "none", "tree", "-o", "changes", "--data", "data.tar.gz"]);
    let archive = fs::read(lab.path("data.tar.gz")).unwrap();
    let apply = |target: &str, padding: &[u8]| {
        fs::write(lab.path("padded.tar.gz"), [&archive[..], padding].concat()).unwrap();
        fs::create_dir(lab.path(target)).unwrap();
        lab.run(["dir", "apply", target, "changes", "padded.tar.gz"])
    };
    assert_eq!(apply("one", &[0; 70_000]).status, Some(0));
    assert_eq!(contents(&lab.path("one")), contents(&lab.path("tree")));
    for (target, padding) in [("two", &b"garbage"[..]), ("three", b"\0\0\0garbage"), ("four", &archive[..9])]
    {
        let outcome = apply(target, padding);
        assert_eq!(outcome.status, Some(1), "{}", outcome.out);
        assert_eq!(contents(&lab.path(target)), []);
    }
}

#[test]
fn every_command_reads_and_writes_below_what_one_path_reaches() {
    let lab = Lab::new();
    let place = lab.path("tree").canonicalize().unwrap();
    lab.write("tree/.skip", "*.o\n");
    let deep = deep::make(&place);
    deep.write("left out.o", "");
    deep.write("file", &"old content\n".repeat(20_000));
    let file = std::str::from_utf8(deep.file.as_bytes()).unwrap();
    let scan = ["--ignore-file", ".skip"];
    let ok = |line: &str, more: &[&str]| lab.ok(line.split(' ').chain(more.iter().copied()));

    ok("backup tree", &scan);
    assert!(ok("ls", &["latest"]).contains(&format!("{file}\n")));
    assert_eq!(ok("cat", &[&format!("latest:{file}")]).len(), 240_000);
    for target in ["copy", "other"] {
        let out = ok("restore latest --verify --target", &[target]);
        assert!(out.contains("verified"), "{out}");
    }
    assert_eq!(ok("diff latest tree --force", &scan), ok("diff latest latest", &[]));
    ok("dir index tree -o index", &scan);

    // Changed in the middle, one new, one gone; all at the lowest place.
    deep.write("file", &[&"old content\n".repeat(10_000), "new\n", &"old content\n".repeat(10_000)].concat());
    deep.write("new", "new file\n");
    let out = ok("diff latest tree", &scan);
    assert!(out.contains(&format!("M  {file}\n")) && out.contains("1 created, 1 updated"), "{out}");
    let out = ok("dir diff index tree -o changes --data data.tar.gz -v", &scan);
    assert!(out.contains(&format!("M  {file}\n")), "{out}");
    assert!(fs::metadata(lab.path("data.tar.gz")).unwrap().len() < 4096, "the archive holds a delta");
    ok("dir apply copy changes data.tar.gz", &[]);
    ok("dir index copy -o patched", &[]);
    let out = ok("dir diff patched tree -o none --data none.tar.gz", &scan);
    assert!(out.ends_with(": no differences\n"), "{out}");

    // The second backup, brought to a copy of the first and then back.
    ok("backup tree", &scan);
    ok("restore latest --verify --delete --yes --target", &["other"]);
    assert_eq!(ok("diff latest other --force", &[]), ok("diff latest latest", &[]));
    let below = format!("latest~1:{}", file.strip_suffix("/file").unwrap());
    ok("restore --delete --yes --verify --target", &["part", &below]);
    assert_eq!(fs::metadata(lab.path("part/file")).unwrap().len(), 240_000);
    ok("restore latest~1 --in-place --delete --yes --verify", &["--exclude", "*.o"]);
    assert_eq!(ok("diff latest~1 tree", &scan), ok("diff latest latest", &[]));
}
