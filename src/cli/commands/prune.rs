//! `prune`: frees space.

use std::collections::HashSet;

use clap::Args;
use serde_json::{Value, json};
use treering::repository::{MaxUnused, PruneOptions, PrunePlan, PruneReport, Repository};
use treering::timeline::TimeKey;

use crate::cli::error::{CliError, Exit};
use crate::cli::report::{self, plural, size};
use crate::cli::{Session, host_name, user_name};

/// How much may stay waste.
#[derive(Debug, Clone, Args)]
pub struct WasteArguments {
    /// How much may stay though nothing needs it, rather than be rewritten: a part (5%), a size (200M) or unlimited
    #[arg(long, value_name = "LIMIT", default_value = "5%")]
    pub max_unused: MaxUnused,
}

/// Reclaim space that no snapshot needs
#[derive(Debug, Args)]
#[command(after_help = "\
Waits for a running backup some seconds, and backups wait for it. Killed at any instant, it leaves a whole repository and goes \
on the next time. The history of commits is dropped with what it held.")]
pub struct PruneArguments {
    #[command(flatten)]
    pub waste: WasteArguments,
    /// Remove nothing; tell what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// What was done or would be, for programs and for people.
pub struct Said {
    pub message_type: &'static str,
    pub document: Value,
    pub text: String,
}

impl Said {
    pub fn say(&self, session: &Session) -> Result<(), CliError> {
        session.say(self.message_type, &self.document, &self.text)
    }
}

/// Frees what no snapshot needs.
pub fn run(session: &Session, arguments: &PruneArguments) -> Result<Exit, CliError> {
    let repository = session.open_readable()?;
    let freed = match arguments.dry_run {
        true => plan(session, &repository, &arguments.waste, &[])?,
        false => prune_now(session, &repository, &arguments.waste)?,
    };
    freed.say(session)?;
    Ok(Exit::Done)
}

fn options(session: &Session, waste: &WasteArguments) -> PruneOptions {
    PruneOptions {
        user: user_name(),
        host: host_name(),
        max_unused: waste.max_unused,
        ..PruneOptions::new(session.now.timestamp())
    }
}

/// What would be done if the snapshots of the keys `without` were gone.
pub fn plan(
    session: &Session,
    repository: &Repository,
    waste: &WasteArguments,
    without: &[TimeKey],
) -> Result<Said, CliError> {
    let without: HashSet<TimeKey> = without.iter().copied().collect();
    let options = options(session, waste);
    let plan = session.watch(|progress| repository.plan_prune(&options, &without, progress))?;
    Ok(Said { message_type: "prune_plan", document: plan_document(&plan), text: plan_text(&plan) })
}

pub fn prune_now(
    session: &Session,
    repository: &Repository,
    waste: &WasteArguments,
) -> Result<Said, CliError> {
    let options = options(session, waste);
    let report = session.watch(|progress| repository.prune(&options, progress))?;
    Ok(Said { message_type: "prune", document: report_document(&report), text: report_text(&report) })
}

fn plan_text(plan: &PrunePlan) -> String {
    if plan.is_empty() {
        return format!("Nothing to free: {} of {} are unused", size(plan.bytes_unused), size(plan.bytes));
    }
    format!(
        "Would free about {} of {} and copy {} for that\n  volumes: {}, of which {} are unneeded and {} would be written anew\n  \
         layers: {}, of which {} are unneeded and {} would be written anew\n  {} would stay unused",
        size(plan.bytes_freed),
        size(plan.bytes),
        size(plan.bytes_copied),
        report::count(plan.volumes),
        report::count(plan.volumes_unneeded),
        report::count(plan.volumes_repacked),
        report::count(plan.layers),
        report::count(plan.layers_unneeded),
        report::count(plan.layers_rewritten),
        size(plan.bytes_unused),
    )
}

fn plan_document(plan: &PrunePlan) -> Value {
    json!({
        "snapshots_count": plan.snapshots,
        "blobs_unneeded": plan.blobs_unneeded,
        "volumes_count": plan.volumes,
        "volumes_unneeded": plan.volumes_unneeded,
        "volumes_repacked": plan.volumes_repacked,
        "layers_count": plan.layers,
        "layers_unneeded": plan.layers_unneeded,
        "layers_rewritten": plan.layers_rewritten,
        "bytes": plan.bytes,
        "bytes_freed": plan.bytes_freed,
        "bytes_copied": plan.bytes_copied,
        "bytes_unused": plan.bytes_unused,
    })
}

fn report_text(report: &PruneReport) -> String {
    let leftovers = report::leftovers(&report.swept).map_or_else(String::new, |text| format!("\n  {text}"));
    if report.plan.is_empty() {
        return plan_text(&report.plan) + &leftovers;
    }
    format!(
        "Freed {} of {}: removed {} and wrote {}{leftovers}",
        size(report.bytes_freed),
        size(report.plan.bytes),
        plural(report.layers_removed, "layer"),
        report::count(report.layers.len() as u64),
    )
}

fn report_document(report: &PruneReport) -> Value {
    let layers: Vec<&str> = report.layers.iter().map(|layer| layer.name.as_str()).collect();
    json!({
        "plan": plan_document(&report.plan),
        "layers_removed": report.layers_removed,
        "layers_written": layers,
        "volumes_written": report.volumes_written,
        "bytes": report.bytes,
        "bytes_freed": report.bytes_freed,
        "leftovers_removed": report.swept.files + report.swept.layers,
        "leftover_bytes": report.swept.bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_with_nothing_to_do_says_so() {
        let plan = PrunePlan { bytes: 2048, ..PrunePlan::default() };
        assert_eq!(plan_text(&plan), "Nothing to free: 0 B of 2.0 KiB are unused");
    }
}
