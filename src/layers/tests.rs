//! Layers as a whole: against git and libgit2, against damage, and against the content that went in.

use std::error::Error;
use std::fs;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{env, io, thread};

use proptest::prelude::*;
use rustix::fs::{CWD, FileType, mknodat};
use sha1::{Digest as _, Sha1};
use tempfile::TempDir;

use super::entry::STORED_BLOCK;
use super::*;
use crate::atomic;

/// Bytes that do not compress, other ones for each seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let words = (0..len.div_ceil(20) as u64)
        .flat_map(|i| object_id(ObjectKind::Blob, &(seed ^ i << 20).to_le_bytes()).0);
    words.take(len).collect()
}

fn blobs() -> Vec<Vec<u8>> {
    let sizes = [
        0,
        1,
        100,
        STORED_BLOCK - 1,
        STORED_BLOCK,
        STORED_BLOCK + 1,
        2 * STORED_BLOCK,
        2 * STORED_BLOCK + 1,
        700_000,
    ];
    let noise = sizes.into_iter().map(|size| noise(1, size));
    let text =
        [300, 60_000, 300_000].map(|lines| "a line that repeats itself\n".repeat(lines / 27).into_bytes());
    noise.chain(text).collect()
}

fn write_layer(dir: &Path, objects: &[(ObjectKind, Vec<u8>)]) -> LayerInfo {
    let mut writer = LayerWriter::create(dir).unwrap();
    for (kind, bytes) in objects {
        assert_eq!(writer.write(*kind, bytes).unwrap(), object_id(*kind, bytes));
    }
    writer.finish().unwrap().unwrap()
}

fn write_blob(dir: &Path, bytes: &[u8]) -> (ObjectId, LayerInfo) {
    (object_id(ObjectKind::Blob, bytes), write_layer(dir, &[(ObjectKind::Blob, bytes.to_vec())]))
}

/// A tag of a commit of a tree that names `blobs`.
fn history(blobs: &[Vec<u8>]) -> Vec<(ObjectKind, Vec<u8>)> {
    let mut tree = Vec::new();
    for (number, blob) in blobs.iter().enumerate() {
        tree.extend(format!("100644 blob-{number:06}\0").bytes());
        tree.extend(object_id(ObjectKind::Blob, blob).as_bytes());
    }
    let who = "Ring <ring@example.org> 1795204512 +0000";
    let tree_id = object_id(ObjectKind::Tree, &tree);
    let commit = format!("tree {tree_id}\nauthor {who}\ncommitter {who}\n\nA ring\n").into_bytes();
    let commit_id = object_id(ObjectKind::Commit, &commit);
    let tag = format!("object {commit_id}\ntype commit\ntag ring\ntagger {who}\n\nA tag\n").into_bytes();
    let blobs = blobs.iter().map(|blob| (ObjectKind::Blob, blob.clone()));
    blobs.chain([(ObjectKind::Tree, tree), (ObjectKind::Commit, commit), (ObjectKind::Tag, tag)]).collect()
}

/// `None`, said aloud, when git is missing; an error where tests must be complete.
fn git() -> Option<()> {
    let found = Command::new("git").arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        assert!(env::var_os("CI").is_none_or(|ci| ci != "true"), "git is not installed; this test needs it");
        eprintln!("skipped: git is not installed");
    }
    found.then_some(())
}

/// What git prints, run in `dir` with `input`.
fn run_git(dir: &Path, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut git = Command::new("git");
    let inherited =
        env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("GIT_"));
    inherited.for_each(|name| _ = git.env_remove(name));
    git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").args(args).current_dir(dir);
    let mut child = git.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A bare repository and its pack directory.
fn bare_repository() -> (TempDir, PathBuf) {
    let repository = tempfile::tempdir().unwrap();
    run_git(repository.path(), &["init", "--quiet", "--bare"], b"");
    let packs = repository.path().join("objects/pack");
    (repository, packs)
}

