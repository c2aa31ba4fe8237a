//! Speed of what is done with a tree of files: scan, hash, page codec, backup, restore.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, SystemTime};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use jiff::Timestamp;
use treering::Repository;
use treering::diff::{DirIndex, ScanError, ScanOptions, SourceDir, page, pages_of, scan};
use treering::digest::Digest;
use treering::progress::Progress;
use treering::relpath::RelPath;
use treering::repository::{BackupOptions, InitOptions, RestoreOptions};

const DIRECTORIES: usize = 100;
const FILES: usize = 100;
const LEN: usize = 1024;

/// A tree of [`DIRECTORIES`] with [`FILES`] each, every file of [`LEN`] bytes of its own.
fn make_tree(root: &Path) {
    for directory in 0..DIRECTORIES {
        let directory_path = root.join(format!("{directory:03}"));
        fs::create_dir_all(&directory_path).unwrap();
        for file in 0..FILES {
            let line = format!("{directory} {file} what is written here ");
            let content: Vec<u8> = line.bytes().cycle().take(LEN).collect();
            fs::write(directory_path.join(format!("{file:03}.txt")), content).unwrap();
        }
    }
}

fn count(root: &Path, threads: usize) -> usize {
    let options = ScanOptions { threads, ..ScanOptions::default() };
    let mut found = 0;
    scan::<ScanError>(&SourceDir::new(root), &RelPath::root(), &options, |each| each.map(|_| found += 1))
        .unwrap();
    found
}

fn tree(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("tree");
    make_tree(&root);
    let names = (DIRECTORIES * (FILES + 1) + 1) as u64;

    let mut group = criterion.benchmark_group("tree");
    group.sample_size(10).measurement_time(Duration::from_secs(4));
    group.throughput(Throughput::Elements(names));
    for threads in [0, 1] {
        group.bench_function(format!("scan, {threads} helpers"), |bencher| {
            bencher.iter(|| assert_eq!(count(&root, threads) as u64, names));
        });
    }

    let options = ScanOptions::default();
    let index = DirIndex::scan_with(&root, &options, false, SystemTime::now(), &Progress::new()).unwrap();
    let pages: Vec<_> = pages_of(&index.entries).map(|page| page::encode(page).unwrap()).collect();
    group.bench_function("pages encoded", |bencher| {
        bencher
            .iter(|| pages_of(&index.entries).for_each(|page| drop(black_box(page::encode(page).unwrap()))));
    });
    group.bench_function("pages decoded", |bencher| {
        bencher.iter(|| pages.iter().for_each(|page| drop(black_box(page::decode(page).unwrap()))));
    });

    let now = Timestamp::now();
    let repository = Repository::init(&dir.path().join("repository"), &InitOptions::new(now)).unwrap();
    let backup = BackupOptions::new(vec![root], now);
    let report = repository.backup(&backup, &Progress::new()).unwrap();
    let snapshot = report.snapshot.unwrap();
    group.bench_function("backup, unchanged", |bencher| {
        bencher.iter(|| repository.backup(&backup, &Progress::new()).unwrap());
    });
    group.bench_function("restore", |bencher| {
        bencher.iter_batched(
            || tempfile::tempdir_in(dir.path()).unwrap(),
            |target| {
                let options = RestoreOptions::new(target.path());
                repository.restore(&snapshot, &options, &Progress::new()).unwrap();
                // Removed outside of the time.
                target
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();

    let bytes = vec![7; 1 << 20];
    let mut group = criterion.benchmark_group("hash");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("SHA-256 of a segment of 1 MiB", |bencher| {
        bencher.iter(|| Digest::of(black_box(&bytes)));
    });
    group.finish();
}

criterion_group!(benches, tree);
criterion_main!(benches);
