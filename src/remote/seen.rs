//! What this repository has seen of its remotes last.
//!
//! A reference names the commit, or a [trace](Trace) where the history was pruned here; the reference counts where both
//! are there. [`Remotes::see`] moves it by compare-and-set, so that what another process saw meanwhile stays.

use crate::gitkv::{GitError, SEEN, Trace};
use crate::layers::ObjectId;

use super::{RemoteError, Remotes};

/// What this repository knows of a remote.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    /// The commit that the remote was at when it was last seen.
    pub commit: ObjectId,
    /// The commit that has the paths of that one: itself, or its trace.
    pub base: ObjectId,
    /// Its trace, where the history was dropped here.
    pub trace: Option<Trace>,
}

/// The reference to the commit of a remote that was last merged or pushed.
pub(super) fn seen(remote: &str) -> String {
    format!("{SEEN}{remote}")
}

impl Remotes {
    /// What was seen of a remote last.
    pub(super) fn known(&self, remote: &str) -> Result<Option<Known>, GitError> {
        if let Some(commit) = self.git.reference(&seen(remote))? {
            return Ok(Some(Known { commit, base: commit, trace: None }));
        }
        let trace = self.git.trace(remote)?;
        Ok(trace.map(|trace| Known { commit: trace.commit, base: trace.id, trace: Some(trace) }))
    }

    /// The commit that a remote's branch was at when it was last fetched or pushed.
    pub(super) fn whereabouts(&self, remote: &str) -> Result<Option<ObjectId>, GitError> {
        match self.git.reference(&self.git.tracking(remote))? {
            Some(commit) => Ok(Some(commit)),
            None => Ok(self.git.trace(remote)?.map(|trace| trace.commit)),
        }
    }

    /// Remembers that `theirs` was seen, if nobody saw anything since `before` was remembered.
    pub(super) fn see(
        &self,
        remote: &str,
        before: Option<&ObjectId>,
        theirs: &ObjectId,
    ) -> Result<(), RemoteError> {
        if before != Some(theirs) {
            match self.git.compare_and_set(&seen(remote), before, theirs) {
                Err(GitError::Moved { .. }) => {}
                set => set?,
            }
        }
        Ok(self.git.remove_trace(remote)?)
    }
}
