//! Reading the index of a snapshot, and writing a new one that shares the pages that did not change.

use std::sync::Arc;

use crate::archive::gzip;
use crate::diff::{Entry, page};
use crate::pipeline;
use crate::relpath::RelPath;
use crate::repository::blobs::Blob;
use crate::repository::plan::ParentPage;
use crate::repository::snapshot::{PageList, PageRef, SnapshotRecord};
use crate::repository::store::{decode_page, kind};
use crate::repository::{Repository, RepositoryError};
use crate::timeline::{Batch, Tier, TimeKey};

/// A blob of pages is closed at this many bytes.
const BLOB: usize = 4 << 20;

/// What a list of pages is called where it is damaged.
const PAGE_LIST: &str = "the list of pages in a snapshot record";

/// The pages of one snapshot.
pub(super) struct Pages<'a> {
    repository: &'a Repository,
    blobs: Vec<Blob>,
    pages: Vec<PageRef>,
}

impl<'a> Pages<'a> {
    /// Of no snapshot.
    pub fn none(repository: &'a Repository) -> Self {
        Self { repository, blobs: Vec::new(), pages: Vec::new() }
    }

    /// Of the snapshot with that record.
    pub fn of(repository: &'a Repository, record: &SnapshotRecord) -> Result<Self, RepositoryError> {
        let blobs = record.pages.blobs.iter().map(|path| repository.blob(path));
        let blobs = blobs.collect::<Result<_, _>>()?;
        let pages = record.pages.pages();
        let pages = pages.map_err(|error| RepositoryError::damaged(PAGE_LIST)(error.into()))?;
        Ok(Self { repository, blobs, pages })
    }

    /// How many pages there are.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Where page `number` lies: the path of its blob, and the range there.
    pub fn place(&self, number: usize) -> (&str, PageRef) {
        let page = self.pages[number];
        (&self.blobs[page.blob as usize].path, page)
    }

    /// The entries of page `number`.
    pub fn read(&self, number: usize) -> Result<Vec<Entry>, RepositoryError> {
        let page = self.pages[number];
        let blob = &self.blobs[page.blob as usize];
        let bytes = self.repository.read_blob_range(blob, page.offset, page.len.into())?;
        decode_page(&bytes).map_err(|error| RepositoryError::damaged(&blob.path)(error.into()))
    }

    /// Hands all pages to `consume`, in order, decoding some ahead on `threads` threads.
    pub fn for_each<E: From<RepositoryError>>(
        &self,
        threads: usize,
        mut consume: impl FnMut(usize, Vec<Entry>) -> Result<(), E>,
    ) -> Result<(), E> {
        pipeline::ordered(
            threads,
            4 * threads,
            |feed| (0..self.len()).try_for_each(|number| feed.send(number)).unwrap_or_default(),
            |number| (number, self.read(number)),
            |(number, page)| consume(number, page?),
        )
    }

    /// The entries at and below `path`, in order.
    pub fn within(&self, path: &RelPath) -> Result<Vec<Entry>, RepositoryError> {
        let mut entries = Vec::new();
        if path.is_root() {
            self.for_each(2, |_, page| {
                entries.extend(page);
                Ok::<_, RepositoryError>(())
            })?;
            return Ok(entries);
        }
        for number in self.page_of(path)?..self.len() {
            let page = self.read(number)?;
            let after = page.last().is_some_and(|last| last.path > *path && !last.path.is_within(path));
            entries.extend(page.into_iter().filter(|entry| entry.path.is_within(path)));
            if after {
                break;
            }
        }
        Ok(entries)
    }

