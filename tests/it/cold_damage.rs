//! A repository that lost something does not take it away from its cold remote too, and gets it back.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use jiff::Timestamp;
use treering::gitkv::{Git, Onto, TreeEdit};
use treering::layers::ObjectId;
use treering::progress::Progress;
use treering::remote::{LayerKind, RemoteError, Remotes};
use treering::repository::{CheckOptions, FORMAT_VERSION, PruneOptions, Repository, RestoreOptions};

use crate::cold::{check, open, push_to, quick, remotes, restore, store_url, who};
use crate::lab::{Lab, run};
use crate::tree::{assert_same, noise};

/// What is done after the damage.
const ACTIONS: [&str; 7] = ["push", "backup", "pull", "fetch", "evict", "prune", "merge"];

/// A repository of three snapshots with a layer of data each, in a cold remote too; the first snapshot's data is
/// needed by all of them.
fn pushed() -> Lab {
    let mut lab = Lab::new();
    lab.write("kept", noise(300_000, 9));
    for version in 1..=3 {
        lab.write("file", noise(200_000, version));
        lab.backup();
    }
    push_to(&lab, &store_url(&lab));
    lab
}

/// A copy of the lab's repository and of its remote, as `name`.
fn copy_of(lab: &Lab, name: &str) -> (PathBuf, String) {
    let (repo, store) = (lab.path(&format!("{name}-repo")), lab.path(&format!("{name}-store")));
    for (from, to) in [("repo", &repo), ("store", &store)] {
        run(Command::new("cp").arg("-a").arg(lab.path(from)).arg(to));
    }
    let url = format!("file://{}", store.display());
    fs::write(repo.join("treering/remotes/cold/url"), format!("{url}\n")).unwrap();
    (repo, url)
}

/// The first layer of that kind.
fn a_layer(repo: &Path, kind: LayerKind) -> String {
    let mut layers = remotes(repo).layers().unwrap();
    layers.retain(|layer| layer.kind == kind);
    layers.sort_by_key(|layer| std::cmp::Reverse(layer.pack_bytes));
    layers.swap_remove(0).name
}

/// A layer of metadata without which the repository can be opened.
fn older_metadata(repo: &Path) -> String {
    let git = Git::open(repo).unwrap();
    let head = git.head().unwrap().unwrap();
    let config = git.find(&head, b"config.cbor").unwrap().unwrap();
    let needed = [head, git.read_commit(&head).unwrap().tree, config.id];
    let layers = git.layers();
    let is_older = |name: &str| !needed.iter().any(|id| layers.locate(id).unwrap().layer.name() == name);
    let mut all = remotes(repo).layers().unwrap().into_iter();
    all.find(|layer| layer.kind == LayerKind::Metadata && is_older(&layer.name)).unwrap().name
}

fn remove(repo: &Path, layer: &str, extensions: &[&str]) {
    let mut removed = 0;
    for dir in ["objects/pack", "objects/cold"] {
        for extension in extensions {
            removed += usize::from(fs::remove_file(repo.join(format!("{dir}/{layer}.{extension}"))).is_ok());
        }
    }
    assert!(removed > 0, "{layer} {extensions:?}");
}

/// Damages of an index: it is cut off, empty, or has other ids.
const SPOILS: [fn(&mut Vec<u8>); 3] = [
    |bytes| bytes.truncate(100),
    Vec::clear,
    |bytes| bytes[1032..1056].iter_mut().for_each(|byte| *byte ^= 0xff),
];

/// The index of a layer, wherever it lies.
fn index_of(repo: &Path, layer: &str) -> PathBuf {
    let paths = ["objects/pack", "objects/cold"].map(|dir| repo.join(format!("{dir}/{layer}.idx")));
    paths.into_iter().find(|path| path.exists()).unwrap()
}

