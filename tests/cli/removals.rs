//! What others remove from a remote stays here until it is asked for, and hurts nobody.

use std::fs;
use std::process::Command;

use crate::commits::commit;
use crate::lab::{Lab, contents};

/// What a `file:` URL or a path of a remote is called in these tests.
const KINDS: [&str; 2] = ["git", "cold"];

/// A file of this length that does not compress.
fn noise(seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = String::new();
    while text.len() < 200_000 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text += &format!("{state:016x}\n");
    }
    text
}

/// A repository with three snapshots, of which each has a file of its own, and its remote `hub`. Where that is.
fn three(lab: &Lab, kind: &str) -> String {
    let hub = lab.path("hub").to_str().unwrap().to_owned();
    let url = match kind {
        "git" => {
            let made = Command::new("git").args(["init", "-q", "--bare", &hub]).status().unwrap();
            assert!(made.success());
            hub
        }
        _ => format!("file://{hub}"),
    };
    for number in 1..=3 {
        lab.write("tree/own", &noise(number));
        lab.write("tree/same", &noise(10));
        lab.ok(["backup", "-q", "tree"]);
    }
    lab.ok(["remote", "add", "hub", &url]);
    lab.ok(["push", "-q", "hub"]);
    url
}

fn count(lab: &Lab, repository: &str) -> usize {
    let listed: serde_json::Value =
        serde_json::from_str(&lab.ok(["-r", repository, "snapshots", "--json"])).unwrap();
    listed["snapshots"].as_array().unwrap().len()
}

/// Another clone, in which everything is forgotten and pruned, and what that does to the remote.
fn empty_the_remote(lab: &Lab, url: &str) {
    let _ = fs::remove_dir_all(lab.path("other"));
    lab.ok(["clone", "-q", url, "other"]);
    let listed: serde_json::Value =
        serde_json::from_str(&lab.ok(["-r", "other", "snapshots", "--json"])).unwrap();
    let ids: Vec<String> = listed["snapshots"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["id"].as_str().unwrap().to_owned())
        .collect();
    let arguments =
        ["-r", "other", "forget", "-q", "--prune"].into_iter().chain(ids.iter().map(String::as_str));
    lab.ok(arguments);
    lab.ok(["-r", "other", "push", "-q"]);
    assert_eq!(count(lab, "other"), 0);
}

/// A repository with three snapshots, whose remote has lost them all. Where that is.
fn emptied(lab: &Lab, kind: &str) -> String {
    let url = three(lab, kind);
    empty_the_remote(lab, &url);
    url
}

/// A clone of the remote has this many snapshots, and each can be restored; the newest one is `tree`.
fn expect_whole(lab: &Lab, url: &str, snapshots: usize) {
    let _ = fs::remove_dir_all(lab.path("whole"));
    let _ = fs::remove_dir_all(lab.path("restored"));
    lab.ok(["clone", "-q", url, "whole"]);
    assert_eq!(count(lab, "whole"), snapshots, "{url}");
    lab.ok(["-r", "whole", "check", "-q", "--read-data"]);
    lab.ok(["-r", "whole", "restore", "-q", "latest", "--path", "tree", "--target", "restored"]);
    assert_eq!(contents(&lab.path("restored")), contents(&lab.path("tree")), "{url}");
}

