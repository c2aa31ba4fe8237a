//! Repositories whose data lies in cold remotes: real stores, real programs beside each other, and git.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use treering::gitkv::Person;
use treering::progress::Progress;
use treering::remote::{
    ColdOptions, LayerKind, LayerStatus, RemoteError, RemoteKind, Remotes, cold_reader, is_cold_url,
};
use treering::repository::{CheckOptions, FORMAT_VERSION, InitOptions, Repository, RestoreOptions, Selector};
use treering::store::{Options, Retry};

use crate::lab::{self, Lab, run};
use crate::store::Place;
use crate::store::s3_server::S3Server;
use crate::store::servers::{RcloneRemote, RcloneSftp, WebDavServer};
use crate::tree::{assert_same, noise};

pub fn who() -> Person {
    Person::new("Ann", "ann@example.org", Timestamp::now())
}

/// Quick retries: what fails here fails for good.
pub fn quick() -> ColdOptions {
    let (first_pause, longest_pause) = (Duration::from_millis(1), Duration::from_millis(5));
    let retry = Retry { attempts: 3, first_pause, longest_pause };
    let store = Options { retry, timeout: Duration::from_secs(20), ..Options::default() };
    ColdOptions { store, ..ColdOptions::default() }
}

pub fn remotes(path: &Path) -> Remotes {
    Remotes::open_with(path, FORMAT_VERSION, &quick()).unwrap()
}

pub fn store_url(lab: &Lab) -> String {
    format!("file://{}", lab.path("store").display())
}

/// The URL of an S3 server, with its secret.
pub fn s3_url(server: &S3Server) -> String {
    server.url(S3Server::SECRET)
}

/// A repository with some snapshots of files large and small.
fn filled() -> Lab {
    let mut lab = Lab::new();
    lab.write("large", noise(6_000_000, 1));
    (0..400).for_each(|number| lab.write(&format!("small/{number}"), noise(4096, number + 2)));
    lab.backup();
    lab.write("text", "some lines\nof text\n");
    lab.backup();
    lab
}

/// The lab's repository pushed to a cold remote at `url`.
pub fn push_to(lab: &Lab, url: &str) -> Remotes {
    let here = remotes(&lab.path("repo"));
    here.add("cold", url).unwrap();
    here.push("cold", &who()).unwrap();
    here
}

/// The repository at `path`, reading from its cold remotes.
pub fn open(path: &Path) -> Repository {
    let repository = Repository::open(path).unwrap();
    if let Some(cold) = cold_reader(path, &quick()) {
        repository.read_cold(cold).unwrap();
    }
    repository
}

pub fn restore(repository: &Repository, target: &Path) {
    let snapshot = repository.find(&Selector::Latest(0)).unwrap();
    let report = repository.restore(&snapshot, &RestoreOptions::new(target), &Progress::new()).unwrap();
    assert!(report.applied.failures.is_empty(), "{:?}", report.applied.failures);
}

pub fn check(repository: &Repository) {
    let options = CheckOptions { read_data: true, ..CheckOptions::default() };
    let report = repository.check(&options, &Progress::new()).unwrap();
    assert!(report.faults.is_empty(), "{:?}", report.faults);
}

pub fn snapshots(path: &Path) -> Vec<String> {
    let snapshots = Repository::open(path).unwrap().snapshots().unwrap();
    snapshots.iter().map(|snapshot| snapshot.key.to_string()).collect()
}

fn fsck(path: &Path) {
    run(Command::new("git").arg("-C").arg(path).args(["fsck", "--strict", "--no-dangling"]));
}

fn data(layers: &[LayerStatus]) -> Vec<&LayerStatus> {
    layers.iter().filter(|layer| layer.kind == LayerKind::Data).collect()
}

/// The file of a layer of data in the store.
fn stored(lab: &Lab, layer: &str, extension: &str) -> PathBuf {
    let mut files = fs::read_dir(lab.path("store/data")).unwrap().map(|file| file.unwrap().path());
    let is_meant = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with(layer) && name.ends_with(extension)
    };
    files.find(is_meant).unwrap()
}