#[test]
fn git_takes_a_layer_as_its_own() {
    let Some(()) = git() else { return };
    let (repository, packs) = bare_repository();
    let objects = history(&blobs());
    let layer = write_layer(&packs, &objects);
    let git = |args: &[&str], input: &[u8]| run_git(repository.path(), args, input);
    let file = |extension| packs.join(format!("{}.{extension}", layer.name));

    let (kind, tag) = objects.last().unwrap();
    git(&["update-ref", "refs/tags/ring", &object_id(*kind, tag).to_string()], b"");
    git(&["fsck", "--strict", "--full"], b"");
    let index = repository.path().join("git.idx");
    git(&["index-pack", "--strict", "-o", index.to_str().unwrap(), file("pack").to_str().unwrap()], b"");
    assert_eq!(fs::read(index).unwrap(), fs::read(file("idx")).unwrap());
    let listing = String::from_utf8(git(&["verify-pack", "-v", file("idx").to_str().unwrap()], b"")).unwrap();

    for (kind, bytes) in &objects {
        let id = object_id(*kind, bytes);
        let line = format!("{id} {:<6} {} ", kind.name(), bytes.len());
        assert!(listing.lines().any(|listed| listed.starts_with(&line)), "{line} in {listing}");
        assert!(git(&["cat-file", kind.name(), &id.to_string()], b"") == *bytes, "{id}");
    }
}

#[test]
fn libgit2_reads_every_object() {
    let dir = tempfile::tempdir().unwrap();
    let repository = git2::Repository::init_bare(dir.path()).unwrap();
    let objects = history(&blobs());
    write_layer(&dir.path().join("objects/pack"), &objects);
    let odb = repository.odb().unwrap();
    for (kind, bytes) in &objects {
        let object = odb.read(git2::Oid::from_bytes(object_id(*kind, bytes).as_bytes()).unwrap()).unwrap();
        assert_eq!(object.kind().str(), kind.name());
        assert!(object.data() == bytes, "{} bytes", bytes.len());
    }
}

#[test]
fn a_pack_that_git_made_is_read_except_for_its_deltas() {
    let Some(()) = git() else { return };
    for level in ["0", "1", "9"] {
        let (repository, packs) = bare_repository();
        let git = |args: &[&str], input: &[u8]| run_git(repository.path(), args, input);
        let mut blobs = blobs();
        let mut changed = noise(1, 700_000);
        changed[350_000] ^= 1;
        blobs.push(changed);
        let objects = history(&blobs);
        for (kind, bytes) in &objects {
            git(&["hash-object", "-w", "--stdin", "-t", kind.name()], bytes);
        }
        let (kind, tag) = objects.last().unwrap();
        git(&["update-ref", "refs/tags/ring", &object_id(*kind, tag).to_string()], b"");
        git(&["-c", &format!("pack.compression={level}"), "repack", "-a", "-d", "-f", "-q"], b"");

        let set = LayerSet::open(&packs).unwrap();
        let mut deltas = Vec::new();
        for (kind, bytes) in &objects {
            let id = object_id(*kind, bytes);
            match set.read(&id) {
                Ok(read) => assert!(read == Some((*kind, bytes.clone())), "{id}"),
                Err(LayerError::Delta { id: delta, .. }) => {
                    assert_eq!(delta, id);
                    assert!(matches!(set.header(&id), Err(LayerError::Delta { .. })));
                    assert!(matches!(set.read_range(&id, 0, 1), Err(LayerError::Delta { .. })));
                    let ChainWeight { largest, total } = set.chain_weight(&id).unwrap().unwrap();
                    let most = objects.iter().map(|(_, bytes)| bytes.len() as u64).max().unwrap();
                    assert!((bytes.len() as u64..=most).contains(&largest) && total > largest, "{largest}");
                    deltas.push(id);
                    continue;
                }
                Err(error) => panic!("{error}"),
            }
            for (offset, len) in [(0, bytes.len()), (1, 70_000), (65_530, 10), (140_000, 200_000)] {
                let begin = offset.min(bytes.len());
                let end = (begin + len).min(bytes.len());
                let range = set.read_range(&id, offset as u64, len as u64).unwrap().unwrap();
                assert!(range == bytes[begin..end], "{offset}+{len} of {} at level {level}", bytes.len());
            }
        }
        assert!(!deltas.is_empty());
        let mut check = set.layers().next().unwrap().verify().unwrap();
        assert!(check.damage.is_empty(), "{:?}", check.damage);
        assert_eq!(check.sound as usize + deltas.len(), objects.len());
        check.deltas.sort();
        deltas.sort();
        assert_eq!(check.deltas, deltas);
    }
}

