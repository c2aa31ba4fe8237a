//! What another writer of a remote claims, and the repository that pulls it does not rest on.

use std::fs;
use std::path::Path;
use std::process::Command;

use jiff::Timestamp;
use treering::gitkv::{Mode, Node};
use treering::layers::ObjectId;
use treering::progress::Progress;
use treering::remote::Remotes;
use treering::repository::{
    BackupOptions, BackupReport, FORMAT_VERSION, PruneOptions, Repository, RestoreOptions, Snapshot,
};

use crate::cold::{store_url, who};
use crate::commits::commit;
use crate::lab::{Lab, run};
use crate::tree::noise;

/// A repository, a hub, and a clone of it whose owner makes things up.
struct Scene {
    lab: Lab,
}

impl Scene {
    fn new() -> Self {
        let mut lab = Lab::new();
        lab.write("first", "what was there before\n");
        lab.backup();
        let hub = lab.path("hub.git");
        run(Command::new("git").args(["init", "--quiet", "--bare"]).arg(&hub));
        let scene = Self { lab };
        scene.remotes("repo").add("origin", hub.to_str().unwrap()).unwrap();
        scene.push("repo");
        Remotes::clone_from(hub.to_str().unwrap(), &scene.lab.path("liar"), FORMAT_VERSION).unwrap();
        scene
    }

    fn remotes(&self, repository: &str) -> Remotes {
        Remotes::open(&self.lab.path(repository), FORMAT_VERSION).unwrap()
    }

    fn push(&self, repository: &str) {
        self.remotes(repository).push("origin", &who()).unwrap();
    }

    fn pull(&self) {
        self.remotes("repo").pull("origin", &who()).unwrap();
    }

    fn backup_of(&self, repository: &str, source: &Path) -> BackupReport {
        let options = BackupOptions { sources: vec![source.to_owned()], ..self.lab.options() };
        Repository::open(&self.lab.path(repository)).unwrap().backup(&options, &Progress::new()).unwrap()
    }

    /// The liar saves `source`, puts garbage in the place of each byte that he stored for it, and pushes that: his
    /// index claims what his volume does not hold.
    fn lie_about(&self, source: &Path) {
        let before = self.volumes("liar");
        self.backup_of("liar", source);
        let new: Vec<String> =
            self.volumes("liar").into_iter().filter(|volume| !before.contains(volume)).collect();
        assert!(!new.is_empty(), "he has nothing to lie about");
        for volume in new {
            let length = self.git("liar", &["cat-file", "-s", &format!("HEAD:{volume}")]);
            let garbage = noise(length.trim().parse().unwrap(), 99);
            self.lab.replace_in("liar", &volume, Some(&garbage));
        }
        self.push("liar");
    }

    fn git(&self, repository: &str, arguments: &[&str]) -> String {
        run(Command::new("git").arg("-C").arg(self.lab.path(repository)).args(arguments))
    }

    fn volumes(&self, repository: &str) -> Vec<String> {
        let listed = self.git(repository, &["ls-tree", "-r", "--name-only", "HEAD", "archives/"]);
        listed.lines().filter(|path| path.contains(".tar")).map(str::to_owned).collect()
    }

    /// That a snapshot can be restored, and is `source`.
    #[track_caller]
    fn assert_restores(&self, snapshot: &Snapshot, source: &Path) {
        let target = tempfile::tempdir().unwrap();
        let repository = Repository::open(&self.lab.path("repo")).unwrap();
        let options = RestoreOptions::new(target.path());
        let report = repository.restore(snapshot, &options, &Progress::new()).unwrap();
        assert!(report.applied.failures.is_empty(), "{:?}", report.applied.failures);
        run(Command::new("diff").arg("-r").arg(source).arg(target.path()));
    }

    fn prune(&self) {
        let options = PruneOptions::new(Timestamp::now());
        Repository::open(&self.lab.path("repo")).unwrap().prune(&options, &Progress::new()).unwrap();
    }
}