/// The program, on the repository at `path`, with the latency of a far store.
pub fn program(path: &Path, arguments: &[&str], latency: Duration) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_treering"));
    command
        .args(arguments)
        .env("TREERING_REPOSITORY", path)
        .env("TREERING_STORE_LATENCY", latency.as_micros().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

#[test]
fn what_a_cold_clone_restores_is_the_same_and_each_byte_is_read_about_once() {
    let lab = filled();
    let server = S3Server::start();
    push_to(&lab, &s3_url(&server));
    let (_, before) = server.served();
    let clone = lab.path("clone");
    Remotes::clone_cold(s3_url(&server), &clone, FORMAT_VERSION, &quick()).unwrap();
    let metadata = server.served().1 - before;
    assert!(metadata < 1_000_000, "{metadata} bytes to describe 8 MB");
    let layers = remotes(&clone).layers().unwrap();
    assert!(data(&layers).iter().all(|layer| !layer.is_here && layer.remotes == ["origin"]));
    let needed: u64 = data(&layers).iter().map(|layer| layer.pack_bytes).sum();
    fsck(&clone);

    // A small file, with all that has to be asked for it, the look whether the store is there included.
    let (requests, bytes) = server.served();
    let repository = open(&clone);
    let snapshot = repository.find(&Selector::Latest(0)).unwrap();
    let path = lab.source().join("small/200");
    let small = lab::cat(&repository, &snapshot, path.as_os_str().as_encoded_bytes()).unwrap();
    assert_eq!(small, noise(4096, 202));
    let (requests, bytes) = (server.served().0 - requests, server.served().1 - bytes);
    assert!(requests <= 5 && bytes <= 1 << 20, "{requests} requests, {bytes} bytes");

    fs::remove_dir_all(clone.join("treering/blocks")).unwrap();
    let repository = Repository::open(&clone).unwrap();
    let cold = cold_reader(&clone, &quick()).unwrap();
    repository.read_cold(cold.clone()).unwrap();
    restore(&repository, &lab.path("restored"));
    assert_same(&lab.source(), &lab.path("restored"));
    assert!(cold.bytes() as f64 <= 1.1 * needed as f64, "{} of {needed}", cold.bytes());
    let requests = cold.requests();
    restore(&repository, &lab.path("again"));
    assert_eq!(cold.requests(), requests, "all of it is in the cache");
    check(&repository);
}

#[test]
fn a_cold_clone_backs_up_and_pushes_and_the_others_pull() {
    let mut lab = filled();
    let url = store_url(&lab);
    let here = push_to(&lab, &url);
    let clone = lab.path("clone");
    Remotes::clone_cold(&url, &clone, FORMAT_VERSION, &quick()).unwrap();
    lab.write(
        "large",
        [noise(3_000_000, 1), b"in the middle".to_vec(), noise(6_000_000, 1)[3_000_000..].to_vec()].concat(),
    );
    let repository = open(&clone);
    let report = repository.backup(&lab.options(), &Progress::new()).unwrap();
    assert!(report.bytes_added < 1_500_000, "{}: the content here is known there", report.bytes_added);
    check(&repository);
    remotes(&clone).push("origin", &who()).unwrap();
    fsck(&clone);

    assert_eq!(here.pull("cold", &who()).unwrap().added, 1);
    lab.reopen();
    check(&open(&lab.path("repo")));
    fsck(&lab.path("repo"));
    let whole = lab.path("whole");
    Remotes::clone_with(&url, &whole, FORMAT_VERSION, &quick()).unwrap();
    assert!(remotes(&whole).layers().unwrap().iter().all(|layer| layer.is_here));
    fs::rename(lab.path("store"), lab.path("elsewhere")).unwrap();
    restore(&Repository::open(&whole).unwrap(), &lab.path("restored"));
    assert_same(&lab.source(), &lab.path("restored"));
    assert!(
        !whole.join("objects/pack").read_dir().unwrap().any(|file| {
            file.unwrap().path().extension().is_some_and(|extension| extension == "promisor")
        })
    );
}

/// Clones with a snapshot of their own each, and the program pushing from all of them at one time.
fn push_at_once(lab: &Lab, url: &str, clones: usize) {
    push_to(lab, url);
    let paths: Vec<PathBuf> = (0..clones).map(|number| lab.path(&format!("clone{number}"))).collect();
    for (number, path) in paths.iter().enumerate() {
        Remotes::clone_cold(url, path, FORMAT_VERSION, &quick()).unwrap();
        lab.write("file", format!("from clone {number}"));
        Repository::open(path).unwrap().backup(&lab.options(), &Progress::new()).unwrap();
    }
    let pushes: Vec<Child> = paths
        .iter()
        .map(|path| program(path, &["push", "-q"], Duration::from_millis(15)).spawn().unwrap())
        .collect();
    for mut push in pushes {
        assert!(push.wait().unwrap().success());
    }
    let last = lab.path("last");
    Remotes::clone_with(url, &last, FORMAT_VERSION, &quick()).unwrap();
    let mut expected: BTreeSet<String> = snapshots(&lab.path("repo")).into_iter().collect();
    paths.iter().for_each(|path| expected.extend(snapshots(path)));
    assert_eq!(snapshots(&last), expected.iter().cloned().collect::<Vec<_>>());
    assert_eq!(expected.len(), snapshots(&lab.path("repo")).len() + clones);
    check(&open(&last));
    for path in &paths {
        remotes(path).pull("origin", &who()).unwrap();
        assert_eq!(snapshots(path), snapshots(&last));
    }
}

#[test]
fn pushes_at_one_time_all_land_in_files() {
    let lab = filled();
    push_at_once(&lab, &store_url(&lab), 3);
}

#[test]
fn pushes_at_one_time_all_land_in_s3() {
    let server = S3Server::start();
    push_at_once(&filled(), &s3_url(&server), 3);
}

#[test]
fn pushes_at_one_time_all_land_where_only_a_lock_keeps_them_apart() {
    let Some(server) = WebDavServer::start() else { return };
    push_at_once(&filled(), &format!("webdav://me:p%40ss@127.0.0.1:{}/some/path", server.port), 2);
}

#[test]
fn two_heads_of_one_number_are_both_merged() {
    let lab = filled();
    let url = store_url(&lab);
    push_to(&lab, &url);
    let heads = lab.path("store/heads");
    let clones = ["a", "b"].map(|name| {
        let clone = lab.path(name);
        Remotes::clone_cold(&url, &clone, FORMAT_VERSION, &quick()).unwrap();
        lab.write("file", name);
        Repository::open(&clone).unwrap().backup(&lab.options(), &Progress::new()).unwrap();
        clone
    });
    let own = clones.each_ref().map(|clone| snapshots(clone).pop().unwrap());
    for clone in &clones {
        remotes(clone).push("origin", &who()).unwrap();
        // As where a lock failed: the other one did not see this head.
        fs::rename(heads.join("0000000002"), lab.path(&format!("{}.head", clone.display()))).unwrap();
    }
    for (clone, suffix) in clones.iter().zip(["aa", "bb"]) {
        let head = lab.path(&format!("{}.head", clone.display()));
        fs::rename(head, heads.join(format!("0000000002.{suffix}"))).unwrap();
    }
    for clone in clones.iter().chain(&clones) {
        remotes(clone).push("origin", &who()).unwrap();
    }
    let whole = lab.path("whole");
    Remotes::clone_with(&url, &whole, FORMAT_VERSION, &quick()).unwrap();
    for path in clones.iter().chain([&whole]) {
        let all = snapshots(path);
        assert_eq!(all.len(), 4, "{path:?}");
        assert!(own.iter().all(|one| all.contains(one)), "{path:?}");
    }
    check(&open(&whole));
}

#[test]
fn what_a_remote_provably_has_can_be_evicted_and_fetched() {
    let lab = filled();
    let here = push_to(&lab, &store_url(&lab));
    let before = here.layers().unwrap();
    let evicted = here.evict_layers(&[], None).unwrap();
    assert!(evicted.failures.is_empty(), "{:?}", evicted.failures);
    assert_eq!(evicted.layers.len(), data(&before).len());
    fsck(&lab.path("repo"));
    lab.git(&["gc", "--quiet", "--prune=now"]);
    fsck(&lab.path("repo"));
    let repository = open(&lab.path("repo"));
    check(&repository);
    restore(&repository, &lab.path("restored"));
    assert_same(&lab.source(), &lab.path("restored"));
    assert!(matches!(here.remove("cold"), Err(RemoteError::OnlyThere { .. })));

    let name = &data(&before)[0].name;
    let digits = name.strip_prefix("pack-").unwrap()[..12].to_owned();
    assert_eq!(here.fetch_layers(&[digits]).unwrap().layers[0].name, *name);
    here.fetch_layers(&[]).unwrap();
    let after = here.layers().unwrap();
    assert!(before.iter().all(|layer| after.contains(layer)), "beside what git made");
    lab.check();
    here.remove("cold").unwrap();
    assert!(here.list().unwrap().is_empty());
}

#[test]
fn what_is_damaged_there_stays_here() {
    let lab = filled();
    let here = push_to(&lab, &store_url(&lab));
    let layers = here.layers().unwrap();
    let damaged = &data(&layers)[0].name;
    let pack = stored(&lab, damaged, "pack");
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&pack, &bytes).unwrap();
    let evicted = here.evict_layers(&[], None).unwrap();
    assert_eq!(evicted.layers.len(), data(&layers).len() - 1);
    assert!(matches!(&evicted.failures[..], [(name, RemoteError::Unreadable { .. })] if name == damaged));
    check(&open(&lab.path("repo")));

    // Not there, not pushed, and not data.
    fs::remove_file(&pack).unwrap();
    let failures = here.evict_layers(&[], Some("cold")).unwrap().failures;
    assert!(matches!(&failures[..], [(_, RemoteError::Gone { .. })]));
    let metadata = layers.iter().find(|layer| layer.kind == LayerKind::Metadata).unwrap();
    let failures = here.evict_layers(std::slice::from_ref(&metadata.name), None).unwrap().failures;
    assert!(matches!(&failures[..], [(_, RemoteError::NotData(_))]));
    assert!(matches!(here.evict_layers(&["00".into()], None), Err(RemoteError::NoSuchLayer(_))));
    assert!(matches!(here.evict_layers(&[], Some("none")), Err(RemoteError::Unknown(_))));
}

