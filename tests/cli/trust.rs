//! A repository that was copied from elsewhere starts nothing when it is read, and a person's own ones need no word.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::lab::{Lab, Outcome, answering_server};
use crate::programs;

/// What stands in the repository that came from elsewhere.
struct Plant {
    name: &'static str,
    /// A script, run in the directory of the lab, that plants it in the repository `copied`. `$MARK` makes the marker.
    script: &'static str,
    /// What makes the marker where all of it is trusted; nothing, where git itself would not start it here.
    starts: Option<&'static str>,
}

const fn plant(name: &'static str, script: &'static str, starts: Option<&'static str>) -> Plant {
    Plant { name, script, starts }
}

const PLANTS: [Plant; 19] = [
    plant(
        "a connection string",
        "printf 'rclone::webdav,bearer_token_command=\"%s\":x\\n' $MARK > copied/treering/remotes/cold/url",
        Some("check --read-data"),
    ),
    plant(
        "a remote of rclone",
        "echo rclone:drive:x > copied/treering/remotes/cold/url",
        Some("restore latest -t out"),
    ),
    plant(
        "core.sshCommand",
        "$C core.sshCommand $MARK; $C remote.origin.url ssh://127.0.0.1/x",
        Some("pull origin"),
    ),
    plant("a host that is an option", "$C remote.origin.url ssh://-oProxyCommand=$MARK/x", None),
    plant(
        "include.path",
        "printf '[core]\\n sshCommand = %s\\n' $MARK > evil; $C include.path $PWD/evil; $C remote.origin.url me@127.0.0.1:x",
        Some("pull origin"),
    ),
    plant(
        "includeIf",
        "printf '[core]\\n sshCommand = %s\\n' $MARK > evil; $C includeIf.gitdir:/.path $PWD/evil; $C remote.origin.url me@127.0.0.1:x",
        Some("pull origin"),
    ),
    plant("ext::", "$C protocol.ext.allow always; $C remote.origin.url \"ext::$MARK\"", Some("pull origin")),
    plant(
        "insteadOf",
        "$C protocol.ext.allow always; $C \"url.ext::$MARK .insteadOf\" $PWD/hub",
        Some("pull origin"),
    ),
    plant(
        "pushInsteadOf",
        "$C protocol.ext.allow always; $C \"url.ext::$MARK .pushInsteadOf\" $PWD/hub",
        Some("push origin"),
    ),
    plant(
        "pushurl",
        "$C protocol.ext.allow always; $C remote.origin.pushurl \"ext::$MARK\"",
        Some("push origin"),
    ),
    plant("vcs", "$C protocol.allow always; $C remote.origin.vcs evil", Some("pull origin")),
    plant(
        "credential.helper",
        "$C credential.helper \"!$MARK\"; $C remote.origin.url http://$HTTP/x.git",
        Some("pull origin"),
    ),
    plant(
        "core.askPass",
        "$C core.askPass $MARK; $C remote.origin.url http://$HTTP/x.git",
        Some("pull origin"),
    ),
    plant(
        "core.gitProxy",
        "$C core.gitProxy $MARK; $C remote.origin.url git://127.0.0.1/x.git",
        Some("pull origin"),
    ),
    plant(
        "uploadpack and receivepack",
        "$C remote.origin.uploadpack $MARK; $C remote.origin.receivepack $MARK; $C remote.origin.url localhost:x; $C core.sshCommand 'sh -c \"eval \\\"\\$2\\\"\" -'",
        Some("pull origin"),
    ),
    plant(
        "hooks",
        "for hook in reference-transaction pre-push post-checkout; do cp $MARK copied/hooks/$hook; done",
        Some("push origin"),
    ),
    plant(
        "core.hooksPath",
        "mkdir -p evil; cp $MARK evil/reference-transaction; cp $MARK evil/pre-push; $C core.hooksPath $PWD/evil",
        Some("push origin"),
    ),
    plant("core.fsmonitor", "$C core.fsmonitor $MARK", None),
    plant(
        "filters",
        "$C filter.x.smudge $MARK; $C filter.x.clean $MARK; mkdir -p copied/info; echo '* filter=x' > copied/info/attributes",
        None,
    ),
];

/// What a person may do with a repository to see what is in it, and to go on with it.
const COMMANDS: [&str; 19] = [
    "snapshots",
    "ls latest",
    "cat latest:notes",
    "diff latest tree",
    "check",
    "check --read-data",
    "restore latest -t out",
    "remote list",
    "layers list",
    "layers fetch",
    "forget --keep-last 1 --dry-run",
    "prune --dry-run",
    "pull origin",
    "pull cold",
    "backup tree -q",
    "push origin",
    "clone copied clone",
    "kv list copied",
    "blob list",
];

/// A repository that was pushed to a git repository and to a cold remote, and has its data there alone.
fn pushed() -> Lab {
    let lab = Lab::new();
    lab.ok(["backup", "tree", "-q"]);
    let git = Command::new("git").args(["init", "-q", "--bare"]).arg(lab.path("hub")).status();
    assert!(git.unwrap().success());
    fs::set_permissions(lab.path("hub"), fs::Permissions::from_mode(0o700)).unwrap();
    lab.ok(["remote", "add", "origin", "hub"]);
    lab.ok(["push", "-q"]);
    lab.ok(["remote", "add", "cold", &format!("file://{}", lab.path("store").display())]);
    lab.ok(["push", "cold", "-q"]);
    lab.ok(["layers", "evict"]);
    for program in ["mark", "bin/rclone", "bin/git-remote-evil"] {
        lab.write_program(program, &format!("#!/bin/sh\ntouch '{}'\nexit 1\n", lab.path("marker").display()));
    }
    lab
}