#[test]
fn what_is_only_claimed_does_not_stand_for_storing_it() {
    let scene = Scene::new();
    let theirs = scene.lab.path("theirs");
    fs::create_dir(&theirs).unwrap();
    fs::write(theirs.join("guessed"), noise(300_000, 1)).unwrap();
    fs::write(theirs.join("small"), "small and guessed\n").unwrap();
    scene.lie_about(&theirs);
    scene.pull();
    for name in ["guessed", "small"] {
        scene.lab.write(name, fs::read(theirs.join(name)).unwrap());
    }
    let source = scene.lab.source();
    let report = scene.backup_of("repo", &source);
    assert!(report.damaged > 0, "and it is told");
    let snapshot = report.snapshot.unwrap();
    scene.assert_restores(&snapshot, &source);
    // What it has stored itself now is what stays, and not the claim.
    scene.prune();
    scene.assert_restores(&snapshot, &source);
    assert_eq!(scene.backup_of("repo", &source).damaged, 0);
}

#[test]
fn what_is_only_claimed_is_nothing_to_make_deltas_of() {
    let scene = Scene::new();
    let theirs = scene.lab.path("theirs");
    fs::create_dir(&theirs).unwrap();
    let mut content = noise(900_000, 3);
    fs::write(theirs.join("image"), &content).unwrap();
    scene.lie_about(&theirs);
    scene.pull();
    // The victim has that file too, relies on nothing that is said of it, and changes a little of it.
    scene.lab.write("image", &content);
    let source = scene.lab.source();
    let first = scene.backup_of("repo", &source).snapshot.unwrap();
    scene.assert_restores(&first, &source);
    content[450_000] ^= 1;
    scene.lab.write("image", &content);
    let second = scene.backup_of("repo", &source).snapshot.unwrap();
    scene.assert_restores(&second, &source);
}

#[test]
fn a_claim_to_hold_what_is_stored_takes_nothing_away() {
    let mut scene = Scene::new();
    scene.lab.write("old", noise(300_000, 2));
    let source = scene.lab.source();
    let snapshot = scene.backup_of("repo", &source).snapshot.unwrap();
    // He has not seen that yet, and claims to have stored the same, as a whole and later.
    let theirs = scene.lab.path("theirs");
    fs::create_dir(&theirs).unwrap();
    fs::write(theirs.join("old"), noise(300_000, 2)).unwrap();
    scene.lie_about(&theirs);
    scene.pull();
    scene.assert_restores(&snapshot, &source);
    // Without his snapshot nothing needs his volume, and with it the sound copy stays.
    scene.prune();
    scene.assert_restores(&snapshot, &source);
    scene.lab.reopen();
    scene.lab.check();
}

#[test]
fn a_snapshot_of_this_host_that_somebody_else_made_is_no_parent() {
    let scene = Scene::new();
    // The same host, the same source, the same inodes and times.
    scene.lab.write("new", noise(300_000, 4));
    let source = scene.lab.source();
    scene.lie_about(&source);
    scene.pull();
    let report = scene.backup_of("repo", &source);
    let snapshot = report.snapshot.unwrap();
    scene.assert_restores(&snapshot, &source);
    // And what was read once is not read again.
    let again = scene.backup_of("repo", &source);
    assert_eq!(again.statistics.files_read, 0);
    assert_eq!(again.parent, Some(snapshot.key.to_string()));
}

#[test]
fn what_others_hold_is_read_once_and_then_relied_on() {
    let scene = Scene::new();
    let theirs = scene.lab.path("theirs");
    fs::create_dir(&theirs).unwrap();
    fs::write(theirs.join("shared"), noise(300_000, 5)).unwrap();
    scene.backup_of("liar", &theirs);
    scene.push("liar");
    scene.pull();
    scene.lab.write("shared", noise(300_000, 5));
    let source = scene.lab.source();
    let report = scene.backup_of("repo", &source);
    assert_eq!(report.damaged, 0);
    assert!(report.bytes_added < 50_000, "{} bytes: it was stored again", report.bytes_added);
    let own = fs::read_to_string(scene.lab.path("repo/treering/own")).unwrap();
    assert!(own.lines().any(|line| line.starts_with("segment ")), "{own}");
    scene.prune();
    scene.assert_restores(&report.snapshot.unwrap(), &source);
}

