//! `backup`: a new snapshot.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueHint};
use serde::Serialize;
use serde_json::json;
use treering::causes::{chain, is_disk_full};
use treering::diff::LeftOut;
use treering::layers::{LayerInfo, OutOfReach};
use treering::repository::{BackupOptions, BackupReport, Totals, Unread, is_future};
use treering::schedule::Profile;
use treering::timeline::TimeKey;

use crate::cli::commands::push::push_snapshot;
use crate::cli::error::{CliError, Exit};
use crate::cli::json::{Name, Names};
use crate::cli::local_path::local_path;
use crate::cli::profile::or;
use crate::cli::report::{complain, count, duration, leftovers, name, plural, print, size, text, totals};
use crate::cli::scan_arguments::ScanArguments;
use crate::cli::{Session, cache_directory, host_name, json, user_name};

/// Create a snapshot of files and directories
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
What has not changed since the last snapshot of the same directories, or of one that was moved, is not read again, and of what \
has changed only the new bytes are stored. What cannot be read, or is not there while other sources are, is named, the \
rest is saved, and the exit status is 3, also if data of earlier backups is lost or damaged. The repository itself is left out \
where it lies in one of the directories.

A symbolic link is saved as a link, also where it is a source itself; `link/`, with a slash at its end, is the directory that it \
leads to.

Examples:
  treering backup ~/work
  treering backup / -x -e /var/cache -e '*.tmp' --tag weekly
  treering backup -P home
  treering backup ~/work --time '2026-11-01 14:00' --dry-run")]
pub struct BackupArguments {
    /// The directories or files to save; a profile can name them instead
    #[arg(value_name = "DIR", value_hint = ValueHint::AnyPath, value_parser = local_path())]
    pub sources: Vec<PathBuf>,
    #[command(flatten)]
    pub scan: ScanArguments,
    /// Mark the snapshot; can be given again
    #[arg(long, value_name = "TAG", value_delimiter = ',')]
    pub tag: Vec<String>,
    /// The time that the snapshot bears instead of now, such as '2 days ago' or '2026-11-01 14:00'
    #[arg(long)]
    pub time: Option<String>,
    /// The host name that the snapshot bears instead of this one's
    #[arg(short = 'H', long)]
    pub host: Option<String>,
    /// Read every file again, even where nothing seems to have changed, and what is stored of it
    #[arg(short, long)]
    pub force: bool,
    /// Then push to a remote: this one, or the one that `push` alone would choose
    #[arg(long, value_name = "REMOTE", num_args = 0..=1, require_equals = true, conflicts_with = "dry_run")]
    pub push: Option<Option<String>>,
    /// Do not push, though the profile says so
    #[arg(long, conflicts_with = "push")]
    pub no_push: bool,
    /// Save nothing; sum up what would be saved, and with -v name every change
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

impl BackupArguments {
    /// With the flags of `profile` where the command line does not give them.
    pub fn filled(self, profile: &Profile) -> Self {
        let pushes = !profile.push.is_empty() && !self.no_push && !self.dry_run;
        Self {
            sources: or(self.sources, &profile.sources),
            scan: self.scan.filled(profile),
            tag: or(self.tag, &profile.tag),
            host: self.host.or_else(|| profile.host.clone()),
            push: self.push.or(pushes.then_some(None)),
            ..self
        }
    }
}

/// Takes a snapshot.
pub fn run(session: &Session, arguments: &BackupArguments) -> Result<Exit, CliError> {
    let start = Instant::now();
    let arguments = &arguments.clone().filled(&session.profile);
    let options = options(session, arguments)?;
    let mut repository = session.open_with_what_is_given()?;
    if let Some(caches) = cache_directory() {
        repository = repository.with_cache(&caches.join("repositories"))?;
    } else if !repository.is_readable() {
        complain(
            "no place for the cache: set HOME or XDG_CACHE_HOME; without it, each backup to an encrypted repository stores everything again",
        );
    }
    let report = session.watch_lines(|progress| repository.backup(&options, progress))?;
    let changes = report.changes();
    let totals = Totals::of(changes.iter().copied());
    print(|out| {
        session.list_changes(out, Path::new(""), changes.iter().copied(), false)?;
        for left_out in &report.left_out {
            write_left_out(out, session, left_out)?;
        }
        for problem in &report.problems {
            session.tell(out, "backup", &problem.path, problem)?;
        }
        if let Some(unknown) = unknown(&report) {
            complain(&unknown);
        }
        for link in &report.links {
            let advice = match link.is_dir() {
                true => format!("name {}/ to save the directory that it leads to", link.display()),
                false => "name what it leads to, to save that".to_owned(),
            };
            complain(&format!("{} is a symbolic link, and is saved as one: {advice}", link.display()));
        }
        for link in &report.followed {
            complain(&format!(
                "{} was given both with and without a trailing slash: the directory it points to is saved under this name, not \
                 the link",
                link.display()
            ));
        }
        for (source, files) in &report.emptied {
            complain(&format!(
                "{} holds no file, and had {} in the snapshot before: is its file system mounted?",
                source.display(),
                plural(*files, "file"),
            ));
        }
        [base_fault(&report), lost(&report), damaged(&report), out_of_reach(&report)]
            .into_iter()
            .flatten()
            .for_each(|fault| complain(&fault));
        let is_future_key = |key: &str| report.future.iter().any(|name| name.key.to_string() == key);
        let what_follows = match report.parent.as_deref() {
            Some(parent) if is_future_key(parent) => {
                "this backup was compared with it, since there is no other"
            }
            Some(_) => "this backup was compared with an earlier one",
            None => "this backup was compared with none",
        };
        session.warn(&report.future, what_follows);
        if is_future(options.time, options.now) {
            complain(&format!(
                "the snapshot is dated {}, in the future: rules keep it, and until then `latest` means it only where there is no other",
                session.local(options.time)
            ));
        }
        if let Some(error) = &report.cache_error {
            complain(&format!(
                "the cache cannot be written, so the next backup may store more than it must: {}; {}",
                chain(error),
                match is_disk_full(error) {
                    true => "make room there",
                    false => "set XDG_CACHE_HOME to a directory that you may write to",
                }
            ));
        }
        match (session.json, session.quiet) {
            (true, _) => json::message(out, "summary", &summary(&report, &totals, start.elapsed())),
            (false, true) => Ok(()),
            (false, false) => write(out, session, &report, &totals, start.elapsed()),
        }
    })?;
    let remotes = match &arguments.push {
        Some(remote) => session.remotes(remote.as_deref()),
        None => Vec::new(),
    };
    for remote in remotes {
        push_snapshot(session, &repository, remote)?;
    }
    let is_whole = report.problems.is_empty()
        && !is_base_damaged(&report)
        && report.lost.is_empty()
        && report.first_damage.is_none();
    Ok(if is_whole { Exit::Done } else { Exit::Partial })
}

fn options(session: &Session, arguments: &BackupArguments) -> Result<BackupOptions, CliError> {
    let now = session.now.timestamp();
    let defaults = BackupOptions::new(arguments.sources.clone(), now);
    Ok(BackupOptions {
        time: session.time("--time", arguments.time.as_deref())?.unwrap_or(now),
        host: arguments.host.clone().unwrap_or_else(host_name),
        user: user_name(),
        tags: arguments.tag.clone(),
        excludes: arguments.scan.excludes(),
        one_file_system: arguments.scan.one_file_system,
        force: arguments.force,
        dry_run: arguments.dry_run,
        list_left_out: session.verbose,
        ..defaults
    })
}

/// Writes a line for something that was left out on purpose.
fn write_left_out(out: &mut dyn Write, session: &Session, left_out: &LeftOut) -> io::Result<()> {
    let LeftOut { path, rule } = left_out;
    let path = path.as_os_str().as_encoded_bytes();
    if !session.json {
        return writeln!(out, "x  {}: {}", name(path), text(&rule.to_string()));
    }
    #[derive(Serialize)]
    struct Object<'a> {
        #[serde(flatten)]
        path: Name<'a>,
        reason: String,
    }
    json::message(
        out,
        "left_out",
        &Object { path: Name { key: "path", bytes: path }, reason: rule.to_string() },
    )
}

