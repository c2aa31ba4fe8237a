//! A backup that is stopped half-way.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use treering::atomic::TEMP_PREFIX;
use treering::progress::Progress;
use treering::repository::{BackupOptions, Repository, RepositoryError};

use crate::lab::Lab;
use crate::tree::{assert_same, noise};

#[test]
fn what_was_stored_before_an_interruption_is_used_by_the_next_backup() {
    let mut lab = Lab::new();
    for number in 0..40 {
        lab.write(&format!("file{number}"), noise(1 << 20, number));
    }
    let progress = Progress::new();
    let stopped = std::thread::scope(|scope| {
        let running = scope.spawn(|| lab.repository.backup(&lab.options(), &progress));
        while progress.files.get() < 10 && !running.is_finished() {
            std::thread::yield_now();
        }
        progress.stop();
        running.join().unwrap()
    });
    assert!(matches!(stopped, Err(RepositoryError::Interrupted(_))));
    lab.reopen();
    assert!(lab.repository.snapshots().unwrap().is_empty());
    let report = lab.backup();
    assert!(report.statistics.bytes_volumes < 39 << 20, "{:?}", report.statistics);
    assert_same(&lab.source(), &lab.restore(&report.snapshot.unwrap(), "restored"));
    lab.check();
    assert_eq!(leftovers(&lab), [""; 0]);
}

/// What dead or living writers have in the repository: unfinished files, packs without an index, and markers.
fn leftovers(lab: &Lab) -> Vec<String> {
    let names = |directory: &str| {
        let entries = fs::read_dir(lab.path(directory)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    let packs = names("repo/objects/pack");
    let is_whole = |name: &String| {
        let stem = name.split('.').next().unwrap();
        !name.starts_with(TEMP_PREFIX) && packs.contains(&format!("{stem}.idx"))
    };
    let mut left: Vec<_> = packs.iter().filter(|name| !is_whole(name)).cloned().collect();
    left.extend(
        names("repo/treering").into_iter().filter(|name| {
            !name.ends_with(".lock") && !["reserve", "newest", "own"].contains(&name.as_str())
        }),
    );
    left.extend(names("repo/refs/heads").into_iter().filter(|name| name != "main"));
    left
}

/// Where [`back_up_what_the_environment_names`] finds the lab.
const LAB: &str = "TREERING_TEST_LAB";

/// What a killed process does; it is no test of its own.
#[test]
#[ignore = "run by another test"]
fn back_up_what_the_environment_names() {
    let lab = PathBuf::from(std::env::var_os(LAB).expect("another test runs this"));
    let repository = Repository::open(&lab.join("repo")).unwrap();
    let options = BackupOptions::new(vec![lab.join("source")], jiff::Timestamp::now());
    repository.backup(&options, &Progress::new()).unwrap();
}

/// Backs the lab up in a process of its own.
fn begin(lab: &Lab) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "interruption::back_up_what_the_environment_names", "--ignored"])
        .env(LAB, lab.path(""))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_backup_killed_at_any_instant_leaves_a_repository_that_goes_on() {
    /// How many kills shall leave something behind, and how many are tried for that.
    const KILLS: (u32, u32) = (8, 64);
    let mut lab = Lab::new();
    let fill = |lab: &Lab, round: u32| {
        for number in 0..12 {
            lab.write(&format!("file{number}"), noise(256 << 10, u64::from(100 * round + number)));
        }
    };
    fill(&lab, 0);
    let began = Instant::now();
    assert!(begin(&lab).wait().unwrap().success());
    let mut whole = began.elapsed();
    let first = lab.keep("first");
    let (mut kills, mut round, mut snapshots) = (0, 0, 1);
    while kills < KILLS.0 && round < KILLS.1 {
        round += 1;
        fill(&lab, round);
        let began = Instant::now();
        let mut child = begin(&lab);
        // Instants spread over the time that a backup takes, as far as that can be known.
        thread::sleep(whole * (round % 8 + 1) / 9);
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            whole = whole.min(began.elapsed());
        }
        kills += u32::from(!leftovers(&lab).is_empty());
        lab.reopen();
        let now = lab.repository.snapshots().unwrap();
        assert!((snapshots..=snapshots + 1).contains(&now.len()), "{} after {snapshots}", now.len());
        snapshots = now.len();
        assert_same(&first, &lab.restore(&now[0], &format!("first{round}")));
        lab.git(&["fsck", "--strict", "--no-progress"]);
    }
    assert_eq!(kills, KILLS.0, "of {round} backups that were killed so many left something behind");
    let report = lab.backup();
    assert_eq!(leftovers(&lab), [""; 0]);
    assert_same(&lab.source(), &lab.restore(&report.snapshot.unwrap(), "restored"));
    lab.check();
    lab.git(&["fsck", "--strict", "--no-progress"]);
}
