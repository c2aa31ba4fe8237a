//! Repositories that somebody made up: what a check calls sound is restored, and nothing else.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;

use jiff::Timestamp;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use treering::archive::gzip;
use treering::cbor;
use treering::diff::{Content, Entry, Kind, SegmentRef, page};
use treering::digest::Digest;
use treering::progress::Progress;
use treering::relpath::RelPath;
use treering::repository::{
    CheckOptions, PageList, PageRef, PruneOptions, RepositoryError, RestoreOptions, Selector, SnapshotRecord,
};

use crate::commits::commit;
use crate::lab::{self, Lab};

/// A repository with one snapshot, whose record and pages are made up from what a backup saved.
pub struct Crafted {
    pub lab: Lab,
    /// Where the record lies in the tree.
    pub path: String,
    pub record: SnapshotRecord,
    /// What the backup saw.
    pub entries: Vec<Entry>,
}

impl Crafted {
    pub fn new() -> Self {
        let mut lab = Lab::new();
        for name in ["a", "b/c", "b/d", "e"] {
            lab.write(name, format!("{name}\n").repeat(100));
        }
        lab.backup();
        Self::of(lab)
    }

    /// Of the newest snapshot in a lab.
    pub fn of(lab: Lab) -> Self {
        let repository = lab.open();
        let snapshot = repository.find(&Selector::Latest(0)).unwrap();
        let entries = lab::entries(&repository, &snapshot, None).unwrap();
        let path = treering::timeline::path("snapshots", &snapshot.key, ".cbor");
        Self { path, record: snapshot.record.clone(), entries, lab }
    }

    /// Commits blobs, each at a path.
    pub fn commit(&self, blobs: &[(&str, &[u8])]) {
        commit(&self.lab.path("repo"), |transaction, edit| {
            for (path, bytes) in blobs {
                edit.set(path.as_bytes(), transaction.blob(bytes).unwrap()).unwrap();
            }
        });
    }

    /// Makes the snapshot one of `pages`, of which `list` makes what the record says.
    pub fn write(&self, pages: &[Vec<u8>], list: impl FnOnce(Vec<PageRef>) -> Vec<PageRef>) {
        let index = self.path.replace("snapshots/", "index/").replace(".cbor", "-99.cbor.gz");
        let mut offset = 0;
        let places = pages.iter().map(|packed| {
            let (at, len) = (offset, packed.len());
            offset += len as u64;
            PageRef { blob: 0, offset: at, len: len as u32, entries: 1 }
        });
        let places = list(places.collect());
        let record =
            SnapshotRecord { pages: PageList::new(vec![index.clone()], &places), ..self.record.clone() };
        self.commit(&[(&index, &pages.concat()), (&self.path, &cbor::to_vec(&record).unwrap())]);
    }

    /// Makes the snapshot one of these pages of entries.
    pub fn write_entries(&self, pages: &[Vec<Entry>], change: impl FnOnce(&mut Vec<PageRef>)) {
        let packed: Vec<_> = pages.iter().map(|entries| pack(entries)).collect();
        self.write(&packed, |mut places| {
            for (place, entries) in places.iter_mut().zip(pages) {
                place.entries = entries.len() as u32;
            }
            change(&mut places);
            places
        });
    }

    /// What a check that reads everything finds.
    fn faults(&self) -> Vec<String> {
        let options = CheckOptions { read_data: true, ..CheckOptions::default() };
        let report = self.lab.open().check(&options, &Progress::new()).unwrap();
        report.faults.iter().map(ToString::to_string).collect()
    }

    /// Restores the snapshot to a new directory; why not all of it can be.
    fn restore(&self) -> Result<(), String> {
        let target = tempfile::tempdir().unwrap();
        let repository = self.lab.open();
        let snapshot = repository.find(&Selector::Latest(0)).map_err(|error| error.to_string())?;
        let options = RestoreOptions::new(target.path().join("out"));
        let restored = repository.restore(&snapshot, &options, &Progress::new());
        let failures = restored.map_err(|error| error.to_string())?.applied.failures;
        if failures.is_empty() { Ok(()) } else { Err(format!("{failures:?}")) }
    }
}

pub fn pack(entries: &[Entry]) -> Vec<u8> {
    gzip(&page::encode(entries).unwrap()).unwrap()
}

pub fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

/// An entry like another.
pub fn like(entry: &Entry, at: &str, kind: Kind) -> Entry {
    Entry { path: path(at), kind, meta: entry.meta.clone() }
}

