//! The repository in other places.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::lab::{Lab, Outcome, contents, interruption};
use crate::programs;

/// A repository with a snapshot, and an empty hub that it does not know of.
fn with_hub() -> Lab {
    let lab = Lab::new();
    lab.ok(["backup", "tree"]);
    let hub = Command::new("git").args(["init", "-q", "--bare"]).arg(lab.path("hub.git")).status();
    assert!(hub.expect("the program git is installed").success());
    lab
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(' ')
}

/// Makes the hub kill whoever receives a push, while what came lies in a directory of its own.
fn kill_receivers(lab: &Lab) {
    lab.write_program("hub.git/hooks/pre-receive", "#!/bin/sh\nkill -9 $PPID\n");
}

#[test]
fn what_a_killed_program_of_git_leaves_in_a_remote_goes_at_once() {
    let lab = with_hub();
    lab.ok(words("remote add origin hub.git"));
    kill_receivers(&lab);
    assert_eq!(lab.run(["push"]).status, Some(1));
    let left = fs::read_dir(lab.path("hub.git/objects")).unwrap();
    let mut left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(!left.any(|name| name.starts_with("tmp_")));
    let hub = fs::read_dir(lab.path("hub.git/objects/pack")).unwrap();
    assert_eq!(hub.count(), 0);
    fs::remove_file(lab.path("hub.git/hooks/pre-receive")).unwrap();
    assert!(lab.ok(["push"]).starts_with("Pushed to origin: 1 snapshot in "));
}

#[test]
fn snapshots_go_to_a_hub_and_to_a_clone_and_back() {
    let lab = with_hub();
    assert_eq!(lab.ok(words("remote list")), "");
    assert_eq!(lab.ok(words("remote add origin hub.git")), "");
    let hub = lab.path("hub.git");
    assert_eq!(lab.ok(words("remote list")), format!("origin  git  {}\n", hub.display()));
    assert!(lab.ok(["push"]).starts_with("Pushed to origin: 1 snapshot in "));
    assert!(lab.ok(["push"]).starts_with("Pushed to origin: nothing new in "));
    let out = lab.ok(words("clone hub.git clone"));
    assert!(out.starts_with("Cloned 1 snapshot to clone in "), "{out}");
    lab.ok(words("-r clone restore latest -t restored -q"));
    assert_eq!(contents(&lab.path("restored")), contents(&lab.path("tree")));

    lab.write("tree/notes", "other");
    let out = lab.ok(words("-r clone backup tree --push"));
    assert!(
        out.starts_with("Saved snapshot ") && out.contains("\nPushed to origin: 1 snapshot in "),
        "{out}"
    );
    lab.ok(words("backup tree -q"));
    let out = lab.ok(words("push origin"));
    assert!(out.starts_with("Pushed to origin: 1 snapshot in "), "{out}");
    assert!(out.contains("\n  received 1 snapshot\n"), "{out}");
    assert!(lab.ok(words("-r clone pull")).starts_with("Pulled from origin: 1 snapshot in "));
    assert_eq!(lab.ok(words("-r clone snapshots")), lab.ok(["snapshots"]));
    lab.ok(words("-r clone check --read-data"));
    assert_eq!(lab.ok(words("remote remove origin")), "");
    lab.ok(words("remote add origin https://ann:s3cret@example.org/x.git"));
    for line in ["remote list", "remote list --json"] {
        let out = lab.ok(words(line));
        assert!(out.contains("https://***@example.org/x.git"), "{out}");
    }
}

#[test]
fn what_git_says_is_told_in_one_line() {
    let lab = with_hub();
    lab.ok(words("remote add gone git://127.0.0.1:1/gone.git"));
    let refused = lab.run(["push", "gone"]);
    assert_eq!(refused.status, Some(1));
    assert!(refused.err.contains("git says: ") && !refused.err.contains("\\n"), "{}", refused.err);
    assert_eq!(refused.err.lines().count(), 1, "{}", refused.err);
}

#[test]
fn programs_get_json() {
    let lab = with_hub();
    let json = |line: &str| serde_json::from_str::<Value>(&lab.ok(words(line))).unwrap();
    assert_eq!(json("remote list --json")["remotes"], Value::Array(Vec::new()));
    lab.ok(words("remote add disk hub.git --json"));
    let listed = json("remote list --json")["remotes"].clone();
    assert_eq!((&listed[0]["name"], &listed[0]["type"]), (&"disk".into(), &"git".into()));
    let push = json("push --json");
    assert_eq!((&push["message_type"], &push["remote"]), (&"push".into(), &"disk".into()));
    assert_eq!(push["sent"]["snapshots_added"], 1);
    assert_eq!(push["received"]["snapshots_added"], 0);
    let clone = json("clone hub.git clone --json");
    assert_eq!((&clone["message_type"], &clone["snapshots_count"]), (&"cloned".into(), &1.into()));
    let pull = json("-r clone pull --json");
    assert_eq!((&pull["message_type"], &pull["received"]["snapshots_removed"]), (&"pull".into(), &0.into()));
}

#[test]
fn what_goes_wrong_is_one_line_that_says_what_to_do() {
    let lab = with_hub();
    let fails = |line: &str, message: &str| {
        let outcome = lab.run(words(line));
        assert_eq!(outcome.status, Some(1), "{line}: {outcome:?}");
        assert!(outcome.err.contains(message), "{line}: {}", outcome.err);
        assert_eq!(outcome.err.lines().count(), 1, "{line}: {}", outcome.err);
    };
    fails("push", "treering remote add");
    fails("pull nobody", "treering remote list");
    fails("remote add -- -x hub.git", "cannot be the name of a remote");
    fails("clone hub.git repo", "choose another path");
    fails("clone hub.git other", "has no branch with a repository");
    lab.ok(words("remote add origin nowhere.git"));
    fails("remote add origin hub.git", "choose another name");
    fails("push", "check its address");
    fails("backup tree -q --push=origin", "the snapshot is saved here, but not pushed");
    lab.ok(words("-r other init -q"));
    lab.ok(words("remote add other other"));
    fails("push other", "is of another repository");
    assert!(!lab.path("clone").exists());
}

/// A repository with a snapshot and a cold remote that has it; the URL of that.
fn with_cold() -> (Lab, String) {
    let lab = Lab::new();
    lab.ok(["backup", "tree"]);
    let url = format!("file://{}", lab.path("store").display());
    lab.ok(["remote", "add", "cold", &url]);
    (lab, url)
}

#[test]
fn data_lies_in_a_cold_remote_and_is_read_there() {
    let (lab, url) = with_cold();
    assert_eq!(lab.ok(words("remote list")), format!("cold  cold  {url}\n"));
    let out = lab.ok(["push"]);
    assert!(out.starts_with("Pushed to cold: 1 snapshot in "), "{out}");
    assert!(out.contains("\n  sent 3 layers, "), "{out}");
    let listed = lab.ok(words("layers list"));
    assert_eq!(listed.lines().filter(|line| line.ends_with("  here cold")).count(), 3, "{listed}");
    assert!(lab.ok(words("layers evict")).starts_with("Evicted 1 layer, "));
    assert!(lab.ok(words("layers list")).lines().any(|line| line.ends_with("  cold")), "{listed}");

    let out = lab.ok(["clone", "--cold", &url, "clone"]);
    assert!(out.starts_with("Cloned 1 snapshot to clone in "), "{out}");
    for repository in ["repo", "clone"] {
        let target = format!("restored-{repository}");
        lab.ok(words(&format!("-r {repository} check --read-data -q")));
        lab.ok(words(&format!("-r {repository} restore latest -t {target} -q")));
        assert_eq!(contents(&lab.path(&target)), contents(&lab.path("tree")));
    }
    lab.write("tree/notes", "other notes\n");
    lab.ok(words("-r clone backup tree --push -q"));
    assert!(lab.ok(["pull"]).starts_with("Pulled from cold: 1 snapshot in "));
    let diff = lab.ok(words("diff latest~1 latest"));
    assert!(diff.contains("M  ") && diff.contains("notes"), "{diff}");
    assert!(lab.ok(words("layers fetch")).starts_with("Fetched 2 layers, "));
    fs::remove_dir_all(lab.path("store")).unwrap();
    lab.ok(words("check --read-data -q"));
}

