//! What is removed, what stays, and what is left when that is cut short.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use treering::atomic::TEMP_PREFIX;
use treering::gitkv::{Git, Person};
use treering::progress::Progress;
use treering::remote::Remotes;
use treering::repository::{
    CheckOptions, FORMAT_VERSION, MaxUnused, PruneOptions, PruneReport, Repository, RepositoryError, Snapshot,
};
use treering::timeline::TimeKey;

use crate::lab::{Lab, run};
use crate::tree::{assert_same, is_root, noise};

fn options(max_unused: MaxUnused) -> PruneOptions {
    PruneOptions { max_unused, ..PruneOptions::new(Timestamp::now()) }
}

#[track_caller]
fn prune(lab: &mut Lab, max_unused: MaxUnused) -> PruneReport {
    lab.reopen();
    lab.repository.prune(&options(max_unused), &Progress::new()).unwrap()
}

fn forget(lab: &mut Lab, snapshots: &[&Snapshot]) {
    lab.reopen();
    let keys: Vec<TimeKey> = snapshots.iter().map(|snapshot| snapshot.key).collect();
    lab.repository.forget(&keys, "ann", "here", Timestamp::now()).unwrap();
}

/// The bytes of a repository, without those that it keeps for a full disk.
fn bytes(lab: &Lab) -> u64 {
    let reserve = fs::metadata(lab.path("repo/treering/reserve")).map_or(0, |file| file.len());
    bytes_below(&lab.path("repo")) - reserve
}

/// A lab whose large file changes a page at a time, over so many snapshots, with a copy of each state.
fn history(count: u64) -> (Lab, Vec<(Snapshot, PathBuf)>) {
    let mut lab = Lab::new();
    let mut large = noise(3 << 20, 1);
    let mut kept = Vec::new();
    for round in 0..count {
        let at = (round as usize * 700_001) % (large.len() - 5000);
        large[at..at + 5000].copy_from_slice(&noise(5000, 1000 + round));
        lab.write("large", &large);
        drop(fs::remove_dir_all(lab.source().join("new")));
        lab.write(&format!("new/{round}"), noise(40_000, 2000 + round));
        lab.write(&format!("all/{round}"), noise(20_000, 3000 + round));
        lab.write("same", "always the same\n");
        let snapshot = lab.backup().snapshot.unwrap();
        kept.push((snapshot, lab.keep(&format!("copy{round}"))));
    }
    (lab, kept)
}

#[test]
fn any_snapshot_can_go_and_the_others_stay_as_they_are() {
    for gone in [vec![0], vec![3], vec![5], vec![0, 1, 2, 3, 4], vec![1, 3, 5]] {
        let (mut lab, mut kept) = history(6);
        let snapshots: Vec<_> = gone.iter().map(|&at| &kept[at].0).collect();
        forget(&mut lab, &snapshots);
        lab.check();
        let report = prune(&mut lab, MaxUnused::Bytes(0));
        assert!(report.bytes_freed > 0, "{report:?}");
        lab.check();
        lab.git(&["fsck", "--strict", "--no-progress"]);
        let mut number = 0;
        kept.retain(|_| {
            number += 1;
            !gone.contains(&(number - 1))
        });
        assert_eq!(lab.repository.snapshots().unwrap().len(), kept.len());
        for (snapshot, copy) in &kept {
            assert_same(copy, &lab.restore(snapshot, &format!("restored{}", snapshot.key)));
        }
        let log = lab.git(&["log", "--format=%s"]);
        assert_eq!(log, "Prune\n", "history is gone");
        let again = prune(&mut lab, MaxUnused::Bytes(0));
        assert!(again.plan.is_empty(), "{again:?}");
        let next = lab.backup();
        if !gone.contains(&5) {
            assert_eq!(next.statistics.files_read, 0, "the next backup knows what is there");
        }
    }
}

