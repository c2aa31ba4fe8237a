//! Small repositories that would take more memory or time than anybody has: every command ends, by itself and within a
//! budget of memory. What it says is not looked at here.
//!
//! The budget: 256 MiB beside the caches that `docs/design.md` states, and 64 bytes for each byte of the packs. What does
//! not end is ended by a net that is much wider than any machine is slow. That work is in proportion is asserted by what
//! the library counts: it must not grow faster than what is there.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use jiff::Timestamp;
use sha1::{Digest as _, Sha1};
use treering::archive::{
    DeltaLink, Payload, Stored, UnpackLimits, Volume, VolumeOptions, VolumeWriter, gather, gzip, unpack,
};
use treering::cbor;
use treering::delta::from_content;
use treering::diff::{Content, DiffIndex, DirIndex, Kind, SegmentRef, page};
use treering::digest::Digest;
use treering::gitkv::{Git, GitError, Mode, Node};
use treering::layers::{LayerError, ObjectId, ObjectKind};
use treering::progress::{Counter, Progress};
use treering::repository::{
    CheckOptions, CompareOptions, PageRef, PruneOptions, RestoreOptions, Selector, SnapshotRecord, Work,
};

use crate::commits::commit;
use crate::hostile::{Crafted, like};
use crate::lab::{self, Lab};
use crate::programs;

/// Seconds of the processor, and of the clock, after which a command counts as one that does not end.
const NET: [&str; 2] = ["900", "1800"];

/// What a command may take of the memory, in bytes, whatever the repository has: the budget, and the caches.
const BUDGET: u64 = (256 + 192) << 20;

/// Runs a program under a limit of address space; prints its status, its greatest resident size and its errors.
const RUNNER: &str = r#"
import json, resource, signal, subprocess, sys
processor, clock, space, size = (int(word) for word in sys.argv[1:5])
def limit():
    resource.setrlimit(resource.RLIMIT_CPU, (processor, processor))
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
child = subprocess.Popen(sys.argv[5:], preexec_fn=limit, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
try:
    said = child.communicate(timeout=clock)[1]
except subprocess.TimeoutExpired:
    child.kill()
    said = child.communicate()[1] + b"\nit does not end"
resident = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([child.returncode, resident, said[-2000:].decode(errors="replace")]))
"#;

/// Runs treering, which must end by itself and within `budget`, and returns its status.
fn run(directory: &Path, budget: u64, file_size: u64, words: &[&str]) -> i64 {
    run_in(directory, &[], budget, file_size, words)
}

/// The same in another environment.
fn run_in(
    directory: &Path,
    environment: &[(&str, &str)],
    budget: u64,
    file_size: u64,
    words: &[&str],
) -> i64 {
    let mut command = Command::new("python3");
    // Threads reserve address space for their stacks and arenas, which is no memory.
    command.args(["-c", RUNNER]).args(NET).args([(8u64 << 30).to_string(), file_size.to_string()]);
    command.arg(env!("CARGO_BIN_EXE_treering")).args(words).current_dir(directory);
    command.env("HOME", directory).env("XDG_CACHE_HOME", directory.join("cache")).env("TMPDIR", directory);
    command.env_remove("TREERING_REPOSITORY").envs(environment.iter().copied());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (status, resident, said): (i64, u64, String) = serde_json::from_slice(&output.stdout).unwrap();
    assert!((0..=12).contains(&status), "{words:?} ended with {status}: {said}");
    let taken = resident << 10;
    assert!(taken <= budget, "{words:?} took {} MiB of {}: {said}", taken >> 20, budget >> 20);
    status
}

/// Runs every command on the repository of `crafted`.
fn survive(crafted: &Crafted) {
    if !programs::are_here(&["python3"]) {
        return;
    }
    let directory = crafted.lab.path("");
    let packs = fs::read_dir(crafted.lab.path("repo/objects/pack")).unwrap();
    let packs: u64 = packs.map(|file| file.unwrap().metadata().unwrap().len()).sum();
    let commands: [&[&str]; 9] = [
        &["snapshots"],
        &["ls", "latest"],
        &["cat", "latest:a"],
        &["diff", "latest", "source"],
        &["check"],
        &["check", "--read-data"],
        &["restore", "latest", "--target", "out"],
        &["backup", "source"],
        &["prune"],
    ];
    for command in commands {
        run(&directory, BUDGET + 64 * packs, 1 << 30, &[&["-r", "repo"], command].concat());
    }
}

/// `prefix` and `times` times `chunk`, as a stream of raw deflate, with its length, Adler-32 and CRC-32. It is made without
/// holding all that.
struct Bomb {
    prefix: Vec<u8>,
    chunk: Vec<u8>,
    times: usize,
    deflated: Vec<u8>,
    len: u64,
    adler: u32,
    crc: u32,
}

impl Bomb {
    fn new(prefix: &[u8], chunk: &[u8], times: usize) -> Self {
        let deflate = |bytes: &[u8]| {
            let mut out = Vec::with_capacity(bytes.len() + 1024);
            let mut compress = flate2::Compress::new(flate2::Compression::best(), false);
            compress.compress_vec(bytes, &mut out, flate2::FlushCompress::Full).unwrap();
            out
        };
        let mut deflated = deflate(prefix);
        let part = deflate(chunk);
        let (mut adler, mut crc) = (simd_adler32::Adler32::new(), crc32fast::Hasher::new());
        adler.write(prefix);
        crc.update(prefix);
        for _ in 0..times {
            deflated.extend(&part);
            adler.write(chunk);
            crc.update(chunk);
        }
        deflated.extend([3, 0]);
        let len = (prefix.len() + times * chunk.len()) as u64;
        let (prefix, chunk) = (prefix.to_vec(), chunk.to_vec());
        Self { prefix, chunk, times, deflated, len, adler: adler.finish(), crc: crc.finalize() }
    }

