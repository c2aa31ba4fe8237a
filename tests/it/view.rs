//! Reading snapshots: what a view answers, and how much it reads for that.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use treering::diff::{Change, ChangeRef, Entry, Kind, compare};
use treering::relpath::RelPath;
use treering::repository::{PageRef, Repository, RepositoryError, Snapshot, SnapshotView};

use crate::lab::{self, Lab};
use crate::tree::noise;

/// Directories of some hundred files, of which one has further directories.
fn wide() -> Lab {
    let lab = Lab::new();
    for directory in 0..20 {
        for file in 0..150 {
            lab.write(&format!("dir{directory:02}/file{file:03}"), format!("{directory} {file}"));
        }
    }
    for directory in 0..10 {
        for file in 0..150 {
            lab.write(
                &format!("dir07/deep/sub{directory}/file{file:03}"),
                format!("deep {directory} {file}"),
            );
        }
    }
    lab
}

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

/// What `read` does, and how many pages it decodes.
fn counted<T>(repository: &Repository, read: impl FnOnce() -> T) -> (T, u64) {
    let before = repository.work().pages;
    let result = read();
    (result, repository.work().pages - before)
}

/// The numbers of the pages that have any of what `is_wanted`.
fn pages_with(snapshot: &Snapshot, all: &[Entry], is_wanted: impl Fn(&Entry) -> bool) -> BTreeSet<usize> {
    let pages = snapshot.record.pages.pages().unwrap();
    let numbers = pages.iter().enumerate().flat_map(|(number, page)| vec![number; page.entries as usize]);
    numbers.zip(all).filter(|(_, entry)| is_wanted(entry)).map(|(number, _)| number).collect()
}

fn all(view: &SnapshotView<'_>) -> Vec<Entry> {
    view.walk(&RelPath::root()).unwrap().collect::<Result<_, _>>().unwrap()
}

#[test]
fn a_directory_is_listed_from_its_own_pages() {
    let mut lab = wide();
    let snapshot = lab.backup().snapshot.unwrap();
    let repository = lab.open();
    let everything = all(&repository.view(&snapshot).unwrap());
    assert!(snapshot.record.pages.pages().unwrap().len() > 10);
    for directory in ["dir03", "dir07", "dir07/deep/sub4", "dir19/file149", "dir00"] {
        let top = path(directory);
        let own = pages_with(&snapshot, &everything, |entry| entry.path.is_within(&top)).len() as u64;
        let view = repository.view(&snapshot).unwrap();
        let (listed, decoded) = counted(&repository, || {
            let found = view.resolve(Some(directory.as_bytes())).unwrap();
            view.walk(&found).unwrap().collect::<Result<Vec<_>, _>>().unwrap()
        });
        let expected: Vec<_> =
            everything.iter().filter(|entry| entry.path.is_within(&top)).cloned().collect();
        assert_eq!(listed, expected, "{directory}");
        // The page before may end with the directory's own name.
        assert!(decoded <= own + 1, "{directory}: {decoded} of {own} pages");
    }
}

#[test]
fn what_is_further_down_is_passed_over() {
    let mut lab = wide();
    let snapshot = lab.backup().snapshot.unwrap();
    let repository = lab.open();
    let view = repository.view(&snapshot).unwrap();
    let everything = all(&view);
    for directory in ["", "dir07", "dir07/deep", "dir07/deep/sub3", "dir03/file001", "nothing"] {
        let top = path(directory);
        let is_child = |entry: &Entry| entry.path.parent().is_some_and(|parent| parent == top);
        let expected: Vec<_> = everything.iter().filter(|entry| is_child(entry)).cloned().collect();
        let children: Vec<_> = view.children(&top).unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(children, expected, "{directory:?}");
    }
    let own = pages_with(&snapshot, &everything, |entry| entry.path.parent() == Some(path("dir07/deep")));
    let below = pages_with(&snapshot, &everything, |entry| entry.path.is_within(&path("dir07/deep")));
    let view = repository.view(&snapshot).unwrap();
    let (children, decoded) = counted(&repository, || view.children(&path("dir07/deep")).unwrap().count());
    assert_eq!(children, 10);
    assert!(own.len() < below.len() && decoded <= own.len() as u64 + 1, "{decoded} of {own:?}, {below:?}");
}