#[test]
fn what_is_damaged_here_is_not_spread_and_can_be_brought_again() {
    use std::os::unix::fs::PermissionsExt;
    let lab = filled();
    let here = push_to(&lab, &store_url(&lab));
    let name = data(&here.layers().unwrap())[0].name.clone();
    let pack = lab.path("repo/objects/pack").join(&name).with_extension("pack");
    let sound = fs::read(&pack).unwrap();
    let mut other = sound.clone();
    other[sound.len() / 2] ^= 1;
    let is_here = |failures: &[(String, RemoteError)]| matches!(failures, [(_, RemoteError::DamagedHere { layer, .. })] if *layer == name);
    for bytes in [&other[..], &sound[..sound.len() / 2]] {
        fs::set_permissions(&pack, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&pack, bytes).unwrap();
        let evicted = here.evict_layers(std::slice::from_ref(&name), None).unwrap();
        assert!(is_here(&evicted.failures), "{:?}", evicted.failures);
        let second = format!("file://{}", lab.path(&format!("second{}", bytes.len())).display());
        let second_name = format!("second{}", bytes.len());
        here.add(&second_name, &second).unwrap();
        let error = here.push(&second_name, &who()).unwrap_err();
        assert!(matches!(&error, RemoteError::DamagedHere { layer, .. } if *layer == name), "{error}");
        let fetched = here.fetch_layers(std::slice::from_ref(&name)).unwrap();
        assert_eq!((fetched.layers.len(), fetched.failures.len()), (1, 0), "{:?}", fetched.failures);
        assert_eq!(fetched.layers[0].pack_bytes, sound.len() as u64);
        assert_eq!(fs::read(&pack).unwrap(), sound);
        assert_eq!(here.fetch_layers(std::slice::from_ref(&name)).unwrap().layers, [], "it is sound");
        here.push(&second_name, &who()).unwrap();
        here.remove(&second_name).unwrap();
    }
    // Held nowhere, it says so.
    here.remove("cold").unwrap();
    fs::set_permissions(&pack, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&pack, &other).unwrap();
    assert!(is_here(&here.fetch_layers(std::slice::from_ref(&name)).unwrap().failures));
}

