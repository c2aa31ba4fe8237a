//! Small repositories that would take more memory or time than anybody has: every command ends, by itself and within a
//! budget of memory. What it says is not looked at here.
//!
//! The budget: 256 MiB beside the caches that `docs/design.md` states, and 64 bytes for each byte of the packs. Time is
//! bounded by a net that is much wider than any machine is slow.

use std::fs;
use std::path::Path;
use std::process::Command;

use sha1::{Digest as _, Sha1};
use treering::archive::{DeltaLink, Payload, Stored, Volume, VolumeOptions, VolumeWriter, gather, gzip};
use treering::cbor;
use treering::delta::from_content;
use treering::diff::{Content, DiffIndex, DirIndex, Kind, SegmentRef, page};
use treering::digest::Digest;
use treering::gitkv::{Git, GitError, Mode, Node};
use treering::layers::{LayerError, ObjectId, ObjectKind};
use treering::repository::{PageRef, SnapshotRecord};

use crate::commits::commit;
use crate::hostile::{Crafted, like};
use crate::lab::Lab;
use crate::programs;

/// Seconds after which a command counts as one that does not end.
const NET: &str = "240";

/// What a command may take of the memory, in bytes, whatever the repository has: the budget, and the caches.
const BUDGET: u64 = (256 + 192) << 20;

/// Runs a program under a limit of address space; prints its status, its greatest resident size and its errors.
const RUNNER: &str = r#"
import json, resource, signal, subprocess, sys
net, space, size = (int(word) for word in sys.argv[1:4])
def limit():
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
child = subprocess.Popen(sys.argv[4:], preexec_fn=limit, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
try:
    said = child.communicate(timeout=net)[1]
except subprocess.TimeoutExpired:
    child.kill()
    said = child.communicate()[1] + b"\nit does not end"
resident = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([child.returncode, resident, said[-2000:].decode(errors="replace")]))
"#;

