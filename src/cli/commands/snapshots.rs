//! `snapshots`: lists them.

use clap::Args;
use treering::repository::Snapshot;

use crate::cli::Session;
use crate::cli::error::{CliError, Exit};
use crate::cli::filter::{FilterArguments, readable};
use crate::cli::json::{self, SnapshotObject};
use crate::cli::report::{self, Align, print};

/// List snapshots
#[derive(Debug, Args)]
pub struct SnapshotsArguments {
    #[command(flatten)]
    pub filters: FilterArguments,
}

/// Lists the snapshots, oldest first.
pub fn run(session: &Session, SnapshotsArguments { filters }: &SnapshotsArguments) -> Result<Exit, CliError> {
    let filter = session.filter(filters);
    let mut snapshots = readable(&session.open_readable()?)?;
    snapshots.retain(|snapshot| filter.matches(snapshot));
    session.warn_of_future_in(&snapshots);
    print(|out| {
        if session.json {
            return json::list(out, "snapshots", snapshots.iter().map(SnapshotObject::new));
        }
        if snapshots.is_empty() && !report::was_incomplete() {
            return match filter.is_empty() {
                true => writeln!(out, "There are no snapshots yet: make one with `treering backup DIR`"),
                false => writeln!(out, "There is no snapshot{}", report::text(&filter.to_string())),
            };
        }
        use Align::{Left, Right};
        let titles = ["ID", "Time", "Host", "Tags", "Files", "Size", "Added", "Roots"];
        let rows: Vec<_> = std::iter::once(titles.map(str::to_owned).to_vec())
            .chain(snapshots.iter().map(|snapshot| row(session, snapshot)))
            .collect();
        report::table(out, &[Left, Left, Left, Left, Right, Right, Right, Left], &rows)
    })?;
    Ok(Exit::Done)
}

fn row(session: &Session, snapshot: &Snapshot) -> Vec<String> {
    let record = &snapshot.record;
    // Early versions counted volumes only.
    let added = record.statistics.bytes_stored.max(record.statistics.bytes_volumes);
    let tags: Vec<_> = record.tags.iter().map(|tag| report::text(tag)).collect();
    let roots: Vec<_> = record.roots.iter().map(|root| report::name(root)).collect();
    vec![
        snapshot.name(),
        session.local(snapshot.time()),
        report::text(&record.host),
        tags.join(","),
        report::count(record.statistics.files),
        report::size(record.statistics.bytes),
        report::size(added),
        format!("{}{}", roots.join(", "), if record.is_partial() { " (partial)" } else { "" }),
    ]
}