/// Does what `action` says; it may fail.
fn act(lab: &Lab, repo: &Path, action: &str) {
    let Ok(here) = Remotes::open_with(repo, FORMAT_VERSION, &quick()) else { return };
    let Ok(repository) = Repository::open(repo) else { return };
    if let Some(cold) = treering::remote::cold_reader(repo, &quick()) {
        repository.read_cold(cold).unwrap();
    }
    match action {
        "push" => drop(here.push("cold", &who())),
        "backup" => drop(repository.backup(&lab.options(), &Progress::new())),
        "pull" => drop(here.pull("cold", &who())),
        "fetch" => drop(here.fetch_layers(&[])),
        "evict" => drop(here.evict_layers(&[], None)),
        "merge" => drop(here.merge_layers()),
        "prune" => {
            if let Ok(snapshots) = repository.snapshots() {
                let _ = repository.forget(&[snapshots[0].key], "ann", "here", Timestamp::now());
            }
            let _ = repository.prune(&PruneOptions::new(Timestamp::now()), &Progress::new());
        }
        other => panic!("{other}"),
    }
}

/// That a new clone of everything in the remote is sound and restores the source.
#[track_caller]
fn assert_remote_restores(lab: &Lab, url: &str, name: &str) {
    let clone = lab.path(&format!("{name}-clone"));
    Remotes::clone_with(url, &clone, FORMAT_VERSION, &quick()).unwrap();
    check(&open(&clone));
    let restored = lab.path(&format!("{name}-restored"));
    restore(&open(&clone), &restored);
    assert_same(&lab.source(), &restored);
}

/// Every damage of a layer of `kind`, every action after it, and two pushes after that, so that what the first
/// might have dropped would be removed by the second.
fn attack(kind: LayerKind, evicted: bool) {
    let lab = pushed();
    let damages: &[&[&str]] = if evicted { &[&["idx"]] } else { &[&["idx"], &["pack"], &["idx", "pack"]] };
    for extensions in damages {
        for action in ACTIONS {
            let name = format!("{kind:?}-{evicted}-{}-{action}", extensions.concat());
            let (repo, url) = copy_of(&lab, &name);
            let layer = a_layer(&repo, kind);
            if evicted {
                assert!(remotes(&repo).evict_layers(&[], None).unwrap().failures.is_empty());
            }
            remove(&repo, &layer, extensions);
            act(&lab, &repo, action);
            act(&lab, &repo, "push");
            act(&lab, &repo, "push");
            assert_remote_restores(&lab, &url, &name);
        }
    }
}

#[test]
fn a_push_after_a_layer_of_data_was_lost_takes_nothing_from_the_remote() {
    attack(LayerKind::Data, false);
}

#[test]
fn a_push_after_the_index_of_an_evicted_layer_was_lost_takes_nothing_from_the_remote() {
    attack(LayerKind::Data, true);
}

#[test]
fn a_push_after_a_layer_of_metadata_was_lost_takes_nothing_from_the_remote() {
    attack(LayerKind::Metadata, false);
}

#[test]
fn what_was_lost_comes_back_with_a_pull_a_fetch_or_a_push() {
    let lab = pushed();
    for extensions in [&["idx"][..], &["idx", "pack"], &["pack"]] {
        for action in ["pull", "fetch", "push"] {
            let name = format!("back-{}-{action}", extensions.concat());
            let (repo, _) = copy_of(&lab, &name);
            let layer = a_layer(&repo, LayerKind::Data);
            let file = |extension: &str| repo.join(format!("objects/pack/{layer}.{extension}"));
            let sound = fs::read(file("pack")).unwrap();
            remove(&repo, &layer, extensions);
            act(&lab, &repo, action);
            check(&open(&repo));
            if action == "fetch" || extensions == ["idx"] {
                assert!(fs::read(file("pack")).unwrap() == sound && file("idx").exists(), "{name}");
                run(Command::new("git").arg("-C").arg(&repo).args(["fsck", "--strict", "--no-dangling"]));
            }
            // By its name too.
            remove(&repo, &layer, &["idx"]);
            let fetched = remotes(&repo).fetch_layers(std::slice::from_ref(&layer)).unwrap();
            assert!(fetched.failures.is_empty() && file("idx").exists(), "{name}: {:?}", fetched.failures);
        }
    }
}

