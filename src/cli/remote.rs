//! `remote`, `push`, `pull` and `clone`: the repository in other places.

use std::io::{self, Write};
use std::time::Instant;

use serde::Serialize;
use serde_json::json;
use treering::remote::{
    KeptHere, Pulled, Pushed, Remote, RemoteError, RemoteKind, Remotes, Removed, SnapshotCount,
};
use treering::repository::{FORMAT_VERSION, Repository, RepositoryError, RepositoryId};

use crate::cli::cold;
use crate::cli::error::{CliError, Exit};
use crate::cli::json::{self, Name};
use crate::cli::remote_args::{CloneArguments, PullArguments, PushArguments, RemoteCommand, RemovalRule};
use crate::cli::report::{self, Align, duration, plural, print, text};
use crate::cli::{self, Session};

/// Changes or lists the remotes.
pub fn run(session: &Session, command: &RemoteCommand) -> Result<Exit, CliError> {
    // One of blobs has remotes too.
    let remotes = Remotes::open_with(session.repository_path()?, FORMAT_VERSION, &cold::options()?)?;
    if remotes.is_shared() && !matches!(command, RemoteCommand::List) {
        cli::write_for_group();
    }
    match command {
        RemoteCommand::Add(arguments) => remotes.add(&arguments.name, &arguments.url)?,
        RemoteCommand::Remove(arguments) => remotes.remove(&arguments.name)?,
        RemoteCommand::Removals(arguments) => match arguments.rule {
            Some(rule) => remotes.set_removals(&arguments.name, rule == RemovalRule::Take)?,
            None => {
                let rule = if remotes.takes_removals(&arguments.name)? { "take" } else { "keep" };
                session.say("removals", &json!({ "remote": arguments.name, "removals": rule }), rule)?;
            }
        },
        RemoteCommand::Trust(arguments) => {
            let trusted = remotes.trust(arguments.name.as_deref())?;
            let text = match trusted.is_empty() {
                true => "There is nothing that needs trust".to_owned(),
                false => format!("Trusted {}", trusted.join(", ")),
            };
            session.say("trusted", &json!({ "trusted": trusted }), &text)?;
        }
        RemoteCommand::List => {
            let (remotes, unread) = remotes.list_readable()?;
            list(session, &remotes)?;
            unread.iter().for_each(|error| report::complain_of_loss(&treering::causes::chain(error)));
        }
    }
    Ok(Exit::Done)
}

fn list(session: &Session, remotes: &[Remote]) -> Result<(), CliError> {
    print(|out| {
        if session.json {
            let object = |remote: &Remote| json!({ "name": remote.name, "url": remote.url.to_string(), "kind": kind(remote) });
            return json::line(out, &remotes.iter().map(object).collect::<Vec<_>>());
        }
        let row =
            |remote: &Remote| vec![text(&remote.name), text(kind(remote)), text(&remote.url.to_string())];
        report::table(out, &[Align::Left; 3], &remotes.iter().map(row).collect::<Vec<_>>())
    })
}

fn kind(remote: &Remote) -> &'static str {
    match remote.kind {
        RemoteKind::Git => "git",
        RemoteKind::Cold => "cold",
    }
}

/// Pushes to a remote; where none is named, to those of the profile.
pub fn push(session: &Session, arguments: &PushArguments) -> Result<Exit, CliError> {
    let repository = session.open()?;
    for name in session.remotes(arguments.name.as_deref()) {
        push_to(session, &repository, name, arguments.removals)?;
    }
    Ok(Exit::Done)
}

/// Pushes to a remote after a backup.
pub fn push_snapshot(session: &Session, repository: &Repository, name: Option<&str>) -> Result<(), CliError> {
    push_to(session, repository, name, false).map_err(|error| match error {
        CliError::Remote(error) => CliError::NotPushed(error),
        other => other,
    })
}

fn push_to(
    session: &Session,
    repository: &Repository,
    name: Option<&str>,
    removals: bool,
) -> Result<(), CliError> {
    let start = Instant::now();
    let remotes = open(repository, removals)?;
    let name = named(&remotes, name)?;
    let who = session.who_in(repository);
    let Pushed { there, here, layers, bytes, made, removed, kept, kept_here, refusal } =
        session.watch(|progress| remotes.push_with(&name, &who, progress))?;
    if let Some(failure) = &removed.failure {
        // What was asked for has happened, and a place where nothing may be removed can be meant so.
        let cause = treering::causes::chain(failure);
        report::complain(&format!("what nothing needs stays in {name} until a later push: {cause}"));
    }
    complain_of_kept(&name, kept_here);
    if let Some(reason) = &refusal {
        report::complain(&format!(
            "{name} refuses removals and keeps the snapshots that were removed here: {}",
            text(reason)
        ));
    }
    print(|out| {
        if session.json {
            let summary = json!({
                "remote": name,
                "sent": document(there),
                "received": document(here),
                "store_made": made,
                "layers_sent": layers,
                "bytes_sent": bytes,
                "layers_removed": removed.layers,
                "bytes_removed": removed.bytes,
                "snapshots_kept": kept,
                "snapshots_kept_here": kept_here.all,
                "total_duration": start.elapsed().as_secs_f64(),
            });
            return json::message(out, "push", &summary);
        }
        if session.quiet {
            return Ok(());
        }
        writeln!(out, "Pushed to {}: {} in {}", text(&name), sentence(there), duration(start.elapsed()))?;
        if let Some(made) = &made {
            writeln!(out, "  made a store at {}", text(made))?;
        }
        if layers > 0 {
            writeln!(out, "  sent {}, {}", plural(layers, "layer"), report::size(bytes))?;
        }
        if removed.layers > 0 {
            let Removed { layers, bytes, .. } = removed;
            writeln!(
                out,
                "  removed {} that nothing needs, {}",
                plural(layers, "layer"),
                report::size(bytes)
            )?;
        }
        if kept > 0 {
            let kept = plural(kept, "snapshot");
            writeln!(out, "  left {kept} there that this repository removed: the remote keeps everything")?;
        }
        if !here.is_zero() {
            writeln!(out, "  received {}", sentence(here))?;
        }
        tell_kept(out, &name, kept_here)
    })
}

