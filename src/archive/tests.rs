//! What the parts of the module promise together, and what other programs make of a volume.

use std::fs::{self, File};
use std::io::Write;
use std::process::{Command, Stdio};

use flate2::write::GzEncoder;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Reproducible bytes that do not compress.
pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Reproducible bytes that compress about as source code does.
pub(super) fn text(seed: u64, len: usize) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "let ", "mut ", "self.", "index", " = ", "();\n", "    ", "match ", "Some(", "None", "entry", ", ",
        "{\n", "}\n", "fn ", "return ",
    ];
    let words = noise(seed, len).into_iter().flat_map(|byte| match byte {
        0..=199 => WORDS[usize::from(byte) % 16].as_bytes().to_vec(),
        _ => vec![b'a' + byte % 26],
    });
    words.take(len).collect()
}

fn whole(bytes: Vec<u8>) -> Stored {
    Stored::whole(Digest::of(&bytes), bytes)
}

/// Stands for a delta: nothing here looks into one.
fn delta(bytes: Vec<u8>, bases: &[&[u8]]) -> Stored {
    let bases = bases.iter().map(|base| Digest::of(base)).collect();
    let link = DeltaLink { bases, depth: 2, chain_bytes: bytes.len() as u32 + 100 };
    Stored {
        digest: Digest::of(&[&bytes[..], b"result"].concat()),
        len: 12_345,
        payload: Payload::Delta { bytes, link },
    }
}

/// Small and large, compressible and not, whole and delta, and empty.
fn segments() -> Vec<Stored> {
    let mut segments: Vec<_> = (0..60).map(|seed| whole(text(seed, 100 + 97 * seed as usize))).collect();
    segments.push(whole(Vec::new()));
    segments.push(delta(text(100, 700), &[b"one"]));
    segments.push(whole(text(101, 300_000)));
    segments.push(whole(noise(102, 200_000)));
    segments.push(delta(noise(103, 90_000), &[b"one", b"two", b"three"]));
    segments.extend((200..220).map(|seed| whole(text(seed, 9000))));
    segments
}

fn options(codec: Codec, volume_len: u64, threads: usize) -> VolumeOptions {
    VolumeOptions { codec, member_len: 64 * 1024, volume_len, max_entries: usize::MAX, padding: 0, threads }
}

fn write(options: &VolumeOptions, segments: &[Stored]) -> Vec<Volume> {
    let mut volumes = Vec::new();
    let sink = gather(|volume| -> Result<(), ArchiveError> {
        volumes.push(volume);
        Ok(())
    });
    let mut writer = VolumeWriter::new(options, sink).unwrap();
    for segment in segments {
        writer.append(segment.clone()).unwrap();
    }
    writer.finish().unwrap();
    volumes
}

#[test]
fn a_volume_ends_when_it_has_many_entries() {
    let segments: Vec<_> = (0..300).map(|seed| whole(text(seed, 100))).collect();
    let few = VolumeOptions { max_entries: 150, ..options(Codec::default(), u64::MAX, 1) };
    let volumes = write(&few, &segments);
    let mut rest = &segments[..];
    for Volume { index, bytes, .. } in &volumes {
        // A member of 64 KiB has up to 64 of them.
        assert!((1..=150).contains(&index.len()), "{}", index.len());
        let own;
        (own, rest) = rest.split_at(index.len());
        assert_holds(index, &bytes[..], own);
    }
    assert!(volumes.len() > 2 && rest.is_empty());
}

fn write_one(codec: Codec, segments: &[Stored]) -> Volume {
    write(&options(codec, u64::MAX, 2), segments).pop().unwrap()
}

