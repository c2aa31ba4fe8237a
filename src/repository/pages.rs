//! Reading the index of a snapshot, and writing a new one that shares the pages that did not change.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;

use indexmap::IndexSet;

use crate::archive::gzip;
use crate::diff::page::{Allowance, PageError, UnpackError};
use crate::diff::{Entry, page};
use crate::format::kind;
use crate::pipeline::{self, Closed, lock};
use crate::relpath::RelPath;
use crate::repository::blobs::Blob;
use crate::repository::snapshot::{PageList, PageRef, SnapshotRecord};
use crate::repository::{Repository, RepositoryError};
use crate::timeline::{Batch, Tier, TimeKey};

/// A blob of pages is closed at this many bytes.
const BLOB: usize = 4 << 20;

/// A blob of pages is read whole only up to this many bytes: [`BLOB`], and a page of a very large file.
const MAX_BLOB: u64 = 64 << 20;

/// What a list of pages is called where it is damaged.
const PAGE_LIST: &str = "the list of pages in a snapshot record";

/// The pages of one snapshot.
pub(super) struct Pages<'a> {
    repository: &'a Repository,
    /// The blobs that hold them, each with its path; `None` where nothing is there.
    blobs: Vec<(String, Option<Blob>)>,
    pages: Vec<PageRef>,
    /// What the pages may take in memory, all together.
    allowance: Allowance,
    /// The first paths of those that were looked at; `None` of a damaged one.
    firsts: Mutex<HashMap<usize, Option<RelPath>>>,
}

/// A page of more bytes, as one of a very large file, is decoded when it is its turn and not ahead, since it may take
/// much memory.
const LARGE: u32 = 256 << 10;

/// Checks that pages follow each other as they must: no path of a page before the last one of the page before.
#[derive(Default)]
pub(super) struct PageOrder {
    last: Option<RelPath>,
}

impl PageOrder {
    /// Takes the next page: the paths of its first and last entry.
    pub fn follow(&mut self, first: &RelPath, last: &RelPath) -> Result<(), PageError> {
        if self.last.as_ref().is_some_and(|before| before >= first) {
            return Err(PageError::Order(first.clone()));
        }
        self.last = Some(last.clone());
        Ok(())
    }
}

impl<'a> Pages<'a> {
    /// Of no snapshot.
    pub fn none(repository: &'a Repository) -> Self {
        let (blobs, pages, allowance, firsts) = Default::default();
        Self { repository, blobs, pages, allowance, firsts }
    }

    /// Of the snapshot with that record. What is missing or damaged is found when it is read, so that one bad page
    /// hides no other.
    pub fn of(repository: &'a Repository, record: &SnapshotRecord) -> Result<Self, RepositoryError> {
        let find = |path: &String| Ok((path.clone(), repository.find_blob(path)?));
        let blobs = record.pages.blobs.iter().map(find).collect::<Result<_, RepositoryError>>()?;
        let pages = record.pages.pages();
        let pages = pages.map_err(|error| RepositoryError::damaged(PAGE_LIST)(error.into()))?;
        let (allowance, firsts) = Default::default();
        Ok(Self { repository, blobs, pages, allowance, firsts })
    }

    /// How many pages there are.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Where page `number` lies: the path of its blob, and the range there.
    pub fn place(&self, number: usize) -> (&str, PageRef) {
        let page = self.pages[number];
        (&self.blobs[page.blob as usize].0, page)
    }

    /// The entries of page `number`: in order, and as many as the list says.
    pub fn read(&self, number: usize) -> Result<Vec<Entry>, RepositoryError> {
        self.read_with(number, |bytes| self.decode(number, bytes))
    }

