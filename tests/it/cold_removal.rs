//! What nothing needs any more goes from a cold remote, and nothing else does.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use treering::digest::Digest;
use treering::gitkv::Git;
use treering::progress::Progress;
use treering::remote::{LayerKind, Pushed, RemoteError, Remotes};
use treering::repository::{
    FORMAT_VERSION, PruneOptions, Repository, RepositoryError, RestoreOptions, Selector,
};
use treering::store::{Namespace, Options, Store, StoreUrl};

use crate::cold::{
    check, open, packed_by_git, program, push_to, quick, remotes, restore, s3_url, snapshots, store_url, who,
};
use crate::lab::{Lab, run};
use crate::store::s3_server::S3Server;
use crate::store::servers::WebDavServer;
use crate::tree::{assert_same, noise};

/// Bytes of each version of the file.
const LEN: usize = 1_500_000;

/// A repository with three snapshots of a file that became another one each time.
fn changed() -> Lab {
    let mut lab = Lab::new();
    for version in 1..=3 {
        lab.write("file", noise(LEN, version));
        lab.backup();
    }
    lab
}

/// Forgets the oldest snapshots of a repository, and prunes.
fn prune(path: &Path, forget: usize) {
    let repository = open(path);
    let mut keys: Vec<_> = repository.snapshots().unwrap().into_iter().map(|snapshot| snapshot.key).collect();
    keys.sort();
    keys.truncate(forget);
    repository.forget(&keys, "ann", "here", Timestamp::now()).unwrap();
    repository.prune(&PruneOptions::new(Timestamp::now()), &Progress::new()).unwrap();
}

fn push(path: &Path, remote: &str) -> Pushed {
    let pushed = remotes(path).push(remote, &who()).unwrap();
    assert!(pushed.removed.failure.is_none(), "{:?}", pushed.removed.failure);
    pushed
}

fn backup(lab: &Lab, path: &Path) {
    let report = open(path).backup(&lab.options(), &Progress::new()).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}

fn clone_all(url: &str, path: &Path) {
    Remotes::clone_with(url, path, FORMAT_VERSION, &quick()).unwrap();
}

/// The layer files in the store, with their sizes, and those that the heads that count list.
fn files(url: &str) -> [BTreeMap<String, u64>; 2] {
    let store = Store::open(&url.parse::<StoreUrl>().unwrap(), Options::default()).unwrap();
    let mut there = BTreeMap::new();
    for kind in ["data", "metadata"] {
        for item in store.list(&Namespace::new(kind).unwrap()) {
            let item = item.unwrap();
            there.insert(item.name.to_string(), item.size);
        }
    }
    let heads: Vec<_> =
        store.list(&Namespace::new("heads").unwrap()).map(|item| item.unwrap().name).collect();
    let number = |key: &str| key[..10].to_owned();
    let highest = heads.iter().map(|name| number(name.key())).max().unwrap();
    let mut listed = BTreeMap::new();
    for name in heads.iter().filter(|name| number(name.key()) == highest) {
        let head = String::from_utf8(store.load(name).unwrap()).unwrap();
        for line in head.lines().filter(|line| line.starts_with("data ") || line.starts_with("metadata ")) {
            let words: Vec<_> = line.split(' ').collect();
            let file = |extension: &str| format!("{}/{}-{}.{extension}", words[0], words[1], words[5]);
            listed.insert(file("pack"), words[2].parse().unwrap());
            listed.insert(file("idx"), words[3].parse().unwrap());
        }
    }
    [there, listed]
}

/// That nothing is missing that a head lists; whether there is nothing else.
#[track_caller]
fn assert_whole(url: &str) -> bool {
    let [there, listed] = files(url);
    assert!(!listed.is_empty());
    for (name, size) in &listed {
        assert_eq!(there.get(name), Some(size), "{name}");
    }
    there == listed
}

/// A clone of everything, found sound.
#[track_caller]
fn assert_restores(lab: &Lab, url: &str, name: &str) -> PathBuf {
    let clone = lab.path(name);
    clone_all(url, &clone);
    check(&open(&clone));
    clone
}