fn assert_holds(index: &VolumeIndex, source: &(impl ReadAt + ?Sized), segments: &[Stored]) {
    let cache = MemberCache::new(1 << 20);
    let reader = VolumeReader::new(7, index, source, &cache);
    assert_eq!(index.len(), segments.len());
    for (number, (entry, segment)) in index.entries().zip(segments).enumerate() {
        assert_eq!((entry.digest, entry.segment_len), (segment.digest, segment.len));
        match (&segment.payload, entry.kind) {
            (Payload::Whole(_), EntryKind::Whole) => {}
            (Payload::Delta { link, .. }, EntryKind::Delta { bases, depth, chain_bytes }) => {
                assert_eq!((&link.bases[..], link.depth, link.chain_bytes), (bases, depth, chain_bytes));
            }
            (payload, kind) => panic!("{kind:?} is not {payload:?}"),
        }
        assert!(reader.payload(number).unwrap() == segment.payload.bytes(), "payload {number}");
    }
}

/// The program, unless it is missing where that may be.
fn program(name: &str) -> Option<Command> {
    let found = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        return Some(Command::new(name));
    }
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{name} must be installed for this test");
    eprintln!("SKIPPED: {name} is not installed");
    None
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn tar_and_gzip_read_a_volume() {
    let segments = segments();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("volume.tar.gz");
    fs::write(&path, write_one(Codec::default(), &segments).bytes).unwrap();
    let names: Vec<_> = segments
        .iter()
        .map(|segment| match segment.payload {
            Payload::Whole(_) => format!("created/{}", segment.digest),
            Payload::Delta { .. } => format!("updated/{}", segment.digest),
        })
        .collect();

    if let Some(mut gzip) = program("gzip") {
        run(gzip.arg("-t").arg(&path));
    }
    if let Some(mut tar) = program("tar") {
        let listed = run(tar.arg("-tzf").arg(&path));
        assert_eq!(listed.lines().collect::<Vec<_>>(), names);
    }
    if let Some(mut tar) = program("tar") {
        run(tar.arg("-xzf").arg(&path).arg("-C").arg(dir.path()));
        for (name, segment) in names.iter().zip(&segments) {
            assert!(fs::read(dir.path().join(name)).unwrap() == segment.payload.bytes(), "{name}");
        }
    }
    if let Some(mut sha256sum) = program("sha256sum") {
        let created = names.iter().filter(|name| name.starts_with("created/"));
        let sums = run(sha256sum.args(created).current_dir(dir.path()));
        for line in sums.lines() {
            let (sum, name) = line.split_once("  ").unwrap();
            assert_eq!(name.strip_prefix("created/"), Some(sum));
        }
    }
}

#[test]
fn python_reads_the_bases_of_a_delta() {
    let Some(mut python) = program("python3") else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("volume.tar.gz");
    let segment = delta(vec![1, 2, 3], &[b"one", b"two"]);
    fs::write(&path, write_one(Codec::default(), &[whole(b"x".to_vec()), segment.clone()]).bytes).unwrap();
    let script = "
import sys, tarfile
with tarfile.open(sys.argv[1]) as archive:
    for member in archive:
        print(member.name, member.size, oct(member.mode), member.mtime, *sorted(member.pax_headers.items()))";
    let printed = run(python.arg("-c").arg(script).arg(&path));
    let (x, one, two) = (Digest::of(b"x"), Digest::of(b"one"), Digest::of(b"two"));
    let updated = segment.digest;
    let expected = format!(
        "created/{x} 1 0o644 0\n\
         updated/{updated} 3 0o644 0 ('TREERING.bases', '{one},{two}') ('TREERING.delta', '12345,2,103')\n"
    );
    assert_eq!(printed, expected);
}

#[test]
fn tar_reads_a_zstd_volume() {
    let (Some(_), Some(mut tar)) = (program("zstd"), program("tar")) else { return };
    let segments = segments();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("volume.tar.zst");
    fs::write(&path, write_one(Codec::Zstd { level: 3 }, &segments).bytes).unwrap();
    run(tar.args(["--zstd", "-xf"]).arg(&path).arg("-C").arg(dir.path()));
    let created = segments.iter().filter(|segment| matches!(segment.payload, Payload::Whole(_)));
    for segment in created {
        let read = fs::read(dir.path().join(format!("created/{}", segment.digest))).unwrap();
        assert_eq!(Digest::of(&read), segment.digest);
    }
}