#[test]
fn a_plan_changes_nothing_and_says_what_is_done() {
    let (mut lab, kept) = history(5);
    forget(&mut lab, &[&kept[0].0, &kept[1].0]);
    let head = lab.git(&["rev-parse", "main"]);
    let before = bytes(&lab);
    lab.reopen();
    let plan =
        lab.repository.plan_prune(&options(MaxUnused::Bytes(0)), &HashSet::new(), &Progress::new()).unwrap();
    assert_eq!((lab.git(&["rev-parse", "main"]), bytes(&lab)), (head, before));
    assert_eq!(plan.snapshots, 3);
    assert!(plan.blobs_unneeded > 0 && plan.volumes_repacked > 0 && plan.bytes_freed > 0, "{plan:?}");
    let report = prune(&mut lab, MaxUnused::Bytes(0));
    assert_eq!(report.plan, plan);
    let unlimited = prune(&mut lab, MaxUnused::Unlimited);
    assert!(unlimited.plan.is_empty());
}

#[test]
fn without_a_limit_on_waste_nothing_is_rewritten() {
    let (mut lab, kept) = history(4);
    forget(&mut lab, &[&kept[0].0]);
    let report = prune(&mut lab, MaxUnused::Unlimited);
    assert_eq!((report.volumes_written, report.plan.layers_rewritten), (0, 0));
    lab.check();
    assert_same(&kept[3].1, &lab.restore(&kept[3].0, "restored"));
}

#[test]
fn with_no_snapshot_left_next_to_nothing_is() {
    let (mut lab, kept) = history(3);
    forget(&mut lab, &kept.iter().map(|(snapshot, _)| snapshot).collect::<Vec<_>>());
    prune(&mut lab, MaxUnused::default());
    assert_eq!(lab.git(&["ls-tree", "-r", "--name-only", "main"]), "config.cbor\n");
    assert!(bytes(&lab) < 40_000, "{}", bytes(&lab));
    let snapshot = lab.backup().snapshot.unwrap();
    assert_same(&lab.source(), &lab.restore(&snapshot, "restored"));
    lab.check();
}

#[test]
fn what_is_not_of_snapshots_stays() {
    let (mut lab, kept) = history(3);
    lab.replace("blobs/2026/note", Some(b"not ours"));
    lab.replace("notes.txt", Some(b"nor this"));
    lab.git(&["update-ref", "refs/heads/other", "main~1"]);
    lab.git(&["-c", "user.name=a", "-c", "user.email=a@b", "tag", "-m", "tagged", "first", "main~2"]);
    forget(&mut lab, &[&kept[0].0, &kept[1].0]);
    prune(&mut lab, MaxUnused::Bytes(0));
    assert_eq!(lab.git(&["cat-file", "blob", "main:blobs/2026/note"]), "not ours");
    assert_eq!(lab.git(&["cat-file", "blob", "main:notes.txt"]), "nor this");
    assert_eq!(lab.git(&["rev-list", "--count", "other"]).trim(), "5", "with all that it names");
    lab.git(&["fsck", "--strict", "--no-progress"]);
    lab.check();
}

#[test]
fn where_something_needed_is_missing_nothing_is_removed() {
    let (mut lab, kept) = history(3);
    let path = lab.git(&["ls-tree", "-r", "--name-only", "main", "archives"]);
    let index = path.lines().find(|path| path.ends_with(".idx")).unwrap();
    lab.replace(index, None);
    forget(&mut lab, &[&kept[1].0]);
    let head = lab.git(&["rev-parse", "main"]);
    lab.reopen();
    let refused = lab.repository.prune(&options(MaxUnused::default()), &Progress::new());
    assert!(matches!(refused, Err(RepositoryError::NoSegment(_))));
    let page = lab.git(&["ls-tree", "-r", "--name-only", "main", "index"]);
    lab.replace(page.lines().next().unwrap(), Some(b"no page"));
    lab.reopen();
    assert!(lab.repository.prune(&options(MaxUnused::default()), &Progress::new()).is_err());
    assert_eq!(lab.git(&["rev-parse", "main~1"]), head);
}