/// What the backup stored again because it could not know it, if it did.
fn unknown(report: &BackupReport) -> Option<String> {
    let Unread { snapshots, volumes, segments } = report.unread;
    let advice = "give the key once with --identity or --password-file, and the cache is made again";
    if snapshots > 0 && report.parent.is_none() {
        return Some(format!(
            "without a key, and the cache knows no earlier snapshot of this: everything was read, and stored whole; {advice}"
        ));
    }
    if segments > 0 {
        return Some(
            "--force cannot check what is stored already without the key: give it with --identity or --password-file".into(),
        );
    }
    (volumes > 0).then(|| {
        let volumes = plural(volumes, "volume");
        format!("without a key, and the cache does not know what is in {volumes}: some of it may have been stored again; {advice}")
    })
}

/// What earlier backups stored and is not there any more, if so.
fn lost(report: &BackupReport) -> Option<String> {
    let first = chain(report.lost.first()?);
    Some(format!(
        "{} of earlier backups cannot be read: what files here have of it was stored again, the rest is lost unless you bring it \
         back; `treering check` tells all ({first})",
        plural(report.lost.len() as u64, "volume"),
    ))
}

/// What describes earlier snapshots and cannot be read, if so.
fn base_fault(report: &BackupReport) -> Option<String> {
    let fault = chain(report.base_fault.as_ref()?);
    Some(match is_base_damaged(report) {
        true => format!(
            "an earlier snapshot is damaged and was not used for comparison ({fault}); `treering check` has the details"
        ),
        false => format!("an earlier snapshot cannot be read now and was not used for comparison: {fault}"),
    })
}

/// Whether what describes earlier snapshots is damaged: the new snapshot is whole, and they are not.
fn is_base_damaged(report: &BackupReport) -> bool {
    report.base_fault.as_ref().is_some_and(|fault| OutOfReach::find(fault).is_none())
}

