//! What differs between two indexes.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use itertools::{EitherOrBoth, Itertools};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::archive::gzip;
use crate::delta::{BlockSignature, ConfirmKey};
use crate::diff::entry::{Content, Entry, Kind, Metadata};
use crate::diff::index::{DirIndex, pages_of};
use crate::diff::owners::Owners;
use crate::diff::{DiffError, FORMAT_VERSION, check_format, decode, page, read_whole};
use crate::digest::Digest;
use crate::relpath::RelPath;
use crate::{atomic, cbor};

/// One difference between two states of a tree, which owns its entry or, as a [`ChangeRef`], borrows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<E = Entry, P = RelPath> {
    /// It was not there before.
    Created(E),
    /// Its content is another, or it is another kind of thing.
    Updated(E),
    /// Only its metadata is another.
    Metadata(E),
    /// It was at another path before, with the same content.
    Renamed {
        /// Where it was.
        from: P,
        /// What it is now.
        entry: E,
    },
    /// It is gone.
    Deleted {
        /// Where it was.
        path: P,
        /// Whether it was a directory.
        directory: bool,
    },
}

/// A difference between two states that are at hand: 24 bytes.
pub type ChangeRef<'a> = Change<&'a Entry, &'a RelPath>;

impl<E: Borrow<Entry>, P: Borrow<RelPath>> Change<E, P> {
    /// Where the change shows: for a rename, where the thing is now.
    pub fn path(&self) -> &RelPath {
        match self {
            Self::Deleted { path, .. } => path.borrow(),
            Self::Created(entry)
            | Self::Updated(entry)
            | Self::Metadata(entry)
            | Self::Renamed { entry, .. } => &entry.borrow().path,
        }
    }

    /// The new entry, where there is one.
    pub fn entry(&self) -> Option<&Entry> {
        match self {
            Self::Deleted { .. } => None,
            Self::Created(entry)
            | Self::Updated(entry)
            | Self::Metadata(entry)
            | Self::Renamed { entry, .. } => Some(entry.borrow()),
        }
    }

    /// The new entry, where it brings content that was not at its path before.
    pub fn with_content(&self) -> Option<&Entry> {
        match self {
            Self::Created(entry) | Self::Updated(entry) | Self::Renamed { entry, .. } => Some(entry.borrow()),
            Self::Metadata(_) | Self::Deleted { .. } => None,
        }
    }
}

impl Change {
    /// The same, borrowed.
    pub fn as_ref(&self) -> ChangeRef<'_> {
        match self {
            Self::Created(entry) => Change::Created(entry),
            Self::Updated(entry) => Change::Updated(entry),
            Self::Metadata(entry) => Change::Metadata(entry),
            Self::Renamed { from, entry } => Change::Renamed { from, entry },
            Self::Deleted { path, directory } => Change::Deleted { path, directory: *directory },
        }
    }
}

impl ChangeRef<'_> {
    /// The same with an entry of its own.
    pub fn to_owned(&self) -> Change {
        match *self {
            Self::Created(entry) => Change::Created(entry.clone()),
            Self::Updated(entry) => Change::Updated(entry.clone()),
            Self::Metadata(entry) => Change::Metadata(entry.clone()),
            Self::Renamed { from, entry } => Change::Renamed { from: from.clone(), entry: entry.clone() },
            Self::Deleted { path, directory } => Change::Deleted { path: path.clone(), directory },
        }
    }
}

/// Everything that differs between two states of a directory, and where the old state holds what the new one
/// needs.
#[derive(Debug, Clone, Default)]
pub struct DiffIndex {
    /// The differences, in path order.
    pub changes: Vec<Change>,
    /// Files of the old state that hold segments which new content is made of or is a delta of.
    pub base: Vec<(RelPath, Content)>,
    /// New names of files that have an earlier name in the new state, with that name.
    pub links: BTreeMap<RelPath, RelPath>,
    /// Names of the owners in the new state.
    pub owners: Owners,
    /// Signatures of the old state. Not kept in a file: only making an archive needs them.
    pub(super) signatures: Arc<HashMap<Digest, BlockSignature>>,
    pub(super) key: ConfirmKey,
    /// Where the new state was scanned. Not kept in a file.
    pub(super) root: PathBuf,
}

