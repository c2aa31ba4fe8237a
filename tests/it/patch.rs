//! A directory brought from one state to another by a difference and its archive.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use treering::{DiffData, DiffIndex, DirIndex, apply_diff};

use crate::tree::{assert_same, everything, noise, unlock};

struct Trees {
    dir: tempfile::TempDir,
}

impl Trees {
    /// `tree` as `make` makes it, and `replica`, a copy of it.
    fn new(make: impl Fn(&Path)) -> Self {
        let trees = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(trees.tree()).unwrap();
        make(&trees.tree());
        trees.copy("tree", "replica");
        trees
    }

    fn copy(&self, from: &str, to: &str) {
        let copied = Command::new("cp").arg("-a").arg(self.path(from)).arg(self.path(to)).status().unwrap();
        assert!(copied.success());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn tree(&self) -> PathBuf {
        self.path("tree")
    }

    /// Changes the tree by `change`, carries the difference over to the replica through files, and compares.
    fn carry(&self, change: impl Fn(&Path)) -> DiffIndex {
        DirIndex::scan(self.tree()).unwrap().to_file(self.path("old.index")).unwrap();
        change(&self.tree());
        let old = DirIndex::from_file(self.path("old.index")).unwrap();
        let new = DirIndex::scan(self.tree()).unwrap();
        let diff = DiffIndex::compute(&old, &new);
        let data = DiffData::create_archive(self.path("changes.tar.gz"), &diff).unwrap();
        assert!(data.problems.is_empty());
        diff.to_file(self.path("changes.diff")).unwrap();

        let read = DiffIndex::from_file(self.path("changes.diff")).unwrap();
        assert_eq!(read.changes, diff.changes);
        let data = DiffData::open(self.path("changes.tar.gz"), &diff).unwrap();
        let report = apply_diff(self.path("replica"), &read, &data).unwrap();
        assert!(report.failures.is_empty(), "{:?}", report.failures);
        assert_same(&self.tree(), &self.path("replica"));
        diff
    }
}

impl Drop for Trees {
    fn drop(&mut self) {
        unlock(self.dir.path());
    }
}

#[test]
fn a_tree_of_everything_is_made_from_nothing() {
    let trees = Trees::new(|_| ());
    trees.carry(everything);
}

#[test]
fn a_tree_of_everything_is_emptied() {
    let trees = Trees::new(everything);
    trees.carry(|tree| {
        unlock(tree);
        for entry in fs::read_dir(tree).unwrap() {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            }
            .unwrap();
        }
    });
}

#[test]
fn kinds_are_exchanged() {
    let trees = Trees::new(|tree| {
        fs::create_dir(tree.join("dir")).unwrap();
        fs::write(tree.join("dir/inner"), "inner").unwrap();
        fs::write(tree.join("file"), "content that moves").unwrap();
        std::os::unix::fs::symlink("dir", tree.join("link")).unwrap();
        fs::write(tree.join("a"), noise(100_000, 1)).unwrap();
        fs::write(tree.join("b"), noise(100_000, 2)).unwrap();
    });
    trees.carry(|tree| {
        fs::remove_dir_all(tree.join("dir")).unwrap();
        fs::rename(tree.join("file"), tree.join("moving")).unwrap();
        fs::create_dir(tree.join("file")).unwrap();
        fs::rename(tree.join("moving"), tree.join("file/moved")).unwrap();
        fs::write(tree.join("dir"), "now a file").unwrap();
        fs::remove_file(tree.join("link")).unwrap();
        fs::create_dir(tree.join("link")).unwrap();
        fs::write(tree.join("link/through"), "not through").unwrap();
        fs::rename(tree.join("a"), tree.join("c")).unwrap();
        fs::rename(tree.join("b"), tree.join("a")).unwrap();
        fs::rename(tree.join("c"), tree.join("b")).unwrap();
    });
}

