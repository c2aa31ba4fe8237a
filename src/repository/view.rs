//! The one door to what a snapshot holds.
//!
//! A [`SnapshotView`] answers by path: one entry, the entries of a directory, all entries in path order, what differs
//! from another snapshot, the content of a file. Pages are in path order, so an answer decodes the pages that it is in
//! and no others; to find them, a few pages are inflated for their first path. A walk has a few pages in memory at a
//! time, however many the snapshot has; an open file has one segment.
//!
//! While a view lives, nothing that its snapshot needs is removed or moved: it has a [`Hold`]. Each segment is checked
//! against its digest before a byte of it is handed out. A damaged page is an error where it would have been read, and
//! hides no other. A view does not check what nobody asks it for; [`check`](Repository::check) does.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::vec;

use crate::diff::Entry;
use crate::pipeline::lock;
use crate::relpath::RelPath;
use crate::repository::open_file::OpenFile;
use crate::repository::pages::{PageOrder, Pages};
use crate::repository::snapshot::join;
use crate::repository::{Hold, Repository, RepositoryError, Snapshot};

/// Pages that a walk decodes at a time at most.
const AHEAD: usize = 16;

/// What a snapshot holds. Any number of threads may read it.
pub struct SnapshotView<'a> {
    repository: &'a Repository,
    snapshot: &'a Snapshot,
    /// Where its paths begin on the host.
    base: PathBuf,
    pages: Pages<'a>,
    /// The page that a walk began with last: the next one often begins there too.
    last: Mutex<Option<(usize, Arc<[Entry]>)>>,
    _hold: Hold,
}

impl Repository {
    /// Opens a snapshot for reading.
    ///
    /// # Errors
    ///
    /// Fails when its list of pages is damaged, or the repository cannot be locked.
    pub fn view<'a>(&'a self, snapshot: &'a Snapshot) -> Result<SnapshotView<'a>, RepositoryError> {
        let hold = self.hold()?;
        let pages = Pages::of(self, &snapshot.record)?;
        let (base, last) = (snapshot.base(), Mutex::default());
        Ok(SnapshotView { repository: self, snapshot, base, pages, last, _hold: hold })
    }
}

impl<'a> SnapshotView<'a> {
    /// The snapshot.
    pub fn snapshot(&self) -> &'a Snapshot {
        self.snapshot
    }

    pub(super) fn pages(&self) -> &Pages<'a> {
        &self.pages
    }

    /// The path in the snapshot of what somebody calls `path`; the top of all without one.
    ///
    /// `path` is absolute, as on the host that was backed up; in a snapshot of one directory it may also begin there.
    ///
    /// # Errors
    ///
    /// [`NoPath`](RepositoryError::NoPath) when the snapshot has nothing there; [`Unread`](RepositoryError::Unread) when
    /// the backup could not read what was there.
    pub fn resolve(&self, path: Option<&[u8]>) -> Result<RelPath, RepositoryError> {
        let Some(path) = path else { return Ok(RelPath::root()) };
        let candidates = self.snapshot.paths_meant_by(path)?;
        for candidate in &candidates {
            if self.walk(candidate)?.next().transpose()?.is_some() {
                return Ok(candidate.clone());
            }
        }
        let record = &self.snapshot.record;
        if let Some(unread) = candidates.iter().find_map(|path| record.unreadable_above(path)) {
            let path = self.display_path(unread);
            return Err(RepositoryError::Unread { path, snapshot: self.snapshot.name() });
        }
        let path = String::from_utf8_lossy(path).into_owned();
        Err(RepositoryError::NoPath { path, snapshot: self.snapshot.name() })
    }

    /// Where the thing at `path` was on the host that was backed up.
    pub fn display_path(&self, path: &RelPath) -> PathBuf {
        join(&self.base, path)
    }

    /// The entry at `path`; `None` where the snapshot has none.
    ///
    /// # Errors
    ///
    /// Fails when a page that may have it is damaged or out of reach.
    pub fn entry(&self, path: &RelPath) -> Result<Option<Entry>, RepositoryError> {
        let first = self.walk(path)?.next().transpose()?;
        Ok(first.filter(|entry| entry.path == *path))
    }

    /// The entries at and below `path`, in path order; none where the snapshot has nothing there.
    ///
    /// # Errors
    ///
    /// Fails when the pages cannot be looked up. An item is an error where a page is damaged or out of reach; the walk
    /// goes on with the next page.
    pub fn walk(&self, path: &RelPath) -> Result<Walk<'_>, RepositoryError> {
        Ok(self.walk_pages(path, self.pages.range_of(path)?.collect()))
    }

    /// As [`walk`](Self::walk), of the pages of these numbers, which ascend.
    pub(super) fn walk_pages(&self, path: &RelPath, numbers: Vec<usize>) -> Walk<'_> {
        Walk {
            view: self,
            top: path.clone(),
            numbers: numbers.into_iter(),
            ahead: 1,
            pages: VecDeque::new(),
            entries: Vec::new().into_iter(),
            order: PageOrder::default(),
        }
    }

    /// The entries right below the directory at `path`, in path order. Pages that have only what is further down are not
    /// decoded.
    ///
    /// A snapshot of several sources has no entries for the directories above them.
    ///
    /// # Errors
    ///
    /// As for [`walk`](Self::walk).
    pub fn children(&self, path: &RelPath) -> Result<Children<'_>, RepositoryError> {
        let pages = self.pages.range_of(path)?;
        let (next, end) = (pages.start, pages.end);
        Ok(Children {
            view: self,
            top: path.clone(),
            next,
            end,
            entries: Vec::new().into_iter(),
            below: None,
        })
    }

    /// Opens a file for reading and seeking.
    ///
    /// # Errors
    ///
    /// [`NotFile`](RepositoryError::NotFile) for anything but a regular file. Fails when it cannot be found out where
    /// its segments are.
    pub fn open(&self, entry: &Entry) -> Result<OpenFile<'_>, RepositoryError> {
        let Some(content) = entry.content() else {
            return Err(RepositoryError::NotFile(self.display_path(&entry.path).display().to_string()));
        };
        OpenFile::new(self.repository, content)
    }

    /// The entries of page `number`, which the next walk may begin with too.
    fn first_page(&self, number: usize) -> Result<Arc<[Entry]>, RepositoryError> {
        if let Some((at, page)) = &*lock(&self.last)
            && *at == number
        {
            return Ok(page.clone());
        }
        let page: Arc<[Entry]> = self.pages.read(number)?.into();
        *lock(&self.last) = Some((number, page.clone()));
        Ok(page)
    }
}