#[test]
fn every_entry_reads_back_with_every_codec() {
    let segments = segments();
    for codec in [Codec::default(), Codec::Zstd { level: 1 }, Codec::None] {
        let volume = write_one(codec, &segments);
        assert_eq!(volume.index.packed_len(), volume.bytes.len() as u64);
        let index = VolumeIndex::decode(&volume.index.encode().unwrap()).unwrap();
        assert_holds(&index, &volume.bytes[..], &segments);
    }
}

#[test]
fn the_bytes_do_not_depend_on_the_number_of_threads() {
    let segments = segments();
    let one = write(&options(Codec::default(), 150_000, 1), &segments);
    for threads in [0, 2, 5] {
        let more = write(&options(Codec::default(), 150_000, threads), &segments);
        assert_eq!(one.len(), more.len());
        for (one, more) in one.iter().zip(&more) {
            assert!(one.bytes == more.bytes && one.index == more.index);
        }
    }
}

#[test]
fn volumes_end_before_they_exceed_their_length() {
    let segments = segments();
    let volumes = write(&options(Codec::default(), 100_000, 2), &segments);
    assert!(volumes.len() > 3);
    let mut rest = &segments[..];
    for volume in &volumes {
        let (held, after) = rest.split_at(volume.index.len());
        assert_holds(&volume.index, &volume.bytes[..], held);
        assert!(volume.bytes.len() <= 100_000 || volume.index.len() == 1, "{} bytes", volume.bytes.len());
        rest = after;
    }
    assert!(rest.is_empty());
}

#[test]
fn an_archive_without_entries_is_a_valid_tar_and_no_volume() {
    let mut bytes = Vec::new();
    let mut indexes = Vec::new();
    let sink = |piece| -> Result<(), ArchiveError> {
        match piece {
            Piece::Member(member) => bytes.extend(member),
            Piece::End(index) => indexes.push(index),
        }
        Ok(())
    };
    let written = VolumeWriter::new(&VolumeOptions::default(), sink).unwrap().finish().unwrap();
    assert_eq!((written.volumes, written.entries, written.plain_len), (1, 0, 1024));
    assert!(indexes.len() == 1 && indexes[0].is_empty());
    assert!(unpack(&bytes[..], std::io::sink(), LIMITS).unwrap().is_empty());
    if let Some(mut tar) = program("tar") {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("empty.tar.gz");
        fs::write(&path, &bytes).unwrap();
        assert_eq!(run(tar.arg("-tzf").arg(&path)), "");
    }
    assert!(write(&VolumeOptions::default(), &[]).is_empty());
}

#[test]
fn reading_an_entry_inflates_its_members_once_and_no_others() {
    let segments = segments();
    let volume = write_one(Codec::default(), &segments);
    for number in 0..segments.len() {
        let cache = MemberCache::new(usize::MAX);
        let reader = VolumeReader::new(0, &volume.index, &volume.bytes[..], &cache);
        reader.payload(number).unwrap();
        assert_eq!(cache.inflated(), volume.index.members_of(number).len() as u64, "entry {number}");
    }

    let cache = MemberCache::new(usize::MAX);
    let reader = VolumeReader::new(0, &volume.index, &volume.bytes[..], &cache);
    for number in 0..segments.len() {
        reader.payload(number).unwrap();
    }
    // All but the one that holds the end of the tar stream.
    assert_eq!(cache.inflated(), volume.index.member_count() as u64 - 1);
}

#[test]
fn a_range_of_a_long_entry_inflates_only_what_holds_it() {
    let long = text(1, 1_000_000);
    let volume = write_one(Codec::default(), &[whole(text(2, 10)), whole(long.clone())]);
    assert!(volume.index.members_of(1).len() >= 15);
    let cache = MemberCache::new(0);
    let reader = VolumeReader::new(0, &volume.index, &volume.bytes[..], &cache);
    assert!(reader.range(1, 500_000..504_096).unwrap() == long[500_000..504_096]);
    assert!(cache.inflated() <= 2);
    assert!(reader.range(1, 999_999..1_000_001).is_err());
    assert!(reader.range(2, 0..0).is_err());
}

