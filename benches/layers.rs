//! Layers: writing beside libgit2's loose writer, reading, and look-up among many layers.
//!
//! Writing ends when the layer is durable; libgit2 syncs nothing here, which is its default.

use std::hint::black_box;
use std::path::Path;

use criterion::{BatchSize, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use git2::{ObjectType, Repository, RepositoryInitOptions};
use tempfile::TempDir;
use treering::layers::{LayerSet, LayerWriter, ObjectId, ObjectKind};

mod data;

use data::noise;

const MIB: usize = 1 << 20;
const LAYERS: u64 = 1_000;
const OBJECTS: u64 = 1_000;

/// A tree of 20 entries, about 900 bytes, as a backup writes many of.
fn tree(seed: u64) -> Vec<u8> {
    (0..20)
        .flat_map(|i| {
            let mut entry = format!("100644 20261120T195512.{seed:06}{i:03}Z.cbor\0").into_bytes();
            entry.extend(noise(seed * 20 + i, 20));
            entry
        })
        .collect()
}

fn write_layer(dir: &Path, kind: ObjectKind, objects: &[Vec<u8>]) -> Vec<ObjectId> {
    let mut writer = LayerWriter::create(dir).unwrap();
    let ids = objects.iter().map(|bytes| writer.write(kind, bytes).unwrap()).collect();
    writer.finish().unwrap();
    ids
}

fn bare_repository() -> (TempDir, Repository) {
    let dir = tempfile::tempdir().unwrap();
    let repository =
        Repository::init_opts(dir.path(), RepositoryInitOptions::new().bare(true).external_template(false));
    (dir, repository.unwrap())
}

fn write(c: &mut Criterion) {
    let volumes = [noise(1, 32 * MIB), noise(2, 32 * MIB)];
    let mut group = c.benchmark_group("write 2 volumes of 32 MiB");
    group.sample_size(10).sampling_mode(SamplingMode::Flat).throughput(Throughput::Bytes(64 * MIB as u64));
    group.bench_function("layer", |b| {
        let new = || tempfile::tempdir().unwrap();
        b.iter_batched_ref(
            new,
            |dir| write_layer(dir.path(), ObjectKind::Blob, &volumes),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("git2 loose", |b| {
        let write = |(_, repository): &mut (TempDir, Repository)| {
            let odb = repository.odb().unwrap();
            volumes.iter().map(|volume| odb.write(ObjectType::Blob, volume).unwrap()).collect::<Vec<_>>()
        };
        b.iter_batched_ref(bare_repository, write, BatchSize::PerIteration);
    });
    group.finish();

    let trees: Vec<Vec<u8>> = (0..20_000).map(tree).collect();
    let mut group = c.benchmark_group("write 20,000 trees");
    group
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat)
        .throughput(Throughput::Elements(trees.len() as u64));
    group.bench_function("10 layers", |b| {
        let new = || tempfile::tempdir().unwrap();
        let write = |dir: &mut TempDir| {
            trees.chunks(2_000).for_each(|trees| drop(write_layer(dir.path(), ObjectKind::Tree, trees)));
        };
        b.iter_batched_ref(new, write, BatchSize::PerIteration);
    });
    group.bench_function("git2 loose", |b| {
        let write = |(_, repository): &mut (TempDir, Repository)| {
            let odb = repository.odb().unwrap();
            // As blobs, since libgit2 would look for the entries of a tree.
            trees.iter().map(|tree| odb.write(ObjectType::Blob, tree).unwrap()).collect::<Vec<_>>()
        };
        b.iter_batched_ref(bare_repository, write, BatchSize::PerIteration);
    });
    group.finish();
}

fn read(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let volume = write_layer(dir.path(), ObjectKind::Blob, &[noise(1, 32 * MIB)])[0];
    let tree = write_layer(dir.path(), ObjectKind::Tree, &[tree(1)])[0];
    let set = LayerSet::open(dir.path()).unwrap();

    let mut group = c.benchmark_group("read");
    group.bench_function("a tree", |b| b.iter(|| set.read(&tree).unwrap()));
    for (name, len) in [("4 KiB of 32 MiB", 4 << 10), ("1 MiB of 32 MiB", MIB as u64)] {
        group.throughput(Throughput::Bytes(len));
        let mut offset = 0;
        group.bench_function(name, |b| {
            b.iter(|| {
                offset = (offset + 7_654_321) % (31 * MIB as u64);
                set.read_range(&volume, offset, len).unwrap()
            });
        });
    }
    group.throughput(Throughput::Bytes(32 * MIB as u64)).sample_size(10);
    group.bench_function("32 MiB whole", |b| b.iter(|| set.read(&volume).unwrap()));
    let layer = set.locate(&volume).unwrap().layer;
    group.bench_function("32 MiB verified", |b| b.iter(|| layer.verify().unwrap()));
}

fn look_up(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let object = |number: u64| number.to_le_bytes().to_vec();
    let ids: Vec<ObjectId> = (0..LAYERS)
        .flat_map(|layer| {
            let objects: Vec<_> = (layer * OBJECTS..(layer + 1) * OBJECTS).map(object).collect();
            write_layer(dir.path(), ObjectKind::Blob, &objects)
        })
        .collect();
    let set = LayerSet::open(dir.path()).unwrap();

    let mut group = c.benchmark_group("1,000,000 objects in 1,000 layers");
    let mut next = 0;
    group.bench_function("look up", |b| {
        b.iter(|| {
            next = (next + 654_321) % ids.len();
            black_box(set.locate(&ids[next]).unwrap().offset)
        });
    });
    let absent = noise(9, 20 * MIB);
    let absent: Vec<ObjectId> = absent.as_chunks().0.iter().map(|&id| ObjectId::from_bytes(id)).collect();
    group.bench_function("look up in vain", |b| {
        b.iter(|| {
            next = (next + 654_321) % absent.len();
            set.contains(&absent[next])
        });
    });
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.bench_function("open", |b| b.iter(|| LayerSet::open(dir.path()).unwrap()));
    group.bench_function("reopen", |b| b.iter(|| set.reopen().unwrap()));
}

criterion_group!(benches, write, read, look_up);
criterion_main!(benches);
