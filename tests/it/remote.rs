//! Repositories that exchange snapshots: clones of real repositories, with git between them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use treering::gitkv::{Git, Person};
use treering::layers::LayerSet;
use treering::progress::Progress;
use treering::remote::{ColdOptions, RemoteError, Remotes, cold_reader};
use treering::repository::{
    BackupOptions, CheckOptions, FORMAT_VERSION, PruneOptions, Repository, RestoreOptions, Selector,
};
use treering::timeline::{Timeline, path};

use crate::lab::{Lab, run};
use crate::store::servers::SshServer;
use crate::tree::noise;

fn who() -> Person {
    Person::new("Ann", "ann@example.org", Timestamp::now())
}

/// A bare repository as anybody makes one, with nothing of treering in its configuration.
fn hub(lab: &Lab) -> PathBuf {
    let hub = lab.path("hub.git");
    run(Command::new("git").args(["init", "--quiet", "--bare"]).arg(&hub));
    hub
}

fn remotes(path: &Path) -> Remotes {
    Remotes::open(path, FORMAT_VERSION).unwrap()
}

/// Pushes the lab's repository to the hub, and clones that.
fn push_and_clone(lab: &Lab, hub: &Path, name: &str) -> PathBuf {
    push_and_clone_url(lab, hub.to_str().unwrap(), name)
}

fn push_and_clone_url(lab: &Lab, url: &str, name: &str) -> PathBuf {
    let here = remotes(&lab.path("repo"));
    if here.list().unwrap().is_empty() {
        here.add("origin", url).unwrap();
    }
    here.push("origin", &who()).unwrap();
    let clone = lab.path(name);
    Remotes::clone_from(url, &clone, FORMAT_VERSION).unwrap();
    clone
}

fn check(path: &Path) {
    let options = CheckOptions { read_data: true, ..CheckOptions::default() };
    let repository = Repository::open(path).unwrap();
    if let Some(cold) = cold_reader(path, &ColdOptions::default()) {
        repository.read_cold(cold).unwrap();
    }
    let report = repository.check(&options, &Progress::new()).unwrap();
    assert!(report.faults.is_empty(), "{:?}", report.faults);
}

#[test]
fn a_clone_restores_and_goes_on_incrementally() {
    let mut lab = Lab::new();
    lab.write("large", noise(900_000, 1));
    lab.write("small", "small");
    lab.backup();
    let clone = push_and_clone(&lab, &hub(&lab), "clone");
    let repository = Repository::open(&clone).unwrap();
    let snapshot = repository.find(&Selector::Latest(0)).unwrap();
    let restored = lab.path("restored");
    repository.restore(&snapshot, &RestoreOptions::new(&restored), &Progress::new()).unwrap();
    assert_eq!(fs::read(restored.join("large")).unwrap(), noise(900_000, 1));
    check(&clone);

    lab.write("small", "changed");
    let report = repository.backup(&lab.options(), &Progress::new()).unwrap();
    assert_eq!(report.parent, Some(snapshot.key.to_string()));
    assert_eq!((report.statistics.files_read, report.statistics.bytes_read), (1, 7));
    remotes(&clone).push("origin", &who()).unwrap();
    assert_eq!(remotes(&lab.path("repo")).pull("origin", &who()).unwrap().added, 1);
    assert_eq!(Repository::open(&lab.path("repo")).unwrap().snapshots().unwrap().len(), 2);
    lab.check();
}

#[test]
fn layers_travel_as_they_are() {
    let mut lab = Lab::new();
    let hub = hub(&lab);
    for seed in 1..4 {
        lab.write(&format!("file{seed}"), noise(700_000, seed));
        lab.backup();
        let here = remotes(&lab.path("repo"));
        if seed == 1 {
            here.add("origin", hub.to_str().unwrap()).unwrap();
        }
        here.push("origin", &who()).unwrap();
    }
    let clone = Git::open(&push_and_clone(&lab, &hub, "clone")).unwrap();
    let head = clone.head().unwrap().unwrap();
    let (layers, mut volumes) = (clone.layers(), 0);
    let original = Git::open(&lab.path("repo")).unwrap();
    for file in clone.walk(&head, b"archives").unwrap() {
        let (path, node) = file.unwrap();
        if path.ends_with(b".idx") {
            continue;
        }
        volumes += 1;
        let range = layers.read_range(&node.id, 300_000, 70_000).unwrap().expect("it is in a layer");
        assert_eq!(range, original.read_blob_range(&node.id, 300_000, 70_000).unwrap());
        // The entry in the pack is the very same, so that a range of the blob is a range of the file.
        let entry = |layers: &LayerSet, pack_dir: &Path| {
            let location = layers.locate(&node.id).unwrap();
            let name = format!("{}.pack", location.layer.name());
            let pack = fs::read(pack_dir.join(name)).unwrap();
            pack[location.offset as usize..][..700_000].to_vec()
        };
        assert!(entry(&layers, &clone.pack_dir()) == entry(&original.layers(), &original.pack_dir()));
    }
    assert_eq!(volumes, 3);
}