#[test]
fn a_long_or_incompressible_entry_begins_its_own_member() {
    let [small, long, random] = [text(1, 3000), text(2, 100_000), noise(3, 64 * 1024)].map(whole);
    let volume = write_one(Codec::default(), &[small.clone(), long, small.clone(), random, small]);
    let members: Vec<_> = (0..5).map(|entry| volume.index.members_of(entry)).collect();
    assert_eq!(members, [0..1, 1..3, 2..3, 3..4, 4..5]);
}

#[test]
fn a_full_cache_forgets_the_member_used_longest_ago() {
    let segments: Vec<_> = (0..60).map(|seed| whole(text(seed, 9000))).collect();
    let volume = write_one(Codec::default(), &segments);
    let member = |entry: usize| volume.index.members_of(entry).start;
    let entries: Vec<_> = [0, 20, 40].into();
    assert!(member(0) < member(20) && member(20) < member(40));
    let two = [0, 20].map(|entry| volume.index.member(member(entry)).unwrap().plain_len()).iter().sum();
    let cache = MemberCache::new(two);
    let reader = VolumeReader::new(0, &volume.index, &volume.bytes[..], &cache);
    let mut inflated = Vec::new();
    for entry in [entries[0], entries[1], entries[0], entries[2], entries[0], entries[1]] {
        reader.payload(entry).unwrap();
        inflated.push(cache.inflated());
    }
    assert_eq!(inflated, [1, 2, 2, 3, 3, 4]);
}

#[test]
fn threads_that_want_one_member_inflate_it_once() {
    let segments: Vec<_> = (0..5).map(|seed| whole(text(seed, 9000))).collect();
    let volume = write_one(Codec::default(), &segments);
    let cache = MemberCache::new(1 << 20);
    let reader = VolumeReader::new(0, &volume.index, &volume.bytes[..], &cache);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..5).for_each(|entry| drop(reader.payload(entry).unwrap())));
        }
    });
    assert_eq!(cache.inflated(), 1);
}

#[test]
fn a_damaged_member_is_an_error_that_is_not_cached() {
    let segments = [whole(text(1, 5000)), whole(text(2, 5000))];
    let mut volume = write_one(Codec::default(), &segments);
    let cache = MemberCache::new(1 << 20);
    volume.bytes[1000] ^= 1;
    assert!(VolumeReader::new(0, &volume.index, &volume.bytes[..], &cache).payload(0).is_err());
    volume.bytes[1000] ^= 1;
    let reader = VolumeReader::new(0, &volume.index, &volume.bytes[..], &cache);
    assert!(reader.payload(0).unwrap() == segments[0].payload.bytes());
    let short = &volume.bytes[..1000];
    assert!(VolumeReader::new(1, &volume.index, short, &cache).payload(0).is_err());
}

#[test]
fn ranges_beyond_the_end_of_a_source_are_errors() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"0123456789").unwrap();
    fn check(source: &(impl ReadAt + ?Sized)) {
        assert_eq!(source.read_at(2, 8).unwrap(), b"23456789");
        assert_eq!(source.read_at(10, 0).unwrap(), b"");
        assert!(source.read_at(2, 9).is_err());
        assert!(source.read_at(u64::MAX, 2).is_err());
        assert!(source.read_at(0, usize::MAX).is_err());
    }
    check(&file);
    check(&b"0123456789"[..]);
}

