//! Who else on a host gets at a repository.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use crate::lab::{Lab, Outcome};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_new_repository_is_for_its_owner() {
    let lab = Lab::new();
    lab.ok(["backup", "tree"]);
    lab.ok(["-r", "deep/repo", "init", "--encrypt", "--recipient", &recipient(&lab)]);
    lab.ok(["-r", "blobs", "blob", "init"]);
    lab.ok(["clone", "repo", "clone"]);
    for name in ["repo", "deep/repo", "blobs", "clone"] {
        assert_eq!(mode(&lab.path(name)), 0o700, "{name}");
    }
}

/// A key to lock a repository for.
fn recipient(lab: &Lab) -> String {
    let init = ["-r", "key", "init", "--encrypt", "--json", "--password-command", "echo long enough"];
    let made: serde_json::Value = serde_json::from_str(&lab.ok(init)).unwrap();
    made["recipient"].as_str().unwrap().to_owned()
}

#[test]
fn one_that_everybody_can_read_is_pointed_out() {
    let lab = Lab::new();
    lab.ok(["backup", "tree"]);
    let open = |name: &str, mode| fs::set_permissions(lab.path(name), Permissions::from_mode(mode)).unwrap();
    let warned = |arguments: &[&str]| {
        let Outcome { status, err, .. } = lab.run(arguments);
        assert_eq!(status, Some(0), "{err}");
        err.contains("every user of this host can read the repository")
    };
    let everything: [&[&str]; 3] = [&["snapshots"], &["-q", "backup", "tree"], &["check"]];
    let is_reached = lab.path("").ancestors().skip(1).all(|above| mode(above) & 1 != 0);
    // Nobody gets to it by way of the directory that holds it.
    open("", 0o700);
    open("repo", 0o755);
    assert!(!everything.iter().any(|arguments| warned(arguments)));
    open("", 0o755);
    assert!(everything.iter().all(|arguments| warned(arguments) == is_reached));
    open("repo", 0o750);
    assert!(!everything.iter().any(|arguments| warned(arguments)));
}