#[test]
fn what_was_pruned_goes_and_a_cold_clone_restores_what_stays() {
    let lab = changed();
    let url = store_url(&lab);
    push_to(&lab, &url);
    prune(&lab.path("repo"), 2);
    let pushed = push(&lab.path("repo"), "cold");
    assert_eq!(pushed.there.removed, 2);
    assert!(pushed.removed.layers >= 2 && pushed.removed.bytes >= 2 * LEN as u64, "{:?}", pushed.removed);
    assert!(assert_whole(&url));
    let bytes: u64 = files(&url)[0].values().sum();
    assert!(bytes < LEN as u64 + 100_000, "{bytes}");
    let clone = lab.path("clone");
    Remotes::clone_cold(&url, &clone, FORMAT_VERSION, &quick()).unwrap();
    restore(&open(&clone), &lab.path("restored"));
    assert_same(&lab.source(), &lab.path("restored"));
    check(&open(&clone));
    let again = push(&lab.path("repo"), "cold");
    assert_eq!((again.layers, again.removed.layers), (0, 0));
}

/// That a clone of what describes, and the repository when it has no more than that, can do everything.
#[track_caller]
fn assert_described(path: &Path, url: &str, name: &Path) {
    Remotes::clone_cold(url, name, FORMAT_VERSION, &quick()).unwrap();
    check(&open(name));
    let evicted = remotes(path).evict_layers(&[], None).unwrap();
    assert!(evicted.failures.is_empty(), "{:?}", evicted.failures);
    assert!(!evicted.layers.is_empty());
    check(&Repository::open(path).map(|_| open(path)).unwrap());
    remotes(path).fetch_layers(&[]).unwrap();
}

#[test]
fn what_describes_is_among_metadata_after_a_prune_of_what_git_packed() {
    let lab = changed();
    let (clone, url) = packed_by_git(&lab);
    let described =
        || remotes(&clone).layers().unwrap().iter().filter(|one| one.kind == LayerKind::Metadata).count();
    assert!(described() > 0);
    prune(&clone, 0);
    assert!(described() > 0, "a prune takes the copy that may be put away");
    prune(&clone, 1);
    push(&clone, "cold");
    assert_described(&clone, &url, &lab.path("cold"));
    // The same where a layer that nothing needs lies beside them, and where git packed it again.
    run(Command::new("git").arg("-C").arg(&clone).args(["gc", "--quiet", "--prune=now"]));
    prune(&clone, 0);
    push(&clone, "cold");
    assert_described(&clone, &url, &lab.path("again"));
    prune(&clone, 1);
    push(&clone, "cold");
    assert_described(&clone, &url, &lab.path("last"));
    assert!(assert_whole(&url));
}

#[test]
fn what_describes_and_was_published_or_put_away_as_data_comes_back() {
    let lab = changed();
    let (clone, url) = packed_by_git(&lab);
    let layers = remotes(&clone).layers().unwrap();
    let of = |kind: LayerKind| layers.iter().find(|layer| layer.kind == kind).unwrap().name.clone();
    let (mixed, described) = (of(LayerKind::Data), of(LayerKind::Metadata));
    // As older versions left it: what describes is in the pack of git only, which counts as data.
    let store = Store::open(&url.parse::<StoreUrl>().unwrap(), Options::default()).unwrap();
    let without = |head: Vec<u8>| {
        let head = String::from_utf8(head).unwrap();
        let is_other = |line: &&str| !line.starts_with("metadata ") && !line.starts_with("sha256 ");
        let text = head.lines().filter(is_other).fold(String::new(), |text, line| text + line + "\n");
        let digest = Digest::of(text.as_bytes());
        format!("{text}sha256 {digest}\n")
    };
    for item in store.list(&Namespace::new("heads").unwrap()) {
        let name = item.unwrap().name;
        store.store(&name, without(store.load(&name).unwrap()).as_bytes()).unwrap();
    }
    let seen = clone.join("treering/remotes/cold/head");
    let noted = fs::read(&seen).unwrap();
    let (number, head) = noted.split_at(noted.iter().position(|&byte| byte == b'\n').unwrap() + 1);
    let number = std::str::from_utf8(number).unwrap();
    fs::write(&seen, format!("{number}{}", without(head.to_vec()))).unwrap();
    for extension in ["pack", "idx", "keep", "promisor"] {
        let _ = fs::remove_file(clone.join(format!("objects/pack/{described}.{extension}")));
    }
    let copy = |name: &str| {
        run(Command::new("cp").arg("-a").arg(&clone).arg(lab.path(name)));
        lab.path(name)
    };
    // Who has everything puts nothing away before there is a copy, and the next push brings it there.
    let kept = copy("kept");
    let evicted = remotes(&kept).evict_layers(&[], None).unwrap();
    assert_eq!(evicted.layers.len(), 1, "{:?}", evicted.failures);
    check(&Repository::open(&kept).map(|_| open(&kept)).unwrap());

    // Who put it away gets it back, and so does who clones it.
    let evicted = copy("evicted");
    Git::open(&evicted).unwrap().remove_pack(&mixed).unwrap();
    assert!(matches!(Repository::open(&evicted), Err(RepositoryError::LostNewest { .. })));
    remotes(&evicted).rescue("cold", &Progress::new()).unwrap();
    check(&Repository::open(&evicted).unwrap());
    let cold = lab.path("cold");
    Remotes::clone_cold(&url, &cold, FORMAT_VERSION, &quick()).unwrap();
    check(&Repository::open(&cold).unwrap());

    push(&clone, "cold");
    assert_described(&clone, &url, &lab.path("mended"));
}