impl DiffIndex {
    /// Compares two states of a directory.
    ///
    /// A file is renamed where a path is gone whose content stands at a new one; between several such, the
    /// same inode, then the same name, is preferred.
    pub fn compute(old: &DirIndex, new: &DirIndex) -> Self {
        let changes = compare(&old.entries, &new.entries);
        let all = changes.iter().map(ChangeRef::to_owned).collect();
        Self { changes: all, ..Self::without_changes(&changes, old, new) }
    }

    /// As [`compute`](Self::compute), and makes the differences of the new entries themselves, so that a million
    /// of them need not be there twice.
    pub fn compute_into(old: &DirIndex, new: DirIndex) -> Self {
        let changes = compare(&old.entries, &new.entries);
        let mut diff = Self::without_changes(&changes, old, &new);
        let mut verdicts = vec![Verdict::Same; new.entries.len()];
        let mut sources = VecDeque::new();
        let mut deleted = Vec::new();
        let mut numbered = new.entries.iter().zip(&mut verdicts);
        for change in &changes {
            let verdict = match change {
                Change::Created(_) => Verdict::Created,
                Change::Updated(_) => Verdict::Updated,
                Change::Metadata(_) => Verdict::Metadata,
                Change::Renamed { from, .. } => {
                    sources.push_back((*from).clone());
                    Verdict::Renamed
                }
                Change::Deleted { .. } => {
                    deleted.push(change.to_owned());
                    continue;
                }
            };
            // Both are in path order.
            if let Some((_, slot)) = numbered.find(|(entry, _)| entry.path == *change.path()) {
                *slot = verdict;
            }
        }
        drop(changes);
        let decided = new.entries.into_iter().zip(verdicts);
        let changed = decided.filter_map(|(entry, verdict)| match verdict {
            Verdict::Same => None,
            Verdict::Created => Some(Change::Created(entry)),
            Verdict::Updated => Some(Change::Updated(entry)),
            Verdict::Metadata => Some(Change::Metadata(entry)),
            Verdict::Renamed => sources.pop_front().map(|from| Change::Renamed { from, entry }),
        });
        diff.changes = changed.collect();
        if !deleted.is_empty() {
            diff.changes.append(&mut deleted);
            diff.changes.sort_by(|a, b| a.path().cmp(b.path()));
        }
        diff
    }

    fn without_changes(changes: &[ChangeRef<'_>], old: &DirIndex, new: &DirIndex) -> Self {
        Self {
            changes: Vec::new(),
            links: find_links(changes, &new.entries),
            base: find_base(changes, &old.entries),
            owners: new.owners.clone(),
            signatures: old.signatures.clone(),
            key: old.key.clone(),
            root: new.root.clone(),
        }
    }

    /// Takes out every removal: what is in the old state only stays, and what was renamed is made anew at its
    /// new path.
    pub fn keep_extra(&mut self) {
        self.changes.retain(|change| !matches!(change, Change::Deleted { .. }));
        for change in &mut self.changes {
            if let Change::Renamed { entry, .. } = change {
                *change = Change::Created(entry.clone());
            }
        }
    }
}

/// What a difference says of a new entry.
#[derive(Clone, Copy)]
enum Verdict {
    Same,
    Created,
    Updated,
    Metadata,
    Renamed,
}

/// The differences between two lists of entries in path order.
pub fn compare<'a>(old: &'a [Entry], new: &'a [Entry]) -> Vec<ChangeRef<'a>> {
    compare_linked(old, new, old, new)
}

/// The differences between two lists of entries in path order, from which what is alike in both may be left out.
/// `old_linked` and `new_linked` have, in path order, all names of the files with several of which some are in the lists.
pub(crate) fn compare_linked<'a>(
    old: &'a [Entry],
    new: &'a [Entry],
    old_linked: &'a [Entry],
    new_linked: &'a [Entry],
) -> Vec<ChangeRef<'a>> {
    let old_leaders = Leaders::new(old_linked);
    let new_leaders = Leaders::new(new_linked);
    let mut gone = Vec::new();
    let mut changes: Vec<ChangeRef<'a>> = old
        .iter()
        .merge_join_by(new, |old, new| old.path.cmp(&new.path))
        .filter_map(|pair| match pair {
            EitherOrBoth::Left(old) => {
                gone.push(old);
                let directory = matches!(old.kind, Kind::Directory);
                Some(Change::Deleted { path: &old.path, directory })
            }
            EitherOrBoth::Right(new) => Some(Change::Created(new)),
            EitherOrBoth::Both(old, new) => {
                let relinked = old_leaders.of(old) != new_leaders.of(new);
                if !old.same_content(new) || relinked {
                    Some(Change::Updated(new))
                } else {
                    (!old.same_metadata(new)).then_some(Change::Metadata(new))
                }
            }
        })
        .collect();
    find_renames(&mut changes, &gone);
    changes
}