/// Entries in path order. See [`SnapshotView::walk`].
pub struct Walk<'v> {
    view: &'v SnapshotView<'v>,
    top: RelPath,
    /// The pages that are still to be decoded.
    numbers: vec::IntoIter<usize>,
    /// How many of them next.
    ahead: usize,
    /// Those that were, with their numbers.
    pages: VecDeque<(usize, Result<Vec<Entry>, RepositoryError>)>,
    entries: vec::IntoIter<Entry>,
    order: PageOrder,
}

impl Walk<'_> {
    /// Decodes further pages: few at first, since what is looked for may be among them.
    fn decode(&mut self) {
        let pages = &self.view.pages;
        if self.ahead == 1
            && let Some(number) = self.numbers.next()
        {
            self.pages.push_back((number, self.view.first_page(number).map(|page| page.to_vec())));
        } else {
            let next = self.numbers.as_slice();
            let few = next.iter().take(self.ahead).take_while(|number| !pages.is_large(**number)).count();
            let numbers = next[..few.max(1).min(next.len())].to_vec();
            self.pages.extend(numbers.iter().copied().zip(pages.read_several(&numbers)));
            self.numbers.by_ref().take(numbers.len()).for_each(drop);
        }
        self.ahead = (2 * self.ahead).min(AHEAD);
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Entry, RepositoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.entries.find(|entry| entry.path.is_within(&self.top)) {
                return Some(Ok(entry));
            }
            if self.pages.is_empty() {
                self.decode();
            }
            let (number, page) = self.pages.pop_front()?;
            let followed =
                page.and_then(|page| Ok((self.view.pages.follow(&mut self.order, number, &page)?, page)));
            match followed {
                Ok(((), page)) => self.entries = page.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// The entries of a directory. See [`SnapshotView::children`].
pub struct Children<'v> {
    view: &'v SnapshotView<'v>,
    top: RelPath,
    /// The page that is decoded next, and the first one behind the directory.
    next: usize,
    end: usize,
    entries: vec::IntoIter<Entry>,
    /// The child whose own content is passed over.
    below: Option<RelPath>,
}

impl Children<'_> {
    /// The page in which what follows the last child may begin.
    fn seek(&mut self) -> Result<(), RepositoryError> {
        if let Some(child) = &self.below {
            // Its last page may have what follows it.
            let behind = self.view.pages.range_of(child)?.end.saturating_sub(1);
            self.next = self.next.max(behind);
        }
        Ok(())
    }
}

impl Iterator for Children<'_> {
    type Item = Result<Entry, RepositoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let top = &self.top;
            let is_child = |entry: &Entry| entry.path.parent().is_some_and(|parent| parent == *top);
            if let Some(child) = self.entries.find(is_child) {
                self.below = Some(child.path.clone());
                return Some(Ok(child));
            }
            if let Err(error) = self.seek() {
                self.next = self.end;
                return Some(Err(error));
            }
            if self.next >= self.end {
                return None;
            }
            let page = self.view.first_page(self.next);
            self.next += 1;
            match page {
                Ok(page) => self.entries = Vec::from(&*page).into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