fn sh(lab: &Lab, script: &str, http: &str) {
    let mut command = Command::new("sh");
    command.args(["-euc", script]).current_dir(lab.path("")).stdin(Stdio::null());
    command.env("MARK", lab.path("mark")).env("HTTP", http).env("C", "git -C copied config");
    assert!(command.status().unwrap().success(), "{script}");
}

fn run(lab: &Lab, line: &str) -> Outcome {
    let mut command = lab.command(["-r", "copied"].into_iter().chain(line.split(' ')));
    let path = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{}:{path}", lab.path("bin").display())).env("HOME", lab.path("home"));
    command.env("GIT_TERMINAL_PROMPT", "0").env_remove("GIT_ASKPASS").env_remove("SSH_ASKPASS");
    Outcome::lossy(command.output().unwrap())
}

/// Whether something was started meanwhile.
fn was_started(lab: &Lab) -> bool {
    fs::remove_file(lab.path("marker")).is_ok()
}

#[test]
fn a_copied_repository_starts_nothing() {
    if !programs::are_here(&["git", "ssh"]) {
        return;
    }
    // It asks for a password.
    let http = answering_server("401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"");
    std::thread::scope(|scope| {
        for plants in PLANTS.chunks(5) {
            let http = &http;
            scope.spawn(move || plants.iter().for_each(|plant| try_out(plant, http)));
        }
    });
}

fn try_out(plant: &Plant, http: &str) {
    let lab = pushed();
    sh(&lab, "cp -a repo copied && mkdir -p copied/hooks", http);
    sh(&lab, plant.script, http);
    for command in COMMANDS {
        let outcome = run(&lab, command);
        assert!(!was_started(&lab), "{}: {command} started it: {outcome:?}", plant.name);
        assert!(outcome.status != Some(101), "{outcome:?}");
        let _ = fs::remove_dir_all(lab.path("clone"));
        let _ = fs::remove_dir_all(lab.path("out"));
    }
    // It is no empty shell: with trust it starts.
    if let Some(starts) = plant.starts {
        let trusted = run(&lab, "remote trust");
        assert!(trusted.out.starts_with("Trusted "), "{}: {trusted:?}", plant.name);
        lab.write("tree/notes", "other");
        run(&lab, "backup tree -q");
        let outcome = run(&lab, starts);
        assert!(was_started(&lab), "{}: {starts} did not start it: {outcome:?}", plant.name);
    }
}

#[test]
fn what_is_not_trusted_is_named_with_the_way_to_trust_it() {
    let lab = pushed();
    sh(&lab, "cp -a repo copied; echo rclone:drive:x > copied/treering/remotes/cold/url", "");
    for line in ["pull cold", "layers fetch", "restore latest -t out"] {
        let outcome = run(&lab, line);
        assert!(outcome.err.contains("remote trust cold"), "{line}: {}", outcome.err);
        assert_ne!(outcome.status, Some(0));
    }
    assert_eq!(run(&lab, "remote trust cold").out, "Trusted the address of cold\n");
    run(&lab, "pull cold");
    assert!(was_started(&lab), "it may be used now");
    // Another address, and another place, are not what was trusted.
    sh(&lab, "echo rclone:drive:y > copied/treering/remotes/cold/url", "");
    assert!(run(&lab, "pull cold").err.contains("remote trust cold"));
    sh(
        &lab,
        "echo rclone:drive:x > copied/treering/remotes/cold/url; mv copied moved; cp -a moved copied2",
        "",
    );
    let outcome = lab.run(["-r", "copied2", "pull", "cold"]);
    assert!(outcome.err.contains("remote trust cold"), "{}", outcome.err);
    assert_eq!(lab.ok(["-r", "repo", "remote", "trust"]), "There is nothing that needs trust\n");
}

#[test]
fn a_persons_own_repositories_need_no_word() {
    let lab = pushed();
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", lab.path("bin").display());
    let run = |line: &str| {
        let output = lab.command(line.split(' ')).env("PATH", &path).output().unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    // What the person gave on the command line counts in every later command.
    assert_eq!(run("remote add drive rclone:drive:rings"), "");
    run("push drive");
    assert!(was_started(&lab));
    run("clone rclone:drive:rings clone");
    assert!(was_started(&lab));
    let trusted = fs::metadata(lab.path("state/treering/trusted")).unwrap();
    assert_eq!(trusted.permissions().mode() & 0o777, 0o600);
    // Addresses that start nothing count without a file that says so, as where the home is another one.
    fs::remove_dir_all(lab.path("state")).unwrap();
    fs::write(lab.path("state"), "in the way").unwrap();
    for line in ["pull origin", "pull cold", "layers fetch", "check --read-data", "restore latest -t out"] {
        assert_eq!(lab.run(line.split(' ')).status, Some(0), "{line}");
    }
    assert!(run("push drive").contains("remote trust drive"));
}

/// A working tree elsewhere would be written to.
#[test]
fn a_copied_clone_has_no_working_tree_elsewhere() {
    let lab = Lab::new();
    let elsewhere: PathBuf = lab.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let script = "git init -q copied; git -C copied -c user.name=x -c user.email=x@x commit -q --allow-empty -m x; \
        git -C copied config core.worktree $PWD/elsewhere";
    sh(&lab, script, "");
    for line in ["kv put copied key tree/notes", "kv put copied/.git key tree/notes", "kv list copied"] {
        let outcome = lab.run(line.split(' '));
        assert_ne!(outcome.status, Some(0), "{line}: {outcome:?}");
    }
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    sh(&lab, "git -C copied config --unset core.worktree", "");
    lab.ok("kv put copied key tree/notes".split(' '));
    symlink(lab.path("copied"), lab.path("link")).unwrap();
    lab.ok("kv get link key".split(' '));
}