#[test]
fn an_append_only_repository_loses_nothing() {
    let (mut lab, kept) = history(2);
    lab.repository.set_append_only(true, "ann", "here", Timestamp::now()).unwrap();
    lab.reopen();
    let refused = lab.repository.forget(&[kept[0].0.key], "ann", "here", Timestamp::now());
    assert!(matches!(refused, Err(RepositoryError::AppendOnly)));
    let refused = lab.repository.prune(&options(MaxUnused::default()), &Progress::new());
    assert!(matches!(refused, Err(RepositoryError::AppendOnly)));
    lab.backup();
    assert_eq!(lab.repository.snapshots().unwrap().len(), 3);
    lab.repository.set_append_only(false, "ann", "here", Timestamp::now()).unwrap();
    forget(&mut lab, &[&kept[0].0]);
    prune(&mut lab, MaxUnused::default());
    lab.check();
}

/// One thing that happens to a repository.
#[derive(Debug, Clone)]
enum Step {
    /// A file gets other content: a seed, and its length in KiB.
    Write(u8, u64, usize),
    /// A few bytes of a file change.
    Touch(u8, u64),
    Remove(u8),
    Backup,
    /// One of the snapshots goes.
    Forget(prop::sample::Index),
    Prune(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0u8..5, any::<u64>(), 0usize..600).prop_map(|(file, seed, len)| Step::Write(file, seed, len)),
        4 => (0u8..5, any::<u64>()).prop_map(|(file, seed)| Step::Touch(file, seed)),
        1 => (0u8..5).prop_map(Step::Remove),
        6 => Just(Step::Backup),
        4 => any::<prop::sample::Index>().prop_map(Step::Forget),
        2 => prop_oneof![Just(0u64), Just(100_000), Just(u64::MAX)].prop_map(Step::Prune),
    ];
    prop::collection::vec(step, 12..28)
}

#[test]
fn a_repository_holds_what_a_model_of_plain_copies_does() {
    let mut runner = TestRunner::new(ProptestConfig::with_cases(6));
    let run = |steps| {
        follows_the_model(steps);
        Ok(())
    };
    runner.run(&steps(), run).unwrap();
}

fn follows_the_model(steps: Vec<Step>) {
    let mut lab = Lab::new();
    let mut model: BTreeMap<TimeKey, (Snapshot, PathBuf)> = BTreeMap::new();
    let steps = steps.into_iter().chain([Step::Backup, Step::Prune(0)]);
    for (number, step) in steps.enumerate() {
        let file = |file: u8| lab.source().join(format!("file{file}"));
        match step {
            Step::Write(at, seed, kib) => fs::write(file(at), noise(kib << 10, seed)).unwrap(),
            Step::Touch(at, seed) => {
                let mut content = fs::read(file(at)).unwrap_or_default();
                let change = noise(100, seed);
                let from = seed as usize % (content.len() + 1);
                let end = (from + 100).min(content.len());
                content.splice(from..end, change);
                fs::write(file(at), content).unwrap();
            }
            Step::Remove(at) => drop(fs::remove_file(file(at))),
            Step::Backup => {
                let snapshot = lab.backup().snapshot.unwrap();
                model.insert(snapshot.key, (snapshot, lab.keep(&format!("copy{number}"))));
            }
            Step::Forget(which) => {
                if !model.is_empty() {
                    let key = *model.keys().nth(which.index(model.len())).unwrap();
                    let (snapshot, _) = model.remove(&key).unwrap();
                    forget(&mut lab, &[&snapshot]);
                }
            }
            Step::Prune(limit) => {
                let plan = prune(&mut lab, MaxUnused::Bytes(limit)).plan;
                assert_eq!(plan.snapshots, model.len() as u64);
                lab.check();
            }
        }
    }
    lab.git(&["fsck", "--strict", "--no-progress"]);
    let found: Vec<_> =
        lab.repository.snapshots().unwrap().into_iter().map(|snapshot| snapshot.key).collect();
    assert!(found.iter().eq(model.keys()));
    for (key, (snapshot, copy)) in &model {
        assert_same(copy, &lab.restore(snapshot, &format!("restored{key}")));
    }
    // All that is left is needed, but for trifles: the same content in a new repository takes about as much.
    let mut content = 0;
    let mut digests = HashSet::new();
    for (_, copy) in model.values() {
        for file in fs::read_dir(copy).unwrap() {
            let bytes = fs::read(file.unwrap().path()).unwrap();
            if digests.insert(treering::digest::Digest::of(&bytes)) {
                content += bytes.len() as u64;
            }
        }
    }
    let all = bytes(&lab);
    assert!(all < content + content / 2 + 200_000, "{all} bytes for {content}");
}