#[test]
fn a_clone_removes_what_a_killed_one_left_and_nothing_else() {
    let mut lab = Lab::new();
    lab.write("file", "content");
    lab.backup();
    let hub = hub(&lab);
    let names = ["dead", "empty", "alive"].map(|name| lab.path(&format!(".treering-tmp-clone-{name}")));
    let [dead, empty, alive] = &names;
    names.iter().for_each(|path| fs::create_dir_all(path.join("clone/objects")).unwrap());
    fs::write(dead.join("lock"), "").unwrap();
    let lock = fs::File::create(alive.join("lock")).unwrap();
    lock.lock().unwrap();
    fs::create_dir(lab.path(".treering-tmp-other")).unwrap();
    push_and_clone(&lab, &hub, "clone");
    assert_eq!((dead.exists(), empty.exists(), alive.exists()), (false, false, true));
    assert!(lab.path(".treering-tmp-other").exists());
    drop(lock);
    let clone = lab.path("again");
    Remotes::clone_from(hub.to_str().unwrap(), &clone, treering::repository::FORMAT_VERSION).unwrap();
    assert!(!alive.exists());
    check(&clone);
}

#[test]
fn a_refused_push_says_why_and_is_made_again() {
    let mut lab = Lab::new();
    let hub = hub(&lab);
    lab.write("file", "1");
    lab.backup();
    let hook = hub.join("hooks/pre-receive");
    fs::create_dir_all(hook.parent().unwrap()).unwrap();
    fs::write(&hook, "#!/bin/sh\necho 'the disk is full' >&2\nexit 1\n").unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let here = remotes(&lab.path("repo"));
    here.add("origin", hub.to_str().unwrap()).unwrap();
    let before = lab.git(&["rev-parse", "main"]);
    let error = here.push("origin", &who()).unwrap_err();
    assert!(matches!(error, RemoteError::Refused { .. }), "{error}");
    assert!(treering::causes::chain(&error).contains("the disk is full"));
    assert_eq!(lab.git(&["rev-parse", "main"]), before);
    fs::remove_file(hook).unwrap();
    assert_eq!(here.push("origin", &who()).unwrap().there.added, 1);
    assert!(here.push("origin", &who()).unwrap().there.is_zero());
}

/// What is done to one of the clones.
#[derive(Debug, Clone)]
enum Deed {
    Backup(usize),
    /// Of the snapshots that the clone has, the one at this place, counted round and round.
    Remove(usize, usize),
    Push(usize),
    Pull(usize),
    /// A pull that removes what others removed.
    Take(usize),
    Prune(usize),
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let clone = 0..3usize;
    let deed = prop_oneof![
        3 => clone.clone().prop_map(Deed::Backup),
        2 => (clone.clone(), 0..10usize).prop_map(|(clone, at)| Deed::Remove(clone, at)),
        2 => clone.clone().prop_map(Deed::Push),
        2 => clone.clone().prop_map(Deed::Pull),
        1 => clone.clone().prop_map(Deed::Take),
        1 => clone.prop_map(Deed::Prune),
    ];
    proptest::collection::vec(deed, 8..14)
}

/// Three clones of one repository, and what must become of their snapshots.
struct Clones {
    lab: Lab,
    paths: Vec<PathBuf>,
    added: BTreeSet<String>,
    removed: BTreeSet<String>,
}

impl Clones {
    /// Of a repository that is pushed to the place that `url` makes.
    fn new(url: fn(&Lab) -> String) -> Self {
        let lab = Lab::new();
        let url = url(&lab);
        let paths = ["a", "b", "c"].map(|name| push_and_clone_url(&lab, &url, name)).to_vec();
        Self { lab, paths, added: BTreeSet::new(), removed: BTreeSet::new() }
    }

    fn snapshots(&self, clone: usize) -> Vec<String> {
        let repository = Repository::open(&self.paths[clone]).unwrap();
        repository.snapshots().unwrap().iter().map(|snapshot| snapshot.key.to_string()).collect()
    }

