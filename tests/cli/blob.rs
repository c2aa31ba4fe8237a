//! Files by their time: `treering blob`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::lab::{Lab, contents};
use crate::python;

/// With a repository for blobs.
fn lab() -> Lab {
    let lab = Lab::bare();
    assert_eq!(lab.ok(["blob", "init"]), "Made the repository repo\n");
    lab
}

#[track_caller]
fn add(lab: &Lab, line: &str) -> Vec<String> {
    let out = lab.ok(["blob", "add"].into_iter().chain(line.split(' ')));
    out.lines().map(str::to_owned).collect()
}

fn git(arguments: &[&str], repository: &Path) {
    let mut command = Command::new("git");
    assert!(command.args(arguments).arg(repository).status().expect("git runs").success(), "{arguments:?}");
}

#[test]
fn what_is_added_is_found_by_key_and_by_time() {
    let lab = lab();
    let letters = add(&lab, "tree/letters/one tree/letters/two --time 2026-11-01T10:00Z");
    let notes = add(&lab, "tree/notes --time @-1.5 --compression xz");
    assert_eq!((letters.len(), notes.len()), (2, 1));
    assert!(letters[0].starts_with("20261101T100000.000000000Z-"), "{letters:?}");

    assert_eq!(lab.ok(["blob", "get", &letters[1]]), "second letter\n");
    assert_eq!(lab.ok(["blob", "get", &notes[0]]), "notes\n", "its name tells its compression");
    let listed = lab.ok(["blob", "list", "--from", "2026-10-31"]);
    let time = "2026-11-01 10:00:00.000000000";
    assert_eq!(listed, format!("{time}  {}\n{time}  {}\n", letters[0], letters[1]));
    let descending = lab.ok(["blob", "list", "--from", "@1800000000", "--to", "1969-01-01"]);
    let keys: Vec<_> = descending.lines().map(|line| line.rsplit(' ').next().unwrap()).collect();
    assert_eq!(keys, [&letters[1], &letters[0], &notes[0]]);
    assert!(descending.ends_with(&format!("1969-12-31 23:59:58.500000000  {}\n", notes[0])));
}

