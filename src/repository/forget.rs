//! Removing snapshots.
//!
//! Only the record of a snapshot goes, with the summary of what changed, in one commit: this takes no longer
//! than a commit does. No other snapshot rests on it. What only it needed stays until the next
//! [`prune`](Repository::prune).

use jiff::Timestamp;

use crate::format::kind;
use crate::repository::{Repository, RepositoryError};
use crate::timeline::{self, TimeKey, TimedBlob};

impl Repository {
    /// Removes the snapshots of these keys. Those that are gone already do not matter.
    pub fn forget(
        &self,
        keys: &[TimeKey],
        user: &str,
        host: &str,
        now: Timestamp,
    ) -> Result<(), RepositoryError> {
        if keys.is_empty() {
            // What is gone already may be so only until the power fails.
            return Ok(self.timeline.git().sync_branch()?);
        }
        self.expect_removable()?;
        let _reserve = self.give_up_reserve();
        let mut batch = self.timeline.begin()?;
        for key in keys {
            for kind in [kind::SNAPSHOTS, kind::DIFFS] {
                for blob in self.timeline.list(kind, key.time()..=key.time())?.without_strays() {
                    let TimedBlob { key: found, suffix, .. } = blob?;
                    if found == *key {
                        batch.remove(&timeline::path(kind, key, &suffix))?;
                    }
                }
            }
        }
        let message = match keys {
            [only] => format!("Forget {only}"),
            keys => format!("Forget {} snapshots", keys.len()),
        };
        batch.commit(&self.committer(user, host, now), &message)?;
        Ok(())
    }

    /// Lets nothing be removed any more, or allows it again. Whoever can write to the repository's directory
    /// can also do that; it guards against mistakes, and the hook of a remote against thieves.
    pub fn set_append_only(
        &mut self,
        append_only: bool,
        user: &str,
        host: &str,
        now: Timestamp,
    ) -> Result<(), RepositoryError> {
        let message = if append_only { "Allow only additions" } else { "Allow removals" };
        self.change_config(
            |config| config.append_only = append_only,
            message,
            &self.committer(user, host, now),
        )
    }

    /// That something may be removed.
    pub(super) fn expect_removable(&self) -> Result<(), RepositoryError> {
        if self.config.append_only { Err(RepositoryError::AppendOnly) } else { Ok(()) }
    }
}
