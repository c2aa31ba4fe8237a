//! What commands that exchange with remotes share.

use std::io::{self, Write};

use serde_json::json;
use treering::remote::{KeptHere, RemoteError, Remotes, SnapshotCount};
use treering::repository::{FORMAT_VERSION, Repository, RepositoryError};

use crate::cli::error::CliError;
use crate::cli::report::{self, plural, text};
use crate::cli::{Session, cold};

/// Tells, also where little is to be said, what others removed from a remote and stays here.
pub fn complain_of_kept(remote: &str, kept: KeptHere) {
    if kept.new > 0 {
        report::complain(&format!(
            "{} removed from {remote} by others: kept in this repository. To remove them here too, run `treering pull {remote} \
             --removals`",
            plural(kept.new, "snapshot"),
            remote = text(remote)
        ));
    }
}

pub fn tell_kept(out: &mut dyn Write, remote: &str, kept: KeptHere) -> io::Result<()> {
    match kept.all {
        0 => Ok(()),
        all => {
            writeln!(out, "  kept {} here that others removed from {}", plural(all, "snapshot"), text(remote))
        }
    }
}

/// The repository; where its newest state is lost here, a remote brings it back first: the one of that name, or whichever
/// has it.
pub fn open_or_rescue(session: &Session, name: Option<&str>) -> Result<Repository, CliError> {
    let lost = match session.open() {
        Err(CliError::Repository(
            lost @ (RepositoryError::LostNewest { .. } | RepositoryError::WithoutIndex { .. }),
        )) => lost,
        opened => return opened,
    };
    let remotes = Remotes::open_with(session.repository_path()?, FORMAT_VERSION, &cold::options()?)?;
    let names = match name {
        Some(name) => vec![name.to_owned()],
        None => {
            let (remotes, unread) = remotes.list_readable()?;
            unread.iter().for_each(|error| report::complain(&treering::causes::chain(error)));
            remotes.into_iter().map(|remote| remote.name).collect()
        }
    };
    let mut first: Option<RemoteError> = None;
    for name in names {
        match session.watch(|progress| remotes.rescue(&name, progress)) {
            Ok(()) => {
                first.iter().for_each(|error| report::complain(&treering::causes::chain(error)));
                report::complain(&format!(
                    "restored the missing objects of the latest commit from {}",
                    text(&name)
                ));
                return session.open();
            }
            // The command fails for the first reason, and tells it then.
            Err(error) if first.is_none() => first = Some(error),
            Err(error) => report::complain(&treering::causes::chain(&error)),
        }
    }
    Err(first.map_or(CliError::Repository(lost), CliError::from))
}

/// The remotes of a repository, to exchange snapshots with.
pub fn open(repository: &Repository, removals: bool) -> Result<Remotes, CliError> {
    // Before it holds what the remote only claims.
    repository.trust_what_is_here()?;
    let remotes = Remotes::open_with(repository.path(), FORMAT_VERSION, &cold::options()?)?;
    Ok(if removals { remotes.taking_removals() } else { remotes })
}

pub fn named(remotes: &Remotes, name: Option<&str>) -> Result<String, CliError> {
    Ok(name.map_or_else(|| remotes.default_name(), |name| Ok(name.to_owned()))?)
}

pub fn sentence(count: SnapshotCount) -> String {
    match count {
        SnapshotCount { added: 0, removed: 0 } => "nothing new".to_owned(),
        SnapshotCount { added, removed: 0 } => plural(added, "snapshot"),
        SnapshotCount { added: 0, removed } => format!("{} removed", plural(removed, "snapshot")),
        SnapshotCount { added, removed } => {
            format!("{}, {} removed", plural(added, "snapshot"), report::count(removed))
        }
    }
}

pub fn document(count: SnapshotCount) -> serde_json::Value {
    json!({ "snapshots_added": count.added, "snapshots_removed": count.removed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moved_is_one_short_sentence() {
        let said = |added, removed| sentence(SnapshotCount { added, removed });
        assert_eq!(said(0, 0), "nothing new");
        assert_eq!(said(1, 0), "1 snapshot");
        assert_eq!(said(0, 2), "2 snapshots removed");
        assert_eq!(said(3, 2), "3 snapshots, 2 removed");
    }
}