#[test]
fn segments_that_a_reader_would_refuse_are_not_written() {
    let link =
        |count, depth, chain_bytes| DeltaLink { bases: vec![Digest::of(b"x"); count], depth, chain_bytes };
    let digest = Digest::of(b"x");
    let bad = [
        Stored { digest, len: 2, payload: Payload::Whole(vec![1]) },
        Stored {
            digest,
            len: MAX_SEGMENT_LEN + 1,
            payload: Payload::Delta { bytes: vec![1], link: link(1, 1, 1) },
        },
        Stored { digest, len: 2, payload: Payload::Delta { bytes: vec![1], link: link(0, 1, 1) } },
        Stored { digest, len: 2, payload: Payload::Delta { bytes: vec![1], link: link(4, 1, 1) } },
        Stored { digest, len: 2, payload: Payload::Delta { bytes: vec![1], link: link(1, 0, 1) } },
        Stored { digest, len: 2, payload: Payload::Delta { bytes: vec![1], link: link(1, 1, 0) } },
    ];
    for stored in bad {
        let mut writer =
            VolumeWriter::new(&VolumeOptions::default(), gather(|_| Ok::<_, ArchiveError>(()))).unwrap();
        assert!(matches!(writer.append(stored), Err(ArchiveError::Segment { .. })));
        assert!(matches!(writer.append(whole(vec![1])), Err(ArchiveError::WriterFailed)));
        assert!(matches!(writer.finish(), Err(ArchiveError::WriterFailed)));
    }
}

