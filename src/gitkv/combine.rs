//! Many small layers made into few.
//!
//! Which ones is decided by size alone, as `git repack --geometric` does: when it is done, each layer is at least
//! twice as large as all smaller ones together. So an object is copied about as often as the number of
//! objects can be halved, and n backups of one size leave about log2(n) layers. Objects are copied as they lie
//! there; the new layer is durable before the old ones go, and a process that dies in between leaves both,
//! which only costs space.

use std::collections::HashMap;
use std::fs;
use std::io;

use crate::atomic;
use crate::layers::{Layer, LayerError, LayerInfo, LayerWriter};
use crate::progress::Progress;

use super::collect::Alone;
use super::writers::remove_layer;
use super::{Git, GitError};

/// How much larger a layer is than all smaller ones together.
const FACTOR: u64 = 2;

/// Of layers of these sizes, those to put together, in groups of no more than `bound` each. Those of half the
/// bound and more stay as they are.
pub fn groups_to_combine(sizes: &[u64], bound: u64) -> Vec<Vec<usize>> {
    let mut small: Vec<usize> = (0..sizes.len()).filter(|&at| sizes[at] < bound / 2).collect();
    small.sort_by_key(|&at| sizes[at]);
    small.truncate(how_many(&small.iter().map(|&at| sizes[at]).collect::<Vec<_>>()));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut filled = 0;
    // The largest first, so that what is left over at the end is small.
    for at in small.into_iter().rev() {
        match groups.last_mut() {
            Some(group) if filled + sizes[at] <= bound => {
                group.push(at);
                filled += sizes[at];
            }
            _ => {
                groups.push(vec![at]);
                filled = sizes[at];
            }
        }
    }
    groups.retain(|group| group.len() > 1);
    groups
}

/// Of ascending sizes, how many of the smallest to put together so that the rest, with their sum, is geometric.
fn how_many(sizes: &[u64]) -> usize {
    let doubles = |pair: &[u64]| pair[1] >= FACTOR.saturating_mul(pair[0]);
    let Some(last) = sizes.windows(2).rposition(|pair| !doubles(pair)) else { return 0 };
    let mut count = last + 2;
    let mut sum: u64 = sizes[..count].iter().sum();
    while let Some(&next) = sizes.get(count).filter(|&&next| next < FACTOR.saturating_mul(sum)) {
        sum = sum.saturating_add(next);
        count += 1;
    }
    count
}

impl Git {
    /// Removes git's own index over all packs, which would name some that go.
    pub(super) fn remove_pack_list(&self) -> Result<(), GitError> {
        let index = self.pack_dir().join("multi-pack-index");
        match fs::remove_file(&index) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(GitError::io("remove", &index)(error))
            }
            _ => Ok(()),
        }
    }
}