#[test]
fn a_push_after_pruning_says_what_it_removed() {
    let (lab, _) = with_cold();
    lab.ok(words("push -q"));
    for round in ["once", "twice"] {
        lab.write("tree/notes", &format!("changed {round}\n"));
        lab.ok(words("backup tree -q"));
        lab.ok(words("forget --keep-last 1 --prune -q"));
        if round == "once" {
            let out = lab.ok(["push"]);
            assert!(out.contains("\n  removed ") && out.contains(" that nothing needs, "), "{out}");
            assert!(!lab.ok(["push"]).contains("removed"));
        }
    }
    let push: Value = serde_json::from_str(&lab.ok(words("push --json"))).unwrap();
    assert!(push["layers_removed"].as_u64().unwrap() >= 1, "{push}");
    assert!(push["bytes_removed"].as_u64().unwrap() >= 1_000, "{push}");
}

#[test]
fn programs_get_json_of_layers() {
    let (lab, url) = with_cold();
    let json = |line: &str| serde_json::from_str::<Value>(&lab.ok(words(line))).unwrap();
    let push = json("push --json");
    assert_eq!(push["layers_sent"], 3);
    assert!(push["bytes_sent"].as_u64().unwrap() > 1_000);
    let listed = json("layers list --json")["layers"].clone();
    let data = listed.as_array().unwrap().iter().find(|layer| layer["type"] == "data").unwrap();
    assert_eq!((&data["local"], &data["remotes"][0]), (&true.into(), &"cold".into()));
    assert_eq!((&data["objects_count"], listed.as_array().unwrap().len()), (&1.into(), 3));
    let evicted = json("layers evict --json");
    assert_eq!(
        (&evicted["message_type"], &evicted["layers"][0]["name"]),
        (&"layers_evicted".into(), &data["name"])
    );
    assert_eq!(json("layers fetch --json")["bytes"], data["pack_bytes"]);
    assert_eq!(json(&format!("clone --cold {url} clone --json"))["message_type"], "cloned");
}

#[test]
fn what_goes_wrong_with_a_cold_remote_says_what_to_do() {
    let (lab, url) = with_cold();
    let fails = |line: &str, message: &str| {
        let outcome = lab.run(words(line));
        assert_eq!(outcome.status, Some(1), "{line}: {outcome:?}");
        assert!(outcome.err.contains(message), "{line}: {}", outcome.err);
        assert_eq!(outcome.err.lines().count(), 1, "{line}: {}", outcome.err);
    };
    fails("pull", "check the URL and that the disk is mounted");
    fails(&format!("clone {url} clone"), "check the URL");
    fails("clone --cold hub.git clone", "no cold remote");
    fails("layers evict", "push to one first");
    lab.ok(["push"]);
    fails("layers fetch 00", "treering layers list");
    lab.ok(words("layers evict"));
    fails("remote remove cold", "treering layers fetch");
    fs::rename(lab.path("store"), lab.path("away")).unwrap();
    fails("push", "check the URL and that the disk is mounted");
    fails("cat latest:notes", "is not here but in a cold remote");
    let outcome = lab.command(["layers", "list"]).env("TREERING_COLD_CACHE", "much").output().unwrap();
    assert_eq!(outcome.status.code(), Some(1));
    assert!(String::from_utf8(outcome.stderr).unwrap().contains("TREERING_COLD_CACHE"));
    assert!(!lab.path("clone").exists());
}

#[test]
fn two_backups_at_one_time_both_land() {
    let lab = Lab::new();
    let roots = ["one", "two"];
    for root in roots {
        (0..50).for_each(|number| lab.write(&format!("{root}/{number}"), &format!("{root} {number}")));
    }
    let children: Vec<_> = roots.map(|root| lab.command(["backup", "-q", root]).spawn().unwrap()).into();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let snapshots: Value = serde_json::from_str(&lab.ok(words("snapshots --json"))).unwrap();
    let mut saved: Vec<_> =
        snapshots["snapshots"].as_array().unwrap().iter().map(|one| one["paths"][0].clone()).collect();
    saved.sort_by_key(Value::to_string);
    let expected = roots.map(|root| fs::canonicalize(lab.path(root)).unwrap());
    assert_eq!(saved, expected.map(|path| Value::from(path.to_str().unwrap())));
    lab.ok(words("check --read-data -q"));
}

#[test]
fn small_layers_become_few() {
    let lab = Lab::new();
    for round in 0..12 {
        lab.write("tree/notes", &format!("notes {round}\n"));
        lab.ok(words("backup tree"));
    }
    let before = lab.ok(words("layers list")).lines().count();
    let merged = lab.ok(words("layers merge"));
    assert!(merged.starts_with("Merged "), "{merged}");
    let after = lab.ok(words("layers list")).lines().count();
    assert!(after <= 8 && before >= 24, "{before} to {after}");
    assert!(lab.ok(words("layers merge --json")).contains("layers_merged"));
    lab.ok(words("check --read-data"));
    lab.ok(words("restore latest~11 --target first"));
    assert_eq!(fs::read_to_string(lab.path("first/notes")).unwrap(), "notes 0\n");
}

/// The same lab, with no program to be found.
fn without_git(lab: &Lab, line: &str) -> Outcome {
    let mut command = lab.command(words(line));
    command.env("PATH", lab.path("nowhere")).env("XDG_CACHE_HOME", lab.path("cache"));
    command.output().unwrap().into()
}