    fn gzip(&self) -> Vec<u8> {
        let head = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
        let end = [self.crc.to_le_bytes(), (self.len as u32).to_le_bytes()].concat();
        [&head[..], &self.deflated, &end].concat()
    }

    /// The id of a git object that holds it, or another one where finding it takes long.
    fn id(&self, kind: ObjectKind) -> [u8; 20] {
        if self.len > 256 << 20 {
            return [0x77; 20];
        }
        let mut hasher = Sha1::new_with_prefix(format!("{} {}\0", kind.name(), self.len));
        hasher.update(&self.prefix);
        (0..self.times).for_each(|_| hasher.update(&self.chunk));
        hasher.finalize().into()
    }

    fn zlib(&self) -> Vec<u8> {
        [&[0x78, 0x01][..], &self.deflated, &self.adler.to_be_bytes()].concat()
    }
}

/// How an entry of a pack begins that inflates to `len` bytes.
fn entry_head(code: u8, len: u64) -> Vec<u8> {
    let mut head = vec![code << 4 | (len & 15) as u8];
    let mut rest = len >> 4;
    while rest > 0 {
        *head.last_mut().unwrap() |= 0x80;
        head.push((rest & 0x7f) as u8);
        rest >>= 7;
    }
    head
}

/// Puts entries, each with the id that its object has, into a pack of their own.
fn put_pack(crafted: &Crafted, entries: &[([u8; 20], Vec<u8>)]) {
    let mut pack = b"PACK\0\0\0\x02".to_vec();
    pack.extend((entries.len() as u32).to_be_bytes());
    let mut rows = Vec::new();
    for (id, entry) in entries {
        rows.push((*id, crc32fast::hash(entry), pack.len() as u32));
        pack.extend(entry);
    }
    rows.sort_unstable();
    let checksum = Sha1::digest(&pack);
    pack.extend(checksum);
    let mut index = b"\xfftOc\0\0\0\x02".to_vec();
    for first in 0..=255u8 {
        let up_to = rows.iter().filter(|(id, ..)| id[0] <= first).count();
        index.extend((up_to as u32).to_be_bytes());
    }
    rows.iter().for_each(|(id, ..)| index.extend(id));
    rows.iter().for_each(|(_, crc, _)| index.extend(crc.to_be_bytes()));
    rows.iter().for_each(|(.., offset)| index.extend(offset.to_be_bytes()));
    index.extend(checksum);
    let end = Sha1::digest(&index);
    index.extend(end);
    let name: String = checksum.iter().map(|byte| format!("{byte:02x}")).collect();
    for (extension, bytes) in [("pack", &pack), ("idx", &index)] {
        fs::write(crafted.lab.path(&format!("repo/objects/pack/pack-{name}.{extension}")), bytes).unwrap();
    }
}

/// Puts an object into a pack of its own, and lets it stand at a path of the tree.
fn put_raw(crafted: &Crafted, kind: ObjectKind, bomb: &Bomb, path: &str) {
    let id = bomb.id(kind);
    let code = if kind == ObjectKind::Tree { 2u8 } else { 3 };
    put_pack(crafted, &[(id, [entry_head(code, bomb.len), bomb.zlib()].concat())]);
    let mode = if kind == ObjectKind::Tree { Mode::Directory } else { Mode::File };
    set_nodes(crafted, &[(path, Node { mode, id: ObjectId::from_bytes(id) })], &[]);
}

/// Commits trees, and what shall stand at some paths.
fn set_nodes(crafted: &Crafted, nodes: &[(&str, Node)], trees: &[Vec<u8>]) {
    commit(&crafted.lab.path("repo"), |transaction, edit| {
        for tree in trees {
            transaction.layer().unwrap().write(ObjectKind::Tree, tree).unwrap();
        }
        for (path, node) in nodes {
            edit.set_node(path.as_bytes(), *node).unwrap();
        }
    });
}

#[test]
fn one_page_listed_without_end() {
    survive(&listed(200_000));
}

#[test]
fn pages_of_paths_that_are_as_long_as_they_may_be() {
    let crafted = Crafted::new();
    let above = format!("0/{}", "x/".repeat(8000));
    let entry = |name| like(&crafted.entries[0], &format!("{above}{name:04}"), Kind::Fifo);
    let first = page::encode(&(0..4096).map(entry).collect::<Vec<_>>()).unwrap();
    let digit = first.windows(6).position(|window| window == b"0/x/x/").unwrap();
    let page = |number| {
        let mut page = first.clone();
        page[digit] = number;
        gzip(&page).unwrap()
    };
    let pages: Vec<_> = (b'0'..b'0' + 10).map(page).collect();
    crafted.write(&pages, |places| places.iter().map(|place| PageRef { entries: 4096, ..*place }).collect());
    survive(&crafted);
}

#[test]
fn a_page_of_empty_attributes() {
    let crafted = Crafted::new();
    let mut head = page::encode(&crafted.entries[..1]).unwrap();
    // One key more than the map has.
    head[0] += 1;
    head.extend(b"\x66xattrs\x81\x82\x00\x9a");
    let pairs: u32 = 480 << 20 >> 2;
    head.extend(pairs.to_be_bytes());
    let chunk = b"\x82\x40\x40".repeat(1 << 18);
    let bomb = Bomb::new(&head, &chunk, (pairs >> 18) as usize);
    crafted.write(&[bomb.gzip()], |places| places);
    survive(&crafted);
}

