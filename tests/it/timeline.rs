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
    assert_eq!(files.len(), 2, "the lock files: {files:?}");
}
