//! Reading the index of a snapshot, and writing a new one that shares the pages that did not change.

use std::sync::Arc;

use crate::archive::gzip;
use crate::diff::{Entry, page};
use crate::layers::ObjectId;
use crate::pipeline;
use crate::relpath::RelPath;
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
    blobs: Vec<(String, ObjectId)>,
    pages: Vec<PageRef>,
}

impl<'a> Pages<'a> {
    /// Of no snapshot.
    pub fn none(repository: &'a Repository) -> Self {
        Self { repository, blobs: Vec::new(), pages: Vec::new() }
    }

    /// Of the snapshot with that record.
    pub fn of(repository: &'a Repository, record: &SnapshotRecord) -> Result<Self, RepositoryError> {
        let blobs = record.pages.blobs.iter().map(|path| Ok((path.clone(), repository.blob(path)?)));
        let blobs = blobs.collect::<Result<_, RepositoryError>>()?;
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
        (&self.blobs[page.blob as usize].0, page)
    }

    /// The entries of page `number`.
    pub fn read(&self, number: usize) -> Result<Vec<Entry>, RepositoryError> {
        let page = self.pages[number];
        let (path, id) = &self.blobs[page.blob as usize];
        let read = || decode_page(&self.repository.timeline.read_range(id, page.offset, page.len.into())?);
        read().map_err(|error| RepositoryError::damaged(path)(error.into()))
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
    key: TimeKey,
    parent: &'a Pages<'a>,
    buffer: Vec<Entry>,
    blob: Vec<u8>,
    blobs: Vec<Arc<str>>,
    pages: Vec<(Arc<str>, PageRef)>,
    new: u64,
}

impl<'a> PageWriter<'a> {
    /// Writes the index of the snapshot of that key.
    pub fn new(key: TimeKey, parent: &'a Pages<'a>) -> Self {
        let (buffer, blob, blobs, pages) = Default::default();
        Self { key, parent, buffer, blob, blobs, pages, new: 0 }
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
        let own = crate::timeline::path(kind::INDEX, &self.key, "");
        let number = self.blobs.iter().filter(|path| path.starts_with(&own)).count();
        format!("-{}.cbor.gz", if self.blob.is_empty() { number } else { number - 1 })
    }

    fn blob_path(&self) -> String {
        crate::timeline::path(kind::INDEX, &self.key, &self.suffix())
    }

    fn close_blob(&mut self, batch: &mut Batch<'_>) -> Result<(), RepositoryError> {
        if !self.blob.is_empty() {
            batch.put(kind::INDEX, &self.key, &self.suffix(), &self.blob, Tier::Metadata)?;
            self.blob.clear();
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
