//! `forget`, `prune` and `append-only`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use treering::gitkv::{Mode, Node};

use crate::commits::commit;
use crate::lab::Lab;

/// A lab with snapshots of the days from the 1st of November on.
fn days(count: u32) -> Lab {
    let lab = Lab::new();
    for day in 1..=count {
        lab.write("tree/day", &format!("{day}\n").repeat(2000));
        lab.ok(["backup", "tree", "-q", "--host", "h", "--time", &format!("2026-11-{day:02} 12:00")]);
    }
    lab
}

fn snapshots(lab: &Lab) -> usize {
    let listed: serde_json::Value = serde_json::from_str(&lab.ok(["snapshots", "--json"])).unwrap();
    listed["snapshots"].as_array().unwrap().len()
}

#[test]
fn each_snapshot_is_told_with_its_reason_and_a_dry_run_removes_none() {
    let lab = days(5);
    let said = lab.ok(["forget", "--keep-last", "1", "--keep-daily", "3", "--dry-run"]);
    assert!(said.starts_with("host h, "), "{said}");
    assert!(said.contains("last snapshot, daily snapshot"), "{said}");
    assert_eq!(said.matches("no rule keeps it").count(), 2, "{said}");
    assert!(said.ends_with("Would remove 2 snapshots\n"), "{said}");
    assert_eq!(snapshots(&lab), 5);
    let said = lab.ok(["forget", "--keep-daily", "3"]);
    assert!(said.contains("Removed 2 snapshots: `treering prune`"), "{said}");
    assert_eq!(snapshots(&lab), 3);
    lab.ok(["check", "--read-data"]);
}

#[test]
fn json_of_forget_is_one_document() {
    let lab = days(3);
    let forget = |flags: &[&str]| -> serde_json::Value {
        let line = ["--json", "forget", "--keep-last", "2"].iter().chain(flags);
        serde_json::from_str(&lab.ok(line)).unwrap()
    };
    let planned = forget(&["--prune", "--dry-run"]);
    assert_eq!((&planned["dry_run"], &planned["prune_plan"]["snapshots_count"]), (&true.into(), &2.into()));
    assert_eq!(forget(&["--dry-run"])["prune_plan"], serde_json::Value::Null);
    let forgotten = forget(&["--prune"]);
    assert_eq!(forgotten["message_type"], "forgotten");
    assert_eq!(forgotten["snapshot_keys"].as_array().unwrap().len(), 1);
    let groups = &forgotten["groups"];
    assert_eq!(groups[0]["hostname"], "h");
    assert_eq!(groups[0]["keep"].as_array().unwrap().len(), 2);
    assert_eq!(groups[0]["remove"].as_array().unwrap().len(), 1);
    assert_eq!(groups[0]["reasons"][0]["matches"][0], "last snapshot");
    assert_eq!(forgotten["prune"]["plan"]["snapshots_count"], 2);
    let pruned: serde_json::Value = serde_json::from_str(&lab.ok(["prune", "--json"])).unwrap();
    assert_eq!((&pruned["message_type"], &pruned["plan"]["snapshots_count"]), (&"prune".into(), &2.into()));
}

#[test]
fn nothing_is_removed_without_a_rule_or_to_the_last() {
    let lab = days(2);
    let refused = lab.run(["forget"]);
    assert_eq!(refused.status, Some(1));
    assert!(refused.err.contains("no rule says what to keep"), "{}", refused.err);
    let refused = lab.run(["forget", "--keep-tag", "none"]);
    assert_eq!(refused.status, Some(1));
    assert!(refused.err.contains("--unsafe-allow-remove-all"), "{}", refused.err);
    assert!(lab.run(["forget", "abcd", "--keep-last", "1"]).err.contains("cannot be used with"));
    assert!(lab.run(["forget", "2026-11-01"]).err.contains("names no snapshot to remove"));
    assert!(lab.run(["forget", "abc"]).err.contains("abc is too short"));
    assert_eq!(snapshots(&lab), 2);
    lab.ok(["forget", "--keep-tag", "none", "--unsafe-allow-remove-all", "--prune"]);
    assert_eq!(snapshots(&lab), 0);
}