#[test]
fn a_delta_is_weighed_in_the_layer_that_is_sound() {
    let Some(()) = git() else { return };
    let (repository, packs) = bare_repository();
    let git = |args: &[&str], input: &[u8]| run_git(repository.path(), args, input);
    let blob = noise(1, 70_000);
    let mut changed = blob.clone();
    changed[35_000] ^= 1;
    let ids = [&blob, &changed].map(|bytes| {
        git(&["hash-object", "-w", "--stdin"], bytes);
        object_id(ObjectKind::Blob, bytes)
    });
    let packed =
        git(&["pack-objects", "-q", "objects/pack/pack"], format!("{}\n{}\n", ids[0], ids[1]).as_bytes());
    let name = format!("pack-{}", String::from_utf8(packed).unwrap().trim());
    let weigh = || {
        let set = LayerSet::open(&packs).unwrap();
        ids.map(|id| set.chain_weight(&id).map(Option::unwrap).ok())
    };
    let sound = weigh();
    assert!(sound.iter().all(Option::is_some));
    for other in
        ["pack-0000000000000000000000000000000000000000", "pack-ffffffffffffffffffffffffffffffffffffffff"]
    {
        fs::copy(packs.join(format!("{name}.idx")), packs.join(format!("{other}.idx"))).unwrap();
        fs::write(packs.join(format!("{other}.pack")), b"PACK").unwrap();
        assert_eq!(weigh(), sound, "{other}");
    }
    fs::remove_file(packs.join(format!("{name}.pack"))).unwrap();
    assert_eq!(weigh(), [None, None]);
}

#[test]
fn git_shows_the_offsets_of_an_index_beyond_four_gib() {
    let Some(()) = git() else { return };
    let offsets = [12, (1 << 31) - 1, 1 << 31, 1 << 33];
    let entry = |(first, offset)| index::IndexEntry { id: ObjectId([first; 20]), offset, crc: 0xfeed };
    let entries: Vec<_> = (0..).zip(offsets).map(entry).collect();
    let (repository, _) = bare_repository();
    let shown = run_git(repository.path(), &["show-index"], &index::encode(&entries, &[0; 20]));
    let expected: String =
        entries.iter().map(|entry| format!("{} {} (0000feed)\n", entry.offset, entry.id)).collect();
    assert_eq!(String::from_utf8(shown).unwrap(), expected);
}

#[test]
fn what_was_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let objects = history(&blobs());
    let layer = write_layer(dir.path(), &objects);
    let set = LayerSet::open(dir.path()).unwrap();
    for (kind, bytes) in &objects {
        let id = object_id(*kind, bytes);
        assert!(set.contains(&id));
        assert_eq!(set.header(&id).unwrap(), Some((*kind, bytes.len() as u64)));
        assert!(set.read(&id).unwrap() == Some((*kind, bytes.clone())), "{id}");
    }
    let listed = set.layers().next().unwrap();
    assert_eq!((listed.name(), listed.objects()), (layer.name.as_str(), layer.objects));
    assert_eq!((listed.pack_bytes(), listed.index_bytes()), (Some(layer.pack_bytes), layer.index_bytes));
    let mut ids: Vec<_> = objects.iter().map(|(kind, bytes)| object_id(*kind, bytes)).collect();
    ids.sort();
    assert_eq!(listed.ids().collect::<Vec<_>>(), ids);
    let check = listed.verify().unwrap();
    assert_eq!((check.sound, check.deltas.len(), check.damage.len()), (layer.objects, 0, 0));
}

#[test]
fn an_object_that_no_layer_holds_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let absent = object_id(ObjectKind::Blob, b"absent");
    for _ in 0..2 {
        let set = LayerSet::open(dir.path()).unwrap();
        assert!(!set.contains(&absent) && set.locate(&absent).is_none());
        assert_eq!(set.header(&absent).unwrap(), None);
        assert_eq!(set.read(&absent).unwrap(), None);
        assert_eq!(set.read_range(&absent, 0, 1).unwrap(), None);
        write_blob(dir.path(), b"present");
    }
}

#[test]
fn objects_are_found_among_many_layers() {
    let dir = tempfile::tempdir().unwrap();
    let blob = |layer: u32, number: u32| format!("{layer} {number}").into_bytes();
    for layer in 0..40 {
        let objects: Vec<_> =
            (0..layer * 3 + 1).map(|number| (ObjectKind::Blob, blob(layer, number))).collect();
        write_layer(dir.path(), &objects);
    }
    let set = LayerSet::open(dir.path()).unwrap();
    assert_eq!(set.layers().len(), 40);
    for layer in 0..40 {
        for number in 0..layer * 3 + 1 {
            let id = object_id(ObjectKind::Blob, &blob(layer, number));
            assert_eq!(set.locate(&id).unwrap().layer.objects(), layer * 3 + 1);
            assert_eq!(set.read(&id).unwrap(), Some((ObjectKind::Blob, blob(layer, number))));
        }
        assert!(!set.contains(&object_id(ObjectKind::Blob, &blob(layer, layer * 3 + 1))));
    }
}