#[test]
fn a_killed_push_is_made_again_and_sends_nothing_twice() {
    let mut lab = Lab::new();
    for round in 0..4 {
        lab.write("file", noise(700_000, round + 1));
        lab.backup();
    }
    let url = store_url(&lab);
    remotes(&lab.path("repo")).add("cold", &url).unwrap();
    let before = lab.git(&["rev-parse", "main"]);
    for pause in [5, 40, 80, 120, 160, 200] {
        let mut push = program(&lab.path("repo"), &["push", "-q"], Duration::from_millis(8)).spawn().unwrap();
        thread::sleep(Duration::from_millis(pause));
        let _ = push.kill();
        push.wait().unwrap();
        assert_eq!(lab.git(&["rev-parse", "main"]), before);
        lab.check();
    }
    remotes(&lab.path("repo")).push("cold", &who()).unwrap();
    let layers = remotes(&lab.path("repo")).layers().unwrap();
    let mut files = 0;
    for kind in ["data", "metadata"] {
        let names = fs::read_dir(lab.path("store").join(kind)).unwrap().map(|file| file.unwrap().file_name());
        files += names.filter(|name| !name.to_string_lossy().ends_with(".tmp")).count();
    }
    assert_eq!(files, 2 * layers.len());
    let again = remotes(&lab.path("repo")).push("cold", &who()).unwrap();
    assert_eq!((again.layers, again.bytes), (0, 0));
    let whole = lab.path("whole");
    Remotes::clone_with(&url, &whole, FORMAT_VERSION, &quick()).unwrap();
    check(&Repository::open(&whole).unwrap());
}