    /// The path of the first entry of page `number`; `None` where the page is damaged or has no entries.
    fn first_path(&self, number: usize) -> Result<Option<RelPath>, RepositoryError> {
        if let Some(known) = lock(&self.firsts).get(&number) {
            return Ok(known.clone());
        }
        let damaged = |error: UnpackError| RepositoryError::damaged(self.place(number).0)(error.into());
        let read = self.read_with(number, |bytes| self.allowance.first_path(number, bytes).map_err(damaged));
        let first = match read {
            Err(RepositoryError::Damaged { .. }) => None,
            first => first?,
        };
        lock(&self.firsts).insert(number, first.clone());
        Ok(first)
    }

    /// What `decode` makes of page `number`, compressed as it is.
    fn read_with<T>(
        &self,
        number: usize,
        decode: impl Fn(&[u8]) -> Result<T, RepositoryError>,
    ) -> Result<T, RepositoryError> {
        let page = self.pages[number];
        let (path, blob) = &self.blobs[page.blob as usize];
        let blob = blob.as_ref().ok_or_else(|| RepositoryError::nothing_at(path))?;
        let range = self.repository.read_blob_range(blob, page.offset, page.len.into());
        match range.and_then(|bytes| decode(&bytes)) {
            Err(RepositoryError::Damaged { source, .. }) => {
                // A whole blob is checked against its id, and may have a sound copy where its range had none.
                let damaged = || RepositoryError::damaged(path)(source);
                let Ok(bytes) = self.repository.read_blob_within(blob, MAX_BLOB) else {
                    return Err(damaged());
                };
                let end = page.offset.saturating_add(page.len.into());
                let range = usize::try_from(page.offset).ok().zip(usize::try_from(end).ok());
                let bytes = range.and_then(|(start, end)| bytes.get(start..end));
                bytes.and_then(|bytes| decode(bytes).ok()).ok_or_else(damaged)
            }
            read => read,
        }
    }

    fn decode(&self, number: usize, bytes: &[u8]) -> Result<Vec<Entry>, RepositoryError> {
        let (path, page) = self.place(number);
        self.repository.counted.pages.add(1);
        let entries = self.allowance.unpack(number, bytes);
        let entries = entries.map_err(|error| RepositoryError::damaged(path)(error.into()))?;
        match entries.len() == page.entries as usize {
            true => Ok(entries),
            false => {
                let fault = format!("a page has {} entries instead of {}", entries.len(), page.entries);
                Err(RepositoryError::damaged(path)(fault.into()))
            }
        }
    }