#[test]
fn only_what_changed_is_in_the_archive() {
    let trees = Trees::new(|tree| {
        fs::write(tree.join("image"), noise(8 << 20, 1)).unwrap();
        fs::write(tree.join("moves"), noise(1 << 20, 2)).unwrap();
    });
    let diff = trees.carry(|tree| {
        let mut image = fs::read(tree.join("image")).unwrap();
        for page in [3, 700, 1500] {
            image[page * 4096..][..4096].copy_from_slice(&noise(4096, page as u64));
        }
        fs::write(tree.join("image"), image).unwrap();
        fs::rename(tree.join("moves"), tree.join("moved")).unwrap();
    });
    assert!(diff.changes.iter().any(|change| matches!(change, treering::diff::Change::Renamed { .. })));
    let packed = fs::metadata(trees.path("changes.tar.gz")).unwrap().len();
    assert!((3 * 4096..3 * 4096 + 2000).contains(&packed), "{packed} bytes");
}

#[test]
fn metadata_alone_is_carried() {
    let trees = Trees::new(everything);
    let diff = trees.carry(|tree| {
        fs::set_permissions(tree.join("sub/text"), fs::Permissions::from_mode(0o600)).unwrap();
        let time = std::time::UNIX_EPOCH - std::time::Duration::from_millis(1500);
        fs::File::open(tree.join("empty")).unwrap().set_modified(time).unwrap();
        let _ = xattr::remove(tree.join("noise"), "user.colour");
    });
    assert!(diff.changes.iter().all(|change| matches!(change, treering::diff::Change::Metadata(_))));
}

#[test]
fn hard_links_are_made_and_broken() {
    let trees = Trees::new(everything);
    trees.carry(|tree| {
        fs::remove_file(tree.join("another")).unwrap();
        fs::write(tree.join("another"), fs::read(tree.join("sub/text")).unwrap()).unwrap();
        fs::hard_link(tree.join("noise"), tree.join("zzz")).unwrap();
        fs::hard_link(tree.join("sparse"), tree.join("aaa")).unwrap();
    });
}

#[test]
fn a_damaged_archive_leaves_the_old_file_and_names_it() {
    let trees = Trees::new(|tree| {
        fs::write(tree.join("bad"), noise(100_000, 1)).unwrap();
        fs::write(tree.join("good"), "old").unwrap();
    });
    let old = DirIndex::scan(trees.tree()).unwrap();
    fs::write(trees.path("tree/bad"), noise(100_000, 9)).unwrap();
    fs::write(trees.path("tree/good"), "new").unwrap();
    let diff = DiffIndex::compute(&old, &DirIndex::scan(trees.tree()).unwrap());
    let archive = trees.path("changes.tar.gz");
    DiffData::create_archive(&archive, &diff).unwrap();
    let mut bytes = fs::read(&archive).unwrap();
    bytes[50_000] ^= 1;
    fs::write(&archive, bytes).unwrap();
    let report = apply_diff(trees.path("replica"), &diff, &DiffData::open(&archive, &diff).unwrap()).unwrap();
    assert_eq!(report.failures.iter().map(|failure| failure.path.to_string()).collect::<Vec<_>>(), ["bad"]);
    assert_eq!(fs::read(trees.path("replica/bad")).unwrap(), noise(100_000, 1));
    assert_eq!(fs::read(trees.path("replica/good")).unwrap(), b"new");
}

#[test]
fn an_archive_compressed_again_by_gzip_is_read() {
    let trees = Trees::new(|tree| fs::write(tree.join("file"), noise(2_000_000, 1)).unwrap());
    let old = DirIndex::scan(trees.tree()).unwrap();
    let mut bytes = noise(2_000_000, 1);
    bytes.splice(1000..1000, *b"inserted");
    fs::write(trees.path("tree/file"), bytes).unwrap();
    fs::write(trees.path("tree/new"), "new").unwrap();
    let diff = DiffIndex::compute(&old, &DirIndex::scan(trees.tree()).unwrap());
    let archive = trees.path("changes.tar.gz");
    DiffData::create_archive(&archive, &diff).unwrap();
    let script =
        "gzip -dc changes.tar.gz > plain && gzip -9c plain > changes.tar.gz && tar tzf changes.tar.gz";
    let done = Command::new("sh").args(["-c", script]).current_dir(trees.dir.path()).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    let report = apply_diff(trees.path("replica"), &diff, &DiffData::open(&archive, &diff).unwrap()).unwrap();
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    assert_same(&trees.tree(), &trees.path("replica"));
}

