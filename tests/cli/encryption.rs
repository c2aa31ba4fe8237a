//! Passphrases, identities, keys, and what is said without them.

use std::fs;
use std::io::{Read, Write};
use std::process::Stdio;

use serde_json::Value;

use crate::lab::{Lab, contents};

/// What makes a lab's repository encrypted, and opens it.
pub const IDENTITY: &str = "# a key made for this test\nAGE-SECRET-KEY-1RSL8VL5S7YNKYVKK7M3E4M8CVF80SSXPJU5LP7YFH93R4F6RGA5QWH3RT0\n";
pub const RECIPIENT: &str = "age1sqczhmrpndfuh7rk3llmgey62u75txvajweatg30xf3vx45uay8qj2yx49";

/// With an encrypted repository that the identity in `key.txt` opens.
fn encrypted() -> Lab {
    let lab = Lab::bare();
    lab.write("key.txt", IDENTITY);
    lab.ok(["init", "--encrypt", "--recipient", RECIPIENT]);
    lab
}

#[test]
fn a_host_without_a_place_for_the_cache_is_told() {
    let lab = encrypted();
    let backup = |options: &[&str]| {
        let mut command = lab.command(["backup", "tree", "--quiet"].iter().chain(options));
        let output = command.env_remove("XDG_CACHE_HOME").env("HOME", "relative").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let said = backup(&[]);
    assert!(said.contains("no place for the cache: set HOME or XDG_CACHE_HOME"), "{said}");
    assert_eq!(backup(&["--identity", "key.txt"]), "", "who can read needs no cache");
    assert!(!lab.path("relative").exists());
}

#[test]
fn a_host_backs_up_without_the_key_and_its_owner_reads() {
    let lab = encrypted();
    lab.ok(["backup", "tree"]);
    lab.write("tree/notes", "more notes\n");
    let summary: Value =
        serde_json::from_str(lab.ok(["backup", "tree", "--json"]).lines().last().unwrap()).unwrap();
    assert_eq!(
        (&summary["statistics"]["updated"], &summary["snapshots_unread"]),
        (&Value::from(1), &Value::from(0))
    );
    for line in [
        "snapshots",
        "ls latest",
        "cat latest:notes",
        "diff latest~1 latest",
        "restore latest -t out",
        "key add --recipient age1sqczhmrpndfuh7rk3llmgey62u75txvajweatg30xf3vx45uay8qj2yx49",
    ] {
        let outcome = lab.run(line.split(' '));
        assert_eq!((outcome.status, outcome.out.as_str()), (Some(12), ""), "{line}: {outcome:?}");
        assert!(
            outcome.err.contains("--identity FILE") && outcome.err.lines().count() == 1,
            "{}",
            outcome.err
        );
    }
    assert!(!lab.path("out").exists());
    assert_eq!(lab.ok(["cat", "latest:notes", "--identity", "key.txt"]), "more notes\n");
    lab.ok(["restore", "latest", "-t", "out", "--identity", "key.txt"]);
    assert_eq!(contents(&lab.path("out")), contents(&lab.path("tree")));
    let output = lab.command(["snapshots", "--json"]).env("TREERING_IDENTITY", "key.txt").output().unwrap();
    assert_eq!(
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["snapshots"].as_array().unwrap().len(),
        2
    );

    assert!(lab.ok(["check"]).contains("without a key, so 9 blobs not decrypted: no faults"));
    assert!(lab.ok(["check", "--read-data", "--identity", "key.txt"]).ends_with("no faults\n"));
    fs::remove_dir_all(lab.path("cache")).unwrap();
    let outcome = lab.run(["backup", "tree"]);
    assert_eq!(outcome.status, Some(0));
    assert!(outcome.err.contains("stored whole; give the key once"), "{}", outcome.err);
}

#[test]
fn wrong_keys_and_unusable_ones_are_told_apart() {
    let lab = encrypted();
    lab.write("wrong.txt", "AGE-SECRET-KEY-1S5X564F7Y5M8HA6KFLMUHMJMCYD04EG359XUSLUWYC4FPU6N6J5SFUDTDV\n");
    lab.write("nothing.txt", "\n");
    let fails = |line: &str, status, message: &str| {
        let outcome = lab.run(line.split(' '));
        assert_eq!(outcome.status, Some(status), "{line}: {outcome:?}");
        assert!(outcome.err.contains(message), "{line}: {}", outcome.err);
    };
    fails("snapshots --identity wrong.txt", 12, "opens none of the repository's keys");
    fails("backup tree --identity wrong.txt", 12, "opens none of the repository's keys");
    fails("snapshots --password-command echo", 1, "empty passphrase");
    fails("snapshots --password-command false", 1, "gave no passphrase");
    fails("snapshots --password-file nothing.txt", 1, "nothing.txt");
    fails("snapshots --identity nothing.txt", 1, "no line is an age identity");
    fails("snapshots --identity missing.txt", 1, "cannot read missing.txt");
    fails("init --encrypt -r other", 1, "nobody to ask");
    assert!(!lab.path("other").exists());
    fails("init --recipient age1x -r other", 1, "no age recipient");
}

#[test]
fn a_plain_repository_has_no_keys() {
    let lab = Lab::new();
    for line in
        ["key list", "key add --recipient age1sqczhmrpndfuh7rk3llmgey62u75txvajweatg30xf3vx45uay8qj2yx49"]
    {
        let outcome = lab.run(line.split(' '));
        assert_eq!(outcome.status, Some(1));
        assert!(outcome.err.contains("is not encrypted"), "{}", outcome.err);
    }
    lab.ok(["backup", "tree"]);
    assert!(!lab.path("cache").exists());
}

#[test]
fn passphrases_come_from_files_commands_and_the_environment() {
    let lab = encrypted();
    lab.ok(["backup", "tree"]);
    lab.write("pass", "open sesame\nsecond line\n");
    let added = lab.ok(["key", "add", "--identity", "key.txt", "--new-password-file", "pass", "--json"]);
    let id = serde_json::from_str::<Value>(&added).unwrap()["id"].as_str().unwrap().to_owned();
    lab.ok(["ls", "latest", "--password-command", "head -1 pass"]);
    let opened = lab.command(["ls", "latest"]).env("TREERING_PASSWORD", "open sesame").output().unwrap();
    assert!(opened.status.success());
    let keys: Value =
        serde_json::from_str(&lab.ok(["key", "list", "--json", "--password-file", "pass"])).unwrap();
    let of = |kind: &str| keys["keys"].as_array().unwrap().iter().find(|key| key["type"] == kind).unwrap();
    assert_eq!(
        (of("passphrase")["opens"].as_bool(), of("recipient")["opens"].as_bool()),
        (Some(true), Some(false))
    );
    assert_eq!(of("passphrase")["id"], id);

    let outcome = lab.run(["key", "remove", &id, "--password-file", "pass"]);
    assert_eq!(outcome.status, Some(1));
    assert!(outcome.err.contains("one that stays"), "{}", outcome.err);
    assert_eq!(lab.ok(["key", "remove", &id, "--identity", "key.txt"]), format!("Removed key {id}\n"));
    let other = of("recipient")["id"].as_str().unwrap();
    let outcome = lab.run(["key", "remove", other, "--identity", "key.txt"]);
    assert!(outcome.err.contains("the last key"), "{}", outcome.err);
}

#[test]
fn a_passphrase_is_asked_for_at_a_terminal_and_not_shown() {
    let lab = Lab::bare();
    let Some(mut child) = lab.at_terminal("init --encrypt", Stdio::piped()) else { return };
    let (mut keyboard, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut shown = String::new();
    let mut until = |text: &str, shown: &mut String| {
        let mut byte = [0];
        while !shown.ends_with(text) && screen.read(&mut byte).unwrap() > 0 {
            shown.push(byte[0].into());
        }
    };
    for question in ["New passphrase: ", "The same again: "] {
        until(question, &mut shown);
        // It hides what is typed before it asks, and drops what was typed earlier.
        keyboard.write_all(b"open sesame\n").unwrap();
    }
    until("\0", &mut shown);
    assert!(child.wait().unwrap().success(), "{shown}");
    assert!(
        shown.contains("Made the encrypted repository")
            && shown.contains("public key is age1")
            && !shown.contains("sesame"),
        "{shown}"
    );
    lab.write("pass", "open sesame\n");
    assert!(lab.ok(["snapshots", "--password-file", "pass"]).contains("no snapshots yet"));
}