#[test]
fn an_error_of_the_sink_reaches_the_caller_and_stops_the_writer() {
    #[derive(Debug, thiserror::Error)]
    enum Error {
        #[error("full")]
        Full,
        #[error(transparent)]
        Archive(#[from] ArchiveError),
    }
    let mut writer = VolumeWriter::new(&options(Codec::default(), 1, 2), |_| Err(Error::Full)).unwrap();
    let error = (0..100).find_map(|seed| writer.append(whole(noise(seed, 70_000))).err());
    assert!(matches!(error, Some(Error::Full)));
    assert!(matches!(writer.finish(), Err(Error::Archive(ArchiveError::WriterFailed))));
}

const LIMITS: UnpackLimits = UnpackLimits { stream_len: 10_000_000, entries: 1000 };

fn recompressed(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn an_archive_without_its_index_unpacks_and_serves_its_entries() {
    let segments = segments();
    let plain = write_one(Codec::None, &segments).bytes;
    let zstd = write_one(Codec::Zstd { level: 1 }, &segments).bytes;
    for archive in [write_one(Codec::default(), &segments).bytes, zstd, recompressed(&plain), plain.clone()] {
        let file = tempfile::tempfile().unwrap();
        let index = unpack(&archive[..], &file, LIMITS).unwrap();
        assert_holds(&index, &file, &segments);
        assert_eq!(VolumeIndex::decode(&index.encode().unwrap()).unwrap(), index);
    }
}

#[test]
fn the_padding_of_other_tars_is_taken() {
    let plain = [write_one(Codec::None, &segments()).bytes, vec![0; 9 * 512]].concat();
    assert_eq!(unpack(&recompressed(&plain)[..], std::io::sink(), LIMITS).unwrap().len(), segments().len());
}

#[test]
fn a_truncated_archive_is_an_error_wherever_it_is_cut() {
    let segments = [whole(text(1, 700)), delta(text(2, 600), &[b"x"])];
    let plain = write_one(Codec::None, &segments).bytes;
    // The second block of the end may be missing, as it may be for tar.
    for end in (0..=plain.len() - 1024).step_by(128) {
        assert!(unpack(&plain[..end], std::io::sink(), LIMITS).is_err(), "tar cut at {end}");
        assert!(
            unpack(&recompressed(&plain[..end])[..], std::io::sink(), LIMITS).is_err(),
            "gzip of tar cut at {end}"
        );
    }
    let archive = recompressed(&plain);
    for end in 0..archive.len() {
        assert!(unpack(&archive[..end], std::io::sink(), LIMITS).is_err(), "gzip cut at {end}");
    }
}

#[test]
fn what_no_volume_holds_is_refused() {
    let digest = Digest::of(b"x");
    let mut archives = Vec::new();
    for (kind, name) in [
        (tar::EntryType::Regular, format!("created/../{digest}")),
        (tar::EntryType::Regular, "created/x".into()),
        (tar::EntryType::Regular, format!("created/{}", Digest::of(b"y"))),
        (tar::EntryType::Regular, format!("updated/{digest}")),
        (tar::EntryType::Symlink, format!("created/{digest}")),
        (tar::EntryType::Directory, "created".into()),
        (tar::EntryType::GNULongName, format!("created/{digest}")),
        (tar::EntryType::XGlobalHeader, format!("created/{digest}")),
        (tar::EntryType::XHeader, "bases".into()),
    ] {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(1);
        header.set_cksum();
        archives.push([header.as_bytes(), &[b'x'; 512][..], &[0; 1024]].concat());
    }
    for archive in archives {
        assert!(
            unpack(&archive[..], std::io::sink(), LIMITS).is_err(),
            "{}",
            String::from_utf8_lossy(&archive[..80])
        );
    }
}

#[test]
fn an_archive_that_grows_beyond_its_limits_is_an_error() {
    let bomb = recompressed(&vec![0; 20_000_000]);
    assert!(unpack(&bomb[..], std::io::sink(), LIMITS).is_err());
    let many = write_one(Codec::default(), &segments()).bytes;
    assert!(matches!(
        unpack(&many[..], std::io::sink(), UnpackLimits { entries: 10, ..LIMITS }),
        Err(ArchiveError::TooManyEntries)
    ));
}

#[test]
fn a_write_error_while_unpacking_is_returned() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let archive = write_one(Codec::default(), &segments()).bytes;
    assert!(matches!(unpack(&archive[..], full, LIMITS), Err(ArchiveError::Unpack(_))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_segments_read_back(
        shapes in vec((0usize..150_000, any::<u64>(), 0u8..4), 0..12), volume_len in 1u64..500_000, threads in 1usize..3,
    ) {
        let segments: Vec<_> = shapes.into_iter().map(|(len, seed, kind)| match kind {
            0 => whole(noise(seed, len)),
            1 => delta(text(seed, len), &[b"a", b"b"]),
            2 => whole(text(seed, len % 2000)),
            _ => whole(text(seed, len)),
        }).collect();
        let volumes = write(&options(Codec::default(), volume_len, threads), &segments);
        let mut rest = &segments[..];
        for volume in &volumes {
            let (held, after) = rest.split_at(volume.index.len());
            let index = VolumeIndex::decode(&volume.index.encode().unwrap()).unwrap();
            assert_holds(&index, &volume.bytes[..], held);
            prop_assert_eq!(unpack(&volume.bytes[..], std::io::sink(), LIMITS).unwrap().len(), held.len());
            rest = after;
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn a_damaged_tar_is_an_error_or_a_smaller_truth(
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), headers in any::<bool>(),
    ) {
        let segments = [whole(text(1, 700)), delta(text(2, 600), &[b"x"]), whole(text(3, 10))];
        let mut plain = write_one(Codec::None, &segments).bytes;
        for (at, byte) in damage {
            // Half of the time among the first header's fields, where numbers are.
            let at = if headers { 100 + at.index(60) } else { at.index(plain.len()) };
            plain[at] = byte;
        }
        if let Ok(index) = unpack(&plain[..], std::io::sink(), LIMITS) {
            let reader_cache = MemberCache::new(0);
            let reader = VolumeReader::new(0, &index, &plain[..], &reader_cache);
            for (number, entry) in index.entries().enumerate() {
                let payload = reader.payload(number).unwrap();
                prop_assert!(entry.kind != EntryKind::Whole || Digest::of(&payload) == entry.digest);
            }
        }
    }

    #[test]
    fn random_bytes_do_not_unpack(bytes in vec(any::<u8>(), 0..2000), magic in 0usize..3) {
        let magics: [&[u8]; 3] = [&[0x1f, 0x8b, 8, 0], &[0x28, 0xb5, 0x2f, 0xfd], &[]];
        prop_assert!(unpack(&[magics[magic], &bytes].concat()[..], std::io::sink(), LIMITS).is_err());
    }
}