#[test]
fn what_cannot_be_restored_is_a_fault_of_a_check() {
    type Change = Box<dyn Fn(&mut Vec<Vec<Entry>>)>;
    type List = fn(&mut Vec<PageRef>);
    let entries = |change: fn(&mut Vec<Entry>)| -> Change { Box::new(move |pages| change(&mut pages[0])) };
    let with_first = |change: fn(&mut Content)| -> Change {
        Box::new(move |pages| {
            let contents = pages.iter_mut().flatten().filter_map(|entry| match &mut entry.kind {
                Kind::File(content) => Some(content),
                _ => None,
            });
            contents.take(1).for_each(change);
        })
    };
    let nothing = || entries(|_| {});
    let none: List = |_| {};
    let cases: Vec<(&str, Change, List)> = vec![
        (
            "a segment of another length",
            with_first(|content| {
                let SegmentRef { digest, len } = content.segments[0];
                content.segments = vec![SegmentRef { digest, len: len + 1 }].into();
                content.size += 1;
            }),
            none,
        ),
        (
            "a segment that is nowhere",
            with_first(|content| {
                let len = content.segments[0].len;
                content.segments = vec![SegmentRef { digest: Digest::of(b"nowhere"), len }].into();
            }),
            none,
        ),
        (
            "a file that is another's parent",
            entries(|entries| {
                let file = entries.iter().find(|entry| entry.content().is_some()).unwrap().clone();
                let below = like(&file, &format!("{}/below", file.path), file.kind.clone());
                let at = entries.iter().position(|entry| *entry == file).unwrap();
                entries.insert(at + 1, below);
            }),
            none,
        ),
        (
            "a file that is the parent of what stands in the next page",
            Box::new(|pages| {
                let last = pages[0].last().unwrap().clone();
                let file = pages.concat().iter().find(|entry| entry.content().is_some()).unwrap().clone();
                pages.truncate(1);
                let leaf = format!("{}-leaf", last.path);
                pages[0].push(like(&file, &leaf, file.kind.clone()));
                pages.push(vec![like(&file, &format!("{leaf}/below"), file.kind.clone())]);
            }),
            none,
        ),
        ("pages out of order", Box::new(|pages| pages.reverse()), none),
        ("a page twice", nothing(), |places| places.push(places[0])),
        ("two pages that overlap", nothing(), |places| places[1].offset -= 1),
        ("a page that says it has more entries", nothing(), |places| places[0].entries += 1),
        ("a page that says it has fewer entries", nothing(), |places| places[1].entries -= 1),
        ("a page of no entries", nothing(), |places| places[0].entries = 0),
        (
            "a link to nothing",
            entries(|entries| entries.push(like(&entries[0].clone(), "z", Kind::Symlink([].into())))),
            none,
        ),
        (
            "a name that no file system takes",
            entries(|entries| entries.push(like(&entries[0].clone(), &"z".repeat(256), Kind::Fifo))),
            none,
        ),
        ("a root that is a file", entries(|entries| entries[0].kind = Kind::File(Content::default())), none),
    ];
    let crafted = Crafted::new();
    let halves = || {
        let (one, other) = crafted.entries.split_at(crafted.entries.len() / 2);
        vec![one.to_vec(), other.to_vec()]
    };
    crafted.write_entries(&halves(), |_| {});
    assert_eq!(crafted.faults(), [""; 0]);
    crafted.restore().unwrap();
    for (name, change, list) in cases {
        let mut pages = halves();
        change(&mut pages);
        // What follows the entries that a case appends would be out of order.
        let is_appended = pages[0].last().is_some_and(|last| last.path > pages[1][0].path)
            && pages[0].len() > halves()[0].len();
        if is_appended {
            let added = pages[0].pop().unwrap();
            pages[1].push(added);
        }
        crafted.write_entries(&pages, list);
        let (faults, restored) = (crafted.faults(), crafted.restore());
        assert!(restored.is_err(), "{name} is restored");
        assert!(!faults.is_empty(), "{name} is no fault, and yet {restored:?}");
    }
}

/// What may be done to the entries, or to what the record says.
#[derive(Debug, Clone)]
enum Damage {
    /// Entries change places.
    Swap(prop::sample::Index, prop::sample::Index),
    /// An entry is gone.
    Drop(prop::sample::Index),
    /// An entry is another kind of thing.
    Turn(prop::sample::Index, u8),
    /// The length of a file and its only segment is another.
    Stretch(prop::sample::Index, u8),
    /// A file has the content of another.
    Share(prop::sample::Index, prop::sample::Index),
    /// A count is another.
    Count(prop::sample::Index, u8),
    /// A page is listed somewhere else.
    List(prop::sample::Index, prop::sample::Index),
    /// A byte of a page is another.
    Byte(prop::sample::Index, u8),
}

fn damage() -> impl Strategy<Value = Damage> {
    let index = || any::<prop::sample::Index>();
    prop_oneof![
        (index(), index()).prop_map(|(one, other)| Damage::Swap(one, other)),
        index().prop_map(Damage::Drop),
        (index(), 0u8..4).prop_map(|(at, kind)| Damage::Turn(at, kind)),
        (index(), 0u8..3).prop_map(|(at, by)| Damage::Stretch(at, by)),
        (index(), index()).prop_map(|(one, other)| Damage::Share(one, other)),
        (index(), 0u8..5).prop_map(|(at, count)| Damage::Count(at, count)),
        (index(), index()).prop_map(|(one, other)| Damage::List(one, other)),
        (index(), any::<u8>()).prop_map(|(at, byte)| Damage::Byte(at, byte)),
    ]
}