impl Scene {
    /// The liar commits `path` as `bytes`, or without it, and pushes that by git itself, which checks nothing.
    fn put(&self, path: &str, bytes: Option<&[u8]>) {
        self.lab.replace_in("liar", path, bytes);
        self.push_by_git();
    }

    fn push_by_git(&self) {
        self.git("liar", &["push", "--quiet", "--force", "origin", "HEAD:main"]);
    }

    fn snapshots(&self, repository: &str) -> Vec<String> {
        let listed = self.git(repository, &["ls-tree", "-r", "--name-only", "HEAD", "snapshots/"]);
        listed.lines().map(str::to_owned).collect()
    }

    /// Whether a pull and a push fail here, and change nothing here; what they say.
    #[track_caller]
    fn assert_refused(&self) -> String {
        let before = self.git("repo", &["rev-parse", "HEAD"]);
        let remotes = self.remotes("repo");
        let error = remotes.pull("origin", &who()).unwrap_err();
        let pushed = remotes.push("origin", &who()).unwrap_err();
        assert_eq!(error.to_string(), pushed.to_string());
        assert_eq!(self.git("repo", &["rev-parse", "HEAD"]), before);
        error.to_string()
    }

    fn set_append_only(&self, repository: &str, is_on: bool) {
        let mut repository = Repository::open(&self.lab.path(repository)).unwrap();
        repository.set_append_only(is_on, "ann", "here", Timestamp::now()).unwrap();
    }
}

#[test]
fn append_only_is_kept_whatever_a_remote_does() {
    for is_merge in [false, true] {
        let mut scene = Scene::new();
        scene.set_append_only("repo", true);
        scene.push("repo");
        scene.remotes("liar").pull("origin", &who()).unwrap();
        let before = scene.snapshots("repo");
        // A commit that follows ours, in which everything is gone, the setting too.
        scene.set_append_only("liar", false);
        for path in &before {
            scene.put(path, None);
        }
        if is_merge {
            scene.lab.write("second", "what is new here\n");
            scene.lab.backup();
        }
        let expected = scene.snapshots("repo");
        scene.pull();
        assert_eq!(scene.snapshots("repo"), expected);
        scene.lab.reopen();
        assert!(scene.lab.repository.config().append_only, "it stays so");
        // And comes back there with the next push.
        scene.push("repo");
        scene.remotes("liar").pull("origin", &who()).unwrap();
        assert_eq!(scene.snapshots("liar"), expected);
        assert!(Repository::open(&scene.lab.path("liar")).unwrap().config().append_only);
        scene.lab.check();
    }
}

#[test]
fn what_lies_in_a_repository_is_never_changed_by_a_remote() {
    for is_merge in [false, true] {
        for kind in ["archives/", "snapshots/", "index/"] {
            let mut scene = Scene::new();
            let listed = scene.git("liar", &["ls-tree", "-r", "--name-only", "HEAD", kind]);
            scene.put(listed.lines().next().unwrap(), Some(b"something else"));
            if is_merge {
                scene.lab.write("second", "what is new here\n");
                scene.lab.backup();
            }
            assert!(scene.assert_refused().contains("not the same here"));
            scene.lab.check();
        }
    }
}

#[test]
fn what_belongs_nowhere_is_not_taken_over() {
    for (number, path) in [
        "snapshots/2026/11/20/garbage",
        "snapshots/garbage",
        "snapshots",
        "index/2026/11/20/x/y",
        "archives/2026/11/21/20261120T195512.123456789Z-5f0c11ab92de7340-0.tar.gz",
        "signatures/2026/13/45/x",
        "diffs/20261120T195512.123456789Z-5f0c11ab92de7340.cbor.gz",
    ]
    .into_iter()
    .enumerate()
    {
        let mut scene = Scene::new();
        if path == "snapshots" {
            scene.snapshots("liar").iter().for_each(|path| scene.lab.replace_in("liar", path, None));
        }
        scene.put(path, Some(b"garbage"));
        if number % 2 == 1 {
            scene.lab.write("second", "what is new here\n");
            scene.lab.backup();
        }
        assert!(scene.assert_refused().contains(path), "{path}");
        scene.lab.check();
    }
}