    fn act(&mut self, number: usize, deed: &Deed) {
        match *deed {
            Deed::Backup(clone) => {
                self.lab.write(&format!("file{number}"), number.to_string());
                let time = Timestamp::now() + SignedDuration::from_secs(10);
                let options = BackupOptions::new(vec![self.lab.source()], time);
                let repository = Repository::open(&self.paths[clone]).unwrap();
                let report = repository.backup(&options, &Progress::new()).unwrap();
                self.added.insert(report.snapshot.unwrap().key.to_string());
            }
            Deed::Remove(clone, at) => {
                let snapshots = self.snapshots(clone);
                let Some(gone) = snapshots.get(at % snapshots.len().max(1)) else { return };
                let timeline = Timeline::open(&self.paths[clone]).unwrap();
                let mut batch = timeline.begin().unwrap();
                batch.remove(&path("snapshots", &gone.parse().unwrap(), ".cbor")).unwrap();
                batch.commit(&who(), "Forget").unwrap().unwrap();
                self.removed.insert(gone.clone());
            }
            Deed::Push(clone) | Deed::Pull(clone) => {
                let before = self.snapshots(clone);
                let remotes = remotes(&self.paths[clone]);
                match deed {
                    Deed::Push(_) => drop(remotes.push("origin", &who()).unwrap()),
                    _ => _ = remotes.pull("origin", &who()).unwrap(),
                }
                let after = self.snapshots(clone);
                assert!(before.iter().all(|key| after.contains(key)), "{deed:?}: {before:?}, then {after:?}");
            }
            Deed::Take(clone) => {
                remotes(&self.paths[clone]).taking_removals().pull("origin", &who()).unwrap();
            }
            Deed::Prune(clone) => {
                let options = PruneOptions::new(Timestamp::now());
                Repository::open(&self.paths[clone]).unwrap().prune(&options, &Progress::new()).unwrap();
            }
        }
        check(&self.paths[0]);
    }

    fn converge(&self, deeds: &[Deed]) -> Result<(), TestCaseError> {
        for path in self.paths.iter().chain(&self.paths) {
            remotes(path).taking_removals().push("origin", &who()).unwrap();
        }
        let mut trees = BTreeSet::new();
        for path in &self.paths {
            remotes(path).taking_removals().pull("origin", &who()).unwrap();
            let git = Git::open(path).unwrap();
            trees.insert(git.read_commit(&git.head().unwrap().unwrap()).unwrap().tree);
        }
        prop_assert_eq!(trees.len(), 1, "{:?}", deeds);
        let expected: Vec<_> = self.added.difference(&self.removed).cloned().collect();
        prop_assert_eq!(self.snapshots(0), expected, "{:?}", deeds);
        self.paths.iter().for_each(|path| check(path));
        Ok(())
    }
}

fn converge(url: fn(&Lab) -> String) {
    let mut runner = TestRunner::new(ProptestConfig { cases: 3, max_shrink_iters: 8, ..Default::default() });
    runner
        .run(&deeds(), |deeds| {
            let mut clones = Clones::new(url);
            deeds.iter().enumerate().for_each(|(number, deed)| clones.act(number, deed));
            clones.converge(&deeds)
        })
        .unwrap();
}

#[test]
fn clones_that_add_and_remove_converge_and_lose_nothing() {
    converge(|lab| hub(lab).to_str().unwrap().to_owned());
}

#[test]
fn clones_by_a_cold_remote_converge_and_lose_nothing() {
    converge(|lab| format!("file://{}", lab.path("store").display()));
}

#[test]
fn a_sha_256_repository_behind_ssh_is_named_with_the_way_out() {
    let Some(server) = SshServer::start() else { return };
    let lab = Lab::new();
    let git = |arguments: &[&str]| run(Command::new("git").args(arguments).current_dir(lab.path("")));
    git(&["init", "--quiet", "--object-format=sha256", "work"]);
    git(&[
        "-C",
        "work",
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@b",
        "commit",
        "-q",
        "--allow-empty",
        "-m",
        "x",
    ]);
    git(&["clone", "--quiet", "--bare", "work", "far.git"]);
    let url = server.url_of(&lab.path("far.git").display().to_string());
    let url = url.url().reveal().replacen("sftp:", "ssh:", 1);
    let ssh: Vec<_> =
        server.program("user", "known_hosts").into_iter().map(|word| word.into_string().unwrap()).collect();
    let program = |arguments: &[&str]| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_treering"));
        program.args(arguments).current_dir(lab.path("")).env("TREERING_REPOSITORY", "repo");
        program.env("XDG_STATE_HOME", lab.path("state")).env("GIT_SSH_COMMAND", ssh.join(" "));
        let output = program.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(program(&["remote", "add", "far", &url]), (Some(0), String::new()));
    for arguments in [&["clone", &url, "clone"][..], &["pull", "far"], &["push", "far"]] {
        let (status, err) = program(arguments);
        assert_eq!(status, Some(1), "{arguments:?}: {err}");
        for word in ["does not use SHA-1", "`git init --object-format=sha1`"] {
            assert!(err.contains(word), "{arguments:?} does not say {word}: {err}");
        }
    }
    assert!(!lab.path("clone").exists());
    // One that nobody has pushed to tells git nothing at a fetch.
    git(&["init", "--quiet", "--bare", "--object-format=sha256", "empty.git"]);
    assert_eq!(
        program(&["remote", "add", "empty", &url.replace("far.git", "empty.git")]),
        (Some(0), String::new())
    );
    let (status, err) = program(&["push", "empty"]);
    assert!(status == Some(1) && err.contains("does not use SHA-1"), "{err}");
}