fn who() -> Person {
    Person::new("Ann", "ann@example.org", Timestamp::now())
}

fn remotes(path: &Path) -> Remotes {
    Remotes::open(path, FORMAT_VERSION).unwrap()
}

/// A bare repository that the lab's has as its remote, and has been pushed to.
fn hub(lab: &Lab) -> PathBuf {
    let hub = lab.path("hub.git");
    run(Command::new("git").args(["init", "--quiet", "--bare", "--initial-branch=main"]).arg(&hub));
    let here = remotes(&lab.path("repo"));
    here.add("origin", hub.to_str().unwrap()).unwrap();
    here.push("origin", &who()).unwrap();
    hub
}

fn bytes_below(path: &Path) -> u64 {
    let files = walkdir::WalkDir::new(path).into_iter().map(Result::unwrap);
    files.filter(|file| file.file_type().is_file()).map(|file| file.metadata().unwrap().len()).sum()
}

#[track_caller]
fn check_at(path: &Path) {
    let options = CheckOptions { read_data: true, ..CheckOptions::default() };
    let report = Repository::open(path).unwrap().check(&options, &Progress::new()).unwrap();
    assert!(report.faults.is_empty(), "{:?}", report.faults);
}

#[test]
fn what_is_pruned_here_can_be_freed_in_a_remote_and_little_is_sent() {
    let (mut lab, kept) = history(6);
    let hub = hub(&lab);
    let (full, before) = (bytes_below(&hub), bytes(&lab));
    forget(&mut lab, &kept[..5].iter().map(|(snapshot, _)| snapshot).collect::<Vec<_>>());
    prune(&mut lab, MaxUnused::default());
    lab.git(&["fsck", "--strict", "--no-progress"]);
    let here = remotes(&lab.path("repo"));
    assert!(here.pull("origin", &who()).unwrap().is_zero(), "nothing comes back");
    assert!(bytes(&lab) < before, "{} after {before}", bytes(&lab));
    let pushed = here.push("origin", &who()).unwrap();
    assert_eq!((pushed.there.added, pushed.there.removed), (0, 5));
    // Volumes of which most is live were not written anew, so they are not sent again.
    assert!(bytes_below(&hub) < full + full / 5, "{} after {full}", bytes_below(&hub));
    run(Command::new("git").arg("-C").arg(&hub).args(["gc", "--quiet", "--prune=now"]));
    assert!(bytes_below(&hub) < full, "{} after {full}", bytes_below(&hub));
    run(Command::new("git").arg("-C").arg(&hub).args(["fsck", "--strict", "--no-progress"]));
    let clone = lab.path("clone");
    Remotes::clone_from(hub.to_str().unwrap(), &clone, FORMAT_VERSION).unwrap();
    check_at(&clone);
    // And on from there, again and again.
    let mut last = kept[5].0.clone();
    for round in 0..3 {
        lab.write("more", noise(50_000, 9000 + round));
        let next = lab.backup().snapshot.unwrap();
        forget(&mut lab, &[&last]);
        prune(&mut lab, MaxUnused::Bytes(0));
        let pushed = here.push("origin", &who()).unwrap();
        assert_eq!((pushed.there.added, pushed.there.removed), (1, 1));
        lab.check();
        last = next;
    }
    remotes(&clone).taking_removals().pull("origin", &who()).unwrap();
    check_at(&clone);
    let found = Repository::open(&clone).unwrap().snapshots().unwrap();
    assert_eq!(found.len(), 1);
    assert_same(&lab.source(), &lab.restore(&last, "last"));
}