#[test]
fn reopening_sees_what_came_and_went_and_keeps_what_stayed() {
    let dir = tempfile::tempdir().unwrap();
    let (stays, _) = write_blob(dir.path(), b"stays");
    let (goes, gone) = write_blob(dir.path(), b"goes");
    let old = LayerSet::open(dir.path()).unwrap();
    let (comes, _) = write_blob(dir.path(), b"comes");
    fs::remove_file(dir.path().join(gone.name + ".idx")).unwrap();
    let new = old.reopen().unwrap();
    assert_eq!([stays, goes, comes].map(|id| old.contains(&id)), [true, true, false]);
    assert_eq!([stays, goes, comes].map(|id| new.contains(&id)), [true, false, true]);
    let index = |set: &LayerSet| Arc::clone(&set.locate(&stays).unwrap().layer.index);
    assert!(Arc::ptr_eq(&index(&old), &index(&new)));
}

#[test]
fn an_evicted_layer_is_known_but_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let (id, layer) = write_blob(dir.path(), b"cold");
    let open = LayerSet::open(dir.path()).unwrap();
    fs::remove_file(dir.path().join(format!("{}.pack", layer.name))).unwrap();
    for set in [&open, &open.reopen().unwrap()] {
        assert!(set.contains(&id));
        let name = |error| match error {
            LayerError::Missing { layer } => layer,
            error => panic!("{error}"),
        };
        assert_eq!(name(set.read(&id).unwrap_err()), layer.name);
        assert_eq!(name(set.header(&id).unwrap_err()), layer.name);
        assert_eq!(name(set.read_range(&id, 1, 2).unwrap_err()), layer.name);
        assert_eq!(name(set.layers().next().unwrap().verify().unwrap_err()), layer.name);
    }
    assert_eq!(open.reopen().unwrap().layers().next().unwrap().pack_bytes(), None);

    let again = (ObjectKind::Blob, b"cold".to_vec());
    for number in 0..4 {
        let other = (ObjectKind::Blob, vec![number]);
        let copy = write_layer(dir.path(), &[again.clone(), other]);
        let set = open.reopen().unwrap();
        assert_eq!(set.locate(&id).unwrap().layer.name(), copy.name);
        assert_eq!(set.read(&id).unwrap(), Some(again.clone()));
        fs::remove_file(dir.path().join(format!("{}.pack", copy.name))).unwrap();
    }
}

#[test]
fn threads_share_a_set() {
    let dir = tempfile::tempdir().unwrap();
    let objects = history(&blobs());
    write_layer(dir.path(), &objects);
    let set = LayerSet::open(dir.path()).unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            let (set, objects) = (set.clone(), &objects);
            scope.spawn(move || {
                for (kind, bytes) in objects {
                    assert!(set.read(&object_id(*kind, bytes)).unwrap().unwrap().1 == *bytes);
                }
            });
        }
    });
}

#[test]
fn no_index_is_seen_before_its_pack() {
    let dir = tempfile::tempdir().unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..40 {
                write_blob(dir.path(), &noise(number, 1_000));
            }
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            let set = LayerSet::open(dir.path()).unwrap();
            for layer in set.layers() {
                let kept = dir.path().join(format!("{}.keep", layer.name())).exists();
                assert!(layer.pack_bytes().is_some() && kept, "{}", layer.name());
            }
        }
    });
}

const CHILD_DIRECTORY: &str = "TREERING_TEST_PACK_DIRECTORY";

#[test]
#[ignore = "the child of a_killed_writer_leaves_only_a_temporary_file"]
fn write_until_killed() {
    let dir = PathBuf::from(env::var_os(CHILD_DIRECTORY).unwrap());
    let mut writer = LayerWriter::create(&dir).unwrap();
    for seed in 0.. {
        writer.write(ObjectKind::Blob, &noise(seed, 1 << 18)).unwrap();
    }
}