#[test]
fn data_that_is_not_here_goes_too() {
    let lab = changed();
    let url = store_url(&lab);
    let here = push_to(&lab, &url);
    assert!(here.evict_layers(&[], None).unwrap().failures.is_empty());
    prune(&lab.path("repo"), 2);
    assert!(push(&lab.path("repo"), "cold").removed.bytes >= 2 * LEN as u64);
    assert!(assert_whole(&url));
    restore(&open(&lab.path("repo")), &lab.path("restored"));
    assert_same(&lab.source(), &lab.path("restored"));
    let left = remotes(&lab.path("repo")).layers().unwrap();
    assert!(left.iter().all(|layer| layer.is_here || layer.remotes == ["cold"]), "{left:?}");
}

#[test]
fn an_append_only_repository_removes_nothing_until_it_is_none() {
    let lab = changed();
    let url = store_url(&lab);
    push_to(&lab, &url);
    prune(&lab.path("repo"), 2);
    let set = |append_only| {
        let mut repository = open(&lab.path("repo"));
        repository.set_append_only(append_only, "ann", "here", Timestamp::now()).unwrap();
    };
    set(true);
    let before = files(&url)[0].clone();
    for _ in 0..2 {
        assert_eq!(push(&lab.path("repo"), "cold").removed.layers, 0);
        let after = files(&url)[0].clone();
        assert!(before.keys().all(|name| after.contains_key(name)));
    }
    set(false);
    assert!(push(&lab.path("repo"), "cold").removed.bytes >= 2 * LEN as u64);
    assert!(assert_whole(&url));
    assert_restores(&lab, &url, "clone");
}

#[test]
fn a_store_that_lets_nobody_remove_anything_takes_what_is_new() {
    let mut lab = changed();
    let url = store_url(&lab);
    push_to(&lab, &url);
    let mut options = quick();
    for namespace in ["config", "heads", "locks", "data", "metadata"] {
        options.store.local.permissions.insert(Namespace::new(namespace).unwrap(), "lrwW".parse().unwrap());
    }
    let before = files(&url)[0].clone();
    for round in 0..2 {
        prune(&lab.path("repo"), 1);
        lab.write("file", noise(LEN, 10 + round));
        lab.backup();
        let guarded = Remotes::open_with(&lab.path("repo"), FORMAT_VERSION, &options).unwrap();
        let pushed = guarded.push("cold", &who()).unwrap();
        assert_eq!((pushed.there.added, pushed.removed.layers), (1, 0));
        assert!(pushed.removed.failure.is_some(), "it says what stays");
        let after = files(&url)[0].clone();
        assert!(before.keys().all(|name| after.contains_key(name)));
        assert_restores(&lab, &url, &format!("clone{round}"));
    }
}