#[test]
fn a_record_of_empty_tags() {
    // More than any record has, and fewer.
    for millions in [900u32, 100] {
        let crafted = Crafted::new();
        let record = SnapshotRecord { tags: vec!["t".into(); 3], ..crafted.record.clone() };
        let bytes = cbor::to_vec(&record).unwrap();
        let at = bytes.windows(5).position(|window| window == b"\x64tags").unwrap() + 5;
        let mut head = bytes[..at].to_vec();
        head.push(0x9a);
        head.extend((millions << 20).to_be_bytes());
        let bomb = Bomb::new(&head, &[0x60; 1 << 20], millions as usize);
        put_raw(&crafted, ObjectKind::Blob, &bomb, &crafted.path);
        survive(&crafted);
    }
}

#[test]
fn one_record_under_many_names() {
    let crafted = Crafted::new();
    let volumes = vec![format!("archives/{}", "x".repeat(1 << 10)); 1 << 10];
    let record = cbor::to_vec(&SnapshotRecord { volumes, ..crafted.record.clone() }).unwrap();
    commit(&crafted.lab.path("repo"), |transaction, edit| {
        let id = transaction.blob(&record).unwrap();
        for number in 0..3000 {
            let path = crafted
                .path
                .replace(&crafted.path[crafted.path.len() - 21..], &format!("{number:016x}.cbor"));
            edit.set(path.as_bytes(), id).unwrap();
        }
    });
    survive(&crafted);
}

#[test]
fn a_configuration_of_zeros() {
    let crafted = Crafted::new();
    put_raw(&crafted, ObjectKind::Blob, &Bomb::new(&[], &[0; 1 << 20], 3 << 10), "config.cbor");
    survive(&crafted);
}

#[test]
fn an_index_and_a_tree_larger_than_memory() {
    let crafted = Crafted::new();
    let index = crafted.path.replace("snapshots/", "archives/").replace(".cbor", "-0.idx");
    let bomb = Bomb::new(&[], &[0; 1 << 20], 3 << 10);
    put_raw(&crafted, ObjectKind::Blob, &bomb, &index);
    survive(&crafted);
    let crafted = Crafted::new();
    put_raw(&crafted, ObjectKind::Tree, &bomb, "signatures");
    survive(&crafted);
}

#[test]
fn pages_and_volumes_in_blobs_of_zeros() {
    let crafted = Crafted::new();
    crafted.write_entries(std::slice::from_ref(&crafted.entries), |_| {});
    let bomb = Bomb::new(&[], &[0; 1 << 20], 1000);
    let index = crafted.path.replace("snapshots/", "index/").replace(".cbor", "-99.cbor.gz");
    put_raw(&crafted, ObjectKind::Blob, &bomb, &index);
    survive(&crafted);
    let crafted = Crafted::new();
    let volume = crafted.path.replace("snapshots/", "archives/").replace(".cbor", "-0.tar.gz");
    put_raw(&crafted, ObjectKind::Blob, &bomb, &volume);
    survive(&crafted);
}

#[test]
fn objects_that_git_made_small_are_read_in_proportion() {
    let lab = Lab::new();
    for (mib, is_read) in [(8usize, true), (96, false)] {
        let mut ids = Vec::new();
        for end in ["", "x"] {
            let file = lab.path("large");
            fs::write(&file, [vec![0; mib << 20], end.into()].concat()).unwrap();
            ids.push(
                lab.git(&["hash-object", "-w", file.to_str().unwrap()]).trim().parse::<ObjectId>().unwrap(),
            );
        }
        let is_too_large = |error: &GitError| matches!(error, GitError::Layer(LayerError::TooLarge { .. }));
        let read = |git: &Git| ids.iter().map(|id| git.read_blob(id).map(drop)).collect::<Vec<_>>();
        let expected = |read: Vec<Result<(), GitError>>| {
            read.iter().all(|read| match read {
                Ok(()) => is_read,
                Err(error) => !is_read && is_too_large(error),
            })
        };
        // Loose, and then one as a delta of the other.
        assert!(expected(read(&Git::open(&lab.path("repo")).unwrap())), "{mib} MiB, loose");
        let list = lab.path("list");
        fs::write(&list, ids.iter().map(|id| format!("{id}\n")).collect::<String>()).unwrap();
        let pack = lab.path("repo/objects/pack/pack");
        let mut git = Command::new("git");
        git.arg("-C").arg(lab.path("repo")).args(["pack-objects", "-q", "--window=10"]).arg(pack);
        let packed = git.stdin(fs::File::open(&list).unwrap()).output().unwrap();
        assert!(packed.status.success());
        lab.git(&["prune-packed", "-q"]);
        assert!(expected(read(&Git::open(&lab.path("repo")).unwrap())), "{mib} MiB, packed");
    }
}