#[test]
fn a_killed_writer_leaves_only_a_temporary_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--ignored", "--exact", "layers::tests::write_until_killed"])
        .env(CHILD_DIRECTORY, dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let files = || fs::read_dir(dir.path()).unwrap().map(Result::unwrap).collect::<Vec<_>>();
    while files().iter().all(|file| file.metadata().unwrap().len() == 0) {
        assert_eq!(child.try_wait().unwrap(), None, "the child ended by itself");
        thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let files = files();
    assert_eq!(files.len(), 1);
    assert!(files[0].file_name().to_str().unwrap().starts_with(atomic::TEMP_PREFIX));
    assert_eq!(LayerSet::open(dir.path()).unwrap().layers().len(), 0);
}

/// A layer that is damaged by `change`, once opened, and the objects that went in.
fn damaged(change: impl FnOnce(&mut Vec<u8>)) -> (TempDir, LayerSet, Vec<(ObjectKind, Vec<u8>)>) {
    let dir = tempfile::tempdir().unwrap();
    let objects = history(&[noise(1, 150_000), noise(2, 300), vec![b'a'; 20_000]]);
    let layer = write_layer(dir.path(), &objects);
    let path = dir.path().join(format!("{}.pack", layer.name));
    let mut pack = fs::read(&path).unwrap();
    change(&mut pack);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, pack).unwrap();
    let set = LayerSet::open(dir.path()).unwrap();
    (dir, set, objects)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_range_is_a_slice(size in 0..300_000_usize, offset: prop::sample::Index, len in 0..200_000_u64, text: bool) {
        let dir = tempfile::tempdir().unwrap();
        let bytes = if text { vec![b'x'; size] } else { noise(3, size) };
        let (id, _) = write_blob(dir.path(), &bytes);
        let set = LayerSet::open(dir.path()).unwrap();
        let offset = offset.index(size + 10);
        let begin = offset.min(size);
        let end = size.min(begin + len as usize);
        let range = set.read_range(&id, offset as u64, len).unwrap().unwrap();
        prop_assert!(range == bytes[begin..end]);
        let rest = set.read_range(&id, offset as u64, u64::MAX).unwrap().unwrap();
        prop_assert!(rest == bytes[begin..]);
    }

    #[test]
    fn damage_is_found_and_never_read_as_content(at: prop::sample::Index, bit in 0..8_u32, cut: bool) {
        let (_dir, set, objects) = damaged(|pack| {
            let at = at.index(pack.len());
            match cut {
                true => pack.truncate(at),
                false => pack[at] ^= 1_u8 << bit,
            }
        });
        for (kind, bytes) in &objects {
            let id = object_id(*kind, bytes);
            if let Ok(read) = set.read(&id) {
                prop_assert!(read == Some((*kind, bytes.clone())));
            }
            let _ = set.header(&id);
            let _ = set.read_range(&id, 70_000, 70_000);
        }
        let check = set.layers().next().unwrap().verify().unwrap();
        prop_assert!(!check.damage.is_empty());
    }

    #[test]
    fn a_forged_pack_and_index_give_errors(
        forgeries in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
    ) {
        let (dir, set, _) = damaged(|pack| {
            for (at, byte) in &forgeries {
                let at = at.index(pack.len());
                pack[at] = *byte;
            }
        });
        let path = dir.path().join(format!("{}.idx", set.layers().next().unwrap().name()));
        let mut index = fs::read(&path).unwrap();
        index.truncate(index.len() - 20);
        // Offsets and checksums only; the order of ids has a test of its own.
        let begin = 8 + 1_024 + 20 * set.layers().next().unwrap().objects() as usize;
        for (at, byte) in &forgeries {
            let at = begin + at.index(index.len() - begin);
            index[at] = *byte & 0x7f;
        }
        let checksum = Sha1::digest(&index);
        index.extend(checksum);
        fs::remove_file(&path).unwrap();
        fs::write(&path, index).unwrap();
        let set = LayerSet::open(dir.path()).unwrap();
        let layer = set.layers().next().unwrap();
        for id in layer.ids() {
            if let Ok(Some((kind, bytes))) = set.read(&id) {
                prop_assert_eq!(object_id(kind, &bytes), id);
            }
            let _ = set.header(&id);
            let _ = set.read_range(&id, 1, 100_000);
        }
        prop_assert!(!layer.verify().unwrap().damage.is_empty());
    }
}

#[test]
fn a_damaged_object_is_named() {
    let (_dir, set, objects) = damaged(|pack| pack[100_000] ^= 1);
    let [(kind, first), rest @ ..] = &objects[..] else { panic!("there are objects") };
    let damaged = object_id(*kind, first);
    assert!(matches!(set.read(&damaged), Err(LayerError::Object { id, offset: 12, .. }) if id == damaged));
    for (kind, bytes) in rest {
        assert!(set.read(&object_id(*kind, bytes)).unwrap().is_some());
    }
    let check = set.layers().next().unwrap().verify().unwrap();
    assert_eq!(check.sound as usize, rest.len());
    let [LayerError::Object { id, .. }, LayerError::Pack { fault, .. }] = &check.damage[..] else {
        panic!("{:?}", check.damage)
    };
    assert_eq!((*id, *fault), (damaged, "its checksum does not hold"));
}