#[test]
fn an_index_that_is_damaged_is_replaced_by_a_pull_a_fetch_or_a_push() {
    let lab = pushed();
    for kind in [LayerKind::Data, LayerKind::Metadata] {
        for (number, spoil) in SPOILS.into_iter().enumerate() {
            for (action, evicted) in [
                ("pull", false),
                ("fetch", false),
                ("push", false),
                ("pull", true),
                ("fetch", true),
                ("push", true),
            ] {
                let name = format!("spoiled-{kind:?}-{number}-{action}-{evicted}");
                let (repo, url) = copy_of(&lab, &name);
                if evicted {
                    assert!(remotes(&repo).evict_layers(&[], None).unwrap().failures.is_empty());
                }
                let layer = match kind {
                    LayerKind::Data => a_layer(&repo, kind),
                    // The newest of them is needed to open the repository.
                    LayerKind::Metadata => older_metadata(&repo),
                };
                let index = index_of(&repo, &layer);
                let sound = fs::read(&index).unwrap();
                let mut bytes = sound.clone();
                spoil(&mut bytes);
                fs::write(&index, bytes).unwrap();
                act(&lab, &repo, action);
                assert!(fs::read(index_of(&repo, &layer)).unwrap() == sound, "{name}");
                check(&open(&repo));
                assert_remote_restores(&lab, &url, &name);
            }
        }
    }
}

#[test]
fn an_index_that_is_damaged_says_what_brings_it_and_that_does() {
    let lab = pushed();
    for evicted in [false, true] {
        let (repo, _) = copy_of(&lab, &format!("told-{evicted}"));
        let layer = a_layer(&repo, LayerKind::Data);
        if evicted {
            assert!(remotes(&repo).evict_layers(&[], None).unwrap().failures.is_empty());
        }
        fs::write(index_of(&repo, &layer), "").unwrap();
        let layers = Git::open(&repo).unwrap().refresh().unwrap();
        let [fault] = layers.faults() else { panic!("{:?}", layers.faults()) };
        let fault = fault.to_string();
        assert!(fault.contains(&format!("`treering layers fetch {layer}`")), "{fault}");
        assert_eq!(fault.contains("git index-pack"), !evicted, "{fault}");
        assert!(remotes(&repo).fetch_layers(&[layer]).unwrap().failures.is_empty());
        check(&open(&repo));
    }
}

#[test]
fn metadata_that_was_lost_comes_back_with_a_pull_unless_it_has_the_branch() {
    let mut lab = pushed();
    // The newest of the layers is needed to open the repository; an older one is not.
    let layer = a_layer(&lab.path("repo"), LayerKind::Metadata);
    lab.write("small", "one more");
    lab.backup();
    act(&lab, &lab.path("repo"), "push");
    let pack = lab.path("repo/objects/pack").join(&layer).with_extension("pack");
    for extensions in [&["idx"][..], &["pack"], &["idx", "pack"]] {
        remove(&lab.path("repo"), &layer, extensions);
        act(&lab, &lab.path("repo"), "pull");
        assert!(pack.exists() && pack.with_extension("idx").exists(), "{extensions:?}");
        lab.check();
    }
}

#[test]
fn nothing_is_published_that_lacks_what_the_tree_needs() {
    let lab = pushed();
    let here = remotes(&lab.path("repo"));
    let layer = a_layer(&lab.path("repo"), LayerKind::Data);
    remove(&lab.path("repo"), &layer, &["idx", "pack"]);
    let url = format!("file://{}", lab.path("second").display());
    here.add("second", &url).unwrap();
    let error = here.push("second", &who()).unwrap_err();
    let is_named = |error: &RemoteError| matches!(error, RemoteError::Incomplete { remote, object } if remote == "second" && object.starts_with("archives/"));
    assert!(is_named(&error), "{error}");
    assert_eq!(fs::read_dir(lab.path("second/heads")).map_or(0, Iterator::count), 0);
    // With what another remote has it is whole again.
    assert!(here.fetch_layers(&[]).unwrap().failures.is_empty());
    here.push("second", &who()).unwrap();
    assert_remote_restores(&lab, &url, "second");
}