#[test]
fn a_directory_goes_when_what_it_held_was_renamed_out_of_it() {
    let trees = Trees::new(|tree| {
        fs::create_dir(tree.join("z")).unwrap();
        fs::write(tree.join("z/x"), "moves up").unwrap();
    });
    trees.carry(|tree| {
        fs::rename(tree.join("z/x"), tree.join("a")).unwrap();
        fs::remove_dir(tree.join("z")).unwrap();
    });
}

#[test]
fn a_directory_becomes_another_name_of_a_file() {
    let trees = Trees::new(|tree| {
        fs::create_dir(tree.join("name")).unwrap();
        fs::write(tree.join("file"), "content").unwrap();
    });
    trees.carry(|tree| {
        fs::remove_dir(tree.join("name")).unwrap();
        fs::hard_link(tree.join("file"), tree.join("name")).unwrap();
    });
}

#[test]
fn a_read_only_file_keeps_its_attributes() {
    let trees = Trees::new(|_| ());
    let set = |path: &Path, value: &[u8], mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
        // A file system without user attributes is no reason to skip the rest.
        let _ = xattr::set(path, "user.colour", value);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    trees.carry(|tree| {
        fs::write(tree.join("file"), "read-only").unwrap();
        set(&tree.join("file"), b"green", 0o444);
    });
    trees.carry(|tree| set(&tree.join("file"), b"blue", 0o400));
}

#[test]
fn applying_again_changes_nothing_and_leaves_nothing() {
    let trees = Trees::new(|tree| {
        fs::write(tree.join("moves"), "renamed").unwrap();
        fs::write(tree.join("file"), noise(50_000, 1)).unwrap();
        fs::write(tree.join("image"), noise(2 << 20, 2)).unwrap();
    });
    let diff = trees.carry(|tree| {
        fs::rename(tree.join("moves"), tree.join("moved")).unwrap();
        fs::hard_link(tree.join("file"), tree.join("link")).unwrap();
        let mut image = noise(2 << 20, 2);
        image[1_000_000] ^= 1;
        fs::write(tree.join("image"), image).unwrap();
    });
    let data = DiffData::open(trees.path("changes.tar.gz"), &diff).unwrap();
    let report = apply_diff(trees.path("replica"), &diff, &data).unwrap();
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    assert_same(&trees.tree(), &trees.path("replica"));
}

/// A source that gives nothing.
struct Nothing;

impl treering::diff::SegmentSource for Nothing {
    fn position(&self, _: &treering::diff::SegmentRef) -> u64 {
        0
    }

    fn read(
        &self,
        _: &treering::diff::SegmentRef,
        _: &dyn Fn(&treering::digest::Digest) -> Option<Vec<u8>>,
    ) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        Err("nothing is there".into())
    }
}

#[test]
fn what_a_failure_would_have_replaced_stays() {
    let trees = Trees::new(|tree| {
        fs::create_dir(tree.join("dir")).unwrap();
        fs::write(tree.join("dir/precious"), "precious").unwrap();
        fs::write(tree.join("leader"), "old").unwrap();
        fs::write(tree.join("link"), "own").unwrap();
        fs::write(tree.join("goes"), "part of a whole").unwrap();
    });
    let old = DirIndex::scan(trees.tree()).unwrap();
    fs::remove_dir_all(trees.path("tree/dir")).unwrap();
    fs::write(trees.path("tree/dir"), "now a file").unwrap();
    fs::write(trees.path("tree/leader"), "new").unwrap();
    fs::remove_file(trees.path("tree/link")).unwrap();
    fs::hard_link(trees.path("tree/leader"), trees.path("tree/link")).unwrap();
    fs::rename(trees.path("tree/goes"), trees.path("tree/aside")).unwrap();
    fs::create_dir(trees.path("tree/goes")).unwrap();
    fs::rename(trees.path("tree/aside"), trees.path("tree/goes/inner")).unwrap();
    let diff = DiffIndex::compute(&old, &DirIndex::scan(trees.tree()).unwrap());
    let report = apply_diff(trees.path("replica"), &diff, &Nothing).unwrap();
    let mut failed: Vec<_> = report.failures.iter().map(|failure| failure.path.to_string()).collect();
    failed.sort();
    assert_eq!(failed[..2], ["dir", "goes"]);
    assert_eq!(failed[2..], ["leader", "link"]);
    let read = |path: &str| fs::read_to_string(trees.path("replica").join(path)).unwrap();
    assert_eq!(
        (read("dir/precious"), read("leader"), read("link")),
        ("precious".into(), "old".into(), "own".into())
    );
    assert_eq!(read("goes/inner"), "part of a whole");
    let kept: Vec<_> = report
        .failures
        .iter()
        .filter_map(|failure| match &failure.source {
            treering::diff::ApplyError::Kept(path) => Some(path.to_string()),
            _ => None,
        })
        .collect();
    assert!(
        matches!(&kept[..], [kept] if kept.starts_with(".treering-kept-") && read(kept) == "part of a whole")
    );
}