#[test]
fn a_small_object_that_git_cut_out_of_one_larger_than_memory() {
    const CHUNK: u64 = 1 << 16;
    let crafted = Crafted::new();
    let size = |mut size: u64| {
        let mut bytes = Vec::new();
        while size > 0x7f {
            bytes.push(size as u8 | 0x80);
            size >>= 7;
        }
        bytes.push(size as u8);
        bytes
    };
    // An entry of a delta of another object.
    let delta = |base: [u8; 20], from: u64, to: u64, steps: &[u8]| {
        let bytes = [&size(from)[..], &size(to), steps].concat();
        let bomb = Bomb::new(&bytes, &[], 0);
        [&entry_head(7, bomb.len)[..], &base, &bomb.zlib()].concat()
    };
    let chunk = Bomb::new(&[0; CHUNK as usize], &[], 0);
    let first = chunk.id(ObjectKind::Blob);
    let small = *treering::layers::object_id(ObjectKind::Blob, &[0]).as_bytes();
    let huge = [0x77; 20];
    // Each step of one byte copies all of the chunk.
    let steps = vec![0x80; 48 << 10];
    let len = steps.len() as u64 * CHUNK;
    put_pack(
        &crafted,
        &[
            (first, [entry_head(3, CHUNK), chunk.zlib()].concat()),
            (huge, delta(first, CHUNK, len, &steps)),
            (small, delta(huge, len, 1, &[0x90, 1])),
        ],
    );
    let node = Node { mode: Mode::File, id: ObjectId::from_bytes(small) };
    set_nodes(&crafted, &[(&crafted.path, node)], &[]);
    survive(&crafted);
    let read = Git::open(&crafted.lab.path("repo")).unwrap().read_blob(&node.id);
    assert!(
        matches!(read, Err(GitError::Layer(LayerError::TooLarge { size, .. })) if size == len),
        "{read:?}"
    );
}