#[test]
fn a_damaged_index_is_named_and_hides_no_other_layer() {
    let dir = tempfile::tempdir().unwrap();
    let (lost, layer) = write_blob(dir.path(), b"content");
    let (other, _) = write_blob(dir.path(), b"other content");
    let path = dir.path().join(format!("{}.idx", layer.name));
    let sound = fs::read(&path).unwrap();
    let damage: [&dyn Fn(); 5] = [
        &|| fs::write(&path, b"not an index").unwrap(),
        &|| fs::write(&path, b"").unwrap(),
        &|| fs::write(&path, &sound[..sound.len() - 1]).unwrap(),
        // Sparse, and longer than memory.
        &|| fs::File::create(&path).unwrap().set_len(1 << 42).unwrap(),
        &|| fs::create_dir(&path).unwrap(),
    ];
    for damage in damage {
        fs::remove_file(&path).unwrap();
        damage();
        let set = LayerSet::open(dir.path()).unwrap();
        let [fault] = set.faults() else { panic!("{:?}", set.faults()) };
        assert!(matches!(fault, LayerError::Index { path: named, .. } if *named == path), "{fault}");
        assert!(set.read(&other).unwrap().is_some());
        assert!(set.read(&lost).unwrap().is_none());
    }
    fs::remove_dir(&path).unwrap();
    fs::write(&path, &sound).unwrap();
    let set = LayerSet::open(dir.path()).unwrap();
    assert!(set.faults().is_empty() && set.read(&lost).unwrap().is_some());
}

#[test]
fn a_directory_that_cannot_be_listed_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let error = LayerSet::open(&dir.path().join("absent")).unwrap_err();
    assert!(matches!(error, LayerError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound));
}