#[test]
fn standard_input_is_a_blob() {
    let lab = lab();
    let mut child =
        lab.command(["blob", "add"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"21 \xff degrees").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let key = String::from_utf8(output.stdout).unwrap();
    let blob = lab.command(["blob", "get", key.trim()]).output().unwrap();
    assert_eq!(blob.stdout, b"21 \xff degrees");
}

#[test]
fn a_range_goes_to_a_directory() {
    let lab = lab();
    let keys = add(&lab, "tree/letters/one tree/letters/two --time 2026-11-01 --compression gzip");
    add(&lab, "tree/notes --time 2026-11-02");
    let out = lab.ok(["blob", "get", "--to", "2026-11-01", "--output", "out/november"]);
    assert_eq!(out, "Wrote 2 blobs, 27 B, to out/november\n");
    let expected = [
        (keys[0].clone().into(), "first letter\n".to_owned()),
        (keys[1].clone().into(), "second letter\n".to_owned()),
    ];
    assert_eq!(contents(&lab.path("out/november")), expected);
    assert_eq!(lab.ok(["blob", "get", "-o", "out/november", "-q"]), "");
    assert_eq!(contents(&lab.path("out/november")).len(), 3);
}

#[test]
fn a_key_keeps_blobs_secret_and_the_rest_stays_readable() {
    let lab = lab();
    assert_eq!(lab.ok(["blob", "key", "secret"]), "Made the key secret\n");
    assert_eq!(fs::metadata(lab.path("secret")).unwrap().permissions().mode() & 0o777, 0o600);
    lab.ok(["blob", "key", "other", "-q"]);
    let open = add(&lab, "tree/letters/one --time 2026-11-01");
    let secret = add(&lab, "tree/notes --time 2026-11-02 --key-file secret --compression bz2");
    assert_eq!(lab.ok(["blob", "get", &secret[0], "--key-file", "secret"]), "notes\n");

    let outcome = lab.run(["blob", "get", &secret[0]]);
    assert_eq!((outcome.status, outcome.out.as_str()), (Some(1), ""));
    assert!(outcome.err.contains(&secret[0]) && outcome.err.contains("give its key"), "{}", outcome.err);
    let outcome = lab.run(["blob", "get", "--output", "out", "--key-file", "other"]);
    assert_eq!(outcome.status, Some(3), "{outcome:?}");
    assert!(outcome.err.contains(&secret[0]) && outcome.err.contains("the key is wrong"), "{}", outcome.err);
    assert_eq!(contents(&lab.path("out")), [(open[0].clone().into(), "first letter\n".to_owned())]);
}

#[test]
fn remotes_get_and_give_what_either_side_added() {
    let lab = lab();
    let other = |command: &str| lab.ok(format!("-r other blob {command}").split(' '));
    other("init");
    git(&["init", "-q", "--bare", "-b", "main"], &lab.path("remote.git"));
    let outcome = lab.run(["blob", "push"]);
    assert_eq!(outcome.status, Some(1));
    assert!(outcome.err.contains("treering -r repo remote add origin URL"), "{}", outcome.err);
    for name in ["repo", "other"] {
        let git_dir = lab.path(name);
        let added = ["--git-dir", git_dir.to_str().unwrap(), "remote", "add", "origin"];
        git(&added, &lab.path("remote.git"));
    }
    let mine = add(&lab, "tree/notes --time 2026-11-01");
    assert_eq!(lab.ok(["blob", "push"]), "Pushed to origin\n");
    let theirs = other("add tree/letters/one --time 2026-11-02");
    assert_eq!(other("push origin"), "Pushed to origin\n");
    assert_eq!(lab.ok(["blob", "pull"]), "Pulled from origin\n");
    assert_eq!(lab.ok(["blob", "pull"]), "origin has nothing new\n");
    let listed = lab.ok(["blob", "list"]);
    assert_eq!(listed, other("list"));
    assert!(listed.contains(&mine[0]) && listed.contains(theirs.trim()), "{listed}");
}

#[test]
fn json_lines_tell_keys_and_times() {
    let lab = lab();
    let lines = |line: &str| -> Vec<Value> {
        let out = lab.ok(line.split(' '));
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let added = lines("blob add tree/notes --time 2026-11-01 --compression gzip --json");
    assert_eq!((&added[0]["path"], &added[0]["size"]), (&"tree/notes".into(), &6.into()));
    let listed = lines("--json blob list");
    for field in ["key", "time"] {
        assert_eq!(listed[0][field], added[0][field]);
    }
    let key = listed[0]["key"].as_str().unwrap();
    assert_eq!(listed[0]["name"], format!("{key}.gz"));
    assert_eq!(lines("blob get --output out --json")[0]["blobs_count"], 1);
}

#[test]
fn bad_input_is_refused_in_one_line_that_says_what_to_do() {
    let lab = lab();
    lab.write("short", "c2hvcnQ=\n");
    let cases = [
        ("add nowhere", 1, "cannot read nowhere: No such file"),
        ("add tree", 1, "cannot read tree: Is a directory"),
        ("add tree/notes nowhere", 1, "cannot read nowhere"),
        ("add tree/notes --time soon", 1, "--time cannot be used: \"soon\" is not a time that is understood"),
        ("add tree/notes --key-file short", 1, "32 bytes in url-safe base64"),
        ("add tree/notes --key-file nowhere", 1, "cannot read nowhere"),
        ("list --from soon", 1, "--from cannot be used"),
        ("get --to soon --output out", 1, "--to cannot be used"),
        ("get", 1, "needs the KEY of a blob, or --output DIR"),
        ("get ../config", 1, "there is no blob ../config: `treering blob list` names"),
        ("get 20261120T195512.123456789Z-5f0c11ab92de7340", 1, "there is no blob 2026"),
        ("key short", 1, "cannot make the key short: File exists"),
        ("list -r tree", 10, "is not a git repository"),
        ("init", 1, "choose another path"),
    ];
    for (line, status, message) in cases {
        let outcome = lab.run(["blob"].into_iter().chain(line.split(' ')));
        assert_eq!((outcome.status, outcome.out.as_str()), (Some(status), ""), "{line}: {outcome:?}");
        assert!(outcome.err.contains(message), "{line}: {}", outcome.err);
        assert_eq!(outcome.err.lines().count(), 1, "{line}: {}", outcome.err);
    }
    assert_eq!(lab.ok(["blob", "list"]), "", "all were to be added or none");
    let outcome = lab.run(["blob", "add", "tree/notes", "--compression", "zip"]);
    assert!(outcome.err.contains("there are none, gzip, bz2 and xz"), "{}", outcome.err);
}

#[test]
fn an_ordinary_clone_will_do() {
    let lab = lab();
    add(&lab, "tree/notes --time 2026-11-01");
    git(&["clone", "-q", lab.path("repo").to_str().unwrap()], &lab.path("clone"));
    let clone = |line: &str| lab.run(["-r", "clone", "blob"].into_iter().chain(line.split(' ')));
    let added = clone("add tree/letters/one --time 2026-11-02");
    assert_eq!((added.status, added.err.as_str()), (Some(0), ""));
    let key = added.out.trim();
    let file = walkdir::WalkDir::new(lab.path("clone/blobs"))
        .into_iter()
        .map(Result::unwrap)
        .find(|file| file.file_name().to_string_lossy().starts_with(key))
        .expect("the file is there too");
    assert_eq!(fs::read_to_string(file.path()).unwrap(), "first letter\n");
    assert_eq!(clone("list").out.lines().count(), 2);
    assert!(clone("push nowhere").err.contains("`git -C clone remote add nowhere URL`"));
    assert_eq!(clone("push").out, "Pushed to origin\n");
    assert_eq!(lab.ok(["blob", "get", key]), "first letter\n");

    let head = lab.path("clone/.git/HEAD");
    fs::write(&head, "ref: refs/heads/nothing\n").unwrap();
    for line in ["list", "add tree/notes", "get --output out"] {
        let outcome = clone(line);
        assert_eq!((outcome.status, outcome.out.as_str()), (Some(1), ""), "{line}: {outcome:?}");
        assert!(
            outcome.err.contains("names the branch \"nothing\", which does not exist; there are: main"),
            "{}",
            outcome.err
        );
    }
    let out = lab.run(["-r", "clone", "snapshots"]);
    assert!(
        out.err.contains("has a working tree; give a bare one, such as `git clone --bare` makes"),
        "{}",
        out.err
    );
}

#[test]
fn a_repository_of_snapshots_is_only_read() {
    for options in [
        &["init"][..],
        &["init", "--append-only"],
        &["init", "--encrypt", "--recipient", crate::encryption::RECIPIENT],
    ] {
        let lab = Lab::bare();
        lab.ok(options);
        lab.ok(["backup", "tree", "-q"]);
        git(&["clone", "-q", lab.path("repo").to_str().unwrap()], &lab.path("clone"));
        let snapshot = lab.ok(["kv", "list", "repo", "snapshots/"]);
        let snapshot = snapshot.trim();
        for line in [
            "-r clone blob add tree/notes".to_owned(),
            "-r repo blob add tree/notes".to_owned(),
            "kv put clone notes tree/notes".to_owned(),
            "kv put clone/.git notes tree/notes".to_owned(),
            format!("kv rm repo {snapshot}"),
            format!("kv rm file://{}/repo {snapshot}", lab.path("").display()),
            format!("kv put file://{}/repo config.cbor tree/notes", lab.path("").display()),
            format!("kv put repo {snapshot} tree/notes"),
        ] {
            let outcome = lab.run(line.split(' '));
            assert_eq!(outcome.status, Some(1), "{line}");
            assert!(outcome.err.contains("which `blob` and `kv` only read"), "{}", outcome.err);
            let given = line.split(' ').nth(if line.starts_with("kv") { 2 } else { 1 }).unwrap();
            assert!(outcome.err.starts_with(&format!("treering: {given} ")), "{}", outcome.err);
        }
        assert_eq!(lab.ok(["kv", "list", "repo", "snapshots/"]).trim(), snapshot);
    }
}

/// Adds a blob, pushes it, and prints all that are there.
const GITBLOBTS: &str = "
import math, sys, git, gitblobts
clone, key = sys.argv[1:]
git.Repo.clone_from(clone + '.git', clone)
store = gitblobts.Store(clone, compression='bz2', key=open(key, 'rb').read().strip())
print(' '.join(f'{blob.timestamp}={blob.blob.decode().strip()}' for blob in store.getblobs(-math.inf, math.inf)))
store.addblob(b'from python', 1800000000.5)
";

#[test]
fn gitblobts_reads_what_was_added_and_is_read() {
    let lab = lab();
    lab.ok(["blob", "key", "secret"]);
    // A repository is one of gitblobts from its first blob on, which has the name that gitblobts gives.
    let first = "
import sys, git, gitblobts
clone, key = sys.argv[1:]
git.Repo.clone_from(clone + '.git', clone + '.first')
gitblobts.Store(clone + '.first', compression='bz2', key=open(key, 'rb').read().strip()).addblob(b'first', 1.0)
";
    lab.ok(["-r", "blobs.git", "blob", "init"]);
    let (clone, key) = (lab.path("blobs"), lab.path("secret"));
    let arguments = [clone.as_os_str(), key.as_os_str()];
    if python::run("gitblobts", first, &arguments).is_none() {
        return;
    }
    let run = |command: &str, line: &str| {
        let flags = format!("blob {command} -r blobs.git --compression bz2 --key-file secret {line}");
        lab.ok(flags.split(' '))
    };
    run("add", "tree/notes --time @2.5");
    let seen = python::run("gitblobts", GITBLOBTS, &arguments).unwrap();
    assert_eq!(seen, "1.0=first 2.5=notes\n");
    run("get", "--output out --from @1.5");
    let mut found: Vec<_> = contents(&lab.path("out")).into_iter().map(|(_, content)| content).collect();
    found.sort();
    assert_eq!(found, ["from python", "notes\n"]);
    let listed = lab.ok(["-r", "blobs.git", "blob", "list", "--from", "@1800000000"]);
    let key = listed.trim().rsplit(' ').next().unwrap();
    assert!(listed.starts_with("2027-01-15 08:00:00.500000000  "), "{listed}");
    assert_eq!(run("get", &format!("-- {key}")), "from python");
}