#[test]
fn a_snapshot_is_removed_by_its_id_and_pruning_is_planned_first() {
    let lab = days(3);
    let listed: serde_json::Value = serde_json::from_str(&lab.ok(["snapshots", "--json"])).unwrap();
    let id = listed["snapshots"][1]["short_id"].as_str().unwrap();
    let planned = lab.ok(["forget", id, "latest", "--dry-run", "--prune"]);
    assert!(planned.contains(id) && planned.contains("2026-11-03 12:00:00+00:00"), "{planned}");
    assert!(planned.contains("Would remove 2 snapshots"), "{planned}");
    assert!(lab.ok(["forget", "latest~1", "--dry-run"]).contains("Would remove 1 snapshot"));
    assert!(lab.run(["forget", "latest~3"]).err.contains("no snapshot latest~3"));
    lab.ok(["forget", id]);
    assert_eq!(snapshots(&lab), 2);
    let planned = lab.ok(["prune", "--dry-run", "--max-unused", "0"]);
    assert!(planned.contains("Would free about"), "{planned}");
    let freed = lab.ok(["prune", "--max-unused", "0"]);
    assert!(freed.starts_with("Freed "), "{freed}");
    assert!(lab.ok(["prune", "--max-unused", "0"]).starts_with("Nothing to free"));
    assert_eq!(lab.run(["prune", "--max-unused", "lots"]).status, Some(1));
    lab.ok(["check", "--read-data"]);
}

/// Puts garbage in the place of the record of the snapshot of a day; its short id from then on.
fn damage_record(lab: &Lab, day: u32) -> String {
    let git = |arguments: &[&str]| {
        let done = Command::new("git").arg("-C").arg(lab.path("repo")).args(arguments).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).unwrap()
    };
    let path = git(&["ls-tree", "-r", "--name-only", "HEAD", &format!("snapshots/2026/11/{day:02}")]);
    let script = format!(
        "commit refs/heads/main\ncommitter t <t> 0 +0000\ndata 0\nfrom refs/heads/main^0\n\
         M 100644 inline {path}data 7\ngarbage\n"
    );
    lab.write("script", &script);
    let mut import = Command::new("git");
    import.arg("-C").arg(lab.path("repo")).args(["fast-import", "--quiet"]);
    assert!(import.stdin(fs::File::open(lab.path("script")).unwrap()).status().unwrap().success());
    let id = git(&["rev-parse", &format!("HEAD:{}", path.trim_end())]);
    id[..8].to_owned()
}

#[test]
fn a_damaged_record_is_named_hides_no_other_and_lets_nothing_more_be_removed() {
    let lab = days(5);
    let id = damage_record(&lab, 5);
    let told = |line: &str, status: i32| {
        let outcome = lab.run(line.split(' '));
        assert_eq!(outcome.status, Some(status), "{line}: {outcome:?}");
        let named = format!("`treering forget {id}` gives it up: snapshots/2026/11/05/");
        assert!(outcome.err.lines().all(|complaint| complaint.contains(&named)), "{line}: {}", outcome.err);
        let start = if line.contains("--json") { "{\"message" } else { "treering: " };
        assert!(outcome.err.starts_with(start), "{line}: {outcome:?}");
        outcome.out
    };
    assert_eq!(told("snapshots", 3).lines().count(), 5);
    let listed: serde_json::Value = serde_json::from_str(&told("snapshots --json", 3)).unwrap();
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 4);
    // Sound, it would be the last, and those of the 3rd and 4th would go.
    let said = told("forget --keep-last 2", 3);
    assert!(said.contains("keep 2, remove 2") && said.contains("Removed 2 snapshots"), "{said}");
    told("prune", 1);
    told("prune --dry-run", 1);
    assert!(told("forget --keep-last 1 --prune", 1).contains("Removed 1 snapshot\n"));
    lab.ok(["cat", "2026-11-04 13:00:day"]);
    assert!(lab.run(["cat", "latest:day"]).err.contains("snapshots/2026/11/05/"));
    lab.ok(["forget", &id]);
    lab.ok(["prune", "--max-unused", "0"]);
    assert_eq!(snapshots(&lab), 1);
    lab.ok(["check", "--read-data"]);
}