#[test]
fn a_first_push_that_was_killed_at_its_first_object_is_made_again() {
    let lab = filled();
    fs::create_dir_all(lab.path("store/config")).unwrap();
    fs::write(lab.path("store/config/.treering-tmp-a1B2c3.tmp"), "treering co").unwrap();
    push_to(&lab, &store_url(&lab));
    let whole = lab.path("whole");
    Remotes::clone_with(store_url(&lab), &whole, FORMAT_VERSION, &quick()).unwrap();
    check(&open(&whole));
}

#[test]
fn without_treering_git_and_a_copy_bring_everything_back() {
    let lab = filled();
    push_to(&lab, &store_url(&lab));
    let plain = lab.path("plain.git");
    run(Command::new("git").args(["init", "--quiet", "--bare", "--initial-branch=main"]).arg(&plain));
    for kind in ["data", "metadata"] {
        for file in fs::read_dir(lab.path("store").join(kind)).unwrap() {
            let file = file.unwrap();
            let name = file.file_name().into_string().unwrap();
            let (name, extension) = (&name["pack-".len()..][..40], name.rsplit_once('.').unwrap().1);
            fs::copy(file.path(), plain.join(format!("objects/pack/pack-{name}.{extension}"))).unwrap();
        }
    }
    let head = fs::read_to_string(lab.path("store/heads/0000000001")).unwrap();
    let commit = head.lines().find_map(|line| line.strip_prefix("commit ")).unwrap();
    run(Command::new("git").arg("-C").arg(&plain).args(["update-ref", "refs/heads/main", commit]));
    fsck(&plain);
    check(&Repository::open(&plain).unwrap());
}

/// A clone of what git packed, pushed to a cold remote.
pub fn packed_by_git(lab: &Lab) -> (PathBuf, String) {
    let hub = lab.path("hub.git");
    run(Command::new("git").args(["init", "--quiet", "--bare"]).arg(&hub));
    let here = remotes(&lab.path("repo"));
    here.add("hub", hub.to_str().unwrap()).unwrap();
    here.push("hub", &who()).unwrap();
    let clone = lab.path("clone");
    Remotes::clone_from(hub.to_str().unwrap(), &clone, FORMAT_VERSION).unwrap();
    let url = store_url(lab);
    remotes(&clone).add("cold", &url).unwrap();
    remotes(&clone).push("cold", &who()).unwrap();
    (clone, url)
}

#[test]
fn git_remotes_and_cold_ones_go_together() {
    let lab = filled();
    // What git fetches is one pack of everything, of which only a part is needed by every command.
    let (clone, url) = packed_by_git(&lab);
    let (here, there) = (remotes(&lab.path("repo")), remotes(&clone));
    let kinds: Vec<_> = there.list().unwrap().into_iter().map(|one| (one.name, one.kind)).collect();
    assert_eq!(kinds, [("cold".into(), RemoteKind::Cold), ("origin".into(), RemoteKind::Git)]);
    let again = there.push("cold", &who()).unwrap();
    assert_eq!(again.layers, 0);

    let cold = lab.path("cold");
    Remotes::clone_cold(&url, &cold, FORMAT_VERSION, &quick()).unwrap();
    let here_bytes: u64 =
        remotes(&cold).layers().unwrap().iter().filter(|one| one.is_here).map(|one| one.pack_bytes).sum();
    assert!(here_bytes < 1_000_000, "{here_bytes}");
    restore(&open(&cold), &lab.path("restored"));
    assert_same(&lab.source(), &lab.path("restored"));

    lab.write("file", "new");
    open(&clone).backup(&lab.options(), &Progress::new()).unwrap();
    there.push("cold", &who()).unwrap();
    there.push("origin", &who()).unwrap();
    here.pull("hub", &who()).unwrap();
    remotes(&cold).pull("origin", &who()).unwrap();
    assert_eq!(snapshots(&cold), snapshots(&lab.path("repo")));
    lab.check();
}