fn git(lab: &Lab, line: &str) -> String {
    let output = Command::new("git").args(words(line)).current_dir(lab.path("")).output();
    let output = output.expect("the program git is installed");
    assert!(output.status.success(), "git {line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_path_needs_no_git() {
    let lab = with_hub();
    let ok = |line: &str| {
        let outcome = without_git(&lab, line);
        assert_eq!((outcome.status, outcome.err.as_str()), (Some(0), ""), "{line}: {}", outcome.out);
        outcome.out
    };
    ok("remote add origin hub.git");
    assert!(ok("push").starts_with("Pushed to origin: 1 snapshot in "));
    git(&lab, "-C hub.git fsck --strict --full");
    assert!(ok("push").starts_with("Pushed to origin: nothing new in "));
    assert!(ok("clone hub.git clone").starts_with("Cloned 1 snapshot to clone in "));
    lab.write("tree/notes", "other");
    ok("-r clone backup tree -q --push");
    ok("backup tree -q");
    let out = ok("push");
    assert!(out.contains("\n  received 1 snapshot\n"), "{out}");
    assert!(lab.ok(words("-r clone pull")).starts_with("Pulled from origin: 1 snapshot in "), "with git");
    ok("-r clone check --read-data");
    for repository in ["hub.git", "repo", "clone"] {
        git(&lab, &format!("-C {repository} fsck --strict --full"));
    }

    ok("-r blobs.git blob init");
    git(&lab, "init -q --bare blobs-hub.git");
    ok("-r blobs.git blob add tree/notes -q");
    ok("-r blobs.git remote add origin blobs-hub.git");
    ok("-r blobs.git blob push");
    ok("-r blobs.git blob pull");
    git(&lab, "-C blobs-hub.git fsck --strict --full");
    let url = format!("file://{}", lab.path("kv.git").display());
    git(&lab, "init -q --bare -b trunk kv.git");
    ok(&format!("kv put {url} key tree/notes"));
    ok(&format!("kv put {url} other tree/letters/one"));
    assert_eq!(ok(&format!("kv get {url} key")), "other");
    assert_eq!(git(&lab, "-C kv.git show trunk:key"), "other");
    git(&lab, "-C kv.git fsck --strict --full");
}

#[test]
fn what_needs_git_says_so() {
    let lab = with_hub();
    let fails = |line: &str, messages: &[&str]| {
        let outcome = without_git(&lab, line);
        assert_eq!(outcome.status, Some(1), "{line}: {outcome:?}");
        for message in messages {
            assert!(outcome.err.contains(message), "{line}: {}", outcome.err);
        }
    };
    if cfg!(not(feature = "git2-https")) {
        fails("clone https://example.org/x.git new", &["install git", "feature git2-https"]);
    }
    if cfg!(not(feature = "git2-ssh")) {
        for url in ["ssh://example.org/x.git", "git@example.org:x.git"] {
            fails(&format!("clone {url} new"), &["install git", "feature git2-ssh"]);
        }
    }
    fails("clone nowhere.git new", &["there is no git repository where"]);
    lab.ok(words("remote add origin hub.git"));
    lab.write_program("hub.git/hooks/pre-receive", "#!/bin/sh\nexit 0\n");
    fails("push", &["pre-receive", "install git"]);
    lab.ok(["push"]);
}

/// `git daemon`, which serves what lies in a lab to everybody, until it is dropped.
struct Daemon(Child);

impl Daemon {
    fn start(lab: &Lab) -> (Self, String) {
        // Free a moment ago.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // Not by `git`, which would leave it behind when it is killed.
        let mut command = Command::new(Path::new(git(lab, "--exec-path").trim()).join("git-daemon"));
        command.args(["--export-all", "--enable=receive-pack", "--listen=127.0.0.1"]);
        command.arg(format!("--port={port}")).arg(format!("--base-path={}", lab.path("").display()));
        command.stderr(Stdio::null());
        let mut daemon = Self(command.spawn().expect("the program git is installed"));
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert_eq!(daemon.0.try_wait().unwrap(), None, "git daemon serves");
            thread::sleep(Duration::from_millis(10));
        }
        (daemon, format!("git://127.0.0.1:{port}"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A hub as `git init --bare` makes one where the branch of new repositories is called differently.
fn with_master_hub() -> Lab {
    let lab = with_hub();
    git(&lab, "-C hub.git symbolic-ref HEAD refs/heads/master");
    lab.ok(words("remote add origin hub.git"));
    lab
}

#[test]
fn a_hub_whose_head_is_another_branch_is_used_as_it_is() {
    for push in [
        |lab: &Lab| drop(lab.ok(["push", "-q"])),
        |lab: &Lab| {
            let outcome = without_git(lab, "push -q");
            assert_eq!(outcome.status, Some(0), "{}", outcome.err);
        },
    ] {
        let lab = with_master_hub();
        push(&lab);
        lab.ok(words("-r hub.git snapshots"));
        assert_eq!(fs::read_to_string(lab.path("hub.git/HEAD")).unwrap(), "ref: refs/heads/main\n");
        // As after a push by ssh, which cannot set it.
        git(&lab, "-C hub.git symbolic-ref HEAD refs/heads/master");
        lab.ok(words("-r hub.git backup tree -q"));
        assert_eq!(
            lab.ok(words("-r hub.git snapshots -q")).lines().count(),
            lab.ok(words("-r hub.git snapshots")).lines().count()
        );
        lab.ok(words("-r hub.git check"));
        lab.ok(words("clone hub.git clone -q"));
        lab.ok(words("-r clone check --read-data"));
        assert!(!lab.path("hub.git/refs/heads/master").exists());
    }
}

#[test]
fn a_clone_takes_the_name_that_the_branch_has_in_the_remote() {
    let lab = with_hub();
    git(&lab, "-C repo branch -m main trunk");
    lab.ok(words("remote add origin hub.git"));
    lab.ok(["push", "-q"]);
    lab.ok(words("clone hub.git clone -q"));
    lab.ok(words("-r clone backup tree -q --push"));
    assert_eq!(fs::read_dir(lab.path("hub.git/refs/heads")).unwrap().count(), 1);
    lab.ok(["pull", "-q"]);
    lab.ok(["check"]);
}

#[test]
fn the_branch_of_a_remote_may_have_another_name() {
    for is_without in [false, true] {
        let run = |lab: &Lab, line: &str| match is_without {
            false => lab.run(words(line)),
            true => without_git(lab, line),
        };
        let ok = |lab: &Lab, line: &str| {
            let outcome = run(lab, line);
            assert_eq!(outcome.status, Some(0), "{line}: {}", outcome.err);
            outcome.out
        };
        let lab = with_hub();
        git(&lab, "-C hub.git symbolic-ref HEAD refs/heads/rings");
        git(&lab, "-C repo push -q ../hub.git main:rings");
        let branches = || git(&lab, "-C hub.git for-each-ref --format=%(refname)");
        ok(&lab, "remote add origin hub.git");
        ok(&lab, "clone hub.git clone -q");
        for _ in 0..2 {
            ok(&lab, "backup tree -q --push");
            assert!(ok(&lab, "push").contains("nothing"), "{}", ok(&lab, "push"));
            ok(&lab, "-r clone backup tree -q --push");
            ok(&lab, "pull -q");
            // Without git, nothing can be put in the place of another history.
            ok(&lab, if is_without { "forget latest -q" } else { "forget latest -q --prune" });
            ok(&lab, "push -q");
        }
        ok(&lab, "-r clone pull -q --removals");
        let listed = |repository: &str| ok(&lab, &format!("-r {repository} snapshots -q"));
        assert_eq!(listed("repo"), listed("clone"));
        assert_eq!(listed("repo"), listed("hub.git"));
        assert_eq!(branches(), "refs/heads/rings\n");
        ok(&lab, "check");

        // It is called differently from now on, and nothing that was removed comes back.
        git(&lab, "-C hub.git branch -q -m rings years");
        ok(&lab, "pull -q");
        ok(&lab, "backup tree -q");
        ok(&lab, "push -q");
        assert_eq!(listed("repo"), listed("hub.git"));
        assert_eq!(branches(), "refs/heads/years\n");
        // Also where a push is the first to find out, and nothing is known of the history but its trace.
        for (line, name) in
            [("backup tree -q", "one"), ("forget latest -q", "two"), ("forget latest -q --prune", "three")]
        {
            git(&lab, &format!("-C hub.git branch -q -m {name}"));
            ok(&lab, if is_without { line.trim_end_matches(" --prune") } else { line });
            ok(&lab, "push -q");
            assert_eq!(listed("repo"), listed("hub.git"), "{name}");
            assert_eq!(branches(), format!("refs/heads/{name}\n"));
            ok(&lab, "backup tree -q");
            git(&lab, &format!("-C hub.git branch -q -m {name}-again"));
            ok(&lab, "push -q");
            assert_eq!(branches(), format!("refs/heads/{name}-again\n"));
        }
        // One that is gone without another is made anew.
        git(&lab, "-C hub.git update-ref -d refs/heads/three-again");
        ok(&lab, "backup tree -q --push");
        assert_eq!((listed("repo"), branches().as_str()), (listed("hub.git"), "refs/heads/main\n"));
        git(&lab, "-C hub.git branch -q -m years");
        ok(&lab, "pull -q");
        git(&lab, "-C hub.git branch -q trunk years");
        ok(&lab, "pull -q");
        git(&lab, "-C hub.git branch -q -m years other");
        let outcome = run(&lab, "pull");
        assert_eq!(outcome.status, Some(1), "{outcome:?}");
        assert!(outcome.err.contains("on the branches other, trunk, and none is called main"), "{outcome:?}");
        assert!(run(&lab, "clone hub.git again").err.contains("on the branches other, trunk"));
        // Another remote of that name begins with nothing known.
        ok(&lab, "remote remove origin");
        assert!(!fs::read_to_string(lab.path("repo/config")).unwrap().contains("branch = refs/heads"));
        git(&lab, "init -q --bare new.git");
        ok(&lab, "remote add origin new.git");
        ok(&lab, "push -q");
        assert_eq!(git(&lab, "-C new.git for-each-ref --format=%(refname)"), "refs/heads/main\n");
    }
}

#[test]
fn a_repository_beside_something_else_is_found_wherever_head_points() {
    let lab = with_hub();
    lab.ok(words("remote add origin hub.git"));
    lab.ok(words("backup tree -q --push"));
    git(&lab, "init -q -b docs else");
    git(&lab, "-C else -c user.name=a -c user.email=a@b commit -q --allow-empty -m docs");
    git(&lab, "-C else push -q ../hub.git docs");
    git(&lab, "-C hub.git symbolic-ref HEAD refs/heads/docs");
    let docs = git(&lab, "-C hub.git rev-parse docs");
    assert_eq!(lab.ok(words("-r hub.git snapshots -q")), lab.ok(words("snapshots -q")));
    lab.ok(words("-r hub.git backup tree -q"));
    lab.ok(words("-r hub.git forget latest~1 -q --prune"));
    lab.ok(words("pull -q --removals"));
    assert_eq!(lab.ok(words("-r hub.git snapshots -q")), lab.ok(words("snapshots -q")));
    assert_eq!(git(&lab, "-C hub.git rev-parse docs"), docs);
    lab.ok(words("clone hub.git clone -q"));
    let fails = |line: &str, status, message: &str| {
        let outcome = lab.run(words(line));
        assert_eq!(outcome.status, Some(status), "{line}: {}", outcome.err);
        assert!(
            outcome.err.contains(message) && !outcome.err.contains("treering init"),
            "{line}: {}",
            outcome.err
        );
    };
    fails("clone repo hub.git", 1, "is a treering repository already");
    git(&lab, "-C hub.git branch -q copy main");
    fails("-r hub.git snapshots", 1, "on the branches copy, main, and HEAD names none of them");
    git(&lab, "-C hub.git update-ref -d refs/heads/copy");
    git(&lab, "-C hub.git update-ref -d refs/heads/main");
    fails("-r hub.git snapshots", 10, "hub.git is a git repository that holds no snapshots");
    git(&lab, "clone -q --bare else else.git");
    fails("-r else.git snapshots", 10, "else.git is a git repository that holds no snapshots");
    git(&lab, "-C else.git symbolic-ref HEAD refs/heads/gone");
    fails("-r else.git backup tree", 10, "else.git is a git repository that holds no snapshots");
}

#[test]
fn a_shallow_clone_is_a_repository_like_any_other() {
    let lab = with_hub();
    lab.ok(words("remote add origin hub.git"));
    lab.write("tree/notes", "more");
    lab.ok(words("backup tree -q --push"));
    let url = format!("file://{}", lab.path("hub.git").display());
    git(&lab, &format!("clone -q --bare --depth 1 -b main {url} shallow"));
    git(&lab, "-C shallow remote remove origin");
    lab.ok(words("-r shallow remote add origin hub.git"));
    lab.write("tree/notes", "and more");
    lab.ok(words("-r shallow backup tree -q --push"));
    lab.ok(["pull", "-q"]);
    let cold = format!("file://{}", lab.path("cold").display());
    lab.ok(words(&format!("-r shallow remote add cold {cold}")));
    lab.ok(words("-r shallow push cold -q"));
    lab.ok(words(&format!("clone {cold} from-cold -q")));
    for repository in ["shallow", "from-cold"] {
        lab.ok(["-r", repository, "forget", "latest~1", "-q"]);
        lab.ok(["-r", repository, "prune", "--max-unused", "0%", "-q"]);
        lab.ok(["-r", repository, "check", "--read-data"]);
    }
    lab.ok(words("-r shallow push -q"));
    lab.ok(words("-r from-cold push -q"));
    lab.ok(words("pull -q --removals"));
    lab.ok(["check", "--read-data"]);
    git(&lab, "-C shallow fsck --strict --full");
}

#[test]
fn locks_of_a_dead_git_are_named() {
    let lab = with_hub();
    lab.ok(words("remote add origin hub.git"));
    lab.ok(["push", "-q"]);
    lab.ok(words("clone hub.git clone -q"));
    lab.ok(words("-r clone backup tree -q --push"));
    for (name, line) in [
        ("hub.git/refs/heads/main.lock", "push"),
        ("repo/refs/remotes/origin/main.lock", "pull"),
        ("repo/refs/heads/main.lock", "backup tree"),
        ("repo/config.lock", "remote add other clone"),
    ] {
        lab.write("tree/notes", name);
        if line == "push" {
            lab.ok(["pull", "-q"]);
            lab.ok(["backup", "tree", "-q"]);
        }
        lab.write(name, "");
        let outcome = lab.run(words(line));
        assert_eq!(outcome.status, Some(11), "{line}: {}", outcome.err);
        for part in [name, "made", "ago", "remove the file"] {
            assert!(outcome.err.contains(part), "{line}: {}", outcome.err);
        }
        fs::remove_file(lab.path(name)).unwrap();
        lab.ok(words(line));
        if line == "push" {
            lab.ok(words("-r clone pull -q"));
            lab.ok(words("-r clone backup tree -q --push"));
        }
    }
}

#[test]
fn nobody_is_told_to_make_a_repository_where_one_lost_a_part() {
    let lab = Lab::new();
    let branch = "refs/heads/main";
    let cases = [
        ("config", Some(""), "core.bare true"),
        ("config", Some("[[ garbage"), "core.bare true"),
        ("config", None, "core.bare true"),
        ("HEAD", Some(""), "ref: refs/heads/main"),
        ("HEAD", Some("garbage\n"), "ref: refs/heads/main"),
        ("HEAD", None, "ref: refs/heads/main"),
        (branch, Some(""), "update-ref refs/heads/main COMMIT"),
        (branch, Some("garbage\n"), "update-ref refs/heads/main COMMIT"),
    ];
    for (part, content, way_out) in cases {
        let path = lab.path("repo").join(part);
        let whole = fs::read(&path).unwrap();
        match content {
            Some(content) => fs::write(&path, content).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        for line in ["snapshots", "backup tree", "remote list", "pull", "blob list", "kv list repo"] {
            if part == branch && line == "remote list" {
                continue;
            }
            let outcome = lab.run(words(line));
            assert_eq!(outcome.status, Some(1), "{line} with {content:?} in {part}: {outcome:?}");
            assert!(outcome.err.contains(way_out), "{line} with {content:?} in {part}: {}", outcome.err);
            for wrong in ["treering init", "working tree", "class=", "corrupted", "create one"] {
                assert!(!outcome.err.contains(wrong), "{line} with {content:?} in {part}: {}", outcome.err);
            }
        }
        fs::write(&path, whole).unwrap();
        lab.ok(["snapshots"]);
    }
    fs::write(lab.path("repo/config"), "").unwrap();
    git(&lab, "config --file repo/config core.bare true");
    lab.ok(["snapshots"]);
    let branch = lab.path("repo/refs/heads/main");
    let commit = fs::read_to_string(&branch).unwrap();
    fs::remove_file(&branch).unwrap();
    for line in ["snapshots", "backup tree", "check"] {
        let outcome = lab.run(words(line));
        assert_eq!(outcome.status, Some(1), "{outcome:?}");
        assert!(outcome.err.contains("update-ref refs/heads/main COMMIT"), "{}", outcome.err);
        assert!(!outcome.err.contains("treering init"), "{}", outcome.err);
    }
    git(&lab, &format!("-C repo update-ref refs/heads/main {}", commit.trim()));
    lab.ok(["snapshots"]);
}

#[test]
fn a_url_of_a_file_has_two_slashes() {
    let lab = Lab::new();
    let outcome = lab.run(["remote", "add", "cold", "file:/srv/cold"]);
    assert_eq!(outcome.status, Some(1));
    assert!(outcome.err.contains("write file:///srv/cold"), "{}", outcome.err);
}

#[test]
fn a_server_is_reached_without_git() {
    let lab = with_hub();
    let (_daemon, url) = Daemon::start(&lab);
    let ok = |line: &str| {
        let outcome = without_git(&lab, line);
        assert_eq!((outcome.status, outcome.err.as_str()), (Some(0), ""), "{line}: {}", outcome.out);
        outcome.out
    };
    ok(&format!("remote add origin {url}/hub.git"));
    assert!(ok("push").starts_with("Pushed to origin: 1 snapshot in "));
    git(&lab, "-C hub.git fsck --strict --full");
    ok(&format!("clone {url}/hub.git clone"));
    lab.write("tree/notes", "other");
    ok("-r clone backup tree -q --push");
    assert!(ok("pull").starts_with("Pulled from origin: 1 snapshot in "));
    ok("check --read-data");
    // The branch has another name by now, and is not made anew under the old one.
    git(&lab, "-C hub.git branch -q -m rings");
    ok("backup tree -q --push");
    assert_eq!(git(&lab, "-C hub.git for-each-ref --format=%(refname)"), "refs/heads/rings\n");
    git(&lab, "init -q --bare -b main kv.git");
    ok(&format!("kv put {url}/kv.git key tree/notes"));
    assert_eq!(ok(&format!("kv get {url}/kv.git key")), "other");
    git(&lab, "init -q --bare -b trunk trunk.git");
    ok(&format!("kv put {url}/trunk.git key tree/notes"));
    assert_eq!(git(&lab, "-C trunk.git for-each-ref --format=%(refname)"), "refs/heads/trunk\n");
    assert_eq!(ok(&format!("kv get {url}/trunk.git key")), "other");
    let outcome = without_git(&lab, &format!("clone {url}/nothing.git new"));
    assert_eq!(outcome.status, Some(1));
    assert!(outcome.err.contains("there is no git repository where"), "{}", outcome.err);
    lab.write_program("hub.git/hooks/pre-receive", "#!/bin/sh\necho the disk is full >&2\nexit 1\n");
    lab.ok(words("backup tree -q"));
    let outcome = without_git(&lab, "push");
    assert_eq!(outcome.status, Some(1));
    assert!(outcome.err.contains("the disk is full"), "{}", outcome.err);
}

#[test]
fn an_interrupted_push_leaves_nothing_that_the_next_one_has_to_wait_for() {
    let lab = with_hub();
    lab.ok(words("remote add origin hub.git"));
    let hook = "hub.git/hooks/pre-receive";
    lab.write_program(hook, "#!/bin/sh\ntouch \"$GIT_DIR/begun\"\nexec sleep 60\n");
    // As at a terminal, where Ctrl-C reaches every program that runs there.
    let child = lab.command(["push"]).process_group(0).stderr(Stdio::piped()).spawn().unwrap();
    while !lab.path("hub.git/begun").exists() {
        thread::sleep(Duration::from_millis(10));
    }
    rustix::process::kill_process_group(Pid::from_child(&child), interruption()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let left = |directory: &str, prefix: &str| {
        let entries = fs::read_dir(lab.path(directory)).unwrap().map(|entry| entry.unwrap().file_name());
        entries.filter(|name| name.to_string_lossy().starts_with(prefix)).count()
    };
    assert_eq!(left("hub.git/objects", "tmp_"), 0);
    assert_eq!(left("repo/treering", "git-"), 0, "a mark makes the next push wait");
    fs::remove_file(lab.path(hook)).unwrap();
    assert!(lab.ok(["push"]).starts_with("Pushed to origin: 1 snapshot in "));
}

/// Whatever the command, git does not run on when only the program is asked to stop.
#[test]
fn a_signal_to_the_program_alone_ends_the_git_that_it_runs() {
    let lab = with_hub();
    lab.ok(words("remote add origin hub.git"));
    lab.ok(words("backup tree -q"));
    let hub = format!("file://{}", lab.path("hub.git").display());
    let path = std::env::var_os("PATH").unwrap();
    let git = programs::find("git").unwrap();
    lab.ok(words("-r blobs.git blob init"));
    lab.ok(words("-r blobs.git remote add origin hub.git"));
    let commands = [
        "push",
        "pull",
        "backup tree --push",
        "kv get URL k",
        "kv put URL k tree/notes",
        "-r blobs.git blob pull",
    ];
    // Settings are listed before anything else is run, and that can take as long.
    for kind in ["config", "none"] {
        let wrapper = format!(
            "#!/bin/sh\ncase $* in *config*) test {kind} = config || exec {} \"$@\";; esac\n\
             echo $$ > {dir}/pid; mv {dir}/pid {dir}/begun; exec sleep 60\n",
            git.display(),
            dir = lab.path("").display(),
        );
        lab.write_program("bin/git", &wrapper);
        for command in commands {
            fs::create_dir_all(lab.path("tmp")).unwrap();
            let path = std::iter::once(lab.path("bin")).chain(std::env::split_paths(&path));
            let line = command.replace("URL", &hub);
            let mut program = lab.command(words(&line));
            program.env("PATH", std::env::join_paths(path).unwrap()).env("TMPDIR", lab.path("tmp"));
            // A group of its own, as under a service manager: nobody else sends git a signal.
            let child =
                program.process_group(0).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            while !lab.path("begun").exists() {
                thread::sleep(Duration::from_millis(10));
            }
            rustix::process::kill_process(Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
            let group = Pid::from_child(&child);
            let output = child.wait_with_output().unwrap();
            let pid = fs::read_to_string(lab.path("begun")).unwrap().trim().parse().unwrap();
            let is_alive = rustix::process::test_kill_process(Pid::from_raw(pid).unwrap()).is_ok();
            // Not for a minute, whatever the outcome.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            let err = String::from_utf8_lossy(&output.stderr);
            assert!(!is_alive, "{command} leaves git running ({kind}): {err}");
            assert_eq!(output.status.code(), Some(130), "{command} ({kind}): {err}");
            assert_eq!(fs::read_dir(lab.path("tmp")).unwrap().count(), 0, "{command} ({kind})");
            fs::remove_file(lab.path("begun")).unwrap();
        }
    }
    // And nothing has to be waited for or cleaned up.
    lab.ok(["push"]);
}

/// So does no other program.
#[test]
fn a_signal_to_the_program_alone_ends_whatever_it_runs() {
    let lab = with_hub();
    lab.ok(words("backup tree -q"));
    lab.ok(words("remote add far sftp://host//x"));
    lab.ok(["-r", "safe", "init", "--encrypt", "--password-command", "echo secret"]);
    let begin = format!("echo $$ > {0}/pid; mv {0}/pid {0}/begun", lab.path("").display());
    for name in ["ssh", "rclone", "ask"] {
        lab.write_program(&format!("bin/{name}"), &format!("#!/bin/sh\n{begin}\nexec sleep 60\n"));
    }
    lab.write_program("bin/edit", &format!("#!/bin/sh\necho draft > \"$1\"\n{begin}\nexec sleep 60\n"));
    let path = std::env::var_os("PATH").unwrap();
    let path = std::iter::once(lab.path("bin")).chain(std::env::split_paths(&path));
    let path = std::env::join_paths(path).unwrap();
    let commands = [
        "-r safe snapshots --password-command ask",
        "-r new init --encrypt --password-command ask",
        "kv edit hub.git letter",
        "store --url sftp://host//x list data",
        "store --url rclone:far: list data",
        "push far",
    ];
    let signals = [Signal::TERM, Signal::INT, Signal::HUP].map(Signal::as_raw);
    for number in treering::signals::not_ignored(&signals) {
        for line in commands {
            fs::create_dir_all(lab.path("tmp")).unwrap();
            let mut program = lab.command(words(line));
            program
                .env("PATH", &path)
                .env("EDITOR", "edit")
                .env_remove("VISUAL")
                .env("TMPDIR", lab.path("tmp"));
            let mut child =
                program.process_group(0).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            while !lab.path("begun").exists() && child.try_wait().unwrap().is_none() {
                thread::sleep(Duration::from_millis(10));
            }
            assert!(lab.path("begun").exists(), "{line}: {:?}", child.wait_with_output());
            let pid: i32 = fs::read_to_string(lab.path("begun")).unwrap().trim().parse().unwrap();
            let signal = Signal::from_named_raw(number).unwrap();
            rustix::process::kill_process(Pid::from_child(&child), signal).unwrap();
            let output = child.wait_with_output().unwrap();
            let err = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(130), "{line}: {err}");
            // One that nobody waits for any more has no command line.
            let runs = || fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| !words.is_empty());
            let start = Instant::now();
            while runs() && start.elapsed() < Duration::from_secs(20) {
                thread::sleep(Duration::from_millis(10));
            }
            let has_ended = !runs();
            // Not for a minute, whatever the outcome.
            let _ = rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
            assert!(has_ended, "{line} leaves it running: {err}");
            fs::remove_file(lab.path("begun")).unwrap();
            let kept: Vec<_> =
                walkdir::WalkDir::new(lab.path("tmp")).into_iter().map(Result::unwrap).collect();
            let kept: Vec<_> = kept.iter().filter(|entry| entry.file_type().is_file()).collect();
            assert_eq!(kept.len(), usize::from(line.starts_with("kv edit")), "{line}: {kept:?}");
            for draft in kept {
                assert_eq!(fs::read_to_string(draft.path()).unwrap(), "draft\n");
                assert!(err.contains(draft.path().to_str().unwrap()), "{err}");
            }
            fs::remove_dir_all(lab.path("tmp")).unwrap();
        }
    }
}

#[test]
fn what_is_wrong_with_an_address_is_said_once() {
    let lab = with_hub();
    let addresses = [
        "s3:x",
        "s3:/b/p?x=y",
        "b2:x",
        "sftp:x",
        "sftp://h:0/x",
        "sftp://u:p@h/x",
        "sftp://h/%00",
        "webdav://h:99999/x",
        "webdavs:x",
        "rclone:x",
        "file:x",
        "file:///nowhere/x.git",
        "https://h:x/y",
        "https://h/x?token=a",
        "ssh://u:p@h/x",
        "git://",
        "",
    ];
    let mut count = 0;
    for address in addresses {
        let commands: [&[&str]; 4] = [
            &["remote", "add", "far", address],
            &["clone", address, "new"],
            &["clone", "--cold", address, "new"],
            &["store", "--url", address, "list", "data"],
        ];
        for command in commands {
            let Outcome { status, err, .. } = lab.run(command);
            assert!(matches!(status, Some(1 | 10)) && err.lines().count() == 1, "{command:?}: {err}");
            // What is longer than any word.
            let parts = err.trim_end().split([':', ';']).map(str::trim).filter(|part| part.len() > 20);
            for part in parts {
                assert_eq!(err.matches(part).count(), 1, "{command:?} says {part:?} again: {err}");
                count += 1;
            }
        }
    }
    assert!(count > 4 * addresses.len(), "{count}");
}

#[test]
fn a_push_counts_from_what_the_remote_had() {
    let lab = with_hub();
    lab.ok(words("remote add origin hub.git"));
    lab.ok(["push"]);
    for has_git in [true, false] {
        let push = || if has_git { lab.ok(["push"]) } else { without_git(&lab, "push").out };
        // Made anew where it was, as by somebody who repairs a disk.
        fs::remove_dir_all(lab.path("hub.git")).unwrap();
        git(&lab, "init -q --bare hub.git");
        let out = push();
        assert!(out.starts_with("Pushed to origin: 1 snapshot in "), "{has_git}: {out}");
        assert!(push().starts_with("Pushed to origin: nothing new in "));
    }
    // And set back.
    let before = git(&lab, "-C hub.git rev-parse main");
    lab.ok(words("backup tree -q --force"));
    lab.ok(["push"]);
    git(&lab, &format!("-C hub.git update-ref refs/heads/main {}", before.trim()));
    assert!(lab.ok(["push"]).starts_with("Pushed to origin: 1 snapshot in "));
}

#[test]
fn a_refused_removal_is_told_with_the_reason_and_no_advice() {
    type Refusing = fn(&Lab);
    let ways: [(Refusing, &str); 3] = [
        (
            |lab| drop(git(lab, "-C hub.git config receive.denyNonFastForwards true")),
            "denying non-fast-forward",
        ),
        (|lab| drop(lab.ok(words("append-only hook --install hub.git"))), "this remote is append-only"),
        (
            |lab| lab.write_program("hub.git/hooks/update", "#!/bin/sh\ntest -e tree/new || exit 1\n"),
            "hook declined",
        ),
    ];
    for (refuse, reason) in ways {
        let lab = with_hub();
        lab.ok(words("backup tree -q --force"));
        lab.ok(words("remote add origin hub.git"));
        lab.ok(["push"]);
        refuse(&lab);
        lab.ok(words("forget --keep-last 1 --prune -q"));
        let outcome = lab.run(["push"]);
        assert_eq!(outcome.status, Some(0), "{reason}: {outcome:?}");
        let begin = "treering: origin refuses removals and keeps the snapshots that were removed here: ";
        assert!(outcome.err.starts_with(begin) && outcome.err.contains(reason), "{}", outcome.err);
        assert_eq!(outcome.err.lines().count(), 1, "{}", outcome.err);
        for advice in ["pull", "push again", "failed to push"] {
            assert!(!outcome.err.contains(advice), "{}", outcome.err);
        }
        assert!(outcome.out.contains("left 1 snapshot there"), "{}", outcome.out);
    }
}

/// What is in a remote that cannot be reached is neither damaged nor lost, whichever command wants it.
#[test]
fn what_cannot_be_reached_is_never_called_damaged() {
    let (lab, url) = with_cold();
    let before: String = (0..20_000).map(|number| format!("line {number}\n")).collect();
    lab.write("tree/large", &before);
    lab.ok(words("backup tree -q"));
    lab.ok(["push"]);
    lab.ok(words("layers evict"));
    fs::rename(lab.path("store"), lab.path("away")).unwrap();
    lab.write("tree/large", &before.replace("line 77\n", "another line\n"));
    let commands = [
        ("check", 1),
        ("check --read-data", 1),
        ("cat latest:notes", 1),
        ("restore latest -t out", 3),
        ("layers fetch", 1),
        ("pull", 1),
        ("push", 1),
        ("backup tree", 0),
        ("backup tree -f", 0),
        ("backup tree --push", 1),
    ];
    for (line, status) in commands {
        let outcome = lab.run(words(line));
        assert_eq!(outcome.status, Some(status), "{line}: {outcome:?}");
        for named in ["the cold remote cold", &url, "that the disk is mounted"] {
            assert!(outcome.err.contains(named), "{line} does not say {named}: {}", outcome.err);
        }
        for wrong in ["damaged", "missing", "treering check"] {
            assert!(!outcome.err.contains(wrong), "{line} says {wrong}: {}", outcome.err);
        }
    }
    // A check counts it by itself, and not as a fault.
    let outcome = lab.run(words("check --read-data"));
    assert!(outcome.out.contains(": no faults, ") && outcome.out.contains(" out of reach\n"), "{outcome:?}");
    assert!(
        outcome.err.lines().all(|line| line.starts_with("treering: out of reach, so not checked: ")),
        "{outcome:?}"
    );
    // One reason is told once.
    assert_eq!(outcome.err.lines().count(), 1, "{outcome:?}");
    assert!(outcome.err.contains(" more things for the same reason; affects "), "{outcome:?}");
    let told = outcome.out.split(": no faults, ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    let outcome = lab.run(words("check --read-data --json"));
    let document: Value = serde_json::from_str(&outcome.out).unwrap();
    assert_eq!(
        (outcome.status, document["faults"].as_array().map(Vec::len)),
        (Some(1), Some(0)),
        "{document}"
    );
    assert_eq!(document["out_of_reach"].as_array().unwrap().len(), 1, "{document}");
    let count = document["out_of_reach"][0]["count"].as_u64().unwrap();
    assert!(count > 1 && told == count.to_string(), "{told}: {document}");
    fs::rename(lab.path("away"), lab.path("store")).unwrap();
    lab.ok(words("check --read-data"));
}

#[test]
fn a_first_push_makes_no_store_where_a_disk_is_missing() {
    let lab = with_hub();
    let add = |name: &str, path: &str| {
        let url = format!("file://{}", lab.path(path).display());
        lab.ok(["remote", "add", name, &url]);
    };
    // The directory of the disk is missing, and then there.
    add("cold", "disk/rings");
    for line in ["push cold", "pull cold", "backup tree --push=cold"] {
        let outcome = lab.run(words(line));
        assert_eq!(outcome.status, Some(1), "{line}: {outcome:?}");
        assert!(outcome.err.contains("mount"), "{line}: {}", outcome.err);
        assert!(!lab.path("disk").exists(), "{line}");
    }
    fs::create_dir(lab.path("disk")).unwrap();
    let out = lab.ok(words("push cold"));
    assert!(
        out.contains(&format!("\n  made a store at file://{}\n", lab.path("disk/rings").display())),
        "{out}"
    );
    assert!(!lab.ok(words("push cold")).contains("made"));
    // One that was there is made by nobody.
    fs::remove_dir_all(lab.path("disk/rings")).unwrap();
    let outcome = lab.run(words("push cold"));
    assert!(outcome.status == Some(1) && outcome.err.contains("that the disk is mounted"), "{outcome:?}");
    assert!(!lab.path("disk/rings").exists());
    // Nor a git repository.
    lab.ok(words("remote add git away/hub.git"));
    let outcome = lab.run(words("push git"));
    assert!(outcome.status == Some(1) && outcome.err.contains("no git repository where"), "{outcome:?}");
    assert!(!lab.path("away").exists());
}

#[test]
fn a_first_push_makes_no_store_where_a_disk_is_not_mounted() {
    let lab = Lab::new();
    lab.ok(["backup", "tree"]);
    fs::create_dir_all(lab.path("disk")).unwrap();
    let script = "
        mount -t tmpfs none disk
        $T remote add cold \"file://$PWD/disk/rings\"
        umount disk
        $T push cold
    ";
    let Some(Outcome { status, err, .. }) = lab.with_mounts(script) else { return };
    assert!(err.contains("nothing is mounted at ") && err.contains("/disk, where"), "{err}");
    assert_eq!(status, Some(1));
    assert_eq!(fs::read_dir(lab.path("disk")).unwrap().count(), 0);
    // It is mounted again.
    let pushed = lab.with_mounts("mount -t tmpfs none disk; $T push cold").unwrap();
    assert_eq!(pushed.status, Some(0), "{}", pushed.err);
    // And gone again, after it was seen.
    let pushed = lab.run(words("push cold"));
    assert!(pushed.status == Some(1) && pushed.err.contains("that the disk is mounted"), "{pushed:?}");
    assert_eq!(fs::read_dir(lab.path("disk")).unwrap().count(), 0);
}

/// Removes the layer that holds the newest commit, or its pack alone.
fn lose_newest(lab: &Lab, with_index: bool) {
    let index = newest_index(lab);
    fs::remove_file(index.with_extension("pack")).unwrap();
    if with_index {
        fs::remove_file(index).unwrap();
    }
}

/// The index of the layer that holds the newest commit.
fn newest_index(lab: &Lab) -> std::path::PathBuf {
    let newest = fs::read_to_string(lab.path("repo/refs/heads/main")).unwrap();
    index_with(lab, &format!("{} commit", newest.trim()))
}

/// The index of the layer that holds the object of that id and kind.
fn index_with(lab: &Lab, object: &str) -> std::path::PathBuf {
    let packs = fs::read_dir(lab.path("repo/objects/pack")).unwrap().map(|entry| entry.unwrap().path());
    let indexes: Vec<_> = packs.filter(|path| path.extension().is_some_and(|end| end == "idx")).collect();
    let holds = |index: &&std::path::PathBuf| {
        git(lab, &format!("verify-pack -v {}", index.display())).contains(object)
    };
    indexes.iter().find(holds).expect("some layer has it").clone()
}

/// Where the remote `git` or `cold` of a lab lies.
fn address_of(lab: &Lab, remote: &str) -> String {
    match remote {
        "git" => lab.path("hub.git").display().to_string(),
        _ => format!("file://{}", lab.path("store").display()),
    }
}

#[test]
fn a_lost_newest_state_comes_back_from_any_remote() {
    for (remote, line) in
        [("git", "pull git"), ("cold", "pull cold"), ("cold", "layers fetch"), ("git", "layers fetch")]
    {
        for with_index in [false, true] {
            let lab = with_hub();
            lab.ok(["remote", "add", remote, &address_of(&lab, remote)]);
            lab.ok(["push", "-q"]);
            let before = lab.ok(["snapshots"]);
            lose_newest(&lab, with_index);
            for line in ["snapshots", "backup tree", "check", "push"] {
                let outcome = lab.run(words(line));
                assert_eq!(outcome.status, Some(1), "{line}: {outcome:?}");
                assert!(outcome.err.contains("`treering -r repo pull`"), "{line}: {}", outcome.err);
            }
            let outcome = lab.run(words(line));
            assert_eq!(outcome.status, Some(0), "{remote}, {line}, {with_index}: {outcome:?}");
            assert!(
                outcome
                    .err
                    .contains(&format!("restored the missing objects of the latest commit from {remote}")),
                "{}",
                outcome.err
            );
            assert_eq!(lab.ok(["snapshots"]), before);
            lab.ok(words("check --read-data"));
            lab.ok(words("backup tree -q --push"));
            lab.ok(words("check --read-data"));
        }
    }
}

#[test]
fn a_check_of_a_damaged_tree_says_what_else_was_checked() {
    for tree in ["HEAD^{tree}", "HEAD:snapshots", "HEAD:archives", "HEAD"] {
        let lab = with_hub();
        lab.ok(words("backup tree -q"));
        let object = git(&lab, &format!("-C repo rev-parse {tree}")).trim().to_owned();
        let index = index_with(&lab, &object);
        let listed = git(&lab, &format!("verify-pack -v {}", index.display()));
        let line = listed.lines().find(|line| line.starts_with(&object)).unwrap();
        let at: usize = line.split_whitespace().nth(4).unwrap().parse().unwrap();
        let pack = index.with_extension("pack");
        let mut bytes = fs::read(&pack).unwrap();
        bytes[at + 8] ^= 0xff;
        fs::set_permissions(&pack, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&pack, bytes).unwrap();
        for line in ["check", "check --read-data"] {
            let outcome = lab.run(words(line));
            assert_eq!(outcome.status, Some(1), "{tree}: {outcome:?}");
            assert!(
                outcome.err.contains(&object) && outcome.err.contains("is damaged"),
                "{tree}: {outcome:?}"
            );
            let last = outcome.out.lines().last().unwrap_or_default();
            assert!(last.starts_with("Checked ") && last.contains(" fault"), "{tree}: {outcome:?}");
            assert_eq!(last.contains("; read "), line != "check", "{tree}: {outcome:?}");
        }
        let outcome = lab.run(words("check --json"));
        let document: serde_json::Value = serde_json::from_str(&outcome.out).unwrap();
        let told = document["faults"][0]["message"].as_str().unwrap();
        assert!(outcome.status == Some(1) && told.contains(&object), "{tree}: {outcome:?}");
    }
}

#[test]
fn a_newest_state_whose_index_is_damaged_comes_back_from_a_cold_remote() {
    for (line, len) in [("pull cold", 100), ("layers fetch", 0), ("pull cold", 1100)] {
        let lab = with_hub();
        lab.ok(["remote", "add", "cold", &address_of(&lab, "cold")]);
        lab.ok(["push", "-q"]);
        let before = lab.ok(["snapshots"]);
        let index = newest_index(&lab);
        let sound = fs::read(&index).unwrap();
        fs::write(&index, &sound[..len]).unwrap();
        let outcome = lab.run(["snapshots"]);
        assert_eq!(outcome.status, Some(1), "{outcome:?}");
        assert!(outcome.err.contains("`treering -r repo pull`"), "{outcome:?}");
        let outcome = lab.run(words(line));
        assert_eq!(outcome.status, Some(0), "{line}: {outcome:?}");
        assert!(fs::read(&index).unwrap() == sound, "{line}");
        assert_eq!(lab.ok(["snapshots"]), before);
        lab.ok(words("check --read-data"));
    }
}

#[test]
fn a_newest_state_whose_index_is_damaged_comes_back_from_a_git_remote() {
    let lab = with_hub();
    lab.ok(["remote", "add", "git", &address_of(&lab, "git")]);
    lab.ok(["push", "-q"]);
    let before = lab.ok(["snapshots"]);
    let index = newest_index(&lab);
    fs::write(&index, "").unwrap();
    lab.run(["pull", "git"]);
    let outcome = lab.run(["snapshots"]);
    assert_eq!(outcome.out, before, "{outcome:?}");
    // What is wrong with the index is told as long as it is there.
    git(&lab, &format!("index-pack {}", index.with_extension("pack").display()));
    lab.ok(words("check --read-data"));
}

#[test]
fn data_that_only_a_git_remote_has_comes_back_with_a_pull() {
    let programs = std::env::var("PATH").unwrap();
    for (with_index, path) in [(true, &*programs), (false, &programs), (true, "/empty"), (false, "/empty")] {
        let lab = with_hub();
        let volumes = || -> Vec<String> {
            let listed = git(&lab, "--git-dir repo ls-tree -r main archives");
            let volumes = listed.lines().filter(|line| line.contains(".tar"));
            volumes.map(|line| line.split_whitespace().nth(2).unwrap().to_owned()).collect()
        };
        let first = volumes();
        lab.write("tree/more", &"more and more\n".repeat(100));
        lab.ok(words("backup tree -q"));
        lab.ok(["remote", "add", "git", &address_of(&lab, "git")]);
        lab.ok(["push", "-q"]);
        let lost = volumes().into_iter().find(|volume| !first.contains(volume)).unwrap();
        let index = index_with(&lab, &format!("{lost} blob"));
        fs::remove_file(index.with_extension("pack")).unwrap();
        if with_index {
            fs::remove_file(&index).unwrap();
        }
        let outcome = lab.run(["check"]);
        assert!(outcome.status != Some(0), "{outcome:?}");
        assert!((outcome.out.clone() + &outcome.err).contains("`treering pull`"), "{outcome:?}");
        let pull = Outcome::lossy(lab.command(words("pull git")).env("PATH", path).output().unwrap());
        assert_eq!(pull.status, Some(0), "{pull:?}");
        lab.ok(words("check --read-data"));
        if path != "/empty" {
            let packed = git(&lab, &format!("verify-pack -v {}", index_with(&lab, &lost).display()));
            assert!(!packed.contains(" commit "), "what was there came again: {packed}");
        }
        // With nothing to bring, nothing comes.
        let packs = || fs::read_dir(lab.path("repo/objects/pack")).unwrap().count();
        let before = packs();
        lab.ok(words("pull git"));
        assert_eq!(packs(), before);
    }
}

#[test]
fn where_no_remote_has_the_newest_state_the_way_back_is_told_and_works() {
    for remote in ["git", "cold"] {
        let lab = with_hub();
        lab.ok(["remote", "add", remote, &address_of(&lab, remote)]);
        lab.ok(["push", "-q"]);
        let before = lab.ok(["snapshots"]);
        lab.write("tree/notes", "later\n");
        lab.ok(words("backup tree -q"));
        lose_newest(&lab, true);
        let outcome = lab.run(["pull"]);
        assert_eq!(outcome.status, Some(1), "{outcome:?}");
        let advice = outcome.err.split('`').nth(1).unwrap();
        git(&lab, advice.strip_prefix("git ").expect("it is a command of git"));
        lab.ok(["pull", remote]);
        assert_eq!(lab.ok(["snapshots"]), before);
        lab.ok(words("backup tree -q --push"));
        lab.ok(words("check --read-data"));
    }
}

/// A server that takes every connection, and never answers; and how many it has taken.
fn silent_server() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = taken.clone();
    thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            kept.push(stream);
            counter.fetch_add(1, SeqCst);
        }
    });
    (address, taken)
}

#[test]
fn a_signal_is_heeded_while_a_store_does_not_answer() {
    let (lab, _) = with_cold();
    lab.ok(["push", "cold"]);
    for scheme in ["webdav://HOST/x", "s3:key:secret@http://HOST/bucket/x?region=x"] {
        let (host, taken) = silent_server();
        let url = scheme.replace("HOST", &host);
        fs::write(lab.path("repo/treering/remotes/cold/url"), format!("{url}\n")).unwrap();
        for command in ["pull cold", "push cold"] {
            let before = taken.load(SeqCst);
            let child = lab.command(words(command)).process_group(0).stderr(Stdio::piped()).spawn().unwrap();
            while taken.load(SeqCst) == before {
                thread::sleep(Duration::from_millis(10));
            }
            rustix::process::kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
            let output = child.wait_with_output().unwrap();
            let err = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(130), "{command} {scheme}: {err}");
            // Whoever goes on asks again.
            assert_eq!(taken.load(SeqCst), before + 1, "{command} {scheme}: {err}");
        }
    }
}