/// Tells, also where little is to be said, what others removed from a remote and stays here.
fn complain_of_kept(remote: &str, kept: KeptHere) {
    if kept.new > 0 {
        report::complain(&format!(
            "{} removed from {remote} by others: kept in this repository. To remove them here too, run `treering pull {remote} \
             --removals`",
            plural(kept.new, "snapshot"),
            remote = text(remote)
        ));
    }
}

fn tell_kept(out: &mut dyn Write, remote: &str, kept: KeptHere) -> io::Result<()> {
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

/// Pulls from a remote.
pub fn pull(session: &Session, arguments: &PullArguments) -> Result<Exit, CliError> {
    let start = Instant::now();
    let name = arguments.name.as_deref();
    let repository = open_or_rescue(session, name)?;
    let remotes = open(&repository, arguments.removals)?;
    let name = named(&remotes, name)?;
    let who = session.who_in(&repository);
    let Pulled { here, kept_here } = session.watch(|progress| remotes.pull_with(&name, &who, progress))?;
    complain_of_kept(&name, kept_here);
    print(|out| {
        if session.json {
            let summary = json!({
                "remote": name,
                "received": document(here),
                "snapshots_kept_here": kept_here.all,
                "total_duration": start.elapsed().as_secs_f64(),
            });
            return json::message(out, "pull", &summary);
        }
        if session.quiet {
            return Ok(());
        }
        writeln!(out, "Pulled from {}: {} in {}", text(&name), sentence(here), duration(start.elapsed()))?;
        tell_kept(out, &name, kept_here)
    })?;
    Ok(Exit::Done)
}

/// Makes a clone.
pub fn clone(session: &Session, arguments: &CloneArguments) -> Result<Exit, CliError> {
    let start = Instant::now();
    let CloneArguments { cold: is_cold, url, path } = arguments;
    let options = cold::options()?;
    session.watch(|progress| match is_cold {
        true => Remotes::clone_cold_watched(url, path, FORMAT_VERSION, &options, progress),
        false => Remotes::clone_watched(url, path, FORMAT_VERSION, &options, progress),
    })?;
    let repository = Repository::open(&arguments.path)?;
    // Whoever clones a remote takes it for his own as it is now; what others add later is another thing.
    repository.trust_what_is_here()?;
    let snapshots = repository.count_snapshots()?;
    let path = arguments.path.as_os_str().as_encoded_bytes();
    print(|out| {
        if session.json {
            let cloned = Cloned {
                repository: Name { key: "repository", bytes: path },
                id: repository.config().id,
                snapshots,
                total_duration: start.elapsed().as_secs_f64(),
            };
            return json::message(out, "cloned", &cloned);
        }
        if session.quiet {
            return Ok(());
        }
        let (path, took) = (report::name(path), duration(start.elapsed()));
        writeln!(out, "Cloned {} to {path} in {took}", plural(snapshots, "snapshot"))
    })?;
    Ok(Exit::Done)
}

/// The line that `clone --json` prints.
#[derive(Serialize)]
struct Cloned<'a> {
    #[serde(flatten)]
    repository: Name<'a>,
    id: RepositoryId,
    snapshots: u64,
    total_duration: f64,
}

/// The remotes of a repository, to exchange snapshots with.
fn open(repository: &Repository, removals: bool) -> Result<Remotes, CliError> {
    // Before it holds what the remote only claims.
    repository.trust_what_is_here()?;
    let remotes = Remotes::open_with(repository.path(), FORMAT_VERSION, &cold::options()?)?;
    Ok(if removals { remotes.taking_removals() } else { remotes })
}

fn named(remotes: &Remotes, name: Option<&str>) -> Result<String, CliError> {
    Ok(name.map_or_else(|| remotes.default_name(), |name| Ok(name.to_owned()))?)
}

fn sentence(count: SnapshotCount) -> String {
    match count {
        SnapshotCount { added: 0, removed: 0 } => "nothing new".to_owned(),
        SnapshotCount { added, removed: 0 } => plural(added, "snapshot"),
        SnapshotCount { added: 0, removed } => format!("{} removed", plural(removed, "snapshot")),
        SnapshotCount { added, removed } => {
            format!("{}, {} removed", plural(added, "snapshot"), report::count(removed))
        }
    }
}

fn document(count: SnapshotCount) -> serde_json::Value {
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