#[test]
fn what_is_not_a_cold_remote_of_this_repository_is_told_apart_and_changes_nothing() {
    let lab = filled();
    let here = remotes(&lab.path("repo"));
    let url = store_url(&lab);
    here.add("cold", &url).unwrap();
    let clone = lab.path("clone");
    let tree = || {
        let refs = lab.git(&["for-each-ref"]);
        (refs, fs::read_dir(lab.path("repo/objects/pack")).unwrap().count())
    };
    let before = tree();
    let fails = |wanted: fn(&RemoteError) -> bool| {
        for error in [
            here.push("cold", &who()).map(drop).unwrap_err(),
            here.pull("cold", &who()).map(drop).unwrap_err(),
            Remotes::clone_cold(&url, &clone, FORMAT_VERSION, &quick()).map(drop).unwrap_err(),
        ] {
            assert!(wanted(&error), "{error:?}");
        }
        assert!(!clone.exists());
        assert_eq!(tree(), before);
    };
    // Nothing yet: only a push makes it.
    assert!(matches!(here.pull("cold", &who()), Err(RemoteError::Store { .. })));
    // Something else.
    fs::create_dir(lab.path("store")).unwrap();
    fs::write(lab.path("store/notes"), "mine").unwrap();
    fails(|error| matches!(error, RemoteError::NotTreering(_) | RemoteError::NotPushed(_)));
    assert_eq!(fs::read_dir(lab.path("store")).unwrap().count(), 1);
    fs::remove_file(lab.path("store/notes")).unwrap();
    // Another repository.
    let other = lab.path("other");
    Repository::init(&other, &InitOptions::new(Timestamp::now())).unwrap();
    let others = remotes(&other);
    others.add("cold", &url).unwrap();
    others.push("cold", &who()).unwrap();
    for error in [here.push("cold", &who()).map(drop), here.pull("cold", &who()).map(drop)] {
        assert!(matches!(error, Err(RemoteError::OtherRepository(_))));
    }
    assert_eq!(tree(), before);
    fs::remove_dir_all(lab.path("store")).unwrap();
    let here = remotes(&lab.path("repo"));
    here.push("cold", &who()).unwrap();
    here.remove("cold").unwrap();
    here.add("cold", &url).unwrap();
    let before = tree();
    let fails = |wanted: fn(&RemoteError) -> bool| {
        for error in [
            here.push("cold", &who()).map(drop).unwrap_err(),
            Remotes::clone_cold(&url, &clone, FORMAT_VERSION, &quick()).map(drop).unwrap_err(),
        ] {
            assert!(wanted(&error), "{error:?}");
        }
        assert!(!clone.exists());
        assert_eq!(tree(), before);
    };
    // Damaged, cut short, and of a later version.
    let head = lab.path("store/heads/0000000001");
    let sound = fs::read(&head).unwrap();
    fs::write(&head, &sound[..100]).unwrap();
    fails(|error| matches!(error, RemoteError::Unreadable { .. }));
    fs::write(&head, "treering cold head 2\nwho knows\n").unwrap();
    fails(|error| matches!(error, RemoteError::Version { found: 2, .. }));
    fs::write(&head, &sound).unwrap();
    fs::write(lab.path("store/config/repository"), "treering cold remote 9\n").unwrap();
    fails(|error| matches!(error, RemoteError::Version { found: 9, .. }));
}