/// The first path of each file with several names: which names belong together, whatever the inode numbers are.
struct Leaders<'a>(HashMap<(u64, u64), &'a Entry>);

impl<'a> Leaders<'a> {
    fn new(entries: &'a [Entry]) -> Self {
        let mut leaders = HashMap::new();
        for entry in entries {
            if let Some(link) = link_of(entry) {
                leaders.entry(link).or_insert(entry);
            }
        }
        Self(leaders)
    }

    /// A number that was given anew, or a file that changed between the reading of two names, makes no link:
    /// contents decide.
    fn of(&self, entry: &'a Entry) -> &'a RelPath {
        let leader = link_of(entry).and_then(|link| self.0.get(&link));
        leader.filter(|leader| leader.same_content(entry)).map_or(&entry.path, |leader| &leader.path)
    }
}

/// Which file an entry is one of several names of.
pub(crate) fn link_of(entry: &Entry) -> Option<(u64, u64)> {
    entry.content()?.link.as_deref().copied()
}

/// Of so many files with the same beginning that are gone, the likeliest is looked for; with all of a
/// million, that would take days.
const CANDIDATES: usize = 64;

/// Turns pairs of deleted and created into renamed.
fn find_renames<'a>(changes: &mut Vec<ChangeRef<'a>>, gone: &[&'a Entry]) {
    let mut by_content: HashMap<(u64, Digest), Vec<&'a Entry>> = HashMap::new();
    for entry in gone.iter().rev() {
        if let Some(key) = content_key(entry) {
            by_content.entry(key).or_default().push(entry);
        }
    }
    if by_content.is_empty() {
        return;
    }
    let mut moved = HashSet::new();
    for change in changes.iter_mut() {
        let Change::Created(entry) = change else { continue };
        let Some(candidates) = content_key(entry).and_then(|key| by_content.get_mut(&key)) else { continue };
        let likeness = |old: &&Entry| {
            let same = old.same_content(entry);
            (same, same && old.meta.inode == entry.meta.inode, old.path.name() == entry.path.name())
        };
        let last = candidates.len().saturating_sub(CANDIDATES)..candidates.len();
        let Some(best) = last.max_by_key(|&at| likeness(&candidates[at])) else { continue };
        if !candidates[best].same_content(entry) {
            continue;
        }
        let from = &candidates.remove(best).path;
        moved.insert(from);
        *change = Change::Renamed { from, entry };
    }
    changes.retain(|change| !matches!(change, Change::Deleted { path, .. } if moved.contains(path)));
}

/// What files with equal content have in common; `None` for what has none worth following.
fn content_key(entry: &Entry) -> Option<(u64, Digest)> {
    let content = entry.content()?;
    content.segments.first().map(|first| (content.size, first.digest))
}

/// Of the new content, what is another name of an earlier path.
fn find_links(changes: &[ChangeRef<'_>], new: &[Entry]) -> BTreeMap<RelPath, RelPath> {
    let leaders = Leaders::new(new);
    let entries = changes.iter().filter_map(Change::with_content);
    entries
        .filter_map(|entry| {
            let leader = leaders.of(entry);
            (*leader != entry.path).then(|| (entry.path.clone(), leader.clone()))
        })
        .collect()
}

/// The old files that hold a segment of the new content, and the old version of each updated file.
fn find_base(changes: &[ChangeRef<'_>], old: &[Entry]) -> Vec<(RelPath, Content)> {
    if old.iter().all(|entry| entry.content().is_none()) {
        return Vec::new();
    }
    let mut wanted: HashSet<Digest> = HashSet::new();
    let mut updated: HashSet<&RelPath> = HashSet::new();
    for change in changes {
        if let Change::Updated(entry) = change {
            updated.insert(&entry.path);
        }
        let content = change.with_content().and_then(Entry::content);
        wanted
            .extend(content.iter().flat_map(|content| content.segments.iter().map(|segment| segment.digest)));
    }
    let mut base = Vec::new();
    for entry in old {
        let Some(content) = entry.content() else { continue };
        let mut needed = updated.contains(&entry.path) && !content.segments.is_empty();
        for segment in &content.segments {
            needed |= wanted.remove(&segment.digest);
        }
        if needed {
            base.push((entry.path.clone(), content.clone()));
        }
    }
    base
}

#[derive(Serialize, Deserialize)]
struct DiffFile {
    format: String,
    version: u32,
    owners: Owners,
    created: Vec<ByteBuf>,
    updated: Vec<ByteBuf>,
    metadata: Vec<ByteBuf>,
    /// Entries as they are now, with where each was.
    renamed: Vec<(ByteBuf, Vec<RelPath>)>,
    deleted: Vec<RelPath>,
    deleted_directories: Vec<RelPath>,
    links: BTreeMap<RelPath, RelPath>,
    /// Old files, with nothing but their content.
    base: Vec<ByteBuf>,
}

const FORMAT: &str = "treering directory difference";

impl DiffIndex {
    /// Writes the difference to `path`, durably.
    pub fn to_file(&self, path: impl AsRef<Path>) -> Result<(), DiffError> {
        let kept = |wanted: fn(&Change) -> bool| {
            let entries = self.changes.iter().filter(|change| wanted(change)).filter_map(Change::entry);
            encode_pages(&entries.cloned().collect::<Vec<_>>())
        };
        let mut renamed = Vec::new();
        for page in pages_of(&self.select(|change| matches!(change, Change::Renamed { .. }))) {
            let from = page.iter().filter_map(|entry| self.source_of(&entry.path)).cloned().collect();
            renamed.push((ByteBuf::from(gzip(&page::encode(page)?)?), from));
        }
        let deleted = |wanted: bool| {
            let paths = self.changes.iter().filter_map(move |change| match change {
                Change::Deleted { path, directory } => (*directory == wanted).then(|| path.clone()),
                _ => None,
            });
            paths.collect()
        };
        let base = self.base.iter().map(|(path, content)| Entry {
            path: path.clone(),
            kind: Kind::File(content.clone()),
            meta: Metadata::default(),
        });
        let file = DiffFile {
            format: FORMAT.into(),
            version: FORMAT_VERSION,
            owners: self.owners.clone(),
            created: kept(|change| matches!(change, Change::Created(_)))?,
            updated: kept(|change| matches!(change, Change::Updated(_)))?,
            metadata: kept(|change| matches!(change, Change::Metadata(_)))?,
            renamed,
            deleted: deleted(false),
            deleted_directories: deleted(true),
            links: self.links.clone(),
            base: encode_pages(&base.collect::<Vec<_>>())?,
        };
        Ok(atomic::write(path.as_ref(), &cbor::to_vec(&file)?)?)
    }

    fn select(&self, wanted: impl Fn(&Change) -> bool) -> Vec<Entry> {
        self.changes.iter().filter(|change| wanted(change)).filter_map(Change::entry).cloned().collect()
    }

    fn source_of(&self, path: &RelPath) -> Option<&RelPath> {
        let at = self.changes.binary_search_by(|change| change.path().cmp(path)).ok()?;
        match &self.changes[at] {
            Change::Renamed { from, .. } => Some(from),
            _ => None,
        }
    }

    /// Reads a difference that [`to_file`](Self::to_file) wrote.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, DiffError> {
        let file: DiffFile = decode(FORMAT, &read_whole(path.as_ref())?)?;
        check_format(FORMAT, &file.format, file.version)?;
        let mut pages = PageReader::default();
        let mut changes: BTreeMap<RelPath, Change> = BTreeMap::new();
        let mut insert = |change: Change| match changes.insert(change.path().clone(), change) {
            None => Ok(()),
            Some(twice) => Err(DiffError::from(page::PageError::Order(twice.path().clone()))),
        };
        pages.read(&file.created)?.into_iter().map(Change::Created).try_for_each(&mut insert)?;
        pages.read(&file.updated)?.into_iter().map(Change::Updated).try_for_each(&mut insert)?;
        pages.read(&file.metadata)?.into_iter().map(Change::Metadata).try_for_each(&mut insert)?;
        for (page, from) in file.renamed {
            for pair in pages.read(&[page])?.into_iter().zip_longest(from) {
                let EitherOrBoth::Both(entry, from) = pair else { return Err(DiffError::Renames) };
                insert(Change::Renamed { from, entry })?;
            }
        }
        for (paths, directory) in [(file.deleted, false), (file.deleted_directories, true)] {
            paths.into_iter().map(|path| Change::Deleted { path, directory }).try_for_each(&mut insert)?;
        }
        let base = pages.read(&file.base)?.into_iter().filter_map(|entry| match entry.kind {
            Kind::File(content) => Some((entry.path, content)),
            _ => None,
        });
        Ok(Self {
            changes: changes.into_values().collect(),
            base: base.collect(),
            links: file.links,
            owners: file.owners,
            ..Self::default()
        })
    }
}

fn encode_pages(entries: &[Entry]) -> Result<Vec<ByteBuf>, DiffError> {
    pages_of(entries).map(|page| Ok(ByteBuf::from(gzip(&page::encode(page)?)?))).collect()
}

/// Decodes the pages of a difference, all of which together may take what those of one index may.
#[derive(Default)]
struct PageReader {
    allowance: page::Allowance,
    count: usize,
}

impl PageReader {
    fn read(&mut self, pages: &[ByteBuf]) -> Result<Vec<Entry>, DiffError> {
        let mut entries = Vec::new();
        for page in pages {
            entries.extend(self.allowance.unpack(self.count, page)?);
            self.count += 1;
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::entry::SegmentRef;

    fn file(path: &str, text: &str, inode: u64, link: Option<(u64, u64)>) -> Entry {
        let segment = SegmentRef { digest: Digest::of(text.as_bytes()), len: text.len() as u32 };
        let content = Content {
            size: text.len() as u64,
            segments: vec![segment].into(),
            link: link.map(Box::new),
            ..Content::default()
        };
        Entry {
            path: RelPath::new(path.as_bytes()).unwrap(),
            kind: Kind::File(content),
            meta: Metadata { inode, ..Metadata::default() },
        }
    }

    #[test]
    fn names_with_other_content_are_no_links_whatever_their_numbers_say() {
        let new = [file("a", "one", 1, Some((5, 1))), file("b", "two", 1, Some((5, 1)))];
        assert!(find_links(&compare(&[], &new), &new).is_empty());
        let new = [file("a", "one", 1, Some((5, 1))), file("b", "one", 1, Some((5, 1)))];
        assert_eq!(find_links(&compare(&[], &new), &new).len(), 1);
    }

    #[test]
    fn the_difference_is_the_same_whether_entries_are_copied_or_moved() {
        let renamed = |path| file(path, "moved content", 9, None);
        let mut touched = file("e", "five", 5, None);
        touched.meta.mode = 0o600;
        let old = vec![
            file("a", "one", 1, None),
            file("b", "two", 2, None),
            renamed("c"),
            file("d", "four", 4, None),
            file("e", "five", 5, None),
        ];
        let new = vec![
            file("a", "another", 1, None),
            file("aa", "new", 7, None),
            file("d", "four", 4, None),
            touched,
            renamed("f"),
        ];
        let of = |entries| DirIndex { entries, ..DirIndex::default() };
        let (old, new) = (of(old), of(new));
        let copied = DiffIndex::compute(&old, &new);
        let kinds = copied.changes.iter().map(|change| match change {
            Change::Created(_) => 'c',
            Change::Updated(_) => 'u',
            Change::Metadata(_) => 'm',
            Change::Renamed { .. } => 'r',
            Change::Deleted { .. } => 'd',
        });
        assert_eq!(kinds.collect::<String>(), "ucdmr");
        let moved = DiffIndex::compute_into(&old, new);
        assert_eq!(moved.changes, copied.changes);
        assert_eq!((moved.base, moved.links), (copied.base, copied.links));
    }

    #[test]
    fn of_like_files_that_moved_the_same_inode_is_followed() {
        let old = [file("a", "same", 1, None), file("b", "same", 2, None)];
        let new = [file("c", "same", 2, None), file("d", "same", 1, None)];
        let changes = compare(&old, &new);
        let moves = changes.iter().map(|change| match change {
            Change::Renamed { from, entry } => format!("{from} to {}", entry.path),
            other => format!("{other:?}"),
        });
        assert_eq!(moves.collect::<Vec<_>>(), ["b to c", "a to d"]);
    }
}