/// In a shared repository of blobs or keys the group gets what is written there, and nothing that is written elsewhere.
#[test]
fn what_is_read_from_a_shared_repository_is_not_for_the_group() {
    let lab = Lab::bare();
    lab.ok(["-r", "blobs", "blob", "init"]);
    let git = |arguments: &[&str]| {
        assert!(Command::new("git").current_dir(lab.path("")).args(arguments).status().unwrap().success());
    };
    git(&["-C", "blobs", "config", "core.sharedRepository", "group"]);
    git(&["init", "-q", "--bare", "hub"]);
    git(&["-C", "blobs", "remote", "add", "hub", lab.path("hub").to_str().unwrap()]);
    let ok = |arguments: &[&str]| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "umask 077; exec \"$@\"", "sh"]);
        let output = lab.by(shell, arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let packs = || fs::read_dir(lab.path("blobs/objects/pack")).unwrap().map(|entry| entry.unwrap().path());
    for (round, line) in
        ["-r blobs blob add tree/notes", "kv put blobs key tree/notes"].into_iter().enumerate()
    {
        ok(&line.split(' ').collect::<Vec<_>>());
        assert!(packs().count() > 2 * round, "{line}");
        for pack in packs() {
            assert_eq!(mode(&pack) & 0o040, 0o040, "{line}: {}", pack.display());
        }
    }
    ok(&["-r", "blobs", "blob", "push", "hub"]);
    ok(&["-r", "blobs", "blob", "pull", "hub"]);
    ok(&["-r", "blobs", "blob", "get", "--output", "out"]);
    let out: Vec<_> = fs::read_dir(lab.path("out")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(out.len(), 1);
    assert_eq!(mode(&out[0]), 0o600);
    assert_eq!(mode(&lab.path("out")), 0o700);
}

const GROUP: u32 = 50505;

/// Two users of the group [`GROUP`], and a repository `place/repo` that they share. The first one made it.
struct Members {
    lab: Lab,
}

impl Members {
    const FIRST: &str = "40001";
    const SECOND: &str = "40002";

    /// `None` where they cannot be tried.
    fn new() -> Option<Self> {
        Self::of("init --shared")
    }

    /// The same with a repository that this command of the first one makes.
    fn of(init: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !crate::programs::are_here(&["setpriv"]) {
            eprintln!("skipped: only root can be somebody else");
            return None;
        }
        let members = Self { lab: Lab::bare() };
        let lab = &members.lab;
        lab.write("home/.gitconfig", "[safe]\n\tdirectory = *\n");
        members.open("", 0o777);
        members.open("home", 0o777);
        fs::create_dir(lab.path("place")).unwrap();
        std::os::unix::fs::chown(lab.path("place"), Some(40001), Some(GROUP)).unwrap();
        members.open("place", 0o2775);
        // The program has to be reached too.
        if members.run(Self::FIRST, "--version").status != Some(0) {
            eprintln!("skipped: the program lies where others cannot run it");
            return None;
        }
        members.ok(Self::FIRST, init);
        Some(members)
    }

    fn open(&self, name: &str, mode: u32) {
        fs::set_permissions(self.lab.path(name), Permissions::from_mode(mode)).unwrap();
    }

    /// The outcome of a command as this user, the second one of whom has another group besides.
    fn run(&self, user: &str, line: &str) -> Outcome {
        let group = GROUP.to_string();
        let first = if user == Self::FIRST { &group } else { user };
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--reuid", user, "--regid", first, "--groups", &group, "--"]);
        self.run_by(setpriv, user, line)
    }

    fn run_by(&self, by: Command, user: &str, line: &str) -> Outcome {
        let line = format!("-r place/repo {line}");
        let mut command = self.lab.by(by, line.split(' '));
        let home = self.lab.path("home");
        command.env("XDG_CACHE_HOME", home.join(user)).env("HOME", home);
        Outcome::lossy(command.output().unwrap())
    }

    /// The output of a command as root, who lets nobody else read what he makes.
    fn ok_as_root(&self, line: &str) -> String {
        let mut shell = Command::new("sh");
        shell.args(["-c", "umask 077; exec \"$@\"", "sh"]);
        let outcome = self.run_by(shell, "root", line);
        assert_eq!(outcome.status, Some(0), "root {line}: {outcome:?}");
        outcome.out
    }

    fn ok(&self, user: &str, line: &str) -> String {
        let outcome = self.run(user, line);
        assert_eq!(outcome.status, Some(0), "{user} {line}: {outcome:?}");
        outcome.out
    }
}

#[test]
fn members_of_a_group_share_a_repository() {
    let Some(members) = Members::new() else { return };
    let (first, second) = (Members::FIRST, Members::SECOND);
    for round in 0..3 {
        for user in [first, second] {
            members.lab.write("tree/notes", &format!("{round} {user}"));
            members.ok(user, "backup tree");
        }
    }
    members.ok(second, "forget --keep-last 2");
    members.ok(first, "prune");
    members.ok(second, "compression zstd");
    members.ok(first, "append-only on");
    members.ok(second, "check --read-data");
    let mut files = 0;
    for entry in walkdir::WalkDir::new(members.lab.path("place/repo")) {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        assert_eq!(metadata.gid(), GROUP, "{}", entry.path().display());
        let wanted = if metadata.is_dir() { 0o2070 } else { (metadata.mode() & 0o600) >> 3 };
        assert_eq!(metadata.mode() & wanted, wanted, "{}: {:o}", entry.path().display(), metadata.mode());
        files += 1;
    }
    assert!(files > 20);
    assert_eq!(mode(&members.lab.path("place/repo")) & 0o7, 0, "others are not in the group");
}

/// Who may not look at the cold remote of another user is told just that, and works on with what is here.
#[test]
fn a_cold_remote_of_another_user_is_no_fault_of_the_repository() {
    let Some(members) = Members::new() else { return };
    let (first, second) = (Members::FIRST, Members::SECOND);
    members.lab.write("tree/notes", "notes");
    members.lab.write("tree/more", "more");
    members.ok(first, "backup tree");
    let cold = members.lab.path("place/cold");
    members.ok(first, &format!("remote add cold file://{}", cold.display()));
    members.ok(first, "push cold");
    let remotes = "place/repo/treering/remotes";
    assert_eq!(mode(&members.lab.path(&format!("{remotes}/cold"))) & 0o2070, 0o2070);
    members.ok(second, "check --read-data");
    members.ok(first, "layers evict");
    // As they are made, and as one makes them who has the umask 077 and an older version.
    let closed = [("cold/url", 0o600), ("cold/head", 0o600), ("cold", 0o700), ("", 0o700)];
    for (name, shut) in closed {
        let name = format!("{remotes}/{name}");
        let before = mode(&members.lab.path(&name));
        members.open(&name, shut);
        for line in ["snapshots", "ls latest", "backup tree", "prune", "layers merge"] {
            // It looks where each layer is.
            if line == "layers merge" && name != format!("{remotes}/cold/url") {
                continue;
            }
            members.ok(second, line);
        }
        let told = |line: &str, status| {
            let Outcome { status: ended, err, .. } = members.run(second, line);
            assert_eq!(ended, Some(status), "{name}, {line}: {err}");
            assert!(
                err.contains("treering/remotes") && err.contains("Permission denied"),
                "{name}, {line}: {err}"
            );
            for wrong in ["damaged", "missing", "is gone", "there is no remote"] {
                assert!(!err.contains(wrong), "{name}, {line} says {wrong}: {err}");
            }
        };
        told("check", 1);
        told("check --read-data", 1);
        assert!(members.run(second, "check").out.contains(": no faults, "), "{name}");
        told("push cold", 1);
        told("pull cold", 1);
        told("push", 1);
        told("layers fetch", 1);
        told("remote remove cold", 1);
        told("remote list", 3);
        told(&format!("cat latest:{}", members.lab.path("tree/notes").display()), 1);
        told("restore --target out latest", 3);
        members.open(&name, before);
    }
    members.ok(first, "check --read-data");
}

/// The store of a cold remote is for whom the repository is; a store that is made by itself, for whom the umask says.
#[test]
fn a_store_for_a_cold_remote_is_for_its_owner() {
    let lab = Lab::new();
    lab.ok(["backup", "tree"]);
    let url = |name: &str| format!("file://{}", lab.path(name).display());
    fs::create_dir(lab.path("there")).unwrap();
    fs::set_permissions(lab.path("there"), Permissions::from_mode(0o755)).unwrap();
    for name in ["new", "there"] {
        lab.ok(["remote", "add", name, &url(name)]);
        lab.ok(["push", name]);
    }
    assert_eq!(mode(&lab.path("new")), 0o700);
    assert_eq!(mode(&lab.path("there")), 0o755, "whoever made it said for whom it is");
    lab.ok(["store", "--url", &url("plain"), "create"]);
    fs::create_dir(lab.path("any")).unwrap();
    assert_eq!(mode(&lab.path("plain")), mode(&lab.path("any")));
}

/// What root does in the repository of another user keeps that one from nothing.
#[test]
fn what_root_makes_in_a_repository_is_its_owners() {
    for init in ["init", "init --shared"] {
        let Some(members) = Members::of(init) else { return };
        let owner = Members::FIRST;
        members.lab.write("tree/notes", "notes");
        let hub = members.lab.path("place/hub");
        assert!(Command::new("git").args(["init", "-q", "--bare"]).arg(&hub).status().unwrap().success());
        let lines = [
            "backup tree".to_owned(),
            format!("remote add cold file://{}", members.lab.path("place/cold").display()),
            "push cold".into(),
            "layers evict".into(),
            "layers fetch".into(),
            format!("remote add hub {}", hub.display()),
            "push hub".into(),
            "forget --keep-last 1".into(),
            "prune".into(),
            "layers merge".into(),
            "remote add web https://me:token@example.org/x".into(),
        ];
        for line in lines {
            members.lab.write("tree/notes", &line);
            members.ok_as_root(&line);
            for entry in walkdir::WalkDir::new(members.lab.path("place/repo")) {
                let entry = entry.unwrap();
                let found = entry.metadata().unwrap();
                assert_eq!(found.uid().to_string(), owner, "{line}: {}", entry.path().display());
            }
            for own in ["snapshots", "backup tree", "prune", "remote list"] {
                // What is not pushed is not put away.
                if own != "backup tree" || line != "push cold" {
                    members.ok(owner, own);
                }
            }
        }
        assert_eq!(mode(&members.lab.path("place/repo/config")), 0o600);
    }
}

/// What the owner puts into his repository is not given to him since root works there.
#[test]
fn root_gives_away_nothing_that_it_did_not_make_there() {
    let Some(members) = Members::of("init") else { return };
    let of_root = |name: &str| fs::metadata(members.lab.path(name)).unwrap().uid() == 0;
    members.lab.write("secrets/linked", "secret");
    members.lab.write("secrets/below/followed", "secret");
    members.lab.write("place/repo/moved", "secret");
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    fs::File::options()
        .write(true)
        .open(members.lab.path("place/repo/moved"))
        .unwrap()
        .set_modified(long_ago)
        .unwrap();
    fs::hard_link(members.lab.path("secrets/linked"), members.lab.path("place/repo/linked")).unwrap();
    std::os::unix::fs::symlink(members.lab.path("secrets/below"), members.lab.path("place/repo/below"))
        .unwrap();
    members.lab.write("tree/notes", "notes");
    members.ok_as_root("backup tree");
    for name in ["secrets/linked", "secrets/below", "secrets/below/followed", "place/repo/moved"] {
        assert!(of_root(name), "{name}");
    }
    assert!(!of_root("place/repo/refs/heads/main"));
}

/// A configuration that is not to be read is no sign that there is no repository.
#[test]
fn a_configuration_of_another_user_is_named() {
    let Some(members) = Members::of("init") else { return };
    members.open("place/repo/config", 0o600);
    std::os::unix::fs::chown(members.lab.path("place/repo/config"), Some(0), Some(0)).unwrap();
    for line in ["snapshots", "backup tree", "remote list", "check"] {
        let Outcome { status, err, .. } = members.run(Members::FIRST, line);
        assert!(status.is_some_and(|status| status != 0), "{line}");
        assert!(err.contains("place/repo/config") && err.contains("Permission denied"), "{line}: {err}");
        assert!(!err.contains("not a treering repository"), "{line}: {err}");
    }
}

#[test]
fn members_of_a_group_share_a_cold_remote() {
    let Some(members) = Members::new() else { return };
    let (first, second) = (Members::FIRST, Members::SECOND);
    fs::create_dir(members.lab.path("disk")).unwrap();
    members.open("disk", 0o777);
    // This one's own group is another.
    members.lab.write("tree/notes", "one");
    members.ok(second, "backup tree");
    let url = format!("file://{}", members.lab.path("disk/cold").display());
    members.ok(second, &format!("remote add cold {url}"));
    members.ok(second, "push cold");
    let found = fs::metadata(members.lab.path("disk/cold")).unwrap();
    assert_eq!((found.gid(), found.mode() & 0o7777), (GROUP, 0o2770));
    // The address may hold a secret, so each has one of his own.
    members.ok(first, &format!("remote add own {url}"));
    members.lab.write("tree/notes", "two");
    members.ok(first, "backup tree --push=own");
    members.ok(second, "pull cold");
    members.ok(second, "push cold");
}
