//! Time-indexed blobs, beside the program that they come from, and when a writer is killed.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use jiff::Timestamp;
use treering::gitkv::{Git, Person};
use treering::timeline::{Blobs, Codec, Compression, Key, Layout};

use crate::python;

const COMPRESSIONS: [Compression; 4] =
    [Compression::None, Compression::Gzip, Compression::Bzip2, Compression::Xz];

fn who() -> Person {
    Person::new("Ann", "ann@example.org", "2026-11-20T12:00:00Z".parse().unwrap())
}

/// Adds two blobs to each of the repositories in the directory of the first argument, named for compression
/// and key.
const GITBLOBTS_ADDS: &str = "
import git, pathlib, sys, gitblobts
for remote in sorted(pathlib.Path(sys.argv[1]).glob('*.git')):
    clone = remote.with_suffix('')
    git.Repo.clone_from(str(remote), str(clone))
    compression, key = (remote.with_suffix('.codec').read_text() + ' ').split(' ')[:2]
    store = gitblobts.Store(clone, compression=compression or None, key=key.encode() or None)
    store.addblobs([b'python ' * 1000, b'before 1970'], [1795202112.5, -1.5])
";

/// Prints the times and contents of all blobs of each of those repositories.
const GITBLOBTS_LISTS: &str = "
import math, pathlib, sys, gitblobts
for remote in sorted(pathlib.Path(sys.argv[1]).glob('*.git')):
    compression, key = (remote.with_suffix('.codec').read_text() + ' ').split(' ')[:2]
    store = gitblobts.Store(remote.with_suffix(''), compression=compression or None, key=key.encode() or None)
    blobs = list(store.getblobs(-math.inf, math.inf, pull=True))
    print(' '.join(f'{blob.timestamp}={blob.blob.decode()[:12]}' for blob in blobs))
";

#[test]
fn reads_what_gitblobts_wrote_and_writes_what_it_reads() {
    let dir = tempfile::tempdir().unwrap();
    let mut codecs = Vec::new();
    for compression in COMPRESSIONS {
        for key in [None, Some(Key::generate().unwrap())] {
            let name = format!("{compression}-{}", key.is_some());
            let module = match compression {
                Compression::None => "",
                Compression::Gzip => "gzip",
                Compression::Bzip2 => "bz2",
                Compression::Xz => "lzma",
            };
            let secret = key.as_ref().map_or("", Key::expose);
            fs::write(dir.path().join(format!("{name}.codec")), format!("{module} {secret}")).unwrap();
            Git::init(&dir.path().join(format!("{name}.git")), &[]).unwrap();
            codecs.push((name, Codec { compression, key }));
        }
    }
    if python::run("gitblobts", GITBLOBTS_ADDS, &[dir.path().as_os_str()]).is_none() {
        return;
    }
    for (name, codec) in &codecs {
        let blobs = Blobs::open(&dir.path().join(format!("{name}.git")), codec.clone()).unwrap();
        assert_eq!(blobs.layout().unwrap(), Layout::Gitblobts, "{name}");
        let found: Vec<_> =
            blobs.range(Timestamp::MIN, Timestamp::MAX).unwrap().map(Result::unwrap).collect();
        assert_eq!(found[0].time.as_nanosecond(), -1_500_000_000, "{name}");
        assert_eq!(found[0].content, b"before 1970", "{name}");
        assert_eq!(found[1].time.as_nanosecond(), 1_795_202_112_500_000_000, "{name}");
        assert_eq!(found[1].content, b"python ".repeat(1000), "{name}");
        let times = [0, 1_800_000_000_000_000_000].map(|at| Timestamp::from_nanosecond(at).unwrap());
        blobs.add_many([(times[0], "treering 0"), (times[1], "treering 1")], &who()).unwrap();
    }
    let listed = python::run("gitblobts", GITBLOBTS_LISTS, &[dir.path().as_os_str()]).unwrap();
    let expected = "-1.5=before 1970 0.0=treering 0 1795202112.5=python pytho 1800000000.0=treering 1";
    for line in listed.lines() {
        assert_eq!(line, expected);
    }
    assert_eq!(listed.lines().count(), codecs.len());
}

/// Adds a blob in a clone that is there, and prints what that has.
const GITBLOBTS_IN_CLONE: &str = "
import math, sys, gitblobts
store = gitblobts.Store(sys.argv[1], compression='gzip')
store.addblob(sys.argv[2].encode(), float(sys.argv[3]))
blobs = store.getblobs(-math.inf, math.inf)
print(' '.join(f'{blob.timestamp}={blob.blob.decode()}' for blob in blobs))
";