/// What this backup found damaged that earlier ones stored, if so.
fn damaged(report: &BackupReport) -> Option<String> {
    let first = chain(report.first_damage.as_ref()?);
    Some(format!(
        "data of earlier backups is damaged ({}): what files here have of it was stored again, the rest is lost unless you bring \
         it back; `treering check --read-data` tells all ({first})",
        plural(report.damaged, "segment"),
    ))
}

/// What earlier backups stored and this one could not read since a remote cannot be reached, if so.
fn out_of_reach(report: &BackupReport) -> Option<String> {
    let first = chain(report.first_out_of_reach.as_ref()?);
    Some(format!(
        "data of earlier backups could not be read ({}), so what files here have of it was stored again: {first}",
        plural(report.out_of_reach, "segment"),
    ))
}

fn write(
    out: &mut dyn Write,
    session: &Session,
    report: &BackupReport,
    changes: &Totals,
    took: Duration,
) -> io::Result<()> {
    let statistics = &report.statistics;
    let holds = format!("{}, {}", plural(statistics.files, "file"), size(statistics.bytes));
    match &report.snapshot {
        Some(snapshot) => writeln!(out, "Saved snapshot {}: {holds}", snapshot.name())?,
        None => writeln!(out, "Would save a snapshot: {holds}")?,
    }
    let parent = report.parent.as_deref().filter(|_| !report.is_first);
    if let Some(parent) = parent.and_then(|key| key.parse::<TimeKey>().ok()) {
        writeln!(out, "  since    {}", session.local(parent.time()))?;
    }
    match report.is_first && report.parent.is_some() {
        true => writeln!(out, "  first    of these paths; what it shares with others is not stored again")?,
        false => writeln!(out, "  changes  {}", totals(changes))?,
    }
    if report.unknown > 0 && !report.is_first {
        let names = plural(report.unknown, "name");
        writeln!(out, "  unknown  {names} that could not be read now, or for the snapshot before")?;
    }
    write!(out, "  read     {}, {}", plural(statistics.files_read, "file"), size(statistics.bytes_read))?;
    if report.not_opened > 0 {
        write!(out, "; {} not opened", count(report.not_opened))?;
    }
    writeln!(out, "\n  added    {} in {}", size(statistics.bytes_stored), duration(took))?;
    if let Some(leftovers) = leftovers(&report.swept) {
        writeln!(out, "  {leftovers}")?;
    }
    if !report.problems.is_empty() {
        let rest = if report.snapshot.is_some() { "is saved" } else { "would be saved" };
        writeln!(out, "  errors   {}; the rest {rest}", count(report.problems.len() as u64))?;
    }
    Ok(())
}

fn summary(report: &BackupReport, changes: &Totals, took: Duration) -> serde_json::Value {
    let statistics = &report.statistics;
    let layer = |layer: &LayerInfo| {
        json!({
            "name": layer.name,
            "pack_bytes": layer.pack_bytes,
            "index_bytes": layer.index_bytes,
            "objects_count": layer.objects,
        })
    };
    let record = report.snapshot.as_ref().map(|snapshot| &snapshot.record);
    let mut summary = json!({
        "dry_run": report.snapshot.is_none(),
        "snapshot_id": report.snapshot.as_ref().map(|snapshot| snapshot.full_name()),
        "snapshot_key": report.snapshot.as_ref().map(|snapshot| snapshot.key.to_string()),
        "time": report.snapshot.as_ref().map(|snapshot| snapshot.time().to_string()),
        "hostname": record.map(|record| &record.host),
        "paths": null,
        "parent": report.parent,
        "first_of_paths": report.is_first,
        "statistics": json::totals(changes),
        "entries_unknown": report.unknown,
        "files_new": statistics.files_new,
        "files_changed": statistics.files_changed,
        "files_unmodified": statistics.files_unmodified,
        "files_read": statistics.files_read,
        "files_not_opened": report.not_opened,
        "bytes_read": statistics.bytes_read,
        "data_added_packed": statistics.bytes_stored,
        "layers": report.layers.iter().map(layer).collect::<Vec<_>>(),
        "total_files_processed": statistics.files,
        "total_bytes_processed": statistics.bytes,
        "total_duration": took.as_secs_f64(),
        "error_count": report.problems.len(),
        "snapshots_unread": report.unread.snapshots,
        "volumes_unread": report.unread.volumes,
        "base_fault": report.base_fault.as_ref().map(|fault| chain(fault)),
        "base_damaged": is_base_damaged(report),
        "volumes_lost": report.lost.len(),
        "segments_damaged": report.damaged,
        "segments_out_of_reach": report.out_of_reach,
        "segments_unread": report.unread.segments,
        "leftovers_removed": report.swept.files + report.swept.layers,
        "leftover_bytes": report.swept.bytes,
    });
    if let Some(record) = record {
        json::add_names(&mut summary, &Names::of_paths(&record.roots));
    }
    let emptied = report.emptied.iter().map(|(source, _)| source);
    json::add_names(&mut summary, &Names::new("links", &report.links));
    json::add_names(&mut summary, &Names::new("links_followed", &report.followed));
    json::add_names(&mut summary, &Names::new("emptied", emptied));
    summary
}