#[test]
fn an_append_only_repository_refuses_and_says_what_to_do() {
    let lab = Lab::bare();
    lab.ok(["init", "--append-only"]);
    lab.ok(["backup", "tree", "-q"]);
    for arguments in [&["forget", "latest"][..], &["prune"], &["forget", "--keep-last", "9"]] {
        let outcome = lab.run(arguments);
        if outcome.status != Some(0) {
            assert!(outcome.err.contains("`treering append-only off`"), "{}", outcome.err);
        }
    }
    assert_eq!(snapshots(&lab), 1);
    assert!(lab.ok(["append-only", "status"]).contains("is append-only"));
    lab.ok(["append-only", "off"]);
    lab.ok(["forget", "latest", "--prune"]);
    assert_eq!(snapshots(&lab), 0);
}

#[test]
fn a_remote_that_takes_no_new_history_takes_additions_after_a_prune() {
    let lab = days(2);
    let hub = lab.path("hub.git");
    let git = |arguments: &[&str]| {
        assert!(Command::new("git").args(arguments).arg(&hub).status().unwrap().success());
    };
    git(&["init", "--quiet", "--bare", "-b", "main"]);
    let set = ["config", "receive.denyNonFastForwards", "true"];
    assert!(Command::new("git").arg("-C").arg(&hub).args(set).status().unwrap().success());
    lab.ok(["remote", "add", "origin", "hub.git"]);
    lab.ok(["push"]);
    lab.ok(["forget", "latest"]);
    lab.ok(["prune", "--max-unused", "0"]);
    for _ in 0..2 {
        lab.ok(["backup", "tree", "-q", "--force", "--push"]);
        lab.ok(["check", "--read-data"]);
        lab.ok(["-r", "hub.git", "check", "--read-data"]);
    }
    assert_eq!(
        lab.ok(["snapshots", "-q"]).lines().count() + 1,
        lab.ok(["-r", "hub.git", "snapshots", "-q"]).lines().count()
    );
}

