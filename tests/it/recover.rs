//! A repository without treering: `docs/recover.py`, git, and clones.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Command, Output};

use treering::archive::Codec;
use treering::crypt::{Identity, Lock};
use treering::progress::Progress;
use treering::repository::{BackupOptions, Repository, RestoreOptions};

use crate::lab::{Lab, run};
use crate::programs;
use crate::tree::{assert_same, everything, noise};

const PROGRAMS: [&str; 3] = ["python3", "git", "rdiff"];

/// Runs `docs/recover.py`.
fn recover(args: &[&Path]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/recover.py");
    Command::new("python3").arg("-B").arg(script).args(args).output().unwrap()
}

/// As [`recover`], which must succeed; returns what it prints.
#[track_caller]
pub fn recovered(args: &[&Path]) -> String {
    let done = recover(args);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

fn write_at(path: &Path, offset: u64, bytes: &[u8]) {
    let mut file = fs::File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.write_all(bytes).unwrap();
}

/// Changes the source in every way that makes deltas, renames and holes.
fn change(lab: &Lab, round: u64) {
    let source = lab.source();
    let lines =
        (0..400).map(|n| format!("{} line {n} of some text\n", if n == round { "changed" } else { "a" }));
    lab.write("sub/code", lines.collect::<String>());
    write_at(&source.join("noise"), 1_000_000 + round * 50_000, &noise(5000, round));
    write_at(&source.join("sparse"), (3 << 20) + round * 8192, &noise(4096, round));
    lab.write(&format!("renamed{round}"), noise(300_000 + round as usize, 7));
    if round > 0 {
        fs::rename(source.join(format!("renamed{}", round - 1)), source.join(format!("old{round}"))).unwrap();
    }
}

/// A lab with several snapshots of a source of everything, and a copy of the source at the first and at the
/// last.
fn history(lab: &mut Lab) {
    everything(&lab.source());
    for round in 0..4 {
        change(lab, round);
        let statistics = lab.backup().statistics;
        assert!(round == 0 || statistics.segments_delta >= 3, "{statistics:?}");
        if round == 0 {
            lab.keep("first");
        }
    }
}

#[test]
fn a_script_restores_every_snapshot_without_treering() {
    if !programs::are_here(&PROGRAMS) {
        return;
    }
    let mut lab = Lab::new();
    history(&mut lab);
    let repository = lab.path("repo");
    let listed = recovered(&[&repository]);
    let lines: Vec<_> = listed.lines().collect();
    assert_eq!(lines.len(), 4, "{listed}");
    let first = lines[0].split(' ').next().unwrap();
    let snapshots = lab.repository.snapshots().unwrap();
    assert_eq!(first, snapshots[0].short_id());

    let target = lab.path("recovered");
    recovered(&[&repository, Path::new(first), &target]);
    assert_same(&lab.path("first"), &target);
    recovered(&[&repository, Path::new("latest"), &lab.path("recovered-last")]);
    assert_same(&lab.source(), &lab.path("recovered-last"));
    recovered(&[&repository, Path::new("latest"), &lab.path("recovered-part"), Path::new("sub/deep")]);
    assert_same(&lab.source().join("sub/deep"), &lab.path("recovered-part"));
    let named = recovered(&[&repository, Path::new("latest")]);
    assert!(named.lines().any(|line| line.ends_with(" link -> sub/text")), "{named}");
}

#[test]
fn the_script_restores_an_encrypted_repository_with_the_program_age() {
    if !programs::are_here(&PROGRAMS) || !programs::are_here(&["age", "age-keygen"]) {
        return;
    }
    let mut lab = Lab::encrypted();
    let key = lab.path("key.txt");
    run(Command::new("age-keygen").arg("-o").arg(&key));
    let friend = Identity::parse_file(&fs::read_to_string(&key).unwrap()).unwrap().remove(0);
    lab.repository.add_key(&Lock::Recipient(friend.recipient()), jiff::Timestamp::now()).unwrap();
    history(&mut lab);
    let repository = lab.path("repo");
    let with = |identity: &Path, rest: &[&Path]| {
        recover(&[&[Path::new("--identity"), identity, &repository], rest].concat())
    };
    let done = with(&key, &[Path::new("latest"), &lab.path("recovered")]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_same(&lab.source(), &lab.path("recovered"));

    // What a key holds opens every blob.
    let keys = lab.git(&["ls-tree", "-r", "--name-only", "HEAD", "keys/"]);
    let opened = lab.path("opened.txt");
    for path in keys.lines() {
        let slot = lab.path("slot.age");
        fs::write(&slot, lab.git_bytes(&["show", &format!("HEAD:{path}")])).unwrap();
        // One of the two is for another identity.
        let _ = Command::new("age")
            .arg("-d")
            .arg("-i")
            .arg(&key)
            .arg("-o")
            .arg(&opened)
            .arg(&slot)
            .output()
            .unwrap();
    }
    let first = lab.repository.snapshots().unwrap()[0].short_id();
    let done = with(&opened, &[Path::new(&first), &lab.path("recovered-first")]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_same(&lab.path("first"), &lab.path("recovered-first"));

    let stranger = lab.path("stranger.txt");
    run(Command::new("age-keygen").arg("-o").arg(&stranger));
    for done in [with(&stranger, &[]), recover(&[&repository])] {
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(errors.contains("identity") && !errors.contains("Traceback"), "{errors}");
        assert_eq!(done.stdout, b"");
    }
}

#[test]
fn the_script_reads_every_compression() {
    if !programs::are_here(&PROGRAMS) || !programs::are_here(&["zstd"]) {
        return;
    }
    for codec in [Codec::Zstd { level: 3 }, Codec::None] {
        let mut lab = Lab::with(codec);
        lab.write("text", "some text\n".repeat(1000));
        lab.write("noise", noise(400_000, 1));
        lab.backup();
        write_at(&lab.source().join("noise"), 1000, b"changed");
        lab.backup();
        recovered(&[&lab.path("repo"), Path::new("latest"), &lab.path("recovered")]);
        assert_same(&lab.source(), &lab.path("recovered"));
    }
}

#[test]
fn the_script_names_what_is_damaged_and_restores_the_rest() {
    if !programs::are_here(&PROGRAMS) {
        return;
    }
    let mut lab = Lab::new();
    lab.write("bad", noise(100_000, 1));
    lab.backup();
    lab.write("good", noise(100_000, 2));
    let snapshot = lab.backup().snapshot.unwrap();
    let tree = lab.git(&["ls-tree", "-r", "--name-only", "HEAD", "archives/"]);
    let volume = tree.lines().find(|path| path.ends_with(".tar.gz")).unwrap();
    lab.replace(volume, Some(b"garbage"));
    let target = lab.path("recovered");
    let done = recover(&[&lab.path("repo"), Path::new(&snapshot.short_id()), &target]);
    let errors = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{errors}");
    assert!(errors.contains("'bad'") && errors.contains(volume) && !errors.contains("Traceback"), "{errors}");
    assert_eq!(fs::read(target.join("good")).unwrap(), noise(100_000, 2));
    assert!(!target.join("bad").exists());

    let done = recover(&[&lab.source(), Path::new("latest"), &lab.path("nothing")]);
    assert_eq!(done.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&done.stderr).starts_with("recover.py: git: "));
}

#[test]
fn git_finds_no_fault_with_a_repository() {
    if !programs::are_here(&["git"]) {
        return;
    }
    let mut lab = Lab::new();
    history(&mut lab);
    assert_eq!(lab.git(&["fsck", "--strict", "--no-progress"]), "");
    let packs = fs::read_dir(lab.path("repo/objects/pack")).unwrap().map(|entry| entry.unwrap().path());
    let indexes: Vec<_> = packs.filter(|path| path.extension().is_some_and(|end| end == "idx")).collect();
    assert!(indexes.len() >= 8, "{indexes:?}");
    run(Command::new("git").arg("verify-pack").args(&indexes));
    assert_eq!(lab.git(&["count-objects"]), "0 objects, 0 kilobytes\n", "there are no loose objects");
}

#[test]
fn a_clone_made_by_git_restores_and_goes_on() {
    if !programs::are_here(&["git"]) {
        return;
    }
    let mut lab = Lab::new();
    history(&mut lab);
    for (transport, url) in [("path", String::new()), ("protocol", "file://".into())] {
        let clone = lab.path(transport);
        let url = url + lab.path("repo").to_str().unwrap();
        run(Command::new("git").args(["clone", "-q", "--bare", &url]).arg(&clone));
        let clone = Repository::open(&clone).unwrap();
        let snapshots = clone.snapshots().unwrap();
        let target = lab.path(&format!("first-{transport}"));
        clone.restore(&snapshots[0], &RestoreOptions::new(&target), &Progress::new()).unwrap();
        assert_same(&lab.path("first"), &target);
        let options = BackupOptions::new(vec![lab.source()], jiff::Timestamp::now());
        let report = clone.backup(&options, &Progress::new()).unwrap();
        assert_eq!(report.statistics.bytes_volumes, 0, "it has everything already");
        assert_eq!(clone.snapshots().unwrap().len(), 5);
        assert_eq!(lab.repository.snapshots().unwrap().len(), 4);
    }
}
