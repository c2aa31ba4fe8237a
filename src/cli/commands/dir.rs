//! `dir index`, `dir diff` and `dir apply`: the building blocks, without a repository.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::{Args, Subcommand, ValueHint};
use serde_json::json;
use treering::diff::{
    ApplyOptions, Change, DiffData, DiffIndex, DirIndex, Entry, Owners, ScanError, ScanOptions,
    apply_diff_with,
};
use treering::repository::Totals;

use crate::cli::error::{CliError, Exit};
use crate::cli::local_path::local_path;
use crate::cli::report::{name, plural, print, size, totals};
use crate::cli::scan_arguments::ScanArguments;
use crate::cli::{Session, json};

/// Index, compare and patch directories without a repository
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Keep an index of the state that a copy of the directory has; later write down the difference to it, carry the two files over, \
and apply them to the copy.

Example:
  treering dir index tree -o tree.index
  cp -a tree copy; echo more >> tree/file
  treering dir diff tree.index tree -o tree.diff --data tree.tar.gz
  treering dir apply copy tree.diff tree.tar.gz")]
pub enum DirCommand {
    Index(DirIndexArguments),
    Diff(DirDiffArguments),
    Apply(DirApplyArguments),
}

/// Write down the state of a directory
#[derive(Debug, Args)]
pub struct DirIndexArguments {
    /// The directory
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath, value_parser = local_path())]
    pub directory: PathBuf,
    /// The index to write
    #[arg(short, long, value_name = "INDEX", value_hint = ValueHint::FilePath, value_parser = local_path())]
    pub output: PathBuf,
    #[command(flatten)]
    pub scan: ScanArguments,
}

/// Write down how a directory differs from an earlier state
#[derive(Debug, Args)]
pub struct DirDiffArguments {
    /// The index of the earlier state
    #[arg(value_name = "OLD_INDEX", value_hint = ValueHint::FilePath, value_parser = local_path())]
    pub index: PathBuf,
    /// The directory
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath, value_parser = local_path())]
    pub directory: PathBuf,
    /// The difference to write
    #[arg(short, long, value_name = "DIFF", value_hint = ValueHint::FilePath, value_parser = local_path())]
    pub output: PathBuf,
    /// The archive to write, with the new data
    #[arg(long, value_name = "ARCHIVE.tar.gz", value_hint = ValueHint::FilePath, value_parser = local_path())]
    pub data: PathBuf,
    #[command(flatten)]
    pub scan: ScanArguments,
}

/// Bring a directory from the earlier state to the new one
#[derive(Debug, Args)]
pub struct DirApplyArguments {
    /// The directory, in the earlier state
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath, value_parser = local_path())]
    pub directory: PathBuf,
    /// The difference
    #[arg(value_name = "DIFF", value_hint = ValueHint::FilePath, value_parser = local_path())]
    pub diff: PathBuf,
    /// The archive that was written with it
    #[arg(value_name = "ARCHIVE.tar.gz", value_hint = ValueHint::FilePath, value_parser = local_path())]
    pub archive: PathBuf,
    /// Restore owners and ACL entries by number, even if this system has a user of the same name
    #[arg(long)]
    pub numeric_ids: bool,
}

/// Does one of the `dir` commands.
pub fn run(session: &Session, command: &DirCommand) -> Result<Exit, CliError> {
    match command {
        DirCommand::Index(arguments) => index(session, arguments),
        DirCommand::Diff(arguments) => diff(session, arguments),
        DirCommand::Apply(arguments) => apply(session, arguments),
    }
}

fn index(session: &Session, arguments: &DirIndexArguments) -> Result<Exit, CliError> {
    let index = scan(session, &arguments.directory, &arguments.scan, true)?;
    index.to_file(&arguments.output).map_err(CliError::of(&arguments.output))?;
    let names = index.entries.len() as u64;
    let bytes = index.entries.iter().filter_map(Entry::content).map(|content| content.size).sum();
    print(|out| {
        tell_problems(session, out, &index.problems)?;
        if session.json {
            let summary = json!({
                "total_entries_processed": names,
                "total_bytes_processed": bytes,
                "error_count": index.problems.len(),
            });
            json::message(out, "summary", &summary)
        } else if session.quiet {
            Ok(())
        } else {
            writeln!(out, "Wrote {}: {}, {}", shown(&arguments.output), plural(names, "name"), size(bytes))
        }
    })?;
    Ok(exit(index.problems.is_empty()))
}