#[test]
fn what_others_removed_stays_and_the_next_snapshots_are_whole_in_the_remote() {
    for kind in KINDS {
        let lab = Lab::new();
        let url = emptied(&lab, kind);
        // What only the first of the removed snapshots had is there again.
        lab.write("tree/own", &noise(1));
        let pushed = lab.run(["pull", "-q", "hub"]);
        assert_eq!(pushed.status, Some(0), "{kind}: {pushed:?}");
        assert!(pushed.err.contains("3 snapshots removed from hub by others"), "{kind}: {}", pushed.err);
        assert!(pushed.err.contains("treering pull hub --removals"), "{kind}: {}", pushed.err);
        assert_eq!(count(&lab, "repo"), 3, "{kind}");
        let told = lab.ok(["backup", "-q", "--push=hub", "tree"]);
        assert_eq!(told, "", "{kind}: it is said once");
        assert_eq!(count(&lab, "repo"), 4, "{kind}");
        expect_whole(&lab, &url, 1);
        lab.ok(["check", "-q", "--read-data"]);
        // Pruning frees nothing of what is kept, and takes nothing from the remote.
        lab.ok(["prune", "-q", "--max-unused", "0"]);
        lab.ok(["check", "-q", "--read-data"]);
        lab.write("tree/own", &noise(2));
        lab.ok(["backup", "-q", "--push=hub", "tree"]);
        expect_whole(&lab, &url, 2);
        assert_eq!(count(&lab, "repo"), 5, "{kind}");
        let pulled: serde_json::Value = serde_json::from_str(&lab.ok(["pull", "hub", "--json"])).unwrap();
        assert_eq!(pulled["snapshots_kept_here"], 3, "{kind}: {pulled}");
        // Asked for, it goes.
        let out = lab.ok(["pull", "hub", "--removals"]);
        assert!(out.contains("3 snapshots removed"), "{kind}: {out}");
        assert_eq!(count(&lab, "repo"), 2, "{kind}");
        lab.ok(["prune", "-q", "--max-unused", "0"]);
        lab.ok(["check", "-q", "--read-data"]);
        lab.ok(["push", "-q", "hub"]);
        expect_whole(&lab, &url, 2);
        if kind == "git" {
            for repository in ["repo", "hub"] {
                let path = lab.path(repository);
                let fsck =
                    Command::new("git").arg("-C").arg(path).args(["fsck", "--strict"]).output().unwrap();
                assert!(fsck.status.success(), "{repository}: {}", String::from_utf8_lossy(&fsck.stderr));
            }
        }
    }
}

#[test]
fn a_push_alone_takes_nothing_away_and_a_setting_does() {
    for kind in KINDS {
        let lab = Lab::new();
        let url = emptied(&lab, kind);
        lab.write("tree/own", &noise(4));
        let pushed = lab.run(["backup", "-q", "--push=hub", "tree"]);
        assert_eq!(pushed.status, Some(0), "{kind}: {pushed:?}");
        assert!(pushed.err.contains("3 snapshots removed from hub by others"), "{kind}: {}", pushed.err);
        assert_eq!(count(&lab, "repo"), 4, "{kind}");
        expect_whole(&lab, &url, 1);
        lab.ok(["prune", "-q"]);
        lab.ok(["restore", "-q", "latest~3", "--path", "tree", "--target", "first"]);
        assert_eq!(fs::read_to_string(lab.path("first/own")).unwrap(), noise(1), "{kind}");
        assert_eq!(lab.ok(["remote", "removals", "hub"]), "keep\n");
        lab.ok(["remote", "removals", "hub", "take"]);
        assert_eq!(lab.ok(["remote", "removals", "hub"]), "take\n");
        let pushed = lab.ok(["push", "hub"]);
        assert!(pushed.contains("3 snapshots removed"), "{kind}: {pushed}");
        assert_eq!(count(&lab, "repo"), 1, "{kind}");
        expect_whole(&lab, &url, 1);
        // A repository that is append-only gives it back instead.
        lab.ok(["append-only", "on"]);
        empty_the_remote(&lab, &url);
        lab.ok(["push", "-q", "hub"]);
        assert_eq!(count(&lab, "repo"), 1, "{kind}");
        expect_whole(&lab, &url, 1);
    }
}

#[test]
fn a_repository_that_becomes_append_only_gives_back_what_it_kept() {
    for kind in KINDS {
        let lab = Lab::new();
        let url = emptied(&lab, kind);
        assert!(lab.run(["pull", "-q", "hub"]).err.contains("3 snapshots removed"), "{kind}");
        lab.ok(["append-only", "on"]);
        lab.ok(["push", "-q", "hub"]);
        expect_whole(&lab, &url, 3);
        let pulled: serde_json::Value = serde_json::from_str(&lab.ok(["pull", "hub", "--json"])).unwrap();
        assert_eq!(pulled["snapshots_kept_here"], 0, "{kind}: {pulled}");
    }
}

