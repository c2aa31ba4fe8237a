//! Cold remotes: what is read of a repository that lies in S3, and how fast layers travel beside `rclone copy`
//! of the same files to the same server.
//!
//! Plain, since the work is counted and two programs are compared in one run: `cargo bench --bench cold`. The
//! server is in this process, in front of files. `TREERING_BENCH_MIB` is the size of the repository.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use treering::gitkv::Person;
use treering::progress::Progress;
use treering::remote::{ColdOptions, Remotes, cold_reader};
use treering::repository::{
    BackupOptions, FORMAT_VERSION, InitOptions, Repository, RestoreOptions, Selector,
};

mod data;
#[path = "../tests/it/store/s3_server.rs"]
mod s3_server;

use data::noise;
use s3_server::S3Server;

const MIB: usize = 1 << 20;

/// How often each way of copying is timed, one after the other.
const ROUNDS: usize = 3;

/// A tenth in files of 4 KiB, the rest in files of 16 MiB, and a repository of all of them.
fn make(dir: &Path, mib: usize) -> PathBuf {
    let (small, large) = (mib * MIB / 10 / 4096, mib * 9 / 10 / 16);
    let source = dir.join("source");
    fs::create_dir_all(source.join("small")).unwrap();
    (0..small).for_each(|n| fs::write(source.join(format!("small/{n}")), noise(n as u64, 4096)).unwrap());
    (0..large).for_each(|n| {
        fs::write(source.join(format!("{n}.bin")), noise((small + n) as u64, 16 * MIB)).unwrap();
    });
    let repository = dir.join("repo");
    let now = Timestamp::now();
    let made = Repository::init(&repository, &InitOptions::new(now)).unwrap();
    let options = BackupOptions::new(vec![source], now + SignedDuration::from_secs(10));
    made.backup(&options, &Progress::new()).unwrap();
    repository
}

fn rclone(server: &S3Server, arguments: &[&str]) -> Duration {
    let start = Instant::now();
    let done = Command::new("rclone")
        .args([
            "--config",
            "/dev/null",
            "--s3-provider",
            "Other",
            "--s3-force-path-style",
            "--s3-no-check-bucket",
        ])
        .args(["--s3-endpoint", &format!("http://{}", server.address)])
        .args(["--s3-access-key-id", S3Server::KEY, "--s3-secret-access-key", S3Server::SECRET])
        .args(["--include", "*.pack", "--include", "*.idx"])
        .args(arguments)
        // It cannot use one, and the server has no certificate.
        .env_remove("AWS_CA_BUNDLE")
        .status();
    assert!(done.expect("the program rclone is installed").success());
    start.elapsed()
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let result = work();
    (start.elapsed(), result)
}

fn rate(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / MIB as f64 / took.as_secs_f64()
}

fn main() {
    let mib = std::env::var("TREERING_BENCH_MIB").map_or(1024, |mib| mib.parse().expect("a number of MiB"));
    let dir = tempfile::tempdir().unwrap();
    let repository = make(dir.path(), mib);
    let server = S3Server::start();
    let url = server.url(S3Server::SECRET);
    let who = Person::new("bench", "bench@localhost", Timestamp::now());
    let options = ColdOptions::default();

    let (mut up, mut down) = ([Duration::MAX; 2], [Duration::MAX; 2]);
    let mut bytes = 0;
    for round in 0..ROUNDS {
        let name = format!("round{round}");
        let place = format!("{url}/{name}");
        let remotes = Remotes::open(&repository, FORMAT_VERSION).unwrap();
        remotes.add(&name, &place).unwrap();
        let (took, pushed) = timed(|| remotes.push(&name, &who).unwrap());
        bytes = pushed.bytes;
        up[0] = up[0].min(took);
        let packs = repository.join("objects/pack");
        // Without the slash it asks for an object of that name, which the server answers with the code 500 for
        // a directory, and waits long before it asks again.
        let there = format!(":s3:bucket/some/rclone{round}/");
        up[1] = up[1].min(rclone(&server, &["copy", packs.to_str().unwrap(), &there]));
        let (took, _) =
            timed(|| Remotes::clone_from(&place, &dir.path().join(&name), FORMAT_VERSION).unwrap());
        down[0] = down[0].min(took);
        let copy = dir.path().join(format!("rclone{round}"));
        down[1] = down[1].min(rclone(&server, &["copy", &there, copy.to_str().unwrap()]));
        fs::remove_dir_all(dir.path().join(&name)).unwrap();
        fs::remove_dir_all(copy).unwrap();
        fs::remove_dir_all(server.root.with_file_name(format!("rclone{round}"))).unwrap();
    }
    for (what, [own, peer]) in [("push", up), ("clone", down)] {
        println!(
            "{what}: {:.0} MiB/s, rclone copy {:.0} MiB/s, ratio {:.2}",
            rate(bytes, own),
            rate(bytes, peer),
            peer.as_secs_f64() / own.as_secs_f64()
        );
    }

    let place = format!("{url}/round0");
    let clone = dir.path().join("cold");
    let before = server.served();
    Remotes::clone_cold(&place, &clone, FORMAT_VERSION, &options).unwrap();
    let after = server.served();
    println!(
        "clone --cold: {} requests, {:.1} MiB",
        after.0 - before.0,
        (after.1 - before.1) as f64 / MIB as f64
    );

    let (mut requests, mut most) = (0, 0);
    for number in (0..mib * MIB / 10 / 4096).step_by(501) {
        let _ = fs::remove_dir_all(clone.join("treering/blocks"));
        let repository = Repository::open(&clone).unwrap();
        let before = server.served();
        repository.read_cold(cold_reader(&clone, &options).unwrap()).unwrap();
        let snapshot = repository.find(&Selector::Latest(0)).unwrap();
        let path = dir.path().join(format!("source/small/{number}"));
        let view = repository.view(&snapshot).unwrap();
        let path = view.resolve(Some(path.as_os_str().as_encoded_bytes())).unwrap();
        let mut out = Vec::new();
        view.open(&view.entry(&path).unwrap().unwrap()).unwrap().read_to_end(&mut out).unwrap();
        assert_eq!(out, noise(number as u64, 4096));
        let after = server.served();
        requests = requests.max(after.0 - before.0);
        most = most.max(after.1 - before.1);
    }
    println!("a file of 4 KiB: at most {requests} requests and {:.0} KiB", most as f64 / 1024.0);

    let _ = fs::remove_dir_all(clone.join("treering/blocks"));
    let repository = Repository::open(&clone).unwrap();
    let cold = cold_reader(&clone, &options).unwrap();
    repository.read_cold(cold.clone()).unwrap();
    let snapshot = repository.find(&Selector::Latest(0)).unwrap();
    let target = RestoreOptions::new(dir.path().join("restored"));
    let (took, report) = timed(|| repository.restore(&snapshot, &target, &Progress::new()).unwrap());
    assert!(report.applied.failures.is_empty());
    println!(
        "restore: {} requests, {:.3} times the bytes of the layers, {:.0} MiB/s",
        cold.requests(),
        cold.bytes() as f64 / bytes as f64,
        rate(report.applied.bytes, took)
    );
}