#[test]
fn works_beside_gitblobts_in_one_clone() {
    let dir = tempfile::tempdir().unwrap();
    let (hub, clone) = (dir.path().join("hub.git"), dir.path().join("clone"));
    Git::init(&hub, &[]).unwrap();
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
        let output = command.current_dir(dir.path()).args(arguments).output().expect("git runs");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    git(&["clone", "-q", "hub.git", "clone"]);
    let python = |content: &str, time: &str| {
        let arguments = [clone.as_os_str(), content.as_ref(), time.as_ref()];
        python::run("gitblobts", GITBLOBTS_IN_CLONE, &arguments)
    };
    let Some(first) = python("one", "1.5") else { return };
    assert_eq!(first, "1.5=one\n");
    let codec = Codec { compression: Compression::Gzip, key: None };
    let blobs = Blobs::open(&clone, codec).unwrap();
    let found = || {
        let blobs = blobs.range(Timestamp::MIN, Timestamp::MAX).unwrap().map(Result::unwrap);
        blobs.map(|blob| String::from_utf8(blob.content).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!((blobs.layout().unwrap(), found()), (Layout::Gitblobts, vec!["one".to_owned()]));
    let at = |second| Timestamp::from_second(second).unwrap();
    blobs.add_many([(at(2), "two"), (at(4), "four")], &who()).unwrap();
    assert_eq!(git(&["-C", "clone", "status", "--porcelain"]), "");

    // It refuses a clone with anything that is not committed, and pushes all that is.
    assert_eq!(python("three", "3").unwrap(), "1.5=one 2.0=two 3.0=three 4.0=four\n");
    assert_eq!(found(), ["one", "two", "three", "four"]);
    assert_eq!(git(&["-C", "hub.git", "ls-tree", "--name-only", "main"]).lines().count(), 4);

    // What another clone pushed comes with index and files.
    git(&["clone", "-q", "hub.git", "other"]);
    let other = Blobs::open(&dir.path().join("other"), Codec { compression: Compression::Gzip, key: None });
    let other = other.unwrap();
    other.add(b"five", at(5), &who()).unwrap();
    other.push("origin", &who()).unwrap();
    blobs.add(b"six", at(6), &who()).unwrap();
    assert!(blobs.pull("origin", &who()).unwrap());
    assert_eq!(git(&["-C", "clone", "status", "--porcelain"]), "");
    blobs.push("origin", &who()).unwrap();
    assert!(other.pull("origin", &who()).unwrap());
    assert_eq!(git(&["-C", "other", "status", "--porcelain"]), "");
    let six = "1.5=one 2.0=two 3.0=three 4.0=four 5.0=five 6.0=six 7.0=seven\n";
    assert_eq!(python("seven", "7").unwrap(), six);
    for repository in ["hub.git", "clone", "other"] {
        git(&["-C", repository, "fsck", "--strict"]);
    }
}

/// Where the test that is run as a victim finds its repository.
const VICTIM: &str = "TREERING_TEST_VICTIM";

#[test]
fn a_writer_that_is_killed_loses_nothing_and_leaves_nothing() {
    if let Some(path) = std::env::var_os(VICTIM) {
        let blobs = Blobs::open(Path::new(&path), Codec::default()).unwrap();
        for number in 0.. {
            blobs.add(format!("{number}").as_bytes(), Timestamp::UNIX_EPOCH, &who()).unwrap();
            println!("{number}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("repo.git");
    Blobs::create(&path, Codec::default()).unwrap();
    let mut promised = 0;
    for round in 0..12 {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "timeline::a_writer_that_is_killed_loses_nothing_and_leaves_nothing",
                "--nocapture",
            ])
            .env(VICTIM, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(40 + 17 * round));
        victim.kill().unwrap();
        let output = victim.wait_with_output().unwrap();
        let lines = String::from_utf8(output.stdout).unwrap();
        promised += lines.lines().filter(|line| line.parse::<u32>().is_ok()).count();

        let blobs = Blobs::open(&path, Codec::default()).unwrap();
        let swept = blobs.timeline().sweep().unwrap();
        assert!(!swept.busy);
        let found = blobs.range(Timestamp::MIN, Timestamp::MAX).unwrap().map(Result::unwrap).count();
        // The last one may have been committed without having been told.
        assert!(
            (promised..=promised + round as usize + 1).contains(&found),
            "{promised} promised, {found} found"
        );
        blobs.add(b"after", Timestamp::UNIX_EPOCH, &who()).unwrap();
        promised += 1;
        let layers = blobs.timeline().git().refresh().unwrap().layers().len();
        assert_eq!(layers, found + 1, "a layer for each blob and none beside");
    }
    let fsck = Command::new("git").arg("-C").arg(&path).args(["fsck", "--strict", "--no-dangling"]).output();
    assert!(fsck.expect("git runs").status.success());
    let files: Vec<_> =
        fs::read_dir(path.join("treering")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files.len(), 3, "the lock files, and what the newest commit is: {files:?}");
}