impl Alone<'_> {
    /// Puts the objects of the layers called `names`, whose packs must be here, into one new layer, and removes
    /// those layers. `None` where they hold nothing.
    ///
    /// When `progress`, which is told of the bytes that were copied, says so, it stops and leaves the layers as they
    /// are.
    pub fn combine(&self, names: &[String], progress: &Progress) -> Result<Option<LayerInfo>, GitError> {
        let git = self.git();
        let pack_dir = git.pack_dir();
        let layers = git.refresh()?;
        let mut writer = LayerWriter::create(&pack_dir)?;
        let by_name: HashMap<&str, &Layer> = layers.layers().map(|layer| (layer.name(), layer)).collect();
        for name in names {
            let missing = || LayerError::Missing { layer: name.clone() };
            let layer = *by_name.get(name.as_str()).ok_or_else(missing)?;
            for extent in layer.extents().ok_or_else(missing)? {
                progress.check()?;
                git.copy_live(Some(layer), &extent, &mut writer)?;
                progress.bytes.add(extent.1.end - extent.1.start);
            }
        }
        let made = writer.finish()?;
        git.remove_pack_list()?;
        let is_new = |name: &&String| made.as_ref().is_none_or(|made| made.name != **name);
        for name in names.iter().filter(is_new) {
            remove_layer(&pack_dir, name)?;
        }
        atomic::sync_dir(&pack_dir).map_err(GitError::io("sync", &pack_dir))?;
        git.refresh()?;
        git.renew_promise()?;
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::Fixture;
    use super::*;

    #[test]
    fn layers_that_double_stay() {
        assert_eq!(how_many(&[]), 0);
        assert_eq!(how_many(&[5]), 0);
        assert_eq!(how_many(&[1, 2, 4, 9, 100]), 0);
        assert_eq!(how_many(&[1, 1]), 2);
        assert_eq!(how_many(&[1, 1, 4, 8]), 2, "4 is twice the sum");
        assert_eq!(how_many(&[1, 1, 3, 100]), 3, "3 is not");
        assert_eq!(how_many(&[1, 2, 4, 7, 100]), 4);
    }

    #[test]
    fn large_layers_are_left_alone_and_groups_have_a_bound() {
        assert!(groups_to_combine(&[50, 60, 70], 100).is_empty());
        let groups = groups_to_combine(&[40, 40, 40, 40, 1000], 100);
        assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
    }

    proptest! {
        #[test]
        fn groups_are_apart_bounded_and_worth_it(sizes in prop::collection::vec(0..10_000u64, 0..60)) {
            let bound = 5_000;
            let groups = groups_to_combine(&sizes, bound);
            let mut all: Vec<usize> = groups.iter().flatten().copied().collect();
            let count = all.len();
            all.sort_unstable();
            all.dedup();
            prop_assert_eq!(all.len(), count);
            for group in groups {
                prop_assert!(group.len() > 1);
                prop_assert!(group.iter().map(|&at| sizes[at]).sum::<u64>() <= bound);
            }
        }

        #[test]
        fn many_backups_leave_few_layers(sizes in prop::collection::vec(1..50u64, 300)) {
            let (mut layers, mut copied) = (Vec::new(), 0);
            for size in &sizes {
                layers.push(*size);
                for mut group in groups_to_combine(&layers, u64::MAX) {
                    let sum: u64 = group.iter().map(|&at| layers[at]).sum();
                    copied += sum;
                    group.sort_unstable();
                    for at in group.into_iter().rev() {
                        layers.swap_remove(at);
                    }
                    layers.push(sum);
                }
            }
            let total: u64 = sizes.iter().sum();
            prop_assert_eq!(layers.iter().sum::<u64>(), total);
            prop_assert!(layers.len() <= 15, "{:?}", layers);
            prop_assert!(copied <= 15 * total, "{} of {}", copied, total);
        }
    }

    #[test]
    fn layers_are_combined_and_nothing_is_lost() {
        let fixture = Fixture::new();
        let git = fixture.open();
        let commits: Vec<_> =
            (0..9).map(|n| fixture.commit(&git, &[("a", &n.to_string()), ("b/c", &"x".repeat(n))])).collect();
        let ids = |git: &Git| {
            let mut ids: Vec<_> =
                git.layers().layers().flat_map(|layer| layer.ids().collect::<Vec<_>>()).collect();
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        git.refresh().unwrap();
        let before = ids(&git);
        let names: Vec<_> = git.layers().layers().map(|layer| layer.name().to_owned()).collect();
        assert_eq!(names.len(), 9);
        let made = git.alone().unwrap().combine(&names, &Progress::new()).unwrap().unwrap();
        assert_eq!(
            git.layers().layers().map(|layer| layer.name().to_owned()).collect::<Vec<_>>(),
            [made.name]
        );
        assert_eq!(ids(&git), before);
        assert_eq!(git.head().unwrap(), commits.last().copied());
        fixture.fsck();

        let alone = git.alone().unwrap();
        assert!(alone.combine(&["pack-none".to_owned()], &Progress::new()).is_err());
        assert_eq!(ids(&git), before);
    }
}