#[test]
fn a_change_is_found_in_two_pages() {
    let mut lab = wide();
    let first = lab.backup().snapshot.unwrap();
    lab.write("dir11/file077", "something else");
    let second = lab.backup().snapshot.unwrap();
    let repository = lab.open();
    let (found, decoded) = counted(&repository, || repository.compare(&first, &second).unwrap());
    let [Change::Updated(entry)] = &found.changes[..] else { panic!("{:?}", found.changes) };
    assert_eq!(entry.path, path("dir11/file077"));
    assert_eq!(decoded, 2);
    let below = |path| counted(&repository, || repository.compare_paths((&first, path), (&second, path)));
    let (elsewhere, decoded) = below(Some(&b"dir07"[..]));
    assert!(elsewhere.unwrap().changes.is_empty());
    // Only to see that both have it.
    assert!(decoded <= 2, "{decoded}");
}

#[test]
fn a_damaged_page_is_told_of_and_hides_no_other() {
    let mut lab = wide();
    let snapshot = lab.backup().snapshot.unwrap();
    let everything = all(&lab.repository.view(&snapshot).unwrap());
    let pages = snapshot.record.pages.pages().unwrap();
    let blob = snapshot.record.pages.blobs[0].clone();
    let sound = lab.git_bytes(&["cat-file", "blob", &format!("HEAD:{blob}")]);
    let mut first = 0;
    for (number, PageRef { offset, len, entries, .. }) in pages.iter().copied().enumerate() {
        let mut bytes = sound.clone();
        bytes[(offset + u64::from(len)) as usize - 5] ^= 0xff;
        lab.replace(&blob, Some(&bytes));
        let repository = lab.open();
        let view = repository.view(&snapshot).unwrap();
        let lost = first..first + entries as usize;
        first = lost.end;
        let read: Vec<_> = view.walk(&RelPath::root()).unwrap().collect();
        assert_eq!(read.iter().filter(|entry| entry.is_err()).count(), 1, "page {number}");
        let read: Vec<_> = read.into_iter().filter_map(Result::ok).collect();
        let expected: Vec<_> =
            everything[..lost.start].iter().chain(&everything[lost.end..]).cloned().collect();
        assert_eq!(read, expected, "page {number}");
        // The neighbours are found by path, and what is lost is not said to be absent.
        for at in [lost.start.wrapping_sub(1), lost.end] {
            let Some(entry) = everything.get(at) else { continue };
            assert_eq!(view.entry(&entry.path).unwrap().as_ref(), Some(entry), "page {number}");
        }
        for entry in [&everything[lost.start], &everything[lost.end - 1]] {
            let found = view.entry(&entry.path);
            assert!(matches!(found, Err(RepositoryError::Damaged { .. })), "page {number}: {found:?}");
        }
    }
}

#[test]
fn a_file_is_read_from_anywhere() {
    let mut lab = Lab::new();
    lab.write("large", noise(3 << 20, 1));
    lab.write("empty", "");
    let sparse = File::create(lab.source().join("sparse")).unwrap();
    sparse.set_len(5 << 20).unwrap();
    sparse.write_all_at(&noise(100_000, 2), 1 << 20).unwrap();
    sparse.write_all_at(&noise(70_000, 3), 3 << 20).unwrap();
    let snapshot = lab.backup().snapshot.unwrap();
    let repository = lab.open();
    let view = repository.view(&snapshot).unwrap();
    for name in ["large", "sparse", "empty"] {
        let content = fs::read(lab.source().join(name)).unwrap();
        let mut file = view.open(&view.entry(&path(name)).unwrap().unwrap()).unwrap();
        assert_eq!(file.size(), content.len() as u64);
        let mut read = Vec::new();
        file.read_to_end(&mut read).unwrap();
        assert!(read == content, "{name}");
        for (from, len) in
            [(0, 10), (1 << 20, 200_000), ((3 << 20) - 5, 10), (2 << 20, 1 << 20), (9 << 20, 5)]
        {
            file.seek(SeekFrom::Start(from as u64)).unwrap();
            let mut piece = Vec::new();
            file.by_ref().take(len).read_to_end(&mut piece).unwrap();
            let start = from.min(content.len());
            assert!(piece == content[start..(start + len as usize).min(content.len())], "{name} from {from}");
        }
        assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), content.len() as u64);
        assert_eq!(file.seek(SeekFrom::Start(0)).unwrap(), 0);
        assert!(file.seek(SeekFrom::Current(-1)).is_err());
    }
    let top = view.entry(&RelPath::root()).unwrap().unwrap();
    assert!(matches!(view.open(&top).err().unwrap(), RepositoryError::NotFile(_)));
}