#[test]
fn an_object_id_is_what_git_prints() {
    let id = object_id(ObjectKind::Blob, b"");
    assert_eq!(id.to_string(), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
    assert_eq!(id.to_string().parse(), Ok(id));
    assert_eq!(object_id(ObjectKind::Tree, b"").to_string(), "4b825dc642cb6eb9a060e54bf8d69288fbee4904");
    assert_eq!("e69de2".parse::<ObjectId>(), Err(ParseObjectIdError));
}

#[test]
fn verify_survives_offsets_that_overlap() {
    let dir = tempfile::tempdir().unwrap();
    let layer =
        write_layer(dir.path(), &[(ObjectKind::Blob, noise(1, 50)), (ObjectKind::Blob, noise(2, 50))]);
    let path = dir.path().join(format!("{}.idx", layer.name));
    let ids: Vec<_> = LayerSet::open(dir.path()).unwrap().layers().next().unwrap().ids().collect();
    for offsets in [[0, 5], [0, 1], [12, 12], [13, 12], [12, u64::MAX], [11, layer.pack_bytes - 20]] {
        let entries: Vec<_> =
            ids.iter().zip(offsets).map(|(&id, offset)| index::IndexEntry { id, offset, crc: 0 }).collect();
        fs::remove_file(&path).unwrap();
        fs::write(&path, index::encode(&entries, &[0; 20])).unwrap();
        let set = LayerSet::open(dir.path()).unwrap();
        let check = set.layers().next().unwrap().verify().unwrap();
        assert_eq!(check.sound, 0, "{offsets:?}");
        assert!(ids.iter().any(|id| set.read(id).is_err()), "{offsets:?}");
    }
}

/// The packs in a directory, as something that lies elsewhere.
struct Elsewhere(TempDir);

impl PackSource for Elsewhere {
    fn pack_bytes(&self, layer: &str) -> Result<Option<u64>, Box<dyn Error + Send + Sync>> {
        match fs::metadata(self.0.path().join(format!("{layer}.pack"))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            metadata => Ok(Some(metadata?.len())),
        }
    }

    fn read(&self, layer: &str, ranges: &[Range<u64>]) -> Result<Vec<Vec<u8>>, Box<dyn Error + Send + Sync>> {
        let pack = fs::read(self.0.path().join(format!("{layer}.pack")))?;
        let part =
            |range: &Range<u64>| pack.get(range.start as usize..range.end as usize).map(<[u8]>::to_vec);
        ranges.iter().map(|range| part(range).ok_or_else(|| "the pack is shorter".into())).collect()
    }
}

/// The blobs in a layer whose pack lies elsewhere; there, `damage` was done to it.
fn cold(damage: impl FnOnce(&mut Vec<u8>)) -> (TempDir, LayerSet, Arc<Cold>, Vec<Vec<u8>>) {
    let blobs = blobs();
    let objects: Vec<_> = blobs.iter().map(|blob| (ObjectKind::Blob, blob.clone())).collect();
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let name = write_layer(there.path(), &objects).name;
    let pack = there.path().join(format!("{name}.pack"));
    let mut bytes = fs::read(&pack).unwrap();
    damage(&mut bytes);
    fs::remove_file(&pack).unwrap();
    fs::write(&pack, bytes).unwrap();
    let index = format!("{name}.idx");
    fs::copy(there.path().join(&index), here.path().join(&index)).unwrap();
    let cold = Arc::new(Cold::new(Arc::new(Elsewhere(there)), &here.path().join("blocks"), 1 << 30));
    let set = LayerSet::open(here.path()).unwrap().with_cold(Arc::clone(&cold)).unwrap();
    (here, set, cold, blobs)
}

#[test]
fn a_layer_elsewhere_is_read_as_one_that_is_here() {
    let (_dir, set, _, blobs) = cold(|_| ());
    for set in [&set, &set.reopen().unwrap()] {
        for blob in &blobs {
            let id = object_id(ObjectKind::Blob, blob);
            assert_eq!(set.header(&id).unwrap(), Some((ObjectKind::Blob, blob.len() as u64)));
            assert!(set.read(&id).unwrap() == Some((ObjectKind::Blob, blob.clone())));
            for (offset, len) in [(0, 1), (65_530, 10), (1, 200_000), (699_999, 5), (u64::MAX, 1)] {
                let begin = (offset as usize).min(blob.len());
                let end = begin + len.min(blob.len() - begin);
                assert!(set.read_range(&id, offset, len as u64).unwrap().unwrap() == blob[begin..end]);
            }
        }
    }
}

#[test]
fn a_range_elsewhere_takes_two_requests_and_little_more_than_its_bytes() {
    let (_dir, set, cold, blobs) = cold(|_| ());
    let blob = blobs.iter().find(|blob| blob.len() == 700_000).unwrap();
    let range = set.read_range(&object_id(ObjectKind::Blob, blob), 400_000, 100_000).unwrap().unwrap();
    assert!(range == blob[400_000..500_000]);
    assert_eq!(cold.requests(), 2, "the head of the object, and the range with the header of its block");
    assert!(cold.bytes() < 100_000 + 65_536 + 4 * 8_192, "{}", cold.bytes());
}

#[test]
fn damage_elsewhere_is_found_by_who_reads_the_whole() {
    let (_dir, set, _, blobs) = cold(|pack| {
        pack.truncate(pack.len() / 2);
        for at in (100..pack.len()).step_by(3_001) {
            pack[at] ^= 1;
        }
    });
    let mut failed = 0;
    for blob in &blobs {
        let id = object_id(ObjectKind::Blob, blob);
        match set.read(&id) {
            Ok(read) => assert!(read == Some((ObjectKind::Blob, blob.clone()))),
            Err(_) => failed += 1,
        }
        let _ = (set.header(&id), set.read_range(&id, 5, 100_000));
    }
    assert!(failed > 3, "{failed}");
}

#[test]
fn objects_are_copied_as_they_lie_and_damage_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let contents = [b"small and small and small and small".to_vec(), vec![7; 300_000], Vec::new()];
    let mut writer = LayerWriter::create(dir.path()).unwrap();
    let ids: Vec<_> =
        contents.iter().map(|content| writer.write(ObjectKind::Blob, content).unwrap()).collect();
    let old = writer.finish().unwrap().unwrap();
    let set = LayerSet::open(dir.path()).unwrap();
    let layer = set.layers().next().unwrap();
    let extents = layer.extents().unwrap();
    assert_eq!(extents.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids);

    let mut writer = LayerWriter::create(dir.path()).unwrap();
    for (id, range) in &extents {
        assert!(writer.copy(layer, id, range.clone()).unwrap());
        assert!(writer.copy(layer, id, range.clone()).unwrap(), "it is there already");
    }
    assert_eq!(writer.finish().unwrap(), Some(old), "the same objects in the same order");

    let pack = dir.path().join(layer.name()).with_extension("pack");
    let mut bytes = fs::read(&pack).unwrap();
    let (id, range) = extents[1].clone();
    bytes[range.start as usize + 1000] ^= 1;
    fs::remove_file(&pack).unwrap();
    fs::write(&pack, bytes).unwrap();
    let mut writer = LayerWriter::create(dir.path()).unwrap();
    assert!(matches!(writer.copy(layer, &id, range), Err(LayerError::Object { .. })));
    assert!(matches!(writer.write(ObjectKind::Blob, b"x"), Err(LayerError::Failed)));
}