#[test]
fn a_remote_with_the_hook_takes_additions_and_nothing_else() {
    let lab = days(2);
    let hub = lab.path("hub.git");
    let made = Command::new("git").args(["init", "--quiet", "--bare", "-b", "main"]).arg(&hub).status();
    assert!(made.unwrap().success());
    lab.ok(["append-only", "hook", "--install", "hub.git"]);
    lab.ok(["append-only", "hook", "--install", "hub.git"]);
    let hook = hub.join("hooks/pre-receive");
    assert_eq!(fs::metadata(&hook).unwrap().permissions().mode() & 0o111, 0o111);
    assert_eq!(fs::read_to_string(&hook).unwrap(), lab.ok(["append-only", "hook"]));
    lab.ok(["remote", "add", "origin", "hub.git"]);
    lab.ok(["push"]);
    lab.ok(["backup", "tree", "-q", "--force", "--push"]);
    let count = |repository: &str| {
        let listed = lab.ok(["-r", repository, "snapshots", "--json"]);
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        listed["snapshots"].as_array().unwrap().len()
    };
    let fsck = |repository: &str| {
        let mut git = Command::new("git");
        git.arg("-C").arg(lab.path(repository)).args(["fsck", "--strict", "--no-dangling", "--no-progress"]);
        let checked = git.output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    };
    // Snapshots expire here, and pushes go on landing what is new.
    let (mut here, mut there) = (3, 3);
    for round in 0..4 {
        lab.ok(["forget", "latest"]);
        here -= 1;
        if round % 2 == 1 {
            lab.ok(["prune", "--max-unused", "0"]);
        }
        let left = there - here;
        let pushed = lab.run(["push"]);
        assert_eq!(pushed.status, Some(0), "{}", pushed.err);
        assert!(pushed.out.contains(&format!("left {left} snapshot")), "{}", pushed.out);
        // Later ones know it.
        assert_eq!(pushed.err.contains("append-only"), round == 0, "{}", pushed.err);
        lab.write("tree/notes", &format!("of round {round}\n").repeat(100));
        let said = lab.ok(["backup", "tree", "--push"]);
        assert!(said.contains("Pushed to origin: 1 snapshot"), "{said}");
        (here, there) = (here + 1, there + 1);
        assert_eq!((count("repo"), count("hub.git")), (here, there));
        assert!(lab.ok(["pull"]).contains("nothing new"));
        assert_eq!(count("repo"), here, "what was removed stays removed");
        fsck("repo");
        fsck("hub.git");
        lab.ok(["check", "--read-data"]);
        lab.ok(["-r", "hub.git", "check", "--read-data"]);
    }
    // Another clone sees all, adds its own, and this one takes that.
    lab.ok(["clone", "hub.git", "clone"]);
    assert_eq!(count("clone"), there);
    lab.ok(["-r", "clone", "backup", "tree", "-q", "--force", "--push"]);
    let said = lab.ok(["pull"]);
    assert!(said.contains("Pulled from origin: 1 snapshot"), "{said}");
    lab.ok(["backup", "tree", "-q", "--force", "--push"]);
    assert_eq!((count("repo"), count("hub.git")), (here + 2, there + 2));
    lab.ok(["check", "--read-data"]);
    // Nobody else can do what this one left undone.
    let pushed = fs::read(&hook).unwrap();
    fs::remove_file(&hook).unwrap();
    lab.ok(["push"]);
    assert_eq!(count("hub.git"), here + 2);
    lab.ok(["-r", "hub.git", "check", "--read-data"]);
    // Refused for another reason, it says so, also where there is nothing to send.
    lab.write_program("hub.git/hooks/pre-receive", "#!/bin/sh\necho 'the disk is full' >&2\nexit 1\n");
    lab.ok(["forget", "latest"]);
    let refused = lab.run(["push"]);
    assert_eq!(refused.status, Some(0));
    assert!(refused.err.contains("the disk is full"), "{}", refused.err);
    lab.ok(["backup", "tree", "-q", "--force"]);
    let refused = lab.run(["push"]);
    assert_eq!(refused.status, Some(1));
    assert!(refused.err.contains("the disk is full"), "{}", refused.err);
    fs::write(&hook, pushed).unwrap();
    fs::write(&hook, "#!/bin/sh\n").unwrap();
    assert!(lab.run(["append-only", "hook", "--install", "hub.git"]).err.contains("another hook"));
    // What no treering repository has, which would be in everybody's way.
    fs::remove_file(&hook).unwrap();
    lab.ok(["append-only", "hook", "--install", "hub.git"]);
    let before = count("hub.git");
    let git = |arguments: &[&str]| {
        Command::new("git").arg("-C").arg(lab.path("clone")).args(arguments).output().unwrap()
    };
    assert!(git(&["fetch", "--quiet", "../hub.git", "main"]).status.success());
    for (mode, path) in [
        (Mode::File, "snapshots/2026/11/20/garbage"),
        (Mode::File, "snapshots/garbage"),
        (Mode::File, "index/2026/11/x"),
        (Mode::File, "archives/2026/11/20/20261120T195512.123456789Z-5f0c11ab92de7340-0.tar.gz/x"),
        (Mode::Link, "snapshots/2026/11/20/20261120T195512.123456789Z-5f0c11ab92de7340.cbor"),
        (Mode::Link, "elsewhere"),
    ] {
        let reset = git(&["update-ref", "refs/heads/main", "FETCH_HEAD"]);
        assert!(reset.status.success(), "{path}: {reset:?}");
        commit(&lab.path("clone"), |transaction, edit| {
            let id = transaction.blob(b"garbage").unwrap();
            edit.set_node(path.as_bytes(), Node { mode, id }).unwrap();
        });
        let pushed = git(&["push", "../hub.git", "main"]);
        let said = String::from_utf8_lossy(&pushed.stderr).into_owned();
        assert!(!pushed.status.success() && said.contains("no treering repository has"), "{path}: {said}");
        assert!(said.contains(path), "{path}: {said}");
        assert_eq!(count("hub.git"), before);
    }
}