/// Whether the clone takes over what the other one forgot, or keeps it.
#[test]
fn a_clone_that_went_on_meanwhile_keeps_what_it_rests_on() {
    for takes in [true, false] {
        go_on_meanwhile(takes);
    }
}

fn go_on_meanwhile(takes: bool) {
    let (mut lab, kept) = history(4);
    let hub = hub(&lab);
    let clone = lab.path("clone");
    Remotes::clone_from(hub.to_str().unwrap(), &clone, FORMAT_VERSION).unwrap();
    // Only a snapshot that the other one forgets holds most of this.
    let other = lab.path("other");
    let copied = Command::new("cp").arg("-a").arg(&kept[1].1).arg(&other).status().unwrap();
    assert!(copied.success());
    let later = Timestamp::now() + jiff::SignedDuration::from_mins(1);
    let backup = treering::repository::BackupOptions::new(vec![other.clone()], later);
    let theirs = Repository::open(&clone).unwrap().backup(&backup, &Progress::new()).unwrap();
    let theirs = theirs.snapshot.unwrap();

    forget(&mut lab, &kept[..3].iter().map(|(snapshot, _)| snapshot).collect::<Vec<_>>());
    prune(&mut lab, MaxUnused::Bytes(0));
    let here = remotes(&lab.path("repo")).taking_removals();
    let there = if takes { remotes(&clone).taking_removals() } else { remotes(&clone) };
    here.push("origin", &who()).unwrap();
    there.push("origin", &who()).unwrap();
    here.pull("origin", &who()).unwrap();
    check_at(&clone);
    lab.check();
    lab.reopen();
    let keys = |repository: &Repository| -> Vec<TimeKey> {
        repository.snapshots().unwrap().iter().map(|snapshot| snapshot.key).collect()
    };
    assert_eq!(keys(&lab.repository), [kept[3].0.key, theirs.key]);
    let old: Vec<TimeKey> = kept[..3].iter().map(|(snapshot, _)| snapshot.key).collect();
    let expected = if takes { vec![] } else { old };
    assert_eq!(
        keys(&Repository::open(&clone).unwrap()),
        [expected, vec![kept[3].0.key, theirs.key]].concat()
    );
    prune(&mut lab, MaxUnused::Bytes(0));
    lab.check();
    assert_same(&other, &lab.restore(&theirs, "restored"));
    here.push("origin", &who()).unwrap();
    there.pull("origin", &who()).unwrap();
    check_at(&clone);
    // The other way round: the remote itself is pruned, and its clones follow without losing anything.
    Repository::open(&hub).unwrap().prune(&options(MaxUnused::Bytes(0)), &Progress::new()).unwrap();
    check_at(&hub);
    there.pull("origin", &who()).unwrap();
    lab.backup();
    here.push("origin", &who()).unwrap();
    there.pull("origin", &who()).unwrap();
    check_at(&clone);
    check_at(&hub);
    lab.check();
    assert_eq!(keys(&Repository::open(&hub).unwrap()).len(), 3);
    run(Command::new("git").arg("-C").arg(&clone).args(["fsck", "--strict", "--no-progress"]));
}

/// Where a process that is started finds the lab.
const LAB: &str = "TREERING_TEST_PRUNE_LAB";

#[test]
#[ignore = "run by another test"]
fn prune_what_the_environment_names() {
    let lab = PathBuf::from(std::env::var_os(LAB).expect("another test runs this"));
    let repository = Repository::open(&lab.join("repo")).unwrap();
    repository.prune(&options(MaxUnused::Bytes(0)), &Progress::new()).unwrap();
}

#[test]
#[ignore = "run by another test"]
fn back_up_what_the_environment_names() {
    let lab = PathBuf::from(std::env::var_os(LAB).expect("another test runs this"));
    let repository = Repository::open(&lab.join("repo")).unwrap();
    let later = Timestamp::now() + jiff::SignedDuration::from_mins(1);
    let options = treering::repository::BackupOptions::new(vec![lab.join("source")], later);
    repository.backup(&options, &Progress::new()).unwrap();
}