mod random {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Thing {
        File(u8, u16),
        Directory(u16),
        Symlink(u8),
        HardLink(usize),
        Sparse(u8),
        Fifo,
    }

    fn thing() -> impl Strategy<Value = Thing> {
        let mode = prop::sample::select(vec![0o644u16, 0o600, 0o444, 0o755, 0o4755]);
        prop_oneof![
            6 => (0u8..5, mode).prop_map(|(content, mode)| Thing::File(content, mode)),
            3 => prop::sample::select(vec![0o755u16, 0o700, 0o555, 0o1777]).prop_map(Thing::Directory),
            1 => (0u8..3).prop_map(Thing::Symlink),
            3 => (0usize..20).prop_map(Thing::HardLink),
            1 => (0u8..2).prop_map(Thing::Sparse),
            1 => Just(Thing::Fifo),
        ]
    }

    type Tree = std::collections::BTreeMap<String, Thing>;

    fn tree() -> impl Strategy<Value = Tree> {
        prop::collection::btree_map("[a-d](/[a-c]){0,2}", thing(), 0..14)
    }

    /// Makes `tree` in the directory `root`; what lies in something that is no directory is left out.
    fn make(root: &Path, tree: &Tree) {
        let mut files: Vec<PathBuf> = Vec::new();
        let mut modes = Vec::new();
        for (path, thing) in tree {
            let path = root.join(path);
            let parents = path.parent().unwrap();
            if fs::create_dir_all(parents).is_err() || path.exists() {
                continue;
            }
            match thing {
                Thing::File(content, mode) => {
                    let text = format!("content {content}").repeat(usize::from(*content));
                    fs::write(&path, text).unwrap();
                    modes.push((path.clone(), *mode));
                    files.push(path);
                }
                Thing::Directory(mode) => {
                    fs::create_dir(&path).unwrap();
                    modes.push((path, *mode));
                }
                Thing::Symlink(to) => std::os::unix::fs::symlink(format!("{to}"), path).unwrap(),
                Thing::HardLink(to) if !files.is_empty() => {
                    fs::hard_link(&files[to % files.len()], path).unwrap();
                }
                Thing::HardLink(_) => {}
                Thing::Sparse(seed) => {
                    let file = fs::File::create(&path).unwrap();
                    std::os::unix::fs::FileExt::write_all_at(&file, &[*seed; 5000], 1 << 18).unwrap();
                    file.set_len((1 << 18) + (u64::from(*seed) << 17) + 5000).unwrap();
                    files.push(path);
                }
                Thing::Fifo => {
                    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
                    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
                }
            }
        }
        for (path, mode) in modes.into_iter().rev() {
            fs::set_permissions(path, fs::Permissions::from_mode(mode.into())).unwrap();
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn any_tree_becomes_any_other(old in tree(), new in tree()) {
            let trees = Trees::new(|root| make(root, &old));
            trees.carry(|root| {
                unlock(root);
                fs::remove_dir_all(root).unwrap();
                fs::create_dir(root).unwrap();
                make(root, &new);
            });
            let leftover = walkdir::WalkDir::new(trees.path("replica")).into_iter().flatten()
                .any(|entry| entry.file_name().to_string_lossy().starts_with(treering::atomic::TEMP_PREFIX));
            prop_assert!(!leftover);
        }
    }
}
