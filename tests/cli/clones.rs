//! Copies of a repository, however they were made, that forget, prune and exchange snapshots.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use crate::lab::{Lab, Outcome, PROGRAM};

/// How a copy is made, by a line in the shell where `$HUB` is the remote and `$CLONE` the copy.
const WAYS: [(&str, &str); 6] = [
    ("git clone --bare", "git clone -q --bare \"file://$HUB\" \"$CLONE\""),
    ("git clone --mirror", "git clone -q --mirror \"file://$HUB\" \"$CLONE\""),
    ("git clone --depth 1", "git clone -q --bare --depth 1 \"file://$HUB\" \"$CLONE\""),
    (
        "git clone --bare, packed",
        "git clone -q --bare \"$HUB\" \"$CLONE\" && git -C \"$CLONE\" pack-refs --all",
    ),
    ("treering clone", "\"$TREERING\" clone -q \"$HUB\" \"$CLONE\""),
    ("cp -a", "\"$TREERING\" clone -q \"$HUB\" before && cp -a before \"$CLONE\" && rm -r before"),
];

/// Runs a line in the shell, in the directory of the lab.
#[track_caller]
fn shell(lab: &Lab, line: &str) {
    let mut shell = Command::new("sh");
    lab.set_up(shell.args(["-euc", line]));
    shell.env("TREERING", PROGRAM).env("HUB", lab.path("hub")).env("CLONE", lab.path("clone"));
    let output = shell.output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The days of the snapshots in a repository, as they were given to `backup --time`.
fn days(lab: &Lab, repository: &str) -> BTreeSet<String> {
    let listed = lab.ok(["-r", repository, "snapshots", "--json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let day = |snapshot: &Value| snapshot["time"].as_str().unwrap()[..10].to_owned();
    listed["snapshots"].as_array().unwrap().iter().map(day).collect()
}

fn backup(lab: &Lab, repository: &str, day: u32) {
    lab.write("tree/notes", &format!("day {day} in {repository}\n"));
    lab.ok(["-r", repository, "backup", "-q", "tree", "--time", &format!("2026-11-{day:02}")]);
}

/// Forgets the snapshot of that day.
fn forget(lab: &Lab, repository: &str, day: u32, prune: &str) {
    let listed: Value = serde_json::from_str(&lab.ok(["-r", repository, "snapshots", "--json"])).unwrap();
    let is_meant =
        |snapshot: &&Value| snapshot["time"].as_str().unwrap().starts_with(&format!("2026-11-{day:02}"));
    let id = listed["snapshots"].as_array().unwrap().iter().find(is_meant).unwrap()["id"].as_str().unwrap();
    let line = format!("-r {repository} forget {id} -q {prune}");
    lab.ok(line.split_whitespace());
}

/// Nothing that was forgotten comes back, and nothing else is lost, whoever forgot it, with or without pruning, and
/// whether the copy pulls before it pushes.
#[test]
fn what_was_forgotten_stays_so_whatever_made_the_copy() {
    let lab = Lab::bare();
    lab.ok(["-r", "first", "init", "-q"]);
    (1..=4).for_each(|day| backup(&lab, "first", day));
    shell(&lab, "git init -q --bare first-hub");
    lab.ok(["-r", "first", "remote", "add", "origin", "first-hub"]);
    lab.ok(["-r", "first", "push", "-q"]);
    let expected = ["2026-11-03", "2026-11-04", "2026-11-05", "2026-11-06"];
    let expected: BTreeSet<String> = expected.map(str::to_owned).into();
    for (at, (way, made)) in WAYS.into_iter().enumerate() {
        for (turn, (here, there)) in [("", ""), ("--prune", ""), ("", "--prune")].into_iter().enumerate() {
            let case = format!("{way}, forget {here} here and {there} there, turn {}", (at + turn) % 2);
            shell(&lab, "cp -a first-hub hub; cp -a first source");
            shell(&lab, "git -C source config remote.origin.url \"$HUB\"");
            shell(&lab, made);
            forget(&lab, "clone", 1, here);
            backup(&lab, "clone", 5);
            forget(&lab, "source", 2, there);
            backup(&lab, "source", 6);
            lab.ok(["-r", "source", "push", "-q"]);
            if (at + turn) % 2 == 0 {
                lab.ok(["-r", "clone", "pull", "-q", "--removals"]);
                assert_eq!(days(&lab, "clone"), expected, "{case}: after a pull");
            }
            lab.ok(["-r", "clone", "push", "-q", "--removals"]);
            lab.ok(["-r", "source", "pull", "-q", "--removals"]);
            for repository in ["clone", "hub", "source"] {
                assert_eq!(days(&lab, repository), expected, "{case}: in {repository}");
                lab.ok(["-r", repository, "check", "-q", "--read-data"]);
            }
            shell(&lab, "rm -rf hub source clone");
        }
    }
}

/// A remote that is put back to an old state takes nothing away and brings nothing back, also if the old state is of
/// before pruning.
#[test]
fn a_remote_that_was_set_back_changes_nothing_in_its_clones() {
    for prune in ["", "--prune"] {
        let lab = Lab::new();
        (1..=3).for_each(|day| backup(&lab, "repo", day));
        shell(&lab, "git init -q --bare hub");
        lab.ok(["remote", "add", "origin", "hub"]);
        lab.ok(["push", "-q"]);
        shell(&lab, "cp -a hub old; \"$TREERING\" clone -q hub other");
        forget(&lab, "repo", 1, prune);
        backup(&lab, "repo", 4);
        lab.ok(["push", "-q"]);
        shell(&lab, "rm -rf hub; mv old hub");
        // Somebody who had seen nothing else goes on from there.
        forget(&lab, "other", 2, "");
        backup(&lab, "other", 5);
        lab.ok(["-r", "other", "push", "-q"]);
        lab.ok(["pull", "-q", "--removals"]);
        let expected = ["2026-11-03", "2026-11-04", "2026-11-05"].map(str::to_owned).into();
        assert_eq!(days(&lab, "repo"), expected, "{prune}");
        lab.ok(["push", "-q"]);
        lab.ok(["-r", "other", "pull", "-q", "--removals"]);
        assert_eq!(days(&lab, "other"), expected, "{prune}");
        lab.ok(["check", "-q", "--read-data"]);
    }
}

/// In a mirror git would take the branch of the remote for the own one at every fetch.
#[test]
fn a_mirror_loses_nothing_that_is_only_in_it() {
    let lab = Lab::new();
    backup(&lab, "repo", 1);
    shell(&lab, "git init -q --bare hub");
    lab.ok(["remote", "add", "origin", "hub"]);
    lab.ok(["push", "-q"]);
    shell(&lab, "git clone -q --mirror \"$HUB\" \"$CLONE\"");
    backup(&lab, "clone", 2);
    backup(&lab, "repo", 3);
    lab.ok(["push", "-q"]);
    for (line, expected) in [("pull", 3), ("push", 3)] {
        lab.ok(["-r", "clone", line, "-q"]);
        assert_eq!(days(&lab, "clone").len(), expected, "after a {line}");
    }
    assert_eq!(days(&lab, "hub").len(), 3);
}

/// Pushes a snapshot of `theirs` to the hub whose volumes hold nothing of what their indexes claim.
const FORGE: &str = "
    old=$(git -C hub rev-parse main)
    \"$TREERING\" clone -q hub liar
    \"$TREERING\" -r liar backup -q theirs
    cd liar
    export GIT_INDEX_FILE=\"$PWD/../forged\"
    git read-tree HEAD
    for volume in $(git diff-tree -r --name-only $old HEAD -- archives/ | grep '[.]tar'); do
        garbage=$(head -c $(git cat-file -s HEAD:$volume) /dev/urandom | git hash-object -w --stdin)
        git update-index --cacheinfo 100644,$garbage,$volume
    done
    commit=$(git -c user.name=x -c user.email=x@x commit-tree -p HEAD -m x $(git write-tree))
    test $(git rev-parse $commit^{tree}) != $(git rev-parse HEAD^{tree})
    git push -q ../hub $commit:refs/heads/main";

/// A copy that git made takes what it has for its own, and not what a remote claims later.
#[test]
fn a_copy_relies_on_no_claim_of_its_first_pull_or_push() {
    for line in ["pull", "push"] {
        let lab = Lab::new();
        backup(&lab, "repo", 1);
        shell(&lab, "git init -q --bare hub");
        lab.ok(["remote", "add", "origin", "hub"]);
        lab.ok(["push", "-q"]);
        shell(&lab, "git clone -q --bare \"$HUB\" \"$CLONE\"");
        let guessed: String =
            (0..50_000).map(|number: u32| format!("{:x}\n", number.wrapping_mul(2_654_435_761))).collect();
        lab.write("theirs/guessed", &guessed);
        shell(&lab, FORGE);
        lab.ok(["-r", "clone", line, "-q"]);
        assert_eq!(days(&lab, "clone").len(), 2, "{line}: the claim is there");
        lab.write("own/file", &guessed);
        let Outcome { status, err, .. } = lab.run(["-r", "clone", "backup", "-q", "own"]);
        assert_eq!(status, Some(3), "{line}: {err}");
        assert!(err.contains("what files here have of it was stored again"), "{line}: {err}");
        lab.ok(["-r", "clone", "restore", "-q", "latest", "--path", "own", "--target", "restored"]);
        assert_eq!(std::fs::read_to_string(lab.path("restored/file")).unwrap(), guessed, "{line}");
    }
}

/// A copy of a shallow copy is one like any other, with the program git or without.
#[test]
fn a_shallow_clone_is_cloned_and_pulled_from() {
    let lab = Lab::new();
    (1..=2).for_each(|day| backup(&lab, "repo", day));
    shell(&lab, "git init -q --bare hub");
    lab.ok(["remote", "add", "origin", "hub"]);
    lab.ok(["push", "-q"]);
    for path in [std::env::var_os("PATH").unwrap(), lab.path("nowhere").into()] {
        let ok = |line: &str| {
            let output = lab.command(line.split(' ')).env("PATH", &path).output().unwrap();
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        };
        shell(&lab, "git clone -q --bare --depth 1 \"file://$HUB\" \"$CLONE\"");
        ok("clone clone second -q");
        assert_eq!(days(&lab, "second").len(), 2);
        backup(&lab, "clone", 3);
        ok("-r second pull -q");
        assert_eq!(days(&lab, "second").len(), 3);
        // Where more of the history is already.
        ok("clone hub third -q");
        ok("-r third remote add shallow clone");
        ok("-r third pull shallow -q");
        assert_eq!(days(&lab, "third").len(), 3);
        for repository in ["second", "third"] {
            lab.ok(["-r", repository, "check", "-q", "--read-data"]);
            shell(&lab, &format!("git -C {repository} fsck --strict --full 2>/dev/null"));
            lab.ok(["-r", repository, "prune", "-q"]);
        }
        shell(&lab, "rm -rf clone second third");
    }
}