#[test]
fn an_index_that_is_gone_from_the_remote_holds_up_no_push() {
    let mut lab = pushed();
    let repo = lab.path("repo");
    let layer = a_layer(&repo, LayerKind::Data);
    lab.write("kept", "something else");
    lab.backup();
    remotes(&repo).push("cold", &who()).unwrap();
    for file in fs::read_dir(lab.path("store/data")).unwrap() {
        let path = file.unwrap().path();
        if path.to_string_lossy().contains(&layer) && path.to_string_lossy().ends_with("idx") {
            fs::remove_file(path).unwrap();
        }
    }
    let all = open(&repo).snapshots().unwrap();
    let old: Vec<_> = all[..3].iter().map(|snapshot| snapshot.key).collect();
    open(&repo).forget(&old, "ann", "here", Timestamp::now()).unwrap();
    open(&repo).prune(&PruneOptions::new(Timestamp::now()), &Progress::new()).unwrap();
    remotes(&repo).push("cold", &who()).unwrap();
    assert_remote_restores(&lab, &store_url(&lab), "gone");
}

#[test]
fn an_evict_that_was_killed_between_two_files_is_finished_or_taken_back() {
    let lab = pushed();
    for action in ["evict", "fetch", "pull", "push"] {
        let (repo, url) = copy_of(&lab, &format!("killed-{action}"));
        let layer = a_layer(&repo, LayerKind::Data);
        let pack_dir = repo.join("objects/pack");
        let index = pack_dir.join(format!("{layer}.idx"));
        fs::create_dir_all(repo.join("objects/cold")).unwrap();
        fs::rename(&index, repo.join("objects/cold").join(index.file_name().unwrap())).unwrap();
        check(&open(&repo));
        act(&lab, &repo, action);
        let left = |dir: &Path, extension: &str| dir.join(format!("{layer}.{extension}")).exists();
        let whole =
            (left(&pack_dir, "idx"), left(&pack_dir, "pack"), left(&repo.join("objects/cold"), "idx"));
        let expected = if action == "evict" { (false, false, true) } else { (true, true, false) };
        assert_eq!(whole, expected, "{action}");
        check(&open(&repo));
        assert_remote_restores(&lab, &url, &format!("killed-{action}"));
    }
}

#[test]
fn layers_move_only_while_nobody_reads() {
    let lab = pushed();
    let repo = lab.path("repo");
    let layer = a_layer(&repo, LayerKind::Data);
    let pack = repo.join(format!("objects/pack/{layer}.pack"));
    for is_here in [false, true] {
        let repository = open(&repo);
        let reading = repository.hold().unwrap();
        std::thread::scope(|scope| {
            let moving = scope.spawn(|| match is_here {
                false => remotes(&repo).evict_layers(&[], None).unwrap(),
                true => remotes(&repo).fetch_layers(&[]).unwrap(),
            });
            std::thread::sleep(std::time::Duration::from_millis(300));
            assert!(!moving.is_finished());
            assert_eq!(pack.exists(), !is_here);
            // All of it, as it was when the reader began.
            let options = CheckOptions { read_data: true, ..CheckOptions::default() };
            let report = repository.check(&options, &Progress::new()).unwrap();
            assert!(report.faults.is_empty(), "{:?}", report.faults);
            drop(reading);
            let moved = moving.join().unwrap();
            assert!(moved.failures.is_empty() && moved.layers.len() == 3, "{:?}", moved.failures);
        });
        assert_eq!(pack.exists(), is_here);
    }
}