fn begin(lab: &Path, test: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("prune::{test}"), "--ignored"])
        .env(LAB, lab)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_prune_killed_at_any_instant_leaves_a_repository_that_goes_on() {
    let (mut lab, kept) = history(14);
    let copy = |lab: &Lab, from: &str, to: &str| {
        let copied = Command::new("cp").arg("-a").arg(lab.path(from)).arg(lab.path(to)).status();
        assert!(copied.unwrap().success());
    };
    forget(&mut lab, &kept[..8].iter().map(|(snapshot, _)| snapshot).collect::<Vec<_>>());
    copy(&lab, "repo", "before");
    let began = Instant::now();
    assert!(begin(&lab.path(""), "prune_what_the_environment_names").wait().unwrap().success());
    let whole = began.elapsed();
    let pruned = bytes(&lab);
    let mut cut = 0;
    for round in 0..16u32 {
        fs::remove_dir_all(lab.path("repo")).unwrap();
        copy(&lab, "before", "repo");
        let mut child = begin(&lab.path(""), "prune_what_the_environment_names");
        thread::sleep(whole * (round + 1) / 18);
        child.kill().unwrap();
        cut += u32::from(!child.wait().unwrap().success());
        lab.reopen();
        assert_eq!(lab.repository.snapshots().unwrap().len(), 6);
        lab.check();
        lab.git(&["fsck", "--strict", "--no-progress"]);
        prune(&mut lab, MaxUnused::Bytes(0));
        let names = fs::read_dir(lab.path("repo/objects/pack")).unwrap();
        let left = names
            .filter(|name| name.as_ref().unwrap().file_name().to_string_lossy().starts_with(TEMP_PREFIX));
        assert_eq!(left.count(), 0);
        assert!(bytes(&lab) < pruned + pruned / 10, "{} and not {pruned}", bytes(&lab));
        lab.check();
    }
    assert!(cut > 4, "{cut} of 16 were cut short");
    for (snapshot, copy) in &kept[8..] {
        assert_same(copy, &lab.restore(snapshot, &format!("restored{}", snapshot.key)));
    }
}

#[test]
fn pruning_beside_backups_takes_nothing_that_they_rely_on() {
    let (mut lab, kept) = history(6);
    let first = kept[5].1.clone();
    let root = lab.path("");
    // Each backup brings back content that only forgotten snapshots have, while it is being removed.
    for (round, (snapshot, copy)) in kept[..5].iter().enumerate() {
        forget(&mut lab, &[snapshot]);
        fs::remove_dir_all(lab.source()).unwrap();
        assert!(Command::new("cp").arg("-a").arg(copy).arg(lab.source()).status().unwrap().success());
        let mut backup = begin(&root, "back_up_what_the_environment_names");
        thread::sleep(Duration::from_millis(7 * round as u64));
        let mut prune = begin(&root, "prune_what_the_environment_names");
        assert!(backup.wait().unwrap().success());
        assert!(prune.wait().unwrap().success());
        lab.check();
        lab.reopen();
        let newest = lab.repository.snapshots().unwrap().pop().unwrap();
        assert_same(copy, &lab.restore(&newest, &format!("restored{round}")));
    }
    assert_same(&first, &lab.restore(&kept[5].0, "first"));
}

#[test]
fn a_backup_that_is_waiting_for_its_source_keeps_a_prune_waiting() {
    let (mut lab, kept) = history(2);
    forget(&mut lab, &[&kept[0].0]);
    let git = Git::open(&lab.path("repo")).unwrap();
    let keep = git.keep_layers().unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| prune(&mut lab, MaxUnused::Bytes(0)));
        thread::sleep(Duration::from_millis(100));
        assert!(!waiting.is_finished());
        drop(keep);
        assert!(waiting.join().unwrap().layers_removed > 0);
    });
}