#[test]
fn a_repository_that_is_not_made_of_files() {
    if !programs::are_here(&["python3", "mkfifo"]) {
        return;
    }
    let crafted = Crafted::new();
    let at = |name: &str| crafted.lab.path(&format!("evil/{name}"));
    let pipe = |name: &str| {
        drop(fs::remove_file(at(name)));
        lab::run(Command::new("mkfifo").arg(at(name)));
    };
    let endless = |name: &str| {
        drop(fs::remove_file(at(name)));
        symlink("/dev/zero", at(name)).unwrap();
    };
    let hole = |name: &str| {
        let file = fs::File::options().append(true).create(true).open(at(name)).unwrap();
        file.set_len(16 << 30).unwrap();
    };
    let circle = |name: &str| {
        (0..10).for_each(|link| symlink(".", at(name).with_extension(link.to_string())).unwrap())
    };
    type Change<'a> = &'a dyn Fn(&str);
    let changes: [(Change<'_>, &[&str]); 4] = [
        (&pipe, &["config", "refs/heads/main", "objects/pack/pack-0.idx", "treering/own", "FETCH_HEAD"]),
        (&endless, &["treering/own", "treering/newest", "refs/heads/main", "packed-refs"]),
        (&hole, &["config", "HEAD", "packed-refs", "treering/own", "objects/info/alternates"]),
        (&circle, &["refs/heads/x"]),
    ];
    let directory = crafted.lab.path("");
    for (change, names) in changes {
        for name in names {
            let copied = Command::new("cp").arg("-a").arg(crafted.lab.path("repo")).arg(at("")).status();
            assert!(copied.unwrap().success());
            change(name);
            for command in [
                &["-r", "evil", "check"][..],
                &["-r", "evil", "backup", "source"],
                &["clone", "evil", "copy"],
            ] {
                assert_ne!(run(&directory, BUDGET, 1 << 30, command), 0, "{command:?} takes {name}");
            }
            fs::remove_dir_all(at("")).unwrap();
        }
    }
}

/// Adds a volume of `segments`, and lets the file `a` of the snapshot be the last of them.
fn put_volume(crafted: &Crafted, segments: Vec<Stored>) {
    put_volume_of(crafted, segments, 1);
}

/// Adds a volume of `segments`, and lets the file `a` of the snapshot be the last `count` of them.
fn put_volume_of(crafted: &Crafted, segments: Vec<Stored>, count: usize) {
    let last = segments[segments.len() - count..].iter();
    let last: Vec<_> = last.map(|stored| SegmentRef { digest: stored.digest, len: stored.len }).collect();
    let mut volumes: Vec<Volume> = Vec::new();
    let sink = gather(|volume| -> Result<(), treering::archive::ArchiveError> {
        volumes.push(volume);
        Ok(())
    });
    let options = VolumeOptions { volume_len: u64::MAX, max_entries: usize::MAX, ..VolumeOptions::default() };
    let mut writer = VolumeWriter::new(&options, sink).unwrap();
    segments.into_iter().for_each(|segment| writer.append(segment).unwrap());
    writer.finish().unwrap();
    let stem = crafted.path.replace("snapshots/", "archives/").replace(".cbor", "-77");
    let index = volumes[0].index.encode().unwrap();
    crafted.commit(&[(&format!("{stem}.tar.gz"), &volumes[0].bytes), (&format!("{stem}.idx"), &index)]);
    let mut entries = crafted.entries.clone();
    let file = entries.iter_mut().find(|entry| entry.path.as_bytes() == b"a").unwrap();
    let size = last.iter().map(|segment| u64::from(segment.len)).sum();
    file.kind = Kind::File(Content { size, segments: last.into(), ..Content::default() });
    crafted.write_entries(&[entries], |_| {});
}

fn delta(new: &[u8], bases: &[&[u8]], depth: u8) -> Stored {
    let bytes = from_content(new, &bases.concat()).bytes;
    let link = DeltaLink {
        bases: bases.iter().map(|base| Digest::of(base)).collect(),
        depth,
        chain_bytes: bytes.len() as u32 * u32::from(depth),
    };
    Stored { digest: Digest::of(new), len: new.len() as u32, payload: Payload::Delta { bytes, link } }
}

/// Three segments at each depth, the deltas of the three below.
fn three_bases(depths: usize) -> Crafted {
    let crafted = Crafted::new();
    let mut segments: Vec<_> =
        (0..3).map(|number| based(0, number)).map(|bytes| Stored::whole(Digest::of(&bytes), bytes)).collect();
    for depth in 1..=depths as u8 {
        let bases: Vec<_> = (0..3).map(|number| based(depth - 1, number)).collect();
        let bases: Vec<&[u8]> = bases.iter().map(Vec::as_slice).collect();
        segments.extend((0..3).map(|number| delta(&based(depth, number), &bases, depth)));
    }
    put_volume(&crafted, segments);
    crafted
}

/// One of the three.
fn based(depth: u8, number: u8) -> Vec<u8> {
    [[depth, number].repeat(50), vec![7; 1000]].concat()
}

#[test]
fn three_bases_at_each_of_sixteen_depths() {
    let crafted = three_bases(16);
    survive(&crafted);
    // It is sound, and read without going through each way down.
    let out = crafted.lab.path("out/a");
    assert_eq!(fs::read(out).unwrap(), based(16, 2));
}

#[test]
fn each_base_is_read_once_for_what_hangs_on_it() {
    let [one, two] = works_on(three_bases, 8);
    assert!(one.segments >= 3 * 8 && two.segments <= 2 * one.segments, "{one:?}, {two:?}");
}

/// Content as long as any may be.
fn large(depth: u8) -> Vec<u8> {
    let mut bytes = vec![0; 16 << 20];
    bytes[..1000].fill(depth);
    bytes
}

/// Deltas of two large bases and of each other.
fn large_bases(depths: usize) -> Crafted {
    let crafted = Crafted::new();
    let others = [vec![0; 16 << 20], vec![0xff; 16 << 20]];
    let whole = |bytes: &Vec<u8>| Stored::whole(Digest::of(bytes), bytes.clone());
    let mut segments: Vec<_> = others.iter().chain([&large(1)]).map(whole).collect();
    for depth in 1..=depths as u8 {
        // Whoever reads the last one first holds the others meanwhile.
        segments.push(delta(&large(depth + 1), &[&others[0], &others[1], &large(depth)], depth));
    }
    put_volume(&crafted, segments);
    crafted
}

#[test]
fn deltas_on_bases_that_are_as_large_as_they_may_be() {
    let crafted = large_bases(16);
    survive(&crafted);
    assert_eq!(fs::read(crafted.lab.path("out/a")).unwrap(), large(17));
}

#[test]
fn large_bases_are_read_in_proportion() {
    let [one, two] = works_on(large_bases, 4);
    assert!(one.segments >= 4 && two.segments <= 2 * one.segments, "{one:?}, {two:?}");
    assert!(two.bytes <= 2 * one.bytes, "{one:?}, {two:?}");
}

#[test]
fn as_many_holes_as_segments() {
    const COUNT: u64 = 60_000;
    let crafted = Crafted::new();
    let byte = b"x".to_vec();
    put_volume(&crafted, vec![Stored::whole(Digest::of(&byte), byte.clone())]);
    let mut entries = crafted.entries.clone();
    let file = entries.iter_mut().find(|entry| entry.path.as_bytes() == b"a").unwrap();
    let segment = SegmentRef { digest: Digest::of(&byte), len: 1 };
    file.kind = Kind::File(Content {
        size: 2 * COUNT,
        segments: vec![segment; COUNT as usize].into(),
        holes: Some(Box::new((0..COUNT).map(|at| 2 * at..2 * at + 1).collect())),
        link: None,
    });
    crafted.write_entries(&[entries], |_| {});
    survive(&crafted);
    let restored = fs::read(crafted.lab.path("out/a")).unwrap();
    assert_eq!(restored, b"\0x".repeat(COUNT as usize));
}

/// A chain of `depth` trees, each of which has the next one twice, and its top.
fn tree_chain(crafted: &Crafted, depth: usize) -> (Node, Vec<Vec<u8>>) {
    let tree = |id: &[u8; 20]| [b"40000 a\0", &id[..], b"40000 b\0", &id[..]].concat();
    let hash = |tree: &[u8]| *treering::layers::object_id(ObjectKind::Tree, tree).as_bytes();
    let leaf = crafted.lab.git(&["rev-parse", "HEAD:config.cbor"]).trim().parse::<ObjectId>().unwrap();
    let mut trees = vec![[b"100644 f\0", &leaf.as_bytes()[..]].concat()];
    for _ in 0..depth {
        trees.push(tree(&hash(trees.last().unwrap())));
    }
    (Node { mode: Mode::Directory, id: ObjectId::from_bytes(hash(trees.last().unwrap())) }, trees)
}

#[test]
fn each_tree_is_read_once_however_many_paths_lead_to_it() {
    let attack = |depth| {
        let crafted = Crafted::new();
        let (top, trees) = tree_chain(&crafted, depth);
        set_nodes(&crafted, &[("unknown", top), ("keys", top), ("index/0000", top)], &trees);
        crafted
    };
    let [one, two] = works_on(attack, 20);
    assert!(one.trees >= 20 && two.trees <= 2 * one.trees, "{one:?}, {two:?}");
}

#[test]
fn a_tree_with_more_paths_than_anybody_can_walk() {
    let crafted = Crafted::new();
    let (top, trees) = tree_chain(&crafted, 40);
    set_nodes(&crafted, &[("unknown", top), ("keys", top), ("index/0000", top)], &trees);
    // What was seen of a remote has it too.
    crafted.lab.git(&["update-ref", "refs/treering/seen/far", "refs/heads/main"]);
    survive(&crafted);
    // An honest repository beside an unknown directory is pruned.
    let crafted = Crafted::new();
    set_nodes(&crafted, &[("unknown", top)], &trees);
    crafted.lab.git(&["update-ref", "refs/treering/seen/far", "refs/heads/main"]);
    survive(&crafted);
    assert_eq!(run(&crafted.lab.path(""), BUDGET, 1 << 30, &["-r", "repo", "prune", "--max-unused", "0"]), 0);
    crafted.lab.git(&["rev-parse", "HEAD:unknown/a/b/a/b"]);
}

#[test]
fn keys_and_blobs_in_trees_that_contain_each_other() {
    if !programs::are_here(&["python3", "git"]) {
        return;
    }
    let lab = Lab::new();
    let directory = lab.path("");
    let git = |words: &[&str]| {
        let mut command = Command::new("git");
        command.current_dir(&directory).args(["-c", "user.name=a", "-c", "user.email=b"]).args(words);
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    git(&["init", "-q", "--bare", "-b", "main", "bomb"]);
    let put = |kind: &str, bytes: &[u8]| {
        fs::write(lab.path("object"), bytes).unwrap();
        git(&["-C", "bomb", "hash-object", "-w", "-t", kind, "../object"])
    };
    let leaf: ObjectId = put("blob", b"x").parse().unwrap();
    // Deep for those who list, and as deep as what is merged may be.
    for (branch, levels, names) in [("main", 40, 2), ("wide", 13, 8)] {
        let (mut id, mut mode) = (leaf, "100644");
        for _ in 0..levels {
            let names = (0..names).map(|number| format!("{number:0200}"));
            let tree: Vec<_> = names
                .flat_map(|name| [format!("{mode} {name}\0").as_bytes(), &id.as_bytes()[..]].concat())
                .collect();
            (id, mode) = (put("tree", &tree).parse().unwrap(), "40000");
        }
        let commit = git(&["-C", "bomb", "commit-tree", "-m", "x", &id.to_string()]);
        git(&["-C", "bomb", "update-ref", &format!("refs/heads/{branch}"), &commit]);
    }
    let refused =
        |budget: u64, words: &[&str]| assert_ne!(run(&directory, budget, 1 << 30, words), 0, "{words:?}");
    refused(BUDGET, &["kv", "list", "bomb"]);
    refused(BUDGET, &["--json", "kv", "list", "bomb", &format!("{:0200}", 1)]);
    // What differs is kept, up to 512 MiB of paths.
    let merging = BUDGET + (512 << 20);
    for branch in ["main", "wide"] {
        git(&["-C", "bomb", "symbolic-ref", "HEAD", &format!("refs/heads/{branch}")]);
        let name = format!("blobs-{branch}");
        for words in [&["blob", "init"][..], &["remote", "add", "origin", "bomb"], &["blob", "add", "object"]]
        {
            let words = [&["-r", &name], words].concat();
            assert_eq!(run(&directory, BUDGET, 1 << 30, &words), 0, "{words:?}");
        }
        git(&["-C", &name, "symbolic-ref", "HEAD", &format!("refs/heads/{branch}")]);
        git(&["-C", &name, "update-ref", &format!("refs/heads/{branch}"), "refs/heads/main"]);
        refused(merging, &["-r", &name, "blob", "pull"]);
        refused(merging, &["-r", &name, "blob", "push"]);
        // With a working tree that would go along.
        let clone = format!("clone-{branch}");
        git(&["init", "-q", "-b", branch, &clone]);
        git(&["-C", &clone, "remote", "add", "origin", "../bomb"]);
        refused(merging, &["-r", &clone, "blob", "pull"]);
    }
}

#[test]
fn an_archive_that_unpacks_without_end() {
    if !programs::are_here(&["python3"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["old", "new"] {
        fs::create_dir(at(name)).unwrap();
    }
    fs::write(at("new/file"), "content").unwrap();
    let scan = |name: &str| DirIndex::scan(at(name)).unwrap();
    DiffIndex::compute(&scan("old"), &scan("new")).to_file(at("changes.diff")).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_path(format!("created/{}", Digest::of(b"content"))).unwrap();
    header.set_mode(0o644);
    header.set_size(7);
    header.set_cksum();
    let block = [&b"content"[..], &[0; 505]].concat();
    let honest = [header.as_bytes().as_slice(), &block, &[0; 1024]].concat();
    let bomb = Bomb::new(&honest, &vec![0; 1 << 20], 16 << 10);
    fs::write(at("changes.tar.gz"), bomb.gzip()).unwrap();
    let words = ["dir", "apply", "old", "changes.diff", "changes.tar.gz"];
    // A file that grows beyond its limit ends the process by a signal.
    assert_ne!(run(dir.path(), BUDGET, 64 << 20, &words), 0);
    fs::write(at("changes.tar.gz"), Bomb::new(&honest, &[0; 512], 20).gzip()).unwrap();
    assert_eq!(run(dir.path(), BUDGET, 64 << 20, &words), 0);
    assert_eq!(fs::read(at("old/file")).unwrap(), b"content");
    // A difference that is nearly all hole.
    fs::File::options().append(true).open(at("changes.diff")).unwrap().set_len(16 << 30).unwrap();
    assert_ne!(run(dir.path(), BUDGET, 64 << 20, &words), 0);
}

#[test]
fn a_source_that_is_listed_without_end_is_looked_for_once() {
    let attack = |count: usize| {
        let mut crafted = Crafted::new();
        crafted.record.roots = vec![crafted.record.roots[0].clone(); count];
        crafted.write_entries(std::slice::from_ref(&crafted.entries), |_| {});
        crafted
    };
    let pages = [1, 1000, 2000].map(|count| {
        let crafted = attack(count);
        let repository = crafted.lab.open();
        let snapshot = repository.find(&Selector::Latest(0)).unwrap();
        assert_eq!(snapshot.record.roots.len(), count);
        let path = crafted.lab.source().join("nowhere");
        drop(lab::entries(&repository, &snapshot, Some(path.as_os_str().as_encoded_bytes())));
        repository.work().pages
    });
    assert!(pages[1] <= 2 * pages[0] && pages[2] == pages[1], "{pages:?}");
}

/// What the library reads to look at all there is in the repository of `crafted`, by every way that reads much. Each way is
/// taken by one thread, so that it reads the same each time.
fn work_on(crafted: &Crafted) -> Work {
    let repository = crafted.lab.open();
    let progress = Progress::new();
    let target = tempfile::tempdir().unwrap();
    // Whether they succeed is not looked at here.
    drop(repository.check(&CheckOptions { read_data: true, threads: 1 }, &progress));
    drop(repository.plan_prune(
        &PruneOptions { threads: 1, ..PruneOptions::new(Timestamp::now()) },
        &HashSet::new(),
        &progress,
    ));
    if let Ok(snapshot) = repository.find(&Selector::Latest(0)) {
        drop(lab::entries(&repository, &snapshot, None));
        drop(repository.compare_directory(
            &snapshot,
            &crafted.lab.source(),
            &CompareOptions::default(),
            &progress,
        ));
        let options = RestoreOptions { threads: 1, ..RestoreOptions::new(target.path().join("out")) };
        drop(repository.restore(&snapshot, &options, &progress));
    }
    repository.work()
}

/// What is read of an attack, and of the same one twice as large.
fn works_on(attack: impl Fn(usize) -> Crafted, size: usize) -> [Work; 2] {
    [size, 2 * size].map(|size| work_on(&attack(size)))
}

/// A snapshot of one page that is listed `times` times.
fn listed(times: usize) -> Crafted {
    let crafted = Crafted::new();
    crafted.write_entries(std::slice::from_ref(&crafted.entries), |places| *places = vec![places[0]; times]);
    crafted
}

#[test]
fn a_page_is_read_no_more_often_for_being_listed_more_often() {
    let [one, two] = works_on(listed, 1000);
    assert_eq!(one.pages, two.pages);
    assert!(two.pages <= work_on(&listed(1)).pages, "{two:?}");
}

/// Segments that hang on one that has many places and is in none of them.
fn nowhere(count: usize) -> Crafted {
    let crafted = Crafted::new();
    let base = b"nowhere".repeat(100);
    let false_place = |number: usize| Stored::whole(Digest::of(&base), format!("{number:0700}").into_bytes());
    let on_it = |number: usize| delta(&[&base[..], &number.to_le_bytes()].concat(), &[&base], 1);
    let segments = (0..count).map(false_place).chain((0..count).map(on_it)).collect();
    put_volume_of(&crafted, segments, count);
    crafted
}

#[test]
fn a_place_that_is_damaged_is_tried_once_for_all_that_hangs_on_it() {
    let [one, two] = works_on(nowhere, 40);
    assert!(one.segments >= 40 && two.segments <= 2 * one.segments, "{one:?}, {two:?}");
}

#[test]
fn what_is_too_large_is_not_read() {
    let attack = |path: fn(&Crafted) -> String| {
        move |mib| {
            let crafted = Crafted::new();
            put_raw(&crafted, ObjectKind::Blob, &Bomb::new(&[], &[0; 1 << 20], mib), &path(&crafted));
            crafted
        }
    };
    let index =
        |crafted: &Crafted| crafted.path.replace("snapshots/", "archives/").replace(".cbor", "-0.idx");
    let index = works_on(attack(index), 100);
    let record = works_on(attack(|crafted| crafted.path.clone()), 100);
    for [one, two] in [index, record] {
        assert!(two.bytes < 1 << 20 && two.bytes <= one.bytes + 1024, "{one:?}, {two:?}");
    }
}

#[test]
fn no_more_of_an_archive_is_unpacked_than_is_wanted() {
    struct Read<'a>(&'a [u8], &'a Counter);
    impl std::io::Read for Read<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let read = self.0.read(buffer)?;
            self.1.add(read as u64);
            Ok(read)
        }
    }
    let bomb = Bomb::new(&[], &[0; 1 << 20], 4 << 10).gzip();
    let read = Counter::default();
    let mut unpacked = Vec::new();
    let limits = UnpackLimits { stream_len: 4 << 20, entries: 10 };
    assert!(unpack(Read(&bomb, &read), &mut unpacked, limits).is_err());
    assert!(unpacked.len() <= 4 << 20 && read.get() < 1 << 20, "{} of {}", read.get(), bomb.len());
}

#[test]
fn an_index_under_many_names_is_read_no_more_often_than_memory_allows() {
    let attack = |count: usize| {
        let crafted = Crafted::new();
        let stem = |number: usize| {
            crafted.path.replace("snapshots/", "archives/").replace(".cbor", &format!("-{number}"))
        };
        let bomb = Bomb::new(&[], &[0; 1 << 20], 4);
        let index = Node { mode: Mode::File, id: ObjectId::from_bytes(bomb.id(ObjectKind::Blob)) };
        put_raw(&crafted, ObjectKind::Blob, &bomb, &format!("{}.idx", stem(1000)));
        let paths: Vec<_> = (0..count)
            .flat_map(|number| ["idx", "tar.gz"].map(|end| format!("{}.{end}", stem(number + 1))))
            .collect();
        let nodes: Vec<_> = paths.iter().map(|path| (path.as_str(), index)).collect();
        set_nodes(&crafted, &nodes, &[]);
        crafted
    };
    let [one, two] = works_on(attack, 40);
    assert!(two.bytes <= one.bytes + (1 << 20), "{one:?}, {two:?}");
}

#[test]
fn a_chain_that_is_longer_than_any_is_a_fault_before_it_is_read() {
    for (deltas, is_sound) in [(16, true), (17, false)] {
        let crafted = Crafted::new();
        let whole = based(0, 0);
        let mut segments = vec![Stored::whole(Digest::of(&whole), whole)];
        // Each says that it hangs on a whole segment.
        segments.extend((1..=deltas).map(|depth| delta(&based(depth, 0), &[&based(depth - 1, 0)], 1)));
        put_volume(&crafted, segments);
        let report = crafted.lab.open().check(&CheckOptions::default(), &Progress::new()).unwrap();
        assert_eq!(report.faults.is_empty(), is_sound, "{deltas}: {:?}", report.faults);
    }
}

#[test]
fn of_a_chain_that_is_too_long_the_segment_is_named_that_makes_it_so() {
    let crafted = Crafted::new();
    let whole = based(0, 0);
    let mut segments = vec![Stored::whole(Digest::of(&whole), whole)];
    segments.extend((1..=17).map(|depth| delta(&based(depth, 0), &[&based(depth - 1, 0)], depth)));
    // All of them are needed themselves.
    put_volume_of(&crafted, segments, 18);
    let report = crafted.lab.open().check(&CheckOptions::default(), &Progress::new()).unwrap();
    let [fault] = &report.faults[..] else { panic!("{:?}", report.faults) };
    assert!(fault.what.contains(&Digest::of(&based(17, 0)).to_string()), "{fault}");
    assert!(fault.affects.iter().any(|file| file.ends_with("/a")), "{fault}");
}

/// What stands for ssh(1), and answers like a remote that has `config.cbor` and, as the delta of a delta, a byte that is cut
/// out of 3 GiB.
const REMOTE: &str = r#"#!/usr/bin/env python3
import hashlib, struct, sys, zlib
config, out, given = open(sys.path[0] + "/config.cbor", "rb").read(), sys.stdout.buffer, sys.stdin.buffer
name = lambda kind, data: hashlib.sha1(b"%s %d\0" % (kind, len(data)) + data).digest()
def number(n, low, first=0):
    first, n = [first | n & (1 << low) - 1], n >> low
    while n:
        first[-1] |= 0x80
        first.append(n & 0x7f)
        n >>= 7
    return bytes(first)
entry = lambda code, data, base=b"": number(len(data), 4, code << 4) + base + zlib.compress(data)
def before(n):
    found = [n & 0x7f]
    while n > 0x7f:
        n = (n >> 7) - 1
        found.insert(0, 0x80 | n & 0x7f)
    return bytes(found)
tree = b"".join(b"100644 %s\0" % path + name(b"blob", data) for path, data in [(b"config.cbor", config), (b"zero", b"\0")])
who = b" a <a> 0 +0000\n"
commit = b"tree %s\nauthor%scommitter%s\nx\n" % (name(b"tree", tree).hex().encode(), who, who)
chunk, copies = 1 << 16, 3 << 14
pack = b"PACK" + struct.pack(">II", 2, 6) + entry(1, commit) + entry(2, tree) + entry(3, config)
base = entry(3, bytes(chunk))
huge = entry(6, number(chunk, 7) + number(copies * chunk, 7) + b"\x80" * copies, before(len(base)))
pack += base + huge + entry(6, number(copies * chunk, 7) + number(1, 7) + b"\x90\x01", before(len(huge)))
pack += hashlib.sha1(pack).digest()
def say(line):
    out.write(b"%04x" % (len(line) + 4) + line)
tip = name(b"commit", commit).hex().encode()
say(tip + b" HEAD\0ofs-delta side-band-64k symref=HEAD:refs/heads/main\n")
say(tip + b" refs/heads/main\n")
out.write(b"0000")
out.flush()
while True:
    length = given.read(4)
    if not length:
        sys.exit()
    if given.read(max(int(length, 16) - 4, 0)).startswith(b"done"):
        break
say(b"NAK\n")
for at in range(0, len(pack), 60000):
    say(b"\1" + pack[at:at + 60000])
out.write(b"0000")
out.flush()
"#;

#[test]
fn a_remote_whose_objects_are_larger_than_memory_is_refused() {
    if !programs::are_here(&["python3", "git"]) {
        return;
    }
    let lab = Lab::new();
    let bin = lab.path("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("config.cbor"), lab.git_bytes(&["show", "HEAD:config.cbor"])).unwrap();
    fs::write(bin.join("ssh"), REMOTE).unwrap();
    fs::set_permissions(bin.join("ssh"), fs::Permissions::from_mode(0o755)).unwrap();
    let directory = lab.path("");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let run = |words: &[&str]| run_in(&directory, &[("PATH", &path)], BUDGET, 1 << 30, words);
    assert_ne!(run(&["clone", "ssh://me@host/x", "copy"]), 0);
    assert_eq!(run(&["-r", "repo", "remote", "add", "far", "ssh://me@host/x"]), 0);
    assert_ne!(run(&["-r", "repo", "pull", "far"]), 0);
}
