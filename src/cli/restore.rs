//! `restore`: a directory brought to the state of a snapshot.

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use treering::diff::Change;
use treering::repository::{Mismatch, RestoreOptions, RestoreReport, Snapshot, Totals};

use crate::cli::Session;
use crate::cli::args::RestoreArguments;
use crate::cli::error::{CliError, Exit};
use crate::cli::json;
use crate::cli::report::{count, duration, name, plural, print, size, totals};

/// Restores a snapshot, or a path of it.
pub fn run(session: &Session, arguments: &RestoreArguments) -> Result<Exit, CliError> {
    let start = Instant::now();
    let (repository, snapshot, path) = session.find(&arguments.snapshot, &arguments.filters)?;
    let options = RestoreOptions {
        path,
        include: arguments.include.clone(),
        exclude: arguments.exclude.clone(),
        delete: arguments.delete,
        dry_run: arguments.dry_run,
        verify: arguments.verify,
        ..RestoreOptions::new(&arguments.target)
    };
    let report = session.watch_lines(|progress| repository.restore(&snapshot, &options, progress))?;
    let done = Done { snapshot: &snapshot, options: &options, report: &report, took: start.elapsed() };
    print(|out| {
        session.list_changes(out, report.changes.iter().map(Change::as_ref), options.dry_run)?;
        for failure in &report.applied.failures {
            let path = options.target.join(failure.path.as_path());
            session.tell(out, "restore", &path, failure)?;
        }
        for (path, mismatch) in &report.mismatches {
            let path = options.target.join(path.as_path());
            session.tell(out, "verify", &path, &Differs(&path, *mismatch))?;
        }
        match (session.json, session.quiet) {
            (true, _) => json::message(out, "summary", &done.summary()),
            (false, true) => Ok(()),
            (false, false) => done.write(out),
        }
    })?;
    Ok(if done.errors() == 0 { Exit::Done } else { Exit::Partial })
}

/// What was read back is not what was written.
#[derive(Debug, thiserror::Error)]
#[error("{} {}", name(.0.as_os_str().as_encoded_bytes()), .1)]
struct Differs<'a>(&'a Path, Mismatch);

/// A restore that came to its end.
struct Done<'a> {
    snapshot: &'a Snapshot,
    options: &'a RestoreOptions,
    report: &'a RestoreReport,
    took: Duration,
}

impl Done<'_> {
    fn errors(&self) -> u64 {
        (self.report.applied.failures.len() + self.report.mismatches.len()) as u64
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { snapshot, options, report, took } = self;
        let applied = &report.applied;
        let verb = if options.dry_run { "Would restore" } else { "Restored" };
        let target = name(options.target.as_os_str().as_encoded_bytes());
        writeln!(out, "{verb} snapshot {} to {target}", snapshot.short_id())?;
        writeln!(
            out,
            "  changes  {}; {} unchanged",
            totals(&Totals::of(report.changes.iter().map(Change::as_ref))),
            count(report.unchanged)
        )?;
        if !options.dry_run {
            write!(out, "  written  {}, {}", plural(applied.files, "file"), size(applied.bytes))?;
            if applied.reused_bytes > 0 {
                write!(out, " ({} of it from the target itself)", size(applied.reused_bytes))?;
            }
            writeln!(out, " in {}", duration(*took))?;
        }
        if applied.sockets > 0 {
            writeln!(out, "  sockets  {} left to the programs that make them", count(applied.sockets))?;
        }
        if report.lacking > 0 {
            writeln!(
                out,
                "  lacking  {} that only root can give the owner, group, mode or attributes of the snapshot",
                plural(report.lacking, "name")
            )?;
        }
        if let Some(files) = report.verified {
            writeln!(out, "  verified {}", plural(files, "file"))?;
        }
        if self.errors() > 0 {
            writeln!(out, "  errors   {}; the rest is restored", count(self.errors()))?;
        }
        Ok(())
    }

    fn summary(&self) -> serde_json::Value {
        let Self { snapshot, options, report, took } = self;
        let applied = &report.applied;
        json!({
            "dry_run": options.dry_run,
            "snapshot_id": snapshot.id.to_string(),
            "changes": json::totals(&Totals::of(report.changes.iter().map(Change::as_ref))),
            "files_restored": applied.files,
            "bytes_restored": applied.bytes,
            "bytes_reused": applied.reused_bytes,
            "files_deleted": applied.deleted,
            "entries_unchanged": report.unchanged,
            "sockets_skipped": applied.sockets,
            "entries_lacking": report.lacking,
            "files_verified": report.verified,
            "total_duration": took.as_secs_f64(),
            "error_count": self.errors(),
        })
    }
}
