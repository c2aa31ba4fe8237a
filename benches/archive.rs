//! The parts of the archive: members, volumes and their indexes.
//!
//! The corpus is this crate's own source, for volumes repeated and cut into segments of one size.

use std::hint::black_box;
use std::path::Path;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use treering::archive::{
    ArchiveError, Codec, MemberCache, Stored, Volume, VolumeIndex, VolumeOptions, VolumeReader, VolumeWriter,
    gather,
};
use treering::digest::Digest;

mod data;

use data::noise;

const MEMBER_LEN: usize = 1 << 20;

/// The crate's source, once.
fn source() -> Vec<u8> {
    let files = walkdir::WalkDir::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).sort_by_file_name();
    let files = files.into_iter().map(|file| file.unwrap()).filter(|file| file.file_type().is_file());
    files.flat_map(|file| std::fs::read(file.path()).unwrap()).collect()
}

fn segments(bytes: &[u8], len: usize) -> Vec<Stored> {
    bytes.chunks(len).map(|segment| Stored::whole(Digest::of(segment), segment.to_vec())).collect()
}

fn write(options: &VolumeOptions, segments: Vec<Stored>) -> Vec<Volume> {
    let mut volumes = Vec::new();
    let sink = gather(|volume| -> Result<(), ArchiveError> {
        volumes.push(volume);
        Ok(())
    });
    let mut writer = VolumeWriter::new(options, sink).unwrap();
    for segment in segments {
        writer.append(segment).unwrap();
    }
    writer.finish().unwrap();
    volumes
}

fn members(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("member");
    // Not repeated: zstd would find what lies a repetition back, and gzip would not.
    let corpora = [("source", source()), ("noise", noise(1, MEMBER_LEN))];
    for (name, bytes) in corpora.iter().map(|(name, bytes)| (name, &bytes[..bytes.len().min(MEMBER_LEN)])) {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        for codec in ["gzip:1", "gzip:6", "zstd:1", "zstd:3"] {
            let codec: Codec = codec.parse().unwrap();
            let member = codec.compress_member(bytes).unwrap();
            group.bench_function(BenchmarkId::new(format!("compress {codec}"), name), |bencher| {
                bencher.iter(|| codec.compress_member(black_box(bytes)).unwrap());
            });
            group.bench_function(BenchmarkId::new(format!("decompress {codec}"), name), |bencher| {
                bencher.iter(|| codec.decompress_member(black_box(&member), bytes.len()).unwrap());
            });
        }
    }
    group.finish();
}

fn volumes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("volume");
    group.sample_size(10);
    let bytes: Vec<u8> = source().into_iter().cycle().take(16 << 20).collect();
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    for (len, threads) in [(1024, 1), (1024, 2), (64 << 10, 1), (64 << 10, 2)] {
        let options = VolumeOptions { threads, ..VolumeOptions::default() };
        group.bench_function(BenchmarkId::new(format!("write, {threads} threads"), len), |bencher| {
            bencher.iter_with_setup(|| segments(&bytes, len), |segments| write(&options, segments));
        });
    }
    let volumes = write(&VolumeOptions::default(), segments(&bytes, 1024));
    group.bench_function(BenchmarkId::new("read every entry", 1024), |bencher| {
        bencher.iter(|| {
            let cache = MemberCache::new(64 << 20);
            for (number, volume) in volumes.iter().enumerate() {
                let reader = VolumeReader::new(number as u64, &volume.index, &volume.bytes[..], &cache);
                for entry in 0..volume.index.len() {
                    black_box(reader.payload(entry).unwrap());
                }
            }
        });
    });
    group.finish();
}

fn indexes(criterion: &mut Criterion) {
    const ENTRIES: usize = 100_000;
    let mut group = criterion.benchmark_group("index");
    group.sample_size(10);
    group.throughput(Throughput::Elements(ENTRIES as u64));
    let lens = noise(1, 2 * ENTRIES);
    let segments = lens.chunks(2).enumerate().map(|(number, len)| {
        let len = usize::from(u16::from_le_bytes([len[0], len[1]]) % 4096);
        Stored::whole(Digest::of(&number.to_le_bytes()), vec![0; len])
    });
    let options = VolumeOptions { volume_len: u64::MAX, max_entries: usize::MAX, ..VolumeOptions::default() };
    let index = write(&options, segments.collect()).remove(0).index;
    let bytes = index.encode().unwrap();
    group.bench_function("encode", |bencher| bencher.iter(|| black_box(&index).encode().unwrap()));
    group
        .bench_function("decode", |bencher| bencher.iter(|| VolumeIndex::decode(black_box(&bytes)).unwrap()));
    group.finish();
}

criterion_group!(benches, members, volumes, indexes);
criterion_main!(benches);