    /// The number of the page that holds `path` if any does: by halving, since pages are in order.
    fn page_of(&self, path: &RelPath) -> Result<usize, RepositoryError> {
        let (mut low, mut high) = (0, self.len());
        while high - low > 1 {
            let middle = (low + high) / 2;
            let first = self.read(middle)?;
            if first.first().is_some_and(|first| first.path <= *path) {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}

/// Writes an index page by page, reusing pages of the parent.
pub(super) struct PageWriter<'a> {
    repository: &'a Repository,
    key: TimeKey,
    parent: &'a Pages<'a>,
    buffer: Vec<Entry>,
    blob: Vec<u8>,
    /// Blobs of this index that are written already.
    closed: u32,
    blobs: Vec<Arc<str>>,
    pages: Vec<(Arc<str>, PageRef)>,
    new: u64,
}

impl<'a> PageWriter<'a> {
    /// Writes the index of the snapshot of that key.
    pub fn new(key: TimeKey, parent: &'a Pages<'a>) -> Self {
        let (buffer, blob, blobs, pages) = Default::default();
        Self { repository: parent.repository, key, parent, buffer, blob, closed: 0, blobs, pages, new: 0 }
    }

    /// Adds an entry.
    pub fn push(&mut self, entry: Entry, batch: &mut Batch<'_>) -> Result<(), RepositoryError> {
        let ends = page::ends_after(&entry.path, self.buffer.len() + 1);
        self.buffer.push(entry);
        if ends { self.flush(batch) } else { Ok(()) }
    }

    /// Whether the next page of the parent can be used as it is: nothing waits to be put before it.
    pub fn can_reuse(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Adds page `number` of the parent as it is.
    pub fn reuse(&mut self, number: usize) {
        let (path, page) = self.parent.place(number);
        let known = self.blobs.iter().rev().find(|known| ***known == *path).cloned();
        let path = known.unwrap_or_else(|| {
            let path: Arc<str> = path.into();
            self.blobs.push(path.clone());
            path
        });
        self.pages.push((path, page));
    }

    fn flush(&mut self, batch: &mut Batch<'_>) -> Result<(), RepositoryError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let bytes = gzip(&page::encode(&self.buffer)?)?;
        if self.blob.len() + bytes.len() > BLOB {
            self.close_blob(batch)?;
        }
        let path: Arc<str> = self.blob_path().into();
        if self.blob.is_empty() {
            self.blobs.push(path.clone());
        }
        let page = PageRef {
            blob: 0,
            offset: self.blob.len() as u64,
            len: bytes.len() as u32,
            entries: self.buffer.len() as u32,
        };
        self.blob.extend(bytes);
        self.pages.push((path, page));
        self.new += 1;
        self.buffer.clear();
        Ok(())
    }

    fn suffix(&self) -> String {
        format!("-{}.cbor.gz", self.closed)
    }

    fn blob_path(&self) -> String {
        crate::timeline::path(kind::INDEX, &self.key, &self.repository.suffix(&self.suffix()))
    }

    fn close_blob(&mut self, batch: &mut Batch<'_>) -> Result<(), RepositoryError> {
        if !self.blob.is_empty() {
            let content = self.repository.encode(std::mem::take(&mut self.blob), Tier::Metadata)?;
            self.repository.put(batch, kind::INDEX, &self.key, &self.suffix(), &content)?;
            self.closed += 1;
        }
        Ok(())
    }

    /// Writes what is left; returns the list of all pages, and how many of them are new.
    pub fn finish(mut self, batch: &mut Batch<'_>) -> Result<(PageList, u64), RepositoryError> {
        self.flush(batch)?;
        self.close_blob(batch)?;
        let numbers: std::collections::HashMap<&str, u32> =
            self.blobs.iter().map(|path| &**path).zip(0..).collect();
        let pages = self.pages.iter().map(|(path, page)| PageRef { blob: numbers[&**path], ..*page });
        let pages: Vec<_> = pages.collect();
        Ok((PageList::new(self.blobs.iter().map(ToString::to_string).collect(), &pages), self.new))
    }
}

/// Writes the index: pages of the parent in which nothing changed as they are, the others anew. Returns what
/// [`PageWriter::finish`] does.
///
/// `old` is what of the parent changed or is gone, `new` what is new or changed, both in path order.
pub(super) fn write_pages(
    mut writer: PageWriter<'_>,
    parent: &Pages<'_>,
    old: &[Entry],
    new: &[Entry],
    pages: &[ParentPage],
    batch: &mut Batch<'_>,
) -> Result<(PageList, u64), RepositoryError> {
    let mut new = new.iter().cloned().peekable();
    for (at, &ParentPage { number, ref last, dirty }) in pages.iter().enumerate() {
        let is_last = at + 1 == pages.len();
        // The last page goes on with what comes after it, unless it ends where a page ends anyway.
        let goes_on = is_last && !page::ends_after(last, 1) && new.peek().is_some();
        if !dirty && !goes_on && writer.can_reuse() {
            writer.reuse(number);
            continue;
        }
        for entry in parent.read(number)? {
            while let Some(next) = new.next_if(|next| next.path < entry.path) {
                writer.push(next, batch)?;
            }
            if let Some(next) = new.next_if(|next| next.path == entry.path) {
                writer.push(next, batch)?;
            } else if old.binary_search_by(|old| old.path.cmp(&entry.path)).is_err() {
                writer.push(entry, batch)?;
            }
        }
    }
    for entry in new {
        writer.push(entry, batch)?;
    }
    writer.finish(batch)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::diff::{Kind, Metadata};
    use crate::repository::InitOptions;
    use crate::repository::store::person;

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
                let writer = PageWriter::new(key, &parent);
                let (list, new) =
                    write_pages(writer, &parent, &only(&old, &tree), &only(&tree, &old), &planned, &mut batch).unwrap();
                batch.put(kind::DIFFS, &key, "-test", &[], Tier::Metadata).unwrap();
                batch.commit(&person("a", "b", now), "Test").unwrap();

                let blobs = list.blobs.iter().map(|path| repository.blob(path).unwrap()).collect();
                let pages = Pages { repository: &repository, blobs, pages: list.pages().unwrap() };
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
