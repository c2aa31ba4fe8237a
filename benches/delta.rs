//! Speed of the parts of the delta module, each beside what it stands in for.

use std::hint::black_box;

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use treering::delta::{
    BlockSignature, ConfirmKey, Expected, SegmentParams, Segmenter, SignatureOptions, from_content,
    from_signatures, patch,
};

mod data;

use data::noise;

const MIB: usize = 1 << 20;
const KEY: ConfirmKey = ConfirmKey([7; 32]);

fn criterion_config() -> Criterion {
    Criterion::default()
        .sample_size(15)
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_secs(2))
}

fn group<'a>(criterion: &'a mut Criterion, name: &str, bytes: usize) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Bytes(bytes as u64));
    group
}

/// Text that looks like source code: lines of words from a vocabulary chosen by `seed`.
fn text(len: usize, seed: u64) -> Vec<u8> {
    let vocabulary: Vec<String> = noise(seed, 4096)
        .chunks(8)
        .map(|word| {
            word.iter().take(2 + usize::from(word[7]) % 6).map(|b| char::from(b'a' + b % 26)).collect()
        })
        .collect();
    let choices = noise(seed + 1, len);
    let mut out = Vec::with_capacity(len + 16);
    for (at, choice) in choices.chunks_exact(2).enumerate() {
        let choice = usize::from(u16::from_le_bytes([choice[0], choice[1]]));
        out.extend_from_slice(vocabulary[choice % vocabulary.len()].as_bytes());
        out.push(if at % 9 == 8 { b'\n' } else { b' ' });
        if out.len() >= len {
            break;
        }
    }
    out.truncate(len);
    out
}

fn sign(data: &[u8]) -> BlockSignature {
    BlockSignature::compute(data, 0, SignatureOptions::for_segment(data.len()), &KEY).expect("a segment")
}

fn segmenting(criterion: &mut Criterion) {
    let data = noise(1, 64 * MIB);
    let mut group = group(criterion, "segment", data.len());
    group.bench_function("64 MiB", |bencher| {
        bencher.iter(|| {
            let mut segmenter = Segmenter::new(&data[..], SegmentParams::default());
            while let Some(segment) = segmenter.next_segment().expect("reading memory") {
                black_box(segment);
            }
        });
    });
}

fn signatures(criterion: &mut Criterion) {
    let data = noise(2, MIB);
    let mut changed = data.clone();
    for page in [20, 90, 200] {
        changed[page * 4096 + 17] ^= 1;
    }
    let (old, new) = (sign(&data), sign(&changed));
    let mut group = group(criterion, "signature", data.len());
    group.bench_function("compute", |bencher| bencher.iter(|| sign(black_box(&data))));
    group.bench_function("diff", |bencher| bencher.iter(|| new.diff(black_box(&[&old]))));
}

fn against_signatures(criterion: &mut Criterion) {
    let bases: Vec<Vec<u8>> = (0..3).map(|seed| noise(10 + seed, MIB)).collect();
    let signatures: Vec<_> = bases.iter().map(|base| sign(base)).collect();
    let signatures: Vec<_> = signatures.iter().collect();
    let unrelated = noise(20, MIB);
    let unrelated_text = text(MIB, 20);
    let mut edited = bases[1].clone();
    for page in [20, 90, 200] {
        edited[page * 4096 + 17] ^= 1;
    }
    let expected = [Expected { new: 0..MIB, base: MIB }];
    let mut shifted = noise(30, 100);
    shifted.extend_from_slice(&bases[1][..MIB - 100]);
    let options = fast_rsync::SignatureOptions { block_size: 4096, crypto_hash_size: 8 };
    let librsync = fast_rsync::Signature::calculate(&bases.concat(), options);

    let mut group = group(criterion, "from_signatures", MIB);
    let mut bench = |name: &str, new: &[u8], expected: &[Expected]| {
        group.bench_function(name, |bencher| {
            bencher.iter(|| from_signatures(black_box(new), &signatures, expected, &KEY));
        });
    };
    bench("edited in place", &edited, &expected);
    bench("shifted", &shifted, &expected);
    bench("unrelated noise", &unrelated, &[]);
    bench("unrelated text", &unrelated_text, &[]);
    for (name, new) in
        [("shifted", &shifted), ("unrelated noise", &unrelated), ("unrelated text", &unrelated_text)]
    {
        group.bench_function(format!("fast_rsync: {name}"), |bencher| {
            bencher.iter(|| {
                let mut delta = Vec::new();
                fast_rsync::diff(&librsync.index(), black_box(new), &mut delta).expect("a signature");
                delta
            });
        });
    }
}

fn against_content(criterion: &mut Criterion) {
    for len in [32 << 10, MIB] {
        let base = text(len, 40);
        let unrelated = text(len, 50);
        let mut similar = base.clone();
        for at in (0..20).rev() {
            let start = (2 * at + 1) * len / 40;
            similar.splice(start..start + 30, text(10 + 5 * at, 60 + at as u64));
        }
        let delta = from_content(&similar, &base).bytes;
        let mut group = group(criterion, &format!("from_content of {} KiB", len >> 10), len);
        group.bench_function("similar", |bencher| bencher.iter(|| from_content(black_box(&similar), &base)));
        group.bench_function("unrelated", |bencher| {
            bencher.iter(|| from_content(black_box(&unrelated), &base))
        });
        for (name, new) in [("similar", &similar), ("unrelated", &unrelated)] {
            group.bench_function(format!("fast_rsync: {name}"), |bencher| {
                bencher.iter(|| {
                    let options = fast_rsync::SignatureOptions { block_size: 32, crypto_hash_size: 8 };
                    let signature = fast_rsync::Signature::calculate(black_box(&base), options);
                    let mut delta = Vec::new();
                    fast_rsync::diff(&signature.index(), new, &mut delta).expect("a signature");
                    delta
                });
            });
        }
        group.bench_function("patch", |bencher| {
            bencher.iter(|| patch(&base, black_box(&delta), similar.len()).expect("our own delta"));
        });
    }
}

criterion_group! {
    name = benches;
    config = criterion_config();
    targets = segmenting, signatures, against_signatures, against_content
}
criterion_main!(benches);