#[test]
fn of_two_copies_of_an_object_the_sound_one_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let (shared, other) = (vec![1; 100], vec![2; 100]);
    let one = write_layer(dir.path(), &[(ObjectKind::Blob, shared.clone())]).name;
    let two = write_layer(dir.path(), &[(ObjectKind::Blob, shared.clone()), (ObjectKind::Blob, other)]).name;
    let id = object_id(ObjectKind::Blob, &shared);
    for damaged in [one, two] {
        let pack = dir.path().join(format!("{damaged}.pack"));
        let sound = fs::read(&pack).unwrap();
        let mut bytes = sound.clone();
        // The zlib streams, behind the headers of the pack and of the first entry.
        bytes[14..18].iter_mut().for_each(|byte| *byte ^= 0xff);
        let replace = |bytes: &[u8]| {
            fs::remove_file(&pack).unwrap();
            fs::write(&pack, bytes).unwrap();
        };
        replace(&bytes);
        let set = LayerSet::open(dir.path()).unwrap();
        assert_eq!(set.read(&id).unwrap(), Some((ObjectKind::Blob, shared.clone())));
        assert_eq!(set.read_range(&id, 10, 20).unwrap(), Some(shared[10..30].to_vec()));
        replace(&sound);
    }
}

#[test]
fn a_pack_of_which_nothing_can_be_found_out_is_not_missing() {
    struct Unknown;
    impl PackSource for Unknown {
        fn pack_bytes(&self, _: &str) -> Result<Option<u64>, Box<dyn Error + Send + Sync>> {
            Err("permission denied".into())
        }

        fn read(&self, _: &str, _: &[Range<u64>]) -> Result<Vec<Vec<u8>>, Box<dyn Error + Send + Sync>> {
            Err("permission denied".into())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let name = write_layer(dir.path(), &[(ObjectKind::Blob, b"content".to_vec())]).name;
    fs::remove_file(dir.path().join(format!("{name}.pack"))).unwrap();
    let cold = Arc::new(Cold::new(Arc::new(Unknown), &dir.path().join("blocks"), 1 << 20));
    let set = LayerSet::open(dir.path()).unwrap().with_cold(cold).unwrap();
    let errors = [
        set.read(&object_id(ObjectKind::Blob, b"content")).unwrap_err(),
        set.layers().next().unwrap().expect_whole().unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(&error, LayerError::Cold { .. }), "{error}");
        assert!(error.source().unwrap().to_string().contains("permission denied"));
    }
}

#[test]
fn a_hole_counts_as_nothing_that_lies_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let LayerInfo { name, pack_bytes, .. } = write_layer(dir.path(), &[(ObjectKind::Blob, vec![7; 100])]);
    let pack = dir.path().join(format!("{name}.pack"));
    fs::set_permissions(&pack, fs::Permissions::from_mode(0o600)).unwrap();
    let write = fs::File::options().append(true).open(&pack).unwrap();
    write.set_len(1 << 40).unwrap();
    let set = LayerSet::open(dir.path()).unwrap();
    assert_eq!(set.pack_bytes(), 1 << 40);
    assert!(set.pack_disk() < pack_bytes + (1 << 20), "{}", set.pack_disk());
    // An index of three million objects, all of them in a hole.
    let (objects, bogus) = (3u32 << 20, dir.path().join(format!("pack-{}.idx", "0".repeat(40))));
    let mut index = b"\xfftOc\0\0\0\x02".to_vec();
    index.extend([0; 255 * 4]);
    index.extend(objects.to_be_bytes());
    fs::write(&bogus, index).unwrap();
    let write = fs::File::options().append(true).open(&bogus).unwrap();
    write.set_len(8 + 1024 + 28 * u64::from(objects) + 40).unwrap();
    let set = LayerSet::open(dir.path()).unwrap();
    let [fault] = set.faults() else { panic!("{:?}", set.faults()) };
    assert!(fault.to_string().contains("far larger"), "{fault}");
}

#[test]
fn an_index_that_is_a_pipe_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    write_layer(dir.path(), &[(ObjectKind::Blob, vec![7; 100])]);
    let pipe = dir.path().join(format!("pack-{}.idx", "0".repeat(40)));
    mknodat(CWD, &pipe, FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0).unwrap();
    let set = LayerSet::open(dir.path()).unwrap();
    assert_eq!((set.layers().len(), set.faults().len()), (1, 1));
}