#[test]
fn layers_that_are_damaged_there_are_not_taken() {
    let lab = filled();
    let url = store_url(&lab);
    push_to(&lab, &url);
    let clone = lab.path("clone");
    let metadata = lab.path("store/metadata");
    for file in fs::read_dir(metadata).unwrap() {
        let path = file.unwrap().path();
        let sound = fs::read(&path).unwrap();
        let mut flipped = sound.clone();
        flipped[sound.len() / 2] ^= 1;
        for bad in [&sound[..sound.len() - 30], &flipped[..], &[]] {
            fs::write(&path, bad).unwrap();
            let error = Remotes::clone_cold(&url, &clone, FORMAT_VERSION, &quick()).map(drop).unwrap_err();
            assert!(
                matches!(error, RemoteError::Damaged { .. } | RemoteError::Unreadable { .. }),
                "{error:?}"
            );
            assert!(!clone.exists());
        }
        fs::write(&path, sound).unwrap();
    }
    Remotes::clone_cold(&url, &clone, FORMAT_VERSION, &quick()).unwrap();
}

#[test]
fn what_cannot_be_reached_is_named_and_nothing_changes() {
    let mut lab = filled();
    let server = S3Server::start();
    let url = s3_url(&server);
    push_to(&lab, &url);
    let clone = lab.path("clone");
    Remotes::clone_cold(&url, &clone, FORMAT_VERSION, &quick()).unwrap();
    drop(server);
    let repository = open(&clone);
    let snapshot = repository.find(&Selector::Latest(0)).unwrap();
    assert!(lab::entries(&repository, &snapshot, None).unwrap().len() > 400, "what describes is here");
    let report =
        repository.restore(&snapshot, &RestoreOptions::new(lab.path("restored")), &Progress::new()).unwrap();
    assert!(!report.applied.failures.is_empty());
    let said = treering::causes::chain(&report.applied.failures[0]);
    assert!(said.contains("cold remote origin") && said.contains("s3:"), "{said}");
    assert!(!said.contains(S3Server::SECRET), "{said}");
    assert!(matches!(remotes(&clone).pull("origin", &who()), Err(RemoteError::Store { .. })));
    lab.write("file", "new");
    assert!(open(&clone).backup(&lab.options(), &Progress::new()).unwrap().snapshot.is_some());
    lab.backup();
}

#[test]
fn a_store_that_was_set_back_takes_nothing_away() {
    let mut lab = filled();
    let url = store_url(&lab);
    let here = push_to(&lab, &url);
    run(Command::new("cp").arg("-a").arg(lab.path("store")).arg(lab.path("older")));
    lab.write("file", "1");
    lab.backup();
    here.push("cold", &who()).unwrap();
    let all = snapshots(&lab.path("repo"));
    fs::remove_dir_all(lab.path("store")).unwrap();
    fs::rename(lab.path("older"), lab.path("store")).unwrap();
    here.pull("cold", &who()).unwrap();
    assert_eq!(snapshots(&lab.path("repo")), all);
    here.push("cold", &who()).unwrap();
    let whole = lab.path("whole");
    Remotes::clone_with(&url, &whole, FORMAT_VERSION, &quick()).unwrap();
    assert_eq!(snapshots(&whole), all);
    check(&Repository::open(&whole).unwrap());
}

#[test]
fn the_url_of_a_git_repository_stays_one_of_git() {
    let lab = Lab::new();
    let file = |name: &str| format!("file://{}", lab.path(name).display());
    for url in ["sftp://host/path", "s3:/bucket/path", "rclone:remote:path", "webdav://h/p", &file("nothing")]
    {
        assert!(is_cold_url(url), "{url}");
    }
    for url in ["git@host:path", "ssh://host/path", "https://host/path", "/path", &file("repo")] {
        assert!(!is_cold_url(url), "{url}");
    }
}

#[test]
fn a_git_repository_that_was_not_there_yet_becomes_no_cold_remote() {
    let lab = filled();
    let here = remotes(&lab.path("repo"));
    let (url, named) = (format!("file://{}", lab.path("disk/hub").display()), lab.path("disk/hub.git"));
    // As where a disk is not mounted.
    let error = here.add("origin", format!("file://{}", named.display())).unwrap_err();
    assert!(matches!(error, RemoteError::NothingThere(_)), "{error}");
    here.add("origin", &url).unwrap();
    assert_eq!(here.list().unwrap()[0].kind, RemoteKind::Cold);
    treering::gitkv::Git::init(&lab.path("disk/hub"), &[]).unwrap();
    assert_eq!(here.list().unwrap()[0].kind, RemoteKind::Git);
    here.push("origin", &who()).unwrap();
    assert_eq!(snapshots(&lab.path("disk/hub")), snapshots(&lab.path("repo")));
    let listed = here.list().unwrap();
    assert_eq!((listed.len(), listed[0].kind), (1, RemoteKind::Git));
    assert_eq!(here.pull("origin", &who()).unwrap().added, 0);
    // What was pushed to as a cold remote stays one.
    here.add("cold", store_url(&lab)).unwrap();
    here.push("cold", &who()).unwrap();
    fs::write(lab.path("store/HEAD"), "").unwrap();
    assert!(remotes(&lab.path("repo")).list().unwrap().iter().any(|remote| remote.kind == RemoteKind::Cold));
}