fn diff(session: &Session, arguments: &DirDiffArguments) -> Result<Exit, CliError> {
    let old = DirIndex::from_file(&arguments.index).map_err(CliError::of(&arguments.index))?;
    let new = scan(session, &arguments.directory, &arguments.scan, false)?;
    let diff = DiffIndex::compute(&old, &new);
    let data = DiffData::create_archive(&arguments.data, &diff).map_err(CliError::of(&arguments.data))?;
    diff.to_file(&arguments.output).map_err(CliError::of(&arguments.output))?;
    let changes = Totals::of(diff.changes.iter().map(Change::as_ref));
    print(|out| {
        session.list_changes(out, Path::new(""), diff.changes.iter().map(Change::as_ref), false)?;
        tell_problems(session, out, &new.problems)?;
        tell_problems(session, out, &data.problems)?;
        if session.json {
            let summary = json!({
                "statistics": json::totals(&changes),
                "error_count": new.problems.len() + data.problems.len(),
            });
            json::message(out, "summary", &summary)
        } else if session.quiet {
            Ok(())
        } else {
            let (diff, data) = (shown(&arguments.output), shown(&arguments.data));
            writeln!(out, "Wrote {diff} and {data}: {}", totals(&changes))
        }
    })?;
    Ok(exit(new.problems.is_empty() && data.problems.is_empty()))
}

fn apply(session: &Session, arguments: &DirApplyArguments) -> Result<Exit, CliError> {
    let directory = &arguments.directory;
    // One that is not there would be made, and a mistyped name be taken for a copy of nothing.
    std::fs::metadata(directory).map_err(CliError::file("read", directory))?;
    let mut diff = DiffIndex::from_file(&arguments.diff).map_err(CliError::of(&arguments.diff))?;
    if arguments.numeric_ids {
        diff.owners = Owners::default();
    }
    let data = DiffData::open(&arguments.archive, &diff).map_err(CliError::of(&arguments.archive))?;
    let report = session.watch(|progress| {
        let report = apply_diff_with(directory, &diff, &data, ApplyOptions::default(), progress);
        let report = report.map_err(|error| CliError::of(directory)(error.into()))?;
        progress.check()?;
        Ok::<_, CliError>(report)
    })?;
    print(|out| {
        session.list_changes(out, Path::new(""), report.done(&diff.changes).map(Change::as_ref), false)?;
        session.tell_failures(out, "apply", directory, &report.failures)?;
        if session.json {
            let summary = json!({
                "files_restored": report.files,
                "bytes_restored": report.bytes,
                "bytes_reused": report.reused_bytes,
                "files_deleted": report.deleted,
                "sockets_skipped": report.sockets,
                "error_count": report.failures.len(),
            });
            json::message(out, "summary", &summary)
        } else if session.quiet {
            Ok(())
        } else {
            let (files, deleted) = (plural(report.files, "file"), plural(report.deleted, "name"));
            let bytes = size(report.bytes);
            writeln!(out, "Patched {}: {files} written, {bytes}; {deleted} deleted", shown(directory))
        }
    })?;
    Ok(exit(report.failures.is_empty()))
}

fn scan(
    session: &Session,
    directory: &Path,
    arguments: &ScanArguments,
    sign: bool,
) -> Result<DirIndex, CliError> {
    let options = ScanOptions {
        excludes: arguments.excludes(),
        one_file_system: arguments.one_file_system,
        threads: 1,
        ..ScanOptions::default()
    };
    let now = SystemTime::from(session.now.timestamp());
    let scanned = session.watch(|progress| DirIndex::scan_with(directory, &options, sign, now, progress));
    scanned.map_err(CliError::of(directory))
}

fn tell_problems(session: &Session, out: &mut dyn Write, problems: &[ScanError]) -> io::Result<()> {
    problems.iter().try_for_each(|problem| session.tell(out, "scan", &problem.path, problem))
}

fn shown(path: &Path) -> String {
    name(path.as_os_str().as_encoded_bytes())
}

fn exit(complete: bool) -> Exit {
    if complete { Exit::Done } else { Exit::Partial }
}