#[test]
fn layers_that_were_merged_go_and_others_find_what_took_their_place() {
    let mut lab = changed();
    for version in 4..8 {
        lab.write("file", noise(LEN / 10, version));
        lab.backup();
    }
    let url = store_url(&lab);
    push_to(&lab, &url);
    let clone = lab.path("clone");
    Remotes::clone_cold(&url, &clone, FORMAT_VERSION, &quick()).unwrap();
    let merged = remotes(&lab.path("repo")).merge_layers().unwrap();
    assert!(merged.removed > 2, "{merged:?}");
    let pushed = push(&lab.path("repo"), "cold");
    assert!(pushed.there.is_zero() && pushed.removed.layers == merged.removed, "{pushed:?}");
    assert!(assert_whole(&url));

    // As by one who did not hear of it.
    let repository = open(&clone);
    let snapshot = repository.find(&Selector::Latest(6)).unwrap();
    let to = RestoreOptions::new(lab.path("early"));
    let failures = repository.restore(&snapshot, &to, &Progress::new()).unwrap().applied.failures;
    let said = treering::causes::chain(&failures[0]);
    assert!(said.contains("`treering pull origin`"), "{said}");
    assert!(remotes(&clone).pull("origin", &who()).unwrap().is_zero());
    check(&open(&clone));
    restore(&open(&clone), &lab.path("restored"));
    assert_same(&lab.source(), &lab.path("restored"));
    assert_eq!(push(&clone, "origin").layers, 0);
    assert_restores(&lab, &url, "whole");
}

/// One prunes and another adds, and the program pushes from both at one time.
fn prune_and_push_at_once(url: impl Fn(&Lab) -> String) {
    let lab = changed();
    let url = url(&lab);
    push_to(&lab, &url);
    let clone = lab.path("clone");
    clone_all(&url, &clone);
    prune(&lab.path("repo"), 2);
    lab.write("file", noise(LEN, 2));
    backup(&lab, &clone);
    let latency = Duration::from_millis(15);
    let pushes: Vec<Child> = [(lab.path("repo"), "cold"), (clone.clone(), "origin")]
        .iter()
        .map(|(path, remote)| program(path, &["push", "-q", remote], latency).spawn().unwrap())
        .collect();
    for mut push in pushes {
        assert!(push.wait().unwrap().success());
    }
    assert_whole(&url);
    let whole = assert_restores(&lab, &url, "whole");
    assert_eq!(snapshots(&whole).len(), 2);
    assert!(snapshots(&whole).contains(snapshots(&clone).last().unwrap()));
    restore(&open(&whole), &lab.path("restored"));
    assert_same(&lab.source(), &lab.path("restored"));
    for (path, remote) in [(lab.path("repo"), "cold"), (clone.clone(), "origin"), (lab.path("repo"), "cold")]
    {
        push(&path, remote);
    }
    assert!(assert_whole(&url), "what was going is gone");
    assert_restores(&lab, &url, "again");
}

#[test]
fn who_prunes_and_who_adds_push_at_one_time_to_files() {
    prune_and_push_at_once(store_url);
}

#[test]
fn who_prunes_and_who_adds_push_at_one_time_to_s3() {
    let server = S3Server::start();
    prune_and_push_at_once(|_| s3_url(&server));
}

#[test]
fn who_prunes_and_who_adds_push_at_one_time_where_only_a_lock_keeps_them_apart() {
    let Some(server) = WebDavServer::start() else { return };
    prune_and_push_at_once(|_| format!("webdav://me:p%40ss@127.0.0.1:{}/some/path", server.port));
}