#[test]
fn a_full_disk_leaves_everything_as_it_was() {
    if !is_root() {
        eprintln!("skipped: only root can mount a small file system");
        return;
    }
    let (mut lab, kept) = history(8);
    forget(&mut lab, &kept[..6].iter().map(|(snapshot, _)| snapshot).collect::<Vec<_>>());
    let mount = lab.path("small");
    fs::create_dir(&mount).unwrap();
    let size = format!("size={}k", bytes_below(&lab.path("repo")) / 1024 + 600);
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&mount).output();
    if !mounted.is_ok_and(|mounted| mounted.status.success()) {
        eprintln!("skipped: a small file system cannot be mounted here");
        return;
    }
    let unmount = Unmount(mount.clone());
    let copied = Command::new("cp").arg("-a").arg(lab.path("repo")).arg(mount.join("repo")).status();
    assert!(copied.unwrap().success());
    let fill = |left: usize| {
        drop(fs::remove_file(mount.join("filler")));
        let mut room = rustix::fs::statvfs(&mount).unwrap();
        let free = (room.f_bavail * room.f_frsize) as usize;
        fs::write(mount.join("filler"), vec![0; free.saturating_sub(left)]).unwrap();
        room = rustix::fs::statvfs(&mount).unwrap();
        assert!(room.f_bavail * room.f_frsize <= left as u64 + 8192);
    };
    let check = || {
        let repository = Repository::open(&mount.join("repo")).unwrap();
        let report = repository
            .check(&CheckOptions { read_data: true, ..CheckOptions::default() }, &Progress::new())
            .unwrap();
        assert!(report.faults.is_empty(), "{:?}", report.faults);
        assert_eq!(report.snapshots, 2);
    };
    fill(0);
    let repository = Repository::open(&mount.join("repo")).unwrap();
    drop(repository.prune(&options(MaxUnused::Bytes(0)), &Progress::new()));
    check();
    // Room for a commit is enough to free what is wholly dead, and that is enough for the rest.
    fill(300 << 10);
    for _ in 0..2 {
        let repository = Repository::open(&mount.join("repo")).unwrap();
        drop(repository.prune(&options(MaxUnused::Unlimited), &Progress::new()));
        check();
    }
    drop(unmount);
}

/// Unmounts when it goes.
#[test]
fn snapshots_are_forgotten_and_pruned_on_a_full_disk() {
    if !is_root() {
        eprintln!("skipped: only root can mount a small file system");
        return;
    }
    let (lab, kept) = history(6);
    let mount = lab.path("small");
    fs::create_dir(&mount).unwrap();
    let size = format!("size={}k", bytes_below(&lab.path("repo")) / 1024 + 600);
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&mount).output();
    if !mounted.is_ok_and(|mounted| mounted.status.success()) {
        eprintln!("skipped: a small file system cannot be mounted here");
        return;
    }
    let _unmount = Unmount(mount.clone());
    let copied = Command::new("cp").arg("-a").arg(lab.path("repo")).arg(mount.join("repo")).status();
    assert!(copied.unwrap().success());
    let room = rustix::fs::statvfs(&mount).unwrap();
    fs::write(mount.join("filler"), vec![1; (room.f_bavail * room.f_frsize) as usize]).unwrap();
    assert!(fs::write(mount.join("more"), vec![1; 8192]).is_err(), "nothing has room there");

    let repository = Repository::open(&mount.join("repo")).unwrap();
    let keys: Vec<TimeKey> = kept[..5].iter().map(|(snapshot, _)| snapshot.key).collect();
    repository.forget(&keys, "ann", "here", Timestamp::now()).unwrap();
    let report = repository.prune(&options(MaxUnused::Unlimited), &Progress::new()).unwrap();
    assert_eq!((report.plan.snapshots, report.plan.blobs_unneeded), (1, 5), "{report:?}");
    assert!(mount.join("repo/treering/reserve").exists(), "it is there for the next time");
    let whole = CheckOptions { read_data: true, ..CheckOptions::default() };
    assert!(repository.check(&whole, &Progress::new()).unwrap().faults.is_empty());
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(&self.0).status());
    }
}
