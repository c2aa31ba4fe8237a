//! `restore`: a directory brought to the state of a snapshot.

use std::ffi::OsString;
use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{ArgGroup, Args, ValueHint};
use serde_json::json;
use treering::diff::{Change, Pattern};
use treering::repository::{
    Mismatch, RestoreOptions, RestorePlan, RestoreReport, RestoreTarget, Snapshot, Spared, Totals,
};

use crate::cli::error::{CliError, Exit};
use crate::cli::filter::{FilterArguments, snapshot_help};
use crate::cli::json::Name;
use crate::cli::local_path::local_path;
use crate::cli::profile::home;
use crate::cli::report::{self, complain, count, duration, name, plural, print, size, totals};
use crate::cli::secrets::is_attended;
use crate::cli::{Session, json};

/// Restore files from a snapshot
#[derive(Debug, Args)]
#[command(after_help = RESTORE_HELP)]
#[command(group = ArgGroup::new("where").args(["target", "in_place"]).required(true))]
pub struct RestoreArguments {
    /// The snapshot, and a path in it
    #[arg(value_name = "SNAP[:PATH]")]
    pub snapshot: OsString,
    /// Where to; it may hold something already
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath, value_parser = local_path())]
    pub target: Option<PathBuf>,
    /// Restore each source to where it was when it was backed up
    #[arg(long)]
    pub in_place: bool,
    /// Restore only what matches, a pattern as in .gitignore, or a path as `ls` prints it; can be given again
    #[arg(short, long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// Leave out what matches; can be given again
    #[arg(short, long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Delete what the snapshot does not hold, below what is restored
    #[arg(long)]
    pub delete: bool,
    /// Delete without asking
    #[arg(short, long)]
    pub yes: bool,
    /// Put the content of a directory directly into /, if --target says so
    #[arg(long)]
    pub force: bool,
    /// Restore owners and ACL entries by number, even if this system has a user of the same name
    #[arg(long)]
    pub numeric_ids: bool,
    /// Change nothing; tell what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Read everything again afterwards and compare it with the snapshot
    #[arg(long)]
    pub verify: bool,
    #[command(flatten)]
    pub filters: FilterArguments,
}

const RESTORE_HELP: &str = concat!(
    "\
Only what differs is written, and each file is checked before it takes its place. A snapshot of one directory becomes the \
content of the target; one of several goes below the target, each under its own absolute path; SNAP:PATH restores what lies \
at that path. The report names each source and where it was put. --in-place puts each source back to where it was.
It follows symbolic links above a source, but not the source itself: if a link has replaced the source, the link is replaced and \
its target is not touched.

A target that exists keeps its owner, mode and time, unless it is the directory that was backed up. With --include, so do \
the directories that are there already, unless a pattern matches them.

--delete shows what it would delete and asks; where there is no terminal to ask at, it needs --yes. It never deletes on a \
mounted file system that the backup did not enter (-x), nor what the backup could not read.

Root restores owners: by name where this system has a user or group of that name, otherwise by number. So are the users and \
groups that ACLs name. On a rescue system, \
whose names may have other numbers, use --numeric-ids. Other users keep what they restore, and the report says how many \
names lack something.

Examples:
  treering restore latest --target /tmp/work
  treering restore latest --in-place --include '*.conf'
  treering restore 'midnight yesterday:letters' --target ~/letters --delete --dry-run

",
    snapshot_help!()
);

/// Bytes that are read of an answer.
const MAX_ANSWER: u64 = 64;

/// How many of the names that would be deleted are shown before the question.
const SHOWN_REMOVALS: usize = 20;

/// How many names are shown that the backup could not read.
const SHOWN_UNREAD: usize = 5;

/// How many sources are named in the summary.
const SHOWN_SOURCES: usize = 10;

