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
        let own = lab.command(arguments);
        let mut shell = Command::new("sh");
        shell.args(["-c", "umask 077; exec \"$@\"", "sh"]).arg(own.get_program()).args(own.get_args());
        shell.envs(own.get_envs().filter_map(|(key, value)| Some((key, value?)))).current_dir(lab.path(""));
        let output = shell.output().unwrap();
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

#[test]
fn members_of_a_group_share_a_repository() {
    let lab = Lab::bare();
    if !rustix::process::geteuid().is_root() || !crate::programs::are_here(&["setpriv"]) {
        eprintln!("skipped: only root can be somebody else");
        return;
    }
    const GROUP: &str = "50505";
    lab.write("home/.gitconfig", "[safe]\n\tdirectory = *\n");
    let open = |name: &str, mode| fs::set_permissions(lab.path(name), Permissions::from_mode(mode)).unwrap();
    let run = |user: &str, group: &str, arguments: &[&str]| {
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--reuid", user, "--regid", group, "--groups", GROUP, "--"]);
        let mut command = lab.by(setpriv, arguments);
        command.env("HOME", lab.path("home")).env("XDG_CACHE_HOME", lab.path("home").join(user));
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    open("", 0o777);
    open("home", 0o777);
    fs::create_dir(lab.path("place")).unwrap();
    std::os::unix::fs::chown(lab.path("place"), Some(40001), Some(50505)).unwrap();
    open("place", 0o2775);
    // The program has to be reached too.
    if run("40001", GROUP, &["--version"]).0 != Some(0) {
        eprintln!("skipped: the program lies where others cannot run it");
        return;
    }
    let ok = |user: &str, arguments: &[&str]| {
        let group = if user == "40001" { GROUP } else { "40002" };
        let (status, err) = run(user, group, arguments);
        assert_eq!(status, Some(0), "{user} {arguments:?}: {err}");
    };
    let repo = ["-r", "place/repo"];
    let with = |rest: &[&'static str]| repo.iter().copied().chain(rest.iter().copied()).collect::<Vec<_>>();
    ok("40001", &with(&["init", "--shared"]));
    for round in 0..3 {
        for user in ["40001", "40002"] {
            lab.write("tree/notes", &format!("{round} {user}"));
            ok(user, &with(&["backup", "tree"]));
        }
    }
    ok("40002", &with(&["forget", "--keep-last", "2"]));
    ok("40001", &with(&["prune"]));
    ok("40002", &with(&["compression", "zstd"]));
    ok("40001", &with(&["append-only", "on"]));
    ok("40002", &with(&["check", "--read-data"]));
    let mut files = 0;
    for entry in walkdir::WalkDir::new(lab.path("place/repo")) {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        assert_eq!(metadata.gid(), 50505, "{}", entry.path().display());
        let wanted = if metadata.is_dir() { 0o2070 } else { (metadata.mode() & 0o600) >> 3 };
        assert_eq!(metadata.mode() & wanted, wanted, "{}: {:o}", entry.path().display(), metadata.mode());
        files += 1;
    }
    assert!(files > 20);
    assert_eq!(mode(&lab.path("place/repo")) & 0o7, 0, "others are not in the group");
}
