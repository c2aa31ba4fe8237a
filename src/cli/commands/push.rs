//! `push`: sends to a remote.

use std::time::Instant;

use clap::Args;
use serde_json::json;
use treering::remote::{Pushed, Removed};
use treering::repository::Repository;

use crate::cli::Session;
use crate::cli::error::{CliError, Exit};
use crate::cli::json::{self};
use crate::cli::remotes::{complain_of_kept, document, named, open, sentence, tell_kept};
use crate::cli::report::{self, duration, plural, print, text};

/// Send snapshots to a remote
#[derive(Debug, Args)]
#[command(after_help = "\
Snapshots that others pushed are merged first; those that others removed stay in this repository, unless you say --removals. A push that was interrupted is made again with the same command.")]
pub struct PushArguments {
    /// Remove from this repository the snapshots that others removed from the remote
    #[arg(long)]
    pub removals: bool,
    /// The remote; where none is given, those of the profile, or else `origin` or the only one
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

/// Pushes to a remote; where none is named, to those of the profile.
pub fn run(session: &Session, arguments: &PushArguments) -> Result<Exit, CliError> {
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
