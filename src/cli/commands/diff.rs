//! `diff`: what differs between a snapshot and another state.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use treering::diff::Change;
use treering::repository::{CompareOptions, Comparison, Repository, Snapshot, SnapshotPath, Totals};

use crate::cli::Session;
use crate::cli::error::{CliError, Exit};
use crate::cli::filter::{FilterArguments, snapshot_help};
use crate::cli::json::{self, ChangeObject, ErrorObject};
use crate::cli::report::{self, complain, plural, print, unescape};
use crate::cli::scan_arguments::ScanArguments;

/// Show changes between snapshots, or a snapshot and a directory
#[derive(Debug, Args)]
#[command(after_help = DIFF_HELP)]
pub struct DiffArguments {
    /// The snapshot to begin with, and a path in it
    #[arg(value_name = "SNAP[:PATH]")]
    pub old: OsString,
    /// The snapshot or directory to compare it with; a directory that could be taken for a snapshot is
    /// written ./DIR
    #[arg(value_name = "SNAP[:PATH]|DIR")]
    pub new: OsString,
    /// Of a directory, read every file, even where size, times and inode are those of the snapshot
    #[arg(short, long)]
    pub force: bool,
    #[command(flatten)]
    pub scan: ScanArguments,
    #[command(flatten)]
    pub filters: FilterArguments,
}

const DIFF_HELP: &str = concat!(
    "\
Each difference is a line:
  +  created
  M  updated: the content is another
  U  only the metadata is another: mode, owner, time or extended attributes
  R  renamed: OLD -> NEW
  -  deleted

SNAP:PATH compares only that path. Given for one of two snapshots, it applies to both. Of a directory, files are read only where size, times or inode differ from the snapshot, as in a backup; --force reads all. What \
is left out by --exclude and its like, or by -x, is compared on neither side. What cannot be read is named, and the exit \
status is then 3.

",
    snapshot_help!()
);

/// Compares a snapshot with another, or with a directory.
pub fn run(session: &Session, arguments: &DiffArguments) -> Result<Exit, CliError> {
    let repository = session.open_readable()?;
    session.hold(&repository)?;
    let named = SnapshotPath::parse(&arguments.old, &session.now)?;
    let (old, path) = session.find_in(&repository, named, &arguments.filters)?;
    let compared = match snapshot(session, &repository, arguments)? {
        Some((new, new_path)) => {
            let (path, new_path) = (path.as_deref(), new_path.as_deref());
            // A path of one side is meant on both.
            let (old_path, new_path) = (path.or(new_path), new_path.or(path));
            session.watch(|_| repository.compare_paths((&old, old_path), (&new, new_path)))?
        }
        None => {
            let scan = arguments.scan.clone().filled(&session.profile);
            let options = CompareOptions {
                path,
                excludes: scan.excludes(),
                one_file_system: scan.one_file_system,
                force: arguments.force,
            };
            let directory = directory(&arguments.new);
            session.watch(|progress| repository.compare_directory(&old, &directory, &options, progress))?
        }
    };
    print(|out| write(out, session, &compared))?;
    Ok(if compared.problems.is_empty() { Exit::Done } else { Exit::Partial })
}

/// A snapshot, and perhaps a path in it.
type Side = (Snapshot, Option<Vec<u8>>);

/// The snapshot to compare with, and perhaps a path in it; `None` where it is the path of a directory.
fn snapshot(
    session: &Session,
    repository: &Repository,
    arguments: &DiffArguments,
) -> Result<Option<Side>, CliError> {
    let text = arguments.new.as_os_str();
    let bytes = text.as_encoded_bytes();
    let before_colon = bytes.split(|&byte| byte == b':').next().unwrap_or_default();
    if before_colon.contains(&b'/') || matches!(bytes, b"." | b"..") {
        return Ok(None);
    }
    match SnapshotPath::parse(text, &session.now) {
        Ok(named) => session.find_in(repository, named, &arguments.filters).map(Some),
        Err(_) if bytes.contains(&b'/') || directory(text).symlink_metadata().is_ok() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The directory that `text` names; as a listing prints it, unless there is one of that very name.
fn directory(text: &OsStr) -> PathBuf {
    let as_is = PathBuf::from(text);
    let meant = unescape(text.as_bytes()).map(|name| PathBuf::from(OsString::from_vec(name)));
    meant.filter(|meant| as_is.symlink_metadata().is_err() && meant.exists()).unwrap_or(as_is)
}

/// The document that `diff --json` prints.
#[derive(Serialize)]
struct Differences<'a> {
    changes: Vec<ChangeObject<'a>>,
    statistics: serde_json::Value,
    /// What could not be read.
    errors: Vec<ErrorObject<'a>>,
    /// Names of one side that a backup could not read on the other.
    entries_unknown: u64,
}

fn write(out: &mut dyn Write, session: &Session, compared: &Comparison) -> io::Result<()> {
    let Comparison { changes, problems, unknown, .. } = compared;
    let totals = Totals::of(changes.iter().map(Change::as_ref));
    if session.json {
        let changes = changes.iter().map(|change| ChangeObject::new(change.as_ref())).collect();
        let errors = problems
            .iter()
            .map(|problem| ErrorObject::new("scan", problem.path.as_os_str(), problem))
            .collect();
        let statistics = json::totals(&totals);
        let differences = Differences { changes, statistics, errors, entries_unknown: *unknown };
        return json::message(out, "diff", &differences);
    }
    report::changes(out, Path::new(""), changes.iter().map(Change::as_ref))?;
    for problem in problems {
        session.tell(out, "scan", &problem.path, problem)?;
    }
    if *unknown > 0 {
        let (exist, they_are) = if *unknown == 1 { (" exists", "it is") } else { (" exist", "they are") };
        complain(&format!(
            "a snapshot is partial: {} on the other side only and could not be read by its backup, so {} not compared",
            plural(*unknown, "name") + exist,
            they_are,
        ));
    }
    if session.quiet { Ok(()) } else { writeln!(out, "{}", report::totals(&totals)) }
}