/// Runs treering, which must end by itself and within `budget`, and returns its status.
fn run(directory: &Path, budget: u64, file_size: u64, words: &[&str]) -> i64 {
    let mut command = Command::new("python3");
    // Threads reserve address space for their stacks and arenas, which is no memory.
    command.args(["-c", RUNNER, NET, &(8u64 << 30).to_string(), &file_size.to_string()]);
    command.arg(env!("CARGO_BIN_EXE_treering")).args(words).current_dir(directory);
    command.env("HOME", directory).env("XDG_CACHE_HOME", directory.join("cache")).env("TMPDIR", directory);
    command.env_remove("TREERING_REPOSITORY");
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

/// Puts an object into a pack of its own, and lets it stand at a path of the tree.
fn put_raw(crafted: &Crafted, kind: ObjectKind, bomb: &Bomb, path: &str) {
    let id = bomb.id(kind);
    let code = if kind == ObjectKind::Tree { 2u8 } else { 3 };
    let mut entry = vec![code << 4 | (bomb.len & 15) as u8];
    let mut rest = bomb.len >> 4;
    while rest > 0 {
        *entry.last_mut().unwrap() |= 0x80;
        entry.push((rest & 0x7f) as u8);
        rest >>= 7;
    }
    entry.extend(bomb.zlib());
    let mut pack = b"PACK\0\0\0\x02\0\0\0\x01".to_vec();
    pack.extend(&entry);
    let checksum = Sha1::digest(&pack);
    pack.extend(checksum);
    let mut index = b"\xfftOc\0\0\0\x02".to_vec();
    (0..=255u8).for_each(|first| index.extend(u32::from(first >= id[0]).to_be_bytes()));
    index.extend(id);
    index.extend(crc32fast::hash(&entry).to_be_bytes());
    index.extend(12u32.to_be_bytes());
    index.extend(checksum);
    let end = Sha1::digest(&index);
    index.extend(end);
    let name: String = checksum.iter().map(|byte| format!("{byte:02x}")).collect();
    for (extension, bytes) in [("pack", &pack), ("idx", &index)] {
        fs::write(crafted.lab.path(&format!("repo/objects/pack/pack-{name}.{extension}")), bytes).unwrap();
    }
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
    let crafted = Crafted::new();
    crafted
        .write_entries(std::slice::from_ref(&crafted.entries), |places| *places = vec![places[0]; 200_000]);
    survive(&crafted);
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

/// Adds a volume of `segments`, and lets the file `a` of the snapshot be the last of them.
fn put_volume(crafted: &Crafted, segments: Vec<Stored>) {
    let last = SegmentRef { digest: segments.last().unwrap().digest, len: segments.last().unwrap().len };
    let mut volumes: Vec<Volume> = Vec::new();
    let sink = gather(|volume| -> Result<(), treering::archive::ArchiveError> {
        volumes.push(volume);
        Ok(())
    });
    let options = VolumeOptions { volume_len: u64::MAX, ..VolumeOptions::default() };
    let mut writer = VolumeWriter::new(&options, sink).unwrap();
    segments.into_iter().for_each(|segment| writer.append(segment).unwrap());
    writer.finish().unwrap();
    let stem = crafted.path.replace("snapshots/", "archives/").replace(".cbor", "-77");
    let index = volumes[0].index.encode().unwrap();
    crafted.commit(&[(&format!("{stem}.tar.gz"), &volumes[0].bytes), (&format!("{stem}.idx"), &index)]);
    let mut entries = crafted.entries.clone();
    let file = entries.iter_mut().find(|entry| entry.path.as_bytes() == b"a").unwrap();
    let size = last.len.into();
    file.kind = Kind::File(Content { size, segments: vec![last].into(), ..Content::default() });
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

#[test]
fn three_bases_at_each_of_sixteen_depths() {
    let crafted = Crafted::new();
    let content = |depth: u8, number: u8| [[depth, number].repeat(50), vec![7; 1000]].concat();
    let whole = |number| content(0, number);
    let mut segments: Vec<_> =
        (0..3).map(|number| Stored::whole(Digest::of(&whole(number)), whole(number))).collect();
    for depth in 1..=16 {
        let bases: Vec<_> = (0..3).map(|number| content(depth - 1, number)).collect();
        let bases: Vec<&[u8]> = bases.iter().map(Vec::as_slice).collect();
        segments.extend((0..3).map(|number| delta(&content(depth, number), &bases, depth)));
    }
    put_volume(&crafted, segments);
    survive(&crafted);
    // It is sound, and read without going through each way down.
    let out = crafted.lab.path("out/a");
    assert_eq!(fs::read(out).unwrap(), content(16, 2));
}

#[test]
fn deltas_on_bases_that_are_as_large_as_they_may_be() {
    let crafted = Crafted::new();
    let large = |depth: u8| {
        let mut bytes = vec![0; 16 << 20];
        bytes[..1000].fill(depth);
        bytes
    };
    let others = [vec![0; 16 << 20], vec![0xff; 16 << 20]];
    let whole = |bytes: &Vec<u8>| Stored::whole(Digest::of(bytes), bytes.clone());
    let mut segments: Vec<_> = others.iter().chain([&large(1)]).map(whole).collect();
    for depth in 1..=16 {
        // Whoever reads the last one first holds the others meanwhile.
        segments.push(delta(&large(depth + 1), &[&others[0], &others[1], &large(depth)], depth));
    }
    put_volume(&crafted, segments);
    survive(&crafted);
    assert_eq!(fs::read(crafted.lab.path("out/a")).unwrap(), large(17));
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

#[test]
fn a_tree_with_more_paths_than_anybody_can_walk() {
    let crafted = Crafted::new();
    let tree = |id: &[u8; 20]| [b"40000 a\0", &id[..], b"40000 b\0", &id[..]].concat();
    let hash = |tree: &[u8]| *treering::layers::object_id(ObjectKind::Tree, tree).as_bytes();
    let leaf = crafted.lab.git(&["rev-parse", "HEAD:config.cbor"]).trim().parse::<ObjectId>().unwrap();
    let mut trees = vec![[b"100644 f\0", &leaf.as_bytes()[..]].concat()];
    for _ in 0..40 {
        trees.push(tree(&hash(trees.last().unwrap())));
    }
    let top = Node { mode: Mode::Directory, id: ObjectId::from_bytes(hash(trees.last().unwrap())) };
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
}
