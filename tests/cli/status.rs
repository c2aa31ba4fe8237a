//! Exit statuses, and what is said of a failure.

use std::fs;

use crate::lab::Lab;

#[track_caller]
fn fails(lab: &Lab, line: &str, status: i32, message: &str) {
    let outcome = lab.run(line.split(' '));
    assert_eq!(outcome.status, Some(status), "{line}: {outcome:?}");
    assert_eq!(outcome.out, "", "{line}");
    assert!(
        outcome.err.starts_with("treering: ") && outcome.err.contains(message),
        "{line}: {}",
        outcome.err
    );
    assert_eq!(outcome.err.lines().count(), 1, "{line}: {}", outcome.err);
}

#[test]
fn a_failure_is_one_line_that_says_what_to_do() {
    let lab = Lab::new();
    fails(&lab, "init", 1, "repo is a treering repository already: use it with -r, or choose another path");
    fails(&lab, "blob init", 1, "repo is a git repository already: use it as it is, or choose another path");
    fails(&lab, "clone repo repo", 1, "`treering -r repo pull` brings what is new");
    for line in ["-r tree init", "-r tree blob init", "clone repo tree"] {
        fails(&lab, line, 1, "tree exists already");
    }
    fails(&lab, "backup nowhere", 1, "cannot back up nowhere: No such file");
    fails(&lab, "backup nowhere gone lost", 1, "cannot back up nowhere, nor gone, nor lost: No such file");
    fails(&lab, "backup", 1, "name at least one directory");
    fails(&lab, "backup tree --time soon", 1, "2 days ago");
    fails(&lab, "ls latest", 1, "no snapshot at all: `treering snapshots` lists what there is");
    lab.ok(["backup", "tree"]);
    fails(&lab, "ls latest~7", 1, "no snapshot latest~7");
    fails(&lab, "ls ffffff", 1, "no snapshot ffffff");
    fails(&lab, "ls soon", 1, "\"soon\" names no snapshot");
    fails(&lab, "diff latest soon", 1, "\"soon\" names no snapshot");
    fails(&lab, "cat latest", 1, "give SNAPSHOT:PATH");
    fails(&lab, "cat latest:nothing", 1, "nothing is not in snapshot");
    fails(&lab, "cat latest:letters", 1, "no regular file");
}

#[test]
fn what_is_no_repository_has_a_status_of_its_own() {
    let lab = Lab::bare();
    fails(&lab, "snapshots", 10, "make one with `treering init`");
    fails(&lab, "backup tree -r tree", 10, "make one with `treering init`");
}

/// No repository, or no store, is 10 for every command; what is not in one that is there is 1.
#[test]
fn what_is_not_there_has_one_status_in_every_command() {
    let lab = Lab::new();
    lab.ok(["-r", "blobs", "blob", "init", "-q"]);
    let store = format!("file://{}", lab.path("store").display());
    let nowhere = format!("file://{}", lab.path("nowhere").display());
    lab.ok(["store", "--url", &store, "create"]);
    for (line, status) in [
        ("-r nowhere snapshots", 10),
        ("-r nowhere backup tree", 10),
        ("-r nowhere check", 10),
        ("-r nowhere pull", 10),
        ("-r nowhere remote list", 10),
        ("-r nowhere layers list", 10),
        ("-r nowhere blob list", 10),
        ("-r nowhere blob get x", 10),
        ("-r tree blob list", 10),
        ("kv list nowhere", 10),
        ("kv get nowhere key", 10),
        ("kv put nowhere key tree/notes", 10),
        ("kv rm nowhere key", 10),
        ("kv log nowhere key", 10),
        ("kv list tree", 10),
        (&format!("kv list {nowhere}"), 10),
        (&format!("store --url {nowhere} list data"), 10),
        (&format!("store --url {nowhere} load data/x"), 10),
        (&format!("store --url {nowhere} info data/x"), 10),
        (&format!("store --url {nowhere} delete data/x"), 10),
        ("kv get repo key", 1),
        ("kv rm repo key", 1),
        ("-r blobs blob get x", 1),
        (&format!("store --url {store} load data/x"), 1),
        (&format!("store --url {store} info data/x"), 1),
        (&format!("store --url {store} delete data/x"), 1),
        ("pull nobody", 1),
        ("cat latest:x", 1),
    ] {
        let outcome = lab.run(line.split(' '));
        assert_eq!(outcome.status, Some(status), "{line}: {outcome:?}");
        assert!(outcome.err.starts_with("treering: ") && outcome.out.is_empty(), "{line}: {outcome:?}");
        assert!(!lab.path("nowhere").exists(), "{line}");
    }
}

#[test]
fn without_a_repository_the_ways_to_name_one_are_told() {
    let lab = Lab::bare();
    let output = lab.command(["snapshots"]).env_remove("TREERING_REPOSITORY").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(err, "treering: no repository given: use -r DIR, or set TREERING_REPOSITORY\n");
}

#[test]
fn a_wrong_command_line_is_a_failure() {
    let lab = Lab::bare();
    for line in ["", "bogus", "backup --push --no-push", "restore latest", "init --compression lzma"] {
        let outcome = lab.run(line.split(' ').filter(|word| !word.is_empty()));
        assert_eq!((outcome.status, outcome.out.as_str()), (Some(1), ""), "{line}");
        assert!(
            outcome.err.contains("Usage") || outcome.err.contains("zstd[:1..19]"),
            "{line}: {}",
            outcome.err
        );
    }
}

#[test]
fn what_cannot_be_read_is_named_and_the_rest_is_saved() {
    let lab = Lab::new();
    lab.write("tree/letters/.leave", "[z-a]\n");
    let outcome = lab.run(["backup", "tree", "--ignore-file", ".leave"]);
    assert_eq!(outcome.status, Some(3), "{outcome:?}");
    assert!(outcome.err.starts_with("treering: some patterns are ignored in "), "{}", outcome.err);
    assert!(outcome.err.contains("cannot use the pattern of line 1 in "), "{}", outcome.err);
    assert!(outcome.out.contains("errors   1; the rest is saved\n"), "{}", outcome.out);
    assert_eq!(lab.ok(["cat", "latest:letters/one"]), "first letter\n");
}

#[test]
fn damage_is_a_failure_of_check() {
    let lab = Lab::new();
    lab.ok(["backup", "tree"]);
    let packs = lab.path("repo/objects/pack");
    for pack in fs::read_dir(packs).unwrap().map(|entry| entry.unwrap().path()) {
        if pack.extension().is_some_and(|extension| extension == "pack") {
            let mut bytes = fs::read(&pack).unwrap();
            let end = bytes.len() - 30;
            bytes[end] ^= 1;
            fs::remove_file(&pack).unwrap();
            fs::write(&pack, bytes).unwrap();
        }
    }
    let outcome = lab.run(["check", "--read-data"]);
    assert_eq!(outcome.status, Some(1), "{outcome:?}");
    assert!(outcome.err.starts_with("treering: "), "{}", outcome.err);
}