#[test]
fn a_check_finds_no_fault_just_where_a_restore_has_no_failure() {
    let crafted = Crafted::new();
    let outcomes = RefCell::new(BTreeSet::new());
    let cases = (prop::collection::vec(damage(), 0..3), 1usize..4);
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() });
    let run = runner.run(&cases, |(damages, pages)| {
        let mut entries = crafted.entries.clone();
        for damage in &damages {
            let len = entries.len();
            match damage {
                Damage::Swap(one, other) if len > 0 => entries.swap(one.index(len), other.index(len)),
                Damage::Drop(at) if len > 1 => drop(entries.remove(at.index(len))),
                Damage::Turn(at, kind) if len > 0 => {
                    entries[at.index(len)].kind = match kind {
                        0 => Kind::Directory,
                        1 => Kind::File(Content::default()),
                        2 => Kind::Fifo,
                        _ => Kind::Symlink(b"somewhere".as_slice().into()),
                    }
                }
                Damage::Stretch(at, by) if len > 0 => {
                    if let Kind::File(content) = &mut entries[at.index(len)].kind
                        && let [only] = &*content.segments
                    {
                        content.segments =
                            vec![SegmentRef { len: only.len + u32::from(*by), ..*only }].into();
                        content.size += u64::from(*by);
                    }
                }
                Damage::Share(one, other) if len > 0 => {
                    if let (Kind::File(content), true) =
                        (entries[one.index(len)].kind.clone(), entries[other.index(len)].content().is_some())
                    {
                        entries[other.index(len)].kind = Kind::File(content);
                    }
                }
                _ => {}
            }
        }
        let each = entries.len().div_ceil(pages);
        let parts: Vec<Vec<Entry>> = entries.chunks(each).map(<[Entry]>::to_vec).collect();
        let mut packed: Vec<_> = parts.iter().map(|entries| pack(entries)).collect();
        for damage in &damages {
            if let Damage::Byte(at, byte) = damage {
                let page = at.index(packed.len());
                let at = at.index(packed[page].len());
                packed[page][at] = *byte;
            }
        }
        crafted.write(&packed, |mut places| {
            for (place, entries) in places.iter_mut().zip(&parts) {
                place.entries = entries.len() as u32;
            }
            for damage in &damages {
                let len = places.len();
                match damage {
                    Damage::Count(at, count) => places[at.index(len)].entries = u32::from(*count),
                    Damage::List(one, other) => places[one.index(len)] = places[other.index(len)],
                    _ => {}
                }
            }
            places
        });
        let (faults, restored) = (crafted.faults(), crafted.restore());
        outcomes.borrow_mut().insert(restored.is_ok());
        prop_assert_eq!(faults.is_empty(), restored.is_ok(), "{:?}: {:?}, {:?}", damages, faults, restored);
        Ok(())
    });
    run.unwrap();
    assert_eq!(outcomes.borrow().len(), 2, "some are sound and some are not");
}

#[test]
fn a_branch_that_was_set_back_is_a_fault_and_nothing_is_pruned() {
    let mut lab = Lab::new();
    lab.write("a", "1");
    lab.backup();
    let before = lab.git(&["rev-parse", "main"]);
    lab.write("a", "2");
    lab.backup();
    let newest = lab.git(&["rev-parse", "main"]);
    lab.git(&["update-ref", "refs/heads/main", before.trim()]);
    let faults = |lab: &Lab| {
        let report = lab.open().check(&CheckOptions::default(), &Progress::new()).unwrap();
        report.faults.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let prune = |lab: &Lab| lab.open().prune(&PruneOptions::new(Timestamp::now()), &Progress::new());
    let [fault] = &faults(&lab)[..] else { panic!("{:?}", faults(&lab)) };
    assert!(fault.contains(newest.trim()), "{fault}");
    assert!(matches!(prune(&lab), Err(RepositoryError::SetBack { snapshots: 1, has_more: false, .. })));
    // A backup on top of it does not hide that.
    lab.write("b", "3");
    lab.backup();
    assert_eq!(faults(&lab).len(), 1);
    assert!(matches!(prune(&lab), Err(RepositoryError::SetBack { snapshots: 1, has_more: true, .. })));
    // The way back that the fault names.
    lab.git(&["update-ref", "refs/heads/main", newest.trim()]);
    assert!(faults(&lab).is_empty());
    prune(&lab).unwrap();
    lab.reopen();
    assert_eq!(lab.repository.snapshots().unwrap().len(), 2);
    assert!(faults(&lab).is_empty());
    // And the way to give them up.
    lab.git(&["update-ref", "refs/heads/main", before.trim()]);
    fs::remove_file(lab.path("repo/treering/newest")).unwrap();
    assert!(faults(&lab).is_empty());
}