#[test]
fn a_segment_is_checked_before_it_is_handed_out() {
    let mut lab = Lab::new();
    lab.write("file", noise(50_000, 1));
    let snapshot = lab.backup().snapshot.unwrap();
    let entry = lab.repository.view(&snapshot).unwrap().entry(&path("file")).unwrap().unwrap();
    let Kind::File(mut content) = entry.kind.clone() else { panic!() };
    let mut segments = content.segments.to_vec();
    segments[0].len -= 1;
    content.size -= 1;
    content.segments = segments.into();
    let view = lab.repository.view(&snapshot).unwrap();
    let mut file = view.open(&Entry { kind: Kind::File(content), ..entry }).unwrap();
    let error = file.read(&mut [0; 10]).unwrap_err();
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<RepositoryError>());
    assert!(matches!(cause, Some(RepositoryError::SegmentLen { .. })), "{error}");
}

/// Something that happens to a tree: what, and to which names.
type Edit = (u8, usize, usize);

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    /// What is found by looking at few pages is what all pages say, links and renames included.
    #[test]
    fn changes_are_those_of_all_entries(
        rounds in prop::collection::vec(prop::collection::vec((0u8..6, 0usize..400, 0usize..400), 1..8), 2..4),
    ) {
        let mut lab = Lab::new();
        let name = |number: usize| format!("dir{}/file{number:03}", number / 40);
        for number in 0..400 {
            lab.write(&name(number), format!("content {number}"));
        }
        for number in (0..400).step_by(37) {
            let at = |name: String| lab.source().join(name);
            fs::hard_link(at(name(number)), at(format!("{}-link", name((number * 7) % 400)))).unwrap();
        }
        let mut snapshots = vec![lab.backup().snapshot.unwrap()];
        for (round, edits) in rounds.into_iter().enumerate() {
            for edit in edits {
                apply(&lab, round, edit, name);
            }
            snapshots.extend(lab.backup().snapshot);
        }
        let repository = lab.open();
        for old in &snapshots {
            for new in &snapshots {
                let (old_view, new_view) = (repository.view(old).unwrap(), repository.view(new).unwrap());
                let (before, after) = (all(&old_view), all(&new_view));
                let expected: Vec<_> = compare(&before, &after).iter().map(ChangeRef::to_owned).collect();
                prop_assert_eq!(&old_view.changes(&new_view).unwrap(), &expected);
                prop_assert_eq!(&repository.compare(old, new).unwrap().changes, &expected);
            }
        }
        let paths: Vec<_> = lab::entries(&repository, &snapshots[0], Some(b"dir3")).unwrap();
        prop_assert!(paths.iter().all(|entry| entry.path.is_within(&path("dir3"))));
    }
}

fn apply(lab: &Lab, round: usize, (what, one, other): Edit, name: impl Fn(usize) -> String) {
    let (one, other) = (lab.source().join(name(one)), lab.source().join(name(other)));
    // What an earlier edit took away is passed over.
    let _ = match what {
        0 => fs::write(&one, format!("changed in {round}")),
        1 => fs::remove_file(&one),
        2 => fs::rename(&one, &other),
        3 => fs::remove_file(&other).and_then(|()| fs::hard_link(&one, &other)),
        4 => fs::rename(one.with_file_name("none"), &other).or_else(|_| fs::write(&other, "new")),
        _ => fs::copy(&one, one.with_extension("copy")).map(drop),
    };
}