#[test]
fn a_link_or_a_module_is_no_snapshot() {
    let scene = Scene::new();
    let id = |name: &str| scene.git("liar", &["rev-parse", name]).trim().parse::<ObjectId>().unwrap();
    let (head, blob) = (id("HEAD"), id("HEAD:config.cbor"));
    let path = "snapshots/2026/11/20/20261120T195512.123456789Z-5f0c11ab92de7340.cbor";
    for (mode, id) in [(Mode::Link, blob), (Mode::Module, head)] {
        scene.git("liar", &["update-ref", "HEAD", &head.to_string()]);
        commit(&scene.lab.path("liar"), |_, edit| edit.set_node(path.as_bytes(), Node { mode, id }).unwrap());
        scene.push_by_git();
        assert!(scene.assert_refused().contains(path), "{mode:?}");
    }
}

/// The store of a cold remote, as a directory that anybody writes to.
struct ColdScene {
    scene: Scene,
}

impl ColdScene {
    fn new() -> Self {
        let scene = Scene::new();
        scene.remotes("repo").add("cold", store_url(&scene.lab)).unwrap();
        scene.remotes("repo").push("cold", &who()).unwrap();
        Self { scene }
    }

    fn objects(&self, namespace: &str) -> Vec<std::path::PathBuf> {
        let files = walkdir::WalkDir::new(self.scene.lab.path("store").join(namespace));
        let files = files.into_iter().map(|entry| entry.unwrap().into_path()).filter(|path| path.is_file());
        let mut files: Vec<_> = files.collect();
        files.sort();
        files
    }
}

#[test]
fn a_cold_head_with_the_highest_number_hides_no_push() {
    let mut cold = ColdScene::new();
    let first = cold.objects("heads").pop().unwrap();
    fs::copy(&first, first.with_file_name("9999999999")).unwrap();
    cold.scene.lab.write("second", "what came after\n");
    cold.scene.lab.backup();
    cold.scene.remotes("repo").push("cold", &who()).unwrap();
    let url = store_url(&cold.scene.lab);
    let clone = cold.scene.lab.path("clone");
    Remotes::clone_cold_watched(&url, &clone, FORMAT_VERSION, &Default::default(), &Progress::new()).unwrap();
    assert_eq!(Repository::open(&clone).unwrap().snapshots().unwrap().len(), 2);
}

#[test]
fn an_object_of_a_cold_remote_is_read_only_as_far_as_its_head_says() {
    let cold = ColdScene::new();
    let index =
        cold.objects("metadata").into_iter().find(|path| path.extension().is_some_and(|is| is == "idx"));
    let index = index.unwrap();
    // Sparse, so that only who reads it notices: 1 TiB would not fit.
    fs::File::options().write(true).open(&index).unwrap().set_len(1 << 40).unwrap();
    let url = store_url(&cold.scene.lab);
    let clone = cold.scene.lab.path("clone");
    let cloned =
        Remotes::clone_cold_watched(&url, &clone, FORMAT_VERSION, &Default::default(), &Progress::new());
    assert!(cloned.is_err());
    assert!(!clone.exists());
    fs::File::options()
        .write(true)
        .open(cold.objects("config").pop().unwrap())
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    assert!(cold.scene.remotes("repo").pull("cold", &who()).is_err());
}

#[test]
fn a_tree_that_a_pull_refuses_is_not_taken_by_the_next_push() {
    let scene = Scene::new();
    let deep = format!("elsewhere/{}x", "d/".repeat(40));
    scene.put(&deep, Some(b"x"));
    let said = scene.assert_refused();
    assert!(said.contains("too deep"), "{said}");
    // And a clone takes it no more than a pull.
    let hub = scene.lab.path("hub.git");
    assert!(Remotes::clone_from(hub.to_str().unwrap(), &scene.lab.path("clone"), FORMAT_VERSION).is_err());
}
