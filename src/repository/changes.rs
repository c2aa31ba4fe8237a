//! What differs between two snapshots, without reading what they share.
//!
//! A page that both list has the same entries, and no path is in two pages of one snapshot. So what differs is in the
//! pages that only one of them lists, and of these only the entries that differ are kept. Which names are links to one
//! file is looked up in all pages, and only where such a name differs.

use std::collections::HashSet;

use itertools::{EitherOrBoth, Itertools, process_results};

use crate::diff::{Change, ChangeRef, Entry, compare_linked, link_of};
use crate::relpath::RelPath;
use crate::repository::RepositoryError;
use crate::repository::view::{SnapshotView, Walk};

impl SnapshotView<'_> {
    /// What differs in `new`, in path order. Pages that both snapshots list are not decoded.
    ///
    /// # Errors
    ///
    /// Fails when a page that only one of them lists is damaged or out of reach.
    pub fn changes(&self, new: &SnapshotView<'_>) -> Result<Vec<Change>, RepositoryError> {
        let side = |view| Some(Side { view, top: RelPath::root() });
        Ok(changes(side(self), side(new), |_, _| 0)?.0)
    }
}

/// One side of a comparison: what a snapshot has at and below a path.
pub(super) struct Side<'v, 'a> {
    pub view: &'v SnapshotView<'a>,
    pub top: RelPath,
}

impl<'v> Side<'v, '_> {
    /// The entries of its pages, or only of `numbers`, with paths below the top.
    pub fn walk(&self, numbers: Option<Vec<usize>>) -> Result<Below<'v>, RepositoryError> {
        let walk = match numbers {
            Some(numbers) => self.view.walk_pages(&self.top, numbers),
            None => self.view.walk(&self.top)?,
        };
        Ok(Below { walk, top: self.top.clone() })
    }

    /// The numbers of its pages that `others` does not list.
    fn pages_beside(&self, others: &Self) -> Result<Vec<usize>, RepositoryError> {
        let (pages, other_pages) = (self.view.pages(), others.view.pages());
        let listed: HashSet<_> =
            other_pages.range_of(&others.top)?.map(|number| other_pages.identity(number)).collect();
        Ok(pages.range_of(&self.top)?.filter(|number| !listed.contains(&pages.identity(*number))).collect())
    }

    /// Names of files with several, of which some are in `wanted`, in path order.
    fn linked(&self, wanted: &HashSet<(u64, u64)>) -> Result<Vec<Entry>, RepositoryError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let is_wanted = |entry: &Entry| link_of(entry).is_some_and(|link| wanted.contains(&link));
        self.walk(None)?.filter(|entry| entry.as_ref().map_or(true, is_wanted)).collect()
    }
}

/// A walk whose paths begin at a top.
pub(super) struct Below<'v> {
    walk: Walk<'v>,
    top: RelPath,
}

impl Iterator for Below<'_> {
    type Item = Result<Entry, RepositoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut next = self.walk.next()?;
        if let Ok(entry) = &mut next
            && !self.top.is_root()
        {
            entry.path = entry.path.strip_prefix(&self.top).unwrap_or_default();
        }
        Some(next)
    }
}

/// The differences between two sides, in path order; of nothing where there is none. `leave_out` takes out of what only
/// one side has, as lists of entries in path order, what is not to be compared, and counts it.
pub(super) fn changes(
    old: Option<Side<'_, '_>>,
    new: Option<Side<'_, '_>>,
    leave_out: impl FnOnce(&mut Vec<Entry>, &mut Vec<Entry>) -> u64,
) -> Result<(Vec<Change>, u64), RepositoryError> {
    let (mut before, mut after) = differing(old.as_ref(), new.as_ref())?;
    let (old_links, new_links) = (links_of(&before), links_of(&after));
    let differing: [Vec<RelPath>; 2] = [&before, &after].map(|side| paths_of_links(side));
    let left_out = leave_out(&mut before, &mut after);
    let linked = |side: Option<&Side<'_, '_>>, links, differing: &[RelPath], kept: &[Entry]| {
        let Some(side) = side else { return Ok(Vec::new()) };
        let mut linked = side.linked(links)?;
        let has = |paths: &[RelPath], path: &RelPath| paths.binary_search(path).is_ok();
        let kept = paths_of_links(kept);
        linked.retain(|entry| !has(differing, &entry.path) || has(&kept, &entry.path));
        Ok::<_, RepositoryError>(linked)
    };
    let old_linked = linked(old.as_ref(), &old_links, &differing[0], &before)?;
    let new_linked = linked(new.as_ref(), &new_links, &differing[1], &after)?;
    let changes = compare_linked(&before, &after, &old_linked, &new_linked);
    Ok((changes.iter().map(ChangeRef::to_owned).collect(), left_out))
}

/// The entries of each side that the other does not have just so.
fn differing(
    old: Option<&Side<'_, '_>>,
    new: Option<&Side<'_, '_>>,
) -> Result<(Vec<Entry>, Vec<Entry>), RepositoryError> {
    let (mut old_pages, mut new_pages) = (None, None);
    if let (Some(old), Some(new)) = (old, new)
        && old.top == new.top
    {
        old_pages = Some(old.pages_beside(new)?);
        new_pages = Some(new.pages_beside(old)?);
    }
    let old = old.map(|side| side.walk(old_pages)).transpose()?.into_iter().flatten();
    let new = new.map(|side| side.walk(new_pages)).transpose()?.into_iter().flatten();
    let (mut before, mut after) = (Vec::new(), Vec::new());
    process_results(old, |old| {
        process_results(new, |new| {
            for pair in old.merge_join_by(new, |old, new| old.path.cmp(&new.path)) {
                match pair {
                    EitherOrBoth::Both(old, new) if is_same(&old, &new) => {}
                    pair => {
                        let (old, new) = pair.left_and_right();
                        before.extend(old);
                        after.extend(new);
                    }
                }
            }
        })
    })??;
    Ok((before, after))
}

/// Whether nothing differs between two entries of a path. Of names with links that depends on the other names.
fn is_same(old: &Entry, new: &Entry) -> bool {
    let is_alone = |entry: &Entry| link_of(entry).is_none();
    old.same_content(new) && old.same_metadata(new) && is_alone(old) && is_alone(new)
}

fn links_of(entries: &[Entry]) -> HashSet<(u64, u64)> {
    entries.iter().filter_map(link_of).collect()
}

fn paths_of_links(entries: &[Entry]) -> Vec<RelPath> {
    entries.iter().filter(|entry| link_of(entry).is_some()).map(|entry| entry.path.clone()).collect()
}
