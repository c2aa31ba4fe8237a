//! `diff`: what differs between a snapshot and another state.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;
use serde_json::json;
use treering::causes::chain;
use treering::diff::{Change, ScanError};
use treering::repository::{CompareOptions, Comparison, Repository, Selector, Snapshot, Totals};

use crate::cli::Session;
use crate::cli::args::DiffArguments;
use crate::cli::error::{CliError, Exit};
use crate::cli::json::{self, ChangeObject};
use crate::cli::report::{self, complain, plural, print};

/// Compares a snapshot with another, or with a directory.
pub fn run(session: &Session, arguments: &DiffArguments) -> Result<Exit, CliError> {
    let repository = session.open_readable()?;
    session.hold(&repository)?;
    let named = Selector::parse(&arguments.old, &session.now)?;
    let old = session.select(&repository, &named, &arguments.filters)?;
    let compared = match snapshot(session, &repository, arguments)? {
        Some(new) => session.watch(|_| repository.compare(&old, &new))?,
        None => {
            let scan = arguments.scan.clone().filled(&session.profile);
            let options = CompareOptions {
                excludes: scan.excludes(),
                one_file_system: scan.one_file_system,
                force: arguments.force,
            };
            let directory = Path::new(&arguments.new);
            session.watch(|progress| repository.compare_directory(&old, directory, &options, progress))?
        }
    };
    print(|out| write(out, session, &compared))?;
    Ok(if compared.problems.is_empty() { Exit::Done } else { Exit::Partial })
}

/// The snapshot to compare with; `None` where it is the path of a directory.
fn snapshot(
    session: &Session,
    repository: &Repository,
    arguments: &DiffArguments,
) -> Result<Option<Snapshot>, CliError> {
    let text = arguments.new.as_os_str();
    let bytes = text.as_encoded_bytes();
    if bytes.contains(&b'/') || matches!(bytes, b"." | b"..") {
        return Ok(None);
    }
    match Selector::parse(&text.to_string_lossy(), &session.now) {
        Ok(selector) => session.select(repository, &selector, &arguments.filters).map(Some),
        Err(_) if Path::new(text).is_dir() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The document that `diff --json` prints.
#[derive(Serialize)]
struct Differences<'a> {
    changes: Vec<ChangeObject<'a>>,
    statistics: serde_json::Value,
    /// What could not be read.
    errors: Vec<serde_json::Value>,
    /// Names of one side that a backup could not read on the other.
    unknown: u64,
}

fn write(out: &mut dyn Write, session: &Session, compared: &Comparison) -> io::Result<()> {
    let Comparison { changes, problems, unknown, .. } = compared;
    let totals = Totals::of(changes.iter().map(Change::as_ref));
    if session.json {
        let changes = changes.iter().map(|change| ChangeObject::new(change.as_ref())).collect();
        let error = |problem: &ScanError| json!({ "item": problem.path.to_string_lossy(), "message": chain(&problem.source) });
        let errors = problems.iter().map(error).collect();
        return json::line(
            out,
            &Differences { changes, statistics: json::totals(&totals), errors, unknown: *unknown },
        );
    }
    report::changes(out, changes.iter().map(Change::as_ref))?;
    for problem in problems {
        session.tell(out, "scan", &problem.path, problem)?;
    }
    if *unknown > 0 {
        complain(&format!(
            "a snapshot is partial: {} that its backup could not read, and that only the other side has, are not compared",
            plural(*unknown, "name")
        ));
    }
    if session.quiet { Ok(()) } else { writeln!(out, "{}", report::totals(&totals)) }
}
