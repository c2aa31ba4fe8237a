//! Writing layers anew without what nothing needs.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use crate::archive::{VolumeOptions, VolumeWriter, gather};
use crate::gitkv::LayerUse;
use crate::layers::ObjectId;
use crate::repository::RepositoryError;
use crate::repository::needs::Partial;
use crate::repository::prune::{Pruning, set_traces, write_traces};
use crate::repository::volumes::Finished;
use crate::timeline::{Tier, TimelineError};

impl Pruning<'_> {
    /// Writes what is needed of some layers into new ones, and commits. Afterwards nothing in the old ones is
    /// live. `volumes` are all there are.
    ///
    /// A volume that is needed in part becomes part of a new one; its segments stay as they are stored, whole or
    /// as deltas of the same bases.
    pub fn rewrite(
        &mut self,
        group: &[&LayerUse],
        volumes: &HashSet<ObjectId>,
    ) -> Result<(), RepositoryError> {
        let Self { repository, options, needs, progress, .. } = self;
        let timeline = &repository.timeline;
        let here = group.iter().flat_map(|used| used.live.iter().map(|(id, _)| *id));
        let mut partial: Vec<(ObjectId, Partial)> =
            here.filter_map(|id| Some((id, needs.partial.remove(&id)?))).collect();
        partial.sort_unstable_by_key(|(_, partial)| partial.number);

        let codec = repository.config.codec()?;
        let key = timeline.key(options.time)?;
        let mut batch = timeline.begin_alone(&self.alone)?;
        let mut written = 0;
        if !partial.is_empty() {
            let signatures = RefCell::new(HashMap::new());
            let sink = gather(|volume| {
                let finished = Finished::new(volume, &mut signatures.borrow_mut())?;
                finished.encode(repository)?.put(repository, &mut batch, &key, written, codec)?;
                written += 1;
                Ok::<_, RepositoryError>(())
            });
            let options = VolumeOptions { codec, threads: options.threads, ..VolumeOptions::default() };
            let mut writer = VolumeWriter::new(&options, sink)?;
            for Partial { number, entries, .. } in partial.iter().map(|(_, partial)| partial) {
                for &entry in entries {
                    progress.check()?;
                    let (stored, signature) = needs.segments.stored(repository, *number, entry)?;
                    progress.bytes.add(stored.len.into());
                    signatures.borrow_mut().extend(signature.map(|bytes| (stored.digest, bytes)));
                    writer.append(stored)?;
                }
            }
            writer.finish()?;
        }
        let repacked: HashSet<ObjectId> = partial.iter().map(|(id, _)| *id).collect();
        for used in group {
            progress.check()?;
            batch.copy_live(used, |id| match (repacked.contains(id), volumes.contains(id)) {
                (true, _) => None,
                (false, true) => Some(Tier::Data),
                (false, false) => Some(Tier::Metadata),
            })?;
        }
        let dead: HashSet<&str> =
            partial.iter().flat_map(|(_, partial)| &partial.paths).map(String::as_str).collect();
        for path in &dead {
            batch.remove(path)?;
        }
        let references = timeline.git().seen_of_remotes().map_err(TimelineError::from)?;
        let traces = write_traces(&references, &mut batch, &repository.live(&dead)?, &self.who)?;
        let committed = batch.commit_root(&self.who, &self.message)?;
        set_traces(timeline.git(), &traces)?;
        self.report.volumes_written += written as u64;
        self.report.layers.extend(committed.layers);
        Ok(())
    }
}