/// What a killed push of a pruned repository leaves, when it is killed as soon as `is_reached` says so, is whole,
/// and the next push removes what this one did not.
fn kill_when(is_reached: impl Fn(&Path, &BTreeMap<String, u64>) -> bool) {
    let lab = changed();
    let url = store_url(&lab);
    push_to(&lab, &url);
    let before = files(&url)[0].clone();
    prune(&lab.path("repo"), 2);
    let mut killed =
        program(&lab.path("repo"), &["push", "-q", "cold"], Duration::from_millis(40)).spawn().unwrap();
    let start = Instant::now();
    while !is_reached(&lab.path("store"), &before) {
        assert!(start.elapsed() < Duration::from_secs(60) && killed.try_wait().unwrap().is_none());
        thread::sleep(Duration::from_millis(1));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(!assert_whole(&url), "killed before all was gone");
    assert_restores(&lab, &url, "between");
    // By whoever pushes next.
    let clone = lab.path("between");
    assert!(push(&clone, "origin").removed.layers > 0);
    assert!(assert_whole(&url));
    assert_restores(&lab, &url, "after");
    assert_eq!(push(&lab.path("repo"), "cold").removed.layers, 0);
}

#[test]
fn a_push_that_was_killed_before_it_removed_anything_is_gone_on_with() {
    kill_when(|store, _| store.join("heads/0000000002").exists());
}

#[test]
fn a_push_that_was_killed_when_it_had_said_so_twice_is_gone_on_with() {
    kill_when(|store, _| store.join("heads/0000000003").exists());
}

#[test]
fn a_push_that_was_killed_while_it_removed_is_gone_on_with() {
    kill_when(|store, before| before.keys().any(|name| !store.join(name).exists()));
}

#[test]
fn what_a_killed_push_brought_and_nobody_lists_goes() {
    let mut lab = Lab::new();
    let url = store_url(&lab);
    lab.write("file", "first");
    lab.backup();
    push_to(&lab, &url);
    lab.write("file", noise(LEN, 1));
    lab.backup();
    let files_of = |url: &str| files(url)[0].len();
    let before = files_of(&url);
    let mut killed =
        program(&lab.path("repo"), &["push", "-q", "cold"], Duration::from_millis(60)).spawn().unwrap();
    while files_of(&url) < before + 2 {
        assert!(killed.try_wait().unwrap().is_none());
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(!assert_whole(&url));
    let key = lab.open().find(&Selector::Latest(0)).unwrap().key;
    lab.open().forget(&[key], "ann", "here", Timestamp::now()).unwrap();
    lab.open().prune(&PruneOptions::new(Timestamp::now()), &Progress::new()).unwrap();
    assert!(push(&lab.path("repo"), "cold").removed.bytes >= LEN as u64);
    assert!(assert_whole(&url));
}

#[test]
fn who_still_has_and_needs_what_was_removed_brings_it_again() {
    let lab = changed();
    let url = store_url(&lab);
    push_to(&lab, &url);
    let [clone, other] = ["clone", "other"].map(|name| lab.path(name));
    clone_all(&url, &clone);
    clone_all(&url, &other);
    prune(&lab.path("repo"), 2);
    assert!(push(&lab.path("repo"), "cold").removed.layers >= 2);

    // Who has it and does not need it brings nothing.
    let bytes: u64 = files(&url)[0].values().sum();
    assert_eq!(push(&other, "origin").layers, 0);
    assert_eq!(files(&url)[0].values().sum::<u64>(), bytes);

    // What was in the first snapshot only, of which this clone has the data.
    lab.write("file", noise(LEN, 1));
    let report = open(&clone).backup(&lab.options(), &Progress::new()).unwrap();
    assert!(report.bytes_added < 100_000, "{}", report.bytes_added);
    assert!(push(&clone, "origin").bytes >= LEN as u64);
    assert!(assert_whole(&url));
    let whole = assert_restores(&lab, &url, "whole");
    restore(&open(&whole), &lab.path("restored"));
    assert_same(&lab.source(), &lab.path("restored"));

    // And it goes again when nobody needs it.
    push(&lab.path("repo"), "cold");
    prune(&lab.path("repo"), 2);
    assert!(snapshots(&lab.path("repo")).is_empty());
    assert!(push(&lab.path("repo"), "cold").removed.bytes >= LEN as u64);
    assert!(assert_whole(&url));
}

#[test]
fn a_snapshot_whose_data_others_removed_is_not_pushed_and_can_be_made_again() {
    let lab = changed();
    let url = store_url(&lab);
    push_to(&lab, &url);
    let clone = lab.path("clone");
    Remotes::clone_cold(&url, &clone, FORMAT_VERSION, &quick()).unwrap();
    lab.write("file", noise(LEN, 1));
    backup(&lab, &clone);
    prune(&lab.path("repo"), 2);
    push(&lab.path("repo"), "cold");
    let refused = remotes(&clone).push("origin", &who());
    assert!(matches!(refused, Err(RemoteError::Pruned { .. })), "{refused:?}");
    assert!(assert_whole(&url));
    assert_restores(&lab, &url, "whole");

    let repository = open(&clone);
    let key = repository.find(&Selector::Latest(0)).unwrap().key;
    repository.forget(&[key], "ann", "here", Timestamp::now()).unwrap();
    remotes(&clone).taking_removals().pull("origin", &who()).unwrap();
    open(&clone).prune(&PruneOptions::new(Timestamp::now()), &Progress::new()).unwrap();
    backup(&lab, &clone);
    push(&clone, "origin");
    assert!(assert_whole(&url));
    let again = assert_restores(&lab, &url, "again");
    restore(&open(&again), &lab.path("restored"));
    assert_same(&lab.source(), &lab.path("restored"));
}