#[test]
fn fetches_and_evicts_beside_each_other_lose_no_index() {
    let lab = pushed();
    let repo = lab.path("repo");
    let workers = [["layers", "fetch"], ["layers", "evict"], ["layers", "fetch"], ["layers", "evict"]];
    std::thread::scope(|scope| {
        for arguments in workers {
            let repo = &repo;
            scope.spawn(move || {
                for _ in 0..4 {
                    let mut program =
                        crate::cold::program(repo, &arguments, std::time::Duration::from_millis(2));
                    // That others were faster is no failure here.
                    program.stderr(std::process::Stdio::null()).status().unwrap();
                }
            });
        }
    });
    let left = remotes(&repo).layers().unwrap();
    assert_eq!(left.iter().filter(|layer| layer.kind == LayerKind::Data).count(), 3);
    check(&open(&repo));
    remotes(&repo).push("cold", &who()).unwrap();
    assert_remote_restores(&lab, &store_url(&lab), "beside");
}

/// What a prune does, step by step, by one who holds the lock of writers meanwhile.
fn drop_history(git: &Git, alone: &treering::gitkv::Alone<'_>, gone: &[u8]) {
    let head = git.head().unwrap().unwrap();
    let tree = git.read_commit(&head).unwrap().tree;
    let mut edit = TreeEdit::new();
    edit.remove(gone).unwrap();
    let onto = Onto { expected: Some(head), parents: Vec::new(), base: Some(tree) };
    alone.begin().unwrap().commit_onto(&who(), "Prune", onto, &edit).unwrap();
    let head = git.head().unwrap().unwrap();
    let mut live = git.reachable(vec![(head, treering::gitkv::Mode::Module)]).unwrap();
    live.insert(head);
    alone.collect(&live, &Default::default(), &Default::default()).unwrap();
}

#[test]
fn a_first_push_beside_a_prune_pushes_what_the_prune_left() {
    let mut lab = Lab::new();
    for version in 1..=2 {
        lab.write("file", noise(200_000, version));
        lab.backup();
    }
    let repo = lab.path("repo");
    remotes(&repo).add("cold", store_url(&lab)).unwrap();
    let git = Git::open(&repo).unwrap();
    let before: ObjectId = git.head().unwrap().unwrap();
    let record = git.walk(&before, b"snapshots").unwrap().next().unwrap().unwrap().0;
    let alone = git.alone().unwrap();
    std::thread::scope(|scope| {
        let push = scope.spawn(|| remotes(&repo).push("cold", &who()).unwrap());
        std::thread::sleep(std::time::Duration::from_millis(300));
        drop_history(&git, &alone, &record);
        drop(alone);
        push.join().unwrap();
    });
    assert_remote_restores(&lab, &store_url(&lab), "first");
    let clone = open(&lab.path("first-clone"));
    assert_eq!(clone.snapshots().unwrap().len(), 1);
    assert_ne!(git.head().unwrap(), Some(before));
}

#[test]
fn every_reader_keeps_a_prune_waiting() {
    let lab = pushed();
    let repository = open(&lab.path("repo"));
    let snapshot = repository.snapshots().unwrap().pop().unwrap();
    let git = Git::open(&lab.path("repo")).unwrap();
    let view = repository.view(&snapshot).unwrap();
    assert!(git.try_alone().unwrap().is_none());
    let path = lab.source().join("kept");
    let path = view.resolve(Some(path.as_os_str().as_encoded_bytes())).unwrap();
    let mut file = view.open(&view.entry(&path).unwrap().unwrap()).unwrap();
    file.read_to_end(&mut Vec::new()).unwrap();
    assert!(git.try_alone().unwrap().is_none());
    drop(file);
    drop(view);
    assert!(git.try_alone().unwrap().is_some(), "and it is given back");
    let hold = repository.hold().unwrap();
    let again = repository.hold().unwrap();
    drop(hold);
    assert!(git.try_alone().unwrap().is_none());
    drop(again);
    assert!(git.try_alone().unwrap().is_some());
    repository.restore(&snapshot, &RestoreOptions::new(lab.path("restored")), &Progress::new()).unwrap();
}