/// Somebody removes everything from a git remote whose path has `part`.
fn remove_there(lab: &Lab, part: &str) {
    let hub = lab.path("hub");
    let listed =
        Command::new("git").arg("-C").arg(&hub).args(["ls-tree", "-r", "--name-only", "main"]).output();
    let listed = String::from_utf8(listed.unwrap().stdout).unwrap();
    let gone: Vec<&str> = listed.lines().filter(|path| path.contains(part)).collect();
    assert!(!gone.is_empty(), "{part}: {listed}");
    commit(&hub, |_, edit| gone.iter().for_each(|path| edit.remove(path.as_bytes()).unwrap()));
}

#[test]
fn new_snapshots_are_whole_in_a_remote_that_lost_only_data() {
    for part in ["archives/", ".idx", ".tar", "index/"] {
        for line in ["pull -q hub", "push -q hub"] {
            let lab = Lab::new();
            let url = three(&lab, "git");
            remove_there(&lab, part);
            lab.ok(line.split(' '));
            lab.write("tree/new", part);
            lab.ok(["backup", "-q", "--push=hub", "tree"]);
            let _ = fs::remove_dir_all(lab.path("restored"));
            lab.ok(["clone", "-q", &url, "whole"]);
            lab.ok(["-r", "whole", "restore", "-q", "latest", "--path", "tree", "--target", "restored"]);
            assert_eq!(contents(&lab.path("restored")), contents(&lab.path("tree")), "{part}, {line}");
            lab.ok(["check", "-q", "--read-data"]);
        }
    }
}

/// A lab whose commands have the passphrase, with an encrypted repository that was pushed.
fn encrypted() -> Lab {
    let lab = Lab::bare();
    lab.write("password", "correct horse");
    lab.write("tree/file", "content");
    lab.ok(["--password-file", "password", "init", "-q", "--encrypt", "--repo", "repo"]);
    assert!(
        Command::new("git").args(["init", "-q", "--bare"]).arg(lab.path("hub")).status().unwrap().success()
    );
    lab.ok(["remote", "add", "hub", lab.path("hub").to_str().unwrap()]);
    lab.ok(["--password-file", "password", "backup", "-q", "--push=hub", "tree"]);
    lab
}

#[test]
fn the_last_key_goes_neither_here_nor_there() {
    for line in ["pull -q hub", "pull -q hub --removals", "push -q hub --removals"] {
        let lab = encrypted();
        remove_there(&lab, "keys/");
        lab.ok(line.split(' '));
        lab.ok(["--password-file", "password", "snapshots", "-q"]);
        lab.ok(["--password-file", "password", "backup", "-q", "--push=hub", "tree"]);
        lab.ok(["clone", "-q", lab.path("hub").to_str().unwrap(), "other"]);
        lab.ok(["-r", "other", "--password-file", "password", "check", "-q", "--read-data"]);
    }
}

/// More keys than are looked at, all of which sort and cost less than the real one.
#[test]
fn keys_that_others_add_lock_nobody_out() {
    let lab = encrypted();
    let line = |seed: usize, len: usize| -> String {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        (0..len).map(|at| alphabet[(seed * 31 + at * 7) % 64] as char).collect()
    };
    commit(&lab.path("hub"), |transaction, edit| {
        for number in 0..80 {
            // The last digit of 16 or 32 bytes in base 64 has bits that are zero.
            let [salt, body, mac] =
                [(21, "A"), (42, "A"), (42, "A")].map(|(len, end)| line(number, len) + end);
            let slot = format!(
                "age-encryption.org/v1\n-> scrypt {salt} 1\n{body}\n--- {mac}\n{}",
                line(number, 107)
            );
            let blob = transaction.blob(slot.as_bytes()).unwrap();
            edit.set(format!("keys/{number:08x}.age").as_bytes(), blob).unwrap();
        }
    });
    lab.ok(["pull", "-q", "hub"]);
    for line in ["snapshots -q", "check -q", "key list", "key remove 00000000 -q"] {
        lab.ok(["--password-file", "password"].into_iter().chain(line.split(' ')));
    }
}
