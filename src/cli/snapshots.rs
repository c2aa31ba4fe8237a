//! `init` and `snapshots`: a repository as a whole.

use serde::Serialize;
use treering::repository::{InitOptions, Repository, Snapshot};

use crate::cli::Session;
use crate::cli::args::InitArguments;
use crate::cli::error::{CliError, Exit};
use crate::cli::json::{self, Name, SnapshotObject};
use crate::cli::report::{self, Align, print};

/// Makes a repository.
pub fn init(session: &Session, arguments: &InitArguments) -> Result<Exit, CliError> {
    let options = InitOptions {
        compression: arguments.compression,
        append_only: arguments.append_only,
        ..InitOptions::new(session.now.timestamp())
    };
    let path = session.repository_path()?;
    let repository = Repository::init(path, &options)?;
    let path = path.as_os_str().as_encoded_bytes();
    print(|out| {
        if session.json {
            let id = &repository.config().id;
            let repository = Name { key: "repository", bytes: path };
            json::message(out, "initialized", &Initialized { id, repository })
        } else if session.quiet {
            Ok(())
        } else {
            writeln!(out, "Made the repository {}", report::name(path))
        }
    })?;
    Ok(Exit::Done)
}

/// The line that `init --json` prints.
#[derive(Serialize)]
struct Initialized<'a> {
    id: &'a str,
    #[serde(flatten)]
    repository: Name<'a>,
}

/// Lists the snapshots, oldest first.
pub fn list(session: &Session) -> Result<Exit, CliError> {
    let snapshots = session.open()?.snapshots()?;
    print(|out| {
        if session.json {
            return json::line(out, &snapshots.iter().map(SnapshotObject::new).collect::<Vec<_>>());
        }
        if snapshots.is_empty() {
            return writeln!(out, "There are no snapshots yet: make one with `treering backup DIR`");
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
    let tags: Vec<_> = record.tags.iter().map(|tag| report::text(tag)).collect();
    let roots: Vec<_> = record.roots.iter().map(|root| report::name(root)).collect();
    vec![
        snapshot.short_id(),
        report::local_time(snapshot.time(), session.now.time_zone()),
        report::text(&record.host),
        tags.join(","),
        report::count(record.statistics.files),
        report::size(record.statistics.bytes),
        report::size(record.statistics.bytes_volumes),
        roots.join(", "),
    ]
}