/// Restores a snapshot, or a path of it.
pub fn run(session: &Session, arguments: &RestoreArguments) -> Result<Exit, CliError> {
    let start = Instant::now();
    let (repository, snapshot, path) = session.find(&arguments.snapshot, &arguments.filters)?;
    let to = arguments.target.as_ref().map_or_else(RestoreOptions::in_place, RestoreOptions::new);
    let options = RestoreOptions {
        path,
        include: arguments.include.iter().map(Pattern::from).collect(),
        exclude: arguments.exclude.iter().map(Pattern::from).collect(),
        home: home(),
        delete: arguments.delete,
        into_root: arguments.force,
        numeric_ids: arguments.numeric_ids,
        dry_run: arguments.dry_run,
        verify: arguments.verify,
        ..to
    };
    let plan = session.watch(|progress| repository.plan_restore(&snapshot, &options, progress))?;
    let report = if options.dry_run {
        plan.into_report()
    } else {
        if !arguments.yes {
            confirm(&plan, &snapshot, &options)?;
        }
        session.watch_lines(|progress| plan.execute(progress))?
    };
    let done = Done { snapshot: &snapshot, options: &options, report: &report, took: start.elapsed() };
    for pattern in &report.unmet {
        complain(&format!(
            "--include {} matches nothing in snapshot {}: `treering ls {}` lists what there is",
            name(pattern.as_bytes()),
            snapshot.name(),
            snapshot.name()
        ));
    }
    if !report.unread.is_empty() {
        complain(&partial(&snapshot, &report));
    }
    if !report.unread_attributes.is_empty() {
        complain(&format!(
            "snapshot {} is partial: the backup could not read all extended attributes of {}, so what is there keeps its own: {}",
            snapshot.name(),
            plural(report.unread_attributes.len() as u64, "name"),
            some_of(&report.unread_attributes)
        ));
    }
    print(|out| {
        let changes = report.changes.iter().map(Change::as_ref);
        session.list_changes(out, base(&options, &report.target), changes, options.dry_run)?;
        session.tell_failures(out, "restore", &report.target, &report.applied.failures)?;
        for (path, mismatch) in &report.mismatches {
            let path = report.target.join(path.as_path());
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

/// What the snapshot lacks of what was restored.
fn partial(snapshot: &Snapshot, report: &RestoreReport) -> String {
    let unread = report.unread.len();
    format!(
        "snapshot {} is partial: the backup could not read {}, so {} not restored: {}",
        snapshot.name(),
        plural(unread as u64, "name"),
        if unread == 1 { "it is" } else { "they are" },
        some_of(&report.unread)
    )
}

/// The first of `paths`, and how many more there are.
fn some_of(paths: &[PathBuf]) -> String {
    let mut names: Vec<_> = paths.iter().take(SHOWN_UNREAD).map(|path| shown(path)).collect();
    let more = paths.len().saturating_sub(SHOWN_UNREAD) as u64;
    names.extend((more > 0).then(|| format!("{} more", count(more))));
    names.join(", ")
}

/// What the paths of changes are printed with. In place, where nobody named the directory that they are relative to, they
/// are whole.
fn base<'a>(options: &RestoreOptions, target: &'a Path) -> &'a Path {
    if options.target == RestoreTarget::InPlace { target } else { Path::new("") }
}

/// Shows at the terminal what `plan` would delete, and goes on only if the person agrees.
fn confirm(plan: &RestorePlan<'_>, snapshot: &Snapshot, options: &RestoreOptions) -> Result<(), CliError> {
    let removals = plan.removals().count();
    if removals == 0 {
        return Ok(());
    }
    let target = || plan.target().to_owned();
    if !is_attended() {
        return Err(CliError::NotConfirmed { names: plural(removals as u64, "name"), target: target() });
    }
    let ask = || -> io::Result<String> {
        let mut out = io::stderr().lock();
        let shown = shown(plan.target());
        let names = plural(removals as u64, "name");
        writeln!(out, "Not in snapshot {}, and to be deleted in {shown}: {names}", snapshot.name())?;
        let removed = plan.removals().take(SHOWN_REMOVALS).map(Change::as_ref);
        report::changes(&mut out, base(options, plan.target()), removed)?;
        if removals > SHOWN_REMOVALS {
            let more = count((removals - SHOWN_REMOVALS) as u64);
            writeln!(out, "… and {more} more; --dry-run lists all of them")?;
        }
        if !plan.is_source() {
            writeln!(out, "{shown} is not the directory that was backed up.")?;
        }
        write!(out, "Delete them? [y/N] ")?;
        out.flush()?;
        let mut answer = String::new();
        io::stdin().lock().take(MAX_ANSWER).read_line(&mut answer)?;
        Ok(answer)
    };
    match ask().map_err(CliError::file("ask at", Path::new("the terminal")))?.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(CliError::Declined),
    }
}

fn shown(path: &Path) -> String {
    name(path.as_os_str().as_encoded_bytes())
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

    fn totals(&self) -> Totals {
        Totals::of(self.report.changes.iter().map(Change::as_ref))
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { snapshot, options, report, took } = self;
        let applied = &report.applied;
        let verb = if options.dry_run { "Would restore" } else { "Restored" };
        match options.target {
            RestoreTarget::InPlace => writeln!(out, "{verb} snapshot {} in place", snapshot.name())?,
            RestoreTarget::Directory(_) => {
                writeln!(out, "{verb} snapshot {} to {}", snapshot.name(), shown(&report.target))?
            }
        }
        for (source, place) in report.sources.iter().take(SHOWN_SOURCES) {
            writeln!(out, "  source   {} -> {}", shown(source), shown(place))?;
        }
        if let more @ 1.. = report.sources.len().saturating_sub(SHOWN_SOURCES) {
            writeln!(out, "           … and {}", plural(more as u64, "source"))?;
        }
        let changes = match (report.changes.is_empty(), applied.failures.len() as u64) {
            (_, 0) => totals(&self.totals()),
            (true, failed) => format!("{} failed", count(failed)),
            (false, failed) => format!("{}, {} failed", totals(&self.totals()), count(failed)),
        };
        writeln!(out, "  changes  {changes}; {} unchanged", count(report.unchanged))?;
        if !options.dry_run {
            write!(out, "  written  {}, {}", plural(applied.files, "file"), size(applied.bytes))?;
            if applied.reused_bytes > 0 {
                write!(out, " ({} of it from the target itself)", size(applied.reused_bytes))?;
            }
            writeln!(out, " in {}", duration(*took))?;
        }
        self.write_spared(out)?;
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
            let rest = if options.dry_run { "would be restored" } else { "is restored" };
            writeln!(out, "  errors   {}; the rest {rest}", count(self.errors()))?;
        }
        Ok(())
    }

    /// What was not deleted although the snapshot does not have it.
    fn write_spared(&self, out: &mut dyn Write) -> io::Result<()> {
        let of = |wanted: Spared| {
            let spared = self.report.spared.iter().filter(move |(_, why)| *why == wanted);
            spared.map(|(path, _)| self.report.target.join(path.as_path()))
        };
        for path in of(Spared::Mount) {
            writeln!(out, "  spared   {}: mounted there, and the backup did not enter it", shown(&path))?;
        }
        match of(Spared::Unreadable).count() as u64 {
            0 => Ok(()),
            names => writeln!(out, "  spared   {} that the backup could not read", plural(names, "name")),
        }
    }

    fn summary(&self) -> serde_json::Value {
        let Self { snapshot, options, report, took } = self;
        let applied = &report.applied;
        let sources = report.sources.iter().map(|(source, place)| {
            let mut object = json!({});
            json::add_names(&mut object, &Name::of_path("source", source));
            json::add_names(&mut object, &Name::of_path("target", place));
            object
        });
        let mut summary = json!({
            "dry_run": options.dry_run,
            "snapshot_id": snapshot.full_name(),
            "sources": sources.collect::<Vec<_>>(),
            "statistics": json::totals(&self.totals()),
            "files_restored": applied.files,
            "bytes_restored": applied.bytes,
            "bytes_reused": applied.reused_bytes,
            "files_deleted": applied.deleted,
            "entries_unchanged": report.unchanged,
            "partial": !report.unread.is_empty() || !report.unread_attributes.is_empty(),
            "entries_unreadable": report.unread.len(),
            "attributes_unreadable": report.unread_attributes.len(),
            "entries_spared": report.spared.len(),
            "includes_unmatched": report.unmet,
            "sockets_skipped": applied.sockets,
            "entries_lacking": report.lacking,
            "files_verified": report.verified,
            "total_duration": took.as_secs_f64(),
            "error_count": self.errors(),
        });
        json::add_names(&mut summary, &Name::of_path("target", &report.target));
        summary
    }
}