#[test]
fn what_is_to_stop_stops_and_leaves_everything_readable() {
    let mut lab = filled();
    let url = store_url(&lab);
    let here = push_to(&lab, &url);
    lab.write("file", "new");
    lab.backup();
    let stopped = Progress::new();
    stopped.stop();
    let before = here.layers().unwrap();
    let is_stopped = |error: RemoteError| {
        assert!(
            matches!(error, RemoteError::Git(treering::gitkv::GitError::Interrupted(_))),
            "{}",
            treering::causes::chain(&error)
        );
    };
    is_stopped(here.push_with("cold", &who(), &stopped).unwrap_err());
    is_stopped(here.pull_with("cold", &who(), &stopped).unwrap_err());
    is_stopped(here.merge_layers_with(&stopped).unwrap_err());
    is_stopped(here.evict_layers_with(&[], None, &stopped).unwrap_err());
    assert_eq!(here.layers().unwrap(), before);
    assert!(!here.evict_layers(&[], None).unwrap().layers.is_empty());
    is_stopped(here.fetch_layers_with(&[], &stopped).unwrap_err());
    let clone = lab.path("clone");
    let path = &clone;
    for is_cold in [true, false] {
        let (version, options) = (FORMAT_VERSION, quick());
        let cloned = match is_cold {
            true => Remotes::clone_cold_watched(&url, path, version, &options, &stopped),
            false => Remotes::clone_watched(&url, path, version, &options, &stopped),
        };
        is_stopped(cloned.map(drop).unwrap_err());
        assert!(!clone.exists());
    }
    let unfinished = |dir: &str| {
        let files = fs::read_dir(lab.path(dir)).unwrap().map(|file| file.unwrap().file_name());
        files.filter(|name| name.to_string_lossy().starts_with(".treering-tmp-")).count()
    };
    for dir in ["repo/objects/pack", "repo/objects/cold", "repo/treering/remotes/cold", "."] {
        assert_eq!(unfinished(dir), 0, "{dir}");
    }
    check(&open(&lab.path("repo")));
    here.push("cold", &who()).unwrap();
    assert_eq!(here.fetch_layers(&[]).unwrap().failures.len(), 0);
    lab.check();
}

#[test]
fn rclone_reaches_a_cold_remote() {
    let Some(place) = RcloneRemote::place() else { return };
    expect_cold_remote(&place);
}

/// It answers that it made links, and makes none.
#[test]
fn a_server_that_pretends_links_loses_nothing() {
    let Some(place) = RcloneSftp::place() else { return };
    expect_cold_remote(&place);
}

/// A place that cannot make objects in one step is a cold remote all the same.
fn expect_cold_remote(place: &Place) {
    let lab = filled();
    let url = place.url.url();
    let options = ColdOptions { store: place.options.clone(), ..quick() };
    let here = Remotes::open_with(&lab.path("repo"), FORMAT_VERSION, &options).unwrap();
    here.add("cold", url).unwrap();
    here.push("cold", &who()).unwrap();
    let clone = lab.path("clone");
    Remotes::clone_cold(url, &clone, FORMAT_VERSION, &options).unwrap();
    let repository = Repository::open(&clone).unwrap();
    repository.read_cold(cold_reader(&clone, &options).unwrap()).unwrap();
    restore(&repository, &lab.path("restored"));
    assert_same(&lab.source(), &lab.path("restored"));
    let heads = fs::read_dir(place.server.files().join("heads")).unwrap();
    let names: Vec<OsString> = heads.map(|head| head.unwrap().file_name()).collect();
    assert!(matches!(&names[..], [name] if name.len() > 11), "{names:?}");
    assert_eq!(fs::read_dir(place.server.files().join("locks")).map_or(0, Iterator::count), 0);
}
