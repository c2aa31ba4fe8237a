//! `pull`: gets from a remote.

use std::time::Instant;

use clap::Args;
use serde_json::json;
use treering::remote::Pulled;

use crate::cli::Session;
use crate::cli::error::{CliError, Exit};
use crate::cli::json::{self};
use crate::cli::remotes::{complain_of_kept, document, named, open, open_or_rescue, sentence, tell_kept};
use crate::cli::report::{duration, print, text};

/// Fetch snapshots from a remote
#[derive(Debug, Args)]
#[command(after_help = "\
Snapshots that others removed from the remote stay in this repository, and are not sent there again, unless you say \
--removals. `treering remote removals NAME take` makes that the rule for a remote.")]
pub struct PullArguments {
    /// Remove from this repository the snapshots that others removed from the remote
    #[arg(long)]
    pub removals: bool,
    /// The remote; where none is given, `origin` or the only one
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

/// Pulls from a remote.
pub fn run(session: &Session, arguments: &PullArguments) -> Result<Exit, CliError> {
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