    /// Hands all pages to `consume`, in order, decoding some ahead on `threads` threads. Fails where they do not follow
    /// each other.
    pub fn for_each<E: From<RepositoryError>>(
        &self,
        threads: usize,
        mut consume: impl FnMut(usize, Vec<Entry>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut order = PageOrder::default();
        let all: Vec<usize> = (0..self.len()).collect();
        self.for_each_of(&all, threads, |number, page| {
            self.follow(&mut order, number, &page)?;
            consume(number, page)
        })
    }

    /// Takes page `number` as the next one.
    pub fn follow(
        &self,
        order: &mut PageOrder,
        number: usize,
        page: &[Entry],
    ) -> Result<(), RepositoryError> {
        let Some((first, last)) = page.first().zip(page.last()) else { return Ok(()) };
        self.follow_ends(order, number, &first.path, &last.path)
    }

    /// The same, of a page that begins and ends with these paths.
    pub fn follow_ends(
        &self,
        order: &mut PageOrder,
        number: usize,
        first: &RelPath,
        last: &RelPath,
    ) -> Result<(), RepositoryError> {
        order
            .follow(first, last)
            .map_err(|error| RepositoryError::damaged(self.place(number).0)(error.into()))
    }

    /// How much of the memory that a small index may expand to page `number`, which was read, takes.
    pub fn taken(&self, number: usize) -> u64 {
        self.allowance.taken(number)
    }

    /// Counts a page that was read as one of another snapshot.
    pub fn take(&self, number: usize, bytes: u64) -> Result<(), RepositoryError> {
        let taken = self.allowance.take(number, bytes);
        taken.map_err(|error| RepositoryError::damaged(self.place(number).0)(error.into()))
    }

    /// As [`for_each`](Self::for_each), of the pages of these numbers, whether they follow each other or not.
    pub fn for_each_of<E: From<RepositoryError>>(
        &self,
        numbers: &[usize],
        threads: usize,
        mut consume: impl FnMut(usize, Vec<Entry>) -> Result<(), E>,
    ) -> Result<(), E> {
        if numbers.len() < 2 {
            return numbers.iter().try_for_each(|&number| consume(number, self.read(number)?));
        }
        pipeline::ordered(
            threads,
            4 * threads,
            |feed| numbers.iter().try_for_each(|&number| feed.send(number)).unwrap_or_default(),
            |number| (number, (!self.is_large(number)).then(|| self.read(number))),
            |(number, page)| consume(number, page.unwrap_or_else(|| self.read(number))?),
        )
    }

    /// The numbers of the pages that may have `path` and what is below it. Pages are in order, so few are looked at; of
    /// those that are damaged, any may be among them.
    pub fn range_of(&self, path: &RelPath) -> Result<Range<usize>, RepositoryError> {
        if path.is_root() {
            return Ok(0..self.len());
        }
        let start = self.partition_point(0, |first| first <= path)?.saturating_sub(1);
        let mut end = self.partition_point(start, |first| first <= path || first.is_within(path))?;
        while end < self.len() && self.first_path(end)?.is_none() {
            end += 1;
        }
        Ok(start..end)
    }

    /// The number of the first page from `low` on behind all sound ones whose first paths are `before`.
    fn partition_point(
        &self,
        mut low: usize,
        before: impl Fn(&RelPath) -> bool,
    ) -> Result<usize, RepositoryError> {
        let mut high = self.len();
        while low < high {
            let middle = low + (high - low) / 2;
            let mut sound = None;
            for number in middle..high {
                if let Some(first) = self.first_path(number)? {
                    sound = Some((number, first));
                    break;
                }
            }
            match sound {
                Some((number, first)) if before(&first) => low = number + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// What tells page `number` from others, also those of other snapshots.
    pub fn identity(&self, number: usize) -> (&str, u64, u32, u32) {
        let (path, PageRef { offset, len, entries, .. }) = self.place(number);
        (path, offset, len, entries)
    }

    /// The entries of the pages of these numbers, which are few.
    pub fn read_several(&self, numbers: &[usize]) -> Vec<Result<Vec<Entry>, RepositoryError>> {
        let read =
            |numbers: &[usize]| -> Vec<_> { numbers.iter().map(|&number| self.read(number)).collect() };
        let (some, others) = numbers.split_at(numbers.len() / 2);
        if some.is_empty() {
            return read(others);
        }
        std::thread::scope(|scope| {
            let others = scope.spawn(|| read(others));
            let mut pages = read(some);
            pages.extend(others.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            pages
        })
    }

    /// Whether page `number` may take much memory.
    pub fn is_large(&self, number: usize) -> bool {
        self.pages[number].len > LARGE
    }
}

/// What an index is made of, in order: `T` of each new page.
enum Part<T> {
    /// Pages of the parent, as they are.
    Reused(Range<usize>),
    /// A new page.
    New(T),
}

/// A new page, compressed.
struct Packed {
    bytes: Vec<u8>,
    entries: u32,
}

impl Packed {
    fn new(entries: &[Entry]) -> Result<Self, RepositoryError> {
        Ok(Self { bytes: gzip(&page::encode(entries)?)?, entries: entries.len() as u32 })
    }
}

/// Cuts entries into pages.
struct Cutter<F> {
    entries: Vec<Entry>,
    reused: Range<usize>,
    send: F,
}

impl<F: FnMut(Part<Vec<Entry>>) -> Result<(), Closed>> Cutter<F> {
    fn push(&mut self, entry: Entry) -> Result<(), Closed> {
        let ends = page::ends_after(&entry.path, self.entries.len() + 1);
        self.entries.push(entry);
        if ends { self.end_page() } else { Ok(()) }
    }

    /// Whether the next page of the parent can be used as it is: nothing waits to be put before it.
    fn can_reuse(&self) -> bool {
        self.entries.is_empty()
    }

    fn reuse(&mut self, number: usize) -> Result<(), Closed> {
        if self.reused.end != number {
            self.end_reused()?;
            self.reused.start = number;
        }
        self.reused.end = number + 1;
        Ok(())
    }

    fn end_reused(&mut self) -> Result<(), Closed> {
        match std::mem::take(&mut self.reused) {
            none if none.is_empty() => Ok(()),
            reused => (self.send)(Part::Reused(reused)),
        }
    }

    fn end_page(&mut self) -> Result<(), Closed> {
        self.end_reused()?;
        match std::mem::take(&mut self.entries) {
            none if none.is_empty() => Ok(()),
            entries => (self.send)(Part::New(entries)),
        }
    }
}

/// Gathers pages in blobs.
struct PageWriter<'a, 'b> {
    repository: &'a Repository,
    key: TimeKey,
    parent: &'a Pages<'a>,
    batch: &'a mut Batch<'b>,
    blob: Vec<u8>,
    /// Blobs of this index that are written already.
    closed: u32,
    /// The blobs that are listed, each with its number.
    blobs: IndexSet<String>,
    pages: Vec<PageRef>,
    new: u64,
}

impl PageWriter<'_, '_> {
    /// Adds page `number` of the parent as it is.
    fn reuse(&mut self, number: usize) {
        let (path, page) = self.parent.place(number);
        let blob = self.blob_number(path);
        self.pages.push(PageRef { blob, ..page });
    }

    fn add(&mut self, page: Packed) -> Result<(), RepositoryError> {
        let Packed { bytes, entries } = page;
        if self.blob.len() + bytes.len() > BLOB {
            self.close_blob()?;
        }
        let blob = self.blob_number(&self.blob_path());
        let page = PageRef { blob, offset: self.blob.len() as u64, len: bytes.len() as u32, entries };
        self.blob.extend(bytes);
        self.pages.push(page);
        self.new += 1;
        Ok(())
    }

    /// The number of a blob in the list, to which it is added if it is new.
    fn blob_number(&mut self, path: &str) -> u32 {
        let known = self.blobs.get_index_of(path);
        known.unwrap_or_else(|| self.blobs.insert_full(path.to_owned()).0) as u32
    }

    fn suffix(&self) -> String {
        format!("-{}.cbor.gz", self.closed)
    }

    fn blob_path(&self) -> String {
        crate::timeline::path(kind::INDEX, &self.key, &self.repository.suffix(&self.suffix()))
    }

    fn close_blob(&mut self) -> Result<(), RepositoryError> {
        if !self.blob.is_empty() {
            let content = self.repository.encode(std::mem::take(&mut self.blob), Tier::Metadata)?;
            self.repository.put(self.batch, kind::INDEX, &self.key, &self.suffix(), &content)?;
            self.closed += 1;
        }
        Ok(())
    }

    /// Writes what is left; returns the list of all pages, and how many of them are new.
    fn finish(mut self) -> Result<(PageList, u64), RepositoryError> {
        self.close_blob()?;
        Ok((PageList::new(self.blobs.into_iter().collect(), &self.pages), self.new))
    }
}

/// A page of the parent.
pub(super) struct ParentPage {
    /// Which.
    pub number: usize,
    /// Its last path.
    pub last: RelPath,
    /// Whether anything in it changed, or is new between the page before and its last path.
    pub dirty: bool,
}

/// The difference between an index and the one to be written.
pub(super) struct IndexChange<'a> {
    /// What of the parent changed or is gone, in path order.
    pub old: &'a [Entry],
    /// What is new or changed, in path order.
    pub new: &'a [Entry],
    /// The pages of the parent.
    pub pages: &'a [ParentPage],
}

impl IndexChange<'_> {
    /// Writes the index of the snapshot `key`: pages of the parent in which nothing changed as they are, the others
    /// anew, compressed on `threads` threads. Returns the list of all pages, and how many of them are new.
    pub fn write(
        &self,
        key: TimeKey,
        parent: &Pages<'_>,
        threads: usize,
        batch: &mut Batch<'_>,
    ) -> Result<(PageList, u64), RepositoryError> {
        let repository = parent.repository;
        let (blob, blobs, pages) = Default::default();
        let mut writer = PageWriter { repository, key, parent, batch, blob, closed: 0, blobs, pages, new: 0 };
        pipeline::ordered(
            threads,
            4 * threads,
            |feed| match self.cut(parent, |part| feed.send(Ok(part))) {
                // Nobody wants more once the other side has failed.
                Ok(Ok(())) | Err(Closed) => {}
                Ok(Err(unreadable)) => feed.send(Err(unreadable)).unwrap_or_default(),
            },
            |part| match part? {
                Part::Reused(numbers) => Ok(Part::Reused(numbers)),
                Part::New(entries) => Packed::new(&entries).map(Part::New),
            },
            |part| {
                match part? {
                    Part::Reused(numbers) => numbers.for_each(|number| writer.reuse(number)),
                    Part::New(page) => writer.add(page)?,
                }
                Ok::<_, RepositoryError>(())
            },
        )?;
        writer.finish()
    }

    /// Cuts the new index; the inner error is a page of the parent that cannot be read.
    fn cut(
        &self,
        parent: &Pages<'_>,
        send: impl FnMut(Part<Vec<Entry>>) -> Result<(), Closed>,
    ) -> Result<Result<(), RepositoryError>, Closed> {
        let mut cutter = Cutter { entries: Vec::new(), reused: 0..0, send };
        let mut new = self.new.iter().cloned().peekable();
        for (at, &ParentPage { number, ref last, dirty }) in self.pages.iter().enumerate() {
            let is_last = at + 1 == self.pages.len();
            // The last page goes on with what comes after it, unless it ends where a page ends anyway.
            let goes_on = is_last && !page::ends_after(last, 1) && new.peek().is_some();
            if !dirty && !goes_on && cutter.can_reuse() {
                cutter.reuse(number)?;
                continue;
            }
            let page = match parent.read(number) {
                Ok(page) => page,
                Err(error) => return Ok(Err(error)),
            };
            for entry in page {
                while let Some(next) = new.next_if(|next| next.path < entry.path) {
                    cutter.push(next)?;
                }
                if let Some(next) = new.next_if(|next| next.path == entry.path) {
                    cutter.push(next)?;
                } else if self.old.binary_search_by(|old| old.path.cmp(&entry.path)).is_err() {
                    cutter.push(entry)?;
                }
            }
        }
        for entry in new {
            cutter.push(entry)?;
        }
        cutter.end_page().map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::diff::{Kind, Metadata};
    use crate::gitkv::Person;
    use crate::repository::InitOptions;

    type Tree = BTreeMap<RelPath, u32>;

    fn entries(tree: &Tree) -> Vec<Entry> {
        let meta = |mode| Metadata { mode, ..Metadata::default() };
        tree.iter()
            .map(|(path, mode)| Entry { path: path.clone(), kind: Kind::Fifo, meta: meta(*mode) })
            .collect()
    }

    /// What `plan` says of the pages of `pages`, whose entries are `old`, when they become `new`.
    fn plan(pages: &Pages<'_>, old: &Tree, new: &Tree) -> Vec<ParentPage> {
        let mut after: Option<RelPath> = None;
        let page = |number| {
            let page = pages.read(number).unwrap();
            let last = page.last().unwrap().path.clone();
            let within = |tree: &Tree| -> Vec<_> {
                let above =
                    |path: &&RelPath| after.as_ref().is_none_or(|after| **path > *after) && **path <= last;
                tree.iter()
                    .filter(|(path, _)| above(path))
                    .map(|(path, mode)| (path.clone(), *mode))
                    .collect()
            };
            let dirty = within(old) != within(new);
            after = Some(last.clone());
            ParentPage { number, last, dirty }
        };
        (0..pages.len()).map(page).collect()
    }

    /// Numbers of names, and what they become: a mode, or gone.
    fn edits() -> impl Strategy<Value = Vec<(u16, Option<u32>)>> {
        let some = prop::collection::vec((0u16..3000, prop::option::weighted(0.6, 0u32..0o1000)), 0..12);
        let many = prop::collection::vec((0u16..3000, prop::option::weighted(0.5, 0u32..0o1000)), 500..1500);
        // Above all names: what is appended.
        let end = prop::collection::vec((2990u16..3010, Just(Some(1))), 1..4);
        prop_oneof![4 => some, 1 => many, 1 => end]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn an_index_is_read_as_written_and_shares_its_pages(rounds in prop::collection::vec(edits(), 1..5)) {
            let dir = tempfile::tempdir().unwrap();
            let now = Timestamp::now();
            let repository = Repository::init(&dir.path().join("repo"), &InitOptions::new(now)).unwrap();
            let start = (0..2000u32).map(|number| (name(number), 0));
            let mut tree = Tree::new();
            let mut parent = Pages::none(&repository);
            for (round, edits) in std::iter::once(None).chain(rounds.into_iter().map(Some)).enumerate() {
                let old = tree.clone();
                match edits {
                    None => tree.extend(start.clone()),
                    Some(edits) => for (number, mode) in edits {
                        match mode {
                            Some(mode) => drop(tree.insert(name(number.into()), mode)),
                            None => drop(tree.remove(&name(number.into()))),
                        }
                    },
                }
                let only = |these: &Tree, those: &Tree| -> Vec<Entry> {
                    let mut entries = entries(these);
                    entries.retain(|entry| those.get(&entry.path) != Some(&entry.meta.mode));
                    entries
                };
                let planned = plan(&parent, &old, &tree);
                let clean = planned.iter().filter(|page| !page.dirty).count();
                let key = repository.timeline.key(now).unwrap();
                let mut batch = repository.timeline.begin().unwrap();
                let (gone, added) = (only(&old, &tree), only(&tree, &old));
                let change = IndexChange { old: &gone, new: &added, pages: &planned };
                let (list, new) = change.write(key, &parent, 1 + round % 2, &mut batch).unwrap();
                batch.put(kind::DIFFS, &key, "-test", &[], Tier::Metadata).unwrap();
                batch.commit(&Person::on_host("a", "b", now), "Test").unwrap();

                let blob = |path: &String| (path.clone(), repository.find_blob(path).unwrap());
                let blobs = list.blobs.iter().map(blob).collect();
                let pages = Pages { blobs, pages: list.pages().unwrap(), ..Pages::none(&repository) };
                let mut read = Vec::new();
                for number in 0..pages.len() {
                    let page = pages.read(number).unwrap();
                    prop_assert_eq!(page.len(), pages.pages[number].entries as usize);
                    // Cut as from nothing, so that equal indexes have equal pages.
                    let last = page.last().unwrap();
                    prop_assert!(page::ends_after(&last.path, page.len()) || number + 1 == pages.len());
                    read.extend(page);
                }
                prop_assert_eq!(&read, &entries(&tree));
                let shared = pages.len() as u64 - new;
                // A page follows the one whose end is gone, and the last one goes on.
                let gone = planned.iter().filter(|page| !tree.contains_key(&page.last)).count();
                prop_assert!(shared + gone as u64 + 1 >= clean as u64, "round {}: {} of {}", round, shared, clean);
                parent = pages;
            }
        }
    }

    fn name(number: u32) -> RelPath {
        RelPath::new(format!("{:02}/{number:04}", number / 100).into_bytes()).unwrap()
    }
}
